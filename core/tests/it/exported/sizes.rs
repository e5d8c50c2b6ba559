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
