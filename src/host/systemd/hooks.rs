//! Commands, run by systemd as transient units: the agent executes nothing itself (law 9).

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use zbus::{Fd, Variant};

use super::capture::Capture;
use super::faults::is_named;
use super::link::CallError;
use super::names::job_id;
use super::properties::SERVICE;
use super::{ACT, READ, Systemd};
use crate::core::effect::{CommandEnd, Fault, JobEnd};

/// Of the output of a command that is only to succeed or fail.
const OUTPUT: usize = 64 * 1024;
/// Of the output of a command that is run for it.
const LONG_OUTPUT: usize = 1024 * 1024;
/// If the agent is gone by then, systemd ends the command this much later than the agent would have.
const BACKSTOP: Duration = Duration::from_secs(10);
/// For what a command left running when it ended, from SIGTERM to SIGKILL.
const STRAGGLERS: Duration = Duration::from_secs(2);
/// For a command that took too long: to send SIGKILL, and then for its unit to be gone.
const KILLED: Duration = Duration::from_secs(2);
/// For what remains to be asked of a command that has ended.
const LAST: Duration = Duration::from_secs(2);
/// For commands of an earlier run to be gone after SIGKILL.
const OTHERS_GONE: Duration = Duration::from_secs(5);
/// Between two looks whether commands of an earlier run are gone.
const OTHERS_AGAIN: Duration = Duration::from_millis(20);
/// systemd's own exit status for "there is no such program, or it is not executable".
const EXIT_EXEC: i32 = 203;
const SIGKILL: i32 = 9;

/// One command.
#[derive(Debug, Clone, Copy)]
struct Hook<'a> {
    /// Shown as the unit's description: `depool default`.
    purpose: &'a str,
    argv: &'a [String],
    timeout: Duration,
    /// `NAME=VALUE`.
    environment: &'a [String],
    one: Meaning,
}

/// What exit status 1 of a command means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Failure,
    Answer,
}

impl Systemd {
    /// Runs `argv` and waits for its end, at most `timeout`; then it and all that it started is killed, which takes at most 5 s more. `purpose` is shown as the unit's
    /// description: `depool default`. What a command leaves running when it ends is ended with it. Arguments are taken as they are: no shell, no variables, no specifiers.
    ///
    /// # Errors
    /// [`Fault::Refused`] for an argv without an absolute path first; the fault of starting the unit; [`Fault::Unreachable`] if the bus went
    /// away and its end is not known.
    pub async fn run(&self, purpose: &str, argv: &[String], timeout: Duration) -> Result<CommandEnd, Fault> {
        self.run_with(purpose, argv, timeout, &[]).await
    }

    /// As [`Systemd::run`], with these in its environment, each `NAME=VALUE`.
    ///
    /// # Errors
    /// As [`Systemd::run`].
    pub async fn run_with(&self, purpose: &str, argv: &[String], timeout: Duration, environment: &[String]) -> Result<CommandEnd, Fault> {
        let hook = Hook { purpose, argv, timeout, environment, one: Meaning::Failure };
        self.run_keeping(hook, OUTPUT).await.map(|(end, _)| end)
    }

    /// As [`Systemd::run`], for a command that answers with its exit status: 1 is an answer, and no failed unit that alerts somebody.
    ///
    /// # Errors
    /// As [`Systemd::run`].
    pub async fn run_check(&self, purpose: &str, argv: &[String], timeout: Duration) -> Result<CommandEnd, Fault> {
        self.run_keeping(Hook { purpose, argv, timeout, environment: &[], one: Meaning::Answer }, OUTPUT).await.map(|(end, _)| end)
    }

    /// As [`Systemd::run`], with the first MiB of what it printed, standard output and error as they came.
    ///
    /// # Errors
    /// As [`Systemd::run`].
    pub async fn run_output(&self, purpose: &str, argv: &[String], timeout: Duration) -> Result<(CommandEnd, Vec<u8>), Fault> {
        self.run_keeping(Hook { purpose, argv, timeout, environment: &[], one: Meaning::Failure }, LONG_OUTPUT).await
    }

