//! What the agent does to its host. One folder or file per outside thing; they know nothing of one another and are put together here.

pub mod clock;
pub mod cooperation;
pub mod files;
pub mod fpm;
pub mod notify;
pub mod processes;
pub mod stamp;
pub mod systemd;
pub mod units;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use crate::core::deploy::printable;
use crate::core::doctor::seen::{FpmSaid, UnitSettings};
use crate::core::effect::{CommandEnd, Effect, Fault, Looked, Outcome};
use crate::core::seen::{FpmLayout, GenerationsSeen};
use cooperation::Cooperation;
use fpm::cache::LayoutCache;
use fpm::{invocation, layout};
use systemd::Hints;
use systemd::command_line::CommandLine;
use units::Units;

/// For `php-fpm -t`, which takes 26 to 154 ms (facts 1h), and for `-tt`.
const ASK_FPM: Duration = Duration::from_secs(15);
/// Of what php-fpm says about a broken configuration.
const SAID_MAX: usize = 2000;

/// Where the host's things are. The default is a real host's own.
#[derive(Debug, Clone)]
pub struct Places {
    pub systemd: systemd::Places,
    pub cgroups: PathBuf,
    pub proc: PathBuf,
    /// Where the configuration that `php-fpm -tt` is given is written, for a moment.
    pub run: PathBuf,
    /// Beside an agent that may be at work: nothing of its is touched.
    pub look_only: bool,
}

impl Default for Places {
    fn default() -> Self {
        Places {
            systemd: systemd::Places::default(),
            cgroups: "/sys/fs/cgroup".into(),
            proc: "/proc".into(),
            run: "/run/restart-agent".into(),
            look_only: false,
        }
    }
}

/// The real host.
#[derive(Debug)]
pub struct Host {
    units: Units,
    layouts: Mutex<LayoutCache>,
    run: PathBuf,
    proc: PathBuf,
    look_only: bool,
}

impl Host {
    /// Starts to connect to systemd, in the tokio runtime of the caller.
    #[must_use]
    pub fn connect(places: Places) -> (Host, Hints) {
        let Places { mut systemd, cgroups, proc, run, look_only } = places;
        systemd.look_only = look_only;
        let cooperation = Cooperation::at(&run, &proc);
        let processes = processes::Processes::at(cgroups, proc.clone());
        let (units, hints) = Units::connect(systemd, processes, cooperation);
        (Host { units, layouts: Mutex::default(), run, proc, look_only }, hints)
    }

    /// Waits until systemd can be asked.
    ///
    /// # Errors
    /// [`Fault::Unreachable`] if it cannot within `within`.
    pub async fn connected(&self, within: Duration) -> Result<(), Fault> {
        self.units.systemd.connected(within).await
    }

    /// systemd's signals are of use from now on.
    pub fn listen(&self) {
        self.units.systemd.subscribe();
    }

    /// They are not any more: nothing is to wake the agent.
    pub fn rest(&self) {
        self.units.systemd.unsubscribe();
    }

    /// The units with what an earlier run, or a crash, left: a drop-in of ours, or the file that keeps them quiet.
    pub fn leftovers(&self) -> Vec<String> {
        self.units.leftovers().unwrap_or_else(|error| {
            tracing::warn!(%error, "cannot look for what was left to units");
            Vec::new()
        })
    }

