//! Batches: order, resumption, corrupt images, statistics, and augmentation against a naive one.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use distillery::dataset::{self, Frame, Images, KEPT_BYTES, Rectangle};
use distillery_trainer::data::normalisation::Normalisation;
use distillery_trainer::data::{
    Batch, Batches, CropSource, Crops, Framing, LoadError, Loader, LoaderOptions, Shard, crop_flip, resized_crop,
};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use tch::{Device, Kind, Tensor};

const SIDE: u32 = 2;
const MEMORY: u64 = u64::MAX;
const STREAM: u64 = 0;

/// Images whose pixels tell their index: low byte in red, high byte in green, 7 in blue.
#[derive(Debug, Default)]
struct Fake {
    labels: Vec<u32>,
    corrupt: Vec<usize>,
    unreadable: Option<usize>,
    /// A decoder that has a bug.
    panics: Option<usize>,
    reads: AtomicUsize,
    /// The blocks that were read of.
    blocks: Mutex<BTreeSet<usize>>,
    /// Bytes that are unpacked in blocks, the most that were to be kept, and the images whose blocks were fetched.
    packed: u64,
    kept: AtomicU64,
    fetched: Mutex<Vec<usize>>,
    /// The parts that were asked for.
    parts: Mutex<Vec<(usize, Rectangle)>>,
}

impl Fake {
    fn new(count: usize) -> Self {
        Self { labels: (0..count as u32).map(|index| index % 10).collect(), ..Self::default() }
    }
}

impl Images for Fake {
    fn labels(&self) -> &[u32] {
        &self.labels
    }

    fn read(&self, index: usize, frame: &Frame<'_>, side: u32, planes: &mut [u8]) -> Result<(), dataset::Error> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        // A decoder can leave anything behind before it fails.
        planes.fill(99);
        let path = PathBuf::from(format!("{index}.png"));
        if self.corrupt.contains(&index) {
            return Err(dataset::Error::Invalid { path, message: "not an image".to_owned() });
        }
        if self.unreadable == Some(index) {
            return Err(dataset::Error::Io { path, source: io::Error::other("gone") });
        }
        assert_ne!(self.panics, Some(index), "a bug in a decoder, as this test wants it");
        self.blocks.lock().unwrap().insert(index / dataset::BLOCK);
        if let Frame::Part(choose) = frame {
            self.parts.lock().unwrap().push((index, choose([400, 300])));
        }
        let area = (side * side) as usize;
        planes[..area].fill((index % 256) as u8);
        planes[area..2 * area].fill((index / 256) as u8);
        planes[2 * area..].fill(7);
        Ok(())
    }

    fn packed_bytes(&self) -> u64 {
        self.packed
    }

    fn keep(&self, bytes: u64) {
        self.kept.store(bytes, Ordering::Relaxed);
    }

    fn fetch(&self, index: usize) {
        self.fetched.lock().unwrap().push(index);
    }
}

fn open(fake: Fake, limit: Option<u64>, batch_size: u32, memory: u64) -> Result<Loader, LoadError> {
    Loader::open(Arc::new(fake), LoaderOptions { limit, ..options(batch_size, memory) })
}

fn options(batch_size: u32, memory_limit: u64) -> LoaderOptions {
    let (framing, shard, device) = (Framing::Whole, Shard::WHOLE, Device::Cpu);
    LoaderOptions { side: SIDE, framing, limit: None, batch_size, shard, seed: 5, memory_limit, device }
}

/// The images' indices, batch by batch; checks that labels and pixels belong together.
fn indices(batches: Batches) -> Vec<Vec<usize>> {
    batches.map(|batch| batch_indices(batch.unwrap())).collect()
}

