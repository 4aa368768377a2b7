//! systemd: jobs, stops, starts, kills and reloads, as facts/systemd.md measured them.

use restart_agent::core::effect::{Fault, JobEnd, UnitsOf};
use restart_agent::core::event::Event;
use restart_agent::core::is_of;
use restart_agent::core::seen::{Active, Exit, ExitSeen, Load};
use restart_agent::core::time::Mono;

use super::fpm::FpmStart;
use super::unit::{Body, By, Ending, Job, JobKind, OnTerm, Process, Role, Starts, Stop, Unmet};
use super::{Happening, MS, S, Us, World};

impl World {
    fn new_job(&mut self, unit: &str, kind: JobKind) -> u64 {
        let id = self.name();
        let old = self.units.get(unit).and_then(|unit| unit.job);
        if let Some(old) = old {
            self.job_removed(unit, old.id, JobEnd::Canceled);
        }
        if let Some(unit) = self.units.get_mut(unit) {
            unit.job = Some(Job { id, kind, starting: kind == JobKind::Start });
        }
        id
    }

    pub(crate) fn job_removed(&mut self, unit: &str, id: u64, end: JobEnd) {
        if let Some(unit) = self.units.get_mut(unit)
            && unit.job.is_some_and(|job| job.id == id)
        {
            unit.job = None;
        }
        let waiting: Vec<_> =
            self.waiting.iter().filter(|(_, (_, job))| *job == id).map(|(effect, (epoch, _))| (*effect, *epoch)).collect();
        for (effect, epoch) in waiting {
            self.waiting.remove(&effect);
            let latency = self.rng.between(2 * MS, 9 * MS);
            let outcome = restart_agent::core::effect::Outcome::Job(end.clone());
            self.after(latency, Happening::Answer { epoch, id: effect, outcome });
        }
        self.hint(Event::JobRemoved { unit: unit.to_owned() });
    }

    /// StartUnit, mode replace.
    pub(crate) fn start_unit(&mut self, name: &str, by: By) -> Result<u64, Fault> {
        self.load_instance(name);
        let Some(unit) = self.units.get(name) else { return Err(Fault::NoSuchUnit(format!("Unit {name} not found."))) };
        if unit.load == Load::Masked {
            return Err(Fault::Refused(format!("Unit {name} is masked.")));
        }
        if unit.refuse_start && by != By::Timer {
            return Err(Fault::Refused(format!("{name} may be started only by dependency.")));
        }
        if let Some(job) = unit.job
            && job.kind == JobKind::Start
        {
            return Ok(job.id);
        }
        match unit.active {
            Active::Active | Active::Reloading | Active::Activating => Ok(self.name()),
            Active::Deactivating => {
                // It waits for the stop to end.
                let id = self.new_job(name, JobKind::Start);
                self.units.get_mut(name).unwrap().job.as_mut().unwrap().starting = false;
                Ok(id)
            }
            Active::Inactive | Active::Failed => {
                let id = self.new_job(name, JobKind::Start);
                if self.held.as_ref().is_some_and(|(_, units)| units.contains(name)) {
                    self.say(|| format!("{name}: its start waits"));
                    self.units.get_mut(name).unwrap().job.as_mut().unwrap().starting = false;
                } else {
                    self.begin_start_soon(name, id, by);
                }
                Ok(id)
            }
        }
    }

    /// StartUnit answers when the job is queued; until systemd comes to it the unit is as it was, with a job.
    fn begin_start_soon(&mut self, name: &str, job: u64, by: By) {
        let after = if by == By::Systemd { 0 } else { self.delays.between(0, 30 * MS) };
        if after == 0 {
            return self.begin_start(name, by);
        }
        self.units.get_mut(name).unwrap().job.as_mut().unwrap().starting = false;
        self.after(after, Happening::StartBegins { unit: name.to_owned(), job, by });
    }

    pub(crate) fn start_begins(&mut self, name: &str, job: u64, by: By) {
        let waits = self.units.get(name).and_then(|unit| unit.job).is_some_and(|now| now.id == job && !now.starting);
        if !waits {
            return;
        }
        if self.held.as_ref().is_some_and(|(_, units)| units.contains(name)) {
            return self.say(|| format!("{name}: its start waits"));
        }
        self.begin_start(name, by);
    }

