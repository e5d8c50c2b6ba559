//! Every operator computes what its definition says, with its gradient. The definitions here are made of sums,
//! products, exponentials and indexing.

use std::ops::Index;

use distillery_trainer::models::Network;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor, no_grad};

use super::networks::{Layers, built, images, set_values, value};
use super::programs::{self, B, float, int, ints, tensor};
use crate::support::bounded::U;
use crate::support::rounding::Rounding;

/// Adds operators to a network whose images are `x` [B, 3, 8, 8]; returns the result's name and shape.
pub type Build<'a> = &'a dyn Fn(&mut programs::Network) -> (&'static str, Vec<i64>);
/// The same from the images and the weights.
pub type Define<'a> = &'a dyn Fn(&Tensor, &Weights) -> Tensor;

/// The weights of a network by their keys.
pub struct Weights(Vec<(String, Tensor)>);

impl Index<&str> for Weights {
    type Output = Tensor;

    fn index(&self, key: &str) -> &Tensor {
        let found = self.0.iter().find(|(known, _)| known == key);
        found.map(|(_, tensor)| tensor).unwrap_or_else(|| panic!("there is no {key}"))
    }
}

impl Weights {
    /// Copies in float64 that need gradients where the network trains.
    pub fn of(network: &Network) -> Self {
        let copy = |tensor: &Tensor, trained| tensor.detach().copy().to_kind(Kind::Double).set_requires_grad(trained);
        let weights = network.weights().iter();
        Self(weights.map(|weight| (weight.name.clone(), copy(&weight.tensor, weight.trained))).collect())
    }

    /// The same, moved by roundings.
    pub fn moved(network: &Network, rounding: Rounding) -> Self {
        let Self(mut copies) = Self::of(network);
        for (at, ((_, copy), weight)) in copies.iter_mut().zip(network.weights()).enumerate() {
            if weight.is_float {
                *copy = rounding.moved(copy, 100 + at).set_requires_grad(weight.trained);
            }
        }
        Self(copies)
    }
}

/// What a definition gives in float64 for numbers of a network: its values, and the gradients of its leaves.
struct Defined {
    values: Tensor,
    images: Tensor,
    weights: Weights,
}

impl Defined {
    /// `along`: the gradient of the values, by their shape.
    fn of(define: Define<'_>, images: &Tensor, weights: Weights, along: &dyn Fn(&[i64]) -> Tensor) -> Self {
        let images = images.detach().copy().to_kind(Kind::Double).set_requires_grad(true);
        let values = define(&images, &weights).flatten(1, -1);
        (&values * along(&values.size())).sum(Kind::Double).backward();
        Self { values, images, weights }
    }

    /// How many numbers go in and out: no sum has more terms.
    fn count(&self) -> i64 {
        let weights: usize = self.weights.0.iter().map(|(_, tensor)| tensor.numel()).sum();
        (self.images.numel() + weights + self.values.numel()) as i64
    }
}

/// A network of one kind, with values.
fn placed(program: &programs::Network, kind: Kind) -> Network {
    let mut network = built(program);
    network.place(Device::Cpu, kind);
    set_values(&network);
    network
}

/// Compares an operator with its definition: values and gradients in float64 and float32, and frozen in both.
pub fn assert_computes(name: &str, train: bool, build: Build<'_>, define: Define<'_>) {
    let mut program = programs::Network::new();
    let (result, shape) = build(&mut program);
    if shape.len() == 2 {
        program.result(result);
    } else {
        let flat = shape[1..].iter().product();
        let flatten = [("self", tensor(result)), ("start_dim", int(1))];
        program.node("flatten.using_ints", "logits", &flatten, &[B, flat]);
        program.result("logits");
    }
    for kind in [Kind::Double, Kind::Float] {
        let network = placed(&program, kind);
        let given = images().to_kind(kind).set_requires_grad(true);
        // The definition starts from the same numbers, rounded to the kind.
        let along = |size: &[i64]| value("direction", size, 7).to_kind(kind);
        let wanted = Defined::of(define, &given, Weights::of(&network), &|size| along(size).to_kind(Kind::Double));
        let rounding = Rounding::of(kind, wanted.count());
        let moved_weights = Weights::moved(&network, rounding);
        let moved =
            Defined::of(define, &rounding.moved(&given, 1), moved_weights, &|size| rounding.moved(&along(size), 2));
        let what = |part: &str| format!("{name} in {kind:?}{part}");
        let found = network.logits(&given, train);
        rounding.assert(&found, &wanted.values, &moved.values, &what(""));
        if !train {
            let frozen = no_grad(|| network.constant(kind, 4, 8).logits(&given, false));
            rounding.assert(&frozen, &wanted.values, &moved.values, &what(", frozen"));
        }
        (&found * along(&found.size())).sum(kind).backward();
        // PyTorch's slope of this one is 1/6 in single precision, whatever it computes in.
        let least = if name == "hardsigmoid.default" { U } else { 0.0 };
        let of_gradients = Rounding { relative: rounding.relative.max(least) };
        of_gradients.assert(
            &given.grad(),
            &wanted.images.grad(),
            &moved.images.grad(),
            &what(": the images' gradient"),
        );
        for weight in network.weights() {
            let key = weight.name.as_str();
            let [wanted, moved] = [&wanted.weights[key], &moved.weights[key]];
            if wanted.requires_grad() && wanted.grad().defined() {
                let [found, wanted, moved] = [&weight.tensor, wanted, moved].map(Tensor::grad);
                of_gradients.assert(&found, &wanted, &moved, &what(&format!(": the gradient of {key}")));
            }
        }
    }
}

/// An operator that keeps the shape of the images.
fn assert_function(operator: &'static str, more: &[(&'static str, Value)], define: &dyn Fn(&Tensor) -> Tensor) {
    let shape = [B, 3, 8, 8];
    let build = |program: &mut programs::Network| {
        let inputs: Vec<_> = [("self", tensor("x"))].into_iter().chain(more.iter().cloned()).collect();
        program.node(operator, "y", &inputs, &shape);
        ("y", shape.to_vec())
    };
    assert_computes(operator, false, &build, &|x, _| define(x));
}

