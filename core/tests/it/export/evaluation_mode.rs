//! Promise: a student's `.pt2` computes as in evaluation, and is otherwise the program that its owner exported.

use std::io::{Cursor, Read};

use distillery_core::export::write_pt2;
use distillery_core::exported::{ExportedNetwork, Mode};
use serde_json::{Value, json};
use zip::ZipArchive;

use super::cases::{Case, names};
use super::layer_cases::instance_norm;
use super::operators;
use super::reference;
use super::students::{Files, Noise, exported};
use crate::exported::programs::{B, Network, flag, float, int, meta, tensor};

const MAP: [i64; 4] = [B, 4, 8, 8];

fn written(files: &Files) -> Vec<u8> {
    let mut output = Cursor::new(Vec::new());
    write_pt2(&files.student(), &mut output).unwrap_or_else(|error| panic!("{error}"));
    output.into_inner()
}

/// The program of the `.pt2` of a student with the network's weights.
fn program(network: &Network) -> String {
    let mut zip = ZipArchive::new(Cursor::new(written(&exported(&network.bytes())))).unwrap();
    let mut text = String::new();
    zip.by_name("student/models/model.json").unwrap().read_to_string(&mut text).unwrap();
    text
}

/// Its nodes, and those of the network as it was exported, without what is dropped.
fn nodes(network: &Network) -> [Vec<Value>; 2] {
    let program: Value = serde_json::from_str(&program(network)).unwrap();
    [program, network.program.clone()].map(|mut program| {
        let mut nodes = program["graph_module"]["graph"]["nodes"].take().as_array().unwrap().clone();
        nodes.iter_mut().for_each(|node| drop(node["metadata"].as_object_mut().unwrap().remove("stack_trace")));
        nodes
    })
}

fn find<'a>(nodes: &'a [Value], name: &str) -> &'a Value {
    let is_it = |node: &&Value| node["outputs"][0]["as_tensor"]["name"] == name;
    nodes.iter().find(is_it).unwrap_or_else(|| panic!("no node {name}"))
}

/// The argument of a node.
fn argument<'a>(nodes: &'a [Value], node: &str, name: &str) -> &'a Value {
    let inputs = find(nodes, node)["inputs"].as_array().unwrap();
    &inputs.iter().find(|input| input["name"] == name).unwrap_or_else(|| panic!("{node} has no {name}"))["arg"]
}

/// Whether the nodes are equal, but for some.
#[track_caller]
fn assert_equal_but(nodes: &[Vec<Value>; 2], changed: &[&str]) {
    let [after, before] = nodes.each_ref().map(|nodes| {
        let is_other = |node: &&Value| !changed.iter().any(|name| node["outputs"][0]["as_tensor"]["name"] == *name);
        nodes.iter().filter(is_other).collect::<Vec<_>>()
    });
    assert_eq!(after, before);
}

fn batch_norm(case: Case, training: bool, epsilon: Value) -> Case {
    let mut case = case.parameters(&[("bn.weight", &[4]), ("bn.bias", &[4])]);
    ["bn.mean", "bn.running_var"].iter().for_each(|key| case.network.buffer(key, &[4]));
    if training {
        case.network.counter("bn.count");
        case.network.node("add_.Tensor", "counted", &[("self", tensor("bn.count")), ("other", int(1))], &[]);
        case.network.recorded("counted")["dtype"] = json!(5);
    }
    let others = vec![
        ("weight", tensor("bn.weight")),
        ("bias", tensor("bn.bias")),
        ("running_mean", tensor("bn.mean")),
        ("running_var", tensor("bn.running_var")),
        ("training", flag(training)),
        ("momentum", float(0.1)),
        ("eps", epsilon),
    ];
    case.with("input", "batch_norm.default", "norm", others, &MAP)
}

/// A mask of stochastic depth, which is viewed and then divided by a number.
fn mask(case: Case, divisor: Value) -> Case {
    let mut case = case.batch_size();
    let inputs = [("self", tensor(case.value)), ("size", names(&["b"]))];
    case.network.node("new_empty.default", "empty", &inputs, &[B]);
    case.network.node("bernoulli_.float", "kept", &[("self", tensor("empty")), ("p", float(0.8))], &[B]);
    let shape = [("self", tensor("kept")), ("size", names(&["b", "1", "1", "1"]))];
    case.network.node("view.default", "viewed", &shape, &[B, 1, 1, 1]);
    case.network.node("div.Tensor", "scaled", &[("self", tensor("viewed")), ("other", divisor)], &[B, 1, 1, 1]);
    case.then("mul.Tensor", "branch", vec![("other", tensor("scaled"))], &MAP)
}

