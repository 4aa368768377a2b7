//! Processes outside of every unit: what the agent finds, and what its signals do to them.

use restart_agent::core::effect::WorkerRef;
use restart_agent::core::seen::{ProcessSeen, StraySeen};
use restart_agent::core::time::Mono;

use super::{MS, OnTerm, Us, World};

#[derive(Debug, Clone)]
pub struct Stray {
    pub seen: StraySeen,
    pub on_term: OnTerm,
    pub ends: Option<Us>,
    pub terms: u32,
    pub kills: u32,
}

impl World {
    /// A php of www-data, started now.
    pub fn add_stray(&mut self, pid: u32, cgroup: &str, transient: bool, on_term: OnTerm) {
        let process = ProcessSeen { pid, ppid: 1, start: Mono(self.now), comm: "php".to_owned(), ..ProcessSeen::default() };
        let (user, cgroup, tty) = ("www-data".to_owned(), cgroup.to_owned(), Some(format!("pts/{pid}")));
        let seen = StraySeen { process, user, cgroup, tty, transient, contained: false, left_behind: false };
        self.strays.push(Stray { seen, on_term, ends: None, terms: 0, kills: 0 });
    }

    #[must_use]
    pub(crate) fn living_strays(&self) -> Vec<StraySeen> {
        let lives = |stray: &&Stray| stray.ends.is_none_or(|ends| ends > self.now);
        self.strays.iter().filter(lives).map(|stray| stray.seen.clone()).collect()
    }

    /// Whether it was there to be sent the signal.
    pub(crate) fn signal_stray(&mut self, process: &WorkerRef, kill: bool) -> bool {
        let now = self.now;
        let same = |stray: &&mut Stray| {
            let seen = &stray.seen;
            seen.process.pid == process.pid && seen.process.start == process.start && seen.cgroup == process.cgroup
        };
        let Some(stray) = self.strays.iter_mut().find(same).filter(|stray| stray.ends.is_none_or(|ends| ends > now)) else { return false };
        let ends = match (kill, stray.on_term) {
            (true, _) => Some(now + MS),
            (false, OnTerm::Dies) => Some(now + 2 * MS),
            (false, OnTerm::Exits { after, .. }) => Some(now + after),
            (false, OnTerm::Ignores) => None,
        };
        stray.ends = stray.ends.into_iter().chain(ends).min();
        *(if kill { &mut stray.kills } else { &mut stray.terms }) += 1;
        true
    }
}
