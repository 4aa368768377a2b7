//! Hosts, rules, deploys and faults drawn from a seed.

mod generations;
mod wider;
mod widest_fpm;
mod widest_host;
mod widest_units;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use restart_agent::core::deploy::StampFault;
use restart_agent::core::event::Order;
use restart_agent::core::opcache::OpcacheRules;
use restart_agent::core::policy::{
    After, FpmRules, Identity, Overdue, Policy, PoolRules, ProofRules, ScheduledRules, ServiceRules, StampRules, TargetRules,
};

use generations::Has;
use wider::Wider;
pub use wider::{ALL_FROM, WIDEST_FROM};
use widest_fpm::WidestFpm;
use widest_units::WidestUnits;

use crate::host::{Crash, Deed, Host, driven, span};
use crate::rng::Rng;
use crate::world::{
    Answers, Balancer, Body, By, Daemon, Fpm, FpmStart, HOUR, Hook, Load, MINUTE, MS, OnTerm, S, Schedule, Script, Starts, Unit, Us, World,
};

/// Within this the deeds are done.
const BUSY: Us = 150 * S;

struct Draw {
    rng: Rng,
    /// For opcaches and their guards, so that a seed tells the same story beside them as without them.
    opcaches: Rng,
    /// Likewise for what of a script carries code, and what it leaves behind when it ends: in one world of five.
    codes: Option<Rng>,
    wider: Option<Wider>,
    widest_units: Option<WidestUnits>,
    widest_fpm: Option<WidestFpm>,
}

impl Draw {
    fn time(&mut self) -> Us {
        self.rng.between(0, BUSY)
    }

    fn opcache_fills(&mut self) -> Us {
        if self.opcaches.chance(50) { self.opcaches.between(MINUTE, HOUR) } else { 0 }
    }

    fn guard(&mut self) -> Option<OpcacheRules> {
        self.opcaches.chance(20).then(|| OpcacheRules {
            min_free: Some(self.opcaches.between(1, 100) << 20),
            min_free_keys: None,
            max_wasted: None,
            every: span(self.opcaches.between(S, 2 * MINUTE)),
        })
    }

    fn on_term(&mut self) -> OnTerm {
        match self.rng.between(0, 9) {
            0..=4 => OnTerm::Dies,
            5 => OnTerm::Exits { status: 0, after: self.rng.between(10 * MS, 3 * S) },
            6 => OnTerm::Exits { status: 143, after: self.rng.between(10 * MS, 3 * S) },
            7 => OnTerm::Exits { status: 1, after: self.rng.between(10 * MS, 20 * S) },
            _ => OnTerm::Ignores,
        }
    }

    fn fpm(&mut self) -> Fpm {
        let loaded = self.rng.chance(70);
        let strays = if self.rng.chance(15) { self.rng.between(200 * MS, 3 * S) } else { 0 };
        let load = Load {
            every: if loaded { self.rng.between(20 * MS, 400 * MS) } else { 0 },
            strays_every: strays,
            short: (3 * MS, 60 * MS),
            long_percent: self.rng.between(0, 20),
            long: (300 * MS, 12 * S),
            until: u64::MAX,
        };
        Fpm {
            workers: u32::try_from(self.rng.between(1, 5)).unwrap(),
            status_listen: self.rng.chance(70),
            has_status: self.rng.chance(90),
            status: answers(&mut self.rng),
            stubborn_child: self.rng.chance(15),
            held: if self.rng.chance(10) { 1 } else { 0 },
            opcache_fills: self.opcache_fills(),
            load,
            ..Fpm::default()
        }
    }

    fn code(&self) -> Vec<String> {
        if self.codes.is_some() { vec!["php*".to_owned()] } else { Vec::new() }
    }

    /// How it is made, for the code that it carries.
    fn made(&mut self, script: Script) -> Script {
        let Some(codes) = &mut self.codes else { return script };
        let loops = if codes.chance(60) { codes.between(S, 40 * S) } else { 0 };
        let stop_post = if codes.chance(40) { codes.between(50 * MS, 8 * S) } else { 0 };
        Script { loops, tidies: codes.between(10 * MS, 8 * S), stop_post, ..script }
    }

