//! The bracket around every in-place restart of php-fpm: out of the pools, drain, restart, proof, back into the pools.
//!
//! All targets of strategy "restart" share it, because the pools take the host, and not one php-fpm of it, in and out.
//!
//! `looks` says who needs it, `phases` what comes after what.

mod looks;
mod phases;

use std::collections::BTreeMap;

use looks::RETRY;
pub use looks::untouchable;

use crate::core::effect::{EffectId, Outcome};
use crate::core::fpm::Fpm;
use crate::core::loans::Loans;
use crate::core::memory::Want;
use crate::core::policy::FpmRules;
use crate::core::pool::Pool;
use crate::core::status::{TargetState, UnitView};
use crate::core::step::{Deadline, Turn, earliest};
use crate::core::target::Progress;
use crate::core::time::{Mono, Now};

#[derive(Debug)]
pub struct InPlace {
    phase: Phase,
    units: BTreeMap<String, Fpm>,
    /// What is wanted of each target, and how far it has come.
    wants: BTreeMap<String, (Want, Mono)>,
    progress: BTreeMap<String, Progress>,
    /// What a target's unit showed at rest, for status.
    notes: BTreeMap<String, (TargetState, String)>,
    looking: Option<EffectId>,
    look_began: Mono,
    /// Since when the pools are checked for the last time before a restart.
    checked_from: Option<Mono>,
    /// How long a restart that an earlier agent began is waited for.
    patience: Option<Mono>,
    next: Mono,
    rounds: u32,
    forced: bool,
    /// The end of the drain is in the record.
    restart_told: bool,
    trouble: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Idle,
    Looking,
    Preparing,
    LeavingPool,
    Draining,
    /// Drained; is it still out of the pool?
    Rechecking,
    Renewing,
    /// Everything that is to be restarted was; the pools get their host back.
    Returning,
}

impl Default for InPlace {
    fn default() -> Self {
        InPlace {
            phase: Phase::Idle,
            units: BTreeMap::new(),
            wants: BTreeMap::new(),
            progress: BTreeMap::new(),
            notes: BTreeMap::new(),
            looking: None,
            look_began: Mono::BOOT,
            checked_from: None,
            patience: None,
            next: Mono::BOOT,
            rounds: 0,
            forced: false,
            restart_told: false,
            trouble: None,
        }
    }
}

impl InPlace {
    /// Nothing under way, no pool in use.
    #[must_use]
    pub fn idle(&self) -> bool {
        self.phase == Phase::Idle && !self.progress.values().any(|progress| *progress == Progress::Working)
    }

    /// The target is no longer in the configuration.
    pub fn forget(&mut self, target: &str, loans: &mut Loans) {
        self.wants.remove(target);
        self.progress.remove(target);
        self.notes.remove(target);
        // What has been touched goes on to its end.
        self.units.retain(|unit, fpm| {
            let goes_on = fpm.target != target || !fpm.is_untouched();
            if !goes_on {
                loans.release(unit);
            }
            goes_on
        });
        if self.units.is_empty() && !matches!(self.phase, Phase::Idle | Phase::Looking) {
            self.phase = Phase::Returning;
        }
    }

    pub fn progress(&self, target: &str) -> Progress {
        self.progress.get(target).cloned().unwrap_or(Progress::Idle)
    }

    /// `began`: the start of the rollout.
    pub fn renew(&mut self, now: Mono, target: &str, want: Want, began: Mono) {
        self.wants.insert(target.to_owned(), (want, began));
        self.progress.insert(target.to_owned(), Progress::Working);
        if self.phase == Phase::Looking {
            self.looking = None;
        }
        self.next = now;
    }

    /// It is not to be made fresh for what is newly wanted, since it is held: what was reached before says nothing now.
    pub fn rest(&mut self, target: &str) {
        self.progress.retain(|name, progress| name != target || *progress == Progress::Working);
    }

    /// Whether this unit is on its way through the bracket.
    #[must_use]
    pub fn owns(&self, unit: &str) -> bool {
        self.units.get(unit).is_some_and(|unit| !unit.at_rest())
    }

