//! The package: what installing, upgrading, removing and purging it does to a host, also in the middle of a rollout.

#![allow(clippy::disallowed_methods, reason = "the bans of clippy.toml are for core")]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::agent::{self, Agent};
use lab::load::Load;
use lab::web::{self, PoolState, Web};
use lab::{Host, Output, Release, wait_for};

const POOL: &str = r#"
[pool]
depool = ["/usr/local/bin/depool"]
repool = ["/usr/local/bin/pool"]
check = ["/usr/local/bin/pool-state"]
timeout = "5s"
quiet = "200ms"
"#;
const UPGRADED: &str = "0.1.1~test-1";
const QUIET: &str = "/run/restart-agent/quiet/stubborn.service";
const DATABASE: &str = "/var/lib/restart-agent/restart-agent.db";
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> ExitCode {
    lab::suite()
        .on_each("installing_starts_an_agent_that_does_nothing_t41", installing)
        .on_each("everybody_may_look_and_only_root_may_change_t40", who_may_what)
        .on_each("state_of_a_newer_version_is_refused_and_kept_t41", newer_state)
        .on_each("an_upgrade_in_the_middle_of_a_rollout_goes_on_t37", upgrade)
        .on_each("an_agent_that_is_stopped_in_the_middle_of_a_rollout_says_what_it_owes", stopped)
        .on_each("removal_in_the_middle_of_a_rollout_gives_everything_back_t37", removal)
        .on(Release::Bookworm, "removal_says_what_it_could_not_put_back_t37", removal_that_cannot)
        .run()
}

