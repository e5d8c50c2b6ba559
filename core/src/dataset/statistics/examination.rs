//! Reads the images of one split with several threads: decodes some, and hashes the bytes of others.

use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use sha2::{Digest, Sha256};

use super::ImageSizes;
use super::duplicates::{EXAMPLES, HashedImage, ImageHash};
use crate::dataset::{Error, Frame, Images, Rectangle, plane_bytes};

/// Side to which images are resized before they are compared and averaged.
const SIDE: u32 = 32;
/// Number of images that a thread takes at a time.
const PORTION: usize = 64;

/// What is read of a split.
pub(super) struct Examination<'a> {
    pub images: &'a dyn Images,
    /// Number of the split.
    pub split: u32,
    /// Number of images that are read, evenly spaced.
    pub read: usize,
    /// Number of these that are decoded, evenly spaced among them.
    pub decoded: usize,
    /// Whether the bytes of all that are read are hashed.
    pub hashes_bytes: bool,
    /// Whether the images are encoded, and not raw pixels.
    pub is_encoded: bool,
    /// When reading ends, however many images are left.
    pub until: Option<Instant>,
}

/// What was found in a split.
#[derive(Default)]
pub(super) struct Examined {
    /// By the pixels of each image that was decoded.
    pub pixels: Vec<HashedImage>,
    /// By the bytes of each image that was read, if they were hashed.
    pub stored: Vec<HashedImage>,
    /// Hashes of the bytes of images that cannot be decoded, if they were hashed.
    pub unreadable: HashSet<ImageHash>,
    /// Number of images that were decoded.
    pub decoded: u64,
    /// Number of images that were not read because it was too late.
    pub skipped: u64,
    pub formats: BTreeMap<String, u64>,
    /// Number of images that cannot be decoded.
    pub undecodable: u64,
    /// The first of them by position, with their files and reasons. The others are only counted, since all images may
    /// be such.
    pub broken: BTreeMap<u64, (PathBuf, String)>,
    pub sizes: Option<ImageSizes>,
    pub sums: Sums,
}

/// Sums of pixels of a split.
#[derive(Default)]
pub(super) struct Sums {
    pixels: f64,
    values: [f64; 3],
    squares: [f64; 3],
}

impl Examination<'_> {
    /// Reads the images, and adds their number to `progress`. `None` if `stop` was set meanwhile.
    pub(super) fn run(
        &self,
        threads: usize,
        stop: &AtomicBool,
        progress: &AtomicU64,
    ) -> Result<Option<Examined>, Error> {
        let empty = Examined {
            pixels: Vec::with_capacity(self.decoded),
            stored: Vec::with_capacity(if self.hashes_bytes { self.read } else { 0 }),
            ..Examined::default()
        };
        let (next, found) = (AtomicUsize::new(0), Mutex::new(Ok::<_, Error>(empty)));
        let work = || {
            let mut planes = vec![0; plane_bytes(SIDE)];
            loop {
                let start = next.fetch_add(PORTION, Ordering::Relaxed);
                if start >= self.read || stop.load(Ordering::Relaxed) {
                    return;
                }
                let mut portion = Examined::default();
                let end = self.read.min(start + PORTION);
                let outcome = (start..end).try_for_each(|place| self.examine(place, &mut planes, &mut portion));
                progress.fetch_add((end - start) as u64, Ordering::Relaxed);
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                match outcome {
                    Ok(()) => match &mut *found {
                        Ok(all) => all.merge(portion),
                        Err(_) => return,
                    },
                    Err(error) => {
                        *found = Err(error);
                        return;
                    }
                }
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

    /// Reads one of the images, and counts it as broken if it cannot be decoded. `place` is among those that are read.
    fn examine(&self, place: usize, planes: &mut [u8], found: &mut Examined) -> Result<(), Error> {
        if self.until.is_some_and(|until| Instant::now() >= until) {
            found.skipped += 1;
            return Ok(());
        }
        let index = place * self.images.len() / self.read;
        match self.read_image(place, index, planes, found) {
            Err(error) if error.is_users() => {
                found.undecodable += 1;
                found.broken.insert(index as u64, (error.path().to_owned(), error.detail()));
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Decodes an image or only hashes its bytes, and adds what that gives. `index` is its position in the split.
    fn read_image(&self, place: usize, index: usize, planes: &mut [u8], found: &mut Examined) -> Result<(), Error> {
        let position = u32::try_from(index).unwrap_or(u32::MAX);
        let label = self.images.labels()[index];
        let hashed = |hash| HashedImage { hash, split: self.split, position, label };
        let (mut format, mut hash) = (None, None);
        let mut take = |bytes: &[u8]| {
            format = self.is_encoded.then(|| format_of(bytes));
            hash = self.hashes_bytes.then(|| hash_of(bytes));
        };
        let size = Cell::new([0; 2]);
        let whole = |[width, height]: [u32; 2]| {
            size.set([width, height]);
            let (width, height) = (f64::from(width), f64::from(height));
            Rectangle { left: 0.0, top: 0.0, width, height, mirrored: false }
        };
        let is_decoded = self.is_decoded(place);
        let outcome = if !is_decoded {
            self.images.stored(index, &mut take)
        } else if self.is_encoded || self.hashes_bytes {
            self.images.read_stored(index, &Frame::Part(&whole), (SIDE, &mut *planes), &mut take)
        } else {
            self.images.read(index, &Frame::Part(&whole), SIDE, planes)
        };
        if let Some(format) = format {
            *found.formats.entry(format).or_default() += 1;
        }
        if outcome.is_err() {
            // Equal files that cannot be decoded are no duplicate images.
            found.unreadable.extend(hash);
            return outcome;
        }
        found.stored.extend(hash.map(hashed));
        if is_decoded {
            found.add_sizes(Some(ImageSizes::of(size.get())));
            found.pixels.push(hashed(hash_of(planes)));
            found.decoded += 1;
            found.sums.add(planes);
        }
        Ok(())
    }

    /// Whether the image at that place among those that are read is one of those that are decoded.
    fn is_decoded(&self, place: usize) -> bool {
        (place + 1) * self.decoded / self.read > place * self.decoded / self.read
    }
}

fn hash_of(bytes: &[u8]) -> ImageHash {
    let digest = Sha256::digest(bytes);
    let mut hash = [0; 16];
    hash.copy_from_slice(&digest[..16]);
    hash
}

/// The format of an encoded image, by its first bytes.
fn format_of(bytes: &[u8]) -> String {
    image::guess_format(bytes).map_or_else(|_| "unknown".to_owned(), |format| format!("{format:?}").to_lowercase())
}

impl Examined {
    fn add_sizes(&mut self, other: Option<ImageSizes>) {
        self.sizes = match (self.sizes, other) {
            (Some(sizes), Some(other)) => Some(sizes.with(other)),
            (sizes, other) => sizes.or(other),
        };
    }

    fn merge(&mut self, other: Self) {
        self.add_sizes(other.sizes);
        self.pixels.extend(other.pixels);
        self.stored.extend(other.stored);
        self.unreadable.extend(other.unreadable);
        self.decoded += other.decoded;
        self.skipped += other.skipped;
        self.undecodable += other.undecodable;
        self.broken.extend(other.broken);
        while self.broken.len() > EXAMPLES {
            self.broken.pop_last();
        }
        self.sums.merge(&other.sums);
        for (format, images) in other.formats {
            *self.formats.entry(format).or_default() += images;
        }
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
    pub(super) fn mean_std(&self) -> Option<([f64; 3], [f64; 3])> {
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
