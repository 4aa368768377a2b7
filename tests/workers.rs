//! `kind = "service"`: queue workers and other services that run on and on, renewed by one restart each.

#![allow(clippy::disallowed_methods, reason = "the bans of clippy.toml are for core")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::agent::Agent;
use lab::jobs::{self, Job, Marks, Shape, worker};
use lab::{Host, Release, wait_for};
use serde_json::Value;

const MINUTE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    lab::suite()
        .on_each("workers_of_every_kind_are_renewed_once", every_kind)
        .on_each("whatever_its_killmode_no_worker_leaves_processes_with_old_code_t12", kill_modes)
        .on_each("a_worker_that_does_not_come_up_is_named_and_not_tried_for_ever_t22", does_not_come_up)
        .on_each("a_worker_that_is_slow_to_start_is_said_to_be_starting_and_until_when", slow_to_start)
        .on_each("a_worker_whose_start_systemd_skips_is_brought_up_as_soon_as_it_can_be", skipped)
        .on_each("many_deploys_in_a_row_trip_no_start_limit_t22", start_limit)
        .on_each("a_hundred_workers_are_renewed_and_only_what_is_old", a_hundred)
        .on_each("workers_that_go_down_with_one_another_are_renewed_once", together)
        .on_each("a_deploy_in_the_middle_of_a_restart_is_not_forgotten_t01", deploy_in_the_middle)
        .on_each("a_worker_is_asked_first_and_comes_back_however_it_says_that_it_has_ended", asked)
        .on_each("a_worker_that_a_person_stops_in_its_restart_or_while_it_is_asked_stays_stopped", stopped_by_a_person)
        .on_each("a_worker_is_spared_for_its_lock_and_left_if_its_rules_let_it_finish", held_and_left)
        .run()
}

fn config(rules: &str) -> String {
    format!(
        "[stamp]\npath = \"/srv/deploy/stamp\"\nsettle = \"100ms\"\nmin_interval = \"0s\"\n\n[target.workers]\nkind = \"service\"\nunits = [\"worker-*.service\", \"queue@*.service\"]\n{rules}\n"
    )
}

fn unit<'s>(status: &'s Value, name: &str) -> Option<&'s Value> {
    status["targets"]
        .as_array()?
        .iter()
        .flat_map(|target| target["units"].as_array().into_iter().flatten())
        .find(|unit| unit["unit"] == name)
}

