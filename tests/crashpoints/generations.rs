//! php-fpm in generations behind nginx, with requests.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::generations::{ADDRESS, Options, WebServer};
use lab::{Host, Release, wait_for};

use crate::agent::{MINUTE, Played};
use crate::stage::more;
use crate::strike::{Journal, Points, WAYS, Way, strike};

pub fn struck(release: Release) -> Result<()> {
    let host = Host::boot(release, "struck-generations")?;
    host.write("/etc/systemd/system/restart-agent.service.d/fast.conf", "[Service]\nRestartSec=100ms\n")?;
    let options = Options { children: 8, ..Options::default() };
    let mut played = Played::set(&host, WebServer::Nginx, &options, "max_generations = 50")?;
    let mut points = Points::default();
    let journal = Journal::from_now(&host)?;
    played.deploy("v0-1")?;
    played.ensure_settled("v0-1")?;
    let length = journal.count()?;
    let each = if std::env::var_os("RELEASE_TESTS").is_some() { 8 } else { 1 };
    for (number, way) in WAYS.into_iter().enumerate() {
        for turn in 0..each {
            let n = 1 + (turn * WAYS.len() + number) * length / (each * WAYS.len());
            let version = format!("v{}", number * each + turn + 1);
            point(&mut played, way, n, &version, &mut points).with_context(|| format!("{way:?} at entry {n} of {length}"))?;
        }
    }
    points.tell(&format!("{release}: generations, {length} entries in a rollout"));
    // One rollout may have an entry less than another: requests in flight are counted now and then.
    ensure!(points.count() + 3 >= each * WAYS.len(), "only {} of {} points were struck", points.count(), each * WAYS.len());
    Ok(())
}

fn point(played: &mut Played<'_>, way: Way, n: usize, version: &str, points: &mut Points) -> Result<()> {
    let host = played.stage.stack.host();
    let begun = Instant::now();
    played.stage.switches.clear();
    let load = played.stage.load().rate(40.0).start()?;
    load.wait_started(load.send(Duration::from_millis(1500), ADDRESS)?)?;
    let agent = lab::agent::Agent::on(host);
    let stack = played.stage.stack;
    let struck = strike(host, &agent, way, n, points, || {
        stack.deploy_code(version)?;
        agent.deploy(version)
    })?;
    let waited = played.agent.wait(MINUTE)?;
    ensure!(waited.status == 0, "{waited:?}: {}", played.agent.status_text()?);
    if struck && way == Way::PoweredOff {
        drop(load);
    } else {
        played.arrived(version)?;
        more(&load, 10)?;
        played.stage.ensure_lossless(&load.stop()?)?;
    }
    wait_for("one generation", MINUTE, || {
        let active = stack.active()?;
        ensure!(active.len() == 1 && stack.served_version()? == version, "{active:?} are active: {}", played.agent.status_text()?);
        Ok(Some(()))
    })?;
    ensure!(played.agent.casualties()?.is_empty(), "{:?}", played.agent.casualties()?);
    let failed = host.ok(&["systemctl", "list-units", "--failed", "--plain", "--no-legend"])?;
    ensure!(failed.trim().is_empty(), "failed: {failed}");
    played.agent.ensure_nothing_left()?;
    eprintln!("{}: {way:?} at {n}: {:.1} s", host.release(), begun.elapsed().as_secs_f64());
    Ok(())
}
