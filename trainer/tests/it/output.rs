//! Promise: a command says truthfully what it cannot write, and never writes over what somebody else needs.

use distillery_core::protocol::{ErrorClass, Event};
use serde_json::json;

use crate::support::{Supervised, Workspace, merged, text, trainer};

#[test]
fn convert_names_the_file_that_it_cannot_write_and_does_not_replace_its_input() {
    let workspace = Workspace::new().with_teacher();
    let input = workspace.path("teacher/student.safetensors");
    let convert = |output: &std::path::Path| {
        let run = trainer("convert").arg(&input).arg(output).output().unwrap();
        assert_eq!(run.status.code(), Some(1));
        text(&run.stderr)
    };
    let nowhere = workspace.path("nowhere/copy");
    let said = convert(&nowhere);
    assert!(said.contains(&format!("{} cannot be written: there is no directory", nowhere.display())), "{said}");
    let before = workspace.bytes("teacher/student.safetensors");
    std::os::unix::fs::symlink(&input, workspace.path("link")).unwrap();
    for same in [input.clone(), workspace.path("link")] {
        let said = convert(&same);
        assert!(said.contains("is the checkpoint itself: name another file"), "{said}");
    }
    assert_eq!(workspace.bytes("teacher/student.safetensors"), before);
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
