//! The database file: opening it, its schema, what is done when it is damaged, and the fold of what it holds.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::AccessFlags;
use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::fault::{StoreFault, is_damage};
use crate::core::entry::Written;
use crate::core::memory::Memory;

/// `user_version` of the schema below.
pub(super) const SCHEMA: i64 = 1;
/// How long another process may keep the database locked.
const BUSY: Duration = Duration::from_secs(2);
/// How many damaged databases are kept.
const ASIDE_KEPT: usize = 3;

/// `seq` only grows: the newest rows of the journal are never deleted. `rollouts.view` has no casualties in it and
/// `casualties.view` no request line: each is written once.
const CREATE: &str = "
CREATE TABLE journal (seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, entry TEXT NOT NULL) STRICT;
CREATE TABLE snapshot (one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL, memory TEXT NOT NULL) STRICT;
CREATE TABLE rollouts (n INTEGER PRIMARY KEY, id TEXT NOT NULL, deploy TEXT NOT NULL, started INTEGER NOT NULL, finished INTEGER,
  result TEXT, view TEXT NOT NULL) STRICT;
CREATE INDEX rollouts_started ON rollouts (started);
CREATE TABLE casualties (n INTEGER PRIMARY KEY, rollout INTEGER, at INTEGER NOT NULL, view TEXT NOT NULL, request TEXT) STRICT;
CREATE INDEX casualties_rollout ON casualties (rollout);
CREATE INDEX casualties_at ON casualties (at);
PRAGMA user_version = 1;
";

/// What was remembered.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Loaded {
    /// The last snapshot with every later entry of the journal applied.
    pub memory: Memory,
    /// What was wrong, as a sentence for status: the database was damaged and moved aside, or cannot be written now.
    pub problem: Option<String>,
}

/// The database's path in the state directory.
pub(super) fn file(dir: &Path) -> PathBuf {
    dir.join("restart-agent.db")
}

/// Why a database could not be opened.
pub(super) enum Unopened {
    /// It is damaged: SQLite's words.
    Damaged(String),
    Fault(StoreFault),
}

/// Opens the database for writing, makes it and its directory if they are missing, and brings its schema up to date.
pub(super) fn open(dir: &Path) -> Result<Connection, Unopened> {
    let path = file(dir);
    make_private(dir, &path).map_err(|error| Unopened::Fault(StoreFault::of_io(dir, &error)))?;
    let sorted = |error: rusqlite::Error| {
        if is_damage(&error) { Unopened::Damaged(error.to_string()) } else { Unopened::Fault(StoreFault::of(&path, &error)) }
    };
    let conn = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX).map_err(sorted)?;
    set_up(&conn).map_err(sorted)?;
    let version = version(&conn).map_err(sorted)?;
    if version > SCHEMA {
        return Err(Unopened::Fault(StoreFault::Newer { path: path.display().to_string(), found: version, known: SCHEMA }));
    }
    conn.pragma_update(None, "journal_mode", "WAL").map_err(sorted)?;
    if version == 0 {
        let wanted = format!("BEGIN IMMEDIATE; {CREATE} COMMIT;");
        if let Err(error) = conn.execute_batch(&wanted) {
            let _ = conn.execute_batch("ROLLBACK");
            return Err(sorted(error));
        }
    }
    // History is not checked here: damage in it shows when it is read or written, and start-up does not wait for it.
    for table in ["journal", "snapshot"] {
        let verdict: String = conn.query_row(&format!("PRAGMA quick_check({table})"), [], |row| row.get(0)).map_err(sorted)?;
        if verdict != "ok" {
            return Err(Unopened::Damaged(verdict.replace('\n', " ")));
        }
    }
    Ok(conn)
}

/// Opens the database for reading only.
pub(super) fn open_read_only(dir: &Path) -> Result<Connection, StoreFault> {
    let path = file(dir);
    let missing = || StoreFault::Missing(dir.display().to_string());
    match may(&path, AccessFlags::R_OK) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(missing()),
        Err(error) => return Err(StoreFault::of_io(&path, &error)),
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let attempt = |query: &str| -> rusqlite::Result<(Connection, i64)> {
        let conn = Connection::open_with_flags(uri(&path, query), flags)?;
        set_up(&conn)?;
        let version = version(&conn)?;
        Ok((conn, version))
    };
    // On a read-only file system SQLite cannot make the index of the WAL. Without a WAL nothing is missed by going without.
    let unwritten = fs::metadata(dir.join("restart-agent.db-wal")).map_or(0, |wal| wal.len()) == 0;
    let opened = match attempt("mode=ro") {
        Err(_) if unwritten => attempt("immutable=1"),
        other => other,
    };
    match opened {
        Ok((_, found)) if found > SCHEMA => Err(StoreFault::Newer { path: path.display().to_string(), found, known: SCHEMA }),
        Ok((_, 0)) => Err(missing()),
        Ok((conn, _)) => Ok(conn),
        Err(error) => Err(StoreFault::of(&path, &error)),
    }
}

