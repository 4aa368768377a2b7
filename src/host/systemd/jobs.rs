//! The job ledger: how each job that we asked for ended.
//!
//! A job's number stays the same over a re-execution of systemd, and its JobRemoved comes to a new connection (facts F5.2, F5.3), so the
//! ledger knows jobs by their number and outlives connections. A signal that is missed all the same is made up for by asking.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::faults::is_absent;
use super::link::{CallError, Link};
use crate::core::effect::JobEnd;

/// Ends that nobody waits for yet are kept: JobRemoved can be handled before the answer that names the job.
const KEPT: usize = 1024;
/// When to ask whether a job is still there: first, and then.
const ASK: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(5));
/// For one such question.
const ANSWER: Duration = Duration::from_secs(10);
/// JobRemoved was sent before systemd said that there is no such job: for it to be handled here.
const ON_ITS_WAY: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
pub(super) struct Ledger(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    waiting: BTreeMap<u32, Vec<oneshot::Sender<JobEnd>>>,
    ended: VecDeque<Ended>,
}

#[derive(Debug)]
struct Ended {
    id: u32,
    unit: String,
    end: JobEnd,
    heard: Instant,
}

impl Ledger {
    /// Enters the end of a job.
    pub(super) fn removed(&self, id: u32, unit: &str, end: JobEnd) {
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for waiting in book.waiting.remove(&id).unwrap_or_default() {
            let _ = waiting.send(end.clone());
        }
        if book.ended.len() >= KEPT {
            book.ended.pop_front();
        }
        book.ended.push_back(Ended { id, unit: unit.to_owned(), end, heard: Instant::now() });
    }

    /// How the last job of this unit before this one ended, if that was heard since.
    pub(super) fn end_before(&self, id: u32, unit: &str, since: Instant) -> Option<JobEnd> {
        let book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Not one that ended after it, such as a start that a condition has skipped.
        let mut before = book.ended.iter().rev().skip_while(|ended| ended.id != id).skip(1);
        let last = before.find(|ended| ended.unit == unit)?;
        (last.heard >= since).then(|| last.end.clone())
    }

    fn ask(&self, id: u32) -> oneshot::Receiver<JobEnd> {
        let (tell, told) = oneshot::channel();
        let mut book = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match book.ended.iter().rev().find(|ended| ended.id == id) {
            Some(ended) => {
                let _ = tell.send(ended.end.clone());
            }
            None => {
                book.waiting.retain(|_, waiting| {
                    waiting.retain(|tell| !tell.is_closed());
                    !waiting.is_empty()
                });
                book.waiting.entry(id).or_default().push(tell);
            }
        }
        told
    }
}

impl Link {
    /// Waits for the end of a job: [`JobEnd::Running`] if it goes on at `deadline`, [`JobEnd::Lost`] if its end was missed or the bus is
    /// away. The caller listens ([`Link::listen`]) since before it asked for the job.
    pub(super) async fn end_of(&self, id: u32, deadline: Instant) -> JobEnd {
        let mut told = self.ledger.ask(id);
        let mut next = Instant::now() + ASK.0;
        loop {
            tokio::select! {
                biased;
                end = &mut told => return end.unwrap_or(JobEnd::Lost),
                () = tokio::time::sleep_until(deadline) => return if self.is_live() { JobEnd::Running } else { JobEnd::Lost },
                () = self.change(next) => {}
            }
            if self.is_live() && self.is_gone(id, deadline).await {
                return match timeout_at(deadline.max(Instant::now() + ON_ITS_WAY), timeout(ON_ITS_WAY, &mut told)).await {
                    Ok(Ok(Ok(end))) => end,
                    _ => JobEnd::Lost,
                };
            }
            next = Instant::now() + ASK.1;
        }
    }

    async fn is_gone(&self, id: u32, deadline: Instant) -> bool {
        let asked = self.once("ask for a job", deadline.min(Instant::now() + ANSWER), |live| async move { live.manager.get_job(id).await });
        matches!(asked.await, Err(CallError::Answer(error)) if is_absent(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_known_to_who_asks_before_and_after_it() {
        let ledger = Ledger::default();
        let mut before = ledger.ask(7);
        assert!(before.try_recv().is_err());
        ledger.removed(7, "a.service", JobEnd::Canceled);
        assert_eq!(before.try_recv(), Ok(JobEnd::Canceled));
        assert_eq!(ledger.ask(7).try_recv(), Ok(JobEnd::Canceled));
    }

    #[test]
    fn how_a_run_ended_is_told_by_its_start_job() {
        let (ledger, since) = (Ledger::default(), Instant::now());
        ledger.removed(6, "b.service", JobEnd::Canceled);
        ledger.removed(7, "a.service", JobEnd::Done);
        ledger.removed(8, "a.service", JobEnd::Done);
        ledger.removed(10, "a.service", JobEnd::Skipped);
        ledger.removed(9, "b.service", JobEnd::Done);
        assert_eq!(ledger.end_before(8, "a.service", since), Some(JobEnd::Done));
        assert_eq!(ledger.end_before(9, "b.service", since), Some(JobEnd::Canceled));
        assert_eq!(ledger.end_before(9, "b.service", Instant::now() + ANSWER), None);
        assert_eq!(ledger.end_before(9, "c.service", since), None);
        assert_eq!(ledger.end_before(11, "a.service", since), None, "its end was not heard");
    }

    #[test]
    fn it_keeps_a_bounded_number_of_ends_and_of_waiters_that_left() {
        let ledger = Ledger::default();
        for id in 0..3000 {
            drop(ledger.ask(id + 10_000));
            ledger.removed(id, "a.service", JobEnd::Done);
        }
        let book = ledger.0.lock().unwrap();
        assert_eq!(book.ended.len(), KEPT);
        assert!(book.waiting.len() <= 1);
    }
}
