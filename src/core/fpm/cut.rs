//! The cut: who is still at a request when the threshold has passed, counted while nobody can begin another one.

use std::time::Duration;

use super::drain::FRESH;
use super::{Fpm, FpmStep, Purpose, STATUS_TIMEOUT};
use crate::core::cut::settle_cut;
use crate::core::deploy::printable;
use crate::core::effect::{Effect, WorkerRef};
use crate::core::entry::Entry;
use crate::core::evidence::{Counted, MutePool, finishing};
use crate::core::seen::{Active, PoolAnswers, WorkerSeen};
use crate::core::status::{Casualty, CasualtyKind};
use crate::core::step::Turn;
use crate::core::time::{Mono, Now, Span};

/// As long as that a count takes: within it asking again would not say more.
const COUNT_HOLDS: Duration = Duration::from_millis(10);
/// So old the word of the pools may be when it is restarted.
pub const CHECKED_FOR: Duration = Duration::from_secs(2);
/// Characters of a request's name. Longer ones are cut.
const LONGEST_NAME: usize = 300;

impl Fpm {
    /// Goes on to the restart: counts what is in flight, also after a drain that ended idle, since something may have come in since.
    pub fn renew(&mut self, now: Mono) {
        if self.unproven && self.seen.active.runs() {
            return self.begin_proof(now);
        }
        let asks = self.source.asks();
        for pool in self.source.mute.iter().filter(|_| !self.mute_idle && !self.idle) {
            let cut = "nobody knows which of its requests were cut";
            self.notes.push(match pool.unread() {
                true => format!("its pools are not known, so {cut}"),
                false => format!("{} has no status page, so {cut}: set pm.status_path and pm.status_listen", pool.called()),
            });
        }
        // What was seen while it was found idle need not be asked again; of what is busy it is to be known who is who at this moment.
        let seen = self.idle && now.since(self.seen_at) <= FRESH && !self.is_seen_of_old();
        let step = match (self.seen.active.runs(), asks && seen) {
            // What had failed may have come up again meanwhile, by itself (Restart=): that is not to be restarted, nor cut without a count.
            (false, _) if self.purpose == Purpose::Renew => FpmStep::Seeing,
            (false, _) => FpmStep::WaitingForLoan,
            (true, true) => FpmStep::Counting,
            (true, false) => FpmStep::Seeing,
        };
        // An answer that is on its way may be the count, if it is to be a full one, and nothing is going on again meanwhile.
        self.pending = self.pending.take().filter(|_| step == FpmStep::Counting && self.asked_full && self.aside.is_none());
        self.enter(now, step);
    }

    /// It has drained, and something else keeps it from being counted and restarted.
    #[must_use]
    pub fn waits_before_its_count(&self, now: Mono) -> bool {
        self.step == FpmStep::Seeing && self.held_up && now >= self.since.after(CHECKED_FOR)
    }

    /// It is needed after all, and has its time as before.
    pub fn not_yet(&mut self, now: Mono) {
        self.held_up = false;
        self.drain_again(now);
    }

    /// Its time is over; what else its restart needs is to be seen to again.
    pub fn begin_drain_again(&mut self, now: Mono) {
        self.held_up = false;
        self.until = now;
        self.drain_again(now);
    }

    pub(super) fn counted(&mut self, turn: &mut Turn<'_>, answers: &PoolAnswers) {
        let now = turn.now.mono;
        if self.note_start(now, answers) {
            // Somebody has restarted it since it was seen.
            return self.enter(now, FpmStep::Seeing);
        }
        let answers = &*self.of_the_living(answers);
        let counted = Counted::of(&self.source, answers);
        self.has_said(now, &counted);
        if now < self.until && (counted.workers().next().is_some() || !counted.silent.is_empty()) {
            // It has come in since the drain ended idle, and has its time. Nobody is cut of those that an earlier count has found.
            settle_cut(turn, &self.unit, false, false);
            return self.drain_again(now);
        }
        if self.asks_again(turn, answers, &counted) {
            return;
        }
        let busy: Vec<WorkerSeen> = counted.workers().cloned().collect();
        self.last_full.extend(counted.busy.into_iter().map(|(pool, busy)| (pool, (now, busy))));
        self.unanswered = counted.silent;
        if !self.unanswered.is_empty() {
            let why =
                "its status did not answer at the cut: the casualties are those of the last answer, and what the kernel shows".to_owned();
            if !self.notes.contains(&why) {
                self.notes.push(why);
            }
        }
        // Of a pool whose status has a socket of its own every worker can be stopped, so nothing new begins between the count and the cut.
        let pids: Vec<u32> = self.dedicated_workers(answers).chain(busy.iter().map(|worker| worker.pid)).collect();
        let workers: Vec<WorkerRef> = self
            .seen
            .processes
            .iter()
            .filter(|process| process.pid != self.seen.main_pid && process.ppid == self.seen.main_pid)
            .filter(|process| pids.contains(&process.pid))
            .map(|process| WorkerRef { pid: process.pid, start: process.start, cgroup: self.seen.cgroup.clone() })
            .collect();
        // With nobody busy now, somebody may be in a moment: requests keep coming, or the drain would have ended by itself.
        if busy.is_empty() && (workers.is_empty() || (self.idle && !self.exposed)) {
            self.cut(turn, busy, now, true);
            return self.enter(now, FpmStep::WaitingForLoan);
        }
        self.frozen_busy = busy;
        self.frozen_at = now;
        self.pending = Some(turn.ask(Effect::Freeze { workers }));
        self.enter(now, FpmStep::Freezing);
    }

