//! When and what is looked at, and what a look says of each service.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Services;
use super::unit::{Service, Step};
use crate::core::effect::Looked;
use crate::core::look::Looker;
use crate::core::policy::ServiceRules;
use crate::core::seen::{Active, UnitSeen};
use crate::core::stale::{RENEWED_ITSELF, Stale, stale};
use crate::core::status::UnitEnd;
use crate::core::step::Turn;
use crate::core::target::is_of;
use crate::core::time::Mono;

const DRAIN_LOOK: Duration = Duration::from_secs(5);
const RESTART_LOOK: Duration = Duration::from_secs(1);
/// Restarts that end together are looked at together.
pub(super) const BATCH: Duration = Duration::from_millis(10);

impl Services {
    pub(super) fn seen(&mut self, turn: &mut Turn<'_>, rules: &ServiceRules, units: &[UnitSeen]) {
        let Some(want) = self.pursuit.want().cloned() else { return };
        let memory = turn.memory.targets.get(&self.name).cloned().unwrap_or_default();
        let mut present = BTreeSet::new();
        let drain_until = self.pursuit.drain_until(turn.now.mono, rules.drain_timeout);
        for seen in units {
            let known = self.units.contains_key(&seen.unit);
            if !known && !is_of(&rules.units, &rules.exclude, &seen.unit) {
                continue;
            }
            present.insert(seen.unit.clone());
            let stale = stale(seen, &rules.code, &want, &memory);
            match self.units.get_mut(&seen.unit) {
                Some(unit) => unit.look(turn, &self.name, seen, stale, &self.pursuit.look, drain_until),
                None if !stale.is_empty() => {
                    self.units.insert(seen.unit.clone(), Service::new(seen.clone(), stale, turn.now.mono, drain_until));
                }
                None => {}
            }
        }
        if self.pursuit.look.exact() {
            return;
        }
        for (name, unit) in &mut self.units {
            if !present.contains(name) && matches!(unit.step, Step::Draining { .. } | Step::Left(_)) {
                unit.done(turn, &self.name, name, UnitEnd::Finished, "it ended by itself");
            }
        }
    }

    pub(super) fn look_when_due(&mut self, turn: &mut Turn<'_>, rules: &ServiceRules) {
        let now = turn.now.mono;
        self.pursuit.look.read_names(!rules.code.is_empty());
        let restarting = self.units.values().any(|unit| matches!(unit.step, Step::Restarting | Step::Verifying));
        if restarting {
            self.pursuit.look.want(now.after(RESTART_LOOK));
        } else if self.units.values().any(|unit| !unit.at_rest()) {
            self.pursuit.look.want(now.after(DRAIN_LOOK));
        }
        let unseen = |unit: &Service| match unit.step {
            Step::Draining { until } | Step::Pausing { until } => now >= until && unit.seen_at < until,
            Step::Restarting => unit.grace_over(rules).is_some_and(|until| now >= until && unit.seen_at < until),
            _ => false,
        };
        if self.units.values().any(unseen) {
            self.pursuit.look.want(now);
        }
        let overdue = |unit: &Service| matches!(unit.step, Step::Restarting) && now >= unit.since.after(RESTART_LOOK);
        let by_name = |unit: &Service| {
            matches!(unit.step, Step::Verifying) || overdue(unit) || (matches!(unit.step, Step::Pausing { .. }) && unseen(unit))
        };
        let named = self.units.iter().filter(|(_, unit)| by_name(unit));
        let cgroups: BTreeMap<String, String> = named.map(|(name, unit)| (name.clone(), unit.seen.cgroup.clone())).collect();
        if !cgroups.is_empty() {
            let units: Vec<String> = cgroups.keys().cloned().collect();
            self.pursuit.look.ask(turn, &units, Looked::Bare, BTreeMap::new());
        } else if restarting {
            // Nothing is late yet.
            self.pursuit.look.put_off(now);
        } else {
            self.pursuit.look.ask(turn, &rules.units, Looked::Running, BTreeMap::new());
        }
    }
}

impl Service {
    pub(super) fn look(&mut self, turn: &mut Turn<'_>, target: &str, seen: &UnitSeen, stale: Stale, look: &Looker, drain_until: Mono) {
        self.seen_at = look.began().unwrap_or(self.seen_at);
        match self.step {
            Step::Draining { .. } | Step::Left(_) if stale.is_empty() => {
                let (end, why) = match seen.invocation == self.before {
                    true => (UnitEnd::Finished, RENEWED_ITSELF),
                    false => (UnitEnd::Renewed, "somebody else has restarted it"),
                };
                self.done(turn, target, &seen.unit, end, why);
            }
            Step::Verifying if look.seen_since(self.since) => self.verify(turn, target, seen, stale),
            // Its end was missed, since the bus went away.
            Step::Restarting if self.pending.is_none() && !self.under_way(seen) => self.verify(turn, target, seen, stale),
            Step::Pausing { .. } if self.came_up(seen) => self.verify(turn, target, seen, stale),
            Step::Done(UnitEnd::Failed, _) if stale.is_empty() && seen.active == Active::Active => {
                self.seen = seen.clone();
                self.done(turn, target, &seen.unit, UnitEnd::Renewed, "it has come up");
            }
            // Restarted for an earlier deploy, while this one landed.
            Step::Done(end, _) if !stale.is_empty() && end != UnitEnd::Failed && self.seen_at >= self.since => {
                *self = Service::new(seen.clone(), stale, turn.now.mono, drain_until);
            }
            _ => {
                self.stale = stale;
                self.seen.update(seen);
            }
        }
    }
}
