//! One service on its way from running old code to being at rest: drain, what its rules say of asking (`checkpoint`), RestartUnit, SIGKILL after the grace,
//! another try.

use std::time::Duration;

use super::checkpoint::{MAY_FINISH, Then};
use super::others::STOPPED;
use crate::core::asking::Asking;
use crate::core::effect::{Effect, EffectId, Fault, JobEnd};
use crate::core::entry::Entry;
use crate::core::ladder::{Ladder, Rung};
use crate::core::loans::{Loan, Loans, RESTART_DROP_IN};
use crate::core::memory::Want;
use crate::core::policy::{Overdue, ServiceRules};
use crate::core::seen::{Active, Load, UnitSeen};
use crate::core::stale::{START_BLUR, Stale};
use crate::core::status::UnitEnd;
use crate::core::step::Turn;
use crate::core::time::Mono;

/// RestartUnit jobs under way at once: four in flight have all the gain of pipelining (docs/performance), more only delay the first unit.
const WINDOW: usize = 16;
/// How long a service may take to start: systemd's own default for TimeoutStartSec=, and a little.
pub const START_TIMEOUT: Duration = Duration::from_secs(95);
/// A service that does not come up is started again so often, with this pause.
pub const START_TRIES: u32 = 3;
pub const START_PAUSE: Duration = Duration::from_secs(2);
/// What was seen no longer ago than this is good enough for its restart: it may have waited since, for its turn, for the journal, or for what it is lent, and
/// somebody may have stopped it.
const FRESH: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(super) struct Service {
    pub seen: UnitSeen,
    pub stale: Stale,
    pub step: Step,
    pub since: Mono,
    pub ladder: Option<Ladder>,
    pub pending: Option<EffectId>,
    pub killing: Option<EffectId>,
    /// The invocation that was stale, or that its last restart ends.
    pub before: String,
    /// When it was last restarted, and when what that was for landed. A newer deploy may have come since.
    pub restarted_for: Option<(Mono, Mono)>,
    /// When the look had begun that it was last seen in.
    pub seen_at: Mono,
    pub tries: u32,
    /// What systemd has said of its last restart.
    pub job_end: Option<JobEnd>,
    pub asking: Asking,
    /// Since when somebody else than our restart, or it itself, is seen to end it.
    pub ends_from: Option<Mono>,
    /// Somebody else was seen to stop it.
    pub being_stopped: bool,
    /// At the last look nothing of it carried code, only what starts that: a shell, say, which may be about to say what its `php` has said.
    pub between: bool,
    /// Nothing stands before its restart but a look that began then or later.
    pub looked_from: Option<Mono>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Draining {
        until: Mono,
    },
    /// Its drain is over and its rules have more for it than a restart: its loan is awaited, and one more look.
    Ready,
    /// It was asked to stop at its next checkpoint.
    Asked {
        until: Mono,
    },
    /// It holds its lock.
    Holding {
        until: Mono,
    },
    /// The request, and what it was lent, are taken back before anything else.
    TakingBack(Then),
    /// Its restart is due: its turn is awaited, and what it is lent for that, if anything.
    Due,
    Restarting,
    /// Its job has ended; a look shows how it fares.
    Verifying,
    Pausing {
        until: Mono,
    },
    Done(UnitEnd, String),
    Left(String),
}

impl Service {
    /// `seen_at`: when the look had begun.
    pub(super) fn new(turn: &mut Turn<'_>, (seen, seen_at): (&UnitSeen, Mono), stale: Stale, until: Mono) -> Service {
        let now = turn.now.mono;
        let step = Step::Draining { until };
        let mut service = Service {
            seen: seen.clone(),
            stale,
            step,
            since: now,
            ladder: None,
            pending: None,
            killing: None,
            before: seen.invocation.clone(),
            restarted_for: None,
            seen_at,
            tries: 0,
            job_end: None,
            asking: Asking::default(),
            ends_from: None,
            being_stopped: false,
            between: false,
            looked_from: None,
        };
        service.note_end(turn, seen);
        service
    }

