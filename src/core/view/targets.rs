//! What status says of each target: what is at work on its units, and what was seen of them at rest.

use crate::core::inplace::untouchable;
use crate::core::machine::{Machine, Work};
use crate::core::memory::{TargetMemory, Want};
use crate::core::policy::TargetRules;
use crate::core::stale::{Stale, stale, stale_fpm};
use crate::core::status::{STOPPED, TargetState, TargetView, UnitView};
use crate::core::survey::{AtRest, Resting};
use crate::core::target::Progress;
use crate::core::time::Now;

/// What a target is to be fresh for, and whether it still has to become so.
#[derive(Debug, Clone)]
struct Wanted {
    want: Want,
    unmet: bool,
    /// Its deploy has landed and no rollout has begun for it.
    waits: bool,
}

impl Machine {
    pub(super) fn target_views(&self, now: Now) -> Vec<TargetView> {
        let known = self.works.iter().filter_map(|(name, work)| Some((name, work, self.policy.targets.get(name)?)));
        known.map(|(name, work, rules)| self.target_view(name, work, rules, now)).collect()
    }

    /// What stands in the way of the next deploy, as far as it was seen at rest.
    pub(super) fn in_the_way(&self) -> Vec<String> {
        let php = self.policy.targets.iter().filter(|(_, rules)| matches!(rules, TargetRules::PhpFpm(_)));
        let units = php.filter_map(|(name, _)| self.survey.of(name)).flat_map(|rest| &rest.units);
        units.filter_map(|unit| untouchable(&unit.seen).map(|why| format!("{}: {why}", unit.seen.unit))).collect()
    }

    fn target_view(&self, name: &str, work: &Work, rules: &TargetRules, now: Now) -> TargetView {
        let mut units: Vec<UnitView> = match (work, rules) {
            (Work::Generations(work), TargetRules::Generations(rules)) => {
                work.views(rules, &self.memory.targets.get(name).cloned().unwrap_or_default(), now)
            }
            (Work::Scheduled(work), _) => work.views(now),
            (Work::Services(work), _) => work.views(now),
            (Work::Strays(work), _) => work.views(now),
            (Work::Fpm, TargetRules::PhpFpm(rules)) => self.inplace.view(name, rules, now).into_iter().collect(),
            (Work::Fpm | Work::Generations(_), _) => Vec::new(),
        };
        for unit in units.iter_mut().filter(|unit| unit.why.is_empty()) {
            unit.why = match unit.state {
                TargetState::Draining => "is being asked what is in flight".to_owned(),
                state => state.word().to_owned(),
            };
        }
        let memory = self.memory.targets.get(name).cloned().unwrap_or_default();
        let wanted = self.wanted(name, &memory);
        let rest = self.survey.of(name);
        match rest {
            Some(rest) => self.add_rest(name, rules, &memory, wanted.as_ref(), rest, &mut units),
            None => {
                // What was said of a unit was said for another deploy, unless its work has looked since.
                for wanted in wanted.iter().filter(|wanted| wanted.unmet) {
                    let unseen = |unit: &UnitView| match work {
                        Work::Fpm => !self.inplace.is_about(&unit.unit, &wanted.want),
                        Work::Generations(_) | Work::Scheduled(_) | Work::Services(_) | Work::Strays(_) => {
                            wanted.waits || self.gathers(name) || self.held(name)
                        }
                    };
                    let fresh = |unit: &UnitView| unit.state <= TargetState::Adopted && !renewed(&memory, &unit.unit, &wanted.want);
                    for unit in units.iter_mut().filter(|unit| fresh(unit) && unseen(unit)) {
                        (unit.state, unit.why) = (TargetState::Stale, "about to be looked at".to_owned());
                    }
                }
            }
        }
        // Before it was looked at nobody knows whether a timer has started it meanwhile.
        if rest.is_some() && !wanted.as_ref().is_some_and(|wanted| wanted.unmet) {
            self.add_settling(name, now, &mut units);
        }
        for unit in units.iter_mut().filter(|unit| unit.state == TargetState::Left) {
            unit.starved = self.memory.starved.get(&unit.unit).is_some_and(|of| of == name);
        }
        if let Some((of, opcache)) = self.opcaches.view(name) {
            units.iter_mut().filter(|unit| unit.unit == of).for_each(|unit| unit.opcache = Some(opcache.clone()));
        }
        let (state, mut why) = self.target_state(name, &memory, wanted.as_ref(), &units);
        let runs = |unit: &str| rest.is_some_and(|rest| rest.units.iter().any(|of| of.seen.unit == unit && of.seen.active.runs()));
        if let Some(down) = units.iter().find(|unit| state == TargetState::Fresh && unit.why.starts_with(STOPPED) && !runs(&unit.unit)) {
            why = format!("{why}; {}: {}", down.unit, down.why);
        }
        let deadline = units.iter().filter_map(|unit| unit.deadline).max();
        let looked_at = rest.map(|rest| rest.at);
        TargetView { name: name.to_owned(), kind: rules.kind().to_owned(), state, why, deadline, looked_at, units }
    }

