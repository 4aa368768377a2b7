//! `kind = "strays"`: processes outside of every target's units, reported, told of, or stopped one by one.
//!
//! A service of cron's name stands in for cron, which would begin a minute later. So does a scope of the name that logind gives, in its
//! slice, for a session where a test must know its name; `report` has a real one as well.

#![allow(clippy::disallowed_methods, reason = "the bans of clippy.toml are for core")]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::agent::Agent;
use lab::{Host, Release, wait_for};
use serde_json::Value;

const MINUTE: Duration = Duration::from_secs(60);
/// Says that it has begun; ends of SIGTERM, or says that it was sent it and goes on.
const SCRIPT: &str = "<?php
pcntl_async_signals(true);
if (($argv[2] ?? '') === 'stubborn') pcntl_signal(SIGTERM, fn () => file_put_contents(\"/var/tmp/$argv[1].term\", \"x\", FILE_APPEND));
file_put_contents(\"/var/tmp/$argv[1].pid\", getmypid());
while (true) usleep(20000);
";

fn main() -> ExitCode {
    lab::suite()
        .on_each("strays_are_reported_with_who_and_where_and_how_old", report)
        .on_each("a_terminal_is_told_once_for_each_deploy", notify)
        .on_each("only_the_stray_process_is_stopped_and_recorded_once_t10", stop)
        .on_each("killed_between_sigterm_and_sigkill_the_agent_goes_on_t06", crash)
        .run()
}

fn config(rules: &str) -> String {
    format!(
        "[stamp]\npath = \"/srv/deploy/stamp\"\nsettle = \"100ms\"\nmin_interval = \"0s\"\n\n\
         [target.jobs]\nkind = \"scheduled\"\nunits = [\"job-*.service\"]\nexclude = [\"job-excluded.service\"]\ncode = [\"php*\"]\n\
         drain_timeout = \"0s\"\nafter = \"until-next\"\n\n[target.strays]\nkind = \"strays\"\ncode = [\"php*\"]\n{rules}\n"
    )
}

/// Where a php is started, and how it is called.
const PLACES: [(&str, &str); 7] = [
    ("left", "job-left.service"),
    ("session", "session-77.scope"),
    ("cron", "cron.service"),
    ("transient", "run-import.service"),
    ("other", "website.service"),
    ("excluded", "job-excluded.service"),
    ("mine", "job-mine.service"),
];

/// One php in each place, each below a shell that waits for it.
fn begin(host: &Host) -> Result<()> {
    host.write("/srv/stray.php", SCRIPT)?;
    let service = |name: &str| format!("[Service]\nExecStart=/bin/sh -c 'php /srv/stray.php {name}; sleep 600'\n");
    for (unit, name) in [("cron", "cron"), ("website", "other"), ("job-excluded", "excluded"), ("job-mine", "mine")] {
        host.write(&format!("/etc/systemd/system/{unit}.service"), service(name))?;
    }
    host.sh_ok(
        "systemctl daemon-reload && systemctl restart cron website job-excluded job-mine
         systemd-run --quiet --unit=run-import --uid=www-data sh -c 'php /srv/stray.php transient; sleep 600'",
    )?;
    // A script that has ended, and left a child behind.
    host.write(
        "/etc/systemd/system/job-left.service",
        "[Service]\nType=oneshot\nKillMode=process\nExecStart=/bin/sh -c 'php /srv/stray.php left >/dev/null 2>&1 & until [ -e /var/tmp/left.pid ]; do sleep 0.05; done'\n",
    )?;
    host.sh_ok("systemctl daemon-reload && systemctl start job-left")?;
    session(host, 77, "php /srv/stray.php session; sleep 600")?;
    for (name, unit) in PLACES {
        let pid = pid_of(host, name)?;
        let cgroup = host.read(&format!("/proc/{pid}/cgroup"))?;
        ensure!(cgroup.trim().ends_with(unit), "{name} is in {cgroup}");
    }
    Ok(())
}

/// A person's session, with a terminal whose text lands in /var/tmp/NUMBER.typescript.
fn session(host: &Host, number: u32, command: &str) -> Result<()> {
    host.write(&format!("/srv/session-{number}"), format!("#!/bin/sh\n{command}\n"))?;
    host.sh_ok(&format!(
        "chmod 755 /srv/session-{number}
         setsid systemd-run --quiet --scope --slice=user.slice --unit=session-{number}.scope --uid=www-data \
           script -qfc /srv/session-{number} /var/tmp/{number}.typescript </dev/null >/dev/null 2>&1 &"
    ))?;
    Ok(())
}

fn pid_of(host: &Host, name: &str) -> Result<u32> {
    let path = format!("/var/tmp/{name}.pid");
    let read = || Ok(if host.exists(&path) { host.read(&path)?.trim().parse().ok() } else { None });
    wait_for(&format!("the php of {name}"), MINUTE / 3, read)
}

fn lives(host: &Host, pid: u32) -> bool {
    host.read(&format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

fn strays(status: &Value) -> Result<Vec<Value>> {
    let targets = status["targets"].as_array().context("no targets")?;
    let target = targets.iter().find(|target| target["name"] == "strays").context("no strays")?;
    // The image's own php-fpm is in no target here, and so is told as well.
    let fpm = |unit: &&Value| unit["unit"].as_str().is_some_and(|unit| unit.contains("-fpm."));
    let units = target["units"].as_array().context("no units")?;
    ensure!(units.iter().filter(fpm).all(|unit| unit["state"] == "left"), "{status}");
    Ok(units.iter().filter(|unit| !fpm(unit)).cloned().collect())
}

fn of_pid(status: &Value, pid: u32) -> Result<Value> {
    strays(status)?.into_iter().find(|unit| unit["process"]["pid"] == pid).with_context(|| format!("{pid} is not told: {status}"))
}

/// /var/tmp is everybody's.
fn boot<'h>(host: &'h Host, rules: &str) -> Result<Agent<'h>> {
    begin(host)?;
    let agent = Agent::install(host)?;
    agent.deploy("d0")?;
    agent.configure(&config(rules))?;
    Ok(agent)
}

fn report(release: Release) -> Result<()> {
    let host = Host::boot(release, "report")?;
    let agent = boot(&host, "")?;
    let plan = agent.ok(&["plan"])?;
    ensure!(plan.contains("run-import.service (strays)") && plan.contains("of www-data: is reported"), "{plan}");
    // A script's child that pam_systemd has moved out of its unit, into a session of its own (facts F4.7).
    let su = "[Service]\nType=oneshot\nExecStart=/usr/bin/su -s /bin/sh www-data -c 'php /srv/stray.php person; sleep 600'\n";
    host.write("/etc/systemd/system/job-su.service", su)?;
    host.sh_ok("systemctl daemon-reload && systemctl start --no-block job-su")?;
    let person = pid_of(&host, "person")?;
    agent.deploy_and_wait("d1", MINUTE)?;
    let status = agent.wait_state("converged", MINUTE)?;
    let real = of_pid(&status, person)?;
    let session = real["process"]["session"].as_str().unwrap_or_default();
    ensure!(!session.is_empty() && real["unit"] == format!("session-{session}.scope"), "{real}");
    host.ok(&["kill", &person.to_string()])?;
    for (name, unit) in PLACES {
        let pid = pid_of(&host, name)?;
        if name == "mine" {
            ensure!(strays(&status)?.iter().all(|stray| stray["process"]["pid"] != pid), "{status}");
            continue;
        }
        let stray = of_pid(&status, pid)?;
        ensure!(stray["unit"] == unit && stray["state"] == "left" && stray["stale_processes"] == 1, "{stray}");
        let user = if matches!(name, "session" | "transient") { "www-data" } else { "root" };
        let process = &stray["process"];
        ensure!(process["name"] == "php" && process["user"] == user && process["started_at"].is_string(), "{stray}");
        ensure!(process["session"] == if name == "session" { Value::from("77") } else { Value::Null }, "{stray}");
        ensure!(process["terminal"].is_string() == (name == "session"), "{stray}");
        ensure!(!process["stale_by"].as_str().unwrap_or_default().is_empty(), "{stray}");
        ensure!(lives(&host, pid), "{name} was ended");
    }
    ensure!(!status.to_string().contains("stray.php"), "arguments are told: {status}");
    let text = agent.status_text()?;
    ensure!(text.contains("of www-data in session 77") && text.contains("before the deploy"), "{text}");
    println!("{text}");
    ensure!(agent.casualties()?.iter().all(|cut| cut["target"] == "jobs"), "{:?}", agent.casualties()?);
    // What ends is not told any more, and another agent finds the others.
    let ended = pid_of(&host, "transient")?;
    host.ok(&["kill", &ended.to_string()])?;
    agent.kill()?;
    agent.wait_active()?;
    let others = agent.wait_status("the strays to be found again", MINUTE, |status| {
        strays(status).is_ok_and(|strays| strays.len() == PLACES.len() - 2 && strays.iter().all(|stray| stray["process"]["pid"] != ended))
    })?;
    ensure!(others["state"] == "converged", "{others}");
    Ok(())
}

fn typescript(host: &Host, number: u32) -> Result<String> {
    host.read(&format!("/var/tmp/{number}.typescript"))
}

fn notify(release: Release) -> Result<()> {
    let host = Host::boot(release, "notify")?;
    let agent = boot(&host, "action = \"notify\"\n")?;
    agent.deploy_and_wait("d1", MINUTE)?;
    let status = agent.wait_state("converged", MINUTE)?;
    let pid = pid_of(&host, "session")?;
    ensure!(of_pid(&status, pid)?["why"].as_str().unwrap_or_default().contains("its terminal was told"), "{status}");
    let line = |id: &str| format!("restart-agent: php (pid {pid}) runs code from before deploy {id} of ");
    wait_for("the terminal to show it", MINUTE, || Ok(typescript(&host, 77)?.contains(&line("d1")).then_some(())))?;
    agent.kill()?;
    agent.wait_active()?;
    agent.ok(&["trigger"])?;
    let waited = agent.wait(MINUTE)?;
    ensure!(waited.status == 0, "{}", waited.stdout);
    agent.deploy_and_wait("d2", MINUTE)?;
    wait_for("the terminal to show the next", MINUTE, || Ok(typescript(&host, 77)?.contains(&line("d2")).then_some(())))?;
    let shown = typescript(&host, 77)?;
    // A trigger makes stale what is older than itself: that is told, too.
    ensure!(shown.matches("restart-agent: ").count() == 3 && shown.matches(&line("d2")).count() == 1, "{shown}");
    for (name, _) in PLACES.iter().filter(|(name, _)| *name != "mine") {
        ensure!(lives(&host, pid_of(&host, name)?), "{name} was ended");
    }
    Ok(())
}

fn stop(release: Release) -> Result<()> {
    let host = Host::boot(release, "stop")?;
    let agent = boot(&host, "action = \"stop\"\ndrain_timeout = \"2s\"\nterm_timeout = \"3s\"\n")?;
    session(&host, 78, "php /srv/stray.php stubborn stubborn; sleep 600")?;
    let stubborn = pid_of(&host, "stubborn")?;
    agent.deploy_and_wait("d1", MINUTE)?;
    let stopped = ["session", "cron", "transient"];
    for (name, _) in PLACES.iter().filter(|(name, _)| *name != "mine") {
        let pid = pid_of(&host, name)?;
        ensure!(lives(&host, pid) != stopped.contains(name), "{name}, pid {pid}");
    }
    ensure!(!lives(&host, stubborn) && host.read("/var/tmp/stubborn.term")? == "x", "the stubborn one was sent SIGTERM once, then SIGKILL");
    // The shell that each was started by goes on.
    for unit in ["session-77.scope", "session-78.scope", "cron.service", "run-import.service", "website.service", "job-excluded.service"] {
        ensure!(host.property(unit, "ActiveState")? == "active", "{unit}: {}", host.property(unit, "ActiveState")?);
    }
    let mut cut: Vec<(String, String, bool)> = Vec::new();
    for casualty in agent.casualties()?.iter().filter(|casualty| casualty["target"] == "strays") {
        ensure!(casualty["what"] == "script" && casualty["name"] == "php", "{casualty}");
        let text = |field: &str| casualty[field].as_str().unwrap_or_default().to_owned();
        cut.push((text("unit"), text("ended_by"), casualty["certain"] == true));
    }
    cut.sort();
    let expected =
        [("cron.service", "SIGTERM"), ("run-import.service", "SIGTERM"), ("session-77.scope", "SIGTERM"), ("session-78.scope", "SIGKILL")];
    let expected: Vec<(String, String, bool)> = expected.map(|(unit, by)| (unit.to_owned(), by.to_owned(), true)).into();
    ensure!(cut == expected, "{cut:?}");
    let status = agent.wait_state("converged", MINUTE)?;
    for name in ["other", "excluded"] {
        ensure!(of_pid(&status, pid_of(&host, name)?)?["state"] == "left", "{status}");
    }
    // What a session starts anew is fresh.
    session(&host, 79, "php /srv/stray.php anew; sleep 600")?;
    let anew = pid_of(&host, "anew")?;
    ensure!(strays(&agent.status()?)?.iter().all(|stray| stray["process"]["pid"] != anew), "{}", agent.status()?);
    Ok(())
}

fn crash(release: Release) -> Result<()> {
    let host = Host::boot(release, "crash")?;
    let agent = boot(&host, "action = \"stop\"\ndrain_timeout = \"1s\"\nterm_timeout = \"8s\"\n")?;
    session(&host, 78, "php /srv/stray.php stubborn stubborn; sleep 600")?;
    let stubborn = pid_of(&host, "stubborn")?;
    agent.deploy("d1")?;
    wait_for("SIGTERM", MINUTE, || Ok(host.exists("/var/tmp/stubborn.term").then_some(())))?;
    agent.kill()?;
    ensure!(lives(&host, stubborn), "it has not outlived SIGTERM");
    agent.wait_active()?;
    let waited = agent.wait(MINUTE)?;
    ensure!(waited.status == 0, "{}{}", waited.stdout, waited.stderr);
    ensure!(!lives(&host, stubborn), "it lives");
    ensure!(host.property("session-78.scope", "ActiveState")? == "active", "its session was ended, too");
    let casualties = agent.casualties()?;
    let of: Vec<&Value> = casualties.iter().filter(|casualty| casualty["pid"] == stubborn).collect();
    match of[..] {
        [one] => ensure!(one["ended_by"] == "SIGKILL" && one["certain"] == true, "{one}"),
        _ => bail!("recorded {} times: {casualties:?}", of.len()),
    }
    // Those that SIGTERM had ended, whether the agent saw it or not.
    for name in ["session", "cron", "transient"] {
        let pid = pid_of(&host, name)?;
        ensure!(!lives(&host, pid) && casualties.iter().filter(|casualty| casualty["pid"] == pid).count() == 1, "{name}: {casualties:?}");
    }
    Ok(())
}
