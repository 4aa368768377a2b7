//! The text of one configuration file, and places in it.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::MAX_FILE;

/// A file that was read.
#[derive(Debug)]
pub(super) struct Source {
    pub path: PathBuf,
    pub text: String,
    /// Position among the files, in the order of merging.
    pub index: usize,
}

/// Part of a file: what an error points at.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub source: Arc<Source>,
    /// In bytes of the text.
    pub start: usize,
    pub end: usize,
}

/// A file that is no text that TOML could be in.
#[derive(Debug)]
pub(super) enum Unreadable {
    /// Why, for the file as a whole.
    Whole(String),
    /// The bytes from here on are not UTF-8.
    NotText(Place),
}

impl Source {
    /// Reads a regular file of at most [`MAX_FILE`] bytes.
    pub fn read(path: &Path, index: usize) -> Result<Arc<Source>, Unreadable> {
        let whole = |error: std::io::Error| Unreadable::Whole(format!("cannot read this file: {error}"));
        let metadata = fs::metadata(path).map_err(whole)?;
        if !metadata.is_file() {
            return Err(Unreadable::Whole("this is not a regular file: put a file with TOML text here".into()));
        }
        let mut bytes = Vec::new();
        File::open(path).map_err(whole)?.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(whole)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(Unreadable::Whole("this file is larger than 1 MiB, the limit: split it into several under conf.d".into()));
        }
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Arc::new(Source { path: path.into(), text, index })),
            Err(error) => {
                let start = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
                let source = Arc::new(Source { path: path.into(), text, index });
                Err(Unreadable::NotText(Place { source, start, end: start + 1 }))
            }
        }
    }
}

impl Place {
    /// Line and column, both from 1, the column in characters.
    pub fn line_and_column(&self) -> (usize, usize) {
        let before = &self.source.text[..floor(&self.source.text, self.start)];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.bytes().filter(|byte| *byte == b'\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// The line that the place begins in, without its end.
    pub fn line_text(&self) -> &str {
        let text = &self.source.text;
        let start = floor(text, self.start);
        let from = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let to = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
        text[from..to].trim_end_matches('\r')
    }

    /// The text of the place, up to the end of its first line.
    pub fn text(&self) -> &str {
        let text = &self.source.text;
        let start = floor(text, self.start);
        let rest = &text[start..floor(text, self.end).max(start)];
        rest.split('\n').next().unwrap_or_default()
    }

    /// `FILE:LINE`, for a place that is mentioned in the message about another.
    pub fn short(&self) -> String {
        format!("{}:{}", self.source.path.display(), self.line_and_column().0)
    }
}

/// The nearest start of a character at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    let at = at.min(text.len());
    (0..=at).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0)
}
