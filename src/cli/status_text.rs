//! `status` as text: what, why, until when, what next.

use std::collections::BTreeMap;
use std::fmt::Write;

use super::output::Page;
use super::phrase::{count, rough, took};
use crate::core::status::{
    Casualty, CasualtyKind, CutCount, DepooledBy, NOT_TAKEN, OpcacheView, PoolState, RolloutResult, RolloutView, State, StatusView,
    TargetState, TargetView, UNUSABLE, UnitEnd, UnitView,
};

/// How many units of a target are listed, unless it was asked for by name.
const UNITS_SHOWN: usize = 20;
/// How many casualties of the last rollout are listed.
const CASUALTIES_SHOWN: usize = 10;

/// The whole page. `only`: this target, with all its units.
pub fn page(view: &StatusView, only: Option<&str>, page: &Page) -> String {
    let deploy = match (&view.stamp.id, view.stamp.landed_at) {
        (Some(id), Some(at)) => format!("deploy {id}, landed {}", page.since(at)),
        (Some(id), None) => format!("deploy {id}"),
        (None, _) => "no deploy seen yet".to_owned(),
    };
    let mut text = headline(view, &deploy, page) + "\n";
    let facts = facts(view, page);
    let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, line) in facts {
        let _ = writeln!(text, "  {name:width$}  {line}");
    }
    let targets: Vec<&TargetView> = view.targets.iter().filter(|target| only.is_none_or(|only| target.name == only)).collect();
    if !targets.is_empty() {
        text.push('\n');
        text.push_str(&table(&targets, only.is_some(), page));
    }
    if let Some(rollout) = &view.last_rollout {
        text.push('\n');
        // What the table says is not said again.
        let said = |why: &str| targets.iter().flat_map(|target| &target.units).any(|unit| !unit.why.is_empty() && why.ends_with(&unit.why));
        text.push_str(&last_rollout(rollout, said, page));
    }
    text
}

/// One line for where lines follow each other: a log, a spinner.
pub fn one_line(view: &StatusView, page: &Page) -> String {
    let deploy = view.stamp.id.as_ref().map_or_else(|| "no deploy seen yet".to_owned(), |id| format!("deploy {id}"));
    let mut line = headline(view, &deploy, page);
    if let Some(waiting_for) = &view.waiting_for {
        let _ = write!(line, "; waiting for {waiting_for}");
    }
    if let Some(deadline) = view.deadline {
        let _ = write!(line, "; until {}", page.until(deadline));
    }
    if let Some(next) = &view.next {
        let _ = write!(line, ", then {next}");
    }
    line
}

fn headline(view: &StatusView, deploy: &str, page: &Page) -> String {
    let said = match view.state {
        State::Idle | State::Blocked if view.targets.is_empty() && problem(view, UNUSABLE) => {
            "BLOCKED: the configuration cannot be used; nothing is renewed until it is mended".to_owned()
        }
        State::Idle if view.targets.is_empty() => "idle: no targets are configured, so nothing is ever restarted".to_owned(),
        State::Idle if view.reached.is_some() => "idle: no deploy seen yet; what is there counts as reached".to_owned(),
        State::Idle => "idle: no deploy seen yet".to_owned(),
        State::Converged => format!("converged: {deploy}"),
        State::Converging => format!("converging: {deploy}"),
        State::Held => format!("held: nothing is restarted; {deploy}"),
        State::Blocked => format!("BLOCKED: cannot go on now, tries again by itself; {deploy}"),
        State::Failed => format!("FAILED: a person has to look; {deploy}"),
    };
    if view.agent.running {
        return said;
    }
    let (first, rest) = (said.chars().next().into_iter().collect::<String>(), said.chars().skip(1).collect::<String>());
    format!("THE AGENT IS NOT RUNNING. It wrote this at {}:\n{first}{rest}", page.since(view.written_at))
}

/// Whether one of the problems is of this kind. They may be told together.
fn problem(view: &StatusView, kind: &str) -> bool {
    view.problems.iter().any(|problem| problem.contains(kind))
}

