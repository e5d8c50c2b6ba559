//! Which networks a checkpoint is of, from its keys and shapes alone.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::layout::{Layout, Role};
use super::{Architecture, all};

/// Keys and shapes of a checkpoint.
pub type Shapes = BTreeMap<String, Vec<u64>>;

/// A network that a checkpoint is of.
#[derive(Debug, Clone, Copy)]
pub struct Fit {
    /// The network.
    pub architecture: &'static Architecture,
    /// Its number of classes, from the classifier's shape.
    pub classes: u32,
}

/// Every network that the checkpoint is of, in the order of [`all`].
#[must_use]
pub fn fits(shapes: &Shapes) -> Vec<Fit> {
    let fit = |architecture: &'static Architecture| {
        let classes = difference(architecture, shapes, None).ok()?;
        Some(Fit { architecture, classes })
    };
    all().iter().filter_map(fit).collect()
}

/// How sure a guess is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Certainty {
    /// This network and no other has these keys and shapes.
    Certain,
    /// Several networks have these keys and shapes.
    Ambiguous,
    /// No known network has them all, and this one has more of them than any other.
    Near,
}

/// What a checkpoint most likely is.
#[derive(Debug, Clone)]
pub struct Guess {
    /// The network.
    pub architecture: &'static Architecture,
    /// Its number of classes, where the checkpoint has its classifier.
    pub classes: Option<u32>,
    /// How sure that is.
    pub certainty: Certainty,
    /// Share of tensors that agree in key and shape, of the network's or the checkpoint's, whichever has more.
    pub agreement: f64,
    /// The most telling difference, where the network does not fit.
    pub difference: Option<String>,
}

/// Less agreement than this is chance: many networks share a few keys.
const LEAST_AGREEMENT: f64 = 0.5;

/// What the checkpoint most likely is; none where no network has even half of it.
#[must_use]
pub fn guess(shapes: &Shapes) -> Option<Guess> {
    let fits = fits(shapes);
    if let Some(&Fit { architecture, classes }) = fits.first() {
        let certainty = if fits.len() == 1 { Certainty::Certain } else { Certainty::Ambiguous };
        return Some(Guess { architecture, classes: Some(classes), certainty, agreement: 1.0, difference: None });
    }
    let nearest = all()
        .iter()
        .map(|architecture| (agreement(architecture, shapes), architecture))
        .max_by(|((one, _), _), ((other, _), _)| one.total_cmp(other));
    let ((agreement, classes), architecture) = nearest.filter(|((share, _), _)| *share >= LEAST_AGREEMENT)?;
    let difference = difference(architecture, shapes, None).err();
    Some(Guess { architecture, classes, certainty: Certainty::Near, agreement, difference })
}

/// The share of tensors that agree, and the classes of the checkpoint's classifier.
fn agreement(architecture: &Architecture, shapes: &Shapes) -> (f64, Option<u32>) {
    let found: BTreeMap<&str, &[u64]> =
        shapes.iter().filter_map(|(key, shape)| Some((architecture.canonical_key(key)?, shape.as_slice()))).collect();
    let classes = found.get(architecture.classifier_weight().as_str()).and_then(|shape| shape.first());
    let classes = classes.and_then(|&rows| u32::try_from(rows).ok()).filter(|&rows| rows > 0);
    let layout = architecture.layout(classes.unwrap_or(1));
    let agrees = |key: &str, shape: &[u64]| found.get(key).is_some_and(|found| *found == shape);
    let agreeing = layout.entries.iter().filter(|entry| agrees(&entry.key, &entry.shape)).count();
    (agreeing as f64 / layout.entries.len().max(found.len()) as f64, classes)
}

/// What keeps the checkpoint from being of the network (and of that number of classes, where given), as a sentence that
/// goes on from "the checkpoint": `does not fit resnet32x4: fc.weight is [10, 64], expected [100, 256]; it fits
/// resnet56`. None where it fits.
#[must_use]
pub fn mismatch(architecture: &Architecture, shapes: &Shapes, classes: Option<u32>) -> Option<String> {
    let why = difference(architecture, shapes, classes).err()?;
    let fits = fits(shapes);
    let advice = match fits.as_slice() {
        [] => "it fits no known architecture".to_owned(),
        [fit] if fit.architecture.name == architecture.name => format!("it was made for {} classes", fit.classes),
        fits => {
            let names: Vec<_> = fits.iter().map(|fit| fit.architecture.name).collect();
            format!("it fits {}", names.join(", "))
        }
    };
    Some(format!("does not fit {}: {why}; {advice}", architecture.name))
}

/// The number of classes where the checkpoint is of the network, or the most telling difference.
fn difference(architecture: &Architecture, shapes: &Shapes, classes: Option<u32>) -> Result<u32, String> {
    let mut found: BTreeMap<&str, (&str, &[u64])> = BTreeMap::new();
    for (key, shape) in shapes {
        if let Some(canonical) = architecture.canonical_key(key)
            && let Some((other, _)) = found.insert(canonical, (key, shape))
        {
            return Err(format!("it has both {other} and {key}"));
        }
    }
    // Where the checkpoint names no number of its own, 1 serves for the message.
    let own = found.get(architecture.classifier_weight().as_str()).and_then(|(_, shape)| shape.first());
    let own = own.and_then(|&rows| u32::try_from(rows).ok()).filter(|&rows| rows > 0);
    let layout = architecture.layout(classes.or(own).unwrap_or(1));
    wrong_shape(&layout, &found, true)
        .or_else(|| wrong_shape(&layout, &found, false))
        .or_else(|| missing(&layout, &found))
        .or_else(|| unexpected(&layout, &found))
        .map_or_else(|| own.ok_or_else(|| "its classifier has no classes".to_owned()), Err)
}

fn wrong_shape(layout: &Layout, found: &BTreeMap<&str, (&str, &[u64])>, classifier: bool) -> Option<String> {
    let is_classifier = |role| matches!(role, Role::ClassifierWeight | Role::ClassifierBias);
    layout.entries.iter().filter(|entry| is_classifier(entry.role) == classifier).find_map(|entry| {
        let (key, shape) = found.get(entry.key.as_str())?;
        (*shape != entry.shape).then(|| format!("{key} is {shape:?}, expected {:?}", entry.shape))
    })
}

fn missing(layout: &Layout, found: &BTreeMap<&str, (&str, &[u64])>) -> Option<String> {
    let mut missing = layout.entries.iter().filter(|entry| !found.contains_key(entry.key.as_str()));
    let first = missing.next()?;
    match missing.count() {
        0 => Some(format!("{} is missing", first.key)),
        more => Some(format!("{} and {more} more of its {} tensors are missing", first.key, layout.entries.len())),
    }
}

fn unexpected(layout: &Layout, found: &BTreeMap<&str, (&str, &[u64])>) -> Option<String> {
    let mut unexpected = found.iter().filter(|(canonical, _)| layout.entry(canonical).is_none());
    let (_, (first, _)) = unexpected.next()?;
    match unexpected.count() {
        0 => Some(format!("the network has no {first}")),
        more => Some(format!("the network has no {first}, nor {more} more of the checkpoint's tensors")),
    }
}