fn installing(release: Release) -> Result<()> {
    let host = Host::boot(release, "installing")?;
    host.install_deb(&under_test()?)?;
    let agent = Agent::on(&host);
    agent.wait_active()?;
    expect(&host.run(&["systemctl", "is-enabled", "restart-agent"])?, 0, "enabled")?;

    let status = host.run(&["restart-agent", "status"])?;
    expect(&status, 0, "idle: no targets are configured, so nothing is ever restarted")?;
    expect(&status, 0, "/etc/restart-agent/config.toml")?;
    expect(&host.run(&["restart-agent", "check-config"])?, 0, "")?;
    expect(&host.run(&["restart-agent", "history"])?, 0, "No rollout is recorded")?;
    expect(&host.run(&["restart-agent", "casualties"])?, 0, "")?;
    expect(&host.run(&["restart-agent", "statsu"])?, 64, "status")?;
    let view = agent.status()?;
    ensure!(view["state"] == "idle" && view["schema"] == 1 && view["problems"] == serde_json::json!([]), "{view}");

    for (path, mode) in [
        ("/usr/bin/restart-agent", "755 root root"),
        ("/etc/restart-agent/config.toml", "644 root root"),
        ("/etc/restart-agent/conf.d/README", "644 root root"),
        ("/usr/lib/tmpfiles.d/restart-agent.conf", "644 root root"),
        ("/usr/share/restart-agent/opcache.php", "644 root root"),
        ("/usr/share/dbus-1/system.d/org.wikimedia.RestartAgent1.conf", "644 root root"),
        ("/usr/share/dbus-1/interfaces/org.wikimedia.RestartAgent1.xml", "644 root root"),
        ("/var/lib/restart-agent", "700 root root"),
        (DATABASE, "600 root root"),
        ("/run/restart-agent", "755 root root"),
        ("/run/restart-agent/status.json", "644 root root"),
    ] {
        let found = host.ok(&["stat", "--format=%a %U %G", path])?;
        ensure!(found.trim() == mode, "{path} has {found}instead of {mode}");
    }
    let conffiles = host.ok(&["dpkg-query", "--show", "--showformat=${Conffiles}", "restart-agent"])?;
    for path in ["/etc/restart-agent/config.toml", "/etc/restart-agent/conf.d/README"] {
        ensure!(conffiles.contains(path), "{path} is not a configuration file of the package: {conffiles}");
    }
    ensure!(!conffiles.contains("/usr"), "{conffiles}");
    let failed = host.ok(&["systemctl", "list-units", "--failed", "--plain", "--no-legend"])?;
    ensure!(failed.trim().is_empty(), "failed: {failed}");

    // Nothing but the one agent, also when somebody starts one by hand.
    let before = host.pid_of("restart-agent.service")?;
    let second = host.command(["restart-agent", "daemon"]).timeout(Duration::from_secs(20)).run()?;
    expect(&second, 1, "restart-agent runs already: systemctl status restart-agent")?;
    ensure!(host.pid_of("restart-agent.service")? == before, "the first agent was disturbed");

    host.ok(&["systemctl", "stop", "restart-agent"])?;
    expect(&host.run(&["restart-agent", "status"])?, 3, "THE AGENT IS NOT RUNNING")?;
    expect(&host.run(&["restart-agent", "trigger"])?, 3, "systemctl start restart-agent")?;
    expect(&host.run(&["restart-agent", "history"])?, 0, "")?;
    host.remove("/run/restart-agent/status.json")?;
    expect(&host.run(&["restart-agent", "status"])?, 4, "the agent has not run since this host booted")?;
    host.write("/run/restart-agent/status.json", r#"{"schema": 2, "something": "else"}"#)?;
    expect(&host.run(&["restart-agent", "status"])?, 4, "was written by a newer version")
}

fn who_may_what(release: Release) -> Result<()> {
    let host = Host::boot(release, "who-may-what")?;
    let agent = Agent::install_package(&host, &under_test()?)?;
    script(&host, "job.service", "sleep 600; true", "--token=hunter2")?;
    agent.deploy("v0")?;
    agent.configure(&config(
        "[target.jobs]\nkind = \"scheduled\"\nunits = [\"job.service\"]\ndrain_timeout = \"0s\"\nafter = \"rerun\"\n",
    ))?;
    host.ok(&["systemctl", "start", "--no-block", "job.service"])?;
    wait_for("the script", PATIENCE, || Ok((host.property("job.service", "ActiveState")? == "activating").then_some(())))?;
    agent.deploy_and_wait("v1", PATIENCE)?;
    let cut = agent.casualties()?;
    ensure!(cut.len() == 1 && cut[0]["unit"] == "job.service" && cut[0]["pid"].as_u64() > Some(1), "{cut:?}");

    let as_user = |arguments: &[&str]| host.command(arguments.iter().copied()).user("www-data").run();
    expect(&as_user(&["restart-agent", "status"])?, 0, "converged: deploy v1")?;
    expect(&as_user(&["restart-agent", "status", "--json"])?, 0, "\"state\": \"converged\"")?;
    expect(&as_user(&["restart-agent", "wait", "--timeout", "5s"])?, 0, "converged: deploy v1")?;
    for command in ["plan", "history", "casualties", "trigger", "release", "abort", "hold --reason lunch"] {
        let words: Vec<&str> = ["restart-agent"].into_iter().chain(command.split(' ')).collect();
        let name = command.split(' ').next().unwrap_or_default();
        expect(&as_user(&words)?, 77, &format!("this needs root: sudo restart-agent {name}"))?;
    }
    for command in [&["plan"][..], &["history"], &["casualties"]] {
        expect(&host.command(["restart-agent"].into_iter().chain(command.iter().copied())).run()?, 0, "")?;
    }

    const BUS: [&str; 3] = ["org.wikimedia.RestartAgent1", "/org/wikimedia/RestartAgent1", "org.wikimedia.RestartAgent1"];
    let bus = |verb: &str, rest: &[&str]| {
        let words: Vec<&str> = ["busctl", "--system", verb].into_iter().chain(BUS).chain(rest.iter().copied()).collect();
        as_user(&words)
    };
    expect(&bus("get-property", &["State", "DeployId", "Reached"])?, 0, "s \"converged\"\ns \"v1\"\ns \"v1\"")?;
    expect(&bus("get-property", &["WaitingFor", "Deadline", "Targets"])?, 0, "\"jobs\" \"scheduled\" \"fresh\"")?;
    expect(&bus("call", &["Wait", "tst", "0", "", "1000000"])?, 0, "converged")?;
    for call in [
        &["Plan"][..],
        &["Trigger", "bbass", "false", "false", "0", "why"],
        &["Hold", "stas", "why", "1000000", "0"],
        &["Release"],
        &["Abort", "s", "why"],
    ] {
        let said = bus("call", call)?;
        ensure!(said.status != 0 && said.stderr.to_lowercase().contains("access denied"), "{call:?} as www-data: {said:?}");
    }
    expect(&host.run(&["restart-agent", "history", "--json"])?, 0, "\"id\": \"r0\"")?;

    // What is for everybody names the script, and not what it was started with.
    for everybody in [host.read("/run/restart-agent/status.json")?, as_user(&["restart-agent", "status", "--json"])?.stdout] {
        ensure!(everybody.contains("job.service") && !everybody.contains("hunter2") && !everybody.contains("--token"), "{everybody}");
    }
    expect(&as_user(&["cat", DATABASE])?, 1, "Permission denied")?;
    agent.ensure_nothing_left()
}

fn newer_state(release: Release) -> Result<()> {
    let host = Host::boot(release, "newer-state")?;
    let agent = Agent::install_package(&host, &under_test()?)?;
    host.ok(&["systemctl", "stop", "restart-agent"])?;
    // SQLite keeps user_version in the bytes 60 to 63 of the file, and a clean stop leaves no WAL.
    ensure!(!host.exists(&format!("{DATABASE}-wal")), "a WAL is left after a clean stop");
    host.sh_ok(&format!(r"printf '\000\000\000\143' | dd of={DATABASE} bs=1 seek=60 conv=notrunc status=none"))?;
    let before = host.ok(&["sha256sum", DATABASE])?;

    host.run(&["systemctl", "start", "restart-agent"])?;
    let said = wait_for("the reason in the system's journal", PATIENCE, || {
        let journal = host.journal("restart-agent.service")?;
        if journal.contains("was made by a newer version (schema 99") { Ok(Some(journal)) } else { bail!("{journal}") }
    })?;
    ensure!(said.contains(&format!("mv {DATABASE}")), "it does not say what to do: {said}");
    expect(&host.run(&["restart-agent", "history"])?, 1, "install that version again")?;
    expect(&host.run(&["restart-agent", "status"])?, 3, "THE AGENT IS NOT RUNNING")?;
    ensure!(host.ok(&["sha256sum", DATABASE])? == before, "the newer version's state was changed");

    // What the sentence says, done.
    host.sh_ok(&format!("systemctl stop restart-agent && mv {DATABASE} {DATABASE}.newer && systemctl start restart-agent"))?;
    agent.wait_active()?;
    expect(&host.run(&["restart-agent", "status"])?, 0, "idle")
}

fn upgrade(release: Release) -> Result<()> {
    let host = Host::boot(release, "upgrade")?;
    let web = Web::install(&host, &web::Options::default())?;
    let agent = Agent::install_package(&host, &under_test()?)?;
    agent.deploy("v0")?;
    let edited = config(&format!("{POOL}{}", fpm(release, "8s")));
    host.write("/etc/restart-agent/config.toml", &edited)?;
    reload(&host, &agent)?;
    web.deploy_code("v1")?;
    agent.deploy_and_wait("v1", PATIENCE)?;

    let load = Load::builder(&host).rate(50.0).start()?;
    let (short, long) = (load.send(Duration::from_secs(4), web::POOL)?, load.send(Duration::from_secs(40), web::POOL)?);
    load.wait_started(short)?;
    load.wait_started(long)?;
    let (before, pid) = (web.generation()?, host.pid_of("restart-agent.service")?);
    web.deploy_code("v2")?;
    agent.deploy("v2")?;
    let rollout = until_draining(&agent)?;
    host.install_deb(&repacked(UPGRADED)?)?;
    let version = host.ok(&["dpkg-query", "--show", "--showformat=${Version}", "restart-agent"])?;
    ensure!(version == UPGRADED, "{version} is installed");
    agent.wait_active()?;
    ensure!(host.pid_of("restart-agent.service")? != pid, "the old agent still runs");
    ensure!(web.generation()? == before, "the drain was not gone on with: php-fpm was restarted at once");
    let now = agent.status()?["last_rollout"]["id"].clone();
    ensure!(now == rollout, "rollout {rollout} has become {now}");

    let waited = agent.wait(PATIENCE)?;
    let report = load.stop()?;
    println!("{report}\n{}", agent.status_text()?);
    expect(&waited, 0, "converged: deploy v2")?;
    ensure!(web.generation()? != before && web.served_version()? == "v2", "php-fpm was not renewed");
    ensure!(web.pool_state("mw1")? == PoolState::Pooled, "the host is not in the pool");
    ensure!(report.cut_ids() == [long].into() && report.counts().lost() == 1, "{report}");
    ensure!(agent.cut_request_ids()? == report.cut_ids(), "{:?}", agent.casualties()?);
    ensure!(host.read("/etc/restart-agent/config.toml")? == edited, "the edited configuration was replaced");
    let history = host.ok(&["restart-agent", "history", "--json"])?;
    for deploy in ["\"deploy\": \"v1\"", "\"deploy\": \"v2\""] {
        ensure!(history.matches(deploy).count() == 1, "{deploy} in {history}");
    }
    // In the journal and nowhere else.
    let status = host.read("/run/restart-agent/status.json")?;
    ensure!(status.contains("work.php") && !status.contains("id=") && !status.contains('?'), "{status}");
    agent.ensure_nothing_left()
}

/// In the middle of a rollout: the host is out of its pool, and a script that has been sent SIGTERM is kept quiet.
fn in_the_middle<'h>(host: &'h Host, web: &Web<'_>, agent: &Agent<'_>, release: Release) -> Result<Load<'h>> {
    // It goes on for a while after SIGTERM: the time in which it is kept quiet.
    script(host, "stubborn.service", "trap : TERM; for i in $(seq 200); do sleep 0.1; done", "")?;
    host.write("/etc/systemd/system/stubborn.timer", "[Timer]\nOnCalendar=*-*-1 04:00\n[Install]\nWantedBy=timers.target\n")?;
    host.sh_ok("systemctl daemon-reload && systemctl enable --now stubborn.timer && systemctl start --no-block stubborn.service")?;
    agent.deploy("v0")?;
    let scripts =
        "[target.scripts]\nkind = \"scheduled\"\nunits = [\"stubborn.service\"]\ndrain_timeout = \"0s\"\nterm_timeout = \"60s\"\n";
    agent.configure(&config(&format!("{POOL}{}{scripts}", fpm(release, "60s"))))?;
    let load = Load::builder(host).rate(50.0).start()?;
    let long = load.send(Duration::from_secs(8), web::POOL)?;
    load.wait_started(long)?;
    web.deploy_code("v1")?;
    agent.deploy("v1")?;
    until_draining(agent)?;
    wait_for("the script to be kept quiet", PATIENCE, || Ok(host.exists(QUIET).then_some(())))?;
    ensure!(web.pool_state("mw1")? == PoolState::Depooled, "the host is in its pool during the drain");
    ensure!(agent.ensure_nothing_left().is_err(), "nothing is lent during the drain");
    Ok(load)
}

