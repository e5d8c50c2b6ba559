//! Promise: a description says how much memory a network takes, and is small itself.

use distillery_core::exported::MemoryDescription;

use super::programs::{B, Network, tensor};

#[test]
fn the_memory_of_values_is_that_of_a_pass() {
    let description = Network::small().read().unwrap().description().clone();
    // The map before the ReLU, and what was pooled; both maps at a time.
    let expected = MemoryDescription { kept_elements: 4 * 8 * 8 + 4, peak_elements: 2 * 4 * 8 * 8 };
    assert_eq!(description.memory, expected);
}

#[test]
fn what_is_repeated_and_reshaped_takes_memory_of_its_own() {
    let mut network = Network::new();
    network.convolve();
    let inputs = [("self", tensor("conv")), ("repeats", super::programs::int(3)), ("dim", super::programs::int(3))];
    network.node("repeat_interleave.self_int", "wide", &inputs, &[B, 4, 8, 24]);
    network.pool_and_classify("wide");
    let description = network.read().unwrap().description().clone();
    // What was pooled; the map, and the one that is three times as wide.
    let expected = MemoryDescription { kept_elements: 4, peak_elements: (1 + 3) * 4 * 8 * 8 };
    assert_eq!(description.memory, expected);
}

#[test]
fn a_long_head_is_cut_in_the_description() {
    let mut network = Network::new();
    network.convolve();
    let pooling = [("self", tensor("conv")), ("output_size", super::programs::ints(&[1, 1]))];
    network.node("adaptive_avg_pool2d.default", "pooled", &pooling, &[B, 4, 1, 1]);
    let start = ("start_dim", super::programs::int(1));
    network.node("flatten.using_ints", "relu0", &[("self", tensor("pooled")), start], &[B, 4]);
    for index in 1..=150 {
        let before = format!("relu{}", index - 1);
        network.node("relu.default", &format!("relu{index}"), &[("self", tensor(&before))], &[B, 4]);
    }
    network.classify("relu150");
    let head = network.read().unwrap().description().head.clone();
    assert_eq!((head.operators.len(), head.operators[0].as_str()), (101, "aten.flatten.using_ints"));
    assert_eq!(head.operators[100], "52 more");
    assert_eq!(head.is_linear, Some(false));
}
