//! [`Store`]: the journal's writing half. SQLite has a thread of its own, so that a slow disk never holds up the loop
//! that owns the deadlines.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, params};
use tokio::sync::oneshot;

use super::database::{self, Loaded, Unopened};
use super::fault::{StoreFault, is_damage};
use super::history::{self, History};
use super::metrics::write_metrics;
use crate::core::entry::Written;
use crate::core::memory::Memory;

/// How long [`Store::append`] and [`Store::snapshot`] wait for the disk.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many entries wait in memory at most while the disk cannot take them.
const QUEUE_MAX: usize = 10_000;
/// How many entries that the snapshot already holds stay in the journal, to be read when something went wrong.
const JOURNAL_KEPT: i64 = 1_000;
/// SQLite needs less than half of this.
const STACK: usize = 512 * 1024;

/// The journal, open for writing. One per database: the daemon holds [`super::AliveLock`] first.
///
/// What could not be written is not lost: it waits in memory, at most 10,000 entries, and goes first with the next
/// [`append`](Store::append) or [`snapshot`](Store::snapshot). After a fault, call `snapshot` from time to time: it
/// writes what waits, and when it succeeds the database holds everything, also after [`StoreFault::Overflow`] and
/// [`StoreFault::Corrupt`].
#[derive(Debug)]
pub struct Store {
    shared: Arc<Shared>,
    pub(super) patience: Duration,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    queue: Mutex<Queue>,
    /// Something was asked, or the store is closed: the thread waits for this alone.
    asked: Condvar,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    items: VecDeque<Item>,
    asks: Vec<oneshot::Sender<Result<(), StoreFault>>>,
    /// Where the metrics go, and the newest of them.
    metrics: Option<(PathBuf, String)>,
    /// The thread is writing some.
    metrics_busy: bool,
    /// The last could not be written.
    metrics_failed: bool,
    /// Somebody lost patience with the batch that the thread is at.
    stuck: bool,
    /// Something was queued that nobody waits for.
    nudged: bool,
    closed: bool,
    ended: bool,
}

#[derive(Debug)]
enum Item {
    Entry(Written),
    /// The JSON of the memory to which all items before add up.
    Snapshot(String),
}

impl Store {
    /// Opens the database in `dir`, which is made (0700) if it is missing, and reads what it remembers.
    ///
    /// A damaged database is moved aside, what could be read of it goes into a new one, and [`Loaded::problem`] says so. One that
    /// can be read but not written now is a problem too, and no error: every append tries again.
    ///
    /// # Errors
    /// [`StoreFault::Newer`], and whatever keeps the memory from being read: going on without it would forget what is owed.
    pub fn open(dir: &Path, fold: impl Fn(&mut Memory, &Written)) -> Result<(Store, Loaded), StoreFault> {
        let (conn, loaded) = load(dir, fold)?;
        let history = match &conn {
            Some(conn) => History::resume(conn, &loaded.memory).unwrap_or_default(),
            None => History::default(),
        };
        let shared = Arc::new(Shared { dir: dir.to_owned(), queue: Mutex::default(), asked: Condvar::new(), ended: Condvar::new() });
        let mut writer = Writer { shared: Arc::clone(&shared), conn, history };
        std::thread::Builder::new().name("store".to_owned()).stack_size(STACK).spawn(move || writer.run()).map_err(|error| {
            StoreFault::Io { path: dir.display().to_string(), error: format!("cannot start the store's thread: {error}") }
        })?;
        Ok((Store { shared, patience: PATIENCE }, loaded))
    }

    /// Writes the entries in order, in one transaction with whatever waits from before. They are on the disk when this returns `Ok`.
    ///
    /// Dropping the future does not take the entries back.
    ///
    /// # Errors
    /// Within 10 s; at once while an earlier call still waits for the disk after its 10 s. The entries stay queued, except with
    /// [`StoreFault::Overflow`].
    pub async fn append(&self, entries: Vec<Written>) -> Result<(), StoreFault> {
        self.ask(entries.into_iter().map(Item::Entry).collect()).await
    }

    /// Replaces the snapshot by `memory`, which is what all entries appended so far add up to; forgets entries and history that
    /// are past their retention.
    ///
    /// # Errors
    /// As [`append`](Store::append). The snapshot itself is not tried again: call it again.
    pub async fn snapshot(&self, memory: &Memory) -> Result<(), StoreFault> {
        let json = serde_json::to_string(memory).map_err(|error| StoreFault::Io {
            path: self.shared.dir.display().to_string(),
            error: format!("the memory cannot be written as JSON: {error}"),
        })?;
        self.ask(vec![Item::Snapshot(json)]).await
    }

