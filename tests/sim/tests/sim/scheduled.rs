//! Timer-activated scripts.

use restart_agent::core::effect::Effect;
use restart_agent::core::entry::{Entry, Written};
use restart_agent::core::event::{Event, Order};
use restart_agent::core::policy::{After, Overdue, ScheduledRules, TargetRules};
use restart_agent::core::seen::{Active, Exit};
use restart_agent::core::status::{State, TargetState};
use sim::host::{Deed, Host, span};
use sim::world::{By, HOUR, MINUTE, MS, OnTerm, S, Script, Unit};

use crate::given::{SCRIPT, adopted, policy, script_host, script_rules, with_target, world};

#[test]
fn a_stale_script_is_stopped_after_its_drain_and_runs_again_at_once() {
    let mut host = script_host(After::Rerun, Script::default(), HOUR);
    host.world.touch("d2");
    assert!(host.run_until(2 * MINUTE, |host| host.state() == Some(State::Converged)));
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
    let runs = &host.world.units[SCRIPT].runs;
    assert_eq!(runs.len(), 2);
    assert_eq!(runs[1].1, By::Agent);
    assert_eq!(host.casualties().len(), 1);
}

/// A child that ignores SIGTERM would outlive its grace, and be ended by systemd's deadline: Result=timeout, and OnFailure= (facts F1.3).
#[test]
fn a_script_that_is_being_stopped_goes_down_the_ladder_though_its_target_has_left_the_configuration() {
    let script = Script { on_term: OnTerm::Exits { status: 143, after: S }, stubborn_child: true, ..Script::default() };
    let mut host = script_host(After::Rerun, script, HOUR);
    host.world.touch("d2");
    let stopping = |host: &Host| host.world.units[SCRIPT].active == Active::Deactivating;
    assert!(host.run_until(2 * MINUTE, stopping));
    let asked = host.world.sent[SCRIPT];
    host.later(S, Deed::Policy(Box::new(policy())));
    assert!(host.run_until(MINUTE, |host| !stopping(host)));
    host.must_be_right();
    let took = host.world.now - asked;
    assert!((20 * S..21 * S).contains(&took), "ended {took} us after it was asked to");
    assert_eq!(host.world.units[SCRIPT].result, "success");
    assert!(host.run_until(MINUTE, Host::quiet));
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
    assert_eq!(host.world.units[SCRIPT].runs.len(), 2, "what was owed to it is paid all the same");
    let ended_by: Vec<_> = host.casualties().into_iter().map(|casualty| casualty.ended_by).collect();
    assert_eq!(ended_by, ["SIGKILL"]);
}

/// The look that is asked for then shows it running, and its answer comes after that of the stop, which has ended it.
#[test]
fn a_script_whose_stop_is_on_its_way_when_its_target_leaves_the_configuration_is_cut_and_runs_again() {
    let begin = || {
        let mut host = script_host(After::Rerun, Script::default(), HOUR);
        (host.world.faults.slowness, host.world.faults.look_takes) = (20, 100 * MS);
        host.world.touch("d2");
        host
    };
    let mut earlier = begin();
    assert!(earlier.run_until(2 * MINUTE, |host| host.world.sent.contains_key(SCRIPT)));
    for later in [MS, 10 * MS, 30 * MS] {
        let mut host = begin();
        host.later(earlier.world.sent[SCRIPT] - host.world.now + later, Deed::Policy(Box::new(policy())));
        assert!(host.run_until(2 * MINUTE, |host| host.memory().cutting.contains_key(SCRIPT)));
        assert!(host.run_until(2 * MINUTE, Host::quiet));
        host.run(S);
        host.settle();
        host.must_be_right();
        assert_eq!((host.casualties().len(), host.world.units[SCRIPT].runs.len()), (1, 2), "{later}");
    }
}

/// What requires it stops first. The next agent finds it at work, with its stop in the queue of systemd.
#[test]
fn a_script_whose_stop_waits_in_the_queue_of_systemd_is_cut_and_runs_again_though_the_agent_is_started_anew() {
    let waits = (100 * MS..2 * S).step_by(100_000).chain([8 * S]);
    for (waits, leaves) in waits.flat_map(|waits| [(waits, false), (waits, true)]) {
        let mut host = script_host(After::Rerun, Script::default(), HOUR);
        host.world.units.get_mut(SCRIPT).unwrap().stop_waits = waits;
        host.world.touch("d2");
        assert!(host.run_until(2 * MINUTE, |host| host.world.sent.contains_key(SCRIPT)));
        host.run(5 * MS);
        if leaves {
            host.deed(Deed::Policy(Box::new(policy())));
        }
        host.kill_agent();
        host.start_agent();
        host.run(MINUTE);
        host.check_at_rest();
        host.must_be_right();
        assert_eq!((host.casualties().len(), host.world.units[SCRIPT].runs.len()), (1, 2), "{waits} {leaves}");
    }
}

/// It was given up when it comes, or is about to be.
#[test]
fn a_script_whose_stop_waits_longer_than_it_is_tried_is_cut_and_runs_again() {
    for waits in [20 * S, 60 * S, 3 * MINUTE, 10 * MINUTE] {
        let mut host = script_host(After::Rerun, Script::default(), HOUR);
        host.world.units.get_mut(SCRIPT).unwrap().stop_waits = waits;
        host.world.touch("d2");
        host.run(waits + 5 * MINUTE);
        host.check_at_rest();
        host.must_be_right();
        assert_eq!((host.casualties().len(), host.world.units[SCRIPT].runs.len()), (1, 2), "{waits}");
    }
}

/// Nobody has sent its ExecStopPost= a signal, which begins when the SIGKILL has ended what ran.
#[test]
fn an_exec_stop_post_that_begins_after_our_sigkill_is_not_stuck_in_the_kernel_though_its_target_has_left_the_configuration() {
    let script = Script { on_term: OnTerm::Ignores, stop_post: HOUR, ..Script::default() };
    let mut host = script_host(After::Rerun, script, HOUR);
    host.world.touch("d2");
    let stopping = |host: &Host| host.world.units[SCRIPT].active == Active::Deactivating;
    assert!(host.run_until(2 * MINUTE, stopping));
    host.later(S, Deed::Policy(Box::new(policy())));
    let stuck = |host: &Host| host.status().problems.iter().any(|why| why.contains("SIGKILL"));
    assert!(host.run_until(MINUTE, |host| !stopping(host) || stuck(host)));
    assert!(!stuck(&host), "{:?}", host.status().problems);
    assert!(host.run_until(MINUTE, Host::quiet));
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
    assert_eq!(host.world.units[SCRIPT].runs.len(), 2);
}

