//! What the agent owes the host whatever happens: workers that it stopped go on, scripts that it keeps quiet or stopped to run again do, scripts that
//! were asked to end are asked no more, and what its stops cut is written down. Most of it is paid in the course of a rollout; this pays what a crash, a fault
//! or a changed configuration left over.

mod dependents;
mod ended;
mod services;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::asking::over;
use super::cut::{Saw, is_queued, settle_cut, settle_cut_of_earlier, settle_rerun_of_running, settle_script, still_ending};
use super::effect::{Effect, EffectId, Looked, Outcome, WorkerRef};
use super::entry::Entry;
use super::memory::{Memory, OwedRun};
use super::orphans::Orphans;
use super::scheduled::{rules_of, settle};
use super::seen::{Active, UnitSeen};
use super::status::UnitEnd;
use super::step::{Deadline, Turn, earliest};
use super::time::{Mono, Now};

/// Between two tries to pay.
const RETRY: Duration = Duration::from_secs(5);
/// For what is about to happen: a drop-in that is being taken back, a timer that is about to fire.
const SOON: Duration = Duration::from_millis(250);
/// At one that may run for days before it is known what it is owed; systemd announces its end.
const RUNNING_LOOK: Duration = Duration::from_secs(30);
/// After a SIGKILL.
const DYING_LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Default)]
pub struct Debts {
    thawing: Option<EffectId>,
    next_thaw: Mono,
    pending: BTreeMap<EffectId, Debt>,
    orphans: Orphans,
    /// Of what is kept quiet: those whose passed slots are over.
    over: BTreeSet<String>,
    /// Of those that no stop of ours is at: whom somebody else was seen to stop.
    stopped: BTreeSet<String>,
    /// Services that were started, and are not known to be up.
    starts: BTreeMap<String, services::Starts>,
    /// Those that go on with what they were lent, and when each is looked at next.
    running: BTreeMap<String, Mono>,
    /// The last round took requests back.
    unasking: bool,
    /// Whose were taken back.
    unasked: BTreeSet<String>,
    next: Mono,
    /// Something is owed that no rollout is at.
    waiting: bool,
    trouble: Option<String>,
    /// Since when a start that systemd has queued is waited for.
    awaits: Option<Mono>,
    /// The first rerun that waits for what its last run left behind to settle.
    settled: Option<Mono>,
    hurried: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Debt {
    LetRun(String),
    /// What went down with a script: the script, and the unit.
    BringBack(String, String),
    Rerun(String),
    /// The same of a service.
    BringUp(String),
    Kill(String),
    Unask(String),
    /// When it was begun, and whom a stop of ours was at by then.
    Look(Mono, BTreeSet<String>),
}

impl Debts {
    /// `gathering`: the first look of a rollout is still to come, which may take things into its own hands. `counting`: stopped workers go
    /// on by what php-fpm's restart does. `owned`: whether a rollout is at this unit right now, and will pay itself.
    pub fn advance(&mut self, turn: &mut Turn<'_>, gathering: bool, counting: bool, owned: &dyn Fn(&str) -> bool) {
        // Before anything else: a worker that we stopped serves nobody.
        let workers: Vec<WorkerRef> = turn.memory.stands_still().cloned().collect();
        if !counting && !workers.is_empty() && self.thawing.is_none() && turn.now.mono >= self.next_thaw {
            self.next_thaw = turn.now.mono.after(RETRY);
            self.thawing = Some(turn.ask(Effect::Thaw { workers }));
        }
        if gathering || !self.pending.is_empty() {
            return;
        }
        let asked: Vec<String> = turn.memory.asked.iter().filter(|unit| !owned(unit) && !turn.memory.asking(unit)).cloned().collect();
        asked.iter().for_each(|unit| over(turn, unit));
        // What a unit that is still asked shares with it is taken back with its own.
        let asked: Vec<String> = asked.into_iter().filter(|unit| !turn.memory.shares(unit)).collect();
        let memory = &turn.memory;
        self.running.retain(|unit, at| *at > turn.now.mono && memory.reruns.contains_key(unit));
        self.starts.retain(|unit, _| memory.reruns.contains_key(unit));
        self.settled = memory.reruns.values().filter_map(|owed| self.settles_at(owed, turn.now)).min();
        let due = |owed: &OwedRun| self.settles_at(owed, turn.now).is_none();
        let reruns = memory.reruns.iter().filter(|(unit, owed)| due(owed) && !self.running.contains_key(*unit)).map(|(unit, _)| unit);
        let down = memory.taken_down.keys().filter(|unit| dependents::comes_back(memory, unit));
        let units = reruns.chain(down).chain(memory.cutting.keys()).chain(memory.quiet.keys());
        let units: BTreeSet<String> = units.filter(|unit| !owned(unit) && !memory.asked.contains(*unit)).cloned().collect();
        self.waiting = !units.is_empty() || !asked.is_empty();
        // What a rollout has been at since has passed other slots.
        self.over.retain(|unit| turn.memory.quiet.contains_key(unit) && !owned(unit));
        self.unasked.retain(|unit| units.contains(unit));
        if !self.waiting {
            self.trouble = None;
        }
        if !self.waiting || turn.now.mono < self.next {
            return;
        }
        self.next = turn.now.mono.after(RETRY);
        // Before anything starts that would find itself asked; in turns with the rest, should it fail.
        self.unasking = !asked.is_empty() && (!self.unasking || units.is_empty());
        if self.unasking {
            for unit in asked {
                let id = turn.ask(turn.memory.unask(&unit));
                self.pending.insert(id, Debt::Unask(unit));
            }
            return;
        }
        let units: Vec<String> = units.into_iter().collect();
        self.orphans.keep(&units);
        self.stopped.retain(|unit| units.contains(unit));
        let stopping = units.iter().filter(|unit| turn.memory.stopping(unit)).cloned().collect();
        let id = turn.ask(Effect::Look { units, looked: Looked::Exactly, cgroups: self.orphans.cgroups(), names: false });
        self.pending.insert(id, Debt::Look(turn.now.mono, stopping));
    }

