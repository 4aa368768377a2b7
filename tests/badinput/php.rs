//! php-fpm that is broken, before or after its restart, and a status page that says nothing.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::load::Load;
use lab::pool::{Command, FilePool};
use lab::web;
use lab::{Host, Release};

use crate::stage::{Stage, phase};

const SOON: Duration = Duration::from_secs(30);
const STARTS: &str = "/var/log/app/starts.log";

/// Facts 1h: a restart would leave the host without php-fpm.
pub fn broken_configuration(release: Release) -> Result<()> {
    let host = Host::boot(release, "broken-php")?;
    let stage = Stage::set(&host, &web::Options::default(), &FilePool::config("5s", "100ms"), "drain_timeout = \"5s\"")?;
    let before = stage.web.generation()?;
    let broken = format!("{}/pool.d/zz-broken.conf", release.fpm_etc());
    host.write(&broken, "[broken]\nlisten = /run/php/broken.sock\nnonsense = 1\n")?;
    stage.deploy("v1")?;
    let waited = stage.agent.wait(SOON)?;
    ensure!(waited.status == 1 && waited.stderr.contains("zz-broken.conf"), "{waited:?}");
    let status = stage.agent.wait_state("failed", SOON)?;
    let text = stage.agent.status_text()?;
    ensure!(text.contains("nonsense") && text.contains("keeps serving"), "{text}");
    ensure!(status["next"] == "another try" && !status["deadline"].is_null(), "{status}");
    ensure!(stage.pool.calls(Command::Depool)? == 0 && stage.pool.state()? == "pooled", "depooled for nothing: {status}");
    ensure!(stage.web.generation()? == before && stage.web.served_version()? == "v0", "{status}");
    host.remove(&broken)?;
    stage.agent.ok(&["trigger", "--reason", "mended"])?;
    ensure!(stage.agent.wait(SOON)?.status == 0);
    stage.ensure_done("v1")
}

/// Trap T22. What was taken out and does not serve gets no requests; nobody starts it for ever.
pub fn does_not_come_up(release: Release) -> Result<()> {
    let host = Host::boot(release, "dead-php")?;
    let stage = Stage::set(&host, &web::Options::default(), &FilePool::config("5s", "100ms"), "drain_timeout = \"5s\"")?;
    let drop_in = format!("/etc/systemd/system/{}.d/dead.conf", release.fpm_unit());
    host.write(&drop_in, format!("[Service]\nExecStartPre=/bin/sh -c 'echo start >> {STARTS}; exit 1'\n"))?;
    host.ok(&["systemctl", "daemon-reload"])?;
    stage.deploy("v1")?;
    let waited = stage.agent.wait(Duration::from_secs(60))?;
    ensure!(waited.status == 1 && waited.stderr.contains("does not come up"), "{waited:?}");
    let status = stage.agent.wait_state("failed", SOON)?;
    let text = stage.agent.status_text()?;
    ensure!(stage.pool.state()? == "depooled" && stage.pool.calls(Command::Repool)? == 0, "a dead php-fpm was pooled: {status}");
    ensure!(status["pools"][0]["depooled_by"] == "agent", "{status}");
    ensure!(text.contains("does not come up") && text.contains("out of pool"), "{text}");
    ensure!(status["next"] == "another try" && !status["deadline"].is_null(), "{status}");
    let starts = host.read(STARTS)?.lines().count();
    ensure!(starts <= 6, "{starts} starts of a php-fpm that cannot start");
    host.remove(&drop_in)?;
    host.ok(&["systemctl", "daemon-reload"])?;
    stage.converge("v2")
}

/// Law 5: no answer, an unreadable one, a late one are all "busy", and end at the threshold.
pub fn unusable_status(release: Release) -> Result<()> {
    let host = Host::boot(release, "no-status")?;
    let target = "drain_timeout = \"2s\"\nstatus = \"/run/fake-status.sock\"\nstatus_path = \"/fpm-status\"";
    let stage = Stage::set(&host, &web::Options::default(), &FilePool::config("5s", "100ms"), target)?;
    for (version, fake) in [("v1", "echo garbage"), ("v2", "sleep 600"), ("v3", "")] {
        (|| {
            let mut server = None;
            if !fake.is_empty() {
                let listen = "UNIX-LISTEN:/run/fake-status.sock,fork,unlink-early";
                server = Some(host.spawn(&["socat", listen, &format!("SYSTEM:{fake}")])?);
                lab::wait_for("the fake status", SOON, || Ok(host.exists("/run/fake-status.sock").then_some(())))?;
            }
            let load = Load::builder(&host).rate(0.0).start()?;
            let short = load.send(Duration::from_secs(1), web::POOL)?;
            load.wait_started(short)?;
            stage.deploy(version)?;
            stage.agent.wait_status("the drain", SOON, |status| {
                status["waiting_for"].as_str().is_some_and(|waits| waits.contains("taken as busy"))
            })?;
            let waited = stage.agent.wait(Duration::from_secs(60))?;
            ensure!(waited.status == 0, "{waited:?}");
            let (began, ended) = phase(&stage.agent, "drain")?;
            ensure!((2.0..6.0).contains(&(ended - began)), "drained for {:.3} s with a threshold of 2 s", ended - began);
            let report = load.stop()?;
            ensure!(report.counts().lost() == 0, "{report}");
            let history = stage.agent.history()?;
            ensure!(history[0]["units"][0]["why"].as_str().is_some_and(|why| why.contains("status")), "{history:#?}");
            stage.ensure_done(version)?;
            drop(server);
            host.remove("/run/fake-status.sock")
        })()
        .with_context(|| format!("status: {fake:?}"))?;
    }
    Ok(())
}
