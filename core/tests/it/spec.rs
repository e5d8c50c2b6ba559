//! Promise: a specification is read with every default filled in, or refused with all its faults at once.

mod amendment;
mod origins;
mod plan;
mod recipes;
mod teacher_classes;

use distillery_core::spec::{
    Augmentation, EvalPart, Fault, JobSpec, Request, ScheduleSpec, TeacherCache, doubts, of_images,
};
use serde_json::{Value, json};

fn minimal() -> Value {
    json!({
        "teacher": {"architecture": "resnet56", "checkpoint": "ckpt_1"},
        "student": {"architecture": "resnet20"},
        "dataset": {"name": "cifar100"}
    })
}

/// The minimal specification with the value at `pointer`'s parent object replaced or added.
fn with(pointer: &str, value: Value) -> Value {
    let mut document = minimal();
    let mut target = &mut document;
    let (parents, last) = pointer.rsplit_once('/').expect("a pointer starts with a slash");
    for key in parents.split('/').skip(1) {
        if target.get(key).is_none() {
            target[key] = json!({});
        }
        target = &mut target[key];
    }
    target[last] = value;
    document
}

fn parse(document: &Value) -> Result<JobSpec, Vec<Fault>> {
    Request::read(document).complete()
}

fn faults(document: &Value) -> Vec<(String, String)> {
    let faults = parse(document).expect_err("the specification is faulty");
    faults.into_iter().map(|fault| (fault.pointer, fault.detail)).collect()
}

/// Asserts that `document` has exactly one fault, at `pointer`, whose text contains `detail`.
fn assert_one_fault(document: &Value, pointer: &str, detail: &str) {
    let faults = faults(document);
    assert_eq!(faults.len(), 1, "{faults:?}");
    assert_eq!(faults[0].0, pointer, "{faults:?}");
    assert!(faults[0].1.contains(detail), "{faults:?} does not hold {detail:?}");
}

#[test]
fn the_published_recipe_is_the_default() {
    let spec = parse(&minimal()).expect("minimal is enough");
    assert_eq!(
        serde_json::to_value(&spec).unwrap(),
        json!({
            "name": "resnet56 to resnet20 by sdd_kd",
            "teacher": {"architecture": "resnet56", "checkpoint": "ckpt_1"},
            "student": {"architecture": "resnet20"},
            "dataset": {"name": "cifar100", "image_size": 32},
            "distillation": {
                "method": "sdd_kd", "scales": [1, 2], "scale_weights": [1.0, 1.0],
                "weights": {"cross_entropy": 0.1, "distillation": 0.9, "consistent": 1.0, "complementary": 2.0},
                "grouping": "label", "temperature": 4.0, "warmup_epochs": 0
            },
            "training": {
                "epochs": 240, "batch_size": 64, "devices": 1,
                "optimizer": {"type": "sgd", "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 0.0005,
                              "nesterov": false},
                "schedule": {"type": "multistep", "milestones": [150, 180, 210], "gamma": 0.1},
                "augmentation": "crop_flip", "teacher_cache": "off", "clip_grad_norm": 40.0, "precision": "auto",
                "seed": 0, "checkpoint_every_epochs": 1, "eval_every_epochs": 1
            },
            "priority": 0, "max_attempts": 3, "labels": {}
        })
    );
}

#[test]
fn devices_share_a_batch_of_at_least_one_image_each() {
    let devices =
        |devices: Value, batch_size: u32| with("/training", json!({"devices": devices, "batch_size": batch_size}));
    assert_eq!(parse(&devices(json!(4), 4)).unwrap().training.devices, 4);
    let pointer = "/training/devices";
    assert_one_fault(&devices(json!(5), 4), pointer, "5 devices cannot share batches of 4 images: lower devices");
    assert_one_fault(&devices(json!(0), 64), pointer, "1");
    assert_one_fault(&devices(json!(65), 128), pointer, "64");
    assert_one_fault(&devices(json!("all"), 64), pointer, "a whole number from 1 to 64");
}

