//! The points, and what happens at them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use lab::agent::{Agent, package};
use lab::{Host, wait_for};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rusqlite::{Connection, OpenFlags};

const DIRECTORY: &str = "/var/lib/restart-agent";
const UNIT: &str = "restart-agent.service";
const MINUTE: Duration = Duration::from_secs(60);
/// A rollout that has written nothing for so long has come to its end, or waits for something long.
const QUIET: Duration = Duration::from_secs(8);

/// How it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    Killed,
    Restarted,
    Reinstalled,
    PoweredOff,
}

pub const WAYS: [Way; 4] = [Way::Killed, Way::Restarted, Way::Reinstalled, Way::PoweredOff];

/// The journal of the agent on a host, read while the agent writes it.
pub struct Journal<'h> {
    host: &'h Host,
    from: i64,
}

impl<'h> Journal<'h> {
    /// What comes after the newest entry that there is.
    pub fn from_now(host: &'h Host) -> Result<Journal<'h>> {
        Ok(Journal { host, from: within(host, || newest(&open()?))? })
    }

    /// How many entries there are now.
    pub fn count(&self) -> Result<usize> {
        Ok(usize::try_from(within(self.host, || newest(&open()?))? - self.from)?)
    }

    /// The name of the n-th entry.
    pub fn entry(&self, n: usize) -> Result<String> {
        let seq = self.from + i64::try_from(n)?;
        let text: String =
            within(self.host, || Ok(open()?.query_row("SELECT entry FROM journal WHERE seq = ?1", [seq], |row| row.get(0))?))?;
        Ok(name(&text))
    }

    /// The scripts whose owed run was settled after the newest start of the agent.
    pub fn settled_since_the_start(&self) -> Result<BTreeSet<String>> {
        let from = self.from;
        let all: Vec<String> = within(self.host, || {
            let connection = open()?;
            let mut entries = connection.prepare("SELECT entry FROM journal WHERE seq > ?1 ORDER BY seq")?;
            let entries = entries.query_map([from], |row| row.get(0))?.collect::<Result<_, _>>()?;
            Ok(entries)
        })?;
        let parsed = all.iter().map(|text| serde_json::from_str(text)).collect::<Result<Vec<serde_json::Value>, _>>()?;
        let start = parsed.iter().rposition(|entry| name_of(entry) == "started").unwrap_or_default();
        let units = parsed[start..].iter().filter_map(|entry| Some(entry.get("rerun-settled")?.get("unit")?.as_str()?.to_owned()));
        Ok(units.collect())
    }

    /// Returns as soon as the n-th entry is on the disk; false if none was written for a while.
    pub fn wait(&self, n: usize) -> Result<bool> {
        let wanted = self.from + i64::try_from(n)?;
        within(self.host, || {
            let connection = open()?;
            let changes = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
            changes.add_watch(DIRECTORY, AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE)?;
            let mut last = Instant::now();
            while last.elapsed() < QUIET {
                if newest(&connection)? >= wanted {
                    return Ok(true);
                }
                let mut waiting = [PollFd::new(changes.as_fd(), PollFlags::POLLIN)];
                if poll(&mut waiting, PollTimeout::try_from(QUIET)?)? > 0 {
                    while changes.read_events().is_ok() {}
                    last = Instant::now();
                }
            }
            Ok(false)
        })
    }
}

/// Runs it where the host's files are: SQLite follows symlinks itself, and /proc/PID/root says that it is one to /.
fn within<T: Send>(host: &Host, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let namespace = File::open(format!("/proc/{}/ns/mnt", host.init_pid()?))?;
    std::thread::scope(|scope| {
        let thread = scope.spawn(move || {
            unshare(CloneFlags::CLONE_FS)?;
            setns(namespace, CloneFlags::CLONE_NEWNS)?;
            work()
        });
        thread.join().map_err(|_| anyhow!("the thread in the host panicked"))?
    })
}

fn open() -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(format!("{DIRECTORY}/restart-agent.db"), flags)?;
    connection.busy_timeout(Duration::from_secs(2))?;
    Ok(connection)
}

fn newest(connection: &Connection) -> Result<i64> {
    Ok(connection.prepare_cached("SELECT coalesce(max(seq), 0) FROM journal")?.query_row([], |row| row.get(0))?)
}

/// An entry's name; of an intent or an outcome with what it is about.
fn name(entry: &str) -> String {
    let parsed: serde_json::Value = serde_json::from_str(entry).unwrap_or_default();
    let outer = name_of(&parsed);
    match parsed[&outer].get("effect").or_else(|| parsed[&outer].get("outcome")) {
        Some(inner) => format!("{outer} {}", name_of(inner)),
        None => outer,
    }
}

/// Of an enum as serde writes it.
fn name_of(value: &serde_json::Value) -> String {
    let key = value.as_object().and_then(|map| map.keys().next().cloned());
    key.or_else(|| value.as_str().map(str::to_owned)).unwrap_or_default()
}

/// Strikes at the n-th entry that the journal gets from now on, with what `act` does, such as a deploy; false if there are not so many. The agent runs
/// again when this returns.
pub fn strike(host: &Host, agent: &Agent<'_>, way: Way, n: usize, points: &mut Points, act: impl FnOnce() -> Result<()>) -> Result<bool> {
    let old = host.property(UNIT, "MainPID")?;
    // As this machine sees it: there is no time to ask the host when it is wanted.
    let processes = std::fs::read_to_string(host.cgroup_root()?.join("system.slice").join(UNIT).join("cgroup.procs"))?;
    let pid = Pid::from_raw(processes.trim().parse().with_context(|| format!("the agent's process: {processes:?}"))?);
    let journal = Journal::from_now(host)?;
    act()?;
    if !journal.wait(n)? {
        return Ok(false);
    }
    match way {
        Way::Killed => {
            kill(pid, Signal::SIGKILL)?;
            wait_for("another agent", MINUTE, || Ok((host.property(UNIT, "MainPID")? != old).then_some(())))?;
        }
        Way::Restarted => drop(host.ok(&["systemctl", "restart", UNIT])?),
        Way::Reinstalled => host.install_deb(&package()?)?,
        Way::PoweredOff => {
            host.power_off_hard()?;
            host.boot_again()?;
        }
    }
    agent.wait_active()?;
    ensure!(way == Way::PoweredOff || host.property(UNIT, "MainPID")? != old, "the agent was not struck");
    points.add(way, journal.entry(n)?);
    Ok(true)
}

/// The points that were struck.
#[derive(Debug, Default)]
pub struct Points {
    struck: BTreeMap<Way, usize>,
    entries: BTreeMap<String, usize>,
}

impl Points {
    pub fn add(&mut self, way: Way, entry: String) {
        *self.struck.entry(way).or_default() += 1;
        *self.entries.entry(entry).or_default() += 1;
    }

    pub fn count(&self) -> usize {
        self.struck.values().sum()
    }

    pub fn tell(&self, what: &str) {
        println!("{what}: {} points: {:?}; after {:?}", self.count(), self.struck, self.entries);
    }
}
