//! What became of the requests of a load.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// Status 200, and the answer to this request.
    Ok,
    /// PHP had begun, and there was no answer with status 200: not safe to send again.
    Cut,
    /// Never reached PHP, and no answer with status 200: safe to send again. A worker that was killed in the first
    /// fraction of a millisecond, before it ran a line of the script, also counts here.
    Refused,
    /// Status 200, with the body of something else.
    Wrong,
}

/// Who answered a request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Served {
    /// HAProxy's name of the server: "mw1", the pool under test, or "mw2".
    pub server: String,
    /// The php-fpm master: "PID@START", its process id in the host and its start in clock ticks since boot.
    pub generation: String,
    /// The version of the code that it ran.
    pub version: String,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Record {
    /// As in its query string: `/work.php?id=ID&ms=MS`.
    pub id: u64,
    /// When it was to be sent.
    pub sent_at: SystemTime,
    /// How long it was to work in PHP.
    pub wanted: Duration,
    /// From when it was to be sent until its answer was complete, or it failed.
    pub latency: Duration,
    /// What became of it.
    pub class: Class,
    /// Whether PHP began, and whether it came to the script's end.
    pub started: bool,
    /// See `started`.
    pub ended: bool,
    /// Who answered, when the answer was right.
    pub served: Option<Served>,
    /// What went wrong, otherwise; such as "status 502".
    pub error: Option<String>,
    #[serde(skip)]
    answered: Instant,
}

impl Record {
    /// A record whose class is not known before the markers were read.
    pub(super) fn new(id: u64, sent_at: SystemTime, due: Instant, wanted: Duration, answer: Result<Option<Served>, String>) -> Record {
        let answered = Instant::now();
        let (class, served, error) = match answer {
            Ok(Some(served)) => (Class::Ok, Some(served), None),
            Ok(None) => (Class::Wrong, None, Some("the answer is not to this request".to_owned())),
            Err(error) => (Class::Refused, None, Some(error)),
        };
        let latency = answered - due;
        Record { id, sent_at, wanted, latency, class, started: false, ended: false, served, error, answered }
    }
}

/// How many requests are of each class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// [`Class::Ok`].
    pub ok: usize,
    /// [`Class::Cut`].
    pub cut: usize,
    /// [`Class::Refused`].
    pub refused: usize,
    /// [`Class::Wrong`].
    pub wrong: usize,
}

impl Counts {
    /// Those that are not ok.
    pub fn lost(&self) -> usize {
        self.cut + self.refused + self.wrong
    }
}

/// All requests of a load, in the order in which they were to be sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// One for each request.
    pub records: Vec<Record>,
}

impl Report {
    /// `ended(id)` is `Some` when PHP began the request.
    pub(super) fn new(mut records: Vec<Record>, ended: impl Fn(u64) -> Option<bool>) -> Report {
        for record in &mut records {
            let mark = ended(record.id);
            record.started = mark.is_some();
            record.ended = mark == Some(true);
            if record.class == Class::Refused && record.started {
                record.class = Class::Cut;
            }
        }
        records.sort_by_key(|record| (record.sent_at, record.id));
        Report { records }
    }

    /// How many are of each class.
    pub fn counts(&self) -> Counts {
        let count = |class| self.of(class).count();
        Counts { ok: count(Class::Ok), cut: count(Class::Cut), refused: count(Class::Refused), wrong: count(Class::Wrong) }
    }

    /// The requests of one class.
    pub fn of(&self, class: Class) -> impl Iterator<Item = &Record> {
        self.records.iter().filter(move |record| record.class == class)
    }

    /// The ids of the requests that were cut.
    pub fn cut_ids(&self) -> BTreeSet<u64> {
        self.of(Class::Cut).map(|record| record.id).collect()
    }

    /// The request with this id.
    pub fn record(&self, id: u64) -> Option<&Record> {
        self.records.iter().find(|record| record.id == id)
    }

    /// The latency that `percent` (0 to 100) of the ok requests did not exceed; zero when there are none.
    pub fn latency(&self, percent: f64) -> Duration {
        percentile(self.of(Class::Ok).map(|record| record.latency).collect(), percent)
    }

    /// What ok requests took beyond the work they were sent for, as a percentile like [`Report::latency`].
    pub fn overhead(&self, percent: f64) -> Duration {
        percentile(self.of(Class::Ok).map(|record| record.latency.saturating_sub(record.wanted)).collect(), percent)
    }

    /// The longest time between two ok answers in a row; zero when there are fewer than two.
    pub fn longest_gap(&self) -> Duration {
        let mut answers: Vec<Instant> = self.of(Class::Ok).map(|record| record.answered).collect();
        answers.sort_unstable();
        answers.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// How many ok requests each server, generation and version answered.
    pub fn served(&self) -> BTreeMap<&Served, usize> {
        let mut served = BTreeMap::new();
        for by in self.records.iter().filter_map(|record| record.served.as_ref()) {
            *served.entry(by).or_default() += 1;
        }
        served
    }
}

fn percentile(mut values: Vec<Duration>, percent: f64) -> Duration {
    values.sort_unstable();
    let rank = (percent / 100.0 * values.len() as f64).ceil().max(1.0) as usize;
    values.get(rank.min(values.len()).wrapping_sub(1)).copied().unwrap_or_default()
}

/// One line of counts and latencies, then one for each request that is not ok (20 at most).
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { ok, cut, refused, wrong } = self.counts();
        write!(f, "{ok} ok, {cut} cut, {refused} refused, {wrong} wrong")?;
        let ms = |duration: Duration| duration.as_secs_f64() * 1000.0;
        write!(f, "; overhead p50 {:.1} p99 {:.1} ms", ms(self.overhead(50.0)), ms(self.overhead(99.0)))?;
        write!(f, "; longest gap {:.0} ms", ms(self.longest_gap()))?;
        for record in self.records.iter().filter(|record| record.class != Class::Ok).take(20) {
            let error = record.error.as_deref().unwrap_or_default();
            let (wanted, latency) = (ms(record.wanted), ms(record.latency));
            write!(f, "\n  {:?} id {} of {wanted:.0} ms after {latency:.0} ms: {error}", record.class, record.id)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let values: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(values.clone(), 50.0), Duration::from_millis(50));
        assert_eq!(percentile(values.clone(), 99.0), Duration::from_millis(99));
        assert_eq!(percentile(values.clone(), 100.0), Duration::from_millis(100));
        assert_eq!(percentile(values, 0.0), Duration::from_millis(1));
        assert_eq!(percentile(Vec::new(), 50.0), Duration::ZERO);
    }
}
