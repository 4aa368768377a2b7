//! Running commands in a host.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::Command as Process;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::fs::{MemfdFlags, memfd_create};

use super::{Host, HostChild, Output};

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

fn memory_file() -> Result<File> {
    Ok(memfd_create("lab-command", MemfdFlags::CLOEXEC)?.into())
}

/// Written at an offset, so that the reader's position stays at the start.
fn write_at_start(mut file: &File, contents: &[u8]) -> Result<()> {
    file.write_all_at(contents, 0)?;
    file.flush()?;
    Ok(())
}
