//! Promise: what is wrong with a network is said by name, all at once, and nothing of the user's machine is.

use serde_json::{Value, json};

use super::programs::{B, Network, expression, flag, float, int, ints, meta, tensor};

#[test]
fn all_unsupported_operators_are_named_in_one_error() {
    let mut network = Network::new();
    network.convolve();
    for index in 0..5 {
        let from = if index == 0 { "conv".to_owned() } else { format!("fft_{}", index - 1) };
        network.node("fft_rfft2.default", &format!("fft_{index}"), &[("self", tensor(&from))], &[B, 4, 8, 8]);
    }
    network.bare_node("torch.ops.higher_order.cond", &[("pred", tensor("fft_4"))], json!([tensor("chosen")]));
    *network.recorded("chosen") = meta(&[B, 4, 8, 8]);
    network.bare_node("torch.ops.mine.secret.default", &[("x", tensor("chosen"))], json!([tensor("own")]));
    *network.recorded("own") = meta(&[B, 4, 8, 8]);
    network.node("relu_.Tensor", "act", &[("self", tensor("own"))], &[B, 4, 8, 8]);
    network.pool_and_classify("act");
    let error = network.read().unwrap_err().to_string();
    assert_eq!(
        error,
        "the exported network cannot be used:\n\
         - operator aten.fft_rfft2.default: is not supported; it computes fft_0, fft_1, fft_2 and 2 more: complex \
         numbers are not read\n\
         - operator aten.relu_.Tensor: is not supported; it computes act\n\
         - operator higher_order.cond: is not supported; it computes chosen: control flow is not read. Export a network \
         whose forward computes the same for all images, without torch.cond, loops over tensors and the like\n\
         - operator mine.secret.default: is not supported; it computes own: custom operators are not read. Export a \
         network that computes the same with PyTorch's own"
    );
}

#[test]
fn nothing_of_the_users_machine_is_shown() {
    let mut network = Network::small();
    let read = network.read().unwrap();
    let shown = format!("{read:?}{}", serde_json::to_string(read.description()).unwrap());
    assert!(!shown.contains("secret") && !shown.contains("/home"), "{shown}");
    *network.recorded("conv") = meta(&[B, 5, 8, 8]);
    let faults = network.faults().join("; ");
    assert!(!faults.contains("secret") && !faults.contains("/home"), "{faults}");
}

#[test]
fn a_recorded_shape_must_be_the_inferred_one() {
    let mut network = Network::small();
    *network.recorded("act") = meta(&[B, 4, 8, 4]);
    network.recorded("flat")["dtype"] = json!(6);
    assert_eq!(
        network.faults(),
        [
            "node act: PyTorch recorded [B, 4, 8, 4] of F32, but it would be [B, 4, 8, 8] of F32",
            "node flat: PyTorch recorded [B, 4] of F16, but it would be [B, 4] of F32: export the network outside of \
             torch.autocast",
            // It is checked with what was recorded before it.
            "node logits: computes with F16 elements, and only float32 is supported: export the network after model.float()",
        ]
    );
}

#[test]
fn weights_must_fit_what_they_are_multiplied_with() {
    for (key, shape, expected) in [
        ("conv.weight", [4, 2, 3, 3].as_slice(), "node conv: has 3 channels, 1 groups and a weight [4, 2, 3, 3]"),
        ("conv.weight", &[4, 3, 3], "node conv: has a weight [4, 3, 3]"),
        ("conv.weight", &[4, 3, 11, 3], "node conv: moves a window of [11, 3]"),
        ("fc.weight", &[5, 3], "node logits: has an input [B, 4] and a weight [5, 3]"),
    ] {
        let mut network = Network::small();
        *network.recorded(key) = meta(shape);
        network.weights["config"][key]["tensor_meta"] = meta(shape);
        let bytes = 4 * shape.iter().product::<i64>() as usize;
        let file = format!("data/weights/{}", network.weights["config"][key]["path_name"].as_str().unwrap());
        network.files.iter_mut().find(|(name, _)| *name == file).unwrap().1 = vec![0; bytes];
        let fault = network.fault();
        assert!(fault.starts_with(expected), "{fault}");
    }
}

#[test]
fn a_node_may_use_only_what_is_before_it() {
    let mut network = Network::small();
    // A cycle: the convolution takes what is computed from it.
    network.graph()["nodes"][0]["inputs"][0]["arg"] = tensor("act");
    assert_eq!(network.fault(), "node conv: uses act before it is defined");

    let mut network = Network::small();
    network.graph()["nodes"][1]["inputs"][0]["arg"] = tensor("nobody");
    assert_eq!(network.fault(), "node act: uses nobody before it is defined");

    let mut network = Network::small();
    network.node("relu.default", "conv", &[("self", tensor("act"))], &[B, 4, 8, 8]);
    assert_eq!(network.fault(), "node conv: defines a name that is taken");
}

