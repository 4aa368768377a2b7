//! Generations of php-fpm behind a symlink.

use restart_agent::core::Waited;
use restart_agent::core::effect::{Effect, Outcome};
use restart_agent::core::entry::{Entry, Written};
use restart_agent::core::event::{Event, Order};
use restart_agent::core::policy::{AtMax, GenerationRules, TargetRules};
use restart_agent::core::status::{State, UnitEnd};
use sim::host::{Deed, Host, span};
use sim::world::{Answers, Fpm, FpmStart, Load, MINUTE, MS, S, START, Template, Unit, Us, World};

use crate::given::{adopted, policy, with_target, world};

pub const TEMPLATE: &str = "php-fpm-job@.service";
const SOCKET: &str = "/run/php/job/current.sock";

pub fn rules() -> GenerationRules {
    GenerationRules {
        unit: TEMPLATE.to_owned(),
        socket: SOCKET.to_owned(),
        linger: span(60 * S),
        max_generations: 4,
        at_max: AtMax::Wait,
        min_available_memory: None,
        term_timeout: span(5 * S),
        warm: Vec::new(),
        proof: None,
        opcache: None,
    }
}

/// Short requests, one each 40 ms.
pub fn load() -> Load {
    Load { every: 40 * MS, strays_every: 0, short: (5 * MS, 30 * MS), long_percent: 0, long: (0, 0), until: u64::MAX }
}

pub fn host_with(rules: GenerationRules, change: impl FnOnce(&mut Template)) -> Host {
    let mut world = world();
    let mut template = Template::new(TEMPLATE, SOCKET, Fpm { workers: 6, ..Fpm::default() }, load());
    change(&mut template);
    world.add_template(template);
    adopted(world, with_target(policy(), "jobrunner", TargetRules::Generations(rules)))
}

fn template(host: &Host) -> &Template {
    &host.world.templates[TEMPLATE]
}

fn done(mut host: Host) {
    host.settle();
    host.must_be_right();
}

#[test]
fn a_deploy_starts_a_generation_switches_to_it_and_ends_the_old_one() {
    let mut host = host_with(rules(), |_| {});
    let before = template(&host).current().unwrap();
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
    let after = template(&host).current().unwrap();
    assert_eq!(after, "php-fpm-job@d2-0.service");
    host.run(10 * S);
    assert_eq!(host.world.running(TEMPLATE), [after]);
    assert!(!host.world.units[&before].active.runs());
    assert_eq!((template(&host).refused, template(&host).dropped), (0, 0));
    assert!(host.casualties().is_empty());
    assert!(template(&host).came > 400);
    done(host);
}

/// More long requests than there are workers: no ping is answered over the socket that all share, and status says why.
#[test]
fn what_runs_serves_at_once_when_what_has_just_taken_over_ends() {
    let long = Load { long_percent: 5, long: (90 * S, 120 * S), ..load() };
    let mut host = host_with(GenerationRules { linger: span(300 * S), ..rules() }, |template| template.load = long);
    for id in ["d2", "d3"] {
        host.run(3 * S);
        host.world.touch(id);
        let serves = |host: &Host| template(host).current().is_some_and(|unit| unit.contains(id));
        assert!(host.run_until(MINUTE, |host| serves(host) && host.state() == Some(State::Converged)));
    }
    assert_eq!(host.world.running(TEMPLATE).len(), 3, "{:?}", host.world.running(TEMPLATE));
    let changed = host.world.templates.get_mut(TEMPLATE).unwrap();
    (changed.next.config_good, changed.load) = (false, load());
    for _ in 0..2 {
        let serving = template(&host).current().unwrap();
        host.world.person_at("stop", &serving);
        let another = |host: &Host| template(host).current().is_some_and(|unit| unit != serving && host.world.listens(&unit));
        assert!(host.run_until(2 * S, another), "{serving} is down, and nobody serves");
        host.run(2 * S);
    }
    done(host);
}

/// A count of its requests holds for ten milliseconds, a look at its processes for two hundred.
#[test]
fn an_old_one_ends_with_its_last_request_also_where_looks_take_longer_than_a_count_holds() {
    for look_takes in [40 * MS, 150 * MS] {
        let mut host = host_with(rules(), |_| {});
        host.world.faults.look_takes = look_takes;
        host.world.touch("d2");
        let switched = |host: &Host| host.state() == Some(State::Converged) && host.world.running(TEMPLATE).len() == 2;
        assert!(host.run_until(MINUTE, switched));
        assert!(host.run_until(10 * S, |host| host.world.running(TEMPLATE).len() == 1), "long before its linger is over");
        done(host);
    }
}

