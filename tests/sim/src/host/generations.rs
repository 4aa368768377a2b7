//! What holds for generations, as far as it takes both the agent's memory and the world to say.

use std::collections::BTreeMap;

use restart_agent::core::effect::Effect;
use restart_agent::core::policy::TargetRules;
use restart_agent::core::seen::Active;
use restart_agent::core::status::TargetState;

use super::{Host, MS, S, Us};
use crate::check::us;
use crate::world::{Answers, Template};

/// So long after its last work one that serves no more has ended.
const IDLE_ENDS: Us = 30 * S;

impl Host {
    /// A hold begins nothing and cuts nothing.
    pub(super) fn check_held(&mut self, effect: &Effect) {
        let (Effect::Restart { unit, .. } | Effect::End { unit, .. }) = effect else { return };
        let Some((target, _)) = self.world.generation_rules(unit) else { return };
        if !self.memory().holds(&target) {
            return;
        }
        match effect {
            Effect::Restart { .. } => self.world.violates(format!("the agent starts {unit}, though {target} is held")),
            _ => {
                if let Some(work) = self.world.at_work(unit, 400_000) {
                    self.world.violates(format!("the agent stops {unit} with {work} in flight, though {target} is held"));
                }
            }
        }
    }

    /// Of each template one serves, and whatever else runs finishes what it has.
    pub(super) fn generations_at_rest(&mut self) {
        let status = self.status();
        let memory = self.memory().clone();
        let targets: Vec<_> = self.policy.targets.clone().into_iter().collect();
        for (name, rules) in targets {
            let TargetRules::Generations(rules) = rules else { continue };
            let Some(template) = self.world.templates.get(&rules.unit).cloned() else { continue };
            let Some(of) = memory.targets.get(&name) else { continue };
            let views = status.targets.iter().find(|target| target.name == name).map(|target| target.units.clone()).unwrap_or_default();
            let current = template.current().filter(|unit| self.world.listens(unit));
            match &current {
                Some(unit) if self.world.units[unit].active != Active::Active => {
                    self.world.violates(format!("at rest the symlink leads to {unit}, which is {:?}", self.world.units[unit].active));
                }
                Some(unit) if !views.iter().any(|view| view.unit == *unit) => {
                    self.world.violates(format!("at rest {unit} serves, and status does not show it: {views:?}"));
                }
                Some(_) => {}
                // Whoever runs takes what comes to the socket of all.
                None if template.shared && self.world.running(&rules.unit).iter().any(|unit| self.world.listens(unit)) => {}
                None if template.stopped_by_person && views.iter().any(|view| view.why.contains("somebody has stopped it")) => {}
                None => self.world.violates(format!("at rest no generation of {name} serves: {:?}, {views:?}", template.leads_to)),
            }
            for unit in self.world.running(&rules.unit).into_iter().filter(|unit| Some(unit) != current.as_ref()) {
                let since = template.left.get(&unit).copied().unwrap_or(0);
                let over = since + us(rules.linger) + us(rules.term_timeout) + 60 * S;
                let shown = views.iter().any(|view| view.unit == unit && view.state == TargetState::Lingering);
                if !shown || !of.lingering.contains_key(&unit) {
                    self.world.violates(format!("{unit} runs, does not serve, and nobody says that it lingers: {views:?}"));
                } else if self.world.at_work(&unit, 0).is_none() || self.world.now > over {
                    self.world.violates(format!("{unit} still runs, with nothing to finish"));
                }
            }
            let known = of.lingering.keys().chain(of.fresh.keys()).chain(&of.started);
            let gone: Vec<String> =
                known.filter(|unit| !self.world.units.get(*unit).is_some_and(|unit| unit.active.runs())).cloned().collect();
            if !gone.is_empty() {
                self.world.violates(format!("at rest the memory still knows of {}", gone.join(", ")));
            }
            if of.starting.is_some() {
                self.world.violates(format!("at rest {:?} is still being started", of.starting));
            }
        }
    }

