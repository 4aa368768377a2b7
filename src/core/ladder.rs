//! The ladder that every kind of target goes down: drain, then SIGTERM with its grace, then SIGKILL, then "cannot be killed".

use std::time::Duration;

use super::seen::{Active, ProcessSeen, UnitSeen};
use super::time::Mono;

/// After SIGKILL a process is gone in milliseconds (facts F3.1: 12 ms); one that is still there after this long sits in the kernel.
pub const KILL_PATIENCE: Duration = Duration::from_secs(5);

/// After a SIGKILL that could not be sent.
const KILL_AGAIN: Duration = Duration::from_secs(1);

/// The rungs below the drain, for one unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ladder {
    /// When StopUnit or RestartUnit was decided: the clock starts there, whatever ExecStop= does (facts F3.7).
    sent: Mono,
    /// When systemd began to stop which run, as the first look that found it at that says.
    begun: Option<(String, Mono)>,
    term_timeout: Duration,
    killed: Option<Mono>,
    /// When the first one was asked for.
    killed_from: Option<Mono>,
    /// The processes that it was for.
    hit: Vec<(u32, Mono)>,
    /// A SIGKILL could not be sent: not again before this.
    not_before: Mono,
}

/// What the ladder says now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Rung {
    /// It has its grace until then.
    Grace { until: Mono },
    /// The grace is over: SIGKILL.
    Kill,
    /// SIGKILL was sent; look until then.
    Dying { until: Mono },
    /// Not even SIGKILL ended it.
    Unkillable,
}

impl Ladder {
    #[must_use]
    pub fn new(sent: Mono, term_timeout: Duration) -> Ladder {
        Ladder { sent, begun: None, term_timeout, killed: None, killed_from: None, hit: Vec::new(), not_before: sent }
    }

    /// What a look shows. On a busy host the disk may take longer over the intent than the grace is, or systemd over its queue: the grace counts from when
    /// systemd began.
    pub fn begins(&mut self, seen: &UnitSeen) {
        if seen.active == Active::Deactivating && self.begun.as_ref().is_none_or(|(run, _)| *run != seen.invocation) {
            self.begun = Some((seen.invocation.clone(), seen.state_since));
        }
    }

    /// Whether systemd was found at its stop: before that nobody has sent a signal.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.begun.is_some()
    }

    /// Where the grace counts from.
    #[must_use]
    pub fn sent(&self) -> Mono {
        self.begun.as_ref().map_or(self.sent, |(_, begun)| self.sent.max(*begun))
    }

    #[must_use]
    pub fn grace_over(&self) -> Mono {
        self.sent().after(self.term_timeout)
    }

    #[must_use]
    pub fn was_killed(&self) -> bool {
        self.killed.is_some()
    }

    /// What ended before this was not ended by our SIGKILL.
    #[must_use]
    pub fn killed_from(&self) -> Option<Mono> {
        self.killed_from
    }

    /// SIGTERM has been sent by now, which may have taken a while: the grace counts from here.
    pub fn term_sent(&mut self, now: Mono) {
        self.sent = now;
    }

    /// SIGKILL was sent now.
    pub fn killed(&mut self, now: Mono) {
        self.killed.get_or_insert(now);
        self.killed_from.get_or_insert(now);
    }

    /// SIGKILL is sent now, to these.
    pub fn kills(&mut self, now: Mono, processes: &[ProcessSeen]) {
        self.killed = Some(now);
        self.killed_from.get_or_insert(now);
        self.hit = processes.iter().map(|process| (process.pid, process.start)).collect();
    }

    /// It has been sent by now, which may have taken a while.
    pub fn kill_sent(&mut self, now: Mono) {
        self.killed = Some(now);
    }

    /// It was not sent after all, since systemd does not answer: again a little later.
    pub fn kill_failed(&mut self, now: Mono) {
        (self.killed, self.killed_from) = (None, None);
        self.not_before = now.after(KILL_AGAIN);
    }

    pub fn rung(&self, now: Mono) -> Rung {
        let due = self.grace_over().max(self.not_before);
        match self.killed {
            Some(at) if now >= at.after(KILL_PATIENCE) => Rung::Unkillable,
            Some(at) => Rung::Dying { until: at.after(KILL_PATIENCE) },
            None if now >= due => Rung::Kill,
            None => Rung::Grace { until: due },
        }
    }

    /// The same of a unit of which a look that began then showed these processes: an ExecStopPost= that began after the SIGKILL has had its time, and
    /// nobody has sent it a signal.
    pub fn rung_of(&self, looked: Mono, processes: &[ProcessSeen]) -> Rung {
        match self.rung(looked) {
            Rung::Unkillable if !processes.iter().any(|process| self.hit.contains(&(process.pid, process.start))) => Rung::Kill,
            rung => rung,
        }
    }
}
