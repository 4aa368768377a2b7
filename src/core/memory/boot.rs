//! What another boot of the host leaves of the memory.

use super::Memory;
use crate::core::time::Mono;

impl Memory {
    /// On another boot nothing of /run is left, and every process is younger than every landing.
    pub(super) fn boot_is(&mut self, boot: &str) {
        if self.boot == boot {
            return;
        }
        boot.clone_into(&mut self.boot);
        (self.booted_at, self.jumped) = (None, 0);
        self.lent.clear();
        self.lent_at.clear();
        self.quiet.clear();
        self.starts_held = false;
        // What the boot starts is up again.
        self.taken_down.clear();
        self.maybe_down.clear();
        self.failed_runs.clear();
        // systemd counts anew as well, and the clock of then may have been ahead of this one.
        self.restarts.clear();
        // Whatever has run since the boot was not interrupted by us.
        self.interrupted.values_mut().for_each(|row| row.last = Mono::BOOT);
        // On another clock. What runs now had not begun then.
        self.cutting.values_mut().for_each(|cutting| cutting.asked = Mono::BOOT);
        self.strays.iter_mut().for_each(|cut| cut.asked = Mono::BOOT);
        // A command may have left its mark outside /run.
        self.asked.retain(|unit| self.unasks.contains_key(unit));
        self.frozen.clear();
        self.starved.clear();
        self.told.clear();
        for target in self.targets.values_mut() {
            target.fresh.clear();
            target.starting = None;
            target.current = None;
            target.lingering.clear();
            target.started.clear();
            target.served.clear();
            target.led.clear();
            target.bad.clear();
            for want in target.want.iter_mut().chain(target.reached.iter_mut()) {
                want.landed = Mono::BOOT;
                want.emergency = want.emergency.map(|_| Mono::BOOT);
            }
        }
        let deploys =
            self.rollout.iter_mut().map(|rollout| &mut rollout.deploy).chain(self.stamp.iter_mut().map(|stamp| &mut stamp.deploy));
        let deploys = deploys.chain(self.last_deploy.iter_mut());
        for deploy in deploys {
            deploy.landed = Mono::BOOT;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::time::Wall;

    #[test]
    fn what_was_lent_and_stopped_is_not_owed_on_another_boot() {
        let unit = || "mw-dump.service".to_owned();
        let mut memory = Memory { boot: "one".to_owned(), starts_held: true, ..Memory::default() };
        memory.lent.insert(unit());
        memory.quiet.insert(unit(), true);
        memory.asked.insert(unit());
        memory.restart_begun(Wall(0), &unit());
        memory.boot_is("one");
        assert!(memory.lent.contains(&unit()) && memory.quiet.contains_key(&unit()) && memory.starts_held);
        memory.boot_is("two");
        assert!(memory.lent.is_empty() && memory.quiet.is_empty() && memory.asked.is_empty() && !memory.starts_held, "{memory:#?}");
        assert!(memory.restarts.is_empty(), "{memory:#?}");
    }
}
