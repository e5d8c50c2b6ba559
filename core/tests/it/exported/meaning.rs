//! Promise: a program is read as PyTorch runs it.

use distillery_core::checkpoint::Soundness;
use distillery_core::exported::{MapLayout, Op, Size};
use serde_json::{Value, json};

use super::programs::{B, Network, expression, flag, float, int, ints, tensor};

fn described(network: &Network) -> Value {
    serde_json::to_value(network.read().unwrap().description()).unwrap()
}

#[test]
fn parameters_and_multiplications_are_counted() {
    let description = described(&Network::small());
    assert_eq!(description["parameters"], 4 * 3 * 9 + 5 * 4);
    assert_eq!(description["macs"], 8 * 8 * 4 * 3 * 9 + 5 * 4);
    assert_eq!(description["batch"], json!([2, 64]));
    assert_eq!(description["mode"], "either");
}

#[test]
fn frozen_parameters_are_not_counted_and_are_named() {
    let mut network = Network::small();
    network.weights["config"]["conv.weight"]["tensor_meta"]["requires_grad"] = json!(false);
    let description = described(&network);
    assert_eq!(description["parameters"], 5 * 4);
    let warning = "1 parameters are frozen by requires_grad_(False), and training leaves them: conv.weight";
    assert!(description["student_warnings"].as_array().unwrap().contains(&json!(warning)), "{description}");
}

#[test]
fn tokens_are_a_map_if_they_make_a_square() {
    let mut network = Network::new();
    network.convolve();
    network.node("flatten.using_ints", "rows", &[("self", tensor("conv")), ("start_dim", int(2))], &[B, 4, 64]);
    let swap = [("self", tensor("rows")), ("dim0", int(1)), ("dim1", int(2))];
    network.node("transpose.int", "tokens", &swap, &[B, 64, 4]);
    let mut oblong = network.clone();
    network.node("mean.dim", "mean", &[("self", tensor("tokens")), ("dim", ints(&[1]))], &[B, 4]);
    network.classify("mean");
    let map = *network.read().unwrap().feature_map().unwrap();
    assert_eq!((map.layout, map.channels, map.height, map.width), (MapLayout::Tokens, 4, 8, 8));

    let slice = [("self", tensor("tokens")), ("dim", int(1)), ("start", int(1)), ("end", int(i64::MAX))];
    oblong.node("slice.Tensor", "some", &slice, &[B, 63, 4]);
    oblong.node("mean.dim", "mean", &[("self", tensor("some")), ("dim", ints(&[-2]))], &[B, 4]);
    oblong.classify("mean");
    assert!(oblong.read().unwrap().feature_map().is_none());
}

#[test]
fn positions_that_were_made_one_dimension_are_a_map() {
    let mut network = Network::new();
    network.convolve();
    network.node("flatten.using_ints", "rows", &[("self", tensor("conv")), ("start_dim", int(2))], &[B, 4, 64]);
    let mut tokens = network.clone();
    let mut pooled = network.clone();
    network.node("mean.dim", "mean", &[("self", tensor("rows")), ("dim", ints(&[-1]))], &[B, 4]);
    network.classify("mean");
    let map = *network.read().unwrap().feature_map().unwrap();
    assert_eq!((map.layout, map.channels, map.height, map.width), (MapLayout::ChannelsFirst, 4, 8, 8));

    let size = [("self", tensor("rows")), ("output_size", ints(&[1]))];
    pooled.node("adaptive_avg_pool1d.default", "mean", &size, &[B, 4, 1]);
    pooled.node("flatten.using_ints", "flat", &[("self", tensor("mean")), ("start_dim", int(1))], &[B, 4]);
    pooled.classify("flat");
    assert_eq!(described(&pooled)["head"]["begins_after"], "mean");
    let map = *pooled.read().unwrap().feature_map().unwrap();
    assert_eq!((map.layout, map.channels, map.height, map.width), (MapLayout::ChannelsFirst, 4, 8, 8));

    // Swin's pooling of tokens.
    let swap = [("self", tensor("rows")), ("dim0", int(1)), ("dim1", int(2))];
    tokens.node("transpose.int", "tokens", &swap, &[B, 64, 4]);
    tokens.node("relu.default", "act", &[("self", tensor("tokens"))], &[B, 64, 4]);
    let swap = [("self", tensor("act")), ("dim0", int(1)), ("dim1", int(2))];
    tokens.node("transpose.int", "back", &swap, &[B, 4, 64]);
    let size = [("self", tensor("back")), ("output_size", ints(&[1]))];
    tokens.node("adaptive_avg_pool1d.default", "mean", &size, &[B, 4, 1]);
    tokens.node("flatten.using_ints", "flat", &[("self", tensor("mean")), ("start_dim", int(1))], &[B, 4]);
    tokens.classify("flat");
    let map = *tokens.read().unwrap().feature_map().unwrap();
    assert_eq!((map.layout, map.channels, map.height, map.width), (MapLayout::Tokens, 4, 8, 8));
}