/// Moves a damaged database, with its WAL, out of the way, and says where to.
pub(super) fn move_aside(dir: &Path) -> io::Result<PathBuf> {
    let path = file(dir);
    let stamp = super::wall_now().to_string().replace([':', '-'], "");
    let aside = dir.join(format!("restart-agent.db.corrupt-{stamp}"));
    fs::rename(&path, &aside)?;
    for suffix in ["-wal", "-shm"] {
        let with = |base: &Path| PathBuf::from(format!("{}{suffix}", base.display()));
        match fs::rename(with(&path), with(&aside)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    forget_oldest_aside(dir);
    Ok(aside)
}

/// What the journal adds up to. It never fails: what could be read before the first error is what there is.
pub(super) struct Folded {
    pub memory: Memory,
    /// Entries that this version does not know.
    pub unknown: usize,
    /// The first error, and whether it means damage.
    pub broken: Option<(String, bool)>,
}

pub(super) fn fold(conn: &Connection, mut apply: impl FnMut(&mut Memory, &Written)) -> Folded {
    let mut folded = Folded { memory: Memory::default(), unknown: 0, broken: None };
    if let Err(error) = fold_into(conn, &mut folded, &mut apply) {
        folded.broken = Some((error.to_string(), is_damage(&error)));
    }
    folded
}

fn fold_into(conn: &Connection, folded: &mut Folded, apply: &mut dyn FnMut(&mut Memory, &Written)) -> rusqlite::Result<()> {
    let snapshot =
        conn.query_row("SELECT seq, memory FROM snapshot", [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?))).optional()?;
    let mut folded_to = 0;
    if let Some((seq, memory)) = snapshot {
        match serde_json::from_str(&memory) {
            Ok(memory) => folded.memory = memory,
            Err(error) => {
                folded.broken = Some((format!("the snapshot cannot be read: {error}"), true));
                return Ok(());
            }
        }
        folded_to = seq;
    }
    let mut statement = conn.prepare("SELECT at, entry FROM journal WHERE seq > ?1 ORDER BY seq")?;
    let mut rows = statement.query(params![folded_to])?;
    while let Some(row) = rows.next()? {
        let at = crate::core::time::Wall(row.get(0)?);
        match serde_json::from_str(row.get_ref(1)?.as_str()?) {
            Ok(entry) => apply(&mut folded.memory, &Written { at, entry }),
            Err(_) => folded.unknown += 1,
        }
    }
    Ok(())
}

fn set_up(conn: &Connection) -> rusqlite::Result<()> {
    conn.busy_timeout(BUSY)?;
    // FULL: a commit is on the disk before it is answered. The rest keeps an idle agent small.
    conn.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA cache_size = -256; PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY; \
         PRAGMA wal_autocheckpoint = 256; PRAGMA journal_size_limit = 1048576;",
    )
}

fn version(conn: &Connection) -> rusqlite::Result<i64> {
    conn.query_row("PRAGMA user_version", [], |row| row.get(0))
}

/// The directory 0700 and the file 0600, whatever they were: the journal has request lines in it.
fn make_private(dir: &Path, path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    if fs::metadata(dir)?.permissions().mode() & 0o7777 != 0o700 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    }
    match fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if fs::metadata(path)?.permissions().mode() & 0o7777 != 0o600 {
                fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
            }
            may(path, AccessFlags::W_OK)
        }
        Err(error) => Err(error),
    }
}

/// Asked without opening the file: closing it would drop the locks of every other connection of this process.
fn may(path: &Path, access: AccessFlags) -> io::Result<()> {
    nix::unistd::access(path, access).map_err(io::Error::from)
}

/// A `file:` URI of a path with any characters.
fn uri(path: &Path, query: &str) -> String {
    use std::fmt::Write;
    use std::os::unix::ffi::OsStrExt;
    let mut uri = String::from("file:");
    for byte in path.as_os_str().as_bytes() {
        match byte {
            b'/' | b'.' | b'-' | b'_' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => uri.push(char::from(*byte)),
            _ => drop(write!(uri, "%{byte:02X}")),
        }
    }
    uri + "?" + query
}

fn forget_oldest_aside(dir: &Path) {
    let Ok(listed) = fs::read_dir(dir) else { return };
    let mut aside: Vec<PathBuf> = listed
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("restart-agent.db.corrupt-") && !name.ends_with("-wal") && !name.ends_with("-shm")
        })
        .collect();
    aside.sort();
    let surplus = aside.len().saturating_sub(ASIDE_KEPT);
    for old in &aside[..surplus] {
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(format!("{}{suffix}", old.display()));
        }
    }
}
