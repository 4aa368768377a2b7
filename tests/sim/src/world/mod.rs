//! A simulated host: everything on it but the agent.

mod balancer;
mod bar;
mod boot;
mod effects;
mod fpm;
mod generations;
mod pools;
mod stray;
mod systemd;
mod timer;
mod unit;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use restart_agent::core::deploy::{Deploy, StampFault, StampIdentity, StampSeen};
use restart_agent::core::effect::{Effect, EffectId, Outcome};
use restart_agent::core::event::Event;
use restart_agent::core::policy::Policy;
use restart_agent::core::seen::Exit;
use restart_agent::core::time::{Mono, Now, Wall};

use crate::host::Deed;
use crate::rng::Rng;

pub use balancer::{Balancer, Hook};
pub use bar::{Bar, Barred, Moment, Pounce};
pub use fpm::{Answers, Fpm, FpmStart, Load, Request, some_load};
pub(crate) use generations::LOOKED_AT;
pub use generations::{BOOT, Template};
pub(crate) use pools::Asked;
pub use pools::{Pool, STATUS_PATH};
pub use stray::Stray;
pub use timer::{Schedule, Timer};
pub use unit::{Body, By, Daemon, Job, JobKind, OnTerm, Process, Role, Script, Starts, Stop, Unit, Unmet};

/// Microseconds since the host booted.
pub type Us = u64;
pub const MS: Us = 1_000;
pub const S: Us = 1_000_000;
pub const MINUTE: Us = 60 * S;
pub const HOUR: Us = 60 * MINUTE;

/// When stories begin.
pub const START: Us = 100 * HOUR;

/// 2026-11-22T22:15:20Z less an hour: the wall clock at boot.
const BOOTED_AT: i64 = 1_795_382_120_000_000;

#[derive(Debug)]
pub(crate) enum Happening {
    /// The agent's host does the next part of an effect: nothing, if that agent is dead.
    Act {
        epoch: u64,
        id: EffectId,
        effect: Effect,
        stage: u8,
    },
    Answer {
        epoch: u64,
        id: EffectId,
        outcome: Outcome,
    },
    /// A hint for whichever agent runs.
    Tell(Event),
    Patience {
        epoch: u64,
        id: EffectId,
    },
    Checkpoint {
        unit: String,
        pid: u32,
    },
    ProcessEnds {
        unit: String,
        pid: u32,
        how: Exit,
    },
    StopTimeout {
        unit: String,
        generation: u64,
    },
    /// systemd comes to a start that was queued.
    StartBegins {
        unit: String,
        job: u64,
        by: By,
    },
    /// systemd comes to a stop, or a restart, that was queued.
    StopBegins {
        unit: String,
        job: u64,
        by: By,
    },
    Started {
        unit: String,
        invocation: String,
        well: bool,
    },
    ComesBack {
        unit: String,
    },
    TimerElapses {
        timer: String,
    },
    StartsReleased {
        until: Us,
    },
    TimerFires {
        timer: String,
    },
    Arrival {
        unit: String,
        generation: u64,
        pool: usize,
    },
    /// The web server in front of generations has a request.
    Connects {
        template: String,
    },
    Finishing {
        unit: String,
        request: u64,
        generation: u64,
    },
    Finished {
        unit: String,
        request: u64,
        generation: u64,
    },
    /// `ends`: when the command that does it does.
    PoolTurns {
        pool: String,
        out: bool,
        ends: Us,
    },
    Deed(Deed),
}

/// What the host does badly at the moment.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// systemd answers nobody until then.
    pub systemd_away_until: Us,
    /// php-fpm -tt does not end until then.
    pub unreadable_until: Us,
    /// Reload fails until then.
    pub reload_fails_until: Us,
    /// No command that takes a request to stop back works until then.
    pub unask_fails_until: Us,
    /// Of a hundred hints so many are lost.
    pub lost_hints: u64,
    /// Effects take up to so many times longer.
    pub slowness: u64,
    /// What a look at units or generations takes beyond the way there and back, in microseconds: systemd answers for each unit.
    pub look_takes: Us,
    /// What the journal's way to the disk takes. The engine does nothing else meanwhile.
    pub disk_takes: Us,
    /// The longest that it took so far.
    pub disk_took: Us,
}

