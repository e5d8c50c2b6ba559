//! `samples.safetensors`: images in bytes, and what the students make of them, with which exported students are checked
//! and quantised. Whoever exports has neither the data set nor libtorch.

use std::collections::BTreeMap;
use std::path::Path;

use tch::{Kind, Tensor};

use distillery_core::checkpoint::{self, Dtype, NewTensor};
use distillery_core::dataset::plane_bytes;
use distillery_core::export::samples::{most_images, tensors};

use super::setup::{Setup, restore};
use crate::data::normalisation::Normalisation;
use crate::data::{Batch, Loader};
use crate::device::cuda::Tf32;
use crate::error::{Error, Result};
use crate::models::state_dict::{self, StateDict};

/// Images that are evaluated at a time.
const BATCH: usize = 64;

/// The weights whose logits are written.
#[derive(Debug, Clone, Copy)]
pub struct Students<'a> {
    pub best: &'a StateDict,
    pub last: &'a StateDict,
}

/// Images in bytes [N, 3, S, S] and their labels `[N]`.
struct LabelledImages {
    bytes: Vec<u8>,
    labels: Vec<i64>,
}

/// Writes images of both splits, chosen by the seed, and the logits of both students, of which the last remains in the
/// network.
///
/// # Errors
/// An image cannot be read, or the file cannot be written.
pub fn write(path: &Path, setup: &Setup, students: Students<'_>) -> Result<()> {
    let data = &setup.data;
    let side = data.eval.side();
    let images = some(&data.eval)?;
    let calibration = some(&data.train)?;
    let best = logits(setup, students.best, &images)?;
    let last = logits(setup, students.last, &images)?;
    let [scale, offset] = data.mean_std.scale_and_offset().map(|values| values.map(f32::to_le_bytes).concat());
    let labels: Vec<u8> = images.labels.iter().flat_map(|label| label.to_le_bytes()).collect();
    let count = images.labels.len() as u64;
    let (of_labels, of_logits) = ([count], [count, u64::from(data.classes.count)]);
    let side = u64::from(side);
    let pictures = |pictures: &LabelledImages| [pictures.labels.len() as u64, 3, side, side];
    let (of_images, of_calibration) = (pictures(&images), pictures(&calibration));
    let tensor = |name, dtype, shape, bytes| NewTensor { name, dtype, shape, bytes };
    let stored = [
        tensor(tensors::IMAGES, Dtype::U8, &of_images, images.bytes.as_slice()),
        tensor(tensors::CALIBRATION, Dtype::U8, &of_calibration, &calibration.bytes),
        tensor(tensors::SCALE, Dtype::F32, &[3], &scale),
        tensor(tensors::OFFSET, Dtype::F32, &[3], &offset),
        tensor(tensors::LABELS, Dtype::I64, &of_labels, &labels),
        tensor(tensors::LOGITS, Dtype::F32, &of_logits, &best),
        tensor(tensors::LAST_LOGITS, Dtype::F32, &of_logits, &last),
    ];
    checkpoint::write(path, &stored, &BTreeMap::new()).map_err(|error| match error {
        checkpoint::Error::Io(io) => Error::storage(path)(io),
        other => Error::internal(format!("{}: {other}", path.display())),
    })
}

/// The logits [N, classes] of a student in float32, little-endian.
fn logits(setup: &Setup, student: &StateDict, images: &LabelledImages) -> Result<Vec<u8>> {
    let _guard = tch::no_grad_guard();
    let _full_precision = Tf32::set(false);
    restore(&setup.student, student)?;
    let Setup { data, hardware, .. } = setup;
    let normalisation = Normalisation::new(data.mean_std.mean, data.mean_std.std, hardware.device);
    let side = data.eval.side();
    let network = setup.student.constant(Kind::Float, BATCH as u32, side);
    let mut bytes = Vec::new();
    for pixels in images.bytes.chunks(BATCH * plane_bytes(side)) {
        let shape = [-1, 3, i64::from(side), i64::from(side)];
        let pixels = Tensor::f_from_slice(pixels)?.f_view(shape)?.f_to_device(hardware.device)?;
        let logits = state_dict::to_cpu(&network.logits(&normalisation.apply(&pixels), false))?;
        let mut values = vec![0_u8; 4 * logits.numel()];
        logits.f_copy_data_u8(&mut values, logits.numel())?;
        bytes.append(&mut values);
    }
    Ok(bytes)
}

/// Some images, the same for every run with this seed.
fn some(loader: &Loader) -> Result<LabelledImages> {
    let plane = plane_bytes(loader.side());
    let most = most_images(loader.side()) as usize;
    let mut found = LabelledImages { bytes: Vec::new(), labels: Vec::new() };
    // All at once, so that nothing is copied while it grows.
    found.bytes.reserve_exact(usize::try_from(loader.len()).unwrap_or(most).min(most) * plane);
    for batch in loader.epoch(0, 0) {
        let Batch { images, labels, .. } = batch?;
        let count = (most - found.labels.len()).min(labels.numel());
        if count == 0 {
            continue;
        }
        if images.kind() != Kind::Uint8 {
            return Err(Error::internal(format!("images are {:?} and not bytes", images.kind())));
        }
        let images = state_dict::to_cpu(&images.narrow(0, 0, count as i64))?;
        let mut bytes = vec![0_u8; images.numel()];
        images.f_copy_data_u8(&mut bytes, images.numel())?;
        found.bytes.append(&mut bytes);
        let mut known = vec![0_i64; count];
        let labels = state_dict::to_cpu(&labels.narrow(0, 0, count as i64))?;
        labels.f_copy_data(&mut known, count)?;
        found.labels.append(&mut known);
        if found.labels.len() >= most {
            break;
        }
    }
    if found.labels.is_empty() {
        return Err(Error::internal("a split has no image for this rank"));
    }
    Ok(found)
}
