//! Promise: every operation of an exported network has its form in ONNX.

use std::collections::BTreeSet;

use distillery_core::export::onnx::Options;
use distillery_core::exported::{ExportedNetwork, Op};
use serde_json::json;

use super::cases::{Case, Inputs, names, side, window};
use super::comparison_cases::comparisons;
use super::layer_cases::{attention, cosines, folds, instance_norms, transposed_convolutions, volumes};
use super::onnx::model;
use super::students::exported;
use crate::exported::programs::{B, Network, expression, flag, float, int, ints, tensor};

/// The names of all operations.
const ALL: [&str; 39] = [
    "activation",
    "adaptive_average_pool",
    "adaptive_max_pool",
    "arithmetic",
    "attention",
    "average_pool",
    "batch_norm",
    "bernoulli",
    "compare",
    "concat",
    "convolution",
    "count_batch",
    "cumulative_sum",
    "dropout",
    "empty",
    "expand",
    "group_norm",
    "identity",
    "layer_norm",
    "linear",
    "log_softmax",
    "log_sum_exp",
    "matmul",
    "max",
    "max_pool",
    "mean",
    "norm",
    "pad",
    "permute",
    "prelu",
    "reshape",
    "roll",
    "rows",
    "select",
    "slice",
    "softmax",
    "split",
    "transposed_convolution",
    "where",
];

/// The name of an operation; the compiler asks for those that are new. `unbind` is under `split`.
fn name(op: &Op) -> &'static str {
    match op {
        Op::Convolution { .. } => "convolution",
        Op::TransposedConvolution { .. } => "transposed_convolution",
        Op::BatchNorm { .. } => "batch_norm",
        Op::LayerNorm { .. } => "layer_norm",
        Op::GroupNorm { .. } => "group_norm",
        Op::Linear { .. } => "linear",
        Op::Matmul => "matmul",
        Op::Attention { .. } => "attention",
        Op::Activation(_) => "activation",
        Op::Softmax { .. } => "softmax",
        Op::LogSoftmax { .. } => "log_softmax",
        Op::Prelu => "prelu",
        Op::Where => "where",
        Op::Compare { .. } => "compare",
        Op::Arithmetic { .. } => "arithmetic",
        Op::Concat { .. } => "concat",
        Op::MaxPool(_) => "max_pool",
        Op::AveragePool { .. } => "average_pool",
        Op::AdaptiveAveragePool { .. } => "adaptive_average_pool",
        Op::AdaptiveMaxPool { .. } => "adaptive_max_pool",
        Op::Mean { .. } => "mean",
        Op::Max { .. } => "max",
        Op::Norm { .. } => "norm",
        Op::LogSumExp { .. } => "log_sum_exp",
        Op::CumulativeSum { .. } => "cumulative_sum",
        Op::Reshape { .. } => "reshape",
        Op::Expand { .. } => "expand",
        Op::Permute { .. } => "permute",
        Op::Slice { .. } => "slice",
        Op::Select { .. } => "select",
        Op::Split { .. } | Op::Unbind { .. } => "split",
        Op::Pad { .. } => "pad",
        Op::Roll { .. } => "roll",
        Op::Rows => "rows",
        Op::Dropout { .. } => "dropout",
        Op::Identity => "identity",
        Op::Empty { .. } => "empty",
        Op::Bernoulli { .. } => "bernoulli",
        Op::CountBatch => "count_batch",
    }
}

/// The weight `w`, the bias `v` if there is one, and other inputs.
fn weighted(bias: bool, others: Inputs) -> Inputs {
    let mut inputs = vec![("weight", tensor("w"))];
    inputs.extend(bias.then(|| ("bias", tensor("v"))));
    inputs.into_iter().chain(others).collect()
}

