//! Which processes are stale: the contract's definition, in one place.

use std::collections::BTreeMap;
use std::time::Duration;

use super::memory::{TargetMemory, Want};
use super::seen::{ProcessSeen, UnitSeen};
use super::time::Mono;

/// A start within this after the landing counts as before it: start times are up to 34 ms early (facts F4.6).
pub const START_BLUR: Duration = Duration::from_millis(50);

/// After this long past the landing, no process that started before its blur can still be unseen by a look.
pub const LOOK_FROM: Duration = Duration::from_millis(100);

/// What is stale of one unit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stale {
    pub processes: Vec<ProcessSeen>,
    pub oldest: Option<Mono>,
}

impl Stale {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.processes.len()).unwrap_or(u32::MAX)
    }
}

/// The stale processes of a unit: those that started before the landing, where a fork with its parent's command line is as old as
/// that parent (facts M12), unless this agent started this very invocation for that landing.
#[must_use]
pub fn stale(unit: &UnitSeen, want: &Want, target: &TargetMemory) -> Stale {
    if started_by_us(unit, want, target) {
        return Stale::default();
    }
    let by_pid: BTreeMap<u32, &ProcessSeen> = unit.processes.iter().map(|process| (process.pid, process)).collect();
    let limit = want.landed.after(START_BLUR);
    let processes: Vec<ProcessSeen> = unit.processes.iter().filter(|process| code_start(process, &by_pid) < limit).cloned().collect();
    let oldest = processes.iter().map(|process| process.start).min();
    Stale { processes, oldest }
}

/// php-fpm: every worker is as old as its master, which owns the opcache.
#[must_use]
pub fn stale_fpm(unit: &UnitSeen, want: &Want, target: &TargetMemory) -> Stale {
    if started_by_us(unit, want, target) || unit.main_pid == 0 || unit.main_start >= want.landed.after(START_BLUR) {
        return Stale::default();
    }
    Stale { processes: unit.processes.clone(), oldest: Some(unit.main_start) }
}

fn started_by_us(unit: &UnitSeen, want: &Want, target: &TargetMemory) -> bool {
    target.fresh.get(&unit.unit).is_some_and(|fresh| fresh.invocation == unit.invocation && fresh.landed >= want.landed)
}

/// When the code that a process runs was loaded. Bounded: no chain of forks is longer than the unit has processes.
fn code_start(process: &ProcessSeen, by_pid: &BTreeMap<u32, &ProcessSeen>) -> Mono {
    let mut start = process.start;
    let mut at = process;
    for _ in 0..by_pid.len() {
        if !at.same_command_as_parent {
            break;
        }
        let Some(parent) = by_pid.get(&at.ppid) else { break };
        start = start.min(parent.start);
        at = parent;
    }
    start
}
