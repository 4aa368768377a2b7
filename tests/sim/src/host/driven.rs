//! The engine itself as the agent of a simulated host: its loop, its deadlines, what it has waiting and how it takes in what comes while the
//! journal is written. Its clock is the host's: when nobody has anything to do, time goes to what comes next.
//!
//! The miniature engine of [`Host`] is what a million seeds run on; this is what it stands for, over some hundreds.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use tokio::select;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep, sleep_until};

use restart_agent::core::Waited;
use restart_agent::core::deploy::{StampFault, StampSeen};
use restart_agent::core::effect::{Effect, EffectId, Outcome};
use restart_agent::core::entry::Written;
use restart_agent::core::event::{Event, Order};
use restart_agent::core::memory::Memory;
use restart_agent::core::policy::Policy;
use restart_agent::core::status::{AgentView, StatusView};
use restart_agent::core::time::Now;
use restart_agent::engine::{Engine, Journal, Parts, Request, Stimulus, WaitEnd, World};
use restart_agent::store::{StoreFault, hold_alive};

use super::{Deed, Host, span};
use crate::check::us;
use crate::world::{Happening, LOOKED_AT, MINUTE, S, Us, Wanted};

/// What waits to be heard by the loop.
const STIMULI: usize = 256;
/// More than this without a moment passing is a loop that burns a core.
const LOOKS_AT_THE_CLOCK: u32 = 100_000;

type Running = Pin<Box<dyn Future<Output = StatusView>>>;

struct Bench {
    host: Host,
    /// Who waits for what comes of an effect.
    asked: BTreeMap<EffectId, oneshot::Sender<Outcome>>,
    effects: u64,
    listening: bool,
    began: (Instant, Us),
    looks: (Us, u32),
}

impl Bench {
    /// Up to now everything has happened: the driver is woken before the engine.
    fn now(&mut self) -> Us {
        let now = self.began.1 + us(self.began.0.elapsed());
        self.host.world.now = self.host.world.now.max(now);
        now
    }

    fn instant(&self, at: Us) -> Instant {
        self.began.0 + span(at.saturating_sub(self.began.1))
    }

    /// A point at which the agent can die.
    fn lives(&mut self, epoch: u64) -> bool {
        self.host.driven && self.host.world.epoch == epoch && !self.host.point()
    }
}

/// The world and the disk of the engine of one epoch. Once that is over it waits for ever, until it is dropped.
#[derive(Clone)]
struct Outside {
    bench: Rc<RefCell<Bench>>,
    changed: Rc<Notify>,
    epoch: u64,
}

impl World for Outside {
    fn now(&self) -> Now {
        let mut bench = self.bench.borrow_mut();
        let now = bench.now();
        bench.looks = if bench.looks.0 == now { (now, bench.looks.1 + 1) } else { (now, 0) };
        assert!(bench.looks.1 < LOOKS_AT_THE_CLOCK, "the loop turns, and no time passes");
        bench.host.world.clock()
    }

    async fn perform(&self, effect: Effect) -> Outcome {
        let told = {
            let mut bench = self.bench.borrow_mut();
            bench.now();
            bench.lives(self.epoch).then(|| {
                let (tell, told) = oneshot::channel();
                bench.effects += 1;
                let id = EffectId(bench.effects);
                bench.asked.insert(id, tell);
                // What pays back is done also if the disk is full.
                let written = if effect.pays_back() { &bench.host.with_queued } else { &bench.host.durable };
                if effect.acts() && !written.open.values().any(|open| *open == effect) {
                    bench.host.world.violates(format!("done before its intent was written: {effect:?}"));
                }
                bench.host.note_effect(&effect);
                bench.host.world.perform(id, effect);
                told
            })
        };
        self.changed.notify_one();
        match told {
            Some(told) => match told.await {
                Ok(outcome) => outcome,
                Err(_) => pending().await,
            },
            None => pending().await,
        }
    }

    fn read_stamp(&self, _: &str) -> Result<StampSeen, StampFault> {
        let mut bench = self.bench.borrow_mut();
        bench.host.stamp_told |= bench.host.world.stamp.is_ok();
        bench.host.world.stamp.clone()
    }

    fn watch_stamp(&self, _: &str) {}

