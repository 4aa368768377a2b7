//! After the stop: what was lent is given back, then it runs again now, or stays quiet until its next scheduled run.

use super::drain::forbidden;
use super::script::{Ask, Ended, Script, ScriptStep};
use std::time::Duration;

use crate::core::asking::Asking;
use crate::core::cut::settle_rerun_of_running;
use crate::core::effect::{Effect, Outcome};
use crate::core::entry::Entry;
use crate::core::loans::Loans;
use crate::core::policy::{After, Overdue, Policy, ScheduledRules, TargetRules};
use crate::core::seen::{Active, UnitSeen};
use crate::core::status::UnitEnd;
use crate::core::step::Turn;
use crate::core::time::Mono;

/// A start that systemd has taken begins within milliseconds, unless something holds it up: then nobody waits for it here.
const BEGINS: Duration = Duration::from_secs(1);

/// Writes down until when the rerun of this unit, which has ended, waits. Says so for people.
pub fn settle(turn: &mut Turn<'_>, seen: &UnitSeen, rules: &ScheduledRules) -> String {
    let ended = if seen.idle_since == Mono::BOOT { turn.now.mono } else { seen.idle_since };
    let until = turn.now.wall_of(ended.after(rules.settle_after));
    turn.record(Entry::RerunSettles { unit: seen.unit.clone(), until, after: seen.invocation.clone() });
    format!("stopped; it runs again at {until}, when what it left behind has settled (settle_after)")
}

/// The target of a script that is owed a run, and its rules: of one that no target has by now, since it is excluded, those by which it was stopped.
#[must_use]
pub fn rules_of<'p>(policy: &'p Policy, unit: &str, stopped_for: &str) -> Option<(&'p str, &'p ScheduledRules)> {
    let stopped_by = || match policy.targets.get_key_value(stopped_for)? {
        (name, TargetRules::Scheduled(rules)) => Some((name.as_str(), rules)),
        _ => None,
    };
    policy.target_of_script(unit).or_else(stopped_by)
}

impl Script {
    /// What starts must not start with what was lent for the stop.
    pub(super) fn go_on_when_given_back(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules, loans: &mut Loans) {
        if self.is_heeding(turn) {
            return self.see_it_end(turn, rules, loans);
        }
        self.release(loans);
        if self.asking.taken_back(turn, &self.unit)
            && !turn.memory.lent.contains(&self.unit)
            && self.pending.is_empty()
            && !self.awaits_slots(turn, rules)
        {
            // What its timers say makes no difference.
            if self.runs_at_once(turn, rules) || (self.ended == Ended::ByItself && self.seen.timers.is_empty()) {
                return self.let_run(turn);
            }
            self.enter(turn.now.mono, ScriptStep::Deciding);
        }
    }

    /// Whether it is started as soon as it may, whatever its timers say.
    pub(super) fn runs_at_once(&self, turn: &Turn<'_>, rules: &ScheduledRules) -> bool {
        let wants = match self.ended {
            Ended::AtCheckpoint => self.is_owed_by_checkpoint(rules),
            Ended::Stopped => rules.after == After::Rerun || (rules.after == After::Auto && self.seen.timers.is_empty()),
            Ended::ByItself | Ended::Spared(_) | Ended::Paused | Ended::Renewed => false,
        };
        wants && rules.settle_after.is_zero() && turn.memory.reruns.contains_key(&self.unit)
    }

    /// Whoever started it was quicker than we.
    pub(super) fn has_run_since(&self) -> bool {
        !self.seen.invocation.is_empty() && self.seen.invocation != self.invocation
    }

    /// No start of it is skipped any more. One that was is written down as long as the journal still says that it is kept quiet: whoever goes on
    /// after that looks for it no more.
    pub(super) fn decide(&mut self, turn: &mut Turn<'_>) {
        self.owe_missed_slot(turn);
        self.let_run(turn);
    }

