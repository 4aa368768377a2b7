//! What the host reports of itself. Facts only: nothing in here is a verdict.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::cooperation::RUN_AGAIN;
use super::time::{Mono, Wall};

/// One unit of systemd with its processes, read in one look.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct UnitSeen {
    pub unit: String,
    pub load: Load,
    pub active: Active,
    /// `SubState`: an open set (facts F3.4), for display only.
    pub sub: String,
    /// `Result`: `success`, `signal`, `timeout`, `exit-code`, `start-limit-hit`, …
    pub result: String,
    /// A job is queued or running for it. A running oneshot has its start job all along (facts, section 1).
    pub job: bool,
    /// That job stops it, or is the first half of a restart. A start that does not succeed keeps its own job until what it has started has ended.
    pub stop_job: bool,
    pub main_pid: u32,
    /// `ExecMainStartTimestampMonotonic` on the boot clock; [`Mono::BOOT`] if the unit has never run.
    pub main_start: Mono,
    /// How the last main process ended, if it has.
    pub exit: Option<ExitSeen>,
    /// Its last start came to nothing, by `ConditionResult=no` or `AssertResult=no`: its run is the one before. Of a unit that does not run.
    #[serde(default)]
    pub skipped: bool,
    /// `StateChangeTimestampMonotonic` on the boot clock: of one that is deactivating, when that began. [`Mono::BOOT`] if it was not asked for.
    pub state_since: Mono,
    /// `InactiveEnterTimestampMonotonic` on the boot clock, of a unit that is inactive or failed; else [`Mono::BOOT`].
    pub idle_since: Mono,
    /// The same of a unit in whatever state: when its last run ended. [`Mono::BOOT`] if none has, as far as systemd knows.
    #[serde(default)]
    pub last_end: Mono,
    /// `InvocationID` in hex; empty if the unit has never run.
    pub invocation: String,
    /// `ControlGroup`; empty for a dead unit. [`Effect::Kill`](super::effect::Effect::Kill) wants the one from before the stop (facts F3.2).
    pub cgroup: String,
    pub processes: Vec<ProcessSeen>,
    /// `Type=oneshot`.
    pub oneshot: bool,
    /// How many `ExecStart=` there are (facts F1.5); more than one also while it is lent what hides the others.
    pub exec_starts: u32,
    pub refuse_manual_start: bool,
    pub refuse_manual_stop: bool,
    pub transient: bool,
    /// By its `KillMode=` (`process`, `none`) or `SendSIGKILL=no` a stop may leave processes of it behind.
    #[serde(default)]
    pub leaves_processes: bool,
    /// Somebody holds flock(2) on its `hold/UNIT.lock`.
    pub holds_lock: bool,
    pub on_success: bool,
    pub on_failure: bool,
    /// `StartLimitBurst=`; 0 = no limit.
    pub start_limit_burst: u32,
    /// `StartLimitIntervalSec=` in milliseconds.
    pub start_limit_interval_ms: u64,
    /// `StatusText`.
    pub status_text: String,
    /// What runs and goes down with a stop of it, at first or second hand (`RequiredBy`, `BoundBy`, `ConsistsOf`, `PropagatesStopTo`), for units
    /// that were looked at with [`super::effect::Looked::WithTimers`].
    #[serde(default)]
    pub dependents: Vec<Dependent>,
    /// The timers that trigger it (`TriggeredBy=`), for units that were looked at with [`super::effect::Looked::WithTimers`].
    pub timers: Vec<TimerSeen>,
}

impl UnitSeen {
    /// When the first of its timers that run elapses next.
    #[must_use]
    pub fn next_run(&self) -> Option<Wall> {
        self.timers.iter().filter(|timer| timer.active).filter_map(|timer| timer.next).min()
    }

    /// Whether its last run said by its exit status that it is to be run again.
    #[must_use]
    pub fn is_to_run_again(&self) -> bool {
        self.exit.is_some_and(|exit| exit.how == Exit::Exited(RUN_AGAIN))
    }

    /// Whether a service that was asked to end has done so. One that nothing refers to is unloaded when it has ended well.
    #[must_use]
    pub fn has_ended_well(&self) -> bool {
        self.exit.map_or(self.active == Active::Inactive, |exit| matches!(exit.how, Exit::Exited(0 | RUN_AGAIN)))
    }

