//! The binary files of CIFAR-10 and CIFAR-100. A record is the label (one byte, or a coarse and a fine one) and 3072
//! bytes of pixels in planes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use super::{Classes, DatasetFormat, Error, FormatReader, Frame, Images, file_names, pixels, source};
use crate::byte_source::ByteSource;

const SIDE: u32 = 32;
/// Bytes per image.
const PIXELS: usize = 3072;

#[derive(Debug)]
struct Cifar {
    root: PathBuf,
    format: DatasetFormat,
    splits: BTreeMap<String, Vec<PathBuf>>,
}

/// Recognises `data_batch_1.bin`, … and `test_batch.bin`, or `train.bin` and `test.bin`.
pub(super) fn detect(root: &Path) -> Result<Option<Box<dyn FormatReader>>, Error> {
    let mut ten: BTreeMap<String, Vec<(u32, PathBuf)>> = BTreeMap::new();
    let mut hundred = BTreeMap::new();
    for name in file_names(root)? {
        let Some(stem) = name.strip_suffix(".bin") else { continue };
        let path = root.join(&name);
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
    fn records(&self, path: &Path, size: u64) -> Result<u64, Error> {
        let record = self.record() as u64;
        if size.is_multiple_of(record) {
            return Ok(size / record);
        }
        let message =
            format!("is truncated: {size} bytes are not a multiple of the {record} bytes per image; download it again");
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
        self.splits[split].iter().try_fold(0, |images, path| {
            let size = fs::metadata(path).map_err(Error::io(path))?.len();
            Ok(images + self.records(path, size)?)
        })
    }

    fn classes(&self) -> Result<Classes, Error> {
        let (count, file) = if self.format == DatasetFormat::Cifar10 {
            (10, "batches.meta.txt")
        } else {
            (100, "fine_label_names.txt")
        };
        let path = self.root.join(file);
        if !path.exists() {
            return Ok(Classes { count, names: None });
        }
        let text = fs::read(&path).map_err(Error::io(&path))?;
        let text = String::from_utf8_lossy(&text);
        let names: Vec<_> = text.lines().map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect();
        if names.len() != count as usize {
            let message = format!("names {} classes; there are {count}: correct or remove the file", names.len());
            return Err(Error::invalid(&path, message));
        }
        Ok(Classes { count, names: Some(names) })
    }

    fn files(&self, split: &str) -> Vec<PathBuf> {
        self.splits[split].clone()
    }

    fn open(&self, split: &str, _: &Classes) -> Result<Box<dyn Images>, Error> {
        let mut images = CifarImages { label_bytes: self.label_bytes(), batches: Vec::new(), labels: Vec::new() };
        for path in &self.splits[split] {
            let source = source::open(path)?;
            let records = self.records(path, source.len())?;
            let start = images.labels.len();
            for record in 0..records {
                let mut label = [0];
                let at = record * self.record() as u64 + self.label_bytes() as u64 - 1;
                source.read_at(&mut label, at).map_err(Error::io(path))?;
                images.labels.push(u32::from(label[0]));
            }
            images.batches.push(BatchFile { start, path: path.clone(), source });
        }
        Ok(Box::new(images))
    }
}

#[derive(Debug)]
struct BatchFile {
    start: usize,
    path: PathBuf,
    source: ByteSource,
}

#[derive(Debug)]
struct CifarImages {
    label_bytes: usize,
    batches: Vec<BatchFile>,
    labels: Vec<u32>,
}

impl Images for CifarImages {
    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn read(&self, index: usize, frame: &Frame<'_>, side: u32, planes: &mut [u8]) -> Result<(), Error> {
        assert!(index < self.labels.len(), "image {index} of {}", self.labels.len());
        let batch = &self.batches[self.batches.partition_point(|batch| batch.start <= index) - 1];
        let mut raw = [0; PIXELS];
        let at = (index - batch.start) * (self.label_bytes + PIXELS) + self.label_bytes;
        batch.source.read_at(&mut raw, at as u64).map_err(Error::io(&batch.path))?;
        pixels::from_planes(&raw, [SIDE; 2], frame, side, planes);
        Ok(())
    }
}
