//! Generations of php-fpm, drawn from a seed, and what befalls them.

use restart_agent::core::policy::{AtMax, GenerationRules, Policy, ProofRules, TargetRules};

use super::{BUSY, Draw};
use crate::host::{Deed, Host, span};
use crate::world::{BOOT, Fpm, FpmStart, Load, MS, S, Template, Us, World};

/// What the generations of one target are called, and where they listen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub target: &'static str,
    pub template: &'static str,
    pub symlink: &'static str,
    /// The .socket unit, if all share one.
    pub socket_unit: &'static str,
    /// What the ids of its deploys begin with.
    pub id: &'static str,
}

pub(super) const JOB: Place = Place {
    target: "generations",
    template: "php-fpm-job@.service",
    symlink: "/run/php/job/current.sock",
    socket_unit: "php-fpm-job.socket",
    id: "g",
};

/// Of four hosts one has generations, of these every second one nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Has {
    None,
    Too,
    Only,
}

impl Has {
    pub(super) fn of(seed: u64) -> Has {
        match seed % 8 {
            3 => Has::Too,
            7 => Has::Only,
            _ => Has::None,
        }
    }
}

pub(super) fn target(draw: &mut Draw, policy: &mut Policy, place: Place, shared: bool) {
    let opcache = draw.guard();
    let rng = &mut draw.rng;
    let rules = GenerationRules {
        unit: place.template.to_owned(),
        socket: if shared { place.socket_unit } else { place.symlink }.to_owned(),
        linger: span(rng.between(S, 90 * S)),
        max_generations: u32::try_from(rng.between(2, 4)).unwrap(),
        at_max: if rng.chance(30) { AtMax::EndOldest } else { AtMax::Wait },
        min_available_memory: rng.chance(30).then_some(1 << 30),
        term_timeout: span(rng.between(500 * MS, 8 * S)),
        warm: if rng.chance(30) { vec!["/w/health-check.php".to_owned()] } else { Vec::new() },
        proof: rng.chance(40).then(|| ProofRules { script: "/srv/app/version.php".to_owned() }),
        opcache,
    };
    policy.targets.insert(place.target.to_owned(), TargetRules::Generations(rules));
}

pub(super) fn populate(draw: &mut Draw, world: &mut World, place: Place, shared: bool) {
    let opcache_fills = draw.opcache_fills();
    let rng = &mut draw.rng;
    let next = Fpm {
        workers: u32::try_from(rng.between(2, 8)).unwrap(),
        status_listen: rng.chance(80) || shared,
        has_status: rng.chance(92),
        status: super::answers(rng),
        start: FpmStart::Well(rng.between(30 * MS, 2 * S)),
        opcache_fills,
        ..Fpm::default()
    };
    let next = draw.with_opcache(next);
    let rng = &mut draw.rng;
    let load = Load {
        every: if rng.chance(80) { rng.between(50 * MS, 600 * MS) } else { 0 },
        strays_every: 0,
        short: (3 * MS, 60 * MS),
        long_percent: rng.between(0, 15),
        long: (S, 40 * S),
        until: u64::MAX,
    };
    let mut template = Template::new(place.template, place.symlink, next, load);
    template.shared = shared;
    template.restarts_itself = rng.chance(70);
    if rng.chance(40) {
        template.children = (rng.between(1, 50), rng.between(0, 20 * S));
    }
    world.add_template(template);
}

fn at(host: &mut Host, at: Us, what: &'static str, act: impl FnOnce(&mut World) + 'static) {
    host.later(at, Deed::World(what, Box::new(act)));
}

fn change(host: &mut Host, place: Place, when: Us, what: &'static str, act: impl FnOnce(&mut Template) + 'static) {
    at(host, when, what, move |world| act(world.templates.get_mut(place.template).unwrap()));
}

/// Of the host, so for whatever is started on it.
fn memory_is_short(world: &mut World) {
    let now = world.now;
    for template in world.templates.values_mut() {
        (template.available, template.available_since) = (1 << 28, now);
    }
}

/// More deploys than others see, and what else befalls generations.
pub(super) fn deeds(draw: &mut Draw, host: &mut Host, place: Place, only: bool) {
    let id = place.id;
    for n in 0..draw.rng.between(0, 4) {
        let content = if draw.rng.chance(8) { format!("id = \"{id}{n}\"\nforce = true\n") } else { format!("{id}{n}") };
        let when = draw.time();
        host.later(when, Deed::Touch(content));
    }
    if draw.rng.chance(50) {
        let when = draw.time();
        let mends = when + draw.rng.between(S, BUSY / 2);
        let life = draw.rng.between(0, 4 * S);
        match draw.rng.between(0, 9) {
            0 => change(host, place, when, "the configuration breaks", |template| template.next.config_good = false),
            1 => change(host, place, when, "starts fail", |template| template.next.start = FpmStart::Fails),
            2 => change(host, place, when, "starts hang", |template| template.next.start = FpmStart::NeverReady),
            3 | 4 => change(host, place, when, "what starts dies", move |template| template.next.start = FpmStart::Dies(life)),
            5 => change(host, place, when, "what starts answers no ping", |template| template.next.pings = false),
            6 => change(host, place, when, "what starts serves old code", |template| template.next.old_code = true),
            7 => change(host, place, when, "the symlink cannot be switched", |template| template.unwritable = true),
            8 => at(host, when, "a directory takes the place of the symlink", move |world| world.obstruct(place.template, true)),
            _ => at(host, when, "memory is short", memory_is_short),
        }
        if draw.rng.chance(70) {
            at(host, mends, "generations are mended", World::heal_templates);
        }
    }
    for _ in 0..draw.rng.between(0, 2) {
        let when = draw.time();
        let (verb, which) = (*draw.rng.pick(&["stop", "restart", "restart", "reload", "kill", "start"]), draw.rng.between(0, 3));
        at(host, when, "a person works at a generation", move |world| {
            let template = &world.templates[place.template];
            let unit = match which {
                0 => Some(template.instance("by-hand")),
                1 => world.running(place.template).first().cloned(),
                2 => world.running(place.template).last().cloned(),
                _ => template.current(),
            };
            let unit = unit.unwrap_or_else(|| world.templates[place.template].instance(BOOT));
            world.person_at(verb, &unit);
        });
    }
    if draw.rng.chance(20) {
        let (when, which) = (draw.time(), draw.rng.between(0, 3));
        at(host, when, "a person works at the symlink", move |world| {
            let template = &world.templates[place.template];
            let of = |unit: Option<&String>| unit.map(|unit| template.socket_of(unit));
            let running = world.running(place.template);
            let to = match which {
                0 => None,
                1 => Some("/run/php/job/nobody.sock".to_owned()),
                2 => of(running.first()),
                _ => of(running.last()),
            };
            world.person_leads(place.template, to);
        });
    }
    if only && draw.rng.chance(12) {
        let (when, down) = (draw.time(), draw.rng.between(S, 8 * S));
        host.later(when, Deed::Reboot(down));
    }
}
