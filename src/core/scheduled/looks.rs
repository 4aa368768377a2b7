//! When and what is looked at, and what a look says of each script.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Scheduled;
use super::script::{Ended, Script, ScriptStep};
use crate::core::cut::{Saw, settle_rerun_of_later};
use crate::core::effect::Looked;
use crate::core::entry::Entry;
use crate::core::ladder::Rung;
use crate::core::loans::Loans;
use crate::core::policy::ScheduledRules;
use crate::core::seen::{Active, UnitSeen};
use crate::core::stale::{self, Stale, carries};
use crate::core::status::UnitEnd;
use crate::core::step::Turn;
use crate::core::target::is_of;
use crate::core::time::Mono;

/// While scripts drain, their end is announced by JobRemoved; this catches what was missed.
const DRAIN_LOOK: Duration = Duration::from_secs(5);
/// While one was asked to stop, or holds its lock, which nobody announces.
const ASKED_LOOK: Duration = Duration::from_secs(1);
/// While one is being stopped.
const STOP_LOOK: Duration = Duration::from_millis(500);
/// Stops that end together are looked at together.
pub(super) const BATCH: Duration = Duration::from_millis(15);
/// While a timer is about to fire for a slot that has passed.
const SLOT_LOOK: Duration = Duration::from_millis(250);
/// While systemd has not come to a start that it has taken.
const QUEUED_LOOK: Duration = Duration::from_millis(20);
/// While nothing is to be done but some are left running.
const LEFT_LOOK: Duration = Duration::from_secs(30);

impl Scheduled {
    pub(super) fn seen(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules, loans: &mut Loans, units: &[UnitSeen]) {
        let Some(want) = self.pursuit.want().cloned() else { return };
        let memory = turn.memory.targets.get(&self.name).cloned().unwrap_or_default();
        let mut present = BTreeSet::new();
        let drain_until = self.pursuit.drain_until(turn.now.mono, rules.drain_timeout);
        for seen in units {
            let known = self.scripts.contains_key(&seen.unit);
            if !known && !is_of(&rules.units, &rules.exclude, &seen.unit) {
                continue;
            }
            settle_rerun_of_later(turn, seen);
            let stale = stale::stale(seen, &rules.code, &want, &memory);
            if seen.active.runs() || !seen.processes.is_empty() {
                present.insert(seen.unit.clone());
            }
            if let Some(script) = self.scripts.get_mut(&seen.unit) {
                script.seen_at = self.pursuit.look.began().unwrap_or(script.seen_at);
                let begins = script.started_for.is_some();
                script.look(turn, rules, loans, seen, stale, drain_until);
                // Started for an earlier deploy: a newer one may have landed before it was seen to begin.
                if begins && script.started_for.is_none() {
                    let memory = turn.memory.targets.get(&self.name).cloned().unwrap_or_default();
                    let stale = stale::stale(seen, &rules.code, &want, &memory);
                    if !stale.is_empty() {
                        *script = Script::new(&self.name, seen.clone(), stale, turn.now.mono, drain_until);
                    }
                }
            } else if !stale.is_empty() && self.pursuit.works() {
                // One that was given up in an earlier rollout may still be being stopped.
                match turn.memory.cutting.get(&seen.unit).cloned() {
                    Some(cutting) => self.take_up(turn, &seen.unit, &cutting, want.clone(), rules),
                    None => {
                        let script = Script::new(&self.name, seen.clone(), stale, turn.now.mono, drain_until);
                        self.scripts.insert(seen.unit.clone(), script);
                    }
                }
            }
        }
        if self.pursuit.look.exact() {
            return;
        }
        for (unit, script) in &mut self.scripts {
            if !present.contains(unit) && matches!(script.step, ScriptStep::Draining | ScriptStep::Left(_)) {
                script.ended_by_itself(turn);
            }
        }
    }

