//! After the stop: what was lent is given back, then it runs again now, or stays quiet until its next scheduled run.

use super::script::{Ask, Ended, Script, ScriptStep};
use crate::core::effect::{Effect, Outcome};
use crate::core::entry::Entry;
use crate::core::loans::Loans;
use crate::core::policy::{After, ScheduledRules};
use crate::core::seen::Active;
use crate::core::status::UnitEnd;
use crate::core::step::Turn;

impl Script {
    /// What starts must not start with what was lent for the stop.
    pub(super) fn go_on_when_given_back(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules, loans: &mut Loans) {
        loans.release(&self.unit);
        if !self.unasked(turn) {
            return;
        }
        if turn.memory.lent.contains(&self.unit) || !self.pending.is_empty() {
            return;
        }
        if (rules.after == After::Rerun || self.ended == Ended::AtCheckpoint) && turn.memory.reruns.contains_key(&self.unit) {
            self.start(turn);
        } else {
            self.enter(turn.now.mono, ScriptStep::StartingTimers);
        }
    }

    /// Its timers run again.
    pub(super) fn after_timers(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules) {
        match &self.ended {
            Ended::ByItself => return self.ended_by_itself(turn),
            Ended::Spared(why) => {
                let why = why.clone();
                turn.unit_ended(&self.target, &self.unit, UnitEnd::Left, why.clone());
                return self.enter(turn.now.mono, ScriptStep::Left(why));
            }
            Ended::AtCheckpoint if self.started_for.is_some() => {
                let why = "asked, it ended at a checkpoint, and was started again with the new code";
                return self.done(turn, UnitEnd::Renewed, why.to_owned());
            }
            Ended::Stopped if self.started_for.is_some() => {
                return self.done(turn, UnitEnd::Renewed, "stopped, and started again with the new code".to_owned());
            }
            Ended::AtCheckpoint | Ended::Stopped => {}
        }
        let rerun = rules.after != After::UntilNext && turn.memory.reruns.contains_key(&self.unit);
        if rerun && self.seen.timers.is_empty() {
            self.start(turn);
        } else {
            self.enter(turn.now.mono, ScriptStep::Deciding);
        }
    }

    /// The next elapse of its timers is real now: rerun at once, or stay quiet until then.
    pub(super) fn decide(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules) {
        let next = self.seen.next_run();
        let owed = turn.memory.reruns.contains_key(&self.unit);
        if owed && !rules.stays_quiet(next, turn.now.wall) && !self.seen.active.runs() {
            return self.start(turn);
        }
        let why = match next {
            Some(next) => format!("stopped; its next scheduled run is at {next}"),
            None if self.seen.active.runs() => "stopped; it runs again".to_owned(),
            None => "stopped; no timer has a next run for it".to_owned(),
        };
        if owed {
            turn.record(Entry::RerunSettled { unit: self.unit.clone(), why: why.clone() });
        }
        self.done(turn, UnitEnd::Quiet, why);
    }

    /// From now on it is owed a new run, if its rules give it one and systemd lets us start it.
    pub(super) fn owe_rerun(&self, turn: &mut Turn<'_>, rules: &ScheduledRules) {
        if rules.after != After::UntilNext && !self.seen.refuse_manual_start && !self.seen.transient {
            turn.record(Entry::RerunOwed { unit: self.unit.clone(), target: self.target.clone() });
        }
    }

    /// That it ended as it did was our doing: it is no failure to anybody.
    pub(super) fn reset_failed(&mut self, turn: &mut Turn<'_>) {
        if self.seen.active == Active::Failed {
            let id = turn.ask(Effect::ResetFailed { unit: self.unit.clone() });
            self.pending.insert(id, Ask::Reset);
        }
    }

    fn start(&mut self, turn: &mut Turn<'_>) {
        let want = turn.memory.targets.get(&self.target).and_then(|memory| memory.want.as_ref());
        self.started_for = Some(want.map_or(turn.now.mono, |want| want.landed));
        let id = turn.ask(Effect::Start { unit: self.unit.clone(), caught_up: false });
        self.pending.insert(id, Ask::StartScript);
        self.enter(turn.now.mono, ScriptStep::Starting);
    }

    pub(super) fn script_started(&mut self, turn: &mut Turn<'_>, outcome: &Outcome) {
        if *outcome == Outcome::Queued {
            turn.record(Entry::RerunSettled { unit: self.unit.clone(), why: "started again".to_owned() });
            return self.enter(turn.now.mono, ScriptStep::StartingTimers);
        }
        let why = format!("stopped, but it could not be started again: {}", outcome.said());
        turn.record(Entry::RerunSettled { unit: self.unit.clone(), why: why.clone() });
        self.give_up(turn, &why);
    }
}
