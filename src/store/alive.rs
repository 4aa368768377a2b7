//! Whether the daemon lives: it holds a write lock on /run/restart-agent/agent.lock for as long as it does.
//!
//! The kernel gives the lock back however the daemon ends, and no reused pid is mistaken for it. Looking takes no lock, so
//! anybody may look at any time and hold up nobody.

use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// Held while the daemon lives.
#[derive(Debug)]
pub struct AliveLock {
    _file: fs::File,
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

/// Takes the lock in `run_dir`, which is made (0755) if it is missing.
///
/// # Errors
/// [`LockFault::Taken`] if another daemon holds it.
pub fn hold_alive(run_dir: &Path) -> Result<AliveLock, LockFault> {
    let path = run_dir.join("agent.lock");
    let fault = |error: io::Error| LockFault::Io { path: path.display().to_string(), error };
    fs::create_dir_all(run_dir).map_err(fault)?;
    // Whoever may read the file may hold a read lock on it. Only a daemon can hold a write lock, so a file with any other
    // lock is replaced by one that nobody has open.
    for _ in 0..3 {
        let file = fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o644).open(&path).map_err(fault)?;
        file.set_permissions(fs::Permissions::from_mode(0o644)).map_err(fault)?;
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))) {
            Ok(_) => return Ok(AliveLock { _file: file }),
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
    let file = match fs::File::open(run_dir.join("agent.lock")) {
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
