//! One tensor of a network.

use tch::Tensor;

/// One tensor of a network's state dict.
#[derive(Debug)]
pub struct Weight {
    /// Such as `layer1.0.conv1.weight`.
    pub name: String,
    pub tensor: Tensor,
    /// Whether the optimiser updates it. Running statistics are not trained.
    pub trained: bool,
    /// Index of an earlier one that this is under another key, as the weights of tied layers are: both show the same
    /// memory. Neither the optimiser nor the network takes this one.
    pub tied_to: Option<usize>,
    /// Whether the network computes with it in single precision. Counters and indices keep their type.
    pub is_float: bool,
    /// Whether it is the weight of a convolution, which is laid out channels-last.
    pub is_kernel: bool,
}
