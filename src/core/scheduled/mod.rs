//! `kind = "scheduled"`: timer-activated scripts. A running stale one may end by itself; then it is stopped, and runs again now, or at
//! its next scheduled run.
//!
//! The order of a stop is that of facts F2.3: its timers, the service, then what was lent is given back, then the rerun and the timers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::cut::{settle_cut, settle_script};
use super::effect::{Effect, EffectId, Fault, JobEnd, Looked, Outcome};
use super::entry::Entry;
use super::ladder::{Ladder, Rung};
use super::loans::{Loan, Loans, script_drop_in};
use super::look::Looker;
use super::memory::{Cutting, Want};
use super::policy::{After, Overdue, ScheduledRules};
use super::seen::{Active, Load, TimerSeen, UnitSeen};
use super::stale::{LOOK_FROM, Stale, stale};
use super::status::{Casualty, CasualtyKind, TargetState, UnitEnd, UnitView};
use super::step::{Deadline, Turn, earliest};
use super::target::{Progress, matches_any};
use super::time::{Mono, Now, Span};

/// While scripts drain, their end is announced by JobRemoved; this catches what was missed.
const DRAIN_LOOK: Duration = Duration::from_secs(5);
/// While one is being stopped.
const STOP_LOOK: Duration = Duration::from_millis(500);
/// Stops that end together are looked at together.
const BATCH: Duration = Duration::from_millis(15);
/// While nothing is to be done but some are left running.
const LEFT_LOOK: Duration = Duration::from_secs(30);
/// For the stop of a timer: it has no processes.
const TIMER_STOP: Duration = Duration::from_secs(10);
/// A stop whose fate is not known, since systemd does not answer, is sent so often.
const STOP_TRIES: u32 = 3;

#[derive(Debug)]
pub struct Scheduled {
    name: String,
    scripts: BTreeMap<String, Script>,
    look: Looker,
    /// The want that is being worked on.
    working: Option<Want>,
    /// The start of the rollout: drains are counted from there.
    began: Mono,
    /// What was seen before this was seen for something else.
    renewed: Mono,
    progress: Progress,
}