/// Somebody takes its KillMode=process back while its ExecStopPost= runs, and systemd ends what is left by the KillMode= of then.
#[test]
fn what_would_have_outlived_a_script_ends_after_its_exec_stop_post() {
    let mut world = world();
    let script = Script { next_runs: [90 * S].into(), stop_post: 10 * S, leaves: true, ..Script::default() };
    world.add(Unit::script(SCRIPT, script), 60 * S);
    let rules = ScheduledRules { overdue: Some(Overdue::Finish), ..script_rules(After::Rerun) };
    let mut host = adopted(world, with_target(policy(), "maintenance", TargetRules::Scheduled(rules)));
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.world.units[SCRIPT].active == Active::Deactivating));
    host.world.units.get_mut(SCRIPT).unwrap().tidy_up();
    assert!(host.run_until(MINUTE, |host| !host.world.units[SCRIPT].active.runs()));
    assert!(host.world.units[SCRIPT].processes.is_empty());
    has_run(host, 1, "it has ended by itself");
}

/// systemd has judged its exit status by then.
#[test]
fn a_script_that_has_reached_its_checkpoint_does_not_fail_though_its_loan_goes_while_its_exec_stop_post_runs() {
    let mut world = world();
    world.add(Unit::script(SCRIPT, Script { checkpoint: Some(2 * S), stop_post: 10 * S, ..Script::default() }), 60 * S);
    let rules = ScheduledRules { checkpoint_timeout: span(MINUTE), ..script_rules(After::Rerun) };
    let mut host = adopted(world, with_target(policy(), "maintenance", TargetRules::Scheduled(rules)));
    host.world.touch("d2");
    assert!(host.run_until(2 * MINUTE, |host| host.world.units[SCRIPT].active == Active::Deactivating));
    assert_eq!(host.world.units[SCRIPT].exit.map(|exit| exit.how), Some(Exit::Exited(75)));
    host.world.units.get_mut(SCRIPT).unwrap().drop_in = None;
    host.world.reload();
    assert!(host.run_until(MINUTE, |host| !host.world.units[SCRIPT].active.runs()));
    assert_eq!(host.world.units[SCRIPT].result, "success");
    has_run(host, 2, "what it was interrupted in goes on");
}

/// It was lent something; or the rollout would wait for ever for that to be given back.
#[test]
fn a_script_that_has_ended_by_itself_when_the_next_deploy_lands_holds_nothing_up() {
    let ends = Script { next_runs: [75 * S].into(), ..Script::default() };
    let mut host = script_host(After::Rerun, ends, HOUR);
    host.world.add(Unit::script("mediawiki_job_b.service", Script::default()), 60 * S);
    host.world.touch("d2");
    let ended = |host: &Host| !host.world.units[SCRIPT].active.runs();
    assert!(host.run_until(20 * S, ended));
    host.world.touch("d3");
    assert!(host.run_until(2 * MINUTE, |host| host.state() == Some(State::Converged)));
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
}

#[test]
fn of_a_script_that_somebody_else_was_stopping_already_nobody_is_certain_who_ended_it() {
    let slow = Script { on_term: OnTerm::Exits { status: 143, after: 15 * S }, ..Script::default() };
    let mut host = script_host(After::Rerun, slow, HOUR);
    host.world.touch("d2");
    host.later(25 * S, Deed::World("a person stops it", Box::new(|world| drop(world.person("stop", SCRIPT, By::Person)))));
    assert!(host.run_until(2 * MINUTE, |host| host.state() == Some(State::Converged)));
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
    assert_eq!(host.world.units[SCRIPT].runs.len(), 1, "what a person has stopped stays stopped");
    assert_eq!(host.casualties().into_iter().map(|casualty| casualty.certain).collect::<Vec<_>>(), [false]);
}

/// It had written that it would, and nobody knows that it did.
#[test]
fn of_what_ended_while_the_agent_was_dead_that_was_about_to_stop_it_nobody_is_certain_who_ended_it() {
    let mut host = script_host(After::Rerun, Script::default(), HOUR);
    host.later(50 * S, Deed::World("a person stops it", Box::new(|world| drop(world.person("stop", SCRIPT, By::Person)))));
    host.world.touch("d2");
    assert!(host.run_until(2 * MINUTE, |host| host.memory().cutting.get(SCRIPT).is_some_and(|cutting| cutting.begun)));
    host.deed(Deed::KillAgent(MINUTE));
    host.run(2 * MINUTE);
    host.settle();
    host.must_be_right();
    assert!(host.world.cuts.is_empty());
    assert_eq!(host.casualties().into_iter().map(|casualty| casualty.certain).collect::<Vec<_>>(), [false]);
}

/// Its child ignores that, and is ended by our SIGKILL: that says nothing of the script.
#[test]
fn of_what_a_person_has_stopped_and_a_child_outlives_nobody_is_certain_who_ended_it() {
    let slow = Script { on_term: OnTerm::Exits { status: 1, after: 8 * S }, stubborn_child: true, ..Script::default() };
    let mut host = script_host(After::Rerun, slow, HOUR);
    host.world.touch("d2");
    host.later(25 * S, Deed::World("a person stops it", Box::new(|world| drop(world.person("stop", SCRIPT, By::Person)))));
    assert!(host.run_until(2 * MINUTE, |host| host.state() == Some(State::Converged)));
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
    let told: Vec<_> = host.casualties().into_iter().map(|casualty| (casualty.ended_by, casualty.certain)).collect();
    assert_eq!(told, [("SIGKILL".to_owned(), false)]);
}

fn asking(after: After, script: Script) -> Host {
    let mut host = script_host(after, script, HOUR);
    let mut asks = host.policy.clone();
    for rules in asks.targets.values_mut() {
        if let TargetRules::Scheduled(rules) = rules {
            rules.checkpoint_timeout = span(40 * S);
        }
    }
    host.deed(Deed::Policy(Box::new(asks)));
    host
}

/// It is asked after its drain, and its exit status 75 says "run me again": no signal, no casualty, no failure.
#[test]
fn a_script_that_reaches_a_checkpoint_when_asked_is_run_again_and_was_not_cut() {
    for after in [After::Rerun, After::Auto, After::UntilNext] {
        let mut host = asking(after, Script { checkpoint: Some(7 * S), ..Script::default() });
        host.world.touch("d2");
        assert!(host.run_until(MINUTE, |host| host.world.asked.contains(SCRIPT)));
        assert_eq!(host.status().targets[0].state, TargetState::Asked);
        assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
        host.run(S);
        host.check_at_rest();
        host.must_be_right();
        assert!(host.casualties().is_empty());
        let runs: Vec<By> = host.world.units[SCRIPT].runs.iter().skip(1).map(|(_, by)| *by).collect();
        assert_eq!(runs, if after == After::UntilNext { vec![] } else { vec![By::Agent] }, "{after:?}");
        assert_eq!(host.memory().interrupted[SCRIPT].times, 1);
    }
}

/// The next agent has not come to asking it yet: exit status 75 is an answer to the one before.
#[test]
fn a_script_that_reaches_its_checkpoint_when_the_agent_has_just_started_again_is_run_again() {
    for early in 0..40 {
        let mut host = asking(After::Rerun, Script { checkpoint: Some(20 * S), ..Script::default() });
        host.world.touch("d2");
        assert!(host.run_until(MINUTE, |host| host.world.asked.contains(SCRIPT)));
        host.run(10 * S);
        host.kill_agent();
        host.run(10 * S - early * MS);
        host.start_agent();
        assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
        host.run(S);
        host.check_at_rest();
        host.must_be_right();
        assert!(host.casualties().is_empty());
        assert_eq!(host.world.units[SCRIPT].runs.len(), 2, "{early} ms before the checkpoint");
        assert_eq!(host.memory().interrupted[SCRIPT].times, 1, "{early} ms before the checkpoint");
    }
}

