//! Promise: an operator's second name means what its first one does, and sums and products of parts of tensors do not
//! mix the images of a batch.

use distillery_core::exported::{Node, Op};
use serde_json::{Value, json};

use super::programs::{B, Network, int, ints, tensor};

const MAP: [i64; 4] = [B, 4, 8, 8];

/// What the node of a network is read as, whose map goes through this operator and stays as large.
fn read_as(operator: &str, inputs: &[(&str, Value)]) -> Vec<Op> {
    let mut network = Network::new();
    network.convolve();
    network.node(operator, "node", &[&[("self", tensor("conv"))], inputs].concat(), &MAP);
    if operator.starts_with("greater") || operator.starts_with("gt") {
        network.recorded("node")["dtype"] = json!(12);
        let inputs = [("self", tensor("conv")), ("other", tensor("node"))];
        network.node("mul.Tensor", "product", &inputs, &MAP);
        network.pool_and_classify("product");
    } else {
        network.pool_and_classify("node");
    }
    let read = network.read().unwrap_or_else(|error| panic!("{operator}: {error}"));
    let is_own = |node: &&Node| node.name == "node" || node.name.starts_with("node.");
    read.graph().nodes.iter().filter(is_own).map(|node| node.op.clone()).collect()
}

#[test]
fn second_names_are_read_like_the_first_ones() {
    let other = [("other", tensor("conv"))];
    let dimension = [("dim", int(1))];
    for (second, first, inputs) in [
        ("multiply.Tensor", "mul.Tensor", other.as_slice()),
        ("multiply_.Tensor", "mul_.Tensor", &other),
        ("subtract.Tensor", "sub.Tensor", &other),
        ("divide.Tensor", "div.Tensor", &other),
        ("true_divide.Tensor", "div.Tensor", &other),
        ("greater.Tensor", "gt.Tensor", &other),
        ("absolute.default", "abs.default", &[]),
        ("negative.default", "neg.default", &[]),
        ("special_expit.default", "sigmoid.default", &[]),
        ("special_erf.default", "erf.default", &[]),
        ("special_exp2.default", "exp2.default", &[]),
        ("special_softmax.default", "softmax.int", &dimension),
        ("special_log_softmax.default", "log_softmax.int", &dimension),
        ("linalg_matmul.default", "matmul.default", &other),
        ("positive.default", "alias.default", &[]),
    ] {
        assert_eq!(read_as(second, inputs), read_as(first, inputs), "{second}");
    }
}

/// The faults of a network with a node that reads its map.
fn faults(operator: &str, inputs: &[(&str, Value)], shape: &[i64]) -> Vec<String> {
    let mut network = Network::new();
    network.convolve();
    network.parameter("w", &[5, 8]);
    network.node(operator, "node", &[&[("self", tensor("conv"))], inputs].concat(), shape);
    network.pool_and_classify("node");
    network.faults()
}

#[test]
fn products_over_the_batch_are_refused() {
    let itself = [("other", tensor("conv")), ("dims_self", ints(&[0])), ("dims_other", ints(&[0]))];
    for (operator, inputs, shape) in [
        ("prod.default", [].as_slice(), [].as_slice()),
        ("prod.dim_int", &[("dim", int(0))], &[4, 8, 8]),
        ("any.default", &[], &[]),
        ("all.dim", &[("dim", int(-4))], &[4, 8, 8]),
        ("tensordot.default", &itself, &[4, 8, 8, 4, 8, 8]),
    ] {
        let faults = faults(operator, inputs, shape);
        assert!(faults[0].starts_with("node node: combines the images of a batch"), "{operator}: {faults:?}");
    }
}

#[test]
fn a_sum_of_products_names_dimensions_of_one_size_once() {
    let inputs =
        |dims: [&[i64]; 2]| [("other", tensor("w")), ("dims_self", ints(dims[0])), ("dims_other", ints(dims[1]))];
    for (dims, says) in [
        ([[3].as_slice(), [0].as_slice()], "sums over [8] of one tensor and [5] of the other"),
        ([&[3, 3], &[1, 1]], "names a dimension twice"),
        ([&[2, 3], &[1]], "sums over [8, 8] of one tensor and [8] of the other"),
    ] {
        let faults = faults("tensordot.default", &inputs(dims), &[B, 4, 8, 5]);
        assert!(faults[0].starts_with(&format!("node node: {says}")), "{says}: {faults:?}");
    }
}

#[test]
fn indices_that_leave_a_part_empty_are_refused() {
    for indices in [[0].as_slice(), &[4], &[3, 2], &[2, 2]] {
        let faults = faults("tensor_split.indices", &[("indices", ints(indices)), ("dim", int(1))], &MAP);
        let says = "node node: splits a dimension of size 4 at indices that leave a part empty";
        assert_eq!(faults[0], says, "{indices:?}");
    }
}
