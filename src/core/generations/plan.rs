//! What a deploy right now would do to the generations of a target.

use std::time::Duration;

use super::looks::{runs, serving};
use super::room::megabytes;
use crate::core::evidence::Source;
use crate::core::memory::TargetMemory;
use crate::core::plan::{in_flight, millis, processes};
use crate::core::policy::{AtMax, GenerationRules, Policy};
use crate::core::seen::{GenerationsSeen, PoolAnswers};
use crate::core::status::PlanUnit;
use crate::core::time::{Now, Span};

/// For a start with its proof; more is in `warm`.
const START: Duration = Duration::from_secs(120);

/// The one that serves first: what becomes of it, and what takes its place; then those that linger.
pub fn of(
    target: &str,
    rules: &GenerationRules,
    policy: &Policy,
    (seen, memory): (&GenerationsSeen, &TargetMemory),
    answers: Option<&(Source, PoolAnswers)>,
    now: Now,
) -> Vec<PlanUnit> {
    let current = serving(rules, seen, memory);
    let running = seen.units.iter().filter(|unit| unit.active.runs());
    let count = running.clone().count();
    let mut units: Vec<PlanUnit> = Vec::new();
    let unit = |unit: &str, what: String, deadline: Duration| PlanUnit {
        target: target.to_owned(),
        unit: unit.to_owned(),
        what,
        deadline_ms: millis(policy.stamp.settle + deadline),
        processes: Vec::new(),
        in_flight: Vec::new(),
        casualty_expected: false,
        next_run: None,
    };
    let mut what = vec!["a new generation beside it: php-fpm -t, start, warm-up, proof, then it gets the requests".to_owned()];
    if let Some(took) = current.and_then(|current| seen.memory.get(current)).filter(|took| **took > 0) {
        what.push(format!("the last one takes {}, and {} are available", megabytes(*took), megabytes(seen.available)));
    }
    if let Some(least) = rules.min_available_memory.filter(|least| seen.available < *least) {
        what.push(format!("waits until {} are (min_available_memory)", megabytes(least)));
    }
    if count >= usize::try_from(rules.max_generations).unwrap_or(usize::MAX) {
        what.push(match rules.at_max {
            AtMax::Wait => format!("waits until one of the {count} that run has ended (max_generations)"),
            AtMax::EndOldest => format!("the oldest of the {count} that run is ended first (max_generations)"),
        });
    }
    let finishes =
        format!("finishes its requests in up to {}, then SIGTERM, SIGKILL after {}", Span(rules.linger), Span(rules.term_timeout));
    what.push(if current.is_some() { format!("the old one {finishes}") } else { "nothing serves now".to_owned() });
    let mut first = unit(current.unwrap_or(&rules.unit), what.join("; "), START + rules.linger + rules.term_timeout);
    first.in_flight = answers.and_then(in_flight).unwrap_or_default();
    first.processes =
        running.clone().filter(|unit| Some(unit.unit.as_str()) == current).flat_map(|unit| processes(unit, &[], now)).collect();
    units.push(first);
    for lingering in running.filter(|unit| runs(unit) && Some(unit.unit.as_str()) != current) {
        let mut view = unit(&lingering.unit, format!("gets no new requests already; {finishes}"), rules.linger + rules.term_timeout);
        view.processes = processes(lingering, &[], now);
        units.push(view);
    }
    units
}
