//! The command line: `train`, `evaluate` and `convert`.

mod evaluating;
mod framing;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use distillery_core::checkpoint::{self, Checkpoint, NewTensor};
use distillery_core::protocol::{ErrorClass, Event, Outcome, Point};
use safetensors::SafeTensors;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tch::Device;

use crate::support::{Workspace, merged, outcome, program, started, text, trainer, warnings};

#[test]
fn training_a_teacher_and_a_student_produces_every_promised_output() {
    let workspace = Workspace::new().with_teacher();
    let spec = merged(workspace.distilled("sdd_kd"), json!({"distillation": {"scales": [1, 2]}}));
    let events = workspace.finish(&spec, "out", &[]);
    let kind = |event: &Event| serde_json::to_value(event).unwrap()["type"].as_str().unwrap().to_owned();
    let kinds: Vec<_> = events.iter().map(kind).collect();
    assert_eq!(kinds.first().unwrap(), "started");
    assert_eq!(kinds.last().unwrap(), "finished");
    assert_eq!(kinds.iter().filter(|kind| *kind == "checkpoint").count(), 2);
    assert!(warnings(&events).is_empty(), "{:?}", warnings(&events));
    let started = started(&events);
    assert_eq!((started.train_images, started.eval_images, started.classes), (150, 50, 4));
    // Nine batches of 16 images and one of 6.
    assert_eq!((started.steps_per_epoch, started.resumed_step), (10, 0));
    let Some(Event::Teacher(teacher)) = events.iter().find(|event| matches!(event, Event::Teacher(_))) else {
        panic!("no teacher event");
    };
    let outcome = outcome(&events);
    assert_eq!(outcome.teacher_top1, Some(teacher.top1));
    assert_metrics(&workspace, &events);
    assert_manifest(&workspace, outcome, teacher.top1);
    assert_student(&workspace, outcome.best_epoch);
}

/// The file of metrics has every series and the points of the events, and its losses add up.
fn assert_metrics(workspace: &Workspace, events: &[Event]) {
    let lines = text(&workspace.bytes("out/metrics.ndjson"));
    let points: Vec<Point> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: BTreeSet<&str> = points.iter().map(|point| point.name.as_str()).collect();
    let expected = [
        "eval/balanced_accuracy",
        "eval/f1",
        "eval/loss",
        "eval/top1",
        "eval/top5",
        "images_per_second",
        "lr",
        "memory/resident_bytes",
        "sdd/complementary_fraction",
        "sdd/scale_1/complementary_fraction",
        "sdd/scale_1/loss",
        "sdd/scale_2/complementary_fraction",
        "sdd/scale_2/loss",
        "train/loss",
        "train/loss_ce",
        "train/loss_complementary",
        "train/loss_consistent",
        "train/loss_distill",
        "train/top1",
    ];
    assert_eq!(names, BTreeSet::from(expected));
    let in_events: Vec<&Point> = events
        .iter()
        .filter_map(|event| if let Event::Metrics { points } = event { Some(points) } else { None })
        .flatten()
        .collect();
    assert_eq!(in_events, points.iter().collect::<Vec<_>>());
    let value = |name: &str, step| points.iter().find(|p| p.name == name && p.step == step).unwrap().value;
    let together = 0.1 * value("train/loss_ce", 10) + 0.9 * value("train/loss_distill", 10);
    assert!((value("train/loss", 10) - together).abs() < 1e-4 * together);
    let parts = value("train/loss_consistent", 10) + value("train/loss_complementary", 10);
    assert!((value("train/loss_distill", 10) - parts).abs() < 1e-4 * parts);

    // One of the five regions is the whole image, which is never complementary.
    assert_eq!(value("sdd/scale_1/complementary_fraction", 10), 0.0);
    let (all, of_fine) = (value("sdd/complementary_fraction", 10), value("sdd/scale_2/complementary_fraction", 10));
    assert!((all - of_fine * 4.0 / 5.0).abs() < 1e-6, "{all} {of_fine}");
}

