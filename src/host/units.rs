//! Units with their processes: where systemd and the kernel are put together.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::timeout;

use super::clock;
use super::cooperation::Cooperation;
use super::processes::{Processes, Signal};
use super::systemd::{Hints, Killed, Places, Systemd};
use crate::core::cooperation::{cut_name, quiet_name, request_name};
use crate::core::effect::{CommandEnd, Effect, Fault, JobEnd, Looked, Outcome, UnitsOf, WorkerRef};
use crate::core::seen::{ProcessSeen, StraySeen, UnitSeen};
use crate::core::unit_of;

/// For a pass over /proc.
const FIND: Duration = Duration::from_secs(10);
/// For a command that asks a unit to stop, or takes that back.
const ASK_COMMAND: Duration = Duration::from_secs(30);

/// Units and their processes: what systemd and the kernel know of them together, and what is done to them.
#[derive(Debug)]
pub struct Units {
    pub systemd: Systemd,
    processes: Processes,
    cooperation: Cooperation,
}

impl Units {
    /// Starts to connect to systemd, in the tokio runtime of the caller.
    #[must_use]
    pub fn connect(places: Places, processes: Processes, cooperation: Cooperation) -> (Units, Hints) {
        let (systemd, hints) = Systemd::connect(places, clock::now());
        (Units { systemd, processes, cooperation }, hints)
    }

    /// Performs one effect on units, within the time that it owes; `None` for the effects of others.
    pub async fn perform(&self, effect: &Effect) -> Option<Outcome> {
        Some(match effect {
            Effect::Look { units, looked, cgroups, names } => {
                self.look(units, *looked, cgroups, *names).await.map_or_else(Outcome::Fault, Outcome::Units)
            }
            Effect::FindStrays { code } => match timeout(FIND, self.processes.find(code)).await {
                Ok(Ok(found)) => self.with_those_left_behind(found).await.map_or_else(Outcome::Fault, Outcome::Strays),
                Ok(Err(error)) => Outcome::Fault(cannot("look for strays", &error)),
                Err(_) => Outcome::Fault(Fault::Other("cannot look for strays: it takes too long".to_owned())),
            },
            Effect::Signal { process, kill } => {
                let signal = if *kill { Signal::KILL } else { Signal::TERM };
                let sent = self.processes.signal(process, &[signal]);
                sent.map_or_else(|error| Outcome::Fault(cannot("signal it", &error)), Outcome::Signalled)
            }
            Effect::Notify { process, tty, text, .. } => {
                done(self.processes.tell(process, tty, text).map_err(|error| cannot(&format!("write to {tty}"), &error)))
            }
            Effect::Schedules { timers } => self.systemd.schedules(timers).await.map_or_else(Outcome::Fault, Outcome::Schedules),
            Effect::Lend { drop_ins } => done(self.systemd.lend(drop_ins).await),
            Effect::Unlend { units } => done(self.systemd.unlend(units).await),
            Effect::Stop { unit, within } => match self.cooperation.set(&cut_name(unit)) {
                Ok(()) => job(self.systemd.stop(unit, *within).await),
                Err(error) => Outcome::Fault(cannot("mark it as being stopped", &error)),
            },
            Effect::StartAlone { unit } => self.systemd.start_alone(unit).await.map_or_else(Outcome::Fault, |()| Outcome::Queued),
            Effect::Start { unit } => self.systemd.start(unit).await.map_or_else(Outcome::Fault, |()| Outcome::Queued),
            Effect::Restart { unit, cut, within } => job(self.restart(unit, cut, *within).await),
            Effect::End { unit, cut, within } => job(self.end(unit, cut, *within).await),
            Effect::Kill { unit, invocation, cgroup } => done(self.kill(unit, invocation, cgroup).await),
            Effect::ResetFailed { unit } => done(self.systemd.reset_failed(unit).await),
            Effect::Freeze { workers } => self.freeze(workers).map_or_else(Outcome::Fault, Outcome::Frozen),
            Effect::Thaw { workers } => done(self.thaw(workers)),
            Effect::Retire { workers, spare } => done(self.send(workers, &[Signal::QUIT, Signal::CONT]).and(self.thaw(spare))),
            Effect::AskToStop { unit, ask, .. } => done(self.ask(unit, ask).await),
            Effect::Unask { unit, unask } => done(self.unask(unit, unask).await),
            Effect::MakeLocks { of } => done(self.make_locks(of).await),
            Effect::KeepQuiet { unit } => flag("keep its timers from starting it", self.cooperation.set(&quiet_name(unit))),
            Effect::LetRun { unit } => {
                let cleared = self.cooperation.clear(&cut_name(unit)).and_then(|()| self.cooperation.clear(&quiet_name(unit)));
                flag("let its timers start it again", cleared)
            }
            Effect::EndLater { unit, after, quit } => done(self.systemd.end_later(unit, *after, *quit).await),
            Effect::HoldStarts { waits, lasts } => {
                done(self.systemd.hold_starts(waits, *lasts, clock::now().mono, clock::suspended()).await)
            }
            Effect::ReleaseStarts => done(self.systemd.release_starts().await),
            _ => return None,
        })
    }

