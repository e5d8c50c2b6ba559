//! Measures accuracy on a split.

use tch::{Device, Kind, Reduction, Tensor};

use crate::data::normalisation::Normalisation;
use crate::data::{Batch, Loader};
use crate::device::cuda::{self, Tf32};
use crate::error::{Error, Result};
use crate::models::Network;
use crate::ranks::Ranks;
use distillery_core::protocol::Evaluation;

/// Images per batch on a CPU, whose caches hold the feature maps of no more.
const CPU_BATCH: u32 = 64;
/// Images per batch on a GPU at least, and where images are streamed.
const GPU_BATCH: u32 = 256;
/// Images per batch on a GPU at most.
const LARGEST_BATCH: u64 = 4096;

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
    let mut was_stopped = false;
    for batch in loader.in_order(ranks.shard(), batch_size) {
        if !goes_on() {
            ranks.interrupt_others();
            was_stopped = true;
            break;
        }
        let Batch { images: pixels, labels, index_tensor: positions, .. } = batch?;
        // Counted here, because streaming skips unreadable images only when it meets them.
        images += labels.size()[0];
        let side = u32::try_from(pixels.size()[3]).unwrap_or(u32::MAX);
        let network = frozen.get_or_insert_with(|| network.constant(Kind::Float, batch_size, side));
        let features = network.features(&normalisation.apply(&pixels), false);
        let logits = network.classify_map(&features, false);
        let (_, best) = logits.topk(guesses, -1, true, true);
        let right = best.eq_tensor(&labels.unsqueeze(-1)).to_kind(Kind::Double);
        let loss = logits.cross_entropy_loss::<Tensor>(&labels, None, Reduction::Sum, -100, 0.0);
        let first = right.select(1, 0).sum(Kind::Double);
        let batch_sums = Tensor::stack(&[first, right.sum(Kind::Double), loss.to_kind(Kind::Double)], 0);
        sums = Some(match sums {
            Some(sums) => sums + batch_sums,
            None => batch_sums,
        });
        see(Seen { features: &features, logits: &logits, labels: &labels, positions: &positions });
    }
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

/// Images per batch. A small batch does not fill a GPU: there, as many images as let four of the largest feature maps
/// fit into a quarter of the free memory.
fn batch_size(network: &Network, loader: &Loader) -> u32 {
    let Some(free) = cuda::free_bytes(loader.device()) else { return CPU_BATCH };
    if !loader.is_in_memory() {
        return GPU_BATCH;
    }
    let largest = network.largest_map(loader.side());
    let fitting = (free / 4 / (4 * 4 * largest)).clamp(u64::from(GPU_BATCH), LARGEST_BATCH);
    u32::try_from(fitting).unwrap_or(GPU_BATCH)
}
