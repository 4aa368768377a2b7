//! Every rule with every kind of timer and every kind of script, as a unit, and what is promised of it.

use anyhow::Result;
use jiff::Timestamp;
use lab::jobs::Job;
use lab::ledger::{Play, stand_in};

/// What the target says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    Rerun,
    UntilNext,
    AutoNear,
    AutoFar,
    Finish,
}

/// What starts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Calendar,
    Persistent,
    RandomDelay,
    UnitActive,
    UnitInactive,
    BootAndUnitActive,
    ActiveOnly,
    TwoTimers,
    NoTimer,
}

/// What it does when it is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Script {
    Dies,
    Exits0,
    Exits143,
    Ignores,
    ChildIgnores,
    Several,
    Resumable,
    HangingExecStop,
    KillModeProcess,
    NoSendSigkill,
}

pub const RULES: [Rule; 5] = [Rule::Rerun, Rule::UntilNext, Rule::AutoNear, Rule::AutoFar, Rule::Finish];
pub const KINDS: [Kind; 9] = [
    Kind::Calendar,
    Kind::Persistent,
    Kind::RandomDelay,
    Kind::UnitActive,
    Kind::UnitInactive,
    Kind::BootAndUnitActive,
    Kind::ActiveOnly,
    Kind::TwoTimers,
    Kind::NoTimer,
];
pub const SCRIPTS: [Script; 10] = [
    Script::Dies,
    Script::Exits0,
    Script::Exits143,
    Script::Ignores,
    Script::ChildIgnores,
    Script::Several,
    Script::Resumable,
    Script::HangingExecStop,
    Script::KillModeProcess,
    Script::NoSendSigkill,
];

const MINUTES: f64 = 60.0;
const DAYS: f64 = 86_400.0;
/// Of [`Kind::RandomDelay`], in seconds.
pub const DELAY: f64 = 10.0 * MINUTES;
/// In seconds after the begin: by then every timer has started its script, and a slot more has passed while it ran.
pub const PASSED: f64 = 9.0;
/// Longer than the test.
const LONG: u32 = 900;

pub const CONFIG: &str = r#"[stamp]
path = "/srv/deploy/stamp"
settle = "100ms"
min_interval = "0s"
"#;

impl Rule {
    pub fn name(self) -> &'static str {
        match self {
            Rule::Rerun => "rerun",
            Rule::UntilNext => "until-next",
            Rule::AutoNear => "auto-near",
            Rule::AutoFar => "auto-far",
            Rule::Finish => "finish",
        }
    }

    /// As the configuration and the table have it.
    pub fn text(self) -> &'static str {
        match self {
            Rule::Rerun => "after = \"rerun\"",
            Rule::UntilNext => "after = \"until-next\"",
            Rule::AutoNear | Rule::AutoFar => "after = \"auto\"",
            Rule::Finish => "overdue = \"finish\"",
        }
    }

    /// Of the table's row.
    pub fn title(self) -> String {
        match self {
            Rule::AutoNear => format!("`{}`, next run within `quiet_within`", self.text()),
            Rule::AutoFar => format!("`{}`, next run later than that", self.text()),
            _ => format!("`{}`", self.text()),
        }
    }

    pub fn target(self) -> String {
        let name = self.name();
        let again = if self == Rule::Finish { "\nafter = \"rerun\"" } else { "" };
        format!(
            "\n[target.{name}]\nkind = \"scheduled\"\nunits = [\"{name}.*.service\"]\ndrain_timeout = \"1s\"\ncheckpoint_timeout = \"3s\"\n\
             term_timeout = \"4s\"\nquiet_within = \"1h\"\n{}{again}\n",
            self.text()
        )
    }

    /// How far away the next run is.
    fn gap(self) -> f64 {
        if self == Rule::AutoFar { 30.0 * DAYS } else { 20.0 * MINUTES }
    }
}

impl Kind {
    pub fn title(self) -> &'static str {
        match self {
            Kind::Calendar => "OnCalendar=",
            Kind::Persistent => "OnCalendar=, Persistent=yes",
            Kind::RandomDelay => "OnCalendar=, RandomizedDelaySec=",
            Kind::UnitActive => "OnUnitActiveSec=",
            Kind::UnitInactive => "OnUnitInactiveSec=",
            Kind::BootAndUnitActive => "OnBootSec=, OnUnitActiveSec=",
            Kind::ActiveOnly => "OnActiveSec= only",
            Kind::TwoTimers => "two timers",
            Kind::NoTimer => "no timer",
        }
    }

    /// Whether there will be another run by itself.
    pub fn has_next(self) -> bool {
        !matches!(self, Kind::ActiveOnly | Kind::NoTimer)
    }

    /// Whether it is started for the test as a person would: its timer would first have it run far from now.
    pub fn by_hand(self) -> bool {
        matches!(self, Kind::RandomDelay | Kind::UnitActive | Kind::UnitInactive | Kind::NoTimer)
    }
}

