//! The Python version of CIFAR-10 and CIFAR-100, which torchvision downloads: pickles of a dictionary with an array of
//! pixels in planes and a list of labels.

mod pickle;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use self::pickle::{Blob, PickleObject};
use super::cifar::{BatchFile, CifarImages, PIXELS};
use super::links::{self, Links};
use super::{Classes, DatasetFormat, Error, FormatReader, Images, labels, source};
use crate::byte_source::ByteSource;

#[derive(Debug)]
struct CifarPython {
    root: PathBuf,
    format: DatasetFormat,
    splits: BTreeMap<String, Vec<PathBuf>>,
}

/// Whether this layout may read a file of that name.
pub(super) fn may_read(name: &str) -> bool {
    name.starts_with("data_batch_") || ["test_batch", "batches.meta", "train", "test", "meta"].contains(&name)
}

/// Recognises `data_batch_1`, … and `test_batch`, or `train` and `test` beside `meta`.
pub(super) fn detect(root: &Path, links: &Links) -> Result<Option<Box<dyn FormatReader>>, Error> {
    let entries = links::entries(root)?;
    let mut splits: BTreeMap<String, Vec<(u32, PathBuf)>> = BTreeMap::new();
    let mut add = |split: &str, number: u32, path: &Path| {
        splits.entry(split.to_owned()).or_default().push((number, path.to_owned()));
    };
    let is_hundred = entries.iter().any(|entry| entry.name == "meta");
    let is_wanted = |name: &str| {
        name.starts_with("data_batch_") || name == "test_batch" || is_hundred && matches!(name, "train" | "test")
    };
    let mut format = DatasetFormat::Cifar10;
    for file in links.files(&entries, is_wanted)? {
        match file.name.strip_prefix("data_batch_") {
            Some(number) => number.parse::<u32>().map_or((), |number| add("train", number, &file.path)),
            None if file.name == "test_batch" => add("test", 0, &file.path),
            None => {
                format = DatasetFormat::Cifar100;
                add(&file.name, 0, &file.path);
            }
        }
    }
    if format == DatasetFormat::Cifar10
        && let Some(batches) = splits.get_mut("train")
    {
        batches.sort();
        if let Some((missing, _)) = (1..).zip(batches.iter()).find(|(expected, (number, _))| expected != number) {
            return Err(Error::invalid(root, format!("data_batch_{missing} is missing: add it")));
        }
    }
    if splits.is_empty() {
        return Ok(None);
    }
    let paths = |batches: Vec<(u32, PathBuf)>| batches.into_iter().map(|(_, path)| path).collect();
    let splits = splits.into_iter().map(|(split, batches)| (split, paths(batches))).collect();
    Ok(Some(Box::new(CifarPython { root: root.to_owned(), format, splits })))
}

/// The images of a file.
struct CifarBatch {
    labels: Vec<u32>,
    pixels: Blob,
}

impl CifarPython {
    fn labels_key(&self) -> &'static str {
        if self.format == DatasetFormat::Cifar10 { "labels" } else { "fine_labels" }
    }

    fn batch(&self, path: &Path, source: &ByteSource) -> Result<CifarBatch, Error> {
        let invalid = |why: &str| {
            Error::invalid(path, format!("is not a batch of CIFAR's Python version ({why}): download it again"))
        };
        let batch = pickle::load(source).map_err(|why| invalid(&why))?;
        let key = self.labels_key();
        let labels =
            batch.get(key).and_then(PickleObject::integers).ok_or_else(|| invalid(&format!("no list {key:?}")))?;
        let labels: Option<Vec<u32>> = labels.iter().map(|label| u32::try_from(*label).ok()).collect();
        let labels = labels.ok_or_else(|| invalid("a label is negative"))?;
        let pixels =
            batch.get("data").and_then(PickleObject::pixels).ok_or_else(|| invalid("no array \"data\" of bytes"))?;
        if pixels.length != (labels.len() * PIXELS) as u64 {
            let why = format!("{} labels, but {} bytes of pixels", labels.len(), pixels.length);
            return Err(invalid(&why));
        }
        Ok(CifarBatch { labels, pixels })
    }

    fn batches(&self, split: &str) -> Result<Vec<(PathBuf, ByteSource, CifarBatch)>, Error> {
        let open = |path: &PathBuf| {
            let source = source::open(path)?;
            let batch = self.batch(path, &source)?;
            Ok((path.clone(), source, batch))
        };
        self.splits[split].iter().map(open).collect()
    }
}

impl FormatReader for CifarPython {
    fn format(&self) -> DatasetFormat {
        self.format
    }

    fn splits(&self) -> Vec<String> {
        self.splits.keys().cloned().collect()
    }

    fn images(&self, split: &str) -> Result<u64, Error> {
        Ok(self.batches(split)?.iter().map(|(_, _, batch)| batch.labels.len() as u64).sum())
    }

    fn classes(&self) -> Result<Classes, Error> {
        let (count, file, key) = if self.format == DatasetFormat::Cifar10 {
            (10, "batches.meta", "label_names")
        } else {
            (100, "meta", "fine_label_names")
        };
        let path = self.root.join(file);
        if !path.exists() {
            return Ok(Classes { count, names: None, first_label: 0 });
        }
        let invalid =
            |why: &str| Error::invalid(&path, format!("does not name the classes ({why}): download it again"));
        let meta = pickle::load(&source::open(&path)?).map_err(|why| invalid(&why))?;
        let names = meta.get(key).and_then(PickleObject::texts).ok_or_else(|| invalid(&format!("no list {key:?}")))?;
        if names.len() != count as usize {
            return Err(invalid(&format!("{} names for {count} classes", names.len())));
        }
        Ok(Classes { count, names: Some(names), first_label: 0 })
    }

    fn files(&self, split: &str) -> Vec<PathBuf> {
        self.splits[split].clone()
    }

    fn labels(&self, split: &str, classes: &Classes) -> Result<Vec<u32>, Error> {
        let mut all: Vec<u32> = self.batches(split)?.into_iter().flat_map(|(_, _, batch)| batch.labels).collect();
        labels::to_classes(&self.root, split, 0, &mut all, classes)?;
        Ok(all)
    }

    fn open(&self, split: &str, labels: Vec<u32>) -> Result<Box<dyn Images>, Error> {
        let mut images = CifarImages { batches: Vec::new(), labels };
        let mut start = 0;
        for (path, source, batch) in self.batches(split)? {
            let records = batch.labels.len();
            images.batches.push(BatchFile { start, path, source, first: batch.pixels.start, stride: PIXELS });
            start += records;
        }
        Ok(Box::new(images))
    }
}
