//! Processes outside of every unit of a target.

use std::time::Duration;

use restart_agent::core::event::Order;
use restart_agent::core::policy::{After, Overdue, ScheduledRules, StrayAction, StrayRules, TargetRules};
use restart_agent::core::status::{State, TargetState};
use sim::host::{Deed, Host};
use sim::world::{MINUTE, OnTerm, S, Script, Stray, Unit, Us};

use crate::given::{SCRIPT, adopted, policy, script_rules, with_target, world};

pub const DIES: u32 = 11;
pub const STUBBORN: u32 = 12;
pub const SLOW: u32 = 13;
pub const OUT_OF_REACH: u32 = 14;

pub fn host(action: StrayAction) -> Host {
    let mut world = world();
    world.add_stray(DIES, "/user.slice/user-33.slice/session-1.scope", true, OnTerm::Dies);
    world.add_stray(STUBBORN, "/user.slice/user-33.slice/session-1.scope", true, OnTerm::Ignores);
    world.add_stray(SLOW, "/system.slice/cron.service", false, OnTerm::Exits { status: 0, after: 3 * S });
    world.add_stray(OUT_OF_REACH, "/system.slice/website.service", false, OnTerm::Dies);
    adopted(world, with_target(policy(), "strays", rules(action)))
}

fn rules(action: StrayAction) -> TargetRules {
    let (drain_timeout, term_timeout) = (Duration::from_secs(10), Duration::from_secs(8));
    TargetRules::Strays(StrayRules { code: vec!["php*".to_owned()], action, drain_timeout, term_timeout })
}

/// They were added in the order of their pids.
pub fn stray(host: &Host, pid: u32) -> &Stray {
    &host.world.strays[(pid - DIES) as usize]
}

/// Each of the three in reach was sent its signals and is a casualty, once; the one that is not in reach goes on.
pub fn stopped_once(host: &Host) -> Result<(), String> {
    let casualties = host.casualties();
    for (pid, how) in [(DIES, "SIGTERM"), (STUBBORN, "SIGKILL"), (SLOW, "SIGTERM")] {
        let ended = stray(host, pid).ends.is_some_and(|ends| ends <= host.world.now);
        let of: Vec<_> = casualties.iter().filter(|casualty| casualty.pid == pid).collect();
        if !ended || of.len() != 1 || of[0].ended_by != how {
            return Err(format!("{pid}: ended {ended}, {of:?}"));
        }
    }
    let spared = stray(host, OUT_OF_REACH);
    let untouched = (spared.ends, spared.terms, spared.kills) == (None, 0, 0) && casualties.len() == 3;
    if untouched { Ok(()) } else { Err(format!("{OUT_OF_REACH} was touched: {casualties:?}")) }
}

/// What the earlier agent was told of its signals it could not write down any more, and neither can the next one what it would send.
#[test]
fn strays_that_an_earlier_agent_has_signalled_are_told_as_cut_though_the_disk_is_full() {
    for full in [S, 5 * S, MINUTE] {
        let mut host = host(StrayAction::Stop);
        host.world.touch("d2");
        assert!(host.run_until(5 * MINUTE, |host| stray(host, SLOW).terms == 1));
        host.deed(Deed::DiskFull);
        host.kill_agent();
        host.start_agent();
        host.run(full);
        host.deed(Deed::DiskGood);
        host.run(5 * MINUTE);
        host.check_at_rest();
        host.must_be_right();
        assert_eq!(stopped_once(&host), Ok(()), "{full}");
    }
}

/// A look reads all of /proc, and nothing is to be done before the journal can be written.
#[test]
fn one_that_an_earlier_agent_has_signalled_is_not_looked_at_all_the_time_while_the_disk_is_full() {
    let mut host = host(StrayAction::Stop);
    host.world.touch("d2");
    assert!(host.run_until(5 * MINUTE, |host| stray(host, STUBBORN).terms == 1));
    host.deed(Deed::DiskFull);
    host.kill_agent();
    host.start_agent();
    host.run(20 * S);
    let before = host.effects;
    host.run(MINUTE);
    assert!(host.effects - before <= 20, "{}", host.effects - before);
    let strays = host.status().targets.into_iter().find(|target| target.name == "strays").unwrap();
    let stubborn = strays.units.iter().find(|unit| unit.process.as_ref().is_some_and(|process| process.pid == STUBBORN)).unwrap();
    assert_eq!(stubborn.state, TargetState::Stopping, "{}", stubborn.why);
    host.deed(Deed::DiskGood);
    host.run(5 * MINUTE);
    host.check_at_rest();
    host.must_be_right();
    assert_eq!(stopped_once(&host), Ok(()));
}

