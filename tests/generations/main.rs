//! php-fpm generations: the template units, hand-overs under load behind real web servers.

#![allow(clippy::disallowed_methods, reason = "the bans of clippy.toml are for core")]

mod agent;
mod boot;
mod by_hand;
mod deploys;
mod stage;

use std::process::ExitCode;

use lab::Release;
use lab::generations::WebServer;

fn main() -> ExitCode {
    lab::suite()
        .on_each("two_instances_that_start_at_once_never_break_the_socket", boot::two_at_once)
        .on_each("a_reboot_ends_with_boot_serving", boot::reboot)
        .on(Release::Trixie, "a_generation_that_crashes_in_a_loop_takes_no_port_away", boot::crash_loop)
        .on_each("by_hand_behind_nginx", |release| by_hand::lossless(release, WebServer::Nginx))
        .on_each("by_hand_behind_apache", |release| by_hand::lossless(release, WebServer::Apache))
        .on(Release::Bookworm, "by_hand_behind_apache_with_reuse", by_hand::reuse)
        .on_each("by_hand_over_tcp", |release| by_hand::lossless(release, WebServer::NginxTcp))
        .on_each("deploys_in_a_row_behind_nginx_lose_nothing", |release| deploys::in_a_row(release, WebServer::Nginx, deploys::SHORT))
        .on_each("deploys_in_a_row_behind_apache_lose_nothing", |release| deploys::in_a_row(release, WebServer::Apache, deploys::SHORT))
        .on_each("deploys_in_a_row_behind_apache_with_reuse", |release| deploys::in_a_row(release, WebServer::ApacheReuse, deploys::SHORT))
        .on_each("deploys_in_a_row_over_tcp_lose_nothing", |release| deploys::in_a_row(release, WebServer::NginxTcp, deploys::SHORT))
        .run()
}
