//! `kind = "scheduled"`: running scripts are stopped without a failure, without a run off schedule, and with what their rules promise.

#![allow(clippy::disallowed_methods, reason = "the bans of clippy.toml are for core")]

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::agent::Agent;
use lab::jobs::{self, Job, Marks, Shape, script};
use lab::{Host, Release, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
/// Nothing elapses during a test.
const FAR: &str = "OnCalendar=*-01-01 03:00";

fn main() -> ExitCode {
    lab::suite()
        .on_each("however_a_script_takes_sigterm_it_is_no_failure_and_runs_by_its_rule_t24", shapes)
        .on_each("a_stopped_script_runs_again_on_schedule_only_t25", timers)
        .on_each("what_may_go_on_is_left_and_what_ends_by_itself_is_no_casualty", left_alone)
        .on_each("killed_in_the_middle_of_a_stop_the_agent_pays_what_it_owes_t06", crash)
        .on_each("a_deploy_on_the_heels_of_another_leaves_nothing_old_t01", two_deploys)
        .on_each("what_runs_through_between_deploys_is_not_interrupted_in_a_row_t28", in_a_row)
        .on_each("a_script_that_is_named_by_an_alias_or_with_escapes_is_kept_quiet_and_given_no_success", names)
        .on_each("a_hundred_scripts_take_two_reloads", a_hundred)
        .on_each("an_exec_stop_post_that_outlasts_the_sigkill_is_not_stuck", stop_post)
        .run()
}

fn config(targets: &[(&str, &str, &str)]) -> String {
    let mut text = "[stamp]\npath = \"/srv/deploy/stamp\"\nsettle = \"100ms\"\nmin_interval = \"0s\"\n".to_owned();
    for (name, units, rules) in targets {
        text.push_str(&format!("\n[target.{name}]\nkind = \"scheduled\"\nunits = [\"{units}\"]\n{rules}\n"));
    }
    text
}

/// A calendar line that elapses in 20 minutes.
fn soon(host: &Host) -> Result<String> {
    let minute: u32 = host.ok(&["date", "+%-M"])?.trim().parse()?;
    Ok(format!("OnCalendar=*-*-* *:{:02}:00", (minute + 20) % 60))
}

/// What was cut, by unit: `ended_by`.
fn cut(agent: &Agent<'_>) -> Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for casualty in agent.casualties()? {
        let text = |field: &str| casualty[field].as_str().map(str::to_owned).with_context(|| format!("{field} of {casualty}"));
        let earlier = found.insert(text("unit")?, text("ended_by")?);
        ensure!(earlier.is_none(), "recorded twice: {casualty}");
        // Without a timer nothing but our own reference keeps a stopped unit loaded, and a Reload may take that (facts F1.14): then how it
        // ended is not known, and the record says so.
        let unit = text("unit")?;
        let kept = !unit.contains("-none-");
        // One that exits with 0 at once may have been done: nobody saw it at work after its stop had begun.
        let may_be_done = ["exit0", "Exits0", "prouder"].iter().any(|shape| unit.contains(shape));
        ensure!(casualty["what"] == "script" && (casualty["certain"] == true || !kept || may_be_done), "{casualty}");
    }
    Ok(found)
}

/// No unit has failed, and every timer waits for a moment to come, or for the script that it started.
fn ensure_sound(host: &Host, jobs: &[Job]) -> Result<()> {
    let failed = host.ok(&["systemctl", "list-units", "--failed", "--plain", "--no-legend"])?;
    ensure!(failed.trim().is_empty(), "failed: {failed}");
    let services: Vec<String> = jobs.iter().map(Job::service_name).collect();
    let services = jobs::properties(host, &services, &["ActiveState", "Result", "LoadState"])?;
    let timers: Vec<String> = jobs.iter().flat_map(Job::timers).collect();
    if timers.is_empty() {
        return Ok(());
    }
    let wanted = ["ActiveState", "NextElapseUSecRealtime", "NextElapseUSecMonotonic"];
    let timers = jobs::properties(host, &timers, &wanted)?;
    for job in jobs {
        let service = &services[&job.service_name()];
        ensure!(service["Result"] == "success", "{}: {service:?}", job.name);
        for timer in job.timers() {
            let timer = &timers[&timer];
            ensure!(timer["ActiveState"] == "active", "{timer:?}");
            let finite = |name: &str| timer.get(name).is_some_and(|at| !matches!(at.as_str(), "" | "0" | "infinity" | "n/a"));
            let next = finite("NextElapseUSecRealtime") || finite("NextElapseUSecMonotonic");
            ensure!(next || service["ActiveState"] == "activating", "no next run: {timer:?} {service:?}");
        }
    }
    Ok(())
}

