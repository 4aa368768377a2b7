//! A command that runs in a host, and what it said in the end.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::cgroup;

/// What a command in a host said and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Exit status, 0 to 255; 128 + N when signal N ended it, as in a shell.
    pub status: i32,
    /// Standard output; what is not UTF-8 is replaced.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
}

impl Output {
    /// Whether the exit status is 0.
    pub fn success(&self) -> bool {
        self.status == 0
    }
}

impl From<std::process::Output> for Output {
    fn from(output: std::process::Output) -> Output {
        Output {
            status: exit_status(output.status),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// A command that runs in a host; killed, with all its children, at drop.
#[derive(Debug)]
pub struct HostChild {
    pub(super) child: Child,
    /// The command line, for messages.
    pub(super) shown: String,
    /// Of this command alone.
    pub(super) cgroup: PathBuf,
    pub(super) stdout: File,
    pub(super) stderr: File,
}

impl HostChild {
    /// Whether it still runs.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// Its process id as the host sees it; none while it is being started and after it has ended.
    pub fn pid(&self) -> Option<i32> {
        cgroup::processes(&self.cgroup).into_iter().find_map(|pid| {
            // nsenter has only one id, what it started has one more.
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let ids = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
            ids.split_whitespace().nth(1)?.parse().ok()
        })
    }

    /// Everything it has written to standard output so far.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn stdout(&self) -> Result<String> {
        contents(&self.stdout)
    }

    /// Everything it has written to standard error so far.
    ///
    /// # Errors
    /// When that cannot be read.
    pub fn stderr(&self) -> Result<String> {
        contents(&self.stderr)
    }

    /// Waits until it ends. Processes that it left in the background are left alone.
    ///
    /// # Errors
    /// When `timeout` passes first: then it is killed with all its children.
    pub fn wait(mut self, timeout: Duration) -> Result<Output> {
        if !self.ended_within(timeout)? {
            self.kill()?;
            bail!("{} did not end within {:.1}s\n{}{}", self.shown, timeout.as_secs_f64(), self.stdout()?, self.stderr()?);
        }
        let status = exit_status(self.child.wait()?);
        Ok(Output { status, stdout: self.stdout()?, stderr: self.stderr()? })
    }

    /// Kills it with all its children.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn kill(&mut self) -> Result<()> {
        cgroup::kill_tree(&self.cgroup)?;
        self.child.wait()?;
        Ok(())
    }

    fn ended_within(&mut self, timeout: Duration) -> Result<bool> {
        if self.child.try_wait()?.is_some() {
            return Ok(true);
        }
        let pid = Pid::from_child(&self.child);
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let mut watched = [PollFd::new(&pidfd, PollFlags::IN)];
            match poll(&mut watched, Some(&left.try_into()?)) {
                Ok(0) => return Ok(false),
                Ok(_) => return Ok(true),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for HostChild {
    fn drop(&mut self) {
        // After it has ended, what it started in the background lives on, like after an ssh.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.kill();
        }
        // Fails while something lives there; the host's end removes it.
        let _ = std::fs::remove_dir(&self.cgroup);
    }
}

fn contents(file: &File) -> Result<String> {
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len())?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn exit_status(status: std::process::ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}
