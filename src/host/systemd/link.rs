//! The connection to systemd: made again whenever it breaks, quiet while nothing is to be heard, and bounded in every wait.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};
use zbus::proxy::CacheProperties;
use zbus::{Connection, OwnedVariant, connection};

use super::ears::{Ears, Heard, Owner};
use super::faults::{fault, is_transient};
use super::held::Held;
use super::hints::HintBox;
use super::jobs::Ledger;
use super::proxies::{ManagerProxy, SYSTEMD};
use crate::core::effect::Fault;

/// Pause before another attempt: doubled from the first to the second. A bus that was restarted is back after 60 to 300 ms (facts F5.3).
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// For connecting and for what is set up on a new connection.
const SETUP: Duration = Duration::from_secs(10);
/// For the bus itself to answer, when systemd did not.
const BUS_ALIVE: Duration = Duration::from_secs(3);
/// Calls in flight. dbus-daemon refuses the 129th of one connection ("maximum number of pending replies").
const IN_FLIGHT: usize = 64;

/// A connection that works, as far as is known.
#[derive(Debug, Clone)]
pub(super) struct Live {
    pub conn: Connection,
    pub manager: ManagerProxy<'static>,
    /// systemd's signals are coming in.
    listening: bool,
}

impl Live {
    /// One property of one object, by path: a unit that is not loaded is loaded by asking. No proxy is made for it, which would ask the bus who
    /// systemd is, and to be told of changes of that, for each object.
    pub(super) async fn property(&self, path: &str, interface: &str, property: &str) -> zbus::Result<OwnedVariant> {
        let answer =
            self.conn.call_method(Some(SYSTEMD), path, Some("org.freedesktop.DBus.Properties"), "Get", &(interface, property)).await?;
        answer.body().deserialize()
    }
}

/// What the keeper of the connection shares with those who use it.
#[derive(Debug)]
pub(super) struct Link {
    address: Option<String>,
    live: watch::Sender<Option<Live>>,
    /// How many want to hear systemd's signals.
    listeners: watch::Sender<usize>,
    in_flight: Semaphore,
    /// A call timed out: is the bus still there?
    doubt: Notify,
    pub ledger: Ledger,
    pub hints: Arc<HintBox>,
    pub held: Held,
}

/// While one of these exists, systemd's signals come in.
#[derive(Debug)]
pub(super) struct Listening(Arc<Link>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.listeners.send_modify(|count| *count = count.saturating_sub(1));
    }
}

impl Link {
    pub(super) fn new(address: Option<String>) -> Arc<Link> {
        Arc::new(Link {
            address,
            live: watch::Sender::new(None),
            listeners: watch::Sender::new(0),
            in_flight: Semaphore::new(IN_FLIGHT),
            doubt: Notify::new(),
            ledger: Ledger::default(),
            hints: Arc::new(HintBox::default()),
            held: Held::default(),
        })
    }

