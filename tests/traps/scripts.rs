//! What a stop reaches, what it leaves behind, and what is said of how a script took it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::agent::Agent;
use lab::jobs::{self, Job, Marks, Shape, script, worker};
use lab::{Host, Release};

const MINUTE: Duration = Duration::from_secs(60);
const FAR: &str = "OnCalendar=*-01-01 03:00";
const CONFIG: &str = r#"[stamp]
path = "/srv/deploy/stamp"
settle = "100ms"
min_interval = "0s"

[target.jobs]
kind = "scheduled"
units = ["job-*.service"]
drain_timeout = "0s"
term_timeout = "6s"
after = "until-next"

[target.workers]
kind = "service"
units = ["worker-*.service"]
drain_timeout = "0s"
term_timeout = "6s"
"#;
/// On SIGTERM it goes on for two seconds, and says when it is done.
const GRACEFUL: &str = r#"<?php
$marks = '/var/tmp/marks/' . $argv[1];
$told = false;
pcntl_async_signals(true);
pcntl_signal(SIGTERM, function () use (&$told) { $told = true; });
file_put_contents("$marks.starts", microtime(true) . ' ' . getmypid() . "\n", FILE_APPEND);
while (!$told) { usleep(50000); }
$end = hrtime(true) + 2e9;
while (hrtime(true) < $end) { usleep(50000); }
file_put_contents("$marks.finished", "x\n", FILE_APPEND);
"#;

/// The shell dies of SIGTERM at once, as wrappers do; its php is to have the whole grace.
fn wrapped(job: Job) -> Job {
    let php = format!("/usr/bin/php /srv/graceful.php {}; true", job.name);
    job.service(&format!("ExecStart=\nExecStart=/bin/sh -c '{php}'"))
}

pub fn stops(release: Release) -> Result<()> {
    let host = Host::boot(release, "stops")?;
    host.write("/srv/graceful.php", GRACEFUL)?;
    let leaks = "KillMode=mixed\nExecStopPost=/bin/sh -c 'setsid --fork sleep 7777 > /dev/null 2>&1'";
    let hangs = "KillMode=mixed\nTimeoutStopSec=10min\nExecStopPost=/bin/sleep 8888";
    let wrappers = [
        wrapped(script("job-wrapped", Shape::Plain)),
        wrapped(script("job-mixed", Shape::Plain).service("KillMode=mixed")),
        wrapped(script("job-process", Shape::Plain).service("KillMode=process")),
        wrapped(worker("worker-wrapped", Shape::Plain)),
    ];
    let others = [
        script("job-leaks", Shape::Plain).service(leaks),
        script("job-leaks-ignores", Shape::Ignores).service(leaks),
        script("job-hangs", Shape::Plain).service(hangs),
        worker("worker-leaks", Shape::Plain).service(leaks),
        worker("worker-hangs", Shape::Plain).service(hangs),
    ];
    // Whatever one may think of such a script: it has said that it failed.
    let fails = script("job-fails", Shape::Plain)
        .service("ExecStart=\nExecStart=/bin/bash -c 'echo \"$EPOCHREALTIME 1\" >> /var/tmp/marks/job-fails.starts; trap \"exit 1\" TERM; while :; do sleep 0.1; done'");
    let all: Vec<Job> = wrappers.iter().chain(&others).chain([&fails]).map(|job| job.clone().on_failure()).collect();
    let all: Vec<Job> =
        all.into_iter().map(|job| if job.name.starts_with("job-") { job.clone().timer(&job.name, FAR) } else { job }).collect();
    jobs::install(&host, &all)?;
    jobs::start(&host, &all)?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    agent.configure(CONFIG)?;
    agent.deploy_and_wait("v1", MINUTE)?;
    jobs::settled(&host)?;

    let marks = Marks::read(&host)?;
    for job in &wrappers {
        ensure!(marks.count(&job.name, "finished") == 1, "{} was not let finish: {marks:?}", job.name);
    }
    for job in &all {
        let (starts, failures) = if job.name.starts_with("worker-") { (2, 0) } else { (1, 0) };
        // SIGKILL to the ExecStopPost= of a service is a failure to systemd, and the service is back all the same.
        let failures = if ["job-fails", "worker-hangs"].contains(&job.name.as_str()) { 1 } else { failures };
        ensure!(marks.starts(&job.name) == starts, "{} was started {} times", job.name, marks.starts(&job.name));
        ensure!(marks.count(&job.name, "failure") == failures, "{}: {} failures", job.name, marks.count(&job.name, "failure"));
        let state = host.property(&job.service_name(), "ActiveState")?;
        ensure!(state == if starts == 2 { "active" } else { "inactive" }, "{} is {state}", job.name);
    }
    for left in ["sleep 7777", "sleep 8888"] {
        let left = host.sh(&format!("pgrep -fx '{left}' | while read pid; do cat /proc/$pid/cgroup; done"))?.stdout;
        ensure!(left.trim().is_empty(), "left behind: {left}");
    }
    let rollout = agent.history()?.into_iter().next().context("no rollout")?;
    let cut = rollout["casualties"].as_array().map_or(0, Vec::len);
    ensure!(cut == 3 + others.len() - 2 + 1, "{rollout:#}");
    agent.ensure_nothing_left()
}