/// Somebody's work that was ended by a signal of the agent's doing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cut {
    pub unit: String,
    pub invocation: String,
    pub pid: u32,
    /// The request's line; `None` for a script.
    pub request: Option<String>,
    pub at: Us,
    /// What the clock said then.
    pub wall: Wall,
    /// Whether it was cut or had just ended is a matter of milliseconds.
    pub doubtful: bool,
    /// The agent whose stop has ended it can tell.
    pub certain: bool,
    /// The php-fpm pool of a request.
    pub pool: Option<String>,
    /// That pool does not tell its requests, and this one was there for long enough to be missed.
    pub silent: bool,
}

/// A deploy, or a trigger, as the world saw it: what is older than `at` is stale.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub at: Us,
    /// The journal could not take it: whether it is carried out, nobody was promised.
    pub perhaps: bool,
    pub forced: bool,
    pub targets: Option<Vec<String>>,
    pub id: String,
}

impl Wanted {
    /// Whether it is for this target, too.
    #[must_use]
    pub fn names(&self, target: &str) -> bool {
        self.targets.as_ref().is_none_or(|names| names.iter().any(|name| name == target))
    }
}

#[derive(Debug)]
pub struct World {
    pub now: Us,
    pub wall_offset: i64,
    /// Since the world began.
    pub clock_was_set: bool,
    /// When this boot was.
    pub booted: Us,
    pub rng: Rng,
    /// How long queued starts wait.
    delays: Rng,
    queue: BTreeMap<(Us, u64), Happening>,
    seq: u64,
    pub units: BTreeMap<String, Unit>,
    pub timers: BTreeMap<String, Timer>,
    pub balancers: BTreeMap<String, Balancer>,
    /// By the template's name.
    pub templates: BTreeMap<String, Template>,
    pub stamp: Result<StampSeen, StampFault>,
    pub faults: Faults,
    /// The rules, for what is checked while things happen.
    pub policy: Policy,
    pub policy_changed: Us,
    /// What they were before that, and until when.
    pub formers: Vec<(Us, Policy)>,
    pub wanted: Vec<Wanted>,
    /// The code on the disk: when each deploy's landed, and its id. A trigger brings none.
    pub code: Vec<(Us, String)>,
    /// One was overwritten before anybody read it.
    pub lost: bool,
    /// How often the agent asked for an opcache.
    pub opcache_asked: u64,
    pub cuts: Vec<Cut>,
    pub wrong: Vec<String>,
    pub story: Story,
    /// Effects that wait for a job to be removed.
    waiting: BTreeMap<EffectId, (u64, u64)>,
    pub epoch: u64,
    /// StopUnit or RestartUnit that the agent sent, by unit, newest last.
    pub sent: BTreeMap<String, Us>,
    /// The one before it.
    pub sent_before: BTreeMap<String, Us>,
    /// By which agent.
    pub sent_by: BTreeMap<String, u64>,
    /// The grace that the rules gave it then.
    pub graces: BTreeMap<String, Us>,
    /// From when, and until when, it was last lent something, as far as the agent can know.
    pub lent: BTreeMap<String, (Us, Us)>,
    /// SIGKILL that the agent sent, by unit, newest last.
    pub kill_sent: BTreeMap<String, Us>,
    /// Runs that a dead agent has written it would stop: nobody can know whether it did.
    pub maybe_stopped: std::collections::BTreeSet<String>,
    /// Runs that a dead agent has written it would restart, and that no look has found up since: likewise.
    pub maybe_restarted: std::collections::BTreeSet<String>,
    /// Runs that were to be stopped, or lent what keeps their later commands from running, when systemd did not answer: likewise.
    pub unanswered: std::collections::BTreeSet<String>,
    /// Of several pools, and asked for one as the rules alone have it: nobody has been able to read the others.
    pub unread: std::collections::BTreeSet<String>,
    /// What the agent has read as deploys, and when each landed, as it says.
    pub landings: Vec<(Us, Deploy)>,
    /// By target: the landing of the newest deploy that it has reached, as the agent says.
    pub reached: BTreeMap<String, Us>,
    /// And what before that.
    pub reached_before: BTreeMap<String, Us>,
    /// Pools that the agent may have taken the host out of.
    pub agent_owes: std::collections::BTreeSet<String>,
    /// The agent has died at least once: what systemd did meanwhile is not its doing.
    pub agent_was_away: bool,
    /// It is being removed: what only waits does not wait any longer.
    pub hurried: bool,
    /// Units that a file of the agent's asks to stop.
    pub asked: std::collections::BTreeSet<String>,
    /// When each was, last.
    pub asked_at: BTreeMap<String, Us>,
    /// Until when which units wait with their start, since a deploy has begun.
    pub held: Option<(Us, std::collections::BTreeSet<String>)>,
    /// Units that a command asks to stop, and the one that takes that back.
    pub commanded: BTreeMap<String, Vec<String>>,
    /// Units with a `quiet/UNIT`.
    pub quiet: std::collections::BTreeSet<String>,
    /// Processes outside of every unit.
    pub strays: Vec<Stray>,
    /// Units that a person has masked, or that refuse a manual stop, from one moment on.
    pub barred: BTreeMap<String, Barred>,
    /// Those that one is about to, as soon as the agent comes to them.
    pub pounces: Vec<Pounce>,
    /// What each run of a php-fpm was asked for by each agent.
    pub scripts: BTreeMap<(String, u64), Vec<String>>,
    /// Whose terminals were told, by pid.
    pub told: Vec<u32>,
    next_pid: u32,
    next_name: u64,
}

