//! The bracket around every in-place restart of php-fpm: out of the pools, drain, restart, proof, back into the pools.
//!
//! All targets of strategy "restart" share it, because they share the pools. It may be left at any moment before the first restart;
//! after that it goes on to its end. Whatever becomes of it, [`InPlace::advance`] puts back what it took out.

use std::collections::BTreeMap;
use std::time::Duration;

use super::cut::settle_cut;
use super::effect::{Effect, EffectId, Looked, Outcome};
use super::fpm::{Fpm, FpmStep, needs_renewal};
use super::loans::Loans;
use super::memory::Want;
use super::policy::{FpmRules, TargetRules};
use super::pool::{Goal, Pool, Verdict};
use super::seen::{Active, Load, UnitSeen};
use super::stale::{LOOK_FROM, stale_fpm};
use super::status::{TargetState, UnitEnd, UnitView};
use super::step::{Deadline, Turn, earliest};
use super::target::Progress;
use super::time::{Mono, Now};

/// Rounds of "somebody put it back while we drained" before that is taken for a person's will (traps T30, T32).
const ROUNDS: u32 = 3;
/// After a look that failed.
const RETRY: Duration = Duration::from_secs(1);
/// For a restart that an earlier agent began: what is lent gives systemd 5 s more than the grace to end it.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct InPlace {
    phase: Phase,
    units: BTreeMap<String, Fpm>,
    /// What is wanted of each target, and how far it has come.
    wants: BTreeMap<String, (Want, Mono)>,
    progress: BTreeMap<String, Progress>,
    /// What a target's unit showed at rest, for status.
    notes: BTreeMap<String, (TargetState, String)>,
    looking: Option<EffectId>,
    look_began: Mono,
    /// How long a restart that an earlier agent began is waited for.
    patience: Option<Mono>,
    next: Mono,
    rounds: u32,
    forced: bool,
    trouble: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    Idle,
    Looking,
    Preparing,
    LeavingPool,
    Draining,
    /// Drained; is it still out of the pool?
    Rechecking,
    Renewing,
    /// Everything that is to be restarted was; the pools get their host back.
    Returning,
}

impl Default for InPlace {
    fn default() -> Self {
        InPlace {
            phase: Phase::Idle,
            units: BTreeMap::new(),
            wants: BTreeMap::new(),
            progress: BTreeMap::new(),
            notes: BTreeMap::new(),
            looking: None,
            look_began: Mono::BOOT,
            patience: None,
            next: Mono::BOOT,
            rounds: 0,
            forced: false,
            trouble: None,
        }
    }
}

impl InPlace {
    /// Nothing under way, no pool in use.
    #[must_use]
    pub fn idle(&self) -> bool {
        self.phase == Phase::Idle && !self.progress.values().any(|progress| *progress == Progress::Working)
    }

    /// The target is no longer in the configuration.
    pub fn forget(&mut self, target: &str, loans: &mut Loans) {
        self.wants.remove(target);
        self.progress.remove(target);
        self.notes.remove(target);
        // What has been touched goes on to its end.
        self.units.retain(|unit, fpm| {
            let goes_on = fpm.target != target || fpm.committed();
            if !goes_on {
                loans.release(unit);
            }
            goes_on
        });
        if self.units.is_empty() && !matches!(self.phase, Phase::Idle | Phase::Looking) {
            self.phase = Phase::Returning;
        }
    }

    pub fn progress(&self, target: &str) -> Progress {
        self.progress.get(target).cloned().unwrap_or(Progress::Idle)
    }

    /// `began`: the start of the rollout.
    pub fn renew(&mut self, now: Mono, target: &str, want: Want, began: Mono) {
        self.wants.insert(target.to_owned(), (want, began));
        self.progress.insert(target.to_owned(), Progress::Working);
        if self.phase == Phase::Looking {
            self.looking = None;
        }
        self.next = now;
    }

    /// It is not to be made fresh for what is newly wanted, since it is held: what was reached before says nothing now.
    pub fn rest(&mut self, target: &str) {
        self.progress.retain(|name, progress| name != target || *progress == Progress::Working);
    }

    /// Whether this unit is on its way through the bracket.
    #[must_use]
    pub fn owns(&self, unit: &str) -> bool {
        self.units.get(unit).is_some_and(|unit| !unit.at_rest())
    }

    /// Whether workers are stopped for a count that is under way.
    #[must_use]
    pub fn counting(&self) -> bool {
        self.units.values().any(Fpm::counting)
    }

