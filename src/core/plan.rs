//! What a deploy right now would do: the rules applied to what was just seen. Changes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use super::deploy::printable;
use super::evidence::{Counted, Source};
use super::generations::plan as generations;
use super::memory::Memory;
use super::policy::{After, AskRules, FpmRules, Overdue, Policy, ScheduledRules, ServiceRules, StrayAction, StrayRules, TargetRules};
use super::scheduled::untouchable;
use super::seen::{GenerationsSeen, Load, PoolAnswers, ProcessSeen, StraySeen, UnitSeen};
use super::stale::carries;
use super::status::{PlanNextRun, PlanProcess, PlanRequest, PlanUnit, PlanView};
use super::strays::place::unit_of;
use super::strays::{Reach, reach};
use super::target::is_of;
use super::time::{Now, Span};
use super::view::SCHEMA;

/// What was seen for the plan, by target.
#[derive(Debug, Default)]
pub struct PlanSeen {
    pub units: BTreeMap<String, Vec<UnitSeen>>,
    /// By target: how the pools were asked, and what they said.
    pub answers: BTreeMap<String, (Source, PoolAnswers)>,
    /// By target of strategy `generations`.
    pub generations: BTreeMap<String, GenerationsSeen>,
    /// By target of kind `strays`.
    pub strays: BTreeMap<String, Vec<StraySeen>>,
    /// By timer: what its file says.
    pub schedules: BTreeMap<String, Vec<String>>,
    /// By target: why nothing could be seen.
    pub faults: BTreeMap<String, String>,
}

/// The plan for all targets, in the order of their names.
#[must_use]
pub fn plan(policy: &Policy, memory: &Memory, seen: &PlanSeen, now: Now) -> PlanView {
    let mut units = Vec::new();
    for (name, rules) in &policy.targets {
        let seen_units = seen.units.get(name).map_or(&[][..], Vec::as_slice);
        match rules {
            TargetRules::PhpFpm(rules) => units.push(fpm(name, rules, policy, seen_units, seen.answers.get(name), now)),
            TargetRules::Generations(rules) => {
                if let Some(seen_generations) = seen.generations.get(name) {
                    units.extend(generations::of(
                        name,
                        rules,
                        policy,
                        (seen_generations, &memory.targets.get(name).cloned().unwrap_or_default()),
                        seen.answers.get(name),
                        now,
                    ));
                }
            }
            TargetRules::Scheduled(rules) => {
                units.extend(seen_units.iter().filter_map(|unit| script(name, rules, unit, memory, &seen.schedules, now)))
            }
            TargetRules::Strays(rules) => {
                let strays = seen.strays.get(name).map_or(&[][..], Vec::as_slice);
                units.extend(strays.iter().filter_map(|seen| stray(name, rules, policy, seen, now)));
            }
            TargetRules::Service(rules) => units.extend(seen_units.iter().filter_map(|unit| service(name, rules, unit, now))),
        }
    }
    let mut notes: Vec<String> = seen.faults.iter().map(|(target, why)| format!("{target}: {why}")).collect();
    if let Some(hold) = &memory.hold {
        notes.push(format!("held by {} until {}: {}; a deploy waits until then", hold.by, hold.until, hold.reason));
    }
    if policy.targets.is_empty() {
        notes.push("there are no targets: nothing would be done".to_owned());
    }
    PlanView { schema: SCHEMA, at: now.wall, note: Some(notes.join("; ")).filter(|note| !note.is_empty()), units }
}

/// What a deploy would make stale comes first.
pub(super) fn processes(unit: &UnitSeen, code: &[String], now: Now) -> Vec<PlanProcess> {
    let of = |process: &ProcessSeen| {
        let (name, started_at) = (process.comm.clone(), now.wall_of(process.start));
        PlanProcess { pid: process.pid, name, started_at, stale: carries(code, process) }
    };
    let (stale, others): (Vec<PlanProcess>, Vec<PlanProcess>) = unit.processes.iter().map(of).partition(|process| process.stale);
    stale.into_iter().chain(others).collect()
}

pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn fpm(target: &str, rules: &FpmRules, policy: &Policy, units: &[UnitSeen], answers: Option<&(Source, PoolAnswers)>, now: Now) -> PlanUnit {
    let unit = units.iter().find(|unit| unit.unit == rules.unit);
    let in_flight: Vec<PlanRequest> = answers.and_then(in_flight).unwrap_or_default();
    let drain = rules.drain_timeout;
    let longer = in_flight.len();
    let what = match unit {
        None => "there is no such unit: nothing would be done".to_owned(),
        Some(unit) if unit.load != Load::Loaded => "systemd has not loaded it: nothing would be done".to_owned(),
        Some(unit) if !unit.active.runs() => "it does not run: nothing would be done".to_owned(),
        Some(_) => {
            let pools: Vec<&str> = policy.pools.keys().map(String::as_str).collect();
            let depool = if pools.is_empty() { String::new() } else { format!("out of pool {}, ", pools.join(", ")) };
            let repool = if pools.is_empty() { "" } else { ", back into the pool" };
            format!(
                "php-fpm -t, {depool}drain up to {}, RestartUnit, SIGKILL after {}, proof{repool}",
                Span(drain),
                Span(rules.term_timeout)
            )
        }
    };
    let pool_time: Duration = policy.pools.values().map(|pool| pool.timeout).max().unwrap_or_default();
    PlanUnit {
        target: target.to_owned(),
        unit: rules.unit.clone(),
        what,
        deadline_ms: millis(policy.stamp.settle + pool_time * 2 + drain + rules.term_timeout),
        processes: unit.map(|unit| processes(unit, &[], now)).unwrap_or_default(),
        in_flight,
        casualty_expected: longer > 0 && drain.is_zero(),
        next_run: None,
    }
}

pub(super) fn in_flight((source, answers): &(Source, PoolAnswers)) -> Option<Vec<PlanRequest>> {
    let counted = Counted::of(source, answers);
    if counted.busy.is_empty() {
        return None;
    }
    let request = |worker: &super::seen::WorkerSeen| PlanRequest {
        pid: worker.pid,
        name: worker.uri.split('?').next().unwrap_or_default().to_owned(),
        ran: Span(Duration::from_micros(worker.duration_us)).to_string(),
    };
    Some(counted.workers().map(request).collect())
}

fn script(
    target: &str,
    rules: &ScheduledRules,
    unit: &UnitSeen,
    memory: &Memory,
    schedules: &BTreeMap<String, Vec<String>>,
    now: Now,
) -> Option<PlanUnit> {
    if !is_of(&rules.units, &rules.exclude, &unit.unit) || unit.processes.is_empty() {
        return None;
    }
    let course = match untouchable(unit, rules, memory) {
        Some(why) => Course { what: why, deadline: Duration::ZERO, stops: false },
        _ if !has_code(&rules.code, unit) => Course { what: NO_CODE.to_owned(), deadline: Duration::ZERO, stops: false },
        None => course(rules, unit),
    };
    Some(PlanUnit {
        target: target.to_owned(),
        unit: unit.unit.clone(),
        what: course.what,
        deadline_ms: millis(course.deadline),
        processes: processes(unit, &rules.code, now),
        in_flight: Vec::new(),
        casualty_expected: course.stops,
        next_run: next_run(unit, schedules),
    })
}

const NO_CODE: &str = "runs no process of `code` at this moment: nothing would be done";

fn has_code(code: &[String], unit: &UnitSeen) -> bool {
    unit.processes.iter().any(|process| carries(code, process))
}

/// While a script runs, its timers have mostly no next elapse (facts F2.6): then what they say in their files is all that is known.
fn next_run(unit: &UnitSeen, schedules: &BTreeMap<String, Vec<String>>) -> Option<PlanNextRun> {
    if unit.timers.is_empty() {
        return None;
    }
    let timers: Vec<String> = unit
        .timers
        .iter()
        .map(|timer| {
            let says = schedules.get(&timer.unit).filter(|lines| !lines.is_empty()).map(|lines| format!(" ({})", lines.join(", ")));
            let off = if timer.active { "" } else { ", which is stopped" };
            format!("{}{}{off}", timer.unit, says.unwrap_or_default())
        })
        .collect();
    let at = unit.next_run();
    let when = match at {
        Some(_) => "by",
        None if unit.timers.iter().any(|timer| timer.active) => "its timer says when, at the end of this run:",
        None => "none:",
    };
    Some(PlanNextRun { at, why: format!("{when} {}", timers.join(", ")) })
}

/// What becomes of a script, and by when.
struct Course {
    what: String,
    deadline: Duration,
    stops: bool,
}