    /// A unit is started that these are ordered after, and that does not become ready before it ends.
    /// One that is there stays if it lasts about as long.
    pub(crate) fn hold_starts(&mut self, waits: &[UnitsOf], lasts: Us) {
        match &self.held {
            Some((until, _)) if until + 3 * S >= self.now + lasts => return,
            _ => self.release_starts(),
        }
        let ours = |unit: &&String| waits.iter().any(|waits| is_of(&waits.units, &waits.exclude, unit));
        let units: std::collections::BTreeSet<String> = self.units.keys().filter(ours).cloned().collect();
        let until = self.now + lasts;
        self.say(|| "scripts wait with their start".to_owned());
        self.held = Some((until, units));
        self.at(until, Happening::StartsReleased { until });
    }

    pub(crate) fn release_starts(&mut self) {
        let Some((_, units)) = self.held.take() else { return };
        self.say(|| "scripts may start".to_owned());
        for name in units {
            let waits = self
                .units
                .get(&name)
                .is_some_and(|unit| !unit.active.runs() && unit.job.is_some_and(|job| job.kind != JobKind::Stop && !job.starting));
            if waits {
                self.begin_start(&name, By::Timer);
            }
        }
    }

    /// StopUnit, mode replace.
    pub(crate) fn stop_unit(&mut self, name: &str, by: By) -> Result<u64, Fault> {
        let Some(unit) = self.units.get(name) else { return Err(Fault::NoSuchUnit(format!("Unit {name} not loaded."))) };
        if unit.refuse_stop {
            return Err(Fault::Refused(format!("{name} may be stopped only by dependency.")));
        }
        if let Some(job) = unit.job
            && job.kind == JobKind::Stop
        {
            return Ok(job.id);
        }
        let id = self.new_job(name, JobKind::Stop);
        self.begin_stop_soon(name, id, by);
        Ok(id)
    }

    /// RestartUnit, mode replace.
    pub(crate) fn restart_unit(&mut self, name: &str, by: By) -> Result<u64, Fault> {
        self.load_instance(name);
        let Some(unit) = self.units.get(name) else { return Err(Fault::NoSuchUnit(format!("Unit {name} not found."))) };
        if unit.load == Load::Masked {
            return Err(Fault::Refused(format!("Unit {name} is masked.")));
        }
        if unit.refuse_stop || unit.refuse_start {
            return Err(Fault::Refused(format!("{name} may be restarted only by dependency.")));
        }
        if let Some(job) = unit.job
            && job.kind == JobKind::Restart
            && !job.starting
        {
            return Ok(job.id);
        }
        let idle = unit.is_left_behind() || (unit.processes.is_empty() && !unit.active.runs());
        let id = self.new_job(name, JobKind::Restart);
        if idle {
            self.begin_start_soon(name, id, by);
        } else {
            self.begin_stop_soon(name, id, by);
        }
        Ok(id)
    }

    fn begin_stop_soon(&mut self, name: &str, job: u64, by: By) {
        match self.units[name].stop_waits {
            0 => self.begin_stop(name, by),
            waits => self.after(waits, Happening::StopBegins { unit: name.to_owned(), job, by }),
        }
    }

    pub(crate) fn stop_begins(&mut self, name: &str, job: u64, by: By) {
        if self.units.get(name).and_then(|unit| unit.job).is_some_and(|now| now.id == job) {
            self.begin_stop(name, by);
        }
    }

    fn begin_stop(&mut self, name: &str, by: By) {
        let now = self.now;
        let generation = self.name();
        let unit = self.units.get_mut(name).unwrap();
        if unit.is_left_behind() || (unit.processes.is_empty() && !unit.active.runs()) {
            // Nothing ends, so no timer hears of it: one whose slot has passed has been told by the end itself.
            return unit.job.into_iter().for_each(|job| self.job_removed(name, job.id, JobEnd::Done));
        }
        // Whoever began to stop it has stopped it.
        if unit.stop.is_some() {
            return;
        }
        if by == By::Agent {
            unit.last_stop_by_agent = Some(now);
        }
        unit.active = Active::Deactivating;
        unit.stop = Some(Stop { since: now, by, ending: Ending::Commands, generation, timed_out: false });
        self.tells_to_end(name);
    }

