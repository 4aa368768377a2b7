//! From an image to a running init: overlay, cgroup, nspawn.

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};

use crate::cgroup::{self, Cgroup};
use crate::wait_for;

/// A boot takes a second or two on an idle machine; with its cores taken by a build, much longer.
pub(crate) const BOOT_DEADLINE: Duration = Duration::from_secs(120);

/// Moves itself into the host's cgroups before there is a second process, mounts the overlay in its own mount
/// namespace, and becomes nspawn; what nspawn keeps in /run, and forgets when killed, goes with the namespace too.
const LAUNCHER: &str = r#"
set -e
for cgroup in $LAB_CGROUPS; do echo 0 > "$cgroup/cgroup.procs"; done
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"
mkdir -p /run/systemd/nspawn
mount -t tmpfs tmpfs /run/systemd/nspawn
directory=$2
shift 2
exec systemd-nspawn --directory="$directory/root" "$@"
"#;

/// What stays the same over the reboots of a host.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) id: String,
    pub(crate) hostname: String,
    pub(crate) image: PathBuf,
    pub(crate) directory: PathBuf,
    pub(crate) cgroup: Cgroup,
    /// (path on the machine, path in the host)
    pub(crate) binds: Vec<(PathBuf, String)>,
}

/// A host whose init runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) nspawn: Child,
    pub(crate) init_pid: i32,
    /// The host's cgroup root as the machine sees it.
    pub(crate) cgroup_root: PathBuf,
}

impl Machine {
    /// Makes the empty overlay.
    pub(crate) fn prepare(&self) -> Result<()> {
        for name in ["upper", "work", "root"] {
            fs::create_dir(self.directory.join(name))?;
        }
        // With an id there is no "first boot" for systemd, which would enable every unit by preset.
        let etc = self.directory.join("upper/etc");
        fs::create_dir(&etc)?;
        let uuid = fs::read_to_string("/proc/sys/kernel/random/uuid")?;
        fs::write(etc.join("machine-id"), uuid.replace('-', ""))?;
        Ok(())
    }

    /// Where nspawn's and the host's console output goes.
    pub(crate) fn console(&self) -> PathBuf {
        self.directory.join("console.log")
    }

    /// Starts nspawn and waits until the host's init is systemd.
    pub(crate) fn launch(&self) -> Result<Running> {
        self.cgroup.create()?;
        let console = File::options().create(true).append(true).open(self.console())?;
        let cgroups: Vec<_> = self.cgroup.directories().map(|path| path.display().to_string()).collect();
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--propagation=private", "sh", "-c", LAUNCHER, "lab-launcher"])
            .arg(&self.image)
            .arg(&self.directory)
            .args(["--quiet", "--boot", "--register=no", "--keep-unit", "--private-network"])
            .args(["--link-journal=no", "--resolv-conf=off", "--timezone=off", "--console=read-only"])
            .arg(format!("--machine={}", self.id))
            .arg(format!("--hostname={}", self.hostname));
        for (outside, inside) in &self.binds {
            command.arg(format!("--bind={}:{inside}", outside.display()));
        }
        let mut nspawn = command
            .env("LAB_CGROUPS", cgroups.join(" "))
            .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
            .env_remove("NOTIFY_SOCKET")
            // A ctrl-c is for the test, which then cleans up or leaves it to the next run.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(console.try_clone()?)
            .stderr(console)
            .spawn()
            .context("cannot run unshare")?;
        let init_pid = wait_for(&format!("init of {}", self.id), BOOT_DEADLINE, || {
            if let Some(status) = nspawn.try_wait()? {
                return Ok(Some(Err(anyhow!("nspawn ended with {status}: {}", self.console_end()))));
            }
            Ok(find_init(self.cgroup.unified()).map(Ok))
        })
        .flatten();
        match init_pid.and_then(|init_pid| Ok((init_pid, cgroup_root(init_pid, &self.cgroup)?))) {
            Ok((init_pid, cgroup_root)) => Ok(Running { nspawn, init_pid, cgroup_root }),
            Err(error) => {
                self.cgroup.kill()?;
                nspawn.wait()?;
                Err(error)
            }
        }
    }

    /// The last lines of the console, for error messages.
    pub(crate) fn console_end(&self) -> String {
        let text = fs::read(self.console()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }
}

/// The process of the host that is pid 1 in its own pid namespace and has become systemd.
fn find_init(cgroup: &Path) -> Option<i32> {
    cgroup::processes(cgroup).into_iter().find(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let is_first =
            status.lines().find_map(|line| line.strip_prefix("NSpid:")).is_some_and(|ids| ids.split_whitespace().nth(1) == Some("1"));
        is_first && status.starts_with("Name:\tsystemd\n")
    })
}

/// Where the host's cgroup namespace has its root: init sits in `init.scope` below it, once it has settled.
fn cgroup_root(init_pid: i32, own: &Cgroup) -> Result<PathBuf> {
    wait_for("init to settle in init.scope", BOOT_DEADLINE, || {
        let text = fs::read_to_string(format!("/proc/{init_pid}/cgroup"))?;
        let path = text.lines().find_map(|line| line.strip_prefix("0::")).context("no cgroup v2")?;
        let id = own.unified().file_name().context("cgroup without a name")?.to_string_lossy();
        let Some(below) = path.split_once(&format!("/{id}/")).map(|(_, below)| below) else {
            return Ok(None);
        };
        Ok(below.strip_suffix("/init.scope").map(|root| own.unified().join(root)))
    })
}
