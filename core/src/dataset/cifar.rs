//! The binary files of CIFAR-10 and CIFAR-100. A record is the label (one byte, or a coarse and a fine one) and 3072
//! bytes of pixels in planes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::links::{self, Links};
use super::{Classes, DatasetFormat, Error, FormatReader, Frame, Images, labels, pixels, source};
use crate::byte_source::ByteSource;
use crate::text::counted;

pub(super) const SIDE: u32 = 32;
/// Bytes per image.
pub(super) const PIXELS: usize = 3072;
/// Files with the names of the classes.
const NAMES_OF_10: &str = "batches.meta.txt";
const NAMES_OF_100: &str = "fine_label_names.txt";

#[derive(Debug)]
struct Cifar {
    root: PathBuf,
    format: DatasetFormat,
    splits: BTreeMap<String, Vec<PathBuf>>,
}

/// Whether this layout may read a file of that name.
pub(super) fn may_read(name: &str) -> bool {
    name.ends_with(".bin") || NAMES_OF_10 == name || NAMES_OF_100 == name
}

/// Recognises `data_batch_1.bin`, … and `test_batch.bin`, or `train.bin` and `test.bin`.
pub(super) fn detect(root: &Path, links: &Links) -> Result<Option<Box<dyn FormatReader>>, Error> {
    let entries = links::entries(root)?;
    let mut ten: BTreeMap<String, Vec<(u32, PathBuf)>> = BTreeMap::new();
    let mut hundred = BTreeMap::new();
    for file in links.files(&entries, |name| name.ends_with(".bin"))? {
        let Some(stem) = file.name.strip_suffix(".bin") else { continue };
        let path = file.path.clone();
        if let Some(number) = stem.strip_prefix("data_batch_").and_then(|number| number.parse().ok()) {
            ten.entry("train".to_owned()).or_default().push((number, path));
        } else if stem == "test_batch" {
            ten.entry("test".to_owned()).or_default().push((0, path));
        } else if stem == "train" || stem == "test" {
            hundred.insert(stem.to_owned(), vec![path]);
        }
    }
    if let Some(batches) = ten.get_mut("train") {
        batches.sort();
        if let Some((missing, _)) = (1..).zip(batches.iter()).find(|(expected, (number, _))| expected != number) {
            return Err(Error::invalid(root, format!("data_batch_{missing}.bin is missing: add it")));
        }
    }
    let (format, splits) = if ten.is_empty() {
        (DatasetFormat::Cifar100, hundred)
    } else {
        let paths = |batches: Vec<(u32, PathBuf)>| batches.into_iter().map(|(_, path)| path).collect();
        (DatasetFormat::Cifar10, ten.into_iter().map(|(split, batches)| (split, paths(batches))).collect())
    };
    let cifar = Cifar { root: root.to_owned(), format, splits };
    Ok((!cifar.splits.is_empty()).then(|| Box::new(cifar) as Box<dyn FormatReader>))
}

impl Cifar {
    /// Bytes before an image's pixels. The last of them is the label.
    fn label_bytes(&self) -> usize {
        if self.format == DatasetFormat::Cifar10 { 1 } else { 2 }
    }

    fn record(&self) -> usize {
        self.label_bytes() + PIXELS
    }

    /// Number of records in a file.
    fn records(&self, path: &Path, source: &ByteSource) -> Result<u64, Error> {
        let (size, record) = (source.len(), self.record() as u64);
        if size.is_multiple_of(record) {
            return Ok(size / record);
        }
        let mut message =
            format!("is truncated: {size} bytes are not a multiple of the {record} bytes per image; download it again");
        if self.format == DatasetFormat::Cifar100 && size.is_multiple_of(1 + PIXELS as u64) {
            message = "has one label per image, as CIFAR-10 has, where CIFAR-100 has two: name CIFAR-10's files \
                       data_batch_1.bin, … and test_batch.bin"
                .to_owned();
        }
        Err(Error::invalid(path, message))
    }
}

