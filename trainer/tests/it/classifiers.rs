//! Promise: a student of the zoo starts from weights for any classes, with a new classifier that follows from the seed.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use distillery_core::architecture;
use distillery_core::checkpoint::Checkpoint;
use distillery_core::protocol::{Event, Level, Started};
use distillery_trainer::models::{self, state_dict};
use serde_json::{Value, json};

use crate::support::{Supervised, Workspace, merged, started, text, trainer};

/// The weights of a resnet8 with other classes, and a student that starts from them with a new classifier.
fn specification(workspace: &Workspace, changes: Value) -> Value {
    let network = models::build(architecture::find("resnet8").unwrap(), 7, 11);
    let file = workspace.path("seven.safetensors");
    state_dict::write(&file, &state_dict::copy_of(&network).unwrap(), &BTreeMap::new()).unwrap();
    let student = json!({"student": {"checkpoint": file, "head": "new"}});
    merged(merged(workspace.plain(), student), changes)
}

/// A rate at which no weight changes.
pub fn standing_still() -> Value {
    json!({"training": {"epochs": 1, "optimizer": {"learning_rate": 0, "weight_decay": 0}}})
}

pub fn log(events: &[Event]) -> Vec<&str> {
    let info = |event| match event {
        &Event::Log { level: Level::Info, ref message } => Some(message.as_str()),
        _ => None,
    };
    events.iter().filter_map(info).collect()
}

pub fn floats(file: &Path, key: &str) -> Vec<f32> {
    let read = Checkpoint::open_as_written(file).unwrap();
    read.floats(read.get(key).unwrap_or_else(|| panic!("no {key}"))).unwrap()
}

/// Asserts that a run that was killed gives the same students as one that was not, and that both can be verified.
pub fn assert_resumes_and_verifies(workspace: &Workspace, spec: &Value) {
    workspace.finish(spec, "whole", &[]);
    let mut run = Supervised::start(workspace.command(spec, "killed"));
    run.until(|event| matches!(event, Event::Checkpoint { epoch: 2, .. }));
    assert!(run.until_it_has_computed(run.computed() + Duration::from_millis(40)), "it ended within the epoch");
    run.kill();
    let events = workspace.finish(spec, "killed", &[]);
    let Started { resumed_epochs, .. } = started(&events);
    assert!((2..6).contains(resumed_epochs), "{resumed_epochs}");
    for file in ["student.safetensors", "student-last.safetensors"] {
        let [one, other] = ["whole", "killed"].map(|output| workspace.bytes(format!("{output}/{file}")));
        assert!(one == other, "{file} differs");
    }
    for flags in [&[][..], &["--full"]] {
        let run = trainer("verify").arg(workspace.path("whole/manifest.json")).args(flags).output().unwrap();
        let verdict: Value = serde_json::from_slice(&run.stdout).unwrap_or_else(|_| panic!("{}", text(&run.stderr)));
        assert_eq!(verdict["matches"], json!(true), "{verdict:#}");
    }
}

#[test]
fn a_new_classifier_is_that_of_a_random_student_and_all_else_is_the_files() {
    let workspace = Workspace::new();
    let events = workspace.finish(&specification(&workspace, standing_still()), "out", &[]);
    let said = log(&events);
    let names = |message: &&&str| message.contains("with 7 classes was replaced by one with 4 classes");
    let message = said.iter().find(names).unwrap_or_else(|| panic!("{said:?}"));
    assert!(message.contains("training.seed 3") && message.contains("seven.safetensors"), "{message}");

    let random = models::build(architecture::find("resnet8").unwrap(), 4, 3);
    let of_head = random.head_weights();
    let [student, file] = ["out/student-last.safetensors", "seven.safetensors"].map(|name| workspace.path(name));
    for (index, weight) in random.weights().iter().enumerate().filter(|(_, weight)| weight.trained) {
        let expected = match of_head.contains(&index) {
            true => {
                assert!(message.contains(&weight.name), "{message}");
                Vec::<f32>::try_from(weight.tensor.detach().flatten(0, -1)).unwrap()
            }
            false => floats(&file, &weight.name),
        };
        assert!(floats(&student, &weight.name) == expected, "{}", weight.name);
    }
    assert_eq!(workspace.json("out/manifest.json")["specification"]["student"]["head"], "new");
}

#[test]
fn a_run_with_a_new_classifier_resumes_and_verifies_to_the_same_bytes() {
    let workspace = Workspace::new();
    let changes = json!({"training": {"epochs": 6, "batch_size": 4}});
    assert_resumes_and_verifies(&workspace, &specification(&workspace, changes));
}

#[test]
fn a_kept_classifier_of_other_classes_is_refused() {
    let workspace = Workspace::new();
    for head in [Value::Null, json!("keep")] {
        let spec = specification(&workspace, json!({"student": {"head": head}}));
        let failure = workspace.fail(&spec, "out", &[]);
        assert!(failure.message.contains("has 7 classes") && failure.message.contains("has 4"), "{}", failure.message);
    }
    let spec = merged(workspace.plain(), json!({"student": {"head": "new"}}));
    let failure = workspace.fail(&spec, "out", &[]);
    assert!(failure.message.contains("/student/head: is used with checkpoint only"), "{}", failure.message);
}
