//! Promise: every operation of an exported network has its form in ONNX.

use std::collections::BTreeSet;

use distillery_core::export::onnx::Options;
use distillery_core::exported::{ExportedNetwork, Op};
use serde_json::{Value, json};

use super::onnx::model;
use super::students::{exported, randomise};
use crate::exported::programs::{B, Network, expression, flag, float, int, ints, meta, tensor};

/// The names of all operations.
const ALL: [&str; 29] = [
    "activation",
    "adaptive_average_pool",
    "arithmetic",
    "attention",
    "average_pool",
    "batch_norm",
    "bernoulli",
    "concat",
    "convolution",
    "count_batch",
    "dropout",
    "empty",
    "expand",
    "group_norm",
    "identity",
    "layer_norm",
    "linear",
    "matmul",
    "max_pool",
    "mean",
    "pad",
    "permute",
    "reshape",
    "roll",
    "rows",
    "select",
    "slice",
    "softmax",
    "split",
];

/// The name of an operation; the compiler asks for those that are new. `unbind` is under `split`.
fn name(op: &Op) -> &'static str {
    match op {
        Op::Convolution { .. } => "convolution",
        Op::BatchNorm { .. } => "batch_norm",
        Op::LayerNorm { .. } => "layer_norm",
        Op::GroupNorm { .. } => "group_norm",
        Op::Linear { .. } => "linear",
        Op::Matmul => "matmul",
        Op::Attention { .. } => "attention",
        Op::Activation(_) => "activation",
        Op::Softmax { .. } => "softmax",
        Op::Arithmetic { .. } => "arithmetic",
        Op::Concat { .. } => "concat",
        Op::MaxPool(_) => "max_pool",
        Op::AveragePool { .. } => "average_pool",
        Op::AdaptiveAveragePool { .. } => "adaptive_average_pool",
        Op::Mean { .. } => "mean",
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

/// A network under construction, and its latest value.
struct Case {
    network: Network,
    value: &'static str,
    shape: Vec<i64>,
}

type Inputs = Vec<(&'static str, Value)>;

impl Case {
    /// Images [B, 3, 8, 8].
    fn new() -> Self {
        Self { network: Network::new(), value: "x", shape: vec![B, 3, 8, 8] }
    }

    /// A map [B, 4, 8, 8].
    fn map() -> Self {
        let mut case = Self::new();
        case.network.convolve();
        (case.value, case.shape) = ("conv", vec![B, 4, 8, 8]);
        case
    }

    /// Rows [B, 4, 64].
    fn rows() -> Self {
        Self::map().then("flatten.using_ints", "rows", vec![("start_dim", int(2))], &[B, 4, 64])
    }

    /// An operator on the latest value, which its schema calls `first`.
    fn with(mut self, first: &str, operator: &str, name: &'static str, others: Inputs, shape: &[i64]) -> Self {
        let inputs: Vec<_> = std::iter::once((first, tensor(self.value))).chain(others).collect();
        self.network.node(operator, name, &inputs, shape);
        (self.value, self.shape) = (name, shape.to_vec());
        self
    }

    fn then(self, operator: &str, name: &'static str, others: Inputs, shape: &[i64]) -> Self {
        self.with("self", operator, name, others, shape)
    }

    /// An operator with several results, of which one is the next value.
    fn parts(mut self, operator: &str, names: &[&'static str], shapes: &[&[i64]], others: Inputs) -> Self {
        let inputs: Vec<_> = std::iter::once(("self", tensor(self.value))).chain(others).collect();
        let outputs: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
        self.network.bare_node(&format!("torch.ops.aten.{operator}"), &inputs, json!([{"as_tensors": outputs}]));
        for (name, shape) in names.iter().zip(shapes) {
            *self.network.recorded(name) = meta(shape);
        }
        (self.value, self.shape) = (names[1], shapes[1].to_vec());
        self
    }

    fn parameters(mut self, parameters: &[(&str, &[i64])]) -> Self {
        parameters.iter().for_each(|(key, shape)| self.network.parameter(key, shape));
        self
    }

    /// The batch size as the name `b`.
    fn batch_size(mut self) -> Self {
        let outputs = json!([{"as_sym_int": {"as_name": "b"}}]);
        self.network.bare_node("torch.ops.aten.sym_size.int", &[("self", tensor("x")), ("dim", int(0))], outputs);
        self.network.graph()["sym_int_values"]["b"] = expression("Symbol('s77', positive=True, integer=True)");
        self
    }

    /// All elements of an image to logits, so that each of them counts.
    fn network(mut self) -> Network {
        let elements = self.shape[1..].iter().product();
        self = self.then("flatten.using_ints", "all", vec![("start_dim", int(1))], &[B, elements]);
        self.network.parameter("head.weight", &[5, elements]);
        self.network.parameter("head.bias", &[5]);
        let others = vec![("weight", tensor("head.weight")), ("bias", tensor("head.bias"))];
        self = self.with("input", "linear.default", "logits", others, &[B, 5]);
        self.network.result("logits");
        randomise(&mut self.network);
        self.network
    }
}

fn names(sizes: &[&str]) -> Value {
    let size = |size: &&str| match size.parse::<i64>() {
        Ok(number) => json!({"as_int": number}),
        Err(_) => json!({"as_name": size}),
    };
    json!({"as_sym_ints": sizes.iter().map(size).collect::<Vec<_>>()})
}

fn window(size: i64, stride: i64, padding: i64, rounds_up: bool) -> Inputs {
    vec![
        ("kernel_size", ints(&[size, size])),
        ("stride", ints(&[stride, stride])),
        ("padding", ints(&[padding, padding])),
        ("ceil_mode", flag(rounds_up)),
    ]
}

/// Side of a map of 8×8 after a pooling.
fn side(size: i64, stride: i64, padding: i64, rounds_up: bool) -> i64 {
    let room = 8 + 2 * padding - size;
    let steps = if rounds_up { (room + stride - 1) / stride } else { room / stride };
    if rounds_up && steps * stride >= 8 + padding { steps } else { steps + 1 }
}

fn layers(cases: &mut Vec<(String, Case)>) {
    let convolution = |bias: bool, others: Inputs| {
        let mut inputs = vec![("weight", tensor("w"))];
        inputs.extend(bias.then(|| ("bias", tensor("v"))));
        inputs.into_iter().chain(others).collect::<Vec<_>>()
    };
    let others = vec![("stride", ints(&[2, 1])), ("padding", ints(&[1, 2])), ("dilation", ints(&[1, 2]))];
    let case = Case::map().parameters(&[("w", &[6, 4, 3, 3]), ("v", &[6])]);
    cases.push((
        "convolution".into(),
        case.with("input", "conv2d.default", "y", convolution(true, others), &[B, 6, 4, 8]),
    ));
    let others = vec![("padding", ints(&[1, 1])), ("groups", int(2))];
    let case = Case::map().parameters(&[("w", &[6, 2, 3, 3])]);
    cases
        .push(("grouped".into(), case.with("input", "conv2d.default", "y", convolution(false, others), &[B, 6, 8, 8])));

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

    for bias in [true, false] {
        let others = convolution(bias, Vec::new());
        let case = Case::rows().parameters(if bias { &[("w", &[5, 64]), ("v", &[5])] } else { &[("w", &[5, 64])] });
        cases.push((format!("linear_{bias}"), case.with("input", "linear.default", "y", others, &[B, 4, 5])));
    }
    let case = Case::rows().parameters(&[("w", &[64, 6])]);
    cases.push(("matmul".into(), case.then("matmul.default", "y", vec![("other", tensor("w"))], &[B, 4, 6])));
    cases.push(("softmax".into(), Case::map().then("softmax.int", "y", vec![("dim", int(1))], &[B, 4, 8, 8])));
}

fn attention(cases: &mut Vec<(String, Case)>) {
    let tokens = || {
        Case::rows()
            .then("transpose.int", "swapped", vec![("dim0", int(1)), ("dim1", int(2))], &[B, 64, 4])
            .then("unsqueeze.default", "heads", vec![("dim", int(1))], &[B, 1, 64, 4])
            .then("slice.Tensor", "tokens", vec![("dim", int(2)), ("start", int(0)), ("end", int(9))], &[B, 1, 9, 4])
    };
    let others = |more: Inputs| {
        let same = vec![("key", tensor("tokens")), ("value", tensor("tokens"))];
        same.into_iter().chain(more).collect::<Vec<_>>()
    };
    let operator = "scaled_dot_product_attention.default";
    let shape = [B, 1, 9, 4];
    cases.push(("attention".into(), tokens().with("query", operator, "y", others(Vec::new()), &shape)));
    let more = others(vec![("is_causal", flag(true)), ("scale", float(0.7))]);
    cases.push(("attention_causal".into(), tokens().with("query", operator, "y", more, &shape)));
    let masked = tokens().parameters(&[("mask", &[9, 9])]);
    let more = others(vec![("attn_mask", tensor("mask"))]);
    cases.push(("attention_mask".into(), masked.with("query", operator, "y", more, &shape)));
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
    ];
    for operator in ["add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor"] {
        functions.push((operator, vec![("other", float(0.3))]));
        functions.push((operator, vec![("other", tensor("w"))]));
    }
    for (number, (operator, others)) in functions.into_iter().enumerate() {
        let case = if others.iter().any(|(_, other)| *other == tensor("w")) {
            Case::map().parameters(&[("w", &[4, 1, 1])])
        } else {
            Case::map()
        };
        cases.push((format!("{number}_{operator}"), case.then(operator, "y", others, &[B, 4, 8, 8])));
    }
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
    for size in [[1, 1], [4, 2], [3, 5]] {
        let inputs = vec![("output_size", ints(&size))];
        let case = Case::map().then("adaptive_avg_pool2d.default", "y", inputs, &[B, 4, size[0], size[1]]);
        cases.push((format!("adaptive_{size:?}"), case));
    }
    for keeps in [true, false] {
        let inputs = vec![("dim", ints(&[1, 3])), ("keepdim", flag(keeps))];
        let shape: &[i64] = if keeps { &[B, 1, 8, 1] } else { &[B, 8] };
        cases.push((format!("mean_{keeps}"), Case::map().then("mean.dim", "y", inputs, shape)));
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
    let mut case = Case::rows().parameters(&[("table", &[5, 64])]);
    let mut numbers = meta(&[2, 2]);
    numbers["dtype"] = json!(5);
    case.network.constants["config"]["index"] =
        json!({"path_name": "tensor_0", "is_param": false, "use_pickle": false, "tensor_meta": numbers});
    let elements: Vec<u8> = [4_i64, 0, -2, 1].into_iter().flat_map(i64::to_le_bytes).collect();
    case.network.files.push(("data/constants/tensor_0".to_owned(), elements));
    case.network.input(
        json!({"tensor_constant": {"arg": {"name": "index"}, "tensor_constant_name": "index"}}),
        "index",
        numbers,
    );
    let indices = json!({"as_optional_tensors": [{"as_tensor": {"name": "index"}}]});
    case.network.node("index.Tensor", "taken", &[("self", tensor("table")), ("indices", indices)], &[2, 2, 64]);
    case.network.node("flatten.using_ints", "four", &[("self", tensor("taken")), ("end_dim", int(1))], &[4, 64]);
    cases.push(("rows".into(), case.then("add.Tensor", "y", vec![("other", tensor("four"))], &[B, 4, 64])));
}

/// A network for every operation, and several for those with many forms.
pub fn cases() -> Vec<(String, Network)> {
    let mut cases = Vec::new();
    for add in [layers, attention, elements, pools, shapes, random, table] {
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
