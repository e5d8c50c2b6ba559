//! The part of an image that becomes the network's square input.

/// A part of an image, in the image's pixels. It is resampled to a square, whatever its aspect ratio.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rectangle {
    /// Distance from the left edge.
    pub left: f64,
    /// Distance from the top edge.
    pub top: f64,
    /// Greater than 0.
    pub width: f64,
    /// Greater than 0.
    pub height: f64,
    /// Whether the result is flipped horizontally.
    pub mirrored: bool,
}

/// How the part is chosen.
#[derive(Clone, Copy)]
pub enum Frame<'a> {
    /// The whole image. Its aspect ratio is not kept.
    Whole,
    /// As usual for ImageNet: the shorter side is resized to `resize` pixels, and the centre is cropped.
    Centre {
        /// At least the side of the result.
        resize: u32,
    },
    /// A function of the image's width and height. The part is clipped to the image.
    Part(&'a dyn Fn([u32; 2]) -> Rectangle),
}

impl std::fmt::Debug for Frame<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Whole => "Whole",
            Self::Centre { .. } => "Centre",
            Self::Part(_) => "Part",
        })
    }
}

impl Frame<'_> {
    /// The part of an image of this size (width, height) that becomes `side`×`side` pixels. It lies within the image.
    pub(super) fn of(&self, size: [u32; 2], side: u32) -> Rectangle {
        let [width, height] = size.map(f64::from);
        match self {
            Self::Whole => Rectangle { left: 0.0, top: 0.0, width, height, mirrored: false },
            Self::Centre { resize } => {
                // In whole pixels of the resized image, as in torchvision's Resize and CenterCrop, then converted to
                // pixels of the original.
                let side = f64::from(side);
                let (shorter, resized) = (width.min(height), f64::from(*resize).max(side));
                let part = |length: f64| {
                    let new = (resized * length / shorter).floor();
                    (((new - side) / 2.0).round_ties_even() * length / new, side * length / new)
                };
                let ((left, width), (top, height)) = (part(width), part(height));
                Rectangle { left, top, width, height, mirrored: false }
            }
            Self::Part(choose) => {
                let Rectangle { left, top, width: wanted_width, height: wanted_height, mirrored } = choose(size);
                // At least one pixel, because an empty part cannot be resampled.
                let [left, top] = [(left, width), (top, height)].map(|(from, end)| from.clamp(0.0, end - 1.0));
                let width = wanted_width.clamp(1.0, width - left);
                let height = wanted_height.clamp(1.0, height - top);
                Rectangle { left, top, width, height, mirrored }
            }
        }
    }
}