#[derive(Debug)]
struct Script {
    seen: UnitSeen,
    stale: Stale,
    step: ScriptStep,
    /// When `step` was entered.
    since: Mono,
    drain_until: Mono,
    ladder: Option<Ladder>,
    pending: BTreeMap<EffectId, Ask>,
    /// It was started again: when what it is fresh for landed. A newer deploy may have come since.
    started_for: Option<Mono>,
    /// The run that is being stopped.
    invocation: String,
    /// When the look had begun that it was last seen in.
    seen_at: Mono,
    /// When its stop was answered, or taken up.
    answered: Option<Mono>,
    tries: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum ScriptStep {
    Draining,
    /// Its timers are being stopped, so that the end of the script starts no run off schedule (facts F2.2).
    StoppingTimers,
    /// Its loan is awaited, and one more look, so that nothing fresh is stopped.
    Ready,
    Stopping,
    /// It is gone; what was lent is given back before anything starts.
    Stopped,
    StartingTimers,
    Deciding,
    Starting,
    Done(UnitEnd, String),
    Left(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Ask {
    StopTimer,
    StopScript,
    Kill,
    Reset,
    StartTimer(String),
    StartScript,
}

impl Scheduled {
    #[must_use]
    pub fn new(name: &str) -> Scheduled {
        Scheduled {
            name: name.to_owned(),
            scripts: BTreeMap::new(),
            look: Looker::default(),
            working: None,
            began: Mono::BOOT,
            renewed: Mono::BOOT,
            progress: Progress::Idle,
        }
    }

    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Whether the first look for the present want is still to come.
    #[must_use]
    pub fn gathering(&self) -> bool {
        matches!(self.progress, Progress::Working) && !self.look.seen_since(self.renewed)
    }

    #[must_use]
    pub fn stopping(&self) -> bool {
        self.scripts.values().any(|script| matches!(script.step, ScriptStep::StoppingTimers | ScriptStep::Ready | ScriptStep::Stopping))
    }

    /// Whether it knows this script, be it one that was given up.
    #[must_use]
    pub fn knows(&self, unit: &str) -> bool {
        self.scripts.contains_key(unit)
    }

    /// Whether this timer, or this script, is being worked on.
    #[must_use]
    pub fn owns(&self, timer: &str, unit: &str) -> bool {
        let busy = self.scripts.iter().filter(|(_, script)| !script.at_rest());
        // Which timers one has that was taken up, its first look tells.
        let has = |script: &Script| script.seen_at == Mono::BOOT || script.seen.timers.iter().any(|seen| seen.unit == timer);
        let mut busy = busy.map(|(name, script)| name == unit || (!timer.is_empty() && has(script)));
        busy.any(|owned| owned)
    }

    /// Begins, or begins again, to make this target fresh.
    pub fn renew(&mut self, turn: &mut Turn<'_>, loans: &mut Loans, want: Want, began: Mono) {
        self.began = began;
        self.renewed = turn.now.mono;
        self.scripts.retain(|unit, script| {
            if script.at_rest() {
                loans.release(unit);
            }
            !script.at_rest()
        });
        if want.forced {
            for script in self.scripts.values_mut() {
                script.drain_until = script.drain_until.min(turn.now.mono);
            }
        }
        self.working = Some(want);
        self.progress = Progress::Working;
        self.look.reset();
        self.look.want(turn.now.mono);
    }

    /// A stop that an earlier agent sent goes on where it was: its grace is counted from there.
    pub fn take_up(&mut self, now: Mono, unit: &str, cutting: &Cutting, want: Want, rules: &ScheduledRules) {
        let seen =
            UnitSeen { unit: unit.to_owned(), invocation: cutting.invocation.clone(), active: Active::Deactivating, ..UnitSeen::default() };
        let mut script = Script::new(seen, Stale::default(), now, now);
        script.seen_at = Mono::BOOT;
        script.answered = Some(now);
        script.step = ScriptStep::Stopping;
        script.invocation.clone_from(&cutting.invocation);
        script.ladder = Some(Ladder::new(cutting.asked, rules.term_timeout));
        self.scripts.insert(unit.to_owned(), script);
        self.working.get_or_insert(want);
        self.progress = Progress::Working;
        self.look.want(now);
    }

    /// The target is no longer in the configuration.
    pub fn release(&self, loans: &mut Loans) {
        for unit in self.scripts.keys() {
            loans.release(unit);
        }
    }

    /// Gives up what has not been touched; what has been goes on to its end.
    pub fn pause(&mut self, loans: &mut Loans) {
        self.scripts.retain(|unit, script| {
            let untouched = matches!(script.step, ScriptStep::Draining);
            if untouched || script.at_rest() {
                loans.release(unit);
            }
            !untouched
        });
        if self.scripts.values().all(Script::at_rest) {
            self.progress = Progress::Idle;
            self.working = None;
        }
    }

    pub fn hint(&mut self, now: Mono, unit: Option<&str>) {
        let ours = unit.is_none_or(|unit| self.scripts.contains_key(unit));
        if ours && self.working.is_some() {
            self.look.want(now);
        }
    }

    pub fn outcome(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules, loans: &mut Loans, id: EffectId, outcome: &Outcome) -> bool {
        if self.look.owns(id) {
            if let Some(units) = self.look.outcome(turn, id, outcome) {
                self.seen(turn, rules, loans, units);
            }
            return true;
        }
        let name = self.name.clone();
        for (unit, script) in &mut self.scripts {
            if let Some(ask) = script.pending.remove(&id) {
                let stopped = ask == Ask::StopScript;
                script.came_of(turn, &name, unit, ask, outcome, loans);
                if stopped {
                    self.look.want(turn.now.mono.after(BATCH));
                }
                return true;
            }
        }
        false
    }

    fn seen(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules, loans: &mut Loans, units: &[UnitSeen]) {
        let Some(want) = self.working.clone() else { return };
        let memory = turn.memory.targets.get(&self.name).cloned().unwrap_or_default();
        let mut present = BTreeSet::new();
        let drain_until = if want.forced { turn.now.mono } else { self.began.after(rules.drain_timeout) };
        for seen in units {
            let known = self.scripts.contains_key(&seen.unit);
            if !known && (!matches_any(&rules.units, &seen.unit) || matches_any(&rules.exclude, &seen.unit)) {
                continue;
            }
            let stale = stale(seen, &want, &memory);
            if seen.active.runs() || !seen.processes.is_empty() {
                present.insert(seen.unit.clone());
            }
            match self.scripts.get_mut(&seen.unit) {
                Some(script) => {
                    script.seen_at = self.look.began().unwrap_or(script.seen_at);
                    script.look(turn, &self.name, loans, seen, stale, drain_until);
                }
                // A change of the rules alone stops nothing.
                None if !stale.is_empty() && self.progress == Progress::Working && turn.memory.cutting.contains_key(&seen.unit) => {
                    // Given up in an earlier rollout, and still there.
                    if let Some(cutting) = turn.memory.cutting.get(&seen.unit).cloned() {
                        self.take_up(turn.now.mono, &seen.unit, &cutting, want.clone(), rules);
                    }
                }
                None if !stale.is_empty() && self.progress == Progress::Working => {
                    self.scripts.insert(seen.unit.clone(), Script::new(seen.clone(), stale, turn.now.mono, drain_until));
                }
                None => {}
            }
        }
        if self.look.exact() {
            return;
        }
        for (unit, script) in &mut self.scripts {
            if !present.contains(unit) && matches!(script.step, ScriptStep::Draining | ScriptStep::Left(_)) {
                script.ended_by_itself(turn, &self.name, unit);
            }
        }
    }

    pub fn advance(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules, loans: &mut Loans) {
        if self.working.is_none() {
            return;
        }
        let mut failed: Vec<String> = Vec::new();
        for (unit, script) in &mut self.scripts {
            script.advance(turn, rules, loans, &self.name, unit, &self.look);
            if let ScriptStep::Done(UnitEnd::Failed, why) = &script.step {
                failed.push(format!("{unit}: {why}"));
            }
        }
        let busy = self.scripts.values().any(|script| !script.at_rest());
        if !busy {
            for unit in self.scripts.keys() {
                loans.release(unit);
            }
        }
        self.look_when_due(turn, rules);
        let landed = self.working.as_ref().map_or(Mono::BOOT, |want| want.landed);
        if !matches!(self.progress, Progress::Working) || busy {
            return;
        }
        // The last look is one that nothing can have slipped through: after the blur of the landing, and after the last rerun.
        let since = self.scripts.values().map(|script| script.since).max().unwrap_or(self.renewed);
        let from = since.max(self.renewed).max(landed.after(LOOK_FROM));
        if self.look.seen_since(from) {
            self.progress = match failed.first() {
                None => Progress::Reached,
                Some(first) => Progress::Failed { why: first.clone(), blocked: false },
            };
            self.look_when_due(turn, rules);
        } else {
            self.look.want(from.max(turn.now.mono));
            self.look_when_due(turn, rules);
        }
    }

    fn look_when_due(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules) {
        let now = turn.now.mono;
        let busy = self.scripts.values().any(|script| !script.at_rest());
        let left = self.scripts.values().any(|script| matches!(script.step, ScriptStep::Left(_)));
        if self.scripts.values().any(|script| matches!(script.step, ScriptStep::Stopping)) {
            self.look.want(now.after(STOP_LOOK));
        } else if busy {
            self.look.want(now.after(DRAIN_LOOK));
        } else if left {
            self.look.want(now.after(LEFT_LOOK));
        }
        // One look serves all that became ready together.
        let timers_stopping = self.scripts.values().any(|script| matches!(script.step, ScriptStep::StoppingTimers));
        let unseen = |script: &Script| match script.step {
            ScriptStep::Ready => !timers_stopping && !self.look.seen_since(script.since),
            ScriptStep::Deciding => !self.look.seen_since(script.since),
            _ => false,
        };
        if self.scripts.values().any(unseen) {
            self.look.want(now);
        }
        // A unit that is being stopped is asked for by name: one that has ended does not match "running".
        let named = self.scripts.iter().filter(|(_, script)| script.watched(now));
        let cgroups: BTreeMap<String, String> = named.map(|(unit, script)| (unit.clone(), script.seen.cgroup.clone())).collect();
        if cgroups.is_empty() {
            self.look.ask(turn, &rules.units, Looked::WithTimers, cgroups);
        } else {
            let units: Vec<String> = cgroups.keys().cloned().collect();
            self.look.ask(turn, &units, Looked::Exactly, cgroups);
        }
    }

    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        self.working.as_ref()?;
        let look = self.look.due().map(|at| Deadline::new(at, format!("{}: look at its scripts", self.name)));
        earliest(self.scripts.iter().map(|(unit, script)| script.deadline(unit)).chain([look]))
    }

    #[must_use]
    pub fn views(&self, now: Now) -> Vec<UnitView> {
        self.scripts.iter().map(|(unit, script)| script.view(unit, now)).collect()
    }

    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.look.trouble()
    }
}

impl Script {
    fn new(seen: UnitSeen, stale: Stale, now: Mono, drain_until: Mono) -> Script {
        Script {
            seen,
            stale,
            step: ScriptStep::Draining,
            since: now,
            drain_until,
            ladder: None,
            pending: BTreeMap::new(),
            started_for: None,
            invocation: String::new(),
            seen_at: now,
            answered: None,
            tries: 0,
        }
    }