    /// Keeps the connection for ever: connects, serves until it breaks, connects again.
    pub(super) async fn keep(self: Arc<Self>) {
        let mut pause = BACKOFF.0;
        let mut again = false;
        loop {
            let error = match timeout(SETUP, self.connect()).await {
                Ok(Ok((conn, owner))) => {
                    pause = BACKOFF.0;
                    let Err(error) = self.serve(&conn, owner, &mut again).await;
                    self.live.send_replace(None);
                    // Not awaited for long: a broken socket has nothing to say goodbye to.
                    let _ = timeout(BUS_ALIVE, conn.close()).await;
                    error
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no answer while connecting".to_owned(),
            };
            tracing::debug!(error, "no connection to the system bus");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    async fn connect(&self) -> zbus::Result<(Connection, Owner)> {
        let builder = match &self.address {
            Some(address) => connection::Builder::address(address.as_str()),
            None => connection::Builder::system(),
        };
        let conn = builder.build().await?;
        let owner = Owner::watch(&conn).await?;
        Ok((conn, owner))
    }

    /// Serves one connection until it breaks; the error says how it broke.
    async fn serve(&self, conn: &Connection, mut owner: Owner, again: &mut bool) -> Result<Infallible, String> {
        let manager = ManagerProxy::builder(conn).cache_properties(CacheProperties::No).build().await.map_err(|e| e.to_string())?;
        let mut listeners = self.listeners.subscribe();
        let mut ears: Option<Ears> = None;
        let mut look_again = std::mem::replace(again, true);
        let mut is_new = true;
        loop {
            if owner.is_known() && std::mem::replace(&mut is_new, false) {
                self.hold_again(&manager).await;
            }
            let wanted = *listeners.borrow_and_update() > 0;
            if wanted && ears.is_none() && owner.is_known() {
                ears = Some(
                    timeout(SETUP, Ears::open(conn, &manager)).await.map_err(|_| "no answer to Subscribe")?.map_err(|e| e.to_string())?,
                );
            } else if !wanted && let Some(ears) = ears.take() {
                let _ = timeout(SETUP, ears.close(&manager)).await;
            }
            let systemd_is_new = std::mem::replace(&mut look_again, false);
            self.publish(Live { conn: conn.clone(), manager: manager.clone(), listening: ears.is_some() }, systemd_is_new);
            if systemd_is_new {
                self.hints.look_again();
            }
            if self.hear(conn, &mut owner, &mut ears, &mut listeners).await? && owner.is_known() {
                look_again = true;
                if ears.is_some() {
                    // The subscription survives a re-execution (facts F5.2); asking again is no harm.
                    let _ = timeout(SETUP, manager.subscribe()).await;
                }
            }
        }
    }

    /// Tells those who wait for a connection; only if something has changed, since each of them looks again.
    fn publish(&self, new: Live, systemd_is_new: bool) {
        self.live.send_if_modified(|live| {
            let same =
                live.as_ref().is_some_and(|live| live.listening == new.listening && live.conn.unique_name() == new.conn.unique_name());
            if !same {
                *live = Some(new);
            }
            !same || systemd_is_new
        });
    }

    /// Takes in what comes, until something calls for a change of what is listened to; true if systemd left the bus or came back to it.
    async fn hear(
        &self,
        conn: &Connection,
        owner: &mut Owner,
        ears: &mut Option<Ears>,
        listeners: &mut watch::Receiver<usize>,
    ) -> Result<bool, String> {
        loop {
            tokio::select! {
                // A change of owner came in before the first signal of the new owner: take them in that order.
                biased;
                changed = owner.changed() => {
                    changed?;
                    return Ok(true);
                }
                message = Ears::next(ears) => match owner.understand(&message?) {
                    Heard::JobRemoved { id, unit, end } => {
                        self.ledger.removed(id, &unit, end);
                        self.hints.job_removed(&unit);
                    }
                    Heard::Reloaded => self.hints.look_again(),
                    Heard::Nothing => {}
                },
                _ = listeners.changed() => return Ok(false),
                () = self.doubt.notified() => {
                    let alive = conn.call_method(Some("org.freedesktop.DBus"), "/org/freedesktop/DBus", Some("org.freedesktop.DBus"), "GetId", &());
                    if !matches!(timeout(BUS_ALIVE, alive).await, Ok(Ok(_))) {
                        return Err("the bus has stopped answering".to_owned());
                    }
                }
            }
        }
    }

    /// A working connection, as soon as there is one.
    ///
    /// # Errors
    /// [`Fault::Unreachable`] if there is none by `deadline`.
    pub(super) async fn live(&self, deadline: Instant) -> Result<Live, Fault> {
        self.until(deadline, |_| true).await
    }

    pub(super) fn is_live(&self) -> bool {
        self.live.borrow().is_some()
    }

    /// Hear systemd's signals from now on, for as long as the answer is kept.
    ///
    /// # Errors
    /// [`Fault::Unreachable`] if that cannot be had by `deadline`.
    pub(super) async fn listen(self: &Arc<Self>, deadline: Instant) -> Result<Listening, Fault> {
        let listening = self.want();
        self.until(deadline, |live| live.listening).await?;
        Ok(listening)
    }

    /// As [`Link::listen`], without waiting for it.
    pub(super) fn want(self: &Arc<Self>) -> Listening {
        self.listeners.send_modify(|count| *count += 1);
        Listening(Arc::clone(self))
    }

    async fn until(&self, deadline: Instant, good: impl Fn(&Live) -> bool) -> Result<Live, Fault> {
        let mut changes = self.live.subscribe();
        let found = timeout_at(deadline, changes.wait_for(|live| live.as_ref().is_some_and(&good))).await;
        match found {
            Ok(Ok(live)) => live.clone().ok_or_else(no_bus),
            _ => Err(no_bus()),
        }
    }

    /// Returns when the connection was lost or made, at the latest at `until`.
    pub(super) async fn change(&self, until: Instant) {
        let mut changes = self.live.subscribe();
        let _ = timeout_at(until, changes.changed()).await;
    }

    /// One call that can be made twice without harm: tried again while the bus or systemd is away.
    ///
    /// # Errors
    /// The call's fault; [`Fault::Unreachable`] if there is no answer within `within`. `what` completes "cannot …".
    pub(super) async fn call<T, F>(&self, what: &str, within: Duration, op: impl Fn(Live) -> F) -> Result<T, Fault>
    where
        F: Future<Output = zbus::Result<T>>,
    {
        self.answer(what, within, op).await.map_err(|error| error.into_fault(what))
    }

    /// As [`Link::call`], with the answer as it came.
    pub(super) async fn answer<T, F>(&self, what: &str, within: Duration, op: impl Fn(Live) -> F) -> Result<T, CallError>
    where
        F: Future<Output = zbus::Result<T>>,
    {
        self.answers(1, what, within, op).await
    }

    /// As [`Link::answer`], where `op` makes that many calls at once.
    pub(super) async fn answers<T, F>(&self, calls: u32, what: &str, within: Duration, op: impl Fn(Live) -> F) -> Result<T, CallError>
    where
        F: Future<Output = zbus::Result<T>>,
    {
        let deadline = Instant::now() + within;
        let mut pause = BACKOFF.0;
        loop {
            let error = match self.attempt(calls, what, deadline, &op).await {
                Err(CallError::Cut(error)) => error,
                other => return other,
            };
            let next = Instant::now() + pause;
            if next >= deadline {
                return Err(CallError::Cut(error));
            }
            self.change(next).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    /// One call, made once: [`CallError::Cut`] means that it may have been carried out.
    pub(super) async fn once<T, F>(&self, what: &str, deadline: Instant, op: impl Fn(Live) -> F) -> Result<T, CallError>
    where
        F: Future<Output = zbus::Result<T>>,
    {
        self.attempt(1, what, deadline, &op).await
    }

    async fn attempt<T, F>(&self, calls: u32, what: &str, deadline: Instant, op: &impl Fn(Live) -> F) -> Result<T, CallError>
    where
        F: Future<Output = zbus::Result<T>>,
    {
        let live = self.live(deadline).await.map_err(CallError::Silence)?;
        let answer = timeout_at(deadline, async {
            let _permit = self.in_flight.acquire_many(calls).await;
            op(live).await
        });
        match answer.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) if is_transient(&error) => Err(CallError::Cut(error)),
            Ok(Err(error)) => Err(CallError::Answer(error)),
            Err(_) => {
                self.doubt.notify_one();
                Err(CallError::Silence(Fault::Unreachable(format!("cannot {what}: systemd has not answered in time; it may still do it"))))
            }
        }
    }
}

/// Why a call has no good answer.
#[derive(Debug)]
pub(super) enum CallError {
    /// systemd said no.
    Answer(zbus::Error),
    /// The connection broke: it may have been carried out.
    Cut(zbus::Error),
    /// No connection, or no answer, in time.
    Silence(Fault),
}

impl CallError {
    /// For people. `what` completes "cannot …".
    pub(super) fn into_fault(self, what: &str) -> Fault {
        match self {
            CallError::Answer(error) | CallError::Cut(error) => fault(what, &error),
            CallError::Silence(fault) => fault,
        }
    }
}

fn no_bus() -> Fault {
    Fault::Unreachable(format!("no connection to {SYSTEMD} on the system bus; the agent keeps trying"))
}
