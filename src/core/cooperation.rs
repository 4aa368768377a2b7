//! The names by which scripts, systemd and the agent meet: below the run directory, and in the commands that ask a script which looks at neither file
//! nor lock.

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

/// Exists while the unit is being stopped by the agent, and until it may run again: what a unit with OnSuccess= is lent makes that no success.
#[must_use]
pub fn cut_name(unit: &str) -> String {
    format!("cut/{unit}")
}

/// The unit whose lock has this file name in the directory of locks.
#[must_use]
pub fn unit_of_lock(file: &str) -> Option<&str> {
    file.strip_suffix(".lock")
}

/// The command that asks this unit, or takes that back: `{unit}` stands for its name.
#[must_use]
pub fn command_for(argv: &[String], unit: &str) -> Vec<String> {
    argv.iter().map(|word| word.replace("{unit}", unit)).collect()
}

/// Exists while nothing may start the unit: what it is lent has a condition that says so.
#[must_use]
pub fn quiet_name(unit: &str) -> String {
    format!("quiet/{unit}")
}
