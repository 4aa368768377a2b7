//! `kind = "php-fpm"`, `strategy = "generations"`: a deploy starts a new php-fpm beside the old one, proves it, and switches the symlink that the web
//! server connects to. No request is lost, no pool is left. The old one lingers: it finishes what it has and is stopped.
//!
//! What is the case is read from systemd and from the symlink each time; the journal only says which generation is being started and since when others
//! linger. `name` says what they are called, `looks` what a look at them means, `phases` what comes after what, `back` the way back, `ending` what becomes
//! of those that linger, `view` what status is told. The way of one php-fpm to its proof, and of another to its end, is [`Fpm`]'s.

pub mod name;

mod back;
mod ending;
mod leave;
mod looks;
mod phases;
pub(super) mod plan;
mod room;
mod view;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

pub use looks::serving;

use super::effect::{Effect, EffectId, Fault, Outcome};
use super::fpm::Fpm;
use super::look::Looker;
use super::memory::Want;
use super::policy::GenerationRules;
use super::seen::{FpmLayout, GenerationsSeen, UnitSeen};
use super::stale::is_urgent;
use super::step::{Deadline, Turn, earliest};
use super::target::Progress;
use super::time::Mono;

/// At rest: whether the one that serves still does, and whether another came (a boot, a person).
const LOOK_AT_REST: Duration = Duration::from_secs(60);
/// Nothing connects to the old socket after the switch, but what had connected may still be in its queue.
const QUIET: Duration = Duration::from_secs(1);
/// After a switch that could not be made.
const AGAIN: Duration = Duration::from_secs(1);
/// The generations of one target.
#[derive(Debug)]
pub struct Generations {
    name: String,
    want: Option<Want>,
    /// When what is wanted began to be.
    renewed: Mono,
    progress: Progress,
    phase: Phase,
    since: Mono,
    look: Looker,
    seen: GenerationsSeen,
    /// The one that serves.
    current: Option<String>,
    /// The one that was last seen to serve.
    served_last: Option<String>,
    /// The one that is to serve.
    starting: Option<Fpm>,
    /// Those that have served, and one that will never.
    ending: BTreeMap<String, Fpm>,
    /// What those that this agent has started were seen to be.
    layouts: BTreeMap<String, FpmLayout>,
    switching: Option<EffectId>,
    /// The symlink is switched on the word of a look that began then or later.
    looked_from: Mono,
    /// Since when those that are being ended have drained.
    drained_at: BTreeMap<String, Mono>,
    /// A switch has waited for the journal.
    journal_waited: bool,
    /// A ping through the symlink.
    pinging: Option<EffectId>,
    next: Mono,
    /// Pings in a row that were not answered.
    missed: u32,
    /// The last ping was not answered: its status may tell why.
    unsure: bool,
    /// The new one has answered through the symlink.
    answered: bool,
    /// Served before the last switch.
    before: Option<String>,
    /// What the present one is worth saying beyond "fresh".
    note: Option<String>,
    /// Why a rollout waits.
    waits: Option<String>,
    trouble: Option<String>,
    /// It was looked at since the agent started: nothing serving then gets a generation.
    looked: bool,
    /// What is started because nothing serves, without a deploy.
    rescue: Option<Want>,
    rescue_tries: u32,
    rescue_at: Mono,
    /// What has lapsed is not tried again before.
    again_at: Mono,
    /// The symlink could not be switched to one that runs: not before then.
    switch_at: Mono,
    /// How often the symlink was to be switched in this phase.
    tries: u32,
    /// Since when somebody is at the one that serves.
    down_since: Option<Mono>,
    /// Nothing is to be begun.
    held: bool,
    /// The package is being removed: since then.
    settling: Option<Mono>,
    /// What is being left to systemd, or was.
    leaving: BTreeMap<String, Option<EffectId>>,
    /// When one that lingered was over.
    ended: Mono,
    /// Given up before they were seen to run: their start, while it is under way, and when it had its answer. Whether they came up the next look shows.
    unborn: BTreeMap<String, (Option<EffectId>, Option<Mono>)>,
    /// How well each may take the place of another: whether it was proven, and for which landing it was started.
    standing: BTreeMap<String, (bool, Mono)>,
    /// Those that the symlink was switched away from, since they did not do.
    bad: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// Nothing is wanted.
    Rest,
    /// What is there?
    Looking,
    /// There is no room for another one.
    Room,
    /// The new one is tested, started, proven.
    Starting,
    /// The symlink is being switched to it.
    Switching,
    /// It serves; does it stay up?
    Watching { until: Mono },
    /// It does; do the others, which share its socket, take no new requests any more?
    Closing { until: Mono },
    /// It does not: the symlink goes back to the one before.
    Back { why: String },
    /// The symlink leads nowhere, and to be switched to one that runs.
    Mending { to: String },
}

