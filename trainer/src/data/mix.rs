//! Mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019): each image of a batch is mixed with the one before it, and
//! the first with the last, like torchvision's `MixUp` and `CutMix`.

use std::f64::consts::TAU;

use rand::{Rng, RngExt};
use tch::{Device, Kind, Tensor};

use super::erase::within;
use super::random::generator;
use distillery_core::spec::TrainingSpec;

/// How images are mixed. At least one of `mixup` and `cutmix` is given.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MixSource {
    pub seed: u64,
    /// Parameter of mixup's Beta distribution; with that of CutMix, each batch takes one of them.
    pub mixup: Option<f64>,
    pub cutmix: Option<f64>,
    /// Side of an image in pixels.
    pub side: u32,
}

/// The mixes of an epoch's batches. All ranks draw the same.
#[derive(Debug)]
pub struct Mixes {
    /// [batches, 6]: see [`BatchMix::row`].
    table: Tensor,
    first_batch: u64,
}

impl Mixes {
    /// Draws from (seed, epoch, batch), for the batches `first_batch..batches` of an epoch.
    #[must_use]
    pub fn of_epoch(source: MixSource, epoch: u32, first_batch: u64, batches: u64, device: Device) -> Self {
        let rows: Vec<f32> = (first_batch..batches)
            .flat_map(|batch| source.draw(&mut generator(b"mix\0\0\0\0\0", source.seed, epoch, batch)).row())
            .collect();
        Self { table: Tensor::from_slice(&rows).view([-1, 6]).to_device(device), first_batch }
    }

    /// The mix `[6]` of a batch, counted from the beginning of the epoch.
    pub fn of_batch(&self, batch: u64) -> Tensor {
        self.table.select(0, (batch - self.first_batch) as i64)
    }
}

/// How the images of one batch are mixed with their [`partners`].
#[derive(Debug, Clone, Copy)]
struct BatchMix {
    /// Share of its own that each mixed image has.
    share: f32,
    /// Weight of its own pixels outside of the box.
    outside: f32,
    /// The box, in which all pixels are the partner's: its first row, and the row behind its last.
    top: f32,
    bottom: f32,
    /// Its first column, and the column behind its last.
    left: f32,
    right: f32,
}

impl BatchMix {
    /// The order in which [`mix`] reads it.
    fn row(self) -> [f32; 6] {
        let Self { share, outside, top, bottom, left, right } = self;
        [share, outside, top, bottom, left, right]
    }
}

impl MixSource {
    /// `None` if nothing is mixed.
    #[must_use]
    pub fn of(training: &TrainingSpec, side: u32) -> Option<Self> {
        let &TrainingSpec { seed, mixup_alpha: mixup, cutmix_alpha: cutmix, .. } = training;
        mixup.or(cutmix).map(|_| Self { seed, mixup, cutmix, side })
    }

    fn draw(&self, random: &mut impl Rng) -> BatchMix {
        let coin = random.random_bool(0.5);
        match (self.mixup, self.cutmix) {
            (Some(alpha), cutmix) if cutmix.is_none() || coin => {
                let share = beta(alpha, random) as f32;
                BatchMix { share, outside: share, top: 0.0, bottom: 0.0, left: 0.0, right: 0.0 }
            }
            (_, alpha) => self.cutmix(alpha.unwrap_or(1.0), random),
        }
    }

    /// The box of torchvision's `CutMix`: its centre is anywhere, and its side is that of the area to replace. What
    /// lies beyond the image is cut off, and the share is corrected.
    fn cutmix(&self, alpha: f64, random: &mut impl Rng) -> BatchMix {
        let side = i64::from(self.side);
        let half = (0.5 * (1.0 - beta(alpha, random)).sqrt() * f64::from(self.side)) as i64;
        let [column, row] = [0, 1].map(|_| random.random_range(0..side));
        let [left, top] = [column, row].map(|centre| (centre - half).max(0));
        let [right, bottom] = [column, row].map(|centre| (centre + half).min(side));
        let share = 1.0 - ((right - left) * (bottom - top)) as f64 / (side * side) as f64;
        let [top, bottom, left, right] = [top, bottom, left, right].map(|border| border as f32);
        BatchMix { share: share as f32, outside: 1.0, top, bottom, left, right }
    }
}

