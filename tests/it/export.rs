//! Promise: `distillery export` writes a student in another format, or nothing.

use std::path::Path;
use std::process::Output;

use serde_json::Value;

use crate::support::api::checkpoint;
use crate::support::process::distillery;

fn export(directory: &Path, arguments: &[&str]) -> Output {
    distillery().arg("export").args(arguments).current_dir(directory).output().expect("it starts")
}

/// A directory with a student, `student.safetensors`.
fn student() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("student.safetensors"), checkpoint("resnet8", 10)).unwrap();
    directory
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_student_is_written_and_its_report_printed() {
    let directory = student();
    for (format, name) in [("onnx", "a.onnx"), ("bundle", "b.zip"), ("safetensors", "c.safetensors")] {
        let arguments = ["--student", "student.safetensors", "--format", format, "-o", name, "--report", "report.json"];
        let output = export(directory.path(), &arguments);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&report["format"], &report["runtime"]), (&Value::from(format), &Value::Null));
        let written = std::fs::read(directory.path().join("report.json")).unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&written).unwrap(), report);
        let size = std::fs::metadata(directory.path().join(name)).unwrap().len();
        assert_eq!(report["size_bytes"], size);
    }
    assert_eq!(names(directory.path()), ["a.onnx", "b.zip", "c.safetensors", "report.json", "student.safetensors"]);
    let copy = std::fs::read(directory.path().join("c.safetensors")).unwrap();
    let copy = distillery::checkpoint::Checkpoint::from_bytes(copy).unwrap();
    assert_eq!(copy.tensors().len(), distillery::architecture::find("resnet8").unwrap().layout(10).entries.len());
}

#[test]
fn a_network_is_measured_with_the_batches_that_are_asked_for() {
    let directory = student();
    let library = Path::new(env!("CARGO_MANIFEST_DIR")).join(".deps/onnxruntime/libonnxruntime.so");
    let measure = |arguments: &[&str]| {
        let mut command = distillery();
        command.arg("measure").args(arguments).args(["--seconds", "1"]).current_dir(directory.path());
        command.arg("--onnxruntime").arg(&library).output().expect("it starts")
    };
    let untrained = ["--architecture", "resnet8", "--num-classes", "10", "--image-size", "16"];
    for subject in [&["--student", "student.safetensors"][..], &untrained] {
        let output = measure(&[subject, &["--batch", "1,2"]].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let latency: Value = serde_json::from_slice(&output.stdout).unwrap();
        let batches: Vec<_> = latency["batches"].as_array().unwrap().iter().map(|one| one["batch"].clone()).collect();
        assert_eq!(batches, [1, 2], "{latency}");
    }
    let refused = measure(&["--network", "student.safetensors"]);
    assert_eq!(refused.status.code(), Some(4), "{}", String::from_utf8_lossy(&refused.stderr));
    let without = ["measure", "--student", "student.safetensors", "--onnxruntime", "/nowhere.so"];
    let without = distillery().args(without).current_dir(directory.path()).output().unwrap();
    assert_eq!(without.status.code(), Some(5), "{}", String::from_utf8_lossy(&without.stderr));
}

#[test]
fn an_exported_network_needs_its_file() {
    let directory = student();
    let network = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/exported/test_efficientnet.pt2");
    let network = network.to_str().unwrap();
    let arguments = ["--student", "student.safetensors", "--network", network, "--format", "pt2", "-o", "a.pt2"];
    let output = export(directory.path(), &arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{said}");
    assert!(said.contains("the student lacks conv_stem.weight of the network"), "{said}");
    assert_eq!(names(directory.path()), ["student.safetensors"], "nothing is left of a failed export");
}

#[test]
fn nothing_is_written_over_what_is_read_or_is_no_regular_file() {
    let directory = student();
    let before = std::fs::read(directory.path().join("student.safetensors")).unwrap();
    std::os::unix::fs::symlink("student.safetensors", directory.path().join("link")).unwrap();
    std::fs::create_dir(directory.path().join("directory")).unwrap();
    for (flags, says) in [
        (&["-o", "student.safetensors"][..], "student.safetensors is the student itself"),
        (&["-o", "link"], "link is the student itself"),
        (&["-o", "directory"], "directory is a directory, not a regular file"),
        (&["-o", "a.onnx", "--report", "student.safetensors"], "student.safetensors is the student itself"),
    ] {
        let student = &["--student", "student.safetensors", "--format", "onnx"][..];
        let output = export(directory.path(), &[student, flags].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(says), "{flags:?}: {said}");
    }
    assert_eq!(names(directory.path()), ["directory", "link", "student.safetensors"]);
    assert_eq!(std::fs::read(directory.path().join("student.safetensors")).unwrap(), before);
}

#[test]
fn a_file_that_is_not_there_is_named_and_is_not_the_students_fault() {
    let directory = student();
    let output = export(directory.path(), &["--student", "missing", "--format", "onnx", "-o", "a.onnx"]);
    assert_eq!(output.status.code(), Some(1));
    let output = export(directory.path(), &["--student", "student.safetensors", "--format", "onnx", "-o", "no/a.onnx"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write to no"));
}

#[test]
fn only_onnx_can_normalise_in_the_graph() {
    let directory = student();
    for flags in [&["--format", "safetensors"][..], &["--format", "bundle", "--with", "safetensors,pt2"]] {
        let student = &["--student", "student.safetensors", "-o", "a", "--preprocess"][..];
        let output = export(directory.path(), &[student, flags].concat());
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(4), "{flags:?}: {said}");
        assert!(said.contains("--preprocess is for onnx and int8"), "{said}");
    }
    assert_eq!(names(directory.path()), ["student.safetensors"]);
}
