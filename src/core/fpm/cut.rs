//! The cut: who is still at a request when the threshold has passed, counted while nobody can begin another one.

use std::time::Duration;

use super::{Fpm, FpmStep};
use crate::core::cut::settle_cut;
use crate::core::effect::{Effect, StatusAsk, WorkerRef};
use crate::core::entry::Entry;
use crate::core::evidence::{Source, busy_workers, finishing};
use crate::core::seen::{PoolAnswers, WorkerSeen};
use crate::core::status::{Casualty, CasualtyKind};
use crate::core::step::Turn;
use crate::core::time::{Mono, Span};

/// As long as that a count takes: within it asking again would not say more.
const COUNT_HOLDS: Duration = Duration::from_millis(10);

impl Fpm {
    pub(super) fn counted(&mut self, turn: &mut Turn<'_>, answers: &PoolAnswers) {
        let Source::Status { asks, own } = &self.source else { return };
        let Some(busy) = busy_workers(asks, own, answers) else {
            if turn.now.mono < self.until {
                return self.drain_again(turn.now.mono);
            }
            let (at, guess) = self.last_full.clone().unwrap_or_default();
            self.notes.push("its status did not answer at the cut: the casualties are those of the last answer".to_owned());
            self.cut(turn, guess, at, false);
            return self.enter(turn.now.mono, FpmStep::WaitingForLoan);
        };
        if !busy.is_empty() && turn.now.mono < self.until {
            // It has come in since the drain ended idle, and has its time.
            return self.drain_again(turn.now.mono);
        }
        // With a status socket of its own every worker can be stopped, so nothing new begins between the count and the cut.
        let all = self.source.dedicated();
        let pids: Vec<u32> = busy.iter().map(|worker| worker.pid).collect();
        let workers: Vec<WorkerRef> = self
            .seen
            .processes
            .iter()
            .filter(|process| process.pid != self.seen.main_pid && process.ppid == self.seen.main_pid)
            .filter(|process| pids.contains(&process.pid) || (all && main_workers(asks, answers).contains(&process.pid)))
            .map(|process| WorkerRef { pid: process.pid, start: process.start, cgroup: self.seen.cgroup.clone() })
            .collect();
        // With nobody busy now, somebody may be in a moment: requests keep coming, or the drain would have ended by itself.
        if busy.is_empty() && (workers.is_empty() || !all || (self.idle && !self.exposed)) {
            self.cut(turn, busy, turn.now.mono, true);
            return self.enter(turn.now.mono, FpmStep::WaitingForLoan);
        }
        self.frozen_busy = busy;
        self.frozen_at = turn.now.mono;
        self.pending = Some(turn.ask(Effect::Freeze { workers }));
        self.enter(turn.now.mono, FpmStep::Freezing);
    }

    pub(super) fn recounted(&mut self, turn: &mut Turn<'_>, answers: &PoolAnswers) {
        let Source::Status { asks, own } = &self.source else { return };
        let Some(busy) = busy_workers(asks, own, answers) else {
            self.cut(turn, self.frozen_busy.clone(), self.frozen_at, false);
            return self.enter(turn.now.mono, FpmStep::WaitingForLoan);
        };
        if !busy.is_empty() && turn.now.mono < self.until {
            let workers = std::mem::take(&mut self.frozen);
            self.aside = Some(turn.ask(Effect::Thaw { workers }));
            return self.drain_again(turn.now.mono);
        }
        let patient = !self.thawed;
        let (ending, cut): (Vec<WorkerSeen>, Vec<WorkerSeen>) = busy.into_iter().partition(|worker| patient && finishing(worker));
        self.cut(turn, cut, turn.now.mono, true);
        let thaw: Vec<WorkerRef> =
            self.frozen.iter().filter(|frozen| ending.iter().any(|worker| worker.pid == frozen.pid)).cloned().collect();
        if thaw.is_empty() {
            return self.enter(turn.now.mono, FpmStep::WaitingForLoan);
        }
        self.thawed = true;
        self.pending = Some(turn.ask(Effect::Thaw { workers: thaw }));
        self.enter(turn.now.mono, FpmStep::Thawing);
    }

    /// The look that has confirmed that it is idle was full, and has only just been answered: it is the count.
    pub(super) fn just_counted(&self, now: Mono) -> bool {
        let counted = self.last_full.as_ref().is_some_and(|(at, busy)| busy.is_empty() && now.since(*at) <= COUNT_HOLDS);
        self.idle && !self.exposed && !self.silent && counted
    }

    /// Writes down who is cut if the restart takes place. `at`: when they were seen; `certain`: counted while they were stopped.
    pub(super) fn cut(&mut self, turn: &mut Turn<'_>, workers: Vec<WorkerSeen>, at: Mono, certain: bool) {
        let since = turn.now.mono.since(at);
        let casualties: Vec<Casualty> = workers
            .into_iter()
            .map(|worker| Casualty {
                target: self.target.clone(),
                unit: self.unit.clone(),
                what: CasualtyKind::Request,
                pid: worker.pid,
                name: if worker.script.is_empty() || worker.script == "-" {
                    without_query(&worker.uri)
                } else {
                    without_query(&worker.script)
                },
                ran: Span(Duration::from_millis(worker.duration_us / 1000) + since).to_string(),
                ended_by: "SIGTERM".to_owned(),
                certain: certain && self.frozen.iter().any(|frozen| frozen.pid == worker.pid),
                at: turn.now.wall,
                request: Some(format!("{} {}", worker.method, worker.uri)),
            })
            .collect();
        if casualties.is_empty() {
            // What an earlier count had found has ended by itself.
            settle_cut(turn, &self.unit, false, false);
        } else {
            let (unit, invocation) = (self.unit.clone(), self.seen.invocation.clone());
            turn.record(Entry::Cutting { unit, invocation, asked: turn.now.mono, grace: None, casualties });
        }
    }
}

fn main_workers(asks: &[StatusAsk], answers: &PoolAnswers) -> Vec<u32> {
    let statuses = asks.iter().filter_map(|ask| answers.get(&ask.pool).and_then(|answer| answer.as_ref().ok()));
    statuses.flat_map(|status| status.workers.iter().flatten().map(|worker| worker.pid)).collect()
}

fn without_query(uri: &str) -> String {
    uri.split('?').next().unwrap_or(uri).to_owned()
}
