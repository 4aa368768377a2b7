//! The lab tested on itself: hosts boot, obey, and leave nothing behind.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use lab::{Host, Release};

fn main() -> ExitCode {
    lab::suite().on_each("a_host_boots_and_obeys", boots).run()
}

fn boots(release: Release) -> Result<()> {
    let host = Host::boot(release, "first")?;
    ensure!(host.ok(&["hostname"])?.trim() == "first");
    ensure!(host.unit(release.fpm_unit())?["ActiveState"] == "active");
    Ok(())
}
