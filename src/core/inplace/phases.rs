//! The phases of the bracket, and what leads from one into the next.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{InPlace, Phase};
use crate::core::fpm::{CHECKED_FOR, FRESH, Fpm, FpmStep};
use crate::core::loans::Loans;
use crate::core::pool::{Goal, Pool, Verdict};
use crate::core::status::{TargetState, UnitEnd};
use crate::core::step::Turn;
use crate::core::target::Progress;
use crate::core::time::Mono;

/// Rounds of "somebody put it back while we drained" before that is taken for a person's will (traps T30, T32).
const ROUNDS: u32 = 3;
/// Between two checks of the pools in a drain that is nearly over again and again.
const CHECK_EARLY_EVERY: Duration = Duration::from_secs(1);

impl InPlace {
    pub(super) fn advance_phase(&mut self, turn: &mut Turn<'_>, loans: &mut Loans, pools: &mut BTreeMap<String, Pool>) {
        let now = turn.now.mono;
        match self.phase {
            Phase::Idle => {
                if self.progress.values().any(|progress| *progress == Progress::Working) {
                    self.phase = Phase::Looking;
                    self.look(turn);
                }
            }
            Phase::Looking => self.look(turn),
            Phase::Preparing => self.prepared(turn, pools),
            Phase::LeavingPool => self.leaving(turn, pools, false),
            Phase::Draining => {
                let drained = self.drained(turn, loans);
                if !drained && !self.forced && self.nearly_drained(turn) {
                    // Asked while the last looks of the drain are on their way, and not more often than that.
                    check_pools(turn, pools, CHECK_EARLY_EVERY, None);
                }
                if drained {
                    self.recheck(turn, loans, pools);
                }
            }
            Phase::Rechecking => self.rechecked(turn, loans, pools),
            Phase::Renewing
                if !self.forced && !turn.policy.pools.is_empty() && self.live().any(|unit| unit.waits_before_its_count(now)) =>
            {
                // Its restart has been waiting since, for the journal, say: whether the host is out is asked anew (trap T30).
                self.units.values_mut().filter(|unit| unit.waits_before_its_count(now)).for_each(|unit| unit.begin_drain_again(now));
                self.recheck(turn, loans, pools);
            }
            // Sent back to its drain by its count, and drained again: by then somebody may have put the host back.
            Phase::Renewing if !self.forced && !turn.policy.pools.is_empty() && self.drained_after_its_check(now) => {
                self.recheck(turn, loans, pools);
            }
            Phase::Renewing => {
                self.renew_drained(turn, loans);
                // Written with the restart itself: each writing by itself costs a disk's latency.
                if !self.restart_told && self.units.values().any(Fpm::restarted_or_past) {
                    self.restart_told = true;
                    self.each_phase(turn, "drain", "restart");
                }
                if self.units.values().all(Fpm::at_rest) {
                    self.renewed(turn, now);
                }
            }
            Phase::Returning => {
                // As long as some php-fpm is not proven, here or held, the host stays out; and a newer deploy does not wait for a balancer.
                let back = turn.memory.depooled.is_empty() || !turn.memory.unproven.is_empty();
                if back || self.outdated() {
                    self.finish(turn, loans);
                }
            }
        }
    }

    fn prepared(&mut self, turn: &mut Turn<'_>, pools: &mut BTreeMap<String, Pool>) {
        if !self.units.values().all(|unit| unit.step == FpmStep::Prepared || unit.at_rest()) {
            return;
        }
        if self.live().next().is_none() {
            return self.leave();
        }
        if self.forced || turn.policy.pools.is_empty() {
            self.each_phase(turn, "preflight", "drain");
            return self.begin_drain(turn, Duration::ZERO, false);
        }
        self.each_phase(turn, "preflight", "depool");
        self.phase = Phase::LeavingPool;
        self.leaving(turn, pools, true);
    }

    fn leaving(&mut self, turn: &mut Turn<'_>, pools: &mut BTreeMap<String, Pool>, afresh: bool) {
        let verdicts = verdicts(turn, pools, Goal::Out, afresh);
        if let Some(why) = verdicts.iter().find_map(|verdict| if let Verdict::Failed(why) = verdict { Some(why.clone()) } else { None }) {
            return self.give_up(turn, &why);
        }
        if verdicts.iter().all(|verdict| matches!(verdict, Verdict::OutByUs | Verdict::OutByOther)) {
            self.each_phase(turn, "depool", "drain");
            let quiet = turn.policy.pools.values().map(|rules| rules.quiet).max().unwrap_or_default();
            let stayed_out = pools.values().filter(|pool| turn.policy.pools.contains_key(pool.name())).all(Pool::stayed_out);
            self.begin_drain(turn, quiet, stayed_out);
        }
    }

