//! Promise: what depends on neither images nor weights is computed as PyTorch computes it.

use distillery_core::exported::{ExportedNetwork, Op, Origin, Size};
use serde_json::{Value, json};

use super::programs::{B, Network, flag, float, int, ints, tensor};

const MAP: [i64; 4] = [B, 4, 8, 8];

fn typed(network: &mut Network, name: &str, dtype: u64) {
    network.recorded(name)["dtype"] = json!(dtype);
}

/// A network that multiplies its map by what `make` computes under the name `constant`, and the elements of that.
fn constant(make: impl FnOnce(&mut Network)) -> (ExportedNetwork, Vec<u64>, Vec<f32>) {
    let mut network = Network::new();
    network.convolve();
    make(&mut network);
    network.node("mul.Tensor", "product", &[("self", tensor("conv")), ("other", tensor("constant"))], &MAP);
    network.pool_and_classify("product");
    let read = network.read().unwrap();
    let is_constant = |name: &str| name.starts_with("product.constant.");
    let stored = read.tensors().iter().find(|stored| is_constant(stored.tensor.name())).expect("it has a constant");
    let (shape, elements) = (stored.tensor.shape().to_vec(), read.floats(stored).unwrap());
    (read, shape, elements)
}

fn range(network: &mut Network, name: &str, count: i64, dtype: u64) {
    network.node("arange.default", name, &[("end", int(count))], &[count]);
    typed(network, name, dtype);
}

#[test]
fn the_graph_has_the_result_alone() {
    let (read, shape, elements) = constant(|network| {
        range(network, "numbers", 8, 5);
        network.node(
            "to.dtype",
            "floats",
            &[("self", tensor("numbers")), ("dtype", json!({"as_scalar_type": 7}))],
            &[8],
        );
        network.node("div.Tensor", "scaled", &[("self", tensor("floats")), ("other", int(3))], &[8]);
        network.node("sin.default", "constant", &[("self", tensor("scaled"))], &[8]);
    });
    assert_eq!(shape, [8]);
    let expected: Vec<f32> = (0..8).map(|at| f64::from((f64::from(at) / 3.0) as f32).sin() as f32).collect();
    assert_eq!(elements, expected);
    let operators = &read.description().operators;
    assert!(!operators.contains_key("aten.sin.default") && operators["aten.mul.Tensor"] == 1, "{operators:?}");
    assert!(read.graph().values.iter().all(|value| value.origin != Origin::Node(usize::MAX)));
}

#[test]
fn parts_that_are_overwritten_show_in_all_views() {
    let (_, shape, elements) = constant(|network| {
        network.node("zeros.default", "zeros", &[("size", ints(&[8, 8]))], &[8, 8]);
        // A view that is taken before the writing.
        network.node("view.default", "row", &[("self", tensor("zeros")), ("size", ints(&[64]))], &[64]);
        let rows = [("self", tensor("zeros")), ("dim", int(0)), ("start", int(-2)), ("end", int(i64::MAX))];
        network.node("slice.Tensor", "rows", &rows, &[2, 8]);
        let columns = [("self", tensor("rows")), ("dim", int(1)), ("start", int(0)), ("end", int(3))];
        network.node("slice.Tensor", "corner", &columns, &[2, 3]);
        network.node("fill_.Scalar", "filled", &[("self", tensor("corner")), ("value", int(5))], &[2, 3]);
        network.node("view.default", "constant", &[("self", tensor("row")), ("size", ints(&[8, 8]))], &[8, 8]);
    });
    assert_eq!(shape, [8, 8]);
    let expected = |row: usize, column: usize| if row >= 6 && column < 3 { 5.0 } else { 0.0 };
    assert_eq!(elements, (0..64).map(|at| expected(at / 8, at % 8)).collect::<Vec<f32>>());
}

#[test]
fn integers_are_added_up_to_integers() {
    let (_, shape, elements) = constant(|network| {
        range(network, "numbers", 16, 5);
        network.node("view.default", "pairs", &[("self", tensor("numbers")), ("size", ints(&[8, 2]))], &[8, 2]);
        typed(network, "pairs", 5);
        network.node("sum.dim_IntList", "sums", &[("self", tensor("pairs")), ("dim", ints(&[-1]))], &[8]);
        typed(network, "sums", 5);
        let conversion = [("self", tensor("sums")), ("dtype", json!({"as_scalar_type": 7}))];
        network.node("to.dtype", "constant", &conversion, &[8]);
    });
    assert_eq!(shape, [8]);
    assert_eq!(elements, [1.0, 5.0, 9.0, 13.0, 17.0, 21.0, 25.0, 29.0]);
}

