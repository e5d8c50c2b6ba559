//! Promise: images that a data set has twice are found, however many images it has, and what was not read is said.

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use distillery_core::dataset::{
    DatasetStatistics, Duplicates, ExaminedSplit, ReadProgress, SelectionRequest, StatisticsLimits, UsedSplits,
};
use image::{ImageFormat, Rgb, RgbImage};
use parquet::basic::Compression;

use super::parquet::{Column, png, write};
use super::support::{encode, open, plain, put};
use super::webdataset;

fn statistics(at: &Path, decoded: usize, compared: usize) -> DatasetStatistics {
    let (found, progress) = read(at, StatisticsLimits { decoded, compared, ..NONE });
    let read: u64 = found.splits.iter().map(|split| split.compared).sum();
    assert_eq!(progress, [read; 2]);
    found
}

const NONE: StatisticsLimits =
    StatisticsLimits { decoded: usize::MAX, compared: usize::MAX, bytes: u64::MAX, time: Duration::MAX };

/// Also how many images were passed, and were to be.
fn read(at: &Path, limits: StatisticsLimits) -> (DatasetStatistics, [u64; 2]) {
    let progress = ReadProgress::default();
    let found = open(at).unwrap().statistics(limits, 2, &AtomicBool::new(false), &progress).unwrap().unwrap();
    (found, progress.get())
}

/// The pixels of [`plain`] in another format.
fn again(red: u8) -> Vec<u8> {
    encode(RgbImage::from_pixel(2, 2, Rgb([red, 1, 2])), ImageFormat::Bmp)
}

/// Six images to train on, and three that are copies of the first, the third and the second.
fn with_copies(at: &Path) {
    for (path, red) in [("a/0", 0), ("a/1", 10), ("a/2", 20), ("b/3", 30), ("b/4", 40), ("b/5", 50)] {
        put(&at.join(format!("train/{path}.png")), &plain(red));
    }
    put(&at.join("test/a/0.png"), &plain(0));
    put(&at.join("test/a/1.bmp"), &again(20));
    put(&at.join("test/b/2.bmp"), &again(10));
}

/// Per split: its name, how many images were decoded and how many were compared, and the formats.
fn splits(found: &DatasetStatistics) -> Vec<(String, [u64; 2], String)> {
    let described = |split: &ExaminedSplit| {
        let formats: Vec<_> = split.formats.iter().map(|(format, images)| format!("{images} {format}")).collect();
        (split.split.clone(), [split.examined, split.compared], formats.join(" "))
    };
    found.splits.iter().map(described).collect()
}

fn split(name: &str, read: [u64; 2], formats: &str) -> (String, [u64; 2], String) {
    (name.to_owned(), read, formats.to_owned())
}

/// The only pair of splits with copies: the number of copies, of those with another class, and the examples.
fn copies(found: &DatasetStatistics) -> (String, [u64; 2], Vec<[u64; 2]>) {
    let [pair] = found.duplicates.as_slice() else { panic!("{:?}", found.duplicates) };
    (pair.splits.join(" of "), [pair.images, pair.contradictory], pair.examples.clone())
}

/// The copies that one split has of images of another.
fn between<'a>(found: &'a DatasetStatistics, split: &str, other: &str) -> &'a Duplicates {
    found.duplicates.iter().find(|pair| pair.splits[0] == split && pair.splits[1] == other).unwrap()
}

#[test]
fn copies_are_found_by_pixels_among_the_decoded_images_and_by_bytes_among_all() {
    let dir = tempfile::tempdir().unwrap();
    with_copies(dir.path());
    let all = statistics(dir.path(), 6, 6);
    assert_eq!(copies(&all), ("test of train".to_owned(), [3, 1], vec![[0, 0], [1, 2], [2, 1]]));
    assert_eq!(splits(&all), [split("train", [6, 6], "6 png"), split("test", [3, 3], "2 bmp 1 png")]);
    assert_eq!(all.warnings.len(), 2, "{:?}", all.warnings);
    // The second, fourth and sixth image to train on are decoded.
    let some = statistics(dir.path(), 3, 9);
    assert_eq!(copies(&some), ("test of train".to_owned(), [2, 1], vec![[0, 0], [2, 1]]));
    assert_eq!(splits(&some), [split("train", [3, 6], "6 png"), split("test", [3, 3], "2 bmp 1 png")]);
    assert_eq!(
        some.warnings,
        [
            "the test split shares 2 images with the train split: the accuracy on it will be better than on other images",
            "1 image of the test split has a copy of another class in the train split",
            "only 3 of the 6 images of the train split were decoded, evenly spaced. The others were compared byte by \
             byte: copies that were encoded again are not found among them",
        ]
    );
}

