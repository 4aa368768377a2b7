//! Long-running services.

use restart_agent::core::effect::Effect;
use restart_agent::core::entry::{Entry, Written};
use restart_agent::core::event::{Event, Order};
use restart_agent::core::policy::{Overdue, ServiceRules, TargetRules};
use restart_agent::core::status::{State, UnitEnd};
use sim::host::{Deed, Host, span};
use sim::world::{Body, By, Daemon, HOUR, MINUTE, MS, OnTerm, S, Starts, Unit, Us};

use crate::given::{adopted, policy, unit_ends, with_target, world};

pub const WORKER: &str = "queue-worker.service";

pub fn rules() -> ServiceRules {
    ServiceRules {
        code: Vec::new(),
        units: vec!["queue-*.service".to_owned()],
        exclude: Vec::new(),
        drain_timeout: span(0),
        checkpoint_timeout: span(0),
        hold_timeout: span(0),
        overdue: None,
        ask: Vec::new(),
        unask: Vec::new(),
        term_timeout: span(5 * S),
    }
}

/// `holds`: its lock, for so long from its start, which is an hour ago.
pub fn service_host(rules: ServiceRules, checkpoint: Option<Us>, holds: Us) -> Host {
    let mut world = world();
    let daemon = Daemon { checkpoint, holds, ..Daemon::default() };
    world.add(Unit::new(WORKER, Body::Daemon(daemon)), HOUR);
    adopted(world, with_target(policy(), "workers", TargetRules::Service(rules)))
}

pub fn starts(host: &Host) -> Vec<By> {
    host.world.units[WORKER].runs.iter().map(|(_, by)| *by).collect()
}

/// The request is taken back for the abort; the release comes while that is under way, and the deploy goes on.
#[test]
fn what_was_spared_for_an_abort_is_not_called_renewed_after_the_release() {
    let command = |name: &str| vec![format!("/usr/local/bin/{name}-{{unit}}")];
    let rules = ServiceRules { checkpoint_timeout: span(MINUTE), ask: command("ask"), unask: command("unask"), ..rules() };
    let mut host = service_host(rules, None, 0);
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.world.asked.contains(WORKER)));
    host.later(S, Deed::Order(Order::Abort { reason: None }));
    host.later(S + 100 * MS, Deed::Order(Order::Release));
    host.run(2 * S);
    host.must_be_right();
    assert_ne!(host.state(), Some(State::Converged));
    assert!(host.run_until(3 * MINUTE, |host| host.state() == Some(State::Converged)));
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
    assert_eq!(starts(&host), [By::Systemd, By::Agent]);
}

/// A newer deploy lands while it comes up, and an abort.
#[test]
fn what_a_service_was_lent_for_its_restart_is_taken_back_though_it_is_stale_again_when_it_is_up() {
    let mut world = world();
    world.add(Unit::new(WORKER, Body::Daemon(Daemon { leaves: true, starts: Starts::Well(80 * S), ..Daemon::default() })), HOUR);
    let mut host = adopted(world, with_target(policy(), "workers", TargetRules::Service(rules())));
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| starts(host).len() == 2));
    host.world.touch("d3");
    let newer = |host: &Host| host.memory().rollout.as_ref().is_some_and(|rollout| rollout.view.deploy == "d3");
    assert!(host.run_until(MINUTE, newer));
    host.deed(Deed::Order(Order::Abort { reason: None }));
    host.run(2 * MINUTE);
    let worker = &host.world.units[WORKER];
    assert!(worker.drop_in.is_none() && worker.in_force.is_none(), "it is still lent something");
    host.deed(Deed::Order(Order::Release));
    host.settle();
    host.must_be_right();
    assert_eq!(starts(&host), [By::Systemd, By::Agent, By::Agent]);
}

