//! What status says of the targets' units while nothing is at work on them, and while a deploy waits.

use std::time::Duration;

use restart_agent::core::deploy::StampFault;
use restart_agent::core::event::Order;
use restart_agent::core::policy::{After, ScheduledRules, TargetRules};
use restart_agent::core::status::{State, TargetState, TargetView, UnitView};
use sim::host::{Deed, Host};
use sim::world::{Answers, By, Fpm, FpmStart, Hook, Load, MINUTE, MS, S, Script, Unit};

use crate::given::{FPM, SCRIPT, adopted, fpm_host, fpm_rules, policy, script_rules, with_target, world};

fn target(host: &Host) -> TargetView {
    host.status().targets[0].clone()
}

fn unit(host: &Host) -> UnitView {
    let target = target(host);
    assert_eq!(target.units.len(), 1, "{target:?}");
    target.units[0].clone()
}

/// Requests that outlast every drain.
fn busy() -> Fpm {
    let load =
        Load { every: 100 * MS, strays_every: 0, short: (5 * MS, 30 * MS), long_percent: 20, long: (60 * S, 90 * S), until: u64::MAX };
    Fpm { workers: 40, load, ..Fpm::default() }
}

fn converge(host: &mut Host, id: &str) {
    host.world.touch(id);
    assert!(host.run_until(MINUTE, |host| host.status().reached.is_some_and(|reached| reached.id == id)));
    host.run(S);
}

fn hold(targets: Option<&[&str]>) -> Order {
    Order::Hold { reason: "a dump".to_owned(), span: Duration::from_secs(600), targets: targets.map(sim::host::names) }
}

#[test]
fn an_agent_that_was_restarted_shows_each_unit_that_runs() {
    let mut world = world();
    world.add(Unit::fpm(FPM, Fpm::default()), 3600 * S);
    world.add(Unit::script(SCRIPT, Script { lasts: 3600 * S, ..Script::default() }), 60 * S);
    let rules = with_target(policy(), "jobrunner", TargetRules::PhpFpm(fpm_rules()));
    let mut host = adopted(world, with_target(rules, "maintenance", TargetRules::Scheduled(script_rules(After::Rerun))));
    let shown = |host: &Host| -> Vec<(String, TargetState, bool)> {
        let units = host.status().targets.into_iter().flat_map(|target| target.units);
        units.map(|unit| (unit.unit, unit.state, unit.oldest_start.is_some())).collect()
    };
    let both = |state| vec![(FPM.to_owned(), state, true), (SCRIPT.to_owned(), state, true)];
    assert_eq!(shown(&host), both(TargetState::Adopted));
    assert_eq!(host.status().targets[0].state, TargetState::Adopted);
    converge(&mut host, "d2");
    assert_eq!(shown(&host), both(TargetState::Fresh));
    let looks = host.effects;
    host.run(30 * MINUTE);
    assert_eq!(host.effects, looks, "at rest nothing is looked at");
    host.kill_agent();
    host.start_agent();
    host.run(S);
    assert_eq!(shown(&host), both(TargetState::Fresh));
    assert!(host.status().targets.iter().all(|target| target.looked_at.is_some()), "{:?}", host.status());
    host.must_be_right();
}

#[test]
fn a_unit_that_does_not_exist_is_told_at_once_and_until_it_does() {
    let mut host = adopted(world(), with_target(policy(), "jobrunner", TargetRules::PhpFpm(fpm_rules())));
    let why = format!("{FPM}: there is no such unit: mend `unit` in the configuration, or install it");
    let status = host.status();
    assert_eq!((&status.problems, status.targets[0].state, &status.targets[0].why), (&vec![why.clone()], TargetState::Failed, &why));
    host.world.add(Unit::fpm(FPM, Fpm::default()), S);
    host.run(2 * MINUTE);
    assert_eq!((host.status().problems, target(&host).state, unit(&host).state), (vec![], TargetState::Adopted, TargetState::Adopted));
}