    /// Scripts that run again only when what they left behind has settled: the host has converged, and owes them that.
    fn add_settling(&self, target: &str, now: Now, units: &mut Vec<UnitView>) {
        for (name, owed) in self.memory.reruns.iter().filter(|(_, owed)| owed.target == target) {
            let Some(settles) = &owed.settles else { continue };
            if !units.iter().any(|unit| unit.unit == *name) {
                units.push(UnitView::new(name, TargetState::Fresh, String::new()).aged(&Stale::default(), None, now));
            }
            for unit in
                units.iter_mut().filter(|unit| unit.unit == *name && unit.state <= TargetState::Adopted && unit.oldest_start.is_none())
            {
                unit.deadline = Some(settles.until);
                unit.why = "stopped; it runs again when what it left behind has settled (settle_after)".to_owned();
            }
        }
        units.sort_by(|a, b| a.unit.cmp(&b.unit));
    }

    /// A deploy that has landed counts from then on, whether or not its rollout may begin.
    fn wanted(&self, name: &str, memory: &TargetMemory) -> Option<Wanted> {
        let pending = self.pending.as_ref().map(|pending| &pending.deploy).filter(|deploy| deploy.targets.contains(name));
        if let Some(deploy) = pending {
            let want = Want::of(deploy, memory.want.as_ref(), false);
            return Some(Wanted { want, unmet: true, waits: true });
        }
        let want = memory.want.clone()?;
        Some(Wanted { want, unmet: memory.unmet().is_some(), waits: false })
    }

    /// The units as they were seen at rest. What the last work on a unit has to say of it beyond "fresh" is kept.
    fn add_rest(
        &self,
        name: &str,
        rules: &TargetRules,
        memory: &TargetMemory,
        wanted: Option<&Wanted>,
        rest: &AtRest,
        units: &mut Vec<UnitView>,
    ) {
        if wanted.is_some_and(|wanted| wanted.unmet) {
            // What was said of a unit was said for another deploy, and it does not run.
            let runs = |unit: &UnitView| rest.units.iter().any(|resting| resting.seen.unit == unit.unit);
            units.retain(|unit| unit.state > TargetState::Adopted || runs(unit));
        }
        let php = matches!(rules, TargetRules::PhpFpm(_));
        let landed_since = |wanted: &&Wanted| wanted.unmet && rest.looked < wanted.want.landed;
        let changed = wanted.filter(landed_since).is_some();
        for resting in &rest.units {
            let mut view = self.at_rest(name, rules, memory, wanted, resting);
            // What did not run may have come up between the look and the landing; so may a script of which only its ExecStopPost= was seen.
            if changed && (php || resting.oldest.is_none()) && view.state == TargetState::Fresh {
                (view.state, view.why) = (TargetState::Stale, "about to be looked at".to_owned());
            }
            match units.iter_mut().find(|unit| unit.unit == view.unit) {
                Some(unit) if unit.state > TargetState::Adopted => {
                    unit.oldest_start = unit.oldest_start.or(view.oldest_start);
                    unit.stale_processes = unit.stale_processes.max(view.stale_processes);
                }
                Some(unit) => {
                    if view.state == TargetState::Fresh {
                        view.why.clone_from(&unit.why);
                    }
                    *unit = view;
                }
                None => units.push(view),
            }
        }
        units.sort_by(|a, b| a.unit.cmp(&b.unit));
    }

