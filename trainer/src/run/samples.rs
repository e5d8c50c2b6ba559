//! `samples.safetensors`: images as the student sees them and its logits, with which exported students are checked and
//! quantised. Whoever exports has neither the data set nor libtorch.

use std::collections::BTreeMap;
use std::path::Path;

use tch::{Kind, Tensor};

use super::setup::{Setup, restore};
use crate::data::normalisation::Normalisation;
use crate::data::{Batch, Loader};
use crate::device::cuda::Tf32;
use crate::error::{Error, Result};
use crate::models::state_dict::{self, StateDict};

/// Most images of each split.
const MOST_IMAGES: i64 = 512;
/// Most bytes of the images of each split.
const MOST_BYTES: i64 = 16 << 20;
/// Images that are evaluated at a time.
const BATCH: i64 = 64;

/// Writes images of both splits, chosen by the seed, and the logits of the student with these weights, which remain in
/// the network.
///
/// # Errors
/// An image cannot be read, or the file cannot be written.
pub fn write(path: &Path, setup: &Setup, student: &StateDict) -> Result<()> {
    let _guard = tch::no_grad_guard();
    let _full_precision = Tf32::set(false);
    restore(&setup.student, student)?;
    let Setup { data, device, .. } = setup;
    let normalisation = Normalisation::new(data.mean_std.mean, data.mean_std.std, *device);
    let side = data.eval.side();
    let most = (MOST_BYTES / (3 * 4 * i64::from(side).pow(2))).clamp(1, MOST_IMAGES);
    let (images, labels) = some(&data.eval, &normalisation, most)?;
    let (calibration, _) = some(&data.train, &normalisation, most)?;
    let network = setup.student.constant(Kind::Float, BATCH as u32, side);
    let logits: Vec<Tensor> = images.split(BATCH, 0).iter().map(|batch| network.logits(batch, false)).collect();
    let logits = Tensor::cat(&logits, 0);
    let tensors = [("images", images), ("logits", logits), ("labels", labels), ("calibration", calibration)];
    let tensors = tensors.iter().map(|(name, tensor)| Ok(((*name).to_owned(), state_dict::to_cpu(tensor)?)));
    state_dict::write(path, &tensors.collect::<Result<Vec<_>>>()?, &BTreeMap::new())
}

/// Normalised images [N, 3, S, S] and labels `[N]`, the same for every run with this seed.
fn some(loader: &Loader, normalisation: &Normalisation, most: i64) -> Result<(Tensor, Tensor)> {
    let (mut images, mut labels) = (Vec::new(), Vec::new());
    let mut count = 0;
    for batch in loader.epoch(0, 0) {
        let Batch { images: pixels, labels: known, .. } = batch?;
        count += known.size()[0];
        images.push(normalisation.apply(&pixels));
        labels.push(known);
        if count >= most {
            break;
        }
    }
    if count == 0 {
        return Err(Error::internal("a split has no image for this rank"));
    }
    let most = most.min(count);
    Ok((Tensor::cat(&images, 0).narrow(0, 0, most), Tensor::cat(&labels, 0).narrow(0, 0, most)))
}
