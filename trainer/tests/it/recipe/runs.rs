//! Whole runs with the parts of a recipe.

use std::process::Command;

use distillery_core::protocol::{Event, Point, series};
use distillery_trainer::ranks::Ranks;
use distillery_trainer::run::cuda_graphs::{ExecutionMode, StepExecutor};
use distillery_trainer::run::step::Inputs;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::resume::{assert_kill_within_an_epoch_changes_nothing, long};
use crate::support::training::{BATCH, Training, specification};
use crate::support::{Workspace, merged, outcome, program, started, text};

/// A recipe with every field at once.
fn everything() -> Value {
    json!({
        "label_smoothing": 0.1, "mixup_alpha": 0.4, "cutmix_alpha": 1.0, "auto_augment": "rand_augment",
        "rand_augment_magnitude": 4, "random_erasing": 0.3, "ema_decay": 0.9, "gradient_accumulation": 2,
        "body_learning_rate_scale": 0.5, "label_loss": "binary_cross_entropy", "optimizer": {"type": "lamb"},
    })
}

fn points(workspace: &Workspace, output: &str, name: &str) -> Vec<Point> {
    let lines = text(&workspace.bytes(format!("{output}/metrics.ndjson")));
    let points = lines.lines().map(|line| serde_json::from_str::<Point>(line).unwrap());
    points.filter(|point| point.name == name).collect()
}

fn logged(events: &[Event], part: &str) -> bool {
    events.iter().any(|event| matches!(event, Event::Log { message, .. } if message.contains(part)))
}

#[test]
fn a_run_with_a_whole_recipe_killed_within_an_epoch_resumes_to_the_same_bytes() {
    let workspace = Workspace::new().with_teacher();
    let spec = merged(long(&workspace), json!({"training": everything()}));
    assert_kill_within_an_epoch_changes_nothing(&workspace, &spec);
}

#[test]
fn a_run_with_weighted_classes_and_images_without_labels_killed_within_an_epoch_resumes_to_the_same_bytes() {
    let workspace = Workspace::new().with_teacher();
    let training = json!({
        "class_weights": "balanced", "sampling": "balanced", "auto_augment": "trivial_augment_wide",
        "auto_augment_interpolation": "bilinear", "decay_biases_and_norms": false, "early_stopping_patience": 50,
    });
    let changes = json!({
        "dataset": {"limit": 100, "unlabelled_split": "test"}, "distillation": {"method": "sdd_dkd"}, "training": training,
    });
    assert_kill_within_an_epoch_changes_nothing(&workspace, &merged(long(&workspace), changes));
}

#[test]
fn each_part_of_a_recipe_changes_the_student() {
    let workspace = Workspace::new().with_teacher();
    let student = |output: &str, training: Value| {
        let spec = merged(workspace.distilled("sdd_dkd"), json!({"training": training}));
        workspace.finish(&spec, output, &[]);
        workspace.bytes(format!("{output}/student-last.safetensors"))
    };
    let plain = student("plain", json!({}));
    for (name, value) in everything().as_object().unwrap() {
        if name == "rand_augment_magnitude" {
            continue;
        }
        let mut training = json!({});
        training[name] = value.clone();
        assert!(student(name, training) != plain, "{name}");
    }
    let magnitude = |magnitude: u32| {
        let training = json!({"auto_augment": "rand_augment", "rand_augment_magnitude": magnitude});
        student(&format!("magnitude-{magnitude}"), training)
    };
    let weak = magnitude(3);
    assert!(weak != magnitude(20));
    let bilinear =
        json!({"auto_augment": "rand_augment", "rand_augment_magnitude": 3, "auto_augment_interpolation": "bilinear"});
    assert!(weak != student("bilinear", bilinear));
    let threshold = |output: &str, threshold: Value| {
        let mixed = json!({"label_loss": "binary_cross_entropy", "mixup_alpha": 1, "label_threshold": threshold});
        student(output, mixed)
    };
    assert!(threshold("shares", Value::Null) != threshold("whole", json!(0.2)));
}

