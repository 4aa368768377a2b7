//! One look at units: with as few questions to systemd as will do, for it answers one after the other.
//!
//! Of a unit that runs in the run it was last seen in, nothing needs asking: the list says what state it is in, systemd's exported
//! InvocationID and the living main process say that it is the same run, and its files have not been loaded again. So a look costs two calls
//! and some reading in /proc, however many units there are, after the first. Units that can change their main process in a run or have a
//! StatusText are asked for just that.

use std::collections::BTreeMap;
use std::fs;
use std::sync::PoisonError;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::timeout;

use super::names::{is_unit, pattern};
use super::properties::{Bare, KILLING, Remembered, Run, SCOPE, SERVICE, Settings, UNIT};
use super::proxies::UnitRow;
use super::{AT_ONCE, READ, Systemd};
use crate::core::RESTART_DROP_IN;
use crate::core::effect::{Fault, Looked};
use crate::core::seen::{Active, Exit, ExitSeen, Load, ProcessSeen, UnitSeen};
use crate::core::time::{Mono, Now};

/// Reads the processes of a cgroup (`ControlGroup` of a unit), those of the cgroups in it included.
pub type ReadCgroup<'a> = dyn Fn(&str) -> Result<Vec<ProcessSeen>, Fault> + Send + Sync + 'a;

/// Units in these states have processes. What systemd does not know it does not find.
const RUNNING: [&str; 5] = ["active", "activating", "deactivating", "reloading", "refreshing"];

/// What all units of one look share.
struct Look<'a> {
    looked: Looked,
    loaded_at: u64,
    /// From CLOCK_MONOTONIC, which systemd's times are of, to the boot clock.
    offset: u64,
    read: &'a ReadCgroup<'a>,
}

impl Systemd {
    /// Looks at units, by name, glob, or template (which stands for its instances). A name that is no glob gets its entry under the name
    /// that was asked for, an alias too. `now` and `offset` (CLOCK_BOOTTIME - CLOCK_MONOTONIC in µs) are the caller's clocks.
    ///
    /// # Errors
    /// [`Fault::Unreachable`] if systemd has not answered all within 10 s; what `read` says. Nothing is half known (law 5).
    pub async fn look(
        &self,
        units: &[String],
        looked: Looked,
        now: Now,
        offset: u64,
        read: &ReadCgroup<'_>,
    ) -> Result<Vec<UnitSeen>, Fault> {
        timeout(READ, self.look_unbounded(units, looked, now, offset, read))
            .await
            .unwrap_or_else(|_| Err(Fault::Unreachable("cannot look at units: systemd has not answered within 10s".to_owned())))
    }

    async fn look_unbounded(
        &self,
        units: &[String],
        looked: Looked,
        now: Now,
        offset: u64,
        read: &ReadCgroup<'_>,
    ) -> Result<Vec<UnitSeen>, Fault> {
        let globs: Vec<String> = units.iter().filter_map(|unit| pattern(unit)).collect();
        let names: Vec<&str> = units.iter().map(String::as_str).filter(|unit| pattern(unit).is_none()).collect();
        let (loaded_at, matching, named) = tokio::try_join!(self.loaded_at(), self.matching(&globs, looked), self.named(&names))?;
        let look = Look { looked, loaded_at, offset, read };
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).is_of(loaded_at);

