//! Promise: every setting that a job has is known by its JSON pointer, and a misspelt one is recognised.

use distillery_core::spec::{Request, has_setting, setting_meant};
use serde_json::json;

#[test]
fn every_setting_of_a_job_is_known_by_its_pointer() {
    let mut pointers = Vec::new();
    let request = json!({
        "teacher": {"architecture": "resnet56", "checkpoint": "ckpt_1"},
        "student": {"architecture": "resnet20"},
        "dataset": {"name": "cifar100"},
    });
    let spec = Request::read(&request).complete().unwrap();
    let mut left = vec![(String::new(), serde_json::to_value(spec).unwrap())];
    while let Some((pointer, value)) = left.pop() {
        let Some(members) = value.as_object() else { continue };
        left.extend(members.iter().map(|(name, value)| (format!("{pointer}/{name}"), value.clone())));
        pointers.extend(members.keys().map(|name| format!("{pointer}/{name}")));
    }
    assert!(pointers.len() > 20);
    let unknown: Vec<_> = pointers.iter().filter(|pointer| !has_setting(pointer)).collect();
    assert_eq!(unknown, Vec::<&String>::new());
    for known in ["/distillation/scales/0", "/labels/team", "/training/optimizer/type", "/training/optimizer/momentum"]
    {
        assert!(has_setting(known), "{known}");
    }
    for unknown in ["", "/", "/distillation/temprature", "/distillation/temperatures", "/training/recipe", "/epochs"] {
        assert!(!has_setting(unknown), "{unknown}");
    }
    assert_eq!(setting_meant("/distillation/temprature").as_deref(), Some("/distillation/temperature"));
    assert_eq!(setting_meant("/training/learning_rate").as_deref(), Some("/training/optimizer/learning_rate"));
    assert_eq!(setting_meant("/anything/else"), None);
}
