//! What is done to units.

use std::time::Duration;

use tokio::time::Instant;

use super::faults::{is_absent, is_named};
use super::link::{CallError, Live};
use super::names::{job_id, unit_path};
use super::properties::{SERVICE, UNIT};
use super::{ACT, READ, Systemd};
use crate::core::effect::{Fault, JobEnd};

/// Takes the place of jobs that are queued, the start job of a running oneshot among them (facts F1.9).
pub(super) const REPLACE: &str = "replace";
const SIGKILL: i32 = 9;
/// How a job ends that was to stop what somebody has frozen, where systemd does not thaw that by itself (257; facts F4.8).
const FROZEN: &str = "frozen";
/// From the job to the first signal there lie milliseconds, unless others are to be stopped first.
const STOPPING: Duration = Duration::from_secs(5);
const STOPPING_AGAIN: Duration = Duration::from_millis(2);

/// What KillUnit found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Killed {
    /// systemd sent the signal.
    Sent,
    /// systemd knows no such unit, or no process of it: leftovers are to be sought in the cgroup (facts F3.2).
    Unknown,
}

impl Systemd {
    /// StopUnit. Waits until its job is removed, at most `within`.
    ///
    /// How the unit ended can be read afterwards, though nothing else keeps it loaded (facts F1.14), until [`Systemd::unsubscribe`].
    ///
    /// # Errors
    /// The fault of the call; one that was cut is made again, since a second stop changes nothing.
    pub async fn stop(&self, unit: &str, within: Duration) -> Result<JobEnd, Fault> {
        let deadline = Instant::now() + within;
        // Its end may have been heard while this waited for its turn.
        let since = Instant::now().checked_sub(ACT).unwrap_or_else(Instant::now);
        let _listening = self.link.listen(Instant::now() + ACT).await?;
        let what = format!("stop {unit}");
        let (stopped, ()) = tokio::join!(
            biased;
            self.link.call(&what, ACT, |live| async move { live.manager.stop_unit(unit, REPLACE).await }),
            self.link.hold(unit, READ),
        );
        let job = stopped?;
        let end = self.end(job.as_str(), deadline).await?;
        let run = job_id(job.as_str()).and_then(|id| self.link.ledger.end_before(id, unit, since));
        // A stop that is in time cancels the start job; one that comes too late finds it ended, well or not (facts F1.7).
        let over = end == JobEnd::Done && matches!(run, Some(JobEnd::Done | JobEnd::Failed | JobEnd::Timeout));
        Ok(if over && self.is_oneshot(unit).await { JobEnd::Finished } else { end })
    }

    /// How the unit ends can be read afterwards, though nothing else keeps it loaded (facts F1.14), until [`Systemd::unsubscribe`].
    pub async fn keep_loaded(&self, unit: &str) {
        self.link.hold(unit, READ).await;
    }

    /// ResetFailedUnit and StartUnit. Returns as soon as the job is queued: a oneshot's start job lasts as long as its script (facts F1.8).
    ///
    /// # Errors
    /// The fault of StartUnit; that of ResetFailedUnit only if the bus is away.
    pub async fn start(&self, unit: &str) -> Result<(), Fault> {
        self.reset_failed(unit).await?;
        self.link.call(&format!("start {unit}"), ACT, |live| async move { live.manager.start_unit(unit, REPLACE).await }).await?;
        Ok(())
    }

    /// ResetFailedUnit, then RestartUnit; `stopping` runs as soon as the unit is being stopped: systemd has signalled its main process by then,
    /// and that process starts no others in place of those which end. Waits until the job is removed, at most `within`.
    ///
    /// If the connection broke before the answer, a job that is there counts as ours; if none is there it may be over: [`JobEnd::Lost`],
    /// for a second restart is none that anybody asked for.
    ///
    /// # Errors
    /// The fault of RestartUnit.
    pub async fn restart(&self, unit: &str, within: Duration, stopping: Option<&dyn Fn()>) -> Result<JobEnd, Fault> {
        let deadline = Instant::now() + within;
        match self.restart_until(unit, deadline, stopping).await? {
            JobEnd::Other(how) if how == FROZEN => {
                self.thaw(unit).await?;
                self.restart_until(unit, deadline, stopping).await
            }
            end => Ok(end),
        }
    }

    async fn restart_until(&self, unit: &str, deadline: Instant, stopping: Option<&dyn Fn()>) -> Result<JobEnd, Fault> {
        let _listening = self.link.listen(Instant::now() + ACT).await?;
        let what = format!("restart {unit}");
        let asked = self.link.once(&what, Instant::now() + ACT, |live| async move { live.manager.restart_unit(unit, REPLACE).await });
        // Restarts count against StartLimitBurst= (facts F3.5), of a unit that is about to be stopped by us. Both are sent at once: systemd
        // takes the calls of one connection in their order.
        let (reset, asked) = tokio::join!(self.reset_failed(unit), asked);
        if let Err(fault) = reset {
            tracing::warn!(unit, %fault, "the restart counts against the unit's start limit");
        }
        let id = match asked {
            Ok(job) => job_id(job.as_str()).ok_or_else(|| Fault::Other(format!("systemd's answer names no job: {job}")))?,
            Err(CallError::Cut(_)) => match self.job_of(unit).await? {
                Some(id) => id,
                None => return Ok(JobEnd::Lost),
            },
            Err(error) => return Err(error.into_fault(&what)),
        };
        self.ended(unit, id, deadline, stopping).await
    }

