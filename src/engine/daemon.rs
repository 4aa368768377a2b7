//! The daemon: the real world, the journal and the configuration put together, and the story of one run of the agent.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};

use super::run::{Engine, Parts};
use super::{RealWorld, Stimulus};
use crate::config::{self, Roots};
use crate::core::entry::Written;
use crate::core::machine::Machine;
use crate::core::policy::Policy;
use crate::core::status::{AgentView, StatusView, UNUSABLE};
use crate::host::{self, Host, clock};
use crate::store::{AliveLock, Store};

/// What waits to be heard by the loop; who sends more waits.
const STIMULI: usize = 256;

/// Where the agent's things are.
#[derive(Debug, Clone)]
pub struct Options {
    pub roots: Roots,
    pub state_dir: PathBuf,
    /// The file of the metrics, written if its directory exists.
    pub metrics: PathBuf,
    pub host: host::Places,
    /// `Some`: begin nothing, pay what is owed to the host, end; at the latest after this.
    pub settle_debts: Option<Duration>,
}

/// What others need to talk to the daemon.
#[derive(Debug, Clone)]
pub struct Handle {
    pub stimuli: mpsc::Sender<Stimulus>,
    pub view: watch::Receiver<Option<Arc<StatusView>>>,
}

/// Runs the agent until SIGTERM or SIGINT, the only one that holds these locks. `beside` is started with a handle on it: the bus.
///
/// # Errors
/// What keeps it from starting at all: the journal cannot be read. A configuration that cannot be read is no such thing: the agent
/// then pays what it owes, does nothing else, and status says file and line.
pub async fn run<F: Future<Output = ()> + Send + 'static>(
    options: Options,
    alive: AliveLock,
    beside: impl FnOnce(Handle) -> F,
) -> Result<StatusView> {
    let now = clock::now();
    let (store, loaded) = Store::open(&options.state_dir, |memory, written| memory.apply(written)).context("the journal")?;
    let policy = policy(&options.roots);
    let (stimuli, stimuli_in) = mpsc::channel(STIMULI);
    let (host, hints) = Host::connect(options.host.clone());
    let world = RealWorld::new(host, hints, options.roots, stimuli.clone());

    let boot = clock::boot_name(alive.run_dir());
    let (mut machine, mut first) = Machine::resume(loaded.memory, policy, &boot, env!("CARGO_PKG_VERSION"), now);
    merge(&mut first, machine.left_behind(now, world.leftovers()));
    if let Some(problem) = loaded.problem {
        tracing::error!("{problem}");
        merge(&mut first, machine.handle(now, crate::core::event::Event::ConfigProblem(Some(problem))));
    }
    if options.settle_debts.is_some() {
        machine.settle();
    }
    let (view, view_out) = watch::channel(None);
    tokio::spawn(signals(stimuli.clone())?);
    if options.settle_debts.is_none() {
        tokio::spawn(beside(Handle { stimuli: stimuli.clone(), view: view_out }));
    }
    let parts = Parts {
        world,
        machine,
        first,
        store,
        alive,
        metrics: options.metrics,
        agent: AgentView { version: env!("CARGO_PKG_VERSION").to_owned(), running: true, pid: std::process::id(), since: now.wall },
        stimuli: stimuli_in,
        view,
        settle_only: options.settle_debts.is_some(),
    };
    if let Some(at_most) = options.settle_debts {
        tokio::spawn(async move {
            tokio::time::sleep(at_most).await;
            let _ = stimuli.send(Stimulus::Stop).await;
        });
    }
    let (engine, first) = Engine::new(parts);
    Ok(engine.run(first).await)
}

fn policy(roots: &Roots) -> Policy {
    match config::load(roots) {
        Ok(loaded) => loaded.policy,
        Err(errors) => {
            tracing::error!("the configuration cannot be used:\n{errors}");
            Policy { unusable: Some(format!("{UNUSABLE}: {}", errors.first_line())), ..Policy::default() }
        }
    }
}

fn merge(first: &mut crate::core::step::Step, then: crate::core::step::Step) {
    first.entries.extend::<Vec<Written>>(then.entries);
    first.effects.extend(then.effects);
}

fn signals(stimuli: mpsc::Sender<Stimulus>) -> Result<impl Future<Output = ()>> {
    let mut reload = signal(SignalKind::hangup()).context("SIGHUP")?;
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    Ok(async move {
        loop {
            let stimulus = tokio::select! {
                _ = reload.recv() => Stimulus::Reload,
                _ = terminate.recv() => Stimulus::Stop,
                _ = interrupt.recv() => Stimulus::Stop,
            };
            if stimuli.send(stimulus).await.is_err() {
                return;
            }
        }
    })
}
