//! One stray on its way: it is reported, its terminal is told, or it is stopped: SIGTERM, SIGKILL after its grace.

use std::time::Duration;

use super::place::{Reach, session_of, unit_of};
use crate::core::deploy::printable;
use crate::core::effect::{Effect, EffectId, Fault, Outcome, WorkerRef};
use crate::core::entry::Entry;
use crate::core::ladder::{Ladder, Rung};
use crate::core::memory::{StrayCut, Want};
use crate::core::policy::{StrayAction, StrayRules};
use crate::core::seen::StraySeen;
use crate::core::status::{Casualty, CasualtyKind, UnitEnd};
use crate::core::step::Turn;
use crate::core::time::{Mono, Span};

/// Of a name that the process itself has chosen.
const LONGEST_NAME: usize = 64;

#[derive(Debug)]
pub(super) struct Stray {
    pub target: String,
    pub process: WorkerRef,
    /// Empty if it was taken up and not seen since.
    pub seen: StraySeen,
    pub reach: Reach,
    /// When the code that it runs was loaded.
    pub loaded: Mono,
    pub step: StrayStep,
    pub since: Mono,
    /// When the look had begun that it was last seen in.
    pub seen_at: Mono,
    /// In [`StrayStep::Stopping`] there is none while it waits to be sent SIGTERM again, since the journal cannot be written.
    pub ladder: Option<Ladder>,
    pub pending: Option<(EffectId, Ask)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StrayStep {
    Draining {
        until: Mono,
    },
    Stopping,
    /// Its rules let it go on.
    Left(String),
    Done(UnitEnd, String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    Notify,
    Term,
    Kill,
}

impl Stray {
    pub fn new(target: &str, seen: StraySeen, reach: Reach, loaded: Mono, now: Mono, until: Mono) -> Stray {
        let process = WorkerRef { pid: seen.process.pid, start: seen.process.start, cgroup: seen.cgroup.clone() };
        let step = StrayStep::Draining { until };
        Stray { target: target.to_owned(), process, seen, reach, loaded, step, since: now, seen_at: now, ladder: None, pending: None }
    }

    /// One that an earlier agent was stopping.
    pub fn taken_up(target: &str, cut: &StrayCut, now: Mono) -> Stray {
        let seen = StraySeen { cgroup: cut.process.cgroup.clone(), ..StraySeen::default() };
        let stray = Stray::new(target, seen, Reach::Act, cut.process.start, now, now);
        Stray {
            process: cut.process.clone(),
            step: StrayStep::Stopping,
            seen_at: Mono::BOOT,
            ladder: Some(Ladder::new(cut.asked, cut.grace)),
            ..stray
        }
    }

    pub fn at_rest(&self) -> bool {
        matches!(self.step, StrayStep::Left(_) | StrayStep::Done(..))
    }

    pub fn unit(&self) -> &str {
        match unit_of(&self.process.cgroup) {
            "" => "no unit",
            unit => unit,
        }
    }

    pub fn name(&self) -> String {
        printable(&self.seen.process.comm, LONGEST_NAME)
    }

    /// Who it is, for people: `php, pid 4711, of amy in session 3`.
    pub fn who(&self) -> String {
        let place = match session_of(&self.process.cgroup) {
            Some(session) => format!("in session {}", printable(session, LONGEST_NAME)),
            None => format!("in {}", printable(self.unit(), 255)),
        };
        format!("{}, pid {}, of {} {place}", self.name(), self.process.pid, printable(&self.seen.user, LONGEST_NAME))
    }

    pub fn advance(&mut self, turn: &mut Turn<'_>, rules: &StrayRules, want: &Want) {
        if self.pending.is_some() {
            return;
        }
        match self.step {
            StrayStep::Draining { until } => match (rules.action, self.reach) {
                (StrayAction::Report, _) => self.leave(turn, "only reported (action = \"report\")"),
                (_, Reach::Report | Reach::Elsewhere) => {
                    self.leave(turn, "only reported: its unit is neither a session's, nor cron's or at's, nor transient");
                }
                (StrayAction::Notify, Reach::Act) => self.notify(turn, want),
                (StrayAction::Stop, Reach::Act) if turn.now.mono >= until && self.seen_at >= until && turn.journal_good => {
                    self.stop(turn, rules);
                }
                (StrayAction::Stop, Reach::Act) => {}
            },
            StrayStep::Stopping => self.escalate(turn),
            StrayStep::Left(_) | StrayStep::Done(..) => {}
        }
    }

    fn notify(&mut self, turn: &mut Turn<'_>, want: &Want) {
        let told = turn.memory.told(&self.process, want.landed);
        match &self.seen.tty {
            _ if told => self.leave(turn, "its terminal was told (action = \"notify\")"),
            None => self.leave(turn, "it has no terminal that could be told (action = \"notify\")"),
            Some(tty) if turn.journal_good => {
                let id = printable(&want.id, 200);
                let (name, pid) = (self.name(), self.process.pid);
                let text = format!(
                    "restart-agent: {name} (pid {pid}) runs code from before deploy {id} of {}. Please end it, and start it again if need be.",
                    want.landed_at
                );
                let (process, tty) = (self.process.clone(), tty.clone());
                let effect = Effect::Notify { process, tty, landed: want.landed, text };
                self.pending = Some((turn.ask(effect), Ask::Notify));
            }
            Some(_) => {}
        }
    }

    fn stop(&mut self, turn: &mut Turn<'_>, rules: &StrayRules) {
        let casualty = Casualty {
            target: self.target.clone(),
            unit: self.unit().to_owned(),
            what: CasualtyKind::Script,
            pid: self.process.pid,
            name: self.name(),
            ran: Span(turn.now.mono.since(self.process.start)).to_string(),
            ended_by: "SIGTERM".to_owned(),
            certain: true,
            perhaps: false,
            at: turn.now.wall,
            rollout: None,
            request: None,
        };
        let (asked, grace) = (turn.now.mono, rules.term_timeout);
        turn.record(Entry::StrayCutting { process: self.process.clone(), asked, grace, casualty: Box::new(casualty) });
        self.ladder = Some(Ladder::new(asked, grace));
        self.signal(turn, Ask::Term);
        self.enter(turn.now.mono, StrayStep::Stopping);
    }

    fn signal(&mut self, turn: &mut Turn<'_>, ask: Ask) {
        let effect = Effect::Signal { process: self.process.clone(), kill: ask == Ask::Kill };
        self.pending = Some((turn.ask(effect), ask));
    }

    fn escalate(&mut self, turn: &mut Turn<'_>) {
        let Some(cut) = turn.memory.stray_cut(&self.process).cloned() else { return };
        // Only on the word of a look that began after the last one was sent.
        let sent = self.ladder.as_ref().map_or(cut.asked, Ladder::sent);
        if !cut.answered && self.seen_at > sent {
            // Whether an earlier agent sent it is not known; a second one does no harm, and has its whole grace.
            self.ladder = turn.journal_good.then(|| Ladder::new(turn.now.mono, cut.grace));
            if turn.journal_good {
                self.signal(turn, Ask::Term);
            }
            return;
        }
        let Some(ladder) = &mut self.ladder else { return };
        // Only on the word of a look that began after the grace.
        let looked = self.seen_at >= ladder.grace_over();
        match ladder.rung(turn.now.mono) {
            Rung::Kill if looked => {
                ladder.killed(turn.now.mono);
                self.signal(turn, Ask::Kill);
            }
            Rung::Unkillable => {
                self.done(turn, UnitEnd::Failed, "it does not end, not even by SIGKILL: it is stuck in the kernel");
            }
            Rung::Kill | Rung::Grace { .. } | Rung::Dying { .. } => {}
        }
    }

    pub fn came_of(&mut self, turn: &mut Turn<'_>, ask: Ask, outcome: &Outcome) {
        match (ask, outcome) {
            (Ask::Notify, Outcome::Done) => self.leave(turn, "its terminal was told (action = \"notify\")"),
            (Ask::Notify, other) => self.leave(turn, &format!("its terminal could not be told: {}", other.said())),
            (Ask::Kill, Outcome::Fault(_)) => {
                if let Some(ladder) = &mut self.ladder {
                    ladder.kill_failed(turn.now.mono);
                }
            }
            (Ask::Term, Outcome::Fault(fault)) => {
                // It may be dying by an earlier one all the same.
                let perhaps_sent = turn.memory.stray_cut(&self.process).is_some_and(|cut| cut.perhaps_sent);
                if perhaps_sent && matches!(fault, Fault::Journal(_)) {
                    // It is sent again when that can be written down.
                    self.ladder = None;
                    return;
                }
                if !perhaps_sent {
                    turn.record(Entry::StraySettled { process: self.process.clone(), happened: false });
                }
                self.done(turn, UnitEnd::Failed, &format!("it could not be sent SIGTERM: {fault}"));
            }
            // One that is not there any more the next look misses.
            (Ask::Term, _) => self.ladder.iter_mut().for_each(|ladder| ladder.term_sent(turn.now.mono)),
            (Ask::Kill, _) => {}
        }
    }

    /// A look does not show it any more.
    pub fn gone(&mut self, turn: &mut Turn<'_>) {
        if self.step != StrayStep::Stopping {
            return self.done(turn, UnitEnd::Finished, "it ended by itself");
        }
        let killed = turn.memory.stray_cut(&self.process).is_some_and(|cut| cut.killed);
        match settle(turn, &self.process) {
            true => self.done(turn, UnitEnd::Renewed, if killed { "ended by SIGKILL" } else { "ended by SIGTERM" }),
            false => self.done(turn, UnitEnd::Finished, "it ended by itself before it was sent a signal"),
        }
    }

    /// Its own line in the record of a rollout: others may run in the same unit.
    fn row(&self) -> String {
        format!("{}, pid {}", self.unit(), self.process.pid)
    }

    pub fn failure(&self) -> Option<String> {
        if let StrayStep::Done(UnitEnd::Failed, why) = &self.step { Some(format!("{}: {why}", self.who())) } else { None }
    }

    fn leave(&mut self, turn: &mut Turn<'_>, why: &str) {
        turn.unit_ended(&self.target, &self.row(), UnitEnd::Left, format!("{}: {why}", self.who()));
        self.enter(turn.now.mono, StrayStep::Left(why.to_owned()));
    }

    fn done(&mut self, turn: &mut Turn<'_>, end: UnitEnd, why: &str) {
        turn.unit_ended(&self.target, &self.row(), end, format!("{}: {why}", self.who()));
        self.enter(turn.now.mono, StrayStep::Done(end, why.to_owned()));
    }

    fn enter(&mut self, now: Mono, step: StrayStep) {
        self.step = step;
        self.since = now;
    }

    /// How long before the landing it was started, or the process that it is a copy of.
    pub fn stale_by(&self, want: &Want) -> Duration {
        want.landed.since(self.loaded)
    }
}

/// What was stopped has ended: writes down that it was cut, if it was sent the signal. If nobody knows, that is not certain. Says whether it may have been.
pub(in crate::core) fn settle(turn: &mut Turn<'_>, process: &WorkerRef) -> bool {
    let Some(cut) = turn.memory.stray_cut(process).cloned() else { return false };
    let happened = !cut.missed;
    if happened {
        let mut casualty = cut.casualty;
        if cut.killed {
            "SIGKILL".clone_into(&mut casualty.ended_by);
        }
        casualty.certain = cut.answered;
        casualty.at = turn.now.wall;
        turn.record(Entry::Casualty(casualty));
    }
    turn.record(Entry::StraySettled { process: process.clone(), happened });
    happened
}