fn layers(cases: &mut Vec<(String, Case)>) {
    let others = vec![("stride", ints(&[2, 1])), ("padding", ints(&[1, 2])), ("dilation", ints(&[1, 2]))];
    let case = Case::map().parameters(&[("w", &[6, 4, 3, 3]), ("v", &[6])]);
    cases
        .push(("convolution".into(), case.with("input", "conv2d.default", "y", weighted(true, others), &[B, 6, 4, 8])));
    let others = vec![("padding", ints(&[1, 1])), ("groups", int(2))];
    let case = Case::map().parameters(&[("w", &[6, 2, 3, 3])]);
    cases.push(("grouped".into(), case.with("input", "conv2d.default", "y", weighted(false, others), &[B, 6, 8, 8])));

    for bias in [true, false] {
        let others = weighted(bias, Vec::new());
        let case = Case::rows().parameters(if bias { &[("w", &[5, 64]), ("v", &[5])] } else { &[("w", &[5, 64])] });
        cases.push((format!("linear_{bias}"), case.with("input", "linear.default", "y", others, &[B, 4, 5])));
    }
    let case = Case::rows().parameters(&[("w", &[64, 6])]);
    cases.push(("matmul".into(), case.then("matmul.default", "y", vec![("other", tensor("w"))], &[B, 4, 6])));
    for operator in ["softmax.int", "log_softmax.int", "cumsum.default"] {
        cases.push((operator.into(), Case::map().then(operator, "y", vec![("dim", int(1))], &[B, 4, 8, 8])));
    }
}

fn norms(cases: &mut Vec<(String, Case)>) {
    let mut case = Case::map().parameters(&[("bn.weight", &[4]), ("bn.bias", &[4])]);
    ["bn.running_mean", "bn.running_var"].iter().for_each(|key| case.network.buffer(key, &[4]));
    case.network.counter("bn.num_batches_tracked");
    let inputs = [("self", tensor("bn.num_batches_tracked")), ("other", int(1))];
    case.network.node("add_.Tensor", "counted", &inputs, &[]);
    case.network.recorded("counted")["dtype"] = json!(5);
    let others = vec![
        ("weight", tensor("bn.weight")),
        ("bias", tensor("bn.bias")),
        ("running_mean", tensor("bn.running_mean")),
        ("running_var", tensor("bn.running_var")),
        ("training", flag(true)),
        ("momentum", float(0.1)),
        ("eps", float(1e-3)),
        ("cudnn_enabled", flag(true)),
    ];
    cases.push(("batch_norm".into(), case.with("input", "batch_norm.default", "y", others, &[B, 4, 8, 8])));

    for (scale, shift) in [(true, true), (true, false), (false, true), (false, false)] {
        let given = |is_given: bool, name: &'static str, key: &str| is_given.then(|| (name, tensor(key)));
        let affine = || given(scale, "weight", "s").into_iter().chain(given(shift, "bias", "t"));
        let kept: Vec<&str> =
            [("s", scale), ("t", shift)].iter().filter(|(_, is_given)| *is_given).map(|(key, _)| *key).collect();
        let with = |case: Case, shape: &[i64]| {
            let parameters: Vec<(&str, &[i64])> = kept.iter().map(|key| (*key, shape)).collect();
            case.parameters(&parameters)
        };
        let others = std::iter::once(("normalized_shape", ints(&[8, 8]))).chain(affine()).collect();
        let case = with(Case::map(), &[8, 8]).with("input", "layer_norm.default", "y", others, &[B, 4, 8, 8]);
        cases.push((format!("layer_norm_{scale}_{shift}"), case));
        let others = std::iter::once(("num_groups", int(2))).chain(affine()).collect();
        let case = with(Case::map(), &[4]).with("input", "group_norm.default", "y", others, &[B, 4, 8, 8]);
        cases.push((format!("group_norm_{scale}_{shift}"), case));
    }
}