    /// Whether the first look is still to come.
    #[must_use]
    pub fn gathering(&self) -> bool {
        self.phase == Phase::Looking || (self.phase == Phase::Idle && self.progress.values().any(|progress| *progress == Progress::Working))
    }

    /// Nothing has been restarted in this bracket, so it can still be left.
    fn reversible(&self) -> bool {
        !self.units.values().any(Fpm::committed)
    }

    /// Whether pools are to stay out: the bracket is on its way, or php-fpm is not proven to serve.
    #[must_use]
    pub fn needs_out(&self) -> bool {
        matches!(self.phase, Phase::LeavingPool | Phase::Draining | Phase::Rechecking | Phase::Renewing)
    }

    /// Gives up, if nothing was restarted yet; otherwise goes on to the end.
    pub fn pause(&mut self, loans: &mut Loans) -> bool {
        if !self.reversible() {
            return false;
        }
        for unit in self.units.keys() {
            loans.release(unit);
        }
        self.units.clear();
        self.wants.clear();
        self.progress.retain(|_, progress| *progress != Progress::Working);
        self.looking = None;
        self.phase = if self.phase == Phase::Idle { Phase::Idle } else { Phase::Returning };
        true
    }

    pub fn outcome(&mut self, turn: &mut Turn<'_>, id: EffectId, outcome: &Outcome) -> bool {
        if self.looking.take_if(|looking| *looking == id).is_some() {
            match outcome {
                Outcome::Units(units) => self.seen(turn, units),
                other => {
                    self.trouble = Some(format!("cannot look at php-fpm: {}", other.said()));
                    self.next = turn.now.mono.after(RETRY);
                }
            }
            return true;
        }
        self.units.values_mut().any(|unit| unit.outcome(turn, id, outcome))
    }

    pub fn hint(&mut self, now: Mono) {
        if self.phase == Phase::Looking {
            self.next = now;
        }
    }

