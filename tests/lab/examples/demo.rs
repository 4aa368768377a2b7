//! The main job, live: one Debian 12 host, steady load, eight timers of a real farm, two deploys. `tests/demo` runs it.
//!
//! It ends with exit status 1 if what was seen is not what the agent promises.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use lab::agent::{Agent, STAMP};
use lab::load::{Class, Load, Report};
use lab::web::{self, Web};
use lab::{Host, Release, wait_for};
use serde_json::Value;

/// Every scheduled unit of the farm, with its calendar; the columns are named in its second line.
const TIMERS: &str = include_str!("../../fixtures/wikimedia-timers.tsv");
/// Stopped in the middle, and started again since its next run is far away. The first whose next run is not within two days.
const RERUN: [(&str, [i8; 2]); 2] = [
    ("mediawiki_job_updatequerypages_ancientpages_s1@11.service", [8, 22]),
    ("mediawiki_job_updatequerypages_mostrevisions_s1@11.service", [11, 25]),
];
/// Its rules let it finish.
const FINISHES: &str = "mediawiki_job_purge_parsercache_pc1.service";
/// Runs in the second deploy: stopped, and quiet until its next run, which is within the hour.
const HOURLY: &str = "mediawiki_job_growthexperiments-listTaskCounts.service";
/// At rest all the time.
const AT_REST: [&str; 5] = [
    "mediawiki_job_cirrus_build_completion_indices_eqiad.service",
    "mediawiki_job_cleanup_upload_stash.service",
    "mediawiki_job_echo_mail_batch.service",
    "mediawiki_job_generatecaptcha.service",
    "mediawiki_job_readinglists_purge.service",
];

const CONFIG: &str = r#"[stamp]
path = "/srv/deploy/stamp"

[pool]                                   # HAProxy, told by three small scripts
depool = ["/usr/local/bin/depool"]
repool = ["/usr/local/bin/pool"]
check = ["/usr/local/bin/pool-state"]

[target.web]
kind = "php-fpm"
unit = "php8.2-fpm.service"
drain_timeout = "3s"                     # a request may take this long; then it is cut

[target.scripts]
kind = "scheduled"
units = ["mediawiki_job_*.service"]
exclude = ["mediawiki_job_purge_*.service"]
drain_timeout = "2s"

[target.purges]
kind = "scheduled"
units = ["mediawiki_job_purge_*.service"]
drain_timeout = "2s"
overdue = "finish"                       # never stopped
"#;

/// Stands for a maintenance script: lasts SECONDS, and says which code it runs. Signals cut sleep() short, so the clock decides.
const SCRIPT: &str = r#"<?php
[, $unit, $seconds] = $argv;
$say = fn(string $what) => file_put_contents('/var/log/app/scripts.log', "$unit $what\n", FILE_APPEND);
$version = require '/srv/app/version.php';
$say("start $version");
$end = hrtime(true) + 1e9 * (float)$seconds;
while (($left = $end - hrtime(true)) > 0) {
    usleep((int)max(1, min($left / 1000, 100000)));
}
$say("end $version");
"#;

/// More than any deploy here takes; it is the demo that failed if one does.
const PATIENCE: Duration = Duration::from_secs(60);
/// Of the pages that a person would see.
const COLUMNS: u16 = 120;

