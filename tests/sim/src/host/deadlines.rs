//! After the sum of its deadlines nothing runs old code, unless something that alerts says so.

use std::collections::BTreeSet;

use restart_agent::core::policy::TargetRules;
use restart_agent::core::status::{State, TargetState, UnitView};

use super::{Host, MINUTE, S, Us};
use crate::check::{carries, us};
use crate::world::{Job, JobKind, MS, Process};

/// The agent's own turns, on top of what the rules allow: looks once a second, a try again after one that got no answer, the end of what has had SIGKILL.
const SLACK: Us = 15 * S;

/// What a proof of php-fpm takes at most, one script that warms it included: one that is under way when the next deploy lands is gone through with.
const PROOF: Us = 90 * S;
/// Another script.
const WARM: Us = 60 * S;

/// Between two tries of what failed.
const SLOWEST_TRY: Us = 15 * MINUTE;

fn not_restarted(view: &UnitView) -> bool {
    view.why.contains("not restarted, the old code keeps serving")
}

impl Host {
    /// Somebody has done something that may keep the agent from what it does, or undo it: all deadlines begin anew.
    pub(super) fn disturb(&mut self) {
        self.disturbed = self.world.now;
        self.meddled = self.world.now;
    }

    /// Something has failed, and is tried again with all its deadlines, and whatever waits for that with it.
    pub(super) fn fails(&mut self) {
        self.disturbed = self.world.now;
    }

    fn is_kept_from_it(&self) -> bool {
        let faults = &self.world.faults;
        let away = faults.systemd_away_until.max(faults.reload_fails_until) > self.world.now;
        let held = self.memory().hold.is_some();
        // Of a stamp that nobody has read nobody knows.
        self.world.lost || self.machine.is_none() || self.unusable.is_some() || self.disk_full || away || held || !self.stamp_told
    }

    /// Once a second, for what it costs, and whenever a rollout begins or ends.
    pub(super) fn check_deadlines(&mut self, rollout: bool) {
        let now = self.world.now;
        let kept = self.is_kept_from_it();
        // What was the case at the last look was so until this turn.
        if kept || self.kept {
            self.disturb();
        }
        if self.alerted {
            self.fails();
        }
        // And whoever had failed is tried again with all its deadlines, while the rollout may still have been at others.
        self.told_at.extend(self.told.iter().map(|unit| (unit.clone(), now)));
        self.kept = kept;
        if kept || (now < self.deadlines_at && !rollout) {
            return;
        }
        self.deadlines_at = now + S;
        self.alerted = false;
        self.told.clear();
        self.check_deadlines_of_strays();
        let mut stale = self.stale();
        if stale.is_empty() {
            return;
        }
        let status = self.status();
        // What has failed is tried again with all its deadlines.
        self.alerted = matches!(status.state, State::Blocked | State::Failed | State::Held);
        let failed = status.targets.iter().filter(|target| matches!(target.state, TargetState::Failed | TargetState::Held));
        let mut failed: BTreeSet<String> = failed.map(|target| target.name.clone()).collect();
        if status.state == State::Failed {
            // Where the old one was given its place back it is told to serve, and the state says that its successor has failed.
            failed.extend(self.ended_badly.keys().cloned());
        }
        for target in
            status.targets.iter().filter(|target| target.units.iter().any(|view| not_restarted(view) || view.state == TargetState::Failed))
        {
            self.check_tries(&target.name);
        }
        let said = |unit: &String| {
            let views = status.targets.iter().flat_map(|target| &target.units);
            let mut of = views.filter(|view| view.unit == *unit);
            of.any(|view| {
                not_restarted(view)
                    || matches!(view.state, TargetState::Failed | TargetState::Held | TargetState::Left) && !view.why.is_empty()
            }) || self.world.generation_rules(unit).is_some_and(|(target, _)| failed.contains(&target))
        };
        self.told = stale.iter().filter(|unit| said(unit) || self.begins(unit)).cloned().collect();
        stale.retain(|unit| self.is_overdue(unit) && !self.spared_for_once(unit) && !self.told.contains(unit));
        // Generations wait for no other target, so that what has failed of those is no excuse.
        stale.retain(|unit| !self.alerted || self.world.generation_rules(unit).is_some());
        if !stale.is_empty() {
            let why = status.waiting_for.unwrap_or_default();
            self.world.violates(format!("{} runs old code after all its deadlines, and nothing alerts: {why}", stale.join(", ")));
        }
    }