    fn script(&mut self) -> Script {
        let runs = (0..self.rng.between(0, 4)).map(|_| self.rng.between(S, 5 * MINUTE)).collect();
        Script {
            next_runs: runs,
            lasts: self.rng.between(S, 20 * MINUTE),
            exits: if self.rng.chance(15) { 1 } else { 0 },
            on_term: self.on_term(),
            steps: if self.rng.chance(20) { 2 } else { 1 },
            unkillable_for: if self.rng.chance(4) { self.rng.between(30 * S, 300 * S) } else { 0 },
            stubborn_child: self.rng.chance(10),
            checkpoint: self.rng.chance(50).then(|| self.rng.between(10 * MS, 30 * S)),
            holds: if self.rng.chance(30) { self.rng.between(S, 3 * MINUTE) } else { 0 },
            ..Script::default()
        }
    }

    fn hook(&mut self) -> Hook {
        match self.rng.between(0, 9) {
            0..=4 => Hook::Works(self.rng.between(10 * MS, 2 * S)),
            5 => Hook::Works(self.rng.between(4 * S, 6 * S)),
            6 => Hook::Exits(2),
            7 => Hook::Hangs,
            8 => Hook::WorksAndFails,
            _ => Hook::Exits(1),
        }
    }

    fn scope(&mut self, policy: &Policy) -> Option<BTreeSet<String>> {
        if self.rng.chance(70) || policy.targets.is_empty() {
            return None;
        }
        let names: Vec<String> = policy.targets.keys().cloned().collect();
        Some(BTreeSet::from([self.rng.pick(&names).clone()]))
    }
}

fn argv(name: &str) -> Vec<String> {
    vec![format!("/usr/local/bin/{name}")]
}

fn policy(draw: &mut Draw) -> Policy {
    let stamp = StampRules {
        path: "/srv/deploy/stamp".to_owned(),
        settle: span(draw.rng.between(0, S)),
        min_interval: span(draw.rng.between(0, 5 * S)),
        identity: if draw.rng.chance(80) { Identity::Mtime } else { Identity::Content },
        begin_timeout: span(draw.rng.between(S, 60 * S)),
    };
    let mut pools = BTreeMap::new();
    for name in ["jobrunner", "videoscaler"].iter().take(usize::try_from(draw.rng.between(0, 2)).unwrap()) {
        let rules = PoolRules {
            depool: argv("depool"),
            repool: argv("pool"),
            check: argv("pool-state"),
            timeout: span(draw.rng.between(3 * S, 10 * S)),
            quiet: span(draw.rng.between(0, 2 * S)),
        };
        pools.insert((*name).to_owned(), rules);
    }
    let mut targets = BTreeMap::new();
    for n in 0..draw.rng.between(0, 2) {
        let rules = FpmRules {
            unit: format!("php{n}-fpm.service"),
            drain_timeout: span(draw.rng.between(0, 8 * S)),
            term_timeout: span(draw.rng.between(500 * MS, 8 * S)),
            status: None,
            status_path: None,
            warm: if draw.rng.chance(30) { vec!["/w/health-check.php".to_owned()] } else { Vec::new() },
            proof: draw.rng.chance(15).then(|| ProofRules { script: "/srv/app/version.php".to_owned() }),
            opcache: draw.guard(),
        };
        targets.insert(format!("fpm{n}"), TargetRules::PhpFpm(rules));
    }
    for n in 0..draw.rng.between(0, 2) {
        let asks = draw.rng.chance(40);
        let commands = asks && draw.rng.chance(40);
        let rules = ScheduledRules {
            code: draw.code(),
            units: vec![format!("job{n}-*.service")],
            exclude: vec![format!("job{n}-excluded.service")],
            drain_timeout: span(draw.rng.between(0, 20 * S)),
            overdue: *draw.rng.pick(&[None, None, None, Some(Overdue::Stop), Some(Overdue::Finish)]),
            checkpoint_timeout: span(if asks { draw.rng.between(S, 20 * S) } else { 0 }),
            ask: if commands { argv("ask-{unit}") } else { Vec::new() },
            unask: if commands { argv("unask-{unit}") } else { Vec::new() },
            settle_after: span(if draw.rng.chance(75) { 0 } else { draw.rng.between(S, 2 * MINUTE) }),
            hold_timeout: span(draw.rng.between(0, 20 * S)),
            max_interruptions: u32::try_from(draw.rng.between(1, 4)).unwrap_or(1),
            term_timeout: span(draw.rng.between(500 * MS, 10 * S)),
            after: *draw.rng.pick(&[After::Rerun, After::UntilNext, After::Auto]),
            quiet_within: span(draw.rng.between(S, HOUR)),
        };
        targets.insert(format!("jobs{n}"), TargetRules::Scheduled(rules));
    }
    if draw.rng.chance(40) {
        let asks = draw.rng.chance(40);
        let commands = asks && draw.rng.chance(40);
        let rules = ServiceRules {
            code: Vec::new(),
            units: vec!["queue-*.service".to_owned()],
            exclude: Vec::new(),
            drain_timeout: span(if draw.rng.chance(50) { 0 } else { draw.rng.between(0, 10 * S) }),
            checkpoint_timeout: span(if asks { draw.rng.between(S, 20 * S) } else { 0 }),
            hold_timeout: span(if draw.rng.chance(60) { 0 } else { draw.rng.between(0, 20 * S) }),
            overdue: *draw.rng.pick(&[None, None, None, Some(Overdue::Stop), Some(Overdue::Finish)]),
            ask: if commands { argv("ask-{unit}") } else { Vec::new() },
            unask: if commands { argv("unask-{unit}") } else { Vec::new() },
            term_timeout: span(draw.rng.between(500 * MS, 8 * S)),
        };
        targets.insert("workers".to_owned(), TargetRules::Service(rules));
    }
    Policy { unusable: None, stamp, pools, targets }
}

