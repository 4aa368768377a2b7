//! A host's files, read and written from outside.
//!
//! Every path is resolved by the kernel inside the host's root, so an absolute symlink such as /var/run
//! leads to the host's /run and never to the machine's. Mounts such as the host's /run are seen.

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_NOW};

use super::{Host, relative};

impl Host {
    /// Writes a file with mode 0644 in place (an existing one is truncated and keeps its mode); makes its
    /// directory if need be.
    ///
    /// # Errors
    /// When the path is not absolute, the host is off, or the file cannot be written.
    pub fn write(&self, path: &str, contents: impl AsRef<[u8]>) -> Result<()> {
        self.write_file(path, contents.as_ref()).map(drop)
    }

    /// [`Host::write`], and sets the mode, such as 0o755.
    ///
    /// # Errors
    /// As [`Host::write`].
    pub fn write_mode(&self, path: &str, contents: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        let file = self.write_file(path, contents.as_ref())?;
        file.set_permissions(Permissions::from_mode(mode)).with_context(|| format!("cannot set the mode of {path} in {}", self.id()))
    }

    /// Writes a file under another name beside it, then renames it over `path`, as a careful deploy tool does.
    ///
    /// # Errors
    /// As [`Host::write`].
    pub fn replace(&self, path: &str, contents: impl AsRef<[u8]>) -> Result<()> {
        let unfinished = format!("{path}.unfinished");
        self.write(&unfinished, contents)?;
        let (directory, name) = self.parent(path)?;
        let (from, _) = self.parent(&unfinished)?;
        rustix::fs::renameat(from, format!("{name}.unfinished"), directory, name.as_str())
            .with_context(|| format!("cannot replace {path} in {}", self.id()))
    }

    /// A file's contents; what is not UTF-8 is replaced.
    ///
    /// # Errors
    /// When the path is not absolute, the host is off, or the file cannot be read.
    pub fn read(&self, path: &str) -> Result<String> {
        let mut bytes = Vec::new();
        let mut file = self.open(path, OFlags::RDONLY)?;
        file.read_to_end(&mut bytes).with_context(|| format!("cannot read {path} in {}", self.id()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Whether something is there, after following symlinks; false also when the host is off.
    pub fn exists(&self, path: &str) -> bool {
        self.open(path, OFlags::PATH).is_ok()
    }

    /// What touch(1) does: makes an empty file, or sets both times of an existing one to now.
    ///
    /// # Errors
    /// As [`Host::write`].
    pub fn touch(&self, path: &str) -> Result<()> {
        let file = self.create(path, OFlags::empty())?;
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        rustix::fs::futimens(&file, &Timestamps { last_access: now, last_modification: now })
            .with_context(|| format!("cannot touch {path} in {}", self.id()))
    }

    /// Removes a file, a symlink or a whole directory; what is not there is fine.
    ///
    /// # Errors
    /// When the path is not absolute, the host is off, or the file cannot be removed.
    pub fn remove(&self, path: &str) -> Result<()> {
        let Ok((directory, name)) = self.parent(path) else { return Ok(()) };
        match rustix::fs::unlinkat(directory, name.as_str(), AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(rustix::io::Errno::ISDIR) => self.ok(&["rm", "-r", "--", path]).map(drop),
            Err(error) => Err(error).with_context(|| format!("cannot remove {path} in {}", self.id())),
        }
    }

    /// Copies a file of the machine into the host, with its mode.
    ///
    /// # Errors
    /// When either cannot be opened.
    pub fn copy_in(&self, outside: &Path, inside: &str) -> Result<()> {
        let contents = fs::read(outside).with_context(|| format!("cannot read {}", outside.display()))?;
        let mode = fs::metadata(outside)?.permissions().mode();
        self.write_mode(inside, contents, mode & 0o7777)
    }

    fn write_file(&self, path: &str, contents: &[u8]) -> Result<File> {
        let mut file = self.create(path, OFlags::TRUNC)?;
        file.write_all(contents).with_context(|| format!("cannot write {path} in {}", self.id()))?;
        Ok(file)
    }

    fn create(&self, path: &str, flags: OFlags) -> Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | flags;
        match self.open(path, flags) {
            Err(error) if error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == ErrorKind::NotFound) => {
                if let Some((directory, _)) = path.rsplit_once('/') {
                    self.ok(&["mkdir", "-p", "--", directory])?;
                }
                self.open(path, flags)
            }
            other => other,
        }
    }

    fn open(&self, path: &str, flags: OFlags) -> Result<File> {
        let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(0o644) } else { Mode::empty() };
        rustix::fs::openat2(self.root()?, relative(path)?, flags | OFlags::CLOEXEC, mode, ResolveFlags::IN_ROOT)
            .map(File::from)
            .map_err(std::io::Error::from)
            .with_context(|| format!("cannot open {path} in {}", self.id()))
    }

    /// The directory of a path, opened, and the last part of the path.
    fn parent(&self, path: &str) -> Result<(File, String)> {
        let (directory, name) = path.rsplit_once('/').with_context(|| format!("{path} is not absolute"))?;
        let directory = self.open(&format!("{directory}/"), OFlags::PATH | OFlags::DIRECTORY)?;
        Ok((directory, name.to_owned()))
    }

    fn root(&self) -> Result<OwnedFd> {
        let root = format!("/proc/{}/root", self.init_pid()?);
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&root, flags, Mode::empty()).with_context(|| format!("cannot open {root}"))
    }
}
