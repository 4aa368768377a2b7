//! The files as one tree in which every key and value knows where it was written.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use toml::de::{DeTable, DeValue};

use super::problem::Report;
use super::source::{Place, Source, Unreadable};

/// Syntax errors that are told of one file: behind these, most follow from the first.
const SYNTAX_ERRORS: usize = 5;

pub(super) type Table = BTreeMap<String, Entry>;

/// `key = value`, or a table under its header.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Where the key stands; of a table in several files, where it stands first.
    pub key: Place,
    pub value: Value,
}

#[derive(Debug, Clone)]
pub(super) struct Value {
    pub place: Place,
    pub data: Data,
}

#[derive(Debug, Clone)]
pub(super) enum Data {
    Text(String),
    Array(Vec<Value>),
    Table(Table),
    /// A type that no key takes; with its article.
    Other(&'static str),
}

impl Data {
    /// For "X is …": the type with its article.
    pub fn kind(&self) -> &'static str {
        match self {
            Data::Text(_) => "a string",
            Data::Array(_) => "an array",
            Data::Table(_) => "a table",
            Data::Other(kind) => kind,
        }
    }
}

/// Reads the files and merges them: key by key within tables, the later file wins; an array is replaced as a whole. A file
/// with an error adds nothing but its errors.
pub(super) fn merge(files: &[PathBuf], report: &mut Report) -> Table {
    let mut merged = Table::new();
    for (index, path) in files.iter().enumerate() {
        match Source::read(path, index) {
            Ok(source) => overlay(&mut merged, parse(&source, report)),
            Err(Unreadable::Whole(why)) => report.file(path, why),
            Err(Unreadable::NotText(place)) => report.at(&place, "this is not UTF-8", "save the file as UTF-8"),
        }
    }
    merged
}

fn overlay(below: &mut Table, above: Table) {
    for (name, entry) in above {
        match (below.get_mut(&name), entry) {
            (
                Some(Entry { value: Value { data: Data::Table(old), .. }, .. }),
                Entry { value: Value { data: Data::Table(new), .. }, .. },
            ) => {
                overlay(old, new);
            }
            (_, entry) => {
                below.insert(name, entry);
            }
        }
    }
}

fn parse(source: &Arc<Source>, report: &mut Report) -> Table {
    let (table, errors) = DeTable::parse_recoverable(&source.text);
    for error in errors.iter().take(SYNTAX_ERRORS) {
        report.at(&place(source, &error.span().unwrap_or(0..0)), format!("not TOML: {}", error.message()), "");
    }
    if errors.is_empty() { owned(source, table.get_ref()) } else { Table::new() }
}

fn place(source: &Arc<Source>, span: &Range<usize>) -> Place {
    Place { source: source.clone(), start: span.start, end: span.end }
}

fn owned(source: &Arc<Source>, table: &DeTable<'_>) -> Table {
    table
        .iter()
        .map(|(key, item)| {
            let entry = Entry { key: place(source, &key.span()), value: value(source, item.get_ref(), &item.span()) };
            (key.get_ref().to_string(), entry)
        })
        .collect()
}

fn value(source: &Arc<Source>, item: &DeValue<'_>, span: &Range<usize>) -> Value {
    let data = match item {
        DeValue::String(text) => Data::Text(text.to_string()),
        DeValue::Array(items) => Data::Array(items.iter().map(|item| value(source, item.get_ref(), &item.span())).collect()),
        DeValue::Table(table) => Data::Table(owned(source, table)),
        DeValue::Integer(_) => Data::Other("an integer"),
        DeValue::Float(_) => Data::Other("a float"),
        DeValue::Boolean(_) => Data::Other("a boolean"),
        DeValue::Datetime(_) => Data::Other("a date"),
    };
    Value { place: place(source, span), data }
}
