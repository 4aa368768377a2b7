//! The agent's hands: what each effect does to the host, after how long, and what comes back.

use std::collections::BTreeMap;

use restart_agent::core::effect::{Effect, EffectId, Fault, FpmRequest, JobEnd, Looked, Outcome, WorkerRef};
use restart_agent::core::seen::{Active, Exit, ExitSeen, Load, ProcessSeen, UnitSeen};
use restart_agent::core::time::Mono;

use super::balancer::Command;
use super::fpm::Answers;
use super::unit::{By, JobKind, Role, Unit};
use super::{Happening, MS, S, Us, World};
use crate::check::us;

/// What a look shows that asks for little.
fn bare(full: UnitSeen) -> UnitSeen {
    UnitSeen {
        unit: full.unit,
        load: full.load,
        active: full.active,
        // Of what runs it is not read, but for what is at its end.
        result: if full.active == Active::Deactivating { full.result } else { "success".to_owned() },
        state_since: full.state_since,
        job: full.job,
        stop_job: full.stop_job,
        invocation: full.invocation,
        cgroup: full.cgroup,
        processes: full.processes,
        refuse_manual_start: full.refuse_manual_start,
        refuse_manual_stop: full.refuse_manual_stop,
        transient: full.transient,
        leaves_processes: full.leaves_processes,
        ..UnitSeen::default()
    }
}

impl World {
    /// Begins an effect of the agent. It is done a little later, if the agent still lives then.
    pub(crate) fn perform(&mut self, id: EffectId, effect: Effect) {
        let epoch = self.epoch;
        if let Effect::Stop { unit, .. } | Effect::Restart { unit, .. } | Effect::End { unit, .. } = &effect {
            if let Some(before) = self.sent.insert(unit.clone(), self.now) {
                self.sent_before.insert(unit.clone(), before);
            }
            self.sent_by.insert(unit.clone(), self.epoch);
            if let Some(grace) = self.term_timeout(unit) {
                self.graces.insert(unit.clone(), grace);
            }
        }
        if let Effect::Lend { drop_ins } = &effect {
            for unit in drop_ins.keys() {
                // What no reload has taken back since the first time is there since then.
                let (from, until) = self.lent.entry(unit.clone()).or_insert((self.now, Us::MAX));
                (*from, *until) = (if *until > self.now { *from } else { self.now }, Us::MAX);
            }
        }
        if let Effect::AskToStop { unit, .. } = &effect {
            self.asked_at.insert(unit.clone(), self.now);
        }
        if let Effect::Signal { process, kill: false } = &effect {
            self.stray_is_asked(process);
        }
        if let Effect::Kill { unit, .. } = &effect {
            self.kill_sent.insert(unit.clone(), self.now);
        }
        self.pounce(&effect);
        self.say(|| format!("   -> {} {effect:?}", id.0));
        let latency = self.latency();
        self.after(latency, Happening::Act { epoch, id, effect, stage: 0 });
    }

    fn latency(&mut self) -> Us {
        self.rng.between(300, 3 * MS) * (1 + self.faults.slowness)
    }

    fn answer(&mut self, epoch: u64, id: EffectId, after: Us, outcome: Outcome) {
        let latency = self.latency();
        self.after(after + latency, Happening::Answer { epoch, id, outcome });
    }

    fn then(&mut self, epoch: u64, id: EffectId, after: Us, effect: Effect, stage: u8) {
        self.after(after, Happening::Act { epoch, id, effect, stage });
    }

    fn is_not_answered(&mut self, effect: &Effect) {
        let runs = self.units.values().filter(|unit| match effect {
            Effect::Stop { unit: of, .. } => *of == unit.name,
            Effect::Lend { .. } | Effect::Unlend { .. } => {
                unit.steps() > 1 && self.lent.get(&unit.name).is_some_and(|lent| lent.1 == Us::MAX)
            }
            _ => false,
        });
        let runs: Vec<String> = runs.map(|unit| unit.invocation.clone()).collect();
        self.unanswered.extend(runs);
    }