/// None of the three rules, and no way to take SIGTERM, makes a stopped script a failure or has it run when it should not.
fn shapes(release: Release) -> Result<()> {
    let host = Host::boot(release, "shapes")?;
    let near = soon(&host)?;
    let mut all = Vec::new();
    // rule, and how often a stopped script is started until the test ends
    let rules = [("rerun", "near", 2), ("until-next", "near", 1), ("auto", "near", 1), ("auto", "far", 2), ("auto", "none", 2)];
    let shapes = [
        ("plain", Shape::Plain),
        ("exit0", Shape::TrapsAndExits0),
        ("exit143", Shape::TrapsAndExits143),
        ("ignores", Shape::Ignores),
        ("child", Shape::ChildIgnores),
    ];
    let mut expected = Vec::new();
    let with_timer = |job: Job, when: &str| match when {
        "near" => job.clone().timer(&job.name, &near),
        "far" => job.clone().timer(&job.name, FAR),
        _ => job,
    };
    for (rule, when, starts) in rules {
        for (name, shape) in shapes {
            expected.push((script(&format!("job-{rule}-{when}-{name}"), shape).on_failure(), when, starts));
        }
        for shape in [Shape::Plain, Shape::TrapsAndExits0] {
            let name = format!("job-{rule}-{when}-several-{shape:?}");
            expected.push((script(&name, shape).on_failure().second_command(), when, starts));
        }
        let user = script(&format!("job-{rule}-{when}-www"), Shape::Plain).on_failure().service("User=www-data");
        expected.push((user, when, starts));
        let at = script(&format!("job-{rule}-{when}_mediawiki_cron-refreshlinks-s1@1"), Shape::Plain).on_failure();
        expected.push((at, when, starts));
        let int = script(&format!("job-{rule}-{when}-int"), Shape::TrapsIntAndExits130).on_failure().service("KillSignal=SIGINT");
        expected.push((int, when, starts));
        let proud = script(&format!("job-{rule}-{when}-proud"), Shape::Plain).on_success();
        expected.push((proud, when, starts));
        let prouder = script(&format!("job-{rule}-{when}-prouder"), Shape::TrapsAndExits0).on_success();
        expected.push((prouder, when, starts));
    }
    let expected: Vec<(Job, usize)> = expected.into_iter().map(|(job, when, starts)| (with_timer(job, when), starts)).collect();
    all.extend(expected.iter().map(|(job, _)| job.clone()));
    jobs::install(&host, &all)?;
    jobs::start(&host, &all)?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    let times = "drain_timeout = \"1s\"\nterm_timeout = \"2s\"\n";
    let targets = ["rerun", "until-next", "auto"].map(|rule| (rule, format!("job-{rule}-*.service"), format!("{times}after = \"{rule}\"")));
    let targets: Vec<(&str, &str, &str)> = targets.iter().map(|(name, units, rules)| (*name, units.as_str(), rules.as_str())).collect();
    agent.configure(&config(&targets))?;
    agent.deploy_and_wait("v1", MINUTE)?;
    jobs::settled(&host)?;

    let marks = Marks::read(&host)?;
    let casualties = cut(&agent)?;
    for (job, starts) in &expected {
        let name = &job.name;
        ensure!(marks.starts(name) == *starts, "{name} was started {} times, not {starts}", marks.starts(name));
        for mark in ["failure", "success", "second"] {
            ensure!(marks.count(name, mark) == 0, "{name}: {mark}");
        }
        let ended_by = casualties.get(&job.service_name()).with_context(|| format!("{name} is no casualty: {casualties:?}"))?;
        let stubborn = name.ends_with("ignores") || name.ends_with("child");
        ensure!(ended_by == if stubborn { "SIGKILL" } else { "SIGTERM" }, "{name} was ended by {ended_by}");
    }
    ensure!(casualties.len() == expected.len(), "{casualties:?}");
    ensure_sound(&host, &all)?;
    agent.ensure_nothing_left()
}

