//! The parts of a batch, which are computed one after the other to save memory.

use tch::Tensor;

use crate::data::{Portion, Shard};

/// Consecutive images of a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BatchPart {
    index: u32,
    parts: u32,
    pub start: i64,
    /// Number of images. A part without any computes the first image of the batch with weight 0, because all ranks must
    /// compute the same number of parts.
    pub count: i64,
    /// Share of the batch's images; `None` for all.
    pub weight: Option<f64>,
}

/// The parts of a batch of `images`.
pub fn parts(images: i64, parts: u32) -> impl Iterator<Item = BatchPart> {
    let parts = parts.max(1);
    (0..parts).map(move |index| {
        let shard = Shard { rank: index, world_size: parts };
        let rows = shard.rows(usize::try_from(images).unwrap_or(0));
        let (start, count) = (rows.start as i64, rows.len() as i64);
        let weight = (parts > 1).then(|| count as f64 / images.max(1) as f64);
        BatchPart { index, parts, start: if count == 0 { 0 } else { start }, count, weight }
    })
}

/// How many parts a batch is computed in, of `wanted`: the same on all ranks, and none of them empty unless images
/// cannot be read.
#[must_use]
pub fn number(wanted: u32, portion: &Portion, world_size: u32) -> u32 {
    let least = u32::try_from(portion.batch_size / world_size.max(1) as usize).unwrap_or(u32::MAX);
    wanted.min(least).max(1)
}

impl BatchPart {
    #[must_use]
    pub fn is_first(&self) -> bool {
        self.index == 0
    }

    /// The rows of `batch` [B, …] that are in this part, at least one.
    pub fn of(&self, batch: &Tensor) -> Tensor {
        if self.parts == 1 { batch.shallow_clone() } else { batch.narrow(0, self.start, self.count.max(1)) }
    }

    /// A number that no other part of any step has, from the step's number: int64 scalars.
    pub fn number(&self, step: &Tensor) -> Tensor {
        if self.parts == 1 { step.shallow_clone() } else { step * i64::from(self.parts) + i64::from(self.index) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_the_batch_and_their_weights_are_one() {
        for (images, count) in [(8, 1), (8, 3), (7, 7), (2, 5)] {
            let all: Vec<BatchPart> = parts(images, count).collect();
            assert_eq!(all.len(), count as usize);
            assert_eq!(all.iter().map(|part| part.count).sum::<i64>(), images);
            let weights: f64 = all.iter().map(|part| part.weight.unwrap_or(1.0)).sum();
            assert!((weights - 1.0).abs() < 1e-12, "{all:?}");
            let mut next = 0;
            for part in all.iter().filter(|part| part.count > 0) {
                assert_eq!(part.start, next);
                next += part.count;
            }
        }
    }

    #[test]
    fn all_ranks_compute_as_many_parts() {
        let portion = |batch_size| Portion { rows: 0..0, batch_size };
        assert_eq!(number(4, &portion(64), 2), 4);
        assert_eq!(number(4, &portion(7), 2), 3);
        assert_eq!(number(4, &portion(1), 2), 1);
        assert_eq!(number(1, &portion(64), 1), 1);
    }
}
