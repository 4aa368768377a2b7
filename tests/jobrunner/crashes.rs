//! Killed at any point, the agent comes back and finishes what it began.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::load::Load;
use lab::pool::{Command, FilePool, Moment};
use lab::web;
use lab::{Host, Release};

use crate::stage::Stage;

const SOON: Duration = Duration::from_secs(30);
const STARTS: &str = "/var/log/app/starts.log";
const BLOCK_START: &str = "/run/block-start";

/// php-fpm writes down each of its starts, and waits with it as long as [`BLOCK_START`] exists.
fn watch_starts(host: &Host) -> Result<()> {
    let drop_in = format!(
        "[Service]\nExecStartPre=/bin/sh -c 'echo start >> {STARTS}; while [ -e {BLOCK_START} ]; do sleep 0.02; done'\n[Unit]\nStartLimitIntervalSec=0\n"
    );
    host.write(&format!("/etc/systemd/system/{}.d/starts.conf", host.release().fpm_unit()), drop_in)?;
    host.ok(&["systemctl", "daemon-reload"]).map(drop)
}

fn starts(host: &Host) -> Result<usize> {
    Ok(if host.exists(STARTS) { host.read(STARTS)?.lines().count() } else { 0 })
}

pub fn killed(release: Release) -> Result<()> {
    let host = Host::boot(release, "killed")?;
    let stage = Stage::set(&host, &web::Options::default(), &FilePool::config("20s", "100ms"), "drain_timeout = \"10m\"")?;
    watch_starts(&host)?;
    let mut version = 0;
    // Each with php-fpm restarted exactly once, nothing cut, and the host back in the pool.
    let mut at = |what: &str, reach: &dyn Fn() -> Result<()>, go_on: &dyn Fn() -> Result<()>| -> Result<()> {
        version += 1;
        let before = starts(&host)?;
        let version = format!("v{version}");
        (|| {
            stage.deploy(&version)?;
            reach()?;
            if what == "restarted by systemctl" {
                let begun = std::time::Instant::now();
                host.ok(&["systemctl", "restart", "restart-agent"])?;
                ensure!(begun.elapsed() < SOON / 3, "a stop in the drain took {:?} of TimeoutStopSec=30s", begun.elapsed());
            } else {
                stage.agent.kill()?;
            }
            go_on()?;
            stage.agent.wait_active()?;
            let waited = stage.agent.wait(Duration::from_secs(60))?;
            ensure!(waited.status == 0, "{waited:?}: {}", stage.agent.status_text()?);
            stage.ensure_done(&version)?;
            ensure!(starts(&host)? == before + 1, "php-fpm was started {} times", starts(&host)? - before);
            Ok(())
        })()
        .with_context(|| format!("killed {what}"))
    };
    for (command, moment) in [
        (Command::Depool, Moment::Before),
        (Command::Depool, Moment::After),
        (Command::Repool, Moment::Before),
        (Command::Repool, Moment::After),
    ] {
        stage.pool.block(command, moment)?;
        // The killed agent's command still waits to act, or to end: it must not do so when the new agent has put the host back.
        at(&format!("{moment:?} the act of {command:?}"), &|| stage.pool.wait_blocked(command, moment), &|| Ok(()))?;
        stage.pool.let_go(command, moment)?;
        stage.ensure_done(&stage.web.served_version()?)?;
    }
    for how in ["in the drain", "restarted by systemctl"] {
        let load = Load::builder(&host).rate(0.0).start()?;
        let long = load.send(Duration::from_secs(6), web::POOL)?;
        load.wait_started(long)?;
        let draining = || stage.agent.wait_status("the drain", SOON, |status| status["targets"][0]["state"] == "draining").map(drop);
        at(how, &draining, &|| Ok(()))?;
        let report = load.stop()?;
        ensure!(report.counts().lost() == 0, "killed {how}: {report}");
    }
    host.write(BLOCK_START, "")?;
    let begun = starts(&host)?;
    let restarting = || lab::wait_for("the restart", SOON, || Ok((starts(&host)? > begun).then_some(())));
    at("during the restart", &restarting, &|| host.remove(BLOCK_START))?;
    ensure!(stage.agent.casualties()?.is_empty(), "{:?}", stage.agent.casualties()?);

    // Killed at rest, with all that it knows in the journal alone: the stamp is the one that it knew.
    let (rollouts, started) = (stage.agent.history()?.len(), starts(&host)?);
    stage.agent.kill()?;
    stage.agent.wait_active()?;
    ensure!(stage.agent.wait(SOON)?.status == 0);
    ensure!(stage.agent.history()?.len() == rollouts && starts(&host)? == started, "its death began a rollout");
    Ok(())
}

/// The balancer remembers that the host is out; the agent remembers that it owes the host its place.
pub fn power_failure(release: Release) -> Result<()> {
    let host = Host::boot(release, "power-failure")?;
    let stage = Stage::set(&host, &web::Options::default(), &FilePool::config("20s", "100ms"), "drain_timeout = \"10m\"")?;
    for unit in ["nginx.service", release.fpm_unit()] {
        host.ok(&["systemctl", "enable", unit])?;
    }
    {
        let load = Load::builder(&host).rate(0.0).start()?;
        let long = load.send(Duration::from_secs(30), web::POOL)?;
        load.wait_started(long)?;
        stage.deploy("v1")?;
        stage.agent.wait_status("the drain", SOON, |status| status["targets"][0]["state"] == "draining")?;
        host.power_off_hard()?;
    }
    host.boot_again()?;
    stage.agent.wait_active()?;
    let waited = stage.agent.wait(Duration::from_secs(60))?;
    ensure!(waited.status == 0, "{waited:?}: {}", stage.agent.status_text()?);
    stage.ensure_done("v1")?;

    // A deploy that landed while the host was off, and nothing else, is done at its start; php-fpm is new by then.
    host.power_off()?;
    host.boot_again()?;
    stage.agent.wait_active()?;
    ensure!(stage.agent.wait(Duration::from_secs(60))?.status == 0);
    ensure!(stage.agent.history()?.len() == 1, "a boot began a rollout: {:#?}", stage.agent.history()?);
    stage.converge("v2")?;

    // And one that landed then.
    let lands = format!(
        "[Unit]\nDefaultDependencies=no\nAfter=local-fs.target\nBefore=sysinit.target\n[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo v3 > {0}.new && mv {0}.new {0}'\n[Install]\nWantedBy=sysinit.target\n",
        lab::agent::STAMP
    );
    host.write("/etc/systemd/system/lands.service", lands)?;
    host.sh_ok("systemctl daemon-reload && systemctl --quiet enable lands.service")?;
    stage.web.deploy_code("v3")?;
    host.power_off()?;
    host.boot_again()?;
    stage.agent.wait_active()?;
    let waited = stage.agent.wait(Duration::from_secs(60))?;
    ensure!(waited.status == 0, "{waited:?}");
    ensure!(stage.agent.history()?.len() == 3, "{:#?}", stage.agent.history()?);
    stage.ensure_done("v3")
}
