use crate::core::effect::{Effect, EffectId, Outcome};
use crate::core::entry::Entry;
use crate::core::memory::Memory;
use crate::core::policy::Policy;
use crate::core::seen::{Active, Dependent, UnitSeen};
use crate::core::step::{Step, Turn};
use crate::core::time::{Mono, Now, Wall};

use super::Debts;

const SCRIPT: &str = "dump.service";

struct Stage {
    debts: Debts,
    memory: Memory,
    now: Now,
    next: u64,
}

impl Stage {
    fn turn<T>(&mut self, act: impl FnOnce(&mut Debts, &mut Turn<'_>) -> T) -> (T, Vec<(EffectId, Effect)>) {
        let (policy, mut step) = (Policy::default(), Step::default());
        let mut turn = Turn {
            now: self.now,
            policy: &policy,
            memory: &mut self.memory,
            step: &mut step,
            next_effect: &mut self.next,
            journal_good: true,
        };
        let given = act(&mut self.debts, &mut turn);
        (given, step.effects)
    }

    /// The next look at the script finds this. What is done then.
    fn look(&mut self, active: Active, job: bool) -> Vec<Effect> {
        let seen = UnitSeen { unit: SCRIPT.to_owned(), active, job, ..UnitSeen::default() };
        self.now.mono = self.debts.deadline(&self.memory).map_or(self.now.mono, |deadline| deadline.at.max(self.now.mono));
        let ((), asked) = self.turn(|debts, turn| debts.advance(turn, false, false, &|_| false));
        let [(id, Effect::Look { .. })] = asked.as_slice() else { panic!("{asked:?}") };
        let (_, effects) = self.turn(|debts, turn| debts.outcome(turn, *id, &Outcome::Units(vec![seen]), &|_| false));
        effects.into_iter().map(|(_, effect)| effect).collect()
    }
}

fn taken_down(bound: bool) -> Stage {
    let now = Now { mono: Mono(1_000_000), wall: Wall(1_000_000) };
    let mut stage = Stage { debts: Debts::default(), memory: Memory::default(), now, next: 1 };
    let dependents = vec![Dependent { unit: "report.service".to_owned(), bound }];
    stage.turn(|_, turn| turn.record(Entry::TakesDown { unit: SCRIPT.to_owned(), dependents }));
    stage
}

#[test]
fn what_is_bound_to_a_script_waits_for_a_start_that_systemd_has_taken_and_not_begun() {
    let mut stage = taken_down(true);
    assert_eq!(stage.look(Active::Inactive, true), []);
    assert!(!stage.memory.taken_down.is_empty(), "it was given up");
    assert_eq!(stage.look(Active::Activating, true), [Effect::StartAlone { unit: "report.service".to_owned() }]);
}

#[test]
fn what_is_bound_to_a_script_that_stays_down_stays_down() {
    let mut stage = taken_down(true);
    assert_eq!(stage.look(Active::Inactive, false), []);
    assert!(stage.memory.taken_down.is_empty());
}

#[test]
fn what_only_requires_a_script_does_not_wait_for_it() {
    let mut stage = taken_down(false);
    assert_eq!(stage.look(Active::Inactive, true), [Effect::StartAlone { unit: "report.service".to_owned() }]);
}