    /// One part of an effect. Says whether it changed anything.
    pub(crate) fn act(&mut self, epoch: u64, id: EffectId, effect: Effect, stage: u8) -> bool {
        let over_the_bus = !matches!(
            effect,
            Effect::AskPools { .. }
                | Effect::Request { .. }
                | Effect::AskOpcache { .. }
                | Effect::FindStrays { .. }
                | Effect::Signal { .. }
                | Effect::Notify { .. }
                | Effect::Freeze { .. }
                | Effect::Thaw { .. }
                | Effect::AskToStop { .. }
                | Effect::Unask { .. }
                | Effect::Switch { .. }
        );
        if over_the_bus && self.now < self.faults.systemd_away_until {
            self.is_not_answered(&effect);
            self.answer(epoch, id, 0, Outcome::Fault(Fault::Unreachable("the bus does not answer".to_owned())));
            return false;
        }
        let acts = effect.acts();
        match effect {
            Effect::Look { units, looked, .. } => {
                let seen = self.look(&units, looked);
                for up in seen.iter().filter(|seen| seen.active == Active::Active) {
                    self.units.entry(up.unit.clone()).and_modify(|unit| unit.found_up = true);
                    if !up.job {
                        self.maybe_restarted.remove(&up.invocation);
                    }
                }
                self.answer(epoch, id, self.faults.look_takes, Outcome::Units(seen));
            }
            Effect::FindStrays { code } => {
                let strays = self.living_strays(&code);
                self.answer(epoch, id, 0, Outcome::Strays(strays));
            }
            Effect::Signal { process, kill } => {
                let there = self.signal_stray(&process, kill);
                self.answer(epoch, id, 0, Outcome::Signalled(there));
            }
            Effect::Notify { process, .. } => {
                self.told.push(process.pid);
                self.answer(epoch, id, 0, Outcome::Done);
            }
            // Only a plan asks for these, and here nobody makes one.
            Effect::Schedules { .. } => self.answer(epoch, id, 0, Outcome::Schedules(BTreeMap::new())),
            Effect::Inspect { unit } => {
                let outcome = match self.configured(&unit) {
                    Some(_) if self.now < self.faults.unreadable_until => {
                        let outcome = Outcome::Fault(Fault::Other("php-fpm -tt did not end within 15 s".to_owned()));
                        self.answer(epoch, id, 15 * S, outcome);
                        return false;
                    }
                    Some(fpm) if !fpm.config_good && self.template_of(&unit).is_some() => {
                        Outcome::Fault(Fault::Other("php-fpm -tt: unknown directive".to_owned()))
                    }
                    Some(fpm) => Outcome::Layout(fpm.layout(&self.listen(&unit))),
                    None => Outcome::Fault(Fault::NoSuchUnit(unit)),
                };
                self.answer(epoch, id, 40 * MS, outcome);
            }
            Effect::SeeGenerations { template, .. } => {
                let outcome = match self.see_generations(&template) {
                    Some(seen) => Outcome::Generations(Box::new(seen)),
                    None => Outcome::Fault(Fault::NoSuchUnit(template)),
                };
                self.answer(epoch, id, self.faults.look_takes, outcome);
            }
            Effect::Switch { socket, to } => {
                let outcome = match self.switch(&socket, &to) {
                    Ok(()) => Outcome::Done,
                    Err(why) => Outcome::Fault(Fault::Other(format!("cannot make {socket} lead to {to}: {why}"))),
                };
                self.answer(epoch, id, 0, outcome);
            }
            Effect::End { unit, cut, within } if stage == 0 => {
                self.agent_may_end(&unit);
                let job = self.stop_unit(&unit, By::Agent);
                let taken = job.is_ok();
                self.wait_for(epoch, id, &unit, job, us(within));
                if taken && !cut.is_empty() {
                    self.then(epoch, id, MS, Effect::End { unit, cut, within }, 1);
                }
            }
            Effect::TestConfig { unit } => {
                let good = self.configured(&unit).is_some_and(|fpm| fpm.config_good);
                let output = if good { "test is successful" } else { "unknown directive 'pm.max_chidren'" };
                self.answer(epoch, id, 60 * MS, Outcome::Tested { ok: good, output: output.to_owned() });
            }
            Effect::AskPools { asks, full, timeout } => self.ask_pools(epoch, id, &asks, full, us(timeout)),
            Effect::Connections { sockets } => {
                let count = |socket: &String| Some((socket.clone(), self.connections(socket)?));
                let counts = sockets.iter().filter_map(count).collect();
                self.answer(epoch, id, 0, Outcome::Connections(counts));
            }
            Effect::Request { socket, request, timeout } => self.agent_request(epoch, id, &socket, &request, us(timeout)),
            Effect::AskOpcache { socket, .. } => {
                self.opcache_asked += 1;
                let no = || Outcome::Fault(Fault::Other("no answer in time".to_owned()));
                let outcome = self.opcache(&self.unit_at(&socket)).map_or_else(no, Outcome::Opcache);
                self.answer(epoch, id, MS, outcome);
            }
            Effect::CheckPool { pool, timeout, .. } => self.command(epoch, id, &pool, Command::Check, us(timeout)),
            Effect::Depool { pool, timeout, .. } => {
                self.repooled_by_person_is_known(&pool);
                self.command(epoch, id, &pool, Command::Depool, us(timeout));
            }
            Effect::Repool { pool, timeout, .. } => self.command(epoch, id, &pool, Command::Repool, us(timeout)),
            Effect::Lend { drop_ins } if stage == 0 => {
                for (unit, text) in &drop_ins {
                    if let Some(unit) = self.units.get_mut(unit) {
                        unit.drop_in = Some(text.clone());
                    }
                }
                self.then(epoch, id, 5 * MS, Effect::Lend { drop_ins }, 1);
            }
            Effect::Unlend { units } if stage == 0 => {
                for unit in &units {
                    if let Some(unit) = self.units.get_mut(unit) {
                        unit.drop_in = None;
                    }
                }
                self.then(epoch, id, 5 * MS, Effect::Unlend { units }, 1);
            }
            Effect::Lend { .. } | Effect::Unlend { .. } => {
                if self.now < self.faults.reload_fails_until {
                    self.answer(epoch, id, 20 * MS, Outcome::Fault(Fault::Other("Reload: Access denied".to_owned())));
                } else {
                    if let Effect::Unlend { units } = &effect {
                        // Whether it has what it was lent nobody can tell before a reload has taken it back.
                        let lent = self.lent.iter_mut().filter(|(unit, (_, until))| units.contains(unit) && *until == Us::MAX);
                        lent.for_each(|(_, (_, until))| *until = self.now + S);
                    }
                    self.reload();
                    self.answer(epoch, id, 200 * MS, Outcome::Done);
                }
            }
            Effect::AskToStop { unit, ask, unask } => {
                if ask.iter().chain(&unask).any(|word| !word.contains(&unit)) {
                    self.violates(format!("{unit} is asked by {ask:?} and {unask:?}"));
                }
                self.agent_may_ask(&unit);
                self.ask_to_stop(&unit);
                let fails = !ask.is_empty() && self.rng.chance(10);
                if fails {
                    self.asked_at.remove(&unit);
                }
                if !unask.is_empty() {
                    self.commanded.insert(unit, unask);
                }
                let takes = if ask.is_empty() { MS } else { 300 * MS };
                let outcome = if fails { Outcome::Fault(Fault::Other("its command `ask` exits 3".to_owned())) } else { Outcome::Done };
                self.answer(epoch, id, takes, outcome);
            }
            Effect::Unask { unit, unask } => {
                self.asked.remove(&unit);
                let takes = if unask.is_empty() { MS } else { 300 * MS };
                if !unask.is_empty() && (self.rng.chance(20) || self.now < self.faults.unask_fails_until) {
                    self.answer(epoch, id, takes, Outcome::Fault(Fault::Other("its command `unask` exits 1".to_owned())));
                } else {
                    let meant = self.commanded.remove(&unit);
                    if meant.as_ref().is_some_and(|meant| *meant != unask) {
                        self.violates(format!("{unit} was to be asked no more by {meant:?}, and that is tried by {unask:?}"));
                    }
                    self.answer(epoch, id, takes, Outcome::Done);
                }
            }
            Effect::HoldStarts { waits, lasts } => {
                self.hold_starts(&waits, us(lasts));
                self.answer(epoch, id, 5 * MS, Outcome::Done);
            }
            Effect::ReleaseStarts => {
                self.release_starts();
                self.answer(epoch, id, 5 * MS, Outcome::Done);
            }
            Effect::MakeLocks { .. } => self.answer(epoch, id, 5 * MS, Outcome::Done),
            Effect::Stop { unit, within } => {
                self.agent_may_stop(&unit);
                self.keep_loaded(&unit);
                let over = self.units.get(&unit).is_some_and(|unit| !unit.active.runs() && unit.processes.is_empty());
                let job = self.stop_unit(&unit, By::Agent);
                if over && job.is_ok() {
                    self.answer(epoch, id, 2 * MS, Outcome::Job(JobEnd::Finished));
                } else {
                    self.wait_for(epoch, id, &unit, job, us(within));
                }
            }
            Effect::KeepQuiet { unit } => {
                self.say(|| format!("{unit}: is kept quiet"));
                self.quiet.insert(unit);
                self.answer(epoch, id, MS, Outcome::Done);
            }
            Effect::LetRun { unit } => {
                self.say(|| format!("{unit}: may run again"));
                self.quiet.remove(&unit);
                self.answer(epoch, id, MS, Outcome::Done);
            }
            Effect::StartAlone { unit } | Effect::Start { unit } => self.act_start(epoch, id, &unit),
            Effect::Restart { unit, cut, within } if stage == 0 => {
                self.agent_may_restart(&unit);
                self.reset_failed(&unit);
                let job = self.restart_unit(&unit, By::Agent);
                let taken = job.is_ok();
                self.wait_for(epoch, id, &unit, job, us(within));
                if taken && !cut.is_empty() {
                    self.then(epoch, id, MS, Effect::Restart { unit, cut, within }, 1);
                }
            }
            Effect::Restart { unit, cut, .. } | Effect::End { unit, cut, .. } => {
                for worker in &cut {
                    if self.is_there(&unit, worker) {
                        self.term(&unit, worker.pid, true);
                        self.cont(&unit, worker.pid);
                    }
                }
            }
            Effect::Kill { unit, invocation, .. } => {
                let anew = self.units.get(&unit).is_some_and(|unit| !invocation.is_empty() && unit.invocation != invocation);
                let outcome = if anew {
                    Outcome::Fault(Fault::Other(format!("{unit} was started again meanwhile")))
                } else {
                    self.agent_may_kill(&unit);
                    self.kill_unit(&unit, By::Agent);
                    Outcome::Done
                };
                self.answer(epoch, id, 0, outcome);
            }
            Effect::ResetFailed { unit } => {
                self.reset_failed(&unit);
                self.answer(epoch, id, 0, Outcome::Done);
            }
            Effect::Freeze { workers } => {
                let mut frozen = Vec::new();
                for worker in workers {
                    let name = worker.cgroup.rsplit('/').next().unwrap_or_default().to_owned();
                    if self.is_there(&name, &worker) {
                        self.agent_may_signal_worker(&name, worker.pid, "SIGSTOP");
                        if self.freeze(&name, worker.pid) {
                            frozen.push(worker);
                        }
                    }
                }
                self.answer(epoch, id, 0, Outcome::Frozen(frozen));
            }
            Effect::EndLater { .. } => self.answer(epoch, id, 0, Outcome::Done),
            Effect::Retire { workers, spare } => {
                for (worker, ends) in workers.iter().map(|worker| (worker, true)).chain(spare.iter().map(|worker| (worker, false))) {
                    let name = worker.cgroup.rsplit('/').next().unwrap_or_default().to_owned();
                    if self.is_there(&name, worker) {
                        if ends {
                            self.agent_may_retire(&name, worker.pid);
                            self.term(&name, worker.pid, true);
                        }
                        self.cont(&name, worker.pid);
                    }
                }
                self.answer(epoch, id, 0, Outcome::Done);
            }
            Effect::Thaw { workers } => {
                for worker in &workers {
                    let name = worker.cgroup.rsplit('/').next().unwrap_or_default().to_owned();
                    if self.is_there(&name, worker) {
                        self.cont(&name, worker.pid);
                    }
                }
                self.answer(epoch, id, 0, Outcome::Done);
            }
        }
        acts
    }