pub fn mean(x: &Tensor, dimensions: &[i64]) -> Tensor {
    x.mean_dim(dimensions, true, None::<Kind>)
}

fn sigmoid(x: &Tensor) -> Tensor {
    (-x).exp().g_add_scalar(1.0).reciprocal()
}

pub fn softmax(x: &Tensor, dimension: i64) -> Tensor {
    x.exp() / x.exp().sum_dim_intlist([dimension].as_slice(), true, None::<Kind>)
}

#[test]
fn functions_of_elements_are_computed_as_defined() {
    let six = |x: &Tensor| (x + 3.0).clamp(0.0, 6.0) / 6.0;
    // Between their limits and beyond: images are between -1 and 1.
    assert_function("relu.default", &[], &|x| x.clamp_min(0.0));
    assert_function("relu6.default", &[], &|x| x.clamp(0.0, 6.0));
    assert_function("hardtanh.default", &[("min_val", float(-0.5)), ("max_val", float(0.25))], &|x| {
        x.clamp(-0.5, 0.25)
    });
    assert_function("hardtanh.default", &[], &|x| x.clamp(-1.0, 1.0));
    assert_function("hardswish.default", &[], &|x| x * six(x));
    assert_function("hardsigmoid.default", &[], &|x| six(x));
    assert_function("silu.default", &[], &|x| x * sigmoid(x));
    assert_function("sigmoid.default", &[], &sigmoid);
    assert_function("tanh.default", &[], &|x| (x.exp() - (-x).exp()) / (x.exp() + (-x).exp()));
    assert_function("gelu.default", &[], &|x| x * ((x / 2_f64.sqrt()).erf() + 1.0) * 0.5);
    let by_tanh = |x: &Tensor| {
        let inner = (x + x * x * x * 0.044715) * (2.0 / std::f64::consts::PI).sqrt();
        x * (inner.tanh() + 1.0) * 0.5
    };
    assert_function("gelu.default", &[("approximate", json!({"as_string": "tanh"}))], &by_tanh);
    assert_function("softmax.int", &[("dim", int(-3))], &|x| softmax(x, 1));
    assert_function("contiguous.default", &[], &Tensor::shallow_clone);
}

