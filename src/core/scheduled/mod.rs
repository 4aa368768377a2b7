//! `kind = "scheduled"`: timer-activated scripts. A running stale one may end by itself; then it is stopped, and runs again now, or at
//! its next scheduled run.
//!
//! The order of a stop: it is kept quiet, the service is stopped, then what was lent is given back, then it may run again, and does so if its rules
//! say so. `script` says what comes after what; each rung of the ladder has its file: `drain`, `checkpoint` (asking, and the lock), `stop` (SIGTERM and
//! SIGKILL). `quiet` keeps its timers from starting it, `rerun` follows, `looks` says when and what is looked at, `view` what status is told.

mod checkpoint;
mod drain;
mod looks;
mod quiet;
mod rerun;
mod script;
mod stop;
mod view;

use std::collections::BTreeMap;

pub use drain::untouchable;
pub use quiet::{Slots, slots};
pub use rerun::{rules_of, settle};
use script::{Ask, Ended, Script, ScriptStep};

use crate::core::effect::{EffectId, Outcome};
use crate::core::loans::Loans;
use crate::core::memory::{Cutting, Want};
use crate::core::policy::ScheduledRules;
use crate::core::status::UnitView;
use crate::core::step::{Deadline, Turn, earliest};
use crate::core::target::{Progress, Pursuit, is_of};
use crate::core::time::{Mono, Now};

#[derive(Debug)]
pub struct Scheduled {
    name: String,
    scripts: BTreeMap<String, Script>,
    pursuit: Pursuit,
}

impl Scheduled {
    #[must_use]
    pub fn new(name: &str) -> Scheduled {
        Scheduled { name: name.to_owned(), scripts: BTreeMap::new(), pursuit: Pursuit::default() }
    }

    pub fn progress(&self) -> &Progress {
        self.pursuit.progress()
    }

    /// Whether the first look for the present want is still to come.
    #[must_use]
    pub fn gathering(&self) -> bool {
        self.pursuit.gathering()
    }

    #[must_use]
    pub fn stopping(&self) -> bool {
        self.scripts.values().any(|script| matches!(script.step, ScriptStep::Quieting | ScriptStep::Ready | ScriptStep::Stopping))
    }

    /// Whether it knows this script, be it one that was given up.
    #[must_use]
    pub fn knows(&self, unit: &str) -> bool {
        self.scripts.contains_key(unit)
    }

    /// Whether this script is being worked on.
    #[must_use]
    pub fn owns(&self, unit: &str) -> bool {
        self.scripts.get(unit).is_some_and(|script| !script.at_rest())
    }

    /// When a script was last seen to have changed.
    #[must_use]
    pub fn changed(&self) -> Option<Mono> {
        self.scripts.values().map(|script| script.since).max()
    }

    /// Scripts that are being stopped, or that what they were lent still keeps quiet.
    pub fn kept<'s>(&'s self, turn: &'s Turn<'_>, rules: &'s ScheduledRules) -> impl Iterator<Item = String> + 's {
        let quiet = |script: &Script| turn.memory.quiet.contains_key(&script.unit) && script.awaits_slots(turn, rules);
        let kept = move |script: &&Script| !script.at_rest() && (script.step == ScriptStep::Stopping || quiet(script));
        self.scripts.values().filter(kept).map(|script| script.unit.clone())
    }

    /// Begins, or begins again, to make this target fresh.
    pub fn renew(&mut self, turn: &mut Turn<'_>, loans: &mut Loans, want: Want, began: Mono) {
        self.scripts.retain(|_, script| {
            if script.at_rest() {
                script.release(loans);
            }
            !script.at_rest()
        });
        if want.forced {
            for script in self.scripts.values_mut() {
                script.drain_until = script.drain_until.min(turn.now.mono);
            }
        }
        self.pursuit.renew(turn.now.mono, want, began);
    }

