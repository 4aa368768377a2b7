//! php-fpm: a master, workers with requests in flight, a status page that answers or not.

use std::collections::{BTreeMap, VecDeque};

use restart_agent::core::effect::StatusAsk;
use restart_agent::core::seen::{Active, Exit, FpmLayout, OpcacheSeen, PoolLayout, PoolStatus, WorkerSeen, WorkerState};
use restart_agent::core::time::Wall;

use super::pools::{Asked, Pool, STATUS_PATH};
use super::unit::{By, OnTerm, Process, Role};
use super::{Cut, Happening, MS, S, Us, World};

/// How the status page answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answers {
    Well,
    /// Never: the question times out.
    Not,
    /// After so long, or not at all if that is too late.
    Slowly(Us),
    /// Of a hundred questions so many get no answer.
    Sometimes(u64),
    Garbage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FpmStart {
    Well(Us),
    Fails,
    NeverReady,
    /// Ready after 60 ms, and its master dies so long after that.
    Dies(Us),
}

/// The requests that come in.
#[derive(Debug, Clone, Copy, Default)]
pub struct Load {
    /// Between two requests while the host is in the pool, on average; 0: none.
    pub every: Us,
    /// Between two that come although it is out of the pool; 0: none.
    pub strays_every: Us,
    pub short: (Us, Us),
    /// Of a hundred requests so many are long.
    pub long_percent: u64,
    pub long: (Us, Us),
    /// No request comes in after this.
    pub until: Us,
}

#[derive(Debug, Clone)]
pub struct Request {
    pub pid: u32,
    pub began: Us,
    pub uri: String,
    remaining: Us,
    resumed: Us,
    generation: u64,
    finishing: bool,
    /// When a full status first told of it, while its worker ran.
    shown_at: Option<Us>,
}

impl Request {
    /// The agent was told of it by name, and not only within the last `just_now`.
    pub(crate) fn known(&self, now: Us, just_now: Us) -> bool {
        self.shown_at.is_some_and(|at| now > at + just_now)
    }

