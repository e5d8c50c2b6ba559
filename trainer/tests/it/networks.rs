//! Promise: networks of timm and torchvision compute here what they compute in PyTorch, and students of networks that
//! these have, too, load there.

use std::fs::File;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::process::Command;

use distillery_core::export::bundle::{self, BundledFile, Contents};
use distillery_core::export::{Preprocessing, Student, write_pt2};
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

/// Exports networks that return their logits in a container, and saves their weights. All say the last of three
/// classes.
const WRAPPED: &str = r#"
import pathlib, sys
import torch
from safetensors.torch import save_file

class Wrapped(torch.nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)
        self.classifier = torch.nn.Linear(4, 3)
        self.wrap = wrap

    def forward(self, images):
        return self.wrap(self.classifier(self.conv(images).mean((2, 3))))

wraps = {
    "dict": lambda logits: {"auxiliary": None, "logits": logits},
    "tuple": lambda logits: (None, logits),
    "list": lambda logits: [logits],
}
for kind, wrap in wraps.items():
    model = Wrapped(wrap).train()
    torch.nn.init.zeros_(model.classifier.weight)
    model.classifier.bias.data = torch.tensor([0.0, 1.0, 2.0])
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (torch.zeros(2, 3, 16, 16),), dynamic_shapes=({0: batch},))
    torch.export.save(program, pathlib.Path(sys.argv[1], f"{kind}.pt2"))
    save_file(model.state_dict(), pathlib.Path(sys.argv[1], f"{kind}.safetensors"))
"#;

#[test]
fn the_python_of_a_bundle_finds_the_logits_in_a_dict_a_tuple_and_a_list() {
    let Some(mut exporting) = python() else { return };
    let directory = tempfile::tempdir().unwrap();
    let path = |name: String| directory.path().join(name);
    let image = path("image.png".to_owned());
    image::RgbImage::from_pixel(20, 16, image::Rgb([200, 100, 50])).save(&image).unwrap();
    lines(exporting.args(["-c", WRAPPED]).arg(directory.path()));
    for kind in ["dict", "tuple", "list"] {
        let (network, weights) = (path(format!("{kind}.pt2")), path(format!("{kind}.safetensors")));
        let student = Student::open(&weights, Some(&network)).unwrap();
        let exported = path(format!("{kind}-student.pt2"));
        write_pt2(&student, File::create(&exported).unwrap()).unwrap();
        let files = vec![BundledFile { name: "student.pt2", path: &exported, normalises: false }];
        let contents =
            Contents { name: kind, files, manifest: None, teacher: None, network: None, manifest_sha256: None };
        let mut archive = Cursor::new(Vec::new());
        bundle::write(&student, &contents, &mut archive).unwrap();
        let unpacked = path(kind.to_owned());
        zip::ZipArchive::new(archive).unwrap().extract(&unpacked).unwrap();
        let mut running = python().expect("it exported the networks");
        assert_eq!(lines(running.arg(unpacked.join("run.py")).arg(&image)), ["2"], "{kind}");
    }
}