    fn at_rest(&self) -> bool {
        matches!(self.step, ScriptStep::Done(..) | ScriptStep::Left(_))
    }

    /// Whether it is to be looked at by name: it is being stopped and its stop has been answered or is overdue, or it just was.
    fn watched(&self, now: Mono) -> bool {
        match self.step {
            ScriptStep::Stopping => {
                self.answered.is_some() || self.ladder.as_ref().is_some_and(|ladder| !matches!(ladder.rung(now), Rung::Grace { .. }))
            }
            ScriptStep::StoppingTimers | ScriptStep::Ready | ScriptStep::Deciding => true,
            _ => false,
        }
    }

    fn enter(&mut self, now: Mono, step: ScriptStep) {
        self.step = step;
        self.since = now;
    }

    fn ended_by_itself(&mut self, turn: &mut Turn<'_>, target: &str, unit: &str) {
        let ran = Span(turn.now.mono.since(self.stale.oldest.unwrap_or(turn.now.mono)));
        let why = format!("it ended by itself after {ran}");
        turn.unit_ended(target, unit, UnitEnd::Finished, why.clone());
        self.stale = Stale::default();
        self.enter(turn.now.mono, ScriptStep::Done(UnitEnd::Finished, why));
    }

    fn look(&mut self, turn: &mut Turn<'_>, target: &str, loans: &mut Loans, seen: &UnitSeen, stale: Stale, drain_until: Mono) {
        match self.step {
            // What was seen before it was done says nothing of what was done.
            ScriptStep::Done(..) if self.seen_at < self.since => {}
            ScriptStep::Draining | ScriptStep::Left(_) if stale.is_empty() => self.ended_by_itself(turn, target, &seen.unit),
            ScriptStep::StoppingTimers | ScriptStep::Ready if stale.is_empty() && !turn.memory.cutting.contains_key(&seen.unit) => {
                // It ended while its timers were being stopped: they are owed their start all the same.
                self.stale = stale;
                loans.release(&seen.unit);
                self.enter(turn.now.mono, ScriptStep::Stopped);
            }
            ScriptStep::Ready if stale.is_empty() => {
                // The stop of which nobody knew what became has taken place.
                self.stale = stale;
                self.seen = seen.clone();
                self.enter(turn.now.mono, ScriptStep::Stopping);
            }
            ScriptStep::Stopping if self.not_stopped(seen) => {
                // The stop was lost, with the bus or with an earlier agent: begin again.
                settle_cut(turn, &seen.unit, false, false);
                if turn.memory.reruns.contains_key(&seen.unit) {
                    turn.record(Entry::RerunSettled { unit: seen.unit.clone(), why: "it was not stopped".to_owned() });
                }
                self.tries += 1;
                if self.tries >= STOP_TRIES {
                    return self.give_up(turn, target, &seen.unit, "systemd takes its stop and does not do it");
                }
                self.stale = stale;
                self.seen = seen.clone();
                self.ladder = None;
                self.drain_until = turn.now.mono;
                self.enter(turn.now.mono, ScriptStep::Draining);
            }
            ScriptStep::Stopping => {
                self.stale = stale;
                let cgroup = std::mem::take(&mut self.seen.cgroup);
                self.seen = seen.clone();
                if self.seen.cgroup.is_empty() {
                    self.seen.cgroup = cgroup;
                }
            }
            ScriptStep::Done(UnitEnd::Renewed, _) if self.started_for.is_some() => {
                let Some(landed) = self.started_for.take() else { return };
                if !seen.invocation.is_empty() && seen.invocation != self.seen.invocation {
                    let (target, unit, invocation) = (target.to_owned(), seen.unit.clone(), seen.invocation.clone());
                    turn.record(Entry::Fresh { target, unit, invocation, landed });
                }
            }
            ScriptStep::Done(ref end, _) if !stale.is_empty() && *end != UnitEnd::Failed => {
                // Somebody's process is older than the landing all the same: begin again with it.
                *self = Script::new(seen.clone(), stale, turn.now.mono, drain_until);
            }
            ScriptStep::Draining | ScriptStep::Left(_) | ScriptStep::StoppingTimers | ScriptStep::Ready => {
                self.stale = stale;
                self.seen = seen.clone();
            }
            ScriptStep::Stopped | ScriptStep::StartingTimers | ScriptStep::Deciding | ScriptStep::Starting | ScriptStep::Done(..) => {
                self.seen.timers.clone_from(&seen.timers);
                self.seen.active = seen.active;
                self.stale = stale;
            }
        }
    }

