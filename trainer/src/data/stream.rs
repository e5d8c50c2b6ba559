//! Images that are decoded on the fly: in which order, and how far ahead.

use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use rand::Rng;
use rand::seq::SliceRandom;
use tch::{Device, TchError, Tensor};

use super::balance::Repeats;
use super::batch::{Batch, Cut, Portion, tensors};
use super::decode::{Corrupt, View, decode};
use super::error::LoadError;
use crate::device::later::pinned;
use distillery_core::dataset::{self, BLOCK, Images, KEPT_BYTES};

/// The most blocks whose images are shuffled together.
const WINDOW: usize = 16;
/// Batches that are decoded, or being decoded, while one is trained on.
const AHEAD: usize = 3;

/// The number of blocks whose images are shuffled together: fewer than [`WINDOW`] if two windows, the current and the
/// next, would not fit into `memory` bytes. Tells the images how many unpacked blocks to keep.
pub(super) fn window(images: &dyn Images, memory: u64) -> usize {
    let memory = memory.max(KEPT_BYTES);
    let block = (images.packed_bytes() / images.len().div_ceil(BLOCK) as u64).max(1);
    let window = (memory / block / 2).clamp(1, WINDOW as u64);
    // One more, because blocks differ in size.
    images.keep(block.saturating_mul(2 * window + 1).clamp(KEPT_BYTES, memory));
    window as usize
}

/// The order of an epoch's images, and when to unpack which block.
#[derive(Debug, Default)]
pub(super) struct ImageOrder {
    images: Vec<usize>,
    /// Positions in that order, ascending, each with an image of the block to unpack when decoding gets there.
    prefetches: VecDeque<(usize, usize)>,
}

