//! What such agents are known to fall for, as far as it takes a real systemd and a real php-fpm to show: docs/operations/traps.md.

#![allow(clippy::disallowed_methods, reason = "the bans of clippy.toml are for core")]

mod php;
mod scripts;
#[path = "../jobrunner/stage.rs"]
mod stage;

use std::process::ExitCode;

fn main() -> ExitCode {
    lab::suite()
        .on_each("pools_of_every_kind_end_with_their_queue_and_their_children_t10_t12_t14_t18", php::every_kind)
        .on_each("whoever_else_is_at_php_fpm_breaks_no_rollout_t19_t20_t21", php::others)
        .on_each("wrappers_and_what_a_stop_leaves_behind_t09_t12_t24", scripts::stops)
        .run()
}