/// By a person, who reads what is left undone, and what to do about it; both of that is of use.
fn stopped(release: Release) -> Result<()> {
    let host = Host::boot(release, "stopped")?;
    let web = Web::install(&host, &web::Options::default())?;
    let agent = Agent::install_package(&host, &under_test()?)?;
    let load = in_the_middle(&host, &web, &agent, release)?;
    let before = web.generation()?;
    host.ok(&["systemctl", "disable", "--now", "restart-agent"])?;
    let said = host.run(&["restart-agent", "status"])?;
    for wanted in [
        "THE AGENT IS NOT RUNNING",
        "systemctl start restart-agent",
        "OWED",
        "this host is out of pool default",
        "kept from being started: stubborn.service",
        "restart-agent daemon --settle-debts",
    ] {
        expect(&said, 3, wanted)?;
    }
    ensure!(web.pool_state("mw1")? == PoolState::Depooled && host.exists(QUIET), "it is given back by the stop");

    let settled = host.command(["restart-agent", "daemon", "--settle-debts"]).timeout(Duration::from_secs(150)).run()?;
    ensure!(settled.status == 0, "{settled:?}");
    ensure!(web.pool_state("mw1")? == PoolState::Pooled && !host.exists(QUIET), "it is not given back");
    ensure!(web.generation()? == before, "php-fpm was restarted");
    agent.ensure_nothing_left()?;
    let said = host.run(&["restart-agent", "status"])?;
    expect(&said, 3, "THE AGENT IS NOT RUNNING")?;
    ensure!(!said.stdout.contains("OWED") && !said.stdout.contains("settle-debts"), "{}", said.stdout);

    host.ok(&["systemctl", "enable", "--now", "restart-agent"])?;
    agent.wait_active()?;
    let waited = agent.wait(Duration::from_secs(90))?;
    expect(&waited, 0, "converged: deploy v1")?;
    let status = agent.status()?;
    ensure!(status["owed"].is_null(), "{status}");
    let counts = load.stop()?;
    ensure!(counts.counts().lost() == 0, "{counts}");
    Ok(())
}

