//! The agent's D-Bus interface as its callers see it, and the words in which Wait answers.

use serde::{Deserialize, Serialize};

/// The well-known name on the system bus, and the interface's name.
pub const NAME: &str = "org.wikimedia.RestartAgent1";
/// The one object.
pub const PATH: &str = "/org/wikimedia/RestartAgent1";
/// The error whose text says why an order was not taken, and what to do instead.
pub const REFUSED: &str = "org.wikimedia.RestartAgent1.Refused";

/// `Wait` is open to all; the other methods are root's, and through polkit where polkitd runs.
#[zbus::proxy(
    interface = "org.wikimedia.RestartAgent1",
    default_service = "org.wikimedia.RestartAgent1",
    default_path = "/org/wikimedia/RestartAgent1"
)]
pub trait Agent {
    /// What a deploy right now would do: a [`PlanView`](crate::core::status::PlanView) as JSON. Changes nothing.
    async fn plan(&self) -> zbus::Result<String>;

    /// Waits until a deploy is converged here, or cannot be: a [`WaitAnswer`] as JSON, after at most `timeout_usec`.
    ///
    /// The deploy is the one named `deploy_id`, or a newer one; with an empty `deploy_id` the one whose stamp has the ctime
    /// `stamp_ctime_usec` (microseconds since 1970), or a newer one, also if the agent has not read that stamp yet; with neither
    /// (`""`, 0) the newest.
    async fn wait(&self, stamp_ctime_usec: u64, deploy_id: &str, timeout_usec: u64) -> zbus::Result<String>;

    /// A rollout without a change of the stamp; no targets mean all. A sentence when it is in the journal.
    async fn trigger(&self, force: bool, override_hold: bool, targets: &[&str], reason: &str) -> zbus::Result<String>;

    /// No restarts for `span_usec`, or until released; no targets mean all. A sentence when it is in the journal.
    async fn hold(&self, reason: &str, span_usec: u64, targets: &[&str]) -> zbus::Result<String>;

    /// Ends the hold. A sentence when that is in the journal.
    async fn release(&self) -> zbus::Result<String>;

    /// Gives up the current rollout at its next safe point. A sentence when that is in the journal.
    async fn abort(&self, reason: &str) -> zbus::Result<String>;
}

/// What `Wait` says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WaitAnswer {
    pub result: WaitResult,
    /// A sentence: what it waits for still, or why it will not converge.
    #[serde(default)]
    pub why: Option<String>,
    /// The deploy that it is about, as far as it is known.
    #[serde(default)]
    pub id: Option<String>,
    /// How long it may take from now by the rules, and a minute more: for who may not ask for the plan.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_timeout_ms: Option<u64>,
}

/// `result` of [`WaitAnswer`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WaitResult {
    /// That deploy, or a newer one.
    Converged,
    /// It will not converge unless a person acts.
    Failed,
    /// It cannot go on now and tries again by itself.
    Blocked,
    /// A person gave it up.
    Aborted,
    /// A newer deploy has taken its place: wait for that one.
    Superseded,
    /// Not yet: ask again.
    Timeout,
}