/// Name and text of each line between the headline and the targets.
fn facts(view: &StatusView, page: &Page) -> Vec<(String, String)> {
    let mut lines: Vec<(String, String)> = Vec::new();
    let mut say = |name: &str, line: String| lines.push((name.to_owned(), line));
    if !view.agent.running {
        say("do now", "systemctl start restart-agent; why it ended: journalctl -u restart-agent -n 50".to_owned());
        for owed in &view.owed {
            say("OWED", owed.clone());
        }
        if !view.owed.is_empty() {
            say("or", "sudo restart-agent daemon --settle-debts gives back what is owed, and begins nothing".to_owned());
        }
    }
    for problem in &view.problems {
        say("PROBLEM", problem.clone());
    }
    if let Some(error) = &view.stamp.error {
        say("stamp", error.clone());
    }
    if !view.stamp.unknown_targets.is_empty() {
        say("stamp", format!("names what is no target here: {}; other hosts' targets, or slips", view.stamp.unknown_targets.join(", ")));
    }
    if let Some(begun) = &view.begun {
        let text = format!(
            "deploy {} has begun: no script starts until the stamp says \"done\", at most until {}",
            begun.id,
            page.until(begun.until)
        );
        say("begun", text);
    }
    if let Some(hold) = &view.hold {
        let of = hold.targets.as_ref().map(|targets| format!(" of {}", targets.join(", "))).unwrap_or_default();
        say("hold", format!("{} (by {}){of}, until {}; sudo restart-agent release ends it", hold.reason, hold.by, page.until(hold.until)));
    }
    // What is a problem is told above, and what to do about it below.
    let told = view.waiting_for.as_ref().is_some_and(|waiting_for| view.problems.contains(waiting_for));
    if let Some(waiting_for) = view.waiting_for.as_ref().filter(|_| !told) {
        say("waiting for", waiting_for.clone());
    }
    if let Some(deadline) = view.deadline {
        say("until", page.until(deadline));
    }
    if let Some(next) = view.next.as_ref().filter(|_| !(told && problem(view, UNUSABLE))) {
        say("next", next.clone());
    }
    if let Some(reached) =
        view.reached.as_ref().filter(|reached| view.state != State::Converged || Some(&reached.id) != view.stamp.id.as_ref())
    {
        say("runs now", format!("deploy {}, reached {}", reached.id, page.since(reached.at)));
    } else if let Some(reached) = &view.reached {
        say("reached", page.since(reached.at));
    }
    for pool in &view.pools {
        let since = pool.since.map(|since| format!(" since {}", page.since(since))).unwrap_or_default();
        let state = match (pool.state, pool.depooled_by) {
            (PoolState::Pooled, _) => format!("pooled{since}"),
            (PoolState::Depooled, Some(DepooledBy::Agent)) => format!("depooled by this agent{since}; it repools when it is done"),
            (PoolState::Depooled, Some(DepooledBy::Other)) => format!("depooled by somebody else{since}: the agent leaves it alone"),
            (PoolState::Depooled, None) => format!("depooled{since}"),
            (PoolState::Unknown, by) => {
                let ours = if by == Some(DepooledBy::Agent) { "; this agent depooled it" } else { "" };
                format!("UNKNOWN{since}: its check does not say{ours}")
            }
        };
        say(&format!("pool {}", pool.name), state);
    }
    for unit in view.targets.iter().flat_map(|target| &target.units) {
        if let Some(opcache) = &unit.opcache {
            say("opcache", format!("{}: {}", unit.unit, filled(opcache, page)));
        }
    }
    // At rest nobody looks a second time: what has started since is not in the table.
    if let Some(at) = view.targets.iter().map(|target| target.looked_at).min().flatten() {
        say("units", format!("as seen {}; sudo restart-agent plan looks now", page.since(at)));
    }
    if view.slot.state != "none" {
        let holders = if view.slot.holders.is_empty() { String::new() } else { format!(", holders: {}", view.slot.holders.join(", ")) };
        say("slot", format!("{}{holders}", view.slot.state));
    }
    if problem(view, UNUSABLE) || problem(view, NOT_TAKEN) {
        say("do now", "mend it, restart-agent check-config tells all errors; then sudo systemctl reload restart-agent".to_owned());
    }
    match view.state {
        State::Idle if view.targets.is_empty() && !problem(view, UNUSABLE) => {
            say("do now", "write targets into /etc/restart-agent/config.toml, then systemctl reload restart-agent".to_owned())
        }
        State::Failed => say("do now", "mend what the table below names, then sudo restart-agent trigger".to_owned()),
        _ => {}
    }
    if view.agent.running {
        say("agent", format!("{}, pid {}, running since {}", view.agent.version, view.agent.pid, page.since(view.agent.since)));
    }
    lines
}

