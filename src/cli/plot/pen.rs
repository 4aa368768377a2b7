//! What a picture is made of: text that is cut to its place and escaped, a scale of time, and the two layers that they are drawn on.

use std::fmt::{Arguments, Write};
use std::time::Duration;

use crate::core::time::{Span, Wall};

pub const WIDTH: f64 = 1000.0;
/// Where time begins and ends; names are to the left of it.
pub const LEFT: f64 = 236.0;
pub const RIGHT: f64 = 924.0;
pub const MARGIN: f64 = 20.0;

/// `b`: title, `s`: text, `l`: a name to the left of its lane, `n`: a note, `m` in the middle, `e` to the left of its place.
const STYLE: &str = "text{font:12px DejaVu Sans,Verdana,Helvetica,Arial,sans-serif;fill:#111}.b{font-size:18px;font-weight:bold}\
.n{font-size:11px;fill:#444}.l,.e{text-anchor:end}.m{text-anchor:middle}.g{stroke:#d5d5d5}.o{stroke:#111;stroke-dasharray:4 3}\
.p{stroke:#333}.u{stroke-dasharray:4 3;fill-opacity:.5}.a{fill:#a8d3f0}.f{fill:none;stroke:#0b4f7d;stroke-width:1.5}.x{stroke:#b00000;stroke-width:2.4}";

/// The picture in the making: everything above `y` is drawn.
#[derive(Debug, Default)]
pub struct Pen {
    pub y: f64,
    back: String,
    front: String,
}

impl Pen {
    pub fn draw(&mut self, what: Arguments<'_>) {
        let _ = self.front.write_fmt(what);
    }

    /// Behind what is drawn, also later.
    pub fn draw_behind(&mut self, what: Arguments<'_>) {
        let _ = self.back.write_fmt(what);
    }

    /// Text of 12 px, 18 with the class `b`, cut to this width.
    pub fn text(&mut self, x: f64, y: f64, class: &str, text: &str, width: f64) {
        // Bold is an eighth wider.
        let size = if class.starts_with('b') { 18.0 * 1.125 } else { 12.0 };
        self.draw(format_args!(r#"<text x="{x:.1}" y="{y:.1}" class="{class}">{}</text>"#, escaped(&fit(text, size, width))));
        self.draw(format_args!("\n"));
    }

    /// The whole file; `about` is what who cannot see it is told.
    pub fn finish(self, about: &str) -> String {
        let (about, height) = (escaped(about), self.y.ceil());
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{height}\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
             <title>{about}</title><style>{STYLE}</style><rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n{}{}</svg>\n",
            self.back, self.front
        )
    }
}

/// From when to when, between [`LEFT`] and [`RIGHT`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scale {
    pub from: Wall,
    pub span: Duration,
}

impl Scale {
    /// At least a millisecond.
    pub fn new(from: Wall, until: Wall) -> Scale {
        Scale { from, span: until.since(from).max(Duration::from_millis(1)) }
    }

    pub fn x(&self, at: Wall) -> f64 {
        self.x_after(at.since(self.from))
    }

    fn x_after(&self, time: Duration) -> f64 {
        LEFT + (RIGHT - LEFT) * (time.as_secs_f64() / self.span.as_secs_f64()).min(1.0)
    }

    /// At most nine round moments.
    pub fn ticks(&self) -> impl Iterator<Item = Duration> {
        const ROUND: [u64; 29] = [
            1,
            2,
            5,
            10,
            20,
            50,
            100,
            200,
            500,
            1000,
            2000,
            5000,
            10_000,
            15_000,
            30_000,
            60_000,
            120_000,
            300_000,
            600_000,
            900_000,
            1_800_000,
            3_600_000,
            7_200_000,
            10_800_000,
            21_600_000,
            43_200_000,
            86_400_000,
            172_800_000,
            604_800_000,
        ];
        let span = u64::try_from(self.span.as_millis()).unwrap_or(u64::MAX);
        let step = ROUND.into_iter().find(|step| span / step <= 8).unwrap_or_else(|| (span / 8 / 86_400_000).max(1) * 86_400_000);
        (0..=(span / step).min(9)).map(move |n| Duration::from_millis(n * step))
    }

    /// The times on top, and where the next thing is drawn below them. Their lines go down from there.
    pub fn axis(&self, pen: &mut Pen) -> f64 {
        pen.y += 14.0;
        let y = pen.y;
        for at in self.ticks() {
            let word = if at.is_zero() { "0".to_owned() } else { Span(at).to_string() };
            pen.text(self.x_after(at), y, "n m", &word, 100.0);
        }
        pen.y += 6.0;
        pen.y
    }

    /// The lines of [`Scale::axis`], down to what is drawn by now.
    pub fn lines(&self, pen: &mut Pen, top: f64) {
        for at in self.ticks() {
            let (x, y) = (self.x_after(at), pen.y);
            pen.draw_behind(format_args!("<path d=\"M{x:.1} {top:.1}V{y:.1}\" class=\"g\"/>\n"));
        }
    }
}

/// What the text takes at most at this size, in pixels: as in DejaVu Sans, which is wider than its peers.
pub fn width(text: &str, size: f64) -> f64 {
    let em = |c: char| match c {
        'i' | 'j' | 'l' | 'I' | '.' | ',' | ':' | ';' | '|' | '!' | '\'' | ' ' | '/' | '\u{b7}' => 0.35,
        '(' | ')' | '[' | ']' | 't' | 'f' | 'r' | '-' => 0.42,
        'm' | 'w' | 'M' | 'W' | '@' | '%' | '+' | '=' | '<' | '>' | '~' | '#' | '&' | '^' => 1.0,
        'A'..='Z' => 0.79,
        ' '..='~' => 0.64,
        _ => 1.1,
    };
    text.chars().map(em).sum::<f64>() * size
}

/// As much of the text as has room, from both of its ends: names differ at their end, too.
pub fn fit(text: &str, size: f64, room: f64) -> String {
    let chars: Vec<char> = text.chars().map(shown).collect();
    let of = |chars: &[char]| width(&String::from_iter(chars), size);
    // Each takes at least a third of an em: what is much too long need not be measured.
    if chars.len() < 1000 && of(&chars) <= room {
        return String::from_iter(chars);
    }
    let room = room - width("\u{2026}", size);
    let (mut head, mut tail) = (0, chars.len());
    let mut taken = 0.0;
    while head < tail {
        let next = if head <= chars.len() - tail { head } else { tail - 1 };
        taken += of(&chars[next..=next]);
        if taken > room {
            break;
        }
        if next == head { head += 1 } else { tail = next }
    }
    String::from_iter(chars[..head].iter().chain(&['\u{2026}']).chain(&chars[tail..]))
}

/// What may stand in XML and does not steer who reads it.
fn shown(c: char) -> char {
    match c {
        '\n' | '\t' => ' ',
        '\u{fffe}' | '\u{ffff}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' => '\u{fffd}',
        c if c.is_control() => '\u{fffd}',
        c => c,
    }
}

/// For XML, as text and in an attribute. A line's end stays one.
pub fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\n' => safe.push('\n'),
            c => safe.push(shown(c)),
        }
    }
    safe
}