#[test]
fn cached_views_of_varied_images_give_the_student_of_a_run_without_cache() {
    for augmentation in ["none", "crop_flip", "resized_crop_flip"] {
        let workspace = Workspace::new().with_teacher();
        let training = json!({
            "epochs": 4, "precision": "float32", "augmentation": augmentation, "auto_augment": "trivial_augment_wide",
            "random_erasing": 0.5, "teacher_cache": "views:2",
        });
        let spec = merged(workspace.distilled("sdd_kd"), json!({"training": training}));
        workspace.finish(&spec, "memory", &[]);
        workspace.finish(&spec, "none", &["--cache-mib", "0"]);
        let directory = workspace.path("cache");
        let flags = ["--cache-dir", directory.to_str().unwrap()];
        workspace.finish(&spec, "files", &flags);
        let student = |output: &str| workspace.bytes(format!("{output}/student-last.safetensors"));
        assert!(student("memory") == student("none") && student("memory") == student("files"), "{augmentation}");
        // Other operations give other images, and so other logits of the teacher.
        let other = merged(spec, json!({"training": {"auto_augment": "rand_augment"}}));
        workspace.finish(&other, "other", &flags);
        let files = std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name());
        let teachers = files.filter(|name| text(name.as_encoded_bytes()).starts_with("teacher-")).count();
        assert_eq!(teachers, 4, "{augmentation}");
    }
}

#[test]
fn the_average_is_evaluated_beside_the_weights_as_trained_and_published() {
    let workspace = Workspace::new();
    let spec = merged(workspace.plain(), json!({"training": {"epochs": 3, "ema_decay": 0.8}}));
    let events = workspace.finish(&spec, "out", &[]);
    for name in [series::EVAL_TOP1, series::EVAL_RAW_TOP1, series::EVAL_RAW_LOSS] {
        assert_eq!(points(&workspace, "out", name).len(), 3, "{name}");
    }
    let best = points(&workspace, "out", series::EVAL_TOP1).iter().map(|point| point.value).fold(0.0, f64::max);
    assert_eq!(outcome(&events).best_top1, best);
    assert!(logged(&events, "are averages of the weights (ema_decay 0.8)"), "{events:?}");
    let (student, state) =
        (workspace.bytes("out/student-last.safetensors"), workspace.bytes("out/state/checkpoint.safetensors"));
    let student = SafeTensors::deserialize(&student).unwrap();
    let state = SafeTensors::deserialize(&state).unwrap();
    for name in state.names().into_iter().filter_map(|name| name.strip_prefix("optimizer.average.")) {
        let averaged = state.tensor(&format!("optimizer.average.{name}")).unwrap();
        assert!(student.tensor(name).unwrap().data() == averaged.data(), "{name}");
    }
    let trained = state.tensor("student.fc.weight").unwrap();
    assert!(student.tensor("fc.weight").unwrap().data() != trained.data());
    // A run without an average has no such series.
    workspace.finish(&workspace.plain(), "plain", &[]);
    assert!(points(&workspace, "plain", series::EVAL_RAW_TOP1).is_empty());
}

#[test]
fn a_run_that_gets_no_better_ends_early_says_so_and_can_be_verified() {
    let workspace = Workspace::new();
    // Only the batch statistics change, and less and less.
    let training = json!({"epochs": 30, "early_stopping_patience": 2, "optimizer": {"learning_rate": 0}});
    let spec = merged(workspace.plain(), json!({"training": training}));
    let events = workspace.finish(&spec, "out", &[]);
    let top1: Vec<f64> = points(&workspace, "out", series::EVAL_TOP1).iter().map(|point| point.value).collect();
    let epochs = top1.len();
    let best_epoch = outcome(&events).best_epoch as usize;
    assert!(epochs < 30 && epochs == best_epoch + 2, "{top1:?}");
    assert!(top1[best_epoch..].iter().all(|top1_of| *top1_of <= top1[best_epoch - 1]), "{top1:?}");
    assert!(logged(&events, &format!("training ends early, after epoch {epochs} of 30")), "{events:?}");
    let manifest = workspace.json("out/manifest.json");
    assert_eq!((&manifest["last"]["epoch"], &manifest["steps"]), (&json!(epochs), &json!(10 * epochs)));
    let run = |mut command: Command| {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
        text(&output.stdout)
    };
    let mut verify = program("verify");
    verify.arg(workspace.path("out/manifest.json")).args(["--device", "cpu", "--threads", "1"]);
    assert!(run(verify).contains("last epoch"));
    // Running the same command again finds the run finished.
    let again = workspace.finish(&spec, "out", &[]);
    assert!(logged(&again, "the run has finished already"), "{again:?}");
}

