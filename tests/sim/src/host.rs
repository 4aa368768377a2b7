//! One simulated host with its agent: a miniature engine that writes what the core says, then performs it, and that can die at
//! any point and go on from the journal.

mod deadlines;
pub mod driven;
mod generations;
mod model;
mod opcaches;
mod removal;
mod strays;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use restart_agent::core::Waited;
use restart_agent::core::deploy::StampFault;
use restart_agent::core::effect::{Effect, EffectId, Fault, Outcome};
use restart_agent::core::entry::{Entry, Written};
use restart_agent::core::event::{Answer, Event, Order};
use restart_agent::core::machine::Machine;
use restart_agent::core::memory::Memory;
use restart_agent::core::policy::{Policy, TargetRules};
use restart_agent::core::status::{AgentView, Casualty, RolloutResult, State, StatusView, TargetState, UnitEnd};
use restart_agent::core::step::Step;
use restart_agent::core::time::Mono;

use crate::world::{By, Cut, Happening, LOOKED_AT, MINUTE, MS, S, Us, World};

/// As the engine's: the stamp is read this often whatever is hinted.
const SLOW_POLL: Us = 60 * S;
/// More ticks than this in a second of virtual time is a loop that burns a core. Of two php-fpm, each at its last requests, 80 are due.
const TICKS_A_SECOND: u32 = 120;

/// What people do, and what befalls the host.
pub enum Deed {
    Touch(String),
    SpoilStamp(StampFault),
    Order(Order),
    Policy(Box<Policy>),
    /// The files of the configuration cannot be used from now on; `None`: they are mended, and read again.
    ConfigProblem(Option<String>),
    DiskFull,
    DiskGood,
    /// The agent dies, and is back after so long.
    KillAgent(Us),
    StartAgent,
    BusRestarts,
    /// The host goes down, and comes back; the agent is started so long after.
    Reboot(Us),
    SlowPoll(u64),
    /// What the agent of that epoch was writing is on the disk.
    Written(u64),
    World(&'static str, Box<dyn FnOnce(&mut World)>),
}

impl fmt::Debug for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Deed::Touch(content) => write!(f, "touch {content:?}"),
            Deed::SpoilStamp(fault) => write!(f, "spoil the stamp: {fault}"),
            Deed::Order(order) => write!(f, "{order:?}"),
            Deed::Policy(_) => write!(f, "the configuration is reloaded"),
            Deed::ConfigProblem(problem) => write!(f, "the configuration is {}", if problem.is_some() { "broken" } else { "mended" }),
            Deed::DiskFull => write!(f, "the disk is full"),
            Deed::DiskGood => write!(f, "the disk has room again"),
            Deed::KillAgent(down) => write!(f, "the agent is killed, for {:.1} s", *down as f64 / 1e6),
            Deed::StartAgent => write!(f, "the agent starts"),
            Deed::BusRestarts => write!(f, "the bus is restarted"),
            Deed::Reboot(_) => write!(f, "the host is rebooted"),
            Deed::SlowPoll(_) => write!(f, "the stamp is read"),
            Deed::Written(_) => write!(f, "the journal is written"),
            Deed::World(what, _) => write!(f, "{what}"),
        }
    }
}

/// Where the agent dies, counted over all points at which it can: before the entries of a step are written, after that, and after
/// each thing that an effect did to the host.
#[derive(Debug, Clone, Copy)]
pub struct Crash {
    pub at: u64,
    pub down: Us,
    /// The one after it is there for the removal of the package only.
    pub removed: bool,
}

/// The engine waits for its journal: what it is to do then, and what has come meanwhile.
#[derive(Default)]
struct Writing {
    effects: Vec<(EffectId, Effect)>,
    failed: bool,
    events: VecDeque<Event>,
}

pub struct Host {
    pub world: World,
    pub policy: Policy,
    /// Why an agent that starts now cannot use it.
    unusable: Option<String>,
    /// What is on the disk.
    pub journal: Vec<Written>,
    /// What it adds up to.
    durable: Memory,
    /// Entries that wait for the disk, and what all adds up to with them.
    queued: Vec<Written>,
    with_queued: Memory,
    disk_full: bool,
    /// What each target had reached, and before that, when it became full: what it reaches meanwhile an agent that starts then does not know.
    reached_on_disk: (BTreeMap<String, Us>, BTreeMap<String, Us>),
    journal_told: bool,
    machine: Option<Machine>,
    /// The agent that lives is an engine, which has its machine for itself; what it is to hear.
    driven: bool,
    heard: VecDeque<Event>,
    writing: Option<Writing>,
    catching_up: bool,
    outstanding: BTreeMap<EffectId, Effect>,
    asked_at: BTreeMap<EffectId, Us>,
    held_since: Option<Us>,
    /// Of what, as far as that is named.
    held_targets: Option<BTreeSet<String>>,
    /// Since when nobody has stood in the way of the agent, whether something did at the last look, or the status alerted, and when the next is due.
    disturbed: Us,
    /// The same, what has failed by itself apart.
    meddled: Us,
    kept: bool,
    alerted: bool,
    deadlines_at: Us,
    /// Whom the status called failed or held at the last look, or whose restart had not begun to run, and of each unit when that was last so.
    told: BTreeSet<String>,
    told_at: BTreeMap<String, Us>,
    /// The targets of which something has failed since the last rollout began, and when that was last so.
    ended_badly: BTreeMap<String, Us>,
    boot: String,
    removal: removal::Removal,
    pub crash: Option<Crash>,
    /// It dies so long after that point.
    pub crash_late: Us,
    /// Points at which the agent could have died, so far.
    pub points: u64,
    pub crashes: u64,
    died: Us,
    dead_now: bool,
    pub handled: u64,
    ticks: (Us, u32),
    /// After how many turns it was asked, and when the next tick is due.
    due: Option<(u64, Option<Us>)>,
    pub answers: Vec<Answer>,
    /// When each target was first in the configuration.
    since: BTreeMap<String, Us>,
    /// So many deploys were taken in, or superseded by one that was.
    taken_in: usize,
    stamp_told: bool,
    pub effects: u64,
    /// Of these, those that act, and when.
    pub done: Vec<(Us, Effect)>,
}

