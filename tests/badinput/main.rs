//! What comes from outside is missing, broken or hostile: a clear word in status, nothing cut that need not be, nothing forgotten, and no
//! host out of the pool in silence.

#![allow(clippy::disallowed_methods, reason = "the bans of clippy.toml are for core")]

mod adoption;
mod configuration;
mod php;
#[path = "../jobrunner/stage.rs"]
mod stage;
mod stamps;

use std::process::ExitCode;

use anyhow::Result;
use lab::Host;

fn main() -> ExitCode {
    lab::suite()
        .on_each("a_stamp_that_cannot_be_used_leaves_the_old_deploy_t40", stamps::hostile)
        .on_each("a_bad_configuration_is_told_and_not_taken_t23", configuration::unknown_key)
        .on_each("half_a_stamp_is_no_deploy_t03", stamps::half)
        .on_each("a_configuration_that_breaks_in_a_rollout_forgets_no_deploy_t23", configuration::broken_in_a_rollout)
        .on_each("units_that_cannot_be_restarted_are_told", configuration::impossible_units)
        .on_each("a_full_disk_begins_nothing_and_forgets_nothing_t38", configuration::full_disk)
        .on_each("installed_on_a_running_host_it_restarts_nothing_t05", adoption::nothing_is_restarted)
        .on_each("php_fpm_with_a_broken_configuration_keeps_serving_t23", php::broken_configuration)
        .on_each("php_fpm_that_does_not_come_up_stays_out_of_the_pool_t22", php::does_not_come_up)
        .on_each("a_status_that_says_nothing_is_taken_as_busy_t15", php::unusable_status)
        .run()
}

const WORKER: &str = "worker.service";
const WORKERS: &str = "[target.workers]\nkind = \"service\"\nunits = [\"worker.service\"]\n";
const STAMP: &str = "[stamp]\npath = \"/srv/deploy/stamp\"\nsettle = \"50ms\"\nmin_interval = \"0s\"\n";

/// A long-running service that needs no php-fpm.
fn start_worker(host: &Host) -> Result<()> {
    host.write(&format!("/etc/systemd/system/{WORKER}"), "[Service]\nExecStart=/bin/sleep infinity\n")?;
    host.sh_ok(&format!("systemctl daemon-reload && systemctl start {WORKER}")).map(drop)
}
