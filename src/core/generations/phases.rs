//! What comes after what.

use std::time::Duration;

use super::looks::{runs, started_for};
use super::{Generations, Phase, name};
use crate::core::effect::{Effect, FpmRequest, Outcome};
use crate::core::entry::Entry;
use crate::core::fpm::{Fpm, FpmStep};
use crate::core::loans::Loans;
use crate::core::memory::Want;
use crate::core::policy::{AtMax, GenerationRules};
use crate::core::seen::UnitSeen;
use crate::core::stale::{LOOK_FROM, stale_fpm};
use crate::core::status::UnitEnd;
use crate::core::step::Turn;
use crate::core::target::Progress;
use crate::core::time::Mono;

/// The old one stays untouched for so long after the switch, so that there is a way back.
const WATCH: Duration = Duration::from_secs(2);
const PING_EVERY: Duration = Duration::from_millis(100);
const PING_TIMEOUT: Duration = Duration::from_secs(1);
/// So many pings in a row without an answer, and it does not serve.
const MISSED: u32 = 5;
/// Of a symlink that cannot be switched.
const TRIES: u32 = 5;
/// After a generation that nobody asked for, and that did not come up.
const RESCUE_AGAIN: Duration = Duration::from_secs(15);
const RESCUE_SLOWEST: Duration = Duration::from_secs(5 * 60);

impl Generations {
    /// `held`: nothing is to be begun.
    pub fn advance(&mut self, turn: &mut Turn<'_>, rules: &GenerationRules, loans: &mut Loans, held: bool) {
        self.held = held;
        for _ in 0..8 {
            let phase = self.phase.clone();
            self.advance_phase(turn, rules, loans);
            if self.phase == phase {
                break;
            }
        }
        self.advance_ending(turn, loans);
        self.ask_to_look(turn, rules);
    }

    fn advance_phase(&mut self, turn: &mut Turn<'_>, rules: &GenerationRules, loans: &mut Loans) {
        let now = turn.now.mono;
        match self.phase.clone() {
            Phase::Rest => {}
            Phase::Looking => self.decide(turn, rules),
            Phase::Room => self.make_room(turn, rules),
            Phase::Starting => self.start(turn, rules, loans),
            Phase::Switching => self.switch(turn, rules),
            Phase::Watching { until } => self.watch(turn, rules, until),
            Phase::Back { why } => self.go_back(turn, rules, &why),
            Phase::Mending { to } => {
                if self.current.is_some() {
                    self.note = Some("the symlink led nowhere, and was switched to it".to_owned());
                    self.enter(now, Phase::Rest);
                    self.look.want(now);
                } else if self.switch_to(turn, rules, &to) == Tried::TooOften {
                    self.rest_after_rescue(now);
                }
            }
        }
    }

    /// What is to be made fresh: what a deploy wants, or one that serves at all.
    pub(super) fn goal(&self) -> Option<&Want> {
        if self.progress == Progress::Working { self.want.as_ref() } else { self.rescue.as_ref() }
    }

    fn decide(&mut self, turn: &mut Turn<'_>, rules: &GenerationRules) {
        let now = turn.now.mono;
        let Some(want) = self.goal().cloned() else { return self.enter(now, Phase::Rest) };
        let from = self.since.max(want.landed.after(LOOK_FROM));
        if !self.has_looked_since(from) {
            return self.look.want(from.max(now));
        }
        self.drop_starting();
        if self.seen.obstructed {
            let why =
                format!("{} is no symlink: move away what is there; each php-fpm listens beside it, under its own name", rules.socket);
            return self.fail(turn, &rules.unit, &why, true);
        }
        let memory = turn.memory.targets.get(&self.name).cloned().unwrap_or_default();
        let current = self.current.as_ref().and_then(|unit| self.unit(unit)).cloned();
        // What has proven bad for what is wanted is not proven again: another one may do.
        let sound = |unit: &UnitSeen| !self.bad.contains(&unit.unit);
        let fresh = current.filter(|unit| stale_fpm(unit, &want, &memory).is_empty() && unit.main_pid != 0 && sound(unit));
        let resumed = || self.seen.units.iter().find(|unit| runs(unit) && sound(unit) && started_for(&memory, &unit.unit, &want)).cloned();
        // One that is there already, for what is wanted, has only to be proven.
        match fresh.or_else(resumed) {
            Some(unit) => {
                turn.phase_began(&self.name, "preflight");
                self.starting = Some(Fpm::starting(&self.name, &rules.of(&unit.unit), want, unit, now));
                self.enter(now, Phase::Starting);
            }
            None => self.enter(now, Phase::Room),
        }
    }

