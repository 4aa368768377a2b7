//! The way back: one that does not do after the switch gives its place to the one before.

use super::looks::runs;
use super::phases::Tried;
use super::{Generations, Phase};
use crate::core::entry::Entry;
use crate::core::policy::GenerationRules;
use crate::core::status::UnitEnd;
use crate::core::step::Turn;

impl Generations {
    /// The new one does not do. If it serves already, the one before takes its place again.
    pub(super) fn broke(&mut self, turn: &mut Turn<'_>, unit: &str, why: &str) {
        self.has_proven_bad(turn, unit);
        let before = self.youngest_proven(unit);
        if self.current.as_deref() == Some(unit) && before.is_some() {
            self.tries = 0;
            self.before = before;
            return self.enter(turn.now.mono, Phase::Back { why: why.to_owned() });
        }
        self.failed(turn, unit, why, false);
    }

    /// Also for an agent that comes after this one.
    fn has_proven_bad(&mut self, turn: &mut Turn<'_>, unit: &str) {
        if self.bad.insert(unit.to_owned()) {
            turn.record(Entry::ProvenBad { target: self.name.clone(), unit: unit.to_owned() });
        }
    }

    pub(super) fn go_back_for(&mut self, turn: &mut Turn<'_>, unit: &str, why: &str) {
        turn.unit_ended(&self.name, unit, UnitEnd::Failed, why);
        let untouched = |before: &String| self.ending.get(before).is_none_or(|fpm| !fpm.is_past_return());
        let before = self.before.take().filter(|before| self.unit(before).is_some_and(runs) && untouched(before));
        self.before = before.or_else(|| self.youngest_proven(unit));
        if self.before.is_none() {
            return self.failed(turn, unit, &format!("{why}, and no other generation runs that could take its place"), false);
        }
        self.tries = 0;
        self.enter(turn.now.mono, Phase::Back { why: why.to_owned() });
    }

    pub(super) fn go_back(&mut self, turn: &mut Turn<'_>, rules: &GenerationRules, why: &str) {
        let now = turn.now.mono;
        let unit = self.starting.as_ref().map(|fpm| fpm.unit.clone()).unwrap_or_default();
        let Some(before) = self.before.clone() else { return self.failed(turn, &unit, why, false) };
        if rules.shared() || (self.current.as_ref() == Some(&before) && self.has_looked_since(self.since)) {
            turn.record(Entry::Switched { target: self.name.clone(), unit: before.clone() });
            self.ending.remove(&before);
            self.has_proven_bad(turn, &unit);
            let why = format!("{why}; {before}, which runs the old code, serves again");
            return self.failed(turn, &unit, &why, false);
        }
        if self.switch_to(turn, rules, &before) == Tried::TooOften {
            let why = format!("{why}, and the symlink could not be switched back");
            self.failed(turn, &unit, &why, false);
        }
        self.look.want(now.after(super::AGAIN));
    }
}
