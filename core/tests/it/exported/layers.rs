//! Promise: layers of all geometries are read with their shapes, and what does not fit is a fault.

use distillery_core::exported::{Activation, Op};
use serde_json::json;

use super::programs::{B, Network, flag, float, int, ints, tensor};

/// A transposed convolution of a map [B, 4, 8, 8].
fn transposed(weight: &[i64], numbers: &[(&'static str, &[i64])], groups: i64, shape: &[i64]) -> Network {
    let mut network = Network::new();
    network.convolve();
    network.parameter("up.weight", weight);
    let mut inputs = vec![("input", tensor("conv")), ("weight", tensor("up.weight")), ("groups", int(groups))];
    inputs.extend(numbers.iter().map(|(name, numbers)| (*name, ints(numbers))));
    network.node("conv_transpose2d.input", "up", &inputs, shape);
    network.node("mean.dim", "mean", &[("self", tensor("up")), ("dim", ints(&[2, 3]))], &[B, 4]);
    network.classify("mean");
    network
}

#[test]
fn a_transposed_convolution_has_its_own_shape_and_multiplications() {
    let numbers: [(&str, &[i64]); 4] =
        [("stride", &[2, 3]), ("padding", &[1, 0]), ("output_padding", &[1, 2]), ("dilation", &[1, 2])];
    let read = transposed(&[4, 2, 3, 2], &numbers, 2, &[B, 4, 16, 26]).read().unwrap();
    // Each of the 8·8 elements of 4 channels is multiplied with 2·3·2 weights.
    let own = 8 * 8 * 4 * 2 * 3 * 2;
    assert_eq!(read.description().macs, 8 * 8 * 4 * 3 * 9 + own + 5 * 4);
    let found = read.graph().nodes.iter().find(|node| node.name == "up").unwrap();
    let (stride, padding, output_padding, dilation) = ([2, 3], [1, 0], [1, 2], [1, 2]);
    assert_eq!(
        found.op,
        Op::TransposedConvolution { stride, padding, output_padding, dilation, groups: 2, bias: false }
    );
}

#[test]
fn transposed_convolutions_that_do_not_fit_are_faults() {
    type Numbers = [(&'static str, &'static [i64]); 1];
    let stride: Numbers = [("stride", &[2, 2])];
    let cases: [(&[i64], Numbers, i64, &str); 6] = [
        (&[3, 4, 2, 2], stride, 1, "has 4 channels, 1 groups and a weight [3, 4, 2, 2]"),
        (&[4, 4, 2, 2], stride, 3, "has 4 channels, 3 groups and a weight [4, 4, 2, 2]"),
        (&[4, 4, 2, 2], stride, 0, "has 4 channels, 0 groups and a weight [4, 4, 2, 2]"),
        (&[4, 4, 2], stride, 1, "has a weight [4, 4, 2]"),
        (&[4, 4, 2, 2], [("stride", &[i64::MAX, 1])], 1, "spreads a map of 8×8 over windows of [2, 2]"),
        (&[4, 4, 2, 2], [("output_padding", &[1, 0])], 1, "spreads a map of 8×8 over windows of [2, 2]"),
    ];
    for (weight, numbers, groups, says) in cases {
        let faults = transposed(weight, &numbers, groups, &[B, 4, 16, 16]).faults();
        assert!(faults[0].starts_with(&format!("node up: {says}")), "{faults:?}");
    }
}

#[test]
fn a_running_sum_over_the_batch_is_a_fault() {
    let mut network = Network::new();
    network.convolve();
    network.node("cumsum.default", "sum", &[("self", tensor("conv")), ("dim", int(0))], &[B, 4, 8, 8]);
    network.pool_and_classify("sum");
    assert_eq!(network.fault(), "node sum: sums over the batch, which is not supported");
}

#[test]
fn columns_that_are_not_those_of_the_map_are_a_fault() {
    for (size, says) in
        [([16, 24], None), ([14, 24], Some("[14, 24]")), ([17, 24], Some("[17, 24]")), ([0, 24], Some("[0, 24]"))]
    {
        let mut network = Network::new();
        network.convolve();
        network.node("flatten.using_ints", "rows", &[("self", tensor("conv")), ("start_dim", int(2))], &[B, 4, 64]);
        let inputs = [
            ("self", tensor("rows")),
            ("output_size", ints(&size)),
            ("kernel_size", ints(&[2, 2])),
            ("dilation", ints(&[2, 2])),
            ("padding", ints(&[1, 1])),
            ("stride", ints(&[2, 3])),
        ];
        network.node("col2im.default", "map", &inputs, &[B, 1, 16, 24]);
        network.node(
            "expand.default",
            "maps",
            &[("self", tensor("map")), ("size", ints(&[-1, 4, -1, -1]))],
            &[B, 4, 16, 24],
        );
        network.pool_and_classify("maps");
        match says {
            None => drop(network.read().unwrap()),
            Some(says) => assert_eq!(
                network.fault(),
                format!("node map: adds up columns [B, 4, 64] of windows [2, 2] to a map of {says}")
            ),
        }
    }
}

#[test]
fn slopes_that_are_drawn_are_their_mean_in_evaluation_and_a_fault_in_training() {
    let network = |training: bool| {
        let mut network = Network::new();
        network.convolve();
        let inputs =
            [("self", tensor("conv")), ("lower", float(0.125)), ("upper", float(0.375)), ("training", flag(training))];
        network.node("rrelu.default", "act", &inputs, &[B, 4, 8, 8]);
        network.pool_and_classify("act");
        network
    };
    let read = network(false).read().unwrap();
    let found = read.graph().nodes.iter().find(|node| node.name == "act").unwrap();
    assert_eq!(found.op, Op::Activation(Activation::LeakyRelu { slope: 0.25 }));
    let fault = network(true).fault();
    assert!(fault.starts_with("node act: draws slopes at random in training (RReLU)"), "{fault}");
}

#[test]
fn an_ellipsis_stands_for_dimensions_without_letters() {
    let network = |equation: &str, weight: &[i64], shape: &[i64]| {
        let mut network = Network::new();
        network.convolve();
        network.parameter("w", weight);
        let inputs = [
            ("equation", json!({"as_string": equation})),
            ("tensors", json!({"as_tensors": [{"name": "conv"}, {"name": "w"}]})),
        ];
        network.node("einsum.default", "sum", &inputs, shape);
        network.pool_and_classify("sum");
        network
    };
    network("...w,kw->...k", &[5, 8], &[B, 4, 8, 5]).read().unwrap();
    network("... h w, k ... h -> ... k w", &[5, 4, 8], &[B, 4, 5, 8]).read().unwrap();
    network("b...w,...w->b...w", &[4, 8, 8], &[B, 4, 8, 8]).read().unwrap();
    let fault = network("...abcdef,kf->...k", &[5, 8], &[B, 4, 8, 5]).fault();
    assert_eq!(fault, "node sum: has an equation whose number of dimensions differs from its tensor's");
}

#[test]
fn an_einstein_sum_of_three_tensors_is_two_products() {
    let mut network = Network::new();
    network.convolve();
    network.parameter("w", &[4, 2]);
    network.parameter("v", &[8, 2]);
    let inputs = [
        ("equation", json!({"as_string": "bchw,cd,hd->bhcw"})),
        ("tensors", json!({"as_tensors": [{"name": "conv"}, {"name": "w"}, {"name": "v"}]})),
    ];
    network.node("einsum.default", "sum", &inputs, &[B, 8, 4, 8]);
    network.node("mean.dim", "mean", &[("self", tensor("sum")), ("dim", ints(&[1, 3]))], &[B, 4]);
    network.classify("mean");
    let read = network.read().unwrap();
    let products = read.graph().nodes.iter().filter(|node| node.op == Op::Matmul).count();
    assert_eq!(products, 2);
}
