//! Opens the data set of a specification: its images are decoded, or read from the cache of an earlier run, and its
//! files are hashed while training goes on.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};
use tch::Device;

use super::framing::{Framing, VariedPart};
use super::loader::{Loader, LoaderOptions};
use super::shard::Shard;
use super::split_hashes::{CacheAction, SplitHashes, SplitToHash};
use crate::cache::Cache;
use crate::cache::images::ImageFile;
use crate::error::{Error, Result};
use crate::worker_link::report::{Report, warning};
use distillery_core::dataset::{Classes, Dataset, DatasetOptions, Joined, MeanStd, SelectedImages, Selection};
use distillery_core::protocol::{Event, Level};
use distillery_core::spec::{Augmentation, DatasetSpec, EvalPart, Policy, Sampling, TrainingPlan};

/// Changes whenever images are decoded differently than before.
pub const DECODER: u32 = 2;

/// The data set that a run trains and evaluates on.
#[derive(Debug)]
pub struct Data {
    /// The data set's directory.
    pub path: PathBuf,
    pub classes: Classes,
    pub train: Loader,
    pub eval: Loader,
    pub splits: SplitNames,
    /// Which images of the splits are used.
    pub selected: SelectionHashes,
    /// Number of training images of each class, unreadable ones included.
    pub class_counts: Vec<u64>,
    /// What the student's input is normalised with.
    pub mean_std: MeanStd,
    pub split_hashes: SplitHashes,
    /// Images of both splits that could not be decoded.
    pub dropped: u64,
}

/// The names of the splits in the data set.
#[derive(Debug)]
pub struct SplitNames {
    pub train: String,
    /// The split that is trained on without labels.
    pub unlabelled: Option<String>,
    pub eval: String,
}

/// SHA-256 of the positions of the images that are used of a split; `None` for all.
#[derive(Debug)]
pub struct SelectionHashes {
    pub train: Option<String>,
    pub eval: Option<String>,
}

/// What this machine and this rank contribute to loading the data.
#[derive(Debug)]
pub struct Resources {
    /// The device that batches are placed on.
    pub device: Device,
    /// The part of each batch that this rank loads.
    pub shard: Shard,
    /// Bytes of decoded images that may be kept in memory; larger splits are streamed.
    pub memory_limit: u64,
    /// Whether symbolic links that lead out of the data set are followed.
    pub follow_links: bool,
    /// Keeps decoded images for later runs.
    pub cache: Option<Cache>,
}

impl Data {
    /// Opens both splits. Warnings go to `report`.
    ///
    /// # Errors
    /// The data set cannot be read, or does not fit the specification.
    pub fn open(spec: &TrainingPlan, resources: &Resources, report: &mut dyn Report) -> Result<Self> {
        let DatasetSpec { location, image_column, label_column, image_size, .. } = &spec.dataset;
        let follow_links = resources.follow_links;
        let options =
            DatasetOptions { image_column: image_column.clone(), label_column: label_column.clone(), follow_links };
        let dataset = Arc::new(Dataset::open(&location.path, &options)?);
        let selection = dataset.select(spec.dataset.selection()).map_err(|fault| fault.error)?;
        tell(&selection, report);
        let splits = SplitNames {
            train: selection.train.split.clone(),
            unlabelled: selection.unlabelled.as_ref().map(|(split, _)| split.clone()),
            eval: selection.eval.split.clone(),
        };
        let selected = SelectionHashes { train: selection.train.digest(), eval: selection.eval.digest() };
        let columns = json!([image_column, label_column]);
        let options = LoaderOptions {
            side: *image_size,
            framing: Framing::Whole,
            batch_size: spec.training.batch_size,
            shard: resources.shard,
            seed: spec.training.seed,
            memory_limit: resources.memory_limit,
            device: resources.device,
        };
        let mut opening = Opening { dataset: &dataset, columns: &columns, options, to_hash: Vec::new(), dropped: 0 };
        let augmentation = spec.training.augmentation;
        let of_train = (train_framing(augmentation, spec.training.policy()), splits.unlabelled.as_deref());
        let of_eval = (spec.dataset.eval_part(augmentation).into(), None);
        let cache = resources.cache.as_ref();
        let mut train = opening.open(&selection.train, of_train, cache, report)?;
        let eval = opening.open(&selection.eval, of_eval, cache, report)?;
        let Opening { to_hash, dropped, .. } = opening;
        let given = MeanStd::of_both(spec.dataset.mean, spec.dataset.std);
        let mean_std = given.unwrap_or_else(|| train.mean_std());
        let classes = dataset.classes().clone();
        let class_counts = class_counts(&selection.train.labels, classes.count);
        if spec.training.sampling == Some(Sampling::Balanced) {
            train = train.balanced(classes.count)?;
            info(report, balance_note(&class_counts));
        }
        // Rank 0 hashes for all and tells the others what they need.
        let to_hash = if resources.shard.rank == 0 { to_hash } else { vec![] };
        let split_hashes = SplitHashes::start(dataset, to_hash);
        let path = location.path.clone();
        Ok(Self { path, classes, train, eval, splits, selected, class_counts, mean_std, split_hashes, dropped })
    }
}

