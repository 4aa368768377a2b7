//! All processes of the host that carry deployed code: one pass over /proc, which other tasks may interrupt.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::unistd::{Uid, User};

use super::{MOST_PROCESSES, Processes, Stat, argv0, is_gone, read_small, unified};
use crate::core::effect::WorkerRef;
use crate::core::seen::{ProcessSeen, StraySeen};
use crate::core::stale::carries;
use crate::core::unit_of;

/// More than people run at once on a host. Beyond it nothing is known.
const MOST_STRAYS: usize = 4096;
/// So many processes are read before others have their turn: a millisecond or two.
const AT_ONCE: usize = 128;
/// `PF_KTHREAD` of a process's flags: it is the kernel's own.
const KERNEL_THREAD: u32 = 0x0020_0000;

impl Processes {
    /// The living processes with one of these names, wherever they run.
    ///
    /// # Errors
    /// /proc cannot be read, or there are more than 4,096. Of a process that ends meanwhile nothing is told.
    pub async fn find(&self, code: &[String]) -> io::Result<Vec<StraySeen>> {
        let mut found: Vec<(StraySeen, Vec<u8>)> = Vec::new();
        let mut users = BTreeMap::new();
        for (n, pid) in self.all()?.into_iter().enumerate() {
            if n % AT_ONCE == AT_ONCE - 1 {
                tokio::task::yield_now().await;
            }
            if let Some(stray) = self.carrier(pid, code, &mut users)? {
                found.push(stray);
            }
            if found.len() > MOST_STRAYS {
                return Err(io::Error::other(format!("more than {MOST_STRAYS} processes have the names of `code`")));
            }
        }
        let lines: BTreeMap<u32, Vec<u8>> = found.iter().map(|(stray, line)| (stray.process.pid, line.clone())).collect();
        let compared = found.into_iter().map(|(mut stray, line)| {
            stray.process.same_command_as_parent = !line.is_empty() && lines.get(&stray.process.ppid) == Some(&line);
            stray
        });
        Ok(compared.collect())
    }

    fn all(&self) -> io::Result<Vec<u32>> {
        let mut pids = Vec::new();
        for entry in fs::read_dir(&self.proc)? {
            pids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
            if pids.len() > MOST_PROCESSES {
                return Err(io::Error::other("there are more processes than can be looked at"));
            }
        }
        pids.sort_unstable();
        Ok(pids)
    }

    /// The process with its command line, if it has one of these names.
    fn carrier(&self, pid: u32, code: &[String], users: &mut BTreeMap<u32, String>) -> io::Result<Option<(StraySeen, Vec<u8>)>> {
        let Some(stat) = self.stat(pid)?.filter(|stat| !stat.is_dead && stat.flags & KERNEL_THREAD == 0) else { return Ok(None) };
        let line = self.command_line(pid)?;
        let tty = terminal(stat.tty);
        let process = self.seen(pid, stat, argv0(&line));
        if !carries(code, &process) {
            return Ok(None);
        }
        let (cgroup, status) = match (self.read(pid, "cgroup")?, self.read(pid, "status")?) {
            (Some(cgroup), Some(status)) => (cgroup, status),
            _ => return Ok(None),
        };
        let Some(cgroup) = unified(&cgroup) else { return Ok(None) };
        let Some((uid, contained)) = owner(&status) else { return Ok(None) };
        let user = users.entry(uid).or_insert_with(|| user_of(uid)).clone();
        let unit = unit_of(cgroup);
        let transient = !unit.is_empty() && self.transient.join(unit).exists();
        Ok(Some((StraySeen { process, user, cgroup: cgroup.to_owned(), tty, transient, contained, left_behind: false }, line)))
    }

