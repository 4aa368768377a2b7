//! The history of rollouts and of what they cut: written beside the journal, in the same transaction, and kept much longer.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::core::entry::{Entry, Written};
use crate::core::memory::Memory;
use crate::core::status::RolloutView;
use crate::core::time::Wall;

/// How long history is kept, in microseconds: 90 days.
const KEPT_FOR: i64 = 90 * 86_400 * 1_000_000;
/// How many rollouts are kept.
const KEPT_ROLLOUTS: i64 = 10_000;
/// Of how many of them it is kept what was in flight: at most some 35 kB each.
const KEPT_FLIGHTS: i64 = 1_000;

/// The rollout that is under way.
#[derive(Debug, Clone)]
struct Open {
    n: i64,
    view: RolloutView,
}

/// The half of the history that is not in the database yet.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    open: Option<Open>,
    /// Rollouts that are over and of which the transaction under way had something more to tell.
    late: Vec<Open>,
}

impl History {
    /// Takes up the rollout that was under way when the agent ended.
    pub(super) fn resume(conn: &Connection, memory: &Memory) -> rusqlite::Result<History> {
        let Some(rollout) = &memory.rollout else { return Ok(History::default()) };
        let n = conn
            .query_row(
                "SELECT n FROM rollouts WHERE id = ?1 AND finished IS NULL ORDER BY n DESC LIMIT 1",
                params![rollout.view.id],
                |row| row.get(0),
            )
            .optional()?;
        let view = RolloutView { casualties: Vec::new(), ..rollout.view.clone() };
        Ok(History { open: n.map(|n| Open { n, view }), late: Vec::new() })
    }

    /// Records one entry; most leave no trace here.
    pub(super) fn record(&mut self, tx: &Transaction<'_>, written: &Written) -> rusqlite::Result<()> {
        match &written.entry {
            Entry::RolloutStarted { id, deploy, by, .. } => {
                let view = RolloutView::begun(id, deploy, written.at, by.as_ref());
                tx.prepare_cached("INSERT INTO rollouts (id, deploy, started, view) VALUES (?1, ?2, ?3, ?4)")?.execute(params![
                    view.id,
                    view.deploy,
                    written.at.0,
                    json(&view)?
                ])?;
                self.open = Some(Open { n: tx.last_insert_rowid(), view });
            }
            Entry::PhaseBegan { .. } | Entry::PhaseEnded { .. } | Entry::UnitEnded(_) => {
                if let Some(open) = &mut self.open {
                    open.view.note(written);
                }
            }
            Entry::InFlight { rollout, .. } => {
                if let Some(of) = self.of(tx, rollout.as_deref())? {
                    of.view.note(written);
                }
            }
            Entry::Casualty(casualty) => {
                let n = self.of(tx, casualty.rollout.as_deref())?.map(|of| of.n);
                let mut bare = casualty.clone();
                let request = bare.request.take();
                tx.prepare_cached("INSERT INTO casualties (rollout, at, view, request) VALUES (?1, ?2, ?3, ?4)")?.execute(params![
                    n,
                    casualty.at.0,
                    json(&bare)?,
                    request
                ])?;
            }
            Entry::RolloutFinished { result, .. } => {
                if let Some(Open { n, mut view }) = self.open.take() {
                    view.note(written);
                    // The row is missing if a damaged database was replaced meanwhile.
                    tx.prepare_cached("INSERT OR REPLACE INTO rollouts (n, id, deploy, started, finished, result, view) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
                        .execute(params![n, view.id, view.deploy, view.started_at.0, written.at.0, result.word(), json(&view)?])?;
                    forget_flights(tx, n - KEPT_FLIGHTS)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// The rollout with this id, also if it is over: then [`History::write_late`] is due. Without an id the one that is under way.
    fn of(&mut self, tx: &Transaction<'_>, id: Option<&str>) -> rusqlite::Result<Option<&mut Open>> {
        let is = |open: &Open| id.is_none_or(|id| open.view.id == id);
        let Some(id) = id.filter(|_| !self.open.as_ref().is_some_and(is)) else { return Ok(self.open.as_mut()) };
        if !self.late.iter().any(is) {
            let row = tx
                .prepare_cached("SELECT n, view FROM rollouts WHERE id = ?1 ORDER BY n DESC LIMIT 1")?
                .query_row(params![id], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))
                .optional()?;
            let view = |text: String| serde_json::from_str(&text).ok();
            self.late.extend(row.and_then(|(n, text)| Some(Open { n, view: view(text)? })));
        }
        Ok(self.late.iter_mut().find(|open| is(open)))
    }

    /// Writes what was told of rollouts that are over: once for each transaction.
    pub(super) fn write_late(&mut self, tx: &Transaction<'_>) -> rusqlite::Result<()> {
        for Open { n, view } in self.late.drain(..) {
            tx.prepare_cached("UPDATE rollouts SET view = ?2 WHERE n = ?1")?.execute(params![n, json(&view)?])?;
        }
        Ok(())
    }
}

/// Forgets what was in flight in the rollout of this row.
fn forget_flights(tx: &Transaction<'_>, n: i64) -> rusqlite::Result<()> {
    let row =
        tx.prepare_cached("SELECT view FROM rollouts WHERE n = ?1")?.query_row(params![n], |row| row.get::<_, String>(0)).optional()?;
    if let Some(mut view) = row.and_then(|text| serde_json::from_str::<RolloutView>(&text).ok()).filter(|view| !view.flights.is_empty()) {
        view.flights.clear();
        tx.prepare_cached("UPDATE rollouts SET view = ?2 WHERE n = ?1")?.execute(params![n, json(&view)?])?;
    }
    Ok(())
}

/// Forgets what is older than 90 days, and all but the newest 10,000 rollouts.
pub(super) fn forget_old(tx: &Transaction<'_>, now: Wall) -> rusqlite::Result<()> {
    let oldest = now.0.saturating_sub(KEPT_FOR);
    tx.execute("DELETE FROM rollouts WHERE started < ?1 OR n <= (SELECT max(n) FROM rollouts) - ?2", params![oldest, KEPT_ROLLOUTS])?;
    tx.execute("DELETE FROM casualties WHERE at < ?1 OR rollout < (SELECT min(n) FROM rollouts)", params![oldest])?;
    Ok(())
}

pub(super) fn json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}
