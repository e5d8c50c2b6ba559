//! Promise: an operator is read as operations that compute the same.

use distillery_core::exported::{Activation, Arithmetic, ExportedNetwork, Op, Operand, Origin, Size};
use serde_json::{Value, json};

use super::programs::{B, Network, flag, float, int, ints, tensor};

fn text(text: &str) -> Value {
    json!({"as_string": text})
}

/// The operations of the node with this name, from first to last.
fn operations(network: &ExportedNetwork, name: &str) -> Vec<Op> {
    let is_of = |node: &&distillery_core::exported::Node| {
        node.name == name || node.name.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'))
    };
    network.graph().nodes.iter().filter(is_of).map(|node| node.op.clone()).collect()
}

/// A network whose convolution's map goes through one node, and what that node is read as.
fn read_as(operator: &str, inputs: &[(&str, Value)], shape: &[i64]) -> Vec<Op> {
    let mut network = Network::new();
    network.convolve();
    let inputs = [&[("self", tensor("conv"))], inputs].concat();
    network.node(operator, "node", &inputs, shape);
    network.pool_and_classify("node");
    let read = network.read().unwrap_or_else(|error| panic!("{operator}: {error}"));
    assert_eq!(read.description().operators[&format!("aten.{operator}")], 1);
    operations(&read, "node")
}

/// The constants of a network, by the node that has them.
fn constant(network: &ExportedNetwork, node: &str) -> (Vec<u64>, Vec<f32>) {
    let prefix = format!("{node}.constant.");
    let mut found = network.tensors().iter().filter(|stored| stored.tensor.name().starts_with(&prefix));
    let stored = found.next().unwrap_or_else(|| panic!("{node} has no constant"));
    assert!(found.next().is_none(), "{node} has several constants");
    (stored.tensor.shape().to_vec(), network.floats(stored).unwrap())
}

const MAP: [i64; 4] = [B, 4, 8, 8];

#[test]
fn functions_are_read_with_their_numbers() {
    let one = |operator: &str, inputs: &[(&str, Value)]| match read_as(operator, inputs, &MAP).as_slice() {
        [Op::Activation(function)] => *function,
        other => panic!("{operator}: {other:?}"),
    };
    assert_eq!(one("leaky_relu.default", &[("negative_slope", float(0.2))]), Activation::LeakyRelu { slope: 0.2 });
    assert_eq!(one("leaky_relu.default", &[]), Activation::LeakyRelu { slope: 0.01 });
    let elu = Activation::Elu { alpha: 2.0, scale: 1.0, input_scale: 0.5 };
    assert_eq!(one("celu.default", &[("alpha", float(2.0))]), elu);
    let clamp = Activation::Clamp { low: f64::NEG_INFINITY, high: 1.0 };
    assert_eq!(one("clamp.default", &[("max", int(1))]), clamp);
    assert_eq!(one("rsqrt.default", &[]), Activation::Power { exponent: -0.5 });
    assert_eq!(one("pow.Tensor_Scalar", &[("exponent", int(3))]), Activation::Power { exponent: 3.0 });
    let softplus = Activation::Softplus { beta: 2.0, threshold: 20.0 };
    assert_eq!(one("softplus.default", &[("beta", float(2.0))]), softplus);
}

#[test]
fn numbers_that_json_does_not_have_are_read() {
    let clamp = read_as("hardtanh.default", &[("min_val", int(0)), ("max_val", json!({"as_float": "Infinity"}))], &MAP);
    assert_eq!(clamp, [Op::Activation(Activation::Clamp { low: 0.0, high: f64::INFINITY })]);
}

#[test]
fn a_sum_is_a_mean_times_a_number() {
    let inputs = [("dim", ints(&[3, 2])), ("keepdim", flag(true))];
    let sum = read_as("sum.dim_IntList", &inputs, &[B, 4, 1, 1]);
    let times = Op::Arithmetic { kind: Arithmetic::Multiply, other: Operand::Number(64.0) };
    assert_eq!(sum, [Op::Mean { dimensions: vec![2, 3], keeps: true }, times]);
}

#[test]
fn a_difference_from_a_number_is_one_with_the_sign_changed() {
    let [kind, add] = [Arithmetic::Multiply, Arithmetic::Add];
    assert_eq!(
        read_as("rsub.Scalar", &[("other", int(2)), ("alpha", int(3))], &MAP),
        [
            Op::Arithmetic { kind, other: Operand::Number(-3.0) },
            Op::Arithmetic { kind: add, other: Operand::Number(2.0) }
        ]
    );
}

