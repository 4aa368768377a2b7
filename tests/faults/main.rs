//! What a host is made of fails under the agent: processes that cannot be killed, php-fpm that does not stay, commands that hang or rave, a state
//! directory, /run, file descriptors and a clock that are not as they should be. Status says so, nothing is lost, and it goes on by itself when it can.

#![allow(clippy::disallowed_methods, reason = "the bans of clippy.toml are for core")]

mod ground;
mod hooks;
mod php;
mod slow;
#[path = "../jobrunner/stage.rs"]
mod stage;
mod stuck;

use std::process::ExitCode;

use anyhow::Result;
use lab::{Release, Suite};

fn main() -> ExitCode {
    let suite = lab::suite();
    let suite = on(suite, Release::Bookworm, "what_sigkill_does_not_end_is_told_and_not_waited_for_t13", stuck::in_the_kernel);
    let suite = on(suite, Release::Trixie, "php_fpm_that_does_not_stay_is_out_of_the_pool_t20", php::does_not_stay);
    let suite = on(suite, Release::Bookworm, "commands_that_hang_fork_or_rave_are_ended_t08", hooks::hostile);
    let suite = on(suite, Release::Trixie, "a_clock_that_is_a_day_off_forgets_no_deploy_t04", ground::clock);
    let suite = on(suite, Release::Bookworm, "a_state_directory_that_cannot_be_used_is_told_t38", ground::state_directory);
    let suite = on(suite, Release::Trixie, "without_file_descriptors_nothing_is_forgotten", ground::descriptors);
    let suite = on(suite, Release::Trixie, "a_slow_disk_takes_nothing_from_a_grace", slow::disk);
    let suite = suite.on_each("whatever_is_removed_from_run_there_is_one_agent_and_status_knows_of_it", ground::run_directory);
    let suite = suite.on_each("what_somebody_has_frozen_is_renewed_all_the_same", php::frozen);
    let suite = on(suite, Release::Bookworm, "php_fpm_that_failed_is_tried_again_beside_others_of_its_rollout", php::tried_again);
    suite.run()
}

/// For tests/release on each release; in tests/run, which has to be quick, on one.
fn on(suite: Suite, release: Release, name: &str, test: fn(Release) -> Result<()>) -> Suite {
    if in_release() { suite.on_each(name, test) } else { suite.on(release, name, test) }
}

/// Whether there is time for what takes long.
fn in_release() -> bool {
    std::env::var_os("RELEASE_TESTS").is_some()
}
