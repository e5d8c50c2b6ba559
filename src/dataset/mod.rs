//! Labelled images on disk, whatever their format: detected, not declared.
//!
//! [`Dataset::open`] looks at names and headers; [`Dataset::split`] reads the labels and gives [`Images`] whose pixels
//! are read one image at a time, from as many threads as there are. No libtorch here.

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

/// What cannot be told from the files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Parquet only: the image column.
    pub image_column: Option<String>,
    /// Parquet only: the label column.
    pub label_column: Option<String>,
}

/// How the images are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DatasetFormat)]
pub enum Format {
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

/// The classes that labels stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Classes {
    /// How many there are; every label is less.
    pub count: u32,
    /// Their names, in the order of the labels, where the data set says them.
    pub names: Option<Vec<String>>,
}

/// Images that are stored next to each other and are unpacked at once, where they are not read one by one.
pub const BLOCK: usize = 512;

/// Bytes of unpacked blocks that are kept where nobody said otherwise: all of CIFAR, some blocks of anything larger.
pub const KEPT_BYTES: u64 = 256 << 20;

/// One split's images with their labels. Readers share it: everything takes `&self`.
pub trait Images: Debug + Send + Sync {
    /// The class of each image.
    fn labels(&self) -> &[u32];

    /// Writes a part of one image as `side`×`side` red, then green, then blue bytes ([`plane_bytes`] of them); grey
    /// becomes three equal planes, transparency is dropped, another size is resampled (bilinear, antialiased).
    ///
    /// # Errors
    /// The image cannot be read or decoded.
    ///
    /// # Panics
    /// There is no such image, or `planes` is of another length.
    fn read(&self, index: usize, frame: &Frame<'_>, side: u32, planes: &mut [u8]) -> Result<(), Error>;

    /// Bytes of all encoded images, where [`BLOCK`]s of them are unpacked at once, and those used last are kept; 0
    /// where each is read by itself. An estimate.
    fn packed_bytes(&self) -> u64 {
        0
    }

    /// Sets how many of those bytes are kept at most, but for what is being read.
    fn keep(&self, _bytes: u64) {}

    /// Unpacks the block of an image, so that whoever reads one of it soon need not wait. Whether that fails is told to
    /// whoever reads.
    fn fetch(&self, _index: usize) {}

    /// The number of images.
    fn len(&self) -> usize {
        self.labels().len()
    }

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// What one format knows of a directory. A split that is passed in is one of `splits`.
trait FormatReader: Debug + Send + Sync {
    fn format(&self) -> Format;
    /// The splits' names, sorted.
    fn splits(&self) -> Vec<String>;
    /// How many images a split has, without reading them.
    fn images(&self, split: &str) -> Result<u64, Error>;
    fn classes(&self) -> Result<Classes, Error>;
    /// The files of a split, in a fixed order.
    fn files(&self, split: &str) -> Vec<PathBuf>;
    /// Reads labels and opens files.
    fn open(&self, split: &str, classes: &Classes) -> Result<Box<dyn Images>, Error>;
}

/// A directory of labelled images.
#[derive(Debug)]
pub struct Dataset {
    path: PathBuf,
    layout: Box<dyn FormatReader>,
    classes: Classes,
}

/// What there is to say about a data set without decoding it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Summary {
    /// The directory's name.
    pub name: String,
    /// How the images are stored.
    pub format: Format,
    /// Its splits, by name.
    pub splits: Vec<SplitSummary>,
    /// Images of all splits.
    pub images: u64,
    /// Classes.
    pub classes: u32,
    /// Size of the splits' files.
    pub size_bytes: u64,
}

/// One split of a [`Summary`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SplitSummary {
    /// The split's name.
    pub name: String,
    /// Its images.
    pub images: u64,
}

/// The split to train on, where none is named.
const TRAIN_SPLIT: &str = "train";
/// The splits to evaluate on, where none is named: the first that there is.
const EVAL_SPLITS: [&str; 3] = ["test", "val", "validation"];

/// Places below a data set's directory where the usual downloads and archives put the files.
const ROOTS: [&str; 6] = ["", "data", "cifar-10-batches-bin", "cifar-100-binary", "raw", "MNIST/raw"];

impl Dataset {
    /// Recognises a data set.
    ///
    /// # Errors
    /// There is no such directory, nothing in it is recognised, or its files are not what their names say.
    pub fn open(path: &Path, options: &Options) -> Result<Self, Error> {
        if !path.is_dir() {
            return Err(Error::Missing { path: path.to_owned() });
        }
        let layout = detect(path, options)?.ok_or_else(|| Error::UnknownLayout { path: path.to_owned() })?;
        if layout.format() != Format::Parquet && *options != Options::default() {
            let message = "image_column and label_column are for parquet data sets; leave them out".to_owned();
            return Err(Error::Column { path: path.to_owned(), message });
        }
        let classes = layout.classes()?;
        Ok(Self { path: path.to_owned(), layout, classes })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How the images are stored.
    #[must_use]
    pub fn format(&self) -> Format {
        self.layout.format()
    }

    /// The classes that labels stand for.
    #[must_use]
    pub fn classes(&self) -> &Classes {
        &self.classes
    }

    /// The splits' names, sorted.
    #[must_use]
    pub fn splits(&self) -> Vec<String> {
        self.layout.splits()
    }

    /// The split to train on: the one asked for, or `train`.
    ///
    /// # Errors
    /// There is no such split.
    pub fn train_split(&self, wanted: Option<&str>) -> Result<String, Error> {
        self.choose(wanted, &[TRAIN_SPLIT])
    }

    /// The split to evaluate on: the one asked for, or `test`, `val` or `validation`, whichever there is.
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

    /// The images of a split.
    ///
    /// # Errors
    /// There is no such split, it is empty, its files are damaged, or a label names no class.
    pub fn split(&self, split: &str) -> Result<Box<dyn Images>, Error> {
        let split = self.choose(Some(split), &[])?;
        let images = self.layout.open(&split, &self.classes)?;
        if images.is_empty() {
            return Err(Error::invalid(&self.path, format!("the {split} split is empty: it needs at least one image")));
        }
        labels::check(&self.path, &split, images.labels(), self.classes.count)?;
        Ok(images)
    }

    /// What there is to say about it without decoding it.
    ///
    /// # Errors
    /// A file is damaged or cannot be read.
    pub fn summary(&self) -> Result<Summary, Error> {
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
        Ok(Summary { name, format: self.format(), splits, images, classes: self.classes.count, size_bytes })
    }

    /// SHA-256, in hexadecimal, over the paths, sizes and times of a split's files and the classes: the same as long as
    /// nobody writes to them. What it costs does not grow with the files.
    ///
    /// # Errors
    /// There is no such split, or a file is not there.
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

    /// SHA-256, in hexadecimal, over the names and bytes of a split's files: where they lie does not matter.
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
            // After the bytes, as a file may change while it is read.
            hash.update(length.to_le_bytes());
        }
        Ok(hex::encode(hash.finalize()))
    }
}

fn detect(path: &Path, options: &Options) -> Result<Option<Box<dyn FormatReader>>, Error> {
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

/// Names of the plain files in a directory, sorted; hidden ones and names that are not UTF-8 are passed over.
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

/// The split that decides about classes: `train`, or the first there is.
fn deciding_split<K: Borrow<str> + Ord, V>(splits: &BTreeMap<K, V>) -> &str {
    match splits.get_key_value(TRAIN_SPLIT).or_else(|| splits.first_key_value()) {
        Some((split, _)) => split.borrow(),
        None => TRAIN_SPLIT,
    }
}