fn every_kind(release: Release) -> Result<()> {
    let host = Host::boot(release, "every-kind")?;
    let renewed = [
        worker("worker-plain", Shape::Plain),
        worker("worker-polite", Shape::FinishesItsJob),
        worker("worker-always", Shape::Plain).service("Restart=always\nRestartSec=100ms"),
        worker("worker-ignores", Shape::Ignores),
        worker("worker-ignores-always", Shape::Ignores).service("Restart=always\nRestartSec=100ms"),
        worker("worker-child", Shape::ChildIgnores),
        worker("worker-www", Shape::Plain).service("User=www-data"),
        worker("worker-simple", Shape::Plain).service("Type=simple"),
        worker("queue@a", Shape::Plain),
        worker("queue@b", Shape::FinishesItsJob),
        worker("worker-base", Shape::Plain),
    ];
    // Goes down with what it requires, and is to come back with it (facts M4).
    let dependent = worker("dependent", Shape::Plain).unit("Requires=worker-base.service\nAfter=worker-base.service");
    let untouched = [
        worker("worker-masked", Shape::Plain),
        worker("worker-refuses", Shape::Plain).unit("RefuseManualStop=yes"),
        worker("worker-excluded", Shape::Plain),
        worker("other", Shape::Plain),
    ];
    let all: Vec<Job> = renewed.iter().chain([&dependent]).chain(&untouched).cloned().collect();
    jobs::install(&host, &all)?;
    jobs::start(&host, &all)?;
    // A worker that is not running stays so.
    jobs::install(&host, &[worker("worker-idle", Shape::Plain)])?;
    host.sh_ok(
        "cd /etc/systemd/system && mv worker-masked.service /srv/ && ln -s /dev/null worker-masked.service && systemctl daemon-reload",
    )?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    agent.configure(&config("drain_timeout = \"0s\"\nterm_timeout = \"3s\"\nexclude = [\"worker-excluded.service\"]"))?;
    let old = all.iter().map(|job| Ok((job.name.clone(), host.pid_of(&job.service_name())?))).collect::<Result<Vec<_>>>()?;
    agent.deploy_and_wait("v1", MINUTE)?;

    let marks = Marks::read(&host)?;
    for job in renewed.iter().chain([&dependent]) {
        ensure!(marks.starts(&job.name) == 2, "{} was started {} times", job.name, marks.starts(&job.name));
        ensure!(host.property(&job.service_name(), "ActiveState")? == "active", "{} is not active", job.name);
    }
    for job in &untouched {
        ensure!(marks.starts(&job.name) == 1, "{} was touched", job.name);
    }
    ensure!(marks.starts("worker-idle") == 0, "a worker that did not run was started");
    for name in ["worker-polite", "queue@b"] {
        ensure!(marks.count(name, "finished") == 1, "{name} was not let finish its job");
    }
    for (name, pid) in old.iter().filter(|(name, _)| !untouched.iter().any(|job| job.name == *name)) {
        ensure!(!host.exists(&format!("/proc/{pid}")), "the old process of {name} lives");
    }
    let status = agent.status()?;
    for (name, why) in [("worker-masked", "masked"), ("worker-refuses", "refuses")] {
        let unit = unit(&status, &format!("{name}.service")).with_context(|| status.to_string())?;
        ensure!(unit["state"] == "left" && unit["why"].as_str().is_some_and(|said| said.contains(why)), "{unit}");
    }
    let failed = host.ok(&["systemctl", "list-units", "--failed", "--plain", "--no-legend"])?;
    ensure!(failed.trim().is_empty(), "{failed}");
    agent.ensure_nothing_left()
}

/// What outlives a restart in the cgroup of its unit would be taken for new.
fn kill_modes(release: Release) -> Result<()> {
    let host = Host::boot(release, "kill-modes")?;
    let kinds = ["KillMode=process", "KillMode=none", "KillMode=mixed", "SendSIGKILL=no\nTimeoutStopSec=1s"];
    let all: Vec<Job> =
        kinds.iter().enumerate().map(|(n, line)| worker(&format!("worker-{n}"), Shape::ChildIgnores).service(line)).collect();
    jobs::install(&host, &all)?;
    jobs::start(&host, &all)?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    agent.configure(&config("drain_timeout = \"0s\"\nterm_timeout = \"3s\""))?;
    let processes = |job: &Job| -> Result<Vec<String>> {
        let text = host.read(&format!("/sys/fs/cgroup/system.slice/{}/cgroup.procs", job.service_name()))?;
        Ok(text.lines().map(str::to_owned).collect())
    };
    for deploy in ["v1", "v2"] {
        let old = all.iter().map(processes).collect::<Result<Vec<_>>>()?;
        agent.deploy_and_wait(deploy, MINUTE)?;
        for (job, old) in all.iter().zip(old) {
            let now = processes(job)?;
            // The sleep of a loop may have ended by itself; its shells have not.
            ensure!(old.len() >= 2 && !now.is_empty() && old.iter().all(|pid| !now.contains(pid)), "{}: {old:?}, {now:?}", job.name);
        }
    }
    let modes = jobs::properties(&host, &all.iter().map(Job::service_name).collect::<Vec<_>>(), &["KillMode", "SendSIGKILL"])?;
    ensure!(modes["worker-1.service"]["KillMode"] == "none" && modes["worker-3.service"]["SendSIGKILL"] == "no", "{modes:?}");
    let failed = host.ok(&["systemctl", "list-units", "--failed", "--plain", "--no-legend"])?;
    ensure!(failed.trim().is_empty(), "{failed}");
    agent.ensure_nothing_left()
}

