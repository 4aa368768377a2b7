//! One rollout as a picture: phases of each target, requests in flight of each unit, what was cut.

use std::time::Duration;

use jiff::tz::TimeZone;

use super::cut::{cut, list};
use super::pen::{LEFT, MARGIN, Pen, RIGHT, Scale, WIDTH, escaped, fit, width};
use crate::cli::output::Page;
use crate::cli::phrase::{count, took};
use crate::cli::status_text::{ends, result_word};
use crate::core::status::{FlightView, PhaseView, RolloutView, UnitOutcome};
use crate::core::time::{Span, Wall};

/// Okabe and Ito's colours, which everybody can tell apart, light enough for dark text.
const COLOURS: [&str; 8] = ["#cfcfcf", "#f0e442", "#56b4e9", "#e69f00", "#3fbf9b", "#dfa6c6", "#fff7b0", "#e88a50"];
/// In the order of the colours.
const PHASES: [&str; 8] = ["preflight", "depool", "drain", "restart", "verify", "warm", "repool", "stop"];
const TARGETS_SHOWN: usize = 24;
const UNITS_SHOWN: usize = 24;
/// Rows of bars of one target, for phases that overlap.
const ROWS_SHOWN: usize = 4;
/// The colour of each phase.
type Colours<'v> = Vec<(&'v str, &'static str)>;

/// What names may take.
pub(super) const NAMES: f64 = LEFT - MARGIN - 10.0;

/// The rollout as an SVG file; one that is under way, up to now.
pub fn svg(view: &RolloutView, page: &Page) -> String {
    let zone = &page.zone;
    let mut pen = Pen::default();
    let about = head(view, zone, &mut pen);
    let colours = colours(&view.phases);
    legend(view, &colours, &mut pen);
    let ends = view.phases.iter().map(|phase| phase.finished_at.unwrap_or(phase.started_at));
    let until = ends.chain([view.finished_at.unwrap_or(page.now)]).fold(view.started_at, Wall::max);
    let own = Scale::new(view.started_at, until);
    let rest = view.flights.iter().map(|flight| flight.at).chain(view.casualties.iter().map(|casualty| casualty.at));
    let all = Scale::new(view.started_at, rest.fold(until, Wall::max));
    // What goes on for long after the rollout must not squeeze its phases.
    let apart = view.finished_at.is_some() && all.span > own.span + own.span / 4;
    let first = if apart { own } else { all };

    let top = first.axis(&mut pen);
    targets(view, &first, &colours, &mut pen);
    if view.flights.is_empty() && view.casualties.is_empty() {
        first.lines(&mut pen, top);
    } else if apart {
        first.lines(&mut pen, top);
        pen.y += 16.0;
        let top = all.axis(&mut pen);
        pen.y += 12.0;
        let (x, y) = (all.x(until), pen.y);
        pen.text(
            if x < RIGHT / 2.0 { x + 5.0 } else { x - 5.0 },
            y,
            if x < RIGHT / 2.0 { "n" } else { "n e" },
            "the rollout is over",
            150.0,
        );
        flights(&view.flights, &all, &mut pen);
        cut(view, &all, zone, &mut pen);
        let bottom = pen.y;
        pen.draw_behind(format_args!("<path d=\"M{x:.1} {top:.1}V{bottom:.1}\" class=\"o\"/>\n"));
        all.lines(&mut pen, top);
    } else {
        flights(&view.flights, &all, &mut pen);
        cut(view, &all, zone, &mut pen);
        all.lines(&mut pen, top);
    }
    list(view, zone, &mut pen);
    pen.y += MARGIN;
    pen.finish(&about)
}