/// Slots pass while scripts run; when the scripts are stopped, what was missed stays missed.
fn timers(release: Release) -> Result<()> {
    const SLOT: f64 = 10.0;
    let host = Host::boot(release, "timers")?;
    let every = "OnCalendar=*:*:0/10";
    let persistent = format!("{every}\nPersistent=yes");
    let both = |rule: &str| {
        vec![
            script(&format!("job-{rule}-calendar"), Shape::Plain).timer(&format!("job-{rule}-calendar"), every),
            script(&format!("job-{rule}-persistent"), Shape::Plain).timer(&format!("job-{rule}-persistent"), &persistent),
            script(&format!("job-{rule}-two"), Shape::Plain)
                .timer(&format!("job-{rule}-two-a"), FAR)
                .timer(&format!("job-{rule}-two-b"), every),
            script(&format!("job-{rule}-other"), Shape::Plain).timer(&format!("job-{rule}-otherwise"), every),
            script(&format!("job-{rule}-loose"), Shape::Plain).loose_timer(&format!("job-{rule}-loose"), every),
        ]
    };
    let rare = |rule: &str| {
        vec![
            script(&format!("job-{rule}-active"), Shape::Plain).timer(&format!("job-{rule}-active"), "OnUnitActiveSec=1h"),
            script(&format!("job-{rule}-random"), Shape::Plain)
                .timer(&format!("job-{rule}-random"), &format!("{FAR}\nRandomizedDelaySec=10min")),
            script(&format!("job-{rule}-none"), Shape::Plain),
        ]
    };
    let frequent_quiet = both("until-next");
    let rare_quiet = rare("until-next");
    let mut again = both("rerun");
    again.extend(rare("rerun"));
    let mut all: Vec<Job> = [&frequent_quiet, &rare_quiet, &again].into_iter().flatten().cloned().collect();
    for job in &mut all {
        *job = job.clone().on_failure();
    }
    jobs::install(&host, &all)?;
    jobs::start(&host, &all)?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    let rule = |after: &str| format!("drain_timeout = \"0s\"\nterm_timeout = \"5s\"\nafter = \"{after}\"");
    agent.configure(&config(&[
        ("quiet", "job-until-next-*.service", &rule("until-next")),
        ("again", "job-rerun-*.service", &rule("rerun")),
    ]))?;
    // A slot has passed since they began, and the next is not near.
    let begun = jobs::clock(&host)?;
    wait_for("the middle between two slots", MINUTE, || {
        let now = jobs::clock(&host)?;
        let passed = (now / SLOT).floor() > (begun / SLOT).floor();
        Ok((passed && (2.0..5.0).contains(&(now % SLOT))).then_some(()))
    })?;
    agent.deploy_and_wait("v1", MINUTE)?;
    let over = jobs::clock(&host)?;
    let next_slot = (over / SLOT).floor() * SLOT + SLOT;
    let same_slot = (over / SLOT).floor();
    jobs::settled(&host)?;
    let marks = Marks::read(&host)?;
    if (jobs::clock(&host)? / SLOT).floor() > same_slot {
        bail!("too slow a machine: the rollout ended {:.1} s before the next slot", next_slot - over);
    }
    for job in &again {
        ensure!(marks.starts(&job.name) == 2, "{} was started {} times", job.name, marks.starts(&job.name));
    }
    for job in frequent_quiet.iter().chain(&rare_quiet) {
        ensure!(marks.starts(&job.name) == 1, "{} was started off schedule: {:?}", job.name, marks.start_times(&job.name));
    }
    ensure_sound(&host, &all)?;

    // The scheduled run comes, once, in its slot.
    let marks = wait_for("the scheduled runs", MINUTE, || {
        let marks = Marks::read(&host)?;
        let missing: Vec<&str> = frequent_quiet.iter().map(|job| job.name.as_str()).filter(|name| marks.starts(name) < 2).collect();
        if missing.is_empty() { Ok(Some(marks)) } else { bail!("not yet: {missing:?}") }
    })?;
    for job in &frequent_quiet {
        let times = marks.start_times(&job.name);
        let [_, second] = times[..] else { bail!("{}: {times:?}", job.name) };
        ensure!((next_slot..next_slot + 3.0).contains(&second), "{} was started at {second}, not in the slot of {next_slot}", job.name);
    }
    for job in &all {
        ensure!(marks.count(&job.name, "failure") == 0, "{} failed", job.name);
    }
    for job in rare_quiet.iter().chain(&again) {
        ensure!(marks.starts(&job.name) <= 2, "{}: {:?}", job.name, marks.start_times(&job.name));
    }
    ensure!(cut(&agent)?.len() == all.len(), "{:?}", agent.casualties()?);
    agent.ensure_nothing_left()
}

