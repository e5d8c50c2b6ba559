//! Batches of images and labels, from memory where the split fits there and decoded on the fly where it does not.

use std::iter::FusedIterator;
use std::sync::{Arc, OnceLock};

use rand::seq::SliceRandom;
use tch::{Device, Tensor};

use super::balance::{Balance, Repeats};
use super::batch::{Batch, Cut, Portion, tensors};
use super::decode::{self, Corrupt, PixelSums, View, decode};
use super::error::LoadError;
use super::framing::Framing;
use super::random::generator;
use super::shard::Shard;
use super::stream::{self, Decoder, ImageOrder, Stream};
use crate::cache::images::DecodedSplit;
use distillery_core::dataset::{BLOCK, Images, MeanStd, plane_bytes};

/// Images that a streamed split's mean and standard deviation are estimated from.
const SAMPLE: usize = 10_000;
/// The most blocks that they come from, where images are unpacked in blocks.
const SAMPLED_BLOCKS: usize = 40;

/// How a split is loaded.
#[derive(Debug, Clone, Copy)]
pub struct LoaderOptions {
    /// Images are resized to `side`×`side` pixels.
    pub side: u32,
    pub framing: Framing,
    /// Images per training batch, over all ranks.
    pub batch_size: u32,
    /// The part of each training batch that this rank loads.
    pub shard: Shard,
    /// Determines the order of images and random crops.
    pub seed: u64,
    /// Bytes of decoded images that may be kept in memory; when streaming, of unpacked but still encoded images.
    pub memory_limit: u64,
    /// The device that batches are placed on.
    pub device: Device,
}

/// The images of a split, ready to be taken in batches.
#[derive(Debug)]
pub struct Loader {
    store: PixelSource,
    options: LoaderOptions,
    count: usize,
    corrupt: Arc<Corrupt>,
    turned: u64,
    mean_std: OnceLock<MeanStd>,
    /// How often epochs show each image; `None` for once.
    balance: Option<Balance>,
}

/// Where the pixels come from.
#[derive(Debug)]
enum PixelSource {
    /// [N, 3, S, S] bytes and `[N]` int64, both on the device.
    Memory { pixels: Tensor, labels: Tensor },
    /// Decoded when they are needed. Images are shuffled within windows of this many blocks.
    Stream { images: Arc<dyn Images>, window: usize },
}

impl LoaderOptions {
    fn view(&self, epoch: u32) -> View {
        match self.framing {
            Framing::Whole => View::Whole,
            Framing::Centre { resize } => View::Centre { resize },
            Framing::ResizedCrop => View::ResizedCrop { seed: self.seed, epoch },
            Framing::Varied { part, policy } => View::Varied { part, policy, seed: self.seed, epoch },
        }
    }
}

impl Loader {
    /// Loads a split.
    ///
    /// If the decoded images (3·`side`² bytes each) fit into `memory_limit`, all of them are decoded now, on all cores,
    /// and stay on the device; for a moment the host holds them too. Otherwise, and if every epoch uses other parts of
    /// the images, they are streamed: decoded again in every epoch, a few batches ahead. Streaming holds at most five
    /// batches in memory and, where a file's images are unpacked in blocks, the blocks of two windows (see
    /// [`epoch`](Self::epoch)): at most `memory_limit` or [`KEPT_BYTES`](distillery_core::dataset::KEPT_BYTES),
    /// whichever is larger.
    ///
    /// [A few](distillery_core::dataset::tolerated_damage) of the images may be unreadable: [`corrupt`](Self::corrupt)
    /// names them, and they are left out. Streaming notices them only when it decodes them, and the batch is smaller
    /// then.
    ///
    /// # Errors
    /// There are no images, too many cannot be decoded, a file cannot be read, or the device's memory is full.
    pub fn open(images: Arc<dyn Images>, options: LoaderOptions) -> Result<Self, LoadError> {
        let LoaderOptions { side, memory_limit, device, .. } = options;
        let total = count(&*images)?;
        if total as u64 * plane_bytes(side) as u64 > memory_limit || options.framing.is_varied() {
            return Self::stream(images, options);
        }
        let corrupt = Arc::new(Corrupt::new(total));
        let indices: Vec<usize> = (0..total).collect();
        let decode::DecodedImages { pixels, labels, failures, .. } = decode(&*images, &indices, options.view(0), side);
        corrupt.note(failures)?;
        let turned = images.turned();
        let mean_std = OnceLock::from(PixelSums::of(&pixels, side).mean_std());
        let count = labels.len();
        let (pixels, labels) = tensors(&pixels, &labels, side)?;
        let (pixels, labels) = (pixels.f_to_device(device)?, labels.f_to_device(device)?);
        let store = PixelSource::Memory { pixels, labels };
        Ok(Self { store, options, count, corrupt, turned, mean_std, balance: None })
    }

