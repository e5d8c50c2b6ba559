//! Promise: an exported student starts from weights for any classes, with a new classifier that follows from the seed,
//! and is used afterwards like any other.

use std::fs::File;

use distillery_core::export::{Student, write_pt2};
use distillery_core::exported::ExportedNetwork;
use serde_json::{Value, json};

use super::networks::{residual, residual_of, write};
use super::programs::{B, ints, tensor};
use crate::classifiers::{assert_resumes_and_verifies, floats, log, standing_still};
use crate::support::{Workspace, merged, text, trainer};

/// A workspace with the exported networks `teacher.pt2`, with the classes of the data set, and `seven.pt2`, with
/// others.
fn workspace() -> Workspace {
    let workspace = Workspace::new();
    write(residual(false), &workspace.path("teacher.pt2"), 0);
    write(residual_of(true, 7), &workspace.path("seven.pt2"), 50);
    workspace
}

fn specification(workspace: &Workspace, changes: Value) -> Value {
    let document = json!({
        "teacher": {"checkpoint": workspace.path("teacher.pt2")},
        "student": {"checkpoint": workspace.path("seven.pt2"), "head": "new"},
        "dataset": {"path": workspace.path("data")},
        "distillation": {"method": "sdd_kd", "scales": [1, 2]},
        "training": {"epochs": 2, "batch_size": 16, "augmentation": "crop_flip", "precision": "float32", "seed": 3},
    });
    merged(document, changes)
}

#[test]
fn a_new_classifier_follows_from_the_seed_and_all_else_is_the_files() {
    let workspace = workspace();
    let run = |output: &str, seed: u64| {
        let changes = merged(standing_still(), json!({"training": {"seed": seed}}));
        workspace.finish(&specification(&workspace, changes), output, &[])
    };
    let events = run("out", 3);
    let said = log(&events);
    let says = "(classifier.weight, classifier.bias) with 7 classes was replaced by one with 4 classes";
    assert!(said.iter().any(|message| message.contains(says) && message.contains("training.seed 3")), "{said:?}");
    run("again", 3);
    run("other", 4);
    let of = |output: &str, key: &str| floats(&workspace.path(output).join("student-last.safetensors"), key);
    let network = ExportedNetwork::open(&workspace.path("seven.pt2")).unwrap();
    for stored in network.tensors().iter().filter(|stored| stored.trained) {
        let key = stored.tensor.name();
        let found = of("out", key);
        assert!(found == of("again", key), "{key}");
        if key.starts_with("classifier") {
            let bound = 1.0 / 24_f32.sqrt();
            assert_eq!(found.len(), if key.ends_with("bias") { 4 } else { 4 * 24 });
            assert!(found.iter().all(|weight| weight.abs() <= bound && *weight != 0.0), "{key}: {found:?}");
            assert!(found != of("other", key), "{key}");
        } else {
            assert!(found == network.floats(stored).unwrap() && found == of("other", key), "{key}");
        }
    }
}

#[test]
fn a_run_with_a_new_classifier_resumes_and_verifies_to_the_same_bytes() {
    let workspace = workspace();
    let changes = json!({"training": {"epochs": 6, "batch_size": 4}});
    assert_resumes_and_verifies(&workspace, &specification(&workspace, changes));
}

/// Evaluates; returns the answer.
fn evaluated(workspace: &Workspace, flags: &[&str]) -> Value {
    let run = trainer("evaluate").arg("--dataset").arg(workspace.path("data")).args(flags).output().unwrap();
    serde_json::from_slice(&run.stdout).unwrap_or_else(|_| panic!("{}", text(&run.stderr)))
}

#[test]
fn a_student_with_a_new_classifier_is_evaluated_teaches_and_starts_again_with_its_network() {
    let workspace = workspace();
    workspace.finish(&specification(&workspace, json!({})), "first", &[]);
    let [weights, network] = ["first/student.safetensors", "seven.pt2"].map(|name| workspace.path(name));
    let flags = ["--checkpoint", weights.to_str().unwrap(), "--network", network.to_str().unwrap()];
    let found = evaluated(&workspace, &flags);
    let recorded = workspace.json("first/manifest.json")["best"]["evaluation"].clone();
    assert_eq!((&found["top1"], &found["loss"]), (&recorded["top1"], &recorded["loss"]));

    let both = json!({"checkpoint": weights, "network": network});
    let spec = specification(&workspace, json!({"teacher": both, "training": {"epochs": 1}}));
    workspace.finish(&spec, "second", &[]);
    assert_eq!(workspace.json("second/manifest.json")["teacher"]["evaluation"]["top1"], recorded["top1"]);
    // With the classifier that it was trained with, and with another one in its place.
    for (output, head, says) in [("kept", "keep", None), ("new", "new", Some("with 4 classes was replaced"))] {
        let student = json!({"checkpoint": weights, "network": network, "head": head});
        let changes = merged(standing_still(), json!({"student": student}));
        let events = workspace.finish(&specification(&workspace, changes), output, &[]);
        let student = workspace.path(output).join("student-last.safetensors");
        let same = |key: &str| floats(&student, key) == floats(&weights, key);
        assert_eq!((same("hidden.weight"), same("classifier.weight")), (true, says.is_none()), "{output}");
        let said = log(&events);
        assert_eq!(said.iter().any(|message| says.is_some_and(|says| message.contains(says))), says.is_some());
    }
}

#[test]
fn the_pt2_of_a_student_with_a_new_classifier_is_the_same_network() {
    let workspace = workspace();
    workspace.finish(&specification(&workspace, json!({"training": {"epochs": 1}})), "out", &[]);
    let [weights, network, written] =
        ["out/student.safetensors", "seven.pt2", "student.pt2"].map(|name| workspace.path(name));
    let student = Student::open(&weights, Some(&network)).unwrap();
    assert_eq!(student.classes(), 4);
    write_pt2(&student, File::create(&written).unwrap()).unwrap();
    let found = evaluated(&workspace, &["--checkpoint", written.to_str().unwrap()]);
    assert_eq!(found["images"], json!(50));
    let read = ExportedNetwork::open(&written).unwrap();
    assert_eq!((read.description().classes, &read.description().warnings), (4, &Vec::new()));
    let classifier = read.tensors().iter().find(|stored| stored.tensor.name() == "classifier.weight").unwrap();
    assert!(read.floats(classifier).unwrap() == floats(&weights, "classifier.weight"));
}

#[test]
fn a_classifier_that_cannot_be_replaced_is_refused_with_the_operator_that_is_in_the_way() {
    let workspace = workspace();
    let mut program = residual_of(true, 7);
    program.node("view.default", "rows", &[("self", tensor("classifier")), ("size", ints(&[-1, 7]))], &[B, 7]);
    program.result("rows");
    write(program, &workspace.path("seven.pt2"), 50);
    let failure = workspace.fail(&specification(&workspace, json!({})), "out", &[]);
    for part in ["/student/head", "seven.pt2 cannot be replaced", "rows (aten.view.default) has sizes of its own"] {
        assert!(failure.message.contains(part), "{part:?} is not in {}", failure.message);
    }
}
