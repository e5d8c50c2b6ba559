//! Promise: a command says truthfully what it cannot write, and never writes over what somebody else needs.

use crate::support::{Workspace, text, trainer};

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