fn batch_indices(Batch { images, labels, indices, index_tensor, .. }: Batch) -> Vec<usize> {
    let count = images.size()[0];
    assert_eq!(images.size(), [count, 3, i64::from(SIDE), i64::from(SIDE)]);
    assert_eq!((images.kind(), labels.kind(), labels.size()), (Kind::Uint8, Kind::Int64, vec![count]));
    let last = i64::from(SIDE) - 1;
    let channel = |channel| -> Vec<i64> {
        let pixel = images.select(1, channel).select(1, last).select(1, last);
        Vec::try_from(pixel.to_kind(Kind::Int64)).unwrap()
    };
    let found: Vec<i64> = channel(0).iter().zip(channel(1)).map(|(low, high)| low + 256 * high).collect();
    assert_eq!(found.iter().map(|index| index % 10).collect::<Vec<_>>(), Vec::<i64>::try_from(labels).unwrap());
    let found: Vec<usize> = found.into_iter().map(|index| index as usize).collect();
    let on_device: Vec<i64> = Vec::try_from(index_tensor).unwrap();
    assert_eq!(on_device, indices.iter().map(|number| *number as i64).collect::<Vec<_>>());
    // Images that were left out in memory have no number.
    assert!(indices.len() == found.len() && indices.iter().zip(&found).all(|(number, index)| number <= index));
    found
}

fn sorted(batches: &[Vec<usize>]) -> Vec<usize> {
    let mut all = batches.concat();
    all.sort_unstable();
    all
}

#[test]
fn an_epoch_holds_each_image_once_in_an_order_of_its_own() {
    // More than one streaming window of 8192 images.
    let count = 9001;
    for memory in [MEMORY, STREAM] {
        let loader = open(Fake::new(count), None, 128, memory).unwrap();
        assert_eq!((loader.len(), loader.steps_per_epoch(), loader.is_empty()), (9001, 71, false));
        let first = indices(loader.epoch(0, 0));
        assert_eq!(first.iter().map(Vec::len).collect::<Vec<_>>(), [vec![128; 70], vec![41]].concat());
        assert_eq!(sorted(&first), (0..count).collect::<Vec<_>>());
        assert_ne!(first.concat(), (0..count).collect::<Vec<_>>());
        assert_ne!(first, indices(loader.epoch(1, 0)));
        assert_eq!(first, indices(open(Fake::new(count), None, 128, memory).unwrap().epoch(0, 0)));
        let other =
            Loader::open(Arc::new(Fake::new(count)), LoaderOptions { seed: 6, ..options(128, memory) }).unwrap();
        assert_ne!(first, indices(other.epoch(0, 0)));
    }
}

#[test]
fn shares_of_a_batch_are_its_rows_in_order_with_the_parts_that_one_would_take() {
    for memory in [MEMORY, STREAM] {
        let open =
            |shard| Loader::open(Arc::new(Fake::new(82)), LoaderOptions { shard, ..options(8, memory) }).unwrap();
        let crops = Crops::of_epoch(crop_source(1, 82, SIDE.into()), 2, 3, 8);
        let cut = |shard| {
            let batches = open(shard).epoch(2, 3).map(Result::unwrap);
            let part = |(index, batch): (u64, Batch)| {
                let parts = Vec::<i64>::try_from(
                    crops.of_batch(index, batch.portion.rows.start, &batch.index_tensor).flatten(0, 1),
                );
                (batch.portion.batch_size, batch_indices(batch), parts.unwrap())
            };
            (3..).zip(batches).map(part).collect::<Vec<_>>()
        };
        let whole = cut(Shard::WHOLE);
        let shards = [0, 1, 2].map(|number| cut(Shard { rank: number, world_size: 3 }));
        assert_eq!(whole.len(), 8);
        for (batch, (all, indices, parts)) in whole.into_iter().enumerate() {
            assert!(shards.iter().all(|shard| shard[batch].0 == all));
            assert_eq!(shards.each_ref().map(|shard| shard[batch].1.clone()).concat(), indices);
            assert_eq!(shards.each_ref().map(|shard| shard[batch].2.clone()).concat(), parts);
        }
        // Of the last two images there is none for the third.
        assert!(shards[2].last().unwrap().1.is_empty());
        let evaluated =
            [0, 1, 2].map(|number| indices(open(Shard::WHOLE).in_order(Shard { rank: number, world_size: 3 }, 20)));
        assert_eq!(evaluated.concat().concat(), (0..82).collect::<Vec<_>>());
    }
}

