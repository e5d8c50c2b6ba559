//! Reads comparisons, and what is chosen or limited by them. A condition is bool, and 1 or 0 where arithmetic takes
//! it.

use super::arguments::Arguments;
use super::error::OrFault;
use super::functions::{conversion, operand};
use super::lowering::{Lowering, Source};
use super::op::{Activation, Arithmetic, Comparison, Op, Operand};
use crate::checkpoint::Dtype;

pub(super) fn compare(arguments: &mut Arguments<'_>, kind: Comparison) -> OrFault<Op> {
    arguments.tensor("self")?;
    Ok(Op::Compare { kind, other: operand(arguments, "other")? })
}

/// 1 where a condition holds, else 0.
fn number_of(lowering: &mut Lowering<'_>, condition: Source) -> OrFault<Source> {
    let [one, zero] = [lowering.constant(Dtype::F32, &[], |_| 1.0)?, lowering.constant(Dtype::F32, &[], |_| 0.0)?];
    lowering.add(Op::Where, &[condition, one, zero])
}

fn is_condition(lowering: &Lowering<'_>, source: Source) -> bool {
    !lowering.arguments.folds && lowering.value(source).dtype == Dtype::Bool
}

/// A product, of which one factor may be a condition.
pub(super) fn multiply(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let mut one = lowering.tensor("self")?;
    let other = operand(&mut lowering.arguments, "other")?;
    let op = Op::Arithmetic { kind: Arithmetic::Multiply, other };
    if let Operand::Number(_) = other {
        if is_condition(lowering, one) {
            one = number_of(lowering, one)?;
        }
        return Ok(vec![lowering.add(op, &[one])?]);
    }
    let mut two = lowering.last_argument();
    match (is_condition(lowering, one), is_condition(lowering, two)) {
        (true, false) => one = number_of(lowering, one)?,
        (false, true) => two = number_of(lowering, two)?,
        _ => {}
    }
    Ok(vec![lowering.add(op, &[one, two])?])
}

/// A conversion, which may change the type of conditions only.
pub(super) fn converted(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let (from, to) = conversion(&mut lowering.arguments)?;
    let input = Source::Value(lowering.arguments.tensors[0]);
    Ok(vec![match (from, to) {
        (from, to) if from == to => lowering.add(Op::Identity, &[input])?,
        (Dtype::Bool, Dtype::F32) => number_of(lowering, input)?,
        _ => return Err(format!("converts from {from} to {to}, but networks compute in float32 only")),
    }])
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Logic {
    Not,
    And,
    Or,
    Xor,
}

/// Combines conditions.
pub(super) fn logic(lowering: &mut Lowering<'_>, logic: Logic) -> OrFault<Vec<Source>> {
    let names: &[&str] = if logic == Logic::Not { &["self"] } else { &["self", "other"] };
    let mut numbers = Vec::new();
    for name in names {
        let condition = lowering.tensor(name)?;
        if lowering.value(condition).dtype != Dtype::Bool {
            return Err("takes numbers as conditions: compare them with 0 first".to_owned());
        }
        numbers.push(number_of(lowering, condition)?);
    }
    let (number, kind) = match logic {
        Logic::Not => (numbers[0], Comparison::Less),
        Logic::And => (lowering.combine(Arithmetic::Multiply, numbers[0], numbers[1])?, Comparison::Greater),
        Logic::Or => (lowering.combine(Arithmetic::Add, numbers[0], numbers[1])?, Comparison::Greater),
        Logic::Xor => {
            let difference = lowering.combine(Arithmetic::Subtract, numbers[0], numbers[1])?;
            (lowering.activation(Activation::Abs, difference)?, Comparison::Greater)
        }
    };
    Ok(vec![lowering.add(Op::Compare { kind, other: Operand::Number(0.5) }, &[number])?])
}

/// Whether one element of some dimensions holds ([`Logic::Or`]), or all of them do. A number holds unless it is 0.
pub(super) fn over(lowering: &mut Lowering<'_>, logic: Logic) -> OrFault<Vec<Source>> {
    let mut condition = lowering.tensor("self")?;
    let rank = lowering.value(condition).shape.len();
    let dimensions = lowering.arguments.dimensions("dim", rank)?;
    let keeps = lowering.arguments.flag("keepdim", Some(false))?;
    if lowering.value(condition).dtype != Dtype::Bool {
        let differs = Op::Compare { kind: Comparison::NotEqual, other: Operand::Number(0.0) };
        condition = lowering.add(differs, &[condition])?;
    }
    let number = number_of(lowering, condition)?;
    let largest = Op::Max { dimensions, keeps, shares: true };
    // All of them hold unless one does not.
    let (number, kind, limit) = match logic {
        Logic::And => {
            let negative = lowering.with_number(Arithmetic::Multiply, number, -1.0)?;
            (negative, Comparison::Less, -0.5)
        }
        _ => (number, Comparison::Greater, 0.5),
    };
    let found = lowering.add(largest, &[number])?;
    Ok(vec![lowering.add(Op::Compare { kind, other: Operand::Number(limit) }, &[found])?])
}

/// Limits that are tensors. An element at its limit keeps its gradient.
pub(super) fn clamp(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let mut limited = lowering.tensor("self")?;
    for (name, kind) in [("min", Comparison::Less), ("max", Comparison::Greater)] {
        if let Some(limit) = lowering.optional_tensor(name)? {
            let is_beyond = lowering.add(Op::Compare { kind, other: Operand::Tensor }, &[limited, limit])?;
            limited = lowering.add(Op::Where, &[is_beyond, limit, limited])?;
        }
    }
    Ok(vec![limited])
}

/// x where x > `threshold`, else `value`.
pub(super) fn threshold(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    let limit = lowering.arguments.number("threshold", None)?;
    let value = lowering.arguments.number("value", None)?;
    Ok(vec![replaced_below(lowering, input, (input, limit), value)?])
}

/// x where |x| > `lambd`, else 0.
pub(super) fn hard_shrink(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    let limit = lowering.arguments.number("lambd", Some(0.5))?;
    let size = lowering.activation(Activation::Abs, input)?;
    Ok(vec![replaced_below(lowering, input, (size, limit), 0.0)?])
}

/// x moved towards 0 by `lambd`, and 0 where |x| is less.
pub(super) fn soft_shrink(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("self")?;
    let limit = lowering.arguments.number("lambd", Some(0.5))?;
    let within = Activation::Clamp { low: -limit, high: limit };
    let cut = lowering.activation(within, input)?;
    Ok(vec![lowering.combine(Arithmetic::Subtract, input, cut)?])
}

/// A number where another tensor is at a limit or below it, and elements elsewhere. As in PyTorch, NaN stays.
fn replaced_below(
    lowering: &mut Lowering<'_>,
    input: Source,
    (compared, limit): (Source, f64),
    value: f64,
) -> OrFault<Source> {
    let op = Op::Compare { kind: Comparison::LessOrEqual, other: Operand::Number(limit) };
    let is_below = lowering.add(op, &[compared])?;
    let value = lowering.constant(Dtype::F32, &[], |_| value)?;
    lowering.add(Op::Where, &[is_below, value, input])
}
