//! What comes of a rollout: what has been reached, when to try again, and the way back into the pools.

use std::time::Duration;

use super::works::Work;
use super::{Machine, turn};
use crate::core::entry::Entry;
use crate::core::intake::Retry;
use crate::core::policy::TargetRules;
use crate::core::pool::{Goal, Pool, Verdict};
use crate::core::status::RolloutResult;
use crate::core::step::{Step, Turn};
use crate::core::target::Progress;
use crate::core::time::{Mono, Now};

/// After a rollout that failed: the next try, doubled each time.
const RETRY_FAILED: Duration = Duration::from_secs(60);
const RETRY_FAILED_SLOWEST: Duration = Duration::from_secs(15 * 60);
/// After one that was blocked by something that may go away by itself.
const RETRY_BLOCKED: Duration = Duration::from_secs(15);
const RETRY_BLOCKED_SLOWEST: Duration = Duration::from_secs(5 * 60);

fn why_of(failed: &[(String, bool)]) -> String {
    failed.iter().map(|(why, _)| why.as_str()).collect::<Vec<_>>().join("; ")
}

impl Machine {
    /// Writes down what has been reached, and the end of the rollout when nothing more comes of it.
    pub(super) fn conclude(&mut self, now: Now, step: &mut Step) {
        // What is wanted is not known: that is no reason to call it reached.
        if self.policy.unusable.is_some() {
            return;
        }
        let Some(targets) = self.memory.rollout.as_ref().map(|rollout| rollout.targets.clone()) else { return };
        let mut failed: Vec<(String, bool)> = Vec::new();
        let (mut working, mut first, mut reached) = (false, false, false);
        let (mut may_try, mut untried) = (false, false);
        let names: Vec<String> = self.works.keys().cloned().collect();
        for name in &names {
            let Some(want) = self.memory.targets.get(name).and_then(|target| target.unmet().cloned()) else { continue };
            match self.progress(name) {
                Progress::Reached => {
                    turn!(self, now, step).record(Entry::Reached { target: name.clone(), id: want.id, landed_at: want.landed_at });
                    reached = true;
                }
                Progress::Failed { why, blocked } => {
                    failed.push((why, blocked));
                    may_try |= self.is_over(name);
                    untried |= self.is_over(name) && !self.tried.contains(name);
                }
                // One that has lapsed meanwhile may have been taken up with the others.
                Progress::Idle if !targets.contains(name) => {}
                Progress::Working | Progress::Idle => {
                    working = true;
                    first |= !self.tried.contains(name);
                }
            }
        }
        // The host is not done while it is out of the pool by us.
        let out = self.memory.depooled.keys().any(|pool| self.pools.contains_key(pool)) && self.memory.unproven.is_empty();
        // Whoever waits for a rollout that failed is told when the host is back, or cannot be put back for now.
        let returning = |pool: &Pool| pool.goal() == Goal::In && pool.verdict() == Verdict::Pending && pool.trouble().is_none();
        let returning = self.pools.values().any(|pool| self.memory.depooled.contains_key(pool.name()) && returning(pool));
        let lent =
            !self.memory.lent.is_empty() || !self.memory.quiet.is_empty() || self.memory.owes_run() || self.debts.brings_back(&self.memory);
        let aborting = self.memory.hold.as_ref().is_some_and(|hold| hold.abort);
        if aborting && !out && self.all_paused() {
            let why = self.memory.hold.as_ref().map(|hold| hold.reason.clone());
            return turn!(self, now, step).record(Entry::RolloutFinished { result: RolloutResult::Aborted, why });
        }
        // Others of the rollout may be at work for a day: what has failed does not wait for them with its next try. When only such tries are left, the
        // rollout comes to its end.
        if (first && may_try) || (working && untried) {
            self.try_later(now, &failed);
        } else if reached && failed.is_empty() {
            self.retry = None;
        }
        if working
            || (out && failed.is_empty())
            || returning
            || (lent && self.journal_problem.is_none() && self.loans.trouble().is_none() && !self.debts.stuck())
        {
            return;
        }
        if failed.is_empty() {
            self.retry = None;
            return turn!(self, now, step).record(Entry::RolloutFinished { result: RolloutResult::Converged, why: None });
        }
        turn!(self, now, step).record(Entry::RolloutFinished { result: RolloutResult::Failed, why: Some(why_of(&failed)) });
        self.try_later(now, &failed);
    }