/// Each rollout asks it, and a newer deploy has given it another drain when the next agent starts.
#[test]
fn a_script_that_reaches_its_checkpoint_in_the_drain_of_the_next_deploy_is_interrupted_once_more() {
    let mut host = asking(After::Rerun, Script { checkpoint: Some(20 * S), ..Script::default() });
    host.world.touch("d2");
    assert!(host.run_until(2 * MINUTE, |host| host.world.units[SCRIPT].runs.len() == 2));
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
    host.world.touch("d3");
    assert!(host.run_until(MINUTE, |host| host.world.asked.contains(SCRIPT)));
    host.world.touch("d4");
    host.run(10 * S);
    host.kill_agent();
    host.start_agent();
    assert!(host.run_until(2 * MINUTE, |host| host.state() == Some(State::Converged)));
    host.settle();
    host.must_be_right();
    assert_eq!(host.world.units[SCRIPT].runs.len(), 3);
    assert_eq!(host.memory().interrupted[SCRIPT].times, 2);
}

#[test]
fn a_script_that_does_not_listen_is_stopped_after_it_was_asked_t27() {
    let mut host = asking(After::Rerun, Script::default());
    host.world.touch("d2");
    let begun = host.world.now;
    assert!(host.run_until(2 * MINUTE, |host| host.world.units[SCRIPT].active == Active::Deactivating || host.casualties().len() == 1));
    let took = host.world.now - begun;
    assert!((70 * S..73 * S).contains(&took), "stopped after {took} us");
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
}

#[test]
fn a_script_that_holds_its_lock_is_spared_until_it_lets_go_and_no_longer_than_its_cap_t26_t27() {
    for (holds, spared) in [(60 * S + 100 * S, 60 * S), (60 * S + 1000 * S, 300 * S)] {
        let mut host = script_host(After::Rerun, Script { holds, ..Script::default() }, HOUR);
        host.world.touch("d2");
        let begun = host.world.now;
        assert!(host.run_until(50 * S, |host| host.status().targets[0].units.iter().any(|unit| unit.state == TargetState::Held)));
        assert!(host.run_until(10 * MINUTE, |host| !host.casualties().is_empty()));
        let took = host.world.now - begun;
        assert!((30 * S + spared..33 * S + spared).contains(&took), "stopped after {took} us, for {holds}");
        assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
        let why = host.memory().last_rollout.clone().unwrap().units.remove(0).why;
        assert_eq!(why.contains("still held its lock after hold_timeout, 5m"), spared == 300 * S, "{why}");
        host.check_at_rest();
        host.must_be_right();
    }
}

/// The drain goes on by the rules with which it began; the lock is spared by those that are there when the signal is due.
#[test]
fn a_script_that_holds_its_lock_when_the_rules_change_in_its_drain_is_spared_by_the_new_ones_from_the_end_of_that_drain() {
    let mut host = script_host(After::Rerun, Script { holds: HOUR, ..Script::default() }, HOUR);
    host.world.touch("d2");
    let begun = host.world.now;
    let rules = ScheduledRules { drain_timeout: span(5 * MINUTE), hold_timeout: span(20 * S), ..script_rules(After::Rerun) };
    host.later(5 * S, Deed::Policy(Box::new(with_target(policy(), "maintenance", TargetRules::Scheduled(rules)))));
    assert!(host.run_until(10 * MINUTE, |host| !host.casualties().is_empty()));
    let took = host.world.now - begun;
    assert!((50 * S..53 * S).contains(&took), "stopped after {took} us");
    host.settle();
    host.must_be_right();
}

/// What runs through between two deploys is not interrupted in a row, also if nobody was at work to see it.
#[test]
fn a_script_that_runs_through_between_deploys_is_never_let_finish() {
    let next_runs = (1..20).map(|_| 10 * MINUTE).collect();
    let mut host = script_host(After::Rerun, Script { next_runs, lasts: 10 * MINUTE, ..Script::default() }, 24 * HOUR);
    for n in 2..8 {
        host.world.touch(&format!("d{n}"));
        host.run(S);
        assert!(host.run_until(2 * MINUTE, |host| host.state() == Some(State::Converged)));
        assert_eq!(host.casualties().len(), n - 1, "{:?}", host.status().targets[0].units);
        // Its rerun ends, and its next scheduled run has begun.
        host.run(30 * MINUTE);
        assert!(host.run_until(25 * HOUR, |host| host.world.units[SCRIPT].active.runs()));
        host.run(MINUTE);
    }
    host.must_be_right();
}

/// Starvation: the fourth deploy lets it finish, and says so.
#[test]
fn a_script_that_was_interrupted_too_often_is_let_finish_once_t28() {
    let mut host =
        script_host(After::Rerun, Script { next_runs: [HOUR, HOUR, HOUR, 5 * MINUTE].into(), lasts: HOUR, ..Script::default() }, 24 * HOUR);
    for n in 2..5 {
        host.world.touch(&format!("d{n}"));
        host.run(S);
        assert!(host.run_until(2 * MINUTE, |host| host.state() == Some(State::Converged)));
        host.run(10 * S);
    }
    assert_eq!(host.casualties().len(), 3);
    host.world.touch("d5");
    host.run(60 * S);
    let unit = host.status().targets[0].units[0].clone();
    assert_eq!((unit.state, unit.why.contains("3 times in a row")), (TargetState::Left, true), "{unit:?}");
    assert_eq!(host.casualties().len(), 3);
    host.run(10 * MINUTE);
    assert_eq!(host.memory().interrupted.get(SCRIPT), None, "it has ended by itself");
    host.must_be_right();
}

/// It began after one deploy and before the next, and nobody told of the end of the run before it: its drain is counted from the next.
#[test]
fn a_run_between_two_deploys_has_a_drain_of_its_own() {
    let script = Script { next_runs: [85 * S].into(), ..Script::default() };
    let mut host = script_host(After::Rerun, script, MINUTE);
    host.world.faults.lost_hints = 100;
    host.deed(Deed::SpoilStamp(restart_agent::core::deploy::StampFault::Missing { path: String::new() }));
    host.deed(Deed::Touch("d2".to_owned()));
    let read = host.world.stamp.clone();
    host.feed(restart_agent::core::event::Event::Stamp(read));
    let second = |host: &Host| host.world.units[SCRIPT].runs.len() == 2;
    host.world.faults.systemd_away_until = host.world.now + 29 * S;
    assert!(host.run_until(28 * S, second));
    host.run(S);
    host.deed(Deed::Touch("d3".to_owned()));
    let landed = host.world.now;
    let read = host.world.stamp.clone();
    host.feed(restart_agent::core::event::Event::Stamp(read));
    host.world.faults.lost_hints = 0;
    assert!(host.run_until(2 * MINUTE, |host| host.world.sent.contains_key(SCRIPT)));
    assert!(host.world.now - landed >= 30 * S, "stopped {} us after the deploy", host.world.now - landed);
    assert!(host.run_until(2 * MINUTE, |host| host.state() == Some(State::Converged)));
    host.must_be_right();
}

