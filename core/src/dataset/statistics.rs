//! What reading the images of a data set shows: mean and standard deviation, formats, duplicates, and images that
//! cannot be decoded.

mod duplicates;
mod examination;
mod job;

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use self::duplicates::HashedImage;
use self::examination::{Examination, Examined};
pub use self::job::UsedSplits;
use super::{Dataset, DatasetFormat, Error, Images};
use crate::text::counted;

/// How many images are read for the statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatisticsLimits {
    /// Most images of a split that are decoded. Where a split has more, all images are compared by their bytes, too.
    pub decoded: usize,
    /// Most images of the data set whose bytes are compared. Each takes 28 bytes of memory.
    pub compared: usize,
    /// About how many bytes of files are read at most.
    pub bytes: u64,
    /// How long images are read.
    pub time: Duration,
}

/// How far the images of a data set have been read, for other threads.
#[derive(Debug, Default)]
pub struct ReadProgress {
    images: AtomicU64,
    read: AtomicU64,
}

impl ReadProgress {
    /// Number of images that have been read, and of those that will be; the latter is 0 until it is known.
    #[must_use]
    pub fn get(&self) -> [u64; 2] {
        [&self.read, &self.images].map(|number| number.load(Ordering::Relaxed))
    }
}

/// What decoding the images of a data set has shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DatasetStatistics {
    /// Per-channel mean of the training split's pixels in [0, 1]; null if none of its images can be decoded.
    pub mean: Option<[f64; 3]>,
    /// Per-channel standard deviation of the same pixels, at 32×32: at larger image sizes it is a little larger.
    pub std: Option<[f64; 3]>,
    /// How many images of each split were decoded.
    pub splits: Vec<ExaminedSplit>,
    /// Images with the same pixels at 32×32, or with the same bytes: within a split, and in two splits.
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
    /// Number of images that were compared with all others, by their pixels or by their bytes.
    pub compared: u64,
    /// Number of its images.
    pub images: u64,
    /// Number of images that were read in each format, such as `jpeg` and `png`, by their first bytes; empty for a data
    /// set of raw pixels.
    pub formats: BTreeMap<String, u64>,
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
    /// The file with the image, below the data set's directory; null in statistics of earlier versions.
    #[schema(example = "train/cat/3.png")]
    pub file: Option<String>,
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

impl Dataset {
    /// Reads the images with that number of `threads`: all, or as many as the limits allow, evenly spaced over each
    /// split. `None` if `stop` was set meanwhile.
    ///
    /// # Errors
    /// A file cannot be read. An image that cannot be decoded is counted.
    pub fn statistics(
        &self,
        limits: StatisticsLimits,
        threads: usize,
        stop: &AtomicBool,
        progress: &ReadProgress,
    ) -> Result<Option<DatasetStatistics>, Error> {
        let trained = self.train_split(None).ok();
        // The training split first, so that an image that it shares with another split is reported for the other one.
        let mut names = self.splits();
        names.sort_by_key(|name| Some(name) != trained.as_ref());
        // Those without labels last, so that an image that one of them shares with the split of an evaluation is
        // reported for it.
        let unlabelled = self.unlabelled_splits();
        names.extend(unlabelled.iter().cloned());
        let counts = names.iter().map(|split| self.count(split)).collect::<Result<Vec<_>, Error>>()?;
        let hashes_bytes = counts.iter().any(|&images| images > limits.decoded);
        let (bytes, most) = (self.bytes(&names), if hashes_bytes { limits.compared } else { usize::MAX });
        let allowed = fair_shares(&counts, most.min(within(limits.bytes, bytes, &counts)));
        let until = Instant::now().checked_add(limits.time);
        progress.images.store(allowed.iter().map(|&images| images as u64).sum(), Ordering::Relaxed);
        let is_encoded =
            matches!(self.format(), DatasetFormat::Parquet | DatasetFormat::Folder | DatasetFormat::WebDataset);
        let mut result = DatasetStatistics {
            mean: None,
            std: None,
            splits: Vec::new(),
            duplicates: Vec::new(),
            warnings: Vec::new(),
        };
        let (mut pixels, mut stored, mut unreadable, mut skipped) = (Vec::new(), Vec::new(), HashSet::new(), 0);
        for (split, allowed) in names.iter().zip(allowed) {
            let opened = if unlabelled.contains(split) { self.without_labels(split) } else { self.split(split) };
            let images: Box<dyn Images> = match opened {
                Ok(images) => images,
                Err(error) if error.is_users() => continue,
                Err(error) => return Err(error),
            };
            let number = u32::try_from(result.splits.len()).unwrap_or(u32::MAX);
            let read = images.len().min(allowed);
            let decoded = read.min(limits.decoded);
            let images = &*images;
            let examination = Examination { images, split: number, read, decoded, hashes_bytes, is_encoded, until };
            let Some(mut examined) = examination.run(threads, stop, &progress.read)? else { return Ok(None) };
            if trained.as_ref() == Some(split) {
                (result.mean, result.std) = examined.sums.mean_std().unzip();
            }
            take(&mut pixels, &mut examined.pixels);
            take(&mut stored, &mut examined.stored);
            unreadable.extend(std::mem::take(&mut examined.unreadable));
            skipped += examined.skipped;
            result.add((&self.path, split), images.len(), read, examined);
        }
        stored.retain(|image| !unreadable.contains(&image.hash));
        let names: Vec<&str> = result.splits.iter().map(|split| split.split.as_str()).collect();
        result.duplicates = duplicates::find(pixels, stored, &names);
        result.warn(trained.as_deref(), &unlabelled);
        result.warn_of_limits(limits, bytes, skipped);
        Ok(Some(result))
    }

