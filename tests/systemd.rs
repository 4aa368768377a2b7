//! systemd and its bus misbehave while the agent works: it reconnects, looks again, and finishes.

#![allow(clippy::disallowed_methods, reason = "the bans of clippy.toml are for core")]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::agent::Agent;
use lab::jobs::{self, Job, Marks, Shape, script, worker};
use lab::{Host, Release, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
const FAR: &str = "OnCalendar=*-01-01 03:00";

fn main() -> ExitCode {
    lab::suite()
        .on_each("the_bus_is_restarted_in_a_drain_and_killed_in_a_stop", bus)
        .on_each("systemd_reloads_all_the_time_and_reexecutes_in_a_stop", reloads)
        .on_each("the_bus_is_away_when_the_deploy_lands", away)
        .on_each("at_rest_the_agent_listens_to_nothing_and_is_well_confined", rest)
        .run()
}

const CONFIG: &str = "[stamp]
path = \"/srv/deploy/stamp\"
settle = \"100ms\"
min_interval = \"0s\"

[target.jobs]
kind = \"scheduled\"
units = [\"job-*.service\"]
drain_timeout = \"3s\"
term_timeout = \"4s\"
after = \"rerun\"

[target.workers]
kind = \"service\"
units = [\"worker-*.service\"]
drain_timeout = \"3s\"
term_timeout = \"4s\"
";

/// Of each kind one that ends at once and one that has to be killed.
fn jobs() -> Vec<Job> {
    vec![
        script("job-plain", Shape::Plain).on_failure().timer("job-plain", FAR),
        script("job-ignores", Shape::Ignores).on_failure().timer("job-ignores", FAR),
        worker("worker-plain", Shape::Plain),
        worker("worker-ignores", Shape::Ignores),
    ]
}

fn prepare<'h>(host: &'h Host, all: &[Job]) -> Result<Agent<'h>> {
    jobs::install(host, all)?;
    jobs::start(host, all)?;
    let agent = Agent::install(host)?;
    agent.deploy("v0")?;
    agent.configure(CONFIG)?;
    Ok(agent)
}

fn wait_for_state(host: &Host, unit: &str, state: &str) -> Result<()> {
    wait_for(&format!("{unit} to be {state}"), MINUTE, || {
        let now = host.property(unit, "ActiveState")?;
        if now == state { Ok(Some(())) } else { bail!("{now}") }
    })
}

/// Everything was renewed once, whatever went on, and by the same run of the agent.
fn ensure_renewed(host: &Host, agent: &Agent<'_>, all: &[Job], pid: i32, starts: usize) -> Result<()> {
    let waited = agent.wait(MINUTE)?;
    ensure!(waited.status == 0, "{waited:?}\n{}", agent.status_text()?);
    jobs::settled(host)?;
    let marks = Marks::read(host)?;
    for job in all {
        ensure!(marks.starts(&job.name) == starts, "{} was started {} times, not {starts}", job.name, marks.starts(&job.name));
        ensure!(marks.count(&job.name, "failure") == 0, "{} failed", job.name);
    }
    for timer in all.iter().flat_map(Job::timers) {
        ensure!(host.property(&timer, "ActiveState")? == "active", "{timer} is not active");
    }
    ensure!(host.pid_of("restart-agent.service")? == pid, "the agent was restarted");
    ensure!(agent.status()?["state"] == "converged", "{}", agent.status_text()?);
    agent.ensure_nothing_left()
}

fn bus(release: Release) -> Result<()> {
    let host = Host::boot(release, "bus")?;
    let all = jobs();
    let agent = prepare(&host, &all)?;
    let pid = host.pid_of("restart-agent.service")?;
    // Debian's default is dbus-daemon; a broker, where one is installed, has the alias dbus.service.
    let unit = host.property("dbus.service", "Id")?;
    agent.deploy("v1")?;
    wait_for("the drain", MINUTE, || {
        let status = agent.status()?;
        let draining = status["targets"].as_array().is_some_and(|all| all.iter().all(|target| target["state"] == "draining"));
        if draining { Ok(Some(())) } else { bail!("{status}") }
    })?;
    host.ok(&["systemctl", "restart", &unit])?;
    wait_for_state(&host, "job-ignores.service", "deactivating")?;
    let bus = host.pid_of(&unit)?.to_string();
    host.ok(&["kill", "-KILL", &bus])?;
    // Started again by its socket, or by hand where nothing else does.
    host.sh_ok(&format!("systemctl reset-failed {unit}; systemctl start {unit}"))?;
    ensure_renewed(&host, &agent, &all, pid, 2)
}

fn reloads(release: Release) -> Result<()> {
    let host = Host::boot(release, "reloads")?;
    let all = jobs();
    let agent = prepare(&host, &all)?;
    let pid = host.pid_of("restart-agent.service")?;
    agent.deploy("v1")?;
    let mut storm = host.spawn(&["bash", "-c", "until [ -e /var/tmp/calm ]; do systemctl daemon-reload; echo >> /var/tmp/storm; done"])?;
    wait_for_state(&host, "job-ignores.service", "deactivating")?;
    // Its own answer may be lost with the connection.
    host.sh("systemctl daemon-reexec")?;
    wait_for("systemd to execute itself anew", MINUTE, || {
        let told = host.sh("journalctl --boot --no-pager _PID=1 | grep -ci reexecut")?.stdout;
        Ok(told.trim().parse::<u32>().is_ok_and(|lines| lines > 0).then_some(()))
    })?;
    let waited = agent.wait(MINUTE)?;
    host.touch("/var/tmp/calm")?;
    ensure!(waited.status == 0, "{waited:?}\n{}", agent.status_text()?);
    ensure!(storm.is_running().is_ok(), "the storm");
    let count = host.ok(&["wc", "-l", "/var/tmp/storm"])?;
    let count: u32 = count.split(' ').next().unwrap_or_default().parse().context("storm")?;
    ensure!(count >= 5, "only {count} reloads: that is no storm");
    drop(storm);
    ensure_renewed(&host, &agent, &all, pid, 2)
}

fn away(release: Release) -> Result<()> {
    let host = Host::boot(release, "away")?;
    let all = jobs();
    let agent = prepare(&host, &all)?;
    let pid = host.pid_of("restart-agent.service")?;
    let unit = host.property("dbus.service", "Id")?;
    host.sh_ok(&format!("systemctl stop dbus.socket {unit}"))?;
    agent.deploy("v1")?;
    let status = agent.wait_state("converging", MINUTE)?;
    ensure!(status["stamp"]["id"] == "v1", "{status}");
    wait_for("status to say that systemd does not answer", MINUTE, || {
        let status = agent.status()?;
        let said = status["problems"].to_string() + &status["waiting_for"].to_string() + &status["targets"].to_string();
        if said.contains("systemd") { Ok(Some(())) } else { bail!("{status}") }
    })?;
    host.sh_ok(&format!("systemctl start dbus.socket {unit}"))?;
    ensure_renewed(&host, &agent, &all, pid, 2)
}

fn rest(release: Release) -> Result<()> {
    let host = Host::boot(release, "rest")?;
    let all = jobs();
    let agent = prepare(&host, &all)?;
    agent.deploy_and_wait("v1", MINUTE)?;
    let rules = wait_for("the agent to stop listening", MINUTE, || {
        let rules = match_rules(&host)?;
        if rules.iter().any(|rule| rule.contains("JobRemoved")) {
            bail!("{rules:?}")
        }
        Ok(Some(rules))
    })?;
    // Who owns systemd's name, and the agent's own: both are said by the bus, once in a while.
    for rule in &rules {
        let narrow = rule.contains("sender='org.freedesktop.DBus'") && rule.contains("member='Name") && rule.contains("arg0='org.");
        ensure!(narrow, "a broad match: {rule} of {rules:?}");
    }
    let owner = rules.iter().any(|rule| rule.contains("NameOwnerChanged") && rule.contains("arg0='org.freedesktop.systemd1'"));
    ensure!(owner, "systemd's return would go unseen: {rules:?}");

    // Whatever happens on the bus, an agent at rest is not woken by it.
    let before = switches(&host)?;
    host.sh_ok("for n in 1 2 3 4 5 6 7 8 9 10; do systemctl restart worker-plain.service; done; systemctl daemon-reload")?;
    let woken = switches(&host)? - before;
    ensure!(woken <= 10, "ten restarts and a reload woke it {woken} times");

    let security = host.sh_ok("systemd-analyze security --no-pager restart-agent.service | tail -n 1")?;
    let level: f64 = security.split_whitespace().find_map(|word| word.parse().ok()).with_context(|| format!("no level in {security}"))?;
    println!("{release}: exposure {level}");
    ensure!(level <= 2.2, "{security}");
    Ok(())
}

/// The match rules of the agent's connections.
fn match_rules(host: &Host) -> Result<Vec<String>> {
    let pid = host.pid_of("restart-agent.service")?;
    let listed = host.ok(&["busctl", "--no-pager", "--no-legend", "--unique", "list"])?;
    let names = listed.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let name = words.next()?;
        (words.next()?.parse() == Ok(pid)).then(|| name.to_owned())
    });
    let names: Vec<String> = names.collect();
    ensure!(!names.is_empty(), "the agent is not on the bus: {listed}");
    let call = ["busctl", "--no-pager", "--json=short", "call", "org.freedesktop.DBus", "/org/freedesktop/DBus"];
    let all = host.ok(&[&call[..], &["org.freedesktop.DBus.Debug.Stats", "GetAllMatchRules"]].concat())?;
    let all: serde_json::Value = serde_json::from_str(&all)?;
    let of = |name: &String| all["data"][0][name].as_array().cloned().unwrap_or_default();
    Ok(names.iter().flat_map(of).filter_map(|rule| rule.as_str().map(str::to_owned)).collect())
}

/// How often the agent's threads were put to sleep or off the processor.
fn switches(host: &Host) -> Result<u64> {
    let pid = host.pid_of("restart-agent.service")?;
    let text = host.sh_ok(&format!("cat /proc/{pid}/task/*/status | awk '/ctxt_switches/ {{ sum += $2 }} END {{ print sum }}'"))?;
    text.trim().parse().context("context switches")
}
