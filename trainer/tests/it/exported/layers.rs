//! Layers that few networks have compute what their definitions say: see [`super::operators`].

use tch::{Device, Kind, Tensor};

use super::networks::{built, distance, images, reordered, set_values, value};
use super::operators::{Weights, assert_computes, mean, softmax};
use super::programs::{self, B, flag, float, int, ints, tensor};

#[test]
fn consecutive_heads_of_queries_share_keys_and_values() {
    let build = |program: &mut programs::Network| {
        let all = [("self", tensor("x")), ("shape", ints(&[-1, 6, 4, 8]))];
        program.node("reshape.default", "q", &all, &[B, 6, 4, 8]);
        let some = [("self", tensor("q")), ("dim", int(1)), ("start", int(0)), ("end", int(2))];
        program.node("slice.Tensor", "k", &some, &[B, 2, 4, 8]);
        let others = [("self", tensor("q")), ("dim", int(1)), ("start", int(3)), ("end", int(6))];
        program.node("slice.Tensor", "v", &others, &[B, 3, 4, 8]);
        let inputs = [
            ("query", tensor("q")),
            ("key", tensor("k")),
            ("value", tensor("v")),
            ("is_causal", flag(false)),
            ("enable_gqa", flag(true)),
        ];
        program.node("scaled_dot_product_attention.default", "y", &inputs, &[B, 6, 4, 8]);
        ("y", vec![B, 6, 4, 8])
    };
    assert_computes("shared keys", false, &build, &|x, _| {
        let query = x.reshape([4, 6, 4, 8]);
        let key = query.index_select(1, &Tensor::from_slice(&[0_i64, 0, 0, 1, 1, 1]));
        let value = query.index_select(1, &Tensor::from_slice(&[3_i64, 3, 4, 4, 5, 5]));
        let products = query.unsqueeze(3) * key.unsqueeze(2);
        let scores = products.sum_dim_intlist([4_i64].as_slice(), false, None::<Kind>) / 8_f64.sqrt();
        (softmax(&scores, 3).unsqueeze(4) * value.unsqueeze(2)).sum_dim_intlist([3_i64].as_slice(), false, None::<Kind>)
    });
}

#[test]
fn learned_queries_are_those_of_all_images() {
    let build = |program: &mut programs::Network| {
        program.parameter("q", &[5, 8]);
        let inputs = [("query", tensor("q")), ("key", tensor("x")), ("value", tensor("x"))];
        program.node("scaled_dot_product_attention.default", "y", &inputs, &[B, 3, 5, 8]);
        ("y", vec![B, 3, 5, 8])
    };
    assert_computes("learned queries", false, &build, &|x, weights| {
        let scores = weights["q"].matmul(&x.transpose(2, 3)) / 8_f64.sqrt();
        softmax(&scores, 3).matmul(x)
    });
}

/// The windows of an adaptive pooling of 8 positions.
fn windows(count: i64) -> impl Iterator<Item = (i64, i64)> {
    (0..count).map(move |at| (at * 8 / count, ((at + 1) * 8 + count - 1) / count))
}

#[test]
fn adaptive_poolings_have_windows_of_any_size() {
    let define = |x: &Tensor, [rows, columns]: [i64; 2]| {
        let parts: Vec<Tensor> = windows(rows)
            .flat_map(|row| windows(columns).map(move |column| (row, column)))
            .map(|(row, column)| x.slice(2, row.0, row.1, 1).slice(3, column.0, column.1, 1).amax([2, 3], false))
            .collect();
        Tensor::stack(&parts, 2).view([4, 3, rows, columns])
    };
    for size in [[5, 3], [8, 7], [2, 3], [11, 1]] {
        let build = |program: &mut programs::Network| {
            let inputs = [("self", tensor("x")), ("output_size", ints(&size))];
            let outputs = serde_json::json!([tensor("y"), tensor("positions")]);
            program.bare_node("torch.ops.aten.adaptive_max_pool2d.default", &inputs, outputs);
            let shape = [B, 3, size[0], size[1]];
            ["y", "positions"].iter().for_each(|name| *program.recorded(name) = programs::meta(&shape));
            ("y", shape.to_vec())
        };
        assert_computes("adaptive max pooling", false, &build, &|x, _| define(x, size));
    }
    let build = |program: &mut programs::Network| {
        program.node("select.int", "row", &[("self", tensor("x")), ("dim", int(2)), ("index", int(3))], &[B, 3, 8]);
        let inputs = [("self", tensor("row")), ("output_size", ints(&[5]))];
        program.node("adaptive_max_pool1d.default", "y", &inputs, &[B, 3, 5]);
        ("y", vec![B, 3, 5])
    };
    assert_computes("adaptive max pooling of rows", false, &build, &|x, _| {
        define(&x.slice(2, 3, 4, 1).expand([4, 3, 8, 8], false), [1, 5])
    });
}

