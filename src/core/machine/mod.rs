//! The machine: a reconciler. Wanted is the newest deploy; actual is the age of every process of every target; it works until they agree.
//!
//! A lost event, a crash, a reboot or a second deploy in the middle need no case of their own: look again, decide again. The parts:
//! `intake` (stamps and orders become rollouts), `opcache` (so do figures over their bounds), `inplace`, `scheduled` and `service` (targets), `debts`
//! (what is owed to the host whatever happens), `view` (what status says). In this folder: `works` (what each target is at), `conclude` (what has been
//! reached, and whether to try again), `hints` (what is looked at again, and when).

mod clock;
mod conclude;
mod hints;
mod works;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub(super) use works::Work;
use works::owned;

use crate::core::begin::Begin;
use crate::core::debts::Debts;
use crate::core::deploy::StampFault;
use crate::core::effect::{EffectId, Outcome};
use crate::core::entry::Entry;
use crate::core::event::{Answer, Event};
use crate::core::inplace::InPlace;
use crate::core::intake::{Pending, Retry};
use crate::core::loans::Loans;
use crate::core::memory::{Memory, TargetMemory};
use crate::core::opcache::Opcaches;
use crate::core::policy::{Policy, TargetRules};
use crate::core::pool::Pool;
use crate::core::step::{Deadline, Step, Turn, earliest};
use crate::core::survey::Survey;
use crate::core::time::{Mono, Now};

/// Passes in one turn until nothing more follows from what is known; far more than any chain of decisions is long.
const PASSES: usize = 16;
/// Between two turns that only time causes; longer and longer while nothing comes of them.
const BREATH: Duration = Duration::from_millis(5);
const BREATH_LONGEST: Duration = Duration::from_secs(1);

/// For a new generation to start, to be warmed and to be proven.
const START: Duration = Duration::from_secs(120);

/// One host's machine. Everything durable is in its [`Memory`]; the rest is found again by looking.
#[derive(Debug)]
pub struct Machine {
    pub(super) policy: Policy,
    pub(super) memory: Memory,
    pub(super) next_effect: u64,
    last: Now,
    /// Before a deadline that has passed, and of which nothing has come so far, is looked at again.
    breath: Duration,
    pub(super) pending: Option<Pending>,
    pub(super) stamp_fault: Option<StampFault>,
    /// When the stamp was last read: what is new after that has landed after that.
    pub(super) stamp_old_at: Option<Mono>,
    pub(super) works: BTreeMap<String, Work>,
    pub(super) inplace: InPlace,
    pub(super) loans: Loans,
    pub(super) pools: BTreeMap<String, Pool>,
    pub(super) debts: Debts,
    pub(super) survey: Survey,
    pub(super) opcaches: Opcaches,
    pub(super) begin: Begin,
    pub(super) retry: Option<Retry>,
    /// The targets that had another try within this rollout.
    pub(super) tried: BTreeSet<String>,
    /// The start of the last rollout, for `min_interval`.
    pub(super) last_start: Option<Mono>,
    /// The end of the hold on the boot clock.
    pub(super) hold_until: Option<Mono>,
    pub(super) config_problem: Option<String>,
    pub(super) journal_problem: Option<String>,
    /// The locks of scripts are to be made: units may have come that have none.
    pub(super) locks_due: bool,
    /// The package is being removed: nothing is begun, what is owed is paid.
    settling: bool,
}

/// Lends the machine's fields out as a [`Turn`]; a macro, since a method would borrow all of the machine.
macro_rules! turn {
    ($machine:expr, $now:expr, $step:expr) => {
        Turn {
            now: $now,
            policy: &$machine.policy,
            memory: &mut $machine.memory,
            step: $step,
            next_effect: &mut $machine.next_effect,
            journal_good: $machine.journal_problem.is_none(),
        }
    };
}
pub(super) use turn;

impl Machine {
    /// Goes on from what the journal adds up to. `boot` names this boot of the host.
    #[must_use]
    pub fn resume(memory: Memory, policy: Policy, boot: &str, version: &str, now: Now) -> (Machine, Step) {
        let mut machine = Machine {
            next_effect: memory.next_effect,
            last: now,
            breath: BREATH,
            pending: None,
            stamp_fault: None,
            stamp_old_at: None,
            works: BTreeMap::new(),
            inplace: InPlace::default(),
            loans: Loans::default(),
            pools: BTreeMap::new(),
            debts: Debts::default(),
            survey: Survey::default(),
            opcaches: Opcaches::default(),
            begin: Begin::default(),
            retry: None,
            tried: BTreeSet::new(),
            last_start: None,
            hold_until: None,
            config_problem: None,
            journal_problem: None,
            locks_due: true,
            settling: false,
            policy,
            memory,
        };
        let mut step = Step::default();
        machine.starts(now, &mut step, boot, version);
        machine.configure(now, &mut step);
        if machine.memory.rollout.is_some() {
            machine.renew_unmet(now, &mut step);
        } else if machine.memory.targets.values().any(|target| target.unmet().is_some()) {
            machine.retry = Some(Retry { at: now.mono, tries: 0, why: "the agent was restarted".to_owned(), blocked: true });
        }
        machine.take_up(now, &mut step);
        machine.advance(now, &mut step);
        (machine, step)
    }