fn populate(draw: &mut Draw, world: &mut World, policy: &Policy) {
    for name in policy.pools.keys() {
        let mut balancer = Balancer::new(name);
        balancer.depool = Hook::Works(draw.rng.between(5 * MS, 2 * S));
        balancer.repool = Hook::Works(draw.rng.between(5 * MS, 2 * S));
        balancer.delay = if draw.rng.chance(30) { draw.rng.between(0, 2 * S) } else { 0 };
        world.balancers.insert(name.clone(), balancer);
    }
    for rules in policy.targets.values() {
        match rules {
            TargetRules::PhpFpm(rules) => {
                let fpm = draw.fpm();
                let fpm = draw.with_opcache(fpm);
                let mut unit = Unit::fpm(&rules.unit, draw.with_more_pools(fpm));
                unit.restarts_itself = draw.rng.chance(20);
                world.add(unit, HOUR);
            }
            TargetRules::Scheduled(rules) => {
                let prefix = rules.units[0].trim_end_matches("*.service").to_owned();
                for n in 0..draw.rng.between(1, 4) {
                    let name = if draw.rng.chance(8) { format!("{prefix}excluded.service") } else { format!("{prefix}{n}.service") };
                    let script = draw.script();
                    let script = draw.made(script);
                    let mut unit = Unit::script(&name, draw.wider_script(script));
                    unit.on_success = draw.rng.chance(10);
                    unit.on_failure = draw.rng.chance(25);
                    unit.refuse_stop = draw.rng.chance(4);
                    unit.refuse_start = draw.rng.chance(6);
                    if draw.rng.chance(10) {
                        unit.timeout_stop = 3 * S;
                    }
                    let runs_for = if draw.rng.chance(75) { draw.rng.between(MS, 60 * S) } else { 0 };
                    world.add(draw.wider_unit(unit), runs_for);
                    if draw.rng.chance(80) {
                        let period = *draw.rng.pick(&[30 * S, MINUTE, 5 * MINUTE, HOUR, 24 * HOUR]);
                        let phase = draw.rng.between(0, period);
                        match draw.schedule() {
                            Schedule::Calendar => world.timer(&name, period, phase),
                            schedule => world.monotonic_timer(&name, schedule, period, phase),
                        }
                    }
                }
            }
            TargetRules::Strays(_) | TargetRules::Generations(_) => {}
            TargetRules::Service(rules) => {
                for n in 0..draw.rng.between(1, 4) {
                    let starts = match draw.rng.between(0, 9) {
                        0 => Starts::Fails(u32::try_from(draw.rng.between(1, 5)).unwrap()),
                        1 => Starts::Well(draw.rng.between(S, 20 * S)),
                        _ => Starts::Well(draw.rng.between(MS, 300 * MS)),
                    };
                    let on_term = draw.on_term();
                    let checkpoint = draw.rng.chance(50).then(|| draw.rng.between(10 * MS, 30 * S));
                    // From an hour ago, when it was started.
                    let holds = if draw.rng.chance(30) { HOUR + draw.rng.between(S, 3 * MINUTE) } else { 0 };
                    let daemon = Daemon { on_term, starts: Starts::Well(10 * MS), checkpoint, holds, ..draw.wider_daemon() };
                    let daemon = draw.made_daemon(daemon, &rules.code);
                    let mut unit = Unit::new(&format!("queue-{n}.service"), Body::Daemon(daemon));
                    unit.refuse_stop = draw.rng.chance(3);
                    world.add(draw.wider_unit(unit), HOUR);
                    if let Body::Daemon(daemon) = &mut world.units.get_mut(&format!("queue-{n}.service")).unwrap().body {
                        daemon.starts = starts;
                    }
                }
            }
        }
    }
}

