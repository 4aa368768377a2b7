//! The proof: ping, the start time of its status page, warm-up, and a script that answers with the deploy's id.

use std::time::Duration;

use super::looks::STOPPED;
use super::{Fpm, FpmStep, Purpose, READS, RESTART_LOOK, TESTS};
use crate::core::effect::{Effect, FpmRequest, Outcome};
use crate::core::entry::Entry;
use crate::core::evidence::all_at_work;
use crate::core::memory::Begun;
use crate::core::seen::{Active, PoolAnswers, UnitSeen};
use crate::core::status::UnitEnd;
use crate::core::step::Turn;
use crate::core::time::{Mono, Now};

const VERIFY_TIMEOUT: Duration = Duration::from_secs(30);
/// Of that, for a status page that has never answered.
const NEVER_ANSWERED: Duration = Duration::from_secs(2);
/// For a ping, and for what a missed one makes worth asking.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
const VERIFY_EVERY: Duration = Duration::from_millis(100);
const WARM_TIMEOUT: Duration = Duration::from_secs(60);
const PROOF_TIMEOUT: Duration = Duration::from_secs(30);
const PROOF_EVERY: Duration = Duration::from_millis(500);
/// After the warm-up, for systemd to start one that has died meanwhile (Restart=).
const STILL_RUNS: Duration = Duration::from_secs(5);
/// So many runs that die in their proof, one after the other, and it does not serve.
const RERUNS: u32 = 3;

impl Fpm {
    /// Where it listens was not to be learned before its restart, perhaps, and systemd has just restarted it: without that nothing is asked, warmed or
    /// proven. A php-fpm -tt that hangs takes its time, which is not that of the proof.
    pub(super) fn begin_proof(&mut self, now: Mono) {
        let unread = self.layout.is_none() && (READS..READS + TESTS).contains(&self.tests);
        self.enter(now, if unread { FpmStep::Reading } else { FpmStep::Verifying { until: now.after(VERIFY_TIMEOUT) } });
    }

    /// Ping over the main socket where there is a ping path, else the status page there, else READY=1 has to do.
    pub(super) fn verify(&mut self, turn: &mut Turn<'_>, until: Mono) {
        if let Some(ask) = self.ask_whether_at_work(PING_TIMEOUT).filter(|_| std::mem::take(&mut self.missed_ping)) {
            self.pending = Some(turn.ask(ask));
            return;
        }
        let pool = self.layout.as_ref().and_then(|layout| layout.pools.first());
        let path = pool.and_then(|pool| pool.ping_path.clone().or_else(|| pool.status_path.clone()));
        match (pool, path) {
            (Some(pool), Some(path)) => {
                let timeout = PING_TIMEOUT.min(until.since(turn.now.mono)).max(Duration::from_millis(100));
                let request = FpmRequest::Ping { path };
                let socket = self.own_socket().unwrap_or_else(|| pool.listen.clone());
                self.pending = Some(turn.ask(Effect::Request { socket, request, timeout }));
            }
            _ => self.answers(turn.now, until),
        }
    }

    fn answers(&mut self, now: Now, until: Mono) {
        if self.undated { self.serves(now) } else { self.enter(now.mono, FpmStep::Dating { until }) }
    }

    /// Where it, and no other generation, answers. The status socket runs scripts as well (facts 3e), in a worker of the same master.
    pub(super) fn own_socket(&self) -> Option<String> {
        let pool = self.layout.as_ref()?.pools.first()?;
        if self.shared { pool.status_listen.clone() } else { Some(pool.listen.clone()) }
    }

    pub(super) fn pinged(&mut self, turn: &mut Turn<'_>, until: Mono, outcome: &Outcome) {
        match outcome {
            Outcome::Answered { status: 200, .. } => self.answers(turn.now, until),
            Outcome::Pools(answers) if self.is_at_work(answers) => self.answers(turn.now, until),
            // The ping before it went wrong, and that is what there is to tell.
            Outcome::Pools(_) => self.next = turn.now.mono,
            other if turn.now.mono >= until => self.is_silent(turn, format!("it runs, but does not answer its ping: {}", other.said())),
            _ => {
                self.missed_ping = true;
                self.ask_again(turn, VERIFY_EVERY);
            }
        }
    }

    /// READY=1 does not say that it stays (trap T20): what does not answer may have died since, or be another run by now.
    fn ask_again(&mut self, turn: &mut Turn<'_>, pause: Duration) {
        self.next = turn.now.mono.after(pause);
        if self.looking.is_none() && turn.now.mono >= self.look_began.after(RESTART_LOOK) {
            self.look(turn);
        }
    }

