//! Promise: what a few bytes of a file are read as is bounded, before memory is taken for it.

use serde_json::{Value, json};

use super::programs::{B, Network, float, int, ints, tensor};

fn names(name: &str, count: usize) -> Value {
    json!({"as_tensors": vec![json!({"name": name}); count]})
}

/// A network with a vector [4], and one more node.
fn with_node(operator: &str, inputs: &[(&str, Value)], shape: &[i64]) -> Network {
    let mut network = Network::small();
    network.parameter("vector", &[4]);
    network.node(operator, "added", inputs, shape);
    network
}

/// Why the file is refused as a whole.
fn refusal(network: &Network) -> String {
    let error = network.read().unwrap_err();
    assert!(error.is_users(), "{error}");
    error.to_string()
}

#[test]
fn an_argument_has_a_thousand_tensors_at_most() {
    let stacked = |count: usize| {
        with_node("stack.default", &[("tensors", names("vector", count)), ("dim", int(0))], &[count as i64, 4])
    };
    stacked(1024).read().unwrap();
    assert_eq!(
        stacked(1025).fault(),
        "node added: has 1025 tensors in its argument tensors, and 1024 are read at most"
    );
    let indices = json!({"as_optional_tensors": vec![json!({"as_none": true}); 1025]});
    let indexed = with_node("index.Tensor", &[("self", tensor("vector")), ("indices", indices)], &[4]);
    assert_eq!(indexed.fault(), "node added: has 1025 tensors in its argument indices, and 1024 are read at most");
}

#[test]
fn a_grid_has_no_more_vectors_than_a_tensor_dimensions() {
    for (count, expected) in [
        (17, "node added: makes a grid of 17 vectors, and 16 are read at most"),
        (1000, "node added: makes a grid of 1000 vectors, and 16 are read at most"),
        (4000, "node added: has 4000 tensors in its argument tensors, and 1024 are read at most"),
    ] {
        let network = with_node("meshgrid.default", &[("tensors", names("vector", count))], &[4]);
        assert_eq!(network.fault(), expected);
    }
}

#[test]
fn lists_of_arguments_and_shapes_are_short() {
    let many = 100_000;
    for argument in [
        names("vector", many),
        json!({"as_ints": vec![0; many]}),
        json!({"as_floats": vec![0; many]}),
        json!({"as_sym_ints": vec![json!({"as_int": 1}); many]}),
        json!({"as_optional_tensors": vec![json!({"as_none": true}); many]}),
    ] {
        let error = refusal(&with_node("relu.default", &[("self", argument)], &[4]));
        assert!(error.contains("a list has more than 8192 members"), "{error}");
    }
    for member in ["sizes", "strides"] {
        let mut network = Network::small();
        network.recorded("act")[member] = vec![json!({"as_int": 1}); 10_000].into();
        let error = refusal(&network);
        assert!(error.contains("a list has more than 8192 members"), "{member}: {error}");
    }
}

#[test]
fn documents_have_so_many_members_at_most() {
    let mut nodes = Network::small();
    nodes.graph()["nodes"] = vec![json!({"target": "", "inputs": [], "outputs": []}); 100_001].into();
    assert!(refusal(&nodes).contains("a list has more than 100000 members"));
    let mut sizes = Network::small();
    sizes.graph()["sym_int_values"] =
        (0..100_001).map(|at| (format!("s{at}"), json!({"as_int": 1}))).collect::<serde_json::Map<_, _>>().into();
    assert!(refusal(&sizes).contains("an object has more than 100000 members"));
}

#[test]
fn nodes_are_read_as_a_bounded_number_of_operations() {
    // Each is a reshape of every tensor, and a concatenation.
    let mut network = Network::small();
    network.parameter("vector", &[4]);
    for at in 0..20 {
        let inputs = [("tensors", names("vector", 1024)), ("dim", int(0))];
        network.node("stack.default", &format!("stack_{at}"), &inputs, &[1024, 4]);
    }
    let faults = network.faults();
    let expected = "is read as more operations than a file of this size may have";
    assert!(faults.iter().all(|fault| fault.ends_with(expected)), "{faults:?}");
    assert!((5..20).contains(&faults.len()), "{faults:?}");
}

#[test]
fn values_on_the_way_to_a_result_are_bounded_too() {
    // Differences [65536, 65536, 4] of vectors, of which the result has the lengths.
    let mut network = Network::small();
    network.parameter("vector", &[1, 4]);
    let many = ints(&[1 << 16, 4]);
    network.node("expand.default", "vectors", &[("self", tensor("vector")), ("size", many)], &[1 << 16, 4]);
    let inputs = [("x1", tensor("vectors")), ("x2", tensor("vectors"))];
    network.node("cdist.default", "distances", &inputs, &[1 << 16, 1 << 16]);
    let expected = "node distances: computes [65536, 65536, 4], and a value has 4294967296 elements per image at most";
    assert_eq!(network.fault(), expected);
}

#[test]
fn a_node_with_a_long_name_is_refused() {
    let mut network = Network::small();
    let name = "n".repeat(100_000);
    network.node("clamp.default", &name, &[("self", tensor("act")), ("min", float(0.0))], &[B, 4, 8, 8]);
    let fault = network.fault();
    assert!(fault.ends_with("has a name of 100000 bytes, and 512 are read at most"), "{fault}");
}

#[test]
fn the_name_of_a_region_is_not_repeated_without_end() {
    let mut network = Network::small();
    let inner = json!({"name": "r".repeat(1 << 20), "graph": {
        "inputs": [], "outputs": [], "tensor_values": {},
        "nodes": [{"target": "", "inputs": [{"name": "tensors", "arg": names("vector", 8000)}], "outputs": []}],
    }});
    let disabled = [
        ("device", json!({"as_string": "cpu"})),
        ("dtype", json!({"as_none": true})),
        ("enabled", json!({"as_bool": false})),
        ("cache", json!({"as_none": true})),
        ("program", json!({"as_graph": inner})),
    ];
    network.bare_node("torch.ops.higher_order.wrap_with_autocast", &disabled, json!([]));
    let faults = network.faults();
    assert_eq!(faults[0], "graph: has regions of torch.autocast whose names are too long");
}

#[test]
fn numbers_without_a_form_in_json_are_read_by_their_names() {
    for (value, is_read) in [
        (json!("Infinity"), true),
        (json!("-Infinity"), true),
        (json!("NaN"), true),
        (json!(-1), true),
        (json!("seven"), false),
        (json!([]), false),
    ] {
        let inputs = [("self", tensor("act")), ("max", json!({"as_float": value}))];
        let mut network = Network::small();
        network.node("clamp.default", "added", &inputs, &[B, 4, 8, 8]);
        assert_eq!(network.read().is_ok(), is_read, "{value}");
    }
}