#[test]
fn every_operation_gives_the_logits_of_evaluation() {
    for (name, network) in operators::cases() {
        let files = exported(&network.bytes());
        let after = ExportedNetwork::from_bytes(written(&files)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(matches!(after.description().mode, Mode::Evaluation | Mode::Either), "{name}");
        let [channels, height, width] = files.student().input().map(|size| size as usize);
        let images = Noise::new(5).tensor(&[3, channels, height, width]);
        let expected = files.logits(&images);
        let stored = |index: usize| -> Vec<f64> {
            after.floats(&after.tensors()[index]).unwrap().into_iter().map(f64::from).collect()
        };
        let found = reference::logits(after.graph(), &images, stored);
        let largest = expected.data.iter().fold(0.0_f64, |largest, logit| largest.max(logit.abs()));
        let is_near = |(one, two): (&f64, &f64)| (one - two).abs() <= 1e-9 * largest;
        assert!(found.data.iter().zip(&expected.data).all(is_near), "{name}: {found:?} {expected:?}");
    }
}

#[test]
fn batch_norms_use_running_statistics_and_batches_are_not_counted() {
    let network = batch_norm(Case::map(), true, float(1e-5)).network();
    let nodes = nodes(&network);
    assert_eq!(*argument(&nodes[0], "norm", "training"), flag(false));
    assert_eq!(*argument(&nodes[0], "norm", "running_mean"), tensor("bn.mean"));
    assert!(nodes[0].iter().all(|node| node["target"] != "torch.ops.aten.add_.Tensor"));
    assert_eq!(nodes[0].len() + 1, nodes[1].len());
    assert_equal_but(&nodes, &["norm", "counted"]);
}

#[test]
fn instance_norms_use_running_statistics_where_there_are_any() {
    let case = Case::map().parameters(&[("in.weight", &[4]), ("in.bias", &[4])]);
    let network = instance_norm(case, true, true).network();
    assert_eq!(network.read().unwrap().description().mode, Mode::Training);
    let tracked = nodes(&network);
    assert_eq!(*argument(&tracked[0], "y", "use_input_stats"), flag(false));
    assert_equal_but(&tracked, &["y"]);
    let others = vec![("use_input_stats", flag(true)), ("eps", float(1e-3))];
    let own = Case::map().with("input", "instance_norm.default", "y", others, &MAP).network();
    assert_eq!(own.read().unwrap().description().mode, Mode::Either);
    assert_equal_but(&nodes(&own), &[]);
}

#[test]
fn numbers_of_changed_nodes_keep_their_digits() {
    let mut network = batch_norm(Case::map(), true, float(0.015_625)).network();
    let digits = "1.0000000000000000818030539140313095e-05";
    let text = network.program.to_string().replace("0.015625", digits);
    let storages: Vec<_> = network.entries().into_iter().filter(|(name, _)| name != "models/model.json").collect();
    let entries = storages.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()));
    let entries = entries.chain([("models/model.json", text.as_bytes())]);
    let given = crate::exported::programs::archive(entries.map(|(name, bytes)| (format!("net/{name}"), bytes)));
    let mut zip = ZipArchive::new(Cursor::new(written(&exported(&given)))).unwrap();
    let mut text = String::new();
    zip.by_name("student/models/model.json").unwrap().read_to_string(&mut text).unwrap();
    assert!(text.contains(digits), "{text}");
    network.program = serde_json::from_str(&text).unwrap();
    assert_eq!(network.read().unwrap().description().mode, Mode::Evaluation);
}

#[test]
fn what_was_frozen_stays_as_it_is() {
    let dropped = vec![("p", float(0.5)), ("train", flag(false))];
    let case = batch_norm(Case::map(), false, float(1e-5));
    let network = case.with("input", "dropout.default", "dropped", dropped, &MAP).network();
    assert_equal_but(&nodes(&network), &[]);
}

#[test]
fn a_weight_that_is_standardised_is_so_in_evaluation_too() {
    let mut network = Network::new();
    network.parameter("w", &[1, 4, 27]);
    let none = json!({"as_none": true});
    let inputs = [
        ("input", tensor("w")),
        ("weight", none.clone()),
        ("bias", none.clone()),
        ("running_mean", none.clone()),
        ("running_var", none),
        ("training", flag(true)),
        ("momentum", float(0.0)),
        ("eps", float(1e-6)),
    ];
    network.node("batch_norm.default", "standardised", &inputs, &[1, 4, 27]);
    let shape = [("self", tensor("standardised")), ("shape", names(&["4", "3", "3", "3"]))];
    network.node("reshape.default", "weight", &shape, &[4, 3, 3, 3]);
    let inputs = [("input", tensor("x")), ("weight", tensor("weight"))];
    network.node("conv2d.default", "conv", &inputs, &[B, 4, 6, 6]);
    network.pool_and_classify("conv");
    super::students::randomise(&mut network);
    assert_equal_but(&nodes(&network), &[]);
}

