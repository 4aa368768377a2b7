//! How the memory changes: one line of the journal after the other.

use std::collections::BTreeSet;

use super::{
    Begun, Cutting, Depooled, Fresh, Hold, Interrupted, Lingering, Memory, OwedRun, Reached, Rollout, Settles, StampMemory, StrayCut,
    TargetMemory, Unask, Want,
};
use crate::core::deploy::Deploy;
use crate::core::effect::{Effect, EffectId, Fault, JobEnd, Outcome};
use crate::core::entry::{Entry, Written};
use crate::core::status::{Casualty, RolloutResult, RolloutView};
use crate::core::time::Wall;

/// How many ids of deploys are remembered, for `wait --deploy`.
const KNOWN_KEPT: usize = 50;

impl Memory {
    /// Adds one line of the journal.
    pub fn apply(&mut self, written: &Written) {
        let at = written.at;
        self.count(written);
        match &written.entry {
            Entry::Started { boot, .. } => {
                self.boot_is(boot);
                // What was under way then will have no outcome; whatever it may have done is remembered by itself.
                std::mem::take(&mut self.open).values().for_each(|open| self.may_have_led(open));
                self.may_have_reloaded(&[]);
                self.forget_what_was_not_begun();
            }
            Entry::Clock { booted_at } => self.clock_is(*booted_at),
            Entry::Watching { path } => {
                self.watching = Some(path.clone());
                self.stamp = None;
                self.begun = None;
            }
            Entry::Stamp { path, identity, deploy, adopted } => {
                self.known.retain(|id| *id != deploy.id);
                self.known.push(deploy.id.clone());
                if self.known.len() > KNOWN_KEPT {
                    self.known.remove(0);
                }
                let stamp = StampMemory { path: path.clone(), identity: identity.clone(), deploy: deploy.clone() };
                (self.stamp, self.jumped) = (Some(stamp), 0);
                if *adopted {
                    self.reached = Some(Reached { id: deploy.id.clone(), at });
                }
            }
            Entry::LeftBehind { unit } => {
                self.lent.insert(unit.clone());
                self.quiet.insert(unit.clone(), false);
            }
            Entry::DeployBegan { identity, id, since, until } => {
                let (identity, id) = (identity.clone(), id.clone());
                self.begun = Some(Begun { identity, id, since: *since, until: *until, over: None });
            }
            Entry::BeginOver { why } => {
                if let Some(begun) = &mut self.begun {
                    begun.over = Some(why.clone());
                }
            }
            Entry::Adopted { target, id } => {
                self.targets.insert(target.clone(), TargetMemory { adopted_at: at, adopted_id: id.clone(), ..TargetMemory::default() });
            }
            Entry::Dropped { target } => {
                self.targets.remove(target);
                self.unproven.retain(|_, of| of != target);
            }
            Entry::RolloutStarted { id, deploy, targets, by, over_hold } => {
                self.rollout_started(at, id, deploy, targets, by.as_ref());
                self.rollout.iter_mut().for_each(|rollout| rollout.over_hold = *over_hold);
            }
            Entry::Lapsed { target, .. } => {
                if let Some(target) = self.targets.get_mut(target) {
                    target.reached = None;
                    // An emergency was over when that was reached.
                    target.want.iter_mut().for_each(|want| want.forced = false);
                }
            }
            Entry::Reached { target, .. } => {
                if let Some(target) = self.targets.get_mut(target) {
                    target.reached.clone_from(&target.want);
                }
            }
            Entry::Fresh { target, unit, invocation, landed } => {
                if let Some(target) = self.targets.get_mut(target) {
                    target.fresh.insert(unit.clone(), Fresh { invocation: invocation.clone(), landed: *landed });
                }
            }
            Entry::Unproven { target, unit } => {
                self.unproven.insert(unit.clone(), target.clone());
            }
            Entry::Proven { unit } => {
                self.unproven.remove(unit);
            }
            Entry::GenerationStarts { target, unit, landed } => {
                self.next_generation += 1;
                if let Some(target) = self.targets.get_mut(target) {
                    target.starting = Some((unit.clone(), *landed));
                    target.started.insert(unit.clone());
                }
            }
            Entry::Switched { target, unit } => {
                if let Some(target) = self.targets.get_mut(target) {
                    target.starting.take_if(|(starting, _)| starting == unit);
                    target.lingering.remove(unit);
                    target.current = Some(unit.clone());
                    target.served.insert(unit.clone());
                }
            }
            Entry::ProvenBad { target, unit } => {
                self.targets.entry(target.clone()).and_modify(|target| {
                    target.bad.insert(unit.clone());
                });
            }
            Entry::Lingers { target, unit, rollout } => {
                if let Some(target) = self.targets.get_mut(target) {
                    target.starting.take_if(|(starting, _)| starting == unit);
                    target.lingering.entry(unit.clone()).or_insert(Lingering { since: at, rollout: rollout.clone() });
                }
            }
            Entry::GenerationOver { target, unit } => {
                if let Some(target) = self.targets.get_mut(target) {
                    target.starting.take_if(|(starting, _)| starting == unit);
                    target.lingering.remove(unit);
                    target.fresh.remove(unit);
                    target.started.remove(unit);
                    target.served.remove(unit);
                    target.led.remove(unit);
                    target.bad.remove(unit);
                }
                self.restarts.remove(unit);
                self.is_not_down(unit);
            }
            Entry::Cutting { unit, invocation, asked, grace, casualties } => {
                let (invocation, casualties) = (invocation.clone(), casualties.clone());
                self.cutting.insert(
                    unit.clone(),
                    Cutting { invocation, asked: *asked, grace: *grace, casualties, begun: false, answered: false, in_vain: false },
                );
            }
            Entry::CutSettled { unit, .. } => {
                self.cutting.remove(unit);
            }
            Entry::PhaseBegan { .. } | Entry::PhaseEnded { .. } => self.note(None, written),
            Entry::UnitEnded(ended) => self.unit_ended(ended, written),
            // It may come to light after its rollout.
            Entry::Casualty(casualty) => self.note(casualty.rollout.as_deref(), written),
            Entry::InFlight { rollout, .. } => self.note(rollout.as_deref(), written),
            Entry::RolloutFinished { result, .. } => {
                if let Some(mut rollout) = self.rollout.take() {
                    rollout.view.note(written);
                    // History has them.
                    rollout.view.flights.clear();
                    self.last_rollout = Some(rollout.view);
                }
                if *result == RolloutResult::Converged {
                    let id = self.last_rollout.as_ref().map(|view| view.deploy.clone()).unwrap_or_default();
                    self.reached = Some(Reached { id, at });
                }
            }
            Entry::Intent { id, effect } => self.intended(at, *id, effect),
            Entry::Outcome { id, outcome } => self.came_of(*id, outcome),
            Entry::StrayCutting { process, asked, grace, casualty } => {
                let (process, casualty) = (process.clone(), Casualty::clone(casualty));
                self.strays.retain(|cut| cut.process != process);
                let (asked, grace) = (*asked, *grace);
                let (begun, perhaps_sent, answered, missed, killed) = (false, false, false, false, false);
                self.strays.push(StrayCut { process, asked, grace, casualty, begun, perhaps_sent, answered, missed, killed });
            }
            Entry::StraySettled { process, .. } => self.strays.retain(|cut| cut.process != *process),
            Entry::Interrupted { unit, at } => {
                let row = self.interrupted.entry(unit.clone()).or_default();
                *row = Interrupted { times: row.times.saturating_add(1), last: *at };
                if let Some(interrupted) = self.quiet.get_mut(unit) {
                    *interrupted = true;
                }
            }
            Entry::DidNotComeUp { unit, invocation } => {
                self.failed_runs.insert(unit.clone(), invocation.clone());
            }
            Entry::FoundUp { unit } => self.is_not_down(unit),
            Entry::RanThrough { unit } => {
                self.interrupted.remove(unit);
            }
            Entry::RerunOwed { unit, target, scheduled, lent, quiet, after } => {
                let (target, after) = (target.clone(), after.clone());
                let before = self.reruns.get(unit).filter(|owed| owed.after == after);
                let lending = self.open.values().any(|open| matches!(open, Effect::Lend { drop_ins } if drop_ins.contains_key(unit)));
                let reloaded = before.map_or(self.lent.contains(unit) && !lending, |owed| owed.reloaded);
                let (scheduled, lent, quiet) = (*scheduled, *lent, *quiet);
                self.reruns.insert(unit.clone(), OwedRun { target, scheduled, lent, quiet, reloaded, after, settles: None });
            }
            Entry::RerunSettles { unit, until, after } => {
                if let Some(owed) = self.reruns.get_mut(unit) {
                    if owed.after.is_empty() {
                        owed.after.clone_from(after);
                    }
                    owed.settles = Some(Settles { until: *until, after: owed.after.clone() });
                }
            }
            Entry::TakesDown { unit, dependents } => {
                let down = self.taken_down.entry(unit.clone()).or_default();
                down.extend(dependents.iter().filter(|new| !down.iter().any(|old| old.unit == new.unit)).cloned().collect::<Vec<_>>());
            }
            Entry::BroughtBack { unit, dependent, .. } => {
                if let Some(down) = self.taken_down.get_mut(unit) {
                    down.retain(|down| down.unit != *dependent);
                    if down.is_empty() {
                        self.taken_down.remove(unit);
                    }
                }
            }
            Entry::AskOver { unit } => self.unasks.get_mut(unit).into_iter().for_each(|unask| unask.over = true),
            Entry::RerunSettled { unit, .. } => {
                self.reruns.remove(unit);
            }
            Entry::PoolSettled { pool, .. } => {
                self.depooled.remove(pool);
            }
            Entry::HoldSet { reason, by, until, targets, abort } => {
                self.rollout.iter_mut().for_each(|rollout| rollout.over_hold = false);
                self.hold = Some(Hold { reason: reason.clone(), by: by.clone(), until: *until, targets: targets.clone(), abort: *abort });
            }
            Entry::HoldEnded { .. } => self.hold = None,
            Entry::OpcacheCrossed { target, .. } | Entry::OpcacheSized { target, .. } => {
                self.targets.entry(target.clone()).and_modify(|target| target.opcache.apply(written));
            }
            Entry::Ordered { .. } => {}
        }
    }

