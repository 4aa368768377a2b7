//! Processes outside of every unit: what the agent finds, and what its signals do to them.

use restart_agent::core::effect::WorkerRef;
use restart_agent::core::seen::{ProcessSeen, StraySeen};

use super::{Cut, MS, OnTerm, Us, World};
use crate::check::carries;

#[derive(Debug, Clone)]
pub struct Stray {
    pub seen: StraySeen,
    pub on_term: OnTerm,
    pub ends: Option<Us>,
    pub terms: u32,
    /// When it was first asked to end.
    pub termed: Option<Us>,
    pub kills: u32,
    /// Until then it is in uninterruptible sleep, and SIGKILL does not end it.
    pub stuck_until: Us,
}

impl World {
    /// A php of www-data, started now.
    pub fn add_stray(&mut self, pid: u32, cgroup: &str, transient: bool, on_term: OnTerm) {
        let process = ProcessSeen { pid, ppid: 1, start: self.mono(self.now), comm: "php".to_owned(), ..ProcessSeen::default() };
        let (user, cgroup, tty) = ("www-data".to_owned(), cgroup.to_owned(), Some(format!("pts/{pid}")));
        let seen = StraySeen { process, user, cgroup, tty, transient, contained: false, left_behind: false };
        self.strays.push(Stray { seen, on_term, ends: None, terms: 0, termed: None, kills: 0, stuck_until: 0 });
    }

    /// Whatever has one of these names, that of units, too.
    #[must_use]
    pub(crate) fn living_strays(&self, code: &[String]) -> Vec<StraySeen> {
        let lives = |stray: &&Stray| stray.ends.is_none_or(|ends| ends > self.now);
        let mut living: Vec<StraySeen> = self.strays.iter().filter(lives).map(|stray| stray.seen.clone()).collect();
        for unit in self.units.values().filter(|unit| unit.processes.values().any(|process| carries(code, process))) {
            // One of no target may be signalled if it is transient, and what becomes of units is `systemd`'s.
            let (cgroup, transient) = (unit.cgroup(), unit.transient && self.is_excluded(&unit.name));
            let of = |process: ProcessSeen| StraySeen { process, cgroup: cgroup.clone(), transient, ..StraySeen::default() };
            let named = |process: &ProcessSeen| unit.processes.get(&process.pid).is_some_and(|process| carries(code, process));
            living.extend(self.unit_seen(unit, false).processes.into_iter().filter(named).map(of));
        }
        for stray in &mut living {
            let unit = self.units.get(restart_agent::core::unit_of(&stray.cgroup));
            stray.left_behind = unit.is_some_and(|unit| !unit.active.runs());
        }
        living
    }

    /// Its SIGTERM is on its way: its grace counts from here.
    pub(crate) fn stray_is_asked(&mut self, process: &WorkerRef) {
        let now = self.now;
        if let Some(stray) = self.strays.iter_mut().find(|stray| stray.seen.process.pid == process.pid) {
            stray.termed.get_or_insert(now);
        }
    }

    /// Whether it was there to be sent the signal.
    pub(crate) fn signal_stray(&mut self, process: &WorkerRef, kill: bool) -> bool {
        let now = self.now;
        if let Some(unit) = self.units.values().find(|unit| unit.processes.contains_key(&process.pid)).map(|unit| unit.name.clone()) {
            self.violates(format!("the agent signals process {} of {unit} as a stray", process.pid));
        }
        if let Some(stray) = self.strays.iter().find(|stray| stray.seen.process.pid == process.pid).cloned() {
            self.agent_may_signal_stray(&stray, kill);
        }
        let same = |stray: &&mut Stray| {
            let seen = &stray.seen;
            seen.process.pid == process.pid && seen.process.start == process.start && seen.cgroup == process.cgroup
        };
        let Some(stray) = self.strays.iter_mut().find(same).filter(|stray| stray.ends.is_none_or(|ends| ends > now)) else { return false };
        let ends = match (kill, stray.on_term) {
            (true, _) => Some((now + MS).max(stray.stuck_until)),
            (false, OnTerm::Dies) => Some(now + 2 * MS),
            (false, OnTerm::Exits { after, .. }) => Some(now + after),
            (false, OnTerm::Ignores) => None,
        };
        stray.ends = stray.ends.into_iter().chain(ends).min();
        *(if kill { &mut stray.kills } else { &mut stray.terms }) += 1;
        let unit = restart_agent::core::unit_of(&process.cgroup).to_owned();
        let known = self.cuts.iter().any(|cut| cut.pid == process.pid && cut.unit == unit);
        if !known {
            // What is about to end by itself may do so before its signal arrives.
            let invocation = format!("of process {}", process.pid);
            self.cuts.push(Cut {
                unit,
                invocation,
                pid: process.pid,
                request: None,
                at: now,
                wall: self.wall(now),
                doubtful: false,
                certain: false,
                pool: None,
                silent: false,
            });
        }
        true
    }
}