/// Sums over windows of 2×3×3 of a volume with a position more before and after depth and height.
fn sums(volume: &Tensor) -> Tensor {
    let padded = volume.constant_pad_nd([0, 0, 1, 1, 1, 1]);
    let windows = padded.unfold(2, 2, 1).unfold(3, 3, 2).unfold(4, 3, 3);
    windows.sum_dim_intlist([5_i64, 6, 7].as_slice(), false, None::<Kind>)
}

#[test]
fn averages_of_volumes_count_the_padding_or_do_not() {
    for counts in [true, false] {
        let build = |program: &mut programs::Network| {
            program.node("unsqueeze.default", "v", &[("self", tensor("x")), ("dim", int(1))], &[B, 1, 3, 8, 8]);
            let inputs = [
                ("self", tensor("v")),
                ("kernel_size", ints(&[2, 3, 3])),
                ("stride", ints(&[1, 2, 3])),
                ("padding", ints(&[1, 1, 0])),
                ("count_include_pad", flag(counts)),
            ];
            program.node("avg_pool3d.default", "y", &inputs, &[B, 1, 4, 4, 2]);
            ("y", vec![B, 1, 4, 4, 2])
        };
        assert_computes("average of volumes", false, &build, &|x, _| {
            let volume = x.unsqueeze(1);
            sums(&volume) / if counts { Tensor::from(18.0) } else { sums(&volume.ones_like()) }
        });
    }
}

#[test]
fn local_response_norm_divides_by_the_channels_around() {
    let build = |program: &mut programs::Network| {
        let map = [B, 3, 8, 8];
        let volume = |channels: i64| vec![B, 1, channels, 8, 8];
        program.node("mul.Tensor", "square", &[("self", tensor("x")), ("other", tensor("x"))], &map);
        let shape = ints(&[-1, 1, 3, 8, 8]);
        program.node("view.default", "volume", &[("self", tensor("square")), ("size", shape)], &volume(3));
        let pad = [("self", tensor("volume")), ("pad", ints(&[0, 0, 0, 0, 1, 0]))];
        program.node("pad.default", "padded", &pad, &volume(4));
        let window = [("self", tensor("padded")), ("kernel_size", ints(&[2, 1, 1])), ("stride", int(1))];
        program.node("avg_pool3d.default", "mean", &window, &volume(3));
        program.node("squeeze.dim", "map", &[("self", tensor("mean")), ("dim", int(1))], &map);
        program.node("mul.Tensor", "scaled", &[("self", tensor("map")), ("other", float(0.5))], &map);
        program.node("add.Tensor", "above", &[("self", tensor("scaled")), ("other", float(2.0))], &map);
        program.node("pow.Tensor_Scalar", "power", &[("self", tensor("above")), ("exponent", float(0.75))], &map);
        program.node("div.Tensor", "y", &[("self", tensor("x")), ("other", tensor("power"))], &map);
        ("y", map.to_vec())
    };
    assert_computes("local response norm", false, &build, &|x, _| {
        let square = x * x;
        let before = square.constant_pad_nd([0, 0, 0, 0, 1, 0]).slice(1, 0, 3, 1);
        let base: Tensor = (square + before) / 2.0 * 0.5 + 2.0;
        x / (base.log() * 0.75).exp()
    });
}

