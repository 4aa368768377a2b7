//! Rules that hold at every turn, as far as it takes the agent's memory to say.

use std::collections::BTreeSet;
use std::time::Duration;

use restart_agent::core::Waited;
use restart_agent::core::effect::Effect;
use restart_agent::core::entry::Written;
use restart_agent::core::machine::Machine;
use restart_agent::core::memory::Memory;
use restart_agent::core::policy::TargetRules;
use restart_agent::core::status::{Casualty, TargetState};

use super::{Host, MINUTE, S, Us};
use crate::check::{carries, us};
use crate::world::{Process, World};

/// What has begun when a hold comes goes on to its safe point, which a bracket of php-fpm reaches at the end of the longest drain. A script, service or
/// stray is at one until it is asked or signalled, for which it may just be made ready.
const SAFE_POINT: Us = 30 * S;
const MADE_READY: Us = 3 * S;
/// Retries of what failed are no further apart; a hold by an abort is no longer than an hour.
const FAR: Us = 76 * MINUTE;

/// What is to be done, or owed, in words.
pub(super) fn owed(machine: &Machine) -> Vec<&'static str> {
    let memory = machine.memory();
    let held = memory.hold.as_ref().is_some_and(|hold| hold.targets.is_none());
    let waits = matches!(machine.waited(None), Waited::Pending { .. }) && !held;
    let usable = machine.policy().unusable.is_none();
    let quiet = memory.targets.values().all(|target| target.starting.is_none() && target.lingering.is_empty());
    let owed = [
        // Without a configuration it waits for one; until then a php-fpm that is not proven keeps the host out.
        (memory.rollout.is_some() && usable, "a rollout"),
        (!memory.depooled.is_empty() && (usable || memory.unproven.is_empty()), "depooled"),
        (!memory.lent.is_empty(), "lent"),
        (!memory.quiet.is_empty(), "quiet"),
        (memory.starts_held, "starts held"),
        (!memory.reruns.is_empty(), "reruns"),
        (!memory.frozen.is_empty(), "frozen"),
        (!memory.cutting.is_empty() && usable, "cutting"),
        (!memory.asked.is_empty(), "asked"),
        (waits, "wait"),
        (usable && !quiet, "generations"),
    ];
    owed.into_iter().filter(|(owed, _)| *owed).map(|(_, what)| what).collect()
}

/// Within which an effect is to be answered, as its docstring says.
fn bound(effect: &Effect) -> Us {
    let long = |span: &Duration| us(*span);
    match effect {
        Effect::AskPools { timeout, .. } | Effect::Request { timeout, .. } | Effect::AskOpcache { timeout, .. } => long(timeout),
        Effect::CheckPool { timeout, .. } | Effect::Depool { timeout, .. } | Effect::Repool { timeout, .. } => long(timeout) + 5 * S,
        Effect::Stop { within, .. } | Effect::Restart { within, .. } | Effect::End { within, .. } => long(within),
        Effect::Lend { .. } | Effect::Unlend { .. } => 60 * S,
        Effect::AskToStop { .. } | Effect::Unask { .. } => 35 * S,
        _ => 15 * S,
    }
}

impl Host {
    /// Nothing is waited for without a deadline, for ever, or for no reason.
    pub(super) fn check_waits(&mut self) {
        let Some(machine) = &self.machine else { return };
        let now = self.world.now;
        let mut owed = owed(machine);
        // With the package a rollout ends unfinished.
        owed.retain(|what| !self.removal.under_way || !["a rollout", "wait"].contains(what));
        let deadline = machine.next_deadline();
        let settles = |rules: &TargetRules| match rules {
            TargetRules::Scheduled(rules) => us(rules.settle_after),
            TargetRules::Generations(rules) => us(rules.linger),
            _ => 0,
        };
        let rules = self.policy.targets.values().map(settles).max().unwrap_or(0) + us(self.policy.stamp.begin_timeout);
        let far = now + us(machine.longest()) + rules + FAR;
        let slack = 2 * S + 10 * us(Duration::from_millis(4)) * self.world.faults.slowness + 2 * self.world.faults.disk_took;
        let late = self.outstanding.iter().find(|(id, effect)| {
            let asked = self.asked_at.get(id).copied().unwrap_or(now);
            now > asked + bound(effect) + slack
        });
        // What it has asked for and is still being written is as good as under way.
        let idle = self.outstanding.is_empty() && self.writing.is_none();
        let wrong = match &deadline {
            _ if late.is_some() => format!("without its answer in time: {late:?}"),
            None if !owed.is_empty() && idle && self.journal_told => {
                format!("something is to be done ({}), no effect is under way, and there is no deadline", owed.join(", "))
            }
            Some(deadline) if deadline.why.trim().is_empty() => "it waits, and does not say for what".to_owned(),
            Some(deadline) if !owed.is_empty() && idle && self.world.moment(deadline.at) > far => {
                format!("something is to be done ({}), and it waits for ages: {}", owed.join(", "), deadline.why)
            }
            _ => return,
        };
        self.world.violates(wrong);
    }

