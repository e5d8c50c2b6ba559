//! Opens the data set of a specification: its images are decoded, or read from the cache of an earlier run, and its
//! files are hashed while training goes on.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value, json};
use tch::Device;

use super::loader::{Framing, Loader, LoaderOptions};
use super::shard::Shard;
use super::split_hashes::{CacheAction, SplitHashes, SplitToHash};
use crate::cache::Cache;
use crate::cache::images::ImageFile;
use crate::error::{Error, Result};
use crate::worker_link::report::{Report, warning};
use distillery_core::dataset::{Classes, Dataset, DatasetOptions, MeanStd, SelectedImages, Selection};
use distillery_core::protocol::{Event, Level};
use distillery_core::spec::{Augmentation, DatasetSpec, EvalPart, TrainingPlan};

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
    /// For the student's input.
    pub mean_std: MeanStd,
    pub split_hashes: SplitHashes,
    /// Images of both splits that could not be decoded.
    pub dropped: u64,
}

/// The names of the splits in the data set.
#[derive(Debug)]
pub struct SplitNames {
    pub train: String,
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
        let splits = SplitNames { train: selection.train.split.clone(), eval: selection.eval.split.clone() };
        let selected = SelectionHashes { train: selection.train.digest(), eval: selection.eval.digest() };
        let mut dropped = 0;
        let mut to_hash: Vec<SplitToHash> = Vec::new();
        let columns = json!([image_column, label_column]);
        let mut open = |selected: &SelectedImages, framing: Framing| {
            let options = LoaderOptions {
                side: *image_size,
                framing,
                batch_size: spec.training.batch_size,
                shard: resources.shard,
                seed: spec.training.seed,
                memory_limit: resources.memory_limit,
                device: resources.device,
            };
            let source = SplitSource { dataset: &dataset, selected, columns: &columns };
            let (loader, then) = source.load(options, resources.cache.as_ref(), report)?;
            match to_hash.iter_mut().find(|split| split.name == selected.split) {
                Some(split) => split.then.push(then),
                None => to_hash.push(SplitToHash { name: selected.split.clone(), then: vec![then] }),
            }
            dropped += warn_of_corrupt_images(&selected.split, &loader, report);
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
            Ok::<_, Error>(loader)
        };
        let augmentation = spec.training.augmentation;
        let train_framing =
            if augmentation == Augmentation::ResizedCropFlip { Framing::ResizedCrop } else { Framing::Whole };
        let train = open(&selection.train, train_framing)?;
        let eval = open(&selection.eval, spec.dataset.eval_part(augmentation).into())?;
        let given = MeanStd::of_both(spec.dataset.mean, spec.dataset.std);
        let mean_std = given.unwrap_or_else(|| train.mean_std());
        let classes = dataset.classes().clone();
        // Rank 0 hashes for all and tells the others what they need.
        let to_hash = if resources.shard.rank == 0 { to_hash } else { vec![] };
        let split_hashes = SplitHashes::start(dataset, to_hash);
        let path = location.path.clone();
        Ok(Self { path, classes, train, eval, splits, selected, mean_std, split_hashes, dropped })
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

/// Images of a data set that is read with the given columns.
struct SplitSource<'a> {
    dataset: &'a Dataset,
    selected: &'a SelectedImages,
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