fn main() -> ExitCode {
    let Some(package) = std::env::args_os().nth(1) else {
        eprintln!("demo: which package? tests/demo builds one and says so");
        return ExitCode::from(64);
    };
    match demo(package.as_ref()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Says whether everything was as promised.
fn demo(package: &std::path::Path) -> Result<bool> {
    let story = Story { begun: Instant::now() };
    story.tell("Booting a Debian 12 host with its own systemd");
    let host = Host::boot(Release::Bookworm, "demo")?;
    story.tell("Starting HAProxy, nginx, php8.2-fpm with code v0, and a second php-fpm that stands for the other host of the pool");
    let web = Web::install(&host, &web::Options::default())?;
    let rerun = far_away(&host)?;
    let long_runs = [rerun, FINISHES];
    story.tell("Eight timers with the calendars of Wikimedia's maintenance host; two of their scripts are in the middle of a long run");
    install_timers(&host, rerun)?;
    for unit in long_runs {
        start_script(&host, unit)?;
    }
    story.quote(
        &host.ok(&["systemctl", "list-timers", "--no-pager", "--legend=no", "mediawiki_job_*"]).map(|text| timers(&text, &long_runs))?,
    );
    story.tell("100 requests a second through HAProxy, from now to the end");
    let load = Load::builder(&host).rate(100.0).start()?;

    story.tell("dpkg -i restart-agent_*.deb: the agent runs, and does nothing");
    let agent = Agent::install_package(&host, package)?;
    story.quote(&page(&host)?);

    story.tell("/etc/restart-agent/config.toml, then restart-agent check-config && systemctl reload restart-agent");
    story.quote(CONFIG);
    agent.deploy("v0")?;
    configure(&agent, &host)?;
    let generation = web.generation()?;
    ensure!(agent.status()?["last_rollout"].is_null(), "a new configuration has renewed something");

    story.tell("restart-agent status: nothing was restarted, since the code that is there counts as reached");
    story.quote(&page(&host)?);

    let first = deploy(&story, &web, &load, &agent, "v1", &[Duration::from_millis(1500), Duration::from_secs(20)])?;
    ensure!(web.generation()? != generation, "php-fpm was not restarted");
    story.tell(&format!("The hourly script {HOURLY} starts"));
    start_script(&host, HOURLY)?;
    let second = deploy(&story, &web, &load, &agent, "v2", &[Duration::from_millis(1500)])?;

    story.tell("The load ends");
    let report = load.stop()?;
    let deploys = [first, second];
    let rollouts: Vec<Value> = serde_json::from_str(&host.ok(&["restart-agent", "history", "--json"])?)?;
    let rollouts: Vec<&Value> = rollouts.iter().rev().collect();
    ensure!(rollouts.len() == 2, "two deploys made {} rollouts", rollouts.len());
    println!("\n{}", requests_table(&report, &deploys));
    println!("{}", units_table(&rollouts));
    println!("{}", phases_table(&rollouts)?);
    let promises = promises(&web, &agent, &report, &deploys, &rollouts, rerun)?;
    let mut kept = true;
    println!("What was promised:");
    for (promise, seen) in &promises {
        kept &= seen.is_ok();
        match seen {
            Ok(()) => println!("  kept    {promise}"),
            Err(seen) => println!("  BROKEN  {promise}: {seen}"),
        }
    }
    println!(
        "\n{:.0} s in all. The host is thrown away; on a real one: README.md, \"On a real host\".",
        story.begun.elapsed().as_secs_f64()
    );
    Ok(kept)
}

/// What is said to the reader.
struct Story {
    begun: Instant,
}

impl Story {
    /// One step, with the time.
    fn tell(&self, text: &str) {
        println!("{:5.1} s  {text}", self.begun.elapsed().as_secs_f64());
    }

    /// What somebody else said.
    fn quote(&self, text: &str) {
        for line in text.lines() {
            println!("         | {line}");
        }
    }
}

/// A touched stamp and what follows, until the host has converged.
#[derive(Debug)]
struct Deployed {
    version: &'static str,
    touched: SystemTime,
    converged: SystemTime,
    /// Requests that ran when the stamp was touched, beside the steady load.
    long: Vec<u64>,
}

fn deploy(
    story: &Story,
    web: &Web<'_>,
    load: &Load<'_>,
    agent: &Agent<'_>,
    version: &'static str,
    durations: &[Duration],
) -> Result<Deployed> {
    let host = web.host();
    let mut long = Vec::new();
    for duration in durations {
        long.push(load.send(*duration, web::POOL)?);
    }
    for id in &long {
        load.wait_started(*id)?;
    }
    let took: Vec<String> = durations.iter().map(|duration| format!("{:?}", duration)).collect();
    println!();
    story.tell(&format!("php-fpm is at work on requests of {}, too", took.join(" and ")));
    web.deploy_code(version)?;
    story.tell(&format!("Code {version} is on the disk. The deploy hook: echo {version} > {STAMP}; restart-agent wait --verbose"));
    let touched = SystemTime::now();
    agent.deploy(version)?;
    let mut wait = host.command(["restart-agent", "wait", "--verbose", "--timeout", "60s"]).timeout(PATIENCE).spawn()?;
    let (mut told, mut drawn) = (0, false);
    wait_for("the deploy to converge", PATIENCE, || {
        let running = wait.is_running()?;
        let said = wait.stderr()?;
        for line in said.lines().skip(told) {
            story.quote(line);
        }
        told = said.lines().count();
        let status = agent.status()?;
        if !drawn && status["pools"][0]["state"] == "depooled" && is_draining(&status) {
            drawn = true;
            story.tell("restart-agent status, for whoever looks now");
            story.quote(&page(host)?);
        }
        Ok((!running).then_some(()))
    })?;
    let converged = SystemTime::now();
    let waited = wait.wait(PATIENCE)?;
    ensure!(waited.status == 0, "restart-agent wait ended with {}: {}\n{}", waited.status, waited.stderr, agent.status_text()?);
    story.quote(waited.stdout.trim_end());
    story.tell("restart-agent status, afterwards");
    story.quote(&page(host)?);
    Ok(Deployed { version, touched, converged, long })
}

fn is_draining(status: &Value) -> bool {
    status["targets"].as_array().into_iter().flatten().any(|target| target["kind"] == "php-fpm" && target["state"] == "draining")
}

/// `restart-agent status` as it looks on a terminal of this demo's width.
fn page(host: &Host) -> Result<String> {
    let text = host.ok(&[
        "script",
        "--quiet",
        "--return",
        "--command",
        &format!("stty rows 50 cols {COLUMNS}; restart-agent status"),
        "/dev/null",
    ])?;
    Ok(text.replace('\r', ""))
}

fn configure(agent: &Agent<'_>, host: &Host) -> Result<()> {
    host.write("/etc/restart-agent/config.toml", CONFIG)?;
    host.sh_ok("restart-agent check-config && systemctl reload restart-agent")?;
    wait_for("the configuration to be read", Duration::from_secs(10), || {
        let status = agent.status()?;
        let known = status["targets"].as_array().is_some_and(|targets| targets.len() == 3) && status["pools"][0]["state"] == "pooled";
        if known && status["stamp"]["path"] == STAMP { Ok(Some(())) } else { bail!("{status}") }
    })
}

/// The unit whose next run is not within two days, whatever the date.
fn far_away(host: &Host) -> Result<&'static str> {
    let today: i8 = host.ok(&["date", "+%-d"])?.trim().parse()?;
    let far = |days: &[i8; 2]| days.iter().all(|day| !(0..=2).contains(&(day - today)));
    RERUN.iter().find(|(_, days)| far(days)).map(|(unit, _)| *unit).context("every script is about to run")
}

fn install_timers(host: &Host, rerun: &str) -> Result<()> {
    host.write("/srv/app/script.php", SCRIPT)?;
    let units: BTreeSet<&str> = [rerun, FINISHES, HOURLY].into_iter().chain(AT_REST).collect();
    let mut names = Vec::new();
    for unit in units {
        let row: Vec<&str> =
            TIMERS.lines().map(|line| line.split('\t').collect::<Vec<_>>()).find(|row| row[0] == unit).with_context(|| unit.to_owned())?;
        let (calendar, user, command) = (row[1], row[2], row[9]);
        let name = unit.trim_end_matches(".service");
        // As the farm's Puppet writes them; only the command is a stand-in.
        host.write(
            &format!("/etc/systemd/system/{unit}"),
            format!("[Unit]\nDescription={command}\n\n[Service]\nType=oneshot\nUser={user}\nExecStart=/usr/bin/php /srv/app/script.php {unit} 600\n"),
        )?;
        host.write(
            &format!("/etc/systemd/system/{name}.timer"),
            format!("[Timer]\nUnit={unit}\nAccuracySec=15sec\nOnCalendar={calendar}\n\n[Install]\nWantedBy=timers.target\n"),
        )?;
        names.push(format!("{name}.timer"));
    }
    host.sh_ok(&format!(
        "install -o www-data -g www-data /dev/null /var/log/app/scripts.log && systemctl daemon-reload && systemctl enable --quiet --now {}",
        names.join(" ")
    ))?;
    Ok(())
}

/// Starts a script as its timer would, and waits until it is at work.
fn start_script(host: &Host, unit: &str) -> Result<()> {
    host.ok(&["systemctl", "start", "--no-block", unit])?;
    wait_for(&format!("{unit} to be at work"), Duration::from_secs(10), || {
        Ok(scripts_log(host)?.iter().any(|(name, what)| name == unit && what.starts_with("start")).then_some(()))
    })
}

/// Unit, and `start VERSION` or `end VERSION`, in order.
fn scripts_log(host: &Host) -> Result<Vec<(String, String)>> {
    let log = host.read("/var/log/app/scripts.log")?;
    Ok(log.lines().filter_map(|line| line.split_once(' ')).map(|(unit, what)| (unit.to_owned(), what.to_owned())).collect())
}

/// Unit and next run of each timer, of the first and last columns of `systemctl list-timers`.
fn timers(listed: &str, running: &[&str]) -> String {
    let mut text = String::new();
    let mut names: Vec<&str> = listed.split_whitespace().filter(|word| word.ends_with(".service")).collect();
    names.sort_unstable();
    for name in names {
        let calendar = TIMERS.lines().filter_map(|line| line.strip_prefix(name)).filter_map(|rest| rest.split('\t').nth(1)).next();
        let state = if running.contains(&name) { "running" } else { "at rest" };
        let _ = writeln!(text, "{state}  {name:<62} OnCalendar={}", calendar.unwrap_or_default());
    }
    text
}

fn requests_table(report: &Report, deploys: &[Deployed; 2]) -> String {
    let mut rows = vec![cells("Requests", deploys.each_ref().map(|deploy| format!("deploy {}", deploy.version)))];
    let during = |deploy: &Deployed, class: Class| {
        report
            .of(class)
            .filter(|record| (record.sent_at >= deploy.touched || deploy.long.contains(&record.id)) && record.sent_at <= deploy.converged)
            .count()
    };
    for (name, class) in [("answered", Class::Ok), ("cut", Class::Cut), ("refused", Class::Refused), ("wrong answer", Class::Wrong)] {
        rows.push(cells(name, deploys.each_ref().map(|deploy| during(deploy, class).to_string())));
    }
    let counts = report.counts();
    rows.push(vec![
        "in all, between the deploys too".to_owned(),
        format!("{} answered, {} cut, {} refused, {} wrong", counts.ok, counts.cut, counts.refused, counts.wrong),
    ]);
    table(&rows)
}

/// What became of each unit.
fn units_table(rollouts: &[&Value]) -> String {
    let mut units: BTreeMap<&str, [Option<&Value>; 2]> = BTreeMap::new();
    for (number, rollout) in rollouts.iter().enumerate() {
        for unit in rollout["units"].as_array().into_iter().flatten() {
            units.entry(unit["unit"].as_str().unwrap_or_default()).or_default()[number] = Some(unit);
        }
    }
    let word = |unit: &Option<&Value>| match unit {
        None => "was at rest".to_owned(),
        Some(unit) => match unit["what"].as_str().unwrap_or_default() {
            "renewed" if unit["unit"].as_str().is_some_and(|unit| unit.contains("fpm")) => "renewed".to_owned(),
            "renewed" => "renewed: stopped, started again".to_owned(),
            "finished" => "ended by itself".to_owned(),
            "quiet" => "stopped until its next run".to_owned(),
            "left" => "let finish".to_owned(),
            other => format!("{other}: {}", unit["why"].as_str().unwrap_or_default()),
        },
    };
    let mut rows = vec![cells("Units", deploy_names(rollouts))];
    let (fpm, scripts): (Vec<_>, Vec<_>) = units.iter().partition(|(name, _)| name.contains("fpm"));
    for (name, what) in fpm.into_iter().chain(scripts) {
        rows.push(cells(name, what.each_ref().map(&word)));
    }
    rows.push(cells(&format!("{} scripts at rest", AT_REST.len()), ["not touched: their next run has the new code"; 2].map(str::to_owned)));
    table(&rows)
}

/// How long each phase took, in the order in which they began.
fn phases_table(rollouts: &[&Value]) -> Result<String> {
    let mut order: Vec<(String, String)> = Vec::new();
    let mut took: BTreeMap<(String, String), [Duration; 2]> = BTreeMap::new();
    for (number, rollout) in rollouts.iter().enumerate() {
        for phase in rollout["phases"].as_array().into_iter().flatten() {
            let of = |key: &str| phase[key].as_str().unwrap_or_default().to_owned();
            let name = (of("target"), of("phase"));
            if !order.contains(&name) {
                order.push(name.clone());
            }
            took.entry(name).or_default()[number] += span(&phase["started_at"], &phase["finished_at"])?;
        }
    }
    let mut rows = vec![cells("Phases of php-fpm", deploy_names(rollouts))];
    let mut whole = [Duration::ZERO; 2];
    for (number, rollout) in rollouts.iter().enumerate() {
        whole[number] = span(&rollout["started_at"], &rollout["finished_at"])?;
    }
    order.sort_by_key(|(target, _)| std::cmp::Reverse(target.clone()));
    for name in &order {
        let (target, phase) = name;
        rows.push(cells(&format!("{target}: {phase}"), took[name].map(seconds)));
    }
    rows.push(cells("the whole rollout, with the scripts", whole.map(seconds)));
    Ok(table(&rows))
}

fn seconds(span: Duration) -> String {
    if span.is_zero() { "-".to_owned() } else { format!("{:.2} s", span.as_secs_f64()) }
}

fn span(from: &Value, to: &Value) -> Result<Duration> {
    let at = |value: &Value| value.as_str().unwrap_or_default().parse::<jiff::Timestamp>().with_context(|| format!("a time: {value}"));
    Ok(at(from)?.duration_until(at(to)?).try_into()?)
}

fn deploy_names(rollouts: &[&Value]) -> [String; 2] {
    [0, 1].map(|number| format!("deploy {}", rollouts[number]["deploy"].as_str().unwrap_or_default()))
}

fn cells(name: &str, values: [String; 2]) -> Vec<String> {
    [name.to_owned()].into_iter().chain(values).collect()
}

/// The first row is the head. A row of two cells is a note: its second has no column.
fn table(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().filter(|row| row.len() > 2).map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths = [0, 1].map(width);
    let rule = "-".repeat(widths.iter().sum::<usize>() + width(2) + 4);
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = widths.get(column).copied().unwrap_or_default();
            let _ = write!(line, "{cell:<width$}  ");
        }
        let _ = writeln!(text, "{}", line.trim_end());
        if number == 0 {
            let _ = writeln!(text, "{rule}");
        }
    }
    text
}

