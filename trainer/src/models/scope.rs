//! What operations take and make, and what they depend on beside that.

use std::ops::Deref;

use tch::{Device, Kind, Tensor};

use super::noise::Noise;
use super::program::Random;
use crate::device::norm_kernel::NormKernel;

/// What an operation is applied to.
pub(super) enum Taken<'a> {
    Value(Tensor),
    Weight(&'a Tensor),
}

impl Deref for Taken<'_> {
    type Target = Tensor;

    fn deref(&self) -> &Tensor {
        match self {
            Self::Value(tensor) => tensor,
            Self::Weight(tensor) => tensor,
        }
    }
}

/// The results of an operation.
pub(super) enum Made {
    One(Tensor),
    Several(Vec<Tensor>),
}

/// What operations depend on beside their inputs.
pub(super) struct ExecutionScope<'a> {
    /// Images, or vectors that a head classifies.
    pub batch: i64,
    /// Vectors of an image, the first of which is that of the whole image; 1 outside of heads.
    pub vectors: i64,
    /// The kind of maps.
    pub kind: Kind,
    pub device: Device,
    /// There if operations are random.
    pub noise: Option<&'a Noise>,
    /// Computes batch norms of maps by the statistics of the batch.
    pub norm_kernel: Option<&'static NormKernel>,
}

impl ExecutionScope<'_> {
    /// A tensor that has `value` with the given probability, else zero.
    pub(super) fn mask(&self, random: Random, size: &[i64], value: f64, kind: Kind) -> Tensor {
        self.noise.expect("a network that is trained has random numbers").mask(random, size, value, kind)
    }

    pub(super) fn dropout(&self, random: Random, input: &Tensor) -> Tensor {
        let keep = 1.0 - random.probability;
        let scale = if keep > 0.0 { 1.0 / keep } else { 0.0 };
        input * self.mask(Random { probability: keep, ..random }, &input.size(), scale, input.kind())
    }
}
