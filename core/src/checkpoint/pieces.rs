//! Reads a tensor's elements in pieces, so that a large one takes little memory.

use super::error::Result;
use super::tensor::{StoredBytes, StridedView, Tensor};
use crate::byte_source::ByteSource;

/// Bytes that are read at a time.
const PIECE: u64 = 1 << 20;

/// Elements as stretches without gaps, in the order of memory.
struct Stretches {
    /// Elements of each.
    length: u64,
    /// Numbers and distances of stretches, the largest distance first.
    steps: Vec<(u64, u64)>,
    /// How often the tensor has each element.
    repeats: u64,
}

impl Stretches {
    fn of(view: &StridedView, extent: u64) -> Self {
        let mut steps: Vec<(u64, u64)> = view.shape.iter().copied().zip(view.strides.iter().copied()).collect();
        let repeats = steps.iter().filter(|(_, stride)| *stride == 0).map(|(size, _)| size).product();
        steps.retain(|&(size, stride)| size > 1 && stride > 0);
        steps.sort_by_key(|&(_, stride)| std::cmp::Reverse(stride));
        let mut covered = 1_u64;
        for &(size, stride) in steps.iter().rev() {
            if stride < covered {
                // Elements overlap. No network's do, so what lies between them is looked at, too.
                return Self { length: extent, steps: Vec::new(), repeats: 1 };
            }
            covered = covered.saturating_add((size - 1).saturating_mul(stride));
        }
        let mut length = 1;
        while let Some(&(size, stride)) = steps.last()
            && stride == length
        {
            length *= size;
            steps.pop();
        }
        Self { length, steps, repeats }
    }
}

impl Tensor {
    /// Calls a function with all elements, some at a time and little-endian: in the order of memory, which is not
    /// always the tensor's. Elements that overlap come once, with those between them.
    pub(crate) fn pieces(&self, source: &ByteSource, mut look: impl FnMut(&[u8])) -> Result<()> {
        if self.elements() == 0 {
            return Ok(());
        }
        let Stretches { length, steps, repeats } = Stretches::of(&self.view, self.extent);
        let size = self.dtype().size();
        let end = (self.view.offset + self.extent) * size;
        let mut window = StorageWindow { data: &self.data, source, start: 0, bytes: Vec::new(), end };
        let mut piece = Vec::new();
        let mut index = vec![0_u64; steps.len()];
        let mut at = self.view.offset;
        loop {
            for begin in (0..length).step_by((PIECE / size) as usize) {
                let count = (length - begin).min(PIECE / size);
                let bytes = window.get((at + begin) * size, count * size)?;
                for _ in 0..repeats {
                    piece.extend_from_slice(bytes);
                    if piece.len() as u64 >= PIECE {
                        self.give(&mut piece, &mut look);
                    }
                }
            }
            if !advance(&mut index, &steps, &mut at) {
                self.give(&mut piece, &mut look);
                return Ok(());
            }
        }
    }

    fn give(&self, piece: &mut Vec<u8>, look: &mut impl FnMut(&[u8])) {
        if self.big_endian {
            piece.chunks_exact_mut(self.dtype().size() as usize).for_each(<[u8]>::reverse);
        }
        look(piece);
        piece.clear();
    }
}

/// Goes on to the next stretch, if there is one.
fn advance(index: &mut [u64], steps: &[(u64, u64)], at: &mut u64) -> bool {
    for (index, (size, stride)) in index.iter_mut().zip(steps).rev() {
        *index += 1;
        *at += stride;
        if *index < *size {
            return true;
        }
        *at -= stride * size;
        *index = 0;
    }
    false
}

/// The bytes of a storage that were read last.
struct StorageWindow<'a> {
    data: &'a StoredBytes,
    source: &'a ByteSource,
    start: u64,
    bytes: Vec<u8>,
    /// Where the tensor ends in the storage.
    end: u64,
}

impl StorageWindow<'_> {
    /// `length` bytes from `from`, both within the storage and at most a piece.
    fn get(&mut self, from: u64, length: u64) -> Result<&[u8]> {
        let offset = match self.data {
            StoredBytes::Unpacked(bytes) => return Ok(&bytes[from as usize..(from + length) as usize]),
            StoredBytes::Range { offset, .. } => *offset,
        };
        let is_inside = from >= self.start && from + length <= self.start + self.bytes.len() as u64;
        if !is_inside {
            self.bytes.resize(PIECE.min(self.end - from) as usize, 0);
            self.source.read_at(&mut self.bytes, offset + from)?;
            self.start = from;
        }
        let begin = (from - self.start) as usize;
        Ok(&self.bytes[begin..begin + length as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::super::tensor::{Dtype, to_f32};
    use super::*;

    /// The elements of a view of the numbers from 0 on, in pieces.
    fn elements(shape: &[u64], strides: &[u64], offset: u64, big_endian: bool) -> (Vec<f32>, usize) {
        // Four pieces of float32.
        let count = 1_000_000_u32;
        let bytes = |number: u32| match big_endian {
            true => (number as f32).to_be_bytes(),
            false => (number as f32).to_le_bytes(),
        };
        let source = ByteSource::Memory((0..count).flat_map(bytes).collect());
        let view = StridedView { offset, shape: shape.to_vec(), strides: strides.to_vec() };
        let data = StoredBytes::Range { offset: 0, length: source.len() };
        let tensor = Tensor::new("x".to_owned(), Dtype::F32, view, data, big_endian).unwrap();
        let (mut all, mut largest) = (Vec::new(), 0);
        tensor
            .pieces(&source, |piece| {
                largest = largest.max(piece.len());
                all.extend(to_f32(Dtype::F32, piece));
            })
            .unwrap();
        let whole = tensor.bytes(&source).unwrap();
        let mut expected = to_f32(Dtype::F32, &whole);
        let mut sorted = all.clone();
        sorted.sort_by(f32::total_cmp);
        expected.sort_by(f32::total_cmp);
        assert!(sorted == expected || strides == [2, 1], "{shape:?} {strides:?}");
        (all, largest)
    }

    #[test]
    fn every_element_comes_once_in_the_order_of_memory_and_in_small_pieces() {
        for (shape, strides, offset) in [
            (&[1_000_000][..], &[1][..], 0),
            (&[500, 1000], &[1000, 1], 7),
            // Transposed, every third, a column, and a scalar.
            (&[1000, 500], &[1, 1000], 0),
            (&[500, 500], &[1500, 3], 5),
            (&[500, 1], &[1500, 1], 17),
            (&[], &[], 3),
            (&[3, 0], &[1, 1], 0),
        ] {
            for big_endian in [false, true] {
                let (all, largest) = elements(shape, strides, offset, big_endian);
                assert!(all.is_sorted() && largest <= 2 << 20, "{shape:?} {strides:?}: {largest}");
            }
        }
    }

    #[test]
    fn elements_that_repeat_are_counted_and_those_that_overlap_come_once() {
        let (all, largest) = elements(&[2, 300_000], &[800_000, 0], 1, false);
        assert_eq!((all.len(), all[0], all[599_999]), (600_000, 1.0, 800_001.0));
        assert!(largest <= 2 << 20);
        assert_eq!(elements(&[2, 3], &[2, 1], 0, false).0, [0.0, 1.0, 2.0, 3.0, 4.0]);
    }
}
