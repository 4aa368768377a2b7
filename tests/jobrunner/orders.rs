//! What people order, and who may.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::load::Load;
use lab::pool::{Command, FilePool};
use lab::web;
use lab::{Host, Release};

use crate::stage::Stage;

const SOON: Duration = Duration::from_secs(30);
const BUS: [&str; 3] = ["org.wikimedia.RestartAgent1", "/org/wikimedia/RestartAgent1", "org.wikimedia.RestartAgent1"];

/// An emergency: what is in flight is cut at once, and still counted.
pub fn force(release: Release) -> Result<()> {
    let host = Host::boot(release, "force")?;
    let stage = Stage::set(&host, &web::Options::default(), &FilePool::config("5s", "5s"), "drain_timeout = \"10m\"")?;
    let before = stage.web.generation()?;
    let load = Load::builder(&host).rate(0.0).start()?;
    let long = load.send(Duration::from_secs(60), web::POOL)?;
    load.wait_started(long)?;
    stage.agent.ok(&["trigger", "--force", "--reason", "opcache is corrupt"])?;
    let waited = stage.agent.wait(SOON)?;
    ensure!(waited.status == 0, "{waited:?}");
    let report = load.stop()?;
    ensure!(report.cut_ids() == [long].into(), "{report}");
    ensure!(stage.agent.cut_request_ids()? == report.cut_ids(), "{:?}", stage.agent.casualties()?);
    ensure!(stage.web.generation()? != before, "not restarted");
    ensure!(stage.pool.calls(Command::Depool)? == 0, "an emergency was depooled");
    let rollout = stage.agent.history()?.remove(0);
    ensure!(rollout["deploy"] == "v0" && rollout["reason"] == "opcache is corrupt" && rollout["result"] == "converged", "{rollout}");
    ensure!(rollout["by"].as_str().is_some_and(|by| by.starts_with("root (")), "{rollout}");
    stage.ensure_done("v0")
}

/// Trap T34: neither costs a request, and the deploy is not forgotten.
pub fn abort_and_hold(release: Release) -> Result<()> {
    let host = Host::boot(release, "abort")?;
    let stage = Stage::set(&host, &web::Options::default(), &FilePool::config("5s", "100ms"), "drain_timeout = \"10m\"")?;
    let before = stage.web.generation()?;
    for (version, order, result) in
        [("v1", ["abort", "--reason", "bad deploy"], "aborted"), ("v2", ["hold", "--reason", "dump is running"], "superseded")]
    {
        let load = Load::builder(&host).rate(0.0).start()?;
        let long = load.send(Duration::from_secs(5), web::POOL)?;
        load.wait_started(long)?;
        let generation = stage.web.generation()?;
        stage.deploy(version)?;
        stage.pool.wait_state("depooled")?;
        stage.agent.wait_status("the drain", SOON, |status| status["targets"][0]["state"] == "draining")?;
        stage.agent.ok(&order)?;
        stage.pool.wait_state("pooled")?;
        let status = stage.agent.wait_state("held", SOON)?;
        ensure!(status["hold"]["by"].as_str().is_some_and(|by| by.starts_with("root (")), "{status}");
        ensure!(status["hold"]["reason"].as_str().is_some_and(|reason| reason.contains(order[2])), "{status}");
        let report = load.stop()?;
        ensure!(report.counts().lost() == 0, "{order:?}: {report}");
        ensure!(stage.web.generation()? == generation, "{order:?}: php-fpm was restarted");
        let text = stage.agent.status_text()?;
        ensure!(text.contains(order[2]) && text.contains("held"), "{text}");
        if result == "aborted" {
            ensure!(stage.agent.history()?[0]["result"] == result, "{:?}", stage.agent.history()?);
        }
        stage.agent.ok(&["release"])?;
        let waited = stage.agent.wait(SOON)?;
        ensure!(waited.status == 0, "{waited:?}");
        stage.ensure_done(version)?;
    }
    ensure!(stage.web.generation()? != before);

    // A deploy during a hold waits for its end; a trigger may go before it.
    stage.agent.ok(&["hold", "--reason", "maintenance", "--for", "30m"])?;
    stage.deploy("v3")?;
    stage.agent.wait_status("the deploy to be seen", SOON, |status| status["stamp"]["id"] == "v3" && status["state"] == "held")?;
    let refused = host.run(&["restart-agent", "trigger"])?;
    ensure!(refused.status == 1 && refused.stderr.contains("maintenance"), "{refused:?}");
    ensure!(stage.web.served_version()? == "v2", "restarted in spite of the hold");
    stage.agent.ok(&["trigger", "--override-hold"])?;
    let waited = stage.agent.wait(SOON)?;
    ensure!(waited.status == 0, "{waited:?}");
    ensure!(stage.web.served_version()? == "v3" && stage.agent.status()?["state"] == "held", "the hold is for what comes after");
    let generation = stage.web.generation()?;
    stage.agent.ok(&["release"])?;
    stage.agent.wait_state("converged", SOON)?;
    ensure!(stage.web.generation()? == generation, "restarted twice for one deploy");
    stage.ensure_done("v3")
}

