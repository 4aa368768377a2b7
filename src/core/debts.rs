//! What the agent owes the host whatever happens: workers that it stopped go on, timers that it stopped run, scripts that it stopped to
//! run again do. Most of it is paid in the course of a rollout; this pays what a crash, a fault or a changed configuration left over.

use std::collections::BTreeMap;
use std::time::Duration;

use super::effect::{Effect, EffectId, Looked, Outcome};
use super::entry::Entry;
use super::fpm::settle_cut;
use super::memory::Memory;
use super::policy::{After, TargetRules};
use super::seen::{Active, UnitSeen};
use super::step::{Deadline, Turn};
use super::time::Mono;

/// Between two tries to pay.
const RETRY: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
pub struct Debts {
    pending: BTreeMap<EffectId, Debt>,
    next: Mono,
    trouble: Option<String>,
    /// A script that is owed a new run is still being stopped.
    stopping: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Debt {
    Thaw,
    Timer(String),
    Rerun(String),
    Look,
}

impl Debts {
    /// Before anything else: a worker that we stopped serves nobody.
    pub fn at_start(&mut self, turn: &mut Turn<'_>) {
        let workers = turn.memory.frozen.clone();
        if !workers.is_empty() {
            let id = turn.ask(Effect::Thaw { workers });
            self.pending.insert(id, Debt::Thaw);
        }
    }

    /// `owned`: whether a rollout is at this timer or this script right now, and will pay itself.
    pub fn advance(&mut self, turn: &mut Turn<'_>, owned: &dyn Fn(&str, &str) -> bool) {
        if !self.pending.is_empty() || turn.now.mono < self.next {
            return;
        }
        let timers: Vec<(String, bool)> =
            turn.memory.timers.iter().filter(|(timer, _)| !owned(timer, "")).map(|(timer, p)| (timer.clone(), *p)).collect();
        let reruns: Vec<String> = turn.memory.reruns.keys().filter(|unit| !owned("", unit)).cloned().collect();
        // What starts must not start with what was lent for the stop.
        let lent = reruns.iter().any(|unit| turn.memory.lent.contains(unit));
        if (timers.is_empty() && reruns.is_empty()) || lent {
            return;
        }
        self.next = turn.now.mono.after(RETRY);
        for (timer, persistent) in timers {
            let id = turn.ask(Effect::Start { unit: timer.clone(), caught_up: persistent });
            self.pending.insert(id, Debt::Timer(timer));
        }
        if self.pending.is_empty() {
            let id = turn.ask(Effect::Look { units: reruns, looked: Looked::Exactly, cgroups: BTreeMap::new() });
            self.pending.insert(id, Debt::Look);
        }
    }

    pub fn outcome(&mut self, turn: &mut Turn<'_>, id: EffectId, outcome: &Outcome) -> bool {
        let Some(debt) = self.pending.remove(&id) else { return false };
        match (debt, outcome) {
            (Debt::Thaw, _) => {}
            (Debt::Timer(timer), Outcome::Queued) => {
                turn.record(Entry::TimerSettled { timer, why: "started again".to_owned() });
                self.paid(turn);
            }
            (Debt::Rerun(unit), Outcome::Queued) => {
                turn.record(Entry::RerunSettled { unit, why: "started again".to_owned() });
                self.paid(turn);
            }
            (Debt::Look, Outcome::Units(units)) => {
                self.trouble = None;
                self.stopping = false;
                for unit in units {
                    self.rerun(turn, unit);
                }
            }
            (Debt::Timer(unit) | Debt::Rerun(unit), other) => {
                let why = format!("{unit} could not be started again: {}", said(other));
                if matches!(other, Outcome::Fault(super::effect::Fault::NoSuchUnit(_) | super::effect::Fault::Refused(_))) {
                    turn.record(Entry::TimerSettled { timer: unit.clone(), why: why.clone() });
                    turn.record(Entry::RerunSettled { unit, why: why.clone() });
                }
                self.trouble = Some(why);
            }
            (Debt::Look, other) => self.trouble = Some(format!("cannot look at what is owed a new run: {}", said(other))),
        }
        true
    }

    fn paid(&mut self, turn: &Turn<'_>) {
        self.trouble = None;
        self.next = turn.now.mono;
    }

    fn rerun(&mut self, turn: &mut Turn<'_>, seen: &UnitSeen) {
        settle_cut(turn, &seen.unit, false, false);
        let Some(target) = turn.memory.reruns.get(&seen.unit).cloned() else { return };
        if seen.active == Active::Deactivating {
            self.stopping = true;
            return;
        }
        let settle = |turn: &mut Turn<'_>, why: &str| turn.record(Entry::RerunSettled { unit: seen.unit.clone(), why: why.to_owned() });
        if seen.active.runs() {
            return settle(turn, "it runs");
        }
        let next = seen.timers.iter().filter(|timer| timer.active).filter_map(|timer| timer.next).min();
        if let Some(TargetRules::Scheduled(rules)) = turn.policy.targets.get(&target) {
            let soon = next.is_some_and(|next| next.since(turn.now.wall) <= rules.quiet_within);
            if rules.after == After::UntilNext || (rules.after == After::Auto && soon) {
                return settle(turn, "it stays quiet until its next scheduled run");
            }
        }
        let id = turn.ask(Effect::Start { unit: seen.unit.clone(), caught_up: false });
        self.pending.insert(id, Debt::Rerun(seen.unit.clone()));
    }

    pub fn hint(&mut self, now: Mono) {
        self.next = now;
    }

    #[must_use]
    pub fn any(&self, memory: &Memory) -> bool {
        !self.pending.is_empty()
            || !memory.timers.is_empty()
            || !memory.reruns.is_empty()
            || !memory.lent.is_empty()
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
    pub fn deadline(&self) -> Option<Deadline> {
        (self.pending.is_empty() && (self.trouble.is_some() || self.stopping))
            .then(|| Deadline::new(self.next, "start again what is owed its start"))
    }
}

fn said(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Fault(fault) => fault.to_string(),
        _ => "no answer".to_owned(),
    }
}
