//! How something ends that no rollout is at, or that is kept quiet has ended while nobody looked, and that it may run again.

use std::collections::BTreeSet;

use super::{DYING_LOOK, Debt, Debts};
use crate::core::cut::{found_another, owe_rerun_of_lent};
use crate::core::effect::Effect;
use crate::core::entry::Entry;
use crate::core::memory::{Cutting, Memory};
use crate::core::orphans::Ending;
use crate::core::policy::ScheduledRules;
use crate::core::scheduled::{Slots, slots};
use crate::core::seen::{Active, UnitSeen};
use crate::core::step::Turn;
use crate::core::time::Mono;

impl Debts {
    pub(super) fn goes_on_ending(&mut self, turn: &mut Turn<'_>, began: Mono, cutting: &Cutting, seen: &UnitSeen) {
        self.trouble = Some(format!("{} is still being stopped", seen.unit));
        match self.orphans.ending(cutting, seen, began, turn.now.mono) {
            Ending::Wait => {}
            Ending::LookAt(at) => self.next = self.next.min(at),
            Ending::Kill { cgroup } => {
                self.next = turn.now.mono.after(DYING_LOOK);
                let id = turn.ask(Effect::Kill { unit: seen.unit.clone(), invocation: seen.invocation.clone(), cgroup });
                self.pending.insert(id, Debt::Kill(seen.unit.clone()));
            }
            Ending::Never => self.trouble = Some(format!("{} does not end, not even by SIGKILL", seen.unit)),
        }
    }

    /// Those that what they were lent still keeps quiet, and no rollout is at: it is not taken back before their passed slots are over.
    #[must_use]
    pub fn kept(&self, memory: &Memory, owned: &dyn Fn(&str) -> bool) -> BTreeSet<String> {
        memory.quiet.keys().filter(|unit| !owned(unit) && !self.over.contains(*unit)).cloned().collect()
    }

    /// As in a rollout: not before a slot that has passed was skipped, and what came later is made up for.
    pub(super) fn let_run(&mut self, turn: &mut Turn<'_>, seen: &UnitSeen, interrupted: bool) {
        if !seen.active.runs() {
            let interrupted = interrupted || self.ended_at_checkpoint(turn, seen) || self.cut_short(turn, seen);
            let Slots::From(from) = slots(seen, turn.now, interrupted, false) else { return self.soon(turn) };
            self.over.insert(seen.unit.clone());
            // What starts must not start with what was lent for the stop.
            if turn.memory.lent.contains(&seen.unit) {
                return self.soon(turn);
            }
            if seen.last_trigger() > from && !seen.refuse_manual_start {
                let target = turn.memory.reruns.get(&seen.unit).map(|owed| owed.target.clone()).unwrap_or_default();
                let (unit, after) = (seen.unit.clone(), seen.invocation.clone());
                turn.record(Entry::RerunOwed { unit, target, scheduled: true, lent: false, quiet: false, after });
            }
        } else {
            owe_rerun_of_lent(turn, seen, turn.policy.target_of_script(&seen.unit));
            // It may end at any time, and the next one must not start with that either.
            if turn.memory.lent.contains(&seen.unit) {
                self.over.insert(seen.unit.clone());
                return self.soon(turn);
            }
        }
        let id = turn.ask(Effect::LetRun { unit: seen.unit.clone() });
        self.pending.insert(id, Debt::LetRun(seen.unit.clone()));
    }

    /// It had been asked, and has ended while nobody looked: by its exit status it is to be run again.
    pub(super) fn ended_at_checkpoint(&self, turn: &mut Turn<'_>, seen: &UnitSeen) -> bool {
        if !seen.is_to_run_again() {
            return false;
        }
        let (target, may_rerun) = match turn.policy.target_of_script(&seen.unit) {
            Some((target, rules)) if rules.asks(seen) || self.was_asked(seen) => (target.to_owned(), rules.may_rerun(seen)),
            // Its rules are read when they can be; what has left the configuration has none.
            None if self.was_asked(seen) => (String::new(), seen.can_run_again()),
            _ => return false,
        };
        turn.record(Entry::Interrupted { unit: seen.unit.clone(), at: turn.now.mono });
        if may_rerun {
            let (unit, after) = (seen.unit.clone(), seen.invocation.clone());
            turn.record(Entry::RerunOwed { unit, target, scheduled: false, lent: false, quiet: false, after });
        }
        true
    }

    /// It had been asked, by these rules or by others before them, and is to run again at once.
    pub(super) fn has_heeded(&self, rules: &ScheduledRules, seen: &UnitSeen) -> bool {
        (rules.asks(seen) || self.unasked.contains(&seen.unit)) && rules.may_rerun(seen) && seen.is_to_run_again()
    }

    /// With what it is lent exit status 75 is no failure only if it was asked, and always one if it has OnSuccess=.
    fn was_asked(&self, seen: &UnitSeen) -> bool {
        seen.result != "exit-code" || self.unasked.contains(&seen.unit)
    }

    /// What somebody else stops was not cut short by what it was lent.
    pub(super) fn note_stop(&mut self, seen: &UnitSeen) {
        if seen.is_being_stopped() {
            self.stopped.insert(seen.unit.clone());
        } else if seen.active.runs() && seen.active != Active::Deactivating {
            self.stopped.remove(&seen.unit);
        }
    }

    /// Our stop has ended it. The rules by which it was stopped may have given it no other run, and those by which it has ended do.
    pub(super) fn interrupted(turn: &mut Turn<'_>, cutting: &Cutting, seen: &UnitSeen) {
        turn.record(Entry::Interrupted { unit: seen.unit.clone(), at: turn.now.mono });
        if seen.active.runs() || turn.memory.reruns.get(&seen.unit).is_some_and(|owed| !owed.lent) {
            return;
        }
        if let Some((target, _)) = turn.policy.target_of_script(&seen.unit).filter(|(_, rules)| rules.may_rerun(seen)) {
            let stopped = if found_another(cutting, seen, None) { &seen.invocation } else { &cutting.invocation };
            let (unit, target, after) = (seen.unit.clone(), target.to_owned(), stopped.clone());
            turn.record(Entry::RerunOwed { unit, target, scheduled: false, lent: false, quiet: false, after });
        }
    }

    /// With what one of several commands is lent for its stop none of the later ones begins: it may have ended short of them.
    pub(super) fn cut_short(&self, turn: &mut Turn<'_>, seen: &UnitSeen) -> bool {
        let lent = turn.memory.lent_since(&seen.unit, turn.now);
        let since = |lent: Mono| seen.exit.is_none_or(|exit| exit.at >= lent);
        let well = seen.active == Active::Inactive && !seen.was_signalled() && !self.stopped.contains(&seen.unit);
        let short = seen.exec_starts > 1 && lent.is_some_and(since) && well;
        if short {
            turn.record(Entry::Interrupted { unit: seen.unit.clone(), at: turn.now.mono });
        }
        short
    }
}
