//! A host's own cgroup. Two hosts that share one would share the cgroups of their units, and a kill in one
//! would hit the other.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::wait_for;

/// The parent of all hosts' cgroups, below the root of each hierarchy.
const PARENT: &str = "restart-agent-lab";

/// The cgroup of one host: a directory in the unified hierarchy and, on a machine that has it, in
/// the systemd hierarchy of cgroup v1.
#[derive(Debug, Clone)]
pub(crate) struct Cgroup {
    unified: PathBuf,
    named: Option<PathBuf>,
}

impl Cgroup {
    /// Where the host called `id` has its cgroups, whether they exist or not.
    pub(crate) fn of(id: &str) -> Result<Cgroup> {
        let (unified, named) = hierarchies()?;
        let below = |root: PathBuf| root.join(PARENT).join(id);
        Ok(Cgroup { unified: below(unified), named: named.map(below) })
    }

    /// Fails where cgroups cannot be made.
    pub(crate) fn probe() -> Result<()> {
        let probe = Cgroup::of(&format!("probe-{}", std::process::id()))?;
        probe.create()?;
        probe.remove()
    }

    pub(crate) fn create(&self) -> Result<()> {
        for directory in self.directories() {
            fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
        }
        Ok(())
    }

    /// The directories into whose `cgroup.procs` a process of the host is to be written.
    pub(crate) fn directories(&self) -> impl Iterator<Item = &PathBuf> {
        std::iter::once(&self.unified).chain(self.named.as_ref())
    }

    /// The directory in the unified hierarchy.
    pub(crate) fn unified(&self) -> &Path {
        &self.unified
    }

    /// Kills every process in it and below.
    pub(crate) fn kill(&self) -> Result<()> {
        kill_tree(&self.unified)
    }

    /// Waits until no process is left, 20 s at most: killed processes leave at once, unless one is in an
    /// uninterruptible sleep.
    pub(crate) fn wait_until_empty(&self) -> Result<()> {
        wait_for(&format!("{} to be empty", self.unified.display()), Duration::from_secs(20), || {
            if populated(&self.unified)? {
                bail!("processes {:?}", processes(&self.unified));
            }
            Ok(Some(()))
        })
    }

    /// Removes it with everything below; it must be empty of processes.
    pub(crate) fn remove(&self) -> Result<()> {
        for directory in self.directories() {
            // A killed process is still listed for a moment in the hierarchy that was not looked at.
            wait_for(&format!("{} to go", directory.display()), Duration::from_secs(10), || {
                remove_tree(directory)?;
                Ok(Some(()))
            })?;
        }
        Ok(())
    }
}

/// Kills every process in the cgroup at `directory` and below; a cgroup that is gone is fine.
pub(crate) fn kill_tree(directory: &Path) -> Result<()> {
    match fs::write(directory.join("cgroup.kill"), "1") {
        Err(error) if directory.exists() => Err(error).with_context(|| format!("cannot kill {}", directory.display())),
        _ => Ok(()),
    }
}

/// Removes the cgroup at `directory` with everything below; one that is gone is fine.
pub(crate) fn remove_tree(directory: &Path) -> Result<()> {
    if !directory.exists() {
        return Ok(());
    }
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    fs::remove_dir(directory).with_context(|| format!("cannot remove {}", directory.display()))
}

/// The processes in the cgroup at `directory` and below.
pub(crate) fn processes(directory: &Path) -> Vec<i32> {
    let mut found: Vec<i32> =
        fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default().lines().filter_map(|line| line.parse().ok()).collect();
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(processes(&entry.path()));
        }
    }
    found
}

fn populated(directory: &Path) -> Result<bool> {
    if !directory.exists() {
        return Ok(false);
    }
    let events = fs::read_to_string(directory.join("cgroup.events"))?;
    Ok(events.lines().any(|line| line == "populated 1"))
}

/// The mount points of the unified hierarchy and of v1's `name=systemd`.
fn hierarchies() -> Result<(PathBuf, Option<PathBuf>)> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let find = |wanted: &dyn Fn(&str, &str) -> bool| {
        mounts.lines().find_map(|line| {
            let mut fields = line.split(' ');
            let (_, path, kind, options) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
            wanted(kind, options).then(|| PathBuf::from(path))
        })
    };
    let unified = find(&|kind, _| kind == "cgroup2").context("cgroup v2 is not mounted")?;
    let named = find(&|kind, options| kind == "cgroup" && options.split(',').any(|option| option == "name=systemd"));
    Ok((unified, named))
}