impl ImageOrder {
    /// Blocks in random order, and images shuffled within windows of blocks, each as often as it `repeats`. Leaves out
    /// the first `skipped` images.
    pub(super) fn shuffled(
        (count, repeats): (usize, Repeats<'_>),
        window: usize,
        skipped: usize,
        random: &mut impl Rng,
    ) -> Self {
        let mut blocks = blocks(count);
        blocks.shuffle(random);
        let mixed = |blocks: &[Range<usize>]| {
            let mut images = repeats.of(blocks.iter().cloned().flatten());
            images.shuffle(random);
            (blocks.iter().map(|block| block.start).collect(), images)
        };
        Self::of_windows(blocks.chunks(window).map(mixed), skipped)
    }

    /// The images in stored order.
    pub(super) fn stored(images: Range<usize>) -> Self {
        let within = |block: Range<usize>| block.start.max(images.start)..block.end;
        let blocks = blocks(images.end).into_iter().map(within).filter(|block| !block.is_empty());
        Self::of_windows(blocks.map(|block| (vec![block.start], block.collect())), 0)
    }

    /// These images, whose blocks are unpacked when they are read.
    pub(super) fn of(images: &[usize]) -> Self {
        Self { images: images.to_vec(), prefetches: VecDeque::new() }
    }

    /// From the blocks and the images of each window. A window's blocks are unpacked one by one while the window before
    /// it is decoded.
    fn of_windows(windows: impl Iterator<Item = (Vec<usize>, Vec<usize>)>, skipped: usize) -> Self {
        let mut order = Self::default();
        let mut before = 0;
        for (blocks, images) in windows {
            let start = order.images.len();
            // The first images of all unpack their blocks when they are read.
            if start > skipped {
                let place = |number: usize| (before + (start - before) * number / blocks.len()).saturating_sub(skipped);
                order.prefetches.extend(blocks.iter().enumerate().map(|(number, block)| (place(number), *block)));
            }
            before = start;
            order.images.extend(images);
        }
        order.images.drain(..skipped.min(order.images.len()));
        order
    }

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

/// Batches that rayon's threads decode, several at a time, and that come out in order. At most [`AHEAD`] of them wait,
/// and one more while the caller waits for it.
#[derive(Debug)]
pub(super) struct Stream {
    decoder: Decoder,
    device: Device,
    order: ImageOrder,
    cut: Cut,
    /// Images of the order that were handed to a decoder or left to other ranks.
    begun: usize,
    ahead: VecDeque<(Portion, Receiver<DecodedBatch>)>,
}

/// A decoded batch on the CPU.
#[derive(Debug)]
struct DecodedBatch {
    tensors: Result<BatchTensors, TchError>,
    indices: Vec<usize>,
    failures: Vec<(usize, dataset::Error)>,
}

#[derive(Debug)]
struct BatchTensors {
    images: Tensor,
    labels: Tensor,
    indices: Tensor,
}

impl Stream {
    /// Starts to decode.
    pub(super) fn new(decoder: Decoder, device: Device, order: ImageOrder, cut: Cut) -> Self {
        let mut stream = Self { decoder, device, order, cut, begun: 0, ahead: VecDeque::new() };
        stream.decode_until(AHEAD);
        stream
    }

    /// The next batch, which is empty if none of its images could be decoded.
    ///
    /// # Errors
    /// Too many images cannot be decoded, one cannot be read, or the device's memory is full.
    ///
    /// # Panics
    /// There is none left.
    pub(super) fn next(&mut self) -> Result<Batch, LoadError> {
        self.decode_until(AHEAD + 1);
        let (portion, batch) = self.ahead.pop_front().expect("a batch is left");
        let DecodedBatch { tensors, indices, failures } = batch.recv().map_err(|_| LoadError::Stopped)?;
        self.decoder.corrupt.note(failures)?;
        let BatchTensors { images, labels, indices: index_tensor } = tensors?;
        let images = on_device(&images, self.device)?;
        let labels = on_device(&labels, self.device)?;
        let index_tensor = on_device(&index_tensor, self.device)?;
        Ok(Batch { images, labels, indices, index_tensor, portion })
    }

    fn decode_until(&mut self, batches: usize) {
        while self.ahead.len() < batches && self.begun < self.order.images.len() {
            self.prefetch();
            let end = self.order.images.len().min(self.begun + self.cut.batch_size);
            let batch = &self.order.images[self.begun..end];
            let portion = self.cut.portion(batch.len());
            let indices = batch[portion.rows.clone()].to_vec();
            self.begun = end;
            let decoder = self.decoder.clone();
            let (sender, receiver) = sync_channel(1);
            // The receiver is gone if the epoch was left early.
            spawn(move || drop(sender.send(decoder.decode(&indices))));
            self.ahead.push_back((portion, receiver));
        }
    }

    /// Unpacks the blocks that decoding will need soon.
    fn prefetch(&mut self) {
        while let Some(&(place, image)) = self.order.prefetches.front()
            && place <= self.begun
        {
            self.order.prefetches.pop_front();
            let images = Arc::clone(&self.decoder.images);
            spawn(move || images.fetch(image));
        }
    }
}

/// Copies a tensor to the device. A GPU copies from pinned memory while it computes, and the host does not wait for it.
fn on_device(tensor: &Tensor, device: Device) -> Result<Tensor, TchError> {
    match device {
        Device::Cuda(_) => pinned(tensor)?.f_to_device_(device, tensor.kind(), true, false),
        _ => tensor.f_to_device(device),
    }
}

/// Runs `work` in rayon's pool. A panic, which would abort the process there, only drops what `work` holds; whoever
/// waits for its result sees the channel closed.
fn spawn(work: impl FnOnce() + Send + 'static) {
    rayon::spawn_fifo(|| drop(catch_unwind(AssertUnwindSafe(work))));
}

impl Decoder {
    fn decode(&self, indices: &[usize]) -> DecodedBatch {
        let decoded = decode(&*self.images, indices, self.view, self.side);
        let index_numbers: Vec<i64> = decoded.indices.iter().map(|index| *index as i64).collect();
        let tensors = tensors(&decoded.pixels, &decoded.labels, self.side).and_then(|(images, labels)| {
            Ok(BatchTensors { images, labels, indices: Tensor::f_from_slice(&index_numbers)? })
        });
        DecodedBatch { tensors, indices: decoded.indices, failures: decoded.failures }
    }
}
