//! The way back: one that does not do after the switch gives its place to the one before.

use std::time::Duration;

use super::looks::runs;
use super::phases::Tried;
use super::{Generations, Phase};
use crate::core::entry::Entry;
use crate::core::policy::GenerationRules;
use crate::core::status::UnitEnd;
use crate::core::step::Turn;
use crate::core::time::Mono;

/// With a generation that does not do the symlink waits no longer for news of the one before.
const PATIENCE: Duration = Duration::from_secs(1);

impl Generations {
    /// The new one does not do. If it serves already, the one before takes its place again.
    pub(super) fn broke(&mut self, turn: &mut Turn<'_>, unit: &str, why: &str) {
        self.has_proven_bad(turn, unit);
        let before = self.youngest_proven(unit);
        if self.current.as_deref() == Some(unit) && before.is_some() {
            self.tries = 0;
            self.before = before;
            return self.turn_back(turn.now.mono, why);
        }
        self.failed(turn, unit, why, false);
    }

    /// Whether the one before still runs is seen no longer ago than it takes to look, unless systemd does not say.
    fn turn_back(&mut self, now: Mono, why: &str) {
        self.enter(now, Phase::Back { why: why.to_owned() });
        if self.look.began().is_none_or(|began| now.since(began) > PATIENCE) {
            self.looked_from = now;
            self.look.want(now);
        }
    }

    /// From when on the way back waits no longer for a look.
    pub(super) fn goes_back_unseen_at(&self) -> Option<Mono> {
        (matches!(self.phase, Phase::Back { .. }) && self.tries == 0).then(|| self.since.after(PATIENCE))
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
            return self.has_nobody_before(turn, unit, why);
        }
        self.tries = 0;
        self.turn_back(turn.now.mono, why);
    }

    /// It is not ended after all, and takes requests again.
    pub(super) fn is_needed(&mut self, turn: &mut Turn<'_>, unit: &str) {
        if let Some(fpm) = self.ending.get_mut(unit) {
            fpm.serves_again(turn);
        }
    }

    fn has_nobody_before(&mut self, turn: &mut Turn<'_>, unit: &str, why: &str) {
        self.failed(turn, unit, &format!("{why}, and no other generation runs that could take its place"), false);
    }

    pub(super) fn go_back(&mut self, turn: &mut Turn<'_>, rules: &GenerationRules, why: &str) {
        let now = turn.now.mono;
        let unit = self.starting.as_ref().map(|fpm| fpm.unit.clone()).unwrap_or_default();
        let Some(before) = self.before.clone() else { return self.failed(turn, &unit, why, false) };
        if rules.shared() || (self.current.as_ref() == Some(&before) && self.has_looked_since(self.since)) {
            turn.record(Entry::Switched { target: self.name.clone(), unit: before.clone() });
            self.is_needed(turn, &before);
            self.has_proven_bad(turn, &unit);
            let why = format!("{why}; {before}, which runs the old code, was given its place again");
            return self.failed(turn, &unit, &why, false);
        }
        if self.has_looked_since(self.since) && !self.unit(&before).is_some_and(runs) {
            // It has died meanwhile.
            self.before = self.youngest_proven(&unit);
            if self.before.is_none() {
                self.has_nobody_before(turn, &unit, why);
            }
            return;
        }
        if self.switch_to(turn, rules, &before) == Tried::TooOften {
            let why = format!("{why}, and the symlink could not be switched back");
            self.failed(turn, &unit, &why, false);
        }
        self.look.want(now.after(super::AGAIN));
    }
}
