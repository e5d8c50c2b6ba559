//! Promise: an ONNX file is well-formed, says what it is, and has the student's weights.

use std::collections::{BTreeMap, BTreeSet};

use distillery_core::checkpoint::Checkpoint;
use distillery_core::export::onnx::proto::{GraphProto, ModelProto, TensorProto, ValueInfoProto};
use distillery_core::export::onnx::{self, Numbers, Options};
use distillery_core::export::{Student, int8};
use prost::Message;
use serde_json::json;

use super::students::{Files, exported, of_fixture, randomise, rewrite, with_nine_classes, zoo, zoo_without_weights};
use crate::exported::programs::{B, Network, flag, float, int, tensor};

pub fn written(student: &Student, options: &Options<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    onnx::write(student, options, &mut bytes).unwrap_or_else(|error| panic!("{error}"));
    bytes
}

pub fn model(files: &Files, options: &Options<'_>) -> ModelProto {
    ModelProto::decode(written(&files.student(), options).as_slice()).expect("it is a model")
}

fn graph(files: &Files) -> GraphProto {
    model(files, &Options::default()).graph.expect("it has a graph")
}

fn properties(model: &ModelProto) -> BTreeMap<&str, &str> {
    model.metadata_props.iter().map(|entry| (entry.key.as_str(), entry.value.as_str())).collect()
}

fn shape(value: &ValueInfoProto) -> Vec<String> {
    let tensor = value.kind.as_ref().unwrap().tensor_type.as_ref().unwrap();
    assert_eq!(tensor.elem_type, 1, "float32");
    let dimensions = tensor.shape.as_ref().unwrap().dim.iter();
    dimensions.map(|size| size.dim_param.clone().unwrap_or_else(|| size.dim_value.unwrap().to_string())).collect()
}

/// Everything is computed once and before it is used.
fn is_sound(graph: &GraphProto) {
    let mut known: BTreeSet<&str> = BTreeSet::from([onnx::INPUT]);
    for initializer in &graph.initializer {
        assert!(known.insert(&initializer.name), "{} appears twice", initializer.name);
    }
    for node in &graph.node {
        for input in &node.input {
            assert!(known.contains(input.as_str()), "{} uses {input} before it is computed", node.name);
        }
        for output in &node.output {
            assert!(known.insert(output), "{output} is computed twice");
        }
    }
    assert!(graph.output.iter().all(|output| known.contains(output.name.as_str())));
    let used: BTreeSet<&str> =
        graph.node.iter().flat_map(|node| &node.input).map(String::as_str).chain([onnx::OUTPUT]).collect();
    let unused: Vec<_> = graph.initializer.iter().filter(|tensor| !used.contains(tensor.name.as_str())).collect();
    assert!(unused.is_empty(), "{:?}", unused.iter().map(|tensor| &tensor.name).collect::<Vec<_>>());
}

#[test]
fn the_interface_is_named_and_the_batch_is_open() {
    for files in [zoo("resnet8", 10), of_fixture("test_convnext")] {
        let model = model(&files, &Options::default());
        assert_eq!((model.ir_version, model.opset_import[0].version), (8, onnx::OPSET));
        assert_eq!((model.producer_name.as_str(), model.opset_import[0].domain.as_str()), ("distillery", ""));
        let graph = model.graph.as_ref().unwrap();
        let [input] = graph.input.as_slice() else { panic!("{:?}", graph.input) };
        let [output] = graph.output.as_slice() else { panic!("{:?}", graph.output) };
        let side = files.student().input()[1].to_string();
        assert_eq!(
            (input.name.as_str(), shape(input)),
            ("images", ["batch", "3", &side, &side].map(str::to_owned).to_vec())
        );
        assert_eq!((output.name.as_str(), shape(output)), ("logits", ["batch", "10"].map(str::to_owned).to_vec()));
        is_sound(graph);
    }
}

#[test]
fn a_student_with_a_new_classifier_has_its_own_classes() {
    for name in ["test_convnext", "test_efficientnet"] {
        let files = of_fixture(name);
        with_nine_classes(&files, if name == "test_convnext" { "head.fc." } else { "classifier." });
        let graph = graph(&files);
        assert_eq!(shape(&graph.output[0]), ["batch", "9"].map(str::to_owned));
        is_sound(&graph);
    }
}

#[test]
fn the_weights_are_the_students_under_their_keys() {
    let files = of_fixture("test_efficientnet");
    let graph = graph(&files);
    let weights = Checkpoint::open_as_written(&files.weights).unwrap();
    let mut compared = 0;
    for TensorProto { name, dims, data_type, raw_data } in &graph.initializer {
        let Some(tensor) = weights.get(name) else { continue };
        let shape: Vec<u64> = dims.iter().map(|size| size.unsigned_abs()).collect();
        assert_eq!((*data_type, shape.as_slice()), (1, tensor.shape()), "{name}");
        assert!(*raw_data == weights.bytes(tensor).unwrap(), "{name}");
        compared += 1;
    }
    let counters = weights.tensors().iter().filter(|tensor| tensor.name().ends_with("num_batches_tracked")).count();
    assert_eq!(compared, weights.tensors().len() - counters);
}

