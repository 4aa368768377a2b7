//! [`Reader`]: history for the commands, with the daemon running or dead.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, params};

use super::database;
use super::fault::StoreFault;
use crate::core::memory::Memory;
use crate::core::status::{Casualty, RolloutView};
use crate::core::time::Wall;

/// The history, open for reading only.
#[derive(Debug)]
pub struct Reader {
    conn: Connection,
    path: PathBuf,
}

impl Reader {
    /// Opens the history in `dir`.
    ///
    /// # Errors
    /// [`StoreFault::Missing`] where the agent never ran, [`StoreFault::Denied`] for who is not root, [`StoreFault::Newer`].
    pub fn open(dir: &Path) -> Result<Reader, StoreFault> {
        Ok(Reader { conn: database::open_read_only(dir)?, path: database::file(dir) })
    }

    /// The newest `limit` rollouts, newest first, a running one included, with their casualties.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn rollouts(&self, limit: u32) -> Result<Vec<RolloutView>, StoreFault> {
        self.read_rollouts(None, 0, limit).map_err(|error| StoreFault::of(&self.path, &error))
    }

    /// The rollout with this id, the newest if there are several; without an id the newest but `skip`. Of the one that is under way what
    /// the journal says of it by now.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn rollout(&self, id: Option<&str>, skip: u32) -> Result<Option<RolloutView>, StoreFault> {
        let found = self.read_rollouts(id, skip, 1).map_err(|error| StoreFault::of(&self.path, &error))?.pop();
        Ok(found.map(|found| {
            let running = || database::fold(&self.conn, Memory::apply).memory.rollout.filter(|running| running.view.id == found.id);
            match found.result {
                None => running().map_or(found, |running| running.view),
                Some(_) => found,
            }
        }))
    }

    /// What was cut since then, oldest first, with the full request lines.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn casualties(&self, since: Option<Wall>) -> Result<Vec<Casualty>, StoreFault> {
        let since = since.unwrap_or(Wall(i64::MIN));
        let read = || {
            let mut statement = self.conn.prepare("SELECT view, request FROM casualties WHERE at >= ?1 ORDER BY at, n")?;
            let rows = statement.query_map(params![since.0], |row| with_request(row, 0))?;
            rows.collect::<rusqlite::Result<Vec<_>>>()
        };
        read().map_err(|error| StoreFault::of(&self.path, &error))
    }

    fn read_rollouts(&self, id: Option<&str>, skip: u32, limit: u32) -> rusqlite::Result<Vec<RolloutView>> {
        let wanted = "SELECT n, view FROM rollouts WHERE ?1 IS NULL OR id = ?1 ORDER BY n DESC LIMIT ?2 OFFSET ?3";
        let mut statement = self.conn.prepare(wanted)?;
        let rows = statement.query_map(params![id, limit, skip], |row| Ok((row.get::<_, i64>(0)?, parsed::<RolloutView>(row, 1)?)))?;
        let mut rollouts = rows.collect::<rusqlite::Result<Vec<_>>>()?;
        let (Some((newest, _)), Some((oldest, _))) = (rollouts.first(), rollouts.last()) else { return Ok(Vec::new()) };
        let mut cut: BTreeMap<i64, Vec<Casualty>> = BTreeMap::new();
        let mut statement =
            self.conn.prepare("SELECT rollout, view, request FROM casualties WHERE rollout BETWEEN ?1 AND ?2 ORDER BY at, n")?;
        let rows = statement.query_map(params![oldest, newest], |row| Ok((row.get::<_, i64>(0)?, with_request(row, 1)?)))?;
        for row in rows {
            let (rollout, casualty) = row?;
            cut.entry(rollout).or_default().push(casualty);
        }
        for (n, view) in &mut rollouts {
            view.casualties = cut.remove(n).unwrap_or_default();
        }
        Ok(rollouts.into_iter().map(|(_, view)| view).collect())
    }
}

/// The casualty in column `at`, with the request line of the column after it.
fn with_request(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<Casualty> {
    let mut casualty: Casualty = parsed(row, at)?;
    casualty.request = row.get(at + 1)?;
    Ok(casualty)
}

fn parsed<T: serde::de::DeserializeOwned>(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<T> {
    serde_json::from_str(row.get_ref(at)?.as_str()?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(at, rusqlite::types::Type::Text, Box::new(error)))
}
