//! Processes outside of every unit of a target.

use std::time::Duration;

use restart_agent::core::policy::{StrayAction, StrayRules, TargetRules};
use restart_agent::core::status::State;
use sim::host::Host;
use sim::world::{MINUTE, MS, OnTerm, S, Us};
use sim::{host::Crash, world::Stray};

use crate::given::{adopted, policy, with_target, world};

const DIES: u32 = 11;
const STUBBORN: u32 = 12;
const SLOW: u32 = 13;
const OUT_OF_REACH: u32 = 14;

fn host(action: StrayAction) -> Host {
    let mut world = world();
    world.add_stray(DIES, "/user.slice/user-33.slice/session-1.scope", true, OnTerm::Dies);
    world.add_stray(STUBBORN, "/user.slice/user-33.slice/session-1.scope", true, OnTerm::Ignores);
    world.add_stray(SLOW, "/system.slice/cron.service", false, OnTerm::Exits { status: 0, after: 3 * S });
    world.add_stray(OUT_OF_REACH, "/system.slice/website.service", false, OnTerm::Dies);
    let (drain_timeout, term_timeout) = (Duration::from_secs(10), Duration::from_secs(8));
    let rules = StrayRules { code: vec!["php*".to_owned()], action, drain_timeout, term_timeout };
    adopted(world, with_target(policy(), "strays", TargetRules::Strays(rules)))
}

/// They were added in the order of their pids.
fn stray(host: &Host, pid: u32) -> &Stray {
    &host.world.strays[(pid - DIES) as usize]
}

fn ended(host: &Host, pid: u32) -> bool {
    stray(host, pid).ends.is_some_and(|ends| ends <= host.world.now)
}

/// The rollout of a deploy, in which the agent may die once.
fn deploy(action: StrayAction, crash: Option<Crash>) -> (Host, u64) {
    let mut host = host(action);
    let before = host.points;
    host.crash = crash.map(|crash| Crash { at: before + crash.at, ..crash });
    host.world.touch("d2");
    host.run(S);
    assert!(host.run_until(5 * MINUTE, |host| host.state() == Some(State::Converged)), "{crash:?}: {:?}", host.state());
    let points = host.points - before;
    host.crash = None;
    host.run(S);
    assert!(host.world.wrong.is_empty(), "{crash:?}: {:?}", host.world.wrong);
    (host, points)
}

fn ensure_stopped_once(host: &Host, crash: Option<Crash>) {
    for (pid, how) in [(DIES, "SIGTERM"), (STUBBORN, "SIGKILL"), (SLOW, "SIGTERM")] {
        assert!(ended(host, pid), "{crash:?}: {pid} lives");
        let of: Vec<_> = host.casualties().into_iter().filter(|casualty| casualty.pid == pid).collect();
        assert_eq!(of.len(), 1, "{crash:?}: {pid}: {of:?}");
        assert_eq!(of[0].ended_by, how, "{crash:?}: {pid}");
        assert!(of[0].certain || crash.is_some(), "{pid}");
    }
    let spared = stray(host, OUT_OF_REACH);
    assert_eq!((spared.ends, spared.terms, spared.kills), (None, 0, 0), "{crash:?}");
    assert_eq!(host.casualties().len(), 3, "{crash:?}");
}

#[test]
fn those_in_reach_are_stopped_and_recorded_once_wherever_the_agent_dies_t06() {
    let (host, points) = deploy(StrayAction::Stop, None);
    ensure_stopped_once(&host, None);
    assert_eq!((stray(&host, STUBBORN).terms, stray(&host, STUBBORN).kills), (1, 1));
    assert!(points > 20, "{points}");
    for down in [50 * MS, 40 * S] {
        for at in 0..points {
            let crash = Some(Crash { at, down });
            let (host, _) = deploy(StrayAction::Stop, crash);
            ensure_stopped_once(&host, crash);
        }
    }
}

#[test]
fn what_is_only_reported_or_told_is_sent_no_signal() {
    for action in [StrayAction::Report, StrayAction::Notify] {
        let (host, points) = deploy(action, None);
        for at in 0..points {
            let (host, _) = deploy(action, Some(Crash { at, down: 50 * MS }));
            let told = |pid: u32| host.world.told.iter().filter(|told| **told == pid).count();
            assert!((1..=4).all(|n| told(10 + n) <= 1), "{action:?}, {at}: {:?}", host.world.told);
        }
        assert!(host.world.strays.iter().all(|stray| stray.terms + stray.kills == 0), "{action:?}");
        assert!(host.casualties().is_empty(), "{action:?}");
        let expected: &[u32] = if action == StrayAction::Notify { &[DIES, STUBBORN, SLOW] } else { &[] };
        let mut told: Vec<u32> = host.world.told.clone();
        told.sort_unstable();
        assert_eq!(told, expected, "{action:?}");
    }
}

/// Nothing waits for them, so nothing is looked at all the time.
#[test]
fn strays_that_were_left_are_looked_at_twice_a_minute_and_not_at_all_when_they_have_ended() {
    let (mut host, _) = deploy(StrayAction::Report, None);
    let effects = |host: &mut Host, span: Us| {
        let before = host.effects;
        host.run(span);
        host.effects - before
    };
    assert!((15..=25).contains(&effects(&mut host, 10 * MINUTE)));
    let now = host.world.now;
    host.world.strays.iter_mut().for_each(|stray| stray.ends = Some(now));
    host.run(MINUTE);
    assert_eq!(effects(&mut host, 10 * MINUTE), 0);
}
