//! Every rule with every kind of timer and every kind of script, all at once, one deploy: what becomes of each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::agent::Agent;
use lab::jobs::{self, Job, Marks};
use lab::ledger::{self, How, Ledger, Run};
use lab::{Host, Release, wait_for};
use serde_json::Value;

use crate::{now, old};

mod cases;
mod table;

use cases::{Case, Cut, DELAY, Kind, PASSED, RULES, Rule, Then};
use table::Outcomes;

const MINUTE: Duration = Duration::from_secs(60);
/// Clocks and jobs of a busy machine, in seconds.
const ABOUT: f64 = 3.0;
/// `term_timeout`, in seconds.
const TERM: f64 = 4.0;

/// Of the releases that are through; the last one looks after the page.
static SEEN: Mutex<BTreeMap<Release, Outcomes>> = Mutex::new(BTreeMap::new());

pub fn matrix(release: Release) -> Result<()> {
    let host = Host::boot(release, "matrix")?;
    let agent = Agent::install(&host)?;
    agent.deploy("d0")?;
    let targets: String = RULES.iter().map(|rule| rule.target()).collect();
    agent.configure(&format!("{}{targets}", cases::CONFIG))?;
    let mut outcomes = Outcomes::new();
    let mut problems = Vec::new();
    for rule in RULES {
        one_rule(&host, &agent, rule, &mut outcomes, &mut problems).with_context(|| rule.name())?;
    }
    if !problems.is_empty() {
        bail!("{} problems\n{}", problems.len(), problems.join("\n"));
    }
    let mut all = SEEN.lock().map_err(|_| anyhow::anyhow!("the other release panicked"))?;
    all.insert(release, outcomes);
    if all.len() == Release::ALL.len() { table::write_or_compare(&all) } else { Ok(()) }
}

/// All cases of a rule run when one deploy lands.
fn one_rule(host: &Host, agent: &Agent<'_>, rule: Rule, outcomes: &mut Outcomes, problems: &mut Vec<String>) -> Result<()> {
    let begin = now() + 6.0;
    let cases = cases::all(rule, begin);
    let jobs: Vec<Job> = cases.iter().map(Case::job).collect::<Result<_>>()?;
    begin_all(host, &cases, &jobs)?;
    wait_for("the slots to have passed", MINUTE, || Ok((now() > begin + PASSED).then_some(())))?;
    let ledger = Ledger::read(host)?;
    let twice = cases.iter().find(|case| ledger.runs(&case.name()).len() != 1);
    ensure!(twice.is_none(), "before the deploy: {twice:?}");

    agent.deploy(rule.name())?;
    let waited = agent.wait(MINUTE * 2)?;
    if waited.status != 0 {
        problems.push(format!("wait exits {}: {}{}\n{}", waited.status, waited.stdout, waited.stderr, agent.status_text()?));
    }
    jobs::settled(host)?;
    if let Err(left) = agent.ensure_nothing_left() {
        problems.push(format!("{left:#}"));
    }
    let seen = Seen::look(host, agent)?;
    for case in &cases {
        let outcome = seen.of(case);
        let mut wrong = seen.wrong(case);
        if outcome != Some(case.promised()) {
            wrong.push(format!("{outcome:?}, not {:?}", case.promised()));
        }
        if !wrong.is_empty() {
            problems.push(format!("{}: {}\n    {}", case.name(), wrong.join("; "), story(seen.ledger.runs(&case.name()), begin)));
        }
        outcomes.insert(case.name(), outcome.map_or_else(String::new, words));
    }
    // The next rule has the host to itself.
    let units: Vec<String> = jobs.iter().flat_map(Job::timers).chain(cases.iter().map(Case::service)).collect();
    jobs::systemctl(host, &["kill", "--signal=KILL"], &cases.iter().map(Case::service).collect::<Vec<_>>()).ok();
    jobs::systemctl(host, &["stop"], &units[..units.len() - cases.len()])?;
    host.sh_ok(&format!("cd /etc/systemd/system && rm -f {0}.*.service {0}.*.timer timers.target.wants/{0}.*", rule.name()))?;
    Ok(())
}

