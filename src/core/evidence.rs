//! Is php-fpm idle? From what its status says, never from silence (law 5).
//!
//! Sources, best first: `pm.status_listen` (answers when all workers are busy, facts 3d), the main socket (its own worker
//! subtracted, no answer means busy), the StatusText that php-fpm sends to systemd, the processes and connections of a pool. Each pool by its own best
//! source: one that says nothing does not silence the others.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::effect::StatusAsk;
use super::policy::FpmRules;
use super::seen::{FpmLayout, PoolAnswers, PoolStatus, ProcessSeen, UnitSeen, WorkerSeen, WorkerState};
use super::time::Mono;

/// What is said where not even the pools are known.
const UNREAD: &str = "its configuration could not be read";

/// How the requests in flight of one unit are counted, pool by pool.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Source {
    /// Pools with a status page.
    pub asks: Vec<StatusAsk>,
    /// For each ask: the asking takes one of the pool's own workers.
    pub own: Vec<bool>,
    /// Pools without.
    pub mute: Vec<MutePool>,
    /// `StatusText`, up to so old, speaks for the only pool, which is mute.
    pub text: Option<Duration>,
}

/// A pool without a status page. Idle is provable when no worker of it is left.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MutePool {
    /// Empty: php-fpm did not say what pools it has, so this stands for all.
    pub name: String,
    pub listen: String,
}

impl Source {
    /// Chooses for a unit, from what its own php-fpm says (facts M11) and what the rules say.
    #[must_use]
    pub fn choose(rules: &FpmRules, layout: Option<&FpmLayout>) -> Source {
        let pools = layout.map_or(&[][..], |layout| layout.pools.as_slice());
        let path = |found: Option<&String>| rules.status_path.clone().or_else(|| found.cloned());
        let mut source = Source::default();
        // The socket of the rules is that of the pool that has it, or of the first.
        let named = rules
            .status
            .as_ref()
            .map(|socket| pools.iter().position(|pool| pool.listen == *socket || pool.status_listen.as_ref() == Some(socket)).unwrap_or(0));
        for (n, pool) in pools.iter().enumerate() {
            let named = rules.status.as_ref().filter(|_| named == Some(n));
            let path = path(pool.status_path.as_ref()).or_else(|| named.map(|_| "/status".to_owned()));
            let Some(path) = path else {
                source.mute.push(MutePool { name: pool.name.clone(), listen: pool.listen.clone() });
                continue;
            };
            let socket = named.or(pool.status_listen.as_ref()).unwrap_or(&pool.listen).clone();
            source.own.push(socket == pool.listen);
            source.asks.push(StatusAsk { pool: pool.name.clone(), socket, path });
        }
        match (&rules.status, layout) {
            (Some(socket), None) => {
                let path = path(None).unwrap_or_else(|| "/status".to_owned());
                source.asks.push(StatusAsk { pool: "www".to_owned(), socket: socket.clone(), path });
                source.own.push(false);
            }
            (None, None) => source.mute.push(MutePool::default()),
            // With several pools it is not known whether the text sums them (facts 3l).
            (_, Some(layout)) if layout.systemd_interval_ms > 0 && layout.pools.len() == 1 && source.asks.is_empty() => {
                source.text = Some(Duration::from_millis(layout.systemd_interval_ms));
            }
            _ => {}
        }
        source
    }

    /// How to ask a pool that does not answer whether all its workers are at work; `None` if its status has no socket of its own.
    #[must_use]
    pub fn beside(&self, pool: &str) -> Option<StatusAsk> {
        self.asks.iter().zip(&self.own).find(|(ask, own)| ask.pool == pool && !**own).map(|(ask, _)| ask.clone())
    }

    /// Some pool has a status page.
    #[must_use]
    pub fn asks(&self) -> bool {
        !self.asks.is_empty()
    }

    /// Whether asking this pool takes one of its own workers, so that not all of them may be stopped for a moment.
    #[must_use]
    pub fn takes_own_worker(&self, pool: &str) -> bool {
        self.asks.iter().zip(&self.own).any(|(ask, own)| *own && ask.pool == pool)
    }
}