    /// Whether systemd would start it anew, if that is asked of it. What is transient is gone with its end.
    #[must_use]
    pub fn can_run_again(&self) -> bool {
        !self.refuse_manual_start && !self.transient && self.load != Load::NotFound
    }

    /// Whether a signal has ended it, which is a success to systemd with what a script is lent. One that has gone was unloaded, as only what ends well is.
    #[must_use]
    pub fn was_signalled(&self) -> bool {
        self.exit.is_some_and(|exit| matches!(exit.how, Exit::Killed(_) | Exit::Exited(129 | 130 | 143)))
    }

    /// Whether somebody has asked for its end: systemd has a job for that, or its main process is there still, and it is no start that has failed.
    #[must_use]
    pub fn is_being_stopped(&self) -> bool {
        let main_lives = || self.processes.iter().any(|process| process.pid == self.main_pid);
        self.active == Active::Deactivating && (self.stop_job || (!self.job && main_lives()))
    }

    /// Whether systemd has come to its stop: before that nobody has sent it a signal.
    #[must_use]
    pub fn has_been_stopped(&self) -> bool {
        matches!(self.active, Active::Deactivating | Active::Inactive | Active::Failed)
    }

    /// Whether one of its timers is about to start it for a slot that has come.
    #[must_use]
    pub fn slot_is_due(&self, now: Wall) -> bool {
        self.next_run().is_some_and(|next| next <= now)
    }

    /// When one of its timers last started it, or tried to.
    #[must_use]
    pub fn last_trigger(&self) -> Mono {
        self.timers.iter().map(|timer| timer.last_trigger).max().unwrap_or(Mono::BOOT)
    }

    /// What is seen now takes the place of what was seen before; of a dead unit the cgroup is known from before only (facts F3.2).
    pub fn update(&mut self, seen: &UnitSeen) {
        let cgroup = std::mem::take(&mut self.cgroup);
        self.clone_from(seen);
        if self.cgroup.is_empty() {
            self.cgroup = cgroup;
        }
    }
}

/// `LoadState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    Loaded,
    Masked,
    #[default]
    NotFound,
    /// `bad-setting`, `error`.
    Bad,
}

/// `ActiveState`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Active {
    Active,
    Activating,
    Deactivating,
    Reloading,
    #[default]
    Inactive,
    Failed,
}

impl Active {
    /// Whether processes are to be expected: anything but inactive and failed.
    #[must_use]
    pub fn runs(self) -> bool {
        !matches!(self, Active::Inactive | Active::Failed)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitSeen {
    pub how: Exit,
    /// `ExecMainExitTimestampMonotonic` on the boot clock.
    pub at: Mono,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Exit {
    /// Exit status.
    Exited(i32),
    /// Signal number.
    Killed(i32),
}

/// One process of a unit's cgroup.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ProcessSeen {
    pub pid: u32,
    pub ppid: u32,
    /// Field 22 of /proc/PID/stat: up to 34 ms early (facts F4.6).
    pub start: Mono,
    pub comm: String,
    /// The last part of argv[0], for looks that [ask for names](super::effect::Effect::Look): the comm of a `#!/usr/bin/php` script is the
    /// script's name, its argv[0] is /usr/bin/php (facts M12).
    pub argv0: Option<String>,
    /// Its command line equals its parent's: a fork that carries the parent's code (facts M12).
    pub same_command_as_parent: bool,
    /// The php-fpm pool that it works for, as its command line says: `php-fpm: pool www`.
    pub pool: Option<String>,
    /// It was on a processor, or waiting for a disk.
    pub running: bool,
    /// What it has used of processors since its start, in ticks of the kernel.
    pub cpu_ticks: u64,
}

/// A process that carries deployed code, wherever it runs.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StraySeen {
    pub process: ProcessSeen,
    /// By name, or by number if it has none.
    pub user: String,
    /// In the unified hierarchy, from its root.
    pub cgroup: String,
    /// Its controlling terminal, below /dev: `pts/3`, `tty1`.
    pub tty: Option<String>,
    /// Its unit was made at run time: by systemd-run, logind, or a program that asked systemd for it.
    pub transient: bool,
    /// It runs in a PID namespace of its own: a container.
    pub contained: bool,
    /// Its unit is over, and has left it behind (facts F3.2): no work on that unit sees it any more.
    #[serde(default)]
    pub left_behind: bool,
}

/// The generations of one php-fpm.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GenerationsSeen {
    /// The loaded instances of the template, whatever their state.
    pub units: Vec<UnitSeen>,
    /// Where the symlink leads, as an absolute path; `None`: there is none.
    pub leads_to: Option<String>,
    /// Something else than a symlink is in its place.
    pub obstructed: bool,
    /// Bytes of memory that the kernel calls available (`MemAvailable`).
    pub available: u64,
    /// By unit: bytes that its processes hold for themselves, and what they share counted once.
    pub memory: BTreeMap<String, u64>,
}

