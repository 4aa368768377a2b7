//! The drain: until nothing is in flight, by proof, or the threshold is there.

use std::time::Duration;

use super::{Fpm, FpmStep, Purpose};
use crate::core::effect::Outcome;
use crate::core::evidence::{Counted, Flight, Proof, Source, flight};
use crate::core::seen::{PoolAnswers, WorkerState};
use crate::core::step::Turn;
use crate::core::time::Mono;

/// Between two looks while draining: 0.3 % of a core (docs/performance), and the end of the last request is seen within two of them.
const POLL: Duration = Duration::from_millis(50);
/// So few requests may all have ended at the next look, and whoever waits, waits for that: it comes twice as soon.
const THE_LAST: u32 = 2;
const POLL_SLOWEST: Duration = Duration::from_secs(1);
/// Between the first look that finds it idle and the one that confirms it.
const CONFIRM: Duration = Duration::from_millis(20);
/// What was seen no longer ago than this is good enough for the restart.
pub const FRESH: Duration = Duration::from_millis(200);
/// As long as an old generation may take new requests it is looked at as often as can be, for so long; what is busy then is long.
const RETIRE_FAST: Duration = Duration::from_secs(30);
/// As long as its status says nothing, systemd is asked how the unit is.
const LOOK_WHILE_SILENT: Duration = Duration::from_secs(1);
const LOOK_WITHOUT_STATUS: Duration = Duration::from_millis(500);

impl Fpm {
    /// Begins to drain: `until` is the threshold, `quiet` how long nothing may come in. What has the new code already, or nothing to
    /// drain, skips it.
    pub fn drain(&mut self, now: Mono, until: Mono, quiet: Duration, exposed: bool) {
        self.exposed = exposed;
        self.quiet = quiet;
        self.until = if self.unproven || !self.seen.active.runs() { now } else { until };
        self.drain_again(now);
    }

    /// Whether nothing is in flight, or what is has had its time.
    #[must_use]
    pub fn drained(&self, now: Mono) -> bool {
        matches!(self.step, FpmStep::Draining { until } if self.idle || now >= until)
    }

    pub(super) fn drain_again(&mut self, now: Mono) {
        self.idle = false;
        self.mute_idle = false;
        self.proof = Proof::default();
        self.mute = Proof::default();
        self.enter(now, FpmStep::Draining { until: self.until });
    }

    /// It may have drained in a moment: time to see to what else its restart needs.
    #[must_use]
    pub fn nearly_drained(&self, now: Mono) -> bool {
        let nearly = |proof: &Proof, quiet: Duration| proof.left(now, quiet).is_some_and(|left| left <= POLL);
        matches!(self.step, FpmStep::Draining { .. })
            && (!self.source.asks() || nearly(&self.proof, self.quiet))
            && (self.source.mute.is_empty() || nearly(&self.mute, self.quiet_of_mute()))
    }

    fn find_idle(&mut self, now: Mono) {
        self.mute_idle = self.source.mute.is_empty() || self.mute.holds(now, self.quiet_of_mute());
        self.idle = self.mute_idle && (!self.source.asks() || self.proof.holds(now, self.quiet)) && self.has_finished(now);
    }

    /// How long nothing may come in, as far as the pools without a status page can say.
    fn quiet_of_mute(&self) -> Duration {
        self.source.text.map_or(self.quiet, |interval| self.quiet.max(interval + Duration::from_secs(1)))
    }

    pub(super) fn drain_on(&mut self, turn: &mut Turn<'_>, until: Mono) {
        let now = turn.now.mono;
        self.find_idle(now);
        if let Some(in_flight) = self.in_flight() {
            self.tell_flight(turn, in_flight, now >= until);
        }
        if now >= until {
            return;
        }
        if self.looking.is_none() && self.look_is_due(now) {
            self.look(turn);
        }
        if now < self.next || self.pending.is_some() {
            return;
        }
        // An hour's drain need not be watched twenty times a second.
        let least = match self.proof.in_flight {
            // Whatever falls idle of it may take a request that is not meant for it.
            _ if self.retires() => {
                if self.is_closed() {
                    POLL / 2
                } else {
                    POLL / 5
                }
            }
            _ if self.held => POLL * 2,
            Some(1..=THE_LAST) => POLL / 2,
            _ => POLL,
        };
        let pace = if self.retires() && now.since(self.began) < RETIRE_FAST { least } else { self.pace(now).max(least) };
        // Idle already, and others of the bracket are not: it need not be asked more often for that.
        let nearly = self.nearly_drained(now) && !self.idle;
        self.next = now.after(if nearly { CONFIRM } else { pace });
        if !self.source.asks() {
            self.next = now.after(LOOK_WITHOUT_STATUS);
        } else {
            // The look that confirms is the count for the cut as well.
            let full = nearly
                || self.held
                || self.retires()
                || self.proof.in_flight.is_none_or(|requests| requests > 0) && now >= self.last_full_at.after(Duration::from_millis(250));
            if full {
                self.last_full_at = now;
            }
            let left = until.since(now);
            self.ask_status(turn, full, Duration::from_secs(1).min(left).max(Duration::from_millis(50)));
        }
    }

