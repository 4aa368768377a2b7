//! A disk that takes longer over the journal than a grace is.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::agent::Agent;
use lab::{Host, Release, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
/// Longer than the grace, and less than the agent waits for its journal.
const SLOW: Duration = Duration::from_secs(5);
const GRACE: Duration = Duration::from_secs(3);
const STATE: &str = "/var/lib/restart-agent";
const CONFIG: &str = "[stamp]\npath = \"/srv/deploy/stamp\"\nsettle = \"100ms\"\nmin_interval = \"0s\"\n
[target.workers]\nkind = \"service\"\nunits = [\"deaf-worker.service\"]\ndrain_timeout = \"3s\"\nterm_timeout = \"3s\"\n";

/// The disk sleeps from the drain on, with the restart still to be written down, until the grace would be over if it counted from there. (What a script
/// is lent is written down before its stop, so that this one would wait for that.)
pub fn disk(release: Release) -> Result<()> {
    let host = Host::builder(release, "slow-disk").disk(STATE).boot()?;
    // Its times in microseconds: when SIGTERM came, and while it lives. The shell tells them itself: systemd sends SIGTERM to whoever joins the cgroup
    // meanwhile, too, and a date(1) that is started by the trap may die of it.
    let now = "${EPOCHREALTIME/[.,]/}";
    let lives = format!("trap 'echo T {now} >> /srv/run-$$' TERM; while :; do echo A {now} >> /srv/run-$$; sleep 0.05; done");
    host.write("/srv/deaf.sh", lives)?;
    host.write("/etc/systemd/system/deaf-worker.service", "[Service]\nType=exec\nExecStart=/bin/bash /srv/deaf.sh\n")?;
    host.sh_ok("systemctl daemon-reload && systemctl start deaf-worker")?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    agent.configure(CONFIG)?;
    let run = format!("/srv/run-{}", host.pid_of("deaf-worker.service")?);

    agent.deploy("v1")?;
    agent.wait_status("the drain", MINUTE, |status| status["targets"][0]["state"] == "draining")?;
    host.freeze()?;
    let pid = host.pid_of("restart-agent.service")?;
    wait_for("the agent to write down its restart", MINUTE, || {
        let sleeps = host.sh(&format!("grep -lE '^State:.D' /proc/{pid}/task/*/status"))?.stdout;
        if sleeps.is_empty() { bail!("nobody sleeps") } else { Ok(Some(())) }
    })?;
    let slept = Instant::now();
    wait_for("the disk to have been slow for long enough", MINUTE, || Ok((slept.elapsed() >= SLOW).then_some(())))?;
    host.thaw()?;
    let waited = agent.wait(MINUTE)?;
    ensure!(waited.status == 0, "{waited:?}: {}", agent.status_text()?);
    let told = host.read(&run)?;
    let times = |what: &str| told.lines().filter_map(|line| line.strip_prefix(what)?.trim().parse::<u64>().ok()).collect::<Vec<_>>();
    let term = *times("T").first().context("it was never asked to end")?;
    let last = *times("A").last().context("it has not lived")?;
    let had = Duration::from_micros(last.saturating_sub(term));
    println!("{release}: it lived for {had:?} after SIGTERM");
    ensure!(had + Duration::from_millis(300) >= GRACE, "SIGKILL came {had:?} after SIGTERM, and its grace is {GRACE:?}");
    Ok(())
}