#[test]
fn where_the_comparison_is_cut_large_splits_give_way_and_the_numbers_are_said() {
    let dir = tempfile::tempdir().unwrap();
    with_copies(dir.path());
    let found = statistics(dir.path(), 3, 7);
    assert_eq!(splits(&found), [split("train", [3, 4], "4 png"), split("test", [3, 3], "2 bmp 1 png")]);
    assert_eq!(
        found.warnings.last().unwrap(),
        "only 4 of the 6 images of the train split were read, evenly spaced, and 3 of them decoded: duplicates among \
         the others are not found"
    );
}

#[test]
fn of_files_with_more_bytes_than_are_read_some_images_are_read_and_the_limit_is_said() {
    let dir = tempfile::tempdir().unwrap();
    with_copies(dir.path());
    let bytes = open(dir.path()).unwrap().summary().unwrap().size_bytes;
    let (whole, _) = read(dir.path(), StatisticsLimits { bytes, ..NONE });
    assert_eq!(whole.splits.iter().map(|split| split.compared).sum::<u64>(), 9);
    let (half, progress) = read(dir.path(), StatisticsLimits { bytes: bytes / 2, ..NONE });
    assert_eq!(splits(&half).iter().map(|(_, read, _)| *read).collect::<Vec<_>>(), [[2, 2], [2, 2]]);
    assert_eq!(progress, [4, 4]);
    assert!(
        half.warnings.iter().any(|warning| warning.contains("only 2 of the 6 images of the train split were read"))
    );
    assert!(half.warnings.last().unwrap().contains("GiB are read at most"), "{:?}", half.warnings);
}

#[test]
fn reading_that_takes_too_long_is_ended_and_what_was_not_read_is_said() {
    let dir = tempfile::tempdir().unwrap();
    with_copies(dir.path());
    let (found, progress) = read(dir.path(), StatisticsLimits { time: Duration::ZERO, ..NONE });
    assert_eq!(splits(&found), [split("train", [0, 0], ""), split("test", [0, 0], "")]);
    assert_eq!((progress, found.mean, found.duplicates.len()), ([9, 9], None, 0));
    let last = found.warnings.last().unwrap();
    assert!(last.contains("was stopped after 0 minutes: 9 images at the ends of splits were not read"), "{last}");
}

#[test]
fn files_without_an_image_are_no_copies_of_each_other() {
    let dir = tempfile::tempdir().unwrap();
    with_copies(dir.path());
    for number in 0..8 {
        put(&dir.path().join(format!("test/a/broken-{number}.png")), b"no image");
    }
    for decoded in [100, 6] {
        // With the lower limit, some of them are only compared.
        let found = statistics(dir.path(), decoded, 100);
        let broken = found.splits[1].undecodable;
        assert!(if decoded == 6 { (1..8).contains(&broken) } else { broken == 8 }, "{broken}");
        assert!(found.duplicates.iter().all(|pair| pair.splits[0] != pair.splits[1]), "{:?}", found.duplicates);
    }
}

#[test]
fn an_image_that_is_a_copy_in_two_ways_counts_once_as_a_copy_of_the_earliest() {
    let dir = tempfile::tempdir().unwrap();
    with_copies(dir.path());
    // The same bytes as the first image to train on, and the same pixels as another one to evaluate on.
    put(&dir.path().join("test/b/1.bmp"), &again(0));
    put(&dir.path().join("test/b/3.png"), &plain(0));
    // All five images to evaluate on are decoded, and the first to train on is not.
    let found = statistics(dir.path(), 5, 100);
    // Positions: a/0.png, a/1.bmp, b/1.bmp, b/2.bmp, b/3.png.
    let across = between(&found, "test", "train");
    assert!(across.examples.contains(&[0, 0]) && across.examples.contains(&[4, 0]), "{across:?}");
    let within = between(&found, "test", "test");
    assert_eq!((within.images, &within.examples), (1, &vec![[2, 0]]));
}

#[test]
fn what_an_image_really_is_counts_and_not_its_name() {
    let dir = tempfile::tempdir().unwrap();
    with_copies(dir.path());
    put(&dir.path().join("test/a/7.png"), b"GIF89a");
    put(&dir.path().join("test/a/8.png"), b"no image");
    let found = statistics(dir.path(), 100, 100);
    assert_eq!(splits(&found)[1], split("test", [5, 5], "2 bmp 1 gif 1 png 1 unknown"));
    assert_eq!(found.splits[1].undecodable, 2);
}

