//! What the tests of data sets share.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use distillery_core::dataset::{Dataset, DatasetOptions, Error, Frame, plane_bytes};
use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

pub fn encode(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

/// A PNG of 2×2 pixels.
pub fn plain(red: u8) -> Vec<u8> {
    encode(RgbImage::from_pixel(2, 2, Rgb([red, 1, 2])), ImageFormat::Png)
}

pub fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

pub fn open(at: &Path) -> Result<Dataset, Error> {
    Dataset::open(at, &DatasetOptions::default())
}

/// The error of opening the data set, which its files are at fault for.
pub fn refusal(at: &Path) -> String {
    let error = open(at).unwrap_err();
    assert!(error.is_users(), "{error}");
    error.to_string()
}

pub fn read(dataset: &Dataset, split: &str, index: usize, side: u32) -> Result<Vec<u8>, Error> {
    read_part(dataset, split, index, &Frame::Whole, side)
}

pub fn read_part(dataset: &Dataset, split: &str, index: usize, frame: &Frame<'_>, side: u32) -> Result<Vec<u8>, Error> {
    let mut planes = vec![0; plane_bytes(side)];
    dataset.split(split)?.read(index, frame, side, &mut planes)?;
    Ok(planes)
}

/// The first byte of every image of a split: its red.
pub fn reds(dataset: &Dataset, split: &str) -> Vec<u8> {
    let count = dataset.labels(split).unwrap().len();
    (0..count).map(|index| read(dataset, split, index, 2).unwrap()[0]).collect()
}

/// What Git leaves in place of a file that Git LFS keeps.
pub const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\noid sha256:\
    4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";