type Promise = (String, Result<(), String>);

/// Each with what was seen instead, if it was broken.
fn promises(
    web: &Web<'_>,
    agent: &Agent<'_>,
    report: &Report,
    deploys: &[Deployed; 2],
    rollouts: &[&Value],
    rerun: &str,
) -> Result<Vec<Promise>> {
    let host = web.host();
    let mut promises: Vec<Promise> = Vec::new();
    let mut promise = |text: &str, seen: Result<(), String>| promises.push((text.to_owned(), seen));
    let is = |good: bool, seen: String| if good { Ok(()) } else { Err(seen) };
    let long = deploys[0].long[1];
    let counts = report.counts();
    promise(
        "no request was lost but the one that outlasted its threshold",
        is(report.cut_ids() == [long].into() && counts.lost() == 1, report.to_string()),
    );
    let named = agent.cut_request_ids()?;
    promise("restart-agent casualties names exactly the requests that were cut", is(named == report.cut_ids(), format!("{named:?}")));
    let stale = report.records.iter().filter(|record| {
        let version = record.served.as_ref().filter(|by| by.server == "mw1").map(|by| by.version.as_str());
        deploys.iter().any(|deploy| record.sent_at > deploy.converged && version.is_some_and(|version| version < deploy.version))
    });
    let stale = stale.count();
    promise("once wait has returned, php-fpm answers with the new code only", is(stale == 0, format!("{stale} answers of old code")));
    let served = web.served_version()?;
    let state = web.pool_state("mw1")?;
    promise("the host is in the pool again", is(state == web::PoolState::Pooled, format!("{state:?}, code {served}")));
    let log = scripts_log(host)?;
    let of = |unit: &str| -> Vec<&str> { log.iter().filter(|(name, _)| name == unit).map(|(_, what)| what.as_str()).collect() };
    let runs = of(rerun);
    promise(
        "the script that was stopped has started again with the new code, once for each deploy",
        is(runs == ["start v0", "start v1", "start v2"], format!("{runs:?}")),
    );
    let runs = of(FINISHES);
    let pids = host.property(FINISHES, "ActiveState")?;
    promise("the script that may finish was not disturbed", is(runs == ["start v0"] && pids == "activating", format!("{runs:?}, {pids}")));
    let runs = of(HOURLY);
    let next = host.property(&HOURLY.replace(".service", ".timer"), "NextElapseUSecRealtime")?;
    let quiet = runs == ["start v1"] && !next.is_empty();
    promise("the hourly script was stopped, and its timer waits for its next run", is(quiet, format!("{runs:?}, next {next:?}")));
    let mut started = Vec::new();
    for unit in AT_REST {
        // Whoever runs this at the very minute of a calendar sees its timer at work.
        if !of(unit).is_empty() && host.property(&unit.replace(".service", ".timer"), "LastTriggerUSec")?.is_empty() {
            started.push(unit);
        }
    }
    promise("no script was started off schedule", is(started.is_empty(), started.join(", ")));
    let failed = host.ok(&["systemctl", "list-units", "--failed", "--no-legend", "--plain"])?;
    promise("no unit is failed", is(failed.trim().is_empty(), failed.trim().to_owned()));
    promise("nothing is left in the units' drop-ins", agent.ensure_nothing_left().map_err(|error| error.to_string()));
    let converged = rollouts.iter().all(|rollout| rollout["result"] == "converged");
    promise("both rollouts have converged", is(converged, format!("{rollouts:?}")));
    Ok(promises)
}
