//! What must never happen, checked while things happen: the rules as the contract has them, against what is true in the world.

mod excluded;
mod generations;
mod opcaches;
mod reruns;
mod strays;
mod warm;

use std::time::Duration;

use restart_agent::core::effect::StatusAsk;
use restart_agent::core::generation_name;
use restart_agent::core::policy::{After, FpmRules, Overdue, Policy, ScheduledRules, ServiceRules, TargetRules};
use restart_agent::core::seen::{Active, Exit, ExitSeen, Load};

use crate::world::{Asked, Balancer, By, Cut, Hook, JobKind, MINUTE, MS, OnTerm, Process, S, Unit, Us, World};

/// A start within this after the landing counts as before it (facts F4.6).
pub(crate) const BLUR: Us = 50 * MS;
/// What has happened within this the agent could not know when it decided.
const UNKNOWABLE: Us = 300 * MS;

pub fn us(span: std::time::Duration) -> Us {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn matches(pattern: &str, name: &str) -> bool {
    pattern == name || pattern.split_once('*').is_some_and(|(head, tail)| name.starts_with(head) && name.ends_with(tail))
}

/// Whether it runs deployed code, by its name.
pub(crate) fn carries(code: &[String], process: &Process) -> bool {
    code.is_empty() || code.iter().any(|pattern| matches(pattern, process.comm))
}

fn covers(units: &[String], exclude: &[String], name: &str) -> bool {
    units.iter().any(|pattern| matches(pattern, name)) && !exclude.iter().any(|pattern| matches(pattern, name))
}

/// The shortest of this by the rules of now and those before: what is under way when they change goes on by those with which it began.
fn shortest<'r, R: 'r>(rules: &R, before: impl Iterator<Item = &'r R>, of: fn(&R) -> Duration) -> Us {
    us(before.map(of).fold(of(rules), Duration::min))
}

impl World {
    /// The target that a unit belongs to.
    #[must_use]
    pub fn target_of(&self, unit: &str) -> Option<(String, TargetRules)> {
        let found = self.policy.targets.iter().find(|(_, rules)| match rules {
            TargetRules::PhpFpm(rules) => rules.unit == unit,
            TargetRules::Generations(rules) => generation_name::instance_of(&rules.unit, unit).is_some(),
            TargetRules::Scheduled(rules) => covers(&rules.units, &rules.exclude, unit),
            TargetRules::Service(rules) => covers(&rules.units, &rules.exclude, unit),
            TargetRules::Strays(_) => false,
        });
        found.map(|(name, rules)| (name.clone(), rules.clone()))
    }

    pub(crate) fn scheduled_rules(&self, unit: &str) -> Option<(String, ScheduledRules)> {
        match self.target_of(unit)? {
            (name, TargetRules::Scheduled(rules)) => Some((name, rules)),
            _ => None,
        }
    }

    pub(crate) fn fpm_rules(&self, unit: &str) -> Option<(String, FpmRules)> {
        match self.target_of(unit)? {
            (name, TargetRules::PhpFpm(rules)) => Some((name, rules)),
            _ => None,
        }
    }

    pub(crate) fn term_timeout(&self, unit: &str) -> Option<Us> {
        let of = |rules: &TargetRules| match rules {
            TargetRules::PhpFpm(rules) => rules.term_timeout,
            TargetRules::Generations(rules) => rules.term_timeout,
            TargetRules::Scheduled(rules) => rules.term_timeout,
            TargetRules::Service(rules) => rules.term_timeout,
            TargetRules::Strays(rules) => rules.term_timeout,
        };
        let (target, rules) = self.target_of(unit)?;
        // A php-fpm goes on by the rules with which its drain began, which is no earlier than its being stale, or its start.
        let began = || {
            let started = self.units.get(unit).map_or(self.now, |unit| unit.main_start);
            self.made_stale(&target, started).map_or(started, |(at, _)| at)
        };
        // Of others what was decided a moment ago.
        let since = match rules {
            TargetRules::PhpFpm(_) | TargetRules::Generations(_) => began(),
            _ => self.now.saturating_sub(self.unknowable()),
        };
        let before = self.formers.iter().filter(|(until, _)| since < *until).filter_map(|(_, policy)| policy.targets.get(&target));
        Some(shortest(&rules, before, of))
    }

    /// Whether this script may not be stopped by its rules.
    #[must_use]
    pub fn protected(unit: &Unit, rules: &ScheduledRules) -> bool {
        let both = unit.on_success && unit.on_failure && rules.overdue.is_none();
        unit.refuse_stop || unit.load == Load::Masked || both || rules.overdue == Some(Overdue::Finish)
    }

    /// When what of it carries code began.
    fn oldest_of(unit: &Unit, code: &[String]) -> Us {
        let of_it = unit.processes.values().filter(|process| carries(code, process)).map(|process| process.start).min();
        if code.is_empty() { unit.oldest_start() } else { of_it.unwrap_or(Us::MAX) }
    }

    /// Whether this service cannot be restarted, or might not come back.
    fn must_be_left(unit: &Unit) -> bool {
        unit.refuse_stop || unit.refuse_start || unit.transient || unit.load == Load::Masked
    }

    /// Whether this script or service may go on with old code.
    #[must_use]
    pub(crate) fn goes_on(unit: &Unit, rules: &TargetRules) -> bool {
        match rules {
            TargetRules::Scheduled(rules) => Self::protected(unit, rules),
            TargetRules::Service(rules) => Self::must_be_left(unit) || rules.overdue == Some(Overdue::Finish),
            TargetRules::PhpFpm(_) | TargetRules::Generations(_) | TargetRules::Strays(_) => false,
        }
    }

    /// The same on a host as slow as this one.
    pub(crate) fn unknowable(&self) -> Us {
        UNKNOWABLE * (1 + self.faults.slowness / 10) + self.faults.look_takes + self.faults.disk_took
    }

    /// Since the clock was set a stamp whose hint was lost, or that was made without an agent, or before a boot, may have landed at any time.
    pub(crate) fn landings_are_known(&self) -> bool {
        !self.clock_was_set
    }

    /// The first deploy that made something started then stale, and whether any since is forced.
    pub(crate) fn made_stale(&self, target: &str, started: Us) -> Option<(Us, bool)> {
        let mut all = self.wanted.iter().filter(|wanted| wanted.names(target)).filter(|wanted| started < wanted.at + BLUR + 34 * MS);
        let first = all.next()?;
        let reached = self.reached.get(target).copied().unwrap_or(0);
        // An emergency is one until it has been reached.
        let forced =
            self.wanted.iter().any(|wanted| wanted.forced && wanted.names(target) && (wanted.at >= first.at || wanted.at > reached));
        Some((first.at, forced))
    }

    /// The same of what is new, by a deploy that is still to be reached, and may have landed since, for all that the agent knows.
    pub(super) fn lands_late(&self, target: &str) -> Option<(Us, bool)> {
        let reached = self.reached.get(target).copied().unwrap_or(0);
        let mut unmet = self.landings.iter().filter(|(at, deploy)| *at > reached && deploy.targets.contains(target));
        let (first, _) = unmet.clone().next().filter(|_| !self.landings_are_known())?;
        Some((*first, unmet.any(|(_, deploy)| deploy.forced.contains(target))))
    }

    /// Where the drain of what a deploy of then has made stale counts from, for all that the agent knows.
    pub(super) fn drains_from(&self, target: &str, at: Us) -> Us {
        self.lands_late(target).map_or(at, |(late, _)| late.min(at))
    }

    pub(crate) fn agent_may_stop(&mut self, name: &str) {
        let now = self.now;
        let Some((target, rules)) = self.scheduled_rules(name) else {
            if self.now > self.policy_changed + 5 * S {
                self.violates(format!("the agent stops {name}, which is no target's"));
            }
            return;
        };
        let Some(unit) = self.units.get(name) else { return };
        // With its loan the later ones of several commands do not begin: it is stopped though what it runs now is new, or its rules are others by now.
        let short = self.lent.get(name).filter(|_| unit.steps() > 1).map(|(from, _)| *from);
        let begun = short.is_some_and(|from| self.rules_before(name, from).any(|before| !Self::protected(unit, before)));
        let begun = begun || short.is_some_and(|from| self.barred_since(name, from)) || self.just_barred(name);
        if Self::protected(unit, &rules) && !begun {
            return self.violates(format!("the agent stops {name}, which its rules protect"));
        }
        let Some(oldest) = unit.processes.values().filter(|process| carries(&rules.code, process)).map(|process| process.start).min()
        else {
            return;
        };
        // Its drain is counted from when its run was first stale, whichever of its commands is at it.
        // What an earlier run has left behind is of this one by now, also if it has ended meanwhile, and whatever this one may leave.
        let old = self.made_stale(&target, oldest.min(unit.left_since));
        let of_run = old.and(self.made_stale(&target, unit.main_start));
        let run = if unit.leaves() || unit.left_since < Us::MAX { [of_run, old].into_iter().flatten().min() } else { of_run };
        match run {
            None if now < oldest.max(unit.main_start) + self.unknowable() || short.is_some() || !self.landings_are_known() => {}
            None => self.violates(format!("the agent stops {name}, which runs new code")),
            Some((at, false)) => {
                let at = self.drains_from(&target, at);
                if now < at + shortest(&rules, self.rules_before(name, at), |rules| rules.drain_timeout) {
                    let after = (now - at) as f64 / 1e6;
                    return self.violates(format!("the agent stops {name} {after:.3} s after the deploy, before its drain is over"));
                }
                self.agent_may_hurry(name, &rules, at);
            }
            Some((_, true)) => {}
        }
    }

    /// What could not come back, or is not to be stopped, is not asked to end.
    pub(crate) fn agent_may_ask(&mut self, name: &str) {
        let Some(unit) = self.units.get(name) else { return };
        let left = unit.refuse_stop || unit.load == Load::Masked || (!unit.oneshot() && Self::must_be_left(unit));
        if left && !self.just_barred(name) {
            self.violates(format!("the agent asks {name} to stop, which systemd does not let it stop, or start again"));
        }
    }

    /// The rules that a service has had since then, those of now apart.
    fn service_rules_before(&self, target: &str, since: Us) -> impl Iterator<Item = &ServiceRules> {
        let since = self.formers.iter().filter(move |(until, _)| since < *until);
        since.filter_map(move |(_, policy)| match policy.targets.get(target)? {
            TargetRules::Service(rules) => Some(rules),
            _ => None,
        })
    }

    /// The rules that a script has had since then, those of now apart.
    fn rules_before(&self, name: &str, since: Us) -> impl Iterator<Item = &ScheduledRules> {
        let since = self.formers.iter().filter(move |(until, _)| since < *until);
        since.filter_map(move |(_, policy)| policy.target_of_script(name)).map(|(_, before)| before)
    }

    /// The configuration before the present one.
    fn former(&self) -> Option<&Policy> {
        self.formers.last().map(|(_, former)| former)
    }

    /// Its drain is over: what it holds, or was asked, may still give it time.
    fn agent_may_hurry(&mut self, name: &str, rules: &ScheduledRules, stale_since: Us) {
        let now = self.now;
        let Some(unit) = self.units.get(name).filter(|unit| unit.active == Active::Activating) else { return };
        let held = now < unit.main_start + unit.manners().1;
        // What it is spared for its lock is counted from the end of its drain, and by the rules of then: those before may have had another drain.
        let due = stale_since + shortest(rules, self.rules_before(name, stale_since), |rules| rules.drain_timeout);
        let spared = due + shortest(rules, self.rules_before(name, due), |rules| rules.hold_timeout);
        if held && now < spared && now > self.policy_changed + 5 * S {
            return self.violates(format!("the agent stops {name}, which holds its lock"));
        }
        let asked = self.asked_at.get(name).copied().filter(|_| self.asked.contains(name));
        // Counted from when that was decided, which the disk may have delayed.
        let time =
            |asked| shortest(rules, self.rules_before(name, asked), |rules| rules.checkpoint_timeout).saturating_sub(self.faults.disk_took);
        if let Some(asked) = asked.filter(|asked| now < asked + time(*asked)) {
            self.violates(format!("the agent stops {name} {:.3} s after it asked it to stop", (now - asked) as f64 / 1e6));
        }
    }

    /// A dead agent has written that it would stop it, or systemd has not answered; or it may have ended while our stop was on its way, which nobody can tell from an end by that;
    /// or it ended well, and by nobody's doing, with its loan, with which the next of several commands does not run: which of them was its last nobody can tell.
    pub(crate) fn perhaps_stopped(&self, unit: &Unit) -> bool {
        let on_its_way = |at: &Us| unit.exit.is_some_and(|exit| exit.at.0 >= *at && exit.at.0 < at + 300 * MS);
        let well = |exit: &ExitSeen| matches!(exit.how, Exit::Exited(0)) && !unit.may_stay_down;
        // What was in force once has its effect on that run, also when it is taken back before the end.
        let began = unit.runs.last().map_or(0, |(at, _)| *at);
        let with_its_loan = |(from, until): &(Us, Us)| unit.exit.filter(well).is_some_and(|exit| *from <= exit.at.0 && began < *until);
        self.maybe_stopped.contains(&unit.invocation)
            || self.unanswered.contains(&unit.invocation)
            || self.sent.get(&unit.name).is_some_and(on_its_way)
            || (unit.steps() > 1 && self.lent.get(&unit.name).is_some_and(with_its_loan))
    }

    pub(crate) fn agent_may_start(&mut self, name: &str) {
        if self.asked.contains(name) || self.commanded.contains_key(name) {
            self.violates(format!("the agent starts {name}, which would find itself asked to stop"));
        }
        let Some((_, rules)) = self.scheduled_rules(name) else { return self.agent_may_bring_up(name) };
        // What had ended when the rules changed runs again by either.
        let ended = self.units.get(name).map_or(0, |unit| unit.idle_since);
        let mut before = self.rules_before(name, ended.saturating_sub(S));
        let wrong = self.wrong_start(name, &rules).filter(|_| before.all(|before| self.wrong_start(name, before).is_some()));
        drop(before);
        wrong.into_iter().for_each(|wrong| self.violates(format!("the agent starts {name}{wrong}")));
    }

    /// Why by these rules it is not to be started.
    fn wrong_start(&self, name: &str, rules: &ScheduledRules) -> Option<&'static str> {
        let now = self.now;
        let unit = self.units.get(name)?;
        if unit.active.runs() || unit.job.is_some_and(|job| job.kind == JobKind::Start) {
            return None;
        }
        // Of a run before the host went down nobody can tell whether it was one since.
        if unit.invocation.is_empty() && (unit.overtaken || self.cuts.iter().any(|cut| cut.unit == *name)) {
            return None;
        }
        let stopped = unit.interrupted();
        // What has heeded an agent that is gone may have ended by itself, as far as the present one can tell.
        let slot = unit.missed_slot || (unit.doubtful_slot && unit.last_stop_by_agent.is_none());
        if stopped && !self.hurried && now < unit.idle_since + us(rules.settle_after) && !slot && now > self.policy_changed + 5 * S {
            return Some(" before what it left behind has settled");
        }
        if unit.missed_slot || unit.doubtful_slot || (unit.checkpointed && rules.after != After::UntilNext) {
            return None;
        }
        let stopped_by_us = unit.last_stop_by_agent.is_some() || self.perhaps_stopped(unit);
        // With settle_after it was decided at its end that it is to run again.
        let decided = if rules.settle_after.is_zero() { now } else { unit.idle_since };
        let before = decided.saturating_sub(self.unknowable());
        let soon = self
            .timers
            .values()
            .filter(|timer| timer.unit == name && timer.active)
            // It was decided a moment before.
            .any(|timer| [decided, before].iter().all(|at| self.slot_after(timer, *at) - at <= us(rules.quiet_within)));
        if !stopped_by_us {
            Some(", which it did not stop")
        } else if rules.after == After::UntilNext || (rules.after == After::Auto && soon) {
            Some(", which by its rules is to stay quiet")
        } else {
            None
        }
    }

    /// What a person has stopped stays down, unless it had failed, or ended at a checkpoint, before.
    fn agent_may_bring_up(&mut self, name: &str) {
        let Some(unit) = self.units.get(name) else { return };
        // Nor what has not come up since the host went down: what it was at then, nobody can tell.
        let boots = unit.invocation.is_empty();
        // Whether a dead agent has restarted it, so that this is its stop, or its failed start.
        let doubtful = self.maybe_restarted.contains(&unit.invocation);
        // However that stop ended it; but what fails before anybody has seen it up may not have come up after our restart.
        let stopped = unit.ended_by_stop && unit.found_up && !doubtful;
        let ended = unit.active == Active::Inactive || (unit.active == Active::Failed && stopped);
        let down = ended && unit.may_stay_down && !unit.checkpointed && unit.job.is_none() && !boots;
        // One that is being stopped has its grace first; whose stop it is an agent cannot know that comes after one that has restarted it.
        let ours = doubtful || self.sent_before.get(name).is_some_and(|sent| *sent >= unit.main_start);
        // One that is asked by its rules, and ends well, has heeded that as far as anybody can see, unless a look has found it being stopped.
        let asks = matches!(self.target_of(name), Some((_, TargetRules::Service(rules))) if !rules.checkpoint_timeout.is_zero());
        let well = unit.exit.is_some_and(|exit| exit.how == Exit::Exited(0)) && unit.stop_took < 2 * S + self.unknowable();
        let down = down && !(asks && well);
        let grace = self.term_timeout(name).unwrap_or(0);
        let goes = |since: Us| unit.may_stay_down && !ours && self.now > since + self.unknowable() && self.now < since + grace;
        let going = unit.active == Active::Deactivating && unit.stop.as_ref().is_some_and(|stop| goes(stop.since));
        if !unit.oneshot() && (going || (down && self.now > unit.idle_since + self.unknowable())) {
            self.violates(format!("the agent starts {name}, which a person has stopped"));
        }
    }

    /// When requests of this unit may be cut.
    fn threshold(&self, name: &str) -> Option<Us> {
        let (target, rules) = self.fpm_rules(name)?;
        let unit = self.units.get(name)?;
        let (landed, forced) = self.made_stale(&target, unit.main_start).or_else(|| self.lands_late(&target))?;
        if forced {
            return Some(0);
        }
        // A drain that is under way when the rules change goes on by those with which it began.
        let formers = || self.formers.iter().filter(|(until, _)| landed < *until).map(|(_, former)| former);
        let before = formers().filter_map(|former| match former.targets.get(&target) {
            Some(TargetRules::PhpFpm(before)) => Some(before),
            _ => None,
        });
        let drain_timeout = shortest(&rules, before, |rules| rules.drain_timeout);
        let began_without_pools = formers().any(|former| former.pools.is_empty());
        let from = if self.policy.pools.is_empty() || began_without_pools { Some(landed) } else { self.out_since() };
        Some(from.map_or(Us::MAX, |from| from + drain_timeout))
    }

    fn may_be_cut(&mut self, name: &str, what: &str, only: Option<u32>) {
        let now = self.now;
        if self.generation_rules(name).is_some() {
            return self.agent_may_cut_generation(name, what, only);
        }
        let Some(unit) = self.units.get(name) else { return };
        let Some(fpm) = unit.as_fpm() else { return };
        // What has just come in could not be known.
        let in_vain = self.asked(name, self.fpm_rules(name).map(|(_, rules)| rules).as_ref()).contains(&Asked::InVain);
        let unanswered = if fpm.pools().all(|pool| pool.status == crate::world::Answers::Well) && !in_vain { 0 } else { 600 * MS };
        let strays: Vec<bool> = fpm.pools().map(|pool| pool.load.strays_every > 0).collect();
        let unknowable = |pid: u32| if strays[fpm.pool_of(pid)] { 8 * S } else { 300 * MS + unanswered };
        let just_now = 10 * MS * (1 + self.faults.slowness) + self.faults.look_takes;
        // Nor that a person let in some more, in and out again between two checks.
        let ours = || self.balancers.values().filter(|balancer| self.policy.pools.contains_key(&balancer.name));
        let let_in = |began: Us| ours().any(|balancer| balancer.turned_out_by_person && began >= balancer.put_in);
        let known = |request: &crate::world::Request| {
            (now - request.began > unknowable(request.pid) || request.known(now, just_now)) && !let_in(request.began)
        };
        let Some((_, request)) = fpm.requests.iter().find(|(_, request)| only.is_none_or(|pid| request.pid == pid) && known(request))
        else {
            return;
        };
        let line = request.uri.clone();
        match self.threshold(name) {
            // It was under way when the configuration was changed.
            None if now < self.policy_changed + S => {}
            // A pool came with a new configuration in the middle of the restart.
            Some(_) if self.pools_have_changed() => {}
            None => self.violates(format!("{what} for {name}, which runs new code, with {line} in flight")),
            Some(at) if now < at => {
                let early = (at.min(now + 3600 * S) - now) as f64 / 1e6;
                self.violates(format!("{what} for {name} with {line} in flight, {early:.3} s before the threshold"));
            }
            Some(_) => {}
        }
    }

    /// Each pool of what is restarted in place is asked where and for what the rules say, or else its php-fpm.
    pub(crate) fn agent_may_ask_for_status(&mut self, asks: &[StatusAsk]) {
        let changed = self.policy_changed > 0 && self.now < self.policy_changed + 3 * MINUTE;
        let units = self.units.keys().filter_map(|unit| Some((unit, self.fpm_rules(unit)?.1)));
        let mut all: Vec<StatusAsk> = units.flat_map(|(unit, rules)| self.asks(unit, Some(&rules))).flatten().collect();
        // One that cannot be read is asked for what the rules say alone.
        let by_rules = |rules: &FpmRules| {
            let path = rules.status_path.clone().unwrap_or_else(|| "/status".to_owned());
            rules.status.clone().map(|socket| StatusAsk { pool: "www".to_owned(), socket, path })
        };
        let alone: Vec<(String, StatusAsk)> =
            self.units.keys().filter_map(|unit| Some((unit.clone(), by_rules(&self.fpm_rules(unit)?.1)?))).collect();
        for (unit, ask) in &alone {
            let pools = self.units[unit].as_fpm().map_or(0, |fpm| fpm.pools().count());
            if pools > 1 && asks == [ask.clone()] {
                self.unread.insert(unit.clone());
            } else if asks.iter().any(|asked| asked.socket == ask.socket) {
                self.unread.remove(unit);
            }
        }
        all.extend(alone.into_iter().map(|(_, ask)| ask));
        all.extend(asks.iter().filter(|ask| self.template_of(&self.unit_at(&ask.socket)).is_some()).cloned());
        if let Some(ask) = asks.iter().find(|ask| !all.contains(ask)).filter(|_| !changed) {
            self.violates(format!("pool {} is asked for {} at {}, which nothing says", ask.pool, ask.path, ask.socket));
        }
    }

    pub(crate) fn agent_may_signal_worker(&mut self, name: &str, pid: u32, what: &str) {
        self.may_be_cut(name, what, Some(pid));
    }

    pub(crate) fn agent_may_restart(&mut self, name: &str) {
        let now = self.now;
        if self.template_of(name).is_some() {
            return self.agent_may_start_generation(name);
        }
        let Some((target, rules)) = self.target_of(name) else {
            if self.now > self.policy_changed + 5 * S {
                self.violates(format!("the agent restarts {name}, which is no target's"));
            }
            return;
        };
        if matches!(rules, TargetRules::Service(_)) {
            self.agent_may_bring_up(name);
        }
        let Some(unit) = self.units.get(name) else { return };
        // One that starts what carries code again and again may have done so since it was looked at.
        if !rules.code().is_empty() && unit.processes.values().any(|process| now < process.start + self.unknowable()) {
            return;
        }
        let oldest = Self::oldest_of(unit, rules.code());
        if let TargetRules::Service(rules) = &rules
            && unit.active == Active::Active
        {
            let forced = self.made_stale(&target, oldest).is_some_and(|(_, forced)| forced);
            let held = now < unit.main_start + unit.manners().1 && !forced;
            // Its drain is counted from when its run was first stale, whichever of its processes carries code by now.
            let deploy =
                self.made_stale(&target, oldest).and(self.made_stale(&target, unit.main_start.min(oldest))).map_or(0, |(at, _)| at);
            let due = deploy + shortest(rules, self.service_rules_before(&target, deploy), |rules| rules.drain_timeout);
            let spared = due + shortest(rules, self.service_rules_before(&target, due), |rules| rules.hold_timeout);
            // What was seen a moment ago is good enough for a restart.
            let just_barred = self.barred.get(name).is_some_and(|barred| now < barred.from + self.unknowable());
            let wrong = if Self::must_be_left(unit) && !just_barred {
                Some("which systemd does not let it restart")
            } else if rules.overdue == Some(Overdue::Finish) {
                Some("which its rules let finish")
            } else if self.asked.contains(name) || self.commanded.contains_key(name) {
                Some("which would find itself asked to stop")
            } else if held && now < spared {
                Some("which holds its lock")
            } else {
                None
            };
            if let Some(wrong) = wrong.filter(|_| now > self.policy_changed + 5 * S) {
                return self.violates(format!("the agent restarts {name}, {wrong}"));
            }
        }
        let Some(unit) = self.units.get(name) else { return };
        if unit.active == Active::Active {
            match self.made_stale(&target, oldest) {
                None => {
                    // Of what carries code the old may have ended a moment ago.
                    let at = if rules.code().is_empty() { unit.main_start } else { oldest.min(now) } + S + self.unknowable();
                    // An unproven php-fpm that does not answer may be restarted.
                    if self.landings_are_known() && unit.as_fpm().is_none_or(|fpm| fpm.pings) && now > at {
                        self.violates(format!("the agent restarts {name}, which runs new code"));
                    }
                }
                Some((at, false)) => {
                    // Of a run that goes on while what carries code in it changes the drain is that of the first deploy that has not been reached.
                    let reached = self.reached.get(&target).copied().unwrap_or(0);
                    let unreached = self.wanted.iter().find(|wanted| wanted.names(&target) && wanted.at > reached).map(|wanted| wanted.at);
                    let unreached = unreached.filter(|_| !rules.code().is_empty());
                    let at = self.drains_from(&target, unreached.map_or(at, |first| first.min(at)));
                    if let TargetRules::Service(rules) = &rules
                        && now < at + shortest(rules, self.service_rules_before(&target, at), |rules| rules.drain_timeout)
                    {
                        self.violates(format!("the agent restarts {name} before its drain is over"));
                    }
                    let known = |balancer: &Balancer| !balancer.lied && self.may_know_that_it_is_in(balancer);
                    let honest = self.balancers.values().all(known) && !self.pools_have_changed();
                    let Some(unit) = self.units.get(name) else { return };
                    if unit.as_fpm().is_some() && honest && !self.policy.pools.is_empty() && self.out_since().is_none() {
                        self.violates(format!("the agent restarts {name} while the host is in the pool"));
                    }
                }
                Some((_, true)) => {}
            }
            self.may_be_cut(name, "RestartUnit", None);
        }
    }

    /// A moment ago, with a new configuration: what is being restarted already comes to its end.
    fn pools_have_changed(&self) -> bool {
        let others = |former: &Policy| !former.pools.keys().eq(self.policy.pools.keys());
        self.now < self.policy_changed + S + self.unknowable() && self.former().is_some_and(others)
    }

    pub(crate) fn agent_may_kill(&mut self, name: &str) {
        let now = self.now;
        // What it has asked to end it may kill, also when its target has left the configuration since.
        let meant = self.units.get(name).is_some_and(|unit| self.maybe_stopped.contains(&unit.invocation));
        // It may have ended a moment before this arrives.
        if meant && self.units[name].processes.is_empty() {
            return;
        }
        let Some(term_timeout) = self.term_timeout(name).or(self.graces.get(name).copied()).or(meant.then_some(0)) else {
            return self.violates(format!("the agent kills {name}, which is no target's"));
        };
        // An agent that dies before its stop has gone out finds what systemd ends by itself, and cannot tell the one from the other.
        let of_systemd = |unit: &&crate::world::Unit| self.maybe_stopped.contains(&unit.invocation);
        let by_systemd = || self.units.get(name).filter(of_systemd).and_then(|unit| unit.stop.as_ref()).map(|stop| stop.since);
        // A service that somebody else is stopping has its grace from that, if no restart of ours has met this run.
        let service = matches!(self.target_of(name), Some((_, TargetRules::Service(_))));
        let unmet = |unit: &&Unit| service && self.sent.get(name).is_none_or(|sent| *sent < unit.main_start);
        // It may have ended a moment before this arrives.
        let just_ended = |unit: &Unit| !unit.active.runs() && now < unit.idle_since + self.unknowable();
        let ends_from = |unit: &Unit| match &unit.stop {
            Some(stop) => Some(stop.since),
            None => just_ended(unit).then(|| unit.idle_since - unit.stop_took),
        };
        let by_others = self.units.get(name).filter(unmet).and_then(ends_from);
        let Some(sent) = by_others.or_else(|| self.sent.get(name).copied()).or_else(by_systemd) else {
            return self.violates(format!("the agent kills {name} without having asked it to end"));
        };
        // systemd may have come to it later; at one that is being stopped already our stop sends no second SIGTERM, and its grace is that since it was decided,
        // which the disk may have delayed.
        let decided = sent.saturating_sub(self.faults.disk_took);
        let sent = self.units.get(name).and_then(|unit| unit.stop.as_ref()).map_or(sent, |stop| match stop.since < sent {
            true => decided.max(stop.since),
            false => stop.since,
        });
        // One that is stuck in the kernel has had its SIGKILL, by the rules of then.
        let killed = |unit: &Unit| !unit.processes.is_empty() && unit.processes.values().all(|process| process.kill_pending);
        if now < sent + term_timeout && !self.units.get(name).is_some_and(killed) {
            return self.violates(format!("SIGKILL to {name} {:.3} s after SIGTERM", (now - sent) as f64 / 1e6));
        }
        let Some(unit) = self.units.get(name) else { return };
        // What has just been started could not be known.
        let knowable = self.kill_sent.get(name).copied().unwrap_or(now).saturating_sub(300 * MS);
        let anew = |process: &Process| process.start > sent + 20 * MS && process.start < knowable;
        if !unit.processes.is_empty() && unit.processes.values().all(anew) && unit.stop.is_none() {
            self.violates(format!("SIGKILL to {name}, which was started anew"));
        }
    }

    /// A main process of a script has ended. Was that our doing?
    pub(crate) fn script_cut(&mut self, name: &str, process: &Process, how: Exit) {
        let now = self.now;
        // Or somebody else's stop was quicker than ours, which was on its way.
        let begun = self.units.get(name).and_then(|unit| unit.stop.as_ref()).map(|stop| stop.since);
        let on_its_way = |at: &Us| begun.is_some_and(|begun| (*at..at + 300 * MS).contains(&begun));
        let about_to = self.sent.get(name).is_some_and(|at| now - at < 100 * MS || on_its_way(at));
        let cut = match (process.signalled, how) {
            (Some(_), Exit::Killed(_)) => Some(false),
            (Some(at), Exit::Exited(_)) => match process.on_term {
                OnTerm::Exits { after, .. } => Some(now < at + after),
                OnTerm::Dies | OnTerm::Ignores => Some(true),
            },
            (None, _) if about_to => Some(true),
            (None, _) => None,
        };
        // One run is one casualty, however many of its commands were ended.
        let Some(invocation) = self.units.get(name).map(|unit| unit.invocation.clone()) else { return };
        if let Some(doubtful) = cut
            && !self.cuts.iter().any(|cut| cut.invocation == invocation)
        {
            let certain = !doubtful && self.is_ours_for_certain(name, how);
            // The agent that could tell is dead.
            let of_earlier = self.sent_by.get(name).is_some_and(|by| *by != self.epoch);
            let doubtful = doubtful || (of_earlier && self.units.get(name).is_some_and(|unit| self.was_stopped_unseen(unit)));
            self.cuts.push(Cut {
                unit: name.to_owned(),
                invocation,
                pid: process.pid,
                request: None,
                at: now,
                wall: self.wall(now),
                doubtful,
                certain,
                pool: None,
                silent: false,
            });
        }
    }

    /// The stop of this agent has ended it, nobody else's, and its exit tells so, unless somebody has it started again at once.
    fn is_ours_for_certain(&self, name: &str, how: Exit) -> bool {
        let Some(unit) = self.units.get(name) else { return false };
        let ours = unit.stop.as_ref().is_some_and(|stop| stop.by == By::Agent) && self.sent_by.get(name) == Some(&self.epoch);
        let ours = ours && unit.job.is_none_or(|job| job.kind == JobKind::Stop) && !self.was_stopped_unseen(unit);
        // One that was stuck in the kernel was given up: what ended it at last nobody has seen.
        let ours = ours && unit.as_script().is_none_or(|script| script.unkillable_for == 0);
        ours && !unit.may_stay_down && !self.maybe_stopped.contains(&unit.invocation) && !matches!(how, Exit::Exited(0 | 75))
    }

    /// A script that the agent stopped is in state `failed`.
    pub(crate) fn oneshot_failed(&mut self, name: &str) {
        let Some(unit) = self.units.get(name) else { return };
        let preventable =
            unit.result == "timeout" || matches!(unit.exit.map(|exit| exit.how), Some(Exit::Killed(9 | 15) | Exit::Exited(143 | 75)));
        let stuck = matches!(&unit.body, crate::world::Body::Script(script) if script.unkillable_for > 0);
        // While systemd does not answer it is asked once a second.
        let away = self.faults.systemd_away_until + 2 * S > self.now || self.agent_was_away || stuck;
        if preventable && !unit.on_success && !away {
            let result = unit.result;
            self.violates(format!("{name}, stopped by the agent, has failed with Result={result}"));
        }
    }

    pub(crate) fn repooled_by_person_is_known(&mut self, pool: &str) {
        let now = self.now;
        let Some(balancer) = self.balancers.get_mut(pool) else { return };
        if balancer.out && balancer.by_person {
            let check = if let Hook::Works(takes) = balancer.check { takes } else { 0 };
            if now - balancer.out_since < S + check || balancer.lied {
                // Whose it is then, nobody can tell: the check tells what was when it began, if it tells the truth.
                balancer.by_person = false;
            } else {
                self.violates(format!("pool {pool}: the agent depools what a person has taken out"));
            }
        }
    }

    /// Every unit of a target with a process that is older than the newest deploy, and is not allowed to be.
    #[must_use]
    pub fn stale_units(&self, since: impl Fn(&str) -> Us) -> Vec<String> {
        let mut stale = Vec::new();
        for unit in self.units.values() {
            let Some((target, rules)) = self.target_of(&unit.name) else { continue };
            let Some(want) = self.newest_want(&target).filter(|want| want.at > since(&target)) else { continue };
            let old = |process: &Process| process.start < want.at && carries(rules.code(), process) && unit.has_in_this_run(process);
            if !unit.processes.values().any(old) || unit.is_left_behind() {
                continue;
            }
            let allowed = match &rules {
                TargetRules::Scheduled(_) | TargetRules::Service(_) => Self::goes_on(unit, &rules),
                // What serves nobody new finishes.
                TargetRules::Generations(_) => {
                    self.template_of(&unit.name).is_none_or(|template| self.is_not_fresh_yet(template, &unit.name))
                }
                TargetRules::PhpFpm(_) | TargetRules::Strays(_) => false,
            };
            // What was left is left until the next deploy, also if it is unmasked meanwhile.
            if !allowed && !self.barred_since(&unit.name, want.at) {
                stale.push(unit.name.clone());
            }
        }
        stale
    }

    /// Nothing of the agent is left on the host: no drop-in, nothing kept quiet, no slot missed, no frozen worker, no depool.
    #[must_use]
    pub fn left_over(&self) -> Vec<String> {
        let mut left = Vec::new();
        for unit in self.units.values() {
            if unit.drop_in.is_some() || unit.in_force.is_some() {
                left.push(format!("{} still has what was lent to it", unit.name));
            }
            for process in unit.processes.values().filter(|process| process.frozen) {
                left.push(format!("{}: process {} is still frozen", unit.name, process.pid));
            }
        }
        for unit in self.asked.iter().chain(self.commanded.keys()) {
            left.push(format!("{unit} is still asked to stop"));
        }
        if self.held.is_some() {
            left.push("scripts still wait with their start".to_owned());
        }
        for unit in &self.quiet {
            left.push(format!("{unit} is still kept quiet"));
        }
        // What was masked then could not be started.
        for unit in self.units.values().filter(|unit| unit.missed_slot && !self.barred_since(&unit.name, unit.idle_since)) {
            left.push(format!("{} has not run at its slot, and not since", unit.name));
        }
        for unit in self.units.values().filter(|unit| self.is_to_run_again(unit)) {
            left.push(format!("{} was interrupted by the agent, and has not run since", unit.name));
        }
        // What a person took out at the very moment at which the agent saw it back is that person's.
        for balancer in self.balancers.values().filter(|balancer| balancer.out && !balancer.turned_out_by_person && !balancer.lied) {
            left.push(format!("the host is still out of pool {}", balancer.name));
        }
        left
    }

    /// A unit of the host, for those who prepare one.
    pub fn add(&mut self, unit: Unit, runs_for: Us) {
        let name = unit.name.clone();
        self.units.insert(name.clone(), unit);
        if runs_for > 0 {
            let now = self.now;
            self.now = now - runs_for;
            let _ = self.start_unit(&name, By::Systemd);
            // What is already running has been started long ago; its services are ready.
            let pending: Vec<_> = self.ready_now(&name);
            for (invocation, well) in pending {
                self.started(&name, &invocation, well);
            }
            self.now = now;
        }
    }

    fn ready_now(&self, name: &str) -> Vec<(String, bool)> {
        self.units
            .get(name)
            .filter(|unit| !unit.oneshot() && unit.active == Active::Activating)
            .map(|unit| vec![(unit.invocation.clone(), true)])
            .unwrap_or_default()
    }
}
