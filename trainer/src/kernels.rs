//! The operators of `cpp/`, which libtorch does not have or its bindings do not show. For the CPU.
#![allow(unsafe_code, reason = "they are functions of C")]

use std::ffi::{CStr, c_char};
use std::ptr;

use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

use distillery::architecture::Convolution;

unsafe extern "C" {
    fn distillery_norm(
        result: *mut *mut C_tensor,
        x: *const C_tensor,
        added: *const C_tensor,
        weight: *const C_tensor,
        bias: *const C_tensor,
        running_mean: *const C_tensor,
        running_var: *const C_tensor,
        relu: bool,
        momentum: f64,
        epsilon: f64,
    ) -> *mut c_char;
    fn distillery_convolution(
        result: *mut *mut C_tensor,
        x: *const C_tensor,
        weight: *const C_tensor,
        bias: *const C_tensor,
        added: *const C_tensor,
        stride: *const i64,
        padding: *const i64,
        groups: i64,
        relu: bool,
    ) -> *mut c_char;
    fn distillery_small_convolution(
        result: *mut *mut C_tensor,
        x: *const C_tensor,
        weight: *const C_tensor,
        bias: *const C_tensor,
    ) -> *mut c_char;
    fn distillery_pack(
        result: *mut *mut C_tensor,
        weight: *const C_tensor,
        stride: *const i64,
        padding: *const i64,
        groups: i64,
        input: *const i64,
    ) -> *mut c_char;
}

/// Batch norm in training mode of `x` [B, C, H, W], with PyTorch's momentum and epsilon, plus `added` where there is
/// one, and a ReLU where `relu`. `x` is float32 or bfloat16; factor, offset and running statistics `[C]` are float32,
/// and the latter move.
pub(crate) fn norm(x: &Tensor, added: Option<&Tensor>, statistics: [&Tensor; 4], relu: bool) -> Tensor {
    let [weight, bias, mean, variance] = statistics.map(Tensor::as_ptr);
    // SAFETY: every pointer is of a tensor that lives until the call returns, or null where that is allowed; the
    // function keeps tensors by counting references.
    result(|made| unsafe {
        distillery_norm(made, x.as_ptr(), optional(added), weight, bias, mean, variance, relu, 0.1, 1e-5)
    })
}

/// A convolution with a bias, the sum with `added` (whose memory the result takes) and a ReLU where `relu`, in one
/// pass; for inference. `weight` may come from [`pack`].
pub(crate) fn convolution(
    x: &Tensor,
    [weight, bias]: [&Tensor; 2],
    geometry: Convolution,
    added: Option<&Tensor>,
    relu: bool,
) -> Tensor {
    let [stride, padding] = [geometry.stride, geometry.padding].map(|pair| pair.map(i64::from));
    let (weight, bias, groups) = (weight.as_ptr(), bias.as_ptr(), i64::from(geometry.groups));
    let (stride, padding) = (stride.as_ptr(), padding.as_ptr());
    // SAFETY: as above; stride and padding are two numbers each.
    result(|made| unsafe {
        distillery_convolution(made, x.as_ptr(), weight, bias, optional(added), stride, padding, groups, relu)
    })
}

/// `weight` in oneDNN's order for an input of that size [B, C, H, W].
pub(crate) fn pack(weight: &Tensor, geometry: Convolution, input: [i64; 4]) -> Tensor {
    let [stride, padding] = [geometry.stride, geometry.padding].map(|pair| pair.map(i64::from));
    let (stride, padding, groups) = (stride.as_ptr(), padding.as_ptr(), i64::from(geometry.groups));
    // SAFETY: as above; the input's size is four numbers.
    result(|made| unsafe { distillery_pack(made, weight.as_ptr(), stride, padding, groups, input.as_ptr()) })
}

/// Whether [`small_convolution`] computes it, and sooner than oneDNN: few pixels (4×4; at 8×8 oneDNN is faster)
/// and many channels.
pub(crate) fn is_small_convolution(x: &Tensor, geometry: Convolution) -> bool {
    let &[_, channels, height, width] = x.size().as_slice() else { return false };
    x.kind() == Kind::BFloat16
        && x.device() == Device::Cpu
        && height * width <= 16
        && channels >= 128
        && geometry == Convolution { kernel: [3; 2], stride: [1; 2], padding: [1; 2], groups: 1, bias: geometry.bias }
}

/// A convolution of bfloat16 of which [`is_small_convolution`] is true, as a product of matrices.
pub(crate) fn small_convolution(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    // SAFETY: as above.
    result(|made| unsafe { distillery_small_convolution(made, x.as_ptr(), weight.as_ptr(), optional(bias)) })
}

fn optional(tensor: Option<&Tensor>) -> *const C_tensor {
    tensor.map_or(ptr::null(), Tensor::as_ptr)
}

/// The tensor that `call` makes. It panics with libtorch's message, as the bindings' own operators do.
fn result(call: impl FnOnce(*mut *mut C_tensor) -> *mut c_char) -> Tensor {
    let mut made = ptr::null_mut();
    let failed = call(&raw mut made);
    if failed.is_null() {
        // SAFETY: the call succeeded, so that this is a new tensor, which nobody else owns.
        return unsafe { Tensor::from_ptr(made) };
    }
    // SAFETY: a message is NUL-terminated and was allocated by strdup.
    let message = unsafe {
        let message = CStr::from_ptr(failed).to_string_lossy().into_owned();
        libc::free(failed.cast());
        message
    };
    panic!("{message}");
}
