//! Reads triangles of matrices, and matrices of products.

use super::error::OrFault;
use super::lowering::{Lowering, Source};
use super::op::{Arithmetic, Op};
use super::size::{Size, shown_shape};
use crate::checkpoint::Dtype;

/// The part of a matrix on one side of a diagonal, with the diagonal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Triangle {
    Lower,
    Upper,
}

impl Triangle {
    /// Whether an element is in it. Diagonals are numbered from the main one to the right.
    pub(super) fn contains(self, diagonal: i64, row: u64, column: u64) -> bool {
        let own = i64::try_from(column).unwrap_or(i64::MAX) - i64::try_from(row).unwrap_or(i64::MAX);
        match self {
            Self::Lower => own <= diagonal,
            Self::Upper => own >= diagonal,
        }
    }
}

/// Matrices in the last two dimensions, with zeros outside of a triangle.
pub(super) fn triangle(lowering: &mut Lowering<'_>, triangle: Triangle) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    let diagonal = lowering.arguments.int("diagonal", Some(0))?;
    let rank = lowering.value(input).shape.len();
    let first = rank.checked_sub(2).ok_or("takes triangles of what is no matrix")?;
    let (rows, columns) = (lowering.fixed(input, first)?, lowering.fixed(input, first + 1)?);
    let is_kept = |at: u64| f64::from(u8::from(triangle.contains(diagonal, at / columns, at % columns)));
    let kept = lowering.constant(Dtype::Bool, &[rows, columns], is_kept)?;
    let zero = lowering.constant(Dtype::F32, &[], |_| 0.0)?;
    Ok(vec![lowering.add(Op::Where, &[kept, input, zero])?])
}

/// The products of each element of one vector with each of another.
pub(super) fn outer(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let (one, two) = (lowering.tensor("self")?, lowering.tensor("vec2")?);
    let (first, second) = (lowering.shape(one), lowering.shape(two));
    let ([rows], [_]) = (first.as_slice(), second.as_slice()) else {
        return Err(format!("multiplies {} and {}, which are no vectors", shown_shape(&first), shown_shape(&second)));
    };
    let column = lowering.reshape(one, vec![*rows, Size::Fixed(1)])?;
    Ok(vec![lowering.combine(Arithmetic::Multiply, column, two)?])
}