impl FormatReader for Cifar {
    fn format(&self) -> DatasetFormat {
        self.format
    }

    fn splits(&self) -> Vec<String> {
        self.splits.keys().cloned().collect()
    }

    fn images(&self, split: &str) -> Result<u64, Error> {
        self.splits[split].iter().try_fold(0, |images, path| Ok(images + self.records(path, &source::open(path)?)?))
    }

    fn classes(&self) -> Result<Classes, Error> {
        let (count, file) = if self.format == DatasetFormat::Cifar10 { (10, NAMES_OF_10) } else { (100, NAMES_OF_100) };
        let path = self.root.join(file);
        if !path.exists() {
            return Ok(Classes { count, names: None, first_label: 0 });
        }
        class_names(&path, count)
    }

    fn files(&self, split: &str) -> Vec<PathBuf> {
        self.splits[split].clone()
    }

    fn labels(&self, split: &str, classes: &Classes) -> Result<Vec<u32>, Error> {
        let mut all = Vec::new();
        for path in &self.splits[split] {
            let source = source::open(path)?;
            for record in 0..self.records(path, &source)? {
                let mut label = [0];
                let at = record * self.record() as u64 + self.label_bytes() as u64 - 1;
                source.read_at(&mut label, at).map_err(Error::io(path))?;
                all.push(u32::from(label[0]));
            }
        }
        labels::to_classes(&self.root, split, 0, &mut all, classes)?;
        Ok(all)
    }

    fn open(&self, split: &str, labels: Vec<u32>) -> Result<Box<dyn Images>, Error> {
        let mut images = CifarImages { batches: Vec::new(), labels };
        let mut start = 0;
        for path in &self.splits[split] {
            let source = source::open(path)?;
            let records = usize::try_from(self.records(path, &source)?).unwrap_or(usize::MAX);
            let (first, stride) = (self.label_bytes() as u64, self.record());
            images.batches.push(BatchFile { start, path: path.clone(), source, first, stride });
            start += records;
        }
        Ok(Box::new(images))
    }
}

/// The names of `count` classes, one per line.
fn class_names(path: &Path, count: u32) -> Result<Classes, Error> {
    let text = source::text(path)?;
    let names: Vec<_> = text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
    if names.len() != count as usize {
        let named = counted(names.len() as u64, "class", "classes");
        let message = format!("names {named}; there are {count}: correct or remove the file");
        return Err(Error::invalid(path, message));
    }
    Ok(Classes { count, names: Some(names), first_label: 0 })
}

/// A file of images in planes.
#[derive(Debug)]
pub(super) struct BatchFile {
    /// Index of its first image in the split.
    pub start: usize,
    pub path: PathBuf,
    pub source: ByteSource,
    /// Where the first image's pixels begin.
    pub first: u64,
    /// Bytes from one image's pixels to the next's.
    pub stride: usize,
}

#[derive(Debug)]
pub(super) struct CifarImages {
    pub batches: Vec<BatchFile>,
    pub labels: Vec<u32>,
}

impl CifarImages {
    fn raw(&self, index: usize) -> Result<[u8; PIXELS], Error> {
        assert!(index < self.labels.len(), "image {index} of {}", self.labels.len());
        let batch = &self.batches[self.batches.partition_point(|batch| batch.start <= index) - 1];
        let mut raw = [0; PIXELS];
        let at = batch.first + ((index - batch.start) * batch.stride) as u64;
        batch.source.read_at(&mut raw, at).map_err(Error::io(&batch.path))?;
        Ok(raw)
    }
}

impl Images for CifarImages {
    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn read(&self, index: usize, frame: &Frame<'_>, side: u32, planes: &mut [u8]) -> Result<(), Error> {
        pixels::from_planes(&self.raw(index)?, [SIDE; 2], frame, side, planes);
        Ok(())
    }

    fn stored(&self, index: usize, take: &mut dyn FnMut(&[u8])) -> Result<(), Error> {
        take(&self.raw(index)?);
        Ok(())
    }
}
