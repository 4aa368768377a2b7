//! Who needs the bracket: a look at the units of all targets that are to be made fresh.

use std::collections::BTreeMap;
use std::time::Duration;

use super::{InPlace, Phase};
use crate::core::cut::settle_cut_of_earlier;
use crate::core::effect::{Effect, Looked};
use crate::core::fpm::{Fpm, needs_renewal};
use crate::core::memory::Want;
use crate::core::policy::{FpmRules, TargetRules};
use crate::core::seen::{Active, Load, UnitSeen};
use crate::core::stale::{LOOK_FROM, is_urgent, stale_fpm};
use crate::core::status::{TargetState, UnitEnd};
use crate::core::step::Turn;
use crate::core::target::Progress;

/// After a look that failed.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// For a restart that an earlier agent began: what is lent gives systemd 5 s more than the grace to end it.
const PATIENCE: Duration = Duration::from_secs(10);

impl InPlace {
    pub(super) fn look(&mut self, turn: &mut Turn<'_>) {
        if self.looking.is_some() || turn.now.mono < self.next {
            return;
        }
        let working = self.progress.iter().filter(|(_, progress)| **progress == Progress::Working);
        let units: Vec<String> = working.filter_map(|(target, _)| Self::rules(turn, target)).map(|rules| rules.unit.clone()).collect();
        if units.is_empty() {
            self.phase = Phase::Idle;
            return;
        }
        self.look_began = turn.now.mono;
        self.looking = Some(turn.ask(Effect::Look { units, looked: Looked::Exactly, cgroups: BTreeMap::new(), names: false }));
    }

    pub(super) fn seen(&mut self, turn: &mut Turn<'_>, units: &[UnitSeen]) {
        self.trouble = None;
        self.units.clear();
        let now = turn.now.mono;
        if self.restart_under_way(turn, units) {
            self.next = now.after(RETRY);
            return;
        }
        let wants = self.wants.clone();
        let (mut renewals, mut fallen) = (Vec::new(), Vec::new());
        for (target, (want, _)) in &wants {
            if self.progress.get(target) != Some(&Progress::Working) {
                continue;
            }
            let Some(rules) = Self::rules(turn, target) else { continue };
            let seen = units
                .iter()
                .find(|seen| seen.unit == rules.unit)
                .cloned()
                .unwrap_or_else(|| UnitSeen { unit: rules.unit.clone(), ..UnitSeen::default() });
            match untouchable(&seen) {
                Some(why) => self.fail(turn, target, &rules.unit, why),
                None if needs_renewal(turn, target, &seen, want) => renewals.push((target.clone(), rules.clone(), want.clone(), seen)),
                None if has_fallen(turn, target, &seen, want) => fallen.push((target.clone(), rules.clone(), want.clone(), seen)),
                None if self.look_began < want.landed.after(LOOK_FROM) => {
                    self.next = want.landed.after(LOOK_FROM);
                }
                None => {
                    let why = if seen.active.runs() { "runs the newest code" } else { "does not run" };
                    self.notes.insert(target.clone(), (TargetState::Fresh, why.to_owned()));
                    self.progress.insert(target.clone(), Progress::Reached);
                }
            }
        }
        // An emergency does not wait for those that are none; they have a bracket of their own after it, and do not wait for another try of what it
        // has started.
        self.forced = renewals.iter().any(|(_, _, want, seen)| is_urgent(seen.main_start, want));
        for (target, rules, want, seen) in renewals {
            if is_urgent(seen.main_start, &want) == self.forced {
                let unit = Fpm::new(&target, &rules, want, seen, now);
                self.units.insert(unit.unit.clone(), unit);
            }
        }
        if self.units.is_empty() && fallen.is_empty() {
            self.phase =
                if self.progress.values().any(|progress| *progress == Progress::Working) { Phase::Looking } else { Phase::Returning };
            return;
        }
        for (unit, fpm) in &mut self.units {
            let memory = turn.memory.targets.get(&fpm.target).cloned().unwrap_or_default();
            let Some(seen) = units.iter().find(|seen| seen.unit == *unit) else { continue };
            settle_cut_of_earlier(turn, unit, cut_happened(turn, seen));
            if turn.memory.unproven.contains_key(unit) && stale_fpm(seen, &fpm.want, &memory).is_empty() {
                fpm.resume_unproven();
            }
            turn.phase_began(&fpm.target.clone(), "preflight");
        }
        // Nobody serves: the host is taken out, and nothing is restarted before the next try (traps T20, T22).
        self.phase = if self.units.is_empty() { Phase::LeavingPool } else { Phase::Preparing };
        self.rounds = 0;
        for (target, rules, want, seen) in fallen {
            let mut unit = Fpm::new(&target, &rules, want, seen, now);
            unit.fallen(turn);
            self.units.insert(unit.unit.clone(), unit);
        }
    }