#[test]
fn arithmetic_with_numbers_and_tensors_is_computed_as_defined() {
    assert_function("add.Tensor", &[("other", float(1.5))], &|x| x + 1.5);
    assert_function("sub.Tensor", &[("other", int(2))], &|x| x - 2.0);
    assert_function("mul.Tensor", &[("other", float(-0.5))], &|x| x * -0.5);
    assert_function("div.Tensor", &[("other", float(4.0))], &|x| x / 4.0);
    type Combine = fn(&Tensor, &Tensor) -> Tensor;
    let operators: [(&str, Combine); 4] = [
        ("add.Tensor", |x, y| x + y),
        ("sub.Tensor", |x, y| x - y),
        ("mul.Tensor", |x, y| x * y),
        ("div.Tensor", |x, y| x / (y + 2.0)),
    ];
    for (operator, combine) in operators {
        // With a weight that is repeated along two dimensions.
        let build = |program: &mut programs::Network| {
            program.parameter("scales", &[3, 1, 8]);
            let other = if operator == "div.Tensor" {
                program.node("add.Tensor", "away", &[("self", tensor("scales")), ("other", float(2.0))], &[3, 1, 8]);
                "away"
            } else {
                "scales"
            };
            program.node(operator, "y", &[("self", tensor("x")), ("other", tensor(other))], &[B, 3, 8, 8]);
            ("y", vec![B, 3, 8, 8])
        };
        assert_computes(operator, false, &build, &|x, weights| combine(x, &weights["scales"]));
    }
    // A value with itself, and with another that is made later.
    let build = |program: &mut programs::Network| {
        program.conv("c", "x", [3, 3, 3], 8);
        program.norm("n", "c", &[B, 3, 8, 8], false);
        program.node("add_.Tensor", "twice", &[("self", tensor("n")), ("other", tensor("n"))], &[B, 3, 8, 8]);
        program.node("add.Tensor", "y", &[("self", tensor("x")), ("other", tensor("twice"))], &[B, 3, 8, 8]);
        ("y", vec![B, 3, 8, 8])
    };
    let define = |x: &Tensor, weights: &Weights| {
        let normal = running_norm(&convolve(x, &weights["c.weight"], [1, 1], [1, 1], [1, 1], 1), weights);
        x + &normal + &normal
    };
    assert_computes("a sum of a value with itself", false, &build, &define);
}

/// A convolution as a sum over the kernel's pixels.
fn convolve(
    x: &Tensor,
    weight: &Tensor,
    stride: [i64; 2],
    padding: [i64; 2],
    dilation: [i64; 2],
    groups: i64,
) -> Tensor {
    let padded = x.constant_pad_nd([padding[1], padding[1], padding[0], padding[0]]);
    let (outputs, inputs) = (weight.size()[0], weight.size()[1]);
    let kernel = [weight.size()[2], weight.size()[3]];
    let sides =
        [0, 1].map(|side| (padded.size()[2 + side] - dilation[side] * (kernel[side] - 1) - 1) / stride[side] + 1);
    let parts: Vec<Tensor> = (0..groups)
        .map(|group| {
            let own = weight.narrow(0, group * outputs / groups, outputs / groups);
            let channels = padded.narrow(1, group * inputs, inputs);
            let mut sum =
                Tensor::zeros([x.size()[0], outputs / groups, sides[0], sides[1]], (Kind::Double, Device::Cpu));
            for row in 0..kernel[0] {
                for column in 0..kernel[1] {
                    let (top, left) = (row * dilation[0], column * dilation[1]);
                    let seen = channels.slice(2, top, top + (sides[0] - 1) * stride[0] + 1, stride[0]).slice(
                        3,
                        left,
                        left + (sides[1] - 1) * stride[1] + 1,
                        stride[1],
                    );
                    let factors = own.select(3, column).select(2, row);
                    sum += seen.permute([0, 2, 3, 1]).matmul(&factors.tr()).permute([0, 3, 1, 2]);
                }
            }
            sum
        })
        .collect();
    Tensor::cat(&parts, 1)
}

/// The batch norm `n` with its running statistics.
fn running_norm(x: &Tensor, weights: &Weights) -> Tensor {
    let [scale, shift, mean, variance] = ["weight", "bias", "running_mean", "running_var"]
        .map(|part| weights[format!("n.{part}").as_str()].view([1, -1, 1, 1]));
    (x - mean) / (variance + 1e-3).sqrt() * scale + shift
}

