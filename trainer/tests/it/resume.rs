//! Interrupted training resumes to the same bytes.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::Read;
use std::process::Command;
use std::time::Duration;

use distillery_core::protocol::{EXIT_STOPPED, ErrorClass, Event, Point, Started};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{Supervised, Workspace, alter, merged, program, started, text, warnings};

/// A run long enough to be interrupted, with everything that has state: momentum, shuffling, augmentation.
pub fn long(workspace: &Workspace) -> Value {
    let training = json!({"epochs": 6, "batch_size": 2, "augmentation": "crop_flip", "precision": "float32"});
    merged(workspace.distilled("sdd_kd"), json!({"distillation": {"scales": [1, 2]}, "training": training}))
}

/// Compares the students and the evaluations of two outputs.
fn assert_same(workspace: &Workspace, one: &str, other: &str) {
    for file in ["student.safetensors", "student-last.safetensors", "predictions.safetensors", "predictions.json"] {
        assert!(
            workspace.bytes(format!("{one}/{file}")) == workspace.bytes(format!("{other}/{file}")),
            "{file} differs"
        );
    }
    // How often training metrics are read depends on the clock; evaluations do not.
    let evaluations = |name: &str| -> Vec<(String, u64, f64)> {
        let lines = text(&workspace.bytes(format!("{name}/metrics.ndjson")));
        let points = lines.lines().map(|line| serde_json::from_str::<Point>(line).unwrap());
        points.filter(|p| p.name.starts_with("eval/")).map(|p| (p.name, p.step, p.value)).collect()
    };
    assert_eq!(evaluations(one), evaluations(other));
}

/// Runs to the end; returns the epochs and steps that were resumed.
fn resumed(workspace: &Workspace, spec: &Value, output: &str, flags: &[&str]) -> (u32, u64) {
    let events = workspace.finish(spec, output, flags);
    let Started { resumed_epochs, resumed_step, .. } = started(&events);
    (*resumed_epochs, *resumed_step)
}

/// Starts a run and waits until `epoch` is done and a few steps of the next are computed.
fn within_an_epoch(command: Command, epoch: u32) -> Supervised {
    let mut run = Supervised::start(command);
    run.until(|event| match event {
        Event::Started(_) => epoch == 0,
        Event::Checkpoint { epoch: done, .. } => *done == epoch,
        _ => false,
    });
    assert!(run.until_it_has_computed(run.computed() + Duration::from_millis(40)), "it ended within the epoch");
    run
}

#[test]
fn a_run_killed_within_an_epoch_resumes_to_the_same_bytes() {
    let workspace = Workspace::new().with_teacher();
    assert_kill_within_an_epoch_changes_nothing(&workspace, &long(&workspace));
}

#[test]
fn a_run_in_bfloat16_killed_within_an_epoch_resumes_to_the_same_bytes() {
    let workspace = Workspace::new().with_teacher();
    let spec = merged(long(&workspace), json!({"training": {"precision": "bfloat16"}}));
    assert_kill_within_an_epoch_changes_nothing(&workspace, &spec);
}

pub fn assert_kill_within_an_epoch_changes_nothing(workspace: &Workspace, spec: &Value) {
    workspace.finish(spec, "whole", &[]);
    within_an_epoch(workspace.command(spec, "killed"), 2).kill();
    assert!(!workspace.path("killed/student.safetensors").exists());
    let (epochs, step) = resumed(workspace, spec, "killed", &[]);
    assert!((2..6).contains(&epochs) && step == u64::from(epochs) * 75, "{epochs} epochs, {step} steps");
    assert_same(workspace, "whole", "killed");
    // Another run finds everything done and changes nothing.
    assert_eq!(resumed(workspace, spec, "killed", &[]), (6, 450));
    assert_same(workspace, "whole", "killed");
}

#[test]
fn a_run_that_is_killed_before_it_ends_early_ends_at_the_same_epoch_with_the_same_bytes() {
    let workspace = Workspace::new().with_teacher();
    // Only the batch statistics change. It cannot end before the third epoch, in which it is killed.
    let training = json!({"epochs": 30, "early_stopping_patience": 2, "optimizer": {"learning_rate": 0}});
    let spec = merged(long(&workspace), json!({"training": training}));
    let events = workspace.finish(&spec, "whole", &[]);
    let is_early =
        |event: &Event| matches!(event, Event::Log { message, .. } if message.contains("training ends early"));
    assert!(events.iter().any(is_early), "{events:?}");
    within_an_epoch(workspace.command(&spec, "killed"), 2).kill();
    assert!(resumed(&workspace, &spec, "killed", &[]).0 >= 2);
    assert_same(&workspace, "whole", "killed");
}

