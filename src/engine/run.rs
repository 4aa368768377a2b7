//! The loop.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use super::publish::Publisher;
use super::waiters::Waiters;
use super::{Journal, Request, Stimulus, World, log, plan};
use crate::core::effect::{Effect, EffectId, Fault, Outcome};
use crate::core::entry::{Entry, Written};
use crate::core::event::{Answer, Event};
use crate::core::machine::Machine;
use crate::core::status::{AgentView, NOT_TAKEN, PlanView, StatusView};
use crate::core::step::Step;
use crate::core::time::Wall;
use crate::host::notify;
use crate::store::{AliveLock, StoreFault};

/// The stamp is read this often even if nothing hints at a change (law 4), and the watchdog is told that the loop turns.
const SLOW_POLL: Duration = Duration::from_secs(60);
/// Outcomes that are taken in together at most.
const MOST_OUTCOMES: usize = 64;
/// Entries that wait for company at most.
const MOST_WAITING: usize = 256;
/// While the journal cannot be written, or the stamp not be read: between two tries.
const RETRY: Duration = Duration::from_secs(5);
/// Entries after which a finished rollout is followed by a snapshot, so that a start stays quick.
const SNAPSHOT_AFTER: usize = 500;

/// What an engine is made of.
#[derive(Debug)]
pub struct Parts<W: World, J: Journal> {
    pub world: Arc<W>,
    pub machine: Machine,
    /// What resuming the machine yielded.
    pub first: Step,
    pub store: J,
    pub alive: AliveLock,
    pub metrics: PathBuf,
    pub agent: AgentView,
    pub stimuli: mpsc::Receiver<Stimulus>,
    pub view: watch::Sender<Option<Arc<StatusView>>>,
    /// End as soon as nothing is owed to the host any more.
    pub settle_only: bool,
}

type Performing = Pin<Box<dyn Future<Output = (EffectId, Outcome)>>>;
type Planning = Pin<Box<dyn Future<Output = (PlanView, oneshot::Sender<PlanView>)>>>;

/// The engine of one host.
pub struct Engine<W: World, J: Journal> {
    world: Arc<W>,
    machine: Machine,
    store: J,
    agent: AgentView,
    stimuli: mpsc::Receiver<Stimulus>,
    performing: FuturesUnordered<Performing>,
    /// What came of effects while the journal was being written.
    arrived: VecDeque<(EffectId, Outcome)>,
    planning: FuturesUnordered<Planning>,
    waiters: Waiters,
    publisher: Publisher,
    /// The ctime of the stamp as it was last read.
    stamp_read: Option<Wall>,
    listening: bool,
    journal_broken: bool,
    /// Entries that a crash may take: they go to the disk with the next that it may not, or with the slow poll.
    waiting: Vec<Written>,
    since_snapshot: usize,
    settle_only: bool,
}

/// What ended the wait for something to do.
enum Woken {
    Outcome(EffectId, Outcome),
    Stimulus(Option<Stimulus>),
    Plan(PlanView, oneshot::Sender<PlanView>),
    Deadline,
    SlowPoll,
    Publish,
}

impl<W: World, J: Journal> Engine<W, J> {
    #[must_use]
    pub fn new(parts: Parts<W, J>) -> (Engine<W, J>, Step) {
        let engine = Engine {
            world: parts.world,
            machine: parts.machine,
            store: parts.store,
            agent: parts.agent,
            stimuli: parts.stimuli,
            performing: FuturesUnordered::new(),
            arrived: VecDeque::new(),
            planning: FuturesUnordered::new(),
            waiters: Waiters::default(),
            publisher: Publisher::new(parts.alive, parts.metrics, parts.view),
            stamp_read: None,
            listening: false,
            journal_broken: false,
            waiting: Vec::new(),
            since_snapshot: 0,
            settle_only: parts.settle_only,
        };
        (engine, parts.first)
    }

    /// Runs until it is told to stop, or, with `settle_only`, until nothing is owed. Gives the machine's last status.
    pub async fn run(mut self, first: Step) -> StatusView {
        self.world.watch_stamp(&self.machine.policy().stamp.path);
        self.world.watch_sockets(&self.machine.policy().sockets());
        self.carry_out(first).await;
        self.read_stamp().await;
        notify::ready();
        let mut slow = Instant::now() + SLOW_POLL;
        loop {
            self.listen_if_of_use().await;
            self.answer_waiters();
            if self.settle_only && self.machine.settled() && self.performing.is_empty() && self.arrived.is_empty() {
                break;
            }
            match self.wake(slow).await {
                Woken::Outcome(id, outcome) => self.outcomes(id, outcome).await,
                Woken::Plan(view, reply) => {
                    // Who asked may have gone meanwhile.
                    let _ = reply.send(view);
                }
                Woken::Deadline => self.turn(Event::Tick).await,
                Woken::SlowPoll => {
                    self.publisher.alive();
                    self.read_stamp().await;
                    self.write_waiting().await;
                    self.try_journal().await;
                    slow = Instant::now() + if self.journal_broken || self.machine.stamp_is_unreadable() { RETRY } else { SLOW_POLL };
                }
                Woken::Publish => self.publish(),
                Woken::Stimulus(None | Some(Stimulus::Stop)) => break,
                Woken::Stimulus(Some(stimulus)) => self.stimulated(stimulus).await,
            }
            if self.journal_broken || self.machine.stamp_is_unreadable() {
                slow = slow.min(Instant::now() + RETRY);
            }
        }
        notify::stopping();
        let _ = self.snapshot().await;
        self.agent.running = false;
        self.publish();
        self.view()
    }

