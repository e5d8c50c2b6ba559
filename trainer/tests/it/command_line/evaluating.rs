//! What `evaluate` refuses, and what it says of what it chose.

use std::process::Output;

use distillery_core::checkpoint::{Checkpoint, NewTensor, write};
use serde_json::Value;

use crate::support::{Workspace, text, trainer};

/// `evaluate` with the workspace's teacher.
fn evaluate(workspace: &Workspace, flags: &[&str]) -> Output {
    evaluate_file(workspace, "teacher/student.safetensors", flags)
}

fn evaluate_file(workspace: &Workspace, name: &str, flags: &[&str]) -> Output {
    let mut command = trainer("evaluate");
    command.args(["--architecture", "resnet8", "--checkpoint"]).arg(workspace.path(name));
    command.arg("--dataset").arg(workspace.path("data")).args(flags).output().unwrap()
}

#[test]
fn a_normalisation_for_values_up_to_255_is_refused() {
    let workspace = Workspace::new().with_teacher();
    for (mean, std, flag) in [
        ("128,128,128", "0.2,0.2,0.2", "--mean"),
        ("0.5,0.5,0.5", "60,60,60", "--std"),
        ("0.5,0.5,0.5", "0.2,0,0.2", "--std"),
        ("nan,0.5,0.5", "0.2,0.2,0.2", "--mean"),
    ] {
        let run = evaluate(&workspace, &["--mean", mean, "--std", std]);
        let said = text(&run.stderr);
        assert!(!run.status.success() && run.stdout.is_empty(), "{mean} {std}");
        assert!(said.contains(flag) && said.contains("pixel values are in [0, 1]"), "{said}");
    }
    assert!(evaluate(&workspace, &["--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2"]).status.success());
}

/// The notes of an evaluation that succeeds.
fn notes(run: &Output) -> Vec<String> {
    let result: Value = serde_json::from_slice(&run.stdout).unwrap_or_else(|_| panic!("{}", text(&run.stderr)));
    result["notes"].as_array().unwrap().iter().map(|note| note.as_str().unwrap().to_owned()).collect()
}

#[test]
fn another_crop_than_the_checkpoint_was_evaluated_with_is_noted() {
    let workspace = Workspace::new().with_teacher();
    assert!(notes(&evaluate(&workspace, &[])).is_empty());
    // What is asked for by name is not explained.
    assert!(notes(&evaluate(&workspace, &["--crop", "centre", "--resize", "12"])).is_empty());
    let [note] = &*notes(&evaluate(&workspace, &["--resize", "12"])) else { panic!("one note") };
    assert!(note.starts_with("--resize 12 takes the centre") && note.contains("says whole"), "{note}");
}

#[test]
fn a_size_that_the_crop_does_not_use_is_refused() {
    let workspace = Workspace::new().with_teacher();
    let cases: [(&[&str], &str); 2] = [
        (&["--resize", "40", "--crop", "whole"], "--resize is used with --crop centre only: leave out one"),
        (&["--resize", "12", "--image-size", "16"], "--resize 12 is less than the image size, 16"),
    ];
    for (flags, says) in cases {
        let run = evaluate(&workspace, flags);
        let said = text(&run.stderr);
        assert!(run.status.code() == Some(1) && said.contains(says), "{said}");
    }
}

#[test]
fn metadata_about_images_that_is_not_followed_is_noted() {
    let workspace = Workspace::new().with_teacher();
    let read = Checkpoint::open(&workspace.path("teacher/student.safetensors")).unwrap();
    let bytes: Vec<_> = read.tensors().iter().map(|tensor| (tensor, read.bytes(tensor).unwrap())).collect();
    let tensors: Vec<_> = bytes
        .iter()
        .map(|(tensor, bytes)| NewTensor { name: tensor.name(), dtype: tensor.dtype(), shape: tensor.shape(), bytes })
        .collect();
    let noted = |changes: &[(&str, &str)], flags: &[&str]| {
        let mut metadata = read.metadata().clone();
        metadata.extend(changes.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        write(&workspace.path("altered.safetensors"), &tensors, &metadata).unwrap();
        notes(&evaluate_file(&workspace, "altered.safetensors", flags))
    };
    for (key, value, expected) in [
        ("eval_crop", "middle", "whole or centre"),
        ("eval_resize", "1000000000", "8 to 4096 pixels"),
        ("image_size", "8x8", "8 to 1024 pixels"),
    ] {
        let note = format!("the {key} \"{value}\" in its metadata is ignored: expected {expected}");
        assert_eq!(noted(&[(key, value)], &[]), [note]);
    }
    let centre = [("eval_crop", "centre"), ("eval_resize", "12")];
    assert!(noted(&centre, &[]).is_empty());
    assert!(noted(&centre, &["--image-size", "8"]).is_empty());
    let [note] = &*noted(&centre, &["--image-size", "16"]) else { panic!("one note") };
    assert!(note.contains("eval_resize 12 in its metadata is not for an image size of 16"), "{note}");
}
