//! `tests/bench`: the figures, each with what it is compared to, taken in turn in one run.

mod baselines;

use std::collections::BTreeMap;
use std::fs::File;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use lab::agent::{Agent, STAMP};
use lab::jobs::{self, Job, Shape, script, worker};
use lab::load::Load;
use lab::web::{self, Web};
use lab::{Host, Release, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
const FAR: &str = "OnCalendar=*-01-01 03:00";
/// php-fpm is asked for its status this often while requests are in flight.
const POLL_MS: f64 = 50.0;

/// One line of the table.
struct Figure {
    what: String,
    measured: String,
    value: f64,
    limit: f64,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let releases = arguments.iter().find_map(|word| word.strip_prefix("--releases=")).unwrap_or("12").to_owned();
    let wanted: Vec<&str> = arguments.iter().map(String::as_str).filter(|word| !word.starts_with("--")).collect();
    if let Some(("baselines", ways)) = wanted.split_first().map(|(first, rest)| (*first, rest)) {
        let agent = arguments.iter().any(|word| word == "--agent");
        for release in Release::ALL.into_iter().filter(|release| releases.split(',').any(|number| number == release.number().to_string())) {
            baselines::table(release, ways, agent)?;
        }
        return Ok(());
    }
    let is_wanted = |name: &str| wanted.is_empty() || wanted.contains(&name);
    let mut missed = 0;
    for release in Release::ALL.into_iter().filter(|release| releases.split(',').any(|number| number == release.number().to_string())) {
        println!("{release}");
        type Bench = fn(Release) -> Result<Vec<Figure>>;
        let all: [(&str, Bench); 7] = [
            ("size", size),
            ("stamp", stamp),
            ("request", request),
            ("services", services),
            ("scripts", scripts),
            ("status", status),
            ("idle", idle),
        ];
        for (_, bench) in all.into_iter().filter(|(name, _)| is_wanted(name)) {
            for figure in bench(release)? {
                let verdict = if figure.value <= figure.limit { "ok  " } else { "MISS" };
                missed += i32::from(figure.value > figure.limit);
                println!("{verdict} {:<58} {:>8.2} (at most {})  {}", figure.what, figure.value, figure.limit, figure.measured);
            }
        }
    }
    ensure!(missed == 0, "{missed} figures miss their limit");
    Ok(())
}

fn figure(what: impl Into<String>, value: f64, limit: f64, measured: impl Into<String>) -> Figure {
    Figure { what: what.into(), measured: measured.into(), value, limit }
}

fn config(settle: &str, targets: &str) -> String {
    format!("[stamp]\npath = \"{STAMP}\"\nsettle = \"{settle}\"\nmin_interval = \"0s\"\n{targets}")
}

/// The agent that tells each effect in the journal, whose times are those of the kernel when the line was sent.
fn told<'h>(host: &'h Host) -> Result<Agent<'h>> {
    host.write("/etc/systemd/system/restart-agent.service.d/bench.conf", "[Service]\nEnvironment=RESTART_AGENT_LOG=debug\n")?;
    let agent = Agent::install(host)?;
    agent.deploy("v0")?;
    Ok(agent)
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// Renames a new stamp into place, from outside of the host, and says when.
fn rename_stamp(host: &Host, id: &str) -> Result<f64> {
    let root = format!("/proc/{}/root", host.init_pid()?);
    let unfinished = format!("{root}{STAMP}.new");
    std::fs::write(&unfinished, format!("{id}\n"))?;
    let at = now();
    std::fs::rename(&unfinished, format!("{root}{STAMP}"))?;
    Ok(at)
}

/// Times (seconds since 1970) and texts of what the agent told since `since`.
fn effects(host: &Host, since: f64) -> Result<Vec<(f64, String)>> {
    host.ok(&["journalctl", "--sync"])?;
    let since = format!("--since=@{since:.3}");
    let unit = "--unit=restart-agent.service";
    let text = host.ok(&[
        "journalctl",
        "--no-pager",
        "--boot",
        "--output=json",
        "--output-fields=_SOURCE_REALTIME_TIMESTAMP,F_EFFECT",
        unit,
        &since,
    ])?;
    let mut found = Vec::new();
    for line in text.lines() {
        let entry: serde_json::Value = serde_json::from_str(line)?;
        if let (Some(at), Some(effect)) = (entry["_SOURCE_REALTIME_TIMESTAMP"].as_str(), entry["F_EFFECT"].as_str()) {
            found.push((at.parse::<f64>()? / 1e6, effect.to_owned()));
        }
    }
    Ok(found)
}