/// Rules, and systemd, may say that a script is not to be stopped.
fn left_alone(release: Release) -> Result<()> {
    let host = Host::boot(release, "left-alone")?;
    let ends = script("may-ends", Shape::UntilTold).on_failure().timer("may-ends", FAR);
    let fails = script("may-fails", Shape::UntilToldFails).on_failure().timer("may-fails", FAR);
    let again = script("may-again", Shape::UntilToldExits75).on_failure().timer("may-again", FAR);
    let refuses = script("may-refuses", Shape::Plain).unit("RefuseManualStop=yes");
    let masked = script("may-masked", Shape::Plain);
    let both = script("may-both", Shape::Plain).on_failure().on_success();
    let stopped_both = script("must-both", Shape::Plain).on_failure().on_success();
    let finishes = script("long-dump", Shape::Plain).on_failure().timer("long-dump", FAR);
    let excluded = script("may-excluded", Shape::Plain);
    let no_start = script("may-nostart", Shape::Plain).on_failure().unit("RefuseManualStart=yes");
    let slow = script("may-slow", Shape::Plain).on_failure();
    let by_hand = [&ends, &fails, &again, &refuses, &masked, &both, &stopped_both, &finishes, &excluded, &slow].map(Clone::clone);
    let all: Vec<Job> = by_hand.iter().chain([&no_start]).cloned().collect();
    jobs::install(&host, &all)?;
    jobs::start(&host, &by_hand)?;
    host.sh_ok("printf '[Unit]\\nWants=may-nostart.service\\n' > /etc/systemd/system/starter.target && systemctl daemon-reload && systemctl --no-block start starter.target")?;
    wait_for("may-nostart to begin", MINUTE, || Ok((Marks::read(&host)?.starts("may-nostart") == 1).then_some(())))?;
    host.sh_ok("cd /etc/systemd/system && mv may-masked.service /srv/ && ln -s /dev/null may-masked.service && systemctl daemon-reload")?;
    let pid = |job: &Job| host.pid_of(&job.service_name());
    let untouched = [&refuses, &masked, &both, &finishes, &excluded];
    let before = untouched.map(|job| pid(job).map_err(|error| format!("{error:#}")));

    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    let rules = "drain_timeout = \"4s\"\nterm_timeout = \"5s\"\nafter = \"rerun\"";
    agent.configure(&config(&[
        ("may", "may-*.service", &format!("{rules}\nexclude = [\"may-excluded.service\"]")),
        ("must", "must-*.service", &format!("{rules}\noverdue = \"stop\"")),
        ("long", "long-*.service", &format!("{rules}\noverdue = \"finish\"")),
    ]))?;
    agent.deploy("v1")?;
    wait_for("the drain", MINUTE, || {
        let status = agent.status()?;
        let states = unit_states(&status);
        let draining = ["may-ends.service", "may-fails.service", "may-again.service"]
            .iter()
            .all(|unit| states.get(*unit).is_some_and(|state| state.0 == "draining"));
        if draining { Ok(Some(())) } else { bail!("{status}") }
    })?;
    jobs::finish(&host, "may-ends")?;
    jobs::finish(&host, "may-fails")?;
    jobs::finish(&host, "may-again")?;
    let waited = agent.wait(MINUTE)?;
    ensure!(waited.status == 0, "{waited:?}\n{}", agent.status_text()?);
    jobs::settled(&host)?;

    let marks = Marks::read(&host)?;
    ensure!(marks.starts("may-ends") == 1 && marks.count("may-ends", "failure") == 0, "the one that ended by itself: {marks:?}");
    ensure!(marks.starts("may-fails") == 1 && marks.count("may-fails", "failure") == 1, "a failure of its own stays one: {marks:?}");
    ensure!(host.property("may-fails.service", "ActiveState")? == "failed", "the failure was wiped away");
    // "Run me again" of a script that nobody has asked is a failure as ever, whatever it is lent at the time.
    ensure!(marks.starts("may-again") == 1 && marks.count("may-again", "failure") == 1, "{marks:?}");
    ensure!(host.property("may-again.service", "ActiveState")? == "failed", "its failure was hidden");
    for (job, before) in untouched.into_iter().zip(before) {
        let now = pid(job).map_err(|error| format!("{error:#}"));
        ensure!(now.is_ok() && now == before, "{} was touched: {before:?} {now:?}", job.name);
    }
    ensure!(marks.starts("must-both") == 2 && marks.count("must-both", "success") == 0, "{marks:?}");
    ensure!(marks.starts("may-nostart") == 1 && marks.starts("may-slow") == 2, "{marks:?}");
    let casualties: Vec<String> = cut(&agent)?.into_keys().collect();
    ensure!(casualties == ["may-nostart.service", "may-slow.service", "must-both.service"], "{casualties:?}");

    let status = agent.status()?;
    let states = unit_states(&status);
    let why = [
        ("may-refuses.service", "RefuseManualStop"),
        ("may-masked.service", "masked"),
        ("may-both.service", "OnSuccess"),
        ("long-dump.service", "finish"),
    ];
    for (unit, why) in why {
        let (state, said, oldest) = states.get(unit).with_context(|| format!("{unit} is not in {status}"))?;
        ensure!(state == "left" && said.contains(why) && !oldest.is_empty(), "{unit}: {state}, {said}, {oldest}");
    }
    ensure!(!states.contains_key("may-excluded.service"), "{status}");
    ensure!(status["state"] == "converged", "{status}");
    let text = agent.status_text()?;
    ensure!(text.contains("long-dump.service"), "not named to people:\n{text}");
    agent.ensure_nothing_left()
}

