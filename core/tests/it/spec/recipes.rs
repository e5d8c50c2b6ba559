//! The training recipe beyond the published one: what may be combined, and what presets set.

use distillery_core::spec::{
    AutoAugment, ClassWeights, Interpolation, JobSpec, LabelLoss, OptimizerSpec, Policy, Sampling, ScheduleSpec,
    TeacherCache, TrainingSpec, doubts, of_images,
};
use serde_json::{Value, json};

use super::{assert_one_fault, minimal, parse, with};

fn training(training: Value) -> TrainingSpec {
    parse(&with("/training", training)).unwrap().training
}

#[test]
fn an_unknown_choice_is_answered_with_the_known_ones_and_the_nearest() {
    for (place, given, said) in [
        ("/training/recipe", "foo", "unknown recipe \"foo\"; known: "),
        (
            "/training/precision",
            "bfloat",
            "unknown precision \"bfloat\" (did you mean bfloat16?); known: auto, float32, bfloat16",
        ),
        ("/distillation/method", "sdd-kt", "unknown method \"sdd-kt\" (did you mean sdd_kd?); known: "),
        ("/training/optimizer", "sdg", "unknown optimizer \"sdg\" (did you mean sgd?); known: sgd, "),
    ] {
        let (pointer, value) = match place {
            "/training/optimizer" => ("/training/optimizer/type".to_owned(), json!({"type": given})),
            _ => (place.to_owned(), json!(given)),
        };
        assert_one_fault(&with(place, value), &pointer, said);
    }
}

#[test]
fn a_mean_for_pixels_up_to_255_is_refused_once_with_what_to_do() {
    for (field, values) in [("mean", json!([123, 116, 103])), ("std", json!([58, 57, 57]))] {
        let pointer = format!("/dataset/{field}");
        let mut document = with("/dataset/mean", json!([0.5, 0.5, 0.5]));
        document["dataset"]["std"] = json!([0.2, 0.2, 0.2]);
        document["dataset"][field] = values;
        assert_one_fault(&document, &pointer, "pixels are in [0, 1], so divide values for pixels up to 255 by 255");
        document["dataset"][field] = json!([0.5, "half", 0.5]);
        assert_one_fault(&document, &format!("{pointer}/1"), "expected a number from ");
    }
}

#[test]
fn a_job_without_a_recipe_is_stored_as_before_and_one_with_it_needs_a_newer_program() {
    let plain = parse(&minimal()).unwrap();
    assert_eq!(plain.version(), 1);
    let newer = [
        json!({"label_smoothing": 0.1}),
        json!({"mixup_alpha": 0.2}),
        json!({"cutmix_alpha": 1}),
        json!({"auto_augment": "rand_augment"}),
        json!({"random_erasing": 0.1}),
        json!({"ema_decay": 0.999}),
        json!({"gradient_accumulation": 2}),
        json!({"body_learning_rate_scale": 0.1}),
        json!({"early_stopping_patience": 5}),
        json!({"class_weights": "balanced"}),
        json!({"sampling": "balanced"}),
        json!({"label_loss": "binary_cross_entropy"}),
        json!({"decay_biases_and_norms": false}),
        json!({"auto_augment": "rand_augment", "auto_augment_interpolation": "bilinear"}),
    ];
    for fields in newer {
        let spec = parse(&with("/training", fields.clone())).unwrap();
        assert_eq!(spec.version(), 3, "{fields}");
        let stored = serde_json::to_value(&spec).unwrap();
        for (name, value) in fields.as_object().unwrap() {
            assert!(
                stored["training"][name] == *value || stored["training"][name].as_f64() == value.as_f64(),
                "{stored}"
            );
            assert!(serde_json::to_value(&plain).unwrap()["training"].get(name).is_none(), "{name}");
        }
        assert_eq!(JobSpec::from_stored(&stored).unwrap(), spec);
    }
}

#[test]
fn what_does_not_take_place_is_left_out() {
    let nothing = json!({
        "label_smoothing": 0, "mixup_alpha": 0, "cutmix_alpha": 0, "random_erasing": 0, "ema_decay": 0,
        "gradient_accumulation": 1, "body_learning_rate_scale": 1, "sampling": "stored",
        "label_loss": "cross_entropy", "decay_biases_and_norms": true,
    });
    assert_eq!(training(nothing), parse(&minimal()).unwrap().training);
}

