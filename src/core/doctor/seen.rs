//! What `doctor` and `migrate-pool` look at. Facts only: nothing in here is a verdict.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::core::policy::Policy;
use crate::core::seen::{Active, Load, OpcacheSeen};

/// Path to text.
pub type Files = BTreeMap<String, String>;

/// All that was looked at.
#[derive(Debug, Clone, Default)]
pub struct HostSeen {
    pub policy: Policy,
    /// Why the configuration of the agent cannot be used.
    pub config_problem: Option<String>,
    /// php-fpm of the targets, and whatever else of it runs.
    pub fpms: Vec<FpmSeen>,
    /// Units of scheduled and service targets, by target.
    pub units: BTreeMap<String, Vec<UnitSettings>>,
    /// Configuration of nginx and Apache.
    pub web: Files,
    /// What could not be looked at, a sentence each.
    pub unknown: Vec<String>,
}

/// What systemd goes by for one unit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UnitSettings {
    pub unit: String,
    pub load: Load,
    pub active: Active,
    pub transient: bool,
    /// `FragmentPath` and `DropInPaths` with their text, in the order that systemd reads them.
    pub files: Vec<(String, String)>,
    /// `Type=`.
    pub kind: String,
    pub kill_mode: String,
    pub send_sigkill: bool,
    /// Signal numbers.
    pub kill_signal: u32,
    pub final_kill_signal: u32,
    /// `None`: for ever.
    pub timeout_stop: Option<Duration>,
    /// 0: no limit.
    pub start_limit_burst: u32,
    pub start_limit_interval: Duration,
    pub refuse_manual_start: bool,
    pub refuse_manual_stop: bool,
    pub on_success: Vec<String>,
    pub on_failure: Vec<String>,
    pub exec_start: Vec<Vec<String>>,
    pub exec_stop: Vec<Vec<String>>,
    pub exec_reload: Vec<Vec<String>>,
    /// `Environment=`, as `NAME=value`.
    pub environment: Vec<String>,
}

/// One php-fpm with what it says of itself.
#[derive(Debug, Clone)]
pub struct FpmSeen {
    pub unit: UnitSettings,
    pub target: Option<String>,
    /// `Err`: why it does not say.
    pub said: Result<FpmSaid, FpmMute>,
    /// The configuration file that it was given, and all that this includes.
    pub root: String,
    pub files: Files,
    /// php.ini and what is beside it, in the order that PHP reads them.
    pub ini_files: Vec<(String, String)>,
    /// Names of its processes that are no php-fpm.
    pub children: Vec<String>,
    pub opcache: Option<OpcacheSeen>,
}

/// Why a php-fpm says nothing of its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FpmMute {
    /// `php-fpm -t` refuses it, with these words.
    Broken(String),
    /// It could not be asked.
    Unasked(String),
}

/// `php-fpm -tt` and `php-fpm -i`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FpmSaid {
    pub global: Settings,
    pub pools: Vec<(String, Settings)>,
    /// Of the ini configuration what is asked about here: `opcache.*` and where its files are.
    pub ini: Settings,
}

/// Settings by name. What php-fpm knows and nobody has set is empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Settings(pub BTreeMap<String, String>);

impl Settings {
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// `10s` or `10`; 0 if it is not set.
    #[must_use]
    pub fn seconds(&self, key: &str) -> u64 {
        self.get(key).and_then(|value| value.strip_suffix('s').unwrap_or(value).parse().ok()).unwrap_or(0)
    }
}
