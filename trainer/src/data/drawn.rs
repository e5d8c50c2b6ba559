//! Random numbers for each image of an epoch. They are copied to the device for the whole epoch, because a copy in
//! every step would make the host wait for the device.

use rand_chacha::ChaCha8Rng;
use tch::{Device, Tensor};

use super::random::generator;

/// What random numbers are drawn from and for.
#[derive(Debug, Clone, Copy)]
pub struct DrawSource {
    pub seed: u64,
    /// Number of images of the split.
    pub images: u64,
    /// Side of an image in pixels.
    pub side: u64,
    /// The device of the images.
    pub device: Device,
}

/// Random numbers for each image.
#[derive(Debug)]
pub(super) struct DrawnRows {
    /// [N, W] int64.
    table: Tensor,
    rows: RowOrder,
}

/// Which rows of the table belong to a batch.
#[derive(Debug, Clone, Copy)]
enum RowOrder {
    /// The rows are in the order of the batches, from `first_batch` on.
    ByBatch { first_batch: u64, batch_size: i64 },
    /// The rows are in the order of the split's images.
    ByImage,
}

impl DrawnRows {
    /// Draws from (seed, epoch, batch), for the batches of an epoch from `first_batch` on.
    pub(super) fn of_epoch<const W: usize>(
        purpose: &[u8; 8],
        source: DrawSource,
        epoch: u32,
        (first_batch, batch_size): (u64, u64),
        draw: impl Fn(&mut ChaCha8Rng) -> [i64; W],
    ) -> Self {
        let batch_size = batch_size.max(1);
        let mut rows = Vec::new();
        for batch in first_batch..source.images.div_ceil(batch_size) {
            let mut random = generator(purpose, source.seed, epoch, batch);
            rows.extend((0..batch_size).flat_map(|_| draw(&mut random)));
        }
        let of_batches = RowOrder::ByBatch { first_batch, batch_size: batch_size as i64 };
        Self { table: table::<W>(&rows, source.device), rows: of_batches }
    }

    /// Draws from (seed, view, image), so that the numbers do not depend on the order of the images.
    pub(super) fn of_view<const W: usize>(
        purpose: &[u8; 8],
        source: DrawSource,
        view: u32,
        draw: impl Fn(&mut ChaCha8Rng) -> [i64; W],
    ) -> Self {
        let of_image = |image| draw(&mut generator(purpose, source.seed, view, image));
        let rows: Vec<i64> = (0..source.images).flat_map(of_image).collect();
        Self { table: table::<W>(&rows, source.device), rows: RowOrder::ByImage }
    }

    /// The numbers [B, W] of the images `indices` `[B]`, which begin at row `row` of batch `batch`, counted from the
    /// beginning of the epoch.
    pub(super) fn of_batch(&self, batch: u64, row: usize, indices: &Tensor) -> Tensor {
        match self.rows {
            RowOrder::ByBatch { first_batch, batch_size } => {
                self.table.narrow(0, (batch - first_batch) as i64 * batch_size + row as i64, indices.size()[0])
            }
            RowOrder::ByImage => self.table.index_select(0, indices),
        }
    }
}

fn table<const W: usize>(rows: &[i64], device: Device) -> Tensor {
    Tensor::from_slice(rows).view([-1, W as i64]).to_device(device)
}
