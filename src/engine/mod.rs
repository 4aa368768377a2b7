//! The only loop: next event or deadline or signal → core → write the intent → perform → write the outcome.
//!
//! It decides nothing. What it touches is behind two traits, [`World`] and [`Journal`]; the real ones are [`host`](crate::host) and
//! [`store`](crate::store), put together in [`daemon`].

pub mod daemon;
pub mod doctor;
mod log;
mod plan;
mod publish;
mod run;
mod waiters;
mod world;

use std::time::Duration;

use tokio::sync::oneshot;

use crate::core::event::{Answer, Order};
use crate::core::status::PlanView;
use crate::core::time::Wall;

pub use run::{Engine, Parts};
pub use waiters::WaitEnd;
pub use world::{Journal, RealWorld, World};

/// What comes in from outside the machine's own effects.
#[derive(Debug)]
pub enum Stimulus {
    /// Something changed near the stamp: a hint.
    Stamp,
    /// Something changed where generations of php-fpm listen: a hint.
    Sockets,
    /// systemd removed a job of this unit: a hint.
    JobRemoved {
        unit: String,
    },
    /// Whatever was known of systemd may be wrong: a hint.
    LookAgain,
    /// Read the configuration again.
    Reload,
    /// End. What is owed is in the journal.
    Stop,
    Request(Request),
}

/// What somebody asks through the bus.
#[derive(Debug)]
pub enum Request {
    /// `by`: who, for the journal. Answered when it is on the disk.
    Order {
        by: String,
        order: Order,
        reply: oneshot::Sender<Answer>,
    },
    /// Answered when the newest deploy, or the one named, is converged or cannot be; at the latest after `within`.
    Wait {
        stamp: Option<Wall>,
        id: Option<String>,
        within: Duration,
        reply: oneshot::Sender<WaitEnd>,
    },
    Plan {
        reply: oneshot::Sender<PlanView>,
    },
}
