//! A tensor of an exported network.

use crate::checkpoint::Tensor;

/// A tensor in the file.
#[derive(Debug, Clone)]
pub struct StoredTensor {
    /// Its elements are read on demand. Its name is the key in the state dict.
    pub tensor: Tensor,
    pub role: TensorRole,
    /// Whether training changes it: a parameter that was not frozen by `requires_grad_(False)`.
    pub trained: bool,
    /// Index of the parameter or buffer that is the same one under another key, as the weights of tied layers are, and
    /// that has none itself. Nothing in the graph refers to this one then, unless it is a buffer in the memory of a
    /// trained parameter, to which no gradient flows through it.
    pub tied_to: Option<usize>,
    /// The entry with its bytes. Empty for a constant that was computed when the network was read.
    pub(super) file: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TensorRole {
    /// Trained.
    Parameter,
    /// In the state dict, but not trained.
    Buffer,
    /// Not in the state dict.
    Constant,
}

impl StoredTensor {
    /// Whether it is a buffer in the memory of a trained parameter.
    #[must_use]
    pub fn follows_a_parameter(&self, tensors: &[Self]) -> bool {
        let is_trained = |first: usize| tensors[first].trained;
        self.role == TensorRole::Buffer && self.tied_to.is_some_and(is_trained)
    }

    /// Whether it is a constant that was computed when the network was read, and is not in the file.
    #[must_use]
    pub fn is_computed(&self) -> bool {
        self.file.is_empty()
    }
}
