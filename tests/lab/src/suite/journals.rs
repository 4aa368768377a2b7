//! The journals of hosts, kept when their trial fails.
//!
//! A host is gone before its trial's result is known, so its journal is written at its end and removed
//! when the trial passes.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

struct Current {
    trial: String,
    kept: Vec<PathBuf>,
}

thread_local! {
    static CURRENT: RefCell<Option<Current>> = const { RefCell::new(None) };
}

/// The trial `name` begins on this thread.
pub(super) fn begin(name: &str) {
    CURRENT.set(Some(Current { trial: name.to_owned(), kept: Vec::new() }));
}

/// The trial of this thread has ended: returns the journals of a failed one, removes those of another.
pub(super) fn end(failed: bool) -> Vec<PathBuf> {
    let kept = CURRENT.take().map(|current| current.kept).unwrap_or_default();
    if failed {
        return kept;
    }
    for path in kept {
        let _ = fs::remove_file(path);
    }
    Vec::new()
}

/// Whether a host that ends now should leave its journal.
pub(crate) fn wanted() -> bool {
    std::thread::panicking() || CURRENT.with_borrow(Option::is_some)
}

/// Writes the journal of the host called `name` to `target/lab-logs`.
pub(crate) fn keep(name: &str, journal: &str) {
    CURRENT.with_borrow_mut(|current| {
        let trial = current.as_ref().map_or("no-trial", |current| &current.trial).replace("::", "-");
        match write(&format!("{trial}-{name}.journal"), journal) {
            Ok(path) => match current {
                Some(current) => current.kept.push(path),
                None => eprintln!("lab: the journal of {name} is in {}", path.display()),
            },
            Err(error) => eprintln!("lab: no journal of {name}: {error:#}"),
        }
    });
}

fn write(name: &str, journal: &str) -> Result<PathBuf> {
    let directory = target()?.join("lab-logs");
    fs::create_dir_all(&directory)?;
    let path = directory.join(name.replace('/', "-"));
    fs::write(&path, journal)?;
    Ok(path)
}

/// Cargo's target directory: test binaries are in `target/PROFILE/deps`.
fn target() -> Result<PathBuf> {
    if let Some(target) = std::env::var_os("CARGO_TARGET_DIR") {
        return Ok(target.into());
    }
    let program = std::env::current_exe()?;
    let target = program.ancestors().find(|path| path.ends_with("deps")).and_then(|deps| deps.ancestors().nth(2));
    target.map(Path::to_owned).context("this program is not in a target directory")
}