/// The manifest and the region report are of the files beside them.
fn assert_manifest(workspace: &Workspace, outcome: &Outcome, teacher_top1: f64) {
    let regions = workspace.json("out/regions.json");
    assert_eq!(regions["images"], 50);
    assert_eq!(regions["scales"][1]["map"].as_array().unwrap().len(), 2);

    let student = workspace.bytes("out/student.safetensors");
    assert_eq!(outcome.student.sha256, hex::encode(Sha256::digest(&student)));
    assert_eq!(outcome.student.size_bytes, student.len() as u64);
    let manifest = workspace.json("out/manifest.json");
    assert_eq!(manifest["best"]["student"]["sha256"], outcome.student.sha256);
    assert_eq!(manifest["last"]["evaluation"]["top1"], outcome.last_top1);
    assert_eq!(manifest["teacher"]["evaluation"]["top1"], teacher_top1);
    let teacher_file = workspace.bytes("teacher/student.safetensors");
    assert_eq!(manifest["teacher"]["sha256"], hex::encode(Sha256::digest(teacher_file)));
    assert!(manifest["versions"]["libtorch"].as_str().unwrap().starts_with("2.11"));
    assert!(!manifest["data"]["sha256_of_files"]["train"].as_str().unwrap().is_empty());
    let attempt = &manifest["attempts"][0];
    assert_eq!((attempt["number"].as_u64(), attempt["from_step"].as_u64()), (Some(1), Some(0)));
    assert_eq!((attempt["device"].as_str(), attempt["threads"].as_u64()), (Some("cpu"), Some(1)));
}

/// The student's file names its network, and PyTorch can load it.
fn assert_student(workspace: &Workspace, best_epoch: u32) {
    let student = workspace.bytes("out/student.safetensors");
    let (_, header) = SafeTensors::read_metadata(&student).unwrap();
    let metadata = header.metadata().as_ref().unwrap();
    assert_eq!((metadata["architecture"].as_str(), metadata["num_classes"].as_str()), ("resnet8", "4"));
    for key in ["mean", "std", "classes"] {
        assert!(serde_json::from_str::<Value>(&metadata[key]).unwrap().is_array(), "{key}");
    }
    // Strict loading in PyTorch needs the batch counter of each batch norm.
    let tensors = SafeTensors::deserialize(&student).unwrap();
    assert_eq!(tensors.tensor("fc.weight").unwrap().shape(), [4, 64]);
    let counter = tensors.tensor("layer1.0.bn1.num_batches_tracked").unwrap();
    assert!(counter.shape().is_empty());
    let batches = i64::from_le_bytes(counter.data().try_into().unwrap());
    assert_eq!(batches, 10 * i64::from(best_epoch));
}

#[test]
fn every_method_trains() {
    let workspace = Workspace::new().with_teacher();
    for method in ["kd", "dkd", "nkd", "ttm", "wttm", "dist", "sdd_kd", "sdd_dkd", "sdd_nkd", "sdd_wttm", "sdd_dist"] {
        let spec = merged(workspace.distilled(method), json!({"training": {"epochs": 1, "augmentation": "crop_flip"}}));
        workspace.finish(&spec, method, &[]);
    }
    let changes = json!({"training": {"epochs": 1, "precision": "bfloat16", "optimizer": {"type": "adamw"}}});
    let events = workspace.finish(&merged(workspace.distilled("sdd_kd"), changes), "bfloat16", &[]);
    assert_eq!(started(&events).precision, "bfloat16");
}

#[test]
fn standardised_logits_and_the_clustering_of_regions_are_part_of_the_loss() {
    let workspace = Workspace::new().with_teacher();
    let loss = json!({"logit_standardisation": true, "weights": {"clustering": 3}});
    let changes = json!({"distillation": loss, "training": {"epochs": 1, "augmentation": "none"}});
    let events = workspace.finish(&merged(workspace.distilled("sdd_kd"), changes), "out", &[]);
    let points: Vec<&Point> = events
        .iter()
        .filter_map(|event| if let Event::Metrics { points } = event { Some(points) } else { None })
        .flatten()
        .collect();
    let last = |name: &str| points.iter().rfind(|point| point.name == name).unwrap().value;
    let clustering = last("train/loss_clustering");
    assert!(clustering > 0.0, "{clustering}");
    let together = 0.1 * last("train/loss_ce") + 9.0 * last("train/loss_distill") + 3.0 * clustering;
    assert!((last("train/loss") - together).abs() < 1e-4 * together, "{together}");
}

#[test]
fn the_manifest_records_the_precision_that_auto_chose() {
    let workspace = Workspace::new();
    let expected = if distillery_trainer::device::multiplies_bfloat16(Device::Cpu) { "bfloat16" } else { "float32" };
    let events = workspace.finish(&merged(workspace.plain(), json!({"training": {"epochs": 1}})), "out", &[]);
    assert_eq!(started(&events).precision, expected);
    let manifest = workspace.json("out/manifest.json");
    assert_eq!(manifest["attempts"][0]["precision"], expected);
    assert_eq!(manifest["specification"]["training"]["precision"], "auto");
}