    fn keep_loaded(&mut self, unit: &str) {
        self.units.get_mut(unit).into_iter().for_each(|unit| unit.kept_loaded = true);
    }

    fn act_start(&mut self, epoch: u64, id: EffectId, unit: &str) {
        self.keep_loaded(unit);
        self.agent_may_start(unit);
        self.reset_failed(unit);
        if self.is_quiet(unit) {
            self.violates(format!("the agent starts {unit}, which it keeps quiet"));
        }
        let outcome = match self.start_unit(unit, By::Agent) {
            Ok(_) => Outcome::Queued,
            Err(fault) => Outcome::Fault(fault),
        };
        self.answer(epoch, id, 0, outcome);
    }

    fn is_there(&self, unit: &str, worker: &WorkerRef) -> bool {
        let process = self.units.get(unit).and_then(|unit| unit.processes.get(&worker.pid));
        process.is_some_and(|process| self.mono(process.start - process.blur) == worker.start)
    }

    fn wait_for(&mut self, epoch: u64, id: EffectId, unit: &str, job: Result<u64, Fault>, within: Us) {
        match job {
            Err(fault) => self.answer(epoch, id, 0, Outcome::Fault(fault)),
            Ok(job) if self.units.get(unit).and_then(|unit| unit.job).is_some_and(|now| now.id == job) => {
                self.waiting.insert(id, (epoch, job));
                self.after(within, Happening::Patience { epoch, id });
            }
            Ok(_) => self.answer(epoch, id, 2 * MS, Outcome::Job(JobEnd::Done)),
        }
    }

