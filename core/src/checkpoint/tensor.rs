//! Element types, and tensors as strided views of stored bytes.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};

use super::error::{Result, corrupt, shown};
use crate::byte_source::ByteSource;

/// Element type of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Dtype {
    F64,
    F32,
    F16,
    /// bfloat16: the upper half of a float32.
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U8,
    /// One byte, 0 or 1.
    Bool,
}

impl Dtype {
    pub const ALL: [Self; 10] =
        [Self::F64, Self::F32, Self::F16, Self::Bf16, Self::I64, Self::I32, Self::I16, Self::I8, Self::U8, Self::Bool];

    /// Bytes per element.
    #[must_use]
    pub fn size(self) -> u64 {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::Bf16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// The name in safetensors files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::I64 => "I64",
            Self::I32 => "I32",
            Self::I16 => "I16",
            Self::I8 => "I8",
            Self::U8 => "U8",
            Self::Bool => "BOOL",
        }
    }

    /// The type with this name in safetensors files.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    #[must_use]
    pub fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::Bf16)
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Where a storage's bytes are.
#[derive(Debug, Clone)]
pub(crate) enum StoredBytes {
    /// In the file.
    Range { offset: u64, length: u64 },
    /// In memory, unpacked from a compressed archive entry.
    Unpacked(Arc<[u8]>),
}

impl StoredBytes {
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Range { length, .. } => *length,
            Self::Unpacked(bytes) => bytes.len() as u64,
        }
    }
}

/// A view of a storage. All numbers count elements.
#[derive(Debug, Clone)]
pub(crate) struct StridedView {
    pub(crate) offset: u64,
    pub(crate) shape: Vec<u64>,
    pub(crate) strides: Vec<u64>,
}

impl StridedView {
    /// A view of a whole storage in row-major order. `None` if the number of elements overflows.
    pub(super) fn contiguous(shape: Vec<u64>) -> Option<Self> {
        let mut strides = vec![1; shape.len()];
        for dimension in (1..shape.len()).rev() {
            strides[dimension - 1] = shape[dimension].max(1).checked_mul(strides[dimension])?;
        }
        let view = Self { offset: 0, shape, strides };
        view.elements().map(|_| view)
    }

    /// The number of elements; `None` on overflow.
    pub(super) fn elements(&self) -> Option<u64> {
        if self.shape.contains(&0) {
            return Some(0);
        }
        self.shape.iter().try_fold(1_u64, |product, &size| product.checked_mul(size))
    }

    /// Distance from the first element to the end of the last; `None` on overflow.
    fn extent(&self) -> Option<u64> {
        if self.elements()? == 0 {
            return Some(0);
        }
        let mut last = 0_u64;
        for (&size, &stride) in self.shape.iter().zip(&self.strides) {
            last = last.checked_add((size - 1).checked_mul(stride)?)?;
        }
        last.checked_add(1)
    }

    fn is_contiguous(&self) -> bool {
        if self.shape.contains(&0) {
            return true;
        }
        let mut expected = 1;
        for (&size, &stride) in self.shape.iter().zip(&self.strides).rev() {
            if size != 1 && stride != expected {
                return false;
            }
            expected *= size;
        }
        true
    }
}

/// A tensor of a checkpoint. Elements are read on demand.
#[derive(Debug, Clone)]
pub struct Tensor {
    name: String,
    dtype: Dtype,
    pub(super) view: StridedView,
    pub(super) data: StoredBytes,
    pub(super) big_endian: bool,
    elements: u64,
    pub(super) extent: u64,
}

impl Tensor {
    /// Checks that the view lies within the data.
    pub(crate) fn new(
        name: String,
        dtype: Dtype,
        view: StridedView,
        data: StoredBytes,
        big_endian: bool,
    ) -> Result<Self> {
        let stored = data.len() / dtype.size();
        let within = |extent: &u64| *extent == 0 || view.offset.checked_add(*extent).is_some_and(|end| end <= stored);
        let (Some(elements), Some(extent)) = (view.elements(), view.extent().filter(within)) else {
            let shape = &view.shape[..view.shape.len().min(8)];
            return corrupt(format!(
                "{} has shape {shape:?}, which needs more than the {stored} elements stored for it",
                shown(&name)
            ));
        };
        Ok(Self { name, dtype, view, data, big_endian, elements, extent })
    }

