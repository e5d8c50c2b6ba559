//! What decoding the images of a data set shows: mean and standard deviation, duplicates, and images that cannot be
//! decoded.

use std::cell::Cell;
use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::ToSchema;

use super::{Dataset, Error, Frame, Images, Rectangle, UNLABELLED, plane_bytes};
use crate::text::counted;

/// Side to which images are resized before they are compared and averaged.
const SIDE: u32 = 32;
/// Most examples of a finding that are kept.
const EXAMPLES: usize = 20;
/// Number of images that a thread takes at a time.
const PORTION: usize = 64;

/// What decoding the images of a data set has shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DatasetStatistics {
    /// Per-channel mean of the training split's pixels in [0, 1]; null if none of its images can be decoded.
    pub mean: Option<[f64; 3]>,
    /// Per-channel standard deviation of the same pixels, at 32×32: at larger image sizes it is a little larger.
    pub std: Option<[f64; 3]>,
    /// How many images of each split were decoded.
    pub splits: Vec<ExaminedSplit>,
    /// Images with the same pixels at 32×32: within a split, and in two splits.
    pub duplicates: Vec<Duplicates>,
    /// What is probably not intended, such as images that are trained on and evaluated on.
    pub warnings: Vec<String>,
}

/// How much of a split was decoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExaminedSplit {
    /// The split's name.
    pub split: String,
    /// Number of images that were decoded, or could not be: all, or some that are spread evenly over a large split.
    pub examined: u64,
    /// Number of its images.
    pub images: u64,
    /// Width and height of the images in pixels; null if none of them can be decoded.
    pub sizes: Option<ImageSizes>,
    /// Number of images that cannot be decoded.
    pub undecodable: u64,
    /// The first of them.
    pub examples: Vec<UndecodableImage>,
}

/// Widths and heights of images in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImageSizes {
    /// Width and height of the image with the fewest pixels.
    pub smallest: [u32; 2],
    /// Width and height of the image with the most pixels.
    pub largest: [u32; 2],
    /// Whether all images have the same width and height.
    pub is_uniform: bool,
}

impl ImageSizes {
    fn of(size: [u32; 2]) -> Self {
        Self { smallest: size, largest: size, is_uniform: true }
    }

    /// Those of this and of other images. They do not depend on the order.
    fn with(self, other: Self) -> Self {
        let pixels = |size: &[u32; 2]| (u64::from(size[0]) * u64::from(size[1]), *size);
        Self {
            smallest: [self.smallest, other.smallest].into_iter().min_by_key(pixels).unwrap_or(self.smallest),
            largest: [self.largest, other.largest].into_iter().max_by_key(pixels).unwrap_or(self.largest),
            is_uniform: self.is_uniform && other.is_uniform && self.smallest == other.smallest,
        }
    }
}

/// An image that cannot be decoded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UndecodableImage {
    /// Position in the split.
    pub position: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// Images that a data set has more than once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Duplicates {
    /// The split that repeats images, and the split that has them first. Both are the same for repetitions within a
    /// split.
    pub splits: [String; 2],
    /// Number of images of the former that are also in the latter.
    pub images: u64,
    /// Number of these that have another class there.
    pub contradictory: u64,
    /// Positions of the first of them, in the former and in the latter split.
    pub examples: Vec<[u64; 2]>,
}

/// Where an image was found first.
#[derive(Clone, Copy)]
struct First {
    split: usize,
    position: u64,
    label: u32,
}

/// Sums of pixels of a split.
#[derive(Default)]
struct Sums {
    pixels: f64,
    values: [f64; 3],
    squares: [f64; 3],
}

/// What was found in a split.
#[derive(Default)]
struct Examined {
    /// Position, hash and label of each image that can be decoded.
    hashes: Vec<(u64, [u8; 16], u32)>,
    undecodable: Vec<UndecodableImage>,
    sizes: Option<ImageSizes>,
    sums: Sums,
}

