//! Accuracy on a split.

use tch::{Device, Kind, Reduction, Tensor};

use crate::data::normalisation::Normalisation;
use crate::data::{Loaded, Loader};
use crate::device::cuda::{self, Tf32};
use crate::error::{Error, Result};
use crate::models::Network;
use crate::ranks::Ranks;
use distillery::architecture::Node;
use distillery::protocol::Evaluation;

/// Images at once on a CPU, whose caches hold the maps of no more.
const CPU_BATCH: u32 = 64;
/// Images at once on a GPU, at least, and where they are decoded on the way.
const GPU_BATCH: u32 = 256;
/// Images at once on a GPU, at most.
const LARGEST_BATCH: u64 = 4096;

/// A batch that was evaluated.
#[derive(Debug)]
pub struct Seen<'a> {
    /// The final feature map [B, C, H, W].
    pub features: &'a Tensor,
    /// [B, K].
    pub logits: &'a Tensor,
    /// `[B]`.
    pub labels: &'a Tensor,
}

/// Top-1 and top-5 accuracy and mean cross entropy over all images, in file order; `see` is shown every batch. None
/// where `go_on` said no between two batches. Each of several `ranks` sees a share of them. Computed in float32 whatever the network is trained in, as whoever takes
/// it will.
///
/// # Errors
/// An image cannot be read, or another rank is gone.
pub fn evaluate(
    network: &Network,
    loader: &Loader,
    normalisation: &Normalisation,
    ranks: &Ranks,
    go_on: impl Fn() -> bool,
    mut see: impl FnMut(Seen<'_>),
) -> Result<Option<Evaluation>> {
    let _guard = tch::no_grad_guard();
    let _in_full = Tf32::set(false);
    let guesses = i64::from(network.classes()).min(5);
    let mut sums: Option<Tensor> = None;
    let mut images = 0;
    let mut constant = None;
    let at_once = batch_size(network, loader);
    let mut is_left = false;
    for batch in loader.in_order(ranks.shard(), at_once) {
        if !go_on() {
            ranks.interrupt();
            is_left = true;
            break;
        }
        let Loaded { images: pixels, labels, .. } = batch?;
        // Counted, as streaming finds out on the way which images cannot be read.
        images += labels.size()[0];
        let side = u32::try_from(pixels.size()[3]).unwrap_or(u32::MAX);
        let network = constant.get_or_insert_with(|| network.constant(Kind::Float, at_once, side));
        let features = network.features(&normalisation.apply(&pixels), false);
        let logits = network.classify_map(&features);
        let (_, best) = logits.topk(guesses, -1, true, true);
        let right = best.eq_tensor(&labels.unsqueeze(-1)).to_kind(Kind::Double);
        let loss = logits.cross_entropy_loss::<Tensor>(&labels, None, Reduction::Sum, -100, 0.0);
        let first = right.select(1, 0).sum(Kind::Double);
        let batch_sums = Tensor::stack(&[first, right.sum(Kind::Double), loss.to_kind(Kind::Double)], 0);
        sums = Some(match sums {
            Some(sums) => sums + batch_sums,
            None => batch_sums,
        });
        see(Seen { features: &features, logits: &logits, labels: &labels });
    }
    let zeros = || Tensor::zeros([3], (Kind::Double, Device::Cpu));
    let sums = sums.map_or_else(zeros, |sums| sums.to_device(Device::Cpu));
    let counts = Tensor::from_slice(&[images as f64, f64::from(u8::from(is_left))]);
    let sums = Tensor::cat(&[sums, counts], 0);
    ranks.sum(&sums)?;
    let [first, five, loss, images, left] = Vec::<f64>::try_from(sums)?[..] else { unreachable!("there are five") };
    if left > 0.0 {
        return Ok(None);
    }
    if images == 0.0 {
        return Err(Error::user("the split to evaluate on has no readable image"));
    }
    let [top1, top5] = [first, five].map(|right| 100.0 * (right / images));
    Ok(Some(Evaluation { top1, top5, loss: loss / images, images: images as u64 }))
}

/// On a GPU, which a small batch does not fill, as many images as a quarter of the free memory holds some maps of.
fn batch_size(network: &Network, loader: &Loader) -> u32 {
    let Some(free) = cuda::free_bytes(loader.device()) else { return CPU_BATCH };
    if !loader.is_in_memory() {
        return GPU_BATCH;
    }
    let layout = network.architecture().layout_at(network.classes(), loader.side());
    let numbers = |node: &Node| u64::from(node.map.channels) * u64::from(node.map.side).pow(2);
    let largest = layout.nodes.iter().map(numbers).max().unwrap_or(1);
    let fitting = (free / 4 / (4 * 4 * largest)).clamp(u64::from(GPU_BATCH), LARGEST_BATCH);
    u32::try_from(fitting).unwrap_or(GPU_BATCH)
}
