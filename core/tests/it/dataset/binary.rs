//! Promise: MNIST's IDX files and CIFAR's binary files are read exactly, and damaged ones are refused with the reason.

use std::fs;
use std::io::Write;
use std::path::Path;

use distillery_core::dataset::{
    Dataset, DatasetFormat, DatasetOptions, Discovered, Error, Frame, discover, plane_bytes, resolve,
};

fn idx(sizes: &[u32], content: &[u8]) -> Vec<u8> {
    let mut file = vec![0, 0, 8, sizes.len() as u8];
    file.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
    file.extend(content);
    file
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(content).unwrap();
    packed.finish().unwrap()
}

/// Three 2×2 training images with labels 0, 1, 2 and one test image.
fn mnist(at: &Path) {
    fs::write(at.join("train-images-idx3-ubyte"), idx(&[3, 2, 2], &(0..12).collect::<Vec<_>>())).unwrap();
    fs::write(at.join("train-labels-idx1-ubyte"), idx(&[3], &[0, 2, 1])).unwrap();
    fs::write(at.join("t10k-images.idx3-ubyte.gz"), gzip(&idx(&[1, 2, 2], &[9, 8, 7, 6]))).unwrap();
    fs::write(at.join("t10k-labels.idx1-ubyte.gz"), gzip(&idx(&[1], &[2]))).unwrap();
}

fn record(labels: &[u8], first: u8) -> Vec<u8> {
    let pixels = (0..3072_usize).map(|at| first.wrapping_add((at / 1024) as u8));
    labels.iter().copied().chain(pixels).collect()
}

fn cifar10(at: &Path) {
    for batch in 1..=2_u8 {
        let images: Vec<u8> = (0..5).flat_map(|label| record(&[label], 10 * batch + label)).collect();
        fs::write(at.join(format!("data_batch_{batch}.bin")), images).unwrap();
    }
    fs::write(at.join("test_batch.bin"), record(&[9], 100)).unwrap();
}

fn open(at: &Path) -> Dataset {
    Dataset::open(at, &DatasetOptions::default()).unwrap()
}

/// The error of opening the data set or of reading the split's labels.
fn refusal(at: &Path, split: &str) -> String {
    let result = Dataset::open(at, &DatasetOptions::default()).and_then(|dataset| dataset.split(split).map(drop));
    let error = result.unwrap_err();
    assert!(error.is_users(), "{error}");
    error.to_string()
}

fn read(dataset: &Dataset, split: &str, index: usize, side: u32) -> Vec<u8> {
    let mut planes = vec![0; plane_bytes(side)];
    dataset.split(split).unwrap().read(index, &Frame::Whole, side, &mut planes).unwrap();
    planes
}

#[test]
fn idx_files_read_exactly() {
    let dir = tempfile::tempdir().unwrap();
    mnist(dir.path());
    let dataset = open(dir.path());
    assert_eq!((dataset.format(), dataset.splits()), (DatasetFormat::Idx, vec!["test".to_owned(), "train".to_owned()]));
    assert_eq!((dataset.classes().count, &dataset.classes().names), (3, &None));
    assert_eq!(dataset.split("train").unwrap().labels(), [0, 2, 1]);
    assert_eq!(read(&dataset, "train", 1, 2), [4, 5, 6, 7].repeat(3));
    assert_eq!(read(&dataset, "test", 0, 2), [9, 8, 7, 6].repeat(3));
}

#[test]
fn idx_pixels_are_resampled_with_antialiasing() {
    let dir = tempfile::tempdir().unwrap();
    let images: Vec<u8> = (0..64).map(|at| if (at / 8 + at) % 2 == 0 { 0 } else { 200 }).collect();
    fs::write(dir.path().join("train-images-idx3-ubyte"), idx(&[1, 8, 8], &images)).unwrap();
    fs::write(dir.path().join("train-labels-idx1-ubyte"), idx(&[1], &[0])).unwrap();
    let dataset = open(dir.path());
    // A chessboard becomes an even grey, where point sampling would give black or white.
    for value in read(&dataset, "train", 0, 2) {
        assert!((95..=105).contains(&value), "{value}");
    }
    assert_eq!(read(&dataset, "train", 0, 16).len(), 3 * 16 * 16);
}

#[test]
fn every_truncation_of_an_idx_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for file in ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"] {
        mnist(dir.path());
        let whole = fs::read(dir.path().join(file)).unwrap();
        for length in 0..whole.len() {
            fs::write(dir.path().join(file), &whole[..length]).unwrap();
            let message = refusal(dir.path(), "train");
            assert!(
                message.contains(file) && (message.contains("truncated") || message.contains("is not")),
                "{message}"
            );
        }
        fs::write(dir.path().join(file), [whole.as_slice(), b"x"].concat()).unwrap();
        assert!(refusal(dir.path(), "train").contains("has extra bytes at its end"));
    }
    for file in ["t10k-images.idx3-ubyte.gz", "t10k-labels.idx1-ubyte.gz"] {
        mnist(dir.path());
        let whole = fs::read(dir.path().join(file)).unwrap();
        for length in 0..whole.len() {
            fs::write(dir.path().join(file), &whole[..length]).unwrap();
            assert!(refusal(dir.path(), "test").contains(file));
        }
    }
}

