//! When a drain ends, and what is cut if it has to end.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::load::{Class, Load};
use lab::pool::{Command, FilePool, Moment};
use lab::web::{self, Status};
use lab::{Host, Release};

use crate::stage::{Stage, phase};

const SOON: Duration = Duration::from_secs(30);

/// Trap T33: it ends when the last request has ended, and `quiet` has passed.
pub fn ends_early(release: Release) -> Result<()> {
    let host = Host::boot(release, "early-end")?;
    let stage = Stage::set(&host, &web::Options::default(), &FilePool::config("5s", "700ms"), "drain_timeout = \"10m\"")?;
    stage.converge("v1")?;
    let (began, ended) = phase(&stage.agent, "drain")?;
    ensure!((0.7..5.0).contains(&(ended - began)), "an idle php-fpm was drained for {:.3} s, with quiet = 700ms", ended - began);

    let load = Load::builder(&host).rate(0.0).start()?;
    let long = load.send(Duration::from_secs(3), web::POOL)?;
    load.wait_started(long)?;
    stage.deploy("v2")?;
    let status = stage.agent.wait_status("one request in flight", SOON, |status| status["targets"][0]["units"][0]["in_flight"] == 1)?;
    ensure!(status["waiting_for"].as_str().is_some_and(|waits| waits.contains("1 request in flight")), "{status}");
    ensure!(status["next"] == "RestartUnit" && !status["deadline"].is_null(), "{status}");
    let waited = stage.agent.wait(SOON)?;
    ensure!(waited.status == 0, "{waited:?}");
    let report = load.stop()?;
    ensure!(report.counts().lost() == 0, "{report}");
    let answered = report.record(long).map(|record| record.sent_at + record.latency);
    let answered = answered.and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok()).unwrap_or_default().as_secs_f64();
    let (_, ended) = phase(&stage.agent, "drain")?;
    println!("drained {:.3} s after the last answer, with quiet = 700ms", ended - answered);
    ensure!((0.6..5.0).contains(&(ended - answered)), "drained {:.3} s after the last answer, with quiet = 700ms", ended - answered);
    stage.ensure_done("v2")
}

/// Trap T17: who bypasses the balancer cannot hold up a deploy for ever.
pub fn ceiling(release: Release) -> Result<()> {
    let host = Host::boot(release, "ceiling")?;
    let stage = Stage::set(&host, &web::Options::default(), &FilePool::config("5s", "500ms"), "drain_timeout = \"3s\"")?;
    let load = Load::builder(&host).to(web::POOL).rate(50.0).start()?;
    stage.deploy("v1")?;
    stage.agent.wait_status("the drain", SOON, |status| {
        status["targets"][0]["state"] == "draining" && status["waiting_for"].as_str().is_some_and(|waits| waits.contains("in flight"))
    })?;
    let waited = stage.agent.wait(SOON)?;
    ensure!(waited.status == 0, "{waited:?}");
    let report = load.stop()?;
    println!("{report}");
    let (began, ended) = phase(&stage.agent, "drain")?;
    ensure!((3.0..6.0).contains(&(ended - began)), "drained for {:.3} s with a threshold of 3 s", ended - began);
    let cut = report.cut_ids();
    let lost: std::collections::BTreeSet<u64> =
        report.records.iter().filter(|record| record.class != Class::Ok).map(|record| record.id).collect();
    let casualties = stage.agent.cut_request_ids()?;
    // A request that was cut before PHP ran a line of it is one that the load cannot tell from one that was refused.
    ensure!(casualties.is_superset(&cut) && lost.is_superset(&casualties), "cut {cut:?}, casualties {casualties:?}\n{report}");
    stage.ensure_done("v1")
}

/// Trap T15: whether or not the status can answer then.
pub fn all_workers_busy(release: Release) -> Result<()> {
    for status in [Status::Socket, Status::Path] {
        let host = Host::boot(release, "all-busy")?;
        let options = web::Options { children: 2, status, ..web::Options::default() };
        let stage = Stage::set(&host, &options, &FilePool::config("5s", "100ms"), "drain_timeout = \"2s\"")?;
        let before = stage.web.generation()?;
        let load = Load::builder(&host).rate(0.0).start()?;
        for _ in 0..2 {
            let long = load.send(Duration::from_secs(30), web::POOL)?;
            load.wait_started(long)?;
        }
        stage.web.deploy_code("v1")?;
        stage.agent.deploy("v1")?;
        let says = if status == Status::Socket { "2 requests in flight" } else { "taken as busy" };
        let seen = stage.agent.wait_status("the drain", SOON, |status| {
            status["targets"][0]["state"] == "draining" && status["waiting_for"].as_str().is_some_and(|waits| waits.contains(says))
        })?;
        ensure!(stage.web.generation()? == before, "{seen}");
        let waited = stage.agent.wait(SOON)?;
        ensure!(waited.status == 0, "{waited:?}");
        let report = load.stop()?;
        ensure!(report.counts().cut == 2 && report.counts().lost() == 2, "{report}");
        let (began, ended) = phase(&stage.agent, "drain")?;
        ensure!((2.0..6.0).contains(&(ended - began)), "drained for {:.3} s with a threshold of 2 s", ended - began);
        if status == Status::Socket {
            ensure!(stage.agent.cut_request_ids()? == report.cut_ids(), "{:?}", stage.agent.casualties()?);
        } else {
            // Nobody could say which they were; that is said.
            let history = stage.agent.history()?;
            let why = history[0]["units"][0]["why"].as_str().unwrap_or_default().to_owned();
            ensure!(why.contains("did not answer at the cut"), "{history:#?}");
            let casualties = stage.agent.casualties()?;
            ensure!(casualties.len() == 2 && casualties.iter().all(|cut| cut["certain"] == false), "{casualties:#?}");
        }
        stage.ensure_done("v1")?;
    }
    Ok(())
}

