//! Telling what goes on: status.json, systemd's STATUS=, and the view that the bus shows.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Journal;
use crate::core::status::StatusView;
use crate::core::time::Wall;
use crate::host::notify;
use crate::store::{AliveLock, Reserve, metrics};

/// Between two writes: a rollout of hundreds of units changes the view thousands of times a second.
const PACE: Duration = Duration::from_millis(100);
/// Between two writes of the metrics, which are on a disk.
const METRICS_PACE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Publisher {
    alive: AliveLock,
    path: PathBuf,
    reserve: Reserve,
    metrics: PathBuf,
    view: watch::Sender<Option<Arc<StatusView>>>,
    said: String,
    dirty: bool,
    last: Option<Instant>,
    failed: bool,
    metrics_last: Option<Instant>,
    /// They do not say what there is to say.
    metrics_old: bool,
}

impl Publisher {
    pub fn new(alive: AliveLock, metrics: PathBuf, view: watch::Sender<Option<Arc<StatusView>>>) -> Publisher {
        Publisher {
            path: alive.run_dir().join("status.json"),
            alive,
            reserve: Reserve::default(),
            metrics,
            view,
            said: String::new(),
            dirty: true,
            last: None,
            failed: false,
            metrics_last: None,
            metrics_old: true,
        }
    }

    pub fn touch(&mut self) {
        self.dirty = true;
    }

    /// The loop turns: systemd's watchdog is told at once, whoever reads the metrics with the next that is published.
    pub fn alive(&mut self) {
        notify::watchdog();
        self.metrics_old = true;
    }

    /// When the next write is due.
    pub fn due(&self) -> Option<Instant> {
        let earliest = self.last.map_or_else(Instant::now, |last| last + PACE);
        let metrics = self.metrics_last.filter(|_| self.metrics_old).map(|last| last + METRICS_PACE);
        self.dirty.then_some(earliest).into_iter().chain(metrics).min()
    }

    /// Writes what differs from what was written.
    pub fn publish(&mut self, view: StatusView, journal: &impl Journal) {
        let now = Instant::now();
        self.dirty = false;
        self.last = Some(now);
        let same =
            self.view.borrow().as_ref().is_some_and(|old| {
                StatusView { written_at: Wall(0), ..(**old).clone() } == StatusView { written_at: Wall(0), ..view.clone() }
            });
        self.metrics_old |= !same;
        if self.metrics_old && (!view.agent.running || self.metrics_last.is_none_or(|last| last + METRICS_PACE <= now)) {
            self.metrics_old = false;
            self.metrics_last = Some(now);
            // At rest nothing is held up by a slow disk, and the store's thread is not woken to say that nothing is new.
            let at_rest = same && view.last_rollout.as_ref().is_none_or(|rollout| rollout.finished_at.is_some());
            journal.write_metrics(&self.metrics, metrics(&view), at_rest);
        }
        // What somebody has removed from /run says that we are dead.
        let kept = self.alive.keep() && self.path.exists();
        if same && kept && !self.failed {
            return;
        }
        let text = one_line(&view);
        if text != self.said {
            tracing::info!("{text}");
            notify::status(&text);
            self.said = text;
        }
        match self.reserve.write_status(&self.path, &view) {
            Ok(()) => self.failed = false,
            Err(error) => {
                if !self.failed {
                    tracing::error!(path = %self.path.display(), %error, "cannot write the status");
                }
                self.failed = true;
            }
        }
        self.view.send_replace(Some(Arc::new(view)));
    }
}

/// What systemctl status shows.
fn one_line(view: &StatusView) -> String {
    let state = view.state.word();
    let deploy = view.stamp.id.as_deref().map(|id| format!(", deploy {id}")).unwrap_or_default();
    let waiting = view.waiting_for.as_deref().map(|what| format!("; waits for {what}")).unwrap_or_default();
    let next = view.next.as_deref().map(|next| format!("; next: {next}")).unwrap_or_default();
    let problem = view.problems.first().map(|problem| format!("; {problem}")).unwrap_or_default();
    format!("{state}{deploy}{waiting}{next}{problem}")
}
