//! Which part of each image a run trains on and evaluates, and that `evaluate` takes the same.

use distillery_core::protocol::{Event, Point};
use safetensors::SafeTensors;
use serde_json::{Value, json};

use crate::support::{Workspace, merged, outcome, started, text, trainer};

#[test]
fn large_images_are_cropped_at_random_for_training_and_at_the_centre_for_evaluation() {
    let workspace = Workspace::new();
    for (split, count) in [("train", 24), ("val", 8)] {
        for class in ["dark", "bright"] {
            let directory = workspace.path("photos").join(split).join(class);
            std::fs::create_dir_all(&directory).unwrap();
            for number in 0..count {
                let light = if class == "dark" { 60 } else { 160 };
                let image = image::RgbImage::from_fn(90 + number, 72, |x, y| {
                    image::Rgb([light + (x % 64) as u8, light + (y % 64) as u8, light + (number * 2) as u8])
                });
                image.save(directory.join(format!("{number}.png"))).unwrap();
            }
        }
    }
    let spec = json!({
        "student": {"architecture": "resnet8"},
        "dataset": {"path": workspace.path("photos"), "image_size": 72},
        "distillation": {"method": "none"},
        "training": {"epochs": 4, "batch_size": 8},
    });
    let events = workspace.finish(&spec, "out", &[]);
    let outcome = outcome(&events);
    assert!(outcome.best_top1 > 90.0, "{}", outcome.best_top1);
    assert_eq!(workspace.json("out/manifest.json")["specification"]["training"]["augmentation"], "resized_crop_flip");
    let (_, header) = SafeTensors::read_metadata(&workspace.bytes("out/student.safetensors")).unwrap();
    assert_eq!(header.metadata().as_ref().unwrap()["eval_crop"], "centre");
    // The metadata of the file is enough to evaluate it again.
    let loss = loss_of_student(&workspace, "out", &events);
    let evaluate = |flags: &[&str]| evaluated_loss(&workspace, "out", "photos", flags);
    assert!(is_same(evaluate(&[]), loss), "{} {loss}", evaluate(&[]));
    let whole = evaluate(&["--crop", "whole"]);
    assert!((whole - loss).abs() > 1e-4 * loss.abs(), "{whole} {loss}");
}

/// The loss of the evaluation that a run kept its student of.
fn loss_of_student(workspace: &Workspace, out: &str, events: &[Event]) -> f64 {
    let lines = text(&workspace.bytes(format!("{out}/metrics.ndjson")));
    let mut points = lines.lines().map(|line| serde_json::from_str::<Point>(line).unwrap());
    let step = started(events).steps_per_epoch * u64::from(outcome(events).best_epoch);
    points.find(|point| point.name == "eval/loss" && point.step == step).unwrap().value
}

/// The loss that `evaluate` finds for the student of a run.
fn evaluated_loss(workspace: &Workspace, out: &str, dataset: &str, flags: &[&str]) -> f64 {
    let mut command = trainer("evaluate");
    command.args(["--architecture", "resnet8", "--checkpoint"]).arg(workspace.path(out).join("student.safetensors"));
    let output = command.arg("--dataset").arg(workspace.path(dataset)).args(flags).output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    found["loss"].as_f64().unwrap()
}

fn is_same(one: f64, other: f64) -> bool {
    (one - other).abs() < 1e-5 * other.abs()
}

#[test]
fn a_run_evaluates_the_part_of_images_that_its_specification_says_whatever_its_augmentation() {
    let workspace = Workspace::new();
    let resized = json!({"dataset": {"eval_resize": 12}});
    let whole = json!({"dataset": {"eval_crop": "whole"}, "training": {"augmentation": "resized_crop_flip"}});
    let cases: [(Value, &[&str], &[&str]); 2] = [
        (resized, &["--crop", "centre", "--resize", "12"], &["--crop", "whole"]),
        (whole, &["--crop", "whole"], &["--crop", "centre"]),
    ];
    for (number, (changes, same, other)) in cases.into_iter().enumerate() {
        let out = format!("out-{number}");
        let events = workspace.finish(&merged(workspace.plain(), changes), &out, &[]);
        let loss = loss_of_student(&workspace, &out, &events);
        for flags in [&[][..], same] {
            let found = evaluated_loss(&workspace, &out, "data", flags);
            assert!(is_same(found, loss), "{number} {flags:?}: {found} {loss}");
        }
        let found = evaluated_loss(&workspace, &out, "data", other);
        assert!(!is_same(found, loss), "{number} {other:?}: {found} {loss}");
    }
}