    fn not_stopped(&self, seen: &UnitSeen) -> bool {
        let looked = self.answered.is_some_and(|answered| self.seen_at >= answered);
        looked && seen.invocation == self.invocation && matches!(seen.active, Active::Active | Active::Activating)
    }

    fn advance(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules, loans: &mut Loans, target: &str, unit: &str, look: &Looker) {
        let now = turn.now.mono;
        match self.step.clone() {
            ScriptStep::Draining => self.drain(turn, rules, loans, target, unit),
            ScriptStep::StoppingTimers if self.pending.is_empty() => self.enter(now, ScriptStep::Ready),
            ScriptStep::Ready => {
                loans.want(unit, &script_drop_in(&self.seen, rules.term_timeout));
                match loans.of(unit) {
                    Loan::Here => {}
                    Loan::Coming => return,
                    Loan::Failed(why) => return self.give_up(turn, target, unit, &why),
                }
                if look.seen_since(self.since) {
                    self.stop(turn, rules, target, unit);
                }
            }
            ScriptStep::Stopping => {
                self.escalate(turn, rules, target, unit);
                if self.step == ScriptStep::Stopped {
                    // At once, so that the last one to end takes all back with one Reload.
                    loans.release(unit);
                }
            }
            ScriptStep::Stopped => {
                loans.release(unit);
                if !turn.memory.lent.contains(unit) && self.pending.is_empty() {
                    let rerun_first = turn.memory.reruns.contains_key(unit) && rules.after == After::Rerun;
                    if rerun_first { self.start(turn, target, unit) } else { self.enter(now, ScriptStep::StartingTimers) }
                }
            }
            ScriptStep::StartingTimers if self.pending.is_empty() => self.start_timers(turn, target, unit, rules),
            ScriptStep::Deciding if look.seen_since(self.since) => self.decide(turn, rules, target, unit),
            _ => {}
        }
    }

