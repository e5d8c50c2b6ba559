//! Normalises image bytes to the inputs that a network expects.

use distillery_core::dataset::MeanStd;
use tch::{Device, Kind, Tensor};

use super::augment::{PADDING, crop_flip};
use crate::device::crop_kernel::CropKernel;

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
    /// Crops and normalises bytes, in place of libtorch's operators.
    kernel: Option<CropKernel>,
}

impl Normalisation {
    /// `device` is that of the images.
    #[must_use]
    pub fn new(mean: [f64; 3], std: [f64; 3], device: Device) -> Self {
        let channels = |values: [f32; 3]| Tensor::from_slice(&values).view([1, 3, 1, 1]).to_device(device);
        let [scale, offset] = MeanStd { mean, std }.scale_and_offset().map(channels);
        let blank = channels(mean.map(|mean| (255.0 * mean) as f32));
        Self { mean, std, scale, offset, blank, kernel: None }
    }

    /// From now on one kernel crops and normalises bytes. It gives the same numbers.
    ///
    /// # Errors
    /// It cannot be made for the device.
    pub fn use_kernel(&mut self, device: Device) -> Result<(), String> {
        self.kernel = Some(CropKernel::new(device)?);
        Ok(())
    }

    /// Whether a kernel crops and normalises bytes.
    #[must_use]
    pub fn has_kernel(&self) -> bool {
        self.kernel.is_some()
    }

    /// Converts the crops of images [B, 3, S, S]: see [`crop_flip`]. Without crops it converts whole images.
    pub fn apply_to_crops(&self, images: &Tensor, crops: Option<&Tensor>) -> Tensor {
        match &self.kernel {
            Some(kernel) if images.kind() == Kind::Uint8 => {
                kernel.apply(images, crops, PADDING as i32, &self.scale, &self.offset)
            }
            _ => crops.map_or_else(|| self.apply(images), |crops| self.apply(&crop_flip(images, crops))),
        }
    }

    /// Converts bytes [B, 3, S, S], or numbers in their range, to float32.
    pub fn apply(&self, images: &Tensor) -> Tensor {
        let mut scaled = images * &self.scale;
        scaled += &self.offset;
        scaled
    }
}