/// The rungs that a script goes down, as `scheduled` has them.
fn course(rules: &ScheduledRules, unit: &UnitSeen) -> Course {
    // What starts a fresh interpreter again and again renews itself in this time, without a signal.
    let who = if rules.code.is_empty() { "may end by itself in" } else { "its old interpreters may end by themselves in" };
    let mut steps = vec![format!("{who} {}", Span(rules.drain_timeout))];
    let mut deadline = rules.drain_timeout;
    if help_itself(rules.asking(), unit, &mut steps, &mut deadline) {
        return Course { what: steps.join("; "), deadline, stops: false };
    }
    steps.push(format!("then SIGTERM, SIGKILL after {}", Span(rules.term_timeout)));
    steps.push(match rules.after {
        After::Rerun => "runs again at once".to_owned(),
        After::UntilNext => "stays quiet until its next scheduled run".to_owned(),
        After::Auto if unit.timers.is_empty() => "runs again at once, since it has no timer".to_owned(),
        After::Auto => {
            format!("stays quiet until its next scheduled run if that is within {}, else runs again at once", Span(rules.quiet_within))
        }
    });
    if !unit.dependents.is_empty() {
        let names: Vec<&str> = unit.dependents.iter().map(|dependent| dependent.unit.as_str()).collect();
        steps.push(format!("takes {} down with it, which is started again", names.join(", ")));
    }
    Course { what: steps.join("; "), deadline: deadline + rules.term_timeout, stops: true }
}

/// The rungs before the signal. Says whether there is none, since it may finish.
fn help_itself(rules: AskRules<'_>, unit: &UnitSeen, steps: &mut Vec<String>, deadline: &mut Duration) -> bool {
    if rules.asks(unit) {
        steps.push(format!("is asked to stop at a checkpoint, and has {}", Span(rules.checkpoint_timeout)));
        *deadline += rules.checkpoint_timeout;
    }
    if rules.overdue == Some(Overdue::Finish) {
        steps.push("may finish, however long it runs".to_owned());
        return true;
    }
    if unit.holds_lock && !rules.hold_timeout.is_zero() {
        steps.push(format!("is spared while it holds its lock, at most {}", Span(rules.hold_timeout)));
        *deadline += rules.hold_timeout;
    }
    false
}

fn service(target: &str, rules: &ServiceRules, unit: &UnitSeen, now: Now) -> Option<PlanUnit> {
    if !is_of(&rules.units, &rules.exclude, &unit.unit) || unit.processes.is_empty() {
        return None;
    }
    let mut steps = Vec::new();
    if !rules.drain_timeout.is_zero() {
        steps.push(format!("waits up to {}", Span(rules.drain_timeout)));
    }
    let mut deadline = rules.drain_timeout;
    if !help_itself(rules.asking(), unit, &mut steps, &mut deadline) {
        deadline += rules.term_timeout;
        steps.push(format!("RestartUnit, SIGKILL after {}", Span(rules.term_timeout)));
    }
    Some(PlanUnit {
        target: target.to_owned(),
        unit: unit.unit.clone(),
        what: if has_code(&rules.code, unit) { steps.join(", ") } else { NO_CODE.to_owned() },
        deadline_ms: millis(deadline),
        processes: processes(unit, &rules.code, now),
        in_flight: Vec::new(),
        casualty_expected: false,
        next_run: None,
    })
}

fn stray(target: &str, rules: &StrayRules, policy: &Policy, seen: &StraySeen, now: Now) -> Option<PlanUnit> {
    let reach = reach(policy, seen);
    if reach == Reach::Elsewhere {
        return None;
    }
    let stop = || {
        let (drain, grace) = (Span(rules.drain_timeout), Span(rules.term_timeout));
        format!("may end by itself in {drain}; then SIGTERM to this process alone, SIGKILL after {grace}")
    };
    let (what, deadline, stops) = match (rules.action, reach) {
        (StrayAction::Stop, Reach::Act) => (stop(), rules.drain_timeout + rules.term_timeout, true),
        (StrayAction::Notify, Reach::Act) if seen.tty.is_some() => {
            ("is reported, and its terminal is told".to_owned(), Duration::ZERO, false)
        }
        _ => ("is reported".to_owned(), Duration::ZERO, false),
    };
    let process = &seen.process;
    Some(PlanUnit {
        target: target.to_owned(),
        unit: Some(unit_of(&seen.cgroup)).filter(|unit| !unit.is_empty()).unwrap_or("no unit").to_owned(),
        what: format!("of {}: {what}", printable(&seen.user, 64)),
        deadline_ms: millis(deadline),
        processes: vec![PlanProcess {
            pid: process.pid,
            name: printable(&process.comm, 64),
            started_at: now.wall_of(process.start),
            stale: true,
        }],
        in_flight: Vec::new(),
        casualty_expected: stops,
        next_run: None,
    })
}