#[test]
fn triangles_and_diagonals_are_computed() {
    for (operator, diagonal) in [("tril.default", 1), ("triu.default", 0)] {
        let is_kept =
            |row: i64, column: i64| if operator == "tril.default" { column <= row + 1 } else { column >= row };
        let (_, shape, elements) = constant(|network| {
            network.node("ones.default", "ones", &[("size", ints(&[4, 8, 8]))], &[4, 8, 8]);
            let inputs = [("self", tensor("ones")), ("diagonal", int(diagonal))];
            network.node(operator, "constant", &inputs, &[4, 8, 8]);
        });
        assert_eq!(shape, [4, 8, 8]);
        assert_eq!(
            elements,
            (0..256).map(|at| f32::from(is_kept(at / 8 % 8, at % 8))).collect::<Vec<_>>(),
            "{operator}"
        );
    }
    let (_, shape, elements) = constant(|network| {
        network.node("eye.m", "constant", &[("n", int(1)), ("m", int(8))], &[1, 8]);
    });
    assert_eq!(shape, [1, 8]);
    assert_eq!(elements, [1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
}

#[test]
fn a_mask_of_windows_is_computed() {
    let (_, shape, elements) = constant(|network| {
        range(network, "numbers", 8, 5);
        let column = [("self", tensor("numbers")), ("dim", int(1))];
        network.node("unsqueeze.default", "column", &column, &[8, 1]);
        typed(network, "column", 5);
        let both = [("self", tensor("numbers")), ("other", tensor("column"))];
        network.node("sub.Tensor", "differences", &both, &[8, 8]);
        typed(network, "differences", 5);
        network.node("ne.Scalar", "differ", &[("self", tensor("differences")), ("other", int(0))], &[8, 8]);
        typed(network, "differ", 12);
        network.node("new_zeros.default", "zeros", &[("self", tensor("conv")), ("size", ints(&[8, 8]))], &[8, 8]);
        let fill = [("self", tensor("zeros")), ("mask", tensor("differ")), ("value", float(-100.0))];
        network.node("masked_fill.Scalar", "constant", &fill, &[8, 8]);
    });
    assert_eq!(shape, [8, 8]);
    let expected = |row: usize, column: usize| if row == column { 0.0 } else { -100.0 };
    assert_eq!(elements, (0..64).map(|at| expected(at / 8, at % 8)).collect::<Vec<f32>>());
}

#[test]
fn positions_for_each_image_of_a_batch_are_stored_once() {
    let (read, shape, elements) = constant(|network| {
        let outputs = json!([{"as_sym_int": {"as_name": "b"}}]);
        network.bare_node("torch.ops.aten.sym_size.int", &[("self", tensor("x")), ("dim", int(0))], outputs);
        let size = json!({"as_sym_ints": [{"as_name": "b"}, {"as_int": 1}, {"as_int": 8}, {"as_int": 8}]});
        network.node("ones.default", "ones", &[("size", size)], &[B, 1, 8, 8]);
        network.node("cumsum.default", "constant", &[("self", tensor("ones")), ("dim", int(2))], &[B, 1, 8, 8]);
    });
    assert_eq!(shape, [1, 1, 8, 8]);
    assert_eq!(elements, (0..64).map(|at| (at / 8 + 1) as f32).collect::<Vec<f32>>());
    let graph = read.graph();
    let expanded = graph.nodes.iter().find(|node| matches!(node.op, Op::Expand { .. })).unwrap();
    assert_eq!(graph.values[expanded.outputs[0]].shape[0], Size::Batch(1));
}

#[test]
fn what_would_differ_from_image_to_image_is_refused() {
    let mut network = Network::new();
    network.convolve();
    let outputs = json!([{"as_sym_int": {"as_name": "b"}}]);
    network.bare_node("torch.ops.aten.sym_size.int", &[("self", tensor("x")), ("dim", int(0))], outputs);
    let size = json!({"as_sym_ints": [{"as_name": "b"}, {"as_int": 4}]});
    network.node("ones.default", "ones", &[("size", size)], &[B, 4]);
    network.node("cumsum.default", "numbered", &[("self", tensor("ones")), ("dim", int(0))], &[B, 4]);
    network.classify("numbered");
    assert_eq!(network.faults()[0], "node numbered: sums over the batch, which is not supported");
}

#[test]
fn a_constant_of_the_file_is_used_but_not_overwritten() {
    let with = |change: &dyn Fn(&mut Network)| {
        let mut network = Network::new();
        network.convolve();
        network.constant("shift", &[8], &(0..8).map(|at| at as f32).collect::<Vec<_>>());
        change(&mut network);
        network.node("mul.Tensor", "product", &[("self", tensor("conv")), ("other", tensor("used"))], &MAP);
        network.pool_and_classify("product");
        network
    };
    let doubled = with(&|network| {
        network.node("add.Tensor", "used", &[("self", tensor("shift")), ("other", tensor("shift"))], &[8]);
    });
    let read = doubled.read().unwrap();
    let stored = read.tensors().last().unwrap();
    assert_eq!(read.floats(stored).unwrap(), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0]);
    let overwritten = with(&|network| {
        network.node("mul_.Tensor", "used", &[("self", tensor("shift")), ("other", int(2))], &[8]);
    });
    assert_eq!(overwritten.fault(), "node used: overwrites shift, which is not a counter of batches");
}

#[test]
fn a_small_file_may_not_ask_for_much() {
    let mut network = Network::new();
    network.convolve();
    network.node("zeros.default", "zeros", &[("size", ints(&[1 << 15, 1 << 15]))], &[1 << 15, 1 << 15]);
    network.pool_and_classify("conv");
    assert_eq!(network.fault(), "node zeros: needs more constants than a file of this size may have");
}

#[test]
fn a_result_that_does_not_depend_on_images_is_refused() {
    let mut network = Network::new();
    network.convolve();
    let outputs = json!([{"as_sym_int": {"as_name": "b"}}]);
    network.bare_node("torch.ops.aten.sym_size.int", &[("self", tensor("x")), ("dim", int(0))], outputs);
    let size = json!({"as_sym_ints": [{"as_name": "b"}, {"as_int": 5}]});
    network.node("ones.default", "ones", &[("size", size)], &[B, 5]);
    network.result("ones");
    assert_eq!(network.fault(), "output: does not depend on the images");
}

#[test]
fn arguments_that_no_operator_has_are_refused_in_constants_too() {
    let mut network = Network::new();
    network.convolve();
    let inputs: [(&str, Value); 2] = [("size", ints(&[8])), ("names", flag(true))];
    network.node("zeros.default", "zeros", &inputs, &[8]);
    network.pool_and_classify("conv");
    assert_eq!(network.fault(), "node zeros: has an argument names that is not supported");
}