#[test]
fn metadata_says_what_the_student_is_and_how_its_input_is_made() {
    let files = zoo("resnet8", 10);
    let plain = model(&files, &Options::default());
    let said = properties(&plain);
    assert_eq!((said["architecture"], said["num_classes"], said["accuracy"]), ("resnet8", "10", "76.5"));
    assert!(said["classes"].starts_with("[\"class 0\""));
    assert_eq!((said["mean"], said["std"]), ("[0.5,0.4,0.3]", "[0.25,0.2,0.3]"));
    assert_eq!(said["input"], "RGB pixels in [0, 1], minus mean, divided by std, per channel");
    assert!(said["preprocessing"].contains("resize to 32×32 pixels (bilinear, antialiased); divide by 255; subtract"));
    assert!(!said.contains_key("format"));

    let extra = BTreeMap::from([("method".to_owned(), "sdd_kd".to_owned())]);
    let normalising = model(&files, &Options { preprocess: true, metadata: extra, ..Options::default() });
    let said = properties(&normalising);
    assert_eq!((said["input"], said["method"]), ("RGB pixels in [0, 1]", "sdd_kd"));
    assert!(said["preprocessing"].ends_with("divide by 255"), "{}", said["preprocessing"]);
    let first = &normalising.graph.as_ref().unwrap().node[..2];
    assert_eq!([first[0].op_type.as_str(), &first[1].op_type], ["Sub", "Div"]);
    is_sound(normalising.graph.as_ref().unwrap());
}

#[test]
fn normalisation_that_is_not_known_cannot_be_part_of_the_graph() {
    let files = zoo("resnet8", 10);
    // One for values up to 255 is not, either.
    rewrite(&files.weights, |_, metadata| drop(metadata.insert("mean".to_owned(), "[128,128,128]".to_owned())));
    let options = Options { preprocess: true, ..Options::default() };
    let refused = || onnx::write(&files.student(), &options, &mut Vec::new()).unwrap_err();
    assert!(refused().to_string().contains("no mean and std"), "{}", refused());
    rewrite(&files.weights, |_, metadata| drop(metadata.remove("std")));
    let error = refused();
    assert!(error.is_users() && error.to_string().contains("no mean and std"), "{error}");
}

#[test]
fn names_of_another_number_of_classes_are_left_out() {
    let files = zoo("resnet8", 10);
    rewrite(&files.weights, |_, metadata| drop(metadata.insert("classes".to_owned(), "[\"only\"]".to_owned())));
    assert!(!properties(&model(&files, &Options::default())).contains_key("classes"));
}

#[test]
fn equal_students_give_equal_bytes() {
    let files = of_fixture("test_convnext");
    let options = Options::default();
    assert!(written(&files.student(), &options) == written(&files.student(), &options));
}

#[test]
fn a_student_beyond_two_gibibytes_is_refused_before_its_weights_are_read() {
    // The classifier alone has 9,000,000 × 64 weights.
    let files = zoo_without_weights("resnet8", 9_000_000);
    let mut output = Vec::new();
    let error = onnx::write(&files.student(), &Options::default(), &mut output).unwrap_err();
    assert!(error.is_users() && error.to_string().contains("2 GiB"), "{error}");
    assert!(output.is_empty());
}

#[test]
fn what_training_does_beside_the_logits_is_left_out() {
    let files = of_fixture("test_efficientnet");
    let names: BTreeSet<String> = graph(&files).node.into_iter().map(|node| node.op_type).collect();
    let expected =
        ["BatchNormalization", "Conv", "Gemm", "GlobalAveragePool", "Mul", "ReduceMean", "Reshape", "Sigmoid"];
    assert_eq!(names, expected.map(str::to_owned).into());
}

#[test]
fn names_that_two_things_have_become_different() {
    let mut network = Network::new();
    network.convolve();
    // A key like the output's name, and nodes that are called like the interface.
    network.node("relu.default", "images", &[("self", tensor("conv"))], &[B, 4, 8, 8]);
    let half = [("self", tensor("images")), ("other", float(0.5))];
    network.node("mul.Tensor", "fc.weight/transposed", &half, &[B, 4, 8, 8]);
    network.pool_and_classify("fc.weight/transposed");
    let graph = graph(&exported(&network.bytes()));
    is_sound(&graph);
    assert_eq!(graph.node.iter().filter(|node| node.op_type == "Relu").count(), 1);
}

