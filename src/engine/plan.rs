//! A plan: looks at everything a deploy would touch, touches nothing, and lets core say what would happen.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::World;
use crate::core::effect::{Effect, Looked, Outcome};
use crate::core::evidence::Source;
use crate::core::memory::{Memory, TargetMemory};
use crate::core::plan::{PlanSeen, plan};
use crate::core::policy::{FpmRules, GenerationRules, Policy, TargetRules};
use crate::core::seen::{GenerationsSeen, PoolAnswers};
use crate::core::serving;
use crate::core::status::PlanView;

const ASK: Duration = Duration::from_secs(1);

pub(super) async fn make<W: World>(world: Arc<W>, policy: Policy, memory: Memory) -> PlanView {
    let mut seen = PlanSeen::default();
    for (name, rules) in &policy.targets {
        let (units, looked) = match rules {
            TargetRules::PhpFpm(rules) => (vec![rules.unit.clone()], Looked::Exactly),
            TargetRules::Scheduled(rules) => (rules.units.clone(), Looked::WithTimers),
            TargetRules::Service(rules) if rules.cooperates() => (rules.units.clone(), Looked::WithTimers),
            TargetRules::Service(rules) => (rules.units.clone(), Looked::Running),
            TargetRules::Generations(rules) => {
                match see_generations(&*world, rules, memory.targets.get(name)).await {
                    Ok((generations, answers)) => {
                        seen.generations.insert(name.clone(), generations);
                        seen.answers.extend(answers.map(|answers| (name.clone(), answers)));
                    }
                    Err(why) => {
                        seen.faults.insert(name.clone(), why);
                    }
                }
                continue;
            }
            TargetRules::Strays(rules) => {
                match world.perform(Effect::FindStrays { code: rules.code.clone() }).await {
                    Outcome::Strays(strays) => {
                        seen.strays.insert(name.clone(), strays);
                    }
                    other => {
                        seen.faults.insert(name.clone(), other.said());
                    }
                }
                continue;
            }
        };
        match world.perform(Effect::Look { units, looked, cgroups: BTreeMap::new(), names: !rules.code().is_empty() }).await {
            Outcome::Units(units) => {
                let running = units.iter().filter(|unit| !unit.processes.is_empty());
                let timers: Vec<String> = running.flat_map(|unit| &unit.timers).map(|timer| timer.unit.clone()).collect();
                if !timers.is_empty()
                    && let Outcome::Schedules(schedules) = world.perform(Effect::Schedules { timers }).await
                {
                    seen.schedules.extend(schedules);
                }
                seen.units.insert(name.clone(), units);
            }
            Outcome::Fault(fault) => {
                seen.faults.insert(name.clone(), fault.to_string());
            }
            _ => {}
        }
        if let TargetRules::PhpFpm(rules) = rules
            && let Some(answers) = ask(&*world, rules).await
        {
            seen.answers.insert(name.clone(), answers);
        }
    }
    plan(&policy, &memory, &seen, world.now())
}

async fn ask<W: World>(world: &W, rules: &FpmRules) -> Option<(Source, PoolAnswers)> {
    let layout = match world.perform(Effect::Inspect { unit: rules.unit.clone() }).await {
        Outcome::Layout(layout) => Some(layout),
        _ => None,
    };
    let source = Source::choose(rules, layout.as_ref());
    if !source.asks() {
        return None;
    }
    match world.perform(Effect::AskPools { asks: source.asks.clone(), full: true, timeout: ASK }).await {
        Outcome::Pools(answers) => Some((source, answers)),
        _ => None,
    }
}

/// The generations, and what is in flight in the one that serves.
async fn see_generations<W: World>(
    world: &W,
    rules: &GenerationRules,
    memory: Option<&TargetMemory>,
) -> Result<(GenerationsSeen, Option<(Source, PoolAnswers)>), String> {
    let seen = world.perform(Effect::SeeGenerations { template: rules.unit.clone(), socket: rules.socket.clone() }).await;
    let Outcome::Generations(seen) = seen else { return Err(seen.said()) };
    let answers = match serving(rules, &seen, &memory.cloned().unwrap_or_default()) {
        Some(unit) => ask(world, &rules.of(unit)).await,
        None => None,
    };
    Ok((*seen, answers))
}