/// Whoever looks in each of the next so many milliseconds is told what is so, and all comes to rest.
fn is_right_at_every_moment(mut host: Host, moments: u32) {
    for _ in 0..moments {
        host.run(MS);
        let read = host.world.stamp.clone();
        host.feed(Event::Stamp(read));
    }
    host.settle();
    host.must_be_right();
}

/// A slot that has passed starts it as soon as what was lent for the stop is taken back, which is before we do. That run is the one that is owed.
#[test]
fn what_its_timer_has_started_before_the_agent_could_is_not_started_again() {
    let runs = |host: &Host| host.world.units[SCRIPT].runs.len();
    let by_timer = || {
        let mut host = script_host(After::Rerun, Script { next_runs: [HOUR, 2 * S].into(), ..Script::default() }, 70 * S);
        host.world.touch("d2");
        assert!(host.run_until(MINUTE, |host| runs(host) == 2));
        assert_eq!(host.world.units[SCRIPT].runs[1].1, By::Timer);
        host
    };
    // The agent dies, and comes back when that run is over.
    let mut host = by_timer();
    host.deed(Deed::KillAgent(10 * S));
    host.run(20 * S);
    assert_eq!(runs(&host), 2);
    host.settle();
    host.must_be_right();
    // A newer deploy than that run: whoever looks is told that it is stale, at whatever moment.
    let mut host = by_timer();
    host.order(Order::Trigger { force: false, override_hold: false, targets: None, reason: None });
    is_right_at_every_moment(host, 3000);
}

/// That run is new for the deploy before: whoever looks is told that it is stale, at whatever moment.
#[test]
fn what_was_started_again_right_before_a_deploy_landed_is_not_called_new() {
    let lives = |landed: Option<u64>| {
        let mut host = script_host(After::Rerun, Script::default(), HOUR);
        let mut policy = host.policy.clone();
        policy.stamp.settle = span(10 * MS);
        host.deed(Deed::Policy(Box::new(policy)));
        host.world.faults.slowness = 20;
        host.world.touch("d2");
        if let Some(landed) = landed {
            host.later(landed - host.world.now, Deed::Touch("d3".to_owned()));
        }
        assert!(host.run_until(MINUTE, |host| host.world.units[SCRIPT].runs.len() == 2));
        host
    };
    let started = lives(None).world.units[SCRIPT].runs[1].0;
    for later in 1..=20 {
        let host = lives(Some(started + later * MS));
        is_right_at_every_moment(host, 500);
    }
}

/// What it leaves behind, systemd is ending by then, and we end for good.
#[test]
fn one_that_ends_at_a_checkpoint_and_leaves_a_child_behind_runs_again() {
    let leaves = || asking(After::Rerun, Script { checkpoint: Some(2 * S), stubborn_child: true, ..Script::default() });
    let stopping = |host: &Host| host.world.sent.contains_key(SCRIPT);
    for dies in [false, true] {
        let mut host = leaves();
        host.world.touch("d2");
        assert!(host.run_until(2 * MINUTE, stopping));
        if dies {
            host.run(S);
            host.deed(Deed::KillAgent(2 * S));
        }
        assert!(host.run_until(2 * MINUTE, |host| host.state() == Some(State::Converged)));
        host.settle();
        host.must_be_right();
        assert_eq!(host.world.units[SCRIPT].runs.len(), 2, "dies: {dies}");
        assert_eq!(host.casualties().len(), 0);
    }
}

/// Nothing of it is code any more when the next agent looks, which has no part in how it ends.
#[test]
fn one_that_an_earlier_agent_has_asked_and_whose_child_is_still_ending_runs_again() {
    let mut host = asking(After::Rerun, Script { checkpoint: Some(5 * S), stubborn_child: true, ..Script::default() });
    let mut only_php = host.policy.clone();
    for rules in only_php.targets.values_mut() {
        if let TargetRules::Scheduled(rules) = rules {
            rules.code = vec!["php*".to_owned()];
        }
    }
    host.deed(Deed::Policy(Box::new(only_php)));
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.world.asked.contains(SCRIPT)));
    host.kill_agent();
    host.run(6 * S);
    assert_eq!(host.world.units[SCRIPT].active, Active::Deactivating);
    host.start_agent();
    host.run(5 * MINUTE);
    host.settle();
    host.must_be_right();
    assert_eq!(host.world.units[SCRIPT].runs.len(), 2);
}

/// An agent that goes on from there looks for no slot any more: it is written down before.
#[test]
fn a_slot_that_came_while_a_script_was_kept_quiet_is_made_up_for_though_the_agent_dies_as_soon_as_it_is_not() {
    let slow = Script { on_term: OnTerm::Exits { status: 143, after: 2 * S }, stubborn_child: true, ..Script::default() };
    for down in [50 * MS, 40 * S] {
        let mut host = script_host(After::UntilNext, slow.clone(), HOUR);
        host.world.touch("d2");
        let kept = |host: &Host| host.world.quiet.contains(SCRIPT) && !host.world.units[SCRIPT].active.runs();
        assert!(host.run_until(2 * MINUTE, kept));
        let slot = host.world.now + 2 * S;
        host.world.timer(SCRIPT, HOUR, slot);
        host.world.faults.reload_fails_until = slot + S;
        assert!(host.run_until(MINUTE, |host| host.memory().quiet.is_empty()));
        host.kill_agent();
        host.run(down);
        host.start_agent();
        assert!(host.run_until(MINUTE, Host::quiet));
        host.run(S);
        host.check_at_rest();
        host.must_be_right();
        assert_eq!(host.world.units[SCRIPT].runs.len(), 2, "it has run for its slot");
    }
}

/// Somebody ends that just when the next deploy lands, which finds it asked for what was there.
#[test]
fn one_that_is_stale_for_what_an_earlier_run_has_left_behind_has_no_other_drain_when_that_is_gone() {
    let mut world = world();
    let leaves = Script { next_runs: [5 * S].into(), stubborn_child: true, leaves: true, ..Script::default() };
    world.add(Unit::script(SCRIPT, leaves), 60 * S);
    world.add(Unit::script("mediawiki_job_b.service", Script::default()), 60 * S);
    let slot = world.now + 15 * S;
    world.timer(SCRIPT, HOUR, slot);
    let rules = ScheduledRules { checkpoint_timeout: span(40 * S), ..script_rules(After::Rerun) };
    let mut host = adopted(world, with_target(policy(), "maintenance", TargetRules::Scheduled(rules)));
    assert_eq!(host.world.units[SCRIPT].processes.len(), 1, "it has ended, and left something behind");
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.world.asked.contains(SCRIPT)));
    host.run(20 * S);
    host.world.units.get_mut(SCRIPT).unwrap().tidy_up();
    host.world.touch("d3");
    assert!(host.run_until(25 * S, |host| host.world.sent.contains_key(SCRIPT)));
    has_run(host, 3, "it is stopped once");
}