fn removal(release: Release) -> Result<()> {
    let host = Host::boot(release, "removal")?;
    let web = Web::install(&host, &web::Options::default())?;
    let agent = Agent::install_package(&host, &under_test()?)?;
    let load = in_the_middle(&host, &web, &agent, release)?;
    let before = web.generation()?;
    let quiet = || host.exists(QUIET);

    let removed = host.command(["dpkg", "--remove", "restart-agent"]).timeout(Duration::from_secs(180)).run()?;
    println!("{}{}", removed.stdout, removed.stderr);
    ensure!(removed.status == 0 && !removed.stderr.contains("not everything"), "{removed:?}");
    ensure!(web.pool_state("mw1")? == PoolState::Pooled, "the host is not in the pool");
    ensure!(!quiet(), "nothing can start the script");
    ensure!(host.property("stubborn.timer", "ActiveState")? == "active", "its timer was stopped");
    ensure!(web.generation()? == before, "php-fpm was restarted by the removal");
    agent.ensure_nothing_left()?;
    ensure!(host.exists(DATABASE), "the journal is gone");
    ensure!(!host.exists("/usr/bin/restart-agent"), "the agent is still there");
    let counts = load.stop()?;
    ensure!(counts.counts().lost() == 0, "{counts}");

    // Back again: the deploy that it was removed from is still to be done, and is.
    host.install_deb(&under_test()?)?;
    agent.wait_active()?;
    let waited = agent.wait(Duration::from_secs(90))?;
    println!("{}", agent.status_text()?);
    expect(&waited, 0, "converged: deploy v1")?;
    ensure!(web.generation()? != before && web.served_version()? == "v1", "php-fpm was not renewed after the installation");
    ensure!(web.pool_state("mw1")? == PoolState::Pooled, "the host is not in the pool");
    agent.ensure_nothing_left()?;

    host.command(["dpkg", "--purge", "restart-agent"]).timeout(PATIENCE).ok()?;
    for gone in ["/var/lib/restart-agent", "/run/restart-agent", "/etc/restart-agent/config.toml", "/usr/lib/tmpfiles.d/restart-agent.conf"]
    {
        ensure!(!host.exists(gone), "{gone} is left after a purge");
    }
    ensure!(host.property("restart-agent.service", "LoadState")? == "not-found", "systemd still knows the unit");
    Ok(())
}

