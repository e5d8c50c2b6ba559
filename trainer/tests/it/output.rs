//! Promise: a command says truthfully what it cannot write, and never writes over what somebody else needs.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use distillery_core::checkpoint;
use distillery_core::protocol::{ErrorClass, Event};
use serde_json::json;

use crate::support::{Supervised, Workspace, merged, text, trainer};

#[test]
fn convert_names_the_file_that_it_cannot_write_and_does_not_replace_its_input() {
    let workspace = Workspace::new().with_teacher();
    let input = workspace.path("teacher/student.safetensors");
    let convert = |output: &Path| {
        let run = trainer("convert").arg(&input).arg(output).output().unwrap();
        assert_eq!(run.status.code(), Some(1));
        text(&run.stderr)
    };
    let nowhere = workspace.path("nowhere/copy");
    let said = convert(&nowhere);
    assert!(said.contains(&format!("{} cannot be written: there is no directory", nowhere.display())), "{said}");
    let before = workspace.bytes("teacher/student.safetensors");
    symlink(&input, workspace.path("link")).unwrap();
    for same in [input.clone(), workspace.path("link")] {
        let said = convert(&same);
        assert!(said.contains("is the checkpoint itself: name another file"), "{said}");
    }
    assert_eq!(workspace.bytes("teacher/student.safetensors"), before);
}

/// Runs `convert` on the workspace's teacher. Returns what it says if it fails.
fn converted(workspace: &Workspace, output: &Path) -> Result<(), String> {
    let run = trainer("convert").arg(workspace.path("teacher/student.safetensors")).arg(output).output().unwrap();
    if run.status.success() { Ok(()) } else { Err(text(&run.stderr)) }
}

#[test]
fn convert_replaces_a_safetensors_file_and_no_other() {
    let workspace = Workspace::new().with_teacher();
    let manifest = workspace.bytes("teacher/manifest.json");
    let said = converted(&workspace, &workspace.path("teacher/manifest.json")).unwrap_err();
    assert!(said.contains("is there already and is no safetensors file: remove it, or name another"), "{said}");
    assert_eq!(workspace.bytes("teacher/manifest.json"), manifest);
    let earlier = workspace.path("earlier");
    checkpoint::write(&earlier, &[], &BTreeMap::new()).unwrap();
    converted(&workspace, &earlier).unwrap();
    assert!(workspace.bytes("earlier").len() > 1000);
}

#[test]
fn convert_replaces_nothing_that_is_no_regular_file() {
    let workspace = Workspace::new().with_teacher();
    assert!(std::process::Command::new("mkfifo").arg(workspace.path("pipe")).status().unwrap().success());
    let _socket = std::os::unix::net::UnixListener::bind(workspace.path("socket")).unwrap();
    symlink(workspace.path("pipe"), workspace.path("link")).unwrap();
    symlink(workspace.path("nowhere"), workspace.path("broken")).unwrap();
    for (name, kind) in [
        ("pipe", "a pipe"),
        ("socket", "a socket"),
        ("link", "a pipe"),
        ("broken", "a broken link"),
        ("data", "a directory"),
    ] {
        let before = std::fs::symlink_metadata(workspace.path(name)).unwrap();
        let said = converted(&workspace, &workspace.path(name)).unwrap_err();
        assert!(said.contains(&format!("{name} is {kind}, not a regular file: name another file")), "{said}");
        let after = std::fs::symlink_metadata(workspace.path(name)).unwrap();
        assert_eq!((after.ino(), after.file_type()), (before.ino(), before.file_type()), "{name}");
    }
}

#[test]
fn logits_are_not_written_over_what_they_are_computed_from() {
    let workspace = Workspace::new().with_teacher();
    let checkpoint = workspace.path("teacher/student.safetensors");
    let labels = workspace.path("data/t10k-labels-idx1-ubyte");
    let before = [&checkpoint, &labels].map(|path| std::fs::read(path).unwrap());
    symlink(&checkpoint, workspace.path("link")).unwrap();
    std::fs::hard_link(&checkpoint, workspace.path("twin")).unwrap();
    symlink(workspace.path("data"), workspace.path("elsewhere")).unwrap();
    symlink(&labels, workspace.path("labels")).unwrap();
    for (output, says) in [
        ("teacher/student.safetensors", "is the checkpoint itself"),
        ("link", "is the checkpoint itself"),
        ("twin", "is the checkpoint itself"),
        ("data/t10k-labels-idx1-ubyte", "is in the data set's directory"),
        ("data/new.safetensors", "is in the data set's directory"),
        ("elsewhere/new.safetensors", "is in the data set's directory"),
        ("labels", "is in the data set's directory"),
        ("nowhere/new.safetensors", "there is no directory"),
        ("teacher/manifest.json", "is no safetensors file"),
    ] {
        let mut command = trainer("evaluate");
        command.args(["--architecture", "resnet8", "--checkpoint"]).arg(&checkpoint);
        command.arg("--dataset").arg(workspace.path("data")).arg("--logits").arg(workspace.path(output));
        let run = command.output().unwrap();
        let said = text(&run.stderr);
        assert!(run.status.code() == Some(1) && said.contains(says), "{output}: {said}");
    }
    assert_eq!([&checkpoint, &labels].map(|path| std::fs::read(path).unwrap()), before);
    assert!(!workspace.path("data/new.safetensors").exists());
}

