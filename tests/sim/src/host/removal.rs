//! The removal of the package: the agent that runs then begins nothing, pays what is owed, and is gone.

use std::collections::BTreeSet;

use restart_agent::core::effect::Effect;
use restart_agent::core::memory::Memory;

use super::model::owed;
use super::{Deed, Host};
use crate::world::{S, Us, World};

/// As long as the package waits.
const AT_MOST: Us = 120 * S;
/// Whatever was asked of others has come about by then.
const ARRIVES: Us = 5 * S;

/// How far it is.
#[derive(Debug, Default)]
pub(super) struct Removal {
    pub under_way: bool,
    pub over: bool,
    /// What had been begun before.
    begun: BTreeSet<String>,
}

impl Removal {
    pub(super) fn begins(&mut self, memory: &Memory) {
        let restarted = memory.unproven.keys().chain(&memory.maybe_down);
        let strays = memory.strays.iter().map(|cut| cut.process.pid.to_string());
        self.begun = memory.cutting.keys().chain(restarted).cloned().chain(strays).collect();
    }
}

impl Host {
    /// Whatever agent starts from now on is the one that the package starts before it goes.
    pub fn remove_package(&mut self) {
        self.removal.under_way = true;
        self.world.hurried = true;
    }

    /// It ends what it has begun, and begins nothing else.
    pub(super) fn check_removal(&mut self, effect: &Effect) {
        let begun = |unit: &str| self.removal.begun.contains(unit);
        let begins = match effect {
            Effect::Stop { unit, .. } | Effect::Restart { unit, .. } => !begun(unit),
            Effect::Signal { process, .. } => !begun(&process.pid.to_string()),
            Effect::AskToStop { .. } | Effect::Depool { .. } | Effect::KeepQuiet { .. } | Effect::Lend { .. } => true,
            _ => false,
        };
        if self.removal.under_way && begins {
            self.world.violates(format!("the package is being removed, and the agent asks for {effect:?}"));
        }
    }

    /// As soon as nothing is owed it ends.
    pub(super) fn goes_when_settled(&mut self) {
        if self.machine.as_ref().is_some_and(|machine| machine.settled() && self.outstanding.is_empty()) {
            self.world.say(|| "== the agent is removed".to_owned());
            self.machine = None;
            self.removal.over = true;
            self.world.epoch += 1;
            // What systemd has been told to start begins in a moment, and what a balancer was told arrives.
            let look = |world: &mut World| {
                for left in world.left_over() {
                    world.violates(format!("the agent is removed, and {left}"));
                }
            };
            self.later(ARRIVES, Deed::World("it is seen what the agent has left", Box::new(look)));
        }
    }

    /// Nothing stands in its way any more.
    pub fn must_be_removed(&mut self) {
        self.world.heal();
        self.disk_good();
        let over = self.run_until(AT_MOST, |host| host.removal.over);
        self.run(2 * ARRIVES);
        // Whether one that goes on, with what keeps its later commands from running, is owed another run is known when it has ended.
        let waits = |host: &Host| {
            let owed = host.machine.as_ref().map(owed).unwrap_or_default();
            !host.owes_runs() && owed.iter().all(|what| ["reruns", "a rollout", "wait"].contains(what))
        };
        if !over && !waits(self) && self.world.wrong.is_empty() {
            let owed = self.machine.as_ref().map(owed).unwrap_or_default().join(", ");
            self.world.violates(format!("the agent is to be removed, and still owes {owed}"));
        }
    }
}
