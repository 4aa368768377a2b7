//! What `plan` said before a deploy is what the agent then does, as long as nothing fails.

use std::collections::BTreeMap;

use restart_agent::core::effect::{Effect, Looked};
use restart_agent::core::evidence::Source;
use restart_agent::core::memory::Memory;
use restart_agent::core::plan::{PlanSeen, plan};
use restart_agent::core::policy::{FpmRules, TargetRules};
use restart_agent::core::seen::PoolAnswers;
use restart_agent::core::serving;
use restart_agent::core::status::{PlanUnit, PlanView};

use crate::host::Host;
use crate::world::{MS, S, Us, World};

/// The agent's own turns, its looks and its reloads, on top of what the rules allow.
const SLACK: Us = 8 * S;

/// A plan, and where in the record of what was done it was made.
pub struct Planned {
    view: PlanView,
    at: Us,
    from: usize,
}

impl Planned {
    #[must_use]
    pub fn now(host: &mut Host) -> Planned {
        let memory = host.memory().clone();
        let seen = host.world.seen_for_plan(&memory);
        let view = plan(&host.policy, &memory, &seen, host.world.clock());
        Planned { view, at: host.world.now, from: host.done.len() }
    }

    /// Finds what was done otherwise than it was planned.
    pub fn compare(self, host: &mut Host) {
        let done: Vec<(Us, Effect)> = host.done[self.from..].to_vec();
        for planned in &self.view.units {
            for wrong in self.otherwise(host, planned, &done) {
                host.world.violates(format!("plan said of {}: {:?}, and {wrong}", planned.unit, planned.what));
            }
        }
        let unplanned = |unit: &str| {
            let generation = host.world.generation_rules(unit).is_some();
            !generation && !self.view.units.iter().any(|planned| planned.unit == unit)
        };
        let acts: Vec<String> = done.iter().filter_map(|(_, effect)| hits(effect)).filter(|unit| unplanned(unit)).collect();
        for unit in acts {
            host.world.violates(format!("{unit} was stopped, restarted or asked, and the plan did not name it"));
        }
    }

    fn otherwise(&self, host: &Host, planned: &PlanUnit, done: &[(Us, Effect)]) -> Vec<String> {
        let by = self.at + planned.deadline_ms * MS + SLACK;
        let on = |effect: &Effect| hits(effect).is_some_and(|unit| unit == planned.unit);
        let of = |what: fn(&Effect) -> bool| done.iter().filter(|(_, effect)| what(effect) && on(effect)).map(|(at, _)| *at).collect();
        let stops: Vec<Us> = of(|effect| matches!(effect, Effect::Stop { .. }));
        let restarts: Vec<Us> = of(|effect| matches!(effect, Effect::Restart { .. }));
        let asks: Vec<Us> = of(|effect| matches!(effect, Effect::AskToStop { .. }));
        let signals = planned.processes.first().map(|process| process.pid);
        let signals: Vec<Us> = done
            .iter()
            .filter(|(_, effect)| matches!(effect, Effect::Signal { process, .. } if Some(process.pid) == signals))
            .map(|(at, _)| *at)
            .collect();
        let mut wrong = Vec::new();
        let mut expect = |said: bool, was: bool, what: &str| {
            if said != was {
                wrong.push(format!("{what}: {was}"));
            }
        };
        match host.policy.targets.get(&planned.target) {
            Some(TargetRules::PhpFpm(_)) => {
                let renews = planned.what.contains("RestartUnit");
                expect(renews, restarts.len() == 1, "restarted once");
                for pool in host.policy.pools.keys() {
                    let out = done.iter().any(|(_, effect)| matches!(effect, Effect::Depool { pool: of, .. } if of == pool));
                    let back = done.iter().any(|(_, effect)| matches!(effect, Effect::Repool { pool: of, .. } if of == pool));
                    expect(renews && planned.what.contains("out of pool"), out && back, "taken out and put back");
                }
            }
            Some(TargetRules::Scheduled(_)) => {
                let asked = planned.what.contains("is asked to stop");
                expect(asked, !asks.is_empty(), "asked");
                // At its checkpoint it ends by itself.
                expect(planned.casualty_expected, !stops.is_empty() || (planned.casualty_expected && asked), "stopped");
            }
            Some(TargetRules::Service(_)) => {
                let asked = planned.what.contains("is asked to stop");
                expect(asked, !asks.is_empty(), "asked");
                let restart = planned.what.contains("RestartUnit");
                expect(restart, !restarts.is_empty() || (restart && asked), "restarted");
            }
            Some(TargetRules::Strays(_)) => expect(planned.casualty_expected, !signals.is_empty(), "sent a signal"),
            Some(TargetRules::Generations(_)) | None => {}
        }
        let late = stops.iter().chain(&restarts).chain(&signals).find(|at| **at > by);
        wrong.extend(late.map(|at| format!("it was done {:.1} s after its deadline", (at + SLACK - by) as f64 / 1e6)));
        wrong
    }
}

/// The unit that is stopped, restarted or asked by it.
fn hits(effect: &Effect) -> Option<String> {
    match effect {
        Effect::Stop { unit, .. }
        | Effect::Restart { unit, .. }
        | Effect::End { unit, .. }
        | Effect::Kill { unit, .. }
        | Effect::AskToStop { unit, .. } => Some(unit.clone()),
        _ => None,
    }
}

impl World {
    /// What the engine would read for a plan, all at one moment.
    fn seen_for_plan(&mut self, memory: &Memory) -> PlanSeen {
        let mut seen = PlanSeen::default();
        let targets: Vec<(String, TargetRules)> = self.policy.targets.clone().into_iter().collect();
        for (name, rules) in targets {
            match rules {
                TargetRules::PhpFpm(rules) => {
                    seen.units.insert(name.clone(), self.look(std::slice::from_ref(&rules.unit), Looked::Exactly));
                    seen.answers.extend(self.asked_for_plan(&rules).map(|answers| (name, answers)));
                }
                TargetRules::Scheduled(rules) => drop(seen.units.insert(name, self.look(&rules.units, Looked::WithTimers))),
                TargetRules::Service(rules) => drop(seen.units.insert(name, self.look(&rules.units, Looked::WithTimers))),
                TargetRules::Strays(rules) => drop(seen.strays.insert(name, self.living_strays(&rules.code))),
                TargetRules::Generations(rules) => {
                    let Some(generations) = self.see_generations(&rules.unit) else { continue };
                    let known = memory.targets.get(&name).cloned().unwrap_or_default();
                    let current = serving(&rules, &generations, &known).map(str::to_owned);
                    let answers = current.and_then(|current| self.asked_for_plan(&rules.of(&current)));
                    seen.answers.extend(answers.map(|answers| (name.clone(), answers)));
                    seen.generations.insert(name, generations);
                }
            }
        }
        seen
    }

    fn asked_for_plan(&mut self, rules: &FpmRules) -> Option<(Source, PoolAnswers)> {
        let layout = self.units.get(&rules.unit)?.as_fpm()?.layout(&self.listen(&rules.unit));
        let source = Source::choose(rules, Some(&layout));
        let mut answers = BTreeMap::new();
        for ask in &source.asks {
            answers.insert(ask.pool.clone(), self.status_page(&rules.unit, ask, true, false));
        }
        Some((source, answers)).filter(|(source, _)| source.asks())
    }
}
