//! Whom the agent has interrupted, and who is to run again.

use restart_agent::core::policy::{After, ScheduledRules, TargetRules};
use restart_agent::core::seen::Load;

use super::{covers, us};
use crate::world::{MINUTE, Unit, World};

impl World {
    /// Its last run was interrupted by the agent, and its rules give it another, which it has not had, though it can be started.
    pub(super) fn is_to_run_again(&self, unit: &Unit) -> bool {
        let masked = unit.load == Load::Masked || self.barred_since(&unit.name, unit.idle_since);
        let cannot = unit.refuse_start || unit.transient || masked;
        if unit.active.runs() || unit.may_stay_down || cannot || !unit.interrupted() || self.was_stopped_unseen(unit) {
            return false;
        }
        let Some(rules) = self.rules_of_script(&unit.name) else { return unit.checkpointed && !unit.oneshot() };
        let runs_again = |rules: &ScheduledRules| match rules.after {
            After::Rerun => true,
            After::UntilNext => false,
            After::Auto => unit.checkpointed || self.has_no_run_soon(unit, rules),
        };
        // What its target leaves out by now it is still at, by the rules of now.
        let of_now = self.policy.targets.values().all(|rules| match rules {
            TargetRules::Scheduled(rules) if covers(&rules.units, &[], &unit.name) => runs_again(rules),
            _ => true,
        });
        // Which rules it was when it ended, or was seen to, nobody can tell of what ended about when they changed.
        of_now && runs_again(rules) && self.rules_before(&unit.name, unit.idle_since.saturating_sub(MINUTE)).all(runs_again)
    }

    /// Somebody has started it while the stop was on its way, which was meant for the run before.
    pub(crate) fn was_stopped_unseen(&self, unit: &Unit) -> bool {
        unit.last_stop_by_agent.is_some() && self.sent.get(&unit.name).is_some_and(|sent| *sent <= unit.main_start)
    }

    /// One that has left the configuration since has the rules by which it was interrupted.
    fn rules_of_script(&self, name: &str) -> Option<&ScheduledRules> {
        let formers = self.formers.iter().rev().map(|(_, former)| former);
        std::iter::once(&self.policy).chain(formers).flat_map(|policy| policy.targets.values()).find_map(|rules| match rules {
            TargetRules::Scheduled(rules) if covers(&rules.units, &rules.exclude, name) => Some(rules),
            _ => None,
        })
    }

    /// Nor had it at any moment since its end.
    fn has_no_run_soon(&self, unit: &Unit, rules: &ScheduledRules) -> bool {
        self.timers.values().filter(|timer| timer.unit == unit.name && timer.active).all(|timer| {
            let next = self.slot_after(timer, self.now);
            next == self.slot_after(timer, unit.idle_since) && next - self.now > us(rules.quiet_within)
        })
    }
}
