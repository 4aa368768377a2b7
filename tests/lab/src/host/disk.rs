//! A file system of a host's own that can be frozen: who writes to it then is in an uninterruptible sleep, as on a disk that does not answer.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

const SIZE: &str = "16M";

/// An ext4 in a file of the host's directory, mounted beside it.
#[derive(Debug)]
pub(crate) struct Disk {
    mounted: PathBuf,
}

impl Disk {
    pub(crate) fn make(directory: &Path) -> Result<Disk> {
        let (file, mounted) = (directory.join("disk.img"), directory.join("disk"));
        std::fs::create_dir(&mounted)?;
        run(Command::new("truncate").arg(format!("--size={SIZE}")).arg(&file))?;
        run(Command::new("mkfs.ext4").arg("-q").arg(&file))?;
        run(Command::new("mount").args(["-o", "loop"]).args([&file, &mounted]))?;
        Ok(Disk { mounted })
    }

    pub(crate) fn mounted_at(&self) -> &Path {
        &self.mounted
    }

    pub(crate) fn freeze(&self) -> Result<()> {
        run(Command::new("fsfreeze").arg("--freeze").arg(&self.mounted))
    }

    pub(crate) fn thaw(&self) -> Result<()> {
        run(Command::new("fsfreeze").arg("--unfreeze").arg(&self.mounted))
    }
}

/// What is left of one in the directory of a host thaws, so that what sleeps there can end, and is mounted no more.
pub(crate) fn release(directory: &Path) -> Result<()> {
    let mounted = directory.join("disk");
    let is_mounted =
        std::fs::read_to_string("/proc/self/mounts")?.lines().any(|line| line.split(' ').nth(1).map(Path::new) == Some(&mounted));
    if is_mounted {
        // Fails where nothing is frozen.
        let _ = run(Command::new("fsfreeze").arg("--unfreeze").arg(&mounted));
        run(Command::new("umount").arg(&mounted))?;
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
