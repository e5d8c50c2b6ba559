//! Whether a value is one that the [table](super::fields) allows.

use std::ops::RangeInclusive;

use serde_json::Value;

use super::field::Kind;
use super::training::CLASS_WEIGHTS;
use crate::dataset;
use crate::text::{BLANK, is_blank, quoted};

/// Most faults that are reported of one document: with a fault for each of its bytes, the answer would be many times as
/// large.
pub(super) const MOST_FAULTS: usize = 100;

/// Writes `1.0` as `1` where the table has whole numbers, which JSON does not tell from others.
pub(super) fn whole_numbers(kind: &Kind, value: &Value) -> Value {
    match (kind, value) {
        (Kind::Integer(_), Value::Number(number)) if number.is_f64() => {
            let whole = number.as_f64().filter(|number| number.fract() == 0.0 && number.abs() <= LARGEST_EXACT);
            whole.map_or_else(|| value.clone(), |whole| Value::from(whole as i64))
        }
        (Kind::Integers { each, .. }, Value::Array(values)) => {
            values.iter().map(|value| whole_numbers(&Kind::Integer(each.clone()), value)).collect()
        }
        _ => value.clone(),
    }
}

/// Up to here a floating-point number is every whole number exactly.
const LARGEST_EXACT: f64 = 9_007_199_254_740_992.0;

/// What is wrong with a value, each with its place in it: nothing, or `/3` for an element.
pub(super) fn check(kind: &Kind, value: &Value) -> Vec<(String, String)> {
    let whole = |result: Result<(), String>| result.err().map(|detail| (String::new(), detail)).into_iter().collect();
    match kind {
        Kind::Text { longest } => whole(text(value, *longest).and_then(|()| visible(value))),
        Kind::Architecture => whole(text(value, 100)),
        Kind::Path => whole(text(value, 4096)),
        Kind::CheckpointId => whole(text(value, 4096).and_then(|()| checkpoint_id(value))),
        Kind::Name { longest } => whole(text(value, *longest).and_then(|()| plain_name(value))),
        Kind::Choice(_) | Kind::TeacherCache => whole(is(value.is_string(), "a string", value)),
        Kind::Refused(advice) => whole(Err((*advice).to_owned())),
        Kind::Integer(range) => whole(integer(value, range)),
        Kind::Number(range) => whole(number(value, range)),
        Kind::Boolean => whole(is(value.is_boolean(), "true or false", value)),
        Kind::Integers { longest, each } => list(value, *longest, |value| integer(value, each)),
        Kind::Numbers { longest, each } => list(value, *longest, |value| number(value, each)),
        Kind::Names { .. } if value.as_array().is_some_and(Vec::is_empty) => whole(Err("must not be empty".to_owned())),
        Kind::Names { longest, each } => list(value, *longest, |value| text(value, *each)),
        Kind::Channels(each) => match value.as_array().map(Vec::len) {
            Some(length) if length != 3 => whole(Err(format!("expected 3 numbers (red, green, blue), found {length}"))),
            _ => beyond_unit(value, each)
                .map_or_else(|| list(value, 3, |value| number(value, each)), |detail| whole(Err(detail))),
        },
        // A text is read as one; what it says is checked there.
        Kind::ClassWeights { .. } if value.is_string() => Vec::new(),
        Kind::ClassWeights { .. } if !value.is_array() => whole(Err(expected(CLASS_WEIGHTS, value))),
        Kind::ClassWeights { longest, each } => list(value, *longest, |value| number(value, each)),
        Kind::Labels => label_faults(value),
        Kind::Object(_) | Kind::Variants { .. } => whole(is(value.is_object(), "an object", value)),
    }
}

fn is(holds: bool, what: &str, value: &Value) -> Result<(), String> {
    if holds { Ok(()) } else { Err(expected(what, value)) }
}

pub(super) fn expected(what: &str, value: &Value) -> String {
    format!("expected {what}, found {}", kind(value))
}

fn text(value: &Value, longest: usize) -> Result<(), String> {
    match value.as_str() {
        None => Err(expected("a string", value)),
        Some("") => Err("must not be empty".into()),
        Some(text) if text.chars().count() > longest => Err(format!("is longer than {longest} characters")),
        Some(text) if text.chars().any(char::is_control) => Err("holds a control character".into()),
        Some(_) => Ok(()),
    }
}

