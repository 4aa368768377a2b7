//! One php-fpm unit on its way through an in-place restart: preflight, drain, cut, restart, proof. The bracket around it, with the
//! load balancer, is `inplace`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::cut::settle_cut;
use super::effect::{Effect, EffectId, Fault, FpmRequest, Looked, Outcome, WorkerRef};
use super::entry::Entry;
use super::evidence::{Flight, Proof, Source, busy_workers, finishing, flight};
use super::ladder::{Ladder, Rung};
use super::loans::{Loan, Loans, fpm_drop_in};
use super::memory::Want;
use super::policy::FpmRules;
use super::seen::{Active, FpmLayout, PoolAnswers, UnitSeen, WorkerSeen, WorkerState};
use super::stale::stale_fpm;
use super::status::{Casualty, CasualtyKind, TargetState, UnitEnd, UnitView};
use super::step::{Deadline, Turn};
use super::time::{Mono, Now, Span, Wall};

/// Between two looks while draining: 0.3 % of a core (docs/performance), and the end of the last request is seen within two of them.
const POLL: Duration = Duration::from_millis(50);
const POLL_SLOWEST: Duration = Duration::from_secs(1);
/// For an answer over pm.status_listen, and for the second look of the cut (facts M8).
const STATUS_TIMEOUT: Duration = Duration::from_millis(500);
/// A request whose answer is on the way gets this long (facts M8).
const FINISHING: Duration = Duration::from_millis(100);
/// A test that gives no verdict (the bus went away, systemd reloaded) is repeated: it touches nothing.
const TESTS: u32 = 3;
const TEST_AGAIN: Duration = Duration::from_millis(500);
/// php-fpm is up in 33-200 ms (facts 6a); 200 static workers take up to 1.2 s.
const START_TIMEOUT: Duration = Duration::from_secs(95);
const VERIFY_TIMEOUT: Duration = Duration::from_secs(30);
/// Of that, for a status page that has never answered.
const NEVER_ANSWERED: Duration = Duration::from_secs(2);
const VERIFY_EVERY: Duration = Duration::from_millis(100);
const WARM_TIMEOUT: Duration = Duration::from_secs(60);
const PROOF_TIMEOUT: Duration = Duration::from_secs(30);
const PROOF_EVERY: Duration = Duration::from_millis(500);
const RESTART_LOOK: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub struct Fpm {
    pub target: String,
    pub unit: String,
    pub rules: FpmRules,
    pub want: Want,
    seen: UnitSeen,
    layout: Option<FpmLayout>,
    source: Source,
    pub step: FpmStep,
    since: Mono,
    pending: Option<EffectId>,
    /// A SIGKILL under way beside the restart that it hurries, or a SIGCONT after one that did not take place.
    aside: Option<EffectId>,
    looking: Option<EffectId>,
    look_began: Mono,
    /// When the last answered look of the restart had begun.
    looked_at: Mono,
    /// The old invocation is no more.
    old_gone: bool,
    restarted_at: Wall,
    /// Held connections without a request in the last full status: then only full looks tell idle from busy.
    held: bool,
    next: Mono,
    proof: Proof,
    /// Proof that nothing is in flight.
    idle: bool,
    /// The threshold.
    until: Mono,
    quiet: Duration,
    /// Its status has answered at least once.
    answered: bool,
    /// Asked in the last look of the drain: whose requests they are, if the cut gets no answer.
    last_full: Option<Vec<WorkerSeen>>,
    last_full_at: Mono,
    frozen: Vec<WorkerRef>,
    frozen_busy: Vec<WorkerSeen>,
    /// Workers whose answer was on its way have had their moment.
    thawed: bool,
    ladder: Option<Ladder>,
    warmed: usize,
    /// How often its configuration was tested.
    tests: u32,
    /// Its restart was begun before, and it was not proven since.
    unproven: bool,
    /// Requests may still come in: no pool, or an emergency that does not wait for it.
    exposed: bool,
    /// Not looked at for ever: the job has this long.
    within: Mono,
    notes: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FpmStep {
    Testing,
    Inspecting,
    /// Ready for the bracket to take the host out and drain.
    Prepared,
    /// It goes on until the bracket does: what is idle now may be busy by then.
    Draining {
        until: Mono,
    },
    /// Its processes are looked up, for the cut.
    Seeing,
    /// First full status of the cut.
    Counting,
    Freezing,
    Recounting,
    Thawing,
    Finishing,
    WaitingForLoan,
    Restarting,
    Verifying {
        until: Mono,
    },
    /// Its status page is asked for its start time.
    Dating {
        until: Mono,
    },
    Warming,
    Proving {
        until: Mono,
    },
    Done,
    /// Nothing was signalled: the old code keeps serving.
    Refused(String),
    /// It was restarted and does not serve as it should.
    Broken(String),
}

impl Fpm {
    #[must_use]
    pub fn new(target: &str, rules: &FpmRules, want: Want, seen: UnitSeen, now: Mono) -> Fpm {
        Fpm {
            target: target.to_owned(),
            unit: rules.unit.clone(),
            rules: rules.clone(),
            want,
            seen,
            layout: None,
            source: Source::Cgroup,
            step: FpmStep::Testing,
            since: now,
            pending: None,
            aside: None,
            looking: None,
            look_began: Mono::BOOT,
            looked_at: Mono::BOOT,
            old_gone: false,
            restarted_at: Wall(0),
            held: false,
            next: now,
            proof: Proof::default(),
            idle: false,
            until: Mono::BOOT,
            quiet: Duration::ZERO,
            answered: false,
            last_full: None,
            last_full_at: Mono::BOOT,
            frozen: Vec::new(),
            frozen_busy: Vec::new(),
            thawed: false,
            ladder: None,
            warmed: 0,
            tests: 0,
            unproven: false,
            exposed: false,
            within: Mono::BOOT,
            notes: Vec::new(),
        }
    }

    fn enter(&mut self, now: Mono, step: FpmStep) {
        self.step = step;
        self.since = now;
        self.next = now;
    }

    /// Begins to drain: `until` is the threshold, `quiet` how long nothing may come in. What has the new code already, or nothing to
    /// drain, skips it.
    pub fn drain(&mut self, now: Mono, until: Mono, quiet: Duration, exposed: bool) {
        self.exposed = exposed;
        self.quiet = quiet;
        self.until = if self.unproven || !self.seen.active.runs() { now } else { until };
        self.drain_again(now);
    }

    fn drain_again(&mut self, now: Mono) {
        self.idle = false;
        self.proof = Proof::default();
        self.enter(now, FpmStep::Draining { until: self.until });
    }

    /// Whether nothing is in flight, or what is has had its time.
    #[must_use]
    pub fn drained(&self, now: Mono) -> bool {
        matches!(self.step, FpmStep::Draining { until } if self.idle || now >= until)
    }

    /// Goes on to the restart: counts what is in flight, also after a drain that ended idle, since something may have come in since.
    pub fn renew(&mut self, now: Mono) {
        if self.unproven && self.seen.active.runs() {
            return self.enter(now, FpmStep::Verifying { until: now.after(VERIFY_TIMEOUT) });
        }
        let asks = matches!(self.source, Source::Status { .. });
        if !self.idle && !asks {
            self.notes
                .push("it has no status page, so nobody knows which requests were cut: set pm.status_path and pm.status_listen".to_owned());
        }
        self.enter(now, if asks && self.seen.active.runs() { FpmStep::Seeing } else { FpmStep::WaitingForLoan });
    }

    /// Whether [`Fpm::renew`] would not have to wait: what is lent is there, our own rate allows a restart, the journal can be written.
    /// All that is settled before workers are stopped for the count.
    #[must_use]
    pub fn may_renew(&mut self, turn: &Turn<'_>, loans: &mut Loans) -> bool {
        loans.want(&self.unit, &fpm_drop_in(self.rules.term_timeout));
        // Without the loan a stubborn child costs the whole grace, no more: not worth an old opcache.
        loans.of(&self.unit) != Loan::Coming && self.rate_allows(turn) && turn.journal_good
    }

    /// It was restarted before, by us, and never proven: after the preflight only the proof is left, or its start.
    pub fn resume_unproven(&mut self) {
        self.unproven = true;
    }

    /// Whether workers are stopped for the count, or about to be, and go on by what it does itself.
    #[must_use]
    pub fn counting(&self) -> bool {
        matches!(
            self.step,
            FpmStep::Counting
                | FpmStep::Freezing
                | FpmStep::Recounting
                | FpmStep::Thawing
                | FpmStep::Finishing
                | FpmStep::WaitingForLoan
                | FpmStep::Restarting
        )
    }

    #[must_use]
    pub fn at_rest(&self) -> bool {
        matches!(self.step, FpmStep::Done | FpmStep::Refused(_) | FpmStep::Broken(_))
    }

    /// Whether it has been touched, so that there is no way back.
    #[must_use]
    pub fn committed(&self) -> bool {
        !matches!(self.step, FpmStep::Testing | FpmStep::Inspecting | FpmStep::Prepared | FpmStep::Draining { .. } | FpmStep::Refused(_))
    }

    pub fn outcome(&mut self, turn: &mut Turn<'_>, id: EffectId, outcome: &Outcome) -> bool {
        if self.aside.take_if(|aside| *aside == id).is_some() {
            if let (Outcome::Fault(_), Some(ladder)) = (outcome, &mut self.ladder) {
                ladder.kill_failed(turn.now.mono);
            }
            return true;
        }
        if self.looking.take_if(|looking| *looking == id).is_some() {
            self.looked(turn, outcome);
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
            (FpmStep::Inspecting, Outcome::Layout(layout)) => {
                self.source = Source::choose(&self.rules, Some(layout));
                self.layout = Some(layout.clone());
                self.enter(now, FpmStep::Prepared);
            }
            (FpmStep::Inspecting, other) => {
                self.notes.push(format!("its configuration could not be read ({})", other.said()));
                self.source = Source::choose(&self.rules, None);
                self.enter(now, FpmStep::Prepared);
            }
            (FpmStep::Draining { .. }, Outcome::Pools(answers)) => self.polled(now, answers),
            (FpmStep::Draining { .. }, other) => self.polled(now, &silent(&self.source, other)),
            (FpmStep::Counting, Outcome::Pools(answers)) => self.counted(turn, answers),
            (FpmStep::Counting, other) => self.counted(turn, &silent(&self.source, other)),
            (FpmStep::Freezing, Outcome::Frozen(workers)) => {
                self.frozen.clone_from(workers);
                self.enter(now, FpmStep::Recounting);
            }
            (FpmStep::Freezing, _) => {
                self.cut(turn, self.frozen_busy.clone(), false);
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

    fn refuse(&mut self, turn: &mut Turn<'_>, why: String) {
        turn.unit_ended(&self.target, &self.unit, UnitEnd::Failed, why.clone());
        self.enter(turn.now.mono, FpmStep::Refused(why));
    }

    fn break_down(&mut self, turn: &mut Turn<'_>, why: String) {
        turn.unit_ended(&self.target, &self.unit, UnitEnd::Failed, why.clone());
        self.enter(turn.now.mono, FpmStep::Broken(why));
    }

    pub fn advance(&mut self, turn: &mut Turn<'_>, loans: &mut Loans) {
        let now = turn.now.mono;
        if self.pending.is_some() && !matches!(self.step, FpmStep::Restarting) {
            return;
        }
        let unit = self.unit.clone();
        match self.step.clone() {
            FpmStep::Testing if now >= self.next => {
                self.tests += 1;
                self.pending = Some(turn.ask(Effect::TestConfig { unit }));
            }
            FpmStep::Inspecting => self.pending = Some(turn.ask(Effect::Inspect { unit })),
            FpmStep::Draining { until } => {
                loans.want(&unit, &fpm_drop_in(self.rules.term_timeout));
                self.drain_on(turn, until);
            }
            FpmStep::Seeing if self.looking.is_none() && now >= self.next && self.may_renew(turn, loans) => {
                self.next = now.after(RESTART_LOOK);
                self.look(turn);
            }
            FpmStep::Counting | FpmStep::Recounting => self.ask_status(turn, true, STATUS_TIMEOUT),
            // Finishing may also be a long shutdown function: whoever is still at it then is cut, and counted again for that.
            FpmStep::Finishing if now >= self.since.after(FINISHING) => self.enter(now, FpmStep::Counting),
            FpmStep::WaitingForLoan => {
                if self.may_renew(turn, loans) {
                    self.restart(turn);
                } else if !self.frozen.is_empty() {
                    // Nobody knows for how long: what was stopped for the count goes on, and is counted again.
                    let workers = std::mem::take(&mut self.frozen);
                    self.aside = Some(turn.ask(Effect::Thaw { workers }));
                    settle_cut(turn, &unit, false, false);
                    self.enter(now, FpmStep::Seeing);
                }
            }
            FpmStep::Restarting => self.escalate(turn),
            FpmStep::Verifying { until } if now >= self.next => self.verify(turn, until),
            FpmStep::Dating { until } if now >= self.next => {
                if matches!(self.source, Source::Status { .. }) && self.restarted_at != Wall(0) {
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
        if self.at_rest() {
            loans.release(&self.unit);
        }
    }

    fn drain_on(&mut self, turn: &mut Turn<'_>, until: Mono) {
        let now = turn.now.mono;
        let quiet = match &self.source {
            Source::StatusText { interval } => self.quiet.max(*interval + Duration::from_secs(1)),
            _ => self.quiet,
        };
        self.idle = self.proof.holds(now, quiet);
        if now < self.next || now >= until {
            return;
        }
        // An hour's drain need not be watched twenty times a second.
        let pace = (now.since(self.since) / 600).clamp(if self.held { POLL * 2 } else { POLL }, POLL_SLOWEST);
        self.next = now.after(pace);
        match &self.source {
            Source::Status { .. } => {
                let full = self.held
                    || self.proof.in_flight.is_none_or(|requests| requests > 0)
                        && now >= self.last_full_at.after(Duration::from_millis(250));
                if full {
                    self.last_full_at = now;
                }
                let left = until.since(now);
                self.ask_status(turn, full, Duration::from_secs(1).min(left).max(Duration::from_millis(50)));
            }
            Source::StatusText { .. } | Source::Cgroup => {
                if self.looking.is_none() {
                    self.next = now.after(Duration::from_millis(500));
                    self.look(turn);
                }
            }
        }
    }

    fn ask_status(&mut self, turn: &mut Turn<'_>, full: bool, timeout: Duration) {
        if let Source::Status { asks, .. } = &self.source {
            self.pending = Some(turn.ask(Effect::AskPools { asks: asks.clone(), full, timeout }));
        }
    }

    fn look(&mut self, turn: &mut Turn<'_>) {
        let cgroups = BTreeMap::from([(self.unit.clone(), self.seen.cgroup.clone())]);
        self.look_began = turn.now.mono;
        self.looking = Some(turn.ask(Effect::Look { units: vec![self.unit.clone()], looked: Looked::Exactly, cgroups }));
    }

    fn looked(&mut self, turn: &mut Turn<'_>, outcome: &Outcome) {
        let now = turn.now.mono;
        let Outcome::Units(units) = outcome else { return };
        let Some(seen) = units.iter().find(|seen| seen.unit == self.unit) else { return };
        if matches!(self.step, FpmStep::Draining { .. }) {
            let by_text = matches!(self.source, Source::StatusText { .. });
            self.proof.unit(now, seen, by_text);
            return;
        }
        let before = self.seen.invocation.clone();
        match self.step {
            FpmStep::Seeing if seen.invocation != before && seen.active.runs() => {
                // Somebody else has restarted it meanwhile (trap T19): only the proof is left.
                self.seen = seen.clone();
                self.notes.push("somebody else has restarted it".to_owned());
                turn.record(Entry::Unproven { target: self.target.clone(), unit: self.unit.clone() });
                self.enter(now, FpmStep::Verifying { until: now.after(VERIFY_TIMEOUT) });
            }
            FpmStep::Seeing => {
                self.seen = seen.clone();
                self.enter(now, FpmStep::Counting);
            }
            FpmStep::Restarting if self.pending.is_none() => {
                self.looked_at = self.look_began;
                self.settle(turn, seen, &before);
            }
            FpmStep::Restarting => {
                self.looked_at = self.look_began;
                if seen.invocation == before && seen.active.runs() {
                    self.seen = seen.clone();
                } else {
                    self.old_gone = true;
                }
            }
            _ => {}
        }
    }

    fn polled(&mut self, now: Mono, answers: &PoolAnswers) {
        let Source::Status { asks, own } = &self.source else { return };
        let mut flight = flight(asks, own, answers);
        let probes = u64::try_from(own.iter().filter(|own| **own).count()).unwrap_or(0);
        if let Some(workers) = busy_workers(asks, own, answers) {
            let all = answers.values().flatten().flat_map(|status| status.workers.iter().flatten());
            self.held = all.into_iter().any(|worker| worker.state == WorkerState::ReadingHeaders);
            if workers.is_empty()
                && let Flight::Busy { .. } = flight
            {
                // Only held connections without a request (facts 3j).
                let accepted = answers.values().flatten().map(|status| status.accepted).sum();
                flight = Flight::Idle { accepted };
            }
            self.last_full = Some(workers);
        }
        self.answered |= !matches!(flight, Flight::Unknown(_));
        self.proof.flight(now, &flight, probes);
    }

    fn counted(&mut self, turn: &mut Turn<'_>, answers: &PoolAnswers) {
        let Source::Status { asks, own } = &self.source else { return };
        let Some(busy) = busy_workers(asks, own, answers) else {
            if turn.now.mono < self.until {
                return self.drain_again(turn.now.mono);
            }
            let guess = self.last_full.clone().unwrap_or_default();
            self.notes.push("its status did not answer at the cut: the casualties are those of the last answer".to_owned());
            self.cut(turn, guess, false);
            return self.enter(turn.now.mono, FpmStep::WaitingForLoan);
        };
        if !busy.is_empty() && turn.now.mono < self.until {
            // It has come in since the drain ended idle, and has its time.
            return self.drain_again(turn.now.mono);
        }
        // With a status socket of its own every worker can be stopped, so nothing new begins between the count and the cut.
        let all = self.source.dedicated();
        let pids: Vec<u32> = busy.iter().map(|worker| worker.pid).collect();
        let workers: Vec<WorkerRef> = self
            .seen
            .processes
            .iter()
            .filter(|process| process.pid != self.seen.main_pid && process.ppid == self.seen.main_pid)
            .filter(|process| pids.contains(&process.pid) || (all && main_workers(asks, answers).contains(&process.pid)))
            .map(|process| WorkerRef { pid: process.pid, start: process.start, cgroup: self.seen.cgroup.clone() })
            .collect();
        // With nobody busy now, somebody may be in a moment: requests keep coming, or the drain would have ended by itself.
        if busy.is_empty() && (workers.is_empty() || !all || (self.idle && !self.exposed)) {
            self.cut(turn, busy, true);
            return self.enter(turn.now.mono, FpmStep::WaitingForLoan);
        }
        self.frozen_busy = busy;
        self.pending = Some(turn.ask(Effect::Freeze { workers }));
        self.enter(turn.now.mono, FpmStep::Freezing);
    }

    fn recounted(&mut self, turn: &mut Turn<'_>, answers: &PoolAnswers) {
        let Source::Status { asks, own } = &self.source else { return };
        let Some(busy) = busy_workers(asks, own, answers) else {
            self.cut(turn, self.frozen_busy.clone(), false);
            return self.enter(turn.now.mono, FpmStep::WaitingForLoan);
        };
        if !busy.is_empty() && turn.now.mono < self.until {
            let workers = std::mem::take(&mut self.frozen);
            self.aside = Some(turn.ask(Effect::Thaw { workers }));
            return self.drain_again(turn.now.mono);
        }
        let patient = !self.thawed;
        let (ending, cut): (Vec<WorkerSeen>, Vec<WorkerSeen>) = busy.into_iter().partition(|worker| patient && finishing(worker));
        self.cut(turn, cut, true);
        let thaw: Vec<WorkerRef> =
            self.frozen.iter().filter(|frozen| ending.iter().any(|worker| worker.pid == frozen.pid)).cloned().collect();
        if thaw.is_empty() {
            return self.enter(turn.now.mono, FpmStep::WaitingForLoan);
        }
        self.thawed = true;
        self.pending = Some(turn.ask(Effect::Thaw { workers: thaw }));
        self.enter(turn.now.mono, FpmStep::Thawing);
    }

    /// Writes down who is cut if the restart takes place. `certain`: counted while they were stopped.
    fn cut(&mut self, turn: &mut Turn<'_>, workers: Vec<WorkerSeen>, certain: bool) {
        let casualties: Vec<Casualty> = workers
            .into_iter()
            .map(|worker| Casualty {
                target: self.target.clone(),
                unit: self.unit.clone(),
                what: CasualtyKind::Request,
                pid: worker.pid,
                name: if worker.script.is_empty() || worker.script == "-" {
                    without_query(&worker.uri)
                } else {
                    without_query(&worker.script)
                },
                ran: Span(Duration::from_millis(worker.duration_us / 1000)).to_string(),
                ended_by: "SIGTERM".to_owned(),
                certain: certain && self.frozen.iter().any(|frozen| frozen.pid == worker.pid),
                at: turn.now.wall,
                request: Some(format!("{} {}", worker.method, worker.uri)),
            })
            .collect();
        if casualties.is_empty() {
            // What an earlier count had found has ended by itself.
            settle_cut(turn, &self.unit, false, false);
        } else {
            let (unit, invocation) = (self.unit.clone(), self.seen.invocation.clone());
            turn.record(Entry::Cutting { unit, invocation, asked: turn.now.mono, grace: None, casualties });
        }
    }

    /// Our own limit is well below systemd's, past which the unit would be left stopped (facts 7j).
    fn rate_allows(&mut self, turn: &Turn<'_>) -> bool {
        let interval = Duration::from_millis(self.seen.start_limit_interval_ms);
        let burst = usize::try_from(self.seen.start_limit_burst).unwrap_or(usize::MAX);
        if burst == 0 || interval.is_zero() {
            return true;
        }
        let allowed = burst.saturating_sub(2).max(1);
        let recent: Vec<_> =
            turn.memory.restarts.get(&self.unit).into_iter().flatten().filter(|at| turn.now.wall.since(**at) < interval).collect();
        if recent.len() < allowed {
            return true;
        }
        let oldest = recent.get(recent.len() - allowed).map(|at| turn.now.wall.since(**at)).unwrap_or_default();
        self.next = turn.now.mono.after(interval.saturating_sub(oldest));
        false
    }

    fn restart(&mut self, turn: &mut Turn<'_>) {
        turn.record(Entry::Unproven { target: self.target.clone(), unit: self.unit.clone() });
        let cut = self.frozen.clone();
        let within = self.rules.term_timeout + START_TIMEOUT;
        self.enter(turn.now.mono, FpmStep::Restarting);
        self.restarted_at = turn.now.wall;
        self.old_gone = false;
        self.looked_at = Mono::BOOT;
        self.within = turn.now.mono.after(within);
        self.pending = Some(turn.ask(Effect::Restart { unit: self.unit.clone(), cut, within }));
        self.ladder = Some(Ladder::new(turn.now.mono, self.rules.term_timeout));
    }

    /// The restart takes its time: has the old master gone?
    fn escalate(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now.mono;
        if self.looking.is_none() && now >= self.since.after(RESTART_LOOK) && now >= self.next {
            self.next = now.after(RESTART_LOOK);
            self.look(turn);
        }
        let Some(ladder) = &mut self.ladder else { return };
        let grace_over = ladder.sent().after(self.rules.term_timeout);
        // Only on the word of a look that began after the grace: the new master is not to be killed for the old one.
        let old_lives = !self.old_gone && self.looked_at >= grace_over;
        match ladder.rung(now) {
            Rung::Kill if old_lives => {
                ladder.killed(now);
                self.aside = Some(turn.ask(Effect::Kill { unit: self.unit.clone(), cgroup: self.seen.cgroup.clone() }));
            }
            Rung::Unkillable
                if old_lives && !self.seen.processes.is_empty() && now >= ladder.sent().after(self.rules.term_timeout + START_TIMEOUT) =>
            {
                let pids: Vec<String> = self.seen.processes.iter().map(|process| process.pid.to_string()).collect();
                self.pending = None;
                self.break_down(turn, format!("process {} does not end, not even by SIGKILL: it is stuck in the kernel", pids.join(", ")));
            }
            _ => {}
        }
    }

    /// What the job says of itself is little (facts F1.7): a look tells.
    fn restarted(&mut self, turn: &mut Turn<'_>, outcome: &Outcome) {
        if let Outcome::Fault(fault @ (Fault::NoSuchUnit(_) | Fault::Refused(_) | Fault::Journal(_))) = outcome {
            return self.not_restarted(turn, &format!("systemd would not restart it: {fault}"));
        }
        self.next = turn.now.mono;
        self.since = Mono::BOOT;
        self.look(turn);
    }

    /// Nothing has happened to it: what was stopped for the count goes on.
    fn not_restarted(&mut self, turn: &mut Turn<'_>, why: &str) {
        let frozen = std::mem::take(&mut self.frozen);
        if !frozen.is_empty() {
            self.aside = Some(turn.ask(Effect::Thaw { workers: frozen }));
        }
        settle_cut(turn, &self.unit, false, false);
        if self.unproven {
            return self.break_down(turn, why.to_owned());
        }
        turn.record(Entry::Proven { unit: self.unit.clone() });
        self.refuse(turn, why.to_owned());
    }

    /// The job has ended, as far as is known: a new invocation, or a unit that does not come up (facts 1h, 7j).
    fn settle(&mut self, turn: &mut Turn<'_>, seen: &UnitSeen, before: &str) {
        let now = turn.now.mono;
        if (seen.job || seen.active == Active::Deactivating) && now < self.within {
            // The bus went away meanwhile, not the job: look again.
            self.old_gone = seen.invocation != before;
            return;
        }
        if seen.invocation == before && seen.active.runs() && seen.active != Active::Deactivating {
            return self.not_restarted(turn, "systemd took the restart and did not do it: its InvocationID is the old one");
        }
        self.frozen.clear();
        settle_cut(turn, &self.unit, true, self.ladder.as_ref().is_some_and(Ladder::was_killed));
        if !seen.active.runs() || seen.main_pid == 0 || seen.invocation == before {
            return self.break_down(
                turn,
                format!(
                    "it does not come up with the new code: {:?}, Result={}; see journalctl -u {}",
                    seen.active, seen.result, self.unit
                ),
            );
        }
        self.seen = seen.clone();
        let fresh = Entry::Fresh {
            target: self.target.clone(),
            unit: self.unit.clone(),
            invocation: seen.invocation.clone(),
            landed: self.want.landed,
        };
        turn.record(fresh);
        self.enter(now, FpmStep::Verifying { until: now.after(VERIFY_TIMEOUT) });
    }

    /// Ping over the main socket where there is a ping path, else the status page there, else READY=1 has to do.
    fn verify(&mut self, turn: &mut Turn<'_>, until: Mono) {
        let pool = self.layout.as_ref().and_then(|layout| layout.pools.first());
        let path = pool.and_then(|pool| pool.ping_path.clone().or_else(|| pool.status_path.clone()));
        match (pool, path) {
            (Some(pool), Some(path)) => {
                let timeout = Duration::from_secs(2).min(until.since(turn.now.mono)).max(Duration::from_millis(100));
                let request = FpmRequest::Ping { path };
                self.pending = Some(turn.ask(Effect::Request { socket: pool.listen.clone(), request, timeout }));
            }
            _ => self.enter(turn.now.mono, FpmStep::Dating { until }),
        }
    }

    /// `start time` has a resolution of one second (facts 1f).
    fn dated(&mut self, turn: &mut Turn<'_>, until: Mono, outcome: &Outcome) {
        let oldest = match outcome {
            Outcome::Pools(answers) => answers.values().map(|answer| answer.as_ref().ok().map(|status| status.start_time)).min().flatten(),
            _ => None,
        };
        match oldest {
            Some(start) if start >= self.restarted_at.seconds() - 1 => self.serves(turn.now),
            Some(_) if turn.now.mono >= until => self.break_down(turn, "it runs, but its status page shows the old start time".to_owned()),
            None if turn.now.mono >= until => self.break_down(turn, "it runs, but its status page does not answer".to_owned()),
            // It had said nothing before either, so its silence is no sign that something is wrong with what was started.
            None if !self.answered && turn.now.mono >= self.since.after(NEVER_ANSWERED) => {
                self.notes.push("its status page does not answer: look at `status`, `status_path` and pm.status_path".to_owned());
                self.serves(turn.now);
            }
            _ => self.next = turn.now.mono.after(VERIFY_EVERY),
        }
    }

    fn pinged(&mut self, turn: &mut Turn<'_>, until: Mono, outcome: &Outcome) {
        match outcome {
            Outcome::Answered { status: 200, .. } => self.enter(turn.now.mono, FpmStep::Dating { until }),
            other if turn.now.mono >= until => {
                self.break_down(turn, format!("it runs, but does not answer its ping: {}", other.said()));
            }
            _ => self.next = turn.now.mono.after(VERIFY_EVERY),
        }
    }

    fn serves(&mut self, now: Now) {
        self.warmed = 0;
        self.enter(now.mono, FpmStep::Warming);
        if !self.rules.warm.is_empty() {
            // A file younger than this is not cached, so warming earlier would be for nothing (facts 5e).
            let protection = self.layout.as_ref().map_or(2000, |layout| layout.file_update_protection_ms);
            let from = self.want.landed.after(Duration::from_millis(protection + 100));
            self.next = from.max(now.mono);
        }
    }

    fn warm(&mut self, turn: &mut Turn<'_>) {
        let now = turn.now.mono;
        let Some(socket) = self.layout.as_ref().and_then(|layout| layout.pools.first()).map(|pool| pool.listen.clone()) else {
            return self.warm_done(now);
        };
        match self.rules.warm.get(self.warmed).cloned() {
            None => self.warm_done(now),
            Some(_) if now < self.next => {}
            Some(script) => {
                let request = FpmRequest::Script { script };
                self.pending = Some(turn.ask(Effect::Request { socket, request, timeout: WARM_TIMEOUT }));
            }
        }
    }

    fn warmed_one(&mut self, now: Mono, outcome: &Outcome) {
        let script = self.rules.warm.get(self.warmed).cloned().unwrap_or_default();
        match outcome {
            Outcome::Answered { status, .. } if *status < 400 => {}
            Outcome::Answered { status, .. } => self.notes.push(format!("warm-up {script} answered {status}")),
            other => self.notes.push(format!("warm-up {script} failed: {}", other.said())),
        }
        self.warmed += 1;
        self.next = now;
    }

    fn warm_done(&mut self, now: Mono) {
        self.enter(now, FpmStep::Proving { until: now.after(PROOF_TIMEOUT) });
    }

    fn prove(&mut self, turn: &mut Turn<'_>, until: Mono) {
        let socket = self.layout.as_ref().and_then(|layout| layout.pools.first()).map(|pool| pool.listen.clone());
        match (self.rules.proof.clone(), socket) {
            (Some(proof), Some(socket)) => {
                let timeout = Duration::from_secs(10).min(until.since(turn.now.mono)).max(Duration::from_millis(100));
                let request = FpmRequest::Script { script: proof.script };
                self.pending = Some(turn.ask(Effect::Request { socket, request, timeout }));
            }
            (Some(_), None) => self.break_down(turn, "its socket is not known, so proof could not be asked for".to_owned()),
            (None, _) => self.done(turn),
        }
    }

    fn proved(&mut self, turn: &mut Turn<'_>, until: Mono, outcome: &Outcome) {
        match outcome {
            Outcome::Answered { status: 200, body } if body.contains(&self.want.id) => self.done(turn),
            Outcome::Answered { status, .. } if turn.now.mono >= until => {
                let script = self.rules.proof.as_ref().map(|proof| proof.script.clone()).unwrap_or_default();
                self.break_down(
                    turn,
                    format!("proof: {script} answers {status} without the id {}: it serves other code than the stamp says", self.want.id),
                );
            }
            other if turn.now.mono >= until => self.break_down(turn, format!("proof: no answer: {}", other.said())),
            _ => self.next = turn.now.mono.after(PROOF_EVERY),
        }
    }

    fn done(&mut self, turn: &mut Turn<'_>) {
        turn.record(Entry::Proven { unit: self.unit.clone() });
        let mut why = "restarted, and it serves".to_owned();
        for note in &self.notes {
            why.push_str("; ");
            why.push_str(note);
        }
        turn.unit_ended(&self.target, &self.unit, UnitEnd::Renewed, why);
        self.enter(turn.now.mono, FpmStep::Done);
    }

    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        let unit = &self.unit;
        let idle = self.pending.is_none();
        match &self.step {
            FpmStep::Draining { until } if idle => Some(Deadline::new(self.next.min(*until), format!("{unit}: look whether it is idle"))),
            FpmStep::Draining { until } => Some(Deadline::new(*until, format!("{unit}: its threshold"))),
            FpmStep::Finishing => Some(Deadline::new(self.since.after(FINISHING), format!("{unit}: answers on their way"))),
            FpmStep::WaitingForLoan if self.next > self.since => Some(Deadline::new(self.next, format!("{unit}: own limit of restarts"))),
            FpmStep::Restarting | FpmStep::Seeing if self.looking.is_some() => None,
            FpmStep::Restarting => {
                Some(Deadline::new(self.next.max(self.since.after(RESTART_LOOK)), format!("{unit}: look at its restart")))
            }
            FpmStep::Testing
            | FpmStep::Seeing
            | FpmStep::Verifying { .. }
            | FpmStep::Dating { .. }
            | FpmStep::Warming
            | FpmStep::Proving { .. }
                if idle =>
            {
                Some(Deadline::new(self.next, format!("{unit}: ask it")))
            }
            _ => None,
        }
    }

    #[must_use]
    pub fn view(&self, now: Now, held_back_by: &str) -> UnitView {
        let soon = |step: TargetState, why: &str| (step, why.to_owned(), None);
        let grace = self.ladder.as_ref().and_then(|ladder| match ladder.rung(now.mono) {
            Rung::Grace { until } => Some(until),
            _ => None,
        });
        let (state, why, deadline) = match &self.step {
            FpmStep::Testing | FpmStep::Inspecting => soon(TargetState::Stale, "its configuration is being tested"),
            FpmStep::Prepared => soon(TargetState::Stale, held_back_by),
            FpmStep::Draining { until } => (TargetState::Draining, self.proof.why.clone(), Some(*until)),
            FpmStep::Seeing | FpmStep::Counting | FpmStep::Freezing | FpmStep::Recounting | FpmStep::Thawing | FpmStep::Finishing => {
                soon(TargetState::Stopping, "the threshold has passed: what is in flight is being counted")
            }
            FpmStep::WaitingForLoan => soon(TargetState::Stopping, "about to be restarted"),
            FpmStep::Restarting if grace.is_none() => soon(TargetState::Killing, "SIGKILL to what was left; it is being restarted"),
            FpmStep::Restarting => (TargetState::Stopping, "is being restarted".to_owned(), grace),
            FpmStep::Verifying { until } | FpmStep::Dating { until } => {
                (TargetState::Verifying, "restarted; is to answer its ping".to_owned(), Some(*until))
            }
            FpmStep::Warming => soon(TargetState::Verifying, "warming up"),
            FpmStep::Proving { until } => (TargetState::Verifying, "is to prove that it serves the new code".to_owned(), Some(*until)),
            FpmStep::Done => soon(TargetState::Fresh, "restarted, and it serves"),
            FpmStep::Refused(why) | FpmStep::Broken(why) => soon(TargetState::Failed, why),
        };
        let stale = if self.committed() && !matches!(self.step, FpmStep::Restarting) {
            0
        } else {
            u32::try_from(self.seen.processes.len()).unwrap_or(u32::MAX)
        };
        UnitView {
            unit: self.unit.clone(),
            state,
            stale_processes: stale,
            oldest_start: Some(now.wall_of(self.seen.main_start)).filter(|_| self.seen.main_pid != 0),
            in_flight: self.proof.in_flight.filter(|_| matches!(self.step, FpmStep::Draining { .. })),
            why,
            deadline: deadline.map(|at| now.wall_of(at)),
        }
    }
}

/// Whether the unit needs the bracket: its master is older than the landing, or it was restarted and never proven.
#[must_use]
pub fn needs_renewal(turn: &Turn<'_>, target: &str, seen: &UnitSeen, want: &Want) -> bool {
    let memory = turn.memory.targets.get(target).cloned().unwrap_or_default();
    turn.memory.unproven.contains_key(&seen.unit) || !stale_fpm(seen, want, &memory).is_empty()
}

/// The answers when the question itself could not be asked: no answer is never "idle" (law 5).
fn silent(source: &Source, outcome: &Outcome) -> PoolAnswers {
    match source {
        Source::Status { asks, .. } => asks.iter().map(|ask| (ask.pool.clone(), Err(outcome.said()))).collect(),
        _ => PoolAnswers::new(),
    }
}

fn main_workers(asks: &[super::effect::StatusAsk], answers: &PoolAnswers) -> Vec<u32> {
    let statuses = asks.iter().filter_map(|ask| answers.get(&ask.pool).and_then(|answer| answer.as_ref().ok()));
    statuses.flat_map(|status| status.workers.iter().flatten().map(|worker| worker.pid)).collect()
}

fn without_query(uri: &str) -> String {
    uri.split('?').next().unwrap_or(uri).to_owned()
}
