//! `wait`: for the deploy hook. Right directly after the touch, because it reads the stamp itself; undisturbed by a restart
//! of the agent, because it asks in slices and asks again.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, Instant};

use super::args::{Places, WaitArgs};
use super::bus::{self, CallFault};
use super::exit::Exit;
use super::output::Output;
use super::phrase::{count, took};
use super::progress::Progress;
use super::status_text::cut_words;
use crate::bus::client::{AgentProxy, WaitAnswer, WaitResult};
use crate::core::status::{PlanView, RolloutView, UnitEnd};
use crate::core::time::Span;
use crate::store;

/// How long one call waits: a lost bus is noticed within this.
const SLICE: Duration = Duration::from_secs(10);
/// What a call may take beyond its slice, and what the plan may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// A restart of the agent takes less than this.
const GONE: Duration = Duration::from_secs(5);
/// Between two tries to find the agent.
const AGAIN: Duration = Duration::from_millis(200);
/// What is added to the deadlines of the plan.
const BEYOND_PLAN: Duration = Duration::from_secs(60);
/// The time-out for who may not see the plan, when the agent does not say either.
const WITHOUT_PLAN: Duration = Duration::from_secs(15 * 60);

/// How the wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
enum End {
    Converged(WaitAnswer),
    /// Failed, blocked or aborted.
    Not(WaitAnswer),
    TimedOut {
        after: Duration,
        why: Option<String>,
    },
    Fault(CallFault),
}

pub fn run(args: &WaitArgs, places: &Places, out: &Output) -> Exit {
    let runtime = match bus::runtime(out) {
        Ok(runtime) => runtime,
        Err(exit) => return exit,
    };
    let mut progress = Progress::new(&places.run_dir, args.verbose, out);
    let end = runtime.block_on(Waiting::new(args, places).run(&mut progress));
    progress.clear();
    match end {
        End::Converged(answer) => {
            let rollout = store::read_status(&places.run_dir.join("status.json")).ok().and_then(|view| view.last_rollout);
            out.say(&converged(answer.id.as_deref(), rollout.as_ref()));
            Exit::Done
        }
        End::Not(answer) => out.fail(Exit::Failed, &not_converged(&answer)),
        End::TimedOut { after, why } => {
            let why = why.map(|why| format!(": {why}")).unwrap_or_default();
            out.fail(
                Exit::TimedOut,
                &format!("timed out after {}{why}; it goes on without this command: restart-agent status", Span(after)),
            )
        }
        End::Fault(fault) => bus::said(&fault, out),
    }
}

struct Waiting<'a> {
    places: &'a Places,
    deploy: Option<&'a str>,
    /// The stamp's ctime in microseconds; 0: not known.
    stamp: u64,
    began: Instant,
    limit: Option<Duration>,
    agent: Option<AgentProxy<'static>>,
    gone_since: Option<Instant>,
    why: Option<String>,
}

impl<'a> Waiting<'a> {
    fn new(args: &'a WaitArgs, places: &'a Places) -> Self {
        let stamp = if args.deploy.is_some() { 0 } else { stamp_ctime(&places.run_dir) };
        Waiting {
            places,
            deploy: args.deploy.as_deref(),
            stamp,
            began: Instant::now(),
            limit: args.timeout.map(|span| span.0),
            agent: None,
            gone_since: None,
            why: None,
        }
    }

    async fn run(mut self, progress: &mut Progress<'_>) -> End {
        // Asked at least once: with no time to wait it is told how things stand.
        let mut asked_once = false;
        loop {
            let left = self.limit.map_or(SLICE, |limit| limit.saturating_sub(self.began.elapsed()));
            if left.is_zero() && asked_once {
                return match self.gone_since {
                    Some(_) => End::Fault(CallFault::NotRunning),
                    None => End::TimedOut { after: self.limit.unwrap_or_default(), why: self.why },
                };
            }
            asked_once = true;
            let asked = Instant::now();
            let answer = progress.during(self.ask(left.min(SLICE))).await;
            match answer {
                Ok(answer) => {
                    self.gone_since = None;
                    match answer.result {
                        WaitResult::Converged => return End::Converged(answer),
                        WaitResult::Failed | WaitResult::Blocked | WaitResult::Aborted => return End::Not(answer),
                        WaitResult::Superseded => (self.stamp, self.deploy) = (0, None),
                        WaitResult::Timeout => {
                            self.limit = self.limit.or(answer.default_timeout_ms.map(Duration::from_millis)).or(Some(WITHOUT_PLAN));
                            self.why = answer.why.or(self.why);
                        }
                    }
                }
                Err(CallFault::NotRunning) => {
                    self.agent = None;
                    if self.gone_since.get_or_insert(asked).elapsed() >= GONE {
                        return End::Fault(CallFault::NotRunning);
                    }
                }
                // A busy host, an agent that is ending, or one that its watchdog is about to restart.
                Err(CallFault::Silent | CallFault::Refused(_)) => {
                    self.agent = None;
                    self.gone_since = None;
                }
                Err(fault) => return End::Fault(fault),
            }
            let rest = AGAIN.min(left).saturating_sub(asked.elapsed());
            if !rest.is_zero() {
                progress.during(tokio::time::sleep(rest)).await;
            }
        }
    }