/// Everybody may look, root alone may order; who ordered is written down.
pub fn permissions(release: Release) -> Result<()> {
    let host = Host::boot(release, "permissions")?;
    let stage = Stage::set(&host, &web::Options::default(), "", "drain_timeout = \"1s\"")?;
    let as_user = |arguments: &[&str]| host.command(arguments.iter().copied()).user("www-data").run();
    for order in [&["trigger"][..], &["trigger", "--force"], &["hold", "--reason", "x"], &["release"], &["abort"], &["plan"]] {
        let refused = as_user(&[&["restart-agent"], order].concat())?;
        ensure!(refused.status == 77 && refused.stderr.contains("sudo"), "{order:?}: {refused:?}");
    }
    let refused = as_user(&["restart-agent", "hold", "--reason", "it's a dump"])?;
    ensure!(refused.stderr.contains(r"sudo restart-agent hold --reason 'it'\''s a dump'"), "{refused:?}");
    for [method, signature, rest] in [["Release", "", ""], ["Abort", "s", "x"], ["Plan", "", ""]] {
        let call = [&["busctl", "call"], &BUS[..], &[method, signature, rest]].concat();
        let call: Vec<&str> = call.into_iter().filter(|word| !word.is_empty()).collect();
        let refused = as_user(&call)?;
        ensure!(refused.status != 0 && refused.stderr.contains("ccess denied"), "{method}: {refused:?}");
    }
    for (property, is) in [("State", "s \"idle\""), ("DeployId", "s \"v0\""), ("Reached", "s \"v0\"")] {
        let read = as_user(&[&["busctl", "get-property"], &BUS[..], &[property]].concat())?;
        ensure!(read.success() && read.stdout.trim() == is, "{property}: {read:?}");
    }
    for property in ["WaitingFor", "Deadline", "Targets"] {
        ensure!(as_user(&[&["busctl", "get-property"], &BUS[..], &[property]].concat())?.success(), "{property}");
    }
    let waited = as_user(&["restart-agent", "wait", "--timeout", "10s"])?;
    ensure!(waited.success() && waited.stdout.contains("v0"), "{waited:?}");
    let waited = as_user(&["restart-agent", "wait", "--timeout", "0s"])?;
    ensure!(waited.success(), "it was converged already: {waited:?}");
    let status = as_user(&["restart-agent", "status"])?;
    ensure!(status.success() && status.stdout.contains("jobrunner"), "{status:?}");
    for secret in ["history", "casualties"] {
        ensure!(as_user(&["restart-agent", secret])?.status == 77, "{secret} is root's");
    }
    ensure!(stage.agent.history()?.is_empty(), "a refused order was carried out: {:?}", stage.agent.history()?);

    stage.agent.ok(&["trigger", "--target", "jobrunner", "--reason", "by hand"])?;
    ensure!(stage.agent.wait(SOON)?.status == 0);
    let rollout = stage.agent.history()?.remove(0);
    ensure!(rollout["by"].as_str().is_some_and(|by| by.starts_with("root (")), "{rollout}");
    let unknown = host.run(&["restart-agent", "trigger", "--target", "nobody"])?;
    ensure!(unknown.status == 1 && unknown.stderr.contains("jobrunner"), "{unknown:?}");
    Ok(())
}
