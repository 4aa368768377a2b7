//! Services that systemd is told to let nobody stop, or start again, while a rollout is about to.

use restart_agent::core::effect::Effect;
use restart_agent::core::policy::{ServiceRules, TargetRules};
use restart_agent::core::status::{State, TargetState};
use sim::host::{Deed, Host, span};
use sim::world::{Bar, Body, By, Daemon, HOUR, MINUTE, S, Unit};

use crate::given::{adopted, policy, with_target, world};
use crate::services::{WORKER, rules, service_host, starts};

fn is_left(host: &mut Host) {
    let converged = host.run_until(MINUTE, |host| host.state() == Some(State::Converged));
    host.must_be_right();
    assert!(converged, "{:?}", host.state());
    host.run(10 * S);
    host.check_at_rest();
    host.must_be_right();
    assert_eq!(starts(host), [By::Systemd]);
    assert!(host.world.units[WORKER].active.runs());
    let restarts = host.done.iter().filter(|(_, effect)| matches!(effect, Effect::Restart { .. }));
    assert_eq!(restarts.count(), 0);
    let status = host.status();
    let view = status.targets.iter().flat_map(|target| &target.units).find(|view| view.unit == WORKER);
    assert_eq!(view.map(|view| view.state), Some(TargetState::Left), "{view:?}");
}

/// It would have ended at its checkpoint, and nobody could have started it again.
#[test]
fn a_service_that_is_masked_before_it_is_asked_is_not_asked() {
    for bar in [Bar::Masked, Bar::RefusesStop] {
        let mut host = service_host(ServiceRules { checkpoint_timeout: span(20 * S), ..rules() }, Some(5 * S), 0);
        host.world.touch("d2");
        assert!(host.run_until(MINUTE, |host| host.world.units[WORKER].drop_in.is_some()));
        host.world.person_bars(WORKER, bar, None);
        is_left(&mut host);
        let asks = host.done.iter().filter(|(_, effect)| matches!(effect, Effect::AskToStop { .. }));
        assert_eq!(asks.count(), 0, "{bar:?}");
    }
}

#[test]
fn a_service_that_is_masked_after_it_was_asked_is_asked_no_longer() {
    for bar in [Bar::Masked, Bar::RefusesStop] {
        let mut host = service_host(ServiceRules { checkpoint_timeout: span(20 * S), ..rules() }, Some(5 * S), 0);
        host.world.touch("d2");
        assert!(host.run_until(MINUTE, |host| host.world.asked.contains(WORKER)));
        host.run(S);
        host.world.person_bars(WORKER, bar, None);
        is_left(&mut host);
    }
}

/// systemd would refuse that, which is told as a failure, and tried again.
#[test]
fn a_service_that_is_masked_while_its_loan_comes_is_left_and_no_failure() {
    for bar in [Bar::Masked, Bar::RefusesStop] {
        let mut world = world();
        let daemon = Daemon { leaves: true, ..Daemon::default() };
        world.add(Unit::new(WORKER, Body::Daemon(daemon)), HOUR);
        let target = restart_agent::core::policy::TargetRules::Service(rules());
        let mut host = adopted(world, with_target(policy(), "workers", target));
        host.world.touch("d2");
        assert!(host.run_until(MINUTE, |host| host.world.units[WORKER].drop_in.is_some()));
        host.world.person_bars(WORKER, bar, None);
        is_left(&mut host);
    }
}

/// Its restart is none of the rollout's, and may come long after that.
#[test]
fn a_service_that_was_left_is_told_as_it_is_when_it_is_masked_no_longer_and_when_a_person_has_restarted_it() {
    let mut host = service_host(rules(), None, 0);
    host.world.person_bars(WORKER, Bar::Masked, None);
    host.world.touch("d2");
    is_left(&mut host);
    host.world.person_lifts(WORKER, Bar::Masked);
    host.run(MINUTE);
    let told = |host: &Host| {
        let view = host.status().targets.into_iter().flat_map(|target| target.units).find(|view| view.unit == WORKER).unwrap();
        (view.state, view.stale_processes, view.why)
    };
    let (state, stale, why) = told(&host);
    assert!(state == TargetState::Left && stale == 1 && why.contains("the next deploy"), "{state:?} {stale} {why}");
    let _ = host.world.person("restart", WORKER, By::Person);
    host.run(MINUTE);
    assert_eq!(told(&host), (TargetState::Fresh, 0, "somebody else has restarted it".to_owned()));
    host.check_at_rest();
    host.must_be_right();
}

/// As long as one is left they are looked at, and a change of rules starts no rollout.
#[test]
fn a_service_that_comes_into_the_configuration_beside_one_that_is_left_waits_for_the_next_deploy() {
    const OTHER: &str = "queue-other.service";
    let mut world = world();
    for unit in [WORKER, OTHER] {
        world.add(Unit::new(unit, Body::Daemon(Daemon::default())), HOUR);
    }
    let by = |exclude: Vec<String>| with_target(policy(), "workers", TargetRules::Service(ServiceRules { exclude, ..rules() }));
    let mut host = adopted(world, by(vec![OTHER.to_owned()]));
    host.world.person_bars(WORKER, Bar::Masked, None);
    host.world.touch("d2");
    is_left(&mut host);
    host.deed(Deed::Policy(Box::new(by(Vec::new()))));
    host.run(5 * MINUTE);
    host.must_be_right();
    let runs = |host: &Host| host.world.units[OTHER].runs.len();
    assert_eq!(runs(&host), 1, "it was restarted, and no rollout tells of it");
    host.world.touch("d3");
    host.run(MINUTE);
    host.must_be_right();
    assert_eq!(runs(&host), 2);
}
