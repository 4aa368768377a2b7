//! Running stories: with a crash at every point at which the agent can die, and from seeds.

use crate::host::{Crash, Host};
use crate::world::{MS, S, Us};

/// What came of exploring one story.
#[derive(Debug, Default, Clone, Copy)]
pub struct Explored {
    pub points: u64,
    pub runs: u64,
}

/// Runs a story without a crash, then once with each `step`th crash point for each time that the agent stays away. `build` makes the host with
/// its deeds; `span` is how long the story takes.
///
/// # Panics
/// With the timeline, at the first run in which something happens that must not.
pub fn crashes(name: &str, span: Us, step: usize, build: impl Fn(bool) -> Host) -> Explored {
    let mut explored = Explored::default();
    let points = run(name, span, &build, None);
    explored.points = points;
    explored.runs = 1;
    for down in [50 * MS, 40 * S] {
        // Not the same ones for each time.
        let first = if step == 1 { 0 } else { down / S % 7 };
        for at in (first..points).step_by(step) {
            run(name, span, &build, Some(Crash { at, down }));
            explored.runs += 1;
        }
    }
    explored
}

fn run(name: &str, span: Us, build: &impl Fn(bool) -> Host, crash: Option<Crash>) -> u64 {
    let live = |told: bool| {
        let mut host = build(told);
        host.crash = crash.map(|crash| Crash { at: host.points + crash.at, ..crash });
        let before = host.points;
        host.run(span);
        let points = host.points - before;
        host.settle();
        (host, points)
    };
    let (host, points) = live(false);
    if !host.world.wrong.is_empty() {
        let (host, _) = live(true);
        println!("{}", host.world.story.lines.join("\n"));
        panic!("{name}, {crash:?}: {}", host.world.wrong.join("\n"));
    }
    points
}
