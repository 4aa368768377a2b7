//! A new generation that does not do: the old one goes on, nothing is lost, and a later deploy tries again.

use std::time::{Duration, SystemTime};

use anyhow::{Result, ensure};
use lab::generations::{ADDRESS, Options, WebServer};
use lab::load::Switch;
use lab::{Host, Release, wait_for};

use crate::agent::{MINUTE, Played};
use crate::stage::more;

fn few() -> Options {
    Options { children: 20, ..Options::default() }
}

/// A deploy that is to fail, with this said by `wait` and by status.
fn ensure_fails(played: &Played<'_>, version: &str, why: &str) -> Result<()> {
    played.agent.deploy(version)?;
    let waited = played.agent.wait(MINUTE)?;
    ensure!(waited.status == 1 && waited.stderr.contains(why), "{waited:?}");
    let text = played.agent.status_text()?;
    ensure!(text.contains(why), "{text}");
    let status = played.agent.status()?;
    ensure!(status["state"] == "failed" && status["reached"]["id"] != version, "{status}");
    Ok(())
}

/// Before the switch: a configuration that the deploy broke, code that is not what the stamp says.
pub fn before_the_switch(release: Release) -> Result<()> {
    let host = Host::boot(release, "fails-before")?;
    let mut played = Played::set(&host, WebServer::Nginx, &few(), "")?;
    let load = played.stage.load().rate(100.0).start()?;
    more(&load, 50)?;
    played.deploy("v1")?;
    let configuration = format!("{}/php-fpm-generation.conf", release.fpm_etc());
    let good = host.read(&configuration)?;
    host.write(&configuration, format!("{good}\nnonsense = 1\n"))?;
    played.stage.stack.deploy_code("v2")?;
    ensure_fails(&played, "v2", "its configuration is broken")?;
    ensure!(played.stage.stack.served_version()? == "v1", "the old one is to go on");
    // The code lags behind: the stamp is there, the files are not.
    host.write(&configuration, good)?;
    ensure_fails(&played, "v3", "without the id v3")?;
    ensure!(played.stage.stack.served_version()? == "v1", "the old one is to go on");
    played.deploy("v4")?;
    more(&load, 50)?;
    let report = load.stop()?;
    println!("{release}: {report}");
    played.stage.ensure_lossless(&report)?;
    ensure!(played.agent.casualties()?.is_empty(), "{:?}", played.agent.casualties()?);
    played.ensure_settled("v4")
}

/// After the switch: it was proven, and does not stay up. The old one gets the requests back, once.
pub fn after_the_switch(release: Release) -> Result<()> {
    let host = Host::boot(release, "fails-after")?;
    let mut played = Played::set(&host, WebServer::Nginx, &few(), "")?;
    played.deploy("v1")?;
    let before = played.current()?;
    // The next one, by its name.
    let drop_in = "/run/systemd/system/php-fpm-generation@v2-1.service.d/short.conf";
    host.write(drop_in, "[Service]\nRuntimeMaxSec=1s\n")?;
    host.ok(&["systemctl", "daemon-reload"])?;
    played.stage.stack.deploy_code("v2")?;
    ensure_fails(&played, "v2", "which runs the old code, was given its place again")?;
    ensure!(played.stage.stack.current()?.as_deref() == Some(before.as_str()), "{:?}", played.stage.stack.current()?);
    ensure!(played.stage.stack.served_version()? == "v1", "{}", played.stage.stack.served_version()?);
    let said = played.agent.journal()?;
    ensure!(said.contains(&format!("{}, which runs the old code, was given its place again", played.stage.stack.unit(&before))), "{said}");
    let history = played.agent.history()?;
    ensure!(history[0]["result"] == "failed" && history.len() == 2, "{history:?}");
    // A person stops that one: nothing serves now, whatever systemd tries with the one that failed, and that is said.
    host.ok(&["systemctl", "stop", &played.stage.stack.unit(&before)])?;
    let nothing =
        |unit: &serde_json::Value| unit["why"].as_str().is_some_and(|why| why.starts_with("nothing serves: php-fpm-generation@v2-1"));
    played.agent.wait_status("nothing to serve", MINUTE, |status| {
        status["targets"][0]["units"].as_array().is_some_and(|units| units.iter().any(nothing))
    })?;
    host.remove(drop_in)?;
    host.ok(&["systemctl", "daemon-reload"])?;
    host.sh_ok("systemctl reset-failed")?;
    played.deploy("v3")?;
    played.ensure_settled("v3")
}

/// Right after the switch more long requests come in than there are workers: no ping is answered for 14 s, and that is no failure.
pub fn all_at_work(release: Release) -> Result<()> {
    let host = Host::boot(release, "all-at-work")?;
    let mut played = Played::set(&host, WebServer::Nginx, &Options { children: 4, ..Options::default() }, "")?;
    let load = played.stage.load().start()?;
    played.stage.stack.deploy_code("v1")?;
    played.agent.deploy("v1")?;
    wait_for("the switch", MINUTE, || {
        let current = played.stage.stack.current()?;
        Ok(current.filter(|current| current.starts_with("v1-")))
    })?;
    let long: Vec<u64> = (0..8).map(|_| load.send(Duration::from_secs(7), ADDRESS)).collect::<Result<_>>()?;
    let waited = played.agent.wait(MINUTE)?;
    ensure!(waited.status == 0, "{waited:?}\n{}", played.agent.status_text()?);
    ensure!(load.answered() == (0, 0), "they were all answered by then, which shows nothing");
    played.stage.switches.push(Switch { at: SystemTime::now(), instance: played.current()?, version: "v1".to_owned() });
    wait_for("all to be answered", MINUTE, || Ok((load.answered().0 == long.len()).then_some(())))?;
    let report = load.stop()?;
    played.stage.ensure_lossless(&report)?;
    ensure!(report.served().keys().all(|served| served.version == "v1"), "{report}");
    ensure!(played.agent.history()?.len() == 1, "{:?}", played.agent.history()?);
    played.ensure_settled("v1")
}
