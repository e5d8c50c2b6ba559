//! Promise: a run that will waste hours says so early.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use distillery_core::protocol::{Evaluation, Event};
use distillery_trainer::run::doubts::{ChanceWatch, RunPosition, disk};
use serde_json::json;

use crate::support::{Workspace, merged, outcome, text, warnings};

fn place(step: u64) -> RunPosition {
    RunPosition { step, steps: 1000, classes: 10 }
}

fn evaluation(top1: f64) -> Evaluation {
    Evaluation { top1, top5: 50.0, loss: 2.3, images: 10_000 }
}

#[test]
fn a_student_at_chance_after_a_tenth_of_its_steps_is_warned_of_once() {
    let mut watch = ChanceWatch::default();
    assert_eq!(watch.evaluated(&evaluation(10.0), place(99)), None);
    assert_eq!(watch.evaluated(&evaluation(12.0), place(100)), None);
    let message = watch.evaluated(&evaluation(10.4), place(120)).unwrap();
    assert!(message.contains("after 12 % of its steps") && message.contains("chance is 10.0 %"), "{message}");
    assert_eq!(watch.evaluated(&evaluation(10.0), place(130)), None);
}

#[test]
fn accuracy_in_training_is_judged_at_a_tenth_of_the_steps() {
    let mut watch = ChanceWatch::default();
    // The beginning does not count.
    assert_eq!(watch.trained(10.0, 10_000, place(40)), None);
    assert_eq!(watch.trained(30.0, 5_000, place(60)), None);
    assert_eq!(watch.trained(30.0, 5_000, place(100)), None);
    // It is judged once.
    assert_eq!(watch.trained(10.0, 10_000, place(200)), None);

    let mut watch = ChanceWatch::default();
    assert_eq!(watch.trained(10.0, 100, place(100)), None, "a hundred images prove nothing");
    let message = watch.trained(10.0, 10_000, place(110)).unwrap();
    assert!(message.contains("on the training images is 10.0 %"), "{message}");
    // One class is never better than chance.
    let mut watch = ChanceWatch::default();
    let one = RunPosition { classes: 1, ..place(500) };
    assert_eq!(watch.evaluated(&evaluation(100.0), one), None);
}

#[test]
fn a_run_on_one_class_says_that_the_student_learns_nothing() {
    let workspace = Workspace::new();
    // All training images but three are of class 0; the evaluation has as many of each class.
    let labels = workspace.path("data/train-labels-idx1-ubyte");
    let mut bytes = std::fs::read(&labels).unwrap();
    let end = bytes.len() - 3;
    bytes[8..end].fill(0);
    bytes[end..].copy_from_slice(&[1, 2, 3]);
    std::fs::write(labels, bytes).unwrap();
    let events = workspace.finish(&workspace.plain(), "out", &[]);
    let warnings = warnings(&events);
    assert!(warnings.iter().any(|warning| warning.contains("It seems to learn nothing")), "{warnings:?}");
}

#[test]
fn values_that_contradict_each_other_are_warned_of_when_the_run_starts() {
    let workspace = Workspace::new().with_teacher();
    let changes = json!({"dataset": {"eval_split": "TRAIN"}, "distillation": {"warmup_epochs": 20}});
    let events = workspace.finish(&merged(workspace.distilled("kd"), changes), "out", &[]);
    let warnings = warnings(&events);
    assert!(warnings.iter().any(|warning| warning.contains("the split that is trained on")), "{warnings:?}");
    assert!(
        warnings.iter().any(|warning| warning.contains("warmup_epochs is 20, but the job trains for 2 epochs")),
        "{warnings:?}"
    );
}

#[test]
fn a_disk_with_too_little_space_is_warned_of() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(disk(directory.path(), 1), None);
    let message = disk(directory.path(), u64::MAX).unwrap();
    assert!(message.contains("MiB of free space, and this run needs about"), "{message}");
}

/// Mounts a file system of this size on a directory, and becomes a command that alone sees it.
const ON_A_DISK: &str = r#"mount -t tmpfs -o "size=$1" none "$2"; shift 2; exec "$@""#;

fn on_a_disk(size: &str, directory: &Path, command: &Command) -> Command {
    let mut alone = Command::new("unshare");
    alone.args(["--user", "--map-root-user", "--mount", "sh", "-ec", ON_A_DISK, "sh", size]).arg(directory);
    alone.arg(command.get_program()).args(command.get_args());
    alone
}

#[test]
fn a_run_on_a_disk_with_too_little_space_warns_before_it_trains() {
    let workspace = Workspace::new();
    let output = workspace.path("out");
    std::fs::create_dir(&output).unwrap();
    // Some containers let nobody mount anything. To standard error itself, since what a test prints is not shown when it
    // passes.
    if !on_a_disk("1m", &output, &Command::new("true")).status().is_ok_and(|status| status.success()) {
        let mut errors = std::io::stderr();
        writeln!(errors, "not run: doubts::a_run_on_a_disk_…: no file system can be mounted here").unwrap();
        return;
    }
    let run = |size: &str| -> Vec<Event> {
        let mut command = on_a_disk(size, &output, &workspace.command(&workspace.plain(), "out"));
        let run = command.arg("--events").output().unwrap();
        text(&run.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let is_of_disk = |event: &Event| {
        let said = ["1 MiB of free space", "this run needs about 4 MiB for its checkpoints and students"];
        matches!(event, Event::Log { message, .. } if said.iter().all(|words| message.contains(words)))
    };
    // Whether it fits at last depends on what is there at the same time.
    let events = run("1500k");
    let trains = events.iter().position(|event| matches!(event, Event::Metrics { .. } | Event::Failed(_)));
    let warned = events.iter().position(is_of_disk);
    assert!(warned.is_some() && (trains.is_none() || warned < trains), "{events:?}");

    let events = run("64m");
    outcome(&events);
    assert!(!warnings(&events).iter().any(|warning| warning.contains("of free space")), "{events:?}");
}
