//! php-fpm renewed in place behind a load balancer, on real hosts.

mod deploys;
mod waits;

use std::process::ExitCode;

use lab::Release;
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
        .run()
}

/// A configuration with one php-fpm target, `jobrunner`.
fn config(release: Release, stamp: &str, pool: &str, target: &str) -> String {
    format!(
        "[stamp]\npath = \"/srv/deploy/stamp\"\n{stamp}\n{pool}\n[target.jobrunner]\nkind = \"php-fpm\"\nunit = \"{}\"\n{target}\n",
        release.fpm_unit()
    )
}
