//! Long-running services that somebody stops, or that do not come up.

#![allow(clippy::unwrap_used, reason = "a test")]

use restart_agent::core::entry::Entry;
use restart_agent::core::policy::{ServiceRules, TargetRules};
use restart_agent::core::seen::Load;
use restart_agent::core::status::{State, UnitEnd};
use sim::host::{Deed, Host, span};
use sim::world::{Body, By, Daemon, MINUTE, MS, OnTerm, S, Starts, Unit, Unmet, Us};

use crate::given::{policy, with_target};
use crate::services::{WORKER, rules, service_host, starts};

/// It runs, and ends, or starts, like that from now on.
fn becomes(host: &mut Host, daemon: Daemon) {
    host.world.units.get_mut(WORKER).unwrap().body = Body::Daemon(daemon);
}

/// What runs already, too.
fn ends_by(host: &mut Host, on_term: OnTerm) {
    becomes(host, Daemon { on_term, ..Daemon::default() });
    let worker = host.world.units.get_mut(WORKER).unwrap();
    worker.processes.values_mut().for_each(|process| process.on_term = on_term);
}

fn slowly() -> OnTerm {
    OnTerm::Exits { status: 0, after: 3 * S }
}

fn a_person_stops_it(host: &mut Host, after: Us) {
    host.later(after, Deed::World("a person stops it", Box::new(|world| drop(world.person("stop", WORKER, By::Person)))));
}

/// What has become of it, as history tells.
fn ends(host: &Host) -> Vec<(UnitEnd, String)> {
    let end = |entry: &Entry| if let Entry::UnitEnded(end) = entry { Some((end.what, end.why.clone())) } else { None };
    host.journal.iter().filter_map(|written| end(&written.entry)).collect()
}

fn kinds(host: &Host) -> Vec<UnitEnd> {
    ends(host).into_iter().map(|(end, _)| end).collect()
}

fn somebody_has_stopped_it() -> Vec<(UnitEnd, String)> {
    vec![(UnitEnd::Finished, "somebody has stopped it".to_owned())]
}

fn converges(host: &mut Host) {
    assert!(host.run_until(5 * MINUTE, |host| host.state() == Some(State::Converged)));
    host.run(10 * S);
    host.check_at_rest();
    host.must_be_right();
}

/// It is still at its end when its request and its loan have been taken back, and its restart would be next.
#[test]
fn a_service_that_was_asked_and_that_somebody_stops_stays_down_whenever_what_it_was_lent_comes_back() {
    for after in (18 * S..24 * S).step_by(200_000) {
        let mut host = service_host(ServiceRules { checkpoint_timeout: span(2 * S), ..rules() }, None, 0);
        ends_by(&mut host, slowly());
        host.world.touch("d2");
        assert!(host.run_until(MINUTE, |host| host.world.asked.contains(WORKER)));
        host.world.faults.reload_fails_until = host.world.now + 20 * S;
        a_person_stops_it(&mut host, after);
        converges(&mut host);
        let restarted = host.world.sent.contains_key(WORKER);
        assert!(restarted || ends(&host) == somebody_has_stopped_it(), "a person stops it {} ms after its request", after / MS);
    }
}

/// systemd forgets it as soon as it has ended, so that not even its run can be told from another.
#[test]
fn a_service_that_somebody_stops_in_its_drain_is_told_as_stopped_whether_systemd_keeps_it_or_not() {
    for unreferenced in [false, true] {
        let mut host = service_host(ServiceRules { drain_timeout: span(2 * S), ..rules() }, None, 0);
        host.world.units.get_mut(WORKER).unwrap().unreferenced = unreferenced;
        ends_by(&mut host, slowly());
        host.world.touch("d2");
        a_person_stops_it(&mut host, 1500 * MS);
        converges(&mut host);
        assert_eq!(starts(&host), [By::Systemd]);
        assert_eq!(ends(&host), somebody_has_stopped_it());
    }
}

