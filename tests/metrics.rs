//! What Prometheus is told: the file of the metrics through a rollout, as node-exporter reads it, and the alerts on it.

#![allow(clippy::disallowed_methods, reason = "the bans of clippy.toml are for core")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::agent::Agent;
use lab::jobs::{self, Shape, script};
use lab::{Host, Release, program, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
const DIRECTORY: &str = "/var/lib/prometheus/node-exporter";
const FILE: &str = "/var/lib/prometheus/node-exporter/restart-agent.prom";
const FAR: &str = "OnCalendar=*-01-01 03:00";
/// Interrupted once, a script is let finish at the next deploy.
const CONFIG: &str = "[stamp]\npath = \"/srv/deploy/stamp\"\nsettle = \"100ms\"\nmin_interval = \"0s\"\n\n[target.jobs]\nkind = \"scheduled\"\nunits = [\"job-*.service\"]\ndrain_timeout = \"4s\"\nafter = \"rerun\"\nmax_interruptions = 1\n";

const CASUALTIES: &str = "casualties_total{target=\"jobs\",what=\"script\"}";
const CONVERGED: &str = "rollouts_total{result=\"converged\"}";
const STARVED: &str = "starved_scripts{target=\"jobs\"}";
const STARVED_TOTAL: &str = "starved_total{target=\"jobs\"}";

fn main() -> ExitCode {
    lab::suite()
        .on_each("metrics_tell_of_a_rollout_a_casualty_and_a_starved_script_t28_t39", rollout)
        .on_each("without_the_directory_nothing_is_written_and_nothing_is_wrong", nowhere)
        .on(Release::Bookworm, "the_alerts_are_rules_that_fire_when_they_should_t39", alerts)
        .run()
}

fn rollout(release: Release) -> Result<()> {
    let host = Host::boot(release, "metrics")?;
    // As Debian's package makes it.
    host.sh_ok(&format!(
        "adduser --system --group --no-create-home --quiet prometheus && mkdir -p {DIRECTORY} && chown -R prometheus: /var/lib/prometheus"
    ))?;
    let agent = Agent::install(&host)?;
    let all = [script("job-long", Shape::UntilTold).timer("job-long", FAR)];
    jobs::install(&host, &all)?;
    agent.deploy("d0")?;
    agent.configure(CONFIG)?;
    jobs::start(&host, &all)?;
    let exporter = Exporter::start(&host)?;
    exporter.wait_for("state{state=\"idle\"}", 1.0)?;
    exporter.wait_for(STARVED_TOTAL, 0.0)?;
    exporter.wait_for(CASUALTIES, 0.0)?;

    // Whoever reads it at any moment finds all of it.
    let torn = host.spawn(&[
        "setpriv", "--reuid=prometheus", "--regid=prometheus", "--clear-groups", "bash", "-c",
        &format!("n=0; until [ -e /var/tmp/enough ]; do text=$(cat {FILE}) || echo unreadable; n=$((n + 1)); case $text in '# HELP restart_agent_written'*restart_agent_rollout_running*) ;; *) echo torn ;; esac; done; echo $n"),
    ])?;
    agent.deploy("d1")?;
    let during = exporter.wait_for("units{state=\"draining\",target=\"jobs\"}", 1.0)?;
    says(&during, &[("rollout_running", 1.0), ("state{state=\"converging\"}", 1.0), (CASUALTIES, 0.0)])?;
    ensure!(during.get("stale_processes{target=\"jobs\"}").is_some_and(|count| *count >= 1.0), "{during:?}");
    agent.wait_state("converged", MINUTE)?;
    let after = exporter.wait_for("state{state=\"converged\"}", 1.0)?;
    says(
        &after,
        &[(CASUALTIES, 1.0), (CONVERGED, 1.0), ("stale_processes{target=\"jobs\"}", 0.0), (STARVED, 0.0), ("rollout_running", 0.0)],
    )?;
    let [took, landed, reached] = ["last_rollout_duration_seconds", "deploy_landed_timestamp_seconds", "deploy_reached_timestamp_seconds"]
        .map(|name| after.get(name));
    ensure!(took.is_some_and(|took| (3.9..30.0).contains(took)) && landed.is_some() && landed < reached, "{after:?}");

    agent.deploy_and_wait("d2", MINUTE)?;
    let starved = exporter.wait_for(STARVED_TOTAL, 1.0)?;
    says(&starved, &[(STARVED, 1.0), ("units{state=\"left\",target=\"jobs\"}", 1.0), (CASUALTIES, 1.0)])?;
    let unit = &agent.status()?["targets"][0]["units"][0];
    ensure!(unit["starved"] == true, "{unit}");
    // The same run at the next deploy, and with the next agent, is not another.
    agent.deploy_and_wait("d3", MINUTE)?;
    agent.kill()?;
    agent.wait_active()?;
    let began = |now: &BTreeMap<String, f64>| now.get("start_timestamp_seconds").copied();
    let anew = exporter.wait("a new agent that has looked", |now| began(now) > began(&starved) && now.get(STARVED) == Some(&1.0))?;
    says(&anew, &[(STARVED_TOTAL, 1.0), (CASUALTIES, 1.0), (CONVERGED, 3.0)])?;
    // It ends by itself, and what runs next is interrupted as ever.
    jobs::finish(&host, "job-long")?;
    agent.deploy_and_wait("d4", MINUTE)?;
    exporter.wait_for(STARVED, 0.0)?;

    host.touch("/var/tmp/enough")?;
    let read = torn.wait(MINUTE)?;
    ensure!(read.stdout.trim().parse::<u32>().is_ok_and(|n| n > 100), "{read:?}");
    ensure!(host.ok(&["stat", "--format=%a %U", FILE])?.trim() == "644 root", "who may read it");
    ensure!(host.ok(&["ls", "-A", DIRECTORY])?.trim() == "restart-agent.prom", "something else is left beside it");
    promtool(&["check", "metrics"], Some(&host.read(FILE)?))?;

    // Installed over itself, as an upgrade does it.
    host.install_deb(&lab::agent::package()?)?;
    says(&exporter.read()?, &[(STARVED_TOTAL, 1.0)])?;
    host.ok(&["systemctl", "stop", "restart-agent"])?;
    exporter.wait_for("running", 0.0)?;
    host.command(["dpkg", "--remove", "restart-agent"]).timeout(MINUTE).ok()?;
    ensure!(!host.exists(FILE) && host.exists(DIRECTORY), "the file outlives the package");
    Ok(())
}

fn nowhere(release: Release) -> Result<()> {
    let host = Host::boot(release, "metrics-nowhere")?;
    let agent = Agent::install(&host)?;
    agent.deploy("d0")?;
    agent.configure(CONFIG)?;
    agent.deploy_and_wait("d1", MINUTE)?;
    ensure!(!host.exists("/var/lib/prometheus"), "it made the directory");
    ensure!(!agent.journal()?.contains("the metrics"), "{}", agent.journal()?);
    let status = agent.status()?;
    ensure!(status["problems"] == serde_json::json!([]), "{status}");

    // Made later it is read-only for the agent until its next start, which is said, once.
    host.ok(&["mkdir", "-p", DIRECTORY])?;
    agent.deploy_and_wait("d2", MINUTE)?;
    wait_for("the reason", MINUTE, || {
        agent.deploy("again")?;
        Ok(agent.journal()?.contains("cannot write the metrics").then_some(()))
    })?;
    ensure!(agent.journal()?.matches("cannot write the metrics").count() == 1, "{}", agent.journal()?);
    host.ok(&["systemctl", "restart", "restart-agent"])?;
    wait_for("the file", MINUTE, || Ok(host.exists(FILE).then_some(())))
}

fn says(metrics: &BTreeMap<String, f64>, wanted: &[(&str, f64)]) -> Result<()> {
    for (name, value) in wanted {
        ensure!(metrics.get(*name) == Some(value), "{name} is not {value}: {metrics:#?}");
    }
    Ok(())
}

/// docs/operations/alerts.yml with the cases of tests/fixtures/alerts-test.yml.
fn alerts(_: Release) -> Result<()> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    promtool(&["check", "rules", &top.join("docs/operations/alerts.yml").to_string_lossy()], None)?;
    promtool(&["test", "rules", &top.join("tests/fixtures/alerts-test.yml").to_string_lossy()], None)
}

