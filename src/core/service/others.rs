//! What somebody else does to a service, or it by itself: what a person stops stays down, however it ends.

use super::checkpoint::Then;
use super::unit::{Service, Step};
use crate::core::effect::JobEnd;
use crate::core::entry::Entry;
use crate::core::ladder::Ladder;
use crate::core::memory::Memory;
use crate::core::policy::ServiceRules;
use crate::core::seen::{Active, UnitSeen};
use crate::core::status::UnitEnd;
use crate::core::step::Turn;

/// What is said of one that nobody has ended.
pub(super) const ENDED: &str = "it ended by itself";
pub(super) const STOPPED: &str = "somebody has stopped it";

impl Service {
    /// Whoever ends it, or restarts it, or that it ends by itself: our restart does not.
    pub(super) fn note_end(&mut self, turn: &mut Turn<'_>, seen: &UnitSeen) {
        self.note_up(turn, seen);
        let others = match self.step {
            Step::Pausing { .. } => self.job_end == Some(JobEnd::Canceled) || turn.memory.has_run_since_it_failed(seen),
            Step::Restarting | Step::Verifying | Step::Done(..) => false,
            // It may be the restart of an earlier agent.
            _ => !turn.memory.maybe_down.contains(&seen.unit),
        };
        if !others || seen.active != Active::Deactivating {
            self.ends_from = None;
            return;
        }
        if self.ends_from.is_none() {
            (self.ends_from, self.ladder) = (Some(turn.now.mono), None);
        }
        // Whoever stops it has asked systemd for that, or its main process is there still: what ends by itself has neither, and a deadline of systemd's a result.
        self.being_stopped |= seen.stop_job || (seen.is_being_stopped() && seen.result == "success");
    }

    /// The restart of an earlier agent ends it no more: whoever does so from now on is somebody else.
    fn note_up(&self, turn: &mut Turn<'_>, seen: &UnitSeen) {
        let waits = matches!(self.step, Step::Draining { .. } | Step::Due | Step::Left(_) | Step::TakingBack(Then::Leave(_) | Then::Pause));
        let before = self.cooperating() || waits;
        if before && seen.active == Active::Active && !seen.job && turn.memory.maybe_down.contains(&seen.unit) {
            turn.record(Entry::FoundUp { unit: seen.unit.clone() });
        }
    }

    /// It would be restarted now, but for that.
    pub(super) fn is_ended_by_others(&self) -> bool {
        matches!(self.step, Step::Due | Step::Pausing { .. }) && self.ends_from.is_some()
    }

    /// It comes to its end without us, or by our SIGKILL after its grace: what a person stops a restart would bring up again.
    pub(super) fn is_let_end(&mut self, turn: &mut Turn<'_>, rules: &ServiceRules, target: &str, name: &str) -> bool {
        let from = self.ends_from.filter(|_| self.is_ended_by_others());
        if let Some(from) = from {
            self.ladder.get_or_insert_with(|| Ladder::new(from, rules.term_timeout));
            self.hurry(turn, rules, target, name);
        }
        from.is_some()
    }

    /// By somebody else, and it has not said that it has reached its checkpoint.
    pub(super) fn is_stopped_for_good(&self) -> bool {
        self.being_stopped && !self.seen.is_to_run_again()
    }

    /// It has ended before it was restarted, unless it was an earlier agent's restart that has not brought it up.
    pub(super) fn ended(&mut self, turn: &mut Turn<'_>, target: &str, name: &str) {
        if turn.memory.maybe_down.contains(name) {
            return self.enter(turn.now.mono, Step::Verifying);
        }
        let why = if self.is_stopped_for_good() { STOPPED } else { ENDED };
        self.done(turn, target, name, UnitEnd::Finished, why);
    }

    /// This run was starting when it was last seen, and what systemd has said of that start is lost, or was not asked for.
    fn was_starting(&self, seen: &UnitSeen) -> bool {
        let unsaid = matches!(self.job_end, None | Some(JobEnd::Lost));
        unsaid && self.seen.active == Active::Activating && self.seen.job && self.seen.invocation == seen.invocation
    }

    /// It is the run that we have started, which has not failed as far as systemd has said.
    fn has_started(&self, seen: &UnitSeen) -> bool {
        let well = matches!(self.job_end, None | Some(JobEnd::Lost | JobEnd::Done));
        well && self.restarted_for.is_some() && !seen.invocation.is_empty() && seen.invocation != self.before
    }

    /// Somebody's stop has taken the place of our start, or has come right after it, as systemd has told, or as can be seen: a start that fails by itself
    /// ends in a failure, and has its own job until then.
    pub(super) fn is_canceled(&self, seen: &UnitSeen) -> bool {
        let stopped = match seen.active {
            // One that no look has met in its start may have been up, and have ended by itself.
            Active::Inactive => self.was_starting(seen) || (self.has_started(seen) && seen.was_signalled()),
            Active::Deactivating => seen.stop_job && (self.was_starting(seen) || self.has_started(seen)),
            _ => false,
        };
        self.job_end == Some(JobEnd::Canceled) || stopped
    }

    /// Also by whoever has taken our restart's place in the queue of systemd.
    pub(super) fn was_stopped_by_others(&self, memory: &Memory, seen: &UnitSeen) -> bool {
        let canceled = self.is_canceled(seen);
        // Or was seen to stop the run that somebody else has started since, systemd's own Restart= perhaps.
        let anew = memory.has_run_since_it_failed(seen);
        // However it ended then: a start of ours that fails is not canceled.
        let down = seen.active == Active::Inactive || ((canceled || (anew && self.being_stopped)) && seen.active == Active::Failed);
        let ours = (self.restarted_for.is_some() && !anew) || memory.is_failed_run(seen);
        (!ours || canceled) && down && !seen.job
    }
}