#[test]
fn a_class_token_leaves_no_map_and_a_note() {
    let mut network = Network::new();
    network.convolve();
    network.node("flatten.using_ints", "rows", &[("self", tensor("conv")), ("start_dim", int(2))], &[B, 4, 64]);
    let select = [("self", tensor("rows")), ("dim", int(2)), ("index", int(-64))];
    network.node("select.int", "token", &select, &[B, 4]);
    network.classify("token");
    let description = described(&network);
    assert_eq!(description["feature_map"], Value::Null);
    assert_eq!(description["head"]["classifier"], "fc.weight");
    assert!(description["notes"][0].as_str().unwrap().contains("no feature map"), "{description}");
}

#[test]
fn a_network_that_normalises_its_images_itself_is_noted() {
    let of = |inner: &dyn Fn(&mut Network)| {
        let mut network = Network::new();
        inner(&mut network);
        network.parameter("conv.weight", &[4, 3, 3, 3]);
        let convolution = [
            ("input", tensor("scaled")),
            ("weight", tensor("conv.weight")),
            ("bias", json!({"as_none": true})),
            ("stride", ints(&[1, 1])),
            ("padding", ints(&[1, 1])),
        ];
        network.node("conv2d.default", "conv", &convolution, &[B, 4, 8, 8]);
        network.pool_and_classify("conv");
        described(&network)["notes"].to_string()
    };
    let images = [B, 3, 8, 8];
    let buffers = of(&|network| {
        network.buffer("mean", &[3, 1, 1]);
        network.buffer("std", &[3, 1, 1]);
        network.node("clone.default", "same", &[("self", tensor("x"))], &images);
        network.node("sub.Tensor", "centred", &[("self", tensor("same")), ("other", tensor("mean"))], &images);
        network.node("div.Tensor", "scaled", &[("self", tensor("centred")), ("other", tensor("std"))], &images);
    });
    assert!(buffers.contains("scales its images itself (centred)") && buffers.contains("[0, 0, 0]"), "{buffers}");
    let number = of(&|network| {
        network.node("mul.Tensor", "scaled", &[("self", tensor("x")), ("other", float(2.0))], &images);
    });
    assert!(number.contains("scales its images itself (scaled)"), "{number}");
    let trained = of(&|network| {
        network.parameter("scale", &[3, 1, 1]);
        network.node("mul.Tensor", "scaled", &[("self", tensor("x")), ("other", tensor("scale"))], &images);
    });
    assert!(!trained.contains("scales its images"), "{trained}");
    let plain = of(&|network| network.node("relu.default", "scaled", &[("self", tensor("x"))], &images));
    assert!(!plain.contains("scales its images"), "{plain}");
}

#[test]
fn a_pooling_beside_the_main_path_does_not_begin_the_head() {
    let mut network = Network::new();
    network.convolve();
    let mean = [("self", tensor("conv")), ("dim", ints(&[2, 3])), ("keepdim", flag(true))];
    network.node("mean.dim", "squeezed", &mean, &[B, 4, 1, 1]);
    network.node("mul.Tensor", "excited", &[("self", tensor("conv")), ("other", tensor("squeezed"))], &[B, 4, 8, 8]);
    network.pool_and_classify("excited");
    assert_eq!(described(&network)["head"]["begins_after"], "pooled");
}

