//! A host: booting, powering off, and leaving nothing behind.

mod boot;
mod child;
mod command;
pub(crate) mod disk;
mod files;
mod systemd;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::garbage::Traces;
use crate::permit::Permit;
use crate::suite::journals;
use crate::{Image, Release, cgroup, collect_garbage, requirements, wait_for};
use boot::{BOOT_DEADLINE, Machine, Running};
pub use child::{HostChild, Output};
pub use command::Command;
use disk::Disk;

/// Everything that the boot wants is there, and no job waits for another.
const BOOTED: &str = "systemctl --quiet is-active multi-user.target && ! systemctl list-jobs --no-legend | grep -q waiting";
const POWEROFF_DEADLINE: Duration = Duration::from_secs(120);

/// A running Debian with its own systemd, network (loopback only), process ids and cgroups. Dropping it
/// kills it and removes every trace, also while a test panics; its journal is kept when the trial fails.
///
/// All methods take `&self`, and a host may be shared between threads.
#[derive(Debug)]
pub struct Host {
    release: Release,
    traces: Traces,
    machine: Machine,
    disk: Option<Disk>,
    running: Mutex<Option<Running>>,
    next_command: AtomicU32,
    _permit: Permit,
}

/// How a host is to be booted; from [`Host::builder`].
#[derive(Debug, Clone)]
pub struct Builder {
    release: Release,
    name: String,
    binds: Vec<(PathBuf, String)>,
    disk: Option<String>,
}

impl Builder {
    /// Gives it a file system of its own at `inside`, which [`Host::freeze`] can freeze.
    #[must_use]
    pub fn disk(mut self, inside: &str) -> Builder {
        self.disk = Some(inside.to_owned());
        self
    }

    /// Shows `outside`, a path on the machine, at `inside` in the host, writable.
    #[must_use]
    pub fn bind(mut self, outside: impl Into<PathBuf>, inside: &str) -> Builder {
        self.binds.push((outside.into(), inside.to_owned()));
        self
    }

    /// Boots the host, as [`Host::boot`] does.
    ///
    /// # Errors
    /// As [`Host::boot`].
    pub fn boot(self) -> Result<Host> {
        let permit = Permit::acquire(1)?.pop().context("no permit")?;
        self.boot_with(permit)
    }

    fn boot_with(self, permit: Permit) -> Result<Host> {
        requirements::check().map_err(anyhow::Error::msg)?;
        let image = Image::ensure(self.release)?;
        // What resists is no reason to boot nothing ever again.
        if let Err(error) = collect_garbage() {
            eprintln!("lab: {error:#}");
        }
        let id = unique_id(&self.name);
        let traces = Traces::create(&id)?;
        let mut binds = self.binds;
        let disk = self.disk.map(|inside| Disk::make(&traces.directory).map(|disk| (disk, inside))).transpose()?;
        binds.extend(disk.iter().map(|(disk, inside)| (disk.mounted_at().to_owned(), inside.clone())));
        let machine = Machine {
            id,
            hostname: self.name,
            image: image.root().to_owned(),
            directory: traces.directory.clone(),
            cgroup: traces.cgroup.clone(),
            binds,
        };
        // From here on its drop cleans up.
        let host = Host {
            release: self.release,
            traces,
            machine,
            disk: disk.map(|(disk, _)| disk),
            running: Mutex::new(None),
            next_command: AtomicU32::new(0),
            _permit: permit,
        };
        host.machine.prepare()?;
        host.boot_again()?;
        Ok(host)
    }
}

impl Host {
    /// Boots a fresh host called `name` (its hostname: letters, digits and dashes) and returns when systemd says
    /// `running` or `degraded`. Waits for a permit first, so a test that needs several hosts takes them
    /// with [`Host::boot_all`].
    ///
    /// # Errors
    /// When the machine cannot boot hosts ([`requirements::check`]), the image cannot be built, or the host is
    /// not up after two minutes; the error then has the end of its console.
    pub fn boot(release: Release, name: &str) -> Result<Host> {
        Host::builder(release, name).boot()
    }

    /// For a host with more than a name.
    pub fn builder(release: Release, name: &str) -> Builder {
        Builder { release, name: name.to_owned(), binds: Vec::new(), disk: None }
    }

    /// Boots several hosts, taking all their permits at once. They do not see each other's networks.
    ///
    /// # Errors
    /// As [`Host::boot`], for the first that fails; and when they are more than the machine allows at once.
    pub fn boot_all(builders: Vec<Builder>) -> Result<Vec<Host>> {
        let permits = Permit::acquire(builders.len())?;
        builders.into_iter().zip(permits).map(|(builder, permit)| builder.boot_with(permit)).collect()
    }

    /// The release that it runs.
    pub fn release(&self) -> Release {
        self.release
    }

    /// Its hostname.
    pub fn name(&self) -> &str {
        &self.machine.hostname
    }

    /// Its name on the machine: unique among all hosts of all test processes.
    pub fn id(&self) -> &str {
        &self.machine.id
    }

    /// The process id of its init, as the machine sees it.
    ///
    /// # Errors
    /// When it is powered off.
    pub fn init_pid(&self) -> Result<i32> {
        Ok(self.running()?.init_pid)
    }

    /// The directory of its cgroup root, as the machine sees it: `system.slice` is below it.
    ///
    /// # Errors
    /// When it is powered off.
    pub fn cgroup_root(&self) -> Result<PathBuf> {
        Ok(self.running()?.cgroup_root)
    }

    /// The address of its system bus, for a D-Bus client in the test process.
    ///
    /// # Errors
    /// When it is powered off.
    pub fn dbus_address(&self) -> Result<String> {
        Ok(format!("unix:path=/proc/{}/root/run/dbus/system_bus_socket", self.init_pid()?))
    }

