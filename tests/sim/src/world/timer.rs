//! Timers, with what facts F2.1 and F2.2 measured: a slot that passed while the service ran is made up for at once when it ends, also one that is
//! counted from its start; one that is counted from its end begins then. A start whose condition fails is skipped, and the timer goes on as if
//! it had run.

use restart_agent::core::policy::After;
use restart_agent::core::seen::{Load, TimerSeen};

use super::unit::{By, JobKind, Unit};
use super::{Happening, MS, S, Us, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// It elapses whenever the clock is at `phase` modulo `period`.
    Calendar,
    /// So long after the service has started: `OnUnitActiveSec=`.
    SinceStart,
    /// So long after it has ended: `OnUnitInactiveSec=`.
    SinceEnd,
}

#[derive(Debug, Clone)]
pub struct Timer {
    pub name: String,
    pub unit: String,
    pub active: bool,
    pub schedule: Schedule,
    pub period: Us,
    pub phase: Us,
    /// When one that counts from something elapses, as far as it was set; it is set anew whenever that happens.
    armed: Us,
    pub last_trigger: Us,
    /// A slot that has passed while the service ran.
    pub due: Option<Us>,
    /// It is due because the agent has stopped its service.
    pub due_by_agent: bool,
    /// What was to run again at once when it ended may be started, though newer rules have come since: they take longer to be met than it does to fire.
    pub at_once: bool,
}