    /// One slice.
    async fn ask(&mut self, slice: Duration) -> Result<WaitAnswer, CallFault> {
        if self.stamp == 0 && self.deploy.is_none() && self.why.is_none() {
            // The agent may have written down the stamp's path only now.
            self.stamp = stamp_ctime(&self.places.run_dir);
        }
        let agent = match self.agent.take() {
            Some(agent) => agent,
            None => match tokio::time::timeout(PATIENCE, bus::agent(self.places)).await {
                Ok(agent) => agent?,
                Err(_) => return Err(CallFault::NotRunning),
            },
        };
        if self.limit.is_none() {
            self.limit = default_limit(&agent).await?;
        }
        let usec = u64::try_from(slice.as_micros()).unwrap_or(u64::MAX);
        let json = bus::within(slice + PATIENCE, agent.wait(self.stamp, self.deploy.unwrap_or_default(), usec)).await?;
        self.agent = Some(agent);
        serde_json::from_str(&json).map_err(|error| {
            CallFault::Other(format!("the agent's answer cannot be read ({error}): use the restart-agent of the same version"))
        })
    }
}

/// The deadlines of the plan and a minute; `None` for who may not ask for the plan, or when it takes too long.
async fn default_limit(agent: &AgentProxy<'static>) -> Result<Option<Duration>, CallFault> {
    match bus::within(PATIENCE, agent.plan()).await {
        Ok(json) => Ok(serde_json::from_str::<PlanView>(&json).ok().map(|plan| {
            let longest = plan.units.iter().map(|unit| unit.deadline_ms).max().unwrap_or(0);
            Duration::from_millis(longest) + BEYOND_PLAN
        })),
        Err(CallFault::NotRunning) => Err(CallFault::NotRunning),
        Err(_) => Ok(None),
    }
}

/// When the stamp that status names last changed, in microseconds since 1970; 0 if that cannot be known.
fn stamp_ctime(run_dir: &Path) -> u64 {
    let Ok(view) = store::read_status(&run_dir.join("status.json")) else { return 0 };
    let Ok(file) = std::fs::metadata(&view.stamp.path) else { return 0 };
    u64::try_from(file.ctime().saturating_mul(1_000_000).saturating_add(file.ctime_nsec() / 1000)).unwrap_or(0)
}

/// `converged: deploy X, 3 units renewed, 0 casualties, 12.3s`.
pub fn converged(id: Option<&str>, rollout: Option<&RolloutView>) -> String {
    // Without any deploy there may have been a trigger all the same.
    let id = id.filter(|id| !id.is_empty());
    let rollout = rollout.filter(|rollout| id.is_none_or(|id| rollout.deploy == id));
    let Some(deploy) = id.or(rollout.map(|rollout| rollout.deploy.as_str())) else {
        return "converged: no deploy has been seen yet, nothing had to be renewed".to_owned();
    };
    match rollout.map(|rollout| (rollout, rollout.finished_at)) {
        Some((rollout, Some(finished))) => {
            let renewed = rollout.units.iter().filter(|unit| unit.what == UnitEnd::Renewed).count();
            let casualties = cut_words(rollout.cut(), "0 casualties");
            format!(
                "converged: deploy {deploy}, {} renewed, {casualties}, {}",
                count(renewed, "unit", "units"),
                took(finished.since(rollout.started_at))
            )
        }
        _ => format!("converged: deploy {deploy}, nothing had to be renewed"),
    }
}

fn not_converged(answer: &WaitAnswer) -> String {
    let word = match answer.result {
        WaitResult::Blocked => "blocked",
        WaitResult::Aborted => "aborted",
        _ => "failed",
    };
    let deploy = answer.id.as_ref().map(|id| format!("deploy {id}: ")).unwrap_or_default();
    format!("{word}: {deploy}{}", answer.why.as_deref().unwrap_or("restart-agent status says why"))
}
