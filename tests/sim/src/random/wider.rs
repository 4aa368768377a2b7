//! What only the seeds from [`ALL_FROM`] on have, so that those before tell the same stories as ever. Each kind of thing has a stream of its own: one more
//! changes nothing of the others.

use restart_agent::core::seen::Load;

use super::Draw;
use crate::rng::Rng;
use crate::world::{Daemon, MS, S, Script, Unit};

pub const ALL_FROM: u64 = 30_000_000;

pub(super) struct Wider {
    units: Rng,
}

impl Wider {
    pub(super) fn of(seed: u64) -> Option<Wider> {
        let stream = |salt| Rng::new(seed.wrapping_mul(0x9e37_79b9) ^ salt);
        (seed >= ALL_FROM).then(|| Wider { units: stream(0x7105) })
    }
}

impl Draw {
    /// What systemd is told of it: that it is not to be started by hand, what keeps it from coming back, what it leaves behind.
    pub(super) fn wider_unit(&mut self, unit: Unit) -> Unit {
        let Some(Wider { units, .. }) = &mut self.wider else { return unit };
        let oneshot = unit.oneshot();
        let mut unit = unit;
        if units.chance(4) {
            unit.transient = true;
        }
        if units.chance(4) {
            unit.load = Load::Masked;
        }
        if !oneshot {
            unit.refuse_start = units.chance(4);
            unit.on_success = units.chance(10);
            unit.on_failure = units.chance(20);
            unit.restarts_itself = units.chance(40);
            if units.chance(10) {
                unit.timeout_stop = 3 * S;
            }
        }
        unit
    }

    pub(super) fn wider_daemon(&mut self) -> Daemon {
        let Some(Wider { units, .. }) = &mut self.wider else { return Daemon::default() };
        Daemon {
            leaves: units.chance(25),
            spares: units.chance(15),
            stop_post: if units.chance(20) { units.between(50 * MS, 8 * S) } else { 0 },
            unkillable_for: if units.chance(4) { units.between(30 * S, 300 * S) } else { 0 },
            ..Daemon::default()
        }
    }

    pub(super) fn wider_script(&mut self, script: Script) -> Script {
        let Some(Wider { units, .. }) = &mut self.wider else { return script };
        Script { leaves: units.chance(20), spares: units.chance(10), ..script }
    }
}
