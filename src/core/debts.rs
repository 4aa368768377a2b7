//! What the agent owes the host whatever happens: workers that it stopped go on, timers that it stopped run, scripts that it stopped to
//! run again do, scripts that were asked to end do, and what its stops cut is written down. Most of it is paid in the course of a rollout; this pays what a crash, a fault
//! or a changed configuration left over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::cut::{settle_cut, settle_script, still_ending};
use super::effect::{Effect, EffectId, Fault, Looked, Outcome};
use super::entry::Entry;
use super::memory::{Cutting, Memory};
use super::orphans::{Ending, Orphans};
use super::policy::TargetRules;
use super::seen::{Active, UnitSeen};
use super::status::UnitEnd;
use super::step::{Deadline, Turn, earliest};
use super::time::Mono;

/// Between two tries to pay.
const RETRY: Duration = Duration::from_secs(5);
/// After a SIGKILL.
const DYING_LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub struct Debts {
    thawing: Option<EffectId>,
    next_thaw: Mono,
    pending: BTreeMap<EffectId, Debt>,
    orphans: Orphans,
    next: Mono,
    /// Something is owed that no rollout is at.
    waiting: bool,
    trouble: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Debt {
    Timer(String),
    Rerun(String),
    Kill(String),
    Unask(String),
    /// When it was begun.
    Look(Mono),
}

impl Debts {
    /// `gathering`: the first look of a rollout is still to come, which may take things into its own hands. `counting`: stopped workers go
    /// on by what php-fpm's restart does. `owned`: whether a rollout is at this timer or this unit right now, and will pay itself.
    pub fn advance(&mut self, turn: &mut Turn<'_>, gathering: bool, counting: bool, owned: &dyn Fn(&str, &str) -> bool) {
        // Before anything else: a worker that we stopped serves nobody.
        if !counting && !turn.memory.frozen.is_empty() && self.thawing.is_none() && turn.now.mono >= self.next_thaw {
            self.next_thaw = turn.now.mono.after(RETRY);
            self.thawing = Some(turn.ask(Effect::Thaw { workers: turn.memory.frozen.clone() }));
        }
        if gathering || !self.pending.is_empty() {
            return;
        }
        let asked: Vec<String> = turn.memory.asked.iter().filter(|unit| !owned("", unit)).cloned().collect();
        let units: BTreeSet<String> =
            turn.memory.reruns.keys().chain(turn.memory.cutting.keys()).filter(|unit| !owned("", unit)).cloned().collect();
        let timers = turn.memory.timers.keys().any(|timer| !owned(timer, ""));
        self.waiting = timers || !units.is_empty() || !asked.is_empty();
        if !self.waiting {
            self.trouble = None;
        }
        if !self.waiting || turn.now.mono < self.next {
            return;
        }
        self.next = turn.now.mono.after(RETRY);
        if !asked.is_empty() {
            // Before anything starts that would find itself asked.
            for unit in asked {
                let id = turn.ask(Effect::Unask { unit: unit.clone() });
                self.pending.insert(id, Debt::Unask(unit));
            }
            return;
        }
        if units.is_empty() {
            return self.start_timers(turn, owned);
        }
        let units: Vec<String> = units.into_iter().collect();
        self.orphans.keep(&units);
        let id = turn.ask(Effect::Look { units, looked: Looked::Exactly, cgroups: self.orphans.cgroups(), names: false });
        self.pending.insert(id, Debt::Look(turn.now.mono));
    }

    fn start_timers(&mut self, turn: &mut Turn<'_>, owned: &dyn Fn(&str, &str) -> bool) {
        let timers: Vec<(String, bool)> =
            turn.memory.timers.iter().filter(|(timer, _)| !owned(timer, "")).map(|(timer, p)| (timer.clone(), *p)).collect();
        for (timer, persistent) in timers {
            let id = turn.ask(Effect::Start { unit: timer.clone(), caught_up: persistent });
            self.pending.insert(id, Debt::Timer(timer));
        }
    }

    pub fn outcome(&mut self, turn: &mut Turn<'_>, id: EffectId, outcome: &Outcome, owned: &dyn Fn(&str, &str) -> bool) -> bool {
        if self.thawing.take_if(|thawing| *thawing == id).is_some() {
            return true;
        }
        let Some(debt) = self.pending.remove(&id) else { return false };
        match (debt, outcome) {
            (Debt::Timer(timer), Outcome::Queued) => {
                turn.record(Entry::TimerSettled { timer, why: "started again".to_owned() });
                self.paid(turn);
            }
            (Debt::Rerun(unit), Outcome::Queued) => {
                let target = turn.memory.reruns.get(&unit).cloned().unwrap_or_default();
                turn.record(Entry::RerunSettled { unit: unit.clone(), why: "started again".to_owned() });
                turn.unit_ended(&target, &unit, UnitEnd::Renewed, "stopped, and started again with the new code");
                self.paid(turn);
            }
            (Debt::Look(began), Outcome::Units(units)) => self.looked(turn, began, units, owned),
            (Debt::Kill(unit), Outcome::Fault(_)) => self.orphans.kill_failed(&unit, turn.now.mono),
            (Debt::Kill(_), _) => {}
            (Debt::Unask(_), Outcome::Done) => self.paid(turn),
            (Debt::Unask(unit), other) => {
                self.trouble = Some(format!("the request to stop {unit} could not be taken back: {}", other.said()));
            }
            (Debt::Timer(unit) | Debt::Rerun(unit), other) => {
                let why = format!("{unit} could not be started again: {}", other.said());
                if matches!(other, Outcome::Fault(Fault::NoSuchUnit(_) | Fault::Refused(_))) {
                    turn.record(Entry::TimerSettled { timer: unit.clone(), why: why.clone() });
                    turn.record(Entry::RerunSettled { unit, why: why.clone() });
                }
                self.trouble = Some(why);
            }
            (Debt::Look(_), other) => self.trouble = Some(format!("cannot look at what is owed a new run: {}", other.said())),
        }
        true
    }

    fn paid(&mut self, turn: &Turn<'_>) {
        self.trouble = None;
        self.next = turn.now.mono;
    }

    /// First what was cut, once it has ended; then the timers, so that their next elapse is real; then the scripts.
    fn looked(&mut self, turn: &mut Turn<'_>, began: Mono, units: &[UnitSeen], owned: &dyn Fn(&str, &str) -> bool) {
        self.trouble = None;
        let units: Vec<&UnitSeen> = units.iter().filter(|seen| !owned("", &seen.unit)).collect();
        for seen in &units {
            let Some(cutting) = turn.memory.cutting.get(&seen.unit).cloned() else { continue };
            if still_ending(&cutting, seen) {
                self.goes_on_ending(turn, began, &cutting, seen);
            } else if seen.invocation == cutting.invocation && seen.active.runs() {
                // The stop or restart was not begun after all.
                settle_cut(turn, &seen.unit, false, false);
                if turn.memory.reruns.contains_key(&seen.unit) {
                    turn.record(Entry::RerunSettled { unit: seen.unit.clone(), why: "it was not stopped".to_owned() });
                }
            } else if cutting.of_script() {
                settle_script(turn, seen, self.orphans.was_killed(&seen.unit));
                if seen.active == Active::Failed {
                    // Nobody waits for it: its outcome is not needed.
                    turn.ask(Effect::ResetFailed { unit: seen.unit.clone() });
                }
            } else {
                settle_cut(turn, &seen.unit, true, false);
            }
        }
        if self.trouble.is_some() {
            return;
        }
        self.start_timers(turn, owned);
        if self.pending.is_empty() {
            for seen in units {
                self.rerun(turn, seen);
            }
        }
    }

    fn goes_on_ending(&mut self, turn: &mut Turn<'_>, began: Mono, cutting: &Cutting, seen: &UnitSeen) {
        self.trouble = Some(format!("{} is still being stopped", seen.unit));
        match self.orphans.ending(cutting, seen, began) {
            Ending::Wait => {}
            Ending::LookAt(at) => self.next = self.next.min(at),
            Ending::Kill { cgroup } => {
                self.orphans.killed(&seen.unit, turn.now.mono);
                self.next = turn.now.mono.after(DYING_LOOK);
                let id = turn.ask(Effect::Kill { unit: seen.unit.clone(), cgroup });
                self.pending.insert(id, Debt::Kill(seen.unit.clone()));
            }
            Ending::Never => self.trouble = Some(format!("{} does not end, not even by SIGKILL", seen.unit)),
        }
    }

    fn rerun(&mut self, turn: &mut Turn<'_>, seen: &UnitSeen) {
        let Some(target) = turn.memory.reruns.get(&seen.unit).cloned() else { return };
        // What starts must not start with what was lent for the stop.
        if turn.memory.lent.contains(&seen.unit) {
            self.next = turn.now.mono;
            return;
        }
        if seen.active.runs() {
            return turn.record(Entry::RerunSettled { unit: seen.unit.clone(), why: "it runs".to_owned() });
        }
        // By its rules it may have to stay quiet.
        if turn.policy.unusable.is_some() {
            self.trouble =
                Some(format!("{} is owed a new run: whether now, its rules say, and the configuration cannot be read", seen.unit));
            return;
        }
        if let Some(TargetRules::Scheduled(rules)) = turn.policy.targets.get(&target)
            && rules.stays_quiet(seen.next_run(), turn.now.wall)
        {
            let why = "stopped; it stays quiet until its next scheduled run";
            turn.record(Entry::RerunSettled { unit: seen.unit.clone(), why: why.to_owned() });
            return turn.unit_ended(&target, &seen.unit, UnitEnd::Quiet, why);
        }
        let id = turn.ask(Effect::Start { unit: seen.unit.clone(), caught_up: false });
        self.pending.insert(id, Debt::Rerun(seen.unit.clone()));
    }

    pub fn hint(&mut self, now: Mono) {
        self.next = now;
    }

    #[must_use]
    pub fn any(&self, memory: &Memory) -> bool {
        !self.pending.is_empty()
            || !memory.timers.is_empty()
            || !memory.reruns.is_empty()
            || !memory.lent.is_empty()
            || !memory.asked.is_empty()
            || !memory.depooled.is_empty()
    }

    /// Something cannot be paid for now.
    #[must_use]
    pub fn stuck(&self) -> bool {
        self.trouble.is_some()
    }

    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    #[must_use]
    pub fn deadline(&self, memory: &Memory) -> Option<Deadline> {
        let owed = (self.waiting && self.pending.is_empty()).then(|| Deadline::new(self.next, "start again what is owed its start"));
        let frozen = !memory.frozen.is_empty() && self.thawing.is_none();
        earliest([owed, frozen.then(|| Deadline::new(self.next_thaw, "let stopped workers go on"))])
    }
}
