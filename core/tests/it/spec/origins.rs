//! Faults are about what a document says, and not about defaults in the place of what cannot be read.

use serde_json::{Value, json};

use super::{assert_one_fault, minimal, with};

#[test]
fn unknown_names_are_refused_with_the_known_ones() {
    let near = with("/student/architecture", json!("resnet21"));
    assert_one_fault(&near, "/student/architecture", "did you mean resnet20?");
    let far = with("/student/architecture", json!("transformer"));
    assert_one_fault(&far, "/student/architecture", "known: resnet8, ");
    assert_one_fault(&with("/distillation/method", json!("fitnet")), "/distillation/method", "sdd_kd");
    assert_one_fault(&with("/training/augmentation", json!("mixup")), "/training/augmentation", "crop_flip");
    assert_one_fault(&with("/training/schedule/type", json!("step")), "/training/schedule/type", "multistep");
    assert_one_fault(&with("/studnet", json!({})), "/studnet", "known here: name, teacher");
    assert_one_fault(&with("/a~1b", json!(1)), "/a~01b", "unknown field");
}

#[test]
fn what_cannot_be_read_is_not_replaced_by_a_default_for_further_checks() {
    let mut alone = minimal();
    alone.as_object_mut().unwrap().remove("teacher");
    let with_method = |distillation: Value| {
        let mut document = alone.clone();
        document["distillation"] = distillation;
        document
    };
    // No default method requires a teacher, refuses another's fields, or has scales of its own.
    assert_one_fault(&with_method(json!({"method": "sdd"})), "/distillation/method", "sdd_kd");
    assert_one_fault(&with_method(json!({"method": 3, "alpha": 2})), "/distillation/method", "a string");
    let weighted = json!({"method": "sdd", "scale_weights": [1, 1, 1]});
    assert_one_fault(&with_method(weighted), "/distillation/method", "sdd_kd");
    assert_one_fault(&with_method(json!("sdd_kd")), "/distillation", "expected an object");
    let scales = json!({"scales": "1, 2, 4", "scale_weights": [1, 1, 1]});
    assert_one_fault(&with("/distillation", scales), "/distillation/scales", "expected a list");

    for (training, pointer) in [
        (json!({"optimizer": {"type": "adam", "beta1": 0.9}}), "/optimizer/type"),
        (json!({"schedule": {"type": "cosin", "warmup_epochs": 5}}), "/schedule/type"),
        (json!({"label_loss": "bce", "label_threshold": 0.2}), "/label_loss"),
        (json!({"auto_augment": "rand", "rand_augment_ops": 3}), "/auto_augment"),
        (json!({"auto_augment": "rand", "auto_augment_interpolation": "bilinear"}), "/auto_augment"),
        (json!({"recipe": "timm-a4", "label_threshold": 0.2, "rand_augment_ops": 3}), "/recipe"),
        (json!({"augmentation": "nothing", "teacher_cache": "exact"}), "/augmentation"),
        (json!({"epochs": "600", "schedule": {"type": "cosine", "warmup_epochs": 300}}), "/epochs"),
        (json!({"batch_size": "4096", "gradient_accumulation": 128}), "/batch_size"),
    ] {
        assert_one_fault(&with("/training", training), &format!("/training{pointer}"), "");
    }
    let size = json!({"name": "cifar100", "image_size": "16", "eval_resize": 20});
    assert_one_fault(&with("/dataset", size), "/dataset/image_size", "whole number");
}
