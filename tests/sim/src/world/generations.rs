//! A template of php-fpm with the symlink that a web server connects to: instances that come into being when they are started, and what
//! befalls them and the symlink.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use restart_agent::core::effect::FpmRequest;
use restart_agent::core::generation_name as name;
use restart_agent::core::policy::{Policy, TargetRules};
use restart_agent::core::seen::{Active, Exit, GenerationsSeen, UnitSeen};

use super::fpm::{Fpm, FpmStart, Load, Queued};
use super::unit::{By, OnTerm, Role, Unit};
use super::{Happening, MINUTE, MS, S, Us, World};

/// The instance that the boot starts.
pub const BOOT: &str = name::BOOT;

/// In a settled world whatever waits is looked at within this.
pub(crate) const LOOKED_AT: Us = 75 * S;

#[derive(Debug, Clone)]
pub struct Template {
    pub unit: String,
    pub socket: String,
    /// All of them listen on one socket; then [`Template::leads_to`] is the one that the agent has given it to.
    pub shared: bool,
    /// Connections to it that nobody has taken yet.
    pub backlog: VecDeque<Queued>,
    pub leads_to: Option<String>,
    /// A directory, say, is where the symlink should be.
    pub obstructed: bool,
    /// It cannot be switched.
    pub unwritable: bool,
    /// When its configuration was mended.
    pub config_mended: Us,
    /// When it got a second pool, for which there is no symlink.
    pub second_pool: Option<Us>,
    pub available: u64,
    /// When that changed last.
    pub available_since: Us,
    /// What an instance is like that starts from now on; its configuration file is that of all.
    pub next: Fpm,
    pub restarts_itself: bool,
    /// What the web server sends to wherever the symlink leads.
    pub load: Load,
    /// Of a hundred requests so many have a child, which outlives them by up to so long.
    pub children: (u64, Us),
    /// When a person or fate last did something to the symlink or an instance.
    pub touched: Us,
    /// When the agent last made the symlink lead somewhere.
    pub switched: Us,
    /// Since when the symlink has led elsewhere, by instance that it has led to.
    pub left: BTreeMap<String, Us>,
    /// To which a person has led it back: since when it had led elsewhere, and when that was. If it leads away again before anybody has looked,
    /// nobody knows that it had led back.
    pub led_back: BTreeMap<String, (Us, Us)>,
    /// Runs that have answered as they should, and runs that have served.
    pub proven: BTreeSet<String>,
    pub served: BTreeSet<String>,
    /// Runs that the agent has switched away from, back to an older one; where all share a socket, the units.
    pub bad: BTreeSet<String>,
    /// Those that the agent has said are bad.
    pub condemned: BTreeSet<String>,
    /// Somebody has stopped what served.
    pub stopped_by_person: bool,
    /// Requests that came in, that found nobody, and of these the last.
    pub came: u64,
    pub refused: u64,
    pub refused_at: Us,
    /// That waited in a queue of a generation that ended.
    pub dropped: u64,
    /// Served, of those that have ended.
    pub answered: u64,
    /// The most that ran at once.
    pub most: usize,
}

impl Template {
    #[must_use]
    pub fn new(unit: &str, socket: &str, next: Fpm, load: Load) -> Template {
        Template {
            unit: unit.to_owned(),
            socket: socket.to_owned(),
            shared: false,
            backlog: VecDeque::new(),
            leads_to: None,
            obstructed: false,
            unwritable: false,
            config_mended: 0,
            second_pool: None,
            available: 8 << 30,
            available_since: 0,
            next,
            restarts_itself: true,
            load,
            children: (0, 0),
            touched: 0,
            switched: 0,
            left: BTreeMap::new(),
            led_back: BTreeMap::new(),
            proven: BTreeSet::new(),
            served: BTreeSet::new(),
            bad: BTreeSet::new(),
            condemned: BTreeSet::new(),
            stopped_by_person: false,
            came: 0,
            refused: 0,
            refused_at: 0,
            dropped: 0,
            answered: 0,
            most: 0,
        }
    }

    /// What is started now dies by itself.
    #[must_use]
    pub fn next_dies(&self) -> bool {
        matches!(self.next.start, FpmStart::Dies(_))
    }

