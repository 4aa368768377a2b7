//! The machine: a reconciler. Wanted is the newest deploy; actual is the age of every process of every target; it works until they agree.
//!
//! A lost event, a crash, a reboot or a second deploy in the middle need no case of their own: look again, decide again. The parts:
//! `intake` (stamps and orders become rollouts), `inplace`, `scheduled` and `service` (targets), `debts` (what is owed to the host
//! whatever happens), `view` (what status says).

use std::collections::BTreeMap;
use std::time::Duration;

use super::debts::Debts;
use super::deploy::StampFault;
use super::effect::{EffectId, Outcome};
use super::entry::Entry;
use super::event::{Answer, Event};
use super::inplace::InPlace;
use super::intake::Pending;
use super::loans::Loans;
use super::memory::{Cutting, Memory};
use super::policy::{Policy, TargetRules};
use super::pool::{Goal, Pool, Verdict};
use super::scheduled::Scheduled;
use super::service::Services;
use super::status::RolloutResult;
use super::step::{Deadline, Step, Turn, earliest};
use super::target::Progress;
use super::time::{Mono, Now};

/// Passes in one turn until nothing more follows from what is known; far more than any chain of decisions is long.
const PASSES: usize = 16;
/// Between two turns that only time causes; longer and longer while nothing comes of them.
const BREATH: Duration = Duration::from_millis(5);
const BREATH_LONGEST: Duration = Duration::from_secs(1);
/// So long past its grace a script that is being stopped and belongs to no target any more keeps what it was lent.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(120);
/// After a rollout that failed: the next try, doubled each time.
const RETRY_FAILED: Duration = Duration::from_secs(60);
const RETRY_FAILED_SLOWEST: Duration = Duration::from_secs(15 * 60);
/// After one that was blocked by something that may go away by itself.
const RETRY_BLOCKED: Duration = Duration::from_secs(15);
const RETRY_BLOCKED_SLOWEST: Duration = Duration::from_secs(5 * 60);

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
    pub(super) works: BTreeMap<String, Work>,
    pub(super) inplace: InPlace,
    pub(super) loans: Loans,
    pub(super) pools: BTreeMap<String, Pool>,
    pub(super) debts: Debts,
    pub(super) retry: Option<Retry>,
    /// The start of the last rollout, for `min_interval`.
    pub(super) last_start: Option<Mono>,
    /// The end of the hold on the boot clock.
    pub(super) hold_until: Option<Mono>,
    pub(super) config_problem: Option<String>,
    pub(super) journal_problem: Option<String>,
    /// The package is being removed: nothing is begun, what is owed is paid.
    settling: bool,
}

/// When what failed is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Retry {
    pub at: Mono,
    pub tries: u32,
    pub why: String,
    pub blocked: bool,
}

#[derive(Debug)]
pub(super) enum Work {
    /// Its state is in the bracket that all php-fpm targets share.
    Fpm,
    Scheduled(Scheduled),
    Services(Services),
}

impl Work {
    fn new(name: &str, rules: &TargetRules) -> Work {
        match rules {
            TargetRules::PhpFpm(_) => Work::Fpm,
            TargetRules::Scheduled(_) => Work::Scheduled(Scheduled::new(name)),
            TargetRules::Service(_) => Work::Services(Services::new(name)),
        }
    }

    /// It is no more: what it was lent is not wanted any longer. What it owes to the host is paid all the same.
    fn release(&self, loans: &mut Loans) {
        if let Work::Scheduled(work) = self {
            work.release(loans);
        }
    }

