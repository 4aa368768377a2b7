//! Generations behind a web server: what is lost or damaged is seen, by whatever web server.

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use lab::generations::{ADDRESS, BOOT, FIRST_VERSION, Generations, Options, WebServer};
use lab::load::{Class, Load};
use lab::{Host, Release, wait_for};

/// nginx on one release, Apache on the other.
pub fn nothing_hides_a_loss(release: Release) -> Result<()> {
    let server = if release == Release::Bookworm { WebServer::Nginx } else { WebServer::Apache };
    let host = Host::boot(release, "hides-nothing")?;
    let stack = Generations::install(&host, server, &Options { children: 16, ..Options::default() })?;
    let load = Load::builder(&host).to(ADDRESS).rate(200.0).long(2, Duration::from_secs(2)).start()?;
    let [damaged, long] = load.long() else { bail!("{:?}", load.long()) };
    for id in load.long() {
        load.wait_started(*id)?;
    }
    // PHP answers with status 200, and half of what the child was to write.
    wait_for("the child to be killed", Duration::from_secs(5), || {
        Ok(host.run(&["pkill", "-KILL", "-f", &format!("n . 1.* sh {damaged} ")])?.success().then_some(()))
    })?;
    wait_for("that request to be answered", Duration::from_secs(10), || Ok((load.answered().1 > 0).then_some(())))?;
    let cut = load.send_with_child(Duration::from_secs(20), ADDRESS)?;
    load.wait_started(cut)?;
    host.ok(&["systemctl", "restart", &stack.unit(BOOT)])?;
    let before = load.answered().0;
    wait_for("more answers", Duration::from_secs(20), || Ok((load.answered().0 > before + 50).then_some(())))?;
    let (damaged, long) = (*damaged, *long);
    let report = load.stop()?;
    println!("{release} {server}: {report}");
    let class = |id: u64| report.record(id).map(|record| record.class);
    ensure!(class(damaged) == Some(Class::Wrong) && class(cut) == Some(Class::Cut), "{report}");
    ensure!(class(long).is_some_and(|class| class == Class::Ok || class == Class::Cut), "{report}");
    ensure!(report.counts().refused > 0 && report.counts().wrong == 1, "{report}");
    let served = report.served();
    ensure!(served.len() == 2 && served.keys().all(|by| by.instance.as_deref() == Some(BOOT) && by.version == FIRST_VERSION), "{served:?}");
    Ok(())
}