    /// Adds it to the rollout with this id, running or last; without an id to the newer of the two.
    pub(super) fn note(&mut self, id: Option<&str>, written: &Written) {
        let views = self.rollout.as_mut().map(|rollout| &mut rollout.view).into_iter().chain(&mut self.last_rollout);
        if let Some(view) = views.into_iter().find(|view| id.is_none_or(|id| view.id == id))
            && (view.finished_at.is_none() || !written.entry.may_wait())
        {
            view.note(written);
        }
    }

    fn rollout_started(&mut self, at: Wall, id: &str, deploy: &Deploy, targets: &BTreeSet<String>, by: Option<&String>) {
        self.next_rollout += 1;
        for (name, target) in &mut self.targets {
            if targets.contains(name) && deploy.targets.contains(name) {
                let old = target.want.take();
                // An emergency that is not over stays one; it is for what has been renewed for a trigger that came after it.
                let unmet = |old: &Want| target.reached.as_ref().is_none_or(|reached| reached.landed < old.landed);
                let goes_on = old.as_ref().filter(|old| old.forced && unmet(old));
                let anew = deploy.forced.contains(name);
                let want = Want::of(deploy, old.as_ref(), anew || goes_on.is_some());
                let emergency = if anew { Some(want.landed) } else { goes_on.and_then(|old| old.emergency) };
                target.want = Some(Want { emergency, ..want });
            }
        }
        let view = RolloutView::begun(id, deploy, at, by);
        self.last_deploy = Some(deploy.clone());
        self.rollout = Some(Rollout { view, deploy: deploy.clone(), targets: targets.clone(), over_hold: false });
    }

