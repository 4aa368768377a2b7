//! What history is told of the requests in flight: enough for a picture of a drain of 2 s as of one of 24 h.

use std::time::Duration;

use super::Fpm;
use crate::core::entry::Entry;
use crate::core::step::Turn;
use crate::core::time::Mono;

/// Between two values at least, at the beginning.
const LEAST: Duration = Duration::from_millis(250);
/// And later, a part of how long it has drained: 250 values in 24 h, twice as many if it is idle after each.
const PART: u32 = 24;

/// What was told of one drain.
#[derive(Debug, Default)]
pub(super) struct Told {
    since: Option<Mono>,
    last: Option<(Mono, u32)>,
}

impl Told {
    /// Whether this value is to be told: it has changed, and some time has passed. That there is none any more is told at once, and so is
    /// the last.
    fn due(&mut self, now: Mono, in_flight: u32, last: bool) -> bool {
        let since = *self.since.get_or_insert(now);
        if let Some((at, told)) = self.last {
            let pause = LEAST.max(now.since(since) / PART);
            if told == in_flight || (now < at.after(pause) && in_flight > 0 && !last) {
                return false;
            }
        }
        self.last = Some((now, in_flight));
        true
    }
}

impl Fpm {
    pub(super) fn tell_flight(&mut self, turn: &mut Turn<'_>, in_flight: u32, last: bool) {
        if self.told.due(turn.now.mono, in_flight, last) {
            let (rollout, target, unit) = (self.rollout.clone(), self.target.clone(), self.unit.clone());
            turn.record(Entry::InFlight { rollout, target, unit, in_flight });
        }
    }

    /// Its old processes are gone, and with them whatever was in flight.
    pub(super) fn tell_gone(&mut self, turn: &mut Turn<'_>) {
        if self.told.last.is_some() {
            self.tell_flight(turn, 0, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many values are told of a drain that is looked at each 50 ms.
    fn told(seconds: u64, in_flight: impl Fn(u64) -> u32) -> usize {
        let mut told = Told::default();
        (0..seconds * 20).filter(|&look| told.due(Mono(1_000_000 + look * 50_000), in_flight(look), false)).count()
    }

    #[test]
    fn a_day_is_told_in_some_hundred_values_and_two_seconds_in_eight() {
        assert_eq!(told(3600, |_| 7), 1, "only changes");
        assert_eq!(told(2, |look| 100 - u32::try_from(look).unwrap()), 8);
        assert!((200..260).contains(&told(86_400, |look| 1 + u32::from(look % 2 == 0))));
        assert!(told(86_400, |look| u32::from(look % 2 == 0)) < 520, "idle after each request");
    }

    #[test]
    fn the_end_is_told_at_once() {
        let mut told = Told::default();
        let at = |ms: u64| Mono(ms * 1000);
        assert!(told.due(at(1), 5, false));
        assert!(!told.due(at(50), 4, false));
        assert!(told.due(at(60), 0, false), "nothing is in flight any more");
        assert!(!told.due(at(70), 2, false));
        assert!(told.due(at(80), 1, true), "the last");
    }
}
