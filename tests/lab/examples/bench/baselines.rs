//! What three deploys of php-fpm cost, done in each of the usual ways and by generations, under the same load.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use lab::agent::{Agent, STAMP};
use lab::generations::{self, BOOT, Generations, WebServer};
use lab::load::{Load, Report};
use lab::web::{self, Web};
use lab::{Host, Release, wait_for};

/// Enough to catch up within [`EVERY`] with what ten seconds of standing still leave behind.
const CHILDREN: u32 = 120;
const DEPLOYS: u32 = 3;
const FIRST: Duration = Duration::from_secs(5);
const EVERY: Duration = Duration::from_secs(20);
/// The load outlasts the longest request.
const END: Duration = Duration::from_secs(65);
const LONG: (usize, Duration) = (4, Duration::from_secs(60));
/// Longer than this beyond its own work: somebody had to wait.
const STALLED: Duration = Duration::from_millis(500);

/// After wikimedia's safe-service-restart, for one pool and one service: depool, verify ten times at most, a fixed wait, restart, and the
/// host is only put back if that went well.
const DEPOOL_SCRIPT: &str = r#"#!/bin/sh
/usr/local/bin/depool || exit 127
tries=0
until /usr/local/bin/pool-state >/dev/null; [ $? -eq 1 ]; do
    tries=$((tries + 1))
    [ $tries -lt 10 ] || exit 127
    sleep 5
done
sleep 3
systemctl restart "$1" || exit
/usr/local/bin/pool || exit 127
"#;

/// How a deploy is done, once the code is in place.
#[derive(Clone, Copy)]
enum Way {
    Nothing,
    Restart,
    Reload { process_control_timeout: u32 },
    QuitAndStart,
    DepoolScript,
    GenerationsByHand,
    Agent,
}

impl Way {
    fn name(self) -> String {
        match self {
            Way::Nothing => "no deploy".into(),
            Way::Restart => "systemctl restart".into(),
            Way::Reload { process_control_timeout } => format!("reload, process_control_timeout = {process_control_timeout}"),
            Way::QuitAndStart => "QUIT, then start, process_control_timeout = 10".into(),
            Way::DepoolScript => "depool, sleep 3, restart, repool".into(),
            Way::GenerationsByHand => "generations, by hand".into(),
            Way::Agent => "generations, by the agent".into(),
        }
    }

    fn process_control_timeout(self) -> u32 {
        match self {
            Way::Reload { process_control_timeout } => process_control_timeout,
            Way::QuitAndStart => 10,
            _ => 0,
        }
    }
}

/// Prints a line for each way as it has been measured: all, or those whose name has one of these words.
pub fn table(release: Release, words: &[&str], agent: bool) -> Result<()> {
    println!(
        "{release}: {DEPLOYS} deploys, {} s apart; 300 requests/s, 95 % of 5 to 50 ms, 5 % of 1 to 4 s; {} of {} s with a child each",
        EVERY.as_secs(),
        LONG.0,
        LONG.1.as_secs()
    );
    println!("{}", row("way", &["sent", "lost", "of them cut", "of them long", "stalled", "longest gap, ms", "p50, ms", "p99, ms"]));
    println!("{}", row("---", &["--:"; 8]));
    let mut ways = vec![
        Way::Nothing,
        Way::Restart,
        Way::Reload { process_control_timeout: 0 },
        Way::Reload { process_control_timeout: 10 },
        Way::QuitAndStart,
        Way::DepoolScript,
        Way::GenerationsByHand,
    ];
    if agent {
        ways.push(Way::Agent);
    }
    for way in ways.into_iter().filter(|way| words.is_empty() || words.iter().any(|word| way.name().contains(word))) {
        let report = measure(release, way).with_context(|| way.name())?;
        println!("{}", line(way, &report));
    }
    Ok(())
}

fn row<T: AsRef<str>>(way: &str, cells: &[T]) -> String {
    let cells: Vec<&str> = cells.iter().map(AsRef::as_ref).collect();
    format!("| {way} | {} |", cells.join(" | "))
}

/// Lost: no right answer. Cut: PHP had begun. Long: those of a minute. Stalled: they took 500 ms longer than their work. The percentiles are
/// of the short ones that were answered.
fn line(way: Way, report: &Report) -> String {
    let counts = report.counts();
    let long = report.only(|record| record.child).counts().lost();
    let short = report.only(|record| record.wanted <= Duration::from_millis(50));
    let ms = |duration: Duration| format!("{:.0}", duration.as_secs_f64() * 1e3);
    let cells = [
        report.records.len().to_string(),
        counts.lost().to_string(),
        counts.cut.to_string(),
        long.to_string(),
        report.stalled(STALLED).to_string(),
        ms(report.longest_gap()),
        ms(short.latency(50.0)),
        ms(short.latency(99.0)),
    ];
    row(&way.name(), &cells)
}

