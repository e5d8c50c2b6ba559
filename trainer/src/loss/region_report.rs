//! What the teacher sees in the regions of the evaluation split: how often, and where in the image, a region disagrees
//! with the whole, and which classes such regions speak for. It depends on the teacher and the images alone, so it is
//! counted once, along with the teacher's evaluation.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tch::{Kind, Tensor};

use crate::error::Result;
use crate::loss::sdd::{Distillation, Regions};

/// So many pairs of classes are told at most.
const TOLD: usize = 200;

/// `regions.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Images counted.
    pub images: u64,
    /// Share of all regions of all scales that are complementary.
    pub complementary_fraction: f64,
    /// One entry per scale, in the specification's order.
    pub scales: Vec<Scale>,
    /// What complementary regions speak for instead of the class that the whole image is taken for: the most frequent
    /// pairs first.
    pub votes: Vec<Vote>,
}

/// The regions of one scale.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scale {
    /// m: there are m×m regions.
    pub scale: u32,
    /// Share of its regions that are complementary.
    pub complementary_fraction: f64,
    /// The share at each place of the image: m rows of m.
    pub map: Vec<Vec<f64>>,
}

/// A pair of classes that complementary regions tell differently from the whole image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// The class that the teacher takes the whole image for.
    pub predicted: u32,
    /// Its name, where the data set says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub predicted_name: Option<String>,
    /// The class that the teacher takes the region for.
    pub vote: u32,
    /// Its name, where the data set says it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vote_name: Option<String>,
    /// How many regions, of all scales.
    pub regions: u64,
    /// How many of those lie in images whose label is `vote`: there the region knows better than the whole.
    pub right: u64,
}

/// Gathers batches on the device; nothing waits for it before [`Tally::report`].
#[derive(Debug, Default)]
pub struct Tally {
    /// Per batch: what regions [B, N] and whole images `[B]` are taken for, labels `[B]`, and which regions are
    /// complementary [B, N].
    batches: Vec<[Tensor; 4]>,
}

impl Tally {
    /// Counts a batch of the teacher's regions with its labels `[B]`.
    pub fn add(&mut self, distillation: &Distillation, teacher: &Regions, labels: &Tensor) {
        let complementary = distillation.agrees(teacher, labels).logical_not();
        let votes = teacher.local.argmax(-1, false).to_kind(Kind::Int);
        let predicted = teacher.global.argmax(-1, false).to_kind(Kind::Int);
        self.batches.push([votes, predicted, labels.to_kind(Kind::Int), complementary]);
    }

    /// Everything that was counted. Waits for the device.
    ///
    /// # Errors
    /// libtorch fails.
    pub fn report(self, scales: &[u32], names: Option<&[String]>) -> Result<Report> {
        let regions: usize = scales.iter().map(|&scale| (scale * scale) as usize).sum();
        let mut complementary_at = vec![0_u64; regions];
        let mut votes_of: BTreeMap<(i32, i32), [u64; 2]> = BTreeMap::new();
        let mut images = 0_u64;
        for [votes, predicted, labels, complementary] in self.batches {
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
                let [count, right] = votes_of.entry((predicted[image], vote)).or_default();
                *count += 1;
                *right += u64::from(labels[image] == vote);
            }
        }
        let share = |count: u64, places: usize| count as f64 / (images.max(1) * places as u64) as f64;
        let mut rest = complementary_at.as_slice();
        let of_scale = |&scale: &u32| {
            let side = scale as usize;
            let (places, others) = rest.split_at(side * side);
            rest = others;
            Scale {
                scale,
                complementary_fraction: share(places.iter().sum(), places.len()),
                map: places.chunks(side).map(|row| row.iter().map(|&count| share(count, 1)).collect()).collect(),
            }
        };
        let scales = scales.iter().map(of_scale).collect();
        let name = |class: i32| names?.get(usize::try_from(class).ok()?).cloned();
        let vote = |((predicted, vote), [regions, right]): ((i32, i32), [u64; 2])| Vote {
            predicted: predicted.unsigned_abs(),
            predicted_name: name(predicted),
            vote: vote.unsigned_abs(),
            vote_name: name(vote),
            regions,
            right,
        };
        let mut votes: Vec<Vote> = votes_of.into_iter().map(vote).collect();
        // Stable: pairs of the same frequency stay in the order of their classes.
        votes.sort_by_key(|vote| std::cmp::Reverse(vote.regions));
        votes.truncate(TOLD);
        let complementary_fraction = share(complementary_at.iter().sum(), regions);
        Ok(Report { images, complementary_fraction, scales, votes })
    }
}
