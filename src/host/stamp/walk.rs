//! From a path to the file, name by name as the kernel does it, so that each directory on the way can be watched before a
//! name is looked up in it, and so that it is known who laid the symbolic links.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Component, Path};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};

/// As in the kernel.
const LINKS_MAX: u32 = 40;
/// More names than this are no path that somebody wrote.
const NAMES_MAX: u32 = 256;

/// Where a path leads.
pub(super) struct End {
    /// Opened with O_PATH: stands for the file, cannot read it.
    pub fd: OwnedFd,
    pub seen: FileStat,
    /// Who owns the symbolic links that were followed, root apart.
    guides: BTreeSet<u32>,
    /// Behind the first such link there is a directory that not everybody may pass.
    closed: bool,
}

impl End {
    /// Whether somebody's symbolic link leads to a file that is neither theirs nor everybody's to read.
    pub(super) fn lured(&self) -> bool {
        let foreign = self.guides.iter().any(|guide| *guide != self.seen.st_uid);
        foreign && (self.closed || self.seen.st_mode & 0o004 == 0)
    }
}

/// Follows an absolute path. `passing` is told each directory and the name that is about to be looked up in it.
///
/// # Errors
/// ENOENT, ENOTDIR, ELOOP, EACCES and so on; after `passing` was told where it failed.
pub(super) fn walk(path: &Path, mut passing: impl FnMut(&OwnedFd, &OsStr)) -> Result<End, Errno> {
    let root = || open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty());
    if !path.is_absolute() {
        return Err(Errno::EINVAL);
    }
    let mut at = root()?;
    let mut seen = fstat(&at)?;
    let mut left = names(path);
    let (mut links, mut passed) = (0, 0);
    let mut guides = BTreeSet::new();
    let mut closed = false;
    while let Some(name) = left.pop() {
        passed += 1;
        if passed > NAMES_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        passing(&at, &name);
        let fd = openat(&at, name.as_os_str(), OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?;
        let here = fstat(&fd)?;
        if here.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFLNK.bits() {
            links += 1;
            if links > LINKS_MAX {
                return Err(Errno::ELOOP);
            }
            if here.st_uid != 0 {
                guides.insert(here.st_uid);
            }
            let target = readlinkat(&fd, "")?;
            let target = Path::new(&target);
            if target.is_absolute() {
                at = root()?;
                seen = fstat(&at)?;
            }
            left.extend(names(target));
            continue;
        }
        let directory = here.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits();
        if !directory && !left.is_empty() {
            return Err(Errno::ENOTDIR);
        }
        closed |= directory && !guides.is_empty() && here.st_mode & 0o001 == 0;
        (at, seen) = (fd, here);
    }
    Ok(End { fd: at, seen, guides, closed })
}

/// Last name first.
fn names(path: &Path) -> Vec<OsString> {
    let name = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some(OsString::from("..")),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    };
    path.components().rev().filter_map(name).collect()
}