    /// An agent that goes on from here, from the journal alone, is as far as this one: it owes the same, goes on with it, and says the same to
    /// whoever waits.
    pub(super) fn check_resumed(&mut self) {
        let Some(machine) = &self.machine else { return };
        let (twin, step) = Machine::resume(self.with_queued.clone(), machine.policy().clone(), &self.boot, "sim", self.world.clock());
        let mut folded = self.with_queued.clone();
        for written in &step.entries {
            folded.apply(written);
        }
        let stamp = self.world.stamp.as_ref().ok().map(|stamp| &stamp.identity);
        let read = machine.memory().stamp.as_ref().map(|stamp| &stamp.identity) == stamp;
        let (says, would) = (machine.waited(None), twin.waited(None));
        let converged = |waited: &Waited| matches!(waited, Waited::Converged { .. });
        let wrong = if folded != *twin.memory() {
            format!("an agent that resumes has another memory than its journal: {}", super::difference(&folded, twin.memory()))
        } else if !owed(&twin).is_empty() && step.effects.is_empty() && twin.next_deadline().is_none() {
            format!("an agent that resumes owes {}, and waits for nothing", owed(&twin).join(", "))
        } else if read && converged(&says) != converged(&would) && self.tells_by_memory() {
            format!("wait says {says:?}, and would say {would:?} after a restart")
        } else {
            return;
        };
        self.world.violates(wrong);
    }

    /// What it says to whoever waits does not rest on what it has tried and failed since it started, nor on a php-fpm that it restarts and that has
    /// left the configuration, and may be back in it: an agent that resumes has nothing to prove it by.
    fn tells_by_memory(&self) -> bool {
        let Some(machine) = &self.machine else { return false };
        let memory = machine.memory();
        let anew = |name: &String| memory.targets.get(name).is_none_or(|target| target.want.is_none());
        let left = |unit: &String| match self.world.target_of(unit) {
            Some((name, TargetRules::PhpFpm(_))) => anew(&name),
            other => other.is_none(),
        };
        !memory.lent.iter().any(left) && !matches!(machine.waited(None), Waited::Blocked { .. } | Waited::Failed { .. })
    }

    /// As it is read back.
    pub(super) fn reread(&mut self, written: Written) -> Written {
        let text = serde_json::to_string(&written.entry).unwrap_or_default();
        match serde_json::from_str(&text) {
            Ok(entry) if entry == written.entry => Written { entry, ..written },
            other => {
                self.world.violates(format!("the journal's line is read back as {other:?}: {text}"));
                written
            }
        }
    }

    /// As the snapshot is.
    pub(super) fn reread_memory(&mut self) {
        let text = serde_json::to_string(&self.durable).unwrap_or_default();
        match serde_json::from_str::<Memory>(&text) {
            Ok(memory) if memory == self.durable => self.durable = memory,
            _ => self.world.violates("the snapshot of the memory is read back as another".to_owned()),
        }
    }

    /// Whoever looks at the status, or at the metrics, is told of each pool that the agent keeps this host out of.
    pub(super) fn check_out(&mut self) {
        let memory = self.memory();
        let unsaid = |world: &World| {
            let known = |pool: &str| memory.depooled.contains_key(pool);
            let out = world.balancers.values().find(|balancer| {
                let settled = world.now > balancer.out_since + balancer.delay + 10 * S;
                let ours = balancer.out && !balancer.by_person && !balancer.turned_out_by_person;
                ours && settled && !balancer.lied && !known(&balancer.name)
            });
            out.map(|balancer| format!("the agent has taken the host out of pool {}, and knows nothing of it", balancer.name))
        };
        let wrong = unsaid(&self.world);
        wrong.into_iter().for_each(|wrong| self.world.violates(wrong));
    }

    fn targets(&self, which: impl Fn(&TargetRules) -> bool) -> BTreeSet<String> {
        self.policy.targets.iter().filter(|(_, rules)| which(rules)).map(|(name, _)| name.clone()).collect()
    }