#[test]
fn with_all_workers_at_work_after_the_switch_it_serves() {
    let long = Load { every: 100 * MS, long_percent: 100, long: (15 * S, 15 * S), until: 60 * S + START, ..load() };
    let mut host = host_with(rules(), |template| template.load = long);
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)), "{:?}", host.state());
    assert_eq!(template(&host).current().unwrap(), "php-fpm-job@d2-0.service");
    host.run(30 * S);
    assert_eq!(template(&host).current().unwrap(), "php-fpm-job@d2-0.service", "it was switched back");
    assert_eq!(template(&host).dropped, 0);
    done(host);
}

/// The look that is asked for then shows it running: systemd has not come to its stop.
#[test]
fn one_whose_stop_is_on_its_way_when_its_target_leaves_the_configuration_is_told_with_what_it_cuts() {
    for look_takes in [0, 100 * MS, 400 * MS] {
        let long = Load { long_percent: 5, long: (90 * S, 120 * S), ..load() };
        let mut host = host_with(GenerationRules { linger: span(9 * S), ..rules() }, |template| template.load = long);
        let before = template(&host).current().unwrap();
        host.run(3 * S);
        host.world.touch("d2");
        host.world.faults.slowness = 50;
        assert!(host.run_until(2 * MINUTE, |host| host.world.sent.contains_key(&before)));
        (host.world.faults.slowness, host.world.faults.look_takes) = (0, look_takes);
        host.deed(Deed::Policy(Box::new(policy())));
        assert!(host.run_until(MINUTE, |host| host.memory().cutting.is_empty()));
        host.run(10 * S);
        assert!(!host.casualties().is_empty(), "{look_takes}");
        done(host);
    }
}

/// The switch waits for the disk, and somebody restarts meanwhile what is about to serve: that run is proven before it does.
#[test]
fn what_is_restarted_between_its_proof_and_the_switch_is_proven_again() {
    let mut host = host_with(rules(), |_| {});
    let new = "php-fpm-job@d2-0.service";
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.memory().targets["jobrunner"].fresh.contains_key(new)));
    host.deed(Deed::DiskFull);
    host.run(5 * S);
    assert_ne!(template(&host).current().as_deref(), Some(new));
    host.world.person_at("restart", new);
    host.run(10 * S);
    host.deed(Deed::DiskGood);
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
    assert_eq!(template(&host).current().as_deref(), Some(new));
    done(host);
}

const NEW: &str = "php-fpm-job@d2-0.service";

fn by_person(host: &mut Host, after: Us, verb: &'static str, unit: &'static str) {
    host.later(after, Deed::World("a person", Box::new(move |world: &mut World| world.person_at(verb, unit))));
}

fn has_answered(host: &Host) -> bool {
    host.world.units.get(NEW).is_some_and(|unit| template(host).proven.contains(&unit.invocation))
}

/// Its status has no socket of its own, and systemd does not answer: nobody says that it has ended.
#[test]
fn a_generation_that_is_stopped_after_its_ping_gets_no_requests() {
    let mut host = host_with(rules(), |template| template.next.status_listen = false);
    let before = template(&host).current();
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, has_answered));
    host.world.person_at("stop", NEW);
    host.world.faults.systemd_away_until = host.world.now + 6 * S;
    host.run(6 * S);
    host.must_be_right();
    assert_eq!(template(&host).current(), before);
    assert_eq!(template(&host).refused, 0);
    done(host);
}

/// It is down when it is warmed up, and up again at the look after that.
#[test]
fn a_generation_that_is_restarted_in_its_proof_is_proven_again() {
    let rules = GenerationRules { warm: vec!["/w/health-check.php".to_owned()], ..rules() };
    let mut host = host_with(rules, |template| {
        template.next.start = FpmStart::Well(2 * S);
        template.next.status = Answers::Garbage;
    });
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, has_answered));
    by_person(&mut host, 1800 * MS, "restart", NEW);
    let converged = host.run_until(MINUTE, |host| host.state() == Some(State::Converged));
    host.must_be_right();
    assert!(converged);
    assert_eq!(template(&host).current().as_deref(), Some(NEW));
    done(host);
}

