//! What `evaluate` refuses, and what it says of what it chose.

use std::process::Output;

use crate::support::{Workspace, text, trainer};

/// `evaluate` with the workspace's teacher.
fn evaluate(workspace: &Workspace, flags: &[&str]) -> Output {
    let mut command = trainer("evaluate");
    command.args(["--architecture", "resnet8", "--checkpoint"]).arg(workspace.path("teacher/student.safetensors"));
    command.arg("--dataset").arg(workspace.path("data")).args(flags).output().unwrap()
}

#[test]
fn a_normalisation_for_values_up_to_255_is_refused() {
    let workspace = Workspace::new().with_teacher();
    for (mean, std, flag) in [
        ("128,128,128", "0.2,0.2,0.2", "--mean"),
        ("0.5,0.5,0.5", "60,60,60", "--std"),
        ("0.5,0.5,0.5", "0.2,0,0.2", "--std"),
        ("nan,0.5,0.5", "0.2,0.2,0.2", "--mean"),
    ] {
        let run = evaluate(&workspace, &["--mean", mean, "--std", std]);
        let said = text(&run.stderr);
        assert!(!run.status.success() && run.stdout.is_empty(), "{mean} {std}");
        assert!(said.contains(flag) && said.contains("pixel values are in [0, 1]"), "{said}");
    }
    assert!(evaluate(&workspace, &["--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2"]).status.success());
}
