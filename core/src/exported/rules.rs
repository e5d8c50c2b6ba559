//! The shapes of an operation's results, from those of its inputs.

use super::error::OrFault;
use super::graph::{Graph, Node, Value};
use super::op::{Op, Operand, Window};
use super::size::{Shape, Size, product, shown_shape};
use super::window_rules::{convolution, map, pooled, transposed_convolution};
use crate::checkpoint::Dtype;

/// How the message of a fault of types begins.
pub(super) const COMPUTES_WITH: &str = "computes with ";

/// What mixes the images of a batch.
pub(super) const MIXES_IMAGES: &str = "combines the images of a batch, so an image's logits would depend on the others: \
                                       name other dimensions than the batch's";

/// The shapes of the results. The inputs are those that the operation's reader found, in number and order.
pub(super) fn shapes(op: &Op, inputs: &[&Value]) -> OrFault<Vec<Shape>> {
    check_types(op, inputs)?;
    infer(op, inputs)
}

/// As [`shapes`], for inputs of any type.
pub(super) fn infer(op: &Op, inputs: &[&Value]) -> OrFault<Vec<Shape>> {
    let input = || inputs[0].shape.as_slice();
    let one = match op {
        Op::Convolution { stride, padding, dilation, groups, .. } => {
            let window =
                Window { size: [0, 0], stride: *stride, padding: *padding, dilation: *dilation, rounds_up: false };
            convolution(inputs, window, *groups)?
        }
        Op::TransposedConvolution { stride, padding, output_padding, dilation, groups, .. } => {
            let window =
                Window { size: [0, 0], stride: *stride, padding: *padding, dilation: *dilation, rounds_up: false };
            transposed_convolution(inputs, window, *output_padding, *groups)?
        }
        Op::BatchNorm { .. } => {
            let channels = input().get(1).copied();
            vectors(&inputs[1..], channels.and_then(Size::fixed))?;
            input().to_vec()
        }
        Op::GroupNorm { groups, .. } => {
            let channels = input().get(1).and_then(|size| size.fixed());
            vectors(&inputs[1..], channels)?;
            let combined: Vec<usize> = (1..input().len()).collect();
            not_over_the_batch(input(), &combined)?;
            if *groups == 0 || channels.is_none_or(|channels| channels % groups != 0) {
                return Err(format!("divides {} into {groups} groups of channels", shown_shape(input())));
            }
            input().to_vec()
        }
        Op::LayerNorm { dimensions, .. } => {
            let normalised = &input()[input().len() - dimensions..];
            if let Some(other) = inputs[1..].iter().find(|other| other.shape != normalised) {
                let (normalised, other) = (shown_shape(normalised), shown_shape(&other.shape));
                return Err(format!("normalises {normalised} with a scale or shift {other}"));
            }
            input().to_vec()
        }
        Op::Linear { .. } => linear(inputs)?,
        Op::Matmul => matmul(input(), &inputs[1].shape)?,
        Op::Attention { mask, .. } => attention(inputs, *mask)?,
        Op::Softmax { dimension } | Op::LogSoftmax { dimension } => {
            not_over_the_batch(input(), &[*dimension])?;
            input().to_vec()
        }
        Op::Activation(_) | Op::Dropout { .. } | Op::Identity | Op::Bernoulli { .. } | Op::CountBatch => {
            input().to_vec()
        }
        Op::Prelu => {
            let channels = input().get(1).and_then(|size| size.fixed());
            let is_one = inputs[1].shape == [Size::Fixed(1)];
            vectors(&inputs[1..], if is_one { Some(1) } else { channels })?;
            input().to_vec()
        }
        Op::Where => broadcast(&broadcast(input(), &inputs[1].shape)?, &inputs[2].shape)?,
        Op::Arithmetic { other: Operand::Number(_), .. } | Op::Compare { other: Operand::Number(_), .. } => {
            input().to_vec()
        }
        Op::Arithmetic { other: Operand::Tensor, .. } | Op::Compare { other: Operand::Tensor, .. } => {
            broadcast(input(), &inputs[1].shape)?
        }
        Op::Concat { dimension } => concat(inputs, *dimension)?,
        Op::MaxPool(window) | Op::AveragePool { window, .. } => pooled(input(), *window)?,
        Op::AdaptiveAveragePool { size } | Op::AdaptiveMaxPool { size } => {
            let [batch, channels, _, _] = map(input())?;
            vec![batch, channels, Size::Fixed(size[0]), Size::Fixed(size[1])]
        }
        Op::Mean { dimensions, keeps }
        | Op::Max { dimensions, keeps, .. }
        | Op::Norm { dimensions, keeps }
        | Op::LogSumExp { dimensions, keeps } => without_dimensions(input(), dimensions, *keeps)?,
        Op::Reshape { shape } => reshaped(input(), shape)?,
        Op::Expand { shape } => expanded(input(), shape)?,
        Op::Permute { order } => order.iter().map(|&dimension| input()[dimension]).collect(),
        Op::Slice { dimension, start, end, step } => with(input(), *dimension, (end - start).div_ceil(*step)),
        Op::Select { dimension, .. } => without(input(), *dimension),
        Op::Split { dimension, sizes } => {
            return Ok(sizes.iter().map(|&size| with(input(), *dimension, size)).collect());
        }
        Op::Unbind { dimension } => {
            let count = input()[*dimension].per_image() as usize;
            return Ok(vec![without(input(), *dimension); count]);
        }
        Op::Pad { amounts, .. } => padded(input(), amounts)?,
        Op::Roll { dimensions, .. } => {
            if dimensions.iter().any(|&dimension| input()[dimension].fixed().is_none()) {
                return Err("shifts images within the batch".to_owned());
            }
            input().to_vec()
        }
        Op::CumulativeSum { dimension } => {
            if input()[*dimension].fixed().is_none() {
                return Err("sums over the batch, which is not supported".to_owned());
            }
            input().to_vec()
        }
        Op::Rows => {
            let Some((Size::Fixed(_), row)) = input().split_first() else {
                return Err(format!("takes rows of {}", shown_shape(input())));
            };
            [inputs[1].shape.as_slice(), row].concat()
        }
        Op::Empty { shape } => shape.clone(),
    };
    Ok(vec![one])
}

