//! Draws the operations that are applied to a training image, like torchvision's `RandAugment` and
//! `TrivialAugmentWide`.

use rand::{Rng, RngExt};

use super::operations::Operation;
use distillery_core::spec::Policy;

/// Number of magnitudes, from 0 on, the weakest: torchvision's default.
const BINS: u32 = 31;
/// Number of kinds of operations.
const KINDS: u32 = 14;

/// The ranges of the magnitudes: those of `RandAugment` depend on the image's side.
struct MagnitudeRanges {
    shear: f32,
    translation: f32,
    rotation: f32,
    /// For brightness, colour, contrast and sharpness.
    enhancement: f32,
    /// Most bits that posterising drops.
    bits: f32,
}

const TRIVIAL: MagnitudeRanges =
    MagnitudeRanges { shear: 0.99, translation: 32.0, rotation: 135.0, enhancement: 0.99, bits: 6.0 };

fn rand_augment(side: usize) -> MagnitudeRanges {
    // In float64 as torchvision computes it.
    let translation = (150.0 / 331.0 * side as f64) as f32;
    MagnitudeRanges { shear: 0.3, translation, rotation: 30.0, enhancement: 0.9, bits: 4.0 }
}

/// Applies operations to `image`, three planes of `side`×`side` bytes. `spare` has the same length.
pub(super) fn vary(policy: Policy, image: &mut [u8], spare: &mut [u8], side: usize, random: &mut impl Rng) {
    let interpolation = policy.interpolation();
    match policy {
        Policy::RandAugment { operations, magnitude, .. } => {
            let ranges = rand_augment(side);
            for _ in 0..operations {
                draw(&ranges, |_| magnitude, random).apply(image, spare, side, interpolation);
            }
        }
        Policy::TrivialAugmentWide { .. } => {
            let operation = draw(&TRIVIAL, |random| random.random_range(0..BINS), random);
            operation.apply(image, spare, side, interpolation);
        }
    }
}

fn draw<R: Rng>(ranges: &MagnitudeRanges, magnitude: impl Fn(&mut R) -> u32, random: &mut R) -> Operation {
    let kind = random.random_range(0..KINDS);
    let magnitude = magnitude(random);
    let is_negative = random.random_bool(0.5);
    in_ranges(ranges, kind, magnitude, is_negative)
}

/// The operation of a policy for images of that side: the kind by its number in torchvision's order, from 0 to 13, and
/// the magnitude from 0 to 30.
#[must_use]
pub fn operation(policy: Policy, side: usize, kind: u32, magnitude: u32, is_negative: bool) -> Operation {
    match policy {
        Policy::RandAugment { .. } => in_ranges(&rand_augment(side), kind, magnitude, is_negative),
        Policy::TrivialAugmentWide { .. } => in_ranges(&TRIVIAL, kind, magnitude, is_negative),
    }
}

fn in_ranges(ranges: &MagnitudeRanges, kind: u32, magnitude: u32, is_negative: bool) -> Operation {
    let of = |largest: f32| {
        let value = f64::from(linspace(0.0, largest, magnitude));
        if is_negative { -value } else { value }
    };
    match kind {
        0 => Operation::Identity,
        1 => Operation::ShearX(of(ranges.shear)),
        2 => Operation::ShearY(of(ranges.shear)),
        // Python's int() cuts off.
        3 => Operation::TranslateX(of(ranges.translation) as i64),
        4 => Operation::TranslateY(of(ranges.translation) as i64),
        5 => Operation::Rotate(of(ranges.rotation)),
        6 => Operation::Brightness(1.0 + of(ranges.enhancement)),
        7 => Operation::Colour(1.0 + of(ranges.enhancement)),
        8 => Operation::Contrast(1.0 + of(ranges.enhancement)),
        9 => Operation::Sharpness(1.0 + of(ranges.enhancement)),
        10 => {
            let taken = magnitude as f32 / ((BINS - 1) as f32 / ranges.bits);
            Operation::Posterize(8 - taken.round_ties_even() as u32)
        }
        11 => Operation::Solarize(linspace(255.0, 0.0, magnitude).into()),
        12 => Operation::AutoContrast,
        _ => Operation::Equalize,
    }
}

/// `torch.linspace(first, last, BINS)[index]` in float32, which computes the second half from the end and rounds once.
fn linspace(first: f32, last: f32, index: u32) -> f32 {
    let step = (last - first) / (BINS - 1) as f32;
    if index < BINS / 2 { step.mul_add(index as f32, first) } else { (-step).mul_add((BINS - 1 - index) as f32, last) }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::mem::discriminant;

    use super::*;
    use crate::data::random::generator;

    #[test]
    fn every_kind_is_drawn_equally_often_with_every_magnitude_and_either_sign() {
        let mut random = generator(b"test\0\0\0\0", 1, 0, 0);
        let drawn: Vec<Operation> =
            (0..28_000).map(|_| draw(&TRIVIAL, |random| random.random_range(0..BINS), &mut random)).collect();
        let mut kinds: HashMap<_, u32> = HashMap::new();
        for operation in &drawn {
            *kinds.entry(discriminant(operation)).or_default() += 1;
        }
        assert_eq!(kinds.len(), KINDS as usize);
        // 2,000 on average, with a deviation of 43.
        assert!(kinds.values().all(|&count| (1780..=2220).contains(&count)), "{kinds:?}");
        let thresholds = drawn.iter().filter_map(|operation| match operation {
            Operation::Solarize(threshold) => Some(threshold.to_bits()),
            _ => None,
        });
        assert_eq!(thresholds.collect::<HashSet<u64>>().len(), BINS as usize);
        let angles = drawn.iter().filter_map(|operation| match operation {
            Operation::Rotate(angle) if angle.abs() > 0.0 => Some(*angle),
            _ => None,
        });
        let (left, right): (Vec<f64>, Vec<f64>) = angles.partition(|angle| *angle > 0.0);
        let (left, right) = (left.len(), right.len());
        assert!(left.abs_diff(right) < 250, "{left} to the left, {right} to the right");
    }
}