    /// Performs one effect, and owes what its docstring says.
    pub async fn perform(&self, effect: &Effect) -> Outcome {
        match effect {
            Effect::AskPools { asks, full, timeout } => Outcome::Pools(fpm::ask_pools(asks, *full, *timeout).await),
            Effect::Connections { sockets } => Outcome::Connections(fpm::connections::accepted(&self.proc, sockets)),
            Effect::Request { socket, request, timeout } => match fpm::request(socket, request, *timeout).await {
                Ok((status, body)) => Outcome::Answered { status, body },
                Err(why) => Outcome::Fault(Fault::Other(why)),
            },
            Effect::AskOpcache { socket, timeout } => match fpm::ask_opcache(socket, *timeout).await {
                Ok(seen) => Outcome::Opcache(seen),
                Err(why) => Outcome::Fault(Fault::Other(why)),
            },
            Effect::Inspect { unit } => self.inspect(unit).await.map_or_else(Outcome::Fault, Outcome::Layout),
            Effect::TestConfig { unit } => self.test_config(unit).await.unwrap_or_else(Outcome::Fault),
            Effect::CheckPool { pool, argv, timeout } => {
                self.units.systemd.run_check(&format!("check {pool}"), argv, *timeout).await.map_or_else(Outcome::Fault, Outcome::Command)
            }
            Effect::Repool { pool, argv, timeout } => self.hook("repool", pool, argv, *timeout).await,
            Effect::Depool { pool, depool, timeout, .. } => self.hook("depool", pool, depool, *timeout).await,
            Effect::SeeGenerations { template, socket } => {
                self.generations(template, socket).await.map_or_else(Outcome::Fault, |seen| Outcome::Generations(Box::new(seen)))
            }
            Effect::Switch { socket, to } => match fpm::symlink::switch(Path::new(socket), Path::new(to)) {
                Ok(()) => Outcome::Done,
                Err(error) => Outcome::Fault(Fault::Other(format!("cannot make {socket} lead to {to}: {error}"))),
            },
            Effect::Look { .. }
            | Effect::End { .. }
            | Effect::Schedules { .. }
            | Effect::FindStrays { .. }
            | Effect::Signal { .. }
            | Effect::Notify { .. }
            | Effect::Lend { .. }
            | Effect::Unlend { .. }
            | Effect::Stop { .. }
            | Effect::Start { .. }
            | Effect::StartAlone { .. }
            | Effect::KeepQuiet { .. }
            | Effect::LetRun { .. }
            | Effect::HoldStarts { .. }
            | Effect::ReleaseStarts
            | Effect::Restart { .. }
            | Effect::Kill { .. }
            | Effect::ResetFailed { .. }
            | Effect::AskToStop { .. }
            | Effect::Unask { .. }
            | Effect::MakeLocks { .. }
            | Effect::Freeze { .. }
            | Effect::Retire { .. }
            | Effect::EndLater { .. }
            | Effect::Thaw { .. } => {
                self.units.perform(effect).await.unwrap_or_else(|| Outcome::Fault(Fault::Other("nobody does this".to_owned())))
            }
        }
    }

    async fn generations(&self, template: &str, socket: &str) -> Result<GenerationsSeen, Fault> {
        let cannot = |what: &str, error: &std::io::Error| Fault::Other(format!("cannot read {what}: {error}"));
        let units = self.units.look(&[template.to_owned()], Looked::Exactly, &BTreeMap::new(), false).await?;
        // A name of a .socket unit is no path: all generations share what it listens on.
        let (leads_to, obstructed) = match fpm::symlink::leads_to(Path::new(socket)) {
            Ok(leads_to) => (leads_to, false),
            Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => (None, true),
            Err(error) => return Err(cannot(socket, &error)),
        };
        let memory = units.iter().map(|unit| (unit.unit.clone(), self.units.memory(&unit.processes))).collect();
        let available = processes::available(&self.proc).map_err(|error| cannot("/proc/meminfo", &error))?;
        Ok(GenerationsSeen { units, leads_to, obstructed, available, memory })
    }

    async fn hook(&self, what: &str, pool: &str, argv: &[String], timeout: Duration) -> Outcome {
        self.units.systemd.run(&format!("{what} {pool}"), argv, timeout).await.map_or_else(Outcome::Fault, Outcome::Command)
    }

    async fn test_config(&self, unit: &str) -> Result<Outcome, Fault> {
        let line = self.units.systemd.command_line(unit).await?;
        let argv = with_environment(invocation::test(&line.argv).map_err(Fault::Other)?, &line.environment);
        let (end, output) = self.units.systemd.run_output(&format!("php-fpm -t {unit}"), &argv, ASK_FPM).await?;
        let text = String::from_utf8_lossy(&output);
        match end {
            CommandEnd::Exited { status, .. } => Ok(Outcome::Tested { ok: status == 0, output: printable(&one_line(&text), SAID_MAX) }),
            CommandEnd::Killed { signal } => Err(Fault::Other(format!("php-fpm -t was ended by signal {signal}"))),
            CommandEnd::TimedOut => Err(Fault::Other("php-fpm -t did not end in time".to_owned())),
        }
    }