/// By unit: state, why, and when its oldest stale process began.
fn unit_states(status: &serde_json::Value) -> BTreeMap<String, (String, String, String)> {
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let units = status["targets"].as_array().into_iter().flatten().flat_map(|target| target["units"].as_array().into_iter().flatten());
    units.map(|unit| (text(&unit["unit"]), (text(&unit["state"]), text(&unit["why"]), text(&unit["oldest_start"])))).collect()
}

/// The agent dies while a script that it stops is still in its grace, its timer stopped already.
fn crash(release: Release) -> Result<()> {
    let host = Host::boot(release, "crash")?;
    // Slots pass all the time: a timer that is started too early would start its script off schedule.
    let every = "OnCalendar=*:*:0/2\nPersistent=yes";
    let again = script("job-rerun", Shape::Ignores).on_failure().timer("job-rerun", FAR);
    let quiet = script("job-quiet", Shape::Ignores).on_failure().timer("job-quiet", &format!("{FAR}\nPersistent=yes"));
    let often = script("job-often", Shape::Ignores).on_failure().timer("job-often", every);
    let all = [again, quiet, often];
    jobs::install(&host, &all)?;
    jobs::start(&host, &all)?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    let rules = |after: &str| format!("drain_timeout = \"0s\"\nterm_timeout = \"6s\"\nafter = \"{after}\"");
    agent.configure(&config(&[
        ("again", "job-rerun.service", &rules("rerun")),
        ("quiet", "job-quiet.service", &rules("until-next")),
        ("often", "job-often.service", &rules("rerun")),
    ]))?;
    agent.deploy("v1")?;
    wait_for("all three to be stopping, and kept quiet", MINUTE, || {
        let services: Vec<String> = all.iter().map(Job::service_name).collect();
        let quiet = services.iter().all(|unit| host.exists(&format!("/run/restart-agent/quiet/{unit}")));
        let services = jobs::properties(&host, &services, &["ActiveState"])?;
        let stopping = services.values().all(|unit| unit["ActiveState"] == "deactivating");
        if stopping && quiet { Ok(Some(())) } else { bail!("{services:?}") }
    })?;
    let timers = jobs::properties(&host, &all.iter().flat_map(Job::timers).collect::<Vec<_>>(), &["ActiveState"])?;
    ensure!(timers.values().all(|unit| unit["ActiveState"] == "active"), "a timer was stopped: {timers:?}");
    let pid = host.pid_of("restart-agent.service")?.to_string();
    host.ok(&["kill", "-KILL", &pid])?;
    wait_for("the agent to be back", MINUTE, || {
        let now = host.pid_of("restart-agent.service")?.to_string();
        Ok((now != pid).then_some(()))
    })?;
    agent.wait_active()?;
    let waited = agent.wait(MINUTE)?;
    ensure!(waited.status == 0, "{waited:?}\n{}", agent.status_text()?);
    jobs::settled(&host)?;
    let marks = Marks::read(&host)?;
    for (name, starts) in [("job-rerun", 2), ("job-quiet", 1), ("job-often", 2)] {
        ensure!(marks.starts(name) == starts, "{name} was started {} times, not {starts}\n{}", marks.starts(name), agent.status_text()?);
        ensure!(marks.count(name, "failure") == 0, "{name} failed");
    }
    let cut = cut(&agent)?;
    ensure!(cut.len() == 3 && cut.values().all(|by| by == "SIGKILL"), "what was cut while the agent was away is known: {cut:?}");
    ensure_sound(&host, &all)?;
    agent.ensure_nothing_left()
}