fn quantile(values: &mut [f64], of: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = ((values.len() as f64 * of).ceil() as usize).clamp(1, values.len()) - 1;
    values[at]
}

fn size(_: Release) -> Result<Vec<Figure>> {
    let package = lab::agent::package()?;
    let unpacked = std::process::Command::new("sh")
        .args(["-c", "dpkg-deb --fsys-tarfile \"$1\" | tar --extract --to-stdout ./usr/bin/restart-agent | wc -c", "sh"])
        .arg(&package)
        .output()?;
    let bytes: f64 = String::from_utf8(unpacked.stdout)?.trim().parse().context("size")?;
    Ok(vec![figure("size of the binary, MB", bytes / 1e6, 4.0, package.display().to_string())])
}

/// From rename(2) of the stamp, settle = 0, to the moment at which the agent's first effect begins: its first question to systemd.
fn stamp(release: Release) -> Result<Vec<Figure>> {
    let host = Host::boot(release, "bench-stamp")?;
    let agent = told(&host)?;
    agent.configure(&config("0s", "[target.none]\nkind = \"service\"\nunits = [\"no-such-*.service\"]\n"))?;
    let begin = now();
    let mut renamed = Vec::new();
    for n in 0..200 {
        let id = format!("d{n}");
        renamed.push(rename_stamp(&host, &id)?);
        wait_for("the rollout to end", MINUTE, || {
            let status = agent.status()?;
            Ok((status["reached"]["id"] == id.as_str()).then_some(()))
        })?;
    }
    let effects = effects(&host, begin)?;
    let mut delays = Vec::new();
    for at in renamed {
        let (first, _) = effects.iter().find(|(told, _)| *told >= at).context("a rename without an effect")?;
        delays.push((first - at) * 1e3);
    }
    let (median, p99) = (quantile(&mut delays, 0.5), quantile(&mut delays, 0.99));
    Ok(vec![figure("stamp renamed to first effect, p99, ms", p99, 5.0, format!("{} renames, median {median:.2} ms", delays.len()))])
}

/// From the end of the last request in flight, as PHP marks it, to the moment at which RestartUnit is asked for; quiet = 0.
fn request(release: Release) -> Result<Vec<Figure>> {
    let host = Host::boot(release, "bench-request")?;
    let _web = Web::install(&host, &web::Options::default())?;
    let agent = told(&host)?;
    let pool = "[pool]\ndepool = [\"/usr/local/bin/depool\"]\nrepool = [\"/usr/local/bin/pool\"]\ncheck = [\"/usr/local/bin/pool-state\"]\nquiet = \"0s\"\n";
    let target = format!("[target.fpm]\nkind = \"php-fpm\"\nunit = \"{}\"\ndrain_timeout = \"20s\"\n", release.fpm_unit());
    agent.configure(&config("0s", &format!("{pool}{target}")))?;
    let mut delays = Vec::new();
    for n in 0..12 {
        // php-fpm tells the state of its restart to nobody who asks too early: each deploy waits for the last.
        let load = Load::builder(&host).rate(0.0).start()?;
        let long = load.send(Duration::from_millis(5000 + 37 * n), web::POOL)?;
        load.wait_started(long)?;
        let begin = now();
        rename_stamp(&host, &format!("d{n}"))?;
        agent.wait_status("the drain", MINUTE, |status| status["targets"][0]["state"] == "draining")?;
        let draining = now();
        let waited = agent.wait(MINUTE)?;
        ensure!(waited.status == 0, "{waited:?}");
        let report = load.stop()?;
        ensure!(report.cut_ids().is_empty(), "{report}");
        // The last write to the markers is the mark that the request ended.
        let ended: f64 = host.ok(&["stat", "--format=%.9Y", web::MARKERS])?.trim().parse()?;
        ensure!(ended > draining + 0.2, "the request ended before the drain had begun");
        let effects = effects(&host, begin)?;
        let (asked, _) = effects.iter().find(|(_, effect)| effect.starts_with("Restart")).context("no restart")?;
        delays.push((asked - ended) * 1e3);
        let limit = 2.0 * POLL_MS + 5.0;
        if (asked - ended) * 1e3 > limit {
            // What took so long.
            for (at, effect) in effects.iter().filter(|(at, _)| (ended - 0.1..=*asked).contains(at)) {
                println!("{n}: {:>8.1} ms  {}", (at - ended) * 1e3, effect.split([' ', '{']).next().unwrap_or_default());
            }
        }
    }
    let (median, worst) = (quantile(&mut delays, 0.5), quantile(&mut delays, 1.0));
    let limit = 2.0 * POLL_MS + 5.0;
    Ok(vec![figure("last request finished to RestartUnit, worst of 12, ms", worst, limit, format!("median {median:.1} ms"))])
}

