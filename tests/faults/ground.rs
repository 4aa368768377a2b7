//! What the agent itself stands on: its state directory, what it has in /run, its file descriptors, its clock. One host with a worker, a script that is rerun and one
//! that is kept quiet, for each.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::agent::Agent;
use lab::jobs::{self, Job, Marks, Shape, script, worker};
use lab::{Host, Release, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
const FAR: &str = "OnCalendar=*-01-01 03:00";
const DATABASE: &str = "/var/lib/restart-agent/restart-agent.db";
const UNIT: &str = "restart-agent.service";

const CONFIG: &str = "[stamp]
path = \"/srv/deploy/stamp\"
settle = \"100ms\"
min_interval = \"0s\"
[target.jobs]
kind = \"scheduled\"
units = [\"job-*.service\"]
drain_timeout = \"1s\"
term_timeout = \"2s\"
after = \"rerun\"
max_interruptions = 100
[target.workers]
kind = \"service\"
units = [\"worker-*.service\"]
drain_timeout = \"1s\"
term_timeout = \"2s\"
";

struct Ground<'h> {
    host: &'h Host,
    agent: Agent<'h>,
    jobs: Vec<Job>,
    /// How often each has been started.
    starts: usize,
}

impl<'h> Ground<'h> {
    fn set(host: &'h Host) -> Result<Ground<'h>> {
        let jobs =
            vec![script("job-rerun", Shape::Plain).on_failure().timer("job-rerun", FAR), worker("worker-plain", Shape::Plain).on_failure()];
        jobs::install(host, &jobs)?;
        jobs::start(host, &jobs)?;
        let agent = Agent::install(host)?;
        agent.deploy("v0")?;
        agent.configure(CONFIG)?;
        Ok(Ground { host, agent, jobs, starts: 1 })
    }

    /// All run the newest code, each was renewed once for it, and nothing is left behind.
    fn ensure_renewed(&mut self, deploy: &str) -> Result<()> {
        self.starts += 1;
        let status =
            self.agent.wait_status("the deploy", MINUTE, |status| status["state"] == "converged" && status["reached"]["id"] == deploy)?;
        wait_for("the rerun", MINUTE, || {
            let marks = Marks::read(self.host)?;
            for job in &self.jobs {
                ensure!(
                    marks.starts(&job.name) == self.starts,
                    "{} was started {} times, not {}: {status}",
                    job.name,
                    marks.starts(&job.name),
                    self.starts
                );
                ensure!(marks.count(&job.name, "failure") == 0, "{} failed", job.name);
            }
            Ok(Some(()))
        })?;
        for timer in self.jobs.iter().flat_map(Job::timers) {
            ensure!(self.host.property(&timer, "ActiveState")? == "active", "{timer} is not active");
        }
        self.agent.ensure_nothing_left()
    }

    fn deploy(&mut self, deploy: &str) -> Result<()> {
        self.agent.deploy_and_wait(deploy, MINUTE)?;
        self.ensure_renewed(deploy)
    }

    fn says(&self, what: &str) -> Result<()> {
        self.agent.wait_status(what, MINUTE, |status| status["problems"].to_string().contains(what))?;
        let text = self.agent.status_text()?;
        ensure!(text.contains(what), "{text}");
        Ok(())
    }
}

/// The agent's clock is a day ahead, a day behind, and jumps in the middle of a drain. The machine's is never touched: faketime is between the agent
/// and it. Content decides (trap T4).
pub fn clock(release: Release) -> Result<()> {
    let host = Host::boot(release, "faketime")?;
    let mut ground = Ground::set(&host)?;
    let library = host.sh_ok("ls /usr/lib/*/faketime/libfaketime.so.1")?;
    let faked = format!(
        "[Service]\nEnvironment=LD_PRELOAD={} FAKETIME_TIMESTAMP_FILE=/run/faketime FAKETIME_NO_CACHE=1 FAKETIME_DONT_FAKE_MONOTONIC=1 NO_FAKE_STAT=1\n",
        library.trim()
    );
    host.write(&format!("/etc/systemd/system/{UNIT}.d/faketime.conf"), faked)?;
    host.ok(&["systemctl", "daemon-reload"])?;
    let clock = |offset: &str| host.replace("/run/faketime", format!("{offset}\n"));
    for offset in ["+1d", "-1d", "+0"] {
        (|| {
            clock(offset)?;
            host.ok(&["systemctl", "restart", "restart-agent"])?;
            ground.agent.wait_active()?;
            // A start is no deploy, by whatever clock.
            let waited = ground.agent.wait(MINUTE)?;
            ensure!(waited.status == 0, "{waited:?}");
            let written = ground.agent.status()?["written_at"].to_string();
            let today = host.ok(&["date", "--utc", "+%F"])?;
            ensure!(written.contains(today.trim()) == (offset == "+0"), "the clock is not faked: {written}, {today}");
            ground.deploy(&format!("at{offset}"))
        })()
        .with_context(|| format!("a clock of {offset}"))?;
    }
    for (from, to) in [("+0", "+1d"), ("+1d", "-1d")] {
        (|| {
            let deploy = format!("from{from}to{to}");
            ground.agent.deploy(&deploy)?;
            ground.agent.wait_status("the drain", MINUTE, |status| status["targets"][0]["state"] == "draining")?;
            clock(to)?;
            let waited = ground.agent.wait(MINUTE)?;
            ensure!(waited.status == 0, "{waited:?}");
            ground.ensure_renewed(&deploy)
        })()
        .with_context(|| format!("from {from} to {to} in a drain"))?;
    }
    Ok(())
}

/// Read-only, and with a database that is no database.
pub fn state_directory(release: Release) -> Result<()> {
    let host = Host::boot(release, "state-directory")?;
    host.sh_ok("install -d -m 700 /var/lib/restart-agent && mount -t tmpfs -o size=8M,mode=700 tmpfs /var/lib/restart-agent")?;
    let mut ground = Ground::set(&host)?;
    ground.deploy("v1")?;

    // As after a boot that found its disk broken. By another mount of it, so that it is the file system that is read-only.
    host.sh_ok("mkdir /mnt/state && mount --bind /var/lib/restart-agent /mnt/state")?;
    host.sh_ok("systemctl stop restart-agent && mount -o remount,ro /mnt/state && systemctl start restart-agent")?;
    ground.agent.wait_active()?;
    ground.says("read-only")?;
    ground.agent.deploy("v2")?;
    let status = ground.agent.wait_state("blocked", MINUTE)?;
    ensure!(status["stamp"]["id"] == "v2", "{status}");
    let refused = host.run(&["restart-agent", "trigger"])?;
    ensure!(refused.status == 1, "an order was accepted that cannot be remembered: {refused:?}");
    let marks = Marks::read(&host)?;
    ensure!(ground.jobs.iter().all(|job| marks.starts(&job.name) == ground.starts), "something was begun that could not be remembered");
    host.ok(&["mount", "-o", "remount,rw", "/mnt/state"])?;
    ground.ensure_renewed("v2")?;

    // While it runs: everything that it knows is written to a new one.
    host.sh_ok(&format!("dd if=/dev/urandom of={DATABASE} bs=4096 count=4 conv=notrunc status=none; : > {DATABASE}-wal"))?;
    ground.agent.deploy("v3")?;
    ground.ensure_renewed("v3")?;

    // At its start.
    for (name, spoil) in [
        ("garbage", format!("head -c 65536 /dev/urandom > {DATABASE}")),
        ("a page of garbage", format!("dd if=/dev/urandom of={DATABASE} bs=4096 seek=1 count=3 conv=notrunc status=none")),
        ("cut short", format!("truncate -s 6000 {DATABASE}")),
    ] {
        (|| {
            host.sh_ok(&format!(
                "systemctl stop restart-agent && rm -f {DATABASE}-wal {DATABASE}-shm && {spoil} && systemctl start restart-agent"
            ))?;
            ground.agent.wait_active()?;
            ground.says("was damaged")?;
            let aside = host.sh_ok("ls /var/lib/restart-agent")?;
            ensure!(aside.contains("restart-agent.db.corrupt-"), "it was not kept: {aside}");
            println!("{release}: {name}:\n{}", ground.agent.status_text()?);
            let marks = Marks::read(&host)?;
            ensure!(ground.jobs.iter().all(|job| marks.starts(&job.name) == ground.starts), "its start began a rollout");
            ground.deploy(&format!("after {name}"))
        })()
        .with_context(|| name)?;
    }
    Ok(())
}

/// Its lock, then all that it has there, at rest and in a drain.
pub fn run_directory(release: Release) -> Result<()> {
    let host = Host::boot(release, "run-directory")?;
    let mut ground = Ground::set(&host)?;
    ground.deploy("v1")?;
    let pid = host.pid_of(UNIT)?;
    let no_second = || {
        let second = host.sh("timeout 5 restart-agent daemon")?;
        ensure!(second.status == 1 && second.stderr.contains("restart-agent runs already"), "a second one is started: {second:?}");
        Ok(())
    };
    let known = |within: Duration| {
        wait_for("status to know of it", within, || {
            let said = host.run(&["restart-agent", "status"])?;
            ensure!(said.status == 0, "{said:?}");
            Ok(Some(()))
        })
    };
    for removed in ["/run/restart-agent/agent.lock", "/run/restart-agent"] {
        (|| {
            host.ok(&["rm", "-r", removed])?;
            no_second()?;
            // At rest nothing but the slow poll turns it.
            known(Duration::from_secs(70))?;
            no_second()?;

            let deploy = format!("without {removed}").replace('/', "-");
            ground.agent.deploy(&deploy)?;
            ground.agent.wait_status("the drain", MINUTE, |status| status["targets"][0]["state"] == "draining")?;
            host.ok(&["rm", "-r", removed])?;
            no_second()?;
            known(Duration::from_secs(5))?;
            let waited = ground.agent.wait(MINUTE)?;
            ensure!(waited.status == 0, "{waited:?}");
            ground.ensure_renewed(&deploy)?;
            ensure!(host.pid_of(UNIT)? == pid, "the agent was restarted");
            Ok(())
        })()
        .with_context(|| removed)?;
    }
    Ok(())
}

/// Not one is left; then there are some again.
pub fn descriptors(release: Release) -> Result<()> {
    let host = Host::boot(release, "descriptors")?;
    let mut ground = Ground::set(&host)?;
    ground.deploy("v1")?;
    let pid = host.pid_of(UNIT)?;
    let limit = host.sh_ok(&format!("prlimit --pid {pid} --nofile --noheadings --output SOFT,HARD | tr -s ' ' :"))?;
    let limit = limit.trim().trim_matches(':').to_owned();
    let used = host.sh_ok(&format!("ls /proc/{pid}/fd | sort -n | tail -n 1"))?;
    let used: u32 = used.trim().parse()?;
    for spare in [1, 6] {
        (|| {
            let deploy = format!("with {spare} left");
            host.ok(&["prlimit", "--pid", &pid.to_string(), &format!("--nofile={}:", used + spare)])?;
            ground.agent.deploy(&deploy)?;
            if spare == 1 {
                // Not one is left, and it says so.
                ground.agent.wait_status("the reason", MINUTE, |status| {
                    status["stamp"]["error"].as_str().is_some_and(|error| error.contains("Too many open files"))
                })?;
                ensure!(ground.agent.status_text()?.contains("Too many open files"));
            }
            // It may well get through with so few.
            let waited = ground.agent.wait(Duration::from_secs(10))?;
            println!(
                "{release}: {deploy}: wait exits {}: {}{}\n{}",
                waited.status,
                waited.stdout,
                waited.stderr,
                ground.agent.status_text()?
            );
            host.ok(&["prlimit", "--pid", &pid.to_string(), &format!("--nofile={limit}")])?;
            ground.ensure_renewed(&deploy)?;
            ensure!(host.pid_of(UNIT)? == pid, "the agent was restarted");
            Ok(())
        })()
        .with_context(|| format!("{spare} descriptors left"))?;
    }
    Ok(())
}
