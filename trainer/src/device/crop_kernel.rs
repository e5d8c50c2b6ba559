//! The kernel that crops and normalises a batch, `cuda/kernels/crop_normalise.cuh`: one launch, where libtorch needs
//! more than ten.
#![allow(unsafe_code, reason = "calls functions of C")]

use std::ffi::{CStr, c_char, c_int};
use std::ptr;

use tch::{Device, Tensor};
use torch_sys::C_tensor;

use super::ffi::{optional, result};
use super::gpu_kernel::GpuKernel;

/// The kernel's source.
pub const SOURCE: &CStr =
    match CStr::from_bytes_with_nul(concat!(include_str!("../../cuda/kernels/crop_normalise.cuh"), "\0").as_bytes()) {
        Ok(source) => source,
        Err(_) => panic!("the source has no NUL"),
    };

unsafe extern "C" {
    fn distillery_crop_normalise(
        result: *mut *mut C_tensor,
        images: *const C_tensor,
        crops: *const C_tensor,
        scale: *const C_tensor,
        offset: *const C_tensor,
        padding: c_int,
        gpu: *const GpuKernel,
    ) -> *mut c_char;
}

/// The kernel on a device.
#[derive(Debug)]
pub(crate) struct CropKernel {
    /// `None` on the CPU.
    gpu: Option<GpuKernel>,
}

impl CropKernel {
    /// On a GPU it is compiled first. The GPU is the current one of this thread.
    ///
    /// # Errors
    /// It cannot be compiled or loaded.
    pub(crate) fn new(device: Device) -> Result<Self, String> {
        Ok(Self { gpu: GpuKernel::on(device, SOURCE, c"crop_normalise", &[])? })
    }

    /// Crops `images`, bytes [B, 3, S, S], after this many black pixels were added on each side, as
    /// [`crop_flip`](crate::data::crop_flip) does, and converts them to x · scale + offset, in float32 and channels
    /// last. Scale and offset are float32 of three channels. Without crops it takes whole images.
    pub(crate) fn apply(
        &self,
        images: &Tensor,
        crops: Option<&Tensor>,
        padding: i32,
        scale: &Tensor,
        offset: &Tensor,
    ) -> Tensor {
        let gpu = self.gpu.as_ref().map_or(ptr::null(), ptr::from_ref);
        let (images, crops, scale, offset) = (images.as_ptr(), optional(crops), scale.as_ptr(), offset.as_ptr());
        // SAFETY: every pointer is of a tensor or value that lives until the call returns, or null where that is
        // allowed.
        result(|made| unsafe { distillery_crop_normalise(made, images, crops, scale, offset, padding, gpu) })
    }
}
