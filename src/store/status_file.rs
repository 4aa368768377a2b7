//! status.json: the last state, for everybody.

use std::fs;
use std::io;
use std::path::Path;

use serde::Deserialize;

use super::replace::replace;
use crate::core::status::StatusView;

/// The schema that is written, and the newest that is understood.
const SCHEMA: u32 = 1;

/// Why there is no state to show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatusFault {
    #[error("there is no {0}: the agent has not run since this host booted (systemctl start restart-agent)")]
    Missing(String),
    #[error(
        "{path} was written by a newer version (schema {schema}, this command knows {SCHEMA}): use the restart-agent that is installed now, or restart the daemon"
    )]
    Newer { path: String, schema: u32 },
    #[error("cannot read {path}: {error}; systemctl restart restart-agent writes it anew")]
    Unreadable { path: String, error: String },
}

/// A descriptor that is kept for status.json: when there is no other left, the file would go on telling what was true before.
#[derive(Debug, Default)]
pub struct Reserve(Option<fs::File>);

impl Reserve {
    /// [`write_status`], with this descriptor free for it.
    ///
    /// # Errors
    /// As [`write_status`].
    pub fn write_status(&mut self, path: &Path, view: &StatusView) -> io::Result<()> {
        self.0 = None;
        let written = write_status(path, view);
        self.0 = fs::File::open("/dev/null").ok();
        written
    }
}

/// Replaces `path` at once by `view`, for everybody to read. Request lines are left out (they may hold secrets).
///
/// # Errors
/// Whatever the file system says; the old file is then still there.
pub fn write_status(path: &Path, view: &StatusView) -> io::Result<()> {
    let secret = view.last_rollout.iter().flat_map(|rollout| &rollout.casualties).any(|casualty| casualty.request.is_some());
    let mut json = if secret {
        let mut view = view.clone();
        for casualty in view.last_rollout.iter_mut().flat_map(|rollout| &mut rollout.casualties) {
            casualty.request = None;
        }
        serde_json::to_vec(&view)
    } else {
        serde_json::to_vec(view)
    }
    .map_err(io::Error::other)?;
    json.push(b'\n');
    replace(path, &json)
}

/// Reads what [`write_status`] wrote, also by a version that adds fields.
///
/// # Errors
/// A sentence that says what to do.
pub fn read_status(path: &Path) -> Result<StatusView, StatusFault> {
    #[derive(Deserialize)]
    struct Schema {
        schema: u32,
    }
    let name = || path.display().to_string();
    let unreadable = |error: &dyn std::fmt::Display| StatusFault::Unreadable { path: name(), error: error.to_string() };
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StatusFault::Missing(name())),
        Err(error) => return Err(unreadable(&error)),
    };
    let view = serde_json::from_str::<StatusView>(&text);
    match view {
        Ok(view) if view.schema <= SCHEMA => Ok(view),
        Ok(view) => Err(StatusFault::Newer { path: name(), schema: view.schema }),
        // A newer schema may differ in anything but its number.
        Err(error) => match serde_json::from_str::<Schema>(&text) {
            Ok(Schema { schema }) if schema > SCHEMA => Err(StatusFault::Newer { path: name(), schema }),
            _ => Err(unreadable(&error)),
        },
    }
}