impl Host {
    #[must_use]
    pub fn new(world: World, policy: Policy) -> Host {
        let mut world = world;
        world.policy = policy.clone();
        world.note_adopted();
        let since = policy.targets.keys().map(|name| (name.clone(), world.now)).collect();
        Host {
            world,
            policy,
            unusable: None,
            journal: Vec::new(),
            durable: Memory::default(),
            queued: Vec::new(),
            with_queued: Memory::default(),
            disk_full: false,
            writing: None,
            catching_up: false,
            reached_on_disk: Default::default(),
            journal_told: true,
            machine: None,
            driven: false,
            heard: VecDeque::new(),
            outstanding: BTreeMap::new(),
            asked_at: BTreeMap::new(),
            held_since: None,
            held_targets: None,
            disturbed: 0,
            meddled: 0,
            kept: false,
            alerted: false,
            deadlines_at: 0,
            told: BTreeSet::new(),
            told_at: BTreeMap::new(),
            ended_badly: BTreeMap::new(),
            boot: "boot-1".to_owned(),
            removal: removal::Removal::default(),
            crash: None,
            crash_late: 0,
            points: 0,
            crashes: 0,
            died: 0,
            dead_now: false,
            handled: 0,
            ticks: (0, 0),
            due: None,
            answers: Vec::new(),
            since,
            taken_in: 0,
            stamp_told: false,
            effects: 0,
            done: Vec::new(),
        }
    }

    /// The agent, if it lives.
    #[must_use]
    pub fn machine(&self) -> Option<&Machine> {
        self.machine.as_ref()
    }

    #[must_use]
    pub fn memory(&self) -> &Memory {
        match &self.machine {
            Some(machine) => machine.memory(),
            None if self.driven => &self.with_queued,
            None => &self.durable,
        }
    }

    #[must_use]
    pub fn status(&self) -> StatusView {
        let now = self.world.clock();
        let agent = AgentView { version: "sim".to_owned(), running: true, pid: 1, since: now.wall };
        self.machine.as_ref().expect("the agent does not run").status(now, agent)
    }

    #[must_use]
    pub fn state(&self) -> Option<State> {
        self.machine.as_ref().map(|_| self.status().state)
    }

    #[must_use]
    pub fn waited(&self, id: Option<&str>) -> Option<Waited> {
        self.machine.as_ref().map(|machine| machine.waited(id))
    }

    /// Something is to happen so long from now.
    pub fn later(&mut self, after: Us, deed: Deed) {
        self.world.after(after, Happening::Deed(deed));
    }

    fn lives(&self) -> bool {
        self.machine.is_some() || self.driven
    }

    pub fn start_agent(&mut self) {
        if self.lives() || self.removal.over {
            return;
        }
        let (mut machine, step) = self.resume();
        if self.removal.under_way {
            self.removal.begins(&self.durable);
            machine.settle();
        }
        self.machine = Some(machine);
        self.due = None;
        self.take(step);
        let read = self.world.stamp.clone();
        self.feed(Event::Stamp(read));
        let epoch = self.world.epoch;
        self.later(SLOW_POLL, Deed::SlowPoll(epoch));
    }

    /// What an agent that starts now begins with.
    fn resume(&mut self) -> (Machine, Step) {
        self.world.say(|| "== the agent starts".to_owned());
        self.world.epoch += 1;
        self.world.agent_begins(self.died);
        self.world.end_hooks();
        self.dead_now = false;
        self.reread_memory();
        self.outstanding.clear();
        self.asked_at.clear();
        self.writing = None;
        self.ticks = (0, 0);
        self.journal_told = true;
        let policy = match &self.unusable {
            Some(problem) => Policy { unusable: Some(problem.clone()), ..Policy::default() },
            None => self.policy.clone(),
        };
        // What had left the configuration and is back in it was never missed.
        if self.unusable.is_none() {
            self.world.forget_templates_but(&policy);
        }
        Machine::resume(self.durable.clone(), policy, &self.boot, "sim", self.world.clock())
    }

