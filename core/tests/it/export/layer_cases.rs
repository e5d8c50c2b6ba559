//! Networks for layers with several forms.

use super::cases::{Case, Inputs};
use crate::exported::programs::{B, flag, float, int, ints, tensor};

pub fn attention(cases: &mut Vec<(String, Case)>) {
    let tokens = || {
        Case::rows()
            .then("transpose.int", "swapped", vec![("dim0", int(1)), ("dim1", int(2))], &[B, 64, 4])
            .then("unsqueeze.default", "heads", vec![("dim", int(1))], &[B, 1, 64, 4])
            .then("slice.Tensor", "tokens", vec![("dim", int(2)), ("start", int(0)), ("end", int(9))], &[B, 1, 9, 4])
    };
    let others = |more: Inputs| {
        let same = vec![("key", tensor("tokens")), ("value", tensor("tokens"))];
        same.into_iter().chain(more).collect::<Vec<_>>()
    };
    let operator = "scaled_dot_product_attention.default";
    let shape = [B, 1, 9, 4];
    cases.push(("attention".into(), tokens().with("query", operator, "y", others(Vec::new()), &shape)));
    let more = others(vec![("is_causal", flag(true)), ("scale", float(0.7))]);
    cases.push(("attention_causal".into(), tokens().with("query", operator, "y", more, &shape)));
    let masked = tokens().parameters(&[("mask", &[9, 9])]);
    let more = others(vec![("attn_mask", tensor("mask"))]);
    cases.push(("attention_mask".into(), masked.with("query", operator, "y", more, &shape)));
    let mut case = tokens().parameters(&[("q", &[1, 3, 4])]);
    let inputs = [("query", tensor("q")), ("key", tensor("tokens")), ("value", tensor("tokens"))];
    case.network.node(operator, "y", &inputs, &[B, 1, 3, 4]);
    (case.value, case.shape) = ("y", vec![B, 1, 3, 4]);
    cases.push(("attention_learned_queries".into(), case));
    // Two heads of keys for four of queries.
    let all = vec![("shape", ints(&[-1, 4, 4, 16]))];
    let some = vec![("dim", int(1)), ("start", int(0)), ("end", int(2))];
    let mut shared = Case::map().then("reshape.default", "heads", all, &[B, 4, 4, 16]).then(
        "slice.Tensor",
        "some",
        some,
        &[B, 2, 4, 16],
    );
    shared.value = "heads";
    let more = vec![("key", tensor("some")), ("value", tensor("some")), ("enable_gqa", flag(true))];
    cases.push(("attention_shared_keys".into(), shared.with("query", operator, "y", more, &[B, 4, 4, 16])));
}

/// Averages over channels and over volumes.
pub fn volumes(cases: &mut Vec<(String, Case)>) {
    let one = || Case::map().then("unsqueeze.default", "one", vec![("dim", int(1))], &[B, 1, 4, 8, 8]);
    let window = |size: &[i64], stride: &[i64], padding: &[i64]| {
        vec![("kernel_size", ints(size)), ("stride", ints(stride)), ("padding", ints(padding))]
    };
    // Local response norm.
    let padded = one().then("pad.default", "padded", vec![("pad", ints(&[0, 0, 0, 0, 1, 1]))], &[B, 1, 6, 8, 8]);
    let inputs = window(&[3, 1, 1], &[1], &[]);
    cases.push(("channels".into(), padded.then("avg_pool3d.default", "y", inputs, &[B, 1, 4, 8, 8])));
    for counts in [true, false] {
        let mut inputs = window(&[2, 3, 3], &[1, 2, 3], &[1, 1, 0]);
        inputs.extend([("ceil_mode", flag(true)), ("count_include_pad", flag(counts))]);
        let case = one().then("avg_pool3d.default", "y", inputs, &[B, 1, 5, 5, 3]);
        cases.push((format!("volume_{counts}"), case));
    }
}

/// Instance norms by running statistics, with and without scale and shift, and by those of each image.
pub fn instance_norms(cases: &mut Vec<(String, Case)>) {
    for (is_affine, training) in [(true, true), (false, true), (true, false)] {
        let case =
            if is_affine { Case::map().parameters(&[("in.weight", &[4]), ("in.bias", &[4])]) } else { Case::map() };
        cases.push((format!("instance_norm_{is_affine}_{training}"), instance_norm(case, is_affine, training)));
    }
    let others = vec![("use_input_stats", flag(true)), ("momentum", float(0.1)), ("eps", float(1e-3))];
    cases
        .push(("instance_norm".into(), Case::map().with("input", "instance_norm.default", "y", others, &[B, 4, 8, 8])));
}

