//! The runs that we owe to scripts, and to services.

use serde::{Deserialize, Serialize};

use super::Memory;
use crate::core::effect::{Effect, JobEnd};
use crate::core::entry::Written;
use crate::core::seen::{Load, UnitSeen};
use crate::core::status::{UnitEnd, UnitOutcome};
use crate::core::time::Wall;

/// How many restarts of a unit are remembered for the rate limit.
const RESTARTS_KEPT: usize = 8;

/// A run that we owe to a script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwedRun {
    pub target: String,
    /// Its scheduled run came while we kept it quiet.
    #[serde(default)]
    pub scheduled: bool,
    /// It was only lent something: see [`Entry::RerunOwed`].
    #[serde(default)]
    pub lent: bool,
    #[serde(default)]
    pub quiet: bool,
    /// And systemd may have reloaded since: it may have it.
    #[serde(default)]
    pub reloaded: bool,
    /// The invocation that it is owed after: any later one is the run that is owed. Empty: not known.
    #[serde(default)]
    pub after: String,
    /// It waits, since what that run left behind is stale only after a while.
    #[serde(default)]
    pub settles: Option<Settles>,
}

impl OwedRun {
    /// Not only when what it left behind has settled, nor perhaps when the run that goes on has ended.
    #[must_use]
    pub fn is_owed_now(&self) -> bool {
        self.settles.is_none() && !self.lent
    }

    /// The unit has run since this was owed, whoever started it.
    #[must_use]
    pub fn has_run(&self, seen: &UnitSeen) -> bool {
        let settles = self.settles.iter().map(|settles| &settles.after);
        let after = settles.chain([&self.after]).find(|after| !after.is_empty());
        after.is_some_and(|after| !seen.invocation.is_empty() && seen.invocation != *after)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settles {
    pub until: Wall,
    /// Where earlier versions look for it, and have written it.
    #[serde(default)]
    pub after: String,
}

impl Memory {
    /// One that did not come up is brought up with the next try.
    pub(super) fn unit_ended(&mut self, ended: &UnitOutcome, written: &Written) {
        if ended.what != UnitEnd::Failed {
            self.is_not_down(&ended.unit);
        }
        self.note(None, written);
    }

    /// What systemd says of our stop or restart of this unit is on its way, and makes certain what has ended it.
    pub(in crate::core) fn stopping(&self, unit: &str) -> bool {
        let stops = |open: &Effect| match open {
            Effect::Stop { unit: of, .. } | Effect::End { unit: of, .. } | Effect::Restart { unit: of, .. } => of == unit,
            _ => false,
        };
        self.open.values().any(stops)
    }

    pub(super) fn is_not_down(&mut self, unit: &str) {
        self.maybe_down.remove(unit);
        self.failed_runs.remove(unit);
    }

    pub(super) fn start_begun(&mut self, unit: &str) {
        self.maybe_down.insert(unit.to_owned());
        self.failed_runs.remove(unit);
    }

    pub(super) fn restart_begun(&mut self, at: Wall, unit: &str) {
        self.start_begun(unit);
        let restarts = self.restarts.entry(unit.to_owned()).or_default();
        restarts.push(at);
        if restarts.len() > RESTARTS_KEPT {
            restarts.remove(0);
        }
    }

    pub(super) fn restart_ended(&mut self, unit: &str, end: &JobEnd) {
        if let Some(cutting) = self.cutting.get_mut(unit) {
            cutting.answered = *end != JobEnd::Lost;
        }
        if *end == JobEnd::Canceled {
            // Whoever has taken its place in the queue of systemd has decided whether it is to run.
            self.is_not_down(unit);
        }
    }

    /// Nobody has started it since it did not come up, as far as is known: that it does not run is not somebody's stop. One that nothing refers to systemd
    /// forgets when its start is skipped, or fails by what it requires.
    #[must_use]
    pub fn is_failed_run(&self, seen: &UnitSeen) -> bool {
        if seen.invocation.is_empty() || seen.skipped {
            return seen.load != Load::NotFound && self.maybe_down.contains(&seen.unit);
        }
        self.failed_runs.get(&seen.unit) == Some(&seen.invocation)
    }

    /// Somebody else than we, systemd perhaps, has started it since.
    #[must_use]
    pub fn has_run_since_it_failed(&self, seen: &UnitSeen) -> bool {
        !seen.invocation.is_empty() && self.failed_runs.get(&seen.unit).is_some_and(|failed| *failed != seen.invocation)
    }

    pub(super) fn forget_what_was_not_begun(&mut self) {
        self.cutting.retain(|_, cutting| cutting.begun);
        self.strays.retain(|cut| cut.begun);
    }

    /// What is lent may be in force since, but for these.
    pub(super) fn may_have_reloaded(&mut self, without: &[String]) {
        let lent = &self.lent;
        let reruns = self.reruns.iter_mut().filter(|(unit, _)| lent.contains(*unit) && !without.contains(unit));
        reruns.for_each(|(_, owed)| owed.reloaded = true);
    }
}