fn deploys(draw: &mut Draw, host: &mut Host) {
    let policy = host.policy.clone();
    for n in 0..draw.rng.between(1, 3) {
        let at = if n == 0 { draw.rng.between(0, 20 * S) } else { draw.time() };
        let content = match draw.rng.between(0, 19) {
            0..=1 => format!("id = \"d{n}\"\nforce = true\n"),
            2..=3 => match draw.scope(&policy) {
                Some(names) => format!("id = \"d{n}\"\ntargets = {:?}\n", names.iter().collect::<Vec<_>>()),
                None => format!("d{n}"),
            },
            4 => String::new(),
            _ => format!("d{n}"),
        };
        // Some are announced.
        if draw.rng.chance(20) {
            let before = draw.rng.between(MS, 90 * S).min(at);
            host.later(at - before, Deed::Touch(format!("id = \"d{n}\"\nphase = \"begin\"\n")));
        }
        host.later(at, Deed::Touch(content));
    }
    if draw.rng.chance(15) {
        let order = Order::Trigger {
            force: draw.rng.chance(30),
            override_hold: draw.rng.chance(30),
            targets: draw.scope(&policy),
            reason: Some("a person wants it".to_owned()),
        };
        let at = draw.time();
        host.later(at, Deed::Order(order));
    }
    if draw.rng.chance(15) {
        let order = Order::Hold { reason: "a person".to_owned(), span: span(draw.rng.between(S, 120 * S)), targets: draw.scope(&policy) };
        let at = draw.time();
        host.later(at, Deed::Order(order));
        if draw.rng.chance(40) {
            host.later(at + 20 * S, Deed::Order(Order::Release));
        }
    }
    if draw.rng.chance(10) {
        let at = draw.time();
        host.later(at, Deed::Order(Order::Abort { reason: None }));
        if draw.rng.chance(60) {
            let after = draw.rng.between(0, 60 * S);
            host.later(at + after, Deed::Order(Order::Release));
        }
    }
}

/// What a status page does.
fn answers(rng: &mut Rng) -> Answers {
    match rng.between(0, 19) {
        0 => Answers::Not,
        1 => Answers::Slowly(rng.between(10 * MS, 2 * S)),
        2 => Answers::Sometimes(rng.between(5, 60)),
        3 => Answers::Garbage,
        _ => Answers::Well,
    }
}

fn set(host: &mut Host, at: Us, what: &'static str, act: impl FnOnce(&mut World) + 'static) {
    host.later(at, Deed::World(what, Box::new(act)));
}