#[test]
fn a_multiple_of_the_batch_is_a_size() {
    let mut network = Network::new();
    network.convolve();
    let outputs = json!([{"as_sym_int": {"as_name": "b"}}]);
    network.bare_node("torch.ops.aten.sym_size.int", &[("self", tensor("x")), ("dim", int(0))], outputs);
    network.graph()["sym_int_values"]["b"] = expression("Symbol('s77', positive=True, integer=True)");
    let product = json!([{"as_sym_int": {"as_name": "windows"}}]);
    let factors = [("a", json!({"as_sym_int": {"as_name": "b"}})), ("b", int(16))];
    network.bare_node("_operator.mul", &factors, product);
    let size = json!({"as_sym_ints": [{"as_name": "windows"}, {"as_int": -1}]});
    network.node("view.default", "windowed", &[("self", tensor("conv")), ("size", size)], &[B, 16]);
    network.recorded("windowed")["sizes"][0] =
        expression("Mul(Integer(16), Symbol('s77', positive=True, integer=True))");
    let back = json!({"as_sym_ints": [{"as_name": "b"}, {"as_int": 4}, {"as_int": 8}, {"as_int": 8}]});
    network.node("view.default", "map", &[("self", tensor("windowed")), ("size", back)], &[B, 4, 8, 8]);
    network.pool_and_classify("map");
    let read = network.read().unwrap();
    let shape = |name: &str| {
        let node = read.graph().nodes.iter().find(|node| node.name == name).unwrap();
        read.graph().values[node.outputs[0]].shape.clone()
    };
    assert_eq!(shape("windowed"), [Size::Batch(16), Size::Fixed(16)]);
    assert_eq!(shape("map")[0], Size::Batch(1));
}

/// A batch norm of `conv`, and the counter of its batches.
fn with_batch_norm(training: bool, counts: bool) -> Network {
    let mut network = Network::new();
    network.convolve();
    for key in ["bn.weight", "bn.bias"] {
        network.parameter(key, &[4]);
    }
    for key in ["bn.running_mean", "bn.running_var"] {
        network.buffer(key, &[4]);
    }
    network.counter("bn.num_batches_tracked");
    if counts {
        let inputs = [("self", tensor("bn.num_batches_tracked")), ("other", int(1))];
        network.node("add_.Tensor", "counted", &inputs, &[]);
        network.recorded("counted")["dtype"] = json!(5);
    }
    let inputs = [
        ("input", tensor("conv")),
        ("weight", tensor("bn.weight")),
        ("bias", tensor("bn.bias")),
        ("running_mean", tensor("bn.running_mean")),
        ("running_var", tensor("bn.running_var")),
        ("training", flag(training)),
        ("momentum", float(0.1)),
        ("eps", float(1e-5)),
        ("cudnn_enabled", flag(true)),
    ];
    network.node("batch_norm.default", "norm", &inputs, &[B, 4, 8, 8]);
    network
}

#[test]
fn the_mode_is_that_of_the_operators() {
    let dropout = |network: &mut Network, train| {
        let inputs = [("input", tensor("norm")), ("p", float(0.5)), ("train", flag(train))];
        network.node("dropout.default", "dropped", &inputs, &[B, 4, 8, 8]);
        network.pool_and_classify("dropped");
    };
    for (training, dropping, expected) in
        [(true, true, "training"), (false, false, "evaluation"), (true, false, "mixed"), (false, true, "mixed")]
    {
        let mut network = with_batch_norm(training, training);
        dropout(&mut network, dropping);
        let description = described(&network);
        assert_eq!(description["mode"], expected);
        let warnings = description["student_warnings"].to_string();
        assert_eq!(warnings.contains("model.train() or model.eval()"), expected == "mixed", "{warnings}");
    }
}

