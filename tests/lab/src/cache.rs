//! Where images, overlays and locks live between test runs.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

/// The cache directory, made if need be.
///
/// # Errors
/// When it cannot be made, or is on a tmpfs (overlays there would eat the machine's memory).
pub(crate) fn root() -> Result<PathBuf> {
    let root = std::env::var_os("RESTART_AGENT_LAB_CACHE").map_or_else(|| PathBuf::from("/var/cache/restart-agent-lab"), PathBuf::from);
    ensure!(root.is_absolute(), "RESTART_AGENT_LAB_CACHE must be an absolute path");
    let shown = root.to_str().unwrap_or(":");
    ensure!(!shown.contains([':', ',', '\\']), "{shown} cannot be named in the options of an overlay");
    fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    let kind = rustix::fs::statfs(&root)?.f_type;
    ensure!(kind != TMPFS_MAGIC, "{} is on a tmpfs; set RESTART_AGENT_LAB_CACHE to a directory on disk", root.display());
    Ok(root)
}

/// A directory of the cache, made if need be.
pub(crate) fn directory(name: &str) -> Result<PathBuf> {
    let path = root()?.join(name);
    fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}
