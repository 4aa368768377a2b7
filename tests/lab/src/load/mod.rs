//! An open-loop load generator: requests are sent when their time has come, however slow the answers are.

mod http;
mod mix;
mod report;
mod work;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, anyhow, ensure};

use crate::{Host, app, wait_for, web};
pub use http::{Response, get};
pub use report::{Class, Counts, Record, Report, Served, Switch};
use work::Work;

/// How much longer than its work a request may take before it counts as unanswered.
const PATIENCE: Duration = Duration::from_secs(60);

/// Ids are unique over all loads of this process.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// What is to be sent; from [`Load::builder`].
#[derive(Debug, Clone)]
pub struct Builder<'h> {
    host: &'h Host,
    address: &'static str,
    rate: f64,
    durations: Vec<Duration>,
    long: (usize, Duration),
}

impl<'h> Builder<'h> {
    /// Requests per second, evenly spaced: above 0 up to about 1,000; 0 sends only what [`Load::send`] is told to.
    /// 100 by default.
    #[must_use]
    pub fn rate(mut self, per_second: f64) -> Self {
        self.rate = per_second;
        self
    }

    /// How long the requests work in PHP, taken in turn: a list with nine times 10 ms and once 200 ms makes every
    /// tenth request a slow one. 15 ms by default; not empty.
    #[must_use]
    pub fn durations(mut self, durations: impl Into<Vec<Duration>>) -> Self {
        self.durations = durations.into();
        self
    }

    /// What a busy job host gets: 300 requests per second, 95 % of which work 5 to 50 ms and 5 % 1 to 4 s: 43 at once, on average.
    #[must_use]
    pub fn mixed(self) -> Self {
        self.rate(mix::RATE).durations(mix::durations())
    }

    /// So many requests of this length, each with a child process that works as long, are sent before all others.
    #[must_use]
    pub fn long(mut self, count: usize, lasting: Duration) -> Self {
        self.long = (count, lasting);
        self
    }

    /// Where they are sent: [`web::BALANCER`] by default, [`web::POOL`], [`web::OTHER`] or [`crate::generations::ADDRESS`].
    #[must_use]
    pub fn to(mut self, address: &'static str) -> Self {
        self.address = address;
        self
    }

    /// Begins to send.
    ///
    /// # Errors
    /// When the host is off, the rate is negative or not finite, or there are no durations.
    pub fn start(self) -> Result<Load<'h>> {
        ensure!(self.rate.is_finite() && self.rate >= 0.0, "a rate of {} requests per second", self.rate);
        ensure!(!self.durations.is_empty(), "no durations");
        let network = self.host.network()?;
        let (orders, inbox) = channel();
        let shared = Arc::new(Shared::default());
        let (started, sending) = channel();
        let sender = Sending {
            address: self.address.parse()?,
            interval: (self.rate > 0.0).then(|| Duration::from_secs_f64(1.0 / self.rate)),
            durations: self.durations,
            shared: Arc::clone(&shared),
        };
        let thread = thread::Builder::new().name("load".into()).spawn(move || {
            let entered = http::enter(&network);
            let failed = entered.is_err();
            let _ = started.send(entered);
            if !failed {
                sender.run(&inbox);
            }
        })?;
        sending.recv().context("the load's thread died")??;
        let mut load = Load { host: self.host, shared, orders, thread: Some(thread), long: Vec::new() };
        for _ in 0..self.long.0 {
            load.long.push(load.send_with_child(self.long.1, self.address)?);
        }
        Ok(load)
    }
}

/// Requests to `/work.php` of a web stack, being sent until [`Load::stop`] or its drop.
#[derive(Debug)]
pub struct Load<'h> {
    host: &'h Host,
    shared: Arc<Shared>,
    orders: Sender<Order>,
    thread: Option<JoinHandle<()>>,
    long: Vec<u64>,
}

#[derive(Debug)]
enum Order {
    Send(Work, SocketAddr),
    Stop,
}

#[derive(Debug, Default)]
struct Shared {
    records: Mutex<Vec<Record>>,
    in_flight: AtomicUsize,
}

