//! What everybody is shown: status.json, `status`, the D-Bus properties. The contract's words, no secrets.

mod plan;
mod rollout;
mod totals;

use serde::{Deserialize, Serialize};

pub use plan::{PlanNextRun, PlanProcess, PlanRequest, PlanUnit, PlanView};
pub(in crate::core) use rollout::STOPPED;
pub use rollout::{Casualty, CasualtyKind, CutCount, FlightView, PhaseView, RolloutResult, RolloutView, UnitEnd, UnitOutcome};
pub use totals::{LastView, Totals};

use super::stale::Stale;
use super::time::{Mono, Now, Wall};

/// How the problem begins with which the agent runs without any rules.
pub const UNUSABLE: &str = "the configuration cannot be used, so nothing is renewed";
/// How the problem begins with which it keeps those that it had.
pub const NOT_TAKEN: &str = "the configuration was not taken, the old one stays";

/// The whole of /run/restart-agent/status.json.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StatusView {
    /// 1.
    pub schema: u32,
    pub written_at: Wall,
    pub agent: AgentView,
    pub stamp: StampView,
    pub state: State,
    /// The newest deploy for which this host has converged.
    pub reached: Option<ReachedView>,
    pub waiting_for: Option<String>,
    /// What happens when the deadline passes.
    pub next: Option<String>,
    pub deadline: Option<Wall>,
    pub hold: Option<HoldView>,
    /// A deploy has begun and is not done: no script of a scheduled target is started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub begun: Option<BegunView>,
    pub pools: Vec<PoolView>,
    pub slot: SlotView,
    pub targets: Vec<TargetView>,
    pub last_rollout: Option<RolloutView>,
    /// What is wrong with the agent itself: a configuration that was not taken, a journal that cannot be written.
    pub problems: Vec<String>,
    /// What is to be given back to this host: nobody does while the agent does not run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub owed: Vec<String>,
    #[serde(default)]
    pub totals: Totals,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct AgentView {
    pub version: String,
    pub running: bool,
    pub pid: u32,
    pub since: Wall,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StampView {
    pub path: String,
    /// Targets that the newest stamp names and that this host does not have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unknown_targets: Vec<String>,
    pub id: Option<String>,
    pub landed_at: Option<Wall>,
    pub error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// No targets, or no deploy seen yet.
    Idle,
    Converged,
    Converging,
    Held,
    /// Cannot go on, tries again by itself: `waiting_for` says what for.
    Blocked,
    /// Something could not be renewed; a person should look.
    Failed,
}

impl State {
    pub const ALL: [State; 6] = [State::Idle, State::Converged, State::Converging, State::Held, State::Blocked, State::Failed];

    /// The contract's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            State::Idle => "idle",
            State::Converged => "converged",
            State::Converging => "converging",
            State::Held => "held",
            State::Blocked => "blocked",
            State::Failed => "failed",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ReachedView {
    pub id: String,
    pub at: Wall,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct HoldView {
    pub reason: String,
    pub by: String,
    pub until: Wall,
    /// `null`: all.
    pub targets: Option<Vec<String>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct BegunView {
    pub id: String,
    pub since: Wall,
    pub until: Wall,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PoolView {
    pub name: String,
    pub state: PoolState,
    pub depooled_by: Option<DepooledBy>,
    pub since: Option<Wall>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum PoolState {
    Pooled,
    Depooled,
    Unknown,
}

impl PoolState {
    pub const ALL: [PoolState; 3] = [PoolState::Pooled, PoolState::Depooled, PoolState::Unknown];

    /// The contract's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            PoolState::Pooled => "pooled",
            PoolState::Depooled => "depooled",
            PoolState::Unknown => "unknown",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum DepooledBy {
    Agent,
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SlotView {
    pub state: String,
    pub holders: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct TargetView {
    pub name: String,
    pub kind: String,
    pub state: TargetState,
    pub why: String,
    pub deadline: Option<Wall>,
    /// When its units were looked at, if nothing is at work on it: at rest that is once. `null`: not yet, or something is at work.
    pub looked_at: Option<Wall>,
    pub units: Vec<UnitView>,
}

/// `state` of a target and of a unit, from best to worst where it matters: a target shows its worst unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum TargetState {
    Fresh,
    Adopted,
    Left,
    Lingering,
    Verifying,
    Starting,
    Draining,
    Asked,
    Stopping,
    Killing,
    Stale,
    Held,
    Failed,
}

impl TargetState {
    pub const ALL: [TargetState; 13] = [
        TargetState::Fresh,
        TargetState::Adopted,
        TargetState::Left,
        TargetState::Lingering,
        TargetState::Verifying,
        TargetState::Starting,
        TargetState::Draining,
        TargetState::Asked,
        TargetState::Stopping,
        TargetState::Killing,
        TargetState::Stale,
        TargetState::Held,
        TargetState::Failed,
    ];

    /// The contract's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            TargetState::Fresh => "fresh",
            TargetState::Adopted => "adopted",
            TargetState::Left => "left",
            TargetState::Lingering => "lingering",
            TargetState::Verifying => "verifying",
            TargetState::Starting => "starting",
            TargetState::Draining => "draining",
            TargetState::Asked => "asked",
            TargetState::Stopping => "stopping",
            TargetState::Killing => "killing",
            TargetState::Stale => "stale",
            TargetState::Held => "held",
            TargetState::Failed => "failed",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct UnitView {
    pub unit: String,
    pub state: TargetState,
    pub stale_processes: u32,
    pub oldest_start: Option<Wall>,
    pub in_flight: Option<u32>,
    pub why: String,
    pub deadline: Option<Wall>,
    /// It is let finish once, since deploys interrupted it too often (`max_interruptions`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub starved: bool,
    /// Of a target of kind `strays`, whose every stray process has an entry of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<StrayView>,
    /// Of a php-fpm whose opcache is guarded, once it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opcache: Option<OpcacheView>,
}

/// How full the opcache of a php-fpm is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct OpcacheView {
    /// When it was last asked.
    pub looked_at: Wall,
    /// `null`: it is not known, and `note` says why.
    pub fill: Option<OpcacheFill>,
    /// What there is to say beyond the figures.
    pub note: Option<String>,
}

/// In bytes, and in keys: a script takes one or more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct OpcacheFill {
    pub used: u64,
    pub free: u64,
    pub wasted: u64,
    pub keys: u64,
    pub max_keys: u64,
    /// When it was last empty.
    pub since: Wall,
}

/// A process that carries deployed code outside of the units of all targets. No arguments: they may hold secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct StrayView {
    pub pid: u32,
    /// The process's own name.
    pub name: String,
    pub user: String,
    /// As logind names it, if it runs in one.
    pub session: Option<String>,
    /// Below /dev: `pts/3`.
    pub terminal: Option<String>,
    pub started_at: Wall,
    /// How long before the landing of the newest deploy its code was loaded, for people.
    pub stale_by: String,
}

impl UnitView {
    /// A unit of which nothing more is to be told.
    #[must_use]
    pub fn new(unit: &str, state: TargetState, why: String) -> UnitView {
        UnitView {
            unit: unit.to_owned(),
            state,
            stale_processes: 0,
            oldest_start: None,
            in_flight: None,
            why,
            deadline: None,
            starved: false,
            process: None,
            opcache: None,
        }
    }

    /// The same with what of it is stale, and until when it waits.
    #[must_use]
    pub fn aged(self, stale: &Stale, deadline: Option<Mono>, now: Now) -> UnitView {
        UnitView {
            stale_processes: stale.count(),
            oldest_start: stale.oldest.map(|at| now.wall_of(at)),
            deadline: deadline.map(|at| now.wall_of(at)),
            ..self
        }
    }
}