#[test]
fn a_run_killed_at_five_random_moments_resumes_to_the_same_bytes() {
    let workspace = Workspace::new().with_teacher();
    let spec = long(&workspace);
    let mut run = Supervised::start(workspace.command(&spec, "whole"));
    run.until(|event| matches!(event, Event::Finished(_)));
    let whole = run.computed();
    assert_eq!(run.status(), Some(0));
    // Random moments, printed if the test fails.
    let random = RandomState::new();
    let moments = [1, 2, 3, 4, 5].map(|kill| whole.mul_f64(random.hash_one(kill) as f64 / u64::MAX as f64 / 2.0));
    println!("killed after {moments:?}");
    for moment in moments {
        let mut run = Supervised::start(workspace.command(&spec, "killed"));
        // A run that resumes late may be done before.
        if run.until_it_has_computed(moment) {
            run.kill();
        }
    }
    workspace.finish(&spec, "killed", &[]);
    assert_same(&workspace, "whole", "killed");
}

#[test]
fn a_run_paused_within_an_epoch_resumes_at_the_next_step() {
    let workspace = Workspace::new().with_teacher();
    let spec = long(&workspace);
    workspace.finish(&spec, "whole", &[]);
    let mut run = Supervised::start(workspace.command(&spec, "paused"));
    run.until(|event| matches!(event, Event::Checkpoint { epoch: 1, .. }));
    run.tell("pause");
    let Event::Stopped { epoch, step } = run.until(|event| matches!(event, Event::Stopped { .. })) else {
        unreachable!()
    };
    assert_eq!(run.status(), Some(i32::from(EXIT_STOPPED)));
    assert_eq!(resumed(&workspace, &spec, "paused", &[]), (epoch, step));
    assert_same(&workspace, "whole", "paused");
}

#[test]
fn a_run_that_pauses_after_given_epochs_stops_exactly_there_and_goes_on_to_the_same_bytes() {
    let workspace = Workspace::new().with_teacher();
    let spec = merged(long(&workspace), json!({"training": {"checkpoint_every_epochs": 4}}));
    workspace.finish(&spec, "whole", &[]);
    for (pause, resumed) in [("2", 0), ("3", 2), ("3", 3), ("2", 3)] {
        let events = workspace.events(&spec, "paused", &["--pause-after", pause]);
        assert_eq!(started(&events).resumed_epochs, resumed);
        let epochs = u32::max(resumed, pause.parse().unwrap());
        let Some(Event::Stopped { epoch, step }) = events.last() else { panic!("{events:?}") };
        assert_eq!((*epoch, *step), (epochs, u64::from(epochs) * 75));
    }
    // The last epoch is the end, and no pause.
    assert_eq!(resumed(&workspace, &spec, "paused", &["--pause-after", "6"]), (3, 225));
    assert_same(&workspace, "whole", "paused");
}

#[test]
fn an_interrupted_run_with_a_teacher_cache_resumes_to_the_same_bytes() {
    let workspace = Workspace::new().with_teacher();
    let spec = merged(long(&workspace), json!({"training": {"teacher_cache": "views:2"}}));
    workspace.finish(&spec, "whole", &[]);
    let directory = workspace.path("cache");
    let with_files = ["--cache-dir", directory.to_str().unwrap()];
    // Killed while a view is half written, with cache files and without: what was in memory is lost.
    for (output, epoch) in [("files", 0), ("files", 3), ("memory", 0), ("memory", 3)] {
        let mut command = workspace.command(&spec, output);
        if output == "files" {
            command.args(with_files);
        }
        within_an_epoch(command, epoch).kill();
    }
    workspace.finish(&spec, "files", &with_files);
    workspace.finish(&spec, "memory", &[]);
    let mut command = workspace.command(&spec, "paused");
    command.args(with_files);
    let mut run = Supervised::start(command);
    run.until(|event| matches!(event, Event::Checkpoint { epoch: 1, .. }));
    run.tell("pause");
    assert_eq!(run.status(), Some(i32::from(EXIT_STOPPED)));
    workspace.finish(&spec, "paused", &with_files);
    for output in ["files", "memory", "paused"] {
        assert_same(&workspace, "whole", output);
    }
}

#[test]
fn a_stopped_run_resumes_from_its_last_checkpoint() {
    let workspace = Workspace::new().with_teacher();
    let spec = long(&workspace);
    let mut run = Supervised::start(workspace.command(&spec, "out"));
    run.until(|event| matches!(event, Event::Checkpoint { epoch: 1, .. }));
    run.tell("stop");
    run.until(|event| matches!(event, Event::Stopped { .. }));
    assert_eq!(run.status(), Some(i32::from(EXIT_STOPPED)));
    let (epochs, step) = resumed(&workspace, &spec, "out", &[]);
    assert_eq!(step, u64::from(epochs) * 75);
}

