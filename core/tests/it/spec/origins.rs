//! Faults are about what a document says: not about defaults in the place of what cannot be read, and where a recipe or
//! a default contradicts it, they name that.

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

#[test]
fn a_value_that_the_document_does_not_have_is_named_with_where_it_comes_from() {
    for (training, pointer, details) in [
        (
            json!({"recipe": "timm-a3", "epochs": 2}),
            "/schedule/warmup_epochs",
            &["is 5 (set by the recipe timm-a3)", "training.epochs, 2: set training.schedule.warmup_epochs lower"][..],
        ),
        (
            json!({"recipe": "deit", "schedule": {"warmup_epochs": 301}}),
            "/schedule/warmup_epochs",
            &["is 301, and must be less than training.epochs, 300 (set by the recipe deit)"],
        ),
        (
            json!({"schedule": {"type": "cosine", "warmup_epochs": 300}}),
            "/schedule/warmup_epochs",
            &["training.epochs, 240 (the default)"],
        ),
        (
            json!({"gradient_accumulation": 65}),
            "/gradient_accumulation",
            &["a batch of 64 images (the default) on 1 device"],
        ),
        (
            json!({"recipe": "timm-a3", "class_weights": "balanced"}),
            "/class_weights",
            &["set label_loss, which the recipe timm-a3 sets, to \"cross_entropy\""],
        ),
        (
            json!({"recipe": "deit", "label_loss": "binary_cross_entropy", "label_threshold": 0.2}),
            "/label_threshold",
            &["set label_smoothing, which the recipe deit sets, to 0"],
        ),
        (
            json!({"recipe": "timm-a3", "decay_biases_and_norms": true}),
            "/decay_biases_and_norms",
            &["lamb, which never decays them (set by the recipe timm-a3)"],
        ),
        (
            json!({"recipe": "timm-a3", "teacher_cache": "exact"}),
            "/teacher_cache",
            &["set by the recipe timm-a3", "training.mixup_alpha", "0 for none"],
        ),
        (
            json!({"recipe": "timm-a3", "optimizer": {"momentum": 0.9}}),
            "/optimizer/momentum",
            &["unknown field of optimizer lamb (set by the recipe timm-a3)"],
        ),
        (json!({"optimizer": {"beta1": 0.9}}), "/optimizer/beta1", &["unknown field of optimizer sgd (the default)"]),
    ] {
        let document = with("/training", training);
        for detail in details {
            assert_one_fault(&document, &format!("/training{pointer}"), detail);
        }
    }
}

#[test]
fn a_default_that_a_fault_is_about_is_called_one() {
    let mut alone = minimal();
    alone.as_object_mut().unwrap().remove("teacher");
    assert_one_fault(&alone, "/teacher", "is required by method \"sdd_kd\", the default; use method");
    alone["distillation"] = json!({"method": "kd"});
    assert_one_fault(&alone, "/teacher", "is required by method \"kd\"; use method");
    let alpha = with("/distillation/alpha", json!(2));
    assert_one_fault(&alpha, "/distillation/alpha", "not by method \"sdd_kd\", the default");
    assert_one_fault(&with("/distillation/scale_weights", json!([1])), "/distillation/scale_weights", "(the default)");
    assert_one_fault(&with("/dataset/eval_resize", json!(31)), "/dataset/eval_resize", "or set dataset.image_size");
}
