//! One tensor of a network's state dict.

use tch::Tensor;

/// One tensor of a network's state dict.
#[derive(Debug)]
pub struct Weight {
    /// Its key: `layer1.0.conv1.weight`.
    pub name: String,
    /// Its values.
    pub tensor: Tensor,
    /// Whether the optimiser changes it; running statistics are not trained.
    pub trained: bool,
}
