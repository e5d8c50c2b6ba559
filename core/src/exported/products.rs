//! Reads operators that are a few sums and products.

use super::error::OrFault;
use super::functions::{operand, probability};
use super::lowering::{Lowering, Source};
use super::op::{Activation, Arithmetic, Op, Operand};
use super::schema::Argument;
use super::size::Size;
use crate::checkpoint::Dtype;

/// `self ± alpha·other`, and counting.
pub(super) fn scaled(lowering: &mut Lowering<'_>, kind: Arithmetic) -> OrFault<Vec<Source>> {
    let first = lowering.tensor("self")?;
    let alpha = lowering.arguments.number("alpha", Some(1.0))?;
    let other = operand(&mut lowering.arguments, "other")?;
    if lowering.value(first).dtype == Dtype::I64 && !lowering.arguments.folds {
        return match (other, kind) {
            (Operand::Number(1.0), Arithmetic::Add) if alpha == 1.0 => {
                Ok(vec![lowering.add(Op::CountBatch, &[first])?])
            }
            _ => Err("computes with integers, which is supported for counters of batches only".to_owned()),
        };
    }
    Ok(vec![match other {
        Operand::Number(number) => {
            lowering.add(Op::Arithmetic { kind, other: Operand::Number(alpha * number) }, &[first])?
        }
        Operand::Tensor => {
            let other = lowering.last_argument();
            let other = lowering.with_number(Arithmetic::Multiply, other, alpha)?;
            lowering.combine(kind, first, other)?
        }
    }])
}

/// `other − alpha·self`.
pub(super) fn subtract_from(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let subtracted = lowering.tensor("self")?;
    let alpha = lowering.arguments.number("alpha", Some(1.0))?;
    let from = operand(&mut lowering.arguments, "other")?;
    let other = lowering.last_argument();
    let negative = lowering.with_number(Arithmetic::Multiply, subtracted, -alpha)?;
    Ok(vec![match from {
        Operand::Number(number) => lowering.with_number(Arithmetic::Add, negative, number)?,
        Operand::Tensor => lowering.combine(Arithmetic::Add, other, negative)?,
    }])
}

/// `self + value·tensor1·tensor2`, or with the quotient of the two.
pub(super) fn add_product(lowering: &mut Lowering<'_>, kind: Arithmetic) -> OrFault<Vec<Source>> {
    let sum = lowering.tensor("self")?;
    let (one, two) = (lowering.tensor("tensor1")?, lowering.tensor("tensor2")?);
    let value = lowering.arguments.number("value", Some(1.0))?;
    let product = lowering.combine(kind, one, two)?;
    let product = lowering.with_number(Arithmetic::Multiply, product, value)?;
    Ok(vec![lowering.combine(Arithmetic::Add, sum, product)?])
}

/// `beta·self + alpha·(matrix · matrix)`.
pub(super) fn add_matrix_product(lowering: &mut Lowering<'_>, matrices: [&str; 2]) -> OrFault<Vec<Source>> {
    let sum = lowering.tensor("self")?;
    let (one, two) = (lowering.tensor(matrices[0])?, lowering.tensor(matrices[1])?);
    let beta = lowering.arguments.number("beta", Some(1.0))?;
    let alpha = lowering.arguments.number("alpha", Some(1.0))?;
    let product = lowering.add(Op::Matmul, &[one, two])?;
    let product = lowering.with_number(Arithmetic::Multiply, product, alpha)?;
    let sum = lowering.with_number(Arithmetic::Multiply, sum, beta)?;
    Ok(vec![lowering.combine(Arithmetic::Add, sum, product)?])
}

/// `self + weight·(end − self)`, of which the weight may be a tensor.
pub(super) fn interpolate(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let (start, end) = (lowering.tensor("self")?, lowering.tensor("end")?);
    let weight = operand(&mut lowering.arguments, "weight")?;
    let factor = lowering.last_argument();
    let way = lowering.combine(Arithmetic::Subtract, end, start)?;
    let part = match weight {
        Operand::Number(weight) => lowering.with_number(Arithmetic::Multiply, way, weight)?,
        Operand::Tensor => lowering.combine(Arithmetic::Multiply, way, factor)?,
    };
    Ok(vec![lowering.combine(Arithmetic::Add, start, part)?])
}

/// `x·tanh(ln(1 + exp(x)))`.
pub(super) fn mish(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    let softplus = lowering.activation(Activation::Softplus { beta: 1.0, threshold: 20.0 }, input)?;
    let gate = lowering.activation(Activation::Tanh, softplus)?;
    Ok(vec![lowering.combine(Arithmetic::Multiply, input, gate)?])
}

