//! What the unit of a php-fpm holds.

use std::time::Duration;

use super::finding::{About, Finding, Mend, unit_finding};
use super::fpm_rules;
use super::seen::UnitSettings;
use crate::core::policy::Policy;
use crate::core::seen::Load;
use crate::core::time::Span;

const SIGQUIT: u32 = 3;
/// A reboot waits that long for one busy request (facts M9); systemd's default is 90 s.
const LONG_STOP: Duration = Duration::from_secs(120);

pub fn findings(about: &About<'_>, control_timeout: u64, policy: &Policy) -> Vec<Finding> {
    let unit = &about.fpm.unit;
    let mut found = Vec::new();
    match unit.kill_mode.as_str() {
        "mixed" | "" => {}
        "process" | "none" => found.push(about.service(
            "unit-kill-mode-process",
            "Service",
            "KillMode=mixed",
            format!("KillMode={}", unit.kill_mode),
            "after a stop, or the death of its main process, old workers live on beside the new ones, or keep it from starting",
        )),
        other => found.push(about.service(
            "unit-kill-mode",
            "Service",
            "KillMode=mixed",
            format!("KillMode={other}"),
            "a child that ignores SIGTERM keeps php-fpm down for all of TimeoutStopSec=, and the unit fails; the agent lends it mixed for its own restarts, nobody else does",
        )),
    }
    let stop = unit.timeout_stop;
    if stop.is_none_or(|stop| stop > LONG_STOP) {
        found.push(about.service(
            "unit-stop-too-long",
            "Service",
            "TimeoutStopSec=30s",
            format!("TimeoutStopSec={}", stop.map_or_else(|| "infinity".to_owned(), |stop| Span(stop).to_string())),
            "one busy request keeps this host from rebooting for that long",
        ));
    }
    // SIGTERM does not wait for requests, whatever the timeout (facts 1a).
    if let Some(stop) = stop.filter(|stop| unit.kill_signal == SIGQUIT && *stop <= Duration::from_secs(control_timeout)) {
        found.push(about.service(
            "unit-stop-before-php-fpm",
            "Service",
            &format!("TimeoutStopSec={}s", control_timeout + 5),
            format!("KillSignal=SIGQUIT, and TimeoutStopSec={} is no longer than process_control_timeout = {control_timeout}s", Span(stop)),
            "systemd kills php-fpm before it has let its requests finish, and the unit fails",
        ));
    }
    let rhythm = policy.stamp.min_interval;
    let burst = unit.start_limit_burst;
    // A generation is a unit of its own, started once.
    if fpm_rules(policy, about.fpm.target.as_deref()).is_some() && burst > 0 && rhythm.saturating_mul(burst) < unit.start_limit_interval {
        found.push(about.service(
            "unit-start-limit",
            "Unit",
            "StartLimitIntervalSec=10s",
            format!("{burst} starts in {}, and deploys may come every {}", Span(unit.start_limit_interval), Span(rhythm)),
            "one start more is refused and php-fpm stays down; the agent clears the count before its own restarts, nobody else does",
        ));
    }
    found
}

/// A unit that the configuration names and that is not there, or cannot be used.
pub fn missing(unit: &UnitSettings, target: Option<&str>) -> Option<Finding> {
    let (id, what, costs): (_, _, &'static str) = match unit.load {
        Load::Loaded => return None,
        Load::NotFound if unit.active.runs() => return None,
        Load::NotFound => ("unit-missing", "there is no such unit", "the target renews nothing of it"),
        Load::Masked => ("unit-masked", "it is masked", "it is never renewed: it could not be started again"),
        Load::Bad => ("unit-bad", "systemd cannot load it", "it is never renewed: it could not be started again"),
    };
    let what = what.to_owned();
    if unit.load == Load::Masked {
        let then = format!("systemctl unmask {}, or take it out of the target", unit.unit);
        return Some(Finding { mend: Mend { then, ..Mend::default() }, ..unit_finding(unit, target, id, "Unit", "", what, costs) });
    }
    let then = if unit.load == Load::Bad {
        format!("systemd-analyze verify {}", unit.unit)
    } else {
        "take its name out of the target, or install what it belongs to".to_owned()
    };
    Some(Finding { mend: Mend { then, ..Mend::default() }, ..unit_finding(unit, target, id, "Unit", "", what, costs) })
}
