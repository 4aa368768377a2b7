//! Processes that are older than the newest deploy.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use lab::Host;
use lab::agent::{Agent, STAMP};

use crate::units::Unit;

/// Of units of targets that status does not name with a reason.
pub fn problems(host: &Host, agent: &Agent<'_>, all: &[Unit]) -> Result<Vec<String>> {
    let landed = landed(host)?;
    let status = agent.status()?;
    let units = status["targets"].as_array().into_iter().flatten().flat_map(|target| target["units"].as_array().into_iter().flatten());
    let with_why = units.filter(|unit| unit["why"].as_str().is_some_and(|why| !why.is_empty()));
    let named: BTreeSet<&str> = with_why.filter_map(|unit| unit["unit"].as_str()).collect();
    let oldest = oldest(host)?;
    let targets = all.iter().filter(|unit| !unit.class.target.is_empty()).map(Unit::service);
    let old = targets.filter_map(|unit| oldest.get(&unit).map(|start| (unit, landed - start)));
    let wrong = old.filter(|(unit, age)| *age > 0.1 && !named.contains(unit.as_str()));
    Ok(wrong
        .map(|(unit, age)| format!("{unit} has a process that began {age:.1} s before the last deploy, and status does not say why"))
        .collect())
}

/// When the newest deploy landed, in seconds since 1970.
pub fn landed(host: &Host) -> Result<f64> {
    Ok(host.ok(&["stat", "--format=%.6Z", STAMP])?.trim().parse()?)
}

/// Of each service that has processes, when the oldest began.
pub fn oldest(host: &Host) -> Result<BTreeMap<String, f64>> {
    let text = host.sh_ok(
        "echo $(date +%s.%N) $(cut -d' ' -f1 /proc/uptime)
        cd /sys/fs/cgroup/system.slice && for unit in *.service; do
            while read -r pid; do
                { read -r stat < /proc/$pid/stat; } 2>/dev/null && echo \"$unit $stat\"
            done < \"$unit/cgroup.procs\"
        done 2>/dev/null; true",
    )?;
    let mut lines = text.lines();
    let (date, uptime) = lines.next().and_then(|line| line.split_once(' ')).context("no clocks")?;
    let booted = date.parse::<f64>()? - uptime.parse::<f64>()?;
    let mut oldest = BTreeMap::new();
    for line in lines {
        let (unit, stat) = line.split_once(' ').with_context(|| line.to_owned())?;
        // What follows the name in brackets; the 22nd field of all is the start, in ticks.
        let ticks = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(19)).with_context(|| line.to_owned())?;
        let start = booted + ticks.parse::<f64>()? / 100.0;
        let known = oldest.entry(unit.to_owned()).or_insert(start);
        *known = start.min(*known);
    }
    Ok(oldest)
}
