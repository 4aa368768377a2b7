//! When and what is looked at, and what a look says of each service.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Services;
use super::unit::{Service, Step, untouchable};
use crate::core::effect::Looked;
use crate::core::policy::ServiceRules;
use crate::core::seen::{Active, UnitSeen};
use crate::core::stale::{self, RENEWED_ITSELF, Stale, carries};
use crate::core::status::UnitEnd;
use crate::core::step::Turn;
use crate::core::target::{Pursuit, is_of};
use crate::core::time::Mono;

const DRAIN_LOOK: Duration = Duration::from_secs(5);
/// While one was asked to stop, or holds its lock, which nobody announces.
const ASKED_LOOK: Duration = Duration::from_secs(1);
/// While nothing is to be done but some are left: they may end, or somebody may restart them.
const LEFT_LOOK: Duration = Duration::from_secs(30);
const RESTART_LOOK: Duration = Duration::from_secs(1);
/// Restarts that end together are looked at together.
pub(super) const BATCH: Duration = Duration::from_millis(10);
const UP: &str = "it has come up";
const WAS_BARRED: &str = "it could not be restarted when its turn came, and can be now: the next deploy, or a trigger, restarts it";

impl Services {
    pub(super) fn seen(&mut self, turn: &mut Turn<'_>, rules: &ServiceRules, units: &[UnitSeen]) {
        let Some(want) = self.pursuit.want().cloned() else { return };
        let memory = turn.memory.targets.get(&self.name).cloned().unwrap_or_default();
        let mut present = BTreeSet::new();
        let began = self.pursuit.look.began().unwrap_or(turn.now.mono);
        let drain_until = self.pursuit.drain_until(began, rules.drain_timeout);
        // New rules begin nothing: what they make stale is so for the next deploy.
        let works = self.pursuit.works();
        for seen in units {
            let known = self.units.contains_key(&seen.unit);
            if !known && !is_of(&rules.units, &rules.exclude, &seen.unit) {
                continue;
            }
            present.insert(seen.unit.clone());
            let stale = stale::stale(seen, &rules.code, &want, &memory);
            let between = !rules.code.is_empty() && !seen.processes.iter().any(|process| carries(&rules.code, process));
            // An earlier agent has asked it, and it may be about to say that it has heeded that.
            let heeds = between && turn.memory.asked.contains(&seen.unit);
            match self.units.get_mut(&seen.unit) {
                Some(unit) => {
                    unit.between = between;
                    let renewed = |unit: &Service| matches!(unit.step, Step::Done(UnitEnd::Renewed, _));
                    let before = renewed(unit);
                    unit.look(turn, &self.name, seen, stale, &self.pursuit, drain_until);
                    // Restarted for an earlier deploy: a newer one may have landed before it was up.
                    if renewed(unit) && !before {
                        let memory = turn.memory.targets.get(&self.name).cloned().unwrap_or_default();
                        let stale = stale::stale(seen, &rules.code, &want, &memory);
                        if !stale.is_empty() {
                            unit.begin_again(turn, seen, stale, drain_until);
                        }
                    }
                }
                None if works && ((!stale.is_empty() && seen.active.runs()) || heeds) => {
                    self.units.insert(seen.unit.clone(), Service { between, ..Service::new(turn, (seen, began), stale, drain_until) });
                }
                // Somebody has seen to it since.
                None if seen.active == Active::Active && turn.memory.maybe_down.contains(&seen.unit) => {
                    turn.unit_ended(&self.name, &seen.unit, UnitEnd::Renewed, UP);
                }
                // The restart of an earlier agent is at it still, and may fail.
                None if seen.active == Active::Activating && turn.memory.maybe_down.contains(&seen.unit) => {
                    self.units.insert(seen.unit.clone(), Service::down(turn, &seen.unit));
                }
                None => {}
            }
        }
        if self.pursuit.look.exact() {
            return;
        }
        // What we have restarted is not found among what runs if it did not come up, and is ours to bring up.
        let down = turn.memory.maybe_down.iter().filter(|name| !present.contains(*name) && is_of(&rules.units, &rules.exclude, name));
        let down: Vec<String> = down.cloned().collect();
        for name in down {
            self.units.entry(name.clone()).or_insert_with(|| Service::down(turn, &name));
        }
        for (name, unit) in &mut self.units {
            if present.contains(name) {
                continue;
            }
            if unit.may_heed(turn.memory) {
                unit.enter(turn.now.mono, Step::Ready);
            } else if matches!(unit.step, Step::Draining { .. } | Step::Due | Step::Left(_)) {
                unit.ended(turn, &self.name, name);
            }
        }
    }

