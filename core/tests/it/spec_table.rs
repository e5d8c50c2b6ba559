//! Promise: the request schema in `/openapi.json`, from which the dashboard makes its form, says what the parser does:
//! for every field its range, its default, and the methods that have it.

use distillery_core::spec::{Fault, Request, schemas};
use serde_json::{Map, Value, json};

const METHODS: [&str; 13] = [
    "none", "kd", "dkd", "nkd", "ttm", "wttm", "dist", "sdd_kd", "sdd_dkd", "sdd_nkd", "sdd_ttm", "sdd_wttm",
    "sdd_dist",
];

/// A field of the request schema.
#[derive(Debug)]
struct Field {
    pointer: String,
    schema: Value,
    /// The `type` that its object needs, and where.
    variant: Option<(String, Value)>,
}

impl Field {
    /// The smallest request of a method that uses the field, with this value in it.
    fn with(&self, method: &str, value: Value) -> Value {
        let mut document = self.without(method);
        set(&mut document, &self.pointer, value);
        document
    }

    fn without(&self, method: &str) -> Value {
        let mut document = minimal(method);
        if let Some((pointer, value)) = &self.variant {
            set(&mut document, pointer, value.clone());
        }
        document
    }

    fn methods(&self) -> Vec<&str> {
        match self.schema["x-methods"].as_array() {
            Some(methods) => methods.iter().map(|method| method.as_str().unwrap()).collect(),
            None => METHODS.to_vec(),
        }
    }

    /// A method that uses the field.
    fn method(&self) -> &str {
        self.methods().pop().unwrap()
    }

    fn default(&self, method: &str) -> Option<&Value> {
        self.schema.get("default").or_else(|| self.schema["x-defaults"].get(method))
    }

    fn is_type(&self, name: &str) -> bool {
        let of = &self.schema["type"];
        *of == name || of.as_array().is_some_and(|of| of.contains(&json!(name)))
    }

    /// What is said about the field where it has that value.
    fn faults(&self, value: Value) -> Vec<String> {
        let below = format!("{}/", self.pointer);
        let faults = Request::read(&self.with(self.method(), value)).faults.into_iter();
        let here = faults.filter(|fault| fault.pointer == self.pointer || fault.pointer.starts_with(&below));
        here.map(|fault| fault.detail).collect()
    }

    fn assert_refused(&self, value: Value) {
        assert!(!self.faults(value.clone()).is_empty(), "{} takes {value}", self.pointer);
    }

    /// Whatever other fields say about it, the value itself is as expected.
    fn assert_expected(&self, value: Value) {
        let faults = self.faults(value.clone());
        let about_value = ["expected ", "are allowed", "is longer", "must not be empty", "may hold"];
        // Names of architectures are no choices of the table.
        let is_unknown = |fault: &str| fault.contains("; known: ") && !fault.contains("unknown architecture");
        let refused =
            faults.iter().find(|fault| is_unknown(fault) || about_value.iter().any(|text| fault.contains(text)));
        assert!(refused.is_none(), "{} = {value}: {refused:?}", self.pointer);
    }
}

fn minimal(method: &str) -> Value {
    let mut document = json!({"student": {"architecture": "resnet20"}, "dataset": {"name": "ten"}});
    if method != "sdd_kd" {
        document["distillation"] = json!({"method": method});
    }
    if method != "none" {
        document["teacher"] = json!({"architecture": "resnet56", "checkpoint": "ckpt_1"});
    }
    document
}

fn set(document: &mut Value, pointer: &str, value: Value) {
    let (parents, last) = pointer.rsplit_once('/').expect("a pointer starts with a slash");
    let target = parents.split('/').skip(1).fold(document, |target, key| {
        if target.get(key).is_none() {
            target[key] = json!({});
        }
        &mut target[key]
    });
    target[last] = value;
}

/// A property with what it refers to; what stands beside a reference wins.
fn resolved(property: &Value, schemas: &Map<String, Value>) -> Value {
    let real = |schema: &&Value| schema["type"] != "null";
    let single = property["anyOf"].as_array().map(|any| any.iter().filter(real).collect::<Vec<_>>());
    let target = match (property["$ref"].as_str(), single.as_deref()) {
        (Some(reference), _) => {
            let name = reference.rsplit('/').next().unwrap();
            schemas.get(name).cloned().unwrap_or_else(|| enumeration(name))
        }
        (None, Some([only])) => resolved(only, schemas),
        _ => return property.clone(),
    };
    let mut merged = resolved(&target, schemas);
    for (key, value) in
        property.as_object().unwrap().iter().filter(|(key, _)| !["$ref", "anyOf"].contains(&key.as_str()))
    {
        merged[key] = value.clone();
    }
    merged
}