fn removal_that_cannot(release: Release) -> Result<()> {
    let host = Host::boot(release, "removal-that-cannot")?;
    let _web = Web::install(&host, &web::Options::default())?;
    let agent = Agent::install_package(&host, &under_test()?)?;
    agent.deploy("v0")?;
    agent.configure(&config(&format!("{POOL}{}", fpm(release, "60s"))))?;
    let load = Load::builder(&host).rate(0.0).start()?;
    let long = load.send(Duration::from_secs(5), web::POOL)?;
    load.wait_started(long)?;
    agent.deploy("v1")?;
    until_draining(&agent)?;
    host.write_mode(web::REPOOL, "#!/bin/sh\necho the load balancer is on fire >&2\nexit 1\n", 0o755)?;

    let removed = host.command(["dpkg", "--remove", "restart-agent"]).timeout(Duration::from_secs(240)).run()?;
    println!("{}{}", removed.stdout, removed.stderr);
    for said in ["not everything could be put back", "the load balancer is on fire", "load balancer's pools"] {
        ensure!(removed.stderr.contains(said), "{said:?} is missing: {removed:?}");
    }
    ensure!(removed.status == 0, "the package cannot be removed: {removed:?}");
    ensure!(host.exists(DATABASE), "the journal is gone");
    agent.ensure_nothing_left()
}