    fn read(&self, pid: u32, file: &str) -> io::Result<Option<Vec<u8>>> {
        match read_small(&self.proc.join(pid.to_string()).join(file)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if is_gone(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn seen(&self, pid: u32, stat: Stat, argv0: Option<String>) -> ProcessSeen {
        let start = self.since_boot(stat.start_ticks);
        let (running, cpu_ticks) = (stat.is_running, stat.cpu_ticks);
        ProcessSeen { pid, ppid: stat.ppid, start, comm: stat.comm, argv0, same_command_as_parent: false, pool: None, running, cpu_ticks }
    }

    /// Writes a line to the terminal of a process, as wall(1) does, but for what the terminal does not take at once.
    ///
    /// # Errors
    /// It is no longer its terminal, or cannot be opened or written to.
    pub fn tell(&self, process: &WorkerRef, tty: &str, text: &str) -> io::Result<()> {
        let stat = self.stat(process.pid)?.filter(|stat| !stat.is_dead && self.since_boot(stat.start_ticks) == process.start);
        let is_its = stat.is_some_and(|stat| terminal(stat.tty).as_deref() == Some(tty));
        if !is_its {
            return Err(io::Error::other("the process has ended, or left its terminal"));
        }
        let options = libc_flags();
        let mut terminal = OpenOptions::new().write(true).custom_flags(options).open(Path::new("/dev").join(tty))?;
        let line = format!("\r\n{text}\r\n");
        let written = terminal.write(line.as_bytes())?;
        if written < line.len() { Err(io::Error::other("the terminal took a part only")) } else { Ok(()) }
    }
}

/// Neither waits for the terminal nor makes it the agent's own.
fn libc_flags() -> i32 {
    (nix::fcntl::OFlag::O_NONBLOCK | nix::fcntl::OFlag::O_NOCTTY).bits()
}

/// The terminal of field 7 of /proc/PID/stat (minor in bits 0 to 7 and 20 to 31, major in 8 to 15), below /dev: pseudo terminals and consoles.
fn terminal(device: u32) -> Option<String> {
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xf_ff00));
    match (major, minor) {
        (136..=143, minor) => Some(format!("pts/{}", (major - 136) * 256 + minor)),
        (4, 1..=63) => Some(format!("tty{minor}")),
        (4, 64..) => Some(format!("ttyS{}", minor - 64)),
        _ => None,
    }
}

/// The real user, and whether the process has a number in another PID namespace, too, of /proc/PID/status.
fn owner(status: &[u8]) -> Option<(u32, bool)> {
    // The name in its first line may be anything, so nothing is taken from there.
    let text = String::from_utf8_lossy(status);
    let field = |name: &str| text.lines().skip(1).find_map(|line| line.strip_prefix(name));
    let uid = field("Uid:")?.split_ascii_whitespace().next()?.parse().ok()?;
    Some((uid, field("NSpid:").is_some_and(|pids| pids.split_ascii_whitespace().count() > 1)))
}

fn user_of(uid: u32) -> String {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_have_the_names_that_dev_has() {
        assert_eq!(terminal(0), None);
        assert_eq!(terminal((136 << 8) | 3), Some("pts/3".into()));
        assert_eq!(terminal((137 << 8) | 1), Some("pts/257".into()));
        assert_eq!(terminal((136 << 8) | (1 << 20) | 2), Some("pts/258".into()));
        assert_eq!(terminal((4 << 8) | 1), Some("tty1".into()));
        assert_eq!(terminal((4 << 8) | 64), Some("ttyS0".into()));
        assert_eq!(terminal(5 << 8), None);
    }

    #[test]
    fn an_owner_is_read_whatever_the_name_is() {
        let status = b"Name:\tUid: 7\nUmask:\t0022\nUid:\t33\t0\t33\t33\nNSpid:\t812\n";
        assert_eq!(owner(status), Some((33, false)));
        assert_eq!(owner(b"Name:\tx\nUid:\t0\t0\t0\t0\nNSpid:\t812\t5\n"), Some((0, true)));
        assert_eq!(owner(b"Name:\tUid:\t1\n"), None);
    }

    #[tokio::test]
    async fn finds_this_process_by_its_own_name_and_no_other() {
        let processes = Processes::default();
        let own = processes.stat(std::process::id()).unwrap().unwrap();
        let found = processes.find(std::slice::from_ref(&own.comm)).await.unwrap();
        let seen = found.iter().find(|stray| stray.process.pid == std::process::id()).unwrap();
        assert_eq!(seen.process.comm, own.comm);
        assert!(!seen.user.is_empty() && !seen.contained);
        assert!(processes.find(&["no-such-program".to_owned()]).await.unwrap().is_empty());
    }
}
