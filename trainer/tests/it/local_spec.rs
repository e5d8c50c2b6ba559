//! Promise: the body of `POST /v1/jobs` is also the input of `train`; the command line names the files.

use distillery_core::protocol::Event;
use serde_json::{Value, json};

use crate::support::{Supervised, Workspace, merge, merged, text, trainer};

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

/// As in a clone of a Hugging Face repository, whose files are links into a cache.
#[test]
fn links_out_of_a_data_set_are_followed_but_for_a_worker_that_was_not_told_to() {
    let workspace = Workspace::new().with_teacher();
    std::fs::rename(workspace.path("data"), workspace.path("elsewhere")).unwrap();
    std::fs::create_dir(workspace.path("data")).unwrap();
    for file in std::fs::read_dir(workspace.path("elsewhere")).unwrap() {
        let file = file.unwrap();
        std::os::unix::fs::symlink(file.path(), workspace.path("data").join(file.file_name())).unwrap();
    }
    let spec = merged(workspace.plain(), json!({"training": {"epochs": 1}}));
    workspace.finish(&spec, "by-hand", &[]);
    let mut command = trainer("evaluate");
    command.args(["--architecture", "resnet8", "--checkpoint"]).arg(workspace.path("teacher/student.safetensors"));
    let run = command.arg("--dataset").arg(workspace.path("data")).output().unwrap();
    assert!(run.status.success(), "{}", text(&run.stderr));

    let mut told = workspace.command(&spec, "told");
    told.arg("--follow-links");
    Supervised::start(told).until(|event| matches!(event, Event::Finished(_)));
    let mut strict = Supervised::start(workspace.command(&spec, "strict"));
    let end = strict.until(|event| matches!(event, Event::Finished(_) | Event::Failed(_)));
    let Event::Failed(failure) = end else { panic!("it followed the links") };
    assert!(failure.message.contains("with --follow-links"), "{}", failure.message);
}
