//! Reads what combines the elements of dimensions: sums, means, largest elements, norms, variances.

use super::arguments::{Arguments, unexpected};
use super::error::OrFault;
use super::functions::only_float32;
use super::layers::normalised;
use super::lowering::{Lowering, Source};
use super::op::{Activation, Arithmetic, Op};
use super::rules;
use super::schema::Argument;
use super::size::{self, Size};

pub(super) fn mean(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let rank = arguments.tensor("self")?.shape.len();
    only_float32(arguments)?;
    let dimensions = arguments.dimensions("dim", rank)?;
    Ok(Op::Mean { dimensions, keeps: arguments.flag("keepdim", Some(false))? })
}

pub(super) fn sum(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    only_float32(&mut lowering.arguments)?;
    let rank = lowering.value(input).shape.len();
    let dimensions = lowering.arguments.dimensions("dim", rank)?;
    let keeps = lowering.arguments.flag("keepdim", Some(false))?;
    Ok(vec![lowering.sum(input, dimensions, keeps)?])
}

pub(super) fn largest(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let rank = arguments.tensor("self")?.shape.len();
    let dimensions = arguments.dimensions("dim", rank)?;
    Ok(Op::Max { dimensions, keeps: arguments.flag("keepdim", Some(false))?, shares: true })
}

pub(super) fn log_sum_exp(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let rank = arguments.tensor("self")?.shape.len();
    let dimensions = arguments.dimensions("dim", rank)?;
    Ok(Op::LogSumExp { dimensions, keeps: arguments.flag("keepdim", Some(false))? })
}

pub(super) fn cumulative_sum(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let rank = arguments.tensor("self")?.shape.len();
    only_float32(arguments)?;
    Ok(Op::CumulativeSum { dimension: arguments.dimension("dim", None, rank)? })
}

/// The product of all elements.
pub(super) fn product_of_all(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    only_float32(&mut lowering.arguments)?;
    let shape = lowering.shape(input);
    rules::not_over_the_batch(&shape, &(0..shape.len()).collect::<Vec<_>>())?;
    let count = size::product(&shape).ok_or("multiplies too many elements")?;
    let vector = lowering.reshape(input, vec![count])?;
    let multiplied = multiplied_along(lowering, vector, 0)?;
    Ok(vec![lowering.reshape(multiplied, Vec::new())?])
}

pub(super) fn product(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    only_float32(&mut lowering.arguments)?;
    let mut shape = lowering.shape(input);
    let dimension = lowering.arguments.dimension("dim", None, shape.len())?;
    let keeps = lowering.arguments.flag("keepdim", Some(false))?;
    rules::not_over_the_batch(&shape, &[dimension])?;
    let multiplied = multiplied_along(lowering, input, dimension)?;
    if keeps {
        return Ok(vec![multiplied]);
    }
    shape.remove(dimension);
    Ok(vec![lowering.reshape(multiplied, shape)?])
}

/// The product of the elements of a dimension, which remains with size 1: one half times the other, until one is left.
/// So gradients need no division, by elements that may be zero.
fn multiplied_along(lowering: &mut Lowering<'_>, input: Source, dimension: usize) -> OrFault<Source> {
    let part = |start, end| Op::Slice { dimension, start, end, step: 1 };
    let mut factors = input;
    let mut left = lowering.fixed(input, dimension)?;
    while left > 1 {
        let half = left / 2;
        let first = lowering.add(part(0, half), &[factors])?;
        let second = lowering.add(part(half, 2 * half), &[factors])?;
        let products = lowering.combine(Arithmetic::Multiply, first, second)?;
        factors = if left % 2 == 0 {
            products
        } else {
            let rest = lowering.add(part(2 * half, left), &[factors])?;
            lowering.add(Op::Concat { dimension }, &[products, rest])?
        };
        left = half + left % 2;
    }
    Ok(factors)
}

/// The sums of products over one dimension; sizes of 1 are broadcast.
pub(super) fn products_of_vectors(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let (one, two) = (lowering.tensor("x")?, lowering.tensor("y")?);
    let products = lowering.combine(Arithmetic::Multiply, one, two)?;
    let rank = lowering.value(products).shape.len();
    let dimension = lowering.arguments.dimension("dim", Some(-1), rank)?;
    Ok(vec![lowering.sum(products, vec![dimension], false)?])
}

/// The smallest elements are the largest ones of what has the other sign.
pub(super) fn smallest(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    let rank = lowering.value(input).shape.len();
    let dimensions = lowering.arguments.dimensions("dim", rank)?;
    let keeps = lowering.arguments.flag("keepdim", Some(false))?;
    negated_largest(lowering, input, Op::Max { dimensions, keeps, shares: true })
}

pub(super) fn smallest_of_one(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    let rank = lowering.value(input).shape.len();
    let dimension = lowering.arguments.dimension("dim", None, rank)?;
    let keeps = lowering.arguments.flag("keepdim", Some(false))?;
    lowering.leaves_out("the positions of smallest elements");
    negated_largest(lowering, input, Op::Max { dimensions: vec![dimension], keeps, shares: false })
}