#[test]
fn stochastic_depth_is_read() {
    let mut network = Network::new();
    network.convolve();
    let outputs = json!([{"as_sym_int": {"as_name": "b"}}]);
    network.bare_node("torch.ops.aten.sym_size.int", &[("self", tensor("x")), ("dim", int(0))], outputs);
    let shape = json!({"as_sym_ints": [{"as_name": "b"}, {"as_int": 1}, {"as_int": 1}, {"as_int": 1}]});
    let inputs = [("self", tensor("conv")), ("size", shape), ("pin_memory", flag(false))];
    network.node("new_empty.default", "empty", &inputs, &[B, 1, 1, 1]);
    network.node("bernoulli_.float", "kept", &[("self", tensor("empty")), ("p", float(0.9))], &[B, 1, 1, 1]);
    network.node("div_.Tensor", "scaled", &[("self", tensor("kept")), ("other", float(0.9))], &[B, 1, 1, 1]);
    let mut unwritten = network.clone();
    network.node("mul.Tensor", "branch", &[("self", tensor("conv")), ("other", tensor("scaled"))], &[B, 4, 8, 8]);
    network.pool_and_classify("branch");
    let read = network.read().unwrap();
    assert!(read.graph().nodes.iter().any(|node| node.op == Op::Bernoulli { probability: 0.9 }));
    assert_eq!(described(&network)["mode"], "training");

    // Without the draw, the mask would be whatever was in memory.
    unwritten.graph()["nodes"]
        .as_array_mut()
        .unwrap()
        .retain(|node| node["target"] != "torch.ops.aten.bernoulli_.float");
    let division = unwritten.graph()["nodes"].as_array_mut().unwrap().last_mut().unwrap();
    division["inputs"][0]["arg"] = tensor("empty");
    unwritten.node("mul.Tensor", "branch", &[("self", tensor("conv")), ("other", tensor("scaled"))], &[B, 4, 8, 8]);
    unwritten.pool_and_classify("branch");
    assert_eq!(unwritten.fault(), "node scaled: uses memory that nothing has been written to");
}

#[test]
fn memory_that_is_filled_with_a_number_is_a_constant() {
    let mut network = Network::new();
    network.convolve();
    network.node("new_empty.default", "empty", &[("self", tensor("conv")), ("size", ints(&[4, 8, 8]))], &[4, 8, 8]);
    network.node("fill_.Scalar", "filled", &[("self", tensor("empty")), ("value", float(0.5))], &[4, 8, 8]);
    let mut filled_over = network.clone();
    network.node("mul.Tensor", "half", &[("self", tensor("conv")), ("other", tensor("empty"))], &[B, 4, 8, 8]);
    network.pool_and_classify("half");
    let read = network.read().unwrap();
    let node = |name: &str| read.graph().nodes.iter().find(|node| node.name == name).unwrap();
    assert_eq!(node("filled").op, Op::Expand { shape: [4, 8, 8].map(Size::Fixed).to_vec() });
    assert_eq!(node("half").inputs[1], node("filled").outputs[0], "the memory's name is the filled tensor's");
    let constant = read.tensors().last().unwrap();
    assert_eq!((constant.tensor.shape().len(), read.floats(constant).unwrap()), (0, vec![0.5]));
    assert_eq!(described(&network)["mode"], "either");

    // What was computed before is written over, too.
    filled_over.node("fill_.Scalar", "ones", &[("self", tensor("conv")), ("value", int(1))], &[B, 4, 8, 8]);
    filled_over.pool_and_classify("conv");
    let read = filled_over.read().unwrap();
    let pooling = read.graph().nodes.iter().find(|node| node.name == "pooled").unwrap();
    let ones = read.graph().nodes.iter().find(|node| node.name == "ones").unwrap();
    assert_eq!(pooling.inputs, ones.outputs);
}

