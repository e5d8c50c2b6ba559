//! `teacher.classes`: the order of the teacher's outputs.

use distillery_core::spec::JobSpec;
use serde_json::{Value, json};

use super::{assert_one_fault, parse, with};

#[test]
fn the_teachers_classes_are_kept_as_given_and_need_a_program_that_knows_them() {
    let spec = parse(&with("/teacher/classes", json!(["dog", "cat"]))).unwrap();
    assert_eq!(spec.teacher.as_ref().unwrap().classes, Some(vec!["dog".to_owned(), "cat".to_owned()]));
    assert_eq!(spec.version(), JobSpec::VERSION);
    let stored = serde_json::to_value(&spec).unwrap();
    assert_eq!(stored["teacher"]["classes"], json!(["dog", "cat"]));
    assert_eq!(JobSpec::from_stored(&stored).unwrap(), spec);
    let plain = parse(&with("/teacher/classes", Value::Null)).unwrap();
    assert!(serde_json::to_value(&plain).unwrap()["teacher"].get("classes").is_none());
    assert_eq!(plain.version(), 1);
}

#[test]
fn a_list_of_anything_but_names_is_refused() {
    for (classes, pointer, detail) in [
        (json!([]), "/teacher/classes", "must not be empty"),
        (json!("cat, dog"), "/teacher/classes", "expected a list, found a string"),
        (json!(["cat", 1]), "/teacher/classes/1", "expected a string, found a number"),
        (json!(["", "dog"]), "/teacher/classes/0", "must not be empty"),
    ] {
        assert_one_fault(&with("/teacher/classes", classes), pointer, detail);
    }
}
