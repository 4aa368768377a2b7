//! Turns an existing php-fpm pool into generations: the files, as text, for somebody to review. Pure.
//!
//! How generations work is measured in facts 11 (a systemd socket, for TCP) and 12 (a symlink, for unix sockets).

mod config;
mod readme;
mod unit;
mod web;

use std::fmt;

use super::doctor::fpm_rules;
use super::doctor::lines::{Line, lines};
use super::doctor::seen::{Files, FpmMute, FpmSeen, Settings};
use super::generation_name::{BOOT, LONGEST, STATUS_SUFFIX, SUN_PATH, instance_of, unit_of};
use super::policy::{FpmRules, Policy, TargetRules};

/// Why a pool cannot be turned into generations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// It is one already.
    Already,
    Why(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Refused::Already => "it starts generations already",
            Refused::Why(why) => why,
        })
    }
}

/// A pool that can become generations.
#[derive(Debug)]
pub struct Migration<'s> {
    pub fpm: &'s FpmSeen,
    pub pool: &'s str,
    /// `php-fpm-NAME`: of the units, of the configuration, and of the directory of the sockets in /run.
    pub name: String,
    settings: &'s Settings,
    lines: Vec<Line<'s>>,
    rules: Option<&'s FpmRules>,
    web: &'s Files,
}

