//! What status is told of a stray, and until when it waits.

use super::place::session_of;
use super::stray::{Stray, StrayStep};
use crate::core::ladder::Rung;
use crate::core::memory::Want;
use crate::core::status::{StrayView, TargetState, UnitEnd, UnitView};
use crate::core::step::Deadline;
use crate::core::time::{Now, Span};

impl Stray {
    pub(super) fn deadline(&self) -> Option<Deadline> {
        let who = || format!("{} (pid {})", self.name(), self.process.pid);
        match (&self.step, &self.ladder) {
            (StrayStep::Draining { until }, _) => Some(Deadline::new(*until, format!("{}: may end by itself", who()))),
            (StrayStep::Stopping, Some(ladder)) => match ladder.rung(self.since) {
                Rung::Grace { until } => Some(Deadline::new(until, format!("{}: its grace after SIGTERM", who()))),
                Rung::Dying { until } => Some(Deadline::new(until, format!("{}: SIGKILL", who()))),
                Rung::Kill | Rung::Unkillable => None,
            },
            _ => None,
        }
    }

    pub(super) fn view(&self, want: &Want, now: Now) -> UnitView {
        let (state, why, until) = match &self.step {
            StrayStep::Draining { until } => (TargetState::Draining, "may end by itself", Some(*until)),
            StrayStep::Stopping => match self.ladder.as_ref().map(|ladder| ladder.rung(now.mono)) {
                Some(Rung::Grace { until }) => (TargetState::Stopping, "was sent SIGTERM", Some(until)),
                Some(Rung::Dying { until }) => (TargetState::Killing, "was sent SIGKILL", Some(until)),
                Some(Rung::Kill | Rung::Unkillable) => (TargetState::Killing, "SIGKILL is due", None),
                None => (TargetState::Stopping, "may have been sent SIGTERM, and is sent it again when that can be written down", None),
            },
            StrayStep::Left(why) => (TargetState::Left, why.as_str(), None),
            StrayStep::Done(UnitEnd::Failed, why) => (TargetState::Failed, why.as_str(), None),
            StrayStep::Done(_, why) => (TargetState::Fresh, why.as_str(), None),
        };
        let old = state != TargetState::Fresh;
        let stale_by = Span(self.stale_by(want)).to_string();
        let age = if old { format!("; its code is from {stale_by} before the deploy") } else { String::new() };
        let started_at = now.wall_of(self.process.start);
        let process = StrayView {
            pid: self.process.pid,
            name: self.name(),
            user: self.seen.user.clone(),
            session: session_of(&self.process.cgroup).map(str::to_owned),
            terminal: self.seen.tty.clone(),
            started_at,
            stale_by,
        };
        UnitView {
            stale_processes: u32::from(old),
            oldest_start: Some(started_at),
            deadline: until.map(|at| now.wall_of(at)),
            process: Some(process),
            ..UnitView::new(self.unit(), state, format!("{}: {why}{age}", self.who()))
        }
    }
}
