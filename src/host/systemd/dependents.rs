//! Which units go down with one that is stopped, and how they come back.

use std::collections::{BTreeMap, BTreeSet};

use super::properties::UNIT;
use super::proxies::UnitRow;
use super::{ACT, Systemd};
use crate::core::effect::Fault;
use crate::core::seen::{Dependent, UnitSeen};

/// Of what goes down with what goes down with a unit, so many; more are not started again.
const MOST: usize = 256;
/// The unit alone: what it requires is not started with it, what it is ordered after is waited for.
const ALONE: &str = "ignore-requirements";

impl Systemd {
    /// What goes down with a stop of this unit itself, whether it is active or not.
    pub(super) async fn dependents(&self, unit: &str) -> Result<Vec<Dependent>, Fault> {
        let values =
            self.properties(unit, &[(UNIT, "RequiredBy"), (UNIT, "BoundBy"), (UNIT, "ConsistsOf"), (UNIT, "PropagatesStopTo")]).await?;
        let mut found: BTreeMap<String, bool> = BTreeMap::new();
        for at in 0..4 {
            for name in values.texts(at) {
                *found.entry(name).or_default() |= at == 1;
            }
        }
        Ok(found.into_iter().map(|(unit, bound)| Dependent { unit, bound }).collect())
    }

    /// Of the direct dependents of each, and of theirs, what runs now. Units without any cost nothing.
    pub(super) async fn add_dependents(&self, seen: &mut [UnitSeen]) -> Result<(), Fault> {
        for unit in seen {
            // Only scripts are stopped: of all else RestartUnit takes care (facts M4).
            if !unit.oneshot && unit.timers.is_empty() {
                unit.dependents.clear();
                continue;
            }
            let mut known = BTreeSet::from([unit.unit.clone()]);
            let mut next = std::mem::take(&mut unit.dependents);
            while !next.is_empty() && known.len() < MOST {
                next.retain(|dependent| known.insert(dependent.unit.clone()));
                let names: Vec<&str> = next.iter().map(|dependent| dependent.unit.as_str()).collect();
                let rows: BTreeMap<String, UnitRow> = self.named(&names).await?.into_iter().collect();
                let up = |dependent: &Dependent| {
                    rows.get(&dependent.unit)
                        .is_some_and(|row| matches!(row.3.as_str(), "active" | "activating" | "reloading" | "refreshing"))
                };
                next.retain(up);
                let mut further = Vec::new();
                for dependent in &next {
                    further.extend(self.dependents(&dependent.unit).await?);
                }
                unit.dependents.append(&mut next);
                next = further;
            }
            unit.dependents.truncate(MOST);
        }
        Ok(())
    }

    /// ResetFailedUnit, then StartUnit of this unit alone, and returns when systemd has taken the job.
    ///
    /// # Errors
    /// The fault of StartUnit.
    pub async fn start_alone(&self, unit: &str) -> Result<(), Fault> {
        self.reset_failed(unit).await?;
        self.link.call(&format!("start {unit}"), ACT, |live| async move { live.manager.start_unit(unit, ALONE).await }).await?;
        Ok(())
    }
}
