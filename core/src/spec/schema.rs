//! The OpenAPI schemas of specifications, made of the [table](super::fields).
//!
//! Each object has two: `TrainingSpec`, complete, for answers, and `TrainingSpecRequest`, in which all but a few fields
//! can be left out. Where JSON Schema has no word for it, an extension says so:
//!
//! | extension | meaning |
//! | --- | --- |
//! | `x-order` | the field's place among its siblings, as JSON objects have none |
//! | `x-methods` | the methods that use the field; without it, all do |
//! | `x-ignored` | other methods ignore the field, where without it they refuse it |
//! | `x-defaults` | the default by method, where it depends on that |
//! | `x-null` | what `null` means, where that differs from leaving the field out |
//! | `x-rare` | most jobs leave the field as it is |

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde_json::{Map, Value, json};
use utoipa::openapi::{Ref, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::field::{Default, Document, Field, Kind, Object, UsedBy};
use super::training::BALANCED;
use super::values::{LONGEST_LABEL, MOST_LABELS};
use super::{JobSpec, fields};
use crate::dataset;

/// Which of an object's two schemas.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Request,
    Answer,
}

/// The schemas by name, for `#/components/schemas`.
#[must_use]
pub fn schemas() -> Map<String, Value> {
    let mut schemas = Map::new();
    for side in [Side::Answer, Side::Request] {
        add(&mut schemas, &fields::JOB, side);
    }
    schemas["JobSpecRequest"]["example"] = json!({
        "teacher": {"architecture": "resnet32x4", "checkpoint": "ckpt_2c26b46b68ffc68ff99b453c1d304134"},
        "student": {"architecture": "shufflenet_v1"},
        "dataset": {"name": "cifar100"},
    });
    schemas
}

fn add(schemas: &mut Map<String, Value>, table: &Object, side: Side) {
    for field in rows(table) {
        match &field.kind {
            Kind::Object(nested) => add(schemas, nested, side),
            Kind::Variants { name, variants } => {
                schemas.insert(side.name(name), any_of(field.description, variants, side));
            }
            _ => {}
        }
    }
    schemas.insert(side.name(table.name), object(table, side));
}

/// The rows that the API has.
fn rows(table: &Object) -> impl Iterator<Item = &'static Field> {
    table.fields.iter().filter(|field| field.is_in(Document::Job))
}

impl Side {
    fn name(self, name: &str) -> String {
        format!("{name}{}", if self == Self::Request { "Request" } else { "" })
    }
}

fn object(table: &Object, side: Side) -> Value {
    let rows = || rows(table).filter(move |field| side == Side::Request || !field.is_in_requests_only);
    let properties: Map<String, Value> = rows()
        .enumerate()
        .map(|(order, field)| {
            let mut property = property(field, side);
            property["x-order"] = json!(order);
            (field.name.to_owned(), property)
        })
        .collect();
    let required: Vec<_> = rows().filter(|field| is_required(field, side)).map(|field| field.name).collect();
    let mut schema = json!({"type": "object", "description": table.description, "properties": properties});
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    if side == Side::Request {
        schema["additionalProperties"] = json!(false);
    }
    schema
}

fn is_required(field: &Field, side: Side) -> bool {
    match (side, field.default) {
        (_, Default::Required(_)) => true,
        (Side::Request, _) | (Side::Answer, Default::Absent) => false,
        (Side::Answer, _) => !field.is_newer && (field.is_ignored_elsewhere || field.used_by == UsedBy::All),
    }
}

/// In a request several variants may fit, as the field that tells them apart may be left out.
fn any_of(description: &str, variants: &[Object], side: Side) -> Value {
    let tagged = variants.iter().map(|variant| {
        let mut schema = object(variant, side);
        schema["properties"]["type"] = json!({"type": "string", "enum": [variant.name]});
        if side == Side::Answer {
            let named = schema["required"].as_array().into_iter().flatten().cloned();
            schema["required"] = json!([json!("type")].into_iter().chain(named).collect::<Vec<_>>());
        }
        schema
    });
    let keyword = if side == Side::Request { "anyOf" } else { "oneOf" };
    json!({"description": description, keyword: tagged.collect::<Vec<_>>()})
}