impl Generations {
    #[must_use]
    pub fn new(name: &str) -> Generations {
        let mut look = Looker::default();
        look.want(Mono::BOOT);
        Generations {
            name: name.to_owned(),
            want: None,
            renewed: Mono::BOOT,
            progress: Progress::Idle,
            phase: Phase::Rest,
            since: Mono::BOOT,
            look,
            seen: GenerationsSeen::default(),
            current: None,
            served_last: None,
            starting: None,
            ending: BTreeMap::new(),
            layouts: BTreeMap::new(),
            switching: None,
            looked_from: Mono::BOOT,
            drained_at: BTreeMap::new(),
            journal_waited: false,
            pinging: None,
            next: Mono::BOOT,
            missed: 0,
            unsure: false,
            answered: false,
            before: None,
            note: None,
            waits: None,
            trouble: None,
            looked: false,
            rescue: None,
            rescue_tries: 0,
            rescue_at: Mono::BOOT,
            again_at: Mono::BOOT,
            switch_at: Mono::BOOT,
            tries: 0,
            down_since: None,
            held: false,
            settling: None,
            leaving: BTreeMap::new(),
            ended: Mono::BOOT,
            unborn: BTreeMap::new(),
            standing: BTreeMap::new(),
            bad: BTreeSet::new(),
        }
    }

    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// Whether the first look for the present want is still to come.
    #[must_use]
    pub fn gathering(&self) -> bool {
        self.progress == Progress::Working && self.phase == Phase::Looking
    }

    /// Whether workers are stopped for a count that is under way.
    #[must_use]
    pub fn counting(&self) -> bool {
        self.ending.values().any(Fpm::counting)
    }

    /// Whether it is at work on this unit, and pays what it owes to it itself.
    #[must_use]
    pub fn owns(&self, unit: &str) -> bool {
        self.fpms().any(|fpm| fpm.unit == unit && !fpm.at_rest())
    }

    /// The instance that gets the requests.
    #[must_use]
    pub fn serves(&self) -> Option<&str> {
        self.current.as_deref()
    }

    /// What it had reached has lapsed: when there may be another try.
    #[must_use]
    pub fn again_at(&self) -> Mono {
        self.again_at
    }

    /// It has something to do that systemd's signals help with.
    #[must_use]
    pub fn busy(&self) -> bool {
        self.phase != Phase::Rest
    }

    pub fn renew(&mut self, now: Mono, want: Want) {
        // One that is under way for something older is no use any more; after the switch it has to be seen to its end first.
        let other = !self.want.as_ref().is_some_and(|old| old.is(&want));
        if other && !matches!(self.phase, Phase::Switching | Phase::Watching { .. } | Phase::Closing { .. } | Phase::Back { .. }) {
            self.enter(now, Phase::Looking);
        }
        self.ending.values_mut().filter(|fpm| is_urgent(fpm.started(), &want)).for_each(|fpm| fpm.end_by(now));
        self.want = Some(want);
        self.renewed = now;
        self.progress = Progress::Working;
        self.waits = None;
        self.look.want(now);
        if self.phase == Phase::Rest {
            self.enter(now, Phase::Looking);
        }
    }

    /// Gives up what has not been switched to. What lingers goes on.
    pub fn pause(&mut self, now: Mono) {
        if matches!(self.phase, Phase::Looking | Phase::Room | Phase::Starting) {
            self.progress = Progress::Idle;
            self.want = None;
            self.drop_starting(now);
            self.enter(now, Phase::Rest);
            self.look.want(now);
        }
        if self.phase == Phase::Rest {
            // What was reached, or was not, was for a deploy before the hold.
            self.progress = Progress::Idle;
        }
    }

    pub fn look_again(&mut self, now: Mono) {
        self.look.want(now);
    }

    pub fn hint(&mut self, now: Mono, unit: Option<&str>, template: &str) {
        if unit.is_none_or(|unit| name::instance_of(template, unit).is_some()) {
            self.look.want(now);
        }
    }

