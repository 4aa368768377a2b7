//! Where scripts, systemd and the agent meet: `stop/UNIT`, by which a script is asked to stop, `hold/UNIT.lock`, on which it holds flock(2) while it
//! must not be interrupted, and `quiet/UNIT`, which keeps it from being started. The directories are made by tmpfiles.d.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::{major, minor};
use nix::unistd::User;
use rustix::fs::{XattrFlags, fsetxattr};

use crate::core::cooperation::{cut_name, lock_name, quiet_name, unit_of_lock};

/// Of /proc/locks; more locks than a host has.
const LOCKS_MAX: u64 = 16 << 20;

/// The two directories.
#[derive(Debug, Clone)]
pub struct Cooperation {
    run: PathBuf,
    locks: PathBuf,
}

impl Cooperation {
    /// `run` is the agent's run directory, `proc` where procfs is mounted.
    #[must_use]
    pub fn at(run: &Path, proc: &Path) -> Cooperation {
        Cooperation { run: run.to_owned(), locks: proc.join("locks") }
    }

    /// Makes the file of this name, such as `stop/UNIT`. One that is there is no error.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn set(&self, name: &str) -> io::Result<()> {
        let path = self.run.join(name);
        path.parent().map_or(Ok(()), fs::create_dir_all)?;
        File::create(path).map(drop)
    }

    /// Removes it. One that is not there is no error.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn clear(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.run.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    /// The units that are kept quiet, or marked as being stopped.
    ///
    /// # Errors
    /// If a directory cannot be read; that there is none is no error.
    pub fn kept_quiet(&self) -> io::Result<BTreeSet<String>> {
        let mut units = BTreeSet::new();
        for directory in [quiet_name(""), cut_name("")] {
            match fs::read_dir(self.run.join(directory)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
                Ok(entries) => {
                    for entry in entries {
                        units.extend(entry?.file_name().into_string().ok());
                    }
                }
            }
        }
        Ok(units)
    }

    /// Makes a unit's lock. Root owns it; the unit's `User=` may open it by its access list, for which no capability is needed, unlike for giving
    /// a file away. Nobody else can open it.
    ///
    /// # Errors
    /// If it cannot be made, or there is no such user.
    pub fn make_lock(&self, unit: &str, user: &str) -> io::Result<()> {
        fs::create_dir_all(self.run.join("hold"))?;
        let path = self.run.join(lock_name(unit));
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let uid = match user {
            "" | "root" => return Ok(()),
            name => match name.parse() {
                Ok(uid) => uid,
                Err(_) => {
                    let found = User::from_name(name)?;
                    found.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("there is no user {name}")))?.uid.as_raw()
                }
            },
        };
        Ok(fsetxattr(file.as_fd(), "system.posix_acl_access", &access_list(uid), XattrFlags::empty())?)
    }

    /// Removes the locks of these units, which have become none of ours: there is nothing to hold any more.
    ///
    /// # Errors
    /// If they cannot be listed or removed.
    pub fn remove_locks(&self, of: impl Fn(&str) -> bool) -> io::Result<()> {
        let entries = match fs::read_dir(self.run.join("hold")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            if entry.file_name().to_str().and_then(unit_of_lock).is_some_and(&of) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Those of these units whose lock is held. It is read of the kernel and not tried: a lock that the agent held for a moment would be one
    /// that a script does not get.
    ///
    /// # Errors
    /// If the kernel's list cannot be read.
    pub fn held<'u>(&self, units: impl IntoIterator<Item = &'u str>) -> io::Result<BTreeSet<&'u str>> {
        let there: Vec<(&str, String)> = units
            .into_iter()
            .filter_map(|unit| {
                let file = fs::symlink_metadata(self.run.join(lock_name(unit))).ok().filter(fs::Metadata::is_file)?;
                Some((unit, format!("{:02x}:{:02x}:{}", major(file.dev()), minor(file.dev()), file.ino())))
            })
            .collect();
        if there.is_empty() {
            return Ok(BTreeSet::new());
        }
        let mut text = String::new();
        io::Read::read_to_string(&mut io::Read::take(File::open(&self.locks)?, LOCKS_MAX), &mut text)?;
        let locked = locked(&text);
        Ok(there.into_iter().filter(|(_, file)| locked.contains(file.as_str())).map(|(unit, _)| unit).collect())
    }
}

/// The files on which flock(2) is held, as `MAJOR:MINOR:INODE`, from lines such as `1: FLOCK  ADVISORY  WRITE 814 00:19:1234 0 EOF`. A line with `->`
/// is somebody who waits for a lock.
fn locked(text: &str) -> BTreeSet<&str> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace().skip(1);
            (words.next() == Some("FLOCK")).then(|| words.nth(3)).flatten()
        })
        .collect()
}

/// `u::rw-,u:UID:rw-,g::---,m::rw-,o::---` as the kernel takes it (linux/posix_acl_xattr.h): a version, then tag, permissions and id of each entry.
fn access_list(uid: u32) -> Vec<u8> {
    const NOBODY: u32 = u32::MAX;
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in [(0x01_u16, 6_u16, NOBODY), (0x02, 6, uid), (0x04, 0, NOBODY), (0x10, 6, NOBODY), (0x20, 0, NOBODY)] {
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    list
}

#[cfg(test)]
mod tests {
    use nix::fcntl::{Flock, FlockArg};

    use super::*;

    #[test]
    fn a_lock_is_held_while_somebody_holds_it_and_no_longer() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let here = Cooperation::at(dir.path(), Path::new("/proc"));
        here.make_lock("a.service", "root").unwrap();
        here.make_lock("b@x.service", "nobody").unwrap();
        let all = ["a.service", "b@x.service", "c.service"];
        assert_eq!(here.held(all).unwrap(), BTreeSet::new());
        let file = File::open(dir.path().join(lock_name("b@x.service"))).unwrap();
        let lock = Flock::lock(file, FlockArg::LockSharedNonblock).unwrap();
        assert_eq!(here.held(all).unwrap(), BTreeSet::from(["b@x.service"]));
        drop(lock);
        assert_eq!(here.held(all).unwrap(), BTreeSet::new());
    }

    #[test]
    fn a_flag_can_be_set_and_cleared_twice() {
        let dir = tempfile::tempdir().unwrap();
        let here = Cooperation::at(dir.path(), Path::new("/proc"));
        assert!(here.kept_quiet().unwrap().is_empty());
        for _ in 0..2 {
            here.set(&quiet_name("a@b.service")).unwrap();
        }
        assert_eq!(here.kept_quiet().unwrap(), BTreeSet::from(["a@b.service".to_owned()]));
        for _ in 0..2 {
            here.clear(&quiet_name("a@b.service")).unwrap();
        }
        assert!(here.kept_quiet().unwrap().is_empty());
    }

    #[test]
    fn who_waits_for_a_lock_does_not_hold_it() {
        let text = "1: POSIX  ADVISORY  WRITE 1 00:19:1 0 EOF\n2: FLOCK  ADVISORY  READ 814 00:19:1234 0 EOF\n2: -> FLOCK  ADVISORY  WRITE 815 00:19:99 0 EOF\n\nx\n";
        assert_eq!(locked(text), BTreeSet::from(["00:19:1234"]));
    }
}
