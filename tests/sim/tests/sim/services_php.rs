//! Services that are a shell which starts one `php` after the other, with `code = ["php*"]`.

use restart_agent::core::effect::Effect;
use restart_agent::core::policy::{ServiceRules, TargetRules};
use restart_agent::core::status::State;
use sim::host::{Host, span};
use sim::world::{Body, By, Daemon, HOUR, MINUTE, S, Unit};

use crate::given::{adopted, policy, with_target, world};
use crate::services::{WORKER, rules, starts};

fn host(rules: ServiceRules, daemon: Daemon) -> Host {
    let mut world = world();
    world.add(Unit::new(WORKER, Body::Daemon(Daemon { php: true, ..daemon })), HOUR);
    adopted(world, with_target(policy(), "workers", TargetRules::Service(ServiceRules { code: vec!["php*".to_owned()], ..rules })))
}

fn comes_up_again(host: &mut Host) {
    host.world.touch("d2");
    host.run(S);
    assert!(host.run_until(3 * MINUTE, |host| host.state() == Some(State::Converged)));
    host.run(MINUTE);
    host.check_at_rest();
    host.must_be_right();
    assert_eq!(starts(host), [By::Systemd, By::Agent]);
    assert!(host.world.units[WORKER].active.runs());
}

fn restarts(host: &Host) -> usize {
    host.done.iter().filter(|(_, effect)| matches!(effect, Effect::Restart { .. })).count()
}

#[test]
fn a_shell_whose_last_php_has_ended_in_time_renews_itself() {
    let mut host = host(ServiceRules { drain_timeout: span(20 * S), ..rules() }, Daemon { loops: 8 * S, ..Daemon::default() });
    host.world.touch("d2");
    host.run(S);
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
    host.check_at_rest();
    host.must_be_right();
    assert_eq!(starts(&host), [By::Systemd]);
}

/// Between the end of its `php` and its own nothing old runs in it.
#[test]
fn a_shell_whose_php_has_ended_when_asked_is_started_again_when_it_has_said_so() {
    let asks = ServiceRules { checkpoint_timeout: span(30 * S), ..rules() };
    let mut host = host(asks, Daemon { loops: 20 * S, tidies: 5 * S, checkpoint: Some(3 * S), ..Daemon::default() });
    comes_up_again(&mut host);
    assert_eq!(restarts(&host), 0);
}

/// Or it would say so when nobody listens any more, and stay down.
#[test]
fn a_shell_whose_php_has_ended_when_asked_and_that_does_not_end_in_time_is_restarted() {
    for leaves in [false, true] {
        let asks = ServiceRules { checkpoint_timeout: span(10 * S), ..rules() };
        let mut host = host(asks, Daemon { loops: 20 * S, tidies: 30 * S, checkpoint: Some(3 * S), leaves, ..Daemon::default() });
        comes_up_again(&mut host);
        assert_eq!(restarts(&host), 1);
    }
}

/// The next agent has not looked at it yet.
#[test]
fn a_shell_whose_php_has_ended_when_an_earlier_agent_asked_is_started_again() {
    let asks = ServiceRules { checkpoint_timeout: span(30 * S), ..rules() };
    let mut host = host(asks, Daemon { loops: 20 * S, tidies: 8 * S, checkpoint: Some(3 * S), ..Daemon::default() });
    host.world.touch("d1");
    assert!(host.run_until(MINUTE, |host| host.world.asked.contains(WORKER)));
    host.run(2 * S);
    host.kill_agent();
    host.run(2 * S);
    host.start_agent();
    assert!(host.run_until(3 * MINUTE, |host| host.state() == Some(State::Converged)));
    host.run(MINUTE);
    host.check_at_rest();
    host.must_be_right();
    assert_eq!(starts(&host), [By::Systemd, By::Agent]);
    assert!(host.world.units[WORKER].active.runs());
}