fn negated_largest(lowering: &mut Lowering<'_>, input: Source, largest: Op) -> OrFault<Vec<Source>> {
    let negative = lowering.with_number(Arithmetic::Multiply, input, -1.0)?;
    let largest = lowering.add(largest, &[negative])?;
    Ok(vec![lowering.with_number(Arithmetic::Multiply, largest, -1.0)?])
}

pub(super) fn largest_of_one(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    let rank = lowering.value(input).shape.len();
    let dimension = lowering.arguments.dimension("dim", None, rank)?;
    let keeps = lowering.arguments.flag("keepdim", Some(false))?;
    lowering.leaves_out("the positions of largest elements");
    Ok(vec![lowering.add(Op::Max { dimensions: vec![dimension], keeps, shares: false }, &[input])?])
}

/// A vector norm with the order in the argument `order`.
pub(super) fn norm(lowering: &mut Lowering<'_>, order: &str) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    only_float32(&mut lowering.arguments)?;
    let rank = lowering.value(input).shape.len();
    let number = lowering.arguments.number(order, Some(2.0))?;
    let dimensions = lowering.arguments.dimensions("dim", rank)?;
    let keeps = lowering.arguments.flag("keepdim", Some(false))?;
    Ok(vec![length(lowering, input, number, (dimensions, keeps))?])
}

/// A norm of vectors, over all dimensions if none is named. With an order, norms of matrices are others.
pub(super) fn norm_of_any(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    only_float32(&mut lowering.arguments)?;
    let rank = lowering.value(input).shape.len();
    let order = lowering.arguments.optional_number("ord")?;
    let dimensions = lowering.arguments.dimensions("dim", rank)?;
    let keeps = lowering.arguments.flag("keepdim", Some(false))?;
    if order.is_some() && dimensions.len() != 1 {
        return Err("computes a norm of matrices, and only those of vectors are supported".to_owned());
    }
    Ok(vec![length(lowering, input, order.unwrap_or(2.0), (dimensions, keeps))?])
}

/// The norm of an order, over dimensions that remain with size 1 or not at all.
fn length(
    lowering: &mut Lowering<'_>,
    input: Source,
    order: f64,
    (dimensions, keeps): (Vec<usize>, bool),
) -> OrFault<Source> {
    if order == 2.0 {
        return lowering.add(Op::Norm { dimensions, keeps }, &[input]);
    }
    let sizes = lowering.activation(Activation::Abs, input)?;
    if order == 1.0 {
        return lowering.sum(sizes, dimensions, keeps);
    }
    if order == f64::INFINITY {
        return lowering.add(Op::Max { dimensions, keeps, shares: true }, &[sizes]);
    }
    Err(format!("computes a norm of order {order}, and only 1, 2 and infinity are supported"))
}

/// The distances [N…, P, R] of vectors [N…, P, M] from others [N…, R, M].
pub(super) fn distances(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let mut raised = Vec::new();
    // [N…, P, 1, M] and [N…, 1, R, M].
    for (name, from_end) in [("x1", 1), ("x2", 2)] {
        let vectors = lowering.tensor(name)?;
        let mut shape = lowering.shape(vectors);
        let at = shape.len().checked_sub(from_end).filter(|_| shape.len() >= 2);
        shape.insert(at.ok_or("has no vectors [N…, P, M]")?, Size::Fixed(1));
        raised.push(lowering.reshape(vectors, shape)?);
    }
    let order = lowering.arguments.number("p", Some(2.0))?;
    // How PyTorch computes them.
    lowering.arguments.pass(&["compute_mode"]);
    let differences = lowering.combine(Arithmetic::Subtract, raised[0], raised[1])?;
    let last = lowering.value(differences).shape.len() - 1;
    Ok(vec![length(lowering, differences, order, (vec![last], false))?])
}

/// The length of differences, to which `eps` is added.
pub(super) fn pairwise_distance(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let (one, two) = (lowering.tensor("x1")?, lowering.tensor("x2")?);
    let order = lowering.arguments.number("p", Some(2.0))?;
    let epsilon = lowering.arguments.number("eps", Some(1e-6))?;
    let keeps = lowering.arguments.flag("keepdim", Some(false))?;
    let differences = lowering.combine(Arithmetic::Subtract, one, two)?;
    let above_zero = lowering.with_number(Arithmetic::Add, differences, epsilon)?;
    let last = lowering.value(above_zero).shape.len().checked_sub(1).ok_or("has no vectors [N…, M]")?;
    Ok(vec![length(lowering, above_zero, order, (vec![last], keeps))?])
}