impl<'h> Load<'h> {
    /// 100 requests of 15 ms per second through HAProxy, unless told otherwise.
    pub fn builder(host: &'h Host) -> Builder<'h> {
        Builder { host, address: web::BALANCER, rate: 100.0, durations: vec![Duration::from_millis(15)], long: (0, Duration::ZERO) }
    }

    /// Sends one more request now, to [`web::POOL`] if it must run in the pool under test, and returns its id.
    ///
    /// # Errors
    /// When the load has stopped.
    pub fn send(&self, wanted: Duration, address: &str) -> Result<u64> {
        self.order(Work { id: next_id(), wanted, child: false }, address)
    }

    /// [`Load::send`] of a request that has a child process, which works as long and whose output is part of the answer.
    ///
    /// # Errors
    /// As [`Load::send`].
    pub fn send_with_child(&self, wanted: Duration, address: &str) -> Result<u64> {
        self.order(Work { id: next_id(), wanted, child: true }, address)
    }

    /// The ids of those that [`Builder::long`] asked for.
    pub fn long(&self) -> &[u64] {
        &self.long
    }

    fn order(&self, work: Work, address: &str) -> Result<u64> {
        self.orders.send(Order::Send(work, address.parse()?)).map_err(|_| anyhow!("the load has stopped"))?;
        Ok(work.id)
    }

    /// Waits until PHP works on a request.
    ///
    /// # Errors
    /// When it has not begun after 10 s.
    pub fn wait_started(&self, id: u64) -> Result<()> {
        wait_for(&format!("request {id} to begin"), Duration::from_secs(10), || {
            Ok(Markers::read(self.host)?.0.contains_key(&id).then_some(()))
        })
    }

    /// What was answered so far: (with status 200 and the right body, otherwise).
    pub fn answered(&self) -> (usize, usize) {
        let records = self.shared.records.lock().unwrap_or_else(PoisonError::into_inner);
        let good = records.iter().filter(|record| record.served.is_some()).count();
        (good, records.len() - good)
    }

    /// Stops sending, waits for the answers that are under way, and says what became of every request.
    ///
    /// # Errors
    /// When an answer is still missing a minute after its work should have ended, or the host is off.
    pub fn stop(mut self) -> Result<Report> {
        self.stop_sending();
        let deadline = PATIENCE + Duration::from_secs(3600);
        wait_for("all requests to end", deadline, || match self.shared.in_flight.load(Ordering::Acquire) {
            0 => Ok(Some(())),
            count => Err(anyhow!("{count} are under way")),
        })?;
        let records = std::mem::take(&mut *self.shared.records.lock().unwrap_or_else(PoisonError::into_inner));
        let markers = Markers::read(self.host)?;
        Ok(Report::new(records, |id| markers.0.get(&id).copied()))
    }

    fn stop_sending(&mut self) {
        let _ = self.orders.send(Order::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Load<'_> {
    fn drop(&mut self) {
        self.stop_sending();
    }
}

/// The thread that sends.
struct Sending {
    address: SocketAddr,
    interval: Option<Duration>,
    durations: Vec<Duration>,
    shared: Arc<Shared>,
}

impl Sending {
    fn run(self, inbox: &Receiver<Order>) {
        let start = Instant::now();
        let mut durations = self.durations.iter().copied().cycle();
        let mut sent = 0u32;
        loop {
            let due = self.interval.map(|interval| start + interval * sent);
            let order = match due {
                Some(due) => inbox.recv_timeout(due.saturating_duration_since(Instant::now())),
                None => inbox.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match order {
                Ok(Order::Send(work, address)) => self.send(work, address, Instant::now()),
                Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    let wanted = durations.next().unwrap_or_default();
                    self.send(Work { id: next_id(), wanted, child: false }, self.address, due.unwrap_or(start));
                    sent += 1;
                }
            }
        }
    }

    /// `due` is when it should have been sent: being late is part of its latency.
    fn send(&self, work: Work, address: SocketAddr, due: Instant) {
        let shared = Arc::clone(&self.shared);
        let late = due.elapsed();
        let sent_at = SystemTime::now() - late;
        shared.in_flight.fetch_add(1, Ordering::AcqRel);
        let thread = thread::Builder::new().stack_size(128 * 1024);
        let ask = move || {
            let answer = work.ask(address);
            shared.record(Record::new(work, sent_at, due, answer));
        };
        if let Err(error) = thread.spawn(ask) {
            let answer = Err((Class::Refused, format!("cannot start a thread: {error}")));
            self.shared.record(Record::new(work, sent_at, due, answer));
        }
    }
}

impl Shared {
    fn record(&self, record: Record) {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

fn next_id() -> u64 {
    NEXT_ID.fetch_add(1, Ordering::Relaxed)
}

/// For each request that PHP began: whether it also came to its end.
struct Markers(HashMap<u64, bool>);

impl Markers {
    fn read(host: &Host) -> Result<Markers> {
        let mut markers = HashMap::new();
        for line in host.read(app::MARKERS)?.lines() {
            match line.split_once(' ') {
                Some(("start", id)) => drop(markers.entry(id.parse()?).or_insert(false)),
                Some(("end", id)) => drop(markers.insert(id.parse()?, true)),
                _ => {}
            }
        }
        Ok(Markers(markers))
    }
}
