//! php-fpm that is broken in ways that only its restart shows: out of the pool until it serves. And one, with a worker, that somebody has frozen.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::jobs::{self, Marks, Shape, worker};
use lab::load::Load;
use lab::pool::{Command, FilePool};
use lab::web;
use lab::{Host, Release, wait_for};

use crate::stage::Stage;

const MINUTE: Duration = Duration::from_secs(60);
const WARM: &str = "warm = [\"/srv/app/warm.php\"]";
const WARMING: &str = "/var/log/app/warming";

pub fn does_not_stay(release: Release) -> Result<()> {
    let host = Host::boot(release, "php-does-not-stay")?;
    host.write(
        "/srv/app/warm.php",
        format!("<?php\ntouch('{WARMING}');\n$end = hrtime(true) + 1e9;\nwhile (hrtime(true) < $end) usleep(10000);\n"),
    )?;
    let stage = Stage::set(
        &host,
        &web::Options::default(),
        &FilePool::config("5s", "100ms"),
        &format!("drain_timeout = \"3s\"\nterm_timeout = \"2s\"\n{WARM}"),
    )?;
    let drop_in = format!("/etc/systemd/system/{}.d/broken.conf", release.fpm_unit());
    let broken_pool = format!("{}/pool.d/zz-broken.conf", release.fpm_etc());
    let faults = [
        ("never ready", "[Service]\nUnsetEnvironment=NOTIFY_SOCKET\nTimeoutStartSec=3s\n", "", "does not come up"),
        ("dies when it is ready", "[Service]\nExecStartPost=/bin/kill -KILL $MAINPID\n", "", "it does not "),
        (
            "dies while it is pinged",
            "[Service]\nRestart=no\nExecStartPost=/bin/sh -c 'pkill -STOP -P $MAINPID; (sleep 1; kill -KILL $MAINPID) &'\n",
            "",
            "it does not come up with the new code: Failed",
        ),
        // It answers its ping, and is killed while it is warmed up.
        ("dies after it was ready", "[Service]\nRestart=no\n", "", "has died since"),
        // Good when it was tested, broken when it is restarted.
        ("broken in the drain", "", "[broken]\nlisten = /run/php/broken.sock\nnonsense = 1\n", "does not come up"),
    ];
    for (number, (name, unit, pool, says)) in faults.into_iter().enumerate() {
        (|| {
            let version = format!("v{number}-broken");
            let repools = stage.pool.calls(Command::Repool)?;
            if !unit.is_empty() {
                host.write(&drop_in, unit)?;
                host.ok(&["systemctl", "daemon-reload"])?;
            }
            let load = Load::builder(&host).rate(0.0).start()?;
            let short = load.send(Duration::from_secs(1), web::POOL)?;
            load.wait_started(short)?;
            stage.deploy(&version)?;
            stage.agent.wait_status("the drain", MINUTE, |status| status["targets"][0]["state"] == "draining")?;
            if !pool.is_empty() {
                host.write(&broken_pool, pool)?;
            }
            if name == "dies after it was ready" {
                host.remove(WARMING)?;
                wait_for("the warm-up", MINUTE, || Ok(host.exists(WARMING).then_some(())))?;
                host.ok(&["kill", "-KILL", &host.pid_of(release.fpm_unit())?.to_string()])?;
            }
            if name == "never ready" {
                // While systemd waits for it status says so, and until when.
                let status = stage.agent.wait_status("the start", MINUTE, |status| status["targets"][0]["state"] == "starting")?;
                ensure!(!status["targets"][0]["units"][0]["deadline"].is_null(), "{status}");
            }
            let status = stage.agent.wait_state("failed", MINUTE)?;
            let text = stage.agent.status_text()?;
            println!("{release}: {name}:\n{text}");
            ensure!(status["targets"][0]["why"].as_str().is_some_and(|why| why.contains(says)), "{text}");
            ensure!(stage.pool.state()? == "depooled" && stage.pool.calls(Command::Repool)? == repools, "it was put back: {text}");
            ensure!(status["pools"][0]["depooled_by"] == "agent" && text.contains("out of pool"), "{text}");
            ensure!(status["next"] == "another try" && !status["deadline"].is_null(), "{status}");
            let report = load.stop()?;
            ensure!(report.counts().lost() == 0, "a request that had time to end was cut: {report}");

            host.remove(&drop_in)?;
            host.remove(&broken_pool)?;
            host.sh_ok(&format!("systemctl daemon-reload; systemctl reset-failed {}", release.fpm_unit()))?;
            stage.agent.ok(&["trigger", "--reason", "mended"])?;
            let waited = stage.agent.wait(MINUTE)?;
            ensure!(waited.status == 0, "{waited:?}: {}", stage.agent.status_text()?);
            stage.ensure_done(&version)
        })()
        .with_context(|| name)?;
    }
    Ok(())
}

