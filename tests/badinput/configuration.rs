//! The agent's own configuration, the units that it names, and its disk.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::agent::{Agent, CONFIG};
use lab::load::Load;
use lab::pool::{Command, FilePool};
use lab::web;
use lab::{Host, Release};

use crate::stage::Stage;
use crate::{STAMP, WORKER, WORKERS, start_worker};

const SOON: Duration = Duration::from_secs(30);

fn says(status: &serde_json::Value, what: &str) -> bool {
    status["problems"]
        .as_array()
        .is_some_and(|problems| problems.iter().any(|problem| problem.as_str().is_some_and(|text| text.contains(what))))
}

/// At a reload the old one stays; at a start there is none, so nothing is renewed; mended, what was missed is done.
pub fn unknown_key(release: Release) -> Result<()> {
    let host = Host::boot(release, "unknown-key")?;
    start_worker(&host)?;
    let agent = Agent::install(&host)?;
    agent.deploy("d0")?;
    let good = format!("{STAMP}{WORKERS}");
    agent.configure(&good)?;
    let bad = format!("{STAMP}setle = \"1s\"\n{WORKERS}");
    host.write(CONFIG, &bad)?;
    let place = format!("{CONFIG}:5");
    let checked = host.run(&["restart-agent", "check-config"])?;
    ensure!(checked.status == 78 && checked.stderr.contains(&place) && checked.stderr.contains("settle"), "{checked:?}");
    host.run(&["systemctl", "reload", "restart-agent"])?;
    let status = agent.wait_status("the problem in status", SOON, |status| says(status, &place))?;
    ensure!(says(&status, "the old one stays"), "{status}");
    ensure!(agent.status_text()?.contains(&place), "{}", agent.status_text()?);
    agent.deploy_and_wait("d1", SOON)?;

    let worker = host.property(WORKER, "InvocationID")?;
    host.ok(&["systemctl", "restart", "restart-agent"])?;
    agent.wait_active()?;
    agent.wait_status("the problem in status", SOON, |status| says(status, &place) && says(status, "nothing is renewed"))?;
    let text = agent.status_text()?;
    ensure!(text.starts_with("BLOCKED: the configuration cannot be used") && text.contains("systemctl reload restart-agent"), "{text}");
    ensure!(!text.contains("write targets"), "{text}");
    agent.deploy("d2")?;
    ensure!(host.property("restart-agent.service", "NRestarts")? == "0", "it does not stay up with a bad configuration");
    ensure!(agent.history()?.len() == 1, "{:#?}", agent.history()?);
    host.write(CONFIG, &good)?;
    host.ok(&["systemctl", "reload", "restart-agent"])?;
    let status = agent.wait_status("d2", SOON, |status| status["reached"]["id"] == "d2")?;
    ensure!(status["problems"].as_array().is_some_and(Vec::is_empty), "{status}");
    ensure!(host.property(WORKER, "InvocationID")? != worker, "the worker was not renewed for d2");
    Ok(())
}

/// A file that breaks while a rollout is on its way, and an agent that is restarted then: nothing is called converged that is not.
pub fn broken_in_a_rollout(release: Release) -> Result<()> {
    let host = Host::boot(release, "broken-in-a-rollout")?;
    let stage = Stage::set(&host, &web::Options::default(), &FilePool::config("5s", "100ms"), "drain_timeout = \"20s\"")?;
    let agent = &stage.agent;
    let before = stage.web.generation()?;
    let load = Load::builder(&host).rate(0.0).start()?;
    let long = load.send(Duration::from_secs(15), web::POOL)?;
    load.wait_started(long)?;
    agent.deploy("v1")?;
    agent.wait_status("the drain", SOON, |status| status["targets"][0]["state"] == "draining")?;
    let good = host.read(CONFIG)?;
    host.write(CONFIG, format!("{good}\nbogus = 1\n"))?;
    agent.kill()?;
    let status = agent.wait_state("blocked", SOON)?;
    ensure!(says(&status, "nothing is renewed") && status["stamp"]["path"] == lab::agent::STAMP, "{status}");
    let waited = agent.wait(Duration::from_secs(5))?;
    ensure!(waited.status == 1 && waited.stderr.contains("cannot be used"), "{waited:?}");
    ensure!(agent.history()?.iter().all(|rollout| rollout["result"] != "converged"), "{:#?}", agent.history()?);
    stage.pool.wait_state("pooled")?;
    // A deploy that nobody was there to see.
    agent.deploy("v2")?;
    let waited = agent.wait(Duration::from_secs(5))?;
    ensure!(waited.status == 1, "{waited:?}");
    let report = load.stop()?;
    ensure!(report.cut_ids().is_empty(), "{report}");

    host.write(CONFIG, &good)?;
    host.ok(&["systemctl", "reload", "restart-agent"])?;
    let waited = agent.wait(Duration::from_secs(60))?;
    ensure!(waited.status == 0, "{waited:?}");
    ensure!(stage.web.generation()? != before, "php-fpm was not renewed");
    ensure!(agent.status()?["reached"]["id"] == "v2", "{}", agent.status()?);
    Ok(())
}

