//! The steps of optimisers in `cpp/optimizer.cpp`, for any device.
#![allow(unsafe_code, reason = "calls functions of C")]

use std::ffi::c_char;
use std::ptr;

use tch::Tensor;
use torch_sys::C_tensor;

use super::ffi::{Pointers, result, unwrap};

unsafe extern "C" {
    fn distillery_drop_gradients(tensors: *const *mut C_tensor, count: i64) -> *mut c_char;
    fn distillery_clip(
        result: *mut *mut C_tensor,
        gradients: *const *mut C_tensor,
        count: i64,
        largest: f64,
    ) -> *mut c_char;
    fn distillery_sgd(
        parameters: *const *mut C_tensor,
        gradients: *const *mut C_tensor,
        momenta: *const *mut C_tensor,
        count: i64,
        rate: *const C_tensor,
        weight_decay: f64,
        momentum: f64,
        nesterov: bool,
    ) -> *mut c_char;
    fn distillery_adamw(
        parameters: *const *mut C_tensor,
        gradients: *const *mut C_tensor,
        first: *const *mut C_tensor,
        second: *const *mut C_tensor,
        count: i64,
        rate: *const C_tensor,
        step: *const C_tensor,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        epsilon: f64,
    ) -> *mut c_char;
    fn distillery_lamb(
        parameters: *const *mut C_tensor,
        gradients: *const *mut C_tensor,
        first: *const *mut C_tensor,
        second: *const *mut C_tensor,
        count: i64,
        rate: *const C_tensor,
        step: *const C_tensor,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        epsilon: f64,
    ) -> *mut c_char;
    fn distillery_average(
        averages: *const *mut C_tensor,
        tensors: *const *mut C_tensor,
        count: i64,
        weight: f64,
    ) -> *mut c_char;
}

/// Removes the tensors' gradients, so that the next backward sets them rather than adding to zeros.
pub(crate) fn drop_gradients(tensors: &[Tensor]) {
    let pointers = Pointers::of(tensors);
    // SAFETY: the pointers are of tensors that live until the call returns, and their number is given.
    unwrap(unsafe { distillery_drop_gradients(pointers.first(), pointers.count()) });
}

/// Scales `gradients` in place so that their total L2 norm is at most `largest`. Returns the norm before that.
pub(crate) fn clip(gradients: &[Tensor], largest: f64) -> Tensor {
    let pointers = Pointers::of(gradients);
    // SAFETY: as above.
    result(|made| unsafe { distillery_clip(made, pointers.first(), pointers.count(), largest) })
}

/// The parameters of SGD except its learning rate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sgd {
    pub weight_decay: f64,
    pub momentum: f64,
    pub nesterov: bool,
}

/// A step of SGD, which updates `values` and `momenta`. The learning rate is a float32 scalar on their device.
pub(crate) fn sgd(
    values: &[Tensor],
    gradients: &[Tensor],
    momenta: Option<&[Tensor]>,
    learning_rate: &Tensor,
    Sgd { weight_decay, momentum, nesterov }: Sgd,
) {
    assert!(values.len() == gradients.len() && momenta.is_none_or(|momenta| momenta.len() == values.len()));
    let (values, gradients, momenta) = (Pointers::of(values), Pointers::of(gradients), momenta.map(Pointers::of));
    let buffers = momenta.as_ref().map_or(ptr::null(), Pointers::first);
    let (count, rate) = (values.count(), learning_rate.as_ptr());
    // SAFETY: as above; all lists have that length.
    unwrap(unsafe {
        distillery_sgd(values.first(), gradients.first(), buffers, count, rate, weight_decay, momentum, nesterov)
    });
}

/// The parameters of AdamW or LAMB except the learning rate.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Adaptive {
    pub beta1: f64,
    pub beta2: f64,
    pub weight_decay: f64,
    pub epsilon: f64,
}

/// What a step of AdamW or LAMB updates, and the gradients.
pub(crate) struct AdaptiveState<'a> {
    pub values: &'a [Tensor],
    pub gradients: &'a [Tensor],
    /// Running means of the gradients.
    pub first: &'a [Tensor],
    /// Running means of their squares.
    pub second: &'a [Tensor],
}

/// A step of AdamW. On the device of the values are the learning rate, a float32 scalar, and the step's number from 1,
/// an int64 one.
pub(crate) fn adamw(state: &AdaptiveState<'_>, learning_rate: &Tensor, step: &Tensor, adaptive: Adaptive) {
    adapt(distillery_adamw, state, learning_rate, step, adaptive);
}

/// A step of LAMB, with the arguments of [`adamw`].
pub(crate) fn lamb(state: &AdaptiveState<'_>, learning_rate: &Tensor, step: &Tensor, adaptive: Adaptive) {
    adapt(distillery_lamb, state, learning_rate, step, adaptive);
}

/// The type of [`distillery_adamw`] and [`distillery_lamb`].
type AdaptiveStep = unsafe extern "C" fn(
    *const *mut C_tensor,
    *const *mut C_tensor,
    *const *mut C_tensor,
    *const *mut C_tensor,
    i64,
    *const C_tensor,
    *const C_tensor,
    f64,
    f64,
    f64,
    f64,
) -> *mut c_char;

fn adapt(
    by: AdaptiveStep,
    AdaptiveState { values, gradients, first, second }: &AdaptiveState<'_>,
    learning_rate: &Tensor,
    step: &Tensor,
    Adaptive { beta1, beta2, weight_decay, epsilon }: Adaptive,
) {
    assert!([gradients, first, second].iter().all(|list| list.len() == values.len()));
    let (values, gradients) = (Pointers::of(values), Pointers::of(gradients));
    let (first, second) = (Pointers::of(first), Pointers::of(second));
    let (count, rate, step) = (values.count(), learning_rate.as_ptr(), step.as_ptr());
    let (values, gradients, first, second) = (values.first(), gradients.first(), first.first(), second.first());
    // SAFETY: as above.
    unwrap(unsafe { by(values, gradients, first, second, count, rate, step, beta1, beta2, weight_decay, epsilon) });
}

/// Moves each of `averages` by `weight` of the way to its tensor.
pub(crate) fn average(averages: &[Tensor], tensors: &[Tensor], weight: f64) {
    assert_eq!(averages.len(), tensors.len());
    let (averages, tensors) = (Pointers::of(averages), Pointers::of(tensors));
    // SAFETY: as above.
    unwrap(unsafe { distillery_average(averages.first(), tensors.first(), averages.count(), weight) });
}
