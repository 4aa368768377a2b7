//! What must never happen to generations of php-fpm.

use restart_agent::core::policy::{AtMax, GenerationRules, TargetRules};
use restart_agent::core::seen::Active;

use super::{UNKNOWABLE, us};
use crate::world::{Answers, Fpm, MS, S, Template, Unit, Us, World};

/// A person's doing is seen when somebody looks.
const SEEN_LATE: Us = 2 * S;

impl World {
    pub(crate) fn generation_rules(&self, unit: &str) -> Option<(String, GenerationRules)> {
        match self.target_of(unit)? {
            (name, TargetRules::Generations(rules)) => Some((name, rules)),
            _ => None,
        }
    }

    /// It serves nobody new; or a person has made it serve, and that is looked at once a minute.
    pub(super) fn is_not_fresh_yet(&self, template: &Template, unit: &str) -> bool {
        template.current().as_deref() != Some(unit) || self.now < template.touched + 70 * S
    }

    fn hands_off(&self, template: &Template) -> bool {
        self.now > template.touched + SEEN_LATE
    }

    /// It is stopped.
    pub(crate) fn agent_may_end(&mut self, unit: &str) {
        let Some(template) = self.template_of(unit) else {
            return self.violates(format!("the agent stops {unit}, which is no generation"));
        };
        let current = template.current().filter(|current| !template.obstructed && self.listens(current));
        let hands_off = self.hands_off(template);
        if current.as_deref() == Some(unit) && hands_off {
            return self.violates(format!("the agent stops {unit}, which the symlink leads to"));
        }
        let serve = |other: &String| other != unit && self.listens(other) && self.units[other].active == Active::Active;
        let others = self.running(&template.unit).iter().any(serve);
        let known = |of: &Unit| template.proven.contains(&of.invocation) || template.served.contains(&of.name);
        let well =
            self.listens(unit) && known(&self.units[unit]) && self.units[unit].as_fpm().is_some_and(|fpm| fpm.pings && !fpm.old_code);
        // In an emergency it does not wait for certainty that the new one has not died since the last look, a second ago at most.
        let emergency = self.generation_rules(unit).is_some_and(|(target, _)| self.emergency(&target));
        // Neither can it know of the end of the one that served, a moment before this arrives,
        // or in its last count, if that gets no answer.
        let counts = |fpm: &Fpm| !fpm.status_listen || fpm.status != Answers::Well;
        let count = if self.units[unit].as_fpm().is_some_and(counts) { 500 * MS } else { 0 };
        let unknowable = self.unknowable() + count;
        let ended = |unit: &Unit| unit.exit.map_or(0, |exit| exit.at.0).max(unit.idle_since);
        let died = |unit: &String| self.units.get(unit).is_some_and(|unit| self.now < ended(unit) + unknowable);
        let just_died = template.current().is_some_and(|current| died(&current));
        if well && current.is_none() && !others && hands_off && !emergency && !just_died {
            return self.violates(format!("the agent stops {unit}, the last one, and nothing serves"));
        }
        self.agent_may_cut_generation(unit, "StopUnit", None);
    }

    /// What an emergency has made old is ended at once, also after the emergency, which is over when the new one serves.
    fn emergency(&self, target: &str) -> bool {
        let before = self.reached_before.get(target).copied().unwrap_or(0);
        self.wanted.iter().any(|wanted| wanted.forced && wanted.names(target) && wanted.at > before)
    }

