//! What status is told of a script, and until when it waits.

use super::quiet::Slots;
use super::script::{Script, ScriptStep};
use crate::core::ladder::Rung;
use crate::core::status::{TargetState, UnitEnd, UnitView};
use crate::core::step::Deadline;
use crate::core::time::{Mono, Now};

impl Script {
    pub(super) fn deadline(&self) -> Option<Deadline> {
        let unit = &self.unit;
        match (&self.step, &self.ladder) {
            (ScriptStep::Draining, _) => Some(Deadline::new(self.drain_until, format!("{unit}: may end by itself"))),
            (ScriptStep::Asked { until }, _) => Some(Deadline::new(*until, format!("{unit}: its next checkpoint"))),
            (ScriptStep::Holding { until }, _) => Some(Deadline::new(*until, format!("{unit}: to let go of its lock"))),
            (ScriptStep::Stopping, Some(ladder)) => match ladder.rung(self.since) {
                Rung::Grace { until } => Some(Deadline::new(until, format!("{unit}: its grace after SIGTERM"))),
                Rung::Dying { until } => Some(Deadline::new(until, format!("{unit}: SIGKILL"))),
                Rung::Kill | Rung::Unkillable => None,
            },
            _ => None,
        }
    }

    /// `landed`: when what is worked for now has landed.
    pub(super) fn view(&self, now: Now, landed: Option<Mono>) -> UnitView {
        let outdated = self.seen.active.runs() && landed.is_some_and(|landed| self.seen.main_start < landed);
        let (state, why, deadline) = match &self.step {
            ScriptStep::Draining => (TargetState::Draining, "runs old code; may end by itself".to_owned(), Some(self.drain_until)),
            ScriptStep::Asked { until } => (TargetState::Asked, "was asked to stop at its next checkpoint".to_owned(), Some(*until)),
            ScriptStep::Holding { until } => (TargetState::Held, "holds its lock, so it is spared until then".to_owned(), Some(*until)),
            ScriptStep::Quieting | ScriptStep::Ready => (TargetState::Stopping, "about to be stopped".to_owned(), None),
            ScriptStep::Stopping => match self.ladder.as_ref().map(|ladder| ladder.rung(now.mono)) {
                Some(Rung::Grace { until }) => (TargetState::Stopping, "was sent SIGTERM".to_owned(), Some(until)),
                Some(Rung::Dying { until }) => (TargetState::Killing, "was sent SIGKILL".to_owned(), Some(until)),
                Some(Rung::Unkillable) => (TargetState::Killing, "was sent SIGKILL, and does not end".to_owned(), None),
                _ => (TargetState::Killing, "SIGKILL is due".to_owned(), None),
            },
            ScriptStep::Stopped if self.slots == Some(Slots::Due) => {
                (TargetState::Starting, "stopped; kept quiet until its timer has fired for the slot that has passed".to_owned(), None)
            }
            ScriptStep::Stopped | ScriptStep::Lifting | ScriptStep::Deciding | ScriptStep::Starting => {
                (TargetState::Starting, "stopped; it is started again if its rules say so".to_owned(), None)
            }
            ScriptStep::Done(..) if self.begins(now.mono) => (TargetState::Starting, "stopped; is being started again".to_owned(), None),
            ScriptStep::Done(UnitEnd::Failed, why) => (TargetState::Failed, why.clone(), None),
            // It was started by somebody else, for whom an earlier deploy was the newest.
            ScriptStep::Done(UnitEnd::Quiet, _) if outdated => (TargetState::Stale, "about to be looked at".to_owned(), None),
            ScriptStep::Done(_, why) => (TargetState::Fresh, why.clone(), None),
            ScriptStep::Left(why) => (TargetState::Left, why.clone(), None),
        };
        UnitView::new(&self.unit, state, self.asking.noted(why)).aged(&self.stale, deadline, now)
    }
}