    /// One that may be down since it was restarted: to be looked at, and started again if it is.
    pub(super) fn down(turn: &mut Turn<'_>, unit: &str) -> Service {
        let (now, seen) = (turn.now.mono, UnitSeen { unit: unit.to_owned(), ..UnitSeen::default() });
        Service { step: Step::Verifying, ..Service::new(turn, (&seen, now), Stale::default(), now) }
    }

    pub(super) fn at_rest(&self) -> bool {
        matches!(self.step, Step::Done(..) | Step::Left(_))
    }

    /// Nobody but this would bring it up.
    pub(super) fn is_in_its_restart(&self) -> bool {
        let starts = matches!(self.step, Step::TakingBack(Then::Start));
        starts || matches!(self.step, Step::Restarting | Step::Verifying | Step::Pausing { .. })
    }

    pub(super) fn advance(
        &mut self,
        turn: &mut Turn<'_>,
        rules: &ServiceRules,
        loans: &mut Loans,
        (target, name): (&str, &str),
        under_way: &mut usize,
        want: &Want,
    ) {
        let now = turn.now.mono;
        match self.step {
            Step::Ready => self.go_down(turn, rules, loans, target, want),
            Step::Asked { .. } | Step::Holding { .. } => self.wait_for_it(turn, want),
            Step::TakingBack(_) => self.go_on_when_given_back(turn, rules, loans, target, under_way, want),
            Step::Draining { until } => {
                if let Some(why) = untouchable(&self.seen) {
                    return self.leave(turn, target, name, why);
                }
                // In the drain somebody else may have restarted it.
                let drained = now >= until && self.seen_at >= until && turn.journal_good;
                // What the rules were when it was asked they need not be any more.
                if drained && (rules.cooperates() || turn.memory.asked.contains(name)) {
                    self.drained(turn, rules, target, name);
                } else if drained {
                    self.enter(now, Step::Due);
                    self.restart_in_turn(turn, rules, loans, (target, name), under_way, want);
                }
            }
            Step::Due => self.restart_in_turn(turn, rules, loans, (target, name), under_way, want),
            Step::Restarting if self.old_lives() => self.hurry(turn, rules, target, name),
            // In the pause it may have come up, or somebody may have seen to it.
            Step::Pausing { until } => {
                if self.is_let_end(turn, rules, target, name) {
                    return;
                }
                let paused = now >= until && self.seen_at >= until;
                if paused && self.may_go(now, turn.journal_good) {
                    self.restart(turn, rules, name, want);
                }
            }
            _ => {}
        }
    }

    /// What somebody else has done to it while it had to wait is to be seen first.
    fn may_go(&mut self, now: Mono, free: bool) -> bool {
        if !free {
            self.looked_from = None;
            return false;
        }
        let old = now.since(self.seen_at) > FRESH;
        self.seen_at >= *self.looked_from.get_or_insert(if old { now } else { self.seen_at })
    }

    pub(super) fn waits_for_a_look(&self) -> bool {
        self.looked_from.is_some_and(|from| self.seen_at < from)
    }

    /// As soon as no process of its old run can outlive the restart: what runs then would be taken for new.
    pub(super) fn restart_in_turn(
        &mut self,
        turn: &mut Turn<'_>,
        rules: &ServiceRules,
        loans: &mut Loans,
        (target, name): (&str, &str),
        under_way: &mut usize,
        want: &Want,
    ) {
        if self.is_let_end(turn, rules, target, name) {
            return;
        }
        // Its rules may be others by now than when its restart was decided: that may have waited for long.
        if rules.overdue == Some(Overdue::Finish) {
            return self.enter(turn.now.mono, Step::TakingBack(Then::Leave(MAY_FINISH)));
        }
        // And systemd may have been told since that it is not to be restarted.
        if let Some(why) = untouchable(&self.seen) {
            return self.enter(turn.now.mono, Step::TakingBack(Then::Leave(why)));
        }
        if self.seen.leaves_processes {
            loans.want(name, RESTART_DROP_IN);
            match loans.of(name) {
                Loan::Here => {}
                Loan::Coming => return,
                Loan::Failed(why) => {
                    let why = format!("it is not restarted, since processes of it would stay (KillMode=, SendSIGKILL=): {why}");
                    return self.done(turn, target, name, UnitEnd::Failed, &why);
                }
            }
        }
        if self.may_go(turn.now.mono, *under_way < WINDOW && turn.journal_good) {
            *under_way += 1;
            self.settle(turn, "it is restarted");
            self.restart(turn, rules, name, want);
        }
    }

