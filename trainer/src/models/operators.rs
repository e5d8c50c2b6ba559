//! Runs single operations on tensors, with PyTorch's semantics.
//!
//! A network computes in the kind of its maps. Convolutions, linear layers and products of matrices convert their
//! weights to it, and so do sums and concatenations of maps with weights. Norms keep float32 weights; their statistics
//! and those of a softmax are float32, and their results have the kind of the map. Nodes of full precision get maps of
//! float32, which are converted around them.

use tch::{Device, Kind, Tensor};

use distillery_core::exported::{Activation, Arithmetic, Comparison, Operand};

use super::layers::{NormTensors, convolution, every_second, for_wide_weights, norm, products_apart};
use super::program::{ProgramOp, ProgramWindow, Random, sized};
use super::scope::{ExecutionScope, Made, Taken};

/// Runs an operation. It may overwrite its first input if `overwrites`.
pub(super) fn apply(op: &ProgramOp, inputs: &[Taken<'_>], scope: &ExecutionScope<'_>, overwrites: bool) -> Made {
    match (op, inputs) {
        (ProgramOp::Split { dimension, sizes }, [x]) => Made::Several(x.split_with_sizes(sizes, *dimension)),
        (ProgramOp::Unbind { dimension }, [x]) => Made::Several(x.unbind(*dimension)),
        (op, []) => Made::One(source(op, scope)),
        (op, [x]) => Made::One(of_one(op, x, scope, overwrites)),
        (op, inputs) => Made::One(of_several(op, inputs, scope)),
    }
}

/// An operation without inputs.
fn source(op: &ProgramOp, scope: &ExecutionScope<'_>) -> Tensor {
    match op {
        ProgramOp::Bernoulli { shape, random } => scope.mask(*random, &sized(shape, scope.batch), 1.0, scope.kind),
        ProgramOp::Ones { shape } => Tensor::ones(sized(shape, scope.batch), (scope.kind, scope.device)),
        op => unreachable!("{op:?} without inputs"),
    }
}

fn of_one(op: &ProgramOp, x: &Tensor, scope: &ExecutionScope<'_>, overwrites: bool) -> Tensor {
    match op {
        ProgramOp::Relu if overwrites => x.shallow_clone().relu_(),
        ProgramOp::Relu => x.relu(),
        ProgramOp::Activation(function) if overwrites => activation_in_place(*function, &mut x.shallow_clone()),
        ProgramOp::Activation(function) => activation(*function, x),
        ProgramOp::Softmax { dimension } => x.softmax(*dimension, None::<Kind>),
        ProgramOp::LogSoftmax { dimension } => x.log_softmax(*dimension, None::<Kind>),
        ProgramOp::Arithmetic { kind, other: Operand::Number(number) } => with_number(*kind, x, *number),
        ProgramOp::Compare { kind, other: Operand::Number(number) } => compared_with_number(*kind, x, *number),
        ProgramOp::Concat { .. } => x.shallow_clone(),
        ProgramOp::Shuffle { groups } => shuffle(x, *groups),
        ProgramOp::Subsample { zeros } => every_second(x).constant_pad_nd([0, 0, 0, 0, *zeros, *zeros]),
        ProgramOp::MaxPool(ProgramWindow { size, stride, padding, dilation, rounds_up }) => {
            x.max_pool2d(size, stride, padding, dilation, *rounds_up)
        }
        ProgramOp::AveragePool { window: ProgramWindow { size, stride, padding, rounds_up, .. }, counts_padding } => {
            x.avg_pool2d(size, stride, padding, *rounds_up, *counts_padding, None::<i64>)
        }
        ProgramOp::AdaptiveAveragePool { size } => x.adaptive_avg_pool2d(size),
        ProgramOp::AdaptiveMaxPool { size } => x.adaptive_max_pool2d(size).0,
        ProgramOp::Mean { dimensions, keeps } => x.mean_dim(dimensions.as_slice(), *keeps, None::<Kind>),
        ProgramOp::Max { dimensions, keeps, shares: true } => x.amax(dimensions, *keeps),
        ProgramOp::Max { dimensions, keeps, shares: false } => x.max_dim(dimensions[0], *keeps).0,
        ProgramOp::Length { dimensions, keeps } => x.norm_scalaropt_dim(2.0, dimensions, *keeps),
        ProgramOp::LogSumExp { dimensions, keeps } => in_float32(x, |x| x.logsumexp(dimensions, *keeps)),
        ProgramOp::CumulativeSum { dimension } => in_float32(x, |x| x.cumsum(*dimension, None::<Kind>)),
        ProgramOp::Reshape { shape } => x.reshape(shape),
        ProgramOp::Expand { shape } => x.expand(sized(shape, scope.batch), false),
        ProgramOp::Permute { order } => x.permute(order),
        ProgramOp::Convert { to_full_precision: true } if x.kind() == Kind::BFloat16 => x.to_kind(Kind::Float),
        ProgramOp::Convert { to_full_precision: false } if x.kind() == Kind::Float => x.to_kind(scope.kind),
        ProgramOp::Convert { .. } => x.shallow_clone(),
        ProgramOp::Slice { dimension, start, end, step } => x.slice(*dimension, *start, *end, *step),
        ProgramOp::Select { dimension, index } => x.select(*dimension, *index),
        ProgramOp::Pad { amounts, value } => x.pad(amounts, "constant", *value),
        ProgramOp::Roll { shifts, dimensions } => x.roll(shifts, dimensions),
        ProgramOp::Dropout(random) => scope.dropout(*random, x),
        ProgramOp::LayerNorm { .. } | ProgramOp::GroupNorm { .. } => map_norm(op, x, &[]),
        op => unreachable!("{op:?} of one tensor"),
    }
}

fn of_several(op: &ProgramOp, inputs: &[Taken<'_>], scope: &ExecutionScope<'_>) -> Tensor {
    match (op, inputs) {
        (ProgramOp::Convolution(kernel), [x, weight, bias @ ..]) => {
            convolution(*kernel, x, weight, bias.first().map(|t| &**t))
        }
        (
            ProgramOp::TransposedConvolution { stride, padding, output_padding, dilation, groups },
            [x, weight, bias @ ..],
        ) => {
            let bias = bias.first().map(|bias| bias.to_kind(x.kind()));
            let weight = weight.to_kind(x.kind());
            let covers_one = weight.size()[2..] == [1, 1] && *padding == [0, 0] && *groups == 1;
            if covers_one && *stride != [1, 1] && x.device() == Device::Cpu {
                return products_apart(x, &weight, bias.as_ref(), *stride, *output_padding);
            }
            x.conv_transpose2d(&weight, bias, stride, padding, output_padding, *groups, dilation)
        }
        (ProgramOp::BatchNorm(of), [x, scale, shift, mean, variance]) => {
            norm(*of, x, NormTensors { scale, shift, mean, variance }, None, false, scope)
        }
        (ProgramOp::Linear, [x, weight, bias @ ..]) => {
            let bias = bias.first().map(|bias| bias.to_kind(x.kind()));
            x.linear(&weight.to_kind(x.kind()), bias.as_ref())
        }
        (ProgramOp::Matmul, [x, y]) => {
            let kind = common([x, y]);
            x.to_kind(kind).matmul(&y.to_kind(kind))
        }
        (ProgramOp::Attention { mask, dropout, is_causal, scale }, [query, key, value, ..]) => {
            let kind = common([query, key, value]);
            let [query, key, value] = [query, key, value].map(|tensor| tensor.to_kind(kind));
            let mask = if *mask { inputs.get(3).map(|mask| &**mask) } else { None };
            let attention = Attention { query, key, value, mask, is_causal: *is_causal, scale: *scale };
            attention.run(*dropout, scope)
        }
        (ProgramOp::Add, [x, y]) => {
            let kind = common([x, y]);
            x.to_kind(kind) + y.to_kind(kind)
        }
        (ProgramOp::Arithmetic { kind, other: Operand::Tensor }, [x, y]) => combined(*kind, x, y),
        (ProgramOp::Compare { kind, other: Operand::Tensor }, [x, y]) => compared(*kind, x, y),
        (ProgramOp::Prelu, [x, slopes]) => x.prelu(&slopes.to_kind(x.kind())),
        (ProgramOp::Where, [condition, x, y]) => {
            let kind = common([x, y]);
            x.to_kind(kind).where_self(condition, &y.to_kind(kind))
        }
        (ProgramOp::Concat { dimension }, parts) => {
            let kind = common(parts);
            let parts: Vec<Tensor> = parts.iter().map(|part| part.to_kind(kind)).collect();
            Tensor::cat(&parts, *dimension)
        }
        (ProgramOp::Rows, [table, numbers]) => table.index(&[Some(&**numbers)]),
        (ProgramOp::LayerNorm { .. } | ProgramOp::GroupNorm { .. }, [x, weights @ ..]) => map_norm(op, x, weights),
        (op, inputs) => unreachable!("{op:?} of {} tensors", inputs.len()),
    }
}

/// The kind in which several tensors are combined: that of maps, where weights are float32.
fn common<'a, 'b: 'a>(tensors: impl IntoIterator<Item = &'a Taken<'b>>) -> Kind {
    let mut kinds = tensors.into_iter().map(|tensor| tensor.kind());
    let first = kinds.next().expect("there are tensors");
    if kinds.any(|kind| kind == Kind::BFloat16) { Kind::BFloat16 } else { first }
}

/// What a function that loses too much in bfloat16, of which autocast knows, too, makes of a map.
fn in_float32(x: &Tensor, function: impl Fn(&Tensor) -> Tensor) -> Tensor {
    match x.kind() {
        Kind::BFloat16 => function(&x.to_kind(Kind::Float)).to_kind(Kind::BFloat16),
        _ => function(x),
    }
}

fn combined(kind: Arithmetic, x: &Taken<'_>, y: &Taken<'_>) -> Tensor {
    let common = common([x, y]);
    // As under autocast: a trained exponent has more digits than bfloat16.
    let is_wide = kind == Arithmetic::Power && common == Kind::BFloat16;
    let computed = if is_wide { Kind::Float } else { common };
    let (x, y) = (x.to_kind(computed), y.to_kind(computed));
    let made = match kind {
        Arithmetic::Add => x + y,
        Arithmetic::Subtract => x - y,
        Arithmetic::Multiply => x * y,
        Arithmetic::Divide => x / y,
        Arithmetic::Maximum => x.maximum(&y),
        Arithmetic::Minimum => x.minimum(&y),
        Arithmetic::Power => x.pow(&y),
    };
    made.to_kind(common)
}

fn with_number(kind: Arithmetic, x: &Tensor, number: f64) -> Tensor {
    let tensor = || x.full_like(number);
    match kind {
        Arithmetic::Add => x.g_add_scalar(number),
        Arithmetic::Subtract => x.g_sub_scalar(number),
        Arithmetic::Multiply => x.g_mul_scalar(number),
        Arithmetic::Divide => x.g_div_scalar(number),
        Arithmetic::Maximum => x.maximum(&tensor()),
        Arithmetic::Minimum => x.minimum(&tensor()),
        Arithmetic::Power => x.pow_tensor_scalar(number),
    }
}

fn compared(kind: Comparison, x: &Taken<'_>, y: &Taken<'_>) -> Tensor {
    let common = common([x, y]);
    let (x, y) = (x.to_kind(common), y.to_kind(common));
    match kind {
        Comparison::Less => x.lt_tensor(&y),
        Comparison::LessOrEqual => x.le_tensor(&y),
        Comparison::Greater => x.gt_tensor(&y),
        Comparison::GreaterOrEqual => x.ge_tensor(&y),
        Comparison::Equal => x.eq_tensor(&y),
        Comparison::NotEqual => x.ne_tensor(&y),
    }
}

fn compared_with_number(kind: Comparison, x: &Tensor, number: f64) -> Tensor {
    match kind {
        Comparison::Less => x.lt(number),
        Comparison::LessOrEqual => x.le(number),
        Comparison::Greater => x.gt(number),
        Comparison::GreaterOrEqual => x.ge(number),
        Comparison::Equal => x.eq(number),
        Comparison::NotEqual => x.ne(number),
    }
}

fn activation(function: Activation, x: &Tensor) -> Tensor {
    match function {
        Activation::Relu => x.relu(),
        // Their gradient is zero at the limits, and that of clamp is not.
        Activation::Clamp { low: 0.0, high: 6.0 } => x.relu6(),
        Activation::Clamp { low: -1.0, high: 1.0 } => x.hardtanh(),
        Activation::Clamp { low, high } => x.clamp(low, high),
        Activation::AtLeast { low } => {
            let value = x.detach();
            x + (value.clamp_min(low) - value)
        }
        Activation::Hardswish => x.hardswish(),
        Activation::Hardsigmoid => x.hardsigmoid(),
        Activation::Silu => x.silu(),
        Activation::Sigmoid => x.sigmoid(),
        Activation::Tanh => x.tanh(),
        Activation::Gelu { tanh } => x.gelu(approximation(tanh)),
        Activation::LeakyRelu { slope } => x.where_self(&x.gt(0.0), &(x * slope)),
        Activation::Elu { alpha, scale, input_scale } => {
            // The exponential of what is not chosen must be finite: its gradient is multiplied by zero.
            let negative = (x.clamp_max(0.0) * input_scale).expm1() * (alpha * scale);
            (x * scale).where_self(&x.gt(0.0), &negative)
        }
        Activation::Softplus { beta, threshold } => {
            let scaled = x * beta;
            let curved = scaled.clamp_max(threshold).exp().log1p() / beta;
            x.where_self(&scaled.gt(threshold), &curved)
        }
        Activation::Power { exponent: 0.5 } => x.sqrt(),
        Activation::Power { exponent: -0.5 } => x.rsqrt(),
        Activation::Power { exponent: -1.0 } => x.reciprocal(),
        Activation::Power { exponent } => x.pow_tensor_scalar(exponent),
        Activation::Exp => x.exp(),
        Activation::ExpMinusOne => x.expm1(),
        Activation::Log => x.log(),
        Activation::LogOfOnePlus => x.log1p(),
        Activation::Abs => x.abs(),
        Activation::Erf => x.erf(),
        Activation::Sign => x.sign(),
        Activation::Sin => x.sin(),
        Activation::Cos => x.cos(),
    }
}

/// In the memory of `x`, where libtorch can.
fn activation_in_place(function: Activation, x: &mut Tensor) -> Tensor {
    match function {
        Activation::Relu => x.relu_(),
        Activation::Clamp { low, high } => x.clamp_(low, high),
        Activation::Hardswish => x.hardswish_(),
        Activation::Hardsigmoid => x.hardsigmoid_(),
        Activation::Silu => x.silu_(),
        Activation::Sigmoid => x.sigmoid_(),
        Activation::Tanh => x.tanh_(),
        Activation::Gelu { tanh } => x.gelu_(approximation(tanh)),
        function => activation(function, x),
    }
}

fn approximation(tanh: bool) -> &'static str {
    if tanh { "tanh" } else { "none" }
}

