//! The agent, or all of its host, ends at any point of a rollout: each point is an entry of the agent's own journal, counted as it is written.
//!
//! At each n-th entry of a rollout it is struck in one of four ways, and begun again by what begins it there: systemd, the package, the boot. Then
//! the rollout must come to the end that it would have come to. With RELEASE_TESTS at least a hundred points on each release, else a few.

#![allow(clippy::disallowed_methods, reason = "the bans of clippy.toml are for core")]

#[path = "../generations/agent.rs"]
#[allow(dead_code, reason = "shared with generations")]
mod agent;
mod generations;
mod inplace;
#[path = "../jobrunner/stage.rs"]
#[allow(dead_code, reason = "shared with jobrunner")]
mod jobrunner;
#[path = "../generations/stage.rs"]
#[allow(dead_code, reason = "shared with generations")]
mod stage;
mod strike;

use std::process::ExitCode;

fn main() -> ExitCode {
    lab::suite()
        .on_each("struck_at_any_entry_of_a_rollout_in_place_it_comes_to_its_end_t06", inplace::struck)
        .on_each("struck_at_any_entry_of_a_hand_over_it_loses_nothing_t06", generations::struck)
        .run()
}