    /// From the intent on, the act may have happened.
    fn intended(&mut self, at: Wall, id: EffectId, effect: &Effect) {
        self.next_effect = self.next_effect.max(id.0 + 1);
        self.open.insert(id.0, effect.clone());
        match effect {
            Effect::Depool { pool, repool, check, timeout, .. } => {
                let (repool, check) = (repool.clone(), check.clone());
                let debt = Depooled { at, repool, check, timeout: *timeout, returning: false };
                let debt = self.depooled.entry(pool.clone()).or_insert(debt);
                debt.returning = false;
                debt.at = at;
            }
            Effect::Repool { pool, .. } => {
                if let Some(debt) = self.depooled.get_mut(pool) {
                    debt.returning = true;
                }
            }
            Effect::Lend { drop_ins } => {
                for unit in drop_ins.keys() {
                    self.lent.insert(unit.clone());
                    self.lent_at.entry(unit.clone()).or_insert(at);
                }
            }
            Effect::Freeze { workers } => {
                self.frozen.retain(|worker| !workers.contains(worker));
                self.frozen.extend(workers.iter().cloned());
            }
            Effect::AskToStop { unit, unask, .. } => {
                self.asked.insert(unit.clone());
                if !unask.is_empty() {
                    self.unasks.insert(unit.clone(), Unask { argv: unask.clone(), over: false });
                }
            }
            Effect::KeepQuiet { unit } => {
                self.quiet.insert(unit.clone(), false);
            }
            Effect::HoldStarts { .. } => self.starts_held = true,
            Effect::Stop { unit, .. } | Effect::End { unit, .. } => self.cut_begun(unit),
            Effect::Signal { process, kill } => {
                for cut in self.strays.iter_mut().filter(|cut| cut.process == *process) {
                    cut.perhaps_sent |= cut.begun && !cut.answered && !cut.missed;
                    cut.begun = true;
                    cut.killed |= kill;
                }
            }
            Effect::Notify { process, landed, .. } => {
                self.told.retain(|(_, of)| of == landed);
                self.told.push((process.clone(), *landed));
            }
            Effect::Restart { unit, .. } => {
                self.cut_begun(unit);
                self.restart_begun(at, unit);
            }
            Effect::Start { unit } if self.reruns.contains_key(unit) => self.start_begun(unit),
            _ => {}
        }
    }

