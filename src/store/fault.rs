//! Why something could not be remembered, in sentences that say what to do.

use std::path::Path;

use rusqlite::ErrorCode;

/// Why the store could not do what it was asked. Each is a sentence for status, with what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreFault {
    #[error("the disk of {0} is full: make room there (df -h {0}); the journal then goes on by itself")]
    Full(String),
    #[error(
        "{0} is read-only: make it writable (mount -o remount,rw, or ReadWritePaths= of the unit); the journal then goes on by itself, or, if the mount was read-only when the agent started, after systemctl restart restart-agent"
    )]
    ReadOnly(String),
    #[error("the disk of {0} does not answer: look at dmesg and the mount; the journal goes on by itself when it does")]
    Slow(String),
    #[error("another process keeps {0} locked: end it (fuser -v {0}); the journal then goes on by itself")]
    Busy(String),
    #[error("{path} was damaged ({error}) and has been moved to {aside}: a new one was begun; look at the disk")]
    Corrupt { path: String, aside: String, error: String },
    #[error(
        "{path} was made by a newer version (schema {found}, this one knows {known}): install that version again, or give up what it remembers: mv {path} {path}.newer"
    )]
    Newer { path: String, found: i64, known: i64 },
    #[error("there is no history in {0}: the agent has not run here yet (systemctl start restart-agent)")]
    Missing(String),
    #[error("{0} may be read by root only")]
    Denied(String),
    #[error("too much waits to be written to {0}: make it writable again")]
    Overflow(String),
    #[error("{path}: {error}")]
    Io { path: String, error: String },
}

impl StoreFault {
    /// The fault behind an error of SQLite at `path`, the database file.
    pub(super) fn of(path: &Path, error: &rusqlite::Error) -> StoreFault {
        let file = path.display().to_string();
        let dir = path.parent().unwrap_or(path).display().to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => StoreFault::Full(dir),
            Some(ErrorCode::ReadOnly) => StoreFault::ReadOnly(dir),
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => StoreFault::Busy(file),
            Some(ErrorCode::PermissionDenied) => StoreFault::Denied(file),
            _ => StoreFault::Io { path: file, error: error.to_string() },
        }
    }

    pub(super) fn of_io(path: &Path, error: &std::io::Error) -> StoreFault {
        let name = path.display().to_string();
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => StoreFault::Full(name),
            std::io::ErrorKind::ReadOnlyFilesystem => StoreFault::ReadOnly(name),
            std::io::ErrorKind::PermissionDenied => StoreFault::Denied(name),
            _ => StoreFault::Io { path: name, error: error.to_string() },
        }
    }
}

/// Whether SQLite says that the file itself is no good.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}