    /// The unit of an instance.
    #[must_use]
    pub fn instance(&self, instance: &str) -> String {
        name::unit_of(&self.unit, instance)
    }

    #[must_use]
    pub fn has(&self, unit: &str) -> bool {
        name::instance_of(&self.unit, unit).is_some()
    }

    #[must_use]
    pub fn socket_of(&self, unit: &str) -> String {
        name::socket_of(&self.socket, name::instance_of(&self.unit, unit).unwrap_or_default())
    }

    /// The unit that a socket beside the symlink belongs to.
    fn unit_at(&self, socket: &str) -> Option<String> {
        let file = socket.strip_prefix(name::directory(&self.socket))?.strip_prefix('/')?;
        let instance = file.strip_suffix(name::STATUS_SUFFIX).or_else(|| file.strip_suffix(".sock"))?;
        // After a dot comes which of its pools.
        Some(self.instance(instance.split('.').next()?))
    }

    /// The symlink leads to it no more.
    fn leaves(&mut self, unit: String, now: Us) {
        let unseen = self.led_back.remove(&unit).filter(|(_, back)| now < back + LOOKED_AT).map(|(left, _)| left);
        self.left.entry(unit).or_insert(unseen.unwrap_or(now));
    }

    /// It leads to it again, or for the first time since that was started.
    fn comes_back(&mut self, unit: String, started: Us, now: Us) {
        let left = self.left.remove(&unit).unwrap_or(started);
        self.led_back.entry(unit).or_insert((left, now));
    }

    /// The unit that the symlink leads to, whether it runs or not.
    #[must_use]
    pub fn current(&self) -> Option<String> {
        self.unit_at(self.leads_to.as_ref()?)
    }
}

impl World {
    /// A template, and its boot instance, which has run for an hour.
    pub fn add_template(&mut self, template: Template) {
        let (unit, boot) = (template.unit.clone(), template.instance(BOOT));
        self.templates.insert(unit.clone(), template);
        self.load_instance(&boot);
        let instance = self.units.remove(&boot).unwrap();
        self.add(instance, 3600 * S);
        self.next_connection(&unit);
    }

    #[must_use]
    pub fn template_of(&self, unit: &str) -> Option<&Template> {
        self.templates.values().find(|template| template.has(unit))
    }

    pub(crate) fn template_of_mut(&mut self, unit: &str) -> Option<&mut Template> {
        self.templates.values_mut().find(|template| template.has(unit))
    }

    /// systemd loads an instance when somebody names it.
    pub(crate) fn load_instance(&mut self, unit: &str) {
        if self.units.contains_key(unit) {
            return;
        }
        let Some(template) = self.template_of(unit) else { return };
        let mut instance = Unit::fpm(unit, template.next.clone());
        instance.restarts_itself = template.restarts_itself;
        instance.instance = true;
        instance.timeout_stop = 30 * S;
        self.units.insert(unit.to_owned(), instance);
    }

    /// It reads its configuration when it starts.
    pub(crate) fn instance_reads(&mut self, unit: &str) {
        let Some(next) = self.template_of(unit).map(|template| template.next.clone()) else { return };
        if let Some(fpm) = self.units.get_mut(unit).and_then(Unit::as_fpm_mut) {
            *fpm = next;
        }
    }

    /// The boot instance makes the symlink where there is none that leads to a socket. What all share stays with the one that was given it last.
    pub(crate) fn instance_ready(&mut self, unit: &str) {
        let Some(template) = self.template_of(unit) else { return };
        let running = self.running(&template.unit).len();
        let dangling = template.current().is_none_or(|current| !template.shared && !self.listens(&current));
        let (boot, socket) = (template.instance(BOOT), template.socket_of(unit));
        let template = self.template_of_mut(unit).unwrap();
        template.most = template.most.max(running);
        if boot == *unit && dangling && !template.obstructed {
            self.lead(unit, Some(socket));
        }
    }

