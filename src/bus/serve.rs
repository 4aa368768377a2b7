//! The server's half: one object, served again on a new connection whenever the bus goes away (facts F5.3).

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use zbus::message::Header;
use zbus::object_server::SignalEmitter;
use zbus::{Connection, fdo};

use super::allowed::allowed;
use super::client::{NAME, PATH, REFUSED, WaitAnswer, WaitResult};
use crate::core::Waited;
use crate::core::deploy::printable;
use crate::core::event::{Answer, Order};
use crate::core::status::StatusView;
use crate::core::time::Wall;
use crate::engine::daemon::Handle;
use crate::engine::{Request, Stimulus};

/// Pauses between two tries to get onto the bus.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// The longest that one call of Wait may last: callers ask again.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// For the engine to answer an order: it writes to the disk first.
const ORDER_TIMEOUT: Duration = Duration::from_secs(12);
const PLAN_TIMEOUT: Duration = Duration::from_secs(60);

/// What a caller is told when an order is not taken.
#[derive(Debug)]
enum OrderError {
    Denied,
    Refused(String),
}

/// By hand: a derived one knows no name outside of its prefix, and for "denied" there is a name that everybody knows.
impl zbus::DBusError for OrderError {
    fn create_reply(&self, call: &Header<'_>) -> zbus::Result<zbus::Message> {
        zbus::Message::error(call, self.name()).build(&(self.description().unwrap_or_default(),))
    }

    fn name(&self) -> zbus::names::ErrorName<'_> {
        zbus::names::ErrorName::from_static_str_unchecked(match self {
            OrderError::Denied => "org.freedesktop.DBus.Error.AccessDenied",
            OrderError::Refused(_) => REFUSED,
        })
    }

    fn description(&self) -> Option<&str> {
        Some(match self {
            OrderError::Denied => "this is root's: use sudo",
            OrderError::Refused(why) => why,
        })
    }
}