    /// The agent dies now; what was not written is gone.
    pub fn kill_agent(&mut self) {
        if self.lives() {
            self.world.say(|| "== the agent dies".to_owned());
        }
        (self.machine, self.driven) = (None, false);
        self.heard.clear();
        let open = self.durable.open.values();
        let run = |unit: &String| self.world.units.get(unit).map(|unit| unit.invocation.clone());
        let restarts = open.clone().filter_map(|effect| if let Effect::Restart { unit, .. } = effect { run(unit) } else { None });
        let restarts: Vec<String> = restarts.collect();
        let stops = |effect: &Effect| if let Effect::Stop { unit, .. } | Effect::End { unit, .. } = effect { run(unit) } else { None };
        let runs = open.filter_map(stops);
        // What it is about to lend, or has lent, keeps a later command from running: nobody can know whether that was so.
        let lent = self.durable.reruns.values().filter(|owed| owed.lent).map(|owed| owed.after.clone());
        let runs: Vec<String> = runs.chain(lent).collect();
        self.world.maybe_stopped.extend(runs);
        self.world.maybe_restarted.extend(restarts);
        // What this one has not written down the next one tells.
        let told = self.casualties();
        let written = |cut: &Cut| told.iter().any(|casualty| casualty.unit == cut.unit && casualty.pid == cut.pid);
        // What had begun while its stop was on its way it does not know.
        let unseen = self.world.units.values().filter(|unit| self.world.was_stopped_unseen(unit)).map(|unit| unit.invocation.clone());
        let unseen: BTreeSet<String> = unseen.collect();
        for cut in self.world.cuts.iter_mut().filter(|cut| !written(cut)) {
            cut.certain = false;
            cut.doubtful |= unseen.contains(&cut.invocation);
        }
        self.world.units.values_mut().for_each(|unit| unit.kept_loaded = false);
        self.world.epoch += 1;
        self.world.agent_was_away = true;
        self.died = self.world.now;
        self.outstanding.clear();
        self.asked_at.clear();
        self.writing = None;
        if self.disk_full {
            (self.world.reached, self.world.reached_before) = self.reached_on_disk.clone();
        }
        self.queued.clear();
        self.with_queued = self.durable.clone();
        self.crashes += 1;
    }

    /// A point at which the agent can die. Says whether it did.
    fn point(&mut self) -> bool {
        let here = self.points;
        self.points += 1;
        if self.dead_now {
            return true;
        }
        let Some(crash) = self.crash.filter(|crash| crash.at == here) else { return false };
        self.crash = None;
        if crash.removed {
            self.remove_package();
        }
        if self.crash_late > 0 {
            self.later(self.crash_late, Deed::KillAgent(crash.down));
            return false;
        }
        self.dead_now = true;
        self.kill_agent();
        self.later(crash.down, Deed::StartAgent);
        true
    }

    /// Something has come for the agent, which takes it in when its journal is written (law 2).
    pub fn feed(&mut self, event: Event) {
        if self.driven {
            return self.heard.push_back(event);
        }
        match &mut self.writing {
            Some(writing) => writing.events.push_back(event),
            None => self.turn(vec![event]),
        }
    }

    /// What came of effects meanwhile the engine takes in together.
    fn written(&mut self) {
        let Some(Writing { effects, failed, mut events }) = self.writing.take() else { return };
        self.perform(effects, failed);
        while let Some(event) = events.pop_front() {
            let mut together = vec![event];
            while matches!(together[..], [Event::Outcome(..), ..]) && matches!(events.front(), Some(Event::Outcome(..))) {
                together.extend(events.pop_front());
            }
            match &mut self.writing {
                Some(writing) => writing.events.extend(together),
                None => {
                    self.catching_up = !events.is_empty();
                    self.turn(together);
                }
            }
        }
        self.catching_up = false;
    }

    fn turn(&mut self, events: Vec<Event>) {
        let now = self.world.clock();
        let stamp = events.iter().any(|event| matches!(event, Event::Stamp(_)));
        let mut step = Step::default();
        for event in events {
            // That the stamp has changed is a hint: it is read when that is taken in.
            let event = if matches!(event, Event::Stamp(_)) { Event::Stamp(self.world.stamp.clone()) } else { event };
            self.world.say(|| match &event {
                Event::Tick => String::new(),
                other => format!("   <- {other:?}"),
            });
            let Some(machine) = &mut self.machine else { return };
            if let Event::Outcome(id, _) = &event {
                self.outstanding.remove(id);
                self.asked_at.remove(id);
            }
            // By the time that it hears of new rules it may have reached what it was at by the old ones.
            if let Event::Policy(policy) = &event {
                let before = machine.policy().clone();
                self.rules_leave(&before, policy);
            }
            let Some(machine) = &mut self.machine else { return };
            let next = machine.handle(now, event);
            step.entries.extend(next.entries);
            step.effects.extend(next.effects);
            step.answer = next.answer.or(step.answer);
        }
        self.handled += 1;
        if stamp && self.world.stamp.is_ok() {
            // Nobody knew of it until now.
            if self.world.faults.lost_hints > 0 && !self.stamp_told {
                self.disturb();
            }
            self.stamp_told = true;
        }
        let reached = step.entries.iter().any(|written| matches!(written.entry, Entry::Reached { .. } | Entry::RolloutFinished { .. }));
        let begun = step.entries.iter().any(|written| matches!(written.entry, Entry::RolloutStarted { .. }));
        if step.entries.iter().any(|written| matches!(written.entry, Entry::RolloutFinished { result: RolloutResult::Failed, .. })) {
            self.fails();
        }
        self.take(step);
        if self.removal.under_way {
            self.check_waits();
            return self.goes_when_settled();
        }
        // What has come meanwhile it does not know yet.
        if !self.catching_up {
            self.check_now(stamp || reached, begun || reached);
        }
    }

    /// What the rules before have left is not begun with by those that come: a change of rules starts no rollout.
    fn rules_leave(&mut self, before: &Policy, policy: &Policy) {
        let met = |name: &String| self.memory().targets.get(name).is_none_or(|target| target.unmet().is_none());
        let other = |name: &&String| before.targets.get(*name).is_some_and(|rules| policy.targets.get(*name) != Some(rules));
        let left: Vec<String> = self.since.keys().filter(other).filter(|name| met(name)).cloned().collect();
        self.since.extend(left.into_iter().map(|name| (name, self.world.now)));
    }

