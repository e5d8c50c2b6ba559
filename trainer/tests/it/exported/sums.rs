//! Einstein sums and distances compute what their definitions say: see [`super::operators`].

use serde_json::json;
use tch::{Kind, Tensor};

use super::operators::{Define, assert_computes};
use super::programs::{self, B, float, int, tensor};

/// A sum of the images and of parameters.
fn assert_sum(equation: &str, parameters: &[(&str, &[i64])], shape: &[i64], define: Define<'_>) {
    let build = |program: &mut programs::Network| {
        parameters.iter().for_each(|(key, shape)| program.parameter(key, shape));
        let names = std::iter::once("x").chain(parameters.iter().map(|(key, _)| *key));
        let tensors: Vec<_> = names.map(|name| json!({"name": name})).collect();
        let inputs = [("equation", json!({"as_string": equation})), ("tensors", json!({"as_tensors": tensors}))];
        program.node("einsum.default", "y", &inputs, shape);
        ("y", shape.to_vec())
    };
    assert_computes(equation, false, &build, define);
}

fn sum(x: &Tensor, dimensions: &[i64]) -> Tensor {
    x.sum_dim_intlist(dimensions, false, None::<Kind>)
}

#[test]
fn sums_of_two_tensors_and_of_dimensions_without_letters_are_computed_as_defined() {
    assert_sum("bchw,cd->bdhw", &[("w", &[3, 5])], &[B, 5, 8, 8], &|x, weights| {
        sum(&(x.unsqueeze(2) * weights["w"].view([1, 3, 5, 1, 1])), &[1])
    });
    assert_sum("bc...,cd->bd...", &[("w", &[3, 5])], &[B, 5, 8, 8], &|x, weights| {
        sum(&(x.unsqueeze(2) * weights["w"].view([1, 3, 5, 1, 1])), &[1])
    });
    assert_sum("...w,...w->...", &[("w", &[3, 1, 8])], &[B, 3, 8], &|x, weights| sum(&(x * &weights["w"]), &[3]));
}

#[test]
fn a_sum_of_three_tensors_is_that_of_all_their_products() {
    assert_sum("bchw,cd,hd->bwd", &[("w", &[3, 2]), ("v", &[8, 2])], &[B, 8, 2], &|x, weights| {
        let [w, v] = [weights["w"].view([1, 3, 1, 1, 2]), weights["v"].view([1, 1, 8, 1, 2])];
        sum(&(x.unsqueeze(4) * w * v), &[1, 2])
    });
}

#[test]
fn distances_from_vectors_that_are_trained() {
    let length = |x: &Tensor, order: f64| match order {
        1.0 => sum(&x.abs(), &[-1]),
        2.0 => sum(&x.square(), &[-1]).sqrt(),
        _ => x.abs().amax([-1], false),
    };
    for order in [1.0, 2.0, f64::INFINITY] {
        let number = if order.is_finite() { float(order) } else { json!({"as_float": "Infinity"}) };
        let build = |program: &mut programs::Network| {
            program.parameter("prototypes", &[5, 8]);
            program.node(
                "select.int",
                "rows",
                &[("self", tensor("x")), ("dim", int(1)), ("index", int(1))],
                &[B, 8, 8],
            );
            let inputs = [("x1", tensor("rows")), ("x2", tensor("prototypes")), ("p", number.clone())];
            program.node("cdist.default", "y", &inputs, &[B, 8, 5]);
            ("y", vec![B, 8, 5])
        };
        assert_computes("distances", false, &build, &|x, weights| {
            length(&(x.select(1, 1).unsqueeze(2) - &weights["prototypes"]), order)
        });
        let build = |program: &mut programs::Network| {
            program.parameter("centre", &[3, 8, 8]);
            let inputs = [("x1", tensor("x")), ("x2", tensor("centre")), ("p", number.clone()), ("eps", float(0.125))];
            program.node("pairwise_distance.default", "y", &inputs, &[B, 3, 8]);
            ("y", vec![B, 3, 8])
        };
        assert_computes("pairwise distances", false, &build, &|x, weights| {
            length(&(x - &weights["centre"] + 0.125), order)
        });
    }
}
