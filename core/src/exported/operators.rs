//! Which of ATen's operators are read, and as what.

use super::arguments::{Arguments, MOST_DIMENSIONS, Outcome, WantedSize, dimension};
use super::op::{Activation, Arithmetic, Op, Operand, Window};
use super::reshapes;
use super::schema::Argument;
use crate::checkpoint::Dtype;

/// ATen's operators that overwrite their first argument.
const IN_PLACE: [&str; 14] = [
    "add_.Tensor",
    "sub_.Tensor",
    "mul_.Tensor",
    "div_.Tensor",
    "relu_.default",
    "relu6_.default",
    "hardtanh_.default",
    "hardswish_.default",
    "hardsigmoid_.default",
    "silu_.default",
    "sigmoid_.default",
    "tanh_.default",
    "dropout_.default",
    "bernoulli_.float",
];

/// The name of an operator without its package, in its form that does not overwrite, and whether it overwrites.
pub(super) fn plain_name(target: &str) -> Option<(String, bool)> {
    let name = target.strip_prefix("torch.ops.aten.")?;
    match IN_PLACE.contains(&name) {
        true => Some((name.replacen("_.", ".", 1), true)),
        false if name.contains("_.") => None,
        false => Some((name.to_owned(), false)),
    }
}

/// Reads a node's arguments. `None` if the operator, named as by [`plain_name`], is not supported.
pub(super) fn read(name: &str, arguments: &mut Arguments<'_>) -> Option<Outcome<Op>> {
    let operator = find(name)?;
    Some(operator(arguments))
}

