//! When is looked for strays, and what a look says of each. A look reads all of /proc: never more often than something waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::stray::{Stray, StrayStep};
use super::{Reach, Strays, reach, settle};
use crate::core::effect::{Effect, WorkerRef};
use crate::core::ladder::Rung;
use crate::core::policy::StrayRules;
use crate::core::seen::{ProcessSeen, StraySeen};
use crate::core::stale::{LOOK_FROM, START_BLUR, code_start};
use crate::core::status::UnitEnd;
use crate::core::step::Turn;

const DRAIN_LOOK: Duration = Duration::from_secs(5);
const STOP_LOOK: Duration = Duration::from_millis(500);
/// After a signal.
pub(super) const SOON: Duration = Duration::from_millis(50);
/// While nothing is to be done but some go on, or targets still have old ones.
const LEFT_LOOK: Duration = Duration::from_secs(30);

impl Strays {
    pub(super) fn seen(&mut self, turn: &mut Turn<'_>, rules: &StrayRules, seen: &[StraySeen]) {
        let Some(want) = self.pursuit.want().cloned() else { return };
        let began = self.pursuit.look.began().unwrap_or_default();
        let limit = want.landed.after(START_BLUR);
        let by_pid: BTreeMap<u32, &ProcessSeen> = seen.iter().map(|stray| (stray.process.pid, &stray.process)).collect();
        let drain_until = self.pursuit.drain_until(turn.now.mono, rules.drain_timeout);
        let mut present = BTreeSet::new();
        let were_of_targets = std::mem::take(&mut self.of_targets);
        for stray in seen {
            let key = WorkerRef { pid: stray.process.pid, start: stray.process.start, cgroup: stray.cgroup.clone() };
            let loaded = code_start(&stray.process, &by_pid);
            if let Some(known) = self.strays.get_mut(&key) {
                known.seen_at = began;
                known.seen = stray.clone();
                known.loaded = loaded;
                present.insert(key);
                continue;
            }
            // What was not there, or had another name, has loaded its code since; a new copy of an old process has not.
            let may_be_old = !self.gathered || stray.process.start >= limit || were_of_targets.contains(&key);
            let reach = reach(turn.policy, stray);
            if loaded >= limit || !may_be_old {
                continue;
            }
            if reach == Reach::Elsewhere {
                self.of_targets.insert(key);
                continue;
            }
            let mut found = Stray::new(&self.name, stray.clone(), reach, loaded, turn.now.mono, drain_until);
            found.seen_at = began;
            match self.pursuit.works() {
                true => {
                    // One that was given up in an earlier rollout may still be being stopped.
                    if let Some(cut) = turn.memory.stray_cut(&key).cloned() {
                        found = Stray::taken_up(&self.name, &cut, turn.now.mono);
                        found.seen_at = began;
                        found.seen = stray.clone();
                    }
                }
                // Nothing is at work: what goes on does so with the consent of its rules, or of whoever has held it.
                false => found.step = StrayStep::Left("goes on with old code".to_owned()),
            }
            present.insert(key.clone());
            self.strays.insert(key, found);
        }
        self.gathered |= began >= want.landed.after(LOOK_FROM);
        for (key, stray) in &mut self.strays {
            if present.contains(key) || stray.pending.is_some() {
                continue;
            }
            match stray.step {
                StrayStep::Draining { .. } | StrayStep::Stopping => stray.gone(turn),
                StrayStep::Done(UnitEnd::Failed, _) => {
                    let _ = settle(turn, key);
                }
                StrayStep::Left(_) | StrayStep::Done(..) => {}
            }
        }
        // What was left and has ended is not told of any more.
        self.strays.retain(|key, stray| present.contains(key) || !matches!(stray.step, StrayStep::Left(_)));
    }

    pub(super) fn look_when_due(&mut self, turn: &mut Turn<'_>, rules: &StrayRules) {
        let now = turn.now.mono;
        let any = |what: fn(&StrayStep) -> bool| self.strays.values().any(|stray| what(&stray.step));
        let look = &mut self.pursuit.look;
        if self.strays.values().any(|stray| stray.step == StrayStep::Stopping && stray.ladder.is_some()) {
            look.want(now.after(STOP_LOOK));
        } else if any(|step| matches!(step, StrayStep::Draining { .. } | StrayStep::Stopping)) {
            look.want(now.after(DRAIN_LOOK));
        } else if !self.of_targets.is_empty() || any(|step| matches!(step, StrayStep::Left(_) | StrayStep::Done(UnitEnd::Failed, _))) {
            look.want(now.after(LEFT_LOOK));
        }
        let unseen = |stray: &Stray| match (&stray.step, &stray.ladder) {
            (StrayStep::Draining { until }, _) => now >= *until && stray.seen_at < *until,
            (StrayStep::Stopping, Some(ladder)) => ladder.rung(now) == Rung::Kill && stray.seen_at < ladder.grace_over(),
            _ => false,
        };
        if self.strays.values().any(unseen) {
            look.want(now);
        }
        look.ask_for(turn, || Effect::FindStrays { code: rules.code.clone() });
    }
}
