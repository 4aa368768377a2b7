//! Of the host, what only the seeds from [`WIDEST_FROM`] on have: a journal whose way to the disk lasts, a clock that is set, a balancer that lies, a
//! systemd that reads its files again or executes itself anew. Each has a stream of its own.

use super::wider::WIDEST_FROM;
use super::{BUSY, set};
use crate::host::Host;
use crate::rng::Rng;
use crate::world::{Hook, MS, S, World};

const DAY: u64 = 24 * 3600 * S;

pub(super) fn deeds(seed: u64, host: &mut Host) {
    if seed < WIDEST_FROM {
        return;
    }
    let stream = |salt| Rng::new(seed.wrapping_mul(0x9e37_79b9) ^ salt);
    disk(&mut stream(0xd15c), host);
    clock(&mut stream(0xc10c), host);
    lies(&mut stream(0x11e5), host);
    manager(&mut stream(0x4eec), host);
}

/// systemd is told by others to read its files again, or to execute itself anew.
fn manager(rng: &mut Rng, host: &mut Host) {
    if rng.chance(25) {
        for _ in 0..rng.between(1, 3) {
            set(host, rng.between(0, BUSY), "a person does systemctl daemon-reload", World::reload);
        }
    }
    if rng.chance(25) {
        let gone = rng.between(360 * MS, 460 * MS);
        set(host, rng.between(0, BUSY), "a person does systemctl daemon-reexec", move |world| world.executes_anew(gone));
    }
}

/// Usually some milliseconds; for a while longer than a grace may be.
fn disk(rng: &mut Rng, host: &mut Host) {
    if rng.chance(50) {
        host.world.faults.disk_takes = rng.between(MS, 20 * MS);
    }
    if rng.chance(25) {
        let (at, lasts) = (rng.between(0, BUSY), rng.between(S, 20 * S));
        let (usual, takes) = (host.world.faults.disk_takes, rng.between(100 * MS, 9 * S));
        set(host, at, "the disk is slow", move |world| world.faults.disk_takes = takes);
        set(host, at + lasts, "the disk is as usual", move |world| world.faults.disk_takes = usual);
    }
}

fn clock(rng: &mut Rng, host: &mut Host) {
    if !rng.chance(25) {
        return;
    }
    for _ in 0..rng.between(1, 2) {
        let by = i64::try_from(*rng.pick(&[S, 60 * S, DAY])).unwrap_or(0) * if rng.chance(50) { 1 } else { -1 };
        set(host, rng.between(0, BUSY), "the clock is set", move |world| world.set_clock(by));
    }
}

fn lies(rng: &mut Rng, host: &mut Host) {
    let names: Vec<String> = host.world.balancers.keys().cloned().collect();
    if names.is_empty() || !rng.chance(20) {
        return;
    }
    let (name, which) = (rng.pick(&names).clone(), rng.between(0, 2));
    set(host, rng.between(0, BUSY), "a command of the pool lies from now on", move |world| {
        let Some(balancer) = world.balancers.get_mut(&name) else { return };
        match which {
            0 => balancer.depool = Hook::Lies,
            1 => balancer.repool = Hook::Lies,
            _ => balancer.check = Hook::Lies,
        }
    });
}
