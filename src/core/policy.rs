//! The rules: what the configuration says, validated. Everything the machine is allowed to do follows from these values.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::opcache::OpcacheRules;
use super::seen::UnitSeen;
use super::target::is_of;
use super::time::Wall;

/// All rules of one host. The default has no target: such an agent watches nothing and touches nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Policy {
    /// Why the configuration cannot be used, if so: then nothing is known of what is wanted on this host. Nothing is begun, what is owed is paid,
    /// and nobody is told that anything has converged.
    #[serde(default)]
    pub unusable: Option<String>,
    pub stamp: StampRules,
    /// By name; a plain `[pool]` has the name `default`.
    pub pools: BTreeMap<String, PoolRules>,
    /// By name.
    pub targets: BTreeMap<String, TargetRules>,
}

/// `[stamp]`: where deploys are seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StampRules {
    /// Absolute path of the stamp file; required when there are targets, so empty only in the default.
    pub path: String,
    /// Changes within this of each other are one deploy; measured from the first change it is at most five times this.
    pub settle: Duration,
    /// Between the starts of two rollouts.
    pub min_interval: Duration,
    pub identity: Identity,
    /// How long a stamp with `phase = "begin"` holds back the starts of scripts, counted from its landing.
    pub begin_timeout: Duration,
}

impl Default for StampRules {
    fn default() -> Self {
        StampRules {
            path: String::new(),
            settle: Duration::from_millis(500),
            min_interval: Duration::from_secs(5),
            identity: Identity::Mtime,
            begin_timeout: Duration::from_secs(15 * 60),
        }
    }
}

/// What makes a changed stamp a deploy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Identity {
    /// Any new mtime or content.
    Mtime,
    /// New content only.
    Content,
}

/// `[pool]`: one load balancer entry, worked by commands. An argv, never a shell; the first word is an absolute path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRules {
    pub depool: Vec<String>,
    pub repool: Vec<String>,
    /// Exit 0 = pooled, 1 = depooled, anything else = unknown.
    pub check: Vec<String>,
    /// For one command, and again for a change to show up in `check`.
    pub timeout: Duration,
    /// After the depool: drained means no request in flight and none accepted for this long.
    pub quiet: Duration,
}

/// `[target.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum TargetRules {
    PhpFpm(FpmRules),
    Generations(GenerationRules),
    Scheduled(ScheduledRules),
    Service(ServiceRules),
    Strays(StrayRules),
}

impl Policy {
    /// The symlinks of all targets of strategy `generations`.
    #[must_use]
    pub fn sockets(&self) -> Vec<String> {
        let symlink = |rules: &TargetRules| match rules {
            TargetRules::Generations(rules) if !rules.shared() => Some(rules.socket.clone()),
            _ => None,
        };
        self.targets.values().filter_map(symlink).collect()
    }

    /// The scheduled target, by name, that has this script.
    #[must_use]
    pub fn target_of_script(&self, unit: &str) -> Option<(&str, &ScheduledRules)> {
        self.targets.iter().find_map(|(name, rules)| match rules {
            TargetRules::Scheduled(rules) if is_of(&rules.units, &rules.exclude, unit) => Some((name.as_str(), rules)),
            _ => None,
        })
    }
}

impl TargetRules {
    /// The names of the processes that carry deployed code; none: all do.
    #[must_use]
    pub fn code(&self) -> &[String] {
        match self {
            TargetRules::PhpFpm(_) | TargetRules::Generations(_) => &[],
            TargetRules::Scheduled(rules) => &rules.code,
            TargetRules::Service(rules) => &rules.code,
            TargetRules::Strays(rules) => &rules.code,
        }
    }

    /// The contract's word for this kind.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            TargetRules::PhpFpm(_) | TargetRules::Generations(_) => "php-fpm",
            TargetRules::Scheduled(_) => "scheduled",
            TargetRules::Service(_) => "service",
            TargetRules::Strays(_) => "strays",
        }
    }
}

