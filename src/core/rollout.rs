//! The record of one rollout, as the entries of the journal make it: for status while it runs, and for history after.

use super::deploy::Deploy;
use super::entry::{Entry, Written};
use super::status::{PhaseView, RolloutView};
use super::time::Wall;

impl RolloutView {
    /// A rollout that has just begun.
    #[must_use]
    pub fn begun(id: &str, deploy: &Deploy, at: Wall, by: Option<&String>) -> RolloutView {
        RolloutView {
            id: id.to_owned(),
            deploy: deploy.id.clone(),
            started_at: at,
            finished_at: None,
            result: None,
            casualties: Vec::new(),
            phases: Vec::new(),
            units: Vec::new(),
            reason: deploy.reason.clone(),
            by: by.cloned(),
            why: None,
        }
    }

    /// Adds what one entry says of it; most say nothing.
    pub fn note(&mut self, written: &Written) {
        let at = written.at;
        match &written.entry {
            Entry::PhaseBegan { target, phase } => {
                self.phases.push(PhaseView { target: target.clone(), phase: phase.clone(), started_at: at, finished_at: None });
            }
            Entry::PhaseEnded { target, phase } => {
                let open = |view: &&mut PhaseView| view.finished_at.is_none() && view.target == *target && view.phase == *phase;
                if let Some(phase) = self.phases.iter_mut().rev().find(open) {
                    phase.finished_at = Some(at);
                }
            }
            Entry::UnitEnded(outcome) => {
                self.units.retain(|other| other.unit != outcome.unit || other.target != outcome.target);
                self.units.push(outcome.clone());
            }
            Entry::Casualty(casualty) => self.casualties.push(casualty.clone()),
            Entry::RolloutFinished { result, why } => {
                self.finished_at = Some(at);
                // The phase in which it failed or was given up ends with it.
                for phase in self.phases.iter_mut().filter(|phase| phase.finished_at.is_none()) {
                    phase.finished_at = Some(at);
                }
                self.result = Some(*result);
                self.why.clone_from(why);
            }
            _ => {}
        }
    }
}
