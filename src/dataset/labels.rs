//! Checks of class numbers.

use std::collections::HashSet;
use std::path::Path;

use super::{Classes, Error};

/// The classes of a data set that does not say them, from the labels of its first split.
pub(super) fn count(path: &Path, labels: &[u32]) -> Result<Classes, Error> {
    let Some(&largest) = labels.iter().max() else { return Err(Error::invalid(path, "holds no images")) };
    // Each class must occur, so there are at most as many as labels; this also bounds the memory below.
    let gap = || {
        let present: HashSet<_> = labels.iter().collect();
        (0..=largest).find(|label| !present.contains(label))
    };
    match gap() {
        None => Ok(Classes { count: largest + 1, names: None }),
        Some(0) => Err(Error::invalid(
            path,
            format!("has labels up to {largest} but none that is 0: number the classes from 0 on"),
        )),
        Some(missing) => Err(Error::invalid(
            path,
            format!(
                "has labels up to {largest} but none that is {missing}: number the classes 0, 1, 2, … without a gap, \
                 or add class names"
            ),
        )),
    }
}

/// Refuses a label of a split that names no class.
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
