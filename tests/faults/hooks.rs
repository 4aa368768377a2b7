//! Commands of the configuration that hang, leave processes behind, do not listen, or print without end.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::agent::CONFIG;
use lab::pool::{Command, FilePool};
use lab::web;
use lab::{Host, Release, wait_for};

use crate::in_release;
use crate::stage::{Stage, phase};

const MINUTE: Duration = Duration::from_secs(60);
const POOL: &str = "/var/lib/lab-pool";
const SCRIPT: &str = "job.service";
const ASKED: &str = "/var/log/app/asked";

/// What each command does before or instead of what it is for.
const HANGS: &str = "trap '' TERM; while :; do sleep 1; done";
const LEAVES_CHILDREN: &str = "for n in 1 2 3; do (trap '' TERM HUP; exec setsid sh -c 'while :; do sleep 1; done' stays) & done";
const RAVES: &str = "head -c 1073741824 /dev/zero | tr '\\0' x";

pub fn hostile(release: Release) -> Result<()> {
    let host = Host::boot(release, "hostile-hooks")?;
    host.write(
        &format!("/etc/systemd/system/{SCRIPT}"),
        "[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo start >> /var/log/app/job; exec sleep 600'\n",
    )?;
    host.sh_ok(&format!("systemctl daemon-reload && systemctl start --no-block {SCRIPT}"))?;
    for name in ["depool", "repool", "check"] {
        // Bad behaviour is in a file of its own, so that it can change while the agent looks on.
        host.write_mode(&format!("{POOL}/hostile-{name}"), format!("#!/bin/sh\n. {POOL}/be-{name}\nexec {POOL}/{name}\n"), 0o755)?;
        be(&host, name, "")?;
    }
    let stage = Stage::set(&host, &web::Options::default(), &pool(), "drain_timeout = \"1s\"\nterm_timeout = \"2s\"")?;
    let config = host.read(CONFIG)?;
    let before = stage.web.generation()?;

    // Each in the way of a deploy, for the time that it may take; then mended, and the same deploy goes on by itself.
    for (name, command) in [("repool", Command::Repool), ("depool", Command::Depool)] {
        // The next try after a depool comes a quarter of a minute later.
        if name == "depool" && !in_release() {
            continue;
        }
        (|| {
            let version = format!("hangs-{name}");
            let calls = stage.pool.calls(command)?;
            be(&host, name, HANGS)?;
            stage.deploy(&version)?;
            let status = stage.agent.wait_status("the command in status", MINUTE, |status| {
                matches!(status["state"].as_str(), Some("blocked" | "failed"))
                    && status["waiting_for"].as_str().is_some_and(|waits| waits.contains(name) && waits.contains("did not end in time"))
            })?;
            ensure!(!status["next"].is_null() && !status["deadline"].is_null(), "{status}");
            let text = stage.agent.status_text()?;
            ensure!(text.contains("did not end in time"), "{text}");
            ensure!(stage.pool.calls(command)? == calls, "it did what it is for: {text}");
            be(&host, name, "")?;
            stage.agent.wait_status("the same deploy", MINUTE, |status| status["reached"]["id"] == version)?;
            nobody_is_left(&host)?;
            stage.ensure_done(&version)
        })()
        .with_context(|| format!("{name} hangs"))?;
    }
    ensure!(stage.web.generation()? != before, "php-fpm was not renewed");

    // What they leave behind goes with them, and what they print is not kept.
    stage.agent.configure(&config.replace("\ntimeout = \"2s\"", "\ntimeout = \"60s\""))?;
    be(&host, "depool", &format!("{LEAVES_CHILDREN}; {RAVES}"))?;
    be(&host, "repool", LEAVES_CHILDREN)?;
    let begun = Instant::now();
    stage.converge("a-gigabyte")?;
    nobody_is_left(&host)?;
    let (rss, took) = (memory(&host)?, begun.elapsed());
    println!("{release}: a gigabyte of output by depool, and children left behind: {:.1} s, {rss} KiB", took.as_secs_f64());
    ensure!(rss < 40 * 1024, "the agent has {rss} KiB after a gigabyte of output");
    for name in ["depool", "repool"] {
        be(&host, name, "")?;
    }
    let (began, ended) = phase(&stage.agent, "drain")?;
    ensure!(ended - began < 5.0, "drained for {:.3} s", ended - began);
    asks(&host, &stage, &config)
}

