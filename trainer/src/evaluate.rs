//! Accuracy on a split.

use tch::{Kind, Reduction, Tensor, no_grad};

use super::data::Loader;
use super::error::{Error, Result};
use super::models::Network;
use super::normalisation::Normalisation;
use distillery::protocol::Evaluation;

/// Images at once.
const BATCH: u32 = 256;

/// Top-1 and top-5 accuracy and mean cross entropy over all images, and all logits [images, K] in file order where
/// they are wanted. None where `go_on` said no between two batches.
///
/// # Errors
/// An image cannot be read, or the loss is not finite.
pub fn evaluate(
    network: &Network,
    loader: &Loader,
    normalisation: &Normalisation,
    keep_logits: bool,
    go_on: impl Fn() -> bool,
) -> Result<Option<(Evaluation, Option<Tensor>)>> {
    let _guard = tch::no_grad_guard();
    let guesses = i64::from(network.classes()).min(5);
    let mut sums: Option<Tensor> = None;
    let mut kept = Vec::new();
    let mut images = 0;
    for batch in loader.in_order(BATCH) {
        if !go_on() {
            return Ok(None);
        }
        let (pixels, labels) = batch?;
        // Counted, as streaming finds out on the way which images cannot be read.
        images += labels.size()[0].unsigned_abs();
        let logits = network.logits(&normalisation.apply(&pixels), false);
        let (_, best) = logits.topk(guesses, -1, true, true);
        let right = best.eq_tensor(&labels.unsqueeze(-1)).to_kind(Kind::Double);
        let loss = logits.cross_entropy_loss::<Tensor>(&labels, None, Reduction::Sum, -100, 0.0);
        let first = right.select(1, 0).sum(Kind::Double);
        let batch_sums = Tensor::stack(&[first, right.sum(Kind::Double), loss.to_kind(Kind::Double)], 0);
        sums = Some(match sums {
            Some(sums) => sums + batch_sums,
            None => batch_sums,
        });
        if keep_logits {
            kept.push(logits.to_device(tch::Device::Cpu));
        }
    }
    let sums = sums.ok_or_else(|| Error::user("the split to evaluate on has no readable image"))?;
    let sums = Vec::<f64>::try_from(sums)?;
    let mean = |sum: f64| sum / images as f64;
    let evaluation =
        Evaluation { top1: 100.0 * mean(sums[0]), top5: 100.0 * mean(sums[1]), loss: mean(sums[2]), images };
    let logits = keep_logits.then(|| no_grad(|| Tensor::cat(&kept, 0)));
    Ok(Some((evaluation, logits)))
}
