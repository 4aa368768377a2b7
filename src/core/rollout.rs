//! The record of one rollout, as the entries of the journal make it: for status while it runs, and for history after.

use std::collections::BTreeMap;

use super::deploy::Deploy;
use super::entry::{Entry, Written};
use super::status::{FlightView, PhaseView, RolloutView};
use super::time::Wall;

/// How many values of [`RolloutView::flights`] are kept: some 35 kB of the database.
const FLIGHTS_KEPT: usize = 400;

impl RolloutView {
    /// The same by a wall clock that was set ahead by so many microseconds.
    pub fn moved(&mut self, by: i64) {
        self.started_at = self.started_at.moved(by);
        for phase in &mut self.phases {
            phase.started_at = phase.started_at.moved(by);
            phase.finished_at = phase.finished_at.map(|at| at.moved(by));
        }
    }

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
            flights: Vec::new(),
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
            Entry::InFlight { unit, in_flight, .. } => {
                self.flights.push(FlightView { unit: unit.clone(), at, in_flight: *in_flight });
                self.thin();
            }
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

    /// Keeps the flights few: the unit with the most of them loses every second one, its first and its last aside.
    fn thin(&mut self) {
        if self.flights.len() <= FLIGHTS_KEPT {
            return;
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for flight in &self.flights {
            *counts.entry(&flight.unit).or_default() += 1;
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count).map(|(unit, count)| (unit.to_owned(), count));
        let Some((unit, count)) = most.filter(|(_, count)| *count > 2) else { return drop(self.flights.pop()) };
        let mut nth = 0;
        self.flights.retain(|flight| {
            nth += usize::from(flight.unit == unit);
            flight.unit != unit || nth % 2 == 1 || nth == count
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::deploy::Scope;
    use crate::core::time::Mono;

    #[test]
    fn flights_are_few_and_the_first_and_the_last_are_among_them() {
        let deploy =
            Deploy { id: "v1".to_owned(), landed_at: Wall(0), landed: Mono(0), targets: Scope::All, forced: Scope::none(), reason: None };
        let mut view = RolloutView::begun("r0", &deploy, Wall(0), None);
        let mut note = |unit: &str, at: u32| {
            let entry = Entry::InFlight { rollout: None, target: "a".to_owned(), unit: unit.to_owned(), in_flight: at };
            view.note(&Written { at: Wall(at.into()), entry });
        };
        (0..3).for_each(|at| note("seldom", at));
        (0..100_000).for_each(|at| note("often", at));
        (0..100).for_each(|unit| note(&format!("u{unit}"), 7));
        let of = |name: &str| view.flights.iter().filter(|flight| flight.unit == name).map(|flight| flight.in_flight).collect::<Vec<_>>();
        assert_eq!(of("seldom"), [0, 1, 2]);
        assert_eq!((of("often").first(), of("often").last()), (Some(&0), Some(&99_999)));
        assert!((FLIGHTS_KEPT / 2..=FLIGHTS_KEPT).contains(&view.flights.len()), "{}", view.flights.len());
        assert_eq!(of("u0"), [7]);
    }
}
