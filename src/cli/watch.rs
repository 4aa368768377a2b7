//! `status --watch`: the page again at each change.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::args::{Places, StatusArgs};
use super::exit::Exit;
use super::output::{Output, Page};
use super::{status, status_text};
use crate::core::status::StatusView;
use crate::store::StatusFault;

/// How often the file is looked at.
const POLL: Duration = Duration::from_millis(250);

/// Never returns by itself, except when there is nothing that a change could mend.
pub fn run(args: &StatusArgs, places: &Places, out: &Output) -> Exit {
    let mut shown = None;
    let mut checked = false;
    loop {
        let seen = Seen::of(&places.run_dir);
        let view = status::look(&places.run_dir);
        if let (Ok(view), false) = (&view, checked) {
            if let Err(sentence) = status::known_target(view, args.target.as_deref()) {
                return out.fail(Exit::Usage, &sentence);
            }
            checked = true;
        }
        let page = out.page();
        // Where a deadline is shown, what is left of it changes each second.
        let second = page.now.seconds();
        let now = (seen, view.as_ref().is_ok_and(|view| view.agent.running), (out.terminal && !args.json).then_some(second));
        if shown != Some(now) {
            if args.json {
                match &view {
                    Ok(view) => {
                        let _ = out.json(view);
                    }
                    Err(fault) => out.complain(&format!("restart-agent: {fault}")),
                }
            } else if out.terminal {
                out.redraw(&drawn(&view, args, &page));
            } else {
                out.say(&line(&view, &page));
            }
            shown = Some(now);
        }
        std::thread::sleep(POLL);
    }
}

fn drawn(view: &Result<StatusView, StatusFault>, args: &StatusArgs, page: &Page) -> String {
    match view {
        Ok(view) => status_text::page(view, args.target.as_deref(), page),
        Err(fault) => format!("{fault}\n"),
    }
}

fn line(view: &Result<StatusView, StatusFault>, page: &Page) -> String {
    let text = match view {
        Ok(view) => status_text::one_line(view, page),
        Err(fault) => fault.to_string(),
    };
    format!("{} {}", page.time(page.now), text.replace('\n', " "))
}

/// What tells one status.json from the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen(Option<(u64, SystemTime)>);

impl Seen {
    pub fn of(run_dir: &Path) -> Seen {
        use std::os::unix::fs::MetadataExt;
        let known = std::fs::metadata(run_dir.join("status.json")).ok();
        Seen(known.and_then(|file| Some((file.ino(), file.modified().ok()?))))
    }
}
