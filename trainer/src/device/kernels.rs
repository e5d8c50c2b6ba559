//! The operators of networks in `cpp/`, which libtorch does not have or its bindings do not expose. For the CPU, where
//! nothing else is said.
#![allow(unsafe_code, reason = "calls functions of C")]

use std::ffi::c_char;

use tch::{Kind, TchError, Tensor};
use torch_sys::C_tensor;

use super::ffi::{Pointers, fallible, optional, result, unwrap};
use distillery_core::architecture::Convolution;

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
    fn distillery_convolution_of_cudnn(
        result: *mut *mut C_tensor,
        x: *const C_tensor,
        weight: *const C_tensor,
        bias: *const C_tensor,
        added: *const C_tensor,
        stride: *const i64,
        padding: *const i64,
        groups: i64,
    ) -> *mut c_char;
    fn distillery_unfolded(
        result: *mut *mut C_tensor,
        x: *const C_tensor,
        weight: *const C_tensor,
        bias: *const C_tensor,
        stride: i64,
        padding: i64,
    ) -> *mut c_char;
    fn distillery_mask(
        result: *mut *mut C_tensor,
        size: *const i64,
        dimensions: i64,
        step: *const C_tensor,
        key: u64,
        threshold: u32,
        value: f64,
    ) -> *mut c_char;
    fn distillery_count(tensors: *const *mut C_tensor, count: i64, by: i64) -> *mut c_char;
    fn distillery_has_winograd(is_float: bool) -> bool;
    fn distillery_winograd(
        result: *mut *mut C_tensor,
        x: *const C_tensor,
        weight: *const C_tensor,
        bias: *const C_tensor,
    ) -> *mut c_char;
    fn distillery_winograd_weight(result: *mut *mut C_tensor, weight: *const C_tensor, is_float: bool) -> *mut c_char;
    fn distillery_frozen_winograd(
        result: *mut *mut C_tensor,
        x: *const C_tensor,
        transformed: *const C_tensor,
        bias: *const C_tensor,
        added: *const C_tensor,
        relu: bool,
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

/// The weights `[C]` of a batch norm, in float32, and its numbers.
pub(crate) struct BatchNorm<'a> {
    pub weight: &'a Tensor,
    pub bias: &'a Tensor,
    pub running_mean: &'a Tensor,
    pub running_var: &'a Tensor,
    /// Weight of the batch in the running statistics.
    pub momentum: f64,
    pub epsilon: f64,
}

/// Batch norm in training mode of `x` [B, C, H, W] (float32 or bfloat16), then the sum with `added` and a ReLU, if
/// wanted. Updates the running statistics.
pub(crate) fn norm(x: &Tensor, added: Option<&Tensor>, weights: &BatchNorm<'_>, relu: bool) -> Tensor {
    let BatchNorm { weight, bias, running_mean, running_var, momentum, epsilon } = weights;
    let (weight, bias) = (weight.as_ptr(), bias.as_ptr());
    let (mean, variance) = (running_mean.as_ptr(), running_var.as_ptr());
    // SAFETY: every pointer is of a tensor that lives until the call returns, or null where that is allowed; the
    // function counts its references to tensors.
    result(|made| unsafe {
        distillery_norm(made, x.as_ptr(), optional(added), weight, bias, mean, variance, relu, *momentum, *epsilon)
    })
}

/// A float32 tensor of that size whose element i is `value` if the first 24 bits of the i-th random number are below
/// the threshold, else 0. The numbers follow from the key and the step, an int64 scalar on the CPU.
pub(crate) fn mask(size: &[i64], step: &Tensor, key: u64, threshold: u32, value: f64) -> Tensor {
    let (step, dimensions) = (step.as_ptr(), size.len() as i64);
    // SAFETY: as above; the size has that many numbers.
    result(|made| unsafe { distillery_mask(made, size.as_ptr(), dimensions, step, key, threshold, value) })
}

/// Adds a number to each of some tensors, on any device, in place.
pub(crate) fn count(tensors: &[Tensor], by: i64) {
    let pointers = Pointers::of(tensors);
    // SAFETY: the pointers are of tensors that live until the call returns, and their number is given.
    unwrap(unsafe { distillery_count(pointers.first(), pointers.count(), by) });
}