impl Dataset {
    /// Decodes the images, at most `most` of each split, with that number of `threads`. `None` if `stop` was set
    /// meanwhile.
    ///
    /// # Errors
    /// A file cannot be read. An image that cannot be decoded is counted.
    pub fn statistics(
        &self,
        most: usize,
        threads: usize,
        stop: &AtomicBool,
    ) -> Result<Option<DatasetStatistics>, Error> {
        let trained = self.train_split(None).ok();
        let mut result = DatasetStatistics {
            mean: None,
            std: None,
            splits: Vec::new(),
            duplicates: Vec::new(),
            warnings: Vec::new(),
        };
        let mut first: HashMap<[u8; 16], First> = HashMap::new();
        // The training split first, so that an image that it shares with another split is reported for the other one.
        let mut names = self.splits();
        names.sort_by_key(|name| Some(name) != trained.as_ref());
        for split in names {
            let images = match self.split(&split) {
                Ok(images) => images,
                Err(error) if error.is_users() => continue,
                Err(error) => return Err(error),
            };
            let Some(examined) = examine(&*images, most, threads, stop)? else { return Ok(None) };
            if trained.as_ref() == Some(&split) {
                (result.mean, result.std) = examined.sums.mean_std().unzip();
            }
            result.add(&split, images.len(), examined, &mut first);
        }
        // Last, so that an image that one of them shares with the split of an evaluation is reported for it.
        let unlabelled = self.unlabelled_splits();
        for split in &unlabelled {
            let images = match self.without_labels(split) {
                Ok(images) => images,
                Err(error) if error.is_users() => continue,
                Err(error) => return Err(error),
            };
            let Some(examined) = examine(&*images, most, threads, stop)? else { return Ok(None) };
            result.add(split, images.len(), examined, &mut first);
        }
        result.warn(trained.as_deref(), &unlabelled);
        Ok(Some(result))
    }
}

impl DatasetStatistics {
    fn add(&mut self, split: &str, images: usize, examined: Examined, first: &mut HashMap<[u8; 16], First>) {
        let Examined { mut hashes, mut undecodable, sizes, .. } = examined;
        hashes.sort_unstable();
        undecodable.sort_by_key(|image| image.position);
        let here = self.splits.len();
        let (decoded, broken) = (hashes.len() as u64, undecodable.len() as u64);
        undecodable.truncate(EXAMPLES);
        self.splits.push(ExaminedSplit {
            split: split.to_owned(),
            examined: decoded + broken,
            images: images as u64,
            sizes,
            undecodable: broken,
            examples: undecodable,
        });
        let mut found: HashMap<usize, Duplicates> = HashMap::new();
        for (position, hash, label) in hashes {
            let earlier = *first.entry(hash).or_insert(First { split: here, position, label });
            if (earlier.split, earlier.position) == (here, position) {
                continue;
            }
            let pair = found.entry(earlier.split).or_insert_with(|| Duplicates {
                splits: [split.to_owned(), self.splits[earlier.split].split.clone()],
                images: 0,
                contradictory: 0,
                examples: Vec::new(),
            });
            pair.images += 1;
            let has_labels = ![earlier.label, label].contains(&UNLABELLED);
            pair.contradictory += u64::from(has_labels && earlier.label != label);
            if pair.examples.len() < EXAMPLES {
                pair.examples.push([position, earlier.position]);
            }
        }
        let mut found: Vec<_> = found.into_iter().collect();
        found.sort_by_key(|(earlier, _)| *earlier);
        self.duplicates.extend(found.into_iter().map(|(_, pair)| pair));
    }

    fn warn(&mut self, trained: Option<&str>, unlabelled: &[String]) {
        let mut warnings = Vec::new();
        for Duplicates { splits: [split, other], images, contradictory, .. } in &self.duplicates {
            let count = counted(*images, "image", "images");
            if split != other {
                let leak = if unlabelled.contains(split) {
                    if Some(other.as_str()) == trained {
                        ""
                    } else {
                        ": a job with this unlabelled_split trains on them"
                    }
                } else if Some(other.as_str()) == trained {
                    ": the accuracy on it will be better than on other images"
                } else {
                    ""
                };
                warnings.push(format!("the {split} split shares {count} with the {other} split{leak}"));
            }
            if *contradictory > 0 {
                let count = counted(*contradictory, "image", "images");
                let have = if *contradictory == 1 { "has a copy" } else { "have copies" };
                warnings.push(format!("{count} of the {split} split {have} of another class in the {other} split"));
            }
        }
        for ExaminedSplit { split, examined, images, undecodable, .. } in &self.splits {
            if *undecodable > 0 {
                let of = counted(*examined, "image", "images");
                warnings.push(format!("{undecodable} of {of} of the {split} split cannot be decoded"));
            }
            if examined < images {
                warnings.push(format!(
                    "only {examined} of the {images} images of the {split} split were decoded, evenly spaced: duplicates \
                     among the others are not found"
                ));
            }
        }
        self.warnings = warnings;
    }
}