/// The next agent has not come to asking it yet: that it ends is an answer to the one before.
#[test]
fn a_service_that_reaches_its_checkpoint_when_the_agent_has_just_started_again_is_started_again() {
    for early in 0..40 {
        let mut host = service_host(ServiceRules { checkpoint_timeout: span(MINUTE), ..rules() }, Some(20 * S), 0);
        host.world.touch("d2");
        assert!(host.run_until(MINUTE, |host| host.world.asked.contains(WORKER)));
        host.run(10 * S);
        host.kill_agent();
        host.run(10 * S - early * MS);
        host.start_agent();
        assert!(host.run_until(3 * MINUTE, |host| host.state() == Some(State::Converged)));
        host.run(S);
        host.check_at_rest();
        host.must_be_right();
        assert_eq!(starts(&host), [By::Systemd, By::Agent], "{early} ms before the checkpoint");
    }
}

/// A newer deploy gives it a drain of its own, in which it is still asked.
#[test]
fn a_service_that_an_earlier_agent_has_asked_is_started_again_also_if_it_ends_in_the_drain_of_the_next_deploy() {
    let asks = ServiceRules { drain_timeout: span(30 * S), checkpoint_timeout: span(MINUTE), ..rules() };
    let mut host = service_host(asks, Some(20 * S), 0);
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.world.asked.contains(WORKER)));
    host.world.touch("d3");
    host.run(10 * S);
    host.kill_agent();
    host.start_agent();
    assert!(host.run_until(3 * MINUTE, |host| host.state() == Some(State::Converged)));
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
    assert_eq!(starts(&host), [By::Systemd, By::Agent]);
}

/// What is looked at while it is restarted does not say whether it holds its lock.
#[test]
fn a_service_that_the_next_deploy_makes_stale_in_its_start_is_spared_for_its_lock_all_the_same() {
    let rules = ServiceRules { drain_timeout: span(S), hold_timeout: span(20 * S), ..rules() };
    let mut host = service_host(rules, None, 30 * S);
    let daemon = Daemon { starts: Starts::Well(10 * S), holds: 30 * S, ..Daemon::default() };
    host.world.units.get_mut(WORKER).unwrap().body = Body::Daemon(daemon);
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| starts(host).len() == 2));
    let started = host.world.now;
    host.later(S, Deed::Touch("d3".to_owned()));
    let again = host.run_until(2 * MINUTE, |host| starts(host).len() == 3);
    host.must_be_right();
    assert!(again);
    host.must_be_right();
    let spared = host.world.now - started;
    assert!((20 * S..24 * S).contains(&spared), "restarted {spared} us after its start");
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
    host.must_be_right();
}

/// The drain goes on by the rules with which it began; the lock is spared by those that are there when the restart is due.
#[test]
fn a_service_that_holds_its_lock_when_the_rules_change_in_its_drain_is_spared_by_the_new_ones_from_the_end_of_that_drain() {
    let before = ServiceRules { drain_timeout: span(30 * S), hold_timeout: span(5 * MINUTE), ..rules() };
    let mut host = service_host(before, None, 2 * HOUR);
    host.world.touch("d2");
    let begun = host.world.now;
    let now = ServiceRules { drain_timeout: span(5 * MINUTE), hold_timeout: span(20 * S), ..rules() };
    host.later(5 * S, Deed::Policy(Box::new(with_target(policy(), "workers", TargetRules::Service(now)))));
    assert!(host.run_until(10 * MINUTE, |host| starts(host).len() == 2));
    let took = host.world.now - begun;
    assert!((50 * S..53 * S).contains(&took), "restarted after {took} us");
    host.settle();
    host.must_be_right();
}

/// Its request is being taken back by a command when it is to be asked again.
#[test]
fn a_service_is_not_asked_while_an_earlier_request_is_taken_back() {
    let command = |name: &str| vec![format!("/usr/local/bin/{name}-{{unit}}")];
    let rules = ServiceRules { checkpoint_timeout: span(10 * S), ask: command("ask"), unask: command("unask"), ..rules() };
    let mut host = service_host(rules, None, 0);
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.world.asked.contains(WORKER)));
    host.later(S, Deed::Order(Order::Abort { reason: None }));
    host.later(S + 50 * MS, Deed::KillAgent(100 * MS));
    host.later(S + 160 * MS, Deed::Order(Order::Release));
    let converged = host.run_until(3 * MINUTE, |host| host.state() == Some(State::Converged));
    host.must_be_right();
    assert!(converged);
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
}