    /// Writes the entries, then performs the effects (law 2).
    fn take(&mut self, step: Step) {
        let Step { entries, effects, answer } = step;
        if !entries.is_empty() && self.point() {
            return;
        }
        for written in &entries {
            self.world.say(|| format!("   .. {:?}", written.entry));
        }
        self.note(&entries);
        let tried = !entries.is_empty();
        let waits = entries.iter().any(|written| !written.entry.may_wait()) && self.world.faults.disk_takes > 0;
        self.keep(entries);
        if let Some(machine) = &self.machine
            && self.with_queued != *machine.memory()
        {
            let difference = difference(&self.with_queued, machine.memory());
            self.world.violates(format!("the journal adds up to another memory than the machine's: {difference}"));
        }
        if tried && !self.removal.under_way {
            self.check_resumed();
        }
        let failed = tried && self.disk_full;
        self.answers.extend(answer.map(|answer| match answer {
            Answer::Accepted(_) if failed => Answer::Refused("the journal cannot be written".to_owned()),
            answer => answer,
        }));
        if waits && self.machine.is_some() {
            // A look has no intent that would have to be on the disk first.
            let (before, after) =
                if effects.iter().any(|(_, effect)| effect.acts()) { (Vec::new(), effects) } else { (effects, Vec::new()) };
            self.perform(before, false);
            self.writing = Some(Writing { effects: after, failed, events: VecDeque::new() });
            self.world.faults.disk_took = self.world.faults.disk_took.max(self.world.faults.disk_takes);
            return self.later(self.world.faults.disk_takes, Deed::Written(self.world.epoch));
        }
        self.perform(effects, failed);
    }

    /// In the journal, or, with a full disk, in the agent's memory until there is room.
    fn keep(&mut self, entries: Vec<Written>) {
        for written in entries {
            let written = self.reread(written);
            self.with_queued.apply(&written);
            if self.disk_full {
                self.queued.push(written);
            } else {
                self.durable.apply(&written);
                self.journal.push(written);
            }
        }
        // With a full disk also what is written there: an agent that comes after this one knows no more.
        self.world.agent_owes = self.with_queued.depooled.keys().chain(self.durable.depooled.keys()).cloned().collect();
    }

    /// What the agent has written, for the world that judges it.
    fn note(&mut self, entries: &[Written]) {
        for written in entries {
            if let Entry::Reached { target, .. } = &written.entry
                && let Some(want) = self.memory().targets.get(target).and_then(|target| target.reached.clone())
            {
                let landed = self.world.moment(want.landed);
                let before = self.world.reached.insert(target.clone(), landed).unwrap_or(0);
                self.world.reached_before.insert(target.clone(), before);
            }
            match &written.entry {
                Entry::Switched { unit, .. } => self.world.is_given_what_all_share(unit),
                Entry::Lingers { unit, .. } => self.world.lingers(unit),
                Entry::ProvenBad { unit, .. } => self.world.has_proven_bad(unit),
                Entry::Stamp { deploy, adopted: false, .. } => self.world.is_known_to_have_landed(deploy),
                Entry::RolloutStarted { .. } => self.ended_badly.clear(),
                Entry::UnitEnded(end) if end.what == UnitEnd::Failed => drop(self.ended_badly.insert(end.target.clone(), self.world.now)),
                _ => {}
            }
            match &written.entry {
                Entry::Proven { unit } => self.world.must_be_warm(unit),
                Entry::GenerationStarts { target, unit, .. } => self.world.is_of_target(unit, target, "starts"),
                Entry::Switched { target, unit } => self.world.is_of_target(unit, target, "serves"),
                Entry::Lingers { target, unit, .. } => self.world.is_of_target(unit, target, "lingers"),
                Entry::GenerationOver { target, unit } => self.world.is_of_target(unit, target, "is over"),
                _ => {}
            }
            // The guard's own order: from now on what is older is stale.
            if let Entry::OpcacheCrossed { target, .. } = &written.entry {
                self.world.guard_may_renew(target);
                let id = self.memory().stamp.as_ref().map(|stamp| stamp.deploy.id.clone()).unwrap_or_default();
                let (at, perhaps, targets) = (self.world.now, self.disk_full, Some(vec![target.clone()]));
                self.world.wanted.push(crate::world::Wanted { at, perhaps, forced: false, targets, id });
            }
        }
        for written in entries {
            self.world.agent_may_write(&written.entry);
        }
    }

    fn perform(&mut self, effects: Vec<(EffectId, Effect)>, failed: bool) {
        if !effects.is_empty() && self.point() {
            return;
        }
        for (id, effect) in effects {
            self.note_effect(&effect);
            self.check_removal(&effect);
            self.outstanding.insert(id, effect.clone());
            self.asked_at.insert(id, self.world.now);
            if failed && effect.acts() && !effect.pays_back() {
                let fault = Outcome::Fault(Fault::Journal("no space left on device".to_owned()));
                let epoch = self.world.epoch;
                self.world.after(0, Happening::Answer { epoch, id, outcome: fault });
            } else {
                self.world.perform(id, effect);
            }
        }
        if failed && self.journal_told {
            self.journal_told = false;
            self.feed(Event::JournalProblem(Some("no space left on device".to_owned())));
        }
    }

    /// What the agent is about to do, for the world that judges it.
    fn note_effect(&mut self, effect: &Effect) {
        self.effects += 1;
        self.world.agent_may_do(effect);
        self.check_held(effect);
        if effect.acts() {
            self.done.push((self.world.now, effect.clone()));
        }
        self.check_hold(effect);
    }

    fn disk_good(&mut self) {
        self.disk_full = false;
        for written in std::mem::take(&mut self.queued) {
            self.durable.apply(&written);
            self.journal.push(written);
        }
        if !self.journal_told {
            self.journal_told = true;
            self.feed(Event::JournalProblem(None));
        }
    }

