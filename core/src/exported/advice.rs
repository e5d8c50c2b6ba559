//! What is known of parts of networks that are not supported, and what to do about them.

use std::collections::HashSet;

use super::stored::StoredTensor;
use crate::checkpoint::error::shown;

/// Layers that are named.
const MOST_NAMED: usize = 3;

/// What an operator that is not supported comes from, and what to do instead.
pub(super) fn of_operator(target: &str) -> Option<&'static str> {
    target.contains("autocast").then_some(
        "torch.autocast is enabled there. Leave it out of forward, or export with torch.autocast(…, enabled=False): a \
         job's training.precision says in which type a network computes",
    )
}

/// The layers whose weights `spectral_norm` divides, and what to do about them. It iterates in buffers of its own, which
/// is not supported. `None` if there are none.
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
