//! What runs of each target while nothing is at work on it, so that status can say it from the agent's start on.
//!
//! One look at each target: when the agent starts, when its configuration was read again, when the work on it is over or held, and when a
//! deploy has landed that waits for a hold. Else nothing is looked at at rest, unless that look failed, or something stands in the way of the
//! next deploy: then again, two seconds or a minute later, until it is mended.

use std::collections::BTreeMap;
use std::time::Duration;

use super::effect::{Effect, EffectId, Looked, Outcome};
use super::inplace::untouchable;
use super::machine::{Machine, Work, turn};
use super::policy::TargetRules;
use super::seen::{ProcessSeen, UnitSeen};
use super::stale::carries;
use super::step::{Deadline, Step, Turn, earliest};
use super::target::{Progress, is_of};
use super::time::{Mono, Now, Wall};

/// As long as a unit could not be renewed as it is.
const AGAIN: Duration = Duration::from_secs(60);
/// After a look that failed: until then status cannot say what goes on with old code.
const RETRY: Duration = Duration::from_secs(2);

/// What was seen of the targets at rest.
#[derive(Debug, Default)]
pub struct Survey {
    targets: BTreeMap<String, Surveyed>,
}

#[derive(Debug, Default)]
struct Surveyed {
    /// The look under way, and when it was asked for: it tells what was at some time from then on.
    pending: Option<(EffectId, Mono)>,
    rest: Option<AtRest>,
    /// The next look; `None`: there is no need of one.
    next: Option<Mono>,
    trouble: Option<String>,
}

/// The units of one target that run; of php-fpm its one unit, whether it runs or not.
#[derive(Debug, Clone, Default)]
pub struct AtRest {
    pub at: Wall,
    pub looked: Mono,
    pub units: Vec<Resting>,
}

/// One unit, with its processes that carry deployed code, and when the oldest of these started: told in wall time once, or status would differ a little each time.
#[derive(Debug, Clone)]
pub struct Resting {
    pub seen: UnitSeen,
    pub oldest: Option<Wall>,
}

impl Survey {
    /// What was seen of a target since it was last worked on.
    #[must_use]
    pub fn of(&self, target: &str) -> Option<&AtRest> {
        self.targets.get(target)?.rest.as_ref()
    }

    /// All is looked at again; what was seen is shown until then.
    pub fn again(&mut self) {
        self.targets.values_mut().for_each(|target| target.next = Some(Mono::BOOT));
    }

    pub fn trouble(&self) -> impl Iterator<Item = &str> {
        self.targets.values().filter_map(|target| target.trouble.as_deref())
    }

    /// Whether this was the outcome of a look of this survey.
    pub fn outcome(&mut self, now: Now, rules: &BTreeMap<String, TargetRules>, id: EffectId, outcome: &Outcome) -> bool {
        let ours = |target: &Surveyed| target.pending.is_some_and(|(pending, _)| pending == id);
        let Some((name, target)) = self.targets.iter_mut().find(|(_, target)| ours(target)) else { return false };
        let Some((_, asked)) = target.pending.take() else { return false };
        match (outcome, rules.get(name)) {
            (Outcome::Units(units), Some(rules)) => {
                let stuck = matches!(rules, TargetRules::PhpFpm(_)) && units.iter().any(|unit| untouchable(unit).is_some());
                // A reload may have wanted another look while this one was under way.
                target.next = target.next.or(stuck.then(|| now.mono.after(AGAIN)));
                target.trouble = None;
                let units = units.iter().filter(|unit| shown(rules, unit)).map(|unit| Resting::of(unit, rules, now)).collect();
                target.rest = Some(AtRest { at: now.wall, looked: asked, units });
            }
            (other, _) => {
                target.next = Some(now.mono.after(RETRY));
                target.trouble = Some(format!("cannot look at the units of {name}: {}", other.said()));
            }
        }
        true
    }
}

impl Resting {
    fn of(unit: &UnitSeen, rules: &TargetRules, now: Now) -> Resting {
        let carriers = || unit.processes.iter().filter(|process| carries(rules.code(), process));
        let oldest = match rules {
            TargetRules::PhpFpm(_) => Some(unit.main_start).filter(|_| unit.main_pid != 0),
            TargetRules::Generations(_) | TargetRules::Scheduled(_) | TargetRules::Service(_) | TargetRules::Strays(_) => {
                carriers().map(|process| process.start).min()
            }
        };
        // What nobody asks for at rest is not kept: there may be hundreds of them.
        let nameless = |process: &ProcessSeen| ProcessSeen { comm: String::new(), argv0: None, ..process.clone() };
        let seen = UnitSeen {
            unit: unit.unit.clone(),
            invocation: unit.invocation.clone(),
            load: unit.load,
            active: unit.active,
            main_pid: unit.main_pid,
            main_start: unit.main_start,
            processes: carriers().map(nameless).collect(),
            refuse_manual_start: unit.refuse_manual_start,
            refuse_manual_stop: unit.refuse_manual_stop,
            ..UnitSeen::default()
        };
        Resting { seen, oldest: oldest.map(|at| now.wall_of(at)) }
    }
}