fn class_counts(labels: &[u32], classes: u32) -> Vec<u64> {
    let mut counts = vec![0; classes as usize];
    labels.iter().for_each(|&label| counts[label as usize] += 1);
    counts
}

/// Says how often an epoch shows the images of the smallest and the largest class.
fn balance_note(counts: &[u64]) -> String {
    let present: Vec<u64> = counts.iter().copied().filter(|&count| count > 0).collect();
    if present.is_empty() {
        return "sampling balanced: no image is trained on with its label, so each is shown once".to_owned();
    }
    let share = counts.iter().sum::<u64>() as f64 / present.len().max(1) as f64;
    let [least, most] = [present.iter().min(), present.iter().max()].map(|count| count.copied().unwrap_or(1));
    format!(
        "sampling balanced: an epoch shows {share:.0} images of each of {} classes; of the smallest class ({least} images) \
         each {:.1} times, of the largest ({most}) each {:.2} times on average",
        present.len(),
        share / least as f64,
        share / most as f64
    )
}

/// How training images are decoded. Operations follow the crop, so with a policy the crop is taken there, too.
fn train_framing(augmentation: Augmentation, policy: Option<Policy>) -> Framing {
    let part = match augmentation {
        Augmentation::None => VariedPart::Whole,
        Augmentation::CropFlip => VariedPart::CropFlip,
        Augmentation::ResizedCropFlip => VariedPart::ResizedCrop,
    };
    match policy {
        Some(policy) => Framing::Varied { part, policy },
        None if augmentation == Augmentation::ResizedCropFlip => Framing::ResizedCrop,
        None => Framing::Whole,
    }
}

/// Reports how the images were chosen.
fn tell(selection: &Selection, report: &mut dyn Report) {
    for note in &selection.notes {
        info(report, note.clone());
    }
    for message in &selection.warnings {
        report.event(&warning(message.clone()));
    }
}

fn info(report: &mut dyn Report, message: String) {
    report.event(&Event::Log { level: Level::Info, message });
}

impl From<EvalPart> for Framing {
    fn from(part: EvalPart) -> Self {
        match part {
            EvalPart::Whole => Self::Whole,
            EvalPart::Centre { resize } => Self::Centre { resize },
        }
    }
}

/// Opens the splits of a run.
struct Opening<'a> {
    dataset: &'a Dataset,
    columns: &'a Value,
    /// The options of all splits; the framing differs.
    options: LoaderOptions,
    to_hash: Vec<SplitToHash>,
    /// Number of images that could not be decoded.
    dropped: u64,
}

impl Opening<'_> {
    /// Opens images of a split, with those of a split without labels behind them. Warnings go to `report`.
    fn open(
        &mut self,
        selected: &SelectedImages,
        (framing, unlabelled): (Framing, Option<&str>),
        cache: Option<&Cache>,
        report: &mut dyn Report,
    ) -> Result<Loader> {
        let options = LoaderOptions { framing, ..self.options };
        let source = SplitSource { dataset: self.dataset, selected, columns: self.columns };
        let (loader, then) = match unlabelled {
            None => source.load(options, cache, report)?,
            Some(split) => (source.load_with(split, options)?, CacheAction::Nothing),
        };
        let others = unlabelled.map(|split| (split, CacheAction::Nothing));
        for (name, then) in [(selected.split.as_str(), then)].into_iter().chain(others) {
            match self.to_hash.iter_mut().find(|split| split.name == name) {
                Some(split) => split.then.push(then),
                None => self.to_hash.push(SplitToHash { name: name.to_owned(), then: vec![then] }),
            }
        }
        self.dropped += warn_of_corrupt_images(&selected.split, &loader, report);
        if loader.turned() > 0 {
            let (count, split) = (loader.turned(), &selected.split);
            info(
                report,
                match count {
                    1 => format!("1 image of the {split} split is turned upright, as its EXIF data says"),
                    _ => format!("{count} images of the {split} split are turned upright, as their EXIF data says"),
                },
            );
        }
        Ok(loader)
    }
}