fn elements(cases: &mut Vec<(String, Case)>) {
    let mut functions = vec![
        ("relu.default", Vec::new()),
        ("relu6.default", Vec::new()),
        ("hardtanh.default", vec![("min_val", float(-0.25)), ("max_val", float(0.5))]),
        ("hardswish.default", Vec::new()),
        ("hardsigmoid.default", Vec::new()),
        ("silu.default", Vec::new()),
        ("sigmoid.default", Vec::new()),
        ("tanh.default", Vec::new()),
        ("gelu.default", vec![("approximate", json!({"as_string": "none"}))]),
        ("gelu.default", vec![("approximate", json!({"as_string": "tanh"}))]),
        ("leaky_relu.default", vec![("negative_slope", float(0.2))]),
        ("elu.default", vec![("alpha", float(0.7))]),
        ("elu.default", vec![("alpha", float(0.7)), ("scale", float(1.2)), ("input_scale", float(0.4))]),
        ("celu.default", vec![("alpha", float(0.6))]),
        ("selu.default", Vec::new()),
        ("softplus.default", Vec::new()),
        ("softplus.default", vec![("beta", float(2.0)), ("threshold", float(0.5))]),
        ("pow.Tensor_Scalar", vec![("exponent", float(2.0))]),
        ("exp.default", Vec::new()),
        ("expm1.default", Vec::new()),
        ("abs.default", Vec::new()),
        ("erf.default", Vec::new()),
        ("sign.default", Vec::new()),
        ("sin.default", Vec::new()),
        ("cos.default", Vec::new()),
        ("prelu.default", vec![("weight", tensor("slope"))]),
        ("prelu.default", vec![("weight", tensor("slopes"))]),
        ("maximum.default", vec![("other", tensor("w"))]),
        ("minimum.default", vec![("other", tensor("w"))]),
    ];
    for operator in ["add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor"] {
        functions.push((operator, vec![("other", float(0.3))]));
        functions.push((operator, vec![("other", tensor("w"))]));
    }
    for (number, (operator, others)) in functions.into_iter().enumerate() {
        let parameters: [(&str, &[i64]); 3] = [("w", &[4, 1, 1]), ("slope", &[1]), ("slopes", &[4])];
        let is_used = |(key, _): &(&str, &[i64])| others.iter().any(|(_, other)| *other == tensor(key));
        let used: Vec<_> = parameters.into_iter().filter(is_used).collect();
        let case = Case::map().parameters(&used).then(operator, "y", others, &[B, 4, 8, 8]);
        cases.push((format!("{number}_{operator}"), case));
    }
    // Functions of positive numbers alone.
    for operator in ["log.default", "sqrt.default", "rsqrt.default", "reciprocal.default"] {
        let positive = Case::map().then("exp.default", "positive", Vec::new(), &[B, 4, 8, 8]);
        cases.push((operator.to_owned(), positive.then(operator, "y", Vec::new(), &[B, 4, 8, 8])));
    }
    let positive = Case::map().parameters(&[("w", &[4, 1, 1])]).then("exp.default", "e", Vec::new(), &[B, 4, 8, 8]);
    let others = vec![("exponent", tensor("w"))];
    cases.push(("trained_power".into(), positive.then("pow.Tensor_Tensor", "y", others, &[B, 4, 8, 8])));
    let number = vec![("self", float(1.7))];
    cases.push(("power_of_number".into(), Case::map().with("exponent", "pow.Scalar", "y", number, &[B, 4, 8, 8])));
}

fn pools(cases: &mut Vec<(String, Case)>) {
    // Windows within the map, beyond it, and beyond it and its padding.
    for (size, stride, padding) in [(2, 2, 0), (3, 2, 1), (3, 3, 0), (3, 5, 1), (5, 3, 2), (2, 3, 1)] {
        for rounds_up in [false, true] {
            let named = format!("{size}_{stride}_{padding}_{rounds_up}");
            let after = side(size, stride, padding, rounds_up);
            let shape = [B, 4, after, after];
            let inputs = window(size, stride, padding, rounds_up);
            let case = Case::map().then("max_pool2d.default", "y", inputs.clone(), &shape);
            cases.push((format!("max_pool_{named}"), case));
            for counts in [true, false] {
                let mut inputs = inputs.clone();
                inputs.push(("count_include_pad", flag(counts)));
                let case = Case::map().then("avg_pool2d.default", "y", inputs, &shape);
                cases.push((format!("avg_pool_{named}_{counts}"), case));
            }
        }
    }
    let mut inputs = window(3, 4, 1, true);
    inputs.push(("dilation", ints(&[2, 2])));
    cases.push(("max_pool_dilated".into(), Case::map().then("max_pool2d.default", "y", inputs, &[B, 4, 3, 3])));
    for operator in ["adaptive_avg_pool2d.default", "adaptive_max_pool2d.default"] {
        // Windows of one size, of several, of one position and more, and of positions that are repeated.
        for size in [[1, 1], [4, 2], [3, 5], [8, 7], [11, 8]] {
            let inputs = vec![("output_size", ints(&size))];
            let case = Case::map().then(operator, "y", inputs, &[B, 4, size[0], size[1]]);
            cases.push((format!("{operator}_{size:?}"), case));
        }
    }
    for keeps in [true, false] {
        let inputs = vec![("dim", ints(&[1, 3])), ("keepdim", flag(keeps))];
        let shape: &[i64] = if keeps { &[B, 1, 8, 1] } else { &[B, 8] };
        for operator in ["mean.dim", "amax.default", "linalg_vector_norm.default", "logsumexp.default"] {
            cases.push((format!("{operator}_{keeps}"), Case::map().then(operator, "y", inputs.clone(), shape)));
        }
    }
}

