//! One batch of images, as a loader gives it.

use std::ops::Range;

use tch::{Kind, TchError, Tensor};

/// Images [B, 3, S, S] (bytes) and labels `[B]`, on the CPU.
pub(super) fn tensors(pixels: &[u8], labels: &[i64], side: u32) -> Result<(Tensor, Tensor), TchError> {
    let size = [labels.len() as i64, 3, i64::from(side), i64::from(side)];
    Ok((Tensor::f_from_data_size(pixels, &size, Kind::Uint8)?, Tensor::f_from_slice(labels)?))
}

/// A batch as it is loaded.
#[derive(Debug)]
pub struct Loaded {
    /// [B, 3, S, S] bytes, on the device.
    pub images: Tensor,
    /// `[B]` int64, on the device.
    pub labels: Tensor,
    /// Which of the loader's images they are.
    pub numbers: Vec<usize>,
    /// The same `[B]`, int64, on the device.
    pub indices: Tensor,
    /// Which rows of the whole batch they are; those that cannot be read are among them.
    pub rows: Range<usize>,
    /// Images of the whole batch.
    pub all: usize,
}

/// Which rows of a batch are loaded, and how many it has.
pub(super) type Rows = (Range<usize>, usize);