    /// Nobody waits for ever for a job.
    pub(crate) fn patience(&mut self, epoch: u64, id: EffectId) {
        if self.waiting.remove(&id).is_some() {
            self.answer(epoch, id, 0, Outcome::Job(JobEnd::Running));
        }
    }

    /// The bus has gone away and come back: whoever waits for a job will not hear of it.
    pub fn bus_restarts(&mut self) {
        self.say(|| "== the bus is restarted".to_owned());
        let waiting = std::mem::take(&mut self.waiting);
        for (id, (epoch, _)) in waiting {
            self.answer(epoch, id, 0, Outcome::Job(JobEnd::Lost));
        }
        self.hint(restart_agent::core::event::Event::LookAgain);
    }

    fn command(&mut self, epoch: u64, id: EffectId, pool: &str, command: Command, timeout: Us) {
        let (end, takes) = self.pool_command(pool, command, timeout);
        self.answer(epoch, id, takes, Outcome::Command(end));
    }

    fn ask_pools(&mut self, epoch: u64, id: EffectId, asks: &[restart_agent::core::effect::StatusAsk], full: bool, timeout: Us) {
        self.agent_may_ask_for_status(asks);
        let mut answers = BTreeMap::new();
        let mut takes = 0;
        for ask in asks {
            let unit = self.unit_at(&ask.socket);
            let page = self.status_page(&unit, ask, full, false);
            let listen = self.listen(&unit);
            let fpm = self.units.get(&unit).and_then(Unit::as_fpm);
            let status = fpm.and_then(|fpm| Some(fpm.pool(fpm.pool_at(&ask.socket, &listen)?)?.status));
            let late = page.as_ref().is_err_and(|why| why.starts_with("no answer"));
            let page = match status {
                Some(Answers::Slowly(after)) if after < timeout => {
                    takes = takes.max(after);
                    self.status_page(&unit, ask, full, true)
                }
                _ => {
                    takes = takes.max(if late { timeout } else { 0 });
                    page
                }
            };
            answers.insert(ask.pool.clone(), page);
        }
        self.answer(epoch, id, takes, Outcome::Pools(answers));
    }