/// From the rename of the stamp, or from the start of one `systemctl restart` of all, to the moment at which the last unit is active again.
fn services(release: Release) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for count in [1, 10, 100, 500] {
        let host = Host::boot(release, "bench-services")?;
        let all: Vec<Job> = (0..count)
            .map(|n| {
                let unit = worker(&format!("worker-{n:03}"), Shape::Plain).unit("StartLimitIntervalSec=0");
                unit.service("Type=simple\nExecStart=\nExecStart=/bin/sleep infinity")
            })
            .collect();
        let units: Vec<String> = all.iter().map(Job::service_name).collect();
        jobs::install(&host, &all)?;
        jobs::systemctl(&host, &["start"], &units)?;
        let agent = Agent::install(&host)?;
        agent.deploy("v0")?;
        agent.configure(&config("0s", "[target.workers]\nkind = \"service\"\nunits = [\"worker-*.service\"]\ndrain_timeout = \"0s\"\n"))?;
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        let rounds = if count < 500 { 7 } else { 3 };
        for round in 0..rounds {
            // What starts within 50 ms of the landing counts as old (facts F4.6), so that no round is cut short by the one before.
            let begun = now();
            jobs::systemctl(&host, &["restart"], &units)?;
            theirs.push(last_active(&host, &units)? - begun);
            let id = format!("d{round}");
            let begun = rename_stamp(&host, &id)?;
            let waited = agent.wait(MINUTE)?;
            ensure!(waited.status == 0, "{waited:?}");
            ours.push(last_active(&host, &units)? - begun);
        }
        let (ours, theirs) = (quantile(&mut ours, 0.5) * 1e3, quantile(&mut theirs, 0.5) * 1e3);
        let limit = if count >= 10 { 0.75 } else { f64::INFINITY };
        let said = format!("{ours:.0} ms against {theirs:.0} ms, medians of {rounds}");
        figures.push(figure(format!("{count} services renewed, against one systemctl restart"), ours / theirs, limit, said));
    }
    Ok(figures)
}

/// When the last of these became active, in seconds since 1970; the host's clocks are the machine's.
fn last_active(host: &Host, units: &[String]) -> Result<f64> {
    last(host, units, "ActiveEnterTimestampMonotonic")
}

fn last(host: &Host, units: &[String], property: &str) -> Result<f64> {
    let uptime: f64 = std::fs::read_to_string("/proc/uptime")?.split(' ').next().context("uptime")?.parse()?;
    let offset = now() - monotonic(uptime)?;
    let all = jobs::properties(host, units, &[property])?;
    let times = all.values().map(|unit| unit[property].parse::<f64>().context("no time"));
    Ok(times.collect::<Result<Vec<f64>>>()?.into_iter().fold(0.0, f64::max) / 1e6 + offset)
}

/// CLOCK_MONOTONIC in seconds: /proc/uptime is CLOCK_BOOTTIME in hundredths, too coarse.
fn monotonic(_: f64) -> Result<f64> {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Ok(time.tv_sec as f64 + time.tv_nsec as f64 / 1e9)
}

