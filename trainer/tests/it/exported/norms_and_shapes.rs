//! Norms, products of matrices, pooling and changes of shape compute what their definitions say: see
//! [`super::operators`].

use serde_json::json;
use tch::{Device, Kind, Tensor, no_grad};

use super::networks::{Layers, built, distance, images, reordered, set_values};
use super::operators::{Weights, assert_computes, mean, softmax};
use super::programs::{self, B, flag, float, int, ints, tensor};

/// An operator of the images with another shape.
fn assert_reshapes(
    operator: &'static str,
    more: &[(&'static str, serde_json::Value)],
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

#[test]
fn layer_norm_and_group_norm_are_computed_as_defined() {
    let build = |program: &mut programs::Network| {
        program.parameter("n.weight", &[8]);
        program.parameter("n.bias", &[8]);
        let arguments = [
            ("input", tensor("x")),
            ("normalized_shape", ints(&[8])),
            ("weight", tensor("n.weight")),
            ("bias", tensor("n.bias")),
            ("eps", float(1e-3)),
        ];
        program.node("layer_norm.default", "y", &arguments, &[B, 3, 8, 8]);
        ("y", vec![B, 3, 8, 8])
    };
    let normal = |x: &Tensor, over: &[i64], epsilon: f64| {
        let centred = x - mean(x, over);
        let variance = mean(&centred.square(), over);
        centred / (variance + epsilon).sqrt()
    };
    let define = |x: &Tensor, weights: &Weights| normal(x, &[3], 1e-3) * &weights["n.weight"] + &weights["n.bias"];
    assert_computes("layer norm", false, &build, &define);
    for groups in [1, 3] {
        let build = |program: &mut programs::Network| {
            program.parameter("n.weight", &[3]);
            program.parameter("n.bias", &[3]);
            let arguments = [
                ("input", tensor("x")),
                ("num_groups", int(groups)),
                ("weight", tensor("n.weight")),
                ("bias", tensor("n.bias")),
                ("eps", float(1e-2)),
            ];
            program.node("group_norm.default", "y", &arguments, &[B, 3, 8, 8]);
            ("y", vec![B, 3, 8, 8])
        };
        let define = |x: &Tensor, weights: &Weights| {
            let by_group = x.reshape([4, groups, -1]);
            let normal = normal(&by_group, &[2], 1e-2).view([4, 3, 8, 8]);
            normal * weights["n.weight"].view([3, 1, 1]) + weights["n.bias"].view([3, 1, 1])
        };
        assert_computes(&format!("group norm of {groups}"), false, &build, &define);
    }
}

#[test]
fn batch_norm_in_training_uses_the_batch_unless_its_layer_was_frozen() {
    for is_frozen in [false, true] {
        let mut program = programs::Network::new();
        program.conv("c", "x", [3, 5, 3], 8);
        program.norm("n", "c", &[B, 5, 8, 8], !is_frozen);
        let relu = [("self", tensor("n"))];
        program.node("relu_.default", "a", &relu, &[B, 5, 8, 8]);
        super::networks::pool(&mut program, "v", "a", 5);
        program.result("v");
        for kind in [Kind::Double, Kind::Float] {
            let tolerance = reordered(kind);
            let mut network = built(&program);
            network.place(Device::Cpu, kind);
            set_values(&network);
            let weights = Weights::of(&network);
            let map = images().conv2d(&weights["c.weight"], None::<Tensor>, [1, 1], [1, 1], [1, 1], 1);
            let centre = mean(&map, &[0, 2, 3]);
            let variance = mean(&(&map - &centre).square(), &[0, 2, 3]);
            let [running_mean, running_var] =
                ["n.running_mean", "n.running_var"].map(|key| weights[key].view([1, -1, 1, 1]));
            let (by_mean, by_variance) = if is_frozen { (&running_mean, &running_var) } else { (&centre, &variance) };
            let [scale, shift] = ["n.weight", "n.bias"].map(|key| weights[key].view([1, -1, 1, 1]));
            let normal = (&map - by_mean) / (by_variance + 1e-3).sqrt() * scale + shift;
            let wanted = normal.clamp_min(0.0).mean_dim([2_i64, 3].as_slice(), false, None::<Kind>);
            let found = no_grad(|| network.logits(&images().to_kind(kind), true));
            assert!(distance(&found, &wanted) < tolerance);
            let unbiased = &variance * (256.0 / 255.0);
            let tracked = |running: &Tensor, of_batch: &Tensor| {
                if is_frozen { running.flatten(0, -1) } else { (running * 0.7 + of_batch * 0.3).flatten(0, -1) }
            };
            let now = Weights::of(&network);
            assert!(distance(&now["n.running_mean"], &tracked(&running_mean, &centre)) < tolerance);
            assert!(distance(&now["n.running_var"], &tracked(&running_var, &unbiased)) < tolerance);
        }
    }
}

#[test]
fn products_of_matrices_and_linear_layers_are_computed_as_defined() {
    let build = |program: &mut programs::Network| {
        program.node("transpose.int", "t", &[("self", tensor("x")), ("dim0", int(2)), ("dim1", int(3))], &[B, 3, 8, 8]);
        program.parameter("m", &[8, 6]);
        program.node("matmul.default", "p", &[("self", tensor("x")), ("other", tensor("t"))], &[B, 3, 8, 8]);
        program.node("matmul.default", "y", &[("self", tensor("p")), ("other", tensor("m"))], &[B, 3, 8, 6]);
        ("y", vec![B, 3, 8, 6])
    };
    let define = |x: &Tensor, weights: &Weights| {
        let product = (x.unsqueeze(3) * x.unsqueeze(2)).sum_dim_intlist([4_i64].as_slice(), false, None::<Kind>);
        (product.unsqueeze(4) * &weights["m"]).sum_dim_intlist([3_i64].as_slice(), false, None::<Kind>)
    };
    assert_computes("matmul", false, &build, &define);
    let build = |program: &mut programs::Network| {
        program.parameter("l.weight", &[5, 8]);
        program.parameter("l.bias", &[5]);
        let arguments = [("input", tensor("x")), ("weight", tensor("l.weight")), ("bias", tensor("l.bias"))];
        program.node("linear.default", "y", &arguments, &[B, 3, 8, 5]);
        ("y", vec![B, 3, 8, 5])
    };
    let define = |x: &Tensor, weights: &Weights| {
        (x.unsqueeze(3) * &weights["l.weight"]).sum_dim_intlist([4_i64].as_slice(), false, None::<Kind>)
            + &weights["l.bias"]
    };
    assert_computes("linear", false, &build, &define);
}

#[test]
fn attention_with_masks_causality_and_a_scale() {
    for (has_mask, is_causal, scale) in
        [(false, false, None), (true, false, Some(0.7)), (false, true, None), (true, true, None)]
    {
        let build = |program: &mut programs::Network| {
            program.parameter("shift", &[8]);
            program.parameter("bias", &[3, 8, 8]);
            let key = [("self", tensor("x")), ("other", tensor("shift"))];
            program.node("mul.Tensor", "k", &key, &[B, 3, 8, 8]);
            let mut arguments = vec![("query", tensor("x")), ("key", tensor("k")), ("value", tensor("x"))];
            if has_mask {
                arguments.push(("attn_mask", tensor("bias")));
            }
            arguments.push(("is_causal", flag(is_causal)));
            if let Some(scale) = scale {
                arguments.push(("scale", float(scale)));
            }
            program.node("scaled_dot_product_attention.default", "y", &arguments, &[B, 3, 8, 8]);
            ("y", vec![B, 3, 8, 8])
        };
        let define = |x: &Tensor, weights: &Weights| {
            let key = x * &weights["shift"];
            let mut scores = x.matmul(&key.transpose(2, 3)) * scale.unwrap_or(1.0 / 8_f64.sqrt());
            if has_mask {
                scores += &weights["bias"];
            }
            if is_causal {
                let later = Tensor::ones([8, 8], (Kind::Bool, Device::Cpu)).triu(1);
                scores = scores.masked_fill(&later, f64::NEG_INFINITY);
            }
            softmax(&scores, 3).matmul(x)
        };
        assert_computes(&format!("attention {has_mask} {is_causal} {scale:?}"), false, &build, &define);
    }
}

#[test]
fn pooling_is_computed_as_defined() {
    let largest = |x: &Tensor| {
        let padded = x.pad([1, 1, 1, 1], "constant", f64::NEG_INFINITY);
        let seen: Vec<Tensor> = [(0, 0), (0, 2), (2, 0), (2, 2)]
            .map(|(row, column)| padded.slice(2, row, row + 7, 2).slice(3, column, column + 7, 2))
            .into();
        Tensor::stack(&seen, 0).amax([0_i64].as_slice(), false)
    };
    let dilated = [
        ("kernel_size", ints(&[2, 2])),
        ("stride", ints(&[2, 2])),
        ("padding", ints(&[1, 1])),
        ("dilation", ints(&[2, 2])),
    ];
    assert_reshapes("max_pool2d.default", &dilated, &[B, 3, 4, 4], &largest);
    // Sides of three windows of 3, the last of which reaches beyond the map.
    let sum = |x: &Tensor, row: i64, column: i64| {
        let (height, width) = ((8 - row).min(3), (8 - column).min(3));
        let part = x.narrow(2, row, height).narrow(3, column, width);
        part.sum_dim_intlist([2_i64, 3].as_slice(), false, None::<Kind>) / (height * width) as f64
    };
    let rounded_up = |x: &Tensor| {
        let rows: Vec<Tensor> =
            [0, 3, 6].map(|row| Tensor::stack(&[0, 3, 6].map(|column| sum(x, row, column)), 2)).into();
        Tensor::stack(&rows, 2)
    };
    let up = [("kernel_size", ints(&[3, 3])), ("stride", ints(&[3, 3])), ("ceil_mode", flag(true))];
    assert_reshapes("avg_pool2d.default", &up, &[B, 3, 3, 3], &rounded_up);
    for counts in [true, false] {
        let define = |x: &Tensor| {
            let ones = Tensor::ones_like(x);
            let sums = |x: &Tensor| {
                let padded = x.constant_pad_nd([1, 1, 1, 1]);
                let seen = |row: i64, column: i64| padded.slice(2, row, row + 9, 2).slice(3, column, column + 9, 2);
                seen(0, 0) + seen(0, 1) + seen(1, 0) + seen(1, 1)
            };
            sums(x) / if counts { sums(&ones) * 0.0 + 4.0 } else { sums(&ones) }
        };
        let padded = [
            ("kernel_size", ints(&[2, 2])),
            ("stride", ints(&[2, 2])),
            ("padding", ints(&[1, 1])),
            ("count_include_pad", flag(counts)),
        ];
        assert_reshapes("avg_pool2d.default", &padded, &[B, 3, 5, 5], &define);
    }
    let adaptive = |x: &Tensor| {
        let cell = |row: i64, column: i64| {
            // Rows 0 to 2, 2 to 5 and 5 to 7; columns 0 to 3 and 4 to 7.
            let (top, height) = [(0, 3), (2, 4), (5, 3)][row as usize];
            mean(&x.narrow(2, top, height).narrow(3, 4 * column, 4), &[2, 3])
        };
        let rows: Vec<Tensor> = (0..3).map(|row| Tensor::cat(&[cell(row, 0), cell(row, 1)], 3)).collect();
        Tensor::cat(&rows, 2)
    };
    assert_reshapes("adaptive_avg_pool2d.default", &[("output_size", ints(&[3, 2]))], &[B, 3, 3, 2], &adaptive);
    let over = [("dim", ints(&[-1, 1])), ("keepdim", flag(true))];
    assert_reshapes("mean.dim", &over, &[B, 1, 8, 1], &|x| mean(x, &[1, 3]));
}

#[test]
fn changes_of_shape_move_elements_where_they_belong() {
    let view = |shape: &'static [i64]| move |x: &Tensor| x.contiguous().view(shape);
    assert_reshapes("view.default", &[("size", ints(&[-1, 6, 32]))], &[B, 6, 32], &view(&[4, 6, 32]));
    let unflatten = [("dim", int(2)), ("sizes", ints(&[2, -1]))];
    assert_reshapes("unflatten.int", &unflatten, &[B, 3, 2, 4, 8], &view(&[4, 3, 2, 4, 8]));
    assert_reshapes("unsqueeze.default", &[("dim", int(1))], &[B, 1, 3, 8, 8], &view(&[4, 1, 3, 8, 8]));
    let element = |x: &Tensor, order: [i64; 4]| x.movedim([0, 1, 2, 3], order);
    assert_reshapes("permute.default", &[("dims", ints(&[0, 3, 1, 2]))], &[B, 8, 3, 8], &|x| element(x, [0, 2, 3, 1]));
    let every_third = [("dim", int(3)), ("start", int(1)), ("end", int(-1)), ("step", int(3))];
    let at = |x: &Tensor, dimension: i64, indices: &[i64]| x.index_select(dimension, &Tensor::from_slice(indices));
    assert_reshapes("slice.Tensor", &every_third, &[B, 3, 8, 2], &|x| at(x, 3, &[1, 4]));
    assert_reshapes("select.int", &[("dim", int(1)), ("index", int(-1))], &[B, 8, 8], &|x| {
        at(x, 1, &[2]).squeeze_dim(1)
    });
    let around = |x: &Tensor| {
        let wide = Tensor::full([4, 3, 9, 11], 0.5, (Kind::Double, Device::Cpu));
        let inside = x.constant_pad_nd([1, 2, 0, 1]);
        let is_inside = Tensor::ones_like(x).constant_pad_nd([1, 2, 0, 1]);
        inside + wide * (is_inside * -1.0 + 1.0)
    };
    assert_reshapes("pad.default", &[("pad", ints(&[1, 2, 0, 1])), ("value", float(0.5))], &[B, 3, 9, 11], &around);
    let rolled = |x: &Tensor| at(&at(x, 2, &[5, 6, 7, 0, 1, 2, 3, 4]), 3, &[1, 2, 3, 4, 5, 6, 7, 0]);
    assert_reshapes("roll.default", &[("shifts", ints(&[3, -1])), ("dims", ints(&[2, 3]))], &[B, 3, 8, 8], &rolled);
}

#[test]
fn parts_and_joins_are_computed_as_defined() {
    let names =
        |names: &[&str]| json!({"as_tensors": names.iter().map(|name| json!({"name": name})).collect::<Vec<_>>()});
    let build = |program: &mut programs::Network| {
        let sizes = [("self", tensor("x")), ("split_sizes", ints(&[1, 5, 2])), ("dim", int(2))];
        program.bare_node("torch.ops.aten.split_with_sizes.default", &sizes, json!([names(&["a", "b", "c"])]));
        for (name, rows) in [("a", 1), ("b", 5), ("c", 2)] {
            *program.recorded(name) = programs::meta(&[B, 3, rows, 8]);
        }
        program.bare_node(
            "torch.ops.aten.unbind.int",
            &[("self", tensor("x")), ("dim", int(1))],
            json!([names(&["r", "g", "h"])]),
        );
        for name in ["r", "g", "h"] {
            *program.recorded(name) = programs::meta(&[B, 8, 8]);
        }
        program.node("unsqueeze.default", "u", &[("self", tensor("g")), ("dim", int(1))], &[B, 1, 8, 8]);
        program.node("cat.default", "j", &[("tensors", names(&["c", "a", "b"])), ("dim", int(2))], &[B, 3, 8, 8]);
        program.node("cat.default", "y", &[("tensors", names(&["j", "u"])), ("dim", int(1))], &[B, 4, 8, 8]);
        ("y", vec![B, 4, 8, 8])
    };
    let define = |x: &Tensor, _: &Weights| {
        let rows = x.index_select(2, &Tensor::from_slice(&[6_i64, 7, 0, 1, 2, 3, 4, 5]));
        Tensor::cat(&[rows, x.narrow(1, 1, 1)], 1)
    };
    assert_computes("split, unbind and cat", false, &build, &define);
}

#[test]
fn tokens_of_a_parameter_are_repeated_for_every_image() {
    let names = json!({"as_tensors": [{"name": "tokens"}, {"name": "rows"}]});
    let build = |program: &mut programs::Network| {
        super::networks::batch_size(program);
        program.parameter("class", &[1, 1, 64]);
        let size = json!({"as_sym_ints": [{"as_name": "b"}, {"as_int": -1}, {"as_int": -1}]});
        program.node("expand.default", "tokens", &[("self", tensor("class")), ("size", size)], &[B, 1, 64]);
        program.node("flatten.using_ints", "rows", &[("self", tensor("x")), ("start_dim", int(2))], &[B, 3, 64]);
        program.node("cat.default", "y", &[("tensors", names.clone()), ("dim", int(1))], &[B, 4, 64]);
        ("y", vec![B, 4, 64])
    };
    let define = |x: &Tensor, weights: &Weights| {
        let token = &weights["class"] + Tensor::zeros([4, 1, 64], (Kind::Double, Device::Cpu));
        Tensor::cat(&[token, x.flatten(2, 3)], 1)
    };
    assert_computes("a class token", false, &build, &define);
}

#[test]
fn rows_of_a_table_are_chosen_by_a_buffer_of_integers() {
    let chosen = [4_i64, 0, 4];
    let build = |program: &mut programs::Network| {
        program.parameter("table", &[5, 8]);
        program.buffer("index", &[3]);
        program.weights["config"]["index"]["tensor_meta"]["dtype"] = json!(5);
        program.recorded("index")["dtype"] = json!(5);
        program.files.last_mut().unwrap().1 = chosen.iter().flat_map(|row| row.to_le_bytes()).collect();
        let index = json!({"as_tensors": [{"name": "index"}]});
        program.node("index.Tensor", "rows", &[("self", tensor("table")), ("indices", index)], &[3, 8]);
        program.node("unsqueeze.default", "bias", &[("self", tensor("rows")), ("dim", int(1))], &[3, 1, 8]);
        program.node("add.Tensor", "y", &[("self", tensor("x")), ("other", tensor("bias"))], &[B, 3, 8, 8]);
        ("y", vec![B, 3, 8, 8])
    };
    let define = |x: &Tensor, weights: &Weights| {
        let rows: Vec<Tensor> = chosen.iter().map(|&row| weights["table"].select(0, row)).collect();
        x + Tensor::stack(&rows, 0).unsqueeze(1)
    };
    assert_computes("rows of a table", false, &build, &define);
}
