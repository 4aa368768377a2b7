//! The work on each target: it fits the configuration, is renewed, held and advanced.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{Machine, turn};
use crate::core::effect::{Effect, UnitsOf};
use crate::core::entry::Entry;
use crate::core::generations::Generations;
use crate::core::inplace::InPlace;
use crate::core::intake::Retry;
use crate::core::loans::Loans;
use crate::core::memory::{Cutting, Want};
use crate::core::policy::TargetRules;
use crate::core::pool::{Goal, Pool};
use crate::core::scheduled::Scheduled;
use crate::core::service::Services;
use crate::core::step::{Step, Turn};
use crate::core::strays::{Strays, settle};
use crate::core::target::Progress;
use crate::core::time::{Mono, Now};

/// So long past its grace a script that is being stopped and belongs to no target any more keeps what it was lent.
const ORPHAN_PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub(in crate::core) enum Work {
    /// Its state is in the bracket that all php-fpm targets share.
    Fpm,
    Generations(Box<Generations>),
    Scheduled(Scheduled),
    Services(Services),
    Strays(Strays),
}

impl Work {
    fn new(name: &str, rules: &TargetRules) -> Work {
        match rules {
            TargetRules::PhpFpm(_) => Work::Fpm,
            TargetRules::Generations(_) => Work::Generations(Box::new(Generations::new(name))),
            TargetRules::Scheduled(_) => Work::Scheduled(Scheduled::new(name)),
            TargetRules::Service(_) => Work::Services(Services::new(name)),
            TargetRules::Strays(_) => Work::Strays(Strays::new(name)),
        }
    }

    /// It is no more: what it was lent is not wanted any longer. What it owes to the host is paid all the same.
    fn release(&self, loans: &mut Loans) {
        match self {
            Work::Fpm | Work::Generations(_) | Work::Strays(_) => {}
            Work::Scheduled(work) => work.release(loans),
            Work::Services(work) => work.release(loans),
        }
    }

    fn fits(&self, rules: &TargetRules) -> bool {
        matches!(
            (self, rules),
            (Work::Fpm, TargetRules::PhpFpm(_))
                | (Work::Generations(_), TargetRules::Generations(_))
                | (Work::Scheduled(_), TargetRules::Scheduled(_))
                | (Work::Services(_), TargetRules::Service(_))
                | (Work::Strays(_), TargetRules::Strays(_))
        )
    }
}

