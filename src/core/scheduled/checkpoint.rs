//! The rungs before SIGTERM that need the script's help: it is asked to stop at its next checkpoint, and it is spared while it holds its lock.

use std::time::Duration;

use super::drain::forbidden;
use super::script::{Ended, Script, ScriptStep};
use crate::core::asking::{Asking, Came, Next};
use crate::core::cut::{Saw, owe_rerun_of_lent, settle_rerun_of_running};
use crate::core::effect::{EffectId, Outcome};
use crate::core::entry::Entry;
use crate::core::loans::{Loan, Loans};
use crate::core::memory::Memory;
use crate::core::policy::{Overdue, ScheduledRules};
use crate::core::seen::{Active, UnitSeen};
use crate::core::step::Turn;
use crate::core::time::Mono;

/// A look that is older than this says nothing of what is stopped now.
const FRESH: Duration = Duration::from_millis(200);

impl Script {
    /// It is kept quiet. As soon as it has what it is lent, and one more look has shown it to be stale still, comes the next rung.
    pub(super) fn go_down_when_lent(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules, loans: &mut Loans) {
        let now = turn.now.mono;
        self.reconsider(turn, rules, loans);
        if self.seen.exec_starts <= 1 || self.stop_due {
            self.borrow(loans, rules);
            match loans.of(&self.unit) {
                Loan::Here => {}
                Loan::Coming => {
                    self.waited = true;
                    return;
                }
                Loan::Failed(why) => {
                    // Nobody would know what a later Reload does to it.
                    self.release(loans);
                    return self.give_up(turn, &why);
                }
            }
            if self.stop_due && self.cut_short.is_none() {
                // Its next command may have begun before that; it may have ended since that was asked for, and nobody has looked.
                self.cut_short = turn.memory.lent_since(&self.unit, turn.now).or(Some(now));
                self.enter(now, ScriptStep::Ready);
            }
        }
        // What somebody else has done to it while it had to wait is to be seen first.
        if std::mem::take(&mut self.waited) && now.since(self.seen_at) > FRESH {
            self.enter(now, ScriptStep::Ready);
        }
        // With nothing old in it, it is about to end.
        if self.stale.is_empty() || self.seen_at < self.since || !self.pending.is_empty() || !self.asking.idle() {
            return;
        }
        if self.cut_short.is_some() {
            return self.stop(turn, rules);
        }
        self.go_down(turn, rules);
    }

    /// As long as nothing has been lent for it, its stop is not on its way: what forbids it by now may have come while others were lent something.
    fn reconsider(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules, loans: &mut Loans) {
        let waits = self.stop_due && self.cut_short.is_none() && !turn.memory.lent.contains(&self.unit);
        let finish = rules.overdue == Some(Overdue::Finish) || forbidden(&self.seen, rules).is_some();
        if waits && (finish || turn.memory.holds(&self.target)) {
            self.stop_due = false;
            self.release(loans);
            settle_rerun_of_running(turn, &self.seen, "it was not stopped");
            self.enter(turn.now.mono, ScriptStep::Ready);
        }
    }

    /// By the rules that there are by now, which may be newer than its drain.
    fn go_down(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules) {
        let now = turn.now.mono;
        if let Some(why) = forbidden(&self.seen, rules) {
            return self.spare(now, Ended::Spared(why));
        }
        let forced = turn.memory.targets.get(&self.target).and_then(|memory| memory.want.as_ref()).is_some_and(|want| want.forced);
        match self.asking.next(turn, rules.asking(), &self.seen, forced) {
            Next::NotYet => self.waited = true,
            Next::Asked { until } => self.enter(now, ScriptStep::Asked { until }),
            Next::Spared => {
                self.spare(now, Ended::Spared("it was asked to stop, and its rules let it finish (overdue = \"finish\")".to_owned()))
            }
            Next::Holding { until } => self.enter(now, ScriptStep::Holding { until }),
            Next::Signal if self.seen.exec_starts > 1 => {
                self.stop_due = true;
                // From its loan on it may end short of its later commands, also while no agent is there.
                self.invocation.clone_from(&self.seen.invocation);
                if self.seen.active != Active::Deactivating {
                    self.owe_rerun_of_lent(turn, rules);
                }
                self.enter(now, ScriptStep::Ready);
            }
            Next::Signal => self.stop(turn, rules),
        }
    }

    /// Until it has ended, which a look tells, or its time is over.
    pub(super) fn wait_for_checkpoint(&mut self, turn: &Turn<'_>, until: Mono) {
        if turn.now.mono >= until && self.asking.idle() {
            self.enter(turn.now.mono, ScriptStep::Ready);
        }
    }

    pub(super) fn wait_for_lock(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules, until: Mono) {
        let let_go = self.seen_at >= self.since && !self.seen.holds_lock && !self.stale.is_empty();
        if let_go && self.seen.exec_starts <= 1 {
            self.go_down(turn, rules);
        } else if let_go || turn.now.mono >= until {
            self.enter(turn.now.mono, ScriptStep::Ready);
        }
    }