fn shapes(cases: &mut Vec<(String, Case)>) {
    let map = &[B, 4, 8, 8];
    let mut add = |name: &str, case: Case| cases.push((name.to_owned(), case));
    let case =
        Case::map().batch_size().then("view.default", "y", vec![("size", names(&["b", "16", "-1"]))], &[B, 16, 16]);
    add("view", case);
    let mut case = Case::map().batch_size();
    let factors = [("a", json!({"as_sym_int": {"as_name": "b"}})), ("b", int(4))];
    case.network.bare_node("_operator.mul", &factors, json!([{"as_sym_int": {"as_name": "windows"}}]));
    case = case.then("view.default", "windowed", vec![("size", names(&["windows", "64"]))], &[B, 64]);
    case.network.recorded("windowed")["sizes"][0] =
        expression("Mul(Integer(4), Symbol('s77', positive=True, integer=True))");
    add("windows", case.then("view.default", "back", vec![("size", names(&["b", "256"]))], &[B, 256]));
    add("permute", Case::map().then("permute.default", "y", vec![("dims", ints(&[0, 3, 1, 2]))], &[B, 8, 4, 8]));
    let inputs = vec![("dim", int(3)), ("start", int(1)), ("end", int(7)), ("step", int(2))];
    add("slice", Case::map().then("slice.Tensor", "y", inputs, &[B, 4, 8, 3]));
    add("select", Case::map().then("select.int", "y", vec![("dim", int(2)), ("index", int(-2))], &[B, 4, 8]));
    let sizes: [&[i64]; 2] = [&[B, 3, 8, 8], &[B, 1, 8, 8]];
    let inputs = vec![("split_sizes", ints(&[3, 1])), ("dim", int(1))];
    add("split", Case::map().parts("split_with_sizes.default", &["p", "q"], &sizes, inputs));
    let planes: [&[i64]; 4] = [&[B, 8, 8]; 4];
    add("unbind", Case::map().parts("unbind.int", &["p", "q", "r", "s"], &planes, vec![("dim", int(1))]));
    let inputs = vec![("pad", ints(&[1, 2, 0, 3])), ("value", float(0.25))];
    add("pad", Case::map().then("pad.default", "y", inputs, &[B, 4, 11, 11]));
    let inputs = vec![("shifts", ints(&[-3, 9])), ("dims", ints(&[2, 3]))];
    add("roll", Case::map().then("roll.default", "y", inputs, map));
    let mut case = Case::map().then("permute.default", "y", vec![("dims", ints(&[0, 2, 3, 1]))], &[B, 8, 8, 4]);
    let both = json!({"as_tensors": [{"name": "y"}, {"name": "y"}]});
    case.network.node("cat.default", "both", &[("tensors", both), ("dim", int(-1))], &[B, 8, 8, 8]);
    (case.value, case.shape) = ("both", vec![B, 8, 8, 8]);
    add("cat", case);
    let mut case = Case::rows().batch_size().parameters(&[("token", &[1, 1, 64])]);
    let inputs = [("self", tensor("token")), ("size", names(&["b", "-1", "-1"]))];
    case.network.node("expand.default", "token_of_each", &inputs, &[B, 1, 64]);
    let both = json!({"as_tensors": [{"name": "token_of_each"}, {"name": "rows"}]});
    case.network.node("cat.default", "both", &[("tensors", both), ("dim", int(1))], &[B, 5, 64]);
    (case.value, case.shape) = ("both", vec![B, 5, 64]);
    add("expand", case);
}