#[test]
fn paddings_of_a_convolution_by_name_may_differ_on_both_sides() {
    let mut network = Network::new();
    network.parameter("conv.weight", &[4, 3, 4, 3]);
    let inputs = [
        ("input", tensor("x")),
        ("weight", tensor("conv.weight")),
        ("bias", json!({"as_none": true})),
        ("stride", ints(&[1, 1])),
        ("padding", text("same")),
    ];
    network.node("conv2d.padding", "conv", &inputs, &MAP);
    network.pool_and_classify("conv");
    let read = network.read().unwrap();
    let (stride, dilation) = ([1, 1], [1, 1]);
    assert_eq!(
        operations(&read, "conv"),
        [
            Op::Pad { amounts: vec![[1, 2], [1, 1]], value: 0.0 },
            Op::Convolution { stride, padding: [0, 0], dilation, groups: 1, bias: false },
        ]
    );
}

#[test]
fn a_reflection_takes_rows_by_their_numbers() {
    let mut network = Network::new();
    network.convolve();
    let inputs = [("self", tensor("conv")), ("pad", ints(&[2, 1, 0, 0])), ("mode", text("reflect"))];
    network.node("pad.default", "padded", &inputs, &[B, 4, 8, 11]);
    network.pool_and_classify("padded");
    let read = network.read().unwrap();
    let (shape, numbers) = constant(&read, "padded");
    assert_eq!((shape, numbers), (vec![11], vec![2.0, 1.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 6.0]));
    assert_eq!(operations(&read, "padded").iter().filter(|op| **op == Op::Rows).count(), 1);
}

#[test]
fn a_negative_padding_cuts() {
    let cut = read_as("pad.default", &[("pad", ints(&[-3, 2]))], &[B, 4, 8, 7]);
    assert_eq!(
        cut,
        [Op::Slice { dimension: 3, start: 3, end: 8, step: 1 }, Op::Pad { amounts: vec![[0, 2]], value: 0.0 }]
    );
}

#[test]
fn resizing_is_a_product_with_weights() {
    let mut network = Network::new();
    network.convolve();
    let inputs = [
        ("input", tensor("conv")),
        ("output_size", ints(&[8, 4])),
        ("align_corners", flag(false)),
        ("scale_factors", json!({"as_none": true})),
    ];
    network.node("upsample_bilinear2d.vec", "resized", &inputs, &[B, 4, 8, 4]);
    network.pool_and_classify("resized");
    let read = network.read().unwrap();
    assert_eq!(operations(&read, "resized"), [Op::Matmul]);
    let (shape, weights) = constant(&read, "resized");
    assert_eq!(shape, [8, 4]);
    // Each of four is the mean of two neighbours.
    let expected = |row: usize, column: usize| if row / 2 == column { 0.5 } else { 0.0 };
    assert_eq!(weights, (0..32).map(|at| expected(at / 4, at % 4)).collect::<Vec<f32>>());
}

#[test]
fn a_map_whose_size_stays_is_resampled_where_pytorch_does_it() {
    let resized = |operator: &str, aligned: Option<bool>, factors: [f64; 2]| {
        let mut network = Network::new();
        network.convolve();
        let mut inputs = vec![
            ("input", tensor("conv")),
            ("output_size", json!({"as_none": true})),
            ("scale_factors", json!({"as_floats": factors})),
        ];
        inputs.extend(aligned.map(|aligned| ("align_corners", flag(aligned))));
        network.node(operator, "resized", &inputs, &MAP);
        network.pool_and_classify("resized");
        operations(&network.read().unwrap(), "resized").iter().filter(|op| **op == Op::Matmul).count()
    };
    let [cubic, linear, nearest] = ["bicubic", "bilinear", "nearest"].map(|name| format!("upsample_{name}2d.vec"));
    assert_eq!(resized(&cubic, Some(false), [1.1, 1.1]), 2);
    assert_eq!(resized(&cubic, Some(false), [1.0, 1.1]), 1);
    assert_eq!(resized(&cubic, Some(true), [1.1, 1.1]), 0);
    assert_eq!(resized(&linear, Some(false), [1.1, 1.1]), 0);
    assert_eq!(resized(&nearest, None, [1.1, 1.1]), 0);
}

#[test]
fn twice_the_size_takes_each_of_the_nearest_twice_whatever_the_factor() {
    let mut network = Network::new();
    network.convolve();
    let inputs = [
        ("input", tensor("conv")),
        ("output_size", json!({"as_none": true})),
        ("scale_factors", json!({"as_floats": [1.0, 2.12]})),
    ];
    network.node("upsample_nearest2d.vec", "resized", &inputs, &[B, 4, 8, 16]);
    network.pool_and_classify("resized");
    let (shape, weights) = constant(&network.read().unwrap(), "resized");
    assert_eq!(shape, [8, 16]);
    let expected = |row: usize, column: usize| if column / 2 == row { 1.0 } else { 0.0 };
    assert_eq!(weights, (0..128).map(|at| expected(at / 16, at % 16)).collect::<Vec<f32>>());
}