        let mut rows: BTreeMap<String, UnitRow> = matching.into_iter().map(|row| (row.0.clone(), row)).collect();
        rows.extend(named);
        let mut seen: Vec<UnitSeen> = stream::iter(rows)
            .map(|(name, row)| self.unit(name, row, &look))
            .buffered(AT_ONCE)
            .try_filter_map(|unit| async move { Ok(unit) })
            .try_collect()
            .await?;
        let known = |name: &str, seen: &[UnitSeen]| seen.binary_search_by(|unit| unit.unit.as_str().cmp(name)).is_ok();
        for name in names {
            if !is_unit(name) && !known(name, &seen) {
                seen.push(UnitSeen { unit: name.to_owned(), ..UnitSeen::default() });
                seen.sort_by(|a, b| a.unit.cmp(&b.unit));
            }
        }
        if matches!(looked, Looked::WithTimers | Looked::Exactly) {
            self.add_timers(&mut seen, loaded_at, now, offset).await?;
            self.add_dependents(&mut seen).await?;
        }
        Ok(seen)
    }

    /// The loaded services that these names and globs match, whatever their state, each with its `User=`.
    ///
    /// # Errors
    /// [`Fault::Unreachable`].
    pub async fn users(&self, units: &[String]) -> Result<Vec<(String, String)>, Fault> {
        let globs: Vec<String> = units.iter().map(|unit| pattern(unit).unwrap_or_else(|| unit.clone())).collect();
        let rows = self.matching(&globs, Looked::Exactly).await?;
        let names = rows.into_iter().map(|row| row.0).filter(|unit| unit.ends_with(".service"));
        stream::iter(names)
            .map(|unit| async move {
                let user = self.properties(&unit, &[(SERVICE, "User")]).await?.text(0).to_owned();
                Ok((unit, user))
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await
    }

    pub(super) async fn matching(&self, globs: &[String], looked: Looked) -> Result<Vec<UnitRow>, Fault> {
        if globs.is_empty() {
            return Ok(Vec::new());
        }
        let globs: Vec<&str> = globs.iter().map(String::as_str).collect();
        let (states, globs): (&[&str], &[&str]) =
            if matches!(looked, Looked::Exactly | Looked::Bare) { (&[], &globs) } else { (&RUNNING, &globs) };
        self.link.call("list units", READ, |live| async move { live.manager.list_units_by_patterns(states, globs).await }).await
    }

    /// Each with the name that was asked for: systemd answers in that order, with the name of what an alias stands for.
    pub(super) async fn named(&self, names: &[&str]) -> Result<Vec<(String, UnitRow)>, Fault> {
        let names: Vec<&str> = names.iter().copied().filter(|name| is_unit(name)).collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let names = names.as_slice();
        let rows = self.link.call("list units", READ, |live| async move { live.manager.list_units_by_names(names).await }).await?;
        if rows.len() == names.len() {
            return Ok(names.iter().map(|name| (*name).to_owned()).zip(rows).collect());
        }
        Ok(rows.into_iter().map(|row| (row.0.clone(), row)).collect())
    }

    /// One unit; `None` if it is not of this look, or has gone since it was listed.
    async fn unit(&self, name: String, row: UnitRow, look: &Look<'_>) -> Result<Option<UnitSeen>, Fault> {
        let id = row.0.as_str();
        let mut seen = UnitSeen {
            unit: name,
            load: load(&row.2),
            active: active(&row.3),
            sub: row.4.clone(),
            job: row.7 != 0,
            stop_job: row.7 != 0 && matches!(row.8.as_str(), "stop" | "restart" | "try-restart"),
            result: "success".to_owned(),
            ..UnitSeen::default()
        };
        if seen.load == Load::NotFound && !seen.active.runs() {
            return Ok(Some(UnitSeen { result: String::new(), ..seen }));
        }
        if !seen.active.runs() {
            self.memory.lock().unwrap_or_else(PoisonError::into_inner).forget(id);
            if matches!(look.looked, Looked::Running | Looked::WithTimers) {
                return Ok(None);
            }
        } else if matches!(look.looked, Looked::Running | Looked::Bare) {
            return match self.bare(id, &mut seen, look).await {
                Ok(()) => self.stop_since(id, seen, look).await,
                Err(Fault::NoSuchUnit(_)) => Ok(None),
                Err(fault) => Err(fault),
            };
        }
        let remembered = self.memory.lock().unwrap_or_else(PoisonError::into_inner).recall(id);
        if let Some(Remembered { settings, run: Some(run), .. }) = &remembered
            && !settings.notifies
            && !settings.forks
            && let Some(processes) = self.same_run(id, run, look)?
        {
            apply(&mut seen, settings);
            seen.main_pid = run.main_pid;
            seen.main_start = run.main_start;
            seen.last_end = run.last_end;
            seen.invocation.clone_from(&run.invocation);
            seen.cgroup.clone_from(&run.cgroup);
            seen.processes = processes;
            return self.stop_since(id, seen, look).await;
        }
        match self.ask(id, &mut seen, remembered, look).await {
            Ok(()) => Ok(Some(seen)),
            Err(Fault::NoSuchUnit(_)) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Of a unit that systemd is ending, with since when and why: its main process may live on for long. Its grace counts from there, and a deadline of
    /// systemd's is no person's stop.
    async fn stop_since(&self, id: &str, mut seen: UnitSeen, look: &Look<'_>) -> Result<Option<UnitSeen>, Fault> {
        if seen.active != Active::Deactivating {
            return Ok(Some(seen));
        }
        match self.properties(id, &[(UNIT, "StateChangeTimestampMonotonic"), (SERVICE, "Result")]).await {
            Ok(values) => {
                seen.state_since = boot_clock(values.number(0), look.offset);
                if !values.text(1).is_empty() {
                    values.text(1).clone_into(&mut seen.result);
                }
                Ok(Some(seen))
            }
            Err(Fault::NoSuchUnit(_)) => Ok(None),
            Err(fault) => Err(fault),
        }
    }

    /// Which run a unit is in, or was in last, without asking systemd: it exports that.
    pub(super) fn exported_invocation(&self, id: &str) -> Option<String> {
        let link = fs::read_link(self.places.invocations.join(format!("invocation:{id}"))).ok()?;
        link.to_str().map(str::to_owned)
    }

    /// A running unit's run and processes. systemd exports the InvocationID, and a unit keeps its cgroup's path from run to run.
    async fn bare(&self, id: &str, seen: &mut UnitSeen, look: &Look<'_>) -> Result<(), Fault> {
        let known = self.memory.lock().unwrap_or_else(PoisonError::into_inner).recall_bare(id);
        let bare = match known {
            Some(bare) => bare,
            None => {
                let group = if id.ends_with(".scope") { SCOPE } else { SERVICE };
                let mut wanted =
                    vec![(UNIT, "RefuseManualStart"), (UNIT, "RefuseManualStop"), (UNIT, "Transient"), (group, "ControlGroup")];
                if group == SERVICE {
                    wanted.extend(KILLING);
                }
                let values = self.properties(id, &wanted).await?;
                let bare = Bare {
                    refuse_manual_start: values.flag(0),
                    refuse_manual_stop: values.flag(1),
                    transient: values.flag(2),
                    leaves_processes: values.leaves_processes(4) || self.lends(id, RESTART_DROP_IN),
                    cgroup: values.text(3).to_owned(),
                };
                if !bare.cgroup.is_empty() {
                    self.memory.lock().unwrap_or_else(PoisonError::into_inner).remember_bare(id, look.loaded_at, bare.clone());
                }
                bare
            }
        };
        seen.refuse_manual_start = bare.refuse_manual_start;
        seen.refuse_manual_stop = bare.refuse_manual_stop;
        seen.transient = bare.transient;
        seen.leaves_processes = bare.leaves_processes;
        seen.invocation = match self.exported_invocation(id) {
            Some(invocation) => invocation,
            None => self.properties(id, &[(UNIT, "InvocationID")]).await?.hex(0),
        };
        seen.processes = if bare.cgroup.is_empty() { Vec::new() } else { (look.read)(&bare.cgroup)? };
        seen.cgroup = bare.cgroup;
        Ok(())
    }

    /// The processes of the run that was last seen, if it is still the same: same InvocationID, same main process.
    fn same_run(&self, id: &str, run: &Run, look: &Look<'_>) -> Result<Option<Vec<ProcessSeen>>, Fault> {
        if self.exported_invocation(id).is_none_or(|exported| exported != run.invocation) {
            return Ok(None);
        }
        let processes = (look.read)(&run.cgroup)?;
        Ok(processes.iter().any(|process| process.pid == run.main_pid && process.start == run.process_start).then_some(processes))
    }

    /// Asks systemd for what is not remembered.
    async fn ask(&self, id: &str, seen: &mut UnitSeen, remembered: Option<Remembered>, look: &Look<'_>) -> Result<(), Fault> {
        let settings = match remembered {
            Some(remembered) => remembered.settings,
            None => self.settings(id).await?,
        };
        apply(seen, &settings);
        let is_service = id.ends_with(".service");
        let mut wanted = vec![(UNIT, "InvocationID"), (UNIT, "InactiveEnterTimestampMonotonic")];
        if is_service {
            wanted.extend([(SERVICE, "ControlGroup"), (SERVICE, "MainPID"), (SERVICE, "ExecMainStartTimestampMonotonic")]);
        } else if id.ends_with(".scope") {
            wanted.push((SCOPE, "ControlGroup"));
        }
        if is_service && (seen.sub != "running" || settings.notifies) {
            wanted.extend([
                (SERVICE, "StatusText"),
                (SERVICE, "Result"),
                (SERVICE, "ExecMainCode"),
                (SERVICE, "ExecMainStatus"),
                (SERVICE, "ExecMainExitTimestampMonotonic"),
                (UNIT, "StateChangeTimestampMonotonic"),
            ]);
        }
        let skipped = wanted.len();
        let may_be_skipped = is_service && !seen.active.runs();
        if may_be_skipped {
            wanted.extend([(UNIT, "ConditionTimestampMonotonic"), (UNIT, "ConditionResult"), (UNIT, "AssertResult")]);
        }
        let values = self.properties(id, &wanted).await?;
        if may_be_skipped {
            let tested = values.number(skipped) != 0;
            seen.skipped = tested && !(values.flag(skipped + 1) && values.flag(skipped + 2));
        }
        seen.invocation = values.hex(0);
        seen.last_end = boot_clock(values.number(1), look.offset);
        if !seen.active.runs() {
            seen.idle_since = seen.last_end;
        }
        values.text(2).clone_into(&mut seen.cgroup);
        seen.main_pid = values.small(3);
        seen.main_start = boot_clock(values.number(4), look.offset);
        if wanted.len() > 5 {
            values.text(5).clone_into(&mut seen.status_text);
            values.text(6).clone_into(&mut seen.result);
            let status = i32::try_from(values.small(8)).unwrap_or(i32::MAX);
            seen.state_since = boot_clock(values.number(10), look.offset);
            seen.exit = how(values.number(7), status).map(|how| ExitSeen { how, at: boot_clock(values.number(9), look.offset) });
        }
        seen.processes = if seen.cgroup.is_empty() { Vec::new() } else { (look.read)(&seen.cgroup)? };

        let main = seen.processes.iter().find(|process| process.pid == seen.main_pid);
        let run = main.filter(|_| seen.active.runs() && !seen.invocation.is_empty()).map(|main| Run {
            invocation: seen.invocation.clone(),
            cgroup: seen.cgroup.clone(),
            main_pid: seen.main_pid,
            main_start: seen.main_start,
            last_end: seen.last_end,
            process_start: main.start,
        });
        if seen.active.runs() {
            self.memory.lock().unwrap_or_else(PoisonError::into_inner).remember(id, look.loaded_at, settings, run);
        }
        Ok(())
    }
}

fn apply(seen: &mut UnitSeen, settings: &Settings) {
    seen.oneshot = settings.oneshot;
    seen.exec_starts = settings.exec_starts;
    seen.dependents.clone_from(&settings.dependents);
    seen.refuse_manual_start = settings.refuse_manual_start;
    seen.refuse_manual_stop = settings.refuse_manual_stop;
    seen.transient = settings.transient;
    seen.leaves_processes = settings.leaves_processes;
    seen.on_success = settings.on_success;
    seen.on_failure = settings.on_failure;
    seen.start_limit_burst = settings.start_limit_burst;
    seen.start_limit_interval_ms = settings.start_limit_interval_ms;
}

/// A time of systemd's, in µs on CLOCK_MONOTONIC, on the boot clock; 0 is "never".
pub(super) fn boot_clock(monotonic: u64, offset: u64) -> Mono {
    if monotonic == 0 { Mono::BOOT } else { Mono(monotonic.saturating_add(offset)) }
}

/// `ExecMainCode` is `si_code` of waitid(2): 1 exited, 2 killed, 3 killed with a core dump.
fn how(code: u64, status: i32) -> Option<Exit> {
    match code {
        1 => Some(Exit::Exited(status)),
        2 | 3 => Some(Exit::Killed(status)),
        _ => None,
    }
}

pub(super) fn load(state: &str) -> Load {
    match state {
        "loaded" => Load::Loaded,
        "masked" => Load::Masked,
        "not-found" => Load::NotFound,
        _ => Load::Bad,
    }
}

/// Anything new counts as active: a unit is not taken for dead because its state has a new name (law 5).
pub(super) fn active(state: &str) -> Active {
    match state {
        "activating" => Active::Activating,
        "deactivating" => Active::Deactivating,
        "reloading" | "refreshing" => Active::Reloading,
        "inactive" | "maintenance" => Active::Inactive,
        "failed" => Active::Failed,
        _ => Active::Active,
    }
}
