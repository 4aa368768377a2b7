//! `kind = "service"`: long-running services other than php-fpm, renewed by one RestartUnit job each (law 6, facts M4).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::effect::{Effect, EffectId, Fault, Looked, Outcome};
use super::entry::Entry;
use super::ladder::{Ladder, Rung};
use super::look::Looker;
use super::memory::Want;
use super::policy::ServiceRules;
use super::seen::{Active, Load, UnitSeen};
use super::stale::{Stale, stale};
use super::status::{TargetState, UnitEnd, UnitView};
use super::step::{Deadline, Turn, earliest};
use super::target::{Progress, Pursuit, matches_any};
use super::time::{Mono, Now};

/// RestartUnit jobs under way at once: four in flight have all the gain of pipelining (docs/performance), more only delay the first unit.
const WINDOW: usize = 16;
const DRAIN_LOOK: Duration = Duration::from_secs(5);
const RESTART_LOOK: Duration = Duration::from_secs(1);
/// Restarts that end together are looked at together.
const BATCH: Duration = Duration::from_millis(10);
/// How long a service may take to start: systemd's own default for TimeoutStartSec=, and a little.
const START_TIMEOUT: Duration = Duration::from_secs(95);
/// A service that does not come up is started again so often, with this pause.
const START_TRIES: u32 = 3;
const START_PAUSE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct Services {
    name: String,
    units: BTreeMap<String, Service>,
    pursuit: Pursuit,
}

#[derive(Debug)]
struct Service {
    seen: UnitSeen,
    stale: Stale,
    step: Step,
    since: Mono,
    ladder: Option<Ladder>,
    pending: Option<EffectId>,
    killing: Option<EffectId>,
    /// The invocation that was stale.
    before: String,
    /// When what it was last restarted for landed. A newer deploy may have come since.
    restarted_for: Option<Mono>,
    /// When the look had begun that it was last seen in.
    seen_at: Mono,
    tries: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Draining {
        until: Mono,
    },
    Restarting,
    /// Its job has ended; a look shows how it fares.
    Verifying,
    Pausing {
        until: Mono,
    },
    Done(UnitEnd, String),
    Left(String),
}

impl Services {
    #[must_use]
    pub fn new(name: &str) -> Services {
        Services { name: name.to_owned(), units: BTreeMap::new(), pursuit: Pursuit::default() }
    }

    pub fn progress(&self) -> &Progress {
        self.pursuit.progress()
    }

    #[must_use]
    pub fn gathering(&self) -> bool {
        self.pursuit.gathering()
    }

    pub fn renew(&mut self, turn: &mut Turn<'_>, want: Want, began: Mono) {
        self.units.retain(|_, unit| !unit.at_rest());
        // What did not come up the last time is not found among what runs, and is ours to bring up.
        let views = turn.memory.rollout.iter().map(|rollout| &rollout.view).chain(&turn.memory.last_rollout);
        let failed = views.flat_map(|view| &view.units).filter(|end| end.target == self.name && end.what == UnitEnd::Failed);
        for end in failed {
            self.units.entry(end.unit.clone()).or_insert_with(|| Service::down(&end.unit, turn.now.mono));
        }
        if want.forced {
            for unit in self.units.values_mut() {
                if let Step::Draining { until } = &mut unit.step {
                    *until = (*until).min(turn.now.mono);
                }
            }
        }
        self.pursuit.renew(turn.now.mono, want, began);
    }

    pub fn pause(&mut self) {
        self.units.retain(|_, unit| !matches!(unit.step, Step::Draining { .. }));
        if self.units.values().all(Service::at_rest) {
            self.pursuit.rest();
        }
    }

    pub fn hint(&mut self, now: Mono, unit: Option<&str>) {
        // A removed job of a unit that is being restarted comes with its outcome.
        if unit.is_none() && self.pursuit.want().is_some() {
            self.pursuit.look.want(now);
        }
    }

    pub fn outcome(&mut self, turn: &mut Turn<'_>, rules: &ServiceRules, id: EffectId, outcome: &Outcome) -> bool {
        if self.pursuit.look.owns(id) {
            if let Some(units) = self.pursuit.look.outcome(turn, id, outcome) {
                self.seen(turn, rules, units);
            }
            return true;
        }
        let now = turn.now.mono;
        for (name, unit) in &mut self.units {
            if unit.killing.take_if(|killing| *killing == id).is_some() {
                if let (Outcome::Fault(_), Some(ladder)) = (outcome, &mut unit.ladder) {
                    ladder.kill_failed(now);
                }
                self.pursuit.look.want(now.after(BATCH));
                return true;
            }
            if unit.pending.take_if(|pending| *pending == id).is_some() {
                match outcome {
                    Outcome::Fault(fault) => unit.refused(turn, &self.name, name, fault),
                    _ => unit.enter(now, Step::Verifying),
                }
                self.pursuit.look.want(now.after(BATCH));
                return true;
            }
        }
        false
    }

