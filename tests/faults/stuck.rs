//! Processes in uninterruptible sleep (trap T13).

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use lab::agent::CONFIG;
use lab::pool::{Command, FilePool};
use lab::web;
use lab::{Host, Release, wait_for};

use crate::in_release;
use crate::stage::Stage;

const MINUTE: Duration = Duration::from_secs(60);
const DISK: &str = "/srv/frozen";
const WORKER: &str = "worker.service";
const STUCK: &str = "stuck in the kernel";
const REQUEST: &str = "exec 3<>/dev/tcp/127.0.0.1/8081; printf 'GET /stuck.php HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3";

/// A request and a worker write to a disk that does not answer, until it does.
pub fn in_the_kernel(release: Release) -> Result<()> {
    let long = in_release();
    let host = Host::builder(release, "stuck").disk(DISK).boot()?;
    host.sh_ok(&format!("chmod 777 {DISK}"))?;
    let worker = format!("[Service]\nExecStart=/bin/sh -c 'while :; do echo x > {DISK}/worker; sleep 0.05; done'\nTimeoutStopSec=3s\n");
    host.write(&format!("/etc/systemd/system/{WORKER}"), worker)?;
    host.sh_ok(&format!("systemctl daemon-reload && systemctl start {WORKER}"))?;
    host.write("/srv/app/stuck.php", format!("<?php\nfile_put_contents('{DISK}/request', 'x');\necho 'over';\n"))?;
    let rules = "drain_timeout = \"1s\"\nterm_timeout = \"1s\"";
    let stage = Stage::set(&host, &web::Options::default(), &FilePool::config("5s", "100ms"), rules)?;
    let config = host.read(CONFIG)?;
    stage.agent.configure(&format!("{config}\n[target.workers]\nkind = \"service\"\nunits = [\"{WORKER}\"]\nterm_timeout = \"1s\"\n"))?;
    let before = host.property(WORKER, "InvocationID")?;
    host.freeze()?;
    let _client = host.spawn(&["bash", "-c", REQUEST])?;
    wait_for("both to be stuck", MINUTE, || {
        let stuck = host.sh("grep -lE '^State:.D' /proc/[0-9]*/status")?.stdout;
        if stuck.lines().count() >= 2 { Ok(Some(())) } else { bail!("{stuck}") }
    })?;

    stage.deploy("v1")?;
    let why =
        |status: &serde_json::Value, target: usize| status["targets"][target]["units"][0]["why"].as_str().unwrap_or_default().to_owned();
    let status = stage.agent.wait_status("both to be told", MINUTE, |status| {
        why(status, 0).contains(STUCK) && why(status, 1).contains(STUCK) && status["targets"][1]["state"] == "failed"
    })?;
    ensure!(!status["targets"][0]["units"][0]["deadline"].is_null() || status["targets"][0]["state"] == "failed", "{status}");
    // systemd gives up as well, and its start fails, since the process that is stuck holds the socket.
    let status = stage.agent.wait_state("failed", MINUTE)?;
    ensure!(why(&status, 0).contains(STUCK) && why(&status, 0).contains("does not come up"), "{status}");
    ensure!(status["next"] == "another try" && !status["deadline"].is_null(), "{status}");
    let waited = stage.agent.wait(Duration::from_secs(2))?;
    ensure!(waited.status == 1, "{waited:?}");
    let text = stage.agent.status_text()?;
    ensure!(text.contains(STUCK), "{text}");
    ensure!(stage.pool.state()? == "depooled" && stage.pool.calls(Command::Repool)? == 0, "it was put back: {text}");
    println!("{release}:\n{text}");

    host.thaw()?;
    if long {
        // By itself, with the next try.
        stage.agent.wait_state("converged", MINUTE * 2)?;
    } else {
        stage.agent.ok(&["trigger", "--reason", "thawed"])?;
    }
    let waited = stage.agent.wait(MINUTE)?;
    ensure!(waited.status == 0, "{waited:?}: {}", stage.agent.status_text()?);
    ensure!(host.property(WORKER, "InvocationID")? != before, "the worker was not renewed");
    let cut = stage.agent.casualties()?;
    ensure!(cut.len() == 1 && cut[0]["what"] == "request" && cut[0]["name"] == "/srv/app/stuck.php", "{cut:?}");
    stage.ensure_done("v1")
}
