//! Images that are decoded along the way: in which order, and how far ahead.

use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use rand::Rng;
use rand::seq::SliceRandom;
use tch::{Device, TchError, Tensor};

use super::batch::{Loaded, Rows, tensors};
use super::decode::{Corrupt, View, decode};
use super::error::Error;
use super::shard::Shard;
use distillery::dataset::{self, BLOCK, Images, KEPT_BYTES};

/// Most blocks whose images are mixed with each other.
const WINDOW: usize = 16;
/// Batches that are decoded, or being decoded, while one is trained on.
const AHEAD: usize = 3;

/// How many blocks are mixed: fewer than usual only where twice as many, those of now and those that come next, would
/// not fit `memory` bytes. Has the images keep as many, and no more.
pub(super) fn window(images: &dyn Images, memory: u64) -> usize {
    let memory = memory.max(KEPT_BYTES);
    let block = (images.packed_bytes() / images.len().div_ceil(BLOCK) as u64).max(1);
    let window = (memory / block / 2).clamp(1, WINDOW as u64);
    // One more, as they are not all of one size.
    images.keep(block.saturating_mul(2 * window + 1).clamp(KEPT_BYTES, memory));
    window as usize
}

/// The images of an epoch in their order, and when to unpack which block.
#[derive(Debug, Default)]
pub(super) struct Course {
    images: Vec<usize>,
    /// Places in that order, ascending, each with an image of the block that is due there.
    due: VecDeque<(usize, usize)>,
}

impl Course {
    /// Blocks in random order, in windows within which images are mixed; the first `skipped` images are left out.
    pub(super) fn shuffled(count: usize, window: usize, skipped: usize, random: &mut impl Rng) -> Self {
        let mut blocks = blocks(count);
        blocks.shuffle(random);
        let mixed = |blocks: &[Range<usize>]| {
            let mut images: Vec<usize> = blocks.iter().cloned().flatten().collect();
            images.shuffle(random);
            (blocks.iter().map(|block| block.start).collect(), images)
        };
        Self::of(blocks.chunks(window).map(mixed), skipped)
    }

    /// Those images as they are stored.
    pub(super) fn in_order(images: Range<usize>) -> Self {
        let within = |block: Range<usize>| block.start.max(images.start)..block.end;
        let blocks = blocks(images.end).into_iter().map(within).filter(|block| !block.is_empty());
        Self::of(blocks.map(|block| (vec![block.start], block.collect())), 0)
    }

    /// Of windows: their blocks, and their images. The blocks are due one by one while the window before is decoded.
    fn of(windows: impl Iterator<Item = (Vec<usize>, Vec<usize>)>, skipped: usize) -> Self {
        let mut course = Self::default();
        let mut before = 0;
        for (blocks, images) in windows {
            let start = course.images.len();
            // Whoever reads the first images unpacks their blocks.
            if start > skipped {
                let place = |number: usize| (before + (start - before) * number / blocks.len()).saturating_sub(skipped);
                course.due.extend(blocks.iter().enumerate().map(|(number, block)| (place(number), *block)));
            }
            before = start;
            course.images.extend(images);
        }
        course.images.drain(..skipped.min(course.images.len()));
        course
    }

    /// How many images there are.
    pub(super) fn len(&self) -> usize {
        self.images.len()
    }
}

/// Ranges of images that are stored close together.
fn blocks(count: usize) -> Vec<Range<usize>> {
    (0..count).step_by(BLOCK).map(|start| start..count.min(start + BLOCK)).collect()
}

/// What decoding needs to know.
#[derive(Debug, Clone)]
pub(super) struct Decoder {
    pub images: Arc<dyn Images>,
    pub view: View,
    pub side: u32,
    pub corrupt: Arc<Corrupt>,
}

