//! Scripts and workers for tests of units: each start, end and marker is a line in a file, so that what happened can be counted.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::{Host, wait_for};

/// Where the marks are.
const MARKS: &str = "/var/tmp/marks";
/// For what takes a moment.
const SOON: Duration = Duration::from_secs(15);

/// What a process does, and what it does when it is told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Shape {
    /// A plain bash script: dies of SIGTERM.
    Plain,
    /// Traps SIGTERM and exits 0.
    TrapsAndExits0,
    /// Traps SIGTERM and exits 143, as bash does by itself when a child was terminated.
    TrapsAndExits143,
    /// Ignores SIGTERM.
    Ignores,
    /// Dies of SIGTERM; its child ignores it.
    ChildIgnores,
    /// Ends at once.
    Quick,
    /// Works until `/var/tmp/marks/NAME.finish` appears, then exits 0; dies of SIGTERM.
    UntilTold,
    /// Likewise, and exits 1.
    UntilToldFails,
    /// Likewise, and exits 75, though nobody has asked it to.
    UntilToldExits75,
    /// Traps SIGINT and exits 130, as bash does by itself.
    TrapsIntAndExits130,
    /// On SIGTERM, finishes what it is at (1 s), leaves a mark `finished`, exits 0.
    FinishesItsJob,
}

/// A unit with its timers, as text.
#[derive(Debug, Clone)]
pub struct Job {
    /// Without `.service`.
    pub name: String,
    shape: Shape,
    kind: &'static str,
    unit: String,
    service: String,
    second_command: bool,
    timers: Vec<Timer>,
}

#[derive(Debug, Clone)]
struct Timer {
    name: String,
    lines: String,
    /// Wanted by timers.target, which keeps it loaded while it is stopped.
    enabled: bool,
}

/// A timer-activated script, `Type=oneshot`. Marks `failure` or `success` by OnFailure= and OnSuccess= where it has them.
#[must_use]
pub fn script(name: &str, shape: Shape) -> Job {
    Job {
        name: name.to_owned(),
        shape,
        kind: "oneshot",
        unit: String::new(),
        service: String::new(),
        second_command: false,
        timers: Vec::new(),
    }
}

/// A long-running service, `Type=exec`.
#[must_use]
pub fn worker(name: &str, shape: Shape) -> Job {
    Job { kind: "exec", ..script(name, shape) }
}

impl Job {
    /// A line for `[Unit]`.
    #[must_use]
    pub fn unit(mut self, line: &str) -> Job {
        let _ = writeln!(self.unit, "{line}");
        self
    }

    /// A line for `[Service]`.
    #[must_use]
    pub fn service(mut self, line: &str) -> Job {
        let _ = writeln!(self.service, "{line}");
        self
    }

    /// Its failure leaves a mark.
    #[must_use]
    pub fn on_failure(self) -> Job {
        self.unit("OnFailure=mark-failure@%N.service")
    }

    /// Its success leaves a mark.
    #[must_use]
    pub fn on_success(self) -> Job {
        self.unit("OnSuccess=mark-success@%N.service")
    }

    /// A second ExecStart=, which leaves a mark `second`.
    #[must_use]
    pub fn second_command(mut self) -> Job {
        self.second_command = true;
        self
    }

    /// An enabled timer of this name (without `.timer`), with these lines, separated by newlines.
    #[must_use]
    pub fn timer(mut self, name: &str, lines: &str) -> Job {
        self.timers.push(Timer { name: name.to_owned(), lines: lines.to_owned(), enabled: true });
        self
    }

    /// A timer that is not enabled: systemd forgets it while it is stopped.
    #[must_use]
    pub fn loose_timer(mut self, name: &str, lines: &str) -> Job {
        self.timers.push(Timer { name: name.to_owned(), lines: lines.to_owned(), enabled: false });
        self
    }

    /// `NAME.service`.
    #[must_use]
    pub fn service_name(&self) -> String {
        format!("{}.service", self.name)
    }

    /// Its timers, with `.timer`.
    pub fn timers(&self) -> impl Iterator<Item = String> {
        self.timers.iter().map(|timer| format!("{}.timer", timer.name))
    }

    fn files(&self) -> Vec<(String, String)> {
        let mut unit = format!("[Unit]\n{}[Service]\nType={}\n", self.unit, self.kind);
        let _ = writeln!(unit, "ExecStart=/bin/bash /srv/jobs/{:?} %N", self.shape);
        if self.second_command {
            let _ = writeln!(unit, "ExecStart=/bin/sh -c 'echo %N >> {MARKS}/%N.second'");
        }
        unit.push_str(&self.service);
        let mut files = vec![(format!("{}.service", self.name), unit)];
        for Timer { name, lines, .. } in &self.timers {
            files.push((format!("{name}.timer"), format!("[Timer]\nUnit={}\nAccuracySec=10ms\n{lines}\n", self.service_name())));
        }
        files
    }
}