    fn agent_request(&mut self, epoch: u64, id: EffectId, socket: &str, request: &FpmRequest, timeout: Us) {
        let unit = self.unit_at(socket);
        self.note_script(&unit, request);
        // Its own status worker answers there, as long as there is one.
        let shared = self.template_of(&unit).is_some_and(|template| template.shared);
        let lives = |unit: &Unit| {
            let its = unit.processes.values().any(|process| process.role == Role::StatusWorker && !process.frozen);
            its && unit.stop.is_none() && unit.as_fpm().is_some_and(|fpm| fpm.pings)
        };
        // The symlink leads to the only one.
        let pool = self.units.get(&unit).and_then(Unit::as_fpm).and_then(|fpm| fpm.pool_at(socket, &self.listen(&unit))).unwrap_or(0);
        let answers = if shared { self.units.get(&unit).is_some_and(lives) } else { self.answers_ping(&unit, pool) };
        if !answers {
            let after = if self.units.get(&unit).is_some_and(|unit| unit.active == Active::Active) { timeout } else { MS };
            return self.answer(epoch, id, after, Outcome::Fault(Fault::Other("no answer in time".to_owned())));
        }
        if let Some(fpm) = self.units.get_mut(&unit).unwrap().as_fpm_mut() {
            fpm.accepts(pool);
        }
        let body = match request {
            FpmRequest::Ping { .. } => "pong".to_owned(),
            FpmRequest::Script { .. } => format!("serves {}", self.serves(&unit)),
        };
        self.asked_itself(&unit, request);
        self.answer(epoch, id, 5 * MS, Outcome::Answered { status: 200, body });
    }

