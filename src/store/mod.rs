//! What is remembered: the journal with its snapshot and the history in one SQLite database, the last state in
//! status.json, the metrics for node-exporter, and the lock that says that the daemon lives.
//!
//! [`Store`] is the daemon's half, [`Reader`] is for commands that look at history whether or not the daemon runs.

mod alive;
mod database;
mod fault;
mod history;
mod journal;
mod metrics;
mod reader;
mod replace;
mod status_file;

#[cfg(test)]
mod tests;

pub use alive::{Alive, AliveLock, LockFault, hold_alive, probe_alive};
pub use database::Loaded;
pub use fault::StoreFault;
pub use journal::Store;
pub use metrics::{METRICS, metrics};
pub use reader::Reader;
pub use status_file::{Reserve, StatusFault, read_status, write_status};

/// The directory of the journal and the history.
pub const STATE_DIR: &str = "/var/lib/restart-agent";
/// The directory of status.json and of the lock.
pub const RUN_DIR: &str = "/run/restart-agent";

/// The wall clock: for the names of files moved aside and for the age of history.
fn wall_now() -> crate::core::time::Wall {
    crate::core::time::Wall(jiff::Timestamp::now().as_microsecond())
}