#[test]
fn the_teachers_outputs_are_kept_only_of_images_that_the_student_sees() {
    let none = |fields: Value| {
        let mut document = json!({"augmentation": "none"});
        document.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        with("/training", document)
    };
    let pointer = "/training/teacher_cache";
    for varied in [json!({"auto_augment": "trivial_augment_wide"}), json!({"random_erasing": 0.5})] {
        assert_eq!(parse(&none(varied.clone())).unwrap().training.teacher_cache, Some(TeacherCache::Off), "{varied}");
        let mut exact = none(varied.clone());
        exact["training"]["teacher_cache"] = json!("exact");
        assert_one_fault(&exact, pointer, "use \"views:<n>\"");
        let mut views = none(varied);
        views["training"]["teacher_cache"] = json!("views:3");
        assert_eq!(parse(&views).unwrap().training.teacher_cache, Some(TeacherCache::Views(3)));
    }
    for mixed in [json!({"mixup_alpha": 0.2}), json!({"cutmix_alpha": 1.0})] {
        assert_eq!(parse(&none(mixed.clone())).unwrap().training.teacher_cache, Some(TeacherCache::Off), "{mixed}");
        for cache in ["exact", "views:3"] {
            let mut cached = none(mixed.clone());
            cached["training"]["teacher_cache"] = json!(cache);
            assert_one_fault(&cached, pointer, "leave out mixup_alpha and cutmix_alpha");
        }
    }
}

#[test]
fn rand_augment_has_torchvisions_defaults_and_nothing_else_has_its_fields() {
    let interpolation = Interpolation::Nearest;
    let given = training(json!({"auto_augment": "rand_augment"}));
    assert_eq!((given.rand_augment_ops, given.rand_augment_magnitude), (Some(2), Some(9)));
    assert_eq!(given.policy(), Some(Policy::RandAugment { operations: 2, magnitude: 9, interpolation }));
    let other = training(json!({"auto_augment": "rand_augment", "rand_augment_ops": 1, "rand_augment_magnitude": 0}));
    assert_eq!(other.policy(), Some(Policy::RandAugment { operations: 1, magnitude: 0, interpolation }));
    let pointer = "/training/rand_augment_ops";
    assert_one_fault(&with(pointer, json!(2)), pointer, "only");
    let trivial = json!({"auto_augment": "trivial_augment_wide", "rand_augment_magnitude": 9});
    assert_one_fault(&with("/training", trivial), "/training/rand_augment_magnitude", "only");
    let pointer = "/training/auto_augment_interpolation";
    assert_one_fault(&with(pointer, json!("bilinear")), pointer, "only");
    let bilinear = Policy::TrivialAugmentWide { interpolation: Interpolation::Bilinear };
    assert_eq!(training(json!({"recipe": "torchvision-v2"})).policy(), Some(bilinear));
    let nearest = json!({"recipe": "torchvision-v2", "auto_augment_interpolation": "nearest"});
    assert_eq!(training(nearest).auto_augment_interpolation, None);
}

#[test]
fn every_device_has_an_image_of_each_part_of_a_batch() {
    let parts = |parts: u32| with("/training", json!({"batch_size": 8, "devices": 2, "gradient_accumulation": parts}));
    assert_eq!(parse(&parts(4)).unwrap().training.parts(), 4);
    assert_one_fault(
        &parts(5),
        "/training/gradient_accumulation",
        "8 images on 2 devices cannot be computed in 5 parts",
    );
}

#[test]
fn a_recipe_takes_the_place_of_defaults_and_what_is_given_wins() {
    let deit = training(json!({"recipe": "deit"}));
    let OptimizerSpec::Adamw { learning_rate, weight_decay, .. } = deit.optimizer else { panic!("{deit:?}") };
    assert_eq!((learning_rate, weight_decay), (1e-3, 0.05));
    assert_eq!(deit.schedule, ScheduleSpec::Cosine { warmup_epochs: 5 });
    assert_eq!((deit.epochs, deit.mixup_alpha, deit.clip_grad_norm), (300, Some(0.8), None));
    assert_eq!(deit.decay_biases_and_norms, Some(false));
    let lamb = training(json!({"recipe": "deit", "optimizer": {"type": "lamb"}}));
    assert_eq!(lamb.decay_biases_and_norms, None);
    // A rate alone keeps the recipe's optimiser, and another type does not.
    let rate =
        training(json!({"recipe": "deit", "optimizer": {"learning_rate": 0.01}, "epochs": 10, "mixup_alpha": 0}));
    let OptimizerSpec::Adamw { learning_rate, weight_decay, .. } = rate.optimizer else { panic!("{rate:?}") };
    assert_eq!((learning_rate, weight_decay, rate.epochs, rate.mixup_alpha), (0.01, 0.05, 10, None));
    let sgd = training(json!({"recipe": "deit", "optimizer": {"type": "sgd"}}));
    assert_eq!(sgd.optimizer, parse(&minimal()).unwrap().training.optimizer);
    let other = training(json!({"recipe": "deit", "auto_augment": "trivial_augment_wide", "clip_grad_norm": 1}));
    assert_eq!((other.auto_augment, other.rand_augment_ops), (Some(AutoAugment::TrivialAugmentWide), None));
    assert_eq!(other.clip_grad_norm, Some(1.0));
    // The stored job has the values, not the recipe's name, so it is the same as with the values written out.
    let stored = serde_json::to_value(&deit).unwrap();
    assert!(stored.get("recipe").is_none());
    assert_eq!(training(stored), deit);
    assert_one_fault(&with("/training/recipe", json!("timm")), "/training/recipe", "torchvision-v2");
}

