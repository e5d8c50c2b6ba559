//! What the teacher sees in the regions of the evaluation split: how often, and where in the image, a region disagrees
//! with the whole image, and which classes it predicts instead. This depends on the teacher and the images alone, so it
//! is counted once, during the teacher's evaluation.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::error::Result;
use crate::loss::sdd::{Distillation, Regions};

/// Pairs of classes in a report.
const LARGEST_PAIRS: usize = 200;

/// The content of `regions.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegionReport {
    pub images: u64,
    /// Fraction of the regions of all scales that are complementary.
    pub complementary_fraction: f64,
    /// In the specification's order.
    pub scales: Vec<ScaleReport>,
    /// What complementary regions predict instead of the class of the whole image, the most frequent pairs first.
    pub votes: Vec<Vote>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScaleReport {
    /// m, for m×m regions.
    pub scale: u32,
    /// Fraction of its regions that are complementary.
    pub complementary_fraction: f64,
    /// The fraction at each position in the image: m rows of m.
    pub map: Vec<Vec<f64>>,
}

/// Complementary regions of one class in images of another, as the teacher predicts them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// The class that the teacher predicts for the whole image.
    pub predicted: u32,
    /// Its name, if the data set has names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_name: Option<String>,
    /// The class that the teacher predicts for the region.
    pub vote: u32,
    /// Its name, if the data set has names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vote_name: Option<String>,
    /// The number of regions, over all scales.
    pub regions: u64,
    /// How many of them are in images whose label is `vote`, so that the region is right and the whole image wrong.
    pub right: u64,
}

/// Collects batches on the device. Only [`Tally::report`] waits for it.
#[derive(Debug, Default)]
pub struct Tally {
    batches: Vec<CountedBatch>,
}

#[derive(Debug)]
struct CountedBatch {
    /// The predicted class of each region: [B, N]
    votes: Tensor,
    /// The predicted class of the whole image: `[B]`
    predicted: Tensor,
    /// `[B]`
    labels: Tensor,
    /// Which regions are complementary: [B, N]
    complementary: Tensor,
}

/// Regions with one vote in images of one predicted class.
#[derive(Debug, Default)]
struct VoteCount {
    regions: u64,
    /// Those of `regions` whose vote is the label.
    right: u64,
}

impl Tally {
    /// Adds a batch of the teacher's regions with its labels `[B]`.
    pub fn add(&mut self, distillation: &Distillation, teacher: &Regions, labels: &Tensor) {
        let complementary = distillation.agrees(teacher, labels).logical_not();
        let votes = teacher.local.argmax(-1, false).to_kind(Kind::Int);
        let predicted = teacher.global.argmax(-1, false).to_kind(Kind::Int);
        let labels = labels.to_kind(Kind::Int);
        self.batches.push(CountedBatch { votes, predicted, labels, complementary });
    }

    /// Counts everything. Waits for the device.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn report(self, scales: &[u32], names: Option<&[String]>) -> Result<RegionReport> {
        let regions: usize = scales.iter().map(|&scale| (scale * scale) as usize).sum();
        let mut complementary_at = vec![0_u64; regions];
        let mut votes_of: BTreeMap<(i32, i32), VoteCount> = BTreeMap::new();
        let mut images = 0_u64;
        for CountedBatch { votes, predicted, labels, complementary } in self.batches {
            let votes = Vec::<i32>::try_from(votes.flatten(0, -1))?;
            let complementary = Vec::<bool>::try_from(complementary.flatten(0, -1))?;
            let (predicted, labels) = (Vec::<i32>::try_from(predicted)?, Vec::<i32>::try_from(labels)?);
            images += labels.len() as u64;
            for (index, (vote, is_complementary)) in votes.into_iter().zip(complementary).enumerate() {
                if !is_complementary {
                    continue;
                }
                let image = index / regions;
                complementary_at[index % regions] += 1;
                let count = votes_of.entry((predicted[image], vote)).or_default();
                count.regions += 1;
                count.right += u64::from(labels[image] == vote);
            }
        }
        let fraction = |count: u64, places: usize| count as f64 / (images.max(1) * places as u64) as f64;
        let mut rest = complementary_at.as_slice();
        let of_scale = |&scale: &u32| {
            let side = scale as usize;
            let (places, others) = rest.split_at(side * side);
            rest = others;
            ScaleReport {
                scale,
                complementary_fraction: fraction(places.iter().sum(), places.len()),
                map: places.chunks(side).map(|row| row.iter().map(|&count| fraction(count, 1)).collect()).collect(),
            }
        };
        let scales = scales.iter().map(of_scale).collect();
        let name = |class: i32| names?.get(usize::try_from(class).ok()?).cloned();
        let vote = |((predicted, vote), VoteCount { regions, right }): ((i32, i32), VoteCount)| Vote {
            predicted: predicted.unsigned_abs(),
            predicted_name: name(predicted),
            vote: vote.unsigned_abs(),
            vote_name: name(vote),
            regions,
            right,
        };
        let mut votes: Vec<Vote> = votes_of.into_iter().map(vote).collect();
        // The sort is stable: pairs of the same frequency stay ordered by class.
        votes.sort_by_key(|vote| std::cmp::Reverse(vote.regions));
        votes.truncate(LARGEST_PAIRS);
        let complementary_fraction = fraction(complementary_at.iter().sum(), regions);
        Ok(RegionReport { images, complementary_fraction, scales, votes })
    }
}
