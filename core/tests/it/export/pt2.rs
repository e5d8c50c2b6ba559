//! Promise: a `.pt2` of a student is the network's with the student's weights, and holds nothing that could run.

use std::collections::BTreeSet;
use std::io::{Cursor, Read};

use distillery_core::checkpoint::Checkpoint;
use distillery_core::export::write_pt2;
use distillery_core::exported::{ExportedNetwork, Mode, TensorRole};
use serde_json::{Value, json};
use zip::{CompressionMethod, ZipArchive};

use super::students::{Files, exported, of_fixture, randomise, rewrite, with_nine_classes, zoo};
use crate::exported::classifier::convolutional;
use crate::exported::programs::{Network, archive, expression};

fn written(files: &Files) -> Vec<u8> {
    let mut output = Cursor::new(Vec::new());
    write_pt2(&files.student(), &mut output).unwrap_or_else(|error| panic!("{error}"));
    output.into_inner()
}

/// The entries, whose checksums are compared as they are read.
fn entries(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut zip = ZipArchive::new(Cursor::new(bytes)).unwrap();
    (0..zip.len())
        .map(|index| {
            let mut entry = zip.by_index(index).unwrap();
            assert_eq!(entry.compression(), CompressionMethod::Stored);
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.name().unwrap().into_owned(), content)
        })
        .collect()
}

fn content(bytes: &[u8], name: &str) -> Vec<u8> {
    let found = entries(bytes).into_iter().find(|(entry, _)| entry == &format!("student/{name}"));
    found.unwrap_or_else(|| panic!("no {name}")).1
}