    fn drain(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules, loans: &mut Loans, target: &str, unit: &str) {
        if let Some(why) = untouchable(&self.seen, rules.overdue) {
            turn.unit_ended(target, unit, UnitEnd::Left, why.clone());
            return self.enter(turn.now.mono, ScriptStep::Left(why));
        }
        if self.seen.exec_starts <= 1 {
            loans.want(unit, &script_drop_in(&self.seen, rules.term_timeout));
        }
        if turn.now.mono < self.drain_until || !turn.journal_good {
            return;
        }
        self.enter(turn.now.mono, ScriptStep::StoppingTimers);
        for timer in self.seen.timers.clone().iter().filter(|timer| timer.active) {
            turn.record(Entry::TimerOwed { timer: timer.unit.clone(), persistent: timer.persistent });
            let id = turn.ask(Effect::Stop { unit: timer.unit.clone(), within: TIMER_STOP });
            self.pending.insert(id, Ask::StopTimer);
        }
        if self.pending.is_empty() {
            self.enter(turn.now.mono, ScriptStep::Ready);
        }
    }

    fn stop(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules, target: &str, unit: &str) {
        // What somebody else is stopping already is not for us to start again.
        let ours = self.seen.active != Active::Deactivating;
        if ours && rules.after != After::UntilNext && !self.seen.refuse_manual_start && !self.seen.transient {
            turn.record(Entry::RerunOwed { unit: unit.to_owned(), target: target.to_owned() });
        }
        self.invocation.clone_from(&self.seen.invocation);
        let casualties = vec![Casualty { certain: ours, ..self.casualty(turn, target, unit) }];
        turn.record(Entry::Cutting {
            unit: unit.to_owned(),
            invocation: self.invocation.clone(),
            asked: turn.now.mono,
            grace: Some(rules.term_timeout),
            casualties,
        });
        let id = turn.ask(Effect::Stop { unit: unit.to_owned(), within: rules.term_timeout + Duration::from_secs(30) });
        self.pending.insert(id, Ask::StopScript);
        self.answered = None;
        self.ladder = Some(Ladder::new(turn.now.mono, rules.term_timeout));
        self.enter(turn.now.mono, ScriptStep::Stopping);
    }

