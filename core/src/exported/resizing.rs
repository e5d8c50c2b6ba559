//! Reads what resizes maps.

use super::arguments::unexpected;
use super::error::OrFault;
use super::lowering::{Lowering, Source};
use super::op::Op;
use super::size::shown_shape;
use crate::checkpoint::Dtype;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResamplingKernel {
    Nearest,
    /// From the centres of elements rather than from their edges.
    NearestExact,
    Linear {
        antialias: bool,
    },
    Cubic {
        antialias: bool,
    },
}

/// The weight of an element by its distance from the centre, in elements.
type Weighting = fn(f64) -> f64;

impl ResamplingKernel {
    fn is_smooth(self) -> bool {
        matches!(self, Self::Linear { .. } | Self::Cubic { .. })
    }

    /// Whether a factor moves the elements of an axis whose size stays.
    fn follows_the_factor(self) -> bool {
        self == Self::Cubic { antialias: false }
    }

    /// The weight at a distance from the centre, with a window that grows with what is left out, and half that window.
    fn antialiased(self) -> Option<(Weighting, f64)> {
        match self {
            Self::Linear { antialias: true } => Some((|distance| (1.0 - distance).max(0.0), 1.0)),
            Self::Cubic { antialias: true } => Some((|distance| cubic(distance, -0.5), 2.0)),
            _ => None,
        }
    }
}

/// Resizes the positions of [B, C, L] or [B, C, H, W]: a product with a matrix of weights for columns, and one for
/// rows.
pub(super) fn resize(lowering: &mut Lowering<'_>, kernel: ResamplingKernel, sides: usize) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("input")?;
    let shape = lowering.shape(input);
    if shape.len() != sides + 2 {
        let wanted = if sides == 1 { "rows [B, C, L]" } else { "a map [B, C, H, W]" };
        return Err(format!("needs {wanted}, and has {}", shown_shape(&shape)));
    }
    let sizes = (0..sides).map(|at| lowering.fixed(input, 2 + at)).collect::<OrFault<Vec<_>>>()?;
    let aligned = kernel.is_smooth() && lowering.arguments.flag("align_corners", None)?;
    let factors = lowering.arguments.numbers("scale_factors")?.unwrap_or_default();
    let factor = |at: usize| factors.get(at).copied().filter(|factor| *factor > 0.0);
    let wanted = match lowering.arguments.ints("output_size")? {
        Some(sizes) => sizes.iter().map(|&size| u64::try_from(size).unwrap_or(0)).collect::<Vec<_>>(),
        None => (0..sides).map(|at| (sizes[at] as f64 * factor(at).unwrap_or(0.0)).floor() as u64).collect(),
    };
    if wanted.len() != sides {
        return Err(unexpected("output_size"));
    }
    // PyTorch copies an axis whose size stays, but for the plain cubic kernel, whose places follow from the factor.
    let moves = |at: usize| kernel.follows_the_factor() && !aligned && factor(at).is_some_and(|factor| factor != 1.0);
    let mut resized = input;
    for at in (0..sides).rev().filter(|&at| wanted[at] != sizes[at] || moves(at)) {
        let (from, to) = (sizes[at], wanted[at]);
        let matrix = weights(lowering, kernel, SampledSide { aligned, from, to, factor: factor(at) })?;
        resized = if at + 1 == sides {
            let transposed = |place: u64| matrix[(place % to * from + place / to) as usize];
            let matrix = lowering.constant(Dtype::F32, &[from, to], transposed)?;
            lowering.add(Op::Matmul, &[resized, matrix])?
        } else {
            let matrix = lowering.constant(Dtype::F32, &[to, from], |place| matrix[place as usize])?;
            lowering.add(Op::Matmul, &[matrix, resized])?
        };
    }
    Ok(vec![resized])
}

/// A side and its new size.
struct SampledSide {
    aligned: bool,
    from: u64,
    to: u64,
    /// The factor, if PyTorch was given that rather than the size.
    factor: Option<f64>,
}

/// The share of each old element in each new one: a matrix [to, from].
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
        if let Some((weight, half)) = kernel.antialiased() {
            antialias(&mut matrix[(row * from) as usize..((row + 1) * from) as usize], scale, row, (weight, half));
            continue;
        }
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
            ResamplingKernel::Linear { .. } => {
                let centre = centre.max(0.0);
                let (low, part) = (centre.floor(), centre.fract());
                add(low as i64, 1.0 - part);
                add(low as i64 + 1, part);
            }
            ResamplingKernel::Cubic { .. } => {
                for at in -1..=2_i64 {
                    let distance = (centre - (centre.floor() + at as f64)).abs();
                    add(centre.floor() as i64 + at, cubic(distance, -0.75));
                }
            }
        }
    }
    Ok(matrix)
}

/// The weights of one new element: a kernel that covers `scale` elements for each of those that it covers otherwise,
/// and whose weights add up to 1, as in PyTorch and Pillow.
fn antialias(weights: &mut [f64], scale: f64, row: u64, (kernel, half): (fn(f64) -> f64, f64)) {
    let (wide, centre) = (scale.max(1.0), scale * (row as f64 + 0.5));
    let end = ((centre + half * wide + 0.5) as usize).min(weights.len());
    let start = ((centre - half * wide + 0.5).max(0.0) as usize).min(end);
    for (at, weight) in weights[start..end].iter_mut().enumerate() {
        *weight = kernel((((start + at) as f64 - centre + 0.5) / wide).abs());
    }
    let sum: f64 = weights.iter().sum();
    if sum != 0.0 {
        weights.iter_mut().for_each(|weight| *weight /= sum);
    }
}

/// The cubic convolution kernel of Keys 1981 with the slope `a` at distance 1.
fn cubic(distance: f64, a: f64) -> f64 {
    match distance {
        x if x <= 1.0 => ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0,
        x if x < 2.0 => ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a,
        _ => 0.0,
    }
}
