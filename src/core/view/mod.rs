//! What status says: the machine seen from outside, in the contract's words.

mod owed;
mod targets;

use crate::core::deploy::StampFault;
use crate::core::effect::Effect;
use crate::core::machine::{Machine, Work};
use crate::core::pool::{Goal, Pool};
use crate::core::status::{
    AgentView, BegunView, HoldView, PoolView, ReachedView, SlotView, StampView, State, StatusView, TargetState, TargetView, UnitView,
};
use crate::core::time::{Now, Wall};

/// The version of the schema of status.json.
pub const SCHEMA: u32 = 1;

/// What the host waits for, what comes next, and when.
#[derive(Debug, Default)]
struct Waiting {
    waiting_for: Option<String>,
    next: Option<String>,
    deadline: Option<Wall>,
}

impl Machine {
    /// Everything there is to say now. Casualties are shown without their request lines, and requests in flight only as they are.
    #[must_use]
    pub fn status(&self, now: Now, agent: AgentView) -> StatusView {
        let targets = self.target_views(now);
        let pools: Vec<PoolView> = self.pools.values().map(|pool| pool.view(self.memory.depooled.contains_key(pool.name()))).collect();
        let state = self.state();
        let waiting = self.waiting(now, state, &targets);
        let last = self.memory.rollout.as_ref().map(|rollout| rollout.view.clone()).or_else(|| self.memory.last_rollout.clone());
        let last_rollout = last.map(|mut view| {
            for casualty in &mut view.casualties {
                casualty.request = None;
            }
            view.flights.clear();
            view
        });
        StatusView {
            schema: SCHEMA,
            written_at: now.wall,
            agent,
            stamp: self.stamp_view(),
            state,
            reached: self.memory.reached.as_ref().map(|reached| ReachedView { id: reached.id.clone(), at: reached.at }),
            waiting_for: waiting.waiting_for,
            next: waiting.next,
            deadline: waiting.deadline,
            hold: self.memory.hold.as_ref().map(|hold| HoldView {
                reason: hold.reason.clone(),
                by: hold.by.clone(),
                until: hold.until,
                targets: hold.targets.as_ref().map(|targets| targets.iter().cloned().collect()),
            }),
            begun: self.memory.beginning().map(|begun| BegunView { id: begun.id.clone(), since: begun.since, until: begun.until }),
            pools,
            slot: SlotView { state: "none".to_owned(), holders: Vec::new() },
            targets,
            last_rollout,
            problems: self.problems(),
            owed: self.owed(),
            totals: self.memory.totals.clone(),
        }
    }

    fn stamp_view(&self) -> StampView {
        let deploy = self.pending.as_ref().map(|pending| &pending.deploy).or(self.memory.stamp.as_ref().map(|stamp| &stamp.deploy));
        StampView {
            path: self.policy.unusable.as_ref().and(self.memory.watching.clone()).unwrap_or_else(|| self.policy.stamp.path.clone()),
            unknown_targets: self.unknown_targets(),
            id: deploy.map(|deploy| deploy.id.clone()),
            landed_at: deploy.map(|deploy| deploy.landed_at),
            error: self.stamp_fault.as_ref().map(|fault| match (fault, deploy) {
                (StampFault::Missing { path }, Some(deploy)) => {
                    format!("{path} has been removed; the last deploy was {}, and the next one makes it again", deploy.id)
                }
                (fault, _) => fault.to_string(),
            }),
        }
    }

    fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> = Vec::new();
        problems.extend(self.policy.unusable.clone());
        problems.extend(self.config_problem.clone());
        problems.extend(self.journal_problem.clone());
        problems.extend(self.loans.trouble().map(str::to_owned));
        problems.extend(self.debts.trouble().map(str::to_owned));
        problems.extend(self.begin.trouble().map(str::to_owned));
        problems.extend(self.inplace.trouble().map(str::to_owned));
        problems.extend(self.survey.trouble().map(str::to_owned));
        problems.extend(self.opcaches.problems());
        problems.extend(self.in_the_way());
        for work in self.works.values() {
            let trouble = match work {
                Work::Fpm => None,
                Work::Generations(work) => work.trouble(),
                Work::Scheduled(work) => work.trouble(),
                Work::Services(work) => work.trouble(),
                Work::Strays(work) => work.trouble(),
            };
            problems.extend(trouble.map(str::to_owned));
        }
        let troubled = |pool: &&Pool| pool.goal() != Goal::Rest;
        problems.extend(self.pools.values().filter(troubled).filter_map(|pool| pool.trouble().map(str::to_owned)));
        if self.memory.rollout.is_none() && !self.memory.depooled.is_empty() {
            let pools = self.memory.depooled.keys().cloned().collect::<Vec<_>>().join(", ");
            let units = self.memory.unproven.keys().cloned().collect::<Vec<_>>().join(", ");
            let why = if units.is_empty() { "it could not be put back".to_owned() } else { format!("{units} is not proven to serve") };
            problems.push(format!("this agent took this host out of pool {pools}, and {why}"));
        }
        problems.sort();
        problems.dedup();
        problems
    }

    fn state(&self) -> State {
        let unmet = self.unmet().next().is_some();
        let stranded = self.memory.rollout.is_none() && !self.memory.depooled.is_empty();
        let repool_fails = self.repool_trouble().is_some();
        let committed = self.memory.rollout.as_ref().is_some_and(|rollout| rollout.over_hold || self.inplace.needs_out());
        if self.memory.hold.is_some() && !committed {
            return if stranded || repool_fails { State::Failed } else { State::Held };
        }
        if repool_fails || (stranded && !self.memory.unproven.is_empty()) {
            return State::Failed;
        }
        if self.policy.unusable.is_some() {
            return State::Blocked;
        }
        if self.journal_problem.is_some() && (unmet || self.pending.is_some()) {
            return State::Blocked;
        }
        if self.memory.rollout.is_some() || self.pending.is_some() {
            return State::Converging;
        }
        match (&self.retry, unmet) {
            (Some(retry), true) if retry.tries > 0 && !retry.blocked => State::Failed,
            (Some(retry), true) if retry.tries > 0 => State::Blocked,
            (_, true) => State::Converging,
            // Nothing is left to renew here, but the pool is to have this host back.
            (_, false) if stranded => State::Converging,
            (_, false) if self.works.is_empty() || self.memory.targets.values().all(|target| target.want.is_none()) => State::Idle,
            (_, false) => State::Converged,
        }
    }

    fn waiting(&self, now: Now, state: State, targets: &[TargetView]) -> Waiting {
        if state == State::Held {
            let hold = self.memory.hold.as_ref();
            return Waiting {
                waiting_for: hold.map(|hold| format!("the hold of {}: {}", hold.by, hold.reason)),
                next: Some(self.waits_for_hold().map_or("nothing waits for it".to_owned(), |id| format!("deploy {id} is rolled out"))),
                deadline: hold.map(|hold| hold.until),
            };
        }
        if let Some(pool) = self.pools.values().find(|pool| pool.goal() == Goal::In && self.memory.depooled.contains_key(pool.name())) {
            let trouble = pool.trouble().map(|trouble| format!(": {trouble}")).unwrap_or_default();
            let next = pool.deadline().map(|deadline| now.wall_of(deadline.at));
            let text = format!("pool {} to have this host back{trouble}", pool.name());
            return Waiting { waiting_for: Some(text), next: Some("try again".to_owned()), deadline: next };
        }
        // Between two tries nothing is at work on any unit, whatever its last state was.
        let resting = self.memory.rollout.is_none();
        let units = targets.iter().filter(|_| !resting).flat_map(|target| target.units.iter());
        let working = units.filter(|unit| {
            !matches!(
                unit.state,
                TargetState::Fresh | TargetState::Left | TargetState::Lingering | TargetState::Failed | TargetState::Adopted
            )
        });
        // The one that is due first is what the host waits for, or the next try of what has failed beside it.
        let again = self.next_try().map(|at| now.wall_of(at));
        let before = |unit: &&UnitView| again.is_none_or(|again| unit.deadline.is_some_and(|due| due <= again));
        if let Some(unit) = working.min_by_key(|unit| (unit.deadline.is_none(), unit.deadline)).filter(before) {
            let more = match unit.state {
                TargetState::Stale if self.pools.values().any(|pool| pool.goal() == Goal::Out) => {
                    self.pools.values().find_map(|pool| pool.trouble()).map(|trouble| format!(": {trouble}")).unwrap_or_default()
                }
                _ => String::new(),
            };
            return Waiting {
                waiting_for: Some(format!("{}: {}{more}", unit.unit, unit.why)),
                next: Some(next_of(unit, self.kind_of(targets, &unit.unit)).to_owned()),
                deadline: unit.deadline,
            };
        }
        if let Some(deadline) = self.intake_deadline().filter(|_| !matches!(state, State::Idle | State::Converged)) {
            let why = self.retry.as_ref().filter(|_| self.pending.is_none()).map(|retry| retry.why.clone());
            let what = why.unwrap_or_else(|| deadline.why.clone());
            let next = if self.pending.is_some() { "a rollout" } else { "another try" };
            return Waiting { waiting_for: Some(what), next: Some(next.to_owned()), deadline: Some(now.wall_of(deadline.at)) };
        }
        if let Some(problem) = &self.policy.unusable {
            let next = "mend it, then systemctl reload restart-agent";
            return Waiting { waiting_for: Some(problem.clone()), next: Some(next.to_owned()), deadline: None };
        }
        match (state, &self.journal_problem) {
            (State::Blocked, Some(problem)) => {
                Waiting { waiting_for: Some(problem.clone()), next: Some("what waits goes on".to_owned()), deadline: None }
            }
            (State::Converging, _) => {
                let act = self.memory.open.values().next().map_or("systemd to answer", describe);
                Waiting { waiting_for: Some(act.to_owned()), next: None, deadline: None }
            }
            _ => Waiting::default(),
        }
    }

    /// The deploy that goes on when the hold ends.
    fn waits_for_hold(&self) -> Option<&str> {
        let pending = self.pending.as_ref().map(|pending| pending.deploy.id.as_str());
        pending.or_else(|| self.unmet().next().map(|(_, want)| want.id.as_str()))
    }

    /// What the unit's target is, as far as that says what comes next.
    fn kind_of<'t>(&self, targets: &'t [TargetView], unit: &str) -> &'t str {
        let Some(target) = targets.iter().find(|target| target.units.iter().any(|seen| seen.unit == unit)) else { return "" };
        match self.works.get(&target.name) {
            Some(Work::Generations(_)) => "generations",
            _ => target.kind.as_str(),
        }
    }
}

