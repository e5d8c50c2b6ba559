//! Batches of images and labels, from memory where the split fits there and decoded along the way where it does not.

use std::iter::FusedIterator;
use std::sync::{Arc, OnceLock};

use rand::seq::SliceRandom;
use serde::Serialize;
use tch::{Device, Tensor};

use super::batch::{Loaded, Rows, tensors};
use super::decode::{self, Corrupt, Sums, View, decode};
use super::error::Error;
use super::random::random;
use super::shard::Shard;
use super::stream::{self, Course, Decoder, Stream};
use crate::cache::images::Decoded;
use distillery::dataset::{BLOCK, Images, plane_bytes};

/// Images that decide about mean and standard deviation when streaming.
const SAMPLE: usize = 10_000;
/// The blocks that they are of at most, where images are unpacked in blocks.
const SAMPLED_BLOCKS: usize = 40;

/// What is taken of each image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Framing {
    /// All of it.
    Whole,
    /// Its centre, as in ImageNet's evaluation.
    Centre,
    /// Another part in every epoch, half of them mirrored: [`resized_crop`](super::resized_crop).
    ResizedCrop,
}

/// How a split is loaded.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Images are brought to `side`×`side` pixels.
    pub side: u32,
    /// What is taken of each.
    pub framing: Framing,
    /// Only the first so many images.
    pub limit: Option<u64>,
    /// Images per batch of an epoch, of all shards together.
    pub batch_size: u32,
    /// The part of each batch of an epoch that is loaded.
    pub shard: Shard,
    /// Decides the order and what is random of an image.
    pub seed: u64,
    /// Bytes of decoded images that may be kept; in streaming, of encoded ones that were unpacked at once.
    pub memory_limit: u64,
    /// Where batches go.
    pub device: Device,
}

/// The images of a split (or its beginning), ready to be taken in batches.
#[derive(Debug)]
pub struct Loader {
    store: Store,
    options: Options,
    count: usize,
    corrupt: Arc<Corrupt>,
    mean_std: OnceLock<([f64; 3], [f64; 3])>,
}

/// Where the pixels come from.
#[derive(Debug)]
enum Store {
    /// [N, 3, S, S] bytes and `[N]` int64, both on the device.
    Memory { pixels: Tensor, labels: Tensor },
    /// Decoded whenever they are needed; of so many blocks are images mixed.
    Stream { images: Arc<dyn Images>, window: usize },
}

impl Options {
    /// How many images are taken.
    fn total(&self, images: &dyn Images) -> Result<usize, Error> {
        let limit = self.limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX));
        Some(images.len().min(limit)).filter(|total| *total > 0).ok_or(Error::Empty)
    }

    fn view(&self, epoch: u32) -> View {
        match self.framing {
            Framing::Whole => View::Whole,
            Framing::Centre => View::Centre,
            Framing::ResizedCrop => View::ResizedCrop { seed: self.seed, epoch },
        }
    }
}

impl Loader {
    /// Prepares the images of a split.
    ///
    /// Where they take at most `memory_limit` bytes (3·`side`² each), all are decoded now, on all cores, and stay on
    /// the device; for a moment the host holds them too. Otherwise, and where each epoch takes other parts of them,
    /// they are streamed: decoded for each epoch anew, some batches ahead. Then at most five batches are in memory and,
    /// where a file's images are unpacked in blocks, the blocks of two windows (see [`epoch`](Self::epoch)): at most
    /// `memory_limit` or [`KEPT_BYTES`](distillery::dataset::KEPT_BYTES), whichever is more.
    ///
    /// Images that cannot be decoded are left out, up to 1 %: [`corrupt`](Self::corrupt) names them. Streaming comes
    /// upon them only on the way; the batch they were meant for is smaller then.
    ///
    /// # Errors
    /// There are no images, more than 1 % cannot be decoded, a file cannot be read, or the device's memory is full.
    pub fn open(images: Arc<dyn Images>, options: Options) -> Result<Self, Error> {
        let Options { side, memory_limit, device, .. } = options;
        let total = options.total(&*images)?;
        if total as u64 * plane_bytes(side) as u64 > memory_limit || options.framing == Framing::ResizedCrop {
            return Self::stream(images, options);
        }
        let corrupt = Arc::new(Corrupt::new(total));
        let indices: Vec<usize> = (0..total).collect();
        let decode::Decoded { pixels, labels, failures, .. } = decode(&*images, &indices, options.view(0), side);
        corrupt.note(failures)?;
        let mean_std = OnceLock::from(Sums::of(&pixels, side).mean_std());
        let count = labels.len();
        let (pixels, labels) = tensors(&pixels, &labels, side)?;
        let (pixels, labels) = (pixels.f_to_device(device)?, labels.f_to_device(device)?);
        Ok(Self { store: Store::Memory { pixels, labels }, options, count, corrupt, mean_std })
    }