#[test]
fn a_share_that_cannot_be_read_keeps_its_place_among_the_others() {
    let fake = || Fake { corrupt: vec![40], ..Fake::new(150) };
    for memory in [MEMORY, STREAM] {
        let of = |number| {
            let shard = Shard { rank: number, world_size: 2 };
            let loader = Loader::open(Arc::new(fake()), LoaderOptions { shard, ..options(2, memory) }).unwrap();
            loader.epoch(0, 0).map(|batch| batch.unwrap().indices.len()).collect::<Vec<_>>()
        };
        let (first, second) = (of(0), of(1));
        assert_eq!((first.len(), second.len()), (75, 75), "the ranks would go out of step");
        assert_eq!(first.iter().chain(&second).sum::<usize>(), 149);
    }
}

#[test]
fn a_later_first_batch_goes_on_where_the_epoch_was() {
    for memory in [MEMORY, STREAM] {
        let loader = open(Fake::new(1000), None, 64, memory).unwrap();
        let whole = indices(loader.epoch(3, 0));
        assert_eq!(whole[7..], indices(loader.epoch(3, 7)));
        assert!(indices(loader.epoch(3, 16)).is_empty());
        assert!(indices(loader.epoch(3, u64::MAX)).is_empty());
    }
    let fake = Arc::new(Fake::new(1000));
    let loader = Loader::open(fake.clone(), options(64, STREAM)).unwrap();
    assert_eq!(indices(loader.epoch(3, 15)).concat().len(), 40);
    assert_eq!(fake.reads.load(Ordering::Relaxed), 40, "images before the first batch are not decoded");
}

#[test]
fn evaluation_is_in_order_and_a_limit_takes_the_first() {
    for memory in [MEMORY, STREAM] {
        let loader = open(Fake::new(1000), Some(300), 64, memory).unwrap();
        assert_eq!((loader.len(), loader.steps_per_epoch()), (300, 5));
        let batches = indices(loader.in_order(Shard::WHOLE, 100));
        assert_eq!(batches.len(), 3);
        assert_eq!(batches.concat(), (0..300).collect::<Vec<_>>());
        assert_eq!(sorted(&indices(loader.epoch(0, 0))), (0..300).collect::<Vec<_>>());
        assert_eq!(open(Fake::new(10), Some(300), 64, memory).unwrap().len(), 10);
        let error = open(Fake::new(10), Some(0), 64, memory).unwrap_err();
        assert!(matches!(error, LoadError::Empty) && error.is_users());
        assert!(matches!(open(Fake::new(0), None, 64, memory), Err(LoadError::Empty)));
    }
}

#[test]
fn few_corrupt_images_are_named_and_left_out() {
    let corrupt = vec![0, 1, 500, 700, 998, 999];
    let good: Vec<usize> = (0..1000).filter(|index| !corrupt.contains(index)).collect();
    for memory in [MEMORY, STREAM] {
        let loader = open(Fake { corrupt: corrupt.clone(), ..Fake::new(1000) }, None, 64, memory).unwrap();
        assert_eq!(indices(loader.in_order(Shard::WHOLE, 100)).concat(), good);
        assert_eq!(sorted(&indices(loader.epoch(0, 0))), good);
        assert_eq!(loader.len(), if memory == MEMORY { 994 } else { 1000 });
        // Met twice, counted once.
        assert_eq!(loader.corrupt_count(), 6);
        assert_eq!(loader.corrupt()[2], "image 500: 500.png: not an image");
    }
    // A batch that lost all its images is passed over.
    let loader = open(Fake { corrupt: vec![4, 5], ..Fake::new(200) }, None, 2, STREAM).unwrap();
    assert_eq!(indices(loader.in_order(Shard::WHOLE, 2)).len(), 99);
}

#[test]
fn many_corrupt_images_are_an_error_of_the_user() {
    let fake = || Fake { corrupt: (100..120).collect(), ..Fake::new(1000) };
    let stream = open(fake(), None, 50, STREAM).unwrap();
    let results: Vec<_> = stream.in_order(Shard::WHOLE, 50).collect();
    // Two good batches, then the end.
    assert_eq!(results.len(), 3);
    for error in [open(fake(), None, 50, MEMORY).unwrap_err(), results.into_iter().next_back().unwrap().unwrap_err()] {
        assert!(error.is_users());
        let LoadError::TooManyCorrupt { corrupt, total, named } = &error else { panic!("{error}") };
        assert_eq!((*corrupt, *total, named.len()), (20, 1000, 10));
        assert!(error.to_string().contains("image 100: 100.png: not an image; image 101"), "{error}");
    }
}