#[test]
fn a_result_that_is_only_passed_on_is_still_named_logits() {
    let mut network = Network::small();
    let inputs = [("input", tensor("logits")), ("p", float(0.5)), ("train", flag(true))];
    network.node("dropout.default", "dropped", &inputs, &[B, 5]);
    network.result("dropped");
    let graph = graph(&exported(&network.bytes()));
    is_sound(&graph);
    assert_eq!(graph.node.last().unwrap().op_type, "Gemm");
}

#[test]
fn what_calibration_must_see_becomes_an_output() {
    let mut network = Network::small();
    randomise(&mut network);
    let files = exported(&network.bytes());
    let student = files.student();
    let watched = int8::watched(&student);
    // The images, the convolution after its ReLU, the pooled map, and the same flattened.
    assert_eq!(watched.len(), 4);
    let options = Options { numbers: Numbers::Observed(&watched), ..Options::default() };
    let graph = model(&files, &options).graph.unwrap();
    is_sound(&graph);
    let outputs: BTreeSet<String> = graph.output.into_iter().map(|output| output.name).collect();
    let expected = watched.iter().flat_map(|&value| int8::outputs(value)).chain(["logits".to_owned()]);
    assert_eq!(outputs, expected.collect());
}

#[test]
fn int8_has_a_scale_for_each_output_and_folds_batch_norms() {
    let files = zoo("resnet8", 10);
    let student = files.student();
    let mut ranges = int8::Ranges::default();
    for value in int8::watched(&student) {
        ranges.observe(value, -1.0, 3.0).unwrap();
    }
    let options = Options { numbers: Numbers::Int8(&ranges), ..Options::default() };
    let model = model(&files, &options);
    assert_eq!(properties(&model)["numbers"], "int8");
    let graph = model.graph.unwrap();
    is_sound(&graph);
    assert!(!graph.node.iter().any(|node| node.op_type == "BatchNormalization"));
    let find = |name: &str| graph.initializer.iter().find(|tensor| tensor.name == name).unwrap();
    let weight = find("conv1.weight/int8");
    assert_eq!((weight.data_type, weight.dims.as_slice()), (3, [16, 3, 3, 3].as_slice()));
    assert_eq!(find("conv1.weight/int8/scale").dims, [16]);
    // The largest weight of each output uses all of int8.
    for output in weight.raw_data.chunks(27) {
        assert_eq!(output.iter().map(|&weight| (weight as i8).unsigned_abs()).max(), Some(127));
    }
    let float32 = written(&student, &Options::default()).len();
    assert!(written(&student, &options).len() < float32 / 2);
}

#[test]
fn int8_without_the_range_of_a_value_is_refused() {
    let files = zoo("resnet8", 10);
    let ranges = int8::Ranges::default();
    let options = Options { numbers: Numbers::Int8(&ranges), ..Options::default() };
    let error = onnx::write(&files.student(), &options, &mut Vec::new()).unwrap_err();
    assert!(error.to_string().contains("calibration has not seen"), "{error}");
    assert!(int8::Ranges::default().observe(0, f32::NAN, 1.0).is_err());
}

#[test]
fn only_a_division_by_the_share_that_is_kept_makes_up_for_dropped_branches() {
    for (number, divides) in [(0.9, false), (0.9 + 1e-9, false), (0.5, true)] {
        let mut network = Network::new();
        network.convolve();
        let outputs = json!([{"as_sym_int": {"as_name": "b"}}]);
        network.bare_node("torch.ops.aten.sym_size.int", &[("self", tensor("x")), ("dim", int(0))], outputs);
        let shape = json!({"as_sym_ints": [{"as_name": "b"}, {"as_int": 1}, {"as_int": 1}, {"as_int": 1}]});
        let inputs = [("self", tensor("conv")), ("size", shape), ("pin_memory", flag(false))];
        network.node("new_empty.default", "empty", &inputs, &[B, 1, 1, 1]);
        network.node("bernoulli_.float", "kept", &[("self", tensor("empty")), ("p", float(0.9))], &[B, 1, 1, 1]);
        network.node("div_.Tensor", "scaled", &[("self", tensor("kept")), ("other", float(number))], &[B, 1, 1, 1]);
        network.node("mul.Tensor", "branch", &[("self", tensor("conv")), ("other", tensor("scaled"))], &[B, 4, 8, 8]);
        network.pool_and_classify("branch");
        randomise(&mut network);
        let graph = graph(&exported(&network.bytes()));
        is_sound(&graph);
        let has = |kind: &str| graph.node.iter().any(|node| node.op_type == kind);
        assert_eq!((has("Div"), has("Mul")), (divides, divides), "{number}");
    }
}