/// Mixes `images` [B, 3, S, S] (float32) with their [`partners`] by `mix` `[6]` (float32, on their device): the share
/// of its own that each mixed image has; the weight of its own pixels outside of a box; and the box, in which all
/// pixels are the partner's: first row, row behind the last, first column, column behind the last. Does not wait for
/// the device.
pub fn mix(images: &Tensor, mix: &Tensor) -> Tensor {
    let inside = within(images, |index| mix.get(2 + index).view([1, 1, 1, 1]));
    let own = mix.get(1) * inside.logical_not().to_kind(Kind::Float);
    partners(images).lerp_tensor(images, &own)
}

/// The images or labels [B, …] that are mixed in: row i is the one mixed into row i of `batch`.
pub fn partners(batch: &Tensor) -> Tensor {
    batch.roll([1_i64].as_slice(), [0_i64].as_slice())
}

/// A number from the Beta distribution with both parameters `alpha`: the share of one of two Gamma-distributed numbers.
fn beta(alpha: f64, random: &mut impl Rng) -> f64 {
    let [one, other] = [0, 1].map(|_| gamma(alpha, random));
    let sum = one + other;
    // With a small parameter both may underflow to 0. One of them would then be nearly the whole sum.
    if sum > 0.0 { one / sum } else { f64::from(u8::from(random.random_bool(0.5))) }
}

/// A number from the Gamma distribution (Marsaglia and Tsang 2000).
fn gamma(alpha: f64, random: &mut impl Rng) -> f64 {
    if alpha < 1.0 {
        let power = uniform(random).powf(1.0 / alpha);
        return gamma(alpha + 1.0, random) * power;
    }
    let d = alpha - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    loop {
        // Normally distributed (Box and Muller 1958).
        let x = (-2.0 * uniform(random).ln()).sqrt() * (TAU * uniform(random)).cos();
        let v = (1.0 + c * x).powi(3);
        if v > 0.0 && uniform(random).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            return d * v;
        }
    }
}

/// Uniform in (0, 1], so that its logarithm is finite.
fn uniform(random: &mut impl Rng) -> f64 {
    1.0 - random.random::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_have_the_mean_and_the_variance_of_the_beta_distribution() {
        for alpha in [0.1, 0.2, 1.0, 2.5] {
            let mut random = generator(b"test\0\0\0\0", 1, 0, 0);
            let count = 20_000;
            let numbers: Vec<f64> = (0..count).map(|_| beta(alpha, &mut random)).collect();
            assert!(numbers.iter().all(|number| (0.0..=1.0).contains(number)));
            let mean = numbers.iter().sum::<f64>() / f64::from(count);
            let variance = numbers.iter().map(|number| (number - mean).powi(2)).sum::<f64>() / f64::from(count);
            let expected = 1.0 / (4.0 * (2.0 * alpha + 1.0));
            assert!((mean - 0.5).abs() < 0.015 && (variance - expected).abs() < 0.01, "{alpha}: {mean}, {variance}");
        }
        // Too small for a float64.
        let mut random = generator(b"test\0\0\0\0", 2, 0, 0);
        assert!((0..100).all(|_| [0.0, 1.0].contains(&beta(1e-6, &mut random))));
    }

    #[test]
    fn a_box_covers_the_part_that_is_not_an_images_own() {
        let source = MixSource { seed: 0, mixup: None, cutmix: Some(1.0), side: 32 };
        for batch in 0..1000 {
            let mix = source.draw(&mut generator(b"test\0\0\0\0", 3, 0, batch));
            let BatchMix { share, outside, top, bottom, left, right } = mix;
            assert!(outside == 1.0 && 0.0 <= top && top <= bottom && bottom <= 32.0, "{top} {bottom}");
            assert!(0.0 <= left && left <= right && right <= 32.0, "{left} {right}");
            assert!((share - (1.0 - (bottom - top) * (right - left) / 1024.0)).abs() < 1e-6);
        }
    }
}
