//! Readers of files and directories.

use std::fs;
use std::io::Write;
use std::path::Path;

use distillery_core::dataset::{Dataset, DatasetOptions, Frame, plane_bytes};

use crate::archive::{Format, Limits, unpack};

/// Bytes that an archive may unpack to.
const UNPACKED: u64 = 4 << 20;
/// Images of a split that are decoded.
const DECODED: usize = 4;
const SIDE: u32 = 8;
/// A grey pixel, for layouts whose images are files of their own.
const IMAGE: &[u8] = b"P5 1 1 255\n\x80";

/// Unpacks `bytes` as an upload.
///
/// # Panics
/// The reader does, writes more than it may, or makes anything but files and directories.
pub fn check_archive(bytes: &[u8]) {
    let Ok(format) = Format::of(bytes) else { return };
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(bytes).expect("it is written");
    let directory = tempfile::tempdir().expect("a temporary directory");
    let into = directory.path().join("in");
    fs::create_dir(&into).expect("a directory");
    let unpacked = unpack(format, &file, &into, Limits::new(UNPACKED));
    let mut written = 0;
    count(&into, &mut written);
    assert!(written <= UNPACKED, "{written} bytes");
    if let Ok(unpacked) = unpacked {
        assert_eq!(unpacked.bytes, written);
    }
    let outside: Vec<_> = fs::read_dir(directory.path()).expect("it is there").collect();
    assert_eq!(outside.len(), 1, "{outside:?}");
}

/// Adds up the sizes of the files below a directory.
fn count(directory: &Path, bytes: &mut u64) {
    for entry in fs::read_dir(directory).expect("it is there") {
        let entry = entry.expect("it can be listed");
        let kind = entry.file_type().expect("it has a type");
        assert!(kind.is_file() || kind.is_dir(), "{entry:?}");
        if kind.is_dir() {
            count(&entry.path(), bytes);
        } else {
            *bytes += entry.metadata().expect("it has a size").len();
        }
    }
}

/// Reads the rest of `bytes` as a data set in the layout that the first byte chooses: its classes, labels and first
/// images.
///
/// # Panics
/// The reader does.
pub fn check_dataset(bytes: &[u8]) {
    let Some((&layout, content)) = bytes.split_first() else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let write = |name: &str, content: &[u8]| {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().expect("it is in a directory")).expect("a directory");
        fs::write(path, content).expect("it is written");
    };
    let half = content.len() / 2;
    match layout % 6 {
        0 => write("train-000000.tar", content),
        1 => write("train-00000-of-00001.parquet", content),
        2 => {
            write("data_batch_1", content);
            write("test_batch", content);
            write("batches.meta", &content[half..]);
        }
        3 => {
            write("train-images-idx3-ubyte", &content[..half]);
            write("train-labels-idx1-ubyte", &content[half..]);
        }
        4 => {
            write("train/metadata.csv", &content[..half]);
            write("test/metadata.jsonl", &content[half..]);
            write("train/a.pgm", IMAGE);
            write("test/a.pgm", IMAGE);
        }
        _ => {
            write("train/one/a.png", &content[..half]);
            write("train/two/a.jpg", &content[half..]);
        }
    }
    read(directory.path());
}

fn read(directory: &Path) {
    let Ok(dataset) = Dataset::open(directory, &DatasetOptions::default()) else { return };
    let _ = dataset.notes();
    let mut planes = vec![0; plane_bytes(SIDE)];
    for split in dataset.splits() {
        let Ok(images) = dataset.split(&split) else { continue };
        let classes = dataset.classes().count;
        assert!(images.labels().iter().all(|&label| label < classes));
        for index in 0..images.labels().len().min(DECODED) {
            let _ = images.read(index, &Frame::Whole, SIDE, &mut planes);
        }
    }
}