    /// The same as [`Host::run_until`], and whoever serves no more, and has nothing to finish, does not wait for its linger.
    pub(super) fn run_until_idle_ones_have_ended(&mut self, span: Us, holds: impl Fn(&Host) -> bool) {
        let mut idle: BTreeMap<String, Us> = BTreeMap::new();
        let until = self.world.now + span;
        while self.world.now < until && self.world.wrong.is_empty() && !self.generations_quiet() && !self.run_until(S, &holds) {
            let now = self.world.now;
            let old = self.idle_ones();
            idle.retain(|unit, _| old.contains(unit));
            for unit in old {
                if now > *idle.entry(unit.clone()).or_insert(now) + IDLE_ENDS {
                    return self.world.violates(format!("{unit} has had nothing to finish for {} s, and is not ended", IDLE_ENDS / S));
                }
            }
        }
    }

    /// Those that nobody will need any more, as far as the agent can know: they tell what they are at, and no look is so old when it comes that it tells nothing of children.
    fn idle_ones(&self) -> Vec<String> {
        let look_takes = 6 * MS * (1 + self.world.faults.slowness) + self.world.faults.look_takes;
        if self.machine.is_none()
            || look_takes >= 200 * MS
            || self.memory().rollout.is_some()
            || self.memory().hold.is_some()
            || self.one_is_watched()
            || !self.all_serve()
        {
            return Vec::new();
        }
        let ours = |unit: &str| self.world.generation_rules(unit).is_some();
        let of = |template: &Template| {
            let current = template.current();
            self.world.running(&template.unit).into_iter().filter(move |unit| Some(unit) != current.as_ref())
        };
        let idle = |unit: &String| {
            let of = &self.world.units[unit];
            let tells = of.as_fpm().is_some_and(|fpm| fpm.has_status && fpm.status == Answers::Well);
            // Where the one of the boot would have a second pool, by what its configuration says now, nobody answers.
            let asked = self.world.template_of(unit).is_some_and(|template| template.second_pool.is_none());
            ours(unit) && tells && asked && of.active == Active::Active && of.stop.is_none() && self.world.at_work(unit, 0).is_none()
        };
        // Where a person has stopped the one that served, the last one that could serve is kept.
        let served = self.world.templates.values().filter(|template| self.is_served(template));
        served.flat_map(of).filter(idle).collect()
    }

    /// Nothing lingers, and nothing is being started.
    pub(super) fn generations_quiet(&self) -> bool {
        self.memory().targets.values().all(|target| target.starting.is_none() && target.lingering.is_empty())
    }

    /// One that has just begun to serve is seen to that it stays up: until then the one before does not linger.
    pub(super) fn one_is_watched(&self) -> bool {
        let status = self.status();
        let of_generations =
            status.targets.iter().filter(|target| matches!(self.policy.targets.get(&target.name), Some(TargetRules::Generations(_))));
        of_generations.flat_map(|target| &target.units).any(|view| view.state == TargetState::Verifying)
    }

    fn is_served(&self, template: &Template) -> bool {
        template.current().is_some_and(|unit| self.world.listens(&unit))
    }

    /// One of each template serves, unless a person has stopped it and the agent leaves it at that.
    pub(super) fn all_serve(&self) -> bool {
        self.world.templates.values().all(|template| self.is_served(template) || (template.stopped_by_person && self.is_left(template)))
    }

    /// Status says so of the target that it is of.
    fn is_left(&self, template: &Template) -> bool {
        let its =
            |name: &String| matches!(self.policy.targets.get(name), Some(TargetRules::Generations(rules)) if rules.unit == template.unit);
        let targets = self.status().targets.into_iter().filter(|target| its(&target.name));
        targets.flat_map(|target| target.units).any(|view| view.why.contains("somebody has stopped it"))
    }
}
