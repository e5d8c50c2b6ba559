//! Which images a job trains and evaluates on.

use std::collections::{BTreeMap, BTreeSet};

use sha2::{Digest, Sha256};

use super::folds::{Fold, HeldOut, split_off};
use super::subset::{Subset, cap, spread};
use super::{Dataset, Error, Images};
use crate::text::{counted, quoted};

/// Classes that are named in a message.
const NAMED: usize = 5;

/// What a job says about the images.
#[derive(Debug, Clone, Copy, Default)]
pub struct SelectionRequest<'a> {
    pub train_split: Option<&'a str>,
    pub eval_split: Option<&'a str>,
    /// The fraction of the training split to evaluate on, instead of a split.
    pub eval_fraction: Option<f64>,
    /// The part of the training split to evaluate on, instead of a split or a fraction.
    pub fold: Option<Fold>,
    /// Chooses the images of fraction and fold at random.
    pub split_seed: Option<u64>,
    /// The split to train on without labels, besides the training split.
    pub unlabelled_split: Option<&'a str>,
    /// Number of images to train on; 0 for those without labels alone.
    pub limit: Option<u64>,
    /// Number of images of each class to train on.
    pub limit_per_class: Option<u64>,
}

impl SelectionRequest<'_> {
    /// Whether no image is trained on with its label.
    fn needs_no_labels(&self) -> bool {
        self.limit == Some(0) && self.unlabelled_split.is_some()
    }

    /// The part of the training split to evaluate on, if it is not another split; and the field that says so.
    fn held_out(&self) -> Option<(&'static str, HeldOut)> {
        let fold = self.fold.map(|fold| ("fold", HeldOut::Fold(fold)));
        fold.or(self.eval_fraction.map(|fraction| ("eval_fraction", HeldOut::Fraction(fraction))))
    }
}