impl MutePool {
    /// Its workers, of all processes of the unit. What does not say whose it is may be anybody's.
    pub fn workers<'u>(&'u self, unit: &'u UnitSeen) -> impl Iterator<Item = &'u ProcessSeen> {
        let of_pool = |process: &&ProcessSeen| match &process.pool {
            _ if self.unread() => true,
            Some(pool) => *pool == self.name,
            None => process.ppid == unit.main_pid,
        };
        unit.processes.iter().filter(|process| process.pid != unit.main_pid).filter(of_pool)
    }

    /// Not even which pools there are is known.
    #[must_use]
    pub fn unread(&self) -> bool {
        self.name.is_empty()
    }

    /// For a sentence: `pool three`.
    #[must_use]
    pub fn called(&self) -> String {
        if self.unread() { "it".to_owned() } else { format!("pool {}", self.name) }
    }

    /// Why it says nothing, where it is named beside that.
    #[must_use]
    pub fn why_mute(&self) -> &'static str {
        if self.unread() { UNREAD } else { "it has no status page" }
    }

    /// The workers that are evidently at a request, by what the kernel says of them: on a processor, with children, holding an accepted
    /// connection. 0 stands for one that holds a connection and cannot be told from the others. `before`: an earlier look.
    /// Nothing of this is proof of the contrary: a script that waits after `fastcgi_finish_request()` shows nothing at all.
    #[must_use]
    pub fn evidently_busy(&self, before: &[ProcessSeen], unit: &UnitSeen, connections: Option<u32>) -> Vec<u32> {
        let workers: Vec<&ProcessSeen> = self.workers(unit).collect();
        let parent = |pid: u32| unit.processes.iter().any(|process| process.ppid == pid);
        let at_it = |worker: &ProcessSeen| worker.running || parent(worker.pid);
        let used = |worker: &ProcessSeen| {
            let earlier = before.iter().find(|earlier| earlier.pid == worker.pid && earlier.start == worker.start);
            worker.cpu_ticks > earlier.map_or(0, |earlier| earlier.cpu_ticks)
        };
        let mut sorted: Vec<(bool, bool, u32)> = workers.iter().map(|worker| (!at_it(worker), !used(worker), worker.pid)).collect();
        sorted.sort_unstable();
        let at_it = sorted.iter().filter(|(not_at_it, ..)| !not_at_it).count();
        let busy = match connections {
            Some(connections) => at_it.max(usize::try_from(connections).unwrap_or(usize::MAX)).min(workers.len()),
            // Without that, whoever has used a processor since is the best guess.
            None => sorted.iter().filter(|(not_at_it, unused, _)| !not_at_it || !unused).count(),
        };
        let named = |n: usize| sorted.get(n).filter(|(not_at_it, unused, _)| busy == sorted.len() || !not_at_it || !unused);
        (0..busy).map(|n| named(n).map_or(0, |(.., pid)| *pid)).collect()
    }
}

/// What one look says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flight {
    /// Nothing in flight; `accepted` tells whether something came in between two looks.
    Idle { accepted: u64 },
    /// So many requests; 0 is possible when workers are between states.
    Busy { requests: u32 },
    /// No answer, or none that can be read.
    Unknown(String),
}

/// Adds up the answers of all pools with a status page. One that is silent makes the whole unknown.
#[must_use]
pub fn flight(source: &Source, answers: &PoolAnswers) -> Flight {
    let mut requests = 0;
    let mut accepted: u64 = 0;
    for (ask, own) in source.asks.iter().zip(&source.own) {
        match answers.get(&ask.pool) {
            Some(Ok(status)) => {
                requests += in_flight(status, *own);
                if requests == 0 && status.idle == 0 && !status.ondemand && !(*own && status.active == 1) {
                    return Flight::Busy { requests };
                }
                accepted = accepted.saturating_add(status.accepted);
            }
            Some(Err(why)) => return Flight::Unknown(format!("status of pool {} says nothing ({why}): taken as busy", ask.pool)),
            None => return Flight::Unknown(format!("status of pool {} says nothing: taken as busy", ask.pool)),
        }
    }
    if requests == 0 { Flight::Idle { accepted } } else { Flight::Busy { requests } }
}

