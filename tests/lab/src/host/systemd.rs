//! What systemd in a host says, and packages.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Host;

const INSTALL_TIMEOUT: Duration = Duration::from_secs(180);

impl Host {
    /// Every property of a unit, as `systemctl show` prints it. A unit that does not exist has
    /// `LoadState=not-found`.
    ///
    /// # Errors
    /// When systemctl fails, or its host is off.
    pub fn unit(&self, unit: &str) -> Result<BTreeMap<String, String>> {
        let text = self.ok(&["systemctl", "show", "--all", "--", unit])?;
        Ok(text.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    /// One property of a unit; empty when systemd knows no such property.
    ///
    /// # Errors
    /// As [`Host::unit`].
    pub fn property(&self, unit: &str, property: &str) -> Result<String> {
        let text = self.ok(&["systemctl", "show", "--value", &format!("--property={property}"), "--", unit])?;
        Ok(text.trim_end_matches('\n').to_owned())
    }

    /// The main process of a service, as the host sees it.
    ///
    /// # Errors
    /// When it has none.
    pub fn pid_of(&self, unit: &str) -> Result<i32> {
        let text = self.property(unit, "MainPID")?;
        let pid = text.parse().with_context(|| format!("MainPID of {unit}: {text:?}"))?;
        ensure!(pid > 0, "{unit} has no main process");
        Ok(pid)
    }

    /// What a unit logged, since this boot.
    ///
    /// # Errors
    /// When journalctl fails, or the host is off.
    pub fn journal(&self, unit: &str) -> Result<String> {
        self.ok(&["journalctl", "--sync"])?;
        self.ok(&["journalctl", "--no-pager", "--boot", "--output=short-precise", "--unit", unit])
    }

    /// Installs a package file of the machine with dpkg, also over the same or a newer version; existing
    /// configuration files are kept. The network is not used, so what it depends on must be in the image.
    ///
    /// # Errors
    /// When dpkg fails; with all it said.
    pub fn install_deb(&self, package: &Path) -> Result<()> {
        let name = package.file_name().context("not a file")?.to_string_lossy();
        let inside = format!("/var/cache/{name}");
        self.copy_in(package, &inside)?;
        self.command(["dpkg", "--force-confdef", "--force-confold", "--install", &inside]).timeout(INSTALL_TIMEOUT).ok()?;
        self.remove(&inside)
    }
}
