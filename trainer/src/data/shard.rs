//! What part of the images is one process's, where several train together.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// One of `count` parts, by its number from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// Which.
    pub number: u32,
    /// Of how many.
    pub count: u32,
}

impl Share {
    /// All of it.
    pub const WHOLE: Self = Self { number: 0, count: 1 };

    /// Which of `total` rows. Parts follow each other and differ by one row at most, and those that come first have more:
    /// where there are fewer rows than parts, the last parts are empty.
    #[must_use]
    pub fn rows(self, total: usize) -> Range<usize> {
        let count = self.count.max(1) as usize;
        let start = |number: u32| (number as usize * total).div_ceil(count);
        start(self.number)..start(self.number + 1)
    }

    /// Rows of the largest part.
    #[must_use]
    pub fn largest(self, total: u32) -> u32 {
        total.div_ceil(self.count.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_whole_in_order_and_the_first_is_never_the_smallest() {
        for count in 1..=9 {
            for total in 0..40 {
                let parts: Vec<_> = (0..count).map(|number| Share { number, count }.rows(total)).collect();
                assert_eq!(parts.iter().cloned().flatten().collect::<Vec<_>>(), (0..total).collect::<Vec<_>>());
                let sizes = parts.iter().map(ExactSizeIterator::len);
                let (least, most) = (sizes.clone().min().unwrap(), sizes.max().unwrap());
                assert!(most - least <= 1 && parts[0].len() == most, "{count} parts of {total}: {parts:?}");
                let largest = Share { number: 0, count }.largest(total as u32);
                assert_eq!(most, largest as usize);
            }
        }
    }
}
