//! Crashes of the agent, and what people do: it ends in one serving generation.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use lab::generations::{ADDRESS, BOOT, FIRST_VERSION, Options, WebServer};
use lab::{Host, Release, wait_for};

use crate::agent::{MINUTE, Played};
use crate::stage::more;

fn some() -> Options {
    Options { children: 20, ..Options::default() }
}

/// What the agent tells its journal at the steps of a hand-over, `NEW` and `OLD` standing for the instances. It is killed as soon as it has said so.
const STEPS: [&str; 8] = [
    "begins for job",
    "NEW.service: a new generation, is about to be started",
    "php-fpm -t php-fpm-generation@NEW.service",
    "Starting php-fpm-generation@NEW.service",
    "Started php-fpm-generation@NEW.service",
    "NEW.service: gets the requests from now on",
    "NEW.service: started beside",
    "OLD.service: gets no new requests",
];

/// Whether this line tells of this step. The counter in the new instance's name is the agent's to choose: a crash may have cost it one.
fn tells(line: &str, step: &str, version: &str, old: &str) -> bool {
    let step = step.replace("OLD", old);
    let Some((before, after)) = step.split_once("NEW") else { return line.contains(&step) };
    let name = format!("{before}{version}-");
    line.match_indices(&name).any(|(at, _)| line[at + name.len()..].trim_start_matches(|c: char| c.is_ascii_digit()).starts_with(after))
}

/// The agent dies at each step of a hand-over: no request is lost, and one generation serves at the end.
pub fn killed_at_each_step(release: Release) -> Result<()> {
    let host = Host::boot(release, "crashes")?;
    // As fast as can be: it is to be back in the middle of things.
    host.write("/run/systemd/system/restart-agent.service.d/fast.conf", "[Service]\nRestartSec=100ms\n")?;
    let mut played = Played::set(&host, WebServer::Nginx, &some(), "max_generations = 50")?;
    let load = played.stage.load().rate(100.0).start()?;
    let long = load.send(Duration::from_secs(25), ADDRESS)?;
    load.wait_started(long)?;
    for (n, step) in STEPS.iter().enumerate() {
        let version = format!("v{}", n + 1);
        let old = if n == 0 { BOOT.to_owned() } else { played.current()? };
        let count = || -> Result<usize> {
            let journal = host.ok(&["journalctl", "--boot", "--no-pager"])?;
            Ok(journal.lines().filter(|line| tells(line, step, &version, &old)).count())
        };
        let before = count()?;
        played.stage.stack.deploy_code(&version)?;
        played.agent.deploy(&version)?;
        wait_for(step, MINUTE, || if count()? > before { Ok(Some(())) } else { bail!("{version}: {}", played.agent.status_text()?) })?;
        played.agent.kill()?;
        played.agent.wait_active()?;
        let waited = played.agent.wait(MINUTE)?;
        ensure!(waited.status == 0, "{version}, killed at \"{step}\": {waited:?}\n{}", played.agent.status_text()?);
        played.arrived(&version)?;
    }
    more(&load, 50)?;
    let report = load.stop()?;
    println!("{release}: {report}");
    played.stage.ensure_lossless(&report)?;
    ensure!(played.agent.casualties()?.is_empty(), "{:?}", played.agent.casualties()?);
    played.ensure_settled(&format!("v{}", STEPS.len()))
}

/// Restarts, stops, kills, takes the symlink away, reboots.
pub fn by_hand(release: Release) -> Result<()> {
    let host = Host::boot(release, "people")?;
    let mut played = Played::set(&host, WebServer::Nginx, &some(), "")?;
    played.deploy("v1")?;
    let first = played.current()?;
    let unit = played.stage.stack.unit(&first);

    // Restarted: it is as fresh as a new one, and serves on.
    host.ok(&["systemctl", "restart", &unit])?;
    wait_for("the restarted one to serve as before", MINUTE, || {
        let (served, current) = (played.stage.stack.served_version()?, played.current()?);
        ensure!(served == "v1" && current == first, "{served} by {current}: {}", played.agent.status_text()?);
        Ok(Some(()))
    })?;
    played.agent.wait_state("converged", MINUTE)?;

    // A second one is started beside it: it gets nothing, and is ended.
    host.ok(&["systemctl", "start", &played.stage.stack.unit("by-hand")])?;
    played.ensure_settled("v1")?;

    // The symlink is taken away, or led elsewhere: it leads to who serves again.
    host.remove(&played.stage.stack.socket())?;
    wait_for("the symlink to be back", MINUTE, || Ok((played.stage.stack.current()?.as_deref() == Some(first.as_str())).then_some(())))?;
    ensure!(played.stage.stack.served_version()? == "v1", "nobody serves");

    // Stopped: that is somebody's will until there is a deploy.
    host.ok(&["systemctl", "stop", &unit])?;
    played.agent.wait_status("status to tell", MINUTE, |status| {
        status["targets"][0]["state"] == "failed"
            && status["targets"][0]["why"].as_str().is_some_and(|why| why.contains("somebody has stopped it"))
    })?;
    ensure!(played.stage.stack.active()?.is_empty(), "{:?}", played.stage.stack.active()?);
    played.deploy("v2")?;
    played.ensure_settled("v2")?;

    // Stopped while the agent is down: a start of the agent brings one up.
    let unit = played.stage.stack.unit(&played.current()?);
    host.ok(&["systemctl", "stop", "restart-agent.service", &unit])?;
    host.ok(&["systemctl", "start", "restart-agent"])?;
    wait_for("somebody to serve", MINUTE, || match played.stage.stack.served_version() {
        Ok(version) if version == "v2" => Ok(Some(())),
        other => bail!("{other:?}"),
    })?;

    // Switched off and on again: boot serves what is on the disk.
    host.reboot()?;
    played.agent.wait_active()?;
    wait_for("boot to serve", MINUTE, || match played.stage.stack.served_version() {
        Ok(version) if version == "v2" => Ok(Some(())),
        other => bail!("{other:?}"),
    })?;
    played.agent.wait_state("converged", MINUTE)?;
    played.stage.ensure_one_generation(BOOT, "v2")?;
    played.deploy("v3")?;
    played.ensure_settled("v3")
}

/// The package is removed while one lingers: what serves goes on to, and the other ends with its request, or when it has lingered.
pub fn removal(release: Release) -> Result<()> {
    let host = Host::boot(release, "removal")?;
    let mut played = Played::set(&host, WebServer::Nginx, &some(), "linger = \"1m\"")?;
    let load = played.stage.load().rate(50.0).start()?;
    more(&load, 20)?;
    let id = load.send(Duration::from_secs(15), ADDRESS)?;
    load.wait_started(id)?;
    played.deploy("v1")?;
    ensure!(FIRST_VERSION != "v1" && played.stage.stack.active()?.len() == 2, "{:?}", played.stage.stack.active()?);
    let serves = played.current()?;
    host.command(["dpkg", "--remove", "restart-agent"]).timeout(MINUTE * 3).ok()?;
    wait_for("boot to end with its request", MINUTE * 2, || Ok((played.stage.stack.active()? == [serves.as_str()]).then_some(())))?;
    more(&load, 20)?;
    let report = load.stop()?;
    played.stage.ensure_lossless(&report)?;
    played.stage.ensure_one_generation(&serves, "v1")
}