/// What it is about, in one to three lines. Gives the first two.
fn head(view: &RolloutView, zone: &TimeZone, pen: &mut Pen) -> String {
    let room = WIDTH - 2.0 * MARGIN;
    let title = format!("Deploy {}: {}", fit(&view.deploy, 20.25, room - 260.0), view.result.map_or("under way", result_word));
    pen.text(MARGIN, 32.0, "b", &title, room);
    let cut = view.cut();
    let parts = [
        Some(format!("rollout {}", view.id)),
        Some(moment(view.started_at, zone, "%Y-%m-%d %H:%M:%S %:z")),
        view.finished_at.map(|at| format!("took {}", took(at.since(view.started_at)))),
        Some(if cut.perhaps { format!("{} or more casualties", cut.known) } else { count(cut.known, "casualty", "casualties") }),
        view.by.as_ref().map(|by| format!("asked for by {by}")),
        view.reason.clone(),
    ];
    let line = parts.into_iter().flatten().collect::<Vec<_>>().join(" \u{b7} ");
    pen.text(MARGIN, 54.0, "s", &line, room);
    pen.y = 62.0;
    if let Some(why) = &view.why {
        pen.text(MARGIN, 72.0, "s", why, room);
        pen.y = 80.0;
    }
    format!("{title}\n{}", fit(&line, 1.0, 1000.0))
}

