//! What is wrong with a configuration, and how it is told.

use std::fmt;
use std::path::{Path, PathBuf};

use super::source::Place;

/// Problems that are kept; of more only the number, so that a hostile file costs no more than a bad one.
const KEPT: usize = 100;
/// Characters of a source line that are shown.
const WIDTH: usize = 120;

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub file: PathBuf,
    /// Where in the file; absent when the file as a whole is meant, such as one that cannot be read.
    pub spot: Option<Spot>,
    /// What is wrong, in one line. Never the words of an argv: this text reaches status.json, which everybody may read.
    pub message: String,
    /// What to write instead; empty when the message says it all.
    pub advice: String,
    order: (usize, usize),
}

/// A line of a file and what to underline in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    text: String,
    caret: usize,
    width: usize,
}

/// Everything that is wrong with a configuration, in the order of files and lines; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Errors {
    problems: Vec<Problem>,
    /// Found but not kept.
    rest: usize,
}

impl Errors {
    /// At least one and at most 100.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// `FILE:LINE: message: advice`, of the first problem, and how many more there are.
    #[must_use]
    pub fn first_line(&self) -> String {
        let more = match self.problems.len() + self.rest {
            0 | 1 => String::new(),
            2 => " (and 1 more problem)".into(),
            n => format!(" (and {} more problems)", n - 1),
        };
        let Some(first) = self.problems.first() else { return String::new() };
        let line = first.spot.as_ref().map_or_else(String::new, |spot| format!(":{}", spot.line));
        let advice = if first.advice.is_empty() { String::new() } else { format!(": {}", first.advice) };
        format!("{}{line}: {}{advice}{more}", one_line(&first.file.to_string_lossy()), first.message)
    }
}

impl std::error::Error for Errors {}

/// One after another, an empty line between.
impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n\n")?;
            }
            problem.fmt(f)?;
        }
        match self.rest {
            0 => Ok(()),
            rest => write!(f, "\n\n… and {rest} more problems"),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = one_line(&self.file.to_string_lossy());
        let Some(spot) = &self.spot else {
            write!(f, "{file}: {}", self.message)?;
            return if self.advice.is_empty() { Ok(()) } else { write!(f, ": {}", self.advice) };
        };
        let number = spot.line.to_string();
        let gutter = " ".repeat(number.len());
        writeln!(f, "{file}:{}:{}: {}", spot.line, spot.column, self.message)?;
        writeln!(f, " {number} | {}", spot.text)?;
        write!(f, " {gutter} | {}{}", " ".repeat(spot.caret), "^".repeat(spot.width))?;
        if self.advice.is_empty() { Ok(()) } else { write!(f, " {}", self.advice) }
    }
}

/// Collects problems, so that all of them can be told at once.
#[derive(Debug, Default)]
pub(super) struct Report {
    problems: Vec<Problem>,
    rest: usize,
}

impl Report {
    /// A problem of a file as a whole. Sorted before those inside files.
    pub fn file(&mut self, file: &Path, message: impl Into<String>) {
        self.keep(|| Problem { file: file.into(), spot: None, message: one_line(&message.into()), advice: String::new(), order: (0, 0) });
    }

    /// A problem at a place.
    pub fn at(&mut self, place: &Place, message: impl Into<String>, advice: impl Into<String>) {
        self.keep(|| Problem {
            file: place.source.path.clone(),
            spot: Some(spot(place)),
            message: one_line(&message.into()),
            advice: one_line(&advice.into()),
            order: (place.source.index + 1, place.start),
        });
    }

    fn keep(&mut self, problem: impl FnOnce() -> Problem) {
        if self.problems.len() < KEPT { self.problems.push(problem()) } else { self.rest += 1 }
    }

    pub fn is_clean(&self) -> bool {
        self.problems.is_empty()
    }

    pub fn finish(mut self) -> Result<(), Errors> {
        if self.problems.is_empty() {
            return Ok(());
        }
        self.problems.sort_by_key(|problem| problem.order);
        self.problems.dedup();
        Err(Errors { problems: self.problems, rest: self.rest })
    }
}

/// Cuts a long line to what surrounds the caret; a tab or a control character becomes a blank, so that the caret stays under its place.
fn spot(place: &Place) -> Spot {
    let (line, column) = place.line_and_column();
    let chars: Vec<char> = place.line_text().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let at = (column - 1).min(chars.len());
    let from = if chars.len() <= WIDTH { 0 } else { at.saturating_sub(WIDTH / 2) };
    let to = chars.len().min(from + WIDTH);
    let text: String = chars[from..to].iter().collect();
    let width = place.text().trim_end().chars().count().clamp(1, (to - at).max(1));
    Spot { line, column, text: text.trim_end().into(), caret: at - from, width }
}

/// A value in a message: in quotes, and short.
pub(super) fn quoted(value: &str) -> String {
    let short: String = value.chars().take(60).collect();
    if short.len() < value.len() { format!("\"{short}…\"") } else { format!("\"{short}\"") }
}

fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
