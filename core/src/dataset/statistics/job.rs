//! What the statistics of a data set mean for a job.

use super::{DatasetStatistics, Duplicates, ExaminedSplit, UndecodableImage};
use crate::dataset::Selection;
use crate::dataset::damage::tolerated_damage;
use crate::text::counted;

/// Images that are named in a message.
const NAMED: usize = 3;

/// Which splits a job uses, and how many of their images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsedSplits {
    train: String,
    eval: String,
    unlabelled: Option<String>,
    /// Number of images to train on, with labels and without.
    trained: u64,
    evaluated: u64,
    /// Whether the images to evaluate on are a part of the training split that is not trained on.
    is_held_out: bool,
}

impl UsedSplits {
    #[must_use]
    pub fn of(selection: &Selection) -> Self {
        let Selection { train, eval, unlabelled, .. } = selection;
        Self {
            train: train.split.clone(),
            eval: eval.split.clone(),
            unlabelled: unlabelled.as_ref().map(|(split, _)| split.clone()),
            trained: train.labels.len() as u64 + unlabelled.as_ref().map_or(0, |(_, images)| *images),
            evaluated: eval.labels.len() as u64,
            is_held_out: eval.split == train.split && eval.positions.is_some(),
        }
    }

    /// Each once, those to train on first.
    fn names(&self) -> Vec<&str> {
        let mut names = vec![self.train.as_str()];
        for name in self.unlabelled.iter().chain([&self.eval]) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
        names
    }
}

impl DatasetStatistics {
    /// What the user of a job on these splits should know: images that are both trained on and evaluated on, or have
    /// copies of another class, and images that will be left out.
    #[must_use]
    pub fn warnings_of_job(&self, used: &UsedSplits) -> Vec<String> {
        let mut warnings: Vec<String> = self.duplicates.iter().flat_map(|pair| pair.warnings_of_job(used)).collect();
        let names = used.names();
        let split = |name: &str| self.splits.iter().find(|split| split.split == name);
        warnings.extend(names.iter().filter_map(|name| split(name)?.left_out()));
        let mut trained = vec![used.train.as_str()];
        trained.extend(used.unlabelled.as_deref().filter(|split| *split != used.train));
        for (does, splits, images) in
            [("trains on", trained, used.trained), ("evaluates on", vec![used.eval.as_str()], used.evaluated)]
        {
            let undecodable: u64 = splits.iter().filter_map(|name| split(name)).map(|split| split.undecodable).sum();
            let tolerated = tolerated_damage(images);
            if undecodable > tolerated {
                warnings.push(format!(
                    "the job fails if more than {tolerated} of the {} that it {does} cannot be decoded: repair or \
                     remove them",
                    counted(images, "image", "images")
                ));
            }
        }
        warnings
    }
}

impl Duplicates {
    fn warnings_of_job(&self, used: &UsedSplits) -> Vec<String> {
        let Self { splits: [split, other], images, contradictory, .. } = self;
        let is_pair =
            |one: &str, another: &str| (split == one && other == another) || (split == another && other == one);
        let (train, eval) = (used.train.as_str(), used.eval.as_str());
        let count = counted(*images, "image", "images");
        let mut warnings = Vec::new();
        if train != eval && is_pair(train, eval) {
            warnings.push(format!(
                "the {split} split shares {count} with the {other} split: the accuracy on it will be better than on \
                 other images"
            ));
        }
        if used.is_held_out && is_pair(train, train) {
            let has = if *images == 1 { "that is a copy of an earlier one" } else { "that are copies of earlier ones" };
            warnings.push(format!(
                "the {split} split has {count} {has}: where one is held out and the other is trained on, the accuracy \
                 will be better than on other images"
            ));
        }
        if let Some(unlabelled) = used.unlabelled.as_deref().filter(|name| *name != eval)
            && is_pair(unlabelled, eval)
        {
            warnings.push(format!(
                "the {split} split shares {count} with the {other} split: they are trained on without their labels and \
                 evaluated on"
            ));
        }
        let is_used = |name: &str| name == train || name == eval;
        if *contradictory > 0 && is_used(split) && is_used(other) {
            let count = counted(*contradictory, "image", "images");
            let have = if *contradictory == 1 { "has a copy" } else { "have copies" };
            warnings.push(format!("{count} of the {split} split {have} of another class in the {other} split"));
        }
        warnings
    }
}

impl ExaminedSplit {
    /// That jobs leave some of its images out.
    fn left_out(&self) -> Option<String> {
        let Self { split, examined, undecodable, examples, .. } = self;
        if *undecodable == 0 {
            return None;
        }
        let name = |UndecodableImage { position, file, .. }: &UndecodableImage| match file {
            Some(file) => format!("image {position} in {file}"),
            None => format!("image {position}"),
        };
        let named: Vec<String> = examples.iter().take(NAMED).map(name).collect();
        let more = if *undecodable > named.len() as u64 { ", …" } else { "" };
        Some(format!(
            "{undecodable} of {} of the {split} split cannot be decoded and will be left out: {}{more}",
            counted(*examined, "image", "images"),
            named.join(", ")
        ))
    }
}
