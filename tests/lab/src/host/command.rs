//! Running commands in a host.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command as Process};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{MemfdFlags, memfd_create};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::Host;
use crate::cgroup;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// Puts itself into the cgroup named first, then becomes the rest.
const IN_CGROUP: &str = r#"echo 0 > "$1/cgroup.procs" && shift && exec "$@""#;

const ENVIRONMENT: [(&str, &str); 5] = [
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("HOME", "/root"),
    ("USER", "root"),
    ("LANG", "C.UTF-8"),
    ("DEBIAN_FRONTEND", "noninteractive"),
];

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

/// A command to be run in a host, as root unless said otherwise; from [`Host::command`].
///
/// It enters all namespaces of the host's init and runs in a cgroup of its own, `/lab/N` as the host sees
/// it, which belongs to no unit. Its environment is small and fixed. It cannot set the clock.
#[derive(Debug, Clone)]
#[must_use]
pub struct Command<'h> {
    host: &'h Host,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    stdin: Vec<u8>,
    timeout: Duration,
    user: Option<String>,
}

impl Host {
    /// A command with its arguments; no shell is involved.
    pub fn command<S: Into<String>>(&self, arguments: impl IntoIterator<Item = S>) -> Command<'_> {
        Command {
            host: self,
            arguments: arguments.into_iter().map(Into::into).collect(),
            environment: Vec::new(),
            stdin: Vec::new(),
            timeout: DEFAULT_TIMEOUT,
            user: None,
        }
    }

    /// Runs a command to its end, whatever its exit status, 60 s at most.
    ///
    /// # Errors
    /// When it could not be run or took longer, in which case it and all its children are killed.
    pub fn run(&self, arguments: &[&str]) -> Result<Output> {
        self.command(arguments.iter().copied()).run()
    }

    /// [`Host::run`] of a bash script.
    ///
    /// # Errors
    /// As [`Host::run`].
    pub fn sh(&self, script: &str) -> Result<Output> {
        self.run(&["bash", "-c", script])
    }

    /// Runs a command that must succeed, and returns its standard output.
    ///
    /// # Errors
    /// As [`Host::run`]; and when its exit status is not 0, with all it said.
    pub fn ok(&self, arguments: &[&str]) -> Result<String> {
        self.command(arguments.iter().copied()).ok()
    }

    /// [`Host::ok`] of a bash script.
    ///
    /// # Errors
    /// As [`Host::ok`].
    pub fn sh_ok(&self, script: &str) -> Result<String> {
        self.ok(&["bash", "-c", script])
    }

    /// Starts a command that runs until it ends or the returned child is dropped.
    ///
    /// # Errors
    /// When it could not be run.
    pub fn spawn(&self, arguments: &[&str]) -> Result<HostChild> {
        self.command(arguments.iter().copied()).spawn()
    }
}

impl Command<'_> {
    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// What it reads on standard input; nothing by default.
    pub fn stdin(mut self, contents: impl Into<Vec<u8>>) -> Self {
        self.stdin = contents.into();
        self
    }

    /// How long [`Command::run`] and [`Command::ok`] let it run; 60 s by default.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Runs it as this user of the host, without any capability.
    pub fn user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// As [`Host::run`].
    ///
    /// # Errors
    /// As [`Host::run`].
    pub fn run(self) -> Result<Output> {
        let timeout = self.timeout;
        self.spawn()?.wait(timeout)
    }

    /// As [`Host::ok`].
    ///
    /// # Errors
    /// As [`Host::ok`].
    pub fn ok(self) -> Result<String> {
        let shown = self.arguments.join(" ");
        let output = self.run()?;
        if !output.success() {
            bail!("{shown}: exit status {}\n{}{}", output.status, output.stdout, output.stderr);
        }
        Ok(output.stdout)
    }

    /// As [`Host::spawn`].
    ///
    /// # Errors
    /// As [`Host::spawn`].
    pub fn spawn(self) -> Result<HostChild> {
        let running = self.host.running()?;
        let number = self.host.next_command.fetch_add(1, Ordering::Relaxed);
        let cgroup = running.cgroup_root.join("lab").join(number.to_string());
        std::fs::create_dir_all(&cgroup).with_context(|| format!("cannot make {}", cgroup.display()))?;
        // Files and not pipes: what a command leaves running may keep them open, and nobody waits for it.
        let [stdin, stdout, stderr] = [memory_file()?, memory_file()?, memory_file()?];
        write_at_start(&stdin, &self.stdin)?;
        let mut process = Process::new("sh");
        process
            .args(["-c", IN_CGROUP, "lab-command"])
            .arg(&cgroup)
            // There is no namespace for the wall clock: who set it in a host would set the machine's.
            .args(["setpriv", "--bounding-set=-sys_time", "--inh-caps=-sys_time", "nsenter", "--target"])
            .arg(running.init_pid.to_string())
            .args(["--all", "--"]);
        if let Some(user) = &self.user {
            process.args(["setpriv", "--reuid", user, "--regid", user, "--init-groups", "--"]);
        }
        let child = process
            .args(&self.arguments)
            .env_clear()
            .envs(ENVIRONMENT)
            .envs(self.environment)
            .stdin(stdin)
            .stdout(stdout.try_clone()?)
            .stderr(stderr.try_clone()?)
            .spawn()
            .context("cannot run sh")?;
        Ok(HostChild { child, shown: self.arguments.join(" "), cgroup, stdout, stderr })
    }
}

/// A command that runs in a host; killed, with all its children, at drop.
#[derive(Debug)]
pub struct HostChild {
    child: Child,
    shown: String,
    cgroup: PathBuf,
    stdout: File,
    stderr: File,
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

fn memory_file() -> Result<File> {
    Ok(memfd_create("lab-command", MemfdFlags::CLOEXEC)?.into())
}

/// Written at an offset, so that the reader's position stays at the start.
fn write_at_start(mut file: &File, contents: &[u8]) -> Result<()> {
    file.write_all_at(contents, 0)?;
    file.flush()?;
    Ok(())
}

fn contents(file: &File) -> Result<String> {
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len())?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn exit_status(status: std::process::ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default())
}
