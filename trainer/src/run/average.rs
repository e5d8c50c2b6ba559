//! The exponential moving average of a student's weights, which is evaluated and published in their place.

use tch::{Kind, Tensor};

use crate::device::optimizers;
use crate::error::Result;
use crate::models::Network;
use crate::models::state_dict::{self, StateDict};

/// Averages of a network's tensors over the steps, its running statistics among them: after each step,
/// average ← decay · average + (1 − decay) · tensor. It begins with the initial weights, as timm's `ModelEmaV2`;
/// PyTorch's `AveragedModel`, which torchvision uses, begins with those after the first step. Integers are those of the
/// last step.
#[derive(Debug)]
pub struct WeightAverage {
    decay: f64,
    names: Vec<String>,
    /// In the order of the network's weights, with their strides.
    values: Vec<Tensor>,
    /// The network's own tensors.
    tensors: Vec<Tensor>,
}

impl WeightAverage {
    /// The average for a network that is on its device already: the weights' storage must not change any more.
    #[must_use]
    pub fn new(network: &Network, decay: f64) -> Self {
        let weights = network.weights();
        let tensors: Vec<Tensor> = weights.iter().map(|weight| weight.tensor.detach()).collect();
        let names = weights.iter().map(|weight| weight.name.clone()).collect();
        let values = tch::no_grad(|| tensors.iter().map(Tensor::copy).collect());
        Self { decay, names, values, tensors }
    }

    /// Updates the averages by the network's current weights. Does not wait for the device.
    pub fn update(&self) {
        tch::no_grad(|| {
            let pairs = || self.values.iter().zip(&self.tensors);
            let clone = |tensor: &Tensor| tensor.shallow_clone();
            let is_float = |tensor: &Tensor| tensor.kind() == Kind::Float;
            let (values, tensors): (Vec<_>, Vec<_>) = pairs()
                .filter(|(_, tensor)| is_float(tensor))
                .map(|(value, tensor)| (clone(value), clone(tensor)))
                .unzip();
            optimizers::average(&values, &tensors, 1.0 - self.decay);
            for (value, tensor) in pairs().filter(|(_, tensor)| !is_float(tensor)) {
                clone(value).copy_(tensor);
            }
        });
    }

    /// The network with the averages as its weights, whose storage they share.
    #[must_use]
    pub fn network(&self, of: &Network) -> Network {
        of.with_weights(&self.values)
    }

    /// Copies of the averages on the CPU.
    ///
    /// # Errors
    /// They do not fit into memory.
    pub fn copy(&self) -> Result<StateDict> {
        let named = self.names.iter().zip(&self.values);
        named.map(|(name, value)| Ok((name.clone(), state_dict::to_cpu(value)?))).collect()
    }

    /// `average.<name>` for each tensor, which shares its storage with the average.
    pub(super) fn state(&self) -> impl Iterator<Item = (String, Tensor)> {
        self.names.iter().zip(&self.values).map(|(name, value)| (format!("average.{name}"), value.shallow_clone()))
    }
}