/// Long after the grace: nothing is left to be killed, whether the agent has seen the restart begin or comes to it later.
fn slow_to_start(release: Release) -> Result<()> {
    let host = Host::boot(release, "slow-to-start")?;
    let slow = worker("worker-slow", Shape::Plain).service("ExecStartPre=/bin/sh -c 'test ! -e /srv/slow || sleep 20'");
    jobs::install(&host, std::slice::from_ref(&slow))?;
    jobs::start(&host, std::slice::from_ref(&slow))?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    agent.configure(&config("drain_timeout = \"0s\"\nterm_timeout = \"3s\""))?;
    let starts = || Ok::<_, anyhow::Error>(host.property("worker-slow.service", "ActiveState")? == "activating");
    let starting = |status: &Value| unit(status, "worker-slow.service").is_some_and(|unit| unit["state"] == "starting");
    host.touch("/srv/slow")?;
    agent.deploy("v1")?;
    // The agent's next look shows that the old one has gone.
    agent.wait_status("its start to be told", MINUTE, starting)?;
    let told = Instant::now();
    let mut killed = false;
    let mut untrue = Vec::new();
    wait_for("the end of its start", MINUTE, || {
        if !killed && told.elapsed() > Duration::from_secs(6) {
            killed = true;
            agent.kill()?;
            agent.wait_active()?;
            agent.wait_status("the agent to be at it again", MINUTE, starting)?;
        }
        let (before, status, text) = (starts()?, agent.status()?, agent.status_text()?);
        let until = unit(&status, "worker-slow.service").is_some_and(|unit| unit["deadline"].is_string()) && status["deadline"].is_string();
        if before && starts()? && (!starting(&status) || !until || text.contains("SIGKILL")) {
            untrue.push(text);
        }
        Ok((!before).then_some(()))
    })?;
    ensure!(killed, "it is not slow to start");
    ensure!(untrue.is_empty(), "{}", untrue.join("\n"));
    let waited = agent.wait(MINUTE)?;
    ensure!(waited.status == 0, "{waited:?}\n{}", agent.status_text()?);
    ensure!(Marks::read(&host)?.starts("worker-slow") == 2, "it was not restarted once");
    agent.ensure_nothing_left()
}

/// The new code does not start: that is said, the others are renewed, and it is not started over and over.
fn does_not_come_up(release: Release) -> Result<()> {
    let host = Host::boot(release, "broken")?;
    let broken = worker("worker-broken", Shape::Plain).service("ExecStartPre=/bin/sh -c 'echo >> /var/tmp/tries; test ! -e /srv/broken'");
    let loops = worker("worker-loops", Shape::Plain)
        .service("ExecStartPre=/bin/sh -c 'echo >> /var/tmp/loops; test ! -e /srv/broken'\nRestart=always\nRestartSec=300ms\nStartLimitIntervalSec=0");
    let good = worker("worker-good", Shape::Plain);
    let all = [broken, loops, good];
    jobs::install(&host, &all)?;
    jobs::start(&host, &all)?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    agent.configure(&config("drain_timeout = \"0s\"\nterm_timeout = \"3s\""))?;
    host.touch("/srv/broken")?;
    agent.deploy("v1")?;
    let waited = agent.wait(MINUTE)?;
    ensure!(waited.status == 1, "wait says {}: {}{}", waited.status, waited.stdout, waited.stderr);
    let status = agent.status()?;
    ensure!(status["state"] == "failed", "{status}");
    for name in ["worker-broken.service", "worker-loops.service"] {
        let unit = unit(&status, name).with_context(|| status.to_string())?;
        ensure!(unit["state"] == "failed" && unit["why"].as_str().is_some_and(|why| why.contains("come up")), "{unit}");
    }
    let text = agent.status_text()?;
    ensure!(text.contains("worker-broken.service"), "{text}");
    ensure!(Marks::read(&host)?.starts("worker-good") == 2, "the good one was not renewed");
    let tries: usize = host.ok(&["wc", "-l", "/var/tmp/tries"])?.split(' ').next().unwrap_or_default().parse()?;
    ensure!(tries <= 4, "it was started {} times", tries - 1);

    // The next deploy mends it.
    host.remove("/srv/broken")?;
    agent.deploy_and_wait("v2", MINUTE)?;
    for job in &all {
        ensure!(host.property(&job.service_name(), "ActiveState")? == "active", "{}", agent.status_text()?);
    }
    Ok(())
}

