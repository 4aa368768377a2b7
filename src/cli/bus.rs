//! Calls to the agent over D-Bus, and what their errors mean to the one who typed the command.

use std::time::Duration;

use zbus::proxy::CacheProperties;

use super::args::Places;
use super::exit::Exit;
use super::output::Output;
use crate::bus::client::{AgentProxy, REFUSED};

/// The sentence for an agent that does not answer because it is not there.
pub const NOT_RUNNING: &str = "the agent is not running: systemctl start restart-agent";
/// An order is answered when it is in the journal.
const PATIENCE: Duration = Duration::from_secs(15);

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallFault {
    /// Nobody has the agent's name, or there is no bus, or the connection broke.
    NotRunning,
    /// Somebody has the name and does not answer in time.
    Silent,
    Denied,
    /// The agent's own words.
    Refused(String),
    Other(String),
}

impl From<zbus::Error> for CallFault {
    fn from(error: zbus::Error) -> CallFault {
        match &error {
            zbus::Error::MethodError(name, said, _) => {
                let said = said.clone().unwrap_or_default();
                match name.as_str() {
                    REFUSED => CallFault::Refused(said),
                    "org.freedesktop.DBus.Error.AccessDenied"
                    | "org.freedesktop.DBus.Error.AuthFailed"
                    | "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired" => CallFault::Denied,
                    "org.freedesktop.DBus.Error.ServiceUnknown"
                    | "org.freedesktop.DBus.Error.NameHasNoOwner"
                    | "org.freedesktop.DBus.Error.NoReply"
                    | "org.freedesktop.DBus.Error.Disconnected" => CallFault::NotRunning,
                    "org.freedesktop.DBus.Error.InvalidArgs" => CallFault::Refused(said),
                    other => CallFault::Other(format!("{other}: {said}")),
                }
            }
            zbus::Error::FDO(inner) => match **inner {
                zbus::fdo::Error::AccessDenied(_) | zbus::fdo::Error::AuthFailed(_) => CallFault::Denied,
                zbus::fdo::Error::ServiceUnknown(_) | zbus::fdo::Error::NameHasNoOwner(_) | zbus::fdo::Error::NoReply(_) => {
                    CallFault::NotRunning
                }
                _ => CallFault::Other(error.to_string()),
            },
            zbus::Error::InputOutput(_) | zbus::Error::Connection(..) | zbus::Error::Handshake(_) => CallFault::NotRunning,
            _ => CallFault::Other(error.to_string()),
        }
    }
}

/// The agent's object on a new connection to the system bus.
pub async fn agent(places: &Places) -> Result<AgentProxy<'static>, CallFault> {
    let connection = match &places.bus {
        Some(address) => zbus::connection::Builder::address(address.as_str()).build().await?,
        None => zbus::connection::Builder::system().build().await?,
    };
    Ok(AgentProxy::builder(&connection).cache_properties(CacheProperties::No).build().await?)
}

/// One call within `patience`.
pub async fn within<T>(patience: Duration, call: impl Future<Output = zbus::Result<T>>) -> Result<T, CallFault> {
    match tokio::time::timeout(patience, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(CallFault::Silent),
    }
}

/// Makes one call, or says why not.
pub fn order<T>(
    places: &Places,
    out: &Output,
    patience: Duration,
    call: impl AsyncFnOnce(&AgentProxy<'static>) -> zbus::Result<T>,
) -> Result<T, Exit> {
    let runtime = runtime(out)?;
    let called = runtime.block_on(async {
        let agent = match tokio::time::timeout(patience, agent(places)).await {
            Ok(agent) => agent?,
            Err(_) => return Err(CallFault::NotRunning),
        };
        within(patience, call(&agent)).await
    });
    called.map_err(|fault| said(&fault, out))
}

/// Gives an order and prints the agent's sentence.
pub fn tell(places: &Places, out: &Output, call: impl AsyncFnOnce(&AgentProxy<'static>) -> zbus::Result<String>) -> Exit {
    match order(places, out, PATIENCE, call) {
        Ok(sentence) => {
            out.say(&sentence);
            Exit::Done
        }
        Err(exit) => exit,
    }
}

/// Says what went wrong.
pub fn said(fault: &CallFault, out: &Output) -> Exit {
    match fault {
        CallFault::NotRunning => out.fail(Exit::NotRunning, NOT_RUNNING),
        CallFault::Silent => {
            out.fail(Exit::NotRunning, "the agent does not answer: journalctl -u restart-agent -n 50, then systemctl restart restart-agent")
        }
        CallFault::Denied => out.needs_root(),
        CallFault::Refused(why) => out.fail(Exit::Failed, &format!("refused: {why}")),
        CallFault::Other(error) => out.fail(Exit::Failed, error),
    }
}

/// A runtime for one command.
pub fn runtime(out: &Output) -> Result<tokio::runtime::Runtime, Exit> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| out.fail(Exit::Failed, &format!("cannot start: {error}")))
}
