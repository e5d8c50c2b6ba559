//! From an encoded or raw picture to `side`×`side` pixels in planes: all red, all green, all blue.

use std::io::Cursor;

use image::imageops::FilterType;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};

/// Most pixels of an encoded image: more is refused before memory is set aside for it.
const MOST_PIXELS: u64 = 64 << 20;

/// Bytes that an image of that side takes.
#[must_use]
pub fn plane_bytes(side: u32) -> usize {
    3 * side as usize * side as usize
}

/// Decodes a PNG or JPEG. The message says what is wrong with it.
pub(super) fn decode(encoded: &[u8], side: u32, planes: &mut [u8]) -> Result<(), String> {
    let format =
        image::guess_format(encoded).ok().filter(|format| matches!(format, ImageFormat::Png | ImageFormat::Jpeg));
    let Some(format) = format else { return Err("is neither PNG nor JPEG: convert it".to_owned()) };
    let unsound = |error: image::ImageError| format!("cannot be decoded ({error}): replace it");
    let mut reader = ImageReader::with_format(Cursor::new(encoded), format);
    let mut limits = Limits::no_limits();
    // Up to four channels of 16 bits.
    limits.max_alloc = Some(MOST_PIXELS * 8);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(unsound)?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MOST_PIXELS {
        return Err(format!("has {width} × {height} pixels; at most 64 million are read"));
    }
    let image = DynamicImage::from_decoder(decoder).map_err(unsound)?;
    resize_into(image.into_rgb8(), side, planes);
    Ok(())
}

/// Brings raw pixels, given one plane per channel (three, or one grey one), to `side`×`side`.
pub(super) fn from_planes(raw: &[u8], [width, height]: [u32; 2], side: u32, planes: &mut [u8]) {
    let area = width as usize * height as usize;
    let channels = raw.len() / area;
    if width == side && height == side {
        assert_eq!(planes.len(), plane_bytes(side), "a buffer for side {side}");
        for channel in 0..3 {
            let from = channel.min(channels - 1) * area;
            planes[channel * area..][..area].copy_from_slice(&raw[from..from + area]);
        }
        return;
    }
    let pixel = |x: u32, y: u32| {
        let at = y as usize * width as usize + x as usize;
        image::Rgb(std::array::from_fn(|channel| raw[channel.min(channels - 1) * area + at]))
    };
    resize_into(RgbImage::from_fn(width, height, pixel), side, planes);
}

/// Bilinear, widened when it shrinks so that nothing is skipped; an exact copy at the right size.
fn resize_into(image: RgbImage, side: u32, planes: &mut [u8]) {
    assert_eq!(planes.len(), plane_bytes(side), "a buffer for side {side}");
    let image = match image.dimensions() {
        (width, height) if width == side && height == side => image,
        _ => image::imageops::resize(&image, side, side, FilterType::Triangle),
    };
    let area = side as usize * side as usize;
    let (red, rest) = planes.split_at_mut(area);
    let (green, blue) = rest.split_at_mut(area);
    for (((pixel, red), green), blue) in image.as_raw().chunks_exact(3).zip(red).zip(green).zip(blue) {
        (*red, *green, *blue) = (pixel[0], pixel[1], pixel[2]);
    }
}
