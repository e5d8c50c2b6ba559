//! Converts encoded or raw images to `side`×`side` pixels in planes: all red, all green, all blue.

use std::borrow::Cow;
use std::cell::RefCell;
use std::io::Cursor;

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::frame::{Frame, Rectangle};
use super::jpeg;

/// Most pixels of an encoded image. Larger images are refused before memory is allocated.
const MOST_PIXELS: u64 = 64 << 20;

/// Bytes of an image with this side.
#[must_use]
pub fn plane_bytes(side: u32) -> usize {
    3 * side as usize * side as usize
}

/// Decodes a PNG or JPEG. The error is a predicate that continues "the image".
pub(super) fn decode(encoded: &[u8], frame: &Frame<'_>, side: u32, planes: &mut [u8]) -> Result<(), String> {
    let format =
        image::guess_format(encoded).ok().filter(|format| matches!(format, ImageFormat::Png | ImageFormat::Jpeg));
    let Some(format) = format else { return Err("is neither PNG nor JPEG: convert it".to_owned()) };
    let unsound = |error: image::ImageError| format!("cannot be decoded ({error}): replace it");
    let open = |encoded| {
        let mut reader = ImageReader::with_format(Cursor::new(encoded), format);
        let mut limits = Limits::no_limits();
        // Four channels of 16 bits.
        limits.max_alloc = Some(MOST_PIXELS * 8);
        reader.limits(limits);
        reader.into_decoder().map_err(unsound)
    };
    let mut decoder = open(Cow::Borrowed(encoded))?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MOST_PIXELS {
        return Err(format!("has {width} × {height} pixels; at most 64 million are supported"));
    }
    let part = frame.of([width, height], side);
    // Resampling also reads rows below the part, by up to the height of one pixel of the result.
    let rows = (part.top + part.height + part.height / f64::from(side)).ceil() as u32;
    if let Some(upper) = jpeg::upper_rows(encoded, height, rows) {
        let upper = open(Cow::Owned(upper))?;
        if upper.dimensions().0 == width && upper.dimensions().1 >= rows {
            decoder = upper;
        }
    }
    let (width, height) = decoder.dimensions();
    let image = DynamicImage::from_decoder(decoder).map_err(unsound)?;
    resize_into(image.into_rgb8().as_raw(), [width, height], part, side, planes);
    Ok(())
}

/// Resamples a part of raw pixels in planes (three, or one for grey) to `side`×`side`.
pub(super) fn from_planes(raw: &[u8], size: [u32; 2], frame: &Frame<'_>, side: u32, planes: &mut [u8]) {
    let area = size[0] as usize * size[1] as usize;
    let channels = raw.len() / area;
    if size == [side; 2] && matches!(frame, Frame::Whole) {
        assert_eq!(planes.len(), plane_bytes(side), "a buffer for side {side}");
        for channel in 0..3 {
            let from = channel.min(channels - 1) * area;
            planes[channel * area..][..area].copy_from_slice(&raw[from..from + area]);
        }
        return;
    }
    let pixel = |at: usize| (0..3).map(move |channel: usize| raw[channel.min(channels - 1) * area + at]);
    let interleaved: Vec<u8> = (0..area).flat_map(pixel).collect();
    resize_into(&interleaved, size, frame.of(size, side), side, planes);
}

thread_local! {
    /// Reuses its buffers from image to image.
    static RESIZER: RefCell<Resizer> = RefCell::new(Resizer::new());
}

/// Resamples a part of RGB pixels as Pillow's `resize(…, Image.BILINEAR, box=…)` does: bilinear, widened when it
/// shrinks so that nothing is skipped. An exact copy where the size is right.
fn resize_into(rgb: &[u8], [width, height]: [u32; 2], part: Rectangle, side: u32, planes: &mut [u8]) {
    assert_eq!(planes.len(), plane_bytes(side), "a buffer for side {side}");
    let Rectangle { left, top, width: part_width, height: part_height, mirrored } = part;
    let source = TypedImageRef::<U8x3>::from_buffer(width, height, rgb).expect("three bytes a pixel");
    let mut square = TypedImage::<U8x3>::new(side, side);
    let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::Bilinear)).crop(
        left,
        top,
        part_width,
        part_height,
    );
    RESIZER.with_borrow_mut(|resizer| {
        // With the type known here, the code for all other types of pixels is not compiled: half of this package.
        resizer.resize_typed(&source, &mut square, &options).expect("the part lies within the image");
    });
    let side = side as usize;
    let (red, rest) = planes.split_at_mut(side * side);
    let (green, blue) = rest.split_at_mut(side * side);
    for (row, pixels) in square.pixels().chunks_exact(side).enumerate() {
        for (column, pixel) in pixels.iter().enumerate() {
            let at = row * side + if mirrored { side - 1 - column } else { column };
            [red[at], green[at], blue[at]] = pixel.0;
        }
    }
}
