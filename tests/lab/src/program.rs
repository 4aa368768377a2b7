//! Programs of Debian packages that are run on this machine without installing the package: it would start a daemon.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{cache, wait_for};

/// Another process may be fetching it.
const DEADLINE: Duration = Duration::from_secs(300);

/// The program at this path of a package (`usr/bin/promtool` of `prometheus`): fetched once, by apt, and kept in the cache.
///
/// # Errors
/// apt cannot fetch the package, or it has no such program; with what was said.
pub fn of_package(package: &str, path: &str) -> Result<PathBuf> {
    let directory = cache::directory("programs")?;
    let tree = directory.join(package);
    let program = tree.join(path);
    if !program.exists() {
        let lock = File::create(directory.join(format!("{package}.lock")))?;
        wait_for(&format!("the lock to fetch {package}"), DEADLINE, || Ok(lock.try_lock().is_ok().then_some(())))?;
        if !program.exists() {
            fetch(package, path, &directory.join(format!("{package}.fetching")), &tree)?;
        }
    }
    Ok(program)
}

fn fetch(package: &str, path: &str, fetching: &Path, tree: &Path) -> Result<()> {
    for old in [fetching, tree] {
        if old.exists() {
            fs::remove_dir_all(old)?;
        }
    }
    fs::create_dir_all(fetching)?;
    eprintln!("lab: fetching {package} (once)");
    let unpack = format!(
        "apt-get --quiet --option APT::Sandbox::User=root download '{package}' && dpkg-deb --fsys-tarfile ./*.deb | tar --extract './{path}' && rm ./*.deb"
    );
    let output = Command::new("sh").args(["-e", "-c", &unpack]).current_dir(fetching).output().context("cannot run apt-get")?;
    if !output.status.success() {
        bail!("cannot fetch {package}: {}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    }
    fs::rename(fetching, tree).with_context(|| format!("cannot put {} in place", tree.display()))
}
