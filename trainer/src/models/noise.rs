//! Random numbers of dropout and stochastic depth. They follow from the seed, the rank and the step alone, so that a
//! resumed run draws the same ones.
//!
//! The step is a tensor on the device, so that a step that was recorded as a CUDA graph draws others when it is
//! replayed. Element i of a stream is splitmix64's i-th output (Steele, Lea and Flood 2014) from a state that is a hash
//! of the stream's key and the step.

use rand::Rng;
use tch::{Device, Kind, Tensor, no_grad};

use super::program::Random;
use crate::data::random::generator;
use crate::device::kernels;

/// splitmix64's constants: the increment, and the factors of the hash.
const INCREMENT: u64 = 0x9e37_79b9_7f4a_7c15;
const FIRST: u64 = 0xbf58_476d_1ce4_e5b9;
const SECOND: u64 = 0x94d0_49bb_1331_11eb;
/// Bits of a uniform random number.
const BITS: u32 = 24;

/// Where random numbers come from.
#[derive(Debug)]
pub(super) struct Noise {
    /// One key per stream.
    keys: Vec<u64>,
    /// An int64 scalar on the network's device.
    step: Tensor,
}

impl Noise {
    pub(super) fn new(streams: u32, seed: u64, rank: u32) -> Self {
        let key = |stream: u32| generator(b"dropout ", seed, rank, stream.into()).next_u64();
        Self { keys: (0..=streams).map(key).collect(), step: Tensor::zeros([], (Kind::Int64, Device::Cpu)) }
    }

    pub(super) fn place(&mut self, device: Device) {
        self.step = self.step.to_device(device);
    }

    /// Begins a step, whose number is an int64 scalar. Does not wait for the device.
    pub(super) fn begin_step(&self, step: &Tensor) {
        no_grad(|| self.step.shallow_clone().copy_(step));
    }

    /// A tensor that has `value` with the given probability, else zero.
    pub(super) fn mask(&self, random: Random, size: &[i64], value: f64, kind: Kind) -> Tensor {
        let key = self.keys[random.stream as usize];
        let threshold = (random.probability * f64::from(1_u32 << BITS)).round() as u32;
        no_grad(|| {
            if self.step.device() == Device::Cpu {
                kernels::mask(size, &self.step, key, threshold, value).to_kind(kind)
            } else {
                by_operators(size, &self.step, key, threshold, value).to_kind(kind)
            }
        })
    }
}

/// The same as [`kernels::mask`], on any device.
fn by_operators(size: &[i64], step: &Tensor, key: u64, threshold: u32, value: f64) -> Tensor {
    let count: i64 = size.iter().product();
    let state = hash(&(step * signed(INCREMENT)).bitwise_xor(signed(key)));
    let counters = Tensor::arange_start(1_i64, count + 1, (Kind::Int64, step.device())) * signed(INCREMENT);
    let numbers = shifted(&hash(&(counters + state)), 64 - BITS);
    (numbers.lt(i64::from(threshold)).to_kind(Kind::Float) * value).view(size)
}

/// splitmix64's hash of each element.
fn hash(numbers: &Tensor) -> Tensor {
    let numbers = numbers.bitwise_xor_tensor(&shifted(numbers, 30)) * signed(FIRST);
    let numbers = numbers.bitwise_xor_tensor(&shifted(&numbers, 27)) * signed(SECOND);
    numbers.bitwise_xor_tensor(&shifted(&numbers, 31))
}

/// Shifts to the right and fills with zeros, where libtorch repeats the sign.
fn shifted(numbers: &Tensor, by: u32) -> Tensor {
    numbers.bitwise_right_shift_tensor_scalar(i64::from(by)).bitwise_and(signed(u64::MAX >> by))
}

fn signed(number: u64) -> i64 {
    number.cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_and_kernel_draw_the_same_numbers() {
        for (key, step) in [(0, 0_i64), (7, 1), (u64::MAX, 123_456_789), (1 << 63, i64::MAX)] {
            for (size, threshold) in [([3_i64, 5, 7].as_slice(), 1 << 23), (&[100_003], 3_000_000), (&[], 1 << 24)] {
                let step = Tensor::from(step);
                let kernel = kernels::mask(size, &step, key, threshold, 1.25);
                assert_eq!(kernel, by_operators(size, &step, key, threshold, 1.25));
                assert_eq!(kernel.size(), size);
            }
        }
    }

    #[test]
    fn a_mask_has_the_probability_and_depends_on_seed_rank_stream_and_step() {
        let count = 1_000_000_i64;
        let mask = |seed, rank, stream, step: i64| {
            let noise = Noise::new(3, seed, rank);
            noise.begin_step(&Tensor::from(step));
            noise.mask(Random { probability: 0.7, stream }, &[count], 1.0, Kind::Float)
        };
        let base = mask(1, 0, 1, 5);
        assert_eq!(base, mask(1, 0, 1, 5));
        let deviation = (0.7 * 0.3 / count as f64).sqrt();
        for other in [mask(2, 0, 1, 5), mask(1, 1, 1, 5), mask(1, 0, 2, 5), mask(1, 0, 1, 6), mask(1, 0, 1, 4)] {
            let mean = other.mean(Kind::Double).double_value(&[]);
            assert!((mean - 0.7).abs() < 5.0 * deviation, "{mean}");
            // Independent masks agree in 0.7² + 0.3² of the elements.
            let agreeing = other.eq_tensor(&base).mean_of();
            assert!((agreeing - 0.58).abs() < 0.005, "{agreeing}");
        }
        // Neighbours within a mask are independent, too.
        let both = (base.narrow(0, 0, count - 1) * base.narrow(0, 1, count - 1)).mean(Kind::Double).double_value(&[]);
        assert!((both - 0.49).abs() < 0.005, "{both}");
        assert!(
            Noise::new(1, 0, 0).mask(Random { probability: 1.0, stream: 1 }, &[1000], 1.0, Kind::Float).mean_of()
                == 1.0
        );
        assert!(
            Noise::new(1, 0, 0).mask(Random { probability: 0.0, stream: 1 }, &[1000], 1.0, Kind::Float).mean_of()
                == 0.0
        );
    }

    trait MeanOf {
        fn mean_of(&self) -> f64;
    }

    impl MeanOf for Tensor {
        fn mean_of(&self) -> f64 {
            self.to_kind(Kind::Double).mean(Kind::Double).double_value(&[])
        }
    }
}