#[test]
fn whoever_names_an_overwritten_tensor_gets_the_result() {
    let mut network = Network::new();
    network.convolve();
    network.node("relu_.default", "act", &[("self", tensor("conv"))], &[B, 4, 8, 8]);
    network.node("add.Tensor", "sum", &[("self", tensor("act")), ("other", tensor("conv"))], &[B, 4, 8, 8]);
    network.pool_and_classify("sum");
    let read = network.read().unwrap();
    let node = |name: &str| read.graph().nodes.iter().find(|node| node.name == name).unwrap();
    assert_eq!(node("sum").inputs, [node("act").outputs[0]; 2]);
}

#[test]
fn memory_that_is_overwritten_under_another_view_is_not_used() {
    let mut network = Network::new();
    network.convolve();
    network.node("permute.default", "view", &[("self", tensor("conv")), ("dims", ints(&[0, 2, 3, 1]))], &[B, 8, 8, 4]);
    network.node("relu_.default", "act", &[("self", tensor("view"))], &[B, 8, 8, 4]);
    network.pool_and_classify("conv");
    let fault = network.fault();
    assert!(fault.starts_with("node pooled: uses conv after act overwrote its memory"), "{fault}");
}

#[test]
fn weights_that_are_not_finite_and_negative_variances_are_found() {
    let mut network = with_batch_norm(true, true);
    network.pool_and_classify("norm");
    assert_eq!(network.read().unwrap().soundness().unwrap(), Soundness::Sound);
    let with = |key: &str, value: f32| {
        let mut changed = network.clone();
        let file = format!("data/weights/{}", changed.weights["config"][key]["path_name"].as_str().unwrap());
        let (_, bytes) = changed.files.iter_mut().find(|(name, _)| *name == file).unwrap();
        bytes[..4].copy_from_slice(&value.to_le_bytes());
        changed.read().unwrap().soundness().unwrap()
    };
    let unsound = |key, value| {
        let Soundness::Unsound(what) = with(key, value) else { panic!("{key} {value}") };
        what
    };
    let nan = unsound("fc.weight", f32::NAN);
    assert!(nan.starts_with("cannot be used: fc.weight has 1 of 20 values that are not finite"), "{nan}");
    let negative = unsound("bn.running_var", -1.0);
    assert!(negative.starts_with("cannot be used: bn.running_var is a variance"), "{negative}");
    assert_eq!(with("bn.running_mean", -1.0), Soundness::Sound);
    let Soundness::Doubtful(large) = with("fc.weight", 1e20) else { panic!("huge weights are sound") };
    assert!(large.starts_with("fc.weight has 1 of 20 values beyond 1e6"), "{large}");
}

#[test]
fn only_counters_of_batches_are_overwritten_in_the_file() {
    let mut network = with_batch_norm(true, true);
    network.pool_and_classify("norm");
    assert_eq!(described(&network)["operators"]["aten.add_.Tensor"], 1);

    let mut network = with_batch_norm(true, false);
    network.node("relu_.default", "act", &[("self", tensor("bn.weight"))], &[4]);
    network.pool_and_classify("norm");
    assert_eq!(network.fault(), "node act: overwrites bn.weight, which is not a counter of batches");
}

#[test]
fn windows_that_reach_beyond_the_map_are_counted_as_pytorch_does() {
    // Side, window, stride, padding, whether it rounds up, result.
    for (window, stride, padding, rounds_up, side) in [
        (3, 2, 1, false, 4),
        (3, 2, 1, true, 5),
        (2, 3, 0, false, 3),
        (2, 3, 0, true, 3),
        (3, 3, 0, true, 3),
        (3, 5, 1, true, 2),
    ] {
        let mut network = Network::new();
        network.convolve();
        let inputs = [
            ("self", tensor("conv")),
            ("kernel_size", ints(&[window, window])),
            ("stride", ints(&[stride, stride])),
            ("padding", ints(&[padding, padding])),
            ("ceil_mode", flag(rounds_up)),
        ];
        network.node("max_pool2d.default", "max", &inputs, &[B, 4, side, side]);
        network.pool_and_classify("max");
        assert!(network.read().is_ok(), "{window} {stride} {padding} {rounds_up}: {:?}", network.faults());
    }
}