    pub fn outcome(&mut self, turn: &mut Turn<'_>, rules: &GenerationRules, id: EffectId, outcome: &Outcome) -> bool {
        if self.look.owns(id) {
            if let Some(Outcome::Generations(seen)) = self.look.answer(turn, id, outcome) {
                self.seen(turn, rules, seen);
            }
            return true;
        }
        if self.switching.take_if(|switching| *switching == id).is_some() {
            self.switched(turn, outcome);
            return true;
        }
        if self.pinging.take_if(|pinging| *pinging == id).is_some() {
            self.pinged(turn.now.mono, outcome);
            return true;
        }
        if let Some((unit, _)) = self.leaving.iter().find(|(_, leaving)| **leaving == Some(id)) {
            let unit = unit.clone();
            self.left(turn, &unit, outcome);
            return true;
        }
        if let Some((_, answered)) = self.unborn.values_mut().find(|(unborn, _)| *unborn == Some(id)) {
            *answered = Some(turn.now.mono);
            self.look.want(turn.now.mono);
            return true;
        }
        self.starting.as_mut().is_some_and(|fpm| fpm.outcome(turn, id, outcome))
            || self.ending.values_mut().any(|fpm| fpm.outcome(turn, id, outcome))
    }

    fn switched(&mut self, turn: &Turn<'_>, outcome: &Outcome) {
        self.trouble = match outcome {
            Outcome::Done => None,
            Outcome::Fault(Fault::Journal(why)) => Some(why.clone()),
            other => Some(format!("the symlink could not be switched: {}", other.said())),
        };
        // Whatever is said of it, where it leads is read, right before another try: until then somebody may put it back where it was.
        self.next = turn.now.mono.after(AGAIN);
        let from = if *outcome == Outcome::Done { turn.now.mono } else { self.next };
        if self.switches() {
            self.looked_from = from;
        }
        self.look.want(from);
    }

    fn switches(&self) -> bool {
        matches!(self.phase, Phase::Switching | Phase::Back { .. } | Phase::Mending { .. })
    }

    fn drop_starting(&mut self, now: Mono) {
        let Some(fpm) = self.starting.take() else { return };
        if let Some(layout) = fpm.layout().filter(|_| fpm.committed()) {
            self.layouts.insert(fpm.unit.clone(), layout.clone());
        }
        let under_way = fpm.start_under_way();
        let seen = self.unit(&fpm.unit).is_some_and(|seen| seen.active.runs());
        if under_way.is_some() || (fpm.restarted_or_past() && !seen) {
            self.unborn.insert(fpm.unit, (under_way, under_way.is_none().then_some(now)));
            self.look.want(now);
        }
    }

    fn enter(&mut self, now: Mono, phase: Phase) {
        self.phase = phase;
        self.since = now;
        self.next = now;
        self.looked_from = Mono::BOOT;
    }

    fn fpms(&self) -> impl Iterator<Item = &Fpm> {
        self.starting.iter().chain(self.ending.values())
    }

    fn unit(&self, unit: &str) -> Option<&UnitSeen> {
        self.seen.units.iter().find(|seen| seen.unit == unit)
    }

    fn ask_to_look(&mut self, turn: &mut Turn<'_>, rules: &GenerationRules) {
        let effect = || Effect::SeeGenerations { template: rules.unit.clone(), socket: rules.socket.clone() };
        self.look.ask_for(turn, effect);
    }

    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        let look = self.look.due().map(|at| Deadline::new(at, format!("{}: look at its generations", self.name)));
        let step = match &self.phase {
            Phase::Watching { until } if self.pinging.is_none() => {
                Some(Deadline::new(self.next.min(*until), format!("{}: see whether the new generation stays up", self.name)))
            }
            Phase::Closing { until } => Some(Deadline::new(*until, format!("{}: old generations take no new requests", self.name))),
            Phase::Switching | Phase::Back { .. } | Phase::Mending { .. } if self.switching.is_none() => {
                let at = if self.has_looked_since(self.looked_from) { Some(self.next) } else { self.goes_back_unseen_at() };
                at.map(|at| Deadline::new(at, format!("{}: switch the symlink", self.name)))
            }
            _ => None,
        };
        let settle = self.settling.filter(|_| !self.ending.is_empty()).map(|since| since.after(leave::SETTLE));
        let settle = settle.map(|at| Deadline::new(at, format!("{}: leave what is at work to systemd", self.name)));
        earliest(self.fpms().map(Fpm::deadline).chain([look, step, settle]))
    }

    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref().or(self.look.trouble())
    }
}
