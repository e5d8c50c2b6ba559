//! Labelled images on disk, without libtorch. The format is detected, not declared.
//!
//! [`Dataset::open`] reads names and headers. [`Dataset::split`] reads the labels and returns [`Images`], whose pixels
//! are read one image at a time, from any number of threads.

mod cifar;
mod cifar_python;
mod contents;
mod damage;
mod detect;
mod discover;
mod error;
mod fingerprint;
mod folder;
mod folds;
pub(crate) mod forms;
mod frame;
mod hashes;
mod idx;
mod jpeg;
mod labels;
mod links;
mod memory;
mod parquet;
mod pixels;
mod selection;
mod source;
mod splits;
mod statistics;
mod subset;
mod summary;
mod table;
mod thumbnail;
mod unlabelled;
mod webdataset;

use std::fmt::Debug;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use contents::{DatasetClass, DatasetClasses, class_of};
pub use damage::tolerated_damage;
pub use discover::{Discovered, LONGEST_NAME, NAME_PATTERN, NAME_RULE, UnusableDirectory, discover, is_name, resolve};
pub use error::Error;
pub use fingerprint::fingerprint;
pub use folds::{Fold, HeldOut, split_off};
pub use forms::is_of_normal_forms;
pub use frame::{Frame, Rectangle};
pub use links::is_passed_over;
pub use memory::limit_decoding;
pub use pixels::{MeanStd, plane_bytes};
pub use selection::{SelectedImages, Selection, SelectionError, SelectionRequest};
pub use statistics::{
    DatasetStatistics, Duplicates, ExaminedSplit, ImageSizes, ReadProgress, StatisticsLimits, UndecodableImage,
    UsedSplits,
};
pub use subset::{Subset, cap, hold_out, spread};
pub use summary::{DatasetSummary, SplitSummary};
pub use thumbnail::{encode_jpeg, thumbnail};
pub use unlabelled::{Joined, UNLABELLED};