    /// What somebody does right now.
    pub fn deed(&mut self, deed: Deed) {
        if !matches!(deed, Deed::SlowPoll(_) | Deed::Written(_)) {
            self.world.say(|| format!("== {deed:?}"));
        }
        if !matches!(deed, Deed::SlowPoll(_) | Deed::Written(_) | Deed::Touch(_)) {
            self.disturb();
        }
        match deed {
            Deed::Touch(content) => {
                self.stamp_told = false;
                if self.has_taken_in_the_stamp() {
                    self.taken_in = self.world.code.len();
                }
                // Nobody can know of a stamp that is overwritten while there is no agent, or none that knows where the stamp is, or
                // by one that is no deploy, or not one of all targets, before it was read.
                let nobody = !self.lives() || self.machine.as_ref().is_some_and(|machine| machine.policy().unusable.is_some());
                if nobody || content.contains("begin") || content.contains("targets") {
                    self.world.stamps_are_lost(self.taken_in);
                }
                self.world.touch(&content);
                self.world.stamps_unite(self.taken_in);
            }
            Deed::SpoilStamp(fault) => {
                self.world.stamp = Err(fault);
                let read = self.world.stamp.clone();
                self.feed(Event::Stamp(read));
            }
            // There is no bus to an agent that is there for the removal.
            Deed::Order(_) if self.removal.under_way => {}
            Deed::Order(order) => self.order(order),
            Deed::Policy(policy) => {
                let now = self.world.now;
                self.since.retain(|name, _| policy.targets.contains_key(name));
                self.rules_leave(&self.policy.clone(), &policy);
                for name in policy.targets.keys() {
                    self.since.entry(name.clone()).or_insert(now);
                }
                if self.lives() {
                    self.world.forget_templates_but(&policy);
                }
                self.policy = (*policy).clone();
                let former = std::mem::replace(&mut self.world.policy, (*policy).clone());
                self.world.formers.push((now, former));
                self.world.policy_changed = now;
                self.world.note_adopted();
                if self.unusable.take().is_some() {
                    // What was touched meanwhile nobody has read yet.
                    self.stamp_told = false;
                }
                self.feed(Event::Policy(policy));
                // Whoever has read its configuration again reads the stamp again.
                let read = self.world.stamp.clone();
                self.feed(Event::Stamp(read));
            }
            Deed::ConfigProblem(Some(problem)) => {
                self.unusable = Some(problem.clone());
                self.feed(Event::ConfigProblem(Some(problem)));
            }
            Deed::ConfigProblem(None) => {
                self.unusable = None;
                // What was touched meanwhile nobody has read yet.
                self.stamp_told = false;
                self.feed(Event::Policy(Box::new(self.policy.clone())));
                let read = self.world.stamp.clone();
                self.feed(Event::Stamp(read));
            }
            Deed::DiskFull => {
                if !std::mem::replace(&mut self.disk_full, true) {
                    self.reached_on_disk = (self.world.reached.clone(), self.world.reached_before.clone());
                }
            }
            Deed::DiskGood => self.disk_good(),
            Deed::KillAgent(down) => {
                if self.lives() {
                    self.kill_agent();
                    self.later(down, Deed::StartAgent);
                }
            }
            Deed::StartAgent => self.start_agent(),
            Deed::BusRestarts => self.world.bus_restarts(),
            Deed::Reboot(after) => {
                if self.lives() {
                    self.kill_agent();
                    self.later(after, Deed::StartAgent);
                }
                self.boot = format!("boot-{}", self.world.now);
                self.world.reboot();
            }
            Deed::Written(epoch) => {
                if epoch == self.world.epoch {
                    self.written();
                }
            }
            Deed::SlowPoll(epoch) => {
                if epoch == self.world.epoch {
                    let read = self.world.stamp.clone();
                    self.feed(Event::Stamp(read));
                    self.later(SLOW_POLL, Deed::SlowPoll(epoch));
                }
            }
            Deed::World(_, act) => act(&mut self.world),
        }
    }

    fn has_taken_in_the_stamp(&self) -> bool {
        let taken_in = self.durable.stamp.as_ref().map(|stamp| &stamp.identity);
        self.world.stamp.as_ref().is_ok_and(|stamp| Some(&stamp.identity) == taken_in)
    }

    /// An order through the bus, at once.
    pub fn order(&mut self, order: Order) {
        if self.writing.is_some() {
            return self.later(10 * MS, Deed::Order(order));
        }
        if let Order::Trigger { targets, force, .. } = &order {
            let before = self.answers.len();
            let at = self.world.now;
            let targets = targets.as_ref().map(|names| names.iter().cloned().collect::<Vec<_>>());
            let forced = *force;
            let id = self.memory().stamp.as_ref().map(|stamp| stamp.deploy.id.clone()).unwrap_or_default();
            // It is a deploy for the world from the moment at which it is accepted; what is checked in between may know of it.
            self.world.wanted.push(crate::world::Wanted { at, perhaps: false, forced, targets, id });
            let kept = self.world.wanted.len();
            self.feed(Event::Order { by: "root".to_owned(), order });
            if !matches!(self.answers.get(before), Some(Answer::Accepted(_))) && self.world.wanted.len() == kept {
                // The machine may have taken it all the same, before the journal could not.
                let taken =
                    self.memory().targets.values().filter_map(|target| target.want.as_ref()).any(|want| want.landed == self.world.mono(at));
                if let Some(refused) = self.world.wanted.pop().filter(|_| taken) {
                    self.world.wanted.push(crate::world::Wanted { perhaps: true, ..refused });
                }
            }
            return;
        }
        self.feed(Event::Order { by: "root".to_owned(), order });
    }