    /// StopUnit of a service; `stopping` as for [`Systemd::restart`]. Waits until the job is removed, at most `within`.
    ///
    /// # Errors
    /// The fault of the call; one that was cut is made again, since a second stop changes nothing.
    pub async fn stop_service(&self, unit: &str, within: Duration, stopping: Option<&dyn Fn()>) -> Result<JobEnd, Fault> {
        let deadline = Instant::now() + within;
        match self.stop_until(unit, deadline, stopping).await? {
            JobEnd::Other(how) if how == FROZEN => {
                self.thaw(unit).await?;
                self.stop_until(unit, deadline, stopping).await
            }
            end => Ok(end),
        }
    }

    async fn stop_until(&self, unit: &str, deadline: Instant, stopping: Option<&dyn Fn()>) -> Result<JobEnd, Fault> {
        let _listening = self.link.listen(Instant::now() + ACT).await?;
        let job = self.link.call(&format!("stop {unit}"), ACT, |live| async move { live.manager.stop_unit(unit, REPLACE).await }).await?;
        let id = job_id(job.as_str()).ok_or_else(|| Fault::Other(format!("systemd's answer names no job: {job}")))?;
        self.ended(unit, id, deadline, stopping).await
    }

    /// What is to be stopped anyway, whoever has frozen it.
    async fn thaw(&self, unit: &str) -> Result<(), Fault> {
        tracing::warn!(unit, "somebody has frozen it; it is thawed, so that it can be stopped");
        self.link.call(&format!("thaw {unit}"), ACT, |live| async move { live.manager.thaw_unit(unit).await }).await
    }

    async fn ended(&self, unit: &str, id: u32, deadline: Instant, stopping: Option<&dyn Fn()>) -> Result<JobEnd, Fault> {
        let end = self.link.end_of(id, deadline);
        let Some(stopping) = stopping else { return Ok(end.await) };
        let mut end = std::pin::pin!(end);
        tokio::select! {
            biased;
            end = &mut end => {
                if end != JobEnd::Other(FROZEN.to_owned()) {
                    stopping();
                }
                return Ok(end);
            }
            () = self.is_stopping(unit) => stopping(),
        }
        Ok(end.await)
    }

    /// Of any other the start job is over as soon as it runs.
    async fn is_oneshot(&self, unit: &str) -> bool {
        self.properties(unit, &[(SERVICE, "Type")]).await.is_ok_and(|values| values.text(0) == "oneshot")
    }

    /// Waits until a unit that is to be stopped is no longer active; not for long.
    async fn is_stopping(&self, unit: &str) {
        let deadline = Instant::now() + STOPPING;
        while Instant::now() < deadline {
            match self.properties(unit, &[(UNIT, "ActiveState")]).await {
                Ok(values) if matches!(values.text(0), "active" | "reloading" | "refreshing") => {}
                _ => return,
            }
            tokio::time::sleep(STOPPING_AGAIN).await;
        }
    }

    /// KillUnit(all, SIGKILL), unless it is in another run than this by now; empty: whichever.
    ///
    /// # Errors
    /// The fault of the call; [`Fault::Other`] for another run.
    pub async fn kill(&self, unit: &str, invocation: &str) -> Result<Killed, Fault> {
        if !invocation.is_empty() && self.exported_invocation(unit).is_some_and(|now| now != invocation) {
            return Err(Fault::Other(format!("{unit} was started again meanwhile: that run is not killed for the one before")));
        }
        let what = format!("kill {unit}");
        match self.link.answer(&what, ACT, |live| async move { live.manager.kill_unit(unit, "all", SIGKILL).await }).await {
            Ok(()) => Ok(Killed::Sent),
            Err(CallError::Answer(error)) if is_absent(&error) || is_named(&error, "NoSuchProcess") => Ok(Killed::Unknown),
            Err(error) => Err(error.into_fault(&what)),
        }
    }

    /// ResetFailedUnit. A unit that is not loaded has nothing to reset.
    ///
    /// # Errors
    /// The fault of the call.
    pub async fn reset_failed(&self, unit: &str) -> Result<(), Fault> {
        let what = format!("reset the failed state of {unit}");
        match self.link.answer(&what, ACT, |live| async move { live.manager.reset_failed_unit(unit).await }).await {
            Ok(()) => Ok(()),
            Err(CallError::Answer(error)) if is_absent(&error) => Ok(()),
            Err(error) => Err(error.into_fault(&what)),
        }
    }

    async fn end(&self, job: &str, deadline: Instant) -> Result<JobEnd, Fault> {
        let id = job_id(job).ok_or_else(|| Fault::Other(format!("systemd's answer names no job: {job}")))?;
        Ok(self.link.end_of(id, deadline).await)
    }

    /// The job that is queued or running for a unit.
    pub(super) async fn job_of(&self, unit: &str) -> Result<Option<u32>, Fault> {
        let path = unit_path(unit);
        let path = path.as_str();
        let value = self
            .link
            .call(&format!("ask for the job of {unit}"), READ, |live: Live| async move { live.property(path, UNIT, "Job").await })
            .await?;
        let (id, _) = <(u32, zbus::OwnedObjectPath)>::try_from(value).map_err(|e| Fault::Other(e.to_string()))?;
        Ok((id != 0).then_some(id))
    }
}