    pub(super) fn look_when_due(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules) {
        let now = turn.now.mono;
        self.pursuit.look.read_names(!rules.code.is_empty());
        let gathering = self.pursuit.gathering();
        let any = |what: fn(&ScriptStep) -> bool| self.scripts.values().any(|script| what(&script.step));
        let look = &mut self.pursuit.look;
        if self.scripts.values().any(|script| script.begins(now)) {
            look.want(now.after(QUEUED_LOOK));
        } else if self.scripts.values().any(|script| script.awaits_look(turn, rules)) {
            look.want(now.after(SLOT_LOOK));
        } else if any(|step| matches!(step, ScriptStep::Stopping)) {
            look.want(now.after(STOP_LOOK));
        } else if any(|step| matches!(step, ScriptStep::Asked { .. } | ScriptStep::Holding { .. })) {
            look.want(now.after(ASKED_LOOK));
        } else if self.scripts.values().any(|script| script.step == ScriptStep::Ready && script.stale.is_empty()) {
            look.want(now.after(STOP_LOOK));
        } else if self.scripts.values().any(|script| !script.at_rest()) {
            look.want(now.after(DRAIN_LOOK));
        } else if any(|step| matches!(step, ScriptStep::Left(_))) {
            look.want(now.after(LEFT_LOOK));
        }
        // One look serves all that became ready together.
        let quieting = any(|step| matches!(step, ScriptStep::Quieting));
        let unseen = |script: &Script| match script.step {
            ScriptStep::Ready => !quieting && script.seen_at < script.since,
            ScriptStep::Deciding => script.seen_at < script.since,
            _ => false,
        };
        if self.scripts.values().any(unseen) {
            look.want(now);
        }
        // A unit that is being stopped is asked for by name: one that has ended does not match "running".
        let named = self.scripts.iter().filter(|(_, script)| script.watched(now) || script.awaits_look(turn, rules));
        let cgroups: BTreeMap<String, String> = named.map(|(unit, script)| (unit.clone(), script.seen.cgroup.clone())).collect();
        // The first look is at all of them: what only this deploy has made stale waits for nobody else.
        if cgroups.is_empty() || gathering {
            look.ask(turn, &rules.units, Looked::WithTimers, cgroups);
        } else {
            let units: Vec<String> = cgroups.keys().cloned().collect();
            look.ask(turn, &units, Looked::Exactly, cgroups);
        }
    }
}

impl Script {
    /// Whether it is to be looked at by name: it is being stopped and its stop has been answered or is overdue, or it just was.
    fn watched(&self, now: Mono) -> bool {
        match self.step {
            ScriptStep::Stopping => {
                self.answered.is_some() || self.ladder.as_ref().is_some_and(|ladder| !matches!(ladder.rung(now), Rung::Grace { .. }))
            }
            ScriptStep::Quieting | ScriptStep::Ready | ScriptStep::Asked { .. } | ScriptStep::Holding { .. } | ScriptStep::Deciding => true,
            // It may yet end at the checkpoint that it was asked for.
            ScriptStep::Stopped | ScriptStep::Lifting if self.ended.goes_on() => true,
            _ => self.begins(now),
        }
    }

    /// It was asked to stop, and its stale processes have ended. What is left of it may be about to say so by its exit status, as long as it
    /// starts nothing new.
    fn may_heed(&self, turn: &Turn<'_>, rules: &ScheduledRules, seen: &UnitSeen) -> bool {
        let starts_anew = seen.processes.iter().any(|process| carries(&rules.code, process));
        !rules.code.is_empty() && self.asking.was_asked(turn.memory, &self.unit) && self.goes_on && !starts_anew
    }

    /// Nothing of it is stale any more. One that goes on is let alone, and what was done to it is taken back.
    fn ended_or_renewed(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules, loans: &mut Loans, seen: &UnitSeen) {
        if !self.goes_on {
            return self.ended_before_its_stop(turn, rules, loans, seen);
        }
        self.seen = seen.clone();
        if self.cut_short.is_some() {
            // A later command of it runs, and those after that would not.
            return self.stop(turn, rules);
        }
        if self.stop_due && turn.memory.lent.contains(&self.unit) {
            // The same, if its loan, which is on its way, comes to be in force.
            self.stale = Stale::default();
            return;
        }
        self.release(loans);
        self.spare(turn.now.mono, Ended::Renewed);
    }

    /// It has ended, and what its timers are about to do is not known yet.
    fn awaits_look(&self, turn: &Turn<'_>, rules: &ScheduledRules) -> bool {
        self.step == ScriptStep::Stopped && self.awaits_slots(turn, rules)
    }