/// A directory takes the place of the symlink, which is seen, and is gone again before another generation serves.
#[test]
fn what_served_until_the_switch_lingers_from_there() {
    for tried in [false, true] {
        let mut host = host_with(GenerationRules { linger: span(9 * S), ..rules() }, |template| template.next.status = Answers::Garbage);
        let boot = template(&host).current().unwrap();
        let obstruct = |host: &mut Host, obstructed| host.world.obstruct(TEMPLATE, obstructed);
        host.world.touch("d2");
        assert!(host.run_until(MINUTE, |host| host.world.units.get(NEW).is_some_and(|unit| unit.active.runs())));
        obstruct(&mut host, true);
        assert!(host.run_until(MINUTE, has_answered));
        let lingers = |written: &Written| matches!(&written.entry, Entry::Lingers { unit, .. } if *unit == boot);
        assert!(host.journal.iter().any(lingers));
        if tried {
            let fault = |written: &Written| matches!(&written.entry, Entry::Outcome { outcome: Outcome::Fault(_), .. });
            assert!(host.run_until(MINUTE, |host| host.journal.iter().any(fault)));
        }
        host.run(300 * MS);
        obstruct(&mut host, false);
        assert!(host.world.send(TEMPLATE, 30 * S));
        assert!(host.run_until(MINUTE, |host| template(host).current().as_deref() == Some(NEW)));
        let switched = host.world.now;
        assert!(host.run_until(MINUTE, |host| !host.world.units[&boot].active.runs()));
        host.must_be_right();
        assert!(host.world.now >= switched + 9 * S);
        done(host);
    }
}

/// A person makes the symlink lead to the old one under a hold: that is told, and mended when the hold ends.
#[test]
fn old_code_that_serves_again_under_a_hold_is_not_called_converged() {
    let mut host = host_with(GenerationRules { linger: span(5 * MINUTE), ..rules() }, |_| {});
    let boot = template(&host).leads_to.clone();
    assert!(host.world.send(TEMPLATE, 5 * MINUTE));
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
    host.order(Order::Hold { reason: "a person".to_owned(), span: span(10 * MINUTE), targets: None });
    host.world.person_leads(TEMPLATE, boot);
    host.run(70 * S);
    assert!(!matches!(host.waited(None), Some(Waited::Converged { .. })));
    host.order(Order::Release);
    assert!(host.run_until(20 * S, |host| template(host).current().is_some_and(|current| current.contains("@d2-"))));
    host.must_be_right();
    done(host);
}

/// The agent dies as it switches, a person turns the symlink back, and what has served meanwhile answers no ping any more.
#[test]
fn what_has_served_only_while_no_agent_was_there_finishes_what_it_has() {
    let mut host = host_with(rules(), |_| {});
    let boot = template(&host).leads_to.clone();
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| template(host).current().as_deref() == Some(NEW)));
    host.deed(Deed::KillAgent(5 * S));
    assert!(host.world.send(TEMPLATE, 50 * S));
    host.run(S);
    host.world.person_leads(TEMPLATE, boot);
    host.world.units.get_mut(NEW).and_then(Unit::as_fpm_mut).unwrap().pings = false;
    let bad = |written: &Written| matches!(&written.entry, Entry::ProvenBad { .. });
    assert!(host.run_until(MINUTE, |host| host.journal.iter().any(bad)));
    host.run(5 * S);
    assert!(host.world.at_work(NEW, 0).is_some(), "it was ended with a request in flight");
    done(host);
}

/// It takes requests as soon as it runs, and another deploy lands before it is proven.
#[test]
fn what_shares_its_socket_finishes_what_it_has_taken_before_its_proof() {
    let quiet = Load { every: 0, ..load() };
    let mut host = host_with(GenerationRules { socket: "php-fpm-job.socket".to_owned(), ..rules() }, |template| template.load = quiet);
    // As long as it is at work nobody asks where the symlink leads, which there is none of.
    assert!(host.world.send(TEMPLATE, 50 * S));
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.world.listens(NEW)));
    host.world.connect(NEW, 50 * S, None);
    host.world.units.get_mut(NEW).and_then(Unit::as_fpm_mut).unwrap().pings = false;
    host.world.touch("d3");
    let proven = |host: &Host| host.memory().targets["jobrunner"].current.as_ref().is_some_and(|unit| unit.contains("@d3-"));
    assert!(host.run_until(20 * S, proven), "{:?}", host.world.wrong);
    host.run(10 * S);
    assert!(host.world.at_work(NEW, 0).is_some(), "it was ended with a request in flight");
    host.must_be_right();
}

