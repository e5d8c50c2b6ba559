//! Tensors that depend on neither the images nor the weights: masks of windows, positions, numbers of rows. They are
//! computed here, once, and the network gets the result.
//!
//! A constant holds what one image needs: its elements are the same for every image of a batch.

mod compute;
mod create;
mod views;

use std::cell::RefCell;
use std::rc::Rc;

use super::error::OrFault;
use super::graph::Value;
use super::size::Size;
use crate::checkpoint::Dtype;

pub(super) use compute::compute;
pub(super) use create::{Creation, creation};

/// A view of numbers in memory, which other constants may share.
#[derive(Debug, Clone)]
pub(super) struct Constant {
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<Size>,
    offset: usize,
    /// Distance of the elements of each dimension; 0 for those that are all the same.
    strides: Vec<usize>,
    memory: Rc<RefCell<TensorMemory>>,
}

#[derive(Debug)]
struct TensorMemory {
    elements: Vec<f64>,
    /// Counts changes.
    version: u64,
    /// Whether it is that of a tensor of the file, which nothing may overwrite.
    is_of_file: bool,
}

impl Constant {
    /// A new tensor with these elements in row-major order, as many as it has per image.
    pub(super) fn new(dtype: Dtype, shape: Vec<Size>, elements: Vec<f64>) -> Self {
        let strides = row_major(&shape);
        let memory = TensorMemory { elements, version: 0, is_of_file: false };
        Self { dtype, shape, offset: 0, strides, memory: Rc::new(RefCell::new(memory)) }
    }

    /// A tensor of the file.
    pub(super) fn of_file(value: &Value, elements: Vec<f64>) -> Self {
        let constant = Self::new(value.dtype, value.shape.clone(), elements);
        constant.memory.borrow_mut().is_of_file = true;
        constant
    }

    /// The number of elements per image.
    pub(super) fn count(&self) -> u64 {
        self.shape.iter().fold(1, |count, size| count.saturating_mul(size.per_image()))
    }

    /// Whether a change of one shows in the other.
    pub(super) fn shares_memory(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.memory, &other.memory)
    }

    /// Changes whenever something overwrites the memory.
    pub(super) fn version(&self) -> u64 {
        self.memory.borrow().version
    }

    /// The places of the elements in memory, in row-major order.
    fn places(&self) -> Vec<usize> {
        let mut places = vec![self.offset];
        for (size, &stride) in self.shape.iter().zip(&self.strides) {
            let count = size.per_image() as usize;
            places = places.iter().flat_map(|&place| (0..count).map(move |at| place + at * stride)).collect();
        }
        places
    }

    /// The elements in row-major order. The caller has counted them.
    pub(super) fn elements(&self) -> Vec<f64> {
        let memory = self.memory.borrow();
        self.places().into_iter().map(|place| memory.elements[place]).collect()
    }

    /// Overwrites the elements, also for those that share them.
    pub(super) fn overwrite(&self, elements: &[f64]) -> OrFault<()> {
        let places = self.places();
        let mut memory = self.memory.borrow_mut();
        if memory.is_of_file {
            return Err("overwrites a constant of the file".to_owned());
        }
        for (place, &element) in places.into_iter().zip(elements) {
            memory.elements[place] = element;
        }
        memory.version += 1;
        Ok(())
    }

    /// The tensor without what repeats: a shape of numbers, and its elements; the shape that it has to be expanded to;
    /// that has as many elements as the tensor's shape.
    pub(super) fn compact(&self) -> (Vec<u64>, Vec<f64>, Vec<Size>) {
        let (mut stored, mut expanded, mut kept) = (Vec::new(), Vec::new(), self.clone());
        for (at, &size) in self.shape.iter().enumerate() {
            let repeats = self.strides[at] == 0 || size.per_image() == 1;
            match size {
                Size::Batch(times) if !repeats => {
                    stored.extend([1, times]);
                    expanded.extend([Size::Batch(1), Size::Fixed(times)]);
                }
                _ if repeats => {
                    kept.shape[at] = Size::Fixed(1);
                    stored.push(1);
                    expanded.push(size);
                }
                _ => {
                    stored.push(size.per_image());
                    expanded.push(size);
                }
            }
        }
        (stored, kept.elements(), expanded)
    }
}

/// The strides of a tensor without gaps, per image.
fn row_major(shape: &[Size]) -> Vec<usize> {
    let mut strides = vec![1_usize; shape.len()];
    for at in (1..shape.len()).rev() {
        strides[at - 1] = strides[at].saturating_mul(shape[at].per_image() as usize);
    }
    strides
}

/// A number as an element of a type; `None` if the type does not have it.
pub(super) fn rounded(dtype: Dtype, number: f64) -> Option<f64> {
    /// Beyond it, not every integer is a double.
    const LARGEST: f64 = (1_u64 << 53) as f64;
    match dtype {
        Dtype::F64 => Some(number),
        Dtype::F32 => Some(f64::from(number as f32)),
        Dtype::Bool => Some(f64::from(u8::from(number != 0.0))),
        Dtype::I64 | Dtype::I32 | Dtype::I16 | Dtype::I8 | Dtype::U8 => {
            Some(number.trunc()).filter(|number| number.abs() <= LARGEST)
        }
        Dtype::F16 | Dtype::Bf16 => None,
    }
}

/// Elements as bytes of a type, little-endian.
pub(super) fn bytes(dtype: Dtype, elements: &[f64]) -> Option<Vec<u8>> {
    let all = |write: fn(f64) -> Vec<u8>| Some(elements.iter().flat_map(|&element| write(element)).collect());
    match dtype {
        Dtype::F64 => all(|element| element.to_le_bytes().to_vec()),
        Dtype::F32 => all(|element| (element as f32).to_le_bytes().to_vec()),
        Dtype::I64 => all(|element| (element as i64).to_le_bytes().to_vec()),
        Dtype::I32 => all(|element| (element as i32).to_le_bytes().to_vec()),
        Dtype::Bool => all(|element| vec![u8::from(element != 0.0)]),
        Dtype::I16 | Dtype::I8 | Dtype::U8 | Dtype::F16 | Dtype::Bf16 => None,
    }
}

/// Bytes of a type as elements; `None` if a number is too large, or the type is not computed with.
pub(super) fn of_bytes(dtype: Dtype, bytes: &[u8]) -> Option<Vec<f64>> {
    match dtype {
        Dtype::F64 => Some(bytes.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect()),
        Dtype::F32 => {
            Some(bytes.as_chunks::<4>().0.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes))).collect())
        }
        Dtype::I64 => {
            let numbers = bytes.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes));
            numbers.map(|number| (number.unsigned_abs() <= 1 << 53).then_some(number as f64)).collect()
        }
        Dtype::I32 => {
            Some(bytes.as_chunks::<4>().0.iter().map(|bytes| f64::from(i32::from_le_bytes(*bytes))).collect())
        }
        Dtype::Bool => Some(bytes.iter().map(|&byte| f64::from(u8::from(byte != 0))).collect()),
        Dtype::I16 | Dtype::I8 | Dtype::U8 | Dtype::F16 | Dtype::Bf16 => None,
    }
}
