//! An old generation that would take new requests still, since it shares its listening socket with the others. Its workers are ended one by one as they
//! fall idle, and none that works is sent anything (facts 1i).
//!
//! First the master is stopped, or it would start others in their place. Then, again and again: the workers that its status calls idle are stopped; those
//! that it still calls idle then are told to end by SIGQUIT, which a worker that waits for a connection obeys at once (facts 1j), and the others go
//! on. A stopped master does nothing else that matters here; StopUnit wakes it (facts, section 2).
//!
//! It is no way for connections that a web server holds open (FastCGI keep-alive): a request may be on its way over one that looks idle, and is lost with it
//! (measured with Apache: one in fifty under load). Only the web server can leave those.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::{Early, Fpm, FpmStep, Purpose, STATUS_TIMEOUT};
use crate::core::effect::{Effect, Outcome, WorkerRef};
use crate::core::evidence::Counted;
use crate::core::seen::{PoolAnswers, WorkerSeen, WorkerState};
use crate::core::step::Turn;
use crate::core::time::Mono;

#[derive(Debug, Default)]
pub(super) struct Retiring {
    stage: Stage,
    /// When the master was stopped.
    since: Option<Mono>,
    /// Idle workers that are stopped.
    idle: Vec<WorkerRef>,
    /// Those that were told to end. The status of a stopped master names them for ever.
    ended: BTreeSet<u32>,
    /// At the last look nobody was idle.
    closed: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    #[default]
    Master,
    Idle,
    Recount,
}

impl Fpm {
    /// Whether it takes new requests unless it is kept from it.
    pub(super) fn retires(&self) -> bool {
        self.purpose == Purpose::End && self.shared
    }

    /// It takes no new request any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.retiring.closed || !self.seen.active.runs()
    }

    /// It goes on to take new requests, and nobody knows which of its workers could be ended for that.
    #[must_use]
    pub fn cannot_retire(&self) -> bool {
        let mute = matches!(self.step, FpmStep::Draining { .. }) && !self.source.asks();
        self.retires() && (self.silent || mute) && !self.is_closed()
    }

    /// Its status answers, the count's too: it is waited for again, if it was not since nobody knew which of its workers were idle.
    pub(super) fn has_said(&mut self, now: Mono, counted: &Counted) {
        if counted.silent.is_empty() && self.source.asks() {
            self.silent = false;
            self.lingers_on(now, Early::Mute);
        }
    }

    /// Its master is to stay stopped.
    pub(super) fn keeps_stopped(&self) -> bool {
        self.retiring.since.is_some() && !self.at_rest()
    }

    /// The answers without the workers that have ended: a stopped master does not take them off its status, where they are idle, or at their last
    /// request, for ever (measured on 8.2 and 8.4).
    pub(super) fn of_the_living<'a>(&self, answers: &'a PoolAnswers) -> Cow<'a, PoolAnswers> {
        if self.retiring.since.is_none_or(|since| self.seen_at < since) {
            return Cow::Borrowed(answers);
        }
        let mut living = answers.clone();
        for status in living.values_mut().flatten() {
            if let Some(workers) = &mut status.workers {
                workers.retain(|worker| self.seen.processes.iter().any(|process| process.pid == worker.pid));
            }
            // That none is left to be idle does not mean that all are busy.
            status.idle = status.idle.max(1);
        }
        Cow::Owned(living)
    }

    /// With a full answer of its status in hand.
    pub(super) fn begin_to_retire(&mut self, turn: &mut Turn<'_>, answers: &PoolAnswers) {
        let draining = matches!(self.step, FpmStep::Draining { .. });
        if !self.retires() || !draining || self.silent || !turn.journal_good || self.seen.main_pid == 0 {
            return;
        }
        // What is still to go on would be stopped now, and go on before it is told to end.
        if self.aside.is_some() {
            return;
        }
        let now = turn.now.mono;
        let worker = |pid: u32, start: Mono| WorkerRef { pid, start, cgroup: self.seen.cgroup.clone() };
        let workers = match self.retiring.since {
            None => {
                let master = self.seen.processes.iter().find(|process| process.pid == self.seen.main_pid);
                let Some(master) = master.map(|master| worker(master.pid, master.start)) else { return };
                self.retiring.stage = Stage::Master;
                vec![master]
            }
            // Who is there is known only by a look that is younger than that.
            Some(since) if self.seen_at < since => {
                if self.looking.is_none() {
                    self.look(turn);
                }
                return;
            }
            Some(_) => {
                let pids: BTreeSet<u32> = idle(answers).map(|worker| worker.pid).collect();
                let there = self.seen.processes.iter().filter(|process| process.ppid == self.seen.main_pid && pids.contains(&process.pid));
                let there = there.filter(|process| !self.retiring.ended.contains(&process.pid));
                let there = there.map(|process| worker(process.pid, process.start)).collect();
                self.retiring.stage = Stage::Idle;
                there
            }
        };
        self.retiring.closed = self.retiring.since.is_some() && workers.is_empty();
        if !workers.is_empty() {
            self.enter(now, FpmStep::Retiring);
            self.pending = Some(turn.ask(Effect::Freeze { workers }));
        }
    }

    pub(super) fn retire_on(&mut self, turn: &mut Turn<'_>, outcome: &Outcome) {
        let now = turn.now.mono;
        match (self.retiring.stage, outcome) {
            (Stage::Master, Outcome::Frozen(workers)) => {
                self.retiring.since = (!workers.is_empty()).then_some(now);
                self.look(turn);
            }
            (Stage::Idle, Outcome::Frozen(workers)) => {
                self.retiring.idle.clone_from(workers);
                self.retiring.stage = Stage::Recount;
                return self.ask_status(turn, true, STATUS_TIMEOUT);
            }
            // Nobody is told to end once it is to serve again.
            (Stage::Recount, Outcome::Pools(answers)) if !self.needed => {
                let pids: BTreeSet<u32> = idle(answers).map(|worker| worker.pid).collect();
                let stopped = std::mem::take(&mut self.retiring.idle);
                let (workers, spare): (Vec<WorkerRef>, Vec<WorkerRef>) = stopped.into_iter().partition(|worker| pids.contains(&worker.pid));
                self.retiring.ended.extend(workers.iter().map(|worker| worker.pid));
                self.aside = Some(turn.ask(Effect::Retire { workers, spare }));
            }
            (Stage::Recount, _) => {
                let spare = std::mem::take(&mut self.retiring.idle);
                self.aside = Some(turn.ask(Effect::Retire { workers: Vec::new(), spare }));
            }
            _ => {}
        }
        let until = self.until;
        self.enter(now, FpmStep::Draining { until });
        if self.needed {
            self.serves_again(turn);
        }
    }

    /// What is stopped of it goes on, and its master starts workers in the place of those that have ended.
    pub(super) fn takes_requests_again(&self, turn: &mut Turn<'_>) {
        let workers: Vec<WorkerRef> = turn.memory.stands_still().filter(|worker| worker.cgroup == self.seen.cgroup).cloned().collect();
        if !workers.is_empty() {
            turn.ask(Effect::Thaw { workers });
        }
    }
}

fn idle(answers: &PoolAnswers) -> impl Iterator<Item = &WorkerSeen> {
    let workers = answers.values().flatten().flat_map(|status| status.workers.iter().flatten());
    workers.filter(|worker| matches!(worker.state, WorkerState::Idle | WorkerState::ReadingHeaders))
}
