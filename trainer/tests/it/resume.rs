//! Training goes on where it was, to the last bit.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::Read;
use std::time::Instant;

use distillery::protocol::{EXIT_STOPPED, Event, Point};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{Place, Supervised, merged, text};

/// Long enough to be interrupted, with everything that has a state: momentum, shuffling, augmentation.
fn long(place: &Place) -> Value {
    let training = json!({"epochs": 6, "batch_size": 2, "augmentation": "crop_flip", "precision": "float32"});
    merged(place.distilled("sdd_kd"), json!({"distillation": {"scales": [1, 2]}, "training": training}))
}

/// Files of two outputs are the same, and the points of the metrics but for their times and speeds.
fn assert_same(place: &Place, one: &str, other: &str) {
    for file in ["student.safetensors", "student-last.safetensors"] {
        assert!(place.bytes(&format!("{one}/{file}")) == place.bytes(&format!("{other}/{file}")), "{file} differs");
    }
    // How often training values are read depends on the time; evaluations do not.
    let evaluations = |name: &str| -> Vec<(String, u64, f64)> {
        let lines = text(&place.bytes(&format!("{name}/metrics.ndjson")));
        let points = lines.lines().map(|line| serde_json::from_str::<Point>(line).unwrap());
        points.filter(|p| p.name.starts_with("eval/")).map(|p| (p.name, p.step, p.value)).collect()
    };
    assert_eq!(evaluations(one), evaluations(other));
}

fn resumed(events: &[Event]) -> (u32, u64) {
    let Some(Event::Started(started)) = events.iter().find(|event| matches!(event, Event::Started(_))) else {
        panic!("{events:?}");
    };
    assert!(matches!(events.last(), Some(Event::Finished(_))), "{:?}", events.last());
    (started.resumed_epochs, started.resumed_step)
}

#[test]
fn a_run_that_is_killed_in_an_epoch_ends_in_the_same_bytes() {
    let place = Place::new().with_teacher();
    a_kill_in_an_epoch_changes_nothing(&place, &long(&place));
}

#[test]
fn a_run_in_bfloat16_that_is_killed_in_an_epoch_ends_in_the_same_bytes() {
    let place = Place::new().with_teacher();
    let spec = merged(long(&place), json!({"training": {"precision": "bfloat16"}}));
    a_kill_in_an_epoch_changes_nothing(&place, &spec);
}

fn a_kill_in_an_epoch_changes_nothing(place: &Place, spec: &Value) {
    assert!(matches!(place.events(spec, "whole").last(), Some(Event::Finished(_))));
    let mut run = Supervised::start(place.command(spec, "killed"));
    run.until(|event| matches!(event, Event::Checkpoint { epoch: 2, .. }));
    // A few steps into the third epoch.
    std::thread::sleep(std::time::Duration::from_millis(60));
    run.child.kill().unwrap();
    assert_eq!(run.status(), None);
    assert!(!place.path("killed/student.safetensors").exists());
    let (epochs, step) = resumed(&place.events(spec, "killed"));
    assert!((2..6).contains(&epochs) && step == u64::from(epochs) * 75, "{epochs} epochs, {step} steps");
    assert_same(place, "whole", "killed");
    // Running it once more finds everything done and leaves the same.
    assert_eq!(resumed(&place.events(spec, "killed")), (6, 450));
    assert_same(place, "whole", "killed");
}

#[test]
fn a_run_that_is_killed_again_and_again_wherever_it_is_ends_in_the_same_bytes() {
    let place = Place::new().with_teacher();
    let spec = long(&place);
    let begun = Instant::now();
    place.events(&spec, "whole");
    let whole = begun.elapsed();
    // Other moments in every run of this test; they are in the message where it fails.
    let random = RandomState::new();
    let moments = [1, 2, 3, 4, 5].map(|kill| whole.mul_f64(random.hash_one(kill) as f64 / u64::MAX as f64 / 2.0));
    println!("killed after {moments:?}");
    for moment in moments {
        let mut run = Supervised::start(place.command(&spec, "killed"));
        std::thread::sleep(moment);
        run.child.kill().unwrap();
        run.child.wait().unwrap();
    }
    resumed(&place.events(&spec, "killed"));
    assert_same(&place, "whole", "killed");
}

