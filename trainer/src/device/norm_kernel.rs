//! Batch norm in training mode with the sum and the ReLU that follow it, by the kernels of
//! `cuda/kernels/batch_norm.cuh`: two launches forward and two backward, where libtorch needs one for each operation
//! and more in bfloat16.
#![allow(unsafe_code, reason = "calls functions of C")]

use std::ffi::{CStr, c_char};
use std::ptr;

use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

use super::ffi::{optional, result};
use super::gpu_kernel::GpuKernel;
use super::kernels::BatchNorm;

/// The kernels' source, which needs the macro of [`macros`].
pub const SOURCE: &CStr = match CStr::from_bytes_with_nul(
    concat!(include_str!("../../cuda/kernels/numbers.cuh"), include_str!("../../cuda/kernels/batch_norm.cuh"), "\0")
        .as_bytes(),
) {
    Ok(source) => source,
    Err(_) => panic!("the source has no NUL"),
};

/// The kernels in the order of `NormPass` of `cpp/batch_norm.cpp`.
pub const NAMES: [&CStr; 4] = [c"norm_moments", c"norm_apply", c"norm_gradient_sums", c"norm_gradient"];

/// What NVRTC defines to compile the kernels for maps in float32 or bfloat16.
#[must_use]
pub fn macros(is_float: bool) -> [&'static str; 1] {
    [if is_float { "NORM_MAPS=Float32" } else { "NORM_MAPS=Bfloat16" }]
}

unsafe extern "C" {
    fn distillery_norm_by_kernels(
        result: *mut *mut C_tensor,
        x: *const C_tensor,
        added: *const C_tensor,
        weight: *const C_tensor,
        bias: *const C_tensor,
        running_mean: *const C_tensor,
        running_variance: *const C_tensor,
        relu: bool,
        momentum: f64,
        epsilon: f64,
        gpu: *const Launches,
    ) -> *mut c_char;
}

/// `NormLaunches` of `cpp/batch_norm.cpp`.
#[derive(Debug)]
#[repr(C)]
struct Launches([GpuKernel; 4]);

/// The kernels on a device, for maps of a kind.
#[derive(Debug)]
pub(crate) struct NormKernel {
    device: Device,
    kind: Kind,
    /// `None` on the CPU.
    gpu: Option<Launches>,
}

