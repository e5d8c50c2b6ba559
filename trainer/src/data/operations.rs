//! torchvision's operations of RandAugment and TrivialAugment on 8-bit images, with the arithmetic of Pillow 13, which
//! torchvision uses for images that are not tensors.
//!
//! An image is three planes of `side`×`side` bytes: red, green, blue.

use distillery_core::spec::Interpolation;

/// One operation with its parameter. Those that move pixels fill with black.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Operation {
    Identity,
    /// Each row is moved by this part of its distance from the top.
    ShearX(f64),
    /// Each column is moved by this part of its distance from the left.
    ShearY(f64),
    /// Moves by whole pixels to the right.
    TranslateX(i64),
    /// Moves by whole pixels down.
    TranslateY(i64),
    /// Turns about the centre by degrees, counter-clockwise.
    Rotate(f64),
    /// Blends with black: 1 changes nothing.
    Brightness(f64),
    /// Blends with the grey image.
    Colour(f64),
    /// Blends with the mean grey.
    Contrast(f64),
    /// Blends with the smoothed image.
    Sharpness(f64),
    /// Keeps this number of bits.
    Posterize(u32),
    /// Inverts values from this one on.
    Solarize(f64),
    /// Stretches each channel to 0 to 255.
    AutoContrast,
    /// Makes each channel's histogram flat.
    Equalize,
}

impl Operation {
    /// Applies it to `image` in place. `spare` is of the same length, and is overwritten by some operations. Those that
    /// move pixels interpolate.
    ///
    /// # Panics
    /// The lengths are not 3·`side`².
    pub fn apply(self, image: &mut [u8], spare: &mut [u8], side: usize, interpolation: Interpolation) {
        assert!(image.len() == 3 * side * side && spare.len() == image.len());
        if let Some(map) = self.map(side) {
            match interpolation {
                Interpolation::Nearest => warp(image, spare, side, map),
                Interpolation::Bilinear => warp_bilinearly(image, spare, side, map),
            }
            return;
        }
        match self {
            Self::Identity
            | Self::ShearX(_)
            | Self::ShearY(_)
            | Self::TranslateX(_)
            | Self::TranslateY(_)
            | Self::Rotate(_) => {}
            Self::Brightness(factor) => blend(image, factor, |_, _| 0),
            Self::Colour(factor) => {
                let grey = greys(image, side);
                blend(image, factor, |index, _| grey[index % grey.len()]);
            }
            Self::Contrast(factor) => {
                let grey = greys(image, side);
                let sum: u64 = grey.iter().map(|&grey| u64::from(grey)).sum();
                let mean = (sum as f64 / grey.len() as f64 + 0.5) as u8;
                blend(image, factor, |_, _| mean);
            }
            Self::Sharpness(factor) => {
                smooth(image, spare, side);
                blend(image, factor, |index, _| spare[index]);
            }
            Self::Posterize(bits) => {
                let mask = !(0xff_u32 >> bits.min(8)) as u8;
                image.iter_mut().for_each(|value| *value &= mask);
            }
            Self::Solarize(threshold) => {
                image
                    .iter_mut()
                    .filter(|value| f64::from(**value) >= threshold)
                    .for_each(|value| *value = 255 - *value);
            }
            Self::AutoContrast => planes(image, side).for_each(|plane| look_up(plane, stretched)),
            Self::Equalize => planes(image, side).for_each(|plane| look_up(plane, equalized)),
        }
    }

    /// From where an operation that moves pixels takes each of them.
    fn map(self, side: usize) -> Option<AffineMap> {
        // torchvision's shears are angles.
        let angle = |part: f64| part.atan().to_degrees().to_radians();
        Some(match self {
            Self::ShearX(part) => AffineMap { xy: angle(part).tan(), ..AffineMap::IDENTITY },
            Self::ShearY(part) => AffineMap { yx: angle(part).sin() / angle(part).cos(), ..AffineMap::IDENTITY },
            Self::TranslateX(by) => AffineMap { x0: -(by as f64), ..AffineMap::IDENTITY },
            Self::TranslateY(by) => AffineMap { y0: -(by as f64), ..AffineMap::IDENTITY },
            Self::Rotate(degrees) => AffineMap::rotation(degrees, side),
            _ => return None,
        })
    }
}

