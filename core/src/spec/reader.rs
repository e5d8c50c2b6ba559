//! Reads a JSON object by its rows of the [table](super::fields) and collects every fault, where serde would stop at
//! the first.

use std::cell::RefCell;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::field::{Default, Document, Field, Kind, Object};
use super::values::{MOST_FAULTS, check, expected, whole_numbers};
use super::{Fault, Method, Recipe};
use crate::text;

/// The faults found so far, shared by all readers of one document.
pub(super) type Faults = RefCell<Vec<Fault>>;

/// One object of the document.
pub(super) struct ObjectReader<'a> {
    faults: &'a Faults,
    pointer: String,
    object: Option<&'a Map<String, Value>>,
    /// What takes the place of defaults.
    preset: Option<&'static Map<String, Value>>,
    /// The recipe that has the preset.
    recipe: &'static str,
    fields: &'static [Field],
    /// Which object it is where there are several.
    variant: Option<String>,
    document: Document,
    /// The method whose fields may be given.
    pub(super) method: Method,
    /// Whether it is the default, and not the document's.
    pub(super) is_method_default: bool,
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
        let (preset, recipe) = (None, "");
        let (variant, is_method_default, knows_method) = (None, false, true);
        let reader = Self {
            faults,
            pointer,
            object,
            preset,
            recipe,
            fields,
            variant,
            document,
            method,
            is_method_default,
            knows_method,
        };
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
                detail: format!("there are more than these {MOST_FAULTS} faults: correct these first"),
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

    /// The same object, in which the recipe's values take the place of defaults.
    pub(super) fn with_recipe(self, recipe: Recipe) -> Self {
        Self { preset: Some(recipe.values()), recipe: recipe.name(), ..self }
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

    /// Where a field's value comes from, for a message about it: nothing if the document has it.
    pub(super) fn origin(&self, name: &str) -> String {
        if self.is_preset(name) {
            format!(" (set by the recipe {})", self.recipe)
        } else if self.is_given(name) {
            String::new()
        } else {
            " (the default)".to_owned()
        }
    }

    /// What to write to do without a value: a recipe's is there until another takes its place.
    pub(super) fn without(&self, name: &str, neutral: &str) -> String {
        if self.is_preset(name) {
            format!("set {name}, which the recipe {} sets, to {neutral}", self.recipe)
        } else {
            format!("leave out {name}")
        }
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
                let (methods, method) = (field.used_by.words(), self.method.words(self.is_method_default));
                self.fault(name, format!("is used by {methods} only, not by {method}"));
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
        let place = format!("{name} {}{}", variant.name, nested.origin("type"));
        (variant.name, Self { fields: variant.fields, variant: Some(place), ..nested })
    }

    fn nested(&self, name: &str, fields: &'static [Field]) -> Self {
        let pointer = format!("{}/{name}", self.pointer);
        let value = self.object.and_then(|object| object.get(name)).filter(|value| !value.is_null());
        let object = value.and_then(Value::as_object);
        if let (Some(value), None) = (value, object) {
            self.fault(name, expected("an object", value));
        }
        let preset = self.preset.and_then(|preset| preset.get(name)).and_then(Value::as_object);
        Self { pointer, object, preset, fields, variant: None, ..*self }
    }

    /// Refuses every field that the table does not have.
    pub(super) fn finish(self) {
        let known: Vec<_> = self.variant.iter().map(|_| "type").chain(self.rows().map(|field| field.name)).collect();
        for name in self.object.into_iter().flat_map(Map::keys) {
            if !known.contains(&name.as_str()) {
                let escaped = name.replace('~', "~0").replace('/', "~1");
                let place = self.variant.as_ref().map(|variant| format!(" of {variant}")).unwrap_or_default();
                self.fault(&escaped, format!("unknown field{place}; known here: {}", known.join(", ")));
            }
        }
    }
}

static TYPE: Field = Field::new("type", Kind::Text { longest: 20 }, "");

fn typed<T: DeserializeOwned>(value: &Value) -> Result<T, String> {
    T::deserialize(value).map_err(|error| error.to_string())
}
