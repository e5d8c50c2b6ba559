//! Runs whose teacher or student, or both, are exported networks: through the command line, to the same bytes.

use std::path::PathBuf;
use std::time::Duration;

use distillery_core::checkpoint::{self, Checkpoint, Dtype, NewTensor, Tensor};
use distillery_core::exported::{self, ExportedNetwork, TensorRole};
use distillery_core::protocol::{Event, Started};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::networks::{residual, without_map, write};
use super::programs::{B, int, tensor};
use crate::support::{Supervised, Workspace, merged, started, text, trainer, warnings};

/// A workspace with the exported networks `teacher.pt2`, in evaluation mode, and `student.pt2`, in training mode.
fn workspace() -> Workspace {
    let workspace = Workspace::new();
    write(residual(false), &workspace.path("teacher.pt2"), 0);
    write(residual(true), &workspace.path("student.pt2"), 50);
    write(without_map(), &workspace.path("without_map.pt2"), 90);
    workspace
}

/// A specification with these networks, which names no architecture and no image size.
fn specification(workspace: &Workspace, method: &str, teacher: &Value, student: &Value, changes: Value) -> Value {
    let document = json!({
        "teacher": teacher, "student": student,
        "dataset": {"path": workspace.path("data")},
        "distillation": {"method": method},
        "training": {"epochs": 2, "batch_size": 16, "augmentation": "crop_flip", "precision": "float32", "seed": 3},
    });
    merged(document, changes)
}

fn file(workspace: &Workspace, name: &str) -> Value {
    json!({"checkpoint": workspace.path(name)})
}

/// SD-KD from an exported teacher to an exported student.
fn both_exported(workspace: &Workspace, changes: Value) -> Value {
    let [teacher, student] = ["teacher.pt2", "student.pt2"].map(|name| file(workspace, name));
    let scales = json!({"distillation": {"scales": [1, 2, 4]}});
    specification(workspace, "sdd_kd", &teacher, &student, merged(scales, changes))
}

