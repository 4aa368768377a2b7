//! What `plan` shows: what a deploy right now would do.

use serde::{Deserialize, Serialize};

use crate::core::time::Wall;

/// What a deploy right now would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanView {
    pub schema: u32,
    pub at: Wall,
    /// What stands in the way: a hold, no targets.
    pub note: Option<String>,
    pub units: Vec<PlanUnit>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanUnit {
    pub target: String,
    pub unit: String,
    /// A sentence: what would happen, in order, with the times from the rules.
    pub what: String,
    /// Milliseconds after the deploy at the latest.
    pub deadline_ms: u64,
    pub processes: Vec<PlanProcess>,
    /// Requests in flight, without query strings.
    pub in_flight: Vec<PlanRequest>,
    /// Whether something in flight is expected to be cut.
    pub casualty_expected: bool,
    /// Of a script that timers start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_run: Option<PlanNextRun>,
}

/// The next scheduled run of a script.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanNextRun {
    /// `null`: systemd says so only when the script has ended, or no timer has one.
    pub at: Option<Wall>,
    /// A sentence, for people.
    pub why: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanProcess {
    pub pid: u32,
    pub name: String,
    pub started_at: Wall,
    /// It carries deployed code: a deploy makes it stale.
    #[serde(default = "yes")]
    pub stale: bool,
}

fn yes() -> bool {
    true
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanRequest {
    pub pid: u32,
    pub name: String,
    pub ran: String,
}
