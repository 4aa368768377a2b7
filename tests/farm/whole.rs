//! A whole farm's scheduled units on one host, through ten deploys.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use jiff::Timestamp;
use lab::agent::Agent;
use lab::jobs::{self, Job, Marks};
use lab::ledger::{self, How, Ledger};
use lab::{Host, Release, wait_for};
use serde_json::Value;

use crate::judge::Seen;
use crate::units::{self, FIRST_SLOTS, SLOTS, Unit};
use crate::{now, old};

const MINUTE: Duration = Duration::from_secs(60);
const DEPLOYS: u32 = 10;

/// Numbers that look random, all from one.
#[derive(Debug)]
struct Dice(u64);

impl Dice {
    /// `SEED`, or the clock.
    fn new() -> Result<Dice> {
        match std::env::var("SEED") {
            Ok(seed) => Ok(Dice(seed.parse().context("SEED")?)),
            Err(_) => Ok(Dice((now() * 1e6) as u64 % 1_000_000)),
        }
    }

    /// From 0 to 1 (splitmix64).
    fn roll(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

pub fn all_208_units_over_ten_deploys(release: Release) -> Result<()> {
    let mut dice = Dice::new()?;
    let seed = dice.0;
    eprintln!("{release}: SEED={seed}");
    run(release, &mut dice).with_context(|| format!("SEED={seed}"))
}

fn run(release: Release, dice: &mut Dice) -> Result<()> {
    let host = Host::boot(release, "farm")?;
    let agent = Agent::install(&host)?;
    agent.deploy("d0")?;
    agent.configure(&units::config())?;
    let all = units::all(now() + 10.0)?;
    ensure!(all.len() == 208, "{} units", all.len());
    ensure!(all.iter().filter(|unit| unit.name.contains('@')).count() == 60, "names with an @");
    let jobs: Vec<Job> = all.iter().map(Unit::job).collect::<Result<_>>()?;
    ledger::install(&host, &jobs)?;
    let timers: Vec<String> = all.iter().map(Unit::timer).collect();
    jobs::systemctl(&host, &["start"], &timers)?;
    let from = now();

    let mut problems = Vec::new();
    let mut deploys = Vec::new();
    for n in 1..=DEPLOYS {
        let last = n == DEPLOYS;
        let heels = n > 1 && !last && dice.roll() < 0.4;
        let moment = now() + if heels { 4.0 * dice.roll() } else { 4.0 + 9.0 * dice.roll() };
        // By the last one every unit has had a slot.
        let moment = if last { moment.max(from + FIRST_SLOTS + 20.0) } else { moment };
        wait_for("the moment of a deploy", MINUTE, || Ok((now() >= moment).then_some(())))?;
        deploys.push(now());
        agent.deploy(&format!("d{n}"))?;
        if last || dice.roll() < 0.5 {
            let waited = agent.wait(MINUTE * 2)?;
            if waited.status != 0 {
                problems.push(format!("wait exits {}: {}{}\n{}", waited.status, waited.stdout, waited.stderr, agent.status_text()?));
            }
        }
    }
    problems.extend(old::problems(&host, &agent, &all)?);
    if let Err(left) = agent.ensure_nothing_left() {
        problems.push(format!("{left:#}"));
    }
    ensure_slots(&host, &all, &mut problems)?;
    let seen = look(&host, &agent, &all, from)?;
    ensure!(seen.first().is_some_and(|seen| seen.until < from + SLOTS), "the slots did not last");
    failed(&host, &seen, &mut problems)?;
    for unit in &seen {
        let wrong = unit.problems();
        if !wrong.is_empty() {
            problems.push(format!("{}\n  {}", unit.timeline(&deploys), wrong.join("\n  ")));
        }
    }
    let sum = sum(&seen);
    eprintln!("{release}: {sum} in {:.0} s", now() - from);
    if !problems.is_empty() {
        bail!("{} problems; {sum}\n{}", problems.len(), problems.join("\n"));
    }
    ensure_telling(&seen)
}

/// What the test has shown is worth something only if it has happened.
fn ensure_telling(seen: &[Seen]) -> Result<()> {
    let count = |how: How| seen.iter().flat_map(|unit| &unit.runs).filter(|run| run.how() == how).count();
    let ran = seen.iter().filter(|unit| !unit.runs.is_empty()).count();
    ensure!(ran >= 190, "only {ran} units ran at all");
    ensure!(count(How::Cut) >= 60 && count(How::AtCheckpoint) >= 4 && count(How::ByItself(1)) >= 5, "{}", sum(seen));
    let rerun = seen.iter().map(|unit| unit.renewed.len()).sum::<usize>();
    ensure!(rerun >= 30, "only {rerun} were run again");
    Ok(())
}

fn sum(seen: &[Seen]) -> String {
    let runs = || seen.iter().flat_map(|unit| &unit.runs);
    let count = |how: How| runs().filter(|run| run.how() == how).count();
    format!(
        "{} units ran {} times, {} were cut, {} ended at a checkpoint, {} failed by themselves, {} renewed, {} ties, {} run",
        seen.iter().filter(|unit| !unit.runs.is_empty()).count(),
        runs().count(),
        count(How::Cut),
        count(How::AtCheckpoint),
        count(How::ByItself(1)),
        seen.iter().map(|unit| unit.renewed.len()).sum::<usize>(),
        count(How::Tie),
        count(How::Runs)
    )
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn seconds(value: &Value) -> Result<f64> {
    let at: Timestamp = text(value).parse().with_context(|| value.to_string())?;
    Ok(at.as_microsecond() as f64 / 1e6)
}

/// Everything that is to be judged, unit by unit.
fn look(host: &Host, agent: &Agent<'_>, all: &[Unit], from: f64) -> Result<Vec<Seen>> {
    let until = now();
    let ledger = Ledger::read_whole(host)?;
    // What ended a moment ago has left its mark by the time that systemd is at rest.
    jobs::settled(host)?;
    let marks = Marks::read(host)?;
    let later = Ledger::read_whole(host)?;
    let mut casualties: BTreeMap<String, Vec<(f64, bool)>> = BTreeMap::new();
    for casualty in agent.casualties()? {
        casualties.entry(text(&casualty["unit"]).to_owned()).or_default().push((seconds(&casualty["at"])?, casualty["certain"] == true));
    }
    let mut renewed: BTreeMap<String, Vec<(f64, f64)>> = BTreeMap::new();
    let history: Vec<Value> = serde_json::from_str(&agent.ok(&["history", "--json", "-n", "100"])?)?;
    let mut rollouts = Vec::new();
    for rollout in &history {
        let begun = seconds(&rollout["started_at"])?;
        let ended = if rollout["finished_at"].is_null() { f64::INFINITY } else { seconds(&rollout["finished_at"])? };
        rollouts.push((begun, ended));
        for outcome in rollout["units"].as_array().into_iter().flatten().filter(|outcome| outcome["what"] == "renewed") {
            renewed.entry(text(&outcome["unit"]).to_owned()).or_default().push((begun, ended));
        }
    }
    let rollouts = joined(rollouts);
    let known: BTreeSet<String> = all.iter().map(Unit::service).collect();
    if let Some(stranger) = casualties.keys().chain(renewed.keys()).find(|unit| !known.contains(*unit)) {
        bail!("{stranger} is none of the farm's");
    }
    let seen = all.iter().map(|unit| {
        let (failures, successes) = ledger::fired(&marks, &unit.name);
        Seen {
            name: unit.name.clone(),
            after: unit.class.after,
            spared: unit.spared(),
            on_failure: unit.on_failure,
            on_success: unit.on_success,
            slots: unit.slots.clone(),
            runs: ledger.runs(&unit.name).iter().filter(|run| run.start < until).cloned().collect(),
            casualties: casualties.get(&unit.service()).cloned().unwrap_or_default(),
            renewed: renewed.get(&unit.service()).cloned().unwrap_or_default(),
            rollouts: rollouts.clone(),
            failures,
            successes,
            later: (by_itself(&later, &unit.name, true), by_itself(&later, &unit.name, false)),
            from,
            until,
        }
    });
    Ok(seen.collect())
}

/// How many runs have failed, or succeeded, by themselves.
fn by_itself(ledger: &Ledger, name: &str, failed: bool) -> usize {
    ledger.runs(name).iter().filter(|run| matches!(run.how(), How::ByItself(status) if (status != 0) == failed)).count()
}

/// One that begins as soon as another has ended, for a deploy that came meanwhile, goes on with what that one left.
fn joined(mut rollouts: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    rollouts.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut joined: Vec<(f64, f64)> = Vec::new();
    for (begun, ended) in rollouts {
        match joined.last_mut() {
            Some(last) if begun <= last.1 + 1.5 => last.1 = last.1.max(ended),
            _ => joined.push((begun, ended)),
        }
    }
    joined
}

/// Every timer runs, and waits for a moment to come or for its script.
fn ensure_slots(host: &Host, all: &[Unit], problems: &mut Vec<String>) -> Result<()> {
    let mut open: BTreeMap<String, String> = all.iter().map(|unit| (unit.timer(), unit.service())).collect();
    let sound = wait_for("every timer to be sound", Duration::from_secs(10), || {
        let wanted = ["ActiveState", "SubState", "NextElapseUSecRealtime"];
        let timers = jobs::properties(host, &open.keys().cloned().collect::<Vec<_>>(), &wanted)?;
        let services = jobs::properties(host, &open.values().cloned().collect::<Vec<_>>(), &["ActiveState"])?;
        open.retain(|timer, service| {
            let timer = &timers[timer];
            let next = timer.get("NextElapseUSecRealtime").is_some_and(|at| !matches!(at.as_str(), "" | "0" | "infinity" | "n/a"));
            let runs = !matches!(services[service]["ActiveState"].as_str(), "inactive" | "failed");
            timer["ActiveState"] != "active" || !(next || runs)
        });
        if open.is_empty() { Ok(Some(())) } else { bail!("{:?}", open.keys().map(|timer| &timers[timer]).collect::<Vec<_>>()) }
    });
    if let Err(error) = sound {
        problems.push(format!("{error:#}"));
    }
    Ok(())
}

/// Units are failed whose last run failed by itself, and no others.
fn failed(host: &Host, seen: &[Seen], problems: &mut Vec<String>) -> Result<()> {
    let failed = host.ok(&["systemctl", "list-units", "--failed", "--plain", "--no-legend"])?;
    let ledger = Ledger::read_whole(host)?;
    for unit in failed.lines().filter_map(|line| line.split(' ').next()) {
        let name = unit.trim_end_matches(".service");
        let by_itself = seen.iter().any(|seen| seen.name == name)
            && ledger.runs(name).iter().rev().find(|run| run.how() != How::Runs).is_some_and(|run| matches!(run.how(), How::ByItself(1)));
        if !by_itself {
            problems.push(format!("{unit} is failed, and did not fail by itself"));
        }
    }
    Ok(())
}