/// A deploy while a script is being stopped for the one before; and one right after its rerun began.
fn two_deploys(release: Release) -> Result<()> {
    let host = Host::boot(release, "two-deploys")?;
    let slow = script("job-slow", Shape::Ignores).on_failure().timer("job-slow", FAR);
    let plain = script("job-plain", Shape::Plain).on_failure().timer("job-plain", FAR);
    let all = [slow, plain];
    jobs::install(&host, &all)?;
    jobs::start(&host, &all)?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    agent.configure(&config(&[(
        "jobs",
        "job-*.service",
        "drain_timeout = \"0s\"\nterm_timeout = \"3s\"\nafter = \"rerun\"\nmax_interruptions = 100",
    )]))?;
    agent.deploy("v1")?;
    wait_for("job-slow to be stopping", MINUTE, || {
        let state = host.property("job-slow.service", "ActiveState")?;
        if state == "deactivating" { Ok(Some(())) } else { bail!("{state}") }
    })?;
    let second = jobs::clock(&host)?;
    agent.deploy_and_wait("v2", MINUTE)?;
    jobs::settled(&host)?;
    let marks = Marks::read(&host)?;
    for job in &all {
        let times = marks.start_times(&job.name);
        let newest = times.last().copied().unwrap_or_default();
        ensure!(newest > second, "{} runs code from before the second deploy: {times:?}, {second}", job.name);
        ensure!(times.len() <= 3, "{} was started more than once for each deploy: {times:?}", job.name);
    }
    ensure!(marks.starts("job-slow") == 2, "job-slow was stopped for both at once: {:?}", marks.start_times("job-slow"));

    for deploy in ["v3", "v4", "v5"] {
        let landed = jobs::clock(&host)?;
        agent.deploy_and_wait(deploy, MINUTE)?;
        let marks = wait_for("both to run again", MINUTE, || {
            let marks = Marks::read(&host)?;
            let fresh = all.iter().all(|job| marks.start_times(&job.name).last().is_some_and(|newest| *newest > landed));
            Ok(fresh.then_some(marks))
        })?;
        ensure!(all.iter().all(|job| marks.count(&job.name, "failure") == 0), "{marks:?}");
    }
    jobs::settled(&host)?;
    let starts = Marks::read(&host)?.starts("job-slow");
    ensure!(starts == 5, "job-slow was started {starts} times for five deploys, the first two done as one");
    ensure_sound(&host, &all)?;
    agent.ensure_nothing_left()
}

