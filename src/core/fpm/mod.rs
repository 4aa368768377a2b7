//! One php-fpm unit on its way through an in-place restart: preflight, drain, cut, restart, proof. The bracket around it is `inplace`. A generation
//! goes parts of the same way: a new one to its proof, an old one from the drain to its end; what is around them is `generations`.
//!
//! What comes after what is in this file; `drain`, `cut`, `restart`, `end` and `proof` are the parts of the way, `looks`
//! is what it is asked, `step` where it is, `view` what status is told, `flights` what history is.

mod cut;
mod drain;
mod end;
mod flights;
mod looks;
mod proof;
mod restart;
mod retire;
mod step;
mod view;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use self::{cut::CHECKED_FOR, drain::FRESH};
use drain::silent;
use flights::Told;
pub use looks::needs_renewal;
use retire::Retiring;
pub use step::{Early, FpmStep, Purpose};

use crate::core::effect::{Effect, EffectId, Outcome, WorkerRef};
use crate::core::evidence::{Proof, Source};
use crate::core::ladder::Ladder;
use crate::core::loans::{Loans, fpm_drop_in};
use crate::core::memory::Want;
use crate::core::policy::FpmRules;
use crate::core::seen::{FpmLayout, ProcessSeen, UnitSeen, WorkerSeen};
use crate::core::step::Turn;
use crate::core::time::{Mono, Wall};

/// For an answer over pm.status_listen (facts M8).
const STATUS_TIMEOUT: Duration = Duration::from_millis(500);
/// A request whose answer is on the way gets this long (facts M8).
const FINISHING: Duration = Duration::from_millis(100);
/// A test that gives no verdict (the bus went away, systemd reloaded) is repeated: it touches nothing.
const TESTS: u32 = 3;
/// After so many, its reads counted with them, it is restarted though nobody knows where it listens; after the restart it is read as often as it is tested.
const READS: u32 = 2 * TESTS;
const TEST_AGAIN: Duration = Duration::from_millis(500);
const RESTART_LOOK: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub struct Fpm {
    pub purpose: Purpose,
    pub target: String,
    pub unit: String,
    pub rules: FpmRules,
    pub want: Want,
    /// To whose history its requests in flight and casualties belong, if not to that of the rollout that runs: for what drains on after its
    /// rollout.
    pub rollout: Option<String>,
    seen: UnitSeen,
    layout: Option<FpmLayout>,
    source: Source,
    pub step: FpmStep,
    since: Mono,
    /// When it was found.
    began: Mono,
    pending: Option<EffectId>,
    /// What is pending is a full status.
    asked_full: bool,
    /// A SIGKILL under way beside the restart that it hurries, or a SIGCONT after one that did not take place.
    aside: Option<EffectId>,
    looking: Option<EffectId>,
    look_began: Mono,
    /// When the look had begun from which [`Fpm::seen`] is.
    seen_at: Mono,
    /// When it was started, by what it says.
    started: looks::Started,
    /// When the last answered look of the restart had begun.
    looked_at: Mono,
    /// The old invocation is no more.
    old_gone: bool,
    restarted_at: Wall,
    /// Held connections without a request in the last full status: then only full looks tell idle from busy.
    held: bool,
    next: Mono,
    proof: Proof,
    /// The same of the pools without a status page.
    mute: Proof,
    mute_idle: bool,
    /// The processes of the last look but one, and the connections of the last.
    before: Vec<ProcessSeen>,
    connections: BTreeMap<String, u32>,
    connecting: Option<EffectId>,
    /// The pools that did not answer in the count.
    unanswered: BTreeSet<String>,
    /// Proof that nothing is in flight.
    idle: bool,
    /// The threshold.
    until: Mono,
    quiet: Duration,
    /// Its status has answered at least once.
    answered: bool,
    /// Its status did not answer when it was last asked.
    silent: bool,
    /// What the last full status of each pool that was answered had shown, and when: whose requests they are, if the cut gets no answer.
    last_full: BTreeMap<String, (Mono, Vec<WorkerSeen>)>,
    last_full_at: Mono,
    frozen: Vec<WorkerRef>,
    frozen_busy: Vec<WorkerSeen>,
    frozen_at: Mono,
    /// Workers whose answer was on its way have had their moment.
    thawed: bool,
    ladder: Option<Ladder>,
    /// Its last ping was not answered.
    missed_ping: bool,
    /// Its status page says nothing: its ping has to do.
    undated: bool,
    warmed: usize,
    /// How often another run was found in its proof.
    reruns: u32,
    /// How often its configuration was tested.
    tests: u32,
    /// Its restart was begun before, and it was not proven since.
    unproven: bool,
    /// Requests may still come in: no pool, or an emergency that does not wait for it.
    exposed: bool,
    /// Its configuration is read again, and when that was last begun.
    reading: Option<EffectId>,
    read_at: Mono,
    /// It was to be ended, and is needed again.
    needed: bool,
    /// Why it is ended early, and until when it would linger.
    early: BTreeMap<Early, Mono>,
    /// It is known that nobody needs it any more.
    cleared: bool,
    /// Its restart has had to wait for the journal, its loan, or our own rate.
    held_up: bool,
    /// Not looked at for ever: the job has this long.
    within: Mono,
    notes: Vec<String>,
    /// It listens on what other generations listen on as well: by itself it never gets quiet, and only its status socket is its own.
    pub shared: bool,
    retiring: Retiring,
    told: Told,
}

