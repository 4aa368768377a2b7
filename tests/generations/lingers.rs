//! Old generations that are still at work.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use lab::generations::{ADDRESS, BOOT, Options, WebServer};
use lab::load::Class;
use lab::{Host, Release, wait_for};
use serde_json::Value;

use crate::agent::{MINUTE, Played};

fn few() -> Options {
    Options { children: 4, ..Options::default() }
}

fn unit<'s>(status: &'s Value, unit: &str) -> Option<&'s Value> {
    status["targets"][0]["units"].as_array()?.iter().find(|seen| seen["unit"] == unit)
}

/// A request with a child outlasts `linger`: it is cut then and no earlier, named, and nothing of its generation is left.
pub fn no_longer_than_linger(release: Release) -> Result<()> {
    let host = Host::boot(release, "linger")?;
    let mut played = Played::set(&host, WebServer::Nginx, &few(), "linger = \"5s\"\nterm_timeout = \"2s\"")?;
    let boot = played.stage.stack.unit(BOOT);
    let load = played.stage.load().start()?;
    let id = load.send_with_child(Duration::from_secs(600), ADDRESS)?;
    load.wait_started(id)?;
    played.deploy("v1")?;
    let status =
        played.agent.wait_status("boot to linger", MINUTE, |status| unit(status, &boot).is_some_and(|unit| unit["in_flight"] == 1))?;
    ensure!(status["state"] == "converged" && unit(&status, &boot).is_some_and(|unit| unit["state"] == "lingering"), "{status}");
    let text = played.agent.status_text()?;
    ensure!(text.contains("/work.php"), "it is not said what it is at: {text}");
    let deadline = unit(&status, &boot).map(|unit| unit["deadline"].clone()).unwrap_or_default();
    ensure!(deadline.is_string(), "{status}");
    ensure!(load.answered() == (0, 0), "cut before its time");
    wait_for("boot to be gone", MINUTE, || Ok((!played.stage.stack.active()?.contains(&BOOT.to_owned())).then_some(())))?;
    let report = load.stop()?;
    ensure!(report.record(id).is_some_and(|record| record.class == Class::Cut), "{report}");
    ensure!(report.records[0].latency >= Duration::from_secs(5), "cut after {:?}", report.records[0].latency);
    wait_for("the casualty", MINUTE, || Ok((!played.agent.casualties()?.is_empty()).then_some(())))?;
    let casualties = played.agent.casualties()?;
    ensure!(
        casualties.len() == 1
            && casualties[0]["name"] == "/srv/app/work.php"
            && casualties[0]["certain"] == true
            && casualties[0]["unit"] == boot.as_str(),
        "{casualties:#?}"
    );
    ensure!(played.agent.cut_request_ids()?.into_iter().eq([id]), "{casualties:#?}");
    let left = host.sh("pgrep -f 'n=0; while'")?.stdout;
    ensure!(left.trim().is_empty(), "its child is still there: {left}");
    played.ensure_settled("v1")
}

/// Only the child of a request that has ended is at work: that is work as well.
pub fn for_a_child_as_well(release: Release) -> Result<()> {
    let host = Host::boot(release, "linger-child")?;
    let mut played = Played::set(&host, WebServer::Nginx, &few(), "")?;
    let boot = played.stage.stack.unit(BOOT);
    // What it starts goes on when it has answered.
    host.write("/srv/app/starts.php", "<?php exec('/bin/sh -c \"until [ -e /var/tmp/finish ]; do sleep 0.1; done\" > /dev/null 2>&1 &');")?;
    let answer = lab::load::get(&host, ADDRESS, "/starts.php", MINUTE)?;
    ensure!(answer.status == 200, "{answer:?}");
    played.deploy("v1")?;
    let lingers =
        |status: &Value| unit(status, &boot).is_some_and(|unit| unit["why"].as_str().is_some_and(|why| why.contains("of a request")));
    let status = played.agent.wait_status("boot to wait for the child", MINUTE, lingers)?;
    ensure!(unit(&status, &boot).is_some_and(|unit| unit["in_flight"] == 0), "{status}");
    ensure!(played.stage.stack.active()?.contains(&BOOT.to_owned()), "it did not wait for the child");
    host.write("/var/tmp/finish", "")?;
    played.ensure_settled("v1")?;
    ensure!(played.agent.casualties()?.is_empty(), "{:?}", played.agent.casualties()?);
    Ok(())
}

