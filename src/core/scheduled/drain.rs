//! The first rung: a stale script may end by itself, until its drain is over. What may not be stopped at all is left to that.

use super::script::{Script, ScriptStep};
use crate::core::entry::Entry;
use crate::core::loans::Loans;
use crate::core::memory::Memory;
use crate::core::policy::{Overdue, ScheduledRules};
use crate::core::seen::{Load, UnitSeen};
use crate::core::status::{UnitEnd, UnitOutcome};
use crate::core::step::Turn;

impl Script {
    pub(super) fn drain(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules, loans: &mut Loans) {
        if turn.memory.interrupted.contains_key(&self.unit) && turn.memory.interruptions(&self.seen) == 0 {
            turn.record(Entry::RanThrough { unit: self.unit.clone() });
        }
        if let Some(why) = untouchable(&self.seen, rules, turn.memory) {
            let starved = forbidden(&self.seen, rules).is_none();
            let (target, unit) = (self.target.clone(), self.unit.clone());
            let notes = Vec::new();
            turn.record(Entry::UnitEnded(UnitOutcome { target, unit, what: UnitEnd::Left, why: why.clone(), notes, starved }));
            return self.enter(turn.now.mono, ScriptStep::Left(why));
        }
        // With what several ExecStart= are lent, the next of them would not run: that is for when it is about to be stopped.
        if self.seen.exec_starts <= 1 {
            self.borrow(loans, rules);
        }
        if turn.now.mono < self.drain_until || !turn.journal_good {
            return;
        }
        self.take_up_heeded(turn);
        self.keep_quiet(turn);
    }
}

/// A script that its rules, or systemd, do not let us stop, or that never gets to its end, since each deploy interrupts it.
#[must_use]
pub fn untouchable(unit: &UnitSeen, rules: &ScheduledRules, memory: &Memory) -> Option<String> {
    forbidden(unit, rules).or_else(|| {
        let times = memory.interruptions(unit);
        (times >= rules.max_interruptions)
            .then(|| format!("it was interrupted {times} times in a row (max_interruptions): this time it is let finish, with old code"))
    })
}

/// Whatever happened to it before.
pub(super) fn forbidden(unit: &UnitSeen, rules: &ScheduledRules) -> Option<String> {
    if unit.refuse_manual_stop {
        return Some("it refuses a manual stop (RefuseManualStop=yes): it goes on with old code until it ends".to_owned());
    }
    if unit.load == Load::Masked {
        return Some("it is masked, so it could not come back: it goes on with old code until it ends".to_owned());
    }
    match rules.overdue {
        // It is asked first, and may end at a checkpoint.
        Some(Overdue::Finish) if rules.asks(unit) => None,
        Some(Overdue::Finish) => Some("its rules let it finish (overdue = \"finish\")".to_owned()),
        None if unit.on_success && unit.on_failure => {
            Some("it has OnSuccess= and OnFailure=, so any stop would start one of them: it may finish".to_owned())
        }
        Some(Overdue::Stop) | None => None,
    }
}
