//! What a person tells systemd of a unit, whether it runs or not: that it is masked, or refuses a manual stop; and that it is, or does, no longer.

use restart_agent::core::effect::Effect;
use restart_agent::core::seen::Load;

use super::{Faults, Happening, MS, S, Us, World};
use crate::host::Deed;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bar {
    Masked,
    RefusesStop,
}

/// When the last of them came over a unit, and when it went.
#[derive(Debug, Clone, Copy)]
pub struct Barred {
    pub from: Us,
    pub until: Us,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The agent makes it quiet, lends it something, or asks it to stop.
    Prepared,
    /// It sends its stop, its restart, or its start.
    Sent,
}

/// So long after the agent has come to that, and for so long.
#[derive(Debug, Clone)]
pub struct Pounce {
    pub unit: String,
    pub bar: Bar,
    pub when: Moment,
    pub after: Us,
    pub lasts: Option<Us>,
}

impl World {
    pub fn person_bars(&mut self, name: &str, bar: Bar, lasts: Option<Us>) {
        let now = self.now;
        // Of what cannot be reloaded systemd knows nothing.
        if now < self.faults.reload_fails_until {
            let unit = name.to_owned();
            let bars = move |world: &mut World| world.person_bars(&unit, bar, lasts);
            return self.at(self.faults.reload_fails_until, Happening::Deed(Deed::World("a person bars a unit", Box::new(bars))));
        }
        let Some(unit) = self.units.get_mut(name) else { return };
        match bar {
            Bar::Masked => unit.load = Load::Masked,
            Bar::RefusesStop => unit.refuse_stop = true,
        }
        self.say(|| format!("== {name}: {bar:?}"));
        self.barred.insert(name.to_owned(), Barred { from: now, until: Us::MAX });
        self.reload();
        if let Some(lasts) = lasts {
            let unit = name.to_owned();
            let lifts = move |world: &mut World| world.person_lifts(&unit, bar);
            self.after(lasts, Happening::Deed(Deed::World("a person bars a unit no longer", Box::new(lifts))));
        }
    }

    pub fn person_lifts(&mut self, name: &str, bar: Bar) {
        let now = self.now;
        if now < self.faults.reload_fails_until {
            let unit = name.to_owned();
            let lifts = move |world: &mut World| world.person_lifts(&unit, bar);
            return self
                .at(self.faults.reload_fails_until, Happening::Deed(Deed::World("a person bars a unit no longer", Box::new(lifts))));
        }
        let Some(unit) = self.units.get_mut(name) else { return };
        match bar {
            Bar::Masked => unit.load = Load::Loaded,
            Bar::RefusesStop => unit.refuse_stop = false,
        }
        self.say(|| format!("== {name}: {bar:?} no longer"));
        self.barred.entry(name.to_owned()).or_insert(Barred { from: 0, until: now }).until = now;
        self.reload();
    }

    pub(super) fn pounce(&mut self, effect: &Effect) {
        let (when, names): (Moment, Vec<&String>) = match effect {
            Effect::KeepQuiet { unit } | Effect::AskToStop { unit, .. } => (Moment::Prepared, vec![unit]),
            Effect::Lend { drop_ins } => (Moment::Prepared, drop_ins.keys().collect()),
            Effect::Stop { unit, .. } | Effect::Restart { unit, .. } | Effect::Start { unit } => (Moment::Sent, vec![unit]),
            _ => return,
        };
        let (now, later) =
            std::mem::take(&mut self.pounces).into_iter().partition(|pounce| pounce.when == when && names.contains(&&pounce.unit));
        self.pounces = later;
        for Pounce { unit, bar, after, lasts, .. } in now {
            let bars = move |world: &mut World| world.person_bars(&unit, bar, lasts);
            self.after(after, Happening::Deed(Deed::World("a person bars a unit just then", Box::new(bars))));
        }
    }

    /// It is, or was at some time from then on.
    pub(crate) fn barred_since(&self, name: &str, since: Us) -> bool {
        self.barred.get(name).is_some_and(|barred| barred.until >= since)
    }

    /// So short a time ago that nobody can know it: systemd tells that it has reloaded, and then everything is looked at, once more if a look was under way.
    pub(crate) fn just_barred(&self, name: &str) -> bool {
        let Faults { lost_hints, systemd_away_until, slowness, look_takes, disk_took, .. } = self.faults;
        let told = lost_hints == 0 && self.now > systemd_away_until + 2 * S;
        let seen_within = if told { 20 * MS + 12 * MS * (1 + slowness) + 2 * look_takes } else { self.unknowable() };
        // One write may be under way when it is barred, and the next is of what was decided by what had been seen before.
        let seen_within = seen_within + 2 * disk_took;
        self.barred.get(name).is_some_and(|barred| self.now < barred.from + seen_within)
    }
}
