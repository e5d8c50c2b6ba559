//! What operations compute from constants.

use super::views::keeps_images;
use super::{Constant, rounded};
use crate::checkpoint::Dtype;
use crate::exported::error::OrFault;
use crate::exported::op::{Activation, Arithmetic, Op, Operand};
use crate::exported::scope::ValueScope;
use crate::exported::size::Size;

/// The results of an operation, whose shapes and type are known. `None` if it is not computed here.
pub(in crate::exported) fn compute(
    scope: &ValueScope,
    op: &Op,
    inputs: &[Constant],
    (shapes, dtype): (&[Vec<Size>], Dtype),
) -> OrFault<Option<Vec<Constant>>> {
    let input = || &inputs[0];
    let one = match op {
        Op::Identity => input().clone(),
        Op::Reshape { shape } => {
            keeps_images(&input().shape, shape)?;
            match input().reshaped(shape) {
                Some(view) => view,
                None => Constant::new(dtype, shape.clone(), counted(scope, input())?),
            }
        }
        Op::Expand { shape } => input().expanded(shape),
        Op::Permute { order } => input().permuted(order),
        Op::Slice { dimension, start, end, step } => {
            input().sliced(*dimension, *start, *step, (end - start).div_ceil(*step))
        }
        Op::Select { dimension, index } => input().selected(*dimension, *index),
        Op::Split { dimension, sizes } => {
            let starts = sizes.iter().scan(0, |start, size| {
                *start += size;
                Some(*start - size)
            });
            let parts = starts.zip(sizes).map(|(start, &size)| input().sliced(*dimension, start, 1, size));
            return Ok(Some(parts.collect()));
        }
        Op::Unbind { dimension } => {
            let count = input().shape[*dimension].per_image();
            return Ok(Some((0..count).map(|at| input().selected(*dimension, at)).collect()));
        }
        Op::Activation(function) => {
            let Some(function) = function_of(*function) else { return Ok(None) };
            of_each(counted(scope, input())?, &shapes[0], dtype, function)?
        }
        Op::Arithmetic { kind, other } => {
            let combine = combination(*kind);
            let one = counted(scope, &input().expanded(&shapes[0]))?;
            let two = match other {
                Operand::Number(number) => {
                    return Ok(Some(vec![of_each(one, &shapes[0], dtype, |x| combine(x, *number))?]));
                }
                Operand::Tensor => counted(scope, &inputs[1].expanded(&shapes[0]))?,
            };
            of_all(one.into_iter().zip(two).map(|(one, two)| combine(one, two)), &shapes[0], dtype)?
        }
        Op::Where => choices(scope, inputs, (&shapes[0], dtype))?,
        Op::Concat { dimension } => concat(scope, inputs, *dimension, (&shapes[0], dtype))?,
        Op::Mean { dimensions, .. } => mean(scope, input(), dimensions, (&shapes[0], dtype))?,
        Op::Rows => rows(scope, inputs, (&shapes[0], dtype))?,
        _ => return Ok(None),
    };
    Ok(Some(vec![one]))
}

fn choices(scope: &ValueScope, inputs: &[Constant], (shape, dtype): (&[Size], Dtype)) -> OrFault<Constant> {
    let [holds, this, other] = [0, 1, 2].map(|at| counted(scope, &inputs[at].expanded(shape)));
    let choices = holds?.into_iter().zip(this?).zip(other?);
    of_all(choices.map(|((holds, this), other)| if holds != 0.0 { this } else { other }), shape, dtype)
}

/// The elements, if there may be this many more.
pub(super) fn counted(scope: &ValueScope, constant: &Constant) -> OrFault<Vec<f64>> {
    scope.spend(constant.count())?;
    Ok(constant.elements())
}

/// A tensor with these elements, rounded to its type.
pub(super) fn of_all(elements: impl Iterator<Item = f64>, shape: &[Size], dtype: Dtype) -> OrFault<Constant> {
    let elements: Option<Vec<f64>> = elements.map(|element| rounded(dtype, element)).collect();
    let elements = elements.ok_or_else(|| format!("computes constants that {dtype} does not have"))?;
    Ok(Constant::new(dtype, shape.to_vec(), elements))
}

pub(super) fn of_each(
    elements: Vec<f64>,
    shape: &[Size],
    dtype: Dtype,
    function: impl Fn(f64) -> f64,
) -> OrFault<Constant> {
    of_all(elements.into_iter().map(function), shape, dtype)
}

fn combination(kind: Arithmetic) -> fn(f64, f64) -> f64 {
    match kind {
        Arithmetic::Add => |one, two| one + two,
        Arithmetic::Subtract => |one, two| one - two,
        Arithmetic::Multiply => |one, two| one * two,
        Arithmetic::Divide => |one, two| one / two,
        Arithmetic::Maximum => f64::max,
        Arithmetic::Minimum => f64::min,
        Arithmetic::Power => f64::powf,
    }
}