    /// Whatever would end, or hold up, what is in flight.
    pub(crate) fn agent_may_cut_generation(&mut self, unit: &str, what: &str, only: Option<u32>) {
        let now = self.now;
        let Some((target, rules)) = self.generation_rules(unit) else { return };
        let Some(template) = self.template_of(unit) else { return };
        let unknowable = self.unknowable();
        let Some(of) = self.units.get(unit) else { return };
        // Where all share a socket it may have taken one since it was seen to be idle, and what its status says may be long on its way.
        let on_its_way = match of.as_fpm().map(|fpm| fpm.status) {
            Some(Answers::Slowly(after)) => after,
            _ => 0,
        };
        // An answer waits for one write of a slow disk, and what comes of it for another.
        let on_its_way = on_its_way + self.faults.disk_took;
        let taken = |began: Us| template.shared && now < began + unknowable + on_its_way;
        let at_it =
            |pid: u32| of.as_fpm().is_some_and(|fpm| fpm.requests.values().any(|request| request.pid == pid && !taken(request.began)));
        let at_it = only.is_none_or(at_it);
        let Some(work) = self.at_work(unit, unknowable).filter(|_| at_it) else { return };
        let left = template.left.get(unit).copied().unwrap_or(Us::MAX);
        let forced = self.emergency(&target) || self.made_stale(&target, of.main_start).is_some_and(|(_, forced)| forced);
        // Another one may have ended by itself a moment ago.
        let ended = |unit: &&Unit| unit.instance && !unit.active.runs() && now < unit.idle_since + unknowable;
        let just_ended = self.units.values().filter(ended).count();
        let running = self.running(&template.unit).len() + just_ended;
        let end_oldest = rules.at_max == AtMax::EndOldest && running >= rules.max_generations as usize;
        let over = now + UNKNOWABLE >= left.saturating_add(us(rules.linger));
        // What a person has made of it, nobody knows: a boot, a second start.
        let person = !self.hands_off(template) || left == Us::MAX && template.touched > of.main_start;
        // One that is bad, and takes new requests as long as it runs since nobody can tell which of its workers are idle.
        // When its last count was asked for its status may not have been mended yet.
        let asked_before = |fpm: &Fpm| fpm.status_mended > 0 && now < fpm.status_mended + 600 * MS + 10 * MS * (1 + self.faults.slowness);
        let says = |fpm: &Fpm| fpm.has_status && fpm.status_listen && fpm.status == Answers::Well && !asked_before(fpm);
        let spreads = template.shared && template.bad.contains(unit) && !of.as_fpm().is_some_and(says);
        if !(forced || end_oldest || over || person || spreads || now < self.policy_changed + 5 * S) {
            let waits = (left.saturating_add(us(rules.linger)).min(now + 3600 * S) - now) as f64 / 1e6;
            self.violates(format!("{what} for {unit} with {work} in flight, {waits:.3} s before its linger is over"));
        }
    }

    /// SIGQUIT to a worker that was stopped while it was idle: it can have taken nothing since.
    pub(crate) fn agent_may_retire(&mut self, unit: &str, pid: u32) {
        let at_it = self.units.get(unit).and_then(Unit::as_fpm).and_then(|fpm| fpm.requests.values().find(|request| request.pid == pid));
        if let Some(uri) = at_it.filter(|request| !request.finishing()).map(|request| request.uri.clone()) {
            self.violates(format!("the agent ends worker {pid} of {unit}, which is at {uri}"));
        }
    }

    /// A generation is started by the agent.
    pub(crate) fn agent_may_start_generation(&mut self, unit: &str) {
        let now = self.now;
        let Some((target, rules)) = self.generation_rules(unit) else {
            if now > self.policy_changed + 5 * S {
                self.violates(format!("the agent starts {unit}, which is no target's"));
            }
            return;
        };
        let Some(template) = self.template_of(unit) else { return };
        let runs = self.units.get(unit).is_some_and(|unit| unit.active.runs());
        if runs && self.at_work(unit, UNKNOWABLE).is_some() {
            return self.violates(format!("the agent restarts {unit}, which has work in flight"));
        }
        // As it was when it was asked, which a full disk may have made a while ago.
        let seen = |at: Us| now > at + 45 * S;
        if !runs && !template.next.more.is_empty() && template.second_pool.is_some_and(seen) {
            return self.violates(format!("the agent starts {unit}, which has two pools, and one symlink leads to one"));
        }
        let running = self.running(&template.unit).len();
        if let Some(current) = self.serves_the_newest(&target, template, &rules).filter(|_| !runs && self.hands_off(template)) {
            return self.violates(format!("the agent starts {unit}, and {current} serves the newest code"));
        }
        if !runs && running >= rules.max_generations as usize && self.hands_off(template) {
            return self.violates(format!("the agent starts {unit}, and {running} run already"));
        }
        if rules.min_available_memory.is_some_and(|least| template.available < least) && now > template.available_since + SEEN_LATE {
            self.violates(format!("the agent starts {unit} with {} bytes available", template.available));
        }
    }

