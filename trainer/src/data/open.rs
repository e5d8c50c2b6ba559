//! The data of a specification: opened, decoded or found decoded, and hashed beside the training.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use tch::Device;

use crate::cache::Cache;
use crate::cache::images::Slot;
use crate::data::fingerprint::{Fingerprints, Images, Split};
use crate::data::normalisation::Normalisation;
use crate::data::{self, Framing, Loader};
use crate::error::{Error, Result};
use crate::run::Settings;
use crate::warning;
use crate::worker_link::report::Report;
use distillery::dataset::{Classes, Dataset, Options};
use distillery::spec::{Augmentation, DatasetSpec, JobSpec};

/// The data set of a specification.
#[derive(Debug)]
pub struct Data {
    /// The directory.
    pub path: PathBuf,
    /// The classes that labels stand for.
    pub classes: Classes,
    /// The training split.
    pub train: Loader,
    /// The evaluation split.
    pub eval: Loader,
    /// The student's.
    pub normalisation: Normalisation,
    /// Of the files.
    pub fingerprints: Fingerprints,
    /// The names of the two splits.
    pub splits: [String; 2],
    /// Images that could not be read.
    pub dropped: u64,
}

impl Data {
    /// Opens it; warnings go to `report`.
    ///
    /// # Errors
    /// The data cannot be used or read.
    pub fn open(spec: &JobSpec, settings: &Settings, device: Device, report: &mut dyn Report) -> Result<Self> {
        let DatasetSpec { path, image_column, label_column, image_size, limit, .. } = &spec.dataset;
        let path = path.as_deref().ok_or_else(|| Error::user("dataset.path is required"))?;
        let options = Options { image_column: image_column.clone(), label_column: label_column.clone() };
        let dataset = Arc::new(Dataset::open(Path::new(path), &options)?);
        let splits = [
            dataset.train_split(spec.dataset.train_split.as_deref())?,
            dataset.eval_split(spec.dataset.eval_split.as_deref())?,
        ];
        let cache = settings.cache_dir.as_ref().and_then(|directory| Cache::open(directory, settings.cache_limit).ok());
        let mut dropped = 0;
        let mut hashed = Vec::new();
        let columns = json!([image_column, label_column]);
        let training = &spec.training;
        let (train_framing, eval_framing) = match training.augmentation {
            Augmentation::ResizedCropFlip => (Framing::ResizedCrop, Framing::Centre),
            Augmentation::None | Augmentation::CropFlip => (Framing::Whole, Framing::Whole),
        };
        let mut open = |split: &str, framing: Framing, limit: Option<u64>| {
            let options = data::Options {
                side: *image_size,
                framing,
                limit,
                batch_size: training.batch_size,
                share: settings.share,
                seed: training.seed,
                memory_limit: settings.data_memory,
                device,
            };
            let (loader, images) = load((&dataset, split, &columns), options, cache.as_ref(), report)?;
            hashed.push(Split { name: split.to_owned(), images });
            dropped += warn_of_corrupt(split, &loader, report);
            Ok::<_, Error>(loader)
        };
        let train = open(&splits[0], train_framing, *limit)?;
        let eval = open(&splits[1], eval_framing, None)?;
        let (mean, std) = match (spec.dataset.mean, spec.dataset.std) {
            (Some(mean), Some(std)) => (mean, std),
            _ => train.mean_std(),
        };
        let classes = dataset.classes().clone();
        // Once is enough, and the first rank tells the others what they need.
        let hashed = if settings.share.number == 0 { hashed } else { vec![] };
        let fingerprints = Fingerprints::start(dataset, hashed);
        let normalisation = Normalisation::new(mean, std, device);
        Ok(Self { path: path.into(), classes, train, eval, normalisation, fingerprints, splits, dropped })
    }
}

/// The images of a split: those that an earlier run kept, or decoded now.
fn load(
    (dataset, split, columns): (&Dataset, &str, &Value),
    options: data::Options,
    cache: Option<&Cache>,
    report: &mut dyn Report,
) -> Result<(Loader, Images)> {
    let decode = || Ok::<_, Error>(Loader::open(dataset.split(split)?.into(), options)?);
    // What is said of the files before they are read. Without it nothing can be kept.
    let Some((cache, stamp)) = cache.and_then(|cache| Some((cache, dataset.stamp(split).ok()?))) else {
        return Ok((decode()?, Images::Passing));
    };
    let data::Options { side, framing, limit, memory_limit, .. } = options;
    // Programs of another version may decode otherwise.
    let key = json!({
        "files": stamp, "split": split, "columns": columns, "side": side, "framing": framing, "limit": limit,
        "version": env!("CARGO_PKG_VERSION"),
    });
    let slot = Slot::new(cache, key.to_string(), side);
    match slot.load() {
        Ok(Some((decoded, fingerprint))) if decoded.pixels.numel() as u64 <= memory_limit => {
            return Ok((Loader::of_decoded(&decoded, options)?, Images::Kept { slot, fingerprint }));
        }
        Ok(_) => {}
        Err(error) => report.event(&warning(format!(
            "the decoded images in {} cannot be used ({error}): they are decoded anew",
            slot.path().display()
        ))),
    }
    let loader = decode()?;
    let images = match loader.decoded() {
        Some(decoded) => Images::New { slot, decoded, stamp },
        None => Images::Passing,
    };
    Ok((loader, images))
}

/// Says which images could not be read; the loader has refused a split where they are more than 1 %.
fn warn_of_corrupt(split: &str, loader: &Loader, report: &mut dyn Report) -> u64 {
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
