//! What status is told of one php-fpm, and until when it waits.

use super::looks::STOPPED;
use super::{FINISHING, Fpm, FpmStep, Purpose, RESTART_LOOK};
use crate::core::ladder::Rung;
use crate::core::status::{TargetState, UnitView};
use crate::core::step::Deadline;
use crate::core::time::{Mono, Now};

impl Fpm {
    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        let unit = &self.unit;
        let idle = self.pending.is_none();
        match &self.step {
            FpmStep::Draining { until } if idle => Some(Deadline::new(self.next.min(*until), format!("{unit}: look whether it is idle"))),
            FpmStep::Draining { until } => Some(Deadline::new(*until, format!("{unit}: its threshold"))),
            FpmStep::Finishing => Some(Deadline::new(self.since.after(FINISHING), format!("{unit}: answers on their way"))),
            FpmStep::WaitingForLoan if self.next > self.since => Some(Deadline::new(self.next, format!("{unit}: own limit of restarts"))),
            FpmStep::Restarting | FpmStep::Seeing if self.looking.is_some() => None,
            FpmStep::Restarting => {
                Some(Deadline::new(self.next.max(self.since.after(RESTART_LOOK)), format!("{unit}: look at its restart")))
            }
            FpmStep::Testing
            | FpmStep::Inspecting
            | FpmStep::Seeing
            | FpmStep::Reading
            | FpmStep::Verifying { .. }
            | FpmStep::Dating { .. }
            | FpmStep::Warming
            | FpmStep::Proving { .. }
                if idle =>
            {
                Some(Deadline::new(self.next, format!("{unit}: ask it")))
            }
            _ => None,
        }
    }

    /// What its restart is at when SIGKILL is due or sent, and until when.
    fn past_its_grace(&self, now: Mono) -> (TargetState, String, Option<Mono>) {
        match self.ladder.as_ref().map(|ladder| ladder.rung(now)) {
            _ if self.old_gone && self.seen.processes.is_empty() => {
                (TargetState::Starting, "is being started".to_owned(), Some(self.within))
            }
            _ if self.old_gone => (TargetState::Starting, format!("{}; is being started", self.stuck()), Some(self.within)),
            Some(Rung::Unkillable) if !self.seen.processes.is_empty() => (TargetState::Killing, self.stuck(), Some(self.within)),
            Some(Rung::Dying { until }) => {
                (TargetState::Killing, "SIGKILL to what was left; it is being restarted".to_owned(), Some(until))
            }
            _ => (TargetState::Killing, "SIGKILL to what was left; it is being restarted".to_owned(), Some(self.within)),
        }
    }

    #[must_use]
    pub fn view(&self, now: Now, held_back_by: &str) -> UnitView {
        let soon = |step: TargetState, why: &str| (step, why.to_owned(), None);
        let grace = self.ladder.as_ref().and_then(|ladder| match ladder.rung(now.mono) {
            Rung::Grace { until } => Some(until),
            _ => None,
        });
        let (state, why, deadline) = match &self.step {
            FpmStep::Testing | FpmStep::Inspecting | FpmStep::Prepared if self.purpose == Purpose::End => {
                (TargetState::Lingering, held_back_by.to_owned(), Some(self.lingers_until()))
            }
            FpmStep::Draining { .. } | FpmStep::Retiring if self.purpose == Purpose::End => {
                (TargetState::Lingering, self.waits_for_what(), Some(self.lingers_until()))
            }
            FpmStep::Retiring => soon(TargetState::Draining, "idle workers are being ended"),
            FpmStep::Restarting if self.purpose == Purpose::End => match grace {
                Some(until) => (TargetState::Stopping, "is being stopped".to_owned(), Some(until)),
                None => soon(TargetState::Killing, "SIGKILL to what was left"),
            },
            FpmStep::Restarting if self.purpose == Purpose::Start => soon(TargetState::Starting, "is being started"),
            FpmStep::Testing | FpmStep::Inspecting if self.purpose == Purpose::Start => {
                soon(TargetState::Starting, "its configuration is being tested")
            }
            FpmStep::Testing | FpmStep::Inspecting => soon(TargetState::Stale, "its configuration is being tested"),
            FpmStep::Prepared => soon(TargetState::Stale, held_back_by),
            FpmStep::Draining { until } => (TargetState::Draining, self.waits_for().1, Some(*until)),
            FpmStep::Seeing | FpmStep::Counting | FpmStep::Freezing | FpmStep::Recounting | FpmStep::Thawing | FpmStep::Finishing => {
                soon(TargetState::Stopping, "the threshold has passed: what is in flight is being counted")
            }
            FpmStep::WaitingForLoan => soon(TargetState::Stopping, "about to be restarted"),
            FpmStep::Restarting if grace.is_none() => self.past_its_grace(now.mono),
            FpmStep::Restarting => (TargetState::Stopping, "is being restarted".to_owned(), grace),
            FpmStep::Reading => soon(TargetState::Verifying, "restarted; its configuration is being read, for where it listens"),
            FpmStep::Verifying { until } | FpmStep::Dating { until } => {
                (TargetState::Verifying, "restarted; is to answer its ping".to_owned(), Some(*until))
            }
            FpmStep::Warming => soon(TargetState::Verifying, "warming up"),
            FpmStep::Proving { until } => (TargetState::Verifying, "is to prove that it serves the new code".to_owned(), Some(*until)),
            FpmStep::Stopped => soon(TargetState::Fresh, STOPPED),
            FpmStep::Done => soon(TargetState::Fresh, self.came_back()),
            FpmStep::Refused(why) | FpmStep::Broken(why) => soon(TargetState::Failed, why),
        };
        let ours = self.committed() && self.purpose != Purpose::End && !matches!(self.step, FpmStep::Restarting);
        let stale = if ours || self.purpose == Purpose::Start { 0 } else { u32::try_from(self.seen.processes.len()).unwrap_or(u32::MAX) };
        UnitView {
            unit: self.unit.clone(),
            state,
            stale_processes: stale,
            oldest_start: Some(now.wall_of(self.seen.main_start)).filter(|_| self.seen.main_pid != 0),
            in_flight: self.waits_for().0.filter(|_| matches!(self.step, FpmStep::Draining { .. })),
            why,
            deadline: deadline.map(|at| now.wall_of(at)),
            starved: false,
            process: None,
            opcache: None,
        }
    }
}
