//! php-fpm in place.

use restart_agent::core::policy::{FpmRules, PoolRules, ProofRules, TargetRules};
use restart_agent::core::status::State;
use sim::explore::Story;
use sim::host::{Deed, Host, span};
use sim::world::{Answers, Balancer, By, Fpm, FpmStart, HOUR, Hook, Load, MS, S, Unit, Us, World};

use super::{abort, and, begins, deploy, deploys, emergency, hold, release, then, trigger};
use crate::given::{FPM, adopted, fpm_host, fpm_rules, policy, pool_rules, with_pool, with_target, world};

const OTHER: &str = "php8.4-fpm.service";

/// Short requests, and some that outlast the drain.
fn load() -> Load {
    Load { every: 200 * MS, strays_every: 0, short: (5 * MS, 30 * MS), long_percent: 25, long: (10 * S, 20 * S), until: u64::MAX }
}

fn busy() -> Fpm {
    Fpm { workers: 20, load: load(), ..Fpm::default() }
}

/// Behind a load balancer and at work, with a deploy.
fn work() -> Host {
    deploy(fpm_host(true, busy()))
}

fn with_answers(status: Answers) -> Host {
    deploy(fpm_host(true, Fpm { status, ..busy() }))
}

/// The rules changed before anything happens.
fn ruled(change: impl Fn(&mut FpmRules, &mut PoolRules), fpm: Fpm) -> Host {
    let (mut rules, mut pool) = (fpm_rules(), pool_rules());
    change(&mut rules, &mut pool);
    let mut world = world();
    world.add(Unit::fpm(FPM, fpm), HOUR);
    let mut policy = with_target(policy(), "jobrunner", TargetRules::PhpFpm(rules));
    policy.pools.insert("default".to_owned(), pool);
    adopted(world, policy)
}

/// Two php-fpm in one bracket.
fn two(one: Fpm, other: Fpm) -> Host {
    let mut world = world();
    world.add(Unit::fpm(FPM, one), HOUR);
    world.add(Unit::fpm(OTHER, other), HOUR);
    let rules = with_target(with_pool(policy(), "default"), "jobrunner", TargetRules::PhpFpm(fpm_rules()));
    let other = FpmRules { unit: OTHER.to_owned(), drain_timeout: span(3 * S), ..fpm_rules() };
    adopted(world, with_target(rules, "other", TargetRules::PhpFpm(other)))
}

/// One php-fpm in two pools.
fn two_pools() -> Host {
    let mut world = world();
    world.add(Unit::fpm(FPM, busy()), HOUR);
    let rules = with_target(policy(), "jobrunner", TargetRules::PhpFpm(fpm_rules()));
    adopted(world, with_pool(with_pool(rules, "default"), "videoscaler"))
}

fn balancer(world: &mut World, change: impl FnOnce(&mut Balancer)) {
    change(world.balancers.get_mut("default").unwrap());
}

fn fpm(world: &mut World, change: impl FnOnce(&mut Fpm)) {
    change(world.units.get_mut(FPM).unwrap().as_fpm_mut().unwrap());
}

/// One of the pool's commands does this until it is mended.
fn hooked(which: &'static str, hook: Hook, until: Us) -> Host {
    let set = move |world: &mut World, hook: Hook| {
        balancer(world, |balancer| match which {
            "depool" => balancer.depool = hook,
            "repool" => balancer.repool = hook,
            _ => balancer.check = hook,
        });
    };
    let host = then(work(), 0, "a command of the pool changes its ways", move |world| set(world, hook));
    then(host, until, "it works again", move |world| set(world, Hook::Works(50 * MS)))
}

/// php-fpm is broken, and mended then.
fn broken(until: Us, change: impl FnOnce(&mut Fpm) + 'static) -> Host {
    let host = then(work(), 0, "php-fpm is broken", move |world| fpm(world, change));
    then(host, until, "php-fpm is mended", |world| {
        fpm(world, |fpm| (fpm.config_good, fpm.pings, fpm.old_code, fpm.start) = (true, true, false, FpmStart::Well(60 * MS)));
    })
}

fn by_agent(host: &Host) -> (u32, u32) {
    host.world.balancers["default"].by_agent
}

/// How often it was started by the agent.
fn restarts(host: &Host) -> usize {
    host.world.units[FPM].runs.iter().filter(|(_, by)| *by == By::Agent).count()
}

fn once(host: &Host) -> bool {
    restarts(host) == 1 && (!host.world.balancers.contains_key("default") || by_agent(host) == (1, 1))
}