    pub(super) fn look_when_due(&mut self, turn: &mut Turn<'_>, rules: &ServiceRules) {
        let now = turn.now.mono;
        self.pursuit.look.read_names(!rules.code.is_empty());
        let restarting = self.units.values().any(|unit| matches!(unit.step, Step::Restarting | Step::Verifying));
        let cooperating = self.units.values().any(Service::cooperating);
        let waits = cooperating || self.units.values().any(Service::is_ended_by_others);
        if restarting || waits {
            self.pursuit.look.want(now.after(if restarting { RESTART_LOOK } else { ASKED_LOOK }));
        } else if self.units.values().any(|unit| !unit.at_rest()) {
            self.pursuit.look.want(now.after(DRAIN_LOOK));
        } else if self.units.values().any(|unit| matches!(unit.step, Step::Left(_))) {
            self.pursuit.look.want(now.after(LEFT_LOOK));
        }
        let unseen = |unit: &Service| match unit.step {
            Step::Ready => unit.seen_at < unit.since,
            Step::Pausing { .. } | Step::Due | Step::TakingBack(_) if unit.waits_for_a_look() => true,
            Step::Draining { until } | Step::Pausing { until } | Step::Asked { until } | Step::Holding { until } => {
                now >= until && unit.seen_at < until
            }
            Step::Restarting | Step::Due => unit.grace_over(rules).is_some_and(|until| now >= until && unit.seen_at < until),
            _ => false,
        };
        if self.units.values().any(unseen) {
            self.pursuit.look.want(now);
        }
        let overdue = |unit: &Service| matches!(unit.step, Step::Restarting) && now >= unit.since.after(RESTART_LOOK);
        let by_name = |unit: &Service| {
            matches!(unit.step, Step::Verifying)
                || unit.cooperating()
                || unit.is_ended_by_others()
                || overdue(unit)
                || (matches!(unit.step, Step::Pausing { .. } | Step::Due | Step::TakingBack(_)) && unseen(unit))
        };
        // With them whoever else waits for a look.
        let any = self.units.values().any(by_name);
        let named = self.units.iter().filter(|(_, unit)| any && (by_name(unit) || unseen(unit)));
        let cgroups: BTreeMap<String, String> = named.map(|(name, unit)| (name.clone(), unit.seen.cgroup.clone())).collect();
        // The first look is at all of them: what nobody has taken up by then others take for theirs to pay back.
        let all = self.pursuit.gathering();
        if !cgroups.is_empty() && !all {
            let units: Vec<String> = cgroups.keys().cloned().collect();
            // How one ended that was asked, and who holds a lock, is more than a restart needs to know.
            let looked = if cooperating { Looked::Exactly } else { Looked::Bare };
            self.pursuit.look.ask(turn, &units, looked, BTreeMap::new());
        } else if restarting && !all {
            // Nothing is late yet.
            self.pursuit.look.put_off(now);
        } else {
            let looked = if rules.cooperates() { Looked::WithTimers } else { Looked::Running };
            self.pursuit.look.ask(turn, &rules.units, looked, BTreeMap::new());
        }
    }
}

impl Service {
    pub(super) fn look(&mut self, turn: &mut Turn<'_>, target: &str, seen: &UnitSeen, stale: Stale, pursuit: &Pursuit, drain_until: Mono) {
        let look = &pursuit.look;
        self.seen_at = look.began().unwrap_or(self.seen_at);
        self.note_end(turn, seen);
        self.ladder.iter_mut().for_each(|ladder| ladder.begins(seen));
        if stale.is_empty() && self.may_heed(turn.memory) {
            self.enter(turn.now.mono, Step::Ready);
        }
        match &self.step {
            // Also if it has left something behind: that is a stray by now, and whoever has stopped it does not want it started for that.
            Step::Draining { .. } | Step::Due | Step::Left(_) if !seen.active.runs() => {
                self.seen.update(seen);
                self.ended(turn, target, &seen.unit);
            }
            // What is at its end renews itself no more, whatever of it is left: the next look tells how it has ended.
            Step::Draining { .. } | Step::Due | Step::Left(_)
                if stale.is_empty()
                    && seen.active != Active::Deactivating
                    && !(self.step == Step::Due && self.heeds_perhaps(turn.memory)) =>
            {
                let (end, why) = match seen.invocation == self.before {
                    true => (UnitEnd::Finished, RENEWED_ITSELF),
                    false => (UnitEnd::Renewed, "somebody else has restarted it"),
                };
                self.done(turn, target, &seen.unit, end, why);
            }
            // Another run, which only a newer deploy has made stale: its own drain counts.
            Step::Draining { .. } | Step::Due if seen.active.runs() && seen.invocation != self.before => {
                self.begin_again(turn, seen, stale, drain_until);
            }
            // Also while its request and its loan are taken back, which may last: somebody else may restart or stop it meanwhile.
            _ if self.cooperating() => self.look_before_its_restart(turn, seen, stale),
            // One that might have been down, and was not: nobody has restarted it for this deploy.
            Step::Verifying if look.seen_since(self.since) && self.before.is_empty() && !stale.is_empty() && self.came_up(seen) => {
                self.begin_again(turn, seen, stale, drain_until);
            }
            Step::Verifying if look.seen_since(self.since) => self.verify(turn, target, seen, stale),
            // Its end was missed, since the bus went away.
            Step::Restarting if self.pending.is_none() && !self.under_way(seen) => self.verify(turn, target, seen, stale),
            Step::Pausing { .. } if self.came_up(seen) || self.was_stopped_by_others(turn.memory, seen) => {
                self.verify(turn, target, seen, stale)
            }
            Step::Done(UnitEnd::Failed, _) if stale.is_empty() && seen.active == Active::Active => {
                self.seen = seen.clone();
                self.done(turn, target, &seen.unit, UnitEnd::Renewed, UP);
            }
            // What stood in its way is gone: it is left until the next deploy all the same.
            Step::Left(why) if untouchable(&self.seen) == Some(why.as_str()) && untouchable(seen).is_none() => {
                (self.stale, self.step) = (stale, Step::Left(WAS_BARRED.to_owned()));
                self.seen.update(seen);
            }
            // Restarted for an earlier deploy, while this one landed.
            Step::Done(end, _)
                if pursuit.works() && !stale.is_empty() && seen.active.runs() && *end != UnitEnd::Failed && self.seen_at >= self.since =>
            {
                self.begin_again(turn, seen, stale, drain_until);
            }
            _ => {
                self.stale = stale;
                self.seen.update(seen);
            }
        }
    }

    /// What a look at a restart shows of it is less than the next rung needs to know: whether it holds its lock.
    fn begin_again(&mut self, turn: &mut Turn<'_>, seen: &UnitSeen, stale: Stale, drain_until: Mono) {
        *self = Service::new(turn, (seen, self.seen_at), stale, drain_until);
    }
}
