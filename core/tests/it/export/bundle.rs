//! Promise: a bundle has everything that a user needs to run the student.

use std::io::{Cursor, Read};

use distillery_core::export::bundle::{self, BundledFile, Contents};
use serde_json::{Value, json};
use zip::ZipArchive;

use super::students::{Files, of_fixture, rewrite, zoo};

fn manifest() -> Value {
    json!({
        "specification": {
            "teacher": {"architecture": "resnet56"},
            "dataset": {"path": "/data/sets/digits"},
            "distillation": {"method": "sdd_kd"},
            "training": {"epochs": 240},
        },
        "seed": 5,
        "teacher": {"sha256": "cd34", "evaluation": {"top1": 91.25}},
        "best": {"evaluation": {"top1": 89.5}},
        "last": {"evaluation": {"top1": 89.25}},
    })
}

/// A bundle of files with these names. Those of `normalising` have the normalisation in their graph.
fn bundled(
    files: &Files,
    names: &[&str],
    manifest: Option<&Value>,
    normalising: &[&str],
) -> ZipArchive<Cursor<Vec<u8>>> {
    let parts = names
        .iter()
        .map(|name| BundledFile { name, path: &files.weights, normalises: normalising.contains(name) })
        .collect();
    let sha256 = manifest.map(|_| "ab12");
    let contents = Contents {
        name: "A \"student\": #1",
        files: parts,
        manifest,
        teacher: Some("my *vit*"),
        network: Some("my `student`.pt2"),
        manifest_sha256: sha256,
    };
    let mut output = Cursor::new(Vec::new());
    bundle::write(&files.student(), &contents, &mut output).unwrap();
    ZipArchive::new(output).unwrap()
}

fn text(zip: &mut ZipArchive<Cursor<Vec<u8>>>, name: &str) -> String {
    let mut text = String::new();
    zip.by_name(name).unwrap().read_to_string(&mut text).unwrap();
    text
}

#[test]
fn it_has_the_files_labels_preprocessing_and_a_card() {
    let files = zoo("resnet8", 3);
    let mut zip = bundled(&files, &["student.safetensors", "student.onnx"], Some(&manifest()), &[]);
    let names: Vec<_> = zip.file_names().map(|name| name.unwrap().into_owned()).collect();
    let expected = ["README.md", "labels.json", "preprocess.json", "run.py", "student.safetensors", "student.onnx"];
    assert_eq!(names, expected);
    let labels: Value = serde_json::from_str(&text(&mut zip, "labels.json")).unwrap();
    assert_eq!(labels, json!(["class 0", "class 1", "class 2"]));
    let preprocess: Value = serde_json::from_str(&text(&mut zip, "preprocess.json")).unwrap();
    assert_eq!((&preprocess["image_size"], &preprocess["resize"]), (&json!(32), &Value::Null));
    assert_eq!(preprocess["mean"], json!([0.5, 0.4, 0.3]));
    let mut stored = Vec::new();
    zip.by_name("student.onnx").unwrap().read_to_end(&mut stored).unwrap();
    assert!(stored == std::fs::read(&files.weights).unwrap());
}

#[test]
fn the_card_says_how_the_student_was_made() {
    let files = zoo("resnet8", 3);
    let mut zip = bundled(&files, &["student.onnx"], Some(&manifest()), &[]);
    let card = text(&mut zip, "README.md");
    let (front, body) = card.strip_prefix("---\n").unwrap().split_once("\n---\n").unwrap();
    for line in ["pipeline_tag: image-classification", "- sdd_kd", "datasets:", "- \"digits\"", "      value: 0.895"] {
        assert!(front.lines().any(|found| found == line), "{line} in {front}");
    }
    assert!(body.contains("# A _student__ _1"), "{body}");
    for cells in [
        "| network | resnet8 |",
        "| teacher | resnet56 |",
        "| SHA-256 of the teacher's file | cd34 |",
        "| top-1 of the best student | 89.50 % |",
        "| top-1 of the last student | 89.25 % |",
        "| top-1 of the teacher | 91.25 % |",
        "| SHA-256 of the manifest | ab12 |",
        "| seed | 5 |",
    ] {
        assert!(body.contains(cells), "{cells} in {body}");
    }
    assert!(body.contains("onnxruntime.InferenceSession(str(here / \"student.onnx\"))"), "{body}");
    assert!(!card.contains("/data/sets"), "paths of the machine are nobody's business: {card}");
}

