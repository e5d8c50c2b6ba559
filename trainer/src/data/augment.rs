//! Random changes to a batch of training images, on the images' device.

use rand::RngExt;
use tch::{Kind, Tensor};

use super::random;

/// Black pixels added on each side before the crop, as published for CIFAR.
const PADDING: i64 = 4;

/// Pads `images` [B, 3, S, S] (bytes, or floats in which 0 is black) by 4 black pixels on each side, takes a random
/// S×S part of each and mirrors it left to right half the time. Kind, shape and device stay.
///
/// Offsets and flips are drawn on the host from (`seed`, `epoch`, `batch`) alone: whatever the device, the same
/// arguments give the same result.
pub fn crop_flip(images: &Tensor, seed: u64, epoch: u32, batch: u64) -> Tensor {
    let size = images.size();
    let [count, channels, side] = [size[0], size[1], size[3]];
    let mut random = random(b"cropflip", seed, epoch, batch);
    let mut drawn = Vec::with_capacity(3 * size[0] as usize);
    for _ in 0..count {
        // A column is `first + direction · x`: a flip counts down from the right end.
        let [top, left] = [0, 1].map(|_| random.random_range(0..=2 * PADDING));
        drawn.extend(if random.random_bool(0.5) { [top, left + side - 1, -1] } else { [top, left, 1] });
    }
    // One copy to the device for all three.
    let drawn = Tensor::from_slice(&drawn).view([count, 3]).to_device(images.device());
    let column = |index| drawn.select(1, index).view([count, 1, 1, 1]);
    let range = |end: i64| Tensor::arange(end, (Kind::Int64, images.device()));
    let rows = column(0) + range(side).view([1, 1, side, 1]);
    let columns = column(1) + column(2) * range(side).view([1, 1, 1, side]);
    let image = range(count).view([count, 1, 1, 1]);
    let channel = range(channels).view([1, channels, 1, 1]);
    let padded = images.constant_pad_nd([PADDING; 4]);
    padded.index(&[Some(&image), Some(&channel), Some(&rows), Some(&columns)])
}