    /// A php-fpm that failed, or was kept from its restart, is tried again, whatever others of its rollout are at.
    fn check_tries(&mut self, target: &str) {
        let in_place = |rules: &&TargetRules| matches!(rules, TargetRules::PhpFpm(_));
        let (Some(_), Some(at)) = (self.policy.targets.get(target).filter(in_place), self.ended_badly.get(target)) else { return };
        // All of them go the same way, and the host comes back when the last one is done.
        let way = self.policy.targets.values().filter(in_place).map(|rules| self.deadline(rules)).max().unwrap_or(0);
        if self.world.now > self.meddled.max(*at) + SLOWEST_TRY + way {
            self.world.violates(format!("{target} has failed, and is not tried again"));
        }
    }

    /// A restart of a service is gone through with, also if the next deploy lands while it begins: its start ends by its own TimeoutStartSec=.
    fn begins(&self, name: &str) -> bool {
        let starting = |job: Job| job.kind == JobKind::Restart && job.starting;
        let service = matches!(self.world.target_of(name), Some((_, TargetRules::Service(_))));
        service && self.world.units.get(name).and_then(|unit| unit.job).is_some_and(starting)
    }

    fn is_overdue(&self, name: &str) -> bool {
        let Some(unit) = self.world.units.get(name) else { return false };
        let Some((target, rules)) = self.world.target_of(name) else { return false };
        let of_it = |process: &&Process| carries(rules.code(), process) && unit.has_in_this_run(process);
        let oldest = unit.processes.values().filter(of_it).map(|process| process.start).min();
        // A target that was out of the configuration has what landed before it was back adopted.
        let from = self.since.get(&target).copied().unwrap_or(0).max(oldest.unwrap_or(Us::MAX));
        // What was left since it was barred is due by none of the deploys until then, also once a newer one makes it stale again.
        let due_by = |at: &Us| from < *at && !self.world.barred_since(name, *at);
        let mut made_stale = self.world.wanted.iter().filter(|wanted| wanted.names(&target)).map(|wanted| wanted.at).filter(due_by);
        let stuck = unit.processes.values().any(|process| process.unkillable_until + SLACK > self.world.now);
        let disturbed = if matches!(rules, TargetRules::Generations(_)) { self.meddled } else { self.disturbed };
        // What an earlier run has left behind is of this one since it began.
        let begun = if unit.leaves() && oldest.is_some_and(|oldest| oldest < unit.main_start) { unit.main_start } else { 0 };
        let disturbed = self.told_at.get(name).copied().unwrap_or(0).max(disturbed).max(begun);
        made_stale.next().is_some_and(|at| self.world.now > at.max(disturbed) + self.deadline(&rules)) && !stuck
    }

    /// As many looks and answers as a rollout may wait for, one after the other.
    pub(super) fn looks_take(&self) -> Us {
        20 * (self.world.faults.look_takes + 6 * MS * self.world.faults.slowness)
    }

    /// By when what such a deploy makes old has ended, from its landing, on a host as slow as this one.
    fn deadline(&self, rules: &TargetRules) -> Us {
        let slow = self.looks_take();
        let pools: Us = self.policy.pools.values().map(|pool| us(pool.timeout) * 2 + us(pool.quiet)).max().unwrap_or(0);
        let warm = |rules: &TargetRules| match rules {
            TargetRules::PhpFpm(rules) => rules.warm.len(),
            TargetRules::Generations(rules) => rules.warm.len(),
            _ => 0,
        };
        let scripts = self.policy.targets.values().map(warm).max().unwrap_or(0) as u64;
        let proof = PROOF + WARM * scripts.saturating_sub(1);
        let of = match rules {
            TargetRules::PhpFpm(rules) => us(rules.drain_timeout + rules.term_timeout) + pools + proof,
            // With as many as may run it waits for the oldest, which lingers; and between two tries for ones that do not stay up it pauses.
            TargetRules::Generations(rules) => us(rules.linger + rules.term_timeout) + proof + 5 * MINUTE,
            TargetRules::Scheduled(rules) => us(rules.drain_timeout + rules.checkpoint_timeout + rules.hold_timeout + rules.term_timeout),
            TargetRules::Service(rules) => us(rules.drain_timeout + rules.checkpoint_timeout + rules.hold_timeout + rules.term_timeout),
            TargetRules::Strays(rules) => us(rules.drain_timeout + rules.term_timeout),
        };
        let stamp = &self.policy.stamp;
        us(stamp.settle * 5 + stamp.min_interval) + of + SLACK + slow
    }
}
