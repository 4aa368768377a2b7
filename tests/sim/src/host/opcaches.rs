//! What the agent says of opcaches that are guarded.

use restart_agent::core::policy::TargetRules;

use super::{Host, S};
use crate::check::us;

impl Host {
    /// One that has crossed its bound, for longer than from one look to the next, is renewed, or status says why not.
    pub(super) fn opcaches_at_rest(&mut self) {
        let status = self.status();
        let of = |(name, rules): (&String, &TargetRules)| Some((name.clone(), us(rules.opcache()?.every)));
        let guarded: Vec<(String, u64)> = self.policy.targets.iter().filter_map(of).collect();
        for (target, every) in guarded {
            let views = status.targets.iter().filter(|view| view.name == target).flat_map(|view| &view.units);
            let Some((unit, opcache)) = views.filter_map(|view| Some((view.unit.clone(), view.opcache.clone()?))).next() else { continue };
            let now = self.world.now;
            self.world.now = now.saturating_sub(every + 30 * S);
            let crossed = self.world.units.get(&unit).is_some_and(|unit| unit.main_start < self.world.now)
                && self.world.opcache_crosses(&unit) == Some(true);
            self.world.now = now;
            if crossed && opcache.note.is_none() {
                self.world.violates(format!("the opcache of {unit} has crossed a bound, and nobody says so: {opcache:?}"));
            }
        }
    }
}