/// An instance norm of the images with running statistics.
fn tracked_instance_norm(trains: bool) -> programs::Network {
    let mut program = programs::Network::new();
    ["n.weight", "n.bias"].iter().for_each(|key| program.parameter(key, &[3]));
    ["n.running_mean", "n.running_var"].iter().for_each(|key| program.buffer(key, &[3]));
    let inputs = [
        ("input", tensor("x")),
        ("weight", tensor("n.weight")),
        ("bias", tensor("n.bias")),
        ("running_mean", tensor("n.running_mean")),
        ("running_var", tensor("n.running_var")),
        ("use_input_stats", flag(trains)),
        ("momentum", float(0.3)),
        ("eps", float(1e-3)),
    ];
    program.node("instance_norm.default", "y", &inputs, &[B, 3, 8, 8]);
    let flatten = [("self", tensor("y")), ("start_dim", int(1))];
    program.node("flatten.using_ints", "logits", &flatten, &[B, 192]);
    program.result("logits");
    program
}

#[test]
fn an_instance_norm_tracks_the_mean_of_its_images_statistics() {
    let by_channel = |vector: &Tensor| vector.view([1, 3, 1, 1]);
    // Exported and run in training, or not.
    for (exported, trains) in [(true, true), (true, false), (false, true)] {
        for kind in [Kind::Double, Kind::Float] {
            let tolerance = reordered(kind);
            let mut network = built(&tracked_instance_norm(exported));
            network.place(Device::Cpu, kind);
            set_values(&network);
            let weights = Weights::of(&network);
            let [running_mean, running_var] = ["n.running_mean", "n.running_var"].map(|key| by_channel(&weights[key]));
            let given = images().set_requires_grad(true);
            let own_mean = mean(&given, &[2, 3]);
            let own_variance = mean(&(&given - &own_mean).square(), &[2, 3]);
            let is_own = exported && trains;
            let (centre, spread) = if is_own { (&own_mean, &own_variance) } else { (&running_mean, &running_var) };
            let [scale, shift] = ["n.weight", "n.bias"].map(|key| by_channel(&weights[key]));
            let wanted = ((&given - centre) / (spread + 1e-3).sqrt() * scale + shift).flatten(1, -1);
            let input = images().to_kind(kind).set_requires_grad(true);
            let found = network.logits(&input, trains);
            assert!(distance(&found, &wanted) < tolerance, "{exported} {trains} in {kind:?}");
            let along = value("direction", &wanted.size(), 7);
            (&found * along.to_kind(kind)).sum(kind).backward();
            (&wanted * &along).sum(Kind::Double).backward();
            assert!(distance(&input.grad(), &given.grad()) < 10.0 * tolerance, "{exported} {trains} in {kind:?}");
            for key in ["n.weight", "n.bias"] {
                let weight = network.weights().iter().find(|weight| weight.name == key).unwrap();
                assert!(distance(&weight.tensor.grad(), &weights[key].grad()) < 10.0 * tolerance, "{key}");
            }
            let now = Weights::of(&network);
            let unbiased = mean(&(&own_variance * (64.0 / 63.0)), &[0]);
            for (key, before, of_batch) in
                [("n.running_mean", &running_mean, mean(&own_mean, &[0])), ("n.running_var", &running_var, unbiased)]
            {
                let wanted = if is_own { before * 0.7 + of_batch * 0.3 } else { before.shallow_clone() };
                assert!(distance(&now[key], &wanted.flatten(0, -1)) < tolerance, "{key}: {exported} {trains}");
            }
        }
    }
}

#[test]
fn a_vector_is_a_row_before_a_matrix_and_a_column_after_it() {
    let build = |program: &mut programs::Network| {
        program.parameter("v", &[8]);
        program.node("matmul.default", "after", &[("self", tensor("x")), ("other", tensor("v"))], &[B, 3, 8]);
        program.node("matmul.default", "before", &[("self", tensor("v")), ("other", tensor("x"))], &[B, 3, 8]);
        program.node("matmul.default", "square", &[("self", tensor("v")), ("other", tensor("v"))], &[]);
        program.node("mul.Tensor", "both", &[("self", tensor("after")), ("other", tensor("before"))], &[B, 3, 8]);
        program.node("mul.Tensor", "y", &[("self", tensor("both")), ("other", tensor("square"))], &[B, 3, 8]);
        ("y", vec![B, 3, 8])
    };
    assert_computes("products with vectors", false, &build, &|x, weights| {
        let vector = &weights["v"];
        let sum = |x: Tensor, dimension: i64| x.sum_dim_intlist([dimension].as_slice(), false, None::<Kind>);
        sum(x * vector, 3) * sum(x * vector.unsqueeze(1), 2) * vector.square().sum(Kind::Double)
    });
}