#[test]
fn an_argument_that_could_change_the_result_is_refused() {
    let argument = |name: &str, arg: Value| json!({"name": name, "arg": arg, "kind": 1});
    for (node, name, value, expected) in [
        (0, "transposed", flag(true), "node conv: has an argument transposed that is not supported"),
        (0, "groups", int(0), "node conv: has 3 channels, 0 groups and a weight [4, 3, 3, 3]"),
        (0, "groups", int(-1), "node conv: has a negative groups"),
        (0, "dilation", ints(&[i64::MAX, 1]), "node conv: moves a window of [3, 3] with stride [1, 1]"),
        (0, "dilation", ints(&[1, 1, 1]), "node conv: has an argument dilation of a kind"),
        (0, "groups", json!({"as_complex": {}}), "node conv: has an argument groups of a kind"),
        (3, "end_dim", int(9), "node flat: refers to dimension 9 of a tensor with 4 dimensions"),
    ] {
        let mut network = Network::small();
        network.graph()["nodes"][node]["inputs"].as_array_mut().unwrap().push(argument(name, value));
        let fault = network.fault();
        assert!(fault.starts_with(expected), "{fault}");
    }
}

#[test]
fn only_the_batch_size_may_be_open() {
    let mut open = Network::small();
    open.recorded("x")["sizes"][2] = expression("Symbol('s12', positive=True, integer=True)");
    let faults = open.faults();
    let says = "input: the images' height or width is open, and must be fixed: leave only the batch size open, with ";
    assert!(faults[0].starts_with(says), "{faults:?}");

    let mut grey = Network::small();
    *grey.recorded("x") = meta(&[B, 1, 8, 8]);
    assert!(grey.faults()[0].starts_with("input: images are [B, 1, 8, 8] of F32"), "{:?}", grey.faults());
    assert!(grey.faults()[0].contains("gives this network images.mean(1, keepdim=True)"), "{:?}", grey.faults());
}

/// Makes every open size of a document 2, as in a program that was exported without dynamic shapes.
fn fix_batch(document: &mut Value) {
    if document.get("as_expr").is_some() {
        *document = json!({"as_int": 2});
        return;
    }
    match document {
        Value::Array(members) => members.iter_mut().for_each(fix_batch),
        Value::Object(members) => members.values_mut().for_each(fix_batch),
        _ => {}
    }
}

#[test]
fn a_fixed_batch_size_is_one_fault_with_the_lines_that_open_it() {
    let mut fixed = Network::small();
    fix_batch(&mut fixed.program);
    let lines = "input: the batch size is fixed: leave it open, and export with at least two images:\n\
                 images = torch.zeros(2, 3, 8, 8)\n\
                 batch = torch.export.Dim(\"batch\", min=2, max=65536)\n\
                 program = torch.export.export(model, (images,), dynamic_shapes=({0: batch},))";
    assert_eq!(fixed.fault(), lines, "its logits [2, 5] are no fault of their own");
    // What else is wrong with the images, with the network and with its result is said, too.
    let mut grey = Network::new();
    grey.convolve();
    grey.node("tan.default", "odd", &[("self", tensor("conv"))], &[B, 4, 8, 8]);
    grey.pool_and_classify("odd");
    grey.node("unsqueeze.default", "end", &[("self", tensor("logits")), ("dim", int(2))], &[B, 5, 1]);
    grey.result("end");
    *grey.recorded("x") = meta(&[B, 1, 8, 8]);
    fix_batch(&mut grey.program);
    let faults = grey.faults();
    let says = [
        "input: the batch size is fixed",
        "input: images are [B, 1, 8, 8] of F32, and must be [B, 3, H, W] of F32",
        "output: is [B, 5, 1] of F32, and must be logits [B, classes] of F32",
        "operator aten.tan.default: is not supported",
    ];
    assert!(faults.len() == 4 && faults.iter().zip(says).all(|(fault, says)| fault.starts_with(says)), "{faults:?}");
}

#[test]
fn expressions_that_are_not_multiples_of_the_batch_are_refused() {
    let deep = format!("{}Integer(1){}", "Mul(".repeat(100_000), ")".repeat(100_000));
    for text in [
        "Symbol('s1', positive=True, integer=True)",
        "Pow(Symbol('s77', positive=True, integer=True), Integer(2))",
        "Mul(Symbol('s77', integer=True), Symbol('s77', integer=True))",
        "Mul(Integer(9223372036854775807), Integer(4), Symbol('s77', integer=True))",
        "Integer(-1)",
        "Integer(",
        "Mul(",
        "Mul(Integer(1)",
        "Symbol('s77'",
        "Symbol('s77') + 1",
        "é",
        "",
        &deep,
    ] {
        let mut network = Network::small();
        network.recorded("act")["sizes"][0] = expression(text);
        let fault = network.fault();
        assert!(fault.contains("has a size that is no multiple of the batch size"), "{text}: {fault}");
    }
}

