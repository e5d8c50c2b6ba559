//! Promise: networks of timm compute here what they compute in PyTorch.

use std::path::Path;
use std::process::Command;

/// Small or much used ones. `make networks` compares many more, and writes the table in docs/networks.md.
const NETWORKS: &str = "test_resnet,test_byobnet,test_vit,mobilenetv3_small_050,convnext_atto";

#[test]
fn networks_of_timm_agree_with_pytorch() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let python = root.join(".deps/networks/run");
    let programs = Path::new(env!("CARGO_BIN_EXE_distillery-trainer")).parent().expect("it is in a directory");
    for (needed, how) in [
        (python.as_path(), "scripts/setup networks"),
        (&programs.join("examples/exported_step"), "cargo build --examples"),
    ] {
        if !needed.exists() {
            eprintln!("not run: {} is not there ({how})", needed.display());
            return;
        }
    }
    let script = root.join("scripts/networks.py");
    let compared =
        Command::new(python).arg(script).args(["--only", NETWORKS, "--programs"]).arg(programs).output().unwrap();
    let (rows, errors) = (String::from_utf8_lossy(&compared.stdout), String::from_utf8_lossy(&compared.stderr));
    assert!(compared.status.success(), "{rows}{errors}");
    assert_eq!(rows.lines().count(), NETWORKS.split(',').count(), "{rows}{errors}");
}
