//! Matches checkpoints to networks by their keys and shapes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::layout::{Layout, Role};
use super::{Architecture, all};
use crate::text::counted;

/// Shapes of a checkpoint's tensors, by key.
pub type Shapes = BTreeMap<String, Vec<u64>>;

/// A network that matches a checkpoint.
#[derive(Debug, Clone, Copy)]
pub struct ArchitectureFit {
    pub architecture: &'static Architecture,
    /// Number of classes, from the classifier's shape.
    pub classes: u32,
}

/// Most tensors of a checkpoint that is compared with networks. The largest network has about a thousand, counters
/// included, and a comparison takes time for each tensor and network.
const MOST_TENSORS: usize = 20_000;

/// All networks that match a checkpoint, in the order of [`all`].
#[must_use]
pub fn fits(shapes: &Shapes) -> Vec<ArchitectureFit> {
    if shapes.len() > MOST_TENSORS {
        return Vec::new();
    }
    let fit = |architecture: &'static Architecture| {
        let classes = difference(architecture, shapes, None).ok()?;
        Some(ArchitectureFit { architecture, classes })
    };
    all().iter().filter_map(fit).collect()
}

/// How certain a guess is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Certainty {
    /// Exactly this network has these keys and shapes.
    Certain,
    /// Several networks have these keys and shapes.
    Ambiguous,
    /// No known network has all of these keys and shapes; this one has the most.
    Near,
}

/// The most likely network of a checkpoint.
#[derive(Debug, Clone)]
pub struct ArchitectureGuess {
    pub architecture: &'static Architecture,
    /// Number of classes; `None` if the checkpoint lacks the classifier.
    pub classes: Option<u32>,
    pub certainty: Certainty,
    /// Tensors that agree in key and shape, as a fraction of the network's or the checkpoint's tensors, whichever are
    /// more.
    pub agreement: f64,
    /// The most informative difference, unless the network fits.
    pub difference: Option<String>,
}

/// Lower agreement is chance: many networks have a few keys in common.
const LEAST_AGREEMENT: f64 = 0.5;

/// The most likely network of a checkpoint; `None` if no network agrees with at least half of it.
#[must_use]
pub fn guess(shapes: &Shapes) -> Option<ArchitectureGuess> {
    if shapes.len() > MOST_TENSORS {
        return None;
    }
    let fits = fits(shapes);
    if let Some(&ArchitectureFit { architecture, classes }) = fits.first() {
        let certainty = if fits.len() == 1 { Certainty::Certain } else { Certainty::Ambiguous };
        return Some(ArchitectureGuess {
            architecture,
            classes: Some(classes),
            certainty,
            agreement: 1.0,
            difference: None,
        });
    }
    let nearest = all()
        .iter()
        .map(|architecture| (agreement(architecture, shapes), architecture))
        .max_by(|((one, _), _), ((other, _), _)| one.total_cmp(other));
    let ((agreement, classes), architecture) = nearest.filter(|((share, _), _)| *share >= LEAST_AGREEMENT)?;
    let difference = difference(architecture, shapes, None).err();
    Some(ArchitectureGuess { architecture, classes, certainty: Certainty::Near, agreement, difference })
}

/// The fraction of tensors that agree, and the number of classes of the checkpoint's classifier.
fn agreement(architecture: &Architecture, shapes: &Shapes) -> (f64, Option<u32>) {
    let found: BTreeMap<&str, &[u64]> =
        shapes.iter().filter_map(|(key, shape)| Some((architecture.canonical_key(key)?, shape.as_slice()))).collect();
    let classes = classes_of(architecture, |key| found.get(key).copied());
    let layout = architecture.layout(classes.unwrap_or(1));
    let agrees = |key: &str, shape: &[u64]| found.get(key).is_some_and(|found| *found == shape);
    let agreeing = layout.entries.iter().filter(|entry| agrees(&entry.key, &entry.shape)).count();
    (agreeing as f64 / layout.entries.len().max(found.len()) as f64, classes)
}

/// Why a checkpoint does not fit a network (with that number of classes, if given); `None` if it fits. A predicate that
/// continues "the checkpoint": `does not fit resnet32x4: fc.weight is [10, 64], expected [100, 256]; it fits resnet56`.
#[must_use]
pub fn mismatch(architecture: &Architecture, shapes: &Shapes, classes: Option<u32>) -> Option<String> {
    let why = difference(architecture, shapes, classes).err()?;
    let fits = fits(shapes);
    let advice = match fits.as_slice() {
        [] => "it fits no known architecture".to_owned(),
        [fit] if fit.architecture.name == architecture.name => {
            format!("it has {}", counted(fit.classes, "class", "classes"))
        }
        fits => {
            let names: Vec<_> = fits.iter().map(|fit| fit.architecture.name).collect();
            format!("it fits {}", names.join(", "))
        }
    };
    Some(format!("does not fit {}: {why}; {advice}", architecture.name))
}

/// Why a network with this number of `classes` can neither learn nor teach a data set with `others`; `None` if the
/// numbers are equal. `network` and `dataset` name them in the sentence.
#[must_use]
pub fn class_mismatch(network: &str, classes: u32, dataset: &str, others: u32) -> Option<String> {
    let own = counted(classes, "class", "classes");
    let mismatch = || format!("{network} has {own}, but {dataset} has {others}: both must have the same classes");
    (classes != others).then(mismatch)
}

/// The number of classes if the checkpoint fits the network, or else the most informative difference.
fn difference(architecture: &Architecture, shapes: &Shapes, classes: Option<u32>) -> Result<u32, String> {
    let mut found: BTreeMap<&str, (&str, &[u64])> = BTreeMap::new();
    for (key, shape) in shapes {
        if let Some(canonical) = architecture.canonical_key(key)
            && let Some((other, _)) = found.insert(canonical, (key, shape))
        {
            return Err(format!("it contains both {other} and {key}"));
        }
    }
    // If the number of classes is unknown, 1 stands in for the message.
    let own = classes_of(architecture, |key| found.get(key).map(|(_, shape)| *shape));
    let layout = architecture.layout(classes.or(own).unwrap_or(1));
    wrong_shape(&layout, &found, is_classifier)
        .or_else(|| wrong_shape(&layout, &found, |role| !is_classifier(role)))
        .or_else(|| missing(&layout, &found))
        .or_else(|| unexpected(&layout, &found))
        .map_or_else(|| own.ok_or_else(|| "its classifier has no classes".to_owned()), Err)
}

/// The number of classes of a checkpoint's classifier: the rows of its weight, or of its bias where the weight is
/// missing or stored under other names, as by `weight_norm`.
fn classes_of<'a>(architecture: &Architecture, shape_of: impl Fn(&str) -> Option<&'a [u64]>) -> Option<u32> {
    let rows = |key: &str| shape_of(key).and_then(|shape| u32::try_from(*shape.first()?).ok()).filter(|&rows| rows > 0);
    rows(&architecture.classifier_weight()).or_else(|| rows(&architecture.classifier_bias()))
}

fn is_classifier(role: Role) -> bool {
    matches!(role, Role::ClassifierWeight | Role::ClassifierBias)
}

fn wrong_shape(
    layout: &Layout,
    found: &BTreeMap<&str, (&str, &[u64])>,
    is_checked: impl Fn(Role) -> bool,
) -> Option<String> {
    layout.entries.iter().filter(|entry| is_checked(entry.role)).find_map(|entry| {
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
