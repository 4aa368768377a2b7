//! `abort`: gives up the current rollout.

use super::args::{AbortArgs, Places};
use super::bus;
use super::exit::Exit;
use super::output::Output;

pub fn run(args: &AbortArgs, places: &Places, out: &Output) -> Exit {
    bus::tell(places, out, async |agent| agent.abort(args.reason.as_deref().unwrap_or_default()).await)
}
