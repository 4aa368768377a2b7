//! What of php-fpm only the seeds from [`WIDEST_FROM`] on have: two targets with generations on one host, several pools in one php-fpm, `status` and `status_path`,
//! several scripts that warm, and all bounds of opcaches.
//! Each kind of thing has a stream of its own.

use restart_agent::core::opcache::OpcacheRules;
use restart_agent::core::policy::{Policy, TargetRules};

use super::generations::{self, JOB, Place};
use super::wider::WIDEST_FROM;
use super::{BUSY, Draw};
use crate::host::{Deed, Host, span};
use crate::rng::Rng;
use crate::world::{Fpm, HOUR, Load, MINUTE, MS, Pool, S, STATUS_PATH, World};

const WEB: Place = Place {
    target: "web",
    template: "php-fpm-web@.service",
    symlink: "/run/php/web/current.sock",
    socket_unit: "php-fpm-web.socket",
    id: "w",
};

pub(super) struct WidestFpm {
    /// A second target with generations, if the host has one.
    more: Option<More>,
    pools: Rng,
    fates: Rng,
    status: Rng,
    warm: Rng,
    opcaches: Rng,
}

struct More {
    /// As for the first one, from streams of its own.
    draw: Box<Draw>,
    orders: Rng,
    shared: bool,
}

impl WidestFpm {
    pub(super) fn of(seed: u64) -> Option<WidestFpm> {
        let stream = |salt| Rng::new(seed.wrapping_mul(0x9e37_79b9) ^ salt);
        let more = || More {
            draw: Box::new(Draw {
                rng: stream(0x2f94),
                opcaches: stream(0x2f95),
                codes: None,
                wider: None,
                widest_units: None,
                widest_fpm: None,
            }),
            orders: stream(0x2f96),
            shared: stream(0x2f97).chance(50),
        };
        (seed >= WIDEST_FROM).then(|| WidestFpm {
            more: stream(0x2f93).chance(60).then(more),
            pools: stream(0x9001),
            fates: stream(0xfa7e),
            status: stream(0x57a7),
            warm: stream(0x3a23),
            opcaches: stream(0x09ca),
        })
    }
}

impl Draw {
    /// Its opcache fills up in more ways than one.
    pub(super) fn with_opcache(&mut self, fpm: Fpm) -> Fpm {
        let Some(WidestFpm { opcaches: rng, .. }) = &mut self.widest_fpm else { return fpm };
        // What has run for an hour may be far from full.
        let fills = if fpm.opcache_fills > 0 && rng.chance(60) { rng.between(HOUR, 4 * HOUR) } else { fpm.opcache_fills };
        Fpm {
            opcache_fills: fills,
            opcache_keys_fill: if rng.chance(50) { rng.between(HOUR / 2, 3 * HOUR) } else { 0 },
            opcache_wastes: if rng.chance(50) { rng.between(1, 90) } else { 0 },
            ..fpm
        }
    }

    /// Pools beside `www`, each of which may be asked, and may answer, in a way of its own.
    pub(super) fn with_more_pools(&mut self, fpm: Fpm) -> Fpm {
        let Some(WidestFpm { pools: rng, .. }) = &mut self.widest_fpm else { return fpm };
        let many = *rng.pick(&[0, 0, 1, 2]);
        Fpm { more: ["api", "jobs"].into_iter().take(many).map(|name| pool(rng, name)).collect(), ..fpm }
    }
}

fn pool(rng: &mut Rng, name: &str) -> Pool {
    Pool {
        workers: u32::try_from(rng.between(1, 4)).unwrap(),
        status_listen: rng.chance(70),
        has_status: rng.chance(80),
        status: super::answers(rng),
        load: Load {
            every: if rng.chance(60) { rng.between(20 * MS, 400 * MS) } else { 0 },
            strays_every: if rng.chance(15) { rng.between(200 * MS, 3 * S) } else { 0 },
            short: (3 * MS, 60 * MS),
            long_percent: rng.between(0, 20),
            long: (300 * MS, 12 * S),
            until: u64::MAX,
        },
        held: u32::from(rng.chance(10)),
        ..Pool::new(name)
    }
}

fn more(draw: &mut Draw) -> Option<&mut More> {
    draw.widest_fpm.as_mut()?.more.as_mut()
}

