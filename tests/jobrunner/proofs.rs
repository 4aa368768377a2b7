//! After the restart: warm-up and proof.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::pool::{Command, FilePool, Moment};
use lab::web;
use lab::{Host, Release};

use crate::stage::Stage;

const SOON: Duration = Duration::from_secs(30);

/// One script after the other, each once, and not before opcache would keep the files (facts 5e).
pub fn warm(release: Release) -> Result<()> {
    let host = Host::boot(release, "warm")?;
    host.write(
        "/srv/app/warm.php",
        "<?php\nfile_put_contents('/var/log/app/warm.log', sprintf(\"%s %.3f\\n\", $_GET['n'], microtime(true)), FILE_APPEND);\nusleep(300000);\n",
    )?;
    let target =
        "drain_timeout = \"5s\"\nwarm = [\"/srv/app/warm.php?n=1\", \"/srv/app/missing.php?key=secret\", \"/srv/app/warm.php?n=2\"]";
    let stage = Stage::set(&host, &web::Options::default(), &FilePool::config("30s", "100ms"), target)?;
    stage.pool.block(Command::Repool, Moment::Before)?;
    stage.deploy("v1")?;
    stage.pool.wait_blocked(Command::Repool, Moment::Before)?;
    let log = host.read("/var/log/app/warm.log")?;
    let lines: Vec<(&str, f64)> =
        log.lines().filter_map(|line| line.split_once(' ')).map(|(n, at)| (n, at.parse().unwrap_or(0.0))).collect();
    ensure!(lines.iter().map(|(n, _)| *n).eq(["1", "2"]), "warmed: {log}");
    ensure!(lines[1].1 - lines[0].1 >= 0.3, "not one after the other: {log}");
    let landed: f64 = host.ok(&["stat", "-c", "%.Z", lab::agent::STAMP])?.trim().parse().context("ctime")?;
    ensure!(lines[0].1 - landed >= 2.0, "warmed {:.3} s after the landing", lines[0].1 - landed);
    stage.pool.let_go(Command::Repool, Moment::Before)?;
    let waited = stage.agent.wait(SOON)?;
    ensure!(waited.status == 0, "{waited:?}");
    let history = stage.agent.history()?;
    let why = history[0]["units"][0]["why"].as_str().unwrap_or_default();
    ensure!(why.contains("/srv/app/missing.php answered 404"), "{history:#?}");
    let note = format!("{}: warm-up /srv/app/missing.php answered 404", release.fpm_unit());
    ensure!(history[0]["units"][0]["notes"][0].as_str().is_some_and(|told| note.ends_with(told)), "{history:#?}");
    let (status, history) = (stage.agent.status_text()?, stage.agent.ok(&["history"])?);
    ensure!(status.contains(&note) && history.contains(&note), "{status}\n{history}");
    ensure!(!host.read("/run/restart-agent/status.json")?.contains("secret"), "a query string for everybody to read");
    stage.ensure_done("v1")
}

