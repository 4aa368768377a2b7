//! `code`: only interpreters are stale. What starts a fresh one again and again renews itself, and is let alone.

#![allow(clippy::disallowed_methods, reason = "the bans of clippy.toml are for core")]

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::agent::Agent;
use lab::jobs::{self, Job, Shape, script, worker};
use lab::{Host, Release, wait_for};
use serde_json::Value;

const MINUTE: Duration = Duration::from_secs(60);
const FAR: &str = "OnCalendar=*-01-01 03:00";

fn main() -> ExitCode {
    lab::suite()
        .on_each("what_starts_a_fresh_interpreter_for_each_wiki_renews_itself", renews_itself)
        .on_each("asked_it_is_given_time_to_heed_and_what_starts_afresh_is_let_alone", asked)
        .on_each("an_interpreter_that_outlasts_its_drain_is_stopped_with_its_unit", outlasts)
        .run()
}

fn config(drain: &str, rules: &str) -> String {
    let stamp = "[stamp]\npath = \"/srv/deploy/stamp\"\nsettle = \"100ms\"\nmin_interval = \"0s\"\n";
    let scheduled = format!(
        "[target.wikis]\nkind = \"scheduled\"\nunits = [\"wiki-*.service\"]\ncode = [\"php*\"]\ndrain_timeout = \"{drain}\"\n{rules}"
    );
    let service =
        format!("[target.monitor]\nkind = \"service\"\nunits = [\"monitor.service\"]\ncode = [\"php*\"]\ndrain_timeout = \"{drain}\"\n");
    format!("{stamp}\n{scheduled}\n{service}")
}

