//! The table of the metrics: what the file has and what docs/reference/metrics.md says of it.

use std::collections::BTreeMap;

use super::{Family, Kind, Samples, Seconds};
use crate::core::status::{
    DepooledBy, NOT_TAKEN, PoolState, RolloutResult, State, StatusView, TargetState, TargetView, UNUSABLE, UnitView,
};

const fn gauge(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    samples: fn(&StatusView, &mut Samples<'_>),
) -> Family {
    Family { name, kind: Kind::Gauge, labels, help, samples }
}

const fn counter(
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    samples: fn(&StatusView, &mut Samples<'_>),
) -> Family {
    Family { name, kind: Kind::Counter, labels, help, samples }
}

/// In the order of the file.
pub(super) static ALL: [Family; 29] = [
    gauge("written_timestamp_seconds", &[], "When this file was written: at least once a minute while the agent lives.", |view, put| {
        put.time(Some(view.written_at));
    }),
    gauge(
        "running",
        &[],
        "1 while the agent runs, 0 after it was stopped. One that was killed leaves an old file instead.",
        |view, put| {
            put.yes_or_no(&[], view.agent.running);
        },
    ),
    gauge("build_info", &["version"], "Always 1.", |view, put| put.of(&[&view.agent.version], 1)),
    gauge("start_timestamp_seconds", &[], "When the agent was started.", |view, put| put.time(Some(view.agent.since))),
    gauge("config_good", &[], "0 if the configuration could not be used, or was not taken at the last reload.", |view, put| {
        put.yes_or_no(&[], !view.problems.iter().any(|problem| problem.contains(UNUSABLE) || problem.contains(NOT_TAKEN)));
    }),
    gauge("problems", &[], "How many problems status shows: with the configuration, the journal, systemd, a pool.", |view, put| {
        put.one(view.problems.len());
    }),
    gauge("stamp_error", &[], "1 if the stamp cannot be read or was refused.", |view, put| {
        put.yes_or_no(&[], view.stamp.error.is_some());
    }),
    gauge("state", &["state"], "1 for the state of this host, 0 for all others.", |view, put| {
        for state in State::ALL {
            put.yes_or_no(&[state.word()], state == view.state);
        }
    }),
    gauge("deploy_landed_timestamp_seconds", &[], "When the newest deploy landed here. Missing before the first.", |view, put| {
        put.time(view.stamp.landed_at);
    }),
    gauge(
        "deploy_reached_timestamp_seconds",
        &[],
        "When this host last converged for a deploy. Missing before the first time.",
        |view, put| {
            put.time(view.reached.as_ref().map(|reached| reached.at));
        },
    ),
    gauge("deploy_begun", &[], "1 between a stamp with phase = \"begin\" and its \"done\": no script starts.", |view, put| {
        put.yes_or_no(&[], view.begun.is_some());
    }),
    gauge("hold", &[], "1 while somebody holds this host, or some of its targets.", |view, put| {
        put.yes_or_no(&[], view.hold.is_some());
    }),
    gauge("hold_until_timestamp_seconds", &[], "When the hold ends by itself. Missing without one.", |view, put| {
        put.time(view.hold.as_ref().map(|hold| hold.until));
    }),
    gauge("pool_state", &["pool", "state"], "1 for what the pool's check last said of this host, 0 for the other states.", |view, put| {
        for pool in &view.pools {
            for state in PoolState::ALL {
                put.yes_or_no(&[&pool.name, state.word()], state == pool.state);
            }
        }
    }),
    gauge(
        "pool_depooled_by_agent",
        &["pool"],
        "1 while this host is out of the pool by this agent, which owes its return.",
        |view, put| {
            for pool in &view.pools {
                put.yes_or_no(&[&pool.name], pool.depooled_by == Some(DepooledBy::Agent));
            }
        },
    ),
    gauge(
        "target_state",
        &["target", "kind", "state"],
        "1 for the state of each target; there is no sample for the others.",
        |view, put| {
            for target in &view.targets {
                put.of(&[&target.name, &target.kind, target.state.word()], 1);
            }
        },
    ),
    gauge(
        "units",
        &["target", "state"],
        "Units of each target by state, as they were last looked at. No sample stands for 0.",
        |view, put| {
            for target in &view.targets {
                for state in TargetState::ALL {
                    let count = units(target, |unit| unit.state == state).count();
                    if count > 0 {
                        put.of(&[&target.name, state.word()], count);
                    }
                }
            }
        },
    ),
    gauge("stale_processes", &["target"], "Processes that run code from before the newest deploy.", |view, put| {
        for target in &view.targets {
            let count: u64 = target.units.iter().map(|unit| u64::from(unit.stale_processes)).sum();
            put.of(&[&target.name], count);
        }
    }),
    gauge(
        "oldest_stale_start_timestamp_seconds",
        &["target"],
        "Start of the oldest process that is stale. Missing without one.",
        |view, put| {
            for target in &view.targets {
                if let Some(oldest) = units(target, |unit| unit.stale_processes > 0).filter_map(|unit| unit.oldest_start).min() {
                    put.of(&[&target.name], Seconds(oldest.0));
                }
            }
        },
    ),
    gauge(
        "requests_in_flight",
        &["target"],
        "Requests of php-fpm that drains or lingers. Missing while nobody asks or answers.",
        |view, put| {
            for target in &view.targets {
                let known: Vec<u64> = target.units.iter().filter_map(|unit| unit.in_flight).map(u64::from).collect();
                if !known.is_empty() {
                    put.of(&[&target.name], known.iter().sum::<u64>());
                }
            }
        },
    ),
    gauge("lingering_generations", &["target"], "Old generations of php-fpm that finish their requests.", |view, put| {
        for target in view.targets.iter().filter(|target| target.kind == PHP) {
            put.of(&[&target.name], units(target, |unit| unit.state == TargetState::Lingering).count());
        }
    }),
    gauge(
        "starved_scripts",
        &["target"],
        "Scripts that are let finish now, since deploys interrupted them max_interruptions times in a row.",
        |view, put| {
            for target in view.targets.iter().filter(|target| target.kind == SCRIPTS) {
                put.of(&[&target.name], units(target, |unit| unit.starved).count());
            }
        },
    ),
    counter("starved_total", &["target"], "Runs of scripts that were let finish for that reason.", |view, put| {
        for (target, count) in counted(view, &view.totals.starved, |kind| kind == SCRIPTS) {
            put.of(&[target], count);
        }
    }),
    counter(
        "casualties_total",
        &["target", "what"],
        "Requests and scripts that the agent's signal ended before they had finished.",
        |view, put| {
            for (target, count) in counted(view, &view.totals.requests, |kind| kind == PHP) {
                put.of(&[target, "request"], count);
            }
            for (target, count) in counted(view, &view.totals.scripts, |kind| kind != PHP) {
                put.of(&[target, "script"], count);
            }
        },
    ),
    counter("casualties_possible_total", &["target"], "How often requests may have been cut that nobody can name.", |view, put| {
        for (target, count) in counted(view, &view.totals.perhaps, |kind| kind == PHP) {
            put.of(&[target], count);
        }
    }),
    counter("rollouts_total", &["result"], "Rollouts that are over.", |view, put| {
        for result in RolloutResult::ALL {
            put.of(&[result.word()], view.totals.rollouts.get(result.word()).copied().unwrap_or(0));
        }
    }),
    gauge("rollout_running", &[], "1 while a rollout is under way.", |view, put| {
        put.yes_or_no(&[], view.last_rollout.as_ref().is_some_and(|rollout| rollout.finished_at.is_none()));
    }),
    gauge(
        "last_rollout_finished_timestamp_seconds",
        &[],
        "When the last rollout that is over ended. Missing before the first.",
        |view, put| {
            put.time(view.totals.last.map(|last| last.finished_at));
        },
    ),
    gauge("last_rollout_duration_seconds", &[], "How long it took. Missing before the first.", |view, put| {
        if let Some(last) = &view.totals.last {
            put.one(Seconds(last.finished_at.0.saturating_sub(last.started_at.0)));
        }
    }),
];

/// Kinds of targets of which something can be counted that others do not have.
const PHP: &str = "php-fpm";
const SCRIPTS: &str = "scheduled";

fn units(target: &TargetView, which: impl Fn(&UnitView) -> bool) -> impl Iterator<Item = &UnitView> {
    target.units.iter().filter(move |unit| which(unit))
}

/// What was counted for each target, and 0 for those of these kinds for which nothing was.
fn counted<'v>(
    view: &'v StatusView,
    counts: &'v BTreeMap<String, u32>,
    of_kind: impl Fn(&str) -> bool,
) -> impl Iterator<Item = (&'v str, u32)> {
    let none = view.targets.iter().filter(move |target| of_kind(&target.kind) && !counts.contains_key(&target.name));
    counts.iter().map(|(name, count)| (name.as_str(), *count)).chain(none.map(|target| (target.name.as_str(), 0)))
}