    /// A next try that is due already stays so.
    fn try_later(&mut self, now: Now, failed: &[(String, bool)]) {
        let blocked = failed.iter().all(|(_, blocked)| *blocked);
        if let Some(retry) = self.retry.as_mut().filter(|retry| retry.at != Mono::NEVER) {
            (retry.why, retry.blocked) = (why_of(failed), blocked);
            return;
        }
        let tries = self.retry.as_ref().map_or(0, |retry| retry.tries) + 1;
        let (first, slowest) = if blocked { (RETRY_BLOCKED, RETRY_BLOCKED_SLOWEST) } else { (RETRY_FAILED, RETRY_FAILED_SLOWEST) };
        let pause = (first * 2_u32.saturating_pow(tries.saturating_sub(1).min(10))).min(slowest);
        let why = why_of(failed);
        self.retry = Some(Retry { at: now.mono.after(pause), tries, why, blocked });
    }

    /// Another try beside what is at work, with the times of a new one.
    pub(in crate::core) fn renew_failed(&mut self, now: Now, step: &mut Step) {
        let has_failed = |name: &&str| matches!(self.progress(name), Progress::Failed { .. }) && self.is_over(name);
        let names: Vec<String> = self.unmet().map(|(name, _)| name).filter(has_failed).map(str::to_owned).collect();
        for name in &names {
            self.renew(now, step, name, now.mono);
        }
        self.tried.extend(names);
    }

    /// Nothing is under way of a target that has failed: those that are restarted in place share the way back into the pools.
    fn is_over(&self, name: &str) -> bool {
        self.inplace.idle() || !matches!(self.works.get(name), Some(Work::Fpm))
    }

    /// Nobody proves a php-fpm any more that has left the configuration: it does not keep this host out for ever.
    fn forget_unproven(&mut self, now: Now, step: &mut Step) {
        if self.unconfigured() {
            return;
        }
        let has =
            |target: &str, unit: &str| matches!(self.policy.targets.get(target), Some(TargetRules::PhpFpm(rules)) if rules.unit == unit);
        let nobodys = |(unit, target): &(&String, &String)| !has(target, unit) && !self.inplace.owns(unit);
        let gone: Vec<String> = self.memory.unproven.iter().filter(nobodys).map(|(unit, _)| unit.clone()).collect();
        for unit in gone {
            turn!(self, now, step).record(Entry::Proven { unit });
        }
    }

    fn all_paused(&self) -> bool {
        self.inplace.idle() && self.works.keys().all(|name| !matches!(self.progress(name), Progress::Working))
    }

    /// What we took out goes back as soon as nothing needs it out (traps T31, T6), unless php-fpm is not proven to serve; a person who
    /// aborts takes that on.
    pub(super) fn repool_unless_needed(&mut self, now: Now, step: &mut Step) {
        self.forget_unproven(now, step);
        let aborted = self.settling || self.memory.hold.as_ref().is_some_and(|hold| hold.abort);
        let keep_out = self.inplace.may_need_out() || (!self.memory.unproven.is_empty() && !aborted);
        if keep_out {
            return;
        }
        for pool in self.pools.values_mut() {
            let owed = self.memory.depooled.contains_key(pool.name());
            if owed && pool.goal() != Goal::In {
                pool.want(&mut turn!(self, now, step), Goal::In);
            } else if !owed && pool.goal() == Goal::Out {
                pool.leave();
            }
        }
    }
}