#[test]
fn idx_headers_that_lie_are_refused_without_memory() {
    let dir = tempfile::tempdir().unwrap();
    mnist(dir.path());
    for sizes in [[u32::MAX; 3], [3, u32::MAX, 2], [3, 0, 2], [3, 1 << 16, 1 << 16]] {
        fs::write(dir.path().join("train-images-idx3-ubyte"), idx(&sizes, &[0; 12])).unwrap();
        assert!(refusal(dir.path(), "train").contains("train-images-idx3-ubyte"));
    }
    fs::write(dir.path().join("train-labels-idx1-ubyte"), idx(&[u32::MAX], &[0; 3])).unwrap();
    assert!(refusal(dir.path(), "train").contains("truncated"));
}

#[test]
fn idx_labels_must_match_the_images_and_leave_no_gap() {
    let dir = tempfile::tempdir().unwrap();
    mnist(dir.path());
    let labels = dir.path().join("train-labels-idx1-ubyte");
    fs::write(&labels, idx(&[2], &[0, 1])).unwrap();
    assert!(refusal(dir.path(), "train").contains("has 3 images, but"));
    fs::write(&labels, idx(&[3], &[2, 2, 3])).unwrap();
    assert!(refusal(dir.path(), "train").contains("no label 1"));
    fs::write(&labels, idx(&[3], &[0, 3, 1])).unwrap();
    assert!(refusal(dir.path(), "train").contains("no label 2"));
    // The test split has a class that training never saw.
    fs::write(&labels, idx(&[3], &[0, 1, 1])).unwrap();
    assert!(refusal(dir.path(), "test").contains("image 0 of the test split has label 2, out of range"));
    fs::remove_file(labels).unwrap();
    assert!(refusal(dir.path(), "train").contains("no labels beside it"));
}

#[test]
fn cifar10_batches_read_exactly_and_in_order() {
    let dir = tempfile::tempdir().unwrap();
    cifar10(dir.path());
    let dataset = open(dir.path());
    assert_eq!((dataset.format(), dataset.classes().count), (DatasetFormat::Cifar10, 10));
    assert_eq!(dataset.split("train").unwrap().labels(), [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]);
    let planes: Vec<u8> = [21, 22, 23].iter().flat_map(|&value| [value; 1024]).collect();
    assert_eq!(read(&dataset, "train", 6, 32), planes);
    let names = "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n";
    fs::write(dir.path().join("batches.meta.txt"), names).unwrap();
    assert_eq!(open(dir.path()).classes().names.as_ref().unwrap()[9], "truck");
    fs::write(dir.path().join("batches.meta.txt"), "airplane\n").unwrap();
    assert!(refusal(dir.path(), "train").contains("names 1 class; there are 10"));
}

#[test]
fn the_tenth_batch_follows_the_ninth() {
    let dir = tempfile::tempdir().unwrap();
    for batch in 1..=10 {
        fs::write(dir.path().join(format!("data_batch_{batch}.bin")), record(&[batch - 1], 0)).unwrap();
    }
    assert_eq!(open(dir.path()).split("train").unwrap().labels(), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    fs::remove_file(dir.path().join("data_batch_4.bin")).unwrap();
    assert!(refusal(dir.path(), "train").contains("data_batch_4.bin is missing"));
}

#[test]
fn cifar100_takes_the_fine_label() {
    let dir = tempfile::tempdir().unwrap();
    let inner = dir.path().join("cifar-100-binary");
    fs::create_dir(&inner).unwrap();
    fs::write(inner.join("train.bin"), [record(&[19, 99], 1), record(&[3, 42], 2)].concat()).unwrap();
    fs::write(inner.join("test.bin"), record(&[0, 1], 3)).unwrap();
    let dataset = open(dir.path());
    assert_eq!((dataset.format(), dataset.classes().count), (DatasetFormat::Cifar100, 100));
    assert_eq!(dataset.split("train").unwrap().labels(), [99, 42]);
    assert_eq!(read(&dataset, "train", 1, 32)[0], 2);
    fs::write(inner.join("test.bin"), record(&[0, 100], 3)).unwrap();
    assert!(refusal(dir.path(), "test").contains("label 100, out of range"));
}

#[test]
fn a_cifar_file_that_ends_within_an_image_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    cifar10(dir.path());
    for length in [1, 3072, 3074, 6145] {
        fs::write(dir.path().join("test_batch.bin"), vec![0; length]).unwrap();
        let message = refusal(dir.path(), "test");
        assert!(message.contains("test_batch.bin") && message.contains("is truncated"), "{message}");
    }
    fs::write(dir.path().join("test_batch.bin"), []).unwrap();
    assert!(refusal(dir.path(), "test").contains("the test split is empty"));
}