    fn watch_sockets(&self, _: &[String]) {}

    async fn listen(&self, on: bool) {
        self.bench.borrow_mut().listening = on;
    }

    fn read_configuration(&self) -> Result<Policy, String> {
        let bench = self.bench.borrow();
        bench.host.unusable.clone().map_or_else(|| Ok(bench.host.policy.clone()), Err)
    }
}

impl Outside {
    /// Waits for the disk, and says whether it has room.
    async fn writes(&self, takes: Us) -> Result<(), StoreFault> {
        let point = || {
            let lives = self.bench.borrow_mut().lives(self.epoch);
            if !lives {
                self.changed.notify_one();
            }
            lives
        };
        if !point() {
            return pending().await;
        }
        if takes > 0 {
            sleep(span(takes)).await;
            if !point() {
                return pending().await;
            }
        }
        let full = self.bench.borrow().host.disk_full;
        if full { Err(StoreFault::Full("/var/lib/restart-agent".to_owned())) } else { Ok(()) }
    }
}

impl Journal for Outside {
    async fn append(&self, entries: Vec<Written>) -> Result<(), StoreFault> {
        let takes = {
            let mut bench = self.bench.borrow_mut();
            bench.now();
            let waits = entries.iter().any(|written| !written.entry.may_wait());
            let faults = &mut bench.host.world.faults;
            let takes = if waits { faults.disk_takes } else { 0 };
            faults.disk_took = faults.disk_took.max(takes);
            takes
        };
        let room = self.writes(takes).await;
        let mut bench = self.bench.borrow_mut();
        for written in &entries {
            bench.host.world.say(|| format!("   .. {:?}", written.entry));
        }
        bench.host.keep(entries.clone());
        bench.host.note(&entries);
        room
    }

    async fn snapshot(&self, memory: &Memory) -> Result<(), StoreFault> {
        self.writes(0).await?;
        let mut bench = self.bench.borrow_mut();
        if *memory != bench.host.with_queued {
            let difference = super::difference(&bench.host.with_queued, memory);
            bench.host.world.violates(format!("the journal adds up to another memory than the snapshot: {difference}"));
        }
        Ok(())
    }

    fn write_metrics(&self, _: &Path, _: String, _: bool) {}
}

/// Why the driver stopped.
enum Driven {
    Died,
    Starts,
    Over,
}

struct Drive {
    bench: Rc<RefCell<Bench>>,
    changed: Rc<Notify>,
    engine: Option<Running>,
    stimuli: mpsc::Sender<Stimulus>,
    view: watch::Receiver<Option<Arc<StatusView>>>,
    run_dir: PathBuf,
}

impl Drive {
    fn start(&mut self) {
        let (stimuli, stimuli_in) = mpsc::channel(STIMULI);
        let (view, view_out) = watch::channel(None);
        let mut bench = self.bench.borrow_mut();
        let (machine, first) = bench.host.resume();
        bench.host.driven = true;
        bench.listening = false;
        let (epoch, now) = (bench.host.world.epoch, bench.host.world.clock());
        drop(bench);
        self.engine = None;
        let outside = Outside { bench: Rc::clone(&self.bench), changed: Rc::clone(&self.changed), epoch };
        #[expect(clippy::arc_with_non_send_sync, reason = "the engine and its world live on one thread")]
        let world = Arc::new(outside.clone());
        let parts = Parts {
            world,
            machine,
            first,
            store: outside,
            alive: hold_alive(&self.run_dir, &self.run_dir).expect("its lock"),
            metrics: PathBuf::new(),
            agent: AgentView { version: "sim".to_owned(), running: true, pid: 1, since: now.wall },
            stimuli: stimuli_in,
            view,
            settle_only: false,
        };
        let (engine, first) = Engine::new(parts);
        self.engine = Some(Box::pin(engine.run(first)));
        (self.stimuli, self.view) = (stimuli, view_out);
    }