/// Trap T16: a web server keeps its connections to php-fpm open (`fastcgi_keep_conn`).
pub fn held_connection(release: Release) -> Result<()> {
    let host = Host::boot(release, "held-connection")?;
    let stage = Stage::set(&host, &web::Options::default(), &FilePool::config("5s", "100ms"), "drain_timeout = \"10m\"")?;
    host.write("/root/hold.php", HOLD.replace("SOCKET", release.fpm_socket()))?;
    let mut holder = host.spawn(&["php", "/root/hold.php"])?;
    lab::wait_for("the held connection", SOON, || {
        let status = stage.web.fpm_status()?;
        let held = status["processes"].as_array().into_iter().flatten().any(|process| process["state"] == "Reading headers");
        Ok(held.then_some(()))
    })?;
    stage.pool.block(Command::Depool, Moment::After)?;
    stage.deploy("v1")?;
    stage.pool.wait_blocked(Command::Depool, Moment::After)?;
    ensure!(holder.is_running()?, "the connection is not held any more: {}{}", holder.stdout()?, holder.stderr()?);
    stage.pool.let_go(Command::Depool, Moment::After)?;
    let waited = stage.agent.wait(SOON)?;
    ensure!(waited.status == 0, "a held connection was taken for a request: {waited:?}");
    ensure!(stage.agent.casualties()?.is_empty(), "{:?}", stage.agent.casualties()?);
    stage.ensure_done("v1")
}

/// One request with FCGI_KEEP_CONN, then nothing more on that connection until php-fpm closes it.
const HOLD: &str = r#"<?php
function record(int $type, string $content): string { return pack('CCnnCC', 1, $type, 1, strlen($content), 0, 0) . $content; }
function param(string $name, string $value): string { return chr(strlen($name)) . chr(strlen($value)) . $name . $value; }
$params = '';
foreach (['SCRIPT_FILENAME' => '/srv/app/version.php', 'SCRIPT_NAME' => '/version.php', 'REQUEST_METHOD' => 'GET'] as $name => $value) {
    $params .= param($name, $value);
}
$socket = stream_socket_client('unix://SOCKET', $code, $error, 10) or die($error);
fwrite($socket, record(1, pack('nCx5', 1, 1)) . record(4, $params) . record(4, '') . record(5, ''));
stream_set_timeout($socket, 300);
while (!feof($socket)) { echo strlen((string)fread($socket, 8192)), "\n"; }
"#;

/// Whoever stops php-fpm in the drain wants it stopped, and what that cut is not ours.
pub fn stopped_by_a_person(release: Release) -> Result<()> {
    let host = Host::boot(release, "persons-stop")?;
    let stage = Stage::set(&host, &web::Options::default(), &FilePool::config("5s", "100ms"), "drain_timeout = \"10m\"")?;
    let unit = release.fpm_unit();
    let load = Load::builder(&host).rate(0.0).start()?;
    let long = load.send(Duration::from_secs(60), web::POOL)?;
    load.wait_started(long)?;
    stage.deploy("v1")?;
    stage.agent.wait_status("one request in flight", SOON, |status| status["targets"][0]["units"][0]["in_flight"] == 1)?;
    host.ok(&["systemctl", "stop", unit])?;
    let waited = stage.agent.wait(Duration::from_secs(10))?;
    ensure!(waited.status == 0, "{waited:?}");
    ensure!(load.stop()?.counts().cut == 1);
    let history = stage.agent.history()?;
    let why = history[0]["units"][0]["why"].as_str().unwrap_or_default();
    ensure!(why.contains("somebody has stopped it"), "{history:#?}");
    ensure!(stage.agent.casualties()?.is_empty(), "{:?}", stage.agent.casualties()?);
    ensure!(host.property(unit, "ActiveState")? == "inactive", "it was started");
    ensure!(stage.pool.state()? == "pooled" && stage.pool.calls(Command::Repool)? == 1, "{history:#?}");
    stage.agent.ensure_nothing_left()?;
    host.ok(&["systemctl", "start", unit])?;

    // What a person restarts needs only the proof.
    let load = Load::builder(&host).rate(0.0).start()?;
    let long = load.send(Duration::from_secs(60), web::POOL)?;
    load.wait_started(long)?;
    stage.deploy("v2")?;
    stage.agent.wait_status("one request in flight", SOON, |status| status["targets"][0]["units"][0]["in_flight"] == 1)?;
    host.ok(&["systemctl", "restart", unit])?;
    let theirs = stage.web.generation()?;
    let waited = stage.agent.wait(Duration::from_secs(10))?;
    ensure!(waited.status == 0, "{waited:?}");
    ensure!(load.stop()?.counts().cut == 1);
    ensure!(stage.web.generation()? == theirs, "it was restarted once more");
    ensure!(stage.agent.casualties()?.is_empty(), "{:?}", stage.agent.casualties()?);
    stage.ensure_done("v2")
}
