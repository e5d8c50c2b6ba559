//! `samples.safetensors`: images and what the student makes of them. They are read a batch at a time, so that memory
//! does not grow with their number.

use std::path::Path;

use super::{Preprocessing, Result, Student, refused};
use crate::checkpoint::{Checkpoint, Dtype};
use crate::dataset::{MeanStd, plane_bytes};

/// Most bytes of a file of samples.
const MOST_BYTES: u64 = 1 << 30;
/// Most images of each split.
const MOST_IMAGES: u64 = 512;
/// Most bytes of the images of each split, which are held in memory while they are written: 512 images of 3×224×224
/// pixels fit.
const MOST_IMAGE_BYTES: u64 = 80 << 20;

/// Most images of a split of a data set that a file of samples has, if they are `side` pixels wide and high.
#[must_use]
pub fn most_images(side: u32) -> u64 {
    (MOST_IMAGE_BYTES / plane_bytes(side).max(1) as u64).clamp(1, MOST_IMAGES)
}

/// Bytes of the file of samples of a run, for splits with this number of images: the images, and for each evaluation
/// image its label and both students' logits.
#[must_use]
pub fn file_bytes(side: u32, train_images: u64, eval_images: u64, classes: u32) -> u64 {
    let most = most_images(side);
    let (train, eval) = (train_images.min(most), eval_images.min(most));
    (train + eval) * plane_bytes(side) as u64 + eval * (8 + 2 * 4 * u64::from(classes))
}

/// The names of the tensors.
pub mod tensors {
    /// Evaluation images [N, C, H, W]: bytes, or float32 as the network sees them.
    pub const IMAGES: &str = "images";
    /// Training images [M, C, H, W], likewise.
    pub const CALIBRATION: &str = "calibration";
    /// Of images in bytes: what a pixel is multiplied by, per channel, in float32.
    pub const SCALE: &str = "scale";
    /// What is then added, per channel, in float32.
    pub const OFFSET: &str = "offset";
    /// The classes of the evaluation images, `[N]` in int64.
    pub const LABELS: &str = "labels";
    /// The logits [N, classes] of the best student.
    pub const LOGITS: &str = "logits";
    /// The logits [N, classes] of the student after the last epoch.
    pub const LAST_LOGITS: &str = "logits_last";
}

/// Images, and perhaps what the student makes of them.
#[derive(Debug)]
pub struct Samples {
    file: Checkpoint,
    /// Channels, height and width.
    shape: [u64; 3],
    classes: usize,
    /// Number of evaluation images.
    count: u64,
    /// [N, classes], if the file has this student's.
    logits: Option<Vec<f32>>,
    /// `[N]`, if they are known.
    labels: Option<Vec<i64>>,
    /// What images in bytes become.
    normalisation: Option<Affine>,
    /// The normalisation that is undone: the network does it itself.
    undone: Option<MeanStd>,
}

/// Per channel, what a pixel is multiplied by, and what is then added.
#[derive(Debug)]
struct Affine {
    scale: Vec<f32>,
    offset: Vec<f32>,
}

#[derive(Debug)]
pub struct SampleBatch<'a> {
    pub images: Vec<f32>,
    /// Number of images, channels, height and width.
    pub shape: [u64; 4],
    pub logits: &'a [f32],
    pub labels: Option<&'a [i64]>,
}

impl Samples {
    /// Opens a safetensors file with [`tensors`]. `logits` names those of the student.
    ///
    /// # Errors
    /// The file cannot be read, is too large, or its tensors do not fit the student.
    pub fn open(path: &Path, student: &Student, logits: &str) -> Result<Self> {
        let file = Checkpoint::open_as_written(path)?;
        let bytes = file.tensors().iter().fold(0_u64, |sum, tensor| sum.saturating_add(tensor.cost()));
        if bytes > MOST_BYTES {
            return refused(format!("the samples have {bytes} bytes, and at most {MOST_BYTES} are read"));
        }
        let shape = student.input();
        let Some((count, mut has_bytes)) = images(&file, tensors::IMAGES, shape)? else {
            return refused("the samples lack images or logits");
        };
        if let Some((_, more_bytes)) = images(&file, tensors::CALIBRATION, shape)? {
            has_bytes |= more_bytes;
        }
        let classes = student.classes();
        let found = floats(&file, logits, &[count, classes])?;
        if count == 0 || (found.is_none() && logits == tensors::LOGITS) {
            return refused("the samples lack images or logits");
        }
        let labels = match file.get(tensors::LABELS) {
            Some(tensor) if tensor.dtype() == Dtype::I64 && tensor.shape() == [count] => {
                let bytes = file.bytes(tensor)?;
                Some(bytes.as_chunks::<8>().0.iter().map(|&label| i64::from_le_bytes(label)).collect())
            }
            Some(_) => return refused("the samples' labels are not one int64 for each image"),
            None => None,
        };
        let channels = [shape[0]];
        let normalisation =
            match (floats(&file, tensors::SCALE, &channels)?, floats(&file, tensors::OFFSET, &channels)?) {
                (Some(scale), Some(offset)) => Some(Affine { scale, offset }),
                _ if has_bytes => return refused("the samples' images are bytes, and lack scale and offset"),
                _ => None,
            };
        Ok(Self { file, shape, classes: classes as usize, count, logits: found, labels, normalisation, undone: None })
    }

    /// Number of evaluation images: at least one.
    #[must_use]
    pub fn images(&self) -> u64 {
        self.count
    }