    fn seen(&mut self, turn: &mut Turn<'_>, rules: &ServiceRules, units: &[UnitSeen]) {
        let Some(want) = self.pursuit.want().cloned() else { return };
        let memory = turn.memory.targets.get(&self.name).cloned().unwrap_or_default();
        let mut present = BTreeSet::new();
        let drain_until = self.pursuit.drain_until(turn.now.mono, rules.drain_timeout);
        for seen in units {
            let known = self.units.contains_key(&seen.unit);
            if !known && (!matches_any(&rules.units, &seen.unit) || matches_any(&rules.exclude, &seen.unit)) {
                continue;
            }
            present.insert(seen.unit.clone());
            let stale = stale(seen, &want, &memory);
            match self.units.get_mut(&seen.unit) {
                Some(unit) => unit.look(turn, &self.name, seen, stale, &self.pursuit.look, drain_until),
                None if !stale.is_empty() => {
                    self.units.insert(seen.unit.clone(), Service::new(seen.clone(), stale, turn.now.mono, drain_until));
                }
                None => {}
            }
        }
        if self.pursuit.look.exact() {
            return;
        }
        for (name, unit) in &mut self.units {
            if !present.contains(name) && matches!(unit.step, Step::Draining { .. } | Step::Left(_)) {
                unit.done(turn, &self.name, name, UnitEnd::Finished, "it ended by itself");
            }
        }
    }

    pub fn advance(&mut self, turn: &mut Turn<'_>, rules: &ServiceRules) {
        let Some(want) = self.pursuit.want().cloned() else { return };
        let now = turn.now.mono;
        let mut under_way = self.units.values().filter(|unit| matches!(unit.step, Step::Restarting)).count();
        let mut failed = None;
        for (name, unit) in &mut self.units {
            unit.advance(turn, rules, &self.name, name, &mut under_way, &want);
            if let Step::Done(UnitEnd::Failed, why) = &unit.step {
                failed.get_or_insert(format!("{name}: {why}"));
            }
        }
        let busy = self.units.values().any(|unit| !unit.at_rest());
        if self.pursuit.works() && !busy {
            let changed = self.units.values().map(|unit| unit.since).max();
            self.pursuit.conclude(now, changed, failed);
        }
        self.look_when_due(turn, rules);
    }

    fn look_when_due(&mut self, turn: &mut Turn<'_>, rules: &ServiceRules) {
        let now = turn.now.mono;
        let restarting = self.units.values().any(|unit| matches!(unit.step, Step::Restarting | Step::Verifying));
        if restarting {
            self.pursuit.look.want(now.after(RESTART_LOOK));
        } else if self.units.values().any(|unit| !unit.at_rest()) {
            self.pursuit.look.want(now.after(DRAIN_LOOK));
        }
        let unseen = |unit: &Service| matches!(unit.step, Step::Draining { until } if now >= until && unit.seen_at < until);
        if self.units.values().any(unseen) {
            self.pursuit.look.want(now);
        }
        let overdue = |unit: &Service| matches!(unit.step, Step::Restarting) && now >= unit.since.after(RESTART_LOOK);
        let named = self.units.iter().filter(|(_, unit)| matches!(unit.step, Step::Verifying) || overdue(unit));
        let cgroups: BTreeMap<String, String> = named.map(|(name, unit)| (name.clone(), unit.seen.cgroup.clone())).collect();
        if !cgroups.is_empty() {
            let units: Vec<String> = cgroups.keys().cloned().collect();
            self.pursuit.look.ask(turn, &units, Looked::Bare, BTreeMap::new());
        } else if restarting {
            // Nothing is late yet.
            self.pursuit.look.put_off(now);
        } else {
            self.pursuit.look.ask(turn, &rules.units, Looked::Running, BTreeMap::new());
        }
    }

    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        self.pursuit.want()?;
        let look = self.pursuit.look.due().map(|at| Deadline::new(at, format!("{}: look at its services", self.name)));
        earliest(self.units.iter().map(|(name, unit)| unit.deadline(name)).chain([look]))
    }

    #[must_use]
    pub fn views(&self, now: Now) -> Vec<UnitView> {
        self.units.iter().map(|(name, unit)| unit.view(name, now)).collect()
    }

    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.pursuit.look.trouble()
    }
}