impl<'s> Migration<'s> {
    /// # Errors
    /// A sentence that says why not, and what to do about it.
    pub fn of(fpm: &'s FpmSeen, name: Option<&str>, policy: &'s Policy, web: &'s Files) -> Result<Migration<'s>, Refused> {
        let refuse = |why: String| Err(Refused::Why(why));
        let unit = &fpm.unit;
        let said = match &fpm.said {
            Ok(said) => said,
            Err(FpmMute::Broken(said)) => return refuse(format!("php-fpm -t does not accept its configuration: mend it first: {said}")),
            Err(FpmMute::Unasked(why)) => return refuse(why.clone()),
        };
        let lines = lines(&fpm.files, &fpm.root);
        if lines.iter().any(|line| line.key == "listen" && line.value.contains("${GENERATION}")) || is_one(policy, &unit.unit) {
            return Err(Refused::Already);
        }
        let [(pool, settings)] = said.pools.as_slice() else {
            let names = said.pools.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
            return refuse(format!(
                "it has {} pools ({names}), and generations need a master for each: move every pool but one into a configuration file and \
                 a unit of its own, then run migrate-pool for each of these units",
                said.pools.len()
            ));
        };
        if unit.kind != "notify" {
            return refuse(format!(
                "its unit has Type={}, and a generation must tell systemd when it is ready: start php-fpm with --nodaemonize and Type=notify first",
                unit.kind
            ));
        }
        if unit.environment.iter().any(|variable| variable.starts_with("FPM_SOCKETS=")) {
            return refuse("it inherits its socket (FPM_SOCKETS=): let php-fpm listen by itself first".to_owned());
        }
        if !settings.0.contains_key("pm.status_listen") {
            return refuse("this php-fpm has no pm.status_listen: generations need PHP 8.0 or newer".to_owned());
        }
        if !lines.iter().any(|line| line.section == pool && line.key == "listen") {
            return refuse(format!("no file says where [{pool}] listens: its configuration file is none that can be read ({})", fpm.root));
        }
        // They go into the commands of the README.
        if let Some(path) = [settings.get("listen").unwrap_or_default(), &fpm.root].into_iter().find(|path| !is_literal(path)) {
            return refuse(format!("\"{path}\" has characters that a shell or a regular expression would read otherwise: rename it first"));
        }
        let name = name.map_or_else(|| plain(pool), str::to_owned);
        if name.is_empty() || name != plain(&name) {
            return refuse("a name is made of a-z, 0-9 and -: say one with --name".to_owned());
        }
        let name = format!("php-fpm-{name}");
        let migration = Migration { fpm, pool, name, settings, lines, rules: fpm_rules(policy, fpm.target.as_deref()), web };
        let longest = migration.status_socket(&"x".repeat(LONGEST));
        if longest.len() > SUN_PATH {
            return refuse(format!(
                "the socket of a generation would have {} characters, and a path of a socket may have {SUN_PATH}: say a shorter name with --name",
                longest.len()
            ));
        }
        Ok(migration)
    }

    /// The files by name, the README first.
    #[must_use]
    pub fn files(&self) -> Vec<(String, String)> {
        let mut files = vec![
            ("README.md".to_owned(), self.readme()),
            (self.config_name(), self.config()),
            (self.template(), self.unit()),
            (self.target_file(), self.target()),
        ];
        if let Some(port) = self.port() {
            files.push((self.socket_unit(), self.socket(port)));
        } else {
            files.push(("web-servers.txt".to_owned(), self.web_servers()));
        }
        files
    }

    /// What differs from the pool as it is.
    #[must_use]
    pub fn changed_lines(&self) -> Vec<String> {
        let mut lines: Vec<String> = self.own_settings().into_iter().map(|(key, value)| format!("{key} = {value}")).collect();
        lines
            .extend(["Environment=GENERATION=%i", "KillMode=mixed", "TimeoutStopSec=30s", "strategy = \"generations\""].map(str::to_owned));
        lines.push(format!("socket = \"{}\"", self.socket_key()));
        lines
    }

    /// What the pool has in place of its own.
    fn own_settings(&self) -> Vec<(&'static str, String)> {
        let mut own = vec![
            ("listen", if self.port().is_some() { self.inherited() } else { self.generation_socket("${GENERATION}") }),
            ("pm.status_listen", self.status_socket("${GENERATION}")),
        ];
        for (key, value) in [("pm.status_path", "/fpm-status"), ("ping.path", "/fpm-ping")] {
            if self.settings.get(key).is_none() {
                own.push((key, value.to_owned()));
            }
        }
        own
    }

    fn listen(&self) -> &str {
        self.settings.get("listen").unwrap_or_default()
    }

    /// Where it listens, if that is no unix socket.
    fn port(&self) -> Option<&str> {
        Some(self.listen()).filter(|listen| !listen.starts_with('/'))
    }

    fn generation_socket(&self, generation: &str) -> String {
        format!("/run/{}/{generation}.sock", self.name)
    }

    fn status_socket(&self, generation: &str) -> String {
        format!("/run/{}/{generation}{STATUS_SUFFIX}", self.name)
    }

    fn current(&self) -> String {
        self.generation_socket("current")
    }

    /// What the target calls `socket`.
    fn socket_key(&self) -> String {
        if self.port().is_some() { self.socket_unit() } else { self.current() }
    }

    /// The string that php-fpm finds the inherited socket by: no file has that name (facts 4a).
    fn inherited(&self) -> String {
        self.generation_socket("inherited")
    }

    fn template(&self) -> String {
        format!("{}@.service", self.name)
    }

    fn boot(&self) -> String {
        unit_of(&self.template(), BOOT)
    }

    fn socket_unit(&self) -> String {
        format!("{}.socket", self.name)
    }

    fn config_name(&self) -> String {
        format!("{}.conf", self.name)
    }

    /// Where the steps of the README put the configuration: beside the file that the pool has now.
    fn config_path(&self) -> String {
        let directory = self.fpm.root.rsplit_once('/').map_or("/etc", |(directory, _)| directory);
        format!("{directory}/{}", self.config_name())
    }

    fn target_name(&self) -> &str {
        self.fpm.target.as_deref().unwrap_or(self.name.trim_start_matches("php-fpm-"))
    }

    fn target_file(&self) -> String {
        format!("50-{}.toml", self.target_name())
    }

    fn program(&self) -> &str {
        self.fpm.unit.exec_start.last().and_then(|argv| argv.first()).map_or("php-fpm", String::as_str)
    }
}

/// Whether nothing in it means something to a shell or to sed.
fn is_literal(path: &str) -> bool {
    path.chars().all(|c| c.is_alphanumeric() || "/._-@+:,[]".contains(c))
}

/// Whether it is a generation by the agent's rules.
fn is_one(policy: &Policy, unit: &str) -> bool {
    policy.targets.values().any(|rules| matches!(rules, TargetRules::Generations(rules) if instance_of(&rules.unit, unit).is_some()))
}

/// What a unit's, a directory's and a generation's name may be made of.
fn plain(name: &str) -> String {
    let plain: String = name.to_ascii_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    plain.trim_matches('-').to_owned()
}
