//! A dump that cooperates in no way, and whose rules let it finish.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::agent::Agent;
use lab::jobs::{self, Marks};
use lab::ledger::{self, How, Ledger, Play, stand_in};
use lab::{Host, Release, wait_for};
use serde_json::Value;

const MINUTE: Duration = Duration::from_secs(60);

/// Ten deploys, and neither it nor its child is ever sent a signal. status names it with its age until it ends, and by then only.
pub fn an_uncooperative_dump_is_never_signalled_t35(release: Release) -> Result<()> {
    let host = Host::boot(release, "uncooperative")?;
    // One is asked first, which it does not hear.
    let names = ["dump-deaf", "asked-deaf"];
    let all = names.map(|name| stand_in(name, Play::Uncooperative, 0).on_failure().timer(name, "OnCalendar=*-01-01 03:00"));
    ledger::install(&host, &all)?;
    let services = names.map(|name| format!("{name}.service"));
    let agent = Agent::install(&host)?;
    agent.deploy("d0")?;
    let target = |name: &str, rules: &str| {
        format!(
            "\n[target.{name}]\nkind = \"scheduled\"\nunits = [\"{name}-*.service\"]\ndrain_timeout = \"200ms\"\noverdue = \"finish\"\n{rules}"
        )
    };
    agent.configure(&format!(
        "[stamp]\npath = \"/srv/deploy/stamp\"\nsettle = \"100ms\"\nmin_interval = \"0s\"\n{}{}",
        target("dump", ""),
        target("asked", "checkpoint_timeout = \"500ms\"\n")
    ))?;
    jobs::systemctl(&host, &["start", "--no-block"], &services)?;
    let begun = wait_for("both to begin", MINUTE, || {
        let ledger = Ledger::read(&host)?;
        let starts: Vec<f64> = names.iter().filter_map(|name| ledger.runs(name).first()).map(|run| run.start).collect();
        Ok((starts.len() == 2).then_some(starts))
    })?;
    let invocations = services.clone().map(|unit| host.property(&unit, "InvocationID").unwrap_or_default());

    for n in 1..=10 {
        agent.deploy_and_wait(&format!("d{n}"), MINUTE)?;
        let status = agent.status()?;
        ensure!(status["state"] == "converged", "{status}");
        for (service, begun) in services.iter().zip(&begun) {
            let unit = named(&status, service).with_context(|| format!("after deploy {n} status does not name {service}: {status}"))?;
            let why = unit["why"].as_str().unwrap_or_default();
            ensure!(unit["state"] == "left" && why.contains("finish"), "{unit}");
            let oldest: jiff::Timestamp = unit["oldest_start"].as_str().context("no age")?.parse()?;
            let off = (oldest.as_microsecond() as f64 / 1e6 - begun).abs();
            ensure!(off < 1.0, "{service} began {off} s off {}", unit["oldest_start"]);
        }
        let text = agent.status_text()?;
        ensure!(services.iter().all(|service| text.contains(service.as_str())), "{text}");
    }
    ensure!(services.clone().map(|unit| host.property(&unit, "InvocationID").unwrap_or_default()) == invocations, "not the same runs");

    for name in names {
        jobs::finish(&host, name)?;
    }
    let ledger = wait_for("both to end", MINUTE, || {
        let ledger = Ledger::read(&host)?;
        Ok(names.iter().all(|name| ledger.runs(name).iter().all(|run| run.stopped.is_some())).then_some(ledger))
    })?;
    for name in names {
        let [run] = ledger.runs(name) else { anyhow::bail!("{name} ran {} times", ledger.runs(name).len()) };
        ensure!(run.how() == How::ByItself(0) && !run.said("signal"), "{run:?}");
    }
    let over = |status: &Value, unit: &str| named(status, unit).is_none_or(|unit| unit["state"] == "fresh" && unit["stale_processes"] == 0);
    agent.wait_status("nobody to be left any more", MINUTE, |status| services.iter().all(|unit| over(status, unit)))?;
    ensure!(agent.casualties()?.is_empty(), "{:?}", agent.casualties()?);
    jobs::settled(&host)?;
    let marks = Marks::read(&host)?;
    ensure!(names.iter().all(|name| marks.count(name, "failure") == 0), "{marks:?}");
    agent.ensure_nothing_left()
}

fn named<'a>(status: &'a Value, service: &str) -> Option<&'a Value> {
    let units = status["targets"].as_array().into_iter().flatten().flat_map(|target| target["units"].as_array().into_iter().flatten());
    units.into_iter().find(|unit| unit["unit"] == service)
}