    fn restart(&mut self, turn: &mut Turn<'_>, rules: &ServiceRules, name: &str, want: &Want) {
        self.restarted_for = Some((turn.now.mono, want.landed));
        // What it ends, or follows, may be another run than the one that was stale: one that has not come up, and that somebody is stopping, or has ended.
        if !self.seen.invocation.is_empty() {
            self.before.clone_from(&self.seen.invocation);
        }
        let within = rules.term_timeout + START_TIMEOUT;
        self.pending = Some(turn.ask(Effect::Restart { unit: name.to_owned(), cut: Vec::new(), within }));
        self.ladder = Some(Ladder::new(turn.now.mono, rules.term_timeout));
        (self.job_end, self.being_stopped) = (None, false);
        self.looked_from = None;
        self.enter(turn.now.mono, Step::Restarting);
    }

    /// The next rung for what is to end, whoever has asked for that.
    pub(super) fn hurry(&mut self, turn: &mut Turn<'_>, rules: &ServiceRules, target: &str, name: &str) {
        // Only on the word of a look that began after the grace: what was started anew is not to be killed for the old one.
        if !self.seen.has_been_stopped() || self.grace_over(rules).is_none_or(|over| self.seen_at < over) {
            return;
        }
        let Some(ladder) = &mut self.ladder else { return };
        match ladder.rung_of(self.seen_at, &self.seen.processes) {
            Rung::Kill => {
                ladder.kills(turn.now.mono, &self.seen.processes);
                self.killing = Some(turn.ask(Effect::kill(name, &self.seen)));
            }
            Rung::Unkillable => {
                self.pending = None;
                let why = "its processes do not end, not even by SIGKILL: they are stuck in the kernel";
                self.done(turn, target, name, UnitEnd::Failed, why);
            }
            Rung::Grace { .. } | Rung::Dying { .. } => {}
        }
    }

    /// It runs, in another run than the one that was stale.
    pub(super) fn came_up(&self, seen: &UnitSeen) -> bool {
        let renewed = !seen.invocation.is_empty() && seen.invocation != self.before;
        // One that waits for systemd to start it once more has no job.
        // And one whose start has failed may be in another try of systemd's own (Restart=), which says nothing yet.
        let starting = seen.active == Active::Activating && seen.job && self.job_end != Some(JobEnd::Failed);
        let up = matches!(seen.active, Active::Active | Active::Reloading) || starting;
        renewed && up
    }

    /// When the grace of the restart that it is at, or of whoever else ends it, is over.
    pub(super) fn grace_over(&self, rules: &ServiceRules) -> Option<Mono> {
        self.ladder.as_ref().map(|ladder| ladder.sent().after(rules.term_timeout))
    }

    /// What its restart ends has not ended, as far as was seen: the run that was stale, or one that began after it, before systemd heard of the restart.
    pub(super) fn old_lives(&self) -> bool {
        let found_another = self.pending.is_some() && self.seen.is_being_stopped();
        (self.seen.invocation == self.before || found_another) && self.seen.active.runs()
    }

    /// systemd is still at the restart that was asked for.
    pub(super) fn under_way(&self, seen: &UnitSeen) -> bool {
        self.ladder.is_some() && seen.job && seen.invocation == self.before && seen.active.runs()
    }

