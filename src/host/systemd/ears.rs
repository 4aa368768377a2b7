//! What is listened to on the bus: who systemd is, always; its JobRemoved and Reloading, while somebody wants them.
//!
//! Signals can be forged by anybody who knows our address on the bus, so those that do not come from systemd are dropped.

use std::num::NonZeroUsize;

use futures_util::StreamExt;
use zbus::message::Type;
use zbus::{Connection, MatchRule, Message, MessageStream, OwnedObjectPath};

use super::faults::is_transient;
use super::proxies::{MANAGER, MANAGER_PATH, ManagerProxy, SYSTEMD};
use crate::core::effect::JobEnd;

const BUS: &str = "org.freedesktop.DBus";
/// Signals that may wait for us; beyond it the whole connection waits. A rollout of 500 units ends some 1,000 jobs in a few seconds.
const QUEUE: NonZeroUsize = NonZeroUsize::new(1024).unwrap();
const SMALL_QUEUE: NonZeroUsize = NonZeroUsize::new(16).unwrap();

/// Follows which connection on the bus is systemd: a new one after it re-executed (facts F5.2).
#[derive(Debug)]
pub(super) struct Owner {
    changes: MessageStream,
    name: Option<String>,
}

impl Owner {
    pub(super) async fn watch(conn: &Connection) -> zbus::Result<Owner> {
        let rule =
            MatchRule::builder().msg_type(Type::Signal).sender(BUS).interface(BUS).member("NameOwnerChanged").add_arg(SYSTEMD).build()?;
        let changes = MessageStream::for_match_rule(rule, conn, Some(SMALL_QUEUE)).await?;
        let name = match conn.call_method(Some(BUS), "/org/freedesktop/DBus", Some(BUS), "GetNameOwner", &SYSTEMD).await {
            Ok(answer) => Some(answer.body().deserialize::<String>()?),
            // A bus that has just been restarted: systemd will be there in a moment.
            Err(zbus::Error::FDO(error)) if matches!(*error, zbus::fdo::Error::NameHasNoOwner(_)) => None,
            Err(error) => return Err(error),
        };
        Ok(Owner { changes, name })
    }

    pub(super) fn is_known(&self) -> bool {
        self.name.is_some()
    }

    /// What a signal says, if it is systemd's.
    pub(super) fn understand(&self, message: &Message) -> Heard {
        let header = message.header();
        if !matches!((header.sender(), &self.name), (Some(sender), Some(name)) if sender.as_str() == name) {
            return Heard::Nothing;
        }
        match header.member().map(|member| member.as_str()) {
            Some("JobRemoved") => match message.body().deserialize::<(u32, OwnedObjectPath, String, String)>() {
                Ok((id, _, unit, result)) => Heard::JobRemoved { id, unit, end: job_end(&result) },
                Err(_) => Heard::Nothing,
            },
            Some("Reloading") if message.body().deserialize::<bool>().is_ok_and(|reloading| !reloading) => Heard::Reloaded,
            _ => Heard::Nothing,
        }
    }

    /// Returns when systemd has left the bus or is on it again. Safe to cancel.
    pub(super) async fn changed(&mut self) -> Result<(), String> {
        loop {
            let message = received(self.changes.next().await)?;
            if message.header().sender().is_none_or(|sender| sender.as_str() != BUS) {
                continue;
            }
            if let Ok((name, _, new)) = message.body().deserialize::<(String, String, String)>()
                && name == SYSTEMD
            {
                self.name = (!new.is_empty()).then_some(new);
                return Ok(());
            }
        }
    }
}

/// One signal, understood.
#[derive(Debug)]
pub(super) enum Heard {
    JobRemoved {
        id: u32,
        unit: String,
        end: JobEnd,
    },
    /// systemd has finished a daemon-reload.
    Reloaded,
    Nothing,
}

/// systemd's signals.
#[derive(Debug)]
pub(super) struct Ears {
    jobs: MessageStream,
    reloads: MessageStream,
}

impl Ears {
    pub(super) async fn open(conn: &Connection, manager: &ManagerProxy<'static>) -> zbus::Result<Ears> {
        let jobs = MessageStream::for_match_rule(rule("JobRemoved")?, conn, Some(QUEUE)).await?;
        let reloads = MessageStream::for_match_rule(rule("Reloading")?, conn, Some(SMALL_QUEUE)).await?;
        // AlreadySubscribed is as good: a subscription survives a re-execution (facts F4.3, F5.2).
        match manager.subscribe().await {
            Err(error) if is_transient(&error) => Err(error),
            _ => Ok(Ears { jobs, reloads }),
        }
    }

    pub(super) async fn close(self, manager: &ManagerProxy<'static>) {
        let _ = manager.unsubscribe().await;
        zbus::AsyncDrop::async_drop(self.jobs).await;
        zbus::AsyncDrop::async_drop(self.reloads).await;
    }

    /// The next signal, not looked into; waits for ever if nobody listens. Safe to cancel.
    pub(super) async fn next(ears: &mut Option<Ears>) -> Result<Message, String> {
        let Some(ears) = ears else { return std::future::pending().await };
        tokio::select! {
            message = ears.jobs.next() => received(message),
            message = ears.reloads.next() => received(message),
        }
    }
}

fn rule(member: &'static str) -> zbus::Result<MatchRule<'static>> {
    MatchRule::builder().msg_type(Type::Signal).sender(SYSTEMD).interface(MANAGER).path(MANAGER_PATH).member(member).build()
}

fn received(message: Option<zbus::Result<Message>>) -> Result<Message, String> {
    match message {
        Some(Ok(message)) => Ok(message),
        Some(Err(error)) => Err(error.to_string()),
        None => Err("the bus has closed the connection".to_owned()),
    }
}

fn job_end(result: &str) -> JobEnd {
    match result {
        "done" => JobEnd::Done,
        "canceled" => JobEnd::Canceled,
        "failed" => JobEnd::Failed,
        "timeout" => JobEnd::Timeout,
        "dependency" => JobEnd::Dependency,
        "skipped" => JobEnd::Skipped,
        other => JobEnd::Other(other.to_owned()),
    }
}