impl Script {
    pub fn title(self) -> &'static str {
        match self {
            Script::Dies => "dies of SIGTERM",
            Script::Exits0 => "traps it, exits 0",
            Script::Exits143 => "traps it, exits 143",
            Script::Ignores => "ignores it",
            Script::ChildIgnores => "its child ignores it",
            Script::Several => "several ExecStart=",
            Script::Resumable => "stops at a checkpoint, 75",
            Script::HangingExecStop => "ExecStop=, ExecStopPost= hang",
            Script::KillModeProcess => "KillMode=process",
            Script::NoSendSigkill => "ignores it, SendSIGKILL=no",
        }
    }

    fn job(self, name: &str) -> Job {
        let job = |play| stand_in(name, play, LONG);
        match self {
            Script::Dies => job(Play::Dies),
            Script::Exits0 => job(Play::TrapsAndExits0),
            Script::Exits143 => job(Play::TrapsAndExits143),
            Script::Ignores => job(Play::Ignores),
            Script::ChildIgnores => job(Play::ChildIgnores),
            Script::Several => job(Play::Dies).service("ExecStart=/bin/sh -c 'echo %N >> /var/tmp/marks/%N.second'"),
            Script::Resumable => job(Play::Resumable),
            Script::HangingExecStop => job(Play::Dies).service("ExecStop=/bin/sleep 900\nExecStopPost=/bin/sleep 900"),
            Script::KillModeProcess => job(Play::Wrapper).service("KillMode=process"),
            Script::NoSendSigkill => job(Play::Ignores).service("SendSIGKILL=no"),
        }
    }
}

/// One unit of the matrix.
#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub rule: Rule,
    pub kind: Kind,
    pub script: Script,
    /// The slot of its calendar that is still to come, seconds since 1970; whole seconds.
    pub next: f64,
    first: f64,
    passed: f64,
}

/// All of one rule. Calendars have a first slot soon after `begin`, one more before `begin` + [`PASSED`], and the one that is far enough away.
pub fn all(rule: Rule, begin: f64) -> Vec<Case> {
    let begin = begin.ceil();
    let combined = KINDS.iter().flat_map(|kind| SCRIPTS.iter().map(move |script| (*kind, *script)));
    let case = |(n, (kind, script)): (usize, (Kind, Script))| Case {
        rule,
        kind,
        script,
        next: begin + rule.gap(),
        // Not all in one second.
        first: begin + (n % 4) as f64,
        passed: begin + 5.0 + (n % 3) as f64,
    };
    combined.enumerate().map(case).collect()
}

impl Case {
    pub fn name(&self) -> String {
        format!("{}.{:?}.{:?}", self.rule.name(), self.kind, self.script)
    }

    pub fn service(&self) -> String {
        format!("{}.service", self.name())
    }

    pub fn gap(&self) -> f64 {
        self.rule.gap()
    }

    pub fn job(&self) -> Result<Job> {
        let at = |slot: f64| -> Result<String> {
            Ok(format!("OnCalendar={}\n", Timestamp::from_second(slot as i64)?.strftime("%Y-%m-%d %H:%M:%S UTC")))
        };
        let slots = [self.first, self.passed, self.next].into_iter().map(at).collect::<Result<String>>()?;
        let gap = self.gap() as u64;
        let name = self.name();
        let job = self.script.job(&name).on_failure();
        Ok(match self.kind {
            Kind::Calendar => job.timer(&name, &slots),
            Kind::Persistent => job.timer(&name, &format!("{slots}Persistent=yes")),
            Kind::RandomDelay => job.timer(&name, &format!("{}RandomizedDelaySec={DELAY}", at(self.next)?)),
            Kind::UnitActive => job.timer(&name, &format!("OnUnitActiveSec={gap}")),
            Kind::UnitInactive => job.timer(&name, &format!("OnUnitInactiveSec={gap}")),
            // In the past: fires whenever its timer is started.
            Kind::BootAndUnitActive => job.timer(&name, &format!("OnBootSec=1\nOnUnitActiveSec={gap}")),
            Kind::ActiveOnly => job.timer(&name, "OnActiveSec=1"),
            Kind::TwoTimers => job.timer(&name, &slots).timer(&format!("{name}.second"), &format!("OnUnitActiveSec={}", 2 * gap)),
            Kind::NoTimer => job,
        })
    }

    /// What is promised.
    pub fn promised(&self) -> (Cut, Then) {
        let cut = match self.script {
            Script::Resumable => Cut::Checkpoint,
            _ if self.rule == Rule::Finish => return (Cut::Not, Then::GoesOn),
            Script::Ignores | Script::ChildIgnores | Script::HangingExecStop | Script::NoSendSigkill => Cut::Sigkill,
            Script::Dies | Script::Exits0 | Script::Exits143 | Script::Several | Script::KillModeProcess => Cut::Sigterm,
        };
        let stays_quiet = match self.rule {
            Rule::UntilNext => true,
            // "Run me again" is not to be decided.
            Rule::AutoNear => self.kind.has_next() && cut != Cut::Checkpoint,
            Rule::Rerun | Rule::AutoFar | Rule::Finish => false,
        };
        let then = match (stays_quiet, self.kind.has_next()) {
            (false, _) => Then::Again,
            (true, true) => Then::Quiet,
            (true, false) => Then::Down,
        };
        (cut, then)
    }
}

/// How the run was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    Sigterm,
    Sigkill,
    Checkpoint,
    Not,
}

/// What came after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    Again,
    /// Until its timer's next run.
    Quiet,
    /// No timer has a next run for it.
    Down,
    GoesOn,
}
