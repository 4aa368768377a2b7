//! Scripts that take their time, and what has to wait for them.

use restart_agent::core::policy::{After, Overdue, ScheduledRules, TargetRules};
use restart_agent::core::seen::Active;
use restart_agent::core::status::{State, TargetState};
use sim::host::{Deed, Host, span};
use sim::world::{By, Fpm, HOUR, MINUTE, OnTerm, S, Script, Unit};

use super::starts_by_agent;
use crate::given::{FPM, SCRIPT, adopted, fpm_rules, policy, script_host, script_rules, with_target, world};

fn done(host: &mut Host) {
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
}

/// One that ends with 0, 143 or by the signal has not failed. Another status is its own word, and OnFailure= hears it; the unit is not left failed
/// for that, since it was interrupted. The next run is whole.
#[test]
fn however_long_a_script_takes_over_sigterm_it_is_left_failed_by_nobody_t24() {
    let ways = [
        (OnTerm::Dies, 0, "SIGTERM"),
        (OnTerm::Exits { status: 0, after: 5 * S }, 0, "SIGTERM"),
        (OnTerm::Exits { status: 143, after: 5 * S }, 0, "SIGTERM"),
        (OnTerm::Exits { status: 1, after: 5 * S }, 1, "SIGTERM"),
        (OnTerm::Exits { status: 0, after: 10 * MINUTE }, 0, "SIGKILL"),
        (OnTerm::Ignores, 0, "SIGKILL"),
    ];
    for (on_term, failures, ended_by) in ways {
        let mut host = script_host(After::UntilNext, Script { on_term, ..Script::default() }, HOUR);
        host.world.touch("d2");
        assert!(host.run_until(2 * MINUTE, |host| host.state() == Some(State::Converged)), "{on_term:?}");
        assert_eq!(host.world.units[SCRIPT].active, Active::Inactive, "{on_term:?}");
        assert_eq!(host.world.units[SCRIPT].fired.1, failures, "{on_term:?}: OnFailure=");
        assert_eq!(host.casualties().into_iter().map(|cut| cut.ended_by).collect::<Vec<_>>(), [ended_by], "{on_term:?}");
        done(&mut host);
        // The slot of its timer, and nothing before it.
        assert!(host.run_until(HOUR, |host| host.world.units[SCRIPT].active == Active::Activating));
        host.run(10 * MINUTE);
        let runs = &host.world.units[SCRIPT].runs;
        assert_eq!((runs.len(), runs[1].1), (2, By::Timer), "{on_term:?}: {runs:?}");
        assert_eq!(host.world.units[SCRIPT].active, Active::Activating, "{on_term:?}: its next run is whole");
    }
}

/// A slot in the drain, in the grace, and right after both: the run of that slot is not made up for, and the next slot is not lost.
#[test]
fn a_slot_in_the_middle_of_a_rollout_is_neither_run_twice_nor_the_last_t25() {
    for slot in [5 * S, 29 * S, 33 * S, 40 * S, 52 * S] {
        let slow = Script { on_term: OnTerm::Exits { status: 143, after: 15 * S }, ..Script::default() };
        let mut host = script_host(After::UntilNext, slow, 0);
        let phase = host.world.now + slot;
        host.world.timer(SCRIPT, 10 * MINUTE, phase);
        host.world.touch("d2");
        host.run(S);
        assert!(host.run_until(2 * MINUTE, |host| host.state() == Some(State::Converged)), "{slot}");
        host.run(11 * MINUTE);
        let runs: Vec<_> = host.world.units[SCRIPT].runs.iter().skip(1).map(|(at, by)| (*at, *by)).collect();
        let first = if slot > 46 * S { phase } else { phase + 10 * MINUTE };
        let near = |at: u64| at.abs_diff(first) < S;
        assert!(matches!(runs[..], [(at, By::Timer)] if near(at)), "{slot}: {runs:?}, not one at {first}");
        host.must_be_right();
    }
}

/// A dump of a day that its rules let finish, beside php-fpm and a short script, over three deploys.
#[test]
fn one_long_job_stops_nothing_else_t35() {
    let dump = "mediawiki_dump.service";
    let mut world = world();
    world.add(Unit::script(dump, Script { lasts: 24 * HOUR, on_term: OnTerm::Ignores, ..Script::default() }), MINUTE);
    world.add(Unit::script(SCRIPT, Script::default()), MINUTE);
    world.add(Unit::fpm(FPM, Fpm::default()), HOUR);
    let rules = ScheduledRules { units: vec![dump.to_owned()], overdue: Some(Overdue::Finish), ..script_rules(After::Rerun) };
    let policy = with_target(policy(), "dumps", TargetRules::Scheduled(rules));
    let policy = with_target(policy, "jobs", TargetRules::Scheduled(script_rules(After::Rerun)));
    let mut host = adopted(world, with_target(policy, "web", TargetRules::PhpFpm(fpm_rules())));
    for n in 1..=3_usize {
        host.world.touch(&format!("d{}", n + 1));
        host.run(S);
        assert!(host.run_until(2 * MINUTE, |host| host.state() == Some(State::Converged)), "{:?}", host.status());
        assert_eq!((starts_by_agent(&host, SCRIPT), starts_by_agent(&host, FPM)), (n, n));
        let view = host.status().targets.into_iter().find(|target| target.name == "dumps").unwrap();
        assert_eq!(view.state, TargetState::Left, "{view:?}");
        host.run(MINUTE);
    }
    assert_eq!(host.world.units[dump].runs.len(), 1);
    assert!(host.world.units[dump].processes.values().all(|process| process.signalled.is_none()), "it was signalled");
    host.must_be_right();
}

/// Drain, asking, lock and grace are one sum: what makes use of all four ends with it, before systemd's own time-out would make it a failure.
#[test]
fn all_that_a_script_is_given_adds_up_once_t36() {
    for (n, holds) in [0, 10 * HOUR].into_iter().enumerate() {
        let script = Script { on_term: OnTerm::Ignores, holds, stubborn_child: true, ..Script::default() };
        let mut host = script_host(After::Rerun, script, 24 * HOUR);
        for other in ["mediawiki_job_b.service", "mediawiki_job_c.service"] {
            host.world.add(Unit::script(other, Script { on_term: OnTerm::Ignores, ..Script::default() }), 30 * S);
        }
        let mut policy = host.policy.clone();
        for rules in policy.targets.values_mut() {
            if let TargetRules::Scheduled(rules) = rules {
                rules.checkpoint_timeout = span(40 * S);
            }
        }
        host.deed(Deed::Policy(Box::new(policy)));
        host.run(S);
        host.world.touch("d2");
        let landed = host.world.now;
        // 30 s of drain, 40 s after it was asked, 300 s for its lock, 20 s after SIGTERM.
        let sum = (30 + 40 + 20) * S + n as u64 * 300 * S;
        assert!(host.run_until(10 * MINUTE, |host| host.state() == Some(State::Converged)), "{:?}", host.status());
        let took = host.world.now - landed;
        assert!((sum..sum + 5 * S).contains(&took), "{took} us of {sum}");
        // What `wait` waits for by itself, but for a minute more.
        assert!(span(took) < host.machine().unwrap().longest(), "{:?}", host.machine().unwrap().longest());
        assert!(host.world.units.values().all(|unit| unit.fired.1 == 0), "one has failed");
        done(&mut host);
        assert_eq!(host.casualties().len(), 3);
    }
}