fn in_flight(status: &PoolStatus, own: bool) -> u32 {
    let asking = u32::from(own);
    match &status.workers {
        Some(workers) => u32::try_from(workers.iter().filter(|worker| busy(worker)).count()).unwrap_or(u32::MAX).saturating_sub(asking),
        None => status.active.saturating_sub(asking),
    }
}

/// A worker in "Reading headers" holds a connection without a request: idle (facts 3j).
#[must_use]
pub fn busy(worker: &WorkerSeen) -> bool {
    !matches!(worker.state, WorkerState::Idle | WorkerState::ReadingHeaders)
}

/// Its answer is on the way: not a casualty if it gets a moment (facts M8).
#[must_use]
pub fn finishing(worker: &WorkerSeen) -> bool {
    matches!(worker.state, WorkerState::Finishing | WorkerState::Ending)
}

/// Who is at a request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counted {
    /// By pool, of those that answered, in full: the workers that serve requests, the one that answers the status question itself apart.
    pub busy: BTreeMap<String, Vec<WorkerSeen>>,
    /// The other pools with a status page.
    pub silent: BTreeSet<String>,
}

impl Counted {
    /// Of full statuses.
    #[must_use]
    pub fn of(source: &Source, answers: &PoolAnswers) -> Counted {
        let mut counted = Counted::default();
        for (ask, own) in source.asks.iter().zip(&source.own) {
            let workers = answers.get(&ask.pool).and_then(|answer| answer.as_ref().ok()).and_then(|status| status.workers.as_ref());
            let Some(workers) = workers else {
                counted.silent.insert(ask.pool.clone());
                continue;
            };
            let serves = |worker: &&WorkerSeen| busy(worker) && !(*own && asks_itself(worker, ask));
            counted.busy.insert(ask.pool.clone(), workers.iter().filter(serves).cloned().collect());
        }
        counted
    }

    /// All of them.
    pub fn workers(&self) -> impl Iterator<Item = &WorkerSeen> {
        self.busy.values().flatten()
    }
}

fn asks_itself(worker: &WorkerSeen, ask: &StatusAsk) -> bool {
    worker.uri.split('?').next() == Some(ask.path.as_str())
}

