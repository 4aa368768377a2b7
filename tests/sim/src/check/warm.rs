//! Each script that warms a php-fpm is requested once, one after the other, before it is told to serve.

use restart_agent::core::effect::FpmRequest;
use restart_agent::core::policy::{ProofRules, TargetRules};

use crate::world::{By, MINUTE, S, World};

impl World {
    pub(crate) fn note_script(&mut self, unit: &str, request: &FpmRequest) {
        let FpmRequest::Script { script } = request else { return };
        let Some(run) = self.units.get(unit).map(|unit| unit.invocation.clone()) else { return };
        self.scripts.entry((run, self.epoch)).or_default().push(script.clone());
    }

    /// The agent says that it has proven this run.
    pub(crate) fn must_be_warm(&mut self, unit: &str) {
        let Some(of) = self.units.get(unit) else { return };
        let (warm, proof): (Vec<String>, Option<ProofRules>) = match self.target_of(unit) {
            Some((_, TargetRules::PhpFpm(rules))) => (rules.warm, rules.proof),
            Some((_, TargetRules::Generations(rules))) => (rules.warm, rules.proof),
            _ => return,
        };
        // What is under way when the rules change goes on by those with which it began; and what the agent has not restarted needs no warming.
        let by = of.runs.last().map(|(_, by)| *by);
        let ours = self.sent.get(unit).is_some_and(|sent| of.main_start >= *sent) && by != Some(By::Person);
        let changed = self.policy_changed > 0 && self.now < self.policy_changed + 3 * MINUTE;
        // What systemd has just started again is not what was looked at.
        let again = by != Some(By::Agent) && self.now < of.main_start + self.unknowable();
        if changed || !ours || again || self.now < of.main_start + S / 10 {
            return;
        }
        // Each agent that proves it asks for all of them; one that has not restarted it after all may go by what an earlier one has proven.
        let of_it = |script: &&String| proof.as_ref().is_none_or(|proof| proof.script != **script);
        let by_agent = self.scripts.iter().filter(|((run, _), _)| *run == of.invocation);
        let asked: Vec<Vec<String>> = by_agent.map(|(_, asked)| asked.iter().filter(of_it).cloned().collect()).collect();
        let wrong =
            if warm.is_empty() { asked.iter().any(|asked| !asked.is_empty()) } else { !asked.iter().any(|asked| asked.ends_with(&warm)) };
        if wrong {
            self.violates(format!("{unit} is said to serve, was to be warmed by {warm:?}, and was asked for {asked:?}"));
        }
    }
}