/// A person stops one in its proof, right before another deploy takes its place: there is room for that, and nobody is ended for it.
#[test]
fn one_that_is_stopped_before_it_is_given_up_takes_no_room() {
    let mut host = host_with(GenerationRules { max_generations: 3, at_max: AtMax::EndOldest, ..rules() }, |_| {});
    assert!(host.world.send(TEMPLATE, 40 * S));
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged) && host.memory().rollout.is_none()));
    assert!(host.world.send(TEMPLATE, 40 * S));
    host.run(6 * S);
    let (boot, third) = ("php-fpm-job@boot.service", "php-fpm-job@d3-1.service");
    host.world.touch("d3");
    assert!(host.run_until(MINUTE, |host| host.memory().rollout.is_some()));
    let began = host.world.now;
    assert!(host.run_until(MINUTE, |host| host.world.listens(third)));
    host.world.units.get_mut(third).and_then(Unit::as_fpm_mut).unwrap().pings = false;
    host.world.touch("d4");
    host.run(began + 4900 * MS - host.world.now);
    host.world.person_at("stop", third);
    host.run(10 * S);
    assert!(template(&host).current().is_some_and(|current| current.contains("@d4-")));
    assert!(host.world.at_work(boot, 0).is_some(), "it was ended with a request in flight");
    done(host);
}

/// Its start waits for the disk, and somebody starts one meanwhile, which leaves no room for it.
#[test]
fn the_room_for_one_that_waits_for_the_disk_is_seen_to_again() {
    let mut host = host_with(GenerationRules { max_generations: 2, ..rules() }, |_| {});
    host.world.touch("d2");
    let starts = |written: &Written| matches!(written.entry, Entry::GenerationStarts { .. });
    assert!(host.run_until(MINUTE, |host| host.journal.iter().any(starts)));
    host.feed(Event::JournalProblem(Some("no space left on device".to_owned())));
    host.run(5 * S);
    host.world.person_at("start", "php-fpm-job@by-hand.service");
    host.run(5 * S);
    assert_eq!(host.world.running(TEMPLATE).len(), 2);
    host.feed(Event::JournalProblem(None));
    assert!(host.run_until(MINUTE, |host| host.state() == Some(State::Converged)));
    assert_eq!(template(&host).most, 2);
    done(host);
}

/// Its status takes a while to say who is at work in the oldest, which is to make room: meanwhile others make it.
#[test]
fn nobody_is_cut_for_room_that_is_there() {
    for later in (0..3000).step_by(50) {
        let rules = GenerationRules { max_generations: 4, at_max: AtMax::EndOldest, ..rules() };
        let mut host = host_with(rules, |template| {
            template.load = Load { every: 100 * MS, long_percent: 30, long: (20 * S, 40 * S), ..load() };
        });
        let oldest = template(&host).current().unwrap();
        host.world.units.get_mut(&oldest).unwrap().as_fpm_mut().unwrap().status = Answers::Slowly(400 * MS);
        for deploy in ["d2", "d3", "d4"] {
            host.world.touch(deploy);
            let reached = |written: &Written| matches!(&written.entry, Entry::Reached { id, .. } if id == deploy);
            assert!(host.run_until(MINUTE, |host| host.journal.iter().any(reached)));
        }
        host.world.touch("d5");
        host.run(later * MS);
        for unit in [NEW, "php-fpm-job@d3-1.service"] {
            host.world.person_at("stop", unit);
        }
        host.run(MINUTE);
        host.must_be_right();
    }
}

/// All share one socket.
fn sharing(change: impl FnOnce(&mut Template)) -> Host {
    host_with(GenerationRules { socket: "php-fpm-job.socket".to_owned(), ..rules() }, |template| {
        template.shared = true;
        change(template);
    })
}

/// It takes requests before its proof, which it does not stand; no new ones after that, unless nobody knows which of its workers are idle.
#[test]
fn one_that_is_bad_finishes_what_it_has_taken_from_the_socket_that_all_share() {
    for says in [true, false] {
        let mut host = sharing(|template| {
            template.load = Load { every: 400 * MS, long_percent: 30, long: (20 * S, 40 * S), ..load() };
            (template.next.workers, template.next.pings) = (60, false);
            template.next.status = if says { Answers::Well } else { Answers::Not };
        });
        host.world.touch("d2");
        let bad = |written: &Written| matches!(&written.entry, Entry::ProvenBad { .. });
        assert!(host.run_until(MINUTE, |host| host.journal.iter().any(bad)));
        let at_work = host.world.at_work(NEW, 0);
        host.run(5 * S);
        assert!(at_work.is_some());
        assert_eq!(host.world.at_work(NEW, 0).is_some(), says, "{:?}", host.world.wrong);
        host.must_be_right();
    }
}