fn property(field: &Field, side: Side) -> Value {
    let mut property = value(&field.kind, side);
    // In a request null counts as absent.
    let is_nullable = match side {
        Side::Request => !matches!(field.default, Default::Required(_)),
        Side::Answer => field.null.is_some(),
    };
    if is_nullable {
        property = nullable(property);
    }
    property["description"] = json!(field.description);
    let methods: Vec<_> = field.used_by.methods().collect();
    let defaults: BTreeMap<_, _> =
        methods.iter().filter_map(|&method| Some((method.name(), field.default_for(method)?.json()))).collect();
    let first = defaults.values().next();
    if let Some(first) = first.filter(|&first| defaults.values().all(|default| default == first)) {
        property["default"] = first.clone();
    } else if first.is_some() {
        property["x-defaults"] = json!(defaults);
    }
    if field.used_by != UsedBy::All {
        property["x-methods"] = methods.iter().map(|method| method.name()).collect();
    }
    let extensions = [
        ("title", field.title.map(Value::from)),
        ("x-null", field.null.map(Value::from)),
        ("x-rare", field.is_rare.then_some(true.into())),
        ("x-ignored", field.is_ignored_elsewhere.then_some(true.into())),
    ];
    for (name, value) in extensions {
        if let Some(value) = value {
            property[name] = value;
        }
    }
    property
}

fn value(kind: &Kind, side: Side) -> Value {
    let reference = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
    let text = |longest: usize| json!({"type": "string", "minLength": 1, "maxLength": longest});
    match kind {
        Kind::Text { longest } => text(*longest),
        Kind::Name { longest } => with(text(*longest), "pattern", json!(dataset::NAME_PATTERN)),
        Kind::Architecture => text(100),
        Kind::CheckpointId => with(text(4096), "pattern", json!("^ckpt_")),
        Kind::Integer(range) => within("integer", range),
        Kind::Number(range) => within("number", range),
        Kind::Boolean => json!({"type": "boolean"}),
        Kind::Choice(name) => reference(name),
        Kind::Integers { longest, each } => list(within("integer", each), 0, *longest),
        Kind::Numbers { longest, each } => list(within("number", each), 0, *longest),
        Kind::Names { longest, each } => list(text(*each), 1, *longest),
        Kind::Channels(each) => list(within("number", each), 3, 3),
        Kind::Labels => json!({
            "type": "object", "maxProperties": MOST_LABELS,
            "additionalProperties": {"type": "string", "maxLength": LONGEST_LABEL},
        }),
        Kind::TeacherCache => {
            json!({"type": "string", "pattern": "^(off|exact|views:[1-9][0-9]{0,2})$", "examples": ["views:4"]})
        }
        Kind::ClassWeights { longest, each } => {
            let list = list(within("number", each), 1, *longest);
            with(with(list, "type", json!(["array", "string"])), "pattern", json!(format!("^{BALANCED}$")))
        }
        Kind::Object(table) => reference(&side.name(table.name)),
        Kind::Variants { name, .. } => reference(&side.name(name)),
        Kind::Path | Kind::Refused(_) => unreachable!("{kind:?} is in training files only"),
    }
}

fn with(mut schema: Value, name: &str, value: Value) -> Value {
    schema[name] = value;
    schema
}

fn within<T: serde::Serialize>(of: &str, range: &RangeInclusive<T>) -> Value {
    json!({"type": of, "minimum": range.start(), "maximum": range.end()})
}

fn list(items: Value, shortest: usize, longest: usize) -> Value {
    let list = json!({"type": "array", "items": items, "maxItems": longest});
    if shortest == 0 { list } else { with(list, "minItems", json!(shortest)) }
}

fn nullable(schema: Value) -> Value {
    if let Some(of) = schema.get("type").cloned() {
        let mut types = if let Value::Array(several) = of { several } else { vec![of] };
        types.push(json!("null"));
        return with(schema, "type", json!(types));
    }
    json!({"anyOf": [schema, {"type": "null"}]})
}

/// The body of `POST /v1/jobs`.
#[derive(Debug)]
pub struct JobSpecRequest;

/// Both types only stand for their names: [`schemas`] has what they mean.
impl PartialSchema for JobSpec {
    fn schema() -> RefOr<Schema> {
        Ref::from_schema_name(Self::name()).into()
    }
}

impl ToSchema for JobSpec {
    fn name() -> Cow<'static, str> {
        "JobSpec".into()
    }
}

impl PartialSchema for JobSpecRequest {
    fn schema() -> RefOr<Schema> {
        Ref::from_schema_name(Self::name()).into()
    }
}

impl ToSchema for JobSpecRequest {
    fn name() -> Cow<'static, str> {
        "JobSpecRequest".into()
    }
}
