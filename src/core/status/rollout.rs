//! What is told of a rollout, in status while it runs and in history after.

use serde::{Deserialize, Serialize};

use crate::core::time::Wall;

/// What a rollout has cut, counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutCount {
    pub known: usize,
    /// Others may have been cut, and nobody can name them.
    pub perhaps: bool,
}

impl RolloutView {
    #[must_use]
    pub fn cut(&self) -> CutCount {
        let known = self.casualties.iter().filter(|casualty| !casualty.perhaps).count();
        CutCount { known, perhaps: known < self.casualties.len() }
    }
}

/// One rollout, running or past.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct RolloutView {
    pub id: String,
    pub deploy: String,
    pub started_at: Wall,
    pub finished_at: Option<Wall>,
    /// `null` while it runs.
    pub result: Option<RolloutResult>,
    pub casualties: Vec<Casualty>,
    /// How long each phase took, in the order in which they began.
    pub phases: Vec<PhaseView>,
    /// What was renewed, ended by itself, or was left, each with its unit.
    pub units: Vec<UnitOutcome>,
    /// How many requests were in flight while php-fpm drained, oldest first: changes only, at most 400, in history and not in status.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub flights: Vec<FlightView>,
    pub reason: Option<String>,
    /// Who asked for it, if it was a trigger.
    pub by: Option<String>,
    /// Why it failed or was blocked, if it did.
    pub why: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum RolloutResult {
    Converged,
    Failed,
    Aborted,
    Superseded,
}

impl RolloutResult {
    pub const ALL: [RolloutResult; 4] =
        [RolloutResult::Converged, RolloutResult::Failed, RolloutResult::Aborted, RolloutResult::Superseded];

    /// The contract's word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            RolloutResult::Converged => "converged",
            RolloutResult::Failed => "failed",
            RolloutResult::Aborted => "aborted",
            RolloutResult::Superseded => "superseded",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct PhaseView {
    pub target: String,
    /// `preflight`, `depool`, `drain`, `restart`, `verify`, `warm`, `repool`, `stop`.
    pub phase: String,
    pub started_at: Wall,
    pub finished_at: Option<Wall>,
}

/// So many requests in flight, from this moment to the unit's next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct FlightView {
    pub unit: String,
    pub at: Wall,
    pub in_flight: u32,
}

/// What became of one stale unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct UnitOutcome {
    pub target: String,
    pub unit: String,
    pub what: UnitEnd,
    /// A sentence, for people.
    pub why: String,
    /// What a person should mend though it went well; told in `why`, too.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// It was let finish, since deploys interrupted it too often (`max_interruptions`).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub starved: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum UnitEnd {
    /// Stopped and started with the new code.
    Renewed,
    /// It ended, or was renewed, by itself or by somebody else.
    Finished,
    /// Stopped; its timer starts it at its next scheduled run.
    Quiet,
    /// Still stale, and its rules allow it.
    Left,
    Failed,
}

/// So begins what is said of a unit that somebody else has stopped, and that stays down.
pub(in crate::core) const STOPPED: &str = "somebody has stopped it";

/// A request or script ended by our signal before it finished.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Casualty {
    pub target: String,
    pub unit: String,
    pub what: CasualtyKind,
    /// 0: which one it was is not known.
    pub pid: u32,
    /// The script path or unit, without query string.
    pub name: String,
    /// For people: `3.2s`. Empty: not known.
    pub ran: String,
    pub ended_by: String,
    pub certain: bool,
    /// Not even whether anything was cut is known: requests of a pool that says nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub perhaps: bool,
    pub at: Wall,
    /// Whose signal it was; not told by what an older version wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<String>,
    /// The full request line. In the journal only, which is root's; never in status.json.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum CasualtyKind {
    Request,
    Script,
}
