//! Reads a JSON object by its rows of the [table](super::fields) and collects every fault, where serde would stop at
//! the first.

use std::cell::RefCell;
use std::ops::RangeInclusive;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::field::{Default, Document, Field, Kind, Object};
use super::{Fault, Method};
use crate::{dataset, text};

/// The faults found so far, shared by all readers of one document.
pub(super) type Faults = RefCell<Vec<Fault>>;

/// Most faults that are reported of one document: with a fault for each of its bytes, the answer would be many times as
/// large.
const MOST_FAULTS: usize = 100;

/// One object of the document.
pub(super) struct ObjectReader<'a> {
    faults: &'a Faults,
    pointer: String,
    object: Option<&'a Map<String, Value>>,
    /// What takes the place of defaults.
    preset: Option<&'static Map<String, Value>>,
    fields: &'static [Field],
    has_type: bool,
    document: Document,
    /// The method whose fields may be given.
    pub(super) method: Method,
    /// Whether the document has that method. What it has in its place cannot be read otherwise, and which fields may be
    /// given is not known.
    pub(super) knows_method: bool,
}

impl<'a> ObjectReader<'a> {
    /// The whole document; one that is not an object is a fault, and reads as an empty one.
    pub(super) fn new(faults: &'a Faults, table: &'static Object, value: &'a Value, document: Document) -> Self {
        let (pointer, object) = (String::new(), value.as_object());
        let fields = table.fields;
        let method = Method::SddKd;
        let (preset, has_type, knows_method) = (None, false, true);
        let reader = Self { faults, pointer, object, preset, fields, has_type, document, method, knows_method };
        if object.is_none() {
            reader.fault_here(expected("an object", value));
        }
        reader
    }

    /// Records a fault of the object itself.
    pub(super) fn fault_here(&self, detail: impl Into<String>) {
        self.add(Fault { pointer: self.pointer.clone(), detail: detail.into() });
    }

    /// Records a fault of any place.
    pub(super) fn add(&self, fault: Fault) {
        let mut faults = self.faults.borrow_mut();
        match faults.len() {
            ..MOST_FAULTS => faults.push(fault),
            MOST_FAULTS => faults.push(Fault {
                pointer: String::new(),
                detail: format!("there are more than these {MOST_FAULTS} faults: mend these first"),
            }),
            _ => {}
        }
    }

    /// Records a fault of one field (or of `field/3`, an element).
    pub(super) fn fault(&self, field: &str, detail: impl Into<String>) {
        let pointer = format!("{}/{field}", self.pointer);
        self.add(Fault { pointer, detail: detail.into() });
    }

    /// Whether one of these fields, which were read before, has a fault. Then its default stands in its place, and what
    /// contradicts that contradicts nothing that the document has.
    pub(super) fn has_fault(&self, names: &[&str]) -> bool {
        let is_in = |fault: &Fault, name: &str| {
            let rest = fault.pointer.strip_prefix(&self.pointer).and_then(|rest| rest.strip_prefix('/'));
            let rest = rest.and_then(|rest| rest.strip_prefix(name));
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        self.faults.borrow().iter().any(|fault| names.iter().any(|name| is_in(fault, name)))
    }

    /// Records a fault for each element of a field that is not above the one before.
    pub(super) fn ascend(&self, field: &str, list: &[u32]) {
        for (index, pair) in list.windows(2).enumerate() {
            if pair[1] <= pair[0] {
                let detail = format!("{field} must ascend: {} follows {}", pair[1], pair[0]);
                self.fault(&format!("{field}/{}", index + 1), detail);
            }
        }
    }

    /// The same object, in which these values take the place of defaults.
    pub(super) fn with_preset(self, preset: Option<&'static Map<String, Value>>) -> Self {
        Self { preset, ..self }
    }

    /// Whether the document or the preset has the field, even as `null`.
    pub(super) fn has(&self, name: &str) -> bool {
        [self.object, self.preset].into_iter().flatten().any(|object| object.contains_key(name))
    }

    /// Whether the document or the preset has a value for the field; `null` counts as absent.
    pub(super) fn is_given(&self, name: &str) -> bool {
        self.value(name).is_some()
    }

    /// Whether the preset has a value for the field and the document does not.
    pub(super) fn is_preset(&self, name: &str) -> bool {
        let is_own = self.object.and_then(|object| object.get(name)).is_some_and(|value| !value.is_null());
        !is_own && self.preset.is_some_and(|preset| preset.contains_key(name))
    }

    /// Whether this kind of document can have the field.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.rows().any(|field| field.name == name)
    }

