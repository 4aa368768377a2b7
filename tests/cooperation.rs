//! Scripts that cooperate: asked first, resumed where they were, spared while they hold their lock. The clients are those of the guide.

#![allow(clippy::disallowed_methods, reason = "the bans of clippy.toml are for core")]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::agent::Agent;
use lab::jobs::{self, Job, Shape, script};
use lab::{Host, Release, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
const FAR: &str = "OnCalendar=*-01-01 03:00";
const GUIDE: &str = include_str!("../docs/guide/cooperation.md");

fn main() -> ExitCode {
    lab::suite()
        .on_each("resumable_scripts_lose_no_chunk_over_many_deploys", resumable)
        .on_each("a_lock_delays_the_signal_and_is_its_owners_alone", lock)
        .on_each("asked_in_vain_a_script_is_stopped_or_left_by_its_rules", in_vain)
        .run()
}

fn config(rules: &str) -> String {
    format!(
        "[stamp]\npath = \"/srv/deploy/stamp\"\nsettle = \"100ms\"\nmin_interval = \"0s\"\n\n[target.dumps]\nkind = \"scheduled\"\nunits = [\"dump-*.service\"]\ndrain_timeout = \"200ms\"\n{rules}"
    )
}

/// The guide's example in this language.
fn client(language: &str) -> Result<&'static str> {
    let fence = format!("```{language}\n");
    let from = GUIDE.split_once(&fence).with_context(|| format!("the guide has no {language}"))?.1;
    Ok(from.split_once("```").context("an open fence")?.0)
}

/// Each client under deploy after deploy: every chunk is done once, nothing is a casualty, nothing fails, what follows the last chunk too.
fn resumable(release: Release) -> Result<()> {
    let host = Host::boot(release, "resumable")?;
    let clients = [("bash", "/bin/bash"), ("php", "/usr/bin/php"), ("python", "/usr/bin/python3")];
    let mut all: Vec<Job> = Vec::new();
    for (language, interpreter) in clients {
        host.write(&format!("/srv/client.{language}"), client(language)?)?;
        host.ok(&["mkdir", "-p", &format!("/srv/out/dump-{language}")])?;
        let command = format!("ExecStart=\nExecStart={interpreter} /srv/client.{language} /srv/out/dump-{language}");
        all.push(script(&format!("dump-{language}"), Shape::Plain).service(&command).timer(&format!("dump-{language}"), FAR).on_failure());
    }
    jobs::install(&host, &all)?;
    let agent = Agent::install(&host)?;
    agent.deploy("d0")?;
    agent.configure(&config("checkpoint_timeout = \"30s\"\nafter = \"rerun\"\nmax_interruptions = 100\n"))?;
    let units: Vec<String> = all.iter().map(Job::service_name).collect();
    jobs::systemctl(&host, &["start", "--no-block"], &units)?;
    for n in 1..=10 {
        wait_for("every script to have done something more", MINUTE, || {
            let lines = host.sh_ok("cat /srv/out/*/done 2>/dev/null | wc -l")?;
            Ok((lines.trim().parse::<usize>()? >= n * 15).then_some(()))
        })?;
        agent.deploy_and_wait(&format!("d{n}"), MINUTE)?;
    }
    wait_for("all to be done", MINUTE * 2, || {
        let states = jobs::properties(&host, &units, &["ActiveState"])?;
        Ok(states.values().all(|unit| unit["ActiveState"] == "inactive").then_some(()))
    })?;
    let wanted: String = (1..=100).map(|n| format!("{n}\n")).chain(["published\n".to_owned()]).collect();
    for (language, _) in clients {
        let done = host.read(&format!("/srv/out/dump-{language}/done"))?;
        ensure!(done == wanted, "{language}: {done}");
        let starts = host.sh_ok(&format!("journalctl --boot --unit=dump-{language}.service | grep -c 'Starting '"))?;
        ensure!(starts.trim().parse::<u32>()? > 2, "{language} was interrupted too seldom to show anything: {starts}");
    }
    ensure!(agent.casualties()?.is_empty(), "{:#?}", agent.casualties()?);
    let failed = host.ok(&["systemctl", "list-units", "--failed", "--plain", "--no-legend"])?;
    ensure!(failed.trim().is_empty(), "{failed}");
    ensure!(host.sh_ok("ls /run/restart-agent/stop")?.trim().is_empty(), "somebody is still asked to stop");
    agent.ensure_nothing_left()
}

