//! Configuration: scan the files, merge them with provenance, validate into [`Policy`]. Nothing about a running host is
//! decided here.
//!
//! Every error cites file, line and column, shows the line with a caret under the key or value, and says what to write
//! instead; all problems are reported, not only the first.

mod amount;
mod guess;
mod keys;
mod problem;
mod reader;
pub mod reference;
mod scan;
mod section;
mod source;
mod targets;
#[cfg(test)]
mod tests;
mod tree;
mod units;
mod validate;

use std::path::PathBuf;

use crate::core::policy::Policy;
pub use problem::{Errors, Problem};
pub use scan::Roots;
use validate::Extent;

/// More targets than any host has; a bound, so that no configuration makes the agent large.
pub const MAX_TARGETS: usize = 256;
/// At most this many `[pool.NAME]`.
pub const MAX_POOLS: usize = 64;
/// Of one file, in bytes.
pub const MAX_FILE: u64 = 1 << 20;
/// Of one configuration, the drop-ins included.
pub const MAX_FILES: usize = 1024;

/// A configuration that may be acted on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    pub policy: Policy,
    /// What was read, in the order of merging: a later file wins.
    pub files: Vec<PathBuf>,
}

/// Reads the configuration of this host. No file at all is a valid configuration that does nothing.
///
/// # Errors
/// Everything that is wrong with it. Nothing of a configuration with an error may be used.
pub fn load(roots: &Roots) -> Result<Loaded, Errors> {
    let mut report = problem::Report::default();
    let files = scan::scan(roots, &mut report);
    let merged = tree::merge(&files, &mut report);
    let policy = validate::policy(&merged, Extent::Whole, &mut report);
    report.finish()?;
    Ok(Loaded { policy, files })
}

/// Checks files that are not in place yet, as Puppet's `validate_cmd` hands them over: merged in the given order, and
/// with nothing else, so that the result depends on these files alone.
///
/// What another file may add is not missed: `[stamp] path`, the keys of a pool, and the keys of a `[target.NAME]`
/// that does not say its `kind` (it changes the target of another file). A table that says its `kind` must be whole.
///
/// # Errors
/// Everything that is wrong with these files whatever the others say.
pub fn check_files(files: &[PathBuf]) -> Result<(), Errors> {
    let mut report = problem::Report::default();
    let merged = tree::merge(files, &mut report);
    validate::policy(&merged, Extent::Fragment, &mut report);
    report.finish()
}
