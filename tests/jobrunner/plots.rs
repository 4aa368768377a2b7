//! `history --plot` of a real rollout.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::load::Load;
use lab::pool::FilePool;
use lab::web;
use lab::{Host, Release};

use crate::stage::Stage;

const SOON: Duration = Duration::from_secs(30);
const REQUESTS: u64 = 8;

/// Requests that end one after the other, and one that outlasts the threshold.
pub fn under_load(release: Release) -> Result<()> {
    let host = Host::boot(release, "plot")?;
    let stage = Stage::set(&host, &web::Options::default(), &FilePool::config("5s", "100ms"), "drain_timeout = \"6s\"")?;
    let load = Load::builder(&host).to(web::POOL).rate(0.0).start()?;
    let lengths = (0..REQUESTS).map(|n| Duration::from_millis(2000 + 500 * n)).chain([SOON]);
    let sent = lengths.map(|length| load.send(length, web::POOL)).collect::<Result<Vec<_>>>()?;
    for request in sent {
        load.wait_started(request)?;
    }
    stage.web.deploy_code("v1")?;
    stage.agent.deploy("v1")?;
    // What is told meanwhile costs the disk nothing: it goes there with the next thing that is written, or within a minute.
    let (told, written) = (RefCell::new(BTreeSet::new()), RefCell::new(BTreeSet::new()));
    let wal = || host.sh_ok("stat -c %y /var/lib/restart-agent/restart-agent.db-wal");
    stage.agent.wait_status("one request in flight", SOON, |status| {
        let in_flight = status["targets"][0]["units"][0]["in_flight"].as_u64();
        if let (Some(in_flight), Ok(at)) = (in_flight.filter(|in_flight| *in_flight < REQUESTS), wal()) {
            told.borrow_mut().insert(in_flight);
            written.borrow_mut().insert(at);
        }
        in_flight == Some(1)
    })?;
    let (told, written) = (told.into_inner(), written.into_inner());
    println!("{} values of what is in flight while the journal was written {} times", told.len(), written.len() - 1);
    ensure!(told.len() >= 4 && written.len() <= 2, "{told:?} {written:?}");
    let under_way = stage.agent.ok(&["history", "--plot", "-"])?;
    ensure!(under_way.contains("Deploy v1: under way") && under_way.contains("drain not over"), "{under_way}");
    let waited = stage.agent.wait(SOON)?;
    ensure!(waited.status == 0, "{waited:?}");
    load.stop()?;

    let history = stage.agent.history()?;
    let flights = history[0]["flights"].as_array().context("no flights")?;
    let values: Vec<u64> = flights.iter().filter_map(|flight| flight["in_flight"].as_u64()).collect();
    println!("in flight: {values:?}");
    ensure!(values.is_sorted_by(|before, after| before > after) && values.len() >= 5 && values.ends_with(&[1, 0]), "{history:#?}");

    stage.agent.ok(&["history", "--plot", "/root/rollout.svg"])?;
    let svg = host.read("/root/rollout.svg")?;
    let picture = roxmltree::Document::parse(&svg)?;
    let texts: Vec<&str> = picture.descendants().filter(|node| node.has_tag_name("text")).filter_map(|node| node.text()).collect();
    let says = |what: &str| texts.iter().any(|text| text.contains(what));
    for what in ["Deploy v1: converged", "1 casualty", "jobrunner", "1 renewed", release.fpm_unit(), "max ", "SIGTERM"] {
        ensure!(says(what), "no {what:?} in {texts:?}");
    }
    for phase in ["preflight", "depool", "drain", "restart", "repool"] {
        ensure!(says(phase), "no {phase} in {texts:?}");
    }
    let line = picture.descendants().find(|node| node.attribute("class") == Some("f")).and_then(|node| node.attribute("d"));
    let line = line.context("no line of what is in flight")?;
    let (_, first) = line.split('H').next().and_then(|from| from.split_once(' ')).context("no beginning")?;
    let rest = line.split('V').skip(1).map(|step| step.split('H').next().unwrap_or_default());
    let heights = std::iter::once(first).chain(rest).map(|y| y.parse::<f64>()).collect::<Result<Vec<_>, _>>()?;
    // Down is up.
    ensure!(
        heights.len() == values.len() && heights.is_sorted_by(|before, after| before < after),
        "{heights:?} is no line that falls: {line}"
    );
    stage.ensure_done("v1")
}
