//! What status is told of the generations of a target.

use super::{Generations, Phase};
use crate::core::fpm::{Fpm, FpmStep};
use crate::core::memory::TargetMemory;
use crate::core::policy::GenerationRules;
use crate::core::seen::UnitSeen;
use crate::core::stale::stale_fpm;
use crate::core::status::{TargetState, UnitView};
use crate::core::time::Now;

/// Where a person has seen to it that nothing serves.
const STOPPED: &str = "nothing serves: somebody has stopped it; a deploy, or a restart of this agent, starts a generation";

impl Generations {
    /// The one that serves, then the one that is to, then those that linger.
    #[must_use]
    pub fn views(&self, rules: &GenerationRules, memory: &TargetMemory, now: Now) -> Vec<UnitView> {
        let mut views = Vec::new();
        match self.current.as_ref().and_then(|unit| self.unit(unit)) {
            Some(seen) => views.push(self.current_view(seen, memory, now)),
            None if self.looked && self.starting.is_none() => {
                let why = match &self.note {
                    _ if self.is_stopped(rules) => STOPPED.to_owned(),
                    Some(note) => format!("nothing serves: {note}"),
                    None => "nothing serves".to_owned(),
                };
                views.push(UnitView::new(&rules.unit, TargetState::Failed, why));
            }
            None => {}
        }
        let current = self.current.as_deref();
        let starting = self.starting.iter().filter(|fpm| Some(fpm.unit.as_str()) != current);
        views.extend(starting.map(|fpm| {
            let view = fpm.view(now, "is about to be started");
            // It serves when the symlink leads to it, and not before.
            match fpm.step {
                FpmStep::Done => {
                    UnitView { state: TargetState::Verifying, why: "proven: the symlink is about to lead to it".to_owned(), ..view }
                }
                _ => view,
            }
        }));
        views.extend(self.ending.values().filter(|fpm| Some(fpm.unit.as_str()) != current).map(|fpm| self.ending_view(fpm, now)));
        views
    }

    fn current_view(&self, seen: &UnitSeen, memory: &TargetMemory, now: Now) -> UnitView {
        let watched = matches!(self.phase, Phase::Watching { .. }) && self.starting.as_ref().is_some_and(|fpm| fpm.unit == seen.unit);
        let stale = memory.want.as_ref().map(|want| stale_fpm(seen, want, memory)).unwrap_or_default();
        let (state, why) = match (&memory.want, &self.phase) {
            (_, Phase::Watching { .. }) if watched => (TargetState::Verifying, "serves; seen to that it stays up".to_owned()),
            (None, _) => (TargetState::Adopted, "runs what it ran when the agent first saw it".to_owned()),
            (Some(_), _) if stale.is_empty() => {
                (TargetState::Fresh, self.note.clone().unwrap_or_else(|| "runs the newest code".to_owned()))
            }
            (Some(_), Phase::Room) => {
                (TargetState::Stale, self.waits.clone().unwrap_or_else(|| "a new one is about to be started".to_owned()))
            }
            (Some(_), Phase::Rest) => (TargetState::Stale, self.note.clone().unwrap_or_else(|| "runs the old code".to_owned())),
            (Some(_), _) => (TargetState::Stale, "serves until the new generation does".to_owned()),
        };
        let deadline = match &self.phase {
            Phase::Watching { until } if watched => Some(now.wall_of(*until)),
            _ => None,
        };
        UnitView {
            stale_processes: stale.count(),
            oldest_start: Some(now.wall_of(seen.main_start)).filter(|_| seen.main_pid != 0),
            deadline,
            ..UnitView::new(&seen.unit, state, why)
        }
    }

    fn ending_view(&self, fpm: &Fpm, now: Now) -> UnitView {
        fpm.view(now, "gets no new requests")
    }
}