    /// What that look says.
    pub(super) fn looked_for_silence(&mut self, turn: &mut Turn<'_>, seen: &UnitSeen) {
        let another = seen.invocation != self.seen.invocation;
        self.saw(seen);
        // One that somebody has stopped may be started again in a moment.
        if seen.active == Active::Failed && !seen.job {
            self.pending = None;
            self.break_down(turn, self.not_up(seen));
        } else if another && seen.active.runs() {
            self.pending = None;
            self.proves_again(turn);
        }
    }

    fn is_silent(&mut self, turn: &mut Turn<'_>, why: String) {
        let why = if self.lives() { why } else { self.not_up(&self.seen) };
        self.break_down(turn, why);
    }

    /// By the last look.
    fn lives(&self) -> bool {
        self.seen.active.runs() && self.seen.main_pid != 0
    }

    /// Asks whether what does not answer its ping has all its workers at work. `None`: its status has no socket of its own.
    #[must_use]
    pub fn ask_whether_at_work(&self, timeout: Duration) -> Option<Effect> {
        let pool = self.layout.as_ref()?.pools.first()?;
        Some(Effect::AskPools { asks: vec![self.source.beside(&pool.name)?], full: false, timeout })
    }

    /// What came of that.
    #[must_use]
    pub fn is_at_work(&self, answers: &PoolAnswers) -> bool {
        self.layout.iter().flat_map(|layout| layout.pools.first()).any(|pool| all_at_work(answers, &pool.name))
    }

    /// `start time` has a resolution of one second (facts 1f).
    pub(super) fn dated(&mut self, turn: &mut Turn<'_>, until: Mono, outcome: &Outcome) {
        let oldest = match outcome {
            Outcome::Pools(answers) => answers.values().map(|answer| answer.as_ref().ok().map(|status| status.start_time)).min().flatten(),
            _ => None,
        };
        match oldest {
            Some(start) if start >= self.restarted_at.seconds() - 1 => self.serves(turn.now),
            Some(_) if turn.now.mono >= until => self.is_silent(turn, "it runs, but its status page shows the old start time".to_owned()),
            None if turn.now.mono >= until => self.is_silent(turn, "it runs, but its status page does not answer".to_owned()),
            // It had said nothing before either, so its silence is no sign that something is wrong with what was started.
            None if !self.answered && turn.now.mono >= self.since.after(NEVER_ANSWERED) => {
                self.notes.push("its status page does not answer: look at `status`, `status_path` and pm.status_path".to_owned());
                // By now its ping is as old as this silence is long, and somebody may have stopped it.
                self.undated = true;
                self.enter(turn.now.mono, FpmStep::Verifying { until });
            }
            _ => self.ask_again(turn, VERIFY_EVERY),
        }
    }

    pub(super) fn serves(&mut self, now: Now) {
        self.warmed = 0;
        self.enter(now.mono, FpmStep::Warming);
        if !self.rules.warm.is_empty() {
            // A file younger than this is not cached, so warming earlier would be for nothing (facts 5e).
            let protection = self.layout.as_ref().map_or(2000, |layout| layout.file_update_protection_ms);
            let from = self.want.landed.after(Duration::from_millis(protection + 100));
            self.next = from.max(now.mono);
        }
    }

    pub(super) fn warm(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now.mono;
        let Some(socket) = self.own_socket() else {
            return self.warm_done(now);
        };
        match self.rules.warm.get(self.warmed).cloned() {
            None => self.warm_done(now),
            Some(_) if now < self.next => {}
            Some(script) => {
                let request = FpmRequest::Script { script };
                self.pending = Some(turn.ask(Effect::Request { socket, request, timeout: WARM_TIMEOUT }));
            }
        }
    }

    pub(super) fn warmed_one(&mut self, now: Mono, outcome: &Outcome) {
        let script = self.rules.warm.get(self.warmed).cloned().unwrap_or_default();
        // Everybody may read this: no query string.
        let script = script.split('?').next().unwrap_or_default();
        match outcome {
            Outcome::Answered { status, .. } if *status < 400 => {}
            Outcome::Answered { status, .. } => self.notes.push(format!("warm-up {script} answered {status}")),
            other => self.notes.push(format!("warm-up {script} failed: {}", other.said())),
        }
        self.warmed += 1;
        self.next = now;
    }

    fn warm_done(&mut self, now: Mono) {
        let within = if self.rules.proof.is_some() { PROOF_TIMEOUT } else { STILL_RUNS };
        self.enter(now, FpmStep::Proving { until: now.after(within) });
    }

