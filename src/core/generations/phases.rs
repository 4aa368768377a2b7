//! What comes after what.

use std::time::Duration;

use super::looks::{runs, started_for};
use super::watch::WATCH;
use super::{Generations, Phase, name};
use crate::core::effect::Effect;
use crate::core::entry::Entry;
use crate::core::fpm::{Fpm, FpmStep};
use crate::core::loans::Loans;
use crate::core::memory::Want;
use crate::core::policy::GenerationRules;
use crate::core::seen::UnitSeen;
use crate::core::stale::{LOOK_FROM, stale_fpm};
use crate::core::status::UnitEnd;
use crate::core::step::Turn;
use crate::core::target::Progress;
use crate::core::time::Mono;

/// Of a symlink that cannot be switched.
const TRIES: u32 = 5;
/// After a generation that nobody asked for, and that did not come up.
const RESCUE_AGAIN: Duration = Duration::from_secs(15);
const RESCUE_SLOWEST: Duration = Duration::from_secs(5 * 60);

impl Generations {
    /// `held`: nothing is to be begun. `settling`: and nobody will be here later.
    pub fn advance(&mut self, turn: &mut Turn<'_>, rules: &GenerationRules, loans: &mut Loans, held: bool, settling: bool) {
        if std::mem::replace(&mut self.held, held) && !held {
            // For what that kept from being seen to.
            self.look.want(turn.now.mono);
        }
        if settling {
            self.settling.get_or_insert(turn.now.mono);
        }
        for _ in 0..8 {
            let phase = self.phase.clone();
            self.advance_phase(turn, rules, loans);
            if self.phase == phase {
                break;
            }
        }
        self.advance_ending(turn, loans);
        self.leave_to_systemd(turn, rules);
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
            Phase::Closing { until } => self.close(turn, until),
            Phase::Back { why } => self.go_back(turn, rules, &why),
            Phase::Mending { to } => {
                if let Some(unit) = self.current.clone() {
                    self.is_needed(turn, &unit);
                    turn.record(Entry::Switched { target: self.name.clone(), unit });
                    self.note = Some("the symlink led nowhere, and was switched to it".to_owned());
                    self.mended(now);
                } else if self.has_looked_since(self.since) && !self.unit(&to).is_some_and(runs) {
                    // It has died meanwhile: another one, or a new one.
                    self.mended(now);
                } else if self.switch_to(turn, rules, &to) == Tried::TooOften {
                    self.put_off_rescue(now);
                    self.switch_at = self.rescue_at;
                    self.mended(now);
                    self.look.want(self.rescue_at);
                }
            }
        }
    }

    /// The symlink was seen to, as far as possible: on to what a deploy has wanted meanwhile.
    fn mended(&mut self, now: Mono) {
        let on = if self.goal().is_some() { Phase::Looking } else { Phase::Rest };
        self.enter(now, on);
        self.look.want(now);
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
        self.drop_starting(now);
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
                let mut fpm = Fpm::starting(&self.name, &rules.of(&unit.unit), want, unit, now);
                fpm.shared = rules.shared();
                // As its own php-fpm has said: its configuration may be another by now.
                if let Some(layout) = self.layouts.get(&fpm.unit) {
                    fpm.laid_out(layout);
                }
                self.starting = Some(fpm);
                self.enter(now, Phase::Starting);
            }
            None => self.enter(now, Phase::Room),
        }
    }

    fn start(&mut self, turn: &mut Turn<'_>, rules: &GenerationRules, loans: &mut Loans) {
        let now = turn.now.mono;
        let Some(fpm) = &mut self.starting else { return self.enter(now, Phase::Looking) };
        fpm.advance(turn, loans);
        if fpm.step == FpmStep::Prepared && !self.still_has_room(turn, rules) {
            return;
        }
        let Some(fpm) = &mut self.starting else { return };
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
                // What was proven may have ended since.
                self.looked_from = now;
                self.look.want(now);
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
        if rules.shared() || (self.current.as_ref() == Some(&unit) && self.has_looked_since(self.since)) {
            turn.record(Entry::Switched { target: self.name.clone(), unit });
            (self.missed, self.unsure, self.answered) = (0, false, false);
            self.look.want(now);
            return self.enter(now, Phase::Watching { until: now.after(WATCH) });
        }
        if self.has_looked_since(self.since) && !self.unit(&unit).is_some_and(runs) {
            return self.go_back_for(turn, &unit, "it did not stay up until the switch");
        }
        // What somebody has restarted meanwhile is proven anew.
        let proven = |seen: &UnitSeen| self.starting.as_ref().is_some_and(|fpm| fpm.invocation() == seen.invocation);
        if self.has_looked_since(self.since) && !self.unit(&unit).is_some_and(proven) {
            turn.phase_ended(&self.name, "switch");
            return self.enter(now, Phase::Looking);
        }
        if self.switch_to(turn, rules, &unit) == Tried::TooOften {
            let why = self.trouble.clone().unwrap_or_else(|| format!("{} does not lead to it, though it was switched", rules.socket));
            self.fail(turn, &unit, &why, true);
        }
    }

    pub(super) fn switch_to(&mut self, turn: &mut Turn<'_>, rules: &GenerationRules, unit: &str) -> Tried {
        let now = turn.now.mono;
        if self.switching.is_some() || now < self.next {
            return Tried::Tries;
        }
        if !turn.journal_good {
            self.journal_waited = true;
            return Tried::Tries;
        }
        // What was seen before the journal could be written again is old; the first try of the way back waits for nothing.
        if std::mem::take(&mut self.journal_waited) && !matches!(self.phase, Phase::Back { .. }) {
            self.looked_from = now;
            self.look.want(now);
        }
        if !self.has_looked_since(self.looked_from) && self.goes_back_unseen_at().is_none_or(|at| now < at) {
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

    pub(super) fn reached(&mut self, turn: &mut Turn<'_>, unit: &str) {
        let now = turn.now.mono;
        turn.phase_ended(&self.name, "switch");
        let beside = self.before.take().map(|before| format!(" beside {before}")).unwrap_or_default();
        if let Some(layout) = self.starting.as_ref().and_then(Fpm::layout) {
            self.layouts.insert(unit.to_owned(), layout.clone());
        }
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
        self.drop_starting(now);
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
    if rules.shared() {
        return match fpm.status_sockets().as_slice() {
            [one] if one.contains(instance) => Ok(()),
            _ => Err("it has no status socket of its own: write `pm.status_listen = /run/php/job/${GENERATION}.status.sock` into its configuration"
                .to_owned()),
        };
    }
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