    /// The php-fpm as its configuration file has it now.
    fn configured(&self, unit: &str) -> Option<&super::Fpm> {
        self.template_of(unit).map(|template| &template.next).or_else(|| self.units.get(unit)?.as_fpm())
    }

    pub(crate) fn look(&self, names: &[String], looked: Looked) -> Vec<UnitSeen> {
        let mut seen = Vec::new();
        let matches = |pattern: &String, name: &str| {
            pattern == name || pattern.split_once('*').is_some_and(|(head, tail)| name.starts_with(head) && name.ends_with(tail))
        };
        for unit in self.units.values().filter(|unit| names.iter().any(|pattern| matches(pattern, &unit.name))) {
            if matches!(looked, Looked::Exactly | Looked::Bare) || unit.active.runs() {
                if self.is_forgotten(&unit.name) {
                    // Loaded for the question only.
                    let load = if unit.transient { Load::NotFound } else { Load::Loaded };
                    seen.push(UnitSeen { unit: unit.name.clone(), load, ..UnitSeen::default() });
                    continue;
                }
                let full = self.unit_seen(unit, !matches!(looked, Looked::Running | Looked::Bare));
                // Of a dead unit no look asks for less than everything.
                let little = matches!(looked, Looked::Running | Looked::Bare) && unit.active.runs();
                seen.push(if little { bare(full) } else { full });
            }
        }
        for name in names.iter().filter(|name| !name.contains('*') && !self.units.contains_key(*name)) {
            seen.push(UnitSeen { unit: name.clone(), load: Load::NotFound, ..UnitSeen::default() });
        }
        seen
    }

    fn ask_to_stop(&mut self, name: &str) {
        self.asked.insert(name.to_owned());
        self.say(|| format!("{name}: is asked to stop"));
        let Some(unit) = self.units.get(name) else { return };
        let (pid, (checkpoint, _)) = (unit.main_pid, unit.manners());
        let at_work = if unit.oneshot() { Active::Activating } else { Active::Active };
        if let Some(after) = checkpoint.filter(|_| unit.active == at_work) {
            self.after(after, Happening::Checkpoint { unit: name.to_owned(), pid });
        }
    }

    /// It looks whether it is still asked.
    pub(super) fn reaches_checkpoint(&mut self, name: &str, pid: u32) {
        let alive = self.units.get(name).is_some_and(|unit| unit.processes.get(&pid).is_some_and(|process| process.signalled.is_none()));
        if alive && self.php_reaches_checkpoint(name, pid) {
            return;
        }
        let tidied = self.units.get(name).is_some_and(|unit| unit.tidying);
        if alive && (tidied || self.asked.contains(name)) {
            if let Some(unit) = self.units.get_mut(name) {
                unit.checkpointed = true;
                // What it says when nobody asks for it any more need not be heard.
                unit.may_stay_down |= !self.asked.contains(name);
            }
            self.say(|| format!("{name}: has reached a checkpoint"));
            let asked = self.asked.contains(name);
            self.process_ended(name, pid, Exit::Exited(75));
            if asked
                && self
                    .units
                    .get(name)
                    .is_some_and(|unit| !unit.oneshot() && unit.active == Active::Failed && !unit.on_success && !unit.lent_run_again())
            {
                self.violates(format!("{name} was asked, and what it says then is a failure"));
            }
        }
    }

