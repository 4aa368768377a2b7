//! The names by which scripts and the agent meet, below the run directory.

/// Exists while the unit is asked to stop at its next checkpoint.
#[must_use]
pub fn request_name(unit: &str) -> String {
    format!("stop/{unit}")
}

/// A script holds flock(2) on it while it must not be interrupted.
#[must_use]
pub fn lock_name(unit: &str) -> String {
    format!("hold/{unit}.lock")
}