/// The images that a job trains and evaluates on.
#[derive(Debug, Clone)]
pub struct Selection {
    pub train: SelectedImages,
    pub eval: SelectedImages,
    /// Images to train on without labels: the name of the split, and their number.
    pub unlabelled: Option<(String, u64)>,
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
        let train_split = match self.train_split(request.train_split) {
            // Any split with labels has the classes.
            Err(_) if request.needs_no_labels() && request.train_split.is_none() => {
                self.eval_split(request.eval_split).map_err(at("eval_split"))?
            }
            found => found.map_err(at("train_split"))?,
        };
        let held_out = request.held_out();
        let eval_split = match held_out {
            Some(_) => None,
            None => Some(self.eval_split(request.eval_split).map_err(|error| {
                let advice = "; to evaluate on a part of the training split, set eval_fraction (such as 0.1)";
                at("eval_split")(error.advise(advice))
            })?),
        };
        let all = self.labels(&train_split).map_err(in_files)?;
        let mut notes = self.notes();
        let (train, eval) = match (eval_split, held_out) {
            (None, Some((field, held_out))) => {
                let (kept, evaluated) = split_off(&all, held_out, request.split_seed);
                if evaluated.is_empty() || kept.is_empty() {
                    return Err(at(field)(Error::invalid(&self.path, nothing_held_out(held_out, &train_split))));
                }
                notes.push(note_of(held_out, request.split_seed, &held_out_counts(&all, &evaluated), &train_split));
                (Some(kept), SelectedImages::of(train_split.clone(), &all, Some(evaluated)))
            }
            (split, _) => {
                let split = split.unwrap_or_default();
                let labels = self.labels(&split).map_err(in_files)?;
                (None, SelectedImages { split, positions: None, labels })
            }
        };
        let train = self.limit_per_class(request.limit_per_class, &all, train, &mut notes);
        let train = self.limit(request.limit, &all, train, &mut notes);
        let train = SelectedImages::of(train_split, &all, train);
        let unlabelled = request.unlabelled_split.map(|split| self.unlabelled(split, &train)).transpose();
        let unlabelled = unlabelled.map_err(at("unlabelled_split"))?;
        if let Some((split, images)) = &unlabelled {
            notes.push(format!(
                "the {images} images of the {split} split are distilled from the teacher alone, beside {} with labels",
                train.labels.len()
            ));
        }
        let leaks = leaks(&train, &eval, held_out.is_some(), unlabelled.as_ref());
        let scarce = held_out.and_then(|(_, held_out)| self.scarce_classes(held_out, &all));
        let lacking = self.missing_classes(&train, &eval).into_iter().chain(scarce).chain(self.lack_of_classes());
        let warnings = leaks.chain(lacking).collect();
        Ok(Selection { train, eval, unlabelled, notes, warnings })
    }

    /// A split to train on without labels, and its number of images.
    fn unlabelled(&self, wanted: &str, train: &SelectedImages) -> Result<(String, u64), Error> {
        let split = self.any_split(wanted)?;
        if split == train.split && !train.labels.is_empty() {
            let message = format!("the {split} split is trained on with its labels already: name another one");
            return Err(Error::invalid(&self.path, message));
        }
        let images = self.layout.images(&split)?;
        Ok((split, images))
    }

    /// The positions that remain of `kept`, or of all images, if each class has that many at most.
    fn limit_per_class(
        &self,
        limit: Option<u64>,
        all: &[u32],
        kept: Option<Vec<usize>>,
        notes: &mut Vec<String>,
    ) -> Option<Vec<usize>> {
        let Some(limit) = limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)) else { return kept };
        let available = kept.clone().unwrap_or_else(|| (0..all.len()).collect());
        let labels: Vec<u32> = available.iter().map(|&position| all[position]).collect();
        let chosen = cap(&labels, limit);
        let mut counts = vec![0_usize; self.classes.count as usize];
        labels.iter().for_each(|&label| counts[label as usize] += 1);
        let short = counts.iter().filter(|&&count| count < limit).count();
        notes.push(format!(
            "limit_per_class takes {} of {} training images, {limit} of each class and the same for every seed{}",
            chosen.len(),
            labels.len(),
            match short {
                0 => String::new(),
                _ => format!("; {short} of {} classes have fewer, of which all are used", counts.len()),
            }
        ));
        if chosen.len() == labels.len() {
            return kept;
        }
        Some(chosen.into_iter().map(|index| available[index]).collect())
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
        if limit == 0 {
            notes.push("limit is 0: no image is trained on with its label".to_owned());
            return Some(Vec::new());
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

    /// Warnings if the evaluation has classes that are not trained on, and the reverse.
    fn missing_classes(&self, train: &SelectedImages, eval: &SelectedImages) -> Vec<String> {
        let [trained, evaluated]: [BTreeSet<u32>; 2] =
            [train, eval].map(|selected| selected.labels.iter().copied().collect());
        // Without labels, nobody knows what is missing.
        if trained.is_empty() {
            return Vec::new();
        }
        let untrained: Vec<u32> = evaluated.difference(&trained).copied().collect();
        let unevaluated: Vec<u32> = trained.difference(&evaluated).copied().collect();
        let mut warnings = Vec::new();
        if !untrained.is_empty() {
            warnings.push(format!(
                "the training images lack {} of the {} classes that the evaluation has ({}): the student cannot learn \
                 them. Raise limit, or add images",
                untrained.len(),
                evaluated.len(),
                self.named(&untrained)
            ));
        }
        if !unevaluated.is_empty() {
            warnings.push(format!(
                "the evaluation images lack {} of the {} classes that are trained on ({}): no accuracy shows whether \
                 the student learns them. Evaluate on more images",
                unevaluated.len(),
                trained.len(),
                self.named(&unevaluated)
            ));
        }
        warnings
    }

    /// A warning if some folds have no image of a class.
    fn scarce_classes(&self, held_out: HeldOut, all: &[u32]) -> Option<String> {
        let HeldOut::Fold(Fold { of, .. }) = held_out else { return None };
        let counts = held_out_counts(all, &[]);
        let scarce = counts.iter().filter(|(_, counts)| counts.images < of as usize).map(|(class, _)| *class);
        let scarce: Vec<u32> = scarce.collect();
        let have = if scarce.len() == 1 { "class has" } else { "classes have" };
        (!scarce.is_empty()).then(|| {
            format!(
                "{} {have} fewer images than there are folds, {of} ({}): some folds evaluate on none of them. Lower folds, \
                 or add images",
                scarce.len(),
                self.named(&scarce)
            )
        })
    }

    /// The names of the first of these classes.
    fn named(&self, classes: &[u32]) -> String {
        let name = |class: &u32| match &self.classes.names {
            Some(names) => names[*class as usize].clone(),
            None => class.to_string(),
        };
        let more = if classes.len() > NAMED { ", …" } else { "" };
        let named: Vec<String> = classes.iter().take(NAMED).map(name).collect();
        format!("{}{more}", named.join(", "))
    }
}

