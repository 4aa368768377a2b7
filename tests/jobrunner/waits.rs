//! `touch stamp; restart-agent wait` never returns for the deploy before.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::agent::Agent;
use lab::web::{self, Web};
use lab::{Host, Release};

use crate::stage::config;

const WORKER: &str = "worker.service";

/// Every second deploy comes within `settle` of another one.
pub fn hundred_in_a_row(release: Release) -> Result<()> {
    let host = Host::boot(release, "waits")?;
    host.write(&format!("/etc/systemd/system/{WORKER}"), "[Service]\nExecStart=/bin/sleep infinity\n[Unit]\nStartLimitIntervalSec=0\n")?;
    host.sh_ok(&format!("systemctl daemon-reload && systemctl start {WORKER}"))?;
    let agent = Agent::install(&host)?;
    agent.deploy("d0")?;
    agent.configure(&format!(
        "[stamp]\npath = \"/srv/deploy/stamp\"\nsettle = \"60ms\"\nmin_interval = \"0s\"\n[target.workers]\nkind = \"service\"\nunits = [\"{WORKER}\"]\n"
    ))?;
    // In one shell, so that nothing lies between the touch and the wait.
    let script = r#"
set -eu
deploy() { echo "$1" > /srv/deploy/stamp.new; mv /srv/deploy/stamp.new /srv/deploy/stamp; }
reached() { sed -n 's/.*"reached":{"id":"\([^"]*\)".*/\1/p' /run/restart-agent/status.json; }
for i in $(seq 100); do
    if [ $((i % 2)) = 0 ]; then deploy "burst$i"; fi
    deploy "d$i"
    restart-agent wait --timeout 30s > /run/waited || { echo "deploy d$i: wait exited $?"; cat /run/waited; restart-agent status; exit 1; }
    grep -q "deploy d$i," /run/waited || { echo "deploy d$i: wait said: $(cat /run/waited)"; exit 1; }
    [ "$(reached)" = "d$i" ] || { echo "deploy d$i: reached is $(reached)"; restart-agent status; exit 1; }
    invocation=$(systemctl show --value --property=InvocationID worker.service)
    [ "$invocation" != "${before:-}" ] || { echo "deploy d$i: the worker was not renewed"; exit 1; }
    before=$invocation
done
"#;
    let begun = std::time::Instant::now();
    let said = host.command(["bash", "-c", script]).timeout(Duration::from_secs(240)).run()?;
    ensure!(said.success(), "{}{}", said.stdout, said.stderr);
    println!("100 deploys with wait in {:.1?}", begun.elapsed());
    agent.ensure_nothing_left()
}

/// The same with php-fpm, which says itself which code it runs; fewer, since systemd's start limit bounds how often it is restarted.
pub fn php(release: Release) -> Result<()> {
    let host = Host::boot(release, "waits-php")?;
    let web = Web::install(&host, &web::Options::default())?;
    host.sh_ok(&format!(
        "mkdir -p /run/systemd/system/{0}.d && printf '[Unit]\\nStartLimitIntervalSec=0\\n' > /run/systemd/system/{0}.d/limit.conf && systemctl daemon-reload",
        release.fpm_unit()
    ))?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    agent.configure(&config(release, "settle = \"100ms\"\nmin_interval = \"0s\"", "", "drain_timeout = \"0s\""))?;
    for deploy in 1..=20 {
        let version = format!("v{deploy}");
        web.deploy_code(&version)?;
        agent.deploy_and_wait(&version, Duration::from_secs(30)).with_context(|| version.clone())?;
        let served = web.served_version()?;
        ensure!(served == version, "wait has returned for {version}, and {served} is served");
    }
    agent.ensure_nothing_left()
}