    /// `stayed_out`: the host was out already, by an earlier agent that had begun to drain.
    fn begin_drain(&mut self, turn: &mut Turn<'_>, quiet: Duration, stayed_out: bool) {
        let now = turn.now.mono;
        let pooled = !turn.policy.pools.is_empty();
        for unit in self.units.values_mut().filter(|unit| unit.step == FpmStep::Prepared) {
            let from = match (pooled, stayed_out) {
                (false, _) => self.wants.get(&unit.target).map_or(now, |(_, began)| *began),
                (true, true) => drained_since(turn, &unit.target),
                (true, false) => now,
            };
            let until = if self.forced { now } else { from.after(unit.rules.drain_timeout) };
            unit.drain(now, until, quiet, self.forced || !pooled);
        }
        self.phase = Phase::Draining;
        self.restart_told = false;
    }

    fn drained_after_its_check(&self, now: Mono) -> bool {
        // A pool that was not in the configuration then has not been asked at all.
        self.checked_from.is_none_or(|from| now >= from.after(CHECKED_FOR)) && self.live().any(|unit| unit.drained(now))
    }

    fn recheck(&mut self, turn: &mut Turn<'_>, loans: &mut Loans, pools: &mut BTreeMap<String, Pool>) {
        self.checked_from = None;
        self.phase = Phase::Rechecking;
        self.rechecked(turn, loans, pools);
    }

    /// Right before the restart: a host that somebody has put back meanwhile is taken out and drained again (trap T30).
    fn rechecked(&mut self, turn: &mut Turn<'_>, loans: &mut Loans, pools: &mut BTreeMap<String, Pool>) {
        if !self.forced {
            let from = *self.checked_from.get_or_insert(turn.now.mono);
            check_pools(turn, pools, FRESH, Some(from));
            let verdicts = verdicts(turn, pools, Goal::Know, false);
            if verdicts.contains(&Verdict::Pending) {
                return;
            }
            if let Some(why) = verdicts.iter().find_map(|verdict| if let Verdict::Failed(why) = verdict { Some(why.clone()) } else { None })
            {
                return self.give_up(turn, &why);
            }
            if verdicts.contains(&Verdict::Pooled) {
                self.rounds += 1;
                if self.rounds >= ROUNDS {
                    return self.give_up(
                        turn,
                        "somebody puts this host back into the pool whenever it is taken out: hold the agent or let it work",
                    );
                }
                for unit in self.units.values_mut().filter(|unit| matches!(unit.step, FpmStep::Draining { .. })) {
                    unit.step = FpmStep::Prepared;
                }
                self.each_phase(turn, "drain", "depool");
                self.phase = Phase::LeavingPool;
                return self.leaving(turn, pools, true);
            }
        }
        if !self.drained(turn, loans) {
            // Something has come in while the pools were asked.
            self.phase = Phase::Draining;
            return;
        }
        self.checked_from = self.checked_from.filter(|_| !turn.policy.pools.is_empty());
        self.phase = Phase::Renewing;
        self.renew_drained(turn, loans);
    }

    /// Whether all have drained, at this moment, and none would have to wait for what else its restart needs.
    pub(super) fn drained(&mut self, turn: &Turn<'_>, loans: &mut Loans) -> bool {
        let mut drained = true;
        for unit in self.units.values_mut().filter(|unit| !unit.at_rest()) {
            drained &= unit.may_renew(turn, loans);
            drained &= unit.drained(turn.now.mono);
        }
        drained
    }

    /// Some are about to have drained, and the others have.
    fn nearly_drained(&self, turn: &Turn<'_>) -> bool {
        let now = turn.now.mono;
        self.live().all(|unit| unit.drained(now) || unit.nearly_drained(now))
    }

    fn renew_drained(&mut self, turn: &mut Turn<'_>, loans: &mut Loans) {
        for unit in self.units.values_mut() {
            if unit.drained(turn.now.mono) && unit.may_renew(turn, loans) {
                unit.renew(turn.now.mono);
                unit.advance(turn, loans);
            }
        }
    }

    fn renewed(&mut self, turn: &mut Turn<'_>, now: Mono) {
        self.each_phase(turn, "restart", "repool");
        self.next = now;
        self.leave();
    }

    fn give_up(&mut self, turn: &mut Turn<'_>, why: &str) {
        // What is being restarted already comes to its end.
        for unit in self.units.values_mut().filter(|unit| !unit.at_rest() && unit.is_untouched()) {
            turn.unit_ended(&unit.target, &unit.unit, UnitEnd::Failed, why);
            unit.step = FpmStep::Refused(why.to_owned());
            self.progress.insert(unit.target.clone(), Progress::Failed { why: why.to_owned(), blocked: true });
            self.notes.insert(unit.target.clone(), (TargetState::Stale, format!("not restarted, the old code keeps serving: {why}")));
        }
        if self.live().next().is_some() {
            self.phase = Phase::Renewing;
        } else {
            self.leave();
        }
    }

