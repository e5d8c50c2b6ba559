//! Whether an exported student computes what the student does: its logits in another runtime, compared with those of
//! the trainer, and what is reported of that.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::{Preprocessing, Result, Student, refused};
use crate::checkpoint::{Checkpoint, Dtype};
use crate::dataset::MeanStd;

/// Largest difference of a float32 export's logits, as a share of the largest logit.
pub const TOLERANCE: f64 = 1e-4;
/// Most bytes of a file of samples, which is held in memory.
const MOST_BYTES: u64 = 1 << 30;

/// Images as the network sees them, and what the student makes of them.
#[derive(Debug)]
pub struct Samples {
    /// Channels, height and width.
    shape: [u64; 3],
    classes: usize,
    /// [N, channels, height, width], normalised.
    images: Vec<f32>,
    /// [N, classes].
    logits: Vec<f32>,
    /// `[N]`, if they are known.
    labels: Option<Vec<i64>>,
    /// [M, channels, height, width], normalised: training images.
    calibration: Vec<f32>,
}

/// Some of the samples.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    pub images: &'a [f32],
    /// Number of images, channels, height and width.
    pub shape: [u64; 4],
    pub logits: &'a [f32],
    pub labels: Option<&'a [i64]>,
}

impl Samples {
    /// Reads a safetensors file with `images` [N, C, H, W] and `logits` [N, classes] in float32, and perhaps `labels`
    /// `[N]` in int64 and `calibration` [M, C, H, W] in float32.
    ///
    /// # Errors
    /// The file cannot be read, is too large, or its tensors do not fit the student.
    pub fn open(path: &Path, student: &Student) -> Result<Self> {
        let file = Checkpoint::open_as_written(path)?;
        let bytes = file.tensors().iter().fold(0_u64, |sum, tensor| sum.saturating_add(tensor.cost()));
        if bytes > MOST_BYTES {
            return refused(format!("the samples have {bytes} bytes, and at most {MOST_BYTES} are read"));
        }
        let shape = student.input();
        let classes = student.classes();
        let floats = |name: &str, shape: &[u64]| match file.get(name) {
            Some(tensor) if tensor.dtype() == Dtype::F32 && tensor.shape().get(1..) == Some(shape) => {
                Ok(Some(file.floats(tensor)?))
            }
            Some(tensor) => refused(format!(
                "the samples' {name} are {:?} of {}, and must be [N, {}] of F32",
                tensor.shape(),
                tensor.dtype(),
                shape.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
            )),
            None => Ok(None),
        };
        let (Some(images), Some(logits)) = (floats("images", &shape)?, floats("logits", &[classes])?) else {
            return refused("the samples lack images or logits");
        };
        let count = |elements: usize, each: u64| elements as u64 / each.max(1);
        let images_count = count(images.len(), shape.iter().product());
        let labels = match file.get("labels") {
            Some(tensor) if tensor.dtype() == Dtype::I64 && tensor.shape() == [images_count] => {
                let bytes = file.bytes(tensor)?;
                Some(bytes.as_chunks::<8>().0.iter().map(|&label| i64::from_le_bytes(label)).collect())
            }
            Some(_) => return refused("the samples' labels are not one int64 for each image"),
            None => None,
        };
        if images_count == 0 || images_count != count(logits.len(), classes) {
            return refused("the samples have no images, or another number of images than of logits");
        }
        let calibration = floats("calibration", &shape)?.unwrap_or_default();
        Ok(Self { shape, classes: classes as usize, images, logits, labels, calibration })
    }

    /// Number of images with logits.
    #[must_use]
    pub fn len(&self) -> usize {
        self.logits.len() / self.classes
    }

    /// Never: there is at least one image.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.logits.is_empty()
    }

    fn pixels(&self) -> usize {
        self.shape.iter().product::<u64>() as usize
    }

    /// The images with their logits, at most `size` at a time.
    pub fn batches(&self, size: usize) -> impl Iterator<Item = Batch<'_>> {
        let images = self.images.chunks(size * self.pixels());
        let logits = self.logits.chunks(size * self.classes);
        images.zip(logits).enumerate().map(move |(at, (images, logits))| {
            let count = logits.len() / self.classes;
            let labels = self.labels.as_ref().map(|labels| &labels[at * size..at * size + count]);
            Batch { images, shape: self.shape_of(count), logits, labels }
        })
    }

    /// The calibration images, at most `size` at a time, with the shape of each batch.
    pub fn calibration(&self, size: usize) -> impl Iterator<Item = (&[f32], [u64; 4])> {
        let pixels = self.pixels();
        self.calibration.chunks(size * pixels).map(move |images| (images, self.shape_of(images.len() / pixels)))
    }

    fn shape_of(&self, count: usize) -> [u64; 4] {
        let [channels, height, width] = self.shape;
        [count as u64, channels, height, width]
    }

    /// Turns the images into pixels in [0, 1], for a network that normalises its input itself.
    ///
    /// # Errors
    /// The student's file does not say how they were normalised.
    pub fn denormalise(&mut self, preprocessing: &Preprocessing) -> Result<()> {
        let Some(MeanStd { mean, std }) = preprocessing.normalisation() else {
            return refused("the student's file names no mean and std");
        };
        let plane = (self.shape[1] * self.shape[2]) as usize;
        for images in [&mut self.images, &mut self.calibration] {
            for (at, pixels) in images.chunks_mut(plane.max(1)).enumerate() {
                let (mean, std) = (mean[at % 3], std[at % 3]);
                pixels.iter_mut().for_each(|pixel| *pixel = (f64::from(*pixel) * std + mean) as f32);
            }
        }
        Ok(())
    }
}