    /// The units that have a drop-in of ours, or are kept quiet.
    ///
    /// # Errors
    /// If a directory cannot be read.
    pub fn leftovers(&self) -> std::io::Result<Vec<String>> {
        let units: BTreeSet<String> = self.systemd.sweep()?.into_iter().chain(self.cooperation.kept_quiet()?).collect();
        Ok(units.into_iter().collect())
    }

    /// Tells which of them have outlived their unit: it is inactive, or not even loaded.
    async fn with_those_left_behind(&self, mut strays: Vec<StraySeen>) -> Result<Vec<StraySeen>, Fault> {
        let units: BTreeSet<&str> = strays.iter().map(|stray| unit_of(&stray.cgroup)).filter(|unit| unit.ends_with(".service")).collect();
        let units: Vec<String> = units.into_iter().map(str::to_owned).collect();
        if units.is_empty() {
            return Ok(strays);
        }
        let read = |_: &str| -> Result<Vec<ProcessSeen>, Fault> { Ok(Vec::new()) };
        let seen = self.systemd.look(&units, Looked::Bare, clock::now(), clock::suspended(), &read).await?;
        let over: BTreeSet<&str> = seen.iter().filter(|unit| !unit.active.runs()).map(|unit| unit.unit.as_str()).collect();
        for stray in &mut strays {
            stray.left_behind = over.contains(unit_of(&stray.cgroup));
        }
        Ok(strays)
    }

    async fn ask(&self, unit: &str, argv: &[String]) -> Result<(), Fault> {
        // With which exit status it ends is to be read (facts F1.14).
        self.systemd.keep_loaded(unit).await;
        self.cooperation.set(&request_name(unit)).map_err(|error| cannot("make the request to stop", &error))?;
        self.run_for("ask", unit, argv).await
    }

    async fn unask(&self, unit: &str, argv: &[String]) -> Result<(), Fault> {
        self.cooperation.clear(&request_name(unit)).map_err(|error| cannot("take back the request to stop", &error))?;
        self.run_for("unask", unit, argv).await
    }

    /// Runs a target's command for one of its units, if there is one.
    async fn run_for(&self, what: &str, unit: &str, argv: &[String]) -> Result<(), Fault> {
        if argv.is_empty() {
            return Ok(());
        }
        let environment = [format!("RESTART_AGENT_UNIT={unit}")];
        let how = match self.systemd.run_with(&format!("{what} {unit}"), argv, ASK_COMMAND, &environment).await? {
            CommandEnd::Exited { status: 0, .. } => return Ok(()),
            CommandEnd::Exited { status, said } if said.is_empty() => format!("exits {status}"),
            CommandEnd::Exited { status, said } => format!("exits {status}: {said}"),
            CommandEnd::Killed { signal } => format!("was ended by signal {signal}"),
            CommandEnd::TimedOut => "did not end in time".to_owned(),
        };
        Err(Fault::Other(format!("its command `{what}` {how}")))
    }

    async fn make_locks(&self, of: &[UnitsOf]) -> Result<(), Fault> {
        for of in of {
            let found = self.systemd.users(&of.units).await?;
            for (unit, user) in found.into_iter().filter(|(unit, _)| of.has(unit)) {
                if let Err(error) = self.cooperation.make_lock(&unit, &user) {
                    tracing::warn!(unit, %error, "{unit} has no lock that it could hold: {error}");
                }
            }
        }
        let managed = |unit: &str| of.iter().any(|of| of.has(unit));
        self.cooperation
            .remove_locks(|unit| !managed(unit))
            .map_err(|error| cannot("remove the locks of units that have none any more", &error))
    }