/// Stochastic depth, with and without the division that keeps the mean, and dropout.
fn random(cases: &mut Vec<(String, Case)>) {
    let mut case = Case::map().batch_size();
    let inputs = [("self", tensor("conv")), ("size", names(&["b", "1", "1", "1"])), ("pin_memory", flag(false))];
    case.network.node("new_empty.default", "empty", &inputs, &[B, 1, 1, 1]);
    case.network.node("bernoulli_.float", "kept", &[("self", tensor("empty")), ("p", float(0.9))], &[B, 1, 1, 1]);
    case.network.node("div_.Tensor", "scaled", &[("self", tensor("kept")), ("other", float(0.9))], &[B, 1, 1, 1]);
    let case = case.then("mul.Tensor", "branch", vec![("other", tensor("scaled"))], &[B, 4, 8, 8]);
    let inputs = vec![("p", float(0.5)), ("train", flag(true))];
    let case = case.with("input", "dropout.default", "dropped", inputs, &[B, 4, 8, 8]);
    let case = case.then("clone.default", "same", Vec::new(), &[B, 4, 8, 8]);
    cases.push(("stochastic_depth".into(), case));
}

/// Rows of a table by the numbers of a constant.
fn table(cases: &mut Vec<(String, Case)>) {
    let elements = [4_i64, 0, -2, 1].into_iter().flat_map(i64::to_le_bytes).collect();
    let mut case = Case::rows().parameters(&[("table", &[5, 64])]).constant("index", 5, &[2, 2], elements);
    let indices = json!({"as_optional_tensors": [{"as_tensor": {"name": "index"}}]});
    case.network.node("index.Tensor", "taken", &[("self", tensor("table")), ("indices", indices)], &[2, 2, 64]);
    case.network.node("flatten.using_ints", "four", &[("self", tensor("taken")), ("end_dim", int(1))], &[4, 64]);
    cases.push(("rows".into(), case.then("add.Tensor", "y", vec![("other", tensor("four"))], &[B, 4, 64])));
}

/// Elements of two maps, as a constant says.
fn choice(cases: &mut Vec<(String, Case)>) {
    let holds = (0..64).map(|at| u8::from(at % 3 == 0)).collect();
    let case = Case::map().parameters(&[("other", &[4, 1, 1])]).constant("holds", 12, &[8, 8], holds);
    let shape = [B, 4, 8, 8];
    let case = case.then("mul.Tensor", "twice", vec![("other", float(2.0))], &shape);
    let others = vec![("condition", tensor("holds")), ("other", tensor("other"))];
    cases.push(("where".into(), case.then("where.self", "y", others, &shape)));
}

/// A network for every operation, and several for those with many forms.
pub fn cases() -> Vec<(String, Network)> {
    let mut cases = Vec::new();
    for add in [
        layers,
        norms,
        transposed_convolutions,
        instance_norms,
        cosines,
        folds,
        attention,
        volumes,
        elements,
        pools,
        shapes,
        random,
        table,
        choice,
        comparisons,
    ] {
        add(&mut cases);
    }
    cases.into_iter().map(|(name, case)| (name, case.network())).collect()
}

#[test]
fn every_operation_is_exported() {
    let mut seen = BTreeSet::new();
    for (case, network) in cases() {
        let bytes = network.bytes();
        let read = ExportedNetwork::from_bytes(bytes.clone()).unwrap_or_else(|error| panic!("{case}: {error}"));
        seen.extend(read.graph().nodes.iter().map(|node| name(&node.op)));
        let model = model(&exported(&bytes), &Options::default());
        assert_eq!(model.graph.unwrap().output[0].name, "logits", "{case}");
    }
    assert_eq!(seen, BTreeSet::from(ALL));
}