    pub fn outcome(&mut self, turn: &mut Turn<'_>, id: EffectId, outcome: &Outcome, owned: &dyn Fn(&str) -> bool) -> bool {
        if self.thawing.take_if(|thawing| *thawing == id).is_some() {
            return true;
        }
        let Some(debt) = self.pending.remove(&id) else { return false };
        match (debt, outcome) {
            (Debt::Rerun(unit), Outcome::Queued) => {
                let target = turn.memory.reruns.get(&unit).map(|owed| owed.target.clone()).unwrap_or_default();
                turn.record(Entry::RerunSettled { unit: unit.clone(), why: "started again".to_owned() });
                turn.unit_ended(&target, &unit, UnitEnd::Renewed, "stopped, and started again with the new code");
                self.paid(turn);
            }
            (Debt::BringUp(unit), Outcome::Queued) => self.service_starts(turn.now.mono, &unit),
            (Debt::BringBack(unit, dependent), outcome) => {
                let why = match outcome {
                    Outcome::Queued => format!("it went down with {unit}, and was started again"),
                    other if other.is_refusal() => format!("it went down with {unit}, and could not be started again: {}", other.said()),
                    other => {
                        self.trouble = Some(format!("{dependent} went down with {unit} and could not be started again: {}", other.said()));
                        return true;
                    }
                };
                turn.record(Entry::BroughtBack { unit, dependent, why });
                self.paid(turn);
            }
            (Debt::Look(began, stopping), Outcome::Units(units)) => self.looked(turn, began, &stopping, units, owned),
            (Debt::Kill(unit), Outcome::Fault(_)) => self.orphans.kill_failed(&unit, turn.now.mono),
            (Debt::Kill(unit), _) => self.orphans.kill_sent(&unit, turn.now.mono),
            (Debt::Unask(unit), Outcome::Done) => {
                self.unasked.insert(unit);
                self.paid(turn);
            }
            (Debt::LetRun(_), Outcome::Done) => self.paid(turn),
            (Debt::Unask(unit), other) => {
                self.trouble = Some(format!("the request to stop {unit} could not be taken back: {}", other.said()));
            }
            (Debt::LetRun(unit), other) => {
                self.trouble = Some(format!("the timers of {unit} are still kept from starting it: {}", other.said()));
            }
            (Debt::Rerun(unit) | Debt::BringUp(unit), other) => {
                let why = format!("{unit} could not be started again: {}", other.said());
                if other.is_refusal() {
                    turn.record(Entry::RerunSettled { unit, why: why.clone() });
                }
                self.trouble = Some(why);
            }
            (Debt::Look(..), other) => self.trouble = Some(format!("cannot look at what is owed a new run: {}", other.said())),
        }
        true
    }

