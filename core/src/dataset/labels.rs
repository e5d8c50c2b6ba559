//! Checks of labels.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::{Classes, Error};
use crate::text::{counted, quoted};

/// Most bytes of the names of all classes, with what keeping them takes: whoever looks at a data set keeps them all.
const MOST_BYTES: usize = 16 << 20;
/// Bytes that keeping a name takes beside its text.
const PER_NAME: usize = 64;
/// Most characters of a name in a message.
const SHOWN: usize = 64;

/// Counts the different labels of a split that are text: captions and ids are no classes.
#[derive(Debug, Default)]
pub(super) struct NameBudget {
    bytes: usize,
}

impl NameBudget {
    /// Counts a label that was not seen before.
    ///
    /// # Errors
    /// There are too many.
    pub(super) fn add(&mut self, path: &Path, name: &str, advice: &str) -> Result<(), Error> {
        self.bytes += name.len() + PER_NAME;
        if self.bytes <= MOST_BYTES {
            return Ok(());
        }
        let shown: String = name.chars().take(SHOWN).collect();
        let message = format!(
            "has more and longer different labels than classes can have, such as {shown} (their names may have {} MiB \
             together): {advice}",
            MOST_BYTES >> 20,
            shown = quoted(&shown)
        );
        Err(Error::invalid(path, message))
    }
}

/// Infers the classes from the labels of a split, for formats that do not store them. Labels count from 0 or from 1.
pub(super) fn count(path: &Path, labels: &[u32]) -> Result<Classes, Error> {
    let Some(&largest) = labels.iter().max() else { return Err(Error::invalid(path, "contains no images")) };
    // Every class must occur. So there are at most as many classes as labels, which also bounds the memory below.
    let present: HashSet<_> = labels.iter().collect();
    let gap = |first: u32| (first..=largest).find(|label| !present.contains(label));
    let first_label = u32::from(!present.contains(&0));
    match gap(first_label) {
        None => Ok(Classes { count: largest + 1 - first_label, names: None, first_label }),
        Some(missing) => Err(Error::invalid(
            path,
            format!(
                "has labels up to {largest}, but no label {missing}: number the classes 0, 1, 2, … without gaps, or \
                 add class names"
            ),
        )),
    }
}

/// Converts the labels of a split's images from image `first` on to classes.
pub(super) fn to_classes(
    path: &Path,
    split: &str,
    first: usize,
    labels: &mut [u32],
    classes: &Classes,
) -> Result<(), Error> {
    for (index, label) in labels.iter_mut().enumerate() {
        let class = label.checked_sub(classes.first_label).filter(|class| *class < classes.count);
        *label = class.ok_or_else(|| {
            let (index, count, from) = (first + index, classes.count, classes.first_label);
            let message = format!(
                "image {index} of the {split} split has label {label}, out of range: the data set has {}, numbered \
                 from {from}",
                counted(count, "class", "classes")
            );
            Error::invalid(path, message)
        })?;
    }
    Ok(())
}

/// Which names of classes may be meant to be the same.
pub(super) fn similar(classes: &Classes) -> Option<String> {
    let mut known: HashMap<String, &str> = HashMap::new();
    let mut pairs = Vec::new();
    for name in classes.names.iter().flatten() {
        match known.entry(name.trim().to_lowercase()) {
            Entry::Occupied(earlier) => pairs.push((*earlier.get(), name)),
            Entry::Vacant(place) => drop(place.insert(name)),
        }
    }
    let (one, other) = pairs.first()?;
    let more = match pairs.len() - 1 {
        0 => String::new(),
        more => format!(", and {}", counted(more as u64, "more pair", "more pairs")),
    };
    Some(format!(
        "classes whose names differ in case or blanks alone are different classes: {one} and {other}{more}",
        one = quoted(one),
        other = quoted(other)
    ))
}

/// What is guessed about labels that count from 1.
pub(super) fn note(classes: &Classes) -> Option<String> {
    let first = classes.first_label;
    (first > 0).then(|| {
        let last = classes.count + first - 1;
        format!("the labels are {first} to {last}: label {first} is the networks' class 0")
    })
}
