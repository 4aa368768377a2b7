//! The restart: one RestartUnit, with SIGKILL after the grace, and what a look says has become of it.

use std::time::Duration;

use super::{Fpm, FpmStep, Purpose, RESTART_LOOK};
use crate::core::cut::settle_cut;
use crate::core::effect::{Effect, Fault, Outcome};
use crate::core::entry::Entry;
use crate::core::ladder::{Ladder, Rung};
use crate::core::loans::{Loan, Loans, fpm_drop_in};
use crate::core::seen::{Active, ProcessSeen, UnitSeen};
use crate::core::step::Turn;
use crate::core::time::Mono;

/// php-fpm is up in 33-200 ms (facts 6a); 200 static workers take up to 1.2 s.
pub(super) const START_TIMEOUT: Duration = Duration::from_secs(95);

impl Fpm {
    /// Whether [`Fpm::renew`] would not have to wait: what is lent is there, our own rate allows a restart, the journal can be written.
    /// All that is settled before workers are stopped for the count.
    #[must_use]
    pub fn may_renew(&mut self, turn: &Turn<'_>, loans: &mut Loans) -> bool {
        if self.purpose != Purpose::Renew {
            // Generations are lent nothing: their template has what they need.
            return turn.journal_good && (self.purpose != Purpose::End || self.cleared);
        }
        loans.want(&self.unit, &fpm_drop_in(self.rules.term_timeout));
        // Without the loan a stubborn child costs the whole grace, no more: not worth an old opcache.
        loans.of(&self.unit) != Loan::Coming && self.rate_allows(turn) && turn.journal_good
    }

    /// Our own limit is well below systemd's, past which the unit would be left stopped (facts 7j).
    fn rate_allows(&mut self, turn: &Turn<'_>) -> bool {
        let interval = Duration::from_millis(self.seen.start_limit_interval_ms);
        let burst = usize::try_from(self.seen.start_limit_burst).unwrap_or(usize::MAX);
        if burst == 0 || interval.is_zero() {
            return true;
        }
        let allowed = burst.saturating_sub(2).max(1);
        let recent: Vec<_> =
            turn.memory.restarts.get(&self.unit).into_iter().flatten().filter(|at| turn.now.wall.since(**at) < interval).collect();
        if recent.len() < allowed {
            return true;
        }
        let oldest = recent.get(recent.len() - allowed).map(|at| turn.now.wall.since(**at)).unwrap_or_default();
        self.next = turn.now.mono.after(interval.saturating_sub(oldest));
        false
    }

    pub(super) fn restart(&mut self, turn: &mut Turn<'_>) {
        if self.purpose == Purpose::Renew {
            // If systemd does not restart it, it is what it was.
            self.unproven |= turn.memory.unproven.contains_key(&self.unit);
            turn.record(Entry::Unproven { target: self.target.clone(), unit: self.unit.clone() });
        }
        let cut = self.frozen.clone();
        let within = self.rules.term_timeout + START_TIMEOUT;
        self.enter(turn.now.mono, FpmStep::Restarting);
        self.restarted_at = turn.now.wall;
        self.old_gone = false;
        self.looked_at = Mono::BOOT;
        self.within = turn.now.mono.after(within);
        self.pending = Some(turn.ask(Effect::Restart { unit: self.unit.clone(), cut, within }));
        self.ladder = Some(Ladder::new(turn.now.mono, self.rules.term_timeout));
    }

    /// The restart takes its time: has the old master gone?
    pub(super) fn escalate(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now.mono;
        if self.looking.is_none() && now >= self.since.after(RESTART_LOOK) && now >= self.next {
            self.next = now.after(RESTART_LOOK);
            self.look(turn);
        }
        let Some(ladder) = &mut self.ladder else { return };
        let grace_over = ladder.grace_over();
        // Only on the word of a look that began after the grace: the new master is not to be killed for the old one.
        let old_lives = !self.old_gone && ladder.has_begun() && self.looked_at >= grace_over;
        match ladder.rung(now) {
            Rung::Kill if old_lives => {
                ladder.killed(now);
                self.aside = Some(turn.ask(Effect::kill(&self.unit, &self.seen)));
            }
            Rung::Unkillable
                if old_lives && !self.seen.processes.is_empty() && now >= ladder.sent().after(self.rules.term_timeout + START_TIMEOUT) =>
            {
                let why = self.stuck();
                self.pending = None;
                self.break_down(turn, why);
            }
            _ => {}
        }
    }