fn faults(draw: &mut Draw, host: &mut Host) {
    let policy = host.policy.clone();
    let pools: Vec<String> = policy.pools.keys().cloned().collect();
    let units: Vec<String> = host.world.units.values().filter(|unit| !unit.instance).map(|unit| unit.name.clone()).collect();
    let fpms: Vec<String> = units.iter().filter(|name| host.world.units[*name].as_fpm().is_some()).cloned().collect();
    if draw.rng.chance(10) {
        host.world.faults.lost_hints = *draw.rng.pick(&[20, 100]);
    }
    if draw.rng.chance(20) {
        host.world.faults.slowness = draw.rng.between(1, 60);
    }
    for pool in &pools {
        if draw.rng.chance(20) {
            let (at, hook, which, pool) = (draw.time(), draw.hook(), draw.rng.between(0, 2), pool.clone());
            set(host, at, "a pool command changes its ways", move |world| {
                let balancer = world.balancers.get_mut(&pool).unwrap();
                match which {
                    0 => balancer.depool = hook,
                    1 => balancer.repool = hook,
                    _ => {
                        balancer.check = if hook == Hook::WorksAndFails {
                            Hook::Exits(2)
                        } else if hook == Hook::Exits(1) {
                            Hook::Exits(3)
                        } else {
                            hook
                        }
                    }
                }
            });
        }
        if draw.rng.chance(15) {
            for _ in 0..draw.rng.between(1, 3) {
                let (at, out, pool) = (draw.time(), draw.rng.chance(50), pool.clone());
                set(host, at, "a person turns the pool", move |world| world.person_turns(&pool, out));
            }
        }
    }
    for fpm in &fpms {
        if draw.rng.chance(20) {
            let (at, what, name, wait) = (draw.time(), draw.rng.between(0, 4), fpm.clone(), draw.rng.between(S, 20 * S));
            set(host, at, "php-fpm is broken", move |world| {
                let fpm = world.units.get_mut(&name).unwrap().as_fpm_mut().unwrap();
                match what {
                    0 => fpm.config_good = false,
                    1 => fpm.start = FpmStart::Fails,
                    2 => fpm.start = FpmStart::NeverReady,
                    3 => fpm.pings = false,
                    _ => fpm.start = FpmStart::Well(wait),
                }
            });
            if draw.rng.chance(50) {
                let (after, name) = (at + draw.rng.between(0, 60 * S), fpm.clone());
                set(host, after, "php-fpm is mended", move |world| {
                    let fpm = world.units.get_mut(&name).unwrap().as_fpm_mut().unwrap();
                    fpm.config_good = true;
                    fpm.start = FpmStart::Well(60 * MS);
                    fpm.pings = true;
                });
            }
        }
    }
    if draw.rng.chance(20) && !units.is_empty() {
        let (at, name, what) = (draw.time(), draw.rng.pick(&units).clone(), draw.rng.between(0, 2));
        set(host, at, "a person works at a unit", move |world| {
            let _ = match what {
                0 => world.person("start", &name, By::Person),
                1 => world.person("stop", &name, By::Person),
                _ => world.person("restart", &name, By::Person),
            };
        });
    }
    if draw.rng.chance(8) {
        let at = draw.time();
        host.later(at, Deed::DiskFull);
        let after = draw.rng.between(100 * MS, 40 * S);
        host.later(at + after, Deed::DiskGood);
    }
    if draw.rng.chance(8) {
        let at = draw.time();
        host.later(at, Deed::ConfigProblem(Some("config.toml:7: unknown key".to_owned())));
        if draw.rng.chance(70) {
            let (begins, down) = (draw.rng.between(0, 5 * S), draw.rng.between(S, 5 * S));
            host.later(at + begins, Deed::KillAgent(down));
        }
        let after = draw.rng.between(S, 60 * S);
        host.later(at + after, Deed::ConfigProblem(None));
    }
    if draw.rng.chance(8) {
        let (at, after) = (draw.time(), draw.rng.between(100 * MS, 20 * S));
        set(host, at, "systemd goes away", move |world| world.faults.systemd_away_until = world.now + after);
    }
    if draw.rng.chance(8) {
        let (at, after) = (draw.time(), draw.rng.between(S, 60 * S));
        set(host, at, "Reload fails", move |world| world.faults.reload_fails_until = world.now + after);
    }
    if draw.rng.chance(8) {
        let at = draw.time();
        host.later(at, Deed::BusRestarts);
    }
    if draw.rng.chance(5) {
        let at = draw.time();
        host.later(at, Deed::SpoilStamp(StampFault::NotText { path: "/srv/deploy/stamp".to_owned() }));
        let after = draw.rng.between(S, 20 * S);
        host.later(at + after, Deed::Touch("after-the-bad-one".to_owned()));
    }
}