    /// The symlink leads elsewhere from now on.
    fn lead(&mut self, unit: &str, to: Option<String>) {
        let now = self.now;
        let leads_to = to.as_deref().map(|to| self.unit_at(to)).and_then(|unit| self.units.get(&unit));
        let started = leads_to.map_or(now, |unit| unit.main_start);
        let template = self.templates.values_mut().find(|template| template.unit == *unit || template.has(unit)).unwrap();
        if template.leads_to == to {
            return;
        }
        if let Some(before) = template.current() {
            template.leaves(before, now);
        }
        template.leads_to.clone_from(&to);
        template.stopped_by_person = false;
        if let Some(current) = template.current().filter(|_| !template.obstructed) {
            template.comes_back(current, started, now);
        }
        self.say(|| format!("{unit}: the symlink leads to {}", to.as_deref().unwrap_or("nothing")));
        self.note_served(unit);
    }

    /// With a target that leaves the configuration the agent forgets what it knew of its generations.
    pub(crate) fn forget_templates_but(&mut self, policy: &Policy) {
        let kept = |template: &Template| {
            policy.targets.values().any(|rules| matches!(rules, TargetRules::Generations(rules) if rules.unit == template.unit))
        };
        for template in self.templates.values_mut().filter(|template| !kept(template)) {
            template.proven.clear();
            template.served.clear();
            template.bad.clear();
        }
    }

    /// Whoever serves when its target comes into the configuration has served, also without a request.
    pub(crate) fn note_adopted(&mut self) {
        for template in self.templates.keys().cloned().collect::<Vec<_>>() {
            self.note_served(&template);
        }
    }

    fn note_served(&mut self, unit: &str) {
        let Some(current) =
            self.templates.values().find(|template| template.unit == *unit || template.has(unit)).and_then(Template::current)
        else {
            return;
        };
        let invocation = self.units.get(&current).filter(|unit| unit.active == Active::Active).map(|unit| unit.invocation.clone());
        // Nobody looks at those of a target that is not in the configuration.
        let invocation = invocation.filter(|_| self.generation_rules(&current).is_some());
        if let (Some(invocation), Some(template)) = (invocation, self.template_of_mut(&current)) {
            template.served.insert(invocation);
            // Also when somebody restarts it: it is no stranger.
            template.served.insert(current);
        }
    }

    /// Its socket takes connections: from before READY=1 until it is told to end.
    #[must_use]
    pub fn listens(&self, unit: &str) -> bool {
        self.units.get(unit).is_some_and(|unit| unit.stop.is_none() && unit.processes.values().any(|process| process.role == Role::Worker))
    }

    /// The instances that run, or are about to end.
    #[must_use]
    pub fn running(&self, template: &str) -> Vec<String> {
        let of = |unit: &&Unit| name::instance_of(template, &unit.name).is_some() && unit.active.runs();
        self.units.values().filter(of).map(|unit| unit.name.clone()).collect()
    }

    /// Requests in flight or queued, and children of requests, that have been there for so long.
    #[must_use]
    pub fn at_work(&self, unit: &str, since: Us) -> Option<String> {
        let unit = self.units.get(unit)?;
        let fpm = unit.as_fpm()?;
        let old = |began: Us| self.now >= began + since;
        let request = fpm.requests.values().find(|request| old(request.began)).map(|request| request.uri.clone());
        let queued = || fpm.queue.iter().find(|queued| old(queued.since)).map(|_| "a queued request".to_owned());
        let child = || {
            let child = unit.processes.values().find(|process| process.role == Role::Child && old(process.start));
            child.map(|process| format!("child {}", process.pid))
        };
        request.or_else(queued).or_else(child)
    }

    /// Who listens there.
    #[must_use]
    pub(crate) fn unit_at(&self, socket: &str) -> String {
        for template in self.templates.values() {
            if template.socket == socket {
                return template.current().unwrap_or_default();
            }
            if let Some(unit) = template.unit_at(socket) {
                return unit;
            }
        }
        self.units.keys().find(|name| socket.contains(name.as_str())).cloned().unwrap_or_default()
    }