    /// One that was asked, or held its lock, has ended.
    pub(super) fn ended_before_its_stop(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules, loans: &mut Loans, seen: &UnitSeen) {
        self.note_loan(turn);
        let same = seen.invocation == self.seen.invocation;
        let run_again = same && self.asking.was_asked(turn.memory, &self.unit) && seen.is_to_run_again();
        // Somebody's stop has ended it, not what it was lent.
        let cut_short = same && self.saw != Saw::SomebodyElse && self.is_cut_short(seen);
        self.invocation.clone_from(&self.seen.invocation);
        self.seen.timers.clone_from(&seen.timers);
        self.seen.active = seen.active;
        self.seen.invocation.clone_from(&seen.invocation);
        self.seen.exit = seen.exit;
        self.seen.idle_since = seen.idle_since;
        if run_again || cut_short {
            self.ended = if run_again { Ended::AtCheckpoint } else { Ended::Stopped };
            turn.record(Entry::Interrupted { unit: self.unit.clone(), at: turn.now.mono });
            // What is bound to it goes down with its end, and comes back with its next run.
            let dependents: Vec<_> = self.seen.dependents.iter().filter(|dependent| dependent.bound).cloned().collect();
            if !dependents.is_empty() {
                turn.record(Entry::TakesDown { unit: self.unit.clone(), dependents });
            }
            self.owe_rerun(turn, rules);
            self.reset_failed(turn);
        } else {
            self.owe_no_rerun(turn, "it had ended by itself");
            // Somebody has started it while its loan was on its way.
            if !same && seen.active.runs() && !seen.is_being_stopped() {
                owe_rerun_of_lent(turn, seen, Some((&self.target, rules)));
            }
        }
        self.note_slots(turn.now);
        self.release(loans);
        self.enter(turn.now.mono, ScriptStep::Stopped);
    }

    /// Its main process has said by its exit status that it is to be run again, and something is left of it. What comes of that may take longer than
    /// this rollout, and than the request.
    pub(super) fn owe_heeded(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules, seen: &UnitSeen) {
        let asked = seen.invocation == self.seen.invocation && self.asking.was_asked(turn.memory, &self.unit);
        if asked && says_run_again(seen) && !turn.memory.cutting.contains_key(&self.unit) && !owes_heeded(turn.memory, seen) {
            self.invocation.clone_from(&seen.invocation);
            self.owe_rerun(turn, rules);
        }
    }

    /// It has done so in an earlier rollout: nobody asks it again, and that is how it ended.
    pub(super) fn take_up_heeded(&mut self, turn: &Turn<'_>) {
        if self.has_heeded(turn.memory) {
            self.asking = Asking::taken_up(true);
        }
    }

    pub(super) fn has_heeded(&self, memory: &Memory) -> bool {
        says_run_again(&self.seen) && !memory.cutting.contains_key(&self.unit) && owes_heeded(memory, &self.seen)
    }

    /// What it is about to be lent may be in force already, though nobody has said so yet.
    pub(super) fn note_loan(&mut self, turn: &Turn<'_>) {
        let lent = turn.memory.lent_since(&self.unit, turn.now);
        // Or it was lent that before: by an agent that has died, or for a stop that was lost.
        let before = turn.memory.reruns.get(&self.unit).filter(|owed| owed.lent && owed.after == self.seen.invocation);
        // It makes no difference to this run that it has been taken back since.
        let once = before.filter(|owed| owed.reloaded).map(|_| Mono::BOOT);
        if let Some(since) = lent.filter(|_| self.stop_due || before.is_some()).or(once) {
            self.cut_short.get_or_insert(since);
        }
    }

    /// It has ended well in what was its last command only since it was lent what it takes to be stopped: that is our doing.
    pub(super) fn is_cut_short(&self, seen: &UnitSeen) -> bool {
        let ended_since = |since| seen.exit.is_none_or(|exit| exit.at >= since);
        seen.active == Active::Inactive && !seen.was_signalled() && self.cut_short.is_some_and(ended_since)
    }

    /// Neither its stop nor what keeps the later of several commands from running is on its way.
    pub(super) fn waits_for_its_stop(&self) -> bool {
        matches!(self.step, ScriptStep::Quieting | ScriptStep::Ready) && self.ladder.is_none() && !self.stop_due
    }

    /// It goes on with old code. What was done to it is taken back.
    pub(super) fn spare(&mut self, now: Mono, ended: Ended) {
        self.ended = ended;
        self.invocation.clone_from(&self.seen.invocation);
        self.enter(now, ScriptStep::Stopped);
    }

    /// Whether this was an answer about its being asked.
    pub(super) fn asked_or_unasked(&mut self, turn: &mut Turn<'_>, id: EffectId, outcome: &Outcome) -> bool {
        match self.asking.outcome(id, outcome) {
            None => return false,
            Some(Came::Unasked) if matches!(self.step, ScriptStep::Asked { .. }) => self.enter(turn.now.mono, ScriptStep::Ready),
            Some(Came::Well | Came::Unasked) => {}
            Some(Came::Stuck(why)) => self.give_up(turn, &why),
        }
        true
    }
}

fn says_run_again(seen: &UnitSeen) -> bool {
    seen.active == Active::Deactivating && !seen.is_being_stopped() && seen.is_to_run_again()
}

fn owes_heeded(memory: &Memory, seen: &UnitSeen) -> bool {
    memory.reruns.get(&seen.unit).is_some_and(|owed| !owed.lent && owed.after == seen.invocation)
}
