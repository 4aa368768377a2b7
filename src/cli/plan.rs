//! `plan`: what a deploy right now would do.

use std::fmt::Write;
use std::time::Duration;

use super::args::{Places, PlanArgs};
use super::bus;
use super::exit::Exit;
use super::output::{Output, Page};
use super::phrase::count;
use crate::core::status::{PlanUnit, PlanView};
use crate::core::time::Span;

/// How many processes and requests of a unit are listed.
const SHOWN: usize = 10;
/// The agent looks at every unit and asks every pool.
const PATIENCE: Duration = Duration::from_secs(30);

pub fn run(args: &PlanArgs, places: &Places, out: &Output) -> Exit {
    let json = match bus::order(places, out, PATIENCE, async |agent| agent.plan().await) {
        Ok(json) => json,
        Err(exit) => return exit,
    };
    let view: PlanView = match serde_json::from_str(&json) {
        Ok(view) => view,
        Err(error) => {
            return out.fail(
                Exit::Failed,
                &format!("the agent's plan cannot be read ({error}): use the restart-agent of the same version, or restart the agent"),
            );
        }
    };
    if args.json {
        return out.json(&view);
    }
    out.say(&page(&view, &out.page()));
    Exit::Done
}

/// The plan as text.
pub fn page(view: &PlanView, page: &Page) -> String {
    let mut text = String::new();
    if let Some(note) = &view.note {
        let _ = writeln!(text, "Note: {note}");
    }
    let cut = view.units.iter().filter(|unit| unit.casualty_expected).count();
    match view.units.iter().map(|unit| unit.deadline_ms).max() {
        None => text.push_str("A deploy now would restart nothing: no unit of a target runs.\n"),
        Some(longest) => {
            let by = page.until(page.now.after(Duration::from_millis(longest)));
            let cuts = if cut == 0 {
                "no casualty is expected".to_owned()
            } else {
                format!("casualties are expected in {}", count(cut, "unit", "units"))
            };
            let _ = writeln!(text, "A deploy now would renew {}, by {by} at the latest; {cuts}.", count(view.units.len(), "unit", "units"));
        }
    }
    for unit in &view.units {
        text.push('\n');
        text.push_str(&one(unit, page));
    }
    text
}

fn one(unit: &PlanUnit, page: &Page) -> String {
    let mut text = String::new();
    let by = page.until(page.now.after(Duration::from_millis(unit.deadline_ms)));
    let _ = writeln!(text, "{} ({}), by {by}", unit.unit, unit.target);
    let _ = writeln!(text, "  {}", unit.what);
    for process in unit.processes.iter().take(SHOWN) {
        let age = Span(page.now.since(process.started_at));
        let code = if process.stale { "" } else { "; carries no deployed code" };
        let _ = writeln!(text, "  process {}: {}, since {} ({age}){code}", process.pid, process.name, page.time(process.started_at));
    }
    more(&mut text, unit.processes.len(), "processes");
    for request in unit.in_flight.iter().take(SHOWN) {
        let _ = writeln!(text, "  in flight in {}: {}, for {}", request.pid, request.name, request.ran);
    }
    more(&mut text, unit.in_flight.len(), "requests");
    if let Some(next) = &unit.next_run {
        let at = next.at.map(|at| format!("{}, ", page.until(at))).unwrap_or_default();
        let _ = writeln!(text, "  next scheduled run: {at}{}", next.why);
    }
    if unit.casualty_expected {
        text.push_str("  CASUALTY EXPECTED: what is in flight has outlasted its time, or usually does\n");
    }
    text
}

fn more(text: &mut String, number: usize, what: &str) {
    if number > SHOWN {
        let _ = writeln!(text, "  and {} more {what}: --json has them", number - SHOWN);
    }
}
