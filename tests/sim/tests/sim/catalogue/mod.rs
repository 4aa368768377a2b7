//! The catalogue: what can befall a host, each with the agent dying at the points at which it can, before, in the middle of and after each effect.
//!
//! A sample of the points (`SAMPLE=` of each story), or with `EXHAUSTIVE=1` all of them, and of the stories of the crossing one in `CROSSED=` (1: all,
//! which takes hours if it is exhaustive), up to the first run in which something is wrong, or with `KEEP_GOING=1` to the end. `STORY=name` tells that story alone; with `AT=n`, and `DOWN=` and `LATE=` in
//! milliseconds, its timeline with the agent dying there.
#![allow(clippy::unwrap_used)]

mod cross;
mod faults;
mod generations;
mod inplace;
mod scheduled;
mod service;
mod strays;

use std::time::Instant;

use restart_agent::core::event::Order;
use sim::explore::{Death, Story, explore};
use sim::host::{Deed, Host, span};
use sim::world::{MS, S, Us, World};

use crate::random::number;

/// About so many deaths of each story, where not all are asked for.
const SAMPLE: u64 = 8;

/// One in so many of the crossing, where no other `CROSSED=` is asked for, and of those in which two things happen one in so many more: none divides
/// what it is made of.
const CROSSED: usize = 31;
const TWICE: usize = 19;

fn all(crossed: usize, twice: usize) -> Vec<Story> {
    let mut stories = Vec::new();
    stories.extend(inplace::stories());
    stories.extend(scheduled::stories());
    stories.extend(service::stories());
    stories.extend(generations::stories());
    stories.extend(strays::stories());
    stories.extend(faults::stories());
    stories.extend(cross::stories(crossed, twice));
    stories
}

#[test]
fn wherever_the_agent_dies_the_rules_hold_t06() {
    let exhaustive = std::env::var_os("EXHAUSTIVE").is_some();
    let crossed = number("CROSSED").and_then(|n| usize::try_from(n).ok()).unwrap_or(CROSSED);
    let name = std::env::var("STORY").ok();
    let mut stories = if name.is_some() { all(1, 1) } else { all(crossed, crossed * TWICE) };
    if let Some(name) = name {
        stories.retain(|story| story.name == name);
        if let [story] = stories.as_slice() {
            let death = number("AT").map(|at| Death {
                at,
                late: number("LATE").unwrap_or(0) * MS,
                down: number("DOWN").unwrap_or(50) * MS,
                removed: number("REMOVED").is_some(),
            });
            println!("{}", story.timeline(death).join("\n"));
            if death.is_some() {
                return;
            }
        }
    }
    let names: std::collections::BTreeSet<&String> = stories.iter().map(|story| &story.name).collect();
    assert_eq!(names.len(), stories.len(), "two stories have one name");
    let began = Instant::now();
    let explored = explore(&stories, (!exhaustive).then(|| number("SAMPLE").unwrap_or(SAMPLE)), std::env::var_os("KEEP_GOING").is_some());
    println!("{} scenarios, {} points, {} runs, {:.0} s", stories.len(), explored.points, explored.runs, began.elapsed().as_secs_f64());
    for bad in explored.bad.iter().take(200) {
        let at = bad.death.map_or(String::new(), |death| {
            let late = if death.late > 0 { format!(" LATE={}", death.late / MS) } else { String::new() };
            let removed = if death.removed { " REMOVED=1" } else { "" };
            format!(" AT={} DOWN={}{late}{removed}", death.at, death.down / MS)
        });
        println!("STORY='{}'{at}: {}", bad.story, bad.wrong);
    }
    let replay = "replay one with STORY='…' AT=… DOWN=… cargo test -p restart-agent-sim catalogue -- --nocapture";
    assert!(explored.bad.is_empty(), "{} runs in which something was wrong; {replay}", explored.bad.len());
}

fn deploys(mut host: Host, at: &[Us]) -> Host {
    for (n, at) in at.iter().enumerate() {
        host.later(*at, Deed::Touch(format!("d{}", n + 2)));
    }
    host
}

/// One deploy, at once.
fn deploy(host: Host) -> Host {
    deploys(host, &[0])
}

/// Something that happens to the world.
fn then(mut host: Host, at: Us, what: &'static str, act: impl FnOnce(&mut World) + 'static) -> Host {
    host.later(at, Deed::World(what, Box::new(act)));
    host
}

/// Something that people do, or that befalls the agent.
fn and(mut host: Host, at: Us, deed: Deed) -> Host {
    host.later(at, deed);
    host
}

fn hold(targets: Option<&[&str]>) -> Deed {
    Deed::Order(Order::Hold { reason: "a dump".to_owned(), span: span(600 * S), targets: targets.map(sim::host::names) })
}

fn release() -> Deed {
    Deed::Order(Order::Release)
}

fn abort() -> Deed {
    Deed::Order(Order::Abort { reason: None })
}

fn trigger(force: bool, override_hold: bool) -> Deed {
    Deed::Order(Order::Trigger { force, override_hold, targets: None, reason: None })
}

fn emergency() -> Deed {
    Deed::Touch("id = \"emergency\"\nforce = true\n".to_owned())
}

fn begins(id: &str) -> Deed {
    Deed::Touch(format!("id = \"{id}\"\nphase = \"begin\"\n"))
}
