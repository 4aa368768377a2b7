//! A service that is owed its start is owed it until it is seen up.

use std::time::Duration;

use super::{Debt, Debts};
use crate::core::entry::Entry;
use crate::core::memory::OwedRun;
use crate::core::seen::{Active, UnitSeen};
use crate::core::service::{START_PAUSE, START_TIMEOUT, START_TRIES};
use crate::core::status::UnitEnd;
use crate::core::step::Turn;
use crate::core::time::Mono;

/// While its start lasts.
const START_LOOK: Duration = Duration::from_secs(1);
/// When its first tries are over it is told as failed, and tried ever more rarely: at first after so long, at last after 16 times that.
const RARELY: Duration = Duration::from_secs(60);
const SLOWER: u32 = 4;

/// How often systemd has taken its start, and when it did last.
#[derive(Debug, Clone, Copy)]
pub(super) struct Starts {
    times: u32,
    at: Mono,
    told: bool,
}

impl Debts {
    pub(super) fn bring_up(&mut self, turn: &mut Turn<'_>, seen: &UnitSeen, owed: &OwedRun) {
        let (unit, now) = (&seen.unit, turn.now.mono);
        let run = owed.after.is_empty() || owed.has_run(seen);
        let started = self.starts.contains_key(unit) || (run && turn.memory.maybe_down.contains(unit));
        let up = matches!(seen.active, Active::Active | Active::Reloading);
        if started && up {
            return self.brought_up(turn, seen, owed, UnitEnd::Renewed, "stopped, and started again with the new code");
        }
        let stopped = self.stopped.contains(unit) && !seen.is_to_run_again();
        if !started {
            let why = if seen.active.runs() {
                "it runs"
            } else if owed.has_run(seen) {
                "it has run since"
            } else if stopped || !seen.has_ended_well() {
                "it failed, or somebody stopped it"
            } else {
                return self.start(turn, seen, Debt::BringUp);
            };
            return turn.record(Entry::RerunSettled { unit: unit.clone(), why: why.to_owned() });
        }
        // What does not come up systemd calls failed: this one was up, or somebody has stopped it.
        let ended = seen.active == Active::Inactive && owed.has_run(seen) && !turn.memory.is_failed_run(seen);
        if !seen.active.runs() && !seen.job && (stopped || ended) {
            return self.brought_up(turn, seen, owed, UnitEnd::Finished, "stopped, and started again; it has ended since");
        }
        let starts = self.starts_of(unit, now);
        if seen.job || seen.active.runs() {
            if now >= starts.at.after(START_TIMEOUT) {
                self.trouble = Some(format!("{unit} was started again, and is not up yet"));
            }
            self.next = self.next.min(now.after(START_LOOK));
            return;
        }
        if !seen.invocation.is_empty() && !turn.memory.is_failed_run(seen) {
            turn.record(Entry::DidNotComeUp { unit: unit.clone(), invocation: seen.invocation.clone() });
        }
        let Starts { times, at, told } = *starts;
        let pause = match times {
            0 => Duration::ZERO,
            _ if times < START_TRIES => START_PAUSE,
            _ => RARELY * (1 << (times - START_TRIES).min(SLOWER)),
        };
        if times >= START_TRIES {
            let why =
                format!("it was started again, and does not come up: {:?}, Result={}; see journalctl -u {unit}", seen.active, seen.result);
            starts.told = true;
            if !told {
                turn.unit_ended(&owed.target, unit, UnitEnd::Failed, why.clone());
            }
            if self.hurried {
                return turn.record(Entry::RerunSettled { unit: unit.clone(), why });
            }
            self.trouble = Some(format!("{unit}: {why}"));
        }
        if now >= at.after(pause) {
            return self.start(turn, seen, Debt::BringUp);
        }
        self.next = self.next.min(at.after(pause));
    }

    fn brought_up(&mut self, turn: &mut Turn<'_>, seen: &UnitSeen, owed: &OwedRun, end: UnitEnd, why: &str) {
        turn.record(Entry::RerunSettled { unit: seen.unit.clone(), why: "started again".to_owned() });
        turn.unit_ended(&owed.target, &seen.unit, end, why);
    }

    fn starts_of(&mut self, unit: &str, now: Mono) -> &mut Starts {
        self.starts.entry(unit.to_owned()).or_insert(Starts { times: 0, at: now, told: false })
    }

    /// systemd has taken its start, which may fail.
    pub(super) fn service_starts(&mut self, now: Mono, unit: &str) {
        let starts = self.starts_of(unit, now);
        (starts.times, starts.at) = (starts.times + 1, now);
        self.next = now.after(super::SOON);
    }
}