    /// Like [`open`](Self::open), but streams the images even if they fit into memory.
    ///
    /// # Errors
    /// There are no images.
    pub fn stream(images: Arc<dyn Images>, options: LoaderOptions) -> Result<Self, LoadError> {
        let count = count(&*images)?;
        let (corrupt, mean_std) = (Arc::new(Corrupt::new(count)), OnceLock::new());
        let window = stream::window(&*images, options.memory_limit);
        let store = PixelSource::Stream { images, window };
        Ok(Self { store, options, count, corrupt, turned: 0, mean_std, balance: None })
    }

    /// Takes over the images of a split that an earlier run decoded.
    ///
    /// # Errors
    /// The device's memory is full.
    pub fn of_decoded(decoded: &DecodedSplit, options: LoaderOptions) -> Result<Self, LoadError> {
        let [pixels, labels] = [&decoded.pixels, &decoded.labels].map(|tensor| tensor.f_to_device(options.device));
        let (pixels, labels) = (pixels?, labels?);
        let count = usize::try_from(labels.size()[0]).unwrap_or(0);
        let (corrupt, mean_std) = (Arc::new(Corrupt::new(count)), OnceLock::from(decoded.mean_std));
        let store = PixelSource::Memory { pixels, labels };
        Ok(Self { store, options, count, corrupt, turned: 0, mean_std, balance: None })
    }

    /// The same images, but epochs show equally many of each class.
    ///
    /// # Errors
    /// The labels cannot be copied from the device.
    pub fn balanced(self, classes: u32) -> Result<Self, LoadError> {
        let labels: Vec<i64> = match &self.store {
            PixelSource::Memory { labels, .. } => Vec::try_from(labels.to_device(Device::Cpu))?,
            PixelSource::Stream { images, .. } => images.labels().iter().map(|&label| decode::class(label)).collect(),
        };
        Ok(Self { balance: Some(Balance::new(&labels, classes)), ..self })
    }

    /// What [`of_decoded`](Self::of_decoded) takes over; `None` if the images are streamed or some could not be
    /// decoded.
    #[must_use]
    pub fn decoded(&self) -> Option<DecodedSplit> {
        let PixelSource::Memory { pixels, labels } = &self.store else { return None };
        let [pixels, labels] = [pixels, labels].map(|tensor| tensor.to_device(Device::Cpu));
        (self.corrupt_count() == 0).then(|| DecodedSplit { pixels, labels, mean_std: self.mean_std() })
    }