    /// Lets time pass until then, or until something holds. What the engine says when it ends.
    async fn run(&mut self, until: Us, holds: impl Fn(&Bench) -> bool) -> Option<StatusView> {
        loop {
            let drive = drive(&self.bench, &self.changed, &self.stimuli, self.engine.is_some(), until, &holds);
            let driven = match &mut self.engine {
                Some(engine) => select! {
                    biased;
                    driven = drive => driven,
                    view = engine => {
                        self.engine = None;
                        return Some(view);
                    }
                },
                None => drive.await,
            };
            match driven {
                Driven::Over => return None,
                Driven::Died => {
                    self.engine = None;
                    self.bench.borrow_mut().asked.clear();
                }
                Driven::Starts if self.engine.is_none() => self.start(),
                Driven::Starts => {}
            }
        }
    }

    /// The same, of one that has no reason to end.
    async fn run_on(&mut self, until: Us, holds: impl Fn(&Bench) -> bool) {
        if self.run(until, holds).await.is_some() {
            self.violates("the engine has ended, and nobody has told it to".to_owned());
        }
    }

    fn world_now(&self) -> Us {
        self.bench.borrow_mut().now()
    }

    fn violates(&self, what: String) {
        self.bench.borrow_mut().host.world.violates(what);
    }

    /// As somebody who waits for the newest deploy.
    async fn converges(&mut self, within: Us) {
        let until = self.world_now() + within;
        let mut last = None;
        while self.world_now() < until && self.bench.borrow().host.world.wrong.is_empty() {
            let (reply, replied) = oneshot::channel();
            let request = Request::Wait { stamp: None, id: None, within: span(10 * MINUTE), reply };
            let _ = self.stimuli.try_send(Stimulus::Request(request));
            let replied = RefCell::new(replied);
            let answer: RefCell<Option<WaitEnd>> = RefCell::default();
            let answered = |_: &Bench| {
                let mut answer = answer.borrow_mut();
                *answer = answer.take().or_else(|| replied.borrow_mut().try_recv().ok());
                answer.is_some()
            };
            let patience = self.world_now() + 11 * MINUTE;
            self.run_on(patience, answered).await;
            let Some(answer) = answer.into_inner() else { return self.violates("who waits is not answered in time".to_owned()) };
            if matches!(answer.how, Waited::Converged { .. }) {
                return;
            }
            last = Some(answer.how);
            let soon = self.world_now() + 10 * S;
            self.run_on(soon, |_| false).await;
        }
        self.violates(format!("with nothing in the way, the engine tells who waits {last:?}"));
    }
}

async fn drive(
    bench: &RefCell<Bench>,
    changed: &Notify,
    stimuli: &mpsc::Sender<Stimulus>,
    lives: bool,
    until: Us,
    holds: &impl Fn(&Bench) -> bool,
) -> Driven {
    loop {
        let at = {
            let bench = bench.borrow();
            bench.instant(bench.host.world.next().unwrap_or(until).min(until))
        };
        select! {
            biased;
            () = sleep_until(at) => {}
            () = changed.notified() => {}
        }
        let mut bench = bench.borrow_mut();
        let now = bench.began.1 + us(bench.began.0.elapsed());
        while bench.host.world.next().is_some_and(|at| at <= now) {
            let Some(what) = bench.host.world.pop() else { break };
            bench.host.dead_now = false;
            if happen(&mut bench, what, stimuli) {
                return Driven::Starts;
            }
            if lives && !bench.host.driven {
                break;
            }
        }
        bench.now();
        if lives && !bench.host.driven {
            return Driven::Died;
        }
        if holds(&bench) || now >= until || !bench.host.world.wrong.is_empty() {
            return Driven::Over;
        }
    }
}

