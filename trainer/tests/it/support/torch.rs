//! What libtorch shares between all tests of the process, and numbers that do not come from its global generator.

use tch::{Device, Kind, Tensor};

/// Has libtorch compute on one thread. Its number of threads belongs to the process, so every test that computes asks for
/// the same: sums on several threads are rounded in another order. (The operators of `cpp/` are tested on several threads
/// in `kernels.rs`.)
pub fn one_thread() {
    tch::set_num_threads(1);
}

/// Float64 numbers in [-1, 1) without a pattern, another sequence for each `salt`: 2·frac(43758.5453·sin(12.9898·i +
/// 78.233·salt)) − 1, as in the fixtures of the networks.
pub fn hashed(shape: &[i64], salt: usize) -> Tensor {
    let count: i64 = shape.iter().product();
    let angle = Tensor::arange(count, (Kind::Double, Device::Cpu)) * 12.9898 + 78.233 * salt as f64;
    let value = angle.sin() * 43758.5453;
    ((&value - value.floor()) * 2.0 - 1.0).view(shape)
}
