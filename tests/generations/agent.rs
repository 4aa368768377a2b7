//! What the agent's deploys by generations begin with.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use lab::Host;
use lab::agent::{Agent, STAMP};
use lab::generations::{BOOT, Options, WebServer};
use lab::load::Switch;

use crate::stage::Stage;

pub const MINUTE: Duration = Duration::from_secs(60);

/// A stage with the agent, for which v0 is reached.
pub struct Played<'h> {
    pub stage: Stage<'h>,
    pub agent: Agent<'h>,
}

/// The target `job`, with further lines.
pub fn config(stage: &Stage<'_>, lines: &str) -> String {
    let stack = &stage.stack;
    let socket = match stack.server() {
        WebServer::NginxTcp => stack.template().replace("@.service", ".socket"),
        _ => stack.socket(),
    };
    format!(
        "[stamp]\npath = \"{STAMP}\"\nsettle = \"50ms\"\nmin_interval = \"0s\"\n\n[target.job]\nkind = \"php-fpm\"\nstrategy = \"generations\"\nunit = \"{}\"\nsocket = \"{socket}\"\nproof = {{ script = \"/srv/app/version.php\" }}\n{lines}\n",
        stack.template(),
    )
}

impl<'h> Played<'h> {
    pub fn set(host: &'h Host, server: WebServer, options: &Options, lines: &str) -> Result<Played<'h>> {
        let stage = Stage::set(host, server, options)?;
        let agent = Agent::install(host)?;
        agent.deploy("v0")?;
        agent.configure(&config(&stage, lines))?;
        agent.wait_status("boot to be known", MINUTE, |status| status["targets"][0]["units"][0]["unit"] == stage.stack.unit(BOOT))?;
        Ok(Played { stage, agent })
    }

    /// Code, stamp, wait. From when on the new generation gets the requests is noted in the stage.
    pub fn deploy(&mut self, version: &str) -> Result<()> {
        self.stage.stack.deploy_code(version)?;
        self.agent.deploy_and_wait(version, MINUTE)?;
        self.arrived(version)
    }

    /// The deploy has arrived, by somebody's `wait`.
    pub fn arrived(&mut self, version: &str) -> Result<()> {
        let instance = self.current()?;
        let at = self.switched_at()?;
        self.stage.switches.push(Switch { at, instance, version: version.to_owned() });
        if self.stage.stack.server() == WebServer::ApacheReuse {
            return Ok(());
        }
        // Over TCP a worker of the old generation that was busy may take one more before it is seen to be idle.
        let patience = if self.stage.stack.server() == WebServer::NginxTcp { 5 } else { 0 };
        lab::wait_for("the new version to be served", Duration::from_secs(patience), || {
            let served = self.stage.stack.served_version()?;
            ensure!(served == version, "{served} is served after the arrival of {version}");
            Ok(Some(()))
        })
    }

    /// The instance that status calls fresh. An agent that has just started has to look first.
    pub fn current(&self) -> Result<String> {
        lab::wait_for("a fresh unit in status", Duration::from_secs(10), || {
            let status = self.agent.status()?;
            let units = status["targets"][0]["units"].as_array().cloned().unwrap_or_default();
            let fresh = units.iter().find(|unit| unit["state"] == "fresh").and_then(|unit| unit["unit"].as_str());
            let unit = fresh.with_context(|| format!("no fresh unit: {status}"))?;
            let instance = unit.split_once('@').and_then(|(_, rest)| rest.strip_suffix(".service"));
            Ok(Some(instance.with_context(|| unit.to_owned())?.to_owned()))
        })
    }

    /// rename(2) is what changes the symlink's ctime. Where there is none, it is now.
    fn switched_at(&self) -> Result<SystemTime> {
        if self.stage.stack.server() == WebServer::NginxTcp {
            return Ok(SystemTime::now());
        }
        let ctime = self.stage.stack.host().ok(&["stat", "--format=%.9Z", &self.stage.stack.socket()])?;
        let seconds: f64 = ctime.trim().parse()?;
        // The kernel takes it from the last tick of its clock, which may be 10 ms ago.
        Ok(SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds) + Duration::from_millis(10))
    }

    /// One generation runs, and it is this version's; nothing is left behind.
    pub fn ensure_settled(&self, version: &str) -> Result<()> {
        let instance = self.current()?;
        lab::wait_for("one generation", MINUTE, || {
            let active = self.stage.stack.active()?;
            ensure!(active == [instance.as_str()], "{active:?} are active: {}", self.agent.status_text()?);
            Ok(Some(()))
        })?;
        self.stage.ensure_one_generation(&instance, version)?;
        let host = self.stage.stack.host();
        let failed = host.ok(&["systemctl", "list-units", "--failed", "--plain", "--no-legend"])?;
        ensure!(failed.trim().is_empty(), "failed: {failed}");
        self.agent.ensure_nothing_left()
    }
}