#[test]
fn an_unreadable_file_is_no_corrupt_image() {
    let fake = || Fake { unreadable: Some(3), ..Fake::new(1000) };
    let error = open(fake(), None, 50, MEMORY).unwrap_err();
    assert!(matches!(error, LoadError::Dataset(_)) && !error.is_users());
    let loader = open(fake(), None, 50, STREAM).unwrap();
    let error = loader.in_order(Shard::WHOLE, 50).next().unwrap().unwrap_err();
    assert!(matches!(error, LoadError::Dataset(_)) && !error.is_users());
}

#[test]
fn mean_and_deviation_are_those_of_the_pixels() {
    for memory in [MEMORY, STREAM] {
        let (mean, std) = open(Fake::new(256), None, 64, memory).unwrap().mean_std();
        assert!((mean[0] - 0.5).abs() < 1e-12);
        assert!((std[0] - ((256.0_f64 * 256.0 - 1.0) / 12.0).sqrt() / 255.0).abs() < 1e-12);
        // Constant channels: no division by zero.
        assert_eq!((mean[1], std[1], std[2]), (0.0, 1.0 / 255.0, 1.0 / 255.0));
        assert!((mean[2] - 7.0 / 255.0).abs() < 1e-12);
    }
    let images = Tensor::from_slice(&[0_u8, 51, 255]).view([1, 3, 1, 1]);
    let normal = Normalisation::new([0.5, 0.2, 0.0], [0.25, 1.0, 2.0], Device::Cpu).apply(&images);
    let normal: Vec<f32> = Vec::try_from(normal.view(-1)).unwrap();
    for (found, wanted) in normal.into_iter().zip([-2.0, 0.0, 0.5]) {
        assert!((found - wanted).abs() < 1e-6);
    }
}

#[test]
fn mean_and_deviation_of_a_large_split_are_those_of_a_sample_from_all_over_it() {
    for packed in [0, 1 << 30] {
        let fake = Arc::new(Fake { packed, ..Fake::new(200 * 256) });
        let loader = Loader::open(fake.clone(), options(64, STREAM)).unwrap();
        let (mean, std) = loader.mean_std();
        // The second channel goes from 0 to 199.
        assert!((mean[1] * 255.0 - 99.5).abs() < 3.0 && (std[1] * 255.0 - 57.7).abs() < 3.0, "{mean:?} {std:?}");
        assert!((9_900..=10_000).contains(&fake.reads.load(Ordering::Relaxed)));
        // Few blocks, where each must be unpacked.
        let blocks = fake.blocks.lock().unwrap().len();
        assert_eq!(blocks, if packed > 0 { 40 } else { 100 });
    }
}

#[test]
fn an_abandoned_epoch_does_not_hang() {
    let loader = open(Fake::new(1000), None, 2, STREAM).unwrap();
    let mut batches = loader.epoch(0, 0);
    assert!(batches.next().is_some());
    drop(batches);
    assert_eq!(indices(loader.epoch(0, 499)).len(), 1);
}

#[test]
fn streaming_decodes_three_batches_ahead_and_no_more() {
    let fake = Arc::new(Fake::new(1000));
    let loader = Loader::open(fake.clone(), options(10, STREAM)).unwrap();
    let mut batches = loader.epoch(0, 0);
    for taken in 0..20 {
        let decoded = || fake.reads.load(Ordering::Relaxed);
        wait_until(|| decoded() >= (taken + 3) * 10);
        // One more is begun while it is waited for.
        batches.next().unwrap().unwrap();
        assert!(decoded() <= (taken + 4) * 10, "{} images after {taken} batches", decoded());
    }
}

#[test]
fn a_decoder_that_panics_ends_the_epoch_and_not_the_process() {
    let loader = open(Fake { panics: Some(500), ..Fake::new(1000) }, None, 64, STREAM).unwrap();
    let batches: Vec<_> = loader.epoch(0, 0).collect();
    assert!(matches!(batches.last(), Some(Err(LoadError::Stopped))));
    assert!(batches[..batches.len() - 1].iter().all(Result::is_ok));
}