/// What it is lent for its request cannot be taken back for a while, and somebody does this to it meanwhile.
fn while_its_loan_is_taken_back(verb: &'static str) -> Host {
    let mut host = service_host(ServiceRules { checkpoint_timeout: span(2 * S), ..rules() }, None, 0);
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.world.asked.contains(WORKER)));
    host.world.faults.reload_fails_until = host.world.now + 20 * S;
    host.later(10 * S, Deed::World("a person", Box::new(move |world| drop(world.person(verb, WORKER, By::Person)))));
    let converged = host.run_until(MINUTE, |host| host.state() == Some(State::Converged));
    host.must_be_right();
    assert!(converged);
    host
}

#[test]
fn a_service_that_somebody_restarts_while_its_loan_is_taken_back_is_not_restarted_again() {
    assert_eq!(starts(&while_its_loan_is_taken_back("restart")), [By::Systemd, By::Person]);
}

#[test]
fn a_service_that_somebody_stops_while_its_loan_is_taken_back_stays_stopped() {
    assert_eq!(starts(&while_its_loan_is_taken_back("stop")), [By::Systemd]);
}

/// It is owed a start, which has to wait, and the one that somebody else has given it is old by then.
#[test]
fn a_service_that_somebody_starts_before_the_next_deploy_is_not_called_new_since_its_start_was_due() {
    let mut host = service_host(ServiceRules { checkpoint_timeout: span(10 * S), ..rules() }, Some(S), 0);
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.world.asked.contains(WORKER)));
    host.world.faults.reload_fails_until = host.world.now + 20 * S;
    host.later(5 * S, Deed::World("a person starts it", Box::new(move |world| drop(world.person("start", WORKER, By::Person)))));
    host.later(10 * S, Deed::Touch("d3".to_owned()));
    host.run(MINUTE);
    host.settle();
    host.must_be_right();
    assert_eq!(starts(&host), [By::Systemd, By::Person, By::Agent]);
}

/// The other one has not come up after the deploy before, and is to be looked at by its name.
#[test]
fn what_is_asked_stays_asked_when_the_agent_comes_back_beside_one_that_is_down() {
    let mut host = service_host(ServiceRules { checkpoint_timeout: span(20 * S), ..rules() }, None, 0);
    let daemon = |starts| Daemon { starts, ..Daemon::default() };
    host.world.add(Unit::new("queue-down.service", Body::Daemon(daemon(Starts::Well(10 * MS)))), HOUR);
    host.world.units.get_mut("queue-down.service").unwrap().body = Body::Daemon(daemon(Starts::Fails(99)));
    host.world.touch("d2");
    let failed = |host: &Host| unit_ends(host).any(|end| end.what == UnitEnd::Failed);
    assert!(host.run_until(MINUTE, failed));
    host.later(S, Deed::Touch("d3".to_owned()));
    assert!(host.run_until(MINUTE, |host| host.world.asked.contains(WORKER)));
    let from = host.done.len();
    host.later(S, Deed::KillAgent(S));
    host.run(10 * S);
    host.must_be_right();
    assert!(!host.done[from..].iter().any(|(_, effect)| matches!(effect, Effect::Unask { unit, .. } if unit == WORKER)));
}

/// A person restarts it in its drain, and nobody looks before the next deploy.
#[test]
fn a_service_that_a_person_has_restarted_between_two_deploys_has_a_drain_of_its_own() {
    let mut host = service_host(ServiceRules { drain_timeout: span(10 * S), ..rules() }, None, 0);
    host.world.touch("d2");
    host.run(6 * S);
    let _ = host.world.person("restart", WORKER, By::Person);
    host.run(2 * S);
    host.world.touch("d3");
    let landed = host.world.now;
    assert!(host.run_until(MINUTE, |host| host.world.sent.contains_key(WORKER)));
    assert!(host.world.now >= landed + 10 * S, "restarted {} ms after the deploy", (host.world.now - landed) / MS);
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
    host.must_be_right();
}