    fn dedicated_workers<'a>(&'a self, answers: &'a PoolAnswers) -> impl Iterator<Item = u32> + 'a {
        let dedicated = |(pool, _): &(&String, _)| !self.source.takes_own_worker(pool);
        answers
            .iter()
            .filter(dedicated)
            .flat_map(|(_, answer)| answer.iter().flat_map(|status| status.workers.iter().flatten()))
            .map(|worker| worker.pid)
    }

    pub(super) fn recounted(&mut self, turn: &mut Turn<'_>, answers: &PoolAnswers) {
        let now = turn.now.mono;
        let anew = self.note_start(now, answers);
        let answers = &*self.of_the_living(answers);
        let counted = Counted::of(&self.source, answers);
        self.has_said(now, &counted);
        if anew || (now < self.until && (counted.workers().next().is_some() || !counted.silent.is_empty())) {
            // As in the count. Who has no answer now may have begun right before it was stopped.
            let workers = std::mem::take(&mut self.frozen);
            self.aside = Some(turn.ask(Effect::Thaw { workers }));
            return if anew { self.enter(now, FpmStep::Seeing) } else { self.drain_again(now) };
        }
        if self.asks_again(turn, answers, &counted) {
            return;
        }
        // Who did not answer now may have done so in the count.
        self.unanswered = counted.silent.clone();
        let patient = !self.thawed;
        let (ending, cut): (Vec<WorkerSeen>, Vec<WorkerSeen>) =
            counted.busy.into_values().flatten().partition(|worker| patient && finishing(worker));
        self.cut(turn, cut, now, true);
        let thaw: Vec<WorkerRef> =
            self.frozen.iter().filter(|frozen| ending.iter().any(|worker| worker.pid == frozen.pid)).cloned().collect();
        if thaw.is_empty() {
            return self.enter(now, FpmStep::WaitingForLoan);
        }
        self.thawed = true;
        self.pending = Some(turn.ask(Effect::Thaw { workers: thaw }));
        self.enter(now, FpmStep::Thawing);
    }

    /// A pool that does not answer has kept the word of the others waiting, and requests have come in since: these are asked once more, alone.
    fn asks_again(&mut self, turn: &mut Turn<'_>, answers: &PoolAnswers, counted: &Counted) -> bool {
        let alone = answers.len() < self.source.asks.len();
        if counted.silent.is_empty() || counted.busy.is_empty() || alone {
            return false;
        }
        let asks = self.source.asks.iter().filter(|ask| counted.busy.contains_key(&ask.pool)).cloned().collect();
        self.ask_pools(turn, asks, true, STATUS_TIMEOUT);
        true
    }

    /// It is not cut now: what was stopped for the count goes on.
    pub(super) fn uncount(&mut self, turn: &mut Turn<'_>) {
        let workers = std::mem::take(&mut self.frozen);
        if !workers.is_empty() {
            self.aside = Some(turn.ask(Effect::Thaw { workers }));
        }
        settle_cut(turn, &self.unit, false, false);
    }

    /// The look that has confirmed that it is idle was full, and has only just been answered: it is the count.
    pub(super) fn just_counted(&self, now: Mono) -> bool {
        let nobody = |pool: &String| self.last_full.get(pool).is_some_and(|(at, busy)| busy.is_empty() && now.since(*at) <= COUNT_HOLDS);
        self.idle && !self.exposed && !self.silent && self.source.asks.iter().all(|ask| nobody(&ask.pool))
    }