    /// Whether the file has the logits of this student.
    #[must_use]
    pub fn has_logits(&self) -> bool {
        self.logits.is_some()
    }

    /// The evaluation images with their logits, at most `size` at a time; none without logits.
    pub fn batches(&self, size: usize) -> impl Iterator<Item = Result<SampleBatch<'_>>> {
        let logits = self.logits.as_deref().unwrap_or_default();
        let batches = logits.chunks(size * self.classes).enumerate();
        batches.map(move |(at, logits)| self.batch(at * size, logits))
    }

    /// The evaluation images from `first` on that have these logits.
    fn batch<'a>(&'a self, first: usize, logits: &'a [f32]) -> Result<SampleBatch<'a>> {
        let count = logits.len() / self.classes;
        let images = self.read(tensors::IMAGES, first as u64, count as u64)?;
        let labels = self.labels.as_ref().map(|labels| &labels[first..first + count]);
        Ok(SampleBatch { images, shape: self.shape_of(count as u64), logits, labels })
    }

    /// The training images, at most `size` at a time, with the shape of each batch.
    pub fn calibration(&self, size: usize) -> impl Iterator<Item = Result<(Vec<f32>, [u64; 4])>> {
        let count = self.file.get(tensors::CALIBRATION).map_or(0, |tensor| tensor.shape()[0]);
        (0..count).step_by(size).map(move |first| {
            let count = (size as u64).min(count - first);
            self.read(tensors::CALIBRATION, first, count).map(|images| (images, self.shape_of(count)))
        })
    }

    fn shape_of(&self, count: u64) -> [u64; 4] {
        let [channels, height, width] = self.shape;
        [count, channels, height, width]
    }

    /// Turns the images into pixels in [0, 1], for a network that normalises its input itself.
    ///
    /// # Errors
    /// The student's file does not say how they were normalised.
    pub fn denormalise(&mut self, preprocessing: &Preprocessing) -> Result<()> {
        let Some(normalisation) = preprocessing.normalisation() else {
            return refused("the student's file names no mean and std");
        };
        self.undone = Some(normalisation);
        Ok(())
    }

    /// Some images of a tensor, as the network's input.
    fn read(&self, name: &str, first: u64, count: u64) -> Result<Vec<f32>> {
        let tensor = self.file.get(name).expect("it was there when the file was opened");
        let bytes = self.file.rows(tensor, first, count)?;
        let [channels, height, width] = self.shape.map(|size| size as usize);
        let plane = (height * width).max(1);
        if tensor.dtype() == Dtype::U8 {
            let mut images = Vec::with_capacity(bytes.len());
            for (at, pixels) in bytes.chunks(plane).enumerate() {
                match (&self.undone, &self.normalisation) {
                    (Some(_), _) => images.extend(pixels.iter().map(|&pixel| f32::from(pixel) / 255.0)),
                    // As the trainer computes it, to the bit.
                    (None, Some(Affine { scale, offset })) => {
                        let (scale, offset) = (scale[at % channels], offset[at % channels]);
                        images.extend(pixels.iter().map(|&pixel| f32::from(pixel) * scale + offset));
                    }
                    (None, None) => unreachable!("images in bytes have scale and offset"),
                }
            }
            return Ok(images);
        }
        let mut images: Vec<f32> = bytes.as_chunks::<4>().0.iter().map(|&value| f32::from_le_bytes(value)).collect();
        if let Some(MeanStd { mean, std }) = self.undone {
            for (at, pixels) in images.chunks_mut(plane).enumerate() {
                let (mean, std) = (mean[at % channels % 3], std[at % channels % 3]);
                pixels.iter_mut().for_each(|pixel| *pixel = (f64::from(*pixel) * std + mean) as f32);
            }
        }
        Ok(images)
    }
}

/// The number of images of a tensor, and whether they are bytes; `None` if the file has none.
fn images(file: &Checkpoint, name: &str, shape: [u64; 3]) -> Result<Option<(u64, bool)>> {
    match file.get(name) {
        Some(tensor)
            if matches!(tensor.dtype(), Dtype::U8 | Dtype::F32)
                && tensor.shape().get(1..) == Some(shape.as_slice()) =>
        {
            Ok(Some((tensor.shape()[0], tensor.dtype() == Dtype::U8)))
        }
        Some(tensor) => refused(format!(
            "the samples' {name} are {:?} of {}, and must be [N, {}, {}, {}] of U8 or F32",
            tensor.shape(),
            tensor.dtype(),
            shape[0],
            shape[1],
            shape[2]
        )),
        None => Ok(None),
    }
}

/// A float32 tensor with this shape; `None` if the file has none.
fn floats(file: &Checkpoint, name: &str, shape: &[u64]) -> Result<Option<Vec<f32>>> {
    match file.get(name) {
        Some(tensor) if tensor.dtype() == Dtype::F32 && tensor.shape() == shape => Ok(Some(file.floats(tensor)?)),
        Some(tensor) => refused(format!(
            "the samples' {name} are {:?} of {}, and must be {shape:?} of F32",
            tensor.shape(),
            tensor.dtype()
        )),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_has_the_images_that_there_are_up_to_a_limit_of_their_number_and_bytes() {
        assert_eq!(file_bytes(8, 3, 2, 10), 5 * 192 + 2 * (8 + 80));
        assert_eq!(file_bytes(224, 50_000, 10_000, 1000), 2 * 512 * 150_528 + 512 * 8008);
        assert_eq!(most_images(1024), 26);
        assert_eq!(most_images(8192), 1);
    }
}
