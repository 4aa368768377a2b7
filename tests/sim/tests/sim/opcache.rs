//! The opcache guard, on hosts whose opcache fills as time goes by.

use restart_agent::core::event::Order;
use restart_agent::core::opcache::OpcacheRules;
use restart_agent::core::policy::{GenerationRules, TargetRules};
use restart_agent::core::status::{State, UnitView};
use sim::host::{Deed, Host, span};
use sim::world::{Fpm, HOUR, MINUTE, S, Unit, Us};

use crate::generations::{host_with, rules};
use crate::given::{FPM, adopted, fpm_rules, policy, pool_rules, with_target, world};

/// Crossed when it has filled by three quarters.
fn guard() -> OpcacheRules {
    OpcacheRules { min_free: Some(32 << 20), min_free_keys: None, max_wasted: None, every: span(MINUTE) }
}

/// In place, behind a load balancer, and just restarted.
fn in_place(fills: Us, opcache: Option<OpcacheRules>) -> Host {
    let mut world = world();
    world.add(Unit::fpm(FPM, Fpm { opcache_fills: fills, ..Fpm::default() }), S);
    let mut policy =
        with_target(policy(), "jobrunner", TargetRules::PhpFpm(restart_agent::core::policy::FpmRules { opcache, ..fpm_rules() }));
    policy.pools.insert("default".to_owned(), pool_rules());
    adopted(world, policy)
}

/// How many rollouts there were, and what the last was for.
fn rollouts(host: &Host) -> (u64, String) {
    let reason = host.status().last_rollout.and_then(|rollout| rollout.reason).unwrap_or_default();
    (host.memory().next_rollout, reason)
}

fn unit(host: &Host) -> UnitView {
    host.status().targets[0].units[0].clone()
}

fn problems(host: &Host) -> String {
    host.status().problems.join("; ")
}

#[test]
fn without_a_guard_nothing_is_asked() {
    let mut host = in_place(HOUR, None);
    host.run(2 * HOUR);
    assert_eq!((host.world.opcache_asked, rollouts(&host).0), (0, 0));
    assert_eq!(unit(&host).opcache, None);
}

#[test]
fn an_opcache_that_crosses_a_bound_is_renewed_each_time_and_asked_once_a_minute() {
    let mut host = in_place(4 * HOUR, Some(guard()));
    assert!(host.run_until(2 * MINUTE, |host| unit(host).opcache.is_some_and(|opcache| opcache.fill.is_some())));
    assert!(!host.run_until(2 * HOUR + 50 * MINUTE, |host| rollouts(host).0 > 0), "{}", rollouts(&host).1);
    let asked = host.world.opcache_asked;
    host.run(5 * MINUTE);
    assert_eq!(host.world.opcache_asked, asked + 5);
    let before = host.world.units[FPM].invocation.clone();
    assert!(host.run_until(10 * MINUTE, |host| rollouts(host).0 == 1 && host.memory().rollout.is_none()));
    assert_ne!(before, host.world.units[FPM].invocation);
    let last = host.status().last_rollout.unwrap();
    assert_eq!((last.by.as_deref(), last.deploy.as_str()), (Some("the opcache guard"), "first"));
    assert!(last.reason.unwrap().contains("31 MiB of its 128 MiB are free, less than min_free = 32 MiB"));
    // It is asked again as soon as it has been renewed.
    host.run(5 * S);
    let opcache = unit(&host).opcache.unwrap();
    assert!(opcache.fill.unwrap().used < 1 << 20 && opcache.note.is_none(), "{:?}", unit(&host));
    assert_eq!((host.state(), problems(&host)), (Some(State::Converged), String::new()));
    host.check_at_rest();
    host.must_be_right();
    assert!(host.run_until(4 * HOUR, |host| rollouts(host).0 == 2));
}

#[test]
fn an_opcache_that_is_too_small_is_renewed_once_and_then_told() {
    let mut host = in_place(16 * MINUTE, Some(guard()));
    host.run(3 * HOUR);
    assert_eq!(rollouts(&host).0, 1);
    assert!(problems(&host).contains("php8.2-fpm.service: its opcache is too small for the code"), "{}", problems(&host));
    assert!(problems(&host).ends_with("raise opcache.memory_consumption"), "{}", problems(&host));
    // A deploy empties it, which tells nothing yet, and an agent that starts anew remembers.
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged) && host.memory().next_rollout == 2));
    host.run(10 * S);
    assert_eq!(problems(&host), "");
    host.later(S, Deed::KillAgent(S));
    host.run(2 * HOUR);
    assert_eq!(rollouts(&host).0, 2);
    assert!(problems(&host).contains("too small"), "{}", problems(&host));
    host.check_at_rest();
    host.must_be_right();
}

#[test]
fn a_hold_comes_first() {
    let mut host = in_place(HOUR, Some(guard()));
    host.order(Order::Hold { reason: "quiet".to_owned(), span: span(2 * HOUR), targets: None });
    host.run(HOUR + 30 * MINUTE);
    assert_eq!(rollouts(&host).0, 0);
    let note = unit(&host).opcache.unwrap().note.unwrap();
    assert!(note.ends_with("a rollout for this waits for the hold of root"), "{note}");
    host.order(Order::Release);
    assert!(host.run_until(2 * MINUTE, |host| rollouts(host).0 == 1));
}

#[test]
fn no_answer_is_no_reason_for_anything() {
    let mut host = in_place(0, Some(guard()));
    host.run(2 * HOUR);
    assert_eq!(rollouts(&host).0, 0);
    let opcache = unit(&host).opcache.unwrap();
    assert_eq!((opcache.fill, opcache.note.as_deref()), (None, Some("no answer in time")));
    assert!(host.world.opcache_asked <= 122, "{}", host.world.opcache_asked);
}

#[test]
fn a_generation_that_crosses_a_bound_gets_a_successor() {
    let mut host = host_with(GenerationRules { opcache: Some(guard()), ..rules() }, |template| template.next.opcache_fills = 4 * HOUR);
    assert_eq!(rollouts(&host).0, 0);
    // Nothing is known of the one that the boot started, until a deploy makes another.
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
    let old = host.world.templates.values().next().unwrap().current().unwrap();
    assert!(host.run_until(4 * HOUR, |host| rollouts(host).0 == 2 && host.memory().rollout.is_none()));
    let new = host.world.templates.values().next().unwrap().current().unwrap();
    assert!(old != new && rollouts(&host).1.contains("min_free"), "{old}, {new}, {:?}", rollouts(&host));
    host.run(2 * MINUTE);
    assert!(host.status().targets[0].units.iter().any(|unit| unit.unit == new && unit.opcache.is_some()));
    let template = host.world.templates.values().next().unwrap();
    assert_eq!((template.refused, template.dropped), (0, 0));
    host.settle();
    host.must_be_right();
}