pub fn stories() -> Vec<Story> {
    let mut stories = vec![
        Story::new("fpm: idle, no pool", 20, || deploy(fpm_host(false, Fpm::default()))).shows(once).as_planned(),
        Story::new("fpm: busy, no pool", 25, || deploy(fpm_host(false, busy()))).shows(|host| !host.casualties().is_empty()),
        Story::new("fpm: idle", 20, || deploy(fpm_host(true, Fpm::default()))).shows(once).as_planned(),
        Story::new("fpm: busy", 25, work).shows(|host| once(host) && !host.casualties().is_empty()).as_planned(),
        Story::new("fpm: all workers busy", 25, || {
            deploy(fpm_host(
                true,
                Fpm { workers: 2, load: Load { long_percent: 90, every: 50 * MS, long: (30 * S, 40 * S), ..load() }, ..Fpm::default() },
            ))
        })
        .shows(|host| host.casualties().len() >= 2),
        Story::new("fpm: no status page", 25, || deploy(fpm_host(true, Fpm { has_status: false, ..busy() }))).shows(once),
        Story::new("fpm: its status on its main socket", 25, || deploy(fpm_host(true, Fpm { status_listen: false, ..busy() }))).shows(once),
        Story::new("fpm: its status is mute", 25, || with_answers(Answers::Not)).shows(once),
        Story::new("fpm: its status is slow", 25, || with_answers(Answers::Slowly(800 * MS))).shows(once),
        Story::new("fpm: its status is garbage", 25, || with_answers(Answers::Garbage)).shows(once),
        Story::new("fpm: its status answers sometimes", 25, || with_answers(Answers::Sometimes(50))).shows(once),
        Story::new("fpm: two pools", 25, || deploy(two_pools()))
            .shows(|host| host.world.balancers.values().all(|balancer| balancer.by_agent == (1, 1)))
            .as_planned(),
        Story::new("fpm: two of two pools, one fails to let go", 40, || {
            let mut host = two_pools();
            host.world.balancers.get_mut("videoscaler").unwrap().depool = Hook::Exits(1);
            deploy(host)
        })
        .shows(|host| host.world.balancers["default"].by_agent.0 > 1),
        Story::new("fpm: held while the second of two pools is asked", 40, || {
            let mut host = two_pools();
            host.world.balancers.get_mut("videoscaler").unwrap().check = Hook::Works(S);
            and(and(deploy(host), S, hold(None)), 10 * S, release())
        })
        .shows(|host| host.world.balancers["default"].by_agent == (2, 2) && host.world.balancers["videoscaler"].by_agent == (1, 1)),
        Story::new("fpm: warm-up and proof", 25, || {
            let proof = Some(ProofRules { script: "/srv/app/version.php".to_owned() });
            deploy(ruled(|rules, _| (rules.proof, rules.warm) = (proof.clone(), vec!["/w/health.php".to_owned()]), busy()))
        })
        .shows(once),
        Story::new("fpm: no time to drain", 20, || {
            deploy(ruled(|rules, pool| (rules.drain_timeout, pool.quiet) = (span(0), span(0)), busy()))
        })
        .shows(once),
        Story::new("fpm: requests keep coming", 25, || {
            deploy(fpm_host(true, Fpm { load: Load { strays_every: 200 * MS, ..load() }, ..busy() }))
        })
        .shows(once),
        Story::new("fpm: a child that ignores SIGTERM", 40, || deploy(fpm_host(true, Fpm { stubborn_child: true, ..busy() }))).shows(once),
        Story::new("fpm: a slow balancer", 40, || {
            let mut host = fpm_host(true, busy());
            balancer(&mut host.world, |balancer| balancer.delay = 2 * S);
            deploy(host)
        })
        .shows(once),
    ];
    for (which, hook, name) in [
        ("depool", Hook::Exits(1), "fails"),
        ("depool", Hook::Hangs, "hangs"),
        ("depool", Hook::Lies, "lies"),
        ("depool", Hook::WorksAndFails, "fails and works"),
        ("repool", Hook::Exits(1), "fails"),
        ("repool", Hook::Hangs, "hangs"),
        ("repool", Hook::Lies, "lies"),
        ("repool", Hook::WorksAndFails, "fails and works"),
        ("check", Hook::Exits(3), "does not know"),
        ("check", Hook::Hangs, "hangs"),
    ] {
        stories.push(Story::new(format!("fpm: {which} {name}"), 50, move || hooked(which, hook, 20 * S)));
    }
    for (at, name) in [(200 * MS, "before the deploy"), (3 * S, "in the drain"), (6500 * MS, "at the restart")] {
        let out = move || then(work(), at, "a person depools", |world| world.person_turns("default", true));
        stories.push(Story::new(format!("fpm: a person depools {name}"), 30, out).shows(move |host| at > S || by_agent(host).0 == 0));
        let put_in = move || then(work(), at, "a person repools", |world| world.person_turns("default", false));
        stories.push(Story::new(format!("fpm: a person repools {name}"), 40, put_in));
    }
    for (verb, at) in [("restart", 3 * S), ("stop", 3 * S), ("restart", 6500 * MS), ("stop", 6500 * MS)] {
        let build = move || then(work(), at, "a person", move |world| drop(world.person(verb, FPM, By::Person)));
        stories.push(Story::new(format!("fpm: a person does systemctl {verb} after {} ms", at / MS), 30, build));
    }
    stories.extend([
        Story::new("fpm: its configuration is broken", 60, || broken(20 * S, |fpm| fpm.config_good = false))
            .shows(|host| restarts(host) == 1 && by_agent(host).0 == 1),
        Story::new("fpm: its restart fails", 120, || broken(20 * S, |fpm| fpm.start = FpmStart::Fails)).shows(|host| restarts(host) > 1),
        Story::new("fpm: it never becomes ready", 150, || broken(60 * S, |fpm| fpm.start = FpmStart::NeverReady)),
        Story::new("fpm: it dies right after it is ready", 60, || broken(20 * S, |fpm| fpm.start = FpmStart::Dies(300 * MS))),
        Story::new("fpm: it answers no ping", 60, || broken(20 * S, |fpm| fpm.pings = false)),
        Story::new("fpm: it starts slowly", 60, || {
            let host = work();
            then(host, 0, "it starts slowly from now on", |world| fpm(world, |fpm| fpm.start = FpmStart::Well(20 * S)))
        })
        .shows(once),
        Story::new("fpm: in an emergency", 20, || and(fpm_host(true, busy()), 0, emergency()))
            .shows(|host| restarts(host) == 1 && by_agent(host).0 == 0),
        Story::new("fpm: an emergency in the drain", 20, || and(work(), 3 * S, emergency())).shows(|host| restarts(host) == 1),
        Story::new("fpm: held before the deploy", 40, || {
            and(and(and(fpm_host(true, busy()), 0, hold(None)), S, Deed::Touch("d2".to_owned())), 15 * S, release())
        })
        .shows(once),
        Story::new("fpm: triggered", 20, || and(fpm_host(true, busy()), 0, trigger(false, false))).shows(once),
        Story::new("fpm: triggered over a hold", 30, || {
            and(and(and(fpm_host(true, busy()), 0, hold(None)), S, trigger(false, true)), 20 * S, release())
        })
        .shows(once),
        Story::new("fpm: triggered in the drain", 40, || and(work(), 3 * S, trigger(false, false))),
        Story::new("fpm: two deploys in 10 ms", 25, || deploys(fpm_host(true, busy()), &[0, 10 * MS])).shows(once),
        Story::new("fpm: a deploy in the drain", 30, || deploys(fpm_host(true, busy()), &[0, 3 * S]))
            .shows(|host| host.casualties().len() < 40),
        Story::new("fpm: a deploy at the restart", 40, || deploys(fpm_host(true, busy()), &[0, 6650 * MS]))
            .shows(|host| restarts(host) == 2),
        Story::new("fpm: a deploy each second", 60, || {
            deploys(fpm_host(true, busy()), &[0, S, 2 * S, 3 * S, 4 * S, 5 * S, 6 * S, 7 * S, 8 * S, 9 * S])
        })
        .shows(|host| restarts(host) <= 3),
        Story::new("fpm: a deploy that had begun", 25, || {
            and(and(fpm_host(true, busy()), 0, begins("d2")), 3 * S, Deed::Touch("d2".to_owned()))
        })
        .shows(once),
        Story::new("fpm: two in one bracket", 30, || deploy(two(busy(), Fpm::default()))).shows(once).as_planned(),
        Story::new("fpm: two, of which one is broken", 40, || deploy(two(busy(), Fpm { config_good: false, ..Fpm::default() })))
            .shows(|host| host.status().state == State::Converged && restarts(host) == 1),
        Story::new("fpm: two, of which one is held in the drain", 40, || {
            and(and(deploy(two(busy(), busy())), 2 * S, hold(Some(&["other"]))), 20 * S, release())
        })
        .shows(|host| restarts(host) == 1),
        Story::new("fpm: a deploy of one of two", 30, || {
            and(two(busy(), busy()), 0, Deed::Touch("id = \"d2\"\ntargets = [\"other\"]\n".to_owned()))
        })
        .shows(|host| restarts(host) == 0),
        Story::new("fpm: the pool leaves the configuration in the drain", 40, || {
            let host = work();
            let mut less = host.policy.clone();
            less.pools.clear();
            let full = host.policy.clone();
            and(and(host, 3 * S, Deed::Policy(Box::new(less))), 20 * S, Deed::Policy(Box::new(full)))
        }),
        Story::new("fpm: the target leaves the configuration in the drain", 40, || {
            let host = work();
            let mut less = host.policy.clone();
            less.targets.clear();
            let full = host.policy.clone();
            and(and(host, 3 * S, Deed::Policy(Box::new(less))), 20 * S, Deed::Policy(Box::new(full)))
        }),
    ]);
    for (ms, phase) in
        [(100, "before it begins"), (560, "on the way out"), (3000, "in the drain"), (6560, "at the restart"), (6700, "on the way back")]
    {
        let at = ms * MS;
        stories.push(Story::new(format!("fpm: aborted {phase}"), 40, move || and(and(work(), at, abort()), 12 * S, release())));
        stories.push(Story::new(format!("fpm: held {phase}"), 40, move || and(and(work(), at, hold(None)), 12 * S, release())));
    }
    stories
}
