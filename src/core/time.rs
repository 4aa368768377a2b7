//! The two clocks of the machine, as plain numbers: nothing here reads a clock.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A moment on CLOCK_BOOTTIME, in microseconds since this host booted.
///
/// Deadlines and the age of processes are measured on it, because it never jumps (facts F4.6). A moment before this
/// boot, such as the landing of a deploy that was recorded before a reboot, is [`Mono::BOOT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Mono(pub u64);

impl Mono {
    /// The start of this boot; also stands for every moment before it.
    pub const BOOT: Mono = Mono(0);
    /// Later than every deadline.
    pub const NEVER: Mono = Mono(u64::MAX);

    /// `self + span`, saturating at [`Mono::NEVER`].
    #[must_use]
    pub fn after(self, span: Duration) -> Mono {
        Mono(self.0.saturating_add(u64::try_from(span.as_micros()).unwrap_or(u64::MAX)))
    }

    /// How long `self` is after `earlier`; zero if it is not.
    #[must_use]
    pub fn since(self, earlier: Mono) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// A moment on CLOCK_REALTIME, in microseconds since 1970. For people and for what is written; decisions rest on [`Mono`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Wall(pub i64);

impl Wall {
    /// `self + span`, saturating.
    #[must_use]
    pub fn after(self, span: Duration) -> Wall {
        Wall(self.0.saturating_add(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)))
    }

    /// How long `self` is after `earlier`; zero if it is not.
    #[must_use]
    pub fn since(self, earlier: Wall) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The same moment by a clock that was set ahead by so many microseconds.
    #[must_use]
    pub fn moved(self, by: i64) -> Wall {
        Wall(self.0.saturating_add(by))
    }

    /// Whole seconds since 1970.
    #[must_use]
    pub fn seconds(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }
}

/// RFC 3339 in UTC with milliseconds: `2026-11-22T22:15:20.123Z`.
impl fmt::Display for Wall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(at) => write!(f, "{at:.3}"),
            Err(_) => write!(f, "@{}", self.seconds()),
        }
    }
}

impl Serialize for Wall {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(at) => serializer.collect_str(&format_args!("{at:.6}")),
            Err(_) => serializer.collect_str("1970-01-01T00:00:00Z"),
        }
    }
}

#[cfg(test)]
impl schemars::JsonSchema for Wall {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "format": "date-time", "description": "RFC 3339, in UTC."})
    }
}

impl<'de> Deserialize<'de> for Wall {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let at: jiff::Timestamp = text.parse().map_err(serde::de::Error::custom)?;
        Ok(Wall(at.as_microsecond()))
    }
}

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Now {
    pub mono: Mono,
    pub wall: Wall,
}

impl Now {
    /// When the boot was, by the wall clock as it is set now.
    #[must_use]
    pub fn boot(self) -> Wall {
        self.wall_of(Mono::BOOT)
    }

    /// The wall clock time of a moment on the boot clock, by the offset that holds now.
    #[must_use]
    pub fn wall_of(self, at: Mono) -> Wall {
        if at >= self.mono {
            self.wall.after(at.since(self.mono))
        } else {
            Wall(self.wall.0.saturating_sub(i64::try_from(self.mono.since(at).as_micros()).unwrap_or(i64::MAX)))
        }
    }

    /// The moment on the boot clock of a wall clock time, by the offset that holds now; [`Mono::BOOT`] if before the boot.
    #[must_use]
    pub fn mono_of(self, at: Wall) -> Mono {
        let offset = i128::from(at.0) - i128::from(self.wall.0) + i128::from(self.mono.0);
        Mono(u64::try_from(offset.max(0)).unwrap_or(u64::MAX))
    }
}

/// The contract's way of writing a span: `500ms`, `5s`, `10m`, `24h`, `7d`, and for people `3.2s`, `1h 5m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        let s = self.0.as_secs();
        match ms {
            0..1000 => write!(f, "{ms}ms"),
            1000..60_000 if ms.is_multiple_of(1000) => write!(f, "{s}s"),
            1000..60_000 => write!(f, "{:.1}s", self.0.as_secs_f64()),
            _ => {
                let units = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
                let mut rest = s;
                let mut written = 0;
                for (size, name) in units {
                    if rest >= size && written < 2 {
                        write!(f, "{}{}{name}", if written > 0 { " " } else { "" }, rest / size)?;
                        rest %= size;
                        written += 1;
                    } else if written > 0 {
                        break;
                    }
                }
                Ok(())
            }
        }
    }
}

impl Span {
    /// Reads `500ms`, `5s`, `10m`, `24h`, `7d`, also combined (`1h 30m`).
    ///
    /// # Errors
    /// A sentence that says what to write, for anything else.
    pub fn parse(text: &str) -> Result<Span, String> {
        let wrong = || format!("\"{text}\" is not a time: write a number with ms, s, m, h or d, such as 500ms, 5s, 10m, 24h or 7d");
        let mut total: u128 = 0;
        let mut rest = text.trim();
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
            let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
            let after = &rest[digits..];
            let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
            let ms: u128 = match &after[..letters] {
                "ms" => 1,
                "s" => 1000,
                "m" => 60_000,
                "h" => 3_600_000,
                "d" => 86_400_000,
                _ => return Err(wrong()),
            };
            total += u128::from(number) * ms;
            rest = after[letters..].trim_start();
        }
        let ms = u64::try_from(total).map_err(|_| wrong())?;
        if ms > 3650 * 86_400_000 {
            return Err(format!("\"{text}\" is longer than ten years"));
        }
        Ok(Span(Duration::from_millis(ms)))
    }
}
