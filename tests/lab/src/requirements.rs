//! What a machine must have to boot hosts, and the sentence that says what is missing.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::{cache, cgroup};

/// The commands that the lab executes on the machine, each with the Debian package that has it.
pub const COMMANDS: [(&str, &str); 9] = [
    ("systemd-nspawn", "systemd-container"),
    ("mmdebstrap", "mmdebstrap"),
    ("apt-get", "apt"),
    ("apt-config", "apt"),
    ("nsenter", "util-linux"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
    ("mount", "mount"),
    ("mkfs.ext4", "e2fsprogs"),
];

/// Says whether this machine can boot hosts; looked at once per process.
///
/// # Errors
/// One sentence that names what is missing and, for a command, the Debian package that has it.
pub fn check() -> Result<(), String> {
    static ANSWER: OnceLock<Result<(), String>> = OnceLock::new();
    ANSWER.get_or_init(look).clone()
}

fn look() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("booting hosts needs root".into());
    }
    let missing: Vec<String> = COMMANDS
        .iter()
        .filter(|(command, _)| !in_path(command))
        .map(|(command, package)| format!("{command} (package {package})"))
        .collect();
    if !missing.is_empty() {
        return Err(format!("commands are missing: {}", missing.join(", ")));
    }
    let filesystems = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    if !filesystems.lines().any(|line| line.ends_with("\toverlay")) && !succeeds("modprobe", &["overlay"]) {
        return Err("the kernel has no overlayfs".into());
    }
    if !succeeds("unshare", &["--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "true"]) {
        return Err("namespaces cannot be made here (unshare fails)".into());
    }
    cgroup::Cgroup::probe().map_err(|error| format!("no usable cgroup v2: {error:#}"))?;
    cache::root().map_err(|error| format!("no usable cache: {error:#}"))?;
    Ok(())
}

fn in_path(command: &str) -> bool {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':').chain(["/usr/sbin", "/sbin"]).any(|directory| Path::new(directory).join(command).is_file())
}

fn succeeds(command: &str, arguments: &[&str]) -> bool {
    Command::new(command)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