#[test]
fn an_exported_teacher_has_its_name_and_hashes() {
    let files = zoo("resnet8", 3);
    let mut manifest = manifest();
    manifest["specification"]["teacher"] = json!({"checkpoint": "/tmp/teacher", "network": "/tmp/network"});
    manifest["teacher"]["network_sha256"] = json!("ef56");
    let card = text(&mut bundled(&files, &["student.onnx"], Some(&manifest), &[]), "README.md");
    for cells in [
        "| teacher | my _vit_ (exported network) |",
        "| SHA-256 of the teacher's file | cd34 |",
        "| SHA-256 of the teacher's graph | ef56 |",
    ] {
        assert!(card.contains(cells), "{cells} in {card}");
    }
    assert!(!card.contains("/tmp"), "{card}");

    manifest["teacher"] = Value::Null;
    manifest["specification"]["teacher"] = Value::Null;
    let card = text(&mut bundled(&files, &["student.onnx"], Some(&manifest), &[]), "README.md");
    assert!(!card.contains("teacher |") && !card.contains("my _vit_"), "there was none: {card}");
}

#[test]
fn without_a_manifest_nothing_is_claimed() {
    let files = of_fixture("test_efficientnet");
    let mut zip = bundled(&files, &["student.pt2"], None, &[]);
    let card = text(&mut zip, "README.md");
    assert!(!card.contains("top-1") && !card.contains("model-index"), "{card}");
    assert!(text(&mut zip, "run.py").contains("torch.export.load(str(here / \"student.pt2\"))"));
}

#[test]
fn the_card_of_an_exported_student_names_its_network_and_the_hash_of_its_graph() {
    let files = of_fixture("test_efficientnet");
    let sha256 = distillery_core::exported::sha256(files.network.as_ref().unwrap()).unwrap();
    rewrite(&files.weights, |_, metadata| drop(metadata.insert("network".to_owned(), sha256.clone())));
    let card = text(&mut bundled(&files, &["student.pt2"], Some(&manifest()), &[]), "README.md");
    let name = "my _student_.pt2 (exported network)";
    let says = |part: &str| assert!(card.contains(part), "{part} in {card}");
    says(&format!("classes: {name}, "));
    says(&format!("| network | {name} |"));
    says(&format!("| SHA-256 of the network's graph | {sha256} |"));

    let zoo = zoo("resnet8", 3);
    let card = text(&mut bundled(&zoo, &["student.onnx"], Some(&manifest()), &[]), "README.md");
    assert!(!card.contains("network's graph") && !card.contains("_student_.pt2"), "{card}");
}

#[test]
fn classes_without_names_have_numbers() {
    let files = zoo("resnet8", 3);
    rewrite(&files.weights, |_, metadata| drop(metadata.remove("classes")));
    let labels = text(&mut bundled(&files, &[], None, &[]), "labels.json");
    assert_eq!(serde_json::from_str::<Value>(&labels).unwrap(), json!(["0", "1", "2"]));
}

#[test]
fn each_file_says_whether_it_normalises_and_the_program_does_what_its_file_does_not() {
    let files = zoo("resnet8", 3);
    let names = ["student.pt2", "export-pt2.json", "student.int8.onnx", "student.onnx"];
    let subtracts = |program: &str| program.contains("how[\"mean\"]");
    for (names, normalising, runs, is_outside) in [
        (names.as_slice(), ["student.onnx", "student.int8.onnx"].as_slice(), "student.onnx", false),
        (&names, &[], "student.onnx", true),
        (&names[..3], &["student.int8.onnx"], "student.int8.onnx", false),
        (&names[..2], &[], "student.pt2", true),
    ] {
        let mut zip = bundled(&files, names, None, normalising);
        let program = text(&mut zip, "run.py");
        assert!(program.contains(&format!("(str(here / \"{runs}\"))")), "{runs} in {program}");
        assert_eq!(subtracts(&program), is_outside, "{names:?}: {program}");
        let lines = if runs.ends_with(".pt2") { 11 } else { 10 };
        assert!(program.lines().count() == lines && program.lines().all(|line| line.len() <= 120), "{program}");
        let preprocess: Value = serde_json::from_str(&text(&mut zip, "preprocess.json")).unwrap();
        let expected: serde_json::Map<String, Value> = names
            .iter()
            .filter(|name| !name.ends_with(".json"))
            .map(|&name| (name.to_owned(), normalising.contains(&name).into()))
            .collect();
        assert_eq!(preprocess["normalises"], Value::Object(expected));
        assert_eq!(preprocess["mean"], json!([0.5, 0.4, 0.3]));
        let card = text(&mut zip, "README.md");
        assert!(card.contains(&program));
        assert_eq!(card.contains("Leave the last step out for"), !normalising.is_empty(), "{card}");
        assert!(normalising.iter().all(|name| card.contains(&format!("`{name}`"))), "{card}");
    }
}

#[test]
fn a_program_without_known_normalisation_says_so() {
    let files = zoo("resnet8", 3);
    rewrite(&files.weights, |_, metadata| drop(metadata.remove("mean")));
    let program = text(&mut bundled(&files, &["student.onnx"], None, &[]), "run.py");
    assert!(program.contains("names no mean and std") && !program.contains("how[\"mean\"]"), "{program}");
}
