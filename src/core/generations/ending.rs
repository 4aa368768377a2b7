//! Those that linger: they finish what they have, and are stopped when it is certain that nobody needs them.

use std::time::Duration;

use super::{Generations, Phase, QUIET};
use crate::core::fpm::{Early, FpmStep};
use crate::core::loans::Loans;
use crate::core::seen::{Active, UnitSeen};
use crate::core::step::Turn;

/// Whoever is to be ended was seen to be needed by nobody no longer ago than this; whoever is to be started, to have room.
pub(super) const FRESH: Duration = Duration::from_secs(1);

impl Generations {
    /// Old ones finish what they have, and are stopped.
    pub(super) fn advance_ending(&mut self, turn: &mut Turn<'_>, loans: &mut Loans) {
        let now = turn.now.mono;
        let mut over = Vec::new();
        // Until it is known whether the new one stays up.
        let undecided = matches!(self.phase, Phase::Switching | Phase::Watching { .. } | Phase::Back { .. } | Phase::Mending { .. });
        let (current, way_back) = (self.current.clone(), self.way_back());
        let looked = self.look.began();
        let fresh = looked.is_some_and(|began| now.since(began) <= FRESH);
        let mut stale = false;
        for (unit, fpm) in &mut self.ending {
            let needed = undecided || current.as_ref() == Some(unit) || way_back.contains(unit);
            fpm.clear(fresh && !needed && (fpm.is_idle() || !self.held));
            stale |= !fresh && !needed && fpm.wants_to_end(now) && (fpm.is_idle() || !self.held);
            if needed && matches!(fpm.step, FpmStep::Seeing | FpmStep::Counting) {
                // Whoever was to serve has died since.
                fpm.not_yet(now);
            }
            fpm.advance(turn, loans);
            if fpm.step == FpmStep::Prepared {
                let until = fpm.lingers_until();
                fpm.drain(now, until, QUIET, fpm.shared);
                fpm.advance(turn, loans);
            }
            if self.bad.contains(unit) && fpm.cannot_retire() {
                fpm.end_early(now, Early::Mute);
            }
            // A hold lets finish; it does not cut.
            if !needed && fpm.drained(now) && (fpm.is_idle() || !self.held) {
                // From then on it is seen anew who serves, before its last count, which holds for no longer than a look takes: that may have died.
                let from = *self.drained_at.entry(unit.clone()).or_insert(now);
                let seen = fresh && looked.is_some_and(|began| began >= from);
                stale |= !seen;
                if seen && fpm.may_renew(turn, loans) {
                    fpm.renew(now);
                    fpm.advance(turn, loans);
                }
            } else if !fpm.committed() && (needed || !fpm.nearly_drained(now)) {
                // Not when only the look at its own processes has aged meanwhile.
                self.drained_at.remove(unit);
            }
            if fpm.at_rest() {
                over.push(unit.clone());
            }
        }
        for unit in over {
            self.ending.remove(&unit);
            self.drained_at.remove(&unit);
            self.look.want(now);
            self.ended = now;
        }
        if stale {
            self.look.want(now);
        }
    }

    /// Those that may have to serve again in a moment: they finish what they have, and are not stopped yet.
    fn way_back(&self) -> Vec<String> {
        let proving = self.starting.as_ref().is_none_or(|fpm| Some(&fpm.unit) == self.current.as_ref());
        match &self.phase {
            Phase::Looking | Phase::Starting if proving => self.youngest(self.current.as_deref()).into_iter().collect(),
            // Nobody serves: the last one that could is kept, whatever stands in the way of the symlink.
            _ if !self.serves_well() => self.youngest(None).map_or_else(|| self.on_their_way(), |youngest| vec![youngest]),
            _ => Vec::new(),
        }
    }

    /// Those that come up, as after a boot: as soon as one is up it may serve, before anybody has seen that.
    fn on_their_way(&self) -> Vec<String> {
        let comes_up = |unit: &&UnitSeen| unit.active == Active::Activating;
        self.seen.units.iter().filter(comes_up).map(|unit| unit.unit.clone()).collect()
    }

    /// The symlink leads to one that is up, not to one that starts again and again.
    pub(super) fn serves_well(&self) -> bool {
        let current = self.current.as_ref().and_then(|unit| self.unit(unit));
        current.is_some_and(|seen| matches!(seen.active, Active::Active | Active::Reloading))
    }
}