/// Nothing refers to them, so systemd forgets them as soon as they are down: nobody has stopped them all the same.
fn skipped(release: Release) -> Result<()> {
    let host = Host::boot(release, "skipped-workers")?;
    let all = [
        worker("worker-cond", Shape::Plain).unit("ConditionPathExists=!/srv/off"),
        worker("worker-assert", Shape::Plain).unit("AssertPathExists=!/srv/off"),
        worker("worker-base", Shape::Plain).service("ExecStartPre=/bin/sh -c 'test ! -e /srv/off'"),
        worker("worker-needs", Shape::Plain).unit("Requires=worker-base.service\nAfter=worker-base.service"),
    ];
    jobs::install(&host, &all)?;
    jobs::start(&host, &all)?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    agent.configure(&config("drain_timeout = \"0s\"\nterm_timeout = \"3s\""))?;
    for again in ["the next try", "the next agent"] {
        host.touch("/srv/off")?;
        agent.deploy(again)?;
        let waited = agent.wait(MINUTE)?;
        ensure!(waited.status == 1, "wait says {}: {}{}", waited.status, waited.stdout, waited.stderr);
        host.remove("/srv/off")?;
        if again == "the next agent" {
            agent.kill()?;
        }
        agent.wait_state("converged", 2 * MINUTE)?;
        for job in &all {
            let active = host.property(&job.service_name(), "ActiveState")?;
            ensure!(active == "active", "{}: {} is {active}\n{:?}", again, job.name, agent.history()?);
        }
        let said = agent.ok(&["history", "--json"])?;
        ensure!(!said.contains("somebody has stopped it"), "{said}");
    }
    // From now on it is whoever stops one who wants it down.
    host.ok(&["systemctl", "stop", "worker-cond.service"])?;
    agent.deploy_and_wait("v1", MINUTE)?;
    ensure!(host.property("worker-cond.service", "ActiveState")? == "inactive", "{}", agent.status_text()?);
    agent.ensure_nothing_left()
}

/// A unit that systemd would refuse to start a third time within a minute (facts F3.5).
fn start_limit(release: Release) -> Result<()> {
    let host = Host::boot(release, "start-limit")?;
    let all = [worker("worker-limited", Shape::Plain).unit("StartLimitBurst=2\nStartLimitIntervalSec=60s")];
    jobs::install(&host, &all)?;
    jobs::start(&host, &all)?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    agent.configure(&config("drain_timeout = \"0s\"\nterm_timeout = \"3s\""))?;
    for n in 1..=6 {
        agent.deploy_and_wait(&format!("v{n}"), MINUTE)?;
        ensure!(host.property("worker-limited.service", "ActiveState")? == "active", "down after deploy {n}");
    }
    let starts = Marks::read(&host)?.starts("worker-limited");
    ensure!(starts == 7, "{starts} starts");
    Ok(())
}

