//! The rungs before the signal, which need the help of what is to be ended: it is asked to stop at its next checkpoint, and it is spared while it
//! holds its lock. Scripts and services go down them alike; what comes before and after is theirs.

use super::cooperation::command_for;
use super::effect::{Effect, EffectId, Outcome};
use super::entry::Entry;
use super::memory::Memory;
use super::policy::{AskRules, Overdue};
use super::seen::UnitSeen;
use super::step::Turn;
use super::time::{Mono, Span};

/// A request that cannot be taken back is given up after so many tries; what is owed is paid by `debts` then.
const UNASK_TRIES: u32 = 3;

/// How far one unit is with these rungs.
#[derive(Debug, Default)]
pub struct Asking {
    /// It was asked, or is not to be.
    asked: bool,
    /// When the signal was first due: a lock that is held delays it from there.
    due: Option<Mono>,
    pending: Option<(EffectId, Sent)>,
    tries: u32,
    trouble: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Request,
    TakenBack,
}

/// The next rung of one that is stale still.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Next {
    /// An earlier request is still being taken back.
    NotYet,
    /// It was asked just now.
    Asked {
        until: Mono,
    },
    /// By its rules it goes on, however long.
    Spared,
    /// It holds its lock.
    Holding {
        until: Mono,
    },
    Signal,
}

/// What the answer to a request, or to its end, means.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Came {
    Well,
    /// It cannot be asked: the next rung does without.
    Unasked,
    /// The request cannot be taken back. That stays owed.
    Stuck(String),
}

impl Asking {
    /// An earlier agent, or an earlier rollout, has asked it.
    #[must_use]
    pub fn taken_up(asked: bool) -> Asking {
        Asking { asked, ..Asking::default() }
    }

    /// `forced`: an emergency, in which nobody is asked, or spared for a lock.
    pub fn next(&mut self, turn: &mut Turn<'_>, rules: AskRules<'_>, unit: &UnitSeen, forced: bool) -> Next {
        let now = turn.now.mono;
        if !self.asked && !forced && rules.asks(unit) {
            let (ask, unask) = (command_for(rules.ask, &unit.unit), command_for(rules.unask, &unit.unit));
            if turn.memory.unasking(&unit.unit, &unask) {
                return Next::NotYet;
            }
            let id = turn.ask(Effect::AskToStop { unit: unit.unit.clone(), ask, unask });
            self.pending = Some((id, Sent::Request));
            self.asked = true;
            return Next::Asked { until: now.after(rules.checkpoint_timeout) };
        }
        if rules.overdue == Some(Overdue::Finish) {
            return Next::Spared;
        }
        let until = self.due.get_or_insert(now).after(rules.hold_timeout);
        if unit.holds_lock && now < until && !forced {
            return Next::Holding { until };
        }
        if unit.holds_lock && !forced && !rules.hold_timeout.is_zero() {
            self.trouble.get_or_insert_with(|| format!("it still held its lock after hold_timeout, {}", Span(rules.hold_timeout)));
        }
        Next::Signal
    }

    /// It is not asked, since what it would need for that cannot be had.
    pub fn skip(&mut self, why: String) {
        self.asked = true;
        self.trouble = Some(why);
    }

    /// It was asked, or tried to be.
    #[must_use]
    pub fn asked(&self) -> bool {
        self.asked
    }

    /// The same, or an earlier agent has asked it: its exit status is an answer to that.
    #[must_use]
    pub fn was_asked(&self, memory: &Memory, unit: &str) -> bool {
        self.asked || memory.asked.contains(unit)
    }

    /// Nothing that was asked of the host is without its answer.
    #[must_use]
    pub fn idle(&self) -> bool {
        self.pending.is_none()
    }

    /// The request is taken back before anything runs again, and one that others share when it is over for all of them. Says whether there is
    /// none any more.
    pub fn taken_back(&mut self, turn: &mut Turn<'_>, unit: &str) -> bool {
        if turn.memory.asked.contains(unit) && self.pending.is_none() {
            over(turn, unit);
            if turn.memory.shares(unit) {
                return false;
            }
            let id = turn.ask(turn.memory.unask(unit));
            self.pending = Some((id, Sent::TakenBack));
        }
        self.pending.is_none() && !turn.memory.asked.contains(unit)
    }

    /// What came of it, if this is the answer that is waited for.
    pub fn outcome(&mut self, id: EffectId, outcome: &Outcome) -> Option<Came> {
        let (_, sent) = self.pending.take_if(|(pending, _)| *pending == id)?;
        let Outcome::Fault(fault) = outcome else { return Some(Came::Well) };
        if sent == Sent::Request {
            self.trouble = Some(format!("it could not be asked to stop: {fault}"));
            return Some(Came::Unasked);
        }
        self.tries += 1;
        self.trouble = Some(format!("the request to stop could not be taken back: {fault}"));
        Some(if self.tries < UNASK_TRIES { Came::Well } else { Came::Stuck(self.trouble.clone().unwrap_or_default()) })
    }

    /// What status says of a unit, and what went wrong with asking it.
    #[must_use]
    pub fn noted(&self, why: String) -> String {
        self.trouble.iter().fold(why, |why, trouble| format!("{why}; {trouble}"))
    }

    /// What went wrong with it, for people: it is said with how the unit fares.
    #[must_use]
    pub fn trouble(&self) -> &[String] {
        self.trouble.as_slice()
    }
}

/// This unit need not be asked any more.
pub fn over(turn: &mut Turn<'_>, unit: &str) {
    if turn.memory.unasks.get(unit).is_some_and(|unask| !unask.over) {
        turn.record(Entry::AskOver { unit: unit.to_owned() });
    }
}