#[test]
fn an_einstein_sum_is_a_product_of_matrices() {
    let mut network = Network::new();
    network.convolve();
    network.parameter("w", &[4, 2, 8]);
    let inputs = [
        ("equation", text("bchw, cdw -> bdhc")),
        ("tensors", json!({"as_tensors": [{"name": "conv"}, {"name": "w"}]})),
    ];
    network.node("einsum.default", "sum", &inputs, &[B, 2, 8, 4]);
    network.node("mean.dim", "mean", &[("self", tensor("sum")), ("dim", ints(&[1, 2]))], &[B, 4]);
    network.classify("mean");
    let read = network.read().unwrap();
    let found = operations(&read, "sum");
    assert_eq!(found.iter().filter(|op| **op == Op::Matmul).count(), 1);
    assert!(found.iter().all(|op| matches!(op, Op::Matmul | Op::Permute { .. } | Op::Reshape { .. })), "{found:?}");
}

#[test]
fn positions_of_largest_elements_are_refused_only_where_they_are_used() {
    let network = |uses: &str| {
        let mut network = Network::new();
        network.convolve();
        let inputs = [("self", tensor("conv")), ("dim", int(1)), ("keepdim", flag(true))];
        network.bare_node("torch.ops.aten.max.dim", &inputs, json!([tensor("values"), tensor("indices")]));
        for name in ["values", "indices"] {
            *network.recorded(name) = super::programs::meta(&[B, 1, 8, 8]);
        }
        network.recorded("indices")["dtype"] = json!(5);
        network.node("mul.Tensor", "product", &[("self", tensor("conv")), ("other", tensor(uses))], &MAP);
        network.pool_and_classify("product");
        network
    };
    let read = network("values").read().unwrap();
    assert_eq!(operations(&read, "values"), [Op::Max { dimensions: vec![1], keeps: true, shares: false }]);
    assert_eq!(
        network("indices").fault(),
        "node product: uses the positions of largest elements, which is not supported"
    );
}

#[test]
fn what_mixes_the_images_of_a_batch_is_refused() {
    let mut network = Network::new();
    network.convolve();
    network.node("mean.dim", "mean", &[("self", tensor("conv")), ("dim", ints(&[0, 2, 3]))], &[4]);
    network.node("mul.Tensor", "product", &[("self", tensor("conv")), ("other", tensor("mean"))], &MAP);
    let fault = &network.faults()[0];
    assert!(fault.starts_with("node mean: combines the images of a batch"), "{fault}");
}

/// The faults of a network whose map goes through a node that gives the same shape, wherever its dimensions are.
fn faults_of(operator: &str, order: [i64; 4], inputs: &[(&str, Value)]) -> Vec<String> {
    let mut network = Network::new();
    network.convolve();
    let moved = order.map(|at| MAP[at as usize]);
    let back = [0, 1, 2, 3].map(|at| order.iter().position(|&other| other == at).unwrap() as i64);
    network.node("permute.default", "moved", &[("self", tensor("conv")), ("dims", ints(&order))], &moved);
    let name = if operator == "group_norm.default" { "input" } else { "self" };
    network.node(operator, "node", &[&[(name, tensor("moved"))], inputs].concat(), &moved);
    network.node("permute.default", "back", &[("self", tensor("node")), ("dims", ints(&back))], &MAP);
    network.pool_and_classify("back");
    match network.read() {
        Ok(_) => Vec::new(),
        Err(_) => network.faults(),
    }
}

#[test]
fn along_a_dimension_the_batch_is_refused_wherever_it_is() {
    // The batch is the first dimension, the second, the third, and the last.
    let orders = [[0, 1, 2, 3], [1, 0, 2, 3], [1, 2, 0, 3], [1, 2, 3, 0]];
    for (batch, order) in (0_i64..).zip(orders) {
        for operator in ["softmax.int", "log_softmax.int", "cumsum.default", "flip.default", "roll.default"] {
            for dimension in 0..4 {
                // From the front and from the end.
                for number in [dimension, dimension - 4] {
                    let inputs = match operator {
                        "flip.default" => vec![("dims", ints(&[number]))],
                        "roll.default" => vec![("shifts", ints(&[1])), ("dims", ints(&[number]))],
                        _ => vec![("dim", int(number))],
                    };
                    let faults = faults_of(operator, order, &inputs);
                    let is_refused = faults.iter().any(|fault| fault.starts_with("node node: "));
                    let says = format!("{operator} over {number} of {order:?}: {faults:?}");
                    assert_eq!(is_refused, dimension == batch, "{says}");
                    assert!(is_refused || faults.is_empty(), "{says}");
                }
            }
        }
    }
}

