//! Stamps that nobody should write.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::agent::Agent;
use lab::{Host, Release};

use crate::{STAMP, WORKER, WORKERS, start_worker};

const SOON: Duration = Duration::from_secs(30);
/// What is put at the stamp's place, whole, by a shell in its directory, and what status says of it: an empty file in between would be a
/// deploy.
const HOSTILE: [(&str, &str, &str); 9] = [
    ("missing", "true", "has been removed; the last deploy was d1"),
    ("a directory", "mkdir stamp", "a directory"),
    ("a named pipe", "mkfifo stamp", "a named pipe"),
    ("1 GiB of nothing", "truncate -s 1G new && mv new stamp", "longer than 64 KiB"),
    ("binary", "printf '\\377\\376\\000' > new && mv new stamp", "not UTF-8"),
    ("links in a circle", "ln -s other stamp && ln -s stamp other", "circle"),
    ("a key that does not exist", "printf 'id = \"x\"\\nforse = true\\n' > new && mv new stamp", "forse"),
    ("no TOML", "printf 'id = \\nnonsense\\n' > new && mv new stamp", "TOML"),
    ("an id with an escape sequence", "printf 'a\\033[2Jb\\n' > new && mv new stamp", "printable"),
];

pub fn hostile(release: Release) -> Result<()> {
    let host = Host::boot(release, "stamps")?;
    start_worker(&host)?;
    let agent = Agent::install(&host)?;
    agent.deploy("d0")?;
    agent.configure(&format!("{STAMP}{WORKERS}"))?;
    agent.deploy_and_wait("d1", SOON)?;
    let worker = host.property(WORKER, "InvocationID")?;
    for (name, put, says) in HOSTILE {
        (|| {
            host.sh_ok(&format!("cd /srv/deploy && rm -rf stamp other && {put}"))?;
            let says_so = |status: &serde_json::Value| status["stamp"]["error"].as_str().is_some_and(|error| error.contains(says));
            let status = agent.wait_status("the error in status", SOON, says_so)?;
            ensure!(!status.to_string().contains('\u{1b}'), "{status}");
            ensure!(status["stamp"]["id"] == "d1" && status["reached"]["id"] == "d1", "{status}");
            ensure!(agent.status_text()?.contains(says), "{}", agent.status_text()?);
            ensure!(agent.history()?.len() == 1, "a rollout was begun: {:#?}", agent.history()?);
            ensure!(host.property(WORKER, "InvocationID")? == worker, "the worker was restarted");
            if name != "missing" {
                let waited = host.run(&["restart-agent", "wait", "--timeout", "2s"])?;
                ensure!(waited.status == 1 && waited.stderr.contains(says), "wait: {waited:?}");
            }
            Ok(())
        })()
        .with_context(|| name)?;
    }
    host.sh_ok("cd /srv/deploy && rm -rf stamp other")?;
    agent.deploy_and_wait("d2", SOON)?;
    ensure!(agent.status()?["stamp"]["error"].is_null(), "{}", agent.status()?);
    ensure!(host.property(WORKER, "InvocationID")? != worker, "the worker was not renewed for d2");
    agent.ensure_nothing_left()
}

/// A hook that writes in place, in steps, with the agent looking on: what it names last is renewed, and nothing else (trap T3).
pub fn half(release: Release) -> Result<()> {
    let host = Host::boot(release, "half-a-stamp")?;
    start_worker(&host)?;
    let agent = Agent::install(&host)?;
    agent.deploy("d0")?;
    let other = "[target.others]\nkind = \"service\"\nunits = [\"other.service\"]\n";
    host.write("/etc/systemd/system/other.service", "[Service]\nExecStart=/bin/sleep infinity\n")?;
    host.sh_ok("systemctl daemon-reload && systemctl start other")?;
    agent.configure(&format!("{STAMP}{WORKERS}{other}"))?;
    let steps = [
        ("d1", "exec 4>stamp; printf 'id=\"d1\"\\n' >&4; sleep 0.3; printf 'targets=[\"workers\"]\\n' >&4; exec 4>&-"),
        ("d2", "exec 4>stamp; sleep 0.3; printf 'id=\"d2\"\\n' >&4; sleep 0.3; printf 'targets=[\"workers\"]\\n' >&4; exec 4>&-"),
        ("d3", "rm stamp; printf 'id=\"d3\"\\ntargets=[\"workers\"]\\n' > stamp"),
    ];
    let untouched = host.property("other.service", "InvocationID")?;
    for (id, write) in steps {
        let before = host.property(WORKER, "InvocationID")?;
        host.sh_ok(&format!("cd /srv/deploy && {write}"))?;
        let waited = agent.wait(SOON)?;
        ensure!(waited.status == 0, "{id}: {waited:?}");
        ensure!(agent.status()?["reached"]["id"] == id, "{}", agent.status()?);
        ensure!(host.property(WORKER, "InvocationID")? != before, "{id}: the worker was not renewed");
        ensure!(host.property("other.service", "InvocationID")? == untouched, "{id}: what the stamp does not name was renewed");
    }
    ensure!(agent.history()?.len() == steps.len(), "{:#?}", agent.history()?);
    agent.ensure_nothing_left()
}