/// Images of a data set that is read with the given columns.
struct SplitSource<'a> {
    dataset: &'a Dataset,
    selected: &'a SelectedImages,
    columns: &'a Value,
}

impl SplitSource<'_> {
    /// Loads the images and, behind them, those of another split without their labels.
    fn load_with(&self, unlabelled: &str, options: LoaderOptions) -> Result<Loader> {
        let labelled = self.selected.open(self.dataset)?;
        let joined = Joined::new(labelled, self.dataset.without_labels(unlabelled)?);
        Ok(Loader::open(Arc::new(joined), options)?)
    }

    /// Loads the images, from the cache where an earlier run left them there.
    fn load(
        &self,
        options: LoaderOptions,
        cache: Option<&Cache>,
        report: &mut dyn Report,
    ) -> Result<(Loader, CacheAction)> {
        let decode = || Ok::<_, Error>(Loader::open(self.selected.open(self.dataset)?.into(), options)?);
        // The stamp is taken before the files are read. Without it nothing can be kept.
        let Some((cache, stamp)) =
            cache.and_then(|cache| Some((cache, self.dataset.stamp(&self.selected.split).ok()?)))
        else {
            return Ok((decode()?, CacheAction::Nothing));
        };
        let file = self.cache_file(cache, &stamp, &options);
        match file.load() {
            Ok(Some((decoded, sha256))) if decoded.pixels.numel() as u64 <= options.memory_limit => {
                return Ok((Loader::of_decoded(&decoded, options)?, CacheAction::Verify { file, sha256 }));
            }
            Ok(_) => {}
            Err(error) => report.event(&warning(format!(
                "the decoded images in {} cannot be used ({error}): decoding the split again",
                file.path().display()
            ))),
        }
        let loader = decode()?;
        let then = match loader.decoded() {
            Some(images) => CacheAction::Store { file, images, stamp },
            None => CacheAction::Nothing,
        };
        Ok((loader, then))
    }

    fn cache_file(&self, cache: &Cache, stamp: &str, options: &LoaderOptions) -> ImageFile {
        let LoaderOptions { side, framing, .. } = options;
        // Another version of this program may decode differently.
        let key = json!({
            "files": stamp, "split": self.selected.split, "columns": self.columns, "side": side, "framing": framing,
            "selected": self.selected.digest(), "version": env!("CARGO_PKG_VERSION"), "decoder": DECODER,
        });
        ImageFile::new(cache, key.to_string(), *side)
    }
}

/// Names the images that could not be decoded and returns their number. Too many would have failed the loader.
fn warn_of_corrupt_images(split: &str, loader: &Loader, report: &mut dyn Report) -> u64 {
    let count = loader.corrupt_count();
    if count > 0 {
        let named = loader.corrupt();
        let more = if count > 3 { "; …" } else { "" };
        let first = named.iter().take(3).map(String::as_str).collect::<Vec<_>>().join("; ");
        let images = if count == 1 { "image" } else { "images" };
        report.event(&warning(format!(
            "{count} {images} of the {split} split cannot be read and will be left out: {first}{more}"
        )));
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn balancing_says_how_often_images_are_shown_or_that_none_has_its_label() {
        assert_eq!(
            balance_note(&[1, 3, 0]),
            "sampling balanced: an epoch shows 2 images of each of 2 classes; of the smallest class (1 images) each 2.0 \
             times, of the largest (3) each 0.67 times on average"
        );
        let none = "sampling balanced: no image is trained on with its label, so each is shown once";
        assert_eq!([balance_note(&[0, 0]), balance_note(&[])], [none; 2]);
    }
}
