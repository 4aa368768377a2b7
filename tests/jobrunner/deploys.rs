//! Many deploys under steady load.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use lab::agent::Agent;
use lab::load::{Class, Load};
use lab::web::{self, PoolState, Status, Web};
use lab::{Host, Release};

use crate::BALANCER;
use crate::stage::config;

const THRESHOLD: Duration = Duration::from_secs(2);
/// No request's length is nearer to the threshold than this.
const DISTANCE: Duration = Duration::from_millis(250);
/// What a unit that `Requires=` php-fpm is: stop and start instead of a restart would leave it dead (facts M4).
const DEPENDENT: &str = "needs-php.service";

/// Mostly 15 ms; each second one of 0.5 to 1.75 s, each two seconds one that outlasts the threshold. Their number is odd, so that both
/// servers get some of each.
fn mix() -> Vec<Duration> {
    let mut mix = vec![Duration::from_millis(15); 401];
    for (at, ms) in [(50, 500), (150, 800), (250, 1000), (350, 1750), (399, 5000)] {
        mix[at] = Duration::from_millis(ms);
    }
    mix
}

pub fn under_load(release: Release, status: Status, count: usize) -> Result<()> {
    let host = Host::boot(release, "deploys")?;
    let web = Web::install(&host, &web::Options { children: 24, status, ..web::Options::default() })?;
    let unit = release.fpm_unit();
    host.write(
        &format!("/etc/systemd/system/{DEPENDENT}"),
        format!("[Unit]\nRequires={unit}\nAfter={unit}\n[Service]\nExecStart=/bin/sleep infinity\n"),
    )?;
    host.sh_ok(&format!("systemctl daemon-reload && systemctl start {DEPENDENT}"))?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    agent.configure(&config(release, "settle = \"100ms\"\nmin_interval = \"0s\"", BALANCER, "drain_timeout = \"2s\""))?;

    let load = Load::builder(&host).rate(200.0).durations(mix()).start()?;
    let mut generations = BTreeSet::from([web.generation()?]);
    let mut reached = vec![SystemTime::now()];
    let mut sure_to_be_cut = BTreeSet::new();
    for deploy in 1..=count {
        // Now and then one that is certain to be in flight at the threshold.
        if deploy % 4 == 1 {
            let long = load.send(Duration::from_secs(20), web::POOL)?;
            load.wait_started(long)?;
            sure_to_be_cut.insert(long);
        }
        let version = format!("v{deploy}");
        web.deploy_code(&version)?;
        agent.deploy_and_wait(&version, Duration::from_secs(60)).with_context(|| version.clone())?;
        reached.push(SystemTime::now());
        ensure!(web.served_version()? == version, "after wait the code of {} is served", web.served_version()?);
        ensure!(web.pool_state("mw1")? == PoolState::Pooled, "{version}: the host is not in the pool");
        ensure!(host.property(DEPENDENT, "ActiveState")? == "active", "{version}: {DEPENDENT} did not survive");
        let status = agent.status()?;
        ensure!(status["state"] == "converged" && status["reached"]["id"] == version.as_str(), "{status}");
        generations.insert(web.generation()?);
    }
    let report = load.stop()?;
    let casualties = agent.casualties()?;
    println!("{count} deploys: {} casualties; {report}", casualties.len());

    ensure!(generations.len() == count + 1, "{count} deploys, but {} generations", generations.len());
    for record in &report.records {
        ensure!(
            record.class == Class::Ok || record.wanted >= THRESHOLD + DISTANCE,
            "a request shorter than the threshold was lost: {record:?}\n{report}"
        );
        let old = record.served.as_ref().filter(|served| served.server == "mw1").map(|served| served.version.as_str());
        let due = reached.iter().rposition(|at| *at < record.sent_at).unwrap_or(0);
        if let Some(version) = old.and_then(|version| version[1..].parse::<usize>().ok()) {
            ensure!(version >= due, "sent after v{due} had converged, served by v{version}: {record:?}");
        }
    }
    let cut = report.cut_ids();
    ensure!(cut.is_superset(&sure_to_be_cut), "cut {cut:?}, which lacks some of {sure_to_be_cut:?}");
    ensure!(report.counts().lost() == cut.len(), "{report}");
    if status != Status::None {
        ensure!(agent.cut_request_ids()? == cut, "cut: {cut:?}, casualties: {casualties:#?}");
    }
    if status == Status::None {
        // Which they were, nobody can say; that they were, history says.
        let history = agent.history()?;
        let told = |rollout: &serde_json::Value| rollout["units"][0]["why"].as_str().is_some_and(|why| why.contains("nobody knows which"));
        ensure!(history.iter().any(told), "{history:#?}");
        let (perhaps, known): (Vec<_>, Vec<_>) = casualties.iter().partition(|casualty| casualty["perhaps"] == true);
        let nameless = |casualty: &&serde_json::Value| casualty["certain"] == false && casualty["name"] == "(unknown request of pool www)";
        ensure!(known.len().abs_diff(cut.len()) <= 1 && known.iter().all(nameless), "cut: {cut:?}, casualties: {casualties:#?}");
        ensure!(!perhaps.is_empty(), "{casualties:#?}");
    }
    if status == Status::Socket {
        ensure!(casualties.iter().all(|casualty| casualty["certain"] == true), "{casualties:#?}");
    }
    agent.ensure_nothing_left()
}
