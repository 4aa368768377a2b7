//! What one line of the journal adds to the totals.

use std::collections::BTreeMap;

use super::Memory;
use crate::core::entry::{Entry, Written};
use crate::core::status::{CasualtyKind, LastView};

impl Memory {
    /// Called before the line changes anything else.
    pub(super) fn count(&mut self, written: &Written) {
        match &written.entry {
            Entry::RolloutFinished { result, .. } => {
                add(&mut self.totals.rollouts, result.word());
                if let Some(rollout) = &self.rollout {
                    self.totals.last = Some(LastView { started_at: rollout.view.started_at, finished_at: written.at });
                }
            }
            Entry::Casualty(cut) => {
                let totals = &mut self.totals;
                let of = match cut.what {
                    _ if cut.perhaps => &mut totals.perhaps,
                    CasualtyKind::Request => &mut totals.requests,
                    CasualtyKind::Script => &mut totals.scripts,
                };
                add(of, &cut.target);
            }
            Entry::UnitEnded(end) if end.starved => {
                // Deploy after deploy may find the same run.
                if self.starved.insert(end.unit.clone(), end.target.clone()).is_none() {
                    add(&mut self.totals.starved, &end.target);
                }
            }
            Entry::UnitEnded(end) => {
                self.starved.remove(&end.unit);
            }
            Entry::Interrupted { unit } | Entry::RanThrough { unit } => {
                self.starved.remove(unit);
            }
            Entry::Dropped { target } => {
                self.starved.retain(|_, of| of != target);
                // Also what came to light of those that were dropped before.
                let known = |of: &String| of != target && self.targets.contains_key(of);
                self.totals.by_target().into_iter().for_each(|counts| counts.retain(|of, _| known(of)));
            }
            _ => {}
        }
    }
}

fn add(counts: &mut BTreeMap<String, u32>, of: &str) {
    let count = counts.entry(of.to_owned()).or_default();
    *count = count.saturating_add(1);
}
