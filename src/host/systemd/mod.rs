//! systemd, over the system bus.
//!
//! [`Systemd`] is one handle on a connection that is made again whenever it breaks. Every call is bounded: what changes something by 25 s,
//! what reads by 10 s, a Reload by 60 s. While nobody subscribes, the one thing listened to is whether systemd itself comes or goes.

mod acts;
mod begin;
mod capture;
pub mod command_line;
mod dependents;
mod dropins;
mod ears;
mod faults;
mod full;
mod held;
mod hints;
mod hooks;
mod jobs;
mod later;
mod link;
mod look;
mod names;
mod properties;
mod proxies;
mod timers;

use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use tokio::sync::OnceCell;
use tokio::task::AbortHandle;
use tokio::time::Instant;

pub use acts::Killed;
pub use dropins::DROP_IN;
pub use hints::{Hint, Hints};
pub use look::ReadCgroup;

use crate::core::effect::Fault;
use crate::core::time::Now;
use held::HeldFor;
use link::{Link, Listening};
use properties::Memory;

/// For a call that changes something.
const ACT: Duration = Duration::from_secs(25);
/// For a call that reads.
const READ: Duration = Duration::from_secs(10);
/// Calls in flight, where there are many to make.
const AT_ONCE: usize = 16;

/// Where the bus and systemd's files are. The default is a host's own.
#[derive(Debug, Clone)]
pub struct Places {
    /// A D-Bus address, such as `unix:path=/run/dbus/system_bus_socket`; `None`: the system bus.
    pub bus: Option<String>,
    /// Where drop-ins are written.
    pub drop_ins: PathBuf,
    /// Where systemd exports the InvocationID of what runs, as links `invocation:UNIT`.
    pub invocations: PathBuf,
    /// Beside an agent that may be at work: its commands are left alone, and ours have another name.
    pub look_only: bool,
}

impl Default for Places {
    fn default() -> Self {
        Places { bus: None, drop_ins: "/run/systemd/system".into(), invocations: "/run/systemd/units".into(), look_only: false }
    }
}

/// Names hooks so that no name is used twice, by this run of the agent or another.
#[derive(Debug)]
struct Serial {
    name: String,
    count: AtomicU64,
    /// Done before the first hook: see [`Systemd::run`].
    others_ended: OnceCell<()>,
}

/// A handle on systemd. Dropping it ends the connection.
#[derive(Debug)]
pub struct Systemd {
    link: Arc<Link>,
    places: Places,
    memory: Mutex<Memory>,
    /// Held from [`Systemd::subscribe`] to [`Systemd::unsubscribe`].
    subscribed: Mutex<Option<Listening>>,
    hooks: Serial,
    keeper: AbortHandle,
}

impl Drop for Systemd {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Systemd {
    /// Starts to connect, and to keep connected, in the tokio runtime of the caller. `now` goes into the names of
    /// hooks. There is one taker of hints.
    #[must_use]
    pub fn connect(places: Places, now: Now) -> (Systemd, Hints) {
        let link = Link::new(places.bus.clone());
        let hints = Hints(Arc::clone(&link.hints));
        let keeper = tokio::spawn(Arc::clone(&link).keep()).abort_handle();
        let hooks =
            Serial { name: format!("{}-{}", std::process::id(), now.mono.0), count: AtomicU64::new(0), others_ended: OnceCell::new() };
        let systemd = Systemd { link, places, memory: Mutex::default(), subscribed: Mutex::new(None), hooks, keeper };
        (systemd, hints)
    }

    /// Whether there is a connection at this moment.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.link.is_live()
    }

    /// From now on [`Hint::JobRemoved`] comes for every unit's jobs, also over a new connection. A second call changes nothing.
    pub fn subscribe(&self) {
        let mut subscribed = self.subscribed.lock().unwrap_or_else(PoisonError::into_inner);
        if subscribed.is_none() {
            *subscribed = Some(self.link.want());
        }
    }

    /// The end of [`Systemd::subscribe`], for the end of a rollout: nothing but systemd's own coming and going is listened to, and units that
    /// were kept loaded since they were stopped may be unloaded. Does not wait for that: whoever calls this may be the one who has to let the calls
    /// go on that are in flight.
    pub fn unsubscribe(&self) {
        drop(self.subscribed.lock().unwrap_or_else(PoisonError::into_inner).take());
        let units = self.link.take_held(HeldFor::Rollout);
        let link = Arc::clone(&self.link);
        tokio::spawn(async move {
            let deadline = Instant::now() + READ;
            let let_go = |unit: String| {
                let link = &link;
                async move { link.unref(&unit, deadline).await }
            };
            futures_util::stream::iter(units).for_each_concurrent(AT_ONCE, let_go).await;
        });
    }

    /// Waits until there is a connection.
    ///
    /// # Errors
    /// [`Fault::Unreachable`] if there is none within `within`.
    pub async fn connected(&self, within: Duration) -> Result<(), Fault> {
        self.link.live(Instant::now() + within).await.map(drop)
    }
}
