//! The end of an old generation: nobody connects to it any more, it finishes what it has, and is stopped.

use std::time::Duration;

use super::drain::FRESH;
use super::{Early, Fpm, FpmStep, Purpose};
use crate::core::cut::{settle_cut, settle_cut_by_stop};
use crate::core::effect::{Effect, EffectId, Outcome};
use crate::core::evidence::Source;
use crate::core::ladder::Ladder;
use crate::core::memory::Want;
use crate::core::policy::FpmRules;
use crate::core::seen::{Active, FpmLayout, ProcessSeen, UnitSeen};
use crate::core::status::UnitEnd;
use crate::core::step::Turn;
use crate::core::time::{Mono, Span};

/// Until a configuration that could not be read is read again: without it nobody knows where an old generation says what it is at.
const READ_AGAIN: Duration = Duration::from_secs(30);
/// The same before it has drained at all.
const INSPECT_AGAIN: Duration = Duration::from_secs(5);
/// From the end of the grace: for what SIGKILL has to end, and what ExecStopPost= does.
const STOP_TIMEOUT: Duration = Duration::from_secs(45);

impl Fpm {
    /// A new generation. One that runs already was started by an earlier agent, and only its proof is left.
    #[must_use]
    pub fn starting(target: &str, rules: &FpmRules, want: Want, seen: UnitSeen, now: Mono) -> Fpm {
        let unproven = seen.active.runs();
        // What its configuration says by now is for the next one: what runs is only to be proven.
        let step = if unproven { FpmStep::Inspecting } else { FpmStep::Testing };
        Fpm { purpose: Purpose::Start, step, unproven, ..Fpm::new(target, rules, want, seen, now) }
    }

    /// An old generation, which runs.
    #[must_use]
    pub fn ending(target: &str, rules: &FpmRules, want: Want, seen: UnitSeen, now: Mono) -> Fpm {
        Fpm { purpose: Purpose::End, step: FpmStep::Inspecting, ..Fpm::new(target, rules, want, seen, now) }
    }

    /// What its own php-fpm has said of it when it was started: what its configuration says now is for the next one.
    pub fn laid_out(&mut self, layout: &FpmLayout) {
        self.listens(layout);
        self.step = FpmStep::Prepared;
    }

    /// Where it listens, and by which of that its requests are counted.
    pub(super) fn listens(&mut self, layout: &FpmLayout) {
        self.source = Source::choose(&self.rules, Some(layout));
        self.layout = Some(layout.clone());
    }

    /// When its requests have had their time, before it begins to drain.
    pub fn linger_until(&mut self, until: Mono) {
        self.until = until;
    }

    #[must_use]
    pub fn lingers_until(&self) -> Mono {
        self.until
    }