#[test]
fn raw_pixels_have_no_format_and_are_compared_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let record = |label: u8, value: u8| [vec![label], vec![value; 3072]].concat();
    put(&dir.path().join("data_batch_1.bin"), &[record(0, 1), record(1, 2), record(2, 3)].concat());
    put(&dir.path().join("test_batch.bin"), &record(0, 1));
    // Of those to train on, only the last is decoded.
    let found = statistics(dir.path(), 1, 100);
    assert_eq!(splits(&found), [split("train", [1, 3], ""), split("test", [1, 1], "")]);
    assert_eq!(copies(&found), ("test of train".to_owned(), [1, 0], vec![[0, 0]]));
}

#[test]
fn images_in_shards_are_compared_by_their_bytes_too() {
    let dir = tempfile::tempdir().unwrap();
    webdataset::shard(&dir.path().join("train-000000.tar"), 1, &["0", "1", "0"]);
    // The same reds, and so the same bytes, as the first and the second.
    webdataset::shard(&dir.path().join("test-000000.tar"), 1, &["0", "1"]);
    let found = statistics(dir.path(), 1, 100);
    assert_eq!(splits(&found), [split("train", [1, 3], "3 png"), split("test", [1, 2], "2 png")]);
    assert_eq!(copies(&found), ("test of train".to_owned(), [2, 0], vec![[0, 0], [1, 1]]));

    let dir = tempfile::tempdir().unwrap();
    let schema = "message schema { optional binary image; optional int64 label; }";
    for (name, reds) in [("train", vec![1, 2, 3]), ("test", vec![2])] {
        let images = reds.iter().map(|&red| Some(png(red, 0))).collect();
        let labels = reds.iter().map(|&red| Some(i64::from(red % 2))).collect();
        let group = vec![Column::Bytes(images, 1), Column::Int64(labels)];
        let path = dir.path().join(format!("{name}.parquet"));
        write(&path, schema, None, vec![group], Compression::UNCOMPRESSED);
    }
    let found = statistics(dir.path(), 1, 100);
    assert_eq!(splits(&found), [split("train", [1, 3], "3 png"), split("test", [1, 1], "1 png")]);
    assert_eq!(copies(&found), ("test of train".to_owned(), [1, 0], vec![[0, 1]]));
}

#[test]
fn of_many_undecodable_images_the_first_are_named_and_all_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    with_copies(dir.path());
    for number in 0..300 {
        put(&dir.path().join(format!("test/a/{number:03}.png")), b"no image");
    }
    let found = statistics(dir.path(), 1000, 1000);
    let test = &found.splits[1];
    assert_eq!((test.undecodable, test.examined), (300, 303));
    // The files by name: a/0.png, a/000.png, a/001.png and so on.
    let positions: Vec<u64> = test.examples.iter().map(|image| image.position).collect();
    assert_eq!(positions.len(), 20);
    assert_eq!(test.examples[0].file.as_deref(), Some("test/a/000.png"));
    assert!(positions.is_sorted() && positions[19] < 25, "{positions:?}");
}

#[test]
fn a_job_is_told_of_copies_and_broken_images_in_the_splits_that_it_uses() {
    let dir = tempfile::tempdir().unwrap();
    with_copies(dir.path());
    // A copy of the first image of the split, and one that cannot be decoded.
    put(&dir.path().join("train/a/9.png"), &plain(0));
    put(&dir.path().join("train/b/9.png"), b"no image");
    let (dataset, found) = (open(dir.path()).unwrap(), statistics(dir.path(), 100, 100));
    let warnings = |request| found.warnings_of_job(&UsedSplits::of(&dataset.select(request).unwrap()));
    let left_out = "1 of 8 images of the train split cannot be decoded and will be left out: image 7 in train/b/9.png";
    let fails = |images| {
        format!(
            "the job fails if more than 0 of the {images} images that it trains on cannot be decoded: repair or remove them"
        )
    };
    let of_splits = warnings(SelectionRequest::default());
    assert!(
        of_splits[0].starts_with("the test split shares 3 images with the train split: the accuracy"),
        "{of_splits:?}"
    );
    let other_class = "1 image of the test split has a copy of another class in the train split".to_owned();
    assert_eq!(of_splits[1..], [other_class, left_out.to_owned(), fails(8)]);
    // Without the test split, a copy may still be on both sides of a fold.
    let held_out = warnings(SelectionRequest { eval_fraction: Some(0.25), ..SelectionRequest::default() });
    let copy = "the train split has 1 image that is a copy of an earlier one: where one is held out";
    assert!(held_out[0].starts_with(copy) && held_out[1] == left_out, "{held_out:?}");
}
