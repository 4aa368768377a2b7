//! What it is asked: its status pages, and what systemd and its cgroup say.

use std::collections::BTreeMap;
use std::time::Duration;

use super::retire::Retiring;
use super::{Fpm, FpmStep, Purpose, READS, TEST_AGAIN, TESTS};
use crate::core::effect::{Effect, Fault, Looked, Outcome, StatusAsk};
use crate::core::entry::Entry;
use crate::core::evidence::Source;
use crate::core::memory::Want;
use crate::core::seen::{Active, PoolAnswers, UnitSeen};
use crate::core::stale::stale_fpm;
use crate::core::status::UnitEnd;
use crate::core::step::Turn;
use crate::core::time::Mono;

/// For somebody's stop: what is lent gives systemd 5 s more than the grace to end it.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) const STOPPED: &str = "somebody has stopped it, so it is left stopped";

/// When each pool says that it was started, and when one was last found to say another time than before.
#[derive(Debug, Default)]
pub(super) struct Started {
    pools: BTreeMap<String, i64>,
    changed: Mono,
}

impl Fpm {
    /// Its configuration was read before its restart, or not.
    pub(super) fn inspected(&mut self, now: Mono, outcome: &Outcome) {
        match outcome {
            Outcome::Layout(layout) => {
                self.listens(layout);
                self.enter(now, FpmStep::Prepared);
            }
            // It may just be broken for the next one; until then this one is at work.
            _ if self.purpose == Purpose::End && now < self.until => self.inspect_again(now),
            // Without it nobody knows whom the restart would cut: that is worth some patience with systemd.
            Outcome::Fault(Fault::Unreachable(_)) if self.tests < READS => {
                self.tests += 1;
                self.next = now.after(TEST_AGAIN);
            }
            other => {
                self.notes.push(format!("its configuration could not be read ({})", other.said()));
                (self.tests, self.source) = (READS, Source::choose(&self.rules, None));
                self.enter(now, FpmStep::Prepared);
            }
        }
    }

    /// The same after it.
    pub(super) fn inspected_late(&mut self, now: Mono, outcome: &Outcome) {
        match outcome {
            Outcome::Layout(layout) => self.listens(layout),
            _ if self.tests < READS + TESTS => return self.next = now.after(TEST_AGAIN),
            other => {
                let why = "it could not be read after the restart either, so it was neither pinged nor warmed up";
                self.notes.push(format!("{why} ({}): see what php-fpm -tt says", other.said()));
            }
        }
        self.begin_proof(now);
    }

    /// Whether its status says that it was started anew, by somebody else, since it was last asked.
    pub(super) fn note_start(&mut self, now: Mono, answers: &PoolAnswers) -> bool {
        let mut anew = false;
        // Of those that listen on one socket nobody knows who has answered.
        for status in answers.values().flatten().filter(|_| !self.shared) {
            let before = self.started.pools.insert(status.pool.clone(), status.start_time);
            anew |= before.is_some_and(|before| before != status.start_time);
        }
        if anew {
            self.started.changed = now;
        }
        anew
    }

    /// It was seen before it was started anew.
    pub(super) fn is_seen_of_old(&self) -> bool {
        self.seen_at < self.started.changed
    }

    pub(super) fn ask_status(&mut self, turn: &mut Turn<'_>, full: bool, timeout: Duration) {
        if self.source.asks() {
            self.ask_pools(turn, self.source.asks.clone(), full, timeout);
        }
    }

    pub(super) fn ask_pools(&mut self, turn: &mut Turn<'_>, asks: Vec<StatusAsk>, full: bool, timeout: Duration) {
        self.asked_full = full;
        self.pending = Some(turn.ask(Effect::AskPools { asks, full, timeout }));
    }

    pub(super) fn look(&mut self, turn: &mut Turn<'_>) {
        let cgroups = BTreeMap::from([(self.unit.clone(), self.seen.cgroup.clone())]);
        self.look_began = turn.now.mono;
        self.looking = Some(turn.ask(Effect::Look { units: vec![self.unit.clone()], looked: Looked::Exactly, cgroups, names: false }));
        // Of use only where a status page says nothing.
        let sockets: Vec<String> = self.layout.iter().flat_map(|layout| &layout.pools).map(|pool| pool.listen.clone()).collect();
        if (self.silent || !self.source.mute.is_empty()) && !sockets.is_empty() && self.connecting.is_none() {
            self.connecting = Some(turn.ask(Effect::Connections { sockets }));
        }
    }