/// The timeline, if somebody wants to read it.
#[derive(Debug, Default)]
pub struct Story {
    pub told: bool,
    pub lines: Vec<String>,
}

impl World {
    #[must_use]
    pub fn new(seed: u64) -> World {
        World {
            now: START,
            wall_offset: BOOTED_AT,
            clock_was_set: false,
            booted: 0,
            rng: Rng::new(seed),
            delays: Rng::new(seed ^ 0x57a7),
            queue: BTreeMap::new(),
            seq: 0,
            units: BTreeMap::new(),
            timers: BTreeMap::new(),
            balancers: BTreeMap::new(),
            templates: BTreeMap::new(),
            stamp: Err(StampFault::Missing { path: "/srv/deploy/stamp".to_owned() }),
            faults: Faults::default(),
            policy: Policy::default(),
            policy_changed: 0,
            formers: Vec::new(),
            wanted: Vec::new(),
            code: Vec::new(),
            lost: false,
            opcache_asked: 0,
            cuts: Vec::new(),
            wrong: Vec::new(),
            story: Story::default(),
            waiting: BTreeMap::new(),
            epoch: 0,
            sent: BTreeMap::new(),
            sent_before: BTreeMap::new(),
            sent_by: BTreeMap::new(),
            graces: BTreeMap::new(),
            lent: BTreeMap::new(),
            kill_sent: BTreeMap::new(),
            maybe_stopped: std::collections::BTreeSet::new(),
            maybe_restarted: std::collections::BTreeSet::new(),
            unanswered: std::collections::BTreeSet::new(),
            unread: std::collections::BTreeSet::new(),
            landings: Vec::new(),
            reached: BTreeMap::new(),
            reached_before: BTreeMap::new(),
            agent_owes: std::collections::BTreeSet::new(),
            agent_was_away: false,
            hurried: false,
            asked: std::collections::BTreeSet::new(),
            asked_at: BTreeMap::new(),
            held: None,
            commanded: BTreeMap::new(),
            quiet: std::collections::BTreeSet::new(),
            strays: Vec::new(),
            barred: BTreeMap::new(),
            pounces: Vec::new(),
            scripts: BTreeMap::new(),
            told: Vec::new(),
            next_pid: 1000,
            next_name: 1,
        }
    }