/// Nobody has restarted it when its grace is over: what a person stops is not to be up again.
#[test]
fn a_service_that_somebody_stops_in_its_drain_and_that_does_not_end_gets_sigkill_of_ours_and_stays_down() {
    for cooperates in [false, true] {
        let checkpoint_timeout = span(if cooperates { 2 * S } else { 0 });
        let mut host = service_host(ServiceRules { drain_timeout: span(2 * S), checkpoint_timeout, ..rules() }, None, 0);
        ends_by(&mut host, OnTerm::Ignores);
        host.world.touch("d2");
        a_person_stops_it(&mut host, 1500 * MS);
        let stopped = host.world.now + 1500 * MS;
        assert!(host.run_until(MINUTE, |host| !host.world.units[WORKER].active.runs()));
        let lasted = host.world.now - stopped;
        assert!((5 * S..8 * S).contains(&lasted), "it has ended {} ms after a person has stopped it", lasted / MS);
        converges(&mut host);
        assert_eq!(starts(&host), [By::Systemd]);
        assert_eq!(ends(&host), somebody_has_stopped_it());
    }
}

/// It ignores SIGTERM in its start, too.
#[test]
fn a_service_that_somebody_stops_while_it_comes_up_from_our_restart_and_that_does_not_end_stays_down() {
    let mut host = service_host(rules(), None, 0);
    becomes(&mut host, Daemon { on_term: OnTerm::Ignores, starts: Starts::Well(30 * S), ..Daemon::default() });
    host.world.touch("d2");
    host.run(3 * S);
    a_person_stops_it(&mut host, S);
    host.run(MINUTE);
    converges(&mut host);
    assert_eq!(starts(&host), [By::Systemd, By::Agent]);
    assert!(!host.world.units[WORKER].active.runs());
    assert_eq!(ends(&host), somebody_has_stopped_it());
}

/// From the restart for a deploy that landed half a minute ago.
fn does_not_come_up(starts: Starts) -> Host {
    let mut host = service_host(rules(), None, 0);
    becomes(&mut host, Daemon { starts, ..Daemon::default() });
    host.world.touch("d2");
    host.run(30 * S);
    host
}

/// It exits with 0 on what is wrong with its configuration, so that systemd calls it inactive, as if it had been stopped.
#[test]
fn a_service_that_did_not_come_up_and_has_not_failed_is_brought_up_by_the_next_try() {
    let mut host = does_not_come_up(Starts::Ends(4));
    assert_eq!(kinds(&host), [UnitEnd::Failed]);
    converges(&mut host);
    assert!(host.world.units[WORKER].active.runs());
}

/// systemd does not come to its start, so that it never runs again, and forgets it if nothing refers to it: nobody has stopped it all the same.
#[test]
fn a_service_whose_start_systemd_skips_in_our_restart_is_brought_up_by_the_next_try() {
    for unmet in [Unmet::Condition, Unmet::Assert, Unmet::Dependency] {
        for (unreferenced, agent_dies) in [(false, None), (true, None), (false, Some(S)), (true, Some(S)), (true, Some(30 * S))] {
            // Of one that is down by what it requires nothing tells, to who has not taken it down itself, that nobody has stopped it.
            if (unmet, unreferenced, agent_dies) == (Unmet::Dependency, false, Some(S)) {
                continue;
            }
            let mut host = service_host(rules(), None, 0);
            let worker = host.world.units.get_mut(WORKER).unwrap();
            (worker.unreferenced, worker.unmet) = (unreferenced, Some(unmet));
            host.world.touch("d2");
            if let Some(after) = agent_dies {
                host.later(after, Deed::KillAgent(5 * S));
            }
            host.run(40 * S);
            assert!(kinds(&host).iter().all(|end| *end == UnitEnd::Failed), "{unmet:?}, {unreferenced}, {agent_dies:?}: {:?}", ends(&host));
            host.world.units.get_mut(WORKER).unwrap().unmet = None;
            converges(&mut host);
            assert_eq!(starts(&host), [By::Systemd, By::Agent], "{unmet:?}, forgotten: {unreferenced}, the agent dies: {agent_dies:?}");
            // By now it is whoever stops it who wants it down.
            drop(host.world.person("stop", WORKER, By::Person));
            host.world.touch("d3");
            converges(&mut host);
            assert!(!host.world.units[WORKER].active.runs());
        }
    }
}