/// It ends by our SIGKILL, since it is stale. Its timer would have started it then, and does, once it may.
#[test]
fn the_slot_of_one_that_a_person_has_stopped_is_not_skipped_for_good() {
    for dies in [false, true] {
        let mut host = script_host(After::UntilNext, Script { on_term: OnTerm::Ignores, ..Script::default() }, 0);
        let slot = host.world.now + 40 * S;
        host.world.timer(SCRIPT, HOUR, slot);
        host.world.touch("d2");
        host.later(20 * S, Deed::World("a person stops it", Box::new(|world| drop(world.person("stop", SCRIPT, By::Person)))));
        assert!(host.run_until(2 * MINUTE, |host| host.world.kill_sent.contains_key(SCRIPT)));
        if dies {
            host.deed(Deed::KillAgent(2 * S));
        }
        assert!(host.run_until(2 * MINUTE, |host| host.state() == Some(State::Converged)));
        host.settle();
        host.must_be_right();
        assert_eq!(host.world.units[SCRIPT].runs.len(), 2, "dies: {dies}");
    }
}

/// systemd says since when it stops it. A restart that our stop has cancelled, whoever asked for it is told of.
#[test]
fn one_that_a_person_stops_between_our_look_and_our_stop_is_that_persons() {
    let lives = |stopped: Option<(&'static str, u64)>| {
        let slow = Script { on_term: OnTerm::Exits { status: 0, after: 2 * S }, ..Script::default() };
        let mut host = script_host(After::Rerun, slow, HOUR);
        host.world.touch("d2");
        if let Some((verb, at)) = stopped {
            let after = at - host.world.now;
            host.later(after, Deed::World("a person", Box::new(|world| drop(world.person(verb, SCRIPT, By::Person)))));
        }
        assert!(host.run_until(2 * MINUTE, |host| host.world.sent.contains_key(SCRIPT)));
        host
    };
    let asked = lives(None).world.sent[SCRIPT];
    for (verb, earlier) in ["stop", "restart"].into_iter().flat_map(|verb| (1..=5).map(move |earlier| (verb, earlier))) {
        let mut host = lives(Some((verb, asked - earlier * MS / 2)));
        host.settle();
        host.must_be_right();
        assert!(verb == "restart" || host.world.units[SCRIPT].runs.len() == 1);
    }
}

/// A slot has come while it ran, and the host goes down before its timer fires for that: what it does after the boot is of its schedule.
#[test]
fn the_timer_of_one_that_we_have_stopped_starts_it_as_ever_when_the_host_has_gone_down() {
    let mut host = script_host(After::UntilNext, Script { next_runs: [HOUR, 10 * S].into(), ..Script::default() }, 0);
    let slot = host.world.now + 20 * S;
    host.world.timer(SCRIPT, 10 * MINUTE, slot);
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| !host.world.units[SCRIPT].active.runs()));
    host.deed(Deed::Reboot(5 * S));
    host.run(10 * MINUTE);
    has_run(host, 2, "its next slot has come");
}

/// An agent dies in its stop of that one, and the next one sees it end. Nothing is owed, also if the host goes down later.
#[test]
fn one_that_a_person_was_restarting_already_stays_quiet_though_the_host_goes_down() {
    let slow = Script { on_term: OnTerm::Exits { status: 0, after: 5 * S }, ..Script::default() };
    let mut host = script_host(After::Rerun, slow, HOUR);
    host.world.touch("d2");
    host.later(29 * S, Deed::World("a person", Box::new(|world| drop(world.person("restart", SCRIPT, By::Person)))));
    assert!(host.run_until(2 * MINUTE, |host| host.world.sent.contains_key(SCRIPT)));
    host.run(20 * MS);
    host.deed(Deed::KillAgent(10 * S));
    host.run(MINUTE);
    host.deed(Deed::Reboot(S));
    has_run(host, 1, "rebooted");
}

/// Nobody has seen that run, and our stop ends it all the same.
#[test]
fn one_that_a_person_restarts_between_our_look_and_our_stop_runs_again() {
    let lives = |restarted: Option<u64>| {
        let mut host = script_host(After::Rerun, Script::default(), HOUR);
        host.world.faults.look_takes = 40 * MS;
        host.world.touch("d2");
        if let Some(at) = restarted {
            let after = at - host.world.now;
            host.later(after, Deed::World("a person", Box::new(|world| drop(world.person("restart", SCRIPT, By::Person)))));
        }
        assert!(host.run_until(2 * MINUTE, |host| host.world.sent.contains_key(SCRIPT)));
        host
    };
    let asked = lives(None).world.sent[SCRIPT];
    for earlier in 1..=7 {
        for killed in [false, true] {
            let mut host = lives(Some(asked - earlier * 5 * MS));
            if killed {
                host.run(S / 100);
                host.deed(Deed::KillAgent(S));
            }
            has_run(host, 3, &format!("{} ms earlier", earlier * 5));
        }
    }
}

/// The run that we saw was being stopped by whoever has started the one that our stop finds.
#[test]
fn one_that_a_person_has_restarted_while_it_took_its_time_to_end_runs_again() {
    let lives = |slowness: u64, earlier: u64, killed: Option<u64>| {
        let slow = Script { on_term: OnTerm::Exits { status: 143, after: 100 * MS }, ..Script::default() };
        let mut host = script_host(After::Rerun, slow, HOUR);
        host.world.faults.look_takes = 40 * MS;
        host.world.faults.slowness = slowness;
        host.world.touch("d2");
        assert!(host.run_until(2 * MINUTE, |host| host.memory().rollout.is_some()));
        let after = 30 * S + slowness * 20 * MS - earlier * 10 * MS;
        host.later(after, Deed::World("a person", Box::new(|world| drop(world.person("restart", SCRIPT, By::Person)))));
        let sent = host.run_until(2 * MINUTE, |host| host.world.sent.contains_key(SCRIPT));
        if let Some(later) = killed.filter(|_| sent) {
            host.later(later * 20 * MS, Deed::KillAgent(S));
        }
        host.run(2 * MINUTE);
        host.settle();
        host.must_be_right();
        host
    };
    for slowness in [0, 20] {
        let mut found = 0;
        for earlier in 1..=60 {
            let host = lives(slowness, earlier, None);
            // A casualty that nobody had seen is of that run.
            if let [casualty] = host.casualties().as_slice()
                && casualty.pid == 0
            {
                found += 1;
                assert!(casualty.certain);
                assert_eq!(host.world.units[SCRIPT].runs.len(), 3);
                // Who comes after an agent that died does not know when its stop was done, and may not run again what began in between.
                for later in 0..10 {
                    let runs = lives(slowness, earlier, Some(later)).world.units[SCRIPT].runs.len();
                    assert!(runs == 3 || slowness > 0, "{earlier} {later}");
                }
            }
        }
        assert!(found > 1, "{found}");
    }
}

