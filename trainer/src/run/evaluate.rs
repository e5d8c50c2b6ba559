//! Measures accuracy on a split.

use std::cell::{Cell, RefCell};
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use tch::{Device, Kind, Reduction, Tensor};

use crate::data::normalisation::Normalisation;
use crate::data::{Batch, Loader};
use crate::device::card;
use crate::device::cuda::Tf32;
use crate::error::{Error, Result};
use crate::models::Network;
use crate::ranks::Ranks;
use distillery_core::protocol::{ErrorClass, Evaluation};

/// Images per batch on a CPU, whose caches hold the feature maps of no more.
const CPU_BATCH: u32 = 64;
/// Images per batch on a GPU at most where images are streamed.
const STREAMED_BATCH: u32 = 256;
/// Images per batch on a GPU at most.
const LARGEST_BATCH: u64 = 1024;

/// A batch that was evaluated.
#[derive(Debug)]
pub struct Seen<'a> {
    /// [`Network::features`]: the final feature map [B, C, H, W], if there is one.
    pub features: &'a Tensor,
    /// [B, K]
    pub logits: &'a Tensor,
    /// `[B]`
    pub labels: &'a Tensor,
    /// The images' positions in the loader: `[B]` int64.
    pub positions: &'a Tensor,
}

/// How many images are evaluated at a time where memory has run out once, for all evaluations of a run.
#[derive(Debug, Default)]
pub struct EvaluationSize {
    limit: Cell<Option<i64>>,
    warnings: RefCell<Vec<String>>,
}

impl EvaluationSize {
    /// What became slower since the last call, for the user.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.take()
    }

    fn lower(&self, limit: i64) {
        self.limit.set(Some(limit));
        self.warnings.borrow_mut().push(format!(
            "memory ran out during an evaluation: from now on {limit} images are evaluated at a time, which is slower and \
             may change the last digits. Another program may use this device"
        ));
    }
}