fn changes(draw: &mut Draw, host: &mut Host) {
    if draw.rng.chance(10) {
        let mut changed = host.policy.clone();
        let full = host.policy.clone();
        match draw.rng.between(0, 3) {
            0 => {
                changed.pools.pop_first();
            }
            1 => {
                changed.targets.pop_first();
            }
            2 => {
                changed.targets.pop_last();
            }
            _ => {
                for rules in changed.targets.values_mut() {
                    if let TargetRules::PhpFpm(rules) = rules {
                        rules.drain_timeout = span(2 * S);
                    }
                }
            }
        }
        let at = draw.time();
        host.later(at, Deed::Policy(Box::new(changed)));
        if draw.rng.chance(50) {
            let after = draw.rng.between(S, 60 * S);
            host.later(at + after, Deed::Policy(Box::new(full)));
        }
    }
}

fn deaths(draw: &mut Draw, host: &mut Host) {
    if draw.rng.chance(40) {
        for _ in 0..draw.rng.between(1, 3) {
            let (at, down) = (draw.time(), draw.rng.between(20 * MS, 30 * S));
            host.later(at, Deed::KillAgent(down));
        }
    }
    if draw.rng.chance(50) {
        host.crash = Some(Crash { at: host.points + draw.rng.between(0, 120), down: draw.rng.between(20 * MS, 20 * S), removed: false });
    }
}

/// One host, with all that befalls it.
#[must_use]
pub fn host(seed: u64, told: bool) -> Host {
    let salted = |salt| Rng::new(seed.wrapping_mul(0x9e37_79b9) ^ salt);
    let mut codes = salted(0xc0d1);
    let codes = codes.chance(20).then_some(codes);
    let mut draw = Draw {
        rng: salted(0xabcd),
        opcaches: salted(0xcace),
        codes,
        wider: Wider::of(seed),
        widest_units: WidestUnits::of(seed),
        widest_fpm: WidestFpm::of(seed),
    };
    let mut world = World::new(seed);
    world.story.told = told;
    // By itself, so that a seed whose looks are quick tells the same story as ever. A count of php-fpm's requests holds for less than these.
    world.faults.look_takes = *salted(0x100c).pick(&[0, 0, 0, 0, 15 * MS, 40 * MS]);
    // And some are slower than a last count is good for.
    let mut slow = salted(0x510c);
    if slow.chance(6) {
        world.faults.look_takes = *slow.pick(&[150 * MS, 400 * MS]);
    }
    let has = Has::of(seed);
    let mut policy = policy(&mut draw);
    if has == Has::Only {
        (policy.targets, policy.pools) = Default::default();
    }
    widest_units::rules(&mut draw, &mut policy);
    populate(&mut draw, &mut world, &policy);
    widest_fpm::status(&mut draw, &world, &mut policy);
    if has != Has::None {
        let shared = draw.shared();
        generations::target(&mut draw, &mut policy, generations::JOB, shared);
        generations::populate(&mut draw, &mut world, generations::JOB, shared);
        widest_fpm::more_generations(&mut draw, &mut world, &mut policy);
    }
    widest_fpm::warm_and_opcache(&mut draw, &mut policy);
    world.touch("first");
    world.wanted.clear();
    let mut host = Host::new(world, policy);
    host.start_agent();
    host.run(5 * S);
    deploys(&mut draw, &mut host);
    if draw.rng.chance(75) {
        faults(&mut draw, &mut host);
    }
    if has != Has::None {
        generations::deeds(&mut draw, &mut host, generations::JOB, has == Has::Only);
        widest_fpm::deeds_of_more(&mut draw, &mut host);
        widest_fpm::fates(&mut draw, &mut host);
    }
    changes(&mut draw, &mut host);
    wider::orders(&mut draw, &mut host);
    wider::rules(&mut draw, &mut host);
    wider::reboots(&mut draw, &mut host);
    widest_units::deeds(&mut draw, &mut host);
    widest_host::deeds(seed, &mut host);
    if draw.rng.chance(60) {
        deaths(&mut draw, &mut host);
    }
    host
}

/// Lives one host through, and gives it back at rest.
#[must_use]
pub fn live(seed: u64, told: bool) -> Host {
    let mut host = host(seed, told);
    host.run(BUSY + 20 * S);
    host.settle();
    host
}

/// The same with the engine itself as the agent. `run_dir` is a directory for its status.
#[must_use]
pub fn live_by_engine(seed: u64, told: bool, run_dir: &Path) -> Host {
    driven::live(host(seed, told), BUSY + 20 * S, run_dir)
}
