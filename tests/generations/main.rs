//! php-fpm generations: the template units, hand-overs under load behind real web servers.

#![allow(clippy::disallowed_methods, reason = "the bans of clippy.toml are for core")]

mod agent;
mod boot;
mod by_hand;
mod deploys;
mod failures;
mod lingers;
mod others;
mod people;
mod stage;

use std::process::ExitCode;

use lab::Release;
use lab::generations::WebServer;

fn main() -> ExitCode {
    let suite = lab::suite()
        .on_each("two_instances_that_start_at_once_never_break_the_socket", boot::two_at_once)
        .on_each("a_reboot_ends_with_boot_serving", boot::reboot)
        .on(Release::Trixie, "a_generation_that_crashes_in_a_loop_takes_no_port_away", boot::crash_loop)
        .on(Release::Bookworm, "by_hand_behind_nginx", |release| by_hand::lossless(release, WebServer::Nginx))
        .on(Release::Trixie, "by_hand_behind_apache", |release| by_hand::lossless(release, WebServer::Apache))
        .on(Release::Bookworm, "by_hand_behind_apache_with_reuse", by_hand::reuse)
        .on(Release::Trixie, "by_hand_over_tcp", |release| by_hand::lossless(release, WebServer::NginxTcp))
        .on_each("deploys_in_a_row_behind_nginx_lose_nothing", |release| deploys::in_a_row(release, WebServer::Nginx, deploys::SHORT))
        .on_each("deploys_in_a_row_behind_apache_lose_nothing", |release| deploys::in_a_row(release, WebServer::Apache, deploys::SHORT))
        .on(Release::Bookworm, "deploys_in_a_row_behind_apache_with_reuse", |release| {
            deploys::in_a_row(release, WebServer::ApacheReuse, deploys::SHORT)
        })
        .on_each("deploys_in_a_row_over_tcp_lose_nothing", |release| deploys::in_a_row(release, WebServer::NginxTcp, deploys::SHORT))
        .on_each("a_generation_that_fails_before_the_switch_never_serves_t42", failures::before_the_switch)
        .on_each("a_generation_that_fails_after_the_switch_is_switched_back_t20", failures::after_the_switch)
        .on(Release::Trixie, "with_all_workers_at_work_after_the_switch_it_serves", failures::all_at_work)
        .on_each("an_old_generation_lingers_no_longer_than_it_may_t10", lingers::no_longer_than_linger)
        .on_each("an_old_generation_lingers_for_a_child_as_well", lingers::for_a_child_as_well)
        .on_each("with_as_many_as_may_run_the_next_one_waits_or_the_oldest_ends", lingers::as_many_as_may)
        .on_each("with_too_little_memory_it_waits_and_an_emergency_does_not_linger", lingers::memory_and_force)
        .on_each("killed_at_each_step_of_a_hand_over_it_loses_nothing_t06", people::killed_at_each_step)
        .on_each("whatever_people_do_one_generation_serves_t19", people::by_hand)
        .on_each("whoever_else_is_at_php_fpm_costs_no_request_of_a_hand_over_t14_t19", others::at_it)
        .on_each("after_the_removal_of_the_package_one_generation_serves", people::removal);
    // tests/release: a quarter of an hour.
    let suite = if std::env::var_os("RELEASE_TESTS").is_some() {
        suite
            .on_each("fifty_deploys_behind_nginx", |release| deploys::in_a_row(release, WebServer::Nginx, deploys::LONG))
            .on_each("fifty_deploys_behind_apache", |release| deploys::in_a_row(release, WebServer::Apache, deploys::LONG))
    } else {
        suite
    };
    suite.run()
}