/// Logits of two runtimes, compared so far.
#[derive(Debug, Clone, Default)]
pub struct Comparison {
    images: u64,
    largest_difference: f64,
    largest_logit: f64,
    agreeing: u64,
    labelled: u64,
    right: u64,
    right_exported: u64,
}

impl Comparison {
    /// Adds the logits [N, classes] that a runtime gives for a batch.
    ///
    /// # Errors
    /// They are not one for each of the student's.
    pub fn add(&mut self, batch: Batch<'_>, found: &[f32]) -> Result<()> {
        let count = batch.shape[0] as usize;
        if found.len() != batch.logits.len() || count == 0 {
            return refused(format!(
                "the runtime gives {} logits, and the student {}",
                found.len(),
                batch.logits.len()
            ));
        }
        let classes = found.len() / count;
        for (at, (expected, found)) in batch.logits.chunks(classes).zip(found.chunks(classes)).enumerate() {
            for (expected, found) in expected.iter().zip(found) {
                let difference = f64::from((expected - found).abs());
                // What is not a number differs by more than any number.
                let difference = if difference.is_nan() { f64::INFINITY } else { difference };
                self.largest_difference = self.largest_difference.max(difference);
                self.largest_logit = self.largest_logit.max(f64::from(expected.abs()));
            }
            let (expected, found) = (best(expected), best(found));
            self.images += 1;
            self.agreeing += u64::from(expected == found);
            if let Some(label) =
                batch.labels.and_then(|labels| labels.get(at)).and_then(|&label| usize::try_from(label).ok())
            {
                self.labelled += 1;
                self.right += u64::from(expected == label);
                self.right_exported += u64::from(found == label);
            }
        }
        Ok(())
    }

    /// What was found. `tolerance` is the largest relative difference that is accepted; `None` accepts any.
    #[must_use]
    pub fn parity(&self, tolerance: Option<f64>) -> Parity {
        let percent = |part: u64, whole: u64| 100.0 * part as f64 / whole.max(1) as f64;
        Parity {
            images: self.images,
            largest_difference: self.largest_difference,
            logits_scale: self.largest_logit,
            relative_difference: self.largest_difference / self.largest_logit.max(f64::MIN_POSITIVE),
            tolerance,
            top1_agreement: percent(self.agreeing, self.images),
            top1: (self.labelled > 0).then(|| Top1 {
                student: percent(self.right, self.labelled),
                exported: percent(self.right_exported, self.labelled),
            }),
        }
    }
}

/// The class with the largest logit.
fn best(logits: &[f32]) -> usize {
    logits
        .iter()
        .enumerate()
        .fold((0, f32::NEG_INFINITY), |best, (at, &logit)| if logit > best.1 { (at, logit) } else { best })
        .0
}

/// How far an exported student's logits are from the student's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Parity {
    /// Number of evaluation images.
    pub images: u64,
    /// Largest absolute difference of two logits.
    pub largest_difference: f64,
    /// Largest absolute logit of the student.
    pub logits_scale: f64,
    /// The largest difference as a share of the largest logit.
    pub relative_difference: f64,
    /// The largest relative difference that is accepted; null for int8, which is judged by its accuracy.
    pub tolerance: Option<f64>,
    /// Images for which both name the same class, in percent.
    pub top1_agreement: f64,
    /// Accuracies on the same images, if their labels are known.
    pub top1: Option<Top1>,
}

/// Accuracies in percent.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Top1 {
    pub student: f64,
    pub exported: f64,
}

impl Parity {
    #[must_use]
    pub fn holds(&self) -> bool {
        self.tolerance.is_none_or(|tolerance| self.relative_difference <= tolerance)
    }
}

/// A program that runs exported students.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    pub name: String,
    pub version: String,
}

/// `export-<format>.json`: what an exported file is, and how it was checked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub format: String,
    /// The version of ONNX's operators.
    pub opset: Option<i64>,
    pub size_bytes: u64,
    /// SHA-256 of the exported file, in hexadecimal.
    pub sha256: String,
    /// What ran the exported file; null if nothing did.
    pub runtime: Option<Runtime>,
    /// Why the file was not checked; null if it was.
    pub not_checked: Option<String>,
    /// Null if the file was not checked.
    pub parity: Option<Parity>,
}
