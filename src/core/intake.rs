//! How stamps and orders become rollouts: settling, coalescing, adoption, holds, retries.

use std::collections::BTreeSet;
use std::time::Duration;

use super::deploy::{Deploy, Scope, StampFault, StampIdentity, StampSeen, printable};
use super::entry::Entry;
use super::event::{Answer, Order};
use super::machine::{Machine, turn};
use super::policy::Identity;
use super::status::RolloutResult;
use super::step::{Deadline, Step, Turn, earliest};
use super::time::{Mono, Now, Span};

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

/// What `wait` is told.
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
                && let Ok(deploy) = Deploy::read(seen, now)
            {
                self.stamp_fault = None;
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
        let known = self.pending.as_ref().map(|pending| &pending.identity).or(self.memory.stamp.as_ref().map(|stamp| &stamp.identity));
        let same = known.is_some_and(|known| match self.policy.stamp.identity {
            Identity::Mtime => *known == seen.identity,
            Identity::Content => known.digest == seen.identity.digest,
        });
        match Deploy::read(&seen, now) {
            Err(fault) => self.stamp_fault = Some(fault),
            Ok(_) if same => self.stamp_fault = None,
            Ok(deploy) => {
                self.stamp_fault = None;
                let first = self.pending.as_ref().map_or(now.mono, |pending| pending.first);
                let deploy = match &self.pending {
                    Some(older) => deploy.coalesced_with_older(&older.deploy),
                    None => deploy,
                };
                self.pending = Some(Pending { first, last: now.mono, identity: seen.identity, deploy });
            }
        }
    }

    /// When the pending change has settled and the last rollout is long enough ago.
    fn settled_at(&self) -> Option<Mono> {
        let pending = self.pending.as_ref()?;
        let rules = &self.policy.stamp;
        let settled = pending.last.after(rules.settle).min(pending.first.after(rules.settle * SETTLES));
        Some(self.last_start.map_or(settled, |start| settled.max(start.after(rules.min_interval))))
    }

    /// Starts what is due: a deploy, or another try.
    pub(super) fn take_in(&mut self, now: Now, step: &mut Step) {
        // A deploy waits until a hold on everything ends; one on some targets lets the others go on.
        if self.settling() || self.memory.hold.as_ref().is_some_and(|hold| hold.targets.is_none()) || self.journal_problem.is_some() {
            return;
        }
        if self.settled_at().is_some_and(|at| at <= now.mono)
            && let Some(pending) = self.pending.take()
        {
            let path = self.policy.stamp.path.clone();
            let entry = Entry::Stamp { path, identity: pending.identity, deploy: pending.deploy.clone(), adopted: false };
            turn!(self, now, step).record(entry);
            self.retry = None;
            return self.start_rollout(now, step, pending.deploy, None);
        }
        if self.retry.as_ref().is_some_and(|retry| retry.at <= now.mono)
            && self.memory.rollout.is_none()
            && self.pending.is_none()
            && let Some(deploy) = self.memory.last_deploy.clone()
        {
            let why = self.retry.as_ref().map(|retry| retry.why.clone()).unwrap_or_default();
            if let Some(retry) = &mut self.retry {
                retry.at = Mono::NEVER;
            }
            let deploy = Deploy { reason: Some(printable(&format!("another try, after: {why}"), 500)), ..deploy };
            self.start_rollout(now, step, deploy, None);
        }
    }

    fn start_rollout(&mut self, now: Now, step: &mut Step, deploy: Deploy, by: Option<String>) {
        let mut targets: BTreeSet<String> = self.works.keys().filter(|name| deploy.targets.contains(name)).cloned().collect();
        // What an unfinished rollout had still to do, this one has.
        targets.extend(self.memory.targets.iter().filter(|(_, target)| target.unmet().is_some()).map(|(name, _)| name.clone()));
        let mut turn = turn!(self, now, step);
        if turn.memory.rollout.is_some() {
            turn.record(Entry::RolloutFinished { result: RolloutResult::Superseded, why: Some(format!("by {}", deploy.id)) });
        }
        if targets.is_empty() {
            return;
        }
        let id = format!("r{}", turn.memory.next_rollout);
        turn.record(Entry::RolloutStarted { id, deploy, targets, by });
        self.last_start = Some(now.mono);
        self.renew_unmet(now, step);
    }

    pub(super) fn order(&mut self, now: Now, step: &mut Step, by: &str, order: Order) -> Answer {
        if let Some(problem) = &self.journal_problem {
            return Machine::refuse(format!("the journal cannot be written, so nothing can be promised: {problem}"));
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
                if let Some(hold) = &self.memory.hold {
                    if !override_hold {
                        let text =
                            format!("held by {} until {}: {}. Wait, release, or give --override-hold", hold.by, hold.until, hold.reason);
                        return Machine::refuse(text);
                    }
                    turn!(self, now, step).record(Entry::HoldEnded { by: format!("{by}, by a trigger") });
                    self.hold_until = None;
                }
                turn!(self, now, step).record(ordered);
                let id = self.memory.stamp.as_ref().map_or_else(|| now.wall.to_string(), |stamp| stamp.deploy.id.clone());
                let targets: Scope = targets.into();
                let forced = if force { targets.clone() } else { Scope::none() };
                let deploy =
                    Deploy { id, landed_at: now.wall, landed: now.mono, targets, forced, reason: reason.map(|text| printable(&text, 500)) };
                self.retry = None;
                self.start_rollout(now, step, deploy, Some(by.to_owned()));
                let rollout = self.memory.rollout.as_ref().map(|rollout| rollout.view.id.clone()).unwrap_or_default();
                Answer::Accepted(format!("accepted: rollout {rollout}; follow it with restart-agent status --watch"))
            }
            Order::Hold { reason, span, targets } => {
                let span = span.min(LONGEST_HOLD);
                let until = now.wall.after(span);
                let reason = printable(&reason, 500);
                let mut turn = turn!(self, now, step);
                turn.record(ordered);
                turn.record(Entry::HoldSet { reason, by: by.to_owned(), until, targets, abort: false });
                self.hold_until = Some(now.mono.after(span));
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

    /// What waited for the hold goes on.
    pub(super) fn hold_ended(&mut self, now: Now, step: &mut Step) {
        self.hold_until = None;
        let unmet = self.memory.targets.values().any(|target| target.unmet().is_some());
        if self.memory.rollout.is_some() {
            self.renew_unmet(now, step);
        } else if unmet {
            let why = self.memory.last_rollout.as_ref().and_then(|view| view.why.clone()).unwrap_or_else(|| "the hold".to_owned());
            self.retry = Some(super::machine::Retry { at: now.mono, tries: 0, why, blocked: true });
        }
    }

    pub(super) fn intake_deadline(&self) -> Option<Deadline> {
        let held = self.memory.hold.as_ref().is_some_and(|hold| hold.targets.is_none()) || self.journal_problem.is_some();
        let settle = self.settled_at().filter(|_| !held).map(|at| Deadline::new(at, "the stamp to settle"));
        let retry =
            self.retry.as_ref().filter(|retry| !held && retry.at != Mono::NEVER).map(|retry| Deadline::new(retry.at, "another try"));
        earliest([settle, retry])
    }

    /// Something is at the stamp's place that is no deploy: whoever has just put it there is not to be told of the deploy before.
    #[must_use]
    pub fn unusable_stamp(&self) -> Option<String> {
        self.stamp_fault.as_ref().filter(|fault| !matches!(fault, StampFault::Missing { .. })).map(|fault| format!("the stamp: {fault}"))
    }

    /// How it stands for somebody who waits for deploy `id`, or for the newest; right as of the last stamp that was read.
    #[must_use]
    pub fn waited(&self, id: Option<&str>) -> Waited {
        if let Some(id) = id
            && !self.memory.known.iter().any(|known| known == id)
        {
            return Waited::Pending { why: format!("deploy {id} has not landed on this host") };
        }
        if id.is_none()
            && let Some(why) = self.unusable_stamp()
        {
            let id = self.memory.stamp.as_ref().map(|stamp| stamp.deploy.id.clone()).unwrap_or_default();
            return Waited::Blocked { id, why };
        }
        if self.pending.is_some() {
            let why = match &self.memory.hold {
                Some(hold) => format!("held by {} until {}: {}", hold.by, hold.until, hold.reason),
                None => "the stamp has changed and is to settle".to_owned(),
            };
            return Waited::Pending { why };
        }
        let newest = self.memory.stamp.as_ref().map(|stamp| stamp.deploy.id.clone()).unwrap_or_default();
        let unmet = self.memory.targets.iter().any(|(name, target)| self.works.contains_key(name) && target.unmet().is_some());
        if self.memory.rollout.is_some() {
            return Waited::Pending { why: "a rollout is under way".to_owned() };
        }
        if let Some(hold) = self.memory.hold.as_ref().filter(|hold| hold.abort && unmet) {
            return Waited::Blocked { id: newest, why: format!("{} by {}; held until {}", hold.reason, hold.by, hold.until) };
        }
        match (&self.retry, unmet) {
            (Some(retry), true) if retry.blocked && retry.tries > 0 => Waited::Blocked { id: newest, why: retry.why.clone() },
            (Some(retry), true) if retry.tries > 0 => Waited::Failed { id: newest, why: retry.why.clone() },
            (_, true) => Waited::Pending { why: "another try is about to begin".to_owned() },
            (_, false) => Waited::Converged { id: newest },
        }
    }
}