/// Reads `Processes active: 2, idle: 18, Requests: 100, …` (facts 3l): active, and the count of requests.
#[must_use]
pub fn status_text(text: &str) -> Option<(u32, u64)> {
    let number = |name: &str| -> Option<u64> {
        let rest = &text[text.find(name)? + name.len()..];
        let digits: String = rest.trim_start().chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    Some((u32::try_from(number("active:")?).ok()?, number("Requests:")?))
}

/// Gathers looks until they prove that nothing is in flight.
#[derive(Debug, Clone, Default)]
pub struct Proof {
    idle_looks: u32,
    idle_since: Option<Mono>,
    accepted: Option<u64>,
    pub in_flight: Option<u32>,
    pub why: String,
}

impl Proof {
    /// One look over sockets. `probes`: how many of the pool's own accepted connections one look is.
    pub fn flight(&mut self, now: Mono, flight: &Flight, probes: u64) {
        match flight {
            Flight::Idle { accepted } => {
                let quiet = self.accepted.is_some_and(|before| *accepted <= before.saturating_add(probes));
                if self.idle_looks == 0 || !quiet {
                    self.idle_looks = 1;
                    self.idle_since = Some(now);
                } else {
                    self.idle_looks = self.idle_looks.saturating_add(1);
                }
                self.accepted = Some(*accepted);
                self.in_flight = Some(0);
                self.why = "no request in flight".to_owned();
            }
            Flight::Busy { requests } => {
                self.reset();
                self.in_flight = Some(*requests);
                self.why = match requests {
                    1 => "1 request in flight".to_owned(),
                    many => format!("{many} requests in flight"),
                };
            }
            Flight::Unknown(why) => {
                self.reset();
                self.in_flight = None;
                self.why.clone_from(why);
            }
        }
    }

    /// One look at the unit itself, for the pools without a status page.
    pub fn unit(&mut self, now: Mono, unit: &UnitSeen, source: &Source) {
        let text = status_text(&unit.status_text).filter(|_| source.text.is_some());
        let left = source.mute.iter().find(|pool| pool.workers(unit).next().is_some());
        let flight = match (text, left) {
            (Some((0, accepted)), _) => Flight::Idle { accepted },
            (Some((requests, _)), _) => Flight::Busy { requests },
            (None, None) => Flight::Idle { accepted: 0 },
            (None, Some(pool)) => {
                let nothing = match pool.unread() {
                    true => UNREAD.to_owned(),
                    false => format!("{} has no status page and no StatusText", pool.called()),
                };
                Flight::Unknown(format!("{nothing}, so nobody can say whether it is idle: taken as busy"))
            }
        };
        self.flight(now, &flight, 0);
    }

    fn reset(&mut self) {
        self.idle_looks = 0;
        self.idle_since = None;
        self.accepted = None;
    }

    /// Idle as far as the looks go so far: so long it takes at most until it may hold.
    #[must_use]
    pub fn left(&self, now: Mono, quiet: Duration) -> Option<Duration> {
        self.idle_since.map(|since| quiet.saturating_sub(now.since(since)))
    }

    /// Two looks in a row, and nothing accepted for `quiet`.
    #[must_use]
    pub fn holds(&self, now: Mono, quiet: Duration) -> bool {
        self.idle_looks >= 2 && self.idle_since.is_some_and(|since| now.since(since) >= quiet)
    }
}

/// Every worker of this pool is at work, so that what is asked over its own socket waits its turn: that it does not answer there says nothing
/// against it. Only a pool whose status has a socket of its own can say so.
#[must_use]
pub fn all_at_work(answers: &PoolAnswers, pool: &str) -> bool {
    answers.get(pool).is_some_and(|answer| answer.as_ref().is_ok_and(|status| status.idle == 0 && status.active > 0))
}

#[cfg(test)]
mod tests {
    use super::super::seen::PoolLayout;
    use super::*;

    fn rules() -> FpmRules {
        FpmRules {
            unit: "php8.2-fpm.service".to_owned(),
            drain_timeout: Duration::ZERO,
            term_timeout: Duration::ZERO,
            status: None,
            status_path: None,
            warm: Vec::new(),
            proof: None,
            opcache: None,
        }
    }

    fn pool(name: &str, status_listen: bool, status_path: bool) -> PoolLayout {
        PoolLayout {
            name: name.to_owned(),
            listen: format!("/run/php/{name}.sock"),
            status_listen: status_listen.then(|| format!("/run/php/{name}-status.sock")),
            status_path: status_path.then(|| "/fpm-status".to_owned()),
            ..PoolLayout::default()
        }
    }

    fn layout(pools: &[PoolLayout], systemd_interval_ms: u64) -> FpmLayout {
        FpmLayout { pools: pools.to_vec(), systemd_interval_ms, file_update_protection_ms: 0 }
    }

    fn mute(name: &str) -> MutePool {
        MutePool { name: name.to_owned(), listen: format!("/run/php/{name}.sock") }
    }

    #[test]
    fn one_pool_without_a_status_page_does_not_silence_the_others() {
        let layout = layout(&[pool("www", true, true), pool("two", false, true), pool("three", false, false)], 1000);
        let source = Source::choose(&rules(), Some(&layout));
        let asked: Vec<&str> = source.asks.iter().map(|ask| ask.socket.as_str()).collect();
        assert_eq!(asked, ["/run/php/www-status.sock", "/run/php/two.sock"]);
        assert_eq!((source.own.as_slice(), source.text), (&[false, true][..], None));
        assert_eq!(source.mute, [mute("three")]);
    }

    #[test]
    fn the_text_speaks_for_an_only_pool_that_is_mute() {
        let only = layout(&[pool("www", false, false)], 1000);
        let source = Source::choose(&rules(), Some(&only));
        assert_eq!((source.asks(), source.text, source.mute), (false, Some(Duration::from_secs(1)), vec![mute("www")]));
        let two = layout(&[pool("www", false, false), pool("two", false, false)], 1000);
        assert_eq!(Source::choose(&rules(), Some(&two)).text, None);
        assert_eq!(Source::choose(&rules(), None).mute, [MutePool::default()]);
    }

    #[test]
    fn the_socket_of_the_rules_is_that_of_its_pool() {
        let layout = layout(&[pool("www", false, false), pool("two", false, true)], 0);
        let with = |socket: &str| Source::choose(&FpmRules { status: Some(socket.to_owned()), ..rules() }, Some(&layout));
        let first = with("/run/fake.sock");
        assert_eq!((first.asks.len(), first.asks[0].pool.as_str(), first.own.as_slice()), (2, "www", &[false, true][..]));
        let second = with("/run/php/two.sock");
        assert_eq!((second.asks.len(), second.asks[0].pool.as_str(), second.mute), (1, "two", vec![mute("www")]));
    }

    fn process(pid: u32, ppid: u32, pool: Option<&str>, running: bool, cpu_ticks: u64) -> ProcessSeen {
        let (start, comm, pool) = (Mono(u64::from(pid)), "php-fpm8.2".to_owned(), pool.map(str::to_owned));
        ProcessSeen { pid, ppid, start, comm, argv0: None, same_command_as_parent: false, pool, running, cpu_ticks }
    }

    fn unit(processes: &[ProcessSeen]) -> UnitSeen {
        UnitSeen { main_pid: 1, processes: processes.to_vec(), ..UnitSeen::default() }
    }

    #[test]
    fn who_is_evidently_busy() {
        let three = mute("three");
        let idle = [
            process(1, 0, None, false, 9),
            process(2, 1, Some("www"), true, 5),
            process(3, 1, Some("three"), false, 5),
            process(4, 1, Some("three"), false, 5),
        ];
        let busy = |processes: &[ProcessSeen], connections| three.evidently_busy(&idle, &unit(processes), connections);
        assert_eq!(busy(&idle, None), [] as [u32; 0]);
        assert_eq!(busy(&idle, Some(1)), [0], "a connection, and nobody can say whose");
        assert_eq!(busy(&idle, Some(2)), [3, 4], "a connection for each");
        assert_eq!(busy(&idle, Some(7)), [3, 4], "no more than there are");
        let mut used = idle.clone();
        used[3].cpu_ticks = 6;
        assert_eq!(busy(&used, None), [4]);
        assert_eq!(busy(&used, Some(1)), [4]);
        assert_eq!(busy(&used, Some(0)), [] as [u32; 0], "it has ended since");
        let mut running = idle.clone();
        running[2].running = true;
        assert_eq!(busy(&running, Some(0)), [3], "it works on after its answer");
        let mut parent = idle.to_vec();
        parent.push(process(9, 4, None, false, 0));
        assert_eq!(busy(&parent, Some(1)), [4]);
        let mut unnamed = idle.to_vec();
        unnamed.push(process(9, 1, None, true, 0));
        assert_eq!(busy(&unnamed, Some(1)), [9], "forked a moment ago, it may be of any pool");
    }

    #[test]
    fn mute_and_idle_is_what_has_no_worker_left() {
        let source = Source { mute: vec![mute("three")], ..Source::default() };
        let mut proof = Proof::default();
        let [master, www, three] =
            [process(1, 0, None, false, 0), process(2, 1, Some("www"), true, 0), process(3, 1, Some("three"), false, 0)];
        proof.unit(Mono(1), &unit(&[master.clone(), www.clone(), three]), &source);
        assert!(proof.why.contains("pool three has no status page"), "{}", proof.why);
        proof.unit(Mono(2), &unit(&[master.clone(), www.clone()]), &source);
        assert!(!proof.holds(Mono(2), Duration::ZERO));
        proof.unit(Mono(3), &unit(&[master, www]), &source);
        assert!(proof.holds(Mono(3), Duration::ZERO));
    }
}
