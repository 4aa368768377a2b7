//! The timers that trigger units.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::timeout;

use super::look::boot_clock;
use super::properties::{TIMER, UNIT};
use super::{AT_ONCE, READ, Systemd};
use crate::core::effect::Fault;
use crate::core::seen::{Load, TimerSeen, UnitSeen};
use crate::core::time::{Mono, Now, Wall};

impl Systemd {
    /// Adds to each unit its timers (`TriggeredBy=`). As long as the same timers are loaded, units that run need not be asked again.
    pub(super) async fn add_timers(&self, seen: &mut [UnitSeen], loaded_at: u64, now: Now, offset: u64) -> Result<(), Fault> {
        let rows =
            self.link.call("list timers", READ, |live| async move { live.manager.list_units_by_patterns(&[], &["*.timer"]).await }).await?;
        let loaded = rows.into_iter().filter(|row| row.2 == "loaded").map(|row| row.0).collect::<BTreeSet<_>>();
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).timers_are(loaded);

        let triggers: Vec<Vec<String>> =
            stream::iter(seen.iter()).map(|unit| self.triggers(unit, loaded_at)).buffered(AT_ONCE).try_collect().await?;
        let names: BTreeSet<&String> = triggers.iter().flatten().collect();
        let timers: BTreeMap<&String, TimerSeen> = stream::iter(names)
            .map(|name| async move { Ok::<_, Fault>((name, self.timer(name, now, offset).await?)) })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        for (unit, triggers) in seen.iter_mut().zip(&triggers) {
            unit.timers = triggers.iter().filter_map(|name| timers.get(name).cloned()).collect();
        }
        Ok(())
    }

    /// What these timers say in their files: while a service runs, that is all that is known of its next run (facts F2.6).
    ///
    /// # Errors
    /// [`Fault::Unreachable`]. A timer that is gone is left out.
    pub async fn schedules(&self, timers: &[String]) -> Result<BTreeMap<String, Vec<String>>, Fault> {
        let answers = stream::iter(timers)
            .map(|name| async move { (name, self.properties(name, &[(TIMER, "TimersCalendar"), (TIMER, "TimersMonotonic")]).await) })
            .buffered(AT_ONCE)
            .collect::<Vec<_>>();
        let answers =
            timeout(READ, answers).await.map_err(|_| Fault::Unreachable("systemd does not say what its timers are".to_owned()))?;
        let mut schedules = BTreeMap::new();
        for (name, answer) in answers {
            match answer {
                Ok(values) => schedules.insert(name.clone(), values.schedule(0).into_iter().chain(values.schedule(1)).collect()),
                Err(Fault::NoSuchUnit(_)) => None,
                Err(fault) => return Err(fault),
            };
        }
        Ok(schedules)
    }

    async fn triggers(&self, unit: &UnitSeen, loaded_at: u64) -> Result<Vec<String>, Fault> {
        if unit.load == Load::NotFound {
            return Ok(Vec::new());
        }
        let known = self.memory.lock().unwrap_or_else(PoisonError::into_inner).recall(&unit.unit).and_then(|known| known.timers);
        if let Some(timers) = known {
            return Ok(timers);
        }
        let mut timers = match self.properties(&unit.unit, &[(UNIT, "TriggeredBy")]).await {
            Ok(values) => values.texts(0),
            Err(Fault::NoSuchUnit(_)) => Vec::new(),
            Err(fault) => return Err(fault),
        };
        timers.retain(|name| name.ends_with(".timer"));
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).remember_timers(&unit.unit, loaded_at, &timers);
        Ok(timers)
    }

    async fn timer(&self, name: &str, now: Now, offset: u64) -> Result<TimerSeen, Fault> {
        let wanted = [
            (UNIT, "ActiveState"),
            (TIMER, "LastTriggerUSecMonotonic"),
            (TIMER, "NextElapseUSecRealtime"),
            (TIMER, "NextElapseUSecMonotonic"),
        ];
        let values = self.properties(name, &wanted).await?;
        Ok(TimerSeen {
            unit: name.to_owned(),
            active: values.text(0) == "active",
            next: next(values.number(2), values.number(3), now, offset),
            last_trigger: boot_clock(values.number(1), offset),
        })
    }
}

/// The sooner of both elapses, in µs on their clocks. 0 and 2^64-1 both say that there is none (facts F2.6).
fn next(realtime: u64, monotonic: u64, now: Now, offset: u64) -> Option<Wall> {
    let is_set = |elapse: &u64| !matches!(elapse, 0 | &u64::MAX);
    let by_calendar = Some(realtime).filter(is_set).and_then(|at| i64::try_from(at).ok()).map(Wall);
    let by_span = Some(monotonic).filter(is_set).map(|at| now.wall_of(Mono(at.saturating_add(offset))));
    by_calendar.into_iter().chain(by_span).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_elapse_is_the_sooner_one_that_is_set() {
        let now = Now { mono: Mono(10_000_000), wall: Wall(1_000_000_000_000) };
        assert_eq!(next(u64::MAX, u64::MAX, now, 0), None);
        assert_eq!(next(1_000_005_000_000, 0, now, 0), Some(Wall(1_000_005_000_000)));
        assert_eq!(next(0, 12_000_000, now, 1_000_000), Some(Wall(1_000_003_000_000)));
        assert_eq!(next(1_000_005_000_000, 12_000_000, now, 0), Some(Wall(1_000_002_000_000)));
    }
}
