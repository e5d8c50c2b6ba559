//! Random crops and flips of training images, on the images' device or while an image is decoded.
//!
//! They are drawn on the host from the seed and the place in the run, so that they are the same on every device.

use rand::seq::SliceRandom;
use rand::{Rng, RngExt};
use tch::{Kind, Tensor};

use super::drawn::{DrawSource, DrawnRows};
use super::random::generator;
use distillery_core::dataset::Rectangle;

/// Black pixels added on each side before the crop, as published for CIFAR.
pub(super) const PADDING: i64 = 4;

/// The crops of an epoch's images: rows [N, 3] for [`crop_flip`].
#[derive(Debug)]
pub struct Crops(DrawnRows);

impl Crops {
    /// Draws crops from (seed, epoch, batch), for the batches of an epoch from `first_batch` on.
    #[must_use]
    pub fn of_epoch(source: DrawSource, epoch: u32, first_batch: u64, batch_size: u64) -> Self {
        let draw = |random: &mut _| Crop::draw(random).row(source.side as i64);
        Self(DrawnRows::of_epoch(b"cropflip", source, epoch, (first_batch, batch_size), draw))
    }

    /// Draws crops from (seed, view, image), so that they do not depend on the order of the images.
    #[must_use]
    pub fn of_view(source: DrawSource, view: u32) -> Self {
        let draw = |random: &mut _| Crop::draw(random).row(source.side as i64);
        Self(DrawnRows::of_view(VIEW_CROP, source, view, draw))
    }

    /// The crops [B, 3] of the images `indices` `[B]`, which begin at row `row` of batch `batch`, counted from the
    /// beginning of the epoch.
    pub fn of_batch(&self, batch: u64, row: usize, indices: &Tensor) -> Tensor {
        self.0.of_batch(batch, row, indices)
    }
}

/// The purpose of the generator of a view's crops.
const VIEW_CROP: &[u8; 8] = b"viewcrop";

/// The crop of an image in a view: the one of [`Crops::of_view`].
pub(super) fn crop_of_view(seed: u64, view: u32, image: u64) -> Crop {
    Crop::draw(&mut generator(VIEW_CROP, seed, view, image))
}

/// A crop of a padded image.
#[derive(Debug, Clone, Copy)]
pub(super) struct Crop {
    /// First row of the padded image.
    pub top: i64,
    /// First column of the padded image.
    pub left: i64,
    pub mirrored: bool,
}

impl Crop {
    fn draw(random: &mut impl Rng) -> Self {
        let [top, left] = [0, 1].map(|_| random.random_range(0..=2 * PADDING));
        Self { top, left, mirrored: random.random_bool(0.5) }
    }

    /// Takes the crop of `image`, planes of `side`×`side` bytes.
    pub(super) fn apply(self, image: &[u8], cropped: &mut [u8], side: usize) {
        let [first_row, first_column, direction] = self.row(side as i64);
        let place = |at: i64| usize::try_from(at - PADDING).ok().filter(|&at| at < side);
        let planes = image.chunks_exact(side * side).zip(cropped.chunks_exact_mut(side * side));
        for (plane, out) in planes {
            for (row, out) in out.chunks_exact_mut(side).enumerate() {
                let from = place(first_row + row as i64).map(|row| &plane[row * side..][..side]);
                for (column, out) in out.iter_mut().enumerate() {
                    let column = place(first_column + direction * column as i64);
                    *out = from.zip(column).map_or(0, |(from, column)| from[column]);
                }
            }
        }
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
