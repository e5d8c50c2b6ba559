//! Promise: a network whose nodes move elements from image to image is refused.

use serde_json::json;

use super::programs::{B, Network, expression, int, ints, tensor};

const MAP: [i64; 4] = [B, 4, 8, 8];

/// Records that the first dimension of a value has the batch several times.
fn record(network: &mut Network, name: &str, times: i64) {
    let size = expression(&format!("Mul(Integer({times}), Symbol('s77', positive=True, integer=True))"));
    network.recorded(name)["sizes"][0] = size;
}

/// The map with its channels before the batch.
fn swapped() -> Network {
    let mut network = Network::new();
    network.convolve();
    let inputs = [("self", tensor("conv")), ("dims", ints(&[1, 0, 2, 3]))];
    network.node("permute.default", "swapped", &inputs, &[4, B, 8, 8]);
    network
}

fn reshape(network: &mut Network, from: &str, to: &str, shape: &[i64]) {
    let inputs = [("self", tensor(from)), ("shape", ints(shape))];
    network.node("reshape.default", to, &inputs, shape);
}

/// Each channel of each image in one row: [4·B, 8, 8].
fn merge(network: &mut Network, from: &str, to: &str) {
    reshape(network, from, to, &[B, 8, 8]);
    record(network, to, 4);
}

#[test]
fn a_reshape_that_mixes_images_is_refused() {
    let mut network = swapped();
    reshape(&mut network, "swapped", "mixed", &MAP);
    network.pool_and_classify("mixed");
    let fault = network.fault();
    assert!(fault.starts_with("node mixed: moves elements from image to image"), "{fault}");

    let mut network = swapped();
    merge(&mut network, "swapped", "merged");
    reshape(&mut network, "merged", "mixed", &MAP);
    network.pool_and_classify("mixed");
    let fault = network.fault();
    assert!(fault.starts_with("node mixed: moves elements from image to image"), "{fault}");
}

#[test]
fn a_reshape_that_keeps_images_apart_is_read() {
    // Merged and split in the same order, with the batch before the channels and behind them.
    let mut network = Network::new();
    network.convolve();
    merge(&mut network, "conv", "merged");
    reshape(&mut network, "merged", "split", &MAP);
    network.pool_and_classify("split");
    network.read().unwrap();

    let mut network = swapped();
    merge(&mut network, "swapped", "merged");
    reshape(&mut network, "merged", "split", &[4, B, 8, 8]);
    let inputs = [("self", tensor("split")), ("dim0", int(0)), ("dim1", int(1))];
    network.node("transpose.int", "back", &inputs, &MAP);
    network.pool_and_classify("back");
    network.read().unwrap();
}

#[test]
fn a_batch_that_is_joined_to_itself_is_split_as_it_was_joined() {
    let joined = |shape: &[i64], dimension: i64| {
        let mut network = Network::new();
        network.convolve();
        let tensors = json!({"as_tensors": [{"name": "conv"}, {"name": "conv"}]});
        network.node("cat.default", "joined", &[("tensors", tensors), ("dim", int(0))], &MAP);
        record(&mut network, "joined", 2);
        reshape(&mut network, "joined", "split", shape);
        let inputs = [("self", tensor("split")), ("dim", int(dimension)), ("index", int(0))];
        network.node("select.int", "half", &inputs, &MAP);
        network.pool_and_classify("half");
        network
    };
    joined(&[2, B, 4, 8, 8], 0).read().unwrap();
    let fault = joined(&[B, 2, 4, 8, 8], 1).fault();
    assert!(fault.starts_with("node split: moves elements from image to image"), "{fault}");
}

#[test]
fn a_batch_that_is_repeated_in_two_orders_is_not_combined() {
    let combined = |other: &str| {
        let mut network = Network::new();
        network.convolve();
        let whole = [("self", tensor("conv")), ("repeats", ints(&[2, 1, 1, 1]))];
        let each = [("self", tensor("conv")), ("repeats", int(2)), ("dim", int(0))];
        network.node("repeat.default", "whole", &whole, &MAP);
        network.node("repeat_interleave.self_int", "each", &each, &MAP);
        for name in ["whole", "each"] {
            record(&mut network, name, 2);
        }
        network.node("add.Tensor", "sum", &[("self", tensor("whole")), ("other", tensor(other))], &MAP);
        record(&mut network, "sum", 2);
        reshape(&mut network, "sum", "split", &[2, B, 4, 8, 8]);
        let inputs = [("self", tensor("split")), ("dim", int(0)), ("index", int(0))];
        network.node("select.int", "half", &inputs, &MAP);
        network.pool_and_classify("half");
        network
    };
    combined("whole").read().unwrap();
    let fault = combined("each").fault();
    assert!(fault.starts_with("node sum: combines different images of the batch"), "{fault}");
}
