//! A wall clock that is set, or slewed, moves what is remembered by it: deadlines rest on the boot clock, and the next agent knows them by the
//! wall clock only.

use std::time::Duration;

use super::Memory;
use crate::core::time::{Mono, Now, Wall};

/// Less than this is no difference to anybody.
const JUMP: Duration = Duration::from_secs(1);

impl Memory {
    /// When this boot was, if the wall clock says so otherwise than it did.
    #[must_use]
    pub fn clock_differs(&self, now: Now) -> Option<Wall> {
        let booted_at = now.boot();
        let same = |known: Wall| known.since(booted_at).max(booted_at.since(known)) < JUMP;
        (!self.booted_at.is_some_and(same)).then_some(booted_at)
    }

    /// Since when a unit may have what it was lent.
    #[must_use]
    pub fn lent_since(&self, unit: &str, now: Now) -> Option<Mono> {
        self.lent.contains(unit).then(|| self.lent_at.get(unit).map_or(Mono::BOOT, |at| now.mono_of(*at)))
    }

    pub(super) fn clock_is(&mut self, booted_at: Wall) {
        let Some(before) = self.booted_at.replace(booted_at) else { return };
        let by = booted_at.0.saturating_sub(before.0);
        self.jumped = self.jumped.saturating_add(by);
        if let Some(rollout) = &mut self.rollout {
            rollout.view.moved(by);
        }
        let lingering = self.targets.values_mut().flat_map(|target| target.lingering.values_mut()).map(|lingering| &mut lingering.since);
        let walls = self.depooled.values_mut().map(|debt| &mut debt.at);
        let walls = walls.chain(lingering).chain(self.hold.iter_mut().map(|hold| &mut hold.until));
        let walls = walls.chain(self.begun.iter_mut().flat_map(|begun| [&mut begun.since, &mut begun.until]));
        let settles = self.reruns.values_mut().filter_map(|owed| owed.settles.as_mut()).map(|settles| &mut settles.until);
        let walls = walls.chain(self.lent_at.values_mut());
        let walls = walls.chain(settles).chain(self.restarts.values_mut().flatten());
        walls.for_each(|wall| *wall = wall.moved(by));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::entry::{Entry, Written};
    use crate::core::memory::Hold;

    const HOUR: i64 = 3_600_000_000;

    fn told(memory: &mut Memory, entry: Entry) {
        memory.apply(&Written { at: Wall(0), entry });
    }

    #[test]
    fn what_is_remembered_moves_with_the_clock_and_drift_is_no_jump() {
        let hold = Hold { reason: String::new(), by: String::new(), until: Wall(5 * HOUR), targets: None, abort: false };
        let mut memory = Memory { boot: "a".to_owned(), hold: Some(hold), ..Memory::default() };
        let now = |boot: i64| Now { mono: Mono(7), wall: Wall(boot + 7) };
        assert_eq!(memory.clock_differs(now(HOUR)), Some(Wall(HOUR)), "it is not known yet");
        told(&mut memory, Entry::Clock { booted_at: Wall(HOUR) });
        assert_eq!((memory.jumped, memory.hold.as_ref().map(|hold| hold.until)), (0, Some(Wall(5 * HOUR))));
        assert_eq!(memory.clock_differs(now(HOUR + 900_000)), None);
        assert_eq!(memory.clock_differs(now(HOUR - 1_000_000)), Some(Wall(HOUR - 1_000_000)));
        told(&mut memory, Entry::Clock { booted_at: Wall(-HOUR) });
        assert_eq!((memory.jumped, memory.hold.as_ref().map(|hold| hold.until)), (-2 * HOUR, Some(Wall(3 * HOUR))));
        told(&mut memory, Entry::Started { boot: "b".to_owned(), version: String::new() });
        assert_eq!((memory.jumped, memory.booted_at), (0, None), "another boot has a clock of its own");
    }
}