    /// As [`open`](Self::open), but streams the images even if they would fit.
    ///
    /// # Errors
    /// There are no images.
    pub fn stream(images: Arc<dyn Images>, options: Options) -> Result<Self, Error> {
        let count = options.total(&*images)?;
        let (corrupt, mean_std) = (Arc::new(Corrupt::new(count)), OnceLock::new());
        let window = stream::window(&*images, options.memory_limit);
        Ok(Self { store: Store::Stream { images, window }, options, count, corrupt, mean_std })
    }

    /// The images of a split that an earlier run decoded.
    ///
    /// # Errors
    /// The device's memory is full.
    pub fn of_decoded(decoded: &Decoded, options: Options) -> Result<Self, Error> {
        let [pixels, labels] = [&decoded.pixels, &decoded.labels].map(|tensor| tensor.f_to_device(options.device));
        let (pixels, labels) = (pixels?, labels?);
        let count = usize::try_from(labels.size()[0]).unwrap_or(0);
        let (corrupt, mean_std) = (Arc::new(Corrupt::new(count)), OnceLock::from(decoded.mean_std));
        Ok(Self { store: Store::Memory { pixels, labels }, options, count, corrupt, mean_std })
    }

    /// What [`of_decoded`](Self::of_decoded) takes; none where the images are streamed, or some could not be decoded.
    #[must_use]
    pub fn decoded(&self) -> Option<Decoded> {
        let Store::Memory { pixels, labels } = &self.store else { return None };
        let [pixels, labels] = [pixels, labels].map(|tensor| tensor.to_device(Device::Cpu));
        (self.corrupt_count() == 0).then(|| Decoded { pixels, labels, mean_std: self.mean_std() })
    }

    /// The number of images: those after the limit and, in memory, without the corrupt ones.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.count as u64
    }

    /// Whether there are none; never so after a successful [`open`](Self::open).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether the images are kept in memory; otherwise they are streamed.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        matches!(self.store, Store::Memory { .. })
    }

    /// Where batches go.
    #[must_use]
    pub fn device(&self) -> Device {
        self.options.device
    }

    /// Pixels of an image's side.
    #[must_use]
    pub fn side(&self) -> u32 {
        self.options.side
    }

    /// Batches per epoch. The last one holds what is left: it can be smaller.
    #[must_use]
    pub fn steps_per_epoch(&self) -> u64 {
        self.count.div_ceil(self.batch_size()) as u64
    }

    /// The first ten images that could not be decoded, with reasons; in streaming, of those met so far.
    #[must_use]
    pub fn corrupt(&self) -> Vec<String> {
        self.corrupt.named()
    }

    /// How many images could not be decoded; in streaming, of those met so far.
    #[must_use]
    pub fn corrupt_count(&self) -> u64 {
        self.corrupt.count()
    }

    /// Per-channel mean and (population) standard deviation of pixel values in [0, 1].
    ///
    /// In memory: of all images, from exact integer sums. In streaming: of up to 10,000 images at even distances,
    /// decoded by the first call; images that cannot be read are passed over here, as the epoch reports them.
    #[must_use]
    pub fn mean_std(&self) -> ([f64; 3], [f64; 3]) {
        *self.mean_std.get_or_init(|| match &self.store {
            Store::Memory { .. } => unreachable!("set when the images were decoded"),
            Store::Stream { images, .. } => sample(&**images, self.count, self.options.side).mean_std(),
        })
    }

    /// The batches of an epoch (counted from 0), from `first_batch` on, in an order that (seed, epoch) decides.
    ///
    /// In streaming, blocks of 512 images come in random order, and images are mixed within windows of 16 of them, or of
    /// as many as fit twice where a file's images are unpacked in blocks.
    ///
    /// Batches before `first_batch` are not decoded. An error ends the iteration.
    #[must_use]
    pub fn epoch(&self, epoch: u32, first_batch: u64) -> Batches {
        self.epoch_of_view(epoch, epoch, first_batch)
    }

    /// As [`epoch`](Self::epoch), but where each epoch takes another part of an image, that of epoch `view`.
    #[must_use]
    pub fn epoch_of_view(&self, epoch: u32, view: u32, first_batch: u64) -> Batches {
        let mut random = random(b"order\0\0\0", self.options.seed, epoch, 0);
        let size = self.batch_size();
        let skipped = usize::try_from(first_batch).unwrap_or(usize::MAX).saturating_mul(size);
        match &self.store {
            Store::Memory { pixels, labels } => {
                let mut order: Vec<usize> = (0..self.count).collect();
                order.shuffle(&mut random);
                self.of_memory((pixels, labels), &order[skipped.min(order.len())..], size, self.options.shard)
            }
            Store::Stream { images, window } => {
                let course = Course::shuffled(self.count, *window, skipped, &mut random);
                self.of_stream(images, course, (size, self.options.shard), view)
            }
        }
    }

    /// The images of a shard of the split in its order, in batches of that size: for evaluation.
    #[must_use]
    pub fn in_order(&self, shard: Shard, batch_size: u32) -> Batches {
        let size = batch_size.max(1) as usize;
        let images_of_shard = shard.rows(self.count);
        match &self.store {
            Store::Memory { pixels, labels } => {
                let order: Vec<usize> = images_of_shard.collect();
                self.of_memory((pixels, labels), &order, size, Shard::WHOLE)
            }
            Store::Stream { images, .. } => {
                self.of_stream(images, Course::in_order(images_of_shard), (size, Shard::WHOLE), 0)
            }
        }
    }

    fn batch_size(&self) -> usize {
        self.options.batch_size.max(1) as usize
    }

    fn of_memory(&self, (pixels, labels): (&Tensor, &Tensor), order: &[usize], size: usize, shard: Shard) -> Batches {
        let rows: Vec<Rows> = order.chunks(size).map(|batch| (shard.rows(batch.len()), batch.len())).collect();
        let own = |(batch, (rows, _)): (&[usize], &Rows)| batch[rows.clone()].to_vec();
        let order: Vec<usize> = order.chunks(size).zip(&rows).flat_map(own).collect();
        let (pixels, labels) = (pixels.shallow_clone(), labels.shallow_clone());
        let on_device: Vec<i64> = order.iter().map(|index| *index as i64).collect();
        let on_device = Tensor::from_slice(&on_device).to_device(self.options.device);
        let left = rows.len();
        let source = Source::Memory { pixels, labels, order, on_device, rows: rows.into_iter(), next: 0 };
        Batches { source, left, is_whole: shard == Shard::WHOLE }
    }

    fn of_stream(&self, images: &Arc<dyn Images>, course: Course, cut: (usize, Shard), view: u32) -> Batches {
        let Options { side, device, .. } = self.options;
        let (images, corrupt) = (Arc::clone(images), Arc::clone(&self.corrupt));
        let decoder = Decoder { images, view: self.options.view(view), side, corrupt };
        let (size, shard) = cut;
        let left = course.len().div_ceil(size);
        let source = Source::Stream(Stream::new(decoder, device, course, cut));
        Batches { source, left, is_whole: shard == Shard::WHOLE }
    }
}