fn a_hundred(release: Release) -> Result<()> {
    let host = Host::boot(release, "a-hundred-workers")?;
    let all: Vec<Job> = (0..100).map(|n| worker(&format!("worker-{n:03}"), Shape::Plain)).collect();
    jobs::install(&host, &all)?;
    jobs::start(&host, &all)?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    agent.configure(&config("drain_timeout = \"2s\"\nterm_timeout = \"5s\""))?;
    let reloads = jobs::reloads(&host)?;
    agent.deploy("v1")?;
    wait_for("the drain", MINUTE, || {
        let status = agent.status()?;
        let draining = unit(&status, "worker-099.service").is_some_and(|unit| unit["state"] == "draining");
        if draining { Ok(Some(())) } else { bail!("{}", status["state"]) }
    })?;
    // Renewed by somebody else in the drain: not renewed again.
    host.ok(&["systemctl", "restart", "worker-042.service", "worker-043.service"])?;
    let waited = agent.wait(MINUTE)?;
    ensure!(waited.status == 0, "{waited:?}");
    let marks = Marks::read(&host)?;
    for job in &all {
        ensure!(marks.starts(&job.name) == 2, "{} was started {} times", job.name, marks.starts(&job.name));
    }
    ensure!(jobs::reloads(&host)? == reloads, "services need no reload");
    agent.ensure_nothing_left()
}

/// The restart of one takes others of the target with it, which have one of their own: systemd makes one of both.
fn together(release: Release) -> Result<()> {
    let host = Host::boot(release, "together")?;
    let with = |name: &str, lines: &str| worker(name, Shape::FinishesItsJob).unit(lines).service("KillMode=mixed");
    let all = [
        with("worker-base", ""),
        with("worker-part", "PartOf=worker-base.service\nAfter=worker-base.service"),
        with("worker-first", "PartOf=worker-base.service\nBefore=worker-base.service"),
        with("worker-bound", "BindsTo=worker-base.service\nAfter=worker-base.service"),
        with("worker-needs", "Requires=worker-base.service\nAfter=worker-base.service").service("Restart=always\nRestartSec=0"),
        with("queue@1", "PartOf=queue@2.service"),
        with("queue@2", "PartOf=queue@1.service"),
    ];
    jobs::install(&host, &all)?;
    jobs::start(&host, &all)?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    agent.configure(&config("drain_timeout = \"0s\"\nterm_timeout = \"10s\""))?;
    for (deploys, version) in ["v1", "v2"].into_iter().enumerate() {
        agent.deploy_and_wait(version, MINUTE)?;
        let marks = Marks::read(&host)?;
        for job in &all {
            ensure!(marks.starts(&job.name) == deploys + 2, "{version}: {} was started {} times", job.name, marks.starts(&job.name));
            ensure!(marks.count(&job.name, "finished") == deploys + 1, "{version}: {} was not let finish its job", job.name);
            ensure!(host.property(&job.service_name(), "ActiveState")? == "active", "{version}: {} is down", job.name);
        }
    }
    ensure!(agent.casualties()?.is_empty(), "{:?}", agent.casualties()?);
    agent.ensure_nothing_left()
}

