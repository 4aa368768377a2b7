//! What a look shows: who serves, who lingers, who is gone.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Generations, Phase, name};
use crate::core::cut::{is_queued, settle_cut_of_earlier, still_ending};
use crate::core::entry::Entry;
use crate::core::fpm::Fpm;
use crate::core::memory::{TargetMemory, Want};
use crate::core::policy::GenerationRules;
use crate::core::seen::{Active, GenerationsSeen, Load, UnitSeen};
use crate::core::stale::{is_urgent, stale_fpm};
use crate::core::step::Turn;
use crate::core::target::Progress;
use crate::core::time::Mono;

/// Between two looks while the new one is watched, and while there is no room.
const LOOK_WHILE_WATCHING: Duration = Duration::from_millis(500);
const LOOK_WITHOUT_ROOM: Duration = Duration::from_secs(10);

/// While the one that serves is starting, by somebody's hand or systemd's.
const LOOK_UNTIL_UP: Duration = Duration::from_secs(1);
/// For somebody's restart of the one that serves.
const RESTART_PATIENCE: Duration = Duration::from_secs(10);
/// What has served for so long is not in a loop of crashes.
const STAYS_UP: Duration = Duration::from_secs(600);

/// It has a master that takes connections, or is about to have one again.
pub(super) fn runs(unit: &UnitSeen) -> bool {
    unit.active.runs() && unit.active != Active::Deactivating
}

impl Generations {
    pub(super) fn seen(&mut self, turn: &mut Turn<'_>, rules: &GenerationRules, seen: &GenerationsSeen) {
        let now = turn.now.mono;
        self.seen = seen.clone();
        self.unborn.retain(|_, (_, answered)| answered.is_none_or(|at| !self.look.seen_since(at)));
        let memory = turn.memory.targets.get(&self.name).cloned().unwrap_or_default();
        self.current = serving(rules, seen, &memory).map(str::to_owned);
        self.served_last = self.current.clone().or(self.served_last.take());
        let switching = matches!(self.phase, Phase::Switching | Phase::Watching { .. } | Phase::Back { .. } | Phase::Mending { .. });
        self.serves_again(turn, &memory);
        if !self.looked {
            self.bad.extend(memory.bad.iter().cloned());
        }
        self.bad.retain(|unit| seen.units.iter().any(|seen| seen.unit == *unit));
        let fresh = |unit: &String| memory.fresh.get(unit);
        let proven = |unit: &String| memory.served.contains(unit);
        let standing = |unit: &String| (proven(unit), fresh(unit).map_or(Mono::BOOT, |fresh| fresh.landed));
        self.standing = seen.units.iter().map(|seen| (seen.unit.clone(), standing(&seen.unit))).collect();
        for unit in &seen.units {
            let spared =
                self.leaving.contains_key(&unit.unit) || self.current.as_ref() == Some(&unit.unit) || self.ending.contains_key(&unit.unit);
            if runs(unit) && !spared && !switching && !self.is_starting(&memory, unit) {
                self.lingers(turn, rules, &memory, unit);
            }
        }
        self.forget_gone(turn, &memory);
        self.look.want(now.after(match self.phase {
            Phase::Watching { .. } => LOOK_WHILE_WATCHING,
            Phase::Room => LOOK_WITHOUT_ROOM,
            // Nothing tells when it is up.
            _ if self.current.is_some() && !self.serves_well() => LOOK_UNTIL_UP,
            _ => super::LOOK_AT_REST,
        }));
        if self.switches() && !self.has_looked_since(self.looked_from) {
            self.look.want(self.looked_from.max(now));
        }
        if self.phase == Phase::Rest {
            self.see_to_it_that_one_serves(turn, rules);
        }
        self.looked = true;
    }

    /// Somebody, or an agent that was interrupted, has made the symlink lead to it: it is not ended, and not being started any more.
    fn serves_again(&mut self, turn: &mut Turn<'_>, memory: &TargetMemory) {
        let Some(current) = self.current.clone() else { return };
        self.is_needed(turn, &current);
        // What we switch to is told when it was.
        let told = self.phase == Phase::Switching && self.starting.as_ref().is_some_and(|fpm| fpm.unit == current);
        if (!told && !memory.served.contains(&current)) || memory.lingering.contains_key(&current) {
            turn.record(Entry::Switched { target: self.name.clone(), unit: current });
        }
    }

    /// It is being started for what is wanted, by this agent or by one that is no more.
    fn is_starting(&self, memory: &TargetMemory, unit: &UnitSeen) -> bool {
        let ours = self.starting.as_ref().is_some_and(|fpm| fpm.unit == unit.unit);
        ours || (self.phase == Phase::Looking && self.goal().is_some_and(|want| started_for(memory, &unit.unit, want)))
    }

