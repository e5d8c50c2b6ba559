//! Decoding on all cores, the account of images that cannot be decoded, and pixel statistics. No tensors here.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rayon::prelude::*;

use super::augment::resized_crop;
use super::error::Error;
use super::random::random;
use distillery::dataset::{self, Frame, Images, plane_bytes};

/// So many images that cannot be decoded are named; more would not help.
const NAMED: usize = 10;

/// What is taken of each image.
#[derive(Debug, Clone, Copy)]
pub(super) enum View {
    /// All of it.
    Whole,
    /// Its centre.
    Centre,
    /// A part that (seed, epoch, image) decides.
    ResizedCrop { seed: u64, epoch: u32 },
}

impl View {
    fn read(self, images: &dyn Images, index: usize, side: u32, planes: &mut [u8]) -> Result<(), dataset::Error> {
        match self {
            Self::Whole => images.read(index, &Frame::Whole, side, planes),
            Self::Centre => images.read(index, &Frame::Centre, side, planes),
            Self::ResizedCrop { seed, epoch } => {
                let part = |size| resized_crop(size, &mut random(b"rcrop\0\0\0", seed, epoch, index as u64));
                images.read(index, &Frame::Part(&part), side, planes)
            }
        }
    }
}

/// Some images, decoded.
#[derive(Debug)]
pub(super) struct Decoded {
    /// [`plane_bytes`] per image.
    pub pixels: Vec<u8>,
    /// The images' classes.
    pub labels: Vec<i64>,
    /// Their places in the split.
    pub numbers: Vec<usize>,
    /// What is missing, by ascending place in the request: the image's index and why.
    pub failures: Vec<(usize, dataset::Error)>,
}

/// Decodes the images of those indices, in that order; those that fail are left out.
pub(super) fn decode(images: &dyn Images, indices: &[usize], view: View, side: u32) -> Decoded {
    let size = plane_bytes(side);
    let mut pixels = vec![0; indices.len() * size];
    let results: Vec<Option<dataset::Error>> = pixels
        .par_chunks_mut(size)
        .zip(indices)
        .map(|(planes, index)| view.read(images, *index, side, planes).err())
        .collect();
    let (mut labels, mut numbers) = (Vec::with_capacity(indices.len()), Vec::with_capacity(indices.len()));
    let mut failures = Vec::new();
    for (place, (index, result)) in indices.iter().zip(results).enumerate() {
        match result {
            Some(error) => failures.push((*index, error)),
            None => {
                // Closes the gaps that failures left.
                if labels.len() < place {
                    pixels.copy_within(place * size..(place + 1) * size, labels.len() * size);
                }
                labels.push(i64::from(images.labels()[*index]));
                numbers.push(*index);
            }
        }
    }
    pixels.truncate(labels.len() * size);
    Decoded { pixels, labels, numbers, failures }
}

/// The account of images that cannot be decoded, shared with the thread that decodes.
#[derive(Debug)]
pub(super) struct Corrupt {
    total: u64,
    found: Mutex<Found>,
}

/// An image is met again in each epoch, so the indices are kept, not a count.
#[derive(Debug, Default)]
struct Found {
    indices: BTreeSet<usize>,
    named: Vec<String>,
}

impl Corrupt {
    /// None yet of `total` images.
    pub fn new(total: usize) -> Self {
        Self { total: total as u64, found: Mutex::default() }
    }

    /// Takes note of failures. The first error that is not about the image's content is passed on: what could go
    /// better another time must not silently become a smaller data set.
    pub fn note(&self, failures: Vec<(usize, dataset::Error)>) -> Result<(), Error> {
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
        if corrupt * 100 > self.total {
            return Err(Error::TooManyCorrupt { corrupt, total: self.total, named: found.named.clone() });
        }
        Ok(())
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.lock().indices.len() as u64
    }

    /// The first of them, with reasons.
    pub fn named(&self) -> Vec<String> {
        self.lock().named.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Found> {
        // What it guards is whole between any two statements, so a panic elsewhere does not spoil it.
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sums over the bytes of each channel. 2⁴⁰ pixels of 255² still fit.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sums {
    pixels: u64,
    sum: [u64; 3],
    squares: [u64; 3],
}

impl Sums {
    /// Over whole images of `side`×`side` pixels.
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

    /// Both together.
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
    /// The deviation is at least one step of a byte: images are divided by it, and a channel can be constant.
    pub fn mean_std(&self) -> ([f64; 3], [f64; 3]) {
        let count = self.pixels.max(1) as f64;
        let mean = self.sum.map(|sum| sum as f64 / count);
        let deviation = |channel: usize| {
            let variance = self.squares[channel] as f64 / count - mean[channel] * mean[channel];
            variance.max(1.0).sqrt() / 255.0
        };
        (mean.map(|mean| mean / 255.0), [deviation(0), deviation(1), deviation(2)])
    }
}
