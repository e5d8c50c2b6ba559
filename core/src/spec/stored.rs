//! Reads specifications back from where a program, perhaps of another version, stored them.

use serde::Deserialize;
use serde_json::Value;

use super::JobSpec;

impl JobSpec {
    /// The newest version of the format that this program knows. Each specification is stored with the
    /// [version](Self::version) that it needs, and workers that do not know it leave the job to others. Raise this when
    /// a specification may contain what earlier programs cannot do.
    pub const VERSION: i32 = 3;

    /// Reads a stored specification. What this program does not know is refused, not ignored: the job would otherwise
    /// train something else than was asked for.
    ///
    /// # Errors
    /// What it does not know, as a sentence.
    pub fn from_stored(stored: &Value) -> Result<Self, String> {
        // Such documents come as null: see `readable` in `migrations/`.
        if stored.is_null() {
            return Err("a number in it is too large, or it is nested too deeply".to_owned());
        }
        let spec = Self::deserialize(stored).map_err(|error| error.to_string())?;
        let known = serde_json::to_value(&spec).map_err(|error| error.to_string())?;
        match unknown(stored, &known) {
            Some(pointer) => Err(format!("the field {pointer} is unknown")),
            None => Ok(spec),
        }
    }
}

/// The JSON pointer of the first member of `stored` that has a value and is not in `known`.
fn unknown(stored: &Value, known: &Value) -> Option<String> {
    match (stored, known) {
        (Value::Object(stored), Value::Object(known)) => stored.iter().find_map(|(name, value)| {
            let below = match known.get(name) {
                Some(known) => unknown(value, known)?,
                None if value.is_null() || value.as_array().is_some_and(Vec::is_empty) => return None,
                None => String::new(),
            };
            Some(format!("/{name}{below}"))
        }),
        (Value::Array(stored), Value::Array(known)) => {
            let mut pairs = stored.iter().zip(known).enumerate();
            pairs.find_map(|(place, (stored, known))| Some(format!("/{place}{}", unknown(stored, known)?)))
        }
        _ => None,
    }
}
