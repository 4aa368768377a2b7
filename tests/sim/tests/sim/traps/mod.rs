//! What such agents are known to fall for, by the numbers of docs/operations/traps.md.

#![allow(clippy::unwrap_used, reason = "a test")]

mod deploys;
mod php;
mod scripts;

use restart_agent::core::entry::Entry;
use sim::host::Host;
use sim::world::By;

/// The deploys of the rollouts that have begun, in order.
fn rollouts(host: &Host) -> Vec<String> {
    let begun = |entry: &Entry| if let Entry::RolloutStarted { deploy, .. } = entry { Some(deploy.id.clone()) } else { None };
    host.journal.iter().filter_map(|written| begun(&written.entry)).collect()
}

/// How often the agent has started this unit, or restarted it.
fn starts_by_agent(host: &Host, unit: &str) -> usize {
    host.world.units[unit].runs.iter().filter(|(_, by)| *by == By::Agent).count()
}