#[test]
fn the_trainer_ends_with_its_supervisor() {
    let workspace = Workspace::new();
    let spec = merged(workspace.plain(), json!({"training": {"epochs": 10000}}));
    let mut run = Supervised::start(workspace.command(&spec, "out"));
    run.until(|event| matches!(event, Event::Started(_)));
    run.stdin = None;
    assert_eq!(run.status(), Some(1));
}

#[test]
fn a_terminated_run_keeps_its_progress() {
    let workspace = Workspace::new();
    let spec = merged(workspace.plain(), json!({"training": {"epochs": 10000}}));
    let mut command = workspace.command(&spec, "out");
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut stdout = child.stdout.take().unwrap();
    // The first line shows that training has begun.
    assert_eq!(stdout.read(&mut [0; 1]).unwrap(), 1);
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(i32::from(EXIT_STOPPED)), "{rest}");
    assert!(rest.contains("run the same command to resume"), "{rest}");
    assert!(workspace.path("out/state/checkpoint.safetensors").exists());
}

/// Takes the last training image from the data set.
fn shorten(workspace: &Workspace) {
    for name in ["images-idx3", "labels-idx1"] {
        let path = workspace.path(format!("data/train-{name}-ubyte"));
        let mut bytes = std::fs::read(&path).unwrap();
        let number = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
        let count = number(4);
        let item = if name == "labels-idx1" { 1 } else { number(8) * number(12) };
        bytes.truncate(bytes.len() - item as usize);
        bytes[4..8].copy_from_slice(&(count - 1).to_be_bytes());
        std::fs::write(path, bytes).unwrap();
    }
}

#[test]
fn resuming_on_data_that_has_changed_says_what_has_changed_and_what_to_do() {
    let workspace = Workspace::new();
    assert!(workspace.train(&workspace.plain(), "out", &[]).status.success());
    shorten(&workspace);
    let failure = workspace.fail(&workspace.plain(), "out", &[]);
    assert_eq!(failure.class, ErrorClass::User);
    for part in ["the data set has changed since the checkpoint", "Put it back", "post the job again"] {
        assert!(failure.message.contains(part) && !failure.message.contains("safetensors"), "{failure:?}");
    }
}

#[test]
fn a_run_goes_on_with_the_bytes_it_began_with_and_with_no_others() {
    let workspace = Workspace::new().with_teacher();
    let spec = long(&workspace);
    workspace.finish(&spec, "whole", &[]);
    within_an_epoch(workspace.command(&spec, "killed"), 2).kill();
    let state = workspace.bytes("killed/state/checkpoint.safetensors");
    let (in_memory, streamed) = (&[][..], &["--data-memory-mib", "0"][..]);
    for (file, flags) in [
        ("train-labels-idx1-ubyte", in_memory),
        ("train-images-idx3-ubyte", in_memory),
        ("train-images-idx3-ubyte", streamed),
        ("t10k-labels-idx1-ubyte", in_memory),
    ] {
        let path = workspace.path(format!("data/{file}"));
        alter(&path);
        let failure = workspace.fail(&spec, "killed", flags);
        assert_eq!(failure.class, ErrorClass::User, "{failure:?}");
        for part in ["the data set has changed since the checkpoint", "SHA-256", "Put it back", "post the job again"] {
            assert!(failure.message.contains(part), "{failure:?}");
        }
        assert!(workspace.bytes("killed/state/checkpoint.safetensors") == state, "{file}: the state was replaced");
        for result in ["student.safetensors", "student-last.safetensors", "manifest.json"] {
            assert!(!workspace.path(format!("killed/{result}")).exists(), "{file}: {result}");
        }
        alter(&path);
    }
    // Now all files have their bytes back, but not their times.
    let (epochs, _) = resumed(&workspace, &spec, "killed", &[]);
    assert!(epochs >= 2, "{epochs} epochs");
    assert_same(&workspace, "whole", "killed");
    assert_eq!(workspace.json("killed/manifest.json")["data"], workspace.json("whole/manifest.json")["data"]);
}

#[test]
fn a_state_without_the_hashes_of_its_data_resumes_with_a_warning() {
    let workspace = Workspace::new().with_teacher();
    let spec = long(&workspace);
    workspace.finish(&spec, "whole", &[]);
    within_an_epoch(workspace.command(&spec, "killed"), 2).kill();
    // As earlier versions wrote it: unknown fields do not count.
    let state = workspace.path("killed/state/checkpoint.safetensors");
    let mut bytes = std::fs::read(&state).unwrap();
    let name = b"data_sha256";
    let at = bytes.windows(name.len()).position(|window| window == name).expect("the state names its data");
    bytes[at] = b'_';
    std::fs::write(&state, bytes).unwrap();
    let events = workspace.finish(&spec, "killed", &[]);
    assert!(started(&events).resumed_epochs >= 2);
    let warnings = warnings(&events);
    assert!(warnings.iter().any(|warning| warning.contains("does not name the SHA-256 of its data")), "{warnings:?}");
    assert_same(&workspace, "whole", "killed");
}