/// Installs all, starts their timers, and those that no timer starts soon; until all have begun.
fn begin_all(host: &Host, cases: &[Case], jobs: &[Job]) -> Result<()> {
    ledger::install(host, jobs)?;
    let timers: Vec<String> = jobs.iter().flat_map(Job::timers).collect();
    jobs::systemctl(host, &["start"], &timers)?;
    let by_hand: Vec<String> = cases.iter().filter(|case| case.kind.by_hand()).map(Case::service).collect();
    jobs::systemctl(host, &["start", "--no-block"], &by_hand)?;
    wait_for("every script to begin", MINUTE, || {
        let ledger = Ledger::read(host)?;
        let missing: Vec<String> = cases.iter().map(Case::name).filter(|name| ledger.runs(name).is_empty()).collect();
        if missing.is_empty() { Ok(Some(())) } else { bail!("not begun: {missing:?}") }
    })
}

fn words((cut, then): (Cut, Then)) -> String {
    let then = match then {
        Then::Again => "again",
        Then::Quiet => "quiet",
        Then::Down => "down",
        Then::GoesOn => return "goes on".to_owned(),
    };
    let cut = match cut {
        Cut::Sigterm => "SIGTERM",
        Cut::Sigkill => "SIGKILL",
        Cut::Checkpoint => "checkpoint",
        Cut::Not => "by itself",
    };
    format!("{cut}, {then}")
}

fn story(runs: &[Run], begin: f64) -> String {
    let lines = runs.iter().flat_map(|run| run.words.iter().map(|(at, words)| format!("{:.1} {words}", at - begin)));
    lines.collect::<Vec<_>>().join(", ")
}

/// What is to be seen when all is over.
struct Seen {
    ledger: Ledger,
    marks: Marks,
    landed: f64,
    /// By service: `ActiveState`.
    states: BTreeMap<String, String>,
    /// By timer: whether it is active, and its next elapse in seconds since 1970.
    timers: BTreeMap<String, (bool, Option<f64>)>,
    /// By service: when its oldest process began.
    oldest: BTreeMap<String, f64>,
    casualties: Vec<String>,
    /// Services of which systemd has killed a process, whoever wanted it.
    killed: BTreeSet<String>,
    /// By service: what history calls it.
    history: BTreeMap<String, String>,
}

impl Seen {
    fn look(host: &Host, agent: &Agent<'_>) -> Result<Seen> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let units: Vec<Value> =
            serde_json::from_str(&host.ok(&["systemctl", "list-units", "--all", "--output=json", "*.service", "*.timer"])?)?;
        let states: BTreeMap<String, String> = units.iter().map(|unit| (text(&unit["unit"]), text(&unit["active"]))).collect();
        let timers: Vec<Value> = serde_json::from_str(&host.ok(&["systemctl", "list-timers", "--all", "--output=json"])?)?;
        let next = |timer: &Value| timer["next"].as_u64().filter(|next| *next != 0 && *next != u64::MAX).map(|next| next as f64 / 1e6);
        let timers = timers.iter().map(|timer| {
            let name = text(&timer["unit"]);
            (name.clone(), (states.get(&name).is_some_and(|state| state == "active"), next(timer)))
        });
        let timers = timers.collect();
        let history = agent.history()?;
        let outcomes = history.iter().flat_map(|rollout| rollout["units"].as_array().into_iter().flatten());
        let mut seen = Seen {
            ledger: Ledger::read_whole(host)?,
            marks: Marks::read(host)?,
            landed: old::landed(host)?,
            oldest: old::oldest(host)?,
            casualties: agent.casualties()?.iter().map(|casualty| text(&casualty["unit"])).collect(),
            history: outcomes.map(|outcome| (text(&outcome["unit"]), text(&outcome["what"]))).collect(),
            killed: killed(host)?,
            states,
            timers,
        };
        seen.casualties.sort();
        Ok(seen)
    }

    fn next(&self, timer: &str) -> Option<f64> {
        self.timers.get(timer).and_then(|(_, next)| *next)
    }

    /// What became of it, as systemd, the processes and its own marks show it. `None`: it makes no sense.
    fn of(&self, case: &Case) -> Option<(Cut, Then)> {
        let runs = self.ledger.runs(&case.name());
        let first = runs.first()?;
        let cut = match first.how() {
            How::Runs => Cut::Not,
            How::AtCheckpoint => Cut::Checkpoint,
            How::Cut if self.killed.contains(&case.service()) => Cut::Sigkill,
            How::Cut => Cut::Sigterm,
            How::ByItself(_) | How::Tie => return None,
        };
        let then = match (runs.len(), self.oldest.get(&case.service())) {
            (1, Some(start)) if cut == Cut::Not && *start < self.landed => Then::GoesOn,
            (2, Some(start)) if cut != Cut::Not && *start > self.landed => Then::Again,
            (1, None) if cut != Cut::Not && self.next(&format!("{}.timer", case.name())).is_some() => Then::Quiet,
            (1, None) if cut != Cut::Not => Then::Down,
            _ => return None,
        };
        Some((cut, then))
    }