#[test]
fn a_softmax_over_the_batch_says_what_to_do() {
    for operator in ["softmax.int", "log_softmax.int"] {
        let faults = faults_of(operator, [0, 1, 2, 3], &[("dim", int(0))]);
        let says = "node node: combines the images of a batch, so an image's logits would depend on the others: name \
                    other dimensions than the batch's";
        assert_eq!(faults, [says]);
    }
}

#[test]
fn a_group_norm_whose_map_has_the_batch_for_a_side_is_refused() {
    let groups = [("num_groups", int(2))];
    assert!(faults_of("group_norm.default", [0, 1, 2, 3], &groups).is_empty());
    let faults = faults_of("group_norm.default", [2, 1, 0, 3], &groups);
    assert!(faults[0].starts_with("node node: combines the images of a batch"), "{faults:?}");
}

#[test]
fn a_region_without_autocast_is_part_of_the_network() {
    let read = |enabled: bool| {
        let mut network = Network::new();
        network.convolve();
        let mut inner = Network::new();
        inner.node("relu.default", "inside", &[("self", tensor("arg0_1"))], &MAP);
        let mut graph = inner.graph().clone();
        graph["inputs"] = json!([tensor("arg0_1")]);
        graph["outputs"] = json!([tensor("inside")]);
        graph["tensor_values"] = json!({
            "arg0_1": super::programs::meta(&MAP), "inside": super::programs::meta(&MAP),
        });
        let none = json!({"as_none": true});
        let inputs = [
            ("", text("cpu")),
            ("", none.clone()),
            ("", flag(enabled)),
            ("", none),
            ("", json!({"as_graph": {"name": "submod_1", "graph": graph}})),
            ("", tensor("conv")),
        ];
        let outputs = json!([tensor("act")]);
        network.bare_node("torch.ops.higher_order.wrap_with_autocast", &inputs, outputs);
        *network.recorded("act") = super::programs::meta(&MAP);
        network.pool_and_classify("act");
        network
    };
    assert_eq!(operations(&read(false).read().unwrap(), "act"), [Op::Activation(Activation::Relu)]);
    let fault = read(true).fault();
    let says =
        "operator higher_order.wrap_with_autocast: is not supported; it computes act: torch.autocast is enabled there";
    assert!(fault.starts_with(says) && fault.contains("training.precision"), "{fault}");
}

#[test]
fn a_network_in_half_precision_has_one_fault() {
    let mut network = Network::small();
    network.node("relu.default", "more", &[("self", tensor("act"))], &MAP);
    for value in network.graph()["tensor_values"].as_object_mut().unwrap().values_mut() {
        value["dtype"] = json!(6);
    }
    for payload in network.weights["config"].as_object_mut().unwrap().values_mut() {
        payload["tensor_meta"]["dtype"] = json!(6);
    }
    let faults = network.faults();
    assert_eq!(
        faults[0],
        "input: images are [B, 3, 8, 8] of F16, and must be [B, 3, H, W] of F32 with fixed H and W: export the network \
         after model.float(), with images of float32"
    );
    assert!(faults.iter().filter(|fault| fault.contains("computes with F16")).count() == 1, "{faults:?}");
}

#[test]
fn a_batch_norm_without_scale_and_shift_gets_some() {
    let mut network = Network::new();
    network.convolve();
    for key in ["mean", "var"] {
        network.buffer(key, &[4]);
    }
    let inputs = [
        ("input", tensor("conv")),
        ("running_mean", tensor("mean")),
        ("running_var", tensor("var")),
        ("training", flag(true)),
        ("momentum", float(0.1)),
        ("eps", float(1e-5)),
    ];
    network.node("batch_norm.default", "norm", &inputs, &MAP);
    network.pool_and_classify("norm");
    let read = network.read().unwrap();
    let graph = read.graph();
    let norm = graph.nodes.iter().find(|node| node.name == "norm").unwrap();
    let values = |at: usize| match graph.values[norm.inputs[at]].origin {
        Origin::Stored(index) => read.floats(&read.tensors()[index]).unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!((values(1), values(2)), (vec![1.0; 4], vec![0.0; 4]));
    assert_eq!(graph.values[norm.inputs[1]].shape, [Size::Fixed(4)]);
}
