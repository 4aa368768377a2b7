//! Whoever else is at php-fpm while a generation takes over from another: logrotate, apt, an administrator's signal.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::generations::{ADDRESS, Options, WebServer};
use lab::{Host, Release};

use crate::agent::{MINUTE, Played};
use crate::stage::more;

/// In the middle of a hand-over php-fpm's package is upgraded and its logs are reopened: a request of before goes on in its own generation, though php-fpm
/// itself grants it nothing. A reload of the one that serves cuts what it is at, as ever, and leaves one that is fresh.
pub fn at_it(release: Release) -> Result<()> {
    let host = Host::boot(release, "others-at-it")?;
    let mut played = Played::set(&host, WebServer::Nginx, &Options { children: 20, ..Options::default() }, "")?;
    let configuration = format!("{}/php-fpm-generation.conf", release.fpm_etc());
    let said = host.sh(&format!("GENERATION=x {} -tt -y {configuration}", release.fpm_binary()))?;
    ensure!(said.stderr.contains("process_control_timeout = 0s"), "nothing is to depend on a grace of php-fpm's own: {said:?}");

    let load = played.stage.load().rate(50.0).start()?;
    let long = load.send(Duration::from_secs(8), ADDRESS)?;
    load.wait_started(long)?;
    let boot = played.stage.stack.unit(played.stage.serving().0);
    let masters = |signal: &str| {
        host.sh_ok(&format!("for unit in $(systemctl list-units --no-legend --plain 'php-fpm-generation@*' | cut -d' ' -f1); do kill -{signal} $(systemctl show --value --property=MainPID $unit); done"))
    };
    played.deploy("v1")?;
    ensure!(host.property(&boot, "ActiveState")? == "active", "its request did not outlast the hand-over");
    masters("USR1")?;
    host.sh_ok(&format!("dpkg-reconfigure --frontend=noninteractive {}", release.fpm_unit().trim_end_matches(".service")))?;
    more(&load, 50)?;
    played.deploy("v2")?;
    more(&load, 50)?;
    let report = load.stop()?;
    println!("{release}: {report}");
    played.stage.ensure_lossless(&report)?;
    played.ensure_settled("v2")?;

    let before = played.current()?;
    masters("USR2")?;
    played.agent.wait_state("converged", MINUTE)?;
    lab::wait_for("the reloaded one to serve", MINUTE, || {
        Ok(played.stage.stack.served_version().is_ok_and(|served| served == "v2").then_some(()))
    })?;
    ensure!(played.current()? == before, "a reload made a generation");
    played.deploy("v3")?;
    ensure!(played.agent.casualties()?.is_empty(), "{:?}", played.agent.casualties()?);
    played.ensure_settled("v3")
}