/// The agent has died before it sent its stop, and the next one has seen that; then a person stops it, and the agent is about to.
#[test]
fn one_that_a_person_stops_after_our_stop_was_lost_is_that_persons() {
    for steps in [1, 2] {
        let slow = Script { on_term: OnTerm::Exits { status: 143, after: 2 * S }, stubborn_child: true, steps, ..Script::default() };
        let mut host = script_host(After::Rerun, slow, HOUR);
        host.world.faults.slowness = 10;
        host.world.touch("d2");
        let stop = |host: &Host| host.memory().open.values().any(|open| matches!(open, Effect::Stop { .. }));
        assert!(host.run_until(2 * MINUTE, stop));
        host.deed(Deed::KillAgent(50 * MS));
        let lost = |written: &Written| matches!(written.entry, Entry::CutSettled { happened: false, .. });
        assert!(host.run_until(S, |host| host.journal.iter().any(lost)));
        assert!(host.world.person("stop", SCRIPT, By::Person).is_ok());
        has_run(host, 1, &format!("{steps}"));
    }
}

/// It begins, by a person's doing, while our stop of the run before goes on, and so soon after the next deploy has landed that it counts as old.
#[test]
fn one_that_a_person_restarts_in_our_stop_and_the_next_deploy_makes_stale_is_begun_with_again() {
    for phase in 0..10 {
        let after = 3 * S + phase * 50 * MS;
        let mut host = script_host(After::Rerun, Script { on_term: OnTerm::Exits { status: 143, after }, ..Script::default() }, HOUR);
        host.world.faults.look_takes = 30 * MS;
        host.world.touch("d2");
        assert!(host.run_until(2 * MINUTE, |host| host.world.units[SCRIPT].stop.is_some()));
        host.later(after - 30 * MS, Deed::Touch("d3".to_owned()));
        host.run(200 * MS);
        assert!(host.world.person("restart", SCRIPT, By::Person).is_ok());
        has_run(host, 3, &format!("{phase}"));
    }
}

/// It is systemd's own deadline that ends it; our SIGKILL ends what it has left behind.
#[test]
fn of_what_had_ended_before_our_sigkill_nobody_is_certain_who_ended_it() {
    let mut host = script_host(After::Rerun, Script { on_term: OnTerm::Ignores, stop_post: HOUR, ..Script::default() }, HOUR);
    assert!(host.world.person("stop", SCRIPT, By::Person).is_ok());
    host.run(40 * S);
    host.world.touch("d2");
    assert!(host.run_until(2 * MINUTE, |host| host.world.kill_sent.contains_key(SCRIPT)));
    assert!(host.world.units[SCRIPT].exit.is_some(), "it had ended by then");
    has_run(host, 1, "a person has stopped it");
}

/// Two minutes later all is in order, and it has run so often.
fn has_run(mut host: Host, times: usize, what: &str) {
    host.run(2 * MINUTE);
    host.settle();
    host.must_be_right();
    assert_eq!(host.world.units[SCRIPT].runs.len(), times, "{what}");
}

/// With its loan SIGTERM is a success, whoever sends it.
#[test]
fn one_of_several_commands_that_a_person_stops_while_its_loan_is_on_its_way_stays_stopped() {
    let host = || {
        let mut host = script_host(After::Rerun, Script { steps: 2, ..Script::default() }, HOUR);
        host.world.touch("d2");
        host
    };
    let mut lent = host();
    assert!(lent.run_until(2 * MINUTE, |host| host.world.units[SCRIPT].in_force.is_some()));
    let in_force = lent.world.now;
    assert!(lent.run_until(2 * MINUTE, |host| host.world.sent.contains_key(SCRIPT)));
    let asked = lent.world.now;
    for part in 1..8 {
        let mut host = host();
        let after = in_force + (asked - in_force) * part / 8 - host.world.now;
        host.later(after, Deed::World("a person", Box::new(|world| drop(world.person("stop", SCRIPT, By::Person)))));
        has_run(host, 1, &format!("part {part}"));
    }
}

#[test]
fn what_goes_on_with_old_code_is_told_as_soon_as_systemd_answers() {
    let mut host = script_host(After::Rerun, Script::default(), HOUR);
    host.world.units.get_mut(SCRIPT).unwrap().refuse_stop = true;
    host.world.touch("d2");
    assert!(host.run_until(2 * MINUTE, |host| host.state() == Some(State::Converged)));
    host.world.faults.systemd_away_until = host.world.now + 10 * S;
    host.deed(Deed::KillAgent(S));
    host.run(13 * S);
    let status = host.status();
    let told: Vec<_> = status.targets.iter().flat_map(|target| &target.units).map(|unit| (unit.unit.as_str(), unit.state)).collect();
    assert_eq!(told, [(SCRIPT, TargetState::Left)]);
    host.settle();
    host.must_be_right();
}

/// With what it is lent for its stop its next command does not run: that is our doing, though nobody has stopped it.
#[test]
fn one_of_several_commands_that_ends_as_its_last_while_the_agent_is_away_runs_again() {
    let commands = Script { steps: 3, next_runs: [105 * S].into(), ..Script::default() };
    let mut host = script_host(After::Rerun, commands, HOUR);
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.world.units[SCRIPT].exec_reset()));
    host.deed(Deed::KillAgent(20 * S));
    host.run(10 * S);
    assert_eq!(host.world.units[SCRIPT].active, Active::Inactive);
    host.settle();
    host.must_be_right();
    assert_eq!(host.world.units[SCRIPT].runs.len(), 2);
}

/// One whose slot comes while it runs, and that leaves something behind which is stale only after a minute.
fn settling(after: After, script: Script, slot: u64) -> Host {
    let mut world = world();
    world.add(Unit::script(SCRIPT, script), 60 * S);
    let phase = world.now + slot;
    world.timer(SCRIPT, HOUR, phase);
    let rules =
        ScheduledRules { checkpoint_timeout: span(40 * S), settle_after: span(MINUTE), quiet_within: span(0), ..script_rules(after) };
    adopted(world, with_target(policy(), "maintenance", TargetRules::Scheduled(rules)))
}

/// The same: its slot that has passed is no other run than the one that it is owed.
#[test]
fn one_of_several_commands_that_ends_as_its_last_while_the_agent_is_away_settles_before_it_runs_again() {
    for (after, runs) in [(After::Rerun, 2), (After::UntilNext, 1)] {
        let mut host = settling(after, Script { steps: 3, next_runs: [105 * S].into(), ..Script::default() }, 42 * S);
        host.world.touch("d2");
        assert!(host.run_until(MINUTE, |host| host.world.units[SCRIPT].exec_reset()));
        host.deed(Deed::KillAgent(20 * S));
        host.run(10 * S);
        assert_eq!(host.world.units[SCRIPT].active, Active::Inactive);
        has_run(host, runs, &format!("{after:?}"));
    }
}

/// Whether it runs again, and when, its rules say.
#[test]
fn one_that_ends_at_a_checkpoint_before_an_agent_without_a_configuration_starts_waits_for_its_rules() {
    for (after, runs) in [(After::Rerun, 2), (After::Auto, 2), (After::UntilNext, 1)] {
        let mut host = settling(after, Script { checkpoint: Some(10 * S), ..Script::default() }, 42 * S);
        host.world.touch("d2");
        assert!(host.run_until(MINUTE, |host| host.world.asked.contains(SCRIPT)));
        host.deed(Deed::ConfigProblem(Some("config.toml:7: unknown key".to_owned())));
        host.deed(Deed::KillAgent(20 * S));
        host.run(30 * S);
        assert!(!host.world.units[SCRIPT].active.runs());
        assert!(!host.world.quiet.contains(SCRIPT), "its timer may start it");
        host.run(5 * MINUTE);
        assert_eq!(host.world.units[SCRIPT].runs.len(), 1, "{after:?}");
        host.deed(Deed::ConfigProblem(None));
        has_run(host, runs, &format!("{after:?}"));
    }
}

