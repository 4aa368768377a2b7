//! What the agent tells systemd about itself (sd_notify). Without `NOTIFY_SOCKET` all of it does nothing.
//!
//! A message that cannot be sent is dropped with a line in the log: systemd's own timeouts judge the agent then.

use std::time::Duration;

use sd_notify::NotifyState;

use crate::core::deploy::printable;

/// systemd keeps the last status only; a longer one helps nobody.
const STATUS_MAX: usize = 500;

/// The agent is started, or a reload is finished.
pub fn ready() {
    send(&[NotifyState::Ready]);
}

/// A configuration reload has begun (`Type=notify-reload`, systemd 253; older ones read `RELOADING=1` alone). [`ready`] ends it.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

/// The agent ends.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// `STATUS=`: one line, at most 500 characters; control characters are replaced, so that no text can add a field.
pub fn status(text: &str) {
    send(&[NotifyState::Status(&printable(text, STATUS_MAX))]);
}

/// `WATCHDOG=1`.
pub fn watchdog() {
    send(&[NotifyState::Watchdog]);
}

/// How often [`watchdog`] is due: half of `WATCHDOG_USEC`. `None` if systemd does not watch this process.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().map(|within| within / 2).filter(|half| !half.is_zero())
}

fn send(state: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!("cannot notify systemd: {error}");
    }
}