    /// The number of images; in memory, without the corrupt ones.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.count as u64
    }

    /// Never true after a successful [`open`](Self::open).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether the images are kept in memory rather than streamed.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        matches!(self.store, PixelSource::Memory { .. })
    }

    /// The device that batches are placed on.
    #[must_use]
    pub fn device(&self) -> Device {
        self.options.device
    }

    /// The side of an image in pixels.
    #[must_use]
    pub fn side(&self) -> u32 {
        self.options.side
    }

    /// Batches per epoch. The last one can be smaller.
    #[must_use]
    pub fn steps_per_epoch(&self) -> u64 {
        self.count.div_ceil(self.batch_size()) as u64
    }

    /// The first ten images that could not be decoded, with reasons; when streaming, those found so far.
    #[must_use]
    pub fn corrupt(&self) -> Vec<String> {
        self.corrupt.named()
    }

    /// The number of images that could not be decoded; when streaming, of those found so far.
    #[must_use]
    pub fn corrupt_count(&self) -> u64 {
        self.corrupt.count()
    }

    /// The number of images that were turned upright as their EXIF data says, if they have just been decoded.
    #[must_use]
    pub fn turned(&self) -> u64 {
        self.turned
    }

    /// Per-channel mean and (population) standard deviation of pixel values in [0, 1].
    ///
    /// In memory they are exact. When streaming they come from up to 10,000 evenly spaced images, which the first call
    /// decodes; it skips unreadable images, as the epoch reports them.
    #[must_use]
    pub fn mean_std(&self) -> MeanStd {
        *self.mean_std.get_or_init(|| match &self.store {
            PixelSource::Memory { .. } => unreachable!("set when the images were decoded"),
            PixelSource::Stream { images, .. } => sample(&**images, self.count, self.options.side).mean_std(),
        })
    }

    /// The batches of an epoch (counted from 0) from `first_batch` on, in an order that depends on (seed, epoch).
    /// Earlier batches are not decoded. An error ends the iteration.
    ///
    /// When streaming, blocks of 512 images come in random order, and images are shuffled within windows of 16 blocks,
    /// or of fewer where a file's images are unpacked in blocks and two windows would not fit into memory.
    #[must_use]
    pub fn epoch(&self, epoch: u32, first_batch: u64) -> Batches {
        self.varied(epoch, epoch, first_batch, self.count)
    }

    /// Like [`epoch`](Self::epoch), but with the random crops of view `view`: those of an image that comes several
    /// times in the epoch are the same.
    #[must_use]
    pub fn epoch_of_view(&self, epoch: u32, view: u32, first_batch: u64) -> Batches {
        self.varied(epoch, view, first_batch, 0)
    }

    /// `stride` is the one of [`Repeats`].
    fn varied(&self, epoch: u32, view: u32, first_batch: u64, stride: usize) -> Batches {
        let mut random = generator(b"order\0\0\0", self.options.seed, epoch, 0);
        let cut = Cut { batch_size: self.batch_size(), shard: self.options.shard };
        let skipped = usize::try_from(first_batch).unwrap_or(usize::MAX).saturating_mul(cut.batch_size);
        let often = self.balance.as_ref().map(|balance| {
            balance.multiplicities(self.count, &mut generator(b"balance\0", self.options.seed, epoch, 0))
        });
        let often = often.as_deref();
        match &self.store {
            PixelSource::Memory { pixels, labels } => {
                let mut order = Repeats { often, stride: 0 }.of(0..self.count);
                order.shuffle(&mut random);
                self.of_memory((pixels, labels), &order[skipped.min(order.len())..], cut)
            }
            PixelSource::Stream { images, window } => {
                let repeats = Repeats { often, stride };
                let order = ImageOrder::shuffled((self.count, repeats), *window, skipped, &mut random);
                self.of_stream(images, order, cut, view)
            }
        }
    }

    /// One shard of the split in batches of `batch_size`, in stored order: for evaluation.
    #[must_use]
    pub fn in_order(&self, shard: Shard, batch_size: u32) -> Batches {
        let cut = Cut { batch_size: batch_size.max(1) as usize, shard: Shard::WHOLE };
        let images_of_shard = shard.rows(self.count);
        match &self.store {
            PixelSource::Memory { pixels, labels } => {
                let order: Vec<usize> = images_of_shard.collect();
                self.of_memory((pixels, labels), &order, cut)
            }
            PixelSource::Stream { images, .. } => self.of_stream(images, ImageOrder::stored(images_of_shard), cut, 0),
        }
    }

    /// The images at these positions, in this order and in batches of `batch_size`.
    #[must_use]
    pub fn at(&self, positions: &[usize], batch_size: u32) -> Batches {
        let cut = Cut { batch_size: batch_size.max(1) as usize, shard: Shard::WHOLE };
        match &self.store {
            PixelSource::Memory { pixels, labels } => self.of_memory((pixels, labels), positions, cut),
            PixelSource::Stream { images, .. } => self.of_stream(images, ImageOrder::of(positions), cut, 0),
        }
    }

    fn batch_size(&self) -> usize {
        self.options.batch_size.max(1) as usize
    }

    fn of_memory(&self, (pixels, labels): (&Tensor, &Tensor), order: &[usize], cut: Cut) -> Batches {
        let portions: Vec<Portion> = order.chunks(cut.batch_size).map(|batch| cut.portion(batch.len())).collect();
        let own = |(batch, portion): (&[usize], &Portion)| batch[portion.rows.clone()].to_vec();
        let order: Vec<usize> = order.chunks(cut.batch_size).zip(&portions).flat_map(own).collect();
        let (pixels, labels) = (pixels.shallow_clone(), labels.shallow_clone());
        let on_device: Vec<i64> = order.iter().map(|index| *index as i64).collect();
        let on_device = Tensor::from_slice(&on_device).to_device(self.options.device);
        let left = portions.len();
        let source = BatchSource::Memory { pixels, labels, order, on_device, portions: portions.into_iter(), next: 0 };
        Batches { source, left, is_whole: cut.shard == Shard::WHOLE }
    }

    fn of_stream(&self, images: &Arc<dyn Images>, order: ImageOrder, cut: Cut, view: u32) -> Batches {
        let LoaderOptions { side, device, .. } = self.options;
        let (images, corrupt) = (Arc::clone(images), Arc::clone(&self.corrupt));
        let decoder = Decoder { images, view: self.options.view(view), side, corrupt };
        let left = order.len().div_ceil(cut.batch_size);
        let source = BatchSource::Stream(Stream::new(decoder, device, order, cut));
        Batches { source, left, is_whole: cut.shard == Shard::WHOLE }
    }
}