    /// Who is told that a deploy has converged must find that in status, too.
    fn answer_waiters(&mut self) {
        if self.waiters.any() {
            if !matches!(self.machine.waited(None), crate::core::Waited::Pending { .. }) {
                self.publish();
            }
            self.waiters.answer(&self.machine, self.world.now().mono, self.stamp_read);
        }
    }

    async fn wake(&mut self, slow: Instant) -> Woken {
        if Instant::now() < slow
            && let Some((id, outcome)) = self.arrived.pop_front()
        {
            return Woken::Outcome(id, outcome);
        }
        let now = self.world.now().mono;
        let deadlines = [self.machine.next_deadline().map(|deadline| deadline.at), self.waiters.next()];
        let deadline = deadlines.into_iter().flatten().min().map(|at| Instant::now() + at.since(now));
        let publish = self.publisher.due();
        let asleep = |at: Option<Instant>| sleep_until(at.unwrap_or(slow));
        tokio::select! {
            // What is rate-limited comes first, so that a flood of the rest starves neither the watchdog nor the status. Deadlines come
            // last: every turn looks at them anyway.
            biased;
            () = sleep_until(slow) => Woken::SlowPoll,
            () = asleep(publish), if publish.is_some() => Woken::Publish,
            Some((id, outcome)) = self.performing.next(), if !self.performing.is_empty() => Woken::Outcome(id, outcome),
            stimulus = self.stimuli.recv() => Woken::Stimulus(stimulus),
            Some((view, reply)) = self.planning.next(), if !self.planning.is_empty() => Woken::Plan(view, reply),
            () = asleep(deadline), if deadline.is_some() => Woken::Deadline,
        }
    }

    async fn stimulated(&mut self, stimulus: Stimulus) {
        match stimulus {
            Stimulus::Stamp => self.read_stamp().await,
            Stimulus::Sockets => self.turn(Event::SocketsChanged).await,
            Stimulus::JobRemoved { unit } => self.turn(Event::JobRemoved { unit }).await,
            Stimulus::LookAgain => self.turn(Event::LookAgain).await,
            Stimulus::Reload => self.reload().await,
            Stimulus::Stop => {}
            Stimulus::Request(Request::Order { by, order, reply }) => {
                let now = self.world.now();
                let mut step = self.machine.handle(now, Event::Order { by, order });
                let answer = step.answer.take();
                let kept = self.carry_out(step).await;
                let answer = match (answer, kept) {
                    (Some(answer), true) => answer,
                    _ => Answer::Refused("the journal cannot be written, so nothing can be promised".to_owned()),
                };
                let _ = reply.send(answer);
            }
            Stimulus::Request(Request::Wait { stamp, id, within, reply }) => {
                // Read first: right after the touch the hint may not be here yet.
                self.read_stamp().await;
                let until = self.world.now().mono.after(within);
                self.waiters.add(stamp, id, until, reply);
            }
            Stimulus::Request(Request::Plan { reply }) => {
                let making = plan::make(Arc::clone(&self.world), self.machine.policy().clone(), self.machine.memory().clone());
                self.planning.push(Box::pin(async move { (making.await, reply) }));
            }
        }
    }

    /// Takes in what has come of effects: all that is there, so that a hundred outcomes at once cost one write to the disk.
    async fn outcomes(&mut self, id: EffectId, outcome: Outcome) {
        let mut step = self.machine.handle(self.world.now(), Event::Outcome(id, outcome));
        for _ in 1..MOST_OUTCOMES {
            let Some((id, outcome)) = self.arrived.pop_front().or_else(|| self.performing.next().now_or_never().flatten()) else { break };
            let next = self.machine.handle(self.world.now(), Event::Outcome(id, outcome));
            step.entries.extend(next.entries);
            step.effects.extend(next.effects);
        }
        self.carry_out(step).await;
    }

    async fn turn(&mut self, event: Event) {
        let step = self.machine.handle(self.world.now(), event);
        self.carry_out(step).await;
    }