    /// Replaces the metrics file by this when the disk has time for it, after what is asked of the journal. Nobody waits for it: of several
    /// that wait only the newest is written. `at_once`: here and now, without waking the thread for it, unless that is at it already.
    /// Nothing is done where the directory is missing.
    pub fn write_metrics(&self, path: &Path, text: String, at_once: bool) {
        if !path.parent().is_some_and(Path::is_dir) {
            return;
        }
        let mut queue = self.shared.lock();
        if at_once && queue.metrics.is_none() && !queue.metrics_busy {
            queue.metrics_failed = !write_metrics(path, &text, queue.metrics_failed);
        } else {
            queue.metrics = Some((path.to_owned(), text));
            self.shared.asked.notify_one();
        }
    }

    async fn ask(&self, items: Vec<Item>) -> Result<(), StoreFault> {
        let dir = || self.shared.dir.display().to_string();
        let answer = {
            let mut queue = self.shared.lock();
            if matches!(items[..], [Item::Snapshot(_)]) {
                queue.items.retain(|item| matches!(item, Item::Entry(_)));
            } else if queue.items.len().saturating_add(items.len()) > QUEUE_MAX {
                return Err(StoreFault::Overflow(dir()));
            }
            queue.items.extend(items);
            if queue.stuck {
                queue.nudged = true;
                self.shared.asked.notify_one();
                return Err(StoreFault::Slow(dir()));
            }
            let (answer, answered) = oneshot::channel();
            queue.asks.push(answer);
            self.shared.asked.notify_one();
            answered
        };
        match tokio::time::timeout(self.patience, answer).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(StoreFault::Io { path: dir(), error: "the store's thread is gone: restart the agent".to_owned() }),
            Err(_) => {
                self.shared.lock().stuck = true;
                Err(StoreFault::Slow(dir()))
            }
        }
    }
}