/// Whoever has brought it up meanwhile, and stopped it then, wants it down.
#[test]
fn a_service_that_did_not_come_up_and_that_somebody_has_started_and_stopped_since_stays_down() {
    let mut host = does_not_come_up(Starts::Ends(3));
    drop(host.world.person("start", WORKER, By::Person));
    host.run(5 * S);
    drop(host.world.person("stop", WORKER, By::Person));
    converges(&mut host);
    assert!(!host.world.units[WORKER].active.runs());
}

#[test]
fn a_service_that_did_not_come_up_and_that_somebody_masks_is_left() {
    let mut host = does_not_come_up(Starts::Fails(99));
    host.world.units.get_mut(WORKER).unwrap().load = Load::Masked;
    converges(&mut host);
    assert_eq!(kinds(&host), [UnitEnd::Failed, UnitEnd::Left]);
}

/// systemd has taken its start, and tells of it what it tells of one that is up but for its state.
#[test]
fn a_service_that_has_reached_its_checkpoint_is_not_called_renewed_before_it_is_up() {
    for agent_dies in [false, true] {
        let mut host = service_host(ServiceRules { checkpoint_timeout: span(MINUTE), ..rules() }, Some(5 * S), 0);
        let checkpoint = Some(5 * S);
        becomes(&mut host, Daemon { checkpoint, starts: Starts::NeverReady, ..Daemon::default() });
        host.world.touch("d2");
        host.run(30 * S);
        assert_eq!(starts(&host), [By::Systemd, By::Agent]);
        assert_eq!(ends(&host), []);
        becomes(&mut host, Daemon { checkpoint, ..Daemon::default() });
        if agent_dies {
            host.deed(Deed::KillAgent(2 * MINUTE));
            host.run(2 * MINUTE);
        }
        converges(&mut host);
        assert_eq!(starts(&host), [By::Systemd, By::Agent, By::Agent]);
    }
}

/// systemd ends what has not come up in time, and its start job goes on until that is done.
#[test]
fn a_service_whose_start_takes_too_long_is_not_taken_for_one_that_somebody_stops() {
    for agent_dies in [false, true] {
        let mut host = service_host(ServiceRules { checkpoint_timeout: span(MINUTE), ..rules() }, Some(5 * S), 0);
        becomes(&mut host, Daemon { checkpoint: Some(5 * S), starts: Starts::NeverReady, ..Daemon::default() });
        host.world.touch("d2");
        if agent_dies {
            host.run(30 * S);
            host.deed(Deed::KillAgent(2 * S));
        }
        assert!(host.run_until(2 * MINUTE, |host| host.world.units[WORKER].result == "timeout"));
        host.run(S);
        becomes(&mut host, Daemon::default());
        converges(&mut host);
        assert_eq!(starts(&host), [By::Systemd, By::Agent, By::Agent]);
        assert!(host.world.units[WORKER].active.runs());
    }
}

/// The restart of the agent before has stopped it, and its start fails; the one of now was about to ask it.
#[test]
fn a_service_that_fails_in_the_restart_of_an_earlier_agent_is_brought_up() {
    for checkpoint_timeout in [0, MINUTE] {
        let mut host = service_host(ServiceRules { hold_timeout: span(S), ..rules() }, None, 0);
        becomes(&mut host, Daemon { starts: Starts::Fails(1), ..Daemon::default() });
        let worker = host.world.units.get_mut(WORKER).unwrap();
        worker.processes.values_mut().for_each(|process| process.on_term = slowly());
        host.world.touch("d2");
        assert!(host.run_until(MINUTE, |host| host.world.units[WORKER].stop.is_some()));
        host.kill_agent();
        let asks = ServiceRules { drain_timeout: span(20 * S), checkpoint_timeout: span(checkpoint_timeout), ..rules() };
        host.policy = with_target(policy(), "workers", TargetRules::Service(asks));
        host.start_agent();
        host.run(20 * S);
        converges(&mut host);
        assert!(host.world.units[WORKER].active.runs());
    }
}