    fn look(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules, loans: &mut Loans, seen: &UnitSeen, stale: Stale, drain_until: Mono) {
        // What its end leaves for a moment, such as an ExecStopPost=, is young, too: a run goes on if its main process does.
        let same = seen.active.runs() && seen.invocation == self.seen.invocation;
        let runs = seen.active != Active::Deactivating && seen.processes.iter().any(|process| process.pid == seen.main_pid);
        self.goes_on = stale.is_empty() && same && runs;
        let ending = stale.is_empty() && same && !runs;
        if seen.is_being_stopped() && !turn.memory.cutting.contains_key(&self.unit) {
            self.saw = Saw::SomebodyElse;
        }
        self.owe_heeded(turn, rules, seen);
        match self.step {
            // What was seen before it was done says nothing of what was done.
            ScriptStep::Done(..) if self.seen_at < self.since => {}
            ScriptStep::Draining | ScriptStep::Left(_) if stale.is_empty() => self.ended_by_itself(turn),
            // Another run, which only a newer deploy has made stale: its own drain counts.
            ScriptStep::Draining | ScriptStep::Left(_) if seen.invocation != self.seen.invocation => {
                *self = Script::new(&self.target, seen.clone(), stale, turn.now.mono, drain_until);
            }
            // How it ended is known when systemd is done with it.
            ScriptStep::Quieting | ScriptStep::Ready | ScriptStep::Asked { .. } | ScriptStep::Holding { .. }
                if ending && !turn.memory.cutting.contains_key(&self.unit) =>
            {
                self.stale = stale;
                self.seen.update(seen);
            }
            ScriptStep::Quieting | ScriptStep::Ready if stale.is_empty() && !turn.memory.cutting.contains_key(&self.unit) => {
                self.stale = stale;
                self.ended_or_renewed(turn, rules, loans, seen);
            }
            ScriptStep::Asked { .. } | ScriptStep::Holding { .. } if stale.is_empty() && !self.may_heed(turn, rules, seen) => {
                self.ended_or_renewed(turn, rules, loans, seen);
            }
            ScriptStep::Ready if stale.is_empty() => {
                // The stop of which nobody knew what became has taken place.
                self.stale = stale;
                self.seen = seen.clone();
                self.answered.get_or_insert(turn.now.mono);
                self.enter(turn.now.mono, ScriptStep::Stopping);
            }
            ScriptStep::Stopping if self.not_stopped(seen, rules) => self.stop_was_lost(turn, seen, stale),
            ScriptStep::Stopping => {
                self.stale = stale;
                self.note_ending(seen);
                self.seen.update(seen);
            }
            ScriptStep::Done(UnitEnd::Renewed, _) if self.started_for.is_some() => {
                let anew = !seen.invocation.is_empty() && seen.invocation != self.invocation;
                if !anew && turn.now.mono < self.begins_by {
                    return;
                }
                let landed = self.started_for.take().unwrap_or(Mono::BOOT);
                // Whoever looks for what may have slipped through looks after this.
                self.since = turn.now.mono;
                // A timer may have been quicker: that run is as old as it is.
                if anew && seen.main_start >= self.start_asked {
                    let (target, unit, invocation) = (self.target.clone(), self.unit.clone(), seen.invocation.clone());
                    turn.record(Entry::Fresh { target, unit, invocation, landed });
                }
            }
            ScriptStep::Done(end, _) if !stale.is_empty() && end != UnitEnd::Failed => {
                // Somebody's process is older than the landing all the same: begin again with it.
                *self = Script::new(&self.target, seen.clone(), stale, turn.now.mono, drain_until);
            }
            ScriptStep::Draining
            | ScriptStep::Left(_)
            | ScriptStep::Quieting
            | ScriptStep::Ready
            | ScriptStep::Asked { .. }
            | ScriptStep::Holding { .. } => {
                self.stale = stale;
                self.seen = seen.clone();
            }
            // It has ended before what was done to it is taken back, whatever it leaves behind: its timers may have been kept from starting it.
            ScriptStep::Stopped | ScriptStep::Lifting | ScriptStep::Deciding if self.ended.goes_on() && !seen.active.runs() => {
                self.ended = Ended::ByItself;
                self.stale = stale;
                self.ended_before_its_stop(turn, rules, loans, seen);
            }
            ScriptStep::Stopped | ScriptStep::Lifting | ScriptStep::Deciding => {
                // How it ended is known from the first look after its end.
                let exit = self.seen.exit;
                self.seen.update(seen);
                self.seen.exit = exit.or(seen.exit);
                self.stale = stale;
                // That of another run, should it have one.
                self.drain_until = drain_until;
                if self.step == ScriptStep::Stopped {
                    self.note_slots(turn.now);
                }
            }
            ScriptStep::Starting | ScriptStep::Done(..) => {
                self.seen.timers.clone_from(&seen.timers);
                self.seen.active = seen.active;
                self.stale = stale;
            }
        }
    }
}
