//! Scripts that are being stopped and that no rollout is at any more: their target has left the configuration, or has given them up.
//! They go down the rest of the ladder all the same, or it would be systemd's deadline that ends them, and make failures of them
//! (facts F1.3).

use std::collections::BTreeMap;

use super::ladder::{Ladder, Rung};
use super::memory::Cutting;
use super::seen::{Active, UnitSeen};
use super::time::Mono;

#[derive(Debug, Default)]
pub struct Orphans {
    units: BTreeMap<String, Orphan>,
}

#[derive(Debug)]
struct Orphan {
    ladder: Ladder,
    /// From before its end (facts F3.2).
    cgroup: String,
}

/// What is to be done about one that has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Ending {
    /// Nothing: it is systemd that ends it.
    Wait,
    /// Its grace goes on, or it is dying.
    LookAt(Mono),
    Kill {
        cgroup: String,
    },
    /// Not even SIGKILL ended it.
    Never,
}

impl Orphans {
    /// Forgets all but these.
    pub fn keep(&mut self, units: &[String]) {
        self.units.retain(|unit, _| units.contains(unit));
    }

    /// Where the processes of each are, for a look.
    #[must_use]
    pub fn cgroups(&self) -> BTreeMap<String, String> {
        self.units.iter().map(|(unit, orphan)| (unit.clone(), orphan.cgroup.clone())).collect()
    }

    /// This one had not ended in a look that had begun then.
    pub fn ending(&mut self, cutting: &Cutting, seen: &UnitSeen, looked: Mono, now: Mono) -> Ending {
        let Some(grace) = cutting.grace else { return Ending::Wait };
        // Counted from when systemd began to stop it, which may be much later than we asked.
        let begun = if seen.active == Active::Deactivating { cutting.asked.max(seen.state_since) } else { cutting.asked };
        let new = || Orphan { ladder: Ladder::new(begun, grace), cgroup: String::new() };
        let orphan = self.units.entry(seen.unit.clone()).or_insert_with(new);
        if orphan.ladder.sent() < begun {
            *orphan = new();
        }
        if !seen.cgroup.is_empty() {
            orphan.cgroup.clone_from(&seen.cgroup);
        }
        match orphan.ladder.rung_of(looked, &seen.processes) {
            Rung::Grace { until } | Rung::Dying { until } => Ending::LookAt(until),
            Rung::Kill => {
                orphan.ladder.kills(now, &seen.processes);
                Ending::Kill { cgroup: orphan.cgroup.clone() }
            }
            Rung::Unkillable => Ending::Never,
        }
    }

    pub fn kill_sent(&mut self, unit: &str, now: Mono) {
        if let Some(orphan) = self.units.get_mut(unit) {
            orphan.ladder.kill_sent(now);
        }
    }

    pub fn kill_failed(&mut self, unit: &str, now: Mono) {
        if let Some(orphan) = self.units.get_mut(unit) {
            orphan.ladder.kill_failed(now);
        }
    }

    #[must_use]
    pub fn killed_from(&self, unit: &str) -> Option<Mono> {
        self.units.get(unit).and_then(|orphan| orphan.ladder.killed_from())
    }
}