/// What cannot be done for one target is not left undone for the others.
pub fn impossible_units(release: Release) -> Result<()> {
    let host = Host::boot(release, "impossible-units")?;
    start_worker(&host)?;
    let stage = Stage::set(&host, &web::Options::default(), &FilePool::config("5s", "100ms"), "drain_timeout = \"5s\"")?;
    let config = host.read(CONFIG)?;
    stage.agent.configure(&format!("{config}\n{WORKERS}[target.gone]\nkind = \"php-fpm\"\nunit = \"php5.6-fpm.service\"\n"))?;
    let (before, worker) = (stage.web.generation()?, host.property(WORKER, "InvocationID")?);
    let mask = format!("/run/systemd/system/{}", release.fpm_unit());
    host.sh_ok(&format!("mkdir -p {mask}.d && ln -s /dev/null {mask} && systemctl daemon-reload"))?;
    // A unit file in /etc or /lib is stronger than one in /run; masked for sure is what /etc says so.
    host.sh_ok(&format!("rm {mask} && ln -sf /dev/null /etc/systemd/system/{} && systemctl daemon-reload", release.fpm_unit()))?;
    stage.deploy("v1")?;
    let waited = stage.agent.wait(SOON)?;
    ensure!(waited.status == 1, "{waited:?}");
    let status = stage.agent.wait_state("failed", SOON)?;
    let why = |name: &str| -> String {
        let targets = status["targets"].as_array().into_iter().flatten();
        targets.filter(|target| target["name"] == name).filter_map(|target| target["why"].as_str()).collect()
    };
    ensure!(why("gone").contains("there is no such unit"), "{status}");
    ensure!(why("jobrunner").contains("masked"), "{status}");
    ensure!(status["next"] == "another try" && !status["deadline"].is_null(), "{status}");
    ensure!(stage.pool.calls(Command::Depool)? == 0, "depooled for nothing");
    ensure!(stage.web.generation()? == before, "a masked php-fpm was restarted");
    ensure!(host.property(WORKER, "InvocationID")? != worker, "the worker was not renewed: {status}");

    host.sh_ok(&format!("rm /etc/systemd/system/{} && systemctl daemon-reload", release.fpm_unit()))?;
    stage.agent.configure(&config)?;
    stage.converge("v2")
}

/// Nothing that acts is begun that could not be remembered; when there is room again, it goes on by itself.
pub fn full_disk(release: Release) -> Result<()> {
    let host = Host::boot(release, "full-disk")?;
    host.sh_ok("install -d -m 700 /var/lib/restart-agent && mount -t tmpfs -o size=1M,mode=700 tmpfs /var/lib/restart-agent")?;
    let stage = Stage::set(&host, &web::Options::default(), &FilePool::config("5s", "100ms"), "drain_timeout = \"5s\"")?;
    stage.converge("v1")?;
    let (before, depooled) = (stage.web.generation()?, stage.pool.calls(Command::Depool)?);
    host.sh("cat /dev/zero > /var/lib/restart-agent/ballast; sync")?;
    stage.deploy("v2")?;
    let status = stage.agent.wait_status("the full disk in status", SOON, |status| status["state"] == "blocked")?;
    let text = stage.agent.status_text()?;
    ensure!(says(&status, "journal") || says(&status, "full"), "{status}");
    ensure!(status["stamp"]["id"] == "v2", "{status}");
    ensure!(text.contains("full") || text.contains("journal"), "{text}");
    let refused = host.run(&["restart-agent", "trigger"])?;
    ensure!(refused.status == 1, "an order was accepted that cannot be remembered: {refused:?}");
    ensure!(stage.web.generation()? == before && stage.pool.calls(Command::Depool)? == depooled, "{status}");
    host.remove("/var/lib/restart-agent/ballast")?;
    stage.agent.wait_state("converged", Duration::from_secs(60))?;
    stage.ensure_done("v2")?;
    ensure!(stage.agent.history()?.iter().filter(|rollout| rollout["result"] == "converged").count() == 2, "{:#?}", stage.agent.history()?);
    Ok(())
}