#[test]
fn a_recipe_says_what_it_sets_where_it_is_from_and_what_it_lacks() {
    use distillery_core::spec::Request;
    let notes = |training: Value| Request::read(&with("/training", training)).defaults.noted.join("\n");
    let text = notes(json!({"recipe": "torchvision-v2"}));
    for part in ["epochs", "ema_decay", "pytorch.org", "four repetitions", "as published"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!text.contains("where the job does not"), "{text}");
    let text = notes(json!({"recipe": "deit", "epochs": 3}));
    for part in ["where the job does not", "noise instead of the mean colour", "bicubic"] {
        assert!(text.contains(part), "{text}");
    }
    assert_eq!(notes(json!({})), "");
}

#[test]
fn an_average_that_keeps_its_first_weights_and_a_patience_that_is_never_lost_are_doubted() {
    let average = |decay: f64| {
        let training = training(json!({"epochs": 10, "batch_size": 10, "ema_decay": decay}));
        of_images(&training, 100).collect::<Vec<_>>().join("\n")
    };
    assert_eq!(average(0.9), "");
    let text = average(0.999);
    assert!(text.contains("about 1000 steps, but the job has 100 steps: 90 %") && text.contains("to 0.9000"), "{text}");
    let patience = |patience: u32| {
        let spec = parse(&with("/training", json!({"epochs": 10, "early_stopping_patience": patience})));
        let spec = spec.unwrap();
        // The milestones follow the epochs.
        doubts(&spec.distillation, &spec.training).join("\n")
    };
    assert_eq!(patience(9), "");
    assert!(patience(10).contains("it never stops early"), "{}", patience(10));
}

#[test]
fn a_binary_cross_entropy_with_the_weight_of_another_one_beside_a_teacher_is_doubted() {
    let doubted = |distillation: Value| {
        let mut document = with("/training", json!({"label_loss": "binary_cross_entropy"}));
        if distillation["method"] == "none" {
            document.as_object_mut().unwrap().remove("teacher");
        }
        document["distillation"] = distillation;
        let spec = parse(&document).unwrap();
        doubts(&spec.distillation, &spec.training).join("\n")
    };
    let text = doubted(json!({}));
    assert!(text.contains("weights.cross_entropy is 0.1: the labels hardly count beside the teacher"), "{text}");
    for given in [json!({"weights": {"cross_entropy": 100}}), json!({"weights": {"cross_entropy": 0}})] {
        assert_eq!(doubted(given), "");
    }
    assert_eq!(doubted(json!({"method": "none"})), "");
}

#[test]
fn images_are_held_out_and_limited_in_one_way_only() {
    let dataset = |fields: Value| {
        let mut document = minimal();
        document["dataset"].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        document
    };
    let folds = parse(&dataset(json!({"folds": 5, "fold": 5, "split_seed": 3, "limit_per_class": 10}))).unwrap();
    assert_eq!((folds.dataset.folds, folds.dataset.fold, folds.version()), (Some(5), Some(5), 3));
    let stored = serde_json::to_value(&folds).unwrap();
    assert_eq!(JobSpec::from_stored(&stored).unwrap(), folds);
    for (fields, pointer, detail) in [
        (json!({"folds": 5}), "/dataset/fold", "is required together with folds"),
        (json!({"fold": 5}), "/dataset/folds", "is required together with fold"),
        (json!({"folds": 3, "fold": 4}), "/dataset/fold", "one of the 3 folds"),
        (json!({"folds": 3, "fold": 0}), "/dataset/fold", "from 1 to 100"),
        (json!({"folds": 3, "fold": 1, "eval_split": "val"}), "/dataset/folds", "not both"),
        (json!({"folds": 3, "fold": 1, "eval_fraction": 0.1}), "/dataset/folds", "not both"),
        (json!({"limit": 3, "limit_per_class": 1}), "/dataset/limit_per_class", "not both"),
        (json!({"split_seed": 3}), "/dataset/split_seed", "eval_fraction or folds"),
    ] {
        assert_one_fault(&dataset(fields), pointer, detail);
    }
}

