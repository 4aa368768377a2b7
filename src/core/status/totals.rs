//! What is counted for good, for metrics: it outlives the agent and its rollouts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::core::time::Wall;

/// Counted since this host's journal begins. What is counted by target goes when its target leaves the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub struct Totals {
    /// By result: rollouts that are over.
    pub rollouts: BTreeMap<String, u32>,
    /// By target: requests cut.
    pub requests: BTreeMap<String, u32>,
    /// By target: scripts, services and strays cut.
    pub scripts: BTreeMap<String, u32>,
    /// By target: how often requests may have been cut that nobody can name.
    pub perhaps: BTreeMap<String, u32>,
    /// By target: runs of scripts that were let finish since deploys interrupted them too often (`max_interruptions`).
    pub starved: BTreeMap<String, u32>,
    /// The last rollout that is over.
    pub last: Option<LastView>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct LastView {
    pub started_at: Wall,
    pub finished_at: Wall,
}

impl Totals {
    /// Everything that is counted by target.
    pub fn by_target(&mut self) -> [&mut BTreeMap<String, u32>; 4] {
        [&mut self.requests, &mut self.scripts, &mut self.perhaps, &mut self.starved]
    }
}
