//! Of scripts, services and strays, what only the seeds from [`WIDEST_FROM`] on have: units that a target excludes; services of which only some processes carry
//! code; timers that count from a start or an end; units that are masked, or refuse a manual stop, from one moment on; processes outside of every unit. Each
//! has a stream of its own.

use std::time::Duration;

use restart_agent::core::policy::{Policy, StrayAction, StrayRules, TargetRules};
use restart_agent::core::seen::Load;

use super::wider::WIDEST_FROM;
use super::{BUSY, Draw};
use crate::check::us;
use crate::host::{Deed, Host, span};
use crate::rng::Rng;
use crate::world::{Bar, Body, Daemon, MINUTE, MS, Moment, OnTerm, Pounce, S, Schedule, Us, World};

/// Pids of strays are larger than any of a unit's.
const STRAYS_FROM: u32 = 1_000_000;

pub(super) struct WidestUnits {
    excludes: Rng,
    codes: Rng,
    bars: Rng,
    strays: Rng,
    timers: Rng,
}

impl WidestUnits {
    pub(super) fn of(seed: u64) -> Option<WidestUnits> {
        let stream = |salt| Rng::new(seed.wrapping_mul(0x9e37_79b9) ^ salt);
        (seed >= WIDEST_FROM).then(|| WidestUnits {
            excludes: stream(0xe8c1),
            codes: stream(0x5c0d),
            bars: stream(0xba25),
            strays: stream(0x57a2),
            timers: stream(0x71e5),
        })
    }
}

impl Draw {
    /// What starts a script: some count from its start, or from its end.
    pub(super) fn schedule(&mut self) -> Schedule {
        let Some(WidestUnits { timers, .. }) = &mut self.widest_units else { return Schedule::Calendar };
        *timers.pick(&[Schedule::Calendar, Schedule::Calendar, Schedule::SinceEnd, Schedule::SinceStart])
    }

    /// A service of which only what runs php carries code.
    pub(super) fn made_daemon(&mut self, daemon: Daemon, code: &[String]) -> Daemon {
        let Some(WidestUnits { codes, .. }) = self.widest_units.as_mut().filter(|_| !code.is_empty()) else { return daemon };
        let loops = if codes.chance(60) { codes.between(S, 40 * S) } else { 0 };
        Daemon { php: true, loops, tidies: codes.between(10 * MS, 8 * S), ..daemon }
    }
}

/// What is excluded, and what of a service carries code.
pub(super) fn rules(draw: &mut Draw, policy: &mut Policy) {
    let Some(WidestUnits { excludes, codes, strays, .. }) = &mut draw.widest_units else { return };
    for rules in policy.targets.values_mut() {
        let (units, exclude) = match rules {
            TargetRules::Scheduled(rules) => (&rules.units, &mut rules.exclude),
            TargetRules::Service(rules) => {
                if codes.chance(40) {
                    rules.code = vec!["php*".to_owned()];
                }
                (&rules.units, &mut rules.exclude)
            }
            _ => continue,
        };
        if excludes.chance(45) {
            let prefix = units[0].trim_end_matches("*.service");
            exclude.push(format!("{prefix}{}.service", *excludes.pick(&["0", "1", "*0", "*1"])));
        }
    }
    if strays.chance(40) {
        let rules = StrayRules {
            code: vec!["php*".to_owned()],
            action: *strays.pick(&[StrayAction::Report, StrayAction::Notify, StrayAction::Stop, StrayAction::Stop]),
            drain_timeout: span(strays.between(0, 20 * S)),
            term_timeout: span(strays.between(500 * MS, 8 * S)),
        };
        policy.targets.insert("strays".to_owned(), TargetRules::Strays(rules));
    }
}

fn at(host: &mut Host, at: Us, what: &'static str, act: impl FnOnce(&mut World) + 'static) {
    host.later(at, Deed::World(what, Box::new(act)));
}