    /// What is lost if the stop cuts it; how it ended is added when that is known.
    fn casualty(&self, turn: &Turn<'_>, target: &str, unit: &str) -> Casualty {
        let started = self.stale.oldest.unwrap_or(self.seen.main_start);
        Casualty {
            target: target.to_owned(),
            unit: unit.to_owned(),
            what: CasualtyKind::Script,
            pid: self.seen.main_pid,
            name: unit.to_owned(),
            ran: Span(turn.now.mono.since(started)).to_string(),
            ended_by: "SIGTERM".to_owned(),
            certain: false,
            at: turn.now.wall,
            request: None,
        }
    }

    fn escalate(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules, target: &str, unit: &str) {
        let Some(ladder) = &mut self.ladder else { return };
        let ended = !self.seen.active.runs() && self.seen.processes.is_empty();
        // Another run is not to be stopped for this one.
        let runs_anew = self.seen.invocation != self.invocation && self.stale.is_empty();
        if self.answered.is_some() && self.seen_at >= self.since && (ended || runs_anew) {
            return self.gone(turn, unit);
        }
        // Only on the word of a look that began after the grace.
        let looked = self.seen_at >= ladder.sent().after(rules.term_timeout);
        match ladder.rung(turn.now.mono) {
            Rung::Kill if looked && !ended && !runs_anew => {
                ladder.killed(turn.now.mono);
                let id = turn.ask(Effect::Kill { unit: unit.to_owned(), cgroup: self.seen.cgroup.clone() });
                self.pending.insert(id, Ask::Kill);
            }
            Rung::Unkillable => {
                let pids: Vec<String> = self.seen.processes.iter().map(|process| process.pid.to_string()).collect();
                let why = format!("process {} does not end, not even by SIGKILL: it is stuck in the kernel", pids.join(", "));
                // What it owes is paid when it has ended all the same, whoever sees that.
                self.give_up(turn, target, unit, &why);
            }
            Rung::Kill | Rung::Grace { .. } | Rung::Dying { .. } => {}
        }
    }

    /// It has ended. Whether our signal ended it, its exit tells.
    fn gone(&mut self, turn: &mut Turn<'_>, unit: &str) {
        let killed = self.ladder.as_ref().is_some_and(Ladder::was_killed);
        if !settle_script(turn, &self.seen, killed) {
            // It was done before it was asked.
            self.ladder = None;
            if turn.memory.reruns.contains_key(unit) {
                turn.record(Entry::RerunSettled { unit: unit.to_owned(), why: "it had ended by itself".to_owned() });
            }
        }
        if self.seen.active == Active::Failed {
            let id = turn.ask(Effect::ResetFailed { unit: unit.to_owned() });
            self.pending.insert(id, Ask::Reset);
        }
        self.enter(turn.now.mono, ScriptStep::Stopped);
    }