#[test]
fn a_pause_within_an_epoch_goes_on_with_the_next_step() {
    let place = Place::new().with_teacher();
    let spec = long(&place);
    place.events(&spec, "whole");
    let mut run = Supervised::start(place.command(&spec, "paused"));
    run.until(|event| matches!(event, Event::Checkpoint { epoch: 1, .. }));
    run.tell("pause");
    let Event::Stopped { epoch, step } = run.until(|event| matches!(event, Event::Stopped { .. })) else {
        unreachable!()
    };
    assert_eq!(run.status(), Some(i32::from(EXIT_STOPPED)));
    assert_eq!(resumed(&place.events(&spec, "paused")), (epoch, step));
    assert_same(&place, "whole", "paused");
}

#[test]
fn a_run_whose_teachers_logits_are_kept_ends_in_the_same_bytes_wherever_it_is_interrupted() {
    let place = Place::new().with_teacher();
    let spec = merged(long(&place), json!({"training": {"teacher_cache": "views:2"}}));
    place.events(&spec, "whole");
    let directory = place.path("cache");
    let with_files = |output: &str| {
        let mut command = place.command(&spec, output);
        command.arg("--cache-dir").arg(&directory);
        command
    };
    // Killed where a view is half written, with files and without; what was kept in memory is gone with the process.
    for (output, epoch) in [("files", 0), ("files", 3), ("memory", 0), ("memory", 3)] {
        let command = if output == "files" { with_files(output) } else { place.command(&spec, output) };
        let mut run = Supervised::start(command);
        run.until(|event| match event {
            Event::Started(_) => epoch == 0,
            Event::Checkpoint { epoch: done, .. } => *done >= epoch && epoch > 0,
            _ => false,
        });
        std::thread::sleep(std::time::Duration::from_millis(60));
        run.child.kill().unwrap();
        run.child.wait().unwrap();
    }
    assert!(with_files("files").output().unwrap().status.success());
    resumed(&place.events(&spec, "memory"));
    let mut run = Supervised::start(with_files("paused"));
    run.until(|event| matches!(event, Event::Checkpoint { epoch: 1, .. }));
    run.tell("pause");
    assert_eq!(run.status(), Some(i32::from(EXIT_STOPPED)));
    assert!(with_files("paused").output().unwrap().status.success());
    for output in ["files", "memory", "paused"] {
        assert_same(&place, "whole", output);
    }
}

#[test]
fn a_stop_leaves_the_last_checkpoint() {
    let place = Place::new().with_teacher();
    let spec = long(&place);
    let mut run = Supervised::start(place.command(&spec, "out"));
    run.until(|event| matches!(event, Event::Checkpoint { epoch: 1, .. }));
    run.tell("stop");
    run.until(|event| matches!(event, Event::Stopped { .. }));
    assert_eq!(run.status(), Some(i32::from(EXIT_STOPPED)));
    let (epochs, step) = resumed(&place.events(&spec, "out"));
    assert_eq!(step, u64::from(epochs) * 75);
}

#[test]
fn it_ends_when_its_supervisor_does() {
    let place = Place::new();
    let spec = merged(place.plain(), json!({"training": {"epochs": 10000}}));
    let mut run = Supervised::start(place.command(&spec, "out"));
    run.until(|event| matches!(event, Event::Started(_)));
    run.stdin = None;
    assert_eq!(run.status(), Some(1));
}

#[test]
fn an_interrupt_on_the_terminal_keeps_what_was_done() {
    let place = Place::new();
    let spec = merged(place.plain(), json!({"training": {"epochs": 10000}}));
    let mut command = place.command(&spec, "out");
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    // The first line says that training goes on.
    assert_eq!(stdout.read(&mut [0; 1]).unwrap(), 1);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(i32::from(EXIT_STOPPED)), "{rest}");
    assert!(rest.contains("run the same command to resume"), "{rest}");
    assert!(place.path("out/state/checkpoint.safetensors").exists());
}

#[test]
fn the_state_of_another_specification_is_refused() {
    let place = Place::new();
    assert!(place.train(&place.plain(), "out", &[]).status.success());
    let before = place.bytes("out/state/checkpoint.safetensors");
    let (class, message) = place.failure(&merged(place.plain(), json!({"training": {"seed": 4}})), "out");
    assert_eq!(class, "user");
    assert!(message.contains("another specification") && message.contains("output directory"), "{message}");
    assert_eq!(place.bytes("out/state/checkpoint.safetensors"), before);
    // A new name is no other specification.
    let renamed = merged(place.plain(), json!({"name": "the same"}));
    assert_eq!(resumed(&place.events(&renamed, "out")), (2, 20));
}
