//! Promise: a network takes only rows that there are, which is known when its file is read.

use distillery_core::checkpoint::Dtype;
use distillery_core::exported::{Op, Origin};
use serde_json::json;

use super::programs::{B, Network, int, ints, tensor};

const I32: u64 = 4;
const I64: u64 = 5;

/// A constant of integers.
fn integers(network: &mut Network, name: &str, dtype: u64, shape: &[i64], numbers: &[i64]) {
    network.constant(name, shape, &[]);
    network.constants["config"][name]["tensor_meta"]["dtype"] = json!(dtype);
    network.recorded(name)["dtype"] = json!(dtype);
    let bytes = |number: &i64| match dtype {
        I32 => (*number as i32).to_le_bytes().to_vec(),
        _ => number.to_le_bytes().to_vec(),
    };
    network.files.last_mut().unwrap().1 = numbers.iter().flat_map(bytes).collect();
}

fn index(name: &str) -> serde_json::Value {
    json!({"as_tensors": [{"name": name}]})
}

/// A network that adds rows of a table [5, 8] to its map.
fn taking(dtype: u64, numbers: &[i64; 4]) -> Network {
    let mut network = Network::new();
    network.convolve();
    network.parameter("table", &[5, 8]);
    integers(&mut network, "numbers", dtype, &[4], numbers);
    network.node("index.Tensor", "rows", &[("self", tensor("table")), ("indices", index("numbers"))], &[4, 8]);
    added(network)
}

fn added(mut network: Network) -> Network {
    network.node("unsqueeze.default", "raised", &[("self", tensor("rows")), ("dim", int(1))], &[4, 1, 8]);
    network.node("add.Tensor", "sum", &[("self", tensor("conv")), ("other", tensor("raised"))], &[B, 4, 8, 8]);
    network.pool_and_classify("sum");
    network
}

#[test]
fn a_row_that_the_table_does_not_have_is_refused_when_the_file_is_read() {
    for dtype in [I32, I64] {
        taking(dtype, &[4, 0, -5, 1]).read().unwrap();
        for number in [5, -6, 1 << 30] {
            let fault = taking(dtype, &[4, 0, number, 1]).fault();
            assert_eq!(fault, format!("node rows: takes row {number} of a table with 5 rows"));
        }
    }
    assert_eq!(taking(I64, &[0, 0, 0, i64::MAX]).fault(), "node rows: takes rows by numbers that are too large");
}

#[test]
fn an_embedding_takes_only_rows_that_there_are() {
    for (number, is_read) in [(4, true), (5, false)] {
        let mut network = Network::new();
        network.convolve();
        network.parameter("table", &[5, 8]);
        integers(&mut network, "numbers", I64, &[4], &[0, 1, 2, number]);
        let inputs = [("weight", tensor("table")), ("indices", tensor("numbers"))];
        network.node("embedding.default", "rows", &inputs, &[4, 8]);
        assert_eq!(added(network).read().is_ok(), is_read, "{number}");
    }
}

#[test]
fn integers_of_32_bits_are_widened() {
    let read = taking(I32, &[4, 0, -5, 1]).read().unwrap();
    let graph = read.graph();
    let node = graph.nodes.iter().find(|node| node.op == Op::Rows).unwrap();
    let numbers = &graph.values[node.inputs[1]];
    let Origin::Stored(stored) = numbers.origin else { panic!("{numbers:?}") };
    let tensor = &read.tensors()[stored];
    assert_eq!((numbers.dtype, tensor.tensor.dtype(), tensor.tensor.shape()), (Dtype::I64, Dtype::I64, &[4][..]));
    assert_eq!(read.bytes(tensor).unwrap(), [4_i64, 0, -5, 1].map(i64::to_le_bytes).concat());
}

#[test]
fn of_a_view_only_the_numbers_that_it_shows_count() {
    let network = |end: i64| {
        let mut network = Network::new();
        network.convolve();
        network.parameter("table", &[5, 8]);
        // A buffer of the state dict, as for windows' relative positions.
        network.buffer("positions", &[2, 4]);
        network.weights["config"]["positions"]["tensor_meta"]["dtype"] = json!(I64);
        network.recorded("positions")["dtype"] = json!(I64);
        let numbers = [0_i64, 1, 2, 3, 4, 5, 6, 7];
        network.files.last_mut().unwrap().1 = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let all = [("self", tensor("positions")), ("size", ints(&[8]))];
        network.node("view.default", "all", &all, &[8]);
        let part = [("self", tensor("all")), ("dim", int(0)), ("start", int(end - 4)), ("end", int(end))];
        network.node("slice.Tensor", "part", &part, &[4]);
        for name in ["all", "part"] {
            network.recorded(name)["dtype"] = json!(I64);
        }
        network.node("index.Tensor", "rows", &[("self", tensor("table")), ("indices", index("part"))], &[4, 8]);
        added(network)
    };
    network(5).read().unwrap();
    assert_eq!(network(6).fault(), "node rows: takes row 5 of a table with 5 rows");
}
