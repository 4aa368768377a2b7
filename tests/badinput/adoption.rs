//! Installing, upgrading, starting: what makes no deploy.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::agent::{Agent, STAMP, package};
use lab::web::{self, Web};
use lab::{Host, Release};

use crate::stage::config;

const SOON: Duration = Duration::from_secs(30);

pub fn nothing_is_restarted(release: Release) -> Result<()> {
    let host = Host::boot(release, "adoption")?;
    let web = Web::install(&host, &web::Options::default())?;
    let before = web.generation()?;
    // Yesterday's deploy, after which php-fpm was never restarted.
    host.sh_ok(&format!("mkdir -p /srv/deploy && echo yesterday > {STAMP} && touch -d yesterday {STAMP}"))?;
    let agent = Agent::install(&host)?;
    let config = config(release, "settle = \"50ms\"\nmin_interval = \"0s\"", "", "drain_timeout = \"1s\"");
    agent.configure(&config)?;
    let nothing = |when: &str| -> Result<()> {
        agent.wait_active()?;
        let waited = agent.wait(SOON)?;
        ensure!(waited.status == 0, "{when}: {waited:?}");
        let status = agent.wait_status("its configuration", SOON, |status| status["stamp"]["id"] == "yesterday")?;
        ensure!(status["targets"][0]["state"] == "adopted" && status["state"] == "idle", "{when}: {status}");
        ensure!(agent.history()?.is_empty() && web.generation()? == before, "{when}: {:#?}", agent.history()?);
        Ok(())
    };
    nothing("installed and configured")?;
    host.ok(&["systemctl", "restart", "restart-agent"])?;
    nothing("restarted")?;
    agent.kill()?;
    nothing("killed")?;
    host.install_deb(&package()?)?;
    nothing("installed again")?;
    host.ok(&["systemctl", "reload", "restart-agent"])?;
    nothing("reloaded")?;
    // Other rules are no deploy either.
    agent.configure(&config.replace("1s", "2s"))?;
    nothing("with other rules")?;

    // One that lands while nobody watches is done at the next start.
    host.ok(&["systemctl", "stop", "restart-agent"])?;
    web.deploy_code("v1")?;
    agent.deploy("v1")?;
    host.ok(&["systemctl", "start", "restart-agent"])?;
    let waited = agent.wait(SOON)?;
    ensure!(waited.status == 0, "{waited:?}");
    ensure!(web.served_version()? == "v1" && web.generation()? != before, "a deploy was missed: {}", agent.status()?);
    agent.ensure_nothing_left()
}
