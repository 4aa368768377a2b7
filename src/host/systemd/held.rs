//! Units that our connection keeps loaded, so that how they ended can be read (facts F1.14). systemd lets go of them when the connection ends.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::faults::is_absent;
use super::link::{CallError, Link};
use super::proxies::ManagerProxy;

/// Units that are kept loaded at once; what is beyond them is not.
const MOST_HELD: usize = 4096;
/// To take all references again on a new connection.
const AGAIN: Duration = Duration::from_secs(10);

/// Why a unit is kept loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeldFor {
    /// It was stopped by us: until the rollout is over.
    Rollout,
    /// A hook: until its exit status is read.
    Hook,
}

#[derive(Debug, Default)]
pub(super) struct Held(Mutex<BTreeMap<String, HeldFor>>);

impl Held {
    fn book(&self) -> MutexGuard<'_, BTreeMap<String, HeldFor>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    /// Keeps a unit loaded until [`Link::let_go`], also over a new connection. Best effort: what is not loaded has nothing to keep.
    pub(super) async fn hold(&self, unit: &str, within: Duration) {
        {
            let mut held = self.held.book();
            if held.len() >= MOST_HELD || held.contains_key(unit) {
                return;
            }
            held.insert(unit.to_owned(), HeldFor::Rollout);
        }
        let answer = self.answer("keep a unit loaded", within, |live| async move { live.manager.ref_unit(unit).await }).await;
        if let Err(CallError::Answer(_)) = answer {
            self.held.book().remove(unit);
        }
    }

    /// Records that systemd keeps this hook's unit loaded for us, since it was started so.
    pub(super) fn holds_hook(&self, unit: &str) {
        self.held.book().insert(unit.to_owned(), HeldFor::Hook);
    }

    /// Lets a unit be unloaded.
    pub(super) async fn let_go(&self, unit: &str, within: Duration) {
        if self.held.book().remove(unit).is_some() {
            self.unref(unit, Instant::now() + within).await;
        }
    }

    /// Gives back the reference to a unit that [`Link::take_held`] has taken out of the book.
    pub(super) async fn unref(&self, unit: &str, deadline: Instant) {
        let _ = self.once("let go of a unit", deadline, |live| async move { live.manager.unref_unit(unit).await }).await;
    }

    /// The units that are kept loaded for this reason, which from now on are not.
    pub(super) fn take_held(&self, reason: HeldFor) -> Vec<String> {
        let mut held = self.held.book();
        let units: Vec<String> = held.iter().filter(|(_, why)| **why == reason).map(|(unit, _)| unit.clone()).collect();
        held.retain(|_, why| *why != reason);
        units
    }

    /// References die with their connection: take those again that can still be had.
    pub(super) async fn hold_again(&self, manager: &ManagerProxy<'static>) {
        let deadline = Instant::now() + AGAIN;
        let units: Vec<String> = self.held.book().keys().cloned().collect();
        for unit in units {
            match timeout_at(deadline, manager.ref_unit(&unit)).await {
                Ok(Err(error)) if is_absent(&error) => {
                    self.held.book().remove(&unit);
                }
                Ok(_) => {}
                Err(_) => return,
            }
        }
    }
}