fn measure(release: Release, way: Way) -> Result<Report> {
    let host = Host::boot(release, "bench-baselines")?;
    match way {
        Way::GenerationsByHand => by_hand(&host),
        Way::Agent => by_agent(&host),
        _ => in_place(&host, way),
    }
}

/// The distribution's php-fpm behind nginx, and behind HAProxy too where a pool is needed.
fn in_place(host: &Host, way: Way) -> Result<Report> {
    let (etc, unit) = (host.release().fpm_etc(), host.release().fpm_unit());
    let timeout = way.process_control_timeout();
    host.write(&format!("{etc}/pool.d/00-global.conf"), format!("[global]\nprocess_control_timeout = {timeout}\n"))?;
    let web = Web::install(host, &web::Options { children: CHILDREN, ..web::Options::default() })?;
    host.write_mode("/usr/local/bin/depool-restart-repool", DEPOOL_SCRIPT, 0o755)?;
    let address = if matches!(way, Way::DepoolScript) { web::BALANCER } else { web::POOL };
    under_load(host, address, |n| {
        if matches!(way, Way::Nothing) {
            return Ok(());
        }
        web.deploy_code(&format!("v{n}"))?;
        match way {
            Way::Restart => host.ok(&["systemctl", "restart", unit])?,
            Way::Reload { .. } => host.ok(&["systemctl", "reload", unit])?,
            Way::DepoolScript => host.ok(&["depool-restart-repool", unit])?,
            _ => {
                host.ok(&["systemctl", "kill", "--kill-whom=main", "--signal=SIGQUIT", unit])?;
                wait_for("php-fpm to end", Duration::from_secs(30), || match host.property(unit, "ActiveState")?.as_str() {
                    "inactive" => Ok(Some(())),
                    other => bail!("{other}"),
                })?;
                host.ok(&["systemctl", "start", unit])?
            }
        };
        Ok(())
    })
}

fn by_hand(host: &Host) -> Result<Report> {
    let stack = Generations::install(host, WebServer::Nginx, &generations::Options { children: CHILDREN, ..Default::default() })?;
    let report = under_load(host, generations::ADDRESS, |n| stack.begin(&format!("g{n}"), &format!("v{n}")).map(drop))?;
    for n in 0..DEPLOYS {
        stack.finish(&if n == 0 { BOOT.to_owned() } else { format!("g{n}") })?;
    }
    Ok(report)
}

fn by_agent(host: &Host) -> Result<Report> {
    let stack = Generations::install(host, WebServer::Nginx, &generations::Options { children: CHILDREN, ..Default::default() })?;
    let agent = Agent::install(host)?;
    agent.deploy("v0")?;
    let target = stack.target("linger = \"24h\"\nmax_generations = 8");
    agent.configure(&format!("[stamp]\npath = \"{STAMP}\"\nsettle = \"500ms\"\n{target}"))?;
    under_load(host, generations::ADDRESS, |n| {
        stack.deploy_code(&format!("v{n}"))?;
        agent.deploy_and_wait(&format!("v{n}"), EVERY)
    })
}

/// The load, with deploys that begin every [`EVERY`]; one that takes longer delays the next.
fn under_load(host: &Host, address: &'static str, deploy: impl Fn(u32) -> Result<()>) -> Result<Report> {
    let load = Load::builder(host).to(address).mixed().long(LONG.0, LONG.1).start()?;
    for id in load.long() {
        load.wait_started(*id)?;
    }
    let begun = Instant::now();
    let until = |moment: Duration| wait_for("the time to come", END * 2, || Ok((begun.elapsed() >= moment).then_some(())));
    for n in 0..DEPLOYS {
        until(FIRST + EVERY * n)?;
        deploy(n + 1)?;
    }
    until(END)?;
    let report = load.stop()?;
    // What the stack around php-fpm cannot hold is not lost by a deploy.
    let full = host.sh("journalctl --no-pager | grep -m 1 -e 'Too many open files' -e 'worker_connections are not enough'")?.stdout;
    ensure!(full.is_empty(), "the web server was full: {full}");
    Ok(report)
}
