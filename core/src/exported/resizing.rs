//! Reads what resizes maps.

use super::arguments::unexpected;
use super::error::OrFault;
use super::lowering::{Lowering, Source};
use super::op::Op;
use super::resampling::sides;
use crate::checkpoint::Dtype;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResamplingKernel {
    Nearest,
    /// From the centres of elements rather than from their edges.
    NearestExact,
    Linear,
    Cubic,
}

/// Resizes a map: a product with a matrix of weights for its rows, and one for its columns.
pub(super) fn resize(lowering: &mut Lowering<'_>, kernel: ResamplingKernel) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("input")?;
    let (_, [_, height, width]) = sides(lowering, input)?;
    let is_smooth = matches!(kernel, ResamplingKernel::Linear | ResamplingKernel::Cubic);
    let aligned = is_smooth && lowering.arguments.flag("align_corners", None)?;
    let factors = lowering.arguments.numbers("scale_factors")?;
    let wanted = match lowering.arguments.ints("output_size")? {
        Some(sizes) => sizes.iter().map(|&size| u64::try_from(size).unwrap_or(0)).collect::<Vec<_>>(),
        None => {
            let factor = |at: usize| factors.as_ref().and_then(|factors| factors.get(at)).copied().unwrap_or(0.0);
            vec![(height as f64 * factor(0)).floor() as u64, (width as f64 * factor(1)).floor() as u64]
        }
    };
    let [rows, columns] = wanted[..] else { return Err(unexpected("output_size")) };
    let factor =
        |at: usize| factors.as_ref().and_then(|factors| factors.get(at)).copied().filter(|factor| *factor > 0.0);
    // PyTorch copies an axis whose size stays, but for cubic weights, whose places follow from the factor alone.
    let moves =
        |at: usize| kernel == ResamplingKernel::Cubic && !aligned && factor(at).is_some_and(|factor| factor != 1.0);
    let mut resized = input;
    if columns != width || moves(1) {
        let matrix = weights(lowering, kernel, SampledSide { aligned, from: width, to: columns, factor: factor(1) })?;
        let transposed = |at: u64| matrix[(at % columns * width + at / columns) as usize];
        let matrix = lowering.constant(Dtype::F32, &[width, columns], transposed)?;
        resized = lowering.add(Op::Matmul, &[resized, matrix])?;
    }
    if rows != height || moves(0) {
        let matrix = weights(lowering, kernel, SampledSide { aligned, from: height, to: rows, factor: factor(0) })?;
        let matrix = lowering.constant(Dtype::F32, &[rows, height], |at| matrix[at as usize])?;
        resized = lowering.add(Op::Matmul, &[matrix, resized])?;
    }
    Ok(vec![resized])
}

/// A side and its new size.
struct SampledSide {
    aligned: bool,
    from: u64,
    to: u64,
    /// What PyTorch was told, if not the size.
    factor: Option<f64>,
}

/// How much each of the new elements has of each old one: a matrix [to, from].
fn weights(lowering: &Lowering<'_>, kernel: ResamplingKernel, sampling: SampledSide) -> OrFault<Vec<f64>> {
    let SampledSide { aligned, from, to, factor } = sampling;
    if from == 0 || to == 0 {
        return Err(format!("resizes {from} to {to}"));
    }
    lowering.arguments.scope.spend(from.saturating_mul(to))?;
    let scale = match aligned {
        true if to > 1 => (from - 1) as f64 / (to - 1) as f64,
        true => 0.0,
        false => factor.map_or(from as f64 / to as f64, |factor| 1.0 / factor),
    };
    let mut matrix = vec![0.0; (from * to) as usize];
    let last = from as i64 - 1;
    for row in 0..to {
        let mut add = |at: i64, weight: f64| matrix[(row * from) as usize + at.clamp(0, last) as usize] += weight;
        let centre = if aligned { scale * row as f64 } else { scale * (row as f64 + 0.5) - 0.5 };
        match kernel {
            // PyTorch knows twice the size, whatever the factor.
            ResamplingKernel::Nearest if to == 2 * from => add((row / 2) as i64, 1.0),
            // In single precision, as PyTorch does it.
            ResamplingKernel::Nearest => add((row as f32 * scale as f32).floor() as i64, 1.0),
            ResamplingKernel::NearestExact => {
                let place = (f64::from(row as f32) + 0.5) * f64::from(scale as f32);
                add((place as f32).floor() as i64, 1.0);
            }
            ResamplingKernel::Linear => {
                let centre = centre.max(0.0);
                let (low, part) = (centre.floor(), centre.fract());
                add(low as i64, 1.0 - part);
                add(low as i64 + 1, part);
            }
            ResamplingKernel::Cubic => {
                for at in -1..=2_i64 {
                    let distance = (centre - (centre.floor() + at as f64)).abs();
                    add(centre.floor() as i64 + at, cubic(distance));
                }
            }
        }
    }
    Ok(matrix)
}

/// The cubic convolution kernel with a = −0.75.
fn cubic(distance: f64) -> f64 {
    const A: f64 = -0.75;
    match distance {
        x if x <= 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        x if x < 2.0 => ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A,
        _ => 0.0,
    }
}
