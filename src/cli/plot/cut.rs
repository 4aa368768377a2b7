//! What was cut: marks on the scale of time, and names below it.

use jiff::tz::TimeZone;

use super::pen::{LEFT, MARGIN, Pen, Scale, WIDTH, escaped, fit};
use super::picture::{NAMES, moment, under};
use crate::core::status::{Casualty, RolloutView};
use crate::core::time::Wall;

const LISTED: usize = 8;
const DATE: &str = "%Y-%m-%d";

/// Where something was cut; what is close together is one mark.
pub(super) fn cut(view: &RolloutView, scale: &Scale, zone: &TimeZone, pen: &mut Pen) {
    if view.casualties.is_empty() {
        return;
    }
    let mut sorted: Vec<&Casualty> = view.casualties.iter().collect();
    sorted.sort_by_key(|casualty| casualty.at);
    let y = pen.y + 14.0;
    pen.text(LEFT - 10.0, y + 4.0, "l", "cut", NAMES);
    while let Some(first) = sorted.first() {
        let x = scale.x(first.at);
        let near = sorted.iter().take_while(|casualty| scale.x(casualty.at) < x + 48.0).count();
        let rest = sorted.split_off(near);
        let mut about: Vec<String> = sorted.iter().take(20).map(|casualty| words(casualty, zone, view.started_at)).collect();
        if near > 20 {
            about.push(format!("and {} more", near - 20));
        }
        cross(x, y, &about.join("\n"), pen);
        if near > 1 {
            pen.text(x + 8.0, y + 4.0, "n", &format!("\u{d7}{near}"), 44.0);
        }
        sorted = rest;
    }
    pen.y += 26.0;
    under(pen);
}

/// What was cut, by name, if that is not much.
pub(super) fn list(view: &RolloutView, zone: &TimeZone, pen: &mut Pen) {
    let casualties = &view.casualties;
    pen.y += if casualties.is_empty() { 0.0 } else { 8.0 };
    for casualty in casualties.iter().take(LISTED) {
        pen.y += 17.0;
        let y = pen.y;
        cross(MARGIN + 4.0, y - 4.0, "", pen);
        pen.text(MARGIN + 16.0, y, "s", &words(casualty, zone, view.started_at), WIDTH - 2.0 * MARGIN - 16.0);
    }
    if casualties.len() > LISTED {
        pen.y += 17.0;
        let rest = format!("and {} more: restart-agent casualties", casualties.len() - LISTED);
        pen.text(MARGIN + 16.0, pen.y, "n", &rest, WIDTH / 2.0);
    }
}

/// One casualty in a line.
fn words(casualty: &Casualty, zone: &TimeZone, began: Wall) -> String {
    let mut words = vec![clock(casualty.at, zone, began), fit(&casualty.name, 12.0, 420.0), fit(&casualty.unit, 12.0, 240.0)];
    if casualty.pid != 0 {
        words.push(format!("pid {}", casualty.pid));
    }
    if !casualty.ran.is_empty() {
        words.push(format!("ran {}", fit(&casualty.ran, 12.0, 70.0)));
    }
    words.push(fit(&casualty.ended_by, 12.0, 80.0));
    if casualty.perhaps {
        words.push("perhaps".to_owned());
    }
    words.join(" \u{b7} ")
}

/// The mark of one, or of several.
fn cross(x: f64, y: f64, about: &str, pen: &mut Pen) {
    let about = escaped(about);
    pen.draw(format_args!(
        "<path transform=\"translate({x:.1} {y:.1})\" d=\"M-4-4L4 4M4-4L-4 4\" class=\"x\"><title>{about}</title></path>\n"
    ));
}

/// With the date if that is not the one on which it began.
fn clock(at: Wall, zone: &TimeZone, began: Wall) -> String {
    let same = moment(at, zone, DATE) == moment(began, zone, DATE);
    moment(at, zone, if same { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" })
}