    fn leave(&mut self) {
        self.phase = Phase::Returning;
    }

    /// All is back where it was. What was wanted of each target is reached, or not; a newer want is looked at afresh.
    fn finish(&mut self, turn: &mut Turn<'_>, loans: &mut Loans) {
        self.each_phase(turn, "repool", "");
        for unit in std::mem::take(&mut self.units).into_values() {
            loans.release(&unit.unit);
            if !self.wants.contains_key(&unit.target) {
                // Given up, or no longer in the configuration.
                continue;
            }
            let progress = match &unit.step {
                FpmStep::Done | FpmStep::Stopped => {
                    self.notes.insert(unit.target.clone(), (TargetState::Fresh, unit.came_back().to_owned()));
                    // One more look decides, and sees a deploy that landed meanwhile.
                    continue;
                }
                FpmStep::Refused(why) | FpmStep::Broken(why) => {
                    if self.wants.get(&unit.target).is_some_and(|(want, _)| !want.is(&unit.want)) {
                        self.progress.insert(unit.target.clone(), Progress::Working);
                        continue;
                    }
                    let blocked = matches!(self.progress.get(&unit.target), Some(Progress::Failed { blocked: true, .. }));
                    self.notes.entry(unit.target.clone()).or_insert((TargetState::Failed, why.clone()));
                    if !blocked {
                        self.notes.insert(unit.target.clone(), (TargetState::Failed, why.clone()));
                    }
                    Progress::Failed { why: format!("{}: {why}", unit.unit), blocked }
                }
                _ => Progress::Working,
            };
            self.progress.insert(unit.target.clone(), progress);
        }
        self.phase = Phase::Idle;
        self.next = turn.now.mono;
    }

    fn each_phase(&mut self, turn: &mut Turn<'_>, ended: &str, began: &str) {
        for unit in self.units.values() {
            turn.phase_ended(&unit.target, ended);
            if !began.is_empty() && !matches!(unit.step, FpmStep::Refused(_) | FpmStep::Stopped) {
                turn.phase_began(&unit.target, began);
            }
        }
    }

    /// Something newer is wanted than what this bracket was for.
    fn outdated(&self) -> bool {
        let newer = |unit: &Fpm| self.wants.get(&unit.target).is_some_and(|(want, _)| !want.is(&unit.want));
        self.units.values().any(newer)
    }

    fn live(&self) -> impl Iterator<Item = &Fpm> {
        self.units.values().filter(|unit| !unit.at_rest())
    }
}

/// When the drain of this target began of which nothing has been lost since: the threshold does not start again with the agent.
fn drained_since(turn: &Turn<'_>, target: &str) -> Mono {
    let now = turn.now;
    let out = turn.policy.pools.keys().filter_map(|pool| turn.memory.depooled.get(pool)).map(|debt| debt.at).max();
    let phases = turn.memory.rollout.iter().flat_map(|rollout| &rollout.view.phases);
    let drains = phases.filter(|phase| phase.target == target && phase.phase == "drain" && Some(phase.started_at) >= out);
    drains.map(|phase| now.mono_of(phase.started_at)).min().map_or(now.mono, |at| at.min(now.mono))
}

/// Are the pools still as they were? What they have said within the last `fresh` stands, and what they were asked since `from`: of several slow ones
/// there would never be fresh words of all at once.
fn check_pools(turn: &mut Turn<'_>, pools: &mut BTreeMap<String, Pool>, fresh: Duration, from: Option<Mono>) {
    let (policy, now) = (turn.policy, turn.now.mono);
    for pool in pools.values_mut().filter(|pool| policy.pools.contains_key(pool.name())) {
        let stands = pool.checked_within(now, fresh) || from.is_some_and(|from| pool.checked_from(from));
        if pool.goal() != Goal::Know || !stands {
            pool.want(turn, Goal::Know);
        }
    }
}

/// What the pools of the configuration say to a goal. One that came with a new configuration meanwhile is asked like the others; one
/// that is no longer in it gets its host back, and is no concern of a restart any more.
fn verdicts(turn: &mut Turn<'_>, pools: &mut BTreeMap<String, Pool>, goal: Goal, afresh: bool) -> Vec<Verdict> {
    let policy = turn.policy;
    let mut verdicts = Vec::new();
    for pool in pools.values_mut().filter(|pool| policy.pools.contains_key(pool.name())) {
        if afresh || pool.goal() != goal {
            pool.want(turn, goal);
        }
        verdicts.push(pool.verdict());
    }
    verdicts
}
