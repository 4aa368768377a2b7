//! What a stamp says: its content becomes a [`Deploy`], or the reason why it is refused.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::time::{Mono, Now, Wall};

/// One observed change of the stamp, or one trigger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deploy {
    pub id: String,
    /// When the new code landed on this host: the stamp's ctime, since `rsync -t` keeps the sender's mtime.
    pub landed_at: Wall,
    /// The same on the boot clock, taken when the stamp was read, so that a later jump of the wall clock changes no age.
    pub landed: Mono,
    pub targets: Scope,
    /// No slot, no depool, no drain for these targets: an emergency.
    pub forced: Scope,
    pub reason: Option<String>,
}

/// What a stamp says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stamped {
    Deploy(Deploy),
    /// A deploy has begun, and new code is on its way: that is itself no deploy.
    Begins {
        id: String,
    },
}

/// A set of targets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    All,
    Only(BTreeSet<String>),
}

impl Scope {
    #[must_use]
    pub fn none() -> Scope {
        Scope::Only(BTreeSet::new())
    }

    #[must_use]
    pub fn contains(&self, target: &str) -> bool {
        match self {
            Scope::All => true,
            Scope::Only(targets) => targets.contains(target),
        }
    }

    #[must_use]
    pub fn union(&self, other: &Scope) -> Scope {
        match (self, other) {
            (Scope::Only(one), Scope::Only(two)) => Scope::Only(one.union(two).cloned().collect()),
            _ => Scope::All,
        }
    }
}

impl From<Option<BTreeSet<String>>> for Scope {
    fn from(targets: Option<BTreeSet<String>>) -> Scope {
        targets.map_or(Scope::All, Scope::Only)
    }
}

/// What tells one state of the stamp from another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StampIdentity {
    /// Nanoseconds since 1970. No wider: the journal's entries are read back through a form that knows no 128 bits.
    pub mtime: i64,
    /// SHA-256 of the content, in hex.
    pub digest: String,
}

/// The stamp as the host read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StampSeen {
    pub identity: StampIdentity,
    pub ctime: Wall,
    /// At most 64 KiB, UTF-8.
    pub content: String,
}

/// Why a stamp cannot be used. The old deploy stays current and status says this.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum StampFault {
    #[error("there is no stamp at {path}: the first deploy makes it")]
    Missing { path: String },
    #[error("cannot read {path}: {error}")]
    Unreadable { path: String, error: String },
    #[error("{path} is {what}, not a regular file: make it a plain file")]
    NotAFile { path: String, what: String },
    #[error("{path} is longer than 64 KiB: a stamp holds an id, or a few lines of TOML")]
    TooLong { path: String },
    #[error("{path} is not UTF-8")]
    NotText { path: String },
    #[error("the stamp says what this agent does not understand: {error}")]
    Content { error: String },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct StampToml {
    id: Option<String>,
    phase: Option<String>,
    #[serde(default)]
    force: bool,
    targets: Option<BTreeSet<String>>,
    reason: Option<String>,
}

/// The longest id, in characters.
const ID_MAX: usize = 200;

impl Deploy {
    /// Reads the content of a stamp: nothing (the id is the landing time), one line (the id), or TOML.
    ///
    /// # Errors
    /// [`StampFault::Content`] with a sentence that says what to write instead.
    pub fn read(seen: &StampSeen, now: Now) -> Result<Stamped, StampFault> {
        let text = seen.content.trim();
        let landed_at = seen.ctime;
        let mut deploy = Deploy {
            id: landed_at.to_string(),
            landed_at,
            // A clock that was set back has left a ctime in the future: then it landed just now, or nothing would ever be fresh (trap T4).
            landed: now.mono_of(landed_at).min(now.mono),
            targets: Scope::All,
            forced: Scope::none(),
            reason: None,
        };
        if text.is_empty() {
            return Ok(Stamped::Deploy(deploy));
        }
        let refuse = |error: String| Err(StampFault::Content { error });
        let one_line = !text.contains('\n');
        let parsed = match text.parse::<toml::Table>() {
            Ok(_) => match toml::from_str::<StampToml>(text) {
                Ok(stamp) => stamp,
                Err(error) => return refuse(one_sentence(error.message())),
            },
            Err(_) if one_line => StampToml { id: Some(text.to_owned()), phase: None, force: false, targets: None, reason: None },
            Err(error) => {
                return refuse(format!(
                    "{}; write one line with the id, or TOML with id, force, targets, reason",
                    one_sentence(error.message())
                ));
            }
        };
        if let Some(id) = parsed.id {
            deploy.id = checked_id(&id).map_err(|error| StampFault::Content { error })?;
        }
        match parsed.phase.as_deref() {
            None | Some("done") => {}
            Some("begin") => return Ok(Stamped::Begins { id: deploy.id }),
            Some(other) => return refuse(format!("phase = {other:?}: write \"begin\" or \"done\"")),
        }
        deploy.targets = parsed.targets.into();
        deploy.forced = if parsed.force { deploy.targets.clone() } else { Scope::none() };
        deploy.reason = parsed.reason.map(|reason| printable(&reason, 500));
        Ok(Stamped::Deploy(deploy))
    }

    /// Two deploys that are done as one: the newer id; targets united; force stays with the targets that it named.
    #[must_use]
    pub fn coalesced_with_older(mut self, older: &Deploy) -> Deploy {
        self.targets = self.targets.union(&older.targets);
        self.forced = self.forced.union(&older.forced);
        self
    }
}

fn one_sentence(message: &str) -> String {
    printable(&message.replace('\n', ", "), 300)
}

fn checked_id(id: &str) -> Result<String, String> {
    let id = id.trim();
    if id.is_empty() || id.chars().count() > ID_MAX || id.chars().any(char::is_control) {
        return Err(format!("an id is 1 to {ID_MAX} printable characters on one line"));
    }
    Ok(id.to_owned())
}

/// Text from outside made safe for a terminal and a log: no control characters, at most `max` characters.
#[must_use]
pub fn printable(text: &str, max: usize) -> String {
    let mut safe: String = text.chars().take(max).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(max).is_some() {
        safe.push('…');
    }
    safe
}