/// `kind = "php-fpm"`, `strategy = "restart"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FpmRules {
    pub unit: String,
    /// The wait threshold: from the proof of the depool, without a pool from the start of the rollout.
    pub drain_timeout: Duration,
    /// From RestartUnit; then SIGKILL to the whole cgroup.
    pub term_timeout: Duration,
    /// Where to ask for the status, if not found by asking the unit's own php-fpm.
    pub status: Option<String>,
    pub status_path: Option<String>,
    /// Absolute paths of scripts, with a query string if wanted; requested once each, one after the other, before repool.
    pub warm: Vec<String>,
    pub proof: Option<ProofRules>,
    #[serde(default)]
    pub opcache: Option<OpcacheRules>,
}

/// `kind = "php-fpm"`, `strategy = "generations"`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationRules {
    /// A template, such as `php-fpm-job@.service`.
    pub unit: String,
    /// The symlink that the web server connects to, by its absolute path: the sockets of the generations are beside it. Or the name of the .socket unit
    /// whose listening socket all generations share.
    pub socket: String,
    /// How long requests of an old generation may go on, from the switch.
    pub linger: Duration,
    /// That run at once.
    pub max_generations: u32,
    pub at_max: AtMax,
    /// Bytes: with less `MemAvailable` no generation is started.
    pub min_available_memory: Option<u64>,
    /// From StopUnit of one that has lingered too long; then SIGKILL to the whole cgroup.
    pub term_timeout: Duration,
    pub warm: Vec<String>,
    pub proof: Option<ProofRules>,
    #[serde(default)]
    pub opcache: Option<OpcacheRules>,
}

impl GenerationRules {
    /// All of them listen on one socket.
    #[must_use]
    pub fn shared(&self) -> bool {
        !self.socket.starts_with('/')
    }

    /// What holds for one of them by itself.
    #[must_use]
    pub fn of(&self, unit: &str) -> FpmRules {
        FpmRules {
            unit: unit.to_owned(),
            drain_timeout: self.linger,
            term_timeout: self.term_timeout,
            status: None,
            status_path: None,
            warm: self.warm.clone(),
            proof: self.proof.clone(),
            opcache: None,
        }
    }
}

/// What happens when as many generations run as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AtMax {
    /// The rollout waits until one has ended.
    Wait,
    /// The oldest is ended.
    EndOldest,
}

/// `proof = { script = "/srv/app/version.php", expect = "id" }`: the answer must contain the deploy's id before repool.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProofRules {
    pub script: String,
}

/// `kind = "scheduled"`: timer-activated services.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduledRules {
    /// Unit names or globs.
    pub units: Vec<String>,
    pub exclude: Vec<String>,
    /// A running script may end by itself in this time, counted from the start of the rollout that first found it stale.
    pub drain_timeout: Duration,
    /// `None`: not said, which means stop, unless a stop would start an OnSuccess= or OnFailure= unit (facts M2).
    pub overdue: Option<Overdue>,
    /// After the drain it is asked to stop, and has this long to reach a checkpoint; zero: it is not asked.
    pub checkpoint_timeout: Duration,
    /// At most this long, from when the signal was due, a held lock delays it.
    pub hold_timeout: Duration,
    /// In a row; after that it is let finish once.
    pub max_interruptions: u32,
    /// From StopUnit; then SIGKILL to the whole cgroup.
    pub term_timeout: Duration,
    /// Asks a script that knows neither file nor lock, and takes that back; an argv, never a shell, `{unit}` stands for the unit.
    #[serde(default)]
    pub ask: Vec<String>,
    #[serde(default)]
    pub unask: Vec<String>,
    /// Before a rerun, from the end of the run: what it left behind is stale only then.
    #[serde(default)]
    pub settle_after: Duration,
    pub after: After,
    /// `after = "auto"`: next scheduled run within this -> until-next, else rerun.
    pub quiet_within: Duration,
    /// Names or globs of the processes (argv[0] or comm) that carry deployed code; none: all do.
    pub code: Vec<String>,
}