    /// Units were found with a drop-in of ours, or kept quiet, of which the journal does not know, since it was rebuilt or a hand was quicker: all
    /// is taken back.
    #[must_use]
    pub fn left_behind(&mut self, now: Now, units: Vec<String>) -> Step {
        let mut step = Step::default();
        for unit in
            units.into_iter().filter(|unit| !self.memory.lent.contains(unit) && !self.memory.quiet.contains_key(unit)).collect::<Vec<_>>()
        {
            turn!(self, now, &mut step).record(Entry::LeftBehind { unit });
        }
        self.advance(now, &mut step);
        step
    }

    /// Decides. What it returns is to be written and performed in order; a second call with nothing new asks for nothing.
    #[must_use]
    pub fn handle(&mut self, now: Now, event: Event) -> Step {
        let mut step = Step::default();
        self.last = now;
        self.see_clock(now, &mut step);
        let tick = matches!(event, Event::Tick);
        let answer = matches!(event, Event::Outcome(..));
        match event {
            Event::Stamp(read) => self.stamp_read(now, &mut step, read),
            Event::Tick => {}
            Event::Outcome(id, outcome) => self.outcome(now, &mut step, id, &outcome),
            Event::SocketsChanged => self.hint_generations(now),
            Event::JobRemoved { unit } => self.hint(now, Some(&unit)),
            Event::LookAgain => {
                self.locks_due = true;
                self.begin.again();
                self.hint(now, None);
            }
            Event::Policy(policy) => {
                self.locks_due = true;
                self.policy = *policy;
                self.config_problem = None;
                self.survey.again();
                self.opcaches.again();
                self.configure(now, &mut step);
                self.renew_new(now, &mut step);
                self.hint_generations(now);
            }
            Event::ConfigProblem(problem) => self.config_problem = problem,
            Event::JournalProblem(problem) => {
                let good_again = problem.is_none() && self.journal_problem.is_some();
                self.journal_problem = problem;
                if let Some(retry) = self.retry.as_mut().filter(|retry| good_again && retry.blocked && retry.at != Mono::NEVER) {
                    retry.at = now.mono;
                }
            }
            Event::Order { by, order } => {
                let answer = self.order(now, &mut step, &by, order);
                step.answer = Some(answer);
            }
        }
        self.advance(now, &mut step);
        let idle = step.entries.is_empty() && step.effects.is_empty();
        // What one part is busy with does not hurry what another part waits for.
        if tick && idle {
            self.breath = (self.breath * 2).min(BREATH_LONGEST);
        } else if !tick && !answer {
            self.breath = BREATH;
        }
        step
    }

    /// From now on nothing is begun; what is owed to the host is paid, whatever state php-fpm is in: nobody will be here to do it later.
    pub fn settle(&mut self) {
        self.settling = true;
        self.debts.hurry();
        self.pause_all();
    }

    /// Nothing is owed to the host.
    #[must_use]
    pub fn settled(&self) -> bool {
        let over = |target: &TargetMemory| target.starting.is_none() && target.lingering.is_empty();
        let generations = self.works.iter().filter(|(_, work)| matches!(work, Work::Generations(_)));
        let mut generations = generations.filter_map(|(name, _)| self.memory.targets.get(name));
        !self.debts.any(&self.memory) && self.memory.frozen.is_empty() && generations.all(over)
    }

    pub(super) fn settling(&self) -> bool {
        self.settling
    }

    /// The longest that a rollout may take by the rules of the targets.
    #[must_use]
    pub fn longest(&self) -> Duration {
        let of = |rules: &TargetRules| match rules {
            TargetRules::PhpFpm(rules) => rules.drain_timeout + rules.term_timeout,
            TargetRules::Generations(rules) => START + rules.term_timeout,
            TargetRules::Scheduled(rules) => rules.drain_timeout + rules.checkpoint_timeout + rules.hold_timeout + rules.term_timeout,
            TargetRules::Service(rules) => rules.drain_timeout + rules.checkpoint_timeout + rules.hold_timeout + rules.term_timeout,
            TargetRules::Strays(rules) => rules.drain_timeout + rules.term_timeout,
        };
        let targets = self.policy.targets.values().map(of).max().unwrap_or_default();
        let pools = self.policy.pools.values().map(|rules| rules.timeout * 2 + rules.quiet).max().unwrap_or_default();
        self.policy.stamp.settle * 5 + self.policy.stamp.min_interval + targets + pools
    }