fn config(more: &str) -> String {
    format!("[stamp]\npath = \"/srv/deploy/stamp\"\nsettle = \"100ms\"\n{more}\n")
}

fn fpm(release: Release, drain: &str) -> String {
    format!("[target.web]\nkind = \"php-fpm\"\nunit = \"{}\"\ndrain_timeout = \"{drain}\"\n", release.fpm_unit())
}

fn reload(host: &Host, agent: &Agent<'_>) -> Result<()> {
    host.sh_ok("restart-agent check-config && systemctl reload restart-agent")?;
    wait_for("the configuration to be taken", PATIENCE, || Ok((agent.status()?["stamp"]["id"] == "v0").then_some(())))
}

/// A oneshot that does `shell`, with `argument` on its command line.
fn script(host: &Host, unit: &str, shell: &str, argument: &str) -> Result<()> {
    host.write(
        &format!("/etc/systemd/system/{unit}"),
        format!("[Service]\nType=oneshot\nUser=www-data\nExecStart=/bin/bash -c '{shell}' script {argument}\n").replace('$', "$$"),
    )?;
    host.ok(&["systemctl", "daemon-reload"]).map(drop)
}

/// Waits until the host is out of its pool and php-fpm drains, and says which rollout it is.
fn until_draining(agent: &Agent<'_>) -> Result<serde_json::Value> {
    wait_for("the drain", PATIENCE, || {
        let status = agent.status()?;
        let targets = status["targets"].as_array().context("no targets")?;
        let draining = targets.iter().any(|target| target["kind"] == "php-fpm" && target["state"] == "draining");
        let out = status["pools"][0]["state"] == "depooled";
        if draining && out { Ok(Some(status["last_rollout"]["id"].clone())) } else { bail!("{status}") }
    })
}

/// Exit status and a part of what was said on either stream.
fn expect(output: &Output, status: i32, said: &str) -> Result<()> {
    let all = format!("{}{}", output.stdout, output.stderr);
    ensure!(output.status == status && all.contains(said), "expected {status} and {said:?}, seen {}:\n{all}", output.status);
    Ok(())
}

/// The package; with `$RESTART_AGENT_BINARY` in it, if that is set.
fn under_test() -> Result<PathBuf> {
    match std::env::var_os("RESTART_AGENT_BINARY") {
        Some(_) => repacked("0.1.0-1"),
        None => agent::package(),
    }
}

/// The package under another version.
fn repacked(version: &str) -> Result<PathBuf> {
    static REPACKING: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let _one_at_a_time = REPACKING.lock();
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("package");
    let (tree, package) = (directory.join(format!("tree-{version}")), directory.join(format!("restart-agent_{version}.deb")));
    let source = agent::package()?;
    let binary = std::env::var_os("RESTART_AGENT_BINARY").map(PathBuf::from);
    let changed = |path: &Path| std::fs::metadata(path).and_then(|known| known.modified());
    let newest = [Some(&source), binary.as_ref()].into_iter().flatten().map(|path| changed(path)).collect::<Result<Vec<_>, _>>()?;
    if changed(&package).is_ok_and(|made| newest.iter().all(|source| *source < made)) {
        return Ok(package);
    }
    if tree.exists() {
        std::fs::remove_dir_all(&tree)?;
    }
    std::fs::create_dir_all(&directory)?;
    run(Command::new("dpkg-deb").arg("--raw-extract").args([&source, &tree]))?;
    let control = tree.join("DEBIAN/control");
    let text = std::fs::read_to_string(&control)?;
    let line = text.lines().find(|line| line.starts_with("Version:")).context("no version in control")?;
    std::fs::write(&control, text.replace(line, &format!("Version: {version}")))?;
    if let Some(binary) = &binary {
        std::fs::copy(binary, tree.join("usr/bin/restart-agent"))?;
    }
    run(Command::new("dpkg-deb").args(["--root-owner-group", "-Znone", "--build"]).args([&tree, &package]))?;
    Ok(package)
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