    pub(crate) fn see_generations(&self, template: &str) -> Option<GenerationsSeen> {
        let template = self.templates.get(template)?;
        // systemd forgets an instance that is inactive and that nobody refers to.
        let loaded = |unit: &&Unit| template.has(&unit.name) && !self.is_forgotten(&unit.name);
        let units: Vec<UnitSeen> = self.units.values().filter(loaded).map(|unit| self.unit_seen(unit, true)).collect();
        let memory = units.iter().map(|unit| (unit.unit.clone(), 100 << 20)).collect();
        let leads_to = template.leads_to.clone().filter(|_| !template.obstructed);
        Some(GenerationsSeen { units, leads_to, obstructed: template.obstructed, available: template.available, memory })
    }

    /// It is inactive, and not loaded any more.
    pub(crate) fn is_forgotten(&self, unit: &str) -> bool {
        let boot = self.template_of(unit).is_some_and(|template| template.instance(BOOT) == unit);
        let forgets = |unit: &Unit| unit.instance || (unit.unreferenced && !unit.kept_loaded);
        let idle = |unit: &Unit| forgets(unit) && unit.active == Active::Inactive && unit.job.is_none() && unit.processes.is_empty();
        !boot && self.units.get(unit).is_some_and(idle)
    }

    pub(crate) fn next_connection(&mut self, template: &str) {
        let Some(load) = self.templates.get(template).map(|template| template.load) else { return };
        if load.every > 0 && load.until > self.now {
            let wait = self.rng.between(load.every / 4, load.every * 7 / 4);
            self.after(wait.max(1), Happening::Connects { template: template.to_owned() });
        }
    }

    /// The web server has a request, and connects to wherever the symlink leads at this moment.
    pub(crate) fn connects(&mut self, template: &str) {
        let load = self.templates[template].load;
        let long = self.rng.chance(load.long_percent);
        let (low, high) = if long { load.long } else { load.short };
        let lasts = self.rng.between(low, high);
        self.send(template, lasts);
        self.next_connection(template);
    }

    /// One request to wherever the symlink leads. Says whether it found somebody.
    pub fn send(&mut self, template: &str, lasts: Us) -> bool {
        let now = self.now;
        let state = self.templates.get_mut(template).unwrap();
        state.came += 1;
        let current = state.current().filter(|_| !state.obstructed).unwrap_or_default();
        let (percent, most) = state.children;
        if state.shared {
            let child = self.rng.chance(percent).then(|| self.rng.between(0, most));
            self.templates.get_mut(template).unwrap().backlog.push_back(Queued::new(now, lasts, child));
            self.take_from_backlog(template);
            return true;
        }
        if self.listens(&current) {
            self.note_served(&current);
            let child = self.rng.chance(percent).then(|| self.rng.between(0, most));
            self.connect(&current, lasts, child);
            return true;
        }
        let state = self.templates.get_mut(template).unwrap();
        state.refused += 1;
        state.refused_at = now;
        let (leads_to, touched) = (state.leads_to.clone(), state.touched + 2 * S);
        self.say(|| format!("a request finds nobody at {leads_to:?}"));
        // Whose doing is it? What a person, fate or php-fpm does to itself is not the agent's.
        if self.units.get(&current).and_then(|unit| unit.last_stop_by_agent).is_some_and(|at| at > touched) {
            self.violates(format!("a request is refused: {current} serves, and the agent has stopped it"));
        }
        false
    }

    /// Whoever has an idle worker takes the next connection: which, nobody can tell.
    pub(super) fn take_from_backlog(&mut self, template: &str) {
        while let Some(next) = self.templates[template].backlog.front().copied() {
            let mut takers: Vec<String> = self.running(template).into_iter().filter(|unit| self.listens(unit)).collect();
            let began = loop {
                if takers.is_empty() {
                    return;
                }
                let at = usize::try_from(self.rng.between(0, takers.len() as u64 - 1)).unwrap();
                let taker = takers.swap_remove(at);
                if let Some(worker) = self.begin(&taker, 0, next.lasts) {
                    break (taker, worker);
                }
            };
            self.templates.get_mut(template).unwrap().backlog.pop_front();
            if let Some(longer) = next.child {
                self.child_of(&began.0, began.1, next.lasts + longer);
            }
        }
    }

