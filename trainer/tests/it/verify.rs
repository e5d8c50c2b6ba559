//! A run can be reproduced from its manifest, and differences are reported.

use std::process::Output;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{Workspace, merged, program, text, trainer};

/// A finished run in `out`, of three epochs, with everything that has state.
fn finished() -> Workspace {
    let workspace = Workspace::new().with_teacher();
    let spec = merged(
        workspace.distilled("sdd_kd"),
        json!({"distillation": {"scales": [1, 2]}, "training": {"epochs": 3, "augmentation": "crop_flip"}}),
    );
    let run = workspace.train(&spec, "out", &[]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    workspace
}

fn verify(workspace: &Workspace, flags: &[&str]) -> Output {
    let mut command = trainer("verify");
    command.arg(workspace.path("out/manifest.json")).args(flags).output().unwrap()
}

fn verdict(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)))
}

/// Asserts that the command failed with a message that contains all `words`.
fn refused(output: &Output, words: &[&str]) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
}

#[test]
fn the_last_epoch_and_the_whole_run_can_be_reproduced_bit_for_bit() {
    let workspace = finished();
    for (flags, repeated) in [(&[][..], "last epoch"), (&["--full"][..], "whole run")] {
        let output = verify(&workspace, flags);
        let verdict = verdict(&output);
        assert_eq!(output.status.code(), Some(0), "{verdict:#}");
        assert_eq!((&verdict["matches"], &verdict["repeated"]), (&json!(true), &json!(repeated)));
        assert_eq!(verdict["differences"], json!([]));
        let student = hex::encode(Sha256::digest(workspace.bytes("out/student.safetensors")));
        assert_eq!(verdict["best"], json!({"manifest": student, "repeated": student}));
    }
}

#[test]
fn the_last_epoch_is_repeated_with_the_threads_of_the_attempt_that_trained_it() {
    let workspace = finished();
    // Earlier versions added an attempt that found nothing left to train.
    let mut manifest = workspace.json("out/manifest.json");
    let mut idle = manifest["attempts"][0].clone();
    (idle["from_step"], idle["threads"]) = (manifest["steps"].clone(), json!(3));
    manifest["attempts"].as_array_mut().unwrap().push(idle);
    std::fs::write(workspace.path("out/manifest.json"), manifest.to_string()).unwrap();
    let output = program("verify").arg(workspace.path("out/manifest.json")).output().unwrap();
    let verdict = verdict(&output);
    assert_eq!((&verdict["matches"], &verdict["differences"]), (&json!(true), &json!([])), "{verdict:#}");
}

#[test]
fn a_different_result_is_reported_with_both_hashes() {
    let workspace = finished();
    let mut manifest = workspace.json("out/manifest.json");
    manifest["last"]["student"]["sha256"] = json!("00");
    manifest["versions"]["libtorch"] = json!("1.0.0");
    std::fs::write(workspace.path("out/manifest.json"), manifest.to_string()).unwrap();
    let output = verify(&workspace, &[]);
    let verdict = verdict(&output);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(verdict["matches"], false);
    assert_eq!(verdict["last"]["manifest"], "00");
    let student = hex::encode(Sha256::digest(workspace.bytes("out/student-last.safetensors")));
    assert_eq!(verdict["last"]["repeated"], student);
    let differences = verdict["differences"].as_array().unwrap();
    assert!(differences.len() == 1 && differences[0].as_str().unwrap().starts_with("libtorch: 1.0.0 in the run"));
}

#[test]
fn a_loss_that_is_computed_otherwise_than_in_the_run_is_a_difference() {
    let workspace = Workspace::new().with_teacher();
    let run = workspace.train(&workspace.distilled("sdd_wttm"), "out", &[]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    // The repetition cannot do what this says, since this loss has no kernel.
    let mut manifest = workspace.json("out/manifest.json");
    manifest["attempts"][0]["loss_kernel"] = json!(true);
    std::fs::write(workspace.path("out/manifest.json"), manifest.to_string()).unwrap();
    let verdict = verdict(&verify(&workspace, &[]));
    let differences = verdict["differences"].as_array().unwrap();
    let says = "what computes the distillation loss of attempt 1: the kernel in the run, libtorch's operators now";
    assert_eq!(differences, &[json!(says)], "{verdict:#}");
}

#[test]
fn a_student_beside_the_manifest_that_was_altered_does_not_match() {
    let workspace = finished();
    let path = workspace.path("out/student.safetensors");
    let mut bytes = workspace.bytes("out/student.safetensors");
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let output = verify(&workspace, &[]);
    let found = verdict(&output);
    assert_eq!((output.status.code(), &found["matches"]), (Some(1), &json!(false)));
    assert_eq!(found["best"]["manifest"], found["best"]["repeated"]);
    let altered = found["altered"].as_array().unwrap();
    let says = format!("student.safetensors has the SHA-256 {}: it is not", hex::encode(Sha256::digest(&bytes)));
    assert!(altered.len() == 1 && altered[0].as_str().unwrap().starts_with(&says), "{altered:?}");
    // A manifest alone can be verified too.
    std::fs::remove_file(path).unwrap();
    assert_eq!(verdict(&verify(&workspace, &[]))["matches"], true);
}

#[test]
fn moved_inputs_can_be_named_and_must_have_the_recorded_hash() {
    let workspace = finished();
    std::fs::rename(workspace.path("teacher"), workspace.path("moved")).unwrap();
    refused(&verify(&workspace, &[]), &["teacher/student.safetensors", "--teacher", "SHA-256"]);
    let teacher = workspace.path("moved/student.safetensors");
    let teacher = teacher.to_str().unwrap();
    assert_eq!(verdict(&verify(&workspace, &["--teacher", teacher]))["matches"], true);
    let other = workspace.path("out/student.safetensors");
    refused(&verify(&workspace, &["--teacher", other.to_str().unwrap()]), &["is not the checkpoint of the run"]);

    std::fs::rename(workspace.path("data"), workspace.path("images")).unwrap();
    refused(&verify(&workspace, &["--teacher", teacher]), &["--dataset"]);
    let images = workspace.path("images");
    let named = ["--teacher", teacher, "--dataset", images.to_str().unwrap()];
    assert_eq!(verdict(&verify(&workspace, &named))["matches"], true);
    let labels = workspace.path("images/train-labels-idx1-ubyte");
    let mut bytes = std::fs::read(&labels).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&labels, bytes).unwrap();
    refused(&verify(&workspace, &named), &["are not those of the run"]);
}

#[test]
fn missing_files_are_reported_with_what_to_do() {
    let workspace = finished();
    std::fs::remove_file(workspace.path("out/before-last-epoch.safetensors")).unwrap();
    refused(&verify(&workspace, &[]), &["before-last-epoch.safetensors", "--full"]);
    std::fs::write(workspace.path("out/manifest.json"), "{}").unwrap();
    refused(&verify(&workspace, &[]), &["is not the manifest of a run"]);
    std::fs::remove_file(workspace.path("out/manifest.json")).unwrap();
    refused(&verify(&workspace, &[]), &["manifest.json", "No such file"]);
    let directory = trainer("verify").arg(workspace.path("out")).output().unwrap();
    refused(&directory, &["out is a directory without a manifest.json: name the one that a finished run left"]);
    std::fs::write(workspace.path("out/manifest.json"), "{}").unwrap();
    let directory = trainer("verify").arg(workspace.path("out")).output().unwrap();
    refused(&directory, &["out is a directory: name the manifest in it, ", "out/manifest.json"]);
}