/// What befalls units and strays.
pub(super) fn deeds(draw: &mut Draw, host: &mut Host) {
    let Some(WidestUnits { bars, strays, .. }) = &mut draw.widest_units else { return };
    let units = host.world.units.values().filter(|unit| !matches!(unit.body, Body::Fpm(_)));
    let units: Vec<(String, bool)> = units.map(|unit| (unit.name.clone(), unit.load == Load::Masked)).collect();
    for (unit, masked) in units {
        if masked && bars.chance(40) {
            let (when, unit) = (bars.between(0, BUSY), unit.clone());
            at(host, when, "a person unmasks a unit", move |world| world.person_lifts(&unit, Bar::Masked));
        } else if !masked && bars.chance(20) {
            bar(bars, host, &unit);
        }
    }
    if host.policy.targets.contains_key("strays") {
        some_strays(strays, host);
    }
}

/// One of them, at some time, or right before what the agent does to it.
fn bar(bars: &mut Rng, host: &mut Host, unit: &str) {
    let bar = if bars.chance(60) { Bar::Masked } else { Bar::RefusesStop };
    let lasts = bars.chance(50).then(|| if bars.chance(50) { bars.between(50 * MS, 3 * S) } else { bars.between(3 * S, 2 * MINUTE) });
    let drain = match host.world.target_of(unit) {
        Some((_, TargetRules::Scheduled(rules))) => rules.drain_timeout,
        Some((_, TargetRules::Service(rules))) => rules.drain_timeout,
        _ => Duration::ZERO,
    };
    let pounce = |when, after| Pounce { unit: unit.to_owned(), bar, when, after, lasts };
    let when = match bars.between(0, 9) {
        // It goes on with what it was before any of this.
        0 | 1 => 0,
        2 | 3 => bars.between(0, BUSY),
        4 | 5 => return host.world.pounces.push(pounce(Moment::Prepared, bars.between(0, 500 * MS))),
        6 => return host.world.pounces.push(pounce(Moment::Sent, bars.between(0, 3 * MS))),
        // At the end of its drain.
        _ => {
            let deploy = bars.between(0, BUSY);
            host.later(deploy, Deed::Touch("barred".to_owned()));
            (deploy + us(host.policy.stamp.settle + drain)).saturating_sub(bars.between(0, 600 * MS))
        }
    };
    let unit = unit.to_owned();
    at(host, when, "a person bars a unit", move |world| world.person_bars(&unit, bar, lasts));
}

/// Where people, cron and programs run what carries code, and where nobody may touch it.
fn some_strays(strays: &mut Rng, host: &mut Host) {
    let excluded: Vec<String> = host.world.units.keys().filter(|name| host.world.is_excluded(name)).cloned().collect();
    for n in 0..u32::try_from(strays.between(1, 6)).unwrap_or(1) {
        let (cgroup, transient) = match strays.between(0, 9) {
            0..=3 => (format!("/user.slice/user-33.slice/session-{n}.scope"), true),
            4 => ("/system.slice/cron.service".to_owned(), false),
            5 => (format!("/system.slice/run-{n}.service"), true),
            6 => ("/system.slice/website.service".to_owned(), false),
            7 if !excluded.is_empty() => (format!("/system.slice/{}", strays.pick(&excluded)), false),
            _ => (String::new(), false),
        };
        let on_term = match strays.between(0, 4) {
            0..=2 => OnTerm::Dies,
            3 => OnTerm::Exits { status: 0, after: strays.between(10 * MS, 20 * S) },
            _ => OnTerm::Ignores,
        };
        let lasts = strays.chance(40).then(|| strays.between(S, 2 * MINUTE));
        let contained = strays.chance(10);
        let when = if strays.chance(50) { 0 } else { strays.between(0, BUSY) };
        at(host, when, "a stray begins", move |world| {
            let now = world.now;
            world.add_stray(STRAYS_FROM + n, &cgroup, transient, on_term);
            let stray = world.strays.last_mut().unwrap();
            stray.seen.contained = contained;
            stray.ends = lasts.map(|lasts| now + lasts);
        });
    }
}
