//! Crops and flips match a naive implementation and depend only on the seed and the place in the run.

use distillery_trainer::data::{Crops, DrawSource, crop_flip, resized_crop};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

/// Images [B, 3, S, S] of bytes without symmetry.
fn pictures(count: i64, side: i64) -> Tensor {
    let numbers = Tensor::arange(count * 3 * side * side, (Kind::Int64, Device::Cpu)) * 7919;
    (numbers.remainder(251) + 1).to_kind(Kind::Uint8).view([count, 3, side, side])
}

/// The crop of one image [3, S, S], pixel by pixel.
fn naive(image: &[u8], side: usize, top: usize, left: usize, flip: bool) -> Vec<u8> {
    let mut cropped = Vec::with_capacity(image.len());
    for plane in image.chunks(side * side) {
        for y in 0..side {
            for x in 0..side {
                let x = if flip { side - 1 - x } else { x };
                let (y, x) = ((top + y).wrapping_sub(4), (left + x).wrapping_sub(4));
                cropped.push(if y < side && x < side { plane[y * side + x] } else { 0 });
            }
        }
    }
    cropped
}

#[test]
fn crops_and_flips_match_a_naive_implementation() {
    let (count, side) = (400, 8);
    let images = pictures(count, side);
    let changed = crop_flip(&images, &epoch_parts(count, 1, 2, 3));
    assert_eq!((changed.size(), changed.kind()), (images.size(), Kind::Uint8));
    let bytes = |tensor: &Tensor| -> Vec<u8> { Vec::try_from(tensor.contiguous().view(-1)).unwrap() };
    let size = 3 * (side * side) as usize;
    let (mut flips, mut tops, mut lefts) = (0, [0; 9], [0; 9]);
    for (image, found) in bytes(&images).chunks(size).zip(bytes(&changed).chunks(size)) {
        let all = (0..162).map(|n| (n / 18, n / 2 % 9, n % 2 == 1));
        let (top, left, flip) = all
            .into_iter()
            .find(|(top, left, flip)| naive(image, side as usize, *top, *left, *flip) == found)
            .expect("a crop of this image");
        flips += usize::from(flip);
        tops[top] += 1;
        lefts[left] += 1;
    }
    assert!((150..250).contains(&flips), "{flips} of 400");
    assert!(tops.iter().chain(&lefts).all(|count| (15..80).contains(count)), "{tops:?} {lefts:?}");
}

/// The crops of a batch of `count` images of 8×8 pixels in an epoch.
fn epoch_parts(count: i64, seed: u64, epoch: u32, batch: u64) -> Tensor {
    let batch_size = count as u64;
    let crops = Crops::of_epoch(crop_source(seed, (batch + 1) * batch_size, 8), epoch, 0, batch_size);
    crops.of_batch(batch, 0, &Tensor::arange(count, (Kind::Int64, Device::Cpu)))
}

pub fn crop_source(seed: u64, images: u64, side: u64) -> DrawSource {
    DrawSource { seed, images, side, device: Device::Cpu }
}

#[test]
fn augmentation_depends_only_on_seed_epoch_and_batch() {
    let images = pictures(64, 8);
    let changed = crop_flip(&images, &epoch_parts(64, 1, 2, 3));
    assert!(changed.equal(&crop_flip(&images, &epoch_parts(64, 1, 2, 3))));
    for (seed, epoch, batch) in [(0, 2, 3), (1, 3, 3), (1, 2, 4), (1, 3, 2)] {
        assert!(!changed.equal(&crop_flip(&images, &epoch_parts(64, seed, epoch, batch))));
    }
    let floats = crop_flip(&images.to_kind(Kind::Float), &epoch_parts(64, 1, 2, 3));
    assert!(floats.equal(&changed.to_kind(Kind::Float)));
    // The same in a resumed epoch, and in a batch that lost images.
    let numbers = Tensor::arange(50, (Kind::Int64, Device::Cpu));
    let later = Crops::of_epoch(crop_source(1, 250, 8), 2, 3, 64).of_batch(3, 0, &numbers);
    assert!(later.equal(&epoch_parts(64, 1, 2, 3).narrow(0, 0, 50)));
}

#[test]
fn a_view_of_an_image_depends_only_on_seed_view_and_image() {
    let images = pictures(64, 8);
    let parts = |numbers: &Tensor, seed, view| Crops::of_view(crop_source(seed, 200, 8), view).of_batch(0, 0, numbers);
    let numbers = |from: i64| Tensor::arange_start(from, from + 64, (Kind::Int64, Device::Cpu));
    let views = crop_flip(&images, &parts(&numbers(100), 1, 2));
    assert!((0..64).any(|image| !views.get(image).equal(&images.get(image))));
    // The same in another batch and order.
    let few = Tensor::from_slice(&[40_i64, 3, 17]);
    let alone = crop_flip(&images.index_select(0, &few), &parts(&(&few + 100), 1, 2));
    assert!(alone.equal(&views.index_select(0, &few)));
    for (from, seed, view) in [(100, 0, 2), (100, 1, 3), (0, 1, 2)] {
        assert!(!views.equal(&crop_flip(&images, &parts(&numbers(from), seed, view))));
    }
}

#[test]
fn resized_crops_have_the_distribution_of_torchvision() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let count = 4000;
    let (mut areas, mut shapes, mut mirrored) = (0.0, 0.0, 0);
    for _ in 0..count {
        let part = resized_crop([400, 300], &mut random);
        assert!(part.left >= 0.0 && part.top >= 0.0 && part.width >= 1.0 && part.height >= 1.0);
        assert!(part.left + part.width <= 400.0 && part.top + part.height <= 300.0, "{part:?}");
        let (area, shape) = (part.width * part.height / 120_000.0, part.width / part.height);
        // The margins allow for rounding to whole pixels.
        assert!((0.078..=1.0).contains(&area) && (0.74..1.35).contains(&shape), "{part:?}");
        areas += area / f64::from(count);
        shapes += shape.ln() / f64::from(count);
        mirrored += i32::from(part.mirrored);
    }
    // The means of a million draws of torchvision's RandomResizedCrop.get_params on 400 × 300.
    assert!((areas - 0.433).abs() < 0.015, "{areas}");
    assert!((shapes - 0.031).abs() < 0.015, "{shapes}");
    assert!((1850..2150).contains(&mirrored), "{mirrored}");
    // No crop of an allowed shape fits, so the centre is taken.
    let part = resized_crop([1000, 10], &mut random);
    assert_eq!((part.left, part.top, part.width, part.height), (493.0, 0.0, 13.0, 10.0));
    let part = resized_crop([10, 1000], &mut random);
    assert_eq!((part.left, part.top, part.width, part.height), (0.0, 493.0, 10.0, 13.0));
    let part = resized_crop([1, 1], &mut random);
    assert_eq!((part.left, part.top, part.width, part.height), (0.0, 0.0, 1.0, 1.0));
}