/// The element type of the results.
pub(super) fn dtype(op: &Op, inputs: &[&Value]) -> Dtype {
    match op {
        Op::Empty { .. } => Dtype::F32,
        Op::Compare { .. } => Dtype::Bool,
        Op::Where => inputs.get(1).map_or(Dtype::F32, |input| input.dtype),
        _ => inputs.first().map_or(Dtype::F32, |input| input.dtype),
    }
}

/// Refuses to compute with anything but single precision. What only moves elements may move others, too.
fn check_types(op: &Op, inputs: &[&Value]) -> OrFault<()> {
    let allowed = |at: usize, dtype: Dtype| match op {
        _ if dtype == Dtype::F32 => true,
        Op::CountBatch => dtype == Dtype::I64,
        Op::Attention { mask: true, .. } => at == 3 && dtype == Dtype::Bool,
        // Whoever adds the operation to the graph widens those with 32 bits.
        Op::Rows => at == 1 && matches!(dtype, Dtype::I64 | Dtype::I32),
        Op::Where => at == 0 && dtype == Dtype::Bool,
        Op::Dropout { .. } => false,
        op => op.is_view(),
    };
    match inputs.iter().enumerate().find(|(at, input)| !allowed(*at, input.dtype)) {
        None if matches!(op, Op::Rows) && inputs[1].dtype.is_float() => {
            Err("takes rows by numbers that are not integers".to_owned())
        }
        None if matches!(op, Op::Where) && inputs[0].dtype != Dtype::Bool => {
            Err("chooses by a condition that is not boolean".to_owned())
        }
        None => Ok(()),
        Some((_, input)) => {
            // Integers and conditions stay what they are.
            let advice = if input.dtype.is_float() { ": export the network after model.float()" } else { "" };
            Err(format!("{COMPUTES_WITH}{} elements, and only float32 is supported{advice}", input.dtype))
        }
    }
}

