//! Processes: those of a cgroup, their start times and parents, and signals to exactly the one that was meant (law 6).

mod memory;
mod scan;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use nix::unistd::{SysconfVar, sysconf};
use rustix::process::{Pid, PidfdFlags, pidfd_open, pidfd_send_signal};

pub use memory::available;
pub use rustix::process::Signal;

use crate::core::effect::WorkerRef;
use crate::core::seen::ProcessSeen;
use crate::core::time::Mono;

/// Of a command line that is compared; one longer than this is equal if it begins equal.
const COMMAND_LINE: u64 = 64 * 1024;
/// Of argv[0], in bytes: no file's name is longer.
const LONGEST_NAME: usize = 255;
/// More processes than a host has.
const MOST_PROCESSES: usize = 1 << 20;
/// Cgroups in cgroups.
const DEEPEST: usize = 64;
/// How often a cgroup is read again while killing what is in it: forks can outrun one reading.
const ROUNDS: usize = 16;

/// Where cgroups and processes are read.
#[derive(Debug, Clone)]
pub struct Processes {
    cgroups: PathBuf,
    proc: PathBuf,
    /// Where systemd keeps the files of units that were made at run time.
    transient: PathBuf,
    ticks_per_second: u64,
}

impl Default for Processes {
    fn default() -> Self {
        Processes::at("/sys/fs/cgroup".into(), "/proc".into())
    }
}

