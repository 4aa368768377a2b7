//! The timers of a script, which are stopped before it and started after it: a slot that passes while it runs is not lost, so its end
//! would start a run off schedule (facts F2.2, F2.3).

use std::time::Duration;

use super::script::{Ask, Script, ScriptStep};
use crate::core::effect::{Effect, Outcome};
use crate::core::entry::Entry;
use crate::core::policy::ScheduledRules;
use crate::core::seen::TimerSeen;
use crate::core::step::Turn;
use crate::core::time::Mono;

/// For the stop of a timer: it has no processes.
const TIMER_STOP: Duration = Duration::from_secs(10);

impl Script {
    /// Whether this is one of its timers. Which ones one that was taken up has, its first look tells.
    pub(super) fn has_timer(&self, timer: &str) -> bool {
        self.seen_at == Mono::BOOT || self.seen.timers.iter().any(|seen| seen.unit == timer)
    }

    pub(super) fn stop_timers(&mut self, turn: &mut Turn<'_>) {
        self.enter(turn.now.mono, ScriptStep::StoppingTimers);
        for timer in self.seen.timers.clone().iter().filter(|timer| timer.active) {
            turn.record(Entry::TimerOwed { timer: timer.unit.clone(), persistent: timer.persistent });
            let id = turn.ask(Effect::Stop { unit: timer.unit.clone(), within: TIMER_STOP });
            self.pending.insert(id, Ask::StopTimer);
        }
        if self.pending.is_empty() {
            self.enter(turn.now.mono, ScriptStep::Ready);
        }
    }

    pub(super) fn timer_stopped(&mut self, turn: &mut Turn<'_>, outcome: &Outcome) {
        if let Outcome::Fault(fault) = outcome {
            self.give_up(turn, &format!("its timer could not be stopped: {fault}"));
        }
    }

    pub(super) fn start_timers(&mut self, turn: &mut Turn<'_>, rules: &ScheduledRules) {
        let owed: Vec<TimerSeen> = self.seen.timers.iter().filter(|timer| turn.memory.timers.contains_key(&timer.unit)).cloned().collect();
        if owed.is_empty() {
            return self.after_timers(turn, rules);
        }
        for timer in owed {
            let id = turn.ask(Effect::Start { unit: timer.unit.clone(), caught_up: timer.persistent });
            self.pending.insert(id, Ask::StartTimer(timer.unit));
        }
    }

    pub(super) fn timer_started(&mut self, turn: &mut Turn<'_>, timer: String, outcome: &Outcome) {
        match outcome {
            Outcome::Queued => turn.record(Entry::TimerSettled { timer, why: "started again".to_owned() }),
            other => self.give_up(turn, &format!("its timer {timer} could not be started again: {}", other.said())),
        }
    }
}
