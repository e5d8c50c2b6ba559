//! Reads triangles of matrices, and matrices of products.

use super::arguments::dimension;
use super::error::OrFault;
use super::lowering::{Lowering, Source};
use super::op::{Arithmetic, Op};
use super::rules;
use super::size::{Size, product, shown_shape};
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

/// Sums over dimensions of two tensors that are named in pairs: what is left of the first, then of the second.
pub(super) fn sum_of_products(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let (one, two) = (lowering.tensor("self")?, lowering.tensor("other")?);
    let mut places = |name: &str, source: Source| -> OrFault<Vec<usize>> {
        let numbers = lowering.arguments.ints(name)?.unwrap_or_default();
        let rank = lowering.value(source).shape.len();
        let places = numbers.into_iter().map(|number| dimension(number, rank)).collect::<OrFault<Vec<_>>>()?;
        let is_twice = (0..places.len()).any(|at| places[..at].contains(&places[at]));
        if is_twice { Err("names a dimension twice".to_owned()) } else { Ok(places) }
    };
    let summed = [places("dims_self", one)?, places("dims_other", two)?];
    Ok(vec![summed_over(lowering, [one, two], &summed)?])
}

/// The sums of products over the last dimensions of two tensors.
pub(super) fn inner(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let both = [lowering.tensor("self")?, lowering.tensor("other")?];
    let last = |source: Source| -> OrFault<Vec<usize>> {
        let last = lowering.value(source).shape.len().checked_sub(1);
        last.map(|last| vec![last]).ok_or_else(|| "has no vectors [N…, M]".to_owned())
    };
    let summed = [last(both[0])?, last(both[1])?];
    Ok(vec![summed_over(lowering, both, &summed)?])
}

/// As one product of matrices.
fn summed_over(lowering: &mut Lowering<'_>, both: [Source; 2], summed: &[Vec<usize>; 2]) -> OrFault<Source> {
    let shapes = both.map(|source| lowering.shape(source));
    let sizes = [0, 1].map(|at| summed[at].iter().map(|&place| shapes[at][place]).collect::<Vec<Size>>());
    for at in [0, 1] {
        rules::not_over_the_batch(&shapes[at], &summed[at])?;
    }
    if sizes[0] != sizes[1] {
        return Err(format!(
            "sums over {} of one tensor and {} of the other",
            shown_shape(&sizes[0]),
            shown_shape(&sizes[1])
        ));
    }
    let left =
        [0, 1].map(|at| (0..shapes[at].len()).filter(|place| !summed[at].contains(place)).collect::<Vec<usize>>());
    let sizes_left = [0, 1].map(|at| left[at].iter().map(|&place| shapes[at][place]).collect::<Vec<Size>>());
    let merged = |sizes: &[Size]| product(sizes).ok_or("has too many elements or the batch size twice");
    let inner = merged(&sizes[0])?;
    let first = lowering.permute(both[0], [left[0].as_slice(), summed[0].as_slice()].concat())?;
    let first = lowering.reshape(first, vec![merged(&sizes_left[0])?, inner])?;
    let second = lowering.permute(both[1], [summed[1].as_slice(), left[1].as_slice()].concat())?;
    let second = lowering.reshape(second, vec![inner, merged(&sizes_left[1])?])?;
    let multiplied = lowering.add(Op::Matmul, &[first, second])?;
    lowering.reshape(multiplied, sizes_left.concat())
}

/// For each output o, the product `input1 · weight[o] · input2` of vectors in the last dimension.
pub(super) fn bilinear(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let (one, two) = (lowering.tensor("input1")?, lowering.tensor("input2")?);
    let weight = lowering.tensor("weight")?;
    let bias = lowering.optional_tensor("bias")?;
    let shape = lowering.shape(weight);
    let &[outputs, width, inner] = shape.as_slice() else {
        return Err(format!("has a weight {}, and needs one of three dimensions", shown_shape(&shape)));
    };
    // What each element of the first vector is multiplied by.
    let columns = product(&[outputs, width]).ok_or("has a weight with too many elements")?;
    let matrix = lowering.permute(weight, vec![2, 0, 1])?;
    let matrix = lowering.reshape(matrix, vec![inner, columns])?;
    let factors = lowering.add(Op::Matmul, &[two, matrix])?;
    let mut leading = lowering.shape(factors);
    leading.pop();
    let factors = lowering.reshape(factors, [leading.as_slice(), &[outputs, width]].concat())?;
    let column = [lowering.shape(one).as_slice(), &[Size::Fixed(1)]].concat();
    let column = lowering.reshape(one, column)?;
    let sums = lowering.add(Op::Matmul, &[factors, column])?;
    let sums = lowering.reshape(sums, [leading.as_slice(), &[outputs]].concat())?;
    Ok(vec![match bias {
        Some(bias) => lowering.combine(Arithmetic::Add, sums, bias)?,
        None => sums,
    }])
}
