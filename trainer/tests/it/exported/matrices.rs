//! Matrices, and what is made of whole weights, compute what their definitions say: see [`super::operators`].

use serde_json::json;
use tch::{Device, Kind, Tensor};

use super::operators::assert_computes;
use super::programs::{self, B, flag, float, int, ints, tensor};

const SHAPE: [i64; 4] = [B, 3, 8, 8];

#[test]
fn triangles_leave_zeros() {
    for (operator, diagonal) in [("tril.default", 0), ("tril.default", -2), ("triu.default", 1)] {
        let build = |program: &mut programs::Network| {
            let inputs = [("self", tensor("x")), ("diagonal", int(diagonal))];
            program.node(operator, "y", &inputs, &SHAPE);
            ("y", SHAPE.to_vec())
        };
        assert_computes(operator, false, &build, &|x, _| {
            let ones = Tensor::ones([8, 8], (Kind::Double, Device::Cpu));
            x * if operator == "tril.default" { ones.tril(diagonal) } else { ones.triu(diagonal) }
        });
    }
}

#[test]
fn products_of_vectors_are_matrices_and_numbers() {
    let build = |program: &mut programs::Network| {
        program.parameter("u", &[8]);
        program.parameter("v", &[8]);
        program.parameter("w", &[8, 8]);
        program.node("outer.default", "outer", &[("self", tensor("u")), ("vec2", tensor("v"))], &[8, 8]);
        program.node("dot.default", "dot", &[("self", tensor("u")), ("tensor", tensor("v"))], &[]);
        program.node("numpy_T.default", "turned", &[("self", tensor("w"))], &[8, 8]);
        let inputs = [("self", tensor("outer")), ("other", tensor("turned"))];
        program.node("add.Tensor", "sum", &inputs, &[8, 8]);
        program.node("matmul.default", "product", &[("self", tensor("x")), ("other", tensor("sum"))], &SHAPE);
        program.node("mul.Tensor", "y", &[("self", tensor("product")), ("other", tensor("dot"))], &SHAPE);
        ("y", SHAPE.to_vec())
    };
    assert_computes("products of vectors", false, &build, &|x, weights| {
        let (u, v) = (&weights["u"], &weights["v"]);
        let matrix = u.view([8, 1]) * v + weights["w"].transpose(0, 1);
        x.matmul(&matrix) * (u * v).sum(Kind::Double)
    });
}

#[test]
fn a_weight_is_scaled_by_what_all_its_elements_are() {
    let build = |program: &mut programs::Network| {
        program.parameter("w", &[8, 8]);
        let mut previous = "x";
        for (operator, whole, scaled) in [
            ("mean.default", "mean", "by_mean"),
            ("sum.default", "sum", "by_sum"),
            ("max.default", "max", "by_max"),
            ("min.default", "min", "by_min"),
            ("std.default", "std", "by_std"),
            ("linalg_norm.default", "norm", "by_norm"),
        ] {
            program.node(operator, whole, &[("self", tensor("w"))], &[]);
            program.node("mul.Tensor", scaled, &[("self", tensor(previous)), ("other", tensor(whole))], &SHAPE);
            previous = scaled;
        }
        (previous, SHAPE.to_vec())
    };
    assert_computes("scales", false, &build, &|x, weights| {
        let w = weights["w"].flatten(0, -1);
        let sorted = w.sort(0, false).0;
        let squares = (&w - w.mean(Kind::Double)).square().sum(Kind::Double);
        let norm = w.square().sum(Kind::Double).sqrt();
        x * w.mean(Kind::Double)
            * w.sum(Kind::Double)
            * sorted.select(0, 63)
            * sorted.select(0, 0)
            * (squares / 63.0).sqrt()
            * norm
    });
}

#[test]
fn a_norm_may_name_its_order_and_its_dimension() {
    let build = |program: &mut programs::Network| {
        let inputs = [("self", tensor("x")), ("ord", int(1)), ("dim", ints(&[1])), ("keepdim", flag(true))];
        program.node("linalg_norm.default", "y", &inputs, &[B, 1, 8, 8]);
        ("y", vec![B, 1, 8, 8])
    };
    assert_computes("norm of order 1", false, &build, &|x, _| {
        x.abs().sum_dim_intlist([1_i64].as_slice(), true, None::<Kind>)
    });
}

#[test]
fn mixtures_and_quotients_are_added() {
    let build = |program: &mut programs::Network| {
        program.parameter("share", &[3, 1, 1]);
        program.node("sigmoid.default", "gate", &[("self", tensor("x"))], &SHAPE);
        let inputs = [("self", tensor("x")), ("end", tensor("gate")), ("weight", tensor("share"))];
        program.node("lerp.Tensor", "mixed", &inputs, &SHAPE);
        let inputs =
            [("self", tensor("mixed")), ("tensor1", tensor("x")), ("tensor2", tensor("gate")), ("value", float(0.25))];
        program.node("addcdiv.default", "added", &inputs, &SHAPE);
        let tensors = json!({"as_tensors": [{"name": "added"}, {"name": "x"}]});
        program.node("hstack.default", "y", &[("tensors", tensors)], &[B, 6, 8, 8]);
        ("y", vec![B, 6, 8, 8])
    };
    assert_computes("mixtures", false, &build, &|x, weights| {
        let gate = x.sigmoid();
        let mixed = x + &weights["share"] * (&gate - x);
        Tensor::cat(&[mixed + x / gate * 0.25, x.shallow_clone()], 1)
    });
}

