//! What it is asked: its status pages, and what systemd and its cgroup say.

use std::collections::BTreeMap;
use std::time::Duration;

use super::proof::VERIFY_TIMEOUT;
use super::{Fpm, FpmStep};
use crate::core::effect::{Effect, Looked, Outcome};
use crate::core::entry::Entry;
use crate::core::evidence::Source;
use crate::core::step::Turn;

impl Fpm {
    pub(super) fn ask_status(&mut self, turn: &mut Turn<'_>, full: bool, timeout: Duration) {
        if let Source::Status { asks, .. } = &self.source {
            self.pending = Some(turn.ask(Effect::AskPools { asks: asks.clone(), full, timeout }));
        }
    }

    pub(super) fn look(&mut self, turn: &mut Turn<'_>) {
        let cgroups = BTreeMap::from([(self.unit.clone(), self.seen.cgroup.clone())]);
        self.look_began = turn.now.mono;
        self.looking = Some(turn.ask(Effect::Look { units: vec![self.unit.clone()], looked: Looked::Exactly, cgroups }));
    }

    pub(super) fn looked(&mut self, turn: &mut Turn<'_>, outcome: &Outcome) {
        let now = turn.now.mono;
        let Outcome::Units(units) = outcome else { return };
        let Some(seen) = units.iter().find(|seen| seen.unit == self.unit) else { return };
        if matches!(self.step, FpmStep::Draining { .. }) {
            let by_text = matches!(self.source, Source::StatusText { .. });
            self.proof.unit(now, seen, by_text);
            return;
        }
        let before = self.seen.invocation.clone();
        match self.step {
            FpmStep::Seeing if seen.invocation != before && seen.active.runs() => {
                // Somebody else has restarted it meanwhile (trap T19): only the proof is left.
                self.seen = seen.clone();
                self.notes.push("somebody else has restarted it".to_owned());
                turn.record(Entry::Unproven { target: self.target.clone(), unit: self.unit.clone() });
                self.enter(now, FpmStep::Verifying { until: now.after(VERIFY_TIMEOUT) });
            }
            FpmStep::Seeing => {
                self.seen = seen.clone();
                let asks = matches!(self.source, Source::Status { .. });
                self.enter(now, if asks { FpmStep::Counting } else { FpmStep::WaitingForLoan });
            }
            FpmStep::Restarting if self.pending.is_none() => {
                self.looked_at = self.look_began;
                self.settle(turn, seen, &before);
            }
            FpmStep::Restarting => {
                self.looked_at = self.look_began;
                if seen.invocation == before && seen.active.runs() {
                    self.seen = seen.clone();
                } else {
                    self.old_gone = true;
                }
            }
            _ => {}
        }
    }
}
