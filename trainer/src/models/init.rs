//! Initial weights, as the papers' code sets them. Own generator rather than libtorch's global one, so that a seed
//! gives the same network whatever ran before in the process.

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use tch::Tensor;

/// How a tensor starts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// The same value everywhere.
    Const(f32),
    /// Kaiming-normal by outputs, of convolutions: N(0, sqrt(2 / (kernel² · outputs))).
    KaimingFanOut,
    /// N(0, deviation).
    Normal(f32),
    /// PyTorch's default for convolutions and linear layers, weight and bias alike: U(±1 / sqrt(fan in)).
    Default {
        /// Inputs that one output depends on.
        fan_in: i64,
    },
}

impl Init {
    /// A float32 tensor on the CPU.
    pub(super) fn tensor(self, shape: &[i64], random: &mut ChaCha8Rng) -> Tensor {
        let count = usize::try_from(shape.iter().product::<i64>()).expect("shapes are not negative");
        let values: Vec<f32> = match self {
            Self::Const(value) => vec![value; count],
            Self::Normal(deviation) => normal(count, f64::from(deviation), random),
            Self::KaimingFanOut => normal(count, (2.0 / (shape[0] * shape[2] * shape[3]) as f64).sqrt(), random),
            Self::Default { fan_in } => {
                let bound = 1.0 / (fan_in as f64).sqrt();
                (0..count).map(|_| ((random.random::<f64>() * 2.0 - 1.0) * bound) as f32).collect()
            }
        };
        Tensor::from_slice(&values).view(shape)
    }
}

/// Box and Muller's transform.
fn normal(count: usize, deviation: f64, random: &mut ChaCha8Rng) -> Vec<f32> {
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        // 1 - u lies in (0, 1]: its logarithm is finite.
        let radius = deviation * (-2.0 * (1.0 - random.random::<f64>()).ln()).sqrt();
        let (sine, cosine) = (std::f64::consts::TAU * random.random::<f64>()).sin_cos();
        values.extend([(radius * cosine) as f32, (radius * sine) as f32]);
    }
    values.truncate(count);
    values
}
