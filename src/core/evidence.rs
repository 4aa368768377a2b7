//! Is php-fpm idle? From what its status says, never from silence (law 5).
//!
//! Sources, best first: `pm.status_listen` (answers when all workers are busy, facts 3d), the main socket (its own worker
//! subtracted, no answer means busy), the StatusText that php-fpm sends to systemd, the number of processes.

use std::time::Duration;

use super::effect::StatusAsk;
use super::policy::FpmRules;
use super::seen::{FpmLayout, PoolAnswers, PoolStatus, UnitSeen, WorkerSeen, WorkerState};
use super::time::Mono;

/// How the requests in flight of one unit are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Over sockets; `own` for each ask: the asking takes one of the pool's own workers.
    Status { asks: Vec<StatusAsk>, own: Vec<bool> },
    /// `StatusText`, which is up to `interval` old.
    StatusText { interval: Duration },
    /// Only the number of processes: idle is provable when no worker is left.
    Cgroup,
}

impl Source {
    /// Chooses for a unit, from what its own php-fpm says (facts M11) and what the rules say.
    #[must_use]
    pub fn choose(rules: &FpmRules, layout: Option<&FpmLayout>) -> Source {
        let path = |found: Option<&String>| rules.status_path.clone().or_else(|| found.cloned());
        if let Some(socket) = &rules.status {
            let pool = layout.and_then(|layout| layout.pools.first());
            let own = pool.is_some_and(|pool| pool.listen == *socket);
            let ask = StatusAsk {
                pool: pool.map_or_else(|| "www".to_owned(), |pool| pool.name.clone()),
                socket: socket.clone(),
                path: path(pool.and_then(|pool| pool.status_path.as_ref())).unwrap_or_else(|| "/status".to_owned()),
            };
            return Source::Status { asks: vec![ask], own: vec![own] };
        }
        let Some(layout) = layout else { return Source::Cgroup };
        let mut asks = Vec::new();
        let mut own = Vec::new();
        for pool in &layout.pools {
            let Some(path) = path(pool.status_path.as_ref()) else { continue };
            asks.push(StatusAsk {
                pool: pool.name.clone(),
                socket: pool.status_listen.clone().unwrap_or_else(|| pool.listen.clone()),
                path,
            });
            own.push(pool.status_listen.is_none());
        }
        if !asks.is_empty() && asks.len() == layout.pools.len() {
            return Source::Status { asks, own };
        }
        // With several pools it is not known whether the text sums them (facts 3l).
        if layout.systemd_interval_ms > 0 && layout.pools.len() == 1 {
            return Source::StatusText { interval: Duration::from_millis(layout.systemd_interval_ms) };
        }
        Source::Cgroup
    }

    /// All pools answer over a socket of their own, so every worker of theirs may be stopped for a moment.
    #[must_use]
    pub fn dedicated(&self) -> bool {
        matches!(self, Source::Status { own, .. } if own.iter().all(|own| !own))
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

/// Adds up the answers of all pools. One that is silent makes the whole unknown.
#[must_use]
pub fn flight(asks: &[StatusAsk], own: &[bool], answers: &PoolAnswers) -> Flight {
    let mut requests = 0;
    let mut accepted: u64 = 0;
    for (ask, own) in asks.iter().zip(own) {
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

/// The workers that serve requests, the one that answers the status question itself apart.
#[must_use]
pub fn busy_workers(asks: &[StatusAsk], own: &[bool], answers: &PoolAnswers) -> Option<Vec<WorkerSeen>> {
    let mut all = Vec::new();
    for (ask, own) in asks.iter().zip(own) {
        let workers = answers.get(&ask.pool)?.as_ref().ok()?.workers.as_ref()?;
        all.extend(workers.iter().filter(|worker| busy(worker)).filter(|worker| !(*own && asks_itself(worker, ask))).cloned());
    }
    Some(all)
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

    /// One look at the unit itself, for the sources without a socket.
    pub fn unit(&mut self, now: Mono, unit: &UnitSeen, by_text: bool) {
        let text = status_text(&unit.status_text).filter(|_| by_text);
        let flight = match text {
            Some((0, accepted)) => Flight::Idle { accepted },
            Some((requests, _)) => Flight::Busy { requests },
            None if unit.processes.len() <= 1 => Flight::Idle { accepted: 0 },
            None => {
                Flight::Unknown("it has no status page and no StatusText, so nobody can say whether it is idle: taken as busy".to_owned())
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