/// A child of it ignores SIGTERM: systemd is still at its end when the time for its checkpoint is over. What it was lent for being asked comes back then,
/// and must not leave that child to its next run.
#[test]
fn a_service_that_ends_late_at_its_checkpoint_leaves_nothing_behind() {
    for checkpoint in (2 * S..6 * S).step_by(200_000) {
        let mut host = service_host(ServiceRules { checkpoint_timeout: span(5 * S), ..rules() }, None, 0);
        let worker = host.world.units.get_mut(WORKER).unwrap();
        worker.timeout_stop = 3 * S;
        becomes(
            &mut host,
            Daemon { on_term: OnTerm::Ignores, checkpoint: Some(checkpoint), leaves: true, spares: true, ..Daemon::default() },
        );
        assert!(host.world.person("restart", WORKER, By::Person).is_ok());
        host.run(S);
        host.world.touch("d2");
        converges(&mut host);
    }
}

/// What it does after its checkpoint takes longer than it is given for that, and is over just when it is to be killed.
#[test]
fn a_service_that_has_ended_at_its_checkpoint_just_before_our_sigkill_comes_up_again() {
    for stop_post in (4 * S..9 * S).step_by(50_000) {
        let mut host = service_host(ServiceRules { checkpoint_timeout: span(3 * S), ..rules() }, Some(2 * S), 0);
        becomes(&mut host, Daemon { checkpoint: Some(2 * S), stop_post, ..Daemon::default() });
        host.world.faults.look_takes = 200 * MS;
        host.world.touch("d2");
        converges(&mut host);
        assert!(host.world.units[WORKER].active.runs());
    }
}

/// systemd has told the agent before that somebody else has canceled its restart.
#[test]
fn a_service_that_somebody_stops_in_our_restart_and_that_fails_on_that_stays_down_though_the_agent_dies() {
    let mut host = service_host(rules(), None, 0);
    ends_by(&mut host, OnTerm::Exits { status: 143, after: 3 * S });
    host.world.touch("d2");
    a_person_stops_it(&mut host, 1500 * MS);
    host.later(2 * S, Deed::KillAgent(4 * S));
    host.run(10 * S);
    converges(&mut host);
    assert_eq!(starts(&host), [By::Systemd]);
}

/// It is up by systemd's own Restart= before anybody looks again, and a person stops it then; however it ends.
#[test]
fn a_service_that_systemd_has_brought_up_after_our_restart_and_that_somebody_stops_stays_down() {
    for on_term in [OnTerm::Dies, slowly(), OnTerm::Exits { status: 143, after: 3 * S }, OnTerm::Ignores] {
        for after in (300 * MS..2500 * MS).step_by(200_000) {
            let mut host = service_host(rules(), None, 0);
            let worker = host.world.units.get_mut(WORKER).unwrap();
            worker.restarts_itself = true;
            worker.body = Body::Daemon(Daemon { on_term, starts: Starts::Fails(2), ..Daemon::default() });
            host.world.touch("d2");
            assert!(host.run_until(MINUTE, |host| starts(host).len() == 2));
            a_person_stops_it(&mut host, after);
            host.run(20 * S);
            converges(&mut host);
            assert_eq!(starts(&host), [By::Systemd, By::Agent, By::Systemd, By::Systemd], "{on_term:?}, stopped after {} ms", after / MS);
        }
    }
}

/// It has ended at its checkpoint while no agent was there, and is no target's any more.
fn is_owed_its_start(starts: Starts) -> Host {
    let checkpoint = Some(20 * S);
    let mut host = service_host(ServiceRules { checkpoint_timeout: span(MINUTE), ..rules() }, checkpoint, 0);
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.world.asked.contains(WORKER)));
    becomes(&mut host, Daemon { checkpoint, starts, ..Daemon::default() });
    host.kill_agent();
    host.run(30 * S);
    host.policy = policy();
    host.start_agent();
    host
}

/// systemd has taken the start that it was owed, and that has failed.
#[test]
fn a_service_that_is_owed_its_start_is_started_until_it_is_up() {
    for agent_dies in [false, true] {
        let mut host = is_owed_its_start(Starts::Fails(2));
        if agent_dies {
            assert!(host.run_until(MINUTE, |host| starts(host).len() == 2));
            host.deed(Deed::KillAgent(S));
        }
        host.run(20 * S);
        host.must_be_right();
        assert_eq!(starts(&host), [By::Systemd, By::Agent, By::Agent, By::Agent], "the agent dies: {agent_dies}");
        assert_eq!(ends(&host).last().map(|(end, _)| *end), Some(UnitEnd::Renewed));
        assert_eq!(host.status().problems, Vec::<String>::new());
    }
}

