//! The distillation loss of a document as far as it can be read.

use super::defaults::{Kinship, Standardised};
use super::reader::ObjectReader;
use super::requested::Defaults;
use super::{DistillationSpec, FoundNetworks, Weights};
use crate::text::counted;

/// `reader` knows the method. `kinship` and `networks` decide the scales that are left out.
pub(super) fn distillation(
    reader: ObjectReader<'_>,
    kinship: Kinship,
    networks: &FoundNetworks,
    defaults: &mut Defaults,
) -> DistillationSpec {
    let scales = scales(&reader, kinship, networks, defaults);
    let logit_standardisation: Option<bool> = reader.optional("logit_standardisation").filter(|&is_wanted| is_wanted);
    let standardised = logit_standardisation.and(reader.method.base()).and_then(Standardised::published);
    let (temperature, weights) =
        (temperature(&reader, standardised, defaults), weights(reader.object("weights"), standardised, defaults));
    let distillation = DistillationSpec {
        method: reader.method,
        scale_weights: scale_weights(&reader, scales.len()),
        scales,
        weights,
        grouping: reader.optional("grouping"),
        temperature,
        alpha: reader.optional("alpha"),
        beta: reader.optional("beta"),
        gamma: reader.optional("gamma"),
        warmup_epochs: reader.optional("warmup_epochs"),
        exclude_target: reader.optional("exclude_target"),
        logit_standardisation,
    };
    reader.finish();
    distillation
}

fn scales(reader: &ObjectReader<'_>, kinship: Kinship, networks: &FoundNetworks, defaults: &mut Defaults) -> Vec<u32> {
    let method = reader.method;
    let given: Option<Vec<u32>> = reader.optional("scales");
    let Some(scales) = given else {
        return match method.base() {
            None => Vec::new(),
            Some(_) if !method.is_scale_decoupled() => vec![1],
            Some(_) if reader.is_given("scales") => kinship.published_scales().to_vec(),
            Some(_) => usual_scales(kinship, networks, defaults),
        };
    };
    if scales.is_empty() {
        reader.fault("scales", "must name at least one scale, such as [1, 2, 4]");
    }
    reader.ascend("scales", &scales);
    if !method.is_scale_decoupled() && scales != [1] {
        let name = method.name();
        reader.fault("scales", format!("method {name:?} has scale 1 only; use \"sdd_{name}\" for more"));
    }
    scales
}

/// The published scales for such a pair, without those that are finer than the feature map of an exported network.
fn usual_scales(kinship: Kinship, networks: &FoundNetworks, defaults: &mut Defaults) -> Vec<u32> {
    let published = kinship.published_scales();
    match networks.cut(published) {
        Some(cut) => {
            defaults.noted.push(format!(
                "distillation.scales is {cut:?}: the other published ones are finer than the feature map of an exported \
                 network"
            ));
            cut
        }
        None => {
            let said = |reason| format!("distillation.scales is {published:?}, which is published for {reason}");
            defaults.published.extend(kinship.reason().map(said));
            published.to_vec()
        }
    }
}

fn scale_weights(reader: &ObjectReader<'_>, scales: usize) -> Vec<f64> {
    let given: Option<Vec<f64>> = reader.optional("scale_weights");
    if let Some(given) = &given
        && given.len() != scales
        && !reader.has_fault(&["scales"])
        && (reader.knows_method || reader.is_given("scales"))
    {
        let entries = counted(given.len() as u64, "entry", "entries");
        let (scales, origin) = (counted(scales as u64, "scale", "scales"), reader.origin("scales"));
        let detail = format!("has {entries} for {scales}{origin}: give one per scale of distillation.scales");
        reader.fault("scale_weights", detail);
    }
    given.unwrap_or_else(|| vec![1.0; scales])
}

fn temperature(reader: &ObjectReader<'_>, standardised: Option<Standardised>, defaults: &mut Defaults) -> Option<f64> {
    let temperature = reader.optional("temperature");
    match standardised {
        Some(Standardised { temperature, .. }) if !reader.is_given("temperature") => {
            defaults.published.push(with_standardisation("temperature", temperature));
            Some(temperature)
        }
        _ => temperature,
    }
}

fn weights(reader: ObjectReader<'_>, standardised: Option<Standardised>, defaults: &mut Defaults) -> Weights {
    let mut weights = Weights {
        cross_entropy: reader.get("cross_entropy"),
        distillation: reader.get("distillation"),
        consistent: reader.get("consistent"),
        complementary: reader.get("complementary"),
        clustering: reader.optional("clustering").filter(|&weight| weight > 0.0),
    };
    if let Some(Standardised { weight, .. }) = standardised
        && !reader.is_given("distillation")
    {
        defaults.published.push(with_standardisation("weights.distillation", weight));
        weights.distillation = weight;
    }
    if weights.cross_entropy == 0.0 && weights.distillation == 0.0 && weights.clustering.is_none() {
        reader.fault_here("cross_entropy and distillation are both 0: nothing would be learned");
    }
    reader.finish();
    weights
}

fn with_standardisation(field: &str, value: f64) -> String {
    format!("distillation.{field} is {value}, which is published for standardised logits")
}