/// As long as its status says nothing it is not waited for.
#[test]
fn one_that_is_bad_finishes_what_it_has_taken_as_soon_as_its_status_answers() {
    for later in (0..2000).step_by(20) {
        let mut host = sharing(|template| {
            template.load = Load { every: 400 * MS, long_percent: 30, long: (20 * S, 40 * S), ..load() };
            (template.next.workers, template.next.pings, template.next.status) = (60, false, Answers::Not);
        });
        host.world.touch("d2");
        let bad = |written: &Written| matches!(&written.entry, Entry::ProvenBad { .. });
        assert!(host.run_until(MINUTE, |host| host.journal.iter().any(bad)));
        host.run(later * MS);
        let now = host.world.now;
        let fpm = host.world.units.get_mut(NEW).unwrap().as_fpm_mut().unwrap();
        (fpm.status, fpm.status_mended) = (Answers::Well, now);
        host.run(5 * S);
        host.must_be_right();
    }
}

/// What is still on its way to let them go on would do so after they are stopped again, and they would take what nobody has counted.
#[test]
fn workers_that_were_not_idle_after_all_go_on_before_any_is_stopped_again() {
    let mut host = sharing(|template| {
        template.load = Load { every: 30 * MS, short: (5 * MS, 200 * MS), long_percent: 30, long: (S, 5 * S), ..load() };
        template.next.workers = 20;
    });
    host.world.touch("d2");
    assert!(host.run_until(MINUTE, |host| template(host).current().as_deref() == Some(NEW)));
    host.world.units.get_mut("php-fpm-job@boot.service").unwrap().as_fpm_mut().unwrap().status = Answers::Sometimes(50);
    host.world.faults.slowness = 100;
    host.run(MINUTE);
    let (mut under_way, mut times) = (None, 0);
    for written in &host.journal {
        match &written.entry {
            Entry::Intent { id, effect: Effect::Retire { .. } } => (under_way, times) = (Some(*id), times + 1),
            Entry::Intent { effect: Effect::Freeze { .. }, .. } => assert_eq!(under_way, None, "{:?}", written.at),
            Entry::Outcome { id, .. } if under_way == Some(*id) => under_way = None,
            _ => {}
        }
    }
    assert!(times > 3);
    host.must_be_right();
}

/// The new one is gone while idle workers of the old one, which serves again, are being told to end: those are not let go on before that.
#[test]
fn one_that_serves_again_while_its_idle_workers_are_told_to_end_loses_nothing() {
    for later in (0..3000).step_by(20) {
        let mut host = sharing(|template| {
            template.load = Load { every: 60 * MS, short: (5 * MS, 600 * MS), ..load() };
            template.next.status = Answers::Slowly(200 * MS);
        });
        host.world.touch("d2");
        assert!(host.run_until(MINUTE, |host| master_is_stopped(host, "php-fpm-job@boot.service")));
        host.world.units.get_mut("php-fpm-job@boot.service").unwrap().as_fpm_mut().unwrap().status = Answers::Slowly(200 * MS);
        host.run(later * MS);
        host.world.person_at("stop", NEW);
        host.run(20 * S);
        host.must_be_right();
    }
}

/// Its status takes long to say that nobody is at work, and until the stop somebody may be.
#[test]
fn one_that_shares_its_socket_is_not_ended_with_what_it_has_taken_since_it_was_seen_to_be_idle() {
    for after in (510..900).step_by(10) {
        let mut host = sharing(|template| {
            template.load = Load { every: 1200 * MS, short: (300 * MS, 900 * MS), ..load() };
            template.next.workers = 2;
            template.next.status = Answers::Slowly(after * MS);
        });
        host.world.touch("d2");
        host.run(50 * S);
        host.must_be_right();
    }
}

fn master_is_stopped(host: &Host, unit: &str) -> bool {
    let unit = &host.world.units[unit];
    unit.processes.get(&unit.main_pid).is_some_and(|master| master.frozen)
}

