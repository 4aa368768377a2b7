//! The names by which scripts, systemd and the agent meet, below the run directory.

/// The run directory: made by tmpfiles.d, it outlives the agent.
pub const RUN: &str = "/run/restart-agent";

/// What a script says with this exit status after it was asked: interrupted, run me again (sysexits(3): EX_TEMPFAIL).
pub const RUN_AGAIN: i32 = 75;

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

/// Exists while nothing may start the unit: what it is lent has a condition that says so.
#[must_use]
pub fn quiet_name(unit: &str) -> String {
    format!("quiet/{unit}")
}
