//! Decodes images on all cores, keeps account of corrupt ones, and computes pixel statistics. Knows no tensors.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

use super::augment::{crop_of_view, resized_crop};
use super::error::LoadError;
use super::framing::VariedPart;
use super::policy;
use super::random::generator;
use distillery_core::dataset::{self, Frame, Images, MeanStd, UNLABELLED, plane_bytes, tolerated_damage};
use distillery_core::spec::Policy;

/// Corrupt images that are named in messages.
const NAMED: usize = 10;

/// Which part of each image is decoded.
#[derive(Debug, Clone, Copy)]
pub(super) enum View {
    Whole,
    Centre {
        resize: u32,
    },
    /// A part that depends on (seed, epoch, image).
    ResizedCrop {
        seed: u64,
        epoch: u32,
    },
    /// A part, to which operations are applied that depend on (seed, epoch, image), too.
    Varied {
        part: VariedPart,
        policy: Policy,
        seed: u64,
        epoch: u32,
    },
}

impl View {
    /// Reads an image. `key` stands for the image in what is drawn for it.
    fn read(
        self,
        images: &dyn Images,
        (index, key): (usize, usize),
        side: u32,
        planes: &mut [u8],
    ) -> Result<(), dataset::Error> {
        match self {
            Self::Whole => images.read(index, &Frame::Whole, side, planes),
            Self::Centre { resize } => images.read(index, &Frame::Centre { resize }, side, planes),
            Self::ResizedCrop { seed, epoch } => {
                let part = |size| resized_crop(size, &mut generator(b"rcrop\0\0\0", seed, epoch, key as u64));
                images.read(index, &Frame::Part(&part), side, planes)
            }
            Self::Varied { part, policy, seed, epoch } => {
                let framed = match part {
                    VariedPart::Whole | VariedPart::CropFlip => Self::Whole,
                    VariedPart::ResizedCrop => Self::ResizedCrop { seed, epoch },
                };
                framed.read(images, (index, key), side, planes)?;
                let mut spare = vec![0; planes.len()];
                if part == VariedPart::CropFlip {
                    spare.copy_from_slice(planes);
                    crop_of_view(seed, epoch, key as u64).apply(&spare, planes, side as usize);
                }
                let random = &mut generator(b"policy\0\0", seed, epoch, key as u64);
                policy::vary(policy, planes, &mut spare, side as usize, random);
                Ok(())
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct DecodedImages {
    /// [`plane_bytes`] per image.
    pub pixels: Vec<u8>,
    pub labels: Vec<i64>,
    /// The images' positions in the split.
    pub indices: Vec<usize>,
    /// The positions of the images that could not be decoded, with reasons, in the order of the request.
    pub failures: Vec<(usize, dataset::Error)>,
}

/// Decodes the images at these positions, in this order. Leaves out those that fail. Of N images, position N + i is
/// image i again, with other augmentation.
pub(super) fn decode(images: &dyn Images, requested: &[usize], view: View, side: u32) -> DecodedImages {
    let (size, count) = (plane_bytes(side), images.len().max(1));
    let mut pixels = vec![0; requested.len() * size];
    let results: Vec<Option<dataset::Error>> = pixels
        .par_chunks_mut(size)
        .zip(requested)
        .map(|(planes, key)| view.read(images, (*key % count, *key), side, planes).err())
        .collect();
    let (mut labels, mut indices) = (Vec::with_capacity(requested.len()), Vec::with_capacity(requested.len()));
    let mut failures = Vec::new();
    for (place, (key, result)) in requested.iter().zip(results).enumerate() {
        let index = key % count;
        match result {
            Some(error) => failures.push((images.position(index), error)),
            None => {
                // Closes the gap that failures left.
                if labels.len() < place {
                    pixels.copy_within(place * size..(place + 1) * size, labels.len() * size);
                }
                labels.push(class(images.labels()[index]));
                indices.push(index);
            }
        }
    }
    pixels.truncate(labels.len() * size);
    DecodedImages { pixels, labels, indices, failures }
}

/// A class as in batches: negative for an image without a label.
pub(super) fn class(label: u32) -> i64 {
    if label == UNLABELLED { -1 } else { label.into() }
}

/// The corrupt images of a split, shared with the decoding threads.
#[derive(Debug)]
pub(super) struct Corrupt {
    total: u64,
    found: Mutex<CorruptImages>,
}

/// Positions rather than a count, because each epoch meets the same images again.
#[derive(Debug, Default)]
struct CorruptImages {
    indices: BTreeSet<usize>,
    named: Vec<String>,
}

impl Corrupt {
    /// `total` is the number of images of the split.
    pub fn new(total: usize) -> Self {
        Self { total: total as u64, found: Mutex::default() }
    }

    /// Adds failures.
    ///
    /// # Errors
    /// More images are corrupt than are [tolerated](tolerated_damage), or a failure is not about the image's content:
    /// what may succeed another time must not silently make the data set smaller.
    pub fn note(&self, failures: Vec<(usize, dataset::Error)>) -> Result<(), LoadError> {
        let mut found = self.lock();
        for (index, error) in failures {
            if !error.is_users() {
                return Err(error.into());
            }
            if found.indices.insert(index) && found.named.len() < NAMED {
                found.named.push(format!("image {index}: {error}"));
            }
        }
        let corrupt = found.indices.len() as u64;
        if corrupt > tolerated_damage(self.total) {
            return Err(LoadError::TooManyCorrupt { corrupt, total: self.total, named: found.named.clone() });
        }
        Ok(())
    }

    pub fn count(&self) -> u64 {
        self.lock().indices.len() as u64
    }

    /// The first corrupt images, with reasons.
    pub fn named(&self) -> Vec<String> {
        self.lock().named.clone()
    }

    fn lock(&self) -> MutexGuard<'_, CorruptImages> {
        // The value is consistent between any two statements, so a panic elsewhere does not spoil it.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sums over the bytes of each channel. They do not overflow below 2⁴⁰ pixels.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PixelSums {
    pixels: u64,
    sum: [u64; 3],
    squares: [u64; 3],
}

impl PixelSums {
    /// The sums over whole images of `side`×`side` pixels.
    pub fn of(pixels: &[u8], side: u32) -> Self {
        let area = side as usize * side as usize;
        let image = |planes: &[u8]| {
            let mut sums = Self { pixels: area as u64, ..Self::default() };
            for (channel, plane) in planes.chunks_exact(area).enumerate() {
                for byte in plane {
                    let byte = u64::from(*byte);
                    sums.sum[channel] += byte;
                    sums.squares[channel] += byte * byte;
                }
            }
            sums
        };
        pixels.par_chunks_exact(plane_bytes(side)).map(image).reduce(Self::default, Self::plus)
    }

    pub fn plus(self, other: Self) -> Self {
        let add = |a: [u64; 3], b: [u64; 3]| [a[0] + b[0], a[1] + b[1], a[2] + b[2]];
        Self {
            pixels: self.pixels + other.pixels,
            sum: add(self.sum, other.sum),
            squares: add(self.squares, other.squares),
        }
    }

    /// Mean and (population) standard deviation of each channel, of values in [0, 1].
    ///
    /// The deviation is at least one step of a byte, because images are divided by it and a channel can be constant.
    pub fn mean_std(&self) -> MeanStd {
        let count = self.pixels.max(1) as f64;
        let mean = self.sum.map(|sum| sum as f64 / count);
        let deviation = |channel: usize| {
            let variance = self.squares[channel] as f64 / count - mean[channel] * mean[channel];
            variance.max(1.0).sqrt() / 255.0
        };
        MeanStd { mean: mean.map(|mean| mean / 255.0), std: [deviation(0), deviation(1), deviation(2)] }
    }
}