    /// What must be so in no case.
    fn wrong(&self, case: &Case) -> Vec<String> {
        let (name, service) = (case.name(), case.service());
        let runs = self.ledger.runs(&name);
        let mut wrong = Vec::new();
        let mut rule = |broken: bool, what: &str| {
            if broken {
                wrong.push(what.to_owned());
            }
        };
        let state = self.states.get(&service).map_or("inactive", String::as_str);
        rule(state == "failed", "failed");
        rule(self.marks.count(&name, "failure") > 0, "OnFailure= was started");
        rule(self.marks.count(&name, "second") > 0, "its next ExecStart= was run");
        rule(runs.len() > 2, "started more than once");
        rule(state == "deactivating", "still being stopped");
        for (timer, expected) in self.expected(case) {
            let active = self.timers.get(&timer).is_some_and(|(active, _)| *active);
            rule(!active, &format!("{timer} is stopped"));
            let next = self.next(&timer);
            let good = match (expected, next) {
                (Some((from, until)), Some(next)) => (from - ABOUT..=until + ABOUT).contains(&next),
                (None, next) => next.is_none(),
                (Some(_), None) => false,
            };
            rule(!good, &format!("{timer} has its next run at {next:?}, not within {expected:?}"));
        }
        let recorded = self.casualties.iter().filter(|unit| **unit == service).count();
        let cut = runs.iter().filter(|run| run.how() == How::Cut).count();
        rule(recorded != cut, &format!("{cut} runs were cut, {recorded} are recorded as casualties"));
        let said = match case.promised().1 {
            Then::Again => "renewed",
            Then::Quiet | Then::Down => "quiet",
            Then::GoesOn => "left",
        };
        let told = self.history.get(&service).map_or("nothing", String::as_str);
        rule(told != said, &format!("history calls it {told}, not {said}"));
        wrong
    }

    /// Its timers, and within which two moments each has its next run. Not of a run that still goes on: then systemd itself says none.
    fn expected(&self, case: &Case) -> Vec<(String, Option<(f64, f64)>)> {
        let name = case.name();
        let runs = self.ledger.runs(&name);
        let (Some(first), Some(last)) = (runs.first(), runs.last()) else { return Vec::new() };
        let timer = format!("{name}.timer");
        let Some(stopped) = first.stopped else { return Vec::new() };
        let exactly = |at: f64| Some((at, at));
        // systemd may count from a run's start or, where it started it, from the moment at which it decided to.
        let from_start = |gap: f64| exactly(last.start + gap);
        match case.kind {
            Kind::Calendar | Kind::Persistent => vec![(timer, exactly(case.next))],
            Kind::RandomDelay => vec![(timer, Some((case.next, case.next + DELAY)))],
            Kind::UnitActive | Kind::BootAndUnitActive => vec![(timer, from_start(case.gap()))],
            // From when the last of its processes was gone.
            Kind::UnitInactive => vec![(timer, Some((stopped + case.gap(), stopped + case.gap() + TERM)))],
            Kind::ActiveOnly => vec![(timer, None)],
            Kind::TwoTimers => vec![(timer, exactly(case.next)), (format!("{name}.second.timer"), from_start(2.0 * case.gap()))],
            Kind::NoTimer => Vec::new(),
        }
    }
}

/// As systemd's journal has it: `Sent signal SIGKILL to main process …`, `Killing process … with signal SIGKILL`.
fn killed(host: &Host) -> Result<BTreeSet<String>> {
    host.ok(&["journalctl", "--sync"])?;
    let lines = host.sh_ok("journalctl --boot --output=json --output-fields=UNIT,MESSAGE _PID=1 | grep SIGKILL || true")?;
    let unit = |line: &str| -> Result<String> { Ok(serde_json::from_str::<Value>(line)?["UNIT"].as_str().unwrap_or_default().to_owned()) };
    lines.lines().map(unit).collect()
}
