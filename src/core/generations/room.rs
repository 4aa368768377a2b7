//! Whether there is room for another generation: of their number, and of memory.

use super::ending::FRESH;
use super::{Generations, Phase, name};
use crate::core::entry::Entry;
use crate::core::fpm::{Early, Fpm};
use crate::core::policy::{AtMax, GenerationRules};
use crate::core::seen::UnitSeen;
use crate::core::step::Turn;
use crate::core::target::Progress;
use crate::core::time::Mono;

impl Generations {
    /// Another one is started only where the rules have room for it.
    pub(super) fn make_room(&mut self, turn: &mut Turn<'_>, rules: &GenerationRules) {
        let now = turn.now.mono;
        let Some(want) = self.goal().cloned() else {
            self.ends_nobody_for_room(now);
            return self.enter(now, Phase::Rest);
        };
        if !self.has_room(now, rules) || !turn.journal_good {
            return;
        }
        self.waits = None;
        let instance = name::instance(&want.id, turn.memory.next_generation);
        let unit = name::unit_of(&rules.unit, &instance);
        turn.record(Entry::GenerationStarts { target: self.name.clone(), unit: unit.clone(), landed: want.landed });
        turn.phase_began(&self.name, "preflight");
        let shared = rules.shared();
        let mut rules = rules.of(&unit);
        if self.progress != Progress::Working && turn.memory.stamp.is_none() {
            // There is no deploy whose id it could answer with.
            rules.proof = None;
        }
        let seen = UnitSeen { unit: unit.clone(), ..UnitSeen::default() };
        let mut fpm = Fpm::starting(&self.name, &rules, want, seen, now);
        fpm.shared = shared;
        self.starting = Some(fpm);
        self.enter(now, Phase::Starting);
    }

    /// If not, the oldest is ended where the rules say so.
    fn has_room(&mut self, now: Mono, rules: &GenerationRules) -> bool {
        let running = self.running();
        if running >= usize::try_from(rules.max_generations).unwrap_or(usize::MAX) {
            let oldest = self.ending.values().filter(|fpm| !fpm.at_rest()).min_by_key(|fpm| fpm.started()).map(|fpm| fpm.unit.clone());
            let waits_for = oldest.as_ref().and_then(|unit| self.ending.get(unit)).map(Fpm::waits_for_what).unwrap_or_default();
            let oldest = oldest.unwrap_or_else(|| "none of them lingers".to_owned());
            let what = if waits_for.is_empty() { oldest.clone() } else { format!("{oldest}: {waits_for}") };
            self.waits = Some(format!("{running} generations run, as many as may (max_generations): waits for {what}"));
            if rules.at_max != AtMax::EndOldest {
                self.ends_nobody_for_room(now);
            }
            // One after the other, and not before it is seen whether that one made room, and whether whoever was given up runs at all.
            let being_ended = self.ending.values().any(|fpm| fpm.lingers_until() <= now)
                || !self.has_looked_since(self.ended)
                || self.unseen().next().is_some();
            if rules.at_max == AtMax::EndOldest
                && !being_ended
                && let Some(fpm) = self.ending.get_mut(&oldest)
            {
                fpm.end_early(now, Early::ForRoom);
            }
            return false;
        }
        self.ends_nobody_for_room(now);
        if let Some(least) = rules.min_available_memory.filter(|least| self.seen.available < *least) {
            let (has, least) = (megabytes(self.seen.available), megabytes(least));
            self.waits = Some(format!("{has} of memory are available, and a new generation needs {least} (min_available_memory)"));
            return false;
        }
        true
    }

    /// There is room: another one has gone. Who was to make it has its time as before.
    fn ends_nobody_for_room(&mut self, now: Mono) {
        self.ending.values_mut().for_each(|fpm| fpm.lingers_on(now, Early::ForRoom));
    }

    /// Its test, or the disk, may have taken long, and somebody may have started one meanwhile: the room is as it was seen a moment ago.
    pub(super) fn still_has_room(&mut self, turn: &mut Turn<'_>, rules: &GenerationRules) -> bool {
        let now = turn.now.mono;
        let there = self.starting.as_ref().is_some_and(|fpm| self.unit(&fpm.unit).is_some_and(|seen| seen.active.runs()));
        if there {
            return true;
        }
        if !turn.journal_good {
            return false;
        }
        if self.look.began().is_none_or(|began| now.since(began) > FRESH) {
            self.look.want(now);
            return false;
        }
        if !self.has_room(now, rules) {
            turn.phase_ended(&self.name, "preflight");
            self.drop_starting(now);
            self.enter(now, Phase::Room);
            return false;
        }
        true
    }
}

pub(super) fn megabytes(bytes: u64) -> String {
    format!("{} MiB", bytes / (1024 * 1024))
}
