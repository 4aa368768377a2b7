//! An opcache is renewed for a bound that it has crossed, and not for another reason; and one that has crossed its bound is not passed over.

use restart_agent::core::opcache::OpcacheRules;
use restart_agent::core::seen::OpcacheSeen;

use crate::world::World;

/// The bounds that this one has crossed.
fn crosses(rules: &OpcacheRules, seen: &OpcacheSeen) -> bool {
    let size = seen.used + seen.free + seen.wasted;
    rules.min_free.is_some_and(|min| seen.free < min)
        || seen.full
        || rules.min_free_keys.is_some_and(|min| seen.max_keys - seen.keys < min)
        || rules.max_wasted.is_some_and(|max| seen.wasted * 100 > max * size)
}

impl World {
    /// Of this php-fpm, by the rules of its target.
    pub(crate) fn opcache_crosses(&self, unit: &str) -> Option<bool> {
        let (_, rules) = self.target_of(unit)?;
        Some(crosses(rules.opcache()?, &self.opcache(unit)?))
    }

    /// The guard of this target begins a rollout.
    pub(crate) fn guard_may_renew(&mut self, target: &str) {
        let its = |name: &String| self.target_of(name).is_some_and(|(of, _)| of == target);
        let mut of = self.units.keys().filter(|name| its(name)).filter_map(|name| self.opcache_crosses(name)).peekable();
        if of.peek().is_some() && of.all(|crosses| !crosses) {
            drop(of);
            self.violates(format!("the opcache guard renews {target}, and no opcache of it has crossed a bound"));
        }
    }
}
