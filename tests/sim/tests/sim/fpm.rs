//! php-fpm in place.

use restart_agent::core::Waited;
use restart_agent::core::event::Order;
use restart_agent::core::status::State;
use sim::host::{Deed, Host, span};
use sim::world::{By, Fpm, HOUR, Load, MINUTE, MS, S};

use crate::given::{FPM, fpm_host};

#[test]
fn a_touched_stamp_renews_php_fpm_and_the_host_is_back_in_the_pool() {
    let mut host = fpm_host(true, Fpm::default());
    let before = host.world.units[FPM].invocation.clone();
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
    assert_ne!(before, host.world.units[FPM].invocation);
    assert_eq!(host.world.balancers["default"].by_agent, (1, 1));
    assert!(host.casualties().is_empty());
}

/// Trap T4: a clock that was set while the deploy was on its way, or a link that was turned to a file made yesterday. What runs is older than now.
#[test]
fn a_new_stamp_with_a_ctime_of_yesterday_has_landed_now() {
    let mut host = fpm_host(true, Fpm::default());
    let before = host.world.units[FPM].invocation.clone();
    let day = i64::try_from(24 * HOUR).unwrap();
    host.world.wall_offset -= day;
    host.world.touch("d2");
    host.world.wall_offset += day;
    let renewed = |host: &Host| matches!(host.waited(None), Some(Waited::Converged { id }) if id == "d2");
    assert!(host.run_until(MINUTE, renewed));
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
    assert_ne!(before, host.world.units[FPM].invocation);
}

/// A person aborts and thinks better of it: the host is put back, then taken out again, and the check says "out" until the balancer has heard
/// of either.
#[test]
fn a_drain_begins_anew_when_a_repool_is_still_on_its_way() {
    let load =
        Load { every: 200 * MS, strays_every: 0, short: (5 * MS, 30 * MS), long_percent: 10, long: (20 * S, 30 * S), until: u64::MAX };
    let mut host = fpm_host(true, Fpm { workers: 40, load, ..Fpm::default() });
    host.world.balancers.get_mut("default").unwrap().delay = 2 * S;
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.world.balancers["default"].out));
    host.later(S, Deed::Order(Order::Abort { reason: None }));
    host.later(S + 200 * MS, Deed::Order(Order::Release));
    host.run(5 * S);
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
    host.run(5 * S);
    host.check_at_rest();
    host.must_be_right();
    assert_eq!(host.world.balancers["default"].by_agent, (2, 2));
}

#[test]
fn without_a_status_page_too_what_somebody_else_restarts_in_the_drain_is_not_restarted_again() {
    let mut host = fpm_host(false, Fpm { has_status: false, ..Fpm::default() });
    host.world.touch("d2");
    host.later(3 * S, Deed::World("a person restarts it", Box::new(|world| drop(world.person("restart", FPM, By::Person)))));
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
    assert_eq!(host.world.units[FPM].runs.last().map(|(_, by)| *by), Some(By::Person));
}

/// What is wanted is not known then: nothing may be called converged, and nothing forgotten (the agent comes back in the middle of a drain).
#[test]
fn a_configuration_that_breaks_while_a_rollout_is_interrupted_forgets_no_deploy() {
    let long =
        Load { every: 200 * MS, strays_every: 0, short: (5 * MS, 30 * MS), long_percent: 10, long: (20 * S, 30 * S), until: u64::MAX };
    let mut host = fpm_host(true, Fpm { workers: 40, load: long, ..Fpm::default() });
    let before = host.world.units[FPM].invocation.clone();
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.world.balancers["default"].out));
    host.deed(Deed::ConfigProblem(Some("bogus.toml:1: unknown key".to_owned())));
    host.deed(Deed::KillAgent(S));
    host.run(10 * S);
    assert_eq!(host.state(), Some(State::Blocked));
    assert!(matches!(host.waited(None), Some(Waited::Blocked { why, .. }) if why.contains("bogus.toml:1")));
    assert!(!host.world.balancers["default"].out, "what is owed is paid");
    assert_eq!(before, host.world.units[FPM].invocation);

    host.world.touch("d3");
    host.run(10 * S);
    assert!(matches!(host.waited(None), Some(Waited::Blocked { .. })), "{:?}", host.waited(None));
    host.deed(Deed::ConfigProblem(None));
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
    host.run(S);
    host.check_at_rest();
    assert_ne!(before, host.world.units[FPM].invocation);
    assert!(matches!(host.waited(None), Some(Waited::Converged { id }) if id == "d3"));
}

#[test]
fn a_trigger_over_a_hold_leaves_the_hold_for_the_next_deploy() {
    let mut host = fpm_host(true, Fpm::default());
    let before = host.world.units[FPM].invocation.clone();
    host.order(Order::Hold { reason: "the database moves".to_owned(), span: span(60 * MINUTE), targets: None });
    let trigger = Order::Trigger { force: false, override_hold: true, targets: None, reason: None };
    host.order(trigger);
    assert_eq!(host.state(), Some(State::Converging));
    assert!(host.run_until(MINUTE, |host| host.world.units[FPM].invocation != before && !host.world.balancers["default"].out));
    host.run(5 * S);
    assert_eq!(host.state(), Some(State::Held));

    let triggered = host.world.units[FPM].invocation.clone();
    host.world.touch("d2");
    host.run(MINUTE);
    assert_eq!(triggered, host.world.units[FPM].invocation);
    assert!(matches!(host.waited(None), Some(Waited::Pending { why }) if why.contains("the database moves")));
    // The deploy that waits has landed before this trigger, which is for it, too.
    host.order(Order::Trigger { force: false, override_hold: true, targets: None, reason: None });
    assert!(host.run_until(MINUTE, |host| matches!(host.waited(None), Some(Waited::Converged { id }) if id == "d2")));
    assert_ne!(triggered, host.world.units[FPM].invocation);
    host.run(5 * S);
    let over = host.world.units[FPM].invocation.clone();
    host.order(Order::Release);
    host.run(MINUTE);
    assert_eq!(over, host.world.units[FPM].invocation, "restarted twice for one deploy");
    host.check_at_rest();
    host.must_be_right();
}
