//! The rungs before RestartUnit that need the service's help: it is asked to stop at its next checkpoint, spared while it holds its lock, and let
//! finish if its rules say so. One that ended when asked is started again.

use super::others::{ENDED, STOPPED};
use super::unit::{Service, Step, untouchable};
use crate::core::asking::{Asking, Came, Next};
use crate::core::effect::{Effect, EffectId, Outcome};
use crate::core::entry::Entry;
use crate::core::loans::{Loan, Loans, RESTART_DROP_IN, service_drop_in};
use crate::core::memory::{Memory, Want};
use crate::core::policy::{Overdue, ServiceRules};
use crate::core::seen::{Active, UnitSeen};
use crate::core::stale::{self, Stale};
use crate::core::status::UnitEnd;
use crate::core::step::Turn;
use crate::core::time::Mono;

pub(super) const MAY_FINISH: &str = "its rules let it finish (overdue = \"finish\")";
const RENEWED: &str = "none of its processes is old any more";
const PAUSED: &str = "nothing is to be restarted now (a hold, or an abort)";

/// What comes after everything that was done to it has been taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Then {
    Restart,
    /// It ended when asked.
    Start,
    /// It runs anew.
    Verify,
    Finish(&'static str),
    Leave(&'static str),
    /// Nothing is to be restarted now. After that it begins again.
    Pause,
}

impl Service {
    /// It is to go down by its own help: nobody announces what it does.
    pub(super) fn cooperating(&self) -> bool {
        matches!(self.step, Step::Ready | Step::Asked { .. } | Step::Holding { .. } | Step::TakingBack(Then::Restart))
    }

    /// Its drain is over. It goes on here only if its rules have more for it than a restart.
    pub(super) fn drained(&mut self, turn: &mut Turn<'_>, rules: &ServiceRules, target: &str, name: &str) {
        if rules.overdue == Some(Overdue::Finish) && !rules.asking().asks(&self.seen) {
            return self.leave(turn, target, name, MAY_FINISH);
        }
        self.enter(turn.now.mono, Step::Ready);
    }

    /// An earlier agent has asked it, and this one has not come to that yet: how it ends tells whether it is to be started again.
    pub(super) fn may_heed(&self, memory: &Memory) -> bool {
        matches!(self.step, Step::Draining { .. }) && memory.asked.contains(&self.seen.unit)
    }

    /// This run was, by us or by an earlier agent, whose request may have been taken back since: then it is owed its start.
    fn was_asked(&self, memory: &Memory, seen: &UnitSeen) -> bool {
        let owed = memory.reruns.get(&seen.unit).is_some_and(|owed| owed.after == seen.invocation);
        owed || self.asking.was_asked(memory, &seen.unit)
    }

    /// What of it carried code has ended since it was asked, and nothing of that is started anew: it may be about to say by its exit status that it is to be
    /// run again. It has its time for that, and is restarted then: or it would say so when nobody listens any more, and stay down.
    pub(super) fn heeds_perhaps(&self, memory: &Memory) -> bool {
        self.between && (memory.asked.contains(&self.seen.unit) || memory.reruns.contains_key(&self.seen.unit))
    }

    /// As soon as it has what it is lent, and one more look has shown it to be stale still, comes the next rung.
    pub(super) fn go_down(&mut self, turn: &mut Turn<'_>, rules: &ServiceRules, loans: &mut Loans, target: &str, want: &Want) {
        if self.seen_at < self.since || !self.asking.idle() || !turn.journal_good {
            return;
        }
        // Asked, it would end, and not come back.
        if let Some(why) = untouchable(&self.seen) {
            return self.enter(turn.now.mono, Step::TakingBack(Then::Leave(why)));
        }
        let name = self.seen.unit.clone();
        // Exit status 75 must be no failure by the time that it is asked.
        if !self.asking.asked() && !want.forced && rules.asking().asks(&self.seen) {
            loans.want(&name, &service_drop_in(&self.seen));
            match loans.of(&name) {
                Loan::Here => {}
                Loan::Coming => return,
                Loan::Failed(why) => self.asking.skip(format!("it was not asked to stop: {why}")),
            }
        }
        let now = turn.now.mono;
        let first = !self.asking.asked();
        match self.asking.next(turn, rules.asking(), &self.seen, want.forced) {
            Next::NotYet => {}
            Next::Asked { until } => {
                if first {
                    let (target, after) = (target.to_owned(), self.seen.invocation.clone());
                    turn.record(Entry::RerunOwed { unit: name, target, scheduled: false, lent: false, quiet: false, after });
                }
                self.enter(now, Step::Asked { until });
            }
            Next::Spared => self.enter(now, Step::TakingBack(Then::Leave(MAY_FINISH))),
            Next::Holding { until } => self.enter(now, Step::Holding { until }),
            Next::Signal => self.enter(now, Step::TakingBack(Then::Restart)),
        }
    }

    /// It was asked, or holds its lock: until it has ended or let go, which a look tells, or its time is over.
    pub(super) fn wait_for_it(&mut self, turn: &Turn<'_>, want: &Want) {
        let now = turn.now.mono;
        let over = match self.step {
            Step::Asked { until } => (now >= until && self.seen_at >= until) || want.forced,
            Step::Holding { until } => now >= until || want.forced || (self.seen_at >= self.since && !self.seen.holds_lock),
            _ => false,
        };
        if (over || untouchable(&self.seen).is_some()) && self.asking.idle() {
            self.enter(now, Step::Ready);
        }
    }

    /// What is seen of one that is to go down by its own help: has it ended, or does it run anew?
    pub(super) fn look_before_its_restart(&mut self, turn: &Turn<'_>, seen: &UnitSeen, stale: Stale) {
        let runs = seen.active.runs();
        let anew = runs && !seen.invocation.is_empty() && seen.invocation != self.before;
        let then = if anew {
            Then::Verify
        } else if (runs && !stale.is_empty())
            || seen.active == Active::Deactivating
            || (runs && !seen.processes.is_empty() && self.heeds_perhaps(turn.memory))
        {
            self.stale = stale;
            return self.seen.update(seen);
        } else if runs && !seen.processes.is_empty() {
            Then::Finish(RENEWED)
        } else if seen.active == Active::Active && !self.seen.processes.is_empty() {
            // Its processes have ended just now, and systemd has not come to that yet: the next look tells how.
            self.stale = stale;
            return self.seen.update(seen);
        } else if runs {
            // systemd is about to start it again by itself (Restart=); if that takes long it is restarted.
            Then::Verify
        } else if self.being_stopped && !seen.is_to_run_again() {
            Then::Finish(STOPPED)
        } else if self.was_asked(turn.memory, seen) && seen.has_ended_well() {
            Then::Start
        } else if turn.memory.maybe_down.contains(&seen.unit) {
            // An earlier agent's restart has not brought it up, perhaps.
            Then::Verify
        } else {
            Then::Finish(ENDED)
        };
        self.stale = stale;
        self.seen.update(seen);
        self.looked_from = None;
        self.enter(turn.now.mono, Step::TakingBack(then));
    }

    /// As long as the request was there it may have heeded it: a look that began when all was taken back tells whether it goes on.
    fn is_seen_without(&mut self, now: Mono) -> bool {
        self.seen_at >= *self.looked_from.get_or_insert(now) && self.seen.active != Active::Deactivating
    }

    fn has_heeded_late(&self, memory: &Memory) -> bool {
        self.was_asked(memory, &self.seen) && self.seen.has_ended_well() && !self.is_stopped_for_good()
    }

    /// What starts must find itself neither asked nor with what was lent.
    pub(super) fn go_on_when_given_back(
        &mut self,
        turn: &mut Turn<'_>,
        rules: &ServiceRules,
        loans: &mut Loans,
        target: &str,
        under_way: &mut usize,
        want: &Want,
    ) {
        let name = self.seen.unit.clone();
        // In this order: what systemd starts again by itself comes with the Reload that takes its loan back.
        if !self.asking.taken_back(turn, &name) {
            return;
        }
        loans.release(&name);
        let Step::TakingBack(then) = self.step.clone() else { return };
        // It may be at its end already, which must not leave processes behind: it has what its restart needs in exchange.
        let exchanged = then == Then::Restart && self.seen.leaves_processes;
        if exchanged {
            loans.want(&name, RESTART_DROP_IN);
        }
        let back = exchanged || !turn.memory.lent.contains(&name);
        if !back || self.pending.is_some() || !turn.journal_good {
            return;
        }
        match then {
            Then::Restart => {
                self.enter(turn.now.mono, Step::Due);
                self.restart_in_turn(turn, rules, loans, (target, &name), under_way, want);
            }
            Then::Start => {
                self.restarted_for = Some((turn.now.mono, want.landed));
                self.pending = Some(turn.ask(Effect::Start { unit: name }));
            }
            Then::Verify => self.enter(turn.now.mono, Step::Verifying),
            // What has finished for the deploy of then may be old for one that has landed since.
            Then::Finish(_) if self.seen.active.runs() && self.is_stale_for(turn, rules, target, want) => {
                let now = turn.now.mono;
                let until = if want.forced { now } else { want.landed.after(rules.drain_timeout) };
                self.drain_until(now, until.max(now));
            }
            Then::Finish(RENEWED) if turn.memory.reruns.contains_key(&name) && !self.is_seen_without(turn.now.mono) => {}
            Then::Finish(RENEWED) if !self.seen.active.runs() => {
                let then = match self.has_heeded_late(turn.memory) {
                    true => Then::Start,
                    false if self.is_stopped_for_good() => Then::Finish(STOPPED),
                    false => Then::Finish(ENDED),
                };
                self.enter(turn.now.mono, Step::TakingBack(then));
            }
            Then::Finish(why) => {
                self.settle(turn, "it is owed no start any more");
                self.done(turn, target, &name, UnitEnd::Finished, why);
            }
            Then::Leave(why) if rules.overdue == Some(Overdue::Finish) => self.leave(turn, target, &name, why),
            // The rules may be others by now.
            Then::Leave(_) | Then::Pause => {
                if then == Then::Pause {
                    self.leave(turn, target, &name, PAUSED);
                }
                self.drain_until(turn.now.mono, turn.now.mono);
            }
        }
    }

    /// By what was last seen of it.
    fn is_stale_for(&mut self, turn: &Turn<'_>, rules: &ServiceRules, target: &str, want: &Want) -> bool {
        let memory = turn.memory.targets.get(target).cloned().unwrap_or_default();
        let stale = stale::stale(&self.seen, &rules.code, want, &memory);
        let old = !stale.is_empty();
        if old {
            self.stale = stale;
        }
        old
    }

    /// It begins again.
    fn drain_until(&mut self, now: Mono, until: Mono) {
        self.asking = Asking::default();
        self.looked_from = None;
        self.enter(now, Step::Draining { until });
    }

    /// Nothing more is begun with it: what was done to it is taken back.
    pub(super) fn spare(&mut self, now: Mono) {
        if self.cooperating() || self.step == Step::Due {
            self.enter(now, Step::TakingBack(Then::Pause));
        }
    }

    pub(super) fn leave(&mut self, turn: &mut Turn<'_>, target: &str, name: &str, why: &str) {
        turn.unit_ended_noting(target, name, UnitEnd::Left, why, self.asking.trouble());
        self.enter(turn.now.mono, Step::Left(why.to_owned()));
    }

    /// It is not owed a start any more.
    pub(super) fn settle(&self, turn: &mut Turn<'_>, why: &str) {
        if turn.memory.reruns.contains_key(&self.seen.unit) {
            turn.record(Entry::RerunSettled { unit: self.seen.unit.clone(), why: why.to_owned() });
        }
    }

    /// Whether this was an answer about its being asked.
    pub(super) fn asked_or_unasked(&mut self, turn: &mut Turn<'_>, target: &str, id: EffectId, outcome: &Outcome) -> bool {
        match self.asking.outcome(id, outcome) {
            None => return false,
            Some(Came::Well) => {}
            Some(Came::Unasked) if matches!(self.step, Step::Asked { .. }) => self.enter(turn.now.mono, Step::Ready),
            Some(Came::Unasked) => {}
            Some(Came::Stuck(why)) => {
                let name = self.seen.unit.clone();
                self.done(turn, target, &name, UnitEnd::Failed, &why);
            }
        }
        true
    }
}