/// What was restarted before the second deploy landed is old again, however fresh it was for the first.
fn deploy_in_the_middle(release: Release) -> Result<()> {
    let host = Host::boot(release, "in-the-middle")?;
    // Its start takes until the test says so.
    let starting =
        worker("worker-starting", Shape::Plain).service("ExecStartPost=/bin/sh -c 'while [ -e /srv/wait ]; do sleep 0.05; done'");
    let all = [starting, worker("worker-quick", Shape::Plain)];
    jobs::install(&host, &all)?;
    jobs::start(&host, &all)?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    agent.configure(&config("drain_timeout = \"0s\"\nterm_timeout = \"20s\""))?;
    host.touch("/srv/wait")?;
    agent.deploy("v1")?;
    wait_for("the restart", MINUTE, || {
        Ok(all.iter().all(|job| Marks::read(&host).is_ok_and(|marks| marks.starts(&job.name) == 2)).then_some(()))
    })?;
    // Further from those starts than the blur of a landing.
    let second = wait_for("a moment", MINUTE, || {
        let newest = all.iter().map(|job| Marks::read(&host).map(|marks| marks.start_times(&job.name).last().copied().unwrap_or_default()));
        let newest = newest.collect::<Result<Vec<f64>>>()?.into_iter().fold(0.0, f64::max);
        let now = jobs::clock(&host)?;
        Ok((now > newest + 0.3).then_some(now))
    })?;
    agent.deploy("v2")?;
    wait_for("the second deploy to be seen", MINUTE, || {
        let status = agent.status()?;
        if status["stamp"]["id"] == "v2" { Ok(Some(())) } else { bail!("{}", status["stamp"]) }
    })?;
    host.remove("/srv/wait")?;
    let waited = agent.wait(MINUTE)?;
    ensure!(waited.status == 0, "{waited:?}");
    let marks = Marks::read(&host)?;
    for job in &all {
        let times = marks.start_times(&job.name);
        ensure!(
            times.last().is_some_and(|newest| *newest > second),
            "{} runs what the second deploy replaced: {times:?} {second}",
            job.name
        );
        ensure!(times.len() == 3, "{}: {times:?}", job.name);
    }
    Ok(())
}

/// A worker that looks after each job whether it is asked to stop, and then exits with this status.
fn checkpoints(name: &str, status: u8) -> Job {
    let steps = format!("until restart-agent should-stop %n; do sleep 0.2; done; exit {status}");
    worker(name, Shape::Plain).service(&format!("ExecStart=\nExecStart=/bin/sh -c '{steps}'")).on_failure()
}

fn asked(release: Release) -> Result<()> {
    let host = Host::boot(release, "asked-workers")?;
    let all = [
        checkpoints("worker-75", 75),
        checkpoints("worker-0", 0),
        checkpoints("worker-always", 75).service("Restart=always\nRestartSec=100ms"),
        checkpoints("worker-slow", 75).service("Restart=always\nRestartSec=60s"),
        checkpoints("worker-failure", 75).service("Restart=on-failure\nRestartSec=100ms"),
        // Does not look, and finishes its job on SIGTERM.
        worker("worker-deaf", Shape::FinishesItsJob).on_failure(),
    ];
    // Of no target: asked by nobody.
    let excluded = checkpoints("worker-excluded", 75);
    jobs::install(&host, &all)?;
    jobs::install(&host, std::slice::from_ref(&excluded))?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    let units: Vec<String> = all.iter().chain([&excluded]).map(Job::service_name).collect();
    jobs::systemctl(&host, &["start"], &units)?;
    agent.configure(&config("checkpoint_timeout = \"8s\"\nterm_timeout = \"5s\"\nexclude = [\"worker-excluded.service\"]"))?;
    wait_for("its lock, which says that it may be asked", MINUTE, || {
        Ok((host.run(&["restart-agent", "should-stop", "worker-75.service"])?.status == 1).then_some(()))
    })?;
    ensure!(
        host.run(&["restart-agent", "should-stop", "worker-excluded.service"])?.status == 2,
        "what is excluded is none of its business"
    );
    let invocations = |units: &[String]| -> Result<Vec<String>> {
        let properties = jobs::properties(&host, units, &["InvocationID"])?;
        Ok(units.iter().map(|unit| properties[unit]["InvocationID"].clone()).collect())
    };
    let before = invocations(&units)?;
    agent.deploy("v1")?;
    agent.wait_status("one that is asked and does not look", MINUTE, |status| {
        unit(status, "worker-deaf.service").is_some_and(|unit| unit["state"] == "asked")
    })?;
    let waited = agent.wait(MINUTE)?;
    ensure!(waited.status == 0, "{waited:?}\n{}", agent.status_text()?);
    let after = invocations(&units)?;
    for (at, name) in units.iter().enumerate() {
        ensure!(host.property(name, "ActiveState")? == "active", "{name} is down\n{}", agent.status_text()?);
        ensure!((after[at] != before[at]) == (name != "worker-excluded.service"), "{name}: {} {}", before[at], after[at]);
    }
    let marks = Marks::read(&host)?;
    ensure!(marks.count("worker-deaf", "finished") == 1, "a worker that finishes its job on SIGTERM was not let");
    for job in &all {
        ensure!(marks.count(&job.name, "failure") == 0, "{} was a failure to somebody", job.name);
    }
    let starts = |name: &str| -> Result<usize> {
        Ok(host.sh_ok(&format!("journalctl --boot --unit={name} --output=cat | grep -c '^Started '"))?.trim().parse()?)
    };
    for name in units.iter().filter(|name| *name != "worker-excluded.service") {
        ensure!(starts(name)? == 2, "{name} was started {} times", starts(name)?);
    }
    ensure!(host.sh_ok("ls /run/restart-agent/stop")?.trim().is_empty(), "somebody is still asked to stop");

    // Killed while one is asked: it ends at its checkpoint all the same, and comes back.
    agent.configure(&config("checkpoint_timeout = \"30s\"\nterm_timeout = \"5s\"\nexclude = [\"worker-excluded.service\"]"))?;
    agent.deploy("v2")?;
    agent.wait_status("one that is asked", MINUTE, |status| {
        unit(status, "worker-deaf.service").is_some_and(|unit| unit["state"] == "asked")
    })?;
    agent.kill()?;
    agent.wait_active()?;
    let waited = agent.wait(MINUTE * 2)?;
    ensure!(waited.status == 0, "{waited:?}\n{}", agent.status_text()?);
    // When nobody was there to hurry it, one comes back when its own RestartSec= says so.
    for name in units.iter().filter(|name| *name != "worker-slow.service") {
        ensure!(host.property(name, "ActiveState")? == "active", "{name} is down\n{}", agent.status_text()?);
    }
    ensure!(host.sh_ok("ls /run/restart-agent/stop")?.trim().is_empty(), "somebody is still asked to stop");
    agent.ensure_nothing_left()
}

