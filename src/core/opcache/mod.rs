//! The opcache guard: when an opcache crosses a bound, its target is renewed, which is the only thing that empties one that does not look at
//! files (facts 5d). What a reading means is decided here; when php-fpm is asked, and what comes of it, is in `guard`.
//!
//! What cannot be mended by a new start is told, and not tried again and again: an opcache that is too small for the code.

mod guard;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use guard::Opcaches;

use super::policy::{FpmRules, GenerationRules, TargetRules};
use super::seen::OpcacheSeen;
use super::time::Wall;

/// Between two rollouts of one target by the guard. An opcache that crosses a bound sooner than this after one is too small for the code.
const PAUSE: Duration = Duration::from_secs(30 * 60);
/// Its start is known to the second.
const BLUR: Duration = Duration::from_secs(1);
const NOT_FOR_LONG: &str = ", a short time after it was renewed for this";

/// `opcache = { min_free = "200M", … }`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpcacheRules {
    /// Bytes.
    pub min_free: Option<u64>,
    pub min_free_keys: Option<u64>,
    /// Percent of its memory.
    pub max_wasted: Option<u64>,
    /// Between two readings.
    pub every: Duration,
}

/// What is remembered of the guard of one target.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct GuardMemory {
    /// When it last began a rollout.
    pub renewed: Option<Wall>,
    /// An opcache of this size was found to be too small.
    pub too_small: Option<OpcacheSize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpcacheSize {
    pub bytes: u64,
    pub keys: u64,
}

/// A bound that is crossed.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Crossed {
    /// The figure and its bound.
    why: String,
    /// What to raise if a new start does not help.
    setting: &'static str,
    /// No opcache of this size could keep within the bound.
    never: bool,
}

/// What a reading means.
#[derive(Debug, PartialEq, Eq)]
#[must_use]
enum Verdict {
    Within,
    /// It was too small, and has been within its bounds for long enough.
    FitsAgain,
    Renew {
        why: String,
    },
    /// The last rollout for this was a short time ago.
    Wait {
        why: String,
    },
    TooSmall {
        problem: String,
    },
}

impl TargetRules {
    /// Of a php-fpm whose opcache is guarded.
    #[must_use]
    pub fn opcache(&self) -> Option<&OpcacheRules> {
        match self {
            TargetRules::PhpFpm(rules) => rules.opcache.as_ref(),
            TargetRules::Generations(rules) => rules.opcache.as_ref(),
            TargetRules::Scheduled(_) | TargetRules::Service(_) | TargetRules::Strays(_) => None,
        }
    }

    /// It has to answer with the deploy's id before it counts as renewed.
    #[must_use]
    pub fn has_proof(&self) -> bool {
        matches!(
            self,
            TargetRules::PhpFpm(FpmRules { proof: Some(_), .. }) | TargetRules::Generations(GenerationRules { proof: Some(_), .. })
        )
    }
}

impl OpcacheSize {
    fn of(seen: &OpcacheSeen) -> OpcacheSize {
        OpcacheSize { bytes: seen.size(), keys: seen.max_keys }
    }
}

fn crossed(rules: &OpcacheRules, seen: &OpcacheSeen) -> Option<Crossed> {
    let size = seen.size();
    let memory = |why: String, never: bool| Some(Crossed { why, setting: "opcache.memory_consumption", never });
    if let Some(min) = rules.min_free.filter(|min| seen.free < *min) {
        return memory(format!("{} of its {} are free, less than min_free = {}", mib(seen.free), mib(size), mib(min)), size <= min);
    }
    if seen.full {
        return memory(format!("it is full, at {}", mib(size)), false);
    }
    let free = seen.max_keys.saturating_sub(seen.keys);
    if let Some(min) = rules.min_free_keys.filter(|min| free < *min) {
        let why = format!("{free} of its {} keys are free, less than min_free_keys = {min}", seen.max_keys);
        return Some(Crossed { why, setting: "opcache.max_accelerated_files", never: seen.max_keys <= min });
    }
    let wasted = u128::from(seen.wasted) * 100;
    if let Some(max) = rules.max_wasted.filter(|max| wasted > u128::from(*max) * u128::from(size)) {
        return memory(format!("{} of its {} are wasted, more than max_wasted = {max}%", mib(seen.wasted), mib(size)), false);
    }
    None
}

fn judge(rules: &OpcacheRules, seen: &OpcacheSeen, memory: &GuardMemory, now: Wall) -> Verdict {
    let age = now.since(seen.since);
    // It is about to empty itself.
    let Some(crossed) = crossed(rules, seen).filter(|_| !seen.restarting) else {
        return if memory.too_small.is_some() && age >= PAUSE && !seen.restarting { Verdict::FitsAgain } else { Verdict::Within };
    };
    let Crossed { why, setting, never } = crossed;
    let too_small =
        |for_good: &str| Verdict::TooSmall { problem: format!("its opcache is too small for the code: {why}{for_good}; raise {setting}") };
    if never {
        return too_small(", which is all that it has");
    }
    if memory.too_small == Some(OpcacheSize::of(seen)) {
        return too_small(NOT_FOR_LONG);
    }
    // A clock that was set back must not keep the guard from its work for years.
    match memory.renewed.filter(|at| now.since(*at) < PAUSE && at.since(now) < PAUSE) {
        None => Verdict::Renew { why: format!("the opcache of php-fpm: {why}") },
        Some(at) if seen.since.after(BLUR) > at => too_small(NOT_FOR_LONG),
        Some(_) => Verdict::Wait { why },
    }
}

/// `63 MiB`.
fn mib(bytes: u64) -> String {
    if bytes != 0 && bytes < 1 << 20 { format!("{} KiB", bytes >> 10) } else { format!("{} MiB", bytes >> 20) }
}

#[cfg(test)]
mod tests;