/// Checks vectors with an element per channel.
fn vectors(vectors: &[&Value], channels: Option<u64>) -> OrFault<()> {
    let Some(channels) = channels else { return Err("has an input without channels".to_owned()) };
    match vectors.iter().find(|vector| vector.shape != [Size::Fixed(channels)]) {
        None => Ok(()),
        Some(vector) => Err(format!("has {channels} channels and a vector {}", shown_shape(&vector.shape))),
    }
}

fn linear(inputs: &[&Value]) -> OrFault<Shape> {
    let (input, weight) = (&inputs[0].shape, &inputs[1].shape);
    let (Some((last, leading)), [outputs, width]) = (input.split_last(), weight.as_slice()) else {
        return Err(format!("has an input {} and a weight {}", shown_shape(input), shown_shape(weight)));
    };
    let is_fixed = last.fixed().is_some() && outputs.fixed().is_some();
    if last != width || !is_fixed {
        return Err(format!("has an input {} and a weight {}", shown_shape(input), shown_shape(weight)));
    }
    if inputs.get(2).is_some_and(|bias| bias.shape != [*outputs]) {
        return Err(format!("has {outputs} outputs and a bias {}", shown_shape(&inputs[2].shape)));
    }
    Ok([leading, &[*outputs]].concat())
}

fn matmul(one: &[Size], two: &[Size]) -> OrFault<Shape> {
    let fault = || format!("multiplies {} and {}", shown_shape(one), shown_shape(two));
    let ([leading_one @ .., rows, inner], [leading_two @ .., other, columns]) = (one, two) else {
        return Err(fault());
    };
    if inner != other || inner.fixed().is_none() {
        return Err(fault());
    }
    let leading = broadcast(leading_one, leading_two).map_err(|_| fault())?;
    Ok([leading.as_slice(), &[*rows, *columns]].concat())
}

fn attention(inputs: &[&Value], has_mask: bool) -> OrFault<Shape> {
    let shapes: Vec<&[Size]> = inputs.iter().map(|input| input.shape.as_slice()).collect();
    let fault = || {
        let shown: Vec<_> = shapes.iter().map(|shape| shown_shape(shape)).collect();
        format!("has queries, keys and values {}", shown.join(", "))
    };
    let ([leading @ .., queries, width], [leading_keys @ .., keys, width_keys], [leading_values @ .., values, depth]) =
        (shapes[0], shapes[1], shapes[2])
    else {
        return Err(fault());
    };
    let agree = leading == leading_keys && leading == leading_values && width == width_keys && keys == values;
    if !agree || [queries, keys, width].iter().any(|size| size.fixed().is_none()) {
        return Err(fault());
    }
    if has_mask {
        let scores = [leading, &[*queries, *keys]].concat();
        if broadcast(&scores, shapes[3])? != scores {
            return Err(format!("has scores {} and a mask {}", shown_shape(&scores), shown_shape(shapes[3])));
        }
    }
    Ok([leading, &[*queries, *depth]].concat())
}

pub(super) fn broadcast(one: &[Size], two: &[Size]) -> OrFault<Shape> {
    let rank = one.len().max(two.len());
    let size = |shape: &[Size], at: usize| match (at + shape.len()).checked_sub(rank) {
        Some(at) => shape[at],
        None => Size::Fixed(1),
    };
    let both = |at: usize| match (size(one, at), size(two, at)) {
        (same, other) if same == other => Some(same),
        (Size::Fixed(1), other) => Some(other),
        (other, Size::Fixed(1)) => Some(other),
        _ => None,
    };
    let shape: Option<Shape> = (0..rank).map(both).collect();
    shape.ok_or_else(|| format!("combines {} with {}, which do not fit", shown_shape(one), shown_shape(two)))
}

fn concat(inputs: &[&Value], dimension: usize) -> OrFault<Shape> {
    let mut shape = inputs[0].shape.clone();
    for input in &inputs[1..] {
        let mut expected = shape.clone();
        let added = input.shape.get(dimension).copied();
        if let Some(added) = added {
            expected[dimension] = added;
        }
        let sum = added.and_then(|added| shape[dimension].plus(added)).filter(|_| expected == input.shape);
        shape[dimension] =
            sum.ok_or_else(|| format!("joins {} and {}", shown_shape(&shape), shown_shape(&input.shape)))?;
    }
    Ok(shape)
}

