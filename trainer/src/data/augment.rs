//! Random changes to training images: to a batch on the images' device, or of the part that is decoded.
//!
//! Crops and flips are drawn on the host from the seed and the place in the run alone, so that they are the same on any
//! device, and brought there for a whole epoch at once: a copy in every step would have the host wait for the device.

use rand::seq::SliceRandom;
use rand::{Rng, RngExt};
use tch::{Device, Kind, Tensor};

use super::random::random;
use distillery::dataset::Rectangle;

/// Black pixels added on each side before the crop, as published for CIFAR.
const PADDING: i64 = 4;

/// The parts that an epoch takes of its images.
#[derive(Debug)]
pub struct Crops {
    /// [N, 3]: see [`crop_flip`].
    parts: Tensor,
    order: Order,
}

/// Which rows belong to a batch.
#[derive(Debug, Clone, Copy)]
enum Order {
    /// Those that come next, in batches of that size.
    Epoch { first: u64, size: i64 },
    /// Those of its images' numbers.
    Images,
}

impl Crops {
    /// For the batches of an epoch from `first` on, of `size` images of `side` pixels each, of a split of `count`: drawn
    /// from (`seed`, `epoch`, batch).
    #[must_use]
    pub fn of_epoch(seed: u64, epoch: u32, first: u64, [count, size, side]: [u64; 3], device: Device) -> Self {
        let size = size.max(1);
        let parts = (first..count.div_ceil(size)).flat_map(|batch| {
            let mut random = random(b"cropflip", seed, epoch, batch);
            (0..size).map(move |_| Crop::draw(&mut random))
        });
        Self { parts: table(parts, side, device), order: Order::Epoch { first, size: size as i64 } }
    }

    /// For a split of `count` images of `side` pixels: drawn from (`seed`, `view`, the image's number), so that they are
    /// the same whatever the order of the images.
    #[must_use]
    pub fn of_view(seed: u64, view: u32, [count, side]: [u64; 2], device: Device) -> Self {
        let parts = (0..count).map(|number| Crop::draw(&mut random(b"viewcrop", seed, view, number)));
        Self { parts: table(parts, side, device), order: Order::Images }
    }

    /// The parts [B, 3] of batch `batch`, counted from the beginning of the epoch, from its row `row` on, which are the
    /// images of those `numbers` `[B]`.
    pub fn of_batch(&self, batch: u64, row: usize, numbers: &Tensor) -> Tensor {
        match self.order {
            Order::Epoch { first, size } => {
                self.parts.narrow(0, (batch - first) as i64 * size + row as i64, numbers.size()[0])
            }
            Order::Images => self.parts.index_select(0, numbers),
        }
    }
}

fn table(parts: impl Iterator<Item = Crop>, side: u64, device: Device) -> Tensor {
    let rows: Vec<i64> = parts.flat_map(|part| part.row(side as i64)).collect();
    Tensor::from_slice(&rows).view([-1, 3]).to_device(device)
}

/// A part of a padded image.
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

    /// First row, first column and direction of the columns: a flip counts down from the right end.
    fn row(self, side: i64) -> [i64; 3] {
        let Self { top, left, mirrored } = self;
        if mirrored { [top, left + side - 1, -1] } else { [top, left, 1] }
    }
}

/// The view of the images that an epoch (counted from 0) shows: each of `views` once in so many epochs.
#[must_use]
pub fn view_of(seed: u64, epoch: u32, views: u32) -> u32 {
    let mut order: Vec<u32> = (0..views).collect();
    order.shuffle(&mut random(b"vieworde", seed, epoch / views, 0));
    order[(epoch % views) as usize]
}

/// Pads `images` [B, 3, S, S] (bytes, or floats in which 0 is black) by 4 black pixels on each side and takes an S×S part
/// of each, mirrored left to right or not: `parts` [B, 3] (int64, on the images' device) has the first row, the first
/// column and 1, or the last column and −1. Kind, shape and device stay, and nothing waits for the device.
pub fn crop_flip(images: &Tensor, parts: &Tensor) -> Tensor {
    let size = images.size();
    let [count, channels, side] = [size[0], size[1], size[3]];
    let column = |index| parts.select(1, index).view([count, 1, 1, 1]);
    let range = |end: i64| Tensor::arange(end, (Kind::Int64, images.device()));
    let rows = column(0) + range(side).view([1, 1, side, 1]);
    let columns = column(1) + column(2) * range(side).view([1, 1, 1, side]);
    let image = range(count).view([count, 1, 1, 1]);
    let channel = range(channels).view([1, channels, 1, 1]);
    let padded = images.constant_pad_nd([PADDING; 4]);
    padded.index(&[Some(&image), Some(&channel), Some(&rows), Some(&columns)])
}

/// The part of an image of `[width, height]` pixels that it is trained on, mirrored half the time: 8 to 100 % of the area,
/// of a shape between 3:4 and 4:3, as torchvision's `RandomResizedCrop` and `RandomHorizontalFlip` choose it.
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
        let shape = random.random_range(narrowest.ln()..widest.ln()).exp();
        let part = [(area * shape).sqrt().round() as u32, (area / shape).sqrt().round() as u32];
        if (1..=width).contains(&part[0]) && (1..=height).contains(&part[1]) {
            return at(random.random_range(0..=width - part[0]), random.random_range(0..=height - part[1]), part);
        }
    }
    // A very long image: the middle, as much of it as the shape allows.
    let shape = f64::from(width) / f64::from(height);
    let part = if shape < narrowest {
        [width, (f64::from(width) / narrowest).round() as u32]
    } else if shape > widest {
        [(f64::from(height) * widest).round() as u32, height]
    } else {
        [width, height]
    };
    at((width - part[0]) / 2, (height - part[1]) / 2, part)
}
