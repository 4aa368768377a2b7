//! The drain of php-fpm, and what ends it.

use restart_agent::core::status::State;
use sim::host::{Deed, Host, span};
use sim::world::{Answers, By, Fpm, MINUTE, MS, S};

use crate::given::{FPM, fpm_host};

/// What a deploy waits for after the last request: two polls at most, though the pool and systemd are asked once more.
#[test]
fn the_end_of_the_last_request_is_the_beginning_of_the_restart_t33() {
    for n in 0..25 {
        let mut host = fpm_host(true, Fpm::default());
        set_quiet(&mut host, 0);
        host.world.touch("d2");
        assert!(host.run_until(MINUTE, |host| host.world.balancers["default"].out));
        host.world.begin_request(FPM, 2 * S + n * 2 * MS);
        let in_flight = |host: &Host| host.world.units[FPM].as_fpm().is_some_and(|fpm| !fpm.requests.is_empty());
        assert!(host.run_until(5 * S, |host| !in_flight(host)));
        let ended = host.world.now;
        assert!(host.run_until(S, |host| host.world.sent.contains_key(FPM)));
        let after = host.world.sent[FPM] - ended;
        assert!(after <= 105 * MS, "{n}: {} us", after);
        assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
        host.run(S);
        host.check_at_rest();
        host.must_be_right();
        assert!(host.casualties().is_empty());
    }
}

#[test]
fn what_a_person_stops_in_the_drain_stays_stopped_and_what_that_cut_is_not_ours() {
    for has_status in [true, false] {
        let mut host = fpm_host(true, Fpm { has_status, ..Fpm::default() });
        host.world.touch("d2");
        assert!(host.run_until(MINUTE, |host| host.world.balancers["default"].out));
        host.world.begin_request(FPM, 30 * S);
        host.run(2 * S);
        host.world.person("stop", FPM, By::Person).unwrap();
        assert!(host.run_until(2 * S, |host| host.state() == Some(State::Converged)));
        host.run(MINUTE);
        host.check_at_rest();
        host.must_be_right();
        assert!(!host.world.units[FPM].active.runs(), "it was started");
        assert!(host.casualties().is_empty(), "{:?}", host.casualties());
        assert_eq!(host.world.balancers["default"].by_agent, (1, 1));
        let last = host.memory().last_rollout.clone().unwrap();
        assert!(last.units[0].why.contains("somebody has stopped it"), "{last:?}");
    }
}

#[test]
fn what_a_person_restarts_in_the_drain_needs_only_the_proof() {
    let mut host = fpm_host(true, Fpm::default());
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.world.balancers["default"].out));
    host.world.begin_request(FPM, 30 * S);
    host.run(2 * S);
    host.world.person("restart", FPM, By::Person).unwrap();
    assert!(host.run_until(4 * S, |host| host.state() == Some(State::Converged)));
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
    assert_eq!(host.world.units[FPM].runs.last().map(|(_, by)| *by), Some(By::Person));
    assert!(host.casualties().is_empty(), "{:?}", host.casualties());
}

/// A guess is as old as what it rests on, and says how long the request has run all the same.
#[test]
fn of_a_request_that_is_cut_while_the_status_is_silent_the_whole_time_is_told() {
    let mut host = fpm_host(true, Fpm::default());
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.world.balancers["default"].out));
    let began = host.world.now;
    host.world.begin_request(FPM, 30 * S);
    host.run(2 * S);
    host.world.units.get_mut(FPM).unwrap().as_fpm_mut().unwrap().status = Answers::Not;
    assert!(host.run_until(MINUTE, |host| !host.casualties().is_empty()));
    let casualty = host.casualties().remove(0);
    let ran: f64 = casualty.ran.trim_end_matches('s').parse().unwrap();
    let sent = (host.world.sent[FPM] - began) as f64 / 1e6;
    assert!(!casualty.certain && (ran - sent).abs() < 0.4, "ran {ran}, cut after {sent}");
}

#[test]
fn what_is_cut_without_a_status_page_is_not_called_nothing() {
    for requests in [0, 1, 4] {
        let mut host = fpm_host(true, Fpm { has_status: false, ..Fpm::default() });
        host.world.touch("d2");
        assert!(host.run_until(MINUTE, |host| host.world.balancers["default"].out));
        for _ in 0..requests {
            host.world.begin_request(FPM, 30 * S);
        }
        assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
        host.run(S);
        host.check_at_rest();
        host.must_be_right();
        let casualties = host.casualties();
        let (perhaps, known): (Vec<_>, Vec<_>) = casualties.iter().partition(|casualty| casualty.perhaps);
        assert_eq!(known.len(), requests, "{casualties:?}");
        assert!(known.iter().all(|casualty| !casualty.certain && casualty.name == "(unknown request of pool www)"), "{casualties:?}");
        // With all of the four busy nobody else can have been at one.
        assert_eq!(perhaps.len(), usize::from(requests < 4), "{casualties:?}");
    }
}

/// Neither does the host flap nor the threshold start again.
#[test]
fn an_agent_that_dies_in_the_drain_goes_on_with_it() {
    let mut host = fpm_host(true, Fpm::default());
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.world.balancers["default"].out));
    let out = host.world.now;
    host.world.begin_request(FPM, 60 * S);
    host.later(3 * S, Deed::KillAgent(S));
    assert!(host.run_until(MINUTE, |host| host.world.sent.contains_key(FPM)));
    let after = host.world.sent[FPM] - out;
    assert!((5 * S..6 * S).contains(&after), "cut {after} us after the depool, with a threshold of 5 s");
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
    host.run(S);
    host.check_at_rest();
    host.must_be_right();
    assert_eq!(host.world.balancers["default"].by_agent, (1, 1));
}

fn set_quiet(host: &mut Host, quiet: u64) {
    let mut policy = host.policy.clone();
    policy.pools.values_mut().for_each(|pool| pool.quiet = span(quiet));
    host.later(0, Deed::Policy(Box::new(policy)));
    host.run(S);
}