/// `63 % of 128 MiB, 12000 of 16229 keys, 3h 2m old`.
fn filled(opcache: &OpcacheView, page: &Page) -> String {
    let note = opcache.note.as_deref();
    let Some(fill) = &opcache.fill else { return format!("unknown: {}", note.unwrap_or("no answer")) };
    let taken = fill.used.saturating_add(fill.wasted);
    let size = taken.saturating_add(fill.free);
    let percent = u128::from(taken) * 100 / u128::from(size.max(1));
    let age = rough(page.now.since(fill.since));
    let note = note.map(|note| format!("; {note}")).unwrap_or_default();
    format!("{percent} % of {} MiB, {} of {} keys, {age} old{note}", size >> 20, fill.keys, fill.max_keys)
}

fn table(targets: &[&TargetView], whole: bool, page: &Page) -> String {
    let mut rows = Vec::new();
    for target in targets {
        let until = |at: Option<_>| at.map(|at| page.time(at)).unwrap_or_default();
        let head = |unit: String, stale: String, in_flight: String| {
            vec![
                target.name.clone(),
                target.kind.clone(),
                target.state.word().to_owned(),
                unit,
                stale,
                in_flight,
                until(target.deadline),
                target.why.clone(),
            ]
        };
        if let [unit] = &target.units[..]
            && unit.state == target.state
        {
            let mut row = head(unit.unit.clone(), stale(unit), in_flight(unit));
            if let Some(why) = row.last_mut().filter(|why| why.ends_with(&unit.why) && !unit.why.is_empty()) {
                why.clone_from(&unit.why);
            }
            rows.push(row);
            continue;
        }
        let mut shown: Vec<&UnitView> =
            target.units.iter().filter(|unit| whole || !matches!(unit.state, TargetState::Fresh | TargetState::Adopted)).collect();
        shown.sort_by_key(|unit| std::cmp::Reverse(unit.state));
        let mut row = head(summary(target), String::new(), String::new());
        if let Some(why) = row.last_mut().filter(|why| shown.iter().any(|unit| why.starts_with(&format!("{}: ", unit.unit)))) {
            // Told in that unit's own line.
            why.clear();
        }
        rows.push(row);
        let most = if whole { usize::MAX } else { UNITS_SHOWN };
        for unit in shown.iter().take(most) {
            rows.push(vec![
                String::new(),
                String::new(),
                unit.state.word().to_owned(),
                unit.unit.clone(),
                stale(unit),
                in_flight(unit),
                until(unit.deadline),
                unit.why.clone(),
            ]);
        }
        if shown.len() > most {
            let mut more = vec![String::new(); 8];
            more[3] = format!("and {} more: --target {}", shown.len() - most, target.name);
            rows.push(more);
        }
    }
    page.table(&["TARGET", "KIND", "STATE", "UNIT", "STALE", "IN FLIGHT", "UNTIL", "WHY"], &rows)
}

fn stale(unit: &UnitView) -> String {
    if unit.stale_processes > 0 { unit.stale_processes.to_string() } else { String::new() }
}

fn in_flight(unit: &UnitView) -> String {
    unit.in_flight.map(|number| number.to_string()).unwrap_or_default()
}

/// `15 units: 12 fresh, 3 draining`.
fn summary(target: &TargetView) -> String {
    let units = &target.units;
    if units.is_empty() {
        // At work on it the agent names only what is stale.
        let said = if target.looked_at.is_some() { "no unit runs" } else { "" };
        return said.to_owned();
    }
    let mut states: BTreeMap<TargetState, usize> = BTreeMap::new();
    for unit in units {
        *states.entry(unit.state).or_default() += 1;
    }
    let parts: Vec<String> = states.iter().map(|(state, number)| format!("{number} {}", state.word())).collect();
    format!("{}: {}", count(units.len(), "unit", "units"), parts.join(", "))
}