    /// The agent says that this one has what all share.
    pub(crate) fn is_given_what_all_share(&mut self, unit: &str) {
        let Some(template) = self.template_of(unit).filter(|template| template.shared) else { return };
        let socket = template.socket_of(unit);
        self.lead(unit, Some(socket));
    }

    /// It has never been given it, and takes connections all the same, until the agent makes it old.
    pub(crate) fn lingers(&mut self, unit: &str) {
        let now = self.now;
        if let Some(template) = self.template_of_mut(unit).filter(|template| template.shared) {
            template.left.entry(unit.to_owned()).or_insert(now);
        }
    }

    /// The same of one that the agent says is bad, and of whatever systemd starts of it again: no symlink leads to another one instead.
    pub(crate) fn has_proven_bad(&mut self, unit: &str) {
        let Some(template) = self.template_of_mut(unit) else { return };
        template.condemned.insert(unit.to_owned());
        if template.shared {
            template.bad.insert(unit.to_owned());
        }
    }

    /// The agent's rename(2).
    pub(crate) fn switch(&mut self, socket: &str, to: &str) -> Result<(), String> {
        let Some(template) = self.templates.values().find(|template| template.socket == socket) else {
            return Err("no such directory".to_owned());
        };
        if template.obstructed {
            return Err("it is no symlink".to_owned());
        }
        if template.unwritable {
            return Err("read-only file system".to_owned());
        }
        let unit = template.unit.clone();
        self.agent_may_switch(&unit, to);
        self.templates.get_mut(&unit).unwrap().switched = self.now;
        self.lead(&unit, Some(to.to_owned()));
        // It has not led there behind the agent's back.
        let current = self.unit_at(to);
        self.templates.get_mut(&unit).unwrap().led_back.remove(&current);
        Ok(())
    }

    /// The agent's own request was answered by this unit.
    pub(crate) fn asked_itself(&mut self, unit: &str, request: &FpmRequest) {
        let Some((_, rules)) = self.generation_rules(unit) else { return };
        let good = match (&rules.proof, request) {
            (None, _) => true,
            (Some(proof), FpmRequest::Script { script }) => {
                *script == proof.script && !self.units[unit].as_fpm().is_some_and(|fpm| fpm.old_code)
            }
            (Some(_), FpmRequest::Ping { .. }) => false,
        };
        let invocation = self.units[unit].invocation.clone();
        if let Some(template) = self.template_of_mut(unit).filter(|_| good) {
            template.proven.insert(invocation);
        }
    }

    /// A person makes the symlink lead elsewhere, or nowhere.
    pub fn person_leads(&mut self, template: &str, to: Option<String>) {
        if self.templates[template].shared {
            return;
        }
        self.say(|| "== a person changes the symlink".to_owned());
        self.touched(template);
        self.lead(template, to);
    }

    /// Something else takes the place of the symlink, or makes way for it: meanwhile nobody serves.
    pub fn obstruct(&mut self, template: &str, obstructed: bool) {
        let now = self.now;
        let changes = |template: &&mut Template| template.obstructed != obstructed && !template.shared;
        let Some(template) = self.templates.get_mut(template).filter(changes) else { return };
        (template.obstructed, template.touched) = (obstructed, now);
        match template.current() {
            Some(current) if obstructed => template.leaves(current, now),
            Some(current) => template.comes_back(current, now, now),
            None => {}
        }
    }

    /// A person, or fate, has its hands in the generations.
    pub fn touched(&mut self, template: &str) {
        let now = self.now;
        if let Some(template) = self.templates.values_mut().find(|of| of.unit == *template || of.has(template)) {
            template.touched = now;
            if !template.shared {
                template.bad.clear();
            }
        }
    }

    /// What was done while there was no agent, this one could not know before now.
    pub(crate) fn agent_begins(&mut self, away_since: Us) {
        let now = self.now;
        // What was done since the last look of the one before, which looks once a minute, this one has yet to see.
        for template in self.templates.values_mut().filter(|template| template.touched + MINUTE >= away_since) {
            template.touched = now;
        }
        // And of a stop only that part is known which the one before has lived.
        for unit in self.units.values_mut().filter(|unit| unit.idle_since > away_since) {
            unit.stop_took = unit.stop_took.min(away_since.saturating_sub(unit.idle_since - unit.stop_took));
        }
    }

