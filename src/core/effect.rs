//! What the machine asks of the host, and what the host owes back: two closed sets (law 1).
//!
//! Every effect gets exactly one [`Outcome`] with its id. An effect that [acts](Effect::acts) is written into the
//! journal before it is performed, and its outcome after (law 2).

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::seen::{FpmLayout, GenerationsSeen, OpcacheSeen, PoolAnswers, StraySeen, UnitSeen};
use super::target::is_of;
use super::time::Mono;

/// Names one effect; grows by one for each, also across restarts of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct EffectId(pub u64);

/// Only what [acts](Effect::acts) is ever read back from the journal: the rest, and what only answers it, has no reader (its size).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Read units with their processes. Owes [`Outcome::Units`] within 10 s: one entry for each loaded unit that matches and,
    /// for a name without a glob, one with [`Load::NotFound`](super::seen::Load) if there is none.
    /// Where a unit has no `ControlGroup` any more, its processes are read from the one remembered in `cgroups` (facts F3.2). `names`: with
    /// argv[0] of each process, which is one more file to read for each.
    #[serde(skip_deserializing)]
    Look { units: Vec<String>, looked: Looked, cgroups: BTreeMap<String, String>, names: bool },
    /// What timers say in their files, for people. Owes [`Outcome::Schedules`] within 10 s: lines such as `OnCalendar=*-*-* 03:00:00`, by timer.
    #[serde(skip_deserializing)]
    Schedules { timers: Vec<String> },
    /// Every process of the host that carries deployed code, by these names. Owes [`Outcome::Strays`] within 10 s.
    #[serde(skip_deserializing)]
    FindStrays { code: Vec<String> },
    /// All loaded instances of a template with their processes, in whatever state, and where this symlink leads. Owes
    /// [`Outcome::Generations`] within 10 s.
    #[serde(skip_deserializing)]
    SeeGenerations { template: String, socket: String },
    /// SIGTERM, or SIGKILL, to exactly this process, through a checked pidfd. Owes [`Outcome::Signalled`] at once.
    Signal { process: WorkerRef, kill: bool },
    /// One line to the terminal of this process, if it still is its terminal, without waiting for it. `landed`: for which deploy. Owes
    /// [`Outcome::Done`] at once.
    Notify { process: WorkerRef, tty: String, landed: Mono, text: String },
    /// Ask the unit's own php-fpm binary for its configuration (`-tt`, cached until the files change: facts M11), as a transient
    /// unit. Owes [`Outcome::Layout`] within 15 s.
    #[serde(skip_deserializing)]
    Inspect { unit: String },
    /// `php-fpm -t` with the unit's own binary and arguments, as a transient unit (facts 1h). Owes [`Outcome::Tested`] within 15 s.
    #[serde(skip_deserializing)]
    TestConfig { unit: String },
    /// Ask pools for their status. Owes [`Outcome::Pools`] with an answer for each within `timeout`.
    #[serde(skip_deserializing)]
    AskPools { asks: Vec<StatusAsk>, full: bool, timeout: Duration },
    /// Count the connections that were accepted on these sockets. Owes [`Outcome::Connections`] at once.
    #[serde(skip_deserializing)]
    Connections { sockets: Vec<String> },
    /// One FastCGI request. Owes [`Outcome::Answered`] within `timeout`.
    #[serde(skip_deserializing)]
    Request { socket: String, request: FpmRequest, timeout: Duration },
    /// Ask a php-fpm, by the script that the package ships, how full its opcache is. Owes [`Outcome::Opcache`] within `timeout`.
    #[serde(skip_deserializing)]
    AskOpcache { socket: String, timeout: Duration },
    /// Run the pool's check command as a transient unit. Owes [`Outcome::Command`] within `timeout` + 5 s.
    #[serde(skip_deserializing)]
    CheckPool { pool: String, argv: Vec<String>, timeout: Duration },
    /// Run the pool's depool command likewise. One that an earlier agent began and that still runs is ended before this agent's first
    /// effect: or it would take the host out behind its back. `repool` and `check` are in the intent, so that what was depooled can be put back
    /// even if the configuration has changed by then.
    Depool { pool: String, depool: Vec<String>, repool: Vec<String>, check: Vec<String>, timeout: Duration },
    /// Run the pool's repool command likewise.
    Repool { pool: String, argv: Vec<String>, timeout: Duration },
    /// Write zz-restart-agent.conf for each of these units, then one Reload (law 7). Owes [`Outcome::Done`] within 60 s.
    Lend { drop_ins: BTreeMap<String, String> },
    /// Remove what [`Effect::Lend`] wrote for these units, then one Reload. A file that is gone already is no error. Owes
    /// [`Outcome::Done`] within 60 s.
    Unlend { units: Vec<String> },
    /// Make `cut/UNIT`, then StopUnit (replace). Owes [`Outcome::Job`] when the job is removed, or after `within` with [`JobEnd::Running`].
    /// A script whose start job had ended by then, well or not, was not stopped: [`JobEnd::Finished`] (facts F1.7).
    Stop { unit: String, within: Duration },
    /// ResetFailedUnit and StartUnit (replace). Owes [`Outcome::Queued`] when systemd has taken the job: a oneshot's start job lasts
    /// as long as its script (facts F1.8).
    Start { unit: String },
    /// ResetFailedUnit, then StartUnit (ignore-requirements): what went down with a script comes back, and does not pull the script in. Owes
    /// [`Outcome::Queued`] when systemd has taken the job.
    StartAlone { unit: String },
    /// ResetFailedUnit, then RestartUnit (replace); as soon as the unit is being stopped, SIGTERM and SIGCONT to each of `cut`, through a
    /// pidfd whose cgroup and start time were checked: earlier, php-fpm would put new workers in their place. Owes [`Outcome::Job`] when the job is removed, or after `within`.
    Restart { unit: String, cut: Vec<WorkerRef>, within: Duration },
    /// StopUnit (replace) of a php-fpm; as soon as it is being stopped, SIGTERM and SIGCONT to each of `cut`, as for [`Effect::Restart`].
    /// Owes [`Outcome::Job`] when the job is removed, or after `within`.
    End { unit: String, cut: Vec<WorkerRef>, within: Duration },
    /// SIGQUIT and SIGCONT to each of `workers`, which are idle and stopped, so that they end instead of taking another request; SIGCONT to each of
    /// `spare`. Each through a checked pidfd. Owes [`Outcome::Done`].
    Retire { workers: Vec<WorkerRef>, spare: Vec<WorkerRef> },
    /// Have systemd stop this unit so long from now, whether there is an agent then or not. `quit`: and tell its main process at once to take no new
    /// requests (SIGQUIT). Owes [`Outcome::Done`] within 15 s. Again for the same unit is no error.
    EndLater { unit: String, after: Duration, quit: bool },
    /// Make `socket` a symlink to `to`, by rename(2): whoever connects finds the old one or the new one (facts 12). Owes [`Outcome::Done`] at
    /// once.
    Switch { socket: String, to: String },
    /// KillUnit(all, SIGKILL), and SIGKILL for what is left in `cgroup` if systemd no longer knows it (facts F3.2). Owes [`Outcome::Done`], or
    /// a fault and no signal if the unit is in another run than `invocation` by then; empty: whichever.
    Kill {
        unit: String,
        #[serde(default)]
        invocation: String,
        cgroup: String,
    },
    /// Make `stop/UNIT`, then run the command `ask`, if there is one, as a transient unit: the unit is asked to stop at its next checkpoint. `unask`
    /// is in the intent, so that it can be taken back even if the configuration has changed by then. Owes [`Outcome::Done`] within 35 s.
    AskToStop {
        unit: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        ask: Vec<String>,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        unask: Vec<String>,
    },
    /// Remove it again, and run the command `unask` likewise. A file that is not there is no error. Owes [`Outcome::Done`] within 35 s.
    Unask {
        unit: String,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        unask: Vec<String>,
    },
    /// Make `quiet/UNIT`: with the condition that the unit is lent nothing starts it. Owes [`Outcome::Done`] at once.
    KeepQuiet { unit: String },
    /// Remove it again, and `cut/UNIT`; one that is not there is no error. Owes [`Outcome::Done`] at once.
    LetRun { unit: String },
    /// Make `hold/UNIT.lock` for each loaded service that is one of these, whatever its state, so that the unit's `User=` and root can lock
    /// it and nobody else can open it; remove the locks of units that are none. Owes [`Outcome::Done`] within 10 s. It is no act for the
    /// journal: nothing is taken from anybody, and it is done again at the next start.
    #[serde(skip_deserializing)]
    MakeLocks { of: Vec<UnitsOf> },
    /// As long as this lasts the services that match wait with their start, whoever starts them. Again is no error: what lasts as long
    /// stays, what ends earlier is of a deploy that is over, and is replaced. Ends by itself. Owes [`Outcome::Done`] within 15 s.
    HoldStarts { waits: Vec<UnitsOf>, lasts: Duration },
    /// Whatever waits may start. Owes [`Outcome::Done`] within 15 s.
    ReleaseStarts,
    /// ResetFailedUnit, so that a script that we stopped is no failure to anybody. Owes [`Outcome::Done`].
    ResetFailed { unit: String },
    /// SIGSTOP to these workers, each through a checked pidfd. Owes [`Outcome::Frozen`] with those that were still there.
    Freeze { workers: Vec<WorkerRef> },
    /// SIGCONT likewise. Owes [`Outcome::Done`].
    Thaw { workers: Vec<WorkerRef> },
}

