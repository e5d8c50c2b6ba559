//! Tensors and storages as a pickle describes them.

use std::fmt;

use crate::checkpoint::error::shown;
use crate::checkpoint::tensor::{Dtype, StridedView};

/// A storage as described by a pickle. Its bytes are elsewhere in the file.
#[derive(Debug, Clone, Copy)]
pub(in crate::checkpoint) struct StorageRef<'a> {
    pub(in crate::checkpoint) key: &'a str,
    pub(in crate::checkpoint) kind: StorageKind<'a>,
    /// Size of the whole storage.
    pub(in crate::checkpoint) elements: u64,
    /// Offset and number of elements, if this is a part of the storage with that key (before PyTorch 0.4).
    pub(in crate::checkpoint) part: Option<(u64, u64)>,
}

/// What a storage's elements are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::checkpoint) enum StorageKind<'a> {
    Known(Dtype),
    /// PyTorch's class for elements that are not read.
    Other(&'a str),
}

impl StorageKind<'_> {
    /// Bytes per element; `None` for classes that PyTorch does not have.
    pub(in crate::checkpoint) fn size(self) -> Option<u64> {
        match self {
            Self::Known(dtype) => Some(dtype.size()),
            Self::Other("ComplexDoubleStorage") => Some(16),
            Self::Other("ComplexFloatStorage") => Some(8),
            Self::Other("ComplexHalfStorage" | "QInt32Storage") => Some(4),
            Self::Other(
                "QInt8Storage" | "QUInt8Storage" | "QUInt4x2Storage" | "QUInt2x4Storage" | "UntypedStorage",
            ) => Some(1),
            Self::Other(_) => None,
        }
    }
}

/// A tensor as described by a pickle.
#[derive(Debug, Clone)]
pub(in crate::checkpoint) struct TensorView<'a> {
    pub(in crate::checkpoint) storage: StorageRef<'a>,
    pub(in crate::checkpoint) dtype: Dtype,
    pub(in crate::checkpoint) view: StridedView,
}

/// A tensor of a kind that is not read. Displayed as what it is, for a message.
#[derive(Debug, Clone, Copy)]
pub(in crate::checkpoint) enum OtherTensor<'a> {
    /// The class of its storage.
    Stored(&'a str),
    /// Its element type, such as `uint16`.
    Typed(&'a str),
    /// The function of `torch._utils` that makes it.
    Rebuilt(&'a str),
}

impl fmt::Display for OtherTensor<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Typed(dtype) => write!(formatter, "of type {}", shown(dtype)),
            Self::Stored(class) => {
                let kind = match class {
                    _ if class.starts_with("Complex") => "complex",
                    _ if class.starts_with('Q') => "quantised",
                    _ => "of an unknown type",
                };
                write!(formatter, "{kind} (torch.{})", shown(class))
            }
            Self::Rebuilt(function) => {
                let kind = match function {
                    _ if function.contains("sparse") => "sparse",
                    _ if function.contains("qtensor") => "quantised",
                    _ => "of another kind",
                };
                write!(formatter, "{kind} (torch._utils.{})", shown(function))
            }
        }
    }
}
