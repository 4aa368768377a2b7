//! The history of rollouts and of what they cut: written beside the journal, in the same transaction, and kept much longer.

use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::core::entry::{Entry, Written};
use crate::core::memory::Memory;
use crate::core::status::{RolloutResult, RolloutView};
use crate::core::time::Wall;

/// How long history is kept, in microseconds: 90 days.
const KEPT_FOR: i64 = 90 * 86_400 * 1_000_000;
/// How many rollouts are kept.
const KEPT_ROLLOUTS: i64 = 10_000;

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
        Ok(History { open: n.map(|n| Open { n, view }) })
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
            Entry::Casualty(casualty) => {
                let mut bare = casualty.clone();
                let request = bare.request.take();
                tx.prepare_cached("INSERT INTO casualties (rollout, at, view, request) VALUES (?1, ?2, ?3, ?4)")?.execute(params![
                    self.open.as_ref().map(|open| open.n),
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
                        .execute(params![n, view.id, view.deploy, view.started_at.0, written.at.0, word(*result), json(&view)?])?;
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Forgets what is older than 90 days, and all but the newest 10,000 rollouts.
pub(super) fn forget_old(tx: &Transaction<'_>, now: Wall) -> rusqlite::Result<()> {
    let oldest = now.0.saturating_sub(KEPT_FOR);
    tx.execute("DELETE FROM rollouts WHERE started < ?1 OR n <= (SELECT max(n) FROM rollouts) - ?2", params![oldest, KEPT_ROLLOUTS])?;
    tx.execute("DELETE FROM casualties WHERE at < ?1 OR rollout < (SELECT min(n) FROM rollouts)", params![oldest])?;
    Ok(())
}

fn word(result: RolloutResult) -> &'static str {
    match result {
        RolloutResult::Converged => "converged",
        RolloutResult::Failed => "failed",
        RolloutResult::Aborted => "aborted",
        RolloutResult::Superseded => "superseded",
    }
}

pub(super) fn json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}
