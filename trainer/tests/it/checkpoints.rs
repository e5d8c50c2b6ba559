//! Promise: a teacher is what its file says: its weights, NaN included, its normalisation, and its accuracy.

use std::path::Path;

use distillery_core::architecture;
use distillery_core::checkpoint::{Checkpoint, Dtype, NewTensor, write};
use distillery_core::protocol::{ErrorClass, Evaluation, Event};
use distillery_trainer::models;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use crate::support::{Workspace, merged, text, trainer, warnings};

#[test]
fn nan_stays_nan_in_a_frozen_network() {
    for name in ["resnet8", "resnet20_a", "wrn_16_1", "vgg8", "mobilenet_v2", "shufflenet_v1", "resnet18"] {
        let Some(architecture) = architecture::find(name) else { panic!("{name}") };
        let mut network = models::build(architecture, 3, 0);
        let is_middle = |name: &str| name.ends_with("conv1.weight") || name.ends_with(".0.weight");
        let index = network.weights().iter().rposition(|weight| is_middle(&weight.name)).unwrap();
        let weight = &network.weights()[index].tensor;
        let broken = Tensor::full(weight.size(), f64::NAN, (Kind::Float, Device::Cpu));
        network.set(index, &broken);
        network.place(Device::Cpu, Kind::Float);
        let images = Tensor::ones([2, 3, 32, 32], (Kind::Float, Device::Cpu));
        let nan = |logits: Tensor| logits.isnan().all().int64_value(&[]) == 1;
        assert!(nan(network.constant(Kind::Float, 2, 32).logits(&images, false)), "{name}");
        assert!(nan(network.constant(Kind::BFloat16, 2, 32).logits(&images, false)), "{name} in bfloat16");
    }
    // A negative variance only becomes NaN when the batch norm is folded.
    let mut network = models::build(architecture::find("resnet8").unwrap(), 3, 0);
    let index = network.weights().iter().position(|weight| weight.name == "layer2.0.bn1.running_var").unwrap();
    network.set(index, &Tensor::full([32], -1.0, (Kind::Float, Device::Cpu)));
    network.place(Device::Cpu, Kind::Float);
    let logits =
        network.constant(Kind::Float, 2, 32).logits(&Tensor::ones([2, 3, 32, 32], (Kind::Float, Device::Cpu)), false);
    assert_eq!(logits.isnan().all().int64_value(&[]), 1);
}

/// Writes a copy of the workspace's teacher with a changed tensor and more metadata.
fn altered(workspace: &Workspace, key: &str, value: f32, metadata: &[(&str, &str)]) {
    let read = Checkpoint::open(&workspace.path("teacher/student.safetensors")).unwrap();
    let tensors: Vec<_> = read
        .tensors()
        .iter()
        .map(|tensor| {
            let mut bytes = read.bytes(tensor).unwrap();
            if tensor.name() == key {
                bytes[..4].copy_from_slice(&value.to_le_bytes());
            }
            (tensor, bytes)
        })
        .collect();
    let new: Vec<_> = tensors
        .iter()
        .map(|(tensor, bytes)| NewTensor { name: tensor.name(), dtype: tensor.dtype(), shape: tensor.shape(), bytes })
        .collect();
    let mut all = read.metadata().clone();
    all.extend(metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
    write(&workspace.path("altered.safetensors"), &new, &all).unwrap();
}

fn with_altered(workspace: &Workspace) -> Value {
    merged(workspace.distilled("kd"), json!({"teacher": {"checkpoint": workspace.path("altered.safetensors")}}))
}

#[test]
fn a_teacher_with_broken_weights_is_refused_by_the_tensors_name() {
    let workspace = Workspace::new().with_teacher();
    for (key, value, says) in [
        ("layer2.0.conv1.weight", f32::NAN, "layer2.0.conv1.weight has 1 of 4608 values that are not finite"),
        ("bn1.running_var", -1.0, "bn1.running_var is a variance and has 1 of 16 values below zero"),
    ] {
        altered(&workspace, key, value, &[]);
        let failure = workspace.fail(&with_altered(&workspace), "out", &[]);
        assert_eq!(failure.class, ErrorClass::User);
        assert!(failure.message.contains(says), "{}", failure.message);
        let mut command = trainer("evaluate");
        command.args(["--architecture", "resnet8", "--checkpoint"]).arg(workspace.path("altered.safetensors"));
        let run = command.arg("--dataset").arg(workspace.path("data")).output().unwrap();
        assert!(!run.status.success() && text(&run.stderr).contains(says), "{}", text(&run.stderr));
    }
}

fn teacher_of(events: &[Event]) -> Evaluation {
    let teacher =
        events.iter().find_map(|event| if let Event::Teacher(teacher) = event { Some(*teacher) } else { None });
    teacher.expect("a teacher")
}

#[test]
fn a_teacher_that_was_a_student_keeps_its_normalisation_whatever_is_trained_on() {
    let workspace = Workspace::new().with_teacher();
    let alone = workspace.json("teacher/manifest.json")["best"]["evaluation"]["loss"].as_f64().unwrap();
    for changes in [
        json!({"dataset": {"limit": 16}, "training": {"epochs": 1}}),
        json!({"dataset": {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.6, 0.7]}, "training": {"epochs": 1}}),
    ] {
        let events = workspace.finish(&merged(workspace.distilled("kd"), changes), "out", &[]);
        let loss = teacher_of(&events).loss;
        assert!((loss - alone).abs() < 1e-6, "{loss} {alone}");
        let manifest = workspace.json("out/manifest.json");
        let stored = |manifest: &Value, of: &str| manifest[of]["mean"].clone();
        assert_eq!(stored(&manifest, "teacher"), stored(&workspace.json("teacher/manifest.json"), "data"));
        let says =
            |event: &Event| matches!(event, Event::Log { message, .. } if message.contains("that its file names"));
        assert!(events.iter().any(says), "{events:?}");
        std::fs::remove_dir_all(workspace.path("out")).unwrap();
    }
    // What the specification says comes first.
    let given = json!({"teacher": {"mean": [0.9, 0.9, 0.9], "std": [0.1, 0.1, 0.1]}, "training": {"epochs": 1}});
    let loss = teacher_of(&workspace.finish(&merged(workspace.distilled("kd"), given), "out", &[])).loss;
    assert!((loss - alone).abs() > 1e-3, "{loss} {alone}");
}

