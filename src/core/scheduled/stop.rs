//! The last rungs: StopUnit, which is SIGTERM, and SIGKILL after the grace; and what is known when it has ended.

use std::time::Duration;

use super::script::{Ask, Ended, Script, ScriptStep};
use crate::core::cut::{Saw, found_another, settle_cut, settle_rerun_of_running, settle_script, still_ending};
use crate::core::effect::{Effect, Fault, JobEnd, Outcome};
use crate::core::entry::Entry;
use crate::core::ladder::{Ladder, Rung};
use crate::core::loans::Loans;
use crate::core::policy::ScheduledRules;
use crate::core::seen::{Active, UnitSeen};
use crate::core::stale::Stale;
use crate::core::status::{Casualty, CasualtyKind};
use crate::core::step::Turn;
use crate::core::time::{Mono, Span};

/// A stop whose fate is not known, since systemd does not answer, is sent so often.
const STOP_TRIES: u32 = 3;
/// So much later than our SIGKILL its job is given up.
const STOP_SLACK: Duration = Duration::from_secs(30);

impl Script {
    pub(super) fn stop(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules) {
        // What somebody else is stopping already is not for us to start again; our own first stop, which was not answered, is not somebody else's.
        let begun = self.seen.active == Active::Deactivating;
        let again = begun && self.ours && self.tries > 0 && self.asked_from.is_some_and(|asked| self.seen.state_since >= asked);
        let ours = !begun || again;
        let asked = self.asked_from.filter(|_| again).unwrap_or(turn.now.mono);
        self.asked_from = Some(asked);
        self.invocation.clone_from(&self.seen.invocation);
        if ours {
            self.owe_rerun(turn, rules);
        } else if !self.has_heeded(turn.memory) {
            self.owe_no_rerun(turn, "somebody else is stopping it");
        }
        let casualties = vec![self.casualty(turn, ours)];
        turn.record(Entry::Cutting {
            unit: self.unit.clone(),
            invocation: self.invocation.clone(),
            asked,
            grace: Some(rules.term_timeout),
            casualties,
        });
        if ours && !self.seen.dependents.is_empty() {
            turn.record(Entry::TakesDown { unit: self.unit.clone(), dependents: self.seen.dependents.clone() });
        }
        let id = turn.ask(Effect::Stop { unit: self.unit.clone(), within: rules.term_timeout + STOP_SLACK });
        self.pending.insert(id, Ask::StopScript);
        (self.answered, self.stop_done) = (None, None);
        (self.ours, self.saw) = (ours, Saw::Nothing);
        self.ended = Ended::Stopped;
        self.ladder = Some(Ladder::new(turn.now.mono, rules.term_timeout));
        self.enter(turn.now.mono, ScriptStep::Stopping);
    }

    /// What is lost if the stop cuts it; how it ended is added when that is known. `ours`: nobody else was stopping it already.
    fn casualty(&self, turn: &Turn<'_>, ours: bool) -> Casualty {
        let started = self.stale.oldest.unwrap_or(self.seen.main_start);
        Casualty {
            target: self.target.clone(),
            unit: self.unit.clone(),
            what: CasualtyKind::Script,
            pid: self.seen.main_pid,
            name: self.unit.clone(),
            ran: Span(turn.now.mono.since(started)).to_string(),
            ended_by: "SIGTERM".to_owned(),
            certain: ours,
            perhaps: false,
            at: turn.now.wall,
            rollout: None,
            request: None,
        }
    }

    pub(super) fn stop_answered(&mut self, turn: &mut Turn<'_>, loans: &mut Loans, outcome: &Outcome) {
        match outcome {
            Outcome::Job(end) => {
                self.answered = Some(turn.now.mono);
                self.stop_done = self.answered.filter(|_| *end == JobEnd::Done);
            }
            Outcome::Fault(fault) => {
                self.tries += 1;
                let unknown = matches!(fault, Fault::Unreachable(_) | Fault::Other(_));
                if unknown && self.tries < STOP_TRIES {
                    // Whether it was taken is not known; a second one does no harm.
                    return self.enter(turn.now.mono, ScriptStep::Ready);
                }
                settle_cut(turn, &self.unit, false, false);
                if !unknown && !self.has_heeded(turn.memory) {
                    settle_rerun_of_running(turn, &self.seen, "it was not stopped");
                }
                self.release(loans);
                self.give_up(turn, &format!("it could not be stopped: {fault}"));
            }
            _ => {}
        }
    }

    pub(super) fn escalate(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules, loans: &mut Loans) {
        let Some(ladder) = &self.ladder else { return };
        let ended = !self.seen.active.runs() && self.seen.processes.is_empty();
        // Another run is not to be stopped for this one, unless our stop has found that, or is about to: whether it has, a look after its answer tells.
        let found = self.answered.is_none() && self.seen.active == Active::Deactivating;
        let stops = found || turn.memory.cutting.get(&self.unit).is_some_and(|cutting| still_ending(cutting, &self.seen));
        let runs_anew = self.seen.invocation != self.invocation && self.seen.active.runs() && !stops;
        let goes_on = runs_anew && self.answered.is_some_and(|answered| self.seen_at >= answered);
        if self.answered.is_some() && self.seen_at >= self.since && (ended || goes_on) {
            self.gone(turn, rules);
            // At once, so that the last one to end takes all back with one Reload.
            return self.release(loans);
        }
        // Only on the word of a look that began after the grace.
        let looked = self.seen.has_been_stopped() && self.seen_at >= ladder.sent().after(rules.term_timeout);
        match ladder.rung_of(self.seen_at, &self.seen.processes) {
            Rung::Kill if looked && !ended && !runs_anew => self.kill(turn),
            Rung::Unkillable if !ended => {
                let pids: Vec<String> = self.seen.processes.iter().map(|process| process.pid.to_string()).collect();
                let why = format!("process {} does not end, not even by SIGKILL: it is stuck in the kernel", pids.join(", "));
                // What it owes is paid when it has ended all the same, whoever sees that.
                self.give_up(turn, &why);
            }
            Rung::Kill | Rung::Unkillable | Rung::Grace { .. } | Rung::Dying { .. } => {}
        }
    }

