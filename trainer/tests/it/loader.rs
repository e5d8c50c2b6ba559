//! Batches: their order, resumption, corrupt images, statistics.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use distillery_core::dataset::{self, Frame, Images, KEPT_BYTES, MeanStd, Rectangle, Subset};
use distillery_trainer::data::normalisation::Normalisation;
use distillery_trainer::data::{Batch, Batches, Crops, Framing, LoadError, Loader, LoaderOptions, Shard};
use tch::{Device, Kind, Tensor};

use crate::augmentation::crop_source;
use crate::support::watched::Watched;

const SIDE: u32 = 2;
const MEMORY: u64 = u64::MAX;
const STREAM: u64 = 0;

/// Images whose pixels encode their index: low byte in red, high byte in green, 7 in blue.
#[derive(Debug, Default)]
struct Fake {
    labels: Vec<u32>,
    corrupt: Vec<usize>,
    unreadable: Option<usize>,
    /// The image at which the decoder panics.
    panics: Option<usize>,
    /// Number of images read.
    reads: Watched<usize>,
    /// Blocks from which images were read.
    blocks: Mutex<BTreeSet<usize>>,
    /// Bytes that are unpacked in blocks, the limit of bytes to keep, and the images whose blocks were prefetched.
    packed: u64,
    kept: AtomicU64,
    fetched: Watched<Vec<usize>>,
    /// The crops that were requested.
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
        self.reads.change(|reads| *reads += 1);
        // A failing decoder may leave anything in the buffer.
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

    fn stored(&self, index: usize, take: &mut dyn FnMut(&[u8])) -> Result<(), dataset::Error> {
        take(&index.to_le_bytes());
        Ok(())
    }

    fn packed_bytes(&self) -> u64 {
        self.packed
    }

    fn keep(&self, bytes: u64) {
        self.kept.store(bytes, Ordering::Relaxed);
    }

    fn fetch(&self, index: usize) {
        self.fetched.change(|fetched| fetched.push(index));
    }
}

fn open(fake: Fake, limit: Option<u64>, batch_size: u32, memory: u64) -> Result<Loader, LoadError> {
    let limit = limit.unwrap_or(fake.labels.len() as u64).min(fake.labels.len() as u64);
    let images = Subset::new(Box::new(fake), (0..limit as usize).collect());
    Loader::open(Arc::new(images), options(batch_size, memory))
}

fn options(batch_size: u32, memory_limit: u64) -> LoaderOptions {
    let (framing, shard, device) = (Framing::Whole, Shard::WHOLE, Device::Cpu);
    LoaderOptions { side: SIDE, framing, batch_size, shard, seed: 5, memory_limit, device }
}

/// The indices of the images, batch by batch; checks that labels and pixels match.
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
    // Images that were skipped while loading into memory have no number.
    assert!(indices.len() == found.len() && indices.iter().zip(&found).all(|(number, index)| number <= index));
    found
}

fn sorted(batches: &[Vec<usize>]) -> Vec<usize> {
    let mut all = batches.concat();
    all.sort_unstable();
    all
}

#[test]
fn an_epoch_visits_each_image_once_in_its_own_order() {
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
fn shards_split_a_batch_in_order_and_take_the_crops_of_the_whole_batch() {
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
        // The last batch has two images, so the third shard gets none.
        assert!(shards[2].last().unwrap().1.is_empty());
        let evaluated =
            [0, 1, 2].map(|number| indices(open(Shard::WHOLE).in_order(Shard { rank: number, world_size: 3 }, 20)));
        assert_eq!(evaluated.concat().concat(), (0..82).collect::<Vec<_>>());
    }
}