    /// Another one is started only where the rules have room for it.
    fn make_room(&mut self, turn: &mut Turn<'_>, rules: &GenerationRules) {
        let now = turn.now.mono;
        let Some(want) = self.goal().cloned() else { return self.enter(now, Phase::Rest) };
        let running = self.running();
        if running >= usize::try_from(rules.max_generations).unwrap_or(usize::MAX) {
            let oldest = self.ending.values().filter(|fpm| !fpm.at_rest()).min_by_key(|fpm| fpm.started()).map(|fpm| fpm.unit.clone());
            let waits_for = oldest.as_ref().and_then(|unit| self.ending.get(unit)).map(Fpm::waits_for_what).unwrap_or_default();
            let oldest = oldest.unwrap_or_else(|| "none of them lingers".to_owned());
            let what = if waits_for.is_empty() { oldest.clone() } else { format!("{oldest}: {waits_for}") };
            self.waits = Some(format!("{running} generations run, as many as may (max_generations): waits for {what}"));
            // One after the other, and not before it is seen whether that one made room.
            let being_ended = self.ending.values().any(|fpm| fpm.lingers_until() <= now) || !self.has_looked_since(self.ended);
            if rules.at_max == AtMax::EndOldest
                && !being_ended
                && let Some(fpm) = self.ending.get_mut(&oldest)
            {
                fpm.end_by(now);
            }
            return;
        }
        if let Some(least) = rules.min_available_memory.filter(|least| self.seen.available < *least) {
            let (has, least) = (megabytes(self.seen.available), megabytes(least));
            self.waits = Some(format!("{has} of memory are available, and a new generation needs {least} (min_available_memory)"));
            return;
        }
        if !turn.journal_good {
            return;
        }
        self.waits = None;
        let instance = name::instance(&want.id, turn.memory.next_generation);
        let unit = name::unit_of(&rules.unit, &instance);
        turn.record(Entry::GenerationStarts { target: self.name.clone(), unit: unit.clone(), landed: want.landed });
        turn.phase_began(&self.name, "preflight");
        let mut rules = rules.of(&unit);
        if self.progress != Progress::Working && turn.memory.stamp.is_none() {
            // There is no deploy whose id it could answer with.
            rules.proof = None;
        }
        let seen = UnitSeen { unit: unit.clone(), ..UnitSeen::default() };
        self.starting = Some(Fpm::starting(&self.name, &rules, want, seen, now));
        self.enter(now, Phase::Starting);
    }

    fn start(&mut self, turn: &mut Turn<'_>, rules: &GenerationRules, loans: &mut Loans) {
        let now = turn.now.mono;
        let Some(fpm) = &mut self.starting else { return self.enter(now, Phase::Looking) };
        fpm.advance(turn, loans);
        if fpm.step == FpmStep::Prepared {
            match listens_as_it_should(fpm, rules) {
                Ok(()) => {
                    turn.phase_ended(&self.name, "preflight");
                    turn.phase_began(&self.name, "start");
                    fpm.drain(now, now, Duration::ZERO, true);
                    fpm.renew(now);
                    fpm.advance(turn, loans);
                }
                Err(why) => {
                    let unit = fpm.unit.clone();
                    return self.fail(turn, &unit, &why, false);
                }
            }
        }
        let Some(fpm) = &self.starting else { return };
        match fpm.step.clone() {
            FpmStep::Done => {
                turn.phase_ended(&self.name, "start");
                turn.phase_began(&self.name, "switch");
                self.tries = 0;
                self.before = self.current.clone().filter(|unit| *unit != fpm.unit).or_else(|| self.youngest_proven(&fpm.unit));
                self.enter(now, Phase::Switching);
            }
            FpmStep::Refused(why) | FpmStep::Broken(why) => {
                let unit = fpm.unit.clone();
                self.broke(turn, &unit, &why);
            }
            FpmStep::Stopped => {
                let unit = fpm.unit.clone();
                self.broke(turn, &unit, "somebody has stopped it");
            }
            _ => {}
        }
    }