impl NormKernel {
    /// On a GPU they are compiled first. The GPU is the current one of this thread. They are never freed, because
    /// gradients may be computed at any time.
    ///
    /// # Errors
    /// There are none for this kind, or they cannot be compiled or loaded.
    pub(crate) fn new(device: Device, kind: Kind) -> Result<&'static Self, String> {
        if !matches!(kind, Kind::Float | Kind::BFloat16) {
            return Err(format!("there is none for maps of kind {kind:?}"));
        }
        let gpu = GpuKernel::several(device, SOURCE, NAMES, &macros(kind == Kind::Float))?.map(Launches);
        Ok(Box::leak(Box::new(Self { device, kind, gpu })))
    }

    /// Whether they compute a batch norm of `x` [B, C, H, W].
    pub(crate) fn takes(&self, x: &Tensor) -> bool {
        x.kind() == self.kind && x.device() == self.device
    }

    /// As [`kernels::norm`](super::kernels::norm), for maps that they [take](Self::takes).
    pub(crate) fn apply(&'static self, x: &Tensor, added: Option<&Tensor>, of: &BatchNorm<'_>, relu: bool) -> Tensor {
        let BatchNorm { weight, bias, running_mean, running_var, momentum, epsilon } = of;
        let (weight, bias) = (weight.as_ptr(), bias.as_ptr());
        let (mean, variance) = (running_mean.as_ptr(), running_var.as_ptr());
        let (x, added, gpu) = (x.as_ptr(), optional(added), self.gpu.as_ref().map_or(ptr::null(), ptr::from_ref));
        // SAFETY: every pointer is of a tensor that lives until the call returns, or null where that is allowed; the
        // function counts its references to tensors. The kernels are never freed.
        result(|made| unsafe {
            distillery_norm_by_kernels(made, x, added, weight, bias, mean, variance, relu, *momentum, *epsilon, gpu)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A batch norm's weights, running statistics and inputs, as leaves.
    struct Leaves {
        x: Tensor,
        added: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        variance: Tensor,
    }

    impl Leaves {
        /// Numbers around 3, which are the same for each size.
        fn of(size: [i64; 4], kind: Kind) -> Self {
            let noise = |size: &[i64], salt: f64| {
                let count: i64 = size.iter().product();
                let angle = Tensor::arange(count, (Kind::Double, Device::Cpu)) * 12.9898 + salt;
                let values = (angle.sin() * 43758.5453).frac().view(size);
                values.to_kind(Kind::Float)
            };
            let map = |salt: f64| (noise(&size, salt) + 3.0).to_kind(kind);
            let of_channels = |salt: f64| noise(&size[1..2], salt);
            Self {
                x: map(1.0).set_requires_grad(true),
                added: (map(2.0) - 3.0).detach().set_requires_grad(true),
                weight: (of_channels(3.0) + 1.5).set_requires_grad(true),
                bias: of_channels(4.0).set_requires_grad(true),
                mean: of_channels(5.0),
                variance: of_channels(6.0) + 2.0,
            }
        }

        fn exact(&self) -> Self {
            let leaf = |tensor: &Tensor| tensor.detach().to_kind(Kind::Double).set_requires_grad(true);
            let [x, added, weight, bias] = [&self.x, &self.added, &self.weight, &self.bias].map(leaf);
            let [mean, variance] = [&self.mean, &self.variance].map(|tensor| tensor.to_kind(Kind::Double));
            Self { x, added, weight, bias, mean, variance }
        }

        /// Everything that a batch norm changes, and the gradients of the sum of its result times `gradient`.
        fn outcome(&self, made: &Tensor, gradient: &Tensor, adds: bool) -> Vec<Tensor> {
            (made * gradient.to_kind(made.kind())).sum(None::<Kind>).backward();
            let mut all = vec![made.detach(), self.mean.copy(), self.variance.copy()];
            all.extend([&self.x, &self.weight, &self.bias].map(Tensor::grad));
            all.extend(adds.then(|| self.added.grad()));
            all
        }
    }

    const MOMENTUM: f64 = 0.1;
    const EPSILON: f64 = 1e-5;

    fn by_kernels(leaves: &Leaves, kind: Kind, adds: bool, relu: bool) -> Tensor {
        let kernel = NormKernel::new(Device::Cpu, kind).unwrap();
        assert!(kernel.takes(&leaves.x));
        let of = BatchNorm {
            weight: &leaves.weight,
            bias: &leaves.bias,
            running_mean: &leaves.mean,
            running_var: &leaves.variance,
            momentum: MOMENTUM,
            epsilon: EPSILON,
        };
        kernel.apply(&leaves.x, adds.then_some(&leaves.added), &of, relu)
    }

    fn in_float64(Leaves { x, added, weight, bias, mean, variance }: &Leaves, adds: bool) -> Tensor {
        let weights = [weight, bias, mean, variance].map(Some);
        let [weight, bias, mean, variance] = weights;
        let made = x.batch_norm(weight, bias, mean, variance, true, MOMENTUM, EPSILON, false);
        if adds { made + added } else { made }
    }

    /// The largest difference, relative to the largest number.
    fn difference(found: &Tensor, wanted: &Tensor) -> f64 {
        let found = found.to_kind(Kind::Double);
        ((found - wanted).abs().max() / (wanted.abs().max() + 1e-12)).double_value(&[])
    }

    #[test]
    fn they_compute_map_statistics_and_gradients_of_float64() {
        // Channels that fill a tile, several, and part of one; pixels of one part and of several; single pixels.
        for size in [[2, 32, 3, 3], [3, 5, 7, 4], [8, 70, 16, 16], [5, 1, 9, 9], [4, 33, 1, 1]] {
            for (adds, relu) in [(false, false), (false, true), (true, false), (true, true)] {
                for (kind, tolerance) in [(Kind::Float, 5e-5), (Kind::BFloat16, 2e-2)] {
                    let leaves = Leaves::of(size, kind);
                    let exact = leaves.exact();
                    let found = by_kernels(&leaves, kind, adds, relu);
                    let before_relu = in_float64(&exact, adds);
                    // Where rounding decides on which side of 0 a number lies, its gradient does not count.
                    let is_clear = before_relu.abs().gt(tolerance * 10.0).to_kind(Kind::Double);
                    let noise = Tensor::arange(found.numel() as i64, (Kind::Double, Device::Cpu)).sin() + 0.5;
                    let gradient = noise.view(size).to_kind(kind).to_kind(Kind::Double) * is_clear;
                    let found = leaves.outcome(&found, &gradient, adds);
                    let wanted = if relu { before_relu.relu() } else { before_relu };
                    let wanted = exact.outcome(&wanted, &gradient, adds);
                    assert_eq!(found.len(), wanted.len());
                    for (index, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
                        assert_eq!(found.size(), wanted.size());
                        let difference = difference(found, wanted);
                        let what = format!("{size:?} in {kind:?}, sum {adds}, ReLU {relu}, {index}");
                        assert!(difference < tolerance, "{what}: {difference}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_a_number_stays_so() {
        let leaves = Leaves::of([2, 3, 4, 4], Kind::Float);
        let _ = leaves.x.detach().narrow(0, 0, 1).narrow(1, 1, 1).fill_(f64::NAN);
        let made = by_kernels(&leaves, Kind::Float, false, true);
        let is_nan = made.isnan().all_dim(3, false).all_dim(2, false).to_kind(Kind::Int64).flatten(0, -1);
        assert_eq!(Vec::<i64>::try_from(is_nan).unwrap(), [0, 1, 0, 0, 1, 0]);
        made.sum(Kind::Float).backward();
        assert!(leaves.weight.grad().get(1).double_value(&[]).is_nan());
    }
}
