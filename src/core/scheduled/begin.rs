//! What has become of a start that systemd has taken.

use std::time::Duration;

use crate::core::seen::UnitSeen;
use crate::core::status::UnitEnd;
use crate::core::time::Mono;

/// It begins within milliseconds, unless something holds it up: then nobody waits for it here.
pub const BEGINS: Duration = Duration::from_secs(1);

/// What a look shows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// systemd has not come to it.
    Waits,
    Anew,
    /// It never will: how that is told.
    Never(UnitEnd, String),
}

/// `before`: the run that it had when its start was asked for.
#[must_use]
pub fn begin_of(seen: &UnitSeen, before: &str, asked: Mono) -> Begin {
    if !seen.invocation.is_empty() && seen.invocation != before {
        return Begin::Anew;
    }
    if seen.job || seen.active.runs() {
        return Begin::Waits;
    }
    let unit = &seen.unit;
    let fails = |what: &str| Begin::Never(UnitEnd::Failed, format!("stopped, but it could not be started again: {what}"));
    match seen.skipped.filter(|skipped| skipped.at >= asked) {
        // systemd calls that a success.
        Some(skipped) if !skipped.assert => {
            Begin::Never(UnitEnd::Quiet, format!("stopped, and not started again: its condition was not met; see systemctl status {unit}"))
        }
        Some(_) => fails(&format!("its assertion failed; see journalctl -u {unit}")),
        None => fails(&format!("what it requires did not come up, or somebody has stopped it; see journalctl -u {unit}")),
    }
}