#[test]
fn splits_are_chosen_or_named() {
    let dir = tempfile::tempdir().unwrap();
    cifar10(dir.path());
    let dataset = open(dir.path());
    assert_eq!(dataset.train_split(None).unwrap(), "train");
    assert_eq!(dataset.eval_split(None).unwrap(), "test");
    assert_eq!(dataset.eval_split(Some("train")).unwrap(), "train");
    let message = dataset.train_split(Some("trian")).unwrap_err().to_string();
    assert!(message.ends_with("has no trian split; its splits are: test, train"), "{message}");
    fs::remove_file(dir.path().join("test_batch.bin")).unwrap();
    let message = open(dir.path()).eval_split(None).unwrap_err().to_string();
    assert!(message.ends_with("has no test, val or validation split; its splits are: train"), "{message}");
}

#[test]
fn a_directory_that_is_no_data_set_is_refused_with_the_known_layouts() {
    let dir = tempfile::tempdir().unwrap();
    let open = |path: &Path| Dataset::open(path, &DatasetOptions::default()).unwrap_err();
    assert!(matches!(open(&dir.path().join("gone")), Error::Missing { .. }));
    fs::write(dir.path().join("readme.txt"), "nothing").unwrap();
    let error = open(dir.path());
    assert!(matches!(error, Error::UnknownLayout { .. }));
    for word in ["parquet", "image folder", "CIFAR", "IDX"] {
        assert!(error.to_string().contains(word));
    }
    cifar10(dir.path());
    let options = DatasetOptions { label_column: Some("label".into()), ..DatasetOptions::default() };
    let message = Dataset::open(dir.path(), &options).unwrap_err().to_string();
    assert!(
        message.contains("has no columns to choose from, as parquet data sets have: remove label_column"),
        "{message}"
    );
}

#[test]
fn discovery_lists_what_it_knows_and_says_why_the_rest_is_unusable() {
    let base = tempfile::tempdir().unwrap();
    for (name, make) in [("b-mnist", mnist as fn(&Path)), ("a-cifar", cifar10)] {
        fs::create_dir(base.path().join(name)).unwrap();
        make(&base.path().join(name));
    }
    for name in ["empty", ".hidden", "broken"] {
        fs::create_dir(base.path().join(name)).unwrap();
    }
    cifar10(&base.path().join(".hidden"));
    fs::write(base.path().join("broken/train.bin"), "short").unwrap();
    fs::write(base.path().join("file"), "").unwrap();
    let Discovered { datasets: found, unusable } = discover(base.path(), false).unwrap();
    let names: Vec<_> = found.iter().map(|summary| summary.name.as_str()).collect();
    assert_eq!(names, ["a-cifar", "b-mnist"]);
    let [broken, empty] = unusable.as_slice() else { panic!("{unusable:?}") };
    assert!(broken.name == "broken" && broken.reason.starts_with("broken/train.bin: is truncated"), "{broken:?}");
    assert!(empty.name == "empty" && empty.reason.contains("unknown: it holds nothing"), "{empty:?}");
    assert_eq!((found[0].images, found[0].classes, found[0].size_bytes), (11, 10, 11 * 3073));
    assert_eq!((found[1].splits[0].name.as_str(), found[1].splits[0].images), ("test", 1));
}

#[test]
fn a_name_is_never_a_path() {
    let base = tempfile::tempdir().unwrap();
    fs::create_dir(base.path().join("cifar")).unwrap();
    assert_eq!(resolve(base.path(), "cifar").unwrap(), base.path().join("cifar"));
    assert!(matches!(resolve(base.path(), "mnist"), Err(Error::Missing { .. })));
    for name in ["", ".", "..", "../x", "/etc", "a/b", "a\\b", "a\0b", "cifar/"] {
        assert!(matches!(resolve(base.path(), name), Err(Error::Invalid { .. })), "{name:?}");
    }
}

#[test]
fn the_sha256_of_a_split_is_of_its_content() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    cifar10(one.path());
    cifar10(two.path());
    let hash = |at: &Path, split: &str| open(at).sha256(split).unwrap();
    let before = hash(one.path(), "train");
    assert_eq!(before.len(), 64);
    assert_eq!(before, hash(two.path(), "train"));
    assert_ne!(before, hash(one.path(), "test"));
    let path = two.path().join("data_batch_2.bin");
    let mut content = fs::read(&path).unwrap();
    content[4000] ^= 1;
    fs::write(path, content).unwrap();
    assert_ne!(before, hash(two.path(), "train"));
    assert_eq!(hash(one.path(), "test"), hash(two.path(), "test"));
    assert!(open(one.path()).sha256("val").is_err());
}