/// Options for ambiguous files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DatasetOptions {
    /// For parquet.
    pub image_column: Option<String>,
    /// For parquet, and the metadata of image folders.
    pub label_column: Option<String>,
    /// Follow symbolic links that lead out of the data set's directory.
    pub follow_links: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DatasetFormat {
    /// Hugging Face parquet shards.
    Parquet,
    /// Image files, in one directory per class or with a table of labels.
    Folder,
    /// CIFAR-10's files, binary or pickled.
    Cifar10,
    /// CIFAR-100's files, binary or pickled.
    Cifar100,
    /// MNIST IDX files.
    Idx,
    /// WebDataset's tars.
    #[serde(rename = "webdataset")]
    WebDataset,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classes {
    /// Number of classes. Every label is less.
    pub count: u32,
    /// In the order of the labels, if the data set has names.
    pub names: Option<Vec<String>>,
    /// The label of class 0 in the files: 0 or 1.
    pub first_label: u32,
}

/// Number of consecutive images that are unpacked together, in formats that store images in compressed blocks.
pub const BLOCK: usize = 512;

/// Default size of the cache of unpacked blocks, in bytes: all of CIFAR, or some blocks of anything larger.
pub const KEPT_BYTES: u64 = 256 << 20;

/// The images of a split with their labels, for any number of threads.
pub trait Images: Debug + Send + Sync {
    fn labels(&self) -> &[u32];

    /// Writes a part of an image as `side`×`side` red, then green, then blue bytes ([`plane_bytes`] in total). Grey
    /// becomes three equal planes, transparency is dropped, and other sizes are resampled (bilinear, antialiased).
    ///
    /// # Errors
    /// The image cannot be read or decoded.
    ///
    /// # Panics
    /// There is no such image, or `planes` has another length.
    fn read(&self, index: usize, frame: &Frame<'_>, side: u32, planes: &mut [u8]) -> Result<(), Error>;

    /// Passes the bytes of an image to `take` as the data set has them: an encoded image, or raw pixels in planes.
    ///
    /// # Errors
    /// The image cannot be read.
    ///
    /// # Panics
    /// There is no such image.
    fn stored(&self, index: usize, take: &mut dyn FnMut(&[u8])) -> Result<(), Error>;

    /// [`stored`](Self::stored), and then [`read`](Self::read) of the same bytes, which are fetched once where that
    /// saves something.
    ///
    /// # Errors
    /// As for both. If it cannot be decoded, `take` has been called.
    ///
    /// # Panics
    /// As for both.
    fn read_stored(
        &self,
        index: usize,
        frame: &Frame<'_>,
        (side, planes): (u32, &mut [u8]),
        take: &mut dyn FnMut(&[u8]),
    ) -> Result<(), Error> {
        self.stored(index, take)?;
        self.read(index, frame, side, planes)
    }

    /// The image's position in the split.
    fn position(&self, index: usize) -> usize {
        index
    }

    /// How often an image was turned upright as its EXIF data says.
    fn turned(&self) -> u64 {
        0
    }

    /// Estimated size of all encoded images in bytes, if they are unpacked in [`BLOCK`]s, of which the most recently
    /// used are cached; 0 if images are read one by one.
    fn packed_bytes(&self) -> u64 {
        0
    }

    /// Sets the size of that cache in bytes. Blocks that are being read do not count.
    fn keep(&self, _bytes: u64) {}

    /// Unpacks the block of an image into the cache ahead of time. Errors are reported when an image is read.
    fn fetch(&self, _index: usize) {}

    fn len(&self) -> usize {
        self.labels().len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Which columns of a format's tables a specification can choose.
struct ChoosableColumns {
    image: bool,
    label: bool,
}

/// A directory in one format. Callers only pass splits from `splits`.
trait FormatReader: Debug + Send + Sync {
    fn format(&self) -> DatasetFormat;
    /// Sorted by name.
    fn splits(&self) -> Vec<String>;
    /// Why a split that is not in `splits` cannot be used.
    fn fault(&self, _split: &str) -> Option<Error> {
        None
    }
    /// Number of images in a split, without reading them.
    fn images(&self, split: &str) -> Result<u64, Error>;
    fn classes(&self) -> Result<Classes, Error>;
    /// Files of a split, in a fixed order.
    fn files(&self, split: &str) -> Vec<PathBuf>;
    /// Reads the class of each image.
    fn labels(&self, split: &str, classes: &Classes) -> Result<Vec<u32>, Error>;
    /// Opens the files, given the class of each image.
    fn open(&self, split: &str, labels: Vec<u32>) -> Result<Box<dyn Images>, Error>;
    /// Splits without labels, which are not in `splits`; sorted by name. `files` and `images` know them, too.
    fn unlabelled_splits(&self) -> Vec<String> {
        Vec::new()
    }
    /// Opens a split without labels; `None` for one with them.
    fn open_unlabelled(&self, _split: &str) -> Option<Box<dyn Images>> {
        None
    }
    fn choosable_columns(&self) -> ChoosableColumns {
        ChoosableColumns { image: false, label: false }
    }
    /// What was guessed or passed over.
    fn notes(&self, _classes: &Classes) -> Vec<String> {
        Vec::new()
    }
}

/// A directory of labelled images.
#[derive(Debug)]
pub struct Dataset {
    path: PathBuf,
    layout: Box<dyn FormatReader>,
    classes: Classes,
    /// What was guessed when the directory was searched.
    search: Option<String>,
}

/// Whether a tar is a shard of WebDataset: its first samples are images with labels.
///
/// # Errors
/// It cannot be read.
pub fn is_webdataset(path: &Path) -> Result<bool, Error> {
    webdataset::is_shard(path)
}

/// Checks that a file is a shard in parquet or, by its name, of WebDataset, and that its labels can be read. Which
/// classes they make depends on the other shards of the `split`.
///
/// # Errors
/// It is neither, or damaged.
pub fn check_shard(path: &Path, split: &str) -> Result<(), Error> {
    let is_tar = path.file_name().is_some_and(|name| webdataset::may_read(&name.to_string_lossy()));
    if is_tar { webdataset::check_shard(path, split) } else { parquet::check_shard(path) }
}

impl Dataset {
    /// Detects the format of a data set and opens it.
    ///
    /// # Errors
    /// There is no such directory, its format is unknown, or its files are invalid.
    pub fn open(path: &Path, options: &DatasetOptions) -> Result<Self, Error> {
        if !path.is_dir() {
            return Err(Error::Missing { path: path.to_owned() });
        }
        let detect::Detected { layout, search } = detect::detect(path, options)?;
        let choosable = layout.choosable_columns();
        for (name, given, is_choosable) in [
            ("image_column", &options.image_column, choosable.image),
            ("label_column", &options.label_column, choosable.label),
        ] {
            if given.is_some() && !is_choosable {
                let message = format!("has no columns to choose from, as parquet data sets have: remove {name}");
                return Err(Error::Column { path: path.to_owned(), message });
            }
        }
        let classes = layout.classes()?;
        Ok(Self { path: path.to_owned(), layout, classes, search })
    }

    /// What was guessed or passed over when the directory was read.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let of_labels = labels::note(&self.classes);
        let of_layout = self.search.clone().into_iter().chain(self.layout.notes(&self.classes));
        of_layout.chain(of_labels).chain(labels::similar(&self.classes)).collect()
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    #[must_use]
    pub fn format(&self) -> DatasetFormat {
        self.layout.format()
    }

    #[must_use]
    pub fn classes(&self) -> &Classes {
        &self.classes
    }

    /// Sorted by name.
    #[must_use]
    pub fn splits(&self) -> Vec<String> {
        self.layout.splits()
    }

    /// The files of a split, in the order of its images; none for a split that there is not.
    #[must_use]
    pub fn files(&self, split: &str) -> Vec<PathBuf> {
        if self.splits().iter().any(|known| known == split) { self.layout.files(split) } else { Vec::new() }
    }

    /// The split to train on: `wanted`, or else `train` in a usual spelling.
    ///
    /// # Errors
    /// There is no such split, or it cannot be used.
    pub fn train_split(&self, wanted: Option<&str>) -> Result<String, Error> {
        self.choose(wanted, &splits::TRAIN)
    }

    /// The split to evaluate on: `wanted`, or else the first of `test`, `val` and `validation` that exists, or another
    /// usual spelling of those.
    ///
    /// # Errors
    /// There is no such split, or it cannot be used.
    pub fn eval_split(&self, wanted: Option<&str>) -> Result<String, Error> {
        self.choose(wanted, &splits::EVAL)
    }

    fn choose(&self, wanted: Option<&str>, usual: &[&str]) -> Result<String, Error> {
        let known = self.splits();
        let candidates = wanted.map_or_else(|| usual.to_vec(), |wanted| vec![wanted]);
        for candidate in &candidates {
            if let Some(found) = splits::find(&known, candidate) {
                return Ok(found.to_owned());
            }
            if let Some(fault) = self.layout.fault(candidate) {
                return Err(fault);
            }
        }
        let wanted = match wanted {
            Some(wanted) => wanted,
            None if usual == splits::EVAL => "test, val or validation",
            None => "train",
        };
        Err(Error::NoSplit { path: self.path.clone(), wanted: format!("{wanted} split"), known, advice: "" })
    }

    /// Opens the images of a split.
    ///
    /// # Errors
    /// There is no such split, it is empty, its files are damaged, or a label is out of range.
    pub fn split(&self, split: &str) -> Result<Box<dyn Images>, Error> {
        let split = self.choose(Some(split), &[])?;
        let labels = self.labels(&split)?;
        self.layout.open(&split, labels)
    }

    /// The class of each image of a split.
    ///
    /// # Errors
    /// There is no such split, it is empty, its files are damaged, or a label is out of range.
    pub fn labels(&self, split: &str) -> Result<Vec<u32>, Error> {
        let split = self.choose(Some(split), &[])?;
        let labels = self.layout.labels(&split, &self.classes)?;
        if labels.is_empty() {
            return Err(Error::invalid(&self.path, format!("the {split} split is empty: it needs at least one image")));
        }
        Ok(labels)
    }
}