/// The command that asks a script leaves children behind that do not listen; with RELEASE_TESTS it and the one that takes that back hang as well,
/// 30 s each time. The script has its time all the same, and a request that cannot be taken back is told until it can be.
fn asks(host: &Host, stage: &Stage<'_>, config: &str) -> Result<()> {
    let then = if in_release() { HANGS } else { "exit 0" };
    for (name, text) in
        [("ask", format!("echo asked >> {ASKED}; {LEAVES_CHILDREN}; {then}")), ("unask", format!("echo unasked >> {ASKED}; {then}"))]
    {
        host.write_mode(&format!("/usr/local/bin/{name}"), format!("#!/bin/sh\n{text}\n"), 0o755)?;
    }
    let target = format!(
        "[target.scripts]\nkind = \"scheduled\"\nunits = [\"{SCRIPT}\"]\ndrain_timeout = \"0s\"\ncheckpoint_timeout = \"4s\"\nafter = \"rerun\"\n\
         ask = [\"/usr/local/bin/ask\"]\nunask = [\"/usr/local/bin/unask\"]\n"
    );
    stage.agent.configure(&format!("{config}\n{target}"))?;
    let starts = || -> Result<usize> { Ok(host.read("/var/log/app/job")?.lines().count()) };
    let before = starts()?;
    stage.web.deploy_code("asked")?;
    if in_release() {
        stage.agent.deploy("asked")?;
        let waited = stage.agent.wait(MINUTE * 4)?;
        ensure!(waited.status == 1 && waited.stderr.contains("could not be taken back"), "{waited:?}");
        let status = stage.agent.wait_state("failed", MINUTE)?;
        ensure!(status["next"] == "another try" && !status["deadline"].is_null(), "{status}");
        host.write_mode("/usr/local/bin/unask", "#!/bin/sh\nexit 0\n", 0o755)?;
        stage.agent.wait_state("converged", MINUTE * 3)?;
    } else {
        stage.agent.deploy_and_wait("asked", MINUTE)?;
    }
    ensure!(host.read(ASKED)?.contains("asked"), "nobody was asked");
    wait_for("the rerun", MINUTE, || Ok((starts()? == before + 1).then_some(())))?;
    let cut = stage.agent.casualties()?;
    ensure!(cut.iter().filter(|casualty| casualty["what"] == "script").count() == 1, "{cut:?}");
    let failed = host.ok(&["systemctl", "list-units", "--failed", "--plain", "--no-legend"])?;
    ensure!(!failed.contains(SCRIPT), "{failed}");
    wait_for("nobody to be left", MINUTE, || nobody_is_left(host).map(Some))?;
    stage.ensure_done("asked")
}

fn pool() -> String {
    FilePool::config("2s", "100ms").replace(&format!("{POOL}/"), &format!("{POOL}/hostile-"))
}

/// The command does this, then what it is for.
fn be(host: &Host, name: &str, what: &str) -> Result<()> {
    host.replace(&format!("{POOL}/be-{name}"), format!("{what}\n"))
}

fn nobody_is_left(host: &Host) -> Result<()> {
    let left = host.sh("pgrep -af 'hostile-|stays$' | grep -v pgrep")?.stdout;
    if left.trim().is_empty() { Ok(()) } else { bail!("left behind: {left}") }
}

fn memory(host: &Host) -> Result<u64> {
    let pid = host.pid_of("restart-agent.service")?;
    let status = host.read(&format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    line.trim().trim_end_matches(" kB").parse().context("VmRSS")
}
