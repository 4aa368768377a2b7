//! Numbers, sizes and percentages, from what the file has to a number.

use super::problem::quoted;
use super::reader::example;
use super::section::{Key, Type};
use super::tree::Data;
use super::units::Wrong;

/// `text` is the value as it stands in the file.
pub(super) fn read(key: &Key, data: &Data, text: &str) -> Result<u64, Wrong> {
    let word = if let Data::Text(word) = data { word } else { text };
    match key.takes {
        Type::Count => number(key, text, 1000),
        Type::Number => number(key, text, 1_000_000),
        Type::Percent => percent(word).ok_or_else(|| (format!("{} is no percentage from 1% to 99%", quoted(word)), right(key))),
        _ => size(word).ok_or_else(|| {
            (format!("{} is no size", quoted(word)), "write a whole number above zero with K, M, G or T, such as 200M or 2G".into())
        }),
    }
}

fn number(key: &Key, text: &str, most: u64) -> Result<u64, Wrong> {
    let number = text.replace('_', "").parse().ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| (format!("`{}` is not between 1 and {most}", key.name), right(key)))
}

fn right(key: &Key) -> String {
    format!("write {}", example(key))
}

fn percent(text: &str) -> Option<u64> {
    let digits = text.strip_suffix('%').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok().filter(|percent| (1..=99).contains(percent))
}

fn size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(['K', 'M', 'G', 'T']);
    let step = match &text[digits.len()..] {
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    let number: u64 = digits.parse().ok().filter(|number| *number > 0 && digits.len() < 8)?;
    Some(number << step)
}