    /// No deploy for this target, nor anything else, asks for another one: those of other targets are nothing to it.
    fn serves_the_newest(&self, target: &str, template: &Template, rules: &GenerationRules) -> Option<String> {
        let current = template.current().filter(|current| !template.obstructed && self.listens(current))?;
        let of = self.units.get(&current)?;
        let up = of.active == Active::Active && self.now > of.main_start + S && of.as_fpm().is_some_and(|fpm| fpm.pings);
        let proven = template.proven.contains(&of.invocation) && !of.as_fpm().is_some_and(|fpm| rules.proof.is_some() && fpm.old_code);
        // Whoever has not answered as it should is said to be bad, and goes on serving only until another one can.
        let bad = template.bad.contains(&of.invocation) || template.condemned.contains(&current);
        let newest = self.made_stale(target, of.main_start).or_else(|| self.lands_late(target)).is_none();
        (up && proven && !bad && newest && self.now > self.policy_changed + 5 * S).then_some(current)
    }

    /// What the journal says of a target is of a generation of its own.
    pub(crate) fn is_of_target(&mut self, unit: &str, target: &str, what: &str) {
        let other = self.generation_rules(unit).filter(|(name, _)| name != target);
        if let Some((other, _)) = other {
            self.violates(format!("{unit} of {other} {what}, says the journal of {target}"));
        }
    }

    /// The symlink is switched by the agent.
    pub(crate) fn agent_may_switch(&mut self, template: &str, to: &str) {
        let Some(template) = self.templates.get(template) else { return };
        let unit = self.unit_at(to);
        if !template.has(&unit) {
            let of = template.unit.clone();
            return self.violates(format!("the agent makes the symlink of {of} lead to {to}"));
        }
        let Some(of) = self.units.get(&unit).filter(|unit| unit.active.runs()) else {
            let just_now = self.units.get(&unit).is_some_and(|unit| self.now < unit.idle_since + UNKNOWABLE);
            if self.hands_off(template) && !template.next_dies() && !just_now {
                self.violates(format!("the agent makes the symlink lead to {unit}, which does not run"));
            }
            return;
        };
        let known = |unit: &Unit| {
            template.proven.contains(&unit.invocation) || template.served.contains(&unit.invocation) || template.served.contains(&unit.name)
        };
        // Whoever does not answer as it should does no better, though it has served when nobody else was there.
        let proof = self.generation_rules(&unit).is_some_and(|(_, rules)| rules.proof.is_some());
        let answers = |unit: &Unit| unit.as_fpm().is_some_and(|fpm| fpm.pings && !(proof && fpm.old_code));
        let others = self.running(&template.unit).into_iter().filter(|other| *other != unit);
        let better: Vec<String> = others
            .filter(|other| {
                self.units.get(other).is_some_and(|unit| {
                    unit.active == Active::Active && unit.stop.is_none() && known(unit) && answers(unit) && self.now > unit.main_start + S
                })
            })
            .collect();
        let invocation = of.invocation.clone();
        let hands_off = self.hands_off(template);
        if !known(of) && hands_off && !better.is_empty() && !template.next_dies() {
            return self.violates(format!("the agent makes the symlink lead to {unit}, which was not proven, and {better:?} run"));
        }
        if template.leads_to.as_deref() == Some(to) {
            return;
        }
        // Not on the way back, nor to the last one that runs, nor where nobody else serves.
        let serves = template.current().is_some_and(|current| !template.obstructed && self.listens(&current));
        let anew =
            serves && hands_off && !template.served.contains(&unit) && template.proven.contains(&invocation) && !template.next_dies();
        if template.bad.contains(&invocation) && !better.is_empty() && hands_off && !template.next_dies() {
            return self.violates(format!("the agent makes the symlink lead to {unit} again, though it had proven bad"));
        }
        // Back to an older one, which has served: then the one that it led to had proven bad.
        let (started, back) = (of.main_start, template.served.contains(&of.invocation));
        let before = template.current().and_then(|current| self.units.get(&current)).filter(|before| back && before.main_start > started);
        let before = before.map(|before| before.invocation.clone());
        self.template_of_mut(&unit).unwrap().bad.extend(before);
        if anew {
            self.must_be_warm(&unit);
        }
    }
}
