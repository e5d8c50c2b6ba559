//! Reads a JSON object field by field and collects every fault, where serde would stop at the first.

use std::cell::RefCell;
use std::ops::RangeInclusive;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::Fault;

/// The faults found so far, shared by all readers of one document.
pub(super) type Faults = RefCell<Vec<Fault>>;

/// One object of the document.
pub(super) struct Fields<'a> {
    faults: &'a Faults,
    pointer: String,
    object: Option<&'a Map<String, Value>>,
    known: Vec<&'static str>,
}

impl<'a> Fields<'a> {
    /// The object at `pointer`; a value that is not an object is a fault, and reads as an empty one.
    pub(super) fn new(faults: &'a Faults, pointer: String, value: &'a Value) -> Self {
        let object = value.as_object();
        let fields = Self { faults, pointer, object, known: Vec::new() };
        if object.is_none() {
            fields.fault_here(format!("expected an object, found {}", kind(value)));
        }
        fields
    }

    /// An object that is not there: every field is absent.
    fn absent(faults: &'a Faults, pointer: String) -> Self {
        Self { faults, pointer, object: None, known: Vec::new() }
    }

    /// Records a fault of the object itself.
    pub(super) fn fault_here(&self, detail: impl Into<String>) {
        self.faults.borrow_mut().push(Fault { pointer: self.pointer.clone(), detail: detail.into() });
    }

    /// Records a fault of one field (or of `field/3`, an element).
    pub(super) fn fault(&self, field: &str, detail: impl Into<String>) {
        let pointer = format!("{}/{field}", self.pointer);
        self.faults.borrow_mut().push(Fault { pointer, detail: detail.into() });
    }

    /// Whether the document has the field, be it null.
    pub(super) fn has(&self, field: &str) -> bool {
        self.object.is_some_and(|object| object.contains_key(field))
    }

    /// The field's value; `null` counts as absent.
    pub(super) fn value(&mut self, field: &'static str) -> Option<&'a Value> {
        if !self.known.contains(&field) {
            self.known.push(field);
        }
        self.object?.get(field).filter(|value| !value.is_null())
    }

    /// A nested object; an absent one reads as empty.
    pub(super) fn object(&mut self, field: &'static str) -> Fields<'a> {
        let pointer = format!("{}/{field}", self.pointer);
        match self.value(field) {
            Some(value) => Fields::new(self.faults, pointer, value),
            None => Fields::absent(self.faults, pointer),
        }
    }

    /// A text of 1 to `longest` characters.
    pub(super) fn string(&mut self, field: &'static str, longest: usize) -> Option<String> {
        let value = self.value(field)?;
        match value.as_str() {
            Some("") => self.fault(field, "must not be empty"),
            Some(text) if text.chars().count() > longest => {
                self.fault(field, format!("is longer than {longest} characters"));
            }
            Some(text) if text.chars().any(char::is_control) => self.fault(field, "holds a control character"),
            Some(text) => return Some(text.to_owned()),
            None => self.fault(field, format!("expected a string, found {}", kind(value))),
        }
        None
    }

    /// A whole number within `range`.
    pub(super) fn integer(&mut self, field: &'static str, range: RangeInclusive<i64>) -> Option<i64> {
        let value = self.value(field)?;
        match integer_in(value, &range) {
            Ok(number) => Some(number),
            Err(detail) => {
                self.fault(field, detail);
                None
            }
        }
    }

    /// A finite number within `range`.
    pub(super) fn number(&mut self, field: &'static str, range: RangeInclusive<f64>) -> Option<f64> {
        let value = self.value(field)?;
        match number_in(value, &range) {
            Ok(number) => Some(number),
            Err(detail) => {
                self.fault(field, detail);
                None
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, field: &'static str) -> Option<bool> {
        let value = self.value(field)?;
        if value.as_bool().is_none() {
            self.fault(field, format!("expected true or false, found {}", kind(value)));
        }
        value.as_bool()
    }

    /// One of the names of an enumeration.
    pub(super) fn choice<T: DeserializeOwned>(&mut self, field: &'static str) -> Option<T> {
        let value = self.value(field)?;
        if !value.is_string() {
            self.fault(field, format!("expected a string, found {}", kind(value)));
            return None;
        }
        match serde_json::from_value(value.clone()) {
            Ok(choice) => Some(choice),
            Err(error) => {
                self.fault(field, error.to_string());
                None
            }
        }
    }

    /// A list of at most `longest` elements, each read by `element`; a faulty element is reported under its index.
    pub(super) fn list<T>(
        &mut self,
        field: &'static str,
        longest: usize,
        element: impl Fn(&Value) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let value = self.value(field)?;
        let Some(values) = value.as_array() else {
            self.fault(field, format!("expected a list, found {}", kind(value)));
            return None;
        };
        if values.len() > longest {
            self.fault(field, format!("has {} elements; at most {longest} are allowed", values.len()));
            return None;
        }
        let mut list = Vec::with_capacity(values.len());
        for (index, value) in values.iter().enumerate() {
            match element(value) {
                Ok(value) => list.push(value),
                Err(detail) => self.fault(&format!("{field}/{index}"), detail),
            }
        }
        (list.len() == values.len()).then_some(list)
    }

    /// Three finite numbers within `range`, one per colour channel.
    pub(super) fn channels(&mut self, field: &'static str, range: RangeInclusive<f64>) -> Option<[f64; 3]> {
        let list = self.list(field, usize::MAX, |value| number_in(value, &range))?;
        let length = list.len();
        let channels = list.try_into().ok();
        if channels.is_none() {
            self.fault(field, format!("expected 3 numbers (red, green, blue), found {length}"));
        }
        channels
    }

    /// The members of an object of free names.
    pub(super) fn members(&mut self, field: &'static str) -> Vec<(&'a String, &'a Value)> {
        match self.value(field) {
            None => Vec::new(),
            Some(Value::Object(members)) => members.iter().collect(),
            Some(other) => {
                self.fault(field, format!("expected an object, found {}", kind(other)));
                Vec::new()
            }
        }
    }

    /// Refuses every field that was not asked for.
    pub(super) fn finish(self) {
        for field in self.object.into_iter().flat_map(Map::keys) {
            if !self.known.contains(&field.as_str()) {
                let escaped = field.replace('~', "~0").replace('/', "~1");
                self.fault(&escaped, format!("unknown field; known here: {}", self.known.join(", ")));
            }
        }
    }
}

/// A whole number within `range`, or what is wrong with it.
pub(super) fn integer_in(value: &Value, range: &RangeInclusive<i64>) -> Result<i64, String> {
    let expected = || format!("expected a whole number from {} to {}", range.start(), range.end());
    let number = value.as_i64().ok_or_else(|| format!("{}, found {}", expected(), shown(value)))?;
    if range.contains(&number) { Ok(number) } else { Err(format!("{}, found {number}", expected())) }
}

/// A finite number within `range`, or what is wrong with it.
pub(super) fn number_in(value: &Value, range: &RangeInclusive<f64>) -> Result<f64, String> {
    let expected = || format!("expected a number from {} to {}", range.start(), range.end());
    let number = value.as_f64().ok_or_else(|| format!("{}, found {}", expected(), shown(value)))?;
    if range.contains(&number) { Ok(number) } else { Err(format!("{}, found {number}", expected())) }
}

/// The value itself where it is short, its kind where it is not.
fn shown(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        other => kind(other).to_owned(),
    }
}

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
