//! Whether the daemon lives: it holds a write lock on /run/restart-agent/agent.lock for as long as it does.
//!
//! The kernel gives the lock back however the daemon ends, and no reused pid is mistaken for it. Looking takes no lock, so
//! anybody may look at any time and hold up nobody.
//!
//! /run may be cleaned, so that file is made again when it has gone, and what keeps a second daemon out is a lock on the state directory itself: it
//! lasts as long as the journal in it, and takes no room and no right to write.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// Held while the daemon lives.
#[derive(Debug)]
pub struct AliveLock {
    run_dir: PathBuf,
    file: fs::File,
    _state_dir: Option<fs::File>,
    /// It has gone, and could not be made again.
    lost: bool,
}

/// Why the daemon cannot have the lock.
#[derive(Debug, thiserror::Error)]
pub enum LockFault {
    #[error("restart-agent runs already: systemctl status restart-agent")]
    Taken,
    #[error("cannot lock {path}: {error}")]
    Io { path: String, error: io::Error },
}

/// What [`probe_alive`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Alive {
    Running,
    Dead,
}

impl AliveLock {
    /// Where everybody looks for it, and for status.json.
    #[must_use]
    pub fn run_dir(&self) -> &Path {
        &self.run_dir
    }

    /// Makes the file, and its directory, again if they have gone. Says whether they were still there.
    pub fn keep(&mut self) -> bool {
        let there = fs::symlink_metadata(lock_file(&self.run_dir)).ok().zip(self.file.metadata().ok());
        if there.is_some_and(|(there, held)| (there.dev(), there.ino()) == (held.dev(), held.ino())) {
            return true;
        }
        match lock_in(&self.run_dir) {
            Ok(file) => {
                tracing::warn!(run_dir = %self.run_dir.display(), "somebody has removed agent.lock; it is there again");
                (self.file, self.lost) = (file, false);
            }
            Err(fault) => {
                if !std::mem::replace(&mut self.lost, true) {
                    tracing::error!(%fault, "somebody has removed agent.lock, so status says that the agent does not run");
                }
            }
        }
        false
    }
}

/// Takes the lock in `run_dir`, which is made (0755) if it is missing, and that on `state_dir`.
///
/// # Errors
/// [`LockFault::Taken`] if another daemon holds one of them.
pub fn hold_alive(run_dir: &Path, state_dir: &Path) -> Result<AliveLock, LockFault> {
    let state_dir = lock_directory(state_dir)?;
    Ok(AliveLock { run_dir: run_dir.to_owned(), file: lock_in(run_dir)?, _state_dir: state_dir, lost: false })
}

/// None where there is no such directory, or nothing can be locked: whether the daemon can work then is for the journal to say.
fn lock_directory(dir: &Path) -> Result<Option<fs::File>, LockFault> {
    let locked = fs::File::open(dir).map_err(fs::TryLockError::Error).and_then(|dir| dir.try_lock().map(|()| dir));
    match locked {
        Ok(dir) => Ok(Some(dir)),
        Err(fs::TryLockError::WouldBlock) => Err(LockFault::Taken),
        Err(fs::TryLockError::Error(error)) => {
            tracing::warn!(path = %dir.display(), %error, "cannot lock the state directory");
            Ok(None)
        }
    }
}

fn lock_file(run_dir: &Path) -> PathBuf {
    run_dir.join("agent.lock")
}

fn lock_in(run_dir: &Path) -> Result<fs::File, LockFault> {
    let path = lock_file(run_dir);
    let fault = |error: io::Error| LockFault::Io { path: path.display().to_string(), error };
    fs::create_dir_all(run_dir).map_err(fault)?;
    // Whoever may read the file may hold a read lock on it. Only a daemon can hold a write lock, so a file with any other
    // lock is replaced by one that nobody has open.
    for _ in 0..3 {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o644).open(&path).map_err(fault)?;
        file.set_permissions(fs::Permissions::from_mode(0o644)).map_err(fault)?;
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))) {
            Ok(_) => return Ok(file),
            Err(Errno::EAGAIN | Errno::EACCES) => match lock_on(&file).map_err(fault)? {
                libc::F_WRLCK => return Err(LockFault::Taken),
                libc::F_UNLCK => {}
                _ => fs::remove_file(&path).map_err(fault)?,
            },
            Err(error) => return Err(fault(error.into())),
        }
    }
    Err(fault(io::Error::other("somebody keeps locking it: rm it and start the agent again")))
}

/// Whether a daemon holds the lock in `run_dir`. Needs only the right to read the file.
///
/// # Errors
/// If the lock can be neither seen nor known to be missing.
pub fn probe_alive(run_dir: &Path) -> io::Result<Alive> {
    let file = match fs::File::open(lock_file(run_dir)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Alive::Dead),
        Err(error) => return Err(error),
    };
    Ok(if lock_on(&file)? == libc::F_WRLCK { Alive::Running } else { Alive::Dead })
}

/// The type of the lock that stands in the way of a write lock, or, for a file that is open for reading only, of a read lock.
fn lock_on(file: &fs::File) -> io::Result<libc::c_int> {
    let mut wanted = whole_file(libc::F_WRLCK);
    fcntl(file, FcntlArg::F_OFD_GETLK(&mut wanted))?;
    Ok(libc::c_int::from(wanted.l_type))
}

fn whole_file(kind: libc::c_int) -> libc::flock {
    let short = |value: libc::c_int| libc::c_short::try_from(value).unwrap_or_default();
    libc::flock { l_type: short(kind), l_whence: short(libc::SEEK_SET), l_start: 0, l_len: 0, l_pid: 0 }
}
