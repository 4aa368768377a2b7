//! One script on its way from running old code to being at rest: which step comes after which.

use std::collections::{BTreeMap, BTreeSet};

use super::quiet::Slots;
use crate::core::asking::Asking;
use crate::core::cut::Saw;
use crate::core::effect::{EffectId, Outcome};
use crate::core::entry::Entry;
use crate::core::ladder::Ladder;
use crate::core::loans::{Loans, TIMER_DROP_IN, script_drop_in};
use crate::core::look::Looker;
use crate::core::memory::Cutting;
use crate::core::policy::ScheduledRules;
use crate::core::seen::{Active, UnitSeen};
use crate::core::stale::{RENEWED_ITSELF, Stale};
use crate::core::status::UnitEnd;
use crate::core::step::Turn;
use crate::core::time::{Mono, Span};

#[derive(Debug)]
pub(super) struct Script {
    pub target: String,
    pub unit: String,
    pub seen: UnitSeen,
    pub stale: Stale,
    pub step: ScriptStep,
    /// When `step` was entered.
    pub since: Mono,
    pub drain_until: Mono,
    /// From the stop on.
    pub ladder: Option<Ladder>,
    pub pending: BTreeMap<EffectId, Ask>,
    /// It was started again: when what it is fresh for landed. A newer deploy may have come since.
    pub started_for: Option<Mono>,
    /// When that was asked for, and until when its begin is waited for.
    pub start_asked: Mono,
    pub begins_by: Mono,
    /// The run that is being stopped.
    pub invocation: String,
    /// When the look had begun that it was last seen in; [`Mono::BOOT`] if it was taken up and not seen since.
    pub seen_at: Mono,
    /// When its stop was answered, or taken up.
    pub answered: Option<Mono>,
    /// When systemd was heard to have done it.
    pub stop_done: Option<Mono>,
    /// Nobody else was stopping it already when we did: that it does not end by itself is our doing.
    pub ours: bool,
    /// When the present stop was first asked for.
    pub asked_from: Option<Mono>,
    pub saw: Saw,
    /// How often its stop was begun in vain.
    pub tries: u32,
    /// Nothing of it is stale any more, and the run that was goes on.
    pub goes_on: bool,
    /// Of one with several ExecStart=: its stop is due.
    pub stop_due: bool,
    /// Since when it may have what it is lent for that, with which no later command of this run begins.
    pub cut_short: Option<Mono>,
    /// Its loan, or the end of an earlier request, had to be waited for.
    pub waited: bool,
    pub asking: Asking,
    pub ended: Ended,
    /// What is known of its slots since it ended.
    pub slots: Option<Slots>,
    /// Its timers that something was lent to.
    pub lent_timers: BTreeSet<String>,
}

/// How a script that is at rest came to be so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    ByItself,
    /// It was asked, and says by its exit status that it is to be run again.
    AtCheckpoint,
    Stopped,
    /// It goes on, with nothing stale in it.
    Renewed,
    /// It goes on: what was done to it is taken back.
    Spared(String),
    /// Likewise, as long as nothing is to be restarted (a hold, or an abort). After that it begins again.
    Paused,
}