impl Fpm {
    #[must_use]
    pub fn new(target: &str, rules: &FpmRules, want: Want, seen: UnitSeen, now: Mono) -> Fpm {
        Fpm {
            purpose: Purpose::Renew,
            target: target.to_owned(),
            unit: rules.unit.clone(),
            rules: rules.clone(),
            want,
            rollout: None,
            seen,
            layout: None,
            source: Source::default(),
            step: FpmStep::Testing,
            since: now,
            began: now,
            pending: None,
            asked_full: false,
            aside: None,
            looking: None,
            look_began: Mono::BOOT,
            seen_at: Mono::BOOT,
            started: looks::Started::default(),
            looked_at: Mono::BOOT,
            old_gone: false,
            restarted_at: Wall(0),
            held: false,
            next: now,
            proof: Proof::default(),
            mute: Proof::default(),
            mute_idle: false,
            before: Vec::new(),
            connections: BTreeMap::new(),
            connecting: None,
            unanswered: BTreeSet::new(),
            idle: false,
            until: Mono::BOOT,
            quiet: Duration::ZERO,
            answered: false,
            silent: false,
            last_full: BTreeMap::new(),
            last_full_at: Mono::BOOT,
            frozen: Vec::new(),
            frozen_busy: Vec::new(),
            frozen_at: Mono::BOOT,
            thawed: false,
            ladder: None,
            missed_ping: false,
            undated: false,
            warmed: 0,
            reruns: 0,
            tests: 0,
            unproven: false,
            exposed: false,
            reading: None,
            read_at: now,
            needed: false,
            early: BTreeMap::new(),
            cleared: false,
            held_up: false,
            within: Mono::BOOT,
            notes: Vec::new(),
            shared: false,
            retiring: Retiring::default(),
            told: Told::default(),
        }
    }

    /// It was restarted before, by us, and never proven: after the preflight only the proof is left, or its start.
    pub fn resume_unproven(&mut self) {
        self.unproven = true;
    }

    pub fn outcome(&mut self, turn: &mut Turn<'_>, id: EffectId, outcome: &Outcome) -> bool {
        if self.aside.take_if(|aside| *aside == id).is_some() {
            if let (Outcome::Fault(_), Some(ladder)) = (outcome, &mut self.ladder) {
                ladder.kill_failed(turn.now.mono);
            }
            return true;
        }
        if self.connecting.take_if(|connecting| *connecting == id).is_some() {
            if let Outcome::Connections(connections) = outcome {
                self.connections.clone_from(connections);
            }
            return true;
        }
        if self.looking.take_if(|looking| *looking == id).is_some() {
            self.looked(turn, outcome);
            return true;
        }
        if self.reading.take_if(|reading| *reading == id).is_some() {
            self.read(turn.now.mono, outcome);
            return true;
        }
        if self.pending.take_if(|pending| *pending == id).is_none() {
            return false;
        }
        let now = turn.now.mono;
        match (self.step.clone(), outcome) {
            (FpmStep::Testing, Outcome::Tested { ok: true, .. }) => self.enter(now, FpmStep::Inspecting),
            (FpmStep::Testing, Outcome::Tested { ok: false, output }) => {
                self.refuse(
                    turn,
                    format!("its configuration is broken, php-fpm -t says: {output}. The old code keeps serving; mend the configuration"),
                );
            }
            (FpmStep::Testing, _) if self.tests < TESTS => self.next = now.after(TEST_AGAIN),
            (FpmStep::Testing, other) => {
                self.refuse(turn, format!("php-fpm -t could not be run ({}), so it is not restarted", other.said()))
            }
            (FpmStep::Inspecting, other) => self.inspected(now, other),
            (FpmStep::Reading, other) => self.inspected_late(now, other),
            (FpmStep::Draining { .. }, Outcome::Pools(answers)) => {
                self.polled(now, answers);
                self.begin_to_retire(turn, answers);
            }
            (FpmStep::Draining { .. }, other) => self.polled(now, &silent(&self.source, other)),
            (FpmStep::Retiring, outcome) => self.retire_on(turn, outcome),
            (FpmStep::Counting, Outcome::Pools(answers)) => self.counted(turn, answers),
            (FpmStep::Counting, other) => self.counted(turn, &silent(&self.source, other)),
            (FpmStep::Freezing, Outcome::Frozen(workers)) => {
                self.frozen.clone_from(workers);
                self.enter(now, FpmStep::Recounting);
            }
            (FpmStep::Freezing, _) => {
                self.cut(turn, self.frozen_busy.clone(), self.frozen_at, false);
                self.enter(now, FpmStep::WaitingForLoan);
            }
            (FpmStep::Recounting, Outcome::Pools(answers)) => self.recounted(turn, answers),
            (FpmStep::Recounting, other) => self.recounted(turn, &silent(&self.source, other)),
            (FpmStep::Thawing, _) => self.enter(now, FpmStep::Finishing),
            (FpmStep::Restarting, other) => self.restarted(turn, other),
            (FpmStep::Verifying { until }, other) => self.pinged(turn, until, other),
            (FpmStep::Dating { until }, other) => self.dated(turn, until, other),
            (FpmStep::Warming, other) => self.warmed_one(now, other),
            (FpmStep::Proving { until }, other) => self.proved(turn, until, other),
            _ => {}
        }
        true
    }