    /// It goes on no more: it has ended at a checkpoint, and systemd is not done with what it left behind.
    fn is_heeding(&self, turn: &Turn<'_>) -> bool {
        let ending = self.ended.goes_on() && self.seen.active == Active::Deactivating;
        ending && self.asking.was_asked(turn.memory, &self.unit) && self.seen.is_to_run_again()
    }

    /// With what it was lent, for as long as that takes. Old code that it leaves behind is not left to systemd's own deadline, once nothing is held.
    fn see_it_end(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules, loans: &mut Loans) {
        if self.seen.exec_starts <= 1 {
            self.borrow(loans, rules);
        }
        let spared = self.is_spared(rules) || turn.memory.holds(&self.target);
        if !spared && !self.stale.is_empty() && turn.now.mono >= self.drain_until {
            self.keep_quiet(turn);
        }
    }

    /// It has ended at its checkpoint, and is to run again for that: what it was owed when it said so, newer rules may not give it.
    fn is_owed_by_checkpoint(&self, rules: &ScheduledRules) -> bool {
        self.ended == Ended::AtCheckpoint && rules.after != After::UntilNext
    }

    /// It was spared, and would be by the rules that there are by now.
    fn is_spared(&self, rules: &ScheduledRules) -> bool {
        matches!(self.ended, Ended::Spared(_)) && (rules.overdue == Some(Overdue::Finish) || forbidden(&self.seen, rules).is_some())
    }

    /// One that goes on does so.
    fn go_on(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules) {
        match self.ended.clone() {
            Ended::Spared(why) if self.is_spared(rules) => {
                turn.unit_ended_noting(&self.target, &self.unit, UnitEnd::Left, why.clone(), self.asking.trouble());
                self.enter(turn.now.mono, ScriptStep::Left(why));
            }
            Ended::Spared(_) | Ended::Paused => {
                self.ended = Ended::ByItself;
                self.asking = Asking::default();
                self.enter(turn.now.mono, ScriptStep::Draining);
            }
            // What has landed since has made it stale again.
            _ if !self.stale.is_empty() => self.begin_again(turn, "it goes on"),
            _ => {
                settle_rerun_of_running(turn, &self.seen, "it renewed itself");
                self.ended_by_itself(turn);
            }
        }
    }

    fn begin_again(&mut self, turn: &mut Turn<'_>, why: &str) {
        settle_rerun_of_running(turn, &self.seen, why);
        *self = Script::new(&self.target, self.seen.clone(), self.stale.clone(), turn.now.mono, self.drain_until);
    }

    /// Its timers may start it again: rerun at once, or stay quiet until then.
    pub(super) fn go_on_when_lifted(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules, loans: &mut Loans) {
        if self.is_heeding(turn) {
            return self.see_it_end(turn, rules, loans);
        }
        if self.ended.goes_on() {
            return self.go_on(turn, rules);
        }
        if self.has_run_since() && !self.stale.is_empty() {
            // Whoever started it was quicker than we, and a newer deploy than that: begin again with it.
            return self.begin_again(turn, "it runs");
        }
        let missed = self.missed_slot();
        let owed = turn.memory.reruns.get(&self.unit).map(|owed| owed.scheduled);
        if (missed && owed.is_some()) || (self.runs_at_once(turn, rules) && !self.has_run_since()) {
            return self.start(turn);
        }
        if self.ended == Ended::ByItself {
            return self.ended_by_itself(turn);
        }
        let next = self.seen.next_run();
        let again = self.is_owed_by_checkpoint(rules) || !rules.stays_quiet(next, turn.now.wall);
        if owed.is_some() && again && !self.seen.active.runs() && !self.has_run_since() {
            return if rules.settle_after.is_zero() { self.start(turn) } else { self.let_settle(turn, rules) };
        }
        let why = match next {
            _ if missed => "stopped; its scheduled run came meanwhile, and it cannot be started by hand".to_owned(),
            _ if self.has_run_since() && !self.seen.active.runs() => "stopped; it has run again since".to_owned(),
            Some(next) => format!("stopped; its next scheduled run is at {next}"),
            None if self.seen.active.runs() => "stopped; it runs again".to_owned(),
            None => "stopped; no timer has a next run for it".to_owned(),
        };
        self.owe_no_rerun(turn, &why);
        self.done(turn, UnitEnd::Quiet, why);
    }

