//! libtorch's state per process, and random numbers that do not use its global generator.

use tch::{Device, Kind, Tensor};

/// Makes libtorch compute on one thread. The number of threads is a setting of the process and affects rounding, so
/// every test that computes uses the same. (The operators of `cpp/` are tested with several threads by unit tests.)
pub fn one_thread() {
    tch::set_num_threads(1);
}

/// Pseudorandom float64 numbers in [-1, 1), a different sequence for each `salt`, by the formula of the architecture
/// fixtures: 2·frac(43758.5453·sin(12.9898·i + 78.233·salt)) − 1.
pub fn hashed(shape: &[i64], salt: usize) -> Tensor {
    let count: i64 = shape.iter().product();
    let angle = Tensor::arange(count, (Kind::Double, Device::Cpu)) * 12.9898 + 78.233 * salt as f64;
    let value = angle.sin() * 43758.5453;
    ((&value - value.floor()) * 2.0 - 1.0).view(shape)
}
