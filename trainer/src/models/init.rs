//! Initial weights, as in the papers' code. They come from a generator of their own rather than libtorch's global one,
//! so that a seed gives the same network whatever ran before in the process.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use tch::Tensor;

use distillery_core::architecture::{Entry, Init};

/// The initial value of entry `index` of the state dict: a float32 tensor on the CPU.
pub(super) fn initial(entry: &Entry, index: u64, seed: u64) -> Tensor {
    values(&entry.shape, entry.init, index, seed)
}

/// The initial value of tensor `index` of a state dict: float32 on the CPU.
pub(super) fn values(sizes: &[u64], init: Init, index: u64, seed: u64) -> Tensor {
    let shape: Vec<i64> = sizes.iter().map(|&size| i64::try_from(size).expect("sizes are small")).collect();
    let count = usize::try_from(sizes.iter().product::<u64>()).expect("it fits into memory");
    // Each tensor has its own stream, so its values do not depend on the sizes of those before it.
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    random.set_stream(index);
    let values: Vec<f32> = match init {
        Init::Const(value) => vec![value; count],
        Init::Normal(deviation) => normal(count, f64::from(deviation), &mut random),
        Init::KaimingFanOut => {
            let fan_out = sizes[0] * sizes[2..].iter().product::<u64>();
            normal(count, (2.0 / fan_out as f64).sqrt(), &mut random)
        }
        Init::Default { fan_in } => {
            let bound = 1.0 / (fan_in as f64).sqrt();
            (0..count).map(|_| ((random.random::<f64>() * 2.0 - 1.0) * bound) as f32).collect()
        }
    };
    Tensor::from_slice(&values).view(shape.as_slice())
}

/// Normally distributed numbers, by the Box–Muller transform.
fn normal(count: usize, deviation: f64, random: &mut ChaCha8Rng) -> Vec<f32> {
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        // 1 - u is in (0, 1], so its logarithm is finite.
        let radius = deviation * (-2.0 * (1.0 - random.random::<f64>()).ln()).sqrt();
        let (sine, cosine) = (std::f64::consts::TAU * random.random::<f64>()).sin_cos();
        values.extend([(radius * cosine) as f32, (radius * sine) as f32]);
    }
    values.truncate(count);
    values
}