/// The number of images, of which there must be one.
fn count(images: &dyn Images) -> Result<usize, LoadError> {
    Some(images.len()).filter(|count| *count > 0).ok_or(LoadError::Empty)
}

/// Decodes a sample of the images and sums up its pixels.
fn sample(images: &dyn Images, count: usize, side: u32) -> PixelSums {
    let spread = |place: usize, places: usize, over: usize| (place as u64 * over as u64 / places as u64) as usize;
    let indices: Vec<usize> = if images.packed_bytes() == 0 {
        let wanted = count.min(SAMPLE);
        (0..wanted).map(|place| spread(place, wanted, count)).collect()
    } else {
        // Each image costs the unpacking of its block, so take many images from few blocks.
        let blocks = count.div_ceil(BLOCK);
        let taken = blocks.min(SAMPLED_BLOCKS);
        let each = SAMPLE.div_ceil(taken.max(1)).min(BLOCK);
        let first = |place| spread(place, taken, blocks) * BLOCK;
        (0..taken).flat_map(|place| first(place)..(first(place) + each).min(count)).collect()
    };
    // In parts, to bound memory for large images.
    let part = |indices: &[usize]| PixelSums::of(&decode(images, indices, View::Whole, side).pixels, side);
    indices.chunks(256).map(part).fold(PixelSums::default(), PixelSums::plus)
}

/// The batches of one epoch or evaluation. They do not borrow the [`Loader`].
#[derive(Debug)]
pub struct Batches {
    source: BatchSource,
    /// Batches still to come.
    left: usize,
    /// Whether this rank loads whole batches. If not, a batch keeps its place even if it has no image for this rank.
    is_whole: bool,
}

#[derive(Debug)]
enum BatchSource {
    Memory {
        pixels: Tensor,
        labels: Tensor,
        order: Vec<usize>,
        on_device: Tensor,
        portions: std::vec::IntoIter<Portion>,
        next: usize,
    },
    Stream(Stream),
}

impl BatchSource {
    /// The next batch, which is empty if none of its images could be decoded.
    fn next(&mut self) -> Result<Batch, LoadError> {
        match self {
            Self::Memory { pixels, labels, order, on_device, portions, next } => {
                let portion = portions.next().expect("a batch is left");
                let indices = order[*next..*next + portion.rows.len()].to_vec();
                let index_tensor = on_device.f_narrow(0, *next as i64, indices.len() as i64)?;
                *next += indices.len();
                let images = pixels.f_index_select(0, &index_tensor)?;
                let labels = labels.f_index_select(0, &index_tensor)?;
                Ok(Batch { images, labels, indices, index_tensor, portion })
            }
            Self::Stream(stream) => stream.next(),
        }
    }
}

impl Iterator for Batches {
    type Item = Result<Batch, LoadError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.left > 0 {
            self.left -= 1;
            let batch = self.source.next();
            match &batch {
                Ok(batch) if batch.indices.is_empty() && self.is_whole => continue,
                Ok(_) => {}
                Err(_) => self.left = 0,
            }
            return Some(batch);
        }
        None
    }
}

impl FusedIterator for Batches {}