/// The files of a finished run.
fn results(workspace: &Workspace, output: &str) -> Vec<Vec<u8>> {
    let names = ["manifest.json", "student.safetensors", "student-last.safetensors", "before-last-epoch.safetensors"];
    let more = ["metrics.ndjson", "state/checkpoint.safetensors"];
    names.iter().chain(&more).map(|name| workspace.bytes(format!("{output}/{name}"))).collect()
}

#[test]
fn a_finished_run_stays_as_it_is_with_other_data_and_other_threads() {
    let workspace = Workspace::new();
    workspace.finish(&workspace.plain(), "out", &[]);
    let whole = results(&workspace, "out");
    let labels = workspace.path("data/train-labels-idx1-ubyte");
    alter(&labels);
    let mut again = program("train");
    again.arg(workspace.path("out.json")).args(["--device", "cpu", "--threads", "2", "--output"]);
    let again = again.arg(workspace.path("out")).output().unwrap();
    let said = text(&again.stdout);
    assert!(again.status.success(), "{said}{}", text(&again.stderr));
    assert!(said.contains("the run has finished already") && said.contains("finished: best top-1"), "{said}");
    assert!(results(&workspace, "out") == whole, "a file has changed");
    // A result that is missing is written again, but only by the data that it was trained on.
    std::fs::remove_file(workspace.path("out/student.safetensors")).unwrap();
    let failure = workspace.fail(&workspace.plain(), "out", &[]);
    assert!(failure.message.contains("the data set has changed since the checkpoint"), "{failure:?}");
    assert!(!workspace.path("out/student.safetensors").exists());
    alter(&labels);
    workspace.finish(&workspace.plain(), "out", &[]);
    assert!(results(&workspace, "out")[1..] == whole[1..], "a student has changed");
    assert_eq!(workspace.json("out/manifest.json")["attempts"].as_array().map(Vec::len), Some(1));
}

#[test]
fn the_results_of_another_run_are_not_taken_for_those_of_a_run_that_ended_before_it_wrote_its_own() {
    let workspace = Workspace::new();
    workspace.finish(&workspace.plain(), "out", &[]);
    let other = merged(workspace.plain(), json!({"training": {"seed": 4}}));
    workspace.finish(&other, "other", &[]);
    let state = "state/checkpoint.safetensors";
    std::fs::copy(workspace.path(format!("other/{state}")), workspace.path(format!("out/{state}"))).unwrap();
    workspace.finish(&other, "out", &[]);
    assert_eq!(workspace.json("out/manifest.json")["seed"], 4);
    for file in ["student.safetensors", "student-last.safetensors", "predictions.safetensors", "predictions.json"] {
        assert!(workspace.bytes(format!("out/{file}")) == workspace.bytes(format!("other/{file}")), "{file} differs");
    }
}

#[test]
fn a_damaged_state_is_reported_with_what_helps() {
    let workspace = Workspace::new();
    workspace.finish(&workspace.plain(), "out", &[]);
    let state = workspace.path("out/state/checkpoint.safetensors");
    let whole = std::fs::read(&state).unwrap();
    for length in [0, 4, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&state, &whole[..length]).unwrap();
        let failure = workspace.fail(&workspace.plain(), "out", &[]);
        assert_eq!(failure.class, ErrorClass::User, "{length}");
        let says = ["cannot be resumed from", "checkpoint.safetensors", "remove it to start from the beginning"];
        assert!(says.iter().all(|part| failure.message.contains(part)), "{length}: {}", failure.message);
        assert!(!failure.message.contains("download"), "{length}: {}", failure.message);
    }
    std::fs::remove_file(&state).unwrap();
    assert_eq!(resumed(&workspace, &workspace.plain(), "out", &[]), (0, 0));
}

#[test]
fn resuming_with_another_specification_is_refused() {
    let workspace = Workspace::new();
    assert!(workspace.train(&workspace.plain(), "out", &[]).status.success());
    let before = workspace.bytes("out/state/checkpoint.safetensors");
    let failure = workspace.fail(&merged(workspace.plain(), json!({"training": {"seed": 4}})), "out", &[]);
    assert_eq!(failure.class, ErrorClass::User);
    assert!(
        failure.message.contains("another specification") && failure.message.contains("output directory"),
        "{failure:?}"
    );
    assert_eq!(workspace.bytes("out/state/checkpoint.safetensors"), before);
    // A specification with another name is the same.
    let renamed = merged(workspace.plain(), json!({"name": "the same"}));
    assert_eq!(resumed(&workspace, &renamed, "out", &[]), (2, 20));
}
