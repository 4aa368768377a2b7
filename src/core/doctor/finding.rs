//! What doctor says: one trap each, what it costs, and the line that mends it.

use serde::Serialize;

use super::lines::{Line, UnitLine, place, unit_lines};
use super::seen::{FpmSeen, UnitSettings};

/// All that doctor found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Report {
    pub schema: u32,
    pub findings: Vec<Finding>,
    /// What could not be looked at, a sentence each: not known to be clean.
    pub unknown: Vec<String>,
    /// Which pools can become generations, and how.
    pub generations: Vec<Generations>,
}

impl Report {
    #[must_use]
    pub fn clean(&self) -> bool {
        self.findings.is_empty() && self.unknown.is_empty()
    }
}

/// One trap.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Stable: docs/guide/doctor.md has a line for each.
    pub id: &'static str,
    /// The unit; for a web server `nginx` or `apache`.
    pub about: String,
    pub pool: Option<String>,
    pub target: Option<String>,
    /// What is there.
    pub what: String,
    pub costs: &'static str,
    pub mend: Mend,
}

/// The line that mends it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Mend {
    pub file: String,
    /// Of `file`: the line to replace; `None`: it is a new one.
    pub line: Option<u32>,
    /// In which section of `file`, without brackets; empty: in none.
    pub section: String,
    /// Empty: the line is to go.
    pub write: Vec<String>,
    /// What makes it work then.
    pub then: String,
}

/// Whether one pool that is restarted in place can become generations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Generations {
    pub unit: String,
    pub pool: Option<String>,
    /// Why not; `None`: it can.
    pub refused: Option<String>,
    /// The command that writes the files for review.
    pub command: Option<String>,
    /// The lines that change, of php-fpm, its unit and the agent's configuration.
    pub lines: Vec<String>,
}

/// For findings about one php-fpm.
#[derive(Debug)]
pub struct About<'s> {
    pub fpm: &'s FpmSeen,
    pub lines: Vec<Line<'s>>,
}

impl About<'_> {
    /// About a setting of a pool, or of `global`.
    pub fn setting(&self, id: &'static str, section: &str, key: &str, value: &str, what: String, costs: &'static str) -> Finding {
        let found = place(&self.lines, section, key);
        let mend = Mend {
            file: found.map_or_else(|| self.fpm.root.clone(), |line| line.file.to_owned()),
            line: found.filter(|line| line.key == key).map(|line| line.number),
            section: section.to_owned(),
            write: vec![format!("{key} = {value}")],
            then: self.then(),
        };
        self.with(id, section, what, costs, mend)
    }

    pub fn with(&self, id: &'static str, section: &str, what: String, costs: &'static str, mend: Mend) -> Finding {
        let pool = Some(section.to_owned()).filter(|section| !section.is_empty() && section != "global");
        Finding { id, about: self.fpm.unit.unit.clone(), pool, target: self.fpm.target.clone(), what, costs, mend }
    }

    /// About a key of [Service] or [Unit] of its unit.
    pub fn service(&self, id: &'static str, section: &'static str, line: &str, what: String, costs: &'static str) -> Finding {
        unit_finding(&self.fpm.unit, self.fpm.target.as_deref(), id, section, line, what, costs)
    }

    /// A reload would cut what runs, or disturb it (facts 1b, 1i): the next restart that is drained for takes it up.
    pub fn then(&self) -> String {
        let program = self.fpm.unit.exec_start.last().and_then(|argv| argv.first()).map_or("php-fpm", String::as_str);
        match &self.fpm.target {
            Some(target) => format!("{program} -t, then restart-agent trigger --target {target}"),
            None => format!("{program} -t, then systemctl restart {} while nothing is in flight", self.fpm.unit.unit),
        }
    }
}

/// About a line of a unit: where the key is set in /etc, there; else in the drop-in that `systemctl edit` makes.
pub fn unit_finding(
    unit: &UnitSettings,
    target: Option<&str>,
    id: &'static str,
    section: &'static str,
    line: &str,
    what: String,
    costs: &'static str,
) -> Finding {
    let key = line.split('=').next().unwrap_or_default();
    let lines = unit_lines(unit);
    let here = |found: &&UnitLine<'_>| found.section == section && found.key == key && found.file.starts_with("/etc/");
    let found = lines.iter().rev().find(here);
    let mend = Mend {
        file: found.map_or_else(|| drop_in(&unit.unit), |found| found.file.to_owned()),
        line: found.map(|found| found.number),
        section: section.to_owned(),
        write: vec![line.to_owned()],
        then: "systemctl daemon-reload".to_owned(),
    };
    Finding { id, about: unit.unit.clone(), pool: None, target: target.map(str::to_owned), what, costs, mend }
}

/// What `systemctl edit` writes; of an instance for all of its template.
#[must_use]
pub fn drop_in(unit: &str) -> String {
    let template = match (unit.split_once('@'), unit.rsplit_once('.')) {
        (Some((name, _)), Some((_, kind))) => format!("{name}@.{kind}"),
        _ => unit.to_owned(),
    };
    format!("/etc/systemd/system/{template}.d/override.conf")
}