    fn fits(&self, rules: &TargetRules) -> bool {
        matches!(
            (self, rules),
            (Work::Fpm, TargetRules::PhpFpm(_))
                | (Work::Scheduled(_), TargetRules::Scheduled(_))
                | (Work::Services(_), TargetRules::Service(_))
        )
    }
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
            works: BTreeMap::new(),
            inplace: InPlace::default(),
            loans: Loans::default(),
            pools: BTreeMap::new(),
            debts: Debts::default(),
            retry: None,
            last_start: None,
            hold_until: memory.hold.as_ref().map(|hold| now.mono.after(hold.until.since(now.wall))),
            config_problem: None,
            journal_problem: None,
            settling: false,
            policy,
            memory,
        };
        let mut step = Step::default();
        let mut turn = turn!(machine, now, &mut step);
        turn.record(Entry::Started { boot: boot.to_owned(), version: version.to_owned() });
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

    /// Stops of scripts that were under way when the agent ended go on where they were.
    fn take_up(&mut self, now: Now, step: &mut Step) {
        let cutting: Vec<_> = self.memory.cutting.iter().map(|(unit, cutting)| (unit.clone(), cutting.clone())).collect();
        for (unit, cutting) in cutting {
            let target = cutting.casualties.first().map(|casualty| casualty.target.clone()).unwrap_or_default();
            let memory = self.memory.targets.get(&target);
            let want = memory.and_then(|memory| memory.want.clone());
            let turn = turn!(self, now, step);
            let rules = turn.policy.targets.get(&target);
            if let (Some(Work::Scheduled(work)), Some(TargetRules::Scheduled(rules)), Some(want)) =
                (self.works.get_mut(&target), rules, want)
            {
                work.take_up(now.mono, &unit, &cutting, want, rules);
            }
        }
    }

    /// Drop-ins of ours were found that the journal does not know, since it was rebuilt or a hand was quicker: they are taken back.
    #[must_use]
    pub fn left_behind(&mut self, now: Now, units: Vec<String>) -> Step {
        let mut step = Step::default();
        for unit in units.into_iter().filter(|unit| !self.memory.lent.contains(unit)).collect::<Vec<_>>() {
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
        let tick = matches!(event, Event::Tick);
        match event {
            Event::Stamp(read) => self.stamp_read(now, &mut step, read),
            Event::Tick => {}
            Event::Outcome(id, outcome) => self.outcome(now, &mut step, id, &outcome),
            Event::JobRemoved { unit } => self.hint(now, Some(&unit)),
            Event::LookAgain => self.hint(now, None),
            Event::Policy(policy) => {
                self.policy = *policy;
                self.config_problem = None;
                self.configure(now, &mut step);
                self.renew_new(now, &mut step);
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
        let idle = tick && step.entries.is_empty() && step.effects.is_empty();
        self.breath = if idle { (self.breath * 2).min(BREATH_LONGEST) } else { BREATH };
        step
    }

    /// Makes works, pools and adoptions fit the configuration.
    fn configure(&mut self, now: Now, step: &mut Step) {
        let policy = self.policy.clone();
        // Without any configuration, or with one that cannot be read, nothing is forgotten: or it would be adopted anew, and a deploy missed.
        let unconfigured = policy.targets.is_empty() && policy.stamp.path.is_empty();
        let dropped = self.memory.targets.keys().filter(|name| !unconfigured && !policy.targets.contains_key(*name));
        let dropped: Vec<String> = dropped.cloned().collect();
        for target in dropped {
            self.inplace.forget(&target, &mut self.loans);
            if let Some(work) = self.works.remove(&target) {
                work.release(&mut self.loans);
            }
            turn!(self, now, step).record(Entry::Dropped { target });
        }
        for (name, rules) in &policy.targets {
            if !self.memory.targets.contains_key(name) {
                let id = self.memory.stamp.as_ref().map(|stamp| stamp.deploy.id.clone());
                turn!(self, now, step).record(Entry::Adopted { target: name.clone(), id });
            }
            if self.works.get(name).is_none_or(|work| !work.fits(rules))
                && let Some(work) = self.works.insert(name.clone(), Work::new(name, rules))
            {
                self.inplace.forget(name, &mut self.loans);
                work.release(&mut self.loans);
            }
        }
        let gone: Vec<String> = self.works.keys().filter(|name| !policy.targets.contains_key(*name)).cloned().collect();
        for name in gone {
            if let Some(work) = self.works.remove(&name) {
                work.release(&mut self.loans);
            }
        }
        let pools: Vec<String> = policy.pools.keys().chain(self.memory.depooled.keys()).cloned().collect();
        for name in pools {
            if self.pools.contains_key(&name) {
                continue;
            }
            let mut pool = Pool::new(&name);
            // What we owe is put back by itself; of the others status says from the start how they are.
            if !self.memory.depooled.contains_key(&name) {
                pool.want(&mut turn!(self, now, step), Goal::Know);
            }
            self.pools.insert(name, pool);
        }
    }

    /// After a change of the configuration: targets whose work was made anew.
    fn renew_new(&mut self, now: Now, step: &mut Step) {
        if self.memory.rollout.is_some() {
            self.renew_unmet(now, step);
        }
    }

    /// Sets every target to work that is not fresh for what it is wanted to be fresh for, and is not held.
    pub(super) fn renew_unmet(&mut self, now: Now, step: &mut Step) {
        let names: Vec<String> = self.works.keys().cloned().collect();
        for name in names {
            let Some(want) = self.memory.targets.get(&name).and_then(|target| target.unmet().cloned()) else { continue };
            if self.held(&name) {
                self.inplace.rest(&name);
                continue;
            }
            let began = self.began(now);
            match self.works.get_mut(&name) {
                Some(Work::Fpm) => self.inplace.renew(now.mono, &name, want, began),
                Some(Work::Scheduled(work)) => work.renew(&mut turn!(self, now, step), &mut self.loans, want, began),
                Some(Work::Services(work)) => work.renew(&mut turn!(self, now, step), want, began),
                None => {}
            }
        }
    }

    /// From now on nothing is begun; what is owed to the host is paid, whatever state php-fpm is in: nobody will be here to do it later.
    pub fn settle(&mut self) {
        self.settling = true;
        self.pause_all();
    }

    /// Nothing is owed to the host.
    #[must_use]
    pub fn settled(&self) -> bool {
        !self.debts.any(&self.memory) && self.memory.frozen.is_empty()
    }

    fn pause_all(&mut self) {
        for work in self.works.values_mut() {
            match work {
                Work::Fpm => {}
                Work::Scheduled(work) => work.pause(&mut self.loans),
                Work::Services(work) => work.pause(),
            }
        }
        let _ = self.inplace.pause(&mut self.loans);
    }

    pub(super) fn settling(&self) -> bool {
        self.settling
    }

    /// The longest that a rollout may take by the rules of the targets.
    #[must_use]
    pub fn longest(&self) -> Duration {
        let of = |rules: &TargetRules| match rules {
            TargetRules::PhpFpm(rules) => rules.drain_timeout + rules.term_timeout,
            TargetRules::Scheduled(rules) => rules.drain_timeout + rules.term_timeout,
            TargetRules::Service(rules) => rules.drain_timeout + rules.term_timeout,
        };
        let targets = self.policy.targets.values().map(of).max().unwrap_or_default();
        let pools = self.policy.pools.values().map(|rules| rules.timeout * 2 + rules.quiet).max().unwrap_or_default();
        self.policy.stamp.settle * 5 + self.policy.stamp.min_interval + targets + pools
    }

    /// When the rollout began: drains are counted from there, also after a restart of the agent.
    fn began(&self, now: Now) -> Mono {
        let started = self.memory.rollout.as_ref().map(|rollout| now.mono_of(rollout.view.started_at));
        started.map_or(now.mono, |at| at.min(now.mono))
    }

    pub(super) fn held(&self, target: &str) -> bool {
        self.settling || self.memory.hold.as_ref().is_some_and(|hold| hold.targets.as_ref().is_none_or(|targets| targets.contains(target)))
    }

    fn hint(&mut self, now: Now, unit: Option<&str>) {
        for work in self.works.values_mut() {
            match work {
                Work::Fpm => {}
                Work::Scheduled(work) => work.hint(now.mono, unit),
                Work::Services(work) => work.hint(now.mono, unit),
            }
        }
        if unit.is_none() {
            self.inplace.hint(now.mono);
            self.debts.hint(now.mono);
        }
    }

    fn outcome(&mut self, now: Now, step: &mut Step, id: EffectId, outcome: &Outcome) {
        if self.memory.open.contains_key(&id.0) {
            turn!(self, now, step).record(Entry::Outcome { id, outcome: outcome.clone() });
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
                (Work::Scheduled(work), Some(TargetRules::Scheduled(rules))) => work.outcome(&mut turn, rules, loans, id, outcome),
                (Work::Services(work), Some(TargetRules::Service(rules))) => work.outcome(&mut turn, rules, id, outcome),
                _ => false,
            };
        }
    }

    fn advance(&mut self, now: Now, step: &mut Step) {
        // One pass may change what only the next one acts upon, without anything to write or to do.
        let mut quiet = 0;
        for _ in 0..PASSES {
            let before = (step.effects.len(), step.entries.len());
            self.take_in(now, step);
            self.enforce_hold(now, step);
            self.advance_targets(now, step);
            self.repool_unless_needed(now, step);
            self.conclude(now, step);
            quiet = if (step.effects.len(), step.entries.len()) == before { quiet + 1 } else { 0 };
            if quiet > 1 {
                break;
            }
        }
    }

    fn advance_targets(&mut self, now: Now, step: &mut Step) {
        let mut turn = turn!(self, now, step);
        self.pools.retain(|name, _| turn.policy.pools.contains_key(name) || turn.memory.depooled.contains_key(name));
        for pool in self.pools.values_mut() {
            pool.advance(&mut turn);
        }
        let mut gathering = self.inplace.gathering();
        // A script that is being stopped keeps what it was lent until it has ended, also if its target has left the configuration.
        let known = |unit: &str| self.works.values().any(|work| matches!(work, Work::Scheduled(work) if work.knows(unit)));
        let orphan = |(unit, cutting): (&String, &Cutting)| {
            cutting.of_script() && !known(unit) && turn.now.mono < cutting.asked.after(cutting.grace.unwrap_or_default() + ORPHAN_PATIENCE)
        };
        let mut stopping = turn.memory.cutting.iter().any(orphan);
        for (name, work) in &mut self.works {
            match (work, turn.policy.targets.get(name)) {
                (Work::Scheduled(work), Some(TargetRules::Scheduled(rules))) => {
                    work.advance(&mut turn, rules, &mut self.loans);
                    gathering |= work.gathering();
                    stopping |= work.stopping();
                }
                (Work::Services(work), Some(TargetRules::Service(rules))) => {
                    work.advance(&mut turn, rules);
                    gathering |= work.gathering();
                }
                _ => {}
            }
        }
        self.inplace.advance(&mut turn, &mut self.loans, &mut self.pools);
        self.loans.advance(&mut turn, gathering, stopping);
        let owned = owned(&self.works, &self.inplace);
        self.debts.advance(&mut turn, gathering, self.inplace.counting(), &owned);
    }

    fn enforce_hold(&mut self, now: Now, step: &mut Step) {
        if self.hold_until.is_some_and(|until| until <= now.mono) {
            turn!(self, now, step).record(Entry::HoldEnded { by: "it expired".to_owned() });
            self.hold_ended(now, step);
        }
        let Some(hold) = self.memory.hold.clone() else { return };
        let held = |name: &str| hold.targets.as_ref().is_none_or(|targets| targets.contains(name));
        let mut fpm_held = false;
        for (name, work) in &mut self.works {
            if !held(name) {
                continue;
            }
            match work {
                Work::Fpm => fpm_held |= self.inplace.progress(name) == Progress::Working,
                Work::Scheduled(work) => work.pause(&mut self.loans),
                Work::Services(work) => work.pause(),
            }
        }
        if fpm_held && self.inplace.pause(&mut self.loans) {
            self.renew_unheld_fpm(now);
        }
    }

    /// A hold on one php-fpm target gives up the bracket for all: the others begin again.
    fn renew_unheld_fpm(&mut self, now: Now) {
        let wants: Vec<_> =
            self.memory.targets.iter().filter_map(|(name, target)| target.unmet().cloned().map(|want| (name.clone(), want))).collect();
        for (name, want) in wants {
            if matches!(self.works.get(&name), Some(Work::Fpm)) && !self.held(&name) {
                let began = self.began(now);
                self.inplace.renew(now.mono, &name, want, began);
            }
        }
    }

    /// What we took out goes back as soon as nothing needs it out (traps T31, T6), unless php-fpm is not proven to serve; a person who
    /// aborts takes that on.
    fn repool_unless_needed(&mut self, now: Now, step: &mut Step) {
        let aborted = self.settling || self.memory.hold.as_ref().is_some_and(|hold| hold.abort);
        let keep_out = self.inplace.needs_out() || (!self.memory.unproven.is_empty() && !aborted);
        if keep_out {
            return;
        }
        for pool in self.pools.values_mut() {
            let owed = self.memory.depooled.contains_key(pool.name());
            if owed && pool.goal() != Goal::In {
                pool.want(&mut turn!(self, now, step), Goal::In);
            }
        }
    }

    pub(super) fn progress(&self, name: &str) -> Progress {
        match self.works.get(name) {
            Some(Work::Fpm) => self.inplace.progress(name),
            Some(Work::Scheduled(work)) => work.progress().clone(),
            Some(Work::Services(work)) => work.progress().clone(),
            None => Progress::Idle,
        }
    }

    /// Writes down what has been reached, and the end of the rollout when nothing more comes of it.
    fn conclude(&mut self, now: Now, step: &mut Step) {
        let Some(targets) = self.memory.rollout.as_ref().map(|rollout| rollout.targets.clone()) else { return };
        let mut failed: Vec<(String, bool)> = Vec::new();
        let mut working = false;
        for name in targets.iter().filter(|name| self.works.contains_key(*name)) {
            let Some(want) = self.memory.targets.get(name).and_then(|target| target.unmet().cloned()) else { continue };
            match self.progress(name) {
                Progress::Reached => {
                    turn!(self, now, step).record(Entry::Reached { target: name.clone(), id: want.id, landed_at: want.landed_at });
                }
                Progress::Failed { why, blocked } => failed.push((why, blocked)),
                Progress::Working | Progress::Idle => working = true,
            }
        }
        // The host is not done while it is out of the pool by us.
        let out = self.memory.depooled.keys().any(|pool| self.pools.contains_key(pool)) && self.memory.unproven.is_empty();
        // Whoever waits for a rollout that failed is told when the host is back, or cannot be put back for now.
        let returning = |pool: &Pool| pool.goal() == Goal::In && pool.verdict() == Verdict::Pending && pool.trouble().is_none();
        let returning = self.pools.values().any(|pool| self.memory.depooled.contains_key(pool.name()) && returning(pool));
        let lent = !self.memory.lent.is_empty() || !self.memory.timers.is_empty() || !self.memory.reruns.is_empty();
        let aborting = self.memory.hold.as_ref().is_some_and(|hold| hold.abort);
        if aborting && !out && self.all_paused() {
            let why = self.memory.hold.as_ref().map(|hold| hold.reason.clone());
            return turn!(self, now, step).record(Entry::RolloutFinished { result: RolloutResult::Aborted, why });
        }
        if working
            || (out && failed.is_empty())
            || returning
            || (lent && self.journal_problem.is_none() && self.loans.trouble().is_none() && !self.debts.stuck())
        {
            return;
        }
        if failed.is_empty() {
            self.retry = None;
            return turn!(self, now, step).record(Entry::RolloutFinished { result: RolloutResult::Converged, why: None });
        }
        let blocked = failed.iter().all(|(_, blocked)| *blocked);
        let why = failed.iter().map(|(why, _)| why.as_str()).collect::<Vec<_>>().join("; ");
        turn!(self, now, step).record(Entry::RolloutFinished { result: RolloutResult::Failed, why: Some(why.clone()) });
        let tries = self.retry.as_ref().map_or(0, |retry| retry.tries) + 1;
        let (first, slowest) = if blocked { (RETRY_BLOCKED, RETRY_BLOCKED_SLOWEST) } else { (RETRY_FAILED, RETRY_FAILED_SLOWEST) };
        let pause = (first * 2_u32.saturating_pow(tries.saturating_sub(1).min(10))).min(slowest);
        self.retry = Some(Retry { at: now.mono.after(pause), tries, why, blocked });
    }

    fn all_paused(&self) -> bool {
        self.inplace.idle() && self.works.keys().all(|name| !matches!(self.progress(name), Progress::Working))
    }

    /// The next moment at which time alone makes a difference.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Deadline> {
        let works = self.works.values().map(|work| match work {
            Work::Fpm => None,
            Work::Scheduled(work) => work.deadline(),
            Work::Services(work) => work.deadline(),
        });
        let pools = self.pools.values().map(Pool::deadline);
        let hold = self.hold_until.map(|at| Deadline::new(at, "the hold expires"));
        let others = [
            self.intake_deadline(),
            self.inplace.deadline(),
            self.loans.deadline(&self.memory.lent),
            self.debts.deadline(&self.memory),
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
        self.memory.rollout.is_some() || self.debts.any(&self.memory)
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

/// Whether a rollout is at this timer, or at this unit, and pays what it owes to it itself.
fn owned<'m>(works: &'m BTreeMap<String, Work>, inplace: &'m InPlace) -> impl Fn(&str, &str) -> bool + 'm {
    let scheduled =
        |timer: &str, unit: &str| works.values().any(|work| if let Work::Scheduled(work) = work { work.owns(timer, unit) } else { false });
    move |timer, unit| scheduled(timer, unit) || inplace.owns(unit)
}