#[test]
fn more_than_images_and_logits_is_refused() {
    let mut network = Network::small();
    network.signature()["output_specs"] = json!([{"buffer_mutation": {"arg": {"name": "logits"}, "buffer_name": "b"}}]);
    assert!(network.fault().contains("without run_decompositions()"), "{}", network.fault());

    let mut network = Network::small();
    network.graph()["outputs"] = json!([tensor("logits"), tensor("act")]);
    let says = "output: the network must return one tensor, the logits, and nothing else: export a module whose";
    assert!(network.fault().starts_with(says), "{}", network.fault());
    assert!(network.fault().ends_with(". It returns logits [B, 5], act [B, 4, 8, 8]"), "{}", network.fault());

    let mut network = Network::small();
    network.result("act");
    assert!(network.fault().contains("must be logits [B, classes] of F32"), "{}", network.fault());

    let mut network = Network::small();
    let spec = json!({"user_input": {"arg": tensor("y")}});
    network.signature()["input_specs"].as_array_mut().unwrap().push(spec);
    network.graph()["inputs"].as_array_mut().unwrap().push(tensor("y"));
    let faults = network.faults();
    assert!(faults[0].starts_with("input: the network must take one tensor"), "{faults:?}");

    let mut network = Network::small();
    network.graph()["custom_obj_values"] = json!({"o": {"class_fqn": "mine.Tokenizer"}});
    assert_eq!(network.fault(), "graph: uses objects of user-defined classes, which are not supported");

    let mut network = Network::small();
    network.signature()["input_specs"][0] = json!({"custom_obj": {"arg": {"name": "o"}, "custom_obj_name": "o"}});
    let faults = network.faults();
    assert_eq!(faults[0], "input: an input of the kind custom_obj is not supported");
}

#[test]
fn nothing_beside_the_logits_is_no_result() {
    let mut network = Network::small();
    let none = json!({"as_none": true});
    network.graph()["outputs"] = json!([none, tensor("logits"), none]);
    let [none, logits] = [none, tensor("logits")].map(|arg| json!({"user_output": {"arg": arg}}));
    network.signature()["output_specs"] = json!([none, logits, none]);
    assert_eq!(network.read().unwrap().description().classes, 5);
    network.graph()["outputs"] = json!([{"as_none": true}]);
    assert!(network.fault().starts_with("output: the network must return one tensor"), "{}", network.fault());
}

#[test]
fn inputs_must_be_those_of_the_signature() {
    let mut network = Network::small();
    network.graph()["inputs"].as_array_mut().unwrap().swap(0, 1);
    assert_eq!(network.fault(), "graph: its inputs are not those of its signature");
}

#[test]
fn a_tensor_must_lie_within_its_bytes() {
    let set = |path: &[&str], value: Value| {
        let mut network = Network::small();
        let mut at = &mut network.weights["config"]["fc.weight"];
        for part in path {
            at = match part.parse::<usize>() {
                Ok(index) => &mut at[index],
                Err(_) => &mut at[*part],
            };
        }
        *at = value;
        network
    };
    let size = |number: i64| json!({"as_int": number});
    for (path, value, expected) in [
        (&["tensor_meta", "sizes", "0"][..], size(6), "needs more than the 20 elements stored for it"),
        (&["tensor_meta", "sizes", "0"], size(i64::MAX), "needs more than the 20 elements stored for it"),
        (&["tensor_meta", "sizes", "0"], size(-5), "not small non-negative numbers"),
        (&["tensor_meta", "sizes", "0"], expression("Symbol('s77')"), "not small non-negative numbers"),
        (&["tensor_meta", "strides", "0"], size(-4), "not small non-negative numbers"),
        (&["tensor_meta", "strides", "0"], size(1 << 62), "needs more than the 20 elements stored for it"),
        (&["tensor_meta", "strides"], json!([]), "has 2 dimensions and 0 strides"),
        (&["tensor_meta", "storage_offset"], size(1), "needs more than the 20 elements stored for it"),
        (&["tensor_meta", "storage_offset"], size(-1), "not small non-negative numbers"),
        (&["tensor_meta", "dtype"], json!(9), "has complex elements"),
        (&["tensor_meta", "dtype"], json!(28), "has elements of PyTorch's type number 28"),
        (&["tensor_meta", "dtype"], json!(8), "needs more than the 10 elements stored for it"),
        (&["tensor_meta", "layout"], json!(0), "is sparse"),
        (&["tensor_meta"], Value::Null, "is not a tensor"),
        (&["use_pickle"], json!(true), "is stored as a pickle, which is not read"),
        (&["path_name"], json!("weight_99"), "which is missing from the archive"),
        (&["path_name"], json!("../../../../etc/passwd"), "which is missing from the archive"),
    ] {
        let faults = set(path, value).faults();
        assert!(faults[0].starts_with("tensor fc.weight: ") && faults[0].contains(expected), "{path:?}: {faults:?}");
        assert_eq!(faults[1], "input fc.weight: the file has no tensor fc.weight of that kind that can be used");
    }
    let swapped = set(&["tensor_meta", "strides"], json!([size(1), size(5)]));
    assert!(swapped.read().is_ok());
    let buffer = set(&["is_param"], json!(false));
    assert!(buffer.faults()[0].starts_with("input fc.weight: the file has no tensor"), "{:?}", buffer.faults());
}

