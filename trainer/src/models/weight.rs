//! One tensor of a network's state dict.

use tch::Tensor;

/// One tensor of a network's state dict.
#[derive(Debug)]
pub struct Weight {
    /// Such as `layer1.0.conv1.weight`.
    pub name: String,
    pub tensor: Tensor,
    /// Whether the optimiser updates it. Running statistics are not trained.
    pub trained: bool,
}
