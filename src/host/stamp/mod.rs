//! The stamp: read whole or not at all, and watched wherever a change of it could come from.

mod walk;
mod watch;

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use sha2::{Digest, Sha256};

use crate::core::deploy::{StampFault, StampIdentity, StampSeen};
use crate::core::time::Wall;

use walk::{End, walk};

pub use watch::Watch;

/// The contract's limit for the content, in bytes.
const CONTENT_MAX: usize = 64 << 10;
/// How often a file that changes while it is read is read again.
const TRIES: u32 = 3;

/// Reads the stamp at an absolute path, following symbolic links.
///
/// A pipe, device or socket is never opened, so this does not hang and has no side effect; on a network filesystem whose server is
/// gone it does hang, as every read does. Content, times and identity belong together: a file that changes meanwhile is read again.
/// A symbolic link of somebody other than root leads only to files of theirs or ones that everybody may read: what root alone may
/// read must not end as an id in a world-readable status (trap T40).
///
/// # Errors
/// Why there is no stamp to use; never with a part of its content.
pub fn read(path: &Path) -> Result<StampSeen, StampFault> {
    for _ in 0..TRIES {
        if let Some(seen) = read_once(path)? {
            return Ok(seen);
        }
    }
    Err(unreadable(path, "it changes while it is read: write a temporary file beside it and rename that"))
}

/// `None`: it changed meanwhile.
fn read_once(path: &Path) -> Result<Option<StampSeen>, StampFault> {
    let end = find(path)?;
    let name = path.display().to_string();
    if let Some(what) = other_than_file(&end.seen) {
        return Err(StampFault::NotAFile { path: name, what: what.to_owned() });
    }
    if end.lured() {
        return Err(unreadable(path, "a symbolic link of another user leads to a file that not everybody may read"));
    }
    // The descriptor stands for the file that was found, whatever its name means by now, and cannot be read through itself.
    let through = format!("/proc/self/fd/{}", end.fd.as_raw_fd());
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let mut file = File::from(open(through.as_str(), flags, Mode::empty()).map_err(|errno| unreadable(path, errno.desc()))?);

    let before = seen(path, &file)?;
    if before.st_size > CONTENT_MAX as i64 {
        return Err(StampFault::TooLong { path: name });
    }
    let mut content = Vec::new();
    file.by_ref().take(CONTENT_MAX as u64 + 1).read_to_end(&mut content).map_err(|error| unreadable(path, &error.to_string()))?;
    let after = seen(path, &file)?;
    let named_now = find(path)?.seen;
    if version(&before) != version(&after) || version(&after) != version(&named_now) {
        return Ok(None);
    }
    if content.len() > CONTENT_MAX {
        return Err(StampFault::TooLong { path: name });
    }
    let digest = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
    let content = String::from_utf8(content).map_err(|_| StampFault::NotText { path: name })?;
    Ok(Some(StampSeen {
        identity: StampIdentity { mtime: nanoseconds(after.st_mtime, after.st_mtime_nsec), digest },
        ctime: Wall(nanoseconds(after.st_ctime, after.st_ctime_nsec) / 1000),
        content,
    }))
}

fn find(path: &Path) -> Result<End, StampFault> {
    walk(path, |_, _| {}).map_err(|errno| match errno {
        Errno::ENOENT => StampFault::Missing { path: path.display().to_string() },
        Errno::ELOOP => unreadable(path, "its symbolic links lead in a circle"),
        other => unreadable(path, other.desc()),
    })
}

fn seen(path: &Path, file: impl AsFd) -> Result<FileStat, StampFault> {
    fstat(file).map_err(|errno| unreadable(path, errno.desc()))
}

fn unreadable(path: &Path, error: &str) -> StampFault {
    StampFault::Unreadable { path: path.display().to_string(), error: error.to_owned() }
}

fn other_than_file(seen: &FileStat) -> Option<&'static str> {
    match SFlag::from_bits_truncate(seen.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFREG => None,
        SFlag::S_IFDIR => Some("a directory"),
        SFlag::S_IFIFO => Some("a named pipe"),
        SFlag::S_IFSOCK => Some("a socket"),
        _ => Some("a device"),
    }
}

/// What differs as soon as the file was written, touched or replaced.
fn version(seen: &FileStat) -> impl PartialEq + use<> {
    (seen.st_dev, seen.st_ino, seen.st_size, nanoseconds(seen.st_mtime, seen.st_mtime_nsec), nanoseconds(seen.st_ctime, seen.st_ctime_nsec))
}

/// Until the year 2262; a time beyond is as good as that year.
fn nanoseconds(seconds: i64, nanoseconds: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(nanoseconds)
}

#[cfg(test)]
mod tests;