    /// What a person does to an instance with systemctl.
    pub fn person_at(&mut self, verb: &str, unit: &str) {
        let serves = self.template_of(unit).and_then(Template::current).as_deref() == Some(unit);
        self.touched(unit);
        self.load_instance(unit);
        if verb == "reload" {
            return self.reload_instance(unit);
        }
        if verb == "kill" {
            // The master, and by nobody's plan.
            let master = self.units[unit].main_pid;
            self.say(|| format!("== the master of {unit} is killed"));
            if master != 0 {
                self.after(MS, Happening::ProcessEnds { unit: unit.to_owned(), pid: master, how: Exit::Killed(9) });
            }
            return;
        }
        let _ = self.person(verb, unit, By::Person);
        if let Some(template) = self.template_of_mut(unit).filter(|_| serves) {
            template.stopped_by_person = verb == "stop";
        }
    }

    /// SIGUSR2: the workers go, what they are at with them, and the master stays (facts 1b, 1f).
    fn reload_instance(&mut self, unit: &str) {
        self.say(|| format!("== a person reloads {unit}"));
        let Some(of) = self.units.get(unit).filter(|unit| unit.active == Active::Active) else { return };
        let workers: Vec<u32> = of.processes.values().filter(|process| process.role == Role::Worker).map(|process| process.pid).collect();
        for pid in workers {
            self.after(2 * MS, Happening::ProcessEnds { unit: unit.to_owned(), pid, how: Exit::Killed(15) });
        }
        let seconds = self.wall(self.now).seconds();
        if let Some(fpm) = self.units.get_mut(unit).and_then(Unit::as_fpm_mut) {
            fpm.start_time = seconds;
        }
    }

    /// The host goes down, and nothing of /run is left. What is enabled starts by itself.
    pub(crate) fn reboot(&mut self) {
        self.say(|| "== the host goes down".to_owned());
        self.boot_clock_starts();
        self.units_go_down();
        let names: Vec<String> = self.templates.keys().cloned().collect();
        for name in names {
            self.touched(&name);
            let template = self.templates.get_mut(&name).unwrap();
            template.leads_to = None;
            template.obstructed = false;
            template.backlog.clear();
            template.left.clear();
            template.led_back.clear();
            template.stopped_by_person = false;
            let boot = template.instance(BOOT);
            self.units.retain(|unit, _| name::instance_of(&name, unit).is_none());
            self.load_instance(&boot);
            self.after(2 * S, Happening::ComesBack { unit: boot });
        }
    }

    /// A child of a request, which is at it for so long.
    pub(super) fn child_of(&mut self, unit: &str, worker: u32, lasts: Us) {
        let on_term = if self.rng.chance(20) { OnTerm::Ignores } else { OnTerm::Dies };
        let pid = self.spawn(unit, worker, Role::Child, "ffmpeg", on_term, 0);
        self.after(lasts, Happening::ProcessEnds { unit: unit.to_owned(), pid, how: Exit::Exited(0) });
    }

    /// What is started from now on is well, and so is what runs.
    pub fn heal_templates(&mut self) {
        let now = self.now;
        for name in self.templates.keys().cloned().collect::<Vec<_>>() {
            self.obstruct(&name, false);
        }
        for template in self.templates.values_mut() {
            if !template.next.config_good {
                template.config_mended = now;
            }
            if template.next_dies() {
                template.touched = now;
            }
            let load = Load { every: template.load.every.max(400 * MS), long_percent: 0, ..template.load };
            template.load = if template.load.every > 0 { load } else { template.load };
            template.next.more.clear();
            template.next =
                Fpm { start: FpmStart::Well(60 * MS), config_good: true, pings: true, old_code: false, ..template.next.clone() };
            if template.next.status != super::Answers::Well {
                template.next.status = super::Answers::Well;
            }
            (template.unwritable, template.available) = (false, 8 << 30);
            template.available_since = now;
            template.children = (0, 0);
        }
    }
}
