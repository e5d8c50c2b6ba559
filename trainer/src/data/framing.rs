//! Which part of each image is used.

use serde::Serialize;

use distillery_core::spec::Policy;

/// Which part of each image is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Framing {
    Whole,
    /// A central crop, as in ImageNet's evaluation.
    Centre {
        /// Pixels to which the shorter side is resized first.
        resize: u32,
    },
    /// A random part in every epoch, mirrored half of the time: [`resized_crop`](super::resized_crop).
    ResizedCrop,
    /// A part, to which other operations are applied in every epoch.
    Varied {
        part: VariedPart,
        policy: Policy,
    },
}

impl Framing {
    /// Whether images differ from epoch to epoch because of how they are decoded.
    pub(super) fn is_varied(self) -> bool {
        matches!(self, Self::ResizedCrop | Self::Varied { .. })
    }
}

/// To which part of an image operations are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VariedPart {
    Whole,
    /// A crop of the padded image, mirrored half of the time: that of [`Crops::of_view`](super::Crops::of_view).
    CropFlip,
    /// A random part: [`resized_crop`](super::resized_crop).
    ResizedCrop,
}
