//! Which part of an image becomes the network's square input.

/// A part of an image, in its pixels; whatever its shape, it is resampled to a square.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rectangle {
    /// From the left edge.
    pub left: f64,
    /// From the top edge.
    pub top: f64,
    /// More than 0.
    pub width: f64,
    /// More than 0.
    pub height: f64,
    /// Whether it is mirrored left to right afterwards.
    pub mirrored: bool,
}

/// How the part is chosen.
#[derive(Clone, Copy)]
pub enum Frame<'a> {
    /// All of it; what is not square is squeezed.
    Whole,
    /// ImageNet's evaluation: the shorter side is brought to 256 pixels for an input of 224 (8/7 of the side for other
    /// inputs), and the centre is taken.
    Centre,
    /// By width and height. What reaches beyond the image is cut off.
    Part(&'a dyn Fn([u32; 2]) -> Rectangle),
}

impl std::fmt::Debug for Frame<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Whole => "Whole",
            Self::Centre => "Centre",
            Self::Part(_) => "Part",
        })
    }
}

impl Frame<'_> {
    /// The part of an image of that size that becomes `side`×`side` pixels; it lies within the image.
    pub(super) fn of(&self, size: [u32; 2], side: u32) -> Rectangle {
        let [width, height] = size.map(f64::from);
        match self {
            Self::Whole => Rectangle { left: 0.0, top: 0.0, width, height, mirrored: false },
            Self::Centre => {
                // In whole pixels of the resized image, as torchvision's Resize and CenterCrop count them, and back to
                // those of the original.
                let side = f64::from(side);
                let (shorter, resized) = (width.min(height), (side * 256.0 / 224.0).round());
                let part = |length: f64| {
                    let new = (resized * length / shorter).floor();
                    (((new - side) / 2.0).round_ties_even() * length / new, side * length / new)
                };
                let ((left, width), (top, height)) = (part(width), part(height));
                Rectangle { left, top, width, height, mirrored: false }
            }
            Self::Part(choose) => {
                let Rectangle { left, top, width: wanted_width, height: wanted_height, mirrored } = choose(size);
                // At least a pixel: nothing can be resampled to something.
                let [left, top] = [(left, width), (top, height)].map(|(from, end)| from.clamp(0.0, end - 1.0));
                let width = wanted_width.clamp(1.0, width - left);
                let height = wanted_height.clamp(1.0, height - top);
                Rectangle { left, top, width, height, mirrored }
            }
        }
    }
}
