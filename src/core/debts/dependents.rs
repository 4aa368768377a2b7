//! What went down with a script that was stopped comes back.

use super::{Debt, Debts, RETRY};
use crate::core::effect::Effect;
use crate::core::entry::Entry;
use crate::core::memory::Memory;
use crate::core::seen::{Dependent, UnitSeen};
use crate::core::status::UnitEnd;
use crate::core::step::Turn;

impl Debts {
    /// What went down with it starts again, without it: it runs by then, or is to stay quiet.
    pub(super) fn bring_back(&mut self, turn: &mut Turn<'_>, seen: &UnitSeen) {
        let unit = &seen.unit;
        if !comes_back(turn.memory, unit) {
            return;
        }
        // Its start has been taken by systemd, and not begun.
        let starts = seen.job && !seen.active.runs();
        if !starts {
            self.awaits = None;
        }
        for Dependent { unit: dependent, bound } in turn.memory.taken_down.get(unit).cloned().unwrap_or_default() {
            // Its start would only wait with all others, and is gone if the host goes down.
            if turn.memory.starts_held && turn.policy.target_of_script(&dependent).is_some() {
                continue;
            }
            if bound && starts {
                let since = *self.awaits.get_or_insert(turn.now.mono);
                if turn.now.mono < since.after(RETRY) {
                    self.soon(turn);
                } else {
                    self.trouble =
                        Some(format!("{dependent}, which is bound to {unit}, waits for the start of that, which systemd has queued"));
                }
            } else if !bound || seen.active.runs() {
                let id = turn.ask(Effect::StartAlone { unit: dependent.clone() });
                self.pending.insert(id, Debt::BringBack(unit.clone(), dependent));
            } else if !turn.memory.reruns.contains_key(unit) {
                let why = format!("it went down with {unit} and stays down until that runs: it is bound to it (BindsTo=)");
                let target = turn.policy.target_of_script(unit).map_or("", |(name, _)| name);
                turn.unit_ended(target, &dependent, UnitEnd::Quiet, why.clone());
                turn.record(Entry::BroughtBack { unit: unit.clone(), dependent, why });
            }
        }
    }

    /// Whether it still has to be seen to that what went down with a script comes back.
    #[must_use]
    pub fn brings_back(&self, memory: &Memory) -> bool {
        memory.taken_down.iter().any(|(unit, down)| !memory.reruns.contains_key(unit) || down.iter().any(|down| !down.bound))
    }
}

/// Nothing is done to this script any more, and its own run is not about to come, perhaps after the one that goes on at most: what went down with it may come back.
pub(super) fn comes_back(memory: &Memory, unit: &str) -> bool {
    let down = memory.taken_down.get(unit).is_some_and(|down| !memory.reruns.contains_key(unit) || down.iter().any(|down| !down.bound));
    down && !memory.owes(unit) && !memory.cutting.contains_key(unit) && !memory.quiet.contains_key(unit) && !memory.lent.contains(unit)
}
