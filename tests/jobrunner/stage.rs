//! What most tests of php-fpm begin with.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use lab::agent::Agent;
use lab::pool::FilePool;
use lab::web::{self, Web};
use lab::{Host, Release};

/// A configuration with one php-fpm target, `jobrunner`.
pub fn config(release: Release, stamp: &str, pool: &str, target: &str) -> String {
    format!(
        "[stamp]\npath = \"/srv/deploy/stamp\"\n{stamp}\n{pool}\n[target.jobrunner]\nkind = \"php-fpm\"\nunit = \"{}\"\n{target}\n",
        release.fpm_unit()
    )
}

/// A host with the web stack, a pool whose commands obey the test, and the agent, for which v0 is reached.
pub struct Stage<'h> {
    pub web: Web<'h>,
    pub pool: FilePool<'h>,
    pub agent: Agent<'h>,
}

impl<'h> Stage<'h> {
    /// `pool`: the pool's section, `target`: further lines of the target.
    pub fn set(host: &'h Host, options: &web::Options, pool: &str, target: &str) -> Result<Stage<'h>> {
        let web = Web::install(host, options)?;
        let agent = Agent::install(host)?;
        let file_pool = FilePool::install(host)?;
        agent.deploy("v0")?;
        agent.configure(&config(host.release(), "settle = \"50ms\"\nmin_interval = \"0s\"", pool, target))?;
        // Its first look at the pool is none of the calls that a test counts or blocks.
        agent.wait_status("the pool's state", Duration::from_secs(20), |status| {
            status["pools"].as_array().is_some_and(|pools| pools.iter().all(|pool| pool["state"] == "pooled"))
        })?;
        Ok(Stage { web, pool: file_pool, agent })
    }

    /// The code, then the stamp.
    pub fn deploy(&self, version: &str) -> Result<()> {
        self.web.deploy_code(version)?;
        self.agent.deploy(version)
    }

    pub fn converge(&self, version: &str) -> Result<()> {
        self.web.deploy_code(version)?;
        self.agent.deploy_and_wait(version, Duration::from_secs(60))?;
        self.ensure_done(version)
    }

    /// The host is in the pool with this version, status says so, and nothing is left behind.
    pub fn ensure_done(&self, version: &str) -> Result<()> {
        let status = self.agent.status()?;
        ensure!(self.web.served_version()? == version, "{} is served: {status}", self.web.served_version()?);
        ensure!(self.pool.state()? == "pooled", "{version}: the host is not in the pool: {status}");
        ensure!(status["state"] == "converged" && status["reached"]["id"] == version, "{version}: {status}");
        ensure!(status["pools"].as_array().is_none_or(|pools| pools.iter().all(|pool| pool["state"] == "pooled")), "{version}: {status}");
        self.agent.ensure_nothing_left()
    }
}

/// When a phase of the newest rollout began and ended, in seconds since 1970.
pub fn phase(agent: &Agent<'_>, name: &str) -> Result<(f64, f64)> {
    let history = agent.history()?;
    let phases = history.first().and_then(|rollout| rollout["phases"].as_array()).into_iter().flatten();
    let Some(phase) = phases.rev().find(|phase| phase["phase"] == name) else { bail!("no phase {name}: {history:?}") };
    let seconds = |key: &str| -> Result<f64> {
        let text = phase[key].as_str().unwrap_or_default();
        let stamp = std::process::Command::new("date").args(["-d", text, "+%s.%N"]).output()?;
        Ok(String::from_utf8_lossy(&stamp.stdout).trim().parse()?)
    };
    Ok((seconds("started_at")?, seconds("finished_at")?))
}
