//! Which images a job trains and evaluates on.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

use super::subset::{Subset, hold_out, spread};
use super::{Dataset, Error, Images};
use crate::text::counted;

/// Classes that are named in a message.
const NAMED: usize = 5;

/// What a job says about the images.
#[derive(Debug, Clone, Copy, Default)]
pub struct SelectionRequest<'a> {
    pub train_split: Option<&'a str>,
    pub eval_split: Option<&'a str>,
    /// The fraction of the training split to evaluate on, instead of a split.
    pub eval_fraction: Option<f64>,
    /// Number of images to train on.
    pub limit: Option<u64>,
}

/// The images that a job trains and evaluates on.
#[derive(Debug, Clone)]
pub struct Selection {
    pub train: SelectedImages,
    pub eval: SelectedImages,
    /// What was decided, guessed or passed over.
    pub notes: Vec<String>,
    /// What is probably not intended.
    pub warnings: Vec<String>,
}

/// Images of a split.
#[derive(Debug, Clone)]
pub struct SelectedImages {
    pub split: String,
    /// Ascending; `None` for all.
    pub positions: Option<Vec<usize>>,
    /// The class of each.
    pub labels: Vec<u32>,
}

/// Why a job cannot use a data set.
#[derive(Debug, thiserror::Error)]
#[error("{error}")]
pub struct SelectionError {
    /// The field at fault, if it is one of the request's.
    pub field: Option<&'static str>,
    pub error: Error,
}

impl SelectedImages {
    fn of(split: String, labels: &[u32], positions: Option<Vec<usize>>) -> Self {
        let labels = match &positions {
            Some(positions) => positions.iter().map(|&position| labels[position]).collect(),
            None => labels.to_vec(),
        };
        Self { split, positions, labels }
    }

    /// SHA-256 of the positions, in hexadecimal; `None` for all images.
    #[must_use]
    pub fn digest(&self) -> Option<String> {
        let bytes =
            |positions: &Vec<usize>| positions.iter().flat_map(|at| (*at as u64).to_le_bytes()).collect::<Vec<_>>();
        self.positions.as_ref().map(|positions| hex::encode(Sha256::digest(bytes(positions))))
    }

    /// Opens them.
    ///
    /// # Errors
    /// A file is damaged or cannot be read.
    pub fn open(&self, dataset: &Dataset) -> Result<Box<dyn Images>, Error> {
        let images = dataset.split(&self.split)?;
        Ok(match &self.positions {
            Some(positions) => Box::new(Subset::new(images, positions.clone())),
            None => images,
        })
    }
}

impl Dataset {
    /// Chooses the images of a job and reads their labels.
    ///
    /// # Errors
    /// There is no such split, it is empty, a file is damaged, or the splits have different classes.
    pub fn select(&self, request: SelectionRequest<'_>) -> Result<Selection, SelectionError> {
        let at = |field| move |error| SelectionError { field: Some(field), error };
        let in_files = |error| SelectionError { field: None, error };
        let train_split = self.train_split(request.train_split).map_err(at("train_split"))?;
        let eval_split = match request.eval_fraction {
            Some(_) => None,
            None => Some(self.eval_split(request.eval_split).map_err(|error| {
                let advice = "; to evaluate on a part of the training split, set eval_fraction (such as 0.1)";
                at("eval_split")(error.advise(advice))
            })?),
        };
        let all = self.labels(&train_split).map_err(in_files)?;
        let mut notes = self.notes();
        let (train, eval) = match (eval_split, request.eval_fraction) {
            (Some(split), _) => {
                let labels = self.labels(&split).map_err(in_files)?;
                (None, SelectedImages { split, positions: None, labels })
            }
            (None, fraction) => {
                let fraction = fraction.unwrap_or_default();
                let (kept, held_out) = hold_out(&all, fraction);
                if held_out.is_empty() {
                    let message =
                        format!("no class of the {train_split} split has two images, so none can be held out");
                    return Err(at("eval_fraction")(Error::invalid(&self.path, message)));
                }
                notes.push(format!(
                    "eval_fraction {fraction} holds out {} of the {} images of the {train_split} split for evaluation, \
                     from each class in proportion and the same ones for every seed",
                    held_out.len(),
                    all.len()
                ));
                (Some(kept), SelectedImages::of(train_split.clone(), &all, Some(held_out)))
            }
        };
        let train = self.limit(request.limit, &all, train, &mut notes);
        let train = SelectedImages::of(train_split, &all, train);
        let is_trained_on = request.eval_fraction.is_none() && eval.split == train.split;
        let same_split = is_trained_on.then(|| {
            format!(
                "the student is evaluated on {:?}, the split that is trained on: accuracies will not show how good it \
                 is on other images. Name another split in dataset.eval_split, or set dataset.eval_fraction",
                eval.split
            )
        });
        let warnings =
            same_split.into_iter().chain(self.missing_classes(&train, &eval)).chain(self.lack_of_classes()).collect();
        Ok(Selection { train, eval, notes, warnings })
    }

    /// The positions that remain of `kept`, or of all images.
    fn limit(
        &self,
        limit: Option<u64>,
        all: &[u32],
        kept: Option<Vec<usize>>,
        notes: &mut Vec<String>,
    ) -> Option<Vec<usize>> {
        let available = kept.as_ref().map_or(all.len(), Vec::len);
        let limit = limit.map_or(available, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        if limit > available {
            let images = counted(available as u64, "training image", "training images");
            notes.push(format!("limit is {limit}, but the data set has {images}: all of them are used"));
        }
        if limit >= available {
            return kept;
        }
        let kept = kept.unwrap_or_else(|| (0..all.len()).collect());
        let labels: Vec<u32> = kept.iter().map(|&position| all[position]).collect();
        let chosen = spread(&labels, limit);
        let classes: BTreeSet<u32> = chosen.iter().map(|&index| labels[index]).collect();
        notes.push(format!(
            "limit takes {limit} of {available} training images, spread over {} of {} classes as the split has them \
             and the same for every seed",
            classes.len(),
            self.classes.count
        ));
        Some(chosen.into_iter().map(|index| kept[index]).collect())
    }

    /// A warning if there is nothing to tell apart.
    fn lack_of_classes(&self) -> Option<String> {
        (self.classes.count == 1).then(|| {
            "the data set has one class, so that every answer is right and nothing can be learned: add images of others"
                .to_owned()
        })
    }

    /// A warning if the evaluation has classes that are not trained on.
    fn missing_classes(&self, train: &SelectedImages, eval: &SelectedImages) -> Option<String> {
        let [trained, evaluated]: [BTreeSet<u32>; 2] =
            [train, eval].map(|selected| selected.labels.iter().copied().collect());
        let missing: Vec<u32> = evaluated.difference(&trained).copied().collect();
        if missing.is_empty() {
            return None;
        }
        let name = |class: &u32| match &self.classes.names {
            Some(names) => names[*class as usize].clone(),
            None => class.to_string(),
        };
        let more = if missing.len() > NAMED { ", …" } else { "" };
        let named: Vec<String> = missing.iter().take(NAMED).map(name).collect();
        Some(format!(
            "the training images lack {} of the {} classes that the evaluation has ({}{more}): the student cannot \
             learn them. Raise limit, or add images",
            missing.len(),
            evaluated.len(),
            named.join(", ")
        ))
    }
}