#[test]
fn auto_keeps_families_in_float32_that_lose_accuracy_in_bfloat16() {
    let workspace = Workspace::new();
    let changes = json!({"student": {"architecture": "mobilenet_v2"}, "training": {"epochs": 1}});
    assert!(workspace.train(&merged(workspace.plain(), changes), "out", &[]).status.success());
    assert_eq!(workspace.json("out/manifest.json")["attempts"][0]["precision"], "float32");
}

#[test]
fn unusual_but_valid_settings_produce_warnings() {
    let workspace = Workspace::new().with_teacher();
    // Images of 8×8 pixels end in a 2×2 map. The teacher's normalisation turns every image black.
    let changes = json!({
        "teacher": {"mean": [9.0, 9.0, 9.0], "std": [1.0, 1.0, 1.0]},
        "distillation": {"scales": [1, 4]},
        "training": {"epochs": 1},
    });
    let events = workspace.finish(&merged(workspace.distilled("sdd_kd"), changes), "out", &[]);
    let warnings = warnings(&events);
    assert!(
        warnings.iter().any(|w| w.contains("scale 4 is finer than the 2×2 feature map of the student")),
        "{warnings:?}"
    );
    assert!(warnings.iter().any(|w| w.contains("normalisation") && w.contains("class")), "{warnings:?}");
}

#[test]
fn a_student_can_start_from_given_weights() {
    let workspace = Workspace::new().with_teacher();
    let given = workspace.path("teacher/student.safetensors");
    let changes = json!({
        "student": {"checkpoint": given},
        "training": {"epochs": 1, "optimizer": {"learning_rate": 0.0}},
    });
    assert!(workspace.train(&merged(workspace.plain(), changes), "out", &[]).status.success());
    let weight = |name: &str| {
        let bytes = workspace.bytes(name);
        SafeTensors::deserialize(&bytes).unwrap().tensor("layer2.0.conv1.weight").unwrap().data().to_vec()
    };
    assert_eq!(weight("out/student.safetensors"), weight("teacher/student.safetensors"));
}

#[test]
fn a_probe_has_the_answer_that_workers_wait_for() {
    let run = program("probe").args(["--device", "cpu,cpu"]).output().unwrap();
    assert!(run.status.success() && text(&run.stdout).trim_end() == "distillery-trainer computes on cpu,cpu");
}

#[test]
fn plain_output_has_a_line_per_epoch() {
    let workspace = Workspace::new();
    let run = workspace.train(&workspace.plain(), "out", &[]);
    let lines = text(&run.stdout);
    assert!(lines.contains("epoch 1/2") && lines.contains("epoch 2/2"), "{lines}");
    assert!(lines.contains("top-1") && lines.contains("images/s"), "{lines}");
    assert!(lines.contains(" with 1 thread: 150 images of 4 classes, and 50 evaluation images"), "{lines}");
}

#[test]
fn log_lines_have_the_format_that_was_asked_for_and_no_colours_where_nobody_sees_them() {
    let workspace = Workspace::new().with_teacher();
    // One directory too many, which is said in the log.
    std::fs::create_dir(workspace.path("outer")).unwrap();
    std::fs::rename(workspace.path("data"), workspace.path("outer/digits")).unwrap();
    let log = |before: &[&str], after: &[&str], variable: Option<&str>| {
        let mut words = [before, &["evaluate", "--device", "cpu", "--threads", "1"], after].concat().into_iter();
        let mut command = program(words.next().unwrap());
        command.args(words).args(["--architecture", "resnet8", "--checkpoint"]);
        command.arg(workspace.path("teacher/student.safetensors")).arg("--dataset").arg(workspace.path("outer"));
        command.env_remove("RUST_LOG").envs(variable.map(|format| ("DISTILLERY_LOG_FORMAT", format)));
        let run = command.output().unwrap();
        assert!(run.status.success(), "{}", text(&run.stderr));
        text(&run.stderr)
    };
    let note = "the data set is the subdirectory digits";
    let forms: [(&[&str], &[&str], Option<&str>); 3] =
        [(&["--log-format", "json"], &[], None), (&[], &["--log-format=json"], None), (&[], &[], Some("json"))];
    for (before, after, variable) in forms {
        let lines = log(before, after, variable);
        let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines.iter().any(|line| line["message"] == note && line["level"] == "WARN"), "{lines:?}");
    }
    let plain = log(&[], &[], None);
    assert!(plain.contains(&format!("WARN {note}")) && !plain.contains('\u{1b}'), "{plain:?}");
}