/// An instance norm `y` with running statistics, and the scale and shift `in.weight` and `in.bias` if it is affine.
pub fn instance_norm(mut case: Case, is_affine: bool, training: bool) -> Case {
    ["in.running_mean", "in.running_var"].iter().for_each(|key| case.network.buffer(key, &[4]));
    let mut others = vec![
        ("running_mean", tensor("in.running_mean")),
        ("running_var", tensor("in.running_var")),
        ("use_input_stats", flag(training)),
        ("momentum", float(0.1)),
        ("eps", float(1e-3)),
        ("cudnn_enabled", flag(true)),
    ];
    if is_affine {
        others.extend([("weight", tensor("in.weight")), ("bias", tensor("in.bias"))]);
    }
    case.with("input", "instance_norm.default", "y", others, &[B, 4, 8, 8])
}

/// Transposed convolutions of maps and of rows.
pub fn transposed_convolutions(cases: &mut Vec<(String, Case)>) {
    let inputs = |bias: bool, numbers: [(&'static str, &[i64]); 4], groups: i64| {
        let mut inputs = vec![("weight", tensor("w"))];
        inputs.extend(bias.then(|| ("bias", tensor("v"))));
        inputs.extend(numbers.map(|(name, numbers)| (name, ints(numbers))));
        inputs.push(("groups", int(groups)));
        inputs
    };
    let named = |numbers: [&'static [i64]; 4]| {
        let [stride, padding, more, dilation] = numbers;
        [("stride", stride), ("padding", padding), ("output_padding", more), ("dilation", dilation)]
    };
    let operator = "conv_transpose2d.input";
    let case = Case::map().parameters(&[("w", &[4, 3, 3, 2]), ("v", &[6])]);
    let others = inputs(true, named([&[2, 3], &[1, 0], &[1, 2], &[1, 2]]), 2);
    cases.push(("transposed".into(), case.with("input", operator, "y", others, &[B, 6, 16, 26])));
    let case = Case::map().parameters(&[("w", &[4, 5, 2, 2])]);
    let others = inputs(false, named([&[2], &[0], &[0], &[1]]), 1);
    cases.push(("transposed_plain".into(), case.with("input", operator, "y", others, &[B, 5, 16, 16])));
    let case = Case::rows().parameters(&[("w", &[4, 1, 5]), ("v", &[4])]);
    let others = inputs(true, named([&[3], &[2], &[1], &[2]]), 4);
    let operator = "conv_transpose1d.default";
    cases.push(("transposed_rows".into(), case.with("input", operator, "y", others, &[B, 4, 195])));
}

/// Cosines of rows and of directions that are parameters, and distances from them.
pub fn cosines(cases: &mut Vec<(String, Case)>) {
    let case = Case::rows().parameters(&[("w", &[4, 64])]);
    let others = vec![("x2", tensor("w")), ("dim", int(-1))];
    cases.push(("cosines".into(), case.with("x1", "cosine_similarity.default", "y", others, &[B, 4])));
    let case = Case::rows().parameters(&[("w", &[5, 64])]);
    let others = vec![("x2", tensor("w")), ("p", float(2.0))];
    cases.push(("distances".into(), case.with("x1", "cdist.default", "y", others, &[B, 4, 5])));
    let case = Case::rows().parameters(&[("w", &[5, 64])]);
    let others = vec![("other", tensor("w")), ("dims_self", ints(&[2])), ("dims_other", ints(&[1]))];
    cases.push(("sums_of_products".into(), case.with("self", "tensordot.default", "y", others, &[B, 4, 5])));
    cases.push(("products".into(), Case::map().then("prod.dim_int", "y", vec![("dim", int(1))], &[B, 8, 8])));
}

/// Columns that are added up to a map.
pub fn folds(cases: &mut Vec<(String, Case)>) {
    let inputs = vec![
        ("output_size", ints(&[16, 24])),
        ("kernel_size", ints(&[2, 2])),
        ("dilation", ints(&[2, 2])),
        ("padding", ints(&[1, 1])),
        ("stride", ints(&[2, 3])),
    ];
    cases.push(("fold".into(), Case::rows().then("col2im.default", "y", inputs, &[B, 1, 16, 24])));
}
