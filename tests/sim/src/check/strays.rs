//! What must never happen to processes outside of every unit of a target.

use restart_agent::core::policy::{StrayAction, StrayRules, TargetRules};
use restart_agent::core::seen::StraySeen;
use restart_agent::core::unit_of;

use super::excluded::concerns;
use super::us;
use crate::world::{S, Stray, Us, World};

impl World {
    pub(crate) fn stray_rules(&self) -> Option<(String, StrayRules)> {
        self.policy.targets.iter().find_map(|(name, rules)| match rules {
            TargetRules::Strays(rules) => Some((name.clone(), rules.clone())),
            _ => None,
        })
    }

    /// Whether it is to be told, or stopped, where it runs, by whatever rules there have been since it was looked for: a change of rules begins nothing.
    pub(crate) fn in_reach(&self, stray: &StraySeen, since: Us) -> bool {
        let formers = self.formers.iter().filter(|(until, _)| *until > since);
        self.may_be_reached(stray) && formers.into_iter().all(|(_, former)| !concerns(former, unit_of(&stray.cgroup)))
    }

    /// By those of now.
    fn may_be_reached(&self, stray: &StraySeen) -> bool {
        let people = stray.cgroup.starts_with("/user.slice/") || stray.cgroup.ends_with("/cron.service");
        let by_hand = stray.transient && stray.cgroup.starts_with("/system.slice/");
        let unit = unit_of(&stray.cgroup);
        (people || by_hand) && !stray.contained && !stray.left_behind && !self.is_excluded(unit) && self.target_of(unit).is_none()
    }

    /// What of them has been older than the newest deploy since the target is in the configuration.
    pub(crate) fn old_strays(&self, target: &str, since: Us) -> Vec<StraySeen> {
        let Some(want) = self.newest_want(target).filter(|want| want.at > since) else { return Vec::new() };
        let code = self.policy.targets.get(target).map_or(&[][..], TargetRules::code);
        let formers = || self.formers.iter().filter(|(until, _)| *until > want.at);
        let was_anothers = |unit: &str| formers().any(|(_, former)| concerns(former, unit)) || self.target_of(unit).is_some();
        let is_stray = |stray: &StraySeen| stray.left_behind || !was_anothers(unit_of(&stray.cgroup));
        let old = |stray: &StraySeen| self.moment(stray.process.start) < want.at && is_stray(stray);
        self.living_strays(code).into_iter().filter(old).collect()
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
        if rules.action != StrayAction::Stop || !self.may_be_reached(&stray.seen) {
            return self.violates(format!("the agent signals stray {pid}, which its rules do not stop"));
        }
        match (kill, stray.termed) {
            (true, None) => self.violates(format!("SIGKILL to stray {pid} without SIGTERM")),
            (true, Some(at)) if now < at + us(rules.term_timeout) => {
                self.violates(format!("SIGKILL to stray {pid} {:.3} s after SIGTERM", (now - at) as f64 / 1e6));
            }
            (true, Some(_)) => {}
            (false, _) => match self.made_stale(&target, self.moment(stray.seen.process.start)) {
                None if !self.landings_are_known() => {}
                None => self.violates(format!("the agent signals stray {pid}, which runs new code")),
                Some((at, false)) => {
                    let at = self.drains_from(&target, at);
                    if now < at + us(rules.drain_timeout) {
                        self.violates(format!("the agent signals stray {pid} before its drain is over"));
                    }
                }
                Some((_, true)) => {}
            },
        }
    }
}