    /// Writes, then performs (law 2). Says whether the entries are on the disk.
    async fn carry_out(&mut self, step: Step) -> bool {
        let finished = step.entries.iter().any(|written| matches!(written.entry, Entry::RolloutFinished { .. }));
        self.since_snapshot += step.entries.len();
        step.entries.iter().for_each(log::tell);
        let mut effects = step.effects;
        // A look has no intent that would have to be on the disk first.
        if effects.iter().all(|(_, effect)| !effect.acts()) {
            effects.drain(..).for_each(|(id, effect)| self.perform(id, effect));
        }
        let alone = step.entries.iter().all(|written| written.entry.may_wait()) && self.waiting.len() < MOST_WAITING;
        self.waiting.extend(step.entries);
        let written = if alone { Ok(()) } else { self.append().await };
        for (id, effect) in effects {
            match &written {
                Err(fault) if effect.acts() && !effect.pays_back() => {
                    let fault = Fault::Journal(fault.to_string());
                    self.performing.push(Box::pin(async move { (id, Outcome::Fault(fault)) }));
                }
                _ => self.perform(id, effect),
            }
        }
        self.publisher.touch();
        match &written {
            Ok(()) if finished && self.since_snapshot >= SNAPSHOT_AFTER => {
                self.since_snapshot = 0;
                if let Err(fault) = self.snapshot().await {
                    tracing::warn!(%fault, "cannot write a snapshot of the journal; the journal itself is whole");
                }
            }
            Ok(()) => {}
            Err(fault) => self.journal_fails(fault.to_string()).await,
        }
        written.is_ok()
    }

    async fn write_waiting(&mut self) {
        if !self.waiting.is_empty()
            && let Err(fault) = self.append().await
        {
            self.journal_fails(fault.to_string()).await;
        }
    }

    /// The memory has what waits already: after the snapshot it would count twice.
    async fn snapshot(&mut self) -> Result<(), StoreFault> {
        // What cannot be written is in the store's queue then, and goes first.
        let _ = self.append().await;
        self.store.snapshot(self.machine.memory()).await
    }

    /// Writes what waits to the journal. What is under way goes on meanwhile.
    async fn append(&mut self) -> Result<(), StoreFault> {
        let entries = std::mem::take(&mut self.waiting);
        let mut appending = std::pin::pin!(self.store.append(entries));
        loop {
            tokio::select! {
                biased;
                written = &mut appending => return written,
                Some(done) = self.performing.next(), if !self.performing.is_empty() => self.arrived.push_back(done),
            }
        }
    }

    fn perform(&self, id: EffectId, effect: Effect) {
        tracing::debug!(id = id.0, ?effect);
        let world = Arc::clone(&self.world);
        self.performing.push(Box::pin(async move { (id, world.perform(effect).await) }));
    }

    async fn journal_fails(&mut self, why: String) {
        if std::mem::replace(&mut self.journal_broken, true) {
            return;
        }
        tracing::error!("{why}");
        let step = self.machine.handle(self.world.now(), Event::JournalProblem(Some(why)));
        Box::pin(self.carry_out(step)).await;
    }

    async fn try_journal(&mut self) {
        if self.journal_broken && self.snapshot().await.is_ok() {
            self.journal_broken = false;
            tracing::info!("the journal can be written again");
            self.turn(Event::JournalProblem(None)).await;
        }
    }

    async fn read_stamp(&mut self) {
        let path = self.machine.policy().stamp.path.clone();
        if path.is_empty() {
            return;
        }
        let read = self.world.read_stamp(&path);
        self.stamp_read = read.as_ref().ok().map(|seen| seen.ctime).or(self.stamp_read);
        self.turn(Event::Stamp(read)).await;
    }

    async fn reload(&mut self) {
        notify::reloading();
        match self.world.read_configuration() {
            Ok(policy) => {
                let changed = policy.stamp.path != self.machine.policy().stamp.path;
                self.turn(Event::Policy(Box::new(policy))).await;
                if changed {
                    self.world.watch_stamp(&self.machine.policy().stamp.path);
                }
                self.world.watch_sockets(&self.machine.policy().sockets());
                self.read_stamp().await;
            }
            Err(wrong) => self.turn(Event::ConfigProblem(Some(format!("{NOT_TAKEN}: {wrong}")))).await,
        }
        notify::ready();
    }

    async fn listen_if_of_use(&mut self) {
        let active = self.machine.active();
        if active != self.listening {
            self.listening = active;
            self.world.listen(active).await;
        }
    }

    fn view(&self) -> StatusView {
        self.machine.status(self.world.now(), self.agent.clone())
    }

    fn publish(&mut self) {
        let view = self.view();
        self.publisher.publish(view, &self.store);
    }
}
