//! The pieces that every page is made of: times of day, what is left, tables.

use std::time::Duration;

use super::output::Page;
use crate::core::time::{Span, Wall};

impl Page {
    /// A moment in the reader's time zone: the time of day if it is today, with the date if it is not.
    pub fn time(&self, at: Wall) -> String {
        let zoned = |at: Wall| jiff::Timestamp::from_microsecond(at.0).map(|at| at.to_zoned(self.zone.clone()));
        match (zoned(at), zoned(self.now)) {
            (Ok(at), Ok(now)) if at.date() == now.date() => at.strftime("%H:%M:%S").to_string(),
            (Ok(at), _) => at.strftime("%Y-%m-%d %H:%M:%S").to_string(),
            (Err(_), _) => at.to_string(),
        }
    }

    /// `22:15:02 (18s ago)`.
    pub fn since(&self, at: Wall) -> String {
        if at > self.now { self.time(at) } else { format!("{} ({} ago)", self.time(at), rough(self.now.since(at))) }
    }

    /// `22:15:25 (in 5s)`; once it has passed, `22:15:25 (3s ago)`.
    pub fn until(&self, at: Wall) -> String {
        if at >= self.now {
            format!("{} (in {})", self.time(at), rough(at.since(self.now)))
        } else {
            format!("{} ({} ago)", self.time(at), rough(self.now.since(at)))
        }
    }

    /// Aligned columns. Where the terminal is too narrow for the last one, it goes below its row: names stay whole, so that they
    /// can be copied.
    pub fn table(&self, head: &[&str], rows: &[Vec<String>]) -> String {
        let head: Vec<String> = head.iter().map(|&name| name.to_owned()).collect();
        let width_of = |column: usize| {
            std::iter::once(&head).chain(rows).filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..head.len()).map(width_of).collect();
        let narrow = self.width.is_some_and(|width| widths.iter().sum::<usize>() + 2 * head.len().saturating_sub(1) > usize::from(width));
        let beside = if narrow { head.len().saturating_sub(1) } else { head.len() };
        let mut text = String::new();
        for row in std::iter::once(&head).chain(rows) {
            let cells = row.iter().zip(&widths).take(beside);
            let line: String = cells.map(|(cell, width)| format!("{cell:width$}  ")).collect();
            text.push_str(line.trim_end());
            text.push('\n');
            if let Some(below) = row.get(beside).filter(|below| !below.is_empty() && !std::ptr::eq(row, &raw const head)) {
                let blank: usize = row.iter().zip(&widths).take_while(|(cell, _)| cell.is_empty()).map(|(_, width)| width + 2).sum();
                text.push_str(&format!("{:1$}{below}\n", "", blank + 4));
            }
        }
        text
    }
}

/// A word as a shell wants to have it typed.
pub fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

/// Whole seconds from a second on: what a person can read while it changes.
pub fn rough(span: Duration) -> Span {
    if span >= Duration::from_secs(1) { Span(Duration::from_secs(span.as_secs_f64().round() as u64)) } else { Span(span) }
}

/// Tenths of a second: what something took.
pub fn took(span: Duration) -> Span {
    let tenths = (span.as_millis() + 50) / 100;
    if tenths >= 10 { Span(Duration::from_millis(u64::try_from(tenths * 100).unwrap_or(u64::MAX))) } else { Span(span) }
}

/// `1 casualty`, `3 casualties`.
pub fn count(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}