    /// SIGTERM to those of its processes whom its KillMode= names; those that are left at the very end it names all.
    fn tells_to_end(&mut self, name: &str) {
        let unit = &self.units[name];
        let Some(&Stop { by, ending, generation, .. }) = unit.stop.as_ref() else { return };
        let timeout = unit.stop_timeout();
        let only_main = ending != Ending::Rest && (unit.lent_mixed() || unit.leaves_now());
        let pids: Vec<u32> =
            unit.processes.values().filter(|process| !only_main || unit.is_main(process)).map(|process| process.pid).collect();
        self.say(|| format!("{name}: SIGTERM, by {by:?}"));
        self.after(timeout, Happening::StopTimeout { unit: name.to_owned(), generation });
        if pids.is_empty() {
            return self.run_over(name);
        }
        for pid in pids {
            self.term(name, pid, by == By::Agent);
            // systemd sends SIGCONT after it.
            if self.units[name].instance {
                self.cont(name, pid);
            }
        }
    }

    /// SIGTERM to one process.
    pub(crate) fn term(&mut self, name: &str, pid: u32, by_agent: bool) {
        let now = self.now;
        let Some(unit) = self.units.get_mut(name) else { return };
        let fpm_master = matches!(unit.body, Body::Fpm(_));
        let Some(process) = unit.processes.get_mut(&pid) else { return };
        if by_agent {
            process.signalled.get_or_insert(now);
        }
        if process.frozen {
            process.term_pending = true;
            return;
        }
        let (role, on_term, unkillable) = (process.role, process.on_term, process.unkillable_until);
        if role == Role::Main && fpm_master {
            // The master forwards it to its workers, and ends when they have (facts 1a).
            return self.master_told_to_end(name, by_agent);
        }
        let latency = self.rng.between(MS, 4 * MS);
        let (after, how) = match on_term {
            OnTerm::Dies => (latency, Exit::Killed(15)),
            OnTerm::Exits { status, after } => (after, Exit::Exited(status)),
            OnTerm::Ignores => return,
        };
        let at = (now + after).max(unkillable);
        self.at(at, Happening::ProcessEnds { unit: name.to_owned(), pid, how });
    }

    /// SIGCONT to one process.
    pub(crate) fn cont(&mut self, name: &str, pid: u32) {
        let Some(process) = self.units.get_mut(name).and_then(|unit| unit.processes.get_mut(&pid)) else { return };
        if !process.frozen {
            return;
        }
        process.frozen = false;
        let pending = std::mem::take(&mut process.term_pending);
        let by_agent = process.signalled.is_some();
        // A SIGTERM that waited is the first thing that it gets.
        if pending { self.term(name, pid, by_agent) } else { self.request_goes_on(name, pid) }
    }

    fn kill_process(&mut self, name: &str, pid: u32, by_agent: bool) {
        let now = self.now;
        let latency = self.rng.between(MS, 4 * MS);
        let Some(process) = self.units.get_mut(name).and_then(|unit| unit.processes.get_mut(&pid)) else { return };
        if by_agent {
            process.signalled.get_or_insert(now);
        }
        process.kill_pending = true;
        let at = (now + latency).max(process.unkillable_until);
        self.at(at, Happening::ProcessEnds { unit: name.to_owned(), pid, how: Exit::Killed(9) });
    }

    /// KillUnit(all, SIGKILL).
    pub(crate) fn kill_unit(&mut self, name: &str, by: By) {
        let pids: Vec<u32> = self.units.get(name).map(|unit| unit.processes.keys().copied().collect()).unwrap_or_default();
        self.say(|| format!("{name}: SIGKILL to {} processes, by {by:?}", pids.len()));
        for pid in pids {
            self.kill_process(name, pid, by == By::Agent);
        }
    }

    pub(crate) fn stop_timeout(&mut self, name: &str, generation: u64) {
        let Some(unit) = self.units.get_mut(name) else { return };
        let Some(stop) = unit.stop.as_mut().filter(|stop| stop.generation == generation) else { return };
        stop.timed_out = true;
        let by = stop.by;
        if unit.spares_now() {
            self.say(|| format!("{name}: systemd's own TimeoutStopSec= has passed, and SendSIGKILL=no"));
            return self.run_over(name);
        }
        self.say(|| format!("{name}: systemd's own TimeoutStopSec= has passed: SIGKILL"));
        let spared = |process: &Process| self.units[name].leaves_now() && !self.units[name].is_main(process);
        let pids: Vec<u32> = self.units[name].processes.values().filter(|process| !spared(process)).map(|process| process.pid).collect();
        // Whom it may not kill it does not wait for (facts F3.2).
        if pids.is_empty() {
            return self.run_over(name);
        }
        for pid in pids {
            self.kill_process(name, pid, by == By::Agent);
        }
    }