impl Machine {
    /// Makes works, pools and adoptions fit the configuration.
    pub(super) fn configure(&mut self, now: Now, step: &mut Step) {
        let policy = self.policy.clone();
        let unconfigured = self.unconfigured();
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
            match (self.works.get_mut(name), rules) {
                (Some(Work::Scheduled(work)), TargetRules::Scheduled(rules)) => work.let_go(rules, &mut self.loans),
                (Some(Work::Services(work)), TargetRules::Service(rules)) => work.let_go(rules, &mut self.loans),
                _ => {}
            }
        }
        let gone: Vec<String> = self.works.keys().filter(|name| !policy.targets.contains_key(*name)).cloned().collect();
        for name in gone {
            if let Some(work) = self.works.remove(&name) {
                work.release(&mut self.loans);
            }
        }
        if !unconfigured {
            self.settle_strays(now, step);
            // Those of an earlier agent, whose target could not be read until now.
            self.take_up_strays(now);
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

    /// Without any configuration, or with one that cannot be read, nothing is forgotten: or it would be adopted anew, and a deploy missed.
    pub(super) fn unconfigured(&self) -> bool {
        self.policy.unusable.is_some() || (self.policy.targets.is_empty() && self.policy.stamp.path.is_empty())
    }

    /// What is not fresh yet for what it is wanted to be fresh for, of the targets of the configuration.
    pub(in crate::core) fn unmet(&self) -> impl Iterator<Item = (&str, &Want)> {
        let configured = self.memory.targets.iter().filter(|(name, _)| self.works.contains_key(*name));
        configured.filter_map(|(name, target)| Some((name.as_str(), target.unmet()?)))
    }

    /// What had been reached and is not any more is wanted again.
    pub(super) fn take_up_lapsed(&mut self, now: Now) {
        if self.policy.unusable.is_some() || self.settling {
            return;
        }
        let idle = |name: &str| match self.works.get(name) {
            Some(Work::Generations(work)) => *work.progress() == Progress::Idle && now.mono >= work.again_at(),
            _ => false,
        };
        let unmet = self.memory.targets.iter().filter(|(name, _)| idle(name) && !self.held(name));
        let lapsed: Vec<_> = unmet.filter_map(|(name, target)| Some((name.clone(), target.unmet()?.clone()))).collect();
        if let Some(rollout) = &self.memory.rollout {
            for (name, want) in lapsed.into_iter().filter(|(name, _)| rollout.targets.contains(name)) {
                if let Some(Work::Generations(work)) = self.works.get_mut(&name) {
                    work.renew(now.mono, want);
                }
            }
        } else if !lapsed.is_empty() && self.retry.as_ref().is_none_or(|retry| retry.at == Mono::NEVER) {
            let why = "the generation that had been started for it is gone".to_owned();
            self.retry = Some(Retry { at: now.mono, tries: 0, why, blocked: true });
        }
    }

    /// So that a script can hold its lock whenever a deploy lands.
    pub(super) fn make_locks(&mut self, now: Now, step: &mut Step) {
        if !std::mem::replace(&mut self.locks_due, false) || self.settling {
            return;
        }
        let of = |rules: &TargetRules| match rules {
            TargetRules::Scheduled(rules) => Some(UnitsOf::new(&rules.units, &rules.exclude)),
            TargetRules::Service(rules) if rules.asking().needs_locks() => Some(UnitsOf::new(&rules.units, &rules.exclude)),
            TargetRules::Service(_) | TargetRules::PhpFpm(_) | TargetRules::Generations(_) | TargetRules::Strays(_) => None,
        };
        let of: Vec<UnitsOf> = self.policy.targets.values().filter_map(of).collect();
        if !of.is_empty() {
            turn!(self, now, step).ask(Effect::MakeLocks { of });
        }
    }

    /// After a change of the configuration: targets whose work was made anew, and what failed may be possible now.
    pub(super) fn renew_new(&mut self, now: Now, step: &mut Step) {
        if self.memory.rollout.is_some() {
            return self.renew_unmet(now, step);
        }
        if self.unmet().any(|(name, _)| !self.held(name)) {
            let fresh = || Retry { at: now.mono, tries: 0, why: "the configuration has changed".to_owned(), blocked: true };
            self.retry.get_or_insert_with(fresh).at = now.mono;
        }
    }

    /// Sets every target to work that is not fresh for what it is wanted to be fresh for, and is not held.
    pub(in crate::core) fn renew_unmet(&mut self, now: Now, step: &mut Step) {
        let began = self.began(now);
        for name in self.works.keys().cloned().collect::<Vec<_>>() {
            self.renew(now, step, &name, began);
        }
    }

    pub(super) fn renew(&mut self, now: Now, step: &mut Step, name: &str, began: Mono) {
        let Some(want) = self.memory.targets.get(name).and_then(|target| target.unmet().cloned()) else { return };
        if self.held(name) {
            return self.inplace.rest(name);
        }
        match self.works.get_mut(name) {
            Some(Work::Fpm) => self.inplace.renew(now.mono, name, want, began),
            Some(Work::Generations(work)) => work.renew(now.mono, want),
            Some(Work::Scheduled(work)) => work.renew(&mut turn!(self, now, step), &mut self.loans, want, began),
            Some(Work::Services(work)) => work.renew(&turn!(self, now, step), &mut self.loans, want, began),
            Some(Work::Strays(work)) => work.renew(&turn!(self, now, step), want, began),
            None => {}
        }
    }

    /// Stops of scripts that were under way when the agent ended go on where they were.
    pub(super) fn take_up(&mut self, now: Now, step: &mut Step) {
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
                work.take_up(&turn, &unit, &cutting, want, rules);
            }
        }
    }

    /// The same of strays.
    fn take_up_strays(&mut self, now: Now) {
        for cut in &self.memory.strays {
            let want = self.memory.targets.get(&cut.casualty.target).and_then(|memory| memory.want.clone());
            if let (Some(Work::Strays(work)), Some(want)) = (self.works.get_mut(&cut.casualty.target), want) {
                work.take_up(now.mono, cut, want);
            }
        }
    }

    /// A stray of a target that has left the configuration has been sent what it was sent, and nobody looks for it any more.
    fn settle_strays(&mut self, now: Now, step: &mut Step) {
        for cut in self.memory.strays.clone() {
            if !matches!(self.works.get(&cut.casualty.target), Some(Work::Strays(_))) {
                let _ = settle(&mut turn!(self, now, step), &cut.process);
            }
        }
    }

    /// When the rollout began: drains are counted from there, also after a restart of the agent.
    fn began(&self, now: Now) -> Mono {
        let started = self.memory.rollout.as_ref().map(|rollout| now.mono_of(rollout.view.started_at));
        started.map_or(now.mono, |at| at.min(now.mono))
    }

    pub(in crate::core) fn held(&self, target: &str) -> bool {
        self.settling || self.memory.holds(target)
    }

    pub(super) fn advance_targets(&mut self, now: Now, step: &mut Step) {
        let mut turn = turn!(self, now, step);
        self.pools.retain(|name, _| turn.policy.pools.contains_key(name) || turn.memory.depooled.contains_key(name));
        for pool in self.pools.values_mut() {
            pool.advance(&mut turn);
        }
        let mut gathering = self.inplace.gathering();
        let mut counting = false;
        // A script that is being stopped keeps what it was lent until it has ended, also if its target has left the configuration.
        let known = |unit: &str| self.works.values().any(|work| matches!(work, Work::Scheduled(work) if work.knows(unit)));
        let orphan = |(unit, cutting): (&String, &Cutting)| {
            cutting.of_script() && !known(unit) && turn.now.mono < cutting.asked.after(cutting.grace.unwrap_or_default() + ORPHAN_PATIENCE)
        };
        let mut stopping = turn.memory.cutting.iter().any(orphan);
        let mut kept = BTreeSet::new();
        for (name, work) in &mut self.works {
            match (work, turn.policy.targets.get(name)) {
                (Work::Scheduled(work), Some(TargetRules::Scheduled(rules))) => {
                    work.advance(&mut turn, rules, &mut self.loans);
                    kept.extend(work.kept(&turn, rules));
                    gathering |= work.gathering();
                    stopping |= work.stopping();
                }
                (Work::Generations(work), Some(TargetRules::Generations(rules))) => {
                    let held = self.settling || turn.memory.holds(name);
                    work.advance(&mut turn, rules, &mut self.loans, held, self.settling);
                    gathering |= work.gathering();
                    counting |= work.counting();
                }
                (Work::Strays(work), Some(TargetRules::Strays(rules))) => {
                    work.advance(&mut turn, rules);
                    gathering |= work.gathering();
                }
                (Work::Services(work), Some(TargetRules::Service(rules))) => {
                    work.advance(&mut turn, rules, &mut self.loans);
                    gathering |= work.gathering();
                }
                _ => {}
            }
        }
        self.inplace.advance(&mut turn, &mut self.loans, &mut self.pools);
        let owned = owned(&self.works, &self.inplace);
        kept.extend(self.debts.kept(turn.memory, &owned));
        let asked = turn.memory.asked.clone();
        self.loans.advance(&mut turn, gathering, stopping, &|unit| {
            // Their timers may be lent something, too.
            // And what may still end because it was asked to, ends well only with what it was lent.
            kept.contains(unit) || asked.contains(unit) || (!kept.is_empty() && unit.ends_with(".timer"))
        });
        self.debts.advance(&mut turn, gathering, counting || self.inplace.counting(), &owned);
    }

    pub(super) fn enforce_hold(&mut self, now: Now, step: &mut Step) {
        if self.hold_until.is_some_and(|until| until <= now.mono) {
            turn!(self, now, step).record(Entry::HoldEnded { by: "it expired".to_owned() });
            self.hold_ended(now, step);
        }
        if self.memory.hold.is_none() && !self.settling {
            return;
        }
        let mut fpm_held = false;
        for (name, work) in &mut self.works {
            if !self.settling && !self.memory.holds(name) {
                continue;
            }
            match work {
                Work::Fpm => fpm_held |= self.inplace.progress(name) == Progress::Working,
                Work::Generations(work) => work.pause(now.mono),
                Work::Scheduled(work) => work.pause(now.mono, &mut self.loans),
                Work::Services(work) => work.pause(now.mono, &mut self.loans),
                Work::Strays(work) => work.pause(),
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

    pub(super) fn pause_all(&mut self) {
        for work in self.works.values_mut() {
            match work {
                Work::Fpm => {}
                Work::Generations(work) => work.pause(self.last.mono),
                Work::Scheduled(work) => work.pause(self.last.mono, &mut self.loans),
                Work::Services(work) => work.pause(self.last.mono, &mut self.loans),
                Work::Strays(work) => work.pause(),
            }
        }
        let _ = self.inplace.pause(&mut self.loans);
    }

    pub(in crate::core) fn progress(&self, name: &str) -> Progress {
        match self.works.get(name) {
            Some(Work::Fpm) => self.inplace.progress(name),
            Some(Work::Generations(work)) => work.progress().clone(),
            Some(Work::Scheduled(work)) => work.progress().clone(),
            Some(Work::Services(work)) => work.progress().clone(),
            Some(Work::Strays(work)) => work.progress().clone(),
            None => Progress::Idle,
        }
    }
}

/// Whether a rollout is at this unit, and pays what it owes to it itself.
pub(super) fn owned<'m>(works: &'m BTreeMap<String, Work>, inplace: &'m InPlace) -> impl Fn(&str) -> bool + 'm {
    let at_work = |unit: &str| {
        works.values().any(|work| match work {
            Work::Fpm | Work::Strays(_) => false,
            Work::Generations(work) => work.owns(unit),
            Work::Scheduled(work) => work.owns(unit),
            Work::Services(work) => work.owns(unit),
        })
    };
    move |unit| at_work(unit) || inplace.owns(unit)
}
