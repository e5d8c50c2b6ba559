//! What is known of parts of networks that are not supported, and what to do about them.

use std::collections::HashSet;

use super::stored::StoredTensor;
use crate::checkpoint::error::shown;

/// Layers that are named.
const MOST_NAMED: usize = 3;

/// What operators that are not supported come from, and what to do instead: parts of their names, without the package
/// of ATen's.
const OF_OPERATORS: [(&[&str], &str); 13] = [
    (
        &["autocast"],
        "torch.autocast is enabled there. Leave it out of forward, or export with torch.autocast(…, enabled=False): a \
         job's training.precision says in which type a network computes",
    ),
    (&["quantize"], "export the network before it is quantised. A student is quantised by its export as int8"),
    (
        &["set_grad_enabled"],
        "torch.no_grad() or torch.enable_grad() is used there, and a part without gradients is not read. Leave it out of \
         forward; requires_grad_(False) freezes parameters",
    ),
    (&["checkpoint"], "activations are recomputed there (torch.utils.checkpoint). Export the network without it"),
    (
        &["detach"],
        "a gradient that ends there is not read. Leave detach() out of forward; requires_grad_(False) freezes parameters",
    ),
    (
        &["higher_order."],
        "control flow is not read. Export a network whose forward computes the same for all images, without torch.cond, \
         loops over tensors and the like",
    ),
    (&["fft_", "complex"], "complex numbers are not read"),
    (
        &["rand", "normal_", "rrelu_with_noise", "alpha_dropout", "multinomial", "exponential_", "bernoulli.default"],
        "of random operators, only dropout and stochastic depth are read",
    ),
    (
        &[
            "sort",
            "topk",
            "gather",
            "scatter",
            "nonzero",
            "argmax",
            "argmin",
            "grid_sampler",
            "index_put",
            "median",
            "kthvalue",
            "mode.",
            "quantile",
            "bucketize",
            "max_unpool",
        ],
        "which elements are taken may not depend on the images",
    ),
    (&["conv3d", "conv_transpose3d"], "volumes are not convolved: a network takes single images"),
    (
        &["max_pool3d", "adaptive_avg_pool3d", "trilinear3d", "nearest3d", "nearest_exact3d"],
        "volumes are neither pooled nor resized: a network takes single images",
    ),
    (
        &["linalg_inv", "linalg_det", "linalg_svd", "linalg_qr", "linalg_eig", "linalg_cholesky", "linalg_solve"],
        "matrices are neither inverted nor decomposed",
    ),
    (&["lstm", "gru.", "rnn_"], "recurrent layers are not read"),
];

/// What an operator that is not supported comes from, and what to do instead.
pub(super) fn of_operator(target: &str) -> Option<&'static str> {
    let name = target.trim_start_matches("torch.ops.");
    let of_aten = name.strip_prefix("aten.");
    let known = OF_OPERATORS.iter().find(|(parts, _)| {
        let name = of_aten.unwrap_or(name);
        parts.iter().any(|part| name.contains(part))
    });
    let other = if name == target {
        "of sizes, only sums, products and whole quotients are computed. Use sizes that are numbers"
    } else {
        "custom operators are not read. Export a network that computes the same with PyTorch's own"
    };
    known.map(|&(_, advice)| advice).or_else(|| of_aten.is_none().then_some(other))
}

/// The layers whose weights `spectral_norm` divides, and what to do about them. It iterates in buffers of its own,
/// which is not supported. `None` if there are none.
pub(super) fn of_spectral_norm(tensors: &[StoredTensor]) -> Option<(String, String)> {
    let keys: HashSet<&str> = tensors.iter().map(|stored| stored.tensor.name()).collect();
    // The buffers of torch.nn.utils.parametrizations, and those of torch.nn.utils.
    let layer_of = |key: &str| {
        let (layer, weight) = match key.strip_suffix("._u") {
            Some(parametrization) => {
                let (place, _) = parametrization.rsplit_once('.')?;
                (place.split_once("parametrizations.")?.0, format!("{parametrization}._v"))
            }
            None => {
                let weight = key.strip_suffix("_u")?;
                keys.contains(format!("{weight}_orig").as_str()).then_some(())?;
                (weight.rsplit_once('.').map_or("", |(layer, _)| layer), format!("{weight}_v"))
            }
        };
        keys.contains(weight.as_str()).then(|| layer.trim_end_matches('.').to_owned())
    };
    let layers: Vec<String> = tensors.iter().filter_map(|stored| layer_of(stored.tensor.name())).collect();
    let named: Vec<String> = layers.iter().take(MOST_NAMED).map(|layer| shown(layer)).collect();
    let more = layers.len().saturating_sub(MOST_NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let advice = "spectral_norm is not supported. Before the export, make the weights what it makes of them, with \
                  torch.nn.utils.parametrize.remove_parametrizations(layer, \"weight\"), or with \
                  torch.nn.utils.remove_spectral_norm(layer) where torch.nn.utils.spectral_norm was called";
    (!layers.is_empty()).then(|| (format!("layer {}{more}", named.join(", ")), advice.to_owned()))
}