#[test]
fn specification_faults_are_listed_with_their_json_pointers() {
    let workspace = Workspace::new();
    let spec = merged(workspace.plain(), json!({"training": {"epochs": 0, "speed": 1}}));
    let run = workspace.train(&spec, "out", &[]);
    assert_eq!(run.status.code(), Some(1));
    let message = text(&run.stderr);
    assert!(message.contains("/training/epochs") && message.contains("/training/speed"), "{message}");
    let failure = workspace.fail(&spec, "out", &[]);
    assert!(failure.class == ErrorClass::User && failure.message.contains("/training/epochs"), "{failure:?}");
}

#[test]
fn unworkable_settings_are_user_errors_that_say_what_is_wrong() {
    let workspace = Workspace::new().with_teacher();
    let assert_user = |changes: Value, parts: &[&str]| {
        let failure = workspace.fail(&merged(workspace.distilled("kd"), changes), "out", &[]);
        assert_eq!(failure.class, ErrorClass::User, "{failure:?}");
        assert!(parts.iter().all(|part| failure.message.contains(part)), "{failure:?}");
    };
    assert_user(json!({"teacher": {"architecture": "resnet56"}}), &["does not fit resnet56", "it fits resnet8"]);
    assert_user(json!({"teacher": {"checkpoint": "/nowhere.pt"}}), &["/nowhere.pt does not exist"]);
    assert_user(json!({"dataset": {"path": "/nowhere"}}), &["there is no data set at /nowhere: put it there"]);
    // A teacher with two classes more than the data set.
    let other = Workspace::new();
    let labels = other.path("data/train-labels-idx1-ubyte");
    let mut bytes = std::fs::read(&labels).unwrap();
    (bytes[8], bytes[9]) = (4, 5);
    std::fs::write(labels, bytes).unwrap();
    assert!(other.train(&other.plain(), "out", &[]).status.success());
    let foreign = other.path("out/student.safetensors");
    assert_user(json!({"teacher": {"checkpoint": foreign}}), &["6 classes", "has 4"]);
}

#[test]
fn a_loss_that_is_not_finite_ends_the_job_and_leaves_no_checkpoint() {
    let workspace = Workspace::new();
    let wild = json!({"training": {"clip_grad_norm": null, "optimizer": {"learning_rate": 1000.0}, "epochs": 20}});
    let failure = workspace.fail(&merged(workspace.plain(), wild), "out", &[]);
    assert_eq!(failure.class, ErrorClass::Numeric, "{failure:?}");
    assert!(failure.message.contains("step ") && failure.message.contains("learning_rate"), "{failure:?}");
    assert!(!workspace.path("out/student.safetensors").exists());
}

/// The workspace's teacher with a classifier whose weights are finite and absurd.
fn broken_checkpoint(workspace: &Workspace) -> PathBuf {
    let sound = Checkpoint::open(&workspace.path("teacher/student.safetensors")).unwrap();
    let broken = workspace.path("broken.safetensors");
    let bytes_of = |tensor: &checkpoint::Tensor| {
        let bytes = sound.bytes(tensor).unwrap();
        if tensor.name() == "fc.weight" { 3e38_f32.to_le_bytes().repeat(bytes.len() / 4) } else { bytes }
    };
    let stored: Vec<_> = sound.tensors().iter().map(|tensor| (tensor, bytes_of(tensor))).collect();
    let tensors: Vec<_> = stored
        .iter()
        .map(|(tensor, bytes)| NewTensor {
            name: tensor.name(),
            dtype: tensor.dtype(),
            shape: tensor.shape(),
            bytes: bytes.as_slice(),
        })
        .collect();
    checkpoint::write(&broken, &tensors, &BTreeMap::new()).unwrap();
    broken
}

#[test]
fn a_teacher_without_finite_outputs_is_named_by_its_file() {
    let workspace = Workspace::new().with_teacher();
    let broken = broken_checkpoint(&workspace);
    let spec = merged(workspace.distilled("kd"), json!({"teacher": {"checkpoint": broken}}));
    let failure = workspace.fail(&spec, "out", &[]);
    assert_eq!(failure.class, ErrorClass::User);
    let parts = ["the teacher's outputs are not finite", broken.to_str().unwrap(), "use another one"];
    assert!(parts.iter().all(|part| failure.message.contains(part)), "{failure:?}");
}

