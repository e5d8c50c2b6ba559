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
    /// Index of another one that this is under another key, as the weights of tied layers are: both show the same
    /// memory. The optimiser does not take this one, and the network takes it only if it is a buffer that shows a
    /// parameter, to which no gradient flows through it.
    pub tied_to: Option<usize>,
    /// Whether the network computes with it in single precision. Counters and indices keep their type.
    pub is_float: bool,
    /// Whether it is the weight of a convolution, which is laid out channels-last.
    pub is_kernel: bool,
}

impl Weight {
    /// The same under another key. `index` is that of this one, and `is_detached` means that no gradient flows through
    /// the other.
    pub(super) fn under(&self, name: &str, index: usize, is_detached: bool) -> Self {
        Self { name: name.to_owned(), tensor: self.shown(is_detached), trained: false, tied_to: Some(index), ..*self }
    }

    /// A tensor in the same memory.
    pub(super) fn shown(&self, is_detached: bool) -> Tensor {
        if is_detached { self.tensor.detach() } else { self.tensor.shallow_clone() }
    }
}