/// It comes up after the one look at the agent's start, as at a boot.
#[test]
fn what_has_come_up_since_it_was_looked_at_is_not_said_to_be_down_when_a_rollout_begins() {
    let mut host = fpm_host(false, Fpm::default());
    converge(&mut host, "d2");
    host.world.person("stop", FPM, By::Person).unwrap();
    host.run(S);
    host.kill_agent();
    host.start_agent();
    host.run(S);
    assert_eq!(unit(&host).why, "does not run");
    host.world.person("start", FPM, By::Person).unwrap();
    host.run(S);
    host.world.touch("d3");
    assert!(host.run_until(MINUTE, |host| host.memory().rollout.is_some()));
    assert_eq!((unit(&host).state, unit(&host).why.as_str()), (TargetState::Stale, "about to be looked at"));
    host.settle();
    host.must_be_right();
}

#[test]
fn a_deploy_that_waits_for_a_hold_makes_its_targets_held() {
    let mut host = fpm_host(true, Fpm::default());
    converge(&mut host, "d2");
    host.later(0, Deed::Order(hold(None)));
    host.run(S);
    assert_eq!((target(&host).state, unit(&host).state), (TargetState::Fresh, TargetState::Fresh), "nothing waits");
    host.world.touch("d3");
    host.run(S);
    let (target, unit) = (target(&host), unit(&host));
    assert!(target.why.starts_with("deploy d3 waits: held by ") && target.why.ends_with(": a dump"), "{target:?}");
    assert_eq!((target.state, unit.state), (TargetState::Held, TargetState::Held));
    assert_eq!(unit.why, "runs code from before deploy d3");
    assert!(unit.stale_processes > 0, "{unit:?}");
    let status = host.status();
    assert_eq!(status.next.as_deref(), Some("deploy d3 is rolled out"));
}

#[test]
fn a_deploy_that_names_other_targets_makes_nothing_stale() {
    let mut host = fpm_host(false, Fpm::default());
    converge(&mut host, "d2");
    host.later(0, Deed::Order(hold(None)));
    host.run(S);
    host.world.touch("id = \"d3\"\ntargets = [\"other\"]\n");
    host.run(S);
    assert_eq!((target(&host).state, unit(&host).stale_processes), (TargetState::Fresh, 0));
}

#[test]
fn held_or_aborted_in_the_drain_it_still_runs_old_code() {
    for order in [hold(None), hold(Some(&["jobrunner"])), Order::Abort { reason: None }] {
        let mut host = fpm_host(true, busy());
        converge(&mut host, "d2");
        host.world.touch("d3");
        assert!(host.run_until(MINUTE, |host| target(host).state == TargetState::Draining));
        host.later(0, Deed::Order(order.clone()));
        assert!(host.run_until(MINUTE, |host| target(host).state == TargetState::Held));
        host.run(S);
        assert_eq!((target(&host).state, unit(&host).state), (TargetState::Held, TargetState::Held), "{order:?}");
        assert!(target(&host).why.starts_with("deploy d3 waits: held by ") && unit(&host).stale_processes > 0, "{:?}", target(&host));
    }
}

/// Law 5: what says nothing is unknown.
#[test]
fn no_answer_is_not_told_as_nothing_in_flight() {
    for status in [Answers::Not, Answers::Garbage] {
        let mut host = fpm_host(true, Fpm { status, ..Fpm::default() });
        host.world.touch("d2");
        assert!(host.run_until(MINUTE, |host| target(host).state == TargetState::Draining));
        let restarted = |host: &Host| target(host).state != TargetState::Draining;
        assert!(!host.run_until(4 * S, |host| restarted(host) || unit(host).in_flight.is_some()), "{:?}", unit(&host));
    }
}

#[test]
fn renewed_and_not_yet_back_in_the_pool_it_is_not_stale() {
    let mut host = fpm_host(true, Fpm::default());
    host.world.balancers.get_mut("default").unwrap().repool = Hook::Hangs;
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.status().waiting_for.is_some_and(|what| what.starts_with("pool default to have"))));
    host.run(S);
    assert_eq!(target(&host).why, "renewed for d2; this host waits to be put back into pool default");
    assert_eq!((target(&host).state, unit(&host).state, unit(&host).stale_processes), (TargetState::Fresh, TargetState::Fresh, 0));
}

