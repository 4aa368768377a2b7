//! Whether a JSON value is as docs/reference/status.schema.json says: with the words of JSON Schema that are in there, and no others.

use serde_json::Value;

const STATUS: &str = include_str!("../../../docs/reference/status.schema.json");
/// What only people read.
const NOTES: [&str; 6] = ["$schema", "$defs", "title", "description", "format", "default"];

/// Checks a status.json. Unlike the schema, it allows no key that the schema does not have: the documentation is to be whole.
///
/// # Errors
/// Each difference, with its place.
pub fn check_status(status: &Value) -> anyhow::Result<()> {
    let schema: Value = serde_json::from_str(STATUS)?;
    let mut wrong = Vec::new();
    check(&schema, &schema, status, "status", &mut wrong);
    anyhow::ensure!(wrong.is_empty(), "not as docs/reference/status.schema.json says: {}: {status}", wrong.join("; "));
    Ok(())
}

fn check(root: &Value, schema: &Value, value: &Value, at: &str, wrong: &mut Vec<String>) {
    let Some(rules) = schema.as_object() else { return };
    for (word, rule) in rules {
        let good = match word.as_str() {
            note if NOTES.contains(&note) => true,
            "$ref" => {
                let named = rule.as_str().and_then(|path| root.pointer(path.trim_start_matches('#')));
                named.inspect(|named| check(root, named, value, at, wrong)).is_some()
            }
            "type" => match rule {
                Value::Array(types) => types.iter().any(|one| is(one, value)),
                one => is(one, value),
            },
            "enum" => rule.as_array().is_some_and(|words| words.contains(value)),
            "const" => rule == value,
            "minimum" => value.as_f64().is_none_or(|number| rule.as_f64().is_some_and(|least| number >= least)),
            "anyOf" | "oneOf" => rule.as_array().is_some_and(|choices| choices.iter().any(|choice| fits(root, choice, value, at))),
            "required" => rule.as_array().into_iter().flatten().all(|key| key.as_str().is_some_and(|key| value.get(key).is_some())),
            "properties" => {
                for (key, inner) in value.as_object().into_iter().flatten() {
                    match rule.get(key) {
                        Some(rule) => check(root, rule, inner, &format!("{at}.{key}"), wrong),
                        None => wrong.push(format!("{at}.{key} is not in it")),
                    }
                }
                true
            }
            // Of what has no keys of its own.
            "additionalProperties" => {
                for (key, inner) in value.as_object().into_iter().flatten() {
                    check(root, rule, inner, &format!("{at}.{key}"), wrong);
                }
                true
            }
            "items" => {
                for (number, item) in value.as_array().into_iter().flatten().enumerate() {
                    check(root, rule, item, &format!("{at}[{number}]"), wrong);
                }
                true
            }
            other => {
                wrong.push(format!("{other} is a word of JSON Schema that this does not know"));
                true
            }
        };
        if !good {
            wrong.push(format!("{at} is {value}, against {word}: {rule}"));
        }
    }
}

fn fits(root: &Value, schema: &Value, value: &Value, at: &str) -> bool {
    let mut wrong = Vec::new();
    check(root, schema, value, at, &mut wrong);
    wrong.is_empty()
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind.as_str().unwrap_or_default() {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}