/// It is kept quiet until what was done to it is taken back.
#[test]
fn the_slot_of_one_that_ends_just_when_it_is_let_finish_is_made_up_for() {
    for earlier in [350, 400, 450] {
        let lives = |lasts: u64| {
            let mut world = world();
            world.add(Unit::script(SCRIPT, Script { next_runs: [lasts, 10 * S].into(), ..Script::default() }), 60 * S);
            let slot = world.now + 30 * S;
            world.timer(SCRIPT, HOUR, slot);
            // To take that back takes a while.
            let [ask, unask] = ["ask", "unask"].map(|name| vec![format!("/usr/local/bin/{name}-{{unit}}")]);
            let rules = script_rules(After::Rerun);
            let rules = ScheduledRules { overdue: Some(Overdue::Finish), checkpoint_timeout: span(20 * S), ask, unask, ..rules };
            let mut host = adopted(world, with_target(policy(), "maintenance", TargetRules::Scheduled(rules)));
            host.world.touch("d2");
            host
        };
        let mut host = lives(HOUR);
        assert!(host.run_until(2 * MINUTE, |host| host.world.asked.contains(SCRIPT)));
        assert!(host.run_until(2 * MINUTE, |host| !host.world.quiet.contains(SCRIPT)));
        let ends = host.world.now - host.world.units[SCRIPT].main_start - earlier * MS;
        let host = lives(ends);
        has_run(host, 2, &format!("{earlier} ms earlier"));
    }
}

/// systemd gives up what is left of it, which it may not kill, when it has waited twice, and its slot has come by then. What it leaves behind runs on.
#[test]
fn the_slot_of_one_that_leaves_something_behind_before_it_is_let_finish_is_made_up_for() {
    for held in [false, true] {
        let mut world = world();
        let script = Script { next_runs: [90 * S, 10 * S].into(), stubborn_child: true, spares: true, ..Script::default() };
        world.add(Unit::script(SCRIPT, script), 60 * S);
        let slot = world.now + 50 * S;
        world.timer(SCRIPT, HOUR, slot);
        let rules = ScheduledRules { overdue: Some(Overdue::Finish), checkpoint_timeout: span(3 * MINUTE), ..script_rules(After::Rerun) };
        let mut host = adopted(world, with_target(policy(), "maintenance", TargetRules::Scheduled(rules)));
        host.world.touch("d2");
        assert!(host.run_until(4 * MINUTE, |host| host.world.units[SCRIPT].missed_slot));
        if held {
            host.deed(Deed::Order(Order::Hold { reason: "a dump".to_owned(), span: span(MINUTE), targets: None }));
        }
        host.run(3 * MINUTE);
        has_run(host, 2, &format!("held: {held}"));
    }
}

/// Its last command had ended, and left something behind that was stopped; the agent dies before it lets its timer start it.
#[test]
fn the_slot_of_one_of_several_commands_that_had_ended_before_its_loan_is_made_up_for() {
    let commands = Script { steps: 2, next_runs: [80 * S, 10 * S].into(), stubborn_child: true, ..Script::default() };
    let mut host = script_host(After::Rerun, commands, 0);
    host.world.touch("d2");
    assert!(host.run_until(2 * MINUTE, |host| host.world.sent.contains_key(SCRIPT)));
    assert_eq!(host.world.units[SCRIPT].active, Active::Deactivating);
    assert!(host.run_until(2 * MINUTE, |host| !host.world.units[SCRIPT].active.runs()));
    let slot = host.world.now + 100 * MS;
    host.world.timer(SCRIPT, HOUR, slot);
    let settled = |written: &Written| matches!(written.entry, Entry::CutSettled { .. });
    assert!(host.run_until(50 * MS, |host| host.journal.iter().any(settled)));
    host.deed(Deed::KillAgent(10 * S));
    host.run(9 * S);
    has_run(host, 2, "its slot came while it was kept quiet");
}

/// A slot that had passed by its end is skipped; then systemd does not answer for a while, in which another one comes.
#[test]
fn the_slot_that_comes_while_systemd_does_not_answer_is_made_up_for() {
    let mut host = script_host(After::UntilNext, Script { next_runs: [HOUR, 10 * S].into(), ..Script::default() }, 34 * S);
    host.world.touch("d2");
    assert!(host.run_until(2 * MINUTE, |host| !host.world.units[SCRIPT].active.runs()));
    host.run(50 * MS);
    host.world.faults.systemd_away_until = host.world.now + 20 * S;
    assert!(host.run_until(30 * S, |host| host.world.units[SCRIPT].missed_slot));
    assert!(host.run_until(20 * S, |host| host.world.units[SCRIPT].runs.len() == 2), "its next slot is later");
    host.must_be_right();
    host.settle();
    host.must_be_right();
}

/// A person stops it after it was asked, and before we do, and it goes on to its checkpoint: it says that it is to be run again.
#[test]
fn one_that_heeds_what_it_was_asked_while_a_person_stops_it_runs_again_when_it_has_settled() {
    for (after, runs) in [(After::Rerun, 2), (After::UntilNext, 1)] {
        let script = Script { checkpoint: Some(18 * S), on_term: OnTerm::Ignores, next_runs: [HOUR, 10 * S].into(), ..Script::default() };
        let mut host = settling(after, script, 42 * S);
        let mut changed = host.policy.clone();
        if let Some(TargetRules::Scheduled(rules)) = changed.targets.get_mut("maintenance") {
            rules.checkpoint_timeout = span(10 * S);
        }
        host.deed(Deed::Policy(Box::new(changed)));
        host.world.touch("d2");
        assert!(host.run_until(MINUTE, |host| host.world.asked.contains(SCRIPT)));
        let _ = host.world.person("stop", SCRIPT, By::Person);
        assert!(host.run_until(MINUTE, |host| host.world.sent.contains_key(SCRIPT)));
        assert!(host.run_until(MINUTE, |host| host.world.units[SCRIPT].checkpointed));
        host.run(2 * S);
        host.must_be_right();
        has_run(host, runs, &format!("{after:?}"));
    }
}