/// From the end of the drain to the moment at which the last script runs again and the last timer is active, against a shell script that does
/// the same right steps one by one, timed from its first stop.
fn scripts(release: Release) -> Result<Vec<Figure>> {
    const DRAIN: f64 = 3.0;
    let host = Host::boot(release, "bench-scripts")?;
    let all: Vec<Job> = (0..100).map(|n| script(&format!("job-{n:03}"), Shape::Plain).timer(&format!("job-{n:03}"), FAR)).collect();
    let services: Vec<String> = all.iter().map(Job::service_name).collect();
    let timers: Vec<String> = all.iter().flat_map(Job::timers).collect();
    jobs::install(&host, &all)?;
    jobs::start(&host, &all)?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    let rules =
        format!("[target.jobs]\nkind = \"scheduled\"\nunits = [\"job-*.service\"]\ndrain_timeout = \"{DRAIN}s\"\nafter = \"rerun\"\n");
    agent.configure(&config("0s", &rules))?;
    host.write("/srv/by-hand", BY_HAND)?;
    let (mut ours, mut theirs, mut reloads) = (Vec::new(), Vec::new(), 0);
    for round in 0..3 {
        let begun: f64 = host.command(["bash", "/srv/by-hand"]).timeout(MINUTE * 2).ok()?.trim().parse().context("begun")?;
        theirs.push(over(&host, &services, &timers)? - begun);
        let before = jobs::reloads(&host)?;
        rename_stamp(&host, &format!("d{round}"))?;
        let waited = agent.wait(MINUTE)?;
        ensure!(waited.status == 0, "{waited:?}");
        reloads = reloads.max(jobs::reloads(&host)? - before);
        let started = agent.status()?["last_rollout"]["started_at"].as_str().context("started_at")?.to_owned();
        let started: f64 = host.ok(&["date", "+%s.%N", "--date", &started])?.trim().parse()?;
        ours.push(over(&host, &services, &timers)? - (started + DRAIN));
    }
    let (ours, theirs) = (quantile(&mut ours, 0.5) * 1e3, quantile(&mut theirs, 0.5) * 1e3);
    let said = format!("{ours:.0} ms against {theirs:.0} ms, medians of 3");
    Ok(vec![
        figure("100 scripts with timers, against a shell script", ours / theirs, 0.5, said),
        figure("reloads in such a rollout", reloads as f64, 2.0, ""),
    ])
}

/// Both when the last script began and when the last timer did.
fn over(host: &Host, services: &[String], timers: &[String]) -> Result<f64> {
    wait_for("all to run again", MINUTE, || {
        let states = jobs::properties(host, services, &["ActiveState"])?;
        Ok(states.values().all(|unit| unit["ActiveState"] == "activating").then_some(()))
    })?;
    Ok(last(host, services, "ExecMainStartTimestampMonotonic")?.max(last(host, timers, "ActiveEnterTimestampMonotonic")?))
}

/// The same steps in the same order: nothing fails, nothing runs off schedule. The first Reload, which the agent does in the drain, is not timed.
const BY_HAND: &str = "set -e
cd /etc/systemd/system
units=(job-*.service)
for unit in \"${units[@]}\"; do
    mkdir -p /run/systemd/system/$unit.d
    printf '[Service]\\nSuccessExitStatus=SIGTERM SIGKILL 143 137 75\\nKillMode=control-group\\nTimeoutStopSec=25s\\n' > /run/systemd/system/$unit.d/zz-by-hand.conf
done
systemctl daemon-reload
date +%s.%N
for unit in \"${units[@]}\"; do
    timer=${unit%.service}.timer
    systemctl try-restart $timer
    systemctl stop $timer
    systemctl stop $unit
done
rm -r /run/systemd/system/job-*.service.d
systemctl daemon-reload
for unit in \"${units[@]}\"; do
    systemctl start --no-block $unit
    systemctl start ${unit%.service}.timer
done
";

