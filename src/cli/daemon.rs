//! `daemon`: the agent itself.

use std::time::Duration;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::args::{DaemonArgs, Places};
use super::exit::Exit;
use super::output::Output;
use crate::bus;
use crate::engine::daemon::{self, Options};
use crate::store::{METRICS, hold_alive};

/// The removal of the package waits for this, no longer.
const SETTLE_AT_MOST: Duration = Duration::from_secs(120);

pub fn run(args: &DaemonArgs, places: &Places, out: &Output) -> Exit {
    log();
    let alive = match hold_alive(&places.run_dir, &places.state_dir) {
        Ok(lock) => lock,
        Err(fault) => return out.fail(Exit::Failed, &fault.to_string()),
    };
    let mut host = crate::host::Places { run: places.run_dir.clone(), ..crate::host::Places::default() };
    host.systemd.bus.clone_from(&places.bus);
    let options = Options {
        roots: crate::config::Roots::default(),
        state_dir: places.state_dir.clone(),
        metrics: METRICS.into(),
        host,
        settle_debts: args.settle_debts.then_some(SETTLE_AT_MOST),
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return out.fail(Exit::Failed, &format!("cannot start: {error}")),
    };
    let address = places.bus.clone();
    match runtime.block_on(daemon::run(options, alive, |handle| bus::serve(handle, address))) {
        Ok(view) if args.settle_debts && view.problems.is_empty() => Exit::Done,
        Ok(view) if args.settle_debts => out.fail(Exit::Failed, &view.problems.join("\n")),
        Ok(_) => Exit::Done,
        // The unit is not started again on this status.
        Err(error) => out.fail(Exit::BadConfig, &format!("{error:#}")),
    }
}

/// To the journal with its fields where systemd started us, else to stderr. `RESTART_AGENT_LOG=debug` tells each effect, too.
fn log() {
    let wanted = std::env::var("RESTART_AGENT_LOG").ok().and_then(|word| word.parse().ok());
    let level = wanted.unwrap_or(tracing_subscriber::filter::LevelFilter::INFO);
    let registry = tracing_subscriber::registry().with(level);
    let to_journal = std::env::var_os("JOURNAL_STREAM").is_some().then(tracing_journald::layer).and_then(Result::ok);
    let taken = match to_journal {
        Some(journal) => registry.with(journal).try_init(),
        None => registry.with(tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false)).try_init(),
    };
    // Only a second subscriber in one process could be refused.
    let _ = taken;
}
