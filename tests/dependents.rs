//! Units that go down with a script that is stopped: what was up before is up after.

#![allow(clippy::disallowed_methods, reason = "the bans of clippy.toml are for core")]

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::agent::Agent;
use lab::jobs::{self, Job, Marks, Shape, script, worker};
use lab::{Host, Release, wait_for};

const MINUTE: Duration = Duration::from_secs(60);
const FAR: &str = "OnCalendar=*-01-01 03:00";

fn main() -> ExitCode {
    lab::suite().on_each("what_goes_down_with_a_script_comes_back_and_pulls_no_quiet_script_in", come_back).run()
}

/// What depends on this script, in each way that systemd stops for.
fn dependents(of: &str) -> Vec<Job> {
    let depends = |name: &str, line: &str| worker(&format!("{name}-{of}"), Shape::Plain).unit(line);
    vec![
        depends("required", &format!("Requires=dump-{of}.service")),
        depends("part", &format!("PartOf=dump-{of}.service")),
        depends("bound", &format!("BindsTo=dump-{of}.service")),
        depends("second", &format!("Requires=required-{of}.service\nAfter=required-{of}.service")),
        // Not up before, and not to be up after.
        depends("down", &format!("Requires=dump-{of}.service")),
    ]
}

fn come_back(release: Release) -> Result<()> {
    let host = Host::boot(release, "dependents")?;
    let scripts = ["again", "quiet"].map(|of| script(&format!("dump-{of}"), Shape::Plain).timer(&format!("dump-{of}"), FAR));
    jobs::install(&host, &scripts)?;
    jobs::start(&host, &scripts)?;
    let all: Vec<Job> = ["again", "quiet"].into_iter().flat_map(dependents).collect();
    jobs::install(&host, &all)?;
    let up: Vec<Job> = all.iter().filter(|job| !job.name.starts_with("down-")).cloned().collect();
    jobs::start(&host, &up)?;
    let agent = Agent::install(&host)?;
    agent.deploy("d0")?;
    let target = |of: &str, after: &str| {
        format!(
            "[target.{of}]\nkind = \"scheduled\"\nunits = [\"dump-{of}.service\"]\ndrain_timeout = \"200ms\"\nterm_timeout = \"5s\"\nafter = \"{after}\"\n"
        )
    };
    agent.configure(&format!(
        "[stamp]\npath = \"/srv/deploy/stamp\"\nsettle = \"100ms\"\nmin_interval = \"0s\"\n\n{}\n{}",
        target("again", "rerun"),
        target("quiet", "until-next")
    ))?;
    let plan: serde_json::Value = serde_json::from_str(&agent.ok(&["plan", "--json"])?)?;
    for of in ["again", "quiet"] {
        let planned = plan["units"].as_array().into_iter().flatten().find(|planned| planned["unit"] == format!("dump-{of}.service"));
        let what = planned.and_then(|planned| planned["what"].as_str()).with_context(|| plan.to_string())?;
        for name in ["required", "part", "bound", "second"] {
            ensure!(what.contains(&format!("{name}-{of}.service")), "{what}");
        }
        ensure!(!what.contains("down-"), "{what}");
    }
    agent.deploy_and_wait("d1", MINUTE)?;

    let state = |name: &str| host.property(&format!("{name}.service"), "ActiveState");
    // systemd has taken the jobs by now; the marks follow.
    let marks = wait_for("all to be up again", MINUTE, || {
        let marks = Marks::read(&host)?;
        let names = ["again", "quiet"].into_iter().flat_map(|of| ["required", "part", "second"].map(|name| format!("{name}-{of}")));
        let missing: Vec<String> = names.filter(|name| marks.starts(name) < 2).collect();
        if missing.is_empty() && marks.starts("bound-again") == 2 { Ok(Some(marks)) } else { bail!("{missing:?}\n{}", agent.journal()?) }
    })?;
    for of in ["again", "quiet"] {
        for name in ["required", "part", "second"] {
            let name = format!("{name}-{of}");
            ensure!(state(&name)? == "active", "{name} is {}", state(&name)?);
            ensure!(marks.starts(&name) == 2, "{name} was started {} times", marks.starts(&name));
        }
        ensure!(marks.starts(&format!("down-{of}")) == 0, "what was down was started");
    }
    ensure!(
        state("dump-again")? == "activating" && state("bound-again")? == "active",
        "{} {}",
        state("dump-again")?,
        state("bound-again")?
    );
    // It cannot be up without the script, which is to stay quiet.
    ensure!(state("dump-quiet")? == "inactive" && marks.starts("dump-quiet") == 1, "a quiet script was pulled in");
    ensure!(state("bound-quiet")? == "inactive", "{}", state("bound-quiet")?);
    let status = agent.status()?;
    let told = status["last_rollout"]["units"].as_array().into_iter().flatten().find(|unit| unit["unit"] == "bound-quiet.service");
    ensure!(told.is_some_and(|unit| unit["why"].as_str().is_some_and(|why| why.contains("stays down"))), "{status}");
    agent.ensure_nothing_left()
}