/// php for so many milliseconds, which no signal that it ignores can cut short, and how it marks its begin and end.
const WIKI: &str = "<?php file_put_contents('/var/tmp/wikis', \"begin $argv[1] \" . getmypid() . \"\\n\", FILE_APPEND);
for ($end = hrtime(true) + $argv[2] * 1000000; hrtime(true) < $end;) usleep(20000);
file_put_contents('/var/tmp/wikis', \"end $argv[1] \" . getmypid() . \"\\n\", FILE_APPEND);
";

fn command(job: Job, command: &str) -> Job {
    job.service(&format!("ExecStart=\nExecStart={command}"))
}

/// A shell loop, python with a shell below it, a script that is its own command, and a service: all with php for a moment at a time.
fn jobs(host: &Host, ms: u32) -> Result<Vec<Job>> {
    host.write("/srv/wiki.php", WIKI)?;
    host.write_mode("/srv/refreshLinks", format!("#!/usr/bin/php\n{WIKI}"), 0o755)?;
    let wrapper = "import subprocess\nwhile True:\n    subprocess.run(['sh', '-c', 'php /srv/wiki.php wrapper MS; true'])\n";
    host.write("/srv/wrapper.py", wrapper.replace("MS", &ms.to_string()))?;
    let timed = |name: &str, line: &str| command(script(name, Shape::Plain), line).timer(name, FAR).on_failure();
    Ok(vec![
        timed("wiki-loop", &format!("/bin/bash -c 'while :; do php /srv/wiki.php loop {ms}; sleep 0.1; done'")),
        timed("wiki-wrapper", "/usr/bin/python3 /srv/wrapper.py"),
        timed("wiki-own-name", &format!("/bin/bash -c 'while :; do /srv/refreshLinks own {ms}; done'")),
        command(worker("monitor", Shape::Plain), &format!("/bin/sh -c 'while :; do php /srv/wiki.php monitor {ms}; done'")),
    ])
}

/// Starts them, and waits until each is at its php.
fn begin(host: &Host, jobs: &[Job]) -> Result<Vec<String>> {
    let units: Vec<String> = jobs.iter().map(Job::service_name).collect();
    jobs::systemctl(host, &["start", "--no-block"], &units)?;
    jobs::systemctl(host, &["start"], &jobs.iter().flat_map(Job::timers).collect::<Vec<_>>())?;
    wait_for("every php to have begun", MINUTE, || {
        let text = host.sh_ok("cat /var/tmp/wikis 2>/dev/null || true")?;
        let names = ["loop", "wrapper", "own", "monitor"];
        Ok(names.iter().all(|name| text.contains(&format!("begin {name} "))).then_some(()))
    })?;
    Ok(units)
}

fn invocations(host: &Host, units: &[String]) -> Result<Vec<String>> {
    let all = jobs::properties(host, units, &["InvocationID", "MainPID"])?;
    Ok(all.values().map(|unit| format!("{} {} {}", unit["Id"], unit["InvocationID"], unit["MainPID"])).collect())
}

fn ends(agent: &Agent<'_>) -> Result<Vec<(String, String, String)>> {
    let status = agent.status()?;
    let units = status["last_rollout"]["units"].as_array().context("no rollout")?;
    let text = |end: &Value, field: &str| end[field].as_str().unwrap_or_default().to_owned();
    Ok(units.iter().map(|end| (text(end, "unit"), text(end, "what"), text(end, "why"))).collect())
}

fn renews_itself(release: Release) -> Result<()> {
    let host = Host::boot(release, "renews-itself")?;
    let jobs = jobs(&host, 1500)?;
    jobs::install(&host, &jobs)?;
    let agent = Agent::install(&host)?;
    agent.deploy("d0")?;
    agent.configure(&config("50s", ""))?;
    let units = begin(&host, &jobs)?;
    let before = invocations(&host, &units)?;
    let mut waited_for = BTreeSet::new();
    for n in 1..=3 {
        let wikis = host.read("/var/tmp/wikis")?.lines().count();
        agent.deploy(&format!("d{n}"))?;
        // Stale interpreters are waited for, by name.
        agent.wait_status("something to be drained", MINUTE, |status| status["state"] == "converging")?;
        let waited = agent.wait(Duration::from_secs(40))?;
        ensure!(waited.status == 0, "{}{}\n{}", waited.stdout, waited.stderr, agent.status_text()?);
        let ends = ends(&agent)?;
        let ended = host.read("/var/tmp/wikis")?.lines().skip(wikis).filter(|line| line.starts_with("end ")).count();
        ensure!(ended >= ends.len(), "converged before each php of before had ended: {ended}");
        for (unit, what, why) in ends {
            ensure!(what == "finished" && why.contains("renewed itself"), "{unit} is {what}: {why}");
            waited_for.insert(unit);
        }
    }
    // One that was between two wikis when a deploy landed had nothing stale.
    ensure!(waited_for.len() == jobs.len(), "{waited_for:?}");
    ensure!(invocations(&host, &units)? == before, "something was restarted: {before:?}");
    let begun = host.read("/var/tmp/wikis")?.matches("begin ").count();
    let ended = host.read("/var/tmp/wikis")?.matches("end ").count();
    ensure!(begun - ended <= jobs.len(), "{begun} begun and {ended} ended: some php was cut");
    ensure!(agent.casualties()?.is_empty(), "{:?}", agent.casualties()?);
    agent.ensure_nothing_left()
}

/// One looks for the request between two wikis, and takes its time to say that it has seen it; the other does not look.
fn asked(release: Release) -> Result<()> {
    let host = Host::boot(release, "asked")?;
    host.write("/srv/wiki.php", WIKI)?;
    let heeds = "php /srv/wiki.php heeds 1500; if [ -e /run/restart-agent/stop/wiki-heeds.service ]; then sleep 3; exit 75; fi";
    let timed = |name: &str, body: &str| {
        command(script(name, Shape::Plain), &format!("/bin/bash -c 'while :; do {body}; done'")).timer(name, FAR).on_failure()
    };
    let jobs = [timed("wiki-heeds", heeds), timed("wiki-deaf", "php /srv/wiki.php deaf 1500")];
    jobs::install(&host, &jobs)?;
    let agent = Agent::install(&host)?;
    agent.deploy("d0")?;
    agent.configure(&config("0s", "checkpoint_timeout = \"50s\"\nafter = \"rerun\"\n"))?;
    let units: Vec<String> = jobs.iter().map(Job::service_name).collect();
    jobs::systemctl(&host, &["start", "--no-block"], &units)?;
    wait_for("every php to have begun", MINUTE, || {
        let text = host.sh_ok("cat /var/tmp/wikis 2>/dev/null || true")?;
        Ok((text.contains("begin heeds ") && text.contains("begin deaf ")).then_some(()))
    })?;
    let before = invocations(&host, &units)?;
    agent.deploy_and_wait("d1", Duration::from_secs(40))?;
    let mut ends = ends(&agent)?;
    ends.sort();
    let ended: Vec<(&str, &str)> = ends.iter().map(|(unit, what, _)| (unit.as_str(), what.as_str())).collect();
    ensure!(ended == [("wiki-deaf.service", "finished"), ("wiki-heeds.service", "renewed")], "{ends:?}");
    let after = invocations(&host, &units)?;
    ensure!(before[0] == after[0] && before[1] != after[1], "{before:?} {after:?}");
    ensure!(agent.casualties()?.is_empty(), "{:?}", agent.casualties()?);
    let failed = host.ok(&["systemctl", "list-units", "--failed", "--plain", "--no-legend"])?;
    ensure!(failed.trim().is_empty(), "{failed}");
    ensure!(host.sh_ok("ls /run/restart-agent/stop")?.trim().is_empty(), "somebody is still asked to stop");
    agent.ensure_nothing_left()
}

fn outlasts(release: Release) -> Result<()> {
    let host = Host::boot(release, "outlasts")?;
    let jobs = jobs(&host, 600_000)?;
    jobs::install(&host, &jobs)?;
    let agent = Agent::install(&host)?;
    agent.deploy("d0")?;
    agent.configure(&config("1s", "after = \"until-next\"\n"))?;
    let units = begin(&host, &jobs)?;
    let before = invocations(&host, &units)?;
    ensure_planned(&agent)?;
    agent.deploy_and_wait("d1", MINUTE)?;
    let ends = ends(&agent)?;
    for (unit, what, why) in &ends {
        ensure!(what == if unit == "monitor.service" { "renewed" } else { "quiet" }, "{unit} is {what}: {why}");
    }
    ensure!(ends.len() == jobs.len(), "{ends:?}");
    let after = invocations(&host, &units)?;
    ensure!(before.iter().all(|run| !after.contains(run)), "{before:?} {after:?}");
    let mut cut: Vec<String> = agent.casualties()?.iter().map(|cut| cut["unit"].as_str().unwrap_or_default().to_owned()).collect();
    cut.sort();
    ensure!(cut == ["wiki-loop.service", "wiki-own-name.service", "wiki-wrapper.service"], "{cut:?}");
    let failed = host.ok(&["systemctl", "list-units", "--failed", "--plain", "--no-legend"])?;
    ensure!(failed.trim().is_empty(), "{failed}");
    agent.ensure_nothing_left()
}

/// The plan names the interpreters, says what becomes of them, and what each script's timer says of its next run.
fn ensure_planned(agent: &Agent<'_>) -> Result<()> {
    let plan: Value = serde_json::from_str(&agent.ok(&["plan", "--json"])?)?;
    let units = plan["units"].as_array().context("no units")?;
    for (name, comm) in [("wiki-loop", "php"), ("wiki-wrapper", "php"), ("wiki-own-name", "refreshLinks"), ("monitor", "php")] {
        let unit = units.iter().find(|unit| unit["unit"] == format!("{name}.service")).with_context(|| format!("{name}: {plan}"))?;
        let processes = unit["processes"].as_array().context("no processes")?;
        let stale: Vec<&str> = processes.iter().filter(|process| process["stale"] == true).filter_map(|one| one["name"].as_str()).collect();
        ensure!(stale == [comm] && processes.len() > 1, "{unit}");
        if name != "monitor" {
            let next = unit["next_run"]["why"].as_str().unwrap_or_default();
            ensure!(next.contains(&format!("{name}.timer (OnCalendar=*-01-01 03:00:00)")), "{unit}");
            ensure!(unit["casualty_expected"] == true && unit["deadline_ms"] == 21_000, "{unit}");
        }
    }
    let text = agent.ok(&["plan"])?;
    ensure!(
        text.contains(": refreshLinks, since ") && text.contains(": bash, since ") && text.contains("; carries no deployed code"),
        "{text}"
    );
    ensure!(text.contains("next scheduled run: "), "{text}");
    println!("{text}");
    Ok(())
}