fn visible(text: &Value) -> Result<(), String> {
    if text.as_str().is_some_and(is_blank) { Err(BLANK.to_owned()) } else { Ok(()) }
}

/// A directory entry below a base and nothing else.
fn plain_name(value: &Value) -> Result<(), String> {
    let is_plain = dataset::is_name(value.as_str().unwrap_or_default());
    if is_plain { Ok(()) } else { Err(format!("is not a name: a name {}", dataset::NAME_RULE)) }
}

fn checkpoint_id(value: &Value) -> Result<(), String> {
    if value.as_str().is_some_and(|id| id.starts_with("ckpt_")) {
        return Ok(());
    }
    Err("expected the id of an uploaded checkpoint (\"ckpt_…\"): upload the file with PUT /v1/checkpoints first".into())
}

fn integer(value: &Value, range: &RangeInclusive<i64>) -> Result<(), String> {
    let number = value.as_i64();
    if number.is_some_and(|number| range.contains(&number)) {
        return Ok(());
    }
    let found = if value.is_number() { value.to_string() } else { kind(value).to_owned() };
    Err(format!("expected a whole number from {} to {}, found {found}", range.start(), range.end()))
}

fn number(value: &Value, range: &RangeInclusive<f64>) -> Result<(), String> {
    let number = value.as_f64();
    if number.is_some_and(|number| range.contains(&number)) {
        return Ok(());
    }
    let found = number.map_or_else(|| kind(value).to_owned(), |number| number.to_string());
    Err(format!("expected a number from {} to {}, found {found}", range.start(), range.end()))
}

/// What is wrong with the channels of a mean or standard deviation that are meant for pixels up to 255.
fn beyond_unit(value: &Value, range: &RangeInclusive<f64>) -> Option<String> {
    let beyond = value.as_array()?.iter().filter_map(Value::as_f64).find(|number| number > range.end())?;
    Some(format!(
        "expected 3 numbers from {} to {}, found {beyond}: pixels are in [0, 1], so divide values for pixels up to 255 by \
         255",
        range.start(),
        range.end()
    ))
}

/// A faulty element is reported under its index.
fn list(value: &Value, longest: usize, check: impl Fn(&Value) -> Result<(), String>) -> Vec<(String, String)> {
    let whole = |detail| vec![(String::new(), detail)];
    let Some(values) = value.as_array() else { return whole(expected("a list", value)) };
    if values.len() > longest {
        return whole(format!("has {} elements; at most {longest} are allowed", values.len()));
    }
    let checked = values.iter().map(check).enumerate();
    checked.filter_map(|(index, result)| Some((format!("/{index}"), result.err()?))).take(MOST_FAULTS + 1).collect()
}

/// What is wrong with labels.
pub(super) fn label_faults(value: &Value) -> Vec<(String, String)> {
    let Some(members) = value.as_object() else { return vec![(String::new(), expected("an object", value))] };
    let mut details = Vec::new();
    if members.len() > MOST_LABELS {
        details.push(format!("has {} entries; at most {MOST_LABELS} are allowed", members.len()));
    }
    for (key, value) in members.iter().take(MOST_FAULTS + 1) {
        if is_blank(key) || key.len() > LONGEST_LABEL_KEY || key.contains([':', '\0']) {
            let shown: String = key.chars().take(LONGEST_LABEL_KEY).collect();
            details.push(format!(
                "key {shown} must have 1 to {LONGEST_LABEL_KEY} bytes and no colon, and not be blank",
                shown = quoted(&shown)
            ));
        } else if !value.as_str().is_some_and(|value| value.len() <= LONGEST_LABEL && !value.contains('\0')) {
            details.push(format!(
                "the value of {key} must be a string of at most {LONGEST_LABEL} bytes",
                key = quoted(key)
            ));
        }
    }
    details.into_iter().map(|detail| (String::new(), detail)).collect()
}

/// Most labels of a job.
pub const MOST_LABELS: usize = 32;
pub(super) const LONGEST_LABEL: usize = 255;
const LONGEST_LABEL_KEY: usize = 63;

/// What a JSON value is, for a message.
fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
