//! At the removal of the package: what is at work then is left to systemd.

use std::time::Duration;

use super::Generations;
use crate::core::effect::{Effect, Outcome};
use crate::core::entry::Entry;
use crate::core::policy::GenerationRules;
use crate::core::status::UnitEnd;
use crate::core::step::Turn;

/// At the removal of the package, for those that have just become old to be seen to be idle.
pub(super) const SETTLE: Duration = Duration::from_secs(4);

impl Generations {
    /// Before this agent is removed: what is still at work then has the rest of its time, and systemd ends it.
    pub(super) fn leave_to_systemd(&mut self, turn: &mut Turn<'_>, rules: &GenerationRules) {
        let now = turn.now.mono;
        if self.settling.is_none_or(|since| now < since.after(SETTLE)) {
            return;
        }
        let at_work = self.ending.iter().filter(|(unit, fpm)| !fpm.committed() && !self.leaving.contains_key(*unit));
        let at_work: Vec<(String, Duration)> = at_work.map(|(unit, fpm)| (unit.clone(), fpm.lingers_until().since(now))).collect();
        for (unit, after) in at_work {
            let id = turn.ask(Effect::EndLater { unit: unit.clone(), after, quit: rules.shared() });
            self.leaving.insert(unit, Some(id));
        }
    }

    pub(super) fn left(&mut self, turn: &mut Turn<'_>, unit: &str, outcome: &Outcome) {
        if *outcome == Outcome::Done {
            self.leaving.insert(unit.to_owned(), None);
            self.ending.remove(unit);
            turn.unit_ended(
                &self.name,
                unit,
                UnitEnd::Left,
                "still at work when the agent was removed: systemd stops it when it has lingered",
            );
            turn.record(Entry::GenerationOver { target: self.name.clone(), unit: unit.to_owned() });
        } else {
            self.trouble = Some(format!("{unit} could not be left to systemd: {}", outcome.said()));
            self.leaving.remove(unit);
            self.settling = Some(turn.now.mono);
        }
    }
}
