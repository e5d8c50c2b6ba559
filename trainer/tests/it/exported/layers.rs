//! Layers that few networks have compute what their definitions say: see [`super::operators`].

use tch::{Kind, Tensor};

use super::operators::{assert_computes, softmax};
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