/// The sum of products over a dimension, of vectors that are divided by their lengths. A length below `eps` counts as
/// `eps`. Sizes of 1 are broadcast. As in PyTorch, the division comes before the product.
pub(super) fn cosine_similarity(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let (one, two) = (lowering.tensor("x1")?, lowering.tensor("x2")?);
    let shape = rules::broadcast(&lowering.shape(one), &lowering.shape(two))?;
    let dimension = lowering.arguments.dimension("dim", Some(1), shape.len())?;
    let epsilon = lowering.arguments.number("eps", Some(1e-8))?;
    let mut directions = Vec::new();
    for mut vectors in [one, two] {
        let own = lowering.shape(vectors);
        let at = (dimension + own.len()).checked_sub(shape.len());
        let at = match at.filter(|&at| own[at] == shape[dimension]) {
            Some(at) => at,
            // Its one element is one of each vector.
            None => {
                vectors = lowering.add(Op::Expand { shape: shape.clone() }, &[vectors])?;
                dimension
            }
        };
        let length = lowering.add(Op::Norm { dimensions: vec![at], keeps: true }, &[vectors])?;
        let divisor = lowering.activation(Activation::AtLeast { low: epsilon }, length)?;
        directions.push(lowering.combine(Arithmetic::Divide, vectors, divisor)?);
    }
    let products = lowering.combine(Arithmetic::Multiply, directions[0], directions[1])?;
    Ok(vec![lowering.sum(products, vec![dimension], false)?])
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spread {
    Variance,
    Deviation,
}

/// The mean of squared differences from the mean, corrected for the number of elements, or its square root; then the
/// mean, if it is asked for.
pub(super) fn variance(lowering: &mut Lowering<'_>, spread: Spread, with_mean: bool) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    let shape = lowering.shape(input);
    let dimensions = lowering.arguments.dimensions("dim", shape.len())?;
    let keeps = lowering.arguments.flag("keepdim", Some(false))?;
    let unbiased = lowering.arguments.flag("unbiased", Some(true))?;
    let correction = lowering.arguments.number("correction", Some(f64::from(u8::from(unbiased))))?;
    let count = dimensions.iter().try_fold(1.0, |count, &dimension| {
        let size = shape[dimension].fixed().ok_or("has a variance over the batch, which is not supported")?;
        Ok::<f64, String>(count * size as f64)
    })?;
    if count - correction <= 0.0 {
        return Err(format!("has a variance of {count} elements with a correction of {correction}"));
    }
    let centre = lowering.add(Op::Mean { dimensions: dimensions.clone(), keeps: true }, &[input])?;
    let differences = lowering.combine(Arithmetic::Subtract, input, centre)?;
    let mut results = vec![match spread {
        Spread::Variance => {
            let squares = lowering.activation(Activation::Power { exponent: 2.0 }, differences)?;
            let biased = lowering.add(Op::Mean { dimensions: dimensions.clone(), keeps }, &[squares])?;
            lowering.with_number(Arithmetic::Multiply, biased, count / (count - correction))?
        }
        Spread::Deviation => {
            // As a length, whose gradient is zero where all elements are the same.
            let length = lowering.add(Op::Norm { dimensions: dimensions.clone(), keeps }, &[differences])?;
            lowering.with_number(Arithmetic::Divide, length, (count - correction).sqrt())?
        }
    }];
    if with_mean {
        results.push(lowering.add(Op::Mean { dimensions, keeps }, &[input])?);
    }
    Ok(results)
}

pub(super) fn rms_norm(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("input")?;
    let shape = lowering.arguments.ints("normalized_shape")?.unwrap_or_default();
    let scale = lowering.optional_tensor("weight")?;
    let epsilon = lowering.arguments.number("eps", Some(f64::from(f32::EPSILON)))?;
    let rank = lowering.value(input).shape.len();
    let last = normalised(&lowering.value(input).shape, &shape)?;
    let squares = lowering.activation(Activation::Power { exponent: 2.0 }, input)?;
    let mean = lowering.add(Op::Mean { dimensions: (rank - last..rank).collect(), keeps: true }, &[squares])?;
    let above_zero = lowering.with_number(Arithmetic::Add, mean, epsilon)?;
    let factor = lowering.activation(Activation::Power { exponent: -0.5 }, above_zero)?;
    let normalised = lowering.combine(Arithmetic::Multiply, input, factor)?;
    Ok(vec![match scale {
        Some(scale) => lowering.combine(Arithmetic::Multiply, normalised, scale)?,
        None => normalised,
    }])
}

/// A weight with the directions of one tensor and the norms of another.
pub(super) fn weight_norm(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let (directions, norms) = (lowering.tensor("v")?, lowering.tensor("g")?);
    let rank = lowering.value(directions).shape.len();
    let kept = match lowering.arguments.take("dim") {
        None => Some(0),
        // -1 stands for none.
        Some(Argument::Int(-1)) => None,
        Some(Argument::Int(number)) => Some(super::arguments::dimension(*number, rank)?),
        Some(_) => return Err(unexpected("dim")),
    };
    let dimensions = (0..rank).filter(|&dimension| Some(dimension) != kept).collect();
    let lengths = lowering.add(Op::Norm { dimensions, keeps: true }, &[directions])?;
    let factors = lowering.combine(Arithmetic::Divide, norms, lengths)?;
    Ok(vec![lowering.combine(Arithmetic::Multiply, directions, factors)?])
}
