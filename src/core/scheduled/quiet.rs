//! While a script is being stopped nothing may start it: a slot that passes while it runs is not lost, so its end would start a run off schedule
//! (facts F2.2). Its timers are left alone: one that is stopped and started again draws its delay anew, catches up (facts F2.3), and runs what
//! OnActiveSec= and OnBootSec= say once more (facts F2.4). Instead a start is skipped as long as `quiet/UNIT` exists, by a condition that the script is
//! lent. A slot that had passed by its end is skipped for good; one that comes later, while it is kept quiet, is made up for.

use std::time::Duration;

use super::script::{Ask, Ended, Script, ScriptStep};
use crate::core::effect::{Effect, Outcome};
use crate::core::entry::Entry;
use crate::core::policy::ScheduledRules;
use crate::core::seen::UnitSeen;
use crate::core::step::Turn;
use crate::core::time::{Mono, Now};

/// A timer fires for a slot that has passed within 0.3 s of the end (facts F2.2), if its AccuracySec= is fine, which it is lent: what triggers later
/// is a run of its own.
const SLOT_FIRES: Duration = Duration::from_secs(1);
/// On a host under load that may take longer.
const SLOT_PATIENCE: Duration = Duration::from_secs(5);

/// What is known of the slots of a script that has ended. It is asked of each look after the end until it is [`Slots::From`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Slots {
    /// A timer is about to fire for a slot that has passed, or may be.
    Due,
    /// Whatever triggers later than this is a run of its own.
    From(Mono),
}

/// What this look says. A run that was not `interrupted` keeps its passed slots, as ever: what was skipped is made up for. `was_due`: a look
/// before this one said [`Slots::Due`].
pub fn slots(seen: &UnitSeen, now: Now, interrupted: bool, was_due: bool) -> Slots {
    // Its processes are gone, and systemd is not done with it.
    if seen.active.runs() {
        return Slots::Due;
    }
    // Nobody keeps it loaded: then nothing starts it either.
    let ended = if seen.idle_since == Mono::BOOT { now.mono } else { seen.idle_since };
    if !interrupted {
        return Slots::From(ended);
    }
    if seen.slot_is_due(now.wall) && now.mono < ended.after(SLOT_PATIENCE) {
        return Slots::Due;
    }
    let fired = ended.after(SLOT_FIRES);
    // The one that was due, if nobody has looked for long, and not another one since.
    let late = Some(seen.last_trigger()).filter(|at| was_due && *at < ended.after(SLOT_PATIENCE));
    Slots::From(late.map_or(fired, |late| late.max(fired)))
}

impl Script {
    pub(super) fn keep_quiet(&mut self, turn: &mut Turn<'_>) {
        // What an earlier rollout is still taking back would otherwise be taken from this one.
        if turn.memory.open.values().any(|open| matches!(open, Effect::LetRun { unit } if *unit == self.unit)) {
            return;
        }
        let id = turn.ask(Effect::KeepQuiet { unit: self.unit.clone() });
        self.pending.insert(id, Ask::KeepQuiet);
        self.enter(turn.now.mono, ScriptStep::Quieting);
    }

    pub(super) fn quiet_answered(&mut self, turn: &mut Turn<'_>, outcome: &Outcome) {
        if let Outcome::Fault(fault) = outcome {
            self.give_up(turn, &format!("its timers could not be kept from starting it: {fault}"));
        }
    }

    pub(super) fn let_run_answered(&mut self, turn: &mut Turn<'_>, outcome: &Outcome) {
        if let Outcome::Fault(fault) = outcome {
            self.give_up(turn, &format!("it ended, but its timers are still kept from starting it: {fault}"));
        }
    }

    /// A look at it after its end.
    pub(super) fn note_slots(&mut self, now: Now) {
        if self.slots != Some(Slots::Due) && self.slots.is_some() {
            return;
        }
        // It runs anew: nothing was missed.
        if self.seen.active.runs() && self.seen.invocation != self.invocation {
            self.slots = Some(Slots::From(now.mono));
            return;
        }
        let interrupted = match self.ended {
            Ended::ByItself => false,
            Ended::Stopped => self.ours,
            Ended::AtCheckpoint | Ended::Renewed | Ended::Spared(_) | Ended::Paused => true,
        };
        self.slots = Some(slots(&self.seen, now, interrupted, self.slots == Some(Slots::Due)));
    }

    /// Whether it has to be kept quiet until a slot that has passed has been skipped. One that runs at once again swallows it.
    pub(super) fn awaits_slots(&self, turn: &Turn<'_>, rules: &ScheduledRules) -> bool {
        !self.ended.goes_on() && !self.runs_at_once(turn, rules) && !matches!(self.slots, Some(Slots::From(_)))
    }

    /// Its timers may start it again.
    pub(super) fn let_run(&mut self, turn: &mut Turn<'_>) {
        let id = turn.ask(Effect::LetRun { unit: self.unit.clone() });
        self.pending.insert(id, Ask::LetRun);
        self.enter(turn.now.mono, ScriptStep::Lifting);
    }

    /// Its scheduled run came while it was kept quiet, and has not been made up for.
    pub(super) fn missed_slot(&self) -> bool {
        let Some(Slots::From(from)) = self.slots else { return false };
        // One whose start is queued is about to run.
        self.seen.last_trigger() > from && !self.has_run_since() && !self.seen.active.runs() && !self.seen.job
    }

    pub(super) fn owe_missed_slot(&self, turn: &mut Turn<'_>) {
        if self.missed_slot() && !self.seen.refuse_manual_start {
            let (unit, target, after) = (self.unit.clone(), self.target.clone(), self.invocation.clone());
            turn.record(Entry::RerunOwed { unit, target, scheduled: true, lent: false, quiet: false, after });
        }
    }
}
