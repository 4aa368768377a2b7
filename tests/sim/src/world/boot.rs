//! A reboot: what ran is gone, nothing of /run is left, and what is enabled starts by itself.

use std::collections::BTreeSet;

use super::timer::Schedule;
use super::unit::{Body, By, JobKind};
use super::{Happening, S, World};
use restart_agent::core::seen::Active;

impl World {
    /// The kernel starts anew.
    pub(super) fn boot_clock_starts(&mut self) {
        self.booted = self.now.saturating_sub(2 * S);
    }

    /// Everything but the generations of php-fpm.
    pub(super) fn units_go_down(&mut self) {
        let units: BTreeSet<String> = self.units.values().filter(|unit| !unit.instance).map(|unit| unit.name.clone()).collect();
        for name in &units {
            // The run that it was to wait for is as far off from now on as if it had just been.
            let counts = self.timers.values().any(|timer| timer.unit == *name && timer.schedule != Schedule::Calendar);
            let unit = self.units.get_mut(name).unwrap();
            // What the agent has stopped before, or meant to, it may still owe a run.
            let meant = self.maybe_stopped.contains(&unit.invocation);
            // What it has started and not lived to write down it starts again.
            let unwritten = self.agent_was_away && unit.active.runs() && unit.runs.last().is_some_and(|(_, by)| *by == By::Agent);
            let stopped = unit.last_stop_by_agent.or((meant || unwritten).then_some(0));
            // Its exit status nobody can read any more; nor has an agent to start again what it has only meant to stop.
            unit.may_stay_down |= unit.active.runs() || unit.checkpointed || unit.last_stop_by_agent.is_none() || counts;
            // systemd had taken its start, and had not come to it.
            unit.may_stay_down |= unit.job.is_some_and(|job| job.kind == JobKind::Start);
            unit.processes.clear();
            (unit.active, unit.result, unit.exit) = (Active::Inactive, "success", None);
            (unit.job, unit.stop, unit.last_stop_by_agent) = (None, None, stopped);
            (unit.drop_in, unit.in_force) = (None, None);
            (unit.main_pid, unit.main_start, unit.idle_since) = (0, 0, 0);
            unit.invocation.clear();
            (unit.missed_slot, unit.doubtful_slot) = (false, false);
            if !matches!(unit.body, Body::Script(_)) {
                self.after(2 * S, Happening::ComesBack { unit: name.clone() });
            }
        }
        self.forget(|what| match what {
            Happening::ProcessEnds { unit, .. }
            | Happening::Checkpoint { unit, .. }
            | Happening::StopTimeout { unit, .. }
            | Happening::Started { unit, .. } => units.contains(unit),
            _ => false,
        });
        self.asked.clear();
        self.quiet.clear();
        self.held = None;
        self.strays.clear();
        self.told.clear();
        self.maybe_stopped.clear();
        self.maybe_restarted.clear();
        self.unanswered.clear();
        self.sent.clear();
        for timer in self.timers.values_mut() {
            (timer.due, timer.due_by_agent) = (None, false);
        }
        self.timers_count_from_boot();
    }

    pub(super) fn starts_at_boot(&mut self, name: &str) -> bool {
        let down = self.units.get(name).is_some_and(|unit| !unit.instance && unit.active == Active::Inactive && unit.invocation.is_empty());
        if down {
            let _ = self.start_unit(name, By::Systemd);
        }
        down
    }
}
