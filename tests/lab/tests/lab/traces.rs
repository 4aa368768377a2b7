//! What is left of a host: nothing.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use lab::{Host, Release, wait_for};

const VICTIM: &str = "LAB_SELF_TEST_VICTIM";

/// Whether this process is to boot a host and be killed.
pub fn is_victim() -> bool {
    std::env::var_os(VICTIM).is_some()
}

/// Writes the id of its host to the file that it was given, then waits to be killed.
pub fn victim() -> ExitCode {
    let Ok(host) = Host::boot(Release::Bookworm, "victim") else { return ExitCode::FAILURE };
    let file = PathBuf::from(std::env::var_os(VICTIM).unwrap_or_default());
    let unfinished = file.with_extension("new");
    if fs::write(&unfinished, host.id()).and_then(|()| fs::rename(&unfinished, &file)).is_err() {
        return ExitCode::FAILURE;
    }
    loop {
        std::thread::park();
    }
}

pub fn nothing_is_left(release: Release) -> Result<()> {
    let host = Host::boot(release, "traces")?;
    host.sh_ok("setsid sleep 4322 >/dev/null 2>&1 & systemd-run --quiet sleep 4323")?;
    let id = host.id().to_owned();
    ensure!(!traces(&id)?.is_empty());
    drop(host);
    ensure!(traces(&id)?.is_empty(), "{:?}", traces(&id)?);
    Ok(())
}

pub fn nothing_is_left_after_a_panic(release: Release) -> Result<()> {
    let mut id = String::new();
    let panicked = catch_unwind(AssertUnwindSafe(|| -> Result<()> {
        let host = Host::boot(release, "panic")?;
        id = host.id().to_owned();
        std::panic::resume_unwind(Box::new("on purpose"));
    }));
    ensure!(panicked.is_err() && !id.is_empty());
    ensure!(traces(&id)?.is_empty(), "{:?}", traces(&id)?);
    Ok(())
}

pub fn a_killed_test_is_cleaned_up_later(_: Release) -> Result<()> {
    let file = std::env::temp_dir().join(format!("lab-victim-{}", std::process::id()));
    let mut victim = Command::new(std::env::current_exe()?).env(VICTIM, &file).stdin(Stdio::null()).spawn()?;
    let id = wait_for("the victim's host", Duration::from_secs(300), || {
        if let Some(status) = victim.try_wait()? {
            return Ok(Some(Err(anyhow::anyhow!("the victim ended with {status}"))));
        }
        Ok(fs::read_to_string(&file).ok().map(Ok))
    })
    .flatten();
    victim.kill()?;
    victim.wait()?;
    let id = id?;
    fs::remove_file(&file)?;
    // Another trial that boots a host right now may be faster.
    wait_for("the victim's host to be removed", Duration::from_secs(60), || {
        lab::collect_garbage()?;
        let left = traces(&id)?;
        if !left.is_empty() {
            bail!("{left:?}");
        }
        Ok(Some(()))
    })
}

/// Everything on the machine that has the host's id in its name: directories, cgroups, mounts, processes.
fn traces(id: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let cache = std::env::var("RESTART_AGENT_LAB_CACHE").unwrap_or_else(|_| "/var/cache/restart-agent-lab".into());
    let mut roots = vec![Path::new(&cache).join("hosts"), "/run/systemd/nspawn/propagate".into()];
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let cgroups = mounts.lines().filter(|line| line.contains(" cgroup"));
    roots.extend(cgroups.filter_map(|line| Some(Path::new(line.split(' ').nth(1)?).join("restart-agent-lab"))));
    for root in roots {
        let entries = fs::read_dir(root).into_iter().flatten().flatten();
        found.extend(entries.map(|entry| entry.path().display().to_string()).filter(|path| path.contains(id)));
    }
    found.extend(mounts.lines().filter(|line| line.contains(id)).map(str::to_owned));
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let own = path.file_name().context("no name")?.to_string_lossy() == std::process::id().to_string();
        for file in ["cgroup", "cmdline"] {
            let text = fs::read(path.join(file)).unwrap_or_default();
            if !own && String::from_utf8_lossy(&text).contains(id) {
                found.push(format!("{}/{file}", path.display()));
            }
        }
    }
    Ok(found)
}