    fn paid(&mut self, turn: &Turn<'_>) {
        self.trouble = None;
        self.next = turn.now.mono;
    }

    /// First what was cut, once it has ended; then whatever is kept quiet may run, so that its timers are as they were; then the scripts.
    fn looked(&mut self, turn: &mut Turn<'_>, began: Mono, stopping: &BTreeSet<String>, units: &[UnitSeen], owned: &dyn Fn(&str) -> bool) {
        self.trouble = None;
        let units: Vec<&UnitSeen> = units.iter().filter(|seen| !owned(&seen.unit)).collect();
        let mut ending = BTreeSet::new();
        for seen in &units {
            let Some(cutting) = turn.memory.cutting.get(&seen.unit).cloned() else {
                self.note_stop(seen);
                continue;
            };
            if still_ending(&cutting, seen) {
                ending.insert(seen.unit.clone());
                self.goes_on_ending(turn, began, &cutting, seen);
            } else if is_queued(&cutting, seen) {
                // For how long is up to what requires it: nobody waits for that.
                ending.insert(seen.unit.clone());
                self.trouble = Some(format!("the stop of {} waits in systemd's queue, for what requires it to stop", seen.unit));
            } else if stopping.contains(&seen.unit) || turn.memory.stopping(&seen.unit) {
                // What came of the stop is known when it is answered, and only to a look that began after that.
                ending.insert(seen.unit.clone());
                self.soon(turn);
            } else if seen.invocation == cutting.invocation && seen.active.runs() {
                // The stop or restart was not begun after all.
                settle_cut(turn, &seen.unit, false, false);
                settle_rerun_of_running(turn, seen, "it was not stopped");
            } else if cutting.of_script() {
                if settle_script(turn, seen, self.orphans.killed_from(&seen.unit), Saw::Nothing, None) {
                    if cutting.ours() {
                        Debts::interrupted(turn, &cutting, seen);
                    }
                    if seen.active == Active::Failed {
                        // Nobody waits for it: its outcome is not needed.
                        turn.ask(Effect::ResetFailed { unit: seen.unit.clone() });
                    }
                }
            } else {
                settle_cut_of_earlier(turn, &seen.unit, true);
            }
        }
        // One that does not end keeps nobody else waiting. What becomes of one that ends by itself is known when systemd is done with it.
        for seen in units.into_iter().filter(|seen| !ending.contains(&seen.unit) && seen.active != Active::Deactivating) {
            if let Some(interrupted) = turn.memory.quiet.get(&seen.unit).copied() {
                self.let_run(turn, seen, interrupted);
            } else {
                self.rerun(turn, seen);
                self.bring_back(turn, seen);
            }
        }
    }

    fn soon(&mut self, turn: &Turn<'_>) {
        self.next = self.next.min(turn.now.mono.after(SOON));
    }

