//! Promise: networks of timm and torchvision compute here what they compute in PyTorch, and students of networks that
//! these have, too, load there.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use distillery_core::export::bundle::{self, BundledFile, Contents};
use distillery_core::export::{Preprocessing, Student};
use serde_json::json;

use crate::support::{Workspace, merged};

/// Much used ones, of each kind: residual, depthwise with squeeze-and-excitation, layer norms, attention with a class
/// token and without, and re-parametrised. `make networks` compares many more, and writes the table in
/// docs/networks.md.
const NETWORKS: [(&str, usize); 6] = [
    ("resnet18", 1),
    ("mobilenetv3_small_050", 1),
    ("convnext_atto", 1),
    // Its tokens pooled, or one of them classified.
    ("vit_tiny_patch16_224", 2),
    ("torchvision/mobilenet_v2", 1),
    ("test_byobnet", 1),
];
/// Networks of the list that torchvision or timm have with the same keys, and in how many of the two.
const SHARED: [(&str, usize); 5] =
    [("resnet18", 2), ("resnet34", 2), ("resnet50", 2), ("resnet101", 2), ("mobilenet_v2_224", 1)];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Whether a program is there without which a test cannot run. It says so where it is not; `make networks` and
/// `.ci/run` require it.
fn is_there(needed: &Path, how: &str) -> bool {
    if needed.exists() {
        return true;
    }
    let missing = format!("not run: {} is not there ({how})", needed.display());
    assert!(std::env::var_os("DISTILLERY_TEST_NETWORKS").is_none(), "{missing}");
    eprintln!("{missing}");
    false
}

/// Python with PyTorch, timm and torchvision.
fn python() -> Option<Command> {
    let python = root().join(".deps/networks/run");
    is_there(&python, "scripts/setup networks").then(|| Command::new(python))
}

/// Runs a script, and returns the lines that it prints.
fn lines(command: &mut Command) -> Vec<String> {
    let output = command.output().unwrap();
    let (rows, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{rows}{errors}");
    rows.lines().map(str::to_owned).collect()
}

#[test]
fn networks_of_timm_and_torchvision_agree_with_pytorch() {
    let programs = Path::new(env!("CARGO_BIN_EXE_distillery-trainer")).parent().expect("it is in a directory");
    let Some(mut python) = python() else { return };
    if !is_there(&programs.join("examples/exported_step"), "cargo build --examples") {
        return;
    }
    let script = root().join("scripts/networks.py");
    let names = NETWORKS.map(|(name, _)| name).join(",");
    let rows = lines(python.arg(script).args(["--only", &names, "--programs"]).arg(programs));
    for (name, variants) in NETWORKS {
        assert_eq!(rows.iter().filter(|row| row.starts_with(name)).count(), variants, "{name}: {rows:?}");
    }
}

#[test]
fn students_load_from_bundles_into_torchvision_and_timm() {
    let Some(mut python) = python() else { return };
    let workspace = Workspace::new();
    python.arg(root().join("scripts/load_students.py"));
    for (name, _) in SHARED {
        let changes = json!({
            "student": {"architecture": name},
            "dataset": {"image_size": 32},
            "training": {"epochs": 1, "precision": "float32"},
        });
        workspace.finish(&merged(workspace.plain(), changes), name, &[]);
        let output = workspace.path(name);
        let path = output.join("student.safetensors");
        let student = Student::open(&path, None).unwrap();
        assert_ne!(student.preprocessing(), Preprocessing::default());
        let files = vec![BundledFile { name: "student.safetensors", path: &path, normalises: false }];
        let contents = Contents { name, files, manifest: None, teacher: None, network: None, manifest_sha256: None };
        bundle::write(&student, &contents, File::create(output.join("bundle.zip")).unwrap()).unwrap();
        python.arg(output);
    }
    let rows = lines(&mut python);
    for (name, libraries) in SHARED {
        let found = rows.iter().filter(|row| row.starts_with(&format!("{name} in "))).count();
        assert_eq!(found, libraries, "{name}: {rows:?}");
    }
}
