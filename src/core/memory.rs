//! [`Memory`]: what the journal adds up to, the durable half of the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::deploy::{Deploy, StampIdentity};
use super::effect::{Effect, EffectId, Fault, Outcome, WorkerRef};
use super::entry::{Entry, Written};
use super::status::{Casualty, CasualtyKind, RolloutResult, RolloutView};
use super::time::{Mono, Wall};

/// The durable half of the machine. It changes only by [`Memory::apply`], so the fold of the journal is it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    pub boot: String,
    /// Acts that were begun and whose outcome is not written.
    pub open: BTreeMap<u64, Effect>,
    pub next_effect: u64,
    pub next_rollout: u64,
    /// The path of the stamp.
    pub watching: Option<String>,
    /// Ids of the newest deploys, newest last.
    pub known: Vec<String>,
    /// The last state of the stamp that was taken note of.
    pub stamp: Option<StampMemory>,
    pub targets: BTreeMap<String, TargetMemory>,
    pub rollout: Option<Rollout>,
    pub last_rollout: Option<RolloutView>,
    /// What the last rollout was for: tried again if it did not get there.
    pub last_deploy: Option<Deploy>,
    /// The newest deploy for which the whole host converged.
    pub reached: Option<Reached>,
    /// What we took out of the pool, by pool.
    pub depooled: BTreeMap<String, Depooled>,
    /// Units that may have our drop-in.
    pub lent: BTreeSet<String>,
    /// Timers that we may have stopped, and whether they are persistent.
    pub timers: BTreeMap<String, bool>,
    /// Scripts that we may have stopped and that are to run again, with their target.
    pub reruns: BTreeMap<String, String>,
    /// Scripts that may be asked to stop, by a file of ours.
    pub asked: BTreeSet<String>,
    /// How often in a row each script was interrupted by us.
    pub interrupted: BTreeMap<String, u32>,
    /// Workers that may be stopped by our SIGSTOP.
    pub frozen: Vec<WorkerRef>,
    /// php-fpm units that we restarted and that have not been proven to serve since, with their target.
    pub unproven: BTreeMap<String, String>,
    /// By unit: what is cut if its restart took place, and the invocation that it had before.
    pub cutting: BTreeMap<String, Cutting>,
    pub hold: Option<Hold>,
    /// When each unit was last restarted by us, newest last, at most eight each: for the rate limit.
    pub restarts: BTreeMap<String, Vec<Wall>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StampMemory {
    pub path: String,
    pub identity: StampIdentity,
    pub deploy: Deploy,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    pub id: String,
    pub at: Wall,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TargetMemory {
    /// When it was first seen, and the id that counted as reached then.
    pub adopted_at: Wall,
    pub adopted_id: Option<String>,
    /// The deploy or trigger that it is to be fresh for; `None` until the first one after its adoption.
    pub want: Option<Want>,
    /// The one that it is fresh for.
    pub reached: Option<Want>,
    /// By unit: the invocation that we started, and the landing for which it is fresh whatever a clock says.
    pub fresh: BTreeMap<String, Fresh>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Want {
    pub id: String,
    pub landed_at: Wall,
    /// On the boot clock of [`Memory::boot`].
    pub landed: Mono,
    pub forced: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fresh {
    pub invocation: String,
    /// On the boot clock of [`Memory::boot`].
    pub landed: Mono,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    pub view: RolloutView,
    pub deploy: Deploy,
    pub targets: BTreeSet<String>,
    /// The hold that there was when it was ordered does not hold what it names.
    #[serde(default)]
    pub over_hold: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Depooled {
    pub at: Wall,
    /// What puts it back, as configured when it was taken out: a configuration that changes meanwhile must not strand it.
    pub repool: Vec<String>,
    pub check: Vec<String>,
    pub timeout: Duration,
    /// The repool has been sent, and not been seen to arrive: a balancer may still be about to take this host back.
    #[serde(default)]
    pub returning: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub reason: String,
    pub by: String,
    pub until: Wall,
    pub targets: Option<BTreeSet<String>>,
    /// It ends the running rollout at its next safe point.
    pub abort: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cutting {
    pub invocation: String,
    pub asked: Mono,
    #[serde(default)]
    pub grace: Option<Duration>,
    pub casualties: Vec<Casualty>,
    /// The restart or stop is in the journal, so it may have taken place.
    pub begun: bool,
    /// systemd has answered it, so it has taken place.
    #[serde(default)]
    pub answered: bool,
}

impl Cutting {
    #[must_use]
    pub fn of_script(&self) -> bool {
        self.casualties.iter().any(|casualty| casualty.what == CasualtyKind::Script)
    }
}

/// How many ids of deploys are remembered, for `wait --deploy`.
const KNOWN_KEPT: usize = 50;
/// How many restarts of a unit are remembered for the rate limit.
const RESTARTS_KEPT: usize = 8;

impl Want {
    /// The same deploy or trigger, whether forced or not.
    #[must_use]
    pub fn is(&self, other: &Want) -> bool {
        self.id == other.id && self.landed_at == other.landed_at && self.landed == other.landed
    }
}

impl TargetMemory {
    /// What it is still to be made fresh for.
    #[must_use]
    pub fn unmet(&self) -> Option<&Want> {
        self.want.as_ref().filter(|want| !self.reached.as_ref().is_some_and(|reached| reached.is(want)))
    }
}

impl Memory {
    /// Whether the hold keeps this target from being renewed now.
    #[must_use]
    pub fn holds(&self, target: &str) -> bool {
        let over = |rollout: &Rollout| rollout.over_hold && rollout.deploy.targets.contains(target);
        self.hold.as_ref().is_some_and(|hold| hold.targets.as_ref().is_none_or(|targets| targets.contains(target)))
            && !self.rollout.as_ref().is_some_and(over)
    }

    /// Adds one line of the journal.
    pub fn apply(&mut self, written: &Written) {
        let at = written.at;
        match &written.entry {
            Entry::Started { boot, .. } => {
                self.boot_is(boot);
                // What was under way then will have no outcome; whatever it may have done is remembered by itself.
                self.open.clear();
                self.cutting.retain(|_, cutting| cutting.begun);
            }
            Entry::Watching { path } => {
                self.watching = Some(path.clone());
                self.stamp = None;
            }
            Entry::Stamp { path, identity, deploy, adopted } => {
                self.known.retain(|id| *id != deploy.id);
                self.known.push(deploy.id.clone());
                if self.known.len() > KNOWN_KEPT {
                    self.known.remove(0);
                }
                self.stamp = Some(StampMemory { path: path.clone(), identity: identity.clone(), deploy: deploy.clone() });
                if *adopted {
                    self.reached = Some(Reached { id: deploy.id.clone(), at });
                }
            }
            Entry::LeftBehind { unit } => {
                self.lent.insert(unit.clone());
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
            Entry::Cutting { unit, invocation, asked, grace, casualties } => {
                let (invocation, casualties) = (invocation.clone(), casualties.clone());
                self.cutting
                    .insert(unit.clone(), Cutting { invocation, asked: *asked, grace: *grace, casualties, begun: false, answered: false });
            }
            Entry::CutSettled { unit, .. } => {
                self.cutting.remove(unit);
            }
            Entry::PhaseBegan { .. } | Entry::PhaseEnded { .. } | Entry::UnitEnded(_) | Entry::Casualty(_) => {
                // A casualty may come to light after its rollout.
                if let Some(view) = self.rollout.as_mut().map(|rollout| &mut rollout.view).or(self.last_rollout.as_mut()) {
                    view.note(written);
                }
            }
            Entry::RolloutFinished { result, .. } => {
                if let Some(mut rollout) = self.rollout.take() {
                    rollout.view.note(written);
                    self.last_rollout = Some(rollout.view);
                }
                if *result == RolloutResult::Converged {
                    let id = self.last_rollout.as_ref().map(|view| view.deploy.clone()).unwrap_or_default();
                    self.reached = Some(Reached { id, at });
                }
            }
            Entry::Intent { id, effect } => self.intended(at, *id, effect),
            Entry::Outcome { id, outcome } => self.came_of(*id, outcome),
            Entry::Interrupted { unit } => {
                let count = self.interrupted.entry(unit.clone()).or_default();
                *count = count.saturating_add(1);
            }
            Entry::RanThrough { unit } => {
                self.interrupted.remove(unit);
            }
            Entry::RerunOwed { unit, target } => {
                self.reruns.insert(unit.clone(), target.clone());
            }
            Entry::RerunSettled { unit, .. } => {
                self.reruns.remove(unit);
            }
            Entry::TimerOwed { timer, persistent } => {
                self.timers.insert(timer.clone(), *persistent);
            }
            Entry::TimerSettled { timer, .. } => {
                self.timers.remove(timer);
            }
            Entry::PoolSettled { pool, .. } => {
                self.depooled.remove(pool);
            }
            Entry::HoldSet { reason, by, until, targets, abort } => {
                self.rollout.iter_mut().for_each(|rollout| rollout.over_hold = false);
                self.hold = Some(Hold { reason: reason.clone(), by: by.clone(), until: *until, targets: targets.clone(), abort: *abort });
            }
            Entry::HoldEnded { .. } => self.hold = None,
            Entry::Ordered { .. } => {}
        }
    }

    /// On another boot nothing of /run is left, every timer runs again, and every process is younger than every landing.
    fn boot_is(&mut self, boot: &str) {
        if self.boot == boot {
            return;
        }
        boot.clone_into(&mut self.boot);
        self.lent.clear();
        self.timers.clear();
        self.asked.clear();
        self.frozen.clear();
        for target in self.targets.values_mut() {
            target.fresh.clear();
            for want in target.want.iter_mut().chain(target.reached.iter_mut()) {
                want.landed = Mono::BOOT;
            }
        }
        let deploys =
            self.rollout.iter_mut().map(|rollout| &mut rollout.deploy).chain(self.stamp.iter_mut().map(|stamp| &mut stamp.deploy));
        let deploys = deploys.chain(self.last_deploy.iter_mut());
        for deploy in deploys {
            deploy.landed = Mono::BOOT;
        }
    }

    fn rollout_started(&mut self, at: Wall, id: &str, deploy: &Deploy, targets: &BTreeSet<String>, by: Option<&String>) {
        self.next_rollout += 1;
        for (name, target) in &mut self.targets {
            if targets.contains(name) && deploy.targets.contains(name) {
                let old = target.want.take();
                // An emergency that is not over stays one, and a trigger is not undone by a stamp that was touched before it.
                let unmet = |old: &Want| !target.reached.as_ref().is_some_and(|reached| reached.is(old));
                let forced = old.as_ref().is_some_and(|old| old.forced && unmet(old));
                let newer = old.filter(|old| old.landed > deploy.landed);
                let (landed_at, landed) = newer.map_or((deploy.landed_at, deploy.landed), |old| (old.landed_at, old.landed));
                target.want = Some(Want { id: deploy.id.clone(), landed_at, landed, forced: forced || deploy.forced.contains(name) });
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
                self.depooled.entry(pool.clone()).or_insert(debt).returning = false;
            }
            Effect::Repool { pool, .. } => {
                if let Some(debt) = self.depooled.get_mut(pool) {
                    debt.returning = true;
                }
            }
            Effect::Lend { drop_ins } => self.lent.extend(drop_ins.keys().cloned()),
            Effect::Freeze { workers } => {
                self.frozen.retain(|worker| !workers.contains(worker));
                self.frozen.extend(workers.iter().cloned());
            }
            Effect::AskToStop { unit } => {
                self.asked.insert(unit.clone());
            }
            Effect::Stop { unit, .. } => self.cut_begun(unit),
            Effect::Restart { unit, .. } => {
                self.cut_begun(unit);
                let restarts = self.restarts.entry(unit.clone()).or_default();
                restarts.push(at);
                if restarts.len() > RESTARTS_KEPT {
                    restarts.remove(0);
                }
            }
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
        match (effect, outcome) {
            (Effect::Depool { pool, .. }, Outcome::Fault(Fault::Journal(_))) => {
                // Not begun: there is nothing to put back. Any other fault may have come after the act.
                self.depooled.remove(&pool);
            }
            (Effect::Stop { unit, .. }, Outcome::Job(_)) => {
                if let Some(cutting) = self.cutting.get_mut(&unit) {
                    cutting.answered = true;
                }
            }
            (Effect::Unask { unit }, Outcome::Done) => {
                self.asked.remove(&unit);
            }
            (Effect::Unlend { units }, Outcome::Done) => {
                for unit in units {
                    self.lent.remove(&unit);
                }
            }
            (Effect::Freeze { workers }, Outcome::Frozen(there)) => {
                self.frozen.retain(|worker| !workers.contains(worker) || there.contains(worker));
            }
            (Effect::Thaw { workers }, Outcome::Done) | (Effect::Restart { cut: workers, .. }, Outcome::Job(_)) => {
                self.frozen.retain(|worker| !workers.contains(worker));
            }
            _ => {}
        }
    }
}