fn describe(effect: &Effect) -> &'static str {
    match effect {
        Effect::Lend { .. } | Effect::Unlend { .. } => "systemd to reload",
        Effect::Depool { .. } | Effect::Repool { .. } => "the pool command to end",
        Effect::Switch { .. } => "the symlink to be switched",
        _ => "systemd to answer",
    }
}

fn next_of(unit: &UnitView, kind: &str) -> &'static str {
    match (unit.state, kind) {
        (TargetState::Stale, "generations") => "a new generation",
        (TargetState::Stale, "scheduled" | "strays") => "what its rules say",
        (TargetState::Starting, "generations") => "its proof, then the switch",
        (TargetState::Verifying, "generations") => "the old one finishes what it has",
        (TargetState::Draining, "scheduled") => "SIGTERM",
        (TargetState::Draining, _) => "RestartUnit",
        (TargetState::Asked | TargetState::Held, "scheduled") => "SIGTERM, unless its rules let it finish",
        (TargetState::Asked | TargetState::Held, "service") => "RestartUnit, unless its rules let it finish",
        (TargetState::Stopping, _) if unit.deadline.is_some() => "SIGKILL",
        (TargetState::Stopping, "scheduled" | "strays" | "generations") => "SIGTERM",
        (TargetState::Killing, _) => "report it as stuck",
        (TargetState::Verifying, "php-fpm") => "back into the pool",
        (TargetState::Verifying, _) => "nothing, if it is well",
        (TargetState::Starting, _) => "its start",
        _ => "RestartUnit",
    }
}