    /// Its answer is on the way.
    pub(crate) fn finishing(&self) -> bool {
        self.finishing
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Queued {
    pub since: Us,
    pub(super) lasts: Us,
    pub(super) child: Option<Us>,
}

impl Queued {
    pub(super) fn new(since: Us, lasts: Us, child: Option<Us>) -> Queued {
        Queued { since, lasts, child }
    }
}

#[derive(Debug, Clone)]
pub struct Fpm {
    pub workers: u32,
    /// pm.status_listen; else the main socket is asked, and a worker of the pool answers.
    pub status_listen: bool,
    pub has_status: bool,
    pub status: Answers,
    /// When the status page was mended.
    pub status_mended: Us,
    /// `php-fpm -t`.
    pub config_good: bool,
    pub start: FpmStart,
    /// It is ready, and answers no ping.
    pub pings: bool,
    pub load: Load,
    /// A child of a request that ignores SIGTERM.
    pub stubborn_child: bool,
    /// Connections without a request, that are kept open.
    pub held: u32,
    pub accepted: u64,
    pub start_time: i64,
    pub started: Us,
    pub requests: BTreeMap<u64, Request>,
    /// Connections that no worker has taken yet.
    pub queue: VecDeque<Queued>,
    /// Workers that have ended since the master was stopped: its status names them for ever.
    pub ghosts: Vec<u32>,
    /// It serves the code of before the newest deploy, whatever it was started after.
    pub old_code: bool,
    pub generation: u64,
    pub served: u64,
    /// So long after its start its opcache of 128 MiB is full; 0: it does not say.
    pub opcache_fills: Us,
    /// So long after its start all of its keys are taken; 0: they are not.
    pub opcache_keys_fill: Us,
    /// Of a hundred bytes that its memory fills up with so many are wasted.
    pub opcache_wastes: u64,
    /// Its other pools: what is said above of a pool is of `www`.
    pub more: Vec<Pool>,
    /// Their workers, and which of [`Fpm::pools`] each is of.
    pub worker_of: BTreeMap<u32, usize>,
}

impl Default for Fpm {
    fn default() -> Self {
        Fpm {
            workers: 4,
            status_listen: true,
            has_status: true,
            status: Answers::Well,
            status_mended: 0,
            config_good: true,
            start: FpmStart::Well(60 * MS),
            pings: true,
            load: Load::default(),
            stubborn_child: false,
            held: 0,
            accepted: 0,
            start_time: 0,
            started: 0,
            requests: BTreeMap::new(),
            queue: VecDeque::new(),
            ghosts: Vec::new(),
            old_code: false,
            generation: 0,
            served: 0,
            opcache_fills: 0,
            opcache_keys_fill: 0,
            opcache_wastes: 0,
            more: Vec::new(),
            worker_of: BTreeMap::new(),
        }
    }
}

impl Fpm {
    #[must_use]
    pub fn layout(&self, listen: &str) -> FpmLayout {
        let of = |(n, pool): (usize, Pool)| {
            let (listen, status_listen) = self.sockets(n, listen)?;
            Some(PoolLayout {
                name: pool.name,
                listen,
                status_listen,
                status_path: pool.has_status.then(|| STATUS_PATH.to_owned()),
                ping_path: Some("/ping".to_owned()),
                ping_response: "pong".to_owned(),
            })
        };
        FpmLayout { pools: self.pools().enumerate().filter_map(of).collect(), systemd_interval_ms: 0, file_update_protection_ms: 2000 }
    }
}

impl World {
    pub(crate) fn opcache(&self, unit: &str) -> Option<OpcacheSeen> {
        let fpm = self.units.get(unit).filter(|unit| unit.active == Active::Active)?.as_fpm().filter(|fpm| fpm.opcache_fills > 0)?;
        let size: u64 = 128 << 20;
        let used = (u128::from(size) * u128::from(self.now - fpm.started) / u128::from(fpm.opcache_fills)).min(u128::from(size)) as u64;
        let (full, since) = (used == size, Wall(fpm.start_time * 1_000_000));
        let (free, wasted) = (size - used, used / 100 * fpm.opcache_wastes);
        let max_keys = 16_229;
        let keys = match fpm.opcache_keys_fill {
            0 => 100,
            fill => (max_keys * (self.now - fpm.started) / fill).min(max_keys),
        };
        Some(OpcacheSeen { used: used - wasted, free, wasted, keys, max_keys, full, since, ..OpcacheSeen::default() })
    }

    /// Where a php-fpm listens.
    pub(crate) fn listen(&self, unit: &str) -> String {
        self.template_of(unit).map_or_else(|| format!("/run/php/{unit}.sock"), |template| template.socket_of(unit))
    }

    pub(crate) fn fpm_starts(&mut self, name: &str, _master: u32) {
        let started = self.now;
        let seconds = self.wall(self.now).seconds();
        let generation = self.name();
        let fpm = self.units.get_mut(name).unwrap().as_fpm_mut().unwrap();
        fpm.start_time = seconds;
        fpm.started = started;
        fpm.accepted = 0;
        fpm.more.iter_mut().for_each(|pool| pool.accepted = 0);
        fpm.worker_of.clear();
        fpm.generation = generation;
        fpm.requests.clear();
        fpm.queue.clear();
        fpm.ghosts.clear();
    }

    pub(crate) fn fpm_ready(&mut self, name: &str) {
        let Some(unit) = self.units.get(name) else { return };
        let Some(fpm) = unit.as_fpm() else { return };
        let (pools, stubborn) = (fpm.pools().collect::<Vec<_>>(), fpm.stubborn_child);
        let master = unit.main_pid;
        for (n, pool) in pools.iter().enumerate() {
            for _ in 0..pool.workers {
                self.spawn_worker(name, Role::Worker, n);
            }
            if pool.status_listen {
                self.spawn_worker(name, Role::StatusWorker, n);
            }
        }
        if stubborn {
            self.spawn(name, master, Role::Child, "ffmpeg", OnTerm::Ignores, 0);
        }
        for pool in 0..pools.len() {
            self.next_arrival(name, pool);
        }
        self.take_from_queue(name);
        self.instance_ready(name);
    }

    fn spawn_worker(&mut self, name: &str, role: Role, pool: usize) {
        let master = self.units[name].main_pid;
        let pid = self.spawn(name, master, role, "php-fpm8.2", OnTerm::Dies, 0);
        if let Some(fpm) = self.units.get_mut(name).and_then(|unit| unit.as_fpm_mut()).filter(|_| pool > 0) {
            fpm.worker_of.insert(pid, pool);
        }
    }

    /// A connection of the web server: a worker takes it, at once or when there is one.
    pub fn connect(&mut self, name: &str, lasts: Us, child: Option<Us>) {
        let since = self.now;
        if let Some(fpm) = self.units.get_mut(name).and_then(|unit| unit.as_fpm_mut()) {
            fpm.queue.push_back(Queued { since, lasts, child });
        }
        self.take_from_queue(name);
    }

    pub(super) fn take_from_queue(&mut self, name: &str) {
        while let Some(next) = self.units.get(name).and_then(|unit| unit.as_fpm()).and_then(|fpm| fpm.queue.front()).copied() {
            let Some(worker) = self.begin(name, 0, next.lasts) else { return };
            if let Some(fpm) = self.units.get_mut(name).and_then(|unit| unit.as_fpm_mut()) {
                fpm.queue.pop_front();
            }
            if let Some(longer) = next.child {
                self.child_of(name, worker, next.lasts + longer);
            }
        }
        if let Some(template) = self.template_of(name).filter(|template| template.shared).map(|template| template.unit.clone()) {
            self.take_from_backlog(&template);
        }
    }

    fn next_arrival(&mut self, name: &str, pool: usize) {
        let out = !self.takes_traffic(name);
        let Some(fpm) = self.units.get(name).and_then(|unit| unit.as_fpm()) else { return };
        let Some(load) = fpm.pool(pool).map(|pool| pool.load) else { return };
        let every = if out { load.strays_every } else { load.every };
        let generation = fpm.generation;
        if load.until <= self.now || (load.every == 0 && load.strays_every == 0) {
            return;
        }
        // While nothing comes in, see now and then whether that has changed.
        let wait = if every == 0 { 50 * MS } else { self.rng.between(every / 4, every * 7 / 4) };
        self.after(wait.max(1), Happening::Arrival { unit: name.to_owned(), generation, pool });
    }

    pub(crate) fn arrival(&mut self, name: &str, generation: u64, pool: usize) {
        let out = !self.takes_traffic(name);
        let Some(unit) = self.units.get(name) else { return };
        let Some(fpm) = unit.as_fpm() else { return };
        if fpm.generation != generation {
            return;
        }
        let Some(load) = fpm.pool(pool).map(|pool| pool.load) else { return };
        if (if out { load.strays_every } else { load.every }) > 0 {
            let long = self.rng.chance(load.long_percent);
            let (low, high) = if long { load.long } else { load.short };
            let lasts = self.rng.between(low, high);
            self.begin(name, pool, lasts);
        }
        self.next_arrival(name, pool);
    }

    /// A request, if a worker is idle; else it is refused before it began.
    pub fn begin_request(&mut self, name: &str, lasts: Us) -> bool {
        self.begin(name, 0, lasts).is_some()
    }

    /// The worker that takes it.
    pub(super) fn begin(&mut self, name: &str, pool: usize, lasts: Us) -> Option<u32> {
        let now = self.now;
        let id = self.name();
        let unit = self.units.get_mut(name)?;
        let busy: Vec<u32> = unit.as_fpm().map(|fpm| fpm.requests.values().map(|request| request.pid).collect()).unwrap_or_default();
        let ending = unit.stop.is_some();
        let idle = unit.processes.values().find(|process| {
            process.role == Role::Worker
                && !process.frozen
                && !process.kill_pending
                && process.signalled.is_none()
                && !busy.contains(&process.pid)
                && unit.as_fpm().is_some_and(|fpm| fpm.pool_of(process.pid) == pool)
        });
        let pid = idle.map(|process| process.pid).filter(|_| !ending)?;
        let fpm = unit.as_fpm_mut().unwrap();
        fpm.accepts(pool);
        let uri = format!("/w/index.php?request={id}");
        fpm.requests
            .insert(id, Request { pid, began: now, uri, remaining: lasts, resumed: now, generation: 0, finishing: false, shown_at: None });
        self.after(lasts, Happening::Finishing { unit: name.to_owned(), request: id, generation: 0 });
        Some(pid)
    }

    pub(crate) fn request_finishing(&mut self, name: &str, id: u64, generation: u64) {
        let latency = self.rng.between(200, 3 * MS);
        let Some(request) = self.request(name, id, generation) else { return };
        request.finishing = true;
        request.remaining = latency;
        self.after(latency, Happening::Finished { unit: name.to_owned(), request: id, generation });
    }

    pub(crate) fn request_finished(&mut self, name: &str, id: u64, generation: u64) {
        if self.request(name, id, generation).is_some()
            && let Some(fpm) = self.units.get_mut(name).and_then(|unit| unit.as_fpm_mut())
        {
            fpm.requests.remove(&id);
            fpm.served += 1;
            if let Some(template) = self.template_of_mut(name) {
                template.answered += 1;
            }
            self.take_from_queue(name);
        }
    }

    fn request(&mut self, name: &str, id: u64, generation: u64) -> Option<&mut Request> {
        let fpm = self.units.get_mut(name)?.as_fpm_mut()?;
        fpm.requests.get_mut(&id).filter(|request| request.generation == generation)
    }

    /// SIGSTOP to a worker. Says whether it was there.
    pub(crate) fn freeze(&mut self, name: &str, pid: u32) -> bool {
        let now = self.now;
        let generation = self.name();
        let Some(unit) = self.units.get_mut(name) else { return false };
        let Some(process) = unit.processes.get_mut(&pid) else { return false };
        if process.frozen {
            return true;
        }
        process.frozen = true;
        if let Some(fpm) = unit.as_fpm_mut()
            && let Some(request) = fpm.requests.values_mut().find(|request| request.pid == pid)
        {
            request.remaining = request.remaining.saturating_sub(now - request.resumed);
            request.generation = generation;
        }
        true
    }

    pub(crate) fn request_goes_on(&mut self, name: &str, pid: u32) {
        let now = self.now;
        let generation = self.name();
        let Some(fpm) = self.units.get_mut(name).and_then(|unit| unit.as_fpm_mut()) else { return };
        let Some((id, request)) = fpm.requests.iter_mut().find(|(_, request)| request.pid == pid) else {
            return self.takes_connections_again(name, pid);
        };
        request.resumed = now;
        request.generation = generation;
        let (id, remaining, finishing) = (*id, request.remaining, request.finishing);
        let unit = name.to_owned();
        let what = if finishing {
            Happening::Finished { unit, request: id, generation }
        } else {
            Happening::Finishing { unit, request: id, generation }
        };
        self.after(remaining, what);
    }

    /// A master starts workers in the place of those that have ended while it was stopped.
    fn takes_connections_again(&mut self, name: &str, pid: u32) {
        if self.template_of(name).is_none_or(|template| !template.shared) {
            return;
        }
        let unit = self.units.get_mut(name).unwrap();
        let (master, stops) = (unit.main_pid, unit.stop.is_some());
        if pid == master && !stops {
            let ended = unit.as_fpm_mut().map(|fpm| std::mem::take(&mut fpm.ghosts)).unwrap_or_default();
            for _ in ended {
                self.spawn(name, master, Role::Worker, "php-fpm8.2", OnTerm::Dies, 0);
            }
        }
        self.take_from_queue(name);
    }

    /// The master forwards SIGTERM to its workers at once (facts 1a).
    pub(crate) fn master_told_to_end(&mut self, name: &str, by_agent: bool) {
        let unit = self.units.get_mut(name).unwrap();
        let master = unit.main_pid;
        if let Some(process) = unit.processes.get_mut(&master) {
            process.term_pending = true;
        }
        let workers: Vec<u32> = unit
            .processes
            .values()
            .filter(|process| matches!(process.role, Role::Worker | Role::StatusWorker))
            .map(|process| process.pid)
            .collect();
        for pid in workers {
            self.term(name, pid, by_agent);
        }
        self.master_follows(name);
    }

    /// A master that was told to end does so when its workers have.
    pub(crate) fn master_follows(&mut self, name: &str) {
        let Some(unit) = self.units.get(name) else { return };
        if unit.as_fpm().is_none() {
            return;
        }
        let master = unit.main_pid;
        let told = unit.processes.get(&master).is_some_and(|process| process.term_pending);
        let workers = unit.processes.values().any(|process| matches!(process.role, Role::Worker | Role::StatusWorker));
        if told && !workers {
            self.after(2 * MS, Happening::ProcessEnds { unit: name.to_owned(), pid: master, how: Exit::Exited(0) });
        }
    }

    /// A worker has died: what it was at is cut.
    pub(crate) fn worker_gone(&mut self, name: &str, process: &Process) {
        let now = self.now;
        // A configuration that cannot be read does not say where to ask.
        let readable = self
            .template_of(name)
            .is_none_or(|template| template.next.config_good && (template.config_mended == 0 || now > template.config_mended + 60 * S));
        let asked = self.asked_for_long(name);
        let unit = self.units.get_mut(name).unwrap();
        let stopping = unit.stop.is_some();
        // What somebody else is stopping is his to answer for, also if the agent hurries it.
        let others = unit.stop.as_ref().is_some_and(|stop| stop.by == By::Person);
        // Nor has one been asked that is only just up.
        let just_up = now < unit.main_start + S;
        let master = unit.main_pid;
        let fpm = unit.as_fpm_mut().unwrap();
        let of = fpm.pool_of(process.pid);
        let how = |n: usize| asked.as_ref().and_then(|asked| asked.get(n)).copied().unwrap_or(Asked::Not);
        let tells = matches!(how(of), Asked::Itself | Asked::Beside);
        // It answers by a socket for that, so that all of its workers can be stopped for the count.
        let exact = how(of) == Asked::Beside;
        let pool = fpm.pool(of).unwrap();
        // Exact is what a status page of its own makes exact, whatever has come in since its last word apart.
        let known = readable && exact && pool.status == Answers::Well && (pool.status_mended == 0 || now > pool.status_mended + S);
        let silent = asked.is_some() && (!tells || pool.status == Answers::Not);
        let strays = pool.load.strays_every > 0;
        let waits_for_others = fpm.says_within();
        let at = fpm.requests.iter().find(|(_, request)| request.pid == process.pid).map(|(id, _)| *id);
        let request = at.and_then(|id| fpm.requests.remove(&id));
        if let Some(request) = request
            && process.signalled.is_some()
        {
            let uri = request.uri.clone();
            if request.finishing {
                self.say(|| format!("{name}: {uri} had its answer on the way"));
            } else {
                self.say(|| format!("{name}: {uri} is cut after {:.3} s", (now - request.began) as f64 / 1e6));
            }
            let request_line = Some(format!("GET {}", request.uri));
            // What came in while the decision was on its way nobody could know.
            let on_its_way =
                if strays { 100 * MS } else { 0 }.max(6 * MS * (1 + self.faults.slowness)) + waits_for_others + self.faults.disk_took;
            let doubtful = request.finishing || others || just_up || !known || now - request.began < on_its_way;
            let invocation = self.units[name].invocation.clone();
            self.cuts.push(Cut {
                unit: name.to_owned(),
                invocation,
                pid: process.pid,
                request: request_line,
                at: now,
                wall: self.wall(now),
                doubtful,
                certain: false,
                pool: Some(pool.name),
                silent: silent && !others && !just_up && !request.finishing && now - request.began >= on_its_way,
            });
        }
        if self.units[name].processes.get(&master).is_some_and(|master| master.frozen) {
            if let Some(fpm) = self.units.get_mut(name).and_then(|unit| unit.as_fpm_mut()) {
                fpm.ghosts.push(process.pid);
            }
        } else if !stopping && self.units[name].processes.contains_key(&master) {
            // The master starts another.
            self.spawn_worker(name, process.role, of);
            self.take_from_queue(name);
        }
    }

    /// The status page of the pool that has this socket, as asked at one moment. `patient`: one that is slow has its time.
    pub(crate) fn status_page(&mut self, name: &str, ask: &StatusAsk, full: bool, patient: bool) -> Result<PoolStatus, String> {
        let socket = ask.socket.as_str();
        let refused = || Err("connection refused".to_owned());
        let now = self.now;
        let chance = self.rng.between(0, 99);
        let listen = self.listen(name);
        let Some(unit) = self.units.get_mut(name) else { return refused() };
        let Some(fpm) = unit.as_fpm() else { return refused() };
        let Some(n) = fpm.pool_at(socket, &listen) else { return refused() };
        let worker_of = fpm.worker_of.clone();
        let of_pool = |process: &&Process| worker_of.get(&process.pid).copied().unwrap_or(0) == n;
        let (Some(pool), Some((listen, _))) = (fpm.pool(n), fpm.sockets(n, &listen)) else { return refused() };
        let main = socket == listen;
        let ready = unit.processes.values().filter(of_pool).any(|process| process.role == Role::Worker);
        let workers: Vec<(u32, bool, Us)> = unit
            .processes
            .values()
            .filter(|process| process.role == Role::Worker)
            .filter(of_pool)
            .map(|process| (process.pid, process.frozen || process.term_pending || process.kill_pending, process.start))
            .collect();
        let status_worker = unit.processes.values().filter(of_pool).any(|process| process.role == Role::StatusWorker && !process.frozen);
        let Some(fpm) = unit.as_fpm_mut() else { return refused() };
        let ready = ready || !fpm.ghosts.is_empty();
        if !ready || (!main && (!pool.status_listen || !status_worker)) {
            return refused();
        }
        if !pool.has_status || ask.path != STATUS_PATH {
            return Err(format!("{socket} answers 404: {} is not its pm.status_path", ask.path));
        }
        match pool.status {
            Answers::Slowly(_) if patient => {}
            Answers::Not | Answers::Slowly(_) => return Err("no answer in time".to_owned()),
            Answers::Sometimes(percent) if chance < percent => return Err("no answer in time".to_owned()),
            Answers::Garbage => return Err("not JSON".to_owned()),
            Answers::Well | Answers::Sometimes(_) => {}
        }
        let busy: Vec<u32> = fpm.requests.values().map(|request| request.pid).collect();
        let own = workers.iter().find(|(pid, frozen, _)| !frozen && !busy.contains(pid)).map(|(pid, ..)| *pid);
        if main && own.is_none() {
            return Err("no answer in time".to_owned());
        }
        let own = own.filter(|_| main);
        if main {
            fpm.accepts(n);
        }
        let idle_seen = |pid: u32, held: bool| WorkerSeen {
            pid,
            state: if held { WorkerState::ReadingHeaders } else { WorkerState::Idle },
            duration_us: 0,
            method: "-".to_owned(),
            uri: String::new(),
            script: "-".to_owned(),
        };
        let mut held_left = pool.held;
        let mut seen = Vec::new();
        let mut active = 0;
        for (pid, frozen, _) in &workers {
            if let Some(request) = fpm.requests.values_mut().find(|request| request.pid == *pid) {
                active += 1;
                if full && !frozen {
                    request.shown_at.get_or_insert(now);
                }
                seen.push(WorkerSeen {
                    pid: *pid,
                    state: if request.finishing { WorkerState::Finishing } else { WorkerState::Running },
                    duration_us: now - request.began,
                    method: "GET".to_owned(),
                    uri: request.uri.clone(),
                    script: "/srv/w/index.php".to_owned(),
                });
            } else if own == Some(*pid) {
                active += 1;
                seen.push(WorkerSeen { uri: format!("{STATUS_PATH}?json"), state: WorkerState::Running, ..idle_seen(*pid, false) });
            } else {
                let held = held_left > 0;
                if held {
                    held_left -= 1;
                    active += 1;
                }
                seen.push(idle_seen(*pid, held));
            }
        }
        let ghosts = fpm.ghosts.clone();
        for pid in &ghosts {
            let at_work = pid % 3 == 0;
            let state = if at_work { WorkerState::Running } else { WorkerState::Idle };
            active += u32::from(at_work);
            seen.push(WorkerSeen { state, uri: if at_work { "/w/last.php".to_owned() } else { String::new() }, ..idle_seen(*pid, false) });
        }
        let total = u32::try_from(workers.len() + ghosts.len()).unwrap();
        Ok(PoolStatus {
            pool: pool.name,
            ondemand: false,
            start_time: fpm.start_time,
            accepted: fpm.pool(n).map_or(0, |pool| pool.accepted),
            active,
            idle: total - active,
            workers: full.then_some(seen),
        })
    }

    /// One request of the agent's own over this pool's main socket: whether it is answered.
    pub(crate) fn answers_ping(&self, name: &str, pool: usize) -> bool {
        let Some(unit) = self.units.get(name) else { return false };
        let Some(fpm) = unit.as_fpm() else { return false };
        let busy: Vec<u32> = fpm.requests.values().map(|request| request.pid).collect();
        let idle = unit.processes.values().any(|process| {
            process.role == Role::Worker
                && !process.frozen
                && process.signalled.is_none()
                && !busy.contains(&process.pid)
                && fpm.pool_of(process.pid) == pool
        });
        fpm.pings && idle && unit.stop.is_none()
    }

    /// Which deploy's code the master has loaded.
    pub(crate) fn serves(&self, name: &str) -> String {
        let fpm = self.units.get(name).and_then(|unit| unit.as_fpm());
        if fpm.is_some_and(|fpm| fpm.old_code) {
            return "other code".to_owned();
        }
        let started = fpm.map_or(0, |fpm| fpm.started);
        self.code.iter().rev().find(|(landed, _)| *landed <= started).map(|(_, id)| id.clone()).unwrap_or_default()
    }
}

/// For tests that want a steady load of short requests and some long ones.
#[must_use]
pub fn some_load(until: Us) -> Load {
    Load { every: 40 * MS, strays_every: 0, short: (5 * MS, 30 * MS), long_percent: 5, long: (500 * MS, 4 * S), until }
}