/// The blocks of 512 that images lie in, each run of the same one once.
fn blocks(images: &[usize]) -> Vec<usize> {
    let mut blocks: Vec<_> = images.iter().map(|image| image / 512).collect();
    blocks.dedup();
    blocks
}

#[test]
fn fewer_blocks_are_mixed_where_two_windows_do_not_fit_the_memory() {
    let count = 512 * 40;
    // A block takes 2 GiB, and 4 GiB hold one that is used and the next one.
    let fake = Arc::new(Fake { packed: 80 << 30, ..Fake::new(count) });
    let loader = Loader::stream(fake.clone(), options(64, 4 << 30)).unwrap();
    assert_eq!(fake.kept.load(Ordering::Relaxed), 4 << 30);
    let order = indices(loader.epoch(0, 0)).concat();
    let order_of_blocks = blocks(&order);
    assert_eq!(order_of_blocks.len(), 40);
    assert_eq!(sorted(&[order]), (0..count).collect::<Vec<_>>());
    // Each is fetched while the one before is decoded, and the first one by who reads its first image.
    let fetched = || -> Vec<usize> { std::mem::take(&mut *fake.fetched.lock().unwrap()) };
    wait_until(|| fake.fetched.lock().unwrap().len() >= 39);
    assert_eq!(
        fetched().iter().map(|image| image / 512).collect::<BTreeSet<_>>(),
        order_of_blocks[1..].iter().copied().collect()
    );
    // An epoch that goes on in its middle fetches what is left.
    loader.epoch(0, 8 * 20 + 4).for_each(drop);
    wait_until(|| fake.fetched.lock().unwrap().len() >= 19);
    assert_eq!(
        fetched().iter().map(|image| image / 512).collect::<BTreeSet<_>>(),
        order_of_blocks[21..].iter().copied().collect()
    );
    // Small ones are mixed as if they were read one by one, in the least memory that is always granted.
    let small = Arc::new(Fake { packed: 80 << 20, ..Fake::new(count) });
    let loader = Loader::stream(small.clone(), options(64, STREAM)).unwrap();
    assert_eq!(small.kept.load(Ordering::Relaxed), KEPT_BYTES);
    let single = Loader::stream(Arc::new(Fake::new(count)), options(64, STREAM)).unwrap();
    assert_eq!(indices(loader.epoch(0, 0)), indices(single.epoch(0, 0)));
}

fn wait_until(condition: impl Fn() -> bool) {
    while !condition() {
        thread::yield_now();
    }
}