/// max_interruptions counts what nothing has come between: a run that ended while no rollout was at it breaks the row.
fn in_a_row(release: Release) -> Result<()> {
    let host = Host::boot(release, "in-a-row")?;
    let job = script("job-a", Shape::UntilTold).on_failure().timer("job-a", FAR);
    let (name, unit) = (job.name.clone(), job.service_name());
    jobs::install(&host, std::slice::from_ref(&job))?;
    jobs::systemctl(&host, &["start"], &job.timers().collect::<Vec<_>>())?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    agent.configure(&config(&[("jobs", "job-*.service", "drain_timeout = \"0s\"\nafter = \"rerun\"\nmax_interruptions = 2")]))?;
    let begun = |starts: usize| {
        wait_for("it to have begun", MINUTE, || {
            let marks = Marks::read(&host)?;
            if marks.starts(&name) == starts { Ok(Some(())) } else { bail!("{} starts", marks.starts(&name)) }
        })
    };
    let start = |starts: usize| {
        jobs::systemctl(&host, &["start", "--no-block"], std::slice::from_ref(&unit))?;
        begun(starts)
    };
    for deploy in 1..=4 {
        start(deploy * 2 - 1)?;
        agent.deploy_and_wait(&format!("v{deploy}"), MINUTE)?;
        begun(deploy * 2)?;
        jobs::finish(&host, &name)?;
        wait_for("its rerun to end", MINUTE, || Ok((host.property(&unit, "ActiveState")? == "inactive").then_some(())))?;
        host.ok(&["rm", "/var/tmp/marks/job-a.finish"])?;
    }
    // And what is interrupted in a row is let finish.
    start(9)?;
    agent.deploy_and_wait("v5", MINUTE)?;
    begun(10)?;
    agent.deploy_and_wait("v6", MINUTE)?;
    begun(11)?;
    agent.deploy_and_wait("v7", MINUTE)?;
    let text = agent.status_text()?;
    ensure!(text.contains("it was interrupted 2 times in a row"), "{text}");
    ensure!(Marks::read(&host)?.starts(&name) == 11, "it was not let finish");
    ensure_sound(&host, std::slice::from_ref(&job))?;
    agent.ensure_nothing_left()
}