#[test]
fn a_specification_that_was_stored_before_there_were_several_devices_has_one() {
    let mut stored = serde_json::to_value(parse(&minimal()).unwrap()).unwrap();
    stored["training"].as_object_mut().unwrap().remove("devices");
    assert_eq!(serde_json::from_value::<JobSpec>(stored).unwrap().training.devices, 1);
}

#[test]
fn a_resolved_specification_is_itself_a_specification_and_resolves_to_itself() {
    for method in ["none", "kd", "dkd", "nkd", "sdd_kd", "sdd_dkd", "sdd_nkd", "ttm", "sdd_wttm", "sdd_dist"] {
        let mut document = with("/distillation/method", json!(method));
        if method == "none" {
            document.as_object_mut().unwrap().remove("teacher");
        }
        let once = parse(&document).unwrap_or_else(|faults| panic!("{method}: {faults:?}"));
        let stored = serde_json::to_value(&once).unwrap();
        assert_eq!(parse(&stored).expect("what is stored can be posted"), once, "{method}");
        assert_eq!(serde_json::from_value::<JobSpec>(stored).expect("what is stored can be read"), once, "{method}");
    }
}

#[test]
fn defaults_follow_the_method() {
    let dkd = parse(&with("/distillation/method", json!("sdd_dkd"))).unwrap().distillation;
    assert_eq!((dkd.alpha, dkd.beta, dkd.gamma, dkd.warmup_epochs), (Some(1.0), Some(8.0), None, Some(20)));
    assert_eq!((dkd.weights.cross_entropy, dkd.weights.distillation), (1.0, 1.0));
    let nkd = parse(&with("/distillation/method", json!("nkd"))).unwrap().distillation;
    assert_eq!((nkd.gamma, nkd.temperature, nkd.exclude_target), (Some(8.0), Some(4.0), Some(false)));
    assert_eq!(nkd.scales, [1]);
}

#[test]
fn the_evaluation_crop_can_be_chosen_apart_from_the_augmentation() {
    let part = |dataset: Value, augmentation: &str| {
        let mut document = with("/dataset", dataset);
        document["training"] = json!({"augmentation": augmentation});
        let spec = parse(&document).unwrap();
        spec.dataset.eval_part(spec.training.augmentation)
    };
    let of = |more: Value| {
        let mut dataset = json!({"name": "cifar100", "image_size": 224});
        dataset.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        dataset
    };
    assert_eq!(part(of(json!({})), "crop_flip"), EvalPart::Whole);
    assert_eq!(part(of(json!({})), "resized_crop_flip"), EvalPart::Centre { resize: 256 });
    assert_eq!(part(of(json!({"eval_crop": "whole"})), "resized_crop_flip"), EvalPart::Whole);
    assert_eq!(part(of(json!({"eval_crop": "centre"})), "none"), EvalPart::Centre { resize: 256 });
    assert_eq!(part(of(json!({"eval_resize": 232})), "none"), EvalPart::Centre { resize: 232 });
    let both = json!({"eval_crop": "centre", "eval_resize": 224});
    assert_eq!(part(of(both), "resized_crop_flip"), EvalPart::Centre { resize: 224 });

    assert_one_fault(&with("/dataset/eval_resize", json!(31)), "/dataset/eval_resize", "at least image_size, 32");
    let whole = json!({"name": "cifar100", "eval_crop": "whole", "eval_resize": 40});
    assert_one_fault(&with("/dataset", whole), "/dataset/eval_resize", "with eval_crop \"centre\" only");
    assert_one_fault(&with("/dataset/eval_crop", json!("middle")), "/dataset/eval_crop", "whole");
}

#[test]
fn a_specification_of_before_has_the_evaluation_crop_of_its_augmentation() {
    let stored = serde_json::to_value(parse(&minimal()).unwrap()).unwrap();
    for field in ["eval_crop", "eval_resize"] {
        assert!(stored["dataset"].get(field).is_none(), "{stored}");
    }
    assert!(stored["teacher"].get("min_top1").is_none(), "{stored}");
}

