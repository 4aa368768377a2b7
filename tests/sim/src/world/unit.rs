//! What a simulated unit is made of.

use std::collections::{BTreeMap, VecDeque};

use restart_agent::core::seen::{Active, Exit, ExitSeen, Load};

use super::fpm::Fpm;
use super::{S, Us};

/// What a process does with SIGTERM. SIGKILL ends all of them, [`Process::unkillable_until`] apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnTerm {
    Dies,
    /// A trap: it cleans up for so long and exits with that status.
    Exits {
        status: i32,
        after: Us,
    },
    Ignores,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Main,
    Child,
    /// The `php` that a shell has started.
    Looped,
    /// ExecStopPost=.
    StopPost,
    /// A php-fpm worker of the pool.
    Worker,
    /// The worker that answers pm.status_listen.
    StatusWorker,
}

#[derive(Debug, Clone)]
pub struct Process {
    pub pid: u32,
    pub ppid: u32,
    pub start: Us,
    /// How much too early /proc says that it started (facts F4.6).
    pub blur: Us,
    pub comm: &'static str,
    pub role: Role,
    pub on_term: OnTerm,
    /// It sits in the kernel until then.
    pub unkillable_until: Us,
    pub frozen: bool,
    pub term_pending: bool,
    pub kill_pending: bool,
    /// It was sent SIGTERM or SIGKILL by the agent's doing, then.
    pub signalled: Option<Us>,
}

/// A timer-activated script.
#[derive(Debug, Clone)]
pub struct Script {
    /// How long the next runs last; after these, `lasts`.
    pub next_runs: VecDeque<Us>,
    pub lasts: Us,
    pub exits: i32,
    pub on_term: OnTerm,
    /// How many `ExecStart=`.
    pub steps: u32,
    pub unkillable_for: Us,
    /// A child that ignores SIGTERM.
    pub stubborn_child: bool,
    /// Asked to stop, it reaches a checkpoint within so long, and exits 75.
    pub checkpoint: Option<Us>,
    /// Until when each of its runs holds its lock, from its start.
    pub holds: Us,
    /// Its main process is a shell that starts one `php` after the other, each for so long; 0: it is the `php` itself.
    pub loops: Us,
    /// How long such a shell takes to end after the `php` that has reached a checkpoint.
    pub tidies: Us,
    /// How long its ExecStopPost= takes.
    pub stop_post: Us,
    /// As [`Daemon::leaves`] and [`Daemon::spares`].
    pub leaves: bool,
    pub spares: bool,
}

impl Default for Script {
    fn default() -> Self {
        Script {
            next_runs: VecDeque::new(),
            lasts: 3600 * S,
            exits: 0,
            on_term: OnTerm::Dies,
            steps: 1,
            unkillable_for: 0,
            stubborn_child: false,
            checkpoint: None,
            holds: 0,
            loops: 0,
            tidies: 0,
            stop_post: 0,
            leaves: false,
            spares: false,
        }
    }
}

/// A long-running service.
#[derive(Debug, Clone)]
pub struct Daemon {
    pub on_term: OnTerm,
    pub starts: Starts,
    pub unkillable_for: Us,
    /// As [`Script::checkpoint`], [`Script::holds`] and [`Script::stop_post`].
    pub checkpoint: Option<Us>,
    pub holds: Us,
    pub stop_post: Us,
    /// It has a child, and KillMode=process: that stays when the service is stopped.
    pub leaves: bool,
    /// SendSIGKILL=no: what does not end by SIGTERM stays.
    pub spares: bool,
    /// What it runs is `php`, and it is that, or starts one after the other as [`Script::loops`] and [`Script::tidies`] say.
    pub php: bool,
    pub loops: Us,
    pub tidies: Us,
}

