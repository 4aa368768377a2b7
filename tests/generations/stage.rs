//! What the tests of generations begin with.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use lab::generations::{BOOT, FIRST_VERSION, Generations, Options, WebServer};
use lab::load::{Builder, Load, Report, Switch};
use lab::{Host, wait_for};

/// Generations behind a web server, with `boot` serving v0, and the switches that were made since.
pub struct Stage<'h> {
    pub stack: Generations<'h>,
    pub switches: Vec<Switch>,
}

impl<'h> Stage<'h> {
    pub fn set(host: &'h Host, server: WebServer, options: &Options) -> Result<Stage<'h>> {
        Ok(Stage { stack: Generations::install(host, server, options)?, switches: Vec::new() })
    }

    /// A load for this web server, which begins with nothing to send.
    pub fn load(&self) -> Builder<'h> {
        Load::builder(self.stack.host()).to(lab::generations::ADDRESS).rate(0.0)
    }

    /// The instance and the version that serve, as far as this stage knows.
    pub fn serving(&self) -> (&str, &str) {
        self.switches.last().map_or((BOOT, FIRST_VERSION), |switch| (&switch.instance, &switch.version))
    }

    /// Code, start, switch, by hand; the old instance goes on. Its name is returned.
    pub fn begin(&mut self, instance: &str, version: &str) -> Result<String> {
        let old = self.serving().0.to_owned();
        self.switches.push(self.stack.begin(instance, version)?);
        Ok(old)
    }

    /// Nothing was lost, and no request was served by an older generation than the one that was current when it was sent.
    pub fn ensure_lossless(&self, report: &Report) -> Result<()> {
        ensure!(report.counts().lost() == 0, "{report}");
        let old = report.of_old_generations(&self.switches);
        ensure!(old.is_empty(), "{} requests of {} by an old generation, the first: {:?}", old.len(), report.records.len(), old[0]);
        Ok(())
    }

    /// `version` is served, by one generation and no other.
    pub fn ensure_one_generation(&self, instance: &str, version: &str) -> Result<()> {
        ensure!(self.stack.served_version()? == version, "{} is served", self.stack.served_version()?);
        ensure!(self.stack.active()? == [instance], "{:?} are active", self.stack.active()?);
        if self.stack.server() != WebServer::NginxTcp {
            ensure!(self.stack.current()?.as_deref() == Some(instance), "current.sock leads to {:?}", self.stack.current()?);
        }
        Ok(())
    }
}

/// Waits until so many requests more have been answered, well or not.
pub fn more(load: &Load<'_>, count: usize) -> Result<()> {
    let sum = |(good, bad): (usize, usize)| good + bad;
    let wanted = sum(load.answered()) + count;
    wait_for("requests to be answered", Duration::from_secs(60), || {
        let answered = load.answered();
        if sum(answered) < wanted { bail!("{answered:?} of {wanted}") } else { Ok(Some(())) }
    })
}