    pub(crate) fn process_ended(&mut self, name: &str, pid: u32, how: Exit) {
        let now = self.now;
        let Some(unit) = self.units.get_mut(name) else { return };
        let Some(process) = unit.processes.get(&pid) else { return };
        if process.frozen && how != Exit::Killed(9) {
            return;
        }
        let process = unit.processes.remove(&pid).unwrap();
        if !unit.has_in_this_run(&process) {
            unit.left_since = unit.left_since.min(process.start);
        }
        let oneshot = unit.oneshot();
        let main = unit.is_main(&process);
        if main {
            (unit.exit, unit.clean) = (Some(ExitSeen { how, at: Mono(now) }), unit.is_clean(how));
        }
        self.say(|| format!("{name}: process {pid} ends: {how:?}"));
        match process.role {
            Role::Worker => self.worker_gone(name, &process),
            Role::Main if main && oneshot => self.script_cut(name, &process, how),
            Role::Looped => self.starts_the_next_php(name),
            _ => {}
        }
        let unit = self.units.get_mut(name).unwrap();
        if !unit.active.runs() {
            // What its last run has left behind.
            return;
        }
        if unit.ending() == Ending::StopPost {
            // Nothing else counts as long as that runs.
            if process.role == Role::StopPost {
                self.run_over(name);
            }
            return;
        }
        // With a later command to come nobody ends what this one leaves behind.
        let goes_on = main && unit.stop.is_none() && unit.clean && !unit.last_step && unit.has_later_command();
        if unit.processes.is_empty() || (main && unit.leaves_now()) || goes_on {
            return self.run_over(name);
        }
        if main {
            let rest: Vec<u32> = unit.processes.keys().copied().collect();
            let mixed = unit.lent_mixed();
            match &unit.stop {
                Some(stop) if mixed => {
                    let by_agent = stop.by == By::Agent;
                    for pid in rest {
                        self.kill_process(name, pid, by_agent);
                    }
                }
                Some(_) => {}
                None if mixed => {
                    let generation = self.name();
                    let unit = self.units.get_mut(name).unwrap();
                    unit.active = Active::Deactivating;
                    let (by, ending) = (By::Systemd, Ending::Commands);
                    unit.stop = Some(Stop { since: now, by, ending, generation, timed_out: false });
                    for pid in rest {
                        self.kill_process(name, pid, false);
                    }
                }
                None => {
                    // final-sigterm: what the main process left behind.
                    self.begin_stop(name, By::Systemd);
                }
            }
        }
        self.master_follows(name);
    }

    /// What ran of it is over, or given up. What comes next runs, and with nothing to come its run has ended.
    fn run_over(&mut self, name: &str) {
        let unit = self.units.get_mut(name).unwrap();
        let exit = unit.exit.map(|exit| exit.how);
        let timed_out = unit.stop.as_ref().is_some_and(|stop| stop.timed_out);
        let oneshot = unit.oneshot();
        // What it is lent makes a failure of any end that the agent's stop brought about.
        let clean = unit.clean && !(unit.lent_no_success() && unit.stop.as_ref().is_some_and(|stop| stop.by == By::Agent));
        let goes_on = unit.ending() == Ending::Commands && clean && !timed_out && unit.has_later_command();
        if goes_on && unit.last_step && unit.stop.is_none() {
            // What it was lent has cut it short.
            unit.last_stop_by_agent = Some(self.now);
        }
        if goes_on && !unit.last_step {
            // The next command runs, also in the middle of a stop; then no TimeoutStopSec= fires any more (facts F1.5).
            unit.step += 1;
            if let Some(stop) = &mut unit.stop {
                stop.generation = 0;
            }
            return self.run_script(name);
        }
        if self.runs_stop_post(name) || self.ends_the_rest(name) {
            return;
        }
        let now = self.now;
        let unit = self.units.get_mut(name).unwrap();
        let stop = unit.stop.take();
        unit.ended_by_stop = unit.may_stay_down && unit.job.is_some_and(|job| job.kind == JobKind::Stop);
        unit.stop_took = stop.as_ref().map_or(0, |stop| now - stop.since);
        let by_agent = stop.as_ref().is_some_and(|stop| stop.by == By::Agent);
        (unit.active, unit.result) = match (timed_out, clean, exit) {
            (true, _, _) => (Active::Failed, "timeout"),
            (_, true, _) => (Active::Inactive, "success"),
            (_, _, Some(Exit::Killed(_))) => (Active::Failed, "signal"),
            _ => (Active::Failed, "exit-code"),
        };
        if unit.active == Active::Failed {
            unit.fired.1 += 1
        } else {
            unit.fired.0 += 1
        }
        let (active, result) = (unit.active, unit.result);
        unit.main_pid = 0;
        unit.idle_since = self.now;
        let fails_by_itself = stop.as_ref().is_none_or(|stop| unit.instance && stop.by == By::Systemd);
        let restarts_itself = unit.restarts_itself && fails_by_itself && active == Active::Failed;
        let queued = unit.as_fpm_mut().map_or(0, |fpm| std::mem::take(&mut fpm.queue).len());
        if let Some(template) = self.template_of_mut(name) {
            template.dropped += u64::try_from(queued).unwrap();
        }
        self.say(|| format!("{name}: {active:?}, Result={result}"));
        if oneshot && by_agent && active == Active::Failed {
            self.oneshot_failed(name);
        }
        self.stopped(name, stop.map_or(By::Systemd, |stop| stop.by));
        if restarts_itself {
            self.waits_to_come_back(name);
        }
    }

