//! Further functions compute what their definitions say: see [`super::operators`].

use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};

use super::operators::{Weights, assert_computes, softmax};
use super::programs::{self, B, flag, float, int, ints, tensor};

const SHAPE: [i64; 4] = [B, 3, 8, 8];

/// A function of positive numbers: of x² + ½.
fn assert_of_positive(operator: &'static str, more: &[(&'static str, Value)], define: &dyn Fn(&Tensor) -> Tensor) {
    let build = |program: &mut programs::Network| {
        program.node("mul.Tensor", "s", &[("self", tensor("x")), ("other", tensor("x"))], &SHAPE);
        program.node("add.Tensor", "p", &[("self", tensor("s")), ("other", float(0.5))], &SHAPE);
        let inputs: Vec<_> = [("self", tensor("p"))].into_iter().chain(more.iter().cloned()).collect();
        program.node(operator, "y", &inputs, &SHAPE);
        ("y", SHAPE.to_vec())
    };
    assert_computes(operator, false, &build, &|x, _| define(&(x * x + 0.5)));
}

/// A function of the images with a result of that shape.
fn assert_of_images(
    operator: &'static str,
    more: &[(&'static str, Value)],
    shape: &[i64],
    define: &dyn Fn(&Tensor) -> Tensor,
) {
    let build = |program: &mut programs::Network| {
        let inputs: Vec<_> = [("self", tensor("x"))].into_iter().chain(more.iter().cloned()).collect();
        program.node(operator, "y", &inputs, shape);
        ("y", shape.to_vec())
    };
    assert_computes(operator, false, &build, &|x, _| define(x));
}

/// One where x > 0, else zero.
fn is_positive(x: &Tensor) -> Tensor {
    x.gt(0.0).to_kind(Kind::Double)
}

fn either(x: &Tensor, positive: Tensor, negative: Tensor) -> Tensor {
    let one = is_positive(x);
    &one * positive + (one * -1.0 + 1.0) * negative
}

#[test]
fn functions_that_bend_at_zero_are_computed_as_defined() {
    assert_of_images("leaky_relu.default", &[("negative_slope", float(0.2))], &SHAPE, &|x| {
        either(x, x.shallow_clone(), x * 0.2)
    });
    let elu = |alpha: f64, scale: f64, input_scale: f64| {
        move |x: &Tensor| either(x, x * scale, ((x * input_scale).exp() - 1.0) * (alpha * scale))
    };
    assert_of_images("elu.default", &[("alpha", float(1.5))], &SHAPE, &elu(1.5, 1.0, 1.0));
    assert_of_images("celu.default", &[("alpha", float(0.5))], &SHAPE, &elu(0.5, 1.0, 2.0));
    assert_of_images("selu.default", &[], &SHAPE, &elu(1.673_263_242_354_377_2, 1.050_700_987_355_480_5, 1.0));
    let softplus = [("beta", float(2.0)), ("threshold", float(1.0))];
    assert_of_images("softplus.default", &softplus, &SHAPE, &|x| {
        let is_straight = (x * 2.0).gt(1.0).to_kind(Kind::Double);
        &is_straight * x + (is_straight * -1.0 + 1.0) * ((x * 2.0).exp() + 1.0).log() / 2.0
    });
    let build = |program: &mut programs::Network| {
        program.parameter("slopes", &[3]);
        program.node("prelu.default", "y", &[("self", tensor("x")), ("weight", tensor("slopes"))], &SHAPE);
        ("y", SHAPE.to_vec())
    };
    let define = |x: &Tensor, weights: &Weights| either(x, x.shallow_clone(), x * weights["slopes"].view([3, 1, 1]));
    assert_computes("prelu", false, &build, &define);
}

#[test]
fn powers_exponentials_and_logarithms_are_computed_as_defined() {
    assert_of_images("exp.default", &[], &SHAPE, &Tensor::exp);
    assert_of_images("erf.default", &[], &SHAPE, &Tensor::erf);
    assert_of_images("abs.default", &[], &SHAPE, &|x| either(x, x.shallow_clone(), -x));
    assert_of_images("pow.Tensor_Scalar", &[("exponent", int(3))], &SHAPE, &|x| x * x * x);
    assert_of_images("expm1.default", &[], &SHAPE, &|x| x.exp() - 1.0);
    assert_of_images("exp2.default", &[], &SHAPE, &|x| (x * std::f64::consts::LN_2).exp());
    assert_of_positive("log.default", &[], &Tensor::log);
    assert_of_positive("log1p.default", &[], &|x| (x + 1.0).log());
    assert_of_positive("log2.default", &[], &|x| x.log() / std::f64::consts::LN_2);
    assert_of_positive("log10.default", &[], &|x| x.log() / std::f64::consts::LN_10);
    assert_of_positive("sqrt.default", &[], &|x| (x.log() * 0.5).exp());
    assert_of_positive("rsqrt.default", &[], &|x| (x.log() * -0.5).exp());
    assert_of_positive("reciprocal.default", &[], &|x| (x.log() * -1.0).exp());
    assert_of_positive("pow.Tensor_Scalar", &[("exponent", float(-0.75))], &|x| (x.log() * -0.75).exp());
    assert_of_images("log_softmax.int", &[("dim", int(1))], &SHAPE, &|x| softmax(x, 1).log());
}

#[test]
fn extremes_and_lengths_are_computed_as_defined() {
    let over_positions = |x: &Tensor| x.flatten(2, 3);
    let largest = |x: &Tensor| over_positions(x).sort(2, true).0.select(2, 0);
    assert_of_images("amax.default", &[("dim", ints(&[2, 3]))], &[B, 3], &largest);
    let smallest = |x: &Tensor| over_positions(x).sort(2, false).0.select(2, 0);
    assert_of_images("amin.default", &[("dim", ints(&[2, 3]))], &[B, 3], &smallest);
    let length = |x: &Tensor| (x * x).sum_dim_intlist([1_i64].as_slice(), true, None::<Kind>).sqrt();
    let over_channels = [("dim", ints(&[1])), ("keepdim", flag(true))];
    assert_of_images("linalg_vector_norm.default", &over_channels, &[B, 1, 8, 8], &length);
    for (operator, sign) in [("maximum.default", 1.0), ("minimum.default", -1.0)] {
        let build = |program: &mut programs::Network| {
            program.parameter("limits", &[8]);
            program.node(operator, "y", &[("self", tensor("x")), ("other", tensor("limits"))], &SHAPE);
            ("y", SHAPE.to_vec())
        };
        let define = |x: &Tensor, weights: &Weights| {
            let is_chosen = ((x - &weights["limits"]) * sign).gt(0.0).to_kind(Kind::Double);
            &is_chosen * x + (is_chosen * -1.0 + 1.0) * &weights["limits"]
        };
        assert_computes(operator, false, &build, &define);
    }
}

#[test]
fn a_condition_chooses_between_two_tensors() {
    let is_seen = |at: usize| at.is_multiple_of(3);
    let build = |program: &mut programs::Network| {
        program.buffer("condition", &[8, 8]);
        program.weights["config"]["condition"]["tensor_meta"]["dtype"] = json!(12);
        program.recorded("condition")["dtype"] = json!(12);
        program.files.last_mut().unwrap().1 = (0..64).map(|at| u8::from(is_seen(at))).collect();
        program.parameter("other", &[3, 1, 1]);
        let inputs = [("condition", tensor("condition")), ("self", tensor("x")), ("other", tensor("other"))];
        program.node("where.self", "y", &inputs, &SHAPE);
        ("y", SHAPE.to_vec())
    };
    let define = |x: &Tensor, weights: &Weights| {
        let seen: Vec<f64> = (0..64).map(|at| f64::from(u8::from(is_seen(at)))).collect();
        let seen = Tensor::from_slice(&seen).view([8, 8]);
        &seen * x + (&seen * -1.0 + 1.0) * &weights["other"]
    };
    assert_computes("where", false, &build, &define);
}

/// x to the power of p + 3, for a trained p of each channel.
fn trained_power(program: &mut programs::Network, input: &'static str) -> (&'static str, Vec<i64>) {
    program.parameter("p", &[3, 1, 1]);
    program.node("add.Tensor", "exponent", &[("self", tensor("p")), ("other", float(3.0))], &[3, 1, 1]);
    program.node("pow.Tensor_Tensor", "y", &[("self", tensor(input)), ("exponent", tensor("exponent"))], &SHAPE);
    ("y", SHAPE.to_vec())
}

#[test]
fn exponents_may_be_trained() {
    let build = |program: &mut programs::Network| {
        program.node("exp.default", "e", &[("self", tensor("x"))], &SHAPE);
        trained_power(program, "e")
    };
    assert_computes("trained power", false, &build, &|x, weights| (x * (&weights["p"] + 3.0)).exp());
    let build = |program: &mut programs::Network| {
        program.node("pow.Scalar", "y", &[("self", float(1.75)), ("exponent", tensor("x"))], &SHAPE);
        ("y", SHAPE.to_vec())
    };
    assert_computes("power of a number", false, &build, &|x, _| (x * 1.75_f64.ln()).exp());
}

#[test]
fn the_gradient_of_a_power_of_zero_is_zero() {
    let build = |program: &mut programs::Network| {
        program.node("relu.default", "act", &[("self", tensor("x"))], &SHAPE);
        trained_power(program, "act")
    };
    // Where x is not positive, that of 1, times zero.
    assert_computes("power of zero", false, &build, &|x, weights| {
        let holds = is_positive(x);
        let base = x * &holds + (&holds * -1.0 + 1.0);
        (base.log() * (&weights["p"] + 3.0)).exp() * holds
    });
}

#[test]
fn logarithms_of_sums_of_exponentials_do_not_overflow() {
    let inputs = [("dim", ints(&[1, 3])), ("keepdim", flag(true))];
    assert_of_images("logsumexp.default", &inputs, &[B, 1, 8, 1], &|x| {
        x.exp().sum_dim_intlist([1_i64, 3].as_slice(), true, None::<Kind>).log()
    });
    let build = |program: &mut programs::Network| {
        program.node("mul.Tensor", "large", &[("self", tensor("x")), ("other", float(1024.0))], &SHAPE);
        program.node("logsumexp.default", "y", &[("self", tensor("large")), ("dim", ints(&[-1]))], &[B, 3, 8]);
        ("y", vec![B, 3, 8])
    };
    assert_computes("large logsumexp", false, &build, &|x, _| {
        let largest = x.amax([3], true);
        ((x - &largest) * 1024.0).exp().sum_dim_intlist([3_i64].as_slice(), false, None::<Kind>).log()
            + largest.squeeze_dim(3) * 1024.0
    });
}

#[test]
fn running_sums_add_what_came_before() {
    assert_of_images("cumsum.default", &[("dim", int(-2))], &SHAPE, &|x| {
        let is_before = Tensor::ones([8, 8], (Kind::Double, Device::Cpu)).tril(0);
        is_before.matmul(x)
    });
}

#[test]
fn cosines_of_images_and_of_the_directions_of_classes_are_computed_as_defined() {
    let build = |program: &mut programs::Network| {
        program.parameter("classes", &[5, 8]);
        program.node("select.int", "row", &[("self", tensor("x")), ("dim", int(1)), ("index", int(0))], &[B, 8, 8]);
        program.node("select.int", "vector", &[("self", tensor("row")), ("dim", int(1)), ("index", int(2))], &[B, 8]);
        program.node("unsqueeze.default", "each", &[("self", tensor("vector")), ("dim", int(1))], &[B, 1, 8]);
        let inputs = [("x1", tensor("each")), ("x2", tensor("classes")), ("dim", int(-1))];
        program.node("cosine_similarity.default", "y", &inputs, &[B, 5]);
        ("y", vec![B, 5])
    };
    let length = |x: &Tensor| x.square().sum_dim_intlist([-1_i64].as_slice(), true, None::<Kind>).sqrt();
    assert_computes("cosines of classes", false, &build, &|x, weights| {
        let vectors = x.select(1, 0).select(1, 2);
        let classes = &weights["classes"];
        (&vectors / length(&vectors)).matmul(&(classes / length(classes)).transpose(0, 1))
    });
    // Short vectors are divided by `eps`, and a dimension of one element is broadcast.
    let build = |program: &mut programs::Network| {
        let slice = [("self", tensor("x")), ("dim", int(3)), ("start", int(1)), ("end", int(2))];
        program.node("slice.Tensor", "one", &slice, &[B, 3, 8, 1]);
        program.node("mul.Tensor", "short", &[("self", tensor("one")), ("other", float(0.25))], &[B, 3, 8, 1]);
        let inputs = [("x1", tensor("x")), ("x2", tensor("short")), ("dim", int(3)), ("eps", float(0.125))];
        program.node("cosine_similarity.default", "y", &inputs, &[B, 3, 8]);
        ("y", vec![B, 3, 8])
    };
    assert_computes("cosines of broadcast vectors", false, &build, &|x, _| {
        let short = (x.slice(3, 1, 2, 1) * 0.25).expand([4, 3, 8, 8], false);
        // PyTorch's gradient passes the limit.
        let direction = |x: &Tensor| {
            let own = length(x);
            x / (&own + (own.detach().clamp_min(0.125) - own.detach()))
        };
        (direction(x) * direction(&short)).sum_dim_intlist([3_i64].as_slice(), false, None::<Kind>)
    });
}

#[test]
fn signs_and_waves_are_computed_as_defined() {
    assert_of_images("sign.default", &[], &SHAPE, &|x| is_positive(x) * 2.0 - 1.0 + x * 0.0);
    assert_of_images("sin.default", &[], &SHAPE, &|x| (x - std::f64::consts::FRAC_PI_2).cos());
    assert_of_images("cos.default", &[], &SHAPE, &|x| (x + std::f64::consts::FRAC_PI_2).sin());
}

/// A deviation over the last two dimensions.
fn deviation(program: &mut programs::Network, input: &'static str) -> (&'static str, Vec<i64>) {
    let inputs = [("self", tensor(input)), ("dim", ints(&[2, 3])), ("correction", int(1)), ("keepdim", flag(true))];
    program.node("std.correction", "y", &inputs, &[B, 3, 1, 1]);
    ("y", vec![B, 3, 1, 1])
}

#[test]
fn deviations_of_equal_elements_have_no_gradient() {
    let spread = |x: &Tensor| {
        let centred = x - x.mean_dim([2_i64, 3].as_slice(), true, None::<Kind>);
        centred.square().sum_dim_intlist([2_i64, 3].as_slice(), true, None::<Kind>) / 63.0
    };
    assert_computes("deviation", false, &|program| deviation(program, "x"), &|x, _| spread(x).sqrt());
    let build = |program: &mut programs::Network| {
        // Nothing of the images is above 2.
        program.node("sub.Tensor", "low", &[("self", tensor("x")), ("other", float(2.0))], &SHAPE);
        program.node("relu.default", "dead", &[("self", tensor("low"))], &SHAPE);
        program.node("add.Tensor", "some", &[("self", tensor("dead")), ("other", tensor("x"))], &SHAPE);
        deviation(program, "dead");
        program.node("mul.Tensor", "product", &[("self", tensor("y")), ("other", tensor("some"))], &SHAPE);
        program.node("add.Tensor", "sum", &[("self", tensor("product")), ("other", tensor("some"))], &SHAPE);
        ("sum", SHAPE.to_vec())
    };
    assert_computes("deviation of zeros", false, &build, &|x, _| x.shallow_clone());
}

#[test]
fn a_deviation_comes_with_its_mean_if_that_is_asked_for() {
    let build = |program: &mut programs::Network| {
        let inputs = [("self", tensor("x")), ("dim", ints(&[3])), ("correction", float(2.0)), ("keepdim", flag(true))];
        let outputs = json!([tensor("spread"), tensor("centre")]);
        program.bare_node("torch.ops.aten.std_mean.correction", &inputs, outputs);
        ["spread", "centre"].iter().for_each(|name| *program.recorded(name) = programs::meta(&[B, 3, 8, 1]));
        program.node("mul.Tensor", "y", &[("self", tensor("spread")), ("other", tensor("centre"))], &[B, 3, 8, 1]);
        ("y", vec![B, 3, 8, 1])
    };
    assert_computes("deviation and mean", false, &build, &|x, _| {
        let centre = x.mean_dim([3_i64].as_slice(), true, None::<Kind>);
        let squares = (x - &centre).square().sum_dim_intlist([3_i64].as_slice(), true, None::<Kind>);
        (squares / 6.0).sqrt() * centre
    });
}