/// The colours and, of a single target, how long each phase took.
fn legend(view: &RolloutView, colours: &[(&str, &str)], pen: &mut Pen) {
    let mut phases: Vec<(&str, Duration)> = Vec::new();
    let alone = view.phases.iter().all(|phase| phase.target == view.phases[0].target && phase.finished_at.is_some());
    for phase in &view.phases {
        let span = phase.finished_at.map_or(Duration::ZERO, |at| at.since(phase.started_at));
        match phases.iter_mut().find(|(name, _)| *name == phase.phase) {
            Some((_, sum)) => *sum = sum.saturating_add(span),
            None => phases.push((&phase.phase, span)),
        }
    }
    let mut x = MARGIN;
    pen.y += if phases.is_empty() { 0.0 } else { 18.0 };
    for (name, span) in phases {
        let name_shown = fit(name, 12.0, 140.0);
        let text = if alone { format!("{name_shown} {}", took(span)) } else { name_shown };
        let room = width(&text, 12.0);
        // What has no room here is in the picture all the same.
        if x + room + 40.0 > WIDTH - MARGIN {
            pen.text(x, pen.y, "s", "\u{2026}", 20.0);
            break;
        }
        let y = pen.y;
        let fill = colour(colours, name);
        pen.draw(format_args!(r#"<rect x="{x:.1}" y="{:.1}" width="12" height="12" fill="{fill}" class="p"/>"#, y - 10.5));
        pen.text(x + 17.0, y, "s", &text, room + 1.0);
        x += room + 34.0;
    }
    pen.y += 6.0;
}

fn targets(view: &RolloutView, scale: &Scale, colours: &[(&str, &str)], pen: &mut Pen) {
    let mut names: Vec<&str> = Vec::new();
    let told = view.phases.iter().map(|phase| &phase.target).chain(view.units.iter().map(|unit| &unit.target));
    for name in told {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    if names.is_empty() {
        pen.y += 18.0;
        pen.text(LEFT + 6.0, pen.y, "n", "nothing was renewed", 200.0);
        pen.y += 8.0;
    }
    for name in names.iter().take(TARGETS_SHOWN) {
        let phases: Vec<&PhaseView> = view.phases.iter().filter(|phase| phase.target == **name).collect();
        let units: Vec<UnitOutcome> = view.units.iter().filter(|unit| unit.target == **name).cloned().collect();
        if phases.is_empty() {
            // Its units go their own ways.
            let units: Vec<&str> = units.iter().map(|unit| unit.unit.as_str()).collect();
            pen.text(LEFT + 6.0, pen.y + 18.0, "n", &units.join(", "), RIGHT - LEFT);
        }
        target(name, &phases, &ends(&RolloutView { units, ..RolloutView::clone(view) }), scale, colours, pen);
    }
    more(names.len().saturating_sub(TARGETS_SHOWN), "target", "targets", pen);
}

fn target(name: &str, phases: &[&PhaseView], ends: &str, scale: &Scale, colours: &[(&str, &str)], pen: &mut Pen) {
    let top = pen.y;
    pen.text(LEFT - 10.0, top + 18.0, "l", name, NAMES);
    let mut rows: Vec<f64> = Vec::new();
    let mut folded = 0;
    for (n, phase) in phases.iter().enumerate() {
        let until = phase.finished_at.unwrap_or(scale.from.after(scale.span));
        let x = scale.x(phase.started_at);
        let wide = (scale.x(until) - x).max(2.0);
        // Where the one before it has ended; a bar of no length may cover a little of it.
        let row = rows.iter().position(|end| *end <= x + 2.0).unwrap_or(rows.len());
        if row == rows.len() {
            if row == ROWS_SHOWN {
                folded += 1;
                continue;
            }
            rows.push(0.0);
        }
        rows[row] = x + wide;
        let y = top + 5.0 + 22.0 * row as f64;
        let took = phase.finished_at.map_or("not over".to_owned(), |at| took(at.since(phase.started_at)).to_string());
        let about = escaped(&format!("{}: {took}, from {} on", fit(&phase.phase, 1.0, 100.0), Span(phase.started_at.since(scale.from))));
        let fill = colour(colours, &phase.phase);
        let class = if phase.finished_at.is_none() { "p u" } else { "p" };
        pen.draw(format_args!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{wide:.1}" height="18" rx="2" fill="{fill}" class="{class}"><title>{about}</title></rect>"#
        ));
        pen.draw(format_args!("\n"));
        // In the bar, or beside it where nothing comes soon.
        let label = fit(&phase.phase, 12.0, 160.0);
        let room = width(&label, 12.0) + 8.0;
        let next = phases[n + 1..].iter().map(|next| scale.x(next.started_at)).fold(WIDTH, f64::min);
        let with_time = format!("{label} {took}");
        if wide >= width(&with_time, 12.0) + 8.0 {
            pen.text(x + 5.0, y + 13.0, "s", &with_time, wide);
        } else if wide >= room {
            pen.text(x + 5.0, y + 13.0, "s", &label, room);
        } else if rows.len() == 1 && next - x - wide >= room {
            pen.text(x + wide + 4.0, y + 13.0, "s", &label, room);
        }
    }
    let mut height = 10.0 + 22.0 * rows.len().max(1) as f64 - 4.0;
    if !ends.is_empty() {
        pen.text(LEFT - 10.0, top + 32.0, "n l", ends, NAMES);
        height = height.max(38.0);
    }
    if folded > 0 {
        pen.text(RIGHT + 6.0, top + 18.0, "n", &format!("and {folded} more"), WIDTH - RIGHT - 8.0);
    }
    pen.y = top + height + 2.0;
    under(pen);
}

/// A lane for each unit. Of many those that were busy for longest.
fn flights(flights: &[FlightView], scale: &Scale, pen: &mut Pen) {
    let mut units: Vec<(&str, Vec<&FlightView>)> = Vec::new();
    for flight in flights {
        match units.iter_mut().find(|(unit, _)| *unit == flight.unit) {
            Some((_, flights)) => flights.push(flight),
            None => units.push((&flight.unit, vec![flight])),
        }
    }
    let all = units.len();
    if all == 0 {
        return;
    }
    let mut spans: Vec<Duration> = units.iter().map(|(_, flights)| busy(flights)).collect();
    spans.sort_unstable();
    let least = spans[all.saturating_sub(UNITS_SHOWN)];
    units.retain(|(_, flights)| busy(flights) >= least);
    let high = match units.len() {
        0..=4 => 52.0,
        5..=10 => 36.0,
        _ => 26.0,
    };
    pen.y += 18.0;
    pen.text(LEFT - 10.0, pen.y, "n l", "requests in flight", NAMES);
    pen.y += 4.0;
    for (unit, flights) in units.iter().take(UNITS_SHOWN) {
        lane(unit, flights, high, scale, pen);
    }
    more(all.saturating_sub(UNITS_SHOWN), "unit, which was busy for less long", "units, which were busy for less long", pen);
}

fn busy(flights: &[&FlightView]) -> Duration {
    let last = flights.last().map(|flight| flight.at);
    last.zip(flights.first()).map_or(Duration::ZERO, |(last, first)| last.since(first.at))
}

fn lane(unit: &str, flights: &[&FlightView], high: f64, scale: &Scale, pen: &mut Pen) {
    let most = flights.iter().map(|flight| flight.in_flight).max().unwrap_or(0);
    let last = flights.last().map_or(0, |flight| flight.in_flight);
    let base = pen.y + high;
    let y = |in_flight: u32| base - (high - 7.0) * f64::from(in_flight) / f64::from(most.max(1));
    let mut line = String::new();
    let (mut first_x, mut x) = (None, LEFT);
    for flight in flights {
        x = scale.x(flight.at).max(x);
        match first_x {
            None => line = format!("M{x:.1} {:.1}", y(flight.in_flight)),
            Some(_) => line.push_str(&format!("H{x:.1}V{:.1}", y(flight.in_flight))),
        }
        first_x.get_or_insert(x);
    }
    // It is not over as far as is known.
    if last > 0 {
        x = RIGHT;
        line.push_str(&format!("H{x:.1}"));
    }
    let from = first_x.unwrap_or(LEFT);
    let about = escaped(&format!("{}: {most} at most, {last} at the end", fit(unit, 1.0, 250.0)));
    pen.draw(format_args!(
        "<path d=\"{line}V{base:.1}H{from:.1}Z\" class=\"a\"><title>{about}</title></path><path d=\"{line}\" class=\"f\"/>\n"
    ));
    let middle = base - high / 2.0 + 5.0;
    pen.text(LEFT - 10.0, middle, "l", unit, NAMES);
    pen.text(RIGHT + 6.0, middle, "n", &format!("max {most}"), WIDTH - RIGHT - 8.0);
    pen.y = base;
    under(pen);
}

fn more(number: usize, one: &str, many: &str, pen: &mut Pen) {
    if number > 0 {
        pen.y += 16.0;
        pen.text(LEFT + 6.0, pen.y, "n", &format!("and {} more {}", number, if number == 1 { one } else { many }), RIGHT - LEFT);
        pen.y += 6.0;
    }
}

/// The line below a lane.
pub(super) fn under(pen: &mut Pen) {
    let y = pen.y;
    pen.draw_behind(format_args!("<path d=\"M{MARGIN} {y:.1}H{:.1}\" class=\"g\"/>\n", WIDTH - MARGIN));
}

fn colour<'c>(colours: &[(&str, &'c str)], phase: &str) -> &'c str {
    colours.iter().find(|(name, _)| *name == phase).map_or(COLOURS[0], |(_, colour)| colour)
}

/// The usual phases have their own colour in every picture; others have what these leave.
fn colours(phases: &[PhaseView]) -> Colours<'_> {
    let of = |phase: &str| PHASES.iter().position(|name| *name == phase);
    let taken: Vec<usize> = phases.iter().filter_map(|phase| of(&phase.phase)).collect();
    let mut left = (0..COLOURS.len()).rev().filter(|n| !taken.contains(n)).chain((0..COLOURS.len()).cycle());
    let mut colours = Colours::new();
    for PhaseView { phase, .. } in phases {
        if !colours.iter().any(|(name, _)| name == phase) {
            colours.push((phase, COLOURS[of(phase).or_else(|| left.next()).unwrap_or(0)]));
        }
    }
    colours
}

pub(super) fn moment(at: Wall, zone: &TimeZone, how: &str) -> String {
    jiff::Timestamp::from_microsecond(at.0).map_or_else(|_| at.to_string(), |at| at.to_zoned(zone.clone()).strftime(how).to_string())
}