#[test]
fn a_teacher_far_below_its_own_record_is_warned_of() {
    let workspace = Workspace::new().with_teacher();
    let student = Checkpoint::open(&workspace.path("teacher/student.safetensors")).unwrap();
    let top1 = workspace.json("teacher/manifest.json")["best"]["evaluation"]["top1"].as_f64().unwrap();
    assert_eq!(student.recorded_accuracy(), Some(top1));
    // This normalisation turns every image black.
    let black = json!({"teacher": {"mean": [9.0, 9.0, 9.0], "std": [1.0, 1.0, 1.0]}, "training": {"epochs": 1}});
    let events = workspace.finish(&merged(workspace.distilled("kd"), black), "out", &[]);
    let warnings = warnings(&events);
    assert!(warnings.iter().any(|warning| warning.contains(&format!("but its file says {top1:.1} %"))), "{warnings:?}");
}

#[test]
fn a_teacher_below_min_top1_ends_the_run_before_it_trains() {
    let workspace = Workspace::new().with_teacher();
    let top1 = workspace.json("teacher/manifest.json")["best"]["evaluation"]["top1"].as_f64().unwrap();
    let least = |least: f64, more: Value| {
        let changes = json!({"teacher": {"min_top1": least}, "training": {"epochs": 1}});
        merged(merged(workspace.distilled("kd"), changes), more)
    };
    let black = json!({"teacher": {"mean": [9.0, 9.0, 9.0], "std": [1.0, 1.0, 1.0]}});
    let failure = workspace.fail(&least(top1, black), "out", &[]);
    assert_eq!(failure.class, ErrorClass::User);
    assert!(failure.message.contains("of teacher.min_top1, so nothing was trained"), "{}", failure.message);
    assert!(!workspace.path("out/state/checkpoint.safetensors").exists());
    workspace.finish(&least(top1, json!({})), "out", &[]);
}

#[test]
fn what_was_passed_over_in_a_checkpoint_is_in_the_events() {
    let workspace = Workspace::new().with_teacher();
    let read = Checkpoint::open(&workspace.path("teacher/student.safetensors")).unwrap();
    let tensors: Vec<_> = read
        .tensors()
        .iter()
        .map(|tensor| (format!("_orig_mod.{}", tensor.name()), tensor, read.bytes(tensor).unwrap()))
        .collect();
    let new: Vec<_> = tensors
        .iter()
        .map(|(name, tensor, bytes)| NewTensor { name, dtype: tensor.dtype(), shape: tensor.shape(), bytes })
        .collect();
    write(&workspace.path("altered.safetensors"), &new, read.metadata()).unwrap();
    let spec = merged(with_altered(&workspace), json!({"training": {"epochs": 1}}));
    let events = workspace.finish(&spec, "out", &[]);
    let expected = "the teacher's checkpoint: every key begins with _orig_mod., which is left out";
    assert!(warnings(&events).contains(&expected), "{:?}", warnings(&events));
    let run =
        trainer("convert").arg(workspace.path("altered.safetensors")).arg(workspace.path("copy")).output().unwrap();
    let converted: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(converted["fits"], json!(["resnet8"]));
    assert_eq!(converted["notes"], json!(["every key begins with _orig_mod., which is left out"]));
}

