//! The agent on a host: installed from its package, configured, told of deploys, asked for its status.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{Host, Output, wait_for};

/// The stamp that [`Agent`] touches.
pub const STAMP: &str = "/srv/deploy/stamp";
/// The drop-in that [`Agent::configure`] writes.
pub const CONFIG: &str = "/etc/restart-agent/conf.d/50-test.toml";

/// The agent on one host.
#[derive(Debug)]
pub struct Agent<'h> {
    host: &'h Host,
}

/// The package under test: `$RESTART_AGENT_DEB`, or the newest in target/debian.
///
/// # Errors
/// There is none: packaging/build-deb makes it.
pub fn package() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("RESTART_AGENT_DEB") {
        return Ok(PathBuf::from(named));
    }
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../target")), PathBuf::from);
    let mut found = Vec::new();
    if let Ok(entries) = std::fs::read_dir(target.join("debian")) {
        for path in entries.flatten().map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|ending| ending == "deb")) {
            found.push((std::fs::metadata(&path)?.modified()?, path));
        }
    }
    found.sort();
    found.pop().map(|(_, path)| path).context("there is no package to test: run packaging/build-deb")
}

impl<'h> Agent<'h> {
    /// Installs the package, which starts the agent with a configuration that does nothing.
    ///
    /// `$RESTART_AGENT_BINARY` replaces the package's binary: for trying a change without packaging it.
    ///
    /// # Errors
    /// The installation fails, or the agent is not up within 20 s.
    pub fn install(host: &'h Host) -> Result<Agent<'h>> {
        Agent::install_package(host, &package()?)
    }

    /// [`Agent::install`] of this package file.
    ///
    /// # Errors
    /// As [`Agent::install`].
    pub fn install_package(host: &'h Host, package: &Path) -> Result<Agent<'h>> {
        host.install_deb(package)?;
        if let Some(binary) = std::env::var_os("RESTART_AGENT_BINARY") {
            host.copy_in(binary.as_ref(), "/usr/bin/restart-agent.new")?;
            host.sh_ok("chmod 755 /usr/bin/restart-agent.new && mv /usr/bin/restart-agent.new /usr/bin/restart-agent && systemctl restart restart-agent")?;
        }
        let agent = Agent { host };
        agent.wait_active()?;
        Ok(agent)
    }

    /// The agent that is already installed on a host.
    #[must_use]
    pub fn on(host: &'h Host) -> Agent<'h> {
        Agent { host }
    }

    /// Waits until systemd calls the service active.
    ///
    /// # Errors
    /// Not within 20 s.
    pub fn wait_active(&self) -> Result<()> {
        wait_for("restart-agent to be active", Duration::from_secs(20), || {
            let state = self.host.property("restart-agent.service", "ActiveState")?;
            if state == "active" { Ok(Some(())) } else { bail!("{state}") }
        })
    }

    /// Writes the configuration and has the agent read it. A stamp that exists by then counts as reached.
    ///
    /// # Errors
    /// The agent does not take it.
    pub fn configure(&self, config: &str) -> Result<()> {
        self.host.write(CONFIG, config)?;
        self.host.ok(&["restart-agent", "check-config"])?;
        self.host.ok(&["systemctl", "reload", "restart-agent"])?;
        wait_for("the configuration to be taken", Duration::from_secs(10), || {
            let status = self.status()?;
            let path = status["stamp"]["path"].as_str().unwrap_or_default().to_owned();
            if path.is_empty() { bail!("{status}") } else { Ok(Some(())) }
        })
    }

    /// A deploy: the id into a new file, renamed over the stamp.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn deploy(&self, id: &str) -> Result<()> {
        self.host.sh_ok(&format!("mkdir -p /srv/deploy && printf '%s\\n' '{id}' > {STAMP}.new && mv {STAMP}.new {STAMP}"))?;
        Ok(())
    }

    /// `restart-agent wait`, however it ends.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn wait(&self, timeout: Duration) -> Result<Output> {
        let seconds = format!("{}s", timeout.as_secs());
        self.host.command(["restart-agent", "wait", "--timeout", seconds.as_str()]).timeout(timeout + Duration::from_secs(20)).run()
    }

    /// A deploy that is to converge.
    ///
    /// # Errors
    /// It does not, within `timeout`; with what status says.
    pub fn deploy_and_wait(&self, id: &str, timeout: Duration) -> Result<()> {
        self.deploy(id)?;
        let waited = self.wait(timeout)?;
        ensure!(waited.status == 0, "wait exits {}: {}{}\n{}", waited.status, waited.stdout, waited.stderr, self.status_text()?);
        Ok(())
    }

    /// status.json.
    ///
    /// # Errors
    /// It cannot be read, or is not as its schema says.
    pub fn status(&self) -> Result<Value> {
        let status = serde_json::from_str(&self.host.read("/run/restart-agent/status.json")?)?;
        crate::schema::check_status(&status)?;
        Ok(status)
    }

    /// `restart-agent status`, as a person reads it.
    ///
    /// # Errors
    /// It cannot be run.
    pub fn status_text(&self) -> Result<String> {
        Ok(self.host.run(&["restart-agent", "status"])?.stdout)
    }

    /// Waits until `state` of status.json is this.
    ///
    /// # Errors
    /// Not within `timeout`; with the last status.
    pub fn wait_state(&self, state: &str, timeout: Duration) -> Result<Value> {
        wait_for(&format!("state {state}"), timeout, || {
            let status = self.status()?;
            if status["state"] == state { Ok(Some(status)) } else { bail!("{status}") }
        })
    }

    /// Waits until status.json is as `look` wants it.
    ///
    /// # Errors
    /// Not within `timeout`; with the last status.
    pub fn wait_status(&self, what: &str, timeout: Duration, look: impl Fn(&Value) -> bool) -> Result<Value> {
        wait_for(what, timeout, || {
            let status = self.status()?;
            if look(&status) { Ok(Some(status)) } else { bail!("{status}") }
        })
    }

    /// `restart-agent` with these arguments, as root; must succeed.
    ///
    /// # Errors
    /// With all it said.
    pub fn ok(&self, arguments: &[&str]) -> Result<String> {
        self.host.command(std::iter::once("restart-agent").chain(arguments.iter().copied())).ok()
    }

    /// SIGKILL to the agent. systemd starts it again 2 s later.
    ///
    /// # Errors
    /// It does not run.
    pub fn kill(&self) -> Result<()> {
        let pid = self.host.pid_of("restart-agent.service")?;
        self.host.ok(&["kill", "-KILL", &pid.to_string()])?;
        wait_for("the agent to be dead", Duration::from_secs(10), || {
            Ok((self.host.property("restart-agent.service", "MainPID")? != pid.to_string()).then_some(()))
        })
    }

    /// `history --json`, newest first.
    ///
    /// # Errors
    /// It cannot be run or read.
    pub fn history(&self) -> Result<Vec<Value>> {
        Ok(serde_json::from_str(&self.ok(&["history", "--json"])?)?)
    }

    /// What it logged since this boot.
    ///
    /// # Errors
    /// journalctl fails.
    pub fn journal(&self) -> Result<String> {
        self.host.journal("restart-agent.service")
    }

    /// `casualties --json --requests`: all that were ever recorded.
    ///
    /// # Errors
    /// It cannot be run or read.
    pub fn casualties(&self) -> Result<Vec<Value>> {
        Ok(serde_json::from_str(&self.host.ok(&["restart-agent", "casualties", "--json", "--requests"])?)?)
    }

    /// The `id=` in the query strings of the cut requests.
    ///
    /// # Errors
    /// As [`Agent::casualties`].
    pub fn cut_request_ids(&self) -> Result<std::collections::BTreeSet<u64>> {
        let id = |casualty: &Value| -> Option<u64> {
            let request = casualty["request"].as_str()?;
            let rest = &request[request.find("id=")? + 3..];
            rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
        };
        self.casualties()?
            .iter()
            .filter(|casualty| casualty["what"] == "request")
            .map(|casualty| id(casualty).with_context(|| casualty.to_string()))
            .collect()
    }

    /// Nothing of ours is left at rest: no drop-in, no unit that failed.
    ///
    /// # Errors
    /// Names what is left.
    pub fn ensure_nothing_left(&self) -> Result<()> {
        let left = self.host.sh("find /run/systemd/system /etc/systemd/system -name 'zz-restart-agent.conf'")?.stdout;
        ensure!(left.trim().is_empty(), "left behind: {left}");
        let kept = self.host.sh("find /run/restart-agent/quiet /run/restart-agent/stop -type f")?.stdout;
        ensure!(kept.trim().is_empty(), "still kept quiet, or asked to stop: {kept}");
        let hooks = self.host.sh("systemctl list-units --all --no-legend 'restart-agent-hook-*'")?.stdout;
        ensure!(hooks.trim().is_empty(), "hooks left: {hooks}");
        Ok(())
    }
}
