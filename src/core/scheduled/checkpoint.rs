//! The rungs before SIGTERM that need the script's help: it is asked to stop at its next checkpoint, and it is spared while it holds its lock.

use super::script::{Ask, Ended, Script, ScriptStep};
use crate::core::cooperation::RUN_AGAIN;
use crate::core::effect::{Effect, Outcome};
use crate::core::entry::Entry;
use crate::core::loans::{Loan, Loans};
use crate::core::look::Looker;
use crate::core::policy::{Overdue, ScheduledRules};
use crate::core::seen::{Exit, UnitSeen};
use crate::core::step::Turn;
use crate::core::time::Mono;

/// A request that cannot be taken back is given up after so many tries; what is owed is paid by `debts` then.
const UNASK_TRIES: u32 = 3;

impl Script {
    /// It is kept quiet. As soon as it has what it is lent, and one more look has shown it to be stale still, comes the next rung.
    pub(super) fn go_down_when_lent(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules, loans: &mut Loans, look: &Looker) {
        self.borrow(loans, rules);
        match loans.of(&self.unit) {
            Loan::Here => {}
            Loan::Coming => return,
            Loan::Failed(why) => return self.give_up(turn, &why),
        }
        if !look.seen_since(self.since) || !self.pending.is_empty() {
            return;
        }
        let now = turn.now.mono;
        let forced = turn.memory.targets.get(&self.target).and_then(|memory| memory.want.as_ref()).is_some_and(|want| want.forced);
        if !self.asked && !forced && rules.asks(&self.seen) {
            let id = turn.ask(Effect::AskToStop { unit: self.unit.clone() });
            self.pending.insert(id, Ask::Checkpoint);
            self.asked = true;
            return self.enter(now, ScriptStep::Asked { until: now.after(rules.checkpoint_timeout) });
        }
        if rules.overdue == Some(Overdue::Finish) {
            let why = "it was asked to stop, and its rules let it finish (overdue = \"finish\")";
            return self.spare(now, Ended::Spared(why.to_owned()));
        }
        let until = self.due.get_or_insert(now).after(rules.hold_timeout);
        if self.seen.holds_lock && now < until && !forced {
            return self.enter(now, ScriptStep::Holding { until });
        }
        self.stop(turn, rules);
    }

    /// Until it has ended, which a look tells, or its time is over.
    pub(super) fn wait_for_checkpoint(&mut self, turn: &Turn<'_>, until: Mono) {
        if turn.now.mono >= until && self.pending.is_empty() {
            self.enter(turn.now.mono, ScriptStep::Ready);
        }
    }

    pub(super) fn wait_for_lock(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules, until: Mono) {
        let let_go = self.seen_at >= self.since && !self.seen.holds_lock;
        if let_go {
            self.stop(turn, rules);
        } else if turn.now.mono >= until {
            self.enter(turn.now.mono, ScriptStep::Ready);
        }
    }

    /// One that was asked, or held its lock, has ended.
    pub(super) fn ended_before_its_stop(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules, loans: &mut Loans, seen: &UnitSeen) {
        let same = seen.invocation == self.seen.invocation;
        let run_again = same && self.asked && seen.exit.is_some_and(|exit| exit.how == Exit::Exited(RUN_AGAIN));
        self.invocation.clone_from(&self.seen.invocation);
        self.seen.timers.clone_from(&seen.timers);
        self.seen.active = seen.active;
        self.seen.exit = seen.exit;
        self.seen.idle_since = seen.idle_since;
        if run_again {
            self.ended = Ended::AtCheckpoint;
            turn.record(Entry::Interrupted { unit: self.unit.clone() });
            self.owe_rerun(turn, rules);
            self.reset_failed(turn);
        }
        self.note_slots(turn.now);
        self.release(loans);
        self.enter(turn.now.mono, ScriptStep::Stopped);
    }

    /// It goes on with old code. What was done to it is taken back.
    pub(super) fn spare(&mut self, now: Mono, ended: Ended) {
        self.ended = ended;
        self.enter(now, ScriptStep::Stopped);
    }

    /// The request to stop is taken back before the script runs again. Says whether there is none any more.
    pub(super) fn unasked(&mut self, turn: &mut Turn<'_>) -> bool {
        if turn.memory.asked.contains(&self.unit) && !self.pending.values().any(|ask| matches!(ask, Ask::Checkpoint | Ask::Unask)) {
            let id = turn.ask(Effect::Unask { unit: self.unit.clone() });
            self.pending.insert(id, Ask::Unask);
        }
        !turn.memory.asked.contains(&self.unit)
    }

    pub(super) fn asked_or_unasked(&mut self, turn: &mut Turn<'_>, outcome: &Outcome) {
        let Outcome::Fault(fault) = outcome else { return };
        if matches!(self.step, ScriptStep::Asked { .. }) {
            // It cannot be asked: the next rung does without.
            return self.enter(turn.now.mono, ScriptStep::Ready);
        }
        self.tries += 1;
        if self.tries >= UNASK_TRIES {
            self.give_up(turn, &format!("the request to stop could not be taken back: {fault}"));
        }
    }
}