#[test]
fn a_batch_in_parts_has_the_gradients_of_the_whole_batch() {
    // Both halves are the same images with other labels, so that their batch statistics are those of the whole.
    let step = |parts: u32, mode: ExecutionMode| {
        let spec = specification(json!({}));
        // In float64, where no rounding takes a pixel to the other side of a ReLU.
        let mut run = Training::new(&spec, Device::Cpu, Kind::Double, StepExecutor::in_mode(mode));
        for _ in 0..6 {
            let inputs = run.inputs(None);
            let half = BATCH / 2;
            let (images, labels) = (inputs.images.narrow(0, 0, half), inputs.labels.narrow(0, 0, half));
            let images = Tensor::cat(&[&images, &images], 0);
            let labels = Tensor::cat(&[&labels, &labels.flip([0])], 0);
            let inputs = Inputs { parts, ..Inputs::new(images, labels, inputs.scalars) };
            let Training { student, objective, optimizer, meter, executor, .. } = &mut run;
            let _ = executor.run(student, objective, optimizer, meter, &mut Ranks::single(), inputs);
        }
        let trained = run.student.trained().map(|tensor| tensor.detach().flatten(0, -1)).collect::<Vec<_>>();
        let means = run.meter.read(&Ranks::single()).unwrap().unwrap();
        (Tensor::cat(&trained, 0), means)
    };
    let (whole, metrics) = step(1, ExecutionMode::Eager);
    for mode in [ExecutionMode::Eager, ExecutionMode::Rehearsal] {
        let (parts, of_parts) = step(2, mode);
        let off = (&whole - &parts).abs().max().double_value(&[]);
        // The learning rate and the loss's weights are float32 numbers, and so is a part's share of the batch, ½.
        assert!(off < 1e-5, "{off}");
        assert_eq!(of_parts.images, metrics.images);
        for ((metric, one), (_, other)) in metrics.metrics.iter().zip(&of_parts.metrics) {
            assert!((one - other).abs() < 1e-5 * one.abs().max(1.0), "{metric}: {one}, {other}");
        }
    }
}

#[test]
fn class_weights_and_balanced_sampling_change_the_student_and_every_evaluation_tells_of_the_classes() {
    let workspace = Workspace::new();
    let student = |output: &str, training: Value| {
        let events = workspace.finish(&merged(workspace.plain(), json!({"training": training})), output, &[]);
        (workspace.bytes(format!("{output}/student-last.safetensors")), events)
    };
    let (plain, _) = student("plain", json!({}));
    let (weighted, _) = student("weighted", json!({"class_weights": [1, 2, 0.5, 1]}));
    let (sampled, events) = student("sampled", json!({"sampling": "balanced"}));
    assert!(plain != weighted && plain != sampled && weighted != sampled);
    assert!(logged(&events, "sampling balanced: an epoch shows 38 images of each of 4 classes"), "{events:?}");
    for (name, epochs) in [(series::EVAL_BALANCED_ACCURACY, 2), (series::EVAL_F1, 2)] {
        assert_eq!(points(&workspace, "plain", name).len(), epochs, "{name}");
    }
    let classes = workspace.json("plain/classes.json");
    let images: Vec<&Value> = classes.as_array().unwrap().iter().map(|class| &class["images"]).collect();
    assert_eq!(images, [&json!(13), &json!(13), &json!(12), &json!(12)]);
    let recalls = classes.as_array().unwrap().iter().map(|class| class["recall"].as_f64().unwrap());
    let mean = recalls.sum::<f64>() / 4.0;
    let best = workspace.json("plain/manifest.json")["best"]["epoch"].as_u64().unwrap() as usize;
    let series = points(&workspace, "plain", series::EVAL_BALANCED_ACCURACY);
    assert!((series[best - 1].value - mean).abs() < 1e-9, "{mean}, {series:?}");
    let spec = merged(workspace.plain(), json!({"training": {"class_weights": [1, 2]}}));
    let failure = workspace.fail(&spec, "faulty", &[]);
    assert!(failure.message.contains("training.class_weights has 2 entries for 4 classes"), "{failure:?}");
}

#[test]
fn folds_are_trained_and_evaluated_on_apart() {
    let workspace = Workspace::new();
    let fold = |fold: u32| {
        let dataset = json!({"dataset": {"folds": 3, "fold": fold}});
        let events = workspace.finish(&merged(workspace.plain(), dataset), &format!("fold-{fold}"), &[]);
        let started = started(&events);
        (started.train_images, started.eval_images)
    };
    assert_eq!([fold(1), fold(2), fold(3)], [(100, 50); 3]);
    let student = |fold: u32| workspace.bytes(format!("fold-{fold}/student-last.safetensors"));
    assert!(student(1) != student(2));
}