    fn rerun(&mut self, turn: &mut Turn<'_>, seen: &UnitSeen) {
        let Some(owed) = turn.memory.reruns.get(&seen.unit).cloned() else { return };
        if turn.memory.lent.contains(&seen.unit) {
            return self.soon(turn);
        }
        if owed.lent && !owed.reloaded {
            return turn.record(Entry::RerunSettled { unit: seen.unit.clone(), why: "it was lent nothing".to_owned() });
        }
        // A script may be of any Type=.
        if !seen.oneshot && rules_of(turn.policy, &seen.unit, &owed.target).is_none() {
            return self.bring_up(turn, seen, &owed);
        }
        // Whoever has lent it something has kept its later commands from running: what it is owed is known when it has ended.
        if seen.active.runs() && owed.lent && seen.invocation == owed.after {
            self.running.insert(seen.unit.clone(), turn.now.mono.after(RUNNING_LOOK));
            return;
        }
        if seen.active.runs() {
            return settle_rerun_of_running(turn, seen, "it runs");
        }
        if owed.has_run(seen) {
            return turn.record(Entry::RerunSettled { unit: seen.unit.clone(), why: "it has run since".to_owned() });
        }
        let stopped = self.stopped.contains(&seen.unit);
        if owed.lent && (stopped || seen.result != "success" || seen.was_signalled()) {
            return turn.record(Entry::RerunSettled { unit: seen.unit.clone(), why: "it failed, or somebody stopped it".to_owned() });
        }
        // What went down with it may have it looked at before.
        if self.settles_at(&owed, turn.now).is_some() {
            return;
        }
        if owed.settles.is_some() {
            return self.start_script(turn, seen);
        }
        // By its rules it may have to stay quiet.
        if turn.policy.unusable.is_some() && !owed.scheduled {
            self.trouble =
                Some(format!("{} is owed a new run: whether now, its rules say, and the configuration cannot be read", seen.unit));
            return;
        }
        if let Some((target, rules)) = rules_of(turn.policy, &seen.unit, &owed.target)
            && !owed.scheduled
        {
            let target = target.to_owned();
            if owed.target != target {
                // Whose it is could not be read when it was owed.
                let (unit, target, lent, after) = (seen.unit.clone(), target.clone(), owed.lent, owed.after);
                turn.record(Entry::RerunOwed { unit, target, scheduled: false, lent, quiet: false, after });
            }
            // One that has ended at its checkpoint is not kept waiting for its timer.
            if self.has_heeded(rules, seen) || !rules.stays_quiet(seen.next_run(), turn.now.wall) {
                if rules.settle_after.is_zero() || self.hurried {
                    return self.start_script(turn, seen);
                }
                let why = settle(turn, seen, rules);
                return turn.unit_ended(&target, &seen.unit, UnitEnd::Quiet, why);
            }
            let why = "stopped; it stays quiet until its next scheduled run";
            turn.record(Entry::RerunSettled { unit: seen.unit.clone(), why: why.to_owned() });
            return turn.unit_ended(&target, &seen.unit, UnitEnd::Quiet, why);
        }
        if owed.quiet && !owed.scheduled {
            return turn.record(Entry::RerunSettled { unit: seen.unit.clone(), why: "its rules give it none".to_owned() });
        }
        self.start_script(turn, seen);
    }

    /// When what it has left behind settles, if that is still to come and is waited for.
    fn settles_at(&self, owed: &OwedRun, now: Now) -> Option<Mono> {
        let at = owed.settles.as_ref().map(|settles| now.mono_of(settles.until));
        at.filter(|at| !self.hurried && *at > now.mono)
    }

    /// Not while it would only wait with all others: a start that waits is gone if the host goes down.
    fn start_script(&mut self, turn: &mut Turn<'_>, seen: &UnitSeen) {
        if !turn.memory.starts_held {
            self.start(turn, seen, Debt::Rerun);
        }
    }

    fn start(&mut self, turn: &mut Turn<'_>, seen: &UnitSeen, debt: fn(String) -> Debt) {
        let id = turn.ask(Effect::Start { unit: seen.unit.clone() });
        self.pending.insert(id, debt(seen.unit.clone()));
    }

    /// What only waits for something to settle is not waited for: nobody will be here to pay it later.
    pub fn hurry(&mut self) {
        self.hurried = true;
    }

    pub fn hint(&mut self, now: Mono, unit: Option<&str>) {
        match unit {
            Some(unit) => drop(self.running.remove(unit)),
            None => {
                self.next = now;
                self.running.clear();
            }
        }
    }

    #[must_use]
    pub fn any(&self, memory: &Memory) -> bool {
        !self.pending.is_empty()
            || !memory.quiet.is_empty()
            || memory.starts_held
            || !memory.reruns.is_empty()
            || !memory.taken_down.is_empty()
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
        let settled = self.settled.filter(|_| self.pending.is_empty()).map(|at| Deadline::new(at, "start again what has settled"));
        let frozen = memory.stands_still().next().is_some() && self.thawing.is_none();
        let running = self.running.values().min().filter(|_| self.pending.is_empty());
        let running = running.map(|at| Deadline::new(*at, "look at what goes on with what it was lent"));
        earliest([owed, settled, running, frozen.then(|| Deadline::new(self.next_thaw, "let stopped workers go on"))])
    }
}

#[cfg(test)]
mod tests;