/// Warnings about images that are trained on and evaluated on.
fn leaks(
    train: &SelectedImages,
    eval: &SelectedImages,
    is_held_out: bool,
    unlabelled: Option<&(String, u64)>,
) -> impl Iterator<Item = String> + use<> {
    let is_trained_on = !is_held_out && eval.split == train.split && !train.labels.is_empty();
    let same_split = is_trained_on.then(|| {
        format!(
            "the student is evaluated on {}, the split that is trained on: accuracies will not show how good it is on \
             other images. Name another split in dataset.eval_split, or set dataset.eval_fraction",
            quoted(&eval.split)
        )
    });
    let is_evaluated = unlabelled.filter(|(split, _)| *split == eval.split);
    let without_labels = is_evaluated.map(|(split, _)| {
        format!(
            "the images of {split} are trained on without their labels and evaluated on: accuracies will not show how \
             good the student is on other images",
            split = quoted(split)
        )
    });
    same_split.into_iter().chain(without_labels)
}

/// Why nothing can be held out.
fn nothing_held_out(held_out: HeldOut, split: &str) -> String {
    match held_out {
        HeldOut::Fraction(_) => format!("no class of the {split} split has two images, so none can be held out"),
        HeldOut::Fold(Fold { of, .. }) => {
            format!("the {split} split has too few images for {of} folds: lower folds, or add images")
        }
    }
}

/// Number of images of a class in a split, and of those that are held out of it.
#[derive(Debug, Clone, Copy, Default)]
struct HeldOutCounts {
    images: usize,
    held_out: usize,
}

/// By class, for the classes that the split has. `evaluated` are the positions that are held out.
fn held_out_counts(all: &[u32], evaluated: &[usize]) -> BTreeMap<u32, HeldOutCounts> {
    let mut counts: BTreeMap<u32, HeldOutCounts> = BTreeMap::new();
    all.iter().for_each(|label| counts.entry(*label).or_default().images += 1);
    evaluated.iter().for_each(|&position| counts.entry(all[position]).or_default().held_out += 1);
    counts
}

/// What is held out of how many images.
fn note_of(held_out: HeldOut, seed: Option<u64>, counts: &BTreeMap<u32, HeldOutCounts>, split: &str) -> String {
    let which = match seed {
        None => "the same ones for every seed".to_owned(),
        Some(seed) => format!("the ones that split_seed {seed} draws"),
    };
    let of_class = || counts.values().map(|counts| counts.held_out);
    let (how, share) = match held_out {
        HeldOut::Fraction(fraction) => {
            (format!("eval_fraction {fraction}"), "from each class in proportion".to_owned())
        }
        HeldOut::Fold(Fold { number, of }) => {
            let (fewest, most) = (of_class().min().unwrap_or(0), of_class().max().unwrap_or(0));
            let share = if fewest == most {
                format!("{most} of each class")
            } else {
                format!("{fewest} to {most} of each class")
            };
            (format!("fold {number} of {of}"), share)
        }
    };
    let (evaluated, images) = (of_class().sum::<usize>(), counts.values().map(|counts| counts.images).sum::<usize>());
    format!(
        "{how} holds out {evaluated} of the {images} images of the {split} split for evaluation, {share} and {which}"
    )
}