fn sha256(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn assert_same_students(workspace: &Workspace, one: &str, other: &str) {
    for file in ["student.safetensors", "student-last.safetensors"] {
        let [one, other] = [one, other].map(|output| workspace.bytes(format!("{output}/{file}")));
        assert!(one == other, "{file} differs");
    }
}

#[test]
fn a_killed_distillation_between_exported_networks_resumes_to_the_same_bytes() {
    let workspace = workspace();
    for (name, precision) in [("single", "float32"), ("brain", "bfloat16")] {
        let changes = json!({"training": {"epochs": 6, "batch_size": 4, "precision": precision}});
        let spec = both_exported(&workspace, changes);
        let [whole, killed] = ["whole", "killed"].map(|output| format!("{name}-{output}"));
        workspace.finish(&spec, &whole, &[]);
        let mut run = Supervised::start(workspace.command(&spec, &killed));
        run.until(|event| matches!(event, Event::Checkpoint { epoch: 2, .. }));
        assert!(run.until_it_has_computed(run.computed() + Duration::from_millis(40)), "it ended within the epoch");
        run.kill();
        let events = workspace.finish(&spec, &killed, &[]);
        let Started { resumed_epochs, .. } = started(&events);
        assert!((2..6).contains(resumed_epochs), "{resumed_epochs}");
        assert_same_students(&workspace, &whole, &killed);
    }
}

#[test]
fn the_student_has_the_files_own_state_dict() {
    let workspace = workspace();
    workspace.finish(&both_exported(&workspace, json!({})), "out", &[]);
    let network = ExportedNetwork::open(&workspace.path("student.pt2")).unwrap();
    let student = Checkpoint::open_as_written(&workspace.path("out/student-last.safetensors")).unwrap();
    let state = network.tensors().iter().filter(|stored| stored.role != TensorRole::Constant);
    let mut count = 0;
    for stored in state {
        let tensor = student.get(stored.tensor.name()).unwrap_or_else(|| panic!("{}", stored.tensor.name()));
        assert_eq!((tensor.dtype(), tensor.shape()), (stored.tensor.dtype(), stored.tensor.shape()));
        if tensor.dtype() == Dtype::I64 {
            // 150 images in batches of 16, twice.
            assert_eq!(student.bytes(tensor).unwrap(), 20_i64.to_le_bytes());
        }
        count += 1;
    }
    assert_eq!(student.tensors().len(), count);
    let own = |name: &str| exported::sha256(&workspace.path(name)).unwrap();
    let hash = own("student.pt2");
    // As a server stores it, without the stack traces that the file has.
    assert_ne!(hash, sha256(&workspace.bytes("student.pt2")));
    let metadata = student.metadata();
    assert_eq!((metadata["format"].as_str(), metadata["network"].as_str()), ("exported", hash.as_str()));
    assert_eq!((metadata.get("architecture"), metadata["image_size"].as_str()), (None, "8"));
    let manifest = workspace.json("out/manifest.json");
    assert_eq!(manifest["initial_student_sha256"], json!(hash));
    assert_eq!(manifest["teacher"]["sha256"], json!(own("teacher.pt2")));
    assert!(workspace.json("out/regions.json")["scales"].as_array().unwrap().len() == 3);
}

#[test]
fn a_parameter_that_was_frozen_before_the_export_stays_as_it_is() {
    let workspace = workspace();
    let mut program = residual(true);
    program.weights["config"]["stem.weight"]["tensor_meta"]["requires_grad"] = json!(false);
    let file = write(program, &workspace.path("student.pt2"), 50);
    let events = workspace.finish(&both_exported(&workspace, json!({})), "out", &[]);
    let named = |message: &&str| message.contains("frozen by requires_grad_(False)") && message.contains("stem.weight");
    assert!(warnings(&events).iter().any(named), "{:?}", warnings(&events));
    let network = ExportedNetwork::open(&file).unwrap();
    let student = Checkpoint::open_as_written(&workspace.path("out/student-last.safetensors")).unwrap();
    for (key, is_same) in [("stem.weight", true), ("branch.weight", false)] {
        let before = network.tensors().iter().find(|stored| stored.tensor.name() == key).unwrap();
        let after = student.bytes(student.get(key).unwrap()).unwrap();
        assert_eq!(network.bytes(before).unwrap() == after, is_same, "{key}");
    }
}

#[test]
fn a_run_with_exported_networks_is_verified() {
    let workspace = workspace();
    workspace.finish(&both_exported(&workspace, json!({})), "out", &[]);
    for flags in [&[][..], &["--full"]] {
        let mut command = trainer("verify");
        let run = command.arg(workspace.path("out/manifest.json")).args(flags).output().unwrap();
        let verdict: Value = serde_json::from_slice(&run.stdout).unwrap_or_else(|_| panic!("{}", text(&run.stderr)));
        assert_eq!(verdict["matches"], json!(true), "{verdict:#}");
    }
    // The user's own file and what a server keeps of it, without stack traces, are the same network.
    for (flag, name) in [("--teacher", "teacher.pt2"), ("--student", "student.pt2")] {
        let stored = workspace.path(format!("stored-{name}"));
        std::fs::copy(workspace.path(name), &stored).unwrap();
        let file = std::fs::OpenOptions::new().read(true).write(true).open(&stored).unwrap();
        assert!(exported::strip_traces(&file).unwrap(), "{name} has traces");
        let mut command = trainer("verify");
        let run = command.arg(workspace.path("out/manifest.json")).arg(flag).arg(&stored).output().unwrap();
        assert!(run.status.success(), "{}", text(&run.stderr));
    }
    // Another file is not the run's.
    write(residual(true), &workspace.path("student.pt2"), 51);
    let run = trainer("verify").arg(workspace.path("out/manifest.json")).output().unwrap();
    assert!(text(&run.stderr).contains("is not the checkpoint of the run"), "{}", text(&run.stderr));
}

#[test]
fn the_networks_of_both_can_be_named_to_verify_a_run() {
    let workspace = workspace();
    workspace.finish(&both_exported(&workspace, json!({"training": {"epochs": 1}})), "first", &[]);
    let weights = workspace.path("first/student.safetensors");
    let both = json!({"checkpoint": weights, "network": workspace.path("student.pt2")});
    let spec = specification(&workspace, "kd", &both, &both, json!({"training": {"epochs": 1}}));
    workspace.finish(&spec, "out", &[]);
    let moved = workspace.path("moved.pt2");
    std::fs::rename(workspace.path("student.pt2"), &moved).unwrap();
    let verify = |flags: &[&str]| {
        let mut command = trainer("verify");
        command.arg(workspace.path("out/manifest.json"));
        for flag in flags {
            command.arg(flag).arg(&moved);
        }
        let run = command.output().unwrap();
        if run.status.success() { Ok(()) } else { Err(text(&run.stderr)) }
    };
    let said = verify(&["--teacher-network"]).unwrap_err();
    assert!(said.contains("--student-network"), "{said}");
    verify(&["--teacher-network", "--student-network"]).unwrap_or_else(|said| panic!("{said}"));
}

#[test]
fn the_zoo_and_exported_networks_teach_each_other() {
    let workspace = workspace().with_teacher();
    let zoo = json!({"architecture": "resnet8", "checkpoint": workspace.path("teacher/student.safetensors")});
    let exported = file(&workspace, "teacher.pt2");
    let student = file(&workspace, "student.pt2");
    let image_size = json!({"dataset": {"image_size": 8}, "training": {"epochs": 1}});
    for (output, method, teacher, student) in [
        ("one", "sdd_dkd", &zoo, &student),
        ("two", "sdd_nkd", &exported, &json!({"architecture": "resnet8"})),
        ("three", "kd", &file(&workspace, "without_map.pt2"), &student),
        ("four", "dkd", &exported, &file(&workspace, "without_map.pt2")),
    ] {
        workspace.finish(&specification(&workspace, method, teacher, student, image_size.clone()), output, &[]);
    }
    let mut plain = specification(&workspace, "none", &Value::Null, &student, image_size);
    plain.as_object_mut().unwrap().remove("teacher");
    workspace.finish(&plain, "plain", &[]);
}

#[test]
fn the_history_says_that_a_teacher_returns_probabilities() {
    let workspace = workspace();
    let mut network = residual(false);
    network.node("softmax.int", "end", &[("self", tensor("classifier")), ("dim", int(1))], &[B, 4]);
    network.result("end");
    write(network, &workspace.path("probabilities.pt2"), 0);
    let student = json!({"architecture": "resnet8"});
    let changes = json!({"dataset": {"image_size": 8}, "training": {"epochs": 1}});
    let spec = specification(&workspace, "kd", &file(&workspace, "probabilities.pt2"), &student, changes);
    let events = workspace.finish(&spec, "out", &[]);
    let said = warnings(&events);
    let words =
        ["the teacher's network", "ends in softmax (end), so it returns no logits", "export the network without it"];
    assert!(said.iter().any(|message| words.iter().all(|words| message.contains(words))), "{said:?}");
}

#[test]
fn a_teachers_cached_logits_do_not_change_the_student() {
    let workspace = workspace();
    let spec = both_exported(&workspace, json!({"training": {"teacher_cache": "views:1", "epochs": 3}}));
    let cache = workspace.path("cache");
    let flags = ["--cache-dir", cache.to_str().unwrap()];
    workspace.finish(&spec, "without", &[]);
    workspace.finish(&spec, "filling", &flags);
    workspace.finish(&spec, "reading", &flags);
    assert_same_students(&workspace, "without", "filling");
    assert_same_students(&workspace, "without", "reading");
}

#[test]
fn two_devices_train_an_exported_student_again_to_the_same_bytes() {
    let workspace = workspace();
    let mut program = residual(true);
    // No gradient reaches it, and no rank may wait for one.
    program.parameter("unused", &[3, 3]);
    write(program, &workspace.path("student.pt2"), 50);
    let spec = both_exported(&workspace, json!({"training": {"devices": 2, "batch_size": 6}}));
    workspace.finish(&spec, "one", &[]);
    workspace.finish(&spec, "two", &[]);
    assert_same_students(&workspace, "one", "two");
    let single = both_exported(&workspace, json!({"training": {"batch_size": 6}}));
    workspace.finish(&single, "single", &[]);
    assert!(workspace.bytes("one/student.safetensors") != workspace.bytes("single/student.safetensors"));
}

/// Evaluates; returns the answer, or what was said instead.
fn evaluated(workspace: &Workspace, flags: &[&str]) -> Result<Value, String> {
    let mut command = trainer("evaluate");
    let run = command.arg("--dataset").arg(workspace.path("data")).args(flags).output().unwrap();
    serde_json::from_slice(&run.stdout).map_err(|_| text(&run.stderr))
}

#[test]
fn evaluate_finds_out_what_network_a_file_has() {
    let workspace = workspace().with_teacher();
    workspace.finish(&both_exported(&workspace, json!({})), "out", &[]);
    let path = |name: &str| -> PathBuf { workspace.path(name) };
    let paths = ["teacher.pt2", "out/student.safetensors", "student.pt2", "teacher/student.safetensors"].map(path);
    let [teacher, student, network, zoo] = paths.each_ref().map(|path| path.to_str().unwrap());
    let images =
        |flags: &[&str]| evaluated(&workspace, flags).unwrap_or_else(|said| panic!("{said}"))["images"].clone();
    assert_eq!(images(&["--checkpoint", teacher]), json!(50));
    assert_eq!(images(&["--checkpoint", zoo]), json!(50));
    let found = evaluated(&workspace, &["--checkpoint", student, "--network", network]).unwrap();
    let recorded = workspace.json("out/manifest.json")["best"]["evaluation"].clone();
    assert_eq!((&found["top1"], &found["loss"]), (&recorded["top1"], &recorded["loss"]));
    for (flags, says) in [
        (&["--checkpoint", student][..], "has the weights of an exported network and not its graph"),
        (&["--checkpoint", zoo, "--network", network], "does not fit the exported network "),
        (&["--checkpoint", teacher, "--image-size", "16"], "exported for images of 8×8 pixels, not 16×16"),
        (&["--checkpoint", teacher, "--architecture", "resnet8"], "is an exported network"),
    ] {
        let said = evaluated(&workspace, flags).unwrap_err();
        assert!(said.contains(says), "{flags:?}: {said}");
    }
}

#[test]
fn the_state_dict_of_a_network_converts_to_weights_beside_its_graph() {
    let workspace = workspace();
    let [network, output] = ["student.pt2", "converted.safetensors"].map(|name| workspace.path(name));
    let run = trainer("convert").arg(&network).arg(&output).output().unwrap();
    let said: Value = serde_json::from_slice(&run.stdout).unwrap_or_else(|_| panic!("{}", text(&run.stderr)));
    let file = ExportedNetwork::open(&network).unwrap();
    let state: Vec<_> = file.tensors().iter().filter(|stored| stored.role != TensorRole::Constant).collect();
    assert_eq!((&said["format"], &said["tensors"]), (&json!("torch_export"), &json!(state.len())));
    let converted = Checkpoint::open_as_written(&output).unwrap();
    for stored in state {
        let tensor = converted.get(stored.tensor.name()).unwrap_or_else(|| panic!("{}", stored.tensor.name()));
        assert_eq!((tensor.dtype(), tensor.shape()), (stored.tensor.dtype(), stored.tensor.shape()));
        assert_eq!(converted.bytes(tensor).unwrap(), file.bytes(stored).unwrap(), "{}", stored.tensor.name());
    }
    let [network, output] = [network, output].map(|path| path.to_str().unwrap().to_owned());
    let whole = evaluated(&workspace, &["--checkpoint", &network]).unwrap();
    let beside = evaluated(&workspace, &["--checkpoint", &output, "--network", &network]).unwrap();
    assert_eq!((&whole["top1"], &whole["loss"]), (&beside["top1"], &beside["loss"]));
    for (command, more) in [("convert", &["other.safetensors"][..]), ("inspect", &[])] {
        let run = trainer(command).arg(&network).args(more).args(["--state-dict", "model"]).output().unwrap();
        let said = text(&run.stderr);
        assert!(!run.status.success() && said.contains("one state dict only: leave out --state-dict"), "{said}");
    }
    let said = evaluated(&workspace, &["--checkpoint", &network, "--state-dict", "model"]).unwrap_err();
    assert!(said.contains("leave out --state-dict"), "{said}");
}

#[test]
fn weights_beside_a_graph_are_held_to_what_other_checkpoints_are() {
    let workspace = workspace();
    workspace.finish(&both_exported(&workspace, json!({"training": {"epochs": 1}})), "out", &[]);
    let read = Checkpoint::open_as_written(&workspace.path("out/student.safetensors")).unwrap();
    let paths = ["altered.safetensors", "student.pt2"].map(|name| workspace.path(name));
    let [altered, network] = paths.each_ref().map(|path| path.to_str().unwrap());
    let alter = |variance: f32, metadata: &[(&str, &str)]| {
        let bytes_of = |tensor: &Tensor| {
            let mut bytes = read.bytes(tensor).unwrap();
            if tensor.name() == "stem_norm.running_var" {
                bytes[..4].copy_from_slice(&variance.to_le_bytes());
            }
            bytes
        };
        let bytes: Vec<_> = read.tensors().iter().map(bytes_of).collect();
        let tensors = read.tensors().iter().zip(&bytes).map(|(tensor, bytes)| NewTensor {
            name: tensor.name(),
            dtype: tensor.dtype(),
            shape: tensor.shape(),
            bytes,
        });
        let mut all = read.metadata().clone();
        all.extend(metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        checkpoint::write(&paths[0], &tensors.collect::<Vec<_>>(), &all).unwrap();
    };
    let flags = ["--checkpoint", altered, "--network", network];
    alter(-1.0, &[]);
    let said = evaluated(&workspace, &flags).unwrap_err();
    assert!(said.contains("stem_norm.running_var is a variance and has 1 of 16 values below zero"), "{said}");
    alter(1.0, &[("mean", "[128, 128, 128]"), ("image_size", "16"), ("eval_crop", "middle")]);
    let notes = evaluated(&workspace, &flags).unwrap_or_else(|said| panic!("{said}"))["notes"].to_string();
    for says in [
        "the mean and std in its metadata are ignored",
        "the image_size 16 in its metadata is ignored: the network was exported for images of 8×8 pixels",
        "the eval_crop",
    ] {
        assert!(notes.contains(says), "{says}: {notes}");
    }
    let before = workspace.bytes("student.pt2");
    let said = evaluated(&workspace, &[&flags[..], &["--logits", network]].concat()).unwrap_err();
    assert!(said.contains("student.pt2 is the exported network itself"), "{said}");
    assert!(workspace.bytes("student.pt2") == before, "the network was written over");
}

#[test]
fn an_exported_student_teaches_with_its_weights_beside_its_graph() {
    let workspace = workspace();
    workspace.finish(&both_exported(&workspace, json!({})), "first", &[]);
    let network = workspace.path("student.pt2");
    let teacher = json!({"checkpoint": workspace.path("first/student.safetensors"), "network": network});
    let student = file(&workspace, "student.pt2");
    let spec = specification(&workspace, "sdd_kd", &teacher, &student, json!({"distillation": {"scales": [1, 2]}}));
    workspace.finish(&spec, "second", &[]);
    let manifest = workspace.json("second/manifest.json");
    let best = &workspace.json("first/manifest.json")["best"];
    assert_eq!(manifest["teacher"]["sha256"], best["student"]["sha256"]);
    assert_eq!(manifest["teacher"]["network_sha256"], json!(exported::sha256(&network).unwrap()));
    assert_eq!(manifest["teacher"]["evaluation"]["top1"], best["evaluation"]["top1"]);
    // A job is named by the files that stand for it.
    let mut posted = spec;
    posted["teacher"] = json!({"job": "job_01KB3Z6V0Q2M5K8N1R4T7W9XYZ"});
    let [weights, graph] =
        ["first/student.safetensors", "student.pt2"].map(|name| workspace.path(name).to_str().unwrap().to_owned());
    let flags = ["--teacher", &weights, "--teacher-network", &graph];
    workspace.finish(&posted, "third", &flags);
    assert_same_students(&workspace, "second", "third");

    // On several devices, each rank reads both files.
    let of_two = merged(posted, json!({"training": {"devices": 2, "batch_size": 6}}));
    workspace.finish(&of_two, "fourth", &flags);
    workspace.finish(&of_two, "fifth", &flags);
    assert_same_students(&workspace, "fourth", "fifth");
    let manifest = workspace.json("fourth/manifest.json");
    assert_eq!(manifest["teacher"]["network_sha256"], json!(exported::sha256(&network).unwrap()));
    assert_eq!(manifest["teacher"]["evaluation"]["top1"], best["evaluation"]["top1"]);
}
