//! What holds for strays, as far as it takes the agent's memory to say.

use restart_agent::core::policy::StrayAction;
use restart_agent::core::seen::StraySeen;
use restart_agent::core::status::{State, TargetState, UnitView};
use restart_agent::core::unit_of;

use super::{Host, S, Us};
use crate::check::{BLUR, us};
use crate::world::Wanted;

/// As for units: the agent's own turns, on top of what the rules allow.
const SLACK: Us = 15 * S;

impl Host {
    fn views_of_strays(&self, target: &str) -> Vec<UnitView> {
        let status = self.status();
        status.targets.into_iter().filter(|of| of.name == target).flat_map(|of| of.units).collect()
    }

    /// What is old, and to be stopped, has ended after its deadlines, unless something alerts.
    pub(super) fn check_deadlines_of_strays(&mut self) {
        let Some((target, rules)) = self.world.stray_rules().filter(|(_, rules)| rules.action == StrayAction::Stop) else { return };
        let since = self.since.get(&target).copied().unwrap_or(Us::MAX);
        let old = self.world.old_strays(&target, since);
        let old: Vec<u32> = old.iter().filter(|stray| self.world.in_reach(stray, since)).map(|stray| stray.process.pid).collect();
        if old.is_empty() {
            return;
        }
        let alerts = matches!(self.status().state, State::Blocked | State::Failed | State::Held);
        self.alerted |= alerts;
        let slow = self.looks_take() + 6 * self.world.faults.disk_took;
        let stamp = &self.policy.stamp;
        let lasts = us(rules.drain_timeout + rules.term_timeout + stamp.settle * 5 + stamp.min_interval) + SLACK + slow;
        let overdue = |pid: &&u32| {
            let start = self.world.strays.iter().find(|stray| stray.seen.process.pid == **pid);
            let start = start.map_or(0, |stray| self.world.moment(stray.seen.process.start));
            let from = start.max(since);
            let mut wanted = self.world.wanted.iter().filter(|wanted| wanted.names(&target) && wanted.at > from);
            wanted.next().is_some_and(|wanted| self.world.now > wanted.at.max(self.disturbed) + lasts)
        };
        if let Some(pid) = old.iter().find(overdue).filter(|_| !alerts) {
            self.world.violates(format!("stray {pid} runs old code after all its deadlines, and nothing alerts"));
        }
    }

    /// What may not go on with old code does not, once somebody is told that all is converged.
    pub(super) fn check_converged_strays(&mut self) {
        let Some((target, rules)) = self.world.stray_rules() else { return };
        let since = self.since.get(&target).copied().unwrap_or(Us::MAX);
        let old = self.world.old_strays(&target, since);
        let to_stop = old.iter().find(|stray| rules.action == StrayAction::Stop && self.world.in_reach(stray, since));
        if let Some(pid) = to_stop.map(|stray| stray.process.pid) {
            self.world.violates(format!("wait says converged, and stray {pid} runs old code"));
        }
    }

    /// Whatever goes on with old code is told, and whose terminal is to be told was, once for a deploy.
    pub(super) fn strays_at_rest(&mut self) {
        self.check_converged_strays();
        let Some((target, rules)) = self.world.stray_rules() else { return };
        let since = self.since.get(&target).copied().unwrap_or(Us::MAX);
        let views = self.views_of_strays(&target);
        let told =
            |stray: &&StraySeen| views.iter().any(|view| view.process.as_ref().is_some_and(|process| process.pid == stray.process.pid));
        let living = self.world.living_strays(&rules.code);
        let of_targets = living.iter().filter(|stray| !stray.left_behind && self.world.target_of(unit_of(&stray.cgroup)).is_some());
        // What its unit has left behind was a stray until that was started again.
        let left = |stray: &&StraySeen| {
            let started = self.world.units.get(unit_of(&stray.cgroup)).map(|unit| unit.main_start);
            started.is_some_and(|started| self.world.moment(stray.process.start) < started.saturating_sub(S))
        };
        let mut of_targets = of_targets.filter(|stray| self.world.formers.is_empty() && !left(stray));
        if let Some(stray) = of_targets.find(told) {
            self.world.violates(format!("process {} in {} is told as a stray", stray.process.pid, stray.cgroup));
        }
        for stray in self.world.old_strays(&target, since) {
            let pid = stray.process.pid;
            let mut of = views.iter().filter(|view| view.process.as_ref().is_some_and(|process| process.pid == pid));
            if !of.any(|view| view.state == TargetState::Left && !view.why.is_empty()) {
                self.world.violates(format!("process {pid} in {} goes on with old code, and nobody says so: {views:?}", stray.cgroup));
            }
            let told = self.world.told.iter().filter(|told| **told == pid).count();
            let could_not = views.iter().any(|view| view.why.contains("could not be told"));
            // An agent that dies before it has told it does not tell it again.
            let is_told = told > 0 || could_not || self.world.agent_was_away;
            if rules.action == StrayAction::Notify && self.world.in_reach(&stray, since) && stray.tty.is_some() && !is_told {
                self.world.violates(format!("the terminal of stray {pid} was not told"));
            }
            let start = self.world.moment(stray.process.start);
            // One that has landed before it began may have landed since, for all that the agent knows.
            let lands_late = |id: &str| {
                !self.world.landings_are_known() && self.world.landings.iter().any(|(at, deploy)| deploy.id == id && at + BLUR > start)
            };
            let made_stale = |wanted: &&Wanted| wanted.names(&target) && (wanted.at + BLUR > start || lands_late(&wanted.id));
            if told > self.world.wanted.iter().filter(made_stale).count() {
                self.world.violates(format!("the terminal of stray {pid} was told {told} times"));
            }
        }
    }
}