#[test]
fn a_first_loss_that_is_not_finite_is_blamed_on_the_weights_that_the_run_started_from() {
    let workspace = Workspace::new().with_teacher();
    let broken = broken_checkpoint(&workspace);
    let spec = merged(workspace.plain(), json!({"student": {"checkpoint": broken}}));
    let events = workspace.events(&spec, "out", &[]);
    let Some(Event::Failed(failure)) = events.last() else { panic!("{events:?}") };
    assert_eq!(failure.class, ErrorClass::Numeric);
    let parts = ["not finite at step 1: ", broken.to_str().unwrap(), "use another checkpoint"];
    assert!(parts.iter().all(|part| failure.message.contains(part)), "{failure:?}");
    assert!(!failure.message.contains("learning_rate"), "{failure:?}");
    let warned = warnings(&events);
    assert!(warned.iter().any(|warning| warning.starts_with("the student's checkpoint: fc.weight has")), "{warned:?}");
}

#[test]
fn a_full_disk_is_a_storage_error_that_names_the_file() {
    let workspace = Workspace::new();
    let command = workspace.command(&workspace.plain(), "out");
    // Limits files to 64 KiB: the metrics fit, the checkpoint does not.
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "ulimit -f 128 && exec \"$@\"", "sh"]).arg(command.get_program()).args(command.get_args());
    let run = limited.arg("--events").output().unwrap();
    let last = text(&run.stdout).lines().last().unwrap().to_owned();
    let Event::Failed(failure) = serde_json::from_str(&last).unwrap() else { panic!("{last}") };
    assert_eq!(serde_json::to_value(failure.class).unwrap(), "storage", "{}", failure.message);
    assert!(failure.message.contains("checkpoint.safetensors"), "{}", failure.message);
}

#[test]
fn evaluate_repeats_the_evaluation_of_the_training_and_writes_logits_in_file_order() {
    let workspace = Workspace::new().with_teacher();
    let manifest = workspace.json("teacher/manifest.json");
    let evaluate = |checkpoint: &str, flags: &[&str]| {
        let mut command = trainer("evaluate");
        command.args(["--architecture", "resnet8", "--checkpoint"]).arg(workspace.path(checkpoint));
        command.arg("--dataset").arg(workspace.path("data")).args(flags).output().unwrap()
    };
    let logits = workspace.path("logits.safetensors");
    let run = evaluate("teacher/student.safetensors", &["--logits", logits.to_str().unwrap()]);
    let result: Value = serde_json::from_slice(&run.stdout).unwrap_or_else(|_| panic!("{}", text(&run.stderr)));
    for (key, expected) in manifest["best"]["evaluation"].as_object().unwrap() {
        assert!((result[key].as_f64().unwrap() - expected.as_f64().unwrap()).abs() < 1e-6, "{key}: {result}");
    }
    let balanced = result["balanced_accuracy"].as_f64().unwrap();
    assert!((0.0..=100.0).contains(&balanced) && result["f1"].as_f64().is_some(), "{result}");
    assert!(result["images_per_second"].as_f64().unwrap() > 0.0);
    let bytes = std::fs::read(logits).unwrap();
    let logits = SafeTensors::deserialize(&bytes).unwrap();
    let logits = logits.tensor("logits").unwrap();
    assert_eq!((logits.shape(), logits.dtype()), ([50, 4].as_slice(), safetensors::Dtype::F32));
    let values: Vec<f32> = logits.data().as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    // The label of image i is i mod 4.
    let right = values.chunks(4).enumerate().filter(|(index, row)| row.iter().all(|value| *value <= row[index % 4]));
    assert!((right.count() as f64 * 2.0 - result["top1"].as_f64().unwrap()).abs() < 1e-6);

    let run = evaluate("teacher/manifest.json", &[]);
    assert_eq!(run.status.code(), Some(1));
    assert!(text(&run.stderr).contains("not a checkpoint"), "{}", text(&run.stderr));

    // A converted checkpoint is the same network.
    let run =
        trainer("convert").arg(workspace.path("teacher/student.safetensors")).arg(workspace.path("copy")).output();
    assert!(run.unwrap().status.success());
    let copy: Value = serde_json::from_slice(&evaluate("copy", &[]).stdout).unwrap();
    assert_eq!(copy["loss"], result["loss"]);
}
