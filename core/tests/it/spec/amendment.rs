//! What can be changed about a job.

use std::collections::BTreeMap;

use distillery_core::spec::{Amendment, LabelChanges};
use serde_json::json;

#[test]
fn a_patch_tells_absent_from_null() {
    assert_eq!(Amendment::read(&json!({})).unwrap(), Amendment::default());
    let read = Amendment::read(&json!({"notes": null, "labels": null})).unwrap();
    assert_eq!((read.notes, read.labels), (Some(None), LabelChanges::Clear));
    let read = Amendment::read(&json!({"notes": "", "priority": -3.0, "name": "n"})).unwrap();
    assert_eq!((read.notes, read.priority, read.name.as_deref()), (Some(None), Some(-3), Some("n")));
}

#[test]
fn a_name_or_the_key_of_a_label_that_nobody_can_see_is_refused() {
    for name in ["   ", "\u{a0}", "\u{2003} "] {
        let faults = Amendment::read(&json!({"name": name})).unwrap_err();
        assert!(faults.iter().any(|fault| fault.pointer == "/name" && fault.detail.contains("blank")), "{faults:?}");
        assert!(Amendment::read(&json!({"labels": {name: "1"}})).is_err(), "{name:?}");
    }
    assert!(Amendment::read(&json!({"name": " n "})).is_ok());
}

#[test]
fn labels_are_set_removed_and_kept_each_on_its_own() {
    let labels = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    };
    let before = labels(&[("a", "1"), ("b", "2"), ("c", "3")]);
    let read = Amendment::read(&json!({"labels": {"a": null, "b": "20", "d": "4", "e": null}})).unwrap();
    assert_eq!(read.labels.apply(before.clone()), Ok(labels(&[("b", "20"), ("c", "3"), ("d", "4")])));
    assert_eq!(LabelChanges::Clear.apply(before.clone()), Ok(labels(&[])));
    assert_eq!(LabelChanges::None.apply(before.clone()), Ok(before));
}