    pub(super) fn looked(&mut self, turn: &mut Turn<'_>, outcome: &Outcome) {
        let now = turn.now.mono;
        let Outcome::Units(units) = outcome else { return };
        let Some(seen) = units.iter().find(|seen| seen.unit == self.unit) else { return };
        let before = self.seen.invocation.clone();
        self.ladder.iter_mut().for_each(|ladder| ladder.begins(seen));
        match self.step.clone() {
            FpmStep::Draining { .. } | FpmStep::Seeing if self.stopped_by_somebody(turn, seen) => {}
            FpmStep::Draining { .. } | FpmStep::Seeing
                if self.purpose == Purpose::End && seen.invocation != before && seen.active.runs() =>
            {
                // Whatever it is now is drained as well. Its master is another one, which was not stopped, and starts workers.
                self.retiring = Retiring::default();
                self.saw(seen);
                self.drain_again(now);
            }
            FpmStep::Draining { .. } if seen.invocation != before && seen.active.runs() => {
                // Only the proof is left, and for that it need not be drained any longer.
                self.restarted_by_somebody(turn, seen);
                self.unproven = true;
                self.until = now;
                self.enter(now, FpmStep::Draining { until: now });
            }
            FpmStep::Draining { .. } => {
                if !self.source.mute.is_empty() {
                    self.mute.unit(now, seen, &self.source);
                }
                if matches!(seen.active, Active::Active | Active::Reloading) {
                    self.saw(seen);
                } else if self.seen.active.runs() && !seen.active.runs() {
                    // It has failed, and by nobody's will: there is nothing to drain any more.
                    self.seen = seen.clone();
                    self.notes.push(format!("it had failed in the drain (Result={})", seen.result));
                    self.until = now;
                    self.enter(now, FpmStep::Draining { until: now });
                }
            }
            FpmStep::Seeing if seen.invocation != before && seen.active.runs() => {
                self.restarted_by_somebody(turn, seen);
                self.begin_proof(now);
            }
            // Whatever somebody is doing to it comes to its end first.
            FpmStep::Seeing if seen.active == Active::Deactivating && now < self.since.after(self.rules.term_timeout + PATIENCE) => {}
            FpmStep::Seeing => {
                self.saw(seen);
                let asks = self.source.asks() && seen.active.runs();
                self.enter(now, if asks { FpmStep::Counting } else { FpmStep::WaitingForLoan });
            }
            FpmStep::Verifying { .. } | FpmStep::Dating { .. } => self.looked_for_silence(turn, seen),
            FpmStep::Proving { .. } if seen.invocation != before && seen.active.runs() => {
                self.saw(seen);
                self.pending = None;
                self.proves_again(turn);
            }
            FpmStep::Proving { .. } => {
                self.saw(seen);
                self.next = if seen.active == Active::Active && self.rules.proof.is_none() { now } else { self.next };
            }
            FpmStep::Restarting if self.pending.is_none() => {
                self.looked_at = self.look_began;
                self.settle(turn, seen, &before);
            }
            FpmStep::Restarting => {
                self.looked_at = self.look_began;
                if seen.invocation == before && seen.active.runs() {
                    self.seen = seen.clone();
                } else {
                    self.old_gone = true;
                    self.still_there(seen);
                    self.tell_gone(turn);
                }
            }
            _ => {}
        }
    }

    pub(super) fn saw(&mut self, seen: &UnitSeen) {
        self.before = std::mem::replace(&mut self.seen, seen.clone()).processes;
        self.seen_at = self.look_began;
    }

    /// Trap T19.
    fn restarted_by_somebody(&mut self, turn: &mut Turn<'_>, seen: &UnitSeen) {
        self.saw(seen);
        self.tell_gone(turn);
        self.notes.push("somebody else has restarted it".to_owned());
        turn.record(Entry::Unproven { target: self.target.clone(), unit: self.unit.clone() });
    }

    /// It ran and does not, and systemd calls that no failure: that was a person's will. Of what was cut then nothing is our doing.
    fn stopped_by_somebody(&mut self, turn: &mut Turn<'_>, seen: &UnitSeen) -> bool {
        if self.unproven || !self.seen.active.runs() || seen.active != Active::Inactive {
            return false;
        }
        self.seen = seen.clone();
        self.tell_gone(turn);
        turn.unit_ended(&self.target, &self.unit, UnitEnd::Finished, STOPPED);
        self.enter(turn.now.mono, FpmStep::Stopped);
        true
    }
}

/// Whether the unit needs the bracket: its master is older than the landing, or it was restarted and never proven.
#[must_use]
pub fn needs_renewal(turn: &Turn<'_>, target: &str, seen: &UnitSeen, want: &Want) -> bool {
    let memory = turn.memory.targets.get(target).cloned().unwrap_or_default();
    turn.memory.unproven.contains_key(&seen.unit) || !stale_fpm(seen, want, &memory).is_empty()
}