    /// Of the old processes those are kept that are there still.
    pub(super) fn still_there(&mut self, seen: &UnitSeen) {
        let is_there = |old: &ProcessSeen| seen.processes.iter().any(|now| (now.pid, now.start) == (old.pid, old.start));
        self.seen.processes.retain(is_there);
    }

    /// Trap T13.
    pub(super) fn stuck(&self) -> String {
        let pids: Vec<String> = self.seen.processes.iter().map(|process| process.pid.to_string()).collect();
        let pids = pids.join(", ");
        if self.ladder.as_ref().is_some_and(Ladder::was_killed) {
            format!("process {pids} does not end, not even by SIGKILL: it is stuck in the kernel")
        } else {
            format!("process {pids} of the old run is still there")
        }
    }

    /// What the job says of itself is little (facts F1.7): a look tells.
    pub(super) fn restarted(&mut self, turn: &mut Turn<'_>, outcome: &Outcome) {
        if let Outcome::Fault(fault @ (Fault::NoSuchUnit(_) | Fault::Refused(_) | Fault::Journal(_))) = outcome {
            let what = match self.purpose {
                Purpose::Renew => "restart",
                Purpose::Start => "start",
                Purpose::End => "stop",
            };
            return self.not_restarted(turn, &format!("systemd would not {what} it: {fault}"));
        }
        self.next = turn.now.mono;
        self.since = Mono::BOOT;
        self.look(turn);
    }

    /// The job has ended, as far as is known: a new invocation, or a unit that does not come up (facts 1h, 7j).
    pub(super) fn settle(&mut self, turn: &mut Turn<'_>, seen: &UnitSeen, before: &str) {
        let now = turn.now.mono;
        if self.purpose == Purpose::End {
            return self.ended(turn, seen, before);
        }
        if (seen.job || seen.active == Active::Deactivating) && now < self.within {
            // The bus went away meanwhile, not the job: look again.
            self.old_gone = seen.invocation != before;
            return;
        }
        if seen.invocation == before && seen.active.runs() && seen.active != Active::Deactivating {
            return self.not_restarted(turn, "systemd took the restart and did not do it: its InvocationID is the old one");
        }
        self.frozen.clear();
        self.tell_gone(turn);
        settle_cut(turn, &self.unit, true, self.ladder.as_ref().is_some_and(Ladder::was_killed));
        if !seen.active.runs() || seen.main_pid == 0 || seen.invocation == before {
            let mut why = self.not_up(seen);
            // What SIGKILL did not end holds its socket.
            self.still_there(seen);
            if !self.seen.processes.is_empty() {
                why = format!("{}; {why}", self.stuck());
            }
            return self.break_down(turn, why);
        }
        self.seen = seen.clone();
        let fresh = Entry::Fresh {
            target: self.target.clone(),
            unit: self.unit.clone(),
            invocation: seen.invocation.clone(),
            landed: self.want.landed,
        };
        turn.record(fresh);
        self.begin_proof(now);
    }

    pub(super) fn not_up(&self, seen: &UnitSeen) -> String {
        format!("it does not come up with the new code: {:?}, Result={}; see journalctl -u {}", seen.active, seen.result, self.unit)
    }

    /// Nothing has happened to it: what was stopped for the count goes on.
    pub(super) fn not_restarted(&mut self, turn: &mut Turn<'_>, why: &str) {
        self.uncount(turn);
        if self.unproven {
            return self.break_down(turn, why.to_owned());
        }
        if self.purpose == Purpose::Renew {
            turn.record(Entry::Proven { unit: self.unit.clone() });
        }
        self.refuse(turn, why.to_owned());
    }
}
