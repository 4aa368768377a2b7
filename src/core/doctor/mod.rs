//! The traps that a host's php-fpm pools, opcache settings and units hold: each check is a pure function over what was seen.
//!
//! One file for each subject. A trap is something that hurts; what is merely unusual is none.

mod finding;
pub mod lines;
mod opcache;
mod pool;
mod scripts;
pub mod seen;
mod unit;
mod web;

pub use finding::{Finding, Generations, Mend, Report};

use super::migrate;
use super::policy::{FpmRules, Policy, TargetRules};
use finding::About;
use seen::{FpmMute, FpmSeen, HostSeen};

/// Looks for every trap.
#[must_use]
pub fn examine(seen: &HostSeen) -> Report {
    let mut report = Report { schema: 1, unknown: seen.unknown.clone(), ..Report::default() };
    if let Some(problem) = &seen.config_problem {
        report.findings.push(Finding {
            id: "config-unusable",
            about: "restart-agent".to_owned(),
            pool: None,
            target: None,
            what: problem.clone(),
            costs: "the agent goes by no rules: nothing is renewed after a deploy",
            mend: Mend { then: "restart-agent check-config, then systemctl reload restart-agent".to_owned(), ..Mend::default() },
        });
    }
    for fpm in &seen.fpms {
        let about = About { fpm, lines: lines::lines(&fpm.files, &fpm.root) };
        report.findings.extend(unit::missing(&fpm.unit, fpm.target.as_deref()));
        match &fpm.said {
            Ok(said) => {
                report.findings.extend(pool::findings(&about, said, &seen.policy));
                report.findings.extend(opcache::findings(&about, said, &seen.policy));
                report.findings.extend(unit::findings(&about, said.global.seconds("process_control_timeout"), &seen.policy));
                report.generations.extend(generations(fpm, seen));
            }
            Err(FpmMute::Broken(said)) => {
                report.findings.push(about.with(
                    "fpm-config-broken",
                    "",
                    format!("php-fpm -t says: {said}"),
                    "the next restart or reload, whoever does it, takes the pool down",
                    Mend { file: fpm.root.clone(), then: about.then(), ..Mend::default() },
                ));
            }
            Err(FpmMute::Unasked(_)) if fpm.unit.exec_start.is_empty() => {}
            Err(FpmMute::Unasked(why)) => report.unknown.push(format!("{}: {why}", fpm.unit.unit)),
        }
    }
    if !seen.fpms.is_empty() {
        report.findings.extend(web::findings(&seen.web));
    }
    for (target, units) in &seen.units {
        if let Some(rules) = seen.policy.targets.get(target) {
            report.findings.extend(scripts::findings(target, rules, units));
        }
    }
    // Generations of one template, and pools of one master, have the same line to mend.
    let mut told: Vec<(&str, Mend)> = Vec::new();
    report.findings.retain(|finding| {
        let this = (finding.id, Mend { then: String::new(), ..finding.mend.clone() });
        let new = this.1 == Mend::default() || !told.contains(&this);
        told.push(this);
        new
    });
    report
}

/// Of one that is no generation already.
fn generations(fpm: &FpmSeen, seen: &HostSeen) -> Option<Generations> {
    let unit = fpm.unit.unit.clone();
    match migrate::Migration::of(fpm, None, &seen.policy, &seen.web) {
        Ok(migration) => Some(Generations {
            command: Some(format!("restart-agent migrate-pool {unit}")),
            unit,
            pool: Some(migration.pool.to_owned()),
            refused: None,
            lines: migration.changed_lines(),
        }),
        Err(migrate::Refused::Already) => None,
        Err(refused) => Some(Generations { unit, pool: None, refused: Some(refused.to_string()), command: None, lines: Vec::new() }),
    }
}

/// What is requested of a renewed php-fpm before it serves, by the rules of its target, whatever its strategy.
#[must_use]
pub fn warm<'p>(policy: &'p Policy, target: Option<&str>) -> Option<&'p [String]> {
    match policy.targets.get(target?) {
        Some(TargetRules::PhpFpm(rules)) => Some(&rules.warm),
        Some(TargetRules::Generations(rules)) => Some(&rules.warm),
        _ => None,
    }
}

/// The rules of the php-fpm target that restarts this unit in place.
#[must_use]
pub fn fpm_rules<'p>(policy: &'p Policy, target: Option<&str>) -> Option<&'p FpmRules> {
    match policy.targets.get(target?) {
        Some(TargetRules::PhpFpm(rules)) => Some(rules),
        _ => None,
    }
}
