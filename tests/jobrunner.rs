//! php-fpm renewed in place behind a load balancer, under load.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::agent::Agent;
use lab::load::Load;
use lab::web::{self, Web};
use lab::{Host, Release};

const POOL: &str = r#"
[pool]
depool = ["/usr/local/bin/depool"]
repool = ["/usr/local/bin/pool"]
check = ["/usr/local/bin/pool-state"]
timeout = "10s"
quiet = "300ms"
"#;

fn main() -> ExitCode {
    lab::suite().on_each("one_deploy_renews_php_fpm_and_loses_nothing", one_deploy).run()
}

fn config(release: Release, more: &str) -> String {
    format!(
        "[stamp]\npath = \"/srv/deploy/stamp\"\nsettle = \"200ms\"\n{POOL}\n[target.jobrunner]\nkind = \"php-fpm\"\nunit = \"{}\"\ndrain_timeout = \"2s\"\n{more}\n",
        release.fpm_unit()
    )
}

fn one_deploy(release: Release) -> Result<()> {
    let host = Host::boot(release, "one-deploy")?;
    let web = Web::install(&host, &web::Options::default())?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    agent.configure(&config(release, ""))?;
    let before = web.generation()?;
    let load = Load::builder(&host).rate(100.0).start()?;
    let long = load.send(Duration::from_secs(6), web::POOL)?;
    load.wait_started(long)?;
    web.deploy_code("v1")?;
    agent.deploy_and_wait("v1", Duration::from_secs(60))?;
    let report = load.stop()?;
    println!("{report}\n{}", agent.status_text()?);
    ensure!(web.generation()? != before, "php-fpm was not restarted");
    ensure!(web.served_version()? == "v1", "old code is served");
    ensure!(web.pool_state("mw1")? == web::PoolState::Pooled, "the host is not in the pool");
    ensure!(report.cut_ids() == [long].into() && report.counts().lost() == 1, "{report}");
    ensure!(agent.cut_request_ids()? == report.cut_ids(), "{:?}", agent.casualties()?);
    agent.ensure_nothing_left()
}