fn stopped_by_a_person(release: Release) -> Result<()> {
    let host = Host::boot(release, "stopped-workers")?;
    // Ends as failed, by our SIGKILL.
    let ignores = worker("worker-ignores", Shape::Ignores);
    // Ends well, long after it has been told: longer than a look is away. The SIGTERM of its stop is not for what it waits with then.
    let slow = worker("worker-slow", Shape::Plain)
        .service("KillMode=mixed\nExecStart=\nExecStart=/bin/sh -c 'trap \"sleep 4; exit 0\" TERM; while :; do sleep 0.1; done'");
    // It does not end by the stop of that person, within the minute and a half that systemd gives it.
    let hangs = worker("worker-hangs", Shape::Ignores);
    let all = [ignores, slow, hangs];
    jobs::install(&host, &all)?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    for (job, rules, state) in [
        (&all[0], "term_timeout = \"5s\"", "stopping"),
        (&all[1], "checkpoint_timeout = \"30s\"", "asked"),
        (&all[2], "drain_timeout = \"5s\"\nterm_timeout = \"5s\"", "draining"),
    ] {
        let name = job.service_name();
        jobs::systemctl(&host, &["start"], std::slice::from_ref(&name))?;
        agent.configure(&config(rules))?;
        agent.deploy(state)?;
        agent.wait_status(state, MINUTE, |status| unit(status, &name).is_some_and(|unit| unit["state"] == state))?;
        host.sh_ok(&format!("systemctl stop --no-block {name}"))?;
        let waited = agent.wait(MINUTE)?;
        ensure!(waited.status == 0, "{waited:?}\n{}", agent.status_text()?);
        let active = host.property(&name, "ActiveState")?;
        ensure!(matches!(active.as_str(), "inactive" | "failed"), "{name} is {active}\n{}", agent.status_text()?);
        let said = agent.ok(&["history", "--json"])?;
        ensure!(said.contains("somebody has stopped it"), "{said}");
        let status = agent.status_text()?;
        ensure!(status.contains("somebody has stopped it"), "{status}");
        let starts = host.sh_ok(&format!("journalctl --boot --unit={name} --output=cat | grep -c '^Started '"))?;
        ensure!(starts.trim() == "1", "{name} was started {starts} times");
        // The next deploy leaves it down, too.
        agent.deploy_and_wait(&format!("after-{state}"), MINUTE)?;
        ensure!(host.property(&name, "ActiveState")? == active, "{name} was started by the next deploy\n{}", agent.status_text()?);
    }
    agent.ensure_nothing_left()
}

