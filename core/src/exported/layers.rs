//! Reads convolutions, normalisations, linear layers and attention.

use super::arguments::{Arguments, unexpected};
use super::error::OrFault;
use super::lowering::{Lowering, Source};
use super::op::Op;
use super::resampling::each_repeated;
use super::rules::broadcast;
use super::size::{Size, shown_shape};
use crate::checkpoint::Dtype;

use super::functions::probability;

pub(super) fn convolution(arguments: &mut Arguments<'_>) -> OrFault<Op> {
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

/// A convolution whose padding is "same" or "valid".
pub(super) fn convolution_by_name(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let inputs = [lowering.tensor("input")?, lowering.tensor("weight")?];
    let bias = lowering.optional_tensor("bias")?;
    let [stride, dilation] = ["stride", "dilation"].map(|name| lowering.arguments.pair(name, Some([1, 1])));
    let groups = lowering.arguments.count("groups", Some(1))?;
    let kernel = [lowering.fixed(inputs[1], 2)?, lowering.fixed(inputs[1], 3)?];
    let window = ConvolutionKernel { sizes: kernel, stride: stride?, dilation: dilation?, groups };
    let padding = named_padding(lowering, &window)?;
    Ok(vec![convolve(lowering, inputs, bias, &window, padding)?])
}

struct ConvolutionKernel {
    sizes: [u64; 2],
    stride: [u64; 2],
    dilation: [u64; 2],
    groups: u64,
}

/// The padding before and after each side.
fn named_padding(lowering: &mut Lowering<'_>, kernel: &ConvolutionKernel) -> OrFault<[[u64; 2]; 2]> {
    match lowering.arguments.text("padding", "valid")? {
        "valid" => Ok([[0; 2]; 2]),
        "same" if kernel.stride == [1, 1] => {
            let side = |at: usize| {
                let all = kernel.sizes[at].checked_sub(1)?.checked_mul(kernel.dilation[at])?;
                Some([all / 2, all - all / 2])
            };
            side(0).zip(side(1)).map(|(height, width)| [height, width]).ok_or_else(|| unexpected("padding"))
        }
        _ => Err(unexpected("padding")),
    }
}

fn convolve(
    lowering: &mut Lowering<'_>,
    [mut input, weight]: [Source; 2],
    bias: Option<Source>,
    kernel: &ConvolutionKernel,
    padding: [[u64; 2]; 2],
) -> OrFault<Source> {
    let mut both = padding.map(|[before, _]| before);
    if padding.iter().any(|[before, after]| before != after) {
        input = lowering.add(Op::Pad { amounts: padding.to_vec(), value: 0.0 }, &[input])?;
        both = [0, 0];
    }
    let ConvolutionKernel { stride, dilation, groups, .. } = *kernel;
    let op = Op::Convolution { stride, padding: both, dilation, groups, bias: bias.is_some() };
    let inputs: Vec<Source> = [input, weight].into_iter().chain(bias).collect();
    lowering.add(op, &inputs)
}

/// A convolution [B, C, L]: one of maps that are one row high.
pub(super) fn convolution_1d(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let (input, weight) = (lowering.tensor("input")?, lowering.tensor("weight")?);
    let bias = lowering.optional_tensor("bias")?;
    let stride = [1, one_number(&mut lowering.arguments, "stride", 1)?];
    let dilation = [1, one_number(&mut lowering.arguments, "dilation", 1)?];
    let groups = lowering.arguments.count("groups", Some(1))?;
    let kernel = ConvolutionKernel { sizes: [1, lowering.fixed(weight, 2)?], stride, dilation, groups };
    let is_named = lowering.arguments.is_text("padding");
    let padding = if is_named {
        named_padding(lowering, &kernel)?
    } else {
        [[0, 0], [one_number(&mut lowering.arguments, "padding", 0)?; 2]]
    };
    let map = one_row(lowering, input)?;
    let row_weight = one_row(lowering, weight)?;
    let convolved = convolve(lowering, [map, row_weight], bias, &kernel, padding)?;
    Ok(vec![without_row(lowering, convolved)?])
}

/// A number for the length of a sequence.
fn one_number(arguments: &mut Arguments<'_>, name: &str, default: u64) -> OrFault<u64> {
    match *arguments.ints(name)?.unwrap_or_default().as_slice() {
        [] => Ok(default),
        [number] => u64::try_from(number).map_err(|_| unexpected(name)),
        _ => Err(unexpected(name)),
    }
}

pub(super) fn transposed_convolution(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    arguments.tensor("input")?;
    arguments.tensor("weight")?;
    let bias = arguments.optional_tensor("bias")?.is_some();
    Ok(Op::TransposedConvolution {
        stride: arguments.pair("stride", Some([1, 1]))?,
        padding: arguments.pair("padding", Some([0, 0]))?,
        output_padding: arguments.pair("output_padding", Some([0, 0]))?,
        dilation: arguments.pair("dilation", Some([1, 1]))?,
        groups: arguments.count("groups", Some(1))?,
        bias,
    })
}

/// A transposed convolution [B, C, L]: one of maps that are one row high.
pub(super) fn transposed_convolution_1d(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let (input, weight) = (lowering.tensor("input")?, lowering.tensor("weight")?);
    let bias = lowering.optional_tensor("bias")?;
    let arguments = &mut lowering.arguments;
    let op = Op::TransposedConvolution {
        stride: [1, one_number(arguments, "stride", 1)?],
        padding: [0, one_number(arguments, "padding", 0)?],
        output_padding: [0, one_number(arguments, "output_padding", 0)?],
        dilation: [1, one_number(arguments, "dilation", 1)?],
        groups: arguments.count("groups", Some(1))?,
        bias: bias.is_some(),
    };
    let inputs = [one_row(lowering, input)?, one_row(lowering, weight)?];
    let made = lowering.add(op, &inputs.into_iter().chain(bias).collect::<Vec<_>>())?;
    Ok(vec![without_row(lowering, made)?])
}

/// [N, C, L] as [N, C, 1, L].
pub(super) fn one_row(lowering: &mut Lowering<'_>, input: Source) -> OrFault<Source> {
    let shape = lowering.shape(input);
    let [first, channels, length] = shape[..] else {
        return Err(format!("needs a tensor [N, C, L], and has {}", shown_shape(&shape)));
    };
    lowering.reshape(input, vec![first, channels, Size::Fixed(1), length])
}

/// [N, C, 1, L] as [N, C, L].
pub(super) fn without_row(lowering: &mut Lowering<'_>, input: Source) -> OrFault<Source> {
    let mut shape = lowering.shape(input);
    shape.remove(2);
    lowering.reshape(input, shape)
}

/// The scale or shift of an argument, or one that changes nothing.
fn vector(lowering: &mut Lowering<'_>, name: &str, channels: u64, neutral: f64) -> OrFault<Source> {
    match lowering.optional_tensor(name)? {
        Some(given) => Ok(given),
        None => lowering.constant(Dtype::F32, &[channels], |_| neutral),
    }
}

pub(super) fn batch_norm(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("input")?;
    let channels = lowering.fixed(input, 1)?;
    let scale = vector(lowering, "weight", channels, 1.0)?;
    let shift = vector(lowering, "bias", channels, 0.0)?;
    let statistics = lowering.optional_tensor("running_mean")?.zip(lowering.optional_tensor("running_var")?);
    lowering.arguments.pass(&["cudnn_enabled"]);
    let training = lowering.arguments.flag("training", None)?;
    let momentum = lowering.arguments.number("momentum", None)?;
    let epsilon = lowering.arguments.number("eps", None)?;
    if let Some((mean, variance)) = statistics {
        let op = Op::BatchNorm { training, momentum, epsilon, by_image: false };
        return Ok(vec![lowering.add(op, &[input, scale, shift, mean, variance])?]);
    }
    // A weight [1, C, …] that is standardised has one row: its channels are groups.
    if !training || lowering.value(input).shape.first() != Some(&Size::Fixed(1)) {
        return Err("has no running statistics, so an image's logits would depend on the others in its batch: use \
                    track_running_stats=True"
            .to_owned());
    }
    let op = Op::GroupNorm { groups: channels, epsilon, scale: true, shift: true };
    Ok(vec![lowering.add(op, &[input, scale, shift])?])
}

pub(super) fn instance_norm(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let input = lowering.tensor("input")?;
    let groups = lowering.fixed(input, 1)?;
    let scale = lowering.optional_tensor("weight")?;
    let shift = lowering.optional_tensor("bias")?;
    let statistics = lowering.optional_tensor("running_mean")?.zip(lowering.optional_tensor("running_var")?);
    let training = lowering.arguments.flag("use_input_stats", None)?;
    let momentum = lowering.arguments.number("momentum", Some(0.1))?;
    let epsilon = lowering.arguments.number("eps", None)?;
    lowering.arguments.pass(&["cudnn_enabled"]);
    if let Some((mean, variance)) = statistics {
        let mut given = |vector: Option<Source>, neutral: f64| match vector {
            Some(given) => Ok(given),
            None => lowering.constant(Dtype::F32, &[groups], |_| neutral),
        };
        let (scale, shift) = (given(scale, 1.0)?, given(shift, 0.0)?);
        let op = Op::BatchNorm { training, momentum, epsilon, by_image: true };
        return Ok(vec![lowering.add(op, &[input, scale, shift, mean, variance])?]);
    }
    if !training {
        return Err("uses running statistics, and has none".to_owned());
    }
    let op = Op::GroupNorm { groups, epsilon, scale: scale.is_some(), shift: shift.is_some() };
    let inputs: Vec<Source> = [input].into_iter().chain(scale).chain(shift).collect();
    Ok(vec![lowering.add(op, &inputs)?])
}

pub(super) fn layer_norm(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    let input = arguments.tensor("input")?;
    let shape = arguments.ints("normalized_shape")?.unwrap_or_default();
    let scale = arguments.optional_tensor("weight")?.is_some();
    let shift = arguments.optional_tensor("bias")?.is_some();
    let dimensions = normalised(&input.shape, &shape)?;
    arguments.pass(&["cudnn_enable"]);
    Ok(Op::LayerNorm { dimensions, epsilon: arguments.number("eps", Some(1e-5))?, scale, shift })
}

/// The number of last dimensions with these sizes.
pub(super) fn normalised(input: &[Size], shape: &[i64]) -> OrFault<usize> {
    let first = input.len().checked_sub(shape.len()).filter(|_| !shape.is_empty());
    let fits = |first: &usize| {
        input[*first..].iter().zip(shape).all(|(size, &wanted)| size.fixed() == u64::try_from(wanted).ok())
    };
    if !first.is_some_and(|first| fits(&first)) {
        return Err(format!("normalises {:?}, which its input does not end with", &shape[..shape.len().min(8)]));
    }
    Ok(shape.len())
}

pub(super) fn group_norm(arguments: &mut Arguments<'_>) -> OrFault<Op> {
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

pub(super) fn linear(arguments: &mut Arguments<'_>) -> OrFault<Op> {
    arguments.tensor("input")?;
    arguments.tensor("weight")?;
    Ok(Op::Linear { bias: arguments.optional_tensor("bias")?.is_some() })
}

/// A product, in which a vector is a matrix of one row before the other factor, and of one column after it.
pub(super) fn matmul(lowering: &mut Lowering<'_>, other: &str) -> OrFault<Vec<Source>> {
    let (mut one, mut two) = (lowering.tensor("self")?, lowering.tensor(other)?);
    let (first, second) = (lowering.shape(one), lowering.shape(two));
    if let [length] = first[..] {
        one = lowering.reshape(one, vec![Size::Fixed(1), length])?;
    }
    if let [length] = second[..] {
        two = lowering.reshape(two, vec![length, Size::Fixed(1)])?;
    }
    let product = lowering.add(Op::Matmul, &[one, two])?;
    let mut shape = lowering.shape(product);
    if second.len() == 1 {
        shape.pop();
    }
    if first.len() == 1 {
        let row = shape.len() - if second.len() == 1 { 1 } else { 2 };
        shape.remove(row);
    }
    Ok(vec![lowering.reshape(product, shape)?])
}

pub(super) fn attention(lowering: &mut Lowering<'_>) -> OrFault<Vec<Source>> {
    let [mut query, mut key, mut value] =
        [lowering.tensor("query")?, lowering.tensor("key")?, lowering.tensor("value")?];
    let mask = lowering.optional_tensor("attn_mask")?;
    let shares_keys = lowering.arguments.flag("enable_gqa", Some(false))?;
    let dropout = probability(lowering.arguments.number("dropout_p", Some(0.0))?)?;
    let is_causal = lowering.arguments.flag("is_causal", Some(false))?;
    let scale = lowering.arguments.optional_number("scale")?;
    if shares_keys {
        key = for_all_heads(lowering, query, key)?;
        value = for_all_heads(lowering, query, value)?;
    }
    // Such as learned queries, which are the same for all images.
    if let Some(leading) = leading(lowering, [query, key, value]) {
        for part in [&mut query, &mut key, &mut value] {
            let own = lowering.shape(*part);
            let shape = [leading.as_slice(), &own[own.len() - 2..]].concat();
            if shape != own {
                *part = lowering.add(Op::Expand { shape }, &[*part])?;
            }
        }
    }
    let op = Op::Attention { mask: mask.is_some(), dropout, is_causal, scale };
    let inputs: Vec<Source> = [query, key, value].into_iter().chain(mask).collect();
    Ok(vec![lowering.add(op, &inputs)?])
}

/// Keys or values [N…, heads, S, E] with as many heads as the queries: consecutive heads of queries share one.
fn for_all_heads(lowering: &mut Lowering<'_>, query: Source, shared: Source) -> OrFault<Source> {
    let (queries, given) = (lowering.shape(query), lowering.shape(shared));
    let heads = |shape: &[Size]| Some((shape.len().checked_sub(3)?, shape[shape.len() - 3].fixed()?));
    let times = heads(&queries).zip(heads(&given)).and_then(|((_, all), (at, some))| {
        let times = all.checked_div(some)?;
        (times * some == all).then_some((at, times))
    });
    match times {
        Some((_, 1)) => Ok(shared),
        Some((dimension, times)) => each_repeated(lowering, shared, dimension, times),
        None => {
            let (queries, given) = (shown_shape(&queries), shown_shape(&given));
            Err(format!(
                "shares keys between heads (enable_gqa), which queries {queries} and keys or values {given} cannot"
            ))
        }
    }
}

/// What the dimensions before the last two are broadcast to, if they fit.
fn leading(lowering: &Lowering<'_>, parts: [Source; 3]) -> Option<Vec<Size>> {
    parts.iter().try_fold(Vec::new(), |leading, &part| {
        let shape = &lowering.value(part).shape;
        broadcast(&leading, &shape[..shape.len().checked_sub(2)?]).ok()
    })
}
