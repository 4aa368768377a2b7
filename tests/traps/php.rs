//! php-fpm in place: pools of every kind, children of requests, and everybody else who restarts, reloads or blocks it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::load::Load;
use lab::pool::{Command, FilePool, Moment};
use lab::web;
use lab::{Host, Release, wait_for};

use crate::stage::{Stage, phase};

const SOON: Duration = Duration::from_secs(30);
/// Of each pool: how php-fpm runs it.
const POOLS: [(&str, &str); 3] = [
    ("fixed", "pm = static\npm.max_children = 1\n"),
    ("varying", "pm = dynamic\npm.max_children = 2\npm.start_servers = 1\npm.min_spare_servers = 1\npm.max_spare_servers = 1\n"),
    ("asked", "pm = ondemand\npm.max_children = 1\n"),
];
/// So many at once to each pool, of a second each: they are more than it has workers.
const AT_ONCE: usize = 4;

/// With all workers busy and more waiting in the queue, each pool is drained to its last request, and an idle one of each kind at once. What has to
/// be cut takes its children with it, and nobody else's.
pub fn every_kind(release: Release) -> Result<()> {
    let host = Host::boot(release, "every-kind")?;
    for (name, pm) in POOLS {
        let text = format!(
            "[{name}]\nuser = www-data\ngroup = www-data\nlisten = {0}.sock\n{pm}pm.status_path = /fpm-status\npm.status_listen = {0}.status\n",
            socket(name)
        );
        host.write(&format!("{}/pool.d/{name}.conf", release.fpm_etc()), text)?;
    }
    host.write("/root/ask.php", ASK)?;
    host.write(
        "/srv/app/second.php",
        "<?php\n$end = hrtime(true) + 1e9;\nwhile (hrtime(true) < $end) { usleep(10000); }\necho 'whole';\n",
    )?;
    host.write("/srv/app/starts.php", STARTS)?;
    let stage =
        Stage::set(&host, &web::Options::default(), &FilePool::config("5s", "100ms"), "drain_timeout = \"7s\"\nterm_timeout = \"3s\"")?;
    let unit = release.fpm_unit();
    let said = host.run(&[release.fpm_binary(), "-tt"])?;
    ensure!(said.stderr.contains("process_control_timeout = 0s"), "nothing is to depend on a grace of php-fpm's own: {said:?}");

    stage.converge("v1")?;
    let (began, ended) = phase(&stage.agent, "drain")?;
    ensure!(ended - began < 3.0, "idle pools were drained for {:.3} s", ended - began);

    let mut clients = Vec::new();
    for (name, _) in POOLS {
        let socket = format!("unix://{}.sock", socket(name));
        for _ in 0..AT_ONCE {
            clients.push((name, host.spawn(&["php", "/root/ask.php", socket.as_str(), "/second.php"])?));
        }
    }
    wait_for("each pool to be at its limit", SOON, || {
        let limits = host.sh_ok(&format!("pgrep -fc 'php-fpm: pool ({})$' || true", POOLS.map(|(name, _)| name).join("|")))?;
        Ok((limits.trim() == "4").then_some(()))
    })?;
    stage.deploy("v2")?;
    let waited = stage.agent.wait(SOON)?;
    ensure!(waited.status == 0, "{waited:?}");
    for (name, client) in clients {
        let answered = client.wait(SOON)?;
        ensure!(answered.stdout.ends_with("whole\n"), "{name}: {answered:?}");
    }
    ensure!(stage.agent.casualties()?.is_empty(), "{:?}", stage.agent.casualties()?);
    let (began, ended) = phase(&stage.agent, "drain")?;
    ensure!((1.5..6.5).contains(&(ended - began)), "drained for {:.3} s", ended - began);
    stage.ensure_done("v2")?;

    // Cut: a child that dies of SIGTERM, one that ignores it; and a stranger of the same name.
    host.ok(&[
        "systemd-run",
        "--quiet",
        "--unit=stranger",
        "--uid=www-data",
        "/bin/sh",
        "-c",
        "trap '' TERM; while :; do sleep 0.1; done",
    ])?;
    let stranger = host.pid_of("stranger.service")?;
    let load = Load::builder(&host).rate(0.0).start()?;
    let long = load.send_with_child(Duration::from_secs(300), web::POOL)?;
    load.wait_started(long)?;
    let socket = format!("unix://{}.sock", socket("fixed"));
    let stubborn = host.spawn(&["php", "/root/ask.php", socket.as_str(), "/starts.php"])?;
    wait_for("a child that ignores SIGTERM", SOON, || Ok(host.exists("/var/log/app/stubborn").then_some(())))?;
    let procs = format!("/sys/fs/cgroup/system.slice/{unit}/cgroup.procs");
    let old: Vec<String> = host.read(&procs)?.lines().map(str::to_owned).collect();
    stage.deploy("v3")?;
    let waited = stage.agent.wait(SOON)?;
    ensure!(waited.status == 0 && waited.stdout.contains("2 casualties"), "{waited:?}");
    let new: Vec<String> = host.read(&procs)?.lines().map(str::to_owned).collect();
    let left: Vec<&String> = old.iter().filter(|pid| new.contains(pid) || host.exists(&format!("/proc/{pid}"))).collect();
    ensure!(left.is_empty() && old.len() > 4, "{left:?} of {old:?} are left");
    ensure!(host.pid_of("stranger.service")? == stranger, "a child of another service was ended");
    ensure!(host.property(unit, "Result")? == "success", "the restart was a failure to systemd");
    ensure!(load.stop()?.counts().cut == 1);
    stubborn.wait(SOON)?;
    stage.ensure_done("v3")?;

    // What runs after its stop hangs: it costs the grace, and no more.
    let drop_in = format!("/etc/systemd/system/{unit}.d/hangs.conf");
    host.write(&drop_in, "[Service]\nExecStopPost=/bin/sleep 8888\nTimeoutStopSec=10min\n")?;
    host.ok(&["systemctl", "daemon-reload"])?;
    stage.converge("v4")?;
    let (began, ended) = phase(&stage.agent, "restart")?;
    ensure!((2.5..8.0).contains(&(ended - began)), "restarted in {:.3} s, with term_timeout = 3s", ended - began);
    ensure!(host.run(&["pgrep", "-fx", "/bin/sleep 8888"])?.status == 1, "it is left behind");
    Ok(())
}