#[test]
fn a_run_writes_neither_over_its_teacher_nor_into_its_data_set() {
    let workspace = Workspace::new().with_teacher();
    let before = workspace.bytes("teacher/student.safetensors");
    let spec = workspace.distilled("kd");
    for (output, says) in [
        ("teacher", "student.safetensors is the teacher's checkpoint itself"),
        ("data", "is in the data set's directory"),
        ("data/below/run", "is in the data set's directory"),
    ] {
        let file = workspace.path("job.json");
        std::fs::write(&file, spec.to_string()).unwrap();
        let run = trainer("train").arg(file).arg("--output").arg(workspace.path(output)).output().unwrap();
        let said = text(&run.stderr);
        assert!(run.status.code() == Some(1) && said.contains(says), "{output}: {said}");
    }
    assert_eq!(workspace.bytes("teacher/student.safetensors"), before);
    assert!(!workspace.path("data/state").exists() && !workspace.path("data/below").exists());
}

/// A pipe that nobody reads any more.
fn unread() -> std::io::PipeWriter {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer
}

#[test]
fn a_run_whose_reader_is_gone_goes_on_and_says_so() {
    let workspace = Workspace::new();
    let run = workspace.command(&workspace.plain(), "out").stdout(unread()).output().unwrap();
    let said = text(&run.stderr);
    assert_eq!(run.status.code(), Some(0), "{said}");
    let warning = "warning: nobody reads standard output any more: the run goes on without its lines";
    assert_eq!(said.matches(warning).count(), 1, "{said}");
    assert!(workspace.path("out/student.safetensors").exists());
    // Nor does it matter whether anybody hears of that.
    let mut command = workspace.command(&workspace.plain(), "unheard");
    assert!(command.stdout(unread()).stderr(unread()).status().unwrap().success());
}

#[test]
fn a_result_that_nobody_reads_is_an_error_and_no_panic() {
    let workspace = Workspace::new().with_teacher();
    let mut command = trainer("convert");
    command.arg(workspace.path("teacher/student.safetensors")).arg(workspace.path("copy"));
    let run = command.stdout(unread()).output().unwrap();
    let said = text(&run.stderr);
    assert_eq!(run.status.code(), Some(1), "{said}");
    assert!(said.starts_with("error: standard output: ") && !said.contains("panicked"), "{said}");
}

#[test]
fn a_run_that_fails_before_it_has_written_anything_leaves_no_output_directory() {
    let workspace = Workspace::new();
    let changes = [
        json!({"dataset": {"path": "/nowhere"}}),
        json!({"student": {"checkpoint": "/nowhere.pt"}}),
        json!({"training": {"epochs": 0}}),
    ];
    for change in changes {
        let failure = workspace.fail(&merged(workspace.plain(), change), "out", &[]);
        assert_eq!(failure.class, ErrorClass::User, "{failure:?}");
        assert!(!workspace.path("out").exists(), "{failure:?}");
    }
    // What was there before stays.
    std::fs::create_dir(workspace.path("out")).unwrap();
    workspace.fail(&merged(workspace.plain(), json!({"dataset": {"path": "/nowhere"}})), "out", &[]);
    assert!(workspace.path("out").exists());
}

#[test]
fn an_output_directory_takes_one_run_at_a_time() {
    let workspace = Workspace::new();
    let spec = merged(workspace.plain(), json!({"training": {"epochs": 10000}}));
    let started = || {
        let mut run = Supervised::start(workspace.command(&spec, "out"));
        run.until(|event| matches!(event, Event::Started(_)));
        run
    };
    let run = started();
    let failure = workspace.fail(&spec, "out", &[]);
    assert_eq!(failure.class, ErrorClass::User);
    assert!(failure.message.contains("another run writes to it: wait for its end"), "{}", failure.message);
    // The kernel ends the claim with the process, however that ends.
    run.kill();
    started().kill();
}
