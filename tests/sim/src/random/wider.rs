//! What only the seeds from [`ALL_FROM`] on have, so that those before tell the same stories as ever. Each kind of thing has a stream of its own: one more
//! changes nothing of the others.

use std::collections::BTreeSet;

use restart_agent::core::event::Order;
use restart_agent::core::policy::Policy;
use restart_agent::core::seen::Load;

use super::{BUSY, Draw};
use crate::host::{Deed, Host, span};
use crate::rng::Rng;
use crate::world::{Daemon, MS, S, Script, Unit, World};

pub const ALL_FROM: u64 = 30_000_000;
/// What is in the files `widest_*` only the seeds from here on have, beyond all that.
pub const WIDEST_FROM: u64 = 60_000_000;

pub(super) struct Wider {
    units: Rng,
    orders: Rng,
    rules: Rng,
    reboots: Rng,
    /// All generations listen on one socket.
    shared: bool,
}

impl Wider {
    pub(super) fn of(seed: u64) -> Option<Wider> {
        let stream = |salt| Rng::new(seed.wrapping_mul(0x9e37_79b9) ^ salt);
        (seed >= ALL_FROM).then(|| Wider {
            units: stream(0x7105),
            orders: stream(0x0bde),
            rules: stream(0x9071),
            reboots: stream(0xb007),
            shared: stream(0x50c2).chance(50),
        })
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

    pub(super) fn shared(&self) -> bool {
        self.wider.as_ref().is_some_and(|wider| wider.shared)
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

/// Of these some, and each at least once.
fn some(rng: &mut Rng, policy: &Policy) -> BTreeSet<String> {
    let names: Vec<&String> = policy.targets.keys().collect();
    let mut some: BTreeSet<String> = names.iter().filter(|_| rng.chance(50)).map(|name| (*name).clone()).collect();
    if let (true, false) = (some.is_empty(), names.is_empty()) {
        some.insert((*rng.pick(&names)).clone());
    }
    some
}

/// What stamps and people can say, too: several targets by name, an emergency for some of them only.
pub(super) fn orders(draw: &mut Draw, host: &mut Host) {
    let Some(Wider { orders, .. }) = &mut draw.wider else { return };
    let policy = host.policy.clone();
    if policy.targets.is_empty() {
        return;
    }
    if orders.chance(30) {
        let (at, names, force) = (orders.between(0, BUSY), some(orders, &policy), orders.chance(50));
        let names: Vec<&String> = names.iter().collect();
        let reason = if orders.chance(50) { "reason = \"because of \\\"this\\\"\"\n" } else { "" };
        host.later(at, Deed::Touch(format!("id = \"of-some\"\nforce = {force}\ntargets = {names:?}\n{reason}")));
    }
    if orders.chance(15) {
        let at = orders.between(0, BUSY);
        let (force, override_hold) = (orders.chance(40), orders.chance(40));
        host.later(at, Deed::Order(Order::Trigger { force, override_hold, targets: Some(some(orders, &policy)), reason: None }));
    }
    if orders.chance(15) {
        let (at, span) = (orders.between(0, BUSY), span(orders.between(S, 60 * S)));
        host.later(at, Deed::Order(Order::Hold { reason: "some of them".to_owned(), span, targets: Some(some(orders, &policy)) }));
    }
    if orders.chance(10) {
        let at = orders.between(0, BUSY);
        host.later(at, Deed::Order(Order::Abort { reason: Some("it was not meant".to_owned()) }));
        host.later(at + orders.between(0, 30 * S), Deed::Order(Order::Release));
    }
    if orders.chance(10) {
        let (at, lasts) = (orders.between(0, BUSY), orders.between(S, 60 * S));
        let fails = move |world: &mut World| world.faults.unask_fails_until = world.now + lasts;
        host.later(at, Deed::World("no request can be taken back", Box::new(fails)));
    }
}

/// The host goes down in the middle of it, whatever is on it.
pub(super) fn reboots(draw: &mut Draw, host: &mut Host) {
    let Some(Wider { reboots, .. }) = &mut draw.wider else { return };
    if reboots.chance(6) {
        let (at, down) = (reboots.between(0, BUSY), reboots.between(S, 8 * S));
        host.later(at, Deed::Reboot(down));
    }
}

/// All rules of a target are others from one moment on.
pub(super) fn rules(draw: &mut Draw, host: &mut Host) {
    let Some(Wider { rules, .. }) = &mut draw.wider else { return };
    if !rules.chance(12) {
        return;
    }
    let rng = Rng::new(rules.draw());
    let mut other = Draw { rng, opcaches: Rng::new(rules.draw()), codes: None, wider: None, widest_units: None, widest_fpm: None };
    let other = super::policy(&mut other);
    let mut changed = host.policy.clone();
    for (name, rules) in &mut changed.targets {
        if let Some(other) = other.targets.get(name) {
            *rules = other.clone();
        }
    }
    let at = rules.between(0, BUSY);
    host.later(at, Deed::Policy(Box::new(changed)));
}
