//! Promise: the body of `POST /v1/jobs` is also the input of `train`; the command line names the files.

use serde_json::{Value, json};

use crate::support::{Workspace, merge, text};

/// A body that a server would accept.
fn posted(workspace: &Workspace, teacher: Value) -> Value {
    let mut spec = workspace.distilled("kd");
    merge(&mut spec, json!({"training": {"epochs": 1}, "priority": 3, "labels": {"team": "vision"}}));
    spec["teacher"] = teacher;
    spec["dataset"] = json!({"name": "data", "image_size": 8});
    spec
}

#[test]
fn a_posted_document_trains_with_the_files_that_the_command_line_names() {
    let workspace = Workspace::new().with_teacher();
    let path = |name: &str| workspace.path(name).to_str().unwrap().to_owned();
    let (data, above, file) = (path("data"), path("."), path("teacher/student.safetensors"));
    let uploaded = json!({"architecture": "resnet8", "checkpoint": "ckpt_2c26b46b68ffc68ff99b453c1d304134"});
    workspace.finish(&posted(&workspace, uploaded.clone()), "one", &["--dataset", &data, "--teacher", &file]);
    workspace.finish(&posted(&workspace, uploaded), "two", &["--datasets-dir", &above, "--teacher", &file]);
    // With a job, the architecture is the student's.
    let job = json!({"job": "job_01KB3Z6V0Q2M5K8N1R4T7W9XYZ"});
    workspace.finish(&posted(&workspace, job), "three", &["--dataset", &data, "--teacher", &file]);
    let student = |run: &str| workspace.json(&format!("{run}/manifest.json"))["best"]["student"]["sha256"].clone();
    assert_eq!(student("one"), student("two"));
    assert_eq!(student("one"), student("three"));
}

#[test]
fn what_only_a_server_knows_is_asked_for_by_flag() {
    let workspace = Workspace::new();
    let message = |teacher: Value| {
        let mut spec = posted(&workspace, teacher);
        spec["student"]["checkpoint"] = json!("ckpt_1");
        let run = workspace.train(&spec, "out", &[]);
        assert_eq!(run.status.code(), Some(1));
        text(&run.stderr)
    };
    let says = message(json!({"architecture": "resnet8", "checkpoint": "ckpt_2"}));
    for part in ["/dataset/path", "--dataset", "--datasets-dir", "/teacher/checkpoint", "--teacher", "--student"] {
        assert!(says.contains(part), "{part} in {says}");
    }
    let says = message(json!({"job": "job_1"}));
    assert!(
        says.contains("/teacher/job: only a server knows job_1: give the file of its student with --teacher"),
        "{says}"
    );
}
