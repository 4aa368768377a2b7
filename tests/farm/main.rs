//! The scheduled units of a whole farm, and what becomes of each kind of script: `kind = "scheduled"` at full size.

#![allow(clippy::disallowed_methods, reason = "the bans of clippy.toml are for core")]

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

mod dump;
mod judge;
mod judged;
mod matrix;
mod old;
mod units;
mod whole;

fn main() -> ExitCode {
    lab::suite()
        .plain("the_judge_sees_what_is_wrong", judged::the_judge_sees_what_is_wrong)
        .on_each("all_208_units_over_ten_deploys", whole::all_208_units_over_ten_deploys)
        .on_each("an_uncooperative_dump_is_never_signalled_t35", dump::an_uncooperative_dump_is_never_signalled_t35)
        .on_each("matrix", matrix::matrix)
        .run()
}

/// In seconds since 1970. A host's clock is the machine's.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}
