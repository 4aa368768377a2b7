//! `history`: past rollouts.

use super::args::{HistoryArgs, Places};
use super::exit::Exit;
use super::output::{Output, Page};
use super::phrase::took;
use super::plot;
use super::status_text::{ends, notes, result_word};
use crate::core::status::RolloutView;
use crate::store::{Reader, StoreFault};

/// How many rollouts are shown if nobody says.
const SHOWN: u32 = 20;

pub fn run(args: &HistoryArgs, places: &Places, out: &Output) -> Exit {
    if let Some(file) = &args.plot {
        return plot::run(args, file, places, out);
    }
    let number = args.number.unwrap_or(SHOWN);
    let mut rollouts = match Reader::open(&places.state_dir).and_then(|reader| reader.rollouts(number)) {
        Ok(rollouts) => rollouts,
        Err(fault) => return unread(&fault, out),
    };
    if args.json {
        for casualty in rollouts.iter_mut().flat_map(|rollout| &mut rollout.casualties) {
            casualty.request = None;
        }
        return out.json(&rollouts);
    }
    out.say(&page(&rollouts, &out.page()));
    Exit::Done
}

/// Says why there is no history to show.
pub fn unread(fault: &StoreFault, out: &Output) -> Exit {
    match fault {
        StoreFault::Denied(_) => out.needs_root(),
        other => out.fail(Exit::Failed, &other.to_string()),
    }
}

/// The rollouts as text, newest first.
pub fn page(rollouts: &[RolloutView], page: &Page) -> String {
    if rollouts.is_empty() {
        return "No rollout is recorded: a deploy, or restart-agent trigger, makes the first.\n".to_owned();
    }
    let rows: Vec<Vec<String>> = rollouts
        .iter()
        .map(|rollout| {
            let cut = rollout.cut();
            let took = rollout.finished_at.map(|at| took(at.since(rollout.started_at)).to_string());
            let why = [rollout.why.clone(), rollout.by.as_ref().map(|by| format!("asked for by {by}")), rollout.reason.clone()];
            let why = why.into_iter().flatten().chain(notes(rollout));
            vec![
                page.time(rollout.started_at),
                rollout.id.clone(),
                rollout.deploy.clone(),
                rollout.result.map_or("under way", result_word).to_owned(),
                took.unwrap_or_default(),
                ends(rollout),
                if cut.perhaps { format!("{} or more", cut.known) } else { cut.known.to_string() },
                why.collect::<Vec<_>>().join("; "),
            ]
        })
        .collect();
    page.table(&["STARTED", "ROLLOUT", "DEPLOY", "RESULT", "TOOK", "UNITS", "CUT", "WHY"], &rows)
}
