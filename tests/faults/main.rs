//! What a host is made of fails under the agent: processes that cannot be killed, php-fpm that does not stay, commands that hang or rave, a state
//! directory, file descriptors and a clock that are not as they should be. Status says so, nothing is lost, and it goes on by itself when it can.

#![allow(clippy::disallowed_methods, reason = "the bans of clippy.toml are for core")]

mod ground;
mod hooks;
mod php;
#[path = "../jobrunner/stage.rs"]
mod stage;
mod stuck;

use std::process::ExitCode;

fn main() -> ExitCode {
    lab::suite()
        .on_each("what_sigkill_does_not_end_is_told_and_not_waited_for_t13", stuck::in_the_kernel)
        .on_each("php_fpm_that_does_not_stay_is_out_of_the_pool_t20", php::does_not_stay)
        .on_each("commands_that_hang_fork_or_rave_are_ended_t08", hooks::hostile)
        .on_each("a_clock_that_is_a_day_off_forgets_no_deploy_t04", ground::clock)
        .on_each("a_state_directory_that_cannot_be_used_is_told_t38", ground::state_directory)
        .on_each("without_file_descriptors_nothing_is_forgotten", ground::descriptors)
        .run()
}