    fn start_timers(&mut self, turn: &mut Turn<'_>, target: &str, unit: &str, rules: &ScheduledRules) {
        let owed: Vec<TimerSeen> = self.seen.timers.iter().filter(|timer| turn.memory.timers.contains_key(&timer.unit)).cloned().collect();
        if owed.is_empty() {
            return self.after_timers(turn, target, unit, rules);
        }
        for timer in owed {
            let id = turn.ask(Effect::Start { unit: timer.unit.clone(), caught_up: timer.persistent });
            self.pending.insert(id, Ask::StartTimer(timer.unit));
        }
    }

    fn after_timers(&mut self, turn: &mut Turn<'_>, target: &str, unit: &str, rules: &ScheduledRules) {
        let now = turn.now.mono;
        if self.ladder.is_none() {
            return self.ended_by_itself(turn, target, unit);
        }
        if let ScriptStep::Done(..) = self.step {
            return;
        }
        if self.started_for.is_some() {
            return self.done(turn, target, unit, UnitEnd::Renewed, "stopped, and started again with the new code".to_owned());
        }
        if rules.after == After::UntilNext || !turn.memory.reruns.contains_key(unit) {
            self.enter(now, ScriptStep::Deciding);
        } else if self.seen.timers.is_empty() {
            self.start(turn, target, unit);
        } else {
            self.enter(now, ScriptStep::Deciding);
        }
    }

    /// Its timers run again, so their next elapse is real: rerun now, or stay quiet until then.
    fn decide(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules, target: &str, unit: &str) {
        let next = self.seen.timers.iter().filter(|timer| timer.active).filter_map(|timer| timer.next).min();
        let within = next.is_some_and(|next| next.since(turn.now.wall) <= rules.quiet_within);
        let rerun = turn.memory.reruns.contains_key(unit) && rules.after != After::UntilNext;
        if rerun && !within && !self.seen.active.runs() {
            return self.start(turn, target, unit);
        }
        let why = match next {
            Some(next) => format!("stopped; its next scheduled run is at {next}"),
            None if self.seen.active.runs() => "stopped; it runs again".to_owned(),
            None => "stopped; no timer has a next run for it".to_owned(),
        };
        if turn.memory.reruns.contains_key(unit) {
            turn.record(Entry::RerunSettled { unit: unit.to_owned(), why: why.clone() });
        }
        self.done(turn, target, unit, UnitEnd::Quiet, why);
    }

    fn start(&mut self, turn: &mut Turn<'_>, target: &str, unit: &str) {
        let want = turn.memory.targets.get(target).and_then(|memory| memory.want.as_ref());
        self.started_for = Some(want.map_or(turn.now.mono, |want| want.landed));
        let id = turn.ask(Effect::Start { unit: unit.to_owned(), caught_up: false });
        self.pending.insert(id, Ask::StartScript);
        self.enter(turn.now.mono, ScriptStep::Starting);
    }

    fn done(&mut self, turn: &mut Turn<'_>, target: &str, unit: &str, end: UnitEnd, why: String) {
        turn.unit_ended(target, unit, end, why.clone());
        self.enter(turn.now.mono, ScriptStep::Done(end, why));
    }

    fn give_up(&mut self, turn: &mut Turn<'_>, target: &str, unit: &str, why: &str) {
        self.done(turn, target, unit, UnitEnd::Failed, why.to_owned());
    }

    fn came_of(&mut self, turn: &mut Turn<'_>, target: &str, unit: &str, ask: Ask, outcome: &Outcome, loans: &mut Loans) {
        match (ask, outcome) {
            (Ask::StopScript, Outcome::Job(_)) => self.answered = Some(turn.now.mono),
            (Ask::Kill, Outcome::Fault(_)) => {
                if let Some(ladder) = &mut self.ladder {
                    ladder.kill_failed(turn.now.mono);
                }
            }
            (Ask::StartTimer(timer), Outcome::Queued) => turn.record(Entry::TimerSettled { timer, why: "started again".to_owned() }),
            (Ask::StartTimer(timer), other) => {
                self.give_up(turn, target, unit, &format!("its timer {timer} could not be started again: {}", said(other)))
            }
            (Ask::StartScript, Outcome::Queued) => {
                turn.record(Entry::RerunSettled { unit: unit.to_owned(), why: "started again".to_owned() });
                self.enter(turn.now.mono, ScriptStep::StartingTimers);
            }
            (Ask::StartScript, other) => {
                let why = format!("stopped, but it could not be started again: {}", said(other));
                turn.record(Entry::RerunSettled { unit: unit.to_owned(), why: why.clone() });
                self.give_up(turn, target, unit, &why);
            }
            (Ask::StopScript, Outcome::Fault(fault)) => {
                self.tries += 1;
                if matches!(fault, Fault::Unreachable(_) | Fault::Other(_)) && self.tries < STOP_TRIES {
                    // Whether it was taken is not known; a second one does no harm.
                    return self.enter(turn.now.mono, ScriptStep::Ready);
                }
                settle_cut(turn, unit, false, false);
                loans.release(unit);
                self.give_up(turn, target, unit, &format!("it could not be stopped: {fault}"));
            }
            (Ask::StopTimer, Outcome::Fault(fault)) => {
                self.give_up(turn, target, unit, &format!("its timer could not be stopped: {fault}"))
            }
            _ => {}
        }
    }