/// Serves the agent's object as long as the daemon runs. `address`: `None` for the system bus.
pub async fn serve(handle: Handle, address: Option<String>) {
    let mut pause = BACKOFF.0;
    loop {
        match connect(&handle, address.as_deref()).await {
            Ok(connection) => {
                pause = BACKOFF.0;
                tell_until_gone(&connection, handle.clone()).await;
                tracing::warn!("the bus has gone away; serving again when it is back");
            }
            Err(error) => tracing::warn!(%error, "cannot serve {NAME}"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}

async fn connect(handle: &Handle, address: Option<&str>) -> zbus::Result<Connection> {
    let builder = match address {
        Some(address) => zbus::connection::Builder::address(address),
        None => zbus::connection::Builder::system(),
    };
    let agent = Agent { handle: handle.clone() };
    tokio::time::timeout(Duration::from_secs(10), builder.serve_at(PATH, agent).name(NAME).build())
        .await
        .map_err(|_| zbus::Error::Failure("the bus does not answer".to_owned()))?
}

/// Emits RolloutFinished, until the connection ends.
async fn tell_until_gone(connection: &Connection, mut handle: Handle) {
    let mut told = finished(handle.view.borrow().as_deref());
    let mut closed = std::pin::pin!(gone(connection));
    loop {
        tokio::select! {
            () = &mut closed => return,
            changed = handle.view.changed() => {
                if changed.is_err() {
                    return;
                }
                let now = finished(handle.view.borrow_and_update().as_deref());
                if now != told && let (Some((id, deploy, result)), Ok(emitter)) = (&now, SignalEmitter::new(connection, PATH)) {
                    let _ = Agent::rollout_finished(&emitter, id, deploy, result).await;
                }
                told = now;
            }
        }
    }
}

async fn gone(connection: &Connection) {
    use futures_util::StreamExt;
    let mut messages = zbus::MessageStream::from(connection);
    while let Some(Ok(_)) = messages.next().await {}
}

fn finished(view: Option<&StatusView>) -> Option<(String, String, String)> {
    let rollout = view?.last_rollout.as_ref()?;
    let result = rollout.result?;
    Some((rollout.id.clone(), rollout.deploy.clone(), word(&result)))
}

/// The contract's word of a value that has one.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        _ => String::new(),
    }
}

struct Agent {
    handle: Handle,
}

#[zbus::interface(name = "org.wikimedia.RestartAgent1")]
impl Agent {
    /// What a deploy right now would do, as JSON. Changes nothing. Root's, as the orders are.
    async fn plan(&self, #[zbus(header)] header: Header<'_>, #[zbus(connection)] connection: &Connection) -> Result<String, OrderError> {
        permit(&header, connection).await?;
        let (reply, answer) = oneshot::channel();
        let plan = self.ask(Request::Plan { reply }, answer, PLAN_TIMEOUT).await?;
        serde_json::to_string(&plan).map_err(|error| OrderError::Refused(error.to_string()))
    }

    /// Waits until a deploy is converged here, or cannot be; at most an hour. JSON: `result` (`converged`, `failed`, `blocked`,
    /// `timeout`), `why`, `id`, `default_timeout_ms`. The deploy is the one named, or a newer one; with an empty id the one whose stamp has
    /// this ctime (microseconds since 1970), or a newer one; with neither ("", 0) the newest.
    async fn wait(&self, stamp_ctime_usec: u64, deploy_id: &str, timeout_usec: u64) -> Result<String, OrderError> {
        let (reply, answer) = oneshot::channel();
        let within = Duration::from_micros(timeout_usec).min(LONGEST_WAIT);
        let stamp = Some(stamp_ctime_usec).filter(|ctime| *ctime > 0).and_then(|ctime| i64::try_from(ctime).ok()).map(Wall);
        let id = Some(deploy_id.to_owned()).filter(|id| !id.is_empty());
        let end = self.ask(Request::Wait { stamp, id, within, reply }, answer, within + ORDER_TIMEOUT).await?;
        let default_timeout_ms = u64::try_from(end.default_timeout.as_millis()).ok();
        let (result, id, why) = match end.how {
            Waited::Converged { id } => (WaitResult::Converged, Some(id), None),
            Waited::Failed { id, why } => (WaitResult::Failed, Some(id), Some(why)),
            Waited::Blocked { id, why } => (WaitResult::Blocked, Some(id), Some(why)),
            Waited::Pending { why } => (WaitResult::Timeout, None, Some(why)),
        };
        let answer = WaitAnswer { result, why, id, default_timeout_ms };
        serde_json::to_string(&answer).map_err(|error| OrderError::Refused(error.to_string()))
    }

    /// A rollout without a change of the stamp; no targets mean all. A sentence when it is in the journal.
    async fn trigger(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        force: bool,
        override_hold: bool,
        targets: Vec<String>,
        reason: &str,
    ) -> Result<String, OrderError> {
        let order = Order::Trigger { force, override_hold, targets: some_targets(targets), reason: some(reason) };
        self.order(&header, connection, order).await
    }

    /// No restarts for so long, at least a second, or until released; no targets mean all. A sentence when it is in the journal.
    async fn hold(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        reason: &str,
        span_usec: u64,
        targets: Vec<String>,
    ) -> Result<String, OrderError> {
        let Some(reason) = some(reason) else {
            return Err(OrderError::Refused("a hold needs a reason: others will want to know".to_owned()));
        };
        if span_usec < 1_000_000 {
            return Err(OrderError::Refused("a hold lasts at least 1s; to end one, release it".to_owned()));
        }
        let order = Order::Hold { reason, span: Duration::from_micros(span_usec), targets: some_targets(targets) };
        self.order(&header, connection, order).await
    }

    /// Ends the hold. A sentence when that is in the journal.
    async fn release(&self, #[zbus(header)] header: Header<'_>, #[zbus(connection)] connection: &Connection) -> Result<String, OrderError> {
        self.order(&header, connection, Order::Release).await
    }

    /// Gives up the current rollout at its next safe point, and holds for an hour. A sentence when that is in the journal.
    async fn abort(
        &self,
        #[zbus(header)] header: Header<'_>,
        #[zbus(connection)] connection: &Connection,
        reason: &str,
    ) -> Result<String, OrderError> {
        self.order(&header, connection, Order::Abort { reason: some(reason) }).await
    }

    /// A rollout has ended: its id, its deploy, and `converged`, `failed`, `aborted` or `superseded`.
    #[zbus(signal)]
    async fn rollout_finished(emitter: &SignalEmitter<'_>, id: &str, deploy: &str, result: &str) -> zbus::Result<()>;

    /// `idle`, `converged`, `converging`, `held`, `blocked` or `failed`.
    #[zbus(property(emits_changed_signal = "false"))]
    fn state(&self) -> String {
        self.view().map(|view| word(&view.state)).unwrap_or_default()
    }

    /// The id of the newest deploy; empty if there was none.
    #[zbus(property(emits_changed_signal = "false"))]
    fn deploy_id(&self) -> String {
        self.view().and_then(|view| view.stamp.id.clone()).unwrap_or_default()
    }

    /// The id of the newest deploy that this host has converged for; empty if there was none.
    #[zbus(property(emits_changed_signal = "false"))]
    fn reached(&self) -> String {
        self.view().and_then(|view| view.reached.as_ref().map(|reached| reached.id.clone())).unwrap_or_default()
    }

    /// What the agent waits for; empty if for nothing.
    #[zbus(property(emits_changed_signal = "false"))]
    fn waiting_for(&self) -> String {
        self.view().and_then(|view| view.waiting_for.clone()).unwrap_or_default()
    }

    /// Microseconds since 1970; 0 if there is none.
    #[zbus(property(emits_changed_signal = "false"))]
    fn deadline(&self) -> u64 {
        self.view().and_then(|view| view.deadline).and_then(|deadline| u64::try_from(deadline.0).ok()).unwrap_or(0)
    }

    /// Name, kind, state and why of each target.
    #[zbus(property(emits_changed_signal = "false"))]
    fn targets(&self) -> Vec<(String, String, String, String)> {
        let view = self.view();
        let targets = view.iter().flat_map(|view| view.targets.iter());
        targets.map(|target| (target.name.clone(), target.kind.clone(), target.state.word().to_owned(), target.why.clone())).collect()
    }
}

impl Agent {
    fn view(&self) -> Option<Arc<StatusView>> {
        self.handle.view.borrow().clone()
    }

    async fn ask<T>(&self, request: Request, answer: oneshot::Receiver<T>, within: Duration) -> Result<T, OrderError> {
        let busy = || OrderError::Refused("the agent is too busy to answer: try again".to_owned());
        let stimuli: &mpsc::Sender<Stimulus> = &self.handle.stimuli;
        let asking = async {
            stimuli.send(Stimulus::Request(request)).await.map_err(|_| OrderError::Refused("the agent is ending".to_owned()))?;
            answer.await.map_err(|_| OrderError::Refused("the agent is ending".to_owned()))
        };
        tokio::time::timeout(within, asking).await.map_err(|_| busy())?
    }

    async fn order(&self, header: &Header<'_>, connection: &Connection, order: Order) -> Result<String, OrderError> {
        permit(header, connection).await?;
        let by = caller(header, connection).await;
        let (reply, answer) = oneshot::channel();
        match self.ask(Request::Order { by, order, reply }, answer, ORDER_TIMEOUT).await? {
            Answer::Accepted(sentence) => Ok(sentence),
            Answer::Refused(why) => Err(OrderError::Refused(why)),
        }
    }
}

async fn permit(header: &Header<'_>, connection: &Connection) -> Result<(), OrderError> {
    if allowed(header, connection).await {
        return Ok(());
    }
    Err(OrderError::Denied)
}

/// Who calls, as the bus knows it: user and process.
async fn caller(header: &Header<'_>, connection: &Connection) -> String {
    let Some(sender) = header.sender() else { return "unknown".to_owned() };
    let asked = async {
        let bus = fdo::DBusProxy::new(connection).await.ok()?;
        bus.get_connection_credentials(sender.to_owned().into()).await.ok()
    };
    let Ok(Some(credentials)) = tokio::time::timeout(Duration::from_secs(2), asked).await else { return "unknown".to_owned() };
    let uid = credentials.unix_user_id();
    let name = uid.and_then(|uid| nix::unistd::User::from_uid(uid.into()).ok().flatten()).map(|user| user.name);
    let who = name.or(uid.map(|uid| format!("uid {uid}"))).unwrap_or_else(|| "unknown".to_owned());
    match credentials.process_id() {
        Some(pid) => format!("{who} ({}pid {pid})", login_of(pid)),
        None => who,
    }
}

/// Behind sudo: the user who logged in.
fn login_of(pid: u32) -> String {
    let login = std::fs::read_to_string(format!("/proc/{pid}/loginuid")).ok().and_then(|uid| uid.trim().parse::<u32>().ok());
    let name = login.filter(|uid| *uid != u32::MAX).and_then(|uid| nix::unistd::User::from_uid(uid.into()).ok().flatten());
    name.map(|user| format!("login {}, ", user.name)).unwrap_or_default()
}

fn some(text: &str) -> Option<String> {
    Some(printable(text, 500)).filter(|text| !text.is_empty())
}

fn some_targets(targets: Vec<String>) -> Option<std::collections::BTreeSet<String>> {
    (!targets.is_empty()).then(|| targets.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use tokio::sync::watch;
    use zbus::object_server::Interface;

    use super::*;

    #[test]
    fn the_interface_is_the_one_in_the_file() {
        let handle = Handle { stimuli: mpsc::channel(1).0, view: watch::channel(None).1 };
        let mut made = String::from(
            "<!DOCTYPE node PUBLIC \"-//freedesktop//DTD D-BUS Object Introspection 1.0//EN\"\n \
             \"http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd\">\n\
             <!-- Made by `UPDATE=1 cargo test --lib bus::`; a test compares it. -->\n<node>\n",
        );
        Agent { handle }.introspect_to_writer(&mut made, 2);
        made.push_str("</node>\n");
        let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("units/org.wikimedia.RestartAgent1.xml");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&committed, &made).unwrap();
        }
        let there = std::fs::read_to_string(&committed).unwrap_or_default();
        assert!(there == made, "units/org.wikimedia.RestartAgent1.xml is out of date: UPDATE=1 cargo test --lib bus::");
    }
}
