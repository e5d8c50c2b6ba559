//! Promise: of networks that are not as jobs need them, a user reads what to change.

use serde_json::{Value, json};

use super::programs::{B, Network, flag, int, ints, meta, tensor};

/// A network with other images.
fn with_images(shape: &[i64], dtype: i64) -> Network {
    let mut network = Network::small();
    *network.recorded("x") = meta(shape);
    network.recorded("x")["dtype"] = json!(dtype);
    network
}

// PyTorch's numbers of types.
const BYTE: i64 = 1;
const INT64: i64 = 5;
const FLOAT: i64 = 7;
const BOOL: i64 = 12;
const BFLOAT16: i64 = 13;

#[test]
fn images_of_another_form_are_refused_with_what_to_export() {
    for (shape, dtype, says) in [
        ([B, 3, 8, 8], BYTE, "after its own conversion from bytes"),
        ([B, 3, 8, 8], BFLOAT16, "after model.float()"),
        ([B, 1, 8, 8], FLOAT, "images.mean(1, keepdim=True)"),
        ([B, 8, 8, 3], FLOAT, "images.permute(0, 2, 3, 1)"),
        ([B, 4, 8, 8], FLOAT, "makes the network's channels of them"),
    ] {
        let faults = with_images(&shape, dtype).faults();
        assert!(faults[0].starts_with("input: images are ") && faults[0].contains(says), "{faults:?}");
    }
}

/// A network that returns a value made of the logits by one node.
fn ending(operator: &str, inputs: &[(&str, Value)], shape: &[i64]) -> Network {
    let mut network = Network::small();
    let inputs = [&[("self", tensor("logits"))], inputs].concat();
    network.node(operator, "end", &inputs, shape);
    network.result("end");
    network
}

#[test]
fn results_that_are_no_logits_are_refused_with_what_to_export() {
    let select = [("dim", int(1)), ("index", int(0))];
    let one = ending("select.int", &select, &[B]);
    assert!(one.fault().ends_with("a network of two classes needs a logit for each"), "{}", one.fault());
    let map = ending("unsqueeze.default", &[("dim", int(2))], &[B, 5, 1]);
    assert!(map.fault().ends_with("after flatten(1)"), "{}", map.fault());
    let mut best = ending("argmax.default", &[("dim", int(1))], &[B]);
    best.recorded("end")["dtype"] = json!(INT64);
    let faults = best.faults();
    assert!(faults.iter().any(|fault| fault.ends_with("Leave out the argmax")), "{faults:?}");
}

#[test]
fn a_network_that_ends_in_probabilities_is_warned_of() {
    let warnings = |network: &Network| network.read().unwrap().description().warnings.join("; ");
    let probabilities = ending("softmax.int", &[("dim", int(1))], &[B, 5]);
    assert!(warnings(&probabilities).starts_with("the network ends in softmax (end), so it returns no logits"));
    assert!(warnings(&ending("sigmoid.default", &[], &[B, 5])).contains("ends in sigmoid (end)"));
    // Behind a view, too.
    let mut viewed = probabilities.clone();
    viewed.node("reshape.default", "same", &[("self", tensor("end")), ("shape", ints(&[-1, 5]))], &[B, 5]);
    viewed.result("same");
    assert!(warnings(&viewed).contains("ends in softmax (end)"), "{}", warnings(&viewed));
    // A softmax of these is that of the logits.
    assert_eq!(warnings(&ending("log_softmax.int", &[("dim", int(1))], &[B, 5])), "");
    assert_eq!(warnings(&Network::small()), "");
    // Within a network, it is none of its end.
    let mut scaled = probabilities;
    scaled.node("mul.Tensor", "scaled", &[("self", tensor("end")), ("other", tensor("logits"))], &[B, 5]);
    scaled.result("scaled");
    assert_eq!(warnings(&scaled), "");
}