    fn kill(&mut self, turn: &mut Turn<'_>) {
        self.ladder.iter_mut().for_each(|ladder| ladder.kills(turn.now.mono, &self.seen.processes));
        let id = turn.ask(Effect::kill(&self.unit, &self.seen));
        self.pending.insert(id, Ask::Kill);
    }

    pub(super) fn kill_answered(&mut self, turn: &Turn<'_>, outcome: &Outcome) {
        match (outcome, &mut self.ladder) {
            (Outcome::Fault(_), Some(ladder)) => ladder.kill_failed(turn.now.mono),
            (_, Some(ladder)) => ladder.kill_sent(turn.now.mono),
            (_, None) => {}
        }
    }

    /// A look while it is being stopped.
    pub(super) fn note_ending(&mut self, seen: &UnitSeen) {
        self.ladder.iter_mut().for_each(|ladder| ladder.begins(seen));
        if seen.active != Active::Deactivating {
            return;
        }
        let asked = self.asked_from.unwrap_or(Mono::BOOT);
        let anew = seen.invocation != self.invocation;
        if (self.ours || anew) && seen.state_since != Mono::BOOT && seen.state_since < asked {
            (self.ours, self.saw) = (false, Saw::SomebodyElse);
        } else if self.saw == Saw::Nothing && seen.processes.iter().any(|process| process.pid == seen.main_pid) {
            self.saw = Saw::AtWork;
        }
    }

    /// Whether a look after the answer to its stop shows the same run, and nobody stopping it. What waits in systemd's queue is waited for, not for ever.
    pub(super) fn not_stopped(&self, seen: &UnitSeen, rules: &ScheduledRules) -> bool {
        let looked = self.answered.is_some_and(|answered| self.seen_at >= answered);
        let until = self.asked_from.map(|asked| asked.after(rules.term_timeout + STOP_SLACK));
        let queued = seen.stop_job && until.is_some_and(|until| self.seen_at < until);
        looked && !queued && seen.invocation == self.invocation && matches!(seen.active, Active::Active | Active::Activating)
    }

    /// The stop was lost, with the bus or with an earlier agent: begin again.
    pub(super) fn stop_was_lost(&mut self, turn: &mut Turn<'_>, seen: &UnitSeen, stale: Stale) {
        self.tries += 1;
        let given_up = self.tries >= STOP_TRIES;
        if !given_up || !seen.stop_job {
            settle_cut(turn, &self.unit, false, false);
            settle_rerun_of_running(turn, seen, "it was not stopped");
        }
        if given_up {
            // One that waits in systemd's queue comes when what requires it has stopped: whoever sees that settles it.
            return self.give_up(turn, "systemd takes its stop and does not do it");
        }
        self.stale = stale;
        self.seen = seen.clone();
        // Whoever is seen to stop it from now on is somebody else.
        (self.ladder, self.asked_from) = (None, None);
        self.ended = Ended::ByItself;
        self.drain_until = turn.now.mono;
        self.enter(turn.now.mono, ScriptStep::Draining);
    }

    /// It has ended. Whether our signal ended it, its exit tells.
    fn gone(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules) {
        let killed = self.ladder.as_ref().and_then(Ladder::killed_from);
        let at_checkpoint = self.asking.was_asked(turn.memory, &self.unit) && self.seen.is_to_run_again();
        if turn.memory.cutting.get(&self.unit).is_some_and(|cutting| found_another(cutting, &self.seen, self.stop_done)) {
            self.invocation.clone_from(&self.seen.invocation);
            // Whoever was stopping the run before has started this one.
            self.ours = self.saw != Saw::SomebodyElse;
        }
        let stopped = settle_script(turn, &self.seen, killed, self.saw, self.stop_done);
        if at_checkpoint {
            // Also while our stop, or somebody else's, was on its way: it has heeded us.
            self.ended = Ended::AtCheckpoint;
        }
        if at_checkpoint || (self.ours && (stopped || self.is_cut_short(&self.seen))) {
            turn.record(Entry::Interrupted { unit: self.unit.clone(), at: turn.now.mono });
            if turn.memory.reruns.get(&self.unit).is_none_or(|owed| owed.lent) {
                self.owe_rerun(turn, rules);
            }
        } else if stopped {
            // What somebody else has stopped we interrupt no more, whoever had to kill it, nor start again.
            if self.saw == Saw::SomebodyElse {
                self.owe_no_rerun(turn, "somebody else was stopping it");
            }
        } else {
            // It was done before it was asked.
            self.ended = Ended::ByItself;
            self.owe_no_rerun(turn, "it had ended by itself");
        }
        // What failed by itself has failed, and is to be seen to.
        if self.ended != Ended::ByItself {
            self.reset_failed(turn);
        }
        self.note_slots(turn.now);
        self.enter(turn.now.mono, ScriptStep::Stopped);
    }
}
