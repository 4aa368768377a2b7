//! How stamps and orders become rollouts: settling, coalescing, adoption, holds, retries.

use std::collections::BTreeSet;
use std::time::Duration;

use super::begin::same;
use super::deploy::{Deploy, Scope, StampFault, StampIdentity, StampSeen, Stamped, printable};
use super::entry::Entry;
use super::event::{Answer, Order};
use super::machine::{Machine, turn};
use super::policy::Identity;
use super::stale::START_BLUR;
use super::status::RolloutResult;
use super::step::{Deadline, Step, Turn, earliest};
use super::time::{Mono, Now, Span, Wall};

/// The settle time is measured from the last change, but not longer than this many of it from the first.
const SETTLES: u32 = 5;
/// How long an abort holds.
const ABORT_HOLD: Duration = Duration::from_secs(3600);
/// The longest hold: one that is forgotten must end.
const LONGEST_HOLD: Duration = Duration::from_secs(30 * 86_400);

/// A change of the stamp that has not become a rollout yet.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub first: Mono,
    pub last: Mono,
    pub identity: StampIdentity,
    pub deploy: Deploy,
}

/// When what failed is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Retry {
    pub at: Mono,
    pub tries: u32,
    pub why: String,
    pub blocked: bool,
}

impl Machine {
    pub(super) fn stamp_read(&mut self, now: Now, step: &mut Step, read: Result<StampSeen, StampFault>) {
        let path = self.policy.stamp.path.clone();
        if path.is_empty() {
            self.stamp_fault = None;
            return;
        }
        if self.memory.watching.as_ref() != Some(&path) {
            turn!(self, now, step).record(Entry::Watching { path: path.clone() });
            self.pending = None;
            if let Ok(seen) = &read
                && let Ok(Stamped::Deploy(deploy)) = Deploy::read(seen, now)
            {
                self.stamp_fault = None;
                self.stamp_old_at = Some(now.mono);
                let identity = seen.identity.clone();
                return turn!(self, now, step).record(Entry::Stamp { path, identity, deploy, adopted: true });
            }
        }
        let seen = match read {
            Ok(seen) => seen,
            Err(fault) => {
                self.stamp_fault = Some(fault);
                return;
            }
        };
        if self.policy.stamp.identity == Identity::Content
            && self.pending.is_some()
            && self.memory.stamp.as_ref().is_some_and(|stamp| stamp.identity.digest == seen.identity.digest)
        {
            // It says again what it has said before: no new content has come, whatever there was in between.
            self.pending = None;
            self.stamp_fault = None;
            self.stamp_old_at = Some(now.mono);
            return;
        }
        let known = self.pending.as_ref().map(|pending| &pending.identity).or(self.memory.stamp.as_ref().map(|stamp| &stamp.identity));
        let same = known.is_some_and(|known| same(self.policy.stamp.identity, known, &seen.identity));
        let stamped = match Deploy::read(&seen, now) {
            Err(fault) => return self.stamp_fault = Some(fault),
            Ok(stamped) => stamped,
        };
        self.stamp_fault = None;
        match stamped {
            Stamped::Begins { id } => self.deploy_begins(now, step, seen, id),
            Stamped::Deploy(_) if same => self.deploy_begins_no_more(now, step, "the stamp says so no more"),
            Stamped::Deploy(deploy) => {
                let deploy = Deploy { landed: self.landed(now, seen.ctime), ..deploy };
                self.deploy_begins_no_more(now, step, "done");
                let first = self.pending.as_ref().map_or(now.mono, |pending| pending.first);
                let deploy = match &self.pending {
                    Some(older) => deploy.coalesced_with_older(&older.deploy),
                    None => deploy,
                };
                self.pending = Some(Pending { first, last: now.mono, identity: seen.identity, deploy });
            }
        }
        self.stamp_old_at = Some(now.mono);
    }

    /// When a stamp that is new landed: at its ctime. One from before another was read in its place is by a clock that has been set meanwhile, or that
    /// of a file which had been there before a link was turned to it (trap T4): then it landed just now, or what runs old code would be
    /// taken for new. For the same reason one of which it is not known whether it came before the clock was set, or after, landed at the later of both.
    pub(super) fn landed(&self, now: Now, ctime: Wall) -> Mono {
        let landed = now.mono_of(ctime.max(ctime.moved(self.memory.jumped))).min(now.mono);
        if self.stamp_old_at.is_some_and(|old| landed.after(START_BLUR) < old) { now.mono } else { landed }
    }

    /// When the pending change has settled and the last rollout is long enough ago.
    fn settled_at(&self) -> Option<Mono> {
        let pending = self.pending.as_ref()?;
        let rules = &self.policy.stamp;
        let settled = pending.last.after(rules.settle).min(pending.first.after(rules.settle * SETTLES));
        Some(self.last_start.map_or(settled, |start| settled.max(start.after(rules.min_interval))))
    }

    /// Whatever lands waits. A deploy waits until a hold on everything ends; one on some targets lets the others go on.
    fn begins_nothing(&self) -> bool {
        self.settling()
            || self.policy.unusable.is_some()
            || self.memory.hold.as_ref().is_some_and(|hold| hold.targets.is_none())
            || self.journal_problem.is_some()
    }

