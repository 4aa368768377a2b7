//! Telling what goes on: status.json, systemd's STATUS=, and the view that the bus shows.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::core::status::{State, StatusView};
use crate::core::time::Wall;
use crate::host::notify;
use crate::store::write_status;

/// Between two writes: a rollout of hundreds of units changes the view thousands of times a second.
const PACE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct Publisher {
    path: PathBuf,
    view: watch::Sender<Option<Arc<StatusView>>>,
    said: String,
    dirty: bool,
    last: Option<Instant>,
    failed: bool,
}

impl Publisher {
    pub fn new(path: PathBuf, view: watch::Sender<Option<Arc<StatusView>>>) -> Publisher {
        Publisher { path, view, said: String::new(), dirty: true, last: None, failed: false }
    }

    pub fn touch(&mut self) {
        self.dirty = true;
    }

    /// When the next write is due.
    pub fn due(&self) -> Option<Instant> {
        let earliest = self.last.map_or_else(Instant::now, |last| last + PACE);
        self.dirty.then_some(earliest)
    }

    /// Writes what differs from what was written.
    pub fn publish(&mut self, view: StatusView) {
        self.dirty = false;
        self.last = Some(Instant::now());
        let same =
            self.view.borrow().as_ref().is_some_and(|old| {
                StatusView { written_at: Wall(0), ..(**old).clone() } == StatusView { written_at: Wall(0), ..view.clone() }
            });
        if same && !self.failed {
            return;
        }
        let text = one_line(&view);
        if text != self.said {
            tracing::info!("{text}");
            notify::status(&text);
            self.said = text;
        }
        match write_status(&self.path, &view) {
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
    let state = match view.state {
        State::Idle => "idle",
        State::Converged => "converged",
        State::Converging => "converging",
        State::Held => "held",
        State::Blocked => "blocked",
        State::Failed => "failed",
    };
    let deploy = view.stamp.id.as_deref().map(|id| format!(", deploy {id}")).unwrap_or_default();
    let waiting = view.waiting_for.as_deref().map(|what| format!("; waits for {what}")).unwrap_or_default();
    let next = view.next.as_deref().map(|next| format!("; next: {next}")).unwrap_or_default();
    let problem = view.problems.first().map(|problem| format!("; {problem}")).unwrap_or_default();
    format!("{state}{deploy}{waiting}{next}{problem}")
}
