//! One load balancer entry: taken out with proof, put back with proof, whatever happens in between.

use std::time::Duration;

use super::effect::{CommandEnd, Effect, EffectId, Fault, Outcome};
use super::entry::Entry;
use super::policy::PoolRules;
use super::status::{DepooledBy, PoolState, PoolView};
use super::step::{Deadline, Turn};
use super::time::{Mono, Wall};

/// Between two looks at the pool's state while a change is to show up, or while the state is unknown.
const CHECK_EVERY: Duration = Duration::from_millis(200);
/// Between tries to put a host back; doubled up to [`REPOOL_SLOWEST`]. It never gives up: the host is owed its place.
const REPOOL_FIRST: Duration = Duration::from_secs(1);
const REPOOL_SLOWEST: Duration = Duration::from_secs(30);

/// What the pool is to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// Nothing is wanted of it.
    Rest,
    /// Its state is to be known.
    Know,
    /// No new requests for this host.
    Out,
    /// Back, if it was this agent that took it out.
    In,
}

/// What came of the goal.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    Pending,
    Pooled,
    /// Proven to be out, by this agent.
    OutByUs,
    /// Somebody else took it out: it is not for this agent to put it back (trap T7).
    OutByOther,
    /// It could not be reached; the sentence says why. For [`Goal::In`] it is tried again all the same.
    Failed(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Check,
    Depool,
    Repool,
}

/// The machine for one pool.
#[derive(Debug)]
pub struct Pool {
    name: String,
    goal: Goal,
    verdict: Verdict,
    state: PoolState,
    since: Option<Wall>,
    /// When the last check was begun, and answered.
    checked: Option<(Mono, Mono)>,
    /// When what is pending was begun.
    asked_at: Mono,
    /// What the last check or command said, if it was no plain answer.
    trouble: Option<String>,
    pending: Option<(EffectId, Asked)>,
    /// The depool or repool command has succeeded: now the check must show it.
    commanded: bool,
    next_try: Mono,
    /// When the present wait for a proof ends.
    until: Mono,
    /// Until then "out" may be from before: a repool of ours, taken back by a depool, is still on its way to the balancer.
    stale_until: Mono,
    backoff: Duration,
}

impl Pool {
    #[must_use]
    pub fn new(name: &str) -> Pool {
        Pool {
            name: name.to_owned(),
            goal: Goal::Rest,
            verdict: Verdict::Pending,
            state: PoolState::Unknown,
            since: None,
            checked: None,
            asked_at: Mono::BOOT,
            trouble: None,
            pending: None,
            commanded: false,
            next_try: Mono::BOOT,
            until: Mono::NEVER,
            stale_until: Mono::BOOT,
            backoff: REPOOL_FIRST,
        }
    }

    /// Wants something of the pool; asking for the same again while it is pending changes nothing.
    pub fn want(&mut self, turn: &mut Turn<'_>, goal: Goal) {
        if self.goal == goal && self.verdict == Verdict::Pending {
            return;
        }
        // What stood in the way of something else does not stand in the way of this.
        if self.goal != goal {
            self.trouble = None;
        }
        self.goal = goal;
        self.verdict = Verdict::Pending;
        self.commanded = false;
        self.next_try = turn.now.mono;
        self.until = turn.now.mono.after(self.timeout(turn));
        self.backoff = REPOOL_FIRST;
        self.advance(turn);
    }