    /// A stop that an earlier agent sent goes on where it was: its grace is counted from there.
    pub fn take_up(&mut self, turn: &Turn<'_>, unit: &str, cutting: &Cutting, want: Want, rules: &ScheduledRules) {
        let now = turn.now.mono;
        let asked = turn.memory.asked.contains(unit);
        self.scripts.insert(unit.to_owned(), Script::taken_up(&self.name, unit, cutting, asked, now, rules));
        self.pursuit.take_up(now, want);
    }

    /// The target is no longer in the configuration.
    pub fn release(&self, loans: &mut Loans) {
        for script in self.scripts.values() {
            script.release(loans);
        }
    }

    /// What it excludes by now is none of its business: what that is owed is paid as if the whole target had left the configuration.
    pub fn let_go(&mut self, rules: &ScheduledRules, loans: &mut Loans) {
        for (_, script) in self.scripts.extract_if(.., |unit, _| !is_of(&rules.units, &rules.exclude, unit)) {
            script.release(loans);
        }
    }

    /// Gives up what has not been touched; what has been goes on to its end.
    pub fn pause(&mut self, now: Mono, loans: &mut Loans) {
        self.scripts.retain(|_, script| {
            if matches!(script.step, ScriptStep::Asked { .. } | ScriptStep::Holding { .. }) || script.waits_for_its_stop() {
                script.spare(now, Ended::Paused);
            }
            let untouched = matches!(script.step, ScriptStep::Draining);
            if untouched || script.at_rest() {
                script.release(loans);
            }
            !untouched
        });
        if self.scripts.values().all(Script::at_rest) {
            self.pursuit.rest();
        }
    }

    pub fn hint(&mut self, now: Mono, unit: Option<&str>) {
        let ours = unit.is_none_or(|unit| self.scripts.contains_key(unit));
        if ours && self.pursuit.want().is_some() {
            self.pursuit.look.want(now);
        }
    }

    pub fn outcome(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules, loans: &mut Loans, id: EffectId, outcome: &Outcome) -> bool {
        if self.pursuit.look.owns(id) {
            if let Some(units) = self.pursuit.look.outcome(turn, id, outcome) {
                self.seen(turn, rules, loans, units);
            }
            return true;
        }
        for script in self.scripts.values_mut() {
            if script.asked_or_unasked(turn, id, outcome) {
                return true;
            }
            if let Some(ask) = script.pending.remove(&id) {
                let stopped = ask == Ask::StopScript;
                script.came_of(turn, loans, ask, outcome);
                if stopped {
                    self.pursuit.look.want(turn.now.mono.after(looks::BATCH));
                }
                return true;
            }
        }
        false
    }

    pub fn advance(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules, loans: &mut Loans) {
        if self.pursuit.want().is_none() {
            return;
        }
        for script in self.scripts.values_mut() {
            script.advance(turn, rules, loans, &self.pursuit.look);
        }
        let busy = self.scripts.values().any(|script| !script.at_rest());
        if !busy {
            self.release(loans);
        }
        self.look_when_due(turn, rules);
        let now = turn.now.mono;
        if busy || self.scripts.values().any(|script| script.begins(now)) || !self.pursuit.works() {
            return;
        }
        let failed = self.scripts.values().find_map(Script::failure);
        self.pursuit.conclude(turn.now.mono, self.changed(), failed);
        self.look_when_due(turn, rules);
    }

    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        self.pursuit.want()?;
        let look = self.pursuit.look.due().map(|at| Deadline::new(at, format!("{}: look at its scripts", self.name)));
        let own = self.scripts.values().map(Script::deadline);
        // What has passed waits for the look that is under way.
        let own = own.map(|own| own.filter(|own| !self.pursuit.look.under_way_since(own.at)));
        earliest(own.chain([look]))
    }

    #[must_use]
    pub fn views(&self, now: Now) -> Vec<UnitView> {
        let landed = self.pursuit.want().map(|want| want.landed);
        self.scripts.values().map(|script| script.view(now, landed)).collect()
    }

    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.pursuit.look.trouble()
    }
}
