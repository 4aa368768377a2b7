//! Scripts that cooperate: asked first, resumed where they were, spared while they hold their lock. The clients are those of the guide.

#![allow(clippy::disallowed_methods, reason = "the bans of clippy.toml are for core")]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::agent::Agent;
use lab::jobs::{self, Job, Marks, Shape, script};
use lab::{Host, Release, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
const FAR: &str = "OnCalendar=*-01-01 03:00";
const GUIDE: &str = include_str!("../docs/guide/cooperation.md");

fn main() -> ExitCode {
    lab::suite()
        .on_each("resumable_scripts_lose_no_chunk_over_many_deploys", resumable)
        .on_each("a_lock_delays_the_signal_and_is_its_owners_alone_t26", lock)
        .on_each("asked_in_vain_a_script_is_stopped_or_left_by_its_rules_t27", in_vain)
        .on_each("scripts_that_cannot_be_changed_are_asked_by_commands_and_never_left_asked", commands)
        .on_each("a_request_outlives_neither_a_crash_nor_its_target_nor_a_command_that_fails", commands_that_fail)
        .on_each("a_rerun_waits_until_what_the_last_run_left_behind_is_stale", settles)
        .on_each("a_script_of_several_commands_that_goes_on_loses_none_of_them", several_commands)
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
    let journal = agent.journal()?;
    let capped: Vec<&str> = journal.lines().filter(|line| line.contains("still held its lock after hold_timeout, 15s")).collect();
    ensure!(!capped.is_empty() && capped.iter().all(|line| line.contains("dump-never.service")), "{journal}");
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

/// Ends when somebody touches the file that a dump farm has for that.
fn ends_by_file(name: &str, wait: &str, status: u8) -> Job {
    let steps = format!("until test -e /srv/dumps/exit.txt; do sleep 0.1; done; sleep {wait}; exit {status}");
    script(name, Shape::Plain).service(&format!("ExecStart=\nExecStart=/bin/sh -c '{steps}'")).timer(name, FAR).on_failure()
}

/// What is run to ask, and to take it back: leaves a line for each.
const ASK: &str = "#!/bin/sh -e\necho \"$1 $RESTART_AGENT_UNIT\" >> /var/tmp/asks\nif [ $1 = on ]; then touch /srv/dumps/exit.txt; else test ! -e /srv/broken; rm -f /srv/dumps/exit.txt; fi\n";
const COMMANDS: &str = "ask = [\"/srv/ask\", \"on\"]\nunask = [\"/srv/ask\", \"off\"]\n";

fn prepare_commands(host: &Host) -> Result<()> {
    host.write("/srv/ask", ASK)?;
    host.sh_ok("chmod 755 /srv/ask; mkdir -p /srv/dumps")?;
    Ok(())
}

fn asks(host: &Host) -> Result<Vec<String>> {
    Ok(host.sh_ok("cat /var/tmp/asks 2>/dev/null | sort")?.lines().map(str::to_owned).collect())
}

fn commands(release: Release) -> Result<()> {
    let host = Host::boot(release, "commands")?;
    prepare_commands(&host)?;
    let hup = "ExecStart=\nExecStart=/bin/bash -c 'trap \"exit 75\" HUP; while :; do sleep 0.1; done'";
    let all = [
        ends_by_file("dump-quick", "0", 75),
        // The file is there for both: it is not taken from this one because the other has ended.
        ends_by_file("dump-slow", "4", 75),
        ends_by_file("dump-done", "0", 0),
        script("hup-one", Shape::Plain).service(hup).timer("hup-one", FAR).on_failure(),
    ];
    jobs::install(&host, &all)?;
    let units: Vec<String> = all.iter().map(Job::service_name).collect();
    jobs::systemctl(&host, &["start", "--no-block"], &units)?;
    let agent = Agent::install(&host)?;
    agent.deploy("d0")?;
    let hup = "[target.hup]\nkind = \"scheduled\"\nunits = [\"hup-*.service\"]\ndrain_timeout = \"0s\"\ncheckpoint_timeout = \"20s\"\nafter = \"rerun\"\nask = [\"/usr/bin/systemctl\", \"kill\", \"--signal=HUP\", \"{unit}\"]\n";
    agent.configure(&format!("{}\n{hup}", config(&format!("checkpoint_timeout = \"20s\"\nafter = \"rerun\"\n{COMMANDS}"))))?;
    agent.deploy_and_wait("d1", MINUTE)?;

    let wanted: Vec<String> = ["off", "on"]
        .into_iter()
        .flat_map(|what| ["dump-done", "dump-quick", "dump-slow"].map(|unit| format!("{what} {unit}.service")))
        .collect();
    ensure!(asks(&host)? == wanted, "{:?}", asks(&host)?);
    ensure!(!host.exists("/srv/dumps/exit.txt"), "the farm is still asked to stop");
    let starts = |unit: &str| -> Result<usize> {
        Ok(host.sh_ok(&format!("journalctl --boot --unit={unit}.service --output=cat | grep -c '^Starting '"))?.trim().parse()?)
    };
    for unit in ["dump-quick", "dump-slow", "hup-one"] {
        ensure!(starts(unit)? == 2, "{unit} was started {} times", starts(unit)?);
        ensure!(host.property(&format!("{unit}.service"), "ActiveState")? == "activating", "{unit} does not run again");
    }
    ensure!(starts("dump-done")? == 1, "what has ended with status 0 is done");
    ensure!(agent.casualties()?.is_empty(), "{:#?}", agent.casualties()?);
    let failed = host.ok(&["systemctl", "list-units", "--failed", "--plain", "--no-legend"])?;
    ensure!(failed.trim().is_empty(), "{failed}");
    agent.ensure_nothing_left()
}

fn commands_that_fail(release: Release) -> Result<()> {
    let host = Host::boot(release, "commands-fail")?;
    prepare_commands(&host)?;
    let all = [script("dump-deaf", Shape::Plain).timer("dump-deaf", FAR), script("deaf-too", Shape::Plain).timer("deaf-too", FAR)];
    jobs::install(&host, &all)?;
    jobs::start(&host, &all)?;
    let agent = Agent::install(&host)?;
    agent.deploy("d0")?;
    let far = config(&format!("checkpoint_timeout = \"10m\"\nafter = \"until-next\"\n{COMMANDS}"));
    // Without a `checkpoint_timeout` nothing would ever be asked: that is said, and where.
    host.write("/srv/bad.toml", config(COMMANDS))?;
    let bad = host.run(&["restart-agent", "check-config", "/srv/bad.toml"])?;
    ensure!(bad.status == 78 && format!("{}{}", bad.stdout, bad.stderr).contains("checkpoint_timeout"), "{bad:?}");

    agent.configure(&far)?;
    agent.deploy("d1")?;
    wait_for("the farm to be asked", MINUTE, || Ok(host.exists("/srv/dumps/exit.txt").then_some(())))?;
    // The agent dies, and when it is back the target is in no configuration any more.
    let other = config("checkpoint_timeout = \"3s\"\nafter = \"until-next\"\nask = [\"/bin/false\"]\n").replace("dump-*", "deaf-*");
    host.write(lab::agent::CONFIG, &other)?;
    agent.kill()?;
    agent.wait_active()?;
    wait_for("the request to be taken back", MINUTE, || Ok((!host.exists("/srv/dumps/exit.txt")).then_some(())))?;
    ensure!(asks(&host)?.iter().any(|line| line == "off dump-deaf.service"), "{:?}", asks(&host)?);

    // One that cannot be asked goes down without.
    agent.wait_state("converged", MINUTE)?;
    agent.deploy_and_wait("d2", MINUTE)?;
    ensure!(agent.casualties()?.iter().any(|cut| cut["unit"] == "deaf-too.service"), "{:#?}", agent.casualties()?);
    ensure!(agent.journal()?.contains("it could not be asked to stop: its command `ask` exits 1"), "{}", agent.journal()?);

    // What cannot be taken back now stays owed, and status says so until it can.
    agent.configure(&far.replace("10m", "2s"))?;
    host.touch("/srv/broken")?;
    agent.deploy("d3")?;
    agent.wait_status("that it cannot be taken back", MINUTE, |status| {
        status.to_string().contains("the request to stop dump-deaf.service could not be taken back: its command `unask` exits 1")
    })?;
    ensure!(host.exists("/srv/dumps/exit.txt"), "the test is none");
    host.remove("/srv/broken")?;
    wait_for("the request to be taken back", MINUTE, || Ok((!host.exists("/srv/dumps/exit.txt")).then_some(())))?;
    // As long as it is asked it is kept quiet: what would start then would find itself asked.
    wait_for("nothing to be left", MINUTE, || agent.ensure_nothing_left().map(Some))
}

fn settles(release: Release) -> Result<()> {
    let host = Host::boot(release, "settles")?;
    // Its lock is stale when nobody has touched it for 8 s; one that finds it fresh gives up.
    let dump = "#!/bin/bash\nif [ -n \"$(find /srv/lock -newermt '-8 seconds' 2>/dev/null)\" ]; then echo early >> /var/tmp/early; exit 1; fi\ndate +%s.%N >> /var/tmp/started\nwhile :; do touch /srv/lock; sleep 0.2; done\n";
    host.write("/srv/dump", dump)?;
    let all = [script("dump-locks", Shape::Plain).service("ExecStart=\nExecStart=/bin/bash /srv/dump").timer("dump-locks", FAR)];
    jobs::install(&host, &all)?;
    let agent = Agent::install(&host)?;
    agent.deploy("d0")?;
    agent.configure(&config("after = \"rerun\"\nterm_timeout = \"5s\"\nsettle_after = \"12s\"\n"))?;
    jobs::systemctl(&host, &["start", "--no-block"], &[all[0].service_name()])?;
    let started = || -> Result<Vec<f64>> {
        Ok(host.sh_ok("cat /var/tmp/started 2>/dev/null")?.lines().filter_map(|line| line.parse().ok()).collect())
    };
    wait_for("it to run", MINUTE, || Ok((started()?.len() == 1).then_some(())))?;
    agent.deploy_and_wait("d1", MINUTE)?;
    // The old code is gone, so the host has converged; what it owes is shown, with its time.
    let owed = |status: &serde_json::Value| {
        let unit = &status["targets"][0]["units"][0];
        unit["unit"] == "dump-locks.service"
            && unit["deadline"].is_string()
            && unit["why"].as_str().is_some_and(|why| why.contains("settle_after"))
    };
    let status = agent.wait_status("what is owed", MINUTE, owed)?;
    ensure!(status["state"] == "converged", "{status}");
    ensure!(started()?.len() == 1, "it was started again at once");
    let ended: f64 = host.ok(&["stat", "--format=%.9Y", "/srv/lock"])?.trim().parse()?;
    agent.kill()?;
    agent.wait_active()?;
    agent.wait_status("what is owed still", MINUTE, owed)?;
    wait_for("it to run again", MINUTE, || Ok((started()?.len() == 2).then_some(())))?;
    let waited = started()?[1] - ended;
    ensure!((11.5..20.0).contains(&waited), "it ran again {waited} s after its end");
    ensure!(!host.exists("/var/tmp/early"), "it was started while its lock was fresh");
    agent.ensure_nothing_left()
}

/// What it takes to stop a script with several ExecStart= makes systemd forget the later ones: it is for the very stop only. So such a script is not
/// asked, and one that is spared goes on to its end.
fn several_commands(release: Release) -> Result<()> {
    let host = Host::boot(release, "several")?;
    let until_told = |name: &str| script(name, Shape::UntilTold).second_command().on_failure().timer(name, FAR);
    // The lock is let go of with the first command.
    let protected = "ExecStart=\nExecStart=/usr/bin/restart-agent protect -- /bin/bash /srv/jobs/UntilTold %N\nExecStart=/bin/sh -c 'echo %N >> /var/tmp/marks/%N.second'";
    let locked = script("dump-locked", Shape::UntilTold).service(protected).on_failure().timer("dump-locked", FAR);
    let all = [until_told("finish-one"), locked, until_told("dump-stopped")];
    jobs::install(&host, &all)?;
    let agent = Agent::install(&host)?;
    agent.deploy("d0")?;
    let finish = "[target.finish]\nkind = \"scheduled\"\nunits = [\"finish-*.service\"]\ndrain_timeout = \"0s\"\ncheckpoint_timeout = \"2s\"\noverdue = \"finish\"\n";
    let rules = "checkpoint_timeout = \"10m\"\nhold_timeout = \"10m\"\nafter = \"rerun\"\n";
    agent.configure(&format!("{}\n{finish}", config(rules)))?;
    jobs::start(&host, &all)?;
    agent.deploy("d1")?;
    // One is left, one is spared for its lock, one is stopped at once and runs again.
    let status = agent.wait_status("all three to be where their rules want them", MINUTE, |status| {
        let units: Vec<_> = status["targets"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|target| target["units"].as_array().into_iter().flatten())
            .collect();
        let is = |name: &str, state: &str| units.iter().any(|unit| unit["unit"] == name && unit["state"] == state);
        is("finish-one.service", "left") && is("dump-locked.service", "held") && is("dump-stopped.service", "fresh")
    })?;
    ensure!(Marks::read(&host)?.starts("dump-stopped") == 2, "{status}");
    // Now it is spared altogether.
    agent.ok(&["hold", "--reason", "a test"])?;
    agent.wait_status("nothing to be at work", MINUTE, |status| !status.to_string().contains("holds its lock"))?;
    for job in &all {
        jobs::finish(&host, &job.name)?;
    }
    wait_for("all to end", MINUTE, || {
        let states = jobs::properties(&host, &all.iter().map(Job::service_name).collect::<Vec<_>>(), &["ActiveState"])?;
        Ok(states.values().all(|unit| unit["ActiveState"] == "inactive").then_some(()))
    })?;
    let marks = Marks::read(&host)?;
    for job in &all {
        ensure!(marks.count(&job.name, "second") == 1, "{}: its second command ran {} times", job.name, marks.count(&job.name, "second"));
        ensure!(marks.count(&job.name, "failure") == 0, "{} failed", job.name);
    }
    agent.ensure_nothing_left()
}