fn shown(rules: &TargetRules, unit: &UnitSeen) -> bool {
    let (units, exclude) = match rules {
        TargetRules::PhpFpm(rules) => return unit.unit == rules.unit,
        TargetRules::Scheduled(rules) => (&rules.units, &rules.exclude),
        TargetRules::Service(rules) => (&rules.units, &rules.exclude),
        TargetRules::Generations(_) | TargetRules::Strays(_) => return false,
    };
    !unit.processes.is_empty() && is_of(units, exclude, &unit.unit)
}

impl Machine {
    /// Looks at the targets that rest and have not been looked at since they do.
    pub(super) fn look_at_rest(&mut self, now: Now, step: &mut Step) {
        self.survey.targets.retain(|name, _| self.works.contains_key(name));
        if self.settling() {
            return;
        }
        for name in self.works.keys().cloned().collect::<Vec<_>>() {
            if self.progress(&name) == Progress::Working {
                // As soon as the work has looked for itself, it knows better.
                if !self.gathers(&name) {
                    self.survey.targets.remove(&name);
                } else if let Some(target) = self.survey.targets.get_mut(&name) {
                    target.next = Some(Mono::BOOT);
                }
                continue;
            }
            let due = match self.survey.targets.get(&name) {
                None => true,
                Some(target) if target.pending.is_some() => false,
                Some(target) => {
                    target.next.is_some_and(|next| next <= now.mono) || self.waits_since(target) || self.changed_since(&name, target)
                }
            };
            if !due || !self.rests(&name) {
                continue;
            }
            let (units, looked) = match self.policy.targets.get(&name) {
                Some(TargetRules::PhpFpm(rules)) => (vec![rules.unit.clone()], Looked::Exactly),
                Some(TargetRules::Scheduled(rules)) => (rules.units.clone(), Looked::Running),
                Some(TargetRules::Service(rules)) => (rules.units.clone(), Looked::Running),
                // How they are, their work tells on by itself.
                Some(TargetRules::Generations(_) | TargetRules::Strays(_)) | None => continue,
            };
            let names = self.policy.targets.get(&name).is_some_and(|rules| !rules.code().is_empty());
            let id = turn!(self, now, step).ask(Effect::Look { units, looked, cgroups: BTreeMap::new(), names });
            let target = self.survey.targets.entry(name).or_default();
            target.pending = Some((id, now.mono));
            target.next = None;
        }
    }

    pub(super) fn look_at_rest_deadline(&self) -> Option<Deadline> {
        let due = |(name, target): (&String, &Surveyed)| {
            let next = target.next.filter(|_| target.pending.is_none() && self.progress(name) != Progress::Working && self.rests(name))?;
            Some(Deadline::new(next, format!("{name}: look again at what stands in its way")))
        };
        earliest(self.survey.targets.iter().map(due))
    }

    /// A deploy has landed since it was looked at, and waits for a hold: what runs has changed its age, and may have changed.
    fn waits_since(&self, target: &Surveyed) -> bool {
        let looked = target.rest.as_ref().map(|rest| rest.looked);
        let waits = self.pending.as_ref().filter(|_| self.memory.hold.is_some());
        waits.is_some_and(|pending| target.next.is_none() && looked.is_some_and(|looked| looked < pending.last))
    }

    /// One that was left has ended, or somebody has restarted it.
    fn changed_since(&self, name: &str, target: &Surveyed) -> bool {
        let changed = match self.works.get(name) {
            Some(Work::Scheduled(work)) => work.changed(),
            Some(Work::Services(work)) => work.changed(),
            Some(Work::Fpm | Work::Generations(_) | Work::Strays(_)) | None => None,
        };
        target.next.is_none() && target.rest.as_ref().zip(changed).is_some_and(|(rest, changed)| rest.looked < changed)
    }

    /// Nothing is at work on it, nor will be before something happens.
    fn rests(&self, name: &str) -> bool {
        !self.settling() && (self.memory.rollout.is_none() || self.held(name))
    }

    /// Whether its work has still to look at its units for what is wanted now.
    pub(super) fn gathers(&self, name: &str) -> bool {
        match self.works.get(name) {
            Some(Work::Fpm) => self.inplace.gathering(),
            Some(Work::Generations(work)) => work.gathering(),
            Some(Work::Scheduled(work)) => work.gathering(),
            Some(Work::Services(work)) => work.gathering(),
            Some(Work::Strays(work)) => work.gathering(),
            None => false,
        }
    }
}
