//! [`Memory`]: what the journal adds up to, the durable half of the machine.

mod apply;
mod boot;
mod clock;
mod count;
mod owed;
mod strays;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use owed::{OwedRun, Settles};
pub use strays::StrayCut;

use serde::{Deserialize, Serialize};

use crate::core::deploy::{Deploy, StampIdentity};
use crate::core::effect::{Effect, WorkerRef};
use crate::core::generations::name;
use crate::core::opcache::GuardMemory;
use crate::core::seen::{Dependent, UnitSeen};
use crate::core::status::{Casualty, CasualtyKind, RolloutView, Totals};
use crate::core::time::{Mono, Wall};

/// The durable half of the machine. It changes only by [`Memory::apply`], so the fold of the journal is it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    pub boot: String,
    /// When that was, by the wall clock as it was last seen to be set.
    pub booted_at: Option<Wall>,
    /// By how many microseconds it was set ahead since the last deploy was taken note of; less than 0: back.
    pub jumped: i64,
    /// Acts that were begun and whose outcome is not written.
    pub open: BTreeMap<u64, Effect>,
    pub next_effect: u64,
    pub next_rollout: u64,
    /// Numbers the generations of php-fpm, of all targets.
    pub next_generation: u64,
    /// The path of the stamp.
    pub watching: Option<String>,
    /// Ids of the newest deploys, newest last.
    pub known: Vec<String>,
    /// The last state of the stamp that was taken note of.
    pub stamp: Option<StampMemory>,
    /// The last deploy that was seen to begin.
    pub begun: Option<Begun>,
    /// The starts of scripts may be held back by us.
    pub starts_held: bool,
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
    /// Since when.
    pub lent_at: BTreeMap<String, Wall>,
    /// Units that we may keep from being started, and whether their last run was interrupted by us since.
    pub quiet: BTreeMap<String, bool>,
    /// Scripts that we may have stopped and that are to run again.
    pub reruns: BTreeMap<String, OwedRun>,
    /// By script that we stopped: what went down with it and is to be started again.
    pub taken_down: BTreeMap<String, Vec<Dependent>>,
    /// Units that may be asked to stop, by a file of ours.
    pub asked: BTreeSet<String>,
    /// The commands that take that back, as configured when they were asked: a configuration that changes meanwhile must not leave them asked.
    pub unasks: BTreeMap<String, Unask>,
    /// How often in a row each script was interrupted by us.
    pub interrupted: BTreeMap<String, Interrupted>,
    /// Scripts that were let finish for that, with their target.
    pub starved: BTreeMap<String, String>,
    /// Workers that may be stopped by our SIGSTOP.
    pub frozen: Vec<WorkerRef>,
    /// php-fpm units that we restarted and that have not been proven to serve since, with their target.
    pub unproven: BTreeMap<String, String>,
    /// By unit: what is cut if its restart took place, and the invocation that it had before.
    pub cutting: BTreeMap<String, Cutting>,
    /// Strays that we may have sent a signal and that are not known to have ended.
    pub strays: Vec<StrayCut>,
    /// Strays whose terminal may have been told, and for the landing of which deploy.
    pub told: Vec<(WorkerRef, Mono)>,
    pub hold: Option<Hold>,
    /// When each unit was last restarted by us, newest last, at most eight each: for the rate limit.
    pub restarts: BTreeMap<String, Vec<Wall>>,
    /// Units that we may have restarted or started, and of which nobody has seen since what became of that, or that did not come up.
    pub maybe_down: BTreeSet<String>,
    /// Of these: the run that did not come up, as systemd names it, unless they have been restarted since.
    pub failed_runs: BTreeMap<String, String>,
    pub totals: Totals,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StampMemory {
    pub path: String,
    pub identity: StampIdentity,
    pub deploy: Deploy,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    pub identity: StampIdentity,
    pub id: String,
    pub since: Wall,
    pub until: Wall,
    /// Why it is over, if it is.
    pub over: Option<String>,
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
    /// The generation that we may have started and have not switched to, and the landing that it is for.
    pub starting: Option<(String, Mono)>,
    /// The generation that was last given the requests.
    pub current: Option<String>,
    /// Generations that get no new requests, and since when.
    pub lingering: BTreeMap<String, Lingering>,
    /// Generations that we have begun to start, and those to which the symlink has led.
    pub started: BTreeSet<String>,
    pub served: BTreeSet<String>,
    /// Those to which we have switched it, or may have, whether anybody has seen that or not.
    pub led: BTreeSet<String>,
    /// And those that have proven bad.
    pub bad: BTreeSet<String>,
    pub opcache: GuardMemory,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lingering {
    pub since: Wall,
    /// The one that made it an old one.
    pub rollout: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Want {
    pub id: String,
    pub landed_at: Wall,
    /// On the boot clock of [`Memory::boot`].
    pub landed: Mono,
    pub forced: bool,
    /// When the emergency landed that it stands for, which may be that of a deploy before.
    #[serde(default)]
    pub emergency: Option<Mono>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Unask {
    pub argv: Vec<String>,
    /// The unit need not be asked any more.
    pub over: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Interrupted {
    pub times: u32,
    /// The last time, on the boot clock of [`Memory::boot`].
    pub last: Mono,
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
    /// When it was last taken out.
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
    /// systemd has answered that there was nothing to stop any more.
    #[serde(default)]
    pub in_vain: bool,
}

impl Cutting {
    #[must_use]
    pub fn of_script(&self) -> bool {
        self.casualties.iter().any(|casualty| casualty.what == CasualtyKind::Script)
    }

    /// Nobody else was stopping it already: without us it would have gone on.
    #[must_use]
    pub fn ours(&self) -> bool {
        self.casualties.iter().all(|casualty| casualty.certain)
    }
}

impl Want {
    /// What a deploy wants of a target that was to be renewed for `old`: a trigger is not undone by a stamp that was touched before it.
    #[must_use]
    pub fn of(deploy: &Deploy, old: Option<&Want>, forced: bool) -> Want {
        let newer = old.filter(|old| old.landed > deploy.landed);
        let (landed_at, landed) = newer.map_or((deploy.landed_at, deploy.landed), |old| (old.landed_at, old.landed));
        Want { id: deploy.id.clone(), landed_at, landed, forced, emergency: None }
    }

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
    /// The deploy that has begun and is not over.
    #[must_use]
    pub fn beginning(&self) -> Option<&Begun> {
        self.begun.as_ref().filter(|begun| begun.over.is_none())
    }

    /// What takes back the request to this unit.
    #[must_use]
    pub fn unask(&self, unit: &str) -> Effect {
        Effect::Unask { unit: unit.to_owned(), unask: self.unasks.get(unit).map(|unask| unask.argv.clone()).unwrap_or_default() }
    }

    /// Whether the command that takes back the request to this unit would take it from another that is still asked.
    #[must_use]
    pub fn shares(&self, unit: &str) -> bool {
        let Some(own) = self.unasks.get(unit) else { return false };
        self.unasks.iter().any(|(other, unask)| other != unit && !unask.over && unask.argv == own.argv)
    }

    /// Whether an earlier request to this unit is being taken back, or one that the same command takes back: that would undo a new one.
    #[must_use]
    pub fn unasking(&self, unit: &str, argv: &[String]) -> bool {
        let undoes = |open: &Effect| matches!(open, Effect::Unask { unit: of, unask } if of == unit || (!argv.is_empty() && unask == argv));
        self.open.values().any(undoes)
    }

    /// Whether this unit is being asked right now: what comes of that is awaited before it is taken back.
    #[must_use]
    pub fn asking(&self, unit: &str) -> bool {
        self.open.values().any(|open| matches!(open, Effect::AskToStop { unit: of, .. } if of == unit))
    }

    /// How often in a row this script was interrupted by us: a run that has ended since, and not by us, breaks the row.
    #[must_use]
    pub fn interruptions(&self, unit: &UnitSeen) -> u32 {
        self.interrupted.get(&unit.unit).filter(|row| unit.last_end <= row.last).map_or(0, |row| row.times)
    }

    /// Workers that may be stopped and that nothing under way lets go on: who is told to end goes on when it has been told, and not before.
    pub fn stands_still(&self) -> impl Iterator<Item = &WorkerRef> {
        let goes_on = |worker: &WorkerRef| {
            self.open.values().any(|open| match open {
                Effect::Retire { workers, spare } => workers.contains(worker) || spare.contains(worker),
                Effect::Thaw { workers } => workers.contains(worker),
                _ => false,
            })
        };
        self.frozen.iter().filter(move |worker| !goes_on(worker))
    }

    /// This script is owed a run now, and not only when what it left behind has settled, when scripts may start, or perhaps when it has ended.
    #[must_use]
    pub fn owes(&self, unit: &str) -> bool {
        !self.starts_held && self.reruns.get(unit).is_some_and(OwedRun::is_owed_now)
    }

    #[must_use]
    pub fn owes_run(&self) -> bool {
        self.reruns.keys().any(|unit| self.owes(unit))
    }

    /// The symlink leads to a generation, or may have led to it, by this: then requests have come to that.
    fn may_have_led(&mut self, effect: &Effect) {
        let Effect::Switch { to, .. } = effect else { return };
        for target in self.targets.values_mut() {
            let led = target.started.iter().filter(|unit| name::listens_at(unit, to)).cloned();
            target.led.extend(led);
        }
    }

    /// Whether the hold keeps this target from being renewed now.
    #[must_use]
    pub fn holds(&self, target: &str) -> bool {
        let over = |rollout: &Rollout| rollout.over_hold && rollout.deploy.targets.contains(target);
        self.hold.as_ref().is_some_and(|hold| hold.targets.as_ref().is_none_or(|targets| targets.contains(target)))
            && !self.rollout.as_ref().is_some_and(over)
    }
}