#[test]
fn it_is_read_as_the_network_with_the_students_weights() {
    for name in ["test_convnext", "test_efficientnet"] {
        let files = of_fixture(name);
        rewrite(&files.weights, |tensors, _| {
            for (_, dtype, _, bytes) in tensors.iter_mut().filter(|(name, ..)| name.ends_with("weight")) {
                assert_eq!(dtype.size(), 4);
                bytes.as_chunks_mut::<4>().0.iter_mut().for_each(|float| {
                    *float = (f32::from_le_bytes(*float) * 1.5).to_le_bytes();
                });
            }
        });
        let before = ExportedNetwork::open(files.network.as_ref().unwrap()).unwrap();
        let after = ExportedNetwork::from_bytes(written(&files)).unwrap();
        let mut expected = before.description().clone();
        expected.mode = Mode::Evaluation;
        // Evaluation counts no batches, whose numbers take memory.
        expected.operators.remove("aten.add_.Tensor");
        expected.memory.peak_elements = after.description().memory.peak_elements;
        assert_eq!(*after.description(), expected, "{name}");
        let weights = Checkpoint::open_as_written(&files.weights).unwrap();
        let keys = |network: &ExportedNetwork| {
            network.tensors().iter().map(|stored| stored.tensor.name().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(keys(&before), keys(&after));
        for stored in after.tensors().iter().filter(|stored| stored.role != TensorRole::Constant) {
            let expected = weights.bytes(weights.get(stored.tensor.name()).unwrap()).unwrap();
            assert!(after.bytes(stored).unwrap() == expected, "{name}: {}", stored.tensor.name());
        }
    }
}

#[test]
fn a_student_with_a_new_classifier_is_a_network_with_its_classes() {
    let mut convolution = convolutional();
    randomise(&mut convolution);
    let files = [(exported(&convolution.bytes()), "score."), (of_fixture("test_efficientnet"), "classifier.")];
    for (files, classifier) in files {
        let mut expected = ExportedNetwork::open(files.network.as_ref().unwrap()).unwrap();
        expected.replace_classifier(9).unwrap();
        with_nine_classes(&files, classifier);
        assert_eq!(files.student().classes(), 9);
        let bytes = written(&files);
        // The reader infers every shape and compares it with the recorded one.
        let read = ExportedNetwork::from_bytes(bytes.clone()).unwrap_or_else(|error| panic!("{error}"));
        let of = |network: &ExportedNetwork| {
            let description = network.description();
            let mut operators = description.operators.clone();
            // In evaluation nothing is counted.
            operators.remove("aten.add_.Tensor");
            (description.classes, description.parameters, description.macs, operators)
        };
        assert_eq!(of(&read), of(&expected));
        let weights = Checkpoint::open_as_written(&files.weights).unwrap();
        for stored in read.tensors().iter().filter(|stored| stored.role != TensorRole::Constant) {
            let tensor = weights.get(stored.tensor.name()).unwrap();
            assert_eq!(stored.tensor.shape(), tensor.shape());
            assert!(read.bytes(stored).unwrap() == weights.bytes(tensor).unwrap(), "{}", tensor.name());
        }
        if classifier == "score." {
            let program: Value = serde_json::from_slice(&content(&bytes, "models/model.json")).unwrap();
            let recorded = &program["graph_module"]["graph"]["tensor_values"];
            let size = |size: u64| json!({"as_int": size});
            assert_eq!(recorded["score"]["strides"], json!([size(9), size(1), size(1), size(1)]));
            assert_eq!(recorded["logits"]["sizes"][1], size(9));
            assert_eq!(recorded["conv"], convolution.program["graph_module"]["graph"]["tensor_values"]["conv"]);
        }
    }
}

#[test]
fn storages_are_aligned_and_equal_students_give_equal_bytes() {
    let files = of_fixture("test_efficientnet");
    let bytes = written(&files);
    assert!(bytes == written(&files));
    let mut zip = ZipArchive::new(Cursor::new(&bytes)).unwrap();
    let mut storages = 0;
    for index in 0..zip.len() {
        let entry = zip.by_index_raw(index).unwrap();
        let name = entry.name().unwrap();
        if name.contains("/data/weights/weight_") {
            assert_eq!(entry.data_start().unwrap() % 64, 0, "{name}");
            storages += 1;
        }
    }
    assert!(storages > 50);
}

#[test]
fn nothing_of_the_uploaders_machine_and_nothing_that_runs_is_passed_on() {
    let mut network = Network::small();
    randomise(&mut network);
    network.program["guards_code"] = json!(["__import__('os').system('true')"]);
    let mut entries_given = network.entries();
    for (name, content) in [
        ("data/sample_inputs/model.pt", "a pickle"),
        ("data/weights/model.pt", "another pickle"),
        ("data/aotinductor/model/model.so", "compiled code"),
        ("extra/notes", "from /home/somebody"),
    ] {
        entries_given.push((name.to_owned(), content.as_bytes().to_vec()));
    }
    let given = archive(entries_given.iter().map(|(name, bytes)| (format!("net/{name}"), bytes.as_slice())));
    let bytes = written(&exported(&given));
    let names: BTreeSet<String> = entries(&bytes).into_iter().map(|(name, _)| name).collect();
    let expected = [
        ".data/version",
        "archive_format",
        "archive_version",
        "byteorder",
        "data/constants/model_constants_config.json",
        "data/sample_inputs/model.pt",
        "data/weights/model_weights_config.json",
        "data/weights/weight_0",
        "data/weights/weight_1",
        "models/model.json",
    ];
    assert_eq!(names, expected.iter().map(|name| format!("student/{name}")).collect());
    assert!(content(&bytes, "data/sample_inputs/model.pt").is_empty());
    let program = String::from_utf8(content(&bytes, "models/model.json")).unwrap();
    for secret in ["stack_trace", "somebody", "guards_code", "__import__"] {
        assert!(!program.contains(secret), "{secret}");
    }
    assert!(program.contains("torch_fn"), "what PyTorch shows of a node is kept");
    let given: Value = serde_json::to_value(&network.program["graph_module"]["signature"]).unwrap();
    let program: Value = serde_json::from_str(&program).unwrap();
    assert_eq!(program["graph_module"]["signature"], given);
}

#[test]
fn an_expression_that_is_not_of_sizes_is_not_passed_on() {
    let mut network = Network::small();
    randomise(&mut network);
    // PyTorch evaluates what it reads; this reader has no use for strides.
    network.recorded("conv")["strides"][0] = expression("__import__('os').system('true')");
    let files = exported(&network.bytes());
    let mut output = Cursor::new(Vec::new());
    let error = write_pt2(&files.student(), &mut output).unwrap_err();
    assert!(error.is_users() && error.to_string().contains("expr_str"), "{error}");
}

#[test]
fn frozen_parameters_stay_frozen() {
    let mut network = Network::small();
    randomise(&mut network);
    network.weights["config"]["conv.weight"]["tensor_meta"]["requires_grad"] = json!(false);
    network.weights["config"]["fc.weight"]["tensor_meta"]["requires_grad"] = json!(true);
    let bytes = written(&exported(&network.bytes()));
    let config: Value = serde_json::from_slice(&content(&bytes, "data/weights/model_weights_config.json")).unwrap();
    let gradients = |key: &str| config["config"][key]["tensor_meta"]["requires_grad"].clone();
    assert_eq!((gradients("conv.weight"), gradients("fc.weight")), (json!(false), json!(true)));
}

#[test]
fn a_student_of_the_zoo_has_no_pt2_and_the_error_says_what_to_take() {
    let files = zoo("resnet8", 10);
    let error = write_pt2(&files.student(), Cursor::new(Vec::new())).unwrap_err().to_string();
    assert!(error.contains("resnet8") && error.contains("safetensors") && error.contains("ONNX"), "{error}");
}