/// A convolution with a bias, then the sum with `added` (whose memory the result takes) and a ReLU, if wanted, in one
/// pass; for inference. `weight` may come from [`pack`].
pub(crate) fn convolution(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
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

/// A convolution of `x` [B, C, H, W] with a bias, the sum with `added`, and a ReLU in one kernel of cuDNN; for
/// inference on a GPU.
///
/// # Errors
/// cuDNN has no kernel for these sizes.
pub(crate) fn convolution_of_cudnn(
    x: &Tensor,
    weight: &Tensor,
    bias: &Tensor,
    geometry: Convolution,
    added: Option<&Tensor>,
) -> Result<Tensor, TchError> {
    let [stride, padding] = [geometry.stride, geometry.padding].map(|pair| pair.map(i64::from));
    let (stride, padding, groups) = (stride.as_ptr(), padding.as_ptr(), i64::from(geometry.groups));
    let (weight, bias, added) = (weight.as_ptr(), bias.as_ptr(), optional(added));
    // SAFETY: as above; stride and padding are two numbers each.
    fallible(|made| unsafe {
        distillery_convolution_of_cudnn(made, x.as_ptr(), weight, bias, added, stride, padding, groups)
    })
}

/// Whether oneDNN packs weights of that kind for this processor. On x86-64 it computes bfloat16 only with AVX-512.
pub(crate) fn packs(kind: Kind) -> bool {
    #[cfg(target_arch = "x86_64")]
    let has_bfloat16 = std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512vl")
        && std::arch::is_x86_feature_detected!("avx512dq");
    #[cfg(not(target_arch = "x86_64"))]
    let has_bfloat16 = true;
    kind == Kind::Float || kind == Kind::BFloat16 && has_bfloat16
}

/// `weight` in the layout that oneDNN prefers for an input of this size [B, C, H, W].
pub(crate) fn pack(weight: &Tensor, geometry: Convolution, input: [i64; 4]) -> Tensor {
    let [stride, padding] = [geometry.stride, geometry.padding].map(|pair| pair.map(i64::from));
    let (stride, padding, groups) = (stride.as_ptr(), padding.as_ptr(), i64::from(geometry.groups));
    // SAFETY: as above; the input's size is four numbers.
    result(|made| unsafe { distillery_pack(made, weight.as_ptr(), stride, padding, groups, input.as_ptr()) })
}

/// Whether [`unfolded`] supports a convolution of feature maps of this kind: bfloat16, 1×1 or 3×3, stride 1 or 2,
/// without groups.
pub(crate) fn supports_unfolded(kind: Kind, geometry: Convolution) -> bool {
    let Convolution { kernel: [side, _], stride: [stride, _], padding: [padding, _], .. } = geometry;
    let square = Convolution { kernel: [side; 2], stride: [stride; 2], padding: [padding; 2], groups: 1, ..geometry };
    geometry == square
        && kind == Kind::BFloat16
        && matches!((side, padding), (1, 0) | (3, 1))
        && matches!(stride, 1 | 2)
}

/// A [supported](supports_unfolded) convolution of `x` [B, C, H, W] whose weight's gradient is one matrix product.
/// Weight and bias are float32.
pub(crate) fn unfolded(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, geometry: Convolution) -> Tensor {
    let [stride, padding] = [geometry.stride[0], geometry.padding[0]].map(i64::from);
    // SAFETY: as above.
    result(|made| unsafe { distillery_unfolded(made, x.as_ptr(), weight.as_ptr(), optional(bias), stride, padding) })
}

/// Whether [`winograd`] supports a convolution of feature maps of this kind and side, and is faster than oneDNN. (It is
/// not for maps of one or two pixels a side, where half of what it multiplies is zero.)
pub(crate) fn suits_winograd(kind: Kind, side: i64, weight: &Tensor, geometry: Convolution) -> bool {
    let &[outputs, inputs, ..] = weight.size().as_slice() else { return false };
    let fits =
        geometry == Convolution { kernel: [3; 2], stride: [1; 2], padding: [1; 2], groups: 1, bias: geometry.bias };
    fits && side > 2 && inputs % 16 == 0 && outputs % 16 == 0 && has_winograd(kind)
}

/// Whether this processor has the instructions for [`winograd`] of maps of this kind.
fn has_winograd(kind: Kind) -> bool {
    // SAFETY: it only queries the processor.
    matches!(kind, Kind::Float | Kind::BFloat16) && unsafe { distillery_has_winograd(kind == Kind::Float) }
}

/// A [suitable](suits_winograd) convolution of `x` [B, C, H, W]. Weight and bias are float32.
pub(crate) fn winograd(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    // SAFETY: as above.
    result(|made| unsafe { distillery_winograd(made, x.as_ptr(), weight.as_ptr(), optional(bias)) })
}

/// Transforms a weight (float32) for [`frozen_winograd`] of maps of this kind.
pub(crate) fn winograd_weight(weight: &Tensor, kind: Kind) -> Tensor {
    // SAFETY: as above.
    result(|made| unsafe { distillery_winograd_weight(made, weight.as_ptr(), kind == Kind::Float) })
}

/// [`winograd`] with a transformed weight from [`winograd_weight`] and a bias in float32, then the sum with `added` and
/// a ReLU, if wanted; for inference.
pub(crate) fn frozen_winograd(
    x: &Tensor,
    transformed: &Tensor,
    bias: &Tensor,
    added: Option<&Tensor>,
    relu: bool,
) -> Tensor {
    let (transformed, bias) = (transformed.as_ptr(), bias.as_ptr());
    // SAFETY: as above.
    result(|made| unsafe { distillery_frozen_winograd(made, x.as_ptr(), transformed, bias, optional(added), relu) })
}

#[cfg(test)]
mod tests {
    use tch::Device;

    use super::*;

    /// The relative distance of two tensors.
    fn distance(found: &Tensor, wanted: &Tensor) -> f64 {
        let found = found.to_kind(Kind::Double);
        (found - wanted).norm().double_value(&[]) / wanted.norm().double_value(&[])
    }

    /// How far results of a kind may be from those in float64, on any processor and in any order of summation: the
    /// error of a sum of n random terms in float32 is below 4·√n·u of its size. In bfloat16, what goes in, the
    /// transformed numbers and the result are rounded, and sums are in float32.
    fn tolerance(kind: Kind, terms: i64) -> f64 {
        let of_sums = 4.0 * (terms as f64).sqrt() / f64::from(1 << 24);
        if kind == Kind::Float { of_sums } else { of_sums + 3.0 / 256.0 }
    }

    /// Compares a convolution of that kind and its gradients with libtorch's in float64, with and without a bias.
    fn agrees(
        kind: Kind,
        map: [i64; 4],
        kernel: [i64; 4],
        (stride, padding): (i64, i64),
        convolve: impl Fn(&Tensor, &Tensor, Option<&Tensor>) -> Tensor,
    ) {
        for has_bias in [true, false] {
            let leaf = |size: &[i64]| {
                let values = Tensor::randn(size, (Kind::Float, Device::Cpu)).to_kind(kind);
                let leaf = |kind| values.detach().to_dtype(kind, false, true).set_requires_grad(true);
                [kind, Kind::Float, Kind::Double].map(leaf)
            };
            let [x, _, exact_x] = leaf(&map);
            let [_, weight, exact_weight] = leaf(&kernel);
            let [_, bias, exact_bias] = leaf(&kernel[..1]);
            let made = convolve(&x, &weight, has_bias.then_some(&bias));
            let exact_offset = has_bias.then_some(&exact_bias);
            let wanted = exact_x.conv2d(&exact_weight, exact_offset, [stride; 2], [padding; 2], [1, 1], 1);
            let gradient = Tensor::randn_like(&wanted).to_kind(kind);
            (&made * &gradient).sum(Kind::Float).backward();
            (&wanted * gradient.to_kind(Kind::Double)).sum(Kind::Double).backward();
            // Sums over channels and kernel, over outputs and kernel, or over all pixels.
            let [outputs, channels, height, width] = kernel;
            let terms = (channels.max(outputs) * height * width).max(wanted.numel() as i64 / outputs);
            let leaves = [(&x, &exact_x), (&weight, &exact_weight), (&bias, &exact_bias)];
            let gradients = leaves.iter().take(if has_bias { 3 } else { 2 });
            let gradients = gradients.map(|(found, wanted)| (found.grad(), wanted.grad()));
            for (index, (found, wanted)) in gradients.chain([(made.detach(), wanted.detach())]).enumerate() {
                assert_eq!(found.size(), wanted.size());
                let distance = distance(&found, &wanted);
                let what = format!("{kind:?} {map:?} {kernel:?} bias {has_bias}, {index}");
                assert!(distance < tolerance(kind, terms), "{what}: {distance}");
            }
        }
    }

    /// The kinds that this processor has instructions for.
    fn winograds_kinds() -> impl Iterator<Item = Kind> {
        [Kind::Float, Kind::BFloat16].into_iter().filter(|&kind| has_winograd(kind))
    }

    #[test]
    fn winograds_convolution_and_its_gradients_are_libtorchs_to_the_precision_of_their_kind() {
        for kind in winograds_kinds() {
            // Sides of whole tiles and others; tiles that fill a strip and others; channels that fill one vector, two
            // vectors, and enough for longer strips.
            for [images, height, width] in [[3, 4, 4], [2, 16, 18], [4, 8, 8], [3, 5, 3], [1, 1, 2]] {
                for [channels, outputs] in [[16, 16], [32, 64], [48, 32], [32, 48], [256, 32]] {
                    agrees(kind, [images, channels, height, width], [outputs, channels, 3, 3], (1, 1), winograd);
                }
            }
        }
    }

    #[test]
    fn an_unfolded_convolution_and_its_gradients_are_libtorchs_to_the_precision_of_bfloat16() {
        for [height, width] in [[8, 8], [7, 5], [1, 2]] {
            for (side, padding, stride) in [(3, 1, 2), (1, 0, 2), (3, 1, 1), (1, 0, 1)] {
                let geometry = Convolution {
                    kernel: [side; 2],
                    stride: [stride; 2],
                    padding: [padding; 2],
                    groups: 1,
                    bias: false,
                };
                assert!(supports_unfolded(Kind::BFloat16, geometry));
                let convolve = |x: &Tensor, weight: &Tensor, bias: Option<&Tensor>| unfolded(x, weight, bias, geometry);
                for channels in [3, 16] {
                    let (map, kernel) = ([3, channels, height, width], [32, channels, side.into(), side.into()]);
                    agrees(Kind::BFloat16, map, kernel, (stride.into(), padding.into()), convolve);
                }
            }
        }
    }

    #[test]
    fn the_frozen_convolution_adds_and_clears_and_keeps_what_is_not_a_number() {
        for kind in winograds_kinds() {
            let numbers = |size: &[i64]| Tensor::randn(size, (Kind::Float, Device::Cpu));
            let (x, weight, bias) = (numbers(&[2, 128, 4, 4]), numbers(&[16, 128, 3, 3]), numbers(&[16]));
            let added = numbers(&[2, 16, 4, 4]) * 30.0;
            let run = |x: &Tensor, added: Option<&Tensor>, relu| {
                let own = |tensor: &Tensor| tensor.to_kind(kind);
                frozen_winograd(&own(x), &winograd_weight(&weight, kind), &bias, added.map(own).as_ref(), relu)
            };
            let plain = x.conv2d(&weight, Some(&bias), [1, 1], [1, 1], [1, 1], 1).to_kind(Kind::Double);
            assert!(distance(&run(&x, None, false), &plain) < tolerance(kind, 128 * 9));
            let sum = (&plain + &added).relu();
            assert!(distance(&run(&x, Some(&added), true), &sum) < tolerance(kind, 128 * 9));
            let _ = x.get(0).fill_(f64::NAN);
            let broken = run(&x, Some(&added), true);
            assert!(bool::try_from(broken.get(0).isnan().all()).unwrap());
            assert!(bool::try_from(broken.get(1).isfinite().all()).unwrap());
        }
    }
}