    /// Proven to have nothing in flight.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.idle
    }

    #[must_use]
    pub fn started(&self) -> Mono {
        self.seen.main_start
    }

    /// The run that it is at, or has started.
    #[must_use]
    pub fn invocation(&self) -> &str {
        &self.seen.invocation
    }

    /// Its start is asked for, and not answered.
    #[must_use]
    pub fn start_under_way(&self) -> Option<EffectId> {
        self.pending.filter(|_| self.step == FpmStep::Restarting)
    }

    /// Where its pools listen, as its own php-fpm says; none: not known.
    #[must_use]
    pub fn sockets(&self) -> Vec<&str> {
        self.layout.iter().flat_map(|layout| &layout.pools).map(|pool| pool.listen.as_str()).collect()
    }

    /// Where its pools tell their status, those that have a socket for it.
    #[must_use]
    pub fn status_sockets(&self) -> Vec<&str> {
        self.layout.iter().flat_map(|layout| &layout.pools).filter_map(|pool| pool.status_listen.as_deref()).collect()
    }

    /// What answers a request without a script, and where.
    #[must_use]
    pub fn ping(&self) -> Option<(String, String)> {
        let pool = self.layout.as_ref()?.pools.first()?;
        Some((self.own_socket()?, pool.ping_path.clone().or_else(|| pool.status_path.clone())?))
    }

    #[must_use]
    pub fn layout(&self) -> Option<&FpmLayout> {
        self.layout.as_ref()
    }

    #[must_use]
    pub fn into_notes(self) -> Vec<String> {
        self.notes
    }

    /// It has drained, or had its time, and is not being stopped yet.
    #[must_use]
    pub fn wants_to_end(&self, now: Mono) -> bool {
        self.drained(now) || (self.counting() && self.step != FpmStep::Restarting) || self.step == FpmStep::Seeing
    }

    /// For a sentence: what it has still to finish.
    #[must_use]
    pub fn waits_for_what(&self) -> String {
        let children = self.at_work();
        if self.held && !self.shared {
            let why = self.waits_for().1;
            return format!("{why}; the web server keeps connections to it open, and goes on to send requests over them: reload it");
        }
        match (self.waits_for(), children.first()) {
            ((Some(0) | None, why), None) => why,
            ((Some(0), _), Some(child)) => format!("{} of a request, pid {}, still runs", child.comm, child.pid),
            ((_, why), None) => self.named(why),
            ((_, why), Some(child)) => format!("{} (and {}, pid {})", self.named(why), child.comm, child.pid),
        }
    }

    /// With the request that has run for longest, without its query string: everybody may read this.
    fn named(&self, why: String) -> String {
        let all = self.last_full.values().flat_map(|(_, busy)| busy);
        match all.max_by_key(|worker| worker.duration_us) {
            Some(worker) => {
                let name = worker.uri.split('?').next().unwrap_or_default();
                format!("{why}; {name} for {}", Span(Duration::from_secs(worker.duration_us / 1_000_000)))
            }
            None => why,
        }
    }

    /// It has until then, or less if it had less.
    pub fn end_by(&mut self, until: Mono) {
        self.early.clear();
        self.until = self.until.min(until);
        if let FpmStep::Draining { until } = &mut self.step {
            *until = self.until;
        }
    }

    /// It is ended now, as long as this is so.
    pub fn end_early(&mut self, now: Mono, why: Early) {
        let mut early = std::mem::take(&mut self.early);
        let until = early.values().next().copied().unwrap_or(self.until);
        self.end_by(now);
        early.insert(why, until);
        self.early = early;
    }

    /// This is not so any more: it has its time as before, unless it has ended, or is being stopped, or there is another reason.
    pub fn lingers_on(&mut self, now: Mono, why: Early) {
        let Some(until) = self.early.remove(&why).filter(|_| self.early.is_empty() && self.seen.active.runs()) else { return };
        self.until = until;
        // Counted with somebody at work, it drains again.
        if self.only_waits() {
            self.not_yet(now);
        } else if let FpmStep::Draining { until } = &mut self.step {
            *until = self.until;
        }
    }

    /// Whether it was seen only a moment ago that another one serves, and that this one is not needed.
    pub fn clear(&mut self, cleared: bool) {
        self.cleared = cleared;
    }

    /// It serves: it is not ended after all, unless that has begun. Workers that are being stopped for the count go on when that is done; a master
    /// that was stopped, so that it takes no new requests, goes on at once, also while others are being kept from taking some.
    pub fn serves_again(&mut self, turn: &mut Turn<'_>) {
        self.needed = true;
        let retires = self.keeps_stopped() && matches!(self.step, FpmStep::Draining { .. } | FpmStep::Seeing);
        if !self.counting() || retires || self.step == FpmStep::Counting {
            self.takes_requests_again(turn);
            self.step = FpmStep::Done;
        }
    }

    /// Nothing has happened to it: what was stopped for the count goes on, and its master where that was stopped.
    pub(super) fn spare(&mut self, turn: &mut Turn<'_>) {
        self.frozen.clear();
        self.takes_requests_again(turn);
        settle_cut(turn, &self.unit, false, false);
        self.enter(turn.now.mono, FpmStep::Done);
    }

    pub(super) fn inspect_again(&mut self, now: Mono) {
        self.silent = true;
        self.next = now.after(INSPECT_AGAIN);
    }

    pub(super) fn read_again(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now.mono;
        if self.layout.is_none() && self.reading.is_none() && now >= self.read_at.after(READ_AGAIN) {
            self.read_at = now;
            self.reading = Some(turn.ask(Effect::Inspect { unit: self.unit.clone() }));
        }
    }

    pub(super) fn read(&mut self, now: Mono, outcome: &Outcome) {
        if let (Outcome::Layout(layout), FpmStep::Draining { .. }) = (outcome, &self.step) {
            self.listens(layout);
            self.notes.clear();
            self.drain_again(now);
        }
    }

    /// Processes that are neither the master nor its workers: children of requests, which are work as the requests are (an encoder, say).
    pub(super) fn at_work(&self) -> Vec<&ProcessSeen> {
        let own =
            |process: &&ProcessSeen| process.pid == self.seen.main_pid || (process.ppid == self.seen.main_pid && process.pool.is_some());
        self.seen.processes.iter().filter(|process| !own(process)).collect()
    }

    /// Whether no child of a request is left, by a look that is fresh. Of one that is restarted in place that is not asked: it may have children
    /// for good.
    pub(super) fn has_finished(&self, now: Mono) -> bool {
        self.purpose != Purpose::End || (now.since(self.seen_at) <= FRESH && self.at_work().is_empty())
    }

    pub(super) fn end(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now.mono;
        if !self.seen.active.runs() {
            return self.over(turn);
        }
        let cut = self.frozen.clone();
        let within = self.rules.term_timeout + STOP_TIMEOUT;
        self.enter(now, FpmStep::Restarting);
        self.old_gone = false;
        self.looked_at = Mono::BOOT;
        self.within = now.after(within);
        self.pending = Some(turn.ask(Effect::End { unit: self.unit.clone(), cut, within }));
        self.ladder = Some(Ladder::new(now, self.rules.term_timeout));
    }

    /// What a look shows after its stop.
    pub(super) fn ended(&mut self, turn: &mut Turn<'_>, seen: &UnitSeen, before: &str) {
        let same = seen.invocation == before;
        let ending = seen.active == Active::Deactivating || (!seen.active.runs() && !seen.processes.is_empty());
        if same && (seen.job || ending) && turn.now.mono < self.within {
            self.old_gone = false;
            self.seen.processes.clone_from(&seen.processes);
            return;
        }
        if same && seen.active.runs() && !ending {
            return self.not_restarted(turn, "systemd took the stop and did not do it");
        }
        if same && ending {
            return self.break_down(turn, "it does not end, not even by SIGKILL".to_owned());
        }
        self.frozen.clear();
        let killed = self.ladder.as_ref().is_some_and(Ladder::was_killed);
        settle_cut_by_stop(turn, seen, same, killed);
        self.over(turn);
    }

    fn over(&mut self, turn: &mut Turn<'_>) {
        let why =
            if self.idle { "its last request has ended, and it was stopped" } else { "it had lingered for long enough, and was stopped" };
        turn.unit_ended_noting(&self.target, &self.unit, UnitEnd::Finished, why, &self.notes);
        self.enter(turn.now.mono, FpmStep::Done);
    }
}
