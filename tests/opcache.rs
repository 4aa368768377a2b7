//! The opcache guard: what fills an opcache of 16 MiB is generated files, as many as it takes.

#![allow(clippy::disallowed_methods, reason = "the bans of clippy.toml are for core")]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::agent::{Agent, STAMP};
use lab::generations::{BOOT, Generations, WebServer};
use lab::load::{self, Load};
use lab::web::{self, Web};
use lab::{Host, Release, generations, wait_for};
use serde_json::Value;

const MINUTE: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
/// Half of 16 MiB is taken from the start.
const GUARD: &str = "opcache = { min_free = \"4M\", every = \"1s\" }";
/// Includes that many of the files.
const FILL: &str = "<?php for ($i = 0; $i < $_GET['n']; $i++) include __DIR__ . \"/filling/$i.php\"; echo 'filled';\n";
/// About 30 KiB each in the opcache: 5 MiB in all.
const FILES: u32 = 180;
const GENERATE: &str = "<?php @mkdir('/srv/app/filling');
for ($i = 0; $i < $argv[1]; $i++) {
    $code = \"<?php\\n\";
    for ($n = 0; $n < 40; $n++) $code .= \"if (!function_exists('f{$i}_$n')) { function f{$i}_$n(\\$a) { return [\\$a => 'a$i $n', 'b' => \\$a . 'c$i $n', 'd' => strlen(\\$a) * $n]; } }\\n\";
    file_put_contents(\"/srv/app/filling/$i.php\", $code);
    touch(\"/srv/app/filling/$i.php\", time() - 3600);
}
";

fn main() -> ExitCode {
    lab::suite()
        .on_each("one_that_fills_up_is_renewed_and_one_that_is_too_small_is_told", in_place)
        .on_each("a_generation_that_fills_up_gets_a_successor_and_no_request_is_lost", in_generations)
        .run()
}

fn prepare(host: &Host) -> Result<()> {
    host.write("/srv/app/fill.php", FILL)?;
    host.write("/srv/generate.php", GENERATE)?;
    host.write(&format!("{}/conf.d/99-opcache.ini", host.release().fpm_etc()), "opcache.memory_consumption = 16\n")?;
    host.ok(&["php", "/srv/generate.php", &FILES.to_string()])?;
    host.ok(&["touch", "-d", "1 hour ago", "/srv/app/fill.php"]).map(drop)
}

fn fill(host: &Host, address: &str) -> Result<()> {
    let answer = load::get(host, address, &format!("/fill.php?n={FILES}"), Duration::from_secs(20))?;
    ensure!(answer.status == 200 && answer.body == "filled", "{answer:?}");
    Ok(())
}

/// The unit with an opcache whose figures are known.
fn asked(status: &Value) -> Option<(&str, &Value)> {
    let units = status["targets"][0]["units"].as_array()?;
    let unit = units.iter().find(|unit| unit["opcache"]["fill"].is_object())?;
    Some((unit["unit"].as_str()?, &unit["opcache"]))
}

/// Waits until the figures of the one that serves are within the bound.
fn wait_within(agent: &Agent<'_>, apart: &str) -> Result<Value> {
    agent.wait_status("an opcache within its bound", MINUTE, |status| {
        asked(status).is_some_and(|(unit, opcache)| {
            unit != apart && opcache["fill"]["free"].as_u64() > Some(4 * MIB) && status["last_rollout"]["finished_at"] != Value::Null
        })
    })
}

/// So many rollouts, the newest for the opcache, all converged, and nothing cut.
fn ensure_guarded(agent: &Agent<'_>, count: usize) -> Result<()> {
    let history = agent.history()?;
    let newest = history.first().context("no rollout")?;
    let reason = newest["reason"].as_str().unwrap_or_default();
    ensure!(history.len() == count && newest["by"] == "the opcache guard" && newest["deploy"] == "v0", "{history:?}");
    ensure!(reason.contains("of its 16 MiB are free, less than min_free = 4 MiB"), "{reason}");
    ensure!(history.iter().all(|rollout| rollout["result"] == "converged"), "{history:?}");
    ensure!(agent.casualties()?.is_empty(), "{:?}", agent.casualties()?);
    Ok(())
}

fn in_place(release: Release) -> Result<()> {
    let host = Host::boot(release, "opcache")?;
    prepare(&host)?;
    let web = Web::install(&host, &web::Options::default())?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    let config = |rules: &str| {
        let stamp = format!("[stamp]\npath = \"{STAMP}\"\nsettle = \"50ms\"\nmin_interval = \"0s\"\n");
        format!("{stamp}[target.web]\nkind = \"php-fpm\"\nunit = \"{}\"\n{rules}\n", release.fpm_unit())
    };
    agent.configure(&config(GUARD))?;
    let status = agent.wait_status("the opcache to be asked", MINUTE, |status| asked(status).is_some())?;
    let fresh = asked(&status).context("asked")?.1["fill"]["since"].clone();
    let text = agent.status_text()?;
    ensure!(text.contains(" % of 16 MiB, ") && text.contains(" keys, "), "{text}");
    // A web server that is led to the script is told nothing.
    host.sh_ok("ln -s /usr/share/restart-agent/opcache.php /srv/app/opcache.php")?;
    let refused = load::get(&host, web::POOL, "/opcache.php", Duration::from_secs(5))?;
    ensure!(refused.status == 403 && !refused.body.contains("memory"), "{refused:?}");

    fill(&host, web::POOL)?;
    agent.wait_status("a rollout", MINUTE, |status| status["last_rollout"]["by"] == "the opcache guard")?;
    let status = wait_within(&agent, "")?;
    ensure!(asked(&status).context("asked")?.1["fill"]["since"] != fresh, "it is the old one: {status}");
    ensure_guarded(&agent, 1)?;
    ensure!(web.served_version()? == "v0" && status["problems"] == serde_json::json!([]), "{status}");

    // Again, at once: a rollout would be in vain.
    fill(&host, web::POOL)?;
    let told = |status: &Value| status["problems"].to_string().contains("its opcache is too small for the code: ");
    let status = agent.wait_status("the problem", MINUTE, told)?;
    ensure!(status["problems"].to_string().contains("raise opcache.memory_consumption"), "{status}");
    let looked = asked(&status).context("asked")?.1["looked_at"].clone();
    let later = |status: &Value| asked(status).is_some_and(|(_, opcache)| opcache["looked_at"] != looked) && told(status);
    agent.wait_status("another look", MINUTE, later)?;
    agent.kill()?;
    let pid = status["agent"]["pid"].clone();
    agent.wait_status("the next agent to remember", MINUTE, |status| status["agent"]["pid"] != pid && told(status))?;
    ensure_guarded(&agent, 1)?;
    agent.ensure_nothing_left()?;

    // What may not be asked is not known, and no reason for anything.
    host.write(&format!("{}/conf.d/99-opcache.ini", release.fpm_etc()), "opcache.restrict_api = /srv/app\n")?;
    agent.deploy_and_wait("v1", MINUTE)?;
    let note = |status: &Value| status["targets"][0]["units"][0]["opcache"]["note"].as_str().unwrap_or_default().to_owned();
    let status = agent.wait_status("the restriction to be told", MINUTE, |status| note(status).contains("opcache.restrict_api"))?;
    ensure!(asked(&status).is_none() && status["problems"] == serde_json::json!([]), "{status}");
    ensure!(agent.status_text()?.contains(": unknown: opcache.restrict_api does not let"), "{}", agent.status_text()?);
    ensure!(agent.history()?.len() == 2, "{:?}", agent.history()?);
    Ok(())
}

fn in_generations(release: Release) -> Result<()> {
    let host = Host::boot(release, "opcache-gen")?;
    prepare(&host)?;
    let stack = Generations::install(&host, WebServer::Nginx, &generations::Options { children: 20, ..Default::default() })?;
    let agent = Agent::install(&host)?;
    agent.deploy("v0")?;
    let proof = "proof = { script = \"/srv/app/version.php\" }";
    agent.configure(&format!(
        "[stamp]\npath = \"{STAMP}\"\nsettle = \"50ms\"\nmin_interval = \"0s\"\n{}",
        stack.target(&format!("{proof}\n{GUARD}"))
    ))?;
    let boot = stack.unit(BOOT);
    agent.wait_status("the opcache of boot to be asked", MINUTE, |status| asked(status).is_some_and(|(unit, _)| unit == boot))?;
    let load = Load::builder(&host).to(generations::ADDRESS).rate(100.0).durations([Duration::from_millis(20)]).start()?;
    more(&load, 50)?;
    fill(&host, generations::ADDRESS)?;
    let status = wait_within(&agent, &boot)?;
    ensure_guarded(&agent, 1)?;
    more(&load, 50)?;
    let report = load.stop()?;
    println!("{release}: {report}");
    ensure!(report.counts().lost() == 0, "{report}");
    let new = stack.current()?.context("no symlink")?;
    ensure!(new != BOOT && asked(&status).is_some_and(|(unit, _)| unit == stack.unit(&new)), "{new}: {status}");
    wait_for("one generation", MINUTE, || {
        let active = stack.active()?;
        if active == [new.clone()] { Ok(Some(())) } else { bail!("{active:?}") }
    })?;
    ensure!(stack.served_version()? == "v0", "{}", stack.served_version()?);
    agent.ensure_nothing_left()
}

fn more(load: &Load<'_>, count: usize) -> Result<()> {
    let sum = |(good, bad): (usize, usize)| good + bad;
    let wanted = sum(load.answered()) + count;
    wait_for("requests to be answered", MINUTE, || Ok((sum(load.answered()) >= wanted).then_some(())))
}