/// By `systemctl freeze`, in the drain. What does not run cannot end, and not every systemd thaws what it is to stop.
pub fn frozen(release: Release) -> Result<()> {
    let host = Host::boot(release, "frozen")?;
    let plain = worker("worker-plain", Shape::Plain);
    jobs::install(&host, std::slice::from_ref(&plain))?;
    jobs::start(&host, std::slice::from_ref(&plain))?;
    let times = "drain_timeout = \"3s\"\nterm_timeout = \"3s\"";
    let target = format!("{times}\n[target.workers]\nkind = \"service\"\nunits = [\"worker-*.service\"]\n{times}");
    let stage = Stage::set(&host, &web::Options::default(), &FilePool::config("5s", "100ms"), &target)?;
    let load = Load::builder(&host).rate(0.0).start()?;
    let long = load.send(Duration::from_secs(30), web::POOL)?;
    load.wait_started(long)?;
    stage.deploy("v1")?;
    stage.agent.wait_status("the drain", MINUTE, |status| status["targets"][0]["state"] == "draining")?;
    let units = [release.fpm_unit(), "worker-plain.service"];
    for unit in units {
        host.ok(&["systemctl", "freeze", unit])?;
    }
    let waited = stage.agent.wait(MINUTE)?;
    ensure!(waited.status == 0, "{waited:?}\n{}", stage.agent.status_text()?);
    for unit in units {
        ensure!(host.property(unit, "FreezerState")? == "running", "{unit} is still frozen: {}", stage.agent.status_text()?);
    }
    ensure!(Marks::read(&host)?.starts("worker-plain") == 2, "the worker was not restarted once");
    load.stop()?;
    stage.ensure_done("v1")
}

/// It does not come up, and somebody mends it while a worker of the same rollout may still go on for ten minutes.
pub fn tried_again(release: Release) -> Result<()> {
    let host = Host::boot(release, "tried-again")?;
    let plain = worker("worker-plain", Shape::Plain);
    jobs::install(&host, std::slice::from_ref(&plain))?;
    jobs::start(&host, std::slice::from_ref(&plain))?;
    let target = "drain_timeout = \"3s\"\nterm_timeout = \"3s\"\n[target.workers]\nkind = \"service\"\nunits = [\"worker-*.service\"]\n\
                  drain_timeout = \"10m\"\nterm_timeout = \"3s\"";
    let stage = Stage::set(&host, &web::Options::default(), &FilePool::config("5s", "100ms"), target)?;
    let broken = format!("/etc/systemd/system/{}.d/broken.conf", release.fpm_unit());
    host.write(&broken, "[Service]\nRestart=no\nExecStartPre=/bin/false\n")?;
    host.ok(&["systemctl", "daemon-reload"])?;
    stage.deploy("v1")?;
    let again = |status: &serde_json::Value| status["next"] == "another try" && status["state"] == "converging";
    stage.agent.wait_status("the next try", MINUTE, again)?;
    println!("{release}: to be tried again:\n{}", stage.agent.status_text()?);
    ensure!(stage.pool.state()? == "depooled");
    host.remove(&broken)?;
    host.ok(&["systemctl", "daemon-reload"])?;
    wait_for("the host back in its pool", 3 * MINUTE, || Ok((stage.pool.state()? == "pooled").then_some(())))?;
    let status = stage.agent.status()?;
    ensure!(status["state"] == "converging" && Marks::read(&host)?.starts("worker-plain") == 1, "the worker was not waited for: {status}");
    Ok(())
}
