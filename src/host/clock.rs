//! The clocks of this machine: the one place where they are read.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::time::{ClockId, clock_gettime};

use crate::core::time::{Mono, Now, Wall};

/// Two readings of the boot clock further apart than this have something else between them: read again.
const TIGHT_US: u64 = 20;
const TRIES: u32 = 5;

/// Both clocks at one moment: the boot clock is read before and after the wall clock, and the tightest of up to five such
/// readings is taken. Off by half the time between the two, typically below 1 µs.
#[must_use]
pub fn now() -> Now {
    let mut best = (u64::MAX, Now::default());
    for _ in 0..TRIES {
        let before = boottime_us();
        let wall = Wall(i64::try_from(clock_us(ClockId::CLOCK_REALTIME).unwrap_or_else(wall_without_nix)).unwrap_or(i64::MAX));
        let spread = boottime_us().saturating_sub(before);
        if spread < best.0 {
            best = (spread, Now { mono: Mono(before + spread / 2), wall });
        }
        if spread <= TIGHT_US {
            break;
        }
    }
    best.1
}

/// The moment on the boot clock of a CLOCK_MONOTONIC time in microseconds, such as systemd's `…TimestampMonotonic` properties.
///
/// By the offset that holds now: the two clocks differ by the time that this machine has been suspended, so a time from before a
/// suspension comes out that much late. 0, systemd's "never", is [`Mono::BOOT`].
#[must_use]
pub fn mono_of_monotonic(us: u64) -> Mono {
    if us == 0 {
        return Mono::BOOT;
    }
    let monotonic = clock_us(ClockId::CLOCK_MONOTONIC).unwrap_or(0);
    Mono(us.saturating_add(boottime_us().saturating_sub(monotonic)))
}

/// CLOCK_BOOTTIME - CLOCK_MONOTONIC in microseconds: the time this host was suspended. In whole milliseconds, since both cannot be
/// read at once and two looks must agree on when a process started.
#[must_use]
pub fn suspended() -> u64 {
    // The least of a few: the thread may be put off between the two readings.
    let difference = || {
        let monotonic = clock_us(ClockId::CLOCK_MONOTONIC).unwrap_or(0);
        boottime_us().saturating_sub(monotonic)
    };
    (0..4).map(|_| difference()).min().unwrap_or(0) / 1000 * 1000
}

/// What names this boot: made up at the first call after it, and kept in `run`, which is gone at the next.
///
/// Not the kernel's boot id alone. In a container on Debian 12 the sandboxed agent reads that of the machine, which stays over reboots
/// of the container, and everybody else that of the container. It serves where nothing can be kept.
#[must_use]
pub fn boot_name(run: &Path) -> String {
    let path = run.join("boot");
    let read = |path: &Path| std::fs::read_to_string(path).ok().map(|name| name.trim().to_owned()).filter(|name| name.len() == 36);
    if let Some(name) = read(&path) {
        return name;
    }
    if let Some(name) = read(Path::new("/proc/sys/kernel/random/uuid"))
        && std::fs::write(&path, format!("{name}\n")).is_ok()
    {
        return name;
    }
    read(Path::new("/proc/sys/kernel/random/boot_id")).unwrap_or_default()
}

fn boottime_us() -> u64 {
    clock_us(ClockId::CLOCK_BOOTTIME).unwrap_or(0)
}

/// `None` where the kernel lacks the clock: it has had all three since 2.6.39.
fn clock_us(clock: ClockId) -> Option<u64> {
    let time = clock_gettime(clock).ok()?;
    Some(u64::try_from(time.tv_sec()).ok()?.saturating_mul(1_000_000) + u64::try_from(time.tv_nsec()).ok()? / 1000)
}

fn wall_without_nix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_clocks_run_together() {
        let one = now();
        let two = now();
        assert!(one.mono > Mono::BOOT && two.mono >= one.mono);
        assert!(one.wall.seconds() > 1_600_000_000);
        assert!(one.wall_of(two.mono).since(two.wall).as_millis() < 100 && two.wall.since(one.wall_of(two.mono)).as_millis() < 100);
    }

    #[test]
    fn monotonic_times_land_on_the_boot_clock() {
        assert_eq!(mono_of_monotonic(0), Mono::BOOT);
        let before = boottime_us();
        let converted = mono_of_monotonic(clock_us(ClockId::CLOCK_MONOTONIC).unwrap());
        assert!(converted.0 + 100 >= before && converted.0 <= boottime_us() + 100);
    }

    #[test]
    fn a_boot_has_one_name() {
        let run = tempfile::tempdir().unwrap();
        let name = boot_name(run.path());
        assert_eq!(name.len(), 36);
        assert_eq!(boot_name(run.path()), name);
        let next = tempfile::tempdir().unwrap();
        assert_ne!(boot_name(next.path()), name);
        assert_eq!(boot_name(Path::new("/nowhere")).len(), 36);
    }
}
