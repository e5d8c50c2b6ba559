//! Checks of labels.

use std::collections::HashSet;
use std::path::Path;

use super::{Classes, Error};

/// Infers the number of classes from the labels of a split, for formats that do not store it.
pub(super) fn count(path: &Path, labels: &[u32]) -> Result<Classes, Error> {
    let Some(&largest) = labels.iter().max() else { return Err(Error::invalid(path, "contains no images")) };
    // Every class must occur. So there are at most as many classes as labels, which also bounds the memory below.
    let gap = || {
        let present: HashSet<_> = labels.iter().collect();
        (0..=largest).find(|label| !present.contains(label))
    };
    match gap() {
        None => Ok(Classes { count: largest + 1, names: None }),
        Some(0) => {
            Err(Error::invalid(path, format!("has labels up to {largest}, but no label 0: number the classes from 0")))
        }
        Some(missing) => Err(Error::invalid(
            path,
            format!(
                "has labels up to {largest}, but no label {missing}: number the classes 0, 1, 2, … without gaps, or add \
                 class names"
            ),
        )),
    }
}

/// Checks that all labels of a split are less than the number of classes.
pub(super) fn check(path: &Path, split: &str, labels: &[u32], classes: u32) -> Result<(), Error> {
    match labels.iter().position(|&label| label >= classes) {
        None => Ok(()),
        Some(index) => Err(Error::invalid(
            path,
            format!(
                "image {index} of the {split} split has label {}, out of range: the data set has {classes} classes, \
                 numbered from 0",
                labels[index]
            ),
        )),
    }
}