/// One takes long to come up, while the drain of another one ends.
#[test]
fn a_service_whose_drain_is_over_while_another_one_starts_is_looked_at_once() {
    const SLOW: &str = "queue-slow.service";
    let mut world = world();
    for name in [WORKER, SLOW] {
        let daemon = Daemon::default();
        world.add(Unit::new(name, Body::Daemon(daemon)), HOUR);
    }
    if let Body::Daemon(daemon) = &mut world.units.get_mut(SLOW).unwrap().body {
        daemon.starts = Starts::Well(30 * S);
    }
    let rules = ServiceRules { drain_timeout: span(5 * S), ..rules() };
    let mut host = adopted(world, with_target(policy(), "workers", TargetRules::Service(rules)));
    host.world.touch("d2");
    assert!(host.run_until(10 * S, |host| starts(host).len() == 2));
    host.run(2 * S);
    host.world.touch("d3");
    let before = host.effects;
    assert!(host.run_until(10 * S, |host| starts(host).len() == 3), "it waits for the other one");
    host.run(10 * S);
    assert!(host.effects - before < 100, "{} effects", host.effects - before);
    assert!(host.run_until(2 * MINUTE, |host| host.state() == Some(State::Converged)));
    host.must_be_right();
}

/// Its new run is older than the next deploy, ignores SIGTERM as the one before did, and comes to be stopped by a person before it is up.
#[test]
fn a_service_that_somebody_stops_in_its_start_and_that_does_not_end_gets_sigkill_of_ours() {
    let mut world = world();
    let daemon = Daemon { on_term: OnTerm::Ignores, ..Daemon::default() };
    world.add(Unit::new(WORKER, Body::Daemon(daemon)), HOUR);
    if let Body::Daemon(daemon) = &mut world.units.get_mut(WORKER).unwrap().body {
        daemon.starts = Starts::Well(30 * S);
    }
    let mut host = adopted(world, with_target(policy(), "workers", TargetRules::Service(rules())));
    host.world.touch("d2");
    assert!(host.run_until(10 * S, |host| starts(host).len() == 2));
    host.run(2 * S);
    host.world.touch("d3");
    host.run(3 * S);
    let _ = host.world.person("stop", WORKER, By::Person);
    let gone = |host: &Host| !host.world.units[WORKER].active.runs();
    assert!(host.run_until(25 * S, gone), "the run that a person stops lasts until systemd's own timeout");
    assert!(host.run_until(2 * MINUTE, |host| host.state() == Some(State::Converged)));
    host.must_be_right();
}

/// It has ended by the time that its request is taken back, and is not old any more: nobody but us will start it.
#[test]
fn a_service_that_ends_at_its_checkpoint_just_when_it_is_spared_comes_up_again() {
    let command = |name: &str| vec![format!("/usr/local/bin/{name}-{{unit}}")];
    for early in [-100, 10, 200, 400, 600] {
        let lives = |checkpoint| {
            let rules = ServiceRules { checkpoint_timeout: span(MINUTE), ask: command("ask"), unask: command("unask"), ..rules() };
            let mut host = service_host(rules, Some(checkpoint), 0);
            host.world.touch("d2");
            assert!(host.run_until(MINUTE, |host| host.world.asked.contains(WORKER)));
            host.later(10 * S, Deed::Order(Order::Hold { reason: "a dump".to_owned(), span: span(30 * S), targets: None }));
            host
        };
        let mut host = lives((10 * S).saturating_add_signed(-early * MS.cast_signed()));
        host.run(20 * S);
        host.settle();
        host.must_be_right();
        assert_eq!(starts(&host), [By::Systemd, By::Agent], "{early} ms early");
    }
}