    /// From now on whoever writes to the file system of [`Builder::disk`] sleeps in the kernel, where not even SIGKILL reaches it.
    ///
    /// # Errors
    /// There is no such file system, or it cannot be frozen.
    pub fn freeze(&self) -> Result<()> {
        self.disk.as_ref().context("this host has no disk of its own")?.freeze()
    }

    /// They go on, or die.
    ///
    /// # Errors
    /// As [`Host::freeze`].
    pub fn thaw(&self) -> Result<()> {
        self.disk.as_ref().context("this host has no disk of its own")?.thaw()
    }

    /// The network namespace of the host, to be entered by a thread that speaks to its ports.
    ///
    /// # Errors
    /// When it is powered off.
    pub fn network(&self) -> Result<fs::File> {
        let path = format!("/proc/{}/ns/net", self.init_pid()?);
        fs::File::open(&path).with_context(|| format!("cannot open {path}"))
    }

    /// Shuts the host down in order, and returns when it is off. Its files stay for [`Host::boot_again`].
    ///
    /// # Errors
    /// When it is still up after two minutes.
    pub fn power_off(&self) -> Result<()> {
        self.run(&["systemctl", "--no-block", "poweroff"])?;
        wait_for(&format!("{} to power off", self.id()), POWEROFF_DEADLINE, || match self.lock().as_mut() {
            Some(running) => Ok(running.nspawn.try_wait()?.map(drop)),
            None => Ok(Some(())),
        })?;
        // nspawn is gone; what it left in the cgroup is none of a powered-off host.
        self.power_off_hard()
    }

    /// Kills every process of the host at once, as a power failure would. Files that were written stay.
    ///
    /// # Errors
    /// When a process does not die.
    pub fn power_off_hard(&self) -> Result<()> {
        if let Some(disk) = &self.disk {
            // What sleeps there would outlive everything.
            let _ = disk.thaw();
        }
        let mut running = self.lock();
        if let Some(running) = running.as_mut() {
            // nspawn goes by itself when its init is dead, and has then reaped it.
            cgroup::kill_tree(&running.cgroup_root)?;
            let _ = wait_for("nspawn to end", Duration::from_secs(5), || Ok(running.nspawn.try_wait()?));
        }
        self.machine.cgroup.kill()?;
        if let Some(mut running) = running.take() {
            running.nspawn.wait()?;
        }
        self.machine.cgroup.wait_until_empty()?;
        self.machine.cgroup.remove()
    }

    /// Boots a host that is off, from the files that it had.
    ///
    /// # Errors
    /// As [`Host::boot`]; and when it is not off.
    pub fn boot_again(&self) -> Result<()> {
        {
            let mut running = self.lock();
            ensure!(running.is_none(), "{} is not powered off", self.id());
            *running = Some(self.machine.launch()?);
        }
        wait_for(&format!("{} to be up", self.id()), BOOT_DEADLINE, || {
            let state = self.command(["systemctl", "is-system-running"]).timeout(Duration::from_secs(10)).run()?;
            match state.stdout.trim() {
                "running" | "degraded" => Ok(Some(())),
                // A long oneshot that was started meanwhile keeps systemd "starting" for as long as it runs.
                "starting" if self.sh(BOOTED)?.success() => Ok(Some(())),
                other => bail!("{other} {}", state.stderr.trim()),
            }
        })
        .with_context(|| format!("console of {}:\n{}", self.id(), self.machine.console_end()))
    }

    /// [`Host::power_off`], then [`Host::boot_again`].
    ///
    /// # Errors
    /// As these.
    pub fn reboot(&self) -> Result<()> {
        self.power_off()?;
        self.boot_again()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> Result<RunningView> {
        match self.lock().as_ref() {
            Some(running) => Ok(RunningView { init_pid: running.init_pid, cgroup_root: running.cgroup_root.clone() }),
            None => bail!("{} is powered off", self.id()),
        }
    }

    /// Everything that a failed test wants to know, as text: the journal, and the console if there is none.
    fn story(&self) -> String {
        let journal = self
            .command(["journalctl", "--no-pager", "--output=short-precise", "--boot=all"])
            .timeout(Duration::from_secs(20))
            .run()
            .or_else(|_| self.journal_from_disk());
        match journal {
            Ok(output) if output.success() => output.stdout,
            Ok(output) => format!("{}\n{}", output.stderr, self.machine.console_end()),
            Err(error) => format!("no journal: {error:#}\n{}", self.machine.console_end()),
        }
    }

    fn journal_from_disk(&self) -> Result<Output> {
        let directory = self.machine.directory.join("upper/var/log/journal");
        let output = std::process::Command::new("journalctl")
            .args(["--no-pager", "--output=short-precise", "--directory"])
            .arg(directory)
            .output()?;
        Ok(Output::from(output))
    }
}

/// What most methods need of a running host, without holding its lock.
struct RunningView {
    init_pid: i32,
    cgroup_root: PathBuf,
}

impl Drop for Host {
    fn drop(&mut self) {
        if journals::wanted() {
            journals::keep(self.name(), &self.story());
        }
        // Nobody can be told but the person who looks; the next run tries again.
        if let Err(error) = self.power_off_hard().and_then(|()| self.traces.remove()) {
            eprintln!("lab: {} could not be removed: {error:#}", self.id());
        }
    }
}

/// A valid machine name: at most 64 letters, digits and dashes.
fn unique_id(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(40).collect();
    format!("{name}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A path in the host without its leading slash: relative to the host's root.
fn relative(path: &str) -> Result<&Path> {
    let path = path.strip_prefix('/').with_context(|| format!("{path} is not an absolute path"))?;
    Ok(Path::new(path))
}
