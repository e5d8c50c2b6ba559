//! Opens the data set of a specification: its images are decoded, or read from the cache of an earlier run, and its
//! files are hashed while training goes on.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};
use tch::Device;

use super::fingerprint::{CacheAction, Fingerprints, SplitToHash};
use super::loader::{Framing, Loader, LoaderOptions};
use super::shard::Shard;
use crate::cache::Cache;
use crate::cache::images::ImageFile;
use crate::error::{Error, Result};
use crate::worker_link::report::{Report, warning};
use distillery_core::dataset::{Classes, Dataset, DatasetOptions};
use distillery_core::spec::{Augmentation, DatasetSpec, TrainingPlan};

/// The data set that a run trains and evaluates on.
#[derive(Debug)]
pub struct Data {
    /// The data set's directory.
    pub path: PathBuf,
    pub classes: Classes,
    pub train: Loader,
    pub eval: Loader,
    pub splits: SplitNames,
    /// Per-channel mean of pixel values in [0, 1], for the student's input.
    pub mean: [f64; 3],
    /// Per-channel standard deviation.
    pub std: [f64; 3],
    pub fingerprints: Fingerprints,
    /// Images of both splits that could not be decoded.
    pub dropped: u64,
}

/// The names of the splits in the data set.
#[derive(Debug)]
pub struct SplitNames {
    pub train: String,
    pub eval: String,
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
    /// Keeps decoded images for later runs.
    pub cache: Option<Cache>,
}

impl Data {
    /// Opens both splits. Warnings go to `report`.
    ///
    /// # Errors
    /// The data set cannot be read, or does not fit the specification.
    pub fn open(spec: &TrainingPlan, resources: &Resources, report: &mut dyn Report) -> Result<Self> {
        let DatasetSpec { place, image_column, label_column, image_size, limit, .. } = &spec.dataset;
        let options = DatasetOptions { image_column: image_column.clone(), label_column: label_column.clone() };
        let dataset = Arc::new(Dataset::open(&place.path, &options)?);
        let splits = SplitNames {
            train: dataset.train_split(spec.dataset.train_split.as_deref())?,
            eval: dataset.eval_split(spec.dataset.eval_split.as_deref())?,
        };
        let mut dropped = 0;
        let mut to_hash = Vec::new();
        let columns = json!([image_column, label_column]);
        let mut open = |split: &str, framing: Framing, limit: Option<u64>| {
            let options = LoaderOptions {
                side: *image_size,
                framing,
                limit,
                batch_size: spec.training.batch_size,
                shard: resources.shard,
                seed: spec.training.seed,
                memory_limit: resources.memory_limit,
                device: resources.device,
            };
            let source = SplitSource { dataset: &dataset, split, columns: &columns };
            let (loader, then) = source.load(options, resources.cache.as_ref(), report)?;
            to_hash.push(SplitToHash { name: split.to_owned(), then });
            dropped += warn_of_corrupt_images(split, &loader, report);
            Ok::<_, Error>(loader)
        };
        let (train_framing, eval_framing) = framings(spec.training.augmentation);
        let train = open(&splits.train, train_framing, *limit)?;
        let eval = open(&splits.eval, eval_framing, None)?;
        let (mean, std) = match (spec.dataset.mean, spec.dataset.std) {
            (Some(mean), Some(std)) => (mean, std),
            _ => train.mean_std(),
        };
        let classes = dataset.classes().clone();
        // Rank 0 hashes for all and tells the others what they need.
        let to_hash = if resources.shard.rank == 0 { to_hash } else { vec![] };
        let fingerprints = Fingerprints::start(dataset, to_hash);
        Ok(Self { path: place.path.clone(), classes, train, eval, splits, mean, std, fingerprints, dropped })
    }
}

/// The framing of training and of evaluation images.
fn framings(augmentation: Augmentation) -> (Framing, Framing) {
    match augmentation {
        Augmentation::ResizedCropFlip => (Framing::ResizedCrop, Framing::Centre),
        Augmentation::None | Augmentation::CropFlip => (Framing::Whole, Framing::Whole),
    }
}

/// A split of a data set that is read with the given columns.
struct SplitSource<'a> {
    dataset: &'a Dataset,
    split: &'a str,
    columns: &'a Value,
}

impl SplitSource<'_> {
    /// Loads the images, from the cache where an earlier run left them there.
    fn load(
        &self,
        options: LoaderOptions,
        cache: Option<&Cache>,
        report: &mut dyn Report,
    ) -> Result<(Loader, CacheAction)> {
        let decode = || Ok::<_, Error>(Loader::open(self.dataset.split(self.split)?.into(), options)?);
        // The stamp is taken before the files are read. Without it nothing can be kept.
        let Some((cache, stamp)) = cache.and_then(|cache| Some((cache, self.dataset.stamp(self.split).ok()?))) else {
            return Ok((decode()?, CacheAction::Nothing));
        };
        let file = self.cache_file(cache, &stamp, &options);
        match file.load() {
            Ok(Some((decoded, fingerprint))) if decoded.pixels.numel() as u64 <= options.memory_limit => {
                return Ok((Loader::of_decoded(&decoded, options)?, CacheAction::Verify { file, fingerprint }));
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
        let LoaderOptions { side, framing, limit, .. } = options;
        // Another version of this program may decode differently.
        let key = json!({
            "files": stamp, "split": self.split, "columns": self.columns, "side": side, "framing": framing,
            "limit": limit, "version": env!("CARGO_PKG_VERSION"),
        });
        ImageFile::new(cache, key.to_string(), *side)
    }
}

/// Names the images that could not be decoded and returns their number. More than 1 % would have failed the loader.
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
