//! Which processes are stale: the contract's definition, in one place.

use std::collections::BTreeMap;
use std::time::Duration;

use super::memory::{TargetMemory, Want};
use super::seen::{ProcessSeen, UnitSeen};
use super::target::matches_any;
use super::time::Mono;

/// A start within this after the landing counts as before it: start times are up to 34 ms early (facts F4.6).
pub const START_BLUR: Duration = Duration::from_millis(50);

/// After this long past the landing, no process that started before its blur can still be unseen by a look.
pub const LOOK_FROM: Duration = Duration::from_millis(100);

/// What is said of a run that goes on after its stale processes have ended.
pub const RENEWED_ITSELF: &str = "it renewed itself: what runs of it was started after the deploy";

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

/// Whether a process carries deployed code: its argv[0] or its comm is one of these names or globs (facts M12). No names: every process does.
#[must_use]
pub fn carries(code: &[String], process: &ProcessSeen) -> bool {
    let named = |name: &str| matches_any(code, name);
    code.is_empty() || named(&process.comm) || process.argv0.as_deref().is_some_and(named)
}

/// The stale processes of a unit: those of `code` that started before the landing, where a fork with its parent's command line is as old as
/// that parent (facts M12), unless this agent started this very invocation for that landing.
#[must_use]
pub fn stale(unit: &UnitSeen, code: &[String], want: &Want, target: &TargetMemory) -> Stale {
    if started_by_us(unit, want, target) {
        return Stale::default();
    }
    let by_pid: BTreeMap<u32, &ProcessSeen> = unit.processes.iter().map(|process| (process.pid, process)).collect();
    let limit = want.landed.after(START_BLUR);
    let old = |process: &&ProcessSeen| carries(code, process) && code_start(process, &by_pid) < limit;
    let processes: Vec<ProcessSeen> = unit.processes.iter().filter(old).cloned().collect();
    let oldest = processes.iter().map(|process| process.start).min();
    Stale { processes, oldest }
}

/// Whether what started then is what an emergency is about. One that was started for it is not, also for a deploy that goes on with it.
#[must_use]
pub fn is_urgent(start: Mono, want: &Want) -> bool {
    want.forced && start < want.emergency.unwrap_or(want.landed).after(START_BLUR)
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
#[must_use]
pub fn code_start(process: &ProcessSeen, by_pid: &BTreeMap<u32, &ProcessSeen>) -> Mono {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn process(pid: u32, ppid: u32, start: u64, comm: &str, argv0: &str) -> ProcessSeen {
        let (comm, argv0) = (comm.to_owned(), Some(argv0.to_owned()));
        let start = Mono(start * 1_000_000);
        ProcessSeen { pid, ppid, start, comm, argv0, same_command_as_parent: false, pool: None, running: false, cpu_ticks: 0 }
    }

    fn pids(processes: &[ProcessSeen], code: &[&str]) -> Vec<u32> {
        let unit = UnitSeen { unit: "a.service".to_owned(), processes: processes.to_vec(), ..UnitSeen::default() };
        let code: Vec<String> = code.iter().map(|&name| name.to_owned()).collect();
        let want = Want { landed: Mono(100_000_000), ..Want::default() };
        let stale = stale(&unit, &code, &want, &TargetMemory::default());
        stale.processes.iter().map(|process| process.pid).collect()
    }

    #[test]
    fn only_what_carries_code_makes_stale() {
        let processes = [
            process(1, 0, 10, "python3", "python3"),
            process(2, 1, 10, "sh", "sh"),
            process(3, 2, 10, "php8.2", "php"),
            process(4, 2, 10, "refreshLinks", "php"),
            process(5, 2, 110, "php", "php"),
        ];
        assert_eq!(pids(&processes, &[]), [1, 2, 3, 4]);
        assert_eq!(pids(&processes, &["php*"]), [3, 4]);
        assert_eq!(pids(&processes, &["php8.?"]), [3]);
        assert_eq!(pids(&processes, &["refreshLinks"]), [4]);
        assert_eq!(pids(&processes, &["ruby", "p?thon3"]), [1]);
        assert_eq!(pids(&processes, &["ph"]), [0; 0]);
    }

    #[test]
    fn a_fork_is_as_old_as_the_interpreter_that_it_is_a_copy_of() {
        let copy = |mut process: ProcessSeen| {
            process.same_command_as_parent = true;
            process
        };
        let loaded_before = [process(1, 0, 10, "bash", "bash"), process(2, 1, 90, "php", "php"), copy(process(3, 2, 110, "php", "php"))];
        assert_eq!(pids(&loaded_before, &["php*"]), [2, 3]);
        // A subshell is no interpreter, however old, and what it starts is not its copy.
        let loaded_after = [process(1, 0, 10, "bash", "bash"), copy(process(2, 1, 90, "bash", "bash")), process(3, 2, 110, "php", "php")];
        assert_eq!(pids(&loaded_after, &["php*"]), [0; 0]);
    }
}
