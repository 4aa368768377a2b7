//! `trigger`: a rollout without a change of the stamp.

use super::args::{Places, TriggerArgs};
use super::bus;
use super::exit::Exit;
use super::output::Output;

pub fn run(args: &TriggerArgs, places: &Places, out: &Output) -> Exit {
    let targets: Vec<&str> = args.targets.iter().map(String::as_str).collect();
    let reason = args.reason.as_deref().unwrap_or_default();
    bus::tell(places, out, async |agent| agent.trigger(args.force, args.override_hold, &targets, reason).await)
}
