//! Scripts that were started again: what has become of that is told when it is known.

use super::{Debt, Debts};
use crate::core::entry::Entry;
use crate::core::scheduled::{BEGINS, Begin, begin_of};
use crate::core::seen::UnitSeen;
use crate::core::status::UnitEnd;
use crate::core::step::Turn;
use crate::core::time::Mono;

#[derive(Debug)]
pub(super) struct Begins {
    target: String,
    /// The run that it had then.
    before: String,
    asked: Mono,
    /// systemd has taken it, and until then it is waited for.
    pub until: Option<Mono>,
}

impl Debts {
    /// Not while it would only wait with all others: a start that waits is gone if the host goes down.
    pub(super) fn start_script(&mut self, turn: &mut Turn<'_>, seen: &UnitSeen) {
        if turn.memory.starts_held {
            return;
        }
        let target = turn.memory.reruns.get(&seen.unit).map(|owed| owed.target.clone()).unwrap_or_default();
        let begins = Begins { target, before: seen.invocation.clone(), asked: turn.now.mono, until: None };
        self.begins.insert(seen.unit.clone(), begins);
        self.start(turn, seen, Debt::Rerun);
    }

    /// It is owed no other.
    pub(super) fn script_starts(&mut self, turn: &mut Turn<'_>, unit: String) {
        if let Some(begins) = self.begins.get_mut(&unit) {
            begins.until = Some(turn.now.mono.after(BEGINS));
        }
        turn.record(Entry::RerunSettled { unit, why: "started again".to_owned() });
        self.paid(turn);
    }

    pub(super) fn see_begin(&mut self, turn: &mut Turn<'_>, seen: &UnitSeen) {
        let Some((begins, until)) = self.begins.get(&seen.unit).and_then(|begins| Some((begins, begins.until?))) else { return };
        let (end, why) = match begin_of(seen, &begins.before, begins.asked) {
            Begin::Waits if turn.now.mono < until => return self.soon(turn),
            Begin::Waits | Begin::Anew => (UnitEnd::Renewed, "stopped, and started again with the new code".to_owned()),
            Begin::Never(end, why) => (end, why),
        };
        turn.unit_ended(&begins.target, &seen.unit, end, why);
        self.begins.remove(&seen.unit);
    }
}
