//! `protect`: runs a command while its unit's lock is held, so that the unit is not interrupted.

use std::fs::File;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{SigSet, Signal};

use super::args::{Places, ProtectArgs};
use super::caller;
use super::exit::Exit;
use super::output::Output;
use crate::core::cooperation::lock_name;

/// As a shell's: the command was found and cannot be run; it was not found.
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

/// The command gets its exit status through. Without an agent, or in no unit of a target, it runs unprotected: a script works the same there.
pub fn run(args: &ProtectArgs, places: &Places, out: &Output) -> Exit {
    let Some((program, rest)) = args.command.split_first() else { return Exit::Usage };
    let lock = lock(places);
    if let Err(why) = &lock {
        out.complain(&format!("restart-agent: {why}: the command runs unprotected"));
    }
    // What ends the unit is sent to the command, too: this process outlives it and tells how it ended. A child begins with no signal blocked.
    let mut ending = SigSet::empty();
    [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP].into_iter().for_each(|signal| ending.add(signal));
    let _ = ending.thread_block();
    match Command::new(program).args(rest).status() {
        Ok(status) => {
            let code = status.code().or(status.signal().map(|signal| 128 + signal)).and_then(|code| u8::try_from(code).ok());
            Exit::Of(code.unwrap_or(CANNOT_RUN))
        }
        Err(error) => {
            let code = if error.kind() == std::io::ErrorKind::NotFound { NOT_FOUND } else { CANNOT_RUN };
            out.fail(Exit::Of(code), &format!("cannot run {program}: {error}"))
        }
    }
}

/// Shared: several commands of one unit may be protected at once. Rust opens files so that no child inherits them.
fn lock(places: &Places) -> Result<Flock<File>, String> {
    let unit = caller::unit(Path::new("/proc/self/cgroup")).ok_or("this process is in no service")?;
    let file = File::open(places.run_dir.join(lock_name(&unit))).map_err(|error| format!("{unit} has no lock here ({error})"))?;
    Flock::lock(file, FlockArg::LockShared).map_err(|(_, errno)| format!("the lock of {unit} cannot be held: {}", errno.desc()))
}