#[test]
fn a_shard_whose_images_cannot_be_read_still_yields_a_batch() {
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
fn an_epoch_can_start_at_a_later_batch() {
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
    assert_eq!(*fake.reads.get(), 40, "images before the first batch are not decoded");
}

#[test]
fn evaluation_is_in_file_order_and_a_limit_keeps_the_first_images() {
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
fn a_few_corrupt_images_are_reported_and_skipped() {
    let corrupt = vec![0, 1, 500, 700, 998, 999];
    let good: Vec<usize> = (0..1000).filter(|index| !corrupt.contains(index)).collect();
    for memory in [MEMORY, STREAM] {
        let loader = open(Fake { corrupt: corrupt.clone(), ..Fake::new(1000) }, None, 64, memory).unwrap();
        assert_eq!(indices(loader.in_order(Shard::WHOLE, 100)).concat(), good);
        assert_eq!(sorted(&indices(loader.epoch(0, 0))), good);
        assert_eq!(loader.len(), if memory == MEMORY { 994 } else { 1000 });
        // Read twice, counted once.
        assert_eq!(loader.corrupt_count(), 6);
        assert_eq!(loader.corrupt()[2], "image 500: 500.png: not an image");
    }
    // A batch without readable images is skipped.
    let loader = open(Fake { corrupt: vec![4, 5], ..Fake::new(200) }, None, 2, STREAM).unwrap();
    assert_eq!(indices(loader.in_order(Shard::WHOLE, 2)).len(), 99);
}

#[test]
fn too_many_corrupt_images_are_a_user_error() {
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
    // Of a small number, a few may be corrupt.
    for (images, corrupt, fails) in [(60, 5, false), (60, 6, true), (10, 1, false), (9, 1, true)] {
        let fake = Fake { corrupt: (0..corrupt).collect(), ..Fake::new(images) };
        let error = open(fake, None, 5, MEMORY).err();
        assert_eq!(error.is_some(), fails, "{corrupt} of {images}: {error:?}");
    }
}

#[test]
fn an_unreadable_file_is_not_a_corrupt_image() {
    let fake = || Fake { unreadable: Some(3), ..Fake::new(1000) };
    let error = open(fake(), None, 50, MEMORY).unwrap_err();
    assert!(matches!(error, LoadError::Dataset(_)) && !error.is_users());
    let loader = open(fake(), None, 50, STREAM).unwrap();
    let error = loader.in_order(Shard::WHOLE, 50).next().unwrap().unwrap_err();
    assert!(matches!(error, LoadError::Dataset(_)) && !error.is_users());
}

#[test]
fn mean_and_standard_deviation_are_those_of_the_pixels() {
    for memory in [MEMORY, STREAM] {
        let MeanStd { mean, std } = open(Fake::new(256), None, 64, memory).unwrap().mean_std();
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
fn mean_and_standard_deviation_of_a_large_split_come_from_a_sample_of_all_its_blocks() {
    for packed in [0, 1 << 30] {
        let fake = Arc::new(Fake { packed, ..Fake::new(200 * 256) });
        let loader = Loader::open(fake.clone(), options(64, STREAM)).unwrap();
        let MeanStd { mean, std } = loader.mean_std();
        // The second channel goes from 0 to 199.
        assert!((mean[1] * 255.0 - 99.5).abs() < 3.0 && (std[1] * 255.0 - 57.7).abs() < 3.0, "{mean:?} {std:?}");
        assert!((9_900..=10_000).contains(&*fake.reads.get()));
        // Fewer blocks if each must be unpacked.
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
        drop(fake.reads.once(|reads| *reads >= (taken + 3) * 10));
        // One more batch is begun while the next one is awaited.
        batches.next().unwrap().unwrap();
        let decoded = *fake.reads.get();
        assert!(decoded <= (taken + 4) * 10, "{decoded} images after {taken} batches");
    }
}

#[test]
fn a_decoder_that_panics_ends_the_epoch_and_not_the_process() {
    let loader = open(Fake { panics: Some(500), ..Fake::new(1000) }, None, 64, STREAM).unwrap();
    let batches: Vec<_> = loader.epoch(0, 0).collect();
    assert!(matches!(batches.last(), Some(Err(LoadError::Stopped))));
    assert!(batches[..batches.len() - 1].iter().all(Result::is_ok));
}

/// The blocks of 512 images, without repetitions in a row.
fn blocks(images: &[usize]) -> Vec<usize> {
    let mut blocks: Vec<_> = images.iter().map(|image| image / 512).collect();
    blocks.dedup();
    blocks
}

#[test]
fn a_small_memory_limit_shuffles_fewer_blocks_at_a_time() {
    let count = 512 * 40;
    // A block takes 2 GiB: 4 GiB hold the current block and the next.
    let fake = Arc::new(Fake { packed: 80 << 30, ..Fake::new(count) });
    let loader = Loader::stream(fake.clone(), options(64, 4 << 30)).unwrap();
    assert_eq!(fake.kept.load(Ordering::Relaxed), 4 << 30);
    let order = indices(loader.epoch(0, 0)).concat();
    let order_of_blocks = blocks(&order);
    assert_eq!(order_of_blocks.len(), 40);
    assert_eq!(sorted(&[order]), (0..count).collect::<Vec<_>>());
    // Each block but the first is prefetched while the one before it is decoded.
    let fetched_blocks = |count: usize| -> BTreeSet<usize> {
        let fetched = std::mem::take(&mut *fake.fetched.once(|fetched| fetched.len() >= count));
        fetched.into_iter().map(|image| image / 512).collect()
    };
    assert_eq!(fetched_blocks(39), order_of_blocks[1..].iter().copied().collect());
    // A resumed epoch prefetches the remaining blocks.
    loader.epoch(0, 8 * 20 + 4).for_each(drop);
    assert_eq!(fetched_blocks(19), order_of_blocks[21..].iter().copied().collect());
    // Small blocks fit the guaranteed memory and are shuffled like single images.
    let small = Arc::new(Fake { packed: 80 << 20, ..Fake::new(count) });
    let loader = Loader::stream(small.clone(), options(64, STREAM)).unwrap();
    assert_eq!(small.kept.load(Ordering::Relaxed), KEPT_BYTES);
    let single = Loader::stream(Arc::new(Fake::new(count)), options(64, STREAM)).unwrap();
    assert_eq!(indices(loader.epoch(0, 0)), indices(single.epoch(0, 0)));
}

#[test]
fn random_crops_differ_between_epochs_even_when_all_images_fit_in_memory() {
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
    // A resumed epoch takes the same crops of the remaining images.
    let left = parts(0, 2);
    assert_eq!(left.len(), 36);
    assert!(left.iter().all(|part| first.contains(part)));
}