    /// Lets time pass.
    pub fn run(&mut self, span: Us) {
        let until = self.world.now + span;
        self.run_while(until, |_| true);
    }

    /// Lets time pass until something holds, at most so long. Says whether it did.
    pub fn run_until(&mut self, span: Us, holds: impl Fn(&Host) -> bool) -> bool {
        let until = self.world.now + span;
        self.run_while(until, |host| !holds(host));
        holds(self)
    }

    fn run_while(&mut self, until: Us, goes_on: impl Fn(&Host) -> bool) {
        while goes_on(self) && self.world.wrong.is_empty() {
            self.dead_now = false;
            let tick = self.next_tick();
            let happening = self.world.next();
            match (happening, tick) {
                (Some(at), tick) if at <= until && tick.is_none_or(|tick| at <= tick) => {
                    let what = self.world.pop().unwrap();
                    self.happen(what);
                }
                (_, Some(tick)) if tick <= until => {
                    self.world.now = self.world.now.max(tick);
                    self.count_tick();
                    self.feed(Event::Tick);
                }
                _ => break,
            }
        }
        self.world.now = self.world.now.max(until.min(self.world.next().unwrap_or(until)));
        if goes_on(self) && self.world.wrong.is_empty() {
            self.world.now = self.world.now.max(until);
        }
    }