#[test]
fn values_that_contradict_each_other_are_doubted() {
    let doubted = |pointer: &str, value: Value| {
        let mut document = with(pointer, value);
        document["training"]["epochs"] = json!(10);
        let spec = parse(&document).unwrap();
        doubts(&spec.distillation, &spec.training).join("\n")
    };
    assert_eq!(doubted("/priority", json!(0)), "");
    let text = doubted("/distillation/method", json!("sdd_dkd"));
    assert!(
        text.contains("warmup_epochs is 20, but the job trains for 10 epochs: the distillation loss gets 50 %"),
        "{text}"
    );
    assert_eq!(doubted("/distillation/warmup_epochs", json!(10)), "");
    let text = doubted("/training/schedule", json!({"milestones": [5, 150]}));
    assert!(text.contains("milestones has 150, but the job trains for 10 epochs"), "{text}");
    let text = doubted("/training/optimizer", json!({"learning_rate": 0}));
    assert!(text.contains("learning_rate is 0: no weight will change"), "{text}");
    let scales = |weights: Value| doubted("/distillation", json!({"scales": [1, 2, 4], "scale_weights": weights}));
    assert_eq!(scales(json!([0, 0, 0.5])), "");
    let text = scales(json!([0, 0, 0]));
    assert!(text.contains("scale_weights are all 0: the student learns nothing from the teacher"), "{text}");
    let training = parse(&with("/training", json!({"batch_size": 100}))).unwrap().training;
    assert_eq!(of_images(&training, 100).collect::<Vec<_>>(), [""; 0]);
    let text = of_images(&training, 99).next().unwrap();
    assert!(
        text.contains("batch_size is 100, but the data set has 99 training images: every epoch is one step"),
        "{text}"
    );
}

#[test]
fn a_whole_number_may_be_written_with_a_point() {
    let mut document = with("/training", json!({"epochs": 8.0, "schedule": {"milestones": [2.0, 4]}, "seed": 1e3}));
    document["distillation"] = json!({"scales": [1.0, 2.0]});
    let spec = parse(&document).unwrap();
    assert_eq!((spec.training.epochs, spec.training.seed), (8, 1000));
    assert_eq!(spec.distillation.scales, [1, 2]);
    assert_eq!(spec.training.schedule, ScheduleSpec::Multistep { milestones: vec![2, 4], gamma: 0.1 });
    let epochs = |value: Value| with("/training/epochs", value);
    assert_one_fault(&epochs(json!(10.5)), "/training/epochs", "a whole number from 1 to 100000, found 10.5");
    assert_one_fault(&epochs(json!(1e300)), "/training/epochs", "a whole number");
    assert_one_fault(&epochs(json!(0.0)), "/training/epochs", "a whole number");
}

#[test]
fn the_size_of_the_images_decides_how_they_are_augmented() {
    for (size, augmentation) in
        [(32, Augmentation::CropFlip), (64, Augmentation::CropFlip), (224, Augmentation::ResizedCropFlip)]
    {
        let spec = parse(&with("/dataset/image_size", json!(size))).unwrap();
        assert_eq!(spec.training.augmentation, augmentation, "{size}");
    }
    let large = parse(&with("/student/architecture", json!("resnet18"))).unwrap();
    assert_eq!((large.dataset.image_size, large.training.augmentation), (224, Augmentation::ResizedCropFlip));
}