#[test]
fn at_no_moment_of_a_rollout_is_it_said_to_wait_for_nothing_or_old_code_to_be_new() {
    let mut host = fpm_host(true, busy());
    converge(&mut host, "d2");
    let before = host.world.units[FPM].invocation.clone();
    host.world.touch("d3");
    host.run(MS);
    let wrong = host.run_until(MINUTE, |host| {
        let status = host.status();
        let blank = status.waiting_for.as_deref().is_some_and(|what| what.trim_end().ends_with(':'));
        let old = host.world.units[FPM].invocation == before && host.status().stamp.id.as_deref() == Some("d3");
        blank || (old && status.targets[0].units[0].state == TargetState::Fresh) || status.reached.is_some_and(|reached| reached.id == "d3")
    });
    assert!(wrong && host.status().reached.is_some_and(|reached| reached.id == "d3"), "{:?}", host.status());
}

#[test]
fn a_stamp_that_was_removed_is_not_told_as_one_that_never_was() {
    let missing = || Deed::SpoilStamp(StampFault::Missing { path: "/srv/deploy/stamp".to_owned() });
    let mut host = fpm_host(false, Fpm::default());
    converge(&mut host, "d2");
    host.later(0, missing());
    host.run(S);
    let said = "/srv/deploy/stamp has been removed; the last deploy was d2, and the next one makes it again";
    assert_eq!(host.status().stamp.error.as_deref(), Some(said));
}

/// The status in each state there is, as its schema says.
#[test]
fn every_state_is_as_the_schema_of_status_json_says() {
    let mut seen = Vec::new();
    let mut look = |host: &Host, state: State| {
        let status = serde_json::to_value(host.status()).unwrap();
        lab::schema::check_status(&status).unwrap();
        assert_eq!(host.status().state, state, "{status}");
        seen.push(state);
    };
    let mut host = fpm_host(true, busy());
    look(&host, State::Idle);
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| target(host).state == TargetState::Draining));
    look(&host, State::Converging);
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
    look(&host, State::Converged);
    assert!(!host.status().last_rollout.unwrap().casualties.is_empty());
    host.later(0, Deed::Order(hold(Some(&["jobrunner"]))));
    host.run(S);
    look(&host, State::Held);
    host.later(0, Deed::Order(Order::Release));
    host.world.balancers.get_mut("default").unwrap().depool = Hook::Exits(1);
    host.world.touch("targets = [\"jobrunner\", \"another\"]\n");
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Blocked)));
    look(&host, State::Blocked);
    let mut host = fpm_host(true, Fpm { config_good: false, ..Fpm::default() });
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Failed)));
    look(&host, State::Failed);
    assert_eq!(seen.len(), 6);
}

/// It does not come up when it is looked at, systemd brings it up (Restart=), and then a deploy lands that waits for a hold.
#[test]
fn what_did_not_run_when_it_was_looked_at_is_not_called_so_when_a_deploy_has_landed_since() {
    let mut host = fpm_host(false, Fpm { start: FpmStart::Fails, ..Fpm::default() });
    drop(host.world.person("restart", FPM, By::Person));
    host.run(S);
    host.deed(Deed::Order(hold(None)));
    host.deed(Deed::Policy(Box::new(host.policy.clone())));
    host.run(S);
    assert_eq!(unit(&host).why, "does not run");
    host.world.units.get_mut(FPM).unwrap().as_fpm_mut().unwrap().start = FpmStart::Well(60 * MS);
    drop(host.world.person("start", FPM, By::Systemd));
    host.run(S);
    host.world.touch("d2");
    host.run(S);
    host.must_be_right();
    assert_eq!(unit(&host).state, TargetState::Held);
}

/// What carries code had ended by the look of the agent that starts, and it has run anew since.
#[test]
fn a_script_of_which_only_its_end_was_seen_is_not_called_new_for_what_has_landed_since() {
    let mut world = world();
    world.add(Unit::script(SCRIPT, Script { next_runs: [60 * S].into(), stop_post: 5 * S, ..Script::default() }), 60 * S + MS);
    let rules = ScheduledRules { code: vec!["php*".to_owned()], ..script_rules(After::Rerun) };
    let mut host = adopted(world, with_target(policy(), "maintenance", TargetRules::Scheduled(rules)));
    assert_eq!(unit(&host).unit, SCRIPT);
    assert!(host.world.person("start", SCRIPT, By::Person).is_ok());
    host.run(S);
    host.world.touch("d2");
    host.run(100 * MS);
    host.must_be_right();
    assert_eq!(unit(&host).state, TargetState::Stale);
}