    /// Writes down who is cut if the restart takes place. `at`: when they were seen; `certain`: counted while they were stopped.
    pub(super) fn cut(&mut self, turn: &mut Turn<'_>, workers: Vec<WorkerSeen>, at: Mono, certain: bool) {
        let known = |worker: WorkerSeen| {
            let certain = certain && self.frozen.iter().any(|frozen| frozen.pid == worker.pid);
            self.casualty(turn.now, worker, at, certain)
        };
        let mut casualties: Vec<Casualty> = workers.into_iter().map(known).collect();
        casualties.extend(self.presumed(turn.now));
        if self.source.asks() {
            let known = casualties.iter().filter(|casualty| !casualty.perhaps).count();
            self.tell_flight(turn, u32::try_from(known).unwrap_or(u32::MAX), true);
        }
        if casualties.is_empty() {
            // What an earlier count had found has ended by itself.
            settle_cut(turn, &self.unit, false, false);
        } else {
            let (unit, invocation) = (self.unit.clone(), self.seen.invocation.clone());
            let grace = (self.purpose == Purpose::End).then_some(self.rules.term_timeout);
            turn.record(Entry::Cutting { unit, invocation, asked: turn.now.mono, grace, casualties });
        }
    }

    /// What may be cut of the pools that did not say: those whose status has answered before, by what it said then; what the kernel shows; and a
    /// word that there may be more.
    fn presumed(&self, now: Now) -> Vec<Casualty> {
        let mut presumed = Vec::new();
        // Who is at work in what is being ended already was written down then, or is another's casualty.
        if self.seen.active == Active::Deactivating {
            return presumed;
        }
        let silent = self.layout.iter().flat_map(|layout| &layout.pools).filter(|pool| self.unanswered.contains(&pool.name));
        let silent = silent.map(|pool| (MutePool { name: pool.name.clone(), listen: pool.listen.clone() }, "its status did not answer"));
        // Proven to have no worker left, or by the text of the only pool.
        let mute = self.source.mute.iter().filter(|_| !self.mute_idle).map(|pool| (pool.clone(), pool.why_mute()));
        for (pool, why) in silent.chain(mute) {
            let (at, guess) = self.last_full.get(&pool.name).cloned().unwrap_or_default();
            let workers = pool.workers(&self.seen).count();
            let busy = pool.evidently_busy(&self.before, &self.seen, self.connections.get(&pool.listen).copied());
            let told = guess.len();
            let names: Vec<u32> = guess.iter().map(|worker| worker.pid).collect();
            presumed.extend(guess.into_iter().map(|worker| self.casualty(now, worker, at, false)));
            let others = busy.iter().filter(|pid| !names.contains(pid)).take(busy.len().saturating_sub(told));
            presumed.extend(others.map(|pid| self.nameless(now, *pid, format!("(unknown request of {})", pool.called()), false)));
            // What was seen before it was up may have workers since that nobody has seen.
            if busy.len().max(told) < workers || self.seen.active == Active::Activating {
                presumed.push(self.nameless(now, 0, format!("(requests of {}: {why})", pool.called()), true));
            }
        }
        presumed
    }

    fn casualty(&self, now: Now, worker: WorkerSeen, at: Mono, certain: bool) -> Casualty {
        let name = if worker.script.is_empty() || worker.script == "-" { &worker.uri } else { &worker.script };
        let ran = Duration::from_millis(worker.duration_us / 1000) + now.mono.since(at);
        Casualty {
            pid: worker.pid,
            name: public_name(name),
            ran: Span(ran).to_string(),
            certain,
            request: Some(format!("{} {}", worker.method, worker.uri)),
            ..self.nameless(now, 0, String::new(), false)
        }
    }

    fn nameless(&self, now: Now, pid: u32, name: String, perhaps: bool) -> Casualty {
        Casualty {
            target: self.target.clone(),
            unit: self.unit.clone(),
            what: CasualtyKind::Request,
            pid,
            name,
            ran: String::new(),
            ended_by: "SIGTERM".to_owned(),
            certain: false,
            perhaps,
            at: now.wall,
            rollout: self.rollout.clone(),
            request: None,
        }
    }
}

/// For everybody, and for a line of a log: the path, whatever the client had put there, and no query string.
fn public_name(uri: &str) -> String {
    printable(uri.split('?').next().unwrap_or(uri), LONGEST_NAME)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_named_without_its_secrets_and_in_one_line_t40() {
        assert_eq!(public_name("/w/api.php?token=s3cret"), "/w/api.php");
        let hostile = public_name("/w/x\n\u{1b}[2Jcut: nothing.php?a=b\nc");
        assert_eq!(hostile, "/w/x\u{fffd}\u{fffd}[2Jcut: nothing.php");
        assert_eq!(public_name(&"x".repeat(100_000)).chars().count(), LONGEST_NAME + 1);
    }
}
