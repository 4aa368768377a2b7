//! php-fpm renewed in place behind a load balancer, on real hosts.

#![allow(clippy::disallowed_methods, reason = "the bans of clippy.toml are for core")]

mod crashes;
mod deploys;
mod drains;
mod mute;
mod orders;
mod plots;
mod pools;
mod proofs;
mod stage;
mod status;
mod waits;

use std::process::ExitCode;

use lab::web::Status;

/// The pool that the web stack's own HAProxy is.
const BALANCER: &str = r#"
[pool]
depool = ["/usr/local/bin/depool"]
repool = ["/usr/local/bin/pool"]
check = ["/usr/local/bin/pool-state"]
timeout = "10s"
quiet = "300ms"
"#;

fn main() -> ExitCode {
    lab::suite()
        .on_each("twenty_deploys_lose_no_request_shorter_than_the_threshold", |release| deploys::under_load(release, Status::Socket, 20))
        .on_each("deploys_with_the_status_on_the_pools_own_socket", |release| deploys::under_load(release, Status::Path, 4))
        .on_each("deploys_without_a_status_page", |release| deploys::under_load(release, Status::None, 3))
        .on_each("wait_never_returns_for_the_deploy_before", waits::hundred_in_a_row)
        .on_each("wait_never_returns_for_old_php", waits::php)
        .on_each("a_persons_depool_is_left_alone_t07", pools::a_persons_depool)
        .on_each("an_unknown_pool_state_blocks_until_it_is_known_t08", pools::unknown)
        .on_each("a_depool_that_fails_is_taken_back_t08_t31_t42", pools::failed_depool)
        .on_each("a_host_put_back_during_the_drain_is_taken_out_again_t30_t32", pools::put_back_during_the_drain)
        .on_each("a_repool_that_fails_is_tried_until_it_succeeds_t08", pools::failed_repool)
        .on_each("an_idle_host_is_not_drained_to_the_deadline_t33", drains::ends_early)
        .on_each("requests_that_keep_coming_are_cut_at_the_threshold_t17", drains::ceiling)
        .on_each("all_workers_busy_is_not_idle_t15", drains::all_workers_busy)
        .on_each("a_held_connection_without_a_request_is_idle_t16", drains::held_connection)
        .on_each("a_rollout_is_drawn_with_its_phases_and_what_was_in_flight", plots::under_load)
        .on_each("a_php_fpm_that_a_person_stops_in_the_drain_stays_stopped", drains::stopped_by_a_person)
        .on_each("a_pool_without_a_status_page_does_not_silence_the_others", mute::three_pools)
        .on_each("warm_up_comes_before_the_repool_in_order_and_once", proofs::warm)
        .on_each("without_proof_the_host_stays_out_and_says_so_t20", proofs::proof)
        .on_each("a_php_fpm_whose_configuration_could_not_be_read_is_proven_all_the_same", proofs::unread)
        .on_each("force_neither_depools_nor_drains", orders::force)
        .on_each("abort_and_hold_during_a_drain_give_the_host_back_t34", orders::abort_and_hold)
        .on_each("status_says_what_runs_and_which_deploy_waits", status::what_runs)
        .on_each("who_may_look_and_who_may_order", orders::permissions)
        .on_each("killed_anywhere_between_depool_and_repool_it_comes_back_and_finishes_t06_t36", crashes::killed)
        .on_each("a_power_failure_in_the_drain_leaves_no_host_out_t05_t06", crashes::power_failure)
        .run()
}
