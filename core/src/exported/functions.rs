//! Reads functions of each element, and random masks.

use super::arguments::{Arguments, WantedSize};
use super::error::OrFault;
use super::op::{Activation, Arithmetic, Op, Operand};
use super::schema::Argument;
use super::size::Size;
use super::tensors::element_type;
use crate::checkpoint::Dtype;

pub(super) fn activation(arguments: &mut Arguments<'_>, function: Activation) -> OrFault<Op> {
    arguments.tensor("self")?;
    Ok(Op::Activation(function))
}

/// Limits that are named, with defaults; one that is not a number must be given.
pub(super) fn clamp(arguments: &mut Arguments<'_>, names: [&str; 2], defaults: [f64; 2]) -> OrFault<Op> {
    let [low, high] = [0, 1].map(|at| {
        let default = Some(defaults[at]).filter(|default| !default.is_nan());
        arguments.number(names[at], default)
    });
    activation(arguments, Activation::Clamp { low: low?, high: high? })
}

pub(super) fn clamp_optional(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    clamp(arguments, ["min", "max"], [f64::NEG_INFINITY, f64::INFINITY])
}

pub(super) fn gelu(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let tanh = match arguments.text("approximate", "none")? {
        "none" => false,
        "tanh" => true,
        _ => return Err("has an unknown approximation".to_owned()),
    };
    activation(arguments, Activation::Gelu { tanh })
}

pub(super) fn leaky_relu(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let slope = arguments.number("negative_slope", Some(0.01))?;
    activation(arguments, Activation::LeakyRelu { slope })
}

/// In evaluation, the slope is the mean of those that training draws.
pub(super) fn randomised_leaky_relu(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let (low, high) = (arguments.number("lower", Some(0.125))?, arguments.number("upper", Some(1.0 / 3.0))?);
    arguments.pass(&["generator"]);
    if arguments.flag("training", Some(false))? {
        return Err("draws slopes at random in training (RReLU), which is not supported: call eval() on these layers \
                    before the export, or replace them by LeakyReLU"
            .to_owned());
    }
    activation(arguments, Activation::LeakyRelu { slope: f64::midpoint(low, high) })
}

pub(super) fn elu(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let [alpha, scale, input_scale] = ["alpha", "scale", "input_scale"].map(|name| arguments.number(name, Some(1.0)));
    activation(arguments, Activation::Elu { alpha: alpha?, scale: scale?, input_scale: input_scale? })
}

pub(super) fn celu(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let alpha = arguments.number("alpha", Some(1.0))?;
    if alpha == 0.0 {
        return Err("divides by an alpha of zero".to_owned());
    }
    activation(arguments, Activation::Elu { alpha, scale: 1.0, input_scale: 1.0 / alpha })
}

pub(super) fn selu(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    // The constants of Klambauer et al. 2017, as PyTorch has them.
    let (alpha, scale) = (1.673_263_242_354_377_2, 1.050_700_987_355_480_5);
    activation(arguments, Activation::Elu { alpha, scale, input_scale: 1.0 })
}

pub(super) fn softplus(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let beta = arguments.number("beta", Some(1.0))?;
    let threshold = arguments.number("threshold", Some(20.0))?;
    activation(arguments, Activation::Softplus { beta, threshold })
}

pub(super) fn power(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let exponent = arguments.number("exponent", None)?;
    activation(arguments, Activation::Power { exponent })
}

pub(super) fn power_of_tensors(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    arguments.tensor("self")?;
    arguments.tensor("exponent")?;
    Ok(Op::Arithmetic { kind: Arithmetic::Power, other: Operand::Tensor })
}

pub(super) fn prelu(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    arguments.tensor("self")?;
    arguments.tensor("weight")?;
    Ok(Op::Prelu)
}

pub(super) fn negative(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    arguments.tensor("self")?;
    Ok(Op::Arithmetic { kind: Arithmetic::Multiply, other: Operand::Number(-1.0) })
}

pub(super) fn softmax(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    Ok(Op::Softmax { dimension: softmax_dimension(arguments)? })
}

pub(super) fn log_softmax(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    Ok(Op::LogSoftmax { dimension: softmax_dimension(arguments)? })
}

fn softmax_dimension(arguments: &mut Arguments<'_>) -> OrFault<usize> {
    let rank = arguments.tensor("self")?.shape.len();
    only_float32(arguments)?;
    arguments.dimension("dim", None, rank)
}

