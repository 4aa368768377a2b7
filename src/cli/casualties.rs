//! `casualties`: what was cut, exactly.

use super::args::{CasualtiesArgs, Places};
use super::exit::Exit;
use super::history::unread;
use super::output::{Output, Page};
use super::status_text::kind_word;
use crate::core::status::Casualty;
use crate::core::time::{Span, Wall};
use crate::store::Reader;

pub fn run(args: &CasualtiesArgs, places: &Places, out: &Output) -> Exit {
    let page = out.page();
    let since = args.since.map(|span| Wall(page.now.0.saturating_sub(i64::try_from(span.0.as_micros()).unwrap_or(i64::MAX))));
    let mut casualties = match Reader::open(&places.state_dir).and_then(|reader| reader.casualties(since)) {
        Ok(casualties) => casualties,
        Err(fault) => return unread(&fault, out),
    };
    if !args.requests {
        for casualty in &mut casualties {
            casualty.request = None;
        }
    }
    if args.json {
        return out.json(&casualties);
    }
    out.say(&text(&casualties, args.since, args.requests, &page));
    Exit::Done
}

/// The casualties as text, oldest first.
pub fn text(casualties: &[Casualty], since: Option<Span>, requests: bool, page: &Page) -> String {
    if casualties.is_empty() {
        return match since {
            Some(span) => format!("Nothing was cut in the last {span}.\n"),
            None => "Nothing was ever cut, as far as history goes back.\n".to_owned(),
        };
    }
    let mut head = vec!["AT", "WHAT", "UNIT", "PID", "RAN", "ENDED BY", "CERTAIN", "NAME"];
    if requests {
        head.push("REQUEST");
    }
    let rows: Vec<Vec<String>> = casualties
        .iter()
        .map(|casualty| {
            let mut row = vec![
                page.time(casualty.at),
                kind_word(casualty.what).to_owned(),
                casualty.unit.clone(),
                if casualty.pid == 0 { "?".to_owned() } else { casualty.pid.to_string() },
                if casualty.ran.is_empty() { "?".to_owned() } else { casualty.ran.clone() },
                casualty.ended_by.clone(),
                match casualty {
                    Casualty { perhaps: true, .. } => "perhaps",
                    Casualty { certain: true, .. } => "yes",
                    _ => "no",
                }
                .to_owned(),
                casualty.name.clone(),
            ];
            if requests {
                row.push(casualty.request.clone().unwrap_or_default());
            }
            row
        })
        .collect();
    page.table(&head, &rows)
}
