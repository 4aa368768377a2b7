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
                let first = self.starved.insert(end.unit.clone(), end.target.clone()).is_none();
                if first {
                    add(&mut self.totals.starved, &end.target);
                }
            }
            Entry::UnitEnded(end) => {
                self.starved.remove(&end.unit);
            }
            Entry::Interrupted { unit, .. } | Entry::RanThrough { unit } => {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::deploy::{Deploy, Scope};
    use crate::core::memory::TargetMemory;
    use crate::core::status::{Casualty, RolloutResult, Totals, UnitEnd, UnitOutcome};
    use crate::core::time::{Mono, Wall};

    fn told(memory: &mut Memory, at: i64, entries: impl IntoIterator<Item = Entry>) {
        for entry in entries {
            memory.apply(&Written { at: Wall(at), entry });
        }
    }

    fn known(targets: &[&str]) -> Memory {
        let targets = targets.iter().map(|name| ((*name).to_owned(), TargetMemory::default()));
        Memory { targets: targets.collect(), ..Memory::default() }
    }

    fn cut(target: &str, what: CasualtyKind, perhaps: bool) -> Entry {
        Entry::Casualty(Casualty {
            target: target.to_owned(),
            unit: "a.service".to_owned(),
            what,
            pid: 1,
            name: "a".to_owned(),
            ran: String::new(),
            ended_by: "SIGTERM".to_owned(),
            certain: true,
            perhaps,
            at: Wall(0),
            rollout: None,
            request: None,
        })
    }

    fn left(unit: &str, starved: bool) -> Entry {
        let (target, unit) = ("jobs".to_owned(), unit.to_owned());
        Entry::UnitEnded(UnitOutcome { target, unit, what: UnitEnd::Left, why: String::new(), notes: Vec::new(), starved })
    }

    fn started() -> Entry {
        let deploy = Deploy {
            id: "v1".to_owned(),
            landed_at: Wall(0),
            landed: Mono(0),
            targets: Scope::All,
            forced: Scope::Only([].into()),
            reason: None,
        };
        Entry::RolloutStarted { id: "r0".to_owned(), deploy, targets: ["jobs".to_owned()].into(), by: None, over_hold: false }
    }

    fn counts<const N: usize>(of: [(&str, u32); N]) -> BTreeMap<String, u32> {
        of.into_iter().map(|(name, count)| (name.to_owned(), count)).collect()
    }

    #[test]
    fn rollouts_and_casualties_add_up() {
        let mut memory = known(&["jobs", "web"]);
        told(&mut memory, 5, [started(), cut("web", CasualtyKind::Request, false), cut("web", CasualtyKind::Request, true)]);
        told(&mut memory, 9, [cut("jobs", CasualtyKind::Script, false), cut("web", CasualtyKind::Request, false)]);
        told(&mut memory, 12, [Entry::RolloutFinished { result: RolloutResult::Failed, why: None }]);
        told(&mut memory, 20, [started()]);
        let wanted = Totals {
            rollouts: counts([("failed", 1)]),
            requests: counts([("web", 2)]),
            scripts: counts([("jobs", 1)]),
            perhaps: counts([("web", 1)]),
            starved: counts([]),
            last: Some(LastView { started_at: Wall(5), finished_at: Wall(12) }),
        };
        assert_eq!(memory.totals, wanted);
        // As the next agent reads it, and as it reads what an older version wrote.
        let text = serde_json::to_string(&memory).unwrap();
        assert_eq!(serde_json::from_str::<Memory>(&text).unwrap().totals, wanted);
        assert_eq!(serde_json::from_str::<Memory>("{}").unwrap().totals, Totals::default());
    }

    #[test]
    fn a_run_that_is_let_finish_is_counted_once() {
        let mut memory = known(&["jobs"]);
        told(&mut memory, 0, [left("a.service", true), left("a.service", true), left("b.service", false)]);
        assert_eq!(memory.totals.starved, counts([("jobs", 1)]));
        assert_eq!(memory.starved.keys().collect::<Vec<_>>(), ["a.service"]);
        for over in [
            Entry::RanThrough { unit: "a.service".to_owned() },
            Entry::Interrupted { unit: "a.service".to_owned(), at: Mono(0) },
            left("a.service", false),
            Entry::Started { boot: "another".to_owned(), version: String::new() },
        ] {
            let before = memory.totals.starved["jobs"];
            told(&mut memory, 0, [over]);
            assert!(memory.starved.is_empty());
            told(&mut memory, 0, [left("a.service", true)]);
            assert_eq!(memory.totals.starved, counts([("jobs", before + 1)]), "the next run is another");
        }
    }

    #[test]
    fn what_is_counted_of_a_target_goes_with_it() {
        let mut memory = known(&["jobs", "web"]);
        told(&mut memory, 0, [cut("web", CasualtyKind::Request, false), cut("jobs", CasualtyKind::Script, false), left("a.service", true)]);
        told(&mut memory, 0, [Entry::Dropped { target: "jobs".to_owned() }]);
        assert!(memory.starved.is_empty() && memory.totals.starved.is_empty() && memory.totals.scripts.is_empty(), "{memory:?}");
        // What comes to light later is told until the next target goes.
        told(&mut memory, 0, [cut("jobs", CasualtyKind::Script, false)]);
        assert_eq!(memory.totals.scripts, counts([("jobs", 1)]));
        told(&mut memory, 0, [Entry::Dropped { target: "other".to_owned() }]);
        assert_eq!((memory.totals.scripts.len(), memory.totals.requests.len()), (0, 1));
    }
}