/// The enumerations, which derive their schemas themselves.
fn enumeration(name: &str) -> Value {
    use distillery_core::spec::{
        Augmentation, AutoAugment, EvalCrop, Grouping, Interpolation, LabelLoss, Method, Precision, Recipe, Sampling,
        StudentHead,
    };
    use utoipa::PartialSchema;
    let schema = match name {
        "Augmentation" => Augmentation::schema(),
        "AutoAugment" => AutoAugment::schema(),
        "EvalCrop" => EvalCrop::schema(),
        "Grouping" => Grouping::schema(),
        "Interpolation" => Interpolation::schema(),
        "LabelLoss" => LabelLoss::schema(),
        "Method" => Method::schema(),
        "Precision" => Precision::schema(),
        "Recipe" => Recipe::schema(),
        "Sampling" => Sampling::schema(),
        "StudentHead" => StudentHead::schema(),
        other => panic!("there is no schema {other}"),
    };
    serde_json::to_value(schema).unwrap()
}

/// All fields of an object and of those within it.
fn collect(
    schema: &Value,
    pointer: &str,
    variant: Option<&(String, Value)>,
    all: &Map<String, Value>,
    found: &mut Vec<Field>,
) {
    if let Some(variants) = schema["anyOf"].as_array() {
        for schema in variants {
            let variant = (format!("{pointer}/type"), schema["properties"]["type"]["enum"][0].clone());
            collect(schema, pointer, Some(&variant), all, found);
        }
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let (schema, pointer) = (resolved(property, all), format!("{pointer}/{name}"));
        if schema.get("properties").is_some() || schema.get("anyOf").is_some() {
            collect(&schema, &pointer, None, all, found);
        } else {
            found.push(Field { pointer, schema, variant: variant.cloned() });
        }
    }
}

fn fields() -> Vec<Field> {
    let (schemas, mut found) = (schemas(), Vec::new());
    collect(&schemas["JobSpecRequest"], "", None, &schemas, &mut found);
    assert!(found.len() > 40, "{found:?}");
    found
}

/// A value that a schema of one number takes.
fn sample(schema: &Value) -> Value {
    schema.get("default").or(schema.get("minimum")).cloned().unwrap_or(json!("off"))
}

#[test]
fn ranges_are_those_that_the_parser_enforces() {
    for field in fields() {
        let schema = &field.schema;
        let mut checked = 0;
        if let (Some(minimum), Some(maximum)) = (schema["minimum"].as_f64(), schema["maximum"].as_f64()) {
            let step = if field.is_type("integer") { 1.0 } else { 1e-9 };
            let number = |value: f64| if field.is_type("integer") { json!(value as i64) } else { json!(value) };
            field.assert_expected(number(minimum));
            field.assert_expected(number(maximum));
            field.assert_refused(number(minimum - step));
            field.assert_refused(number(maximum + step * maximum.max(1.0)));
            field.assert_refused(json!("many"));
            checked += 1;
        }
        if let Some(values) = schema["enum"].as_array() {
            values.iter().for_each(|value| field.assert_expected(value.clone()));
            field.assert_refused(json!("no such name"));
            checked += 1;
        }
        if field.is_type("array") {
            check_list(&field);
            checked += 1;
        }
        if field.is_type("string") && schema.get("enum").is_none() {
            check_text(&field);
            checked += 1;
        }
        if field.is_type("boolean") {
            [json!(true), json!(false)].into_iter().for_each(|value| field.assert_expected(value));
            field.assert_refused(json!("yes"));
            checked += 1;
        }
        if field.is_type("object") {
            let labels = |count: u64| json!((0..count).map(|key| (key.to_string(), json!(""))).collect::<Map<_, _>>());
            let most = schema["maxProperties"].as_u64().unwrap();
            field.assert_expected(labels(most));
            field.assert_refused(labels(most + 1));
            checked += 1;
        }
        // Class weights are a list or a name.
        let kinds = if field.is_type("array") && field.is_type("string") { 2 } else { 1 };
        assert_eq!(checked, kinds, "{field:?}");
    }
}