    pub(super) fn prove(&mut self, turn: &mut Turn<'_>, until: Mono) {
        let socket = self.own_socket();
        match (self.rules.proof.clone(), socket) {
            (Some(proof), Some(socket)) => {
                let timeout = Duration::from_secs(10).min(until.since(turn.now.mono)).max(Duration::from_millis(100));
                let request = FpmRequest::Script { script: proof.script };
                self.pending = Some(turn.ask(Effect::Request { socket, request, timeout }));
            }
            (Some(_), None) => self.break_down(turn, "its socket is not known, so proof could not be asked for".to_owned()),
            (None, _) if self.warmed > 0 || self.layout.is_none() => self.still_runs(turn, until),
            (None, _) => self.done(turn),
        }
    }

    /// The warm-up may have taken long, and have been too much for it (trap T20): on the word of a look that began after it. A worker may answer a ping
    /// for a moment after the death of its master.
    fn still_runs(&mut self, turn: &mut Turn<'_>, until: Mono) {
        let now = turn.now.mono;
        let looked = self.seen_at >= self.since;
        if looked && self.seen.active == Active::Active && self.seen.main_pid != 0 {
            return self.done(turn);
        }
        if looked && now >= until {
            return self.has_died(turn);
        }
        self.next = now.after(VERIFY_EVERY);
        if self.looking.is_none() {
            self.look(turn);
        }
    }

    fn has_died(&mut self, turn: &mut Turn<'_>) {
        let (active, result) = (self.seen.active, &self.seen.result);
        let why = format!("it served, and has died since: {active:?}, Result={result}; see journalctl -u {}", self.unit);
        self.break_down(turn, why);
    }

    /// What has answered so far was another run: it has died, and systemd has started it again, or somebody has restarted it.
    pub(super) fn proves_again(&mut self, turn: &mut Turn<'_>) {
        self.reruns += 1;
        if self.reruns >= RERUNS {
            return self.break_down(
                turn,
                format!("it does not stay up: started again {RERUNS} times while it was proven; see journalctl -u {}", self.unit),
            );
        }
        self.begin_proof(turn.now.mono);
    }

    pub(super) fn proved(&mut self, turn: &mut Turn<'_>, until: Mono, outcome: &Outcome) {
        match outcome {
            Outcome::Answered { status: 200, body } if self.shows_its_code(turn, body) => self.done(turn),
            Outcome::Answered { status, .. } if turn.now.mono >= until => {
                let script = self.rules.proof.as_ref().map(|proof| proof.script.clone()).unwrap_or_default();
                self.break_down(
                    turn,
                    format!("proof: {script} answers {status} without the id {}: it serves other code than the stamp says", self.want.id),
                );
            }
            _ if turn.now.mono >= until && !self.lives() => self.has_died(turn),
            other if turn.now.mono >= until => self.break_down(turn, format!("proof: no answer: {}", other.said())),
            _ => self.ask_again(turn, PROOF_EVERY),
        }
    }

    /// What it was started for, or newer: a stamp that names other targets replaces the code of all, and so does a deploy that has begun, unless it
    /// was over before this one landed.
    fn shows_its_code(&self, turn: &Turn<'_>, body: &str) -> bool {
        let known = &turn.memory.known;
        let newer = known.iter().rev().take_while(|id| **id != self.want.id).filter(|_| known.contains(&self.want.id));
        let later = |begun: &&Begun| begun.over.is_none() || turn.now.mono_of(begun.since) >= self.want.landed;
        let begun = turn.memory.begun.iter().filter(later).map(|begun| &begun.id);
        newer.chain(begun).chain([&self.want.id]).any(|id| body.contains(id.as_str()))
    }

    fn done(&mut self, turn: &mut Turn<'_>) {
        // Of a generation it is told when it has what was the other's place.
        if self.purpose == Purpose::Renew {
            turn.record(Entry::Proven { unit: self.unit.clone() });
            turn.unit_ended_noting(&self.target, &self.unit, UnitEnd::Renewed, self.came_back(), &self.notes);
        }
        self.enter(turn.now.mono, FpmStep::Done);
    }

    /// What is said of it at the end.
    #[must_use]
    pub fn came_back(&self) -> &'static str {
        let asked = self.layout.is_some() || (self.source.asks() && !self.undated);
        match self.step {
            FpmStep::Stopped => STOPPED,
            _ if asked => "restarted, and it serves",
            _ => "restarted, and it runs; whether it serves nobody could ask",
        }
    }

    /// It has failed since its proof. Until it has come up and is proven again the host is not to be in a pool.
    pub fn fallen(&mut self, turn: &mut Turn<'_>) {
        turn.record(Entry::Unproven { target: self.target.clone(), unit: self.unit.clone() });
        let why = format!("it came up with the new code and did not stay: Result={}; see journalctl -u {}", self.seen.result, self.unit);
        self.break_down(turn, why);
    }
}