    /// A hold, or an abort, begins nothing.
    pub(super) fn check_hold(&mut self, effect: &Effect) {
        let now = self.world.now;
        // What has begun and waits for the disk comes to its safe point after that.
        let hold = self.memory().hold.as_ref().map(|hold| hold.targets.clone());
        let same = !self.disk_full && hold.as_ref().is_some_and(|targets| *targets == self.held_targets);
        self.held_since = hold.is_some().then(|| self.held_since.filter(|_| same).unwrap_or(now));
        self.held_targets = hold.flatten();
        let Some(since) = self.held_since else { return };
        let targets: BTreeSet<String> = match effect {
            // What has gone down in its restart is brought up again.
            Effect::Restart { unit, .. } if self.world.units.get(unit).is_some_and(|unit| !unit.active.runs()) => return,
            Effect::Stop { unit, .. } | Effect::Restart { unit, .. } | Effect::AskToStop { unit, .. } => {
                self.world.target_of(unit).map(|(target, _)| target).into_iter().collect()
            }
            Effect::Depool { .. } => self.targets(|rules| matches!(rules, TargetRules::PhpFpm(_))),
            Effect::Signal { kill: false, .. } => self.targets(|rules| matches!(rules, TargetRules::Strays(_))),
            _ => return,
        };
        let fpm = |target: &String| matches!(self.policy.targets.get(target), Some(TargetRules::PhpFpm(_) | TargetRules::Generations(_)));
        let safe = if targets.iter().any(fpm) { SAFE_POINT } else { MADE_READY + 2 * self.world.unknowable() };
        let held = !targets.is_empty() && targets.iter().all(|target| self.memory().holds(target));
        let begins = matches!(effect, Effect::Depool { .. });
        // What systemd has not heard of it is asked for again.
        let since = since.max(self.world.faults.systemd_away_until);
        if held && (begins || now > since + safe) {
            self.world.violates(format!("{} is held, and the agent asks for {effect:?}", Vec::from_iter(targets).join(", ")));
        }
    }

    /// The stamp on disk is the one that was last carried out, and what goes on with old code is told as that.
    pub(super) fn check_newest(&mut self) {
        let status = self.status();
        let Ok(stamp) = self.world.stamp.clone() else { return };
        let begins = stamp.content.contains("begin");
        let taken = self.memory().stamp.as_ref().is_some_and(|taken| taken.identity == stamp.identity);
        if !begins && !taken {
            self.world.violates(format!("the stamp says {:?}, and nobody took note of it", stamp.content));
        }
        let views: Vec<_> = status.targets.iter().flat_map(|target| target.units.clone()).collect();
        let silent: Vec<String> = self
            .world
            .units
            .values()
            .filter(|unit| {
                let Some((target, rules)) = self.world.target_of(&unit.name) else { return false };
                let Some(want) = self.world.newest_want(&target) else { return false };
                let since = self.since.get(&target).copied().unwrap_or(Us::MAX);
                let of_it = |process: &&Process| carries(rules.code(), process) && unit.has_in_this_run(process);
                // What an earlier run has left behind when the rollout had come to rest nobody looks for until the next deploy.
                let earlier = |process: &&Process| unit.leaves() && process.start < unit.main_start;
                let mut of_it = unit.processes.values().filter(|process| of_it(process) && !earlier(process));
                let old = of_it.any(|process| process.start < want.at) && want.at > since;
                let said = |state: TargetState| matches!(state, TargetState::Left);
                let left = World::goes_on(unit, &rules) || self.world.barred_since(&unit.name, want.at);
                old && left
                    && !unit.is_left_behind()
                    && !views.iter().any(|view| view.unit == unit.name && said(view.state) && !view.why.is_empty())
            })
            .map(|unit| unit.name.clone())
            .collect();
        if !silent.is_empty() {
            self.world.violates(format!("{} goes on with old code, and status does not say why: {views:?}", silent.join(", ")));
        }
    }

    /// Nothing is recorded twice, and nothing of what the agent has not touched.
    pub(super) fn check_recorded(&mut self, recorded: &[Casualty]) {
        let mut seen = BTreeSet::new();
        // Nobody looks any more for a stray whose target has left the configuration: it may go on, and be stopped when that is back.
        let of_strays = |target: &String| matches!(self.policy.targets.get(target), Some(TargetRules::Strays(_)));
        let may_go_on = |casualty: &&Casualty| !casualty.certain && of_strays(&casualty.target);
        for casualty in recorded.iter().filter(|casualty| casualty.pid != 0 && !casualty.perhaps && !may_go_on(casualty)) {
            if !seen.insert((&casualty.unit, casualty.pid, &casualty.request)) {
                self.world.violates(format!("recorded twice: {casualty:?}"));
            }
        }
    }
}
