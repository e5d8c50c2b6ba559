//! A run can be repeated from its manifest, and what differs is said.

use std::process::Output;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::support::{Place, merged, text, trainer};

/// A finished run in `out`, of three epochs with everything that has a state.
fn finished() -> Place {
    let place = Place::new().with_teacher();
    let spec = merged(
        place.distilled("sdd_kd"),
        json!({"distillation": {"scales": [1, 2]}, "training": {"epochs": 3, "augmentation": "crop_flip"}}),
    );
    let run = place.train(&spec, "out", &[]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    place
}

fn verify(place: &Place, flags: &[&str]) -> Output {
    let mut command = trainer("verify");
    command.arg(place.path("out/manifest.json")).args(flags).output().unwrap()
}

fn verdict(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)))
}

/// Fails with an error that says all of `words`.
fn refused(output: &Output, words: &[&str]) {
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(output.stdout.is_empty(), "{}", text(&output.stdout));
    for word in words {
        assert!(said.contains(word), "{word:?} is not in {said}");
    }
}

#[test]
fn the_last_epoch_and_the_whole_run_repeat_to_the_last_bit() {
    let place = finished();
    for (flags, repeated) in [(&[][..], "last epoch"), (&["--full"][..], "whole run")] {
        let output = verify(&place, flags);
        let verdict = verdict(&output);
        assert_eq!(output.status.code(), Some(0), "{verdict:#}");
        assert_eq!((&verdict["matches"], &verdict["repeated"]), (&json!(true), &json!(repeated)));
        assert_eq!(verdict["differences"], json!([]));
        let student = hex::encode(Sha256::digest(place.bytes("out/student.safetensors")));
        assert_eq!(verdict["best"], json!({"manifest": student, "repeated": student}));
    }
}

#[test]
fn another_result_is_told_with_both_hashes() {
    let place = finished();
    let mut manifest = place.json("out/manifest.json");
    manifest["last"]["student"]["sha256"] = json!("00");
    manifest["versions"]["libtorch"] = json!("1.0.0");
    std::fs::write(place.path("out/manifest.json"), manifest.to_string()).unwrap();
    let output = verify(&place, &[]);
    let verdict = verdict(&output);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(verdict["matches"], false);
    assert_eq!(verdict["last"]["manifest"], "00");
    let student = hex::encode(Sha256::digest(place.bytes("out/student-last.safetensors")));
    assert_eq!(verdict["last"]["repeated"], student);
    let differences = verdict["differences"].as_array().unwrap();
    assert!(differences.len() == 1 && differences[0].as_str().unwrap().starts_with("libtorch: 1.0.0 in the run"));
}

#[test]
fn what_has_moved_can_be_named_and_must_be_the_same() {
    let place = finished();
    std::fs::rename(place.path("teacher"), place.path("moved")).unwrap();
    refused(&verify(&place, &[]), &["teacher/student.safetensors", "--teacher", "SHA-256"]);
    let teacher = place.path("moved/student.safetensors");
    let teacher = teacher.to_str().unwrap();
    assert_eq!(verdict(&verify(&place, &["--teacher", teacher]))["matches"], true);
    let other = place.path("out/student.safetensors");
    refused(&verify(&place, &["--teacher", other.to_str().unwrap()]), &["is not the checkpoint of the run"]);

    std::fs::rename(place.path("data"), place.path("images")).unwrap();
    refused(&verify(&place, &["--teacher", teacher]), &["--dataset"]);
    let images = place.path("images");
    let named = ["--teacher", teacher, "--dataset", images.to_str().unwrap()];
    assert_eq!(verdict(&verify(&place, &named))["matches"], true);
    let labels = place.path("images/train-labels-idx1-ubyte");
    let mut bytes = std::fs::read(&labels).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&labels, bytes).unwrap();
    refused(&verify(&place, &named), &["are not those of the run"]);
}

#[test]
fn what_is_missing_is_said_with_what_to_do() {
    let place = finished();
    std::fs::remove_file(place.path("out/before-last-epoch.safetensors")).unwrap();
    refused(&verify(&place, &[]), &["before-last-epoch.safetensors", "--full"]);
    std::fs::write(place.path("out/manifest.json"), "{}").unwrap();
    refused(&verify(&place, &[]), &["is not the manifest of a run"]);
    std::fs::remove_file(place.path("out/manifest.json")).unwrap();
    refused(&verify(&place, &[]), &["manifest.json", "No such file"]);
}