impl Default for Daemon {
    fn default() -> Self {
        Daemon {
            on_term: OnTerm::Dies,
            starts: Starts::Well(20_000),
            unkillable_for: 0,
            checkpoint: None,
            holds: 0,
            stop_post: 0,
            leaves: false,
            spares: false,
            php: false,
            loops: 0,
            tidies: 0,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Starts {
    /// Ready after so long.
    Well(Us),
    /// The next so many starts fail at once.
    Fails(u32),
    /// The next so many starts are well, and the run ends at once, by itself and with exit status 0.
    Ends(u32),
    /// It stays `activating` until systemd's TimeoutStartSec= of 90 s.
    NeverReady,
}

/// Why systemd does not come to running anything of a unit that it is to start: then it is as it was, and its InvocationID, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmet {
    /// ConditionPathExists= and the like: systemd calls that done.
    Condition,
    Assert,
    /// What it has in Requires= does not come up.
    Dependency,
}

#[derive(Debug, Clone)]
pub enum Body {
    Script(Script),
    Daemon(Daemon),
    Fpm(Box<Fpm>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobKind {
    Start,
    Stop,
    Restart,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Job {
    pub id: u64,
    pub kind: JobKind,
    /// For a restart: the stop is over.
    pub starting: bool,
}

/// Who does something to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    Agent,
    Person,
    Timer,
    Systemd,
}

/// How far systemd has come with the end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ending {
    Commands,
    StopPost,
    /// final-sigterm: what is left after that is ended, too.
    Rest,
}

#[derive(Debug, Clone)]
pub struct Stop {
    pub since: Us,
    pub by: By,
    pub ending: Ending,
    pub generation: u64,
    /// systemd's own deadline has passed.
    pub timed_out: bool,
}

#[derive(Debug, Clone)]
pub struct Unit {
    pub name: String,
    pub body: Body,
    pub load: Load,
    pub active: Active,
    pub result: &'static str,
    pub job: Option<Job>,
    pub invocation: String,
    pub main_pid: u32,
    pub main_start: Us,
    pub exit: Option<ExitSeen>,
    /// Its main process has not failed, by the SuccessExitStatus= that was in force when it ended.
    pub clean: bool,
    pub processes: BTreeMap<u32, Process>,
    /// Which `ExecStart=` runs.
    pub step: u32,
    /// A Reload has not found that one among those of the unit: none follows it in this run, whatever later Reloads bring (facts M3).
    pub last_step: bool,
    pub refuse_start: bool,
    pub refuse_stop: bool,
    pub transient: bool,
    pub on_success: bool,
    pub on_failure: bool,
    /// How often OnSuccess= and OnFailure= units were started.
    pub fired: (u32, u32),
    /// zz-restart-agent.conf on the disk, and as of the last Reload.
    pub drop_in: Option<String>,
    pub in_force: Option<String>,
    /// `TimeoutStopSec=` of the unit itself.
    pub timeout_stop: Us,
    /// A stop of it waits so long in systemd's queue: for one that requires it and is ordered after it, which stops first.
    pub stop_waits: Us,
    pub start_limit: (u32, Us),
    pub starts: Vec<Us>,
    pub stop: Option<Stop>,
    /// A person's stop was what systemd was at when its last run ended.
    pub ended_by_stop: bool,
    /// How long the last one took.
    pub stop_took: Us,
    /// The stop of the last invocation was ours, and when it was begun.
    pub last_stop_by_agent: Option<Us>,
    /// Its `php` has reached a checkpoint, and it is about to say so.
    pub tidying: bool,
    /// Its last run ended at a checkpoint, since it was asked to.
    pub checkpointed: bool,
    /// Somebody else has started it after a run that the agent had interrupted, and the agent has not since: it may not have looked, and owe it one yet.
    pub overtaken: bool,
    /// A person has stopped it since it was last started, or the host has gone down: whoever interrupted that run owes it no other.
    pub may_stay_down: bool,
    /// Since when no process of it runs.
    pub idle_since: Us,
    /// A look has found this run up.
    pub found_up: bool,
    /// When the oldest began of what earlier runs had left behind in this one, and that has ended since.
    pub left_since: Us,
    /// A slot came while it was kept quiet, long after its end, and it has not run since.
    pub missed_slot: bool,
    /// One came right after an end that we brought about: it may be made up for, or not.
    pub doubtful_slot: bool,
    /// How often each way of starting it has happened: by timer, by the agent.
    pub runs: Vec<(Us, By)>,
    /// Restart=on-failure.
    pub restarts_itself: bool,
    /// Of a template of php-fpm generations, which has KillMode=mixed.
    pub instance: bool,
    /// Nothing refers to it: systemd forgets it when it is inactive, as it does those.
    pub unreferenced: bool,
    /// As long as that is so.
    pub unmet: Option<Unmet>,
    /// What systemd has tested before its last start was not so.
    pub skipped: bool,
    /// The agent has asked systemd not to forget it.
    pub kept_loaded: bool,
}

impl Unit {
    #[must_use]
    pub fn new(name: &str, body: Body) -> Unit {
        Unit {
            name: name.to_owned(),
            body,
            load: Load::Loaded,
            active: Active::Inactive,
            result: "success",
            job: None,
            invocation: String::new(),
            main_pid: 0,
            main_start: 0,
            exit: None,
            clean: true,
            processes: BTreeMap::new(),
            step: 0,
            last_step: false,
            refuse_start: false,
            refuse_stop: false,
            transient: false,
            on_success: false,
            on_failure: false,
            fired: (0, 0),
            drop_in: None,
            in_force: None,
            timeout_stop: 90 * S,
            start_limit: (5, 10 * S),
            starts: Vec::new(),
            ended_by_stop: false,
            stop_took: 0,
            stop: None,
            stop_waits: 0,
            last_stop_by_agent: None,
            tidying: false,
            checkpointed: false,
            overtaken: false,
            may_stay_down: false,
            idle_since: 0,
            found_up: false,
            left_since: Us::MAX,
            missed_slot: false,
            doubtful_slot: false,
            runs: Vec::new(),
            restarts_itself: false,
            instance: false,
            unreferenced: false,
            unmet: None,
            skipped: false,
            kept_loaded: false,
        }
    }

    #[must_use]
    pub fn script(name: &str, script: Script) -> Unit {
        Unit::new(name, Body::Script(script))
    }

    #[must_use]
    pub fn daemon(name: &str) -> Unit {
        Unit::new(name, Body::Daemon(Daemon::default()))
    }

    #[must_use]
    pub fn fpm(name: &str, fpm: Fpm) -> Unit {
        Unit::new(name, Body::Fpm(Box::new(fpm)))
    }

    #[must_use]
    pub fn oneshot(&self) -> bool {
        matches!(self.body, Body::Script(_))
    }

    #[must_use]
    pub fn as_fpm(&self) -> Option<&Fpm> {
        if let Body::Fpm(fpm) = &self.body { Some(fpm) } else { None }
    }

    #[must_use]
    pub fn as_fpm_mut(&mut self) -> Option<&mut Fpm> {
        if let Body::Fpm(fpm) = &mut self.body { Some(fpm) } else { None }
    }

    /// Asked to stop, it reaches a checkpoint within so long; and each of its runs holds its lock for so long.
    #[must_use]
    pub fn manners(&self) -> (Option<Us>, Us) {
        match &self.body {
            Body::Script(script) => (script.checkpoint, script.holds),
            Body::Daemon(daemon) => (daemon.checkpoint, daemon.holds),
            Body::Fpm(_) => (None, 0),
        }
    }

    /// It is a shell that starts one `php` after the other: for how long each runs, and how long the shell takes to end after one that has reached a
    /// checkpoint.
    #[must_use]
    pub fn loops(&self) -> Option<(Us, Us)> {
        let (loops, tidies) = match &self.body {
            Body::Script(script) => (script.loops, script.tidies),
            Body::Daemon(daemon) => (daemon.loops, daemon.tidies),
            Body::Fpm(_) => (0, 0),
        };
        (loops > 0).then_some((loops, tidies))
    }

    /// Of its main process, or of what an earlier run has left behind.
    #[must_use]
    pub fn oldest_start(&self) -> Us {
        self.processes.values().map(|process| process.start).fold(self.main_start, Us::min)
    }

    /// Its own `KillMode=` and `SendSIGKILL=`.
    fn kills(&self) -> (bool, bool) {
        match &self.body {
            Body::Script(script) => (script.leaves, script.spares),
            Body::Daemon(daemon) => (daemon.leaves, daemon.spares),
            Body::Fpm(_) => (false, false),
        }
    }

    /// By one of them its end may leave processes behind.
    #[must_use]
    pub fn leaves(&self) -> bool {
        let (leaves, spares) = self.kills();
        leaves || spares
    }

    /// What is there of it has outlived its end, and is nobody's any more.
    #[must_use]
    pub fn is_left_behind(&self) -> bool {
        self.leaves() && !self.active.runs()
    }

    /// Not what an earlier run of a script has left behind: whoever stops it ends that, too, but nobody else does.
    #[must_use]
    pub fn has_in_this_run(&self, process: &Process) -> bool {
        !(self.leaves() && self.oneshot() && process.start < self.main_start)
    }

    /// Of this run: one that an earlier run has left behind is so no more.
    #[must_use]
    pub fn is_main(&self, process: &Process) -> bool {
        process.role == Role::Main && process.pid == self.main_pid
    }

    /// Somebody ends what earlier runs have left behind, and sees to it that the next leave nothing.
    pub fn tidy_up(&mut self) {
        let (this_run, start) = (self.active.runs(), self.main_start);
        if self.leaves() {
            let left = self.processes.values().filter(|process| process.start < start).map(|process| process.start);
            self.left_since = left.fold(self.left_since, Us::min);
            self.processes.retain(|_, process| this_run && process.start >= start);
        }
        if let Body::Script(script) = &mut self.body {
            (script.leaves, script.spares) = (false, false);
        }
    }

    /// KillMode=process is in force.
    #[must_use]
    pub fn leaves_now(&self) -> bool {
        self.kills().0 && !self.lent("KillMode=control-group")
    }

    /// SendSIGKILL=no is.
    #[must_use]
    pub fn spares_now(&self) -> bool {
        self.kills().1 && !self.lent("SendSIGKILL=yes")
    }

    #[must_use]
    pub fn ending(&self) -> Ending {
        self.stop.as_ref().map_or(Ending::Commands, |stop| stop.ending)
    }

    /// How long its ExecStopPost= takes.
    #[must_use]
    pub fn stop_post(&self) -> Us {
        match &self.body {
            Body::Script(script) => script.stop_post,
            Body::Daemon(daemon) => daemon.stop_post,
            Body::Fpm(_) => 0,
        }
    }

    pub fn as_script(&self) -> Option<&Script> {
        if let Body::Script(script) = &self.body { Some(script) } else { None }
    }

    #[must_use]
    pub fn as_script_mut(&mut self) -> Option<&mut Script> {
        if let Body::Script(script) = &mut self.body { Some(script) } else { None }
    }

    #[must_use]
    pub fn cgroup(&self) -> String {
        format!("/system.slice/{}", self.name)
    }

    fn lent(&self, what: &str) -> bool {
        self.in_force.as_ref().is_some_and(|text| text.contains(what))
    }

    /// Its last run did not end by itself.
    #[must_use]
    pub fn interrupted(&self) -> bool {
        self.last_stop_by_agent.is_some_and(|at| self.exit.is_none_or(|exit| exit.at.0 >= at)) || self.checkpointed
    }

    #[must_use]
    pub fn has_condition(&self) -> bool {
        self.lent("ConditionPathExists=!")
    }

    #[must_use]
    pub fn lent_no_success(&self) -> bool {
        self.lent("ExecStopPost=/usr/bin/test ! -e")
    }

    #[must_use]
    pub fn lent_success(&self) -> bool {
        self.lent("SuccessExitStatus=SIGTERM SIGKILL 143 137 75")
    }

    /// Exit status 75 is no failure of it.
    #[must_use]
    pub fn lent_run_again(&self) -> bool {
        self.lent_success() || self.lent("SuccessExitStatus=75\n")
    }

    /// Its main process that ends so does not fail.
    #[must_use]
    pub fn is_clean(&self, how: Exit) -> bool {
        match how {
            Exit::Exited(0) => true,
            Exit::Killed(15) => !self.oneshot() || self.lent_success(),
            Exit::Exited(75) => self.lent_run_again(),
            Exit::Killed(9) | Exit::Exited(143) => self.lent_success(),
            _ => false,
        }
    }

    #[must_use]
    pub fn lent_mixed(&self) -> bool {
        self.instance || self.lent("KillMode=mixed")
    }

    /// `ExecStart=` with `ExecStart=/bin/true`: nothing follows the command that runs (facts M3).
    #[must_use]
    pub fn exec_reset(&self) -> bool {
        self.lent("ExecStart=\nExecStart=/bin/true")
    }

    /// TimeoutStopSec= in force.
    #[must_use]
    pub fn stop_timeout(&self) -> Us {
        let lent = self.in_force.as_ref().and_then(|text| {
            let rest = &text[text.find("TimeoutStopSec=")? + "TimeoutStopSec=".len()..];
            let ms: u64 = rest[..rest.find("ms")?].parse().ok()?;
            Some(ms * 1000)
        });
        lent.unwrap_or(self.timeout_stop)
    }

    #[must_use]
    pub fn steps(&self) -> u32 {
        if let Body::Script(script) = &self.body { script.steps } else { 1 }
    }

    /// The command that runs, or has just ended, is not its last one.
    #[must_use]
    pub fn has_later_command(&self) -> bool {
        self.oneshot() && self.step + 1 < self.steps()
    }
}