    /// Starts what is due: a deploy, or another try.
    pub(super) fn take_in(&mut self, now: Now, step: &mut Step) {
        if self.begins_nothing() {
            return;
        }
        if self.settled_at().is_some_and(|at| at <= now.mono)
            && let Some(pending) = self.pending.take()
        {
            let path = self.policy.stamp.path.clone();
            let entry = Entry::Stamp { path, identity: pending.identity, deploy: pending.deploy.clone(), adopted: false };
            turn!(self, now, step).record(entry);
            self.retry = None;
            return self.start_rollout(now, step, pending.deploy, None, false);
        }
        let due = self.retry.as_ref().is_some_and(|retry| retry.at <= now.mono);
        if due && self.memory.rollout.is_some() {
            self.retry.iter_mut().for_each(|retry| retry.at = Mono::NEVER);
            self.renew_failed(now, step);
        } else if due && self.pending.is_none() {
            let Some(deploy) = self.memory.last_deploy.clone().filter(|_| self.unmet().next().is_some()) else {
                // What could not be done has left the configuration since, and was adopted if it has come back.
                self.retry = None;
                return;
            };
            let why = self.retry.as_ref().map(|retry| retry.why.clone()).unwrap_or_default();
            if let Some(retry) = &mut self.retry {
                retry.at = Mono::NEVER;
            }
            let deploy = Deploy { reason: Some(printable(&format!("another try, after: {why}"), 500)), ..deploy };
            self.start_rollout(now, step, deploy, None, false);
        }
    }

    /// A rollout without a change of the stamp: what is older than now is stale; the deploy's id stays.
    pub(super) fn renewal(&self, now: Now, targets: Scope, force: bool, reason: Option<&str>) -> Deploy {
        let id = self.memory.stamp.as_ref().map_or_else(|| now.wall.to_string(), |stamp| stamp.deploy.id.clone());
        let forced = if force { targets.clone() } else { Scope::none() };
        Deploy { id, landed_at: now.wall, landed: now.mono, targets, forced, reason: reason.map(|text| printable(text, 500)) }
    }

    pub(super) fn start_rollout(&mut self, now: Now, step: &mut Step, deploy: Deploy, by: Option<String>, over_hold: bool) {
        let mut targets: BTreeSet<String> = self.works.keys().filter(|name| deploy.targets.contains(name)).cloned().collect();
        // What an unfinished rollout had still to do, this one has.
        targets.extend(self.memory.targets.iter().filter(|(_, target)| target.unmet().is_some()).map(|(name, _)| name.clone()));
        let mut turn = turn!(self, now, step);
        if turn.memory.rollout.is_some() {
            let same = turn.memory.rollout.as_ref().is_some_and(|rollout| rollout.deploy.id == deploy.id);
            let why = match &by {
                Some(by) => format!("by a trigger of {by}"),
                None if same => format!("by a newer stamp of the same id, {}", deploy.id),
                None => format!("by {}", deploy.id),
            };
            turn.record(Entry::RolloutFinished { result: RolloutResult::Superseded, why: Some(why) });
        }
        if targets.is_empty() {
            return;
        }
        let id = format!("r{}", turn.memory.next_rollout);
        turn.record(Entry::RolloutStarted { id, deploy, targets, by, over_hold });
        self.last_start = Some(now.mono);
        self.tried.clear();
        self.locks_due = true;
        self.renew_unmet(now, step);
    }