fn function_of(function: Activation) -> Option<Box<dyn Fn(f64) -> f64>> {
    Some(match function {
        Activation::Relu => Box::new(|x| x.max(0.0)),
        Activation::Clamp { low, high } => Box::new(move |x| x.max(low).min(high)),
        Activation::AtLeast { low } => Box::new(move |x| x.max(low)),
        Activation::Sigmoid => Box::new(|x| 1.0 / (1.0 + (-x).exp())),
        Activation::Tanh => Box::new(f64::tanh),
        Activation::Power { exponent } => Box::new(move |x| x.powf(exponent)),
        Activation::Exp => Box::new(f64::exp),
        Activation::ExpMinusOne => Box::new(f64::exp_m1),
        Activation::Log => Box::new(f64::ln),
        Activation::LogOfOnePlus => Box::new(f64::ln_1p),
        Activation::Abs => Box::new(f64::abs),
        Activation::Sign => Box::new(sign),
        Activation::Sin => Box::new(f64::sin),
        Activation::Cos => Box::new(f64::cos),
        Activation::Hardswish
        | Activation::Hardsigmoid
        | Activation::Silu
        | Activation::Gelu { .. }
        | Activation::LeakyRelu { .. }
        | Activation::Elu { .. }
        | Activation::Softplus { .. }
        | Activation::Erf => return None,
    })
}

pub(super) fn sign(x: f64) -> f64 {
    if x == 0.0 { 0.0 } else { x.signum() }
}

fn concat(
    scope: &ValueScope,
    inputs: &[Constant],
    dimension: usize,
    (shape, dtype): (&[Size], Dtype),
) -> OrFault<Constant> {
    if shape[dimension].fixed().is_none() {
        return Err("joins constants along the batch, which is not supported".to_owned());
    }
    let count =
        |sizes: &[Size]| sizes.iter().fold(1_usize, |count, size| count.saturating_mul(size.per_image() as usize));
    let mut parts = Vec::new();
    for input in inputs {
        parts.push((counted(scope, input)?, count(&input.shape[dimension..])));
    }
    let outer = count(&shape[..dimension]);
    let part = |at: usize| parts.iter().flat_map(move |(elements, length)| &elements[at * length..(at + 1) * length]);
    of_all((0..outer).flat_map(part).copied(), shape, dtype)
}

/// A dimension to the end of the tensor.
pub(super) fn to_the_end(constant: &Constant, dimension: usize) -> Constant {
    let rank = constant.shape.len();
    let order: Vec<usize> = (0..rank).filter(|&at| at != dimension).chain([dimension]).collect();
    constant.permuted(&order)
}

fn mean(
    scope: &ValueScope,
    input: &Constant,
    dimensions: &[usize],
    (shape, dtype): (&[Size], Dtype),
) -> OrFault<Constant> {
    let (elements, count) = groups(scope, input, dimensions)?;
    of_all(elements.chunks(count).map(|group| group.iter().sum::<f64>() / count as f64), shape, dtype)
}

/// The elements in groups of those that differ in their places in some dimensions alone, and the size of a group.
pub(super) fn groups(scope: &ValueScope, input: &Constant, dimensions: &[usize]) -> OrFault<(Vec<f64>, usize)> {
    let rank = input.shape.len();
    let order: Vec<usize> = (0..rank).filter(|at| !dimensions.contains(at)).chain(dimensions.iter().copied()).collect();
    let sorted = input.permuted(&order);
    let count = dimensions.iter().map(|&at| input.shape[at].per_image() as usize).product::<usize>().max(1);
    Ok((counted(scope, &sorted)?, count))
}

fn rows(scope: &ValueScope, inputs: &[Constant], (shape, dtype): (&[Size], Dtype)) -> OrFault<Constant> {
    let (table, numbers) = (counted(scope, &inputs[0])?, counted(scope, &inputs[1])?);
    let count = inputs[0].shape[0].per_image() as usize;
    let length = table.len() / count;
    scope.spend((numbers.len() as u64).saturating_mul(length as u64))?;
    let mut elements = Vec::with_capacity(numbers.len() * length);
    for number in numbers {
        // Negative numbers count from the end.
        let row = if number < 0.0 { number + count as f64 } else { number };
        if !(0.0..count as f64).contains(&row) {
            return Err(format!("takes row {number} of {count}"));
        }
        elements.extend_from_slice(&table[row as usize * length..(row as usize + 1) * length]);
    }
    of_all(elements.into_iter(), shape, dtype)
}