fn lock(release: Release) -> Result<()> {
    let host = Host::boot(release, "lock")?;
    // The lock is let go of when the protected command has ended: what follows it has none.
    let two_steps = "/bin/sh -c 'restart-agent protect -- sh -c \"sleep 8; echo whole > /var/tmp/whole\"; exec sleep 600'";
    let held = format!("User=www-data\nExecStart=\nExecStart={two_steps}");
    let never = "ExecStart=\nExecStart=/usr/bin/restart-agent protect -- /bin/sleep 600";
    let all = [
        script("dump-held", Shape::Plain).service(&held).timer("dump-held", FAR),
        script("dump-never", Shape::Plain).service(never).timer("dump-never", FAR),
    ];
    let agent = Agent::install(&host)?;
    agent.deploy("d0")?;
    jobs::install(&host, &all)?;
    agent.configure(&config("hold_timeout = \"15s\"\nafter = \"until-next\"\nterm_timeout = \"5s\"\n"))?;
    let path = |unit: &str| format!("/run/restart-agent/hold/{unit}.service.lock");
    wait_for("the locks", MINUTE, || Ok((host.run(&["test", "-e", &path("dump-never")])?.status == 0).then_some(())))?;
    let open = |user: &str, unit: &str| -> Result<bool> {
        Ok(host
            .run(&["setpriv", &format!("--reuid={user}"), "--clear-groups", "flock", "--nonblock", "--shared", &path(unit), "true"])?
            .status
            == 0)
    };
    ensure!(open("www-data", "dump-held")? && !open("nobody", "dump-held")?, "who may hold the lock of a unit of www-data");
    ensure!(!open("www-data", "dump-never")? && open("root", "dump-never")?, "who may hold the lock of a unit of root");

    let units: Vec<String> = all.iter().map(Job::service_name).collect();
    jobs::systemctl(&host, &["start", "--no-block"], &units)?;
    wait_for("both to hold their locks", MINUTE, || {
        let locks = host.sh_ok("for lock in /run/restart-agent/hold/*; do flock --nonblock $lock true || echo held; done")?;
        Ok((locks.lines().count() == 2).then_some(()))
    })?;
    agent.deploy("d1")?;
    let status = agent.wait_status("a script that is held", MINUTE, |status| {
        status["targets"][0]["units"].as_array().is_some_and(|units| units.len() == 2 && units.iter().all(|unit| unit["state"] == "held"))
    })?;
    ensure!(status["targets"][0]["units"][0]["why"].as_str().is_some_and(|why| why.contains("lock")), "{status}");
    let waited = agent.wait(MINUTE)?;
    ensure!(waited.status == 0, "{waited:?}");
    ensure!(host.read("/var/tmp/whole")?.trim() == "whole", "the protected command was cut");
    let casualties = agent.casualties()?;
    ensure!(casualties.len() == 2, "a lock that is never let go of delays no longer than hold_timeout: {casualties:#?}");
    agent.ensure_nothing_left()
}

fn in_vain(release: Release) -> Result<()> {
    let host = Host::boot(release, "in-vain")?;
    let all = [script("dump-deaf", Shape::Plain).timer("dump-deaf", FAR), script("other-deaf", Shape::Plain).timer("other-deaf", FAR)];
    jobs::install(&host, &all)?;
    jobs::start(&host, &all)?;
    let agent = Agent::install(&host)?;
    agent.deploy("d0")?;
    let finish = "[target.others]\nkind = \"scheduled\"\nunits = [\"other-*.service\"]\ndrain_timeout = \"0s\"\ncheckpoint_timeout = \"3s\"\noverdue = \"finish\"\n";
    agent.configure(&format!("{}\n{finish}", config("checkpoint_timeout = \"3s\"\nafter = \"rerun\"\n")))?;
    let invocation = host.property("other-deaf.service", "InvocationID")?;
    let plan: serde_json::Value = serde_json::from_str(&agent.ok(&["plan", "--json"])?)?;
    let planned = |unit: &str| plan["units"].as_array().into_iter().flatten().find(|planned| planned["unit"] == unit);
    for (unit, deadline, cut) in [("dump-deaf.service", 200 + 3_000 + 20_000, true), ("other-deaf.service", 3_000, false)] {
        let planned = planned(unit).with_context(|| format!("{unit} is not in the plan: {plan}"))?;
        ensure!(planned["what"].as_str().is_some_and(|what| what.contains("is asked to stop at a checkpoint, and has 3s")), "{planned}");
        ensure!(planned["deadline_ms"] == deadline && planned["casualty_expected"] == cut, "{planned}");
    }
    agent.deploy("d1")?;
    agent.wait_status("both asked", MINUTE, |status| {
        let units = status["targets"].as_array().into_iter().flatten().flat_map(|target| target["units"].as_array().into_iter().flatten());
        units.filter(|unit| unit["state"] == "asked").count() == 2
    })?;
    let text = agent.status_text()?;
    ensure!(text.contains("SIGTERM, unless its rules let it finish"), "{text}");
    for unit in ["dump-deaf.service", "other-deaf.service"] {
        ensure!(host.run(&["restart-agent", "should-stop", unit])?.status == 0, "{unit} is asked, and should-stop says no");
    }
    let waited = agent.wait(MINUTE)?;
    ensure!(waited.status == 0, "{waited:?}");
    ensure!(host.run(&["restart-agent", "should-stop", "dump-deaf.service"])?.status == 1, "still asked");
    ensure!(host.run(&["restart-agent", "should-stop", "cron.service"])?.status == 2, "cron is none of its business");
    let cut: Vec<String> = agent.casualties()?.iter().filter_map(|cut| cut["unit"].as_str().map(str::to_owned)).collect();
    ensure!(cut == ["dump-deaf.service"], "{cut:?}");
    ensure!(host.property("other-deaf.service", "InvocationID")? == invocation, "what its rules let finish was stopped");
    let text = agent.status_text()?;
    ensure!(text.contains("other-deaf.service") && text.contains("finish"), "{text}");
    agent.ensure_nothing_left()
}
