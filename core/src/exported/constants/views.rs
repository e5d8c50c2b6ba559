//! Other views of a constant's memory. The shapes were inferred, and fit.

use super::{Constant, row_major};
use crate::exported::error::OrFault;
use crate::exported::size::{Size, product};

impl Constant {
    fn view(&self, offset: usize, shape: Vec<Size>, strides: Vec<usize>) -> Self {
        Self { dtype: self.dtype, shape, offset, strides, memory: self.memory.clone() }
    }

    pub(super) fn permuted(&self, order: &[usize]) -> Self {
        let shape = order.iter().map(|&at| self.shape[at]).collect();
        self.view(self.offset, shape, order.iter().map(|&at| self.strides[at]).collect())
    }

    /// `size` elements of a dimension.
    pub(super) fn sliced(&self, dimension: usize, start: u64, step: u64, size: u64) -> Self {
        let (mut shape, mut strides) = (self.shape.clone(), self.strides.clone());
        let offset = self.offset + start as usize * strides[dimension];
        shape[dimension] = Size::Fixed(size);
        strides[dimension] = strides[dimension].saturating_mul(step as usize);
        self.view(offset, shape, strides)
    }

    pub(super) fn selected(&self, dimension: usize, index: u64) -> Self {
        let mut one = self.sliced(dimension, index, 1, 1);
        one.shape.remove(dimension);
        one.strides.remove(dimension);
        one
    }

    pub(super) fn expanded(&self, shape: &[Size]) -> Self {
        let new = shape.len() - self.shape.len();
        let stride = |(at, &size): (usize, &Size)| match at.checked_sub(new) {
            Some(at) if self.shape[at] == size => self.strides[at],
            _ => 0,
        };
        let strides = shape.iter().enumerate().map(stride).collect();
        self.view(self.offset, shape.to_vec(), strides)
    }

    /// The same memory under another shape; `None` if it has to be copied for that.
    pub(super) fn reshaped(&self, shape: &[Size]) -> Option<Self> {
        if shape == self.shape {
            return Some(self.clone());
        }
        let without_ones = |shape: &[Size], strides: &[usize]| -> (Vec<Size>, Vec<usize>) {
            let parts = shape.iter().zip(strides).filter(|(size, _)| size.per_image() != 1);
            parts.map(|(size, stride)| (*size, *stride)).unzip()
        };
        let (sizes, strides) = without_ones(&self.shape, &self.strides);
        let (wanted, _) = without_ones(shape, &vec![1; shape.len()]);
        let per_image = |sizes: &[Size]| sizes.iter().map(|size| size.per_image()).collect::<Vec<_>>();
        if per_image(&sizes) == per_image(&wanted) {
            // Dimensions of one element were added or removed.
            let mut left = strides.into_iter();
            let strides = shape.iter().map(|size| if size.per_image() == 1 { 0 } else { left.next().unwrap_or(0) });
            let strides = strides.collect();
            return Some(self.view(self.offset, shape.to_vec(), strides));
        }
        (row_major(&sizes) == strides).then(|| self.view(self.offset, shape.to_vec(), row_major(shape)))
    }
}

/// Whether elements keep their image under another shape: what is before the dimension with the images stays before it.
pub(super) fn keeps_images(before: &[Size], after: &[Size]) -> OrFault<()> {
    let leading = |shape: &[Size]| -> Option<Option<Size>> {
        let batches = shape.iter().filter(|size| size.fixed().is_none()).count();
        match shape.iter().position(|size| size.fixed().is_none()) {
            None => Some(None),
            Some(at) if batches == 1 => product(&shape[..at]).map(Some),
            Some(_) => None,
        }
    };
    match (leading(before), leading(after)) {
        (Some(one), Some(two)) if one == two => Ok(()),
        _ => Err("moves elements from one image of a batch to another".to_owned()),
    }
}
