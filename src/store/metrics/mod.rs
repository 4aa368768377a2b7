//! restart-agent.prom: what the textfile collector of node-exporter reads, for graphs and alerts.
//!
//! The format is Prometheus's text format 0.0.4, the one that the collector reads: not OpenMetrics, which names counters differently, and
//! without timestamps of samples, which it refuses. Names of targets, pools and states are labels; names of units, processes and deploys are
//! not, since there may be any number of them.

mod families;
#[cfg(test)]
mod tests;

use std::fmt::{self, Write as _};
use std::io;
use std::path::Path;

use super::replace::replace;
use crate::core::status::StatusView;
use crate::core::time::Wall;

/// Where node-exporter looks for it on Debian. Written only if its directory exists.
pub const METRICS: &str = "/var/lib/prometheus/node-exporter/restart-agent.prom";
/// Before the name of every metric.
const PREFIX: &str = "restart_agent_";

/// Metrics of one name.
struct Family {
    /// Without [`PREFIX`].
    name: &'static str,
    kind: Kind,
    labels: &'static [&'static str],
    help: &'static str,
    samples: fn(&StatusView, &mut Samples<'_>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Gauge,
    Counter,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        }
    }
}

/// The samples of one family on their way into the text.
struct Samples<'a> {
    family: &'a Family,
    begun: bool,
    text: &'a mut String,
}

impl Samples<'_> {
    fn one(&mut self, value: impl fmt::Display) {
        self.of(&[], value);
    }

    /// Nothing is said of what has not been.
    fn time(&mut self, at: Option<Wall>) {
        if let Some(at) = at {
            self.one(Seconds(at.0));
        }
    }

    fn yes_or_no(&mut self, labels: &[&str], yes: bool) {
        self.of(labels, u8::from(yes));
    }

    /// `labels`: the values of the family's labels, in their order.
    fn of(&mut self, labels: &[&str], value: impl fmt::Display) {
        self.line(labels, &value);
    }

    fn line(&mut self, labels: &[&str], value: &dyn fmt::Display) {
        let Family { name, kind, help, labels: names, .. } = self.family;
        if !self.begun {
            self.begun = true;
            let _ = writeln!(self.text, "# HELP {PREFIX}{name} {help}\n# TYPE {PREFIX}{name} {}", kind.word());
        }
        let _ = write!(self.text, "{PREFIX}{name}");
        for (n, (label, value)) in names.iter().zip(labels).enumerate() {
            let _ = write!(self.text, "{}{label}=\"", if n == 0 { '{' } else { ',' });
            escape(value, self.text);
            self.text.push('"');
        }
        let _ = writeln!(self.text, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

/// Seconds with their fraction, from microseconds; never below 0.
struct Seconds(i64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0.max(0);
        write!(f, "{}.{:06}", micros / 1_000_000, micros % 1_000_000)
    }
}

fn escape(value: &str, text: &mut String) {
    for c in value.chars() {
        match c {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            c => text.push(c),
        }
    }
}

/// The whole file.
#[must_use]
pub fn metrics(view: &StatusView) -> String {
    let mut text = String::new();
    for family in &families::ALL {
        (family.samples)(view, &mut Samples { family, begun: false, text: &mut text });
    }
    text
}

/// Replaces the file at once, for everybody to read, and says whether it could. Where its directory is missing there is nothing to do.
/// Why it could not is told in the log, unless that `was_told` before: the old file is then still there, and grows old.
pub(super) fn write_metrics(path: &Path, text: &str, was_told: bool) -> bool {
    match replace(path, text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            if !was_told {
                let why =
                    "a directory that was made after the agent's start is read-only for it until the next: systemctl restart restart-agent";
                tracing::warn!(path = %path.display(), %error, "cannot write the metrics: {error}; {why}");
            }
            false
        }
        _ => true,
    }
}