    /// Whether this bracket is about this unit, for this: what it says of it is no older.
    #[must_use]
    pub fn is_about(&self, unit: &str, want: &Want) -> bool {
        self.units.get(unit).is_some_and(|unit| unit.want.is(want))
    }

    /// Whether workers are stopped for a count that is under way.
    #[must_use]
    pub fn counting(&self) -> bool {
        self.units.values().any(Fpm::counting)
    }

    /// Whether the first look is still to come.
    #[must_use]
    pub fn gathering(&self) -> bool {
        self.phase == Phase::Looking || (self.phase == Phase::Idle && self.progress.values().any(|progress| *progress == Progress::Working))
    }

    /// Nothing has been restarted in this bracket, so it can still be left.
    fn reversible(&self) -> bool {
        self.units.values().all(Fpm::is_untouched)
    }

    /// Whether pools are to stay out: the bracket is on its way, or php-fpm is not proven to serve.
    #[must_use]
    pub fn needs_out(&self) -> bool {
        matches!(self.phase, Phase::LeavingPool | Phase::Draining | Phase::Rechecking | Phase::Renewing)
    }

    /// As [`InPlace::needs_out`], or it may be in a moment: who is to be renewed is being looked at and prepared. A host that is out by us,
    /// since an earlier agent has died in the drain, would only flap if it were put back meanwhile.
    #[must_use]
    pub fn may_need_out(&self) -> bool {
        let working = self.progress.values().any(|progress| *progress == Progress::Working);
        self.needs_out() || (working && matches!(self.phase, Phase::Idle | Phase::Looking | Phase::Preparing))
    }

    /// Gives up, if nothing was restarted yet; otherwise goes on to the end.
    pub fn pause(&mut self, loans: &mut Loans) -> bool {
        if !self.reversible() {
            return false;
        }
        for unit in self.units.keys() {
            loans.release(unit);
        }
        self.units.clear();
        self.wants.clear();
        self.progress.retain(|_, progress| *progress != Progress::Working);
        self.looking = None;
        self.phase = if self.phase == Phase::Idle { Phase::Idle } else { Phase::Returning };
        true
    }

    pub fn outcome(&mut self, turn: &mut Turn<'_>, id: EffectId, outcome: &Outcome) -> bool {
        if self.looking.take_if(|looking| *looking == id).is_some() {
            match outcome {
                Outcome::Units(units) => self.seen(turn, units),
                other => {
                    self.trouble = Some(format!("cannot look at php-fpm: {}", other.said()));
                    self.next = turn.now.mono.after(RETRY);
                }
            }
            return true;
        }
        self.units.values_mut().any(|unit| unit.outcome(turn, id, outcome))
    }

    pub fn hint(&mut self, now: Mono) {
        if self.phase == Phase::Looking {
            self.next = now;
        }
    }

    pub fn advance(&mut self, turn: &mut Turn<'_>, loans: &mut Loans, pools: &mut BTreeMap<String, Pool>) {
        for unit in self.units.values_mut() {
            unit.advance(turn, loans);
        }
        // From one phase into the next as far as it goes; there are not more than these.
        for _ in 0..8 {
            let phase = self.phase.clone();
            self.advance_phase(turn, loans, pools);
            if self.phase == phase {
                break;
            }
        }
    }

    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        let look = (self.phase == Phase::Looking && self.looking.is_none()).then(|| Deadline::new(self.next, "php-fpm: look at it"));
        earliest(self.units.values().map(Fpm::deadline).chain([look]))
    }

    /// The unit of a target, for status.
    #[must_use]
    pub fn view(&self, target: &str, rules: &FpmRules, now: Now) -> Option<UnitView> {
        if let Some(unit) = self.units.get(&rules.unit) {
            let held_back = match self.phase {
                Phase::LeavingPool => "waits for this host to be out of the pool",
                _ => "about to be drained",
            };
            return Some(unit.view(now, held_back));
        }
        let (state, why) = self.notes.get(target)?.clone();
        Some(UnitView::new(&rules.unit, state, why))
    }

    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }
}