pub(super) fn more_generations(draw: &mut Draw, world: &mut World, policy: &mut Policy) {
    let Some(More { draw, shared, .. }) = more(draw) else { return };
    generations::target(draw, policy, WEB, *shared);
    generations::populate(draw, world, WEB, *shared);
}

pub(super) fn deeds_of_more(draw: &mut Draw, host: &mut Host) {
    let Some(More { draw, orders, .. }) = more(draw) else { return };
    generations::deeds(draw, host, WEB, false);
    // Some deploys are of one of them only.
    for n in 0..orders.between(0, 2) {
        let (at, target) = (orders.between(0, BUSY), *orders.pick(&[WEB.target, JOB.target]));
        let force = orders.chance(15);
        host.later(at, Deed::Touch(format!("id = \"one{n}\"\nforce = {force}\ntargets = [\"{target}\"]\n")));
    }
}

/// Where the rules say that a php-fpm is asked for its status, and for what: as it is, or not.
pub(super) fn status(draw: &mut Draw, world: &World, policy: &mut Policy) {
    let Some(WidestFpm { status: rng, .. }) = &mut draw.widest_fpm else { return };
    for rules in policy.targets.values_mut() {
        let TargetRules::PhpFpm(rules) = rules else { continue };
        let layout = world.units[&rules.unit].as_fpm().unwrap().layout(&world.listen(&rules.unit));
        let pool = rng.pick(&layout.pools);
        let path = if rng.chance(85) { STATUS_PATH } else { "/status" };
        rules.status = match rng.between(0, 9) {
            0 | 1 => Some(pool.listen.clone()),
            2 | 3 => pool.status_listen.clone(),
            4 => Some("/run/php/nobody.sock".to_owned()),
            _ => None,
        };
        rules.status_path = rng.chance(30).then(|| path.to_owned());
    }
}

/// More scripts than one to warm it, and the bounds of its opcache that are no free memory.
pub(super) fn warm_and_opcache(draw: &mut Draw, policy: &mut Policy) {
    let Some(WidestFpm { warm, opcaches, .. }) = &mut draw.widest_fpm else { return };
    for rules in policy.targets.values_mut() {
        let (scripts, opcache) = match rules {
            TargetRules::PhpFpm(rules) => (&mut rules.warm, &mut rules.opcache),
            TargetRules::Generations(rules) => (&mut rules.warm, &mut rules.opcache),
            _ => continue,
        };
        let more = ["/w/api.php?action=warm", "/w/load.php"].into_iter().take(*warm.pick(&[0, 0, 1, 2]));
        scripts.extend(more.map(str::to_owned));
        if opcache.is_none() && opcaches.chance(40) {
            let every = span(opcaches.between(S, 2 * MINUTE));
            *opcache = Some(OpcacheRules { min_free: Some(opcaches.between(1, 100) << 20), min_free_keys: None, max_wasted: None, every });
        }
        if let Some(opcache) = opcache {
            opcache.min_free = opcache.min_free.filter(|_| opcaches.chance(60));
            opcache.min_free_keys = opcaches.chance(50).then(|| opcaches.between(1, 16_500));
            opcache.max_wasted = opcaches.chance(50).then(|| opcaches.between(0, 60));
        }
    }
}

/// What else befalls generations.
pub(super) fn fates(draw: &mut Draw, host: &mut Host) {
    let Some(WidestFpm { fates, .. }) = &mut draw.widest_fpm else { return };
    if !fates.chance(12) {
        return;
    }
    // No web server sends anything to it.
    let (at, second) = (fates.between(0, BUSY), Pool { load: Load::default(), ..pool(fates, "api") });
    let mended = fates.chance(60).then(|| at + fates.between(S, BUSY / 2));
    let befalls = move |world: &mut World| {
        let now = world.now;
        let template = world.templates.get_mut(JOB.template).unwrap();
        if !template.shared {
            template.next.more = vec![second];
            template.second_pool = Some(now);
        }
    };
    host.later(at, Deed::World("the next generations have a second pool", Box::new(befalls)));
    if let Some(at) = mended {
        let mend = |world: &mut World| world.templates.get_mut(JOB.template).into_iter().for_each(|template| template.next.more.clear());
        host.later(at, Deed::World("the next generations have one pool again", Box::new(mend)));
    }
}