impl Drop for Store {
    /// Writes what waits, and waits for that at most 10 s.
    fn drop(&mut self) {
        let mut queue = self.shared.lock();
        queue.closed = true;
        self.shared.asked.notify_one();
        let until = Instant::now() + PATIENCE;
        while !queue.ended {
            let Some(left) = until.checked_duration_since(Instant::now()) else { return };
            queue = self.shared.ended.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's half.
struct Writer {
    shared: Arc<Shared>,
    /// `None` after a fault that may need a new connection: opened again by the next batch.
    conn: Option<Connection>,
    history: History,
}

impl Writer {
    fn run(&mut self) {
        let shared = Arc::clone(&self.shared);
        // Also when this thread panics, nobody waits for it.
        let _ended = OnDrop(|| {
            let mut queue = shared.lock();
            queue.ended = true;
            queue.asks.clear();
            shared.ended.notify_all();
        });
        loop {
            let (items, asks, metrics, closed) = {
                let mut queue = shared.lock();
                while queue.asks.is_empty() && queue.metrics.is_none() && !queue.nudged && !queue.closed {
                    queue = shared.asked.wait(queue).unwrap_or_else(PoisonError::into_inner);
                }
                let nobody = queue.asks.is_empty() && !queue.nudged;
                queue.nudged = false;
                let items = if nobody && !queue.closed { VecDeque::new() } else { std::mem::take(&mut queue.items) };
                queue.metrics_busy = queue.metrics.is_some();
                (items, std::mem::take(&mut queue.asks), queue.metrics.take(), queue.closed)
            };
            let result = if items.is_empty() && asks.is_empty() { Ok(()) } else { self.write(&items) };
            let mut queue = shared.lock();
            queue.stuck = false;
            if result.is_err() {
                let waits = items.into_iter().filter(|item| matches!(item, Item::Entry(_)));
                let newer = std::mem::take(&mut queue.items);
                queue.items = waits.chain(newer).collect();
            }
            drop(queue);
            for ask in asks {
                let _ = ask.send(result.clone());
            }
            if let Some((path, text)) = metrics {
                let failed = shared.lock().metrics_failed;
                let written = write_metrics(&path, &text, failed);
                let mut queue = shared.lock();
                (queue.metrics_busy, queue.metrics_failed) = (false, !written);
            }
            if closed {
                self.conn = None;
                return;
            }
        }
    }

    fn write(&mut self, items: &VecDeque<Item>) -> Result<(), StoreFault> {
        let path = database::file(&self.shared.dir);
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => match database::open(&self.shared.dir) {
                Ok(conn) => conn,
                Err(Unopened::Fault(fault)) => return Err(fault),
                Err(Unopened::Damaged(error)) => return Err(begin_anew(&self.shared.dir, &error)),
            },
        };
        let before = self.history.clone();
        match commit(&mut conn, &mut self.history, items) {
            Ok(()) => {
                self.conn = Some(conn);
                Ok(())
            }
            Err(error) => {
                self.history = before;
                // A full or locked disk leaves the connection good; after anything else a new one is safer.
                if matches!(error.sqlite_error_code(), Some(rusqlite::ErrorCode::DiskFull | rusqlite::ErrorCode::DatabaseBusy)) {
                    self.conn = Some(conn);
                } else {
                    drop(conn);
                }
                if is_damage(&error) { Err(begin_anew(&self.shared.dir, &error.to_string())) } else { Err(StoreFault::of(&path, &error)) }
            }
        }
    }
}

fn commit(conn: &mut Connection, history: &mut History, items: &VecDeque<Item>) -> rusqlite::Result<()> {
    let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    let mut compacted = false;
    for item in items {
        match item {
            Item::Entry(written) => {
                tx.prepare_cached("INSERT INTO journal (at, entry) VALUES (?1, ?2)")?
                    .execute(params![written.at.0, history::json(&written.entry)?])?;
                history.record(&tx, written)?;
            }
            Item::Snapshot(memory) => {
                compact(&tx, memory)?;
                compacted = true;
            }
        }
    }
    history.write_late(&tx)?;
    tx.commit()?;
    if compacted {
        conn.execute_batch("PRAGMA shrink_memory")?;
    }
    Ok(())
}

fn compact(tx: &Transaction<'_>, memory: &str) -> rusqlite::Result<()> {
    let seq: i64 =
        tx.query_row("SELECT max(coalesce((SELECT max(seq) FROM journal), 0), coalesce((SELECT max(seq) FROM snapshot), 0))", [], |row| {
            row.get(0)
        })?;
    tx.execute("INSERT OR REPLACE INTO snapshot (one, seq, memory) VALUES (1, ?1, ?2)", params![seq, memory])?;
    tx.execute("DELETE FROM journal WHERE seq <= ?1", params![seq - JOURNAL_KEPT])?;
    history::forget_old(tx, super::wall_now())
}

/// Moves the damaged database aside; the next batch makes a new one.
fn begin_anew(dir: &Path, error: &str) -> StoreFault {
    let path = database::file(dir);
    match database::move_aside(dir) {
        Ok(aside) => StoreFault::Corrupt { path: path.display().to_string(), aside: aside.display().to_string(), error: error.to_owned() },
        Err(io) => StoreFault::of_io(&path, &io),
    }
}

fn load(dir: &Path, fold: impl Fn(&mut Memory, &Written)) -> Result<(Option<Connection>, Loaded), StoreFault> {
    let path = database::file(dir);
    let damage = match database::open(dir) {
        Ok(conn) => {
            let folded = database::fold(&conn, &fold);
            match folded.broken {
                None => return Ok((Some(conn), Loaded { memory: folded.memory, problem: unknown(folded.unknown) })),
                Some((error, true)) => error,
                Some((error, false)) => return Err(StoreFault::Io { path: path.display().to_string(), error }),
            }
        }
        Err(Unopened::Damaged(error)) => error,
        Err(Unopened::Fault(fault @ StoreFault::Newer { .. })) => return Err(fault),
        Err(Unopened::Fault(fault)) => return load_unwritable(dir, fault, &fold),
    };
    // What can still be read is better than nothing: it may say what was taken out of the pool.
    let saved = match database::open_read_only(dir) {
        Ok(conn) => database::fold(&conn, &fold).memory,
        Err(_) => Memory::default(),
    };
    let fault = begin_anew(dir, &damage);
    let mut problem = fault.to_string();
    if saved != Memory::default() {
        problem.push_str("; what could be read of it was taken over");
    }
    let conn = database::open(dir).ok().and_then(|mut conn| {
        let memory = serde_json::to_string(&saved).ok()?;
        commit(&mut conn, &mut History::default(), &VecDeque::from([Item::Snapshot(memory)])).ok()?;
        Some(conn)
    });
    Ok((conn, Loaded { memory: saved, problem: Some(problem) }))
}

/// The database cannot be written now: what it says counts all the same. One that is not there says nothing.
fn load_unwritable(
    dir: &Path,
    fault: StoreFault,
    fold: impl Fn(&mut Memory, &Written),
) -> Result<(Option<Connection>, Loaded), StoreFault> {
    let memory = match database::open_read_only(dir) {
        Ok(conn) => {
            let folded = database::fold(&conn, fold);
            if let Some((error, _)) = folded.broken {
                return Err(StoreFault::Io { path: database::file(dir).display().to_string(), error });
            }
            folded.memory
        }
        Err(StoreFault::Missing(_)) => Memory::default(),
        Err(other) => return Err(other),
    };
    Ok((None, Loaded { memory, problem: Some(fault.to_string()) }))
}

fn unknown(entries: usize) -> Option<String> {
    (entries > 0).then(|| format!("{entries} entries of the journal were made by another version and were passed over: look at what status says of each pool and timer"))
}

/// Runs at the end of a scope, whatever ends it.
struct OnDrop<F: FnMut()>(F);

impl<F: FnMut()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}
