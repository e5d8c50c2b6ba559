//! Values that a pickle makes.

use super::tensors::{OtherTensor, StorageRef, TensorView};

/// Index of an object in the heap of a [`Machine`](super::Machine).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Ref(pub(super) u32);

/// A Python value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in super::super) enum PickleValue<'a> {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(&'a str),
    Bytes(&'a [u8]),
    /// An integer of more than 64 bits, little-endian.
    Long(&'a [u8]),
    Object(Ref),
    /// A harmless value whose content is irrelevant.
    Opaque,
}

/// What a [`PickleValue::Object`] refers to.
#[derive(Debug)]
pub(in super::super) enum HeapObject<'a> {
    List(Vec<PickleValue<'a>>),
    Tuple(Vec<PickleValue<'a>>),
    Dict(Vec<(PickleValue<'a>, PickleValue<'a>)>),
    /// The name of a function or class.
    Global {
        module: &'a str,
        name: &'a str,
    },
    Storage(StorageRef<'a>),
    Tensor(TensorView<'a>),
    /// A tensor of a kind that is not read.
    OtherTensor(OtherTensor<'a>),
    /// What an unknown function or class would have made. It was not called.
    Foreign {
        module: &'a str,
        name: &'a str,
        /// The entries, if the file makes it a dictionary.
        entries: Vec<(PickleValue<'a>, PickleValue<'a>)>,
    },
}