    /// It runs and serves nobody new.
    fn lingers(&mut self, turn: &mut Turn<'_>, rules: &GenerationRules, memory: &TargetMemory, seen: &UnitSeen) {
        let now = turn.now;
        if let Some(cutting) = turn.memory.cutting.get(&seen.unit).cloned() {
            if still_ending(&cutting, seen) || is_queued(&cutting, seen) || turn.memory.stopping(&seen.unit) {
                return;
            }
            settle_cut_of_earlier(turn, &seen.unit, cutting.invocation != seen.invocation);
        }
        // One that has never served has nothing to finish. Where all share a socket each serves as soon as it runs.
        let has_led = memory.served.contains(&seen.unit) || memory.led.contains(&seen.unit);
        let never_served = memory.started.contains(&seen.unit) && !has_led && !rules.shared();
        if !memory.lingering.contains_key(&seen.unit) {
            let running = turn.memory.rollout.as_ref().map(|rollout| &rollout.view);
            let rollout = running.or(turn.memory.last_rollout.as_ref()).map(|view| view.id.clone());
            turn.record(Entry::Lingers { target: self.name.clone(), unit: seen.unit.clone(), rollout });
        }
        let lingering = turn.memory.targets.get(&self.name).and_then(|memory| memory.lingering.get(&seen.unit)).cloned();
        let since = lingering.as_ref().map_or(now.mono, |lingering| now.mono_of(lingering.since).min(now.mono));
        let urgent = self.want.as_ref().is_some_and(|want| is_urgent(seen.main_start, want));
        let until = if never_served || urgent { now.mono } else { since.after(rules.linger) };
        let want = self.want.clone().unwrap_or_default();
        let mut fpm = Fpm::ending(&self.name, &rules.of(&seen.unit), want, seen.clone(), now.mono);
        fpm.shared = rules.shared();
        fpm.rollout = lingering.and_then(|lingering| lingering.rollout);
        fpm.linger_until(until);
        if let Some(layout) = self.layouts.get(&seen.unit) {
            fpm.laid_out(layout);
        }
        self.ending.insert(seen.unit.clone(), fpm);
    }

    fn forget_gone(&mut self, turn: &mut Turn<'_>, memory: &TargetMemory) {
        let known = memory.lingering.keys().chain(memory.fresh.keys()).chain(&memory.started);
        let gone = |unit: &&String| {
            let there = self.unit(unit).is_some_and(|seen| seen.active.runs() || !seen.processes.is_empty());
            !there && !self.unborn.contains_key(*unit) && !self.fpms().any(|fpm| fpm.unit == **unit)
        };
        let gone: BTreeSet<String> = known.filter(gone).cloned().collect();
        self.layouts.retain(|unit, _| !gone.contains(unit));
        for unit in gone {
            turn.record(Entry::GenerationOver { target: self.name.clone(), unit });
        }
    }

    /// At rest: one generation serves. Where the symlink leads nowhere it is switched to one that runs; where none runs, one is started, unless
    /// a person has stopped it.
    fn see_to_it_that_one_serves(&mut self, turn: &mut Turn<'_>, rules: &GenerationRules) {
        let now = turn.now.mono;
        let stale = self.current.clone().filter(|unit| self.is_behind(turn, unit));
        if self.current.is_some() && stale.is_none() {
            self.rescue = None;
            if now >= self.rescue_at.after(STAYS_UP) {
                self.rescue_tries = 0;
            }
            return;
        }
        // Under a hold as well: it is not called reached any more, and what follows from that waits for the hold to end.
        if let Some(unit) = stale {
            return self.lapses(turn, unit);
        }
        // Another one that runs is not kept waiting for the pause between two that are started.
        let switches = self.current.is_none() && !rules.shared() && !self.held && now >= self.switch_at;
        if let Some(to) = self.youngest(None).filter(|_| switches && !self.is_being_restarted(turn, rules)) {
            // It is about to serve: before it does, what it is behind is not called reached any more.
            if self.is_behind(turn, &to) {
                self.lapses(turn, to.clone());
            }
            self.tries = 0;
            return self.enter(now, Phase::Mending { to });
        }
        if now < self.rescue_at || self.held || self.is_being_restarted(turn, rules) || self.is_stopped(rules) {
            return;
        }
        let deploy = turn.memory.stamp.as_ref().map(|stamp| stamp.deploy.id.clone());
        let id = deploy.unwrap_or_else(|| "start".to_owned());
        self.rescue = Some(Want { id, ..Want::default() });
        self.enter(now, Phase::Looking);
    }

    /// systemd forgets one that was stopped, not one that has failed.
    pub(super) fn is_stopped(&self, rules: &GenerationRules) -> bool {
        let led_to = self.served_last.as_ref().filter(|unit| leads_to(rules, &self.seen, unit));
        let inactive = |unit: &String| self.unit(unit).is_none_or(|seen| seen.active == Active::Inactive);
        led_to.is_some_and(inactive) && self.looked && self.rescue.is_none()
    }

