//! The journal: what is written so that nothing is forgotten, and [`Memory`], what it adds up to.
//!
//! `Memory` changes only by [`Memory::apply`], so the fold of the journal is the durable half of the live machine.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::deploy::{Deploy, StampIdentity};
use super::effect::{Effect, EffectId, Outcome, WorkerRef};
use super::status::{Casualty, PhaseView, RolloutResult, RolloutView, UnitOutcome};
use super::time::{Mono, Wall};

/// One line of the journal. Entries written by an older version must stay readable: variants are added, never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "kebab-case")]
pub enum Entry {
    /// The agent started on this boot of the host.
    Started { boot: String, version: String },
    /// This state of the stamp was taken note of: as a deploy, or as the one that counts as reached.
    Stamp { path: String, identity: StampIdentity, deploy: Deploy, adopted: bool },
    /// The target was first seen; the stamp on disk, if any, counts as reached for it.
    Adopted { target: String, id: Option<String> },
    /// The target is no longer in the configuration.
    Dropped { target: String },
    RolloutStarted { id: String, deploy: Deploy, targets: BTreeSet<String>, by: Option<String> },
    /// All of the target is fresh for this deploy, or allowed not to be.
    Reached { target: String, id: String, landed_at: Wall },
    /// This invocation of the unit was started by us for a deploy that landed then.
    Fresh { target: String, unit: String, invocation: String, landed_at: Wall },
    Phase(PhaseView),
    UnitEnded(UnitOutcome),
    Casualty(Casualty),
    RolloutFinished { result: RolloutResult, why: Option<String> },
    Intent { id: EffectId, effect: Effect },
    Outcome { id: EffectId, outcome: Outcome },
    /// We are about to stop this script and owe it a new run.
    RerunOwed { unit: String, target: String },
    /// The rerun was done, or is no longer owed.
    RerunSettled { unit: String, why: String },
    /// We are about to stop this timer and owe its start.
    TimerOwed { timer: String, persistent: bool },
    TimerSettled { timer: String, why: String },
    /// The pool is back, or was found in other hands: we owe it nothing.
    PoolSettled { pool: String, why: String },
    HoldSet { reason: String, by: String, until: Wall, targets: Option<BTreeSet<String>> },
    HoldEnded { by: String },
    /// An order that was accepted, for the record of who asked.
    Ordered { by: String, order: super::event::Order },
}

/// An entry with the time at which it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    pub at: Wall,
    pub entry: Entry,
}

/// The durable half of the machine.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    pub boot: String,
    pub next_effect: u64,
    pub next_rollout: u64,
    /// The last state of the stamp that was taken note of.
    pub stamp: Option<StampMemory>,
    pub targets: BTreeMap<String, TargetMemory>,
    pub rollout: Option<Rollout>,
    pub last_rollout: Option<RolloutView>,
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
    /// Workers that may be stopped by our SIGSTOP.
    pub frozen: Vec<WorkerRef>,
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
    pub landed_at: Wall,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    pub view: RolloutView,
    pub deploy: Deploy,
    pub targets: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Depooled {
    pub at: Wall,
    /// What puts it back, as configured when it was taken out: a configuration that changes meanwhile must not strand it.
    pub repool: Vec<String>,
    pub check: Vec<String>,
    pub timeout: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hold {
    pub reason: String,
    pub by: String,
    pub until: Wall,
    pub targets: Option<BTreeSet<String>>,
}

/// How many restarts of a unit are remembered for the rate limit.
const RESTARTS_KEPT: usize = 8;