/// By the first SIGTERM it ends just as the next agent, which does not know of it, sends another.
#[test]
fn a_stray_that_ends_by_what_an_earlier_agent_has_sent_it_is_a_casualty_though_the_next_signal_does_not_find_it() {
    for away in (2 * S..3 * S).step_by(50_000) {
        let mut host = host(StrayAction::Stop);
        host.world.touch("d2");
        assert!(host.run_until(5 * MINUTE, |host| stray(host, SLOW).terms == 1));
        host.kill_agent();
        host.run(away);
        host.world.faults.slowness = 50;
        host.start_agent();
        host.run(10 * S);
        host.world.faults.slowness = 0;
        host.run(5 * MINUTE);
        host.check_at_rest();
        host.must_be_right();
        assert_eq!(stopped_once(&host), Ok(()), "{away}");
    }
}

/// Nothing waits for them, so nothing is looked at all the time.
#[test]
fn strays_that_were_left_are_looked_at_twice_a_minute_and_not_at_all_when_they_have_ended() {
    let mut host = host(StrayAction::Report);
    host.world.touch("d2");
    host.run(S);
    assert!(host.run_until(5 * MINUTE, |host| host.state() == Some(State::Converged)));
    host.run(S);
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

/// What the deploy before had left is told on meanwhile.
#[test]
fn a_deploy_that_lands_while_only_strays_are_held_has_not_been_reached_by_them() {
    let mut host = host(StrayAction::Stop);
    host.world.touch("d2");
    host.run(S);
    assert!(host.run_until(5 * MINUTE, |host| host.state() == Some(State::Converged)));
    let targets = Some(["strays".to_owned()].into());
    host.deed(Deed::Order(Order::Hold { reason: "a person".to_owned(), span: Duration::from_secs(60), targets }));
    host.world.add_stray(21, "/user.slice/user-33.slice/session-1.scope", true, OnTerm::Dies);
    host.run(S);
    host.world.touch("d3");
    host.run(30 * S);
    assert_ne!(host.state(), Some(State::Converged));
    host.run(2 * MINUTE);
    host.check_at_rest();
    host.must_be_right();
    let stray = host.world.strays.iter().find(|stray| stray.seen.process.pid == 21).unwrap();
    assert_eq!((stray.terms, stray.kills), (1, 0));
}

/// As long as the script runs it is its target's.
#[test]
fn what_a_script_leaves_behind_is_told_also_if_it_ends_long_after_strays_were_looked_for() {
    let mut world = world();
    world.add(Unit::script(SCRIPT, Script { lasts: 5 * MINUTE, ..Script::default() }), MINUTE);
    world.add_stray(21, &format!("/system.slice/{SCRIPT}"), false, OnTerm::Dies);
    let finish = ScheduledRules { overdue: Some(Overdue::Finish), ..script_rules(After::Rerun) };
    let policy = with_target(policy(), "maintenance", TargetRules::Scheduled(finish));
    let mut host = adopted(world, with_target(policy, "strays", rules(StrayAction::Stop)));
    host.world.touch("d2");
    host.run(MINUTE);
    let told = |host: &Host| {
        let strays = host.status().targets.into_iter().find(|target| target.name == "strays").unwrap();
        strays.units.into_iter().map(|unit| (unit.process.unwrap().pid, unit.state)).collect::<Vec<_>>()
    };
    assert_eq!((host.state(), told(&host)), (Some(State::Converged), Vec::new()));
    assert!(host.run_until(10 * MINUTE, |host| !host.world.units[SCRIPT].active.runs()));
    host.run(2 * S);
    assert_eq!(told(&host), [(21, TargetState::Left)]);
    host.check_at_rest();
    host.must_be_right();
}

/// It ends between the last look at what was given up and the next deploy.
#[test]
fn a_stray_that_was_given_up_and_has_ended_when_the_next_deploy_lands_is_a_casualty() {
    for ends in (0..40).map(|n| n * S) {
        let mut host = host(StrayAction::Stop);
        let until = host.world.now + 5 * MINUTE;
        host.world.strays[(STUBBORN - DIES) as usize].stuck_until = until;
        host.world.touch("d2");
        assert!(host.run_until(4 * MINUTE, |host| host.state() == Some(State::Failed)), "{:?}", host.status());
        host.later(until - host.world.now + ends, Deed::Touch("d3".to_owned()));
        host.run(until - host.world.now + 3 * MINUTE);
        host.check_at_rest();
        host.must_be_right();
        assert_eq!(stopped_once(&host), Ok(()), "{ends}");
    }
}
