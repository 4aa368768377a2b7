//! php-fpm, the balancer, and people at both.

use restart_agent::core::event::Order;
use restart_agent::core::policy::{After, TargetRules};
use restart_agent::core::status::{DepooledBy, State};
use sim::host::{Deed, Host};
use sim::world::{Fpm, FpmStart, HOUR, MINUTE, MS, S, Script, Unit, World};

use super::{rollouts, starts_by_agent};
use crate::given::{FPM, SCRIPT, adopted, fpm_host, fpm_rules, policy, script_rules, with_pool, with_target, world};

fn php(host: &mut Host) -> &mut Fpm {
    host.world.units.get_mut(FPM).unwrap().as_fpm_mut().unwrap()
}

fn turn(host: &mut Host, after: u64, out: bool) {
    host.later(after, Deed::World("a person", Box::new(move |world: &mut World| world.person_turns("default", out))));
}

fn out(host: &Host) -> bool {
    host.world.balancers["default"].out
}

fn done(host: &mut Host) {
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
}

/// Before the agent takes the host out, and after it has put it back. In between nobody can tell: the check says "out" either way.
#[test]
fn a_persons_depool_stays_whenever_it_comes_t07() {
    for before in [10 * S, 3 * S, 1500 * MS] {
        let mut host = fpm_host(true, Fpm::default());
        turn(&mut host, 0, true);
        host.later(before, Deed::Touch("d2".to_owned()));
        host.run(before);
        assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
        done(&mut host);
        assert_eq!((host.world.balancers["default"].by_agent, out(&host)), ((0, 0), true), "{before}");
        assert_eq!(host.status().pools[0].depooled_by, Some(DepooledBy::Other));
        assert_eq!(starts_by_agent(&host, FPM), 1, "it is renewed all the same");
    }
    let mut host = fpm_host(true, Fpm::default());
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, out));
    turn(&mut host, 100 * MS, true);
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
    assert_eq!(host.world.balancers["default"].by_agent, (1, 1), "what the agent has taken out it puts back");
    turn(&mut host, S, true);
    host.run(2 * S);
    host.world.touch("d3");
    assert!(host.run_until(MINUTE, |host| host.status().reached.is_some_and(|reached| reached.id == "d3")));
    done(&mut host);
    assert_eq!((host.world.balancers["default"].by_agent, out(&host)), ((1, 1), true));
}

/// A worker that hangs in the kernel: everything else is renewed, the host stays out while it cannot serve, and it goes on when that ends.
#[test]
fn a_worker_that_no_signal_ends_is_told_and_waited_for_t13() {
    let mut world = world();
    world.add(Unit::fpm(FPM, Fpm::default()), HOUR);
    world.add(Unit::script(SCRIPT, Script::default()), 60 * S);
    let rules = with_target(with_pool(policy(), "default"), "jobrunner", TargetRules::PhpFpm(fpm_rules()));
    let mut host = adopted(world, with_target(rules, "maintenance", TargetRules::Scheduled(script_rules(After::Rerun))));
    host.world.begin_request(FPM, HOUR);
    let pid = php(&mut host).requests.values().next().unwrap().pid;
    let free = host.world.now + 20 * MINUTE;
    host.world.units.get_mut(FPM).unwrap().processes.get_mut(&pid).unwrap().unkillable_until = free;
    host.world.touch("d2");
    let told = |host: &Host| {
        let units = host.status().targets.into_iter().flat_map(|target| target.units);
        units.filter(|unit| unit.unit == FPM).any(|unit| unit.why.contains("SIGKILL"))
    };
    assert!(host.run_until(2 * MINUTE, told), "{:?}", host.status());
    host.run(2 * MINUTE);
    assert_eq!(starts_by_agent(&host, SCRIPT), 1, "the script waits for php-fpm");
    assert!(out(&host), "put back, and nobody serves");
    assert!(matches!(host.state(), Some(State::Failed)), "{:?}", host.status());
    host.run(20 * MINUTE);
    assert!(host.run_until(20 * MINUTE, |host| host.state() == Some(State::Converged)), "{:?}", host.status());
    done(&mut host);
    assert!(!out(&host));
}

/// systemctl reload, SIGUSR2: its workers go, and what they are at with them; the master keeps its old start and, for all that anybody can tell, its
/// old code.
#[test]
fn whoever_reloads_or_restarts_php_fpm_in_a_rollout_does_not_make_it_fail_t19() {
    for verb in ["reload", "restart"] {
        for at in (0..4 * S).step_by(250_000) {
            let mut host = fpm_host(true, Fpm::default());
            host.world.begin_request(FPM, 12 * S);
            host.later(0, Deed::Touch("d2".to_owned()));
            host.later(at, Deed::World("a person", Box::new(move |world| world.person_at(verb, FPM))));
            host.run(at + MS);
            assert!(host.run_until(2 * MINUTE, |host| host.state() == Some(State::Converged)), "{verb} {at}: {:?}", host.status());
            done(&mut host);
            assert!(!out(&host) && host.world.units[FPM].active.runs(), "{verb} {at}");
            assert!(starts_by_agent(&host, FPM) <= 2, "{verb} {at}: {:?}", host.world.units[FPM].runs);
        }
    }
}

