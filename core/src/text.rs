//! Texts from outside, as far as they are the same for all readers.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Bytes that the remark on a cut takes at most.
const REMARK: usize = "… (18446744073709551615 more bytes)".len();

/// A text without the byte-order mark that editors on Windows put before it.
#[must_use]
pub fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// Reads a JSON document. No object may have a key twice: of two values, a reader would take one and pass over the
/// other in silence.
///
/// # Errors
/// It is not JSON (of the category `Syntax` or `Eof`), or an object has a key twice (`Data`).
pub fn json(text: &[u8]) -> serde_json::Result<Value> {
    serde_json::from_slice::<Unique>(text).map(|document| document.0)
}

/// A value without a key that appears twice.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor).map(Self)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Unique(value)) = sequence.next_element()? {
            values.push(value);
        }
        Ok(Value::Array(values))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            if object.contains_key(&key) {
                let key = shortened(&key, 200);
                return Err(A::Error::custom(format!(
                    "the key {} appears twice in an object: remove one",
                    quoted(&key)
                )));
            }
            let Unique(value) = members.next_value()?;
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

/// A number with its noun, as in "1 class" and "2 classes".
#[must_use]
pub fn counted(count: impl Into<u64>, one: &str, more: &str) -> String {
    let count: u64 = count.into();
    match count {
        1 => format!("1 {one}"),
        count => format!("{count} {more}"),
    }
}

/// What is wrong with a name that nobody can see.
pub const BLANK: &str = "must not be blank: people tell things by their names";

/// Whether a name is empty or has nothing but blanks. Names are kept as they are given, and such ones are refused.
#[must_use]
pub fn is_blank(name: &str) -> bool {
    name.chars().all(char::is_whitespace)
}

/// A text in quotation marks, as people read it: [`escaped`], and its own quotation marks, too.
#[must_use]
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", escaped(text).replace('"', "\\\""))
}

/// A text as people read it. Only backslashes and what does not show are escaped: control characters, and those that
/// turn the direction of writing or break lines.
#[must_use]
pub fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\\' => escaped.push_str("\\\\"),
            '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' => {
                escaped.extend(character.escape_unicode());
            }
            _ if character.is_control() => escaped.extend(character.escape_debug()),
            _ => escaped.push(character),
        }
    }
    escaped
}

/// A text of at most `longest` bytes: a longer one is cut, and says how many bytes are missing. `longest` must have
/// room for that remark.
#[must_use]
pub fn shortened(text: &str, longest: usize) -> Cow<'_, str> {
    if text.len() <= longest {
        return Cow::Borrowed(text);
    }
    let kept = &text[..text.floor_char_boundary(longest.saturating_sub(REMARK))];
    Cow::Owned(format!("{kept}… ({} more bytes)", text.len() - kept.len()))
}

/// The name that was probably meant, if one is known: the nearest, at most two edits away and a third of the text,
/// ignoring case and separators.
#[must_use]
pub fn nearest<'a>(wanted: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A long text is not a typo, and computing the distance takes quadratic time.
    if wanted.len() > 64 {
        return None;
    }
    let plain = |name: &str| name.to_lowercase().replace(['-', '_', ' '], "");
    let wanted = plain(wanted);
    let distances = known.into_iter().map(|name| (strsim::osa_distance(&wanted, &plain(name)), name));
    let (distance, name) = distances.min_by_key(|(distance, _)| *distance)?;
    (distance <= 2 && distance * 3 <= wanted.chars().count()).then_some(name)
}

/// What is said of a name that is none of the `known` ones, with the one that was probably meant. `what` is the kind of
/// name.
#[must_use]
pub fn unknown(what: &str, given: &str, known: &[&str]) -> String {
    let shown: String = given.chars().take(64).collect();
    let near =
        nearest(given, known.iter().copied()).map_or_else(String::new, |near| format!(" (did you mean {near}?)"));
    format!("unknown {what} {}{near}; known: {}", quoted(&shown), known.join(", "))
}

/// A message of serde in the words of [`unknown`] if it is about an unknown name of an enumeration, which may stand
/// behind its place, as in `status: `. `what` is the kind of name where the message does not say the place.
#[must_use]
pub fn of_serde<'a>(message: &'a str, what: &str) -> Cow<'a, str> {
    let Some((place, rest)) = message.split_once("unknown variant `") else { return Cow::Borrowed(message) };
    let Some((given, expected)) = rest.rsplit_once("`, expected ") else { return Cow::Borrowed(message) };
    let known: Vec<&str> = expected.split('`').skip(1).step_by(2).collect();
    let field = place.split([':', '[']).next().filter(|field| !field.is_empty());
    Cow::Owned(format!("{place}{}", unknown(field.unwrap_or(what), given, &known)))
}