    /// Total size of the files of some splits. A file that is gone has none: reading its images says so.
    fn bytes(&self, splits: &[String]) -> u64 {
        let files = splits.iter().flat_map(|split| self.layout.files(split));
        files.filter_map(|file| fs::metadata(file).ok()).fold(0, |sum, file| sum.saturating_add(file.len()))
    }

    /// Number of images of a split, with labels or without; 0 if the files are at fault.
    fn count(&self, split: &str) -> Result<usize, Error> {
        match self.layout.images(split) {
            Ok(images) => Ok(usize::try_from(images).unwrap_or(usize::MAX)),
            Err(error) if error.is_users() => Ok(0),
            Err(error) => Err(error),
        }
    }
}

/// Moves images behind others, without room for more. Those of the first split are not copied: they are usually most.
fn take(all: &mut Vec<HashedImage>, more: &mut Vec<HashedImage>) {
    if all.is_empty() {
        std::mem::swap(all, more);
    } else {
        all.reserve_exact(more.len());
        all.append(more);
    }
}

/// How many of these images, which have `bytes` bytes together, are read to stay within `most` bytes.
fn within(most: u64, bytes: u64, counts: &[usize]) -> usize {
    let images = counts.iter().fold(0_usize, |sum, &images| sum.saturating_add(images));
    if bytes <= most {
        return images;
    }
    usize::try_from(images as u128 * u128::from(most) / u128::from(bytes)).unwrap_or(usize::MAX)
}

/// How many images each split may have of at most `most`: all of a small one, before large ones share the rest.
fn fair_shares(counts: &[usize], most: usize) -> Vec<usize> {
    let mut ascending: Vec<usize> = (0..counts.len()).collect();
    ascending.sort_by_key(|&split| counts[split]);
    let (mut shares, mut left) = (vec![0; counts.len()], most);
    for (done, &split) in ascending.iter().enumerate() {
        shares[split] = counts[split].min(left / (counts.len() - done));
        left -= shares[split];
    }
    shares
}

impl DatasetStatistics {
    fn add(&mut self, (root, split): (&Path, &str), images: usize, read: usize, examined: Examined) {
        let Examined { undecodable, broken, sizes, formats, decoded, skipped, .. } = examined;
        let example = |(position, (path, reason)): (u64, (PathBuf, String))| {
            // Where the server keeps its data sets is nobody's business.
            let below = path.strip_prefix(root).ok().or(path.file_name().map(Path::new));
            UndecodableImage { position, file: below.map(|below| below.display().to_string()), reason }
        };
        self.splits.push(ExaminedSplit {
            split: split.to_owned(),
            examined: decoded + undecodable,
            compared: read as u64 - skipped,
            images: images as u64,
            formats,
            sizes,
            undecodable,
            examples: broken.into_iter().map(example).collect(),
        });
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
        for ExaminedSplit { split, examined, compared, images, undecodable, .. } in &self.splits {
            if *undecodable > 0 {
                let of = counted(*examined, "image", "images");
                warnings.push(format!("{undecodable} of {of} of the {split} split cannot be decoded"));
            }
            if compared < images {
                warnings.push(format!(
                    "only {compared} of the {images} images of the {split} split were read, evenly spaced, and \
                     {examined} of them decoded: duplicates among the others are not found"
                ));
            } else if examined < images {
                warnings.push(format!(
                    "only {examined} of the {images} images of the {split} split were decoded, evenly spaced. The others \
                     were compared byte by byte: copies that were encoded again are not found among them"
                ));
            }
        }
        self.warnings = warnings;
    }

    /// Says which limit has kept how much from being read.
    fn warn_of_limits(&mut self, limits: StatisticsLimits, bytes: u64, skipped: u64) {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        if bytes > limits.bytes {
            let (all, most) = (gib(bytes), gib(limits.bytes));
            self.warnings.push(format!("the files have {all:.1} GiB, of which about {most:.1} GiB are read at most"));
        }
        if skipped > 0 {
            let (minutes, images) = (limits.time.as_secs() / 60, counted(skipped, "image", "images"));
            self.warnings.push(format!(
                "reading was stopped after {minutes} minutes: {images} at the ends of splits were not read, so mean and \
                 standard deviation may be those of the first classes"
            ));
        }
    }
}
