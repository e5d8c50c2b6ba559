//! Labelled images on disk, without libtorch. The format is detected, not declared.
//!
//! [`Dataset::open`] reads names and headers. [`Dataset::split`] reads the labels and returns [`Images`], whose pixels
//! are read one image at a time, from any number of threads.

mod cifar;
mod discover;
mod error;
mod folder;
mod frame;
mod idx;
mod jpeg;
mod labels;
mod parquet;
mod pixels;
mod source;

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

pub use discover::{discover, resolve};
pub use error::Error;
pub use frame::{Frame, Rectangle};
pub use pixels::plane_bytes;

/// Options for ambiguous files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DatasetOptions {
    /// For parquet.
    pub image_column: Option<String>,
    /// For parquet.
    pub label_column: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DatasetFormat {
    /// Hugging Face parquet shards.
    Parquet,
    /// One directory per split and class.
    Folder,
    /// CIFAR-10 binary files.
    Cifar10,
    /// CIFAR-100 binary files.
    Cifar100,
    /// MNIST IDX files.
    Idx,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classes {
    /// Number of classes. Every label is less.
    pub count: u32,
    /// In the order of the labels, if the data set has names.
    pub names: Option<Vec<String>>,
}

/// Number of consecutive images that are unpacked together, in formats that store images in compressed blocks.
pub const BLOCK: usize = 512;

/// Default size of the cache of unpacked blocks, in bytes: all of CIFAR, or some blocks of anything larger.
pub const KEPT_BYTES: u64 = 256 << 20;

/// The images of a split with their labels, for any number of threads.
pub trait Images: Debug + Send + Sync {
    /// The class of each image.
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

    /// Estimated size of all encoded images in bytes, if they are unpacked in [`BLOCK`]s, of which the most recently
    /// used are cached; 0 if images are read one by one.
    fn packed_bytes(&self) -> u64 {
        0
    }

    /// Sets the size of that cache in bytes. Blocks that are being read do not count.
    fn keep(&self, _bytes: u64) {}

    /// Unpacks the block of an image into the cache ahead of time. Errors are reported when an image is read.
    fn fetch(&self, _index: usize) {}

    /// Number of images.
    fn len(&self) -> usize {
        self.labels().len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A directory in one format. Callers only pass splits from `splits`.
trait FormatReader: Debug + Send + Sync {
    fn format(&self) -> DatasetFormat;
    /// Sorted by name.
    fn splits(&self) -> Vec<String>;
    /// Number of images in a split, without reading them.
    fn images(&self, split: &str) -> Result<u64, Error>;
    fn classes(&self) -> Result<Classes, Error>;
    /// Files of a split, in a fixed order.
    fn files(&self, split: &str) -> Vec<PathBuf>;
    /// Reads the labels and opens the files.
    fn open(&self, split: &str, classes: &Classes) -> Result<Box<dyn Images>, Error>;
}

/// A directory of labelled images.
#[derive(Debug)]
pub struct Dataset {
    path: PathBuf,
    layout: Box<dyn FormatReader>,
    classes: Classes,
}

/// Facts about a data set that need no decoding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Summary)]
pub struct DatasetSummary {
    /// The directory's name.
    pub name: String,
    /// Format of the files.
    pub format: DatasetFormat,
    /// Sorted by name.
    pub splits: Vec<SplitSummary>,
    /// Number of images in all splits.
    pub images: u64,
    /// Number of classes.
    pub classes: u32,
    /// Total size of the splits' files.
    pub size_bytes: u64,
}

/// One split of a [`DatasetSummary`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SplitSummary {
    /// The split's name.
    pub name: String,
    /// Number of images.
    pub images: u64,
}

/// The default split to train on.
const TRAIN_SPLIT: &str = "train";
/// The default splits to evaluate on: the first of these that exists.
const EVAL_SPLITS: [&str; 3] = ["test", "val", "validation"];

/// Subdirectories in which usual downloads and archives put the files.
const ROOTS: [&str; 6] = ["", "data", "cifar-10-batches-bin", "cifar-100-binary", "raw", "MNIST/raw"];

impl Dataset {
    /// Detects the format of a data set and opens it.
    ///
    /// # Errors
    /// There is no such directory, its format is unknown, or its files are invalid.
    pub fn open(path: &Path, options: &DatasetOptions) -> Result<Self, Error> {
        if !path.is_dir() {
            return Err(Error::Missing { path: path.to_owned() });
        }
        let layout = detect(path, options)?.ok_or_else(|| Error::UnknownLayout { path: path.to_owned() })?;
        if layout.format() != DatasetFormat::Parquet && *options != DatasetOptions::default() {
            let message = "image_column and label_column are for parquet data sets only; remove them".to_owned();
            return Err(Error::Column { path: path.to_owned(), message });
        }
        let classes = layout.classes()?;
        Ok(Self { path: path.to_owned(), layout, classes })
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

    /// The split to train on: `wanted`, or else `train`.
    ///
    /// # Errors
    /// There is no such split.
    pub fn train_split(&self, wanted: Option<&str>) -> Result<String, Error> {
        self.choose(wanted, &[TRAIN_SPLIT])
    }

    /// The split to evaluate on: `wanted`, or else the first of `test`, `val` and `validation` that exists.
    ///
    /// # Errors
    /// There is no such split.
    pub fn eval_split(&self, wanted: Option<&str>) -> Result<String, Error> {
        self.choose(wanted, &EVAL_SPLITS)
    }

    fn choose(&self, wanted: Option<&str>, usual: &[&str]) -> Result<String, Error> {
        let known = self.splits();
        let candidates = wanted.map_or_else(|| usual.to_vec(), |wanted| vec![wanted]);
        if let Some(found) = candidates.iter().find(|candidate| known.iter().any(|split| split == *candidate)) {
            return Ok((*found).to_owned());
        }
        let wanted = format!("{} split", candidates.join(", ").replace(", validation", " or validation"));
        Err(Error::NoSplit { path: self.path.clone(), wanted, known })
    }

    /// Opens the images of a split.
    ///
    /// # Errors
    /// There is no such split, it is empty, its files are damaged, or a label is out of range.
    pub fn split(&self, split: &str) -> Result<Box<dyn Images>, Error> {
        let split = self.choose(Some(split), &[])?;
        let images = self.layout.open(&split, &self.classes)?;
        if images.is_empty() {
            return Err(Error::invalid(&self.path, format!("the {split} split is empty: it needs at least one image")));
        }
        labels::check(&self.path, &split, images.labels(), self.classes.count)?;
        Ok(images)
    }

    /// # Errors
    /// A file is damaged or cannot be read.
    pub fn summary(&self) -> Result<DatasetSummary, Error> {
        let mut size_bytes = 0;
        let mut splits = Vec::new();
        for name in self.splits() {
            for file in self.layout.files(&name) {
                size_bytes += fs::metadata(&file).map_err(Error::io(&file))?.len();
            }
            splits.push(SplitSummary { images: self.layout.images(&name)?, name });
        }
        let name = self.path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        let images = splits.iter().map(|split| split.images).sum();
        Ok(DatasetSummary { name, format: self.format(), splits, images, classes: self.classes.count, size_bytes })
    }

    /// SHA-256, in hexadecimal, of the paths, sizes and times of a split's files and the classes. It is unchanged as
    /// long as nobody writes to the files, which are not read.
    ///
    /// # Errors
    /// There is no such split, or a file is missing.
    pub fn stamp(&self, split: &str) -> io::Result<String> {
        let split = self.choose(Some(split), &[]).map_err(|error| io::Error::new(io::ErrorKind::NotFound, error))?;
        let mut hash = Sha256::new();
        hash.update(format!("{:?}", self.classes));
        for path in self.layout.files(&split) {
            let path = std::path::absolute(path)?;
            let metadata = fs::metadata(&path)?;
            let (name, times) = (path.as_os_str().as_encoded_bytes(), [metadata.mtime(), metadata.mtime_nsec()]);
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
            hash.update(metadata.len().to_le_bytes());
            hash.update(metadata.ino().to_le_bytes());
            times.iter().for_each(|time| hash.update(time.to_le_bytes()));
        }
        Ok(hex::encode(hash.finalize()))
    }

    /// SHA-256, in hexadecimal, of the names and contents of a split's files. It does not depend on the data set's
    /// directory.
    ///
    /// # Errors
    /// There is no such split, or a file cannot be read.
    pub fn fingerprint(&self, split: &str) -> io::Result<String> {
        let split = self.choose(Some(split), &[]).map_err(|error| io::Error::new(io::ErrorKind::NotFound, error))?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 20];
        for path in self.layout.files(&split) {
            let name = path.strip_prefix(&self.path).unwrap_or(&path).as_os_str().as_encoded_bytes();
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
            let mut file = fs::File::open(&path)?;
            let mut length = 0_u64;
            loop {
                let read = file.read(&mut buffer)?;
                if read == 0 {
                    break;
                }
                hash.update(&buffer[..read]);
                length += read as u64;
            }
            // After the content, because the length is only known then: a file may change while it is read.
            hash.update(length.to_le_bytes());
        }
        Ok(hex::encode(hash.finalize()))
    }
}

fn detect(path: &Path, options: &DatasetOptions) -> Result<Option<Box<dyn FormatReader>>, Error> {
    for root in ROOTS {
        let root = if root.is_empty() { path.to_owned() } else { path.join(root) };
        if !root.is_dir() {
            continue;
        }
        for found in [parquet::detect(&root, options)?, cifar::detect(&root)?, idx::detect(&root)?] {
            if found.is_some() {
                return Ok(found);
            }
        }
    }
    folder::detect(path)
}

/// Sorted names of the regular files in a directory, without hidden ones and names that are not valid UTF-8.
fn file_names(root: &Path) -> Result<Vec<String>, Error> {
    let mut names = Vec::new();
    for entry in fs::read_dir(root).map_err(Error::io(root))? {
        let entry = entry.map_err(Error::io(root))?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        if !name.starts_with('.') && entry.path().is_file() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// The split that defines the classes: `train`, or else the first.
fn deciding_split<K: Borrow<str> + Ord, V>(splits: &BTreeMap<K, V>) -> &str {
    match splits.get_key_value(TRAIN_SPLIT).or_else(|| splits.first_key_value()) {
        Some((split, _)) => split.borrow(),
        None => TRAIN_SPLIT,
    }
}
