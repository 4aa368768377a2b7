//! Deploys in a row under load, by the agent.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::generations::{Options, WebServer};
use lab::load::Report;
use lab::{Host, Release};

use crate::agent::Played;
use crate::stage::more;

/// How many deploys, and how long the four requests take that are to outlast some of them.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    pub deploys: usize,
    pub long: Duration,
    /// Between two deploys at least so many requests.
    pub requests: usize,
}

/// As much as fits into every run of the tests.
pub const SHORT: Row = Row { deploys: 5, long: Duration::from_secs(9), requests: 100 };
/// What the manual promises, in full: about 5 s from one deploy to the next.
pub const LONG: Row = Row { deploys: 50, long: Duration::from_secs(60), requests: 750 };

/// The short requests of the mixed load: what a person waits for.
const SHORT_REQUEST: Duration = Duration::from_millis(50);

/// No request is lost, none is served by an old generation after the switch, the long ones end where they began with their children's whole output, and
/// at the end one generation runs.
pub fn in_a_row(release: Release, server: WebServer, row: Row) -> Result<()> {
    let host = Host::boot(release, &format!("deploys-{server}"))?;
    let options = Options::default();
    let mut played = Played::set(&host, server, &options, "max_generations = 100\nlinger = \"10m\"")?;
    if row.deploys >= LONG.deploys {
        let load = played.stage.load().mixed().long(4, row.long).start()?;
        for _ in 0..4 {
            more(&load, 4_000)?;
        }
        print_short(&format!("{release} {server}, no deploys"), &load.stop()?);
    }
    let load = played.stage.load().mixed().long(4, row.long).start()?;
    for id in load.long() {
        load.wait_started(*id)?;
    }
    let mut most = 0;
    for n in 1..=row.deploys {
        more(&load, row.requests)?;
        played.deploy(&format!("v{n}"))?;
        if server == WebServer::ApacheReuse {
            // What the manual says to do: connections that are held open are its to leave.
            played.stage.stack.reload_web_server()?;
        }
        most = most.max(played.stage.stack.active()?.len());
    }
    more(&load, row.requests)?;
    let long = load.long().to_vec();
    let report = load.stop()?;
    println!("{release} {server}: {} deploys, at most {most} generations at once: {report}", row.deploys);
    print_short(&format!("{release} {server}, {} deploys", row.deploys), &report);
    if row.deploys >= LONG.deploys {
        let plot = host.ok(&["restart-agent", "history", "--plot", "-", "-n", "1"])?;
        std::fs::write(std::env::temp_dir().join(format!("{release}-{server}.svg")), plot)?;
    }
    if !WebServer::PLAIN.contains(&server) {
        ensure!(report.counts().lost() == 0, "{report}");
        ensure_few_old(&played, &report)?;
    } else {
        played.stage.ensure_lossless(&report)?;
    }
    ensure_intact(&report, &long)?;
    ensure!(played.agent.casualties()?.is_empty(), "{:?}", played.agent.casualties()?);
    let history: Vec<serde_json::Value> = serde_json::from_str(&played.agent.ok(&["history", "--json", "-n", "1000"])?)?;
    ensure!(history.len() == row.deploys && history.iter().all(|rollout| rollout["result"] == "converged"), "{history:?}");
    played.ensure_settled(&format!("v{}", row.deploys))
}

/// Each long request was answered by the generation in which it began, `boot`.
fn ensure_intact(report: &Report, long: &[u64]) -> Result<()> {
    ensure!(long.len() == 4, "{long:?}");
    for id in long {
        let by = report.record(*id).and_then(|record| record.served.as_ref());
        ensure!(by.is_some_and(|by| by.instance.as_deref() == Some("boot") && by.version == "v0"), "{id}: {by:?}");
    }
    Ok(())
}

/// Over TCP all generations share one queue: a worker of the old one that falls idle may take another request before it is seen to be idle, which is a matter of
/// milliseconds for each worker, once, and of no worker that was idle at the arrival.
fn ensure_few_old(played: &Played<'_>, report: &Report) -> Result<()> {
    let old = report.of_old_generations(&played.stage.switches);
    println!("{} of {} requests by an old generation after the arrival of the next", old.len(), report.records.len());
    if played.stage.stack.server() == WebServer::ApacheReuse {
        // Those between the switch and the reload.
        return Ok(());
    }
    ensure!(old.len() * 50 < report.records.len(), "{} of {}", old.len(), report.records.len());
    Ok(())
}

fn print_short(what: &str, report: &Report) {
    let short = report.only(|record| record.wanted <= SHORT_REQUEST);
    println!(
        "{what}: short requests p50 {:?}, p99 {:?}, {} requests in all",
        short.latency(50.0),
        short.latency(99.0),
        report.records.len()
    );
}
