//! How much memory there is, and how much processes hold: for `min_available_memory`, and for people.

use std::fs;
use std::io;
use std::path::Path;

use nix::unistd::{SysconfVar, sysconf};

use super::Processes;
use crate::core::seen::ProcessSeen;

/// Bytes that the kernel calls available for new programs: `MemAvailable` of /proc/meminfo.
///
/// # Errors
/// If it cannot be read, or does not say.
pub fn available(proc: &Path) -> io::Result<u64> {
    let text = fs::read_to_string(proc.join("meminfo"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.map(|kib| kib * 1024).ok_or_else(|| io::Error::other("it does not say MemAvailable"))
}

impl Processes {
    /// Bytes that these processes hold: of each what is its own, and of what they share (the opcache of php-fpm, the binary) as much as the one
    /// that has touched most of it. An estimate from /proc/PID/statm; smaps, which is exact, may not be read (facts M6). What has ended counts
    /// nothing.
    #[must_use]
    pub fn memory(&self, processes: &[ProcessSeen]) -> u64 {
        let page = sysconf(SysconfVar::PAGE_SIZE).ok().flatten().and_then(|size| u64::try_from(size).ok()).unwrap_or(4096);
        let (mut own, mut shared) = (0_u64, 0_u64);
        for process in processes {
            let Ok(text) = fs::read_to_string(self.proc.join(process.pid.to_string()).join("statm")) else { continue };
            let mut fields = text.split_whitespace().skip(1).map_while(|field| field.parse::<u64>().ok());
            if let (Some(resident), Some(its_shared)) = (fields.next(), fields.next()) {
                own += resident.saturating_sub(its_shared);
                shared = shared.max(its_shared);
            }
        }
        (own + shared).saturating_mul(page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_holds_some_and_this_machine_has_some() {
        let pid = std::process::id();
        let processes = [ProcessSeen { pid, ..ProcessSeen::default() }, ProcessSeen { pid: u32::MAX, ..ProcessSeen::default() }];
        let held = Processes::default().memory(&processes);
        assert!((1 << 20..1 << 34).contains(&held), "{held}");
        assert!(available(Path::new("/proc")).unwrap() > 1 << 20);
    }
}