fn last_rollout(rollout: &RolloutView, said: impl Fn(&str) -> bool, page: &Page) -> String {
    let mut text = match (rollout.finished_at, rollout.result) {
        (Some(at), Some(result)) => {
            format!(
                "Last rollout {}, deploy {}: {} {}, took {}",
                rollout.id,
                rollout.deploy,
                result_word(result),
                page.since(at),
                took(at.since(rollout.started_at))
            )
        }
        _ => format!("Rollout {}, deploy {}: under way since {}", rollout.id, rollout.deploy, page.since(rollout.started_at)),
    };
    let units = ends(rollout);
    if !units.is_empty() {
        let _ = write!(text, "; {units}");
    }
    let _ = write!(text, "; {}", cut_words(rollout.cut(), "nothing was cut"));
    text.push('\n');
    if let Some(why) = rollout.why.as_ref().filter(|why| !said(why)) {
        let _ = writeln!(text, "  why: {why}");
    }
    match (&rollout.by, &rollout.reason) {
        (Some(by), Some(reason)) => drop(writeln!(text, "  asked for by {by}: {reason}")),
        (Some(by), None) => drop(writeln!(text, "  asked for by {by}")),
        (None, Some(reason)) => drop(writeln!(text, "  reason: {reason}")),
        (None, None) => {}
    }
    for note in notes(rollout) {
        let _ = writeln!(text, "  note: {note}");
    }
    for casualty in rollout.casualties.iter().take(CASUALTIES_SHOWN) {
        let _ = writeln!(text, "  {}", cut(casualty));
    }
    if rollout.casualties.len() > CASUALTIES_SHOWN {
        let _ = writeln!(text, "  and {} more: sudo restart-agent casualties", rollout.casualties.len() - CASUALTIES_SHOWN);
    }
    text
}

/// `3 casualties`, and whether there may be more that nobody can name; `none` if nothing was cut.
pub fn cut_words(cut: CutCount, none: &str) -> String {
    match (cut.known, cut.perhaps) {
        (0, false) => none.to_owned(),
        (0, true) => "requests may have been cut and cannot be named".to_owned(),
        (known, false) => count(known, "casualty", "casualties"),
        (known, true) => format!("{}, others may have been cut and cannot be named", count(known, "casualty", "casualties")),
    }
}

/// `cut: request /srv/app/index.php of php8.2-fpm.service, pid 1234, after 3.2s by SIGTERM`.
fn cut(casualty: &Casualty) -> String {
    let of = if casualty.name == casualty.unit { String::new() } else { format!(" of {}", casualty.unit) };
    if casualty.perhaps {
        return format!("perhaps cut: {}{of}, by {}", casualty.name, casualty.ended_by);
    }
    let sure = if casualty.certain { "cut" } else { "probably cut" };
    let what = kind_word(casualty.what);
    let pid = if casualty.pid == 0 { String::new() } else { format!(", pid {}", casualty.pid) };
    let after = if casualty.ran.is_empty() { "," } else { ", after " };
    let after = format!("{after}{}", casualty.ran);
    format!("{sure}: {what} {}{of}{pid}{after} by {}", casualty.name, casualty.ended_by)
}

/// `3 renewed, 1 left`, in the order of [`UnitEnd`].
pub fn ends(rollout: &RolloutView) -> String {
    let kinds = [
        (UnitEnd::Renewed, "renewed"),
        (UnitEnd::Finished, "ended or renewed without us"),
        (UnitEnd::Quiet, "stopped until its next run"),
        (UnitEnd::Left, "left"),
        (UnitEnd::Failed, "FAILED"),
    ];
    let number = |kind| rollout.units.iter().filter(|unit| unit.what == kind).count();
    let parts: Vec<String> = kinds
        .iter()
        .map(|(kind, word)| (number(*kind), word))
        .filter(|(number, _)| *number > 0)
        .map(|(number, word)| format!("{number} {word}"))
        .collect();
    parts.join(", ")
}

/// What a person should mend though the rollout went well.
pub fn notes(rollout: &RolloutView) -> impl Iterator<Item = String> {
    rollout.units.iter().flat_map(|unit| unit.notes.iter().map(|note| format!("{}: {note}", unit.unit)))
}

pub fn result_word(result: RolloutResult) -> &'static str {
    match result {
        RolloutResult::Converged => "converged",
        RolloutResult::Failed => "FAILED",
        RolloutResult::Aborted => "aborted",
        RolloutResult::Superseded => "superseded",
    }
}

pub fn kind_word(kind: CasualtyKind) -> &'static str {
    match kind {
        CasualtyKind::Request => "request",
        CasualtyKind::Script => "script",
    }
}
