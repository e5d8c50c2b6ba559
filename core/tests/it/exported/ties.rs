//! Promise: a parameter with several keys is one parameter, and parameters that overlap in another way are named.

use distillery_core::exported::{ExportedNetwork, Op, Origin};
use serde_json::json;

use super::programs::{B, Network, flag, float, ints, tensor};

/// Elements of each convolution's weight.
const ELEMENTS: u64 = 4 * 3 * 9;

/// The sum of two convolutions of the images, `conv` and `twin`, pooled and classified.
fn two_convolutions() -> Network {
    convolutions(Network::parameter)
}

/// The same. The second weight is a parameter or a buffer.
fn convolutions(add: impl FnOnce(&mut Network, &str, &[i64])) -> Network {
    let mut network = Network::new();
    network.convolve();
    add(&mut network, "twin.weight", &[4, 3, 3, 3]);
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
    shared(two_convolutions(), ["conv.weight", "twin.weight"], offset)
}

/// The same with a buffer for the second one.
fn buffer_in_one_memory(offset: u64) -> Network {
    shared(convolutions(Network::buffer), ["conv.weight", "twin.weight"], offset)
}

/// The storage of a tensor.
fn storage<'a>(network: &'a mut Network, key: &str) -> &'a mut Vec<u8> {
    let path = network.weights["config"][key]["path_name"].as_str().unwrap();
    let file = format!("data/weights/{path}");
    &mut network.files.iter_mut().find(|(name, _)| *name == file).unwrap().1
}

/// Puts the second tensor into the storage of the first, this many elements after its beginning.
fn shared(mut network: Network, [first, second]: [&str; 2], offset: u64) -> Network {
    let bytes = storage(&mut network, first);
    bytes.resize(2 * bytes.len(), 0);
    let path = network.weights["config"][first]["path_name"].clone();
    let second = &mut network.weights["config"][second];
    second["path_name"] = path;
    second["tensor_meta"]["storage_offset"] = json!({"as_int": offset});
    network
}

/// A convolution with a batch norm in training, pooled and classified.
fn normalised() -> Network {
    let mut network = Network::new();
    network.convolve();
    let mut inputs = vec![("input", tensor("conv"))];
    for (name, key) in [("weight", "bn.weight"), ("bias", "bn.bias")] {
        network.parameter(key, &[4]);
        inputs.push((name, tensor(key)));
    }
    for (name, key) in [("running_mean", "bn.running_mean"), ("running_var", "bn.running_var")] {
        network.buffer(key, &[4]);
        inputs.push((name, tensor(key)));
    }
    inputs.extend([("training", flag(true)), ("momentum", float(0.1)), ("eps", float(1e-5))]);
    inputs.push(("cudnn_enabled", flag(false)));
    network.node("batch_norm.default", "bn", &inputs, &[B, 4, 8, 8]);
    network.pool_and_classify("bn");
    network
}

fn overlapping(network: &Network) -> Option<String> {
    network.read().unwrap().description().overlapping.clone()
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
    let noted = description.notes.last().map(String::as_str);
    assert_eq!((description.warnings_of(true).count(), noted), (0, Some(said)));
}

#[test]
fn trained_parameters_that_overlap_in_another_way_are_named() {
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
    let warnings = read.description().student_warnings.join("; ");
    let says = "tensors share memory without being the same, as transposed or sliced ones do: twin.weight with itself.";
    assert!(warnings.contains(says) && warnings.contains("they would be trained apart"), "{warnings}");
}

#[test]
fn a_buffer_in_the_memory_of_a_trained_parameter_follows_it_and_is_a_value_of_its_own() {
    let read = buffer_in_one_memory(0).read().unwrap();
    let description = read.description();
    assert_eq!((description.parameters, &description.overlapping), (ELEMENTS + 20, &None));
    let find = |key: &str| read.tensors().iter().position(|stored| stored.tensor.name() == key).unwrap();
    let [conv, twin] = ["conv.weight", "twin.weight"].map(find);
    assert_eq!(weights(&read), [Origin::Stored(conv), Origin::Stored(twin)], "no gradient comes through a buffer");
    let buffer = &read.tensors()[twin];
    assert_eq!((buffer.tied_to, buffer.trained), (Some(conv), false));
    assert!(buffer.follows_a_parameter(read.tensors()));
    let said = "1 buffer shares the memory of a trained parameter, and training keeps both equal: twin.weight";
    let noted = description.notes.last().map(String::as_str);
    assert_eq!((description.warnings_of(true).count(), noted), (0, Some(said)));

    // A frozen parameter does not change, so that nothing has to be said of the buffer.
    let mut frozen = buffer_in_one_memory(0);
    frozen.weights["config"]["conv.weight"]["tensor_meta"]["requires_grad"] = json!(false);
    let read = frozen.read().unwrap();
    assert!(read.tensors().iter().all(|stored| stored.tied_to.is_none()));
    assert_eq!(read.description().overlapping, None);
    assert_eq!(overlapping(&buffer_in_one_memory(ELEMENTS / 2)).as_deref(), Some("conv.weight and twin.weight"));
    let mut transposed = buffer_in_one_memory(0);
    let strides = [27, 9, 1, 3].map(|stride| json!({"as_int": stride}));
    transposed.weights["config"]["twin.weight"]["tensor_meta"]["strides"] = strides.into_iter().collect();
    assert_eq!(overlapping(&transposed).as_deref(), Some("conv.weight and twin.weight"));
}

#[test]
fn a_buffer_that_is_a_parameter_itself_is_that_parameter() {
    let mut network = convolutions(Network::buffer);
    let twin = &mut network.weights["config"]["twin.weight"];
    (twin["is_param"], twin["tensor_meta"]["requires_grad"]) = (json!(true), json!(true));
    let apart = network.fault();
    let said = "input twin.weight: the buffer twin.weight is an nn.Parameter, which no optimiser gets: register \
                twin.weight.detach() instead";
    assert_eq!(apart, said);
    let read = shared(network, ["conv.weight", "twin.weight"], 0).read().unwrap();
    assert_eq!(weights(&read)[0], weights(&read)[1]);
    assert_eq!(read.description().parameters, ELEMENTS + 20);
}

#[test]
fn statistics_that_training_writes_into_other_tensors_are_named() {
    assert_eq!(overlapping(&normalised()), None);
    let statistics = ["bn.running_mean", "bn.running_var"];
    assert_eq!(overlapping(&shared(normalised(), statistics, 0)), None, "they are one");
    let one = shared(normalised(), statistics, 2);
    assert_eq!(overlapping(&one).as_deref(), Some("bn.running_mean and bn.running_var"));
    let trained = shared(normalised(), ["bn.bias", "bn.running_mean"], 0);
    assert_eq!(overlapping(&trained).as_deref(), Some("bn.bias and bn.running_mean"));
}

#[test]
fn a_tensor_outside_the_state_dict_with_the_elements_of_a_parameter_is_named() {
    let with = |elements: &[f32]| {
        let mut network = Network::small();
        *storage(&mut network, "fc.weight") = elements.iter().flat_map(|element| element.to_le_bytes()).collect();
        network.constant("prototypes", &[5, 4], elements);
        network.read().unwrap().description().student_warnings.join("; ")
    };
    let different: Vec<f32> = (0_u8..20).map(f32::from).collect();
    let warnings = with(&different);
    let says = "have the elements of trained parameters: prototypes those of fc.weight. If they share memory";
    assert!(warnings.contains(says), "{warnings}");
    assert_eq!(with(&[1.0; 20]), "", "by chance");
}
