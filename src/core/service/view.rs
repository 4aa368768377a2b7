//! What status is told of a service, and until when it waits.

use super::checkpoint::Then;
use super::unit::{START_TIMEOUT, Service, Step};
use crate::core::ladder::Rung;
use crate::core::seen::Active;
use crate::core::status::{TargetState, UnitEnd, UnitView};
use crate::core::step::Deadline;
use crate::core::time::{Mono, Now};

impl Service {
    pub(super) fn deadline(&self, name: &str) -> Option<Deadline> {
        match (&self.step, &self.ladder) {
            (Step::Draining { until } | Step::Pausing { until }, _) => Some(Deadline::new(*until, format!("{name}: restart"))),
            (Step::Asked { until }, _) => Some(Deadline::new(*until, format!("{name}: its next checkpoint"))),
            (Step::Holding { until }, _) => Some(Deadline::new(*until, format!("{name}: to let go of its lock"))),
            (Step::Restarting, Some(ladder)) if self.old_lives() => match ladder.rung(self.since) {
                Rung::Grace { until } | Rung::Dying { until } => Some(Deadline::new(until, format!("{name}: its grace after SIGTERM"))),
                Rung::Kill | Rung::Unkillable => None,
            },
            _ => None,
        }
    }

    pub(super) fn view(&self, name: &str, now: Now) -> UnitView {
        let (state, why, deadline) = match &self.step {
            Step::Draining { until } if *until > now.mono => {
                (TargetState::Draining, "runs old code; may end by itself".to_owned(), Some(*until))
            }
            Step::Due | Step::Pausing { .. } if self.is_ended_by_others() => {
                self.ending("is stopped by somebody else, or ends by itself", now)
            }
            Step::Draining { .. } | Step::Due => (TargetState::Stale, "waits for its turn to be restarted".to_owned(), None),
            Step::Ready => (TargetState::Stopping, "about to be asked to stop, or restarted".to_owned(), None),
            Step::Asked { until } => (TargetState::Asked, "was asked to stop at its next checkpoint".to_owned(), Some(*until)),
            Step::Holding { until } => (TargetState::Held, "holds its lock, so it is spared until then".to_owned(), Some(*until)),
            Step::TakingBack(Then::Start) => (TargetState::Starting, "ended at a checkpoint; is started again".to_owned(), None),
            Step::TakingBack(then) => {
                let state = match then {
                    Then::Restart | Then::Pause => TargetState::Stopping,
                    _ => TargetState::Verifying,
                };
                (state, "what it was asked and lent is taken back".to_owned(), None)
            }
            // Nothing is left that SIGKILL could be for.
            Step::Restarting if !self.old_lives() => {
                let until = self.ladder.as_ref().map(|ladder| ladder.grace_over().after(START_TIMEOUT));
                (TargetState::Starting, "is being started".to_owned(), until)
            }
            Step::Restarting => self.ending("is being restarted", now),
            Step::Verifying if self.seen.job && (!self.seen.active.runs() || self.seen.active == Active::Activating) => {
                (TargetState::Starting, "is being started".to_owned(), Some(self.since.after(START_TIMEOUT)))
            }
            Step::Verifying => (TargetState::Verifying, "restarted; to be seen running".to_owned(), None),
            Step::Pausing { until } => (TargetState::Starting, "did not come up; is started again".to_owned(), Some(*until)),
            Step::Done(UnitEnd::Failed, why) => (TargetState::Failed, why.clone(), None),
            Step::Left(why) | Step::Done(UnitEnd::Left, why) => (TargetState::Left, why.clone(), None),
            Step::Done(_, why) => (TargetState::Fresh, why.clone(), None),
        };
        UnitView::new(name, state, self.asking.noted(why)).aged(&self.stale, deadline, now)
    }

    fn ending(&self, why: &str, now: Now) -> (TargetState, String, Option<Mono>) {
        match self.ladder.as_ref().map(|ladder| ladder.rung(now.mono)) {
            Some(Rung::Grace { until }) => (TargetState::Stopping, why.to_owned(), Some(until)),
            Some(Rung::Dying { until }) => (TargetState::Killing, "was sent SIGKILL".to_owned(), Some(until)),
            Some(Rung::Unkillable) => (TargetState::Killing, "was sent SIGKILL, and does not end".to_owned(), None),
            _ => (TargetState::Killing, "SIGKILL is due".to_owned(), None),
        }
    }
}