impl Effect {
    /// SIGKILL for the run that was seen last.
    #[must_use]
    pub fn kill(unit: &str, seen: &UnitSeen) -> Effect {
        Effect::Kill { unit: unit.to_owned(), invocation: seen.invocation.clone(), cgroup: seen.cgroup.clone() }
    }

    /// Whether it changes anything on the host: then intent and outcome go into the journal.
    #[must_use]
    pub fn acts(&self) -> bool {
        !matches!(
            self,
            Effect::Look { .. }
                | Effect::Schedules { .. }
                | Effect::FindStrays { .. }
                | Effect::SeeGenerations { .. }
                | Effect::Inspect { .. }
                | Effect::TestConfig { .. }
                | Effect::AskPools { .. }
                | Effect::Connections { .. }
                | Effect::Request { .. }
                | Effect::AskOpcache { .. }
                | Effect::CheckPool { .. }
                | Effect::MakeLocks { .. }
        )
    }
}

impl Effect {
    /// Whether it gives back what was taken, or ends what was begun: that goes on even while the journal cannot be written.
    #[must_use]
    pub fn pays_back(&self) -> bool {
        matches!(
            self,
            Effect::Repool { .. }
                | Effect::Unlend { .. }
                | Effect::Unask { .. }
                | Effect::LetRun { .. }
                | Effect::ReleaseStarts
                | Effect::Start { .. }
                | Effect::StartAlone { .. }
                | Effect::Kill { .. }
                | Effect::ResetFailed { .. }
                | Effect::Thaw { .. }
        )
    }
}