impl Processes {
    /// With these mount points of the unified cgroup hierarchy and of procfs.
    #[must_use]
    pub fn at(cgroups: PathBuf, proc: PathBuf) -> Processes {
        let ticks_per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0);
        let transient = "/run/systemd/transient".into();
        Processes { cgroups, proc, transient, ticks_per_second: ticks_per_second.unwrap_or(100) }
    }

    /// The living processes of a cgroup, given as systemd gives it (`/system.slice/x.service`), and of the cgroups in it. A cgroup that does
    /// not exist has none, and neither has an empty name. `names`: with argv[0] of each.
    ///
    /// # Errors
    /// If they cannot be read. Then it is not known whether there are any (law 5).
    pub fn of(&self, cgroup: &str, names: bool) -> io::Result<Vec<ProcessSeen>> {
        let mut seen: Vec<ProcessSeen> = Vec::new();
        for pid in self.pids(cgroup)? {
            if let Some(stat) = self.stat(pid)?
                && !stat.is_dead
            {
                seen.push(self.seen(pid, stat, None));
            }
        }
        self.read_command_lines(&mut seen, names)?;
        Ok(seen)
    }

    /// A parent outside of the cgroup is systemd, or whoever moved the process there: it carries no code of this unit.
    fn read_command_lines(&self, seen: &mut [ProcessSeen], names: bool) -> io::Result<()> {
        let members: Vec<u32> = seen.iter().map(|process| process.pid).collect();
        let mut lines: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
        for process in seen {
            let is_child = members.binary_search(&process.ppid).is_ok();
            for pid in [Some(process.pid).filter(|_| names || is_child), Some(process.ppid).filter(|_| is_child)].into_iter().flatten() {
                if let Entry::Vacant(missing) = lines.entry(pid) {
                    missing.insert(self.command_line(pid)?);
                }
            }
            let own = lines.get(&process.pid);
            if names {
                process.argv0 = own.and_then(|line| argv0(line));
            }
            if is_child {
                process.same_command_as_parent = own == lines.get(&process.ppid) && own.is_some_and(|line| !line.is_empty());
                process.pool = own.and_then(|line| fpm_pool(line));
            }
        }
        Ok(())
    }

    /// Empty for a process that has ended.
    fn command_line(&self, pid: u32) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        match File::open(self.proc.join(pid.to_string()).join("cmdline")) {
            // What cannot be read of a process that is there is one that is about to end.
            Ok(file) => drop(file.take(COMMAND_LINE).read_to_end(&mut line)),
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(line)
    }

    /// Sorted, each once.
    fn pids(&self, cgroup: &str) -> io::Result<Vec<u32>> {
        let mut pids = Vec::new();
        if let Some(directory) = self.directory(cgroup) {
            collect_pids(&directory, DEEPEST, &mut pids)?;
        }
        pids.sort_unstable();
        pids.dedup();
        if pids.first() == Some(&0) {
            return Err(io::Error::other(format!("processes of {cgroup} are not visible from here: is this another PID namespace?")));
        }
        Ok(pids)
    }

    /// `None` for the empty name, for the root, which is no unit's, and for what would lead out of the hierarchy.
    fn directory(&self, cgroup: &str) -> Option<PathBuf> {
        let relative = cgroup.strip_prefix('/')?;
        let is_plain = !relative.is_empty() && relative.split('/').all(|part| !matches!(part, "" | "." | ".."));
        is_plain.then(|| self.cgroups.join(relative))
    }

    /// `None` if there is no such process (any more).
    fn stat(&self, pid: u32) -> io::Result<Option<Stat>> {
        let text = match read_small(&self.proc.join(pid.to_string()).join("stat")) {
            Ok(text) => text,
            Err(error) if is_gone(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        Stat::parse(&text).map(Some).ok_or_else(|| io::Error::new(ErrorKind::InvalidData, format!("/proc/{pid}/stat is not understood")))
    }

    fn since_boot(&self, ticks: u64) -> Mono {
        Mono(u64::try_from(u128::from(ticks) * 1_000_000 / u128::from(self.ticks_per_second)).unwrap_or(u64::MAX))
    }

    /// Sends signals, one after the other, to exactly this process; false if it has gone. Needs CAP_KILL for the processes of other users
    /// (facts F7.2).
    ///
    /// # Errors
    /// Above all EPERM.
    pub fn signal(&self, worker: &WorkerRef, signals: &[Signal]) -> io::Result<bool> {
        let Some(pidfd) = open(worker.pid)? else { return Ok(false) };
        // Only now, with the process held: its number cannot be given to another while both are as they should be (traps T11).
        let is_same = self.stat(worker.pid)?.is_some_and(|stat| self.since_boot(stat.start_ticks) == worker.start && !stat.is_dead)
            && self.is_in(worker.pid, &worker.cgroup)?;
        if !is_same {
            return Ok(false);
        }
        for signal in signals {
            if !send(&pidfd, *signal)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// SIGKILL to everything in a cgroup, again until nothing new turns up; how many were hit.
    ///
    /// # Errors
    /// If it cannot be read, or above all EPERM.
    pub fn kill_all(&self, cgroup: &str) -> io::Result<usize> {
        let mut hit = std::collections::BTreeSet::new();
        for _ in 0..ROUNDS {
            let mut is_news = false;
            for pid in self.pids(cgroup)? {
                if let Some(pidfd) = open(pid)?
                    && self.is_in(pid, cgroup)?
                    && send(&pidfd, Signal::KILL)?
                {
                    is_news |= hit.insert(pid);
                }
            }
            if !is_news {
                break;
            }
        }
        Ok(hit.len())
    }

    /// Whether a process is in this cgroup or in one within it.
    fn is_in(&self, pid: u32, cgroup: &str) -> io::Result<bool> {
        match read_small(&self.proc.join(pid.to_string()).join("cgroup")) {
            Ok(text) => Ok(!cgroup.is_empty() && unified(&text).is_some_and(|path| is_within(path, cgroup))),
            Err(error) if is_gone(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// What is needed of /proc/PID/stat.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stat {
    comm: String,
    /// It has ended: a zombie, or on its way.
    is_dead: bool,
    /// On a processor, or in a sleep that nothing interrupts.
    is_running: bool,
    ppid: u32,
    /// Fields 7 and 9: its terminal, as a device's number, and `PF_` flags.
    tty: u32,
    flags: u32,
    /// Fields 14 and 15: user and system time, in ticks.
    cpu_ticks: u64,
    /// Field 22, in ticks since boot.
    start_ticks: u64,
}

impl Stat {
    /// The name is whatever the process likes, parentheses, spaces and newlines included: it ends at the last `)`.
    fn parse(text: &[u8]) -> Option<Stat> {
        let opened = text.iter().position(|byte| *byte == b'(')?;
        let closed = text.iter().rposition(|byte| *byte == b')')?;
        let comm = String::from_utf8_lossy(text.get(opened + 1..closed)?).into_owned();
        let mut fields = std::str::from_utf8(text.get(closed + 1..)?).ok()?.split_ascii_whitespace();
        let state = fields.next()?;
        let ppid = fields.next()?.parse().ok()?;
        // State is field 3, the parent field 4, the terminal 7, the flags 9, the times are fields 14 and 15, the start is field 22.
        let tty = fields.nth(2)?.parse::<i32>().ok()?.cast_unsigned();
        let flags = fields.nth(1)?.parse().ok()?;
        let (user, system): (u64, u64) = (fields.nth(4)?.parse().ok()?, fields.next()?.parse().ok()?);
        let start_ticks = fields.nth(6)?.parse().ok()?;
        Some(Stat {
            comm,
            is_dead: matches!(state, "Z" | "X" | "x"),
            is_running: matches!(state, "R" | "D"),
            ppid,
            tty,
            flags,
            cpu_ticks: user.saturating_add(system),
            start_ticks,
        })
    }
}

/// The last part of the first word of a command line, as far as it is of use as a name.
fn argv0(line: &[u8]) -> Option<String> {
    let word = line.split(|byte| *byte == 0).next()?;
    let name = word.rsplit(|byte| *byte == b'/').next()?;
    let name = String::from_utf8_lossy(name.get(..LONGEST_NAME).unwrap_or(name)).into_owned();
    Some(name).filter(|name| !name.is_empty())
}

/// The pool of a php-fpm worker, of its command line.
fn fpm_pool(line: &[u8]) -> Option<String> {
    let text = line.split(|byte| *byte == 0).next()?;
    let pool = std::str::from_utf8(text).ok()?.strip_prefix("php-fpm: pool ")?.trim_end();
    Some(pool.to_owned()).filter(|pool| !pool.is_empty())
}

/// The path in the unified hierarchy, of the text of /proc/PID/cgroup. A cgroup that was removed has ` (deleted)` behind it.
fn unified(text: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(text).ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::"))
}

fn is_within(path: &str, cgroup: &str) -> bool {
    path.strip_prefix(cgroup).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn collect_pids(directory: &Path, depth: usize, pids: &mut Vec<u32>) -> io::Result<()> {
    let text = match fs::read_to_string(directory.join("cgroup.procs")) {
        Ok(text) => text,
        // A threaded cgroup: its processes are those of the cgroup above.
        Err(error) if error.kind() == ErrorKind::Unsupported => return Ok(()),
        Err(error) if is_gone(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    pids.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()));
    if pids.len() > MOST_PROCESSES || depth == 0 {
        return Err(io::Error::other(format!("{} holds more than can be looked at", directory.display())));
    }
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if is_gone(&error) => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            collect_pids(&entry.path(), depth - 1, pids)?;
        }
    }
    Ok(())
}

fn read_small(path: &Path) -> io::Result<Vec<u8>> {
    let mut text = Vec::with_capacity(512);
    File::open(path)?.take(COMMAND_LINE).read_to_end(&mut text)?;
    Ok(text)
}

/// ENOENT before, ENODEV and ESRCH while it is being read.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || matches!(error.raw_os_error(), Some(nix::libc::ESRCH | nix::libc::ENODEV))
}

fn open(pid: u32) -> io::Result<Option<OwnedFd>> {
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return Ok(None) };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Ok(Some(pidfd)),
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// False if it has ended.
fn send(pidfd: &OwnedFd, signal: Signal) -> io::Result<bool> {
    match pidfd_send_signal(pidfd, signal) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::SRCH) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: &str = " 1 812 812 0 -1 4194560 100 0 0 0 1 2 3 4 20 0 1 0 123456 1000 50 18446744073709551615";

    fn stat(comm: &str, state: &str) -> Option<Stat> {
        Stat::parse(format!("812 ({comm}) {state}{REST}").as_bytes())
    }

    #[test]
    fn a_name_may_be_anything() {
        for comm in ["php-fpm8.2", "a b", ") R 1 2 3", "(", "", "x\n) S 9"] {
            let expected = Stat {
                comm: comm.into(),
                is_dead: false,
                is_running: false,
                ppid: 1,
                tty: 0,
                flags: 4_194_560,
                cpu_ticks: 3,
                start_ticks: 123_456,
            };
            assert_eq!(stat(comm, "S"), Some(expected), "{comm:?}");
        }
        assert!(stat("x", "Z").unwrap().is_dead);
        assert!(stat("x", "R").unwrap().is_running && stat("x", "D").unwrap().is_running);
    }

    #[test]
    fn a_command_line_names_its_program() {
        let named = |line: &[u8]| argv0(line);
        assert_eq!(named(b"/usr/bin/php\0/srv/refreshLinks.php\0"), Some("php".into()));
        assert_eq!(named(b"php8.2\0"), Some("php8.2".into()));
        assert_eq!(named(b"-bash\0"), Some("-bash".into()));
        assert_eq!(named(b"\xff\0"), Some("\u{fffd}".into()));
        for nothing in [&b""[..], b"\0php\0", b"/usr/bin/\0"] {
            assert_eq!(named(nothing), None);
        }
        assert_eq!(named(&[b'x'; 5000]).map(|name| name.len()), Some(LONGEST_NAME));
    }

    #[test]
    fn a_worker_says_which_pool_it_is_of() {
        assert_eq!(fpm_pool(b"php-fpm: pool www\0\0\0"), Some("www".into()));
        assert_eq!(fpm_pool(b"php-fpm: pool a-b.c   \0"), Some("a-b.c".into()));
        for other in
            [&b"php-fpm: master process (/etc/php-fpm.conf)\0"[..], b"/usr/bin/php\0", b"", b"php-fpm: pool \0", b"php-fpm: pool \xff"]
        {
            assert_eq!(fpm_pool(other), None);
        }
    }

    #[test]
    fn what_is_no_stat_is_not_understood() {
        for text in ["", "812", "812 (x)", "812 (x) S 1", "812 (x S 1", ")(", "812 (x) S -1 2"] {
            assert_eq!(Stat::parse(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn a_cgroup_is_within_itself_and_its_parents_only() {
        assert_eq!(unified(b"9:name=systemd:/a\n0::/system.slice/x.service\n"), Some("/system.slice/x.service"));
        assert!(is_within("/system.slice/x.service", "/system.slice/x.service"));
        assert!(is_within("/system.slice/x.service/sub", "/system.slice/x.service"));
        assert!(!is_within("/system.slice/x.service2", "/system.slice/x.service"));
    }

    #[test]
    fn no_cgroup_name_leads_elsewhere() {
        let processes = Processes::at("/cg".into(), "/proc".into());
        assert_eq!(processes.directory("/a/b"), Some("/cg/a/b".into()));
        for bad in ["", "/", "a", "/../x", "/a/../../b", "//a", "/a/"] {
            assert_eq!(processes.directory(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn a_worker_with_another_start_or_cgroup_is_not_signalled_t11() {
        let processes = Processes::default();
        let pid = std::process::id();
        let own = processes.stat(pid).unwrap().unwrap();
        let start = processes.since_boot(own.start_ticks);
        let elsewhere = WorkerRef { pid, start, cgroup: "/system.slice/not-this.service".into() };
        assert!(!processes.signal(&elsewhere, &[Signal::KILL]).unwrap());
        let another = WorkerRef { pid, start: Mono(start.0 + 10_000), cgroup: "/".into() };
        assert!(!processes.signal(&another, &[Signal::KILL]).unwrap());
    }
}
