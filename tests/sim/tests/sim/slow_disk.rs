//! A disk, or a systemd, that takes longer over what the agent wants than the grace is: the grace counts from when systemd begins the stop.

use restart_agent::core::policy::{After, FpmRules, StrayAction, TargetRules};
use restart_agent::core::status::State;
use sim::host::{Deed, Host, span};
use sim::world::{Body, By, Daemon, Fpm, HOUR, MINUTE, OnTerm, S, Script, Unit, Us, World};

use crate::given::{FPM, SCRIPT, adopted, fpm_rules, policy, script_host, with_target, world};
use crate::services::{WORKER, rules, service_host};
use crate::strays;

/// What is deaf to SIGTERM gets SIGKILL, and has had its grace: the model objects to one that comes earlier.
fn is_killed_after_its_grace(mut host: Host, unit: &str, disk_takes: Us, what: &str) {
    host.world.faults.disk_takes = disk_takes;
    host.world.touch("d2");
    assert!(host.run_until(5 * MINUTE, |host| host.world.sent.contains_key(unit)), "{what} at {}", disk_takes / S);
    // The next thing is written at once.
    host.world.faults.disk_takes = 0;
    let killed = host.run_until(5 * MINUTE, |host| host.world.kill_sent.contains_key(unit));
    assert!(killed, "{what} at {}", disk_takes / S);
    host.run(S);
    host.must_be_right();
    host.heal();
    assert!(host.run_until(5 * MINUTE, |host| host.state() == Some(State::Converged)));
    host.settle();
    host.must_be_right();
}

#[test]
fn no_sigkill_before_the_grace_though_the_disk_takes_longer_than_that() {
    for disk_takes in [S, 4 * S, 6 * S, 9 * S] {
        let script = Script { on_term: OnTerm::Ignores, ..Script::default() };
        is_killed_after_its_grace(script_host(After::Rerun, script, HOUR), SCRIPT, disk_takes, "a script");

        let mut host = service_host(rules(), None, 0);
        host.world.units.get_mut(WORKER).unwrap().body = Body::Daemon(Daemon { on_term: OnTerm::Ignores, ..Daemon::default() });
        let worker = host.world.units.get_mut(WORKER).unwrap();
        worker.processes.values_mut().for_each(|process| process.on_term = OnTerm::Ignores);
        is_killed_after_its_grace(host, WORKER, disk_takes, "a service");

        let mut world = world();
        world.add(Unit::fpm(FPM, Fpm { stubborn_child: true, ..Fpm::default() }), HOUR);
        let rules = FpmRules { term_timeout: span(5 * S), ..fpm_rules() };
        let mut host = adopted(world, with_target(policy(), "jobrunner", TargetRules::PhpFpm(rules)));
        // What its children are lent, that they end with it, it cannot be lent.
        host.world.faults.reload_fails_until = host.world.now + HOUR;
        host.world.begin_request(FPM, HOUR);
        is_killed_after_its_grace(host, FPM, disk_takes, "php-fpm");
    }
}

/// The same of a process outside of every unit.
#[test]
fn a_stray_has_its_grace_though_the_disk_takes_longer_than_that() {
    for disk_takes in [S, 6 * S, 9 * S] {
        let mut host = strays::host(StrayAction::Stop);
        host.world.faults.disk_takes = disk_takes;
        host.world.touch("d2");
        assert!(host.run_until(5 * MINUTE, |host| strays::stray(host, strays::STUBBORN).terms > 0), "{}", disk_takes / S);
        host.world.faults.disk_takes = 0;
        assert!(host.run_until(5 * MINUTE, |host| strays::stray(host, strays::STUBBORN).kills > 0), "{}", disk_takes / S);
        host.run(5 * S);
        host.must_be_right();
    }
}

/// What somebody has started while the restart is being written is what that ends.
#[test]
fn a_service_that_was_started_anew_while_its_restart_was_on_its_way_gets_sigkill_after_its_grace() {
    let restarts = |started: Option<Us>| {
        let mut host = service_host(rules(), None, 0);
        host.world.units.get_mut(WORKER).unwrap().body = Body::Daemon(Daemon { on_term: OnTerm::Ignores, ..Daemon::default() });
        host.world.faults.disk_takes = 3 * S;
        host.world.touch("d2");
        if let Some(at) = started {
            let person = |world: &mut World| drop(world.person("restart", WORKER, By::Person));
            host.later(at - host.world.now, Deed::World("a person", Box::new(person)));
        }
        host
    };
    let mut asked = restarts(None);
    assert!(asked.run_until(5 * MINUTE, |host| host.world.sent.contains_key(WORKER)));
    let mut host = restarts(Some(asked.world.now - S));
    assert!(host.run_until(5 * MINUTE, |host| host.world.sent.contains_key(WORKER)));
    host.world.faults.disk_takes = 0;
    assert!(host.run_until(10 * S, |host| host.world.kill_sent.contains_key(WORKER)));
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
    host.settle();
    host.must_be_right();
}