    /// Units with their processes; with `names`, with what these are called by their argv[0].
    ///
    /// # Errors
    /// [`Fault::Unreachable`] if systemd does not answer within 10 s, [`Fault::Other`] if processes cannot be read.
    pub async fn look(
        &self,
        units: &[String],
        looked: Looked,
        cgroups: &BTreeMap<String, String>,
        names: bool,
    ) -> Result<Vec<UnitSeen>, Fault> {
        let read = |cgroup: &str| -> Result<Vec<ProcessSeen>, Fault> {
            self.processes.of(cgroup, names).map_err(|error| Fault::Other(format!("cannot read the processes of {cgroup}: {error}")))
        };
        let mut seen = self.systemd.look(units, looked, clock::now(), clock::suspended(), &read).await?;
        for unit in seen.iter_mut().filter(|unit| unit.cgroup.is_empty()) {
            if let Some(cgroup) = cgroups.get(&unit.unit).filter(|cgroup| !cgroup.is_empty()) {
                unit.processes = read(cgroup)?;
            }
        }
        // Only whoever is asked about by more than its name may be about to be stopped.
        if matches!(looked, Looked::WithTimers | Looked::Exactly) {
            let held = self.cooperation.held(seen.iter().map(|unit| unit.unit.as_str()));
            let held: BTreeSet<String> =
                held.map_err(|error| cannot("read who holds a lock", &error))?.into_iter().map(str::to_owned).collect();
            for unit in &mut seen {
                unit.holds_lock = held.contains(&unit.unit);
            }
        }
        Ok(seen)
    }

    async fn restart(&self, unit: &str, cut: &[WorkerRef], within: Duration) -> Result<JobEnd, Fault> {
        let cut_off = || self.cut_off(unit, cut);
        let stopping: Option<&dyn Fn()> = if cut.is_empty() { None } else { Some(&cut_off) };
        self.systemd.restart(unit, within, stopping).await
    }

    async fn end(&self, unit: &str, cut: &[WorkerRef], within: Duration) -> Result<JobEnd, Fault> {
        let cut_off = || self.cut_off(unit, cut);
        let stopping: Option<&dyn Fn()> = if cut.is_empty() { None } else { Some(&cut_off) };
        self.systemd.stop_service(unit, within, stopping).await
    }

    fn cut_off(&self, unit: &str, cut: &[WorkerRef]) {
        for worker in cut {
            if let Err(error) = self.processes.signal(worker, &[Signal::TERM, Signal::CONT]) {
                tracing::warn!(unit, pid = worker.pid, %error, "cannot signal this worker: it ends with its unit");
            }
        }
    }

    /// Bytes that these processes hold: each what is its own, and what they share once.
    #[must_use]
    pub fn memory(&self, processes: &[ProcessSeen]) -> u64 {
        self.processes.memory(processes)
    }

    /// KillUnit, and by hand what systemd does not know (any more) in the cgroup (facts F3.2).
    async fn kill(&self, unit: &str, invocation: &str, cgroup: &str) -> Result<(), Fault> {
        if self.systemd.kill(unit, invocation).await? == Killed::Sent {
            return Ok(());
        }
        let hit =
            self.processes.kill_all(cgroup).map_err(|error| Fault::Other(format!("cannot kill what is left in {cgroup}: {error}")))?;
        if hit > 0 {
            tracing::info!(unit, cgroup, hit, "killed what systemd had left behind");
        }
        Ok(())
    }

    /// All or none: what was stopped before a failure goes on.
    fn freeze(&self, workers: &[WorkerRef]) -> Result<Vec<WorkerRef>, Fault> {
        let mut frozen = Vec::with_capacity(workers.len());
        for worker in workers {
            match self.processes.signal(worker, &[Signal::STOP]) {
                Ok(true) => frozen.push(worker.clone()),
                Ok(false) => {}
                Err(error) => {
                    let _ = self.thaw(&frozen);
                    return Err(Fault::Other(format!("cannot stop worker {}: {error}", worker.pid)));
                }
            }
        }
        Ok(frozen)
    }

    fn thaw(&self, workers: &[WorkerRef]) -> Result<(), Fault> {
        self.send(workers, &[Signal::CONT])
    }

    /// To each of them, as far as it goes.
    fn send(&self, workers: &[WorkerRef], signals: &[Signal]) -> Result<(), Fault> {
        let mut failed = None;
        for worker in workers {
            if let Err(error) = self.processes.signal(worker, signals) {
                failed.get_or_insert(Fault::Other(format!("cannot signal worker {}: {error}", worker.pid)));
            }
        }
        failed.map_or(Ok(()), Err)
    }
}

fn flag(what: &str, result: std::io::Result<()>) -> Outcome {
    done(result.map_err(|error| cannot(what, &error)))
}

fn cannot(what: &str, error: &std::io::Error) -> Fault {
    Fault::Other(format!("cannot {what}: {error}"))
}

fn done(result: Result<(), Fault>) -> Outcome {
    result.map_or_else(Outcome::Fault, |()| Outcome::Done)
}

fn job(result: Result<JobEnd, Fault>) -> Outcome {
    result.map_or_else(Outcome::Fault, Outcome::Job)
}