/// A person restarts it after its master was stopped, so that it takes nothing new: the new master has workers of its own, starts others, and is
/// stopped as well.
#[test]
fn one_that_is_restarted_while_it_is_kept_from_new_requests_finishes_what_it_has_taken_since() {
    for later in (0..3000).step_by(150) {
        let mut host = sharing(|template| template.load = Load { every: 300 * MS, short: (100 * MS, 400 * MS), ..load() });
        let first = "php-fpm-job@boot.service";
        host.world.send(TEMPLATE, 40 * S);
        host.world.touch("d2");
        assert!(host.run_until(MINUTE, |host| master_is_stopped(host, first)));
        host.run(later * MS);
        let old = host.world.units[first].main_pid;
        host.world.person_at("restart", first);
        let stops_the_new_one = |host: &Host| host.world.units[first].main_pid != old && master_is_stopped(host, first);
        assert!(host.run_until(10 * S, stops_the_new_one), "{later}");
        done(host);
    }
}

/// Two take over from it, one after the other, and are gone: its master, which was stopped so that it takes nothing new, goes on, while an older one's
/// stays stopped.
#[test]
fn the_last_one_left_takes_requests_again_though_it_was_being_ended() {
    for later in (0..2000).step_by(50) {
        let mut host = sharing(|template| template.load = Load { every: 100 * MS, long_percent: 30, long: (20 * S, 40 * S), ..load() });
        let times_taken_over = |host: &Host, by: &str| {
            host.journal.iter().filter(|written| matches!(&written.entry, Entry::Switched { unit, .. } if unit == by)).count()
        };
        let [first, second, third, fourth] = ["php-fpm-job@boot.service", NEW, "php-fpm-job@d3-1.service", "php-fpm-job@d4-2.service"];
        for (deploy, before) in [("d2", first), ("d3", second)] {
            host.world.touch(deploy);
            assert!(host.run_until(MINUTE, |host| master_is_stopped(host, before)), "{deploy}");
        }
        host.world.touch("d4");
        assert!(host.run_until(MINUTE, |host| times_taken_over(host, fourth) == 1));
        host.run(later * MS);
        host.world.person_at("stop", third);
        host.world.person_at("kill", fourth);
        assert!(host.run_until(MINUTE, |host| times_taken_over(host, second) > 1), "{later}");
        host.run(100 * MS);
        assert_eq!((master_is_stopped(&host, first), master_is_stopped(&host, second)), (true, false), "{later}");
        host.run(MINUTE);
        host.must_be_right();
    }
}

/// It is the old one again that serves then, as the agent has seen.
#[test]
fn one_that_dies_while_the_old_one_is_kept_from_new_requests_is_not_called_renewed() {
    for life in (1900..2500).step_by(4) {
        let mut host = sharing(|template| template.restarts_itself = false);
        host.world.templates.get_mut(TEMPLATE).unwrap().next.start = FpmStart::Dies(life * MS);
        host.world.faults.look_takes = 40 * MS;
        host.world.touch("d2");
        host.run(10 * S);
        host.must_be_right();
        let mut lingers = false;
        for written in &host.journal {
            match &written.entry {
                Entry::Lingers { unit, .. } if unit == "php-fpm-job@boot.service" => lingers = true,
                Entry::Switched { unit, .. } if unit == "php-fpm-job@boot.service" => lingers = false,
                Entry::UnitEnded(end) if end.unit == NEW && end.what == UnitEnd::Renewed => assert!(lingers, "{life}"),
                _ => {}
            }
        }
    }
}

/// It dies right before its time is over and comes up again by itself: when it was last seen, it had no workers yet.
#[test]
fn of_one_that_was_seen_before_it_was_up_and_says_nothing_it_is_told_that_some_may_be_cut() {
    for later in (0..5000).step_by(100) {
        let mut host = sharing(|template| {
            template.load = Load { every: 30 * MS, short: (S, 3 * S), ..load() };
            (template.next.status, template.next.start) = (Answers::Not, FpmStart::Well(1800 * MS));
        });
        let first = "php-fpm-job@boot.service";
        host.world.units.get_mut(first).unwrap().as_fpm_mut().unwrap().status = Answers::Not;
        host.world.faults.look_takes = 500 * MS;
        host.world.touch("d2");
        assert!(host.run_until(MINUTE, |host| template(host).current().as_deref() == Some(NEW)));
        host.run(MINUTE + later * MS);
        host.world.person_at("kill", first);
        host.run(30 * S);
        host.check_casualties();
        host.must_be_right();
    }
}