type Operator = fn(&mut Arguments<'_>) -> Outcome<Op>;

/// The table of operators.
fn find(name: &str) -> Option<Operator> {
    let operator: Operator = match name {
        "conv2d.default" => convolution,
        "batch_norm.default" => batch_norm,
        "layer_norm.default" => layer_norm,
        "group_norm.default" => group_norm,
        "linear.default" => linear,
        "matmul.default" => matmul,
        "scaled_dot_product_attention.default" => attention,
        "relu.default" => |arguments| activation(arguments, Activation::Relu),
        "relu6.default" => |arguments| activation(arguments, Activation::Clamp { low: 0.0, high: 6.0 }),
        "hardtanh.default" => hardtanh,
        "hardswish.default" => |arguments| activation(arguments, Activation::Hardswish),
        "hardsigmoid.default" => |arguments| activation(arguments, Activation::Hardsigmoid),
        "silu.default" => |arguments| activation(arguments, Activation::Silu),
        "sigmoid.default" => |arguments| activation(arguments, Activation::Sigmoid),
        "tanh.default" => |arguments| activation(arguments, Activation::Tanh),
        "gelu.default" => gelu,
        "softmax.int" => softmax,
        "add.Tensor" => |arguments| arithmetic(arguments, Arithmetic::Add),
        "sub.Tensor" => |arguments| arithmetic(arguments, Arithmetic::Subtract),
        "mul.Tensor" => |arguments| arithmetic(arguments, Arithmetic::Multiply),
        "div.Tensor" => |arguments| arithmetic(arguments, Arithmetic::Divide),
        "cat.default" => concat,
        "max_pool2d.default" => max_pool,
        "avg_pool2d.default" => average_pool,
        "adaptive_avg_pool2d.default" => adaptive_average_pool,
        "mean.dim" => mean,
        "view.default" => |arguments| reshapes::reshape(arguments, "size"),
        "reshape.default" => |arguments| reshapes::reshape(arguments, "shape"),
        "flatten.using_ints" => reshapes::flatten,
        "unflatten.int" => reshapes::unflatten,
        "squeeze.dim" => reshapes::squeeze,
        "unsqueeze.default" => reshapes::unsqueeze,
        "expand.default" => reshapes::expand,
        "permute.default" => reshapes::permute,
        "transpose.int" => reshapes::transpose,
        "slice.Tensor" => reshapes::slice,
        "select.int" => reshapes::select,
        "chunk.default" => reshapes::chunk,
        "split.Tensor" => reshapes::split,
        "split_with_sizes.default" => reshapes::split_with_sizes,
        "unbind.int" => reshapes::unbind,
        "pad.default" => pad,
        "roll.default" => roll,
        "index.Tensor" => rows,
        "dropout.default" => dropout,
        "contiguous.default" | "clone.default" => identity,
        "empty.memory_format" => empty,
        "new_empty.default" => new_empty,
        "bernoulli.float" => bernoulli,
        _ => return None,
    };
    Some(operator)
}

fn convolution(arguments: &mut Arguments<'_>) -> Outcome<Op> {
    arguments.tensor("input")?;
    arguments.tensor("weight")?;
    let bias = arguments.optional_tensor("bias")?.is_some();
    Ok(Op::Convolution {
        stride: arguments.pair("stride", Some([1, 1]))?,
        padding: arguments.pair("padding", Some([0, 0]))?,
        dilation: arguments.pair("dilation", Some([1, 1]))?,
        groups: arguments.count("groups", Some(1))?,
        bias,
    })
}

fn batch_norm(arguments: &mut Arguments<'_>) -> Outcome<Op> {
    for name in ["input", "weight", "bias", "running_mean", "running_var"] {
        arguments.tensor(name)?;
    }
    arguments.pass(&["cudnn_enabled"]);
    Ok(Op::BatchNorm {
        training: arguments.flag("training", None)?,
        momentum: arguments.number("momentum", None)?,
        epsilon: arguments.number("eps", None)?,
    })
}

fn layer_norm(arguments: &mut Arguments<'_>) -> Outcome<Op> {
    let input = arguments.tensor("input")?;
    let shape = arguments.ints("normalized_shape")?.unwrap_or_default();
    let scale = arguments.optional_tensor("weight")?.is_some();
    let shift = arguments.optional_tensor("bias")?.is_some();
    let first = input.shape.len().checked_sub(shape.len()).filter(|_| !shape.is_empty());
    let fits = |first: &usize| {
        input.shape[*first..].iter().zip(&shape).all(|(size, &wanted)| size.fixed() == u64::try_from(wanted).ok())
    };
    if !first.is_some_and(|first| fits(&first)) {
        return Err(format!("normalises {:?}, which its input does not end with", &shape[..shape.len().min(8)]));
    }
    arguments.pass(&["cudnn_enable"]);
    Ok(Op::LayerNorm { dimensions: shape.len(), epsilon: arguments.number("eps", Some(1e-5))?, scale, shift })
}

fn group_norm(arguments: &mut Arguments<'_>) -> Outcome<Op> {
    arguments.tensor("input")?;
    let scale = arguments.optional_tensor("weight")?.is_some();
    let shift = arguments.optional_tensor("bias")?.is_some();
    arguments.pass(&["cudnn_enabled"]);
    Ok(Op::GroupNorm {
        groups: arguments.count("num_groups", None)?,
        epsilon: arguments.number("eps", Some(1e-5))?,
        scale,
        shift,
    })
}

fn linear(arguments: &mut Arguments<'_>) -> Outcome<Op> {
    arguments.tensor("input")?;
    arguments.tensor("weight")?;
    Ok(Op::Linear { bias: arguments.optional_tensor("bias")?.is_some() })
}

fn matmul(arguments: &mut Arguments<'_>) -> Outcome<Op> {
    arguments.tensor("self")?;
    arguments.tensor("other")?;
    Ok(Op::Matmul)
}

fn attention(arguments: &mut Arguments<'_>) -> Outcome<Op> {
    for name in ["query", "key", "value"] {
        arguments.tensor(name)?;
    }
    let mask = arguments.optional_tensor("attn_mask")?.is_some();
    if arguments.flag("enable_gqa", Some(false))? {
        return Err("shares keys between heads (enable_gqa), which is not supported".to_owned());
    }
    let dropout = probability(arguments.number("dropout_p", Some(0.0))?)?;
    let is_causal = arguments.flag("is_causal", Some(false))?;
    Ok(Op::Attention { mask, dropout, is_causal, scale: arguments.optional_number("scale")? })
}

fn activation(arguments: &mut Arguments<'_>, function: Activation) -> Outcome<Op> {
    arguments.tensor("self")?;
    Ok(Op::Activation(function))
}

fn hardtanh(arguments: &mut Arguments<'_>) -> Outcome<Op> {
    let low = arguments.number("min_val", Some(-1.0))?;
    let high = arguments.number("max_val", Some(1.0))?;
    activation(arguments, Activation::Clamp { low, high })
}

fn gelu(arguments: &mut Arguments<'_>) -> Outcome<Op> {
    let tanh = match arguments.text("approximate", "none")? {
        "none" => false,
        "tanh" => true,
        _ => return Err("has an unknown approximation".to_owned()),
    };
    activation(arguments, Activation::Gelu { tanh })
}

fn softmax(arguments: &mut Arguments<'_>) -> Outcome<Op> {
    let rank = arguments.tensor("self")?.shape.len();
    only_float32(arguments)?;
    Ok(Op::Softmax { dimension: arguments.dimension("dim", None, rank)? })
}

/// Accepts `dtype` if it is single precision.
fn only_float32(arguments: &mut Arguments<'_>) -> Outcome<()> {
    const FLOAT32: u64 = 7;
    match arguments.take("dtype") {
        None | Some(Argument::ScalarType(FLOAT32)) => Ok(()),
        Some(_) => Err("converts to another type than float32, which is not supported".to_owned()),
    }
}

fn arithmetic(arguments: &mut Arguments<'_>, kind: Arithmetic) -> Outcome<Op> {
    let first = arguments.tensor("self")?;
    let is_counter = first.dtype == Dtype::I64;
    let alpha = arguments.number("alpha", Some(1.0))?;
    let other = match arguments.take("other") {
        Some(Argument::Tensor(_)) if is_counter => None,
        Some(Argument::Tensor(tensor)) => arguments.value(tensor).map(|_| Some(Operand::Tensor))?,
        Some(Argument::Int(number)) => Some(Operand::Number(*number as f64)),
        Some(Argument::Float(number)) => Some(Operand::Number(*number)),
        _ => None,
    };
    match other {
        Some(Operand::Number(1.0)) if is_counter && kind == Arithmetic::Add => Ok(Op::CountBatch),
        _ if is_counter => Err("computes with integers, which is supported for counters of batches only".to_owned()),
        Some(other) if alpha == 1.0 => Ok(Op::Arithmetic { kind, other }),
        _ => Err("has a second operand of a kind that is not supported".to_owned()),
    }
}

fn concat(arguments: &mut Arguments<'_>) -> Outcome<Op> {
    arguments.tensors("tensors")?;
    let rank = arguments.scope.value(arguments.tensors[0]).shape.len();
    Ok(Op::Concat { dimension: arguments.dimension("dim", Some(0), rank)? })
}

fn window(arguments: &mut Arguments<'_>) -> Outcome<Window> {
    let size = arguments.pair("kernel_size", None)?;
    Ok(Window {
        size,
        stride: arguments.pair("stride", Some(size))?,
        padding: arguments.pair("padding", Some([0, 0]))?,
        dilation: arguments.pair("dilation", Some([1, 1]))?,
        rounds_up: arguments.flag("ceil_mode", Some(false))?,
    })
}

fn max_pool(arguments: &mut Arguments<'_>) -> Outcome<Op> {
    arguments.tensor("self")?;
    window(arguments).map(Op::MaxPool)
}

fn average_pool(arguments: &mut Arguments<'_>) -> Outcome<Op> {
    arguments.tensor("self")?;
    let window = window(arguments)?;
    let counts_padding = arguments.flag("count_include_pad", Some(true))?;
    if arguments.take("divisor_override").is_some() {
        return Err("divides by another number than the window's size, which is not supported".to_owned());
    }
    Ok(Op::AveragePool { window, counts_padding })
}

fn adaptive_average_pool(arguments: &mut Arguments<'_>) -> Outcome<Op> {
    arguments.tensor("self")?;
    Ok(Op::AdaptiveAveragePool { size: arguments.pair("output_size", None)? })
}

fn mean(arguments: &mut Arguments<'_>) -> Outcome<Op> {
    let rank = arguments.tensor("self")?.shape.len();
    only_float32(arguments)?;
    let numbers = arguments.ints("dim")?.filter(|numbers| !numbers.is_empty() && numbers.len() <= rank);
    let Some(numbers) = numbers else { return Err("has no dimensions to average".to_owned()) };
    let mut dimensions = numbers.into_iter().map(|number| dimension(number, rank)).collect::<Outcome<Vec<_>>>()?;
    dimensions.sort_unstable();
    if dimensions.array_windows().any(|[one, two]| one == two) {
        return Err("averages a dimension twice".to_owned());
    }
    Ok(Op::Mean { dimensions, keeps: arguments.flag("keepdim", Some(false))? })
}

fn pad(arguments: &mut Arguments<'_>) -> Outcome<Op> {
    let rank = arguments.tensor("self")?.shape.len();
    if arguments.text("mode", "constant")? != "constant" {
        return Err("pads with other values than a constant, which is not supported".to_owned());
    }
    let value = arguments.number("value", Some(0.0))?;
    let numbers = arguments.ints("pad")?.unwrap_or_default();
    let (pairs, rest) = numbers.as_chunks::<2>();
    if pairs.len() > rank || !rest.is_empty() {
        return Err("has another number of paddings than its input has sides".to_owned());
    }
    let number = |number: i64| u64::try_from(number).map_err(|_| "has a negative padding".to_owned());
    // PyTorch begins with the last dimension.
    let amounts = pairs.iter().rev().map(|&[before, after]| Ok::<_, String>([number(before)?, number(after)?]));
    Ok(Op::Pad { amounts: amounts.collect::<Outcome<_>>()?, value })
}

fn roll(arguments: &mut Arguments<'_>) -> Outcome<Op> {
    let rank = arguments.tensor("self")?.shape.len();
    let shifts = arguments.ints("shifts")?.unwrap_or_default();
    let numbers = arguments.ints("dims")?.unwrap_or_default();
    if numbers.is_empty() || shifts.len() != numbers.len() || numbers.len() > MOST_DIMENSIONS {
        return Err("has another number of shifts than of dimensions".to_owned());
    }
    let dimensions = numbers.into_iter().map(|number| dimension(number, rank)).collect::<Outcome<_>>()?;
    Ok(Op::Roll { shifts, dimensions })
}

fn rows(arguments: &mut Arguments<'_>) -> Outcome<Op> {
    arguments.tensor("self")?;
    arguments.only_tensor("indices")?;
    Ok(Op::Rows)
}

fn probability(number: f64) -> Outcome<f64> {
    let is_one = (0.0..=1.0).contains(&number);
    is_one.then_some(number).ok_or_else(|| "has a probability that is not between 0 and 1".to_owned())
}

fn dropout(arguments: &mut Arguments<'_>) -> Outcome<Op> {
    // The operator that overwrites calls it `self`.
    if arguments.optional_tensor("input")?.is_none() {
        arguments.tensor("self")?;
    }
    let probability = probability(arguments.number("p", None)?)?;
    Ok(Op::Dropout { probability, training: arguments.flag("train", None)? })
}

fn identity(arguments: &mut Arguments<'_>) -> Outcome<Op> {
    arguments.tensor("self")?;
    arguments.pass(&["memory_format"]);
    Ok(Op::Identity)
}

fn empty(arguments: &mut Arguments<'_>) -> Outcome<Op> {
    only_float32(arguments)?;
    arguments.pass(&["layout", "device", "pin_memory", "memory_format"]);
    let known = |size| match size {
        WantedSize::Known(size) => Ok(size),
        WantedSize::Open => Err("has a negative size".to_owned()),
    };
    Ok(Op::Empty { shape: arguments.shape("size")?.into_iter().map(known).collect::<Outcome<_>>()? })
}

fn new_empty(arguments: &mut Arguments<'_>) -> Outcome<Op> {
    let is_float = arguments.tensor("self")?.dtype == Dtype::F32;
    // It gives the type and the device alone.
    arguments.tensors.clear();
    if is_float { empty(arguments) } else { Err("makes a tensor that is not float32".to_owned()) }
}

fn bernoulli(arguments: &mut Arguments<'_>) -> Outcome<Op> {
    arguments.tensor("self")?;
    if arguments.take("generator").is_some() {
        return Err("has a generator of its own, which is not supported".to_owned());
    }
    Ok(Op::Bernoulli { probability: probability(arguments.number("p", Some(0.5))?)? })
}