/// Its command does not work for so long that it is given up for this rollout. The next one takes one that does not run for one that somebody has stopped.
#[test]
fn a_service_that_has_ended_at_its_checkpoint_and_whose_request_cannot_be_taken_back_comes_up_when_it_can() {
    let command = |name: &str| vec![format!("/usr/local/bin/{name}-{{unit}}")];
    let rules = ServiceRules { checkpoint_timeout: span(MINUTE), ask: command("ask"), unask: command("unask"), ..rules() };
    let mut host = service_host(rules, Some(S), 0);
    host.world.touch("d2");
    host.world.faults.unask_fails_until = host.world.now + 20 * S;
    host.later(5 * S, Deed::Touch("d3".to_owned()));
    host.run(2 * MINUTE);
    host.settle();
    host.must_be_right();
    assert_eq!(starts(&host), [By::Systemd, By::Agent]);
}

/// Its request cannot be taken back, so that it is given up; the next deploy lands before anybody else has looked whether it runs.
#[test]
fn a_service_that_goes_on_with_old_code_is_not_told_as_restarted_by_the_next_deploy() {
    let command = |name: &str| vec![format!("/usr/local/bin/{name}-{{unit}}")];
    let rules = ServiceRules { checkpoint_timeout: span(5 * S), ask: command("ask"), unask: command("unask"), ..rules() };
    for after in (0..20).map(|tenths| 6 * S + tenths * 300 * MS) {
        let mut host = service_host(rules.clone(), None, 0);
        host.world.touch("d2");
        host.world.faults.unask_fails_until = host.world.now + 8 * S;
        host.later(after, Deed::Touch("d3".to_owned()));
        host.run(MINUTE);
        host.settle();
        host.must_be_right();
        let renewed = |written: &Written| matches!(&written.entry, Entry::UnitEnded(ended) if ended.what == UnitEnd::Renewed);
        let renewals = host.journal.iter().filter(|written| renewed(written)).count();
        assert_eq!(renewals, starts(&host).len() - 1, "d3 after {} ms", after / MS);
    }
}

/// No rule says whether: it is down since it was asked.
#[test]
fn a_service_that_has_ended_when_asked_is_started_again_also_by_an_agent_without_a_configuration() {
    let mut host = service_host(ServiceRules { checkpoint_timeout: span(MINUTE), ..rules() }, Some(20 * S), 0);
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.world.asked.contains(WORKER)));
    host.deed(Deed::ConfigProblem(Some("config.toml:7: unknown key".to_owned())));
    host.kill_agent();
    host.run(30 * S);
    host.start_agent();
    host.run(MINUTE);
    assert_eq!(starts(&host), [By::Systemd, By::Agent]);
    host.deed(Deed::ConfigProblem(None));
    host.settle();
    host.must_be_right();
}

/// It had been asked, but that is not what ended it.
#[test]
fn a_service_that_a_person_stops_while_the_agent_that_has_asked_it_is_away_stays_stopped() {
    let mut host = service_host(ServiceRules { checkpoint_timeout: span(MINUTE), ..rules() }, None, 0);
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.world.asked.contains(WORKER)));
    host.deed(Deed::KillAgent(10 * S));
    host.run(S);
    drop(host.world.person("stop", WORKER, By::Person));
    host.run(MINUTE);
    host.settle();
    host.must_be_right();
    assert_eq!(starts(&host), [By::Systemd]);
}

/// Its restart waits for the disk, and somebody restarts it meanwhile.
#[test]
fn a_service_that_somebody_restarts_while_the_disk_is_full_is_not_restarted_again() {
    for late in 1..=10 {
        let mut host = service_host(ServiceRules { drain_timeout: span(10 * S), ..rules() }, None, 0);
        host.world.touch("d2");
        host.run(2 * S);
        host.deed(Deed::DiskFull);
        host.feed(Event::JournalProblem(Some("no space left on device".to_owned())));
        host.run(10 * S + late * 500 * MS);
        let _ = host.world.person("restart", WORKER, By::Person);
        host.run(1500 * MS);
        host.deed(Deed::DiskGood);
        host.feed(Event::JournalProblem(None));
        assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
        host.run(S);
        host.check_at_rest();
        host.must_be_right();
        assert_eq!(starts(&host), [By::Systemd, By::Person]);
    }
}