/// Batches that are decoded in the threads of rayon's pool, several at once, and come out in order. At most
/// [`AHEAD`] of them wait, and one more while it is waited for.
#[derive(Debug)]
pub(super) struct Stream {
    decoder: Decoder,
    device: Device,
    course: Course,
    size: usize,
    /// The part of each batch that is decoded.
    shard: Shard,
    /// How many images were handed out to be decoded, or left to others.
    begun: usize,
    ahead: VecDeque<(Rows, Receiver<Decoded>)>,
}

/// A batch that left the decoder, on the CPU.
#[derive(Debug)]
struct Decoded {
    /// Images, labels, and the images' numbers.
    tensors: Result<[Tensor; 3], TchError>,
    numbers: Vec<usize>,
    failures: Vec<(usize, dataset::Error)>,
}

impl Stream {
    /// Begins to decode.
    pub(super) fn new(decoder: Decoder, device: Device, course: Course, (size, shard): (usize, Shard)) -> Self {
        let mut stream = Self { decoder, device, course, size, shard, begun: 0, ahead: VecDeque::new() };
        stream.decode_until(AHEAD);
        stream
    }

    /// The next batch, which may have lost all its images.
    ///
    /// # Errors
    /// Too many images cannot be decoded, one cannot be read, or the device's memory is full.
    ///
    /// # Panics
    /// There is none left.
    pub(super) fn next(&mut self) -> Result<Loaded, Error> {
        self.decode_until(AHEAD + 1);
        let ((rows, all), batch) = self.ahead.pop_front().expect("a batch is left");
        let Decoded { tensors, numbers, failures } = batch.recv().map_err(|_| Error::Stopped)?;
        self.decoder.corrupt.note(failures)?;
        let [images, labels, indices] = tensors?.map(|tensor| on_device(&tensor, self.device));
        Ok(Loaded { images: images?, labels: labels?, numbers, indices: indices?, rows, all })
    }

    fn decode_until(&mut self, batches: usize) {
        while self.ahead.len() < batches && self.begun < self.course.images.len() {
            self.fetch_due();
            let end = self.course.images.len().min(self.begun + self.size);
            let batch = &self.course.images[self.begun..end];
            let rows = self.shard.rows(batch.len());
            let (numbers, all) = (batch[rows.clone()].to_vec(), batch.len());
            self.begun = end;
            let decoder = self.decoder.clone();
            let (sender, receiver) = sync_channel(1);
            // Nobody may want it any more.
            spawn(move || drop(sender.send(decoder.decode(&numbers))));
            self.ahead.push_back(((rows, all), receiver));
        }
    }

    fn fetch_due(&mut self) {
        while let Some(&(place, image)) = self.course.due.front()
            && place <= self.begun
        {
            self.course.due.pop_front();
            let images = Arc::clone(&self.decoder.images);
            spawn(move || images.fetch(image));
        }
    }
}

/// A copy for which nobody waits: while a GPU computes one step, the host has the next batch brought there. For that it is
/// copied from memory that the driver may read by itself.
fn on_device(tensor: &Tensor, device: Device) -> Result<Tensor, TchError> {
    match device {
        Device::Cuda(_) => tensor.f_pin_memory(device)?.f_to_device_(device, tensor.kind(), true, false),
        _ => tensor.f_to_device(device),
    }
}

/// Runs it in the pool. A panic ends it alone, where rayon would end the process: what it held is dropped, and who waits
/// for its result finds out.
fn spawn(work: impl FnOnce() + Send + 'static) {
    rayon::spawn_fifo(|| drop(catch_unwind(AssertUnwindSafe(work))));
}

impl Decoder {
    fn decode(&self, numbers: &[usize]) -> Decoded {
        let decoded = decode(&*self.images, numbers, self.view, self.side);
        let indices: Vec<i64> = decoded.numbers.iter().map(|number| *number as i64).collect();
        let tensors = tensors(&decoded.pixels, &decoded.labels, self.side)
            .and_then(|(images, labels)| Ok([images, labels, Tensor::f_from_slice(&indices)?]));
        Decoded { tensors, numbers: decoded.numbers, failures: decoded.failures }
    }
}