#[test]
fn a_service_that_is_owed_its_start_and_does_not_come_up_is_told_as_failed_and_tried_ever_more_rarely() {
    let mut host = is_owed_its_start(Starts::Fails(4));
    host.run(20 * S);
    let failed = |host: &Host| ends(host).iter().filter(|(end, _)| *end == UnitEnd::Failed).count();
    assert_eq!((starts(&host).len(), failed(&host)), (4, 1));
    assert!(host.status().problems.iter().any(|problem| problem.contains("does not come up")), "{:?}", host.status().problems);
    host.run(5 * MINUTE);
    host.must_be_right();
    assert_eq!((starts(&host).len(), failed(&host)), (6, 1));
    assert_eq!(ends(&host).last().map(|(end, _)| *end), Some(UnitEnd::Renewed));
    assert_eq!(host.status().problems, Vec::<String>::new());
}

/// The agent that has restarted it is dead by the time that it fails.
#[test]
fn a_service_that_comes_up_slowly_from_the_restart_of_an_earlier_agent_is_watched_until_it_is_up() {
    for (begun, times) in [(Starts::Well(20 * S), 2), (Starts::NeverReady, 3)] {
        let mut host = service_host(rules(), None, 0);
        becomes(&mut host, Daemon { starts: begun, ..Daemon::default() });
        host.world.touch("d2");
        host.run(3 * S);
        becomes(&mut host, Daemon::default());
        host.deed(Deed::KillAgent(2 * S));
        host.run(10 * S);
        assert_ne!(host.state(), Some(State::Converged));
        converges(&mut host);
        assert!(host.world.units[WORKER].active.runs());
        assert_eq!(starts(&host).len(), times);
    }
}

/// By the rules that there are by now nobody would have asked it.
#[test]
fn a_service_that_an_earlier_agent_has_asked_is_asked_no_more_when_it_is_restarted_by_other_rules() {
    let mut host = service_host(ServiceRules { checkpoint_timeout: span(MINUTE), ..rules() }, None, 0);
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.world.asked.contains(WORKER)));
    host.kill_agent();
    host.run(20 * S);
    host.policy = with_target(policy(), "workers", TargetRules::Service(rules()));
    host.start_agent();
    converges(&mut host);
    assert_eq!(starts(&host), [By::Systemd, By::Agent]);
}

/// Its start was only taken by systemd: nobody tells the agent that somebody's stop has canceled it.
#[test]
fn a_service_that_has_ended_at_its_checkpoint_and_that_somebody_stops_in_its_next_start_stays_down() {
    for after in (4 * S..8 * S).step_by(250_000) {
        let mut host = service_host(ServiceRules { checkpoint_timeout: span(MINUTE), ..rules() }, None, 0);
        becomes(&mut host, Daemon { on_term: slowly(), starts: Starts::Well(20 * S), checkpoint: Some(2 * S), ..Daemon::default() });
        let worker = host.world.units.get_mut(WORKER).unwrap();
        worker.processes.values_mut().for_each(|process| process.on_term = slowly());
        host.world.touch("d2");
        a_person_stops_it(&mut host, after);
        converges(&mut host);
        assert_eq!(starts(&host), [By::Systemd, By::Agent], "a person stops it {} ms after the deploy", after / MS);
        assert!(!host.world.units[WORKER].active.runs());
    }
}

/// Before any look has met its start, or has found it up.
#[test]
fn a_service_that_somebody_stops_as_soon_as_we_have_started_it_stays_down() {
    for (checkpoint, on_term) in [(0, OnTerm::Dies), (0, slowly()), (2 * S, OnTerm::Dies), (2 * S, slowly())] {
        for after in (0..100 * MS).step_by(5_000) {
            let mut host = service_host(ServiceRules { checkpoint_timeout: span(30 * checkpoint), ..rules() }, None, 0);
            let checkpoint = Some(checkpoint).filter(|at| *at > 0);
            becomes(&mut host, Daemon { on_term, checkpoint, ..Daemon::default() });
            host.world.faults.look_takes = 50 * MS;
            host.world.touch("d2");
            assert!(host.run_until(MINUTE, |host| starts(host).len() == 2));
            a_person_stops_it(&mut host, after);
            converges(&mut host);
            assert_eq!(starts(&host), [By::Systemd, By::Agent], "{on_term:?}, {checkpoint:?}, stopped after {} ms", after / MS);
        }
    }
}

