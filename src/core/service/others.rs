//! What somebody else does to a service, or it by itself: what a person stops stays down, however it ends.

use super::unit::{Service, Step};
use crate::core::effect::JobEnd;
use crate::core::memory::Memory;
use crate::core::policy::ServiceRules;
use crate::core::seen::{Active, UnitSeen};
use crate::core::status::UnitEnd;
use crate::core::step::Turn;

/// What is said of one that nobody has ended.
pub(super) const ENDED: &str = "it ended by itself";
pub(super) const STOPPED: &str = "somebody has stopped it";

impl Service {
    /// It ends, or is being restarted, by whom or what ever: not by us.
    pub(super) fn is_ended_by_others(&self, memory: &Memory) -> bool {
        let by_others = match self.step {
            Step::Due => !memory.maybe_down.contains(&self.seen.unit),
            Step::Pausing { .. } => self.job_end == Some(JobEnd::Canceled),
            _ => false,
        };
        by_others && self.seen.active == Active::Deactivating
    }

    /// What somebody is stopping is to stay down, and comes to its end without us, if it does within its grace.
    pub(super) fn is_let_end(&self, turn: &Turn<'_>, rules: &ServiceRules) -> bool {
        self.is_ended_by_others(turn.memory) && turn.now.mono < self.since.after(rules.term_timeout)
    }

    /// Whoever stops it has asked systemd for that, or its main process is there still: what ends by itself has neither.
    pub(super) fn note_stop(&mut self, memory: &Memory, seen: &UnitSeen) {
        let waits = self.cooperating() || matches!(self.step, Step::Draining { .. } | Step::Due | Step::Left(_));
        let stops = seen.active == Active::Deactivating && (seen.job || seen.is_being_stopped());
        self.being_stopped |= waits && stops && !memory.maybe_down.contains(&seen.unit);
    }

    /// By somebody else, and it has not said that it has reached its checkpoint.
    pub(super) fn is_stopped_for_good(&self) -> bool {
        self.being_stopped && !self.seen.is_to_run_again()
    }

    /// It has ended before it was restarted.
    pub(super) fn ended(&mut self, turn: &mut Turn<'_>, target: &str, name: &str) {
        let why = if self.is_stopped_for_good() { STOPPED } else { ENDED };
        self.done(turn, target, name, UnitEnd::Finished, why);
    }

    /// Also by whoever has taken our restart's place in the queue of systemd.
    pub(super) fn was_stopped_by_others(&self, seen: &UnitSeen) -> bool {
        let canceled = self.job_end == Some(JobEnd::Canceled);
        // However it ended then: a start of ours that fails is not canceled.
        let down = seen.active == Active::Inactive || (canceled && seen.active == Active::Failed);
        (self.restarted_for.is_none() || canceled) && down && !seen.job
    }
}