    fn rules<'p>(turn: &Turn<'p>, target: &str) -> Option<&'p FpmRules> {
        match turn.policy.targets.get(target) {
            Some(TargetRules::PhpFpm(rules)) => Some(rules),
            _ => None,
        }
    }

    fn seen(&mut self, turn: &mut Turn<'_>, units: &[UnitSeen]) {
        self.trouble = None;
        self.units.clear();
        let now = turn.now.mono;
        if self.restart_under_way(turn, units) {
            self.next = now.after(RETRY);
            return;
        }
        let wants = self.wants.clone();
        let mut renewals = Vec::new();
        for (target, (want, _)) in &wants {
            if self.progress.get(target) != Some(&Progress::Working) {
                continue;
            }
            let Some(rules) = Self::rules(turn, target) else { continue };
            let seen = units
                .iter()
                .find(|seen| seen.unit == rules.unit)
                .cloned()
                .unwrap_or_else(|| UnitSeen { unit: rules.unit.clone(), ..UnitSeen::default() });
            match untouchable(&seen) {
                Some(why) => self.fail(turn, target, &rules.unit, why),
                None if needs_renewal(turn, target, &seen, want) => renewals.push((target.clone(), rules.clone(), want.clone(), seen)),
                None if self.look_began < want.landed.after(LOOK_FROM) => {
                    self.next = want.landed.after(LOOK_FROM);
                }
                None => {
                    let why = if seen.active.runs() { "runs the newest code" } else { "does not run" };
                    self.notes.insert(target.clone(), (TargetState::Fresh, why.to_owned()));
                    self.progress.insert(target.clone(), Progress::Reached);
                }
            }
        }
        // An emergency does not wait for those that are none; they have a bracket of their own after it.
        self.forced = renewals.iter().any(|(_, _, want, _)| want.forced);
        for (target, rules, want, seen) in renewals {
            if want.forced == self.forced {
                let unit = Fpm::new(&target, &rules, want, seen, now);
                self.units.insert(unit.unit.clone(), unit);
            }
        }
        if self.units.is_empty() {
            self.phase =
                if self.progress.values().any(|progress| *progress == Progress::Working) { Phase::Looking } else { Phase::Returning };
            return;
        }
        for (unit, fpm) in &mut self.units {
            let memory = turn.memory.targets.get(&fpm.target).cloned().unwrap_or_default();
            let Some(seen) = units.iter().find(|seen| seen.unit == *unit) else { continue };
            settle_cut(turn, unit, cut_happened(turn, seen), false);
            if turn.memory.unproven.contains_key(unit) && stale_fpm(seen, &fpm.want, &memory).is_empty() {
                fpm.resume_unproven();
            }
            turn.phase_began(&fpm.target.clone(), "preflight");
        }
        self.phase = Phase::Preparing;
        self.rounds = 0;
    }

    /// An earlier agent has begun to restart one of them and systemd is still at it: that comes to its end first.
    fn restart_under_way(&mut self, turn: &Turn<'_>, units: &[UnitSeen]) -> bool {
        let stopping = |seen: &&UnitSeen| seen.active == Active::Deactivating && turn.memory.unproven.contains_key(&seen.unit);
        let Some(seen) = units.iter().find(stopping) else {
            self.patience = None;
            return false;
        };
        let rules = turn.memory.unproven.get(&seen.unit).and_then(|target| Self::rules(turn, target));
        let term_timeout = rules.map_or(RETRY, |rules| rules.term_timeout);
        let until = *self.patience.get_or_insert(turn.now.mono.after(term_timeout + PATIENCE));
        turn.now.mono < until
    }

    fn fail(&mut self, turn: &mut Turn<'_>, target: &str, unit: &str, why: &str) {
        turn.unit_ended(target, unit, UnitEnd::Failed, why);
        self.progress.insert(target.to_owned(), Progress::Failed { why: format!("{unit}: {why}"), blocked: false });
        self.notes.insert(target.to_owned(), (TargetState::Failed, why.to_owned()));
    }

    pub fn advance(&mut self, turn: &mut Turn<'_>, loans: &mut Loans, pools: &mut BTreeMap<String, Pool>) {
        for unit in self.units.values_mut() {
            unit.advance(turn, loans);
        }
        // From one phase into the next as far as it goes; there are not more than these.
        for _ in 0..8 {
            let phase = self.phase.clone();
            self.advance_phase(turn, loans, pools);
            if self.phase == phase {
                break;
            }
        }
    }

    fn advance_phase(&mut self, turn: &mut Turn<'_>, loans: &mut Loans, pools: &mut BTreeMap<String, Pool>) {
        let now = turn.now.mono;
        match self.phase {
            Phase::Idle => {
                if self.progress.values().any(|progress| *progress == Progress::Working) {
                    self.phase = Phase::Looking;
                    self.look(turn);
                }
            }
            Phase::Looking => self.look(turn),
            Phase::Preparing => self.prepared(turn, pools),
            Phase::LeavingPool => self.leaving(turn, pools, false),
            Phase::Draining => {
                if self.drained(turn, loans) {
                    self.each_phase(turn, "drain", "restart");
                    self.phase = Phase::Rechecking;
                    if !self.forced {
                        let _ = verdicts(turn, pools, Goal::Know, true);
                    }
                    self.rechecked(turn, loans, pools);
                }
            }
            Phase::Rechecking => self.rechecked(turn, loans, pools),
            Phase::Renewing => {
                self.renew_drained(turn, loans);
                if self.units.values().all(Fpm::at_rest) {
                    self.renewed(turn, now);
                }
            }
            Phase::Returning => {
                // As long as some php-fpm is not proven, here or held, the host stays out; and a newer deploy does not wait for a balancer.
                let back = turn.memory.depooled.is_empty() || !turn.memory.unproven.is_empty();
                if back || self.outdated() {
                    self.finish(turn);
                }
            }
        }
    }

    /// Something newer is wanted than what this bracket was for.
    fn outdated(&self) -> bool {
        let newer = |unit: &Fpm| self.wants.get(&unit.target).is_some_and(|(want, _)| !want.is(&unit.want));
        self.units.values().any(newer)
    }

    fn live(&self) -> impl Iterator<Item = &Fpm> {
        self.units.values().filter(|unit| !unit.at_rest())
    }

    fn look(&mut self, turn: &mut Turn<'_>) {
        if self.looking.is_some() || turn.now.mono < self.next {
            return;
        }
        let working = self.progress.iter().filter(|(_, progress)| **progress == Progress::Working);
        let units: Vec<String> = working.filter_map(|(target, _)| Self::rules(turn, target)).map(|rules| rules.unit.clone()).collect();
        if units.is_empty() {
            self.phase = Phase::Idle;
            return;
        }
        self.look_began = turn.now.mono;
        self.looking = Some(turn.ask(Effect::Look { units, looked: Looked::Exactly, cgroups: BTreeMap::new() }));
    }

    fn prepared(&mut self, turn: &mut Turn<'_>, pools: &mut BTreeMap<String, Pool>) {
        if !self.units.values().all(|unit| unit.step == FpmStep::Prepared || unit.at_rest()) {
            return;
        }
        if self.live().next().is_none() {
            return self.leave(turn);
        }
        if self.forced || turn.policy.pools.is_empty() {
            self.each_phase(turn, "preflight", "drain");
            return self.begin_drain(turn, Duration::ZERO);
        }
        self.each_phase(turn, "preflight", "depool");
        self.phase = Phase::LeavingPool;
        self.leaving(turn, pools, true);
    }

    fn leaving(&mut self, turn: &mut Turn<'_>, pools: &mut BTreeMap<String, Pool>, afresh: bool) {
        let verdicts = verdicts(turn, pools, Goal::Out, afresh);
        if let Some(why) = verdicts.iter().find_map(|verdict| if let Verdict::Failed(why) = verdict { Some(why.clone()) } else { None }) {
            return self.give_up(turn, &why);
        }
        if verdicts.iter().all(|verdict| matches!(verdict, Verdict::OutByUs | Verdict::OutByOther)) {
            self.each_phase(turn, "depool", "drain");
            let quiet = turn.policy.pools.values().map(|rules| rules.quiet).max().unwrap_or_default();
            self.begin_drain(turn, quiet);
        }
    }

    fn begin_drain(&mut self, turn: &mut Turn<'_>, quiet: Duration) {
        let now = turn.now.mono;
        let pooled = !turn.policy.pools.is_empty();
        for unit in self.units.values_mut().filter(|unit| unit.step == FpmStep::Prepared) {
            let from = if pooled { now } else { self.wants.get(&unit.target).map_or(now, |(_, began)| *began) };
            let until = if self.forced { now } else { from.after(unit.rules.drain_timeout) };
            unit.drain(now, until, quiet, self.forced || !pooled);
        }
        self.phase = Phase::Draining;
    }

    /// Right before the restart: a host that somebody has put back meanwhile is taken out and drained again (trap T30).
    fn rechecked(&mut self, turn: &mut Turn<'_>, loans: &mut Loans, pools: &mut BTreeMap<String, Pool>) {
        if !self.forced {
            let verdicts = verdicts(turn, pools, Goal::Know, false);
            if verdicts.contains(&Verdict::Pending) {
                return;
            }
            if let Some(why) = verdicts.iter().find_map(|verdict| if let Verdict::Failed(why) = verdict { Some(why.clone()) } else { None })
            {
                return self.give_up(turn, &why);
            }
            if verdicts.contains(&Verdict::Pooled) {
                self.rounds += 1;
                if self.rounds >= ROUNDS {
                    return self.give_up(
                        turn,
                        "somebody puts this host back into the pool whenever it is taken out: hold the agent or let it work",
                    );
                }
                for unit in self.units.values_mut().filter(|unit| !unit.at_rest()) {
                    unit.step = FpmStep::Prepared;
                }
                self.phase = Phase::LeavingPool;
                return self.leaving(turn, pools, true);
            }
        }
        if !self.drained(turn, loans) {
            // Something has come in while the pools were asked.
            self.phase = Phase::Draining;
            return;
        }
        self.phase = Phase::Renewing;
        self.renew_drained(turn, loans);
    }

    /// Whether all have drained, at this moment, and none would have to wait for what else its restart needs.
    fn drained(&mut self, turn: &Turn<'_>, loans: &mut Loans) -> bool {
        let mut drained = true;
        for unit in self.units.values_mut().filter(|unit| !unit.at_rest()) {
            drained &= unit.may_renew(turn, loans);
            drained &= unit.drained(turn.now.mono);
        }
        drained
    }

    fn renew_drained(&mut self, turn: &mut Turn<'_>, loans: &mut Loans) {
        for unit in self.units.values_mut() {
            if unit.drained(turn.now.mono) && unit.may_renew(turn, loans) {
                unit.renew(turn.now.mono);
                unit.advance(turn, loans);
            }
        }
    }

    fn give_up(&mut self, turn: &mut Turn<'_>, why: &str) {
        for unit in self.units.values_mut().filter(|unit| !unit.at_rest()) {
            turn.unit_ended(&unit.target, &unit.unit, UnitEnd::Failed, why);
            unit.step = FpmStep::Refused(why.to_owned());
            self.progress.insert(unit.target.clone(), Progress::Failed { why: why.to_owned(), blocked: true });
            self.notes.insert(unit.target.clone(), (TargetState::Stale, format!("not restarted, the old code keeps serving: {why}")));
        }
        self.leave(turn);
    }

    fn renewed(&mut self, turn: &mut Turn<'_>, now: Mono) {
        self.each_phase(turn, "restart", "repool");
        self.next = now;
        self.leave(turn);
    }

    fn leave(&mut self, _turn: &mut Turn<'_>) {
        self.phase = Phase::Returning;
    }

    /// All is back where it was. What was wanted of each target is reached, or not; a newer want is looked at afresh.
    fn finish(&mut self, turn: &mut Turn<'_>) {
        self.each_phase(turn, "repool", "");
        for unit in std::mem::take(&mut self.units).into_values() {
            if !self.wants.contains_key(&unit.target) {
                // Given up, or no longer in the configuration.
                continue;
            }
            let progress = match &unit.step {
                FpmStep::Done => {
                    self.notes.insert(unit.target.clone(), (TargetState::Fresh, "restarted, and it serves".to_owned()));
                    // One more look decides, and sees a deploy that landed meanwhile.
                    continue;
                }
                FpmStep::Refused(why) | FpmStep::Broken(why) => {
                    if self.wants.get(&unit.target).is_some_and(|(want, _)| !want.is(&unit.want)) {
                        self.progress.insert(unit.target.clone(), Progress::Working);
                        continue;
                    }
                    let blocked = matches!(self.progress.get(&unit.target), Some(Progress::Failed { blocked: true, .. }));
                    self.notes.entry(unit.target.clone()).or_insert((TargetState::Failed, why.clone()));
                    if !blocked {
                        self.notes.insert(unit.target.clone(), (TargetState::Failed, why.clone()));
                    }
                    Progress::Failed { why: format!("{}: {why}", unit.unit), blocked }
                }
                _ => Progress::Working,
            };
            self.progress.insert(unit.target.clone(), progress);
        }
        self.phase = Phase::Idle;
        self.next = turn.now.mono;
    }

    fn each_phase(&mut self, turn: &mut Turn<'_>, ended: &str, began: &str) {
        for unit in self.units.values() {
            turn.phase_ended(&unit.target, ended);
            if !began.is_empty() && !matches!(unit.step, FpmStep::Refused(_)) {
                turn.phase_began(&unit.target, began);
            }
        }
    }

    #[must_use]
    pub fn deadline(&self) -> Option<Deadline> {
        let look = (self.phase == Phase::Looking && self.looking.is_none()).then(|| Deadline::new(self.next, "php-fpm: look at it"));
        earliest(self.units.values().map(Fpm::deadline).chain([look]))
    }

    /// The unit of a target, for status.
    #[must_use]
    pub fn view(&self, target: &str, rules: &FpmRules, now: Now) -> Option<UnitView> {
        if let Some(unit) = self.units.get(&rules.unit) {
            let held_back = match self.phase {
                Phase::LeavingPool => "waits for this host to be out of the pool",
                _ => "about to be drained",
            };
            return Some(unit.view(now, held_back));
        }
        let (state, why) = self.notes.get(target)?.clone();
        Some(UnitView { unit: rules.unit.clone(), state, stale_processes: 0, oldest_start: None, in_flight: None, why, deadline: None })
    }

    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }
}