impl Sums {
    fn add(&mut self, planes: &[u8]) {
        let area = planes.len() / 3;
        self.pixels += area as f64;
        for (channel, plane) in planes.chunks_exact(area).enumerate() {
            let sum: u64 = plane.iter().map(|&value| u64::from(value)).sum();
            let squares: u64 = plane.iter().map(|&value| u64::from(value) * u64::from(value)).sum();
            self.values[channel] += sum as f64;
            self.squares[channel] += squares as f64;
        }
    }

    fn merge(&mut self, other: &Self) {
        self.pixels += other.pixels;
        for channel in 0..3 {
            self.values[channel] += other.values[channel];
            self.squares[channel] += other.squares[channel];
        }
    }

    /// Mean and standard deviation (of the population) of pixels in [0, 1].
    fn mean_std(&self) -> Option<([f64; 3], [f64; 3])> {
        if self.pixels == 0.0 {
            return None;
        }
        let mean = self.values.map(|sum| sum / self.pixels);
        let std = [0, 1, 2].map(|channel: usize| {
            (self.squares[channel] / self.pixels - mean[channel] * mean[channel]).max(0.0).sqrt() / 255.0
        });
        Some((mean.map(|value| value / 255.0), std))
    }
}

/// Decodes at most `most` images, which are spread evenly over the split.
fn examine(images: &dyn Images, most: usize, threads: usize, stop: &AtomicBool) -> Result<Option<Examined>, Error> {
    let count = images.len().min(most);
    let (next, found) = (AtomicUsize::new(0), Mutex::new(Ok(Examined::default())));
    let work = || {
        let mut own = Examined::default();
        let mut planes = vec![0; plane_bytes(SIDE)];
        let size = Cell::new([0; 2]);
        let whole = |[width, height]: [u32; 2]| {
            size.set([width, height]);
            let (width, height) = (f64::from(width), f64::from(height));
            Rectangle { left: 0.0, top: 0.0, width, height, mirrored: false }
        };
        loop {
            let start = next.fetch_add(PORTION, Ordering::Relaxed);
            if start >= count || stop.load(Ordering::Relaxed) {
                break;
            }
            for place in start..count.min(start + PORTION) {
                let index = place * images.len() / count;
                match images.read(index, &Frame::Part(&whole), SIDE, &mut planes) {
                    Ok(()) => own.decoded(index, images.labels()[index], size.get(), &planes),
                    Err(error) if error.is_users() => {
                        own.undecodable.push(UndecodableImage { position: index as u64, reason: error.detail() });
                    }
                    Err(error) => {
                        *found.lock().unwrap_or_else(PoisonError::into_inner) = Err(error);
                        return;
                    }
                }
            }
        }
        if let Ok(all) = &mut *found.lock().unwrap_or_else(PoisonError::into_inner) {
            all.merge(own);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(work);
        }
    });
    let found = found.into_inner().unwrap_or_else(PoisonError::into_inner)?;
    Ok((!stop.load(Ordering::Relaxed)).then_some(found))
}

impl Examined {
    fn decoded(&mut self, index: usize, label: u32, size: [u32; 2], planes: &[u8]) {
        self.add_sizes(Some(ImageSizes::of(size)));
        let digest = Sha256::digest(planes);
        let mut hash = [0; 16];
        hash.copy_from_slice(&digest[..16]);
        self.hashes.push((index as u64, hash, label));
        self.sums.add(planes);
    }

    fn add_sizes(&mut self, other: Option<ImageSizes>) {
        self.sizes = match (self.sizes, other) {
            (Some(sizes), Some(other)) => Some(sizes.with(other)),
            (sizes, other) => sizes.or(other),
        };
    }

    fn merge(&mut self, other: Self) {
        self.add_sizes(other.sizes);
        self.hashes.extend(other.hashes);
        self.undecodable.extend(other.undecodable);
        self.sums.merge(&other.sums);
    }
}