    /// When the machine wants to be asked again; only a turn changes that.
    fn next_tick(&mut self) -> Option<Us> {
        if self.due.is_none_or(|(turn, _)| turn != self.handled) {
            let deadline = self.machine.as_ref().and_then(Machine::next_deadline);
            self.due = Some((self.handled, deadline.map(|deadline| self.world.moment(deadline.at))));
        }
        self.due.and_then(|(_, at)| at).filter(|_| self.machine.is_some() && self.writing.is_none())
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Act { epoch, id, effect, stage } => {
                if epoch == self.world.epoch && self.world.act(epoch, id, effect, stage) {
                    self.point();
                }
            }
            Happening::Answer { epoch, id, outcome } => {
                if epoch == self.world.epoch && self.machine.is_some() {
                    self.feed(Event::Outcome(id, outcome));
                }
            }
            Happening::Patience { epoch, id } => self.world.patience(epoch, id),
            Happening::Tell(event) => self.feed(event),
            Happening::Deed(deed) => self.deed(deed),
            other => self.world.happen(other),
        }
    }

    fn count_tick(&mut self) {
        let second = self.world.now / S;
        if self.ticks.0 != second {
            self.ticks = (second, 0);
        }
        self.ticks.1 += 1;
        if self.ticks.1 > TICKS_A_SECOND {
            let why = self.machine.as_ref().and_then(Machine::next_deadline).map(|deadline| deadline.why).unwrap_or_default();
            self.world.violates(format!("more than {TICKS_A_SECOND} ticks in a second: {why}"));
        }
    }

    /// It was interrupted so often that its rules let it finish.
    fn spared_for_once(&self, unit: &str) -> bool {
        let times = self.memory().interrupted.get(unit).map_or(0, |row| row.times);
        self.world.scheduled_rules(unit).is_some_and(|(_, rules)| times >= rules.max_interruptions)
    }

    /// What runs old code, though its rules want it renewed.
    fn stale(&self) -> Vec<String> {
        self.world.stale_units(|target| self.since.get(target).copied().unwrap_or(Us::MAX))
    }

    /// The same, but for what has been interrupted often enough.
    fn stale_in_vain(&self) -> Vec<String> {
        let mut stale = self.stale();
        stale.retain(|unit| !self.spared_for_once(unit));
        stale
    }

    /// What holds after every turn.
    fn check_now(&mut self, thorough: bool, rollout: bool) {
        let Some(machine) = &self.machine else { return };
        let told = machine.policy().unusable.is_none();
        self.check_waits();
        self.check_deadlines(rollout);
        if told {
            self.check_out();
        }
        if thorough {
            self.check_status();
        }
        let Some(machine) = &self.machine else { return };
        if thorough && self.stamp_told && matches!(machine.waited(None), Waited::Converged { .. }) {
            let stale = self.stale_in_vain();
            if !stale.is_empty() {
                self.world.violates(format!("wait says converged, and {} runs old code", stale.join(", ")));
            }
            self.check_converged_strays();
        }
        if thorough && self.machine.is_some() {
            let status = self.status();
            if status.state == State::Converged
                && status.pools.iter().any(|pool| pool.depooled_by == Some(restart_agent::core::status::DepooledBy::Agent))
            {
                self.world.violates("status says converged, and the agent still owes the pool this host".to_owned());
            }
        }
    }

    /// Whoever reads the status is not told that old code is new, nor that something is waited for that has no name.
    fn check_status(&mut self) {
        let status = self.status();
        if let Some(blank) = status.waiting_for.filter(|what| what.trim_end().ends_with(':')) {
            self.world.violates(format!("status says that it waits for {blank:?}"));
        }
        // By rules that are others now it has not looked yet.
        if !self.stamp_told || self.world.now < self.world.policy_changed + S {
            return;
        }
        let touched = status.targets.iter().filter(|of| !matches!(self.policy.targets.get(&of.name), Some(TargetRules::Strays(_))));
        let excluded = touched.flat_map(|target| &target.units).find(|unit| self.world.is_excluded(&unit.unit));
        if let Some(unit) = excluded.map(|unit| unit.unit.clone()) {
            self.world.violates(format!("{unit} is excluded, and status tells of it"));
        }
        let stale = self.stale();
        let units = status.targets.iter().flat_map(|target| &target.units);
        let wrong: Vec<String> = units
            .filter(|unit| stale.contains(&unit.unit) && unit.state == TargetState::Fresh)
            .map(|unit| format!("{} runs old code, and status says: {}", unit.unit, unit.why))
            .collect();
        wrong.into_iter().for_each(|wrong| self.world.violates(wrong));
    }

    /// What holds when all is said and done and nothing stands in the way any more.
    pub fn check_at_rest(&mut self) {
        if !self.world.wrong.is_empty() {
            return;
        }
        self.check_left_over();
        let Some(machine) = &self.machine else { return self.world.violates("the agent is dead".to_owned()) };
        let memory = machine.memory().clone();
        let waited = machine.waited(None);
        if !matches!(waited, Waited::Converged { .. }) {
            self.world.violates(format!("with nothing in the way, wait says {waited:?}"));
        }
        let owed: Vec<String> = [
            (memory.rollout.is_some(), "a rollout"),
            (!memory.depooled.is_empty(), "depooled"),
            (!memory.lent.is_empty(), "lent"),
            (!memory.quiet.is_empty(), "quiet"),
            (memory.starts_held, "starts held"),
            (self.owes_runs(), "reruns"),
            (!memory.frozen.is_empty(), "frozen"),
            (!memory.unproven.is_empty(), "unproven"),
            (!memory.asked.is_empty() || !memory.unasks.is_empty(), "asked"),
            (!memory.taken_down.is_empty(), "taken down"),
            (!memory.cutting.is_empty(), "cutting"),
            (!memory.open.is_empty(), "open acts"),
        ]
        .iter()
        .filter(|(owed, _)| *owed)
        .map(|(_, what)| (*what).to_owned())
        .collect();
        if !owed.is_empty() {
            self.world.violates(format!("at rest the memory still holds: {}", owed.join(", ")));
        }
        self.generations_at_rest();
        self.strays_at_rest();
        self.opcaches_at_rest();
        self.check_newest();
        self.check_casualties();
    }

    /// Nothing is left of what was lent, held or asked, nor of old code.
    fn check_left_over(&mut self) {
        for left in self.world.left_over() {
            self.world.violates(left);
        }
        let stale = self.stale_in_vain();
        if !stale.is_empty() {
            self.world.violates(format!("{} runs old code, with nothing in the way", stale.join(", ")));
        }
    }

    /// The casualties in the journal are those of the world, exactly.
    pub fn check_casualties(&mut self) {
        let recorded = self.casualties();
        self.check_recorded(&recorded);
        let mut left: Vec<Cut> = self.world.cuts.clone();
        let (mut phantoms, mut uncertain) = (Vec::new(), Vec::new());
        // What was told as uncertain may have gone on, and been cut for certain later.
        let (certain, others): (Vec<&Casualty>, Vec<&Casualty>) = recorded.iter().partition(|casualty| casualty.certain);
        for casualty in certain.into_iter().chain(others) {
            let same =
                |cut: &Cut| cut.unit == casualty.unit && cut.request == casualty.request && (cut.pid == casualty.pid || casualty.pid == 0);
            // A run that nobody had seen is rather one that was cut than one that had just ended.
            let cut = left.iter().position(|cut| same(cut) && !cut.doubtful);
            match cut.or_else(|| left.iter().position(same)) {
                Some(at) => {
                    let cut = left.remove(at);
                    if cut.certain && !casualty.certain {
                        uncertain.push(cut.unit);
                    }
                }
                // A stop that waits for a slow disk may find that the script has just ended by itself.
                None if casualty.request.is_none() && self.world.faults.disk_took >= S => {}
                None if casualty.certain => phantoms.push(format!("{} {:?}", casualty.unit, casualty.request)),
                None => {}
            }
        }
        // Of whom nobody could ask it is written that there may be some.
        let then = |cut: &Cut, casualty: &Casualty| (casualty.at.0 - cut.wall.0).abs() < 60_000_000;
        // What is said of one pool is not said of the others.
        let of_pool = |cut: &Cut, casualty: &Casualty| {
            let pool = cut.pool.as_ref().map(|pool| format!(" of pool {pool}"));
            pool.is_none_or(|pool| casualty.name.contains(&pool)) || casualty.name.contains(" of it")
        };
        let of = |cut: &Cut, casualty: &Casualty| casualty.unit == cut.unit && then(cut, casualty) && of_pool(cut, casualty);
        let perhaps = |cut: &Cut| recorded.iter().any(|casualty| casualty.perhaps && of(cut, casualty));
        let unsaid = self.world.cuts.iter().find(|cut| cut.silent && !recorded.iter().any(|casualty| of(cut, casualty))).cloned();
        left.retain(|cut| !cut.doubtful && !perhaps(cut));
        if let Some(cut) = unsaid {
            let what = "of a pool that does not tell its requests one was cut, and nobody says that there may be some";
            self.world.violates(format!("{what}: {cut:?}"));
        }
        if !left.is_empty() {
            self.world.violates(format!("cut and not recorded: {left:?}"));
        }
        if !uncertain.is_empty() {
            self.world.violates(format!("cut for certain, and told as perhaps: {}", uncertain.join(", ")));
        }
        if !phantoms.is_empty() {
            self.world.violates(format!("recorded and not cut: {}", phantoms.join(", ")));
        }
    }

    #[must_use]
    pub fn casualties(&self) -> Vec<Casualty> {
        let casualty = |written: &Written| if let Entry::Casualty(casualty) = &written.entry { Some(casualty.clone()) } else { None };
        self.journal.iter().filter_map(casualty).collect()
    }

    /// Nothing that people or fate did stands in the way any more.
    pub fn heal(&mut self) {
        self.world.say(|| "== everything is mended".to_owned());
        self.disturb();
        self.disk_good();
        self.world.heal();
        self.start_agent();
        self.order(Order::Release);
        // Of a stamp that nobody read the agent cannot know that its code is on the disk: whoever deploys sees from a proof that fails
        // that another id is expected, and touches the stamp again.
        if std::mem::take(&mut self.world.lost) {
            self.deed(Deed::Touch("after all".to_owned()));
        }
    }

    /// Mends everything, waits longer than any retry, and checks what must then hold.
    pub fn settle(&mut self) {
        self.crash = None;
        self.heal();
        if !self.world.templates.is_empty() {
            self.run(LOOKED_AT);
        }
        // A look that failed is repeated after a few seconds; until then status says that it did.
        let quiet = |host: &Host| host.quiet() && !host.status().problems.iter().any(|why| why.contains("cannot look at"));
        if !self.world.templates.is_empty() {
            self.run_until_idle_ones_have_ended(50 * MINUTE, quiet);
        }
        self.run_until(50 * MINUTE, quiet);
        self.run(2 * S);
        // The end of one that is perhaps owed a run may have come just then, or one that was left has begun again among what it has left behind.
        if !quiet(self) {
            self.run_until(50 * MINUTE, quiet);
        }
        // An opcache that has filled up just then.
        if self.memory().rollout.as_ref().is_some_and(|rollout| rollout.view.by.as_deref() == Some("the opcache guard")) {
            self.run_until(50 * MINUTE, |host| host.quiet());
        }
        self.check_at_rest();
    }

    /// Whether one that goes on, with what keeps its later commands from running, is owed another run is known when it has ended.
    fn owes_runs(&self) -> bool {
        let goes_on =
            |unit: &str, after: &str| self.world.units.get(unit).is_some_and(|unit| unit.active.runs() && unit.invocation == after);
        self.memory().reruns.iter().any(|(unit, owed)| !owed.lent || !goes_on(unit, &owed.after))
    }

    /// Nothing is under way, and nothing to be given back.
    fn owes_nothing(&self) -> bool {
        let memory = self.memory();
        memory.rollout.is_none()
            && memory.depooled.is_empty()
            && memory.lent.is_empty()
            && memory.quiet.is_empty()
            && !memory.starts_held
            && !self.owes_runs()
            && memory.frozen.is_empty()
            && memory.cutting.is_empty()
    }

    #[must_use]
    pub fn quiet(&self) -> bool {
        self.machine.is_some()
            && self.outstanding.is_empty()
            && self.writing.is_none()
            && self.owes_nothing()
            && self.stamp_told
            && self.generations_quiet()
            && self.all_serve()
            && matches!(self.waited(None), Some(Waited::Converged { .. }))
            && !self.one_is_watched()
    }

    /// Fails the test, with the story, if something that must not happen has.
    pub fn must_be_right(&self) {
        if !self.world.wrong.is_empty() {
            println!("{}", self.world.story.lines.join("\n"));
            panic!("{}", self.world.wrong.join("\n"));
        }
    }
}