impl Service {
    fn new(seen: UnitSeen, stale: Stale, now: Mono, until: Mono) -> Service {
        let before = seen.invocation.clone();
        let step = Step::Draining { until };
        Service {
            seen,
            stale,
            step,
            since: now,
            ladder: None,
            pending: None,
            killing: None,
            before,
            restarted_for: None,
            seen_at: now,
            tries: 0,
        }
    }

    /// One that may be down since it was restarted: to be looked at, and started again if it is.
    fn down(unit: &str, now: Mono) -> Service {
        let seen = UnitSeen { unit: unit.to_owned(), ..UnitSeen::default() };
        Service { step: Step::Verifying, ..Service::new(seen, Stale::default(), now, now) }
    }

    fn at_rest(&self) -> bool {
        matches!(self.step, Step::Done(..) | Step::Left(_))
    }

    fn enter(&mut self, now: Mono, step: Step) {
        self.step = step;
        self.since = now;
    }

    fn done(&mut self, turn: &mut Turn<'_>, target: &str, name: &str, end: UnitEnd, why: &str) {
        turn.unit_ended(target, name, end, why);
        if end != UnitEnd::Failed {
            self.stale = Stale::default();
        }
        self.enter(turn.now.mono, Step::Done(end, why.to_owned()));
    }

    fn refused(&mut self, turn: &mut Turn<'_>, target: &str, name: &str, fault: &Fault) {
        self.done(turn, target, name, UnitEnd::Failed, &format!("it could not be restarted: {fault}"));
    }

    fn look(&mut self, turn: &mut Turn<'_>, target: &str, seen: &UnitSeen, stale: Stale, look: &Looker, drain_until: Mono) {
        self.seen_at = look.began().unwrap_or(self.seen_at);
        match self.step {
            Step::Draining { .. } | Step::Left(_) if stale.is_empty() => {
                self.done(turn, target, &seen.unit, UnitEnd::Renewed, "somebody else has restarted it");
            }
            Step::Verifying if look.seen_since(self.since) => self.verify(turn, target, seen, stale),
            Step::Done(UnitEnd::Failed, _) if stale.is_empty() && seen.active == Active::Active => {
                self.seen = seen.clone();
                self.done(turn, target, &seen.unit, UnitEnd::Renewed, "it has come up");
            }
            // Restarted for an earlier deploy, while this one landed.
            Step::Done(end, _) if !stale.is_empty() && end != UnitEnd::Failed && self.seen_at >= self.since => {
                *self = Service::new(seen.clone(), stale, turn.now.mono, drain_until);
            }
            _ => {
                self.stale = stale;
                self.seen.update(seen);
            }
        }
    }

    fn verify(&mut self, turn: &mut Turn<'_>, target: &str, seen: &UnitSeen, stale: Stale) {
        let renewed = !seen.invocation.is_empty() && seen.invocation != self.before;
        // One that waits for systemd to start it once more has no job.
        let up = matches!(seen.active, Active::Active | Active::Reloading) || (seen.active == Active::Activating && seen.job);
        if renewed && up {
            if let Some(landed) = self.restarted_for {
                let (target, unit, invocation) = (target.to_owned(), seen.unit.clone(), seen.invocation.clone());
                turn.record(Entry::Fresh { target, unit, invocation, landed });
            }
            self.seen = seen.clone();
            return self.done(turn, target, &seen.unit, UnitEnd::Renewed, "restarted");
        }
        if self.restarted_for.is_none() && seen.active == Active::Inactive {
            return self.done(turn, target, &seen.unit, UnitEnd::Finished, "somebody has stopped it");
        }
        self.stale = stale;
        self.seen = seen.clone();
        self.tries += 1;
        if self.tries >= START_TRIES {
            let why = format!("it does not come up after its restart: {:?}, Result={}", seen.active, seen.result);
            return self.done(turn, target, &seen.unit, UnitEnd::Failed, &why);
        }
        self.enter(turn.now.mono, Step::Pausing { until: turn.now.mono.after(START_PAUSE) });
    }

