//! What exists of a host outside its own process: registered before it is made, removed at the end,
//! and collected later when the test process was killed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::cache;
use crate::cgroup::Cgroup;
use crate::host::disk;

/// The traces of one host: `hosts/ID.owner` says whose it is, `hosts/ID/` has its overlay.
#[derive(Debug)]
pub(crate) struct Traces {
    owner: PathBuf,
    /// The host's directory: overlay and console log.
    pub(crate) directory: PathBuf,
    pub(crate) cgroup: Cgroup,
}

impl Traces {
    /// Registers a host of this process, then makes its directory.
    pub(crate) fn create(id: &str) -> Result<Traces> {
        let traces = Traces::of(id)?;
        let me = std::process::id();
        let unfinished = traces.owner.with_extension("new");
        fs::write(&unfinished, format!("{me} {}\n", start_time(me)?))?;
        fs::rename(&unfinished, &traces.owner)?;
        fs::create_dir(&traces.directory).with_context(|| format!("cannot make {}", traces.directory.display()))?;
        Ok(traces)
    }

    fn of(id: &str) -> Result<Traces> {
        let hosts = cache::directory("hosts")?;
        Ok(Traces { owner: hosts.join(format!("{id}.owner")), directory: hosts.join(id), cgroup: Cgroup::of(id)? })
    }

    /// Ends every process of the host and removes everything. Its overlay is mounted in a mount namespace of
    /// its own, so it goes with the last process.
    pub(crate) fn remove(&self) -> Result<()> {
        disk::release(&self.directory)?;
        self.cgroup.kill()?;
        self.cgroup.wait_until_empty()?;
        self.cgroup.remove()?;
        remove_directory(&self.directory)?;
        fs::remove_file(&self.owner).with_context(|| format!("cannot remove {}", self.owner.display()))
    }
}

/// Removes what killed test processes left behind on this machine: processes, cgroups, directories. Every
/// [`crate::Host`] does so before it boots. Returns the names of the hosts that were removed.
///
/// # Errors
/// When something resists; the rest is still there and the next call tries again.
pub fn collect_garbage() -> Result<Vec<String>> {
    let hosts = cache::directory("hosts")?;
    let lock = fs::File::create(hosts.join("garbage.lock"))?;
    // Somebody else is at it.
    if lock.try_lock().is_err() {
        return Ok(Vec::new());
    }
    let mut removed = Vec::new();
    for entry in fs::read_dir(&hosts)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "owner") || owner_lives(&path) {
            continue;
        }
        let Some(id) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
        Traces::of(id)?.remove().with_context(|| format!("cannot remove what is left of host {id}"))?;
        removed.push(id.to_owned());
    }
    Ok(removed)
}

fn owner_lives(owner: &Path) -> bool {
    let text = fs::read_to_string(owner).unwrap_or_default();
    let mut fields = text.split_whitespace();
    let pid = fields.next().and_then(|field| field.parse().ok());
    let started = fields.next().and_then(|field| field.parse::<u64>().ok());
    match (pid, started) {
        (Some(pid), Some(started)) => start_time(pid).is_ok_and(|now| now == started),
        // Gone in the meantime, or not ours to judge.
        _ => true,
    }
}

/// When the process started, in clock ticks since boot: with the pid, its identity.
fn start_time(pid: u32) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is in parentheses and may hold anything.
    let fields = stat.rsplit_once(')').context("no command in stat")?.1;
    fields.split_whitespace().nth(19).context("no start time in stat")?.parse().context("start time")
}

fn remove_directory(directory: &Path) -> Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if directory.exists() => Err(error).with_context(|| format!("cannot remove {}", directory.display())),
        _ => Ok(()),
    }
}