    #[must_use]
    pub fn wall(&self, at: Us) -> Wall {
        Wall(self.wall_offset.saturating_add(i64::try_from(at).unwrap_or(i64::MAX)))
    }

    #[must_use]
    pub fn clock(&self) -> Now {
        Now { mono: self.mono(self.now), wall: self.wall(self.now) }
    }

    pub fn set_clock(&mut self, by: i64) {
        self.wall_offset += by;
        self.clock_was_set = true;
    }

    /// A moment on the boot clock, which begins anew with each boot.
    #[must_use]
    pub fn mono(&self, at: Us) -> Mono {
        Mono(at.saturating_sub(self.booted))
    }

    /// Which moment that is; 0 for what was before the boot.
    #[must_use]
    pub fn moment(&self, at: Mono) -> Us {
        if at == Mono::BOOT { 0 } else { at.0.saturating_add(self.booted) }
    }

    pub fn say(&mut self, text: impl FnOnce() -> String) {
        if self.story.told {
            let mut line = String::new();
            let _ = write!(line, "{:>12.3}  {}", (self.now as f64 - START as f64) / 1e6, text());
            self.story.lines.push(line);
        }
    }

    /// Something happened that must not happen.
    pub fn violates(&mut self, what: String) {
        self.say(|| format!("!! {what}"));
        self.wrong.push(format!("at {:.3} s: {what}", (self.now as f64 - START as f64) / 1e6));
    }

    pub(crate) fn at(&mut self, at: Us, what: Happening) {
        self.seq += 1;
        self.queue.insert((at.max(self.now), self.seq), what);
    }

    pub(crate) fn after(&mut self, span: Us, what: Happening) {
        self.at(self.now + span, what);
    }

    /// When the next thing happens by itself.
    #[must_use]
    pub fn next(&self) -> Option<Us> {
        self.queue.keys().next().map(|(at, _)| *at)
    }

    pub(crate) fn pop(&mut self) -> Option<Happening> {
        let ((at, _), what) = self.queue.pop_first()?;
        self.now = self.now.max(at);
        Some(what)
    }

    pub(crate) fn forget(&mut self, what: impl Fn(&Happening) -> bool) {
        self.queue.retain(|_, happening| !what(happening));
    }

    pub(crate) fn pid(&mut self) -> u32 {
        self.next_pid += 1;
        self.next_pid
    }

    pub(crate) fn name(&mut self) -> u64 {
        self.next_name += 1;
        self.next_name
    }

    /// Lets the world's own happenings happen.
    pub(crate) fn happen(&mut self, what: Happening) {
        match what {
            Happening::ProcessEnds { unit, pid, how } => self.process_ended(&unit, pid, how),
            Happening::Checkpoint { unit, pid } => self.reaches_checkpoint(&unit, pid),
            Happening::StopTimeout { unit, generation } => self.stop_timeout(&unit, generation),
            Happening::StartBegins { unit, job, by } => self.start_begins(&unit, job, by),
            Happening::StopBegins { unit, job, by } => self.stop_begins(&unit, job, by),
            Happening::Started { unit, invocation, well } => self.started(&unit, &invocation, well),
            Happening::ComesBack { unit } => {
                if !self.starts_at_boot(&unit) {
                    self.comes_back(&unit);
                }
            }
            Happening::TimerElapses { timer } => self.timer_elapses(&timer),
            Happening::StartsReleased { until } => {
                if self.held.as_ref().is_some_and(|(held, _)| *held == until) {
                    self.release_starts();
                }
            }
            Happening::TimerFires { timer } => self.timer_fires(&timer),
            Happening::Arrival { unit, generation, pool } => self.arrival(&unit, generation, pool),
            Happening::Connects { template } => self.connects(&template),
            Happening::Finishing { unit, request, generation } => self.request_finishing(&unit, request, generation),
            Happening::Finished { unit, request, generation } => self.request_finished(&unit, request, generation),
            Happening::PoolTurns { pool, out, .. } => self.pool_turns(&pool, out),
            Happening::Act { .. } | Happening::Answer { .. } | Happening::Tell(_) | Happening::Patience { .. } | Happening::Deed(_) => {}
        }
    }

