//! Random changes to training images: to a batch on the images' device, or of the part that is decoded.

use rand::{Rng, RngExt};
use tch::{Kind, Tensor};

use super::random;
use distillery::dataset::Rectangle;

/// Black pixels added on each side before the crop, as published for CIFAR.
const PADDING: i64 = 4;

/// Pads `images` [B, 3, S, S] (bytes, or floats in which 0 is black) by 4 black pixels on each side, takes a random
/// S×S part of each and mirrors it left to right half the time. Kind, shape and device stay.
///
/// Offsets and flips are drawn on the host from (`seed`, `epoch`, `batch`) alone: whatever the device, the same
/// arguments give the same result.
pub fn crop_flip(images: &Tensor, seed: u64, epoch: u32, batch: u64) -> Tensor {
    let mut random = random(b"cropflip", seed, epoch, batch);
    let parts = (0..images.size()[0]).map(|_| Part::draw(&mut random)).collect::<Vec<_>>();
    cropped(images, &parts)
}

/// As [`crop_flip`], but each image's part is drawn from (`seed`, `view`, its number in `numbers`): the same whatever the
/// order of the images.
pub fn crop_flip_view(images: &Tensor, numbers: &[usize], seed: u64, view: u32) -> Tensor {
    let part = |&number: &usize| Part::draw(&mut random(b"viewcrop", seed, view, number as u64));
    cropped(images, &numbers.iter().map(part).collect::<Vec<_>>())
}

/// A part of a padded image.
#[derive(Debug, Clone, Copy)]
struct Part {
    top: i64,
    left: i64,
    mirrored: bool,
}

impl Part {
    fn draw(random: &mut impl Rng) -> Self {
        let [top, left] = [0, 1].map(|_| random.random_range(0..=2 * PADDING));
        Self { top, left, mirrored: random.random_bool(0.5) }
    }
}

fn cropped(images: &Tensor, parts: &[Part]) -> Tensor {
    let size = images.size();
    let [count, channels, side] = [size[0], size[1], size[3]];
    // A column is `first + direction · x`: a flip counts down from the right end.
    let drawn = parts.iter().flat_map(
        |&Part { top, left, mirrored }| {
            if mirrored { [top, left + side - 1, -1] } else { [top, left, 1] }
        },
    );
    // One copy to the device for all three.
    let drawn = Tensor::from_slice(&drawn.collect::<Vec<_>>()).view([count, 3]).to_device(images.device());
    let column = |index| drawn.select(1, index).view([count, 1, 1, 1]);
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
