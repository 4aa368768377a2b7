//! What a target excludes is nobody's: nothing is done to it, nor told of it.

use restart_agent::core::effect::{Effect, UnitsOf};
use restart_agent::core::entry::Entry;
use restart_agent::core::generation_name;
use restart_agent::core::policy::{Policy, TargetRules};

use super::{covers, matches};
use crate::world::World;

fn named(policy: &Policy, name: &str) -> bool {
    policy.targets.values().any(|rules| match rules {
        TargetRules::Scheduled(rules) => rules.units.iter().any(|pattern| matches(pattern, name)),
        TargetRules::Service(rules) => rules.units.iter().any(|pattern| matches(pattern, name)),
        _ => false,
    })
}

/// Some target's, or excluded by it.
pub(super) fn concerns(policy: &Policy, name: &str) -> bool {
    let any = |rules: &TargetRules| match rules {
        TargetRules::PhpFpm(rules) => rules.unit == name,
        TargetRules::Generations(rules) => generation_name::instance_of(&rules.unit, name).is_some(),
        _ => false,
    };
    named(policy, name) || policy.targets.values().any(any)
}

fn covered(policy: &Policy, name: &str) -> bool {
    policy.targets.values().any(|rules| match rules {
        TargetRules::Scheduled(rules) => covers(&rules.units, &rules.exclude, name),
        TargetRules::Service(rules) => covers(&rules.units, &rules.exclude, name),
        _ => false,
    })
}

impl World {
    /// By its name it would be a target's, and by no rules that there have been it was.
    #[must_use]
    pub fn is_excluded(&self, name: &str) -> bool {
        let mut all = self.formers.iter().map(|(_, former)| former).chain([&self.policy]);
        named(&self.policy, name) && !all.any(|policy| covered(policy, name))
    }

    /// Whatever the agent does to the host, it does it to none of them.
    pub(crate) fn agent_may_do(&mut self, effect: &Effect) {
        let of = |waits: &[UnitsOf]| {
            let ours = |name: &&String| waits.iter().any(|of| restart_agent::core::is_of(&of.units, &of.exclude, name));
            self.units.keys().filter(ours).cloned().collect()
        };
        let names: Vec<String> = match effect {
            Effect::Stop { unit, .. }
            | Effect::Restart { unit, .. }
            | Effect::End { unit, .. }
            | Effect::EndLater { unit, .. }
            | Effect::Start { unit }
            | Effect::StartAlone { unit }
            | Effect::ResetFailed { unit }
            | Effect::Kill { unit, .. }
            | Effect::AskToStop { unit, .. }
            | Effect::Unask { unit, .. }
            | Effect::KeepQuiet { unit }
            | Effect::LetRun { unit } => vec![unit.clone()],
            Effect::Lend { drop_ins } => drop_ins.keys().cloned().collect(),
            Effect::Unlend { units } => units.clone(),
            Effect::HoldStarts { waits, .. } => of(waits),
            Effect::MakeLocks { of: locks } => of(locks),
            _ => return,
        };
        if let Some(name) = names.iter().find(|name| self.is_excluded(name)) {
            self.violates(format!("{name} is excluded, and the agent asks for {effect:?}"));
        }
    }

    /// Nor is anything of them written down.
    pub(crate) fn agent_may_write(&mut self, entry: &Entry) {
        let unit = match entry {
            Entry::Casualty(casualty) => &casualty.unit,
            Entry::UnitEnded(outcome) => &outcome.unit,
            Entry::RerunOwed { unit, .. } | Entry::Cutting { unit, .. } => unit,
            _ => return,
        };
        if self.is_excluded(unit) {
            self.violates(format!("{unit} is excluded, and the journal says {entry:?}"));
        }
    }
}