impl Timer {
    fn calendar_after(&self, at: Us) -> Us {
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
    pub fn timer(&mut self, unit: &str, period: Us, phase: Us) {
        let name = unit.replace(".service", ".timer");
        let timer = Timer {
            name: name.clone(),
            unit: unit.to_owned(),
            active: true,
            schedule: Schedule::Calendar,
            period,
            phase: phase % period,
            armed: 0,
            last_trigger: self.now,
            due: None,
            due_by_agent: false,
            at_once: false,
        };
        let slot = timer.calendar_after(self.now);
        self.timers.insert(name.clone(), timer);
        self.at(slot, Happening::TimerElapses { timer: name });
    }

    /// One for `unit` that counts from its start, or its end. It elapses first after `first`.
    pub fn monotonic_timer(&mut self, unit: &str, schedule: Schedule, period: Us, first: Us) {
        self.timer(unit, period, 0);
        let name = unit.replace(".service", ".timer");
        let timer = self.timers.get_mut(&name).unwrap();
        (timer.schedule, timer.last_trigger) = (schedule, (self.now + first).saturating_sub(period));
        let at = self.now + first;
        self.arm(&name, at);
    }

    fn arm(&mut self, name: &str, at: Us) {
        if let Some(timer) = self.timers.get_mut(name) {
            timer.armed = at;
            self.at(at, Happening::TimerElapses { timer: name.to_owned() });
        }
    }

    /// The next slot after this moment; of one that counts from a start or an end, while its service is down.
    #[must_use]
    pub fn slot_after(&self, timer: &Timer, at: Us) -> Us {
        let unit = self.units.get(&timer.unit);
        let since = match timer.schedule {
            Schedule::Calendar => return timer.calendar_after(at),
            Schedule::SinceStart => unit.map_or(0, |unit| unit.main_start),
            Schedule::SinceEnd => unit.map_or(0, |unit| unit.idle_since),
        };
        (since.max(timer.last_trigger).max(self.booted) + timer.period).max(at)
    }

    pub(crate) fn timer_seen(&self, timer: &Timer) -> TimerSeen {
        let runs = self.units.get(&timer.unit).is_some_and(|unit| unit.active.runs());
        let next = (timer.active && !runs).then(|| self.wall(timer.due.unwrap_or_else(|| self.slot_after(timer, self.now))));
        TimerSeen { unit: timer.name.clone(), active: timer.active, next, last_trigger: self.mono(timer.last_trigger) }
    }

    pub(crate) fn timer_elapses(&mut self, name: &str) {
        let now = self.now;
        let Some(timer) = self.timers.get_mut(name) else { return };
        if !timer.active {
            return;
        }
        if timer.schedule != Schedule::Calendar {
            return self.span_elapses(name);
        }
        let slot = timer.calendar_after(now);
        // What is queued already it takes for its own start.
        let queued = |unit: &Unit| !unit.active.runs() && unit.job.is_some_and(|job| job.kind == JobKind::Start && !job.starting);
        let held = self.held.as_ref().is_some_and(|(_, units)| units.contains(&timer.unit));
        if !held && self.units.get(&timer.unit).is_some_and(queued) {
            timer.last_trigger = now;
            return self.at(slot, Happening::TimerElapses { timer: name.to_owned() });
        }
        let busy = self.units.get(&timer.unit).is_some_and(|unit| unit.active.runs() || unit.job.is_some());
        if busy {
            timer.due.get_or_insert(now);
        } else {
            self.trigger(name);
        }
        self.at(slot, Happening::TimerElapses { timer: name.to_owned() });
    }

    fn span_elapses(&mut self, name: &str) {
        let now = self.now;
        let timer = &self.timers[name];
        if timer.armed != now {
            return;
        }
        let (schedule, period, unit) = (timer.schedule, timer.period, self.units.get(&timer.unit));
        let started = unit.and_then(|unit| unit.runs.last()).is_some_and(|(_, by)| *by == By::Timer);
        if unit.is_some_and(|unit| unit.active.runs() || unit.job.is_some()) {
            let timer = self.timers.get_mut(name).unwrap();
            // Unless it has started the service itself it takes what runs for what it has started now.
            if schedule == Schedule::SinceStart && started {
                timer.due.get_or_insert(now);
            } else {
                timer.last_trigger = now;
            }
        } else {
            self.trigger(name);
        }
        self.arm(name, now + period);
    }

    /// A service starts: what counts from that counts anew.
    pub(crate) fn timers_count_from_start(&mut self, unit: &str) {
        self.count_anew(|timer| timer.unit == unit && timer.schedule == Schedule::SinceStart);
    }

    /// The host has come up: nothing has started or ended yet, so what counts from that counts from the boot (`OnBootSec=`).
    pub(crate) fn timers_count_from_boot(&mut self) {
        self.count_anew(|timer| timer.schedule != Schedule::Calendar);
    }

    fn count_anew(&mut self, which: impl Fn(&Timer) -> bool) {
        let which = self.timers.values().filter(|timer| timer.active && which(timer));
        let anew: Vec<(String, Us)> = which.map(|timer| (timer.name.clone(), self.slot_after(timer, self.now))).collect();
        anew.into_iter().for_each(|(name, at)| self.arm(&name, at));
    }

    pub(crate) fn timer_fires(&mut self, name: &str) {
        if self.timers.get(name).is_some_and(|timer| timer.active && timer.due.is_some()) {
            self.trigger(name);
        }
    }

    fn trigger(&mut self, name: &str) {
        let now = self.now;
        let Some(timer) = self.timers.get_mut(name) else { return };
        if self.barred.contains_key(&timer.unit) && self.units.get(&timer.unit).is_some_and(|unit| unit.load == Load::Masked) {
            // It cannot queue that start, and has failed.
            return timer.active = false;
        }
        timer.last_trigger = now;
        timer.due = None;
        let (off_schedule, at_once) = (std::mem::take(&mut timer.due_by_agent), std::mem::take(&mut timer.at_once));
        let unit = timer.unit.clone();
        if self.is_quiet(&unit) {
            self.say(|| format!("{name} would start {unit}, which is kept quiet"));
            let perhaps = self.units.get(&unit).is_some_and(|unit| self.perhaps_stopped(unit));
            if let Some(unit) = self.units.get_mut(&unit) {
                // What comes right after the end of one that we interrupted, as far as anybody can tell, may count as passed.
                let passed = now <= unit.idle_since + S && (unit.interrupted() || perhaps);
                unit.missed_slot |= !unit.refuse_start && !off_schedule && !passed;
                unit.doubtful_slot |= !off_schedule && passed;
            }
            return;
        }
        if off_schedule && !at_once && !self.runs_again_at_once(&unit) {
            self.violates(format!("{name} starts {unit} off schedule, because the agent stopped it"));
        }
        self.say(|| format!("{name} starts {unit}"));
        let _ = self.start_unit(&unit, By::Timer);
    }

    /// Whoever comes first may start it.
    fn runs_again_at_once(&self, unit: &str) -> bool {
        self.scheduled_rules(unit).is_some_and(|(_, rules)| rules.after == After::Rerun)
            || self.units.get(unit).is_some_and(|unit| unit.checkpointed)
    }

    /// Its condition says that it is not to be started.
    pub(crate) fn is_quiet(&self, unit: &str) -> bool {
        self.quiet.contains(unit) && self.units.get(unit).is_some_and(Unit::has_condition)
    }

    /// A service has ended: a timer whose slot has passed meanwhile fires at once (facts F2.2).
    pub(crate) fn timers_rearm(&mut self, unit: &str, stopped_by_agent: bool) {
        self.count_anew(|timer| timer.unit == unit && timer.schedule != Schedule::Calendar && timer.due.is_none());
        let mut due = Vec::new();
        let at_once = self.runs_again_at_once(unit);
        for timer in self.timers.values_mut().filter(|timer| timer.unit == unit && timer.active && timer.due.is_some()) {
            (timer.due_by_agent, timer.at_once) = (stopped_by_agent, at_once);
            due.push(timer.name.clone());
        }
        for name in due {
            self.after(100 * MS, Happening::TimerFires { timer: name });
        }
    }
}
