//! `daemon`: the agent itself.

use super::args::{DaemonArgs, Places};
use super::exit::Exit;
use super::output::Output;

pub fn run(_args: &DaemonArgs, _places: &Places, out: &Output) -> Exit {
    out.fail(Exit::Failed, "the engine is not part of this build")
}