#[test]
fn inspect_describes_exported_networks_and_checkpoints() {
    let workspace = Workspace::new().with_teacher();
    let inspected = |path: &Path| trainer("inspect").arg(path).output().unwrap();
    let exported = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/exported/test_efficientnet.pt2");
    let run = inspected(&exported);
    let description: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(description["format"], "torch_export");
    assert_eq!(description["feature_map"]["shape"], json!([256, 2, 2]));

    let run = inspected(&workspace.path("teacher/student.safetensors"));
    let description: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!((&description["format"], &description["fits"]), (&json!("safetensors"), &json!(["resnet8"])));

    let bytes = std::fs::read(exported).unwrap();
    std::fs::write(workspace.path("half.pt2"), &bytes[..bytes.len() / 2]).unwrap();
    let run = inspected(&workspace.path("half.pt2"));
    assert_eq!(run.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&run.stderr).contains("the file is truncated"), "{run:?}");
}

#[test]
fn no_command_waits_for_a_pipe_in_place_of_a_checkpoint() {
    let workspace = Workspace::new();
    let pipe = workspace.path("pipe");
    // Nobody ever writes to it.
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut evaluate = trainer("evaluate");
    evaluate
        .args(["--architecture", "resnet8", "--dataset"])
        .arg(workspace.path("data"))
        .arg("--checkpoint")
        .arg(&pipe);
    let mut convert = trainer("convert");
    convert.arg(&pipe).arg(workspace.path("copy"));
    let mut inspect = trainer("inspect");
    inspect.arg(&pipe);
    for mut command in [evaluate, convert, inspect] {
        let run = command.output().unwrap();
        let said = text(&run.stderr);
        assert_eq!(run.status.code(), Some(1), "{said}");
        assert!(said.contains("pipe: it is a pipe, not a regular file"), "{said}");
    }
    let spec = merged(workspace.distilled("kd"), json!({"teacher": {"checkpoint": pipe}}));
    let failure = workspace.fail(&spec, "out", &[]);
    assert!(failure.class == ErrorClass::User && failure.message.contains("it is a pipe"), "{failure:?}");
}

#[test]
fn convert_refuses_weights_that_no_network_computes_with_and_inspect_notes_them() {
    let workspace = Workspace::new().with_teacher();
    let file = workspace.path("altered.safetensors");
    let assert_said = |says: &str| {
        let run = trainer("inspect").arg(&file).output().unwrap();
        let description: Value =
            serde_json::from_slice(&run.stdout).unwrap_or_else(|_| panic!("{}", text(&run.stderr)));
        let notes = description["notes"].as_array().unwrap();
        assert!(notes.iter().any(|note| note.as_str().unwrap().contains(says)), "{description}");
        let run = trainer("convert").arg(&file).arg(workspace.path("copy")).output().unwrap();
        let said = text(&run.stderr);
        assert!(run.status.code() == Some(1) && said.contains(says), "{said}");
        assert!(!workspace.path("copy").exists());
    };
    altered(&workspace, "layer2.0.conv1.weight", f32::NAN, &[]);
    assert_said("cannot be used: layer2.0.conv1.weight has 1 of 4608 values that are not finite");
    altered(&workspace, "bn1.running_var", -1.0, &[]);
    assert_said("cannot be used: bn1.running_var is a variance and has 1 of 16 values below zero");
    let read = Checkpoint::open(&workspace.path("teacher/student.safetensors")).unwrap();
    let tensors: Vec<_> = read
        .tensors()
        .iter()
        .map(|tensor| match tensor.name() {
            "fc.bias" => (tensor, Dtype::I64, vec![0; 8 * tensor.elements() as usize]),
            _ => (tensor, tensor.dtype(), read.bytes(tensor).unwrap()),
        })
        .collect();
    let new: Vec<_> = tensors
        .iter()
        .map(|(tensor, dtype, bytes)| NewTensor { name: tensor.name(), dtype: *dtype, shape: tensor.shape(), bytes })
        .collect();
    write(&file, &new, read.metadata()).unwrap();
    assert_said("cannot be used: fc.bias has elements of type I64");
}