const ALL: [Shape; 11] = [
    Shape::Plain,
    Shape::TrapsAndExits0,
    Shape::TrapsAndExits143,
    Shape::Ignores,
    Shape::ChildIgnores,
    Shape::Quick,
    Shape::UntilTold,
    Shape::UntilToldFails,
    Shape::UntilToldExits75,
    Shape::TrapsIntAndExits130,
    Shape::FinishesItsJob,
];

impl Shape {
    fn program(self) -> &'static str {
        match self {
            Shape::Plain => "sleep 600",
            Shape::TrapsAndExits0 => "trap 'exit 0' TERM\nwhile :; do sleep 0.1; done",
            Shape::TrapsAndExits143 => "trap 'exit 143' TERM\nwhile :; do sleep 0.1; done",
            Shape::Ignores => "trap '' TERM\nwhile :; do sleep 0.1; done",
            Shape::ChildIgnores => "(trap '' TERM; while :; do sleep 0.1; done) &\nwait",
            Shape::Quick => "exit 0",
            Shape::UntilTold => "until [ -e \"$marks.finish\" ]; do sleep 0.05; done\nexit 0",
            Shape::UntilToldExits75 => "until [ -e \"$marks.finish\" ]; do sleep 0.05; done\nexit 75",
            Shape::TrapsIntAndExits130 => "trap 'exit 130' INT\nwhile :; do sleep 0.1; done",
            Shape::UntilToldFails => "until [ -e \"$marks.finish\" ]; do sleep 0.05; done\nexit 1",
            Shape::FinishesItsJob => {
                "told=\ntrap 'told=1' TERM\nuntil [ \"$told\" ]; do sleep 0.05; done\nsleep 1\necho x >> \"$marks.finished\"\nexit 0"
            }
        }
    }
}

/// Writes the units and what they need, and reloads systemd once. Nothing is started.
///
/// # Errors
/// The host does not take it.
pub fn install(host: &Host, jobs: &[Job]) -> Result<()> {
    let mut files: BTreeMap<String, String> = BTreeMap::new();
    for shape in ALL {
        let begin = format!("marks={MARKS}/$1\necho \"$EPOCHREALTIME $$\" >> \"$marks.starts\"\n");
        files.insert(format!("/srv/jobs/{shape:?}"), format!("{begin}{}\n", shape.program()));
    }
    for mark in ["failure", "success"] {
        let unit = format!("[Service]\nType=oneshot\nExecStart=/bin/sh -c 'echo %i >> {MARKS}/%i.{mark}'\n");
        files.insert(format!("/etc/systemd/system/mark-{mark}@.service"), unit);
    }
    for (name, text) in jobs.iter().flat_map(Job::files) {
        files.insert(format!("/etc/systemd/system/{name}"), text);
    }
    // One process in the host for hundreds of files.
    let mut bundle = format!("mkdir -p {MARKS} /srv/jobs /etc/systemd/system/timers.target.wants\nchmod 1777 {MARKS}\n");
    for (path, text) in files {
        let _ = write!(bundle, "cat > '{path}' <<'END-OF-FILE'\n{text}END-OF-FILE\n");
    }
    for timer in jobs.iter().flat_map(|job| &job.timers).filter(|timer| timer.enabled) {
        let _ = writeln!(bundle, "ln -sf '/etc/systemd/system/{0}.timer' '/etc/systemd/system/timers.target.wants/{0}.timer'", timer.name);
    }
    host.command(["bash", "-e"]).stdin(bundle).ok()?;
    host.ok(&["systemctl", "daemon-reload"])?;
    Ok(())
}

/// Starts timers, then scripts, as a timer would, and waits until each has begun.
///
/// # Errors
/// One does not begin.
pub fn start(host: &Host, jobs: &[Job]) -> Result<()> {
    let timers: Vec<String> = jobs.iter().flat_map(Job::timers).collect();
    if !timers.is_empty() {
        systemctl(host, &["start"], &timers)?;
    }
    let services: Vec<String> = jobs.iter().map(Job::service_name).collect();
    systemctl(host, &["start", "--no-block"], &services)?;
    let marks = wait_for("all to have begun", SOON * 2, || {
        let marks = Marks::read(host)?;
        let missing: Vec<&str> = jobs.iter().map(|job| job.name.as_str()).filter(|name| marks.starts(name) == 0).collect();
        if missing.is_empty() { Ok(Some(marks)) } else { bail!("not begun: {missing:?}") }
    })?;
    for job in jobs {
        ensure!(marks.starts(&job.name) == 1, "{} began {} times", job.name, marks.starts(&job.name));
    }
    Ok(())
}

