//! What the trainer works by: the specification with local files.

use std::path::Path;

use distillery_core::spec::TrainingPlan;
use serde_json::json;

use super::{faults, minimal, parse};

#[test]
fn only_the_command_line_takes_paths() {
    let mut document = minimal();
    document["dataset"] = json!({"path": "/data/digits"});
    document["teacher"]["checkpoint"] = json!("teacher.pth");
    let plan = TrainingPlan::parse(&document).expect("paths are fine locally");
    assert_eq!(plan.dataset.location.path, Path::new("/data/digits"));
    assert_eq!(plan.teacher.as_ref().unwrap().checkpoint, Path::new("teacher.pth"));
    let faults = faults(&document);
    let pointers: Vec<_> = faults.iter().map(|(pointer, _)| pointer.as_str()).collect();
    assert_eq!(pointers, ["/teacher/checkpoint", "/dataset/name", "/dataset/path"]);
}

#[test]
fn a_plan_is_written_as_the_specification_that_it_was_read_from() {
    let mut document = minimal();
    document["dataset"] = json!({"path": "/data/digits", "name": "digits"});
    document["teacher"]["checkpoint"] = json!("teacher.pth");
    let written = serde_json::to_value(TrainingPlan::parse(&document).unwrap()).unwrap();
    let mut expected = serde_json::to_value(parse(&minimal()).unwrap()).unwrap();
    expected["teacher"]["checkpoint"] = json!("teacher.pth");
    expected["dataset"] = json!({"path": "/data/digits", "name": "digits", "image_size": 32});
    assert_eq!(written, expected);
    assert_eq!(serde_json::to_value(TrainingPlan::parse(&written).unwrap()).unwrap(), written);
    let read: TrainingPlan = serde_json::from_value(written.clone()).expect("a manifest holds it");
    assert_eq!(serde_json::to_value(read).unwrap(), written);
}

#[test]
fn a_training_file_names_no_job_and_needs_a_directory() {
    let document = json!({
        "teacher": {"job": "job_1"}, "student": {"architecture": "resnet20"}, "dataset": {"name": "digits"},
    });
    let faults = TrainingPlan::parse(&document).expect_err("only a server knows jobs and data sets by name");
    let found: Vec<_> = faults.iter().map(|fault| (fault.pointer.as_str(), fault.detail.as_str())).collect();
    let jobs = ("/teacher/job", "only a server knows jobs: give a checkpoint file");
    assert_eq!(found, [jobs, ("/dataset/path", "is required: the directory of the data set")]);
}
