//! `hold`: no restarts until released or expired.

use super::args::{HoldArgs, Places};
use super::bus;
use super::exit::Exit;
use super::output::Output;

pub fn run(args: &HoldArgs, places: &Places, out: &Output) -> Exit {
    if args.reason.trim().is_empty() {
        return out.fail(Exit::Usage, "a hold needs a reason that others understand: --reason 'dump is running, T12345'");
    }
    let targets: Vec<&str> = args.targets.iter().map(String::as_str).collect();
    let span = u64::try_from(args.span.0.as_micros()).unwrap_or(u64::MAX);
    bus::tell(places, out, async |agent| agent.hold(&args.reason, span, &targets).await)
}