fn sample(images: &dyn Images, count: usize, side: u32) -> Sums {
    let spread = |place: usize, places: usize, over: usize| (place as u64 * over as u64 / places as u64) as usize;
    let indices: Vec<usize> = if images.packed_bytes() == 0 {
        let wanted = count.min(SAMPLE);
        (0..wanted).map(|place| spread(place, wanted, count)).collect()
    } else {
        // An image costs the unpacking of its block.
        let blocks = count.div_ceil(BLOCK);
        let taken = blocks.min(SAMPLED_BLOCKS);
        let each = SAMPLE.div_ceil(taken.max(1)).min(BLOCK);
        let first = |place| spread(place, taken, blocks) * BLOCK;
        (0..taken).flat_map(|place| first(place)..(first(place) + each).min(count)).collect()
    };
    // In parts, so that it takes little memory however large the images are.
    let part = |indices: &[usize]| Sums::of(&decode(images, indices, View::Whole, side).pixels, side);
    indices.chunks(256).map(part).fold(Sums::default(), Sums::plus)
}

/// The batches of one epoch or evaluation. It stands for itself: the [`Loader`] is free meanwhile.
#[derive(Debug)]
pub struct Batches {
    source: Source,
    /// Batches still to come.
    left: usize,
    /// Whether there are no other shards: where there are, a batch without images keeps its place.
    is_whole: bool,
}

#[derive(Debug)]
enum Source {
    Memory {
        pixels: Tensor,
        labels: Tensor,
        order: Vec<usize>,
        on_device: Tensor,
        rows: std::vec::IntoIter<Rows>,
        next: usize,
    },
    Stream(Stream),
}

impl Source {
    /// The next batch, which may have lost all its images.
    fn next(&mut self) -> Result<Loaded, Error> {
        match self {
            Self::Memory { pixels, labels, order, on_device, rows, next } => {
                let (rows, all) = rows.next().expect("a batch is left");
                let numbers = order[*next..*next + rows.len()].to_vec();
                let indices = on_device.f_narrow(0, *next as i64, numbers.len() as i64)?;
                *next += numbers.len();
                let (images, labels) = (pixels.f_index_select(0, &indices)?, labels.f_index_select(0, &indices)?);
                Ok(Loaded { images, labels, numbers, indices, rows, all })
            }
            Self::Stream(stream) => stream.next(),
        }
    }
}

impl Iterator for Batches {
    type Item = Result<Loaded, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.left > 0 {
            self.left -= 1;
            let batch = self.source.next();
            match &batch {
                Ok(batch) if batch.numbers.is_empty() && self.is_whole => continue,
                Ok(_) => {}
                Err(_) => self.left = 0,
            }
            return Some(batch);
        }
        None
    }
}

impl FusedIterator for Batches {}
