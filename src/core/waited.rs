//! What `restart-agent wait` is told.

use super::machine::Machine;
use super::pool::Goal;

/// How a deploy stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Waited {
    /// The newest deploy is converged here.
    Converged {
        id: String,
    },
    Failed {
        id: String,
        why: String,
    },
    Blocked {
        id: String,
        why: String,
    },
    Pending {
        why: String,
    },
}

impl Machine {
    /// How it stands for somebody who waits for deploy `id`, or for the newest; right as of the last stamp that was read.
    #[must_use]
    pub fn waited(&self, id: Option<&str>) -> Waited {
        let newest = self.memory.stamp.as_ref().map(|stamp| stamp.deploy.id.clone()).unwrap_or_default();
        if let Some(why) = &self.policy.unusable {
            return Waited::Blocked { id: newest, why: why.clone() };
        }
        if let Some(id) = id
            && !self.memory.known.iter().any(|known| known == id)
        {
            return Waited::Pending { why: format!("deploy {id} has not landed on this host") };
        }
        if id.is_none()
            && let Some(why) = self.unusable_stamp()
        {
            return Waited::Blocked { id: newest, why };
        }
        let held = self.memory.hold.as_ref().map(|hold| format!("held by {} until {}: {}", hold.by, hold.until, hold.reason));
        if self.pending.is_some() {
            return Waited::Pending { why: held.unwrap_or_else(|| "the stamp has changed and is to settle".to_owned()) };
        }
        if let Some(hold) =
            self.memory.hold.as_ref().filter(|hold| hold.abort && self.memory.rollout.is_none() && self.unmet().next().is_some())
        {
            return Waited::Blocked { id: newest, why: format!("{} by {}; held until {}", hold.reason, hold.by, hold.until) };
        }
        // The same that status calls failed: a person has to look, and is not to find out by waiting.
        if let Some(why) = self.repool_trouble() {
            return Waited::Failed { id: newest, why };
        }
        let waits = self.unmet().find(|(name, _)| self.memory.holds(name)).and(held);
        if self.memory.rollout.is_some() {
            return Waited::Pending { why: waits.unwrap_or_else(|| "a rollout is under way".to_owned()) };
        }
        match (&self.retry, self.unmet().next().is_some()) {
            // As status has it: the host is not where it was yet.
            (_, false) if !self.memory.depooled.is_empty() => match self.memory.unproven.keys().next() {
                Some(unit) => Waited::Failed { id: newest, why: format!("{unit} is not proven to serve") },
                None => Waited::Pending { why: "a pool is still to take this host back".to_owned() },
            },
            (_, false) => Waited::Converged { id: newest },
            (_, true) if waits.is_some() => Waited::Pending { why: waits.unwrap_or_default() },
            (Some(retry), true) if retry.blocked && retry.tries > 0 => Waited::Blocked { id: newest, why: retry.why.clone() },
            (Some(retry), true) if retry.tries > 0 => Waited::Failed { id: newest, why: retry.why.clone() },
            (_, true) => Waited::Pending { why: "another try is about to begin".to_owned() },
        }
    }

    /// What keeps a pool from taking this host back.
    #[must_use]
    pub(super) fn repool_trouble(&self) -> Option<String> {
        let failing = self.pools.values().find(|pool| pool.goal() == Goal::In && pool.trouble().is_some())?;
        failing.trouble().map(|trouble| format!("pool {} has not taken this host back: {trouble}", failing.name()))
    }
}
