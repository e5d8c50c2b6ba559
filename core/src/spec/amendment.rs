//! What a user can change about an existing job: nothing that decides what is trained.

use std::cell::RefCell;
use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Fault;
use super::field::{Document, Field, Kind, Object};
use super::fields::{LONGEST_JOB_NAME, PRIORITY};
use super::reader::{Faults, ObjectReader};
use super::values::{MOST_LABELS, label_faults};

/// Longest notes, in characters.
pub const LONGEST_NOTES: usize = 10_000;

/// The fields of a change. `null` removes labels and notes, which the table cannot say: it is read below.
const AMENDMENT: Object = Object {
    name: "JobChanges",
    description: "What to change about a job.",
    fields: &[
        Field::new("name", Kind::Text { longest: LONGEST_JOB_NAME }, "Another name."),
        Field::new("labels", Kind::Labels, "Labels to set or, with null, to remove."),
        Field::new("priority", PRIORITY, "Another priority."),
        Field::new("notes", Kind::Text { longest: LONGEST_NOTES }, "Notes for people."),
    ],
};

/// The body of `PATCH /v1/jobs/{id}`: a JSON merge patch (RFC 7396). What it leaves out stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Amendment {
    pub name: Option<String>,
    pub priority: Option<i32>,
    pub labels: LabelChanges,
    /// `Some(None)` removes the notes, and `None` keeps them.
    pub notes: Option<Option<String>>,
}

/// What happens to the labels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum LabelChanges {
    #[default]
    None,
    /// All are removed.
    Clear,
    /// Labels to set and, where there is no value, to remove.
    Each(BTreeMap<String, Option<String>>),
}

impl Amendment {
    /// Reads a document.
    ///
    /// # Errors
    /// All faults, with their places.
    pub fn read(document: &Value) -> Result<Self, Vec<Fault>> {
        let faults = Faults::default();
        let reader = ObjectReader::new(&faults, &AMENDMENT, document, Document::Job);
        for name in ["name", "priority"] {
            if reader.has(name) && !reader.is_given(name) {
                reader.fault(name, "cannot be removed: leave it out to keep it as it is");
            }
        }
        let read = Self {
            name: reader.optional("name"),
            priority: reader.optional("priority"),
            labels: labels(&reader, document),
            notes: notes(&reader, document),
        };
        reader.finish();
        let faults = RefCell::into_inner(faults);
        if faults.is_empty() { Ok(read) } else { Err(faults) }
    }
}

fn labels(reader: &ObjectReader<'_>, document: &Value) -> LabelChanges {
    match document.get("labels") {
        None => LabelChanges::None,
        Some(Value::Null) => LabelChanges::Clear,
        Some(given) => {
            // Removing a label that could not be set is not a fault: no job has it.
            let set = given.as_object().map(|all| all.iter().filter(|(_, value)| !value.is_null()));
            let set = set
                .map(|set| Value::Object(set.map(|(key, value)| (key.clone(), value.clone())).collect::<Map<_, _>>()));
            for (_, detail) in label_faults(set.as_ref().unwrap_or(given)) {
                reader.fault("labels", detail);
            }
            let all = given.as_object().into_iter().flatten();
            LabelChanges::Each(all.map(|(key, value)| (key.clone(), value.as_str().map(str::to_owned))).collect())
        }
    }
}

fn notes(reader: &ObjectReader<'_>, document: &Value) -> Option<Option<String>> {
    let given = document.get("notes")?;
    if given.is_null() {
        return Some(None);
    }
    let Some(text) = given.as_str() else {
        reader.fault("notes", "expected a string, or null to remove the notes");
        return None;
    };
    if text.chars().count() > LONGEST_NOTES {
        reader.fault("notes", format!("is longer than {LONGEST_NOTES} characters"));
    }
    if text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t')) {
        reader.fault("notes", "holds a control character other than line breaks and tabs");
    }
    Some(Some(text.to_owned()).filter(|text| !text.is_empty()))
}

impl LabelChanges {
    /// The labels after the change. Their values may have any type that holds a text.
    ///
    /// # Errors
    /// The number of labels that there would be, if it is too large.
    pub fn apply<V: From<String>>(&self, mut labels: BTreeMap<String, V>) -> Result<BTreeMap<String, V>, usize> {
        match self {
            Self::None => return Ok(labels),
            Self::Clear => labels.clear(),
            Self::Each(changes) => {
                for (key, value) in changes {
                    match value {
                        Some(value) => drop(labels.insert(key.clone(), value.clone().into())),
                        None => drop(labels.remove(key)),
                    }
                }
            }
        }
        if labels.len() > MOST_LABELS { Err(labels.len()) } else { Ok(labels) }
    }
}
