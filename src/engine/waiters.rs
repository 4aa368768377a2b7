//! Those who wait for a deploy: `restart-agent wait`, through the bus.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::core::Waited;
use crate::core::machine::Machine;
use crate::core::time::{Mono, Wall};

/// How a wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitEnd {
    /// [`Waited::Pending`]: the time that was given has passed.
    pub how: Waited,
    /// What the rules allow from now on, and a minute.
    pub default_timeout: Duration,
}

/// More at once are answered at once: each holds a little memory.
const MOST: usize = 1000;

#[derive(Debug, Default)]
pub(super) struct Waiters(Vec<Waiter>);

#[derive(Debug)]
struct Waiter {
    stamp: Option<Wall>,
    id: Option<String>,
    until: Mono,
    reply: oneshot::Sender<WaitEnd>,
}

impl Waiters {
    pub fn add(&mut self, stamp: Option<Wall>, id: Option<String>, until: Mono, reply: oneshot::Sender<WaitEnd>) {
        let until = if self.0.len() >= MOST { Mono::BOOT } else { until };
        self.0.push(Waiter { stamp, id, until, reply });
    }

    /// Answers all whose wait is over. `newest`: the ctime of the stamp as it was last read.
    pub fn answer(&mut self, machine: &Machine, now: Mono, newest: Option<Wall>) {
        let default_timeout = machine.longest() + Duration::from_secs(60);
        for waiter in std::mem::take(&mut self.0) {
            let unseen = waiter.stamp.is_some_and(|stamp| newest.is_none_or(|newest| newest < stamp));
            let how = if unseen && machine.unusable_stamp().is_none() && machine.policy().unusable.is_none() {
                Waited::Pending { why: "the agent has not seen this stamp: is it the one that its configuration names?".to_owned() }
            } else {
                machine.waited(waiter.id.as_deref())
            };
            let pending = matches!(how, Waited::Pending { .. });
            if waiter.reply.is_closed() {
                continue;
            }
            if pending && now < waiter.until {
                self.0.push(waiter);
            } else {
                // Who asked may have gone meanwhile.
                let _ = waiter.reply.send(WaitEnd { how, default_timeout });
            }
        }
    }

    pub fn any(&self) -> bool {
        !self.0.is_empty()
    }

    pub fn next(&self) -> Option<Mono> {
        self.0.iter().map(|waiter| waiter.until).min()
    }
}