    /// Whatever has ended it, that runs; it ends soon, and no deadline of systemd's is counted for it.
    fn runs_stop_post(&mut self, name: &str) -> bool {
        let lasts = self.units[name].stop_post();
        if lasts == 0 || self.units[name].ending() >= Ending::StopPost {
            return false;
        }
        self.ends_further(name, Ending::StopPost);
        let pid = self.spawn(name, 1, Role::StopPost, "cleanup", OnTerm::Dies, 0);
        self.say(|| format!("{name}: its ExecStopPost= runs"));
        self.after(lasts, Happening::ProcessEnds { unit: name.to_owned(), pid, how: Exit::Exited(0) });
        true
    }

    /// What is left of it after that, by the KillMode= of now.
    fn ends_the_rest(&mut self, name: &str) -> bool {
        let unit = &self.units[name];
        if unit.ending() == Ending::Rest || unit.processes.is_empty() || unit.leaves_now() {
            return false;
        }
        self.ends_further(name, Ending::Rest);
        self.tells_to_end(name);
        true
    }

    fn ends_further(&mut self, name: &str, ending: Ending) {
        let (since, generation) = (self.now, self.name());
        let unit = self.units.get_mut(name).unwrap();
        unit.active = Active::Deactivating;
        let stop = unit.stop.get_or_insert(Stop { since, by: By::Systemd, ending, generation, timed_out: false });
        (stop.ending, stop.generation) = (ending, generation);
    }

    fn waits_to_come_back(&mut self, name: &str) {
        // It is "activating" (auto-restart) then, and whoever stops it ends that.
        let unit = self.units.get_mut(name).unwrap();
        if unit.instance && unit.job.is_none() {
            unit.active = Active::Activating;
        }
        self.after(100 * MS, Happening::ComesBack { unit: name.to_owned() });
    }

    /// The stop half of whatever job there is, is over.
    fn stopped(&mut self, name: &str, by: By) {
        let unit = self.units.get_mut(name).unwrap();
        unit.stop = None;
        let failed = unit.active == Active::Failed;
        match unit.job {
            Some(Job { id, kind: JobKind::Stop, .. }) => self.job_removed(name, id, JobEnd::Done),
            Some(Job { id, starting: true, .. }) => self.job_removed(name, id, if failed { JobEnd::Failed } else { JobEnd::Done }),
            Some(_) => return self.begin_start(name, by),
            None => {}
        }
        self.timers_rearm(name, by == By::Agent);
    }

