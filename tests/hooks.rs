//! The commands that the agent has systemd run: taken as they are written, and not lost to a reload.

#![allow(clippy::disallowed_methods, reason = "the bans of clippy.toml are for core")]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Result, ensure};
use lab::agent::Agent;
use lab::web::{self, PoolState, Web};
use lab::{Host, Release};

fn main() -> ExitCode {
    lab::suite().on_each("commands_are_taken_as_they_are_and_survive_reloads", commands).run()
}

/// Without reloads every character is taken as it is; with reloads, and the agent itself reloads, no command is forgotten.
fn commands(release: Release) -> Result<()> {
    let host = Host::boot(release, "hooks")?;
    let web = Web::install(&host, &web::Options::default())?;
    let agent = Agent::install(&host)?;
    host.write_mode(
        "/usr/local/bin/say",
        "#!/bin/sh\nfor word in \"$@\"; do printf '<%s>' \"$word\" >> /var/log/app/said; done\nexec /usr/local/bin/depool\n",
        0o755,
    )?;
    agent.deploy("v0")?;
    agent.configure(&config(release, r#"["/usr/local/bin/say", "$HOME", "${HOME} $$", "%n", "two words", "'\"\\", ";", ""]"#))?;
    agent.deploy_and_wait("v1", Duration::from_secs(60))?;
    let said = host.read("/var/log/app/said")?;
    ensure!(said == "<$HOME><${HOME} $$><%n><two words><'\"\\><;><>", "{said}");

    agent.configure(&config(release, r#"["/usr/local/bin/say", "plain", "%n", "two words", ""]"#))?;
    let reloads = host.spawn(&["sh", "-c", "while systemctl daemon-reload; do :; done"])?;
    for deploy in 2..=3 {
        host.run(&["systemctl", "reset-failed", release.fpm_unit()])?;
        agent.deploy_and_wait(&format!("v{deploy}"), Duration::from_secs(60))?;
    }
    drop(reloads);
    let said = host.read("/var/log/app/said")?;
    ensure!(said.ends_with(&"<plain><%n><two words><>".repeat(2)), "{said}");
    let journal = host.journal("restart-agent-hook-*")?;
    let trouble: Vec<&str> = journal.lines().filter(|line| line.contains("Refusing") || line.contains("Unknown key")).collect();
    ensure!(trouble.is_empty(), "{trouble:?}");
    ensure!(web.pool_state("mw1")? == PoolState::Pooled, "the host is not in the pool");
    agent.ensure_nothing_left()
}

fn config(release: Release, depool: &str) -> String {
    format!(
        r#"[stamp]
path = "/srv/deploy/stamp"
settle = "50ms"
min_interval = "100ms"
[pool]
depool = {depool}
repool = ["/usr/local/bin/pool"]
check = ["/usr/local/bin/pool-state"]
timeout = "10s"
quiet = "50ms"
[target.web]
kind = "php-fpm"
unit = "{}"
"#,
        release.fpm_unit()
    )
}