    fn at_rest(&self, name: &str, rules: &TargetRules, memory: &TargetMemory, wanted: Option<&Wanted>, resting: &Resting) -> UnitView {
        let seen = &resting.seen;
        let php = matches!(rules, TargetRules::PhpFpm(_));
        let old = match wanted {
            Some(wanted) if php => stale_fpm(seen, &wanted.want, memory),
            // Only what carries deployed code is kept of what rests.
            Some(wanted) => stale(seen, &[], &wanted.want, memory),
            None => Stale::default(),
        };
        let before = |wanted: &Wanted| format!("runs code from before deploy {}", wanted.want.id);
        let (state, why) = match (untouchable(seen).filter(|_| php), wanted) {
            (Some(why), _) => (TargetState::Failed, why.to_owned()),
            (None, _) if !seen.active.runs() => (TargetState::Fresh, "does not run".to_owned()),
            (None, None) => (TargetState::Adopted, "runs what it ran when the agent first saw it".to_owned()),
            (None, Some(_)) if old.is_empty() => (TargetState::Fresh, "runs the newest code".to_owned()),
            (None, Some(wanted)) if wanted.unmet && self.held(name) => (TargetState::Held, before(wanted)),
            (None, Some(wanted)) if wanted.unmet || php => (TargetState::Stale, before(wanted)),
            (None, Some(wanted)) => (TargetState::Left, format!("{}, as its rules allow", before(wanted))),
        };
        UnitView { stale_processes: old.count(), oldest_start: resting.oldest, ..UnitView::new(&seen.unit, state, why) }
    }

    fn target_state(&self, name: &str, memory: &TargetMemory, wanted: Option<&Wanted>, units: &[UnitView]) -> (TargetState, String) {
        let worst = units.iter().max_by_key(|unit| unit.state);
        let of_worst = |worst: &UnitView| {
            let others = units.iter().filter(|unit| unit.state == worst.state).count() - 1;
            let more = if others == 0 { String::new() } else { format!(" (and {others} more)") };
            (worst.state, format!("{}: {}{more}", worst.unit, worst.why))
        };
        if let Some(failed) = worst.filter(|unit| unit.state == TargetState::Failed) {
            return of_worst(failed);
        }
        let Some(wanted) = wanted else {
            return (TargetState::Adopted, format!("adopted, not renewed since {}", memory.adopted_at));
        };
        let id = &wanted.want.id;
        let at_work = |unit: &UnitView| {
            !matches!(
                unit.state,
                TargetState::Fresh
                    | TargetState::Adopted
                    | TargetState::Left
                    | TargetState::Lingering
                    | TargetState::Stale
                    | TargetState::Held
            )
        };
        if wanted.unmet && !units.iter().any(at_work) {
            if let Some(hold) = self.memory.hold.as_ref().filter(|_| self.held(name)) {
                return (TargetState::Held, format!("deploy {id} waits: held by {} until {}: {}", hold.by, hold.until, hold.reason));
            }
            if wanted.waits {
                return (TargetState::Stale, format!("deploy {id} has landed, and its rollout is about to begin"));
            }
        }
        if let Some(worst) = worst.filter(|unit| unit.state > TargetState::Adopted) {
            return of_worst(worst);
        }
        match (self.progress(name), wanted.unmet) {
            (Progress::Failed { why, .. }, true) => (TargetState::Failed, why),
            (Progress::Working, true) if !units.is_empty() && !self.memory.depooled.is_empty() => {
                let pools = self.memory.depooled.keys().cloned().collect::<Vec<_>>().join(", ");
                (TargetState::Fresh, format!("renewed for {id}; this host waits to be put back into pool {pools}"))
            }
            (Progress::Working, true) if !units.is_empty() => (TargetState::Verifying, format!("renewed for {id}; seen to once more")),
            (_, true) => (TargetState::Stale, format!("to be renewed for {id}")),
            (_, false) => (TargetState::Fresh, format!("fresh for {id}")),
        }
    }
}

/// Whether this agent started what runs of this unit for this.
fn renewed(memory: &TargetMemory, unit: &str, want: &Want) -> bool {
    memory.fresh.get(unit).is_some_and(|fresh| fresh.landed >= want.landed)
}
