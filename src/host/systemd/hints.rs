//! What the bus says has changed. Hints only: whoever gets one looks (law 4).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

/// How many units are kept apart before it is shorter to say "look at everything".
const MOST_UNITS: usize = 4096;

/// Something may have changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hint {
    /// systemd removed a job of this unit.
    JobRemoved { unit: String },
    /// The bus came back, or systemd reloaded or re-executed: whatever was known may be wrong.
    LookAgain,
}

/// The receiving end. Equal hints that nobody took yet are one, so it holds a bounded amount however much happens.
#[derive(Debug)]
pub struct Hints(pub(super) Arc<HintBox>);

impl Hints {
    /// The next hint; waits for one. Safe to cancel.
    pub async fn next(&mut self) -> Hint {
        loop {
            if let Some(hint) = self.0.take() {
                return hint;
            }
            self.0.news.notified().await;
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct HintBox {
    waiting: Mutex<Waiting>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    look_again: bool,
    units: BTreeSet<String>,
}

impl HintBox {
    pub(super) fn look_again(&self) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.look_again = true;
        drop(waiting);
        self.news.notify_one();
    }

    pub(super) fn job_removed(&self, unit: &str) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.units.len() < MOST_UNITS {
            waiting.units.insert(unit.to_owned());
        } else {
            waiting.look_again = true;
        }
        drop(waiting);
        self.news.notify_one();
    }

    fn take(&self) -> Option<Hint> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::take(&mut waiting.look_again) {
            return Some(Hint::LookAgain);
        }
        waiting.units.pop_first().map(|unit| Hint::JobRemoved { unit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn equal_hints_are_one_and_too_many_are_look_again() {
        let held = Arc::new(HintBox::default());
        let mut hints = Hints(Arc::clone(&held));
        held.job_removed("a.service");
        held.job_removed("a.service");
        assert_eq!(hints.next().await, Hint::JobRemoved { unit: "a.service".into() });
        assert_eq!(held.take(), None);
        for n in 0..MOST_UNITS + 5 {
            held.job_removed(&format!("u{n}.service"));
        }
        assert_eq!(hints.next().await, Hint::LookAgain);
    }
}
