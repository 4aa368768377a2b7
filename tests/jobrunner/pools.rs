//! The load balancer does not always do as it is told.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::load::Load;
use lab::pool::{Command, FilePool, Moment};
use lab::web;
use lab::{Host, Release};

use crate::stage::Stage;

const SOON: Duration = Duration::from_secs(30);

/// Trap T7: whoever took the host out has a reason.
pub fn a_persons_depool(release: Release) -> Result<()> {
    let host = Host::boot(release, "persons-depool")?;
    let stage = Stage::set(&host, &web::Options::default(), &FilePool::config("5s", "100ms"), "drain_timeout = \"5s\"")?;
    stage.pool.set("depooled")?;
    let before = stage.web.generation()?;
    stage.web.deploy_code("v1")?;
    stage.agent.deploy_and_wait("v1", Duration::from_secs(60))?;
    let status = stage.agent.status()?;
    ensure!(stage.web.generation()? != before && stage.web.served_version()? == "v1", "php-fpm was not renewed: {status}");
    ensure!(stage.pool.state()? == "depooled" && stage.pool.calls(Command::Repool)? == 0, "it was put back: {status}");
    ensure!(status["state"] == "converged", "{status}");
    ensure!(status["pools"][0]["state"] == "depooled" && status["pools"][0]["depooled_by"] == "other", "{status}");
    let text = stage.agent.status_text()?;
    ensure!(text.contains("depooled"), "{text}");

    // Taken out by a person while the agent has it out: it was the agent's to put back, once.
    stage.pool.set("pooled")?;
    stage.converge("v2")
}

/// Trap T8, law 5: what is not known is not out, so nothing is restarted.
pub fn unknown(release: Release) -> Result<()> {
    let host = Host::boot(release, "unknown-pool")?;
    let stage = Stage::set(&host, &web::Options::default(), &FilePool::config("1s", "100ms"), "drain_timeout = \"5s\"")?;
    let before = stage.web.generation()?;
    let blocked = |version: &str, says: &str| -> Result<()> {
        stage.deploy(version)?;
        let waited = stage.agent.wait(SOON)?;
        ensure!(waited.status == 1 && waited.stderr.contains("blocked"), "{version}: {waited:?}");
        let status = stage.agent.status()?;
        let waits = status["waiting_for"].as_str().unwrap_or_default();
        ensure!(status["state"] == "blocked" && waits.contains(says), "{version}: {status}");
        ensure!(status["next"] == "another try" && !status["deadline"].is_null(), "{version}: {status}");
        ensure!(stage.web.generation()? == before, "{version}: restarted without knowing whether the host is out");
        ensure!(stage.pool.state()? == "pooled" && stage.pool.calls(Command::Depool)? == 0, "{version}: {status}");
        Ok(())
    };
    stage.pool.block(Command::Check, Moment::Before)?;
    blocked("v1", "did not end in time")?;
    stage.pool.let_go(Command::Check, Moment::Before)?;
    stage.pool.fail(Command::Check, 0x2a, b"404 \x1b[31m\xff not found\n")?;
    blocked("v2", "exited 42")?;
    // By itself, with the next try.
    stage.pool.mend(Command::Check)?;
    stage.agent.wait_state("converged", Duration::from_secs(60))?;
    stage.ensure_done("v2")
}

/// Trap T31: back at once, and nothing was restarted.
pub fn failed_depool(release: Release) -> Result<()> {
    let host = Host::boot(release, "failed-depool")?;
    let stage = Stage::set(&host, &web::Options::default(), &FilePool::config("1s", "100ms"), "drain_timeout = \"5s\"")?;
    let before = stage.web.generation()?;
    for (version, status, says) in [("v1", 7, "exited 7: no such backend"), ("v2", 0, "still says pooled")] {
        // Status 0 without an effect: a depool that only says that it has worked.
        stage.pool.fail(Command::Depool, status, b"no such backend\n")?;
        let repools = stage.pool.calls(Command::Repool)?;
        stage.deploy(version)?;
        let waited = stage.agent.wait(SOON)?;
        ensure!(waited.status == 1 && waited.stderr.contains(says), "{version}: {waited:?}");
        let status = stage.agent.wait_state("blocked", SOON)?;
        ensure!(status["waiting_for"].as_str().is_some_and(|waits| waits.contains(says)), "{status}");
        ensure!(stage.web.generation()? == before, "{version}: php-fpm was restarted in the pool");
        ensure!(stage.pool.calls(Command::Repool)? > repools, "{version}: a depool of unknown effect is to be undone");
        ensure!(stage.pool.state()? == "pooled" && status["pools"][0]["state"] == "pooled", "{status}");
    }
    stage.pool.mend(Command::Depool)?;
    stage.converge("v3")
}

/// Trap T30: looked at again right before the restart.
pub fn put_back_during_the_drain(release: Release) -> Result<()> {
    let host = Host::boot(release, "put-back")?;
    let stage = Stage::set(&host, &web::Options::default(), &FilePool::config("5s", "100ms"), "drain_timeout = \"20s\"")?;
    let before = stage.web.generation()?;
    let load = Load::builder(&host).rate(0.0).start()?;
    let long = load.send(Duration::from_secs(4), web::POOL)?;
    load.wait_started(long)?;
    stage.deploy("v1")?;
    stage.pool.wait_state("depooled")?;
    stage.agent.wait_status("the drain", SOON, |status| status["targets"][0]["state"] == "draining")?;
    ensure!(stage.web.generation()? == before, "php-fpm was restarted under a request");
    stage.pool.set("pooled")?;
    let waited = stage.agent.wait(Duration::from_secs(60))?;
    ensure!(waited.status == 0, "{waited:?}");
    ensure!(stage.pool.calls(Command::Depool)? == 2, "it was restarted in the pool");
    let report = load.stop()?;
    ensure!(report.counts().lost() == 0, "{report}");
    stage.ensure_done("v1")
}

/// A host that is owed its place gets it, however long that takes; and everybody can see that it is out.
pub fn failed_repool(release: Release) -> Result<()> {
    let host = Host::boot(release, "failed-repool")?;
    let stage = Stage::set(&host, &web::Options::default(), &FilePool::config("1s", "100ms"), "drain_timeout = \"5s\"")?;
    stage.pool.fail(Command::Repool, 1, b"the balancer is being upgraded\n")?;
    stage.deploy("v1")?;
    let status = stage.agent.wait_state("failed", SOON)?;
    ensure!(status["waiting_for"].as_str().is_some_and(|waits| waits.contains("the balancer is being upgraded")), "{status}");
    ensure!(status["next"] == "try again" && !status["deadline"].is_null(), "{status}");
    ensure!(status["pools"][0]["depooled_by"] == "agent", "{status}");
    let text = stage.agent.status_text()?;
    ensure!(text.contains("the balancer is being upgraded"), "{text}");
    lab::wait_for("three tries", SOON, || Ok((stage.pool.calls(Command::Repool)? >= 3).then_some(())))?;
    ensure!(stage.pool.state()? == "depooled" && stage.web.served_version()? == "v1");
    let waited = stage.agent.wait(SOON)?;
    ensure!(waited.status == 1 && waited.stderr.contains("the balancer is being upgraded"), "{waited:?}");
    stage.pool.mend(Command::Repool)?;
    stage.agent.wait_state("converged", SOON)?;
    stage.ensure_done("v1")
}