/// Refuses to combine what lies along dimensions, if the batch is one of them.
pub(super) fn not_over_the_batch(shape: &[Size], dimensions: &[usize]) -> OrFault<()> {
    match dimensions.iter().any(|&dimension| shape[dimension].fixed().is_none()) {
        true => Err(MIXES_IMAGES.to_owned()),
        false => Ok(()),
    }
}

pub(super) fn without_dimensions(shape: &[Size], dimensions: &[usize], keeps: bool) -> OrFault<Shape> {
    not_over_the_batch(shape, dimensions)?;
    let kept = |(at, &size): (usize, &Size)| match dimensions.contains(&at) {
        false => Some(size),
        true => keeps.then_some(Size::Fixed(1)),
    };
    Ok(shape.iter().enumerate().filter_map(kept).collect())
}

fn reshaped(input: &[Size], shape: &[Size]) -> OrFault<Shape> {
    match (product(input), product(shape)) {
        (Some(before), Some(after)) if before == after => Ok(shape.to_vec()),
        _ => Err(format!("cannot give {} the elements of {}", shown_shape(shape), shown_shape(input))),
    }
}

fn expanded(input: &[Size], shape: &[Size]) -> OrFault<Shape> {
    match broadcast(input, shape) {
        Ok(result) if result == shape => Ok(result),
        _ => Err(format!("cannot expand {} to {}", shown_shape(input), shown_shape(shape))),
    }
}

fn padded(input: &[Size], amounts: &[[u64; 2]]) -> OrFault<Shape> {
    let mut shape = input.to_vec();
    let first = shape.len() - amounts.len();
    for (size, [before, after]) in shape[first..].iter_mut().zip(amounts) {
        let added = before.checked_add(*after).ok_or("has a padding that is too large")?;
        if added > 0 {
            let sum = size.plus(Size::Fixed(added));
            *size = sum.ok_or_else(|| format!("pads {size} with {added}"))?;
        }
    }
    Ok(shape)
}

/// The shape with another size of one dimension.
fn with(shape: &[Size], dimension: usize, size: u64) -> Shape {
    let mut shape = shape.to_vec();
    shape[dimension] = Size::Fixed(size);
    shape
}

fn without(shape: &[Size], dimension: usize) -> Shape {
    let mut shape = shape.to_vec();
    shape.remove(dimension);
    shape
}

/// Multiply-accumulate operations of a node, per image.
pub(super) fn macs_of(graph: &Graph, node: &Node) -> u64 {
    let inputs: Vec<&Value> = node.inputs.iter().map(|&input| &graph.values[input]).collect();
    let output = node.outputs.first().map_or(&[][..], |&output| graph.values[output].shape.as_slice());
    macs(&node.op, &inputs, output)
}

/// Multiply-accumulate operations per image of convolutions and of products of matrices, as for the networks of
/// [`crate::architecture`].
fn macs(op: &Op, inputs: &[&Value], output: &[Size]) -> u64 {
    let elements = |shape: &[Size]| shape.iter().fold(1_u64, |all, size| all.saturating_mul(size.per_image()));
    let last = |shape: &[Size]| shape.last().map_or(1, |size| size.per_image());
    match op {
        Op::Convolution { .. } => elements(output).saturating_mul(elements(&inputs[1].shape[1..])),
        Op::TransposedConvolution { .. } => elements(&inputs[0].shape).saturating_mul(elements(&inputs[1].shape[1..])),
        Op::Linear { .. } | Op::Matmul => elements(output).saturating_mul(last(&inputs[0].shape)),
        Op::Attention { .. } => {
            let keys = inputs[1].shape[inputs[1].shape.len() - 2].per_image();
            let widths = last(&inputs[0].shape).saturating_add(last(output));
            let rows = elements(&output[..output.len() - 1]);
            rows.saturating_mul(keys).saturating_mul(widths)
        }
        _ => 0,
    }
}