fn planes(image: &mut [u8], side: usize) -> impl Iterator<Item = &mut [u8]> {
    image.chunks_exact_mut(side * side)
}

/// Maps the centre of a pixel to the point that its value is taken from: (`xx`·x + `xy`·y + `x0`,
/// `yx`·x + `yy`·y + `y0`).
#[derive(Debug, Clone, Copy)]
struct AffineMap {
    xx: f64,
    xy: f64,
    x0: f64,
    yx: f64,
    yy: f64,
    y0: f64,
}

impl AffineMap {
    const IDENTITY: Self = Self { xx: 1.0, xy: 0.0, x0: 0.0, yx: 0.0, yy: 1.0, y0: 0.0 };

    /// The inverse of a rotation about the centre, as Pillow's `Image.rotate` has it.
    fn rotation(degrees: f64, side: usize) -> Self {
        // Rounded to 15 digits, so that right angles are exact.
        let round = |number: f64| (number * 1e15).round() / 1e15;
        let angle = -degrees.rem_euclid(360.0).to_radians();
        let (sine, cosine) = (round(angle.sin()), round(angle.cos()));
        let centre = side as f64 / 2.0;
        let back = |one: f64, other: f64| one * -centre + other * -centre + centre;
        Self { xx: cosine, xy: sine, x0: back(cosine, sine), yx: -sine, yy: cosine, y0: back(-sine, cosine) }
    }
}

/// Takes each pixel from where the map says, in Pillow's fixed-point numbers with 16 fractional bits.
fn warp(image: &mut [u8], spare: &mut [u8], side: usize, map: AffineMap) {
    let AffineMap { xx, xy, x0, yx, yy, y0 } = map;
    let fixed = |number: f64| (number * 65_536.0 + 0.5).floor() as i64;
    spare.copy_from_slice(image);
    let [mut row_x, mut row_y] = [fixed(x0 + xx * 0.5 + xy * 0.5), fixed(y0 + yx * 0.5 + yy * 0.5)];
    let [xx, xy, yx, yy] = [xx, xy, yx, yy].map(fixed);
    let area = side * side;
    for row in 0..side {
        let (mut x, mut y) = (row_x, row_y);
        for column in 0..side {
            let source = [x >> 16, y >> 16].map(|place| usize::try_from(place).ok().filter(|&place| place < side));
            let to = row * side + column;
            for plane in 0..3 {
                image[plane * area + to] = match source {
                    [Some(x), Some(y)] => spare[plane * area + y * side + x],
                    _ => 0,
                };
            }
            (x, y) = (x + xx, y + yx);
        }
        (row_x, row_y) = (row_x + xy, row_y + yy);
    }
}

/// Takes each pixel from the four around the point that the map says, weighted by their distances. At the border, the
/// outermost pixels stand in for those beyond.
fn warp_bilinearly(image: &mut [u8], spare: &mut [u8], side: usize, map: AffineMap) {
    let AffineMap { xx, xy, x0, yx, yy, y0 } = map;
    spare.copy_from_slice(image);
    let (area, edge) = (side * side, side as f64);
    let last = side as i64 - 1;
    let clipped = |place: i64| place.clamp(0, last) as usize;
    let between = |one: f64, other: f64, part: f64| one + (other - one) * part;
    for row in 0..side {
        for column in 0..side {
            let (at_x, at_y) = (column as f64 + 0.5, row as f64 + 0.5);
            let (x, y) = (xx * at_x + xy * at_y + x0, yx * at_x + yy * at_y + y0);
            let is_inside = (0.0..edge).contains(&x) && (0.0..edge).contains(&y);
            let (x, y) = (x - 0.5, y - 0.5);
            let (left, top) = (x.floor(), y.floor());
            let columns = [left as i64, left as i64 + 1].map(clipped);
            let rows = [top as i64, top as i64 + 1].map(clipped);
            for plane in 0..3 {
                let [upper, lower] = rows.map(|row| {
                    let [one, other] = columns.map(|column| f64::from(spare[plane * area + row * side + column]));
                    between(one, other, x - left)
                });
                // Drops the fraction.
                let mixed = between(upper, lower, y - top) as u8;
                image[plane * area + row * side + column] = if is_inside { mixed } else { 0 };
            }
        }
    }
}