#[test]
fn convolutions_with_every_geometry_are_computed_as_defined() {
    // Stride, padding, dilation, groups, kernel, outputs, and the size of the result.
    type Geometry = ([i64; 2], [i64; 2], [i64; 2], i64, [i64; 2], i64, [i64; 2]);
    let geometries: [Geometry; 8] = [
        ([1, 1], [1, 1], [1, 1], 1, [3, 3], 5, [8, 8]),
        ([2, 1], [0, 2], [1, 1], 1, [3, 2], 4, [3, 11]),
        ([1, 1], [2, 2], [2, 2], 1, [3, 3], 4, [8, 8]),
        ([1, 1], [1, 1], [1, 1], 3, [3, 3], 6, [8, 8]),
        ([2, 2], [2, 2], [1, 1], 3, [5, 5], 3, [4, 4]),
        ([2, 2], [0, 0], [3, 1], 3, [2, 1], 3, [3, 4]),
        // oneDNN's gradient of such a weight is wrong.
        ([2, 2], [0, 0], [1, 1], 1, [1, 1], 48, [4, 4]),
        ([3, 1], [0, 0], [1, 1], 1, [1, 1], 16, [3, 8]),
    ];
    for (stride, padding, dilation, groups, kernel, outputs, [height, width]) in geometries {
        let shape = vec![B, outputs, height, width];
        let build = |program: &mut programs::Network| {
            program.parameter("c.weight", &[outputs, 3 / groups, kernel[0], kernel[1]]);
            program.parameter("c.bias", &[outputs]);
            let arguments = [
                ("input", tensor("x")),
                ("weight", tensor("c.weight")),
                ("bias", tensor("c.bias")),
                ("stride", ints(&stride)),
                ("padding", ints(&padding)),
                ("dilation", ints(&dilation)),
                ("groups", int(groups)),
            ];
            program.node("conv2d.default", "y", &arguments, &shape);
            ("y", shape.clone())
        };
        let define = |x: &Tensor, weights: &Weights| {
            convolve(x, &weights["c.weight"], stride, padding, dilation, groups) + weights["c.bias"].view([1, -1, 1, 1])
        };
        assert_computes(&format!("convolution {stride:?} {padding:?} {dilation:?} {groups}"), false, &build, &define);
    }
}

#[test]
fn a_convolution_whose_weight_is_computed() {
    let build = |program: &mut programs::Network| {
        program.parameter("c.weight", &[4, 3, 3, 3]);
        program.parameter("gain", &[4, 1, 1, 1]);
        let product = [("self", tensor("c.weight")), ("other", tensor("gain"))];
        program.node("mul.Tensor", "w", &product, &[4, 3, 3, 3]);
        let arguments = [("input", tensor("x")), ("weight", tensor("w")), ("padding", ints(&[1, 1]))];
        program.node("conv2d.default", "c", &arguments, &[B, 4, 8, 8]);
        program.norm("n", "c", &[B, 4, 8, 8], false);
        program.node("relu.default", "y", &[("self", tensor("n"))], &[B, 4, 8, 8]);
        ("y", vec![B, 4, 8, 8])
    };
    let define = |x: &Tensor, weights: &Weights| {
        let made = convolve(x, &(&weights["c.weight"] * &weights["gain"]), [1, 1], [1, 1], [1, 1], 1);
        running_norm(&made, weights).clamp_min(0.0)
    };
    assert_computes("a computed weight", false, &build, &define);
}

#[test]
fn fused_convolutions_norms_sums_and_relus() {
    let shape = [B, 3, 8, 8];
    // Sums with the convolution's own input and with views, which the sum must not overwrite.
    for added in ["x", "first", "rolled"] {
        let build = |program: &mut programs::Network| {
            program.conv("a", "x", [3, 3, 3], 8);
            program.node("relu.default", "first", &[("self", tensor("a"))], &shape);
            program.node(
                "permute.default",
                "turned",
                &[("self", tensor("first")), ("dims", ints(&[0, 1, 3, 2]))],
                &shape,
            );
            let roll = [("self", tensor("turned")), ("shifts", ints(&[1])), ("dims", ints(&[2]))];
            program.node("roll.default", "rolled", &roll, &shape);
            program.conv("b", "first", [3, 3, 1], 8);
            program.norm("n", "b", &shape, false);
            program.node("add.Tensor", "sum", &[("self", tensor("n")), ("other", tensor(added))], &shape);
            program.node("relu.default", "act", &[("self", tensor("sum"))], &shape);
            program.node("add.Tensor", "y", &[("self", tensor("act")), ("other", tensor("turned"))], &shape);
            ("y", shape.to_vec())
        };
        let define = |x: &Tensor, weights: &Weights| {
            let first = convolve(x, &weights["a.weight"], [1, 1], [1, 1], [1, 1], 1).clamp_min(0.0);
            let turned = first.transpose(2, 3);
            let rolled = Tensor::cat(&[turned.narrow(2, 7, 1), turned.narrow(2, 0, 7)], 2);
            let normal = running_norm(&convolve(&first, &weights["b.weight"], [1, 1], [0, 0], [1, 1], 1), weights);
            let other = match added {
                "x" => x.shallow_clone(),
                "first" => first.shallow_clone(),
                _ => rolled,
            };
            (normal + other).clamp_min(0.0) + turned
        };
        assert_computes(&format!("a sum with {added}"), false, &build, &define);
    }
}
