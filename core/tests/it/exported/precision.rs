//! Promise: what PyTorch computes in float32 wherever it computes others in fewer bits is known of each operation.

use serde_json::{Value, json};

use super::programs::{B, Network, flag, float, tensor};

const MAP: [i64; 4] = [B, 4, 8, 8];

/// The nodes of full precision, by name.
fn full(network: &Network) -> Vec<String> {
    let read = network.read().unwrap_or_else(|error| panic!("{error}"));
    read.graph().nodes.iter().filter(|node| node.full_precision).map(|node| node.name.clone()).collect()
}

/// Adds the conversion to float32 that `x.float()` is.
fn convert(network: &mut Network, name: &str, input: &str) {
    let inputs = [("self", tensor(input)), ("dtype", json!({"as_scalar_type": 7}))];
    network.node("to.dtype", name, &inputs, &MAP);
}

fn add(network: &mut Network, name: &str, inputs: [Value; 2]) {
    let [one, two] = inputs;
    network.node("add.Tensor", name, &[("self", one), ("other", two)], &MAP);
}

fn second_convolution(network: &mut Network, input: &str) {
    network.parameter("second.weight", &[4, 4, 1, 1]);
    let inputs = [("input", tensor(input)), ("weight", tensor("second.weight"))];
    network.node("conv2d.default", "second", &inputs, &MAP);
}

#[test]
fn a_conversion_to_float32_holds_up_to_the_next_convolution() {
    let mut network = Network::new();
    network.convolve();
    convert(&mut network, "wide", "conv");
    add(&mut network, "up", [tensor("wide"), float(1.5)]);
    add(&mut network, "mixed", [tensor("conv"), tensor("up")]);
    second_convolution(&mut network, "mixed");
    network.node("relu.default", "act", &[("self", tensor("second"))], &MAP);
    network.pool_and_classify("act");
    assert_eq!(full(&network), ["wide", "up", "mixed"]);
}

#[test]
fn the_second_conversion_is_the_one_back() {
    for back in ["to.dtype", "type_as.default"] {
        let mut network = Network::new();
        network.convolve();
        convert(&mut network, "wide", "conv");
        add(&mut network, "up", [tensor("wide"), float(1.5)]);
        if back == "to.dtype" {
            convert(&mut network, "narrow", "up");
        } else {
            network.node(back, "narrow", &[("self", tensor("up")), ("other", tensor("conv"))], &MAP);
        }
        network.node("relu.default", "act", &[("self", tensor("narrow"))], &MAP);
        network.pool_and_classify("act");
        assert_eq!(full(&network), ["wide", "up"], "{back}");
    }
}

#[test]
fn a_region_without_autocast_is_in_full_precision_with_its_convolutions() {
    let mut inner = Network::new();
    let inputs = [("input", tensor("arg0_1")), ("weight", tensor("arg1_1"))];
    inner.node("conv2d.default", "inside", &inputs, &MAP);
    let mut graph = inner.graph().clone();
    graph["inputs"] = json!([tensor("arg0_1"), tensor("arg1_1")]);
    graph["outputs"] = json!([tensor("inside")]);
    graph["tensor_values"] = json!({"inside": super::programs::meta(&MAP)});
    let mut network = Network::new();
    network.convolve();
    network.parameter("second.weight", &[4, 4, 1, 1]);
    let none = json!({"as_none": true});
    let inputs = [
        ("", json!({"as_string": "cpu"})),
        ("", none.clone()),
        ("", flag(false)),
        ("", none),
        ("", json!({"as_graph": {"name": "submod_1", "graph": graph}})),
        ("", tensor("conv")),
        ("", tensor("second.weight")),
    ];
    network.bare_node("torch.ops.higher_order.wrap_with_autocast", &inputs, json!([tensor("region")]));
    *network.recorded("region") = super::programs::meta(&MAP);
    network.pool_and_classify("region");
    assert!(full(&network).contains(&"region".to_owned()), "{:?}", full(&network));
    assert!(!full(&network).contains(&"conv".to_owned()));
}
