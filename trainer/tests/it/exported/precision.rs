//! Promise: in a bfloat16 body, what PyTorch computes in float32 is computed in float32.

use serde_json::json;
use tch::{Device, Kind, Tensor, no_grad};

use super::networks::{Layers, built, distance, images, pool, reordered, set_values};
use super::programs::{self, B, float, int, ints, tensor};

const MAP: [i64; 4] = [B, 3, 8, 8];

/// What a network does before it adds a large number to its images and takes it away again, of which bfloat16 leaves
/// nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Before {
    Nothing,
    /// Converts to float32.
    Conversion,
    /// Converts to float32 and back.
    Both,
}

fn program(before: Before) -> programs::Network {
    let mut program = programs::Network::new();
    let convert = |program: &mut programs::Network, name: &str, input: &str| {
        let inputs = [("self", tensor(input)), ("dtype", json!({"as_scalar_type": 7}))];
        program.node("to.dtype", name, &inputs, &MAP);
    };
    let start = match before {
        Before::Nothing => "x",
        Before::Conversion => {
            convert(&mut program, "wide", "x");
            "wide"
        }
        Before::Both => {
            convert(&mut program, "wide", "x");
            convert(&mut program, "narrow", "wide");
            "narrow"
        }
    };
    program.node("add.Tensor", "up", &[("self", tensor(start)), ("other", float(256.0))], &MAP);
    program.node("relu.default", "act", &[("self", tensor("up"))], &MAP);
    program.node("sub.Tensor", "down", &[("self", tensor("act")), ("other", float(256.0))], &MAP);
    program.node("flatten.using_ints", "logits", &[("self", tensor("down")), ("start_dim", int(1))], &[B, 192]);
    program.result("logits");
    program
}

#[test]
fn a_conversion_to_float32_keeps_what_bfloat16_would_lose() {
    let given = images().to_kind(Kind::Float);
    let whole = given.flatten(1, -1);
    for (before, is_kept) in [(Before::Nothing, false), (Before::Conversion, true), (Before::Both, false)] {
        let mut network = built(&program(before));
        network.place(Device::Cpu, Kind::Float);
        let exact = no_grad(|| network.logits(&given, false));
        assert!(distance(&exact, &whole) < 1e-4, "{before:?} in float32");
        network.compute_in(Kind::BFloat16);
        let frozen = no_grad(|| network.constant(Kind::BFloat16, 4, 8).logits(&given, false));
        for found in [no_grad(|| network.logits(&given, false)), no_grad(|| network.logits(&given, true)), frozen] {
            let off = distance(&found, &whole);
            // The images themselves are bfloat16.
            assert_eq!(off < 0.01, is_kept, "{before:?}: {off:e}");
        }
    }
}

#[test]
fn gradients_pass_conversions() {
    let mut network = built(&program(Before::Conversion));
    network.place(Device::Cpu, Kind::Float);
    network.compute_in(Kind::BFloat16);
    let given = images().to_kind(Kind::Float).set_requires_grad(true);
    network.logits(&given, true).sum(Kind::Float).backward();
    assert_eq!(given.grad(), Tensor::ones_like(&given));
}

#[test]
fn a_frozen_network_computes_what_depends_on_weights_alone_in_float32() {
    let mut program = programs::Network::new();
    let kernel = [4, 3, 3, 3];
    program.parameter("w.weight", &kernel);
    program.node("add.Tensor", "up", &[("self", tensor("w.weight")), ("other", float(256.0))], &kernel);
    program.node("sub.Tensor", "down", &[("self", tensor("up")), ("other", float(256.0))], &kernel);
    let inputs = [
        ("input", tensor("x")),
        ("weight", tensor("down")),
        ("bias", json!({"as_none": true})),
        ("stride", ints(&[1, 1])),
        ("padding", ints(&[1, 1])),
    ];
    let map = [B, 4, 8, 8];
    program.node("conv2d.default", "map", &inputs, &map);
    program.norm("n", "map", &map, true);
    program.node("relu.default", "act", &[("self", tensor("n"))], &map);
    pool(&mut program, "vector", "act", 4);
    program.result("vector");
    let mut network = built(&program);
    network.place(Device::Cpu, Kind::Float);
    set_values(&network);
    let given = images().to_kind(Kind::Float);
    let exact = no_grad(|| network.logits(&given, false));
    // In bfloat16, nothing of the kernel would be left.
    for kind in [Kind::Float, Kind::BFloat16] {
        let tolerance = reordered(kind);
        let off = distance(&no_grad(|| network.constant(kind, 4, 8).logits(&given, false)), &exact);
        assert!(off < tolerance, "{off:e} off in {kind:?}");
    }
}

#[test]
fn a_trained_exponent_is_not_rounded_to_bfloat16() {
    let mut program = programs::Network::new();
    program.parameter("p", &[1]);
    program.node("mul.Tensor", "none", &[("self", tensor("x")), ("other", float(0.0))], &MAP);
    program.node("add.Tensor", "base", &[("self", tensor("none")), ("other", float(1000.0))], &MAP);
    program.node("pow.Tensor_Tensor", "power", &[("self", tensor("base")), ("exponent", tensor("p"))], &MAP);
    program.node("flatten.using_ints", "logits", &[("self", tensor("power")), ("start_dim", int(1))], &[B, 192]);
    program.result("logits");
    let mut network = built(&program);
    network.place(Device::Cpu, Kind::Float);
    // The next number of bfloat16 gives results that are 4 % larger.
    network.set(0, &Tensor::from_slice(&[3.01_f32]));
    let given = images().to_kind(Kind::Float);
    let exact = Tensor::full([given.size()[0], 192], 1000_f64.powf(3.01), (Kind::Double, Device::Cpu));
    network.compute_in(Kind::BFloat16);
    let frozen = no_grad(|| network.constant(Kind::BFloat16, 4, 8).logits(&given, false));
    for found in [no_grad(|| network.logits(&given, false)), no_grad(|| network.logits(&given, true)), frozen] {
        let off = distance(&found, &exact);
        assert!(off < 0.01, "{off:e}");
    }
}
