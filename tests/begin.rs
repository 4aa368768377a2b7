//! `phase = "begin"`: no script starts while new code is on its way, and none is lost.

#![allow(clippy::disallowed_methods, reason = "the bans of clippy.toml are for core")]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::agent::{Agent, STAMP};
use lab::jobs::{self, Job, Marks, Shape, script};
use lab::{Host, Release, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
/// Between two slots of the timers here.
const SLOT: f64 = 4.0;

fn main() -> ExitCode {
    lab::suite()
        .on_each("no_script_starts_between_begin_and_done_and_none_is_lost", held)
        .on_each("begin_ends_by_itself_by_removal_and_outlives_a_crash", ends)
        .on_each("what_holds_starts_for_an_older_begin_is_replaced_before_it_ends", replaced)
        .run()
}

fn config(begin_timeout: &str) -> String {
    format!(
        "[stamp]\npath = \"{STAMP}\"\nsettle = \"100ms\"\nmin_interval = \"0s\"\nbegin_timeout = \"{begin_timeout}\"\n\n[target.jobs]\nkind = \"scheduled\"\nunits = [\"job-*.service\"]\nexclude = [\"job-excluded.service\"]\nafter = \"rerun\"\n"
    )
}

/// Quick scripts with timers of several kinds, one that runs on, and one that is none of the agent's business.
fn scripts() -> (Vec<Job>, Job, Job) {
    let every = "OnCalendar=*:*:0/4\nAccuracySec=10ms";
    let quick = |name: &str, lines: &str| script(name, Shape::Quick).on_failure().timer(name, lines);
    let quicks = vec![
        quick("job-calendar", every),
        quick("job-persistent", &format!("{every}\nPersistent=yes")),
        quick("job-active@1", "OnActiveSec=1s\nOnUnitActiveSec=4s\nAccuracySec=10ms"),
        quick("job-inactive", "OnActiveSec=1s\nOnUnitInactiveSec=4s\nAccuracySec=10ms"),
    ];
    (quicks, script("job-long", Shape::Plain), quick("job-excluded", every))
}

/// Runs on once it is started, which no timer does here.
fn runs_on() -> Job {
    script("job-runs-on", Shape::Plain).on_failure().timer("job-runs-on", "OnCalendar=*-01-01 03:00")
}

fn stage(release: Release, name: &str) -> Result<(Host, Vec<Job>, Job, Job)> {
    let host = Host::boot(release, name)?;
    let (quicks, long, excluded) = scripts();
    let all: Vec<Job> = quicks.iter().chain([&long, &excluded, &runs_on()]).cloned().collect();
    jobs::install(&host, &all)?;
    jobs::start(&host, std::slice::from_ref(&long))?;
    let timers: Vec<String> = all.iter().flat_map(Job::timers).collect();
    jobs::systemctl(&host, &["start"], &timers)?;
    Ok((host, quicks, long, excluded))
}

fn begin(host: &Host, id: &str) -> Result<()> {
    host.write(STAMP, format!("id = \"{id}\"\nphase = \"begin\"\n"))
}

/// Until every start of these scripts waits.
fn wait_until_all_wait(host: &Host, quicks: &[Job]) -> Result<()> {
    wait_for("the starts of all scripts to wait", MINUTE, || {
        let waiting = host.ok(&["systemctl", "list-jobs", "--plain", "--no-legend"])?;
        let waits = |job: &Job| waiting.lines().any(|line| line.contains(&job.service_name()) && line.contains("waiting"));
        Ok(quicks.iter().all(waits).then_some(()))
    })
}

fn held(release: Release) -> Result<()> {
    let (host, quicks, long, excluded) = stage(release, "begin")?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    agent.configure(&config("10m"))?;
    let invocation = host.property(&long.service_name(), "InvocationID")?;
    begin(&host, "v1")?;
    wait_until_all_wait(&host, &quicks)?;
    let status = agent.status()?;
    ensure!(status["begun"]["id"] == "v1" && status["stamp"]["id"] == "v0", "{status}");
    ensure!(agent.status_text()?.contains("v1 has begun"), "{}", agent.status_text()?);
    let held_back = runs_on().service_name();
    jobs::systemctl(&host, &["start", "--no-block"], std::slice::from_ref(&held_back))?;
    let before = Marks::read(&host)?;
    // Two slots later.
    let now = jobs::clock(&host)?;
    let marks = wait_for("two more runs of the excluded script", MINUTE, || {
        let marks = Marks::read(&host)?;
        Ok((marks.starts(&excluded.name) >= before.starts(&excluded.name) + 2).then_some(marks))
    })?;
    ensure!(jobs::clock(&host)? > now + SLOT / 2.0, "the excluded script ran too often");
    for job in &quicks {
        ensure!(marks.starts(&job.name) == before.starts(&job.name), "{} was started: {:?}", job.name, marks.start_times(&job.name));
    }
    ensure!(host.property(&long.service_name(), "InvocationID")? == invocation, "what runs goes on");
    let done = jobs::clock(&host)?;
    agent.deploy_and_wait("v1", MINUTE)?;
    let marks = wait_for("a run of each", MINUTE, || {
        let marks = Marks::read(&host)?;
        Ok(quicks.iter().all(|job| marks.starts(&job.name) > before.starts(&job.name)).then_some(marks))
    })?;
    for job in &quicks {
        let first = marks.start_times(&job.name)[before.starts(&job.name)];
        ensure!(first > done && first < done + 2.0, "{} was started at {first}, not at once after {done}", job.name);
        ensure!(marks.count(&job.name, "failure") == 0, "{} failed", job.name);
    }
    let status = agent.status()?;
    ensure!(status["begun"].is_null() && status["state"] == "converged", "{status}");
    // What was let go has the new code: it is not stopped for it.
    ensure!(Marks::read(&host)?.starts("job-runs-on") == 1, "what was held back was stopped when it was let go, or is lost");
    ensure!(host.property(&held_back, "ActiveState")? == "activating", "{}", agent.status_text()?);
    ensure!(agent.casualties()?.len() == 1, "only job-long ran old code: {:?}", agent.casualties()?);
    // The next one begins as soon as this one is done.
    begin(&host, "v2")?;
    wait_until_all_wait(&host, &quicks)?;
    agent.deploy("v2")?;
    agent.wait_status("v2 to be done", MINUTE, |status| status["begun"].is_null())?;
    begin(&host, "v3")?;
    wait_until_all_wait(&host, &quicks)?;
    agent.deploy_and_wait("v3", MINUTE)?;
    let failed = host.ok(&["systemctl", "list-units", "--failed", "--plain", "--no-legend"])?;
    ensure!(failed.trim().is_empty(), "failed: {failed}");
    agent.ensure_nothing_left()
}

fn ends(release: Release) -> Result<()> {
    let (host, quicks, _, _) = stage(release, "begin-ends")?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    agent.configure(&config("20s"))?;
    let runs = |least: &Marks, what: &str| {
        wait_for(what, MINUTE, || {
            let marks = Marks::read(&host)?;
            Ok(quicks.iter().all(|job| marks.starts(&job.name) > least.starts(&job.name)).then_some(()))
        })
    };
    let state = || host.property("restart-agent-begin.service", "ActiveState");
    // It expires, also without an agent.
    begin(&host, "v1")?;
    wait_until_all_wait(&host, &quicks)?;
    host.ok(&["systemctl", "stop", "restart-agent"])?;
    ensure!(state()? == "activating", "it ended with the agent");
    runs(&Marks::read(&host)?, "each to run after begin_timeout, without an agent")?;
    host.ok(&["systemctl", "start", "restart-agent"])?;
    agent.wait_status("begin to be over", MINUTE, |status| status["begun"].is_null())?;

    // A crash changes nothing.
    agent.configure(&config("10m"))?;
    begin(&host, "v2")?;
    wait_until_all_wait(&host, &quicks)?;
    let before = Marks::read(&host)?;
    agent.kill()?;
    agent.wait_active()?;
    agent.wait_status("the agent to know of it", MINUTE, |status| status["begun"]["id"] == "v2")?;
    ensure!(state()? == "activating", "the crash has let the scripts go");
    let now = Marks::read(&host)?;
    ensure!(quicks.iter().all(|job| now.starts(&job.name) == before.starts(&job.name)), "a script was started");

    // Removal lets them go.
    host.command(["dpkg", "--remove", "restart-agent"]).timeout(MINUTE * 3).ok()?;
    runs(&before, "each to run after the removal of the package")?;
    wait_for("the unit to be gone", MINUTE, || Ok((state()? == "inactive").then_some(())))?;
    let failed = host.ok(&["systemctl", "list-units", "--failed", "--plain", "--no-legend"])?;
    ensure!(failed.trim().is_empty(), "failed: {failed}");
    agent.ensure_nothing_left()
}

/// What held the starts for a deploy whose `begin_timeout` has just passed is still there, and about to end, when the next one begins.
fn replaced(release: Release) -> Result<()> {
    let (host, quicks, _, excluded) = stage(release, "begin-anew")?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    agent.configure(&config("10m"))?;
    // It sleeps for 5 s, and has 25 s more before systemd ends it, as one of the agent's has.
    let as_the_agent =
        "--unit=restart-agent-begin --collect --property=Type=oneshot --property=TimeoutStartSec=30 --property=SuccessExitStatus=SIGTERM";
    let run = ["systemd-run", "--no-block"].into_iter().chain(as_the_agent.split(' ')).chain(["sleep", "5"]);
    host.ok(&run.collect::<Vec<_>>())?;
    begin(&host, "v1")?;
    wait_until_all_wait(&host, &quicks)?;
    let before = Marks::read(&host)?;
    // Three slots, of which two come after the 5 s.
    let now = wait_for("three more runs of the excluded script", MINUTE, || {
        let marks = Marks::read(&host)?;
        Ok((marks.starts(&excluded.name) >= before.starts(&excluded.name) + 3).then_some(marks))
    })?;
    for job in &quicks {
        ensure!(now.starts(&job.name) == before.starts(&job.name), "{} was started: {:?}", job.name, now.start_times(&job.name));
    }
    ensure!(host.property("restart-agent-begin.service", "ActiveState")? == "activating", "{}", agent.status_text()?);
    agent.deploy_and_wait("v1", MINUTE)
}
