//! Random crops and flips of training images, on the images' device or while an image is decoded.
//!
//! They are drawn on the host from the seed and the place in the run, so that they are the same on every device. A
//! whole epoch is copied to the device at once: a copy in every step would make the host wait for the device.

use rand::seq::SliceRandom;
use rand::{Rng, RngExt};
use tch::{Device, Kind, Tensor};

use super::random::generator;
use distillery_core::dataset::Rectangle;

/// Black pixels added on each side before the crop, as published for CIFAR.
const PADDING: i64 = 4;

/// What crops are drawn for.
#[derive(Debug, Clone, Copy)]
pub struct CropSource {
    pub seed: u64,
    /// Images of the split.
    pub images: u64,
    /// Side of an image in pixels.
    pub side: u64,
    /// The device of the images.
    pub device: Device,
}

/// The crops of an epoch's images.
#[derive(Debug)]
pub struct Crops {
    /// [N, 3]: see [`crop_flip`].
    table: Tensor,
    rows: CropRows,
}

/// Which rows of the table belong to a batch.
#[derive(Debug, Clone, Copy)]
enum CropRows {
    /// Rows follow the batches from `first_batch` on.
    ByBatch { first_batch: u64, batch_size: i64 },
    /// Rows follow the images of the split.
    ByImage,
}

impl Crops {
    /// Draws crops from (seed, epoch, batch), for the batches of an epoch from `first_batch` on.
    #[must_use]
    pub fn of_epoch(source: CropSource, epoch: u32, first_batch: u64, batch_size: u64) -> Self {
        let batch_size = batch_size.max(1);
        let crops = (first_batch..source.images.div_ceil(batch_size)).flat_map(|batch| {
            let mut random = generator(b"cropflip", source.seed, epoch, batch);
            (0..batch_size).map(move |_| Crop::draw(&mut random))
        });
        let rows = CropRows::ByBatch { first_batch, batch_size: batch_size as i64 };
        Self { table: table(crops, source), rows }
    }

    /// Draws crops from (seed, view, image), so that they do not depend on the order of the images.
    #[must_use]
    pub fn of_view(source: CropSource, view: u32) -> Self {
        let crops = (0..source.images).map(|image| Crop::draw(&mut generator(b"viewcrop", source.seed, view, image)));
        Self { table: table(crops, source), rows: CropRows::ByImage }
    }

    /// The crops [B, 3] of the images `indices` `[B]`, which begin at row `row` of batch `batch`, counted from the
    /// beginning of the epoch.
    pub fn of_batch(&self, batch: u64, row: usize, indices: &Tensor) -> Tensor {
        match self.rows {
            CropRows::ByBatch { first_batch, batch_size } => {
                self.table.narrow(0, (batch - first_batch) as i64 * batch_size + row as i64, indices.size()[0])
            }
            CropRows::ByImage => self.table.index_select(0, indices),
        }
    }
}

fn table(crops: impl Iterator<Item = Crop>, source: CropSource) -> Tensor {
    let rows: Vec<i64> = crops.flat_map(|crop| crop.row(source.side as i64)).collect();
    Tensor::from_slice(&rows).view([-1, 3]).to_device(source.device)
}

/// A crop of a padded image.
#[derive(Debug, Clone, Copy)]
struct Crop {
    top: i64,
    left: i64,
    mirrored: bool,
}

impl Crop {
    fn draw(random: &mut impl Rng) -> Self {
        let [top, left] = [0, 1].map(|_| random.random_range(0..=2 * PADDING));
        Self { top, left, mirrored: random.random_bool(0.5) }
    }

    /// First row, first column, and direction of the columns: a mirrored crop counts down from its right end.
    fn row(self, side: i64) -> [i64; 3] {
        let Self { top, left, mirrored } = self;
        if mirrored { [top, left + side - 1, -1] } else { [top, left, 1] }
    }
}

/// The view of all images that an epoch (counted from 0) shows. Each of `views` comes once in every `views` epochs, in
/// an order that is shuffled for each round.
#[must_use]
pub fn view_of(seed: u64, epoch: u32, views: u32) -> u32 {
    let mut order: Vec<u32> = (0..views).collect();
    order.shuffle(&mut generator(b"vieworde", seed, epoch / views, 0));
    order[(epoch % views) as usize]
}

/// Pads `images` [B, 3, S, S] (bytes, or floats in which 0 is black) by 4 black pixels on each side and takes an S×S
/// crop of each, mirrored or not. `crops` [B, 3] (int64, on the images' device) holds the first row, the first column
/// and 1, or the last column and −1. Does not wait for the device.
pub fn crop_flip(images: &Tensor, crops: &Tensor) -> Tensor {
    let size = images.size();
    let [count, channels, side] = [size[0], size[1], size[3]];
    let column = |index| crops.select(1, index).view([count, 1, 1, 1]);
    let range = |end: i64| Tensor::arange(end, (Kind::Int64, images.device()));
    let rows = column(0) + range(side).view([1, 1, side, 1]);
    let columns = column(1) + column(2) * range(side).view([1, 1, 1, side]);
    let image = range(count).view([count, 1, 1, 1]);
    let channel = range(channels).view([1, channels, 1, 1]);
    let padded = images.constant_pad_nd([PADDING; 4]);
    padded.index(&[Some(&image), Some(&channel), Some(&rows), Some(&columns)])
}

/// Draws a part of an image of `[width, height]` pixels, mirrored half of the time: 8 to 100 % of the area, of an
/// aspect ratio between 3:4 and 4:3, like torchvision's `RandomResizedCrop` and `RandomHorizontalFlip`.
pub fn resized_crop([width, height]: [u32; 2], random: &mut impl Rng) -> Rectangle {
    let mirrored = random.random_bool(0.5);
    let at = |left: u32, top: u32, part: [u32; 2]| Rectangle {
        left: left.into(),
        top: top.into(),
        width: part[0].into(),
        height: part[1].into(),
        mirrored,
    };
    let (narrowest, widest) = (3.0_f64 / 4.0, 4.0_f64 / 3.0);
    for _ in 0..10 {
        let area = f64::from(width) * f64::from(height) * random.random_range(0.08..1.0);
        let ratio = random.random_range(narrowest.ln()..widest.ln()).exp();
        let part = [(area * ratio).sqrt().round() as u32, (area / ratio).sqrt().round() as u32];
        if (1..=width).contains(&part[0]) && (1..=height).contains(&part[1]) {
            return at(random.random_range(0..=width - part[0]), random.random_range(0..=height - part[1]), part);
        }
    }
    // The image is too long for ten attempts: take its centre, as much as the aspect ratio allows.
    let ratio = f64::from(width) / f64::from(height);
    let part = if ratio < narrowest {
        [width, (f64::from(width) / narrowest).round() as u32]
    } else if ratio > widest {
        [(f64::from(height) * widest).round() as u32, height]
    } else {
        [width, height]
    };
    at((width - part[0]) / 2, (height - part[1]) / 2, part)
}