/// Top-1 and top-5 accuracy in percent and mean cross entropy over all images. Calls `see` with every batch, in stored
/// order. Each of several `ranks` evaluates its shard. `None` if `goes_on` returned false between two batches.
///
/// Always computes in float32, as those who use the student will.
///
/// # Errors
/// An image cannot be read, or another rank is gone.
pub fn evaluate(
    network: &Network,
    loader: &Loader,
    normalisation: &Normalisation,
    ranks: &Ranks,
    size: &EvaluationSize,
    goes_on: impl Fn() -> bool,
    mut see: impl FnMut(Seen<'_>),
) -> Result<Option<Evaluation>> {
    let _guard = tch::no_grad_guard();
    let _full_precision = Tf32::set(false);
    let guesses = i64::from(network.classes()).min(5);
    let mut sums: Option<Tensor> = None;
    let mut images = 0;
    let mut frozen = None;
    let batch_size = batch_size(network, loader);
    let before = size.limit.get().unwrap_or(i64::from(batch_size));
    let mut part_size = before;
    let mut was_stopped = false;
    for batch in loader.in_order(ranks.shard(), batch_size) {
        if !goes_on() {
            ranks.interrupt_others();
            was_stopped = true;
            break;
        }
        let Batch { images: pixels, labels, index_tensor: positions, .. } = batch?;
        // Counted here, because streaming skips unreadable images only when it meets them.
        let count = labels.size()[0];
        images += count;
        let side = u32::try_from(pixels.size()[3]).unwrap_or(u32::MAX);
        let network = frozen.get_or_insert_with(|| network.constant(Kind::Float, batch_size, side));
        let forward = |rows: Range<i64>| {
            let features = network.features(&normalisation.apply(&part(&pixels, &rows)), false);
            let logits = network.classify_map(&features, false);
            (features, logits)
        };
        in_parts(
            count,
            &mut part_size,
            |rows| without_memory(|| forward(rows)),
            |rows, (features, logits)| {
                let (labels, positions) = (part(&labels, &rows), part(&positions, &rows));
                let batch_sums = sums_of(&logits, &labels, guesses);
                sums = Some(match sums.take() {
                    Some(sums) => sums + batch_sums,
                    None => batch_sums,
                });
                see(Seen { features: &features, logits: &logits, labels: &labels, positions: &positions });
            },
        )?;
    }
    if part_size < before {
        size.lower(part_size);
    }
    combine(sums, images, was_stopped, ranks)
}

/// The evaluation of all ranks' images; `None` if one of them was stopped. `sums` are [`sums_of`] this rank's images.
fn combine(sums: Option<Tensor>, images: i64, was_stopped: bool, ranks: &Ranks) -> Result<Option<Evaluation>> {
    let zeros = || Tensor::zeros([3], (Kind::Double, Device::Cpu));
    let sums = sums.map_or_else(zeros, |sums| sums.to_device(Device::Cpu));
    let counts = Tensor::from_slice(&[images as f64, f64::from(u8::from(was_stopped))]);
    let sums = Tensor::cat(&[sums, counts], 0);
    ranks.all_reduce_sum(&sums)?;
    let [first, five, loss, images, stopped] = Vec::<f64>::try_from(sums)?[..] else { unreachable!("there are five") };
    if stopped > 0.0 {
        return Ok(None);
    }
    if images == 0.0 {
        return Err(Error::user("the split to evaluate on has no readable image"));
    }
    let [top1, top5] = [first, five].map(|right| 100.0 * (right / images));
    Ok(Some(Evaluation { top1, top5, loss: loss / images, images: images as u64 }))
}

/// The numbers of right first guesses and of right guesses, and the sum of the cross entropies, of a batch: `[3]`.
fn sums_of(logits: &Tensor, labels: &Tensor, guesses: i64) -> Tensor {
    let (_, best) = logits.topk(guesses, -1, true, true);
    let right = best.eq_tensor(&labels.unsqueeze(-1)).to_kind(Kind::Double);
    let loss = logits.cross_entropy_loss::<Tensor>(labels, None, Reduction::Sum, -100, 0.0);
    let first = right.select(1, 0).sum(Kind::Double);
    Tensor::stack(&[first, right.sum(Kind::Double), loss.to_kind(Kind::Double)], 0)
}

/// Rows of a tensor; itself if these are all.
fn part(tensor: &Tensor, rows: &Range<i64>) -> Tensor {
    if rows.start == 0 && rows.end == tensor.size()[0] {
        return tensor.shallow_clone();
    }
    tensor.narrow(0, rows.start, rows.end - rows.start)
}

/// Computes all rows in order, at most `size` at a time, and hands each part's result to `take`. A part for which
/// memory runs out is halved, and so are all after it.
fn in_parts<T>(
    rows: i64,
    size: &mut i64,
    mut compute: impl FnMut(Range<i64>) -> Result<T>,
    mut take: impl FnMut(Range<i64>, T),
) -> Result<()> {
    let mut first = 0;
    while first < rows {
        let part = first..rows.min(first + *size);
        let count = part.end - part.start;
        match compute(part.clone()) {
            Err(error) if error.class == ErrorClass::Oom && count > 1 => *size = count / 2,
            made => {
                first = part.end;
                take(part, made?);
            }
        }
    }
    Ok(())
}

/// An error where memory runs out. tch's operators panic; other panics go on.
fn without_memory<T>(compute: impl FnOnce() -> T) -> Result<T> {
    catch_unwind(AssertUnwindSafe(compute)).or_else(|payload| match Error::from_panic(&*payload) {
        error if error.class == ErrorClass::Oom => Err(error),
        _ => resume_unwind(payload),
    })
}

/// Images per batch. A small batch does not fill a GPU.
fn batch_size(network: &Network, loader: &Loader) -> u32 {
    let Some(memory) = card::memory(loader.device()) else { return CPU_BATCH };
    let fitting = gpu_batch(memory.total, network.largest_map(loader.side()));
    if loader.is_in_memory() { fitting } else { fitting.min(STREAMED_BATCH) }
}

/// Images per batch on a GPU with that many bytes of memory, for a network whose largest map has that many elements per
/// image: as many as let four such maps in float32 fit into an eighth of the memory. Depends on nothing that changes
/// from run to run, since the size changes how results are rounded, and is a power of two, which suits the kernels.
fn gpu_batch(total: u64, largest: u64) -> u32 {
    let image = largest.max(1).saturating_mul(4 * 4);
    let fitting = (total / 8 / image).clamp(1, LARGEST_BATCH);
    1 << fitting.ilog2()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_on_a_gpu_follows_from_its_memory_and_is_a_power_of_two() {
        const GIB: u64 = 1 << 30;
        // A resnet32x4 of images of 32 pixels, and a resnet50 of images of 224.
        let (small, large) = (64 * 32 * 32, 64 * 112 * 112);
        assert_eq!(gpu_batch(80 * GIB, small), 1024);
        assert_eq!(gpu_batch(2 * GIB, small), 256);
        assert_eq!(gpu_batch(80 * GIB, large), 512);
        assert_eq!(gpu_batch(8 * GIB, large), 64);
        // What does not fit is tried all the same.
        assert_eq!((gpu_batch(1, large), gpu_batch(0, 0), gpu_batch(80 * GIB, u64::MAX)), (1, 1, 1));
    }

    /// Computes rows on a device that has memory for `room` of them, and returns the parts.
    fn parts_of(rows: i64, size: &mut i64, room: i64) -> Result<Vec<Range<i64>>> {
        let mut taken = Vec::new();
        let compute = |part: Range<i64>| {
            let fits = part.end - part.start <= room;
            if fits { Ok(part) } else { Err(Error::from_torch("CUDA out of memory. Tried to allocate 2.00 GiB")) }
        };
        in_parts(rows, size, compute, |part, made| {
            assert_eq!(part, made);
            taken.push(part);
        })?;
        Ok(taken)
    }

    #[test]
    fn a_batch_for_which_memory_runs_out_is_halved_until_it_fits_and_every_row_is_computed_once() {
        let mut size = 8;
        assert_eq!(parts_of(8, &mut size, 8).unwrap().as_slice(), std::slice::from_ref(&(0..8)));
        assert_eq!((parts_of(8, &mut size, 3).unwrap(), size), (vec![0..2, 2..4, 4..6, 6..8], 2));
        // Later batches begin with what fitted.
        assert_eq!(parts_of(5, &mut size, 100).unwrap(), [0..2, 2..4, 4..5]);
        let mut size = 1024;
        assert_eq!((parts_of(5, &mut size, 2).unwrap(), size), (vec![0..2, 2..4, 4..5], 2));
        let error = parts_of(4, &mut 4, 0).unwrap_err();
        assert_eq!(error.class, ErrorClass::Oom);
    }

    #[test]
    fn only_a_panic_for_want_of_memory_becomes_an_error() {
        let starved = without_memory::<()>(|| panic!("Torch(\"CUDA out of memory. Tried to allocate 2 GiB\")"));
        assert_eq!(starved.unwrap_err().class, ErrorClass::Oom);
        assert_eq!(without_memory(|| 7).unwrap(), 7);
        let other = catch_unwind(|| without_memory::<()>(|| panic!("Torch(\"shapes differ\")")));
        assert!(other.is_err());
    }
}