    fn begin_start(&mut self, name: &str, by: By) {
        if let Some(unmet) = self.units[name].unmet {
            return self.skips_start(name, unmet);
        }
        let now = self.now;
        // Since it was queued.
        if self.units[name].load == Load::Masked {
            let job = self.units[name].job;
            return job.into_iter().for_each(|job| self.job_removed(name, job.id, JobEnd::Failed));
        }
        let invocation = format!("{:032x}", self.name());
        let unit = self.units.get_mut(name).unwrap();
        let (burst, interval) = unit.start_limit;
        unit.starts.retain(|at| now - *at < interval);
        if burst > 0 && unit.starts.len() >= usize::try_from(burst).unwrap() {
            unit.active = Active::Failed;
            unit.result = "start-limit-hit";
            self.violates_if_agent(name, by);
            if let Some(job) = self.units[name].job {
                self.job_removed(name, job.id, JobEnd::Failed);
            }
            return;
        }
        if let Some(job) = &mut unit.job {
            job.starting = true;
        }
        unit.starts.push(now);
        unit.skipped = false;
        unit.runs.push((now, by));
        unit.overtaken = by != By::Agent && (unit.overtaken || unit.interrupted());
        (unit.missed_slot, unit.doubtful_slot) = (false, false);
        let before = std::mem::replace(&mut unit.invocation, invocation.clone());
        unit.active = Active::Activating;
        unit.result = "success";
        (unit.exit, unit.clean) = (None, true);
        (unit.step, unit.last_step, unit.tidying) = (0, false, false);
        unit.main_start = now;
        (unit.found_up, unit.left_since) = (false, Us::MAX);
        unit.last_stop_by_agent = None;
        (unit.checkpointed, unit.may_stay_down, unit.ended_by_stop) = (false, false, false);
        if by != By::Agent {
            // Before anybody has looked how the run before has ended.
            let unseen = now < self.units[name].idle_since.max(self.faults.systemd_away_until) + 2 * S;
            self.cuts.iter_mut().filter(|cut| cut.invocation == before && unseen).for_each(|cut| cut.certain = false);
        }
        self.say(|| format!("{name}: starts, by {by:?}"));
        self.timers_count_from_start(name);
        match self.units[name].body.clone() {
            Body::Script(_) => self.run_script(name),
            Body::Daemon(daemon) => {
                let (after, well) = match daemon.starts {
                    Starts::Well(after) => (after, true),
                    Starts::NeverReady => (90 * S, false),
                    Starts::Ends(n) => {
                        if let Body::Daemon(daemon) = &mut self.units.get_mut(name).unwrap().body {
                            daemon.starts = if n > 1 { Starts::Ends(n - 1) } else { Starts::Well(20 * MS) };
                        }
                        (MS, true)
                    }
                    Starts::Fails(n) => {
                        if let Body::Daemon(daemon) = &mut self.units.get_mut(name).unwrap().body {
                            daemon.starts = if n > 1 { Starts::Fails(n - 1) } else { Starts::Well(20 * MS) };
                        }
                        (10 * MS, false)
                    }
                };
                let ends = matches!(daemon.starts, Starts::Ends(_));
                let (main, child) = match (daemon.php, daemon.loops) {
                    (true, 0) => ("php", "php"),
                    (true, _) => ("bash", "php"),
                    (false, _) => ("worker", "worker"),
                };
                let pid = self.spawn(name, 1, Role::Main, main, daemon.on_term, daemon.unkillable_for);
                if ends {
                    self.after(2 * MS, Happening::ProcessEnds { unit: name.to_owned(), pid, how: Exit::Exited(0) });
                }
                self.units.get_mut(name).unwrap().main_pid = pid;
                if daemon.leaves || daemon.spares {
                    let on_term = if daemon.spares { OnTerm::Ignores } else { OnTerm::Dies };
                    self.spawn(name, pid, Role::Child, child, on_term, 0);
                }
                self.starts_the_next_php(name);
                self.after(after, Happening::Started { unit: name.to_owned(), invocation, well });
            }
            Body::Fpm(_) => {
                self.instance_reads(name);
                let Some(fpm) = self.units[name].as_fpm().cloned() else { return };
                let pid = self.spawn(name, 1, Role::Main, "php-fpm8.2", OnTerm::Dies, 0);
                self.units.get_mut(name).unwrap().main_pid = pid;
                self.fpm_starts(name, pid);
                let (after, well) = match fpm.start {
                    FpmStart::Well(after) => (after, true),
                    FpmStart::Dies(after) => {
                        self.after(60 * MS + after, Happening::ProcessEnds { unit: name.to_owned(), pid, how: Exit::Exited(255) });
                        (60 * MS, true)
                    }
                    FpmStart::Fails => (40 * MS, false),
                    FpmStart::NeverReady => (90 * S, false),
                };
                self.after(after, Happening::Started { unit: name.to_owned(), invocation, well });
            }
        }
    }