/// What is lent names the files of the agent as it does, whatever systemd calls the unit.
fn names(release: Release) -> Result<()> {
    let host = Host::boot(release, "names")?;
    let all = [
        script("real", Shape::TrapsAndExits0).on_success().timer("real", FAR),
        script("job-a\\x2db", Shape::TrapsAndExits0).unit("OnSuccess=mark-success@escaped.service").timer("escaped", FAR),
    ];
    jobs::install(&host, &all)?;
    host.sh_ok("ln -s real.service /etc/systemd/system/alias.service && systemctl daemon-reload")?;
    let units: Vec<String> = all.iter().map(Job::service_name).collect();
    jobs::systemctl(&host, &["start"], &all.iter().flat_map(Job::timers).collect::<Vec<_>>())?;
    jobs::systemctl(&host, &["start", "--no-block"], &units)?;
    wait_for("both to run", MINUTE, || {
        let states = jobs::properties(&host, &units, &["MainPID"])?;
        Ok(states.values().all(|unit| unit["MainPID"] != "0").then_some(()))
    })?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    let rules = "drain_timeout = \"0s\"\nafter = \"until-next\"";
    agent.configure(&config(&[("alias", "alias.service", rules), ("escaped", "job-*.service", rules)]))?;
    agent.deploy_and_wait("v1", MINUTE)?;
    jobs::settled(&host)?;
    let states = jobs::properties(&host, &units, &["ActiveState"])?;
    ensure!(states.values().all(|unit| unit["ActiveState"] == "inactive"), "{states:?}");
    let marks = Marks::read(&host)?;
    ensure!(marks.count("real", "success") == 0 && marks.count("escaped", "success") == 0, "what was cut was called a success: {marks:?}");
    ensure!(agent.casualties()?.len() == 2, "{:?}", agent.casualties()?);
    agent.ensure_nothing_left()
}

/// Whatever their number, one Reload lends and one takes back.
fn a_hundred(release: Release) -> Result<()> {
    let host = Host::boot(release, "a-hundred")?;
    let near = soon(&host)?;
    let jobs: Vec<Job> = (0..100)
        .map(|n| {
            let name = format!("job-{n:03}");
            script(&name, Shape::Plain).on_failure().timer(&name, if n % 2 == 0 { FAR } else { &near })
        })
        .collect();
    jobs::install(&host, &jobs)?;
    jobs::start(&host, &jobs)?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    agent.configure(&config(&[("jobs", "job-*.service", "drain_timeout = \"2s\"\nterm_timeout = \"5s\"\nafter = \"auto\"")]))?;
    let reloads = jobs::reloads(&host)?;
    agent.deploy_and_wait("v1", MINUTE)?;
    jobs::settled(&host)?;
    let reloads = jobs::reloads(&host)? - reloads;
    ensure!(reloads == 2, "{reloads} reloads");
    let marks = Marks::read(&host)?;
    for (n, job) in jobs.iter().enumerate() {
        let expected = if n % 2 == 0 { 2 } else { 1 };
        ensure!(marks.starts(&job.name) == expected, "{} was started {} times", job.name, marks.starts(&job.name));
        ensure!(marks.count(&job.name, "failure") == 0, "{} failed", job.name);
    }
    ensure!(cut(&agent)?.len() == 100, "{:?}", agent.casualties()?.len());
    ensure_sound(&host, &jobs)?;
    agent.ensure_nothing_left()
}

/// What begins after our SIGKILL has got no signal yet: it has 5 s, and then one of its own.
fn stop_post(release: Release) -> Result<()> {
    let host = Host::boot(release, "stop-post")?;
    let lasts = script("job-lasts", Shape::Ignores).on_failure().service("ExecStopPost=/bin/sleep 60").timer("job-lasts", FAR);
    let all = vec![lasts];
    jobs::install(&host, &all)?;
    jobs::start(&host, &all)?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    agent.configure(&config(&[("jobs", "job-*.service", "drain_timeout = \"0s\"\nterm_timeout = \"1s\"\nafter = \"rerun\"")]))?;
    agent.deploy_and_wait("v1", MINUTE)?;
    jobs::settled(&host)?;
    let marks = Marks::read(&host)?;
    ensure!(marks.starts("job-lasts") == 2, "it was started {} times\n{}", marks.starts("job-lasts"), agent.status_text()?);
    ensure!(marks.count("job-lasts", "failure") == 0, "it failed");
    ensure!(cut(&agent)?.get("job-lasts.service").map(String::as_str) == Some("SIGKILL"), "{:?}", agent.casualties()?);
    let said = agent.journal()?;
    ensure!(!said.contains("stuck in the kernel"), "{said}");
    agent.ensure_nothing_left()
}
