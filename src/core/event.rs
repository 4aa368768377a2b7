//! What the machine is told, and the orders that people give.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::deploy::{StampFault, StampSeen};
use super::effect::{EffectId, Outcome};
use super::policy::Policy;

/// Events are hints, state is read (law 4): none of these is trusted for more than "look again", outcomes apart.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The stamp was read, because something changed near it or because time passed.
    Stamp(Result<StampSeen, StampFault>),
    /// A deadline may have passed. Always harmless.
    Tick,
    Outcome(EffectId, Outcome),
    /// Something happened to a symlink of a target of strategy `generations`, or to the socket that it leads to.
    SocketsChanged,
    /// systemd removed a job of this unit.
    JobRemoved {
        unit: String,
    },
    /// The bus came back, systemd reloaded or was re-executed: whatever was known may be wrong.
    LookAgain,
    /// The configuration was read again and is good.
    Policy(Box<Policy>),
    /// The configuration could not be read: the old one stays. `None`: it is good again.
    ConfigProblem(Option<String>),
    /// The journal cannot be written: nothing that acts is begun until it can. `None`: it can again.
    JournalProblem(Option<String>),
    Order {
        by: String,
        order: Order,
    },
}

/// What a person, or a deploy hook, orders through the bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// A rollout without a change of the stamp: what is older than this order is stale.
    Trigger {
        force: bool,
        override_hold: bool,
        targets: Option<BTreeSet<String>>,
        reason: Option<String>,
    },
    Hold {
        reason: String,
        span: Duration,
        targets: Option<BTreeSet<String>>,
    },
    Release,
    /// Give up the running rollout at its next safe point, repool, hold for an hour.
    Abort {
        reason: Option<String>,
    },
}

impl Order {
    /// Its command.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Order::Trigger { force: true, .. } => "trigger --force",
            Order::Trigger { .. } => "trigger",
            Order::Hold { .. } => "hold",
            Order::Release => "release",
            Order::Abort { .. } => "abort",
        }
    }
}

/// What the machine says to an [`Order`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// A sentence for the one who asked. The order is in the journal when this is sent.
    Accepted(String),
    /// Why not, and what to do instead.
    Refused(String),
}