    /// From now on it is owed a new run, if its rules give it one and systemd lets us start it.
    pub(super) fn owe_rerun(&self, turn: &mut Turn<'_>, rules: &ScheduledRules) {
        if rules.may_rerun(&self.seen) {
            let (unit, target, after) = (self.unit.clone(), self.target.clone(), self.invocation.clone());
            turn.record(Entry::RerunOwed { unit, target, scheduled: false, lent: false, quiet: false, after });
        }
    }

    /// It is about to be lent what may end it short of its later commands. By which rules it will have ended is not known yet.
    pub(super) fn owe_rerun_of_lent(&self, turn: &mut Turn<'_>, rules: &ScheduledRules) {
        if self.seen.can_run_again() {
            let quiet = !rules.may_rerun(&self.seen);
            let (unit, target, after) = (self.unit.clone(), self.target.clone(), self.invocation.clone());
            turn.record(Entry::RerunOwed { unit, target, scheduled: false, lent: true, quiet, after });
        }
    }

    pub(super) fn owe_no_rerun(&self, turn: &mut Turn<'_>, why: &str) {
        if turn.memory.reruns.contains_key(&self.unit) {
            turn.record(Entry::RerunSettled { unit: self.unit.clone(), why: why.to_owned() });
        }
    }

    /// That it ended as it did was our doing: it is no failure to anybody.
    pub(super) fn reset_failed(&mut self, turn: &mut Turn<'_>) {
        if self.seen.active == Active::Failed {
            let id = turn.ask(Effect::ResetFailed { unit: self.unit.clone() });
            self.pending.insert(id, Ask::Reset);
        }
    }

    /// What it left behind when it ended is stale only after a while: the rerun stays owed until then, and `debts` pays it.
    fn let_settle(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules) {
        let why = settle(turn, &self.seen, rules);
        self.done(turn, UnitEnd::Quiet, why);
    }

    fn start(&mut self, turn: &mut Turn<'_>) {
        // A start that waits with all others is gone if the host goes down: it stays owed until then, and `debts` pays it.
        if turn.memory.starts_held {
            return self.done(turn, UnitEnd::Quiet, "stopped; it runs again as soon as scripts may start".to_owned());
        }
        let want = turn.memory.targets.get(&self.target).and_then(|memory| memory.want.as_ref());
        self.started_for = Some(want.map_or(turn.now.mono, |want| want.landed));
        self.start_asked = turn.now.mono;
        self.begins_by = turn.now.mono.after(BEGINS);
        let id = turn.ask(Effect::Start { unit: self.unit.clone() });
        self.pending.insert(id, Ask::StartScript);
        self.enter(turn.now.mono, ScriptStep::Starting);
    }

    pub(super) fn script_started(&mut self, turn: &mut Turn<'_>, outcome: &Outcome) {
        let scheduled = turn.memory.reruns.get(&self.unit).is_some_and(|owed| owed.scheduled);
        if *outcome != Outcome::Queued && !outcome.is_refusal() {
            // Nobody knows whether systemd has heard it. It stays owed, and `debts` looks, and pays it.
            let why = format!("stopped; it could not be started again yet: {}", outcome.said());
            return self.done(turn, UnitEnd::Quiet, why);
        }
        let (end, why) = if *outcome == Outcome::Queued {
            let how = match self.ended {
                _ if scheduled => "its scheduled run came while it was kept quiet, and was started late, with the new code",
                Ended::AtCheckpoint => "asked, it ended at a checkpoint, and was started again with the new code",
                _ => "stopped, and started again with the new code",
            };
            (UnitEnd::Renewed, how.to_owned())
        } else {
            (UnitEnd::Failed, format!("stopped, but it could not be started again: {}", outcome.said()))
        };
        turn.record(Entry::RerunSettled { unit: self.unit.clone(), why: why.clone() });
        self.done(turn, end, why);
    }
}
