//! `should-stop`: a script asks whether it is asked to stop.

use std::path::Path;

use super::args::{Places, ShouldStopArgs};
use super::caller;
use super::exit::Exit;
use super::output::Output;
use crate::core::cooperation::{lock_name, request_name};

pub fn run(args: &ShouldStopArgs, places: &Places, out: &Output) -> Exit {
    let Some(unit) = args.unit.clone().or_else(|| caller::unit(Path::new("/proc/self/cgroup"))) else {
        return out.fail(Exit::NotManaged, "this process is in no service: name one, restart-agent should-stop UNIT");
    };
    if places.run_dir.join(request_name(&unit)).exists() {
        return Exit::Done;
    }
    if places.run_dir.join(lock_name(&unit)).exists() {
        return Exit::Failed;
    }
    out.fail(Exit::NotManaged, &format!("{unit} belongs to no target that asks or spares its units"))
}