/// Pillow's `Image.blend` of what `other` gives with the image, in which the image has the weight `factor`.
fn blend(image: &mut [u8], factor: f64, other: impl Fn(usize, u8) -> u8) {
    let factor = factor as f32;
    if factor == 1.0 {
        return;
    }
    for (index, value) in image.iter_mut().enumerate() {
        let other = other(index, *value);
        let mixed = f32::from(other) + factor * f32::from(i16::from(*value) - i16::from(other));
        // Drops the fraction, and saturates.
        *value = mixed as u8;
    }
}

/// The luminance of each pixel by ITU-R 601-2, as Pillow rounds it.
fn greys(image: &[u8], side: usize) -> Vec<u8> {
    let (red, rest) = image.split_at(side * side);
    let (green, blue) = rest.split_at(side * side);
    let pixels = red.iter().zip(green).zip(blue);
    pixels
        .map(|((&red, &green), &blue)| {
            let [red, green, blue] = [red, green, blue].map(u32::from);
            ((red * 19_595 + green * 38_470 + blue * 7_471 + 0x8000) >> 16) as u8
        })
        .collect()
}

/// Puts the image into `smoothed` as Pillow's filter `SMOOTH` makes it: the mean over 3×3 pixels in which the middle
/// counts five times. Pixels at the border stay.
fn smooth(image: &[u8], smoothed: &mut [u8], side: usize) {
    smoothed.copy_from_slice(image);
    if side < 3 {
        return;
    }
    for (plane, out) in image.chunks_exact(side * side).zip(smoothed.chunks_exact_mut(side * side)) {
        for y in 1..side - 1 {
            for x in 1..side - 1 {
                let at = y * side + x;
                let row =
                    |start: usize| plane[start - 1..=start + 1].iter().map(|&value| u32::from(value)).sum::<u32>();
                let sum = row(at - side) + row(at) + row(at + side) + 4 * u32::from(plane[at]);
                // The sum over thirteen, rounded. It is never halfway.
                out[at] = ((2 * sum + 13) / 26) as u8;
            }
        }
    }
}

/// Replaces each value by its entry in the table that `make` computes from the histogram.
fn look_up(plane: &mut [u8], make: impl Fn(&[u32; 256]) -> Option<[u8; 256]>) {
    let mut histogram = [0_u32; 256];
    plane.iter().for_each(|&value| histogram[usize::from(value)] += 1);
    if let Some(table) = make(&histogram) {
        plane.iter_mut().for_each(|value| *value = table[usize::from(*value)]);
    }
}

/// Pillow's `ImageOps.autocontrast`; `None` if there are not two values.
fn stretched(histogram: &[u32; 256]) -> Option<[u8; 256]> {
    let lowest = histogram.iter().position(|&count| count > 0)?;
    let highest = histogram.iter().rposition(|&count| count > 0)?;
    if highest <= lowest {
        return None;
    }
    let scale = 255.0 / (highest - lowest) as f64;
    let offset = -(lowest as f64) * scale;
    Some(std::array::from_fn(|value| (value as f64 * scale + offset) as u8))
}

/// Pillow's `ImageOps.equalize`; `None` where it changes nothing.
fn equalized(histogram: &[u32; 256]) -> Option<[u8; 256]> {
    let last = *histogram.iter().rfind(|&&count| count > 0)?;
    let step = (histogram.iter().sum::<u32>() - last) / 255;
    if step == 0 {
        return None;
    }
    let mut sum = step / 2;
    Some(std::array::from_fn(|value| {
        let level = (sum / step).min(255) as u8;
        sum += histogram[value];
        level
    }))
}
