//! The part of the images that one rank of a run loads.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// One of `world_size` consecutive parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shard {
    /// From 0.
    pub rank: u32,
    pub world_size: u32,
}

impl Shard {
    /// The shard of a run with one rank.
    pub const WHOLE: Self = Self { rank: 0, world_size: 1 };

    /// The shard's rows out of `total`. Shards differ by at most one row and the larger ones come first, so that the
    /// last shards are empty when there are fewer rows than ranks.
    #[must_use]
    pub fn rows(self, total: usize) -> Range<usize> {
        let world_size = self.world_size.max(1) as usize;
        let start = |rank: u32| (rank as usize * total).div_ceil(world_size);
        start(self.rank)..start(self.rank + 1)
    }

    /// The number of rows of the largest shard.
    #[must_use]
    pub fn largest(self, total: u32) -> u32 {
        total.div_ceil(self.world_size.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_the_whole_in_order_and_the_first_is_never_the_smallest() {
        for world_size in 1..=9 {
            for total in 0..40 {
                let shards: Vec<_> = (0..world_size).map(|rank| Shard { rank, world_size }.rows(total)).collect();
                assert_eq!(shards.iter().cloned().flatten().collect::<Vec<_>>(), (0..total).collect::<Vec<_>>());
                let sizes = shards.iter().map(ExactSizeIterator::len);
                let (least, most) = (sizes.clone().min().unwrap(), sizes.max().unwrap());
                assert!(most - least <= 1 && shards[0].len() == most, "{world_size} shards of {total}: {shards:?}");
                let largest = Shard { rank: 0, world_size }.largest(total as u32);
                assert_eq!(most, largest as usize);
            }
        }
    }
}
