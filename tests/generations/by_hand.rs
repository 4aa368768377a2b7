//! Hand-overs without an agent: what the lab and the template units can do, and what connection reuse costs.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::generations::{Options, WebServer};
use lab::{Host, Release};

use crate::stage::{Stage, more};

/// Longer than the hand-overs that it is to outlast.
const LONG: Duration = Duration::from_secs(3);

/// Two hand-overs in a row under the mixed load, with requests that outlast all of them and have children.
pub fn lossless(release: Release, server: WebServer) -> Result<()> {
    let host = Host::boot(release, &format!("by-hand-{server}"))?;
    let mut stage = Stage::set(&host, server, &Options::default())?;
    let load = stage.load().mixed().long(4, LONG).start()?;
    for id in load.long() {
        load.wait_started(*id)?;
    }
    more(&load, 150)?;
    let mut old = Vec::new();
    for n in 1..=2 {
        old.push(stage.begin(&format!("g{n}"), &format!("v{n}"))?);
        more(&load, 150)?;
    }
    let long = load.long().to_vec();
    let report = load.stop()?;
    println!("{release} {server}: {report}");
    stage.ensure_lossless(&report)?;
    for id in long {
        let by = report.record(id).and_then(|record| record.served.as_ref());
        ensure!(by.is_some_and(|by| by.instance.as_deref() == Some("boot") && by.version == "v0"), "{by:?}");
    }
    let by_g2 = report.records.iter().filter_map(|record| record.served.as_ref()).filter(|by| by.instance.as_deref() == Some("g2"));
    ensure!(by_g2.count() >= 100, "{report}");
    for old in old {
        stage.stack.finish(&old)?;
    }
    stage.ensure_one_generation("g2", "v2")
}

/// What reuse costs: held connections stay with the old generation, which serves on after the switch and never falls idle, until the web
/// server is reloaded; then nothing is lost.
pub fn reuse(release: Release) -> Result<()> {
    let host = Host::boot(release, "by-hand-reuse")?;
    let mut stage = Stage::set(&host, WebServer::ApacheReuse, &Options::default())?;
    let load = stage.load().mixed().long(2, LONG).start()?;
    for id in load.long() {
        load.wait_started(*id)?;
    }
    more(&load, 150)?;
    let old = stage.begin("g1", "v1")?;
    more(&load, 150)?;
    ensure!(stage.stack.workers(&old)?.busy > load.long().len(), "the old generation got no request: is reuse on?");
    let reloaded = stage.stack.reload_web_server()?;
    more(&load, 150)?;
    // While requests come to the new one.
    stage.stack.finish(&old)?;
    more(&load, 150)?;
    let report = load.stop()?;
    println!("{release} {}: {report}", WebServer::ApacheReuse);
    ensure!(report.counts().lost() == 0, "{report}");
    let by_old: Vec<_> = report.of_old_generations(&stage.switches).into_iter().map(|record| record.sent_at).collect();
    println!("{} requests by the old generation between the switch and the reload", by_old.len());
    ensure!(!by_old.is_empty() && by_old.iter().all(|at| *at < reloaded), "{by_old:?}");
    stage.ensure_one_generation("g1", "v1")
}