#[test]
fn nothing_is_dropped() {
    let case = Case::map();
    let train = |p: f64| vec![("p", float(p)), ("train", flag(true))];
    let case = case.with("input", "feature_dropout.default", "channels", train(0.4), &MAP);
    let case = case.then("dropout_.default", "elements", train(0.3), &MAP);
    let same = ["key", "value"].map(|name| (name, tensor("elements")));
    let others = same.into_iter().chain([("dropout_p", float(0.25)), ("scale", float(0.3))]).collect();
    let network = case.with("query", "scaled_dot_product_attention.default", "attended", others, &MAP).network();
    let nodes = nodes(&network);
    assert_eq!(*argument(&nodes[0], "channels", "train"), flag(false));
    assert_eq!(*argument(&nodes[0], "elements", "train"), flag(false));
    assert_eq!(*argument(&nodes[0], "attended", "dropout_p"), float(0.0));
    assert_eq!(*argument(&nodes[0], "attended", "scale"), float(0.3));
    assert_equal_but(&nodes, &["channels", "elements", "attended"]);
}

#[test]
fn stochastic_depth_keeps_every_branch() {
    for (divisor, expected) in [(float(0.8), float(1.0)), (float(0.800_000_1), float(1.0))] {
        let network = mask(Case::map(), divisor).network();
        let nodes = nodes(&network);
        let filled = find(&nodes[0], "kept");
        assert_eq!(filled["target"], "torch.ops.aten.fill_.Scalar");
        let inputs = json!([
            {"name": "self", "arg": tensor("empty"), "kind": 1},
            {"name": "value", "arg": float(1.0), "kind": 1},
        ]);
        assert_eq!(filled["inputs"], inputs);
        assert_eq!(*argument(&nodes[0], "scaled", "other"), expected);
        assert_equal_but(&nodes, &["kept", "scaled"]);
    }
    // A factor that is not the mask's own scale is a factor in evaluation, too.
    let nodes = nodes(&mask(Case::map(), float(2.0)).network());
    assert_eq!(*argument(&nodes[0], "scaled", "other"), float(2.0));
    assert_equal_but(&nodes, &["kept"]);
}

#[test]
fn a_network_that_drops_without_batch_norms_and_dropout_layers_shows_no_mode_afterwards() {
    let same = ["key", "value"].map(|name| (name, tensor("branch")));
    let others = same.into_iter().chain([("dropout_p", float(0.25))]).collect();
    let case = mask(Case::map(), float(0.8));
    let network = case.with("query", "scaled_dot_product_attention.default", "attended", others, &MAP).network();
    assert_eq!(network.read().unwrap().description().mode, Mode::Training);
    let after = ExportedNetwork::from_bytes(written(&exported(&network.bytes()))).unwrap();
    assert_eq!(after.description().mode, Mode::Either);
}

/// A network with a region of its own names, in which a batch norm counts its batches.
fn with_region(inner_name: &str) -> Network {
    let mut case = Case::map();
    case.network.counter("bn.count");
    let mut inner = Network::new();
    let counting = [("self", tensor("arg1_1")), ("other", int(1))];
    inner.node("add_.Tensor", inner_name, &counting, &[]);
    let dropped = [("input", tensor("arg0_1")), ("p", float(0.5)), ("train", flag(true))];
    inner.node("dropout.default", "inside", &dropped, &MAP);
    let mut graph = inner.graph().clone();
    graph["inputs"] = json!([tensor("arg0_1"), tensor("arg1_1")]);
    graph["outputs"] = json!([tensor("inside")]);
    let mut counted = meta(&[]);
    counted["dtype"] = json!(5);
    graph["tensor_values"] = json!({"arg0_1": meta(&MAP), "arg1_1": counted, "inside": meta(&MAP)});
    graph["tensor_values"][inner_name] = counted;
    let none = json!({"as_none": true});
    let inputs = [
        ("", json!({"as_string": "cpu"})),
        ("", none.clone()),
        ("", flag(false)),
        ("", none),
        ("", json!({"as_graph": {"name": "submod_1", "graph": graph}})),
        ("", tensor("conv")),
        ("", tensor("bn.count")),
    ];
    case.network.bare_node("torch.ops.higher_order.wrap_with_autocast", &inputs, json!([tensor("act")]));
    *case.network.recorded("act") = meta(&MAP);
    case.value = "act";
    case.then("add_.Tensor", "add_", vec![("other", int(1))], &MAP).network()
}

#[test]
fn regions_of_the_program_compute_as_in_evaluation_too() {
    let [nodes, _] = nodes(&with_region("add__1"));
    let region = &find(&nodes, "act")["inputs"][4]["arg"]["as_graph"]["graph"]["nodes"];
    let region = region.as_array().unwrap();
    assert_eq!(region.len(), 1, "the batch is not counted: {region:?}");
    assert_eq!(*argument(region, "inside", "train"), flag(false));
    assert_eq!(*argument(&nodes, "add_", "other"), int(1));
}

#[test]
fn nodes_that_cannot_be_told_apart_are_refused_with_what_to_take() {
    let mut output = Cursor::new(Vec::new());
    let files = exported(&with_region("add_").bytes());
    let error = write_pt2(&files.student(), &mut output).unwrap_err();
    assert!(error.is_users(), "{error}");
    let error = error.to_string();
    assert!(error.contains("\"add_\"") && error.contains("autocast") && error.contains("ONNX"), "{error}");
    assert!(output.into_inner().is_empty(), "nothing is written");
}