/// Bytes [B, 3, S, S] without a symmetry.
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
fn crops_and_flips_are_those_of_single_images() {
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

/// What batch `batch` of `count` images of side 8 takes in an epoch.
fn epoch_parts(count: i64, seed: u64, epoch: u32, batch: u64) -> Tensor {
    let batch_size = count as u64;
    let crops = Crops::of_epoch(crop_source(seed, (batch + 1) * batch_size, 8), epoch, 0, batch_size);
    crops.of_batch(batch, 0, &Tensor::arange(count, (Kind::Int64, Device::Cpu)))
}

fn crop_source(seed: u64, images: u64, side: u64) -> CropSource {
    CropSource { seed, images, side, device: Device::Cpu }
}

#[test]
fn augmentation_depends_on_seed_epoch_and_batch_alone() {
    let images = pictures(64, 8);
    let changed = crop_flip(&images, &epoch_parts(64, 1, 2, 3));
    assert!(changed.equal(&crop_flip(&images, &epoch_parts(64, 1, 2, 3))));
    for (seed, epoch, batch) in [(0, 2, 3), (1, 3, 3), (1, 2, 4), (1, 3, 2)] {
        assert!(!changed.equal(&crop_flip(&images, &epoch_parts(64, seed, epoch, batch))));
    }
    let floats = crop_flip(&images.to_kind(Kind::Float), &epoch_parts(64, 1, 2, 3));
    assert!(floats.equal(&changed.to_kind(Kind::Float)));
    // The same where an epoch is gone on with, and in a batch that lost images.
    let numbers = Tensor::arange(50, (Kind::Int64, Device::Cpu));
    let later = Crops::of_epoch(crop_source(1, 250, 8), 2, 3, 64).of_batch(3, 0, &numbers);
    assert!(later.equal(&epoch_parts(64, 1, 2, 3).narrow(0, 0, 50)));
}

#[test]
fn a_view_of_an_image_depends_on_seed_view_and_image_alone() {
    let images = pictures(64, 8);
    let parts = |numbers: &Tensor, seed, view| Crops::of_view(crop_source(seed, 200, 8), view).of_batch(0, 0, numbers);
    let numbers = |from: i64| Tensor::arange_start(from, from + 64, (Kind::Int64, Device::Cpu));
    let views = crop_flip(&images, &parts(&numbers(100), 1, 2));
    assert!((0..64).any(|image| !views.get(image).equal(&images.get(image))));
    // The same in another batch, in another order.
    let few = Tensor::from_slice(&[40_i64, 3, 17]);
    let alone = crop_flip(&images.index_select(0, &few), &parts(&(&few + 100), 1, 2));
    assert!(alone.equal(&views.index_select(0, &few)));
    for (from, seed, view) in [(100, 0, 2), (100, 1, 3), (0, 1, 2)] {
        assert!(!views.equal(&crop_flip(&images, &parts(&numbers(from), seed, view))));
    }
}

#[test]
fn every_epoch_takes_another_part_of_an_image_even_if_memory_would_hold_them() {
    let fake = Arc::new(Fake::new(100));
    let options = LoaderOptions { framing: Framing::ResizedCrop, ..options(32, MEMORY) };
    let loader = Loader::open(fake.clone(), options).unwrap();
    let parts = |epoch: u32, first: u64| {
        loader.epoch(epoch, first).for_each(drop);
        let mut parts = std::mem::take(&mut *fake.parts.lock().unwrap());
        parts.sort_by_key(|(index, _)| *index);
        parts
    };
    let first = parts(0, 0);
    assert_eq!(first.len(), 100);
    assert_eq!(first, parts(0, 0));
    let other = parts(1, 0);
    assert!(first.iter().zip(&other).all(|(one, other)| one != other));
    // A run that goes on within an epoch takes the same parts of the images that are left.
    let left = parts(0, 2);
    assert_eq!(left.len(), 36);
    assert!(left.iter().all(|part| first.contains(part)));
}

#[test]
fn resized_crops_are_distributed_as_torchvisions() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let count = 4000;
    let (mut areas, mut shapes, mut mirrored) = (0.0, 0.0, 0);
    for _ in 0..count {
        let part = resized_crop([400, 300], &mut random);
        assert!(part.left >= 0.0 && part.top >= 0.0 && part.width >= 1.0 && part.height >= 1.0);
        assert!(part.left + part.width <= 400.0 && part.top + part.height <= 300.0, "{part:?}");
        let (area, shape) = (part.width * part.height / 120_000.0, part.width / part.height);
        // Whole pixels, hence the margins.
        assert!((0.078..=1.0).contains(&area) && (0.74..1.35).contains(&shape), "{part:?}");
        areas += area / f64::from(count);
        shapes += shape.ln() / f64::from(count);
        mirrored += i32::from(part.mirrored);
    }
    // The means of a million draws of torchvision's RandomResizedCrop.get_params on 400 × 300.
    assert!((areas - 0.433).abs() < 0.015, "{areas}");
    assert!((shapes - 0.031).abs() < 0.015, "{shapes}");
    assert!((1850..2150).contains(&mirrored), "{mirrored}");
    // No part of such a shape fits: the middle.
    let part = resized_crop([1000, 10], &mut random);
    assert_eq!((part.left, part.top, part.width, part.height), (493.0, 0.0, 13.0, 10.0));
    let part = resized_crop([10, 1000], &mut random);
    assert_eq!((part.left, part.top, part.width, part.height), (0.0, 493.0, 10.0, 13.0));
    let part = resized_crop([1, 1], &mut random);
    assert_eq!((part.left, part.top, part.width, part.height), (0.0, 0.0, 1.0, 1.0));
}