/// One is asked to stop and has long for that; another one, which began after the first deploy, is stale only for the next.
#[test]
fn a_script_that_only_the_next_deploy_makes_stale_does_not_wait_for_one_that_was_asked() {
    const LATER: &str = "mediawiki_job_b.service";
    let mut world = world();
    world.add(Unit::script(SCRIPT, Script::default()), 60 * S);
    world.add(Unit::script(LATER, Script::default()), 0);
    let rules = ScheduledRules { drain_timeout: span(10 * S), checkpoint_timeout: span(5 * MINUTE), ..script_rules(After::Rerun) };
    let mut host = adopted(world, with_target(policy(), "maintenance", TargetRules::Scheduled(rules)));
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.world.asked.contains(SCRIPT)));
    let _ = host.world.person("start", LATER, By::Person);
    host.run(5 * S);
    host.world.touch("d3");
    assert!(host.run_until(15 * S, |host| host.world.asked.contains(LATER)), "it waits for the other one");
    host.run(10 * MINUTE);
    assert_eq!(host.state(), Some(State::Converged));
    host.settle();
    host.must_be_right();
}

/// What was done to it is being taken back when the rules change, by which it was let finish.
#[test]
fn a_script_that_is_let_finish_no_more_when_the_rules_change_is_stopped() {
    for after in (1500 * MS..5 * S).step_by(100_000) {
        let mut host = asking(After::Rerun, Script::default());
        let of_now = host.policy.clone();
        let mut of_before = of_now.clone();
        for rules in of_before.targets.values_mut() {
            if let TargetRules::Scheduled(rules) = rules {
                (rules.checkpoint_timeout, rules.overdue) = (span(2 * S), Some(Overdue::Finish));
            }
        }
        host.deed(Deed::Policy(Box::new(of_before)));
        host.world.touch("d2");
        assert!(host.run_until(MINUTE, |host| host.world.asked.contains(SCRIPT)));
        host.world.faults.reload_fails_until = host.world.now + 6 * S;
        host.later(after, Deed::Policy(Box::new(of_now)));
        assert!(host.run_until(5 * MINUTE, |host| host.state() == Some(State::Converged)));
        host.run(S);
        host.check_at_rest();
        has_run(host, 2, &format!("the rules change {} ms after its request", after / MS));
    }
}

/// By the newer rules it may not be stopped, or by them its stop would start one of two units.
#[test]
fn a_script_that_holds_its_lock_when_the_rules_change_by_which_it_may_be_stopped_goes_on() {
    for overdue in [Some(Overdue::Finish), None] {
        let stop = || ScheduledRules { overdue: Some(Overdue::Stop), hold_timeout: span(5 * MINUTE), ..script_rules(After::Rerun) };
        let of_now = ScheduledRules { overdue, ..stop() };
        let rules = |rules| with_target(policy(), "maintenance", TargetRules::Scheduled(rules));
        let mut world = world();
        world.add(Unit::script(SCRIPT, Script { holds: 160 * S, ..Script::default() }), 60 * S);
        let unit = world.units.get_mut(SCRIPT).unwrap();
        (unit.on_success, unit.on_failure) = (overdue.is_none(), overdue.is_none());
        let mut host = adopted(world, rules(stop()));
        host.world.touch("d2");
        assert!(host.run_until(MINUTE, |host| host.world.quiet.contains(SCRIPT)));
        host.run(5 * S);
        host.deed(Deed::Policy(Box::new(rules(of_now))));
        host.run(2 * MINUTE);
        host.must_be_right();
        assert!(host.status().targets[0].units.iter().any(|unit| unit.unit == SCRIPT && unit.state == TargetState::Left));
        has_run(host, 1, &format!("overdue = {overdue:?}"));
    }
}

/// In its drain, when it was asked, and while it holds its lock.
#[test]
fn a_script_that_is_excluded_before_it_is_stopped_goes_on() {
    for (checkpoint_timeout, holds, after) in [(0, 0, 20 * S), (MINUTE, 0, 50 * S), (0, 10 * MINUTE, 50 * S)] {
        let rules = ScheduledRules { checkpoint_timeout: span(checkpoint_timeout), ..script_rules(After::Rerun) };
        let excludes = ScheduledRules { exclude: vec![SCRIPT.to_owned()], ..rules.clone() };
        let mut host = script_host(After::Rerun, Script { holds, ..Script::default() }, HOUR);
        host.deed(Deed::Policy(Box::new(with_target(policy(), "maintenance", TargetRules::Scheduled(rules)))));
        host.world.touch("d2");
        host.run(after);
        host.deed(Deed::Policy(Box::new(with_target(policy(), "maintenance", TargetRules::Scheduled(excludes)))));
        let converged = host.run_until(3 * MINUTE, |host| host.state() == Some(State::Converged));
        host.must_be_right();
        assert!(converged, "after {} s", after / S);
        has_run(host, 1, &format!("it was excluded after {} s", after / S));
    }
}

/// Its last command, which not even SIGKILL ends, is given up by systemd: how the one before has ended, which was before its stop, says nothing.
#[test]
fn one_of_several_commands_that_is_given_up_by_systemd_stays_quiet() {
    let commands = Script { steps: 2, next_runs: [65 * S].into(), unkillable_for: 10 * MINUTE, spares: true, ..Script::default() };
    let mut host = script_host(After::UntilNext, commands, 0);
    let slot = host.world.now + MINUTE;
    host.world.timer(SCRIPT, HOUR, slot);
    host.world.touch("d2");
    assert!(host.run_until(5 * MINUTE, |host| !host.world.units[SCRIPT].active.runs()));
    assert!(!host.world.units[SCRIPT].processes.is_empty());
    host.run(10 * MINUTE);
    has_run(host, 1, "its slot came while it ran");
}

/// Its loan waits for the one that another is being lent: what forbids its stop may come before anything is lent for that.
#[test]
fn one_of_several_commands_is_not_stopped_once_that_is_forbidden_before_it_is_lent_anything() {
    const OTHER: &str = "mediawiki_job_b.service";
    let rules = ScheduledRules { drain_timeout: span(0), ..script_rules(After::Rerun) };
    let finish = ScheduledRules { overdue: Some(Overdue::Finish), ..rules.clone() };
    let finish = Deed::Policy(Box::new(with_target(policy(), "maintenance", TargetRules::Scheduled(finish))));
    let hold = Deed::Order(Order::Hold { reason: "a person".to_owned(), span: span(MINUTE), targets: None });
    for (deed, goes_on) in [(finish, true), (hold, false)] {
        let mut world = world();
        world.add(Unit::script(SCRIPT, Script { steps: 2, lasts: HOUR, ..Script::default() }), 60 * S);
        world.add(Unit::script(OTHER, Script { lasts: HOUR, ..Script::default() }), 60 * S);
        let mut host = adopted(world, with_target(policy(), "maintenance", TargetRules::Scheduled(rules.clone())));
        host.world.touch("d2");
        let due = |written: &Written| matches!(&written.entry, Entry::RerunOwed { unit, lent: true, .. } if unit == SCRIPT);
        assert!(host.run_until(MINUTE, |host| host.journal.iter().any(due)));
        assert!(!host.memory().lent.contains(SCRIPT), "it is lent nothing yet");
        host.deed(deed);
        host.run(30 * S);
        host.must_be_right();
        assert!(!host.world.sent.contains_key(SCRIPT) && !host.memory().reruns.contains_key(SCRIPT));
        host.run(2 * MINUTE);
        host.must_be_right();
        assert_eq!(!host.world.sent.contains_key(SCRIPT), goes_on, "a hold is over some time");
        host.settle();
        host.must_be_right();
    }
}