/// The units of one target, by names and globs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitsOf {
    pub units: Vec<String>,
    pub exclude: Vec<String>,
}

impl UnitsOf {
    #[must_use]
    pub fn new(units: &[String], exclude: &[String]) -> UnitsOf {
        UnitsOf { units: units.to_vec(), exclude: exclude.to_vec() }
    }

    #[must_use]
    pub fn has(&self, unit: &str) -> bool {
        is_of(&self.units, &self.exclude, unit)
    }
}

/// How much a look reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Looked {
    /// Only units that are not inactive or failed, filtered by systemd (facts F4.4): their run, their processes, and whether systemd lets
    /// them be restarted; the main process and the other settings are not asked for, which is most of what a look costs.
    Running,
    /// As much as [`Looked::Running`], of these units in whatever state.
    Bare,
    /// Only units that run, with all there is to know, and their timers.
    WithTimers,
    /// These units in whatever state, with processes and timers.
    Exactly,
}

/// Where and how one pool is asked for its status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusAsk {
    pub pool: String,
    /// A unix socket's absolute path, `host:port`, or a bare port of the loopback address.
    pub socket: String,
    pub path: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FpmRequest {
    /// The pool's ping path.
    Ping { path: String },
    /// A script file with an optional query string: `/srv/app/health.php?warm=1`.
    Script { script: String },
}