    fn skips_start(&mut self, name: &str, unmet: Unmet) {
        self.say(|| format!("{name}: is not started: {unmet:?}"));
        let end = match unmet {
            Unmet::Condition => JobEnd::Done,
            Unmet::Assert => JobEnd::Other("assert".to_owned()),
            Unmet::Dependency => JobEnd::Dependency,
        };
        let unit = self.units.get_mut(name).unwrap();
        if unmet != Unmet::Dependency {
            unit.skipped = true;
        }
        // A script that was to run again had its turn.
        unit.may_stay_down |= unit.oneshot();
        if let Some(job) = unit.job {
            self.job_removed(name, job.id, end);
        }
    }

    fn violates_if_agent(&mut self, name: &str, by: By) {
        if by == By::Agent {
            self.violates(format!("{name}: the agent's restart has run into systemd's start limit"));
        }
    }

    pub(crate) fn spawn(&mut self, name: &str, ppid: u32, role: Role, comm: &'static str, on_term: OnTerm, unkillable_for: Us) -> u32 {
        let pid = self.pid();
        let now = self.now;
        let blur = self.rng.between(0, 34 * MS);
        let unkillable_until = if unkillable_for > 0 { now + unkillable_for } else { 0 };
        let process = Process {
            pid,
            ppid,
            start: now,
            blur,
            comm,
            role,
            on_term,
            unkillable_until,
            frozen: false,
            term_pending: false,
            kill_pending: false,
            signalled: None,
        };
        self.units.get_mut(name).unwrap().processes.insert(pid, process);
        pid
    }

    fn run_script(&mut self, name: &str) {
        let unit = self.units.get_mut(name).unwrap();
        let Body::Script(script) = &mut unit.body else { return };
        let lasts = script.next_runs.pop_front().unwrap_or(script.lasts);
        let script = script.clone();
        let main = if script.loops > 0 { "bash" } else { "php" };
        let pid = self.spawn(name, 1, Role::Main, main, script.on_term, script.unkillable_for);
        let unit = self.units.get_mut(name).unwrap();
        // How the command before it has ended systemd tells no more.
        (unit.main_pid, unit.exit) = (pid, None);
        self.starts_the_next_php(name);
        if script.stubborn_child {
            self.spawn(name, pid, Role::Child, "ffmpeg", OnTerm::Ignores, 0);
        }
        if script.leaves {
            let child = self.spawn(name, pid, Role::Child, "ffmpeg", OnTerm::Dies, 0);
            self.after(lasts + lasts / 2, Happening::ProcessEnds { unit: name.to_owned(), pid: child, how: Exit::Exited(0) });
        }
        self.after(lasts, Happening::ProcessEnds { unit: name.to_owned(), pid, how: Exit::Exited(script.exits) });
    }

    /// A shell that nobody has told to end starts the next one.
    fn starts_the_next_php(&mut self, name: &str) {
        let unit = &self.units[name];
        let Some((lasts, _)) = unit.loops() else { return };
        let shell = unit.processes.get(&unit.main_pid).filter(|shell| shell.signalled.is_none() && !unit.tidying && unit.stop.is_none());
        let Some(shell) = shell.map(|shell| shell.pid) else { return };
        let pid = self.spawn(name, shell, Role::Looped, "php", OnTerm::Dies, 0);
        self.after(lasts, Happening::ProcessEnds { unit: name.to_owned(), pid, how: Exit::Exited(0) });
    }