    fn outcome(&mut self, now: Now, step: &mut Step, id: EffectId, outcome: &Outcome) {
        if self.memory.open.contains_key(&id.0) {
            turn!(self, now, step).record(Entry::Outcome { id, outcome: outcome.clone() });
        }
        let targets = &self.policy.targets;
        if self.survey.outcome(now, targets, id, outcome) || self.opcaches.outcome(now, targets, id, outcome) {
            return;
        }
        if self.hold_starts_outcome(now, id, outcome) {
            return;
        }
        let mut turn = turn!(self, now, step);
        let loans = &mut self.loans;
        let mut taken = loans.outcome(&turn, id, outcome);
        taken = taken || self.pools.values_mut().any(|pool| pool.outcome(&mut turn, id, outcome));
        taken = taken || self.debts.outcome(&mut turn, id, outcome, &owned(&self.works, &self.inplace));
        taken = taken || self.inplace.outcome(&mut turn, id, outcome);
        for (name, work) in &mut self.works {
            if taken {
                return;
            }
            taken = match (work, turn.policy.targets.get(name)) {
                (Work::Generations(work), Some(TargetRules::Generations(rules))) => work.outcome(&mut turn, rules, id, outcome),
                (Work::Scheduled(work), Some(TargetRules::Scheduled(rules))) => work.outcome(&mut turn, rules, loans, id, outcome),
                (Work::Services(work), Some(TargetRules::Service(rules))) => work.outcome(&mut turn, rules, id, outcome),
                (Work::Strays(work), Some(TargetRules::Strays(rules))) => work.outcome(&mut turn, rules, id, outcome),
                _ => false,
            };
        }
    }

    fn advance(&mut self, now: Now, step: &mut Step) {
        // One pass may change what only the next one acts upon, without anything to write or to do.
        let mut quiet = 0;
        for _ in 0..PASSES {
            let before = (step.effects.len(), step.entries.len());
            self.make_locks(now, step);
            self.take_in(now, step);
            self.hold_starts(now, step);
            self.enforce_hold(now, step);
            self.advance_targets(now, step);
            self.repool_unless_needed(now, step);
            self.conclude(now, step);
            self.take_up_lapsed(now);
            self.look_at_rest(now, step);
            self.guard_opcaches(now, step);
            quiet = if (step.effects.len(), step.entries.len()) == before { quiet + 1 } else { 0 };
            if quiet > 1 {
                break;
            }
        }
    }

    /// The next moment at which time alone makes a difference.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Deadline> {
        let works = self.works.values().map(|work| match work {
            Work::Fpm => None,
            Work::Generations(work) => work.deadline(),
            Work::Scheduled(work) => work.deadline(),
            Work::Services(work) => work.deadline(),
            Work::Strays(work) => work.deadline(),
        });
        let pools = self.pools.values().map(Pool::deadline);
        let hold = self.hold_until.map(|at| Deadline::new(at, "the hold expires"));
        let others = [
            self.intake_deadline(),
            self.inplace.deadline(),
            self.loans.deadline(&self.memory.lent),
            self.debts.deadline(&self.memory),
            self.look_at_rest_deadline(),
            self.guard_deadline(),
            self.hold_starts_deadline(),
            hold,
        ];
        // What has passed was seen to in the last turn, as far as it could be.
        let last = self.last.mono;
        let not_before = |deadline: Deadline| {
            let at = if deadline.at <= last { last.after(self.breath) } else { deadline.at.max(last.after(BREATH)) };
            Deadline { at, why: deadline.why }
        };
        earliest(works.chain(pools).chain(others).map(|deadline| deadline.map(not_before)))
    }

    /// Whether signals of systemd are of use now: a rollout is under way, or something is owed.
    #[must_use]
    pub fn active(&self) -> bool {
        let generations = self.works.values().any(|work| matches!(work, Work::Generations(work) if work.busy()));
        self.memory.rollout.is_some() || generations || self.debts.any(&self.memory)
    }

    /// The durable half, for a snapshot.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    #[must_use]
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// An [`Answer`] for orders that come while there is nothing to order.
    #[must_use]
    pub(super) fn refuse(why: impl Into<String>) -> Answer {
        Answer::Refused(why.into())
    }
}
