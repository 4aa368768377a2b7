//! `kind = "strays"`: processes that carry deployed code outside of every unit of a target: in people's sessions, of cron and at, in
//! transient units. They are reported; by its rules a target's terminals are told, or its processes are stopped, each by itself and never
//! the session or the unit around it.
//!
//! `place` says whose business a process is, `stray` what comes after what for one of them, `looks` when is looked, `view` what status is told.

mod looks;
pub mod place;
mod stray;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use place::unit_of;
pub use place::{Reach, reach};
pub(in crate::core) use stray::settle;
use stray::{Stray, StrayStep};

use crate::core::effect::{EffectId, Outcome, WorkerRef};
use crate::core::memory::{StrayCut, Want};
use crate::core::policy::StrayRules;
use crate::core::status::UnitView;
use crate::core::step::{Deadline, Turn, earliest};
use crate::core::target::{Progress, Pursuit};
use crate::core::time::{Mono, Now};

/// After the end of a job, for the next look at all processes: those that end together are looked at together.
const AFTER_A_JOB: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub struct Strays {
    name: String,
    strays: BTreeMap<WorkerRef, Stray>,
    /// What is old and a target's by the last look: it is a stray once its unit has ended without it.
    of_targets: BTreeSet<WorkerRef>,
    pursuit: Pursuit,
    /// A look has seen all that can be stale for the present want: what begins to carry code after it has loaded it after the landing.
    gathered: bool,
}

impl Strays {
    #[must_use]
    pub fn new(name: &str) -> Strays {
        Strays { name: name.to_owned(), strays: BTreeMap::new(), of_targets: BTreeSet::new(), pursuit: Pursuit::default(), gathered: false }
    }

    pub fn progress(&self) -> &Progress {
        self.pursuit.progress()
    }

    #[must_use]
    pub fn gathering(&self) -> bool {
        self.pursuit.gathering()
    }

    pub fn renew(&mut self, turn: &Turn<'_>, want: Want, began: Mono) {
        self.strays.retain(|_, stray| !stray.at_rest());
        // Of those that were given up it is not settled yet whether they have ended.
        for cut in turn.memory.strays.iter().filter(|cut| cut.casualty.target == self.name) {
            self.strays.entry(cut.process.clone()).or_insert_with(|| Stray::taken_up(&self.name, cut, turn.now.mono));
        }
        if want.forced {
            for stray in self.strays.values_mut() {
                if let StrayStep::Draining { until } = &mut stray.step {
                    *until = (*until).min(turn.now.mono);
                }
            }
        }
        self.gathered = false;
        self.pursuit.renew(turn.now.mono, want, began);
    }

    /// One that an earlier agent was stopping goes on where it was, unless it is known already.
    pub fn take_up(&mut self, now: Mono, cut: &StrayCut, want: Want) {
        if self.strays.contains_key(&cut.process) {
            return;
        }
        self.strays.insert(cut.process.clone(), Stray::taken_up(&self.name, cut, now));
        self.pursuit.take_up(now, want);
    }

    /// Gives up what has not been sent a signal. What was left long since is told on.
    pub fn pause(&mut self) {
        if !self.pursuit.works() {
            // Or the next deploy, which lands meanwhile, would be taken for reached.
            return self.pursuit.only_watch();
        }
        self.strays.retain(|_, stray| !matches!(stray.step, StrayStep::Draining { .. }));
        if self.strays.values().all(Stray::at_rest) {
            self.pursuit.rest();
        }
    }

    pub fn hint(&mut self, now: Mono, unit: Option<&str>) {
        // No unit's job says anything about them, but for what the end of its unit may leave behind.
        let leaves = |unit: &str| self.of_targets.iter().any(|process| unit_of(&process.cgroup) == unit);
        if unit.is_none_or(leaves) && self.pursuit.want().is_some() {
            // Many units may end one after the other.
            self.pursuit.look.want(if unit.is_some() { now.after(AFTER_A_JOB) } else { now });
        }
    }

    pub fn outcome(&mut self, turn: &mut Turn<'_>, rules: &StrayRules, id: EffectId, outcome: &Outcome) -> bool {
        if self.pursuit.look.owns(id) {
            if let Some(Outcome::Strays(strays)) = self.pursuit.look.answer(turn, id, outcome) {
                self.seen(turn, rules, strays);
            }
            return true;
        }
        for stray in self.strays.values_mut() {
            if let Some((_, ask)) = stray.pending.take_if(|(pending, _)| *pending == id) {
                stray.came_of(turn, ask, outcome);
                self.pursuit.look.want(turn.now.mono.after(looks::SOON));
                return true;
            }
        }
        false
    }

    pub fn advance(&mut self, turn: &mut Turn<'_>, rules: &StrayRules) {
        if self.pursuit.want().is_none() {
            // What earlier deploys have left is told on after a restart of the agent, too.
            let memory = turn.memory.targets.get(&self.name).filter(|target| target.unmet().is_none());
            if let Some(want) = memory.and_then(|target| target.want.clone()) {
                self.gathered = false;
                self.pursuit.watch(turn.now.mono, want);
            }
        }
        let Some(want) = self.pursuit.want().cloned() else { return };
        for stray in self.strays.values_mut() {
            stray.advance(turn, rules, &want);
        }
        let busy = self.strays.values().any(|stray| !stray.at_rest());
        if self.pursuit.works() && !busy {
            let changed = self.strays.values().map(|stray| stray.since).max();
            let failed = self.strays.values().find_map(Stray::failure);
            self.pursuit.conclude(turn.now.mono, changed, failed);
        }
        self.look_when_due(turn, rules);
    }

    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        self.pursuit.want()?;
        let look = self.pursuit.look.due().map(|at| Deadline::new(at, format!("{}: look for strays", self.name)));
        let own = self.strays.values().map(Stray::deadline);
        // What has passed waits for the look that is under way.
        let own = own.map(|own| own.filter(|own| !self.pursuit.look.under_way_since(own.at)));
        earliest(own.chain([look]))
    }

    #[must_use]
    pub fn views(&self, now: Now) -> Vec<UnitView> {
        let want = self.pursuit.want().cloned().unwrap_or_default();
        self.strays.values().map(|stray| stray.view(&want, now)).collect()
    }

    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.pursuit.look.trouble()
    }
}
