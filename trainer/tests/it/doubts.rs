//! Promise: a run that will waste hours says so early.

use distillery_core::protocol::{Evaluation, Event};
use distillery_trainer::run::doubts::{ChanceWatch, RunPosition, disk};
use serde_json::json;

use crate::support::disk::{can_mount, on_a_disk};
use crate::support::{Workspace, merged, outcome, text, warnings};

/// Ten steps of a run of a hundred epochs make an epoch.
fn place(step: u64) -> RunPosition {
    RunPosition { step, steps: 1000, steps_per_epoch: 10, warmup_epochs: 0, classes: 10 }
}

/// At the loss of guessing.
fn evaluation(top1: f64) -> Evaluation {
    Evaluation { top1, top5: 50.0, loss: 2.3, images: 10_000 }
}

#[test]
fn a_student_at_chance_after_a_tenth_of_its_steps_is_warned_of_once() {
    let mut watch = ChanceWatch::default();
    // As with a learning rate of 1000.
    let mut at = |step: u64, top1: f64| {
        let trained = watch.trained(top1, 640, place(step));
        (trained, watch.evaluated(&Evaluation { loss: 1e6, ..evaluation(top1) }, place(step)))
    };
    assert_eq!(at(90, 10.0), (None, None));
    assert_eq!(at(110, 12.0), (None, None));
    let (trained, evaluated) = at(120, 10.4);
    let message = evaluated.unwrap();
    assert_eq!(trained, None, "the training images alone are too few");
    assert!(message.contains("after 12 epochs (120 steps)") && message.contains("chance is 10.0 %"), "{message}");
    assert!(message.contains("lower training.optimizer.learning_rate"), "{message}");
    assert_eq!(at(130, 10.0), (None, None));
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
    assert_eq!(watch.trained(10.0, 10_000, place(40)), None);
    assert_eq!(watch.trained(10.0, 100, place(100)), None, "a hundred images prove nothing");
    let message = watch.trained(10.0, 10_000, place(115)).unwrap();
    assert!(message.contains("after 11.5 epochs") && message.contains("on the training images is 10.0 %"), "{message}");
    // One class is never better than chance.
    let mut watch = ChanceWatch::default();
    let one = RunPosition { classes: 1, ..place(500) };
    assert_eq!(watch.evaluated(&evaluation(100.0), one), None);
}

#[test]
fn a_student_that_has_just_begun_to_learn_is_not_warned_of() {
    // The running statistics of its batch normalisation do not fit yet: training goes well, the evaluation does not.
    let short = |step| RunPosition { step, steps: 230, steps_per_epoch: 23, warmup_epochs: 0, classes: 10 };
    let late = |top1: f64| Evaluation { top1, top5: 50.0, loss: 3.0, images: 360 };
    let mut watch = ChanceWatch::default();
    for (step, training, evaluated) in [(23, 45.0, 12.1), (46, 80.0, 11.0), (69, 90.0, 13.0), (92, 95.0, 60.0)] {
        assert_eq!(watch.trained(training, 1437, short(step)), None, "step {step}");
        assert_eq!(watch.evaluated(&late(evaluated), short(step)), None, "step {step}");
    }
    // The learning rate rises for the first half.
    let rising = |step| RunPosition { warmup_epochs: 5, ..short(step) };
    let mut watch = ChanceWatch::default();
    for step in [23, 46, 69, 92] {
        assert_eq!(watch.trained(10.0, 1437, rising(step)), None, "step {step}");
        assert_eq!(watch.evaluated(&late(10.0), rising(step)), None, "step {step}");
    }
    assert_eq!(watch.trained(10.0, 1437, rising(115)), None);
    assert!(watch.evaluated(&late(10.0), rising(115)).unwrap().contains("after 5 epochs"));
    // A loss below that of guessing shows that something was learned.
    let mut watch = ChanceWatch::default();
    assert_eq!(watch.trained(10.0, 1437, short(115)), None);
    assert_eq!(watch.evaluated(&Evaluation { loss: 2.2, ..late(10.0) }, short(115)), None);
}

#[test]
fn a_job_of_a_few_steps_is_told_that_these_teach_little() {
    let few = RunPosition { step: 8, steps: 8, steps_per_epoch: 8, warmup_epochs: 0, classes: 10 };
    let mut watch = ChanceWatch::default();
    assert_eq!(watch.trained(10.0, 4096, few), None);
    let message = watch.evaluated(&evaluation(10.0), few).unwrap();
    assert!(message.contains("after 1 epoch (8 steps)") && message.contains("So few steps teach little"), "{message}");
    assert!(!message.contains("learning_rate"), "{message}");
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
    let long_enough = merged(workspace.plain(), json!({"training": {"epochs": 8}}));
    let events = workspace.finish(&long_enough, "out", &[]);
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

#[test]
fn a_run_on_a_disk_with_too_little_space_warns_before_it_trains() {
    let workspace = Workspace::new();
    let output = workspace.path("out");
    std::fs::create_dir(&output).unwrap();
    if !can_mount(&output, "doubts::a_run_on_a_disk_…") {
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