    async fn run_keeping(&self, hook: Hook<'_>, limit: usize) -> Result<(CommandEnd, Vec<u8>), Fault> {
        let Hook { purpose, argv, timeout, one, .. } = hook;
        let Some(program) = argv.first().filter(|program| program.starts_with('/')) else {
            return Err(Fault::Refused(format!("cannot run the command for \"{purpose}\": it does not start with an absolute path")));
        };
        if !self.places.look_only {
            self.hooks.others_ended.get_or_try_init(|| self.end_others()).await?;
        }
        let serial = self.hooks.count.fetch_add(1, Ordering::Relaxed);
        let kind = if self.places.look_only { "look" } else { "hook" };
        let unit = format!("restart-agent-{kind}-{}-{serial}.service", self.hooks.name);
        let deadline = Instant::now() + timeout;
        let _listening = self.link.listen(deadline).await?;
        let (mut capture, output) =
            Capture::new(limit).map_err(|error| Fault::Other(format!("cannot run \"{purpose}\": no pipe: {error}")))?;

        let job = self.start_hook(&unit, hook, &output).await?;
        drop(output);
        // Its start job ends when it has ended, and with it all that it started: Type=oneshot, KillMode=control-group.
        let mut end = self.read_until_end(job, deadline, &mut capture).await;
        // Without the bus it is not known to go on; systemd ends it then (`BACKSTOP`).
        let timed_out = matches!(end, JobEnd::Running | JobEnd::Lost) && Instant::now() >= deadline;
        if timed_out {
            let _ = self.kill_hook(&unit).await;
            end = self.read_until_end(job, Instant::now() + KILLED, &mut capture).await;
            match end {
                JobEnd::Running => tracing::warn!(unit, "the command for \"{purpose}\" is still there after SIGKILL"),
                // By itself `BACKSTOP` later.
                JobEnd::Lost => {
                    tracing::warn!(unit, "systemd did not say in time how the command for \"{purpose}\" ended; it ends what is left of it")
                }
                _ => {}
            }
        }
        capture.finish();
        let end =
            if timed_out { Ok(CommandEnd::TimedOut) } else { self.how_it_ended(&unit, (purpose, program), &end, &capture, one).await };
        self.link.let_go(&unit, LAST).await;
        Ok((end?, capture.into_output()))
    }