/// As many as may run do: the next deploy waits, and says for which request; or the oldest is ended.
pub fn as_many_as_may(release: Release) -> Result<()> {
    let host = Host::boot(release, "at-max")?;
    let mut played = Played::set(&host, WebServer::Nginx, &few(), "max_generations = 2")?;
    let boot = played.stage.stack.unit(BOOT);
    let load = played.stage.load().start()?;
    let id = load.send(Duration::from_secs(12), ADDRESS)?;
    load.wait_started(id)?;
    played.deploy("v1")?;
    played.stage.stack.deploy_code("v2")?;
    played.agent.deploy("v2")?;
    let told = |status: &Value| {
        let waiting = status["waiting_for"].as_str().unwrap_or_default();
        status["state"] == "converging" && waiting.contains("max_generations") && waiting.contains(&boot) && waiting.contains("/work.php")
    };
    played.agent.wait_status("the deploy to wait for boot's request", MINUTE, told)?;
    ensure!(played.stage.stack.active()?.len() == 2, "{:?}", played.stage.stack.active()?);
    let waited = played.agent.wait(MINUTE)?;
    ensure!(waited.status == 0, "{waited:?}");
    played.arrived("v2")?;
    let report = load.stop()?;
    ensure!(report.counts().lost() == 0, "{report}");

    let config = crate::agent::config(&played.stage, "max_generations = 2\nat_max = \"end-oldest\"\nterm_timeout = \"2s\"");
    played.agent.configure(&config)?;
    let load = played.stage.load().start()?;
    let id = load.send(Duration::from_secs(600), ADDRESS)?;
    load.wait_started(id)?;
    played.deploy("v3")?;
    played.deploy("v4")?;
    let report = load.stop()?;
    ensure!(report.counts().lost() == 1 && report.record(id).is_some_and(|record| record.class == Class::Cut), "{report}");
    wait_for("the casualty", MINUTE, || {
        let cut = played.agent.cut_request_ids()?;
        if cut.into_iter().eq([id]) { Ok(Some(())) } else { bail!("{:?}", played.agent.casualties()?) }
    })?;
    played.ensure_settled("v4")
}

/// Too little memory: the rollout waits and says so; an emergency ends what lingers.
pub fn memory_and_force(release: Release) -> Result<()> {
    let host = Host::boot(release, "memory")?;
    let mut played = Played::set(&host, WebServer::Nginx, &few(), "min_available_memory = \"9000G\"")?;
    played.stage.stack.deploy_code("v1")?;
    played.agent.deploy("v1")?;
    let told = |status: &Value| status["waiting_for"].as_str().is_some_and(|why| why.contains("min_available_memory"));
    played.agent.wait_status("the deploy to wait for memory", MINUTE, told)?;
    let plan = played.agent.ok(&["plan"])?;
    ensure!(plan.contains("the last one takes") && plan.contains("min_available_memory"), "{plan}");
    let config = crate::agent::config(&played.stage, "term_timeout = \"2s\"");
    played.agent.configure(&config)?;
    let waited = played.agent.wait(MINUTE)?;
    ensure!(waited.status == 0, "{waited:?}");
    played.arrived("v1")?;

    let load = played.stage.load().start()?;
    let id = load.send(Duration::from_secs(600), ADDRESS)?;
    load.wait_started(id)?;
    played.agent.ok(&["trigger", "--force", "--reason", "an emergency"])?;
    wait_for("the old one to be gone", MINUTE, || Ok((load.answered() == (0, 1)).then_some(())))?;
    let report = load.stop()?;
    ensure!(report.record(id).is_some_and(|record| record.class == Class::Cut), "{report}");
    played.agent.wait_state("converged", MINUTE)?;
    played.ensure_settled("v1")
}
