//! A batch of images, as a loader returns it.

use std::ops::Range;

use tch::{Kind, TchError, Tensor};

use super::shard::Shard;

/// The part of a batch that this rank loads.
#[derive(Debug)]
pub struct Batch {
    /// [B, 3, S, S] bytes, on the device.
    pub images: Tensor,
    /// `[B]` int64, on the device.
    pub labels: Tensor,
    /// The images' positions in the loader.
    pub indices: Vec<usize>,
    /// The same as a tensor: `[B]` int64, on the device.
    pub index_tensor: Tensor,
    pub portion: Portion,
}

/// Which images of a batch a rank loads, those included that turn out to be unreadable.
#[derive(Debug, Clone)]
pub struct Portion {
    pub rows: Range<usize>,
    /// Images of the batch over all ranks.
    pub batch_size: usize,
}

/// Images [B, 3, S, S] (bytes) and labels `[B]`, on the CPU.
pub(super) fn tensors(pixels: &[u8], labels: &[i64], side: u32) -> Result<(Tensor, Tensor), TchError> {
    let size = [labels.len() as i64, 3, i64::from(side), i64::from(side)];
    Ok((Tensor::f_from_data_size(pixels, &size, Kind::Uint8)?, Tensor::f_from_slice(labels)?))
}

/// How images are cut into batches, and batches into shards.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    /// Images per batch, over all ranks.
    pub batch_size: usize,
    pub shard: Shard,
}

impl Cut {
    /// This rank's portion of a batch of `images`; the last batch is smaller than `batch_size`.
    pub(super) fn portion(self, images: usize) -> Portion {
        Portion { rows: self.shard.rows(images), batch_size: images }
    }
}
