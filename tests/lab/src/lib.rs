//! Real hosts for tests: a Debian with its own systemd, php-fpm, nginx and HAProxy, booted in a
//! second or two, thrown away without a trace.
//!
//! - [`Host`] boots one, runs commands in it, reads and writes its files, and always cleans up.
//! - [`wait_for`] is the only way in which a test waits.
//! - [`suite`] makes a `harness = false` test binary of closures that run on each [`Release`].
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

mod apt;
mod cache;
mod cgroup;
mod garbage;
mod host;
mod image;
mod permit;
mod release;
pub mod requirements;
mod suite;
mod wait;

pub use garbage::collect_garbage;
pub use host::{Builder, Command, Host, HostChild, Output};
pub use image::Image;
pub use permit::MAX_HOSTS_DEFAULT;
pub use release::Release;
pub use suite::{Suite, suite};
pub use wait::wait_for;