#[test]
fn places_of_largest_elements_may_be_left_unused() {
    let build = |program: &mut programs::Network| {
        let outputs = json!([tensor("y"), tensor("places")]);
        let inputs = [("self", tensor("x")), ("kernel_size", ints(&[2, 2])), ("stride", ints(&[2, 2]))];
        program.bare_node("torch.ops.aten.max_pool2d_with_indices.default", &inputs, outputs);
        ["y", "places"].iter().for_each(|name| *program.recorded(name) = programs::meta(&[B, 3, 4, 4]));
        program.recorded("places")["dtype"] = json!(5);
        ("y", vec![B, 3, 4, 4])
    };
    assert_computes("pooling with places", false, &build, &|x, _| x.reshape([4, 3, 4, 2, 4, 2]).amax([3, 5], false));
}

#[test]
fn sums_over_named_dimensions_of_two_tensors_are_computed_as_defined() {
    let build = |program: &mut programs::Network| {
        program.parameter("w", &[8, 3, 5]);
        program.parameter("v", &[8, 5]);
        let dimensions = [("dims_self", ints(&[3, 1])), ("dims_other", ints(&[0, -2]))];
        let inputs = [&[("self", tensor("x")), ("other", tensor("w"))], dimensions.as_slice()].concat();
        program.node("tensordot.default", "sums", &inputs, &[B, 8, 5]);
        program.node("inner.default", "y", &[("self", tensor("sums")), ("other", tensor("v"))], &[B, 8, 8]);
        ("y", vec![B, 8, 8])
    };
    assert_computes("sums of products", false, &build, &|x, weights| {
        // [B, 3, 8, 8] as [B, 8, 24], whose rows are columns, then channels.
        let rows = x.permute([0, 2, 3, 1]).reshape([-1, 8, 24]);
        rows.matmul(&weights["w"].reshape([24, 5])).matmul(&weights["v"].transpose(0, 1))
    });
}

#[test]
fn a_bilinear_layer_is_computed_as_defined() {
    for has_bias in [false, true] {
        let build = |program: &mut programs::Network| {
            program.parameter("w", &[5, 8, 8]);
            program.node("relu.default", "act", &[("self", tensor("x"))], &SHAPE);
            let mut inputs = vec![("input1", tensor("x")), ("input2", tensor("act")), ("weight", tensor("w"))];
            if has_bias {
                program.parameter("b", &[5]);
                inputs.push(("bias", tensor("b")));
            }
            program.node("bilinear.default", "y", &inputs, &[B, 3, 8, 5]);
            ("y", vec![B, 3, 8, 5])
        };
        assert_computes("bilinear", false, &build, &|x, weights| {
            let pairs = x.unsqueeze(4) * x.clamp_min(0.0).unsqueeze(3);
            let sums = pairs.reshape([-1, 3, 8, 64]).matmul(&weights["w"].reshape([5, 64]).transpose(0, 1));
            if has_bias { sums + &weights["b"] } else { sums }
        });
    }
}

#[test]
fn products_of_elements_have_gradients_where_one_is_zero() {
    for (keeps, shape) in [(false, vec![B, 3, 8]), (true, vec![B, 3, 1, 8])] {
        let build = |program: &mut programs::Network| {
            program.parameter("w", &[7]);
            // Negative elements become zeros.
            program.node("relu.default", "act", &[("self", tensor("x"))], &SHAPE);
            let part = [("self", tensor("act")), ("dim", int(2)), ("start", int(0)), ("end", int(5))];
            program.node("slice.Tensor", "part", &part, &[B, 3, 5, 8]);
            let inputs = [("self", tensor("part")), ("dim", int(2)), ("keepdim", flag(keeps))];
            program.node("prod.dim_int", "product", &inputs, &shape);
            program.node("prod.default", "factor", &[("self", tensor("w"))], &[]);
            program.node("mul.Tensor", "y", &[("self", tensor("product")), ("other", tensor("factor"))], &shape);
            ("y", shape.clone())
        };
        assert_computes("products", false, &build, &|x, weights| {
            let row = |at: i64| x.clamp_min(0.0).slice(2, at, at + 1, 1);
            let product = (1..5).fold(row(0), |product, at| product * row(at));
            let factor = (1..7).fold(weights["w"].select(0, 0), |factor, at| factor * weights["w"].select(0, at));
            (if keeps { product } else { product.squeeze_dim(2) }) * factor
        });
    }
}