fn socket(pool: &str) -> String {
    format!("/run/php/{pool}")
}

/// In the drain of a deploy logrotate, an administrator and apt do what they do; after it something sits on the socket, or php-fpm dies of itself.
pub fn others(release: Release) -> Result<()> {
    let host = Host::boot(release, "others")?;
    let stage = Stage::set(&host, &web::Options::default(), &FilePool::config("5s", "100ms"), "drain_timeout = \"10m\"")?;
    let unit = release.fpm_unit();
    let package = unit.trim_end_matches(".service");
    // What apt has dpkg run when it upgrades the package, or installs it again.
    let upgrade = format!("dpkg-reconfigure --frontend=noninteractive {package}");
    let ways = [
        ("logrotate", format!("/usr/lib/php/{package}-reopenlogs"), false, true),
        ("reload", format!("systemctl reload {unit}"), true, true),
        ("SIGUSR2", format!("kill -USR2 $(systemctl show --value --property=MainPID {unit})"), true, true),
        ("upgrade", upgrade, true, false),
    ];
    for (number, (what, does, cuts, ours)) in ways.into_iter().enumerate() {
        (|| {
            let version = format!("v{}", number + 1);
            let load = Load::builder(&host).rate(0.0).start()?;
            let long = load.send(Duration::from_secs(if cuts { 300 } else { 4 }), web::POOL)?;
            load.wait_started(long)?;
            stage.deploy(&version)?;
            stage.agent.wait_status("one request in flight", SOON, |status| status["targets"][0]["units"][0]["in_flight"] == 1)?;
            let said = host.sh_ok(&does)?;
            let theirs = stage.web.generation();
            let waited = stage.agent.wait(SOON)?;
            ensure!(waited.status == 0, "{waited:?}\n{said}");
            let counts = load.stop()?.counts();
            ensure!(counts.lost() == usize::from(cuts), "{counts:?}");
            ensure!(stage.agent.casualties()?.is_empty(), "{:?}", stage.agent.casualties()?);
            ensure!((stage.web.generation()? != theirs?) == ours, "restarted by the agent, or not");
            stage.ensure_done(&version)
        })()
        .with_context(|| what)?;
    }

    // A pid file of somebody else's process is none of anybody's business.
    let drop_in = format!("/etc/systemd/system/{unit}.d/taken.conf");
    let before = |command: &str| -> Result<()> {
        host.write(&drop_in, format!("[Service]\nExecStartPre=/bin/sh -c '{command}'\n"))?;
        host.ok(&["systemctl", "daemon-reload"]).map(drop)
    };
    before(&format!("echo 1 > /run/php/{package}.pid"))?;
    stage.converge("v5")?;

    // The socket is somebody else's by the time that php-fpm starts: out of the pool, and said; and back when it is free.
    let listens = format!("UNIX-LISTEN:{},fork", release.fpm_socket());
    before(&format!(
        "systemd-run --quiet --unit=squatter --collect --service-type=exec socat {listens} - || true; until [ -S {} ]; do sleep 0.02; done",
        release.fpm_socket()
    ))?;
    stage.deploy("v6")?;
    let waited = stage.agent.wait(Duration::from_secs(60))?;
    ensure!(waited.status == 1 && waited.stderr.contains("does not come up"), "{waited:?}");
    ensure!(host.journal(unit)?.contains("Another FPM instance seems to already listen on"), "it failed for another reason");
    ensure!(stage.pool.state()? == "depooled", "{}", stage.agent.status_text()?);
    let repools = stage.pool.calls(Command::Repool)?;
    ensure!(repools == 5, "{repools} repools");
    host.remove(&drop_in)?;
    host.sh_ok("systemctl daemon-reload && systemctl stop squatter.service")?;
    stage.converge("v7")?;

    // It has proven that it serves, and is dead by the time that the host is back: out again, and said.
    host.write(&drop_in, "[Service]\nRestart=no\n")?;
    host.ok(&["systemctl", "daemon-reload"])?;
    stage.pool.block(Command::Repool, Moment::Before)?;
    stage.deploy("v8")?;
    stage.pool.wait_blocked(Command::Repool, Moment::Before)?;
    host.ok(&["systemctl", "kill", "--kill-whom=main", "--signal=KILL", unit])?;
    wait_for("php-fpm to have failed", SOON, || Ok((host.property(unit, "ActiveState")? == "failed").then_some(())))?;
    stage.pool.let_go(Command::Repool, Moment::Before)?;
    let status = stage.agent.wait_state("failed", SOON)?;
    ensure!(stage.pool.state()? == "depooled" && status["pools"][0]["depooled_by"] == "agent", "{status}");
    let waited = stage.agent.wait(SOON)?;
    ensure!(waited.status == 1 && waited.stderr.contains("did not stay: Result=signal"), "{waited:?}");
    ensure!(host.property(unit, "ActiveState")? == "failed", "it was started before the next try");
    host.remove(&drop_in)?;
    host.ok(&["systemctl", "daemon-reload"])?;
    stage.agent.ok(&["trigger", "--reason", "mended"])?;
    let waited = stage.agent.wait(SOON)?;
    ensure!(waited.status == 0, "{waited:?}");
    stage.ensure_done("v8")
}