    fn switch(&mut self, turn: &mut Turn<'_>, rules: &GenerationRules) {
        let now = turn.now.mono;
        let Some(unit) = self.starting.as_ref().map(|fpm| fpm.unit.clone()) else { return self.enter(now, Phase::Looking) };
        if self.current.as_ref() == Some(&unit) && self.has_looked_since(self.since) {
            turn.record(Entry::Switched { target: self.name.clone(), unit });
            (self.missed, self.answered) = (0, false);
            self.look.want(now);
            return self.enter(now, Phase::Watching { until: now.after(WATCH) });
        }
        if self.has_looked_since(self.since) && !self.unit(&unit).is_some_and(runs) {
            return self.go_back_for(turn, &unit, "it did not stay up until the switch");
        }
        if self.switch_to(turn, rules, &unit) == Tried::TooOften {
            let why = self.trouble.clone().unwrap_or_else(|| format!("{} does not lead to it, though it was switched", rules.socket));
            self.fail(turn, &unit, &why, true);
        }
    }

    pub(super) fn switch_to(&mut self, turn: &mut Turn<'_>, rules: &GenerationRules, unit: &str) -> Tried {
        let now = turn.now.mono;
        if self.switching.is_some() || now < self.next || !turn.journal_good {
            return Tried::Tries;
        }
        if self.tries >= TRIES {
            return Tried::TooOften;
        }
        self.tries += 1;
        self.next = now.after(super::AGAIN);
        let instance = name::instance_of(&rules.unit, unit).unwrap_or_default();
        let to = name::socket_of(&rules.socket, instance);
        self.switching = Some(turn.ask(Effect::Switch { socket: rules.socket.clone(), to }));
        Tried::Tries
    }

    /// The web server sends it its requests: it answers, and its master stays the same.
    fn watch(&mut self, turn: &mut Turn<'_>, rules: &GenerationRules, until: Mono) {
        let now = turn.now.mono;
        let Some(fpm) = &self.starting else { return self.enter(now, Phase::Looking) };
        let (unit, invocation) = (fpm.unit.clone(), fpm.invocation().to_owned());
        let path = fpm.ping_path();
        if self.has_looked_since(self.since) {
            let up = self.unit(&unit).is_some_and(|seen| runs(seen) && seen.invocation == invocation);
            if !up {
                return self.go_back_for(turn, &unit, "it did not stay up after the switch");
            }
            if self.current.as_ref() != Some(&unit) {
                // Somebody, or another configuration, has taken the symlink elsewhere: looked at anew.
                return self.enter(now, Phase::Looking);
            }
        }
        if self.missed >= MISSED {
            return self.go_back_for(turn, &unit, "it does not answer its ping through the symlink");
        }
        if now >= until && (self.answered || path.is_none()) && self.missed == 0 && self.has_looked_since(until) {
            return self.reached(turn, &unit);
        }
        if now >= until && !self.has_looked_since(until) {
            self.look.want(now);
        }
        if let Some(path) = path.filter(|_| self.pinging.is_none() && now >= self.next) {
            self.next = now.after(PING_EVERY);
            let request = FpmRequest::Ping { path };
            self.pinging = Some(turn.ask(Effect::Request { socket: rules.socket.clone(), request, timeout: PING_TIMEOUT }));
        } else if self.pinging.is_none() && now >= self.next {
            self.next = now.after(PING_EVERY);
        }
    }

    pub(super) fn pinged(&mut self, now: Mono, outcome: &Outcome) {
        self.next = now.after(PING_EVERY);
        if matches!(outcome, Outcome::Answered { status: 200, .. }) {
            (self.missed, self.answered) = (0, true);
        } else {
            self.missed += 1;
        }
    }