/// Accepts `dtype` if it is single precision. What is computed from constants has the type that PyTorch recorded.
pub(super) fn only_float32(arguments: &mut Arguments<'_>) -> OrFault<()> {
    match arguments.take("dtype") {
        None => Ok(()),
        Some(Argument::ScalarType(number)) if arguments.folds || element_type(*number) == Ok(Dtype::F32) => Ok(()),
        Some(_) => Err("converts to another type than float32, which is not supported".to_owned()),
    }
}

/// The second operand, which is a number or a tensor.
pub(super) fn operand(arguments: &mut Arguments<'_>, name: &str) -> OrFault<Operand> {
    match arguments.take(name) {
        Some(Argument::Tensor(tensor)) => arguments.value(tensor).map(|_| Operand::Tensor),
        Some(Argument::Int(number)) => Ok(Operand::Number(*number as f64)),
        Some(Argument::Float(number)) => Ok(Operand::Number(*number)),
        Some(Argument::SymInt(size)) => match arguments.scope.size(size)? {
            Size::Fixed(size) => Ok(Operand::Number(size as f64)),
            Size::Batch(_) => Err("computes with the batch size, which is not supported".to_owned()),
        },
        _ => Err("has a second operand of a kind that is not supported".to_owned()),
    }
}

pub(super) fn arithmetic(arguments: &mut Arguments<'_>, kind: Arithmetic) -> OrFault<Op> {
    arguments.tensor("self")?;
    Ok(Op::Arithmetic { kind, other: operand(arguments, "other")? })
}

pub(super) fn choose(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    for name in ["condition", "self", "other"] {
        arguments.tensor(name)?;
    }
    Ok(Op::Where)
}

pub(super) fn probability(number: f64) -> OrFault<f64> {
    let is_one = (0.0..=1.0).contains(&number);
    is_one.then_some(number).ok_or_else(|| "has a probability that is not between 0 and 1".to_owned())
}

pub(super) fn dropout(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    // The operator that overwrites calls it `self`.
    if arguments.optional_tensor("input")?.is_none() {
        arguments.tensor("self")?;
    }
    let probability = probability(arguments.number("p", None)?)?;
    Ok(Op::Dropout { probability, training: arguments.flag("train", None)? })
}

pub(super) fn identity(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    arguments.tensor("self")?;
    arguments.pass(&["memory_format"]);
    Ok(Op::Identity)
}

/// The types from and to which a node converts.
pub(super) fn conversion(arguments: &mut Arguments<'_>) -> OrFault<(Dtype, Dtype)> {
    let from = arguments.tensor("self")?.dtype;
    let by_name = arguments.take("dtype");
    let by_tensor = arguments.optional_tensor("other")?.map(|other| other.dtype);
    arguments.tensors.truncate(1);
    let to = match by_name {
        Some(Argument::ScalarType(number)) => element_type(*number)?,
        _ => by_tensor.unwrap_or(from),
    };
    arguments.pass(&["layout", "device", "pin_memory", "non_blocking", "copy", "memory_format"]);
    Ok((from, to))
}

pub(super) fn empty(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    only_float32(arguments)?;
    arguments.pass(&["layout", "device", "pin_memory", "memory_format"]);
    let shape = known_shape(arguments, "size")?;
    if shape.contains(&Size::Fixed(0)) {
        let message = "has no elements. torch.utils.checkpoint makes such tensors: export the network without it, in timm \
                       after model.set_grad_checkpointing(False)";
        return Err(message.to_owned());
    }
    Ok(Op::Empty { shape })
}

/// A shape that leaves nothing open.
pub(super) fn known_shape(arguments: &mut Arguments<'_>, name: &str) -> OrFault<Vec<Size>> {
    let known = |size| match size {
        WantedSize::Known(size) => Ok(size),
        WantedSize::Open => Err("has a negative size".to_owned()),
    };
    arguments.shape(name)?.into_iter().map(known).collect()
}

pub(super) fn new_empty(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let is_float = arguments.tensor("self")?.dtype == Dtype::F32;
    // It gives the type and the device alone.
    arguments.tensors.clear();
    if is_float { empty(arguments) } else { Err("makes a tensor that is not float32".to_owned()) }
}

pub(super) fn bernoulli(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    arguments.tensor("self")?;
    if arguments.take("generator").is_some() {
        return Err("has a generator of its own, which is not supported".to_owned());
    }
    Ok(Op::Bernoulli { probability: probability(arguments.number("p", Some(0.5))?)? })
}