    fn pace(&self, now: Mono) -> Duration {
        let since = now.since(self.since);
        match self.purpose {
            // Nobody waits for it.
            Purpose::End => (since / 60).clamp(POLL * 4, POLL_SLOWEST * 5),
            Purpose::Renew | Purpose::Start => (since / 600).clamp(POLL / 2, POLL_SLOWEST),
        }
    }

    fn look_is_due(&self, now: Mono) -> bool {
        let every = match &self.source {
            _ if self.keeps_stopped() => self.pace(now),
            _ if self.purpose == Purpose::End && self.nearly_drained(now) && !self.at_work().is_empty() => self.pace(now),
            _ if self.nearly_drained(now) && !self.idle => FRESH / 2,
            source if !source.mute.is_empty() => LOOK_WITHOUT_STATUS,
            _ if self.is_seen_of_old() => LOOK_WITHOUT_STATUS,
            // Nobody answers: perhaps it is because somebody has stopped it.
            _ if self.silent => LOOK_WHILE_SILENT,
            _ => return false,
        };
        now >= self.look_began.after(every)
    }

    /// As far as it can be counted.
    fn in_flight(&self) -> Option<u32> {
        if self.source.asks() { self.proof.in_flight } else { self.mute.in_flight }
    }

    /// What is in flight, for status, and what it waits for.
    pub(super) fn waits_for(&self) -> (Option<u32>, String) {
        let mute = &self.mute;
        match (self.source.asks(), self.source.mute.is_empty() || self.mute_idle || mute.why.is_empty()) {
            (true, true) => (self.proof.in_flight, self.proof.why.clone()),
            (true, false) if self.proof.in_flight == Some(0) => (Some(0), mute.why.clone()),
            (true, false) => (self.proof.in_flight, format!("{}; {}", self.proof.why, mute.why)),
            (false, _) => (mute.in_flight, mute.why.clone()),
        }
    }

    pub(super) fn polled(&mut self, now: Mono, answers: &PoolAnswers) {
        self.note_start(now, answers);
        let answers = &*self.of_the_living(answers);
        let mut flight = flight(&self.source, answers);
        let probes = u64::try_from(self.source.own.iter().filter(|own| **own).count()).unwrap_or(0);
        let counted = Counted::of(&self.source, answers);
        self.has_said(now, &counted);
        if counted.silent.is_empty() && self.source.asks() {
            let all = answers.values().flatten().flat_map(|status| status.workers.iter().flatten());
            self.held = all.into_iter().any(|worker| worker.state == WorkerState::ReadingHeaders);
            if counted.workers().next().is_none()
                && let Flight::Busy { .. } = flight
            {
                // Only held connections without a request (facts 3j).
                let accepted = answers.values().flatten().map(|status| status.accepted).sum();
                flight = Flight::Idle { accepted };
            }
        }
        self.last_full.extend(counted.busy.into_iter().map(|(pool, busy)| (pool, (now, busy))));
        self.silent = matches!(flight, Flight::Unknown(_));
        self.answered |= !self.silent;
        self.proof.flight(now, &flight, probes);
        if self.nearly_drained(now) {
            self.next = self.next.min(now.after(CONFIRM));
        }
    }
}

/// The answers when the question itself could not be asked: no answer is never "idle" (law 5).
pub(super) fn silent(source: &Source, outcome: &Outcome) -> PoolAnswers {
    source.asks.iter().map(|ask| (ask.pool.clone(), Err(outcome.said()))).collect()
}