    fn reached(&mut self, turn: &mut Turn<'_>, unit: &str) {
        let now = turn.now.mono;
        turn.phase_ended(&self.name, "switch");
        let beside = self.before.take().map(|before| format!(" beside {before}")).unwrap_or_default();
        let superseded = self.is_superseded(turn);
        let notes = self.starting.take().map(Fpm::into_notes).unwrap_or_default();
        turn.unit_ended_noting(&self.name, unit, UnitEnd::Renewed, format!("started{beside}, and it serves"), &notes);
        (self.rescue, self.note) = (None, None);
        if self.progress == Progress::Working {
            if superseded {
                return self.take_newest(turn);
            }
            self.progress = Progress::Reached;
        }
        self.enter(now, Phase::Rest);
        self.look.want(now);
    }

    /// What is wanted by now is another deploy than the one that this try is for.
    fn is_superseded(&self, turn: &Turn<'_>) -> bool {
        let newest = turn.memory.targets.get(&self.name).and_then(|memory| memory.want.as_ref());
        let other = |fpm: &Fpm| newest.is_none_or(|newest| !fpm.want.is(newest));
        self.progress == Progress::Working && self.starting.as_ref().is_some_and(other)
    }

    /// On to the newest deploy, unless a hold keeps that for later.
    fn take_newest(&mut self, turn: &Turn<'_>) {
        let now = turn.now.mono;
        let newest = turn.memory.targets.get(&self.name).and_then(|memory| memory.want.as_ref());
        if self.want.as_ref().is_some_and(|want| newest.is_some_and(|newest| want.is(newest))) {
            return self.enter(now, Phase::Looking);
        }
        (self.want, self.progress) = (None, Progress::Idle);
        self.enter(now, Phase::Rest);
        self.look.want(now);
    }

    pub(super) fn fail(&mut self, turn: &mut Turn<'_>, unit: &str, why: &str, blocked: bool) {
        turn.unit_ended(&self.name, unit, UnitEnd::Failed, why);
        self.failed(turn, unit, why, blocked);
    }

    /// Nothing comes of this try. What was started and does not serve is ended, by the next look.
    pub(super) fn failed(&mut self, turn: &mut Turn<'_>, unit: &str, why: &str, blocked: bool) {
        let now = turn.now.mono;
        for phase in ["preflight", "start", "switch"] {
            turn.phase_ended(&self.name, phase);
        }
        let superseded = self.is_superseded(turn);
        self.drop_starting();
        self.before = None;
        if superseded {
            self.note = None;
            return self.take_newest(turn);
        }
        if self.progress == Progress::Working {
            self.progress = Progress::Failed { why: format!("{unit}: {why}"), blocked };
        }
        self.note = Some(format!("{unit}: {why}"));
        self.rest_after_rescue(now);
    }

    pub(super) fn put_off_rescue(&mut self, now: Mono) {
        self.rescue_tries = self.rescue_tries.saturating_add(1);
        let pause = (RESCUE_AGAIN * 2_u32.saturating_pow(self.rescue_tries.min(10) - 1)).min(RESCUE_SLOWEST);
        self.rescue_at = now.after(pause);
    }

    fn rest_after_rescue(&mut self, now: Mono) {
        self.put_off_rescue(now);
        self.enter(now, Phase::Rest);
        self.look.want(now);
        if self.current.is_none() {
            self.look.want(self.rescue_at);
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Tried {
    Tries,
    TooOften,
}

/// A generation that listens anywhere else would be proven there, and never be reached by the symlink.
fn listens_as_it_should(fpm: &Fpm, rules: &GenerationRules) -> Result<(), String> {
    let instance = name::instance_of(&rules.unit, &fpm.unit).unwrap_or_default();
    let wanted = name::socket_of(&rules.socket, instance);
    let sockets = fpm.sockets();
    if sockets == [wanted.as_str()] {
        return Ok(());
    }
    let directory = name::directory(&rules.socket);
    Err(match sockets.as_slice() {
        [] => "its configuration could not be read, so it is not known where it would listen".to_owned(),
        [one] => {
            format!("it would listen on {one}, not on {wanted}: write `listen = {directory}/${{GENERATION}}.sock` into its configuration")
        }
        more => format!("it has {} pools, and one symlink leads to one: give each pool a php-fpm, and a target, of its own", more.len()),
    })
}

pub(super) fn megabytes(bytes: u64) -> String {
    format!("{} MiB", bytes / (1024 * 1024))
}