    fn cut_begun(&mut self, unit: &str) {
        if let Some(cutting) = self.cutting.get_mut(unit) {
            cutting.begun = true;
        }
    }

    fn came_of(&mut self, id: EffectId, outcome: &Outcome) {
        let Some(effect) = self.open.remove(&id.0) else { return };
        match (&effect, outcome) {
            (Effect::Lend { .. }, Outcome::Done | Outcome::Fault(Fault::Unreachable(_))) => self.may_have_reloaded(&[]),
            (Effect::Unlend { units }, Outcome::Done | Outcome::Fault(Fault::Unreachable(_))) => self.may_have_reloaded(units),
            _ => {}
        }
        match (effect, outcome) {
            (Effect::Depool { pool, .. }, Outcome::Fault(Fault::Journal(_))) => {
                // Not begun: there is nothing to put back. Any other fault may have come after the act.
                self.depooled.remove(&pool);
            }
            (Effect::Stop { unit, .. }, Outcome::Job(end)) => {
                if let Some(cutting) = self.cutting.get_mut(&unit) {
                    cutting.answered = true;
                    cutting.in_vain = *end == JobEnd::Finished;
                }
            }
            (Effect::Signal { process, kill }, Outcome::Signalled(there)) => {
                for cut in self.strays.iter_mut().filter(|cut| cut.process == process) {
                    cut.answered |= there;
                    cut.missed |= !there && !kill && !cut.answered && !cut.perhaps_sent;
                }
            }
            (Effect::Unask { unit, .. }, Outcome::Done) => {
                self.asked.remove(&unit);
                self.unasks.remove(&unit);
            }
            (effect @ Effect::Switch { .. }, Outcome::Done) => self.may_have_led(&effect),
            (Effect::ReleaseStarts, Outcome::Done) => self.starts_held = false,
            (Effect::LetRun { unit }, Outcome::Done) => {
                self.quiet.remove(&unit);
            }
            (Effect::Unlend { units }, Outcome::Done) => {
                for unit in units {
                    self.lent.remove(&unit);
                    self.lent_at.remove(&unit);
                }
            }
            (Effect::Freeze { workers }, Outcome::Frozen(there)) => {
                self.frozen.retain(|worker| !workers.contains(worker) || there.contains(worker));
            }
            (Effect::Retire { workers, spare }, Outcome::Done) => {
                self.frozen.retain(|worker| !workers.contains(worker) && !spare.contains(worker));
            }
            (Effect::Thaw { workers }, Outcome::Done) => self.frozen.retain(|worker| !workers.contains(worker)),
            (Effect::Restart { unit, cut: workers, .. } | Effect::End { unit, cut: workers, .. }, Outcome::Job(end)) => {
                self.frozen.retain(|worker| !workers.contains(worker));
                self.restart_ended(&unit, end);
            }
            _ => {}
        }
    }
}