    pub(super) fn order(&mut self, now: Now, step: &mut Step, by: &str, order: Order) -> Answer {
        if let Some(problem) = &self.journal_problem {
            return Machine::refuse(format!("the journal cannot be written, so nothing can be promised: {problem}"));
        }
        if let (Order::Trigger { .. } | Order::Hold { targets: Some(_), .. }, Some(problem)) = (&order, &self.policy.unusable) {
            return Machine::refuse(problem.clone());
        }
        if let Order::Trigger { targets: Some(targets), .. } | Order::Hold { targets: Some(targets), .. } = &order
            && let Some(unknown) = targets.iter().find(|target| !self.works.contains_key(*target))
        {
            let known = self.works.keys().cloned().collect::<Vec<_>>().join(", ");
            return Machine::refuse(format!("there is no target {unknown}; there are: {known}"));
        }
        let ordered = Entry::Ordered { by: by.to_owned(), order: order.clone() };
        match order {
            Order::Trigger { force, override_hold, targets, reason } => {
                if self.works.is_empty() {
                    return Machine::refuse("there are no targets: write one into the configuration, then systemctl reload restart-agent");
                }
                if let Some(hold) = self.memory.hold.as_ref().filter(|_| !override_hold) {
                    let text = format!("held by {} until {}: {}. Wait, release, or give --override-hold", hold.by, hold.until, hold.reason);
                    return Machine::refuse(text);
                }
                // A deploy that waits for the hold has landed, too: what is renewed now is fresh for it.
                if self.memory.hold.is_some()
                    && targets.is_none()
                    && let Some(pending) = self.pending.take()
                {
                    let path = self.policy.stamp.path.clone();
                    let entry = Entry::Stamp { path, identity: pending.identity, deploy: pending.deploy, adopted: false };
                    turn!(self, now, step).record(entry);
                }
                turn!(self, now, step).record(ordered);
                let deploy = self.renewal(now, targets.into(), force, reason.as_deref());
                self.retry = None;
                let over_hold = self.memory.hold.is_some();
                self.start_rollout(now, step, deploy, Some(by.to_owned()), over_hold);
                let rollout = self.memory.rollout.as_ref().map(|rollout| rollout.view.id.clone()).unwrap_or_default();
                let hold = self.memory.hold.as_ref().map(|hold| format!(" over the hold of {}, which stays for the next", hold.by));
                let hold = hold.unwrap_or_default();
                Answer::Accepted(format!("accepted: rollout {rollout}{hold}; follow it with restart-agent status --watch"))
            }
            Order::Hold { reason, span, targets } => {
                let span = span.min(LONGEST_HOLD);
                let until = now.wall.after(span);
                let reason = printable(&reason, 500);
                let held: Vec<String> = self.unmet().map(|(name, _)| name.to_owned()).filter(|name| self.memory.holds(name)).collect();
                let mut turn = turn!(self, now, step);
                turn.record(ordered);
                turn.record(Entry::HoldSet { reason, by: by.to_owned(), until, targets, abort: false });
                self.hold_until = Some(now.mono.after(span));
                if held.iter().any(|name| !self.memory.holds(name)) {
                    self.go_on(now, step);
                }
                Answer::Accepted(format!("held for {} until {until}; end it with restart-agent release", Span(span)))
            }
            Order::Release => {
                if self.memory.hold.is_none() {
                    return Answer::Accepted("there is no hold".to_owned());
                }
                let mut turn = turn!(self, now, step);
                turn.record(ordered);
                turn.record(Entry::HoldEnded { by: by.to_owned() });
                self.hold_ended(now, step);
                Answer::Accepted("released".to_owned())
            }
            Order::Abort { reason } => {
                if self.memory.rollout.is_none() && self.pending.is_none() {
                    return Machine::refuse("no rollout is under way; to keep the next one from starting, use restart-agent hold");
                }
                let reason = reason.map_or_else(|| "aborted".to_owned(), |text| format!("aborted: {}", printable(&text, 480)));
                let until = now.wall.after(ABORT_HOLD);
                let mut turn = turn!(self, now, step);
                turn.record(ordered);
                turn.record(Entry::HoldSet { reason, by: by.to_owned(), until, targets: None, abort: true });
                self.hold_until = Some(now.mono.after(ABORT_HOLD));
                Answer::Accepted(format!(
                    "aborting at the next safe point; held until {until}, then the same deploy goes on. End the hold with restart-agent release"
                ))
            }
        }
    }

    pub(super) fn hold_ended(&mut self, now: Now, step: &mut Step) {
        self.hold_until = None;
        self.go_on(now, step);
    }

    /// What waited for a hold that holds it no more.
    fn go_on(&mut self, now: Now, step: &mut Step) {
        let unmet = self.memory.targets.values().any(|target| target.unmet().is_some());
        if self.memory.rollout.is_some() {
            self.renew_unmet(now, step);
        } else if unmet {
            let why = self.memory.last_rollout.as_ref().and_then(|view| view.why.clone()).unwrap_or_else(|| "the hold".to_owned());
            self.retry = Some(Retry { at: now.mono, tries: 0, why, blocked: true });
        }
    }

    pub(super) fn intake_deadline(&self) -> Option<Deadline> {
        let settle = self.settled_at().filter(|_| !self.begins_nothing()).map(|at| Deadline::new(at, "the stamp to settle"));
        earliest([settle, self.next_try().map(|at| Deadline::new(at, "another try"))])
    }

    /// When what has failed is tried again.
    pub(super) fn next_try(&self) -> Option<Mono> {
        self.retry.as_ref().map(|retry| retry.at).filter(|at| *at != Mono::NEVER && !self.begins_nothing())
    }

    /// Something is at the stamp's place that is no deploy: whoever has just put it there is not to be told of the deploy before.
    #[must_use]
    pub fn unusable_stamp(&self) -> Option<String> {
        self.stamp_fault.as_ref().filter(|fault| !matches!(fault, StampFault::Missing { .. })).map(|fault| format!("the stamp: {fault}"))
    }

    /// It is there and could not be read. Nothing hints at it when it can be, so it is read again and again.
    #[must_use]
    pub fn stamp_is_unreadable(&self) -> bool {
        matches!(self.stamp_fault, Some(StampFault::Unreadable { .. }))
    }

    /// Names of the newest stamp that are no target here: they may be those of other hosts, or slips.
    #[must_use]
    pub(super) fn unknown_targets(&self) -> Vec<String> {
        match self.memory.stamp.as_ref().map(|stamp| &stamp.deploy.targets) {
            Some(Scope::Only(names)) => names.iter().filter(|name| !self.works.contains_key(*name)).cloned().collect(),
            _ => Vec::new(),
        }
    }
}
