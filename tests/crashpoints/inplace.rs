//! php-fpm in place, behind a pool, with requests in it; scripts that are run again, kept quiet, or deaf; a worker. One host for all points.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use lab::agent::CONFIG;
use lab::jobs::{self, Job, Marks, Shape, script, worker};
use lab::load::Load;
use lab::pool::FilePool;
use lab::web;
use lab::{Host, Release, wait_for};

use crate::jobrunner::Stage;
use crate::strike::{Journal, Points, WAYS, Way, strike};

const MINUTE: Duration = Duration::from_secs(60);
const FAR: &str = "OnCalendar=*-01-01 03:00";
const STARTS: &str = "/var/log/app/starts.log";

const TARGETS: &str = "
[target.rerun]
kind = \"scheduled\"
units = [\"rerun-*.service\"]
drain_timeout = \"0s\"
term_timeout = \"500ms\"
after = \"rerun\"
max_interruptions = 1000
[target.quiet]
kind = \"scheduled\"
units = [\"quiet-*.service\"]
drain_timeout = \"0s\"
term_timeout = \"500ms\"
after = \"until-next\"
max_interruptions = 1000
[target.workers]
kind = \"service\"
units = [\"worker-*.service\"]
drain_timeout = \"0s\"
term_timeout = \"500ms\"
";

struct Struck<'h> {
    host: &'h Host,
    stage: Stage<'h>,
    jobs: Vec<Job>,
    deploys: usize,
}

/// What was counted before a point.
struct Before {
    marks: Marks,
    php: usize,
    casualties: usize,
}

pub fn struck(release: Release) -> Result<()> {
    let host = Host::boot(release, "struck")?;
    let mut struck = Struck::set(&host)?;
    let mut points = Points::default();
    let length = struck.undisturbed()?;
    // Each way at moments of its own.
    let each = if std::env::var_os("RELEASE_TESTS").is_some() { 20 } else { 1 };
    for (number, way) in WAYS.into_iter().enumerate() {
        for turn in 0..each {
            let n = 1 + (turn * WAYS.len() + number) * length / (each * WAYS.len());
            struck.point(way, n, &mut points).with_context(|| format!("{way:?} at entry {n} of {length}"))?;
        }
    }
    points.tell(&format!("{release}: in place, {length} entries in a rollout"));
    // One rollout may have an entry less than another: requests in flight are counted now and then.
    ensure!(points.count() + 3 >= each * WAYS.len(), "only {} of {} points were struck", points.count(), each * WAYS.len());
    Ok(())
}

impl<'h> Struck<'h> {
    fn set(host: &'h Host) -> Result<Struck<'h>> {
        let jobs = vec![
            script("rerun-plain", Shape::Plain).on_failure().timer("rerun-plain", FAR),
            script("rerun-ignores", Shape::Ignores).on_failure().timer("rerun-ignores", FAR),
            script("quiet-plain", Shape::Plain).on_failure().timer("quiet-plain", FAR),
            worker("worker-plain", Shape::Plain).on_failure(),
        ];
        jobs::install(host, &jobs)?;
        jobs::start(host, &jobs)?;
        let fpm = host.release().fpm_unit();
        let counted = format!("[Service]\nExecStartPre=/bin/sh -c 'echo start >> {STARTS}'\n[Unit]\nStartLimitIntervalSec=0\n");
        host.write(&format!("/etc/systemd/system/{fpm}.d/starts.conf"), counted)?;
        // As fast as can be: it is to be back in the middle of things.
        host.write("/etc/systemd/system/restart-agent.service.d/fast.conf", "[Service]\nRestartSec=100ms\n")?;
        host.sh_ok(&format!("systemctl daemon-reload && systemctl enable --quiet nginx.service {fpm} && systemctl add-wants multi-user.target worker-plain.service"))?;
        let rules = "drain_timeout = \"700ms\"\nterm_timeout = \"2s\"";
        let stage = Stage::set(host, &web::Options::default(), &FilePool::config("20s", "100ms"), rules)?;
        let config = host.read(CONFIG)?;
        stage.agent.configure(&format!("{config}{TARGETS}"))?;
        Ok(Struck { host, stage, jobs, deploys: 0 })
    }

    /// How many entries a rollout has that nobody disturbs.
    fn undisturbed(&mut self) -> Result<usize> {
        let before = self.before()?;
        let journal = Journal::from_now(self.host)?;
        let load = self.load()?;
        let version = self.deploy()?;
        self.converged(&version)?;
        let length = journal.count()?;
        self.ensure_right(None, &before, &BTreeSet::new(), &load.stop()?)?;
        Ok(length)
    }

    fn point(&mut self, way: Way, n: usize, points: &mut Points) -> Result<()> {
        self.run_all()?;
        let before = self.before()?;
        let begun = Instant::now();
        let load = self.load()?;
        let journal = Journal::from_now(self.host)?;
        let (host, mut version) = (self.host, String::new());
        let agent = lab::agent::Agent::on(host);
        let struck = strike(host, &agent, way, n, points, || {
            version = self.deploy()?;
            Ok(())
        })?;
        self.converged(&version)?;
        let report = load.stop()?;
        self.ensure_right(struck.then_some(way), &before, &journal.settled_since_the_start()?, &report)?;
        self.stage.ensure_done(&version)?;
        eprintln!("{}: {way:?} at {n}: {:.1} s", host.release(), begun.elapsed().as_secs_f64());
        Ok(())
    }

    /// One request that ends in the drain, one that does not.
    fn load(&self) -> Result<Load<'h>> {
        let load = Load::builder(self.host).rate(0.0).start()?;
        for lasting in [Duration::from_millis(300), Duration::from_secs(6)] {
            load.wait_started(load.send(lasting, web::POOL)?)?;
        }
        Ok(load)
    }

    fn deploy(&mut self) -> Result<String> {
        self.deploys += 1;
        let version = format!("v{}", self.deploys);
        self.stage.deploy(&version)?;
        Ok(version)
    }

    fn converged(&self, version: &str) -> Result<()> {
        let waited = self.stage.agent.wait(MINUTE)?;
        ensure!(waited.status == 0, "{version}: {waited:?}: {}", self.stage.agent.status_text()?);
        self.stage.agent.wait_state("converged", MINUTE).map(drop)
    }

    /// Scripts that are not running are started, as their timers would.
    fn run_all(&self) -> Result<()> {
        let units: Vec<String> = self.jobs.iter().map(Job::service_name).collect();
        let before = Marks::read(self.host)?;
        let state = |name: &str| self.host.property(name, "ActiveState");
        let idle: Vec<&Job> = self.jobs.iter().filter(|job| state(&job.service_name()).is_ok_and(|state| state == "inactive")).collect();
        jobs::systemctl(self.host, &["start", "--no-block"], &units)?;
        wait_for("all to run", MINUTE, || {
            let now = Marks::read(self.host)?;
            Ok(idle.iter().all(|job| now.starts(&job.name) > before.starts(&job.name)).then_some(()))
        })
    }

    fn php_starts(&self) -> Result<usize> {
        Ok(self.host.read(STARTS)?.lines().count())
    }

    fn before(&self) -> Result<Before> {
        Ok(Before { marks: Marks::read(self.host)?, php: self.php_starts()?, casualties: self.stage.agent.casualties()?.len() })
    }

    /// `settled`: the scripts that the agent owed a run when it was last started.
    fn ensure_right(&self, way: Option<Way>, before: &Before, settled: &BTreeSet<String>, report: &lab::load::Report) -> Result<()> {
        let off = way == Some(Way::PoweredOff);
        let all = self.stage.agent.casualties()?;
        let casualties = &all[before.casualties..];
        jobs::settled(self.host)?;
        let marks = Marks::read(self.host)?;
        for job in &self.jobs {
            let name = &job.name;
            let starts = marks.starts(name) - before.marks.starts(name);
            let cut = casualties.iter().filter(|casualty| casualty["unit"] == job.service_name()).count();
            // What the power failure ended was not the agent's doing, and is not run again for that; a worker starts with the host.
            let right = match (name.split('-').next().unwrap_or_default(), off) {
                ("quiet", false) => starts == 0 && cut == 1,
                ("quiet", true) => starts == 0 && cut <= 1,
                ("rerun", false) => starts == 1 && cut == 1,
                ("rerun", true) if settled.contains(&job.service_name()) => starts == 1 && cut <= 1,
                // Its new run may have ended with the host before it left a mark.
                ("rerun", true) => starts <= 1 && cut <= 1,
                (_, false) => starts == 1,
                (_, true) => starts == 1 || starts == 2,
            };
            ensure!(right, "{name}: {starts} starts, {cut} casualties: {casualties:#?}");
            ensure!(marks.count(name, "failure") == 0, "{name} failed");
        }
        for timer in self.jobs.iter().flat_map(Job::timers) {
            ensure!(self.host.property(&timer, "ActiveState")? == "active", "{timer} is not active");
        }
        let php = self.php_starts()? - before.php;
        ensure!(php == 1 || (off && php == 2), "php-fpm was started {php} times");
        let recorded = |certain: bool| -> BTreeSet<u64> {
            let requests = casualties.iter().filter(|casualty| casualty["what"] == "request" && (casualty["certain"] == true || !certain));
            requests.filter_map(|casualty| casualty["request"].as_str()?.split("id=").nth(1)?.split('&').next()?.parse().ok()).collect()
        };
        let cut = report.cut_ids();
        ensure!(off || cut.is_subset(&recorded(false)), "cut: {cut:?}, recorded: {casualties:#?}");
        ensure!(recorded(true).is_subset(&cut), "cut: {cut:?}, recorded as certain: {casualties:#?}");
        ensure!(off || report.counts().lost() == cut.len(), "{report}");
        let failed = self.host.ok(&["systemctl", "list-units", "--failed", "--plain", "--no-legend"])?;
        ensure!(failed.trim().is_empty(), "failed: {failed}");
        Ok(())
    }
}