impl ScheduledRules {
    #[must_use]
    pub fn asking(&self) -> AskRules<'_> {
        let ScheduledRules { checkpoint_timeout, hold_timeout, overdue, ask, unask, .. } = self;
        AskRules { checkpoint_timeout: *checkpoint_timeout, hold_timeout: *hold_timeout, overdue: *overdue, ask, unask }
    }

    /// Whether this script is asked to stop before anything else is done to it.
    #[must_use]
    pub fn asks(&self, unit: &UnitSeen) -> bool {
        self.asking().asks(unit)
    }

    /// Whether a script that was interrupted may be owed a new run, and systemd lets us start it.
    #[must_use]
    pub fn may_rerun(&self, unit: &UnitSeen) -> bool {
        self.after != After::UntilNext && unit.can_run_again()
    }

    /// Whether a script that was stopped waits for its next scheduled run, which is at `next`.
    #[must_use]
    pub fn stays_quiet(&self, next: Option<Wall>, now: Wall) -> bool {
        match self.after {
            After::Rerun => false,
            After::UntilNext => true,
            After::Auto => next.is_some_and(|next| next.since(now) <= self.quiet_within),
        }
    }
}

/// What a target's rules say of asking, and of sparing what holds its lock: the same for every kind that can.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AskRules<'r> {
    pub checkpoint_timeout: Duration,
    pub hold_timeout: Duration,
    pub overdue: Option<Overdue>,
    pub ask: &'r [String],
    pub unask: &'r [String],
}

impl AskRules<'_> {
    /// Whether this unit is asked to stop before anything else is done to it. Exit status 75 of one with OnSuccess= and OnFailure= would start the
    /// latter (facts M2); with several ExecStart= it would be a failure, or, with what is lent against that, start the next command.
    #[must_use]
    pub fn asks(&self, unit: &UnitSeen) -> bool {
        let fails = unit.on_success && unit.on_failure;
        !fails && unit.exec_starts <= 1 && !self.checkpoint_timeout.is_zero()
    }

    /// Whether its units need a lock, by which they tell, too, that they are asked about at all.
    #[must_use]
    pub fn needs_locks(&self) -> bool {
        !self.checkpoint_timeout.is_zero() || !self.hold_timeout.is_zero()
    }
}

/// What happens to a script that is still stale after its drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overdue {
    Stop,
    Finish,
}

/// What happens after a script was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum After {
    Rerun,
    UntilNext,
    Auto,
}

/// `kind = "service"`: long-running services other than php-fpm, renewed by RestartUnit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRules {
    pub units: Vec<String>,
    pub exclude: Vec<String>,
    /// As in [`ScheduledRules`].
    pub code: Vec<String>,
    /// A stale service may end by itself, or be renewed by somebody else, in this time.
    pub drain_timeout: Duration,
    /// As for scripts; zero: it is not asked.
    #[serde(default)]
    pub checkpoint_timeout: Duration,
    /// As for scripts; zero: it has no lock.
    #[serde(default)]
    pub hold_timeout: Duration,
    #[serde(default)]
    pub overdue: Option<Overdue>,
    #[serde(default)]
    pub ask: Vec<String>,
    #[serde(default)]
    pub unask: Vec<String>,
    /// From RestartUnit; then SIGKILL to the whole cgroup.
    pub term_timeout: Duration,
}

impl ServiceRules {
    #[must_use]
    pub fn asking(&self) -> AskRules<'_> {
        let ServiceRules { checkpoint_timeout, hold_timeout, overdue, ask, unask, .. } = self;
        AskRules { checkpoint_timeout: *checkpoint_timeout, hold_timeout: *hold_timeout, overdue: *overdue, ask, unask }
    }

    /// Its services are asked or spared, or let finish, for which more is read of them than a restart needs.
    #[must_use]
    pub fn cooperates(&self) -> bool {
        self.asking().needs_locks() || self.overdue == Some(Overdue::Finish)
    }
}

/// `kind = "strays"`: processes outside of every unit of a target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StrayRules {
    /// Names or globs of the processes (argv[0] or comm) that carry deployed code; at least one.
    pub code: Vec<String>,
    pub action: StrayAction,
    /// A stray may end by itself in this time.
    pub drain_timeout: Duration,
    /// From SIGTERM; then SIGKILL, to the process alone.
    pub term_timeout: Duration,
}

/// What is done about a stray.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StrayAction {
    Report,
    /// Its terminal is told, once for each deploy.
    Notify,
    Stop,
}