/// What the pools of the configuration say to a goal. One that came with a new configuration meanwhile is asked like the others; one
/// that is no longer in it gets its host back, and is no concern of a restart any more.
fn verdicts(turn: &mut Turn<'_>, pools: &mut BTreeMap<String, Pool>, goal: Goal, afresh: bool) -> Vec<Verdict> {
    let policy = turn.policy;
    let mut verdicts = Vec::new();
    for pool in pools.values_mut().filter(|pool| policy.pools.contains_key(pool.name())) {
        if afresh || pool.goal() != goal {
            pool.want(turn, goal);
        }
        verdicts.push(pool.verdict());
    }
    verdicts
}

fn cut_happened(turn: &Turn<'_>, seen: &UnitSeen) -> bool {
    turn.memory.cutting.get(&seen.unit).is_some_and(|cutting| cutting.invocation != seen.invocation || !seen.active.runs())
}

fn untouchable(unit: &UnitSeen) -> Option<&'static str> {
    match unit.load {
        Load::NotFound => Some("there is no such unit: mend `unit` in the configuration, or install it"),
        Load::Bad => Some("systemd cannot load it: see systemctl status"),
        Load::Masked => Some("it is masked, so it could not come back: unmask it"),
        Load::Loaded if unit.refuse_manual_stop || unit.refuse_manual_start => {
            Some("it refuses a manual stop or start (RefuseManualStop=, RefuseManualStart=)")
        }
        Load::Loaded => None,
    }
}
