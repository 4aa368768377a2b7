//! Seeds that the engine itself lives.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use restart_agent::core::entry::Entry;
use sim::host::{Deed, driven};
use sim::random::{ALL_FROM, WIDEST_FROM};
use sim::world::{Fpm, MINUTE, S, World};
use tempfile::tempdir;

use crate::given::{FPM, fpm_host};
use crate::random::number;

/// Those that are lived of each kind of world; `ENGINE_SEEDS=n` for more.
const SEEDS: u64 = if cfg!(debug_assertions) { 10 } else { 200 };

fn rules_hold(from: u64, run_dir: &Path) {
    if let Some(seed) = number("SEED") {
        let host = sim::random::live_by_engine(seed, true, run_dir);
        println!("{}", host.world.story.lines.join("\n"));
        assert!(host.world.wrong.is_empty(), "seed {seed}: {:?}", host.world.wrong);
        return;
    }
    let from = number("FROM").unwrap_or(from);
    let lived = (from..from + number("ENGINE_SEEDS").unwrap_or(SEEDS)).map(|seed| {
        let lived = catch_unwind(AssertUnwindSafe(|| sim::random::live_by_engine(seed, false, run_dir).world.wrong));
        (seed, lived.unwrap_or_else(|_| vec!["panic".to_owned()]))
    });
    let bad: Vec<_> = lived.filter(|(_, wrong)| !wrong.is_empty()).collect();
    for (seed, wrong) in &bad {
        println!("SEED={seed}: {}", wrong[0]);
    }
    assert!(bad.is_empty(), "replay one with SEED={} cargo test -p restart-agent-sim engine -- --nocapture", bad[0].0);
}

#[test]
fn the_engine_keeps_the_rules() {
    rules_hold(0, tempdir().unwrap().path());
}

#[test]
fn the_engine_keeps_the_rules_in_wider_worlds() {
    rules_hold(ALL_FROM, tempdir().unwrap().path());
}

#[test]
fn the_engine_keeps_the_rules_in_the_widest_worlds() {
    rules_hold(WIDEST_FROM, tempdir().unwrap().path());
}

/// A quiet host, and one request that outlasts the threshold: nobody else wakes it for what it asks the pool, and for the restart.
#[test]
fn the_engine_is_awake_when_its_deadline_comes() {
    let run_dir = tempdir().unwrap();
    let mut host = fpm_host(true, Fpm::default());
    let request = |world: &mut World| {
        world.begin_request(FPM, 10 * MINUTE);
    };
    host.later(10 * S, Deed::World("a request comes in", Box::new(request)));
    host.later(11 * S, Deed::Touch("d2".to_owned()));
    let host = driven::live(host, 2 * MINUTE, run_dir.path());
    host.must_be_right();
    let first = |of: fn(&Entry) -> bool| host.journal.iter().find(|written| of(&written.entry)).unwrap().at.0;
    let (began, ended) =
        (first(|entry| matches!(entry, Entry::RolloutStarted { .. })), first(|entry| matches!(entry, Entry::RolloutFinished { .. })));
    assert!((4_000_000..15_000_000).contains(&(ended - began)), "it took {} us", ended - began);
}
