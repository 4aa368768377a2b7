//! What became of the requests of a load.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::Work;

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
    /// Status 200, with the body of something else, or without the whole output of the request's child.
    Wrong,
}

/// Who answered a request.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Served {
    /// HAProxy's name of the server: "mw1", the pool under test, or "mw2"; "generations" of [`crate::generations`].
    pub server: String,
    /// The php-fpm master: "PID@START", its process id in the host and its start in clock ticks since boot.
    pub generation: String,
    /// The instance of the template unit, of generations.
    pub instance: Option<String>,
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
    /// Whether a child process worked with it.
    pub child: bool,
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
}

impl Record {
    /// A record whose class is not known before the markers were read.
    pub(super) fn new(work: Work, sent_at: SystemTime, due: Instant, answer: Result<Served, (Class, String)>) -> Record {
        let latency = due.elapsed();
        let (class, served, error) = match answer {
            Ok(served) => (Class::Ok, Some(served), None),
            Err((class, error)) => (class, None, Some(error)),
        };
        let Work { id, wanted, child } = work;
        Record { id, sent_at, wanted, child, latency, class, started: false, ended: false, served, error }
    }

    /// When its answer was complete, or it failed.
    pub fn answered_at(&self) -> SystemTime {
        self.sent_at + self.latency
    }
}

/// The moment from which on new requests are answered by a generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Switch {
    /// No later than the first request that may count on it.
    pub at: SystemTime,
    /// The instance, as [`Served::instance`] names it.
    pub instance: String,
    /// The version of the code that it runs.
    pub version: String,
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

    /// The longest time without any ok answer, from the first of them to the moment at which the last request was sent: what is
    /// answered later has nobody to fill its gaps. Zero when there is no such time.
    pub fn longest_gap(&self) -> Duration {
        let Some(end) = self.records.iter().map(|record| record.sent_at).max() else { return Duration::ZERO };
        let mut moments: Vec<SystemTime> = self.of(Class::Ok).map(Record::answered_at).filter(|at| *at < end).collect();
        moments.push(end);
        moments.sort_unstable();
        moments.windows(2).filter_map(|pair| pair[1].duration_since(pair[0]).ok()).max().unwrap_or_default()
    }

    /// The requests for which `keep` holds.
    #[must_use]
    pub fn only(&self, keep: impl Fn(&Record) -> bool) -> Report {
        Report { records: self.records.iter().filter(|record| keep(record)).cloned().collect() }
    }

    /// The ok requests that took so much longer than their work.
    pub fn stalled(&self, beyond: Duration) -> usize {
        self.of(Class::Ok).filter(|record| record.latency > record.wanted + beyond).count()
    }

    /// The requests that were answered by an older generation, or an older version, than the newest switch before they were sent;
    /// `switches` are in the order of time. What is sent before a switch may be answered by either side.
    pub fn of_old_generations<'a>(&'a self, switches: &'a [Switch]) -> Vec<&'a Record> {
        let is_old = |record: &&Record| {
            let Some(by) = &record.served else { return false };
            let due = switches.iter().rposition(|switch| switch.at < record.sent_at);
            let is = switches.iter().rposition(|switch| by.instance.as_ref() == Some(&switch.instance) && by.version == switch.version);
            due.is_some() && is < due
        };
        self.records.iter().filter(is_old).collect()
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

    /// One that was sent and answered so many ms after the epoch, by the instance and with the version of that name.
    fn record(sent: u64, answered: u64, by: &str) -> Record {
        let served =
            Served { server: "generations".into(), generation: "1@1".into(), instance: Some(by.to_owned()), version: by.to_owned() };
        let work = Work { id: sent, wanted: Duration::from_millis(10), child: false };
        let mut record = Record::new(work, SystemTime::UNIX_EPOCH + Duration::from_millis(sent), Instant::now(), Ok(served));
        record.latency = Duration::from_millis(answered - sent);
        record
    }

    #[test]
    fn an_old_generation_may_finish_and_may_not_begin() {
        let switch = |at, name: &str| Switch {
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(at),
            instance: name.to_owned(),
            version: name.to_owned(),
        };
        let switches = [switch(0, "boot"), switch(100, "g1"), switch(200, "g2")];
        let mixed = {
            let mut record = record(150, 160, "g1");
            record.served.as_mut().unwrap().version = "boot".into();
            record
        };
        let report = Report {
            records: vec![
                record(50, 400, "boot"),
                record(90, 110, "g1"),
                record(150, 160, "boot"),
                record(250, 260, "g1"),
                record(250, 260, "g2"),
                mixed,
            ],
        };
        let old: Vec<_> = report.of_old_generations(&switches).into_iter().map(|record| record.sent_at).collect();
        assert_eq!(old, [150, 250, 150].map(|ms| SystemTime::UNIX_EPOCH + Duration::from_millis(ms)));
    }

    #[test]
    fn a_gap_ends_with_the_load() {
        let report = Report { records: vec![record(0, 10, "a"), record(20, 60, "a"), record(90, 900, "a")] };
        assert_eq!(report.longest_gap(), Duration::from_millis(50));
        assert_eq!(report.stalled(Duration::from_millis(500)), 1);
        assert_eq!(report.only(|record| record.id < 90).longest_gap(), Duration::from_millis(10));
        assert_eq!(Report { records: Vec::new() }.longest_gap(), Duration::ZERO);
    }

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