    /// Nothing is wanted of it any more: what a check that is under way will say leads to nothing.
    pub fn leave(&mut self) {
        self.goal = Goal::Rest;
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn verdict(&self) -> Verdict {
        self.verdict.clone()
    }

    #[must_use]
    pub fn goal(&self) -> Goal {
        self.goal
    }

    /// Whether a check was answered no longer ago than that.
    #[must_use]
    pub fn checked_within(&self, now: Mono, span: Duration) -> bool {
        self.checked.is_some_and(|(_, at)| now.since(at) <= span)
    }

    /// Whether the last check was begun then or later, however slow it was.
    #[must_use]
    pub fn checked_from(&self, from: Mono) -> bool {
        self.checked.is_some_and(|(began, _)| began >= from)
    }

    /// It was found out by this agent's doing, and this time nothing had to be done for that.
    #[must_use]
    pub fn stayed_out(&self) -> bool {
        self.verdict == Verdict::OutByUs && !self.commanded
    }

    /// What stands in the way, for status.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Takes the outcome if it is its own.
    pub fn outcome(&mut self, turn: &mut Turn<'_>, id: EffectId, outcome: &Outcome) -> bool {
        let Some((_, asked)) = self.pending.take_if(|(pending, _)| *pending == id) else { return false };
        match (asked, self.goal) {
            (Asked::Check, _) => self.checked(turn, outcome),
            (Asked::Depool, Goal::Out) => self.depooled(turn, outcome),
            (Asked::Repool, Goal::In) => self.repooled(turn, outcome),
            // What was wanted has changed meanwhile: it is begun afresh, from where this has left it.
            (Asked::Depool | Asked::Repool, _) => {
                self.until = turn.now.mono.after(self.timeout(turn));
                self.next_try = turn.now.mono;
            }
        }
        true
    }

    pub fn advance(&mut self, turn: &mut Turn<'_>) {
        if self.pending.is_some() || self.verdict != Verdict::Pending || self.goal == Goal::Rest || turn.now.mono < self.next_try {
            return;
        }
        let debt = turn.memory.depooled.get(&self.name).cloned();
        let rules = turn.policy.pools.get(&self.name).cloned();
        if self.goal == Goal::In {
            let Some(debt) = debt else {
                self.verdict = if self.state == PoolState::Depooled { Verdict::OutByOther } else { Verdict::Pooled };
                return;
            };
            let effect = if self.commanded {
                Effect::CheckPool { pool: self.name.clone(), argv: debt.check, timeout: debt.timeout }
            } else {
                Effect::Repool { pool: self.name.clone(), argv: debt.repool, timeout: debt.timeout }
            };
            let asked = if self.commanded { Asked::Check } else { Asked::Repool };
            return self.ask(turn, effect, asked);
        }
        let Some((check, timeout)) = rules.map(|rules| (rules.check, rules.timeout)).or(debt.map(|debt| (debt.check, debt.timeout))) else {
            self.verdict = Verdict::Failed(format!("pool {} is not in the configuration", self.name));
            return;
        };
        let effect = Effect::CheckPool { pool: self.name.clone(), argv: check, timeout };
        self.ask(turn, effect, Asked::Check);
    }

    fn checked(&mut self, turn: &mut Turn<'_>, outcome: &Outcome) {
        let (state, trouble) = match outcome {
            Outcome::Command(CommandEnd::Exited { status: 0, .. }) => (PoolState::Pooled, None),
            Outcome::Command(CommandEnd::Exited { status: 1, .. }) => (PoolState::Depooled, None),
            other => (PoolState::Unknown, Some(self.complaint("check", other))),
        };
        if state != self.state || self.since.is_none() {
            self.since = Some(turn.now.wall);
        }
        self.state = state;
        self.checked = Some((self.asked_at, turn.now.mono));
        self.trouble = trouble;
        if state == PoolState::Pooled {
            self.stale_until = Mono::BOOT;
        }
        let debt = turn.memory.depooled.get(&self.name);
        let ours = debt.is_some();
        let returning = debt.is_some_and(|debt| debt.returning);
        match (self.goal, state) {
            (Goal::Rest, _) => {}
            (Goal::Know, PoolState::Pooled) => self.verdict = Verdict::Pooled,
            // On its way back, by our own doing: it is not out until that is taken back.
            (Goal::Out, PoolState::Depooled) if returning => {
                self.stale_until = turn.now.mono.after(self.timeout(turn));
                self.depool(turn);
            }
            (Goal::Out, PoolState::Depooled) if turn.now.mono < self.stale_until => self.next_try = turn.now.mono.after(CHECK_EVERY),
            (Goal::Know | Goal::Out, PoolState::Depooled) => self.verdict = if ours { Verdict::OutByUs } else { Verdict::OutByOther },
            (Goal::Out, PoolState::Pooled) if !self.commanded => self.depool(turn),
            // Asked before the repool: a depool of ours may still be on its way to the balancer.
            (Goal::In, _) if !self.commanded => self.next_try = turn.now.mono,
            (Goal::In, PoolState::Pooled) => {
                self.verdict = Verdict::Pooled;
                turn.record(Entry::PoolSettled { pool: self.name.clone(), why: "back in the pool".to_owned() });
            }
            (Goal::Know, PoolState::Unknown) | (Goal::Out, _) => self.again_or_fail(turn),
            (Goal::In, _) => {
                if turn.now.mono >= self.until {
                    self.repool_later(turn);
                } else {
                    self.next_try = turn.now.mono.after(CHECK_EVERY);
                }
            }
        }
    }

    fn depool(&mut self, turn: &mut Turn<'_>) {
        let Some(rules) = turn.policy.pools.get(&self.name).cloned() else {
            self.verdict = Verdict::Failed(format!("pool {} is not in the configuration", self.name));
            return;
        };
        if !turn.journal_good {
            self.verdict = Verdict::Failed("the journal cannot be written, so the host is not taken out of the pool".to_owned());
            return;
        }
        let PoolRules { depool, repool, check, timeout, .. } = rules;
        let effect = Effect::Depool { pool: self.name.clone(), depool, repool, check, timeout };
        self.ask(turn, effect, Asked::Depool);
    }

    fn ask(&mut self, turn: &mut Turn<'_>, effect: Effect, asked: Asked) {
        self.asked_at = turn.now.mono;
        self.pending = Some((turn.ask(effect), asked));
    }

    fn depooled(&mut self, turn: &mut Turn<'_>, outcome: &Outcome) {
        match outcome {
            Outcome::Command(CommandEnd::Exited { status: 0, .. }) => {
                self.commanded = true;
                self.until = turn.now.mono.after(self.timeout(turn));
                self.next_try = turn.now.mono;
            }
            other => {
                let complaint = self.complaint("depool", other);
                self.trouble = Some(complaint.clone());
                self.verdict = Verdict::Failed(complaint);
            }
        }
    }

    fn repooled(&mut self, turn: &mut Turn<'_>, outcome: &Outcome) {
        match outcome {
            Outcome::Command(CommandEnd::Exited { status: 0, .. }) => {
                self.commanded = true;
                self.until = turn.now.mono.after(self.timeout(turn));
                self.next_try = turn.now.mono;
            }
            other => {
                self.trouble = Some(self.complaint("repool", other));
                self.repool_later(turn);
            }
        }
    }

    fn repool_later(&mut self, turn: &mut Turn<'_>) {
        if self.trouble.is_none() {
            self.trouble = Some(format!("repool has succeeded, but check says that the host is not back in pool {}", self.name));
        }
        self.commanded = false;
        self.next_try = turn.now.mono.after(self.backoff);
        self.backoff = (self.backoff * 2).min(REPOOL_SLOWEST);
    }

    fn again_or_fail(&mut self, turn: &mut Turn<'_>) {
        if turn.now.mono < self.until {
            self.next_try = turn.now.mono.after(CHECK_EVERY);
            return;
        }
        let said = self.trouble.clone().unwrap_or_else(|| format!("check of pool {} still says pooled after the depool", self.name));
        self.verdict = Verdict::Failed(said);
    }

    fn timeout(&self, turn: &Turn<'_>) -> Duration {
        let debt = turn.memory.depooled.get(&self.name).map(|debt| debt.timeout);
        turn.policy.pools.get(&self.name).map(|rules| rules.timeout).or(debt).unwrap_or(Duration::from_secs(60))
    }

    /// Unknown never counts as depooled (law 5): the sentence says what was answered instead of 0 or 1.
    fn complaint(&self, command: &str, outcome: &Outcome) -> String {
        let name = &self.name;
        match outcome {
            Outcome::Command(CommandEnd::Exited { status, said }) if said.is_empty() => format!("{command} of pool {name} exited {status}"),
            Outcome::Command(CommandEnd::Exited { status, said }) => format!("{command} of pool {name} exited {status}: {said}"),
            Outcome::Command(CommandEnd::Killed { signal }) => format!("{command} of pool {name} was ended by signal {signal}"),
            Outcome::Command(CommandEnd::TimedOut) => format!("{command} of pool {name} did not end in time"),
            Outcome::Fault(Fault::Journal(why)) => format!("{command} of pool {name} was not run: {why}"),
            Outcome::Fault(fault) => format!("{command} of pool {name} could not be run: {fault}"),
            _ => format!("{command} of pool {name} gave no answer"),
        }
    }

    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        let waits = self.pending.is_none() && self.verdict == Verdict::Pending && self.goal != Goal::Rest;
        waits.then(|| Deadline::new(self.next_try, format!("pool {}: look again", self.name)))
    }

    #[must_use]
    pub fn view(&self, ours: bool) -> PoolView {
        let depooled_by = match (ours, self.state) {
            (true, _) => Some(DepooledBy::Agent),
            (false, PoolState::Depooled) => Some(DepooledBy::Other),
            (false, _) => None,
        };
        PoolView { name: self.name.clone(), state: self.state, depooled_by, since: self.since }
    }
}