impl Ended {
    /// It has not ended.
    pub fn goes_on(&self) -> bool {
        matches!(self, Ended::Spared(_) | Ended::Paused | Ended::Renewed)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ScriptStep {
    Draining,
    /// It is to be kept quiet, so that its end starts no run off schedule (facts F2.2).
    Quieting,
    /// Its loan is awaited, and one more look, so that nothing fresh is stopped.
    Ready,
    /// It was asked to stop at its next checkpoint.
    Asked {
        until: Mono,
    },
    /// It holds its lock.
    Holding {
        until: Mono,
    },
    Stopping,
    /// It is gone, and kept quiet; what was lent is given back before anything starts.
    Stopped,
    /// The next elapse of its timers is real now, and is looked at.
    Deciding,
    /// They may start it again.
    Lifting,
    Starting,
    Done(UnitEnd, String),
    Left(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ask {
    KeepQuiet,
    LetRun,
    StopScript,
    Kill,
    Reset,
    StartScript,
}

impl Script {
    pub fn new(target: &str, seen: UnitSeen, stale: Stale, now: Mono, drain_until: Mono) -> Script {
        Script {
            target: target.to_owned(),
            unit: seen.unit.clone(),
            seen,
            stale,
            step: ScriptStep::Draining,
            since: now,
            drain_until,
            ladder: None,
            pending: BTreeMap::new(),
            started_for: None,
            start_asked: Mono::BOOT,
            begins_by: Mono::BOOT,
            invocation: String::new(),
            seen_at: now,
            answered: None,
            stop_done: None,
            ours: true,
            asked_from: None,
            saw: Saw::Nothing,
            tries: 0,
            goes_on: false,
            stop_due: false,
            cut_short: None,
            waited: false,
            asking: Asking::default(),
            ended: Ended::ByItself,
            slots: None,
            lent_timers: BTreeSet::new(),
        }
    }

    /// One whose stop was sent by an earlier agent, or in an earlier rollout.
    pub fn taken_up(target: &str, unit: &str, cutting: &Cutting, asked: bool, now: Mono, rules: &ScheduledRules) -> Script {
        let invocation = cutting.invocation.clone();
        let seen = UnitSeen { unit: unit.to_owned(), invocation, active: Active::Deactivating, ..UnitSeen::default() };
        Script {
            seen_at: Mono::BOOT,
            answered: Some(now),
            step: ScriptStep::Stopping,
            ended: Ended::Stopped,
            invocation: cutting.invocation.clone(),
            asking: Asking::taken_up(asked),
            ours: cutting.ours(),
            asked_from: Some(cutting.asked),
            ladder: Some(Ladder::new(cutting.asked, rules.term_timeout)),
            ..Script::new(target, seen, Stale::default(), now, now)
        }
    }

    pub fn at_rest(&self) -> bool {
        matches!(self.step, ScriptStep::Done(..) | ScriptStep::Left(_))
    }

    /// It was started again, and systemd has taken that, but perhaps not come to it yet.
    pub fn begins(&self, now: Mono) -> bool {
        matches!(self.step, ScriptStep::Done(UnitEnd::Renewed, _)) && self.started_for.is_some() && now < self.begins_by
    }

    /// Why the target has failed, if that is by this script.
    pub fn failure(&self) -> Option<String> {
        if let ScriptStep::Done(UnitEnd::Failed, why) = &self.step { Some(format!("{}: {why}", self.unit)) } else { None }
    }

    pub fn advance(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules, loans: &mut Loans, look: &Looker) {
        match self.step {
            ScriptStep::Draining => self.drain(turn, rules, loans),
            ScriptStep::Quieting if self.pending.is_empty() => self.enter(turn.now.mono, ScriptStep::Ready),
            ScriptStep::Ready => self.go_down_when_lent(turn, rules, loans),
            ScriptStep::Asked { until } => self.wait_for_checkpoint(turn, until),
            ScriptStep::Holding { until } => self.wait_for_lock(turn, rules, until),
            ScriptStep::Stopping => self.escalate(turn, rules, loans),
            ScriptStep::Stopped => self.go_on_when_given_back(turn, rules, loans),
            ScriptStep::Deciding if self.seen_at >= self.since => self.decide(turn),
            // A newer deploy is looked for first.
            ScriptStep::Lifting if self.pending.is_empty() && look.began().is_some() => self.go_on_when_lifted(turn, rules, loans),
            ScriptStep::Quieting
            | ScriptStep::Deciding
            | ScriptStep::Lifting
            | ScriptStep::Starting
            | ScriptStep::Done(..)
            | ScriptStep::Left(_) => {}
        }
    }

    pub fn came_of(&mut self, turn: &mut Turn<'_>, loans: &mut Loans, ask: Ask, outcome: &Outcome) {
        match ask {
            Ask::KeepQuiet => self.quiet_answered(turn, outcome),
            Ask::LetRun => self.let_run_answered(turn, outcome),
            Ask::StopScript => self.stop_answered(turn, loans, outcome),
            Ask::Kill => self.kill_answered(turn, outcome),
            Ask::Reset => {}
            Ask::StartScript => self.script_started(turn, outcome),
        }
    }

    /// It needs its loan until [`Script::release`].
    pub fn borrow(&mut self, loans: &mut Loans, rules: &ScheduledRules) {
        loans.want(&self.unit, &script_drop_in(&self.seen, rules.term_timeout));
        for timer in &self.seen.timers {
            loans.want(&timer.unit, TIMER_DROP_IN);
            self.lent_timers.insert(timer.unit.clone());
        }
    }

    pub fn release(&self, loans: &mut Loans) {
        loans.release(&self.unit);
        for timer in &self.lent_timers {
            loans.release(timer);
        }
    }

    pub fn enter(&mut self, now: Mono, step: ScriptStep) {
        self.step = step;
        self.since = now;
    }

    pub fn done(&mut self, turn: &mut Turn<'_>, end: UnitEnd, why: String) {
        turn.unit_ended_noting(&self.target, &self.unit, end, why.clone(), self.asking.trouble());
        self.enter(turn.now.mono, ScriptStep::Done(end, why));
    }

    pub fn give_up(&mut self, turn: &mut Turn<'_>, why: &str) {
        self.done(turn, UnitEnd::Failed, why.to_owned());
    }

    pub fn ended_by_itself(&mut self, turn: &mut Turn<'_>) {
        let ran = Span(turn.now.mono.since(self.stale.oldest.unwrap_or(turn.now.mono)));
        self.stale = Stale::default();
        if self.goes_on {
            return self.done(turn, UnitEnd::Finished, RENEWED_ITSELF.to_owned());
        }
        // What an earlier agent has asked may have heeded that: `debts` finds out.
        if turn.memory.interrupted.contains_key(&self.unit) && !turn.memory.asked.contains(&self.unit) {
            turn.record(Entry::RanThrough { unit: self.unit.clone() });
        }
        self.done(turn, UnitEnd::Finished, format!("it ended by itself after {ran}"));
    }
}
