//! The wall clock: what is remembered by it, and the deadlines that an agent which starts takes from there.

use super::{Machine, turn};
use crate::core::begin::Begin;
use crate::core::entry::Entry;
use crate::core::step::{Step, Turn};
use crate::core::time::Now;

impl Machine {
    /// What is remembered by the wall clock moves with it.
    pub(super) fn see_clock(&mut self, now: Now, step: &mut Step) {
        if let Some(booted_at) = self.memory.clock_differs(now) {
            turn!(self, now, step).record(Entry::Clock { booted_at });
        }
    }

    /// At the start of an agent: from here on these are moments on the boot clock.
    pub(super) fn starts(&mut self, now: Now, step: &mut Step, boot: &str, version: &str) {
        turn!(self, now, step).record(Entry::Started { boot: boot.to_owned(), version: version.to_owned() });
        self.see_clock(now, step);
        self.begin = Begin::resumed(self.memory.beginning().map(|begun| begun.until), now);
        self.hold_until = self.memory.hold.as_ref().map(|hold| now.mono.after(hold.until.since(now.wall)));
    }
}