/// Says whether the agent is to be started.
fn happen(bench: &mut Bench, what: Happening, stimuli: &mpsc::Sender<Stimulus>) -> bool {
    match what {
        Happening::Answer { epoch, id, outcome } => {
            if let Some(tell) = bench.asked.remove(&id).filter(|_| epoch == bench.host.world.epoch) {
                // Who asked may be dead.
                let _ = tell.send(outcome);
            }
        }
        // Those of the miniature engine.
        Happening::Deed(Deed::SlowPoll(_) | Deed::Written(_)) => {}
        Happening::Deed(Deed::StartAgent) => return true,
        Happening::Deed(Deed::Order(Order::Trigger { force, override_hold, targets, reason })) => {
            let at = bench.host.world.now;
            let names = targets.as_ref().map(|names| names.iter().cloned().collect::<Vec<_>>());
            let id = bench.host.memory().stamp.as_ref().map(|stamp| stamp.deploy.id.clone()).unwrap_or_default();
            // Whether it is accepted shows when the journal is written.
            bench.host.world.wanted.push(Wanted { at, perhaps: true, forced: force, targets: names, id });
            bench.host.feed(Event::Order { by: "root".to_owned(), order: Order::Trigger { force, override_hold, targets, reason } });
        }
        other => bench.host.happen(other),
    }
    while let Some(event) = bench.host.heard.pop_front() {
        let stimulus = match event {
            Event::Stamp(_) => Stimulus::Stamp,
            Event::SocketsChanged => Stimulus::Sockets,
            Event::JobRemoved { unit } if bench.listening => Stimulus::JobRemoved { unit },
            Event::LookAgain if bench.listening => Stimulus::LookAgain,
            Event::Policy(_) | Event::ConfigProblem(_) => Stimulus::Reload,
            Event::Order { by, order } => Stimulus::Request(Request::Order { by, order, reply: oneshot::channel().0 }),
            _ => continue,
        };
        // With a disk that hangs more may come than wait to be heard; a hint is one that may be lost.
        if let Err(mpsc::error::TrySendError::Full(Stimulus::Request(_) | Stimulus::Reload)) = stimuli.try_send(stimulus) {
            bench.host.world.violates("the engine does not hear what people say".to_owned());
        }
    }
    false
}

/// Lets the engine live what the host has before it for so long, mends everything, waits for the newest deploy as people do, and ends it. Its journal
/// is then that of the miniature engine, and what must hold at rest is checked. `run_dir` is for its status, and there already.
#[must_use]
pub fn live(mut host: Host, busy: Us, run_dir: &Path) -> Host {
    // A removal has its own agent.
    host.crash = host.crash.filter(|crash| !crash.removed);
    host.kill_agent();
    // It is as if the engine had been there from the beginning.
    host.world.agent_was_away = false;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(async move {
        let until = host.world.now + busy;
        let began = (Instant::now(), host.world.now);
        let bench = Bench { host, asked: BTreeMap::new(), effects: 1 << 32, listening: false, began, looks: (0, 0) };
        let mut drive = Drive {
            bench: Rc::new(RefCell::new(bench)),
            changed: Rc::default(),
            engine: None,
            stimuli: mpsc::channel(1).0,
            view: watch::channel(None).1,
            run_dir: run_dir.to_owned(),
        };
        drive.start();
        drive.run_on(until, |_| false).await;
        drive.bench.borrow_mut().host.crash = None;
        if drive.engine.is_none() {
            drive.start();
        }
        drive.bench.borrow_mut().host.heal();
        let looked_at = drive.world_now() + LOOKED_AT;
        drive.run_on(looked_at, |_| false).await;
        drive.converges(50 * MINUTE).await;
        let until = drive.world_now() + 50 * MINUTE;
        let rests = |bench: &Bench| bench.host.owes_nothing() && bench.asked.is_empty();
        drive.run_on(until, rests).await;
        let soon = drive.world_now() + 2 * S;
        drive.run_on(soon, |_| false).await;
        // The end of one that is perhaps owed a run may have come just then.
        let until = drive.world_now() + 50 * MINUTE;
        drive.run_on(until, rests).await;
        if !rests(&drive.bench.borrow()) {
            drive.violates("with nothing in the way, the engine still owes something".to_owned());
        }
        let _ = drive.stimuli.try_send(Stimulus::Stop);
        let until = drive.world_now() + MINUTE;
        match drive.run(until, |_| false).await {
            Some(view) if view.agent.running => drive.violates("the engine has ended, and says that it runs".to_owned()),
            Some(_) => {}
            None => drive.violates("the engine does not end when it is told to".to_owned()),
        }
        drop(drive.engine.take());
        let Drive { bench, .. } = drive;
        let Some(bench) = Rc::into_inner(bench) else { panic!("the engine is still there") };
        let mut host = bench.into_inner().host;
        host.check_casualties();
        host.check_left_over();
        host.kill_agent();
        host.start_agent();
        if host.world.wrong.is_empty() {
            host.settle();
        }
        host
    })
}
