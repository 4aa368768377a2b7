//! What one turn of the machine yields, and the hand that the parts of the machine write it with.

use super::effect::{Effect, EffectId};
use super::entry::{Entry, Written};
use super::event::Answer;
use super::memory::Memory;
use super::policy::Policy;
use super::status::{UnitEnd, UnitOutcome};
use super::time::{Mono, Now};

/// What the engine does with one turn: first write `entries`, then perform `effects`, then give `answer`.
#[derive(Debug, Default, PartialEq)]
pub struct Step {
    pub entries: Vec<Written>,
    pub effects: Vec<(EffectId, Effect)>,
    pub answer: Option<Answer>,
}

/// The next moment at which the machine wants a [`super::event::Event::Tick`], and what it waits for (law 3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deadline {
    pub at: Mono,
    pub why: String,
}

impl Deadline {
    #[must_use]
    pub fn new(at: Mono, why: impl Into<String>) -> Deadline {
        Deadline { at, why: why.into() }
    }
}

/// The earliest of some deadlines.
#[must_use]
pub fn earliest(deadlines: impl IntoIterator<Item = Option<Deadline>>) -> Option<Deadline> {
    deadlines.into_iter().flatten().min_by_key(|deadline| deadline.at)
}

/// One turn in the making. Whatever is durable changes through [`Turn::record`] only.
pub(super) struct Turn<'a> {
    pub now: Now,
    pub policy: &'a Policy,
    pub memory: &'a mut Memory,
    pub step: &'a mut Step,
    pub next_effect: &'a mut u64,
    /// The journal can be written. If not, nothing that acts is begun (trap T38).
    pub journal_good: bool,
}

impl Turn<'_> {
    pub fn record(&mut self, mut entry: Entry) {
        if let Some(view) = self.memory.rollout.as_ref().map(|rollout| &rollout.view).or(self.memory.last_rollout.as_ref()) {
            entry.belongs_to(&view.id);
        }
        let written = Written { at: self.now.wall, entry };
        self.memory.apply(&written);
        self.step.entries.push(written);
    }

    /// Asks for an effect; an acting one is in the journal before it (law 2).
    pub fn ask(&mut self, effect: Effect) -> EffectId {
        let id = EffectId(*self.next_effect);
        *self.next_effect += 1;
        if effect.acts() {
            self.record(Entry::Intent { id, effect: effect.clone() });
        }
        self.step.effects.push((id, effect));
        id
    }

    pub fn unit_ended(&mut self, target: &str, unit: &str, what: UnitEnd, why: impl Into<String>) {
        self.unit_ended_noting(target, unit, what, why, &[]);
    }

    /// `notes`: what a person should mend all the same.
    pub fn unit_ended_noting(&mut self, target: &str, unit: &str, what: UnitEnd, why: impl Into<String>, notes: &[String]) {
        let mut why = why.into();
        for note in notes {
            why.push_str("; ");
            why.push_str(note);
        }
        let (target, unit, notes) = (target.to_owned(), unit.to_owned(), notes.to_vec());
        self.record(Entry::UnitEnded(UnitOutcome { target, unit, what, why, notes, starved: false }));
    }

    pub fn phase_began(&mut self, target: &str, phase: &str) {
        self.record(Entry::PhaseBegan { target: target.to_owned(), phase: phase.to_owned() });
    }

    pub fn phase_ended(&mut self, target: &str, phase: &str) {
        self.record(Entry::PhaseEnded { target: target.to_owned(), phase: phase.to_owned() });
    }
}
