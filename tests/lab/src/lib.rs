//! Real hosts for tests: a Debian with its own systemd, php-fpm, nginx and HAProxy, booted in a
//! second or two, thrown away without a trace.
//!
//! - [`Host`] boots one, runs commands in it, reads and writes its files, and always cleans up.
//! - [`wait_for`] is the only way in which a test waits.
//! - [`web`] builds HAProxy, nginx and two php-fpm in a host; [`load`] drives requests through them and says of
//!   each whether it was answered, cut or refused, and by whom.
//! - [`generations`] builds nginx or Apache in front of php-fpm generations, and hands over by hand.
//! - [`jobs`] makes scripts, workers and timers whose every start and end can be counted.
//! - [`ledger`] tells of every run of a stand-in script how it began and ended.
//! - [`program`] fetches a program of a package that is not to be installed here, such as promtool.
//! - [`suite`] makes a `harness = false` test binary of closures that run on each [`Release`].
//!
//! ```no_run
//! use std::time::Duration;
//! use lab::{Host, Release, load::Load, wait_for, web::{self, Web}};
//!
//! fn the_agent_renews_php(release: Release) -> anyhow::Result<()> {
//!     let host = Host::boot(release, "deploy")?;
//!     let web = Web::install(&host, &web::Options::default())?;
//!     host.install_deb("target/debian/restart-agent.deb".as_ref())?;
//!     let load = Load::builder(&host).rate(200.0).start()?;
//!     let long = load.send(Duration::from_secs(30), web::POOL)?;
//!     load.wait_started(long)?;
//!     web.deploy_code("v1")?;
//!     host.touch("/srv/deploy/stamp")?;
//!     wait_for("v1", Duration::from_secs(30), || Ok((web.served_version()? == "v1").then_some(())))?;
//!     let report = load.stop()?;
//!     anyhow::ensure!(report.cut_ids() == [long].into() && report.counts().refused == 0, "{report}");
//!     Ok(())
//! }
//! ```
//!
//! What it needs is root, cgroup v2, namespaces, overlayfs, and the commands named in
//! [`requirements`]; where one is missing, host tests are reported as ignored, with the reason.
//!
//! Environment:
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `RESTART_AGENT_LAB_CACHE` | images, overlays and locks; on a real disk, not a tmpfs | `/var/cache/restart-agent-lab` |
//! | `RESTART_AGENT_LAB_HOSTS` | hosts that run at once on this machine, over all test processes | 3 |
//!
//! The cache may be deleted whenever no test runs.

pub mod agent;
mod app;
mod apt;
mod cache;
mod cgroup;
mod garbage;
pub mod generations;
mod host;
mod image;
pub mod jobs;
pub mod ledger;
pub mod load;
mod permit;
pub mod pool;
pub mod program;
mod release;
pub mod requirements;
pub mod schema;
mod suite;
mod wait;
pub mod web;

pub use garbage::collect_garbage;
pub use host::{Builder, Command, Host, HostChild, Output};
pub use image::Image;
pub use permit::MAX_HOSTS_DEFAULT;
pub use release::Release;
pub use suite::{Suite, suite};
pub use wait::wait_for;