/// Layer norm or group norm, with float32 weights.
fn map_norm(op: &ProgramOp, x: &Tensor, weights: &[Taken<'_>]) -> Tensor {
    let (has_scale, has_shift) = match op {
        ProgramOp::LayerNorm { scale, shift, .. } | ProgramOp::GroupNorm { scale, shift, .. } => (*scale, *shift),
        op => unreachable!("{op:?} is no norm"),
    };
    let mut weights = weights.iter().map(|weight| &**weight);
    let scale = if has_scale { weights.next() } else { None };
    let shift = if has_shift { weights.next() } else { None };
    let wide = if scale.or(shift).is_some() { for_wide_weights(x) } else { x.shallow_clone() };
    let made = match op {
        ProgramOp::LayerNorm { shape, epsilon, .. } => wide.layer_norm(shape, scale, shift, *epsilon, true),
        ProgramOp::GroupNorm { groups, epsilon, .. } => wide.group_norm(*groups, scale, shift, *epsilon, true),
        op => unreachable!("{op:?} is no norm"),
    };
    made.to_kind(x.kind())
}

/// softmax(scale · query · keyᵀ + mask) · value, for query [N…, L, E], key [N…, S, E] and value [N…, S, V].
struct Attention<'a> {
    query: Tensor,
    key: Tensor,
    value: Tensor,
    /// Booleans, true where a key is seen, or summands: broadcasts to [N…, L, S].
    mask: Option<&'a Tensor>,
    is_causal: bool,
    scale: Option<f64>,
}