    fn deadline(&self, unit: &str) -> Option<Deadline> {
        match (&self.step, &self.ladder) {
            (ScriptStep::Draining, _) => Some(Deadline::new(self.drain_until, format!("{unit}: may end by itself"))),
            (ScriptStep::Stopping, Some(ladder)) => match ladder.rung(self.since) {
                Rung::Grace { until } => Some(Deadline::new(until, format!("{unit}: its grace after SIGTERM"))),
                Rung::Dying { until } => Some(Deadline::new(until, format!("{unit}: SIGKILL"))),
                Rung::Kill | Rung::Unkillable => None,
            },
            _ => None,
        }
    }

    fn view(&self, unit: &str, now: Now) -> UnitView {
        let (state, why, deadline) = match &self.step {
            ScriptStep::Draining => (TargetState::Draining, "runs old code; may end by itself".to_owned(), Some(self.drain_until)),
            ScriptStep::StoppingTimers | ScriptStep::Ready => (TargetState::Stopping, "about to be stopped".to_owned(), None),
            ScriptStep::Stopping => match self.ladder.as_ref().map(|ladder| ladder.rung(now.mono)) {
                Some(Rung::Grace { until }) => (TargetState::Stopping, "was sent SIGTERM".to_owned(), Some(until)),
                Some(Rung::Dying { until }) => (TargetState::Killing, "was sent SIGKILL".to_owned(), Some(until)),
                _ => (TargetState::Killing, "SIGKILL is due".to_owned(), None),
            },
            ScriptStep::Stopped | ScriptStep::StartingTimers | ScriptStep::Deciding | ScriptStep::Starting => {
                (TargetState::Starting, "stopped; its timers, and if its rules say so the script, are being started".to_owned(), None)
            }
            ScriptStep::Done(UnitEnd::Failed, why) => (TargetState::Failed, why.clone(), None),
            ScriptStep::Done(_, why) => (TargetState::Fresh, why.clone(), None),
            ScriptStep::Left(why) => (TargetState::Left, why.clone(), None),
        };
        UnitView {
            unit: unit.to_owned(),
            state,
            stale_processes: self.stale.count(),
            oldest_start: self.stale.oldest.map(|at| now.wall_of(at)),
            in_flight: None,
            why,
            deadline: deadline.map(|at| now.wall_of(at)),
        }
    }
}

fn said(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Fault(fault) => fault.to_string(),
        Outcome::Job(JobEnd::Running) => "it took too long".to_owned(),
        _ => "no answer".to_owned(),
    }
}

/// A script that its rules, or systemd, do not let us stop.
fn untouchable(unit: &UnitSeen, overdue: Option<Overdue>) -> Option<String> {
    if unit.refuse_manual_stop {
        return Some("it refuses a manual stop (RefuseManualStop=yes): it goes on with old code until it ends".to_owned());
    }
    if unit.load == Load::Masked {
        return Some("it is masked, so it could not come back: it goes on with old code until it ends".to_owned());
    }
    match overdue {
        Some(Overdue::Finish) => Some("its rules let it finish (overdue = \"finish\")".to_owned()),
        Some(Overdue::Stop) => None,
        None if unit.on_success && unit.on_failure => {
            Some("it has OnSuccess= and OnFailure=, so any stop would start one of them: it may finish".to_owned())
        }
        None => None,
    }
}