    async fn inspect(&self, unit: &str) -> Result<FpmLayout, Fault> {
        let line = self.units.systemd.command_line(unit).await?;
        let cached = self.layouts.lock().unwrap_or_else(PoisonError::into_inner).get(unit, &line.argv, &line.environment);
        if let Some(layout) = cached {
            return Ok(layout);
        }
        let started = SystemTime::now();
        let text = self.dump(unit, &line).await?;
        let mut layouts = self.layouts.lock().unwrap_or_else(PoisonError::into_inner);
        layouts.put(unit, &line.argv, &line.environment, started, &text).map_err(|why| Fault::Other(format!("php-fpm -tt: {why}")))
    }

    /// What `php-fpm -tt` prints.
    async fn dump(&self, unit: &str, line: &CommandLine) -> Result<String, Fault> {
        // Whoever looks beside the agent has a file of its own.
        let looker = if self.look_only { format!("look-{}-", std::process::id()) } else { String::new() };
        let wrapper = self.run.join(format!("inspect-{looker}{unit}.conf"));
        let inspect = invocation::inspect(&line.argv, &wrapper.to_string_lossy()).map_err(Fault::Other)?;
        if let Some(text) = &inspect.wrapper {
            std::fs::write(&wrapper, text).map_err(|error| Fault::Other(format!("cannot write {}: {error}", wrapper.display())))?;
        }
        let argv = with_environment(inspect.argv, &line.environment);
        let ran = self.units.systemd.run_output(&format!("php-fpm -tt {unit}"), &argv, ASK_FPM).await;
        if inspect.wrapper.is_some() {
            let _ = std::fs::remove_file(&wrapper);
        }
        let (end, output) = ran?;
        let text = String::from_utf8_lossy(&output);
        match end {
            CommandEnd::Exited { status: 0, .. } => Ok(text.into_owned()),
            CommandEnd::TimedOut => Err(Fault::Other(format!("php-fpm -tt did not end within {} s", ASK_FPM.as_secs()))),
            CommandEnd::Exited { .. } => Err(Fault::Other(format!("php-fpm -tt failed: {}", printable(&one_line(&text), 300)))),
            CommandEnd::Killed { signal } => Err(Fault::Other(format!("php-fpm -tt was ended by signal {signal}"))),
        }
    }

    /// All that a unit's own php-fpm says of its configuration, by `-tt` and `-i`, each a transient unit, within 30 s.
    ///
    /// # Errors
    /// As [`Effect::Inspect`].
    pub async fn ask_fpm(&self, unit: &str) -> Result<FpmSaid, Fault> {
        let line = self.units.systemd.command_line(unit).await?;
        let mut said = layout::settings(&self.dump(unit, &line).await?);
        let argv = with_environment(invocation::info(&line.argv).map_err(Fault::Other)?, &line.environment);
        let (_, output) = self.units.systemd.run_output(&format!("php-fpm -i {unit}"), &argv, ASK_FPM).await?;
        said.ini = layout::ini(&String::from_utf8_lossy(&output));
        Ok(said)
    }

    /// What the files of these units say, with the text of these files, within 10 s.
    ///
    /// # Errors
    /// [`Fault::Unreachable`].
    pub async fn settings_in_full(&self, units: &[String]) -> Result<Vec<UnitSettings>, Fault> {
        let mut found = self.units.systemd.settings_in_full(units).await?;
        for (path, text) in found.iter_mut().flat_map(|unit| &mut unit.files) {
            *text = files::text(path.as_str().as_ref()).unwrap_or_default();
        }
        Ok(found)
    }
}

/// Pool files may hold `${NAME}`, which php-fpm takes from the unit's own environment.
fn with_environment(argv: Vec<String>, environment: &[String]) -> Vec<String> {
    if environment.is_empty() {
        return argv;
    }
    ["/usr/bin/env".to_owned()].into_iter().chain(environment.iter().cloned()).chain(argv).collect()
}

fn one_line(text: &str) -> String {
    text.lines().map(|line| layout::without_time(line.trim())).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}