/// One process, a php-fpm worker or a stray, named so that a reused pid is not mistaken for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct WorkerRef {
    pub pid: u32,
    pub start: Mono,
    pub cgroup: String,
}

/// What came of an effect. What only a reading effect is answered with has no reader, as in [`Effect`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    #[serde(skip_deserializing)]
    Units(Vec<UnitSeen>),
    #[serde(skip_deserializing)]
    Schedules(BTreeMap<String, Vec<String>>),
    #[serde(skip_deserializing)]
    Strays(Vec<StraySeen>),
    #[serde(skip_deserializing)]
    Generations(Box<GenerationsSeen>),
    /// Whether it was still there to be sent it.
    Signalled(bool),
    #[serde(skip_deserializing)]
    Layout(FpmLayout),
    /// `output` is what php-fpm said, made printable, at most 2,000 characters.
    #[serde(skip_deserializing)]
    Tested {
        ok: bool,
        output: String,
    },
    #[serde(skip_deserializing)]
    Pools(PoolAnswers),
    /// By socket; one that is missing could not be counted.
    #[serde(skip_deserializing)]
    Connections(BTreeMap<String, u32>),
    /// The HTTP status and at most the first 64 KiB of the body, lossy UTF-8.
    #[serde(skip_deserializing)]
    Answered {
        status: u16,
        body: String,
    },
    #[serde(skip_deserializing)]
    Opcache(OpcacheSeen),
    Command(CommandEnd),
    Job(JobEnd),
    Queued,
    Frozen(Vec<WorkerRef>),
    Done,
    /// It could not be done, or its end is not known: a sentence for people.
    Fault(Fault),
}

impl Outcome {
    /// systemd will not: another try is in vain.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        matches!(self, Outcome::Fault(Fault::NoSuchUnit(_) | Fault::Refused(_)))
    }

    /// Why it is not the one that was hoped for, for people.
    #[must_use]
    pub fn said(&self) -> String {
        match self {
            Outcome::Fault(fault) => fault.to_string(),
            Outcome::Answered { status, .. } => format!("HTTP status {status}"),
            Outcome::Job(JobEnd::Running) => "it took too long".to_owned(),
            _ => "no answer".to_owned(),
        }
    }
}

/// How a hook command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommandEnd {
    /// `said` is the last line of its output, printable, at most 300 characters.
    Exited {
        status: i32,
        said: String,
    },
    Killed {
        signal: i32,
    },
    TimedOut,
}

/// `result` of JobRemoved. It says nothing about how the unit fares (facts F1.7): look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobEnd {
    Done,
    Canceled,
    Failed,
    Timeout,
    Dependency,
    Skipped,
    /// There was nothing to stop any more: the run had ended by itself.
    Finished,
    /// Not removed within the time that was given.
    Running,
    /// The bus went away: its end is not known.
    Lost,
    Other(String),
}