#[test]
fn milestones_keep_their_share_of_a_shorter_run() {
    let milestones = |epochs: u32| {
        let spec = parse(&with("/training/epochs", json!(epochs))).unwrap();
        match spec.training.schedule {
            ScheduleSpec::Multistep { milestones, .. } => milestones,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(milestones(240), [150, 180, 210]);
    assert_eq!(milestones(80), [50, 60, 70]);
    assert_eq!(milestones(1), [1]);
}

#[test]
fn clipping_can_be_switched_off_with_null() {
    let spec = parse(&with("/training/clip_grad_norm", Value::Null)).unwrap();
    assert_eq!(spec.training.clip_grad_norm, None);
}

#[test]
fn every_fault_is_reported_at_once_with_its_pointer() {
    let document = json!({
        "teacher": {"architecture": "resnet57", "checkpoint": "/etc/passwd"},
        "student": {},
        "dataset": {"name": "../secrets"},
        "distillation": {"method": "kd", "scales": [], "temperature": "hot", "colour": 1},
        "training": {"epochs": 0, "optimizer": {"type": "lion"}},
        "labels": {"a": 1},
        "epochs": 3
    });
    let faults = faults(&document);
    let pointers: Vec<&str> = faults.iter().map(|(pointer, _)| pointer.as_str()).collect();
    for expected in [
        "/teacher/architecture",
        "/teacher/checkpoint",
        "/student/architecture",
        "/dataset/name",
        "/distillation/scales",
        "/distillation/temperature",
        "/distillation/colour",
        "/training/epochs",
        "/training/optimizer/type",
        "/labels",
        "/epochs",
    ] {
        assert!(pointers.contains(&expected), "{expected} is missing from {faults:?}");
    }
}

#[test]
fn the_teachers_outputs_are_kept_where_that_changes_nothing_or_was_asked_for() {
    let training = |training: Value| with("/training", training);
    let cache = |document: &Value| parse(document).unwrap().training.teacher_cache;
    assert_eq!(cache(&minimal()), Some(TeacherCache::Off));
    assert_eq!(cache(&training(json!({"augmentation": "none"}))), Some(TeacherCache::Exact));
    assert_eq!(cache(&training(json!({"augmentation": "none", "teacher_cache": "off"}))), Some(TeacherCache::Off));
    assert_eq!(cache(&training(json!({"teacher_cache": "views:16"}))), Some(TeacherCache::Views(16)));
    let pointer = "/training/teacher_cache";
    assert_one_fault(&with(pointer, json!("exact")), pointer, "use \"views:<n>\"");
    let views_of_none = training(json!({"augmentation": "none", "teacher_cache": "views:2"}));
    assert_one_fault(&views_of_none, pointer, "use \"exact\"");
    for wrong in ["views", "views:", "views:0", "views:04", "views:+4", "views:1000", "view:4", "EXACT", ""] {
        assert_one_fault(&with(pointer, json!(wrong)), pointer, "with n from 1 to 999");
    }
    assert_one_fault(&with(pointer, json!(4)), pointer, "expected a string");
    let mut plain = training(json!({"teacher_cache": "off"}));
    plain["distillation"] = json!({"method": "none"});
    plain.as_object_mut().unwrap().remove("teacher");
    assert_one_fault(&plain, pointer, "distillation methods only");
    plain["training"] = json!({});
    assert_eq!(cache(&plain), None);
}

#[test]
fn bad_scales_are_refused_where_they_stand() {
    assert_one_fault(&with("/distillation/scales", json!([])), "/distillation/scales", "at least one scale");
    assert_one_fault(&with("/distillation/scales", json!([1, 4, 2])), "/distillation/scales/2", "must ascend");
    assert_one_fault(&with("/distillation/scales", json!([2, 2])), "/distillation/scales/1", "must ascend");
    assert_one_fault(&with("/distillation/scales", json!([0, 2])), "/distillation/scales/0", "from 1 to 16");
    assert_one_fault(&with("/distillation/scales", json!([1, 17])), "/distillation/scales/1", "from 1 to 16");
    assert_one_fault(&with("/distillation/scales", json!("1")), "/distillation/scales", "expected a list");
    assert_one_fault(&with("/distillation/scales", json!([1, 2.5])), "/distillation/scales/1", "whole number");
    let weights = with("/distillation/scale_weights", json!([1, 2, 4]));
    assert_one_fault(&weights, "/distillation/scale_weights", "3 entries for 2 scales");
}

#[test]
fn wrong_types_are_refused_with_what_was_expected() {
    for (pointer, value, detail) in [
        ("/name", json!(3), "expected a string, found a number"),
        ("/training/epochs", json!("many"), "whole number from 1 to 100000, found a string"),
        ("/training/epochs", json!(1.5), "found 1.5"),
        ("/training/optimizer", json!([]), "expected an object, found a list"),
        ("/training/optimizer/learning_rate", json!(-1), "found -1"),
        ("/training/optimizer/nesterov", json!(1), "expected true or false"),
        ("/training/seed", json!(u64::MAX), "whole number"),
        ("/training/clip_grad_norm", json!(0), "found 0"),
        ("/dataset/limit", json!(-1), "whole number"),
        ("/dataset/limit", json!(0), "leaves no image to train on"),
        ("/priority", json!(1e9), "whole number"),
    ] {
        assert_one_fault(&with(pointer, value), pointer, detail);
    }
    for document in [json!(null), json!([]), json!("x"), json!(1)] {
        assert!(faults(&document).iter().any(|(pointer, _)| pointer.is_empty()), "{document}");
    }
}

#[test]
fn whole_numbers_may_be_written_with_a_fraction_of_zero() {
    let mut document = with("/training/epochs", json!(16.0));
    document["training"]["schedule"] = json!({"type": "multistep", "milestones": [8.0, 1e1]});
    document["dataset"]["limit"] = json!(5e2);
    let spec = serde_json::to_value(parse(&document).unwrap()).unwrap();
    assert_eq!(spec["training"]["epochs"].to_string(), "16");
    assert_eq!(spec["training"]["schedule"]["milestones"].to_string(), "[8,10]");
    assert_eq!(spec["dataset"]["limit"].to_string(), "500");
    assert_one_fault(&with("/training/epochs", json!(0.0)), "/training/epochs", "from 1 to 100000, found 0");
    assert_one_fault(&with("/training/seed", json!(1e300)), "/training/seed", "whole number");
}

#[test]
fn a_data_set_may_have_any_name_that_is_no_path() {
    for name in ["cifar100", "my data", "c++", "日本", "_x", "a.b"] {
        assert_eq!(parse(&with("/dataset/name", json!(name))).unwrap().dataset.location.name, name);
    }
    for name in [".", "..", "../x", "/etc", "a/b", "a\\b", ".hidden", " x"] {
        assert_one_fault(&with("/dataset/name", json!(name)), "/dataset/name", "is not a name: a name has at most 100");
    }
}

#[test]
fn a_job_is_evaluated_on_a_split_or_on_a_fraction_of_the_training_split() {
    let document = with("/dataset/eval_fraction", json!(0.2));
    let spec = parse(&document).unwrap();
    assert_eq!(spec.dataset.eval_fraction, Some(0.2));
    assert_eq!(serde_json::to_value(&spec).unwrap()["dataset"]["eval_fraction"], json!(0.2));
    for fraction in [json!(0), json!(1), json!(-0.1), json!("0.2")] {
        assert_one_fault(&with("/dataset/eval_fraction", fraction), "/dataset/eval_fraction", "from 0.001 to 0.9");
    }
    let mut both = document;
    both["dataset"]["eval_split"] = json!("test");
    assert_one_fault(&both, "/dataset/eval_fraction", "not both");
}

#[test]
fn a_field_that_the_method_does_not_use_is_an_error() {
    assert_one_fault(&with("/distillation/alpha", json!(1)), "/distillation/alpha", "dkd and sdd_dkd only");
    let mut plain = with("/distillation", json!({"method": "kd", "scales": [1, 2]}));
    assert_one_fault(&plain, "/distillation/scales", "sdd_kd");
    plain["distillation"] = json!({"method": "none"});
    assert_one_fault(&plain, "/teacher", "takes no teacher");
    plain.as_object_mut().unwrap().remove("teacher");
    assert!(parse(&plain).is_ok());
    plain["distillation"] = json!({"method": "sdd_kd"});
    assert_one_fault(&plain, "/teacher", "is required by method");
}

#[test]
fn a_teacher_is_one_checkpoint_or_one_job() {
    let both = with("/teacher/job", json!("job_1"));
    assert_one_fault(&both, "/teacher/job", "not both");
    let neither = with("/teacher", json!({"architecture": "resnet56"}));
    assert_one_fault(&neither, "/teacher/checkpoint", "is required");
    let job = Request::read(&with("/teacher", json!({"job": "job_1"})));
    assert_eq!(job.faults, []);
    assert!(job.teacher.unwrap().architecture.is_none(), "the job knows its architecture");
    assert_one_fault(&with("/teacher/mean", json!([0.5, 0.5, 0.5])), "/teacher/std", "together with mean");
}