    /// Somebody is at the one that the symlink leads to, or one is being started, as after a boot: it is there in a moment, or down then.
    fn is_being_restarted(&mut self, turn: &Turn<'_>, rules: &GenerationRules) -> bool {
        let now = turn.now.mono;
        let its = |unit: &UnitSeen| leads_to(rules, &self.seen, &unit.unit) && (unit.job || unit.active == Active::Deactivating);
        let starts = |unit: &UnitSeen| unit.job && unit.active == Active::Activating;
        let restarts = self.seen.units.iter().any(|unit| its(unit) || starts(unit));
        self.down_since = self.down_since.filter(|_| restarts).or(restarts.then_some(now));
        let waits = self.down_since.is_some_and(|since| now < since.after(RESTART_PATIENCE));
        if waits {
            self.look.want(now.after(LOOK_WHILE_WATCHING));
        }
        waits
    }

    /// The generation for what had been reached is gone: this one is older.
    fn is_behind(&self, turn: &Turn<'_>, unit: &str) -> bool {
        let Some(memory) = turn.memory.targets.get(&self.name) else { return false };
        let reached = memory.reached.as_ref().filter(|_| memory.unmet().is_none());
        let seen = self.unit(unit).filter(|seen| seen.main_pid != 0);
        reached.zip(seen).is_some_and(|(want, seen)| !stale_fpm(seen, want, memory).is_empty())
    }

    /// What had been reached is not any more. The machine tries again, as after a rollout that failed, but not before the pause of an earlier try is over.
    fn lapses(&mut self, turn: &mut Turn<'_>, unit: String) {
        self.progress = Progress::Idle;
        self.again_at = self.rescue_at;
        self.look.want(self.again_at);
        self.put_off_rescue(turn.now.mono);
        turn.record(Entry::Lapsed { target: self.name.clone(), unit });
    }

    /// Of those that run, apart from this one, the one that was proven for the newest code, or was started last.
    pub(super) fn youngest(&self, apart: Option<&str>) -> Option<String> {
        let up = |unit: &&UnitSeen| matches!(unit.active, Active::Active | Active::Reloading) && unit.load == Load::Loaded;
        let others = self.seen.units.iter().filter(up).filter(|unit| Some(unit.unit.as_str()) != apart);
        let ending = |unit: &&UnitSeen| self.ending.get(&unit.unit).is_none_or(|fpm| !fpm.is_past_return());
        let standing = |unit: &&UnitSeen| {
            let (proven, landed) = self.standing.get(&unit.unit).copied().unwrap_or_default();
            (proven && !self.bad.contains(&unit.unit), landed, unit.main_start)
        };
        others.filter(ending).max_by_key(standing).map(|unit| unit.unit.clone())
    }

    /// The same of those that were proven, and have not proven bad since.
    pub(super) fn youngest_proven(&self, apart: &str) -> Option<String> {
        let proven = |unit: &String| self.standing.get(unit).is_some_and(|(proven, _)| *proven) && !self.bad.contains(unit);
        self.youngest(Some(apart)).filter(proven)
    }

    /// As many as count for `max_generations`.
    pub(super) fn running(&self) -> usize {
        self.seen.units.iter().filter(|unit| unit.active.runs()).count() + self.unseen().count()
    }

    /// Given up after their start, and not seen to run since: they may, or not.
    pub(super) fn unseen(&self) -> impl Iterator<Item = &String> {
        self.unborn.keys().filter(|unit| !self.unit(unit).is_some_and(|seen| seen.active.runs()))
    }

    /// The last look is one that nothing can have slipped through.
    pub(super) fn has_looked_since(&self, at: Mono) -> bool {
        self.look.seen_since(at)
    }
}

/// The instance that gets the requests: that the symlink leads to, or that was last given what all share. If it runs.
#[must_use]
pub fn serving<'s>(rules: &GenerationRules, seen: &'s GenerationsSeen, memory: &TargetMemory) -> Option<&'s str> {
    if rules.shared() {
        let up = || seen.units.iter().filter(|unit| runs(unit));
        let given = up().find(|unit| memory.current.as_ref() == Some(&unit.unit));
        let unproven = |unit: &&UnitSeen| memory.started.contains(&unit.unit) && !memory.served.contains(&unit.unit);
        let other = || up().filter(|unit| !unproven(unit)).max_by_key(|unit| unit.main_start);
        return given.or_else(other).map(|unit| unit.unit.as_str());
    }
    let serves = |unit: &&UnitSeen| runs(unit) && leads_to(rules, seen, &unit.unit);
    seen.units.iter().find(serves).map(|unit| unit.unit.as_str())
}

/// Whether the symlink leads to the socket of this instance.
fn leads_to(rules: &GenerationRules, seen: &GenerationsSeen, unit: &str) -> bool {
    let socket = name::instance_of(&rules.unit, unit).map(|instance| name::socket_of(&rules.socket, instance));
    socket.is_some() && socket == seen.leads_to
}

/// An earlier agent, or an earlier try, has begun to start it for this.
pub(super) fn started_for(memory: &TargetMemory, unit: &str, want: &Want) -> bool {
    memory.starting.as_ref().is_some_and(|(starting, landed)| starting == unit && *landed == want.landed)
}
