//! What all kinds of target have in common for the machine.

use std::time::Duration;

use super::look::Looker;
use super::memory::Want;
use super::stale::LOOK_FROM;
use super::time::Mono;

/// How far a target has come with what it is to be fresh for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Progress {
    /// Nothing is wanted of it.
    #[default]
    Idle,
    Working,
    /// Fresh, or what is stale is allowed by its rules.
    Reached,
    /// Not, and it goes on only with a new try. `blocked`: something outside stands in the way, and may go away by itself.
    Failed {
        why: String,
        blocked: bool,
    },
}

/// Whether a unit's name matches one of these names or globs, as systemd's own patterns do.
#[must_use]
pub fn matches_any(patterns: &[String], unit: &str) -> bool {
    patterns.iter().any(|pattern| pattern == unit || glob::Pattern::new(pattern).is_ok_and(|pattern| pattern.matches(unit)))
}

/// Whether a unit belongs to a target with these names or globs.
#[must_use]
pub fn is_of(units: &[String], exclude: &[String], unit: &str) -> bool {
    matches_any(units, unit) && !matches_any(exclude, unit)
}

/// What a target of several units is at: what they are to be fresh for, how far that has come, and the looks at them that tell.
#[derive(Debug, Default)]
pub struct Pursuit {
    want: Option<Want>,
    /// The start of the rollout: drains are counted from there.
    began: Mono,
    /// What was seen before this was seen for something else.
    renewed: Mono,
    progress: Progress,
    pub look: Looker,
}

impl Pursuit {
    /// Begins, or begins again. `began`: the start of the rollout.
    pub fn renew(&mut self, now: Mono, want: Want, began: Mono) {
        self.began = began;
        self.renewed = now;
        self.want = Some(want);
        self.progress = Progress::Working;
        self.look.reset();
        self.look.want(now);
    }

    /// Goes on with what an earlier agent, or an earlier rollout, has begun.
    pub fn take_up(&mut self, now: Mono, want: Want) {
        self.want.get_or_insert(want);
        self.progress = Progress::Working;
        self.look.want(now);
    }

    /// What was reached for this want, and is to be told on.
    pub fn watch(&mut self, now: Mono, want: Want) {
        self.want = Some(want);
        self.look.want(now);
    }

    /// What is wanted next begins with a new look.
    pub fn only_watch(&mut self) {
        self.progress = Progress::Idle;
    }

    /// Nothing is wanted any more.
    pub fn rest(&mut self) {
        self.progress = Progress::Idle;
        self.want = None;
    }

    #[must_use]
    pub fn want(&self) -> Option<&Want> {
        self.want.as_ref()
    }

    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    #[must_use]
    pub fn works(&self) -> bool {
        self.progress == Progress::Working
    }

    /// Whether the first look for the present want is still to come.
    #[must_use]
    pub fn gathering(&self) -> bool {
        self.works() && !self.look.seen_since(self.renewed)
    }

    /// Until when what is stale may end by itself.
    #[must_use]
    pub fn drain_until(&self, now: Mono, drain_timeout: Duration) -> Mono {
        let forced = self.want.as_ref().is_some_and(|want| want.forced);
        if forced { now } else { self.began.after(drain_timeout) }
    }

    /// No unit is busy any more: that is the end, if the last look is one that nothing can have slipped through, after the blur of the
    /// landing, and after `changed`, the last change to a unit. If it is not, wants one that is.
    pub fn conclude(&mut self, now: Mono, changed: Option<Mono>, failed: Option<String>) {
        let landed = self.want.as_ref().map_or(Mono::BOOT, |want| want.landed);
        let from = changed.unwrap_or(self.renewed).max(self.renewed).max(landed.after(LOOK_FROM));
        if !self.look.seen_since(from) {
            return self.look.want(from.max(now));
        }
        self.progress = match failed {
            None => Progress::Reached,
            Some(why) => Progress::Failed { why, blocked: false },
        };
    }
}
