//! Timers, with what facts F2.1 to F2.3 measured: a slot that passed while the service ran is made up for at once when it ends, and a
//! persistent timer catches up when it is started.

use restart_agent::core::seen::TimerSeen;

use super::unit::By;
use super::{Happening, MS, Us, World};

#[derive(Debug, Clone)]
pub struct Timer {
    pub name: String,
    pub unit: String,
    pub active: bool,
    pub persistent: bool,
    /// It elapses whenever the clock is at `phase` modulo `period`.
    pub period: Us,
    pub phase: Us,
    /// When it last triggered; what /var/lib/systemd/timers remembers of a persistent one.
    pub last_trigger: Us,
    /// A slot has passed while the service ran.
    pub due: bool,
    pub generation: u64,
    /// The agent stopped it and owes its start.
    pub stopped_by_agent: bool,
}

impl Timer {
    #[must_use]
    pub fn slot_after(&self, at: Us) -> Us {
        let periods = at.saturating_sub(self.phase) / self.period;
        let mut slot = self.phase + periods * self.period;
        while slot <= at {
            slot += self.period;
        }
        slot
    }
}

impl World {
    /// Adds a timer for `unit` that runs.
    pub fn timer(&mut self, unit: &str, period: Us, phase: Us, persistent: bool) {
        let name = unit.replace(".service", ".timer");
        let timer = Timer {
            name: name.clone(),
            unit: unit.to_owned(),
            active: true,
            persistent,
            period,
            phase: phase % period,
            last_trigger: self.now,
            due: false,
            generation: 0,
            stopped_by_agent: false,
        };
        let slot = timer.slot_after(self.now);
        self.timers.insert(name.clone(), timer);
        self.at(slot, Happening::TimerElapses { timer: name, generation: 0 });
    }

    pub(crate) fn timer_seen(&self, timer: &Timer) -> TimerSeen {
        let runs = self.units.get(&timer.unit).is_some_and(|unit| unit.active.runs());
        let next = (timer.active && !runs).then(|| self.wall(timer.slot_after(self.now)));
        TimerSeen { unit: timer.name.clone(), active: timer.active, persistent: timer.persistent, next }
    }

    pub(crate) fn timer_elapses(&mut self, name: &str, generation: u64) {
        let now = self.now;
        let Some(timer) = self.timers.get_mut(name) else { return };
        if !timer.active || timer.generation != generation {
            return;
        }
        let slot = timer.slot_after(now);
        let unit = timer.unit.clone();
        let busy = self.units.get(&unit).is_some_and(|unit| unit.active.runs() || unit.job.is_some());
        if busy {
            self.timers.get_mut(name).unwrap().due = true;
        } else {
            self.trigger(name);
        }
        self.at(slot, Happening::TimerElapses { timer: name.to_owned(), generation });
    }

    pub(crate) fn timer_fires(&mut self, name: &str, generation: u64) {
        if self.timers.get(name).is_some_and(|timer| timer.active && timer.generation == generation) {
            self.trigger(name);
        }
    }

    fn trigger(&mut self, name: &str) {
        let now = self.now;
        let Some(timer) = self.timers.get_mut(name) else { return };
        timer.last_trigger = now;
        timer.due = false;
        let unit = timer.unit.clone();
        self.say(|| format!("{name} starts {unit}"));
        let _ = self.start_unit(&unit, By::Timer);
    }

    /// A service has ended: a timer whose slot has passed meanwhile fires at once (facts F2.2).
    pub(crate) fn timers_rearm(&mut self, unit: &str, stopped_by_agent: bool) {
        let due: Vec<(String, u64)> = self
            .timers
            .values()
            .filter(|timer| timer.unit == unit && timer.active && timer.due)
            .map(|timer| (timer.name.clone(), timer.generation))
            .collect();
        for (name, generation) in due {
            if stopped_by_agent {
                self.violates(format!("{name} starts {unit} off schedule, because the agent stopped it with its timer running"));
            }
            self.after(100 * MS, Happening::TimerFires { timer: name, generation });
        }
    }

    pub(crate) fn stop_timer(&mut self, name: &str, by: By) {
        self.say(|| format!("{name} is stopped by {by:?}"));
        let Some(timer) = self.timers.get_mut(name) else { return };
        timer.stopped_by_agent = by == By::Agent && (timer.active || timer.stopped_by_agent);
        timer.active = false;
        timer.due = false;
        timer.generation += 1;
    }

    pub(crate) fn start_timer(&mut self, name: &str, caught_up: bool, by: By) {
        let now = self.now;
        self.say(|| format!("{name} is started by {by:?}"));
        let Some(timer) = self.timers.get_mut(name) else { return };
        if caught_up {
            timer.last_trigger = now;
        }
        if timer.active {
            return;
        }
        timer.stopped_by_agent = false;
        timer.active = true;
        timer.due = false;
        timer.generation += 1;
        let generation = timer.generation;
        let slot = timer.slot_after(now);
        let catches_up = timer.persistent && timer.slot_after(timer.last_trigger) < now;
        if catches_up {
            if by == By::Agent {
                self.violates(format!("{name} catches up, because the agent started it without a word to its stamp"));
            }
            self.after(5 * MS, Happening::TimerFires { timer: name.to_owned(), generation });
        }
        self.at(slot, Happening::TimerElapses { timer: name.to_owned(), generation });
    }
}
