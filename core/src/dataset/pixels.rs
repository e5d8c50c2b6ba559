//! Converts encoded or raw images to `side`×`side` pixels in planes: all red, all green, all blue.

use std::cell::RefCell;
use std::error::Error;
use std::io::{Cursor, ErrorKind};
use std::ops::RangeInclusive;

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use image::metadata::Orientation as ExifOrientation;
use image::{DynamicImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits};

use super::frame::{Frame, Rectangle};
use super::{jpeg, memory, source};

/// Most pixels of an encoded image. Larger images are refused before memory is allocated.
const MOST_PIXELS: u64 = 64 << 20;

/// Per-channel mean and standard deviation of pixel values in [0, 1].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MeanStd {
    pub mean: [f64; 3],
    pub std: [f64; 3],
}

impl MeanStd {
    /// What a mean may be. Those of values up to 255 are not: every image would become the same.
    pub const MEANS: RangeInclusive<f64> = -10.0..=10.0;
    /// What a standard deviation may be.
    pub const DEVIATIONS: RangeInclusive<f64> = 1e-6..=10.0;

    /// `None` unless both are given.
    #[must_use]
    pub fn of_both(mean: Option<[f64; 3]>, std: Option<[f64; 3]>) -> Option<Self> {
        Some(Self { mean: mean?, std: std? })
    }

    /// Per channel, what a pixel in 0..=255 is multiplied by, and what is then added: (pixel / 255 − mean) / std in
    /// single precision.
    #[must_use]
    pub fn scale_and_offset(self) -> [[f32; 3]; 2] {
        let Self { mean, std } = self;
        let scale = std::array::from_fn(|c| (1.0 / (255.0 * std[c])) as f32);
        [scale, std::array::from_fn(|c| (-mean[c] / std[c]) as f32)]
    }
}

/// Bytes of an image with this side.
#[must_use]
pub fn plane_bytes(side: u32) -> usize {
    3 * side as usize * side as usize
}

/// What becomes of an image that its EXIF data says to turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Orientation {
    AsStored,
    Upright,
}

const FORMATS: [ImageFormat; 6] =
    [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::WebP, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::Pnm];

/// Decodes an image. Returns whether it was turned. The error is a predicate that continues "the image".
pub(super) fn decode(
    encoded: &[u8],
    orientation: Orientation,
    frame: &Frame<'_>,
    side: u32,
    planes: &mut [u8],
) -> Result<bool, String> {
    let format = image::guess_format(encoded).ok().filter(|format| FORMATS.contains(format));
    let Some(format) = format else {
        let is_pointer = source::is_lfs_pointer(encoded);
        let unknown = "is not a PNG, JPEG, WebP, BMP, TIFF or PPM image: convert it";
        return Err(if is_pointer { source::IS_LFS_POINTER } else { unknown }.to_owned());
    };
    let decoder = open(encoded, format);
    let _memory = decoder.as_ref().ok().map(|decoder| {
        let (width, height) = decoder.dimensions();
        // As stored, and as RGB or turned.
        memory::take(decoder.total_bytes() + 3 * u64::from(width) * u64::from(height))
    });
    if format == ImageFormat::Jpeg && !jpeg::has_end(encoded) && !is_complete(encoded) {
        return Err("is damaged: it ends too early. Replace it".to_owned());
    }
    let mut decoder = decoder?;
    let turn = match orientation {
        Orientation::AsStored => ExifOrientation::NoTransforms,
        // Without valid EXIF data there is nothing to do.
        Orientation::Upright => decoder.orientation().unwrap_or(ExifOrientation::NoTransforms),
    };
    if turn != ExifOrientation::NoTransforms {
        let mut image = DynamicImage::from_decoder(decoder).map_err(unsound(format))?;
        image.apply_orientation(turn);
        let image = image.into_rgb8();
        let size = [image.width(), image.height()];
        resize_into(image.as_raw(), size, frame.of(size, side), side, planes);
        return Ok(true);
    }
    let (width, height) = decoder.dimensions();
    let part = frame.of([width, height], side);
    // Resampling also reads rows below the part, by up to the height of one pixel of the result.
    let rows = (part.top + part.height + part.height / f64::from(side)).ceil() as u32;
    if format == ImageFormat::Jpeg
        && let Some(upper) = jpeg::upper_rows(encoded, height, rows)
    {
        let upper = open(&upper, format).and_then(|upper| {
            let is_enough = upper.dimensions().0 == width && upper.dimensions().1 >= rows;
            if is_enough { DynamicImage::from_decoder(upper).map(Some).map_err(unsound(format)) } else { Ok(None) }
        })?;
        if let Some(upper) = upper {
            let size = [upper.width(), upper.height()];
            resize_into(upper.into_rgb8().as_raw(), size, part, side, planes);
            return Ok(false);
        }
    }
    let image = DynamicImage::from_decoder(decoder).map_err(unsound(format))?;
    resize_into(image.into_rgb8().as_raw(), [width, height], part, side, planes);
    Ok(false)
}

/// A decoder of an image that is not too large.
fn open(encoded: &[u8], format: ImageFormat) -> Result<impl ImageDecoder, String> {
    let mut reader = ImageReader::with_format(Cursor::new(encoded), format);
    let mut limits = Limits::no_limits();
    // Four channels of 16 bits.
    limits.max_alloc = Some(MOST_PIXELS * 8);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(unsound(format))?;
    let (width, height) = decoder.dimensions();
    if u64::from(width) * u64::from(height) > MOST_PIXELS {
        return Err(format!("has {width} × {height} pixels; at most 64 million are supported"));
    }
    Ok(decoder)
}

/// What is wrong with an image that the decoder refuses, as a predicate. Causes that only programmers understand are
/// left out.
fn unsound(format: ImageFormat) -> impl Fn(ImageError) -> String {
    move |error| {
        let name = format!("{format:?}").to_uppercase();
        let cause = match &error {
            ImageError::IoError(cause) if cause.kind() == ErrorKind::UnexpectedEof => {
                return "is damaged: it ends too early. Replace it".to_owned();
            }
            ImageError::Limits(_) => return "takes too much memory to decode: replace it by a smaller copy".to_owned(),
            ImageError::Unsupported(_) => return format!("is a kind of {name} that is not supported: convert it"),
            ImageError::Decoding(cause) => cause.source().map(ToString::to_string),
            other => Some(other.to_string()),
        };
        let is_plain = |cause: &String| !cause.is_empty() && !cause.contains(['{', '(', '[', '`', '"', '\n']);
        match cause.filter(is_plain) {
            Some(cause) => format!("is damaged: it cannot be decoded as {name} ({cause}). Replace it"),
            None => format!("is damaged: it cannot be decoded as {name}. Replace it"),
        }
    }
}

/// Whether a JPEG without an end marker lacks nothing else: bytes behind it do not change its pixels.
fn is_complete(encoded: &[u8]) -> bool {
    let decode = |encoded: &[u8]| {
        let decoder = open(encoded, ImageFormat::Jpeg).ok()?;
        DynamicImage::from_decoder(decoder).ok()
    };
    let more: Vec<u8> = encoded.iter().copied().chain([0x5a, 0xc3, 0x96, 0x3c].repeat(64)).collect();
    decode(encoded).is_some_and(|image| decode(&more).is_some_and(|other| other == image))
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
