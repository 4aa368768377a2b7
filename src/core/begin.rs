//! `phase = "begin"` in the stamp: new code is being put on this host. No script of a scheduled target is started on half of it: a start that becomes
//! due waits, until the stamp says something else ("done"), and at most `begin_timeout`. It is no deploy.
//!
//! The timers are left alone (decision 7). What waits are the start jobs of the services: each is ordered after one unit of ours that has not
//! started for as long as it lives (measured on 252 and 257). That unit ends by itself in time, so nothing hangs on this agent being there.

use std::time::Duration;

use super::deploy::{StampIdentity, StampSeen};
use super::effect::{Effect, EffectId, Outcome, UnitsOf};
use super::entry::Entry;
use super::machine::{Machine, turn};
use super::policy::{Identity, TargetRules};
use super::stale::LOOK_FROM;
use super::step::{Deadline, Step, Turn, earliest};
use super::time::{Mono, Now, Wall};

/// After an effect that failed: scripts start on half of the code meanwhile.
const RETRY: Duration = Duration::from_secs(1);

/// What this run of the agent knows of it.
#[derive(Debug, Default)]
pub struct Begin {
    pending: Option<EffectId>,
    /// systemd has taken what is wanted since the agent started, or systemd was re-executed.
    sure: bool,
    /// The end of `begin_timeout` on the boot clock.
    until: Option<Mono>,
    next_try: Mono,
    trouble: Option<String>,
}

impl Begin {
    /// Goes on from what the journal says.
    #[must_use]
    pub fn resumed(until: Option<Wall>, now: Now) -> Begin {
        Begin { until: until.map(|until| now.mono.after(until.since(now.wall))), ..Begin::default() }
    }

    /// Whatever was known of systemd may be wrong.
    pub fn again(&mut self) {
        self.sure = false;
    }

    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }
}

impl Machine {
    /// The stamp says that a deploy has begun.
    pub(super) fn deploy_begins(&mut self, now: Now, step: &mut Step, seen: StampSeen, id: String) {
        let known = self.memory.begun.as_ref().map(|begun| &begun.identity);
        if known.is_some_and(|known| same(self.policy.stamp.identity, known, &seen.identity)) {
            return;
        }
        let lasts = self.policy.stamp.begin_timeout;
        // What holds the starts back ends when it was said to, whatever begins meanwhile.
        let held = self.memory.beginning().filter(|_| self.memory.starts_held).map(|begun| begun.until);
        let until = now.wall.after(self.landed(now, seen.ctime).after(lasts).since(now.mono));
        let until = held.map_or(until, |held| until.min(held));
        self.begin.until = Some(now.mono.after(until.since(now.wall).min(lasts)));
        self.begin.again();
        turn!(self, now, step).record(Entry::DeployBegan { identity: seen.identity, id, since: seen.ctime, until });
    }

    /// The stamp says something else.
    pub(super) fn deploy_begins_no_more(&mut self, now: Now, step: &mut Step, why: &str) {
        if self.memory.beginning().is_some() {
            turn!(self, now, step).record(Entry::BeginOver { why: why.to_owned() });
            // What starts within its blur of the landing counts as before it (facts F4.6).
            self.begin.next_try = now.mono.after(LOOK_FROM);
            self.begin.until = None;
        }
    }

    pub(super) fn hold_starts(&mut self, now: Now, step: &mut Step) {
        if self.begin.until.is_some_and(|until| until <= now.mono) {
            self.begin.until = None;
            self.deploy_begins_no_more(now, step, "begin_timeout has passed and the stamp does not say \"done\"");
        }
        if self.begin.pending.is_some() || now.mono < self.begin.next_try {
            return;
        }
        let wanted = !self.settling() && self.memory.beginning().is_some();
        let lasts = self.begin.until.map(|until| until.since(now.mono)).filter(|_| wanted);
        let held = self.memory.starts_held;
        let effect = match lasts {
            Some(lasts) if !self.begin.sure && self.journal_problem.is_none() => {
                let of = |rules: &TargetRules| match rules {
                    TargetRules::Scheduled(rules) => Some(UnitsOf::new(&rules.units, &rules.exclude)),
                    _ => None,
                };
                let waits: Vec<UnitsOf> = self.policy.targets.values().filter_map(of).collect();
                if waits.is_empty() {
                    return;
                }
                Effect::HoldStarts { waits, lasts }
            }
            None if held => Effect::ReleaseStarts,
            _ => return,
        };
        self.begin.pending = Some(turn!(self, now, step).ask(effect));
    }

    pub(super) fn hold_starts_outcome(&mut self, now: Now, id: EffectId, outcome: &Outcome) -> bool {
        if self.begin.pending.take_if(|pending| *pending == id).is_none() {
            return false;
        }
        self.begin.sure = *outcome == Outcome::Done;
        self.begin.trouble = (!self.begin.sure).then(|| format!("cannot hold back, or let go, the starts of scripts: {}", outcome.said()));
        if !self.begin.sure {
            self.begin.next_try = now.mono.after(RETRY);
        } else if !self.memory.starts_held {
            // What has waited for this is owed its start.
            self.debts.hint(now.mono, None);
        }
        true
    }

    pub(super) fn hold_starts_deadline(&self) -> Option<Deadline> {
        let over = self.begin.until.map(|until| Deadline::new(until, "scripts may start again, if the deploy that has begun is not done"));
        let over_by = self.memory.begun.as_ref().is_some_and(|begun| begun.over.is_some());
        let waits = self.begin.pending.is_none() && (self.begin.trouble.is_some() || (over_by && self.memory.starts_held));
        let retry = waits.then(|| Deadline::new(self.begin.next_try, "hold back, or let go, the starts of scripts"));
        earliest([over, retry])
    }
}

/// Whether two states of the stamp are the same by these rules.
pub fn same(by: Identity, one: &StampIdentity, two: &StampIdentity) -> bool {
    match by {
        Identity::Mtime => one == two,
        Identity::Content => one.digest == two.digest,
    }
}
