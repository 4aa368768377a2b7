//! `kind = "service"`: long-running services other than php-fpm, renewed by one RestartUnit job each (law 6, facts M4).
//!
//! `unit` says what comes after what for one of them, `checkpoint` how one is asked and spared before its restart, `looks` when and what is looked at,
//! `others` what somebody else does to it, `view` what status is told.

mod checkpoint;
mod looks;
mod others;
mod unit;
mod view;

use std::collections::BTreeMap;

pub use unit::{START_PAUSE, START_TIMEOUT, START_TRIES};

use looks::BATCH;
use unit::{Service, Step};

use crate::core::effect::{EffectId, Outcome};
use crate::core::loans::Loans;
use crate::core::memory::Want;
use crate::core::policy::ServiceRules;
use crate::core::status::{UnitEnd, UnitView};
use crate::core::step::{Deadline, Turn, earliest};
use crate::core::target::{Progress, Pursuit, is_of};
use crate::core::time::{Mono, Now};

#[derive(Debug)]
pub struct Services {
    name: String,
    units: BTreeMap<String, Service>,
    pursuit: Pursuit,
}

impl Services {
    #[must_use]
    pub fn new(name: &str) -> Services {
        Services { name: name.to_owned(), units: BTreeMap::new(), pursuit: Pursuit::default() }
    }

    pub fn progress(&self) -> &Progress {
        self.pursuit.progress()
    }

    #[must_use]
    pub fn gathering(&self) -> bool {
        self.pursuit.gathering()
    }

    pub fn renew(&mut self, turn: &Turn<'_>, loans: &mut Loans, want: Want, began: Mono) {
        self.release_at_rest(loans);
        self.units.retain(|_, unit| !unit.at_rest());
        if want.forced {
            for unit in self.units.values_mut() {
                if let Step::Draining { until } = &mut unit.step {
                    *until = (*until).min(turn.now.mono);
                }
            }
        }
        self.pursuit.renew(turn.now.mono, want, began);
    }

    /// When it last changed what one of its units is at.
    #[must_use]
    pub fn changed(&self) -> Option<Mono> {
        self.units.values().map(|unit| unit.since).max()
    }

    /// Whether a rollout is at this unit, and pays what it owes to it itself.
    #[must_use]
    pub fn owns(&self, unit: &str) -> bool {
        self.units.get(unit).is_some_and(|unit| !unit.at_rest())
    }

    /// The target is no longer in the configuration.
    pub fn release(&self, loans: &mut Loans) {
        for unit in self.units.keys() {
            loans.release(unit);
        }
    }

    /// What it excludes by now is none of its business: what that is owed is paid as if the whole target had left the configuration. A restart that was
    /// asked for comes to its end.
    pub fn let_go(&mut self, rules: &ServiceRules, loans: &mut Loans) {
        let left_out = |unit: &str| !is_of(&rules.units, &rules.exclude, unit);
        for (unit, _) in self.units.extract_if(.., |name, unit| left_out(name) && !unit.is_in_its_restart()) {
            loans.release(&unit);
        }
    }

    /// What has come to rest needs nothing of what it was lent, also if the rollout is given up in that very turn.
    fn release_at_rest(&self, loans: &mut Loans) {
        for (name, _) in self.units.iter().filter(|(_, unit)| unit.at_rest()) {
            loans.release(name);
        }
    }

    /// Gives up what has not been touched; of what has been asked that is taken back, and what has ended comes up again.
    pub fn pause(&mut self, now: Mono, loans: &mut Loans) {
        self.release_at_rest(loans);
        // One that has begun again, for a newer deploy, may still have what its last restart needed.
        for (unit, _) in self.units.extract_if(.., |_, unit| matches!(unit.step, Step::Draining { .. })) {
            loans.release(&unit);
        }
        self.units.values_mut().for_each(|unit| unit.spare(now));
        if self.units.values().all(Service::at_rest) {
            self.pursuit.rest();
        }
    }

    pub fn hint(&mut self, now: Mono, unit: Option<&str>) {
        // A removed job of a unit that is being restarted comes with its outcome, unless that is lost, or it is only started.
        let awaits = |unit: &Service| unit.cooperating() || unit.step == Step::Verifying;
        let awaited = unit.and_then(|unit| self.units.get(unit)).is_some_and(awaits);
        if (unit.is_none() || awaited) && self.pursuit.want().is_some() {
            self.pursuit.look.want(now);
        }
    }

    pub fn outcome(&mut self, turn: &mut Turn<'_>, rules: &ServiceRules, id: EffectId, outcome: &Outcome) -> bool {
        if self.pursuit.look.owns(id) {
            if let Some(units) = self.pursuit.look.outcome(turn, id, outcome) {
                self.seen(turn, rules, units);
            }
            return true;
        }
        let now = turn.now.mono;
        for (name, unit) in &mut self.units {
            if unit.asked_or_unasked(turn, &self.name, id, outcome) {
                return true;
            }
            if unit.killing.take_if(|killing| *killing == id).is_some() {
                match (outcome, &mut unit.ladder) {
                    (Outcome::Fault(_), Some(ladder)) => ladder.kill_failed(now),
                    (_, Some(ladder)) => ladder.kill_sent(now),
                    (_, None) => {}
                }
                self.pursuit.look.want(now.after(BATCH));
                return true;
            }
            if unit.pending.take_if(|pending| *pending == id).is_some() {
                match outcome {
                    Outcome::Fault(fault) => unit.refused(turn, &self.name, name, fault),
                    _ => {
                        unit.job_end = if let Outcome::Job(end) = outcome { Some(end.clone()) } else { None };
                        unit.enter(now, Step::Verifying);
                    }
                }
                self.pursuit.look.want(now.after(BATCH));
                return true;
            }
        }
        false
    }

    pub fn advance(&mut self, turn: &mut Turn<'_>, rules: &ServiceRules, loans: &mut Loans) {
        let Some(want) = self.pursuit.want().cloned() else { return };
        let now = turn.now.mono;
        let mut under_way = self.units.values().filter(|unit| matches!(unit.step, Step::Restarting)).count();
        let mut failed = None;
        for (name, unit) in &mut self.units {
            unit.advance(turn, rules, loans, (&self.name, name), &mut under_way, &want);
            if let Step::Done(UnitEnd::Failed, why) = &unit.step {
                failed.get_or_insert(format!("{name}: {why}"));
            }
        }
        self.release_at_rest(loans);
        let busy = self.units.values().any(|unit| !unit.at_rest());
        if self.pursuit.works() && !busy {
            self.pursuit.conclude(now, self.changed(), failed);
        }
        self.look_when_due(turn, rules);
    }

    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        self.pursuit.want()?;
        let look = self.pursuit.look.due().map(|at| Deadline::new(at, format!("{}: look at its services", self.name)));
        let own = self.units.iter().map(|(name, unit)| unit.deadline(name));
        // What has passed waits for the look that is under way.
        let own = own.map(|own| own.filter(|own| !self.pursuit.look.under_way_since(own.at)));
        earliest(own.chain([look]))
    }

    #[must_use]
    pub fn views(&self, now: Now) -> Vec<UnitView> {
        self.units.iter().map(|(name, unit)| unit.view(name, now)).collect()
    }

    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.pursuit.look.trouble()
    }
}