/// Asks a pool for a script, and prints what it answers.
const ASK: &str = r#"<?php
function record(int $type, string $content): string { return pack('CCnnCC', 1, $type, 1, strlen($content), 0, 0) . $content; }
function param(string $name, string $value): string { return chr(strlen($name)) . chr(strlen($value)) . $name . $value; }
$params = param('SCRIPT_FILENAME', '/srv/app' . $argv[2]) . param('SCRIPT_NAME', $argv[2]) . param('REQUEST_METHOD', 'GET');
$socket = stream_socket_client($argv[1], $code, $error, 10) or die($error);
fwrite($socket, record(1, pack('nCx5', 1, 0)) . record(4, $params) . record(4, '') . record(5, ''));
stream_set_timeout($socket, 300);
$answer = '';
while (!feof($socket)) { $answer .= fread($socket, 8192); }
echo preg_match('/whole/', $answer) ? "whole\n" : "cut\n";
"#;

/// Waits for a child that SIGTERM does not end.
const STARTS: &str = r#"<?php
$loop = 'trap "" TERM; echo $$ > /var/log/app/stubborn; while :; do sleep 0.1; done';
proc_close(proc_open(['sh', '-c', $loop], [['file', '/dev/null', 'r'], ['file', '/dev/null', 'w']], $pipes));
"#;
