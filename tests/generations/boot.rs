//! The template units without an agent: at boot, at a crash, when several start at once.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use lab::generations::{BOOT, FIRST_VERSION, Options, WebServer};
use lab::{Host, Release, wait_for};

use crate::stage::Stage;

const SOON: Duration = Duration::from_secs(20);

fn few() -> Options {
    Options { children: 2, ..Options::default() }
}

/// Where current.sock is missing, or dangling after a stop or a kill, it leads to one of the two at any moment after the first is ready.
pub fn two_at_once(release: Release) -> Result<()> {
    let host = Host::boot(release, "at-once")?;
    let stage = Stage::set(&host, WebServer::Nginx, &few())?;
    let stack = &stage.stack;
    ensure!(host.ok(&["systemd-analyze", "verify", "--man=no", &stack.unit(BOOT)])?.is_empty());
    let said = host.run(&["systemd-analyze", "verify", "--man=no", &stack.unit(BOOT)])?.stderr;
    ensure!(said.is_empty(), "{said}");
    let modes = host.sh_ok(&format!("cd {} && stat -c '%U:%G %a %n' boot.sock boot.status.sock", stack.directory()))?;
    ensure!(modes == "www-data:www-data 660 boot.sock\nwww-data:www-data 660 boot.status.sock\n", "{modes}");

    let socket = stack.socket();
    let ask = format!("socat -u OPEN:/dev/null UNIX-CONNECT:{socket}");
    for round in 0..4 {
        let names = ["a", "b"].map(|name| format!("{name}{round}"));
        let [a, b] = names.each_ref().map(|name| stack.unit(name));
        let active: Vec<String> = stack.active()?.iter().map(|instance| stack.unit(instance)).collect();
        // A killed php-fpm leaves its socket behind.
        let kill = if round < 2 { "" } else { "systemctl kill --signal=SIGKILL $units; " };
        host.sh_ok(&format!("units='{}'; {kill}systemctl stop $units; systemctl reset-failed", active.join(" ")))?;
        ensure!(stack.served_version().is_err(), "round {round}: somebody serves though nothing runs");
        if round % 2 == 0 {
            host.remove(&socket)?;
        }
        // From the first that is ready on, whoever looks finds a socket that answers.
        let watched = host.sh_ok(&format!(
            "systemctl start --no-block {a} {b}; \
             until systemctl --quiet is-active {a} || systemctl --quiet is-active {b}; do :; done; \
             for look in {{1..30}}; do {ask} || echo broken; done; \
             systemctl start {a} {b}; {ask} || echo broken; ls -A {}",
            stack.directory()
        ))?;
        ensure!(!watched.contains("broken"), "round {round}: {watched}");
        ensure!(!watched.contains(".new"), "round {round}: {watched}");
        let current = stack.current()?.unwrap_or_default();
        ensure!(stack.served_version()? == FIRST_VERSION && names.contains(&current), "round {round}: current.sock leads to {current}");
    }
    // What serves is left alone by whoever starts.
    let current = stack.current()?;
    stack.start(BOOT)?;
    ensure!(stack.current()? == current, "{current:?}, then {:?}", stack.current()?);
    Ok(())
}

/// With a generation that boot knows nothing of, and while a request runs.
pub fn reboot(release: Release) -> Result<()> {
    let server = if release == Release::Bookworm { WebServer::Nginx } else { WebServer::Apache };
    let host = Host::boot(release, "reboot")?;
    let mut stage = Stage::set(&host, server, &few())?;
    let old = stage.begin("g1", "v1")?;
    stage.stack.finish(&old)?;
    stage.ensure_one_generation("g1", "v1")?;
    // One that is killed comes back by itself, with its socket.
    let pid = host.pid_of(&stage.stack.unit("g1"))?;
    host.ok(&["kill", "-KILL", &pid.to_string()])?;
    wait_for("g1 to be back", SOON, || {
        ensure!(host.pid_of(&stage.stack.unit("g1"))? != pid, "it is the old one");
        // Its start is not over when it answers first.
        stage.ensure_one_generation("g1", "v1").map(Some)
    })?;
    // A busy request with a child does not hold up a reboot (facts M9).
    let load = stage.load().start()?;
    let id = load.send_with_child(Duration::from_secs(600), lab::generations::ADDRESS)?;
    load.wait_started(id)?;
    let begun = Instant::now();
    host.reboot()?;
    let took = begun.elapsed();
    println!("{release}: off and up again in {:.1} s", took.as_secs_f64());
    ensure!(took < Duration::from_secs(40), "the reboot took {:.1} s", took.as_secs_f64());
    wait_for("boot to serve", SOON, || stage.ensure_one_generation(BOOT, "v1").map(Some))
}

/// A generation over TCP that cannot live, by hand of a test: systemd would close the socket of all at a start limit.
pub fn crash_loop(release: Release) -> Result<()> {
    let host = Host::boot(release, "crash-loop")?;
    let stage = Stage::set(&host, WebServer::NginxTcp, &few())?;
    let bad = stage.stack.unit("bad");
    host.write(
        &format!("/run/systemd/system/{bad}.d/crash.conf"),
        "[Service]\nType=exec\nExecStart=\nExecStart=/bin/false\nRestartSec=20ms\n",
    )?;
    host.ok(&["systemctl", "daemon-reload"])?;
    host.run(&["systemctl", "start", "--no-block", &bad])?;
    wait_for("ten crashes", SOON, || match host.property(&bad, "NRestarts")?.parse::<u32>()? {
        count @ 0..10 => bail!("{count}"),
        _ => Ok(Some(())),
    })?;
    host.ok(&["systemctl", "stop", &bad])?;
    ensure!(host.property("php-fpm-generation-tcp.socket", "ActiveState")? == "active");
    stage.ensure_one_generation(BOOT, FIRST_VERSION)?;
    // Nobody runs: the next connection starts boot.
    stage.stack.stop(BOOT)?;
    ensure!(stage.stack.active()?.is_empty());
    ensure!(stage.stack.served_version()? == FIRST_VERSION);
    wait_for("boot to be up", SOON, || stage.ensure_one_generation(BOOT, FIRST_VERSION).map(Some))
}
