//! Promise: a parameter with several keys is one parameter, and parameters that overlap in another way are named.

use distillery_core::exported::{ExportedNetwork, Op, Origin};
use serde_json::json;

use super::programs::{B, Network, ints, tensor};

/// Elements of each convolution's weight.
const ELEMENTS: u64 = 4 * 3 * 9;

/// The sum of two convolutions of the images, `conv` and `twin`, pooled and classified.
fn two_convolutions() -> Network {
    let mut network = Network::new();
    network.convolve();
    network.parameter("twin.weight", &[4, 3, 3, 3]);
    let inputs = [
        ("input", tensor("x")),
        ("weight", tensor("twin.weight")),
        ("bias", json!({"as_none": true})),
        ("stride", ints(&[1, 1])),
        ("padding", ints(&[1, 1])),
    ];
    network.node("conv2d.default", "twin", &inputs, &[B, 4, 8, 8]);
    network.node("add.Tensor", "sum", &[("self", tensor("conv")), ("other", tensor("twin"))], &[B, 4, 8, 8]);
    network.pool_and_classify("sum");
    network
}

/// The same, whose weights are in the same memory, the second one this many elements after the first.
fn in_one_memory(offset: u64) -> Network {
    let mut network = two_convolutions();
    let path = network.weights["config"]["conv.weight"]["path_name"].clone();
    let file = format!("data/weights/{}", path.as_str().unwrap());
    let (_, bytes) = network.files.iter_mut().find(|(name, _)| *name == file).unwrap();
    *bytes = vec![0; 8 * ELEMENTS as usize];
    let twin = &mut network.weights["config"]["twin.weight"];
    twin["path_name"] = path;
    twin["tensor_meta"]["storage_offset"] = json!({"as_int": offset});
    network
}

/// The stored tensors that the convolutions take for weights.
fn weights(network: &ExportedNetwork) -> Vec<Origin> {
    let graph = network.graph();
    let convolutions = graph.nodes.iter().filter(|node| matches!(node.op, Op::Convolution { .. }));
    convolutions.map(|node| graph.values[node.inputs[1]].origin).collect()
}

#[test]
fn keys_of_one_parameter_are_one_parameter() {
    let apart = two_convolutions().read().unwrap();
    assert_eq!(apart.description().parameters, 2 * ELEMENTS + 20);
    assert_ne!(weights(&apart)[0], weights(&apart)[1]);
    assert!(apart.tensors().iter().all(|stored| stored.tied_to.is_none()));

    let tied = in_one_memory(0).read().unwrap();
    let description = tied.description();
    assert_eq!((description.parameters, &description.overlapping), (ELEMENTS + 20, &None));
    assert_eq!(weights(&tied)[0], weights(&tied)[1]);
    let find = |key: &str| tied.tensors().iter().position(|stored| stored.tensor.name() == key);
    let twin = &tied.tensors()[find("twin.weight").unwrap()];
    assert_eq!((twin.tied_to, twin.trained), (find("conv.weight"), true));
    let said = "1 key is that of a parameter with an earlier key, too, and both stay equal in training: twin.weight";
    assert_eq!(description.warnings, [said]);
}

#[test]
fn trained_parameters_that_overlap_in_another_way_are_named() {
    let overlapping = |network: &Network| network.read().unwrap().description().overlapping.clone();
    assert_eq!(overlapping(&in_one_memory(ELEMENTS / 2)).as_deref(), Some("conv.weight and twin.weight"));
    assert_eq!(overlapping(&in_one_memory(ELEMENTS)), None, "one begins where the other ends");

    let mut frozen = in_one_memory(ELEMENTS / 2);
    frozen.weights["config"]["twin.weight"]["tensor_meta"]["requires_grad"] = json!(false);
    assert_eq!(overlapping(&frozen).as_deref(), Some("conv.weight and twin.weight"), "one of them changes");
    frozen.weights["config"]["conv.weight"]["tensor_meta"]["requires_grad"] = json!(false);
    assert_eq!(overlapping(&frozen), None, "neither changes");

    let mut half_frozen = in_one_memory(0);
    half_frozen.weights["config"]["twin.weight"]["tensor_meta"]["requires_grad"] = json!(false);
    assert_eq!(overlapping(&half_frozen).as_deref(), Some("conv.weight and twin.weight"));

    let mut expanded = two_convolutions();
    expanded.weights["config"]["twin.weight"]["tensor_meta"]["strides"][0] = json!({"as_int": 0});
    let read = expanded.read().unwrap();
    assert_eq!(read.description().overlapping.as_deref(), Some("twin.weight with itself"));
    let warnings = read.description().warnings.join("; ");
    assert!(warnings.contains("trained parameters overlap, and a student cannot train them"), "{warnings}");
}