/// What does not prove that it runs the deploy's code gets no requests.
pub fn proof(release: Release) -> Result<()> {
    let host = Host::boot(release, "proof")?;
    host.write("/srv/app/proof.php", "<?php\necho file_get_contents('/srv/app/id');\n")?;
    host.write("/srv/app/id", "v0\n")?;
    let target = "drain_timeout = \"5s\"\nproof = { script = \"/srv/app/proof.php\", expect = \"id\" }";
    let stage = Stage::set(&host, &web::Options::default(), &FilePool::config("5s", "100ms"), target)?;
    // Late, and in time.
    stage.deploy("v1")?;
    let status = stage.agent.wait_status("the proof to be asked for", SOON, |status| {
        status["waiting_for"].as_str().is_some_and(|waits| waits.contains("prove"))
    })?;
    ensure!(stage.pool.state()? == "depooled" && status["pools"][0]["depooled_by"] == "agent", "{status}");
    host.write("/srv/app/id", "v1\n")?;
    let waited = stage.agent.wait(SOON)?;
    ensure!(waited.status == 0, "{waited:?}");
    stage.ensure_done("v1")?;

    // Never.
    stage.deploy("v2")?;
    let waited = stage.agent.wait(Duration::from_secs(60))?;
    ensure!(waited.status == 1 && waited.stderr.contains("proof"), "{waited:?}");
    let status = stage.agent.wait_state("failed", SOON)?;
    let text = stage.agent.status_text()?;
    ensure!(stage.pool.state()? == "depooled" && stage.pool.calls(Command::Repool)? == 1, "it went back without a proof: {status}");
    ensure!(status["pools"][0]["depooled_by"] == "agent", "{status}");
    ensure!(status["waiting_for"].as_str().is_some_and(|waits| waits.contains("without the id v2")), "{status}");
    ensure!(text.contains("without the id v2") && text.contains("out of"), "{text}");

    // Mended: the next deploy goes through.
    host.write("/srv/app/id", "v3\n")?;
    stage.converge("v3")
}

/// Its configuration is good, and reading where it listens takes for ever, once: then it is read after the restart, and proven as always.
pub fn unread(release: Release) -> Result<()> {
    let host = Host::boot(release, "unread")?;
    host.write("/srv/app/warm.php", "<?php\nfile_put_contents('/var/log/app/warm.log', \"$_GET[n]\\n\", FILE_APPEND);\n")?;
    let target = "drain_timeout = \"2s\"\nwarm = [\"/srv/app/warm.php?n=1\"]";
    let stage = Stage::set(&host, &web::Options::default(), &FilePool::config("5s", "100ms"), target)?;
    stage.converge("v1")?;

    let binary = release.fpm_binary();
    let hang =
        format!("#!/bin/sh\n[ \"$1\" = -tt ] && [ -e /run/hang ] && rm /run/hang && exec sleep infinity\nexec {binary}.real \"$@\"\n");
    host.ok(&["mv", binary, &format!("{binary}.real")])?;
    host.write(binary, &hang)?;
    host.ok(&["chmod", "+x", binary])?;
    // What was read of an older configuration is not what it would start with.
    host.ok(&["touch", &format!("{}/pool.d/www.conf", release.fpm_etc())])?;
    host.write("/run/hang", "")?;
    host.remove("/var/log/app/warm.log")?;
    stage.deploy("v2")?;
    let waited = stage.agent.wait(Duration::from_secs(90))?;
    ensure!(waited.status == 0, "{waited:?}");
    let history = stage.agent.history()?;
    let unit = &history[0]["units"][0];
    ensure!(!host.exists("/run/hang"), "its configuration was never read: {history:#?}");
    ensure!(unit["notes"].to_string().contains("its configuration could not be read (php-fpm -tt did not end within 15 s"), "{unit:#}");
    ensure!(host.exists("/var/log/app/warm.log") && host.read("/var/log/app/warm.log")? == "1\n", "it was not warmed up: {history:#?}");
    stage.ensure_done("v2")?;

    // For ever: it goes back unproven, and that is told.
    host.write(binary, hang.replace("&& rm /run/hang ", ""))?;
    host.write("/run/hang", "")?;
    stage.deploy("v3")?;
    lab::wait_for("status to say that it is being read", Duration::from_secs(60), || {
        Ok(stage.agent.status_text()?.contains("its configuration is being read").then_some(()))
    })?;
    let waited = stage.agent.wait(Duration::from_secs(120))?;
    ensure!(waited.status == 0, "{waited:?}");
    let history = stage.agent.history()?;
    let unit = &history[0]["units"][0];
    let told = unit.to_string();
    ensure!(told.contains("whether it serves nobody could ask") && told.contains("neither pinged nor warmed up"), "{unit:#}");
    ensure!(!told.contains("no status page"), "{unit:#}");
    ensure!(stage.pool.state()? != "depooled", "it is still out: {history:#?}");
    Ok(())
}
