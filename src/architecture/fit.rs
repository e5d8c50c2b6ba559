//! Which networks a checkpoint is of, from its keys and shapes alone.

use std::collections::BTreeMap;

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