    pub(super) fn verify(&mut self, turn: &mut Turn<'_>, target: &str, seen: &UnitSeen, stale: Stale) {
        // systemd has taken its start, and not come to it yet, or is at it: that may fail.
        let starts = seen.job && (!seen.active.runs() || (seen.active == Active::Activating && self.came_up(seen)));
        if starts && self.step != Step::Verifying {
            self.enter(turn.now.mono, Step::Verifying);
        }
        if starts && turn.now.mono < self.since.after(START_TIMEOUT) {
            (self.stale, self.seen) = (stale, seen.clone());
            return;
        }
        if self.came_up(seen) {
            // Somebody else may have been quicker than our start: that run is as old as it is.
            let begun = |asked: Mono| seen.processes.iter().all(|process| process.start.after(START_BLUR) >= asked);
            if let Some((_, landed)) = self.restarted_for.filter(|(asked, _)| begun(*asked)) {
                let (target, unit, invocation) = (target.to_owned(), seen.unit.clone(), seen.invocation.clone());
                turn.record(Entry::Fresh { target, unit, invocation, landed });
            }
            self.seen = seen.clone();
            return self.done(turn, target, &seen.unit, UnitEnd::Renewed, "restarted");
        }
        if self.was_stopped_by_others(turn.memory, seen) {
            return self.done(turn, target, &seen.unit, UnitEnd::Finished, STOPPED);
        }
        if self.is_canceled(seen) {
            self.job_end = Some(JobEnd::Canceled);
        }
        self.stale = stale;
        self.seen = seen.clone();
        if self.under_way(seen) {
            // The bus went away before its end: its ladder goes on.
            self.step = Step::Restarting;
            return;
        }
        if let Some(why) = untouchable(seen) {
            return self.done(turn, target, &seen.unit, UnitEnd::Left, why);
        }
        self.tries += 1;
        // A try of systemd's own (Restart=) that is under way is another one than that which has failed.
        let again = seen.active == Active::Activating && seen.job;
        let invocation = if again { String::new() } else { seen.invocation.clone() };
        turn.record(Entry::DidNotComeUp { unit: seen.unit.clone(), invocation });
        if self.tries >= START_TRIES {
            let why = format!(
                "it does not come up after its restart: {:?}, Result={}; see journalctl -u {}",
                seen.active, seen.result, seen.unit
            );
            // Nor is it owed another one but by the next try.
            self.settle(turn, &why);
            return self.done(turn, target, &seen.unit, UnitEnd::Failed, &why);
        }
        self.enter(turn.now.mono, Step::Pausing { until: turn.now.mono.after(START_PAUSE) });
    }

    pub(super) fn enter(&mut self, now: Mono, step: Step) {
        self.step = step;
        self.since = now;
    }

    pub(super) fn done(&mut self, turn: &mut Turn<'_>, target: &str, name: &str, end: UnitEnd, why: &str) {
        // Whether any other is owed a start `debts` finds out: it may have ended when asked, and nobody has looked since.
        if end == UnitEnd::Renewed || (end == UnitEnd::Finished && self.is_stopped_for_good()) {
            self.settle(turn, "it is owed no start any more");
        }
        turn.unit_ended_noting(target, name, end, why, self.asking.trouble());
        if end != UnitEnd::Failed {
            self.stale = Stale::default();
        }
        self.enter(turn.now.mono, Step::Done(end, why.to_owned()));
    }

    pub(super) fn refused(&mut self, turn: &mut Turn<'_>, target: &str, name: &str, fault: &Fault) {
        self.done(turn, target, name, UnitEnd::Failed, &format!("it could not be restarted: {fault}"));
    }
}

/// A service that systemd does not let us restart, or that could not come back (facts F2.7, F3.9, F3.11).
pub(super) fn untouchable(unit: &UnitSeen) -> Option<&'static str> {
    if unit.refuse_manual_stop || unit.refuse_manual_start {
        Some("it refuses a manual stop or start: restart it by what starts it")
    } else if unit.load == Load::Masked {
        Some("it is masked, so it could not come back")
    } else if unit.transient {
        Some("it is transient: a restart might not find it again")
    } else {
        None
    }
}