fn difference(journal: &Memory, machine: &Memory) -> String {
    let one = format!("{journal:#?}");
    let two = format!("{machine:#?}");
    let odd = one.lines().zip(two.lines()).find(|(one, two)| one != two);
    odd.map(|(one, two)| format!("{} / {}", one.trim(), two.trim())).unwrap_or_default()
}

impl World {
    /// Everything that was broken works again; whatever people took out of a pool, they put back.
    pub fn heal(&mut self) {
        use crate::world::{FpmStart, Hook};
        // A slow host stays one.
        self.faults = crate::world::Faults {
            slowness: self.faults.slowness,
            look_takes: self.faults.look_takes,
            disk_takes: self.faults.disk_takes.min(20 * crate::world::MS),
            disk_took: self.faults.disk_took,
            ..crate::world::Faults::default()
        };
        for balancer in self.balancers.values_mut() {
            balancer.depool = Hook::Works(50 * MS);
            balancer.repool = Hook::Works(50 * MS);
            balancer.check = Hook::Works(20 * MS);
            balancer.delay = 0;
        }
        let mut dead = Vec::new();
        let now = self.now;
        self.heal_templates();
        for unit in self.units.values_mut() {
            for process in unit.processes.values_mut() {
                process.unkillable_until = 0;
            }
            if unit.oneshot() {
                unit.tidy_up();
            }
            if let Some(fpm) = unit.as_fpm_mut() {
                fpm.config_good = true;
                fpm.pings = true;
                fpm.status_is_mended(now);
                for load in fpm.loads() {
                    // Whoever is overloaded for ever answers no ping.
                    load.long_percent = 0;
                    if load.every > 0 {
                        load.every = 400 * MS;
                    }
                }
                if fpm.start != FpmStart::Well(60 * MS) {
                    fpm.start = FpmStart::Well(60 * MS);
                }
                if !unit.instance {
                    dead.push(unit.name.clone());
                }
            }
        }
        for name in dead {
            if self.units.get(&name).is_some_and(|unit| !unit.active.runs() && unit.job.is_none()) {
                self.reset_failed(&name);
                let _ = self.start_unit(&name, By::Person);
            }
        }
    }
}

/// For whom the time of a contract is written.
#[must_use]
pub fn span(us: Us) -> Duration {
    Duration::from_micros(us)
}

/// The boot clock's moment, for tests that look into the core.
#[must_use]
pub fn mono(us: Us) -> Mono {
    Mono(us)
}

/// Names, for rules that want a set of them.
#[must_use]
pub fn names(of: &[&str]) -> BTreeSet<String> {
    of.iter().map(|name| (*name).to_owned()).collect()
}
