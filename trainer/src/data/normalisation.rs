//! Normalises image bytes to the inputs that a network expects.

use distillery_core::dataset::MeanStd;
use tch::{Device, Tensor};

/// (pixel / 255 − mean) / std, per channel.
#[derive(Debug)]
pub struct Normalisation {
    /// Per-channel mean of pixel values in [0, 1].
    pub mean: [f64; 3],
    /// Per-channel standard deviation.
    pub std: [f64; 3],
    scale: Tensor,
    offset: Tensor,
    /// The mean colour, which becomes 0: bytes as float32, [1, 3, 1, 1].
    pub blank: Tensor,
}

impl Normalisation {
    /// `device` is that of the images.
    #[must_use]
    pub fn new(mean: [f64; 3], std: [f64; 3], device: Device) -> Self {
        let channels = |values: [f32; 3]| Tensor::from_slice(&values).view([1, 3, 1, 1]).to_device(device);
        let [scale, offset] = MeanStd { mean, std }.scale_and_offset().map(channels);
        let blank = channels(mean.map(|mean| (255.0 * mean) as f32));
        Self { mean, std, scale, offset, blank }
    }

    /// Converts bytes [B, 3, S, S], or numbers in their range, to float32.
    pub fn apply(&self, images: &Tensor) -> Tensor {
        let mut scaled = images * &self.scale;
        scaled += &self.offset;
        scaled
    }
}
