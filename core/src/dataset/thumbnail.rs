//! Small pictures of a data set's images, for people.

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::{ExtendedColorType, ImageEncoder};

use super::{Error, Frame, Images, plane_bytes};

const QUALITY: u8 = 80;

/// The central square of an image as a JPEG of `side`×`side` pixels.
///
/// # Errors
/// The image cannot be read or decoded.
///
/// # Panics
/// There is no such image.
pub fn thumbnail(images: &dyn Images, index: usize, side: u32) -> Result<Vec<u8>, Error> {
    let mut planes = vec![0; plane_bytes(side)];
    images.read(index, &Frame::Centre { resize: side }, side, &mut planes)?;
    Ok(encode_jpeg(&planes, side))
}

/// Pixels [3, S, S] as a JPEG of `side`×`side` pixels.
///
/// # Panics
/// There are fewer pixels.
#[must_use]
pub fn encode_jpeg(planes: &[u8], side: u32) -> Vec<u8> {
    let area = plane_bytes(side) / 3;
    let pixels: Vec<u8> = (0..area).flat_map(|at| [planes[at], planes[area + at], planes[2 * area + at]]).collect();
    let mut encoded = Cursor::new(Vec::new());
    let encoder = JpegEncoder::new_with_quality(&mut encoded, QUALITY);
    encoder.write_image(&pixels, side, side, ExtendedColorType::Rgb8).expect("memory takes a small picture");
    encoded.into_inner()
}