/// The agent dies with its restart written down, and not sent.
fn restart_is_only_written(status: i32) -> Host {
    let mut host = service_host(rules(), None, 0);
    ends_by(&mut host, OnTerm::Exits { status, after: 3 * S });
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.world.sent.contains_key(WORKER)));
    host.kill_agent();
    host
}

/// Its restart by the next agent would come while it is still at its end.
#[test]
fn a_service_that_is_up_in_spite_of_an_earlier_agents_restart_and_that_somebody_stops_stays_down() {
    for (checkpoint_timeout, status, dies) in [(0, 0, false), (0, 143, true), (2 * S, 0, true), (2 * S, 143, false)] {
        let mut host = restart_is_only_written(status);
        let waits = ServiceRules { drain_timeout: span(10 * S), checkpoint_timeout: span(checkpoint_timeout), ..rules() };
        host.policy = with_target(policy(), "workers", TargetRules::Service(waits));
        host.start_agent();
        a_person_stops_it(&mut host, 8 * S + checkpoint_timeout);
        if dies {
            host.later(9 * S + checkpoint_timeout, Deed::KillAgent(500 * MS));
        }
        converges(&mut host);
        assert_eq!(starts(&host), [By::Systemd], "its exit status: {status}, the agent dies again: {dies}");
    }
}

/// Its end may be that of the restart, whose start has failed then.
#[test]
fn a_service_that_somebody_stops_when_the_agent_has_died_in_its_restart_may_be_brought_up() {
    let mut host = restart_is_only_written(143);
    a_person_stops_it(&mut host, S);
    host.run(10 * S);
    host.start_agent();
    converges(&mut host);
    assert_eq!(starts(&host), [By::Systemd, By::Agent]);
}

/// What it was asked and lent is taken back, and it is lent what its restart needs; meanwhile another one is looked at, and it is not.
#[test]
fn a_service_that_somebody_stops_while_its_restart_is_made_ready_stays_down() {
    for after in (2 * S..3 * S).step_by(10_000) {
        let command = |name: &str| vec![format!("/usr/local/bin/{name}-{{unit}}")];
        let asks = ServiceRules { checkpoint_timeout: span(2 * S), ask: command("ask"), unask: command("unask"), ..rules() };
        let mut host = service_host(asks, None, 0);
        host.world.add(Unit::new("queue-other.service", Body::Daemon(Daemon::default())), MINUTE);
        ends_by(&mut host, slowly());
        becomes(&mut host, Daemon { on_term: slowly(), leaves: true, ..Daemon::default() });
        host.world.touch("d2");
        assert!(host.run_until(MINUTE, |host| host.world.asked_at.contains_key(WORKER)));
        a_person_stops_it(&mut host, after);
        converges(&mut host);
    }
}

/// An earlier agent has asked it, and it heeds that between the first look of the next and the emergency that takes the request back.
#[test]
fn what_heeds_an_earlier_agents_request_while_that_is_taken_back_is_started_again() {
    for after in (4800..5800).step_by(20) {
        let mut host = service_host(ServiceRules { checkpoint_timeout: span(MINUTE), ..rules() }, Some(after * MS), 0);
        host.world.faults.look_takes = 150 * MS;
        host.world.touch("d2");
        assert!(host.run_until(MINUTE, |host| host.world.asked.contains(WORKER)));
        host.later(S, Deed::KillAgent(4 * S));
        host.later(3 * S, Deed::Touch("id = \"d3\"\nforce = true\n".to_owned()));
        host.run(30 * S);
        assert!(host.world.units[WORKER].active.runs(), "{after}");
        host.settle();
        host.must_be_right();
    }
}