fn held_and_left(release: Release) -> Result<()> {
    let host = Host::boot(release, "held-workers")?;
    let holds =
        "ExecStart=\nExecStart=/bin/sh -c 'restart-agent protect -- sh -c \"sleep 12; echo whole > /var/tmp/whole\"; exec sleep 600'";
    let all = [worker("worker-holds", Shape::Plain).service(holds), worker("queue@left", Shape::Plain)];
    jobs::install(&host, &all)?;
    // In the boot: systemd knows it before it runs, and so does the agent.
    host.ok(&["systemctl", "add-wants", "multi-user.target", "worker-holds.service"])?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    let rules = config("hold_timeout = \"30s\"\nterm_timeout = \"5s\"").replace(", \"queue@*.service\"", "");
    agent.configure(&format!(
        "{rules}\n[target.left]\nkind = \"service\"\nunits = [\"queue@*.service\"]\noverdue = \"finish\"\ncheckpoint_timeout = \"2s\"\n"
    ))?;
    wait_for("the locks", MINUTE, || {
        Ok((host.run(&["test", "-e", "/run/restart-agent/hold/worker-holds.service.lock"])?.status == 0).then_some(()))
    })?;
    let units: Vec<String> = all.iter().map(Job::service_name).collect();
    jobs::systemctl(&host, &["start"], &units)?;
    wait_for("the lock to be held", MINUTE, || {
        let free = host.run(&["flock", "--nonblock", "/run/restart-agent/hold/worker-holds.service.lock", "true"])?.status == 0;
        Ok((!free).then_some(()))
    })?;
    let left = host.property("queue@left.service", "InvocationID")?;
    let held = host.property("worker-holds.service", "InvocationID")?;
    agent.deploy("v1")?;
    agent.wait_status("one that is spared", MINUTE, |status| {
        unit(status, "worker-holds.service").is_some_and(|unit| unit["state"] == "held")
    })?;
    ensure!(host.property("worker-holds.service", "InvocationID")? == held, "restarted while it holds its lock");
    let waited = agent.wait(MINUTE)?;
    ensure!(waited.status == 0, "{waited:?}\n{}", agent.status_text()?);
    ensure!(host.read("/var/tmp/whole")?.trim() == "whole", "what it protected was cut");
    ensure!(host.property("worker-holds.service", "InvocationID")? != held, "spared for ever");
    ensure!(host.property("queue@left.service", "InvocationID")? == left, "what its rules let finish was restarted");
    let status = agent.status()?;
    let listed = unit(&status, "queue@left.service").with_context(|| status.to_string())?;
    ensure!(listed["state"] == "left" && listed["oldest_start"].is_string(), "{listed}");
    ensure!(listed["why"].as_str().is_some_and(|why| why.contains("finish")), "{listed}");
    ensure!(host.sh_ok("ls /run/restart-agent/stop")?.trim().is_empty(), "it is still asked to stop");

    // Restarted by somebody, it is fresh.
    host.ok(&["systemctl", "restart", "queue@left.service"])?;
    agent.wait_status("it to be seen fresh", MINUTE, |status| {
        unit(status, "queue@left.service").is_none_or(|unit| unit["state"] != "left")
    })?;
    agent.ensure_nothing_left()
}