#[test]
fn tensors_may_share_bytes_within_a_limit() {
    let mut network = Network::small();
    network.files.push(("data/weights/large".to_owned(), vec![0; 4 << 20]));
    let payload = |shape: &[i64]| json!({"path_name": "large", "is_param": true, "use_pickle": false, "tensor_meta": meta(shape)});
    network.weights["config"]["one"] = payload(&[1 << 20]);
    network.weights["config"]["two"] = payload(&[1 << 20]);
    let read = network.read().unwrap();
    let description = read.description();
    let said = description.warnings_of(true).chain(description.notes.last()).map(String::as_str).collect::<Vec<_>>();
    assert_eq!(
        said.join("; "),
        "1 parameter is not used: one; 2 parameters are frozen by requires_grad_(False), and training leaves them: one, \
         two; 1 key is that of a parameter with an earlier key, too, and both stay equal in training: two"
    );
    for index in 0..100 {
        network.weights["config"][format!("more_{index}")] = payload(&[1 << 20]);
    }
    let error = network.read().unwrap_err().to_string();
    assert!(error.starts_with("refused: its tensors would take"), "{error}");
}

#[test]
fn attention_and_layer_norm_are_checked() {
    let mut network = Network::new();
    network.convolve();
    network.node("flatten.using_ints", "rows", &[("self", tensor("conv")), ("start_dim", int(2))], &[B, 4, 64]);
    let mut wrong = network.clone();
    let parts = ["query", "key", "value"].map(|name| (name, tensor("rows")));
    network.node("scaled_dot_product_attention.default", "seen", &parts, &[B, 4, 64]);
    network.node("mean.dim", "mean", &[("self", tensor("seen")), ("dim", ints(&[2]))], &[B, 4]);
    network.classify("mean");
    assert_eq!(network.read().unwrap().description().macs, 8 * 8 * 4 * 3 * 9 + 4 * 4 * 64 * 2 + 5 * 4);

    let norm = [("input", tensor("rows")), ("normalized_shape", ints(&[4])), ("eps", float(1e-6))];
    wrong.node("layer_norm.default", "norm", &norm, &[B, 4, 64]);
    let grouped = [parts.as_slice(), &[("enable_gqa", flag(true))]].concat();
    wrong.node("scaled_dot_product_attention.default", "seen", &grouped, &[B, 4, 64]);
    wrong.node("mean.dim", "mean", &[("self", tensor("seen")), ("dim", ints(&[2]))], &[B, 4]);
    wrong.classify("mean");
    assert_eq!(
        wrong.faults(),
        [
            "node norm: normalises [4], which its input does not end with",
            "node seen: shares keys between heads (enable_gqa), which queries [B, 4, 64] and keys or values [B, 4, 64] \
             cannot",
        ]
    );
}

#[test]
fn many_faults_are_counted() {
    let mut network = Network::small();
    for index in 0..200 {
        network.node("relu.default", &format!("r{index}"), &[("self", tensor("nobody"))], &[B, 4]);
    }
    let error = network.read().unwrap_err().to_string();
    assert!(error.ends_with("\n- 150 more faults like these"), "{error}");
    assert_eq!(error.lines().count(), 52);
}

#[test]
fn layers_with_spectral_norm_are_named_with_what_to_do() {
    for [orig, u, v] in [
        [
            "conv.parametrizations.weight.original",
            "conv.parametrizations.weight.0._u",
            "conv.parametrizations.weight.0._v",
        ],
        ["conv.weight_orig", "conv.weight_u", "conv.weight_v"],
    ] {
        let mut network = Network::small();
        network.parameter(orig, &[4, 27]);
        network.buffer(u, &[4]);
        network.buffer(v, &[27]);
        network.read().unwrap();
        network.node("vdot.default", "sigma", &[("self", tensor(u)), ("other", tensor(u))], &[]);
        let faults = network.faults();
        assert!(faults[0].starts_with("layer conv: spectral_norm is not supported. Before the export,"), "{faults:?}");
        assert_eq!(faults[1], "operator aten.vdot.default: is not supported; it computes sigma");
    }
}