/// What was done to it is being taken back when the rules change, by which it was let finish.
#[test]
fn a_service_that_is_let_finish_no_more_when_the_rules_change_is_restarted() {
    for after in (1500 * MS..5 * S).step_by(100_000) {
        let finish = ServiceRules { checkpoint_timeout: span(2 * S), overdue: Some(Overdue::Finish), ..rules() };
        let mut host = service_host(finish, None, 0);
        host.world.touch("d2");
        assert!(host.run_until(MINUTE, |host| host.world.asked.contains(WORKER)));
        host.world.faults.reload_fails_until = host.world.now + 6 * S;
        host.later(after, Deed::Policy(Box::new(with_target(policy(), "workers", TargetRules::Service(rules())))));
        assert!(host.run_until(5 * MINUTE, |host| host.state() == Some(State::Converged)));
        host.run(S);
        host.check_at_rest();
        host.must_be_right();
        assert_eq!(starts(&host), [By::Systemd, By::Agent], "the rules change {} ms after its request", after / MS);
    }
}

/// The disk is full when the time for its checkpoint is over, and the rules change before it has room again.
#[test]
fn a_service_that_is_let_finish_by_the_rules_that_have_come_while_its_restart_waited_goes_on() {
    let mut host = service_host(ServiceRules { checkpoint_timeout: span(2 * S), ..rules() }, None, 0);
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.world.asked.contains(WORKER)));
    host.run(S);
    host.deed(Deed::DiskFull);
    host.run(5 * S);
    let finish = ServiceRules { overdue: Some(Overdue::Finish), ..rules() };
    host.deed(Deed::Policy(Box::new(with_target(policy(), "workers", TargetRules::Service(finish)))));
    host.run(10 * S);
    host.deed(Deed::DiskGood);
    host.feed(Event::JournalProblem(None));
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
    assert_eq!(starts(&host), [By::Systemd]);
}

/// In its drain, when it was asked, and while it holds its lock.
#[test]
fn a_service_that_is_excluded_before_it_is_restarted_goes_on() {
    let drains = ServiceRules { drain_timeout: span(MINUTE), ..rules() };
    let asks = ServiceRules { checkpoint_timeout: span(MINUTE), ..rules() };
    let spares = ServiceRules { hold_timeout: span(MINUTE), ..rules() };
    for rules in [drains, asks, spares] {
        let mut host = service_host(rules.clone(), None, 2 * HOUR);
        host.world.touch("d2");
        host.run(20 * S);
        let excludes = ServiceRules { exclude: vec![WORKER.to_owned()], ..rules };
        host.deed(Deed::Policy(Box::new(with_target(policy(), "workers", TargetRules::Service(excludes)))));
        let converged = host.run_until(3 * MINUTE, |host| host.state() == Some(State::Converged));
        host.must_be_right();
        assert!(converged);
        host.run(2 * MINUTE);
        host.settle();
        host.must_be_right();
        assert_eq!(starts(&host), [By::Systemd]);
    }
}

/// While it is slow to die: it gets its SIGKILL, nothing of its old run outlives that, and it comes up.
#[test]
fn a_service_that_is_excluded_in_its_restart_comes_up_again() {
    let slow = Daemon { on_term: OnTerm::Ignores, leaves: true, ..Daemon::default() };
    let mut world = world();
    world.add(Unit::new(WORKER, Body::Daemon(slow)), HOUR);
    let by = |exclude: Vec<String>| with_target(policy(), "workers", TargetRules::Service(ServiceRules { exclude, ..rules() }));
    let mut host = adopted(world, by(Vec::new()));
    let before = host.world.now;
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.world.sent.contains_key(WORKER)));
    host.run(500 * MS);
    host.deed(Deed::Policy(Box::new(by(vec![WORKER.to_owned()]))));
    host.run(MINUTE);
    host.must_be_right();
    let unit = &host.world.units[WORKER];
    assert!(unit.active.runs() && unit.processes.values().all(|process| process.start > before), "{:#?}", unit.processes);
    host.settle();
    host.must_be_right();
}
