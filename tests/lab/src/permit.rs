//! How many hosts run at once on this machine, over all test processes: every host takes about ten of the
//! kernel's 128 inotify instances per user, and CPU at boot.

use std::fs::{File, OpenOptions, TryLockError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{cache, wait_for};

/// Hosts that run at once unless `RESTART_AGENT_LAB_HOSTS` says otherwise.
pub const MAX_HOSTS_DEFAULT: usize = 3;

/// Other tests hold their hosts for at most minutes.
const DEADLINE: Duration = Duration::from_secs(900);

/// The right to run one host, given back at drop, and by the kernel when its process dies.
#[derive(Debug)]
pub(crate) struct Permit(#[expect(dead_code, reason = "the open file is the lock")] File);

impl Permit {
    /// Takes `count` permits at once. Who waits does so in a queue, so two tests of several hosts each
    /// cannot end up with half of what they need.
    pub(crate) fn acquire(count: usize) -> Result<Vec<Permit>> {
        let max = max_hosts()?;
        ensure!(count <= max, "{count} hosts wanted at once, RESTART_AGENT_LAB_HOSTS allows {max}");
        let directory = cache::directory("permits")?;
        let queue = open(&directory.join("queue.lock"))?;
        wait_for("the turn to boot a host", DEADLINE, || try_lock(&queue))?;
        let mut permits = Vec::new();
        wait_for(&format!("{count} of {max} permits to run a host"), DEADLINE, || {
            for number in 0..max {
                let file = open(&directory.join(format!("{number}.lock")))?;
                if permits.len() < count && try_lock(&file)?.is_some() {
                    permits.push(Permit(file));
                }
            }
            Ok((permits.len() == count).then_some(()))
        })?;
        Ok(permits)
    }
}

fn max_hosts() -> Result<usize> {
    match std::env::var("RESTART_AGENT_LAB_HOSTS") {
        Ok(text) => {
            text.parse().ok().filter(|count| *count > 0).with_context(|| format!("RESTART_AGENT_LAB_HOSTS={text} is not a positive number"))
        }
        Err(_) => Ok(MAX_HOSTS_DEFAULT),
    }
}

fn open(path: &std::path::Path) -> Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).open(path).with_context(|| format!("cannot open {}", path.display()))
}

fn try_lock(file: &File) -> Result<Option<()>> {
    match file.try_lock() {
        Ok(()) => Ok(Some(())),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}