    pub(super) fn rules<'p>(turn: &Turn<'p>, target: &str) -> Option<&'p FpmRules> {
        match turn.policy.targets.get(target) {
            Some(TargetRules::PhpFpm(rules)) => Some(rules),
            _ => None,
        }
    }

    /// An earlier agent has begun to restart one of them and systemd is still at it: that comes to its end first.
    fn restart_under_way(&mut self, turn: &Turn<'_>, units: &[UnitSeen]) -> bool {
        let begun = |seen: &UnitSeen| seen.active == Active::Deactivating || seen.stop_job;
        let stopping = |seen: &&UnitSeen| begun(seen) && turn.memory.unproven.contains_key(&seen.unit);
        let Some(seen) = units.iter().find(stopping) else {
            self.patience = None;
            return false;
        };
        let rules = turn.memory.unproven.get(&seen.unit).and_then(|target| Self::rules(turn, target));
        let term_timeout = rules.map_or(RETRY, |rules| rules.term_timeout);
        let until = *self.patience.get_or_insert(turn.now.mono.after(term_timeout + PATIENCE));
        turn.now.mono < until
    }

    fn fail(&mut self, turn: &mut Turn<'_>, target: &str, unit: &str, why: &str) {
        turn.unit_ended(target, unit, UnitEnd::Failed, why);
        self.progress.insert(target.to_owned(), Progress::Failed { why: format!("{unit}: {why}"), blocked: false });
        self.notes.insert(target.to_owned(), (TargetState::Failed, why.to_owned()));
    }
}

/// It was proven for this, and has failed since, also if systemd has tried to bring it up again meanwhile.
fn has_fallen(turn: &Turn<'_>, target: &str, seen: &UnitSeen, want: &Want) -> bool {
    let fresh = turn.memory.targets.get(target).and_then(|memory| memory.fresh.get(&seen.unit));
    seen.active == Active::Failed && fresh.is_some_and(|fresh| fresh.landed == want.landed)
}

/// One that is still being stopped serves nobody any more either.
fn cut_happened(turn: &Turn<'_>, seen: &UnitSeen) -> bool {
    let ends = !seen.active.runs() || seen.active == Active::Deactivating;
    turn.memory.cutting.get(&seen.unit).is_some_and(|cutting| cutting.invocation != seen.invocation || ends)
}

/// Why a php-fpm cannot be renewed as it is.
#[must_use]
pub fn untouchable(unit: &UnitSeen) -> Option<&'static str> {
    match unit.load {
        Load::NotFound => Some("there is no such unit: mend `unit` in the configuration, or install it"),
        Load::Bad => Some("systemd cannot load it: see systemctl status"),
        Load::Masked => Some("it is masked, so it could not come back: unmask it"),
        Load::Loaded if unit.refuse_manual_stop || unit.refuse_manual_start => {
            Some("it refuses a manual stop or start (RefuseManualStop=, RefuseManualStart=)")
        }
        Load::Loaded => None,
    }
}