    fn value(&self, name: &str) -> Option<&'a Value> {
        let given = self.object.and_then(|object| object.get(name));
        // A null that means something hides the preset's value.
        let is_hiding = given.is_some() && self.rows().any(|field| field.name == name && field.null.is_some());
        let preset = self.preset.filter(|_| !is_hiding).and_then(|preset| preset.get(name));
        given.filter(|value| !value.is_null()).or(preset).filter(|value| !value.is_null())
    }

    /// The rows that this kind of document has.
    fn rows(&self) -> impl Iterator<Item = &'static Field> {
        self.fields.iter().filter(|field| field.is_in(self.document))
    }

    fn row(&self, name: &str) -> &'static Field {
        let found = self.rows().find(|field| field.name == name);
        found.unwrap_or_else(|| panic!("the table has no {}/{name}", self.pointer))
    }

    /// The field's value or its default; `None` if it has neither or the method does not use it.
    pub(super) fn optional<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let field = self.row(name);
        self.require(field);
        let given = self.value(name).and_then(|value| self.read(field, value));
        if !field.is_read_for(self.method) {
            if self.knows_method && self.has(name) {
                let (methods, method) = (field.used_by.words(), self.method.name());
                self.fault(name, format!("is used by {methods} only, not by method {method:?}"));
            }
            return None;
        }
        let default = || field.default_for(self.method).map(|default| typed(&default.json()));
        given.or_else(|| default()?.unwrap_or_else(|error| panic!("the default of {}/{name}: {error}", self.pointer)))
    }

    /// The field's value or its default.
    pub(super) fn get<T: DeserializeOwned>(&self, name: &str) -> T {
        self.optional(name).unwrap_or_else(|| panic!("the table has no default for {}/{name}", self.pointer))
    }

    /// A value that the table allows, or faults.
    fn read<T: DeserializeOwned>(&self, field: &Field, value: &Value) -> Option<T> {
        let value = &whole_numbers(&field.kind, value);
        let mut faults = check(&field.kind, value);
        let read = if faults.is_empty() {
            let read = typed(value).map_err(|error| text::of_serde(&error, field.name).into_owned());
            read.map_err(|error| faults.push((String::new(), error))).ok()
        } else {
            None
        };
        for (place, detail) in faults {
            self.fault(&format!("{}{place}", field.name), detail);
        }
        read
    }

    fn require(&self, field: &Field) {
        if let Default::Required(advice) = field.default
            && !self.is_given(field.name)
        {
            self.fault(field.name, advice);
        }
    }

    /// A nested object; an absent one reads as empty.
    pub(super) fn object(&self, name: &str) -> Self {
        let field = self.row(name);
        self.require(field);
        match &field.kind {
            Kind::Object(table) => self.nested(name, table.fields),
            other => panic!("{}/{name} is {other:?}", self.pointer),
        }
    }

    /// A nested object that is one of several, and its `type`: the first where that is absent. Where it is unknown, so
    /// are the other fields, and the object reads as an empty one of the first type.
    pub(super) fn variant(&self, name: &str) -> (&'static str, Self) {
        let Kind::Variants { variants, .. } = &self.row(name).kind else {
            panic!("{}/{name} has no variants", self.pointer)
        };
        let mut nested = self.nested(name, &[]);
        // The preset of another type has other fields.
        let own_type = nested.object.and_then(|object| object.get("type"));
        let has_other_type = |preset: &Map<String, Value>| own_type.is_some_and(|own| preset.get("type") != Some(own));
        nested.preset = nested.preset.filter(|&preset| !has_other_type(preset));
        let is_given = nested.is_given("type");
        let given = nested.value("type").and_then(|value| nested.read::<String>(&TYPE, value));
        let known = given.as_deref().and_then(|given| variants.iter().find(|variant| variant.name == given));
        if let (Some(given), None) = (given, known) {
            let names: Vec<_> = variants.iter().map(|variant| variant.name).collect();
            nested.fault("type", text::unknown(name, &given, &names));
        }
        if is_given && known.is_none() {
            (nested.object, nested.preset) = (None, None);
        }
        let variant = known.unwrap_or(&variants[0]);
        (variant.name, Self { fields: variant.fields, has_type: true, ..nested })
    }

    fn nested(&self, name: &str, fields: &'static [Field]) -> Self {
        let pointer = format!("{}/{name}", self.pointer);
        let value = self.object.and_then(|object| object.get(name)).filter(|value| !value.is_null());
        let object = value.and_then(Value::as_object);
        if let (Some(value), None) = (value, object) {
            self.fault(name, expected("an object", value));
        }
        let preset = self.preset.and_then(|preset| preset.get(name)).and_then(Value::as_object);
        Self { pointer, object, preset, fields, has_type: false, ..*self }
    }

    /// Refuses every field that the table does not have.
    pub(super) fn finish(self) {
        let known: Vec<_> =
            self.has_type.then_some("type").into_iter().chain(self.rows().map(|field| field.name)).collect();
        for name in self.object.into_iter().flat_map(Map::keys) {
            if !known.contains(&name.as_str()) {
                let escaped = name.replace('~', "~0").replace('/', "~1");
                self.fault(&escaped, format!("unknown field; known here: {}", known.join(", ")));
            }
        }
    }
}

static TYPE: Field = Field::new("type", Kind::Text { longest: 20 }, "");

fn typed<T: DeserializeOwned>(value: &Value) -> Result<T, String> {
    T::deserialize(value).map_err(|error| error.to_string())
}

/// Writes `1.0` as `1` where the table has whole numbers, which JSON does not tell from others.
fn whole_numbers(kind: &Kind, value: &Value) -> Value {
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
fn check(kind: &Kind, value: &Value) -> Vec<(String, String)> {
    let whole = |result: Result<(), String>| result.err().map(|detail| (String::new(), detail)).into_iter().collect();
    match kind {
        Kind::Text { longest } => whole(text(value, *longest)),
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
        Kind::ClassWeights { longest, each } => list(value, *longest, |value| number(value, each)),
        Kind::Labels => label_faults(value),
        Kind::Object(_) | Kind::Variants { .. } => whole(is(value.is_object(), "an object", value)),
    }
}

fn is(holds: bool, what: &str, value: &Value) -> Result<(), String> {
    if holds { Ok(()) } else { Err(expected(what, value)) }
}

fn expected(what: &str, value: &Value) -> String {
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
        if key.is_empty() || key.len() > LONGEST_LABEL_KEY || key.contains([':', '\0']) {
            let shown: String = key.chars().take(LONGEST_LABEL_KEY).collect();
            details.push(format!("key {shown:?} must have 1 to {LONGEST_LABEL_KEY} bytes and no colon"));
        } else if !value.as_str().is_some_and(|value| value.len() <= LONGEST_LABEL && !value.contains('\0')) {
            details.push(format!("the value of {key:?} must be a string of at most {LONGEST_LABEL} bytes"));
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