    pub fn advance(&mut self, turn: &mut Turn<'_>, loans: &mut Loans) {
        if self.pending.is_none() || matches!(self.step, FpmStep::Restarting | FpmStep::Draining { .. }) {
            self.go_on(turn, loans);
        }
        // Also while an answer is out that nobody waits for any more.
        if self.at_rest() {
            loans.release(&self.unit);
        }
    }

    fn go_on(&mut self, turn: &mut Turn<'_>, loans: &mut Loans) {
        let now = turn.now.mono;
        let unit = self.unit.clone();
        match self.step.clone() {
            FpmStep::Testing if now >= self.next => {
                self.tests += 1;
                self.pending = Some(turn.ask(Effect::TestConfig { unit }));
            }
            FpmStep::Inspecting if now >= self.next => self.pending = Some(turn.ask(Effect::Inspect { unit })),
            FpmStep::Draining { until } => {
                if self.purpose == Purpose::Renew {
                    loans.want(&unit, &fpm_drop_in(self.rules.term_timeout));
                }
                if self.purpose == Purpose::End {
                    self.read_again(turn);
                }
                self.drain_on(turn, until);
            }
            FpmStep::Seeing if !self.may_renew(turn, loans) => self.held_up = true,
            FpmStep::Seeing if self.looking.is_none() && now >= self.next => {
                self.next = now.after(RESTART_LOOK);
                self.look(turn);
            }
            // What the kernel shows is part of the count, and comes at once.
            FpmStep::Counting | FpmStep::WaitingForLoan if self.connecting.is_some() => {}
            // What is still to go on would do so in the count.
            FpmStep::Counting if self.aside.is_some() => {}
            FpmStep::Counting if self.just_counted(now) => {
                self.cut(turn, Vec::new(), now, true);
                self.enter(now, FpmStep::WaitingForLoan);
            }
            FpmStep::Counting | FpmStep::Recounting => self.ask_status(turn, true, STATUS_TIMEOUT),
            // Finishing may also be a long shutdown function: whoever is still at it then is cut, and counted again for that.
            FpmStep::Finishing if now >= self.since.after(FINISHING) => self.enter(now, FpmStep::Counting),
            FpmStep::WaitingForLoan if self.needed => self.spare(turn),
            FpmStep::WaitingForLoan => {
                if self.may_renew(turn, loans) {
                    if !self.source.asks() && self.seen.active.runs() {
                        self.cut(turn, Vec::new(), now, false);
                    }
                    match self.purpose {
                        Purpose::End => self.end(turn),
                        Purpose::Renew | Purpose::Start => self.restart(turn),
                    }
                } else if self.is_counted() {
                    // Nobody knows for how long: what was stopped for the count goes on, and is counted again.
                    self.uncount(turn);
                    match self.purpose {
                        Purpose::End => self.drain_again(now),
                        Purpose::Renew | Purpose::Start => self.enter(now, FpmStep::Seeing),
                    }
                }
            }
            FpmStep::Restarting => self.escalate(turn),
            FpmStep::Reading if now >= self.next => {
                self.tests += 1;
                self.pending = Some(turn.ask(Effect::Inspect { unit }));
            }
            FpmStep::Verifying { until } if now >= self.next => self.verify(turn, until),
            FpmStep::Dating { until } if now >= self.next => {
                if self.source.asks() && self.restarted_at != Wall(0) {
                    let timeout = Duration::from_secs(2).min(until.since(now)).max(Duration::from_millis(100));
                    self.ask_status(turn, false, timeout);
                } else {
                    self.serves(turn.now);
                }
            }
            FpmStep::Warming => self.warm(turn),
            FpmStep::Proving { until } if now >= self.next => self.prove(turn, until),
            _ => {}
        }
    }
}