    /// The key in the state dict.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn set_name(&mut self, name: String) {
        self.name = name;
    }

    #[must_use]
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Empty for a scalar.
    #[must_use]
    pub fn shape(&self) -> &[u64] {
        &self.view.shape
    }

    #[must_use]
    pub fn elements(&self) -> u64 {
        self.elements
    }

    pub(crate) fn view(&self) -> &StridedView {
        &self.view
    }

    /// Where its elements lie in the bytes that are stored.
    pub(crate) fn stored_bytes(&self) -> Range<u64> {
        let size = self.dtype.size();
        self.view.offset.saturating_mul(size)..self.view.offset.saturating_add(self.extent).saturating_mul(size)
    }

    /// Bytes that reading the tensor scans or produces, whichever are more.
    pub(crate) fn cost(&self) -> u64 {
        self.extent.max(self.elements).saturating_mul(self.dtype.size())
    }

    /// The elements in row-major order, little-endian.
    pub(crate) fn bytes(&self, source: &ByteSource) -> Result<Vec<u8>> {
        let size = self.dtype.size();
        let (start, length) = if self.extent == 0 { (0, 0) } else { (self.view.offset * size, self.extent * size) };
        let stored = match &self.data {
            StoredBytes::Range { offset, .. } => source.read(offset + start, length)?,
            StoredBytes::Unpacked(bytes) => bytes[start as usize..(start + length) as usize].to_vec(),
        };
        let mut bytes = if self.view.is_contiguous() { stored } else { self.gather(&stored) };
        if self.big_endian {
            bytes.chunks_exact_mut(size as usize).for_each(<[u8]>::reverse);
        }
        Ok(bytes)
    }

    /// The elements of some entries of the first dimension, as by [`bytes`](Self::bytes).
    pub(crate) fn rows(&self, source: &ByteSource, first: u64, count: u64) -> Result<Vec<u8>> {
        let entries = self.view.shape.first().copied().unwrap_or(1);
        assert!(first.checked_add(count).is_some_and(|end| end <= entries), "{first} + {count} of {entries}");
        let row = self.elements / entries.max(1) * self.dtype.size();
        match &self.data {
            StoredBytes::Range { offset, .. } if self.view.is_contiguous() && !self.big_endian => {
                let start = self.view.offset * self.dtype.size() + first * row;
                Ok(source.read(offset + start, count * row)?)
            }
            _ => {
                let bytes = self.bytes(source)?;
                Ok(bytes[(first * row) as usize..((first + count) * row) as usize].to_vec())
            }
        }
    }

    /// Copies element by element, in row-major order.
    fn gather(&self, stored: &[u8]) -> Vec<u8> {
        let size = self.dtype.size() as usize;
        let mut bytes = Vec::with_capacity(self.elements as usize * size);
        let mut index = vec![0_u64; self.view.shape.len()];
        let mut at = 0_u64;
        for _ in 0..self.elements {
            let from = at as usize * size;
            bytes.extend_from_slice(&stored[from..from + size]);
            for dimension in (0..index.len()).rev() {
                index[dimension] += 1;
                at += self.view.strides[dimension];
                if index[dimension] < self.view.shape[dimension] {
                    break;
                }
                at -= self.view.strides[dimension] * index[dimension];
                index[dimension] = 0;
            }
        }
        bytes
    }
}

/// Total size of the tensors' unpacked storages, each counted once.
pub(super) fn unpacked(tensors: &[Tensor]) -> u64 {
    let mut seen = HashSet::new();
    let storages = tensors.iter().filter_map(|tensor| match &tensor.data {
        StoredBytes::Unpacked(bytes) => Some(bytes),
        StoredBytes::Range { .. } => None,
    });
    storages.filter(|bytes| seen.insert(bytes.as_ptr())).map(|bytes| bytes.len() as u64).sum()
}

/// Converts little-endian elements of any type to single precision.
pub(crate) fn to_f32(dtype: Dtype, bytes: &[u8]) -> Vec<f32> {
    fn each<const N: usize>(bytes: &[u8], convert: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        bytes.as_chunks::<N>().0.iter().map(|&element| convert(element)).collect()
    }
    match dtype {
        Dtype::F64 => each(bytes, |element| f64::from_le_bytes(element) as f32),
        Dtype::F32 => each(bytes, f32::from_le_bytes),
        Dtype::F16 => each(bytes, |element| f16::from_le_bytes(element).to_f32()),
        Dtype::Bf16 => each(bytes, |element| bf16::from_le_bytes(element).to_f32()),
        Dtype::I64 => each(bytes, |element| i64::from_le_bytes(element) as f32),
        Dtype::I32 => each(bytes, |element| i32::from_le_bytes(element) as f32),
        Dtype::I16 => each(bytes, |element| f32::from(i16::from_le_bytes(element))),
        Dtype::I8 => each(bytes, |element| f32::from(i8::from_le_bytes(element))),
        Dtype::U8 => each(bytes, |[element]| f32::from(element)),
        Dtype::Bool => each(bytes, |[element]| if element == 0 { 0.0 } else { 1.0 }),
    }
}