#[test]
fn class_weights_are_balanced_or_one_number_per_class() {
    let balanced = training(json!({"class_weights": "balanced", "sampling": "balanced"}));
    assert_eq!((&balanced.class_weights, balanced.sampling), (&Some(ClassWeights::Balanced), Some(Sampling::Balanced)));
    // scikit-learn's compute_class_weight("balanced"): 60 / (3 · count).
    assert_eq!(ClassWeights::Balanced.of_counts(&[40, 10, 10]), Ok(vec![0.5, 2.0, 2.0]));
    assert_eq!(ClassWeights::Balanced.of_counts(&[30, 0, 10]), Ok(vec![20.0 / 30.0, 1.0, 2.0]));
    let given = training(json!({"class_weights": [1, 0.5, 2]})).class_weights.unwrap();
    assert_eq!(given.of_counts(&[1, 1, 1]), Ok(vec![1.0, 0.5, 2.0]));
    assert!(given.of_counts(&[1, 1]).unwrap_err().contains("has 3 entries for 2 classes"));
    let pointer = "/training/class_weights";
    assert_one_fault(&with(pointer, json!("even")), pointer, "expected \"balanced\" or a list");
    let expected = "expected \"balanced\" or a list of one weight per class, in the order of the labels, found";
    assert_one_fault(&with(pointer, json!(3)), pointer, &format!("{expected} a number"));
    assert_one_fault(&with(pointer, json!({"cafe": 1})), pointer, &format!("{expected} an object"));
    assert_one_fault(&with(pointer, json!([1, -1])), "/training/class_weights/1", "found -1");
    assert_one_fault(&with(pointer, json!([0, 0])), pointer, "all 0");
}

#[test]
fn timms_a3_is_lamb_with_a_binary_cross_entropy() {
    let spec = parse(&with("/training", json!({"recipe": "timm-a3"}))).unwrap();
    let expected = OptimizerSpec::Lamb { learning_rate: 8e-3, beta1: 0.9, beta2: 0.999, weight_decay: 0.02 };
    assert_eq!((spec.training.optimizer, spec.training.label_loss), (expected, Some(LabelLoss::BinaryCrossEntropy)));
    // Every class of a mixed image is to be recognised.
    assert_eq!(spec.training.label_threshold, Some(0.2));
    assert_eq!((spec.training.clip_grad_norm, spec.training.optimizer.states(), spec.version()), (Some(1.0), 2, 3));
    let lamb = parse(&with("/training/optimizer", json!({"type": "lamb"}))).unwrap();
    assert_eq!(lamb.version(), 3);
    let decayed = json!({"optimizer": {"type": "lamb"}, "decay_biases_and_norms": true});
    assert_one_fault(&with("/training", decayed), "/training/decay_biases_and_norms", "lamb, which never decays them");
    let weighted = json!({"label_loss": "binary_cross_entropy", "class_weights": "balanced"});
    assert_one_fault(&with("/training", weighted), "/training/class_weights", "leave out label_loss");
}

#[test]
fn a_threshold_is_for_the_binary_cross_entropy_without_smoothing_and_a_recipes_gives_way() {
    let pointer = "/training/label_threshold";
    let of = |fields: Value| with("/training", fields);
    let binary = training(json!({"label_loss": "binary_cross_entropy", "label_threshold": 0}));
    assert_eq!(binary.label_threshold, Some(0.0));
    assert_one_fault(&of(json!({"label_threshold": 0.2})), pointer, "is used with label_loss");
    assert_one_fault(&of(json!({"label_threshold": 0.6, "label_loss": "binary_cross_entropy"})), pointer, "0.6");
    let smoothed = json!({"label_threshold": 0.2, "label_loss": "binary_cross_entropy", "label_smoothing": 0.1});
    assert_one_fault(&of(smoothed), pointer, "label_smoothing would have no effect");
    for given in
        [json!({"label_loss": "cross_entropy"}), json!({"label_smoothing": 0.1}), json!({"label_threshold": null})]
    {
        let mut fields = json!({"recipe": "timm-a3"});
        fields.as_object_mut().unwrap().extend(given.as_object().unwrap().clone());
        assert_eq!(training(fields).label_threshold, None, "{given}");
    }
}