fn check_list(field: &Field) {
    let (items, most) = (&field.schema["items"], field.schema["maxItems"].as_u64().unwrap() as usize);
    let of = |count: usize, value: &Value| json!(vec![value.clone(); count]);
    let length = field.schema["minItems"].as_u64().unwrap_or(1) as usize;
    if items["type"] == "string" {
        return check_names(field, items, most);
    }
    field.assert_refused(of(most + 1, &items["minimum"]));
    for border in ["minimum", "maximum"] {
        field.assert_expected(of(length, &items[border]));
        let beyond = items[border].as_f64().unwrap() + if border == "minimum" { -1.0 } else { 1.0 };
        let beyond = if items["type"] == "integer" { json!(beyond as i64) } else { json!(beyond) };
        field.assert_refused(of(length, &beyond));
    }
    field.assert_refused(json!(1));
}

fn check_names(field: &Field, items: &Value, most: usize) {
    let longest = items["maxLength"].as_u64().unwrap() as usize;
    field.assert_expected(json!(["a".repeat(longest), "b"]));
    field.assert_refused(json!(["a".repeat(longest + 1)]));
    field.assert_refused(json!([""]));
    field.assert_refused(json!([1]));
    field.assert_refused(json!([]));
    field.assert_refused(json!(vec!["a"; most + 1]));
    field.assert_refused(json!("a"));
}

fn check_text(field: &Field) {
    field.assert_refused(json!(""));
    field.assert_refused(json!(1));
    let start = if field.schema["pattern"] == "^ckpt_" { "ckpt_" } else { "a" };
    if let Some(longest) = field.schema["maxLength"].as_u64() {
        let text = |length: u64| json!(format!("{start}{}", "a".repeat(length as usize - start.len())));
        field.assert_expected(text(longest));
        field.assert_refused(text(longest + 1));
    }
    if field.schema.get("pattern").is_some() {
        field.assert_refused(json!("../etc"));
    }
}

#[test]
fn defaults_are_those_that_a_job_gets() {
    for field in fields() {
        for method in METHODS {
            let document = field.without(method);
            if document.pointer(&field.pointer).is_some() {
                continue;
            }
            let resolved = Request::read(&document).complete().unwrap_or_else(|faults| panic!("{faults:?}"));
            let resolved = serde_json::to_value(resolved).unwrap();
            let found = resolved.pointer(&field.pointer);
            if let Some(default) = field.default(method).filter(|_| field.methods().contains(&method)) {
                let same = found.is_some_and(|found| {
                    found == default || found.as_f64().is_some_and(|found| Some(found) == default.as_f64())
                });
                assert!(same, "{} of {method}: {found:?}, not {default}", field.pointer);
            } else if !field.methods().contains(&method) && field.schema.get("x-ignored").is_none() {
                assert_eq!(found, None, "{} of {method}", field.pointer);
            }
        }
    }
}

#[test]
fn methods_have_exactly_their_fields() {
    for field in fields() {
        let value = sample(&field.schema);
        let value = if field.is_type("array") { json!([sample(&field.schema["items"])]) } else { value };
        for method in METHODS {
            let faults = Request::read(&field.with(method, value.clone())).faults;
            let refuses = |fault: &Fault| fault.pointer == field.pointer && fault.detail.contains("is used by");
            let is_refused = faults.iter().any(refuses);
            let is_foreign = !field.methods().contains(&method) && field.schema.get("x-ignored").is_none();
            assert_eq!(is_refused, is_foreign, "{} by {method}: {faults:?}", field.pointer);
        }
    }
}

#[test]
fn a_job_has_what_the_answers_schema_requires_and_nothing_that_it_lacks() {
    fn check(schema: &Value, value: &Value, all: &Map<String, Value>, pointer: &str) {
        let Some(object) = value.as_object().filter(|_| !pointer.ends_with("/labels")) else { return };
        let variants = schema["oneOf"].as_array().into_iter().flatten();
        let variant = variants.into_iter().find(|one| one["properties"]["type"]["enum"][0] == value["type"]);
        let schema = variant.unwrap_or(schema);
        for name in schema["required"].as_array().into_iter().flatten() {
            assert!(object.contains_key(name.as_str().unwrap()), "{pointer} lacks {name}");
        }
        for (name, value) in object {
            let property = schema["properties"].get(name).unwrap_or_else(|| panic!("{pointer}/{name} has no schema"));
            check(&resolved(property, all), value, all, &format!("{pointer}/{name}"));
        }
    }
    let schemas = schemas();
    for method in METHODS {
        let job = Request::read(&minimal(method)).complete().unwrap();
        check(&schemas["JobSpec"], &serde_json::to_value(job).unwrap(), &schemas, "");
    }
}
