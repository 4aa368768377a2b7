//! Events are hints: who is to look again.

use super::{Machine, Work};
use crate::core::policy::TargetRules;
use crate::core::time::Now;

impl Machine {
    /// Who serves is looked at again.
    pub(super) fn hint_generations(&mut self, now: Now) {
        for work in self.works.values_mut() {
            if let Work::Generations(work) = work {
                work.look_again(now.mono);
            }
        }
    }

    pub(super) fn hint(&mut self, now: Now, unit: Option<&str>) {
        for (name, work) in &mut self.works {
            match work {
                Work::Fpm => {}
                Work::Generations(work) => {
                    if let Some(TargetRules::Generations(rules)) = self.policy.targets.get(name) {
                        work.hint(now.mono, unit, &rules.unit);
                    }
                }
                Work::Scheduled(work) => work.hint(now.mono, unit),
                Work::Services(work) => work.hint(now.mono, unit),
                Work::Strays(work) => work.hint(now.mono, unit),
            }
        }
        if unit.is_none() {
            self.inplace.hint(now.mono);
        }
        self.debts.hint(now.mono, unit);
    }
}