/// systemctl with arguments and many units.
///
/// # Errors
/// It fails.
pub fn systemctl(host: &Host, arguments: &[&str], units: &[String]) -> Result<String> {
    let all = ["systemctl"].into_iter().chain(arguments.iter().copied()).map(str::to_owned).chain(units.iter().cloned());
    host.command(all).ok()
}

/// Lets a script of [`Shape::UntilTold`] or [`Shape::UntilToldFails`] end.
///
/// # Errors
/// The host does not take it.
pub fn finish(host: &Host, name: &str) -> Result<()> {
    host.touch(&format!("{MARKS}/{name}.finish"))
}

/// All marks that were left, by file.
#[derive(Debug, Clone, Default)]
pub struct Marks(BTreeMap<String, Vec<String>>);

impl Marks {
    /// As they are now.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn read(host: &Host) -> Result<Marks> {
        let text = host.sh_ok(&format!("cd {MARKS} 2>/dev/null && grep -H '' -r . || true"))?;
        let mut marks = Marks::default();
        for line in text.lines() {
            let (file, rest) = line.split_once(':').with_context(|| line.to_owned())?;
            marks.0.entry(file.trim_start_matches("./").to_owned()).or_default().push(rest.to_owned());
        }
        Ok(marks)
    }

    /// How often it was started.
    #[must_use]
    pub fn starts(&self, name: &str) -> usize {
        self.count(name, "starts")
    }

    /// When it was started, in seconds since 1970.
    #[must_use]
    pub fn start_times(&self, name: &str) -> Vec<f64> {
        let lines = self.0.get(&format!("{name}.starts")).map(Vec::as_slice).unwrap_or_default();
        lines.iter().filter_map(|line| line.split(' ').next()?.parse().ok()).collect()
    }

    /// How often this mark was left: `failure`, `success`, `second`, `finished`.
    #[must_use]
    pub fn count(&self, name: &str, mark: &str) -> usize {
        self.0.get(&format!("{name}.{mark}")).map_or(0, Vec::len)
    }
}

/// Properties of many units, by unit, in one call.
///
/// # Errors
/// systemctl fails.
pub fn properties(host: &Host, units: &[String], wanted: &[&str]) -> Result<BTreeMap<String, BTreeMap<String, String>>> {
    let wanted = format!("--property=Id,{}", wanted.join(","));
    let text = systemctl(host, &["show", "--timestamp=unix", &wanted, "--"], units)?;
    let mut found = BTreeMap::new();
    for block in text.split("\n\n") {
        let block: BTreeMap<String, String> =
            block.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        if let Some(id) = block.get("Id") {
            found.insert(id.clone(), block);
        }
    }
    for unit in units {
        ensure!(found.contains_key(unit), "systemd does not know {unit}");
    }
    Ok(found)
}

/// Returns when everything that was due in systemd by now has happened: a timer that is set now, for a moment later, has elapsed, and
/// no job is queued that is not a running script's.
///
/// # Errors
/// Not within 15 s.
pub fn settled(host: &Host) -> Result<()> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let mark = format!("/var/tmp/settled-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    host.ok(&["systemd-run", "--quiet", "--on-active=400ms", "--timer-property=AccuracySec=1ms", "touch", &mark])?;
    wait_for("a timer to elapse", SOON, || Ok(host.exists(&mark).then_some(())))?;
    wait_for("no job to wait", SOON, || {
        let waiting = host.sh_ok("systemctl list-jobs --no-legend | grep -c ' waiting$' || true")?;
        if waiting.trim() == "0" { Ok(Some(())) } else { bail!("{waiting} jobs wait") }
    })
}

/// The host's clock, in seconds since 1970.
///
/// # Errors
/// date fails.
pub fn clock(host: &Host) -> Result<f64> {
    host.ok(&["date", "+%s.%N"])?.trim().parse().context("date")
}

/// How often systemd has reloaded since it booted.
///
/// # Errors
/// The journal cannot be read.
pub fn reloads(host: &Host) -> Result<usize> {
    host.ok(&["journalctl", "--sync"])?;
    let text = host.ok(&["journalctl", "--no-pager", "--boot", "--output=cat", "_PID=1"])?;
    // Debian 12: "Reloading."; Debian 13: "Reloading...".
    Ok(text.lines().filter(|line| matches!(line.trim(), "Reloading." | "Reloading...")).count())
}