impl Attention<'_> {
    fn run(&self, dropout: Option<Random>, scope: &ExecutionScope<'_>) -> Tensor {
        let Self { query, key, value, mask, is_causal, scale } = self;
        // CUDA's fused kernels add up gradients in an order that changes from run to run.
        let is_repeatable = query.device() == Device::Cpu || !query.requires_grad();
        if dropout.is_none() && !(*is_causal && mask.is_some()) && is_repeatable {
            let mask = mask.map(|mask| self.summand(mask));
            return Tensor::scaled_dot_product_attention(
                query,
                key,
                value,
                mask.as_ref(),
                0.0,
                *is_causal,
                *scale,
                false,
            );
        }
        let width = query.size().last().copied().unwrap_or(1);
        let scale = scale.unwrap_or(1.0 / (width as f64).sqrt());
        let mut scores = (query * scale).matmul(&key.transpose(-2, -1));
        if *is_causal {
            let is_seen = scores.ones_like().tril(0).to_kind(Kind::Bool);
            scores = scores.masked_fill(&is_seen.logical_not(), f64::NEG_INFINITY);
        }
        scores = match mask {
            Some(mask) if mask.kind() == Kind::Bool => scores.masked_fill(&mask.logical_not(), f64::NEG_INFINITY),
            Some(mask) => scores + self.summand(mask),
            None => scores,
        };
        let weights = scores.softmax(-1, None::<Kind>);
        let weights = dropout.map_or_else(|| weights.shallow_clone(), |random| scope.dropout(random, &weights));
        weights.matmul(value)
    }

    /// A mask of summands in the kind of the scores.
    fn summand(&self, mask: &Tensor) -> Tensor {
        if mask.kind() == Kind::Bool { mask.shallow_clone() } else { mask.to_kind(self.query.kind()) }
    }
}

/// Shuffles the channels of `input` [B, G·N, H, W]: channel n of group g becomes channel n·G + g. Keeps channels last.
fn shuffle(input: &Tensor, groups: i64) -> Tensor {
    let &[batch, channels, height, width] = input.size().as_slice() else { unreachable!("maps have four dimensions") };
    let pixels = input.permute([0, 2, 3, 1]).reshape([batch, height, width, groups, channels / groups]);
    pixels.transpose(3, 4).reshape([batch, height, width, channels]).permute([0, 3, 1, 2])
}
