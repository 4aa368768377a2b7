//! The web stack under load: what was lost is what was lost.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use lab::load::{Class, Load};
use lab::web::{BALANCER, Options, POOL, PoolState, Status, Web};
use lab::{Host, Release, wait_for};

fn seconds(load: &Load, seconds: usize, rate: usize) -> Result<()> {
    wait_for("requests to be answered", Duration::from_secs(60), || {
        let (good, bad) = load.answered();
        if good + bad < seconds * rate {
            bail!("{good} good and {bad} bad");
        }
        Ok(Some(()))
    })
}

pub fn no_request_is_lost_at_rest(release: Release) -> Result<()> {
    let host = Host::boot(release, "rest")?;
    let web = Web::install(&host, &Options::default())?;
    let load = Load::builder(&host).rate(200.0).start()?;
    seconds(&load, 3, 200)?;
    let report = load.stop()?;
    println!("{release} at rest: {report}");
    ensure!(report.counts().ok >= 600 && report.counts().lost() == 0, "{report}");
    ensure!(report.records.iter().all(|record| record.started && record.ended), "a marker is missing");
    let generation = web.generation()?;
    let served = report.served();
    ensure!(served.len() == 2 && served.keys().all(|by| by.version == "v0"), "{served:?}");
    ensure!(served.keys().any(|by| by.server == "mw1" && by.generation == generation), "{served:?} {generation}");
    ensure!(report.latency(0.0) >= Duration::from_millis(15), "{report}");
    Ok(())
}

pub fn a_depool_lets_requests_finish(release: Release) -> Result<()> {
    for depool in [lab::web::Depool::Drain, lab::web::Depool::Maint] {
        let host = Host::boot(release, "depool")?;
        let web = Web::install(&host, &Options { depool, ..Options::default() })?;
        let load = Load::builder(&host).rate(200.0).start()?;
        // HAProxy takes the servers in turn.
        let long: Vec<u64> = (0..6).map(|_| load.send(Duration::from_secs(1), BALANCER)).collect::<Result<_>>()?;
        for id in &long {
            load.wait_started(*id)?;
        }
        ensure!(web.pool_state("mw1")? == PoolState::Pooled);
        web.depool()?;
        ensure!(web.pool_state("mw1")? == PoolState::Depooled && web.pool_state("mw2")? == PoolState::Pooled);
        let drained = std::time::SystemTime::now();
        wait_for("the pool under test to be idle", Duration::from_secs(10), || Ok(web.in_flight()?.is_empty().then_some(())))?;
        seconds(&load, 2, 200)?;
        let repooled = std::time::SystemTime::now();
        web.repool()?;
        // From maintenance some versions of HAProxy want to see a health check first.
        wait_for("mw1 to be pooled", Duration::from_secs(5), || match web.pool_state("mw1")? {
            PoolState::Pooled => Ok(Some(())),
            other => bail!("{other:?}"),
        })?;
        seconds(&load, 4, 200)?;
        let report = load.stop()?;
        println!("{release} depool by {depool}: {report}");
        ensure!(report.counts().lost() == 0, "{report}");
        let by_mw1 = |record: &&lab::load::Record| record.served.as_ref().is_some_and(|by| by.server == "mw1");
        ensure!(long.iter().filter_map(|id| report.record(*id)).any(|record| by_mw1(&record)), "no long request was in the pool");
        let late = report.records.iter().filter(by_mw1).filter(|record| (drained..repooled).contains(&record.sent_at));
        ensure!(late.count() == 0, "requests came after the depool");
        ensure!(report.records.iter().filter(by_mw1).any(|record| record.sent_at > repooled), "none came after the repool");
        let log = host.read(lab::web::POOL_LOG)?;
        ensure!(log.lines().map(|line| line.split(' ').nth(1).unwrap_or_default()).eq(["depool", "pool"]), "{log}");
    }
    Ok(())
}

pub fn a_restart_cuts_what_runs_and_no_more(release: Release) -> Result<()> {
    let host = Host::boot(release, "restart")?;
    let web = Web::install(&host, &Options::default())?;
    let old = web.generation()?;
    let load = Load::builder(&host).rate(200.0).start()?;
    seconds(&load, 1, 200)?;
    let long = load.send(Duration::from_secs(3), POOL)?;
    load.wait_started(long)?;
    web.deploy_code("v1")?;
    ensure!(web.served_version()? == "v0", "the opcache does not hold the code");
    web.depool()?;
    let uri = format!("/work.php?id={long}&ms=3000");
    wait_for("only the long request to run", Duration::from_secs(2), || match web.in_flight()? {
        running if running == [uri.as_str()] => Ok(Some(())),
        running => bail!("{running:?}"),
    })?;
    host.ok(&["systemctl", "restart", release.fpm_unit()])?;
    web.repool()?;
    ensure!(web.served_version()? == "v1" && web.generation()? != old);
    seconds(&load, 3, 200)?;
    let report = load.stop()?;
    println!("{release} restart when depooled: {report}");
    ensure!(report.cut_ids() == BTreeSet::from([long]) && report.counts().lost() == 1, "{report}");
    let versions: BTreeSet<_> = report.served().into_keys().map(|by| (by.server.clone(), by.version.clone())).collect();
    let expected = [("mw1", "v0"), ("mw1", "v1"), ("mw2", "v0")].map(|(server, version)| (server.to_owned(), version.to_owned()));
    ensure!(versions == BTreeSet::from(expected), "{versions:?}");
    Ok(())
}

pub fn a_restart_in_the_pool_shows_its_losses(release: Release) -> Result<()> {
    let host = Host::boot(release, "losses")?;
    Web::install(&host, &Options::default())?;
    let load = Load::builder(&host).rate(200.0).start()?;
    let long = load.send(Duration::from_secs(3), POOL)?;
    load.wait_started(long)?;
    host.ok(&["systemctl", "restart", release.fpm_unit()])?;
    seconds(&load, 1, 200)?;
    let report = load.stop()?;
    println!("{release} restart in the pool: {report}");
    ensure!(report.cut_ids().contains(&long) && report.counts().refused > 0 && report.counts().wrong == 0, "{report}");
    ensure!(report.of(Class::Cut).all(|record| record.started) && report.of(Class::Refused).all(|record| !record.started));
    Ok(())
}

pub fn every_kind_of_status(release: Release) -> Result<()> {
    let host = Host::boot(release, "status")?;
    for status in [Status::Socket, Status::Path, Status::None] {
        let web = Web::install(&host, &Options { children: 2, status, ..Options::default() })?;
        let parsed = host.run(&[release.fpm_binary(), "-tt"])?.stderr;
        ensure!(parsed.contains("pm.status_listen = /run") == (status == Status::Socket), "{parsed}");
        ensure!(parsed.contains("pm.status_path = /fpm-status") == (status != Status::None), "{parsed}");
        let load = Load::builder(&host).rate(0.0).start()?;
        let id = load.send(Duration::from_millis(500), POOL)?;
        load.wait_started(id)?;
        match web.in_flight() {
            Ok(running) => ensure!(running == [format!("/work.php?id={id}&ms=500")], "{status:?}: {running:?}"),
            Err(error) => ensure!(status == Status::None, "{error:#}"),
        }
        ensure!(load.stop()?.counts().ok == 1);
    }
    Ok(())
}
