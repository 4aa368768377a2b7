//! What must never happen to processes outside of every unit of a target.

use restart_agent::core::policy::{StrayAction, StrayRules, TargetRules};

use super::us;
use crate::world::{S, Stray, World};

impl World {
    fn stray_rules(&self) -> Option<(String, StrayRules)> {
        self.policy.targets.iter().find_map(|(name, rules)| match rules {
            TargetRules::Strays(rules) => Some((name.clone(), rules.clone())),
            _ => None,
        })
    }

    /// SIGTERM after its drain, and only to what its rules stop; SIGKILL after that and its grace.
    pub(crate) fn agent_may_signal_stray(&mut self, stray: &Stray, kill: bool) {
        let now = self.now;
        let pid = stray.seen.process.pid;
        let Some((target, rules)) = self.stray_rules() else {
            if now > self.policy_changed + 5 * S {
                self.violates(format!("the agent signals stray {pid}, and there is no target of strays"));
            }
            return;
        };
        let people = stray.seen.cgroup.starts_with("/user.slice/") || stray.seen.cgroup.ends_with("/cron.service");
        if rules.action != StrayAction::Stop || !(people || stray.seen.transient) || stray.seen.contained || stray.seen.left_behind {
            return self.violates(format!("the agent signals stray {pid}, which its rules do not stop"));
        }
        match (kill, stray.termed) {
            (true, None) => self.violates(format!("SIGKILL to stray {pid} without SIGTERM")),
            (true, Some(at)) if now < at + us(rules.term_timeout) => {
                self.violates(format!("SIGKILL to stray {pid} {:.3} s after SIGTERM", (now - at) as f64 / 1e6));
            }
            (true, Some(_)) => {}
            (false, _) => match self.made_stale(&target, self.moment(stray.seen.process.start)) {
                None => self.violates(format!("the agent signals stray {pid}, which runs new code")),
                Some((at, false)) if now < at + us(rules.drain_timeout) => {
                    self.violates(format!("the agent signals stray {pid} before its drain is over"));
                }
                Some(_) => {}
            },
        }
    }
}
