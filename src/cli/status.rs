//! `status`: reads status.json and nothing else, so that it works for everybody, at once, and without the agent.

use std::path::Path;

use super::args::{Places, StatusArgs};
use super::exit::Exit;
use super::output::Output;
use super::{status_text, watch};
use crate::core::status::StatusView;
use crate::store::{self, Alive, StatusFault};

pub fn run(args: &StatusArgs, places: &Places, out: &Output) -> Exit {
    if args.watch {
        return watch::run(args, places, out);
    }
    let view = match look(&places.run_dir) {
        Ok(view) => view,
        Err(fault) => return out.fail(Exit::NoState, &fault.to_string()),
    };
    show(&view, args, out)
}

/// Prints the state once.
pub fn show(view: &StatusView, args: &StatusArgs, out: &Output) -> Exit {
    if let Err(sentence) = known_target(view, args.target.as_deref()) {
        return out.fail(Exit::Usage, &sentence);
    }
    if args.json {
        let exit = out.json(&narrowed(view, args.target.as_deref()));
        return if exit == Exit::Done { exit_of(view) } else { exit };
    }
    out.say(&status_text::page(view, args.target.as_deref(), &out.page()));
    exit_of(view)
}

/// The last state, with `agent.running` as it is now.
pub fn look(run_dir: &Path) -> Result<StatusView, StatusFault> {
    let mut view = store::read_status(&run_dir.join("status.json"))?;
    view.agent.running = match store::probe_alive(run_dir) {
        Ok(alive) => alive == Alive::Running,
        // Who may not look at the lock can still see the process.
        Err(_) => Path::new("/proc").join(view.agent.pid.to_string()).exists(),
    };
    Ok(view)
}

pub fn exit_of(view: &StatusView) -> Exit {
    if view.agent.running { Exit::Done } else { Exit::NotRunning }
}

pub fn known_target(view: &StatusView, target: Option<&str>) -> Result<(), String> {
    let Some(target) = target else { return Ok(()) };
    if view.targets.iter().any(|known| known.name == target) {
        return Ok(());
    }
    let names: Vec<&str> = view.targets.iter().map(|target| target.name.as_str()).collect();
    let known = if names.is_empty() { "there are none".to_owned() } else { format!("there are {}", names.join(", ")) };
    Err(format!("there is no target \"{target}\": {known}"))
}

fn narrowed(view: &StatusView, target: Option<&str>) -> StatusView {
    let mut view = view.clone();
    if let Some(target) = target {
        view.targets.retain(|known| known.name == target);
    }
    view
}