/// The wall time of `restart-agent status` against that of `systemctl status restart-agent`, in turn, of one shell.
fn status(release: Release) -> Result<Vec<Figure>> {
    let host = Host::boot(release, "bench-status")?;
    let all: Vec<Job> = (0..20).map(|n| worker(&format!("worker-{n:03}"), Shape::Plain)).collect();
    jobs::install(&host, &all)?;
    jobs::start(&host, &all)?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    agent.configure(&config("0s", "[target.workers]\nkind = \"service\"\nunits = [\"worker-*.service\"]\ndrain_timeout = \"0s\"\n"))?;
    agent.deploy_and_wait("v1", MINUTE)?;
    let loop_of = "for n in {1..40}; do a=$EPOCHREALTIME; restart-agent status >/dev/null; b=$EPOCHREALTIME; systemctl --no-pager status restart-agent >/dev/null; c=$EPOCHREALTIME; echo $a $b $c; done";
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for line in host.sh_ok(loop_of)?.lines() {
        let times: Vec<f64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        if let [a, b, c] = times[..] {
            ours.push((b - a) * 1e3);
            theirs.push((c - b) * 1e3);
        }
    }
    let (ours, theirs) = (quantile(&mut ours, 0.5), quantile(&mut theirs, 0.5));
    Ok(vec![figure("status, against systemctl status", ours / theirs, 0.5, format!("{ours:.1} ms against {theirs:.1} ms, medians of 40"))])
}

/// One minute of nothing to do, after a rollout.
fn idle(release: Release) -> Result<Vec<Figure>> {
    let host = Host::boot(release, "bench-idle")?;
    // With the metrics, as where node-exporter is.
    host.ok(&["mkdir", "-p", "/var/lib/prometheus/node-exporter"])?;
    let all: Vec<Job> = (0..20).map(|n| worker(&format!("worker-{n:03}"), Shape::Plain)).collect();
    jobs::install(&host, &all)?;
    jobs::start(&host, &all)?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    agent.configure(&config("500ms", "[target.workers]\nkind = \"service\"\nunits = [\"worker-*.service\"]\ndrain_timeout = \"0s\"\n"))?;
    agent.deploy_and_wait("v1", MINUTE)?;
    // What a rollout leaves to be tidied up is over when its last view has been written.
    agent.wait_state("converged", MINUTE)?;
    wait_for("the metrics to say so, too", MINUTE, || {
        let text = host.read("/var/lib/prometheus/node-exporter/restart-agent.prom")?;
        Ok(text.contains("restart_agent_state{state=\"converged\"} 1").then_some(()))
    })?;
    jobs::settled(&host)?;
    let pid = host.pid_of("restart-agent.service")?;
    let proc = format!("/proc/{}/root/proc/{pid}", host.init_pid()?);
    let before = switches(&proc)?;
    let begun = Instant::now();
    wait_for("a minute to pass", MINUTE * 2, || Ok((begun.elapsed() >= MINUTE).then_some(())))?;
    let after = switches(&proc)?;
    let woken: u64 = after.iter().map(|(thread, count)| count - before.get(thread).copied().unwrap_or_default()).sum();
    let mut rollup = String::new();
    std::io::Read::read_to_string(&mut File::open(format!("{proc}/smaps_rollup"))?, &mut rollup)?;
    let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")?.split_whitespace().next()?.parse::<f64>().ok()).context("Pss")?;
    Ok(vec![
        figure("threads at rest", after.len() as f64, 2.0, ""),
        figure("context switches in a minute of rest", woken as f64, 4.0, ""),
        figure("PSS, MiB", pss / 1024.0, 4.0, ""),
    ])
}

fn switches(proc: &str) -> Result<BTreeMap<String, u64>> {
    let mut found = BTreeMap::new();
    for thread in std::fs::read_dir(format!("{proc}/task"))? {
        let thread = thread?;
        let status = std::fs::read_to_string(thread.path().join("status"))?;
        let counts = status
            .lines()
            .filter(|line| line.contains("ctxt_switches"))
            .filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        found.insert(thread.file_name().to_string_lossy().into_owned(), counts.sum());
    }
    Ok(found)
}