    /// A service is ready, or its start has failed.
    pub(crate) fn started(&mut self, name: &str, invocation: &str, well: bool) {
        let Some(unit) = self.units.get_mut(name) else { return };
        let times_out = matches!(&unit.body, Body::Daemon(daemon) if daemon.starts == Starts::NeverReady);
        let timed_out = unit.active == Active::Deactivating && unit.stop.is_none() && unit.result == "timeout";
        // One whose main process has died in its start may be waiting for its next one.
        if unit.invocation != *invocation || (unit.active != Active::Activating && !timed_out) || unit.main_pid == 0 {
            return;
        }
        if times_out && !timed_out {
            // What it has started is ended first, and its start job goes on until that is done.
            (unit.active, unit.result) = (Active::Deactivating, "timeout");
            self.say(|| format!("{name}: its start has taken too long"));
            return self.after(11 * S, Happening::Started { unit: name.to_owned(), invocation: invocation.to_owned(), well });
        }
        if well {
            unit.active = Active::Active;
            let job = unit.job;
            self.say(|| format!("{name}: ready"));
            self.fpm_ready(name);
            if let Some(job) = job {
                self.job_removed(name, job.id, JobEnd::Done);
            }
            return;
        }
        unit.active = Active::Failed;
        unit.result = if timed_out { "timeout" } else { "exit-code" };
        unit.fired.1 += 1;
        unit.exit = Some(ExitSeen { how: Exit::Exited(78), at: Mono(self.now) });
        let since = unit.main_start;
        unit.processes.retain(|_, process| process.start < since);
        unit.main_pid = 0;
        let job = unit.job;
        unit.idle_since = self.now;
        let restarts_itself = unit.restarts_itself;
        self.say(|| format!("{name}: its start has failed"));
        if let Some(job) = job {
            self.job_removed(name, job.id, JobEnd::Failed);
        }
        if restarts_itself {
            self.waits_to_come_back(name);
        }
    }

    /// What a person does with systemctl.
    ///
    /// # Errors
    /// As systemd refuses it.
    pub fn person(&mut self, verb: &str, name: &str, by: By) -> Result<u64, Fault> {
        self.say(|| format!("== a person does systemctl {verb} {name}"));
        // Of two stops on their way nobody can tell which came first.
        let both = self.sent.get(name).is_some_and(|sent| self.now < sent + 300 * MS);
        if let Some(unit) = self.units.get(name).filter(|_| both && verb != "start") {
            self.maybe_stopped.insert(unit.invocation.clone());
        }
        // What is started again as soon as it has ended tells nobody how it did.
        if let Some(unit) = self.units.get(name).filter(|unit| unit.stop.is_some()) {
            self.cuts.iter_mut().filter(|cut| cut.invocation == unit.invocation).for_each(|cut| cut.certain = false);
        }
        match verb {
            "start" => self.start_unit(name, by),
            "stop" => {
                let job = self.stop_unit(name, by)?;
                self.units.get_mut(name).unwrap().may_stay_down = true;
                Ok(job)
            }
            _ => self.restart_unit(name, by),
        }
    }

    pub(crate) fn comes_back(&mut self, name: &str) {
        let waits = |unit: &super::Unit| match unit.active {
            Active::Failed => !unit.instance,
            Active::Activating => unit.processes.is_empty(),
            Active::Inactive => unit.instance && unit.invocation.is_empty(),
            _ => false,
        };
        if self.units.get(name).is_some_and(|unit| waits(unit) && unit.job.is_none()) {
            if let Some(unit) = self.units.get_mut(name).filter(|unit| unit.instance) {
                unit.active = Active::Inactive;
            }
            let _ = self.start_unit(name, By::Systemd);
        }
    }

    pub fn reload(&mut self) {
        self.say(|| "systemd reloads".to_owned());
        let mut others = Vec::new();
        for unit in self.units.values_mut() {
            let before = unit.stop_timeout();
            unit.in_force.clone_from(&unit.drop_in);
            unit.last_step |= unit.exec_reset() && unit.active.runs();
            let timeout = unit.stop_timeout();
            let stop = unit.stop.as_ref().filter(|stop| timeout != before && !stop.timed_out && stop.generation != 0);
            others.extend(stop.map(|stop| (unit.name.clone(), stop.since + timeout)));
        }
        // Another TimeoutStopSec= counts for a stop that is under way, too (facts F3.6).
        for (name, at) in others {
            let generation = self.name();
            self.units.get_mut(&name).and_then(|unit| unit.stop.as_mut()).into_iter().for_each(|stop| stop.generation = generation);
            self.at(at, Happening::StopTimeout { unit: name, generation });
        }
        self.hint(Event::LookAgain);
    }

    /// Its jobs go on meanwhile, and it answers nobody for so long (facts F5.2).
    pub fn executes_anew(&mut self, gone: Us) {
        self.faults.systemd_away_until = self.faults.systemd_away_until.max(self.now + gone);
        self.reload();
    }

    pub(crate) fn reset_failed(&mut self, name: &str) {
        if let Some(unit) = self.units.get_mut(name) {
            unit.starts.clear();
            if unit.active == Active::Failed {
                unit.active = Active::Inactive;
                unit.result = "success";
            }
        }
    }
}
