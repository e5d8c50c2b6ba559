//! Tensors of an ONNX file: where their elements come from, and how they are written one at a time.

use std::io::Write;

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use super::proto::{DataType, TensorProto};
use crate::checkpoint::Dtype;
use crate::export::int8::{BatchNormScale, Scales};
use crate::export::{Result, Student};

/// The field of a tensor's elements.
const RAW_DATA: u32 = 9;
/// The field of a graph's tensors.
const INITIALIZER: u32 = 5;

#[derive(Debug)]
pub(super) struct Initializer {
    pub(super) name: String,
    pub(super) dims: Vec<u64>,
    pub(super) data_type: DataType,
    pub(super) elements: Elements,
}

/// Where elements come from.
#[derive(Debug)]
pub(super) enum Elements {
    Bytes(Vec<u8>),
    /// A tensor of the student, as it is stored.
    Stored(usize, Dtype),
    /// A matrix of the student with rows and columns swapped.
    Transposed(usize),
    /// Weights as int8, with a scale for each output.
    Quantised {
        weight: usize,
        fold: Option<BatchNormScale>,
        scales: Scales,
        transposed: bool,
    },
}

impl Initializer {
    /// Number of bytes of the elements; `None` on overflow.
    fn length(&self) -> Option<u64> {
        let size = match self.data_type {
            DataType::Int8 | DataType::Uint8 | DataType::Bool => 1,
            DataType::Int16 | DataType::Float16 | DataType::Bfloat16 => 2,
            DataType::Float | DataType::Int32 => 4,
            DataType::Int64 | DataType::Double => 8,
        };
        self.dims.iter().try_fold(size, |product: u64, &size| product.checked_mul(size))
    }

    /// Everything but the elements.
    fn head(&self) -> Vec<u8> {
        let dims = self.dims.iter().map(|&size| i64::try_from(size).unwrap_or(i64::MAX)).collect();
        let head =
            TensorProto { dims, data_type: self.data_type as i32, name: self.name.clone(), raw_data: Vec::new() };
        head.encode_to_vec()
    }

    /// Number of bytes of the message, and that of the field which holds it; `None` on overflow.
    fn sizes(&self) -> Option<(u64, u64)> {
        let elements = self.length()?;
        let message = (self.head().len() as u64 + field(RAW_DATA, elements)).checked_add(elements)?;
        Some((message, field(INITIALIZER, message).checked_add(message)?))
    }

    /// Number of bytes that [`Initializer::write`] writes; `None` on overflow.
    pub(super) fn size(&self) -> Option<u64> {
        self.sizes().map(|(_, size)| size)
    }

    /// Writes the field of a graph that holds this tensor.
    pub(super) fn write(&self, student: &Student, output: &mut impl Write) -> Result<()> {
        let bytes = self.bytes(student)?;
        let (message, _) = self.sizes().expect("sizes were added up before");
        let mut head = Vec::new();
        encode_key(INITIALIZER, WireType::LengthDelimited, &mut head);
        encode_varint(message, &mut head);
        head.extend(self.head());
        encode_key(RAW_DATA, WireType::LengthDelimited, &mut head);
        encode_varint(bytes.len() as u64, &mut head);
        debug_assert_eq!(Some(bytes.len() as u64), self.length());
        output.write_all(&head)?;
        output.write_all(&bytes)?;
        Ok(())
    }

    fn bytes(&self, student: &Student) -> Result<Vec<u8>> {
        Ok(match &self.elements {
            Elements::Bytes(bytes) => bytes.clone(),
            Elements::Stored(index, dtype) => student.bytes(*index, *dtype)?,
            Elements::Transposed(index) => {
                let bytes = student.bytes(*index, Dtype::F32)?;
                let [rows, columns] = [self.dims[1], self.dims[0]].map(|size| size as usize);
                transposed(bytes.as_chunks::<4>().0, rows, columns).into_flattened()
            }
            Elements::Quantised { weight, fold, scales, transposed: is_transposed } => {
                let mut floats = student.floats(*weight)?;
                if let Some(fold) = fold {
                    fold.apply(&mut floats);
                }
                let quantised = scales.quantise(&floats);
                if *is_transposed {
                    let [rows, columns] = [self.dims[1], self.dims[0]].map(|size| size as usize);
                    transposed(&quantised, rows, columns)
                } else {
                    quantised
                }
            }
        })
    }
}

/// A matrix of `rows` × `columns` elements with both swapped.
fn transposed<T: Copy>(elements: &[T], rows: usize, columns: usize) -> Vec<T> {
    (0..columns).flat_map(|column| (0..rows).map(move |row| elements[row * columns + column])).collect()
}

/// Bytes of a field's key and length.
pub(super) fn field(tag: u32, length: u64) -> u64 {
    (prost::encoding::key_len(tag) + encoded_len_varint(length)) as u64
}