#[test]
fn images_without_labels_are_learned_from_the_teacher_alone() {
    let workspace = Workspace::new().with_teacher();
    let dataset = json!({"eval_fraction": 0.2, "unlabelled_split": "test"});
    for method in ["sdd_kd", "sdd_dkd", "nkd"] {
        let spec = merged(workspace.distilled(method), json!({"dataset": dataset}));
        let events = workspace.finish(&spec, method, &[]);
        let started = started(&events);
        assert_eq!((started.train_images, started.eval_images), (170, 30), "{method}");
        let labelled = points(&workspace, method, series::TRAIN_LABELLED_FRACTION);
        // Of all steps of an epoch together.
        assert!(labelled.iter().all(|point| (point.value - 120.0 / 170.0).abs() < 0.1), "{labelled:?}");
        let top1 = points(&workspace, method, series::TRAIN_TOP1);
        assert!(top1.iter().all(|point| point.value <= 100.0), "{top1:?}");
        // Their labels have no effect.
        let labels = workspace.path("data/t10k-labels-idx1-ubyte");
        crate::support::alter(&labels);
        workspace.finish(&spec, &format!("{method}-other"), &[]);
        crate::support::alter(&labels);
        let student = |output: &str| workspace.bytes(format!("{output}/student-last.safetensors"));
        assert!(student(method) == student(&format!("{method}-other")), "{method}");
        let without = merged(spec, json!({"dataset": {"unlabelled_split": null}}));
        workspace.finish(&without, &format!("{method}-without"), &[]);
        assert!(student(method) != student(&format!("{method}-without")), "{method}");
    }
    let plain = merged(workspace.plain(), json!({"dataset": dataset}));
    let run = workspace.train(&plain, "plain", &[]);
    assert!(!run.status.success() && text(&run.stderr).contains("unlabelled_split"), "{}", text(&run.stderr));
}

#[test]
fn a_student_learns_from_images_without_labels_alone() {
    let workspace = Workspace::new().with_teacher();
    for training in [json!({}), json!({"label_smoothing": 0.1, "mixup_alpha": 0.4, "cutmix_alpha": 1.0})] {
        let dataset = json!({"limit": 0, "unlabelled_split": "train"});
        let spec = merged(workspace.distilled("sdd_dkd"), json!({"dataset": dataset, "training": training}));
        let events = workspace.finish(&spec, "first", &[]);
        assert_eq!((started(&events).train_images, started(&events).eval_images), (150, 50));
        for (name, is_there) in
            [(series::TRAIN_TOP1, false), (series::TRAIN_LOSS_CE, false), (series::TRAIN_LOSS_DISTILL, true)]
        {
            assert_eq!(points(&workspace, "first", name).is_empty(), !is_there, "{name}");
        }
        let before = workspace.bytes("first/student-last.safetensors");
        // No label of the training split has any effect.
        let labels = workspace.path("data/train-labels-idx1-ubyte");
        let mut bytes = std::fs::read(&labels).unwrap();
        bytes[8..].reverse();
        std::fs::write(&labels, bytes).unwrap();
        workspace.finish(&spec, "second", &[]);
        assert!(before == workspace.bytes("second/student-last.safetensors"), "{training}");
        for output in ["first", "second"] {
            std::fs::remove_dir_all(workspace.path(output)).unwrap();
        }
    }
}

#[test]
fn a_new_classifier_takes_the_body_of_a_checkpoint_of_other_classes() {
    let workspace = Workspace::new().with_teacher();
    // Of a teacher of four classes: two of the data set are taken away.
    let keep = |split: &str| {
        let labels = workspace.path(format!("data/{split}-labels-idx1-ubyte"));
        let mut bytes = std::fs::read(&labels).unwrap();
        bytes[8..].iter_mut().for_each(|label| *label %= 2);
        std::fs::write(labels, bytes).unwrap();
    };
    keep("train");
    keep("t10k");
    let student = json!({"architecture": "resnet8", "checkpoint": workspace.path("teacher/student.safetensors")});
    let training = json!({"epochs": 1, "body_learning_rate_scale": 0, "optimizer": {"weight_decay": 0}});
    let spec = merged(workspace.plain(), json!({"student": student, "training": training}));
    let failure = workspace.fail(&spec, "faulty", &[]);
    assert!(failure.message.contains("classes"), "{failure:?}");
    let spec = merged(spec, json!({"student": {"head": "new"}}));
    let events = workspace.finish(&spec, "out", &[]);
    assert!(logged(&events, "with 4 classes was replaced by one with 2 classes"));
    let (student, first) =
        (workspace.bytes("out/student-last.safetensors"), workspace.bytes("teacher/student.safetensors"));
    let [student, first] = [&student, &first].map(|bytes| SafeTensors::deserialize(bytes).unwrap());
    // At a rate of 0 the body stays, but for its running statistics.
    let trained = |name: &&str| name.ends_with(".weight") && !name.starts_with("fc");
    let names: Vec<&str> = student.names().into_iter().filter(trained).collect();
    assert!(names.len() > 5, "{names:?}");
    for name in names {
        assert!(student.tensor(name).unwrap().data() == first.tensor(name).unwrap().data(), "{name}");
    }
    assert_eq!(student.tensor("fc.weight").unwrap().shape()[0], 2);
}
