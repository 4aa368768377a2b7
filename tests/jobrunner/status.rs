//! What status says while nothing is at work.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::agent::CONFIG;
use lab::pool::FilePool;
use lab::web;
use lab::{Host, Release};
use serde_json::Value;

use crate::stage::Stage;

const SOON: Duration = Duration::from_secs(30);

/// The one unit of the one target is in this state, and so is the target.
fn is(status: &Value, state: &str) -> bool {
    let target = &status["targets"][0];
    let units = target["units"].as_array().map_or(0, Vec::len);
    units == 1 && target["state"] == state && target["units"][0]["state"] == state && !target["units"][0]["oldest_start"].is_null()
}

/// Before the first deploy, after each restart of the agent, after a deploy, and while one waits for the end of a hold.
pub fn what_runs(release: Release) -> Result<()> {
    let host = Host::boot(release, "status")?;
    let stage = Stage::set(&host, &web::Options::default(), &FilePool::config("5s", "100ms"), "drain_timeout = \"10m\"")?;
    stage.agent.wait_status("what was adopted", SOON, |status| is(status, "adopted"))?;
    stage.converge("v1")?;
    for how in ["killed", "restarted"] {
        if how == "killed" {
            stage.agent.kill()?;
        } else {
            host.ok(&["systemctl", "restart", "restart-agent"])?;
        }
        stage.agent.wait_active()?;
        let status = stage.agent.wait_status("what runs", SOON, |status| is(status, "fresh"))?;
        ensure!(!status["targets"][0]["looked_at"].is_null(), "{how}: {status}");
        let text = stage.agent.status_text()?;
        ensure!(text.contains(release.fpm_unit()) && text.contains("fresh for v1") && !text.contains("no unit runs"), "{how}: {text}");
    }

    stage.agent.ok(&["hold", "--reason", "a dump is running"])?;
    stage.deploy("v2")?;
    let status = stage.agent.wait_status("the deploy that waits", SOON, |status| is(status, "held"))?;
    let target = &status["targets"][0];
    ensure!(target["why"].as_str().is_some_and(|why| why.starts_with("deploy v2 waits") && why.contains("a dump is running")), "{status}");
    ensure!(target["units"][0]["stale_processes"].as_u64().is_some_and(|stale| stale > 1), "{status}");
    ensure!(status["next"] == "deploy v2 is rolled out", "{status}");
    stage.agent.ok(&["release"])?;
    ensure!(stage.agent.wait(SOON)?.status == 0);
    stage.ensure_done("v2")?;

    let config = host.read(CONFIG)?;
    stage.agent.configure(&format!("{config}[target.gone]\nkind = \"php-fpm\"\nunit = \"php5.6-fpm.service\"\n"))?;
    let why = "php5.6-fpm.service: there is no such unit: mend `unit` in the configuration, or install it";
    let status = stage.agent.wait_status("the unit that is none", SOON, |status| status["problems"][0] == why)?;
    ensure!(status["targets"][0]["name"] == "gone" && status["targets"][0]["why"] == why, "{status}");
    ensure!(stage.agent.status_text()?.contains(why), "{}", stage.agent.status_text()?);
    Ok(())
}