/// Why an effect could not be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    #[error("{0}")]
    NoSuchUnit(String),
    /// Masked, RefuseManualStop=, RefuseManualStart=: systemd will not.
    #[error("{0}")]
    Refused(String),
    /// systemd or the bus does not answer; worth another try.
    #[error("{0}")]
    Unreachable(String),
    /// The intent could not be written, so nothing was done.
    #[error("{0}")]
    Journal(String),
    #[error("{0}")]
    Other(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_is_read_back_from_the_journal_and_what_only_looks_is_not() {
        let unit = || "php8.3-fpm.service".to_owned();
        let worker = || WorkerRef { pid: 7, start: Mono::default(), cgroup: "/system.slice".to_owned() };
        let within = Duration::from_secs(5);
        let effects = [
            Effect::Look { units: vec![unit()], looked: Looked::Exactly, cgroups: BTreeMap::new(), names: false },
            Effect::Schedules { timers: vec![unit()] },
            Effect::FindStrays { code: vec![unit()] },
            Effect::SeeGenerations { template: unit(), socket: "/run/s".to_owned() },
            Effect::End { unit: unit(), cut: vec![worker()], within },
            Effect::Retire { workers: vec![worker()], spare: Vec::new() },
            Effect::EndLater { unit: unit(), after: within, quit: true },
            Effect::Switch { socket: "/run/s".to_owned(), to: "/run/a.sock".to_owned() },
            Effect::Signal { process: worker(), kill: true },
            Effect::Notify { process: worker(), tty: "pts/1".to_owned(), landed: Mono(7), text: unit() },
            Effect::Inspect { unit: unit() },
            Effect::TestConfig { unit: unit() },
            Effect::AskPools { asks: Vec::new(), full: false, timeout: within },
            Effect::Connections { sockets: vec!["/run/s".to_owned()] },
            Effect::Request { socket: "/run/s".to_owned(), request: FpmRequest::Ping { path: "/ping".to_owned() }, timeout: within },
            Effect::AskOpcache { socket: "/run/s".to_owned(), timeout: within },
            Effect::CheckPool { pool: "web".to_owned(), argv: Vec::new(), timeout: within },
            Effect::Depool { pool: "web".to_owned(), depool: Vec::new(), repool: Vec::new(), check: Vec::new(), timeout: within },
            Effect::Repool { pool: "web".to_owned(), argv: Vec::new(), timeout: within },
            Effect::Lend { drop_ins: BTreeMap::new() },
            Effect::Unlend { units: vec![unit()] },
            Effect::Stop { unit: unit(), within },
            Effect::Start { unit: unit() },
            Effect::StartAlone { unit: unit() },
            Effect::Restart { unit: unit(), cut: vec![worker()], within },
            Effect::AskToStop { unit: unit(), ask: vec!["/bin/a".to_owned()], unask: Vec::new() },
            Effect::Unask { unit: unit(), unask: vec!["/bin/u".to_owned(), unit()] },
            Effect::MakeLocks { of: vec![UnitsOf { units: vec![unit()], exclude: Vec::new() }] },
            Effect::KeepQuiet { unit: unit() },
            Effect::LetRun { unit: unit() },
            Effect::HoldStarts { waits: vec![UnitsOf { units: vec![unit()], exclude: Vec::new() }], lasts: within },
            Effect::ReleaseStarts,
            Effect::Kill { unit: unit(), invocation: String::new(), cgroup: String::new() },
            Effect::ResetFailed { unit: unit() },
            Effect::Freeze { workers: vec![worker()] },
            Effect::Thaw { workers: vec![worker()] },
        ];
        for effect in effects {
            let read = serde_json::from_str::<Effect>(&serde_json::to_string(&effect).unwrap()).ok();
            assert_eq!(read, effect.acts().then_some(effect));
        }
        for outcome in [
            Outcome::Command(CommandEnd::TimedOut),
            Outcome::Job(JobEnd::Lost),
            Outcome::Queued,
            Outcome::Signalled(false),
            Outcome::Frozen(vec![worker()]),
            Outcome::Done,
            Outcome::Fault(Fault::Other("why".to_owned())),
        ] {
            assert_eq!(serde_json::from_str::<Outcome>(&serde_json::to_string(&outcome).unwrap()).unwrap(), outcome);
        }
    }
}