/// `−ln(1 + exp(−x))`.
pub(super) fn log_sigmoid(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    let negative = lowering.with_number(Arithmetic::Multiply, input, -1.0)?;
    // Beyond the threshold the logarithm is the number itself in float32.
    let softplus = lowering.activation(Activation::Softplus { beta: 1.0, threshold: 20.0 }, negative)?;
    Ok(vec![lowering.with_number(Arithmetic::Multiply, softplus, -1.0)?])
}

/// A number to the power of a tensor.
pub(super) fn power_of_number(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let base = lowering.arguments.number("self", None)?;
    let exponent = lowering.tensor("exponent")?;
    let base = lowering.constant(Dtype::F32, &[], |_| base)?;
    Ok(vec![lowering.combine(Arithmetic::Power, base, exponent)?])
}

pub(super) fn power_of_two(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let exponent = lowering.tensor("self")?;
    let base = lowering.constant(Dtype::F32, &[], |_| 2.0)?;
    Ok(vec![lowering.combine(Arithmetic::Power, base, exponent)?])
}

/// The logarithm to another base than e.
pub(super) fn logarithm(lowering: &mut Lowering<'_>, base: f64) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    let natural = lowering.activation(Activation::Log, input)?;
    Ok(vec![lowering.with_number(Arithmetic::Multiply, natural, 1.0 / base.ln())?])
}

/// One half of a dimension times the sigmoid of the other.
pub(super) fn gated(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    let rank = lowering.value(input).shape.len();
    let dimension = lowering.arguments.dimension("dim", Some(-1), rank)?;
    let size = lowering.fixed(input, dimension)?;
    if size % 2 != 0 {
        return Err(format!("halves a dimension of size {size}"));
    }
    let halves = lowering.split(Op::Split { dimension, sizes: vec![size / 2; 2] }, &[input])?;
    let gate = lowering.activation(Activation::Sigmoid, halves[1])?;
    Ok(vec![lowering.combine(Arithmetic::Multiply, halves[0], gate)?])
}

/// `masked_fill`, and `where` with numbers.
pub(super) fn masked(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let mut choice = |name: &str| -> OrFault<Option<Source>> {
        match lowering.arguments.take(name) {
            None => Ok(None),
            Some(Argument::Tensor(tensor)) => {
                lowering.arguments.value(tensor)?;
                Ok(Some(lowering.last_argument()))
            }
            Some(Argument::Int(number)) => lowering.constant(Dtype::F32, &[], |_| *number as f64).map(Some),
            Some(Argument::Float(number)) => lowering.constant(Dtype::F32, &[], |_| *number).map(Some),
            Some(_) => Err("has a choice of a kind that is not supported".to_owned()),
        }
    };
    let (this, other) = (choice("self")?, choice("other")?);
    let (mask, value, condition) = (choice("mask")?, choice("value")?, choice("condition")?);
    let missing = || "lacks a condition or a choice".to_owned();
    let this = this.ok_or_else(missing)?;
    let inputs = match (mask, condition) {
        (Some(mask), None) => [mask, value.ok_or_else(missing)?, this],
        (None, Some(condition)) => [condition, this, other.ok_or_else(missing)?],
        _ => return Err(missing()),
    };
    Ok(vec![lowering.add(Op::Where, &inputs)?])
}

/// Drops whole channels: a mask [B, C, 1…], which scales those that are kept.
pub(super) fn feature_dropout(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let input = match lowering.optional_tensor("input")? {
        Some(input) => input,
        None => lowering.tensor("self")?,
    };
    let dropped = probability(lowering.arguments.number("p", None)?)?;
    let training = lowering.arguments.flag("train", None)?;
    let mut shape = lowering.shape(input);
    if !training || dropped == 0.0 || dropped == 1.0 || shape.len() < 2 {
        // Without an effect, or that of dropping single elements.
        let probability = dropped;
        return Ok(vec![lowering.add(Op::Dropout { probability, training }, &[input])?]);
    }
    shape[2..].fill(Size::Fixed(1));
    let probability = 1.0 - dropped;
    let memory = lowering.add(Op::Empty { shape }, &[])?;
    let mask = lowering.add(Op::Bernoulli { probability }, &[memory])?;
    let scaled = lowering.with_number(Arithmetic::Divide, mask, probability)?;
    Ok(vec![lowering.combine(Arithmetic::Multiply, input, scaled)?])
}

/// A tensor whose elements are one number. The input gives the shape alone, so it may be memory that nothing has been
/// written to.
pub(super) fn fill(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let filled = lowering.tensor("self")?;
    let (dtype, shape) = (lowering.value(filled).dtype, lowering.shape(filled));
    if dtype != Dtype::F32 {
        return Err(format!("fills a tensor of {dtype}, but networks compute in float32 only"));
    }
    let value = lowering.arguments.number("value", None)?;
    let number = lowering.constant(dtype, &[], |_| value)?;
    Ok(vec![lowering.add(Op::Expand { shape }, &[number])?])
}