/// A unit that goes down when another is stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependent {
    pub unit: String,
    /// By `BindsTo=`: it cannot be up while the other is not.
    pub bound: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerSeen {
    pub unit: String,
    pub active: bool,
    /// The next elapse; `None` while the service runs or the timer is stopped (facts F2.6). One that has passed is about to fire.
    pub next: Option<Wall>,
    /// `LastTriggerUSecMonotonic` on the boot clock; [`Mono::BOOT`] if it has not triggered since it was started.
    pub last_trigger: Mono,
}

/// One php-fpm pool, as `php-fpm -tt` prints it (facts M11).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct PoolLayout {
    pub name: String,
    pub listen: String,
    pub status_listen: Option<String>,
    pub status_path: Option<String>,
    pub ping_path: Option<String>,
    /// What the ping answers; php-fpm's default is `pong`.
    pub ping_response: String,
}

/// What a unit's own php-fpm says about itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FpmLayout {
    pub pools: Vec<PoolLayout>,
    /// `systemd_interval` in milliseconds; 0 = no StatusText ticks (facts 3l).
    pub systemd_interval_ms: u64,
    /// `opcache.file_update_protection` in milliseconds: files younger than this are not cached (facts 5e).
    pub file_update_protection_ms: u64,
}

/// How full an opcache is, which all pools of a php-fpm share (facts 5c, 5d).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct OpcacheSeen {
    /// Bytes, as `free` and `wasted` are.
    pub used: u64,
    pub free: u64,
    pub wasted: u64,
    pub keys: u64,
    pub max_keys: u64,
    /// It calls itself full, which with `opcache.validate_timestamps = 0` it stays (facts 5d).
    pub full: bool,
    /// It is emptying itself, or about to.
    pub restarting: bool,
    /// Since when it has what it has: the start of its php-fpm, or its own last restart. To the second.
    pub since: Wall,
}

impl OpcacheSeen {
    /// Bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.used.saturating_add(self.free).saturating_add(self.wasted)
    }
}

/// The status page of one php-fpm pool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolStatus {
    pub pool: String,
    /// `pm = ondemand`: with nothing to do it has no idle worker either (trap T18).
    #[serde(default)]
    pub ondemand: bool,
    /// Seconds since 1970, 1 s resolution (facts 1f).
    pub start_time: i64,
    pub accepted: u64,
    /// As php-fpm counts them: over the main socket the asking worker is one of them (facts 3c).
    pub active: u32,
    pub idle: u32,
    /// Present when the full status was asked for.
    pub workers: Option<Vec<WorkerSeen>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerSeen {
    pub pid: u32,
    pub state: WorkerState,
    /// Microseconds, live while running (facts 3b).
    pub duration_us: u64,
    pub method: String,
    /// SCRIPT_NAME and query string (facts 3i): may hold secrets.
    pub uri: String,
    pub script: String,
}

/// `state` of a worker in the full status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WorkerState {
    Idle,
    /// A connection without a request: idle (facts 3j).
    ReadingHeaders,
    Running,
    Finishing,
    Ending,
    GettingInformation,
    Other(String),
}

/// How asking one pool went: the pool's name to its status, or why there is none. No answer is never "idle" (law 5).
pub type PoolAnswers = BTreeMap<String, Result<PoolStatus, String>>;