/// Warnings count, too.
fn promtool(arguments: &[&str], stdin: Option<&str>) -> Result<()> {
    let program = program::of_package("prometheus", "usr/bin/promtool")?;
    let input = tempfile::NamedTempFile::new()?;
    std::fs::write(input.path(), stdin.unwrap_or_default())?;
    let said = Command::new(program).args(arguments).stdin(std::fs::File::open(input.path())?).output().context("promtool")?;
    ensure!(said.status.success() && (stdin.is_none() || said.stderr.is_empty()), "{arguments:?}: {said:?}");
    Ok(())
}

/// Debian's node-exporter, as its own user, with nothing but its textfile collector.
struct Exporter<'h> {
    host: &'h Host,
}

impl Exporter<'_> {
    fn start(host: &Host) -> Result<Exporter<'_>> {
        let program = program::of_package("prometheus-node-exporter", "usr/bin/prometheus-node-exporter")?;
        host.copy_in(&program, "/usr/bin/prometheus-node-exporter")?;
        let command = format!(
            "chmod 755 /usr/bin/prometheus-node-exporter && systemd-run --quiet --unit=exporter --property=User=prometheus /usr/bin/prometheus-node-exporter --collector.disable-defaults --collector.textfile --collector.textfile.directory={DIRECTORY} --web.disable-exporter-metrics --web.listen-address=127.0.0.1:9100"
        );
        host.sh_ok(&command)?;
        Ok(Exporter { host })
    }

    /// All that it says, our prefix left out.
    fn read(&self) -> Result<BTreeMap<String, f64>> {
        let text = self.host.sh_ok("printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' | socat -t 5 - TCP:127.0.0.1:9100")?;
        ensure!(text.contains("node_textfile_scrape_error 0"), "{text}");
        let samples = text.lines().filter_map(|line| line.strip_prefix("restart_agent_")?.rsplit_once(' '));
        samples.map(|(name, value)| Ok((name.to_owned(), value.trim().parse()?))).collect()
    }

    fn wait(&self, what: &str, is: impl Fn(&BTreeMap<String, f64>) -> bool) -> Result<BTreeMap<String, f64>> {
        wait_for(what, MINUTE, || {
            let now = self.read()?;
            if is(&now) { Ok(Some(now)) } else { bail!("{now:?}") }
        })
    }

    fn wait_for(&self, name: &str, value: f64) -> Result<BTreeMap<String, f64>> {
        self.wait(name, |now| now.get(name) == Some(&value))
    }
}