/// The restart says that all is well, and it is not: dead before it has answered, dead when it has, or deaf.
#[test]
fn what_is_dead_after_a_good_restart_is_out_of_the_pool_t20() {
    let ways: [fn(&mut Fpm); 4] = [
        |fpm| fpm.start = FpmStart::Dies(MS),
        |fpm| fpm.start = FpmStart::Dies(20 * MS),
        |fpm| fpm.start = FpmStart::Dies(100 * MS),
        |fpm| fpm.pings = false,
    ];
    for (n, way) in ways.into_iter().enumerate() {
        let mut host = fpm_host(true, Fpm::default());
        way(php(&mut host));
        host.world.touch("d2");
        assert!(host.run_until(2 * MINUTE, |host| host.state() == Some(State::Failed)), "{n}: {:?}", host.status());
        host.run(5 * MINUTE);
        let (outs, backs) = host.world.balancers["default"].by_agent;
        assert!(out(&host) && outs == backs + 1 && starts_by_agent(&host, FPM) <= 4, "{n}: {outs} times out, {backs} times back");
        assert_eq!(host.status().pools[0].depooled_by, Some(DepooledBy::Agent));
        (php(&mut host).start, php(&mut host).pings) = (FpmStart::Well(60 * MS), true);
        assert!(host.run_until(20 * MINUTE, |host| host.state() == Some(State::Converged)), "{n}: {:?}", host.status());
        done(&mut host);
        assert!(!out(&host));
    }
}

/// A release that never boots: few tries, none into systemd's start limit (that is a rule of the simulator), the host out, and said.
#[test]
fn a_release_that_never_boots_is_tried_a_few_times_an_hour_t22() {
    let mut host = fpm_host(true, Fpm::default());
    php(&mut host).start = FpmStart::Fails;
    host.world.touch("d2");
    host.run(HOUR);
    host.must_be_right();
    let tries = starts_by_agent(&host, FPM);
    assert!((2..=16).contains(&tries), "{tries} tries in an hour");
    assert!(out(&host));
    let status = host.status();
    assert!(status.state == State::Failed && status.deadline.is_some() && status.next.as_deref() == Some("another try"), "{status:?}");
    php(&mut host).start = FpmStart::Well(60 * MS);
    assert!(host.run_until(20 * MINUTE, |host| host.state() == Some(State::Converged)));
    done(&mut host);
    assert!(!out(&host));
}

/// A balancer that is reloaded forgets who is out. It is told again, a few times; then the agent says who stands in its way.
#[test]
fn a_balancer_that_forgets_is_told_again_and_not_for_ever_t32() {
    for every in [700 * MS, 2 * S, 4 * S] {
        let mut host = fpm_host(true, Fpm::default());
        host.world.begin_request(FPM, 3 * MINUTE);
        host.world.touch("d2");
        for n in 1..=(40 * S / every) {
            host.later(n * every, Deed::World("the balancer is reloaded", Box::new(|world| world.person_turns("default", false))));
        }
        host.run(40 * S);
        let (depools, _) = host.world.balancers["default"].by_agent;
        assert!((2..=20).contains(&depools), "depooled {depools} times in 40 s, forgotten every {every} us");
        assert!(host.run_until(5 * MINUTE, |host| host.state() == Some(State::Converged)), "{every}: {:?}", host.status());
        done(&mut host);
        assert!(!out(&host), "{every}");
    }
}

/// Wherever it is: nothing more is begun, the host goes back, and the deploy is done when the hold of the abort has ended.
#[test]
fn an_abort_at_any_moment_gives_the_host_back_and_forgets_no_deploy_t34() {
    let mut aborted = 0;
    for at in (400 * MS..6 * S).step_by(130_000) {
        let mut host = fpm_host(true, Fpm::default());
        host.world.begin_request(FPM, 13 * S);
        host.world.touch("d2");
        host.later(at, Deed::Order(Order::Abort { reason: Some("thought better of it".to_owned()) }));
        host.run(at + MS);
        let held = host.memory().hold.is_some();
        aborted += usize::from(held);
        assert!(host.run_until(MINUTE, |host| !out(host) && host.memory().rollout.is_none()), "{at}: {:?}", host.status());
        let started = starts_by_agent(&host, FPM);
        host.run(30 * MINUTE);
        assert_eq!(starts_by_agent(&host, FPM), started, "{at}: restarted in the hold");
        assert!(!out(&host), "{at}");
        host.run(45 * MINUTE);
        assert_eq!(host.state(), Some(State::Converged), "{at}: {:?}", host.status());
        done(&mut host);
        assert_eq!(starts_by_agent(&host, FPM), 1, "{at}");
        assert!(rollouts(&host).iter().all(|deploy| deploy == "d2"), "{at}");
    }
    assert!(aborted > 20, "{aborted} of these moments were in a rollout");
}
