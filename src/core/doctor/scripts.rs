//! What the units of scheduled and service targets hold.

use super::finding::{Finding, Mend, unit_finding};
use super::seen::UnitSettings;
use super::unit::missing;
use crate::core::policy::{After, Overdue, TargetRules};
use crate::core::target::is_of;

const SIGKILL: u32 = 9;

/// What a target's rules say that matters here.
struct Rules<'r> {
    target: &'r str,
    scripts: bool,
    overdue: Option<Overdue>,
    reruns: bool,
}

pub fn findings(target: &str, rules: &TargetRules, units: &[UnitSettings]) -> Vec<Finding> {
    let (names, exclude, rules) = match rules {
        TargetRules::Scheduled(rules) => {
            let reruns = rules.after != After::UntilNext;
            (&rules.units, &rules.exclude, Rules { target, scripts: true, overdue: rules.overdue, reruns })
        }
        TargetRules::Service(rules) => {
            (&rules.units, &rules.exclude, Rules { target, scripts: false, overdue: rules.overdue, reruns: true })
        }
        _ => return Vec::new(),
    };
    let mut found = Vec::new();
    let ours: Vec<&UnitSettings> = units.iter().filter(|unit| is_of(names, exclude, &unit.unit)).collect();
    for name in names {
        if !ours.iter().any(|unit| is_of(std::slice::from_ref(name), &[], &unit.unit)) {
            let unit = UnitSettings { unit: name.clone(), ..UnitSettings::default() };
            let what = "it matches no unit that is loaded".to_owned();
            let then = "take it out of the target, or mend the name".to_owned();
            let bare = unit_finding(&unit, Some(target), "target-matches-nothing", "", "", what, "the target renews nothing of it");
            found.push(Finding { mend: Mend { then, ..Mend::default() }, ..bare });
        }
    }
    for unit in ours {
        match missing(unit, Some(target)) {
            // One that nobody can start and that does not run hurts nobody, unless it is named.
            Some(finding) if finding.id != "unit-masked" || unit.active.runs() || names.contains(&unit.unit) => found.push(finding),
            Some(_) => {}
            None => one(&rules, unit, &mut found),
        }
    }
    found
}

fn one(rules: &Rules<'_>, unit: &UnitSettings, found: &mut Vec<Finding>) {
    let about = |id, section, line: &str, what: String, costs| unit_finding(unit, Some(rules.target), id, section, line, what, costs);
    // The rules can say what the unit's files cannot.
    let by_rules = |id, line: &str, what: String, costs| {
        let mend = Mend {
            file: "/etc/restart-agent/conf.d/".to_owned(),
            section: format!("target.{}", rules.target),
            write: vec![line.to_owned()],
            then: "systemctl reload restart-agent".to_owned(),
            line: None,
        };
        Finding { mend, ..unit_finding(unit, Some(rules.target), id, "", "", what, costs) }
    };
    if rules.scripts && !unit.on_success.is_empty() && !unit.on_failure.is_empty() && rules.overdue != Some(Overdue::Finish) {
        let what = format!("OnSuccess={} and OnFailure={}", unit.on_success.join(" "), unit.on_failure.join(" "));
        found.push(if rules.overdue.is_none() {
            by_rules(
                "script-both-hooks",
                "overdue = \"finish\"    # or \"stop\": then each stop starts the OnFailure= unit",
                what,
                "any stop would start one of the two, so it is never stopped: old code runs on until it ends. Say which you want",
            )
        } else {
            by_rules(
                "script-both-hooks",
                "overdue = \"finish\"",
                what,
                "each stop by the agent starts its OnFailure= unit, as if it had failed by itself",
            )
        });
    }
    match unit.kill_mode.as_str() {
        "process" | "none" => found.push(about(
            "unit-leaves-processes",
            "Service",
            "KillMode=control-group",
            format!("KillMode={}", unit.kill_mode),
            "whoever stops it leaves its children behind, with old code; the agent kills them only in its own stops",
        )),
        _ => {}
    }
    if !unit.send_sigkill || (unit.final_kill_signal != 0 && unit.final_kill_signal != SIGKILL) {
        let line = if unit.send_sigkill { "FinalKillSignal=SIGKILL" } else { "SendSIGKILL=yes" };
        let what = if unit.send_sigkill { format!("FinalKillSignal={}", unit.final_kill_signal) } else { "SendSIGKILL=no".to_owned() };
        found.push(about("unit-is-not-killed", "Service", line, what, "a process that ignores SIGTERM outlives every stop, with old code"));
    }
    let exclude = format!("exclude = [\"{}\"]", unit.unit);
    if unit.refuse_manual_stop {
        let costs = "the agent cannot stop it: it runs old code until it ends, and status says left";
        found.push(about("unit-refuses-stop", "Unit", "RefuseManualStop=no", "RefuseManualStop=yes".to_owned(), costs));
    }
    if unit.refuse_manual_start && rules.reruns {
        let costs = "once it is stopped the agent cannot start it again: it waits for its timer, or for what requires it";
        found.push(about("unit-refuses-start", "Unit", "RefuseManualStart=no", "RefuseManualStart=yes".to_owned(), costs));
    }
    if unit.transient && rules.reruns {
        let costs = "it is gone when it has been stopped: nobody can start it again";
        found.push(by_rules("unit-transient", &exclude, "it was made at run time, by systemd-run or the like".to_owned(), costs));
    }
    if unit.exec_start.len() > 1 {
        let costs = "whoever stops it while one of them runs starts the next in the middle of the stop, if that one ends well; for the agent it costs one more daemon-reload";
        let what = format!("it has {} ExecStart=", unit.exec_start.len());
        let mut finding = about("unit-several-commands", "Service", "ExecStart=", what, costs);
        let all = unit.exec_start.iter().map(|argv| argv.join(" ")).collect::<Vec<_>>().join(" && ");
        finding.mend.write.push(if all.contains('\'') {
            "ExecStart=SCRIPT    # one that runs them all".to_owned()
        } else {
            format!("ExecStart=/bin/sh -c '{all}'")
        });
        found.push(finding);
    }
    if !unit.exec_stop.is_empty() {
        let costs = "it runs before SIGTERM is sent: if it hangs, all of term_timeout is over before the process hears of the stop";
        let what = format!("ExecStop={}", unit.exec_stop.iter().map(|argv| argv.join(" ")).collect::<Vec<_>>().join("; "));
        found.push(about("unit-stop-hook", "Service", "ExecStop=", what, costs));
    }
}