    /// A hint, if it is not lost.
    pub(crate) fn hint(&mut self, event: Event) {
        if self.rng.chance(self.faults.lost_hints) {
            return;
        }
        let latency = self.rng.between(MS, 9 * MS);
        self.after(latency, Happening::Tell(event));
    }

    /// The deploy hook touches the stamp.
    pub fn touch(&mut self, content: &str) {
        let n = self.name();
        let ctime = self.wall(self.now);
        let identity = StampIdentity { mtime: ctime.0 * 1000, digest: format!("{content}-{n}") };
        let seen = StampSeen { identity, ctime, content: content.to_owned() };
        let stamped = restart_agent::core::deploy::Deploy::read(&seen, self.clock());
        self.say(|| format!("== the stamp is touched: {content:?}"));
        if let Ok(restart_agent::core::deploy::Stamped::Deploy(deploy)) = stamped {
            let of = |scope: &restart_agent::core::deploy::Scope| match scope {
                restart_agent::core::deploy::Scope::All => None,
                restart_agent::core::deploy::Scope::Only(names) => Some(names.iter().cloned().collect::<Vec<_>>()),
            };
            let forced = of(&deploy.forced).is_none_or(|names| !names.is_empty());
            self.code.push((self.now, deploy.id.clone()));
            self.wanted.push(Wanted { at: self.now, perhaps: false, forced, targets: of(&deploy.targets), id: deploy.id });
        }
        self.stamp = Ok(seen);
        let told = Event::Stamp(self.stamp.clone());
        self.hint(told);
    }

    /// What landed after the first so many deploys has not been taken in: the newest may be carried out for what those name as well, and what is
    /// stale is older than the newest.
    pub(crate) fn stamps_unite(&mut self, after: usize) {
        let now = self.now;
        if self.code.last().is_none_or(|(landed, _)| *landed != now) {
            return;
        }
        let earlier = |wanted: &&Wanted| wanted.at < now && self.code[after..].iter().any(|(landed, _)| *landed == wanted.at);
        let united: Vec<Wanted> =
            self.wanted.iter().filter(earlier).map(|wanted| Wanted { at: now, perhaps: true, ..wanted.clone() }).collect();
        self.wanted.extend(united);
    }

    /// Of a stamp that it has read only after the clock was set ahead the agent cannot know that it is younger than it looks.
    pub(crate) fn is_known_to_have_landed(&mut self, deploy: &Deploy) {
        let known = self.moment(deploy.landed);
        self.landings.push((known, deploy.clone()));
        let Some(landed) = self.code.iter().rev().find(|(_, id)| *id == deploy.id).map(|(landed, _)| *landed) else { return };
        for wanted in self.wanted.iter_mut().filter(|wanted| self.clock_was_set && wanted.at == landed && wanted.id == deploy.id) {
            wanted.at = landed.min(known);
        }
    }

    /// What landed after the first so many deploys was overwritten before anybody read it.
    pub(crate) fn stamps_are_lost(&mut self, after: usize) {
        let lost = |wanted: &&mut Wanted| self.code[after..].iter().any(|(landed, _)| *landed == wanted.at);
        for wanted in self.wanted.iter_mut().filter(lost) {
            wanted.perhaps = true;
            self.lost = true;
        }
    }

    /// The newest moment that a target is to be fresh for.
    #[must_use]
    pub fn newest_want(&self, target: &str) -> Option<&Wanted> {
        self.wanted.iter().rev().filter(|wanted| !wanted.perhaps).find(|wanted| wanted.names(target))
    }
}