    fn advance(&mut self, turn: &mut Turn<'_>, rules: &ServiceRules, target: &str, name: &str, under_way: &mut usize, want: &Want) {
        let now = turn.now.mono;
        match self.step {
            Step::Draining { until } => {
                if let Some(why) = untouchable(&self.seen) {
                    turn.unit_ended(target, name, UnitEnd::Left, why);
                    return self.enter(now, Step::Left(why.to_owned()));
                }
                // In the drain somebody else may have restarted it.
                if now >= until && self.seen_at >= until && *under_way < WINDOW && turn.journal_good {
                    *under_way += 1;
                    self.restart(turn, rules, name, want);
                }
            }
            Step::Restarting => {
                let Some(ladder) = &mut self.ladder else { return };
                // Only on the word of a look that began after the grace: what was started anew is not to be killed for the old one.
                let grace_over = ladder.sent().after(rules.term_timeout);
                let old_lives = self.seen.invocation == self.before && self.seen.active.runs();
                if !old_lives || self.seen_at < grace_over {
                    return;
                }
                match ladder.rung(now) {
                    Rung::Kill => {
                        ladder.killed(now);
                        self.killing = Some(turn.ask(Effect::Kill { unit: name.to_owned(), cgroup: self.seen.cgroup.clone() }));
                    }
                    Rung::Unkillable => {
                        self.pending = None;
                        self.done(
                            turn,
                            target,
                            name,
                            UnitEnd::Failed,
                            "its processes do not end, not even by SIGKILL: they are stuck in the kernel",
                        );
                    }
                    Rung::Grace { .. } | Rung::Dying { .. } => {}
                }
            }
            Step::Pausing { until } if now >= until && turn.journal_good => self.restart(turn, rules, name, want),
            _ => {}
        }
    }

    fn restart(&mut self, turn: &mut Turn<'_>, rules: &ServiceRules, name: &str, want: &Want) {
        self.restarted_for = Some(want.landed);
        let within = rules.term_timeout + START_TIMEOUT;
        self.pending = Some(turn.ask(Effect::Restart { unit: name.to_owned(), cut: Vec::new(), within }));
        self.ladder = Some(Ladder::new(turn.now.mono, rules.term_timeout));
        self.enter(turn.now.mono, Step::Restarting);
    }

    fn deadline(&self, name: &str) -> Option<Deadline> {
        match (&self.step, &self.ladder) {
            (Step::Draining { until } | Step::Pausing { until }, _) => Some(Deadline::new(*until, format!("{name}: restart"))),
            (Step::Restarting, Some(ladder)) => match ladder.rung(self.since) {
                Rung::Grace { until } | Rung::Dying { until } => Some(Deadline::new(until, format!("{name}: its grace after SIGTERM"))),
                Rung::Kill | Rung::Unkillable => None,
            },
            _ => None,
        }
    }

    fn view(&self, name: &str, now: Now) -> UnitView {
        let (state, why, deadline) = match &self.step {
            Step::Draining { until } if *until > now.mono => {
                (TargetState::Draining, "runs old code; may end by itself".to_owned(), Some(*until))
            }
            Step::Draining { .. } => (TargetState::Stale, "waits for its turn to be restarted".to_owned(), None),
            Step::Restarting => match self.ladder.as_ref().map(|ladder| ladder.rung(now.mono)) {
                Some(Rung::Grace { until }) => (TargetState::Stopping, "is being restarted".to_owned(), Some(until)),
                _ => (TargetState::Killing, "was sent SIGKILL".to_owned(), None),
            },
            Step::Verifying => (TargetState::Verifying, "restarted; to be seen running".to_owned(), None),
            Step::Pausing { until } => (TargetState::Starting, "did not come up; is started again".to_owned(), Some(*until)),
            Step::Done(UnitEnd::Failed, why) => (TargetState::Failed, why.clone(), None),
            Step::Done(_, why) => (TargetState::Fresh, why.clone(), None),
            Step::Left(why) => (TargetState::Left, why.clone(), None),
        };
        UnitView {
            unit: name.to_owned(),
            state,
            stale_processes: self.stale.count(),
            oldest_start: self.stale.oldest.map(|at| now.wall_of(at)),
            in_flight: None,
            why,
            deadline: deadline.map(|at| now.wall_of(at)),
        }
    }
}

/// A service that systemd does not let us restart, or that could not come back (facts F2.7, F3.9, F3.11).
fn untouchable(unit: &UnitSeen) -> Option<&'static str> {
    if unit.refuse_manual_stop || unit.refuse_manual_start {
        Some("it refuses a manual stop or start: restart it by what starts it")
    } else if unit.load == Load::Masked {
        Some("it is masked, so it could not come back")
    } else if unit.transient {
        Some("it is transient: a restart might not find it again")
    } else {
        None
    }
}