    /// A command that an agent had begun when it was killed must not take effect after what this one decides: a late depool would take the
    /// host out and nobody would know. So none runs any more when the first command of this agent begins.
    async fn end_others(&self) -> Result<(), Fault> {
        let own = format!("restart-agent-hook-{}-", self.hooks.name);
        let deadline = Instant::now() + OTHERS_GONE;
        loop {
            let running = self
                .link
                .call("look for commands of an earlier run", READ, |live| async move {
                    live.manager.list_units_by_patterns(&["active", "activating", "deactivating"], &["restart-agent-hook-*.service"]).await
                })
                .await?;
            let others: Vec<String> = running.into_iter().map(|row| row.0).filter(|unit| !unit.starts_with(&own)).collect();
            if others.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                // Stuck in the kernel. The host is not to stay as it is for that.
                tracing::warn!("commands of an earlier run of the agent are still there after SIGKILL: {}", others.join(", "));
                return Ok(());
            }
            for unit in &others {
                tracing::info!(unit, "a command that an earlier run of the agent had begun is ended");
                let _ = self.kill_hook(unit).await;
            }
            tokio::time::sleep(OTHERS_AGAIN).await;
        }
    }

    async fn read_until_end(&self, job: u32, deadline: Instant, capture: &mut Capture) -> JobEnd {
        tokio::select! {
            end = self.link.end_of(job, deadline) => end,
            never = capture.read() => match never {},
        }
    }

    async fn start_hook(&self, unit: &str, hook: Hook<'_>, output: &impl AsFd) -> Result<u32, Fault> {
        let Hook { purpose, argv, timeout, environment, one } = hook;
        let (key, exec) = command(argv);
        let output = Variant::Fd(Fd::from(output.as_fd()));
        let at_most = micros(timeout.saturating_add(BACKSTOP));
        let (statuses, signals): (Vec<i32>, Vec<i32>) = (if one == Meaning::Answer { vec![1] } else { Vec::new() }, Vec::new());
        let properties: &[(&str, &Variant<'_>)] = &[
            ("SuccessExitStatus", &Variant::from((statuses, signals))),
            ("Description", &Variant::from(format!("restart-agent: {purpose}"))),
            ("Type", &Variant::from("oneshot")),
            (key, &exec),
            ("Environment", &Variant::from(environment.to_vec())),
            ("StandardOutputFileDescriptor", &output),
            ("StandardErrorFileDescriptor", &output),
            ("SyslogIdentifier", &Variant::from("restart-agent-hook")),
            ("KillMode", &Variant::from("control-group")),
            ("TimeoutStartUSec", &Variant::from(at_most)),
            ("TimeoutStopUSec", &Variant::from(micros(STRAGGLERS))),
            ("CollectMode", &Variant::from("inactive-or-failed")),
            // Keeps it loaded until its exit status is read; no longer than our connection lives.
            ("AddRef", &Variant::from(true)),
        ];
        let what = format!("run the command for \"{purpose}\"");
        let asked = self
            .link
            .once(&what, Instant::now() + timeout.min(ACT), |live| async move {
                live.manager.start_transient_unit(unit, "fail", properties, &[]).await
            })
            .await;
        let job = match asked {
            Ok(job) => job_id(job.as_str()),
            // Its name is not used twice, so it is ours if it is there.
            Err(CallError::Cut(_)) => self.job_of(unit).await?,
            Err(CallError::Answer(error)) if is_named(&error, "UnitExists") => self.job_of(unit).await?,
            Err(error) => return Err(error.into_fault(&what)),
        };
        let job = job.ok_or_else(|| Fault::Unreachable(format!("cannot {what}: the bus went away; whether it ran is not known")))?;
        self.link.holds_hook(unit);
        Ok(job)
    }

    async fn kill_hook(&self, unit: &str) -> Result<(), Fault> {
        self.link
            .call("kill a command that took too long", KILLED, |live| async move { live.manager.kill_unit(unit, "all", SIGKILL).await })
            .await
    }

    /// Its exit status; while the unit is loaded systemd tells, otherwise the end of its job says whether it was 0.
    async fn how_it_ended(
        &self,
        unit: &str,
        (purpose, program): (&str, &str),
        job: &JobEnd,
        capture: &Capture,
        one: Meaning,
    ) -> Result<CommandEnd, Fault> {
        let wanted = [(SERVICE, "ExecMainCode"), (SERVICE, "ExecMainStatus"), (SERVICE, "Result")];
        let unknown = || Fault::Unreachable(format!("the bus went away while the command for \"{purpose}\" ran: its end is not known"));
        let values = timeout(LAST, self.properties(unit, &wanted)).await.map_err(|_| unknown())??;
        let status = i32::try_from(values.small(1)).unwrap_or(i32::MAX);
        let said = capture.said();
        match values.number(0) {
            1 if status == EXIT_EXEC && said.is_empty() => {
                Ok(CommandEnd::Exited { status, said: format!("{program} is missing or not executable") })
            }
            1 => Ok(CommandEnd::Exited { status, said }),
            2 | 3 if values.text(2) == "timeout" => Ok(CommandEnd::TimedOut),
            2 | 3 => Ok(CommandEnd::Killed { signal: status }),
            _ if *job == JobEnd::Done && one == Meaning::Failure => Ok(CommandEnd::Exited { status: 0, said }),
            _ if matches!(job, JobEnd::Failed | JobEnd::Timeout | JobEnd::Canceled | JobEnd::Dependency) => {
                let result = values.text(2);
                Err(Fault::Other(format!(
                    "the command for \"{purpose}\" did not succeed; systemd does not know its exit status (job {job:?}, Result={result})"
                )))
            }
            _ => Err(unknown()),
        }
    }
}

/// The command as a property of a transient unit. With "no-env-expand" nothing in it is a variable; but systemd 252 writes that down in a
/// way that it does not understand when a reload comes before the start, and refuses. So words that mean the same without it go without.
fn command(argv: &[String]) -> (&'static str, Variant<'static>) {
    let path = argv[0].clone();
    if argv.iter().any(|word| word.contains(['$', ';', '\\', '"', '\''])) {
        ("ExecStartEx", Variant::from(vec![(path, argv.to_vec(), vec!["no-env-expand".to_owned()])]))
    } else {
        ("ExecStart", Variant::from(vec![(path, argv.to_vec(), false)]))
    }
}

pub(super) fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}