    /// The `php` of a shell ends there, and then the shell, by the same exit status, whether it is still asked or not.
    fn php_reaches_checkpoint(&mut self, name: &str, shell: u32) -> bool {
        let Some(unit) = self.units.get_mut(name) else { return false };
        let Some(tidies) = unit.loops().filter(|_| !unit.tidying).map(|(_, tidies)| tidies) else {
            return false;
        };
        let php = unit.processes.values().find(|process| process.role == Role::Looped).map(|process| process.pid);
        let (Some(php), true) = (php, self.asked.contains(name)) else { return true };
        self.units.get_mut(name).unwrap().tidying = true;
        self.process_ended(name, php, Exit::Exited(75));
        self.after(tidies, Happening::Checkpoint { unit: name.to_owned(), pid: shell });
        true
    }

    fn holds_lock(&self, unit: &Unit) -> bool {
        unit.active.runs() && self.now < unit.main_start + unit.manners().1
    }

    #[must_use]
    pub fn unit_seen(&self, unit: &Unit, timers: bool) -> UnitSeen {
        let command = |process: &super::Process| process.comm;
        let same = |process: &super::Process| unit.processes.get(&process.ppid).is_some_and(|parent| command(parent) == command(process));
        UnitSeen {
            unit: unit.name.clone(),
            load: unit.load,
            active: unit.active,
            sub: String::new(),
            result: unit.result.to_owned(),
            job: unit.job.is_some(),
            stop_job: unit.job.is_some_and(|job| job.kind == JobKind::Stop || (job.kind == JobKind::Restart && !job.starting)),
            main_pid: unit.main_pid,
            main_start: self.mono(unit.main_start),
            skipped: unit.skipped && !unit.active.runs(),
            exit: unit.exit.map(|exit| ExitSeen { at: self.mono(exit.at.0), ..exit }),
            state_since: unit.stop.as_ref().map_or(Mono::BOOT, |stop| self.mono(stop.since)),
            idle_since: if unit.active.runs() { Mono::BOOT } else { self.mono(unit.idle_since) },
            last_end: self.mono(unit.idle_since),
            invocation: unit.invocation.clone(),
            cgroup: if unit.active.runs() { unit.cgroup() } else { String::new() },
            processes: unit
                .processes
                .values()
                .map(|process| ProcessSeen {
                    pid: process.pid,
                    ppid: process.ppid,
                    start: self.mono(process.start - process.blur),
                    comm: process.comm.to_owned(),
                    argv0: None,
                    same_command_as_parent: same(process),
                    pool: match process.role {
                        Role::Worker => Some(unit.pool_of(process)),
                        Role::StatusWorker => Some(format!("{}_status", unit.pool_of(process))),
                        _ => None,
                    },
                    running: false,
                    cpu_ticks: 0,
                })
                .collect(),
            oneshot: unit.oneshot(),
            exec_starts: unit.steps(),
            refuse_manual_start: unit.refuse_start,
            refuse_manual_stop: unit.refuse_stop,
            transient: unit.transient,
            leaves_processes: unit.leaves(),
            holds_lock: self.holds_lock(unit),
            on_success: unit.on_success,
            on_failure: unit.on_failure,
            start_limit_burst: unit.start_limit.0,
            start_limit_interval_ms: unit.start_limit.1 / MS,
            status_text: String::new(),
            dependents: Vec::new(),
            timers: if timers {
                self.timers.values().filter(|timer| timer.unit == unit.name).map(|timer| self.timer_seen(timer)).collect()
            } else {
                Vec::new()
            },
        }
    }

    /// How long after its signal a process of the agent's doing may take at most, for those who wait in tests.
    #[must_use]
    pub fn patience_of_tests() -> Us {
        60 * S
    }
}
