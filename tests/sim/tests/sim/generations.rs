//! Generations of php-fpm behind a symlink.

use restart_agent::core::event::Order;
use restart_agent::core::policy::{AtMax, GenerationRules, ProofRules, TargetRules};
use restart_agent::core::status::State;
use sim::explore;
use sim::host::{Deed, Host, span};
use sim::world::{Fpm, FpmStart, Load, MINUTE, MS, S, START, Template, World};

use crate::given::{adopted, policy, with_target, world};

const TEMPLATE: &str = "php-fpm-job@.service";
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
fn load() -> Load {
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

/// A host on which deploys and what else befalls it are still to come, and the same with the agent dying at every 23rd point; at each with
/// `EXHAUSTIVE=1`.
fn every_crash(name: &str, seconds: u64, build: impl Fn() -> Host) {
    let built = |told: bool| {
        let mut host = build();
        host.world.story.told = told;
        host.world.story.lines.clear();
        host
    };
    let step = if std::env::var_os("EXHAUSTIVE").is_some() { 1 } else { 23 };
    let explored = explore::crashes(name, seconds * S, step, built);
    assert!(explored.points > 5, "{explored:?}");
}

#[test]
fn the_agent_may_die_at_any_point_of_a_deploy_t06() {
    every_crash("plain", 30, || {
        let mut host = host_with(rules(), |_| {});
        host.later(0, Deed::Touch("d2".to_owned()));
        host
    });
}

/// The way of a deploy with long requests of 20 s, which have children of up to 10 s more.
fn busy(template: &mut Template) {
    template.load = Load { every: 400 * MS, long_percent: 10, long: (5 * S, 20 * S), ..load() };
    template.children = (30, 10 * S);
}

#[test]
fn long_requests_and_their_children_linger_whatever_happens_to_the_agent() {
    every_crash("long", 90, || {
        let mut host = host_with(rules(), busy);
        host.later(5 * S, Deed::Touch("d2".to_owned()));
        host
    });
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

#[test]
fn three_deploys_on_the_heels_of_one_another_t01() {
    every_crash("heels", 90, || {
        let mut host = host_with(rules(), busy);
        for (n, at) in [(2, 0), (3, 1200 * MS), (4, 7 * S)] {
            host.later(at, Deed::Touch(format!("d{n}")));
        }
        host
    });
}

#[test]
fn a_broken_configuration_starts_nothing() {
    every_crash("broken", 40, || {
        let mut host = host_with(rules(), |_| {});
        set(&mut host, 0, |template| template.next.config_good = false);
        host.later(0, Deed::Touch("d2".to_owned()));
        host
    });
}

#[test]
fn what_is_not_well_after_its_start_never_serves() {
    for start in [FpmStart::Fails, FpmStart::NeverReady] {
        every_crash("bad start", 40, || {
            let mut host = host_with(rules(), |_| {});
            set(&mut host, 0, move |template| template.next.start = start);
            host.later(0, Deed::Touch("d2".to_owned()));
            host
        });
    }
    for bad in [|template: &mut Template| template.next.pings = false, |template: &mut Template| template.next.old_code = true] {
        every_crash("bad answers", 40, || {
            let proof = Some(ProofRules { script: "/srv/app/version.php".to_owned() });
            let mut host = host_with(GenerationRules { proof, ..rules() }, |_| {});
            set(&mut host, 0, bad);
            host.later(0, Deed::Touch("d2".to_owned()));
            host
        });
    }
}

#[test]
fn a_crash_loop_after_the_switch_brings_the_old_one_back_t20() {
    for after in [300 * MS, 800 * MS, 1500 * MS, 5 * S] {
        every_crash("crash loop", 40, || {
            let mut host = host_with(rules(), |_| {});
            set(&mut host, 0, move |template| template.next.start = FpmStart::Dies(after));
            host.later(0, Deed::Touch("d2".to_owned()));
            host
        });
    }
}

#[test]
fn what_people_do_to_the_current_one_and_to_the_symlink_t19() {
    for verb in ["stop", "restart", "reload", "kill"] {
        for at in [2 * S, 5 * S + 700 * MS, 6 * S + 500 * MS, 12 * S] {
            every_crash(verb, 40, || {
                let mut host = host_with(rules(), |_| {});
                host.later(5 * S, Deed::Touch("d2".to_owned()));
                let deed = move |world: &mut World| {
                    let current = world.templates[TEMPLATE].current().unwrap();
                    world.person_at(verb, &current);
                };
                host.later(at, Deed::World("a person", Box::new(deed)));
                host
            });
        }
    }
}

#[test]
fn a_symlink_that_a_person_removes_or_turns() {
    for to in [None, Some("/run/php/job/nobody.sock".to_owned()), Some("/run/php/job/boot.sock".to_owned())] {
        for at in [2 * S, 5 * S + 700 * MS, 6 * S + 500 * MS, 12 * S] {
            let to = to.clone();
            every_crash("symlink", 40, move || {
                let mut host = host_with(rules(), |_| {});
                host.later(5 * S, Deed::Touch("d2".to_owned()));
                let to = to.clone();
                host.later(at, Deed::World("a person", Box::new(move |world| world.person_leads(TEMPLATE, to))));
                host
            });
        }
    }
}

#[test]
fn a_reboot_in_the_middle() {
    for at in [0, 900 * MS, 1500 * MS, 3 * S] {
        every_crash("reboot", 60, || {
            let mut host = host_with(rules(), busy);
            host.later(0, Deed::Touch("d2".to_owned()));
            host.later(at, Deed::Reboot(3 * S));
            host
        });
    }
}

#[test]
fn two_run_at_the_agents_start() {
    every_crash("two", 60, || {
        let mut host = host_with(rules(), |_| {});
        let deed = |world: &mut World| world.person_at("start", "php-fpm-job@other.service");
        host.later(0, Deed::World("a person", Box::new(deed)));
        host.later(S, Deed::KillAgent(S));
        host.later(10 * S, Deed::Touch("d2".to_owned()));
        host
    });
}

#[test]
fn at_most_so_many_run() {
    for at_max in [AtMax::Wait, AtMax::EndOldest] {
        every_crash("max", 120, || {
            let mut host = host_with(GenerationRules { max_generations: 2, at_max, ..rules() }, busy);
            for n in 2..5 {
                host.later(n * 2 * S, Deed::Touch(format!("d{n}")));
            }
            host
        });
    }
}

#[test]
fn no_memory_no_generation() {
    every_crash("memory", 60, || {
        let rules = GenerationRules { min_available_memory: Some(1 << 30), ..rules() };
        let mut host = host_with(rules, |template| template.available = 1 << 29);
        host.later(0, Deed::Touch("d2".to_owned()));
        set(&mut host, 25 * S, |template| template.available = 2 << 30);
        host
    });
}

#[test]
fn a_hold_and_an_abort_in_the_middle_t34() {
    for (abort, at) in [(false, 300 * MS), (false, 2500 * MS), (true, 700 * MS), (true, 1500 * MS)] {
        every_crash("hold", 60, || {
            let mut host = host_with(GenerationRules { linger: span(4 * S), ..rules() }, busy);
            host.later(0, Deed::Touch("d2".to_owned()));
            let hold = Order::Hold { reason: "a dump".to_owned(), span: span(40 * S), targets: None };
            host.later(at, Deed::Order(if abort { Order::Abort { reason: None } } else { hold }));
            host
        });
    }
}

#[test]
fn an_emergency_lets_nothing_linger() {
    every_crash("forced", 40, || {
        let mut host = host_with(rules(), busy);
        host.later(5 * S, Deed::Touch("id = \"d2\"\nforce = true\n".to_owned()));
        host
    });
}

#[test]
fn a_symlink_that_cannot_be_switched() {
    every_crash("unwritable", 60, || {
        let mut host = host_with(rules(), |template| template.unwritable = true);
        host.later(0, Deed::Touch("d2".to_owned()));
        set(&mut host, 30 * S, |template| template.unwritable = false);
        host
    });
}

fn set(host: &mut Host, after: u64, act: impl FnOnce(&mut Template) + 'static) {
    let deed = move |world: &mut World| {
        let now = world.now;
        if let Some(template) = world.templates.get_mut(TEMPLATE) {
            act(template);
            template.available_since = now;
        }
    };
    host.later(after, Deed::World("something changes", Box::new(deed)));
}