#[test]
fn operators_that_are_not_read_come_with_what_would_work() {
    for (target, says) in [
        ("torch.ops.aten.randn_like.default", "only dropout and stochastic depth"),
        ("torch.ops.aten.topk.default", "may not depend on the images"),
        ("torch.ops.aten.grid_sampler.default", "may not depend on the images"),
        ("torch.ops.aten.conv_transpose3d.input", "volumes are not convolved"),
        ("torch.ops.aten.conv3d.default", "volumes are not convolved"),
        ("torch.ops.aten.max_pool3d.default", "volumes are neither pooled nor resized"),
        ("torch.ops.aten.linalg_inv.default", "matrices are neither inverted nor decomposed"),
        ("torch.ops.aten.kthvalue.default", "which elements are taken may not depend on the images"),
        ("torch.ops.aten.exponential_.default", "only dropout and stochastic depth are read"),
        ("torch.ops.aten.lstm.input", "recurrent layers"),
        ("torch.ops.aten.view_as_complex.default", "complex numbers"),
        ("torch.ops.aten.fake_quantize_per_tensor_affine.default", "before it is quantised"),
        ("torch.ops.quantized_decomposed.quantize_per_tensor.default", "before it is quantised"),
        ("torch.ops.higher_order.cond", "control flow is not read"),
        ("torch.ops.higher_order.wrap_with_set_grad_enabled", "Leave it out of forward; requires_grad_(False)"),
        ("torch.ops.higher_order.tag_activation_checkpoint", "torch.utils.checkpoint"),
        ("torch.ops.aten.detach.default", "a gradient that ends there"),
        ("torch.ops.torchvision.deform_conv2d.default", "custom operators are not read"),
        // What the export writes for sizes.
        ("_operator.sub", "of sizes, only sums, products"),
        ("math.trunc", "Use sizes that are numbers"),
    ] {
        let mut network = Network::new();
        network.convolve();
        network.bare_node(target, &[("self", tensor("conv"))], json!([tensor("odd")]));
        *network.recorded("odd") = meta(&[B, 4, 8, 8]);
        network.pool_and_classify("odd");
        let fault = network.fault();
        assert!(fault.contains("is not supported; it computes odd: ") && fault.contains(says), "{fault}");
    }
}

#[test]
fn the_smallest_elements_are_read_as_largest_ones() {
    for (operator, dim) in [("amin.default", ints(&[2])), ("min.dim", int(2))] {
        let mut network = Network::new();
        network.convolve();
        let inputs = [("self", tensor("conv")), ("dim", dim), ("keepdim", flag(true))];
        if operator == "min.dim" {
            let outputs = json!([tensor("low"), tensor("places")]);
            network.bare_node("torch.ops.aten.min.dim", &inputs, outputs);
            *network.recorded("low") = meta(&[B, 4, 1, 8]);
            *network.recorded("places") = meta(&[B, 4, 1, 8]);
            network.recorded("places")["dtype"] = json!(INT64);
        } else {
            network.node(operator, "low", &inputs, &[B, 4, 1, 8]);
        }
        network.pool_and_classify("low");
        let read = network.read().unwrap_or_else(|error| panic!("{operator}: {error}"));
        assert_eq!(read.description().operators[&format!("aten.{operator}")], 1);
    }
}

#[test]
fn conditions_are_not_to_become_float32() {
    let network = |operator: &str| {
        let mut network = Network::new();
        network.convolve();
        network.node("gt.Scalar", "positive", &[("self", tensor("conv")), ("other", int(0))], &[B, 4, 8, 8]);
        network.recorded("positive")["dtype"] = json!(BOOL);
        network.node(operator, "kept", &[("self", tensor("conv")), ("other", tensor("positive"))], &[B, 4, 8, 8]);
        network.pool_and_classify("kept");
        network
    };
    assert_eq!(network("div.Tensor").fault(), "node kept: computes with BOOL elements, and only float32 is supported");
    network("mul.Tensor").read().unwrap();
}

#[test]
fn operators_of_python_are_read_unless_they_overwrite() {
    let network = |operator: &str| {
        let mut network = Network::new();
        network.convolve();
        network.node("gt.Scalar", "positive", &[("self", tensor("conv")), ("other", int(0))], &[B, 4, 8, 8]);
        let inputs = [("self", tensor("positive")), ("other", tensor("positive"))];
        network.node(operator, "both", &inputs, &[B, 4, 8, 8]);
        for name in ["positive", "both"] {
            network.recorded(name)["dtype"] = json!(BOOL);
        }
        network.node("mul.Tensor", "kept", &[("self", tensor("conv")), ("other", tensor("both"))], &[B, 4, 8, 8]);
        network.pool_and_classify("kept");
        network
    };
    network("__and__.Tensor").read().unwrap();
    let fault = network("__iand__.Tensor").fault();
    assert!(fault.starts_with("operator aten.__iand__.Tensor: is not supported"), "{fault}");
}

#[test]
fn a_network_that_recomputes_activations_is_to_be_exported_without_that() {
    let mut network = Network::new();
    network.convolve();
    network.node("empty.memory_format", "state", &[("size", ints(&[0]))], &[0]);
    network.pool_and_classify("conv");
    let fault = network.fault();
    assert!(fault.starts_with("node state: has no elements. torch.utils.checkpoint makes such tensors"), "{fault}");
}
